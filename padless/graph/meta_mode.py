"""Run torch functions on tensors of the device `meta`, which have a shape and a dtype but no memory.

Shape inference runs layers on such tensors, although the weights of the layers have memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from padless._torch_compat import DispatchMode
from padless.graph.meta_rules import Operator, find_rule

META = torch.device("meta")

_ABOUT_MEMORY = ("device", "pin_memory", "generator")  # arguments that `meta` tensors do not take


class MetaMode(DispatchMode):
    """Run each torch function on `meta` tensors if one of its tensors is, and create new tensors on `meta`.

    Functions of tensors that have memory are computed, so that the host can plan with their results. A tensor that existed
    before is never written to, and no random number is drawn.

    Attributes:
        paused: whether functions run as they do without the mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        self._converter = _MetaConverter()
        self._own_storages: dict[int, Tensor] = {}  # of tensors that were created here, by the identity of the storage

    def __torch_dispatch__(
        self, func: Operator, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        signature = _signature_of(func)
        tensors = _tensors_in((*args, *kwargs.values()))
        if not tensors or any(tensor.is_meta for tensor in tensors) or signature.draws:
            return self._converter.call(func, args, kwargs)
        if any(_storage_id(tensor) not in self._own_storages for tensor in signature.find_written_tensors(args, kwargs)):
            return self._converter.call(func, args, kwargs)
        results = func(*args, **kwargs)
        self._remember_storages(func, tensors, results)
        return results

    def _remember_storages(self, func: Operator, tensors: Iterable[Tensor], results: object) -> None:
        """Remember which results do not share memory with an argument. `torch.tensor` ends with `lift_fresh`."""
        shared = set() if func is torch.ops.aten.lift_fresh.default else {_storage_id(tensor) for tensor in tensors}
        for result in _tensors_in(results if isinstance(results, list | tuple) else (results,)):
            if not result.is_meta and _storage_id(result) not in shared:
                self._own_storages[_storage_id(result)] = result


class SizeLimitMode(DispatchMode):
    """Create tensors on `meta` that are larger than a limit, and compute with these on `meta`.

    Args:
        max_elements: the size of the largest tensor that has memory.
    """

    def __init__(self, max_elements: int) -> None:
        super().__init__()
        self.max_elements = max_elements
        self._converter = _MetaConverter()

    def __torch_dispatch__(
        self, func: Operator, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(tensor.is_meta for tensor in _tensors_in((*args, *kwargs.values()))):
            return self._converter.call(func, args, kwargs)
        signature = _signature_of(func)
        if signature.writes:
            return func(*args, **kwargs)
        if signature.creates and args and isinstance(args[0], list | tuple):
            is_small = math.prod(args[0]) <= self.max_elements
            return func(*args, **kwargs) if is_small else self._converter.call(func, args, kwargs)
        try:
            results = self._converter.call(func, args, kwargs)
        except (NotImplementedError, RuntimeError):  # a function of values: its results are not larger than its arguments
            return func(*args, **kwargs)
        arrays = _tensors_in(results if isinstance(results, list | tuple) else (results,))
        return results if sum(array.numel() for array in arrays) > self.max_elements else func(*args, **kwargs)


class _MetaConverter:
    """Call functions on `meta` tensors in the place of tensors that have memory."""

    def __init__(self) -> None:
        self._converted: dict[int, tuple[Tensor, Tensor]] = {}  # by `id` of the first, which is kept alive here

    def call(self, func: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the results of a function on `meta`."""
        named = {name: self._convert(value) for name, value in kwargs.items() if name not in _ABOUT_MEMORY}
        if _signature_of(func).takes_device:
            named["device"] = META
        converted = tuple(map(self._convert, args))
        rule = find_rule(func)
        results = NotImplemented if rule is None else rule(*converted, **named)
        return func(*converted, **named) if results is NotImplemented else results

    def _convert(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(self._convert, value)) if any(isinstance(item, Tensor) for item in value) else value
        if not isinstance(value, Tensor) or value.is_meta:
            return value
        if id(value) not in self._converted:
            self._converted[id(value)] = (value, value.detach().to(META))
        return self._converted[id(value)][1]


def _tensors_in(values: Iterable[object]) -> list[Tensor]:
    """Return the tensors among values and in lists of them."""
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors += [item for item in value if isinstance(item, Tensor)]
    return tensors


@dataclass(frozen=True)
class _Signature:
    """What the schema of a function says, which torch parses anew at each request."""

    draws: bool
    """Whether it draws random numbers."""
    writes: bool
    """Whether it writes to an argument."""
    written_arguments: tuple[tuple[int, str], ...]
    """The position and the name of each argument that it writes to."""
    takes_device: bool
    """Whether it has an argument `device`."""
    creates: bool
    """Whether it takes no tensor, so that it creates one."""

    def find_written_tensors(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Return the tensors that a call writes to."""
        return _tensors_in(
            args[position] if position < len(args) else kwargs.get(name) for position, name in self.written_arguments
        )


@cache
def _signature_of(func: Operator) -> _Signature:
    arguments = func._schema.arguments
    return _Signature(
        draws=torch.Tag.nondeterministic_seeded in func.tags,
        writes=func._schema.is_mutable,
        written_arguments=tuple(
            (position, argument.name)
            for position, argument in enumerate(arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ),
        takes_device=any(argument.name == "device" for argument in arguments),
        creates=not any("Tensor" in str(argument.type) for argument in arguments),
    )


def _storage_id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
