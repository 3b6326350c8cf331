"""Read a container that the user gave as a column: each family of containers has a reader."""

from __future__ import annotations

from array import array
from collections import UserList, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from padless.data.arrays import read_array
from padless.data.columns import Column, DenseColumn
from padless.data.foreign_types import (
    is_arrow_column,
    is_huggingface_column,
    is_instance,
    is_pandas_column,
    is_polars_column,
    is_table,
)
from padless.data.lists import read_list
from padless.data.ragged_formats import (
    holds_sequences,
    read_arrow,
    read_awkward,
    read_pandas,
    read_polars,
    read_ragged_tensor,
)
from padless.data.torch_formats import read_masked_array, read_nested_tensor, read_packed, read_packed_sequence
from padless.data.unsupported import refuse_unsupported
from padless.errors import ArgumentError, DataError
from padless.ragged.masked_array import is_masked_array
from padless.ragged.packed import Packed


@runtime_checkable
class SupportsArray(Protocol):
    """An array of another library, which NumPy can convert."""

    def __array__(self) -> np.ndarray: ...


class ContainerReader(NamedTuple):
    """A family of containers: how to recognize it, and how to read it as a column of a given name."""

    matches: Callable[[object], bool]
    read: Callable[[str, Any], Column]


LISTS = (list, tuple, range, deque, UserList)
"""The classes that are read as a list of examples."""

CONTAINER_READERS = (
    ContainerReader(lambda container: isinstance(container, Packed), read_packed),
    ContainerReader(lambda container: isinstance(container, PackedSequence), read_packed_sequence),
    ContainerReader(lambda container: isinstance(container, Tensor) and container.is_nested, read_nested_tensor),
    ContainerReader(is_masked_array, read_masked_array),
    ContainerReader(lambda container: isinstance(container, LISTS) or is_object_array(container), read_list),
    ContainerReader(lambda container: isinstance(container, np.ndarray | Tensor), read_array),
    ContainerReader(is_arrow_column, read_arrow),
    ContainerReader(is_polars_column, read_polars),
    ContainerReader(lambda container: is_instance(container, "awkward", "Array"), read_awkward),
    ContainerReader(is_pandas_column, read_pandas),
    ContainerReader(lambda container: is_instance(container, "tensorflow", "RaggedTensor"), read_ragged_tensor),
    ContainerReader(is_huggingface_column, lambda name, column: read_list(name, column[:])),
    ContainerReader(lambda container: isinstance(container, FeatureColumns), lambda name, table: read_features(name, table)),
    ContainerReader(is_table, lambda name, table: read_table(name, table)),
    ContainerReader(lambda container: isinstance(container, array | memoryview | SupportsArray), read_array),
)
"""The first reader that matches reads a container."""


@dataclass(frozen=True)
class FeatureColumns:
    """Columns of a table, each with one number for each example, that are the features of one input or output.

    Attributes:
        columns: The columns by name.
    """

    columns: Mapping[str, object]


def read_column(name: str, container: object, takes_sequences: bool = False) -> Column:
    """Read a container with one entry for each example.

    Args:
        name: What the column is, for error messages, as "x" or "y['tags']".
        container: An array, tensor, list, `Packed`, or a column or table of pyarrow, polars, awkward or pandas.
        takes_sequences: Whether lists of equal lengths are sequences. Otherwise they become an array.

    Raises:
        DataError: For what does not hold numbers, for missing values, and for a single value.
    """
    reader = next((reader for reader in CONTAINER_READERS if reader.matches(container)), None)
    if reader is None:
        refuse_unsupported(name, container)
    column = read_array(name, container) if reader is None else reader.read(name, container)
    return column.as_sequences() if takes_sequences else column


def read_features(name: str, table: FeatureColumns) -> DenseColumn:
    """Read columns of single numbers as one array `(num_examples, num_columns)`.

    Raises:
        DataError: For columns that hold lists, or no numbers.
    """
    arrays: list[NDArray[Any]] = []
    for key, container in table.columns.items():
        column = read_column(f"{name}[{key!r}]", container)
        if not isinstance(column, DenseColumn) or column.source.ndim != 1:
            raise DataError(f"{column.name} holds lists. Expected a number for each example.")
        values = np.asarray(column.source)
        arrays.append(values.astype(np.int64) if values.dtype.kind == "u" else values)
    return DenseColumn(name, np.stack(arrays, axis=1), "grid")


def read_table(name: str, table: object) -> Column:
    """Read a table: its only column if that holds lists, else its columns as features.

    Raises:
        ArgumentError: For a table that is not computed yet, and for a column name that occurs twice.
        DataError: For a table without columns, and as `read_features`.
    """
    columns = columns_of_table(name, table)
    if not columns:
        raise DataError(f"{name} is a {type(table).__name__} without columns. Expected at least one.")
    first = next(iter(columns.values()))
    if len(columns) == 1 and holds_sequences(first):
        return read_column(name, first)
    return read_features(name, FeatureColumns(columns))


def columns_of_table(name: str, table: Any) -> dict[str, object]:
    """Return the columns of a table of pyarrow, polars or pandas by name.

    Raises:
        ArgumentError: For a table that is not computed yet, and for a column name that occurs twice.
    """
    if is_instance(table, "polars", "LazyFrame"):
        raise ArgumentError(
            f"{name} is a {type(table).__name__}, which has not been computed yet. Call its collect() first."
        )
    if is_instance(table, "pyarrow", "Table", "RecordBatch"):
        names, columns = table.column_names, table.columns
    elif is_instance(table, "polars", "DataFrame"):
        names, columns = table.columns, table.get_columns()
    else:
        names, columns = map(str, table.columns), [table.iloc[:, number] for number in range(table.shape[1])]
    by_name = dict(zip(names := list(names), columns, strict=True))
    if len(by_name) < len(names):
        repeated_name = next(key for key in names if names.count(key) > 1)
        raise ArgumentError(
            f"{name} has more than one column {repeated_name!r}. Expected different names: rename one of them."
        )
    return by_name


def is_container(value: object) -> bool:
    """Check whether a value is a container of examples, as opposed to a source that must be iterated over."""
    return any(reader.matches(value) for reader in CONTAINER_READERS)


def is_object_array(container: object) -> bool:
    """Check whether a container is an array of objects with one axis, NumPy's form of a list of sequences."""
    return isinstance(container, np.ndarray) and container.dtype == object and container.ndim == 1
