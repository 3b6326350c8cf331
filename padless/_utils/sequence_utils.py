"""Lists as arrays, with Keras's names: padding and one-hot labels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from padless.errors import ArgumentError, DataError, unknown_name
from padless.ragged.device import to_device


def pad_sequences(
    sequences: Sequence[Any], maxlen: int | None = None, dtype: Any = "int32", padding: str = "pre",
    truncating: str = "pre", value: Any = 0.0,
) -> NDArray[Any]:  # fmt: skip
    """Sequences as one array `(rows, maxlen, ...)`, padded and cut in front ("pre") or behind ("post"), as in Keras.

    padless itself needs no padding: lists of sequences may be given as they are. Raises `ArgumentError` for unknown
    sides, `DataError` for rows that are no sequences or of different features.

    >>> pad_sequences([[1], [2, 3], [4, 5, 6]], maxlen=2).tolist()
    [[0, 1], [2, 3], [5, 6]]
    """
    for what, side in (("padding", padding), ("truncating", truncating)):
        if side not in ("pre", "post"):
            raise ArgumentError(unknown_name(what, side, ("pre", "post")))
    rows = _rows(sequences)
    width = max((len(row) for row in rows), default=0) if maxlen is None else maxlen
    kind = np.dtype(dtype)
    if isinstance(value, str) and kind.kind not in "OUS":
        raise ArgumentError(f"value={value!r} does not fit dtype={dtype!r}. Give dtype=object for text.")
    rest = next((np.asarray(row).shape[1:] for row in rows if len(row)), ())
    found = np.full((len(rows), width, *rest), value, dtype=kind)
    for number, row in enumerate(rows):
        kept = np.asarray(row[-width:] if truncating == "pre" else row[:width], dtype=kind)
        if len(row) and kept.shape[1:] != rest:
            raise DataError(f"Sequence {number} has steps of shape {kept.shape[1:]}; expected {rest}, as in the first.")
        if len(row):
            found[number, slice(width - len(kept), None) if padding == "pre" else slice(0, len(kept))] = kept
    return found


def _rows(sequences: Any) -> list[Any]:
    if not hasattr(sequences, "__len__") or isinstance(sequences, str):
        raise DataError(f"`sequences` must be a list of sequences; got {sequences!r}.")
    odd = next((row for row in sequences if not hasattr(row, "__len__")), None)
    if odd is not None:
        raise DataError(f"`sequences` must be a list of sequences; {odd!r} in it is none.")
    return list(sequences)


def to_categorical(x: Any, num_classes: int | None = None) -> Any:
    """Whole numbers from 0 as one-hot vectors on a new last axis (an axis of size 1 is replaced), as in Keras.

    Arrays and lists give float64 arrays, a tensor a float32 tensor. Raises `DataError` for a class outside
    `num_classes` (by default one more than the largest).

    >>> to_categorical([0, 2], num_classes=3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    labels = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    if labels.dtype.kind not in "biuf":
        raise DataError(f"to_categorical takes whole numbers; got {labels.dtype} with {labels.flat[0]!r} in it.")
    labels = labels.astype(np.int64)
    labels = labels[..., 0] if labels.ndim > 1 and labels.shape[-1] == 1 else labels
    count = num_classes or int(labels.max(initial=-1)) + 1
    wrong = labels[(labels < 0) | (labels >= count)]
    if wrong.size:
        raise DataError(f"to_categorical got class {wrong.flat[0]}. Expected whole numbers from 0 to {count - 1}.")
    found = np.zeros((*labels.shape, count))
    np.put_along_axis(found, labels[..., None], 1.0, -1)
    return to_device(found, x.device).to(torch.get_default_dtype()) if isinstance(x, torch.Tensor) else found


def set_random_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, as Keras does.

    >>> set_random_seed(1); first = torch.rand(1).item(); set_random_seed(1); torch.rand(1).item() == first
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ArgumentError(f"`seed` must be an integer from 0 to 2**32 - 1; got {seed!r}.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
