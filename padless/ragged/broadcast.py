"""Who calls a torch function on a Packed, and how the other operands meet its steps.

A plain operand broadcasts against the grid `(B, T, ...)` and is gathered, never taken as `(N, ...)`. What it is at
masked steps is told to the fill where one row per gap can say it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from padless.errors import ShapeError
from padless.ragged.index import Index
from padless.ragged.packed import Packed


@dataclass(frozen=True)
class CallContext:
    """Who is calling torch functions, and whether that layer may look at the grid."""

    layer: str = ""
    may_use_grid: bool = False


_nobody = CallContext()
_scope: ContextVar[CallContext] = ContextVar("scope", default=_nobody)


@contextmanager
def call_context(layer: str, may_use_grid: bool) -> Iterator[None]:
    """While this lasts, torch functions on a Packed are called by `layer`; with `grid` they may mix steps."""
    token = _scope.set(CallContext(layer, may_use_grid))
    try:
        yield
    finally:
        _scope.reset(token)


class NotElementwise(Exception):
    """Within this room: the function would mix steps. Carries what is special about it, if anything."""


@dataclass
class AlignedOperand:
    """A plain operand brought to the steps: how it meets the values, and how the fill (None: it cannot)."""

    values: Tensor
    gap_values: Tensor | None


def current_call() -> CallContext:
    """Who is calling now."""
    return _scope.get()


def align(packed: Packed, operand: Tensor) -> Tensor | AlignedOperand:
    """A plain operand as it meets the values of `packed` when both are thought of on the grid."""
    rank, lead = packed.ndim, packed.num_step_axes
    if operand.ndim <= rank - lead:
        return operand
    if operand.ndim > rank:
        raise NotElementwise(f"The other operand has {operand.ndim} axes, more than the {rank} of the grid.")
    shape = (1,) * (rank - operand.ndim) + tuple(operand.shape)
    leading, grid = shape[:lead], packed.index.grid
    if any(size not in (1, full) for size, full in zip(leading, grid, strict=True)):
        if _scope.get().may_use_grid:
            raise NotElementwise
        raise ShapeError(
            f"An operand of shape {tuple(operand.shape)} does not broadcast against the grid "
            f"{tuple(packed.shape)}. Values per real step are combined as padless.pack(x, like=packed)."
        )
    operand = operand.reshape(shape)
    if all(size == 1 for size in leading):
        return operand.reshape(1, *shape[lead:])
    values = _gather_cells(operand, packed.index.coordinates(operand.device))
    return AlignedOperand(values, operand_gap_values(packed, operand))


def _gather_cells(operand: Tensor, places: tuple[Tensor, ...]) -> Tensor:
    """The rows of a grid at these places; an axis of size 1 stands for all."""
    sizes = operand.shape[: len(places)]
    return operand[tuple(p if size > 1 else torch.zeros_like(p) for p, size in zip(places, sizes, strict=True))]


def operand_gap_values(packed: Packed, operand: Tensor) -> Tensor | None:
    """What an operand is at masked steps: one row per gap, if it is one number per sequence, else 0 (None).

    A layer that looks at the grid sees all of it: a row per gap if that is enough, as for a mask, or one per cell.
    """
    index = packed.index
    if not _scope.get().may_use_grid:
        by_row = packed.gap_values is not None and packed.num_step_axes == 2 and operand.shape[1] == 1
        return operand[index.tensor("row_of_gap", operand.device), 0] if by_row else None
    cells = _gather_cells(operand, torch.unravel_index(index.tensor("masked_cells", operand.device), index.grid))
    firsts = _gather_cells(operand, torch.unravel_index(index.tensor("first_cell_of_gap", operand.device), index.grid))
    on_host = operand.device.type == "cpu"  # elsewhere the comparison would wait for the device
    same = on_host and torch.equal(cells, firsts.index_select(0, index.tensor("gap_of_cell", operand.device)))
    return firsts if same else cells


def gap_values_by_operand(index: Index, operands: list[Any]) -> dict[int, Tensor] | None:
    """What each operand shows at masked steps, as many rows for each; None if one cannot say.

    For a layer that looks at the grid all can: what is not known shows zeros, or needs a row for each masked cell.
    """
    if _scope.get().may_use_grid:
        found = {
            id(x): (x.values.new_zeros((index.num_gaps, *x.values.shape[1:])) if x.gap_values is None else x.gap_values)
            for x in operands
        }
    elif any(x.gap_values is None for x in operands):
        return None
    else:
        found = {id(x): x.gap_values for x in operands}
    if len({len(fill) for fill in found.values()}) == 1:
        return found
    spread = index.tensor("gap_of_cell", operands[0].values.device)
    return {
        key: fill if len(fill) == len(index.masked_cells) else fill.index_select(0, spread) for key, fill in found.items()
    }
