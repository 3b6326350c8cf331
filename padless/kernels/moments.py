"""Compute means and variances, over all real steps or over each sequence.

Variances are biased, as in Keras. The moments of no steps are 0.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from padless.kernels.segment_reduce import segment_sum
from padless.ragged.index import Index

COUNT_EPSILON = 1e-7  # Keras adds this to the number of real steps


def batch_moments(
    x: Float[Tensor, "*grid"], axis: int, count_epsilon: float = 0.0
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Return mean and variance for each position on an axis, over all other axes.

    Args:
        x: The values.
        axis: The axis that is kept.
        count_epsilon: Added to the number of values, as Keras does where a mask is given.
    """
    others = [k for k in range(x.ndim) if k != axis % x.ndim]
    count = max(math.prod(x.shape[k] for k in others) + count_epsilon, COUNT_EPSILON)
    mean = x.sum(others, keepdim=True) / count
    variance = (x - mean).square().sum(others) / count
    return mean.reshape(-1), variance


def moments_of_rows(
    x: Float[Tensor, "rows groups numbers"],
) -> tuple[Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]]:
    """Return mean and variance of each group of numbers in each row."""
    count = max(x.shape[2], 1)
    mean = x.sum(2) / count
    return mean, (x - mean[:, :, None]).square().sum(2) / count


def moments_of_sequences(
    x: Float[Tensor, "steps groups numbers"], index: Index
) -> tuple[Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]]:
    """Return mean and variance of each group of numbers over all steps of each sequence."""
    count = index.tensor("lengths", x.device).clamp(min=1).to(x.dtype)[:, None] * max(x.shape[2], 1)
    mean = segment_sum(x.sum(2), index) / count
    deviation = x - mean.index_select(0, index.tensor("rows", x.device))[:, :, None]
    return mean, segment_sum(deviation.square().sum(2), index) / count


def batch_normalize(
    x: Float[Tensor, "steps *features"],
    gamma: Float[Tensor, " c"] | None,
    beta: Float[Tensor, " c"] | None,
    epsilon: float,
) -> tuple[Float[Tensor, "steps *features"], Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Normalize by the moments of the last axis, scale by `gamma` and shift by `beta`.

    This is torch's own kernel, three times as fast as `batch_moments` and the arithmetic after it. Its number of real
    steps does not include `COUNT_EPSILON`, which float32 cannot resolve.

    Returns:
        The normalized values, and the mean and the biased variance without gradients.
    """
    flat = x.reshape(-1, x.shape[-1])
    count = len(flat)
    mean, variance = x.new_zeros(x.shape[-1:], dtype=torch.float32), x.new_zeros(x.shape[-1:], dtype=torch.float32)
    y = torch.batch_norm(flat, gamma, beta, mean, variance, True, 1.0, epsilon, False)
    variance = variance * ((count - 1) / count) if count > 1 else torch.zeros_like(variance)
    return y.reshape(x.shape), mean, variance
