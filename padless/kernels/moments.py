"""Means and variances: over all steps together, or of each sequence. Biased, as Keras has them; over nothing 0."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from padless.kernels.segment_reduce import total
from padless.ragged.index import Index

TINY = 1e-7  # what Keras adds to the number of real steps


def moments(x: Float[Tensor, "*grid"], axis: int, tiny: float = 0.0) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and variance for each place on an axis, over all the others; `tiny` is added to how many there are."""
    others = [k for k in range(x.ndim) if k != axis % x.ndim]
    count = max(math.prod(x.shape[k] for k in others) + tiny, TINY)
    mean = x.sum(others, keepdim=True) / count
    variance = (x - mean).square().sum(others) / count
    return mean.reshape(-1), variance


def moments_of_rows(
    x: Float[Tensor, "rows groups numbers"],
) -> tuple[Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]]:
    """Mean and variance of each group of numbers."""
    count = max(x.shape[2], 1)
    mean = x.sum(2) / count
    return mean, (x - mean[:, :, None]).square().sum(2) / count


def moments_of_sequences(
    x: Float[Tensor, "steps groups numbers"], index: Index
) -> tuple[Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]]:
    """The same over the steps of each sequence."""
    count = index.tensor("lengths", x.device).clamp(min=1).to(x.dtype)[:, None] * max(x.shape[2], 1)
    mean = total(x.sum(2), index) / count
    apart = x - mean.index_select(0, index.tensor("rows", x.device))[:, :, None]
    return mean, total(apart.square().sum(2), index) / count


def normalized_together(
    x: Float[Tensor, "steps *features"],
    gamma: Float[Tensor, " c"] | None,
    beta: Float[Tensor, " c"] | None,
    epsilon: float,
) -> tuple[Float[Tensor, "steps *features"], Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Normalized by the moments of its last axis, scaled and shifted; and these moments, without gradients.

    torch's own kernel, three times as fast as `moments` and what follows it. The number of real steps stands in it
    without `TINY`, which single precision does not resolve.
    """
    flat = x.reshape(-1, x.shape[-1])
    count = len(flat)
    mean, variance = x.new_zeros(x.shape[-1:], dtype=torch.float32), x.new_zeros(x.shape[-1:], dtype=torch.float32)
    y = torch.batch_norm(flat, gamma, beta, mean, variance, True, 1.0, epsilon, False)
    variance = variance * ((count - 1) / count) if count > 1 else torch.zeros_like(variance)
    return y.reshape(x.shape), mean, variance
