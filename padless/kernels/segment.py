"""A whole sequence, summarised: numbers of one row for each sequence. Over nothing the result is 0."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from padless.ragged.index import Index
from padless.ragged.moves import take_or_zero


def total(values: Float[Tensor, "steps *features"], index: Index) -> Float[Tensor, "rows *features"]:
    """The sum over each sequence."""
    empty = values.new_zeros((index.shape[0], *values.shape[1:]))
    return empty.index_add(0, index.at("rows", values.device), values)


def mean(values: Float[Tensor, "steps *features"], index: Index) -> Float[Tensor, "rows *features"]:
    """The mean over each sequence."""
    count = index.at("lengths", values.device).clamp(min=1).to(values.dtype)
    return total(values, index) / count.reshape(-1, *(1,) * (values.ndim - 1))


def last(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """The last step of each sequence."""
    offsets, lengths = index.at("offsets", values.device), index.at("lengths", values.device)
    return take_or_zero(values, torch.where(lengths > 0, offsets[1:] - 1, -1))


def first(values: Shaped[Tensor, "steps *features"], index: Index) -> Shaped[Tensor, "rows *features"]:
    """The first step of each sequence."""
    offsets, lengths = index.at("offsets", values.device), index.at("lengths", values.device)
    return take_or_zero(values, torch.where(lengths > 0, offsets[:-1], -1))
