"""What is known of a model before its data run through it: where masks are born, and which mask each output will have.

A graph knows it from its nodes. A `call` of one's own is watched once, on the first example, while nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from padless.graph.function import Function
from padless.graph.node import Node, TorchFunction
from padless.graph.symbolic import SymbolicTensor, is_symbolic, leaves, shape_inference_mode
from padless.layers.core.embedding import Embedding
from padless.layers.core.masking import Masking
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.trainers.data_checks import MaskOrigin, ModelMaskInfo, OutputInfo


def mask_info_of_graph(function: Function, leads: Sequence[int]) -> ModelMaskInfo:
    """The plan of a graph whose inputs come with masks over so many axes; raises where a layer would lose one."""
    known = function.infer_with_input_masks(leads)
    births = [_of_data(place, function.mask_source_of_input(place)) for place, lead in enumerate(leads) if lead]
    places = {id(source): place for place, source in enumerate(function.input_symbols)}
    origins: dict[int, int] = {
        id(function.input_symbols[birth.input_position]): number for number, birth in enumerate(births)
    }
    for node in function.nodes:
        inner = _mask_origins(node, places)
        born = {birth.mask_source: len(births) + number for number, birth in enumerate(inner) if birth.creates_mask}
        births += inner
        for symbol in filter(is_symbolic, leaves(node.outputs)):
            origin = _origin(node, symbol, known, origins, born if len(born) == 1 else {})
            if origin is not None:
                origins[id(symbol)] = origin
    return ModelMaskInfo(
        births,
        [
            OutputInfo(known[id(symbol)].shape, known[id(symbol)].num_step_axes, origins.get(id(symbol)))
            for symbol in function.output_symbols
        ],
    )


def _origin(
    node: Node, symbol: Any, known: dict[int, SymbolicTensor], origins: dict[int, int], origin_of_source: dict[str, int]
) -> int | None:
    """The birth that the mask on an output of this call is of; None where there is no mask, or no single birth."""
    own = known[id(symbol)]
    if own.mask_source in origin_of_source:
        return origin_of_source[own.mask_source]
    masked = [s for s in node.inputs() if known[id(s)].masked]
    if not own.masked or not any(
        known[id(s)].mask_source == own.mask_source and known[id(s)].num_step_axes == own.num_step_axes for s in masked
    ):
        return None
    found = [origins.get(id(s)) for s in masked]
    alike = len(set(found)) == 1 or isinstance(node.operation, TorchFunction)  # whose operands have equal masks
    return found[0] if alike else None


def _mask_origins(node: Node, places: dict[int, int]) -> list[MaskOrigin]:
    """The births directly of an input in this call, also inside a model that the input is handed to."""
    if node.kwargs or not any(id(symbol) in places for symbol in node.inputs()):
        return []
    operation: Any = node.operation
    if isinstance(operation, Embedding | Masking):
        return [_of_layer(operation, places[id(symbol)]) for symbol in node.inputs()]
    if not isinstance(getattr(operation, "_function", None), Function):
        return []
    inner = {
        id(own): places[id(given)]
        for own, given in zip(operation._function.input_symbols, operation._inputs_in_order(node.args[0]), strict=True)
        if isinstance(given, SymbolicTensor) and id(given) in places and given.ndim == own.ndim
    }
    return [birth for own in operation._function.nodes for birth in _mask_origins(own, inner)]


def mask_info_of_call(module: nn.Module, inputs: Any) -> ModelMaskInfo:
    """The plan of a module that says by its `call` what it does, from a call on these inputs."""
    values = leaves(inputs)
    places = {id(value): place for place, value in enumerate(values)}
    found: list[tuple[MaskOrigin, Index | None]] = []  # with the steps that it gave

    def watch(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if len(args) == 1 and not kwargs and id(args[0]) in places:
            found.append((_of_layer(layer, places[id(args[0])]), output.index if isinstance(output, Packed) else None))

    hooks = [
        m.register_forward_hook(watch, with_kwargs=True) for m in module.modules() if isinstance(m, Embedding | Masking)
    ]
    try:
        with torch.no_grad(), shape_inference_mode():
            outputs = module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    found[:0] = [(_of_data(place, v.index.mask_source), v.index) for place, v in enumerate(values) if isinstance(v, Packed)]
    return ModelMaskInfo([birth for birth, _ in found], [_end(output, found) for output in leaves(outputs)])


def _end(output: Any, found: list[tuple[MaskOrigin, Index | None]]) -> OutputInfo:
    if not isinstance(output, Packed):
        return OutputInfo((None, *output.shape[1:]) if isinstance(output, Tensor) else ())
    same = [number for number, (_, index) in enumerate(found) if index is output.index]
    sources = {birth.input_position for birth, index in found if index is not None and index.equals(output.index)}
    # where the masks of two inputs are equal by chance, a merge of both would look like one of them
    return OutputInfo((None, *output.shape[1:]), output.num_step_axes, same[0] if same and len(sources) == 1 else None)


def _of_layer(layer: Any, place: int) -> MaskOrigin:
    """What this layer, called on the input at this place, knows of the steps."""
    return MaskOrigin(place, f"{type(layer).__name__} {layer.name!r}", layer.index_of, getattr(layer, "mask_zero", True))


def _of_data(place: int, mask_source: str) -> MaskOrigin:
    return MaskOrigin(place, mask_source, _own_index)


def _own_index(value: Any) -> Index:
    return value.index
