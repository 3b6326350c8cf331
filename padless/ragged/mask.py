"""Boolean grids and what is done with them: checked at the border, united, narrowed, cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from padless.errors import MaskError
from padless.ragged.index import Index, Ints

copies_to_host = 0  # how often a mask that was born on a device had to be fetched; tests count it


def as_mask(mask: Any, grid: tuple[int, ...] | None = None, argument: str = "mask") -> NDArray[np.bool_]:
    """A mask of any container as a boolean array on the host, checked against the grid it should cover.

    Booleans, integers and floats of 0 and 1 are accepted. Raises `MaskError` for another rank or shape, or other values.

    >>> as_mask([[1, 0]]).tolist()
    [[True, False]]
    """
    global copies_to_host
    if isinstance(mask, torch.Tensor):
        copies_to_host += mask.device.type != "cpu"
        mask = mask.detach().cpu()
        mask = (mask.float() if mask.dtype == torch.bfloat16 else mask).numpy()
    try:
        array = np.asarray(mask)
    except ValueError as ragged:
        raise MaskError(
            f"`{argument}` must be a rectangular array of booleans; got nested lists of unequal length. "
            f"For sequences without padding give the lists themselves as data, and no mask."
        ) from ragged
    if array.dtype != bool:
        if array.dtype.kind not in "iuf" or not np.isin(array, (0, 1)).all():
            odd = array if array.dtype.kind not in "iuf" else array[~np.isin(array, (0, 1))]
            found = f" with {odd.flat[0].item()!r} in it" if odd.size and hasattr(odd.flat[0], "item") else ""
            raise MaskError(
                f"`{argument}` must hold booleans, or 0 and 1; got {array.dtype}{found}. "
                f"Compare first, for example `ids != 0`."
            )
        array = array.astype(bool)
    if array.ndim < 2:
        raise MaskError(
            f"`{argument}` must have shape (batch, steps); got {array.shape}. A mask says of each step of each "
            f"sequence whether it is real."
        )
    if grid is not None and array.shape != tuple(grid[: array.ndim]):
        raise MaskError(
            f"`{argument}` of shape {array.shape} does not fit data of shape {tuple(grid)}: expected "
            f"{tuple(grid[: max(2, min(array.ndim, len(grid)))])}, one entry for each step of each sequence."
        )
    return array


def intersect_with_mask(index: Index, mask: NDArray[np.bool_], mask_source: str) -> Index:
    """The steps of `index` that `mask` also marks; `index` itself if that is all of them."""
    both = index.mask & mask
    return index if both.sum() == index.num_steps else Index.from_mask(both, mask_source)


def union(first: Index, second: Index) -> Index:
    """The steps that either has; equal indexes are united into the first of them."""
    if first.equals(second):
        return first
    return Index.from_mask(first.mask | second.mask, f"{first.mask_source} and {second.mask_source}")


def intersection(first: Index, second: Index) -> Index:
    """The steps that both have; of equal indexes the first."""
    return intersect_with_mask(first, second.mask, f"{first.mask_source} and {second.mask_source}")


def step_numbers_in(part: Index, whole: Index) -> Ints:
    """For each step of `part` its number among the steps of `whole`, -1 where `whole` lacks it."""
    return whole.step_of_cell[part.flat]


def rearrange_index(index: Index, cells: Ints) -> tuple[Index, Ints, Ints]:
    """The index seen through `cells`, an array of flat grid cells: a slice, a flip, any rearrangement of the grid.

    Returns the new index, for each of its steps the old step, and for each of its masked cells the old one's number.
    """
    old = index.step_of_cell[cells]
    new = Index.from_mask(old >= 0, f"{index.mask_source}, rearranged")
    number = np.full(len(index.step_of_cell), -1, dtype=np.int64)
    number[index.masked_cells] = np.arange(len(index.masked_cells))
    return new, old.reshape(-1)[new.flat], number[cells.reshape(-1)[new.masked_cells]]
