"""A graph as JSON and back: each operation by its config, each call by what it was called on.

The form is Keras's: `layers` with `inbound_nodes`, tensors as `__keras_tensor__` with their `keras_history`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError
from padless.graph.function import Function
from padless.graph.node import Node, TorchFunction
from padless.graph.symbolic import SymbolicTensor, is_symbolic, leaves
from padless.saving.serialization import deserialize, serialize

_TENSOR = "__keras_tensor__"


def to_config(function: Function) -> dict[str, Any]:
    """The operations of a graph with their calls, and which symbols are inputs and outputs."""
    given = [symbol.node for symbol in function.input_symbols]
    calls: dict[int, list[Node]] = {}
    for node in (*given, *function.nodes):
        calls.setdefault(id(node.operation), []).append(node)
    places = {id(node): (node.operation.name, number) for nodes in calls.values() for number, node in enumerate(nodes)}
    names = [nodes[0].operation.name for nodes in calls.values()]
    if len(set(names)) < len(names):
        raise ArgumentError(f"The names of a model's layers must differ to save it; got {sorted(names)}.")

    def written(x: Any) -> Any:
        return _written(x, places)

    layers = []
    for nodes in calls.values():
        operation = nodes[0].operation
        is_function = isinstance(operation, TorchFunction)
        entry = (
            {"class_name": "TorchFunction", "config": operation.get_config()}
            if is_function
            else serialize(operation, "layer")
        )
        inbound = [{"args": written(list(n.args)), "kwargs": written(n.kwargs)} for n in nodes if n not in given]
        layers.append({**entry, "name": operation.name, "inbound_nodes": inbound})
    return {"layers": layers, "input_layers": written(function.inputs), "output_layers": written(function.outputs)}


def from_config(config: dict[str, Any]) -> tuple[Any, Any]:
    """The inputs and outputs of the graph that a config describes, all layers made anew."""
    operations: dict[str, Any] = {}
    made: dict[tuple[str, int], Any] = {}
    waiting: list[tuple[str, int, dict[str, Any]]] = []
    for entry in config["layers"]:
        name = entry["name"]
        is_function = entry["class_name"] == "TorchFunction"
        operations[name] = TorchFunction.from_config(entry["config"]) if is_function else deserialize(entry, "layer")
        waiting.extend((name, number, node) for number, node in enumerate(entry["inbound_nodes"]))
        if not entry["inbound_nodes"]:
            made[name, 0] = leaves(operations[name].output)
    while waiting:
        later = []
        for name, number, node in waiting:
            if not all(key in made for key in _needs(node)):
                later.append((name, number, node))
                continue
            args, kwargs = _read(node["args"], made), _read(node["kwargs"], made)
            outputs = operations[name](*args, **kwargs)
            own = next(s for s in leaves(outputs) if is_symbolic(s)).node
            made[name, number] = leaves(own.outputs)
        if len(later) == len(waiting):
            raise ArgumentError(
                f"The saved graph has calls that wait for each other or for missing layers: {[call[0] for call in waiting]}."
            )
        waiting = later
    return _read(config["input_layers"], made), _read(config["output_layers"], made)


def _written(x: Any, places: dict[int, tuple[str, int]]) -> Any:
    """An argument as JSON; what JSON has no word for is a dictionary with a `class_name` in underscores."""
    if isinstance(x, SymbolicTensor):
        name, number = places[id(x.node)]
        history = [name, number, x.position]
        shape, dtype = list(x.shape), str(x.dtype).removeprefix("torch.")
        return {"class_name": _TENSOR, "config": {"shape": shape, "dtype": dtype, "keras_history": history}}
    if isinstance(x, dict):
        return {key: _written(value, places) for key, value in x.items()}
    if isinstance(x, tuple):
        return {"class_name": "__tuple__", "items": [_written(item, places) for item in x]}
    if isinstance(x, list):
        return [_written(item, places) for item in x]
    if isinstance(x, slice):
        return {"class_name": "__slice__", "items": [_written(part, places) for part in (x.start, x.stop, x.step)]}
    if x is Ellipsis:
        return {"class_name": "__ellipsis__"}
    if isinstance(x, torch.dtype):
        return {"class_name": "__dtype__", "name": str(x).removeprefix("torch.")}
    if isinstance(x, Tensor):
        return {"class_name": "__tensor__", "dtype": str(x.dtype).removeprefix("torch."), "items": x.tolist()}
    return serialize(x)


def _read(x: Any, made: dict[tuple[str, int], Any]) -> Any:
    if isinstance(x, list):
        return [_read(item, made) for item in x]
    if not isinstance(x, dict):
        return x
    kind = x.get("class_name")
    if kind == _TENSOR:
        name, number, position = x["config"]["keras_history"]
        return made[name, number][position]
    if kind == "__tuple__":
        return tuple(_read(item, made) for item in x["items"])
    if kind == "__slice__":
        return slice(*(_read(item, made) for item in x["items"]))
    if kind == "__ellipsis__":
        return Ellipsis
    if kind == "__dtype__":
        return getattr(torch, x["name"])
    if kind == "__tensor__":
        return torch.tensor(x["items"], dtype=getattr(torch, x["dtype"]))
    return {key: _read(value, made) for key, value in x.items()}


def write_argument(x: Any) -> Any:
    """A value that was given to a layer or function, as JSON: numbers, tuples, slices, dtypes, tensors, nests of them."""
    return _written(x, {})


def read_argument(x: Any) -> Any:
    """What `write_argument` wrote."""
    return _read(x, {})


def _needs(node: Any) -> list[tuple[str, int]]:
    """The calls whose outputs this one is called on."""
    if isinstance(node, list):
        return [need for item in node for need in _needs(item)]
    if not isinstance(node, dict):
        return []
    if node.get("class_name") == _TENSOR:
        return [tuple(node["config"]["keras_history"][:2])]
    return [need for value in node.values() for need in _needs(value)]
