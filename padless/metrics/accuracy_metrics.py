"""The accuracies: how often the outputs are right, or nearly right."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padless.errors import MaskLost, ShapeError
from padless.losses.base import check_class_ids, match_class_ids
from padless.metrics.metric import MeanMetricWithFunction, register_metric
from padless.ragged.alignment import match_rank, to_tensor
from padless.ragged.device import to_device
from padless.ragged.packed import Packed
from padless.registry import register


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
        raise ShapeError(
            f"One-hot targets of shape {tuple(y_true.shape)} do not fit outputs of shape "
            f"{tuple(y_pred.shape)}. For class ids use sparse_categorical_accuracy."
        )
    return _equal(y_true.argmax(-1), y_pred.argmax(-1))


@register("metric_function")
def sparse_categorical_accuracy(y_true: Any, y_pred: Any) -> Tensor:
    """Whether the largest output stands at the class id."""
    y_true, y_pred = _rows(y_true, y_pred)
    if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    return _equal(y_true, y_pred.argmax(-1))


@register("metric_function")
def top_k_categorical_accuracy(y_true: Any, y_pred: Any, k: int = 5) -> Tensor:
    """Whether the class of the one-hot target is among the `k` largest outputs.

    >>> top_k_categorical_accuracy([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.9, 0.1, 0.2]], k=2)
    tensor([1., 0.])
    """
    y_true, y_pred = _rows(y_true, y_pred)
    if y_true.shape != y_pred.shape:
        raise ShapeError(
            f"One-hot targets of shape {tuple(y_true.shape)} do not fit outputs of shape "
            f"{tuple(y_pred.shape)}. For class ids use sparse_top_k_categorical_accuracy."
        )
    return _among(y_true.argmax(-1), y_pred, k)


@register("metric_function")
def sparse_top_k_categorical_accuracy(y_true: Any, y_pred: Any, k: int = 5, from_sorted_ids: bool = False) -> Tensor:
    """Whether the class id is among the `k` largest outputs; or among the first `k` outputs, if these are sorted ids.

    >>> sparse_top_k_categorical_accuracy([2, 1], [[0.1, 0.9, 0.8], [0.9, 0.1, 0.2]], k=2)
    tensor([1., 0.])
    """
    y_true, y_pred = _rows(y_true, y_pred)
    ids = match_class_ids(y_true, y_pred)
    if from_sorted_ids:
        return (ids.unsqueeze(-1) == y_pred[..., :k]).any(-1).float()
    check_class_ids(ids, y_pred.shape[-1])
    return _among(ids.long(), y_pred, k)


def _rows(y_true: Any, y_pred: Any) -> tuple[Tensor, Tensor]:
    y_true, y_pred = to_tensor(y_true, "y_true"), to_tensor(y_pred, "y_pred")
    if isinstance(y_true, Packed) or isinstance(y_pred, Packed):
        raise MaskLost(
            "A metric function takes plain rows. For Packed outputs or targets use the metric as an object, "
            "for example `SparseCategoricalAccuracy()(y_true, y_pred)`."
        )
    return to_device(y_true, y_pred.device), y_pred


def _among(ids: Tensor, y_pred: Tensor, k: int) -> Tensor:
    """Whether fewer than `k` outputs are larger than that of the class: of equal ones all are among them, as in Keras."""
    own = y_pred.gather(-1, ids.unsqueeze(-1))
    return (((y_pred > own).sum(-1) < k) & own.squeeze(-1).isfinite()).float()


def _equal(y_true: Tensor, y_pred: Tensor) -> Tensor:
    if y_true.shape != y_pred.shape:
        raise ShapeError(f"Targets of shape {tuple(y_true.shape)} do not fit outputs of shape {tuple(y_pred.shape)}.")
    return (y_true == y_pred).float()


@register_metric()
class Accuracy(MeanMetricWithFunction):
    """How often outputs equal targets.

    >>> Accuracy()([[1], [2]], [[1], [3]]).item()
    0.5
    """

    def __init__(self, name: str | None = "accuracy", dtype: str | None = None) -> None:
        super().__init__(accuracy, name, dtype)


@register_metric()
class BinaryAccuracy(MeanMetricWithFunction):
    """How often outputs above `threshold` meet targets of 1, and others targets of 0.

    >>> BinaryAccuracy()([[1], [0]], [[0.7], [0.6]]).item()
    0.5
    """

    def __init__(self, name: str | None = "binary_accuracy", dtype: str | None = None, threshold: float = 0.5) -> None:
        super().__init__(binary_accuracy, name, dtype, threshold=threshold)


@register_metric()
class CategoricalAccuracy(MeanMetricWithFunction):
    """How often the largest output is the one that the one-hot target names.

    >>> CategoricalAccuracy()([[0, 1], [1, 0]], [[0.2, 0.8], [0.2, 0.8]]).item()
    0.5
    """

    def __init__(self, name: str | None = "categorical_accuracy", dtype: str | None = None) -> None:
        super().__init__(categorical_accuracy, name, dtype)


@register_metric()
class SparseCategoricalAccuracy(MeanMetricWithFunction):
    """How often the largest output is the one that the class id names.

    >>> metric = SparseCategoricalAccuracy()
    >>> metric([[1, 0]], [[[0., 1.], [0., 1.]]]).item()
    0.5
    """

    def __init__(self, name: str | None = "sparse_categorical_accuracy", dtype: str | None = None) -> None:
        super().__init__(sparse_categorical_accuracy, name, dtype)


@register_metric()
class TopKCategoricalAccuracy(MeanMetricWithFunction):
    """How often the class of the one-hot target is among the `k` largest outputs.

    >>> TopKCategoricalAccuracy(k=2)([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.9, 0.1, 0.2]]).item()
    0.5
    """

    def __init__(self, k: int = 5, name: str | None = "top_k_categorical_accuracy", dtype: str | None = None) -> None:
        super().__init__(top_k_categorical_accuracy, name, dtype, k=k)


@register_metric()
class SparseTopKCategoricalAccuracy(MeanMetricWithFunction):
    """How often the class id is among the `k` largest outputs; or among the first `k` outputs, if these are sorted ids.

    >>> SparseTopKCategoricalAccuracy(k=2)([2, 1], [[0.1, 0.9, 0.8], [0.9, 0.1, 0.2]]).item()
    0.5
    """

    def __init__(
        self,
        k: int = 5,
        name: str | None = "sparse_top_k_categorical_accuracy",
        dtype: str | None = None,
        from_sorted_ids: bool = False,
    ) -> None:
        super().__init__(sparse_top_k_categorical_accuracy, name, dtype, k=k, from_sorted_ids=from_sorted_ids)
