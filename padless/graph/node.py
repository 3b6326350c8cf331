"""One call, remembered: what was called, on which symbols, and what it will give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError
from padless.graph.spec import Symbolic, infer, is_symbolic, leaves, map_leaves
from padless.ragged.functions import writing
from padless.ragged.packed import Packed
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
        for position, symbol in enumerate(leaves(outputs)):
            if is_symbolic(symbol):
                symbol.node, symbol.position = self, position
                symbol.name = symbol.name or operation.name

    def inputs(self) -> Iterator[Symbolic]:
        """The symbols among the arguments."""
        yield from filter(is_symbolic, leaves((self.args, self.kwargs)))


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
        return {"name": self.name, "function": _place_of(self.function)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TorchFunction:
        """The function that stands at the place which `get_config` named; only torch's own can be meant."""
        place, _, name = config["function"].rpartition(".")
        if place not in _HOMES or not hasattr(_HOMES[place], name):
            raise ArgumentError(f"Unknown torch function {config['function']!r} in a saved graph; expected one of torch, "
                                f"torch.nn.functional or torch.Tensor.")
        return cls(getattr(_HOMES[place], name), config["name"])


_HOMES: dict[str, Any] = {"torch.nn.functional": torch.nn.functional, "torch.Tensor": Tensor, "torch": torch}


def _place_of(function: Callable[..., Any]) -> str:
    names = (function.__name__, f"__{function.__name__}__")  # torch calls `Tensor.__pow__` just "pow"
    for place, home in _HOMES.items():
        for name in names:
            if getattr(home, name, None) == function:
                return f"{place}.{name}"
    raise ArgumentError(f"The function {function!r} cannot be saved: it is none of torch's. Put it into a layer.")


def record(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """A torch function on symbols: its result as symbols, the call kept as a node."""
    writing(getattr(function, "__name__", ""), args, kwargs)
    args, kwargs = map_leaves(lambda x: torch.tensor(x) if isinstance(x, np.ndarray) else x, (tuple(args), kwargs))
    if getattr(function, "__name__", "") in ("reshape", "view", "expand") and None in leaves(args[1:]):
        raise ArgumentError(f"`{function.__name__}` of {args[0]!r} was given {args[1:]}: an axis whose size is open is None "
                            f"in `shape`. Write -1 for it, or use the Reshape layer.")
    operation = TorchFunction(function)
    return Node(operation, args, kwargs, infer(operation, args, kwargs)).outputs


Symbolic.recorder = staticmethod(record)
