"""Regression losses: squared, absolute, relative, logarithmic and robust errors, and the cosine similarity."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from padless.errors import ArgumentError
from padless.losses.base import EPSILON, LossWithFunction, read_same_shape
from padless.losses.loss import Reduction
from padless.registry import register
from padless.types import ArrayLike


@register("loss_function")
def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return the mean over the last axis of `(y_true - y_pred) ** 2`.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> mean_squared_error([[1., 2.]], [[1., 4.]])
        tensor([2.])
    """
    targets, outputs = read_same_shape(y_true, y_pred)
    return (targets - outputs).square().mean(-1)


@register("loss_function")
def mean_absolute_error(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return the mean over the last axis of `|y_true - y_pred|`.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> mean_absolute_error([[1., 2.]], [[1., 4.]])
        tensor([1.])
    """
    targets, outputs = read_same_shape(y_true, y_pred)
    return (targets - outputs).abs().mean(-1)


@register("loss_function")
def mean_absolute_percentage_error(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return the mean over the last axis of `100 * |y_true - y_pred| / max(|y_true|, 1e-7)`.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> mean_absolute_percentage_error([[1., 2.]], [[1., 4.]])
        tensor([50.])
    """
    targets, outputs = read_same_shape(y_true, y_pred)
    return 100.0 * ((targets - outputs) / targets.abs().clamp_min(EPSILON)).abs().mean(-1)


@register("loss_function")
def mean_squared_logarithmic_error(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return the mean over the last axis of `(log(y_true + 1) - log(y_pred + 1)) ** 2`; numbers below 0 become 0.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> mean_squared_logarithmic_error([[0., 0.]], [[0., math.e - 1]])
        tensor([0.5000])
    """
    targets, outputs = read_same_shape(y_true, y_pred)
    return (outputs.clamp_min(EPSILON).log1p() - targets.clamp_min(EPSILON).log1p()).square().mean(-1)


@register("loss_function")
def cosine_similarity(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> Tensor:
    """Return minus the cosine of the angle between targets and outputs: -1 where they have the same direction.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.
        axis: The axis of the vectors.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> cosine_similarity([[0., 1.], [0., 2.]], [[1., 0.], [0., 1.]])
        tensor([-0., -1.])
    """
    targets, outputs = read_same_shape(y_true, y_pred, combines_features=True)
    return -(F.normalize(targets, dim=axis, eps=EPSILON) * F.normalize(outputs, dim=axis, eps=EPSILON)).sum(axis)


@register("loss_function")
def huber(y_true: ArrayLike, y_pred: ArrayLike, delta: float = 1.0) -> Tensor:
    """Return the mean over the last axis of the Huber loss: quadratic for errors up to `delta`, linear for larger ones.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.
        delta: The error at which the loss becomes linear.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> huber([[0., 0.]], [[1., 3.]])
        tensor([1.5000])
    """
    targets, outputs = read_same_shape(y_true, y_pred)
    return F.huber_loss(outputs, targets, reduction="none", delta=delta).mean(-1)


@register("loss_function")
def log_cosh(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return the mean over the last axis of `log(cosh(y_pred - y_true))`.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> log_cosh([[0., 1.]], [[1., 1.]])
        tensor([0.2169])
    """
    targets, outputs = read_same_shape(y_true, y_pred)
    error = outputs - targets
    return (error + F.softplus(-2.0 * error) - math.log(2.0)).mean(-1)


@register("loss", "mean_squared_error", "mse", "MSE")
class MeanSquaredError(LossWithFunction):
    """The mean of `(y_true - y_pred) ** 2` over real steps and features.

    Args:
        reduction, name, dtype: See `Loss`.

    Example:
        >>> from padless import pack; import torch
        >>> MeanSquaredError()([[1, 2, 0]], pack(torch.zeros(1, 3), mask=[[1, 1, 0]]))
        tensor(2.5000)
    """

    function = staticmethod(mean_squared_error)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "mean_squared_error", dtype: str | None = None
    ) -> None:
        super().__init__(name, reduction, dtype)


@register("loss", "mean_absolute_error", "mae", "MAE")
class MeanAbsoluteError(LossWithFunction):
    """The mean of `|y_true - y_pred|` over real steps and features.

    Args:
        reduction, name, dtype: See `Loss`.

    Example:
        >>> MeanAbsoluteError()([[1., 2.]], [[0., 4.]])
        tensor(1.5000)
    """

    function = staticmethod(mean_absolute_error)

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "mean_absolute_error",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)


@register("loss", "mean_absolute_percentage_error", "mape", "MAPE")
class MeanAbsolutePercentageError(LossWithFunction):
    """The mean of `100 * |y_true - y_pred| / max(|y_true|, 1e-7)` over real steps and features.

    Args:
        reduction, name, dtype: See `Loss`.

    Example:
        >>> MeanAbsolutePercentageError()([[1., 2.]], [[0., 4.]])
        tensor(100.)
    """

    function = staticmethod(mean_absolute_percentage_error)

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "mean_absolute_percentage_error",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)


@register("loss", "mean_squared_logarithmic_error", "msle", "MSLE")
class MeanSquaredLogarithmicError(LossWithFunction):
    """The mean of `(log(y_true + 1) - log(y_pred + 1)) ** 2` over real steps and features.

    Args:
        reduction, name, dtype: See `Loss`.

    Example:
        >>> MeanSquaredLogarithmicError()([[0., 0.]], [[0., math.e - 1]])
        tensor(0.5000)
    """

    function = staticmethod(mean_squared_logarithmic_error)

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "mean_squared_logarithmic_error",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)


@register("loss", "cosine_similarity")
class CosineSimilarity(LossWithFunction):
    """The mean over real steps of minus the cosine of the angle between targets and outputs.

    Args:
        axis: The feature axis of the vectors.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> CosineSimilarity()([[0., 1.], [1., 1.]], [[1., 0.], [1., 1.]])
        tensor(-0.5000)
    """

    function = staticmethod(cosine_similarity)
    combines_features = True
    argument_names = ("axis",)

    def __init__(
        self,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "cosine_similarity",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self.axis = axis


@register("loss", "huber", "huber_loss")
class Huber(LossWithFunction):
    """The mean over real steps and features of the Huber loss: `0.5 * error ** 2` up to `delta`, then linear.

    Args:
        delta: The error at which the loss becomes linear, above 0.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> Huber()([[0., 0.]], [[1., 3.]])
        tensor(1.5000)
    """

    function = staticmethod(huber)
    argument_names = ("delta",)

    def __init__(
        self,
        delta: float = 1.0,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "huber_loss",
        dtype: str | None = None,
    ) -> None:
        if delta <= 0:
            raise ArgumentError(f"`delta` must be above 0; got {delta!r}.")
        super().__init__(name, reduction, dtype)
        self.delta = delta


@register("loss", "log_cosh", "logcosh")
class LogCosh(LossWithFunction):
    """The mean of `log(cosh(y_pred - y_true))` over real steps and features.

    Args:
        reduction, name, dtype: See `Loss`.

    Example:
        >>> LogCosh()([[0., 1.]], [[1., 1.]])
        tensor(0.2169)
    """

    function = staticmethod(log_cosh)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "log_cosh", dtype: str | None = None
    ) -> None:
        super().__init__(name, reduction, dtype)
