"""Pad sequences, make one-hot labels, seed generators: functions with the names and arguments of `keras.utils`."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence, Sized
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from padless.errors import ArgumentError, DataError, unknown_name
from padless.ragged.device import to_device
from padless.ragged.masked_array import refuse_masked_array
from padless.ragged.packed import ArrayLike, MaskLike, pack

Side: TypeAlias = Literal["pre", "post"]


def pad_sequences(
    sequences: Iterable[Any],
    maxlen: int | None = None,
    dtype: DTypeLike = "int32",
    padding: Side = "pre",
    truncating: Side = "pre",
    value: float | str = 0.0,
) -> NDArray[Any]:
    """Return sequences as one padded array, as `keras.utils.pad_sequences`. padless itself needs no padding.

    Args:
        sequences: Lists or arrays `(length, ...)` with steps of equal shape.
        maxlen: Width of the array. The default is the longest sequence. Longer sequences are cut.
        dtype: Dtype of the array.
        padding: Whether padding is before ("pre") or after ("post") a sequence.
        truncating: Whether a long sequence loses its first ("pre") or its last ("post") steps.
        value: What padding holds.

    Returns:
        The array `(num_sequences, maxlen, ...)`.

    Raises:
        ArgumentError: For another side, and for a `value` that the dtype cannot hold.
        DataError: For rows that are not sequences, and for steps of different shapes.

    Example:
        >>> pad_sequences([[1], [2, 3], [4, 5, 6]], maxlen=2).tolist()
        [[0, 1], [2, 3], [5, 6]]
    """
    for argument, side in (("padding", padding), ("truncating", truncating)):
        if side not in ("pre", "post"):
            raise ArgumentError(unknown_name(argument, side, ("pre", "post")))
    array_dtype = np.dtype(dtype)
    if isinstance(value, str) and array_dtype.kind not in "OUS":
        raise ArgumentError(f"value={value!r} does not fit dtype={dtype!r}. Give dtype=object for text.")
    rows = _check_rows(sequences)
    width = max((len(row) for row in rows), default=0) if maxlen is None else maxlen
    step_shape = next((np.asarray(row).shape[1:] for row in rows if len(row)), ())
    padded = np.full((len(rows), width, *step_shape), value, dtype=array_dtype)
    for number, row in enumerate(rows):
        if not len(row):
            continue
        refuse_masked_array("A sequence", row)
        steps = np.asarray(row[-width:] if truncating == "pre" else row[:width], dtype=array_dtype)
        if steps.shape[1:] != step_shape:
            raise DataError(
                f"Sequence {number} has steps of shape {steps.shape[1:]}; expected {step_shape}, as in the first."
            )
        start = width - len(steps) if padding == "pre" else 0
        padded[number, start : start + len(steps)] = steps
    return padded


def _check_rows(sequences: Iterable[Any]) -> list[Any]:
    """Return the sequences in a list. Raise `DataError` for an entry that has no length."""
    if not isinstance(sequences, Sized) or isinstance(sequences, str):
        raise DataError(f"`sequences` must be a list of sequences; got {sequences!r}.")
    rows = list(sequences)
    for row in rows:
        if not isinstance(row, Sized):
            raise DataError(f"`sequences` must be a list of sequences; {row!r} in it is not a sequence.")
    return rows


def next_step_pairs(
    sequences: ArrayLike, mask: MaskLike | None = None, mask_zero: bool = True
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Return the inputs and targets of a language model: each real step, and the next real step of its sequence.

    `fit(ids[:, :-1], ids[:, 1:])` cuts columns. Then the last real step of each shorter sequence learns padding, in Keras
    too. Here each sequence is cut, so that no target is padding: `model.fit(*next_step_pairs(ids))`.

    Args:
        sequences: Ids or other steps: a list of sequences, a `Packed`, or a padded array `(B, T, ...)`.
        mask: The real steps of a padded array `(B, T)`.
        mask_zero: Whether the id 0 is padding if there is no mask, as for an Embedding. It does not concern vectors.

    Returns:
        Two lists of arrays, one for each sequence. One with n real steps gives n - 1 pairs, an empty one none.

    Raises:
        MaskError: For a mask that does not fit.
        ShapeError: For what is neither an array with a batch and steps nor a list of sequences.

    Example:
        >>> inputs, targets = next_step_pairs([[5, 6, 7, 0], [8, 9, 0, 0]])
        >>> [row.tolist() for row in inputs], [row.tolist() for row in targets]
        ([[5, 6], [8]], [[6, 7], [9]])
    """
    packed = pack(sequences, mask)
    if mask is None and mask_zero and packed.values.ndim == 1:
        packed = pack(packed, mask=packed.unpack() != 0)
    rows = [row.detach().cpu().numpy() for row in packed.sequences()]
    return [row[:-1] for row in rows], [row[1:] for row in rows]


def to_categorical(x: NDArray[Any] | Tensor | Sequence[Any], num_classes: int | None = None) -> NDArray[Any] | Tensor:
    """Return whole numbers from 0 as one-hot vectors on a new last axis, as `keras.utils.to_categorical`.

    Args:
        x: Labels of any shape. A last axis of size 1 is replaced.
        num_classes: Size of the vectors. The default is one more than the largest label.

    Returns:
        A float64 array `(..., num_classes)` for arrays and lists, a tensor of torch's default dtype for a tensor.

    Raises:
        DataError: For what does not hold numbers, and for a label outside `num_classes`.

    Example:
        >>> to_categorical([0, 2], num_classes=3).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise DataError(f"to_categorical takes whole numbers; got {array.dtype} with {array.flat[0]!r} in it.")
    labels = array.astype(np.int64)
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    size = num_classes or int(labels.max(initial=-1)) + 1
    wrong = labels[(labels < 0) | (labels >= size)]
    if wrong.size:
        raise DataError(f"to_categorical got class {wrong.flat[0]}. Expected whole numbers from 0 to {size - 1}.")
    one_hot = np.zeros((*labels.shape, size))
    np.put_along_axis(one_hot, labels[..., None], 1.0, -1)
    return to_device(one_hot, x.device).to(torch.get_default_dtype()) if isinstance(x, Tensor) else one_hot


def set_random_seed(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch, as `keras.utils.set_random_seed`.

    Args:
        seed: An integer from 0 to 2**32 - 1.

    Raises:
        ArgumentError: For another seed.

    Example:
        >>> set_random_seed(1); first = torch.rand(1).item(); set_random_seed(1); torch.rand(1).item() == first
        True
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ArgumentError(f"`seed` must be an integer from 0 to 2**32 - 1; got {seed!r}.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
