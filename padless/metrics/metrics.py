"""Metrics by name, object, config, function or torchmetrics metric, and their configs. `compile` uses `get`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from padless.errors import ArgumentError
from padless.losses.loss import Loss
from padless.metrics.accuracy_metrics import (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
)
from padless.metrics.metric import FUNCTION_KINDS, MeanMetricWrapper, Metric
from padless.metrics.torchmetrics_adapter import TorchMetric
from padless.ragged.packed import Packed
from padless.saving import serialization as saving
from padless.types import ArrayLike, ConfigLike, MetricLike, Shape


def get(
    identifier: MetricLike | None, y_true: ArrayLike | Shape | None = None, y_pred: ArrayLike | Shape | None = None
) -> Metric:
    """Return the metric that a name, an object, a class, a config, a function, a loss or a torchmetrics metric means.

    "accuracy" and "acc" mean the accuracy that fits the shapes: `BinaryAccuracy` for outputs of size 1,
    `SparseCategoricalAccuracy` for class ids, else `CategoricalAccuracy`; without shapes `Accuracy`.

    Args:
        identifier: For example `"mae"`, `AUC()`, or a function of `(y_true, y_pred)`. A metric has its name.
        y_true: Targets, or their shape.
        y_pred: Outputs, or their shape.

    Raises:
        ArgumentError: It means no metric.

    Example:
        >>> get("accuracy", (32, 10), (32, 10, 5))
        <SparseCategoricalAccuracy 'accuracy'>
    """
    if isinstance(identifier, str) and identifier.lower() in ("accuracy", "acc"):
        return _accuracy_class(y_true, y_pred)(name=identifier)
    if isinstance(identifier, torch.nn.Module):
        if not all(hasattr(identifier, method) for method in ("update", "compute", "reset")):
            raise ArgumentError(
                f"{identifier!r} is not a metric: expected one of torchmetrics, with update, compute and "
                f"reset. For a torch loss give `padless.losses.get(module)`."
            )
        return TorchMetric(identifier)
    if isinstance(identifier, Loss):
        return MeanMetricWrapper(identifier)
    metric = saving.get(identifier, ("metric", "loss", "metric_function"))
    if not isinstance(metric, Metric) and callable(metric):
        metric = MeanMetricWrapper(metric)
    if not isinstance(metric, Metric):
        raise ArgumentError(
            f"{identifier!r} is not a metric. Expected a name such as 'accuracy', a metric object, a function "
            f"of (y_true, y_pred), or a metric of torchmetrics."
        )
    if isinstance(identifier, str):
        metric.name = identifier
    return metric


def serialize(metric: MetricLike) -> str | dict[str, object]:
    """Return the config of a metric, or the name of a registered function, as JSON values.

    Example:
        >>> from padless.metrics import F1Score
        >>> serialize(F1Score("macro"))["config"]["average"]
        'macro'
    """
    return saving.serialize(metric, FUNCTION_KINDS[::-1])


def deserialize(config: ConfigLike, custom_objects: Mapping[str, object] | None = None) -> Metric:
    """Return the metric or the function of a config that `serialize` returned, or of a name.

    Args:
        config: A name or config.
        custom_objects: Names that are not registered.

    Raises:
        ArgumentError: The name is unknown, or the config is not valid.

    Example:
        >>> from padless.metrics import F1Score
        >>> deserialize(serialize(F1Score("macro"))).average
        'macro'
    """
    return saving.deserialize(config, ("metric", "metric_function", "loss_function"), custom_objects)


def _accuracy_class(y_true: ArrayLike | Shape | None, y_pred: ArrayLike | Shape | None) -> type[Metric]:
    """Return the class of accuracy that fits targets and outputs."""
    if y_true is None or y_pred is None:
        return Accuracy
    true_shape, pred_shape = _shape_of(y_true), _shape_of(y_pred)
    if pred_shape[-1] == 1:
        return BinaryAccuracy
    has_class_ids = len(true_shape) < len(pred_shape) or true_shape[-1] == 1
    return SparseCategoricalAccuracy if has_class_ids else CategoricalAccuracy


def _shape_of(data: ArrayLike | Shape) -> Shape:
    """Return a shape, or the shape of data; a `Packed` without features has one of size 1."""
    if isinstance(data, Packed):
        return (*data.shape, 1) if data.values.ndim == 1 else data.shape
    shape = getattr(data, "shape", None)  # of any array library
    if shape is not None:
        return shape
    if isinstance(data, tuple) and all(size is None or isinstance(size, int) for size in data):
        return data
    if not isinstance(data, Sequence):
        raise ArgumentError(f"Expected targets and outputs, or their shapes; got {data!r}.")
    return (len(data), *max((np.shape(np.asarray(sequence)) for sequence in data), default=()))
