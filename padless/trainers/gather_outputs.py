"""Outputs of batches put together again, in the container that their input came in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from padless.data.columns import Kind
from padless.ragged.index import Index
from padless.ragged.packed import Packed


def gather_outputs(outputs: Sequence[Tensor | Packed], kind: Kind | Literal["dense"] = "dense") -> Any:
    """The batches of one output as one: for a Packed by the kind of its container, else a dense array.

    "grid" (and "dense") is the padded array with what the fill shows, "list" a list of arrays `(length, ...)`, "packed"
    a Packed on the CPU. Where batches differ in width, all are as wide as the widest, with zeros on the right.

    >>> parts = [Packed.from_sequences([[1, 2, 3]]), Packed.from_sequences([[4], [5, 6]])]
    >>> gather_outputs(parts, "grid").tolist()
    [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    """
    packed = [part for part in outputs if isinstance(part, Packed)]
    if packed and kind == "list":
        return [_array(row) for part in outputs for row in (part.sequences() if isinstance(part, Packed) else part)]
    if packed and kind == "packed":
        return _concatenated(packed)
    return _stacked(outputs).numpy()


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


@torch.no_grad()
def _stacked(parts: Sequence[Tensor | Packed]) -> Tensor:
    """Batches one below the other, those that are narrower on some axis with zeros on its right; numpy has no bfloat16."""
    widest = tuple(max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True))
    dtype = reduce(torch.promote_types, (torch.float32 if part.dtype == torch.bfloat16 else part.dtype for part in parts))
    even = all(part.shape[1:] == widest for part in parts)
    whole = (torch.empty if even else torch.zeros)(sum(part.shape[0] for part in parts), *widest, dtype=dtype)
    for part, rows in zip(parts, whole.split([part.shape[0] for part in parts]), strict=True):
        place = rows[(slice(None), *map(slice, part.shape[1:]))]
        if isinstance(part, Packed) and even and part.device.type == "cpu" and part.dtype == dtype:
            part.unpack_into(place)
        else:
            place.copy_(part.unpack() if isinstance(part, Packed) else part)
    return whole


def _concatenated(parts: list[Packed]) -> Packed:
    """Rows below rows; the fill stays where all grids are equally wide, since a wider grid has more gaps."""
    index = Index.from_mask(
        _stacked([torch.from_numpy(part.index.mask) for part in parts]).numpy(), parts[0].index.mask_source
    )
    values = torch.cat([part.values.detach().cpu() for part in parts])
    fills = [part.gap_values.detach().cpu() for part in parts if part.gap_values is not None]
    same = len(fills) == len(parts) and len({part.index.grid[1:] for part in parts}) == 1
    return Packed(values, index, torch.cat(fills) if same else None)
