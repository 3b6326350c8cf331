"""The plan of an epoch: which rows make which batch, a pure function of the rows' number, their lengths and one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from padless.data.batch import Batch
from padless.data.columns import Rows
from padless.errors import ArgumentError
from padless.ragged.index import Ints

_POOL = 64  # batches whose examples are sorted by length together: alike inside a batch, and yet well mixed


def draw_epoch_seed() -> int:
    """A seed from torch's global generator: all that is random about the batches of an epoch hangs on this one number."""
    return int(torch.randint(2**62, ()))


@dataclass(frozen=True)
class Batching:
    """How examples become batches: `size` rows each (32 unless told), or as many as hold up to `tokens` real steps.

    `shuffle` is True, False, or "batch": the rows of each batch in another order, as Keras's. With `tokens` and shuffle
    sequences of like lengths come together; an example longer than `tokens` is a batch of its own, and a row without a
    real step counts as one.

    >>> [rows.tolist() for rows in Batching(2, shuffle=True).plan(5, seed=3)]
    [[1, 0], [3, 4], [2]]
    >>> Batching(tokens=6).plan(4, lengths=np.array([3, 3, 9, 1]))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """

    size: int | None = None
    tokens: int | None = None
    shuffle: bool | Literal["batch"] = False

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.size), ("batch_tokens", self.tokens)):
            if value is not None:
                check_positive(name, value)
        if self.size is not None and self.tokens is not None:
            raise ArgumentError(
                f"batch_size={self.size} and batch_tokens={self.tokens} both say how large a batch is. Give one of them."
            )
        if not isinstance(self.shuffle, bool | np.bool_ | int) and self.shuffle != "batch":
            raise ArgumentError(f"`shuffle` must be True, False or 'batch'; got {self.shuffle!r}.")

    @property
    def rows(self) -> int:
        """The rows of a batch."""
        return 32 if self.size is None else int(self.size)

    def num_batches(self, rows: int) -> int | None:
        """How many batches so many rows make; None where that hangs on their lengths."""
        return None if self.tokens is not None else -(-rows // self.rows)

    def plan(self, rows: int, seed: int | None = None, lengths: Ints | None = None) -> Sequence[Rows]:
        """The rows of each batch of an epoch; in the order of the data where nothing is shuffled."""
        mixed = None if seed is None or not self.shuffle else torch.Generator().manual_seed(seed)
        if self.tokens is None:
            return _by_rows(rows, self.rows, mixed, self.shuffle == "batch")
        if lengths is None:
            raise ArgumentError(
                f"batch_tokens={self.tokens} needs the lengths of the examples, which these data do not "
                f"tell. Give batch_size, or sequences."
            )
        return _by_tokens(np.maximum(lengths, 1), int(self.tokens), mixed, self.shuffle == "batch")


def check_positive(what: str, value: Any) -> None:
    """Refuse what is no positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ArgumentError(f"`{what}` must be a positive integer; got {value!r}.")


def _permutation(n: int, mixed: torch.Generator) -> Ints:
    return torch.randperm(n, generator=mixed).numpy()


def _by_rows(rows: int, size: int, mixed: torch.Generator | None, within: bool) -> Sequence[Rows]:
    cuts = [slice(i, min(i + size, rows)) for i in range(0, rows, size)]
    if mixed is None:
        return cuts
    if within:
        return [cut.start + _permutation(cut.stop - cut.start, mixed) for cut in cuts]
    order = _permutation(rows, mixed)
    return [order[cut] for cut in cuts]


def _by_tokens(lengths: Ints, tokens: int, mixed: torch.Generator | None, within: bool) -> Sequence[Rows]:
    if mixed is None:
        return _filled(lengths, tokens)
    if within:
        return [cut.start + _permutation(cut.stop - cut.start, mixed) for cut in _filled(lengths, tokens)]
    order = _permutation(len(lengths), mixed)
    pool = max(1, int(_POOL * tokens / lengths.mean()))
    turn = np.arange(len(order)) // pool
    up = np.where(turn % 2, -lengths[order], lengths[order])  # every other pool falls, so that neighbours meet alike
    order = order[np.lexsort((up, turn))]
    cuts = _filled(lengths[order], tokens)
    return [order[cuts[number]] for number in _permutation(len(cuts), mixed)]


def _filled(lengths: Ints, tokens: int) -> list[slice]:
    """Neighbours together as long as they fit; one that is too long stands alone."""
    total = np.append(0, np.cumsum(lengths))
    cuts, start = [], 0
    while start < len(lengths):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + tokens, side="right")) - 1)
        cuts.append(slice(start, stop))
        start = stop
    return cuts


@dataclass(frozen=True)
class Padding:
    """What padding would have cost: the real steps of an epoch, and the cells of padded grids that hold them.

    `batches` are the cells of the same batches, each as wide as its longest sequence; `whole` those of one grid of all
    the data, as wide as the longest of all.
    """

    steps: int
    batches: int
    whole: int
    count: int = 0

    @staticmethod
    def of(plan: Sequence[Rows], lengths: Ints) -> Padding:
        """The account of a plan.

        >>> Padding.of([slice(0, 2), slice(2, 3)], np.array([3, 1, 5]))
        Padding(steps=9, batches=11, whole=15, count=2)
        """
        cells = sum(int(lengths[rows].max(initial=0)) * len(lengths[rows]) for rows in plan)
        return Padding(int(lengths.sum()), cells, int(lengths.max(initial=0)) * len(lengths), len(plan))

    def __str__(self) -> str:
        each = max(self.steps, 1)
        return (
            f"{self.count} batches hold {self.steps:,} real steps; padded they would hold {self.batches / each:.2f} "
            f"times as many, one padded array of all the data {self.whole / each:.2f} times."
        )


class PlannedBatches(Iterator[Batch]):
    """Once through planned examples; batches that are skipped are not read."""

    def __init__(self, read: Callable[[Rows], Batch], plan: Sequence[Rows], end: Callable[[], Any] = lambda: None) -> None:
        self._read, self._plan, self._next, self._end = read, plan, 0, end

    def __next__(self) -> Batch:
        if not self.skip():
            raise StopIteration
        return self._read(self._plan[self._next - 1])

    def skip(self) -> bool:
        """Leave the next batch out; False at the end."""
        self._next += 1
        if self._next == len(self._plan) + 1:
            self._end()
        return self._next <= len(self._plan)
