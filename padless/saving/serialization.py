"""Convert objects to JSON values and back, by names of the registry.

    object    {"class_name": name, "config": object.get_config()}
    function  its registered name

A name is looked up in `custom_objects` and enclosing `CustomObjectScope`s first, then in the registry under the kind that
is read, then among the objects of `register_keras_serializable`. So only the caller can replace a built-in name. What a
name means must be of the kind that is read: a layer is not an initializer. Nothing is unpickled, evaluated or imported.
A config can only name what is registered. Configs of Keras, with "module" and "registered_name", are read too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, fields
from inspect import isclass
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
import torch

from padless.errors import ArgumentError, PadlessError, unknown_name
from padless.registry import entries, is_of_kind

T = TypeVar("T")
Kind: TypeAlias = str | tuple[str, ...]
"""A kind of the registry, or several that are tried in order; messages name the first."""

JsonValue: TypeAlias = Any
"""None, a boolean, a number, a string, or a list or dictionary of such values."""

CustomObjects: TypeAlias = "Mapping[str, object]"
"""Classes and functions, by the names that configs have for them."""

_KINDS = ("layer", "activation", "initializer", "regularizer", "constraint", "loss", "metric", "optimizer", "schedule")
_ARRAY_DTYPES = tuple("float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split())
_registered: dict[str, object] = {}  # "package>name" -> class or function
_scope: ContextVar[CustomObjects | None] = ContextVar("custom_objects", default=None)


@dataclass(eq=False)
class ConfigDataclass:
    """A dataclass whose config is the arguments of its constructor."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the object with this config."""
        return cls(**config)


class CustomObjectScope:
    """A context in which names mean the classes and functions of `custom_objects`, as in Keras.

    Scopes nest; the inner one has precedence.

    Args:
        custom_objects: Classes and functions, by name.

    Example:
        >>> with CustomObjectScope({"triple": lambda x: 3 * x}):
        ...     deserialize("triple", "activation")(2)
        6
    """

    def __init__(self, custom_objects: CustomObjects | None) -> None:
        self.custom_objects = dict(custom_objects or {})
        self._tokens: list[Token[CustomObjects | None]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_scope.set({**(_scope.get() or {}), **self.custom_objects}))
        return self

    def __exit__(self, *error: object) -> None:
        _scope.reset(self._tokens.pop())


custom_object_scope = CustomObjectScope


