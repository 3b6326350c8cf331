"""Streams: batches that somebody else makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import length_hint
from typing import Any

import torch

from padless.errors import ArgumentError, DataError
from padless.training.batch import Batch
from padless.training.batching import Batching
from padless.training.examples import Examples


class Stream:
    """Batches that somebody else makes: a DataLoader, a generator, any iterable of x, (x, y) or (x, y, sample_weight).

    As in Keras a list stands for the tuple. A source that can be iterated again is begun anew each epoch; a generator
    cannot, so more than one epoch of it needs `steps_per_epoch`. An error of the source passes through, with a note of
    the batch that it was to give.

    >>> import numpy as np
    >>> source = [(np.ones((2, 3)), np.zeros(2)), (np.ones((1, 3)), np.zeros(1))]
    >>> [batch.rows for batch in Stream(source)]
    [2, 1]
    """

    seeded = False  # its order is its own

    def __init__(self, source: Iterable[Any], **structure: Any) -> None:
        self.source = source
        self.structure = structure  # the keywords of Examples
        self.one_shot = isinstance(source, Iterator)
        self._running: Reading | None = None
        self._first: Batch | None = None

    def count(self, batching: Batching | None = None) -> int | None:
        """The number of batches, where the source knows it."""
        steps = length_hint(self.source, -1)
        return None if steps < 0 else steps

    def refuse(self, batching: Batching) -> None:
        """Refuse sizes and orders that only the source could follow; `shuffle=True` is Keras's default and passes."""
        for name, value in (("batch_size", batching.size), ("batch_tokens", batching.tokens)):
            if value is not None:
                raise ArgumentError(f"x is a {type(self.source).__name__}, which makes its own batches, so {name}={value} "
                                    f"would mean nothing. Set it there.")

    def check(self, epochs: int, steps: int | None) -> None:
        """Refuse, before training begins, more epochs than a one-shot source can give."""
        if self.one_shot and steps is None and epochs > 1:
            raise ArgumentError(f"A generator can be read only once, but epochs={epochs}. Give steps_per_epoch=.")

    def head(self, k: int = 1) -> Batch:
        """The first batch, whole, without losing it for the epoch, and without drawing torch's random numbers for it."""
        if self._first is None:
            state = torch.get_rng_state()
            try:
                self._first = next(self.begin().ahead() if self.one_shot else self.begin())
            finally:
                torch.set_rng_state(state)
        return self._first

    def begin(self, batching: Batching | None = None, seed: int | None = None) -> Reading:
        """One pass; that of a generator goes on where it ended."""
        if not self.one_shot:
            return Reading(self)
        if self._running is None or self._running.done:
            self._running = Reading(self)
        return self._running

    def __iter__(self) -> Iterator[Batch]:
        return self.begin()

    def examples(self, item: Any) -> Examples:
        """One item of the source, read like data given to `fit`."""
        parts = tuple(item) if isinstance(item, list | tuple) else (item,)
        if not 1 <= len(parts) <= 3:
            raise ArgumentError(f"A batch must be x, (x, y) or (x, y, sample_weight); got {len(parts)} parts. Several "
                                f"inputs go into one tuple or dict: ((a, b), y).")
        return Examples(*parts, **self.structure)


class Reading(Iterator[Batch]):
    """One pass through a Stream; the iterator of the source is made at once, since a loader draws its seed then."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._items = stream, iter(stream.source)
        self._given, self._ahead = 0, None
        self.done = False

    def ahead(self) -> Iterator[Batch]:
        """The next batch, which is given again afterwards."""
        if self._ahead is None:
            self._ahead = next(self)
        return iter([self._ahead])

    def __next__(self) -> Batch:
        if self._ahead is not None:
            batch, self._ahead = self._ahead, None
            return batch
        examples = self._stream.examples(self._item())
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
                raise DataError(f"x, a {type(self._stream.source).__name__}, gave no batch. Expected at least one; a "
                                f"generator can be read only once.") from None
            raise
        except Exception as wrong:
            wrong.add_note(f"Raised by the data, a {type(self._stream.source).__name__}, instead of batch {self._given}.")
            raise
        self._given += 1
        return item
