"""The F1 score of spans that BIO tags mark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.losses.base import check_class_ids
from padless.metrics.f_score_metrics import AVERAGES, fbeta_score
from padless.metrics.metric import Metric, register_metric, sum_dtype
from padless.ragged.alignment import align_targets, is_unweighted, sample_weights_for, to_tensor
from padless.ragged.device import to_device
from padless.ragged.packed import Packed, pack_shared
from padless.types import ArrayLike, Config


class _Spans(NamedTuple):
    """The spans of a row of tags, each entry `(N,)`."""

    begins: Tensor  # whether a span begins at the step
    end: Tensor  # the step after the span that begins at the step
    type: Tensor  # the number of the type of the step; len(types) for "O"


@register_metric()
class SpanF1(Metric):
    """The F1 score of spans: a predicted span is right if its start, its end and its type are.

    The numbers are those of conlleval, and of seqeval without its strict mode. A span begins with a B tag. It also begins
    with an I tag at the start of a sequence, after O, or after another type. It goes on over I tags of its type. Masked
    steps are skipped: the real steps on both sides of a gap are neighbors. The state has the weighted numbers of right,
    predicted and true spans of each type, `(3, types)`.

    Args:
        labels: The tag of each class, as `["O", "B-PER", "I-PER"]`.
        average: "micro" (all spans), "macro", "weighted", or None for one score for each type, in the order of `types`.
        name, dtype: See `Metric`.

    Raises:
        ArgumentError: A label is not a BIO tag, or `average` is unknown.

    Example:
        >>> metric = SpanF1(["O", "B-PER", "I-PER"])
        >>> metric([[1, 2, 0, 1]], [[1, 2, 0, 0]]).item()
        0.6666...
    """

    def __init__(
        self, labels: Sequence[str], average: str | None = "micro", name: str | None = "span_f1", dtype: str | None = None
    ) -> None:
        super().__init__(dtype, name)
        for tag in labels:
            if tag != "O" and not (tag[:2] in ("B-", "I-") and tag[2:]):
                raise ArgumentError(f"`labels` must be BIO tags: 'O', 'B-' or 'I-' and a type, as 'B-PER'; got {tag!r}.")
        if average is not None and average not in AVERAGES:
            raise ArgumentError(unknown_name("average", average, AVERAGES))
        self.labels, self.average = list(labels), average
        self.types = sorted({tag[2:] for tag in labels if tag != "O"})
        if not self.types:
            raise ArgumentError(f"`labels` must have at least one type of spans; got {self.labels!r}.")
        self.counts = self.add_variable((3, len(self.types)), name="right_predicted_true")

    @torch.no_grad()
    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add the real steps of a batch.

        Args:
            y_true: Class ids, or one-hot labels.
            y_pred: Class ids, or scores of the classes: `Packed` or plain.
            sample_weight: Weights of sequences `(B,)` or of steps `(B, T)`. A span has the weight of its first step. A
                target of weight 0 that is not a label counts as "O".
        """
        true_ids, predicted_ids, weight, starts_sequence = self._align(y_true, y_pred, sample_weight)
        true, predicted = self._find_spans(true_ids, starts_sequence), self._find_spans(predicted_ids, starts_sequence)
        is_right = predicted.begins & true.begins & (predicted.end == true.end) & (predicted.type == true.type)
        counts = weight.new_zeros(3, len(self.types) + 1)
        counts[0].index_add_(0, predicted.type, torch.where(is_right, weight, 0))
        counts[1].index_add_(0, predicted.type, torch.where(predicted.begins, weight, 0))
        counts[2].index_add_(0, true.type, torch.where(true.begins, weight, 0))
        self.counts.assign_add(counts[:, :-1])

    def _align(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return class ids of targets and outputs, weights, and whether a sequence starts, for each real step."""
        targets, outputs = to_tensor(y_true, "y_true"), to_tensor(y_pred, "y_pred")
        if not isinstance(targets, Packed) and not isinstance(outputs, Packed):
            outputs = pack_shared(outputs)  # a grid whose steps are all real
        rows_true, rows, index = align_targets(targets if isinstance(targets, Packed) else y_true, outputs)
        starts_sequence = np.ones(len(rows), dtype=bool)
        if index is not None:
            starts_sequence[1:] = np.diff(index.rows) != 0
        if sample_weight is None:
            weight = torch.ones(len(rows), device=rows.device)
        else:
            weight = sample_weights_for(sample_weight, index, rows.flatten(1)[:, 0])
            rows_true = self._replace_invalid(rows_true, is_unweighted(weight, rows_true))
        return (
            self._to_class_ids(to_device(rows_true, rows.device)),
            self._to_class_ids(rows),
            weight.to(sum_dtype(rows)),
            to_device(starts_sequence, rows.device),
        )

    def _replace_invalid(self, rows: Tensor, is_replaced: Tensor) -> Tensor:
        """Return targets that are "O" where `is_replaced`, unless they are labels."""
        outside = self.labels.index("O") if "O" in self.labels else 0
        if rows.ndim == 2 and rows.shape[1] == len(self.labels) > 1:
            scores = torch.zeros_like(rows[:1])
            scores[:, outside] = 1
            return torch.where(is_replaced & ~rows.isfinite().all(-1, keepdim=True), scores, rows)
        is_label = (rows >= 0) & (rows < len(self.labels))  # False for NaN
        return torch.where(is_replaced & ~is_label, outside, rows)

    def _to_class_ids(self, rows: Tensor) -> Tensor:
        """Return class ids `(N,)` of ids `(N,)` or `(N, 1)`, or of scores `(N, classes)`."""
        num_classes = len(self.labels)
        if rows.ndim == 2 and rows.shape[1] == num_classes > 1:
            return rows.argmax(-1)
        if rows.flatten().shape != rows.shape[:1]:
            raise ShapeError(
                f"The metric {self.name!r} has {num_classes} labels; got rows of shape {tuple(rows.shape)}: "
                f"expected class ids, or one number for each label."
            )
        check_class_ids(rows.flatten(), num_classes)
        return rows.flatten().long()

    def _find_spans(self, ids: Tensor, starts_sequence: Tensor) -> _Spans:
        """Return the spans of the tags of all sequences, one after another."""
        count, device = len(ids), ids.device
        type_of_class = [self.types.index(tag[2:]) if tag != "O" else len(self.types) for tag in self.labels]
        type_ = to_device(torch.tensor(type_of_class, device="cpu"), device)[ids]
        is_b_tag = to_device(torch.tensor([tag[:1] == "B" for tag in self.labels], device="cpu"), device)[ids]
        starts_run = is_b_tag | starts_sequence  # a run: a span, or steps that are O
        starts_run[1:] |= type_[1:] != type_[:-1]
        starts = torch.where(starts_run, torch.arange(count, device=device), count)
        later_starts = torch.cat([starts[1:], starts.new_full((1,), count)])[:count]
        end = later_starts.flip(0).cummin(0).values.flip(0)  # the first start after the step
        return _Spans(starts_run & (type_ < len(self.types)), end, type_)

    def result(self) -> Tensor:
        """Return the score, a scalar, or with `average` None one for each type; 0 without spans."""
        return self.cast(fbeta_score(self.counts[0], self.counts[1], self.counts[2], self.average))

    def get_config(self) -> Config:
        return {**super().get_config(), "labels": self.labels, "average": self.average}
