"""Read NumPy's masked arrays, whose mask `np.asarray` drops without a word. In a masked array True means masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from padless.errors import DataError
from padless.ragged.row_names import row_name

MaskedArray = np.ma.MaskedArray


def is_masked_array(value: object) -> TypeGuard[np.ma.MaskedArray]:
    """Return whether a value is a masked array in which an entry is masked, or the constant `np.ma.masked`."""
    return isinstance(value, MaskedArray) and bool(np.ma.is_masked(value))


def contains_masked_array(value: object) -> bool:
    """Return whether a value is such an array, or a list, tuple, dictionary or object array that contains one."""
    if isinstance(value, MaskedArray):
        return is_masked_array(value)
    if isinstance(value, Mapping):
        return any(contains_masked_array(entry) for entry in value.values())
    if isinstance(value, np.ndarray) and value.dtype == object:
        return any(contains_masked_array(entry) for entry in value.flat)
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], int | float | np.generic):  # a list of numbers, which may be long
            return False
        return any(isinstance(entry, _CONTAINERS) and contains_masked_array(entry) for entry in value)
    return False


_CONTAINERS = (MaskedArray, np.ndarray, list, tuple, dict)


def refuse_masked_array(name: str, value: object) -> None:
    """Raise `DataError` for a masked array, or a container of one, where padless has no use for its mask."""
    if contains_masked_array(value):
        raise DataError(
            f"{name} is or contains a NumPy masked array with masked entries, which cannot be used here. For inputs give "
            f"one masked array of shape (batch, steps, ...), or mask=. For targets give sample weights of 0 there. Or fill "
            f"the entries with `filled()`."
        )


def split_masked_array(name: str, array: np.ma.MaskedArray) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Return the numbers of a masked array `(batch, steps, ...)`, and which steps are real, `(batch, steps)`.

    Raises:
        DataError: if there is no axis of steps, or if only a part of a step is masked.
    """
    is_masked = np.ma.getmaskarray(array)
    if array.ndim < 2:
        raise DataError(
            f"{name} is a masked array of shape {array.shape}. Expected (batch, steps, ...): a whole "
            f"example cannot be masked."
        )
    by_step = is_masked.reshape(*array.shape[:2], -1)
    partly_masked = np.argwhere(by_step.any(-1) & ~by_step.all(-1))
    if len(partly_masked):
        row, step = partly_masked[0].tolist()
        raise DataError(
            f"{name} is a masked array in which a part of {row_name(row)}, step {step} is masked. Expected that a step is "
            f"masked with all its features. Fill the others with `filled()`, and give a mask of steps as mask=."
        )
    return np.asarray(array.data), np.asarray(~by_step.all(-1))
