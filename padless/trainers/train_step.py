"""What one step is, as Keras has it: methods that a model may override, each on one batch.

    fit       train_step(data)     the model, compute_loss, backward, the optimizer, compute_metrics
    evaluate  test_step(data)      the model, compute_loss, compute_metrics
    predict   predict_step(data)   the model

`data` is `(x, y)`, `(x, y, sample_weight)`, or x where there is nothing else. Outputs with steps are `Packed`: the mask
is there as `y_pred.mask`. The sums are exact as long as the loss comes from `compute_loss` of the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from padless.data.batch_structure import flatten, num_examples, unpack_x_y_sample_weight
from padless.errors import ArgumentError, NotBuilt
from padless.metrics.metric import Metric
from padless.ragged.packed import computing_gap_values
from padless.trainers.compile_utils import CompiledObjective, LossParts
from padless.trainers.mixed_precision import Precision

Logs = dict[str, Any]


class TrainStepMixin:
    """The steps of a compiled model; all of them may be overridden."""

    name: str
    optimizer: Any = None
    compiled: bool = False
    _compiled: dict[str, Any]
    _objective: CompiledObjective | None = None
    _precision: Precision = Precision()
    _device: torch.device = torch.device("cpu")  # where the weights were when the epoch began
    _group: Any = None  # the batches that share a step with the present one, if there are others

    # ------------------------------------------------------------------------------------------------ to be overridden

    def train_step(self, data: Any) -> Logs:
        """One step of the optimizer on one batch; returns what callbacks shall see of it."""
        logs = self._train_on_data(data)
        return self.get_metrics_result() if logs is None else logs

    def test_step(self, data: Any) -> Logs:
        """One batch evaluated; returns the metrics so far."""
        logs = self._test_on_data(data)
        return self.get_metrics_result() if logs is None else logs

    def predict_step(self, data: Any) -> Any:
        """The outputs for one batch."""
        module: Any = self
        return module(unpack_x_y_sample_weight(data)[0])

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Tensor:
        """The loss of one batch: of each output, and what layers added. One of your own is a scalar.

        A scalar of one's own counts by examples in the loss that is reported.
        """
        module: Any = self
        parts = self._objective_of(y_pred).parts(y, y_pred, sample_weight, module.call_losses, module.weight_losses)
        self._objective_of(y_pred).tracker.pending = (parts, num_examples(y_pred if x is None else x))
        return parts.total

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Logs:
        """Add a batch to the compiled metrics; returns all results so far."""
        self._objective_of(y_pred).measure(y, y_pred, sample_weight)
        return self.get_metrics_result()

    @property
    def metrics(self) -> list[Any]:
        """The loss so far, the compiled metrics, and metrics that are attributes of the model or of its layers."""
        objective = self._objective
        own = [] if objective is None else [objective.tracker, objective.compiled]
        return [*own, *_metrics_in(self)]

    def reset_metrics(self) -> None:
        """Forget all sums; this happens before each epoch."""
        if self._objective is not None:
            self._objective.reset()
        for metric in self.metrics:
            metric.reset_state()

    def get_metrics_result(self) -> Logs:
        """The results of `metrics` by name; a metric whose result is a dictionary gives all of it."""
        found: Logs = {}
        for metric in self.metrics:
            result = metric.result()
            found |= result if isinstance(result, dict) else {metric.name: result}
        return found

    # ------------------------------------------------------------------------------------------------ what fit runs

    def _train_on_data(self, data: Any) -> Logs | None:
        """`train_step` as it is unless overridden; None where nobody has asked for the results yet."""
        x, y, weight = unpack_x_y_sample_weight(data)
        group = self._group
        if group is None or group.is_first:
            self.optimizer.zero_grad(set_to_none=True)
        with self._precision.context(self._device):
            outputs = self._forward(x)
        loss = self._loss(x, y, outputs, weight, True)
        if group is not None:
            complete = group.add(loss, self._parts_of(outputs), num_examples(x), self._backward)
        else:
            complete = True
            if loss.requires_grad:
                self._backward(loss)
        if complete:
            self._precision.step(self.optimizer)
            module: Any = self
            module.apply_constraints()
        return self._update_metrics(loss, x, y, outputs, weight)

    def _test_on_data(self, data: Any) -> Logs | None:
        """`test_step` as it is unless overridden."""
        x, y, weight = unpack_x_y_sample_weight(data)
        outputs = self._forward(x)
        loss = self._loss(x, y, outputs, weight, False)
        return self._update_metrics(loss, x, y, outputs, weight)

    def _backward(self, loss: Tensor, **how: Any) -> None:
        self._precision.backward(loss, self.optimizer, **how)

    def _forward(self, x: Any) -> Any:
        """The outputs for a batch; what masked steps show is carried only where code of one's own may look at it."""
        module: Any = self
        with computing_gap_values(self._overridden("compute_loss", "compute_metrics")):
            return module(x)

    def _update_metrics(self, loss: Tensor, x: Any, y: Any, outputs: Any, weight: Any) -> Logs | None:
        """Add the loss and the metrics of a batch."""
        objective = self._objective_of(outputs)
        objective.tracker.update_state(loss, num_examples(x))
        if self._overridden("compute_metrics"):
            return self.compute_metrics(x, y, outputs, weight)
        objective.measure(y, outputs, weight)
        return None

    def _loss(self, x: Any, y: Any, outputs: Any, weight: Any, training: bool) -> Tensor:
        """The loss of a batch; one of one's own is looked at."""
        told = {"training": training} if _takes_training(type(self).compute_loss) else {}
        loss: Any = self.compute_loss(x, y, outputs, weight, **told)
        if not isinstance(loss, Tensor) or loss.ndim:
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ArgumentError(f"compute_loss of model {self.name!r} must return a scalar tensor; got {what}.")
        return loss

    def _parts_of(self, outputs: Any) -> LossParts | None:
        """What the loss just computed is made of, if it came from `compute_loss` of the model."""
        pending = self._objective_of(outputs).tracker.pending
        return None if pending is None else pending[0]

    def _overridden(self, *methods: str) -> bool:
        """Whether some of these methods are overridden."""
        return any(getattr(type(self), method) is not getattr(TrainStepMixin, method) for method in methods)

    def _epoch_results(self, logs: Logs | None) -> Logs:
        """What is reported of an epoch: all metrics, or as in Keras what steps of one's own returned last."""
        results = self.get_metrics_result()
        return results if logs is None or set(logs) == set(results) else logs

    # ------------------------------------------------------------------------------------------------ what is trained for

    def _names_of_outputs(self) -> list[str] | None:
        """The names of the outputs, None while only a call can tell."""
        raise NotImplementedError

    def _must_be_compiled(self, verb: str) -> None:
        if not self.compiled:
            raise NotBuilt(
                f"Model {self.name!r} has no optimizer and no loss yet. Call compile(optimizer=..., loss=...) before {verb}."
            )

    def _objective_of(self, outputs: Any) -> CompiledObjective:
        """The objective, named by these outputs if it is not known yet."""
        if self._objective is None:
            self._must_be_compiled("compute_loss")
            names = self._names_of_outputs()
            if names is None:
                names = (
                    list(outputs)
                    if isinstance(outputs, dict)
                    else [f"output_{number + 1}" for number in range(len(flatten(outputs)))]
                )
            self._objective = CompiledObjective(names, **self._compiled)
        return self._objective


