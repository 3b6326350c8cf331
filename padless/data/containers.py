"""Read a container that the user gave as a column: each family of containers has a reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from padless.data.arrays import read_array
from padless.data.columns import Column
from padless.data.foreign_types import is_instance
from padless.data.lists import read_list
from padless.data.ragged_formats import read_arrow, read_awkward, read_pandas, read_polars
from padless.data.torch_formats import read_masked_array, read_nested_tensor, read_packed, read_packed_sequence
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


CONTAINER_READERS = (
    ContainerReader(lambda container: isinstance(container, Packed), read_packed),
    ContainerReader(lambda container: isinstance(container, PackedSequence), read_packed_sequence),
    ContainerReader(lambda container: isinstance(container, Tensor) and container.is_nested, read_nested_tensor),
    ContainerReader(is_masked_array, read_masked_array),
    ContainerReader(lambda container: isinstance(container, list | tuple) or is_object_array(container), read_list),
    ContainerReader(lambda container: isinstance(container, np.ndarray | Tensor), read_array),
    ContainerReader(lambda container: is_instance(container, "pyarrow", "Array", "ChunkedArray"), read_arrow),
    ContainerReader(lambda container: is_instance(container, "polars", "Series"), read_polars),
    ContainerReader(lambda container: is_instance(container, "awkward", "Array"), read_awkward),
    ContainerReader(lambda container: is_instance(container, "pandas", "Series"), read_pandas),
    ContainerReader(lambda container: isinstance(container, SupportsArray), read_array),
)
"""The first reader that matches reads a container."""


def read_column(name: str, container: object, takes_sequences: bool = False) -> Column:
    """Read a container with one entry for each example.

    Args:
        name: What the column is, for error messages, as "x" or "y['tags']".
        container: An array, tensor, list, `Packed`, or a column of pyarrow, polars, awkward or pandas.
        takes_sequences: Whether lists of equal lengths are sequences. Otherwise they become an array.

    Raises:
        DataError: For what does not hold numbers, for missing values, and for a single value.
    """
    read = next((reader.read for reader in CONTAINER_READERS if reader.matches(container)), read_array)
    column = read(name, container)
    return column.as_sequences() if takes_sequences else column


def is_container(value: object) -> bool:
    """Check whether a value is a container of examples, as opposed to a source that must be iterated over."""
    return any(reader.matches(value) for reader in CONTAINER_READERS)


def is_object_array(container: object) -> bool:
    """Check whether a container is an array of objects with one axis, NumPy's form of a list of sequences."""
    return isinstance(container, np.ndarray) and container.dtype == object and container.ndim == 1
