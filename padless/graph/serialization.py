"""Convert the graph of a model to JSON and back, in Keras's form.

Each operation has its config and the arguments of its calls in `inbound_nodes`. A symbol among the arguments is a
`__keras_tensor__` with the operation, the number of the call and the position of the result in its `keras_history`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from padless.errors import ArgumentError
from padless.graph.function import Function
from padless.graph.node import Node, Operation, TorchFunction
from padless.graph.symbolic import SymbolicTensor, Tree, is_symbolic, leaves
from padless.saving.serialization import deserialize, serialize

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"
Config: TypeAlias = "dict[str, Any]"
Call: TypeAlias = tuple[str, int]
"""The name of an operation and the number of one of its calls."""

_TENSOR = "__keras_tensor__"


def to_config(function: Function) -> Config:
    """Return the operations of a graph with their calls, and which symbols are inputs and outputs.

    Raises:
        ArgumentError: if two operations have the same name.
    """
    input_nodes = [symbol.node for symbol in function.input_symbols]
    nodes_of_operation: dict[int, list[Node]] = {}
    for node in (*input_nodes, *function.nodes):
        nodes_of_operation.setdefault(id(node.operation), []).append(node)
    names = [nodes[0].operation.name for nodes in nodes_of_operation.values()]
    if len(set(names)) < len(names):
        raise ArgumentError(f"The names of a model's layers must differ to save it; got {sorted(names)}.")
    calls = {
        id(node): (node.operation.name, number) for nodes in nodes_of_operation.values() for number, node in enumerate(nodes)
    }
    layers = []
    for nodes in nodes_of_operation.values():
        operation = nodes[0].operation
        inbound_nodes = [
            {"args": _to_json(list(node.args), calls), "kwargs": _to_json(node.kwargs, calls)}
            for node in nodes
            if node not in input_nodes
        ]
        layers.append({**_operation_config(operation), "name": operation.name, "inbound_nodes": inbound_nodes})
    return {
        "layers": layers,
        "input_layers": _to_json(function.inputs, calls),
        "output_layers": _to_json(function.outputs, calls),
    }


def from_config(config: Config) -> tuple[Tree, Tree]:
    """Return the inputs and outputs of the graph that a config describes, with new layers.

    Raises:
        ArgumentError: if a call needs the result of a call that does not exist.
    """
    operations: dict[str, Any] = {}
    outputs: dict[Call, list[SymbolicTensor]] = {}
    waiting: list[tuple[Call, Config]] = []
    for entry in config["layers"]:
        name = entry["name"]
        operations[name] = _operation_from_config(entry)
        waiting.extend(((name, number), node) for number, node in enumerate(entry["inbound_nodes"]))
        if not entry["inbound_nodes"]:
            outputs[name, 0] = leaves(operations[name].output)
    while waiting:
        still_waiting = []
        for call, node in waiting:
            if all(needed_call in outputs for needed_call in _needed_calls(node)):
                args, kwargs = _from_json(node["args"], outputs), _from_json(node["kwargs"], outputs)
                results = operations[call[0]](*args, **kwargs)
                recorded_node: Node = next(filter(is_symbolic, leaves(results))).node
                outputs[call] = leaves(recorded_node.outputs)
            else:
                still_waiting.append((call, node))
        if len(still_waiting) == len(waiting):
            raise ArgumentError(
                f"The saved graph has calls that wait for each other or for missing layers: "
                f"{[name for (name, _), _ in waiting]}."
            )
        waiting = still_waiting
    return _from_json(config["input_layers"], outputs), _from_json(config["output_layers"], outputs)


def argument_to_json(x: object) -> JSON:
    """Convert an argument of a layer or function to JSON: numbers, tuples, slices, dtypes, tensors, and trees of them."""
    return _to_json(x, {})


def argument_from_json(x: object) -> Tree:
    """Convert the result of `argument_to_json` back."""
    return _from_json(x, {})


def _operation_config(operation: Operation) -> Config:
    if isinstance(operation, TorchFunction):
        return {"class_name": "TorchFunction", "config": operation.get_config()}
    return serialize(operation, "layer")


def _operation_from_config(entry: Config) -> Operation:
    if entry["class_name"] == "TorchFunction":
        return TorchFunction.from_config(entry["config"])
    return deserialize(entry, "layer")


def _to_json(x: object, calls: dict[int, Call]) -> JSON:
    """Convert an argument to JSON. What JSON does not have becomes a dictionary with a `class_name` in underscores.

    Args:
        x: the argument.
        calls: for the `id` of each node the call that it is.
    """
    if isinstance(x, SymbolicTensor):
        name, number = calls[id(x.node)]
        config = {"shape": list(x.shape), "dtype": _dtype_name(x.dtype), "keras_history": [name, number, x.position]}
        return {"class_name": _TENSOR, "config": config}
    if isinstance(x, dict):
        return {key: _to_json(value, calls) for key, value in x.items()}
    if isinstance(x, tuple):
        return {"class_name": "__tuple__", "items": [_to_json(item, calls) for item in x]}
    if isinstance(x, list):
        return [_to_json(item, calls) for item in x]
    if isinstance(x, slice):
        return {"class_name": "__slice__", "items": [_to_json(part, calls) for part in (x.start, x.stop, x.step)]}
    if x is Ellipsis:
        return {"class_name": "__ellipsis__"}
    if isinstance(x, torch.dtype):
        return {"class_name": "__dtype__", "name": _dtype_name(x)}
    if isinstance(x, Tensor):
        return {"class_name": "__tensor__", "dtype": _dtype_name(x.dtype), "items": x.tolist()}
    return serialize(x)


def _from_json(x: Tree, outputs: dict[Call, list[SymbolicTensor]]) -> Any:
    """Convert JSON to an argument, given the outputs of the calls so far."""
    if isinstance(x, list):
        return [_from_json(item, outputs) for item in x]
    if not isinstance(x, dict):
        return x
    match x.get("class_name"):
        case "__keras_tensor__":
            name, number, position = x["config"]["keras_history"]
            return outputs[name, number][position]
        case "__tuple__":
            return tuple(_from_json(item, outputs) for item in x["items"])
        case "__slice__":
            return slice(*(_from_json(item, outputs) for item in x["items"]))
        case "__ellipsis__":
            return Ellipsis
        case "__dtype__":
            return _dtype(x["name"])
        case "__tensor__":
            return torch.tensor(x["items"], dtype=_dtype(x["dtype"]))
        case _:
            return {key: _from_json(value, outputs) for key, value in x.items()}


def _needed_calls(node: Tree) -> list[Call]:
    """Return the calls whose outputs are among the saved arguments of a call."""
    if isinstance(node, list):
        return [call for item in node for call in _needed_calls(item)]
    if not isinstance(node, dict):
        return []
    if node.get("class_name") == _TENSOR:
        name, number, _ = node["config"]["keras_history"]
        return [(name, number)]
    return [call for value in node.values() for call in _needed_calls(value)]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ArgumentError(f"Unknown dtype {name!r} in a saved config; expected a dtype of torch, such as 'float32'.")
    return dtype
