"""Read columns of pyarrow, polars, awkward, pandas and TensorFlow. These libraries are not imported.

Each reader collects the numbers of the innermost lists and, for each level of lists, their lengths. It does not loop over
rows. The type of a column is checked before its values are converted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from padless.data.arrays import as_numbers, read_array
from padless.data.columns import Column, DenseColumn, RaggedColumn, tensor_from_numpy
from padless.data.foreign_types import is_arrow_column, is_instance, is_pandas_column, is_polars_column
from padless.data.lists import read_list
from padless.errors import DataError
from padless.ragged.index import Ints
from padless.ragged.numeric import shorten
from padless.ragged.packed import NESTED_LISTS_ADVICE
from padless.ragged.row_names import row_name

Foreign: TypeAlias = Any
"""A column, a type or a module of a library that padless does not import."""


def read_arrow(name: str, column: Foreign) -> Column:
    """Read an `Array` or a `ChunkedArray` of pyarrow: of numbers, of lists, of lists of equal lists.

    Raises:
        DataError: For a type without numbers, a missing value, and for lists of unequal lengths inside a sequence.
    """
    arrow: Foreign = sys.modules["pyarrow"]
    leaf = _innermost_arrow_type(arrow, column.type)
    types = arrow.types
    if not (types.is_integer(leaf) or types.is_floating(leaf) or types.is_boolean(leaf) or types.is_null(leaf)):
        row = _first_valid_row(column.is_null().to_numpy(zero_copy_only=False))
        raise _not_numbers(name, column.type, row, _ArrowText(column.slice(row, 1).to_string()))
    chunks = column.chunks if isinstance(column, arrow.ChunkedArray) else [column]
    parts: list[tuple[NDArray[Any], list[Ints]]] = []
    num_rows = 0
    for chunk in chunks if len(chunks) == 1 else [chunk for chunk in chunks if len(chunk)]:
        parts.append(_flatten_arrow(name, arrow, chunk, num_rows))
        num_rows += len(chunk)
    if not parts:
        return DenseColumn(name, np.zeros(0, np.float32), "grid")
    numbers = parts[0][0] if len(parts) == 1 else np.concatenate([numbers for numbers, _ in parts])
    levels = [np.concatenate(level) for level in zip(*(levels for _, levels in parts), strict=True)]
    return _nested_column(name, numbers, levels, "pyarrow")


def _flatten_arrow(name: str, arrow: Foreign, array: Foreign, first_row: int) -> tuple[NDArray[Any], list[Ints]]:
    """Return the numbers of an `Array`, and the lengths of its lists at each level."""
    lengths_of_levels: list[Ints] = []
    while True:
        if isinstance(array, arrow.FixedShapeTensorArray):
            return array.to_numpy_ndarray(), lengths_of_levels
        if isinstance(array, arrow.ExtensionArray):
            array = array.storage
            continue
        if isinstance(array, arrow.DictionaryArray):
            array = array.dictionary_decode()
            continue
        if arrow.types.is_run_end_encoded(array.type):
            array = array.values.take(arrow.array(array.find_physical_offset() + _physical_rows(array)))
            continue
        if array.null_count:
            _check_missing(name, array.is_null().to_numpy(zero_copy_only=False), lengths_of_levels, first_row)
        if arrow.types.is_null(array.type):  # lists without any value
            return np.zeros(len(array), np.float32), lengths_of_levels
        if not _is_arrow_list(arrow, array.type):
            return array.to_numpy(zero_copy_only=False), lengths_of_levels
        lengths_of_levels.append(array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
        array = array.flatten()


def _physical_rows(array: Foreign) -> Ints:
    """Return for each row of a run-end encoded `Array` the number of its run, counted from its first run."""
    ends = np.asarray(array.run_ends)[array.find_physical_offset() :].astype(np.int64) - array.offset
    return np.searchsorted(ends, np.arange(len(array)), side="right")


def _is_arrow_list(arrow: Foreign, arrow_type: Foreign) -> bool:
    types = arrow.types
    is_view = types.is_list_view(arrow_type) or types.is_large_list_view(arrow_type)
    return is_view or types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type)


def _innermost_arrow_type(arrow: Foreign, arrow_type: Foreign) -> Foreign:
    """Return the type of the values in the innermost lists."""
    while True:
        if isinstance(arrow_type, arrow.BaseExtensionType):
            arrow_type = arrow_type.storage_type
        elif _is_arrow_list(arrow, arrow_type) or isinstance(arrow_type, arrow.DictionaryType | arrow.RunEndEncodedType):
            arrow_type = arrow_type.value_type
        else:
            return arrow_type


def read_polars(name: str, series: Foreign) -> Column:
    """Read a `Series` of polars: of numbers, of lists, of lists of equal lists. An `Array` has lists of a fixed size.

    Raises:
        DataError: For a type without numbers, a missing value, and for lists of unequal lengths inside a sequence.
    """
    polars: Foreign = sys.modules["polars"]
    leaf = series.dtype
    while isinstance(leaf, polars.List | polars.Array):
        leaf = leaf.inner
    if not (leaf.is_numeric() or leaf in (polars.Boolean, polars.Null)) or leaf.is_decimal():
        row = _first_valid_row(series.is_null().to_numpy())
        raise _not_numbers(name, series.dtype, row, next(iter(series.slice(row, 1).to_list()), None))
    lengths_of_levels: list[Ints] = []
    while True:
        if series.null_count():
            _check_missing(name, series.is_null().to_numpy(), lengths_of_levels)
        if isinstance(series.dtype, polars.Array):
            series = series.arr.to_list()
        if not isinstance(series.dtype, polars.List):
            return _nested_column(
                name, _polars_numbers(name, polars, series, lengths_of_levels), lengths_of_levels, "polars"
            )
        lengths = series.list.len()
        lengths_of_levels.append(lengths.to_numpy().astype(np.int64))
        series = series.filter(lengths > 0).explode()


def _polars_numbers(name: str, polars: Foreign, series: Foreign, lengths_of_levels: list[Ints]) -> NDArray[Any]:
    """Return a `Series` of numbers as an array. NumPy has no integers of 128 bits."""
    if series.dtype == polars.Null:
        return np.zeros(len(series), np.float32)
    if not series.dtype.is_integer() or series.dtype in (polars.Int8, polars.Int16, polars.Int32, polars.Int64):
        return series.to_numpy()
    integers = series.cast(polars.Int64, strict=False)
    if integers.null_count():
        position = int(np.argmax(integers.is_null().to_numpy()))
        row = _row_of_value(position, lengths_of_levels)
        raise DataError(
            f"{name} holds the integer {series[position]} in {row_name(row)}, which does not fit in int64. Expected "
            f"smaller numbers."
        )
    return integers.to_numpy()


def read_awkward(name: str, array: Foreign) -> Column:
    """Read an `Array` of awkward: of numbers, of lists, of lists of equal lists.

    Raises:
        DataError: For a record, a union, a missing value, and for lists of unequal lengths inside a sequence.
    """
    awkward: Foreign = sys.modules["awkward"]
    least, most = array.layout.minmax_depth
    if array.fields or least != most:
        raise _not_numbers(name, f"the type {array.type}", 0, array.to_list()[0])

    def flat(array: Foreign) -> NDArray[np.generic]:
        return np.asarray(awkward.to_numpy(awkward.flatten(array, axis=None)))

    lengths_of_levels: list[Ints] = []
    for axis in range(array.ndim):
        _check_missing(name, flat(awkward.is_none(array, axis=axis)).astype(bool), lengths_of_levels)
        if axis + 1 < array.ndim:
            lengths_of_levels.append(flat(awkward.num(array, axis=axis + 1)).astype(np.int64))
    return _nested_column(name, flat(array), lengths_of_levels, "awkward")


def read_pandas(name: str, column: Foreign) -> Column:
    """Read a `Series`, an `Index` or an extension array of pandas: of numbers, of lists, of objects that are lists.

    Rows are read in their order. The labels of an index have no effect.

    Raises:
        DataError: For a type without numbers, and for a missing value.
    """
    pandas: Foreign = sys.modules["pandas"]
    if is_instance(column, "pandas", "MultiIndex"):
        raise DataError(f"{name} is a MultiIndex, whose entries are tuples. Expected a column of numbers or lists.")
    series = column if isinstance(column, pandas.Series) else pandas.Series(column)
    dtype = series.dtype
    if isinstance(dtype, np.dtype):
        values = series.to_numpy()
        return read_list(name, _objects_as_list(values)) if values.dtype == object else read_array(name, values)
    if is_instance(dtype, "pandas", "ArrowDtype"):
        arrow: Foreign = sys.modules["pyarrow"]
        return read_arrow(name, arrow.chunked_array(arrow.array(series.array)))
    if is_instance(dtype, "pandas", "CategoricalDtype"):
        _check_missing(name, series.isna().to_numpy(), [])
        if not is_instance(dtype.categories.dtype, "numpy", "dtype") or dtype.categories.dtype.kind not in "biuf":
            raise DataError(
                f"{name} is a column of categories with {shorten(series.iloc[0])} in {row_name(0)}. Expected numbers: "
                f"give its cat.codes as ids."
            )
        return read_array(name, series.to_numpy())
    return read_array(name, as_numbers(name, series))


def read_ragged_tensor(name: str, ragged: Foreign) -> Column:
    """Read a `RaggedTensor` of TensorFlow by its flat values and the row splits of each level.

    Raises:
        DataError: For what does not hold numbers, and for lists of unequal lengths inside a sequence.
    """
    levels = [np.diff(np.asarray(splits)).astype(np.int64) for splits in ragged.nested_row_splits]
    return _nested_column(name, ragged.flat_values, levels, "TensorFlow")


def holds_sequences(column: Foreign) -> bool:
    """Check whether a column of a table holds lists, and not single values."""
    if is_arrow_column(column):
        arrow: Foreign = sys.modules["pyarrow"]
        return _is_arrow_list(arrow, column.type) or isinstance(column.type, arrow.BaseExtensionType | arrow.DictionaryType)
    if is_polars_column(column):
        return column.dtype.is_nested()
    if is_pandas_column(column) and is_instance(column.dtype, "pandas", "ArrowDtype"):
        return holds_sequences(sys.modules["pyarrow"].array(column.array[:0]))
    if is_pandas_column(column) and column.dtype == object and len(column):
        return isinstance(column.iloc[0], Sequence | np.ndarray) and not isinstance(column.iloc[0], str | bytes)
    return False


class _ArrowText(str):
    """The text of values of pyarrow, which Python may have no objects for. It is shown as it is."""

    def __repr__(self) -> str:
        return self.replace('"', "'")


def _first_valid_row(is_missing: NDArray[np.bool_]) -> int:
    """Return the first row that is not missing, 0 without one."""
    return int(np.argmin(is_missing)) if len(is_missing) else 0


def _objects_as_list(values: NDArray[Any]) -> list[object]:
    """Return the entries of an object column. Rows that are missing stay None or NA, which the reader of lists refuses."""
    return values.tolist() if values.ndim == 1 else list(values)


def _not_numbers(name: str, type_name: object, row: int, example: object) -> DataError:
    """Return the error for a column whose type has no numbers, with the value of a row."""
    return DataError(
        f"{name} must hold numbers; got {' '.join(str(type_name).split())} with {shorten(example)} in {row_name(row)}. Turn "
        f"text into ids, and other objects into numbers, first."
    )


def _check_missing(name: str, is_missing: NDArray[np.bool_], lengths_of_levels: list[Ints], first_row: int = 0) -> None:
    """Raise `DataError` for the first missing value, with its row of the outermost list."""
    if not is_missing.any():
        return
    row = first_row + _row_of_value(int(np.argmax(is_missing)), lengths_of_levels)
    raise DataError(f"{name} has a missing value (null) in {row_name(row)}. Fill it, or drop the row, first.")


def _row_of_value(position: int, lengths_of_levels: list[Ints]) -> int:
    """Return the row of the outermost list that holds the innermost value at a position."""
    for lengths in reversed(lengths_of_levels):
        position = int(np.searchsorted(np.cumsum(lengths), position, side="right"))
    return position


def _nested_column(name: str, numbers: object, lengths_of_levels: list[Ints], library: str) -> Column:
    """Return a column of the numbers of nested lists, with the lengths of the lists of each level, outermost first.

    Only the outermost lists may differ in length. The inner ones are the features of a step.
    """

    def place(index: tuple[int, ...]) -> str:
        row = _row_of_value(index[0], lengths_of_levels)
        if len(lengths_of_levels) != 1:
            return row_name(row)
        return f"step {index[0] - int(lengths_of_levels[0][:row].sum())} of {row_name(row)}"

    values = as_numbers(name, numbers, place)
    if not lengths_of_levels:
        return DenseColumn(name, values, "grid")
    lengths, *inner_levels = lengths_of_levels
    for level in reversed(range(len(inner_levels))):
        sizes = inner_levels[level]
        if len(sizes) and (sizes != sizes[0]).any():
            position = int(np.argmax(sizes != sizes[0]))
            row = _row_of_value(position, lengths_of_levels[: level + 1])
            raise DataError(
                f"{name} holds lists of {sizes.min()} and of {sizes.max()} numbers inside its sequences, first in "
                f"{row_name(row)}. Expected a sequence of numbers or equal vectors. {NESTED_LISTS_ADVICE}"
            )
        values = values.reshape(len(sizes), int(sizes[0]) if len(sizes) else 0, *values.shape[1:])
    sequence_source = f"{name}, a column of {library}"
    if len(lengths) and lengths[0] and (lengths == lengths[0]).all():
        values = values.reshape(len(lengths), int(lengths[0]), *values.shape[1:])
        return DenseColumn(name, values, "list", sequence_source)
    offsets = np.append(0, np.cumsum(lengths))
    return RaggedColumn(name, len(lengths), tensor_from_numpy(values), offsets, sequence_source, "list")
