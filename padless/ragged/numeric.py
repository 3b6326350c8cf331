"""Convert arrays and tensors of any dtype to numbers that torch computes with. All data pass here before they are packed.

- Integers without a sign that torch cannot compute with become int64, where each of them fits.
- Eight-bit floats become float32, `numpy.longdouble` float64, and another byte order that of this machine.
- Objects become numbers if each of them is one.
- Everything else is refused: missing values, text, dates, sparse and quantized tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padless.errors import DataError
from padless.ragged.row_names import row_name

Places: TypeAlias = "Callable[[tuple[int, ...]], str]"
"""Return where an entry of an array is, for error messages, from its index: "row 3", "step 1 of row 3"."""

COMPUTED = frozenset(
    (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)
    + (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
)
_UNSIGNED = frozenset((torch.uint16, torch.uint32, torch.uint64))
_FLOAT8 = "torch.float8_"  # torch has several, other ones in each version
_ADVICE = "Turn text into ids, and other objects into numbers, first."


def place_in_rows(index: tuple[int, ...]) -> str:
    """Return where an entry of an array with one row for each example is.

    >>> place_in_rows((3,)), place_in_rows((3, 1))
    ('row 3', 'row 3, at [1]')
    """
    if not index:
        return "it"
    return row_name(index[0]) + (f", at [{', '.join(map(str, index[1:]))}]" if len(index) > 1 else "")


def numeric_tensor(name: str, tensor: Tensor, places: Places = place_in_rows) -> Tensor:
    """Return a tensor with a dtype that torch computes with: the tensor itself, or an exact conversion.

    Args:
        name: What the tensor is, for error messages.
        tensor: The tensor. It may be on any device, the meta device included.
        places: Where an entry is, for error messages.

    Raises:
        DataError: For sparse, quantized and packed formats, and for an integer that does not fit in int64.

    >>> numeric_tensor("x", torch.tensor([1, 2], dtype=torch.uint16)).dtype
    torch.int64
    """
    dtype = tensor.dtype
    if tensor.layout != torch.strided:
        raise DataError(f"{name} is a tensor of layout {tensor.layout}. Expected a dense one: call its to_dense() first.")
    if dtype in COMPUTED:
        return tensor
    if dtype in _UNSIGNED:
        signed = tensor.to(torch.int64)
        if dtype == torch.uint64 and tensor.device.type != "meta" and bool((signed < 0).any()):
            index = tuple((signed < 0).nonzero()[0].tolist())
            raise DataError(_too_large(name, int(signed[index]) + 2**64, places(index)))
        return signed
    if str(dtype).startswith(_FLOAT8):
        return tensor.to(torch.float32)
    if tensor.is_quantized:
        raise DataError(f"{name} is a quantized tensor of {dtype}. Expected numbers: call its dequantize() first.")
    raise DataError(f"{name} is a tensor of {dtype}, which torch cannot compute with. Expected integers or floats.")


def array_of(value: Any) -> NDArray[Any] | None:
    """Return a value as NumPy makes an array of it. Return None for lists of unequal lengths.

    >>> array_of([[1], [2, 3]]) is None
    True
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        return np.asarray(value)
    except ValueError:
        return None


