"""torch.compile for layers that see each step alone: Dense, Activation, and those of one's own with `stepwise = True`.

They run on rows `(N, ...)`, whose number changes from batch to batch, so they are compiled once for any number. Whatever
has masked steps to show, no step at all, or a symbol instead of numbers, runs as it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from padless._torch_compat import is_torch_compile_error
from padless.errors import ArgumentError
from padless.layers.activations.activations import Activation
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import call_spec_of
from padless.layers.core.dense import Dense
from padless.ragged.packed import Packed


@contextmanager
def compiled_layers(model: Layer) -> Iterator[None]:
    """While this lasts, the stepwise layers of a model run compiled."""
    made: dict[int, Callable[..., Any]] = model.__dict__.setdefault("_jit", {})
    layers = [layer for layer in model._containers() if isinstance(layer, Layer) and _is_compilable(layer)]
    for layer in layers:
        if id(layer) not in made:
            made[id(layer)] = _compile_call(layer)
        layer.__dict__["call"] = made[id(layer)]
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["call"]


def _is_compilable(layer: Layer) -> bool:
    """Whether the `call` of a layer treats each step alone, and does nothing else."""
    rule = call_spec_of(type(layer), Layer)
    if "call" in layer.__dict__ or any(True for _ in layer.children()):
        return False
    return rule.stepwise or type(layer).call in (Dense.call, Activation.call)


def _compile_call(layer: Layer) -> Callable[..., Any]:
    """The `call` of a layer, compiled for rows of any number."""
    plain = type(layer).call

    def rows_of_any_number(*args: Any, **kwargs: Any) -> Any:
        return plain(layer, *args, **kwargs)

    # torch counts what it compiled by code, and stops at eight: each layer has code of its own
    own = rows_of_any_number.__code__.replace(co_name=f"{layer.name}_{id(layer)}")
    fast = torch.compile(FunctionType(own, globals(), own.co_name, closure=rows_of_any_number.__closure__), dynamic=True)

    first = call_spec_of(type(layer), Layer).names[0]

    def call(*args: Any, **kwargs: Any) -> Any:
        inputs = args[0] if args else kwargs[first]
        others = {name: value for name, value in kwargs.items() if name != first}
        if len(args) < 2 and isinstance(inputs, Packed) and inputs.gap_values is None and len(inputs.values):
            return inputs.with_values(run(inputs.values, **others))
        if len(args) < 2 and isinstance(inputs, Tensor) and inputs.numel() and not inputs.is_meta:
            return run(inputs, **others)
        return plain(layer, *args, **kwargs)

    def run(rows: Tensor, **kwargs: Any) -> Any:
        try:
            return fast(rows, **kwargs)
        except RuntimeError as wrong:
            if not is_torch_compile_error(wrong):
                raise  # by the layer itself
            raise ArgumentError(
                f"jit_compile=True, but torch.compile could not compile layer {layer.name!r}: "
                f"{str(wrong).strip().splitlines()[0]}. Use jit_compile=False."
            ) from wrong

    return call
