"""F1 of spans: what a tagger finds counts only if both ends and the type are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.losses.base import check_class_ids
from padless.metrics.f_score_metrics import AVERAGES, fbeta_score
from padless.metrics.metric import Metric, register_metric, sum_dtype
from padless.ragged.alignment import align_targets, sample_weights_for, to_tensor
from padless.ragged.device import to_device
from padless.ragged.packed import Packed, pack


@register_metric()
class SpanF1(Metric):
    """F1 of the spans that BIO tags mark, exact in start, end and type, as conlleval and seqeval (by default) count them.

    `labels` are the tags of the classes in order, as `["O", "B-PER", "I-PER"]`. A span begins with B, and with an I after
    another type, after O, or at the start of its sequence; it goes on over I of its own type. Masked steps are not there:
    the steps before and after a hole are neighbours. `average` is "micro" (all spans alike), "macro", "weighted", or None
    for one number per type, in the order of `types`. Targets are class ids or one-hot, outputs scores of the classes, or
    class ids. A weight counts for spans that begin at its step.

    >>> metric = SpanF1(["O", "B-PER", "I-PER"])
    >>> metric([[1, 2, 0, 1]], [[1, 2, 0, 0]]).item()
    0.6666...
    """

    def __init__(
        self, labels: Sequence[str], average: str | None = "micro", name: str | None = "span_f1", dtype: str | None = None
    ) -> None:
        super().__init__(dtype, name)
        for wrong in (tag for tag in labels if not (tag == "O" or tag[:2] in ("B-", "I-") and tag[2:])):
            raise ArgumentError(f"`labels` must be BIO tags: 'O', 'B-' or 'I-' and a type, as 'B-PER'; got {wrong!r}.")
        if average is not None and average not in AVERAGES:
            raise ArgumentError(unknown_name("average", average, AVERAGES))
        self.labels, self.average = list(labels), average
        self.types = sorted({tag[2:] for tag in labels if tag != "O"})
        if not self.types:
            raise ArgumentError(f"`labels` must have at least one type of spans; got {self.labels!r}.")
        self.counts = self.add_variable((3, len(self.types)), name="right_predicted_true")

    @torch.no_grad()
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the real steps of a batch."""
        true, pred, weight, first = self._rows(y_true, y_pred, sample_weight)
        (ours, our_end, our_type), (theirs, their_end, their_type) = (self._spans(ids, first) for ids in (pred, true))
        right = ours & theirs & (our_end == their_end) & (our_type == their_type)
        found = weight.new_zeros(3, len(self.types) + 1)
        for row, begins, kind in zip(found, (right, ours, theirs), (our_type, our_type, their_type), strict=True):
            row.index_add_(0, kind, torch.where(begins, weight, 0))
        self.counts.assign_add(found[:, :-1])

    def _rows(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class ids of targets and outputs, weights, and where a sequence begins; one entry for each real step."""
        given, outputs = to_tensor(y_true, "y_true"), to_tensor(y_pred, "y_pred")
        if not isinstance(given, Packed) and not isinstance(outputs, Packed):
            outputs = pack(outputs)  # a grid whose steps are all real
        targets, rows, index = align_targets(given if isinstance(given, Packed) else y_true, outputs)
        begins = np.ones(len(rows), dtype=bool)
        if index is not None:
            begins[1:] = np.diff(index.rows) != 0
        weight = (
            torch.ones(len(rows), device=rows.device)
            if sample_weight is None
            else sample_weights_for(sample_weight, index, rows.flatten(1)[:, 0])
        )
        first = to_device(begins, rows.device)
        return self._ids(to_device(targets, rows.device)), self._ids(rows), weight.to(sum_dtype(rows)), first

    def _ids(self, rows: Tensor) -> Tensor:
        """Class ids, of ids or of scores."""
        classes = len(self.labels)
        if rows.ndim == 2 and rows.shape[1] == classes > 1:
            return rows.argmax(-1)
        if rows.flatten().shape != rows.shape[:1]:
            raise ShapeError(
                f"The metric {self.name!r} has {classes} labels; got rows of shape {tuple(rows.shape)}: "
                f"expected class ids, or one number for each label."
            )
        check_class_ids(rows.flatten(), classes)
        return rows.flatten().long()

    def _spans(self, ids: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For each step whether a span begins there, where it ends if so, and the number of its type."""
        kinds = [self.types.index(tag[2:]) if tag != "O" else len(self.types) for tag in self.labels]
        kind = to_device(torch.tensor(kinds, device="cpu"), ids.device)[ids]
        inside = kind < len(self.types)
        anew = to_device(torch.tensor([tag[:1] == "B" for tag in self.labels], device="cpu"), ids.device)[ids] | first
        anew[1:] |= kind[1:] != kind[:-1]  # `O` is a type of its own here
        place = torch.arange(len(ids), device=ids.device)
        breaks = torch.where(anew, place, len(ids))
        following = torch.cat([breaks[1:], breaks.new_full((1,), len(ids))])[: len(ids)]
        return anew & inside, following.flip(0).cummin(0).values.flip(0), kind

    def result(self) -> Tensor:
        """The score over all that was added; 0 without a span."""
        return self.cast(fbeta_score(self.counts[0], self.counts[1], self.counts[2], self.average))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "labels": self.labels, "average": self.average}
