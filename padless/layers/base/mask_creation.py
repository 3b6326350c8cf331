"""Create the mask of a layer from its input data."""

from __future__ import annotations

from typing import Any

from padless.errors import ShapeError
from padless.graph.symbolic import in_shape_inference
from padless.layers.base import mask_recorder as births
from padless.ragged.device import host_copy, to_device
from padless.ragged.gather import gather_rows
from padless.ragged.index import Index
from padless.ragged.mask import as_mask, intersect_with_mask
from padless.ragged.packed import NESTED_LISTS_ADVICE, Packed, gather_real_steps


def create_mask(inputs: Any, real: Any, who: str) -> tuple[Packed, bool]:
    """The inputs on the steps that are `real`, and whether the whole grid was there to see."""
    if not isinstance(inputs, Packed):
        if inputs.ndim < 2:
            raise ShapeError(
                f"{who} makes a mask of steps, so it needs data of shape (batch, steps, ...); got {tuple(inputs.shape)}."
            )
        index = Index.from_mask(as_mask(real(host_copy(inputs))), who)
        births.record_mask(index)
        return Packed(gather_real_steps(inputs, index), index), True
    found = real(host_copy(inputs.values))
    if found.ndim != 1:
        raise ShapeError(
            f"{who} would make a mask of each step's parts, on inputs {inputs!r} whose steps are masked "
            f"already. Make the finer mask first: it says which of the steps are real, too. {NESTED_LISTS_ADVICE}"
        )
    chosen = as_mask(found[:, None])[:, 0]
    whole = inputs.index
    if chosen.all():  # while a model is looked at, it shall show that the mask has passed here
        index = Index.from_mask(whole.mask, who) if in_shape_inference() else whole
        births.record_mask(index, narrowed=whole)
        return Packed(inputs.values, index, inputs.gap_values), False
    mask = whole.mask.copy()
    mask.reshape(-1)[whole.flat[~chosen]] = False
    index = intersect_with_mask(whole, mask, who)
    births.record_mask(index, narrowed=whole)
    steps = to_device(chosen.nonzero()[0], inputs.device)
    return Packed(gather_rows(inputs.values, steps), index), False
