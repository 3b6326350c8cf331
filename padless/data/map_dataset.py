"""Data read as they are needed: examples by number, or batches by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching, PlannedBatches
from padless.data.collate_fn import regrouped
from padless.data.columns import Rows
from padless.data.in_memory import Examples
from padless.data.ragged_formats import library
from padless.data.tables import split_named_columns
from padless.errors import ArgumentError, DataError
from padless.ragged.index import Ints


def examples_of(item: Any, structure: Mapping[str, Any]) -> Examples:
    """One item of a source, x, (x, y) or (x, y, sample_weight), read like data given to `fit`; a list is a tuple."""
    parts = tuple(item) if isinstance(item, list | tuple) and not hasattr(item, "batch_sizes") else (item,)
    if not 1 <= len(parts) <= 3:
        raise ArgumentError(
            f"A batch must be x, (x, y) or (x, y, sample_weight); got {len(parts)} parts. Several "
            f"inputs go into one tuple or dict: ((a, b), y)."
        )
    x, y, sample_weight, mask = split_named_columns(*parts, **structure)
    return Examples(x, y, sample_weight, **{**structure, "mask": mask})


def by_number(x: Any) -> bool:
    """Whether x gives examples by their number: a Dataset of torch or Hugging Face."""
    if isinstance(x, Dataset) and not isinstance(x, IterableDataset):
        return hasattr(x, "__len__")
    return library(x) == "datasets" and hasattr(x, "__len__") and hasattr(x, "column_names")


def batches_by_number(x: Any) -> bool:
    """Whether x gives batches by their number, as Keras's PyDataset does."""
    return all(hasattr(x, name) for name in ("__getitem__", "__len__", "on_epoch_end"))


class MapDatasetAdapter:
    """Examples that are read by their numbers when they are needed: torch's Dataset, Hugging Face's.

    >>> from torch.utils.data import TensorDataset
    >>> data = MapDatasetAdapter(TensorDataset(torch.arange(6).reshape(3, 2), torch.arange(3)))
    >>> data.batch(np.array([2, 0])).y.tolist()
    [2, 0]
    """

    seeded, one_shot = True, False  # what a Feed asks of its data

    def __init__(self, source: Any, **structure: Any) -> None:
        self.source, self.structure = source, structure
        self._first, self._rows = 0, len(source)
        self.lengths: Ints | None = None  # the real steps of each example, where the border has counted them
        if not self._rows:
            raise DataError(f"x, a {type(source).__name__}, holds 0 examples. Expected at least one.")

    def __len__(self) -> int:
        return self._rows

    def batch(self, rows: Rows) -> Batch:
        """Some examples, read now."""
        numbers = np.arange(self._rows)[rows] + self._first
        item = self._columns(numbers) if hasattr(self.source, "column_names") else self._each(numbers)
        examples = examples_of(item, self.structure)
        return examples.batch(slice(0, len(examples)))

    def _columns(self, numbers: Ints) -> Mapping[str, Any]:
        return self.source[numbers.tolist()]

    def _each(self, numbers: Ints) -> Any:
        together = getattr(self.source, "__getitems__", None)
        found = [self._one(n) for n in numbers.tolist()] if together is None else list(together(numbers.tolist()))
        return regrouped(found, lambda what, rows, is_input: rows)

    def _one(self, number: int) -> Any:
        try:
            return self.source[number]
        except Exception as wrong:
            wrong.add_note(f"Raised by the data, a {type(self.source).__name__}, instead of example {number}.")
            raise

    def head(self, k: int = 1) -> Batch:
        """The first k examples, read without drawing torch's random numbers."""
        return quietly(lambda: self.batch(slice(0, k)))

    def part(self, start: int, stop: int) -> MapDatasetAdapter:
        """The examples from `start` to `stop`."""
        part = copy(self)
        part._first, part._rows = self._first + start, stop - start
        part.lengths = None if self.lengths is None else self.lengths[start:stop]
        return part

    def num_batches(self, batching: Batching) -> int | None:
        """How many batches a pass has, where that is known before it begins."""
        return batching.num_batches(len(self))

    def begin(self, batching: Batching, seed: int | None) -> PlannedBatches:
        """Once through all examples."""
        return PlannedBatches(self.batch, batching.plan(len(self), seed, self.lengths))


class PyDatasetAdapter:
    """Batches that are made by number, as by Keras's PyDataset; shuffling changes the order of the batches.

    >>> class Two:
    ...     def __getitem__(self, number):
    ...         return np.full((3, 2), number), np.zeros(3)
    ...     def __len__(self):
    ...         return 2
    ...     def on_epoch_end(self):
    ...         pass
    >>> [batch.x[0, 0].item() for batch in PyDatasetAdapter(Two()).begin(Batching(), None)]
    [0, 1]
    """

    seeded, one_shot, lengths = True, False, None

    def __init__(self, source: Any, **structure: Any) -> None:
        self.source, self.structure = source, structure
        self._batches = int(getattr(source, "num_batches", None) or len(source))
        if not self._batches:
            raise DataError(f"x, a {type(source).__name__}, gave no batch. Expected at least one.")

    def batch(self, rows: Rows) -> Batch:
        """One batch, by its number."""
        number = int(np.arange(self._batches)[rows][0])
        try:
            item = self.source[number]
        except Exception as wrong:
            wrong.add_note(f"Raised by the data, a {type(self.source).__name__}, instead of batch {number}.")
            raise
        examples = examples_of(item, self.structure)
        return examples.batch(slice(0, len(examples)))

    def head(self, k: int = 1) -> Batch:
        """The first batch, read without drawing torch's random numbers."""
        return quietly(lambda: self.batch(slice(0, 1)))

    def num_batches(self, batching: Batching) -> int | None:
        """How many batches a pass has."""
        return self._batches

    def refuse(self, batching: Batching) -> None:
        """Refuse sizes that only the source could follow."""
        refuse_sizes(self.source, batching)

    def begin(self, batching: Batching, seed: int | None) -> PlannedBatches:
        """All batches once; the source hears of the end."""
        plan = Batching(1, shuffle=bool(batching.shuffle)).plan(self._batches, seed)
        return PlannedBatches(self.batch, plan, self.source.on_epoch_end)


def refuse_sizes(source: Any, batching: Batching) -> None:
    """Refuse a size of batches where somebody else makes them."""
    for name, value in (("batch_size", batching.size), ("batch_tokens", batching.tokens)):
        if value is not None:
            raise ArgumentError(
                f"x is a {type(source).__name__}, which makes its own batches, so {name}={value} "
                f"would mean nothing. Set it there."
            )


def quietly(read: Callable[[], Batch]) -> Batch:
    """What is read, while torch's random numbers stay as they were."""
    state = torch.get_rng_state()
    try:
        return read()
    finally:
        torch.set_rng_state(state)
