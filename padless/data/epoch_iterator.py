"""The feed: the batches of one epoch after another, begun anywhere.

The seam for going on after a stop: everything random about the batches of an epoch hangs on one seed, drawn from
torch's global generator when the epoch begins. So the generator as it was when the epoch began, `state_dict()` of that
moment, and the number of batches already trained on give the rest of the epoch back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching, Padding, check_positive, draw_epoch_seed
from padless.data.in_memory import Examples
from padless.data.iterable_dataset import BatchIterableAdapter
from padless.data.map_dataset import MapDatasetAdapter, PyDatasetAdapter
from padless.data.parquet_files import Parquet
from padless.data.prefetch import prefetch

Data = Examples | MapDatasetAdapter | PyDatasetAdapter | Parquet | BatchIterableAdapter


class EpochIterator:
    """Batches of `data` as `batching` says; an epoch is one pass, or up to `steps` batches of it; with `repeat`
    the next `steps` batches, pass after pass. `change` makes another batch of each.

    `epoch(start=k)` begins at batch k; examples and files are not read for the batches before it, loaders and
    generators are. `state_dict` is the state at the beginning of the epoch that runs (or of the next one).

    >>> from padless.data.in_memory import Examples
    >>> feed = EpochIterator(Examples([[1, 2], [3], [4, 5, 6]]), Batching(1))
    >>> [batch.x.values.tolist() for batch in feed.epoch(start=1)]
    [[3], [4, 5, 6]]
    """

    def __init__(
        self, data: Data, batching: Batching | None = None, steps: int | None = None,
        repeat: bool = False, change: Callable[[Batch], Batch] | None = None,
    ) -> None:  # fmt: skip
        if steps is not None:
            check_positive("steps", steps)
        self.data, self.batching, self.limit, self.repeat = data, batching or Batching(), steps, repeat
        self.padding: Padding | None = None  # with batches by tokens, what padding would have cost in the first epoch
        self._change = change
        if isinstance(data, BatchIterableAdapter | PyDatasetAdapter):
            data.refuse(self.batching)
        self._pass: Any = None  # the pass that runs, with the seed that made it and how far it is
        self._seed: int | None = None
        self._done = 0
        self._memo: dict[str, Any] = {"seed": None, "done": 0}
        self._start = 0
        self._reading: Any = None

    @property
    def steps(self) -> int | None:
        """The batches of an epoch, where they are known before it begins."""
        return self.data.num_batches(self.batching) if self.limit is None else self.limit

    def epoch(self, start: int = 0) -> Iterator[Batch]:
        """The batches of the next epoch from number `start` on; the seed is drawn at once, not with the first batch."""
        start, self._start = start or self._start, 0
        seed = draw_epoch_seed() if self.batching.shuffle and self.data.seeded else None
        if self.limit is None or not self.repeat:
            self._pass = None
        self._memo = {"seed": self._seed, "done": self._done} if self._pass is not None else {"seed": None, "done": 0}
        self.close()
        if self._pass is None:
            self._open(seed)
        batches: Any = self._batches(seed, start)
        next(batches, None)  # what stands before `start` is passed over now, with the random numbers of now
        self._reading = prefetch(batches) if isinstance(self.data, Parquet) else batches
        return self._reading

    def close(self) -> None:
        """End the epoch that runs, and the thread that reads for it."""
        if self._reading is not None:
            self._reading.close()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs beside torch's generator: the pass that runs on from earlier epochs, if any."""
        return dict(self._memo)

    def load_state_dict(self, state: dict[str, Any], start: int = 0) -> None:
        """Go on from `state_dict`; the next epoch begins at batch `start`."""
        self._pass, self._start = None, start
        if state["done"]:
            self._open(state["seed"])
            while self._done < state["done"] and self._skip():
                pass

    def _open(self, seed: int | None) -> None:
        self._pass, self._seed, self._done = self.data.begin(self.batching, seed), seed, 0
        lengths = None if isinstance(self.data, BatchIterableAdapter) else self.data.lengths
        if self.batching.tokens is not None and self.padding is None and lengths is not None:
            self.padding = Padding.of(self.batching.plan(len(lengths), seed, lengths), lengths)

    def _skip(self) -> bool:
        self._done += 1
        return self._pass.skip()

    def _batches(self, seed: int | None, start: int) -> Generator[Batch | None, None, None]:
        number, fresh, ready = 0, 0, False
        while self.limit is None or number < self.limit:
            if number >= start and not ready:
                ready = True
                yield None
            if self._pass is None:
                fresh += 1
                self._open(None if seed is None else (seed + fresh) % 2**62)
            batch, there = None, True
            if number < start:
                there = self._skip()
            else:
                batch = next(self._pass, None)  # pyright: ignore[reportArgumentType] - opened above
                self._done += 1
                there = batch is not None
            if there:
                number += 1
                if batch is not None:
                    yield batch if self._change is None else self._change(batch)
                continue
            self._pass = None
            if self.limit is None:
                return
            if self.data.one_shot:
                warnings.warn(f"The data ran out after {number} of {self.limit} steps; the epoch ends here.", stacklevel=2)
            if self.data.one_shot or not self.repeat:
                return
