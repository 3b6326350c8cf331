"""Attend with torch's `varlen_attn`: one call over the packed steps, in half precision on CUDA.

The kernel is given where each sequence begins and ends, so no cell of padding is computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib import import_module

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from padless.kernels.half_precision import HALF_DTYPES
from padless.ragged.index import Index

LARGEST_HEAD = 192  # some devices have no backward for larger heads


@cache
def varlen_attn() -> Callable[..., Tensor] | None:
    """Return torch's function, or None where this torch has none with `scale` and `window_size`.

    It is imported on first use, because the import takes two seconds.
    """
    try:
        function = import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:
        return None
    return function if {"scale", "window_size"} <= set(inspect.signature(function).parameters) else None


def is_available(device: torch.device) -> bool:
    """Return whether a device runs it; `torch.backends.cuda.enable_flash_sdp(False)` turns it off, as for torch."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.backends.cuda.flash_sdp_enabled()
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and varlen_attn() is not None
    )


def supports(query: Tensor, key: Tensor, value: Tensor, queries: Index, keys: Index, causal: bool) -> bool:
    """Return whether `varlen_attn` computes this.

    Its causal mask aligns queries and keys at their last step, so both must be the same steps. A row must have both queries
    and keys, or none of them.
    """
    size = query.shape[2]
    return (
        query.dtype in HALF_DTYPES
        and key.dtype == value.dtype == query.dtype
        and value.shape[2] == key.shape[2] == size
        and size % 8 == 0
        and 0 < size <= LARGEST_HEAD
        and is_available(query.device)
        and bool(queries.num_steps)
        and (queries.equals(keys) if causal else np.array_equal(queries.lengths > 0, keys.lengths > 0))
    )


def attend(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys heads size"],
    value: Float[Tensor, "keys heads size"],
    queries: Index,
    keys: Index,
    causal: bool,
    scale: float,
) -> Float[Tensor, "queries heads size"]:
    """Return the weighted sums of values; a query sees all keys of its row, or with `causal` those up to its own step."""
    device, function = query.device, varlen_attn()
    if function is None:
        raise RuntimeError("This torch has no varlen_attn with scale and window_size; call `supports` first.")
    return function(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        queries.tensor("nonempty_offsets", device),
        keys.tensor("nonempty_offsets", device),
        int(queries.lengths.max()),
        int(keys.lengths.max()),
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
    )
