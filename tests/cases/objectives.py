"""Losses and metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import torch

from padless import losses, metrics
from padless.registry import register
from padless.testing import binary, labels, normal, one_hot, probabilities


@dataclass(frozen=True)
class ObjectiveCase:
    """A loss or metric, functions that draw its outputs and targets, and the properties that it cannot have."""

    name: str
    make: Callable[[], Any]
    outputs: Any
    targets: Any
    known_violations: Mapping[str, str] = field(default_factory=dict)
    weights: tuple[str, ...] = ("none", "rows", "column", "steps")

    @property
    def layer(self) -> str:
        """The name of the class."""
        return self.name.split("-")[0]


@register("loss_function")
def squares(y_true: Any, y_pred: Any) -> Any:
    """A loss function of rows."""
    return (y_true - y_pred).square().mean(-1)


@register("loss_function")
def largest_error(y_true: Any, y_pred: Any, mask: Any) -> Any:
    """A loss function of whole sequences."""
    return torch.where(mask[..., None], (y_true - y_pred).abs(), 0).amax((1, 2))


def ctc_labels(generator: torch.Generator, grid: tuple[int, ...]) -> torch.Tensor:
    """Draw labels for CTC: in each column a different class or none, so that there are enough steps."""
    return torch.arange(1, grid[1] + 1) * torch.randint(2, grid, generator=generator)


def positive(*features: int) -> Any:
    """Numbers above 0."""
    return lambda generator, grid: normal(*features)(generator, grid).exp()


def unit(*features: int) -> Any:
    """Vectors of length 1."""
    return lambda generator, grid: torch.nn.functional.normalize(normal(*features)(generator, grid), dim=-1)


REASON = "it compares the steps of one batch with one another"
PAIRS = {"matches_unpadded": REASON, "independent_of_split": REASON}
SEQUENCE_WEIGHTS = ("none", "rows", "column")  # weights of a loss that gives one value for each sequence
UNALIGNED = {"ignores_padding": "labels have a separate grid without a mask"}

ROWS: dict[str, tuple[Callable[..., Any], Any, Any]] = {
    "MeanSquaredError": (losses.MeanSquaredError, normal(3), normal(3)),
    "MeanSquaredError-flat": (losses.MeanSquaredError, normal(1), normal()),
    "MeanAbsoluteError": (losses.MeanAbsoluteError, normal(3), normal(3)),
    "MeanAbsolutePercentageError": (losses.MeanAbsolutePercentageError, normal(3), positive(3)),
    "MeanSquaredLogarithmicError": (losses.MeanSquaredLogarithmicError, positive(3), positive(3)),
    "CosineSimilarity": (losses.CosineSimilarity, normal(3), normal(3)),
    "Huber": (lambda **k: losses.Huber(0.7, **k), normal(3), normal(3)),
    "LogCosh": (losses.LogCosh, normal(3), normal(3)),
    "Hinge": (losses.Hinge, normal(3), binary(3)),
    "SquaredHinge": (losses.SquaredHinge, normal(3), binary(3)),
    "CategoricalHinge": (losses.CategoricalHinge, normal(4), one_hot(4)),
    "KLDivergence": (losses.KLDivergence, probabilities(4), probabilities(4)),
    "Poisson": (losses.Poisson, positive(3), positive(3)),
    "BinaryCrossentropy": (losses.BinaryCrossentropy, probabilities(1), binary(1)),
    "BinaryCrossentropy-logits": (
        lambda **k: losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2, **k),
        normal(3),
        binary(3),
    ),
    "BinaryFocalCrossentropy": (
        lambda **k: losses.BinaryFocalCrossentropy(True, from_logits=True, **k),
        normal(3),
        binary(3),
    ),
    "CategoricalCrossentropy": (losses.CategoricalCrossentropy, probabilities(4), one_hot(4)),
    "CategoricalCrossentropy-logits": (
        lambda **k: losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2, **k),
        normal(4),
        one_hot(4),
    ),
    "CategoricalFocalCrossentropy": (losses.CategoricalFocalCrossentropy, probabilities(4), one_hot(4)),
    "CategoricalGeneralizedCrossEntropy": (losses.CategoricalGeneralizedCrossEntropy, probabilities(4), labels(4)),
    "SparseCategoricalCrossentropy": (losses.SparseCategoricalCrossentropy, probabilities(4), labels(4)),
    "SparseCategoricalCrossentropy-logits": (
        lambda **k: losses.SparseCategoricalCrossentropy(from_logits=True, **k),
        normal(4),
        labels(4),
    ),
    "SparseCategoricalCrossentropy-ignore": (
        lambda **k: losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1, **k),
        normal(4),
        labels(4),
    ),
    "Dice": (losses.Dice, probabilities(3), binary(3)),
    "Dice-rows": (lambda **k: losses.Dice(axis=-1, **k), probabilities(3), binary(3)),
    "Tversky": (lambda **k: losses.Tversky(0.3, 0.7, **k), probabilities(3), binary(3)),
    "LossFunctionWrapper": (lambda **k: losses.LossFunctionWrapper(squares, **k), normal(3), normal(3)),
    "LossFunctionWrapper-sequences": (lambda **k: losses.LossFunctionWrapper(largest_error, **k), normal(3), normal(3)),
    "TorchLoss": (
        lambda **k: losses.TorchLoss(torch.nn.CrossEntropyLoss(reduction="none", ignore_index=1), **k),
        normal(4),
        labels(4),
    ),
    "Circle": (lambda **k: losses.Circle(gamma=2.0, **k), unit(3), labels(2)),
    "CTC": (losses.CTC, normal(24), ctc_labels),
}
REDUCTIONS = ("sum_over_batch_size", "mean_with_sample_weight", "sum", "none")
ALL_REDUCTIONS = ("MeanSquaredError", "SparseCategoricalCrossentropy-ignore", "LossFunctionWrapper-sequences", "TorchLoss")


def _losses() -> list[ObjectiveCase]:
    """Return a case of each loss with one of the reductions, and of some losses with all."""
    reductions, cases = cycle(REDUCTIONS), []
    for name, (make, outputs, targets) in ROWS.items():
        known_violations = PAIRS if name == "Circle" else UNALIGNED if name == "CTC" else {}
        weights = SEQUENCE_WEIGHTS if name == "CTC" or "sequences" in name else ObjectiveCase.weights
        for reduction in REDUCTIONS if name in ALL_REDUCTIONS else (next(reductions),):
            if name in ("Dice", "Tversky"):
                reduction = "mean"  # the loss is one ratio with any reduction
            cases.append(
                ObjectiveCase(
                    f"{name}-{reduction}",
                    lambda m=make, r=reduction: m(reduction=r),
                    outputs,
                    targets,
                    known_violations,
                    weights,
                )
            )
    return cases


LOSSES = _losses()
TAGS = ["O", "B-A", "I-A", "B-B", "I-B"]
SCORES = (probabilities(3), binary(3))
METRICS = [
    ObjectiveCase(name, make, *drawn)
    for name, make, *drawn in [
        ("Accuracy", metrics.Accuracy, labels(2), labels(2)),
        ("AUC", metrics.AUC, *SCORES),
        ("AUC-PR", lambda: metrics.AUC(10, "PR", multi_label=True, label_weights=[1.0, 2.0, 0.5]), *SCORES),
        ("AUC-PRGAIN", lambda: metrics.AUC(10, "PRGAIN", "minoring", label_weights=[1.0, 2.0, 0.5]), *SCORES),
        ("BinaryAccuracy", metrics.BinaryAccuracy, probabilities(1), binary()),
        ("BinaryCrossentropy", metrics.BinaryCrossentropy, *SCORES),
        ("BinaryIoU", metrics.BinaryIoU, probabilities(1), binary(1)),
        ("CategoricalAccuracy", metrics.CategoricalAccuracy, probabilities(4), one_hot(4)),
        ("CategoricalCrossentropy", metrics.CategoricalCrossentropy, probabilities(4), one_hot(4)),
        ("CategoricalHinge", metrics.CategoricalHinge, normal(4), one_hot(4)),
        ("ConcordanceCorrelation", metrics.ConcordanceCorrelation, normal(3), normal(3)),
        ("CosineSimilarity", metrics.CosineSimilarity, normal(3), normal(3)),
        ("F1Score", lambda: metrics.F1Score(average="macro"), probabilities(4), one_hot(4)),
        ("F1Score-each", lambda: metrics.F1Score(threshold=0.3), probabilities(4), binary(4)),
        ("FBetaScore", lambda: metrics.FBetaScore("weighted", 2.0), probabilities(4), labels(4)),
        ("FalseNegatives", metrics.FalseNegatives, *SCORES),
        ("FalsePositives", lambda: metrics.FalsePositives([0.7, 0.2]), *SCORES),
        ("Hinge", metrics.Hinge, normal(3), binary(3)),
        ("IoU", lambda: metrics.IoU(3, [0, 2], ignore_class=1), labels(3), labels(3)),
        ("KLDivergence", metrics.KLDivergence, probabilities(4), probabilities(4)),
        ("LogCoshError", metrics.LogCoshError, normal(3), normal(3)),
        ("MeanAbsoluteError", metrics.MeanAbsoluteError, normal(3), normal(3)),
        ("MeanAbsolutePercentageError", metrics.MeanAbsolutePercentageError, normal(3), positive(3)),
        ("MeanIoU", lambda: metrics.MeanIoU(3), labels(3), labels(3)),
        ("MeanMetricWrapper", lambda: metrics.MeanMetricWrapper(squares), normal(3), normal(3)),
        ("MeanSquaredError", metrics.MeanSquaredError, normal(3), normal(3)),
        ("MeanSquaredLogarithmicError", metrics.MeanSquaredLogarithmicError, positive(3), positive(3)),
        ("OneHotIoU", lambda: metrics.OneHotIoU(4, [1, 2]), probabilities(4), one_hot(4)),
        ("OneHotMeanIoU", lambda: metrics.OneHotMeanIoU(4), probabilities(4), one_hot(4)),
        ("PearsonCorrelation", metrics.PearsonCorrelation, normal(3), normal(3)),
        ("Perplexity", metrics.Perplexity, probabilities(4), labels(4)),
        ("Poisson", metrics.Poisson, positive(3), positive(3)),
        ("Precision", lambda: metrics.Precision(class_id=1), probabilities(4), labels(4)),
        ("Precision-top", lambda: metrics.Precision(top_k=2), probabilities(4), one_hot(4)),
        ("PrecisionAtRecall", lambda: metrics.PrecisionAtRecall(0.4, 20), *SCORES),
        ("R2Score", metrics.R2Score, normal(3), normal(3)),
        ("Recall", lambda: metrics.Recall([0.1, 0.6]), *SCORES),
        ("RecallAtPrecision", lambda: metrics.RecallAtPrecision(0.4, 20), *SCORES),
        ("RootMeanSquaredError", metrics.RootMeanSquaredError, normal(3), normal(3)),
        ("SensitivityAtSpecificity", lambda: metrics.SensitivityAtSpecificity(0.4, 20), *SCORES),
        ("SpanF1", lambda: metrics.SpanF1(TAGS), labels(5), labels(5)),
        ("SpanF1-scores", lambda: metrics.SpanF1(TAGS, average=None), probabilities(5), one_hot(5)),
        ("SparseCategoricalAccuracy", metrics.SparseCategoricalAccuracy, probabilities(4), labels(4)),
        ("SparseCategoricalCrossentropy", metrics.SparseCategoricalCrossentropy, probabilities(4), labels(4)),
        ("SparseTopKCategoricalAccuracy", lambda: metrics.SparseTopKCategoricalAccuracy(2), probabilities(4), labels(4)),
        ("SpecificityAtSensitivity", lambda: metrics.SpecificityAtSensitivity(0.4, 20), *SCORES),
        ("SquaredHinge", metrics.SquaredHinge, normal(3), binary(3)),
        ("TopKCategoricalAccuracy", lambda: metrics.TopKCategoricalAccuracy(2), probabilities(4), one_hot(4)),
        ("TrueNegatives", metrics.TrueNegatives, *SCORES),
        ("TruePositives", metrics.TruePositives, *SCORES),
    ]
]
VALUE_METRICS = {"Mean", "Sum"}  # they take values, not targets and outputs
