"""Hinge losses: zero once the outputs are right by a margin of 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padless.losses.base import LossWithFunction, read_same_shape
from padless.losses.loss import Reduction
from padless.registry import register


@register("loss_function")
def hinge(y_true: Any, y_pred: Any) -> Tensor:
    """The mean over the last axis of `max(1 - y_true * y_pred, 0)`, for targets -1 and 1; 0 counts as -1.

    >>> hinge([[0., 1.]], [[-2., 0.5]])
    tensor([0.2500])
    """
    return _margin(y_true, y_pred).mean(-1)


@register("loss_function")
def squared_hinge(y_true: Any, y_pred: Any) -> Tensor:
    """The mean over the last axis of `max(1 - y_true * y_pred, 0) ** 2`, for targets -1 and 1; 0 counts as -1.

    >>> squared_hinge([[0., 1.]], [[-2., 0.]])
    tensor([0.5000])
    """
    return _margin(y_true, y_pred).square().mean(-1)


@register("loss_function")
def categorical_hinge(y_true: Any, y_pred: Any) -> Tensor:
    """How far the best wrong class is from being 1 below the right one, for one-hot targets.

    >>> categorical_hinge([[0., 1., 0.]], [[0.5, 1., 0.]])
    tensor([0.5000])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    right, wrong = (y_true * y_pred).sum(-1), ((1.0 - y_true) * y_pred).amax(-1)
    return (wrong - right + 1.0).clamp_min(0.0)


def _margin(y_true: Any, y_pred: Any) -> Tensor:
    y_true, y_pred = read_same_shape(y_true, y_pred)
    signs = torch.where(y_true == 0, -1.0, y_true)  # of each label alone: Keras asks the whole batch
    return (1.0 - signs * y_pred).clamp_min(0.0)


@register("loss", "hinge")
class Hinge(LossWithFunction):
    """The mean of `max(1 - y_true * y_pred, 0)` over real steps and features; a target 0 counts as -1.

    >>> Hinge()([[0., 1.]], [[-2., 0.5]])
    tensor(0.2500)
    """

    function = staticmethod(hinge)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "hinge", dtype: str | None = None
    ) -> None:
        super().__init__(reduction, name, dtype)


@register("loss", "squared_hinge")
class SquaredHinge(LossWithFunction):
    """The mean of `max(1 - y_true * y_pred, 0) ** 2` over real steps and features; a target 0 counts as -1.

    >>> SquaredHinge()([[0., 1.]], [[-2., 0.]])
    tensor(0.5000)
    """

    function = staticmethod(squared_hinge)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "squared_hinge", dtype: str | None = None
    ) -> None:
        super().__init__(reduction, name, dtype)


@register("loss", "categorical_hinge")
class CategoricalHinge(LossWithFunction):
    """The mean over real steps of `max(best wrong class - right class + 1, 0)`, for one-hot targets.

    >>> CategoricalHinge()([[0., 1., 0.]], [[0.5, 1., 0.]])
    tensor(0.5000)
    """

    function = staticmethod(categorical_hinge)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "categorical_hinge", dtype: str | None = None
    ) -> None:
        super().__init__(reduction, name, dtype)
