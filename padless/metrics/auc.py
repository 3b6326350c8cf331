"""The area under a curve of rates over thresholds, as in Keras."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.losses.base import EPSILON
from padless.metrics.confusion_metrics import ConfusionCounts, even_thresholds
from padless.metrics.metric import align_rows, divide_or_zero, register_metric, to_indicators
from padless.ragged.device import to_device
from padless.types import ArrayLike, Config

CURVES = ("ROC", "PR", "PRGAIN")
METHODS = ("interpolation", "minoring", "majoring")


@register_metric()
class AUC(ConfusionCounts):
    """The area under the ROC curve, the precision-recall curve, or the precision-recall-gain curve.

    The area is a sum over thresholds. `torchmetrics.AUROC` gives the exact area. The state is that of `ConfusionCounts`.

    Args:
        num_thresholds: The number of thresholds from 0 to 1, at equal distances.
        curve: "ROC", "PR" or "PRGAIN" (Flach and Kull 2015).
        summation_method: "interpolation" (trapezoids; for "PR" the curve of Davis and Goadrich 2006), "minoring" or
            "majoring" (the smaller or larger height of each interval).
        name, dtype: See `Metric`.
        thresholds: Thresholds from 0 to 1, instead of `num_thresholds`.
        multi_label: Whether each label has its own area; the result is the mean of them.
        num_labels: The number of labels. Default: that of the first batch.
        label_weights: One weight for each label: of the mean of the areas, or without `multi_label` of the counts.
        from_logits: Whether outputs are logits, not probabilities.

    Raises:
        ArgumentError: An argument is out of range.

    Example:
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
        for threshold in inner:
            if not 0 <= threshold <= 1:
                raise ArgumentError(f"`thresholds` must be between 0 and 1; got {threshold!r}.")
        super().__init__([-EPSILON, *inner, 1.0 + EPSILON], name, dtype, (num_labels or None) if multi_label else 1)
        self._inner_thresholds = None if thresholds is None else list(inner)
        self.num_thresholds = len(inner) + 2
        self.curve = str(curve).upper()
        self.summation_method = summation_method.lower()
        self.multi_label = multi_label
        self.num_labels = num_labels
        self.label_weights = None if label_weights is None else [float(weight) for weight in label_weights]
        self.from_logits = from_logits

    @property
    def thresholds(self) -> list[float]:
        """All thresholds, with one below 0 and one above 1."""
        return list(self._thresholds)

    @torch.no_grad()
    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add the real steps of a batch.

        Args:
            y_true: Labels 0 and 1 in the shape of the outputs, or class ids.
            y_pred: Outputs: `Packed` or plain.
            sample_weight: Weights of sequences `(B,)` or of steps `(B, T)`.

        Raises:
            ShapeError: The outputs have another number of labels than before.
        """
        targets, outputs, weight = align_rows(y_true, y_pred, sample_weight)
        num_labels = outputs.shape[-1] if self.multi_label else 1
        counted_labels = self._counts_of_labels(num_labels).shape[2:]
        if counted_labels != ((num_labels,) if num_labels > 1 else ()):
            raise ShapeError(
                f"The metric {self.name!r} counts {counted_labels.numel()} labels, but the outputs have {num_labels}."
            )
        outputs = outputs.sigmoid() if self.from_logits else outputs
        if self.label_weights is not None and not self.multi_label:
            label_weights = self._label_weights_for(outputs).expand(outputs.shape)
            weight = label_weights if weight is None else weight * label_weights
        self.add_counts(to_indicators(targets, outputs), outputs.clamp(0, 1), weight, num_labels)

    def _label_weights_for(self, tensor: Tensor) -> Tensor:
        """Return the label weights for a tensor whose last axis is that of the labels."""
        label_weights = self.label_weights or []
        if len(label_weights) != tensor.shape[-1]:
            raise ShapeError(f"`label_weights` has {len(label_weights)} entries for {tensor.shape[-1]} labels.")
        return to_device(torch.tensor(label_weights, device="cpu"), tensor.device)

    def result(self) -> Tensor:
        """Return the area, a scalar; with `multi_label` the mean of the areas."""
        if self.curve == "PR" and self.summation_method == "interpolation":
            area = self._interpolated_pr_area()
        else:
            area = self._summed_area()
        if self.multi_label and self.label_weights is not None and area.ndim:
            weights = self._label_weights_for(area)
            area = divide_or_zero((area * weights).sum(), weights.sum())
        return self.cast(area.mean())

    def _summed_area(self) -> Tensor:
        """Return the sum of width times height over the intervals between thresholds."""
        if self.curve == "ROC":
            x, y = self.false_positive_rates, self.recalls
        elif self.curve == "PR":
            x, y = self.recalls, self.precisions
        else:
            x = torch.where(self.true_positives == 0, 0, self._gains(self.false_negatives, 0.0).clamp_min(0))
            y = self._gains(self.false_positives, 1.0)
        if self.summation_method == "interpolation":
            heights = (y[:-1] + y[1:]) / 2
        elif self.summation_method == "minoring":
            heights = torch.minimum(y[:-1], y[1:])
        else:
            heights = torch.maximum(y[:-1], y[1:])
        return ((x[:-1] - x[1:]) * heights).sum(0)

    def _gains(self, errors: Tensor, without_positives: float) -> Tensor:
        """Return the gains of Flach and Kull: `1 - P / N * errors / TP`, with another value where TP is 0."""
        positives = self.true_positives + self.false_negatives
        negatives = self.true_negatives + self.false_positives
        gains = 1.0 - divide_or_zero(positives, negatives) * divide_or_zero(errors, self.true_positives)
        return torch.where(self.true_positives == 0, without_positives, gains)

    def _interpolated_pr_area(self) -> Tensor:
        """Return the area of Davis and Goadrich: between thresholds TP is linear in the number of positive outputs."""
        true_positives = self.true_positives
        positive_outputs = self.true_positives + self.false_positives
        tp_steps = true_positives[:-1] - true_positives[1:]
        output_steps = positive_outputs[:-1] - positive_outputs[1:]
        slope = divide_or_zero(tp_steps, output_steps.clamp_min(0))
        intercept = true_positives[1:] - slope * positive_outputs[1:]
        both_positive = (positive_outputs[:-1] > 0) & (positive_outputs[1:] > 0)
        ratio = torch.where(both_positive, divide_or_zero(positive_outputs[:-1], positive_outputs[1:]), 1.0)
        positives = true_positives[1:] + self.false_negatives[1:]
        return divide_or_zero(slope * (tp_steps + intercept * ratio.log()), positives).sum(0)

    def get_config(self) -> Config:
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
        return config if self._inner_thresholds is None else {**config, "thresholds": self._inner_thresholds}
