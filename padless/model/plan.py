"""What is known of a model before its data run through it: where masks are born, and which mask each output will have.

A graph knows it from its nodes. A `call` of one's own is watched once, on the first example, while nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from padless.graph.function import Function
from padless.graph.node import Node
from padless.graph.spec import Symbolic, leaves, still
from padless.layers.birth import Embedding, Masking
from padless.ragged.packed import Packed
from padless.training.border import Birth, End, Plan

Found = tuple[Birth, bool]


def of_graph(function: Function, leads: Sequence[int]) -> Plan:
    """The plan of a graph whose inputs come with masks over so many axes; raises where a layer would lose one."""
    results = function.check(leads)
    found = _births(function, {id(source): place for place, source in enumerate(function.sources)})
    found += _of_data({place: function.born(place) for place, lead in enumerate(leads) if lead}, found)
    plain = {function.born(place) for place, lead in enumerate(leads) if not lead}  # declared, but not there
    ends = []
    for symbol, result in zip(function.results, results, strict=True):
        masked = result.masked and result.born not in plain
        birth = _only(found, result.born, function.reaching(symbol)) if masked else None
        ends.append(End(result.shape, result.lead if masked else 0, birth))
    return Plan([birth for birth, _ in found], ends)


def of_call(module: nn.Module, inputs: Any) -> Plan:
    """The plan of a module that says by its `call` what it does, from a call on these inputs."""
    values = leaves(inputs)
    places = {id(value): place for place, value in enumerate(values)}
    found: list[Found] = []

    def watch(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args) == 1 and not kwargs and id(args[0]) in places:
            found.append(_birth(layer, places[id(args[0])]))

    watched = [m for m in module.modules() if isinstance(m, Embedding | Masking)]
    hooks = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in watched]
    try:
        with torch.no_grad(), still():
            outputs = module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    found += _of_data({place: v.index.born for place, v in enumerate(values) if isinstance(v, Packed)}, found)
    everywhere = range(len(values))
    return Plan([birth for birth, _ in found], [_end(output, found, everywhere) for output in leaves(outputs)])


def _births(function: Function, places: dict[int, int]) -> list[Found]:
    """Where masks are born, or ids looked up, directly of an input; also inside models that the input is handed to."""
    found: list[Found] = []
    for node in function.nodes:
        if node.kwargs or not any(id(symbol) in places for symbol in node.inputs()):
            continue
        operation: Any = node.operation
        if isinstance(operation, Embedding | Masking):
            found += [_birth(operation, places[id(symbol)]) for symbol in node.inputs()]
        elif isinstance(getattr(operation, "_function", None), Function):
            found += _births(operation._function, _handed(node, operation, places))
    return found


def _handed(node: Node, model: Any, places: dict[int, int]) -> dict[int, int]:
    """For the inputs of an inner model the place of the outer input that each is, where it is one of its very shape."""
    given = model._in_order(node.args[0])
    return {id(inner): places[id(outer)] for inner, outer in zip(model._function.sources, given, strict=True)
            if isinstance(outer, Symbolic) and id(outer) in places and outer.ndim == inner.ndim}


def _birth(layer: Any, place: int) -> Found:
    """What this layer, called on the input at this place, knows of the steps; and whether it makes a mask of its own."""
    return Birth(place, f"{type(layer).__name__} {layer.name!r}", layer.index_of), getattr(layer, "mask_zero", True)


def _of_data(born: dict[int, str], found: list[Found]) -> list[Found]:
    """The masks that come with the data, by place of the input; not where a layer may have narrowed them."""
    narrowed = {birth.source for birth, makes in found if makes}
    return [(Birth(place, name, lambda value: value.index), True) for place, name in born.items()
            if place not in narrowed]


def _end(output: Any, found: list[Found], places: Sequence[int]) -> End:
    if isinstance(output, Packed):
        return End((None, *output.shape[1:]), output.lead, _only(found, output.index.born, places))
    return End((None, *output.shape[1:]) if isinstance(output, Tensor) else ())


def _only(found: list[Found], born: str, places: Sequence[int]) -> int | None:
    """The one birth of this name by an input that reaches here; None if there is none, or more than one."""
    numbers = [number for number, (birth, _) in enumerate(found) if birth.born == born and birth.source in places]
    return numbers[0] if len(numbers) == 1 else None
