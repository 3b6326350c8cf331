"""Combine a `Packed` with plain tensors: broadcast a tensor against the grid and gather it at the real steps.

A plain operand always broadcasts against the grid `(B, T, ...)`, never against the values `(N, ...)`. One of the shape
of the grid is read by columns. One with an axis of time and without a batch, such as `torch.arange(T)`, is read by steps.
Its first entry belongs to the first real step of each sequence, whatever the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from padless.errors import MaskError, ShapeError
from padless.ragged.call_context import current_call
from padless.ragged.device import to_device
from padless.ragged.index import Index
from padless.ragged.inference_mode import in_shape_inference
from padless.ragged.mask import check_columns
from padless.ragged.packed import Packed


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
        MaskError: if it would be read by columns, and a slice of time has moved steps to other columns. Also for an
            operand `(1, T, ...)` and a batch of one, where the two readings differ.
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
    if all(size == 1 for size in step_shape):
        return operand.reshape(1, *shape[num_step_axes:])
    return align_step_axes(packed, operand.reshape(shape), has_batch_axis=operand.ndim == ndim)


def align_step_axes(packed: Packed, operand: Tensor, has_batch_axis: bool) -> AlignedOperand:
    """Gather an operand at the real steps.

    Args:
        packed: the other operand.
        operand: begins with the step axes of the grid, each of the size of the grid or 1.
        has_batch_axis: whether the user gave an axis for the batch, maybe of size 1.

    Raises:
        ShapeError: if the step axes have other sizes.
        MaskError: see `align`.
    """
    index, shape = packed.index, tuple(operand.shape)
    step_shape = shape[: packed.num_step_axes]
    if any(size not in (1, grid_size) for size, grid_size in zip(step_shape, index.grid, strict=True)):
        raise ShapeError(f"An operand with the step axes {step_shape} does not fit the grid {tuple(packed.shape)}.")
    coordinates = index.coordinates(operand.device)
    if not current_call().may_use_grid:
        for axis, size in enumerate(step_shape[1:], start=1):
            if size == 1:
                continue
            if _is_read_by_steps(packed, axis, shape, has_batch_axis):
                steps = to_device(index.span_coordinates[axis], operand.device)
                coordinates = (*coordinates[:axis], steps, *coordinates[axis + 1 :])
            else:
                check_columns(index, shape, "An operand")
    values = _gather_cells(operand, coordinates)
    return AlignedOperand(values, operand_gap_values(packed, operand))


def at_columns(operand: Tensor, like: Packed | Index) -> Tensor | Packed:
    """Return an operand as it is combined with a grid column by column, for layers whose operands belong to columns.

    Args:
        operand: broadcasts against the grid.
        like: the real steps.

    Raises:
        MaskError: if a slice of time has moved steps to other columns.
    """
    index = like.index if isinstance(like, Packed) else like
    ndim = like.ndim if isinstance(like, Packed) else operand.ndim
    shape = (1,) * (ndim - operand.ndim) + tuple(operand.shape)
    step_shape = shape[: len(index.grid)]
    fits = all(size in (1, grid_size) for size, grid_size in zip(step_shape, index.grid, strict=True))
    if not fits or all(size == 1 for size in step_shape[1:]):
        return operand
    check_columns(index, shape, "An operand")
    return Packed(_gather_cells(operand.reshape(shape), index.coordinates(operand.device)), index)


def _is_read_by_steps(packed: Packed, axis: int, shape: Sequence[int], has_batch_axis: bool) -> bool:
    """Return whether an operand is the same for all sequences, so that an axis of time counts steps and not columns.

    Args:
        packed: the other operand.
        axis: the axis of time.
        shape: the shape of the operand, which begins with the step axes.
        has_batch_axis: whether the operand has an axis for the batch, maybe of size 1.

    Raises:
        MaskError: if the shape does not say which one, and the readings differ.
    """
    grid = packed.index.grid
    if any(size < grid_size for size, grid_size in zip(shape[:axis], grid[:axis], strict=True)):
        return True
    if 1 not in shape[:axis]:
        return False
    if not has_batch_axis:
        return True
    columns, steps = packed.index.coordinates(torch.device("cpu"))[axis].numpy(), packed.index.span_coordinates[axis]
    if not np.array_equal(columns, steps) and not in_shape_inference():
        raise MaskError(
            f"An operand of shape {tuple(shape)} on a batch of one with padding on the left, {packed!r}: the shape "
            f"does not say whether its entries belong to columns or to the steps of a sequence. For steps leave out the "
            f"first axis, as in `x + positions`. For columns give padless.pack(operand, like=x)."
        )
    return False


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
