"""A whole sequence, summarised: numbers of one row for each sequence. Over nothing the result is 0."""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from padless.ragged.gather import gather_rows_or_zero
from padless.ragged.index import Index


def total(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """The sum over each sequence."""
    wide = _wide(values)
    empty = wide.new_zeros((index.shape[0], *values.shape[1:]))
    return empty.index_add(0, index.tensor("rows", values.device), wide).to(values.dtype)


def mean(values: Float[Tensor, "steps *features"], index: Index) -> Float[Tensor, "rows *features"]:
    """The mean over each sequence."""
    wide = _wide(values)
    count = index.tensor("lengths", values.device).clamp(min=1).to(wide.dtype)
    return (total(wide, index) / _beside(count, wide)).to(values.dtype)


def largest_by_row(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """The reference of `largest`: one sequence after the other; equal largest numbers share the gradient, as in `amax`."""
    empty = values[:0].sum(0).to(values.dtype)  # 0, and the gradient of what is not there
    found = [part.amax(0) if len(part) else empty for part in values.split(index.lengths.tolist())]
    return torch.stack(found) if found else values.new_zeros((0, *values.shape[1:])) + empty


class _Largest(torch.autograd.Function):
    """Torch's own backward of `scatter_reduce` is ten times slower; that of `segment_reduce` is wrong for equal numbers."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, count: int) -> Tensor:
        places = _beside(rows, values).expand_as(values)
        found = values.new_zeros((count, *values.shape[1:])).scatter_reduce(0, places, values, "amax", include_self=False)
        ctx.save_for_backward(values, rows, found)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        values, rows, found = ctx.saved_tensors
        reached = values == found.index_select(0, rows)
        sharing = torch.zeros_like(grads[0]).index_add_(0, rows, reached.to(grads[0].dtype)).clamp(min=1)
        return torch.where(reached, (grads[0] / sharing).index_select(0, rows), 0), None, None


def largest(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """The largest number of each sequence."""
    return _Largest.apply(values, index.tensor("rows", values.device), index.shape[0])  # pyright: ignore[reportReturnType]


def softmax(values: Float[Tensor, "steps *features"], index: Index) -> Float[Tensor, "steps *features"]:
    """The softmax over the steps of each sequence."""
    rows = index.tensor("rows", values.device)
    wide = _wide(values)
    grown = (wide - largest(wide.detach(), index).index_select(0, rows)).exp()
    return (grown / total(grown, index).index_select(0, rows)).to(values.dtype)


def weighted(
    values: Float[Tensor, "steps size"], weights: Float[Tensor, "steps queries"], index: Index
) -> Float[Tensor, "rows queries size"]:
    """The sum over each sequence, for each column of weights; one column at a time, so that nothing large is kept."""
    return torch.stack([total(values * column[:, None], index) for column in weights.unbind(1)], 1)


def last(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """The last step of each sequence."""
    offsets, lengths = index.tensor("offsets", values.device), index.tensor("lengths", values.device)
    return gather_rows_or_zero(values, torch.where(lengths > 0, offsets[1:] - 1, -1))


def first(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """The first step of each sequence."""
    offsets, lengths = index.tensor("offsets", values.device), index.tensor("lengths", values.device)
    return gather_rows_or_zero(values, torch.where(lengths > 0, offsets[:-1], -1))


def _wide(values: Tensor) -> Tensor:
    """Half types as single precision, in which torch's own sums add up too."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _beside(by_row: Shaped[Tensor, " rows"], values: Tensor) -> Tensor:
    """One number for each row, shaped to meet values."""
    return by_row.reshape(-1, *(1,) * (values.ndim - 1))
