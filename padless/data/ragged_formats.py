"""Read columns of pyarrow, polars, awkward and pandas. These libraries are not imported.

Each reader collects the numbers of the innermost lists and, for each level of lists, their lengths. It does not loop over
rows.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from padless.data.arrays import as_numbers, read_array
from padless.data.columns import Column, DenseColumn, RaggedColumn, tensor_from_numpy
from padless.data.lists import read_list
from padless.errors import DataError
from padless.ragged.index import Ints
from padless.ragged.packed import NESTED_LISTS_ADVICE

Foreign: TypeAlias = Any
"""A column or a module of a library that padless does not import."""


def read_arrow(name: str, column: Foreign) -> Column:
    """Read an `Array` or a `ChunkedArray` of pyarrow: of numbers, of lists, of lists of equal lists.

    Raises:
        DataError: For a missing value, and for lists of unequal lengths inside a sequence.
    """
    arrow: Foreign = sys.modules["pyarrow"]
    array = column.combine_chunks() if isinstance(column, arrow.ChunkedArray) else column
    lengths_of_levels: list[Ints] = []
    while True:
        if isinstance(array, arrow.ExtensionArray):
            array = array.storage
        if isinstance(array, arrow.DictionaryArray):
            array = array.dictionary_decode()
        _check_missing(name, array.is_null().to_numpy(zero_copy_only=False), lengths_of_levels)
        if not hasattr(array, "value_lengths"):  # pyarrow has no public base class of its list arrays
            return _nested_column(name, array.to_numpy(zero_copy_only=False), lengths_of_levels, "pyarrow")
        lengths_of_levels.append(array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
        array = array.flatten()


def read_polars(name: str, series: Foreign) -> Column:
    """Read a `Series` of polars: of numbers, of lists, of lists of equal lists. An `Array` has a fixed size.

    Raises:
        DataError: For a missing value, and for lists of unequal lengths inside a sequence.
    """
    polars: Foreign = sys.modules["polars"]
    lengths_of_levels: list[Ints] = []
    while True:
        _check_missing(name, series.is_null().to_numpy(), lengths_of_levels)
        if not isinstance(series.dtype, polars.List):
            return _nested_column(name, series.to_numpy(), lengths_of_levels, "polars")
        lengths = series.list.len()
        lengths_of_levels.append(lengths.to_numpy().astype(np.int64))
        series = series.filter(lengths > 0).explode()


def read_awkward(name: str, array: Foreign) -> Column:
    """Read an `Array` of awkward: of numbers, of lists, of lists of equal lists.

    Raises:
        DataError: For a missing value, and for lists of unequal lengths inside a sequence.
    """
    awkward: Foreign = sys.modules["awkward"]

    def flat(array: Foreign) -> NDArray[np.generic]:
        return np.asarray(awkward.to_numpy(awkward.flatten(array, axis=None)))

    lengths_of_levels: list[Ints] = []
    for axis in range(array.ndim):
        _check_missing(name, flat(awkward.is_none(array, axis=axis)).astype(bool), lengths_of_levels)
        if axis + 1 < array.ndim:
            lengths_of_levels.append(flat(awkward.num(array, axis=axis + 1)).astype(np.int64))
    return _nested_column(name, flat(array), lengths_of_levels, "awkward")


def read_pandas(name: str, series: Foreign) -> Column:
    """Read a `Series` of pandas: of numbers, or of objects that are lists. Raises `DataError` for `pandas.NA`."""
    if not isinstance(series.dtype, np.dtype):  # a dtype with missing values, which NumPy would see as NaN
        _check_missing(name, series.isna().to_numpy(), [])
    array = series.to_numpy()
    return read_list(name, array) if array.dtype == object else read_array(name, array)


def _check_missing(name: str, is_missing: NDArray[np.bool_], lengths_of_levels: list[Ints]) -> None:
    """Raise `DataError` for the first missing value, with its row of the outermost list."""
    if not is_missing.any():
        return
    row = int(np.flatnonzero(is_missing)[0])
    for lengths in reversed(lengths_of_levels):
        row = int(np.searchsorted(np.cumsum(lengths), row, side="right"))
    raise DataError(f"{name} has a missing value (null) in row {row}. Fill it, or drop the row, first.")


def _nested_column(name: str, numbers: object, lengths_of_levels: list[Ints], library: str) -> Column:
    """Return a column of the numbers of nested lists, with the lengths of the lists of each level, outermost first.

    Only the outermost lists may differ in length. The inner ones are the features of a step.
    """
    values = as_numbers(name, numbers)
    if not lengths_of_levels:
        return DenseColumn(name, values, "grid")
    lengths, *inner_levels = lengths_of_levels
    for sizes in reversed(inner_levels):
        if len(sizes) and (sizes != sizes[0]).any():
            raise DataError(
                f"{name} holds lists of {sizes.min()} and of {sizes.max()} numbers inside its sequences. Expected a "
                f"sequence of numbers or equal vectors. {NESTED_LISTS_ADVICE}"
            )
        values = values.reshape(len(sizes), int(sizes[0]) if len(sizes) else 0, *values.shape[1:])
    sequence_source = f"{name}, a column of {library}"
    if len(lengths) and lengths[0] and (lengths == lengths[0]).all():
        values = values.reshape(len(lengths), int(lengths[0]), *values.shape[1:])
        return DenseColumn(name, values, "list", sequence_source)
    offsets = np.append(0, np.cumsum(lengths))
    return RaggedColumn(name, len(lengths), tensor_from_numpy(values), offsets, sequence_source, "list")
