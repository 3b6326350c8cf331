"""Record the calls of layers and torch functions on symbolic tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from threading import Lock
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.overrides import get_overridable_functions

from padless.errors import ArgumentError
from padless.graph.symbolic import SymbolicTensor, Tree, infer, is_symbolic, leaves, map_leaves
from padless.graph.torch_modules import check_stateless
from padless.ragged.packed import Packed
from padless.ragged.tensor_like import Args, Kwargs, TensorFunction, implements
from padless.ragged.torch_function import call_torch_function, function_name, in_place_error, is_in_place
from padless.registry import snake_case


class _NameCounter:
    """Make names unique by a count for each prefix."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = Lock()

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


_names = _NameCounter()


def auto_name(prefix: str) -> str:
    """Return the next free name, as Keras counts: `dense`, `dense_1`, `dense_2`."""
    return _names.next_name(prefix)


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
            return Node(self, args, kwargs, infer(self, args, kwargs)).outputs
        if any(isinstance(leaf, Packed) for leaf in inputs):
            return call_torch_function(self.function, args, kwargs)
        return self.function(*args, **kwargs)

    def needs_gap_values(self, outputs_read: bool, /) -> bool:
        """Return whether the gap values of the inputs are read: if those of the outputs are."""
        return outputs_read

    def get_config(self) -> dict[str, str]:
        """Return the name and the path of the function in torch."""
        return {"name": self.name, "function": torch_path(self.function)}

    @classmethod
    def from_config(cls, config: dict[str, str]) -> TorchFunction:
        """Return the function of a config; `ArgumentError` if it is not a tensor function of torch."""
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
    return Node(operation, args, kwargs, infer(operation, args, kwargs)).outputs


# ------------------------------------------------------------------------------------------------ functions by path

_NAMESPACES: dict[str, ModuleType | type[Tensor]] = {
    "torch.nn.functional": torch.nn.functional,
    "torch.Tensor": Tensor,
    "torch": torch,
    "torch.special": torch.special,
    "torch.linalg": torch.linalg,
    "torch.fft": torch.fft,
}
# Tensor functions that torch does not list as overridable.
_UNLISTED = set("sigmoid tanh hardsigmoid hardswish rand_like randn_like randint_like normal".split())


def torch_path(function: TensorFunction) -> str:
    """Return the path of a tensor function in torch.

    Raises:
        ArgumentError: if torch has no such function.

    Example:
        >>> torch_path(torch.exp), torch_path(torch.special.erf)
        ('torch.exp', 'torch.special.erf')
    """
    full_name = function_name(function)
    # torch calls `Tensor.__pow__` just "pow", and `torch.special.erf` "special_erf".
    names = (full_name, f"__{full_name}__", full_name.partition("_")[2])
    for path, namespace in _NAMESPACES.items():
        for name in names:
            if name and getattr(namespace, name, None) == function and _takes_tensors(namespace, name):
                return f"{path}.{name}"
    raise ArgumentError(f"{function!r} cannot be saved, because it is not a function of torch. Put it into a layer.")


def torch_function_at(path: str) -> TensorFunction:
    """Return the function at a path that `torch_path` returned.

    Raises:
        ArgumentError: if the path is not that of a tensor function, such as `torch.load`.
    """
    namespace_path, _, name = path.rpartition(".")
    namespace = _NAMESPACES.get(namespace_path)
    if namespace is None or name not in dir(namespace) or not _takes_tensors(namespace, name):
        raise ArgumentError(
            f"Unknown torch function {path!r} in a saved config; expected a tensor function of {', '.join(_NAMESPACES)}."
        )
    return getattr(namespace, name)


def _takes_tensors(namespace: object, name: str) -> bool:
    """Return whether a name of a namespace is a tensor function."""
    return namespace is Tensor or name in _UNLISTED or getattr(namespace, name) in get_overridable_functions()[namespace]
