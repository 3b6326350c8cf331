"""What a metric is: a state that real steps are added to, and a result over all of them.

A mean keeps a sum and a weight, in double precision on the device of the outputs, so that the result over any split
of the data is the result over the whole. Nothing is fetched from the device before `result` is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.losses.base import check_class_ids
from padless.losses.loss import Loss, PerStepValues, WeightedSum
from padless.losses.wrappers import LossFunctionWrapper
from padless.metrics.variable import Variable
from padless.ragged.alignment import align_targets, sample_weights_for, to_tensor
from padless.ragged.device import to_device
from padless.ragged.packed import Packed
from padless.registry import register, snake_case
from padless.saving import serialization as saving

FUNCTIONS = ("metric_function", "loss_function", "loss", "metric")


class Metric:
    """The base of metrics, in Keras's style: `update_state`, `result`, `reset_state`, `add_variable`.

    `update_state` gets targets and outputs as they are: where steps are masked, `y_pred` is a `Packed`, with the real
    rows as `y_pred.values` and the grid of real steps as `y_pred.mask`. What it adds up it keeps in variables; these are
    in double precision unless they have a `dtype`, and `reset_state` makes them 0.

    >>> class Steps(Metric):
    ...     def __init__(self, name="steps"):
    ...         super().__init__(name=name)
    ...         self.seen = self.add_variable((), name="seen")
    ...     def update_state(self, y_true, y_pred, sample_weight=None):
    ...         self.seen.assign_add(y_pred.mask.sum())
    ...     def result(self):
    ...         return self.seen
    >>> from padless import pack
    >>> float(Steps()(None, pack(torch.zeros(1, 3), mask=[[1, 1, 0]])))
    2.0
    """

    known_violations: ClassVar[Mapping[str, str]] = {}  # properties of padless.testing that do not hold, and why
    higher_is_better: bool | None = None  # for callbacks with mode="auto"; None: the name decides
    _direction: str | None = None  # Keras's name for it: "up" or "down"

    def __init__(self, dtype: str | None = None, name: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)
        self.dtype = None if dtype is None else str(dtype).removeprefix("torch.")
        if self.dtype is not None and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ArgumentError(f"`dtype` must be the name of a torch dtype, such as 'float32'; got {dtype!r}.")
        self._variables: list[Variable] = []

    def add_variable(
        self,
        shape: Any = (),
        initializer: Any = "zeros",
        dtype: str | None = None,
        aggregation: str = "sum",
        name: str | None = None,
    ) -> Variable:
        """A variable of this metric, with `assign`, `assign_add` and all that a tensor has; `aggregation` must be "sum"."""
        if not hasattr(self, "_variables"):
            raise ArgumentError(f"{type(self).__name__} must call `super().__init__()` before `add_variable`.")
        if aggregation != "sum":
            raise ArgumentError(f"The variables of a metric are sums over batches; got aggregation={aggregation!r}.")
        make = saving.get(initializer, "initializer") or torch.zeros
        made = make(tuple(shape), dtype=getattr(torch, str(dtype or "float64").removeprefix("torch.")))
        self._variables.append(variable := Variable(torch.as_tensor(made), name))
        return variable

    def add_weight(
        self, shape: Any = (), initializer: Any = "zeros", dtype: str | None = None, name: str | None = None
    ) -> Variable:
        """The same, by Keras's older name."""
        return self.add_variable(shape, initializer, dtype, name=name)

    @property
    def variables(self) -> list[Variable]:
        """Its variables, and those of metrics that are its attributes."""
        inner = [metric for metric in vars(self).values() if isinstance(metric, Metric)]
        return [*self._variables, *(variable for metric in inner for variable in metric.variables)]

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch: `(y_true, y_pred, sample_weight=None)`, or `(values, sample_weight=None)` for a mean."""
        raise NotImplementedError

    def result(self) -> Any:
        """The metric over all that was added."""
        raise NotImplementedError

    def reset_state(self) -> None:
        """Forget everything."""
        for variable in self.variables:
            variable.assign(torch.zeros_like(variable.data))

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

    def cast(self, result: Tensor) -> Tensor:
        """A result in the dtype of the metric, if it has one."""
        return result if self.dtype is None else result.to(getattr(torch, self.dtype))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


MetricClass = TypeVar("MetricClass", bound=type[Metric])


def register_metric(*names: str) -> Callable[[MetricClass], MetricClass]:
    """Return a class decorator that registers a metric under its class name, its snake-case name and `names`."""

    def register_class(cls: MetricClass) -> MetricClass:
        return register("metric", snake_case(cls.__name__), *names)(cls)

    return register_class


# ------------------------------------------------------------------------------------------------ means and sums


class _Reduction(Metric):
    """What a mean and a sum share: values with weights, and their sum."""

    def __init__(self, name: str | None, dtype: str | None) -> None:
        super().__init__(dtype, name)
        self.total = self.add_variable(name="total")

    def measured(self, values: Any, sample_weight: Any) -> PerStepValues:
        """Values, plain or `Packed`, with weights for their sequences or steps."""
        found = to_tensor(values, "values")
        rows = found.values if isinstance(found, Packed) else found.reshape(1) if found.ndim == 0 else found
        index = found.index if isinstance(found, Packed) else None
        return PerStepValues(rows, None if sample_weight is None else sample_weights_for(sample_weight, index, rows))


@register_metric()
class Sum(_Reduction):
    """The sum of all values at real steps, weighted on request.

    >>> total = Sum()
    >>> total.update_state([1., 3.]); total([5.]).item()
    9.0
    """

    def __init__(self, name: str | None = "sum", dtype: str | None = None) -> None:
        super().__init__(name, dtype)

    @torch.no_grad()
    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Add values, plain or `Packed`, with weights for their sequences or steps."""
        weighted = self.measured(values, sample_weight).weighted_values
        self.total.assign_add(weighted.sum(dtype=sum_dtype(weighted)))

    def result(self) -> Tensor:
        """The sum so far."""
        return self.cast(self.total + 0)


@register_metric()
class Mean(_Reduction):
    """The mean of all values at real steps, weighted on request; 0 before there are any.

    >>> mean = Mean()
    >>> mean.update_state([1., 3.]); mean.update_state([5., 7., 9.])
    >>> mean.result().item()
    5.0
    """

    def __init__(self, name: str | None = "mean", dtype: str | None = None) -> None:
        super().__init__(name, dtype)
        self.count = self.add_variable(name="count")

    @torch.no_grad()
    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Add values, plain or `Packed`, with weights for their sequences or steps."""
        measured = self.measured(values, sample_weight)
        self.add_weighted_sum(measured.reduce("mean_with_sample_weight", sum_dtype(measured.values)))

    def add_weighted_sum(self, term: WeightedSum) -> None:
        """Add a sum and its weight."""
        self.total.assign_add(term.sum)
        self.count.assign_add(term.weight)

    def result(self) -> Tensor:
        """The mean so far."""
        return self.cast(WeightedSum(self.total + 0, self.count.to(self.total.device)).value)


class MetricFunction(LossFunctionWrapper):
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

    def __init__(
        self, fn: Callable[..., Any] | Loss, name: str | None = None, dtype: str | None = None, **kwargs: Any
    ) -> None:
        self.step_function = fn if isinstance(fn, Loss) else MetricFunction(fn, **kwargs)
        super().__init__(name or self.step_function.name, dtype)

    @torch.no_grad()
    def update_state(  # pyright: ignore[reportIncompatibleMethodOverride] - as in Keras
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Add the real steps of a batch; weights count only if they are given."""
        measured = self.step_function.per_step_values(y_true, y_pred, sample_weight)
        self.add_weighted_sum(measured.reduce("mean_with_sample_weight", sum_dtype(measured.values)))

    def get_config(self) -> dict[str, Any]:
        fn = self.step_function.fn if isinstance(self.step_function, MetricFunction) else self.step_function
        kwargs = self.step_function.kwargs if isinstance(self.step_function, MetricFunction) else {}
        return {**super().get_config(), "fn": saving.serialize(fn, FUNCTIONS), **kwargs}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        return cls(**{**config, "fn": saving.deserialize(config["fn"], FUNCTIONS)})


class MeanMetricWithFunction(MeanMetricWrapper):
    """A mean whose function is part of the class; `own` are the function's arguments, which the config has."""

    def __init__(self, fn: Any, name: str | None, dtype: str | None, **own: Any) -> None:
        super().__init__(fn, name, dtype, **({} if isinstance(fn, Loss) else own))
        self.function_arguments = own

    def get_config(self) -> dict[str, Any]:
        return {**Metric.get_config(self), **self.function_arguments}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        return cls(**config)


# ------------------------------------------------------------------------------------------------ for other metrics


def align_rows(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Targets and outputs at real steps, on the outputs' device, with weights in the shape of the outputs."""
    targets, rows, index = align_targets(y_true, y_pred)
    targets, rows = to_device(targets, rows.device), rows.detach()
    return (
        targets,
        rows,
        None if sample_weight is None else sample_weights_for(sample_weight, index, rows.to(sum_dtype(rows))),
    )


def to_indicators(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Targets in the shape of the outputs: as they are, or class ids made one-hot."""
    if y_true.shape == y_pred.shape:
        return y_true
    if y_true.numel() * y_pred.shape[-1] != y_pred.numel():
        raise ShapeError(
            f"Targets of shape {tuple(y_true.shape)} do not fit outputs of shape {tuple(y_pred.shape)}: "
            f"expected class ids or one-hot labels."
        )
    check_class_ids(y_true, y_pred.shape[-1])
    ids = y_true.reshape(y_pred.shape[:-1]).long()
    return torch.nn.functional.one_hot(ids, y_pred.shape[-1]).to(y_pred.dtype)


def divide_or_zero(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype to add up in: double, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
