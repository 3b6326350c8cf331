"""Read the columns of several inputs or outputs: one column, a list of them, or a dictionary by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from padless.data.batch import Tree
from padless.data.columns import Column, read_all
from padless.data.containers import columns_of_table, read_column
from padless.data.data_spec import DataSpec
from padless.data.foreign_types import is_table
from padless.data.lists import read_list
from padless.errors import ArgumentError
from padless.ragged.masked_array import refuse_masked_array

Result = TypeVar("Result")
ColumnTree: TypeAlias = "Tree[Column]"
"""The columns of inputs, targets or weights, in the form in which the containers were given."""

Argument: TypeAlias = Literal["x", "y", "sample_weight"]


def read_columns(argument: Argument, container: object, spec: DataSpec) -> ColumnTree:
    """Read inputs, targets or sample weights.

    Args:
        argument: The argument that the data were given as.
        container: One container, or for several inputs (outputs) a list of containers or a dictionary by name. One container
            of sample weights is for all outputs.
        spec: The number of inputs (outputs) and their names.

    Raises:
        ArgumentError: For a wrong number of containers, for wrong names, and for a missing input.
        DataError: For containers that do not hold numbers.
    """
    count, names = _count_and_names(argument, spec)
    takes_sequences = spec.takes_sequences if argument == "x" else ()
    if container is None:
        return None
    if argument != "x":
        refuse_masked_array(argument, container)
    if count == 1 and not isinstance(container, Mapping):
        return read_column(argument, container, any(takes_sequences))
    if argument == "sample_weight" and not isinstance(container, Mapping | list | tuple):
        shared = read_column(argument, container)
        return [shared for _ in range(count)]
    if is_table(container):
        columns_by_name = columns_of_table(argument, container)
        container = {name: columns_by_name[name] for name in names if name in columns_by_name} or container
    parts = _parts_by_key(argument, container, count, names)
    absent = [key for key, part in parts.items() if part is None]
    if argument == "x" and absent:
        raise ArgumentError(f"x holds None for {absent}. Give data for each of the {_describe(argument, names)}.")
    flags = [*takes_sequences, *[False] * len(parts)]
    columns = {
        key: None if part is None else read_column(f"{argument}[{key!r}]", part, flag)
        for (key, part), flag in zip(parts.items(), flags, strict=False)
    }
    return _like(container, columns)


def fit_to_spec(argument: Argument, columns: ColumnTree, spec: DataSpec) -> ColumnTree:
    """Return columns that were read before the spec of the model was known in the form that the spec asks for.

    Raises:
        ArgumentError: For a wrong number of columns and for wrong names.
    """
    count, names = _count_and_names(argument, spec)
    takes_sequences = spec.takes_sequences if argument == "x" else ()
    if columns is None:
        return None
    if isinstance(columns, list) and count == 1:  # rows of one output were taken for several outputs
        return read_list(argument, [read_all(column) for column in column_leaves(columns)])
    if isinstance(columns, list | dict):
        parts = _parts_by_key(argument, columns, count, names)
        flags = [*takes_sequences, *[False] * len(parts)]
        return _like(
            columns,
            {
                key: part.as_sequences() if part is not None and flag else part
                for (key, part), flag in zip(parts.items(), flags, strict=False)
            },
        )
    if count == 1:
        return columns.as_sequences() if any(takes_sequences) else columns
    if argument == "sample_weight":
        return [columns for _ in range(count)]
    raise _wrong_number(argument, "one container", count, names)


def column_leaves(columns: ColumnTree) -> list[Column]:
    """Return the columns of a tree, without those that are None."""
    leaves = columns.values() if isinstance(columns, dict) else columns if isinstance(columns, list) else [columns]
    return [column for column in leaves if column is not None]


def map_columns(function: Callable[[Column], Result], columns: ColumnTree) -> Tree[Result]:
    """Return the results of a function for each column, in the same tree. None stays None."""

    def result_or_none(column: Column | None) -> Result | None:
        return None if column is None else function(column)

    if isinstance(columns, dict):
        return {key: result_or_none(column) for key, column in columns.items()}
    if isinstance(columns, list):
        return [result_or_none(column) for column in columns]
    return result_or_none(columns)


def _count_and_names(argument: Argument, spec: DataSpec) -> tuple[int, Sequence[str]]:
    if argument == "x":
        return spec.num_inputs or 1, spec.input_names
    return spec.num_outputs or 1, spec.output_names


def _parts_by_key(argument: Argument, container: object, count: int, names: Sequence[str]) -> dict[str | int, Any]:
    """Return the container of each input (output) by name, or by number if they came in a list."""
    if isinstance(container, Mapping):
        keys = list(names) or list(container)
        wrong = [key for key in container if key not in keys]
        if argument != "sample_weight":  # an output without sample weights is left out
            wrong += [key for key in keys if key not in container]
        if wrong or not keys:
            raise ArgumentError(
                f"{argument} has the keys {list(container)}; unknown or missing: {wrong}. Expected "
                f"{_describe(argument, names)}."
            )
        return {key: container.get(key) for key in keys}
    if not isinstance(container, list | tuple):
        raise _wrong_number(argument, f"one {type(container).__name__}", count, names)
    if len(container) != count:
        raise _wrong_number(argument, f"{len(container)} arrays", count, names)
    return dict(enumerate(container))


def _wrong_number(argument: Argument, description: str, count: int, names: Sequence[str]) -> ArgumentError:
    return ArgumentError(
        f"{argument} holds {description}, but the model has {count} {_describe(argument, names)}. Give a list with one for "
        f"each, or a dict by name."
    )


def _describe(argument: Argument, names: Sequence[str]) -> str:
    """Return what the entries are, for error messages: "inputs (ids, sizes)"."""
    return ("inputs" if argument == "x" else "outputs") + (f" ({', '.join(names)})" if names else "")


def _like(container: object, parts: dict[str | int, Column | None]) -> ColumnTree:
    """Return columns by name for a dictionary, as a list for a list."""
    if isinstance(container, Mapping):
        return {str(key): column for key, column in parts.items()}
    return list(parts.values())
