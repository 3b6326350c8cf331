"""One call, remembered: what was called, on which symbols, and what it will give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import get_overridable_functions

from padless.errors import ArgumentError
from padless.graph.symbolic import SymbolicTensor, device_of_weights, infer, is_symbolic, leaves, map_leaves
from padless.graph.torch_modules import enclosing
from padless.ragged.packed import Packed
from padless.ragged.torch_function import writing
from padless.registry import snake_case

_counts: dict[str, int] = {}


def auto_name(prefix: str) -> str:
    """The next free name, as Keras counts: `dense`, `dense_1`, `dense_2`."""
    count = _counts.get(prefix, 0)
    _counts[prefix] = count + 1
    return f"{prefix}_{count}" if count else prefix


def reset_names() -> None:
    """Begin counting names again."""
    _counts.clear()


class Node:
    """A call of `operation` with these arguments; its outputs are symbols that point back here.

    An input has a node without an operation's arguments: `args` is empty and nothing is replayed.
    """

    def __init__(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.outputs = outputs
        for symbol in self.inputs():
            of_a_call(symbol)
        for position, symbol in enumerate(leaves(outputs)):
            if is_symbolic(symbol):
                symbol.node, symbol.position = self, position
                symbol.name = symbol.name or operation.name

    def inputs(self) -> Iterator[SymbolicTensor]:
        """The symbols among the arguments."""
        yield from filter(is_symbolic, leaves((self.args, self.kwargs)))


def of_a_call(symbol: SymbolicTensor) -> SymbolicTensor:
    """The symbol, if it is an input or what a call gave; raises `ArgumentError` for what stands inside a torch module."""
    if symbol.node is None:
        raise ArgumentError(
            f"{symbol!r} stands for something inside a torch module. Of a module called on symbols only "
            f"what it returns can be used, alone or in lists, tuples and dictionaries."
        )
    return symbol


class TorchFunction:
    """A torch function or operator as a step of a graph, such as the `* 2` in `h * 2`."""

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.function = function
        self.name = name or auto_name(snake_case(function.__name__.strip("_")))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = leaves((args, kwargs))
        if any(map(is_symbolic, given)):  # read from a config: the name is kept
            return Node(self, args, kwargs, infer(self, args, kwargs)).outputs
        if any(isinstance(leaf, Packed) for leaf in given):
            return Packed.functions(self.function, args, kwargs)
        return self.function(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The function by the place where torch has it."""
        return {"name": self.name, "function": torch_path(self.function)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TorchFunction:
        """The function that stands at the place which `get_config` named; only torch's own can be meant."""
        return cls(torch_function_at(config["function"]), config["name"])


_HOMES: dict[str, Any] = {
    "torch.nn.functional": torch.nn.functional,
    "torch.Tensor": Tensor,
    "torch": torch,
    "torch.special": torch.special,
    "torch.linalg": torch.linalg,
    "torch.fft": torch.fft,
}
_UNLISTED = set("sigmoid tanh hardsigmoid hardswish rand_like randn_like randint_like normal".split())  # by torch itself


def torch_path(function: Callable[..., Any]) -> str:
    """Where torch has a function of tensors.

    >>> torch_path(torch.exp), torch_path(torch.special.erf)
    ('torch.exp', 'torch.special.erf')
    """
    own = getattr(function, "__name__", "")
    names = (own, f"__{own}__", own.partition("_")[2])  # torch calls `Tensor.__pow__` just "pow", and erf "special_erf"
    for place, there in _HOMES.items():
        for name in names:
            if name and getattr(there, name, None) == function and _takes_tensors(there, name):
                return f"{place}.{name}"
    raise ArgumentError(f"The function {function!r} cannot be saved: it is none of torch's. Put it into a layer.")


def torch_function_at(place: str) -> Callable[..., Any]:
    """What `torch_path` named: a file can mean functions of tensors only, not `torch.save` or `torch.load`."""
    where, _, name = place.rpartition(".")
    if where not in _HOMES or not hasattr(_HOMES[where], name) or not _takes_tensors(_HOMES[where], name):
        raise ArgumentError(
            f"Unknown torch function {place!r} in a saved config; expected a function of tensors in {', '.join(_HOMES)}."
        )
    return getattr(_HOMES[where], name)


def _takes_tensors(there: Any, name: str) -> bool:
    return there is Tensor or name in _UNLISTED or getattr(there, name) in get_overridable_functions()[there]


def record(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """A torch function on symbols: its result as symbols, the call kept as a node, or as a part of a torch module's."""
    inside = enclosing()
    if inside is not None:
        return inside.give(
            function,
            lambda: infer(*_checked(TorchFunction(function, "inside"), args, kwargs), device_of_weights(inside.module)),
        )
    operation, args, kwargs = _checked(TorchFunction(function), args, kwargs)
    return Node(operation, args, kwargs, infer(operation, args, kwargs)).outputs


def _checked(operation: TorchFunction, args: Any, kwargs: dict[str, Any]) -> tuple[TorchFunction, Any, dict[str, Any]]:
    """The call, if symbols allow it."""
    name = getattr(operation.function, "__name__", "")
    writing(name, args, kwargs)
    args, kwargs = map_leaves(lambda x: torch.tensor(x) if isinstance(x, np.ndarray) else x, (tuple(args), kwargs))
    if name in ("reshape", "view", "expand") and None in leaves(args[1:]):
        raise ArgumentError(
            f"`{name}` of {args[0]!r} was given {args[1:]}: an axis whose size is open is None "
            f"in `shape`. Write -1 for it, or use the Reshape layer."
        )
    return operation, args, kwargs


SymbolicTensor.recorder = staticmethod(record)
