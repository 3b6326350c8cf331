"""Convert the graph of a model to JSON and back, in Keras's form.

Each operation has its config and the arguments of its calls in `inbound_nodes`. A symbol among the arguments is a
`__keras_tensor__` with the operation, the number of the call and the position of the result in its `keras_history`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from typing import Any, TypeAlias

import torch
from torch import Tensor

from padless.errors import ArgumentError, PadlessError
from padless.graph.function import Function
from padless.graph.node import Node, Operation, TorchFunction
from padless.graph.saved_functions import DTYPES, check_call, check_elements, torch_path
from padless.graph.symbolic import SymbolicTensor, Tree, is_symbolic, leaves
from padless.saving.serialization import deserialize, serialize

JSON: TypeAlias = "dict[str, JSON] | list[JSON] | str | int | float | bool | None"
Config: TypeAlias = "dict[str, Any]"
Call: TypeAlias = tuple[str, int]
"""The name of an operation and the number of one of its calls."""

_TENSOR = "__keras_tensor__"
MAX_CALLS = 2**16
"""The largest number of calls in a saved graph."""


def to_config(function: Function) -> Config:
    """Return the operations of a graph with their calls, and which symbols are inputs and outputs.

    Raises:
        ArgumentError: two operations have the same name, or a torch function cannot be saved (`saved_functions`).
    """
    input_nodes = [symbol.node for symbol in function.input_symbols]
    input_node_ids = set(map(id, input_nodes))
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
        if isinstance(operation, TorchFunction):  # a call that could not be loaded is not saved
            for node in nodes:
                check_call(torch_path(operation.function), node.args, node.kwargs)
        inbound_nodes = [
            {"args": _to_json(list(node.args), calls), "kwargs": _to_json(node.kwargs, calls)}
            for node in nodes
            if id(node) not in input_node_ids
        ]
        layers.append({**_operation_config(operation), "name": operation.name, "inbound_nodes": inbound_nodes})
    return {
        "layers": layers,
        "input_layers": _to_json(function.inputs, calls),
        "output_layers": _to_json(function.outputs, calls),
    }


def from_config(config: Config) -> tuple[Tree, Tree]:
    """Return the inputs and outputs of the graph that a config describes, with new layers.

    The calls run in the order of the config, each as soon as the results that it needs exist. The time is linear in the
    size of the config, up to a logarithm.

    Raises:
        ArgumentError: the config is malformed, a layer cannot be created or called, or a call needs the result of a
            missing call. Or there are more than `MAX_CALLS` calls.
    """
    operations: dict[str, Operation] = {}
    outputs: dict[Call, list[Tree]] = {}
    nodes: dict[Call, Config] = {}
    for entry in _checked_entries(config):
        name = entry["name"]
        operations[name] = operation = _operation_from_config(entry)
        nodes.update({(name, number): node for number, node in enumerate(entry["inbound_nodes"])})
        if not entry["inbound_nodes"]:
            outputs[name, 0] = leaves(_input_symbol(operation, name))
    for call in _sort_calls(nodes, outputs):
        node = nodes[call]
        args = _from_json(node["args"], outputs)
        kwargs = {name: _from_json(value, outputs) for name, value in node["kwargs"].items()}
        outputs[call] = leaves(_call_operation(operations[call[0]], call, args, kwargs).outputs)
    trees = []
    for key in ("input_layers", "output_layers"):
        tree = _from_json(config[key], outputs)
        if not leaves(tree) or not all(map(is_symbolic, leaves(tree))):
            raise ArgumentError(f"The {key!r} of a saved graph are {config[key]!r:.200}. Expected results of its calls.")
        trees.append(tree)
    return trees[0], trees[1]


def _checked_entries(config: Config) -> list[Config]:
    """Return the entries of a saved graph, one for each operation; raise `ArgumentError` if their structure is wrong."""
    entries = config.get("layers")
    if not isinstance(entries, list) or not {"input_layers", "output_layers"} <= set(config):
        raise ArgumentError(
            f"A saved graph has the keys {sorted(map(str, config))}. Expected 'layers', a list, and 'input_layers' and "
            f"'output_layers'."
        )
    names, num_calls = set(), 0
    for entry in entries:
        is_complete = isinstance(entry, dict) and all(
            isinstance(entry.get(key), kind) for key, kind in (("name", str), ("class_name", str), ("config", dict))
        )
        if not is_complete or not isinstance(entry.get("inbound_nodes"), list):
            raise ArgumentError(
                f"{entry!r:.200} is not an entry of a saved graph. Expected a dictionary with 'name', 'class_name', "
                f"'config' and a list of 'inbound_nodes'."
            )
        if entry["name"] in names:
            raise ArgumentError(f"A saved graph has two entries with the name {entry['name']!r}. Names must differ.")
        names.add(entry["name"])
        num_calls += max(len(entry["inbound_nodes"]), 1)
        for node in entry["inbound_nodes"]:
            is_call = isinstance(node, dict) and isinstance(node.get("args"), list) and isinstance(node.get("kwargs"), dict)
            if not is_call:
                raise ArgumentError(
                    f"{node!r:.200} is not a saved call of {entry['name']!r}. Expected a dictionary with a list of "
                    f"'args' and a dictionary of 'kwargs'."
                )
    if num_calls > MAX_CALLS:
        raise ArgumentError(f"A saved graph has {num_calls} calls. Expected at most {MAX_CALLS}.")
    return entries


def _input_symbol(operation: Any, name: str) -> Tree:
    """Return the symbol of an input layer; raise `ArgumentError` if an operation without calls is not an input."""
    nodes: list[Node] = [] if isinstance(operation, TorchFunction) else operation._inbound_nodes
    if len(nodes) != 1:
        raise ArgumentError(
            f"The layer {name!r} of a saved graph has no call. Expected at least one in its 'inbound_nodes'."
        )
    return nodes[0].outputs


def _sort_calls(nodes: dict[Call, Config], outputs: Mapping[Call, object]) -> Iterator[Call]:
    """Yield the calls of a saved graph, each after those whose results it needs, else in the order of the config.

    Args:
        nodes: the saved arguments of each call.
        outputs: the calls whose results exist.

    Raises:
        ArgumentError: calls need results of calls that do not exist, or wait for each other.
    """
    calls = list(nodes)
    waiting_for: dict[Call, list[int]] = {}  # for each call the positions of the calls that need its results
    num_missing = []
    for position, node in enumerate(nodes.values()):
        missing = set(_needed_calls((node["args"], node["kwargs"]))) - outputs.keys()
        num_missing.append(len(missing))
        for call in missing:
            waiting_for.setdefault(call, []).append(position)
    ready = [position for position, number in enumerate(num_missing) if not number]  # sorted, so it is a heap
    num_sorted = 0
    while ready:
        call = calls[heappop(ready)]
        num_sorted += 1
        yield call
        for position in waiting_for.get(call, ()):
            num_missing[position] -= 1
            if not num_missing[position]:
                heappush(ready, position)
    if num_sorted < len(calls):
        names = [name for (name, _), number in zip(calls, num_missing, strict=True) if number]
        raise ArgumentError(f"The saved graph has calls that wait for each other or for missing layers: {names!r:.300}.")


def _call_operation(operation: Operation, call: Call, args: list[Tree], kwargs: dict[str, Tree]) -> Node:
    """Call an operation on symbols, and return the node that was recorded.

    Raises:
        ArgumentError: no argument is a symbol, the operation cannot be called with these arguments, or the result is
            too large.
    """
    if not any(map(is_symbolic, leaves((args, kwargs)))):
        raise ArgumentError(f"Call {call[1]} of {call[0]!r} in a saved graph has no symbolic input among its arguments.")
    if isinstance(operation, TorchFunction):
        check_call(torch_path(operation.function), tuple(args), kwargs)
    try:
        results = operation(*args, **kwargs)
    except PadlessError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError, AttributeError) as error:
        # torch refuses the arguments, or a layer gets a nest of tensors where it needs a tensor
        raise ArgumentError(
            f"Call {call[1]} of {call[0]!r} in a saved graph is not possible: {error}. Its arguments are {args!r:.200} and "
            f"{kwargs!r:.200}."
        ) from error
    symbols = [leaf for leaf in leaves(results) if is_symbolic(leaf)]
    if not symbols:
        raise ArgumentError(f"Call {call[1]} of {call[0]!r} in a saved graph gives no tensor. Expected one at least.")
    for symbol in symbols:
        check_elements(symbol.shape, f"The result of call {call[1]} of {call[0]!r}")
    return symbols[0].node


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


def _from_json(x: Tree, outputs: Mapping[Call, list[Tree]]) -> Any:
    """Convert JSON to an argument, given the outputs of the calls so far."""
    if isinstance(x, list):
        return [_from_json(item, outputs) for item in x]
    if not isinstance(x, dict):
        return x
    match x.get("class_name"):
        case "__keras_tensor__":
            name, number, position = _history(x)
            symbols = outputs.get((name, number), ())
            if not 0 <= position < len(symbols):
                raise ArgumentError(
                    f"A saved graph names result {position} of call {number} of {name!r}, which does not exist."
                )
            return symbols[position]
        case "__tuple__":
            return tuple(_from_json(item, outputs) for item in _items(x))
        case "__slice__":
            items = _items(x)
            if len(items) != 3:
                raise ArgumentError(f"A saved slice has the parts {items!r:.100}. Expected start, stop and step.")
            return slice(*(_from_json(item, outputs) for item in items))
        case "__ellipsis__":
            return Ellipsis
        case "__dtype__":
            return _dtype(x.get("name"))
        case "__tensor__":
            return _tensor(x)
        case _:
            return {key: _from_json(value, outputs) for key, value in x.items()}


def _items(x: Config) -> list[Any]:
    """Return the items of a saved tuple, slice or tensor."""
    items = x.get("items")
    if not isinstance(items, list):
        raise ArgumentError(f"{x!r:.200} is not a saved argument. Expected a list of 'items'.")
    return items


def _tensor(x: Config) -> Tensor:
    """Return a saved tensor, whose numbers are all in the config."""
    dtype, items = _dtype(x.get("dtype")), x.get("items")
    if not all(isinstance(item, int | float) for item in _flat_numbers(items)):
        raise ArgumentError(f"{x!r:.200} is not a saved tensor. Expected 'items', nested lists of numbers.")
    try:
        return torch.tensor(items, dtype=dtype)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        OverflowError,
    ) as error:  # the lists differ in length, or a number is too large
        raise ArgumentError(f"{x!r:.200} is not a saved tensor: {error}.") from error


def _flat_numbers(items: object) -> Iterator[object]:
    """Yield the numbers of nested lists."""
    if isinstance(items, list):
        for item in items:
            yield from _flat_numbers(item)
    else:
        yield items


def _history(x: Config) -> tuple[str, int, int]:
    """Return the operation, the number of the call and the position of the result that a saved symbol names."""
    config = x.get("config")
    history = config.get("keras_history") if isinstance(config, dict) else None
    if isinstance(history, list) and len(history) == 3:
        name, number, position = history
        if isinstance(name, str) and type(number) is int and type(position) is int:
            return name, number, position
    raise ArgumentError(f"{x!r:.200} is not a saved symbol. Expected its 'keras_history': a name and two numbers.")


def _needed_calls(node: object) -> Iterator[Call]:
    """Yield the calls whose outputs are among the saved arguments of a call."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _needed_calls(item)
    elif isinstance(node, dict):
        if node.get("class_name") == _TENSOR:
            name, number, _ = _history(node)
            yield name, number
        else:
            for value in node.values():
                yield from _needed_calls(value)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: object) -> torch.dtype:
    if not isinstance(name, str) or name not in DTYPES:
        raise ArgumentError(f"Unknown dtype {name!r:.100} in a saved config. Expected one of {', '.join(DTYPES)}.")
    return DTYPES[name]
