"""Which examples of a batch have a step, by the masks that are born while a layer runs on them.

Where a mask is born it is noted. A layer that is run on each sentence, and that finds the words itself, so says which
sentences there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from padless.graph.symbolic import shape_inference_mode
from padless.ragged.index import Index


class _StopRecording(BaseException):
    """All that was to be found out is known; no error, so that nothing takes it for one."""


class MaskRecorder:
    """The masks born on a batch of `count` examples; with `enough` of them the call that bears them is left."""

    def __init__(self, count: int, enough: int | None = None) -> None:
        self.count = count
        self.enough = enough
        self.found: list[Index] = []

    def add(self, index: Index, narrowed: Index | None) -> None:
        """One more; a narrowed mask counts no longer."""
        if index.grid[0] == self.count:
            self.found = [own for own in self.found if own is not narrowed] + [index]
        if self.enough is not None and len(self.found) >= self.enough:
            raise _StopRecording

    @property
    def real(self) -> NDArray[np.bool_] | None:
        """Which examples have a step by any of these masks; None if none was born."""
        rows = [index.mask.reshape(self.count, -1).any(-1) for index in self.found]
        return np.logical_or.reduce(rows) if rows else None

    @property
    def mask_source(self) -> str:
        """Of what these masks were born, in words."""
        return " and ".join(dict.fromkeys(index.mask_source for index in self.found))


_notes: ContextVar[MaskRecorder | None] = ContextVar("notes", default=None)


def record_mask(index: Index, narrowed: Index | None = None) -> None:
    """A mask is born here, perhaps out of one that it narrows."""
    notes = _notes.get()
    if notes is not None:
        notes.add(index, narrowed)


@contextmanager
def record_masks(count: int, enough: int | None = None) -> Iterator[MaskRecorder]:
    """While this lasts, masks born on a batch of so many examples are noted, and not farther out."""
    notes = MaskRecorder(count, enough)
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def dry_run_masks(layer: Any, examples: Any) -> MaskRecorder | None:
    """What a call on these examples will note, found by one that changes nothing; None if the layer bears no mask."""
    bearers = [module for module in layer.modules() if creates_mask(module)]
    if not bearers:
        return None
    with (
        record_masks(len(examples), _count_masks(layer, bearers)) as notes,
        suppress(_StopRecording),
        torch.no_grad(),
        shape_inference_mode(),
    ):
        layer(examples)
    return notes


def creates_mask(module: Any) -> bool:
    """Whether this layer makes masks of what it is given."""
    return hasattr(module, "index_of") and getattr(module, "mask_zero", True)


def _count_masks(layer: Any, bearers: list[Any]) -> int | None:
    """How many masks a graph will bear; None where only its call can tell."""
    nodes = getattr(getattr(layer, "_function", None), "nodes", ())
    calls = [node.operation for node in nodes if any(node.operation is bearer for bearer in bearers)]
    return len(calls) if {id(call) for call in calls} == {id(bearer) for bearer in bearers} else None
