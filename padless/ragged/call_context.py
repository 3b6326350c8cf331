"""Know the layer that is being called, and whether it works on the padded grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class CallContext:
    """The layer that is being called.

    Attributes:
        layer: its name; empty outside a layer.
        may_use_grid: whether a torch function that mixes steps acts on the padded grid in this call.
    """

    layer: str = ""
    may_use_grid: bool = False


_OUTSIDE_LAYERS = CallContext()
_context: ContextVar[CallContext] = ContextVar("call_context", default=_OUTSIDE_LAYERS)


@contextmanager
def call_context(layer: str, may_use_grid: bool) -> Iterator[None]:
    """Set the layer that calls torch functions in this context, and whether it may use the padded grid."""
    token = _context.set(CallContext(layer, may_use_grid))
    try:
        yield
    finally:
        _context.reset(token)


def current_call() -> CallContext:
    """Return the context of the layer that is being called."""
    return _context.get()
