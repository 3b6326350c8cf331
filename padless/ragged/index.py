"""Which steps of a padded grid are real, and where they came from.

An `Index` is built once per mask, on the host, and shared by reference by everything that runs on those steps. The real
steps are numbered sequence after sequence in time order; all that a kernel asks for (time-major order, gaps, lengths)
is derived on first use and kept, on the host as NumPy arrays and on each device as tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from padless.ragged.device import to_device

Ints = NDArray[np.int64]
TensorName = Literal[
    "flat",
    "rows",
    "positions",
    "offsets",
    "lengths",
    "masked_cells",
    "gap_of_cell",
    "first_cell_of_gap",
    "step_before_gap",
    "row_of_gap",
    "cell_source",
    "cell_source_per_cell",
    "nonempty_offsets",
]


@dataclass(frozen=True)
class TimeMajorOrder:
    """Packed steps in time-major order, longest sequence first: what a scan walks through.

    `sizes[t]` sequences are alive at step t and are the first ones of the sorted rows; `take` brings packed steps into
    this order, `back` undoes it; `rows` are the sorted rows, `rank` their inverse. With `reverse` each sequence
    starts at its own last step.
    """

    to_time_major: torch.Tensor
    to_packed: torch.Tensor
    rows: torch.Tensor
    inverse_rows: torch.Tensor
    batch_sizes: tuple[int, ...]
    batch_starts: tuple[int, ...]


class Index:
    """The real steps of a `(B, T)` grid; `outer` is the level above when the rows are themselves steps of a grid.

    `mask` is boolean, `(B, T)`; with an `outer` of shape `(B, S)` the rows are the `B * S` inner sequences.
    `born` says in words where the mask came from, for messages.

    >>> index = Index(np.array([[1, 0, 1, 0]], dtype=bool))
    >>> index.num_steps, index.rows.tolist(), index.positions.tolist(), index.offsets.tolist()
    (2, [0, 0], [0, 2], [0, 2])
    """

    def __init__(self, mask: NDArray[np.bool_], outer: Index | None = None, mask_source: str = "a mask") -> None:
        self.shape: tuple[int, int] = (mask.shape[0], mask.shape[1])
        self.outer = outer
        self.mask_source = mask_source
        self.flat: Ints = np.flatnonzero(mask)
        width = max(self.shape[1], 1)
        self.rows: Ints = self.flat // width
        self.positions: Ints = self.flat - self.rows * width
        self.offsets: Ints = np.zeros(self.shape[0] + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.rows, minlength=self.shape[0]), out=self.offsets[1:])
        self._device: dict[tuple[str, torch.device], torch.Tensor] = {}
        self._orders: dict[tuple[bool, torch.device], TimeMajorOrder] = {}

    @staticmethod
    def from_mask(mask: NDArray[np.bool_], mask_source: str = "a mask") -> Index:
        """The index of a boolean grid; each axis beyond two adds an outer level ("some inner step is real").

        >>> inner = Index.from_mask(np.array([[[1, 1], [0, 0]]], dtype=bool))
        >>> inner.shape, inner.grid, inner.outer.offsets.tolist()
        ((2, 2), (1, 2, 2), [0, 1])
        """
        if mask.ndim == 2:
            return Index(mask, mask_source=mask_source)
        rows = mask.reshape(math.prod(mask.shape[:-1]), mask.shape[-1])
        return Index(rows, Index.from_mask(np.asarray(mask.any(-1)), mask_source), mask_source)

    @staticmethod
    def from_lengths(lengths: Ints, width: int | None = None, mask_source: str = "lengths") -> Index:
        """Right-padded sequences of these lengths on a grid `width` wide (the longest, unless given)."""
        width = int(lengths.max(initial=0)) if width is None else width
        return Index(np.arange(width) < np.asarray(lengths)[:, None], mask_source=mask_source)

    @staticmethod
    @lru_cache(16)
    def dense(batch: int, steps: int) -> Index:
        """Return the index of a grid `(batch, steps)` without padding; the last 16 are cached.

        >>> Index.dense(2, 3) is Index.dense(2, 3), Index.dense(2, 3).full
        (True, True)
        """
        return Index(np.ones((batch, steps), dtype=bool), mask_source="no mask")

    @property
    def num_steps(self) -> int:
        """N, the number of real steps."""
        return len(self.flat)

    @property
    def grid(self) -> tuple[int, ...]:
        """The leading axes of the padded array: `(B, T)`, or `(B, S, W)` under an outer level."""
        return self.shape if self.outer is None else (*self.outer.grid, self.shape[1])

    @cached_property
    def lengths(self) -> Ints:
        """How many real steps each row has."""
        return np.diff(self.offsets)

    @cached_property
    def nonempty_offsets(self) -> NDArray[np.int32]:
        """The offsets once more, of the rows that have a step, in the integers that kernels for attention want."""
        return np.unique(self.offsets).astype(np.int32)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The boolean grid, with the shape of `grid`."""
        mask = np.zeros(self.shape[0] * self.shape[1], dtype=bool)
        mask[self.flat] = True
        return mask.reshape(self.grid)

    @cached_property
    def step_of_cell(self) -> Ints:
        """For each cell of the flattened grid its number among the real steps, -1 where it is not real."""
        rank = np.full(self.shape[0] * self.shape[1], -1, dtype=np.int64)
        rank[self.flat] = np.arange(self.num_steps)
        return rank

    @cached_property
    def full(self) -> bool:
        """Whether every cell of the grid is real."""
        return self.num_steps == self.shape[0] * self.shape[1]

    # Levels: a step of the outermost one holds a sequence.

    @cached_property
    def outermost(self) -> Index:
        """The outermost level."""
        return self if self.outer is None else self.outer.outermost

    @cached_property
    def inner(self) -> Index:
        """What each step of the outermost level holds, as a batch; the steps are these, in the same order."""
        batch = self.outermost.shape[0] * self.outermost.shape[1]
        return Index.from_mask(self.mask.reshape(batch, *self.grid[2:])[self.outermost.flat], self.mask_source)

    # Gaps: the runs of masked steps within a row. One row of `fill` stands for each.

    @cached_property
    def masked_cells(self) -> Ints:
        """The masked cells of the flattened grid."""
        return np.flatnonzero(~self.mask.reshape(-1))

    @cached_property
    def _gap_starts(self) -> NDArray[np.bool_]:
        """The cells of the grid, row by row, that open a gap."""
        real = self.mask.reshape(self.shape)
        starts = ~real
        starts[:, 1:] &= real[:, :-1]
        return starts

    @cached_property
    def gap_of_cell(self) -> Ints:
        """For each masked cell the number of its gap."""
        return np.cumsum(self._gap_starts.reshape(-1))[self.masked_cells] - 1

    @cached_property
    def first_cell_of_gap(self) -> Ints:
        """For each gap its first cell in the flattened grid."""
        return np.flatnonzero(self._gap_starts.reshape(-1))

    @property
    def num_gaps(self) -> int:
        """G, the number of gaps."""
        return len(self.first_cell_of_gap)

    @cached_property
    def row_of_gap(self) -> Ints:
        """For each gap its row."""
        return self.first_cell_of_gap // max(self.shape[1], 1)

    @cached_property
    def step_before_gap(self) -> Ints:
        """For each gap the real step just before it, -1 where the row begins with the gap."""
        inside = self.first_cell_of_gap % max(self.shape[1], 1) > 0
        return np.where(inside, np.searchsorted(self.flat, self.first_cell_of_gap) - 1, -1)

    @cached_property
    def cell_source(self) -> Ints:
        """For each cell of the grid its number among the real steps and, behind them, the gaps."""
        return self._with_gaps_after_steps(self.gap_of_cell)

    @cached_property
    def cell_source_per_cell(self) -> Ints:
        """The same where each masked cell shows something of its own."""
        return self._with_gaps_after_steps(np.arange(len(self.masked_cells)))

    def _with_gaps_after_steps(self, masked: Ints) -> Ints:
        places = self.step_of_cell.copy()
        places[self.masked_cells] = self.num_steps + masked
        return places

    # Device copies and orders

    def tensor(self, name: TensorName, device: torch.device) -> torch.Tensor:
        """One of the arrays above as a tensor on a device, copied there once."""
        key = (name, device)
        if key not in self._device:
            self._device[key] = to_device(getattr(self, name), device)
        return self._device[key]

    def time_major_order(self, device: torch.device, reverse: bool = False) -> TimeMajorOrder:
        """Time-major order of the packed steps, longest sequence first."""
        key = (reverse, device)
        if key not in self._orders:
            rows = np.argsort(-self.lengths, kind="stable")
            rank = np.empty_like(rows)
            rank[rows] = np.arange(len(rows))
            longest = int(self.lengths.max(initial=0))
            alive = np.bincount(np.maximum(self.lengths, 0), minlength=longest + 1)
            sizes = self.shape[0] - np.cumsum(alive)[:longest]
            starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
            time = np.arange(self.num_steps) - self.offsets[self.rows]
            if reverse:
                time = self.lengths[self.rows] - 1 - time
            back = starts[time] + rank[self.rows]
            take = np.empty_like(back)
            take[back] = np.arange(self.num_steps)
            moves: list[torch.Tensor] = [to_device(a, device) for a in (take, back, rows, rank)]
            self._orders[key] = TimeMajorOrder(
                *moves, batch_sizes=tuple(map(int, sizes)), batch_starts=tuple(map(int, starts))
            )
        return self._orders[key]

    def coordinates(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        """For each real step its place on every leading axis of the grid."""
        columns = (self.tensor("positions", device),)
        if self.outer is None:
            return (self.tensor("rows", device), *columns)
        return (*torch.unravel_index(self.tensor("rows", device), self.outer.grid), *columns)

    def equals(self, other: Index) -> bool:
        """Whether both mark the same steps of the same grid."""
        return self is other or (self.grid == other.grid and np.array_equal(self.flat, other.flat))

    def __repr__(self) -> str:
        return f"Index({self.num_steps} of {' x '.join(map(str, self.grid))} steps, created by {self.mask_source})"
