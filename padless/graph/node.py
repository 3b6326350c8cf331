"""Record the calls of layers and torch functions on symbolic tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import numpy as np
import torch

from padless._threads import ForkSafeLock
from padless.errors import ArgumentError
from padless.graph.saved_functions import torch_function_at, torch_path
from padless.graph.shape_inference import elements_of_probes, infer, size_of_numbers
from padless.graph.symbolic import SymbolicTensor, Tree, is_symbolic, leaves, map_leaves
from padless.graph.torch_modules import check_stateless
from padless.ragged.packed import Packed
from padless.ragged.tensor_like import Args, Kwargs, TensorFunction, implements
from padless.ragged.torch_function import call_torch_function, function_name, in_place_error, is_in_place
from padless.registry import snake_case


class _NameCounter:
    """Make names unique by a count for each prefix.

    Args:
        lock: the lock of the process, which all counters share, since it is kept for each fork.
    """

    def __init__(self, lock: ForkSafeLock) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = lock

    def next_name(self, prefix: str) -> str:
        """Return the prefix at first, then the prefix and a number."""
        with self._lock:
            count = self._counts[prefix]
            self._counts[prefix] += 1
        return f"{prefix}_{count}" if count else prefix

    def reset(self) -> None:
        """Start to count again."""
        with self._lock:
            self._counts.clear()

    def copy(self) -> _NameCounter:
        """Return a counter that continues from the same counts."""
        counter = _NameCounter(self._lock)
        with self._lock:
            counter._counts.update(self._counts)
        return counter


_names = _NameCounter(ForkSafeLock())
_separate_names: ContextVar[_NameCounter | None] = ContextVar("separate_names", default=None)


def auto_name(prefix: str) -> str:
    """Return the next free name, as Keras counts: `dense`, `dense_1`, `dense_2`."""
    return (_separate_names.get() or _names).next_name(prefix)


@contextmanager
def separate_names() -> Iterator[None]:
    """Count the automatic names in this context apart, so that the names of the process continue as if it had not been."""
    token = _separate_names.set((_separate_names.get() or _names).copy())
    try:
        yield
    finally:
        _separate_names.reset(token)


def reset_names() -> None:
    """Start to count names again."""
    _names.reset()


class Operation(Protocol):
    """What a node calls: a layer or a `TorchFunction`."""

    name: str

    def __call__(self, *args: Tree, **kwargs: Tree) -> Tree: ...

    def needs_gap_values(self, outputs_read: bool, /) -> bool:
        """Return whether a call reads the gap values of its inputs, given whether those of its outputs are read."""
        ...

    def _infer_outputs(self, args: Args, kwargs: Kwargs, /) -> Tree:
        """Return new symbols for the results of a call on symbols."""
        ...


class Node:
    """A call of an operation on symbols.

    The symbols in `outputs` get this node, their position, and the name of the operation if they have no name. The node
    of an input of a model has no arguments and is not replayed.

    Args:
        operation: the layer or torch function.
        args: the positional arguments, symbols among them.
        kwargs: the named arguments.
        outputs: the results, a tree of symbols.
    """

    def __init__(self, operation: Operation, args: Args, kwargs: Kwargs, outputs: Tree) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.outputs = outputs
        for position, symbol in enumerate(leaves(outputs)):
            if is_symbolic(symbol):
                symbol.node, symbol.position = self, position
                symbol.name = symbol.name or operation.name

    def inputs(self) -> Iterator[SymbolicTensor]:
        """Return the symbols among the arguments."""
        return filter(is_symbolic, leaves((self.args, self.kwargs)))


class TorchFunction:
    """A torch function as an operation of a graph, such as the `* 2` in `h * 2`.

    Args:
        function: a function or tensor method of torch.
        name: the name of the operation; by default that of the function, made unique.
    """

    def __init__(self, function: TensorFunction, name: str | None = None) -> None:
        self.function = function
        self.name = name or auto_name(snake_case(function_name(function).strip("_")))

    def __call__(self, *args: Tree, **kwargs: Tree) -> Tree:
        inputs = leaves((args, kwargs))
        if any(map(is_symbolic, inputs)):  # while a graph is read from a config
            return Node(self, args, kwargs, self._infer_outputs(args, kwargs)).outputs
        if any(isinstance(leaf, Packed) for leaf in inputs):
            return call_torch_function(self.function, args, kwargs)
        return self.function(*args, **kwargs)

    def _infer_outputs(self, args: Args, kwargs: Kwargs) -> Tree:
        """Return new symbols for the results of a call on symbols."""
        num_elements = elements_of_probes((args, kwargs)) * size_of_numbers((args, kwargs))
        return infer(self, args, kwargs, num_elements=num_elements)

    def needs_gap_values(self, outputs_read: bool, /) -> bool:
        """Return whether the gap values of the inputs are read: if those of the outputs are."""
        return outputs_read

    def get_config(self) -> dict[str, str]:
        """Return the name and the path of the function in torch."""
        return {"name": self.name, "function": torch_path(self.function)}

    @classmethod
    def from_config(cls, config: dict[str, str]) -> TorchFunction:
        """Return the function of a config.

        Raises:
            ArgumentError: the config is malformed, or the function is not in the list of `saved_functions`.
        """
        if set(config) != {"name", "function"} or not isinstance(config["name"], str):
            raise ArgumentError(f"{config!r} is not a config of a TorchFunction. Expected a 'name' and a 'function'.")
        return cls(torch_function_at(config["function"]), config["name"])


@implements(SymbolicTensor)
def record(function: TensorFunction, args: Args, kwargs: Kwargs) -> Tree:
    """Record a call of a torch function on symbols, and return its results as symbols.

    Raises:
        ArgumentError: if the function writes in place, or belongs to a torch module with state (`check_stateless`).
        MaskLost: if it would combine different steps of a masked symbol.
    """
    name = function_name(function)
    if is_in_place(name, kwargs):
        raise in_place_error(name, kwargs)
    check_stateless(name, args, kwargs)
    args, kwargs = map_leaves(lambda x: torch.tensor(x) if isinstance(x, np.ndarray) else x, (tuple(args), kwargs))
    if name in ("reshape", "view", "expand") and None in leaves(args[1:]):
        raise ArgumentError(
            f"`{name}` of {args[0]!r} was given {args[1:]}: an axis whose size is open is None "
            f"in `shape`. Write -1 for it, or use the Reshape layer. If a torch module does this, wrap the module: "
            f"padless.layers.TorchModuleWrapper(module)(x)."
        )
    operation = TorchFunction(function)
    return Node(operation, args, kwargs, operation._infer_outputs(args, kwargs)).outputs
