"""Describe which cells of a padded grid are real steps, and where each step is stored.

An `Index` is built once for each mask, on the host, and shared by everything that runs on these steps. The real steps
are numbered sequence by sequence, in time order. What kernels need beyond that (time-major order, gaps, lengths) is
computed on first use and cached: on the host as NumPy arrays, on each device as tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padless._threads import cached_property
from padless.ragged.device import to_device
from padless.ragged.plan_limit import check_plan

Ints: TypeAlias = NDArray[np.int64]
TensorName: TypeAlias = Literal[
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
    """The packed steps sorted by time, the longest sequence first, as torch's `PackedSequence` has them.

    All tensors are of int64. B is the number of sequences, N the number of real steps, L the longest length.

    Attributes:
        to_time_major: `(N,)`, for each step of the time-major order its number among the packed steps.
        to_packed: `(N,)`, the inverse of `to_time_major`.
        rows: `(B,)`, the sequences, the longest first.
        inverse_rows: `(B,)`, the inverse of `rows`.
        batch_sizes: for each time below L the number of sequences that have this step. They are the first in `rows`.
        batch_starts: for each time up to L the number of steps before it in time-major order.
    """

    to_time_major: Tensor
    to_packed: Tensor
    rows: Tensor
    inverse_rows: Tensor
    batch_sizes: tuple[int, ...]
    batch_starts: tuple[int, ...]


class Index:
    """The real steps of a grid `(B, T)`.

    Args:
        mask: the boolean grid `(B, T)`, True at the real steps.
        outer: the level above, in documents of sentences of words. Its grid is `(B, S)`, and then the rows of this
            index are the `B * S` inner sequences.
        mask_source: the layer or argument that created the mask, in words. Error messages show it.
        columns_agree: whether a plain tensor that was cut as this grid has its steps at the same columns. A slice of
            time acts on the steps of each sequence, so that they may move to other columns.
        given_lengths: `(B,)`, the length of each sequence as it was given, for sequences that came without padding. A mask
            may have removed steps since. None for a padded array.

    Attributes:
        shape: rows and columns of the grid. With an outer level the rows are those of all inner sequences.
        flat: `(N,)`, the cell of each real step in the flattened grid.
        rows: `(N,)`, the row of each real step.
        positions: `(N,)`, the column of each real step.
        offsets: `(B + 1,)`. The steps of row `i` are those from `offsets[i]` to `offsets[i + 1]`.

    Example:
        >>> index = Index(np.array([[1, 0, 1, 0]], dtype=bool))
        >>> index.num_steps, index.rows.tolist(), index.positions.tolist(), index.offsets.tolist()
        (2, [0, 0], [0, 2], [0, 2])
    """

    def __init__(
        self,
        mask: NDArray[np.bool_],
        outer: Index | None = None,
        mask_source: str = "a mask",
        columns_agree: bool = True,
        given_lengths: Ints | None = None,
    ) -> None:
        self.shape: tuple[int, int] = (mask.shape[0], mask.shape[1])
        self.outer = outer
        self.mask_source = mask_source
        self.columns_agree = columns_agree
        self.given_lengths = given_lengths
        self.flat: Ints = np.flatnonzero(mask)
        width = max(self.shape[1], 1)
        self.rows: Ints = self.flat // width
        self.positions: Ints = self.flat - self.rows * width
        self.offsets: Ints = np.zeros(self.shape[0] + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.rows, minlength=self.shape[0]), out=self.offsets[1:])
        # Caches. Threads may share an index: single reads and writes of a dictionary are safe, loops over it are not.
        self._tensors: dict[tuple[str, torch.device], Tensor] = {}
        self._orders: dict[tuple[bool, torch.device], TimeMajorOrder] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: no caches."""
        names = ("shape", "outer", "mask_source", "columns_agree", "given_lengths", "flat", "rows", "positions", "offsets")
        return {**{name: self.__dict__[name] for name in names}, "_tensors": {}, "_orders": {}}

    @staticmethod
    def from_mask(mask: NDArray[np.bool_], mask_source: str = "a mask", columns_agree: bool = True) -> Index:
        """Return the index of a boolean grid of two or more axes; each axis beyond two is one more outer level.

        A step of an outer level is real if one of its inner steps is.

        Example:
            >>> inner = Index.from_mask(np.array([[[1, 1], [0, 0]]], dtype=bool))
            >>> inner.shape, inner.grid, inner.outer.offsets.tolist()
            ((2, 2), (1, 2, 2), [0, 1])
        """
        if mask.ndim == 2:
            return Index(mask, mask_source=mask_source, columns_agree=columns_agree)
        rows = mask.reshape(math.prod(mask.shape[:-1]), mask.shape[-1])
        outer = Index.from_mask(np.asarray(mask.any(-1)), mask_source, columns_agree)
        return Index(rows, outer, mask_source, columns_agree)

    @staticmethod
    def from_lengths(
        lengths: Ints, width: int | None = None, mask_source: str = "lengths", were_padded: bool = True
    ) -> Index:
        """Return the index of right-padded sequences.

        Args:
            lengths: `(B,)`, the number of steps of each sequence.
            width: the number of columns of the grid; by default the longest length.
            mask_source: where the lengths come from, in words.
            were_padded: whether a padded array was given. If not, no user has seen the columns.
        """
        width = int(lengths.max(initial=0)) if width is None else width
        lengths = np.asarray(lengths)
        mask = np.arange(width) < lengths[:, None]
        return Index(mask, mask_source=mask_source, given_lengths=None if were_padded else lengths)

    @staticmethod
    @lru_cache(16)
    def dense(batch: int, steps: int) -> Index:
        """Return the index of a grid `(batch, steps)` without padding; the last 16 are cached.

        Example:
            >>> Index.dense(2, 3) is Index.dense(2, 3), Index.dense(2, 3).full
            (True, True)
        """
        check_plan(batch, steps, grid_name="a grid of steps")
        return Index(np.ones((batch, steps), dtype=bool), mask_source="no mask")

    @property
    def num_steps(self) -> int:
        """The number of real steps N."""
        return len(self.flat)

    @property
    def grid(self) -> tuple[int, ...]:
        """The leading axes of the padded array: `(B, T)`, or `(B, S, W)` with an outer level."""
        return self.shape if self.outer is None else (*self.outer.grid, self.shape[1])

    @cached_property
    def lengths(self) -> Ints:
        """The number of real steps of each row, `(B,)`."""
        return np.diff(self.offsets)

    @cached_property
    def nonempty_offsets(self) -> NDArray[np.int32]:
        """The offsets of the rows that have a step, as int32: the form of torch's variable-length attention."""
        return np.unique(self.offsets).astype(np.int32)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The boolean grid, in the shape of `grid`."""
        mask = np.zeros(self.shape[0] * self.shape[1], dtype=bool)
        mask[self.flat] = True
        return mask.reshape(self.grid)

    @cached_property
    def step_of_cell(self) -> Ints:
        """For each cell of the flattened grid its number among the real steps; -1 at masked cells."""
        steps = np.full(self.shape[0] * self.shape[1], -1, dtype=np.int64)
        steps[self.flat] = np.arange(self.num_steps)
        return steps

    @cached_property
    def full(self) -> bool:
        """Whether every cell of the grid is a real step."""
        return self.num_steps == self.shape[0] * self.shape[1]

    @cached_property
    def span_starts(self) -> Ints:
        """The column of the first real step of each row, `(B,)`; 0 for an empty row."""
        starts = np.zeros(self.shape[0], dtype=np.int64)
        not_empty = self.lengths > 0
        starts[not_empty] = self.positions[self.offsets[:-1][not_empty]]
        return starts

    @cached_property
    def span_coordinates(self) -> tuple[Ints, ...]:
        """For each real step its position on every axis of `grid`, counted from the first real step on that axis.

        Example:
            >>> index = Index(np.array([[0, 1, 0, 1], [1, 0, 0, 0]], dtype=bool))
            >>> [axis.tolist() for axis in index.span_coordinates]
            [[0, 0, 1], [0, 2, 0]]
        """
        positions = self.positions - self.span_starts[self.rows]
        if self.outer is None:
            return self.rows, positions
        outer_step_of_row = self.outer.step_of_cell[self.rows]
        return *(axis[outer_step_of_row] for axis in self.outer.span_coordinates), positions

    # Levels. A step of the outermost level contains a sequence.

    @cached_property
    def outermost(self) -> Index:
        """The outermost level; the index itself if it has no outer level."""
        return self if self.outer is None else self.outer.outermost

    @cached_property
    def inner(self) -> Index:
        """The real steps of the outermost level as a batch of sequences. The inner steps keep their order."""
        batch = self.outermost.shape[0] * self.outermost.shape[1]
        mask = self.mask.reshape(batch, *self.grid[2:])[self.outermost.flat]
        return Index.from_mask(mask, self.mask_source, self.columns_agree)

    # Gaps: runs of masked steps within a row. `gap_values` of a `Packed` has one row for each.

    @cached_property
    def masked_cells(self) -> Ints:
        """The masked cells of the flattened grid, `(M,)`."""
        return np.flatnonzero(~self.mask.reshape(-1))

    @cached_property
    def _gap_starts(self) -> NDArray[np.bool_]:
        """The grid `(B, T)`, True at the first cell of each gap."""
        real = self.mask.reshape(self.shape)
        starts = ~real
        starts[:, 1:] &= real[:, :-1]
        return starts

    @cached_property
    def gap_of_cell(self) -> Ints:
        """For each masked cell the number of its gap, `(M,)`."""
        return np.cumsum(self._gap_starts.reshape(-1))[self.masked_cells] - 1

    @cached_property
    def first_cell_of_gap(self) -> Ints:
        """For each gap its first cell in the flattened grid, `(G,)`."""
        return np.flatnonzero(self._gap_starts.reshape(-1))

    @property
    def num_gaps(self) -> int:
        """The number of gaps G."""
        return len(self.first_cell_of_gap)

    @cached_property
    def row_of_gap(self) -> Ints:
        """For each gap its row, `(G,)`."""
        return self.first_cell_of_gap // max(self.shape[1], 1)

    @cached_property
    def step_before_gap(self) -> Ints:
        """For each gap the real step just before it, `(G,)`; -1 if the row begins with the gap."""
        has_step_before = self.first_cell_of_gap % max(self.shape[1], 1) > 0
        return np.where(has_step_before, np.searchsorted(self.flat, self.first_cell_of_gap) - 1, -1)

    @cached_property
    def cell_source(self) -> Ints:
        """For each cell of the flattened grid its row in `cat([values, gap_values])`, with one row for each gap."""
        return self._cell_source(self.gap_of_cell)

    @cached_property
    def cell_source_per_cell(self) -> Ints:
        """The same as `cell_source`, where gap values have one row for each masked cell."""
        return self._cell_source(np.arange(len(self.masked_cells)))

    def _cell_source(self, gap_value_rows: Ints) -> Ints:
        """Return for each cell its row in `cat([values, gap_values])`, given the rows of the masked cells."""
        source = self.step_of_cell.copy()
        source[self.masked_cells] = self.num_steps + gap_value_rows
        return source

    # Tensors on devices

    def tensor(self, name: TensorName, device: torch.device) -> Tensor:
        """Return one of the arrays above as a tensor on a device; each is copied once."""
        key = (name, device)
        tensor = self._tensors.get(key)
        return self._tensors.setdefault(key, to_device(getattr(self, name), device)) if tensor is None else tensor

    def time_major_order(self, device: torch.device, reverse: bool = False) -> TimeMajorOrder:
        """Return the time-major order of the packed steps.

        Args:
            device: the device of the tensors.
            reverse: count time from the last step of each sequence.
        """
        key = (reverse, device)
        order = self._orders.get(key)
        return self._orders.setdefault(key, self._time_major_order(device, reverse)) if order is None else order

    def _time_major_order(self, device: torch.device, reverse: bool) -> TimeMajorOrder:
        rows = np.argsort(-self.lengths, kind="stable")
        longest = int(self.lengths.max(initial=0))
        num_ended = np.cumsum(np.bincount(self.lengths, minlength=longest + 1))[:longest]
        batch_sizes = self.shape[0] - num_ended
        batch_starts = np.concatenate([[0], np.cumsum(batch_sizes)]).astype(np.int64)
        time = np.arange(self.num_steps) - self.offsets[self.rows]
        if reverse:
            time = self.lengths[self.rows] - 1 - time
        inverse_rows = _inverse(rows)
        to_packed = batch_starts[time] + inverse_rows[self.rows]
        return TimeMajorOrder(
            to_time_major=to_device(_inverse(to_packed), device),
            to_packed=to_device(to_packed, device),
            rows=to_device(rows, device),
            inverse_rows=to_device(inverse_rows, device),
            batch_sizes=tuple(batch_sizes.tolist()),
            batch_starts=tuple(batch_starts.tolist()),
        )

    def coordinates(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return for each real step its position on every axis of `grid`, as one tensor `(N,)` for each axis."""
        rows, positions = self.tensor("rows", device), self.tensor("positions", device)
        if self.outer is None:
            return rows, positions
        return *torch.unravel_index(rows, self.outer.grid), positions

    def equals(self, other: Index) -> bool:
        """Return whether both indexes have the same real steps on a grid of the same shape."""
        return self is other or (self.grid == other.grid and np.array_equal(self.flat, other.flat))

    def __repr__(self) -> str:
        return f"Index({self.num_steps} of {' x '.join(map(str, self.grid))} steps, created by {self.mask_source})"


def _inverse(permutation: Ints) -> Ints:
    """Return the inverse of a permutation."""
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(len(permutation))
    return inverse
