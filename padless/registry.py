"""Find classes and functions by name: what "adam", "mse" and "relu" mean, and what a saved config names.

There is one table for each kind of object ("layer", "activation", "loss", ...). Each package registers its classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from padless.errors import ArgumentError, unknown_name

Registered = TypeVar("Registered", bound="type | Callable[..., Any]")
RegisteredClass = TypeVar("RegisteredClass", bound=type)
Table: TypeAlias = "dict[str, Any]"
_tables: dict[str, Table] = {}
_bases: dict[str, type] = {}
_required_bases: dict[str, type] = {}


def snake_case(name: str) -> str:
    """Return a class name as Keras writes it in the names of layers.

    Example:
        >>> snake_case("GlobalAveragePooling1D"), snake_case("LSTM"), snake_case("PReLU")
        ('global_average_pooling1d', 'lstm', 'p_re_lu')
    """
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def register(kind: str, *names: str) -> Callable[[Registered], Registered]:
    """Register the decorated class or function.

    Args:
        kind: the table, such as "layer".
        names: names in addition to that of the class or function.

    Example:
        >>> @register("layer")
        ... class MyLayer: ...
        >>> lookup("layer", "MyLayer") is MyLayer
        True
    """

    def enter(definition: Registered) -> Registered:
        _tables.setdefault(kind, {}).update(dict.fromkeys((definition.__name__, *names), definition))
        return definition

    return enter


def lookup(kind: str, name: str, extra: Mapping[str, object] | None = None) -> Any:
    """Return the class or function with a name.

    Args:
        kind: the table, such as "layer".
        name: the name.
        extra: names that go first, such as Keras's `custom_objects`.

    Raises:
        ArgumentError: if there is no such name.
    """
    table = {**_tables.get(kind, {}), **(extra or {})}
    if name not in table:
        raise ArgumentError(unknown_name(kind, name, table))
    return table[name]


def entries(kind: str) -> Table:
    """Return all classes and functions of a kind, by name."""
    return dict(_tables.get(kind, {}))


def base_of(kind: str, required: bool = True) -> Callable[[RegisteredClass], RegisteredClass]:
    """Return a decorator that makes a class the base of a kind, for configs that name user-defined classes.

    Args:
        kind: the table, such as "layer".
        required: whether only subclasses are of this kind. Else subclasses are of no other kind.
    """

    def enter(cls: RegisteredClass) -> RegisteredClass:
        _bases[kind] = cls
        if required:
            _required_bases[kind] = cls
        return cls

    return enter


def is_of_padless(definition: object) -> bool:
    """Return whether a class or function is defined in padless, not by a user or another library.

    Example:
        >>> is_of_padless(snake_case), is_of_padless(len)
        (True, False)
    """
    return (getattr(definition, "__module__", None) or "").partition(".")[0] == __name__.partition(".")[0]


def is_of_kind(definition: object, kind: str) -> bool:
    """Return whether a user-defined class or function can be of a kind.

    A kind with a required base takes its subclasses. Another kind takes functions, and classes that are not subclasses of
    the base of a different kind. An activation may be a layer.
    """
    base = _required_bases.get(kind)
    if base is not None:
        return isinstance(definition, type) and issubclass(definition, base)
    if not isinstance(definition, type):
        return callable(definition)
    foreign_bases = (base for name, base in _bases.items() if name != kind and (kind, name) != ("activation", "layer"))
    return not issubclass(definition, tuple(foreign_bases))
