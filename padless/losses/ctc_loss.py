"""Connectionist temporal classification."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from padless.errors import DataError, ShapeError
from padless.losses.base import LossWithFunction, check_class_ids, read_tensors
from padless.losses.loss import Reduction
from padless.registry import register


@register("loss_function")
def ctc(y_true: Any, y_pred: Any, mask: Tensor | None = None) -> Tensor:
    """Minus the log likelihood of labels `(B, L)` under logits `(B, T, C)` without alignment; class 0 is the blank.

    Zeros among the labels are padding. Only steps in the `mask` are seen. Raises `DataError` where there are fewer steps
    than the labels need: one each, and one more between two that are the same. From Graves et al. 2006.

    >>> ctc([[1, 0]], torch.zeros(1, 2, 2))
    tensor([0.2877])
    """
    labels, logits = read_tensors(y_true, y_pred, cast=False)
    if labels.ndim != 2 or logits.ndim != 3 or len(labels) != len(logits):
        raise ShapeError(
            f"CTC takes labels of shape (B, L) and logits of shape (B, T, C); got {tuple(labels.shape)} and "
            f"{tuple(logits.shape)}."
        )
    check_class_ids(labels, logits.shape[-1])
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
class CTC(LossWithFunction):
    """Minus the log likelihood of a sequence's labels without alignment (connectionist temporal classification).

    Outputs are logits, their real steps the input. Labels are `(B, L)`, padded with 0, or lists; class 0 is the blank.
    The mean over sequences, as Keras's; a sequence without a real step does not count.

    >>> CTC()([[1, 0]], torch.zeros(1, 2, 2))
    tensor(0.2877)
    """

    function = staticmethod(ctc)
    relation, targets_share_mask = "sequence", False

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "ctc", dtype: str | None = None
    ) -> None:
        super().__init__(reduction, name, dtype)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return y_true, y_pred.to(self._dtype_for(y_pred))

    def call(self, y_true: Tensor, y_pred: Tensor, mask: Tensor) -> Tensor:
        return ctc(y_true, y_pred, mask)
