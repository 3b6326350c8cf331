"""Names for things and things for names: what "adam", "mse" and "relu" mean, and what a saved config refers to.

One table per kind ("layer", "activation", "loss", ...). A room registers what it defines; nobody else writes here but
the user, through `register`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from padless.errors import ArgumentError, unknown_name

T = TypeVar("T")
_tables: dict[str, dict[str, Any]] = {}


def snake_case(name: str) -> str:
    """A class name as Keras writes it in layer names.

    >>> snake_case("GlobalAveragePooling1D"), snake_case("LSTM"), snake_case("PReLU")
    ('global_average_pooling1d', 'lstm', 'p_re_lu')
    """
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def register(kind: str, *names: str) -> Callable[[T], T]:
    """Enter a class or function of the given kind under its own name and under `names`.

    >>> @register("layer")
    ... class MyLayer: ...
    >>> lookup("layer", "MyLayer") is MyLayer
    True
    """

    def enter(thing: T) -> T:
        table = _tables.setdefault(kind, {})
        for name in (getattr(thing, "__name__", ""), *names):
            if name:
                table[name] = thing
        return thing

    return enter


def lookup(kind: str, name: str, extra: dict[str, Any] | None = None) -> Any:
    """What `name` means among things of this kind; `extra` (Keras's `custom_objects`) goes first."""
    table = {**_tables.get(kind, {}), **(extra or {})}
    if name not in table:
        raise ArgumentError(unknown_name(kind, name, table))
    return table[name]


def entries(kind: str) -> dict[str, Any]:
    """Everything of one kind, by name."""
    return dict(_tables.get(kind, {}))
