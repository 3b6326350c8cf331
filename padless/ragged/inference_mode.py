"""Mark the calls that infer shapes: they run on probes, whose masks and values no user gave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_in_shape_inference: ContextVar[bool] = ContextVar("in_shape_inference", default=False)


def in_shape_inference() -> bool:
    """Return whether the current call runs on probes. Then no state may change and no random number may be drawn."""
    return _in_shape_inference.get()


@contextmanager
def shape_inference_mode() -> Iterator[None]:
    """Mark the calls in this context as calls on probes."""
    token = _in_shape_inference.set(True)
    try:
        yield
    finally:
        _in_shape_inference.reset(token)
