"""Losses in which steps stand together: the overlap of all, pairs of them, and CTC over whole sequences."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padless.losses.base import EPSILON, LossWithFunction, read_same_shape
from padless.losses.loss import PerStepValues, Reduction, WeightedSum
from padless.registry import register

Axis = int | tuple[int, ...] | None


@register("loss_function")
def dice(y_true: Any, y_pred: Any, axis: Axis = None) -> Tensor:
    """1 - 2 |both| / (|y_true| + |y_pred|): how little targets and outputs, from 0 to 1, overlap; over all, or an axis.

    >>> dice([[1., 0.]], [[0.5, 0.5]])
    tensor(0.5000)
    """
    return tversky(y_true, y_pred, axis=axis)


@register("loss_function")
def tversky(y_true: Any, y_pred: Any, alpha: float = 0.5, beta: float = 0.5, axis: Axis = None) -> Tensor:
    """1 - |both| / (|both| + alpha |only y_true| + beta |only y_pred|), over all, or an axis.

    >>> tversky([[1., 0.]], [[0.5, 0.5]], beta=0.0)
    tensor(0.3333)
    """
    both, wrong = _overlap(*read_same_shape(y_true, y_pred), alpha, beta)
    both, wrong = (both.sum(), wrong.sum()) if axis is None else (both.sum(axis), wrong.sum(axis))
    return 1.0 - both / (both + wrong + EPSILON)


def _overlap(y_true: Tensor, y_pred: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """By element: what both have, and what only one of them has."""
    return y_true * y_pred, alpha * y_true * (1.0 - y_pred) + beta * (1.0 - y_true) * y_pred


class Ratio(PerStepValues):
    """Pairs (wrong, whole) by element: the total is the one ratio of their two sums, whatever the reduction."""

    def reduce(self, reduction: Reduction, dtype: torch.dtype | None = None) -> WeightedSum:
        """The sum of what is wrong, with the sum of the wholes for its weight."""
        wrong, whole = self.weighted_values.reshape(-1, 2).sum(0, dtype=dtype)
        return WeightedSum(wrong, whole)

    @property
    def unreduced_values(self) -> Tensor:
        """The ratio itself."""
        return self.reduce(None).value


class _Overlap(LossWithFunction):
    """Without an axis, the ratio over all real steps, of one batch or of many; with one, a loss of each row.

    Without an axis the weight of a term depends on the outputs: the gradient of a large batch is then not the sum of
    those of its parts.
    """

    alpha = beta = 0.5

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.axis is not None:
            return super().call(y_true, y_pred)
        both, wrong = _overlap(*read_same_shape(y_true, y_pred), self.alpha, self.beta)
        return torch.stack([wrong, both + wrong], -1)

    def per_step_values(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> PerStepValues:
        found = super().per_step_values(y_true, y_pred, sample_weight)
        return found if self.axis is not None else Ratio(found.values, found.weight)


@register("loss", "dice")
class Dice(_Overlap):
    """How little targets and outputs, from 0 to 1, overlap: 1 - 2 |both| / (|y_true| + |y_pred|).

    Without an `axis` it is one ratio over all real steps, also of many batches, and weights count inside of it; with a
    feature axis it is the mean over real steps.

    >>> Dice()([[1., 0.]], [[0.5, 0.5]])
    tensor(0.5000)
    """

    function = staticmethod(dice)

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "dice",
        axis: Axis = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction, name, dtype, axis=axis)


@register("loss", "tversky")
class Tversky(_Overlap):
    """1 - |both| / (|both| + alpha |only y_true| + beta |only y_pred|); `axis` as in `Dice`.

    >>> Tversky(beta=0.0)([[1., 0.]], [[0.5, 0.5]])
    tensor(0.3333)
    """

    function = staticmethod(tversky)

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "tversky",
        axis: Axis = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction, name, dtype, alpha=alpha, beta=beta, axis=axis)


# --------------------------------------------------------------------------------------------------------- pairs


# --------------------------------------------------------------------------------------------------- whole sequences
