"""Losses in which steps stand together: the overlap of all, pairs of them, and CTC over whole sequences."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from padless.errors import DataError, ShapeError
from padless.registry import register
from padless.training.loss import Measured, Reduction, Term
from padless.training.loss_rows import EPSILON, Named, alike, check_ids, plain

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
    both, wrong = _overlap(*alike(y_true, y_pred), alpha, beta)
    both, wrong = (both.sum(), wrong.sum()) if axis is None else (both.sum(axis), wrong.sum(axis))
    return 1.0 - both / (both + wrong + EPSILON)


def _overlap(y_true: Tensor, y_pred: Tensor, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """By element: what both have, and what only one of them has."""
    return y_true * y_pred, alpha * y_true * (1.0 - y_pred) + beta * (1.0 - y_true) * y_pred


class Ratio(Measured):
    """Pairs (wrong, whole) by element: the total is the one ratio of their two sums, whatever the reduction."""

    def term(self, reduction: Reduction, dtype: torch.dtype | None = None) -> Term:
        """The sum of what is wrong, with the sum of the wholes for its weight."""
        wrong, whole = self.weighted.reshape(-1, 2).sum(0, dtype=dtype)
        return Term(wrong, whole)

    @property
    def unreduced(self) -> Tensor:
        """The ratio itself."""
        return self.term(None).value


class _Overlap(Named):
    """Without an axis, the ratio over all real steps, of one batch or of many; with one, a loss of each row.

    Without an axis the weight of a term depends on the outputs: the gradient of a large batch is then not the sum of
    those of its parts.
    """

    alpha = beta = 0.5

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.axis is not None:
            return super().call(y_true, y_pred)
        both, wrong = _overlap(*alike(y_true, y_pred), self.alpha, self.beta)
        return torch.stack([wrong, both + wrong], -1)

    def measure(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Measured:
        found = super().measure(y_true, y_pred, sample_weight)
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


@register("loss_function")
def circle(
    y_true: Any,
    y_pred: Any,
    ref_labels: Any = None,
    ref_embeddings: Any = None,
    remove_diagonal: bool = True,
    gamma: float = 80,
    margin: float = 0.4,
) -> Tensor:
    """For each row how far others of its class are, and how near those of other classes (Sun et al. 2020).

    `y_true` are class ids, `y_pred` vectors of length 1; others are the same rows, or the references.

    >>> circle([0, 0, 1], [[1., 0.], [1., 0.], [1., 0.]])
    tensor([54.4000, 54.4000,  0.0000])
    """
    ids, y_pred = plain(y_true, y_pred, cast=False)
    keys, others = (ids, y_pred) if ref_embeddings is None else plain(ref_labels, ref_embeddings, cast=False)
    distances = (1.0 - y_pred @ others.T).clamp_min(0.0)
    same = ids.reshape(-1, 1) == keys.reshape(1, -1)
    friends = same & ~torch.eye(*same.shape, dtype=torch.bool, device=same.device) if remove_diagonal else same
    near = -gamma * (margin + distances) * (margin - distances)
    far = gamma * (1.0 + margin - distances).clamp_min(0.0) * (1.0 - margin - distances)
    return F.softplus(torch.where(friends, near, -torch.inf).logsumexp(1) + torch.where(same, -torch.inf, far).logsumexp(1))


@register("loss", "circle")
class Circle(Named):
    """For each real step how far others of its class are, and how near those of other classes, within the batch.

    Targets are class ids, outputs vectors of length 1. As it compares the steps of one batch, it depends on what a batch
    holds. Steps where it is 0 do not count.

    >>> Circle()([0, 0, 1], [[1., 0.], [1., 0.], [1., 0.]])
    tensor(54.4000)
    """

    function = staticmethod(circle)

    def __init__(
        self,
        gamma: float = 80.0,
        margin: float = 0.4,
        remove_diagonal: bool = True,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "circle",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction, name, dtype, gamma=gamma, margin=margin, remove_diagonal=remove_diagonal)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return y_true, y_pred.to(self._dtype(y_pred))

    def counted(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        return values > 0


# --------------------------------------------------------------------------------------------------- whole sequences


@register("loss_function")
def ctc(y_true: Any, y_pred: Any, mask: Tensor | None = None) -> Tensor:
    """Minus the log likelihood of labels `(B, L)` under logits `(B, T, C)` without alignment; class 0 is the blank.

    Zeros among the labels are padding. Only steps in the `mask` are seen. Raises `DataError` where there are fewer steps
    than the labels need: one each, and one more between two that are the same. From Graves et al. 2006.

    >>> ctc([[1, 0]], torch.zeros(1, 2, 2))
    tensor([0.2877])
    """
    labels, logits = plain(y_true, y_pred, cast=False)
    if labels.ndim != 2 or logits.ndim != 3 or len(labels) != len(logits):
        raise ShapeError(
            f"CTC takes labels of shape (B, L) and logits of shape (B, T, C); got {tuple(labels.shape)} and "
            f"{tuple(logits.shape)}."
        )
    check_ids(labels, logits.shape[-1])
    mask = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device) if mask is None else mask
    labels, sizes = _first(F.pad(labels.long(), (0, 1)), F.pad(labels != 0, (0, 1)))
    logits, lengths = _first(logits, mask)
    if labels.device.type == "cpu":
        _check_room(labels, sizes, lengths)
    return F.ctc_loss(logits.log_softmax(-1).movedim(1, 0), labels, lengths, sizes, blank=0, reduction="none")


def _first(values: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """What is real moved to the front of each row, in its order, with the counts."""
    order = real.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return values[torch.arange(len(values), device=values.device)[:, None], order], real.sum(1)


def _check_room(labels: Tensor, sizes: Tensor, lengths: Tensor) -> None:
    twice = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] != 0)
    short = (sizes + twice.sum(1) > lengths).nonzero()
    if len(short):
        row = int(short[0])
        raise DataError(
            f"CTC cannot place the {int(sizes[row])} labels {labels[row, : int(sizes[row])].tolist()} on "
            f"{int(lengths[row])} real steps: each takes one, and two of the same one more between them. "
            f"Give longer inputs, or leave such sequences out."
        )


@register("loss", "ctc")
class CTC(Named):
    """Minus the log likelihood of a sequence's labels without alignment (connectionist temporal classification).

    Outputs are logits, their real steps the input. Labels are `(B, L)`, padded with 0, or lists; class 0 is the blank.
    The mean over sequences, as Keras's; a sequence without a real step does not count.

    >>> CTC()([[1, 0]], torch.zeros(1, 2, 2))
    tensor(0.2877)
    """

    function = staticmethod(ctc)
    relation, aligned = "sequence", False

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "ctc", dtype: str | None = None
    ) -> None:
        super().__init__(reduction, name, dtype)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return y_true, y_pred.to(self._dtype(y_pred))

    def call(self, y_true: Tensor, y_pred: Tensor, mask: Tensor) -> Tensor:
        return ctc(y_true, y_pred, mask)
