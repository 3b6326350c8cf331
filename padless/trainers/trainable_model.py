"""The interface between a model and the code that trains it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from padless.callbacks import Results
from padless.data.batch import Batch
from padless.metrics.metric import Metric
from padless.trainers.accumulation_group import AccumulationGroup
from padless.trainers.compile_utils import CompiledObjective
from padless.trainers.mixed_precision import Precision
from padless.types import BatchTree


class TrainableModel(Protocol):
    """What the functions of this package use of a model; `Trainer` implements it.

    The names with an underscore are private to padless, so that they cannot be names of a user's subclass.
    """

    name: str
    optimizer: Any  # an optimizer of padless or torch; None before `compile`
    stop_training: bool
    _objective: CompiledObjective | None
    _precision: Precision
    _device: torch.device
    _accumulation_group: AccumulationGroup | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the outputs for a batch of inputs."""

    def modules(self) -> Iterator[nn.Module]:
        """Yield the model and the modules in it."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the trainable weights."""
        ...

    def state_dict(self) -> Results:
        """Return the weights by name."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Set the weights."""
        ...

    @property
    def call_losses(self) -> Sequence[Tensor]:
        """Return the losses that layers added during the last call."""
        ...

    @property
    def weight_losses(self) -> Sequence[Tensor]:
        """Return the regularization losses of the weights."""
        ...

    @property
    def real_steps(self) -> int | None:
        """Return the number of real steps of the last call, None if it is not known."""
        ...

    @property
    def metrics(self) -> list[Metric]:
        """Return the loss, the compiled metrics and the metrics of layers."""
        ...

    @property
    def _has_call(self) -> bool:
        """Return whether the model can be called: it has a graph or a `call`."""
        ...

    def apply_constraints(self) -> None:
        """Apply the constraints of the weights, after a step of the optimizer."""

    def arrange_inputs(self, inputs: BatchTree) -> list[Any]:
        """Return the inputs of a batch in the order of the model's inputs."""
        ...

    def predict_step(self, data: BatchTree) -> BatchTree:
        """Return the outputs of one batch."""

    def reset_metrics(self) -> None:
        """Reset the loss and the metrics."""

    def get_metrics_result(self) -> Results:
        """Return the loss and the metrics by name."""
        ...

    def _begin_epoch(self, training: bool) -> AbstractContextManager[None]:
        """Return the context in which the batches of an epoch run."""
        ...

    def _run_train_step(self, data: BatchTree) -> Results | None:
        """Train on one batch; return the logs, None if nothing has computed them."""

    def _run_test_step(self, data: BatchTree) -> Results | None:
        """Evaluate one batch; return the logs, None if nothing has computed them."""

    def _epoch_results(self, logs: Results | None) -> Results:
        """Return the results of an epoch whose last step returned these logs."""
        ...

    def _dry_run(self, batch: Batch) -> BatchTree:
        """Return the outputs for a batch from a call that changes nothing."""
