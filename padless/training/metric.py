"""What a metric is: a state that real steps are added to, and a result over all of them.

A mean keeps a sum and a weight, in double precision on the device of the outputs, so that the result over any split
of the data is the result over the whole. Nothing is fetched from the device before `result` is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from padless.errors import ArgumentError
from padless.ragged.packed import Packed
from padless.registry import register, snake_case
from padless.saving import config as saving
from padless.training.align import pair, read, weights_for
from padless.training.loss import Loss, Measured, Term
from padless.training.losses import LossFunctionWrapper


class Metric:
    """The base of metrics, in Keras's style: `update_state`, `result`, `reset_state`."""

    def __init__(self, name: str | None = None, dtype: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)
        self.dtype = dtype

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch: `(y_true, y_pred, sample_weight=None)`, or `(values, sample_weight=None)` for a mean."""
        raise NotImplementedError

    def result(self) -> Any:
        """The metric over all that was added."""
        raise NotImplementedError

    def reset_state(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch, and give the result so far."""
        self.update_state(*args, **kwargs)
        return self.result()

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"name": self.name, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The metric with this config."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


@register("metric", "mean")
class Mean(Metric):
    """The mean of all values at real steps, weighted on request; 0 before there are any.

    >>> mean = Mean()
    >>> mean.update_state([1., 3.]); mean.update_state([5., 7., 9.])
    >>> mean.result().item()
    5.0
    """

    def __init__(self, name: str | None = "mean", dtype: str | None = None) -> None:
        super().__init__(name, dtype)
        self.reset_state()

    def reset_state(self) -> None:
        self.total: Tensor | float = 0.0
        self.weight: Tensor | float = 0.0

    @torch.no_grad()
    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Add values, plain or `Packed`, with weights for their sequences or steps."""
        found = read(values, "values")
        rows = found.values if isinstance(found, Packed) else found.reshape(1) if found.ndim == 0 else found
        index = found.index if isinstance(found, Packed) else None
        weight = None if sample_weight is None else weights_for(sample_weight, index, rows)
        self.add(Measured(rows, weight).term("mean_with_sample_weight", double(rows)))

    def add(self, term: Term) -> None:
        """Add a sum and its weight."""
        self.total = self.total + term.sum.detach()
        self.weight = self.weight + term.weight

    def result(self) -> Tensor:
        """The mean so far."""
        value = Term(torch.as_tensor(self.total), self.weight).value
        return value if self.dtype is None else value.to(getattr(torch, self.dtype))


class Measure(LossFunctionWrapper):
    """A metric's function on real rows, in the dtypes that they come in."""

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return y_true, y_pred


@register("metric")
class MeanMetricWrapper(Mean):
    """The mean over real steps of `fn(y_true, y_pred)`, a function of rows `(N, ...)`, or of a loss.

    >>> error = MeanMetricWrapper(lambda y_true, y_pred: (y_true - y_pred).abs(), name="error")
    >>> error([[1., 5.]], [[2., 2.]]).item()
    2.0
    """

    def __init__(self, fn: Callable[..., Any] | Loss, name: str | None = None, dtype: str | None = None,
                 **kwargs: Any) -> None:
        self.measure = fn if isinstance(fn, Loss) else Measure(fn, **kwargs)
        super().__init__(name or self.measure.name, dtype)

    @torch.no_grad()
    def update_state(  # pyright: ignore[reportIncompatibleMethodOverride] - as in Keras
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Add the real steps of a batch; weights count only if they are given."""
        measured = self.measure.measure(y_true, y_pred, sample_weight)
        self.add(measured.term("mean_with_sample_weight", double(measured.values)))

    def get_config(self) -> dict[str, Any]:
        fn = self.measure.fn if isinstance(self.measure, Measure) else self.measure
        kwargs = self.measure.kwargs if isinstance(self.measure, Measure) else {}
        return {**super().get_config(), "fn": saving.serialize(fn, FUNCTIONS), **kwargs}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        return cls(**{**config, "fn": saving.deserialize(config["fn"], FUNCTIONS)})


FUNCTIONS = ("metric_function", "loss_function", "loss", "metric")


class TorchMetric(Metric):
    """A metric of torchmetrics, fed with real rows only, as (outputs, targets).

    Rows of one output become flat, `(N,)`. Classification metrics get integer targets. A result over nothing is 0.
    """

    def __init__(self, metric: Any, name: str | None = None) -> None:
        super().__init__(name or snake_case(type(metric).__name__))
        self.metric = metric
        self.classes = any(cls.__module__.startswith("torchmetrics.classification") for cls in type(metric).__mro__)

    @torch.no_grad()
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the real steps of a batch."""
        if sample_weight is not None:
            raise ArgumentError(f"{type(self.metric).__name__} of torchmetrics takes no sample weights. Give it under "
                                f"`metrics`, not under `weighted_metrics`.")
        targets, rows, _ = pair(y_true, y_pred)
        if not len(rows):
            return
        if targets.ndim == rows.ndim and targets.shape[-1] == 1:
            targets = targets.squeeze(-1)
        whole = targets.ndim == rows.ndim
        rows = rows.detach().reshape(-1, rows.shape[-1])
        targets = targets.to(rows.device).reshape(rows.shape if whole else -1)
        if rows.shape[-1] == 1:
            rows, targets = rows.squeeze(-1), targets.reshape(-1)
        self.metric.to(rows.device).update(rows, targets.to(torch.int64 if self.classes else rows.dtype))

    def result(self) -> Any:
        """What torchmetrics computes from all that was added."""
        return self.metric.compute() if self.metric.update_called else torch.tensor(0.0)

    def reset_state(self) -> None:
        self.metric.reset()

    def get_config(self) -> dict[str, Any]:
        raise ArgumentError(f"{type(self.metric).__name__} of torchmetrics has no config, so it cannot be saved. "
                            f"Compile again after loading.")


def double(tensor: Tensor) -> torch.dtype:
    """The dtype to add up in: double, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
