"""The accuracies as functions of plain rows: 1.0 where the outputs are right."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padless.errors import MaskLost, ShapeError
from padless.ragged.packed import Packed
from padless.registry import register
from padless.training.align import match_rank, read


@register("metric_function")
def accuracy(y_true: Any, y_pred: Any) -> Tensor:
    """Whether outputs equal targets.

    >>> accuracy([[1], [2]], [[1], [3]]).tolist()
    [[1.0], [0.0]]
    """
    y_true, y_pred = match_rank(*_rows(y_true, y_pred))
    return _equal(y_true, y_pred)


@register("metric_function")
def binary_accuracy(y_true: Any, y_pred: Any, threshold: float = 0.5) -> Tensor:
    """Whether outputs above the threshold meet targets of 1."""
    y_true, y_pred = match_rank(*_rows(y_true, y_pred))
    return _equal(y_true, (y_pred > threshold).to(y_true.dtype))


@register("metric_function")
def categorical_accuracy(y_true: Any, y_pred: Any) -> Tensor:
    """Whether the largest output stands where the one-hot target has its 1."""
    y_true, y_pred = _rows(y_true, y_pred)
    if y_true.shape != y_pred.shape:
        raise ShapeError(f"One-hot targets of shape {tuple(y_true.shape)} do not fit outputs of shape "
                         f"{tuple(y_pred.shape)}. For class ids use sparse_categorical_accuracy.")
    return _equal(y_true.argmax(-1), y_pred.argmax(-1))


@register("metric_function")
def sparse_categorical_accuracy(y_true: Any, y_pred: Any) -> Tensor:
    """Whether the largest output stands at the class id."""
    y_true, y_pred = _rows(y_true, y_pred)
    if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    return _equal(y_true, y_pred.argmax(-1))


def _rows(y_true: Any, y_pred: Any) -> tuple[Tensor, Tensor]:
    y_true, y_pred = read(y_true, "y_true"), read(y_pred, "y_pred")
    if isinstance(y_true, Packed) or isinstance(y_pred, Packed):
        raise MaskLost("A metric function takes plain rows. For Packed outputs or targets use the metric as an object, "
                       "for example `SparseCategoricalAccuracy()(y_true, y_pred)`.")
    return y_true.to(y_pred.device), y_pred


def _equal(y_true: Tensor, y_pred: Tensor) -> Tensor:
    if y_true.shape != y_pred.shape:
        raise ShapeError(f"Targets of shape {tuple(y_true.shape)} do not fit outputs of shape {tuple(y_pred.shape)}.")
    return (y_true == y_pred).float()
