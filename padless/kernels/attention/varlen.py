"""Attention of `attend.py` by torch's `varlen_attn`: one call over the packed steps, for half precision on CUDA.

A sequence is where its steps stand: the kernel is told where each begins and ends, and no cell is wasted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from padless.kernels.half_precision import HALVES
from padless.ragged.index import Index

LARGEST = 192  # of a head; beyond it some devices have no backward


@cache
def function() -> Callable[..., Any] | None:
    """Torch's function, None where this torch has none that takes a scale; its import takes two seconds, so it waits."""
    try:
        found = import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:
        return None
    return found if {"scale", "window_size"} <= set(inspect.signature(found).parameters) else None


def there(device: torch.device) -> bool:
    """Whether this device computes it. `torch.backends.cuda.enable_flash_sdp(False)` turns it off, as for torch's own."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.backends.cuda.flash_sdp_enabled()
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and function() is not None
    )


def supports(query: Tensor, key: Tensor, value: Tensor, queries: Index, keys: Index, causal: bool) -> bool:
    """Whether it can be asked for this.

    Causal means by numbers there, from the last step backwards; so both sides must be the same steps. Of a row either
    both sides have steps or none has.
    """
    size = query.shape[2]
    return (
        query.dtype in HALVES
        and key.dtype == value.dtype == query.dtype
        and value.shape[2] == key.shape[2] == size
        and size % 8 == 0
        and 0 < size <= LARGEST
        and there(query.device)
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
    """The sums of values; every query sees all keys of its row, or with `causal` those up to its own."""
    device, run = query.device, function()
    if run is None:
        raise RuntimeError("This torch has no varlen_attn; `takes` asks for it first.")
    return run(
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
