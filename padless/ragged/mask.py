"""Check boolean grids, and combine the indexes of several masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from padless.errors import MaskError
from padless.ragged import device
from padless.ragged.index import Index, Ints
from padless.ragged.inference_mode import in_shape_inference
from padless.ragged.masked_array import refuse_masked_array

_REARRANGED = ", rearranged"


def as_mask(mask: object, grid: tuple[int, ...] | None = None, argument: str = "mask") -> NDArray[np.bool_]:
    """Return a mask as a boolean array on the host.

    Args:
        mask: an array, tensor or nested list of booleans, or of integers or floats that are 0 or 1.
        grid: the shape of the data. The mask must have the shape of the leading axes.
        argument: the name of the argument that holds the mask, for error messages.

    Raises:
        MaskError: if the mask has other values, fewer than two axes, or a shape that does not fit `grid`.

    Example:
        >>> as_mask([[1, 0]]).tolist()
        [[True, False]]
    """
    array = _as_booleans(mask, argument)
    if array.ndim < 2:
        raise MaskError(
            f"`{argument}` has shape {array.shape}; expected (batch, steps), one entry for each step of each sequence."
        )
    if grid is not None and array.shape != tuple(grid[: array.ndim]):
        num_axes = max(2, min(array.ndim, len(grid)))
        raise MaskError(
            f"`{argument}` of shape {array.shape} does not fit data of shape {tuple(grid)}: expected "
            f"{tuple(grid[:num_axes])}, one entry for each step of each sequence."
        )
    return array


def _as_booleans(mask: object, argument: str) -> NDArray[np.bool_]:
    """Return a mask of any container as a boolean array, without a check of its shape."""
    if isinstance(mask, torch.Tensor):
        on_host = device.to_host(mask)
        mask = (on_host.float() if on_host.dtype == torch.bfloat16 else on_host).numpy()
    refuse_masked_array(f"`{argument}`", mask)
    try:
        array = np.asarray(mask)
    except ValueError as unequal_lengths:
        raise MaskError(
            f"`{argument}` must be a rectangular array of booleans; got nested lists of unequal length. "
            f"For sequences without padding give the lists themselves as data, and no mask."
        ) from unequal_lengths
    if array.dtype == bool:
        return array
    is_number = array.dtype.kind in "iuf"
    invalid = array[~np.isin(array, (0, 1))] if is_number else array
    if not is_number or invalid.size:
        example = (
            f" with {invalid.flat[0].item()!r} in it" if invalid.size and isinstance(invalid.flat[0], np.generic) else ""
        )
        raise MaskError(
            f"`{argument}` must hold booleans, or 0 and 1; got {array.dtype}{example}. "
            f"Compare first, for example `ids != 0`."
        )
    return array.astype(bool)


def intersect_with_mask(index: Index, mask: NDArray[np.bool_], mask_source: str) -> Index:
    """Return the steps of `index` that `mask` marks, too; `index` itself if that is all of them."""
    both = index.mask & mask
    return index if both.sum() == index.num_steps else _narrow(index, both, mask_source)


def _narrow(index: Index, mask: NDArray[np.bool_], mask_source: str) -> Index:
    """Return the index of some steps of the same sequences."""
    narrowed = Index.from_mask(mask, mask_source, index.columns_agree)
    narrowed.given_lengths = index.given_lengths
    return narrowed


def union(first: Index, second: Index) -> Index:
    """Return the steps that are in either index; `first` itself if the two are equal."""
    if first.equals(second):
        return first
    mask_source = f"{first.mask_source} and {second.mask_source}"
    return Index.from_mask(first.mask | second.mask, mask_source, first.columns_agree and second.columns_agree)


def intersection(first: Index, second: Index) -> Index:
    """Return the steps that are in both indexes; `first` itself if that is all of its steps."""
    both = intersect_with_mask(first, second.mask, f"{first.mask_source} and {second.mask_source}")
    if both.columns_agree and not second.columns_agree:
        return Index.from_mask(both.mask, both.mask_source, columns_agree=False)
    return both


def step_numbers_in(part: Index, whole: Index) -> Ints:
    """Return for each step of `part` its number among the steps of `whole`; -1 where `whole` does not have it."""
    return whole.step_of_cell[part.flat]


def check_columns(index: Index, shape: Sequence[int], argument: str) -> None:
    """Refuse a plain array that is read by columns where a slice of time has moved steps to other columns.

    Args:
        index: the steps at which the array is read.
        shape: the shape of the array, for the message.
        argument: what the array is, for the message.

    Raises:
        MaskError: if columns and steps differ.
    """
    if not index.columns_agree and not in_shape_inference():
        raise MaskError(
            f"{argument} of shape {tuple(shape)} is a plain array, which is cut by columns. A slice of time acts on the "
            f"steps of each sequence, and here columns and steps differ (mask created by {index.mask_source}). Pack "
            f"the whole array first, and slice the Packed: padless.pack(array, mask)[:, 1:], with the same mask."
        )


def rearrange_index(index: Index, cells: Ints, columns_agree: bool = True) -> tuple[Index, Ints, Ints]:
    """Rearrange the cells of a grid, as a slice or a flip does.

    Args:
        index: the index of the old grid.
        cells: for each cell of the new grid, in its shape, the flat cell of the old grid.
        columns_agree: whether the same cells of a plain tensor are at the same columns.

    Returns:
        The new index. Then for each of its steps the number of the old step. Then for each of its masked cells the
        number of the old cell among the masked cells.
    """
    old_steps = index.step_of_cell[cells]
    mask_source = index.mask_source.removesuffix(_REARRANGED) + _REARRANGED
    new_index = Index.from_mask(old_steps >= 0, mask_source, index.columns_agree and columns_agree)
    masked_number = np.full(len(index.step_of_cell), -1, dtype=np.int64)
    masked_number[index.masked_cells] = np.arange(len(index.masked_cells))
    return (
        new_index,
        old_steps.reshape(-1)[new_index.flat],
        masked_number[cells.reshape(-1)[new_index.masked_cells]],
    )
