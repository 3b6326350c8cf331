"""Compile layers that treat each step alone with torch.compile: Dense, Activation, and layers with `stepwise = True`.

They run on rows `(N, ...)`, whose number changes from batch to batch, so each layer is compiled once for any number of
rows. The uncompiled `call` runs on inputs with gap values, on inputs without a step, and on symbolic tensors.
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
from padless.layers.base.layer import Layer, compiled_calls
from padless.layers.base.mask_rule import call_spec_of
from padless.layers.core.dense import Dense
from padless.ragged.packed import Packed
from padless.types import TensorTree


@contextmanager
def compiled_layers(model: Layer, calls: dict[int, Callable[..., TensorTree]]) -> Iterator[None]:
    """Run the stepwise layers of a model compiled in this context.

    Args:
        model: the model.
        calls: the compiled `call` of each layer, by the identity of the layer. Missing ones are added.
    """
    layers = [layer for layer in model._containers() if isinstance(layer, Layer) and _is_compilable(layer)]
    for layer in layers:
        if id(layer) not in calls:
            calls.setdefault(id(layer), _compile_call(layer))
    outer_calls = compiled_calls.get()
    token = compiled_calls.set({**outer_calls, **{id(layer): calls[id(layer)] for layer in layers}})
    try:
        yield
    finally:
        compiled_calls.reset(token)


def _is_compilable(layer: Layer) -> bool:
    """Return whether `call` is the class's own, treats each step alone, and is not compiled by an outer context."""
    if id(layer) in compiled_calls.get() or "call" in vars(layer) or any(True for _ in layer.children()):
        return False
    return call_spec_of(type(layer)).stepwise or type(layer).call in (Dense.call, Activation.call)


def _compile_call(layer: Layer) -> Callable[..., TensorTree]:
    """Return the `call` of a layer, compiled for any number of rows."""
    uncompiled = type(layer).call

    def call_on_rows(*args: Any, **kwargs: Any) -> TensorTree:
        return uncompiled(layer, *args, **kwargs)

    # torch.compile counts by code object and stops after eight versions, so each layer gets a code object.
    code = call_on_rows.__code__.replace(co_name=f"{layer.name}_{id(layer)}")
    function = FunctionType(code, globals(), code.co_name, closure=call_on_rows.__closure__)
    compiled = torch.compile(function, dynamic=True)

    def run_compiled(rows: Tensor, **kwargs: object) -> TensorTree:
        try:
            return compiled(rows, **kwargs)
        except RuntimeError as error:
            if not is_torch_compile_error(error):
                raise  # from the layer itself
            raise ArgumentError(
                f"jit_compile=True, but torch.compile could not compile layer {layer.name!r}: "
                f"{str(error).strip().splitlines()[0]}. Use jit_compile=False."
            ) from error

    first_name = call_spec_of(type(layer)).names[0]

    def call(*args: Any, **kwargs: Any) -> TensorTree:
        inputs = args[0] if args else kwargs[first_name]
        other_kwargs = {name: value for name, value in kwargs.items() if name != first_name}
        if len(args) < 2 and isinstance(inputs, Packed) and inputs.gap_values is None and len(inputs.values):
            return inputs.with_values(run_compiled(inputs.values, **other_kwargs))
        if len(args) < 2 and isinstance(inputs, Tensor) and inputs.numel() and not inputs.is_meta:
            return run_compiled(inputs, **other_kwargs)
        return uncompiled(layer, *args, **kwargs)

    return call
