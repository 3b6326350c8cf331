"""Intersection over union (IoU) of classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.metrics.metric import Metric, align_rows, divide_or_zero, register_metric, sum_dtype
from padless.types import ArrayLike, Config


@register_metric()
class IoU(Metric):
    """The mean over classes of `TP / (TP + FP + FN)`. Classes without targets and predictions are left out.

    The state is the confusion matrix: the weighted number of steps by target and prediction, `(classes, classes)`.

    Args:
        num_classes: The number of classes.
        target_class_ids: The classes of the mean.
        name, dtype: See `Metric`.
        ignore_class: The target of steps that do not count. Targets that are not a class do not count either.
        sparse_y_true: Whether targets are class ids. False: they are one-hot.
        sparse_y_pred: Whether outputs are class ids. False: they are scores of the classes.
        axis: Only -1, the axis of the classes.

    Raises:
        ArgumentError: A class id is out of range, or `axis` is not -1.

    Example:
        >>> IoU(2, [1])([[0, 1, 1]], [[0, 1, 0]]).item()
        0.5...
    """

    def __init__(
        self,
        num_classes: int,
        target_class_ids: Sequence[int],
        name: str | None = None,
        dtype: str | None = None,
        ignore_class: int | None = None,
        sparse_y_true: bool = True,
        sparse_y_pred: bool = True,
        axis: int = -1,
    ) -> None:
        super().__init__(dtype, name)
        for class_id in target_class_ids:
            if not 0 <= class_id < num_classes:
                raise ArgumentError(f"`target_class_ids` must be classes from 0 to {num_classes - 1}; got {class_id!r}.")
        if axis != -1:
            raise ArgumentError(f"The classes of real steps are on the last axis, -1; got axis={axis!r}.")
        self.num_classes = num_classes
        self.target_class_ids = list(target_class_ids)
        self.ignore_class = ignore_class
        self.sparse_y_true = sparse_y_true
        self.sparse_y_pred = sparse_y_pred
        self.axis = axis
        self.total_cm = self.add_variable((num_classes, num_classes), name="total_confusion_matrix")

    @torch.no_grad()
    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add the real steps of a batch.

        Args:
            y_true: Class ids, or one-hot labels.
            y_pred: Class ids, or scores of the classes: `Packed` or plain.
            sample_weight: Weights of sequences `(B,)` or of steps `(B, T)`.

        Raises:
            ShapeError: Targets do not fit the outputs.
        """
        targets, outputs, weight = align_rows(y_true, y_pred, sample_weight)
        true = (targets if self.sparse_y_true else targets.argmax(-1)).reshape(-1)
        predicted = self._predicted_classes(outputs).reshape(-1)
        if len(true) != len(predicted):
            raise ShapeError(f"Targets of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(outputs.shape)}.")
        if weight is None:
            weight = torch.ones_like(predicted, dtype=sum_dtype(outputs))
        else:
            weight = (weight if self.sparse_y_pred else weight[..., 0]).reshape(-1)
        counts = (true >= 0) & (true < self.num_classes) & (predicted >= 0) & (predicted < self.num_classes)
        if self.ignore_class is not None:
            counts &= true != self.ignore_class
        cell = torch.where(counts, true.long() * self.num_classes + predicted.long(), 0)
        matrix = weight.new_zeros(self.num_classes**2, dtype=sum_dtype(outputs))
        matrix.index_add_(0, cell, torch.where(counts, weight, 0).to(matrix.dtype))
        self.total_cm.assign_add(matrix.reshape(self.num_classes, self.num_classes))

    def _predicted_classes(self, outputs: Tensor) -> Tensor:
        """Return the class ids that the outputs predict."""
        return outputs if self.sparse_y_pred else outputs.argmax(-1)

    def result(self) -> Tensor:
        """Return the mean IoU, a scalar; 0 if all classes are left out."""
        intersection = self.total_cm.diagonal()[self.target_class_ids]
        union = (self.total_cm.sum(0) + self.total_cm.sum(1))[self.target_class_ids] - intersection
        ious = divide_or_zero(intersection, union)
        return self.cast(divide_or_zero(ious.sum(), (union > 0).sum().to(union.dtype)))

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "target_class_ids": self.target_class_ids,
            "ignore_class": self.ignore_class,
            "sparse_y_true": self.sparse_y_true,
            "sparse_y_pred": self.sparse_y_pred,
            "axis": self.axis,
        }

    def _config_without(self, *keys: str) -> Config:
        """Return the config of `IoU` without some keys, for subclasses that do not have these arguments."""
        return {key: value for key, value in IoU.get_config(self).items() if key not in keys}