def numeric_array(
    name: str,
    array: NDArray[Any],
    places: Places = place_in_rows,
    *,
    source: object = None,
    complex_numbers: bool = False,
) -> NDArray[Any]:
    """Return an array as booleans, integers or floats that `tensor_of` converts exactly.

    The array is not copied where it has such a dtype already, so a file that is mapped into memory stays one.

    Args:
        name: What the array is, for error messages.
        array: The array.
        places: Where an entry is, for error messages.
        source: The list that NumPy made the array of.
        complex_numbers: Whether complex numbers are allowed.

    Raises:
        DataError: For text, dates, other objects, missing values, and integers that do not fit in int64.

    >>> numeric_array("x", np.array([1, 2], dtype=object)).dtype
    dtype('int64')
    """
    if array.dtype.kind == "O":
        array = _numbers_of_objects(name, array, places)
    if array.dtype.kind not in ("biufc" if complex_numbers else "biuf"):
        # NumPy turns a list of numbers and text into text. The list says which of the entries is the text.
        entries = np.array(source, dtype=object) if isinstance(source, list | tuple) else array
        entries = entries if entries.shape == array.shape else array
        index = _first_index(entries, lambda entry: not _is_number(entry))
        raise DataError(_not_numbers(name, array.dtype, entries, index, places))
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and array.max() > np.iinfo(np.int64).max:
        index = np.unravel_index(int(np.argmax(array > np.iinfo(np.int64).max)), array.shape)
        place = tuple(map(int, index))
        raise DataError(_too_large(name, int(array[place]), places(place)))
    return array


def tensor_of(array: NDArray[Any], dtype: torch.dtype | None = None) -> Tensor:
    """Return an array that `numeric_array` has checked as a tensor: a view where torch allows one.

    >>> tensor_of(np.array([1, 2], dtype=">u2"))
    tensor([1, 2])
    """
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    elif array.dtype == np.longdouble:
        array = array.astype(np.float64)
    elif array.dtype == np.clongdouble:
        array = array.astype(np.complex128)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    is_shareable = array.flags.writeable and all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    return torch.as_tensor(array if is_shareable else array.copy(), dtype=dtype)


def _numbers_of_objects(name: str, array: NDArray[Any], places: Places) -> NDArray[Any]:
    """Return an array of objects as numbers. Raise `DataError` for the first object that is not a number."""
    index = _first_index(array, lambda entry: not _is_number(entry))
    if index is not None:
        raise DataError(_not_numbers(name, array.dtype, array, index, places))
    if not array.size:
        return array.astype(np.float64)
    numbers = np.array(array.tolist())
    if numbers.dtype.kind == "O":
        index = _first_index(array, lambda entry: isinstance(entry, int) and not -(2**63) <= entry < 2**63) or ()
        raise DataError(_too_large(name, array[index], places(index)))
    return numbers


def _first_index(array: NDArray[Any], condition: Callable[[object], bool]) -> tuple[int, ...] | None:
    """Return the index of the first entry with a condition, None without one."""
    position = next((position for position, entry in enumerate(array.flat) if condition(entry)), None)
    return None if position is None else tuple(int(axis) for axis in np.unravel_index(position, array.shape))


def _is_number(entry: object) -> bool:
    return isinstance(entry, int | float | np.number | np.bool_) and not isinstance(
        entry, np.complexfloating | np.timedelta64
    )


def _not_numbers(
    name: str, dtype: np.dtype[Any], entries: NDArray[Any], index: tuple[int, ...] | None, places: Places
) -> str:
    """Return the message for an array with an entry that is not a number."""
    if index is None:
        return f"{name} must hold numbers; got dtype {dtype}. {_ADVICE}"
    entry = entries[index]
    entry = entry.item() if isinstance(entry, np.generic) else entry
    if is_missing(entry):
        return f"{name} has a missing value ({entry!r}) in {places(index)}. Fill it, or drop the row, first."
    return f"{name} must hold numbers; got dtype {dtype} with {shorten(entry)} in {places(index)}. {_ADVICE}"


def is_missing(entry: object) -> bool:
    """Check whether an object is None, or the missing value of pandas or NumPy, which is not equal to itself."""
    if entry is None or type(entry).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(entry, np.datetime64 | np.timedelta64) and bool(np.isnat(entry))


def shorten(value: object, length: int = 60) -> str:
    """Return the text of a value for an error message, cut where it is long.

    >>> shorten("a" * 99, 10)
    "'aaaaaa..."
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= length else text[: length - 3] + "..."


def _too_large(name: str, number: int, place: str) -> str:
    return f"{name} holds the integer {number} in {place}, which does not fit in int64. Expected smaller numbers."
