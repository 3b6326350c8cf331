"""Losses of the overlap of targets and outputs: Dice and Tversky."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from padless.losses.base import EPSILON, LossWithFunction, read_same_shape
from padless.losses.loss import PerStepValues, Reduction, WeightedSum
from padless.registry import register
from padless.types import ArrayLike

Axis: TypeAlias = "int | tuple[int, ...] | None"


@register("loss_function")
def dice(y_true: ArrayLike, y_pred: ArrayLike, axis: Axis = None) -> Tensor:
    """Return `1 - 2 * sum(y_true * y_pred) / (sum(y_true) + sum(y_pred))`.

    Args:
        y_true: Targets from 0 to 1.
        y_pred: Outputs from 0 to 1, in the same shape.
        axis: The axes of the sums. None: all.

    Returns:
        A scalar, or with `axis` one value for each remaining entry.

    Example:
        >>> dice([[1., 0.]], [[0.5, 0.5]])
        tensor(0.5000)
    """
    return tversky(y_true, y_pred, axis=axis)


@register("loss_function")
def tversky(y_true: ArrayLike, y_pred: ArrayLike, alpha: float = 0.5, beta: float = 0.5, axis: Axis = None) -> Tensor:
    """Return `1 - TP / (TP + alpha * FN + beta * FP)` (Salehi et al. 2017, arXiv:1706.05721).

    TP is `sum(y_true * y_pred)`, FN is `sum(y_true * (1 - y_pred))`, FP is `sum((1 - y_true) * y_pred)`.

    Args:
        y_true: Targets from 0 to 1.
        y_pred: Outputs from 0 to 1, in the same shape.
        alpha: The weight of false negatives.
        beta: The weight of false positives.
        axis: The axes of the sums. None: all.

    Returns:
        A scalar, or with `axis` one value for each remaining entry.

    Example:
        >>> tversky([[1., 0.]], [[0.5, 0.5]], beta=0.0)
        tensor(0.3333)
    """
    overlap, errors = _overlap_and_errors(*read_same_shape(y_true, y_pred), alpha, beta)
    if axis is None:
        overlap, errors = overlap.sum(), errors.sum()
    else:
        overlap, errors = overlap.sum(axis), errors.sum(axis)
    return 1.0 - overlap / (overlap + errors + EPSILON)


def _overlap_and_errors(y_true: Tensor, y_pred: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """Return for each element its true positive share, and its weighted false negative and false positive shares."""
    return y_true * y_pred, alpha * y_true * (1.0 - y_pred) + beta * (1.0 - y_true) * y_pred


class RatioOfSums(PerStepValues):
    """Pairs `(errors, overlap + errors)` of elements, `(..., 2)`; the value is the ratio of their sums."""

    def reduce(self, reduction: Reduction, dtype: torch.dtype | None = None) -> WeightedSum:
        """Return the sum of the errors, with the sum of overlap and errors as weight."""
        errors, overlap_and_errors = self.weighted_values.reshape(-1, 2).sum(0, dtype=dtype)
        return WeightedSum(errors, overlap_and_errors)

    @property
    def unreduced_values(self) -> Tensor:
        """The ratio."""
        return self.reduce(None).value


class _OverlapLoss(LossWithFunction):
    """The ratio over all real steps of one or more batches; with an axis, the mean of a ratio for each row.

    Without an axis the weight of a batch depends on the outputs. Then the gradient of a large batch is not the sum of the
    gradients of its parts.
    """

    alpha = 0.5
    beta = 0.5
    axis = None

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.axis is not None:
            return super().call(y_true, y_pred)
        overlap, errors = _overlap_and_errors(*read_same_shape(y_true, y_pred), self.alpha, self.beta)
        return torch.stack([errors, overlap + errors], -1)

    def per_step_values(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> PerStepValues:
        values = super().per_step_values(y_true, y_pred, sample_weight)
        return values if self.axis is not None else RatioOfSums(values.values, values.weight)


@register("loss", "dice")
class Dice(_OverlapLoss):
    """The Dice loss, `1 - 2 * sum(y_true * y_pred) / (sum(y_true) + sum(y_pred))`, over all real steps.

    Sample weights count inside the sums.

    Args:
        axis: Feature axes of the sums. None: one ratio over all real steps and features; with axes, the mean of the ratios
            of the real steps.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> Dice()([[1., 0.]], [[0.5, 0.5]])
        tensor(0.5000)
    """

    function = staticmethod(dice)
    argument_names = ("axis",)

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "dice",
        axis: Axis = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self.axis = axis


@register("loss", "tversky")
class Tversky(_OverlapLoss):
    """The Tversky loss, `1 - TP / (TP + alpha * FN + beta * FP)`, over all real steps; see `tversky`.

    Args:
        alpha: The weight of false negatives.
        beta: The weight of false positives.
        axis: As for `Dice`.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> Tversky(beta=0.0)([[1., 0.]], [[0.5, 0.5]])
        tensor(0.3333)
    """

    function = staticmethod(tversky)
    argument_names = ("alpha", "beta", "axis")

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "tversky",
        axis: Axis = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self.alpha = alpha
        self.beta = beta
        self.axis = axis
