"""The metrics, with Keras's names, arguments and numbers, over real steps only.

What `compile` takes for a metric goes through `get`: a name, an object, a config, a function of `(y_true, y_pred)`, a
loss, a metric of torchmetrics. "accuracy" is the accuracy that fits the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from padless.errors import ArgumentError
from padless.losses.hinge_losses import categorical_hinge, hinge, squared_hinge
from padless.losses.loss import Loss
from padless.losses.probabilistic_losses import (
    binary_crossentropy,
    binary_focal_crossentropy,
    categorical_crossentropy,
    categorical_focal_crossentropy,
    kl_divergence,
    poisson,
    sparse_categorical_crossentropy,
)
from padless.losses.regression_losses import (
    huber,
    log_cosh,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
)
from padless.metrics.accuracy_metrics import (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
    accuracy,
    binary_accuracy,
    categorical_accuracy,
    sparse_categorical_accuracy,
    sparse_top_k_categorical_accuracy,
    top_k_categorical_accuracy,
)
from padless.metrics.auc import AUC
from padless.metrics.confusion_metrics import (
    FalseNegatives,
    FalsePositives,
    Precision,
    PrecisionAtRecall,
    Recall,
    RecallAtPrecision,
    SensitivityAtSpecificity,
    SpecificityAtSensitivity,
    TrueNegatives,
    TruePositives,
)
from padless.metrics.f_score_metrics import F1Score, FBetaScore, R2Score
from padless.metrics.iou_metrics import BinaryIoU, IoU, MeanIoU, OneHotIoU, OneHotMeanIoU
from padless.metrics.mean_metrics import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    CategoricalHinge,
    ConcordanceCorrelation,
    CosineSimilarity,
    Hinge,
    KLDivergence,
    LogCoshError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    PearsonCorrelation,
    Perplexity,
    Poisson,
    RootMeanSquaredError,
    SparseCategoricalCrossentropy,
    SquaredHinge,
    concordance_correlation,
    cosine_similarity,
    pearson_correlation,
)
from padless.metrics.metric import FUNCTIONS, Mean, MeanMetricWrapper, Metric, Sum
from padless.metrics.span_f1 import SpanF1
from padless.metrics.torchmetrics_adapter import TorchMetric
from padless.ragged.packed import Packed
from padless.saving import serialization as saving

__all__ = [
    "AUC",
    "Accuracy",
    "BinaryAccuracy",
    "BinaryCrossentropy",
    "BinaryIoU",
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "CategoricalHinge",
    "ConcordanceCorrelation",
    "CosineSimilarity",
    "F1Score",
    "FBetaScore",
    "FalseNegatives",
    "FalsePositives",
    "Hinge",
    "IoU",
    "KLDivergence",
    "LogCoshError",
    "Mean",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanIoU",
    "MeanMetricWrapper",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Metric",
    "OneHotIoU",
    "OneHotMeanIoU",
    "PearsonCorrelation",
    "Perplexity",
    "Poisson",
    "Precision",
    "PrecisionAtRecall",
    "R2Score",
    "Recall",
    "RecallAtPrecision",
    "RootMeanSquaredError",
    "SensitivityAtSpecificity",
    "SpanF1",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "SparseTopKCategoricalAccuracy",
    "SpecificityAtSensitivity",
    "SquaredHinge",
    "Sum",
    "TopKCategoricalAccuracy",
    "TorchMetric",
    "TrueNegatives",
    "TruePositives",
    "accuracy",
    "binary_accuracy",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_accuracy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_hinge",
    "concordance_correlation",
    "cosine_similarity",
    "deserialize",
    "get",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "pearson_correlation",
    "poisson",
    "serialize",
    "sparse_categorical_accuracy",
    "sparse_categorical_crossentropy",
    "sparse_top_k_categorical_accuracy",
    "squared_hinge",
    "top_k_categorical_accuracy",
]


def get(identifier: Any, y_true: Any = None, y_pred: Any = None) -> Metric:
    """The metric that a name, an object, a class, a config, a function, a loss or a torchmetrics metric means.

    "accuracy" and "acc" mean the accuracy that fits the targets and outputs, or their shapes: binary for outputs of
    size 1, sparse for class ids, else categorical; without any, plain equality. A name stays the metric's name.

    >>> get("accuracy", (32, 10), (32, 10, 5))
    <SparseCategoricalAccuracy 'accuracy'>
    """
    if isinstance(identifier, str) and identifier.lower() in ("accuracy", "acc"):
        return _accuracy(y_true, y_pred)(name=identifier)
    if isinstance(identifier, torch.nn.Module):
        if not all(hasattr(identifier, act) for act in ("update", "compute", "reset")):
            raise ArgumentError(
                f"{identifier!r} is not a metric: expected one of torchmetrics, with update, compute and "
                f"reset. For a torch loss give `padless.losses.get(module)`."
            )
        return TorchMetric(identifier)
    found = identifier if isinstance(identifier, Loss) else saving.get(identifier, ("metric", "loss", "metric_function"))
    if not isinstance(found, Metric) and callable(found):
        found = MeanMetricWrapper(found)
    if isinstance(found, Metric):
        if isinstance(identifier, str):
            found.name = identifier
        return found
    raise ArgumentError(
        f"{identifier!r} is not a metric. Expected a name such as 'accuracy', a metric object, a function "
        f"of (y_true, y_pred), or a metric of torchmetrics."
    )


def serialize(metric: Any) -> Any:
    """A metric, or a registered function, as JSON has it.

    >>> serialize(F1Score("macro"))["config"]["average"]
    'macro'
    """
    return saving.serialize(metric, FUNCTIONS[::-1])


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """What `serialize` wrote, as a metric again.

    >>> deserialize(serialize(F1Score("macro"))).average
    'macro'
    """
    return saving.deserialize(config, ("metric", "metric_function", "loss_function"), custom_objects)


def _accuracy(y_true: Any, y_pred: Any) -> type[Metric]:
    if y_true is None or y_pred is None:
        return Accuracy
    true, pred = _shape(y_true), _shape(y_pred)
    if pred[-1] == 1:
        return BinaryAccuracy
    return SparseCategoricalAccuracy if len(true) < len(pred) or true[-1] == 1 else CategoricalAccuracy


def _shape(given: Any) -> Sequence[int | None]:
    """A shape, or the shape of data; a Packed without features has one of size 1."""
    if isinstance(given, Packed):
        return (*given.shape, 1) if given.values.ndim == 1 else given.shape
    if hasattr(given, "shape"):
        return given.shape
    if isinstance(given, tuple) and all(size is None or isinstance(size, int) for size in given):
        return given
    return (len(given), *max((np.shape(item) for item in given), default=()))
