"""The steps of training, evaluation and prediction on one batch, which a model may override, as in Keras.

- `fit` calls `train_step(data)`: forward pass, `compute_loss`, backward pass, optimizer, `compute_metrics`
- `evaluate` calls `test_step(data)`: forward pass, `compute_loss`, `compute_metrics`
- `predict` calls `predict_step(data)`: forward pass

`data` is x, `(x, y)` or `(x, y, sample_weight)`. Outputs with steps are `Packed`; their mask is `y_pred.mask`. The loss
and the metrics of an epoch are exact if the loss comes from the model's `compute_loss`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from padless.callbacks import Results
from padless.data.batch_structure import flatten, num_examples, unpack_x_y_sample_weight
from padless.errors import ArgumentError, NotBuilt
from padless.graph.model_runs import mode_scope
from padless.graph.train_mode import training_mode
from padless.layers.base.layer import Layer
from padless.layers.base.weights import WeightContainer, non_padless_children
from padless.metrics.metric import Metric
from padless.ragged.packed import computing_gap_values
from padless.trainers.accumulation_group import AccumulationGroup
from padless.trainers.compile_utils import CompileArguments, CompiledObjective, LossParts
from padless.trainers.epoch_loop import device_of
from padless.trainers.mixed_precision import Precision
from padless.types import BatchTree


class TrainStepMixin(Layer):
    """The steps of a compiled model on one batch."""

    optimizer: Any = None  # an optimizer of padless or torch; None before `compile`
    compiled: bool = False
    stop_training: bool = False
    _compiled: CompileArguments = CompileArguments()
    _objective: CompiledObjective | None = None
    _precision: Precision = Precision()
    _device: torch.device = torch.device("cpu")  # of the weights when the epoch began
    _accumulation_group: AccumulationGroup | None = None  # the batches that share a step with the present one

    # Methods that a subclass may override

    def train_step(self, data: BatchTree) -> Results:
        """Train on one batch.

        Args:
            data: x, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The logs that callbacks receive: the loss and the metrics so far, by name.
        """
        logs = self._train_on_data(data)
        return self.get_metrics_result() if logs is None else logs

    def test_step(self, data: BatchTree) -> Results:
        """Evaluate one batch; `data` and the result are as in `train_step`."""
        logs = self._test_on_data(data)
        return self.get_metrics_result() if logs is None else logs

    def predict_step(self, data: BatchTree) -> BatchTree:
        """Return the outputs for one batch; `data` is as in `train_step`."""
        return self(unpack_x_y_sample_weight(data)[0])

    def compute_loss(
        self,
        x: BatchTree = None,
        y: BatchTree = None,
        y_pred: BatchTree = None,
        sample_weight: BatchTree = None,
        training: bool = True,
    ) -> Tensor:
        """Return the loss of one batch: the losses of the outputs, and those that layers added.

        An override returns a scalar, which is weighted by examples in the loss of an epoch.

        Args:
            x: the inputs.
            y: the targets.
            y_pred: the outputs of the model for x.
            sample_weight: the weights of sequences or steps.
            training: whether the loss is for a training step.
        """
        objective = self._objective_of(y_pred)
        parts = objective.compute_parts(y, y_pred, sample_weight, self.call_losses, self.weight_losses)
        objective.loss_tracker.pending = (parts, num_examples(y_pred if x is None else x))
        return parts.total

    def compute_metrics(self, x: BatchTree, y: BatchTree, y_pred: BatchTree, sample_weight: BatchTree = None) -> Results:
        """Add a batch to the compiled metrics; return the loss and the metrics so far."""
        self._objective_of(y_pred).update_metrics(y, y_pred, sample_weight)
        return self.get_metrics_result()

    # Metrics

    @property
    def metrics(self) -> list[Metric]:
        """Return the loss, the compiled metrics, and the metrics that are attributes of the model or its layers."""
        objective = self._objective
        compiled = [] if objective is None else [objective.loss_tracker, objective.compiled_metrics]
        return [*compiled, *_metrics_in(self)]

    def reset_metrics(self) -> None:
        """Reset the loss and the metrics; `fit` and `evaluate` do so before each epoch."""
        if self._objective is not None:
            self._objective.reset()
        for metric in self.metrics:
            metric.reset_state()

    def get_metrics_result(self) -> Results:
        """Return the results of `metrics` by name; of a result that is a dictionary, return its entries."""
        results: Results = {}
        for metric in self.metrics:
            result = metric.result()
            results |= result if isinstance(result, dict) else {metric.name: result}
        return results

    @property
    def real_steps(self) -> int | None:
        """Return the number of real steps of the last call, None if it is not known."""
        return None

    # Called by the epoch loop

    @contextmanager
    def _begin_epoch(self, training: bool) -> Iterator[None]:
        """Run the batches of an epoch in this context: set the mode and the device, and cache what does not change."""
        self._device = device_of(self)
        user_step = training and self._overridden("train_step")
        autocast = self._precision.context(self._device) if user_step else nullcontext()
        with self._mode_of_epoch(training), self._cached_sublayers(), self._compiled_layers(), autocast:
            yield

    @contextmanager
    def _mode_of_epoch(self, training: bool) -> Iterator[None]:
        """Set the mode of the model in this context.

        No other thread uses a model that trains, so the attribute `training` is set. Several threads may evaluate and
        predict, so the mode of layers belongs to the context, and only that of torch modules is set.
        """
        layers = [] if training else [module for module in self.modules() if isinstance(module, WeightContainer)]
        sets_attributes = training or any(type(layer).train is not nn.Module.train for layer in layers)
        modules = [self] if sets_attributes else [child for layer in layers for child in non_padless_children(layer)]
        steps_run_modules = not training and self._overridden("test_step", "predict_step")  # without a layer around them
        with (
            mode_scope(self, None if sets_attributes else training),
            training_mode(training, *modules, is_call=steps_run_modules) if modules else nullcontext(),
        ):
            yield

    def _compiled_layers(self) -> AbstractContextManager[object]:
        """Return the context in which layers run compiled by torch.compile."""
        return nullcontext()

    def _run_train_step(self, data: BatchTree) -> Results | None:
        """Run `train_step`; return its logs, None if the default did not compute them."""
        logs = self.train_step(data) if self._overridden("train_step") else self._train_on_data(data)
        return None if logs is None and not self._overridden("train_step") else flatten_logs(logs)

    def _run_test_step(self, data: BatchTree) -> Results | None:
        """Run `test_step`; return its logs, None if the default did not compute them."""
        logs = self.test_step(data) if self._overridden("test_step") else self._test_on_data(data)
        return None if logs is None and not self._overridden("test_step") else flatten_logs(logs)

    def _epoch_results(self, logs: Results | None) -> Results:
        """Return the results of an epoch: all metrics, or as in Keras the last logs of a user's step."""
        results = self.get_metrics_result()
        return results if logs is None or set(logs) == set(results) else logs

    # The default steps

    def _train_on_data(self, data: BatchTree) -> Results | None:
        """Run the default `train_step`; return the logs of a user's `compute_metrics`, else None."""
        x, y, sample_weight = unpack_x_y_sample_weight(data)
        group = self._accumulation_group
        if group is None or group.is_first:
            self.optimizer.zero_grad(set_to_none=True)
        with self._precision.context(self._device):
            outputs = self._forward(x)
        loss = self._checked_loss(x, y, outputs, sample_weight, training=True)
        if not loss.requires_grad and any(p.requires_grad for p in self.parameters()):
            raise ArgumentError(
                f"The loss of model {self.name!r} has no gradient, so nothing would be trained. Compute it with functions "
                f"of torch, without NumPy, detach or no_grad."
            )
        if group is not None:
            gradient_is_complete = group.accumulate(loss, self._loss_parts(outputs), num_examples(x), self._backward)
        else:
            gradient_is_complete = True
            if loss.requires_grad:
                self._backward(loss)
        if gradient_is_complete:
            self._precision.step(self.optimizer)
            self.apply_constraints()
        return self._update_metrics(loss, x, y, outputs, sample_weight)

    def _test_on_data(self, data: BatchTree) -> Results | None:
        """Run the default `test_step`; return the logs of a user's `compute_metrics`, else None."""
        x, y, sample_weight = unpack_x_y_sample_weight(data)
        outputs = self._forward(x)
        loss = self._checked_loss(x, y, outputs, sample_weight, training=False)
        return self._update_metrics(loss, x, y, outputs, sample_weight)

    def _backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        self._precision.backward(loss, self.optimizer, retain_graph)

    def _forward(self, x: BatchTree) -> BatchTree:
        """Return the outputs; gap values are computed only if a user's method may read the padded grid."""
        with computing_gap_values(self._overridden("compute_loss", "compute_metrics")):
            return self(x)

    def _update_metrics(
        self, loss: Tensor, x: BatchTree, y: BatchTree, outputs: BatchTree, sample_weight: BatchTree
    ) -> Results | None:
        """Add the loss and the metrics of a batch; return the logs of a user's `compute_metrics`, else None."""
        objective = self._objective_of(outputs)
        objective.loss_tracker.update_state(loss, num_examples(x))
        if self._overridden("compute_metrics"):
            return self.compute_metrics(x, y, outputs, sample_weight)
        objective.update_metrics(y, outputs, sample_weight)
        return None

    def _checked_loss(
        self, x: BatchTree, y: BatchTree, outputs: BatchTree, sample_weight: BatchTree, training: bool
    ) -> Tensor:
        """Call `compute_loss`; raise `ArgumentError` if the result is not a scalar tensor."""
        mode = {"training": training} if _accepts_training(type(self).compute_loss) else {}
        loss: object = self.compute_loss(x, y, outputs, sample_weight, **mode)
        if not isinstance(loss, Tensor) or loss.ndim:
            result = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ArgumentError(f"compute_loss of model {self.name!r} must return a scalar tensor; got {result}.")
        return loss

    def _loss_parts(self, outputs: BatchTree) -> LossParts | None:
        """Return the parts of the last loss, None if it did not come from the default `compute_loss`."""
        pending = self._objective_of(outputs).loss_tracker.pending
        return None if pending is None else pending[0]

    def _overridden(self, *methods: str) -> bool:
        """Return whether a subclass overrides one of these methods."""
        return any(getattr(type(self), method) is not getattr(TrainStepMixin, method) for method in methods)

    # The compiled losses and metrics

    def _output_names_if_known(self) -> list[str] | None:
        """Return the names of the outputs, None if only a call shows them."""
        raise NotImplementedError

    def _must_be_compiled(self, method: str) -> None:
        if not self.compiled:
            raise NotBuilt(
                f"Model {self.name!r} has no optimizer and no loss yet. Call compile(optimizer=..., loss=...) before "
                f"{method}."
            )

    def _objective_of(self, outputs: BatchTree) -> CompiledObjective:
        """Return the compiled losses and metrics; if the names of the outputs were not known, take them from `outputs`."""
        if self._objective is None:
            self._must_be_compiled("compute_loss")
            names = self._output_names_if_known()
            if names is None and isinstance(outputs, dict):
                names = list(outputs)
            elif names is None:
                names = [f"output_{number + 1}" for number in range(len(flatten(outputs)))]
            self._objective = self._compiled.make_objective(names)
        return self._objective


