"""Objects <-> JSON, through the registry.

    object    {"class_name": name, "config": object.get_config()}
    function  its registered name

A name means, in this order: what `custom_objects` or an enclosing `CustomObjectScope` says, what
`register_keras_serializable` entered, what the registry holds of the wanted kind. Nothing is pickled, evaluated or
imported: a config can only name things that are registered already. Configs written by Keras, with their "module" and
"registered_name", are read as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, fields
from inspect import isclass
from typing import Any, Self, TypeVar

import numpy as np
import torch

from padless.errors import ArgumentError, unknown_name
from padless.registry import entries

T = TypeVar("T")
Kind = str | tuple[str, ...]  # several kinds are tried in order; messages name the first

_KINDS = ("layer", "activation", "initializer", "regularizer", "constraint", "loss", "metric", "optimizer", "schedule")
_registered: dict[str, Any] = {}  # "package>name" -> class or function
_scope: ContextVar[Mapping[str, Any] | None] = ContextVar("custom_objects", default=None)


@dataclass(eq=False)
class Configured:
    """A dataclass whose constructor arguments are its config."""

    def get_config(self) -> dict[str, Any]:
        """The constructor arguments, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The object that has this config."""
        return cls(**config)


class CustomObjectScope:
    """Within it, names mean what `custom_objects` says; scopes nest, the inner one goes first.

    >>> with CustomObjectScope({"triple": lambda x: 3 * x}):
    ...     deserialize("triple", "activation")(2)
    6
    """

    def __init__(self, custom_objects: Mapping[str, Any] | None) -> None:
        self.custom_objects = dict(custom_objects or {})
        self._tokens: list[Token[Mapping[str, Any] | None]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_scope.set({**(_scope.get() or {}), **self.custom_objects}))
        return self

    def __exit__(self, *error: object) -> None:
        _scope.reset(self._tokens.pop())


custom_object_scope = CustomObjectScope


def register_keras_serializable(package: str = "Custom", name: str | None = None) -> Callable[[T], T]:
    """Let saved configs name a class or function of your own, as "package>name".

    Raises `ArgumentError` for a class without `get_config`.

    >>> @register_keras_serializable("mine")
    ... def triple(x):
    ...     return 3 * x
    >>> serialize(triple), deserialize("mine>triple", "activation") is triple
    ('mine>triple', True)
    """
    if not isinstance(package, str):
        raise ArgumentError(
            f"register_keras_serializable expected the name of a package, got {package!r}. "
            f"Write `@register_keras_serializable()`, with parentheses."
        )

    def enter(thing: T) -> T:
        own = name or getattr(thing, "__name__", None)
        if own is None or (isclass(thing) and not hasattr(thing, "get_config")):
            raise ArgumentError(
                f"{thing!r} cannot be registered: expected a named function, or a class with "
                f"`get_config()`. Define `get_config()`, or give the function a name."
            )
        _registered[f"{package}>{own}"] = thing
        return thing

    return enter


def get_custom_objects() -> dict[str, Any]:
    """What `register_keras_serializable` has entered, by name; changes to this dictionary count."""
    return _registered


# ---------------------------------------------------------------------------------------------------- objects -> JSON


def serialize(obj: Any, kind: Kind | None = None, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """An object, a function or a nested value as JSON has it; `kind` says in which table its name stands.

    Tuples and arrays become lists, NumPy scalars numbers, dtypes names. Raises `ArgumentError` for a function without
    a registered name, and for anything that has neither a JSON form nor `get_config`.

    >>> serialize({"shape": (2, np.int64(3)), "dtype": torch.float32})
    {'shape': [2, 3], 'dtype': 'float32'}
    """
    with CustomObjectScope(custom_objects):
        return _plain(obj, _kinds(kind))


def _plain(obj: Any, kinds: tuple[str, ...]) -> Any:
    if obj is None or isinstance(obj, str | bool | int | float):
        return obj
    if isinstance(obj, np.generic):
        return _plain(obj.item(), kinds)
    if isinstance(obj, np.ndarray | torch.Tensor):
        return obj.tolist()
    if isinstance(obj, torch.dtype):
        return str(obj).removeprefix("torch.")
    if isinstance(obj, list | tuple):
        return [_plain(item, kinds) for item in obj]
    if isinstance(obj, Mapping):
        return {_key(key): _plain(value, kinds) for key, value in obj.items()}
    if hasattr(obj, "get_config") and not isclass(obj):
        return {"class_name": _class_name(type(obj), kinds), "config": _plain(_config(obj), _KINDS)}
    if isinstance(obj, torch.nn.Module) and _name_of(obj, kinds) is None:
        raise ArgumentError(
            f"The torch module {type(obj).__name__} has no config, so what holds it cannot be saved but by "
            f"its weights (`save_weights`). Give its class `get_config()` and `from_config(config)`, and "
            f"register it with `@padless.saving.register_keras_serializable()`."
        )
    if callable(obj):
        return _function_name(obj, kinds)
    raise ArgumentError(
        f"{obj!r} of type {type(obj).__name__} cannot be saved: expected a number, a string, an array, "
        f"a list or dictionary of them, or an object with `get_config()`."
    )


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise ArgumentError(f"The dictionary key {key!r} cannot be saved: expected a string. Write {str(key)!r}.")
    return key


def _config(obj: Any) -> Mapping[str, Any]:
    config = obj.get_config()
    if not isinstance(config, Mapping):
        raise ArgumentError(f"`get_config()` of {obj!r} must return a dictionary of constructor arguments; got {config!r}.")
    return config


def _class_name(cls: type, kinds: tuple[str, ...]) -> str:
    """The name of a class: one that nobody registered keeps its own, to be found in `custom_objects` later."""
    name = _name_of(cls, kinds)
    if name is None and any(cls.__name__ in entries(kind) for kind in kinds):
        raise ArgumentError(
            f"Class {cls.__module__}.{cls.__qualname__} cannot be saved as {cls.__name__!r}: that name "
            f"means another class. Register yours with "
            f"`@padless.saving.register_keras_serializable()`."
        )
    return name or cls.__name__


def _function_name(function: Callable[..., Any], kinds: tuple[str, ...]) -> str:
    name = _name_of(function, kinds)
    if name is None:
        raise ArgumentError(
            f"{function!r} cannot be saved: it has neither a registered name nor `get_config()`. Give "
            f"a named function to `@padless.saving.register_keras_serializable()` or "
            f"`@padless.registry.register({kinds[0]!r})`, and use that."
        )
    return name


def _name_of(thing: Any, kinds: tuple[str, ...]) -> str | None:
    """The name by which `thing` will be found again; its own name before any other."""
    for table in (_scope.get() or {}, _registered, *(entries(kind) for kind in kinds)):
        names = [name for name, known in table.items() if known is thing]
        if names:
            own = getattr(thing, "__name__", "")
            return own if own in names else names[0]
    return None


# ---------------------------------------------------------------------------------------------------- JSON -> objects


def deserialize(config: Any, kind: Kind, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """What `serialize` wrote, as an object again; a list gives a list, the name of a class an instance of it.

    Raises `ArgumentError` for unknown names, malformed configs, and arguments that the class does not take.
    """
    with CustomObjectScope(custom_objects):
        return _object(config, _kinds(kind))


def get(identifier: Any, kind: Kind, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Whatever a user may write for an object of this kind: None, a name, a config, a class, an instance, a function.

    Raises `ArgumentError` for anything else, and for unknown names.
    """
    if isinstance(identifier, str | Mapping):
        return deserialize(identifier, kind, custom_objects)
    if isclass(identifier):
        return identifier()
    if identifier is None or callable(identifier) or hasattr(identifier, "get_config"):
        return identifier
    raise ArgumentError(
        f"{identifier!r} is not a {_kinds(kind)[0]}: expected None, a name, a config dictionary "
        f'{{"class_name": ..., "config": ...}}, a class, an instance, or a function.'
    )


