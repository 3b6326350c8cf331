"""Several packed inputs on the steps that any of them has; one that lacks a step is nothing there."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from padless.ragged.index import Index
from padless.ragged.mask import within


def spread(values: Shaped[Tensor, "n *features"], own: Index, whole: Index, missing: float) -> Shaped[
    Tensor, "m *features"
]:
    """The values on the steps of `whole`, `missing` where `own` lacks one."""
    if own.equals(whole):
        return values
    places = torch.from_numpy(whole.rank[own.flat]).to(values.device)
    return values.new_full((whole.steps, *values.shape[1:]), missing).index_copy(0, places, values)


def present(own: Index, whole: Index, device: torch.device) -> Bool[Tensor, " m"]:
    """For each step of `whole` whether `own` has it."""
    return torch.from_numpy(within(whole, own) >= 0).to(device)


def in_time(indexes: Sequence[Index]) -> tuple[Index, np.ndarray]:
    """The index of grids set side by side in time, and for each of its steps its place among all values in turn."""
    starts = np.cumsum([0, *(index.steps for index in indexes)])
    ranks = [np.where(index.rank < 0, -1, index.rank + start).reshape(index.shape)
             for index, start in zip(indexes, starts, strict=False)]
    side_by_side = np.concatenate(ranks, axis=1)
    whole = Index(side_by_side >= 0, born=" and ".join(dict.fromkeys(index.born for index in indexes)))
    return whole, side_by_side.reshape(-1)[whole.flat]
