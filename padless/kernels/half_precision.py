"""Multiply packed steps in half precision on the CPU.

oneDNN compiles machine code for every new shape. That takes ten times as long as the product, and every batch has another
number of steps. So zero rows are added up to one of a few numbers of rows, at most a sixteenth more.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

HALF_DTYPES = (torch.bfloat16, torch.float16)


def linear(
    x: Float[Tensor, "*rows features"], weight: Float[Tensor, "features units"], bias: Float[Tensor, " units"] | None
) -> Float[Tensor, "*rows units"]:
    """Return `x @ weight + bias`, in the dtype of autocast where autocast is on.

    >>> linear(torch.ones(3, 2), torch.ones(2, 1), None).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    onednn = x.device.type == "cpu" and compute_dtype(x) in HALF_DTYPES
    if not onednn or not x.numel() or torch.compiler.is_compiling():  # a compiler generates its own product
        return functional.linear(x, weight.t(), bias)
    rows = x.reshape(-1, x.shape[-1])
    products = functional.linear(pad_rows_to_bucket(rows, x.dtype), weight.t(), bias)
    return products[: len(rows)].view(*x.shape[:-1], weight.shape[1])


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that `x` is computed in: that of autocast where autocast is on, else its own."""
    device = x.device.type
    if x.dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def pad_rows_to_bucket(x: Float[Tensor, "rows features"], dtype: torch.dtype) -> Float[Tensor, "bucket features"]:
    """Return the rows in a dtype, followed by zero rows.

    The number of rows becomes a multiple of a sixteenth of the largest power of two that is not greater.
    """
    unit = max(1 << len(x).bit_length() >> 5, 1)
    missing = -len(x) % unit
    if x.dtype == dtype:
        return functional.pad(x, (0, 0, 0, missing))
    padded = x.new_empty((len(x) + missing, x.shape[1]), dtype=dtype)
    padded[len(x) :] = 0
    padded[: len(x)] = x
    return padded
