"""Record the masks that layers create while a batch runs through them.

`TimeDistributed` needs to know which steps are real when its inner layer creates the masks. An example of a
batch is real if some mask created from the example has a real step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from numpy.typing import NDArray

from padless.ragged.index import Index


class AllMasksRecorded(Exception):
    """Raised to leave a call whose masks are all recorded. `dry_run_masks` catches it."""


class MaskRecorder:
    """Collect the masks created from a batch.

    Args:
        batch_size: the number of examples of the batch. Masks of another batch size are ignored.
        expected_masks: the number of masks after which the call is left by `AllMasksRecorded`, or None to
            run the call to its end.
    """

    def __init__(self, batch_size: int, expected_masks: int | None = None) -> None:
        self.batch_size = batch_size
        self.expected_masks = expected_masks
        self.indices: list[Index] = []
        self._is_complete = False

    def add(self, index: Index, narrowed: Index | None = None) -> None:
        """Record a mask, in the place of the mask `narrowed` from which the new mask was made.

        Raises:
            AllMasksRecorded: the last expected mask is recorded. It is raised once, and masks created
                later are ignored, so code that catches every exception changes no result.
        """
        if self._is_complete:
            return
        if index.grid[0] == self.batch_size:
            others = [other for other in self.indices if other is not narrowed and other is not index]
            self.indices = [*others, index]
        if self.expected_masks is not None and len(self.indices) >= self.expected_masks:
            self._is_complete = True
            raise AllMasksRecorded

    def real_examples(self) -> NDArray[np.bool_] | None:
        """Return which examples have a real step in some recorded mask, or None if there is no mask."""
        examples = [index.mask.reshape(self.batch_size, -1).any(-1) for index in self.indices]
        return np.logical_or.reduce(examples) if examples else None

    @property
    def mask_source(self) -> str:
        """The layers that created the recorded masks, in words."""
        return " and ".join(dict.fromkeys(index.mask_source for index in self.indices))


_recorder: ContextVar[MaskRecorder | None] = ContextVar("mask recorder", default=None)


def is_recording() -> bool:
    """Return whether `record_masks` is active."""
    return _recorder.get() is not None


def record_mask(index: Index, narrowed: Index | None = None) -> None:
    """Give a created mask to the recorder of the enclosing `record_masks`, if there is one."""
    recorder = _recorder.get()
    if recorder is not None:
        recorder.add(index, narrowed)


@contextmanager
def record_masks(batch_size: int, expected_masks: int | None = None) -> Iterator[MaskRecorder]:
    """Record the masks created in this context. Recorders of outer contexts do not see them."""
    recorder = MaskRecorder(batch_size, expected_masks)
    token = _recorder.set(recorder)
    try:
        yield recorder
    finally:
        _recorder.reset(token)