def _object(config: Any, kinds: tuple[str, ...]) -> Any:
    if config is None:
        return None
    if isinstance(config, list | tuple):
        return [_object(item, kinds) for item in config]
    if isinstance(config, str):
        return _made(_meaning(kinds, config), {}, config)
    if not isinstance(config, Mapping) or not isinstance(config.get("class_name"), str):
        raise ArgumentError(
            f"{config!r} is not a config of a {kinds[0]}: expected a registered name or a dictionary "
            f'{{"class_name": ..., "config": ...}}.'
        )
    name, inner, registered = config["class_name"], config.get("config"), config.get("registered_name")
    if name in ("__numpy__", "__tensor__") and isinstance(inner, Mapping):  # how Keras writes arrays
        return np.asarray(inner["value"], dtype=inner["dtype"])
    if name == "function":
        if not isinstance(inner, str):
            raise ArgumentError(f"{config!r} is not a config of a function: expected its name under 'config'.")
        return _meaning(kinds, inner, registered, config.get("module"))
    if not isinstance(inner, Mapping | None):
        raise ArgumentError(f"The 'config' of {name!r} must be a dictionary of constructor arguments; got {inner!r}.")
    return _made(_meaning(kinds, name, registered, config.get("module")), inner or {}, name)


def _made(thing: Any, config: Mapping[str, Any], name: str) -> Any:
    """An instance, if `thing` is a class; a function stands for itself."""
    if not isclass(thing):
        return thing
    from_config = getattr(thing, "from_config", None)
    try:
        return from_config(dict(config)) if from_config else thing(**config)
    except TypeError as error:
        raise ArgumentError(
            f"{name!r} cannot be made from the config {dict(config)!r}: {error}. Expected the "
            f"arguments of its constructor, or a class with its own `from_config`."
        ) from error


def _meaning(kinds: tuple[str, ...], name: str, registered: str | None = None, module: str | None = None) -> Any:
    """What a name means: custom objects first, also by the part after ">", then what is registered, then the kind's."""
    full = [n for n in (registered, name) if n]
    custom = _scope.get() or {}
    known: dict[str, Any] = {}
    for kind in reversed(kinds):
        known |= {n: thing for n, thing in entries(kind).items() if _from(module, thing)}
    bare = [n.rpartition(">")[2] for n in full]
    for table, names in ((custom, full + bare), (_registered, full), (known, [name])):
        for candidate in names:
            if candidate in table:
                return table[candidate]
    sentence = unknown_name(kinds[0], name, {*known, *custom, *_registered})
    raise ArgumentError(
        f"{sentence} If it is your own, pass it in `custom_objects`, or decorate it with "
        f"`@padless.saving.register_keras_serializable()` before loading."
    )


def _from(module: str | None, thing: Any) -> bool:
    """Whether a config that names its module, as Keras's do, can mean this registered thing."""
    package = (module or "keras").partition(".")[0]
    return package in ("keras", "padless", "builtins") or getattr(thing, "__module__", None) == module


def _kinds(kind: Kind | None) -> tuple[str, ...]:
    return _KINDS if kind is None else (kind,) if isinstance(kind, str) else kind
