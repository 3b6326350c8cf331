"""The base class of metrics, means and sums of values at real steps, and what other metrics share.

A mean keeps a sum and a weight, in double precision on the device of the outputs. So its result does not depend on how the
data are split into batches, and no update waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.kernels.fixed_order_sum import sum_in_fixed_order
from padless.losses.base import check_class_ids
from padless.losses.loss import Loss, PerStepValues, WeightedSum
from padless.losses.wrappers import LossFunctionWrapper
from padless.metrics.variable import Variable
from padless.ragged.alignment import align_targets, is_unweighted, sample_weights_for, to_tensor
from padless.ragged.device import to_device
from padless.ragged.packed import Packed
from padless.registry import base_of, register, snake_case
from padless.saving import serialization as saving
from padless.types import ArrayLike, Config, ConfigLike

FUNCTION_KINDS = ("metric_function", "loss_function", "loss", "metric")  # of the registry, in the order of a look-up


@base_of("metric", required=False)
class Metric:
    """The base class of metrics, as `keras.metrics.Metric`.

    A subclass creates its state with `add_variable` and defines `update_state` and `result`. If steps are masked,
    `y_pred` of `update_state` is `Packed`, with the real steps in `y_pred.values` and the mask in `y_pred.mask`.

    Args:
        dtype: The dtype of the result, such as "float32". Default: that of the state.
        name: The name. Default: the name of the class in snake case.

    Raises:
        ArgumentError: `dtype` is unknown.

    Example:
        >>> class Steps(Metric):
        ...     def __init__(self, name="steps"):
        ...         super().__init__(name=name)
        ...         self.num_steps = self.add_variable((), name="num_steps")
        ...     def update_state(self, y_true, y_pred, sample_weight=None):
        ...         self.num_steps.assign_add(y_pred.mask.sum())
        ...     def result(self):
        ...         return self.num_steps
        >>> from padless import pack
        >>> float(Steps()(None, pack(torch.zeros(1, 3), mask=[[1, 1, 0]])))
        2.0
    """

    known_violations: ClassVar[Mapping[str, str]] = {}  # properties of padless.testing that do not hold, and why
    higher_is_better: bool | None = None  # for callbacks with mode="auto"; None: the name decides
    _direction: str | None = None  # Keras's name for it: "up" or "down"
    _variables: list[Variable] | None = None  # None until __init__ has run

    def __init__(self, dtype: str | None = None, name: str | None = None) -> None:
        self.name = name or snake_case(type(self).__name__)
        self.dtype = None if dtype is None else str(dtype).removeprefix("torch.")
        if self.dtype is not None and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ArgumentError(f"`dtype` must be the name of a torch dtype, such as 'float32'; got {dtype!r}.")
        self._variables = []

    def add_variable(
        self,
        shape: Sequence[int] = (),
        initializer: ConfigLike | Callable[..., Tensor] = "zeros",
        dtype: str | None = None,
        aggregation: str = "sum",
        name: str | None = None,
    ) -> Variable:
        """Add a variable to the state, and return it.

        Args:
            shape: The shape.
            initializer: The first value: an initializer, its name, or a function of shape and dtype.
            dtype: The dtype. Default: float64.
            aggregation: Only "sum": variables of several processes are added.
            name: The name.

        Raises:
            ArgumentError: `aggregation` is not "sum", or `super().__init__()` was not called before.
        """
        if self._variables is None:
            raise ArgumentError(f"{type(self).__name__} must call `super().__init__()` before `add_variable`.")
        if aggregation != "sum":
            raise ArgumentError(f"The variables of a metric are sums over batches; got aggregation={aggregation!r}.")
        initialize = saving.get(initializer, "initializer") or torch.zeros
        value = initialize(tuple(shape), dtype=getattr(torch, str(dtype or "float64").removeprefix("torch.")))
        variable = Variable(torch.as_tensor(value), name)
        self._variables.append(variable)
        return variable

    def add_weight(
        self,
        shape: Sequence[int] = (),
        initializer: ConfigLike | Callable[..., Tensor] = "zeros",
        dtype: str | None = None,
        name: str | None = None,
    ) -> Variable:
        """Add a variable to the state, and return it: the older name of `add_variable` in Keras."""
        return self.add_variable(shape, initializer, dtype, name=name)

    @property
    def variables(self) -> list[Variable]:
        """The variables of this metric and of the metrics that are its attributes."""
        inner = [metric for metric in vars(self).values() if isinstance(metric, Metric)]
        return [*(self._variables or []), *(variable for metric in inner for variable in metric.variables)]

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch: `(y_true, y_pred, sample_weight=None)`; for a mean of values `(values, sample_weight=None)`."""
        raise NotImplementedError

    def result(self) -> Any:
        """Return the metric over all batches since the last reset: a tensor, or a dictionary of tensors."""
        raise NotImplementedError

    def reset_state(self) -> None:
        """Set all variables to 0."""
        for variable in self.variables:
            variable.assign(torch.zeros_like(variable.data))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch with `update_state`, and return `result`."""
        self.update_state(*args, **kwargs)
        return self.result()

    def get_config(self) -> Config:
        """Return the arguments of the constructor."""
        return {"name": self.name, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Return the metric with this config."""
        return cls(**config)

    def cast(self, result: Tensor) -> Tensor:
        """Return a result in the dtype of the metric."""
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


