"""The batches of one epoch after another. An epoch can begin at any batch.

Everything random about the batches of an epoch depends on one seed. It is drawn from torch's global generator when the
epoch begins. An interrupted epoch goes on with three things. The first is the state of that generator when the epoch
began, the second `state_dict()` then, the third the number of batches that were trained on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching, Padding, check_positive, draw_epoch_seed
from padless.data.data_adapter import DataAdapter, DataPass
from padless.data.prefetch import prefetch

Result = TypeVar("Result")


@dataclass
class PassPosition:
    """A pass over the data: its seed, and the number of batches that were taken from it."""

    seed: int | None = None
    num_taken: int = 0


class EpochIterator:
    """Give the batches of epochs. A pass is one run over the data.

    Args:
        data: The data.
        batching: How examples become batches.
        steps: Number of batches of an epoch. None means one pass.
        repeat: With `steps`, whether an epoch goes on where the last one ended, pass after pass, as in training. Otherwise
            each epoch begins a pass and ends with it.
        transform: Applied to each batch, as for class weights.
        keep_batches: Whether batches are needed after the next one was given. Those that are views are copied then.

    Raises:
        ArgumentError: For a number of steps that is not positive, and for a batch size that the data cannot follow.

    >>> from padless.data.in_memory import Examples
    >>> epochs = EpochIterator(Examples([[1, 2], [3], [4, 5, 6]]), Batching(1))
    >>> [batch.x.values.tolist() for batch in epochs.epoch(start=1)]
    [[3], [4, 5, 6]]
    """

    def __init__(
        self,
        data: DataAdapter,
        batching: Batching | None = None,
        steps: int | None = None,
        repeat: bool = False,
        transform: Callable[[Batch], Batch] | None = None,
        keep_batches: bool = False,
    ) -> None:
        if steps is not None:
            check_positive("steps", steps)
        self.data, self.batching, self.limit, self.repeat = data, batching or Batching(), steps, repeat
        self.padding: Padding | None = None  # with batch_tokens, what padding would have cost in the first pass
        self._transform = transform
        self._copies_batches = keep_batches and data.lends_memory
        data.check_batching(self.batching)
        self._pass: DataPass | None = None  # the pass that runs
        self._position = PassPosition()  # of this pass
        self._position_at_begin = PassPosition()  # of the pass that was running when the epoch began
        self._epoch_seed: int | None = None
        self._passes_in_epoch = 0  # passes that were begun after the first one of the epoch
        self._resume_at = 0  # number of the batch at which the next epoch begins
        self._reader: Generator[Batch, None, None] | None = None

    @property
    def steps(self) -> int | None:
        """Number of batches of an epoch, None if it is not known before."""
        return self.data.num_batches(self.batching) if self.limit is None else self.limit

    def epoch(self, start: int = 0) -> Iterator[Batch]:
        """Begin the next epoch and return its batches from number `start` on.

        The seed is drawn now, and the batches before `start` are left out now. In-memory data and files are not read for
        these. Loaders and generators are.
        """
        start, self._resume_at = start or self._resume_at, 0
        self._epoch_seed = draw_epoch_seed() if self.batching.shuffle and self.data.shuffles else None
        if self.limit is None or not self.repeat:
            self._pass = None
        self._position_at_begin = PassPosition() if self._pass is None else replace(self._position)
        self.close()
        self._passes_in_epoch = 0
        if self._pass is None:
            self._begin_pass(self._epoch_seed)
        start = start if self.limit is None else min(start, self.limit)
        self._reader = self._read(start, has_more=self._skip(start))
        if self.data.reads_files:
            self._reader = prefetch(self._reader)
        return self._reader

    def close(self) -> None:
        """End the epoch that runs, and the thread that reads for it."""
        if self._reader is not None:
            self._reader.close()

    def state_dict(self) -> dict[str, int | None]:
        """Return the pass that was running when the epoch began. `load_state_dict` also needs torch's random state then."""
        return {"seed": self._position_at_begin.seed, "done": self._position_at_begin.num_taken}

    def load_state_dict(self, state: Mapping[str, int | None], start: int = 0) -> None:
        """Restore `state_dict`. The next epoch begins at batch `start`."""
        self._pass, self._resume_at = None, start
        num_taken = state["done"] or 0
        if num_taken:
            running = self._begin_pass(state["seed"])
            while self._position.num_taken < num_taken:
                self._position.num_taken += 1
                if not running.skip():
                    break

    def _begin_pass(self, seed: int | None) -> DataPass:
        self._pass, self._position = self.data.begin(self.batching, seed), PassPosition(seed)
        lengths = self.data.lengths
        if self.batching.tokens is not None and self.padding is None and lengths is not None:
            self.padding = Padding.from_plan(self.batching.plan(len(lengths), seed, lengths), lengths)
        return self._pass

    def _skip(self, num_batches: int) -> bool:
        """Leave out the first batches of the epoch. Return whether the epoch has that number of batches."""
        return all(self._take(number, lambda running: running.skip() or None) for number in range(num_batches))

    def _read(self, number: int, has_more: bool) -> Generator[Batch, None, None]:
        """Yield the batches of the epoch from a number on."""
        while has_more and (self.limit is None or number < self.limit):
            batch = self._take(number, lambda running: next(running, None))
            if batch is None:
                return
            number += 1
            if self._copies_batches:
                batch = batch.copy()
            yield batch if self._transform is None else self._transform(batch)

    def _take(self, number: int, take: Callable[[DataPass], Result | None]) -> Result | None:
        """Take batch `number` of the epoch from the pass that runs, or from another pass after its end.

        Returns:
            The result of `take`, or None if the epoch is at its end.
        """
        running = self._pass
        while running is not None:
            self._position.num_taken += 1
            result = take(running)
            if result is not None:
                return result
            running = self._pass = self._begin_another_pass(number)
        return None

    def _begin_another_pass(self, num_batches: int) -> DataPass | None:
        """Begin the next pass of an epoch that goes on after the end of one. Return None if the epoch ends with the pass."""
        if self.limit is None:
            return None
        if self.data.one_shot:
            warnings.warn(f"The data ran out after {num_batches} of {self.limit} steps. The epoch ends here.", stacklevel=2)
        if self.data.one_shot or not self.repeat:
            return None
        self._passes_in_epoch += 1
        seed = self._epoch_seed
        return self._begin_pass(None if seed is None else (seed + self._passes_in_epoch) % 2**62)
