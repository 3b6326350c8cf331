"""Read arrays, and anything that NumPy can make an array of, as dense columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from padless.data.columns import DenseColumn
from padless.data.foreign_types import first_missing_row, is_instance
from padless.errors import DataError
from padless.ragged.masked_array import refuse_masked_array
from padless.ragged.numeric import Places, array_of, numeric_array, numeric_tensor, place_in_rows, shorten
from padless.ragged.packed import NESTED_LISTS_ADVICE, Packed


def read_array(name: str, container: object) -> DenseColumn:
    """Read an array `(num_examples, ...)`: a tensor as it is, anything else through NumPy.

    Raises:
        DataError: For what does not hold numbers, and for a single value.
    """
    source = as_number_tensor(name, container) if isinstance(container, Tensor) else as_numbers(name, container)
    if source.ndim == 0:
        raise DataError(f"{name} is the single value {shorten(container)}. Expected one entry for each example.")
    return DenseColumn(name, source, "grid")


def as_number_tensor(name: str, tensor: Tensor, places: Places = place_in_rows) -> Tensor:
    """Return a tensor of numbers or booleans in a dtype that torch computes with.

    Raises:
        DataError: For complex numbers, and for tensors without memory or in a sparse, quantized or masked format.
    """
    if is_instance(tensor, "torch.masked", "MaskedTensor"):
        raise DataError(f"{name} is a MaskedTensor. Give its get_data(), and its get_mask() as mask= or sample_weight=.")
    if tensor.is_meta:
        raise DataError(f"{name} is a tensor on the meta device, which holds no numbers. Expected a tensor with data.")
    tensor = numeric_tensor(name, tensor, places)
    if tensor.is_complex():
        raise DataError(f"{name} must hold numbers; got {tensor.dtype}. Give real and imaginary parts as two features.")
    return tensor


def as_numbers(name: str, value: Any, places: Places = place_in_rows) -> NDArray[Any]:
    """Return a value as a NumPy array of numbers or booleans.

    Raises:
        DataError: For a `Packed`, for lists of unequal lengths, for missing values, and for text and other objects.
    """
    if isinstance(value, Packed):
        raise DataError(
            f"{name} is a Packed, which holds many sequences. Expected one sequence, or a model with several inputs."
        )
    refuse_masked_array(name, value)
    missing = first_missing_row(value)
    if missing is not None:
        raise DataError(f"{name} has a missing value in {places((missing,))}. Fill it, or drop the row, first.")
    try:
        array = array_of(value)
    except Exception as error:  # any library may define `__array__`
        raise DataError(
            f"{name}, a {type(value).__name__}, cannot become a NumPy array ({type(error).__name__}: {error}). Expected "
            f"an array of numbers, or a list of sequences."
        ) from error
    if array is None:
        raise DataError(
            f"{name} is a list whose entries have unequal lengths. Expected a sequence of numbers or equal vectors. "
            f"{NESTED_LISTS_ADVICE}"
        )
    if array.dtype.kind == "f" and isinstance(value, list | tuple) and np.isnan(array).any():
        _refuse_masked_numbers(name, value)
    return numeric_array(name, array, places, source=value)


def _refuse_masked_numbers(name: str, values: object) -> None:
    """Raise `DataError` for the constant `np.ma.masked` in nested lists, which NumPy converts to NaN."""
    if isinstance(values, list | tuple):
        for entry in values:
            _refuse_masked_numbers(name, entry)
    elif values is np.ma.masked:
        refuse_masked_array(name, values)
