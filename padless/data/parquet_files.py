"""Parquet files larger than memory: read by row groups, shuffled by windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching, check_positive
from padless.data.map_dataset import examples_of
from padless.errors import ArgumentError, DataError
from padless.ragged.index import Ints

Names = str | Sequence[str] | dict[str, str] | None


def parquet(
    path: str | PathLike[str] | Sequence[str | PathLike[str]], x: Names = None, y: Names = None,
    sample_weight: str | None = None, mask: str | None = None, window: int = 65536,
) -> Parquet:  # fmt: skip
    """Examples in Parquet files, for `fit`, `evaluate` and `predict`: a file, a folder of them, or a list.

    `x`, `y`, `sample_weight` and `mask` name columns: one, several, or a dictionary of columns by input (output); only
    these are read. Without `x`, columns are found by the names of inputs and outputs, `input_ids`, `labels`,
    `sample_weight` and `attention_mask`. Shuffling takes the row groups in another order, and the examples of `window`
    rows together in another order; never more than that (or one row group) is in memory. Needs pyarrow.

    Raises `ArgumentError` for columns that are missing, `DataError` for files that are none or hold no rows.
    """
    return Parquet(path, x, y, sample_weight, mask, window)


class Parquet:
    """Row groups of Parquet files as a source of batches; made by `parquet`."""

    seeded, one_shot = True, False  # what a Feed asks of its data

    def __init__(self, path: Any, x: Names, y: Names, sample_weight: str | None, mask: str | None, window: int) -> None:
        check_positive("window", window)
        self._arrow, self._reader = _library("pyarrow"), _library("pyarrow.parquet")
        self.names: tuple[Names, ...] = (x, y, sample_weight, mask)
        self.structure: dict[str, Any] = {}
        self.lengths: Ints | None = None  # the real steps of each example, where the border has counted them
        self._window = window
        self._paths = _files(path)
        self._groups: list[tuple[int, int, int]] = []  # file, row group, rows
        for number, file in enumerate(self._paths):
            about = self._open(number)
            self._groups += [(number, g, about.metadata.row_group(g).num_rows) for g in range(about.num_row_groups)]
            missing = [name for name in _flat(self.names) if name not in about.schema_arrow.names]
            if missing:
                raise ArgumentError(f"{str(file)!r} has no columns {missing}; it has {about.schema_arrow.names}.")
        self._rows = sum(rows for *_, rows in self._groups)
        if not self._rows:
            raise DataError(f"{[str(file) for file in self._paths]} hold 0 rows. Expected at least one.")

    def __len__(self) -> int:
        return self._rows

    def bound(self, **structure: Any) -> Parquet:
        """The same files, read for a model of this structure."""
        own = copy(self)
        own.structure, own.lengths = structure, None
        return own

    def head(self, k: int = 1) -> Batch:
        """The first k examples, without the rest of their row group."""
        file, group, _ = next(one for one in self._groups if one[2])
        batches = self._open(file).iter_batches(batch_size=k, row_groups=[group], columns=self._columns())
        return self.read(self._arrow.Table.from_batches([next(batches)]))

    def num_batches(self, batching: Batching) -> int | None:
        """How many batches a pass has, where that is known before it begins."""
        return batching.num_batches(self._rows)

    def begin(self, batching: Batching, seed: int | None) -> Window:
        """Once through all rows."""
        return Window(self, batching, seed)

    def windows(self, mixed: torch.Generator | None) -> Iterator[list[int]]:
        """Row groups that are read together, in their order or in another."""
        order = range(len(self._groups)) if mixed is None else torch.randperm(len(self._groups), generator=mixed).tolist()
        found, rows = [], 0
        for number in order:
            if found and rows + self._groups[number][2] > self._window:
                yield found
                found, rows = [], 0
            found.append(number)
            rows += self._groups[number][2]
        yield found

    def rows_of(self, groups: Sequence[int]) -> Ints:
        """The numbers of all rows in these groups."""
        starts = np.append(0, np.cumsum([rows for *_, rows in self._groups]))
        return np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups])

    def table(self, groups: Sequence[int]) -> Any:
        """These row groups, read now."""
        return self._arrow.concat_tables(
            [
                self._open(file).read_row_group(group, columns=self._columns())
                for file, group, _ in (self._groups[number] for number in groups)
            ]
        ).combine_chunks()  # so that taking is quick

    def read(self, table: Any) -> Batch:
        """All rows of a table as a batch."""
        x, y, sample_weight, mask = (_picked(table, name) for name in self.names)
        item = table if x is None else x
        if x is None and (y is not None or sample_weight is not None or mask is not None):
            used = set(_flat(self.names))
            item = {name: table.column(name) for name in table.column_names if name not in used}
        examples = examples_of((item, y, sample_weight), {**self.structure, "mask": mask})
        return examples.batch(slice(0, len(examples)))

    def _open(self, number: int) -> Any:
        try:
            return self._reader.ParquetFile(self._paths[number])
        except (self._arrow.ArrowInvalid, OSError) as wrong:
            raise DataError(f"{str(self._paths[number])!r} cannot be read as a Parquet file: {wrong}") from wrong

    def _columns(self) -> list[str] | None:
        return None if self.names[0] is None else _flat(self.names)


class Window(Iterator[Batch]):
    """One pass through Parquet files: a window of row groups at a time, cut into batches across windows."""

    def __init__(self, source: Parquet, batching: Batching, seed: int | None) -> None:
        whole = seed is not None and batching.shuffle and batching.shuffle != "batch"
        mixed = torch.Generator().manual_seed(seed) if seed is not None and whole else None
        self._source = source
        self._windows = list(source.windows(mixed))
        self._cuts = _cut(source, self._windows, batching, seed)
        self._cut: list[tuple[int, Ints]] | None = None
        self._held: tuple[int, Any] = (-1, None)  # the window in memory

    def __next__(self) -> Batch:
        if not self.skip():
            raise StopIteration
        parts = [self._table(window).take(rows) for window, rows in self._cut or ()]
        return self._source.read(parts[0] if len(parts) == 1 else self._source._arrow.concat_tables(parts))

    def skip(self) -> bool:
        """Leave the next batch out; False at the end."""
        self._cut = next(self._cuts, None)
        return self._cut is not None

    def _table(self, window: int) -> Any:
        if self._held[0] != window:
            self._held = (window, None)  # the old one goes first
            self._held = (window, self._source.table(self._windows[window]))
        return self._held[1]


def _cut(
    source: Parquet, windows: list[list[int]], batching: Batching, seed: int | None
) -> Iterator[list[tuple[int, Ints]]]:
    """For each batch the windows that it is in, with its rows there: in order, so that each window is read once."""
    waiting: list[tuple[int, Ints]] = []
    for number, groups in enumerate(windows):
        rows = sum(source._groups[group][2] for group in groups)
        own = None if seed is None else (seed + number) % 2**62
        if batching.tokens is not None:
            lengths = None if source.lengths is None else source.lengths[source.rows_of(groups)]
            yield from ([(number, np.arange(rows)[cut])] for cut in batching.plan(rows, own, lengths))
            continue
        order = np.concatenate(
            [np.arange(rows)[cut] for cut in Batching(batching.rows, shuffle=batching.shuffle).plan(rows, own)]
            or [np.arange(0)]
        )
        while len(order):
            room = batching.rows - sum(len(part) for _, part in waiting)
            waiting.append((number, order[:room]))
            order = order[room:]
            if sum(len(part) for _, part in waiting) == batching.rows:
                yield waiting
                waiting = []
    if waiting:
        yield waiting


def _picked(table: Any, name: Names) -> Any:
    """The columns of these names: one, several, or by input."""
    if name is None:
        return None
    if isinstance(name, list | tuple) and len(name) == 1:
        (name,) = name
    if isinstance(name, str):
        return table.column(name)
    return {key: table.column(n) for key, n in name.items()} if isinstance(name, dict) else [table.column(n) for n in name]


def _flat(names: Any) -> list[str]:
    if names is None or isinstance(names, str):
        return [] if names is None else [names]
    return [one for part in (names.values() if isinstance(names, dict) else names) for one in _flat(part)]


def _files(path: Any) -> list[Path]:
    paths = [Path(one) for one in path] if isinstance(path, list | tuple) else [Path(path)]
    found = [file for one in paths for file in (sorted(one.glob("*.parquet")) if one.is_dir() else [one])]
    absent = [str(file) for file in found if not file.exists()]
    if absent or not found:
        raise DataError(f"No such Parquet file: {', '.join(absent) or path}. Give a file, a folder of *.parquet, or a list.")
    return found


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as missing:
        raise ArgumentError(
            "Parquet files are read by pyarrow, which is not installed. Run: pip install pyarrow"
        ) from missing
