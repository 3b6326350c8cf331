"""The plan of an epoch: which rows are in which batch, as a function of their number, their lengths and one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from padless.data.columns import Rows
from padless.errors import ArgumentError
from padless.ragged.index import Ints

_BATCHES_PER_POOL = 64  # examples of this number of batches are sorted by length together: alike in a batch, yet well mixed


@dataclass(frozen=True)
class Batching:
    """Describe how examples become batches.

    With `tokens` and `shuffle=True`, sequences of similar lengths are in one batch. An example longer than `tokens` is a
    batch by itself. A row without a real step counts as one step.

    Args:
        size: Number of examples in a batch. The default is 32.
        tokens: Largest number of real steps in a batch, instead of `size`.
        shuffle: Whether the examples are in another order in each epoch. "batch" keeps the batches and changes the order of
            the rows of each, as in Keras.

    Raises:
        ArgumentError: For a size that is not a positive integer, for two sizes, and for another `shuffle`.

    >>> [rows.tolist() for rows in Batching(2, shuffle=True).plan(5, seed=3)]
    [[1, 0], [3, 4], [2]]
    >>> Batching(tokens=6).plan(4, lengths=np.array([3, 3, 9, 1]))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """

    size: int | None = None
    tokens: int | None = None
    shuffle: bool | Literal["batch"] = False

    def __post_init__(self) -> None:
        for argument, value in (("batch_size", self.size), ("batch_tokens", self.tokens)):
            if value is not None:
                check_positive(argument, value)
        if self.size is not None and self.tokens is not None:
            raise ArgumentError(
                f"batch_size={self.size} and batch_tokens={self.tokens} both set the size of a batch. Give one of them."
            )
        if not isinstance(self.shuffle, bool | np.bool_ | int) and self.shuffle != "batch":
            raise ArgumentError(f"`shuffle` must be True, False or 'batch'; got {self.shuffle!r}.")

    @property
    def rows(self) -> int:
        """Number of examples in a batch."""
        return 32 if self.size is None else int(self.size)

    def num_batches(self, num_rows: int) -> int | None:
        """Return the number of batches of some rows. With `tokens` it depends on their lengths: None."""
        return None if self.tokens is not None else -(-num_rows // self.rows)

    def plan(self, num_rows: int, seed: int | None = None, lengths: Ints | None = None) -> Sequence[Rows]:
        """Return the rows of each batch of an epoch.

        Args:
            num_rows: Number of examples.
            seed: Seed of the order. None keeps the order of the data.
            lengths: Number of real steps of each example `(num_rows,)`, for `tokens`.

        Raises:
            ArgumentError: For `tokens` without lengths.
        """
        generator = None if seed is None or not self.shuffle else torch.Generator().manual_seed(seed)
        if self.tokens is not None:
            if lengths is None:
                raise ArgumentError(
                    f"batch_tokens={self.tokens} needs the lengths of the examples, which these data do not give. Give "
                    f"batch_size, or sequences."
                )
            lengths = np.maximum(lengths, 1)
            if generator is not None and self.shuffle != "batch":
                return _similar_lengths(lengths, self.tokens, generator)
            batches = _fill_batches(lengths, self.tokens)
        else:
            batches = [slice(start, min(start + self.rows, num_rows)) for start in range(0, num_rows, self.rows)]
        if generator is None:
            return batches
        if self.shuffle == "batch":
            return [batch.start + _permutation(batch.stop - batch.start, generator) for batch in batches]
        order = _permutation(num_rows, generator)
        return [order[batch] for batch in batches]


@dataclass(frozen=True)
class Padding:
    """Report what padding would have cost in an epoch.

    Attributes:
        steps: Number of real steps.
        batches: Number of cells of the same batches as padded arrays, each as wide as its longest sequence.
        whole: Number of cells of one padded array of all the data.
        count: Number of batches.
    """

    steps: int
    batches: int
    whole: int
    count: int = 0

    @staticmethod
    def from_plan(plan: Sequence[Rows], lengths: Ints) -> Padding:
        """Return the report for a plan and the lengths of all examples.

        >>> Padding.from_plan([slice(0, 2), slice(2, 3)], np.array([3, 1, 5]))
        Padding(steps=9, batches=11, whole=15, count=2)
        """
        batches = [lengths[rows] for rows in plan]
        cells = sum(int(batch.max(initial=0)) * len(batch) for batch in batches)
        return Padding(int(lengths.sum()), cells, int(lengths.max(initial=0)) * len(lengths), len(plan))

    def __str__(self) -> str:
        steps = max(self.steps, 1)
        return (
            f"{self.count} batches hold {self.steps:,} real steps. Padded they would hold {self.batches / steps:.2f} times "
            f"as many, and one padded array of all the data {self.whole / steps:.2f} times."
        )


def draw_epoch_seed() -> int:
    """Draw the seed of an epoch from torch's global generator. Everything random about its batches depends on this seed."""
    return int(torch.randint(2**62, ()))


def check_positive(argument: str, value: object) -> None:
    """Raise `ArgumentError` for a value that is not a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ArgumentError(f"`{argument}` must be a positive integer; got {value!r}.")


def _permutation(size: int, generator: torch.Generator) -> Ints:
    return torch.randperm(size, generator=generator).numpy()


def _similar_lengths(lengths: Ints, tokens: int, generator: torch.Generator) -> list[Ints]:
    """Return full batches of sequences of similar lengths, in random order.

    Shuffled examples are sorted in pools. Every other pool is in falling order, so that neighbors are similar at the
    boundary of two pools too.
    """
    order = _permutation(len(lengths), generator)
    pool_size = max(1, int(_BATCHES_PER_POOL * tokens / lengths.mean()))
    pool = np.arange(len(order)) // pool_size
    signed_lengths = np.where(pool % 2, -lengths[order], lengths[order])
    order = order[np.lexsort((signed_lengths, pool))]
    batches = _fill_batches(lengths[order], tokens)
    return [order[batches[number]] for number in _permutation(len(batches), generator)]


def _fill_batches(lengths: Ints, tokens: int) -> list[slice]:
    """Return neighbors together while they have at most `tokens` steps. A longer example is alone."""
    total = np.append(0, np.cumsum(lengths))
    batches, start = [], 0
    while start < len(lengths):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + tokens, side="right")) - 1)
        batches.append(slice(start, stop))
        start = stop
    return batches
