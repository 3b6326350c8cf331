"""The metrics, with Keras's names, arguments and numbers, over real steps only.

What `compile` takes for a metric goes through `get`: a name, an object, a config, a function of `(y_true, y_pred)`, a
loss, a metric of torchmetrics. "accuracy" is the accuracy that fits the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, one_of
from padless.ragged.packed import Packed
from padless.registry import register
from padless.saving import config as saving
from padless.training import losses
from padless.training.align import read
from padless.training.loss import Loss
from padless.training.loss_functions import (
    binary_crossentropy,
    categorical_crossentropy,
    check_ids,
    mean_absolute_error,
    mean_squared_error,
)
from padless.training.metric import Mean, MeanMetricWrapper, Measure, Metric, TorchMetric, double
from padless.training.metric_functions import (
    accuracy,
    binary_accuracy,
    categorical_accuracy,
    sparse_categorical_accuracy,
)

__all__ = [
    "Accuracy", "BinaryAccuracy", "BinaryCrossentropy", "CategoricalAccuracy", "CategoricalCrossentropy", "F1Score",
    "Mean", "MeanAbsoluteError", "MeanMetricWrapper", "MeanSquaredError", "Metric", "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy", "TorchMetric", "accuracy", "binary_accuracy", "categorical_accuracy", "get",
    "sparse_categorical_accuracy",
]


class _Named(MeanMetricWrapper):
    """A mean whose function is part of the class; `own` are the function's arguments, which the config has."""

    def __init__(self, fn: Any, name: str | None, dtype: str | None, **own: Any) -> None:
        super().__init__(fn, name, dtype, **own)
        self.own = own

    def get_config(self) -> dict[str, Any]:
        return {**Metric.get_config(self), **self.own}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        return cls(**config)


@register("metric")
class Accuracy(_Named):
    """How often outputs equal targets."""

    def __init__(self, name: str | None = "accuracy", dtype: str | None = None) -> None:
        super().__init__(accuracy, name, dtype)


@register("metric", "binary_accuracy")
class BinaryAccuracy(_Named):
    """How often outputs above `threshold` meet targets of 1, and others targets of 0."""

    def __init__(self, name: str | None = "binary_accuracy", dtype: str | None = None, threshold: float = 0.5) -> None:
        super().__init__(binary_accuracy, name, dtype, threshold=threshold)


@register("metric", "categorical_accuracy")
class CategoricalAccuracy(_Named):
    """How often the largest output is the one that the one-hot target names."""

    def __init__(self, name: str | None = "categorical_accuracy", dtype: str | None = None) -> None:
        super().__init__(categorical_accuracy, name, dtype)


@register("metric", "sparse_categorical_accuracy")
class SparseCategoricalAccuracy(_Named):
    """How often the largest output is the one that the class id names.

    >>> metric = SparseCategoricalAccuracy()
    >>> metric([[1, 0]], torch.tensor([[[0., 1.], [0., 1.]]])).item()
    0.5
    """

    def __init__(self, name: str | None = "sparse_categorical_accuracy", dtype: str | None = None) -> None:
        super().__init__(sparse_categorical_accuracy, name, dtype)


@register("metric", "mean_squared_error", "mse", "MSE")
class MeanSquaredError(_Named):
    """The mean squared error."""

    def __init__(self, name: str | None = "mean_squared_error", dtype: str | None = None) -> None:
        super().__init__(mean_squared_error, name, dtype)


@register("metric", "mean_absolute_error", "mae", "MAE")
class MeanAbsoluteError(_Named):
    """The mean absolute error."""

    def __init__(self, name: str | None = "mean_absolute_error", dtype: str | None = None) -> None:
        super().__init__(mean_absolute_error, name, dtype)


@register("metric", "binary_crossentropy", "bce", "BCE")
class BinaryCrossentropy(_Named):
    """The mean binary cross entropy."""

    def __init__(self, name: str | None = "binary_crossentropy", dtype: str | None = None, from_logits: bool = False,
                 label_smoothing: float = 0.0) -> None:
        super().__init__(binary_crossentropy, name, dtype, from_logits=from_logits, label_smoothing=label_smoothing)


@register("metric", "categorical_crossentropy")
class CategoricalCrossentropy(_Named):
    """The mean cross entropy with one-hot labels."""

    def __init__(self, name: str | None = "categorical_crossentropy", dtype: str | None = None,
                 from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1) -> None:
        super().__init__(categorical_crossentropy, name, dtype, from_logits=from_logits,
                         label_smoothing=label_smoothing, axis=axis)


