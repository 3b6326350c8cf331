"""Join the outputs of batches, in the kind of container that the input had."""

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


def gather_outputs(
    outputs: Sequence[Tensor | Packed], kind: Kind | Literal["dense"] = "dense"
) -> NDArray[Any] | list[NDArray[Any]] | Packed:
    """Return the batches of one output as one.

    Args:
        outputs: the output for each batch, `(batch, ...)` or `Packed`.
        kind: the container for outputs with a mask. "grid" and "dense" give the padded array with gap values, "list" a
            list of arrays `(length, ...)`, "packed" a `Packed` on the CPU.

    Returns:
        The output of all batches, in this container. Outputs without a mask become an array. If batches have different
        widths, narrower ones get zeros on the right.

    >>> parts = [Packed.from_sequences([[1, 2, 3]]), Packed.from_sequences([[4], [5, 6]])]
    >>> gather_outputs(parts, "grid").tolist()
    [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    """
    packed = [part for part in outputs if isinstance(part, Packed)]
    if packed and kind == "list":
        return [_to_array(row) for part in outputs for row in (part.sequences() if isinstance(part, Packed) else part)]
    if packed and kind == "packed":
        return _concatenate_packed(packed)
    return _concatenate_grids(outputs).numpy()


def _to_array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


@torch.no_grad()
def _concatenate_grids(parts: Sequence[Tensor | Packed]) -> Tensor:
    """Return the padded grids of all batches as one on the CPU; bfloat16 becomes float32, for NumPy."""
    sizes = tuple(max(axis_sizes) for axis_sizes in zip(*(part.shape[1:] for part in parts), strict=True))
    dtype = reduce(torch.promote_types, (torch.float32 if part.dtype == torch.bfloat16 else part.dtype for part in parts))
    same_sizes = all(part.shape[1:] == sizes for part in parts)
    allocate = torch.empty if same_sizes else torch.zeros
    result = allocate(sum(part.shape[0] for part in parts), *sizes, dtype=dtype)
    for part, rows in zip(parts, result.split([part.shape[0] for part in parts]), strict=True):
        target = rows[(slice(None), *map(slice, part.shape[1:]))]
        if isinstance(part, Packed) and same_sizes and part.device.type == "cpu" and part.dtype == dtype:
            part.unpack_into(target)
        else:
            target.copy_(part.unpack() if isinstance(part, Packed) else part)
    return result


def _concatenate_packed(parts: list[Packed]) -> Packed:
    """Return the sequences of all batches; gap values stay if all grids have one width, else there are more gaps."""
    masks = [torch.from_numpy(part.index.mask) for part in parts]
    index = Index.from_mask(_concatenate_grids(masks).numpy(), parts[0].index.mask_source)
    values = torch.cat([part.values.detach().cpu() for part in parts])
    gap_values = [part.gap_values.detach().cpu() for part in parts if part.gap_values is not None]
    keep_gap_values = len(gap_values) == len(parts) and len({part.index.grid[1:] for part in parts}) == 1
    return Packed(values, index, torch.cat(gap_values) if keep_gap_values else None)
