"""Replay the calls that lead from some symbols to others, in order; know which of them need to show a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from padless.errors import ArgumentError
from padless.graph.node import Node, TorchFunction, of_a_call
from padless.graph.symbolic import SymbolicTensor, device_of_weights, infer, is_symbolic, leaves, map_leaves
from padless.ragged.packed import Packed, computing_gap_values


class Function:
    """The calls between `inputs` and `outputs`, both nests of symbols.

    `nodes` are the calls in the order of their replay, `operations` what is called, inputs among them, in Keras's order:
    the farthest from the outputs first. Raises `ArgumentError` if an output cannot be reached from the inputs.
    """

    def __init__(self, inputs: Any, outputs: Any) -> None:
        self.inputs = _by_key(inputs)
        self.outputs = _by_key(outputs)
        self.input_symbols: list[SymbolicTensor] = leaves(self.inputs)
        self.output_symbols: list[SymbolicTensor] = leaves(self.outputs)
        for symbol in (*self.input_symbols, *self.output_symbols):
            if not is_symbolic(symbol):
                raise ArgumentError(
                    f"A model is made of the symbols that Input(...) and layers called on it give; got "
                    f"{type(symbol).__name__}."
                )
            of_a_call(symbol)
        if len({id(symbol) for symbol in self.input_symbols}) < len(self.input_symbols):
            raise ArgumentError(
                f"The inputs of a model must differ; got {[s.name for s in self.input_symbols]}, some of them "
                f"twice. Give each once, and use it as often as you like."
            )
        self.nodes = _sorted(self.input_symbols, self.output_symbols)
        self.operations = _listed(self.input_symbols, self.output_symbols, self.nodes)
        self._readers: dict[bool, dict[int, bool]] = {}
        self.num_real_steps: int | None = None  # the real steps of the last call, where something was masked

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: the calls in order, since symbols that point back would make a deep recursion."""
        given = {id(s) for s in self.input_symbols}
        made = [s for node in self.nodes for s in leaves(node.outputs) if is_symbolic(s) and id(s) not in given]
        numbers = {id(s): _Number(n) for n, s in enumerate(made)}

        def flat(tree: Any) -> Any:
            return map_leaves(lambda x: numbers.get(id(x), x), tree)

        plain = [SymbolicTensor(s.shape, s.dtype, s.name, s.num_step_axes, s.mask_source) for s in made]
        calls = [(n.operation, flat(n.args), flat(n.kwargs), flat(n.outputs)) for n in self.nodes]
        return {"inputs": self.inputs, "outputs": flat(self.outputs), "symbols": plain, "calls": calls}

    def __setstate__(self, state: dict[str, Any]) -> None:
        def back(tree: Any) -> Any:
            return map_leaves(lambda x: state["symbols"][x.place] if isinstance(x, _Number) else x, tree)

        for operation, args, kwargs, outputs in state["calls"]:
            node = Node(operation, back(args), back(kwargs), back(outputs))
            getattr(operation, "_inbound_nodes", []).append(node)
        Function.__init__(self, state["inputs"], back(state["outputs"]))

    def __call__(self, values: Sequence[Any], grid: bool = True) -> Any:
        """The outputs for these values of the inputs, in the structure of `outputs`.

        `grid` says whether somebody will look at the outputs' padded grid; where nobody does, no fill is carried.
        """
        known: dict[int, Any] = {id(s): v for s, v in zip(self.input_symbols, values, strict=True)}
        shown = self.gap_values_needed_by_node(grid)
        steps = [value.index.num_steps for value in values if isinstance(value, Packed)]
        for node in self.nodes:
            args, kwargs = map_leaves(lambda x: known[id(x)] if is_symbolic(x) else x, (node.args, node.kwargs))
            with computing_gap_values(shown[id(node)]):
                outputs = node.operation(*args, **kwargs)
            for symbol, value in zip(leaves(node.outputs), leaves(outputs), strict=True):
                if not shown[id(node)] and isinstance(value, Packed):
                    value = value.with_values(value.values)
                if not steps and isinstance(value, Packed):
                    steps.append(value.index.num_steps)
                if is_symbolic(symbol):
                    known[id(symbol)] = value
        self.num_real_steps = steps[0] if steps else None
        return map_leaves(lambda s: known[id(s)], self.outputs)

    def infer_with_input_masks(self, leads: Sequence[int]) -> dict[int, SymbolicTensor]:
        """Each symbol, by its identity, as it is where the masks of the inputs cover these numbers of axes (0: no mask).

        Masks that come with the data are met on small probes, so that one which would be lost is refused at once.
        """
        known = {id(s): s for node in self.nodes for s in leaves(node.outputs)} | {id(s): s for s in self.input_symbols}
        if all(lead == symbol.num_step_axes for lead, symbol in zip(leads, self.input_symbols, strict=True)):
            return known
        for place, (s, lead) in enumerate(zip(self.input_symbols, leads, strict=True)):
            known[id(s)] = SymbolicTensor(s.shape, s.dtype, s.name, lead, self.mask_source_of_input(place) if lead else "")

        def meant(x: Any) -> Any:
            return known[id(x)] if is_symbolic(x) else x

        for node in self.nodes:
            args, kwargs = map_leaves(meant, (node.args, node.kwargs))
            outputs = infer(node.operation, args, kwargs, device_of_weights(node.operation))
            for old, new in zip(leaves(node.outputs), leaves(outputs), strict=True):
                known[id(old)] = new
        return known

    def mask_source_of_input(self, place: int) -> str:
        """What a mask that comes with the data of an input is said to be created by."""
        return self.input_symbols[place].mask_source or f"the data of input {self.input_symbols[place].name!r}"

    def input_positions_for(self, symbol: SymbolicTensor) -> list[int]:
        """The places of the inputs from which this symbol comes."""
        between = {id(s) for node in _sorted(self.input_symbols, [symbol]) for s in node.inputs()} | {id(symbol)}
        return [place for place, source in enumerate(self.input_symbols) if id(source) in between]

    def gap_values_needed_by_node(self, grid: bool) -> dict[int, bool]:
        """For each node whether anybody downstream looks at what its outputs show at masked steps."""
        if grid not in self._readers:
            wanted = {id(s) for s in self.output_symbols} if grid else set()
            shown = {}
            for node in reversed(self.nodes):
                here = any(id(s) in wanted for s in leaves(node.outputs))
                shown[id(node)] = here
                if _reads(node, here):
                    wanted.update(id(s) for s in node.inputs())
            self._readers[grid] = shown
        return self._readers[grid]


