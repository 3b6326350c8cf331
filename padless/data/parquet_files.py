"""Parquet files larger than memory: read by row groups, shuffled by windows of row groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching, check_positive
from padless.data.data_adapter import DataAdapter, DataPass
from padless.data.data_spec import UNKNOWN_SPEC, DataSpec
from padless.data.in_memory import Examples
from padless.data.tables import DataParts, split_named_columns
from padless.errors import ArgumentError, DataError
from padless.ragged.index import Ints

Names: TypeAlias = "str | Sequence[str] | Mapping[str, str] | None"
"""Columns of a file: one, several, or one for each input (output)."""

ArrowObject: TypeAlias = Any
"""A module, a table or a file of pyarrow, which is an optional package."""

Paths: TypeAlias = "str | PathLike[str] | Sequence[str | PathLike[str]]"


class RowGroup(NamedTuple):
    """A row group of a file."""

    file: int  # number of the file
    group: int  # number of the row group in the file
    num_rows: int


class RowsOfWindow(NamedTuple):
    """Rows of one window, as part of a batch."""

    window: int  # number of the window
    rows: Ints  # numbers of the rows in the window


def parquet(
    path: Paths,
    x: Names = None,
    y: Names = None,
    sample_weight: str | None = None,
    mask: str | None = None,
    window: int = 65536,
) -> Parquet:
    """Return the examples in Parquet files, for `fit`, `evaluate` and `predict`. Needs pyarrow.

    Shuffling changes the order of the row groups, and the order of the examples in a window. Only one window (or one row
    group) is in memory.

    Args:
        path: A file, a folder of `*.parquet`, or a list of these.
        x: The columns of the inputs: one name, several, or a dictionary of names by input. Only columns that are named are
            read. Without `x`, columns are found by the names of the inputs and outputs, `input_ids`, `labels`,
            `sample_weight` and `attention_mask`.
        y: The columns of the targets, as `x`, by output.
        sample_weight: The column of the sample weights.
        mask: The column of the mask.
        window: Number of rows that are shuffled together.

    Raises:
        ArgumentError: For missing columns, and without pyarrow.
        DataError: For files that do not exist, cannot be read or hold no rows.
    """
    return Parquet(path, x, y, sample_weight, mask, window)


class Parquet(DataAdapter):
    """Row groups of Parquet files as a source of batches, made by `padless.data.parquet`."""

    reads_files = True
    counts_steps = True

    def __init__(self, path: Paths, x: Names, y: Names, sample_weight: str | None, mask: str | None, window: int) -> None:
        check_positive("window", window)
        self._arrow, self._arrow_parquet = _import_pyarrow("pyarrow"), _import_pyarrow("pyarrow.parquet")
        self.names: tuple[Names, Names, Names, Names] = (x, y, sample_weight, mask)
        self.spec = UNKNOWN_SPEC
        self._window = window
        self._paths = _find_files(path)
        self._groups: list[RowGroup] = []
        self._head: Examples | None = None
        for number, file in enumerate(self._paths):
            reader = self._open(number)
            missing = [name for name in _flatten_names(self.names) if name not in reader.schema_arrow.names]
            if missing:
                raise ArgumentError(f"{str(file)!r} has no columns {missing}; it has {reader.schema_arrow.names}.")
            sizes = [reader.metadata.row_group(group).num_rows for group in range(reader.num_row_groups)]
            self._groups += [RowGroup(number, group, size) for group, size in enumerate(sizes)]
        self._num_rows = sum(group.num_rows for group in self._groups)
        if not self._num_rows:
            raise DataError(f"{[str(file) for file in self._paths]} hold 0 rows. Expected at least one.")

    def __len__(self) -> int:
        return self._num_rows

    def for_spec(self, spec: DataSpec) -> Parquet:
        """Return the same files for a model with this spec."""
        files = copy(self)
        files.spec, files.lengths = spec, None
        files._head = None if self._head is None else self._head.for_spec(spec)
        return files

    def head(self, num_rows: int = 1) -> Batch:
        """Return the first examples of the first row group, read once and without the rest of the group."""
        if self._head is None or len(self._head) < min(num_rows, self._first_group.num_rows):
            batches = self._open(self._first_group.file).iter_batches(
                batch_size=num_rows, row_groups=[self._first_group.group], columns=self._columns()
            )
            self._head = self.read(self._arrow.Table.from_batches([next(batches)]))
        return self._head.batch(slice(0, num_rows))

    def num_batches(self, batching: Batching) -> int | None:
        """Return the number of batches of a pass, None with `batch_tokens`."""
        return batching.num_batches(len(self))

    def begin(self, batching: Batching, seed: int | None) -> WindowPass:
        """Begin a pass over all rows."""
        return WindowPass(self, batching, seed)

    def windows(self, generator: torch.Generator | None) -> list[list[int]]:
        """Return the numbers of the row groups of each window, in the order of the files or in random order."""
        num_groups = len(self._groups)
        order = range(num_groups) if generator is None else torch.randperm(num_groups, generator=generator).tolist()
        windows: list[list[int]] = [[]]
        num_rows = 0
        for number in order:
            if windows[-1] and num_rows + self._groups[number].num_rows > self._window:
                windows.append([])
                num_rows = 0
            windows[-1].append(number)
            num_rows += self._groups[number].num_rows
        return windows

    def num_rows_of(self, groups: Sequence[int]) -> int:
        """Return the number of rows of some row groups."""
        return sum(self._groups[number].num_rows for number in groups)

    def lengths_of(self, groups: Sequence[int]) -> Ints | None:
        """Return the number of real steps of each row of some row groups, None if they were not counted."""
        if self.lengths is None:
            return None
        starts = np.append(0, np.cumsum([group.num_rows for group in self._groups]))
        return np.concatenate([self.lengths[starts[number] : starts[number + 1]] for number in groups])

    def table(self, groups: Sequence[int]) -> ArrowObject:
        """Read row groups as one table of pyarrow."""
        tables = [
            self._open(self._groups[number].file).read_row_group(self._groups[number].group, columns=self._columns())
            for number in groups
        ]
        return self._arrow.concat_tables(tables).combine_chunks()  # rows of one chunk are taken faster

    def concat_tables(self, tables: Sequence[ArrowObject]) -> ArrowObject:
        """Return the rows of several tables as one table."""
        return tables[0] if len(tables) == 1 else self._arrow.concat_tables(tables)

    def read(self, table: ArrowObject) -> Examples:
        """Read all rows of a table as examples."""
        x, y, sample_weight, mask = (_columns_by_name(table, names) for names in self.names)
        if x is None:
            used = set(_flatten_names(self.names))
            x = {name: table.column(name) for name in table.column_names if name not in used} if used else table
        x, y, sample_weight, mask = split_named_columns(DataParts(x, y, sample_weight, mask), self.spec)
        return Examples(x, y, sample_weight, mask=mask, spec=self.spec)

    @property
    def _first_group(self) -> RowGroup:
        return next(group for group in self._groups if group.num_rows)

    def _open(self, number: int) -> ArrowObject:
        try:
            return self._arrow_parquet.ParquetFile(self._paths[number])
        except (self._arrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{str(self._paths[number])!r} cannot be read as a Parquet file: {error}") from error

    def _columns(self) -> list[str] | None:
        """Return the columns to read. None means all."""
        return None if self.names[0] is None else _flatten_names(self.names)


class WindowPass(DataPass):
    """One pass over Parquet files: one window is in memory, and a batch may have rows of several windows."""

    def __init__(self, files: Parquet, batching: Batching, seed: int | None) -> None:
        shuffles_windows = seed is not None and batching.shuffle and batching.shuffle != "batch"
        generator = torch.Generator().manual_seed(seed) if seed is not None and shuffles_windows else None
        self._files = files
        self._windows = files.windows(generator)
        self._plan = _plan_batches(files, self._windows, batching, seed)
        self._parts: list[RowsOfWindow] | None = None  # the batch that was skipped or read last
        self._table: ArrowObject = None  # the window in memory, and its number
        self._table_window = -1

    def __next__(self) -> Batch:
        if not self.skip():
            raise StopIteration
        tables = [self._read_window(part.window).take(part.rows) for part in self._parts or ()]
        return self._files.read(self._files.concat_tables(tables)).whole()

    def skip(self) -> bool:
        """Leave the next batch out, without reading it. Return False if there is none."""
        self._parts = next(self._plan, None)
        return self._parts is not None

    def _read_window(self, window: int) -> ArrowObject:
        if self._table_window != window:
            self._table = None  # free the memory of the last window first
            self._table = self._files.table(self._windows[window])
            self._table_window = window
        return self._table


def _plan_batches(
    files: Parquet, windows: Sequence[Sequence[int]], batching: Batching, seed: int | None
) -> Iterator[list[RowsOfWindow]]:
    """Yield the rows of each batch. Windows come in their order, so that each is read once."""
    pending: list[RowsOfWindow] = []  # the begin of a batch whose other rows are in the next windows
    for window, groups in enumerate(windows):
        num_rows = files.num_rows_of(groups)
        window_seed = None if seed is None else (seed + window) % 2**62
        if batching.tokens is not None:
            for rows in batching.plan(num_rows, window_seed, files.lengths_of(groups)):
                yield [RowsOfWindow(window, np.arange(num_rows)[rows])]
            continue
        plan = Batching(batching.rows, shuffle=batching.shuffle).plan(num_rows, window_seed)
        order = np.concatenate([np.arange(0), *(np.arange(num_rows)[rows] for rows in plan)])
        while len(order):
            num_missing = batching.rows - sum(len(part.rows) for part in pending)
            pending.append(RowsOfWindow(window, order[:num_missing]))
            order = order[num_missing:]
            if sum(len(part.rows) for part in pending) == batching.rows:
                yield pending
                pending = []
    if pending:
        yield pending


def _columns_by_name(table: ArrowObject, names: Names) -> object:
    """Return the columns of a table that have these names: one, a list of them, or a dictionary by input (output)."""
    if names is None:
        return None
    if isinstance(names, str):
        return table.column(names)
    if isinstance(names, Mapping):
        return {key: table.column(name) for key, name in names.items()}
    columns = [table.column(name) for name in names]
    return columns[0] if len(columns) == 1 else columns


def _flatten_names(names: Names | Sequence[Names]) -> list[str]:
    """Return all names in one list."""
    if names is None or isinstance(names, str):
        return [] if names is None else [names]
    entries = names.values() if isinstance(names, Mapping) else names
    return [name for entry in entries for name in _flatten_names(entry)]


def _find_files(path: Paths) -> list[Path]:
    """Return the files of a path, of a folder, or of a list of these."""
    paths = [Path(path)] if isinstance(path, str | PathLike) else [Path(entry) for entry in path]
    files = [file for entry in paths for file in (sorted(entry.glob("*.parquet")) if entry.is_dir() else [entry])]
    missing = [str(file) for file in files if not file.exists()]
    if missing or not files:
        raise DataError(
            f"No such Parquet file: {', '.join(missing) or path}. Give a file, a folder of *.parquet, or a list."
        )
    return files


def _import_pyarrow(module: str) -> ArrowObject:
    try:
        return import_module(module)
    except ImportError as error:
        raise ArgumentError(
            "Reading Parquet files needs pyarrow, which is not installed. Run `pip install pyarrow`."
        ) from error
