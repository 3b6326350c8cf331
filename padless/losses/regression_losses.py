"""Losses of numbers: errors, squared, absolute, relative, logarithmic, robust; and the angle between vectors."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from padless.errors import ArgumentError
from padless.losses.base import EPSILON, LossWithFunction, read_same_shape
from padless.losses.loss import Reduction
from padless.registry import register


@register("loss_function")
def mean_squared_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean over the last axis of `(y_true - y_pred) ** 2`.

    >>> mean_squared_error([[1., 2.]], [[1., 4.]])
    tensor([2.])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    return (y_true - y_pred).square().mean(-1)


@register("loss_function")
def mean_absolute_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean over the last axis of `|y_true - y_pred|`.

    >>> mean_absolute_error([[1., 2.]], [[1., 4.]])
    tensor([1.])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    return (y_true - y_pred).abs().mean(-1)


@register("loss_function")
def mean_absolute_percentage_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean over the last axis of `100 * |y_true - y_pred| / |y_true|`.

    >>> mean_absolute_percentage_error([[1., 2.]], [[1., 4.]])
    tensor([50.])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    return 100.0 * ((y_true - y_pred) / y_true.abs().clamp_min(EPSILON)).abs().mean(-1)


@register("loss_function")
def mean_squared_logarithmic_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean over the last axis of `(log(y_true + 1) - log(y_pred + 1)) ** 2`; what is below 0 counts as 0.

    >>> mean_squared_logarithmic_error([[0., 0.]], [[0., math.e - 1]])
    tensor([0.5000])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    return (y_pred.clamp_min(EPSILON).log1p() - y_true.clamp_min(EPSILON).log1p()).square().mean(-1)


@register("loss_function")
def cosine_similarity(y_true: Any, y_pred: Any, axis: int = -1) -> Tensor:
    """The cosine of the angle between targets and outputs, negative: -1 where they point the same way.

    >>> cosine_similarity([[0., 1.], [0., 2.]], [[1., 0.], [0., 1.]])
    tensor([-0., -1.])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    return -(F.normalize(y_true, dim=axis, eps=EPSILON) * F.normalize(y_pred, dim=axis, eps=EPSILON)).sum(axis)


@register("loss_function")
def huber(y_true: Any, y_pred: Any, delta: float = 1.0) -> Tensor:
    """The mean over the last axis of half the squared error up to `delta`, and of a straight line beyond.

    >>> huber([[0., 0.]], [[1., 3.]])
    tensor([1.5000])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    return F.huber_loss(y_pred, y_true, reduction="none", delta=delta).mean(-1)


@register("loss_function")
def log_cosh(y_true: Any, y_pred: Any) -> Tensor:
    """The mean over the last axis of `log(cosh(y_pred - y_true))`.

    >>> log_cosh([[0., 1.]], [[1., 1.]])
    tensor([0.2169])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    error = y_pred - y_true
    return (error + F.softplus(-2.0 * error) - math.log(2.0)).mean(-1)


@register("loss", "mean_squared_error", "mse", "MSE")
class MeanSquaredError(LossWithFunction):
    """The mean of `(y_true - y_pred) ** 2` over real steps and features.

    >>> from padless import pack; import torch
    >>> MeanSquaredError()([[1, 2, 0]], pack(torch.zeros(1, 3), mask=[[1, 1, 0]]))
    tensor(2.5000)
    """

    function = staticmethod(mean_squared_error)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "mean_squared_error", dtype: str | None = None
    ) -> None:
        super().__init__(reduction, name, dtype)


@register("loss", "mean_absolute_error", "mae", "MAE")
class MeanAbsoluteError(LossWithFunction):
    """The mean of `|y_true - y_pred|` over real steps and features.

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
        super().__init__(reduction, name, dtype)


@register("loss", "mean_absolute_percentage_error", "mape", "MAPE")
class MeanAbsolutePercentageError(LossWithFunction):
    """The mean of `100 * |y_true - y_pred| / |y_true|` over real steps and features.

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
        super().__init__(reduction, name, dtype)


@register("loss", "mean_squared_logarithmic_error", "msle", "MSLE")
class MeanSquaredLogarithmicError(LossWithFunction):
    """The mean of `(log(y_true + 1) - log(y_pred + 1)) ** 2` over real steps and features.

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
        super().__init__(reduction, name, dtype)


@register("loss", "cosine_similarity")
class CosineSimilarity(LossWithFunction):
    """The mean over real steps of the cosine between targets and outputs, negative; `axis` is a feature axis.

    >>> CosineSimilarity()([[0., 1.], [1., 1.]], [[1., 0.], [1., 1.]])
    tensor(-0.5000)
    """

    function = staticmethod(cosine_similarity)

    def __init__(
        self,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "cosine_similarity",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction, name, dtype, axis=axis)


@register("loss", "huber", "huber_loss")
class Huber(LossWithFunction):
    """The mean of half the squared error up to `delta`, and of a straight line beyond; `delta` is above 0.

    >>> Huber()([[0., 0.]], [[1., 3.]])
    tensor(1.5000)
    """

    function = staticmethod(huber)

    def __init__(
        self,
        delta: float = 1.0,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "huber_loss",
        dtype: str | None = None,
    ) -> None:
        if delta <= 0:
            raise ArgumentError(f"`delta` must be above 0; got {delta!r}.")
        super().__init__(reduction, name, dtype, delta=delta)


@register("loss", "log_cosh", "logcosh")
class LogCosh(LossWithFunction):
    """The mean of `log(cosh(y_pred - y_true))` over real steps and features.

    >>> LogCosh()([[0., 1.]], [[1., 1.]])
    tensor(0.2169)
    """

    function = staticmethod(log_cosh)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "log_cosh", dtype: str | None = None
    ) -> None:
        super().__init__(reduction, name, dtype)