class _Number:
    """Stands for a symbol, by its place among those that calls make."""

    def __init__(self, place: int) -> None:
        self.place = place


def _reads(node: Node, shown: bool) -> bool:
    """Whether this call looks at what its inputs show at masked steps, given whether its outputs are looked at."""
    if isinstance(node.operation, TorchFunction):
        return shown
    if any(name == "mask" or name.endswith("_mask") for name in node.kwargs):
        return True  # an explicit mask may widen, and then reads the fill
    return node.operation.needs_gap_values(shown)


def _sorted(sources: list[SymbolicTensor], results: list[SymbolicTensor]) -> list[Node]:
    """The nodes between, each after those it needs; a stack instead of recursion, since graphs may be deep."""
    given = {id(s) for s in sources}
    done: set[int] = set()
    order: list[Node] = []
    stack: list[tuple[Node, bool]] = [(s.node, False) for s in reversed(results) if id(s) not in given]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready:
            done.add(id(node))
            order.append(node)
            continue
        missing = [s for s in node.inputs() if id(s) not in given]
        if not any(True for _ in node.inputs()):
            raise ArgumentError(
                f"The graph is not connected: the output needs the input {node.operation.name!r}, "
                f"which is not among the inputs {[s.name for s in sources]}."
            )
        stack.append((node, True))
        stack.extend((s.node, False) for s in reversed(missing) if id(s.node) not in done)
    return order


def _by_key(tree: Any) -> Any:
    """The same nest with dictionaries in the order of their keys, as Keras walks through them."""
    return {key: _by_key(tree[key]) for key in sorted(tree)} if isinstance(tree, dict) else tree


def _listed(sources: list[SymbolicTensor], results: list[SymbolicTensor], nodes: list[Node]) -> list[Any]:
    """The operations by their distance from the outputs, those equally far as a walk back from the outputs meets them."""
    given = {id(s) for s in sources}
    met: dict[int, Any] = {}
    seen: set[int] = set()
    stack = list(reversed(results))
    while stack:
        symbol = stack.pop()
        if id(symbol.node) not in seen:
            seen.add(id(symbol.node))
            met.setdefault(id(symbol.node.operation), symbol.node.operation)
            stack.extend(() if id(symbol) in given else reversed(list(symbol.node.inputs())))
    far: dict[int, int] = {}  # node -> the longest way to an output
    farthest: dict[int, int] = {}  # the same of operations, which may be called more than once
    for node in (*reversed(nodes), *(s.node for s in sources)):
        own = id(node.operation)
        far[id(node)] = farthest[own] = max(far.get(id(node), 0), farthest.get(own, 0))
        for symbol in () if node in (s.node for s in sources) else node.inputs():
            far[id(symbol.node)] = max(far.get(id(symbol.node), 0), far[id(node)] + 1)
    unused = [s.node.operation for s in sources if id(s.node.operation) not in met]
    return sorted([*unused, *met.values()], key=lambda operation: -farthest[id(operation)])
