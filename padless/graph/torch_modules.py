"""A torch module called on symbols is one call in the graph: of the layer that holds it, not of the functions inside it.

torch calls the module's `forward` by itself, and the first that a graph hears of it is an operation on a symbol in there.
So an operation looks up the stack for the outermost module that is being called on symbols. The first one records the
call of the whole module, and then runs the module once more to learn which operation makes which output. After that
the call under way goes on, each operation giving what it gave before, outputs being those of the recorded call: so
whoever called the module gets these, and what stood between them leads nowhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from padless._torch_compat import pytree
from padless.errors import ArgumentError
from padless.graph.symbolic import SymbolicTensor, device_of_weights, is_symbolic, leaves, map_leaves

CALL = nn.Module._call_impl.__code__  # what runs whenever a module is called


class Call:
    """The call of a module that is under way."""

    def __init__(self, frame: FrameType) -> None:
        self.frame = frame
        self.module: nn.Module = frame.f_locals["self"]
        self.learning = True
        self.made: list[tuple[Any, Any]] = []  # each operation and what it gives, in order
        self.before = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        for counter in _counted(frame):  # by the batch normalizations whose calls led here
            next(value for buffer, value in self.before if buffer is counter).sub_(1)

    def record(self) -> None:
        """The call as a whole, and what each operation inside it stands for."""
        given = self.frame.f_locals["args"], self.frame.f_locals["kwargs"]
        outputs = SymbolicTensor.wrapped(self.module, *given)
        found = self._again(*given)
        shapes = [pytree.tree_structure(map_leaves(lambda _: None, tree)) for tree in (outputs, found)]
        if shapes[0] != shapes[1]:
            raise ArgumentError(
                f"{self._name} gives other outputs in training than otherwise, so it cannot be called on "
                f"symbols. {self._advice}"
            )
        stands_for = {id(a): b for a, b in zip(leaves(found), leaves(outputs), strict=True) if is_symbolic(a)}
        self.made = [(operation, map_leaves(lambda x: stands_for.get(id(x), x), result)) for operation, result in self.made]
        self.made.reverse()
        self.learning = False

    def _again(self, args: Any, kwargs: Any) -> Any:
        """A run of the module on the symbols, which changes nothing: neither statistics nor the stream of random numbers."""
        device = device_of_weights(self.module)
        try:
            with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
                return self.module(*args, **kwargs)
        except Exception as wrong:
            raise ArgumentError(f"{self._name} cannot be called on symbols as it is: {wrong} {self._advice}") from wrong
        finally:
            self._restore()

    @torch.no_grad()
    def _restore(self) -> None:
        """Statistics as they were before the call."""
        for buffer, value in self.before:
            buffer.copy_(value)

    def give(self, operation: Any, compute: Callable[[], Any]) -> Any:
        """What an operation inside the module gives."""
        if self.learning:
            self.made.append((operation, compute()))
            return self.made[-1][1]
        known, result = self.made.pop() if self.made else (None, None)
        if known is not operation:
            raise ArgumentError(f"{self._name} does not do the same each time it is called. {self._advice}")
        if not self.made:
            self._restore()
            _under_way.set(None)  # a frame keeps alive what it works on
        return result

    @property
    def _name(self) -> str:
        return f"The torch module {type(self.module).__name__}"

    @property
    def _advice(self) -> str:
        return "Call padless.layers.TorchModuleWrapper(module) on them: it runs the module on data only."


def _counted(outermost: FrameType) -> list[torch.Tensor]:
    """The counters of batches that have moved already: batch normalization counts before it computes."""
    found, frame = [], sys._getframe(2)
    while frame is not None:
        module = frame.f_locals["self"] if frame.f_code is CALL else None
        if isinstance(module, _BatchNorm) and module.training and module.num_batches_tracked is not None:
            found.append(module.num_batches_tracked)
        frame = None if frame is outermost else frame.f_back
    return found


_under_way: ContextVar[Call | None] = ContextVar("call under way", default=None)


def enclosing(layer: Any = None) -> Call | None:
    """The call of a torch module in which an operation on symbols happens; the operation may be a call of `layer`."""
    found = _outermost(layer)
    if not isinstance(found, FrameType):
        return found
    call = _under_way.get()
    if call is None or call.frame is not found:
        call = Call(found)
        call.record()
        _under_way.set(call)
    return call


def _outermost(layer: Any) -> FrameType | Call | None:
    """Where the outermost torch module is called on symbols, within the padless layer that is being called, if any."""
    found, frame = None, sys._getframe(2)
    while frame is not None:
        code, inside = frame.f_code, frame.f_locals.get("self") if frame.f_code in _LANDMARKS else None
        if code is Call._again.__code__:
            return inside
        if code is Call.record.__code__:
            return None  # it records the layer that holds the module
        if code is CALL and inside is layer:
            layer = None
        elif code is CALL and "_inbound_nodes" in vars(inside):  # a padless layer, which remembers its calls itself
            break
        elif code is CALL and any(map(is_symbolic, leaves((frame.f_locals["args"], frame.f_locals["kwargs"])))):
            found = frame
        frame = frame.f_back
    return found


_LANDMARKS = (CALL, Call._again.__code__, Call.record.__code__)
