"""Set the mode of torch modules, training or inference, for the time of a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def training_mode(training: bool, *modules: nn.Module) -> Iterator[None]:
    """Set the mode of modules and their children in this context, and restore it afterwards.

    The mode is set by `module.train()`, so a module that overrides `train`, such as a frozen one, decides itself.
    """
    modes_before = [(inner, inner.training) for module in modules for inner in module.modules()]
    for module in modules:
        module.train(training)
    try:
        yield
    finally:
        for inner, mode in modes_before:
            inner.training = mode
