"""Containers that padless does not read, and what to write instead."""

from __future__ import annotations

from typing import NamedTuple

from padless.data.foreign_types import is_instance
from padless.errors import DataError


class UnsupportedContainer(NamedTuple):
    """Classes of a library that are not read, and what to give instead of their objects."""

    library: str
    class_names: tuple[str, ...]
    advice: str


UNSUPPORTED = (
    UnsupportedContainer("scipy.sparse", ("spmatrix", "sparray"), "call its toarray() first"),
    UnsupportedContainer("pandas.api.typing", ("DataFrameGroupBy", "SeriesGroupBy"), "give the table itself"),
    UnsupportedContainer("polars.dataframe.group_by", ("GroupBy",), "give the table itself"),
    UnsupportedContainer("io", ("IOBase",), "read the file first; padless.data.parquet reads Parquet files"),
    UnsupportedContainer("polars", ("Expr",), "select it from a table first, and give the column"),
    UnsupportedContainer("pyarrow.dataset", ("Dataset", "Scanner"), "call its to_table(), or give its to_batches()"),
    UnsupportedContainer("pyarrow", ("Scalar",), "give an array of all examples"),
    UnsupportedContainer("datasets", ("DatasetDict", "IterableDatasetDict"), "give one of its datasets, as x['train']"),
    UnsupportedContainer("tensorflow", ("SparseTensor",), "convert it by tensorflow.sparse.to_dense first"),
    UnsupportedContainer("awkward", ("ArrayBuilder",), "call its snapshot() first"),
    UnsupportedContainer("awkward", ("Record",), "give one of its fields"),
    UnsupportedContainer("builtins", ("set", "frozenset"), "give a list, which has an order"),
)


def refuse_unsupported(name: str, container: object) -> None:
    """Raise an error for a container that is known, and not read.

    Args:
        name: What the container is, for the error message.
        container: The container.

    Raises:
        DataError: For a container of a class that is not read.
    """
    for entry in UNSUPPORTED:
        if is_instance(container, entry.library, *entry.class_names):
            kind = f"{type(container).__module__.split('.')[0]}.{type(container).__name__}"
            raise DataError(f"{name} is a {kind}, which padless does not read. Instead {entry.advice}.")
