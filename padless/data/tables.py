"""Data by name: dictionaries and tables, whose columns are inputs, targets, weights and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from padless.data.ragged_formats import library
from padless.errors import ArgumentError

LABELS = ("labels", "label")
WEIGHTS = "sample_weight"
MASK = "attention_mask"
IDS = "input_ids"


@dataclass
class SharedMask:
    """A mask that came beside the inputs, and holds for each whose steps it fits."""

    mask: Any


def columns_of(given: Any) -> dict[str, Any] | None:
    """The columns of a table of pyarrow, polars or pandas by name; None for what is no table."""
    if library(given) not in ("pyarrow", "polars", "pandas"):
        return None
    if hasattr(given, "collect"):
        raise ArgumentError(f"x is a {type(given).__name__}, which has not been computed yet. Call its collect() first.")
    names = getattr(given, "column_names", None) or getattr(given, "columns", None)
    if names is None:
        return None
    column = getattr(given, "column" if library(given) == "pyarrow" else "__getitem__")
    return {str(name): column(name) for name in names}


def split_named_columns(
    x: Any, y: Any = None, sample_weight: Any = None, mask: Any = None, input_names: Sequence[str] = (),
    output_names: Sequence[str] = (), **_: Any,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """Inputs, targets, weights and mask of data by name; of other data, what was given.

    `y` and `sample_weight` may name columns. Otherwise targets are the columns with the names of the outputs, or
    `labels` or `label`, and weights `sample_weight`. `attention_mask`, if no input is called so, is the mask. A model
    of one input takes the column of its name, `input_ids`, or the only one that is left.

    >>> split_named_columns({"input_ids": [[1, 2], [3, 0]], "attention_mask": [[1, 1], [1, 0]], "labels": [0, 1]})[:2]
    ({'input_ids': [[1, 2], [3, 0]]}, [0, 1])
    """
    table = columns_of(x)
    if table is None and not isinstance(x, Mapping):
        for what, name in (("y", y), ("sample_weight", sample_weight)):
            if isinstance(name, str):
                raise ArgumentError(
                    f"{what}={name!r} names a column, but x is a {type(x).__name__}, which has none. Give "
                    f"the data themselves."
                )
        return x, y, sample_weight, mask
    rest = dict(x) if table is None else table
    known = list(rest)
    y = _named("y", y, rest, known)
    sample_weight = _named(WEIGHTS, sample_weight, rest, known)
    if y is None:
        y = _targets(rest, input_names, output_names)
    if sample_weight is None and WEIGHTS in rest and WEIGHTS not in input_names:
        sample_weight = rest.pop(WEIGHTS)
    if MASK in rest and MASK not in input_names:
        if mask is not None:
            raise ArgumentError(f"The data have a column {MASK!r}, and mask= is given as well. Give one of them.")
        mask = SharedMask(rest.pop(MASK))
    return _inputs(rest, known, input_names, table is not None), y, sample_weight, mask


def _named(what: str, given: Any, rest: dict[str, Any], known: list[str]) -> Any:
    """What is given, or the columns that it names."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        return given
    missing = [name for name in names if name not in rest]
    if missing:
        raise ArgumentError(f"{what} names the columns {missing}, which are missing. The data have {known}.")
    found = {name: rest.pop(name) for name in names}
    return list(found.values()) if len(found) > 1 else next(iter(found.values()))


def _targets(rest: dict[str, Any], inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    named = [name for name in outputs if name in rest and name not in inputs]
    if len(outputs) > 1 and named:
        return {name: rest.pop(name) for name in named}
    found = next((name for name in (*named, *LABELS) if name in rest and name not in inputs), None)
    return None if found is None else rest.pop(found)


def _inputs(rest: dict[str, Any], known: list[str], names: Sequence[str], table: bool) -> Any:
    if len(names) == 1:
        for name in (names[0], IDS):
            if name in rest and (table or set(rest) == {name}):
                return rest[name]
        if table and len(rest) == 1:
            return next(iter(rest.values()))
    if not table:
        return rest
    missing = [name for name in names if name not in rest]
    if missing or not names and not rest:
        raise ArgumentError(
            f"The table has the columns {known}; no column for the inputs {missing or list(names)}. Rename "
            f"them, or give x as a dict by name."
        )
    return {name: rest[name] for name in names or rest}
