"""Several packed inputs on the steps that any of them has; one that lacks a step is nothing there."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from padless.ragged.device import send
from padless.ragged.index import Index
from padless.ragged.mask import within


def spread(values: Shaped[Tensor, "n *features"], own: Index, whole: Index, missing: float) -> Shaped[Tensor, "m *features"]:
    """The values on the steps of `whole`, `missing` where `own` lacks one."""
    if own.equals(whole):
        return values
    places = send(whole.rank[own.flat], values.device)
    return values.new_full((whole.steps, *values.shape[1:]), missing).index_copy(0, places, values)


def present(own: Index, whole: Index, device: torch.device) -> Bool[Tensor, " m"]:
    """For each step of `whole` whether `own` has it."""
    return send(within(whole, own) >= 0, device)


def side_by_side(indexes: Sequence[Index], axis: int) -> tuple[Index, np.ndarray]:
    """The index of grids joined along one of their axes, and for each of its steps its place among all values in turn."""
    starts = np.cumsum([0, *(index.steps for index in indexes)])
    ranks = [
        np.where(index.rank < 0, -1, index.rank + start).reshape(index.grid)
        for index, start in zip(indexes, starts, strict=False)
    ]
    joined = np.concatenate(ranks, axis=axis)
    whole = Index.from_mask(joined >= 0, " and ".join(dict.fromkeys(index.born for index in indexes)))
    return whole, joined.reshape(-1)[whole.flat]
