"""Products of packed steps in half precision on the CPU.

There oneDNN makes machine code for every new shape, which takes ten times as long as the product, and every batch has its
own number of steps. So rows are filled up with zeros to one of a few numbers, at most a sixteenth more.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

HALVES = (torch.bfloat16, torch.float16)


def linear(
    x: Float[Tensor, "*rows features"], weight: Float[Tensor, "features units"], bias: Float[Tensor, " units"] | None
) -> Float[Tensor, "*rows units"]:
    """`x @ weight + bias`, in the dtype of autocast where that is on.

    >>> linear(torch.ones(3, 2), torch.ones(2, 1), None).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    many = x.device.type == "cpu" and dtype_of(x) in HALVES and x.numel() and not torch.compiler.is_compiling()
    if not many:  # a compiler makes code of its own
        return functional.linear(x, weight.t(), bias)
    rows = x.reshape(-1, x.shape[-1])
    return functional.linear(pad_rows_to_bucket(rows, x.dtype), weight.t(), bias)[: len(rows)].view(
        *x.shape[:-1], weight.shape[1]
    )


def dtype_of(x: Tensor) -> torch.dtype:
    """The dtype that it is computed in: autocast's, where it is on."""
    device = x.device.type
    if x.dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def pad_rows_to_bucket(x: Float[Tensor, "rows features"], dtype: torch.dtype) -> Float[Tensor, "more features"]:
    """The rows in a dtype and behind them rows of zeros, to a multiple of a sixteenth of the power of two below."""
    unit = max(1 << len(x).bit_length() >> 5, 1)
    if x.dtype == dtype:
        return functional.pad(x, (0, 0, 0, -len(x) % unit))
    more = x.new_empty((len(x) + -len(x) % unit, x.shape[1]), dtype=dtype)
    more[len(x) :] = 0
    more[: len(x)] = x
    return more