@cache
def _takes_training(compute_loss: Any) -> bool:
    """Whether a `compute_loss` has an argument that older ones lack."""
    names = inspect.signature(compute_loss).parameters
    return "training" in names or any(p.kind is p.VAR_KEYWORD for p in names.values())


def flatten_logs(logs: Any) -> Logs:
    """Logs with nested ones (as of `{m.name: m.result() for m in self.metrics}`) among them."""
    if not isinstance(logs, Mapping):
        raise ArgumentError(f"A step must return a dictionary of logs such as {{'loss': 0.5}}; got {logs!r}.")
    found: Logs = {}
    for name, value in logs.items():
        found |= value if isinstance(value, dict) else {name: value}
    return found


def _metrics_in(module: Any) -> Iterator[Metric]:
    """The metrics that a module and those inside it hold as attributes, also in lists and dictionaries."""
    seen: set[int] = set()
    for inner in module.modules():
        held = [value for name, value in vars(inner).items() if not name.startswith("_")]
        for value in held if isinstance(inner, nn.Module) else ():
            for metric in _in(value):
                if id(metric) not in seen:
                    seen.add(id(metric))
                    yield metric


def _in(value: Any) -> Sequence[Metric]:
    if isinstance(value, Metric):
        return [value]
    if isinstance(value, list | tuple | dict):
        return [metric for metric in (value.values() if isinstance(value, dict) else value) if isinstance(metric, Metric)]
    return []
