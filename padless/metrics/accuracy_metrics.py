"""Accuracies: the share of real steps whose output is right."""

from __future__ import annotations

from torch import Tensor

from padless.errors import MaskLost, ShapeError
from padless.losses.base import check_class_ids, match_class_ids
from padless.metrics.metric import MeanMetricWithFunction, register_metric, without_booleans
from padless.ragged.alignment import match_rank, to_tensor
from padless.ragged.device import to_device
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import ArrayLike


@register("metric_function")
def accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return 1 where an output equals its target, else 0.

    Args:
        y_true: Targets `(N, ...)`.
        y_pred: Outputs in the same shape.

    Returns:
        One value for each element.

    Example:
        >>> accuracy([[1], [2]], [[1], [3]]).tolist()
        [[1.0], [0.0]]
    """
    return _equal(*match_rank(*_read_tensors(y_true, y_pred)))


@register("metric_function")
def binary_accuracy(y_true: ArrayLike, y_pred: ArrayLike, threshold: float = 0.5) -> Tensor:
    """Return 1 where an output is above the threshold and its target is 1, or neither, else 0.

    Args:
        y_true: Labels 0 and 1, `(N, ...)`.
        y_pred: Outputs in the same shape.
        threshold: The largest output that predicts 0.

    Returns:
        One value for each element.

    Example:
        >>> binary_accuracy([[1, 0]], [[0.7, 0.6]]).tolist()
        [[1.0, 0.0]]
    """
    targets, outputs = match_rank(*_read_tensors(y_true, y_pred))
    return _equal(targets, (outputs > threshold).to(targets.dtype))


@register("metric_function")
def categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return 1 where the largest output is that of the class of the one-hot label, else 0.

    Args:
        y_true: One-hot labels `(N, C)`.
        y_pred: Outputs `(N, C)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> categorical_accuracy([[0, 1], [1, 0]], [[0.2, 0.8], [0.2, 0.8]])
        tensor([1., 0.])
    """
    targets, outputs = _read_one_hot(y_true, y_pred, "sparse_categorical_accuracy")
    return _equal(targets.argmax(-1), outputs.argmax(-1))


