"""Rows from one place to another, with the cheap backward.

Autograd's own backward of a gather adds into a zeroed buffer. Where every row is taken at most once, the backward is
itself a move, three times cheaper; and both moves are differentiable again.
"""

from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, chosen: Tensor, back: Tensor | None) -> Tensor:
        ctx.save_for_backward(chosen, back)
        ctx.n = rows.shape[0]
        return rows.index_select(0, chosen)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        chosen, back = ctx.saved_tensors
        if back is not None:
            return _GatherRows.apply(grads[0], back, chosen), None, None
        return _ScatterRows.apply(grads[0], chosen, ctx.n), None, None


class _ScatterRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, chosen: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(chosen)
        return rows.new_zeros((n, *rows.shape[1:])).index_copy_(0, chosen, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (chosen,) = ctx.saved_tensors
        return _GatherRows.apply(grads[0].contiguous(), chosen, None), None, None


class _GatherRepeatedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, source: Tensor, home: Tensor) -> Tensor:
        ctx.save_for_backward(home)
        return rows.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (home,) = ctx.saved_tensors
        return _GatherRows.apply(grads[0], home, None), None, None


def gather_rows(rows: Shaped[Tensor, "n *rest"], row_numbers: Int[Tensor, " m"]) -> Shaped[Tensor, "m *rest"]:
    """`rows[chosen]`, for distinct rows."""
    return _GatherRows.apply(rows, row_numbers, None)  # pyright: ignore[reportReturnType]


def permute_rows(
    rows: Shaped[Tensor, "n *rest"], order: Int[Tensor, " n"], inverse: Int[Tensor, " n"]
) -> Shaped[Tensor, "n *rest"]:
    """`rows[order]`, where `back` is the inverse of the permutation `order`."""
    return _GatherRows.apply(rows, order, inverse)  # pyright: ignore[reportReturnType]


def scatter_rows(
    rows: Shaped[Tensor, "m *rest"], row_numbers: Int[Tensor, " m"], num_rows: int
) -> Shaped[Tensor, "n *rest"]:
    """`n` rows of zeros with `rows` at the distinct places `chosen`; the inverse of `take`."""
    return _ScatterRows.apply(rows, row_numbers, num_rows)  # pyright: ignore[reportReturnType]


def gather_repeated_rows(
    rows: Shaped[Tensor, "n *rest"], source: Int[Tensor, " m"], first_copy: Int[Tensor, " n"]
) -> Shaped[Tensor, "m *rest"]:
    """`rows[source]`, where nobody looks at any copy of row i but that at `home[i]`: only this one has a gradient."""
    return _GatherRepeatedRows.apply(rows, source, first_copy)  # pyright: ignore[reportReturnType]


def gather_rows_or_zero(rows: Shaped[Tensor, "n *rest"], row_numbers: Int[Tensor, " m"]) -> Shaped[Tensor, "m *rest"]:
    """`rows[chosen]` with zeros where `chosen` is -1; rows may be taken more than once."""
    nothing = rows.new_zeros((1,) * rows.ndim)
    if not len(rows):  # there is none to stand in for what is missing
        return torch.cat([nothing.expand(1, *rows.shape[1:]), rows]).index_select(0, row_numbers + 1)
    there = (row_numbers >= 0).reshape(-1, *(1,) * (rows.ndim - 1))
    return torch.where(there, rows.index_select(0, row_numbers.clamp(min=0)), nothing)
