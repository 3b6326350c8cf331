"""Connectionist temporal classification (CTC)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from padless.errors import DataError, ShapeError
from padless.losses.base import LossWithFunction, check_class_ids, read_tensors
from padless.losses.loss import Reduction
from padless.ragged.index import Ints
from padless.ragged.row_names import row_name
from padless.registry import register
from padless.types import ArrayLike


@register("loss_function")
def ctc(y_true: ArrayLike, y_pred: ArrayLike, mask: Tensor | None = None, zero_infinity: bool = False) -> Tensor:
    """Return minus the log likelihood of labels that are not aligned with the steps (Graves et al. 2006).

    The likelihood is the sum over all alignments. An alignment gives each step a label or the blank, class 0.

    Args:
        y_true: Labels `(B, L)`, padded with 0.
        y_pred: Logits `(B, T, C)`.
        mask: The real steps, booleans `(B, T)`. Default: all steps.
        zero_infinity: Whether a sequence with too few steps for its labels has the loss 0, and no gradient.

    Returns:
        The loss of each sequence, `(B,)`.

    Raises:
        ShapeError: The shapes are others.
        DataError: A label is not a class, or a sequence has too few steps for its labels, without `zero_infinity`. Each
            label needs one step, and two equal labels in a row need a blank between them.

    Example:
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
    if mask is None:
        mask = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
    labels = F.pad(labels.long(), (0, 1))  # one more column, so that there is at least one
    labels, label_lengths = _move_to_front(labels, labels != 0)
    logits, step_lengths = _move_to_front(logits, mask)
    if labels.device.type == "cpu" and not zero_infinity:
        _check_lengths(labels, label_lengths, step_lengths)
    log_probabilities = logits.log_softmax(-1).movedim(1, 0)  # (T, B, C)
    return F.ctc_loss(
        log_probabilities, labels, step_lengths, label_lengths, blank=0, reduction="none", zero_infinity=zero_infinity
    )


def _move_to_front(grid: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the grid with the real entries of each row first, in their order, and the number of them in each row."""
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    rows = torch.arange(len(grid), device=grid.device)[:, None]
    return grid[rows, order], mask.sum(1)


def _check_lengths(labels: Tensor, label_lengths: Tensor, step_lengths: Tensor) -> None:
    """Raise `DataError` for the first sequence with fewer steps than its labels need."""
    is_repeated = (labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] != 0)
    too_short = (label_lengths + is_repeated.sum(1) > step_lengths).nonzero()
    if len(too_short):
        row = int(too_short[0])
        num_labels = int(label_lengths[row])
        raise DataError(
            f"CTC cannot place the {num_labels} labels {labels[row, :num_labels].tolist()} of {row_name(row)} on "
            f"{int(step_lengths[row])} real steps: each label needs one step, and two equal labels in a row need one "
            f"more between them. Give longer inputs, leave such sequences out, or set zero_infinity=True, which gives "
            f"them the loss 0."
        )


@register("loss", "ctc")
class CTC(LossWithFunction):
    """The CTC loss of sequences of labels that are not aligned with the steps; see `ctc`.

    Outputs are logits `(B, T, C)`. Targets are labels `(B, L)`, padded with 0, or lists of labels; class 0 is the blank.
    The reduction is over sequences, as in Keras. A sequence without a real step and without a label does not count.

    Args:
        reduction, name, dtype: See `Loss`.
        zero_infinity: Whether a sequence with too few steps for its labels has the loss 0, and no gradient. Without it,
            such a sequence is an error.

    Raises:
        DataError: See `ctc`. `fit` raises it before training if the lengths of the outputs are known then.

    Example:
        >>> CTC()([[1, 0]], torch.zeros(1, 2, 2))
        tensor(0.2877)
    """

    function = staticmethod(ctc)
    relation = "sequence"
    targets_share_mask = False

    argument_names = ("zero_infinity",)

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "ctc",
        dtype: str | None = None,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self.zero_infinity = zero_infinity

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return y_true, y_pred.to(self._dtype_for(y_pred))

    def call(self, y_true: Tensor, y_pred: Tensor, mask: Tensor) -> Tensor:
        return ctc(y_true, y_pred, mask, self.zero_infinity)

    def check_sequences(self, y_true: Tensor, lengths: Ints) -> None:
        """Raise `DataError` for the first sequence with fewer steps than its labels need."""
        if self.zero_infinity or y_true.ndim != 2:
            return
        labels = F.pad(y_true.long(), (0, 1))
        labels, label_lengths = _move_to_front(labels, labels != 0)
        _check_lengths(labels, label_lengths, torch.from_numpy(lengths))
