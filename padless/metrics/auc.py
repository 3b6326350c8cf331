"""The area under the curves that rates draw as a threshold moves, by Keras's sums over thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.losses.base import EPSILON
from padless.metrics.confusion_metrics import ConfusionCounts, even_thresholds
from padless.metrics.metric import align_rows, divide_or_zero, register_metric, to_indicators
from padless.ragged.device import to_device

CURVES = ("ROC", "PR", "PRGAIN")
METHODS = ("interpolation", "minoring", "majoring")


@register_metric()
class AUC(ConfusionCounts):
    """The area under the ROC curve, or under that of precision and recall ("PR") or their gains ("PRGAIN").

    It is a sum over `num_thresholds` thresholds, spread evenly over [0, 1] or given, with `summation_method`
    "interpolation", "minoring" or "majoring", as in Keras; for the exact area give `torchmetrics.AUROC`. With
    `multi_label` each label has its own area, and the result is their mean, weighted by `label_weights`; without, these
    weigh the labels' counts. `from_logits` puts a sigmoid before.

    >>> AUC()([[0], [0], [1], [1]], [[0.0], [0.5], [0.3], [0.9]]).item()
    0.75
    """

    def __init__(
        self,
        num_thresholds: int = 200,
        curve: str = "ROC",
        summation_method: str = "interpolation",
        name: str | None = None,
        dtype: str | None = None,
        thresholds: Sequence[float] | None = None,
        multi_label: bool = False,
        num_labels: int | None = None,
        label_weights: Sequence[float] | None = None,
        from_logits: bool = False,
    ) -> None:
        if str(curve).upper() not in CURVES:
            raise ArgumentError(unknown_name("curve", curve, CURVES))
        if str(summation_method).lower() not in METHODS:
            raise ArgumentError(unknown_name("summation_method", summation_method, METHODS))
        if thresholds is None and num_thresholds < 2:
            raise ArgumentError(f"`num_thresholds` must be above 1; got {num_thresholds!r}.")
        if num_labels and not multi_label:
            raise ArgumentError(f"`num_labels` is for `multi_label=True` only; got {num_labels!r}.")
        inner = even_thresholds(num_thresholds)[1:-1] if thresholds is None else sorted(thresholds)
        for cut in inner:
            if not 0 <= cut <= 1:
                raise ArgumentError(f"`thresholds` must be between 0 and 1; got {cut!r}.")
        super().__init__([-EPSILON, *inner, 1.0 + EPSILON], name, dtype, (num_labels or None) if multi_label else 1)
        self.given = None if thresholds is None else list(inner)
        self.num_thresholds, self.curve, self.summation_method = len(inner) + 2, str(curve).upper(), summation_method.lower()
        self.multi_label, self.num_labels, self.from_logits = multi_label, num_labels, from_logits
        self.label_weights = None if label_weights is None else [float(weight) for weight in label_weights]

    @property
    def thresholds(self) -> list[float]:
        """All thresholds, with one below 0 and one above 1."""
        return list(self._cuts)

    @torch.no_grad()
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the real steps of a batch; targets are in the shape of the outputs, or class ids."""
        targets, rows, weight = align_rows(y_true, y_pred, sample_weight)
        labels = rows.shape[-1] if self.multi_label else 1
        if self._for(labels).shape[2:] != ((labels,) if labels > 1 else ()):
            raise ShapeError(
                f"The metric {self.name!r} counts {self._for(labels).shape[2:].numel()} labels, but the "
                f"outputs have {labels}."
            )
        rows = rows.sigmoid() if self.from_logits else rows
        if self.label_weights is not None and not self.multi_label:
            own = self._weights(rows).expand(rows.shape)
            weight = own if weight is None else weight * own
        self.count(to_indicators(targets, rows), rows.clamp(0, 1), weight, labels)

    def _weights(self, like: Tensor) -> Tensor:
        if len(self.label_weights or ()) != like.shape[-1]:
            raise ShapeError(f"`label_weights` has {len(self.label_weights or ())} entries for {like.shape[-1]} labels.")
        return to_device(torch.tensor(self.label_weights, device="cpu"), like.device)

    def result(self) -> Tensor:
        """The area over all that was added."""
        area = self._interpolated() if (self.curve, self.summation_method) == ("PR", "interpolation") else self._summed()
        if self.multi_label and self.label_weights is not None and area.ndim:
            weights = self._weights(area)
            area = divide_or_zero((area * weights).sum(), weights.sum())
        return self.cast(area.mean())

    def _summed(self) -> Tensor:
        if self.curve == "ROC":
            x, y = self.rate("false_positives", "true_negatives"), self.recalls
        elif self.curve == "PR":
            x, y = self.recalls, self.precisions
        else:
            x, y = self._gain("false_negatives").clamp_min(0), self._gain("false_positives", empty=1.0)
            x = torch.where(self.true_positives == 0, 0, x)
        heights = {
            "interpolation": (y[:-1] + y[1:]) / 2,
            "minoring": torch.minimum(y[:-1], y[1:]),
            "majoring": torch.maximum(y[:-1], y[1:]),
        }[self.summation_method]
        return ((x[:-1] - x[1:]) * heights).sum(0)

    def _gain(self, wrong: str, empty: float = 0.0) -> Tensor:
        """1 minus the wrong ones for each right one, measured by what always saying yes would give (Flach, Kull 2015)."""
        right = self.true_positives
        scale = divide_or_zero(right + self.false_negatives, self.true_negatives + self.false_positives)
        return torch.where(right == 0, empty, 1.0 - scale * divide_or_zero(getattr(self, wrong), right))

    def _interpolated(self) -> Tensor:
        """Precision between two thresholds lies on a curve, not on a line (Davis, Goadrich 2006)."""
        right, positive = self.true_positives, self.true_positives + self.false_positives
        more, steps = right[:-1] - right[1:], positive[:-1] - positive[1:]
        slope = divide_or_zero(more, steps.clamp_min(0))
        start = right[1:] - slope * positive[1:]
        both = (positive[:-1] > 0) & (positive[1:] > 0)
        ratio = torch.where(both, divide_or_zero(positive[:-1], positive[1:]), 1.0)
        return divide_or_zero(slope * (more + start * ratio.log()), right[1:] + self.false_negatives[1:]).sum(0)

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "num_thresholds": self.num_thresholds,
            "curve": self.curve,
            "summation_method": self.summation_method,
            "multi_label": self.multi_label,
            "num_labels": self.num_labels,
            "label_weights": self.label_weights,
            "from_logits": self.from_logits,
        }
        return config if self.given is None else {**config, "thresholds": self.given}
