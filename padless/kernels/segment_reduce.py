"""Reduce the steps of each sequence: one row for each sequence of the batch, 0 for an empty one."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from padless._torch_compat import FunctionContext
from padless.ragged.gather import gather_rows_or_zero
from padless.ragged.index import Index


def segment_sum(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """Return the sum over the steps of each sequence."""
    wide = _at_least_float32(values)
    zeros = wide.new_zeros((index.shape[0], *values.shape[1:]))
    return zeros.index_add(0, index.tensor("rows", values.device), wide).to(values.dtype)


def segment_mean(values: Float[Tensor, "steps *features"], index: Index) -> Float[Tensor, "rows *features"]:
    """Return the mean over the steps of each sequence."""
    wide = _at_least_float32(values)
    count = index.tensor("lengths", values.device).clamp(min=1).to(wide.dtype)
    return (segment_sum(wide, index) / _with_feature_axes(count, wide)).to(values.dtype)


def segment_max_by_row(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """Return the maximum of each sequence, one sequence at a time: the reference of `segment_max`.

    Equal maxima share the gradient, as in `torch.amax`.
    """
    empty = values[:0].sum(0).to(values.dtype)  # 0, and gradients of zeros for a batch without a step
    maxima = [part.amax(0) if len(part) else empty for part in values.split(index.lengths.tolist())]
    return torch.stack(maxima) if maxima else values.new_zeros((0, *values.shape[1:])) + empty


class _SegmentMax(torch.autograd.Function):
    """Torch's backward of `scatter_reduce` is ten times slower; that of `segment_reduce` is wrong for equal maxima."""

    @staticmethod
    def forward(ctx: FunctionContext, values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        targets = _with_feature_axes(rows, values).expand_as(values)
        zeros = values.new_zeros((num_rows, *values.shape[1:]))
        maxima = zeros.scatter_reduce(0, targets, values, "amax", include_self=False)
        ctx.save_for_backward(values, rows, maxima)
        return maxima

    @staticmethod
    def backward(ctx: FunctionContext, *grads: Tensor) -> tuple[Tensor, None, None]:
        values, rows, maxima = ctx.saved_tensors
        is_maximum = values == maxima.index_select(0, rows)
        num_maxima = torch.zeros_like(grads[0]).index_add_(0, rows, is_maximum.to(grads[0].dtype)).clamp(min=1)
        return torch.where(is_maximum, (grads[0] / num_maxima).index_select(0, rows), 0), None, None


def segment_max(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """Return the maximum over the steps of each sequence; equal maxima share the gradient."""
    return _SegmentMax.apply(values, index.tensor("rows", values.device), index.shape[0])


def segment_softmax(values: Float[Tensor, "steps *features"], index: Index) -> Float[Tensor, "steps *features"]:
    """Return the softmax over the steps of each sequence."""
    rows = index.tensor("rows", values.device)
    wide = _at_least_float32(values)
    exponentials = (wide - segment_max(wide.detach(), index).index_select(0, rows)).exp()
    return (exponentials / segment_sum(exponentials, index).index_select(0, rows)).to(values.dtype)


def segment_weighted_sums(
    values: Float[Tensor, "steps size"], weights: Float[Tensor, "steps queries"], index: Index
) -> Float[Tensor, "rows queries size"]:
    """Return the weighted sum over each sequence for each column of weights.

    One column is computed at a time, so no `(steps, queries, size)` tensor is needed.
    """
    return torch.stack([segment_sum(values * column[:, None], index) for column in weights.unbind(1)], 1)


def segment_last(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """Return the last step of each sequence."""
    offsets, lengths = index.tensor("offsets", values.device), index.tensor("lengths", values.device)
    return gather_rows_or_zero(values, torch.where(lengths > 0, offsets[1:] - 1, -1))


def segment_first(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """Return the first step of each sequence."""
    offsets, lengths = index.tensor("offsets", values.device), index.tensor("lengths", values.device)
    return gather_rows_or_zero(values, torch.where(lengths > 0, offsets[:-1], -1))


def _at_least_float32(values: Tensor) -> Tensor:
    """Return half precision as float32, in which torch's own sums are accumulated too."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _with_feature_axes(numbers: Shaped[Tensor, " rows"], values: Tensor) -> Tensor:
    """Return one number for each row in a shape that broadcasts with `values`."""
    return numbers.reshape(-1, *(1,) * (values.ndim - 1))
