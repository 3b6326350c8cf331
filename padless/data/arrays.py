"""Read arrays, and anything that NumPy can make an array of, as dense columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from padless.data.columns import DenseColumn
from padless.errors import DataError
from padless.ragged.masked_array import refuse_masked_array
from padless.ragged.packed import NESTED_LISTS_ADVICE, Packed


def read_array(name: str, container: object) -> DenseColumn:
    """Read an array `(num_examples, ...)`: a tensor as it is, anything else through NumPy.

    Raises:
        DataError: For what does not hold numbers, and for a single value.
    """
    source = container if isinstance(container, Tensor) else as_numbers(name, container)
    if source.ndim == 0:
        raise DataError(f"{name} is the single value {container!r}. Expected one entry for each example.")
    return DenseColumn(name, source, "grid")


def as_numbers(name: str, value: object) -> NDArray[np.generic]:
    """Return a value as a NumPy array of numbers or booleans.

    Raises:
        DataError: For a `Packed`, for lists of unequal lengths, and for text and other objects.
    """
    if isinstance(value, Packed):
        raise DataError(
            f"{name} is a Packed, which holds many sequences. Expected one sequence, or a model with several inputs."
        )
    refuse_masked_array(name, value)
    try:
        array = np.asarray(value)
    except ValueError as unequal_lengths:
        raise DataError(
            f"{name} is a list whose entries have unequal lengths. Expected a sequence of numbers or equal vectors. "
            f"{NESTED_LISTS_ADVICE}"
        ) from unequal_lengths
    if array.dtype.kind == "f" and isinstance(value, list | tuple) and np.isnan(array).any():
        _refuse_masked_numbers(name, value)
    if array.dtype.kind not in "biuf":
        entry = next((entry for entry in array.flat if not isinstance(entry, int | float)), None)
        entry = entry.item() if isinstance(entry, np.generic) else entry
        raise DataError(
            f"{name} must hold numbers; got dtype {array.dtype} with {entry!r} in it. Turn text into ids, and other objects "
            f"into numbers, first."
        )
    return array


def _refuse_masked_numbers(name: str, values: object) -> None:
    """Raise `DataError` for the constant `np.ma.masked` in nested lists, which NumPy converts to NaN."""
    if isinstance(values, list | tuple):
        for entry in values:
            _refuse_masked_numbers(name, entry)
    elif values is np.ma.masked:
        refuse_masked_array(name, values)