@register("metric", "sparse_categorical_crossentropy")
class SparseCategoricalCrossentropy(_Named):
    """The mean cross entropy with class ids; steps labelled `ignore_class` do not count."""

    def __init__(self, name: str | None = "sparse_categorical_crossentropy", dtype: str | None = None,
                 from_logits: bool = False, ignore_class: int | None = None, axis: int = -1) -> None:
        loss = losses.SparseCategoricalCrossentropy(from_logits, ignore_class, axis=axis)
        super().__init__(loss, name, dtype, from_logits=from_logits, ignore_class=ignore_class, axis=axis)


@register("metric", "f1_score")
class F1Score(Metric):
    """The harmonic mean of precision and recall, per class `(C,)`, or averaged: "micro", "macro", "weighted".

    Targets are one-hot or class ids. Without a `threshold` the largest output is the prediction; with one, every output
    above it. A class without a target and without a prediction has 0, as in Keras.

    >>> F1Score("macro")([[0, 1, 1]], torch.eye(2)[torch.tensor([[0, 1, 0]])]).item()
    0.6666...
    """

    AVERAGES = ("macro", "micro", "weighted")

    def __init__(self, average: str | None = None, threshold: float | None = None, name: str | None = "f1_score",
                 dtype: str | None = None) -> None:
        super().__init__(name, dtype)
        if average is not None and average not in self.AVERAGES:
            raise ArgumentError(one_of("average", average, self.AVERAGES))
        self.average, self.threshold = average, threshold
        self.rows = Measure(self._compare)
        self.reset_state()

    def reset_state(self) -> None:
        self.counts: Tensor | float = 0.0  # (3, C): right, predicted, true

    @torch.no_grad()
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the real steps of a batch."""
        measured = self.rows.measure(y_true, y_pred, sample_weight)
        dtype = double(measured.values)
        if len(measured.values):
            right_predicted_true = measured.weighted.to(dtype).sum(0)
        else:
            right_predicted_true = measured.values.new_zeros((3, read(y_pred, "y_pred").shape[-1]), dtype=dtype)
        self.counts = self.counts + right_predicted_true

    def _compare(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """For each row and class: right, predicted, true; `(N, 3, C)`."""
        rows = y_pred.reshape(len(y_pred), -1, y_pred.shape[-1])  # (N, K, C)
        classes = rows.shape[-1]
        if y_true.shape == y_pred.shape:
            true = y_true.reshape(rows.shape).to(rows.dtype)
        elif y_true.numel() == rows.shape[0] * rows.shape[1]:
            check_ids(y_true, classes)
            true = torch.nn.functional.one_hot(y_true.reshape(rows.shape[:-1]).long(), classes).to(rows.dtype)
        else:
            raise ShapeError(f"Targets of shape {tuple(y_true.shape)} do not fit outputs of shape "
                             f"{tuple(y_pred.shape)}: expected class ids or one-hot labels.")
        if self.threshold is None:  # outputs of nothing but 0 predict nothing
            chosen = (rows >= rows.amax(-1, keepdim=True)) & (rows.abs() > 1e-9)
        else:
            chosen = rows > self.threshold
        chosen = chosen.to(rows.dtype)
        return torch.stack([chosen * true, chosen, true], dim=2).sum(1)

    def result(self) -> Tensor:
        """The score over all that was added."""
        if not isinstance(self.counts, Tensor):
            return torch.tensor(0.0)
        right, predicted, true = self.counts.sum(-1) if self.average == "micro" else self.counts
        score = 2 * right / (predicted + true).clamp_min(torch.finfo(right.dtype).tiny)
        if self.average == "weighted":
            score = (score * true).sum() / true.sum().clamp_min(torch.finfo(true.dtype).tiny)
        return score.mean() if self.average == "macro" else score

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "average": self.average, "threshold": self.threshold}


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
            raise ArgumentError(f"{identifier!r} is no metric: expected one of torchmetrics, with update, compute and "
                                f"reset. For a torch loss give `padless.losses.get(module)`.")
        return TorchMetric(identifier)
    found = identifier if isinstance(identifier, Loss) else saving.get(identifier, ("metric", "loss"))
    if not isinstance(found, Metric) and callable(found):
        found = MeanMetricWrapper(found)
    if isinstance(found, Metric):
        if isinstance(identifier, str):
            found.name = identifier
        return found
    raise ArgumentError(f"{identifier!r} is no metric. Expected a name such as 'accuracy', a metric object, a function "
                        f"of (y_true, y_pred), or a metric of torchmetrics.")


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
