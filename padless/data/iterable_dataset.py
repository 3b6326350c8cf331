"""Data that come one after another: batches of a DataLoader or a generator, examples of an IterableDataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from itertools import islice
from operator import length_hint
from typing import Self

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching
from padless.data.collate_fn import copy_example, group_parts
from padless.data.data_adapter import DataAdapter, DataPass
from padless.data.data_spec import UNKNOWN_SPEC, DataSpec
from padless.data.in_memory import Examples, read_item
from padless.data.map_dataset import check_no_batch_size, without_random_numbers
from padless.errors import ArgumentError, DataError
from padless.ragged.row_names import RowNames, naming_rows


class BatchIterableAdapter(DataAdapter):
    """Batches of a DataLoader, a generator, or any iterable of x, `(x, y)` or `(x, y, sample_weight)`.

    As in Keras, a list is a tuple. A source that can be iterated again begins anew in each epoch. A generator cannot, so
    more than one epoch needs `steps_per_epoch`. An error of the source gets a note with the number of the batch.

    Args:
        source: The iterable.
        spec: Number and names of the inputs and outputs of the model.

    >>> import numpy as np
    >>> source = [(np.ones((2, 3)), np.zeros(2)), (np.ones((1, 3)), np.zeros(1))]
    >>> [batch.rows for batch in BatchIterableAdapter(source).begin()]
    [2, 1]
    """

    shuffles = False  # the source decides the order
    lends_memory = True

    def __init__(self, source: Iterable[object], spec: DataSpec = UNKNOWN_SPEC) -> None:
        self.source, self.spec = source, spec
        self.one_shot = isinstance(source, Iterator)
        self._running: BatchReader | None = None  # the only pass over a one-shot source
        self._head: Examples | None = None

    @property
    def source_name(self) -> str:
        """The class of the source, for error messages."""
        return type(self.source).__name__

    def num_batches(self, batching: Batching | None = None) -> int | None:
        """Return the number of batches if the source has a length."""
        length = length_hint(self.source, -1)
        return None if length < 0 else length

    def head(self, num_rows: int = 1) -> Batch:
        """Return the first batch, whole. It is read once. A one-shot source gives it again in the epoch."""
        if self._head is None:
            self._head = without_random_numbers(lambda: self.begin().peek())  # a DataLoader draws its seed in `begin`
        return self._head.whole()

    def begin(self, batching: Batching | None = None, seed: int | None = None) -> BatchReader:
        """Begin a pass. A one-shot source goes on where the last pass ended."""
        if not self.one_shot:
            return BatchReader(self, batching)
        if self._running is None or self._running.exhausted:
            self._running = BatchReader(self, batching)
        return self._running

    def for_spec(self, spec: DataSpec) -> Self:
        """Return the same source for a model with this spec."""
        data = copy(self)
        data.spec = spec
        data._head = None if self._head is None else self._head.for_spec(spec)
        data._running = None if self._running is None else self._running.for_data(data)
        return data

    def batching_for_validation(self, batching: Batching, batch_size: int | None) -> Batching:
        """Return the batching of a source that makes its own batches."""
        return Batching(batch_size)

    def check_batching(self, batching: Batching) -> None:
        """Raise `ArgumentError` for a batch size, which only the source can set. `shuffle=True`, Keras's default, passes."""
        check_no_batch_size(self.source_name, batching)

    def check_epochs(self, num_epochs: int, steps_per_epoch: int | None) -> None:
        """Raise `ArgumentError` for more epochs than a one-shot source can give."""
        if self.one_shot and steps_per_epoch is None and num_epochs > 1:
            raise ArgumentError(f"A generator can be read only once, but epochs={num_epochs}. Give steps_per_epoch=.")

    def iterate_items(self, batching: Batching | None) -> Iterator[object]:
        """Return an iterator of what the source gives for each batch."""
        return iter(self.source)

    def names_of_rows(self, number: int, batching: Batching | None) -> RowNames:
        """Return the function that names a row of a batch in error messages."""
        return lambda row: f"row {row} of batch {number}"


class ExampleIterableAdapter(BatchIterableAdapter):
    """Examples of an IterableDataset, which have no numbers. A batch has `batch_size` of them.

    Each example is copied, because a source may use the same memory for all of them.

    >>> import torch
    >>> from torch.utils.data import IterableDataset
    >>> class Count(IterableDataset):
    ...     def __iter__(self):
    ...         return ((torch.ones(n + 1), n) for n in range(3))
    >>> [batch.y.tolist() for batch in ExampleIterableAdapter(Count()).begin(Batching(2))]
    [[0, 1], [2]]
    """

    lends_memory = False

    def num_batches(self, batching: Batching | None = None) -> int | None:
        """Return None: the number of examples is not known."""
        return None

    def check_batching(self, batching: Batching) -> None:
        """Raise `ArgumentError` for `batch_tokens`, which needs the lengths of all examples."""
        check_no_batch_size(self.source_name, Batching(tokens=batching.tokens))

    def iterate_items(self, batching: Batching | None) -> Iterator[object]:
        """Yield the parts of `batch_size` examples."""
        examples = iter(self.source)
        return self._group_batches(examples, (batching or Batching()).rows)

    def names_of_rows(self, number: int, batching: Batching | None) -> RowNames:
        """Return the function that names a row of a batch by the number of its example."""
        first = number * (batching or Batching()).rows
        return lambda row: f"row {first + row}"

    def _group_batches(self, examples: Iterator[object], batch_size: int) -> Iterator[object]:
        while group := [copy_example(example) for example in islice(examples, batch_size)]:
            yield group_parts(group)


class BatchReader(DataPass):
    """One pass over an iterable. The iterator of the source is made at once, because a DataLoader draws its seed then."""

    def __init__(self, data: BatchIterableAdapter, batching: Batching | None) -> None:
        self.exhausted = False
        self._data, self._items, self._batching = data, data.iterate_items(batching), batching
        self._num_read = 0
        self._peeked: Examples | None = None

    def peek(self) -> Examples:
        """Return the next batch in new memory. It will be given again."""
        if self._peeked is None:
            self._peeked = self._read_next().copy()
        return self._peeked

    def for_data(self, data: BatchIterableAdapter) -> BatchReader:
        """Return the rest of this pass for data with another spec."""
        reader = copy(self)
        reader._data = data
        reader._peeked = None if self._peeked is None else self._peeked.for_spec(data.spec)
        return reader

    def __next__(self) -> Batch:
        examples = self._read_next() if self._peeked is None else self._peeked
        self._peeked = None
        return examples.whole()

    def skip(self) -> bool:
        """Leave the next batch out. Return False if there is none."""
        if self._peeked is not None:
            self._peeked = None
            return True
        try:
            self._next_item()
        except StopIteration:
            return False
        return True

    def _read_next(self) -> Examples:
        item = self._next_item()
        names = self._data.names_of_rows(self._num_read - 1, self._batching)
        with naming_rows(names):
            examples = read_item(item, self._data.spec)
        examples.row_names = names
        return examples

    def _next_item(self) -> object:
        try:
            item = next(self._items)
        except StopIteration:
            self.exhausted = True
            if self._num_read == 0:
                raise DataError(
                    f"x, a {self._data.source_name}, gave no batch. Expected at least one. A generator can be read "
                    f"only once."
                ) from None
            raise
        except Exception as error:
            error.add_note(f"Raised by the data, a {self._data.source_name}, instead of batch {self._num_read}.")
            raise
        self._num_read += 1
        return item
