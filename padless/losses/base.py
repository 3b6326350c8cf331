"""Shared parts of losses: a class for losses with a function of rows, and checks of their arguments and targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from padless.errors import ArgumentError, DataError, MaskLost, ShapeError
from padless.losses.loss import Loss
from padless.ragged.alignment import find_not_finite, match_rank, one_row, to_tensor
from padless.ragged.device import to_device
from padless.ragged.packed import Packed
from padless.types import ArrayLike

EPSILON = 1e-7  # probabilities are clipped to [EPSILON, 1 - EPSILON], as in Keras


class LossWithFunction(Loss):
    """A loss whose class has a function of rows.

    `argument_names` are the attributes of the loss that are arguments of the function and part of the config.
    """

    function: ClassVar[Callable[..., Tensor]]
    argument_names: ClassVar[tuple[str, ...]] = ()

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.function(y_true, y_pred, **self.function_arguments)

    def check_targets(self, y_true: Tensor, y_pred: Tensor) -> None:
        check_targets_are_finite(y_true)

    def replace_targets(self, y_true: Tensor, y_pred: Tensor, is_replaced: Tensor) -> Tensor:
        return torch.where(is_replaced, 0, y_true)

    @property
    def function_arguments(self) -> dict[str, Any]:
        """The arguments of the function, by name."""
        return {name: getattr(self, name) for name in self.argument_names}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.function_arguments}


class ClassIdLoss(LossWithFunction):
    """A loss whose targets are class ids: they stay integers and are checked first."""

    axis: int = -1  # pyright: ignore[reportIncompatibleVariableOverride] - one axis of classes, never several
    ignore_class: int | None = None

    def check_targets(self, y_true: Tensor, y_pred: Tensor) -> None:
        check_class_ids(y_true, y_pred.shape[self.axis], self.ignore_class)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return y_true, y_pred.to(self._dtype_for(y_pred))


def check_targets_are_finite(y_true: Tensor) -> None:
    """Raise `DataError` if a target is NaN or infinite."""
    place = find_not_finite(y_true)
    if place is not None:
        raise DataError(
            f"`y_true` holds {y_true[place].item()} at a real step. Expected finite targets. Mask the step, or give it the "
            f"sample weight 0."
        )


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise `ArgumentError` if the value of an argument is not in `[low, high]`."""
    if not low <= value <= high:
        raise ArgumentError(f"`{name}` must be between {low:g} and {high:g}; got {value!r}.")


def read_tensors(y_true: ArrayLike, y_pred: ArrayLike, cast: bool = True) -> tuple[Tensor, Tensor]:
    """Return targets and outputs as tensors on one device, the outputs at least in float32.

    Args:
        y_true: Targets of any shape.
        y_pred: Outputs of any shape.
        cast: Whether the targets get the dtype of the outputs.

    Raises:
        MaskLost: One of them is `Packed`.
    """
    targets, outputs = to_tensor(y_true, "y_true"), to_tensor(y_pred, "y_pred")
    if isinstance(targets, Packed) or isinstance(outputs, Packed):
        raise MaskLost(
            "A loss function takes plain rows. For Packed outputs or targets use the loss as an object, for "
            "example `MeanSquaredError(reduction=None)(y_true, y_pred)`."
        )
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    targets = to_device(targets, outputs.device)
    return (targets.to(outputs.dtype) if cast else targets), outputs


def read_same_shape(
    y_true: ArrayLike, y_pred: ArrayLike, advice: str = "", combines_features: bool = False
) -> tuple[Tensor, Tensor]:
    """Return targets and outputs as tensors of one shape and dtype; one of them may lack a last axis of size 1.

    Args:
        y_true: Targets `(N, ...)`.
        y_pred: Outputs `(N, ...)`.
        advice: The end of the error message.
        combines_features: Whether outputs `(D,)` are one row, not D rows.

    Raises:
        ShapeError: The shapes differ.
        MaskLost: One of them is `Packed`.
    """
    targets, outputs = read_tensors(y_true, y_pred)
    targets, outputs = match_rank(*(one_row(targets, outputs) if combines_features else (targets, outputs)))
    if targets.shape != outputs.shape:
        raise ShapeError(
            f"Targets of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(outputs.shape)}: "
            f"expected the same shape. {advice}".rstrip()
        )
    return targets, outputs


def match_class_ids(y_true: Tensor, y_pred: Tensor, axis: int = -1) -> Tensor:
    """Return class ids in the shape of the outputs without the axis of the classes.

    Raises:
        ShapeError: The ids have another shape.
    """
    has_axis = y_true.ndim == y_pred.ndim and y_true.shape[axis] == 1
    ids = y_true.squeeze(axis) if has_axis else y_true
    expected = y_pred.movedim(axis, -1).shape[:-1]
    if ids.shape != expected:
        raise ShapeError(
            f"Class ids of shape {tuple(y_true.shape)} do not fit outputs of shape {tuple(y_pred.shape)}: "
            f"expected {tuple(expected)}. For one-hot labels use categorical_crossentropy."
        )
    return ids


def check_class_ids(ids: Tensor, num_classes: int, ignore_class: int | None = None) -> None:
    """Raise `DataError` if an id is not an integer from 0 to `num_classes - 1`.

    Ids on an accelerator are not checked here: that would wait for the device, and torch has assertions there.

    Args:
        ids: Class ids of any shape and dtype.
        num_classes: The number of classes.
        ignore_class: An id that is allowed in addition.
    """
    if ids.device.type != "cpu" or not ids.numel():
        return
    invalid = (ids < 0) | (ids >= num_classes)
    if ids.is_floating_point():
        invalid |= ids != ids.floor()  # also for NaN
    if ignore_class is not None:
        invalid &= ids != ignore_class
    if invalid.any():
        raise DataError(
            f"`y_true` holds {ids[invalid][0].item()!r} at a real step, which is not a class: expected whole "
            f"numbers from 0 to {num_classes - 1}, for outputs of {num_classes} classes. Mask the step, or give "
            f"the outputs more classes."
        )