@register("metric_function")
def sparse_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return 1 where the largest output is that of the class id, else 0.

    Args:
        y_true: Class ids `(N,)` or `(N, 1)`.
        y_pred: Outputs `(N, C)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> sparse_categorical_accuracy([1, 0], [[0.2, 0.8], [0.2, 0.8]])
        tensor([1., 0.])
    """
    targets, outputs = _read_tensors(y_true, y_pred)
    if targets.ndim == outputs.ndim and targets.shape[-1] == 1:
        targets = targets.squeeze(-1)
    return _equal(targets, outputs.argmax(-1))


@register("metric_function")
def top_k_categorical_accuracy(y_true: ArrayLike, y_pred: ArrayLike, k: int = 5) -> Tensor:
    """Return 1 where the class of the one-hot label is among the `k` largest outputs, else 0.

    Args:
        y_true: One-hot labels `(N, C)`.
        y_pred: Outputs `(N, C)`.
        k: The number of outputs.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> top_k_categorical_accuracy([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.9, 0.1, 0.2]], k=2)
        tensor([1., 0.])
    """
    targets, outputs = _read_one_hot(y_true, y_pred, "sparse_top_k_categorical_accuracy")
    return _is_in_top_k(targets.argmax(-1), outputs, k)


@register("metric_function")
def sparse_top_k_categorical_accuracy(
    y_true: ArrayLike, y_pred: ArrayLike, k: int = 5, from_sorted_ids: bool = False
) -> Tensor:
    """Return 1 where the class id is among the `k` largest outputs, else 0.

    Args:
        y_true: Class ids `(N,)` or `(N, 1)`.
        y_pred: Outputs `(N, C)`, or class ids, the best first.
        k: The number of outputs.
        from_sorted_ids: Whether `y_pred` are class ids.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> sparse_top_k_categorical_accuracy([2, 1], [[0.1, 0.9, 0.8], [0.9, 0.1, 0.2]], k=2)
        tensor([1., 0.])
    """
    targets, outputs = _read_tensors(y_true, y_pred)
    ids = match_class_ids(targets, outputs)
    if from_sorted_ids:
        return (ids.unsqueeze(-1) == outputs[..., :k]).any(-1).float()
    check_class_ids(ids, outputs.shape[-1])
    return _is_in_top_k(ids.long(), outputs, k)


def _read_tensors(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return targets and outputs as tensors on one device; raise `MaskLost` for `Packed` ones."""
    targets, outputs = to_tensor(y_true, "y_true"), to_tensor(y_pred, "y_pred")
    if isinstance(targets, Packed) or isinstance(outputs, Packed):
        raise MaskLost(
            "A metric function takes plain rows. For Packed outputs or targets use the metric as an object, "
            "for example `SparseCategoricalAccuracy()(y_true, y_pred)`."
        )
    return without_booleans(to_device(targets, outputs.device)), without_booleans(outputs)


def _read_one_hot(y_true: ArrayLike, y_pred: ArrayLike, sparse_name: str) -> tuple[Tensor, Tensor]:
    """Return one-hot labels and outputs; raise `ShapeError` if their shapes differ."""
    targets, outputs = _read_tensors(y_true, y_pred)
    if targets.shape != outputs.shape:
        raise ShapeError(
            f"One-hot targets of shape {tuple(targets.shape)} do not fit outputs of shape "
            f"{tuple(outputs.shape)}. For class ids use {sparse_name}."
        )
    return targets, outputs


def _is_in_top_k(ids: Tensor, y_pred: Tensor, k: int) -> Tensor:
    """Return 1 where fewer than `k` outputs are larger than that of the class; so all equal outputs are in, as in Keras."""
    class_output = y_pred.gather(-1, ids.unsqueeze(-1))
    num_larger = (y_pred > class_output).sum(-1)
    return ((num_larger < k) & class_output.squeeze(-1).isfinite()).float()


def _equal(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Return 1 where two tensors of one shape are equal, else 0."""
    if y_true.shape != y_pred.shape:
        raise ShapeError(f"Targets of shape {tuple(y_true.shape)} do not fit outputs of shape {tuple(y_pred.shape)}.")
    return (y_true == y_pred).float()


@register_metric()
class Accuracy(MeanMetricWithFunction):
    """The share of outputs that equal their targets. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> Accuracy()([[1], [2]], [[1], [3]]).item()
        0.5
    """

    def __init__(self, name: str | None = "accuracy", dtype: str | None = None) -> None:
        super().__init__(accuracy, name, dtype)


@register_metric()
class BinaryAccuracy(MeanMetricWithFunction):
    """The share of outputs that are above a threshold if their label is 1, and not above it if it is 0.

    The state is that of `Mean`.

    Args:
        threshold: The largest output that predicts 0.
        name, dtype: See `Metric`.

    Example:
        >>> BinaryAccuracy()([[1], [0]], [[0.7], [0.6]]).item()
        0.5
    """

    def __init__(self, name: str | None = "binary_accuracy", dtype: str | None = None, threshold: float = 0.5) -> None:
        super().__init__(binary_accuracy, name, dtype, threshold=threshold)


@register_metric()
class CategoricalAccuracy(MeanMetricWithFunction):
    """The share of real steps whose largest output is that of the one-hot label. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> CategoricalAccuracy()([[0, 1], [1, 0]], [[0.2, 0.8], [0.2, 0.8]]).item()
        0.5
    """

    combines_features = True

    def __init__(self, name: str | None = "categorical_accuracy", dtype: str | None = None) -> None:
        super().__init__(categorical_accuracy, name, dtype)


@register_metric()
class SparseCategoricalAccuracy(MeanMetricWithFunction):
    """The share of real steps whose largest output is that of the class id. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> metric = SparseCategoricalAccuracy()
        >>> metric([[1, 0]], [[[0., 1.], [0., 1.]]]).item()
        0.5
    """

    def __init__(self, name: str | None = "sparse_categorical_accuracy", dtype: str | None = None) -> None:
        super().__init__(sparse_categorical_accuracy, name, dtype)


@register_metric()
class TopKCategoricalAccuracy(MeanMetricWithFunction):
    """The share of real steps whose one-hot label is among the `k` largest outputs. The state is that of `Mean`.

    Args:
        k: The number of outputs.
        name, dtype: See `Metric`.

    Example:
        >>> TopKCategoricalAccuracy(k=2)([[0, 0, 1], [0, 1, 0]], [[0.1, 0.9, 0.8], [0.9, 0.1, 0.2]]).item()
        0.5
    """

    combines_features = True

    def __init__(self, k: int = 5, name: str | None = "top_k_categorical_accuracy", dtype: str | None = None) -> None:
        super().__init__(top_k_categorical_accuracy, name, dtype, k=k)


@register_metric()
class SparseTopKCategoricalAccuracy(MeanMetricWithFunction):
    """The share of real steps whose class id is among the `k` largest outputs. The state is that of `Mean`.

    Args:
        k: The number of outputs.
        from_sorted_ids: Whether outputs are class ids, the best first.
        name, dtype: See `Metric`.

    Example:
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