@register_metric()
class BinaryIoU(IoU):
    """The IoU of the classes 0 and 1, where outputs of at least `threshold` predict class 1.

    The state is that of `IoU`.

    Args:
        target_class_ids: The classes of the mean.
        threshold: The least output of class 1.
        name, dtype: See `Metric`.

    Example:
        >>> BinaryIoU([1])([[0, 1, 1]], [[0.1, 0.9, 0.3]]).item()
        0.5...
    """

    def __init__(
        self,
        target_class_ids: Sequence[int] = (0, 1),
        threshold: float = 0.5,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(2, target_class_ids, name, dtype)
        self.threshold = threshold

    def _predicted_classes(self, outputs: Tensor) -> Tensor:
        return (outputs >= self.threshold).long()

    def get_config(self) -> Config:
        return {**Metric.get_config(self), "target_class_ids": self.target_class_ids, "threshold": self.threshold}


@register_metric()
class MeanIoU(IoU):
    """The mean IoU of all classes. The state is that of `IoU`.

    Args:
        num_classes, ignore_class, sparse_y_true, sparse_y_pred, axis: As for `IoU`.
        name, dtype: See `Metric`.

    Example:
        >>> round(MeanIoU(2)([[0, 1, 1]], [[0, 1, 0]]).item(), 4)
        0.5
    """

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        dtype: str | None = None,
        ignore_class: int | None = None,
        sparse_y_true: bool = True,
        sparse_y_pred: bool = True,
        axis: int = -1,
    ) -> None:
        super().__init__(num_classes, range(num_classes), name, dtype, ignore_class, sparse_y_true, sparse_y_pred, axis)

    def get_config(self) -> Config:
        return self._config_without("target_class_ids")


@register_metric()
class OneHotIoU(IoU):
    """The `IoU` with one-hot targets, and scores of the classes as outputs. The state is that of `IoU`.

    Args:
        num_classes, target_class_ids, ignore_class, sparse_y_pred, axis: As for `IoU`.
        name, dtype: See `Metric`.

    Example:
        >>> OneHotIoU(2, [1])([[[1, 0], [0, 1]]], [[[0.9, 0.1], [0.2, 0.8]]]).item()
        1.0
    """

    def __init__(
        self,
        num_classes: int,
        target_class_ids: Sequence[int],
        name: str | None = None,
        dtype: str | None = None,
        ignore_class: int | None = None,
        sparse_y_pred: bool = False,
        axis: int = -1,
    ) -> None:
        super().__init__(num_classes, target_class_ids, name, dtype, ignore_class, False, sparse_y_pred, axis)

    def get_config(self) -> Config:
        return self._config_without("sparse_y_true")


@register_metric()
class OneHotMeanIoU(MeanIoU):
    """The `MeanIoU` with one-hot targets, and scores of the classes as outputs. The state is that of `IoU`.

    Args:
        num_classes, ignore_class, sparse_y_pred, axis: As for `IoU`.
        name, dtype: See `Metric`.

    Example:
        >>> OneHotMeanIoU(2)([[[1, 0], [0, 1]]], [[[0.9, 0.1], [0.2, 0.8]]]).item()
        1.0
    """

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        dtype: str | None = None,
        ignore_class: int | None = None,
        sparse_y_pred: bool = False,
        axis: int = -1,
    ) -> None:
        super().__init__(num_classes, name, dtype, ignore_class, False, sparse_y_pred, axis)

    def get_config(self) -> Config:
        return self._config_without("target_class_ids", "sparse_y_true")
