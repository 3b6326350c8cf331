"""Replay the calls between the inputs and the outputs of a model on data."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from padless.errors import ArgumentError
from padless.graph.node import Node, Operation, TorchFunction
from padless.graph.symbolic import SymbolicTensor, Tree, copy_symbol, is_symbolic, leaves, map_leaves
from padless.ragged.packed import Packed, computing_gap_values


class Function:
    """The calls between inputs and outputs.

    Args:
        inputs: a tree of symbols: a symbol, or a list, tuple or dictionary of trees.
        outputs: a tree of symbols that were computed from the inputs.

    Attributes:
        inputs: the inputs, with the keys of dictionaries sorted, as in Keras.
        outputs: the outputs, in the same form.
        input_symbols: the leaves of `inputs`.
        output_symbols: the leaves of `outputs`.
        nodes: the calls, each after those whose results it needs.
        operations: the layers and torch functions, inputs among them, in Keras's order: the farthest from the outputs
            first.

    Raises:
        ArgumentError: if an input occurs twice, if an output cannot be computed from the inputs, or if a leaf is not a
            symbol of `Input` or of a layer.
    """

    def __init__(self, inputs: Tree, outputs: Tree) -> None:
        self.inputs = _sort_keys(inputs)
        self.outputs = _sort_keys(outputs)
        self.input_symbols: list[SymbolicTensor] = leaves(self.inputs)
        self.output_symbols: list[SymbolicTensor] = leaves(self.outputs)
        for symbol in (*self.input_symbols, *self.output_symbols):
            if not is_symbolic(symbol) or symbol.node is None:
                raise ArgumentError(
                    f"A model is made of the symbols that Input(...) and layers called on it give; got "
                    f"{type(symbol).__name__}."
                )
        if len({id(symbol) for symbol in self.input_symbols}) < len(self.input_symbols):
            raise ArgumentError(
                f"The inputs of a model must differ; got {[s.name for s in self.input_symbols]}, some of them "
                f"twice. Give each once, and use it as often as you like."
            )
        self.nodes = _sort_nodes(self.input_symbols, self.output_symbols)
        self.operations = _sort_operations(self.input_symbols, self.output_symbols, self.nodes)
        self._gap_values_needed: dict[bool, dict[int, bool]] = {}  # by whether the outputs show gap values
        self._last_call = _LastCall()

    @property
    def num_real_steps(self) -> int | None:
        """The number of real steps of the last call in this thread; None if nothing had a mask."""
        return self._last_call.num_real_steps

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: the calls in a list.

        Symbols point to their nodes and nodes to their inputs, so a copy of the outputs would need a deep recursion.
        In the list each symbol is replaced by its number.
        """
        inputs = {id(symbol) for symbol in self.input_symbols}
        results = [symbol for node in self.nodes for symbol in leaves(node.outputs) if is_symbolic(symbol)]
        results = [symbol for symbol in results if id(symbol) not in inputs]
        references = {id(symbol): _SymbolReference(number) for number, symbol in enumerate(results)}

        def with_references(tree: Tree) -> Tree:
            return map_leaves(lambda x: references.get(id(x), x), tree)

        return {
            "inputs": self.inputs,
            "outputs": with_references(self.outputs),
            "symbols": [SymbolicTensor(s.shape, s.dtype, s.name, s.num_step_axes, s.mask_source) for s in results],
            "calls": [
                (n.operation, with_references(n.args), with_references(n.kwargs), with_references(n.outputs))
                for n in self.nodes
            ],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        symbols = state["symbols"]

        def with_symbols(tree: Tree) -> Tree:
            return map_leaves(lambda x: symbols[x.number] if isinstance(x, _SymbolReference) else x, tree)

        for operation, args, kwargs, outputs in state["calls"]:
            node = Node(operation, with_symbols(args), with_symbols(kwargs), with_symbols(outputs))
            if not isinstance(operation, TorchFunction):
                operation._inbound_nodes.append(node)
        Function.__init__(self, state["inputs"], with_symbols(state["outputs"]))

    def __call__(self, values: Sequence[Tensor | Packed], gap_values_needed: bool = True) -> Tree:
        """Compute the outputs.

        Args:
            values: a tensor or a `Packed` for each of `input_symbols`.
            gap_values_needed: whether the padded grid of the outputs is read. If not, they have no gap values.

        Returns:
            The results, in the structure of `outputs`.
        """
        results: dict[int, Tree] = {id(s): v for s, v in zip(self.input_symbols, values, strict=True)}
        needed_by_node = self.gap_values_needed_by_node(gap_values_needed)
        num_steps = [value.index.num_steps for value in values if isinstance(value, Packed)]
        for node in self.nodes:
            outputs_read = needed_by_node[id(node)]
            args, kwargs = map_leaves(lambda x: results[id(x)] if is_symbolic(x) else x, (node.args, node.kwargs))
            with computing_gap_values(outputs_read):
                outputs = node.operation(*args, **kwargs)
            for symbol, value in zip(leaves(node.outputs), leaves(outputs), strict=True):
                if isinstance(value, Packed):
                    num_steps.append(value.index.num_steps)
                    if not outputs_read:
                        value = value.with_values(value.values)
                if is_symbolic(symbol):
                    results[id(symbol)] = value
        self._last_call.num_real_steps = num_steps[0] if num_steps else None
        return map_leaves(lambda symbol: results[id(symbol)], self.outputs)

    def infer_with_input_masks(self, num_step_axes: Sequence[int]) -> dict[int, SymbolicTensor]:
        """Infer all symbols for data that come with masks.

        Args:
            num_step_axes: for each input the number of axes that the mask of its data covers; 0 without a mask.

        Returns:
            For the `id` of each symbol the symbol with its mask.

        Raises:
            MaskLost: if the model would lose a mask.
        """
        symbols = {id(s): s for node in self.nodes for s in leaves(node.outputs)} | {id(s): s for s in self.input_symbols}
        if all(number == symbol.num_step_axes for number, symbol in zip(num_step_axes, self.input_symbols, strict=True)):
            return symbols
        inputs = [
            SymbolicTensor(s.shape, s.dtype, s.name, number, self.mask_source_of_input(position) if number else "")
            for position, (s, number) in enumerate(zip(self.input_symbols, num_step_axes, strict=True))
        ]
        return symbols | self._infer_symbols(inputs)

    def infer(self, inputs: Sequence[SymbolicTensor]) -> Tree:
        """Return new symbols for the outputs, given a symbol for each of `input_symbols`."""
        symbols = self._infer_symbols(inputs)
        return map_leaves(lambda x: copy_symbol(symbols[id(x)]), self.outputs)

    def _infer_symbols(self, inputs: Sequence[SymbolicTensor]) -> dict[int, SymbolicTensor]:
        """Return for the `id` of each symbol of the graph the symbol that it is for these inputs."""
        symbols = {id(symbol): value for symbol, value in zip(self.input_symbols, inputs, strict=True)}
        for node in self.nodes:
            args, kwargs = map_leaves(lambda x: symbols[id(x)] if is_symbolic(x) else x, (node.args, node.kwargs))
            outputs = node.operation._infer_outputs(args, kwargs)
            symbols.update(zip(map(id, leaves(node.outputs)), leaves(outputs), strict=True))
        return symbols

    def mask_source_of_input(self, position: int) -> str:
        """Return in words where the mask comes from that the data of an input have."""
        symbol = self.input_symbols[position]
        return symbol.mask_source or f"the data of input {symbol.name!r}"

    def input_positions_for(self, symbol: SymbolicTensor) -> list[int]:
        """Return the positions of the inputs from which a symbol is computed."""
        used = {id(s) for node in _sort_nodes(self.input_symbols, [symbol]) for s in node.inputs()} | {id(symbol)}
        return [position for position, source in enumerate(self.input_symbols) if id(source) in used]

    def gap_values_needed_by_node(self, gap_values_needed: bool) -> dict[int, bool]:
        """Return for the `id` of each node whether the gap values of its outputs are read by a later call.

        Args:
            gap_values_needed: whether the gap values of the outputs of the model are read.
        """
        cached_result = self._gap_values_needed.get(gap_values_needed)
        if cached_result is None:
            read = {id(s) for s in self.output_symbols} if gap_values_needed else set()
            needed_by_node = {}
            for node in reversed(self.nodes):
                outputs_read = any(id(s) in read for s in leaves(node.outputs))
                needed_by_node[id(node)] = outputs_read
                if _reads_gap_values(node, outputs_read):
                    read.update(id(s) for s in node.inputs())
            cached_result = self._gap_values_needed.setdefault(gap_values_needed, needed_by_node)
        return cached_result


class _LastCall(threading.local):
    """What is known of the last call in each thread."""

    num_real_steps: int | None = None


@dataclass(frozen=True)
class _SymbolReference:
    """The number of a symbol, in a copied or pickled `Function`."""

    number: int


def _reads_gap_values(node: Node, outputs_read: bool) -> bool:
    """Return whether a call reads the gap values of its inputs, given whether those of its outputs are read."""
    if any(name == "mask" or name.endswith("_mask") for name in node.kwargs):
        return True  # such a mask may have more steps than the input, which are read from the gap values
    return node.operation.needs_gap_values(outputs_read)


def _sort_keys(tree: Tree) -> Tree:
    """Sort the keys of dictionaries in a tree, as Keras does."""
    return {key: _sort_keys(tree[key]) for key in sorted(tree)} if isinstance(tree, dict) else tree


def _sort_nodes(input_symbols: list[SymbolicTensor], output_symbols: list[SymbolicTensor]) -> list[Node]:
    """Return the nodes between inputs and outputs, each after those whose results it needs.

    This is a depth-first search with a stack, because the recursion in a deep graph would be too deep.
    """
    inputs = {id(symbol) for symbol in input_symbols}
    sorted_ids: set[int] = set()
    sorted_nodes: list[Node] = []
    stack: list[tuple[Node, bool]] = [(s.node, False) for s in reversed(output_symbols) if id(s) not in inputs]
    while stack:
        node, arguments_are_sorted = stack.pop()
        if id(node) in sorted_ids:
            continue
        if arguments_are_sorted:
            sorted_ids.add(id(node))
            sorted_nodes.append(node)
            continue
        arguments = list(node.inputs())
        if not arguments:
            raise ArgumentError(
                f"The graph is not connected: the output needs the input {node.operation.name!r}, "
                f"which is not among the inputs {[s.name for s in input_symbols]}."
            )
        stack.append((node, True))
        stack.extend((s.node, False) for s in reversed(arguments) if id(s) not in inputs and id(s.node) not in sorted_ids)
    return sorted_nodes


def _sort_operations(
    input_symbols: list[SymbolicTensor], output_symbols: list[SymbolicTensor], nodes: list[Node]
) -> list[Operation]:
    """Return the operations in Keras's order: the farthest from the outputs first.

    Operations at the same distance are in the order in which a search from the outputs finds them.
    """
    used_operations = _search_operations(input_symbols, output_symbols)
    distances = _distances_from_outputs(input_symbols, nodes)
    used_ids = {id(operation) for operation in used_operations}
    unused_inputs = [s.node.operation for s in input_symbols if id(s.node.operation) not in used_ids]
    return sorted([*unused_inputs, *used_operations], key=lambda operation: -distances[id(operation)])


def _search_operations(input_symbols: list[SymbolicTensor], output_symbols: list[SymbolicTensor]) -> list[Operation]:
    """Return the operations in the order of a depth-first search from the outputs to the inputs."""
    inputs = {id(symbol) for symbol in input_symbols}
    operations: dict[int, Operation] = {}
    visited: set[int] = set()
    stack = list(reversed(output_symbols))
    while stack:
        symbol = stack.pop()
        node: Node = symbol.node
        if id(node) in visited:
            continue
        visited.add(id(node))
        operations.setdefault(id(node.operation), node.operation)
        if id(symbol) not in inputs:
            stack.extend(reversed(list(node.inputs())))
    return list(operations.values())


def _distances_from_outputs(input_symbols: list[SymbolicTensor], nodes: list[Node]) -> dict[int, int]:
    """Return for the `id` of each operation the number of calls between it and the outputs, on the longest path.

    All calls of a shared layer have the distance of the farthest so far, as in Keras.
    """
    input_nodes = [symbol.node for symbol in input_symbols]
    input_node_ids = {id(node) for node in input_nodes}
    distance_of_node: dict[int, int] = {}
    distance_of_operation: dict[int, int] = {}
    for node in (*reversed(nodes), *input_nodes):
        operation_id = id(node.operation)
        distance = max(distance_of_node.get(id(node), 0), distance_of_operation.get(operation_id, 0))
        distance_of_node[id(node)] = distance_of_operation[operation_id] = distance
        if id(node) not in input_node_ids:
            for symbol in node.inputs():
                distance_of_node[id(symbol.node)] = max(distance_of_node.get(id(symbol.node), 0), distance + 1)
    return distance_of_operation
