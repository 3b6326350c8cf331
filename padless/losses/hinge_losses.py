"""Hinge losses: 0 where the output is right by a margin of 1."""

from __future__ import annotations

import torch
from torch import Tensor

from padless.losses.base import LossWithFunction, read_same_shape
from padless.losses.loss import Reduction
from padless.registry import register
from padless.types import ArrayLike


@register("loss_function")
def hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return the mean over the last axis of `max(1 - y_true * y_pred, 0)`.

    Args:
        y_true: Targets -1 and 1, `(N, D)`; 0 means -1.
        y_pred: Outputs `(N, D)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> hinge([[0., 1.]], [[-2., 0.5]])
        tensor([0.2500])
    """
    return _hinge_elements(y_true, y_pred).mean(-1)


@register("loss_function")
def squared_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return the mean over the last axis of `max(1 - y_true * y_pred, 0) ** 2`.

    Args:
        y_true: Targets -1 and 1, `(N, D)`; 0 means -1.
        y_pred: Outputs `(N, D)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> squared_hinge([[0., 1.]], [[-2., 0.]])
        tensor([0.5000])
    """
    return _hinge_elements(y_true, y_pred).square().mean(-1)


@register("loss_function")
def categorical_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return `max(largest output of a wrong class - output of the right class + 1, 0)`.

    Args:
        y_true: One-hot targets `(N, C)`.
        y_pred: Outputs `(N, C)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> categorical_hinge([[0., 1., 0.]], [[0.5, 1., 0.]])
        tensor([0.5000])
    """
    targets, outputs = read_same_shape(y_true, y_pred, combines_features=True)
    right_output = (targets * outputs).sum(-1)
    wrong_output = ((1.0 - targets) * outputs).amax(-1)
    return (wrong_output - right_output + 1.0).clamp_min(0.0)


def _hinge_elements(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return `max(1 - y_true * y_pred, 0)` of each element; each target 0 becomes -1."""
    targets, outputs = read_same_shape(y_true, y_pred)
    signs = torch.where(targets == 0, -1.0, targets)  # Keras does so only if all targets of the batch are 0 or 1
    return (1.0 - signs * outputs).clamp_min(0.0)


@register("loss", "hinge")
class Hinge(LossWithFunction):
    """The mean of `max(1 - y_true * y_pred, 0)` over real steps and features; a target 0 means -1.

    Args:
        reduction, name, dtype: See `Loss`.

    Example:
        >>> Hinge()([[0., 1.]], [[-2., 0.5]])
        tensor(0.2500)
    """

    function = staticmethod(hinge)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "hinge", dtype: str | None = None
    ) -> None:
        super().__init__(name, reduction, dtype)


@register("loss", "squared_hinge")
class SquaredHinge(LossWithFunction):
    """The mean of `max(1 - y_true * y_pred, 0) ** 2` over real steps and features; a target 0 means -1.

    Args:
        reduction, name, dtype: See `Loss`.

    Example:
        >>> SquaredHinge()([[0., 1.]], [[-2., 0.]])
        tensor(0.5000)
    """

    function = staticmethod(squared_hinge)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "squared_hinge", dtype: str | None = None
    ) -> None:
        super().__init__(name, reduction, dtype)


@register("loss", "categorical_hinge")
class CategoricalHinge(LossWithFunction):
    """The mean over real steps of `max(largest wrong output - right output + 1, 0)`, for one-hot targets.

    Args:
        reduction, name, dtype: See `Loss`.

    Example:
        >>> CategoricalHinge()([[0., 1., 0.]], [[0.5, 1., 0.]])
        tensor(0.5000)
    """

    function = staticmethod(categorical_hinge)
    combines_features = True

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "categorical_hinge", dtype: str | None = None
    ) -> None:
        super().__init__(name, reduction, dtype)