@cache
def _accepts_training(compute_loss: Callable[..., Tensor]) -> bool:
    """Return whether a `compute_loss` has the argument `training`, which older ones do not have."""
    parameters = inspect.signature(compute_loss).parameters
    return "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def flatten_logs(logs: object) -> Results:
    """Return logs with the entries of nested logs, as of `{m.name: m.result() for m in self.metrics}`.

    Raises:
        ArgumentError: if `logs` is not a mapping.
    """
    if not isinstance(logs, Mapping):
        raise ArgumentError(f"A step must return a dictionary of logs such as {{'loss': 0.5}}; got {logs!r}.")
    flat_logs: Results = {}
    for name, value in logs.items():
        flat_logs |= value if isinstance(value, dict) else {name: value}
    return flat_logs


def _metrics_in(module: nn.Module) -> Iterator[Metric]:
    """Yield the metrics that are attributes of a module and its submodules, also those in lists and dictionaries."""
    yielded: set[int] = set()
    for inner in module.modules():
        for name, value in vars(inner).copy().items():  # another thread may add an attribute
            if name.startswith("_"):
                continue
            for metric in _metrics_of_attribute(value):
                if id(metric) not in yielded:
                    yielded.add(id(metric))
                    yield metric


def _metrics_of_attribute(value: object) -> list[Metric]:
    if isinstance(value, Metric):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [metric for metric in value if isinstance(metric, Metric)] if isinstance(value, list | tuple) else []
