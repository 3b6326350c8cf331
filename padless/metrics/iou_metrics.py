"""Intersection over union: of the steps that are of a class or are said to be, how many are both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.metrics.metric import Metric, align_rows, divide_or_zero, register_metric, sum_dtype


@register_metric()
class IoU(Metric):
    """Intersection over union: of the steps that are or are said to be of a class, how many both; the mean of some classes.

    Targets and outputs are class ids, or with `sparse_y_true` or `sparse_y_pred` False one-hot and scores. The mean
    is that of `target_class_ids`. Steps whose target is `ignore_class`, or is none of the classes, do not count; a class
    that never occurs is left out.

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
        for wrong in (number for number in target_class_ids if not 0 <= number < num_classes):
            raise ArgumentError(f"`target_class_ids` must be classes from 0 to {num_classes - 1}; got {wrong!r}.")
        if axis != -1:
            raise ArgumentError(f"The classes of real steps stand on the last axis, -1; got axis={axis!r}.")
        self.num_classes, self.target_class_ids, self.ignore_class = num_classes, list(target_class_ids), ignore_class
        self.sparse_y_true, self.sparse_y_pred, self.axis = sparse_y_true, sparse_y_pred, axis
        self.total_cm = self.add_variable((num_classes, num_classes), name="total_confusion_matrix")

    @torch.no_grad()
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the real steps of a batch."""
        targets, rows, weight = align_rows(y_true, y_pred, sample_weight)
        true = (targets if self.sparse_y_true else targets.argmax(-1)).reshape(-1)
        pred = self.predicted(rows).reshape(-1)
        if len(true) != len(pred):
            raise ShapeError(f"Targets of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(rows.shape)}.")
        weight = (
            torch.ones_like(pred, dtype=sum_dtype(rows))
            if weight is None
            else (weight if self.sparse_y_pred else weight[..., 0]).reshape(-1)
        )
        known = (true >= 0) & (true < self.num_classes) & (pred >= 0) & (pred < self.num_classes)
        if self.ignore_class is not None:
            known &= true != self.ignore_class
        cell = torch.where(known, true.long() * self.num_classes + pred.long(), 0)
        cells = weight.new_zeros(self.num_classes**2, dtype=sum_dtype(rows))
        cells.index_add_(0, cell, torch.where(known, weight, 0).to(cells.dtype))
        self.total_cm.assign_add(cells.reshape(self.num_classes, self.num_classes))

    def predicted(self, rows: Tensor) -> Tensor:
        """The classes that the outputs mean."""
        return rows if self.sparse_y_pred else rows.argmax(-1)

    def result(self) -> Tensor:
        """The mean of the classes that occurred; 0 if none did."""
        both = self.total_cm.diagonal()[self.target_class_ids]
        either = (self.total_cm.sum(0) + self.total_cm.sum(1))[self.target_class_ids] - both
        return self.cast(divide_or_zero(divide_or_zero(both, either).sum(), (either > 0).sum().to(either.dtype)))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "target_class_ids": self.target_class_ids,
            "ignore_class": self.ignore_class,
            "sparse_y_true": self.sparse_y_true,
            "sparse_y_pred": self.sparse_y_pred,
            "axis": self.axis,
        }

    def _config_without(self, *keys: str) -> dict[str, Any]:
        return {key: value for key, value in IoU.get_config(self).items() if key not in keys}


@register_metric()
class BinaryIoU(IoU):
    """Intersection over union of the classes 0 and 1, where outputs of at least `threshold` mean 1.

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

    def predicted(self, rows: Tensor) -> Tensor:
        return (rows >= self.threshold).long()

    def get_config(self) -> dict[str, Any]:
        return {**Metric.get_config(self), "target_class_ids": self.target_class_ids, "threshold": self.threshold}


@register_metric()
class MeanIoU(IoU):
    """The mean intersection over union of all classes; arguments as those of `IoU`.

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

    def get_config(self) -> dict[str, Any]:
        return self._config_without("target_class_ids")


@register_metric()
class OneHotIoU(IoU):
    """`IoU` with one-hot targets, and scores of classes as outputs.

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

    def get_config(self) -> dict[str, Any]:
        return self._config_without("sparse_y_true")


@register_metric()
class OneHotMeanIoU(MeanIoU):
    """`MeanIoU` with one-hot targets, and scores of classes as outputs.

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

    def get_config(self) -> dict[str, Any]:
        return self._config_without("target_class_ids", "sparse_y_true")
