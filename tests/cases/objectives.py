"""Losses and metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from padless import losses, metrics
from padless.registry import register
from padless.testing import binary, labels, normal, one_hot, probabilities


@dataclass(frozen=True)
class Measure:
    """A way to make a loss or metric, and how its outputs and targets are drawn."""

    name: str
    make: Callable[[], Any]
    outputs: Any
    targets: Any

    @property
    def layer(self) -> str:
        """The class that this case is about."""
        return self.name.split("-")[0]


@register("loss_function")
def squares(y_true: Any, y_pred: Any) -> Any:
    """A loss function of rows."""
    return (y_true - y_pred).square().mean(-1)


@register("loss_function")
def spread_of(y_true: Any, y_pred: Any, mask: Any) -> Any:
    """A loss function of whole sequences."""
    return torch.where(mask[..., None], (y_true - y_pred).abs(), 0).amax((1, 2))


def _losses() -> list[Measure]:
    made: dict[str, tuple[Callable[..., Any], Any, Any]] = {
        "MeanSquaredError": (losses.MeanSquaredError, normal(3), normal(3)),
        "MeanSquaredError-flat": (losses.MeanSquaredError, normal(1), normal()),
        "MeanAbsoluteError": (losses.MeanAbsoluteError, normal(3), normal(3)),
        "BinaryCrossentropy": (losses.BinaryCrossentropy, probabilities(1), binary(1)),
        "BinaryCrossentropy-logits": (lambda **k: losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2, **k),
                                      normal(3), binary(3)),
        "CategoricalCrossentropy": (losses.CategoricalCrossentropy, probabilities(4), one_hot(4)),
        "CategoricalCrossentropy-logits": (
            lambda **k: losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2, **k), normal(4), one_hot(4)),
        "SparseCategoricalCrossentropy": (losses.SparseCategoricalCrossentropy, probabilities(4), labels(4)),
        "SparseCategoricalCrossentropy-logits": (
            lambda **k: losses.SparseCategoricalCrossentropy(from_logits=True, **k), normal(4), labels(4)),
        "SparseCategoricalCrossentropy-ignore": (
            lambda **k: losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1, **k), normal(4), labels(4)),
        "LossFunctionWrapper": (lambda **k: losses.LossFunctionWrapper(squares, **k), normal(3), normal(3)),
        "LossFunctionWrapper-sequences": (lambda **k: losses.LossFunctionWrapper(spread_of, **k), normal(3), normal(3)),
        "TorchLoss": (lambda **k: losses.TorchLoss(torch.nn.CrossEntropyLoss(reduction="none", ignore_index=1), **k),
                      normal(4), labels(4)),
    }
    return [Measure(f"{name}-{reduction}", lambda m=make, r=reduction: m(reduction=r), outputs, targets)
            for name, (make, outputs, targets) in made.items()
            for reduction in ("sum_over_batch_size", "mean_with_sample_weight", "sum", "none")]


LOSSES = _losses()
METRICS = [
    Measure("Accuracy", metrics.Accuracy, labels(2), labels(2)),
    Measure("BinaryAccuracy", metrics.BinaryAccuracy, probabilities(1), binary()),
    Measure("BinaryCrossentropy", metrics.BinaryCrossentropy, probabilities(3), binary(3)),
    Measure("CategoricalAccuracy", metrics.CategoricalAccuracy, probabilities(4), one_hot(4)),
    Measure("CategoricalCrossentropy", metrics.CategoricalCrossentropy, probabilities(4), one_hot(4)),
    Measure("F1Score", lambda: metrics.F1Score(average="macro"), probabilities(4), one_hot(4)),
    Measure("F1Score-each", lambda: metrics.F1Score(threshold=0.3), probabilities(4), binary(4)),
    Measure("MeanAbsoluteError", metrics.MeanAbsoluteError, normal(3), normal(3)),
    Measure("MeanMetricWrapper", lambda: metrics.MeanMetricWrapper(squares), normal(3), normal(3)),
    Measure("MeanSquaredError", metrics.MeanSquaredError, normal(3), normal(3)),
    Measure("SparseCategoricalAccuracy", metrics.SparseCategoricalAccuracy, probabilities(4), labels(4)),
    Measure("SparseCategoricalCrossentropy", metrics.SparseCategoricalCrossentropy, probabilities(4), labels(4)),
]
NO_PAIRS = {"Mean"}  # it takes values alone
