"""The losses as functions of plain rows: values, one for each row, before anything is summed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from padless.errors import DataError, MaskLost, ShapeError
from padless.ragged.packed import Packed
from padless.registry import register
from padless.training.align import match_rank, read

EPSILON = 1e-7  # Keras keeps probabilities this far from 0 and 1
NEVER = torch.iinfo(torch.int64).min  # torch would ignore the class -100 in silence


@register("loss_function")
def mean_squared_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean over the last axis of `(y_true - y_pred) ** 2`.

    >>> mean_squared_error([[1., 2.]], [[1., 4.]])
    tensor([2.])
    """
    y_true, y_pred = _same_shape(*match_rank(*_pair(y_true, y_pred)))
    return (y_true - y_pred).square().mean(-1)


@register("loss_function")
def mean_absolute_error(y_true: Any, y_pred: Any) -> Tensor:
    """The mean over the last axis of `|y_true - y_pred|`."""
    y_true, y_pred = _same_shape(*match_rank(*_pair(y_true, y_pred)))
    return (y_true - y_pred).abs().mean(-1)


@register("loss_function")
def binary_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """The mean over `axis` of the cross entropy between labels 0 and 1 and probabilities, or logits."""
    y_true, y_pred = _same_shape(*_pair(y_true, y_pred))
    if label_smoothing:
        y_true = y_true * (1.0 - label_smoothing) + 0.5 * label_smoothing
    if from_logits:
        return F.binary_cross_entropy_with_logits(y_pred, y_true, reduction="none").mean(axis)
    p = y_pred.clamp(EPSILON, 1.0 - EPSILON)
    return -(y_true * p.log() + (1.0 - y_true) * (1.0 - p).log()).mean(axis)


@register("loss_function")
def categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """Cross entropy between one-hot labels and probabilities, which are made to add up to 1, or logits."""
    y_true, y_pred = _same_shape(*_pair(y_true, y_pred), advice="For class ids use sparse_categorical_crossentropy.")
    if label_smoothing:
        y_true = y_true * (1.0 - label_smoothing) + label_smoothing / y_true.shape[-1]
    return -(y_true * _log_probabilities(y_pred, from_logits, axis)).sum(axis)


@register("loss_function")
def sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Tensor:
    """Cross entropy between class ids and probabilities, or logits; 0 where the id is `ignore_class`.

    Raises `DataError` for ids that are no class.

    >>> sparse_categorical_crossentropy([1., 2.], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
    tensor([0.0513, 2.3026])
    """
    ids, y_pred = _pair(y_true, y_pred, cast=False)
    check_ids(ids, y_pred.shape[axis], ignore_class)
    return sparse_values(ids, y_pred, from_logits, ignore_class, axis)


def sparse_values(ids: Tensor, y_pred: Tensor, from_logits: bool, ignore_class: int | None, axis: int) -> Tensor:
    """The same for ids that were checked."""
    y_pred = y_pred.movedim(axis, -1)
    if ids.ndim == y_pred.ndim and ids.shape[axis] == 1:
        ids = ids.squeeze(axis)
    if ids.shape != y_pred.shape[:-1]:
        raise ShapeError(f"Class ids of shape {tuple(ids.shape)} do not fit outputs of shape {tuple(y_pred.shape)}: "
                         f"expected {tuple(y_pred.shape[:-1])}. For one-hot labels use categorical_crossentropy.")
    rows, flat = y_pred.reshape(-1, y_pred.shape[-1]), ids.reshape(-1)
    ignored = None if ignore_class is None else flat == ignore_class
    if ignored is not None:  # neither what the label says there nor what the model says may matter
        flat, rows = torch.where(ignored, 0, flat), torch.where(ignored[:, None], 0, rows)
    flat = flat.long()
    if from_logits:
        values = F.cross_entropy(rows, flat, reduction="none", ignore_index=NEVER)
    else:
        values = F.nll_loss(_log_probabilities(rows, False, -1), flat, reduction="none", ignore_index=NEVER)
    return (values if ignored is None else torch.where(ignored, 0, values)).reshape(ids.shape)


def check_ids(ids: Tensor, classes: int, ignore: int | None = None) -> None:
    """Raise `DataError` for ids that are no class; ids on an accelerator are left to its own assertions."""
    if ids.device.type != "cpu" or not ids.numel():
        return
    odd = (ids < 0) | (ids >= classes)
    if ids.is_floating_point():
        odd |= ids != ids.floor()  # NaN, too
    if ignore is not None:
        odd &= ids != ignore
    if odd.any():
        raise DataError(f"`y_true` holds {ids[odd][0].item()!r} at a real step, which is no class: expected whole "
                        f"numbers from 0 to {classes - 1}, for outputs of {classes} classes. Mask the step, or give "
                        f"the outputs more classes.")


def _log_probabilities(y_pred: Tensor, from_logits: bool, axis: int) -> Tensor:
    if from_logits:
        return y_pred.log_softmax(axis)
    return (y_pred / y_pred.sum(axis, keepdim=True)).clamp(EPSILON, 1.0 - EPSILON).log()


def _pair(y_true: Any, y_pred: Any, cast: bool = True) -> tuple[Tensor, Tensor]:
    y_true, y_pred = read(y_true, "y_true"), read(y_pred, "y_pred")
    if isinstance(y_true, Packed) or isinstance(y_pred, Packed):
        raise MaskLost("A loss function takes plain rows. For Packed outputs or targets use the loss as an object, for "
                       "example `MeanSquaredError(reduction=None)(y_true, y_pred)`.")
    y_pred = y_pred.to(torch.promote_types(y_pred.dtype, torch.float32))
    return (y_true.to(y_pred.device, y_pred.dtype) if cast else y_true), y_pred


def _same_shape(y_true: Tensor, y_pred: Tensor, advice: str = "") -> tuple[Tensor, Tensor]:
    if y_true.shape != y_pred.shape:
        raise ShapeError(f"Targets of shape {tuple(y_true.shape)} do not fit outputs of shape {tuple(y_pred.shape)}: "
                         f"expected the same shape. {advice}".rstrip())
    return y_true, y_pred