def register_keras_serializable(package: str = "Custom", name: str | None = None) -> Callable[[T], T]:
    """Return a decorator that registers a user-defined class or function, so that configs can name it.

    Args:
        package: The first part of the registered name, "package>name".
        name: The second part. Default: the name of the class or function.

    Raises:
        ArgumentError: A class has no `get_config`, or a function has no name.

    Example:
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

    def register_object(obj: T) -> T:
        object_name = name or getattr(obj, "__name__", None)
        if object_name is None or (isclass(obj) and not hasattr(obj, "get_config")):
            raise ArgumentError(
                f"{obj!r} cannot be registered: expected a named function, or a class with "
                f"`get_config()`. Define `get_config()`, or give the function a name."
            )
        _registered[f"{package}>{object_name}"] = obj
        return obj

    return register_object


def get_custom_objects() -> dict[str, object]:
    """Return the dictionary of the objects of `register_keras_serializable`, by name; it can be changed."""
    return _registered


# ---------------------------------------------------------------------------------------------------- objects -> JSON


def serialize(obj: object, kind: Kind | None = None, custom_objects: CustomObjects | None = None) -> JsonValue:
    """Return an object, a function or nested values as JSON values.

    Tuples and arrays become lists, NumPy scalars become numbers, dtypes become names.

    Args:
        obj: The value.
        kind: The kind of the registry in which the names of classes and functions are looked up. Default: all kinds.
        custom_objects: Names that are not registered.

    Raises:
        ArgumentError: A function has no registered name, or a value has neither a JSON form nor `get_config`.

    Example:
        >>> serialize({"shape": (2, np.int64(3)), "dtype": torch.float32})
        {'shape': [2, 3], 'dtype': 'float32'}
    """
    with CustomObjectScope(custom_objects):
        return _to_json(obj, _as_kinds(kind))


def _to_json(obj: object, kinds: tuple[str, ...]) -> JsonValue:
    """Return a value as JSON values; names are those of the given kinds."""
    if obj is None or isinstance(obj, str | bool | int | float):
        return obj
    if isinstance(obj, np.generic):
        return _to_json(obj.item(), kinds)
    if isinstance(obj, np.ndarray | torch.Tensor):
        return obj.tolist()
    if isinstance(obj, torch.dtype):
        return str(obj).removeprefix("torch.")
    if isinstance(obj, list | tuple):
        return [_to_json(item, kinds) for item in obj]
    if isinstance(obj, Mapping):
        return {_check_key(key): _to_json(value, kinds) for key, value in obj.items()}
    if hasattr(obj, "get_config") and not isclass(obj):
        return {"class_name": _class_name(type(obj), kinds), "config": _to_json(_config_of(obj), _KINDS)}
    if isinstance(obj, torch.nn.Module) and _registered_name(obj, kinds) is None:
        raise ArgumentError(
            f"The torch module {type(obj).__name__} has no config, so a model with it cannot be saved, except for "
            f"its weights (`save_weights`). Give its class `get_config()` and `from_config(config)`, and "
            f"register it with `@padless.saving.register_keras_serializable()`."
        )
    if callable(obj):
        return _function_name(obj, kinds)
    raise ArgumentError(
        f"{obj!r} of type {type(obj).__name__} cannot be saved: expected a number, a string, an array, "
        f"a list or dictionary of them, or an object with `get_config()`."
    )


def _check_key(key: object) -> str:
    """Return a key of a dictionary; raise `ArgumentError` if it is not a string."""
    if not isinstance(key, str):
        raise ArgumentError(f"The dictionary key {key!r} cannot be saved: expected a string. Write {str(key)!r}.")
    return key


def _config_of(obj: Any) -> Mapping[str, Any]:
    """Return the config of an object; raise `ArgumentError` if it is not a dictionary."""
    config = obj.get_config()
    if not isinstance(config, Mapping):
        raise ArgumentError(f"`get_config()` of {obj!r} must return a dictionary of constructor arguments; got {config!r}.")
    return config


def _class_name(cls: type, kinds: tuple[str, ...]) -> str:
    """Return the registered name of a class, else its own: `custom_objects` can name such a class when it is loaded."""
    name = _registered_name(cls, kinds)
    if name is None and any(cls.__name__ in entries(kind) for kind in kinds):
        raise ArgumentError(
            f"Class {cls.__module__}.{cls.__qualname__} cannot be saved as {cls.__name__!r}: that name "
            f"means another class. Register yours with "
            f"`@padless.saving.register_keras_serializable()`."
        )
    return name or cls.__name__


def _function_name(function: Callable[..., object], kinds: tuple[str, ...]) -> str:
    """Return the registered name of a function; raise `ArgumentError` if it has none."""
    name = _registered_name(function, kinds)
    if name is None:
        raise ArgumentError(
            f"{function!r} cannot be saved: it has neither a registered name nor `get_config()`. Give "
            f"a named function to `@padless.saving.register_keras_serializable()` or "
            f"`@padless.registry.register({kinds[0]!r})`, and use that."
        )
    return name


def _registered_name(obj: object, kinds: tuple[str, ...]) -> str | None:
    """Return the name under which an object is registered, its `__name__` before any other; None if there is none."""
    for table in (_scope.get() or {}, _registered, *(entries(kind) for kind in kinds)):
        names = [name for name, registered in table.items() if registered is obj]
        if names:
            own_name = getattr(obj, "__name__", "")
            return own_name if own_name in names else names[0]
    return None


# ---------------------------------------------------------------------------------------------------- JSON -> objects


def deserialize(config: JsonValue, kind: Kind, custom_objects: CustomObjects | None = None) -> Any:
    """Return the object of a config that `serialize` has returned.

    Args:
        config: A config, a name, None, or a list of them. The name of a class gives an instance without arguments.
        kind: The kind of the registry in which names are looked up.
        custom_objects: Names that are not registered.

    Raises:
        ArgumentError: A name is unknown, a config is malformed, or a class does not take its arguments.
    """
    with CustomObjectScope(custom_objects):
        return _from_json(config, _as_kinds(kind))


def get(identifier: object, kind: Kind, custom_objects: CustomObjects | None = None) -> Any:
    """Return the object that a user means by None, a name, a config, a class, an instance or a function.

    Args:
        identifier: The value. A class gives an instance without arguments.
        kind: The kind of the registry in which names are looked up.
        custom_objects: Names that are not registered.

    Raises:
        ArgumentError: It is anything else, or a name is unknown.
    """
    if isinstance(identifier, str | Mapping):
        return deserialize(identifier, kind, custom_objects)
    if isclass(identifier):
        return identifier()
    if identifier is None or callable(identifier) or hasattr(identifier, "get_config"):
        return identifier
    raise ArgumentError(
        f"{identifier!r} is not a {_as_kinds(kind)[0]}: expected None, a name, a config dictionary "
        f'{{"class_name": ..., "config": ...}}, a class, an instance, or a function.'
    )


def _from_json(config: JsonValue, kinds: tuple[str, ...]) -> Any:
    """Return the object of a config."""
    if config is None:
        return None
    if isinstance(config, list | tuple):
        return [_from_json(item, kinds) for item in config]
    if isinstance(config, str):
        return _create(_look_up(kinds, config), {}, config)
    if not isinstance(config, Mapping) or not isinstance(config.get("class_name"), str):
        raise ArgumentError(
            f"{config!r} is not a config of a {kinds[0]}: expected a registered name or a dictionary "
            f'{{"class_name": ..., "config": ...}}.'
        )
    name, content = config["class_name"], config.get("config")
    registered_name, module = config.get("registered_name"), config.get("module")
    if name in ("__numpy__", "__tensor__") and isinstance(content, Mapping):  # an array in a config of Keras
        return _array(content)
    if name == "function":
        if not isinstance(content, str):
            raise ArgumentError(f"{config!r} is not a config of a function: expected its name under 'config'.")
        return _look_up(kinds, content, registered_name, module)
    if not isinstance(content, Mapping | None):
        raise ArgumentError(f"The 'config' of {name!r} must be a dictionary of constructor arguments; got {content!r}.")
    return _create(_look_up(kinds, name, registered_name, module), content or {}, name)


def _array(content: Mapping[str, JsonValue]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return an array of a config of Keras, whose numbers are all in the config."""
    value, dtype = content.get("value"), content.get("dtype")
    if not isinstance(dtype, str) or dtype not in _ARRAY_DTYPES:
        raise ArgumentError(
            f"An array in a config has the dtype {dtype!r:.100}. Expected one of {', '.join(_ARRAY_DTYPES)}."
        )
    try:
        return np.asarray(value, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(
            f"An array in a config has the value {value!r:.100}: {error}. Expected lists of numbers."
        ) from error


def _create(registered: object, config: Mapping[str, JsonValue], name: str) -> Any:
    """Return an instance of a registered class with this config; return a registered function as it is."""
    if not isclass(registered):
        return registered
    from_config = getattr(registered, "from_config", None)
    try:
        return from_config(dict(config)) if from_config else registered(**config)
    except PadlessError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError) as error:  # torch refuses the arguments
        raise ArgumentError(
            f"{name!r} cannot be created from the config {dict(config)!r:.500}: {error}. Expected the "
            f"arguments of its constructor, or a class with its own `from_config`."
        ) from error


