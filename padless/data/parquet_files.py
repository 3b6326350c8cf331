"""Parquet files larger than memory: read by row groups, shuffled by windows of row groups."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from padless.data.parquet_pages import ColumnChunk, DamagedHeader, Page, check_pages, pages_of, read_column_chunks
from padless.data.tables import DataParts, split_named_columns
from padless.errors import ArgumentError, DataError
from padless.ragged.index import Ints
from padless.ragged.row_names import RowNames, naming_rows

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
    first_row: int  # number of its first row in the file


class FileState(NamedTuple):
    """What shows that a file was replaced or written to after it was opened."""

    size: int
    mtime_ns: int


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
        self._states = [_state_of(file) for file in self._paths]
        self._groups: list[RowGroup] = []
        self._footers: dict[int, list[list[ColumnChunk]]] = {}  # the used columns of each row group of a file
        self._head: Examples | None = None
        self._schema: ArrowObject = None  # the columns of the first file
        self._has_checksums: bool | None = None
        for number, file in enumerate(self._paths):
            with self._open(number) as reader:
                missing = [name for name in _flatten_names(self.names) if name not in reader.schema_arrow.names]
                if missing:
                    raise ArgumentError(f"{str(file)!r} has no columns {missing}; it has {reader.schema_arrow.names}.")
                self._check_schema(number, reader)
                self._groups += self._row_groups(number, reader)
        self._num_rows = sum(group.num_rows for group in self._groups)
        if not self._num_rows:
            raise DataError(f"{[str(file) for file in self._paths]} hold 0 rows. Expected at least one.")

    @property
    def has_page_checksums(self) -> bool:
        """Whether all pages of the columns in the first row group have a checksum, so that damaged pages are refused.

        pyarrow writes them with `pyarrow.parquet.write_table(..., write_page_checksum=True)`.
        """
        if self._has_checksums is None:
            group = self._first_group
            pages = [page for chunk in self._chunks(group) for page in self._pages(group, chunk)]
            self._has_checksums = all(page.has_checksum for page in pages)
        return self._has_checksums

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
            group = self._first_group
            with self._open(group.file) as reader:
                self._check_pages(group, reader)
                batches = reader.iter_batches(batch_size=num_rows, row_groups=[group.group], columns=self._columns())
                table = self._arrow.Table.from_batches([next(batches)])
            with naming_rows(lambda row: self.row_name(group, row)):
                self._head = self.read(self._with_schema(table))
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
        tables = [self._read_group(self._groups[number]) for number in groups]
        return self._arrow.concat_tables(tables).combine_chunks()  # rows of one chunk are taken faster

    def row_name(self, group: RowGroup, row: int) -> str:
        """Return the name of a row of a row group for error messages, by its number in the file."""
        return f"row {group.first_row + row} of {str(self._paths[group.file])!r}"

    def group_of_row(self, groups: Sequence[int], row: int) -> tuple[RowGroup, int]:
        """Return the row group of a row of several row groups, and its number there."""
        ends = np.cumsum([self._groups[number].num_rows for number in groups])
        position = int(np.searchsorted(ends, row, side="right"))
        group = self._groups[groups[position]]
        return group, row - int(ends[position]) + group.num_rows

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

    def _read_group(self, group: RowGroup) -> ArrowObject:
        """Read a row group as a table with the schema of the first file."""
        with self._open(group.file) as reader:
            self._check_pages(group, reader)
            table = reader.read_row_group(group.group, columns=self._columns())
        if len(table) != group.num_rows:
            raise self._damaged(group, f"it holds {len(table)} rows, but the footer says {group.num_rows}")
        return self._with_schema(table)

    @contextmanager
    def _open(self, number: int) -> Iterator[ArrowObject]:
        """Open a file. Errors of pyarrow become a `DataError` that names the file."""
        path = self._paths[number]
        state = _state_of(path)
        if state != self._states[number]:
            raise DataError(
                f"{str(path)!r} has changed since it was opened: {self._states[number].size} bytes then, {state.size} now. "
                f"Make the data again by padless.data.parquet."
            )
        arrow = self._arrow
        try:
            with self._arrow_parquet.ParquetFile(path, page_checksum_verification=True) as reader:
                yield reader
        except (arrow.ArrowException, OSError, MemoryError, OverflowError, UnicodeDecodeError) as error:
            raise DataError(f"{str(path)!r} cannot be read as a Parquet file: {error}") from error

    def _check_schema(self, number: int, reader: ArrowObject) -> None:
        """Raise an error for a file whose columns differ from those of the first file, or have a name twice."""
        schema, path = reader.schema_arrow, str(self._paths[number])
        used = _flatten_names(self.names) if self._columns() is not None else schema.names
        repeated = [name for name in used if schema.names.count(name) > 1]
        if repeated:
            raise ArgumentError(f"{path!r} has more than one column {repeated[0]!r}. Expected different names.")
        stored_schema = _written_schema(self._arrow, schema.metadata or reader.metadata.metadata or {})
        if self._schema is None:
            self._schema = schema
        for name in used:
            position = self._schema.get_field_index(name)
            if position < 0:
                raise DataError(f"{path!r} has the column {name!r}, which {str(self._paths[0])!r} does not have.")
            kind, first_kind = (
                _kind_of(self._arrow, schema.field(name).type),
                _kind_of(self._arrow, self._schema.field(name).type),
            )
            if kind != first_kind:
                raise DataError(
                    f"The column {name!r} has the type {schema.field(name).type} in {path!r}, but "
                    f"{self._schema.field(name).type} in {str(self._paths[0])!r}. Expected one type in all files."
                )
            stored_type = (
                None if stored_schema is None or name not in stored_schema.names else stored_schema.field(name).type
            )
            if stored_type is not None and _kind_of(self._arrow, stored_type) != kind:
                raise DataError(
                    f"{path!r} is damaged: its column {name!r} has the type {schema.field(name).type}, but it was written "
                    f"as {stored_type}."
                )
        if self._columns() is None and set(schema.names) != set(self._schema.names):
            missing = [name for name in self._schema.names if name not in schema.names]
            raise DataError(f"{path!r} has no columns {missing}, which {str(self._paths[0])!r} has.")

    def _with_schema(self, table: ArrowObject) -> ArrowObject:
        """Return a table with the types of the first file, which may differ in the names of the entries of lists."""
        schema = self._arrow.schema([self._schema.field(name) for name in table.column_names])
        return table if table.schema.equals(schema) else table.cast(schema)

    def _row_groups(self, number: int, reader: ArrowObject) -> list[RowGroup]:
        """Return the row groups of a file, after a check of what the footer says of their sizes."""
        metadata, groups, first_row = reader.metadata, [], 0
        self._footers[number] = self._read_footer(number, reader)
        for position in range(metadata.num_row_groups):
            group = RowGroup(number, position, metadata.row_group(position).num_rows, first_row)
            for chunk in self._chunks(group):
                if not 0 <= group.num_rows <= chunk.num_values:
                    raise self._damaged(group, f"it has {group.num_rows} rows, but a column of {chunk.num_values} values")
                if chunk.num_values > max(2**24, 2**16 * chunk.compressed_size):
                    raise self._damaged(group, f"{chunk.num_values} values cannot be in {chunk.compressed_size} bytes")
            first_row += group.num_rows
            groups.append(group)
        if first_row != metadata.num_rows:
            raise DataError(
                f"{str(self._paths[number])!r} is damaged: its row groups have {first_row} rows, but the footer says "
                f"{metadata.num_rows}."
            )
        return groups

    def _check_pages(self, group: RowGroup, reader: ArrowObject) -> None:
        """Raise `DataError` for page headers of a row group that contradict the footer, which no checksum covers.

        Other writers than Arrow may count the sizes of headers in another way, so their files are not checked.
        """
        if not str(reader.metadata.created_by).startswith("parquet-cpp-arrow"):
            return
        for chunk in self._chunks(group):
            pages = self._pages(group, chunk)
            try:
                check_pages(chunk, pages)
            except DamagedHeader as error:
                raise self._damaged(group, f"column {chunk.name!r}: {error}") from error

    def _pages(self, group: RowGroup, chunk: ColumnChunk) -> list[Page]:
        """Return the page headers of a column of a row group."""
        try:
            with self._paths[group.file].open("rb") as file:
                return pages_of(file, chunk)
        except DamagedHeader as error:
            raise self._damaged(group, f"column {chunk.name!r}: {error}") from error

    def _read_footer(self, number: int, reader: ArrowObject) -> list[list[ColumnChunk]]:
        """Return what the footer says of the used columns of each row group."""
        path, names = self._paths[number], self._columns()
        try:
            with path.open("rb") as file:
                groups = read_column_chunks(file, self._states[number].size)
        except DamagedHeader as error:
            raise DataError(f"{str(path)!r} is damaged in its footer: {error}.") from error
        if len(groups) != reader.metadata.num_row_groups:
            raise DataError(f"{str(path)!r} is damaged in its footer: {len(groups)} row groups can be read.")
        return [[chunk for chunk in chunks if names is None or chunk.name in names] for chunks in groups]

    def _chunks(self, group: RowGroup) -> list[ColumnChunk]:
        """Return what the footer says of the used columns of a row group."""
        return self._footers[group.file][group.group]

    def _damaged(self, group: RowGroup, reason: str) -> DataError:
        return DataError(f"{str(self._paths[group.file])!r} is damaged in row group {group.group}: {reason}.")

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
        parts = self._parts or ()
        tables = [self._read_window(part.window).take(part.rows) for part in parts]
        names = self._names_of_rows(parts)
        with naming_rows(names):
            batch = self._files.read(self._files.concat_tables(tables)).whole()
        batch.row_names = names
        return batch

    def _names_of_rows(self, parts: Sequence[RowsOfWindow]) -> RowNames:
        """Return the function that names a row of a batch by its file and its number there."""

        def name(row: int) -> str:
            for part in parts:
                if row < len(part.rows):
                    group, row = self._files.group_of_row(self._windows[part.window], int(part.rows[row]))
                    return self._files.row_name(group, row)
                row -= len(part.rows)
            return f"row {row}"

        return name

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


def _state_of(path: Path) -> FileState:
    """Return the size and the time of the last change of a file.

    Raises:
        DataError: For a path that is not a file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}. Expected a Parquet file.") from error
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a folder inside a folder. Expected Parquet files: give the inner folder.")
    return FileState(status.st_size, status.st_mtime_ns)


def _kind_of(arrow: ArrowObject, column_type: ArrowObject) -> tuple[int, str]:
    """Return the number of levels of lists of a type, and the type of the innermost values."""
    levels = 0
    while True:
        if isinstance(column_type, arrow.DictionaryType):
            column_type = column_type.value_type
        elif isinstance(column_type, arrow.ListType | arrow.LargeListType | arrow.FixedSizeListType):
            column_type, levels = column_type.value_type, levels + 1
        else:
            return levels, str(column_type)


def _written_schema(arrow: ArrowObject, metadata: Mapping[bytes, bytes]) -> ArrowObject | None:
    """Return the schema of the table that was written, which Arrow keeps in the footer. Return None without one."""
    encoded = metadata.get(b"ARROW:schema")
    if encoded is None:
        return None
    try:
        return arrow.ipc.read_schema(arrow.py_buffer(b64decode(encoded)))
    except (arrow.ArrowException, OSError, ValueError):  # damaged, or of a newer version of Arrow
        return None


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
