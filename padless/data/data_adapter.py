"""The base classes of everything that gives batches: a data adapter, and one pass over its data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import ClassVar, Self

import numpy as np

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching
from padless.data.columns import Rows
from padless.data.data_spec import DataSpec
from padless.errors import ArgumentError
from padless.ragged.index import Ints
from padless.ragged.row_names import naming_rows


class DataPass(Iterator[Batch], ABC):
    """One pass over the data: an iterator of batches that can leave batches out."""

    @abstractmethod
    def skip(self) -> bool:
        """Leave the next batch out, without reading it where possible. Return False if there is none."""


class DataAdapter(ABC):
    """Give the batches of one kind of data source to `fit`, `evaluate` and `predict`.

    Attributes:
        shuffles: Whether `shuffle` changes the order, so that each epoch needs a seed.
        one_shot: Whether the data can be read only once, as a generator.
        reads_files: Whether a batch waits for files, so that a thread should read the next ones.
        in_memory: Whether all examples are in memory, so that all of them are checked before training.
        lends_memory: Whether a batch may be a view of memory that the source fills again for the next batch.
        counts_steps: Whether the real steps of all examples can be counted before training, as `batch_tokens` needs.
        lengths: Number of real steps of each example, where the data checks have counted them.
    """

    shuffles: ClassVar[bool] = True
    reads_files: ClassVar[bool] = False
    in_memory: ClassVar[bool] = False
    lends_memory: ClassVar[bool] = False
    counts_steps: ClassVar[bool] = False
    one_shot: bool = False
    lengths: Ints | None = None

    @abstractmethod
    def head(self, num_rows: int = 1) -> Batch:
        """Return the first examples. Neither random numbers nor batches of an epoch are used up."""

    @abstractmethod
    def num_batches(self, batching: Batching) -> int | None:
        """Return the number of batches of a pass, None if it is not known before."""

    @abstractmethod
    def begin(self, batching: Batching, seed: int | None) -> DataPass:
        """Begin a pass over the data. The order is a function of the seed."""

    @abstractmethod
    def for_spec(self, spec: DataSpec) -> DataAdapter:
        """Return the same data for a model with this spec. Containers are not read again."""

    def batching_for_validation(self, batching: Batching, batch_size: int | None) -> Batching:
        """Return how these validation data become batches: in order, and as large as those of training unless given."""
        return Batching(batching.size, batching.tokens) if batch_size is None else Batching(batch_size)

    def check_batching(self, batching: Batching) -> None:
        """Raise `ArgumentError` for a batch size that the data cannot follow."""
        return None

    def check_epochs(self, num_epochs: int, steps_per_epoch: int | None) -> None:
        """Raise `ArgumentError` for more epochs than the data can give."""
        return None

    def split(self, validation_split: float) -> tuple[DataAdapter, DataAdapter]:
        """Return the data without the last examples, and the last examples for validation."""
        raise ArgumentError(
            f"validation_split={validation_split} needs examples by number, but x is a {self.source_name}, which gives "
            f"batches or reads files. Give validation_data instead."
        )

    @property
    def source_name(self) -> str:
        """What the data are, for error messages."""
        return type(self).__name__


class NumberedExamples(DataAdapter):
    """Data whose examples are read by number: those in memory, and those of a Dataset."""

    counts_steps = True

    def __init__(self, num_examples: int) -> None:
        self._first, self._num_examples = 0, num_examples  # the range of examples in the source

    @abstractmethod
    def _read(self, rows: Rows) -> Batch:
        """Read examples by their numbers in the source."""

    def __len__(self) -> int:
        return self._num_examples

    def batch(self, rows: Rows) -> Batch:
        """Return the examples of a slice with step 1 (views where possible), or of an array of row numbers (one gather)."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._named_batch(slice(self._first + start, self._first + max(start, stop)))
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise ArgumentError(f"Expected rows from 0 to {len(self) - 1}; got {rows.min()} to {rows.max()}.")
        return self._named_batch(rows + self._first)

    def _named_batch(self, rows: Rows) -> Batch:
        """Return examples by their numbers in the source. Errors name rows by these numbers, not by those in the batch."""

        def name(row: int) -> str:
            return f"row {rows.start + row if isinstance(rows, slice) else int(rows[row])}"

        with naming_rows(name):
            batch = self._read(rows)
        batch.row_names = name
        return batch

    def head(self, num_rows: int = 1) -> Batch:
        """Return the first examples."""
        return self.batch(slice(0, num_rows))

    def part(self, start: int, stop: int) -> Self:
        """Return the examples from `start` to `stop`. The data are shared."""
        part = copy(self)
        part._first, part._num_examples = self._first + start, stop - start
        part.lengths = None if self.lengths is None else self.lengths[start:stop]
        return part

    def split(self, validation_split: float) -> tuple[Self, Self]:
        """Return the data without the last `validation_split` of the examples, and these examples for validation.

        The split is before any shuffling, as in Keras.
        """
        boundary = math.floor(len(self) * (1 - validation_split))
        if not 0 < boundary < len(self):
            raise ArgumentError(
                f"validation_split={validation_split} of {len(self)} examples leaves no example for training or for "
                f"validation. Give more examples, or another fraction."
            )
        return self.part(0, boundary), self.part(boundary, len(self))

    def num_batches(self, batching: Batching) -> int | None:
        """Return the number of batches of a pass, None with `batch_tokens`."""
        return batching.num_batches(len(self))

    def begin(self, batching: Batching, seed: int | None) -> PlannedBatches:
        """Begin a pass over all examples."""
        return PlannedBatches(self.batch, batching.plan(len(self), seed, self.lengths))


class PlannedBatches(DataPass):
    """A pass whose batches are known before it begins. Batches that are left out are not read.

    Args:
        read: Reads the batch of some rows.
        plan: The rows of each batch.
        on_end: Called once after the last batch.
    """

    def __init__(
        self, read: Callable[[Rows], Batch], plan: Sequence[Rows], on_end: Callable[[], object] = lambda: None
    ) -> None:
        self._read, self._plan, self._on_end = read, plan, on_end
        self._num_taken = 0

    def __next__(self) -> Batch:
        if not self.skip():
            raise StopIteration
        return self._read(self._plan[self._num_taken - 1])

    def skip(self) -> bool:
        """Leave the next batch out. Return False if there is none."""
        self._num_taken += 1
        if self._num_taken == len(self._plan) + 1:
            self._on_end()
        return self._num_taken <= len(self._plan)


def split_for_validation(data: DataAdapter, validation_split: float) -> tuple[DataAdapter, DataAdapter]:
    """Return data for training, and the last part of them for validation.

    Raises:
        ArgumentError: For what is not a fraction between 0 and 1, and for data that do not have examples by number.

    >>> from padless.data.in_memory import Examples
    >>> [len(part) for part in split_for_validation(Examples([0.0] * 10), 0.25)]
    [7, 3]
    """
    if not isinstance(validation_split, int | float | np.number) or not 0 < validation_split < 1:
        raise ArgumentError(f"validation_split must be a fraction between 0 and 1; got {validation_split!r}.")
    return data.split(float(validation_split))
