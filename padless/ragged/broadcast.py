"""Combine a `Packed` with plain tensors: broadcast a tensor against the grid and gather it at the real steps.

A plain operand always broadcasts against the grid `(B, T, ...)`, never against the values `(N, ...)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from padless.errors import ShapeError
from padless.ragged.index import Index
from padless.ragged.packed import Packed


@dataclass(frozen=True)
class CallContext:
    """The layer that is being called.

    Attributes:
        layer: its name; empty outside a layer.
        may_use_grid: whether a torch function that mixes steps acts on the padded grid in this call.
    """

    layer: str = ""
    may_use_grid: bool = False


_OUTSIDE_LAYERS = CallContext()
_context: ContextVar[CallContext] = ContextVar("call_context", default=_OUTSIDE_LAYERS)


@contextmanager
def call_context(layer: str, may_use_grid: bool) -> Iterator[None]:
    """Set the layer that calls torch functions in this context, and whether it may use the padded grid."""
    token = _context.set(CallContext(layer, may_use_grid))
    try:
        yield
    finally:
        _context.reset(token)


def current_call() -> CallContext:
    """Return the context of the layer that is being called."""
    return _context.get()


class NotElementwise(Exception):
    """Raised inside `padless.ragged` by a rule that refuses a torch function, because it would mix steps.

    The text, if any, is a part of the message of `MaskLost`.
    """


@dataclass
class AlignedOperand:
    """A plain operand, gathered at the steps of a `Packed`.

    Attributes:
        values: `(N, ...)`, the operand at the real steps.
        gap_values: the operand at masked steps, one row for each gap or each masked cell. None: not known.
    """

    values: Tensor
    gap_values: Tensor | None


Aligned: TypeAlias = Packed | AlignedOperand
"""An operand with one row for each real step."""


def align(packed: Packed, operand: Tensor) -> Tensor | AlignedOperand:
    """Broadcast a plain operand against the grid of a `Packed`, and gather it at the real steps.

    Returns:
        A tensor that broadcasts against `packed.values`, if the operand is the same at all steps. Else its rows.

    Raises:
        NotElementwise: if the operand has more axes than the grid.
        ShapeError: if the operand does not broadcast against the grid.
    """
    ndim, num_step_axes = packed.ndim, packed.num_step_axes
    if operand.ndim <= ndim - num_step_axes:
        return operand
    if operand.ndim > ndim:
        raise NotElementwise(f"The other operand has {operand.ndim} axes, more than the {ndim} of the grid.")
    shape = (1,) * (ndim - operand.ndim) + tuple(operand.shape)
    step_shape, grid = shape[:num_step_axes], packed.index.grid
    if any(size not in (1, grid_size) for size, grid_size in zip(step_shape, grid, strict=True)):
        if current_call().may_use_grid:
            raise NotElementwise
        raise ShapeError(
            f"An operand of shape {tuple(operand.shape)} does not broadcast against the grid "
            f"{tuple(packed.shape)}. To combine values of the real steps use padless.pack(x, like=packed)."
        )
    operand = operand.reshape(shape)
    if all(size == 1 for size in step_shape):
        return operand.reshape(1, *shape[num_step_axes:])
    values = _gather_cells(operand, packed.index.coordinates(operand.device))
    return AlignedOperand(values, operand_gap_values(packed, operand))


def _gather_cells(grid: Tensor, coordinates: Sequence[Tensor]) -> Tensor:
    """Read cells of a grid by their coordinates on the leading axes. An axis of size 1 is broadcast."""
    sizes = grid.shape[: len(coordinates)]
    return grid[tuple(axis if size > 1 else torch.zeros_like(axis) for axis, size in zip(coordinates, sizes, strict=True))]


def operand_gap_values(packed: Packed, operand: Tensor) -> Tensor | None:
    """Return what an operand of the shape of the grid is at masked steps; None if it is not known.

    In a layer that reads the grid there is one row for each gap if all cells of a gap are equal, as in a mask.
    If they differ, there is one row for each masked cell.
    Outside such a layer only an operand with one number for each sequence has gap values.
    """
    index, device = packed.index, operand.device
    if not current_call().may_use_grid:
        one_per_sequence = packed.num_step_axes == 2 and operand.shape[1] == 1
        if packed.gap_values is None or not one_per_sequence:
            return None
        return operand[index.tensor("row_of_gap", device), 0]
    cells = _gather_cells(operand, torch.unravel_index(index.tensor("masked_cells", device), index.grid))
    if device.type != "cpu":  # a comparison would wait for the device
        return cells
    first_cells = _gather_cells(operand, torch.unravel_index(index.tensor("first_cell_of_gap", device), index.grid))
    equal_in_gap = torch.equal(cells, first_cells.index_select(0, index.tensor("gap_of_cell", device)))
    return first_cells if equal_in_gap else cells


def gap_values_by_operand(index: Index, operands: Sequence[Aligned]) -> dict[int, Tensor] | None:
    """Return the gap values of each operand by its `id`, with the same number of rows for all.

    Returns:
        None if an operand has no gap values. In a layer that reads the grid such an operand is 0 at masked steps.
    """
    gap_values: dict[int, Tensor] = {}
    for operand in operands:
        if operand.gap_values is not None:
            gap_values[id(operand)] = operand.gap_values
        elif current_call().may_use_grid:
            gap_values[id(operand)] = operand.values.new_zeros((index.num_gaps, *operand.values.shape[1:]))
        else:
            return None
    if len({len(rows) for rows in gap_values.values()}) > 1:  # some have a row for each gap, others for each cell
        gap_of_cell = index.tensor("gap_of_cell", operands[0].values.device)
        for key, rows in gap_values.items():
            if len(rows) != len(index.masked_cells):
                gap_values[key] = rows.index_select(0, gap_of_cell)
    return gap_values