class _ValueMetric(Metric):
    """A metric of values without targets, with their weighted sum as state."""

    def __init__(self, name: str | None, dtype: str | None) -> None:
        super().__init__(dtype, name)
        self.total = self.add_variable(name="total")

    def per_step_values(self, values: ArrayLike, sample_weight: ArrayLike | None) -> PerStepValues:
        """Return the values at real steps with their weights."""
        tensor = to_tensor(values, "values")
        if isinstance(tensor, Packed):
            rows, index = tensor.values, tensor.index
        else:
            rows, index = (tensor.reshape(1) if tensor.ndim == 0 else tensor), None
        weight = None if sample_weight is None else sample_weights_for(sample_weight, index, rows)
        return PerStepValues(rows, weight)


@register_metric()
class Sum(_ValueMetric):
    """The weighted sum of all values at real steps. The state is this sum.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> total = Sum()
        >>> total.update_state([1., 3.]); total([5.]).item()
        9.0
    """

    def __init__(self, name: str | None = "sum", dtype: str | None = None) -> None:
        super().__init__(name, dtype)

    @torch.no_grad()
    def update_state(self, values: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add values `(B, T, ...)`, plain or `Packed`, with weights of sequences `(B,)` or steps `(B, T)`."""
        weighted_values = self.per_step_values(values, sample_weight).weighted_values
        self.total.assign_add(sum_in_fixed_order(weighted_values, sum_dtype(weighted_values)))

    def result(self) -> Tensor:
        """Return the sum; 0 without values."""
        return self.cast(self.total + 0)


@register_metric()
class Mean(_ValueMetric):
    """The weighted mean of all values at real steps. The state is the sum of the weighted values and that of the weights.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> mean = Mean()
        >>> mean.update_state([1., 3.]); mean.update_state([5., 7., 9.])
        >>> mean.result().item()
        5.0
    """

    def __init__(self, name: str | None = "mean", dtype: str | None = None) -> None:
        super().__init__(name, dtype)
        self.count = self.add_variable(name="count")

    @torch.no_grad()
    def update_state(self, values: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add values `(B, T, ...)`, plain or `Packed`, with weights of sequences `(B,)` or steps `(B, T)`."""
        self._add_values(self.per_step_values(values, sample_weight))

    def _add_values(self, values: PerStepValues) -> None:
        """Add the sum of values, and the sum of their weights, in the widest dtype of the device."""
        self.add_weighted_sum(values.reduce("mean_with_sample_weight", sum_dtype(values.values)))

    def add_weighted_sum(self, weighted_sum: WeightedSum) -> None:
        """Add a sum and its weight to the state."""
        self.total.assign_add(weighted_sum.sum)
        self.count.assign_add(weighted_sum.weight)

    def result(self) -> Tensor:
        """Return the mean; 0 without values."""
        return self.cast(WeightedSum(self.total + 0, self.count.to(self.total.device)).value)


class MetricFunction(LossFunctionWrapper):
    """A function of targets and outputs at real steps, which get no other dtype, but for booleans."""

    def __init__(self, fn: Callable[..., Any], combines_features: bool, **kwargs: Any) -> None:
        super().__init__(fn, **kwargs)
        self.combines_features = combines_features

    def check_targets(self, y_true: Tensor, y_pred: Tensor) -> None:
        """Accept any targets: weights have changed already when a metric gets them."""

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return without_booleans(y_true), without_booleans(y_pred)


@register("metric")
class MeanMetricWrapper(Mean):
    """The weighted mean over real steps of a function of targets and outputs, or of a loss.

    The state is that of `Mean`.

    Args:
        fn: A loss, or a function of rows `(N, ...)` that returns one value for each row.
        name, dtype: See `Metric`. The default name is that of the function.
        **kwargs: Further arguments of each call of the function.

    Example:
        >>> error = MeanMetricWrapper(lambda y_true, y_pred: (y_true - y_pred).abs(), name="error")
        >>> error([[1., 5.]], [[2., 2.]]).item()
        2.0
    """

    combines_features: ClassVar[bool] = False  # as for `Loss`

    def __init__(
        self, fn: Callable[..., Any] | Loss, name: str | None = None, dtype: str | None = None, **kwargs: Any
    ) -> None:
        self.step_function = fn if isinstance(fn, Loss) else MetricFunction(fn, self.combines_features, **kwargs)
        super().__init__(name or self.step_function.name, dtype)

    @torch.no_grad()
    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add the real steps of a batch.

        Args:
            y_true: Targets: `Packed`, a padded grid `(B, T, ...)`, or a list of sequences.
            y_pred: Outputs: `Packed` or plain.
            sample_weight: Weights of sequences `(B,)` or of steps `(B, T)`.
        """
        self._add_values(self.step_function.per_step_values(y_true, y_pred, sample_weight))

    def get_config(self) -> Config:
        if isinstance(self.step_function, MetricFunction):
            function, kwargs = self.step_function.fn, self.step_function.kwargs
        else:
            function, kwargs = self.step_function, {}
        return {**super().get_config(), "fn": saving.serialize(function, FUNCTION_KINDS), **kwargs}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**{**config, "fn": saving.deserialize(config["fn"], FUNCTION_KINDS)})


class MeanMetricWithFunction(MeanMetricWrapper):
    """A mean whose class has the function; the further arguments of the function are part of the config."""

    def __init__(
        self, fn: Callable[..., Tensor] | Loss, name: str | None, dtype: str | None, **function_arguments: Any
    ) -> None:
        super().__init__(fn, name, dtype, **({} if isinstance(fn, Loss) else function_arguments))
        self.function_arguments = function_arguments

    def get_config(self) -> Config:
        return {**Metric.get_config(self), **self.function_arguments}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**config)


# ------------------------------------------------------------------------------------------------ for other metrics


def align_rows(
    y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return targets and outputs at real steps, `(N, ...)`, and weights in the shape of the outputs, on one device."""
    targets, rows, index = align_targets(y_true, y_pred)
    targets = without_booleans(to_device(targets, rows.device))
    rows = without_booleans(rows.detach())
    if rows.is_floating_point():
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if sample_weight is None:
        return targets, rows, None
    weight = sample_weights_for(sample_weight, index, rows.to(sum_dtype(rows)))
    return torch.where(is_unweighted(weight, targets), 0, targets), rows, weight


def without_booleans(tensor: Tensor) -> Tensor:
    """Return a boolean tensor as numbers 0 and 1, since torch has no order of booleans; others unchanged."""
    return tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor


def to_indicators(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return targets in the shape of the outputs: unchanged if they have it, else one-hot labels of class ids.

    Raises:
        ShapeError: The targets have neither this shape nor that of class ids.
        DataError: An id is not a class.
    """
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


def divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient, and 0 where the denominator is 0."""
    is_zero = denominator == 0
    return torch.where(is_zero, 0, numerator / torch.where(is_zero, 1, denominator))


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of sums on the device of a tensor: float64 where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
