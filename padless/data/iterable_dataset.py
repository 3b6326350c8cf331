"""Streams: batches that somebody else makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from operator import length_hint
from typing import Any

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching
from padless.data.collate_fn import regrouped
from padless.data.map_dataset import examples_of, quietly, refuse_sizes
from padless.errors import ArgumentError, DataError


class BatchIterableAdapter:
    """Batches that somebody else makes: a DataLoader, a generator, any iterable of x, (x, y) or (x, y, sample_weight).

    As in Keras a list stands for the tuple. A source that can be iterated again is begun anew each epoch; a generator
    cannot, so more than one epoch of it needs `steps_per_epoch`. An error of the source passes through, with a note of
    the batch that it was to give.

    >>> import numpy as np
    >>> source = [(np.ones((2, 3)), np.zeros(2)), (np.ones((1, 3)), np.zeros(1))]
    >>> [batch.rows for batch in BatchIterableAdapter(source)]
    [2, 1]
    """

    seeded = False  # its order is its own

    def __init__(self, source: Iterable[Any], **structure: Any) -> None:
        self.source = source
        self.structure = structure  # the keywords of Examples
        self.one_shot = isinstance(source, Iterator)
        self._running: BatchReader | None = None
        self._first: Batch | None = None

    def num_batches(self, batching: Batching | None = None) -> int | None:
        """The number of batches, where the source knows it."""
        steps = length_hint(self.source, -1)
        return None if steps < 0 else steps

    def refuse(self, batching: Batching) -> None:
        """Refuse sizes that only the source could follow; `shuffle=True` is Keras's default and passes."""
        refuse_sizes(self.source, batching)

    def check(self, epochs: int, steps: int | None) -> None:
        """Refuse, before training begins, more epochs than a one-shot source can give."""
        if self.one_shot and steps is None and epochs > 1:
            raise ArgumentError(f"A generator can be read only once, but epochs={epochs}. Give steps_per_epoch=.")

    def head(self, k: int = 1) -> Batch:
        """The first batch, whole, without losing it for the epoch, and without drawing torch's random numbers for it."""
        if self._first is None:
            self._first = quietly(lambda: self.begin().ahead() if self.one_shot else next(self.begin()))
        return self._first

    def begin(self, batching: Batching | None = None, seed: int | None = None) -> BatchReader:
        """One pass; that of a generator goes on where it ended."""
        if not self.one_shot:
            return BatchReader(self, batching)
        if self._running is None or self._running.done:
            self._running = BatchReader(self, batching)
        return self._running

    def items(self, batching: Batching | None) -> Iterator[Any]:
        """What the source gives for each batch."""
        return iter(self.source)

    def __iter__(self) -> Iterator[Batch]:
        return self.begin()


class ExampleIterableAdapter(BatchIterableAdapter):
    """Examples that come one by one and without numbers, `batch_size` of them a batch: an IterableDataset.

    >>> import torch
    >>> from torch.utils.data import IterableDataset
    >>> class Count(IterableDataset):
    ...     def __iter__(self):
    ...         return ((torch.ones(n + 1), n) for n in range(3))
    >>> [batch.y.tolist() for batch in ExampleIterableAdapter(Count()).begin(Batching(2))]
    [[0, 1], [2]]
    """

    def num_batches(self, batching: Batching | None = None) -> int | None:
        """Nobody knows."""
        return None

    def refuse(self, batching: Batching) -> None:
        """Refuse what needs to know all examples."""
        refuse_sizes(self.source, Batching(tokens=batching.tokens))

    def items(self, batching: Batching | None) -> Iterator[Any]:
        return self._grouped(iter(self.source), (batching or Batching()).rows)

    def _grouped(self, singles: Iterator[Any], size: int) -> Iterator[Any]:
        while group := list(islice(singles, size)):
            yield regrouped(group, lambda what, rows, is_input: rows)


class BatchReader(Iterator[Batch]):
    """One pass through a Stream; the iterator of the source is made at once, since a loader draws its seed then."""

    def __init__(self, stream: BatchIterableAdapter, batching: Batching | None) -> None:
        self._stream, self._items = stream, stream.items(batching)
        self._given = 0
        self._ahead: Batch | None = None
        self.done = False

    def ahead(self) -> Batch:
        """The next batch, which is given again afterwards."""
        if self._ahead is None:
            self._ahead = next(self)
        return self._ahead

    def __next__(self) -> Batch:
        if self._ahead is not None:
            batch, self._ahead = self._ahead, None
            return batch
        examples = examples_of(self._item(), self._stream.structure)
        return examples.batch(slice(0, len(examples)))

    def skip(self) -> bool:
        """Leave the next batch out; False at the end."""
        if self._ahead is not None:
            self._ahead = None
            return True
        try:
            self._item()
        except StopIteration:
            return False
        return True

    def _item(self) -> Any:
        try:
            item = next(self._items)
        except StopIteration:
            self.done = True
            if self._given == 0:
                raise DataError(
                    f"x, a {type(self._stream.source).__name__}, gave no batch. Expected at least one; a "
                    f"generator can be read only once."
                ) from None
            raise
        except Exception as wrong:
            wrong.add_note(f"Raised by the data, a {type(self._stream.source).__name__}, instead of batch {self._given}.")
            raise
        self._given += 1
        return item
