"""The mode in which modules run: in training or in inference, and afterwards as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def training_mode(training: bool, *modules: nn.Module) -> Iterator[None]:
    """While this lasts, these modules and all inside them train or infer, as far as their own `train()` lets them."""
    before = [(inner, inner.training) for module in modules for inner in module.modules()]
    for module in modules:
        module.train(training)
    try:
        yield
    finally:
        for inner, own in before:
            inner.training = own
