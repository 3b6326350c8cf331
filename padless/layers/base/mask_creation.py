"""Create the mask of a layer from its input data."""

from __future__ import annotations

from typing import Any

from padless.errors import ShapeError
from padless.graph.symbolic import probing
from padless.layers.base import mask_recorder as births
from padless.ragged.device import known, send
from padless.ragged.gather import take
from padless.ragged.index import Index
from padless.ragged.mask import as_mask, narrow
from padless.ragged.packed import DOCUMENTS, Packed, gather


def _born(inputs: Any, real: Any, who: str) -> tuple[Packed, bool]:
    """The inputs on the steps that are `real`, and whether the whole grid was there to see."""
    if not isinstance(inputs, Packed):
        if inputs.ndim < 2:
            raise ShapeError(
                f"{who} makes a mask of steps, so it needs data of shape (batch, steps, ...); got {tuple(inputs.shape)}."
            )
        index = Index.from_mask(as_mask(real(known(inputs))), who)
        births.note(index)
        return Packed(gather(inputs, index), index), True
    found = real(known(inputs.values))
    if found.ndim != 1:
        raise ShapeError(
            f"{who} would make a mask of each step's parts, on inputs {inputs!r} whose steps are masked "
            f"already. Make the finer mask first: it says which of the steps are real, too. {DOCUMENTS}"
        )
    chosen = as_mask(found[:, None])[:, 0]
    whole = inputs.index
    if chosen.all():  # while a model is looked at, it shall show that the mask has passed here
        index = Index.from_mask(whole.mask, who) if probing() else whole
        births.note(index, narrowed=whole)
        return Packed(inputs.values, index, inputs.fill), False
    mask = whole.mask.copy()
    mask.reshape(-1)[whole.flat[~chosen]] = False
    index = narrow(whole, mask, who)
    births.note(index, narrowed=whole)
    steps = send(chosen.nonzero()[0], inputs.device)
    return Packed(take(inputs.values, steps), index), False
