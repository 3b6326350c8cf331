"""Sum many numbers in an order that does not depend on the number of threads."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

ONE_THREAD = 32768  # torch sums fewer numbers in one thread
PART = 16384


def sum_in_fixed_order(x: Shaped[Tensor, "*axes"], dtype: torch.dtype | None = None) -> Shaped[Tensor, ""]:
    """Return the sum of all numbers: the same bits with any number of threads.

    Torch gives each of its threads a part of a long sum. Here the parts have a fixed size.

    Args:
        x: The numbers.
        dtype: The dtype of the sum, as in `torch.sum`.

    >>> sum_in_fixed_order(torch.ones(100_000))
    tensor(100000.)
    """
    if x.numel() < ONE_THREAD or x.device.type != "cpu":
        return x.sum(dtype=dtype)
    flat = x.reshape(-1)
    in_parts = len(flat) // PART * PART
    return torch.cat([flat[:in_parts].view(-1, PART).sum(1, dtype=dtype), flat[in_parts:].sum(0, True, dtype=dtype)]).sum()
