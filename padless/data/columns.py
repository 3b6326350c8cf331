"""Columns: one input, target or weight of all examples, from which a batch reads its rows.

A dense column is an array `(num_examples, ...)`. A ragged column is flat values and offsets. A slice of rows is a view where
possible. Any other choice of rows is one gather.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padless.ragged.device import to_device
from padless.ragged.index import Index, Ints
from padless.ragged.numeric import tensor_of
from padless.ragged.packed import Packed

Kind: TypeAlias = Literal["grid", "list", "packed"]
"""The container that the user gave: an array, a list of sequences, or a `Packed`. `predict` answers in the same kind."""

Rows: TypeAlias = "slice | Ints"
"""Rows of a batch: a slice with step 1, or an array of row numbers."""


@dataclass(frozen=True, eq=False)
class DenseColumn:
    """Examples of equal shape in one array.

    Attributes:
        name: What the column is, for error messages, as "x" or "y['tags']".
        source: The array `(num_examples, ...)`.
        kind: The container that the user gave.
        sequence_source: Where the rows come from if they were lists of equal lengths, which may also be sequences. None
            for rows of an array.
    """

    name: str
    source: NDArray[np.generic] | Tensor
    kind: Kind
    sequence_source: str | None = None

    def __len__(self) -> int:
        return self.source.shape[0]

    def read(self, rows: Rows) -> Tensor:
        """Return some rows as a tensor."""
        if isinstance(self.source, Tensor):
            return _as_float_default(_select(self.source, rows))
        return tensor_from_numpy(self.source[rows])

    def copy(self) -> DenseColumn:
        """Return the column in new memory."""
        return replace(self, source=self.source.clone() if isinstance(self.source, Tensor) else self.source.copy())

    def as_sequences(self) -> Column:
        """Return rows that were lists as sequences of equal lengths, without a copy. Return other columns unchanged."""
        if self.sequence_source is None:
            return self
        num_rows, length = self.source.shape[:2]
        flat = self.source.reshape(num_rows * length, *self.source.shape[2:])
        values = flat if isinstance(flat, Tensor) else tensor_from_numpy(flat)
        return RaggedColumn(self.name, num_rows, values, np.arange(num_rows + 1) * length, self.sequence_source, "list")


@dataclass(frozen=True, eq=False)
class RaggedColumn:
    """Examples of different lengths as flat values. Row r of the grid holds `values[offsets[r]:offsets[r + 1]]`.

    Attributes:
        name: What the column is, for error messages.
        num_examples: Number of examples.
        values: Real steps of all examples `(num_steps, ...)`.
        offsets: Place of each row in `values`, and the end: `(num_rows + 1,)`.
        mask_source: What created the mask, for error messages.
        kind: The container that the user gave.
        inner_shape: Axes of the grid between batch and time. Each example is that number of rows.
        width: With `positions`, width of the grid. Without, the least width of a batch, which is else as wide as its longest
            row.
        positions: Column of each step `(num_steps,)`. None for rows that are padded on the right.
        gap_values: What the grid shows in gaps `(num_gaps, ...)`, or None.
        gap_offsets: Place of each row in `gap_values`, and the end.
        sequence_source: As in `DenseColumn`, for rows of equal lengths that a mask was applied to.
    """

    name: str
    num_examples: int
    values: Tensor
    offsets: Ints
    mask_source: str
    kind: Kind
    inner_shape: tuple[int, ...] = ()
    width: int = 0
    positions: Ints | None = None
    gap_values: Tensor | None = None
    gap_offsets: Ints | None = None
    sequence_source: str | None = None

    def __len__(self) -> int:
        return self.num_examples

    @property
    def has_different_lengths(self) -> bool:
        """Whether the rows differ in their number of steps."""
        lengths = np.diff(self.offsets)
        return bool(len(lengths)) and bool((lengths != lengths[0]).any())

    def read(self, rows: Rows) -> Packed:
        """Return some examples as a `Packed`."""
        examples = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        rows_per_example = math.prod(self.inner_shape)
        grid_rows = (examples[:, None] * rows_per_example + np.arange(rows_per_example)).reshape(-1)
        steps, lengths = _entries_of_rows(self.offsets, grid_rows)
        mask = self._mask(steps, lengths)
        index = Index.from_mask(mask.reshape(len(examples), *self.inner_shape, mask.shape[1]), self.mask_source)
        if self.kind == "list" and self.positions is None and not self.inner_shape:
            index.given_lengths = lengths
        gap_values = None
        if self.gap_values is not None and self.gap_offsets is not None:
            gaps, _ = _entries_of_rows(self.gap_offsets, grid_rows)
            gap_values = _as_float_default(_select(self.gap_values, gaps))
        return Packed(_as_float_default(_select(self.values, steps)), index, gap_values)

    def copy(self) -> RaggedColumn:
        """Return the column in new memory. Offsets and positions are never written to."""
        gap_values = None if self.gap_values is None else self.gap_values.clone()
        return replace(self, values=self.values.clone(), gap_values=gap_values)

    def as_sequences(self) -> Column:
        """Return the column itself. Examples that came as lists are then answered with lists."""
        return self if self.sequence_source is None else replace(self, kind="list")

    def with_width_of(self, padded_columns: list[DenseColumn]) -> RaggedColumn:
        """Return the column with batches as wide as the padded targets or weights that its sequences fit in.

        Steps of the column and of these arrays are then in the same cells. Without such arrays nothing changes.
        """
        if self.positions is not None or self.inner_shape:
            return self
        longest = int(np.diff(self.offsets).max(initial=0))
        widths = [column.source.shape[1] for column in padded_columns]
        return replace(self, width=min((width for width in widths if width >= longest), default=0))

    def _mask(self, steps: Rows, lengths: Ints) -> NDArray[np.bool_]:
        """Return the boolean grid `(rows, width)` of rows with these steps and lengths."""
        if self.positions is None:
            width = max(self.width, int(lengths.max(initial=0)))
            return np.arange(width) < lengths[:, None]
        mask = np.zeros((len(lengths), self.width), dtype=bool)
        mask[np.repeat(np.arange(len(lengths)), lengths), self.positions[steps]] = True
        return mask


Column: TypeAlias = DenseColumn | RaggedColumn


def read_all(column: Column) -> Tensor | Packed:
    """Return all rows of a column."""
    return column.read(slice(0, len(column)))


def tensor_from_numpy(array: NDArray[np.generic]) -> Tensor:
    """Return an array as a tensor, a view where torch allows one.

    Floats become torch's default dtype (float64, else float32), unsigned integers int64. Other integers and booleans stay.
    """
    if array.dtype.kind == "f":
        default_float = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
        if array.dtype != default_float:
            with np.errstate(over="ignore"):  # infinity for large numbers, as torch
                array = array.astype(default_float)
    return tensor_of(array)


def _entries_of_rows(offsets: Ints, rows: Ints) -> tuple[Rows, Ints]:
    """Return which entries the rows hold, row after row, and the length of each row. Consecutive rows hold a slice."""
    lengths = offsets[rows + 1] - offsets[rows]
    if len(rows) and (np.diff(rows) == 1).all():
        return slice(int(offsets[rows[0]]), int(offsets[rows[-1] + 1])), lengths
    starts = np.cumsum(lengths) - lengths
    return np.repeat(offsets[rows] - starts, lengths) + np.arange(lengths.sum()), lengths


def _select(values: Tensor, rows: Rows) -> Tensor:
    return values[rows] if isinstance(rows, slice) else values.index_select(0, to_device(rows, values.device))


def _as_float_default(tensor: Tensor) -> Tensor:
    """Return a float64 tensor in torch's default dtype, any other tensor unchanged."""
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor
