"""What losses of single rows share: a function of plain rows, its arguments, and targets that fit the outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from padless.errors import ArgumentError, DataError, MaskLost, ShapeError
from padless.losses.loss import Loss, Reduction
from padless.ragged.alignment import match_rank, to_tensor
from padless.ragged.device import to_device
from padless.ragged.packed import Packed

EPSILON = 1e-7  # Keras keeps probabilities this far from 0 and 1


class LossWithFunction(Loss):
    """A loss whose function is part of the class; `own` are the function's arguments, which the config has."""

    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, reduction: Reduction, name: str | None, dtype: str | None, **own: Any) -> None:
        super().__init__(name, reduction, dtype)
        self.arguments = tuple(own)
        vars(self).update(own)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.function(y_true, y_pred, **self.function_arguments)

    @property
    def function_arguments(self) -> dict[str, Any]:
        """The arguments of the function."""
        return {name: getattr(self, name) for name in self.arguments}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.function_arguments}


class ClassIdLoss(LossWithFunction):
    """A loss whose targets are class ids: they stay whole numbers, and are looked at before anything is computed."""

    ignore_class: int | None = None

    def check_targets(self, y_true: Tensor, y_pred: Tensor) -> None:
        check_class_ids(y_true, y_pred.shape[self.axis], self.ignore_class)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return y_true, y_pred.to(self._dtype_for(y_pred))


def check_range(what: str, given: float, low: float, high: float) -> float:
    """The number, if it is within these bounds, else an `ArgumentError`."""
    if not low <= given <= high:
        raise ArgumentError(f"`{what}` must be between {low:g} and {high:g}; got {given!r}.")
    return given


def read_tensors(y_true: Any, y_pred: Any, cast: bool = True) -> tuple[Tensor, Tensor]:
    """Both as plain tensors, the outputs at least float32, the targets in their dtype; `MaskLost` for a Packed."""
    y_true, y_pred = to_tensor(y_true, "y_true"), to_tensor(y_pred, "y_pred")
    if isinstance(y_true, Packed) or isinstance(y_pred, Packed):
        raise MaskLost(
            "A loss function takes plain rows. For Packed outputs or targets use the loss as an object, for "
            "example `MeanSquaredError(reduction=None)(y_true, y_pred)`."
        )
    y_pred = y_pred.to(torch.promote_types(y_pred.dtype, torch.float32))
    y_true = to_device(y_true, y_pred.device)
    return (y_true.to(y_pred.dtype) if cast else y_true), y_pred


def read_same_shape(y_true: Any, y_pred: Any, advice: str = "") -> tuple[Tensor, Tensor]:
    """Both as plain tensors of one shape; a last axis of size 1 may be missing in one of them."""
    y_true, y_pred = match_rank(*read_tensors(y_true, y_pred))
    if y_true.shape != y_pred.shape:
        raise ShapeError(
            f"Targets of shape {tuple(y_true.shape)} do not fit outputs of shape {tuple(y_pred.shape)}: "
            f"expected the same shape. {advice}".rstrip()
        )
    return y_true, y_pred


def match_class_ids(y_true: Tensor, y_pred: Tensor, axis: int = -1) -> Tensor:
    """Class ids in the shape of the outputs without the axis of classes."""
    ids = y_true.squeeze(axis) if y_true.ndim == y_pred.ndim and y_true.shape[axis] == 1 else y_true
    expected = y_pred.movedim(axis, -1).shape[:-1]
    if ids.shape != expected:
        raise ShapeError(
            f"Class ids of shape {tuple(y_true.shape)} do not fit outputs of shape {tuple(y_pred.shape)}: "
            f"expected {tuple(expected)}. For one-hot labels use categorical_crossentropy."
        )
    return ids


def check_class_ids(ids: Tensor, classes: int, ignore: int | None = None) -> None:
    """Raise `DataError` for ids that are no class; ids on an accelerator are left to its own assertions."""
    if ids.device.type != "cpu" or not ids.numel():
        return
    odd = (ids < 0) | (ids >= classes)
    if ids.is_floating_point():
        odd |= ids != ids.floor()  # NaN, too
    if ignore is not None:
        odd &= ids != ignore
    if odd.any():
        raise DataError(
            f"`y_true` holds {ids[odd][0].item()!r} at a real step, which is no class: expected whole "
            f"numbers from 0 to {classes - 1}, for outputs of {classes} classes. Mask the step, or give "
            f"the outputs more classes."
        )