def _look_up(kinds: tuple[str, ...], name: str, registered_name: object = None, module: object = None) -> Any:
    """Return the class or function of a name.

    Custom objects have precedence, and are also found by the part of a name after ">".
    """
    for key, value in (("registered_name", registered_name), ("module", module)):
        if not isinstance(value, str | None):
            raise ArgumentError(f"The {key!r} of {name!r} must be a string or None; got {value!r:.100}.")
    full_names = [full_name for full_name in (registered_name, name) if isinstance(full_name, str) and full_name]
    short_names = [full_name.rpartition(">")[2] for full_name in full_names]
    custom = _scope.get() or {}
    built_in: dict[str, object] = {}
    for kind in reversed(kinds):
        built_in |= {key: obj for key, obj in entries(kind).items() if _is_of_module(obj, module)}
    for candidate in full_names + short_names:
        if candidate in custom:
            return _check_kind(custom[candidate], kinds, candidate)
    if name in built_in:
        if isinstance(registered_name, str) and registered_name in _registered:
            raise ArgumentError(
                f"A config has the built-in class name {name!r} and the registered name {registered_name!r} of another "
                f"class. Give the user-defined class another name, or pass it in `custom_objects`."
            )
        return built_in[name]
    for candidate in full_names:
        if candidate in _registered:
            return _check_kind(_registered[candidate], kinds, candidate)
    message = unknown_name(kinds[0], name, {*built_in, *custom, *_registered})
    raise ArgumentError(
        f"{message} If it is user-defined, pass it in `custom_objects`, or decorate it with "
        f"`@padless.saving.register_keras_serializable()` before loading."
    )


def _check_kind(definition: object, kinds: tuple[str, ...], name: str) -> object:
    """Return a user-defined class or function; raise `ArgumentError` if it is not of one of the kinds."""
    if not any(is_of_kind(definition, kind) for kind in kinds):
        raise ArgumentError(f"A config names {name!r}, which is {definition!r}, where it needs a {kinds[0]}.")
    return definition


def _is_of_module(obj: object, module: object) -> bool:
    """Return whether a config with this "module", as Keras writes it, can mean a registered object."""
    package = str(module or "keras").partition(".")[0]
    return package in ("keras", "padless", "builtins") or getattr(obj, "__module__", None) == module


def _as_kinds(kind: Kind | None) -> tuple[str, ...]:
    """Return the kinds as a tuple; None means all."""
    if kind is None:
        return _KINDS
    return (kind,) if isinstance(kind, str) else kind
