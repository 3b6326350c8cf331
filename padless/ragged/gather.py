"""Gather and scatter rows of tensors, with a backward pass that does not accumulate.

The backward pass of torch's `index_select` adds into a buffer of zeros. Where each row is read at most once, a scatter
or another gather gives the same gradient in a third of the time. All functions here can be differentiated twice.
"""

from typing import cast

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from padless._torch_compat import FunctionContext


class _GatherRows(torch.autograd.Function):
    """Read distinct rows; `inverse` is the inverse permutation, if all rows are read."""

    @staticmethod
    def forward(ctx: FunctionContext, rows: Tensor, row_numbers: Tensor, inverse: Tensor | None) -> Tensor:
        ctx.save_for_backward(row_numbers, inverse)
        ctx.num_rows = rows.shape[0]
        return rows.index_select(0, row_numbers)

    @staticmethod
    def backward(ctx: FunctionContext, *grads: Tensor) -> tuple[Tensor, None, None]:
        row_numbers, inverse = ctx.saved_tensors
        if inverse is not None:
            return _GatherRows.apply(grads[0], inverse, row_numbers), None, None
        return _ScatterRows.apply(grads[0], row_numbers, ctx.num_rows), None, None


class _ScatterRows(torch.autograd.Function):
    """Write rows to distinct places in a tensor of zeros."""

    @staticmethod
    def forward(ctx: FunctionContext, rows: Tensor, row_numbers: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(row_numbers)
        return rows.new_zeros((num_rows, *rows.shape[1:])).index_copy_(0, row_numbers, rows)

    @staticmethod
    def backward(ctx: FunctionContext, *grads: Tensor) -> tuple[Tensor, None, None]:
        (row_numbers,) = ctx.saved_tensors
        return _GatherRows.apply(grads[0].contiguous(), row_numbers, None), None, None


class _GatherRepeatedRows(torch.autograd.Function):
    """Read rows more than once; only the copy at `first_copy` of each row has a gradient."""

    @staticmethod
    def forward(ctx: FunctionContext, rows: Tensor, source: Tensor, first_copy: Tensor) -> Tensor:
        ctx.save_for_backward(first_copy)
        return rows.index_select(0, source)

    @staticmethod
    def backward(ctx: FunctionContext, *grads: Tensor) -> tuple[Tensor, None, None]:
        (first_copy,) = ctx.saved_tensors
        return _GatherRows.apply(grads[0], first_copy, None), None, None


def _apply(function: type[torch.autograd.Function], *arguments: Tensor | int | None) -> Tensor:
    """Apply an autograd function that returns one tensor; torch declares no type for the result."""
    return cast(Tensor, function.apply(*arguments))


def gather_rows(rows: Shaped[Tensor, "n *rest"], row_numbers: Int[Tensor, " m"]) -> Shaped[Tensor, "m *rest"]:
    """Return `rows[row_numbers]`; the numbers must be distinct."""
    return _apply(_GatherRows, rows, row_numbers, None)


def permute_rows(
    rows: Shaped[Tensor, "n *rest"], order: Int[Tensor, " n"], inverse: Int[Tensor, " n"]
) -> Shaped[Tensor, "n *rest"]:
    """Return `rows[order]`, where `inverse` is the inverse of the permutation `order`."""
    return _apply(_GatherRows, rows, order, inverse)


def scatter_rows(
    rows: Shaped[Tensor, "m *rest"], row_numbers: Int[Tensor, " m"], num_rows: int
) -> Shaped[Tensor, "num_rows *rest"]:
    """Return `num_rows` rows of zeros with `rows` written at the distinct `row_numbers`: the inverse of `gather_rows`."""
    return _apply(_ScatterRows, rows, row_numbers, num_rows)


def gather_repeated_rows(
    rows: Shaped[Tensor, "n *rest"], source: Int[Tensor, " m"], first_copy: Int[Tensor, " n"]
) -> Shaped[Tensor, "m *rest"]:
    """Return `rows[source]`, where only one copy of each row is used.

    Row `i` gets the gradient of the copy at `first_copy[i]` alone. The caller must not use the other copies.
    """
    return _apply(_GatherRepeatedRows, rows, source, first_copy)


def gather_rows_or_zero(rows: Shaped[Tensor, "n *rest"], row_numbers: Int[Tensor, " m"]) -> Shaped[Tensor, "m *rest"]:
    """Return `rows[row_numbers]`, with zeros where the number is -1. Numbers may be repeated."""
    zero = rows.new_zeros((1,) * rows.ndim)
    if not len(rows):  # all numbers are -1, and no row can be read in their place
        return torch.cat([zero.expand(1, *rows.shape[1:]), rows]).index_select(0, row_numbers + 1)
    exists = (row_numbers >= 0).reshape(-1, *(1,) * (rows.ndim - 1))
    return torch.where(exists, rows.index_select(0, row_numbers.clamp(min=0)), zero)
