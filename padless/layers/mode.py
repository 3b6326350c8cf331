"""The mode in which modules of torch's run inside a layer: they train when the layer does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from padless.layers.state import State


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """While this lasts, a torch module trains or infers, and everything inside it; afterwards each is as it was."""
    with all_in_mode(list(module.modules()), training):
        yield


@contextmanager
def all_in_mode(modules: list[nn.Module], training: bool) -> Iterator[None]:
    """The same for these modules alone."""
    before = [(module, module.training) for module in modules]
    for module in modules:
        module.training = training
    try:
        yield
    finally:
        for module, own in before:
            module.training = own


def foreign(layer: nn.Module) -> list[nn.Module]:
    """The modules inside a layer that are no layers, nor inside one: those that only the layer itself runs."""
    found = []
    for child in layer.children():
        if not isinstance(child, State):
            found += [child, *foreign(child)]
    return found
