"""Several packed inputs on the steps that any of them has; one that lacks a step is nothing there."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from padless.ragged.device import to_device
from padless.ragged.index import Index
from padless.ragged.mask import step_numbers_in


def scatter_to_union(
    values: Shaped[Tensor, "n *features"], own: Index, whole: Index, missing: float
) -> Shaped[Tensor, "m *features"]:
    """The values on the steps of `whole`, `missing` where `own` lacks one."""
    if own.equals(whole):
        return values
    places = to_device(whole.step_of_cell[own.flat], values.device)
    return values.new_full((whole.num_steps, *values.shape[1:]), missing).index_copy(0, places, values)


def present(own: Index, whole: Index, device: torch.device) -> Bool[Tensor, " m"]:
    """For each step of `whole` whether `own` has it."""
    return to_device(step_numbers_in(whole, own) >= 0, device)


def side_by_side(indexes: Sequence[Index], axis: int) -> tuple[Index, np.ndarray]:
    """The index of grids joined along one of their axes, and for each of its steps its place among all values in turn."""
    starts = np.cumsum([0, *(index.num_steps for index in indexes)])
    ranks = [
        np.where(index.step_of_cell < 0, -1, index.step_of_cell + start).reshape(index.grid)
        for index, start in zip(indexes, starts, strict=False)
    ]
    joined = np.concatenate(ranks, axis=axis)
    whole = Index.from_mask(joined >= 0, " and ".join(dict.fromkeys(index.mask_source for index in indexes)))
    return whole, joined.reshape(-1)[whole.flat]
