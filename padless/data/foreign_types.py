"""Recognize objects of libraries that padless does not import."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def is_instance(value: object, library: str, *class_names: str) -> bool:
    """Check whether a value is an instance of public classes of a library. A library that is not imported made no value.

    >>> from collections import OrderedDict
    >>> is_instance(OrderedDict(), "collections", "OrderedDict"), is_instance([], "pyarrow", "Array")
    (True, False)
    """
    module = sys.modules.get(library)
    if module is None:
        return False
    classes = (getattr(module, name, None) for name in class_names)
    return isinstance(value, tuple(kind for kind in classes if isinstance(kind, type)))


def is_arrow_column(value: object) -> bool:
    """Check whether a value is a column of pyarrow."""
    return is_instance(value, "pyarrow", "Array", "ChunkedArray")


def is_polars_column(value: object) -> bool:
    """Check whether a value is a column of polars."""
    return is_instance(value, "polars", "Series")


def is_pandas_column(value: object) -> bool:
    """Check whether a value is a column of pandas: a Series, an Index, or an array of an extension type."""
    return is_instance(value, "pandas", "Series", "Index") or is_instance(value, "pandas.api.extensions", "ExtensionArray")


def is_huggingface_column(value: object) -> bool:
    """Check whether a value is a column of a Dataset of Hugging Face, which reads its rows when they are needed."""
    return is_instance(value, "datasets.arrow_dataset", "Column") or is_instance(
        value, "datasets.iterable_dataset", "IterableColumn"
    )


def is_table(container: object) -> bool:
    """Check whether a container is a table of pyarrow, polars or pandas."""
    return (
        is_instance(container, "pyarrow", "Table", "RecordBatch")
        or is_instance(container, "polars", "DataFrame", "LazyFrame")
        or is_instance(container, "pandas", "DataFrame")
    )


def first_missing_row(value: Any) -> int | None:
    """Return the first row of a column of pyarrow, polars or pandas that is missing (null, NA). None for other objects.

    NaN in a column of NumPy's floats is not missing: a masked step may hold it.
    """
    if isinstance(value, list | tuple | np.ndarray):
        return None
    if is_arrow_column(value):
        is_missing = value.is_null().to_numpy(zero_copy_only=False) if value.null_count else None
    elif is_polars_column(value):
        is_missing = value.is_null().to_numpy() if value.null_count() else None
    elif is_pandas_column(value) and not isinstance(value.dtype, np.dtype):
        is_missing = np.asarray(value.isna())
    else:
        return None
    return int(np.argmax(is_missing)) if is_missing is not None and is_missing.any() else None
