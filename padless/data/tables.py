"""Data by name: dictionaries and tables, whose columns are inputs, targets, weights and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from padless.data.containers import FeatureColumns, columns_of_table
from padless.data.data_spec import DataSpec
from padless.data.foreign_types import is_table
from padless.data.input_masks import SharedMask
from padless.data.ragged_formats import holds_sequences
from padless.errors import ArgumentError

LABELS = ("labels", "label")
WEIGHTS = "sample_weight"
MASK = "attention_mask"
IDS = "input_ids"


class DataParts(NamedTuple):
    """The containers of inputs, targets, sample weights and masks. None for what was not given."""

    x: object
    y: object = None
    sample_weight: object = None
    mask: object = None


def split_named_columns(parts: DataParts, spec: DataSpec) -> DataParts:
    """Find inputs, targets, weights and masks in data by name. Return other data unchanged.

    - `y` and `sample_weight` may name columns.
    - Otherwise targets are the columns with the names of the outputs, or `labels` or `label`. Weights are `sample_weight`.
    - `attention_mask` is the mask, unless an input has that name.
    - A model with one input takes the column of its name, `input_ids`, or the only column that remains of a table.

    Raises:
        ArgumentError: For names of missing columns, for a table without the inputs, for two masks, and for a lazy table.

    >>> parts = DataParts({"input_ids": [[1, 2], [3, 0]], "attention_mask": [[1, 1], [1, 0]], "labels": [0, 1]})
    >>> split_named_columns(parts, DataSpec(num_inputs=1))[:2]
    ([[1, 2], [3, 0]], [0, 1])
    """
    x, y, sample_weight, mask = parts
    if not isinstance(x, Mapping) and not is_table(x):
        for argument, name in (("y", y), ("sample_weight", sample_weight)):
            if isinstance(name, str):
                raise ArgumentError(
                    f"{argument}={name!r} names a column, but x is a {type(x).__name__}, which has no columns. Give the "
                    f"data themselves."
                )
        return parts
    columns = dict(x) if isinstance(x, Mapping) else columns_of_table("x", x)
    all_names = list(columns)
    y = _take_named("y", y, columns, all_names)
    sample_weight = _take_named(WEIGHTS, sample_weight, columns, all_names)
    if y is None:
        y = _take_targets(columns, spec)
    if sample_weight is None and WEIGHTS not in spec.input_names:
        sample_weight = columns.pop(WEIGHTS, None)
    if MASK in columns and MASK not in spec.input_names:
        if mask is not None:
            raise ArgumentError(f"The data have a column {MASK!r}, and mask= is given as well. Give one of them.")
        mask = SharedMask(columns.pop(MASK))
    inputs = _inputs_of_table(columns, all_names, spec) if is_table(x) else _inputs_of_mapping(columns, spec)
    return DataParts(inputs, y, sample_weight, mask)


def _take_named(argument: str, names: object, columns: dict[str, object], all_names: Sequence[str]) -> object:
    """Take the columns that an argument names out of the columns. Return an argument that is data unchanged."""
    name_list = [names] if isinstance(names, str) else names
    if not isinstance(name_list, list | tuple) or not name_list or not all(isinstance(name, str) for name in name_list):
        return names
    missing = [name for name in name_list if name not in columns]
    if missing:
        raise ArgumentError(f"{argument} names the columns {missing}, which are missing. The data have {list(all_names)}.")
    named_columns = [columns.pop(name) for name in dict.fromkeys(name_list)]
    return named_columns if len(named_columns) > 1 else named_columns[0]


def _take_targets(columns: dict[str, object], spec: DataSpec) -> object:
    """Take the targets out of the columns: those of several outputs by name, else one column; None if there is none."""
    outputs = [name for name in spec.output_names if name in columns and name not in spec.input_names]
    if len(spec.output_names) > 1 and outputs:
        return {name: columns.pop(name) for name in outputs}
    labels = [name for name in LABELS if name in columns and name not in spec.input_names]
    return columns.pop([*outputs, *labels][0]) if outputs or labels else None


def _inputs_of_mapping(columns: dict[str, object], spec: DataSpec) -> object:
    """Return the column of a model with one input, if it is the only one and has a name that fits; else all columns."""
    if spec.num_inputs == 1 and len(columns) == 1:
        ((name, column),) = columns.items()
        if name in (*spec.input_names, IDS):
            return column
    return columns


def _inputs_of_table(columns: dict[str, object], all_names: Sequence[str], spec: DataSpec) -> object:
    """Return the inputs of a table.

    A model with one input takes the column of its name, the only column, or all columns of single numbers as its features.
    Other models take the columns of the inputs by name, all columns if the names are not known.
    """
    if spec.num_inputs == 1:
        name = next((name for name in (*spec.input_names, IDS) if name in columns), None)
        if name is not None:
            return columns[name]
        if len(columns) == 1 and holds_sequences(*columns.values()):
            return next(iter(columns.values()))
        if columns and not any(holds_sequences(column) for column in columns.values()):
            return FeatureColumns(columns)
    missing = [name for name in spec.input_names if name not in columns]
    if missing or not columns:
        raise ArgumentError(
            f"The table has the columns {list(all_names)}; no column for the inputs {missing or list(spec.input_names)}. "
            f"Rename them, or give x as a dict by name."
        )
    return {name: columns[name] for name in spec.input_names or columns}
