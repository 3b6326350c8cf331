"""Align several packed inputs on the union of their steps: every step that at least one input has."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from padless.ragged.device import to_device
from padless.ragged.index import Index, Ints
from padless.ragged.mask import step_numbers_in


def scatter_to_union(
    values: Shaped[Tensor, "n *features"], index: Index, union: Index, missing: float
) -> Shaped[Tensor, "m *features"]:
    """Return the values on the steps of `union`, `missing` where `index` does not have the step."""
    if index.equals(union):
        return values
    positions = to_device(union.step_of_cell[index.flat], values.device)
    return values.new_full((union.num_steps, *values.shape[1:]), missing).index_copy(0, positions, values)


def steps_present(index: Index, union: Index, device: torch.device) -> Bool[Tensor, " m"]:
    """Return for each step of `union` whether `index` has it."""
    return to_device(step_numbers_in(union, index) >= 0, device)


def concatenate_indexes(indexes: Sequence[Index], axis: int) -> tuple[Index, Ints]:
    """Concatenate grids along one of their step axes.

    Args:
        indexes: The indexes of the grids.
        axis: The axis of the grid, counted from 0.

    Returns:
        The index of the concatenated grid, and for each of its steps the position of that step among the packed
        values of all inputs, one input after another.
    """
    starts = np.cumsum([0, *(index.num_steps for index in indexes)])
    positions = [
        np.where(index.step_of_cell < 0, -1, index.step_of_cell + start).reshape(index.grid)
        for index, start in zip(indexes, starts, strict=False)
    ]
    grid = np.concatenate(positions, axis=axis)
    sources = " and ".join(dict.fromkeys(index.mask_source for index in indexes))
    columns_agree = all(index.columns_agree for index in indexes)
    # A new name: the steps are not those of one input.
    union = Index.from_mask(grid >= 0, f"{sources}, concatenated", columns_agree)
    return union, grid.reshape(-1)[union.flat]
