"""Outputs of batches put together again, in the container that their input came in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.training.columns import Kind


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
    return _stacked([_array(part.unpack() if isinstance(part, Packed) else part) for part in outputs])


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _stacked(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Arrays one below the other, those that are narrower on some axis padded on its right."""
    widest = tuple(max(sizes) for sizes in zip(*(a.shape[1:] for a in arrays), strict=True))
    return np.concatenate([
        a if a.shape[1:] == widest
        else np.pad(a, [(0, 0), *((0, w - n) for w, n in zip(widest, a.shape[1:], strict=True))])
        for a in arrays
    ])  # fmt: skip


def _concatenated(parts: list[Packed]) -> Packed:
    """Rows below rows; the fill stays where all grids are equally wide, since a wider grid has more gaps."""
    index = Index.from_mask(_stacked([part.index.mask for part in parts]), parts[0].index.born)
    values = torch.cat([part.values.detach().cpu() for part in parts])
    fills = [part.fill.detach().cpu() for part in parts if part.fill is not None]
    same = len(fills) == len(parts) and len({part.index.grid[1:] for part in parts}) == 1
    return Packed(values, index, torch.cat(fills) if same else None)
