"""What can go wrong, as one family.

    PadlessError
    ├── ArgumentError (ValueError)   a name, number or combination of arguments that means nothing here
    ├── ShapeError (ValueError)      arrays whose shapes do not fit each other or the layer
    ├── MaskError (ValueError)       a mask that does not fit its data
    │   └── MaskLost (TypeError)     an operation that would have dropped a mask in silence
    ├── DataError (ValueError)       examples that cannot be trained on: ids, labels, empty data
    ├── NotBuilt (RuntimeError)      weights were asked for before they exist
    └── NotWritten (OSError)         a file that could not be written: a full disk, a folder that takes none

Every message says what was given, what was expected, and what to do. All of them can be caught as the built-in error
that a Keras user would expect, or together as `PadlessError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PadlessError(Exception):
    """The root of the family: every error that padless itself raises."""


class ArgumentError(PadlessError, ValueError):
    """A name, number or combination of arguments that means nothing here."""


class ShapeError(PadlessError, ValueError):
    """Shapes that do not fit each other or the layer."""


class MaskError(PadlessError, ValueError):
    """A mask that does not fit its data."""


class MaskLost(MaskError, TypeError):
    """An operation that would have dropped a mask in silence."""


class DataError(PadlessError, ValueError):
    """Examples that cannot be used: ids outside the vocabulary, labels of another length, nothing at all."""


class NotBuilt(PadlessError, RuntimeError):
    """Weights were asked for before they exist."""


class NotWritten(PadlessError, OSError):
    """A file that could not be written; `errno` says why, as in any OSError."""


def unknown_name(kind: str, name: object, known_names: Iterable[str]) -> str:
    """The sentence for an unknown name, with the nearest known one.

    >>> unknown_name("optimizer", "adm", ["adam", "sgd"])
    "Unknown optimizer 'adm'. Expected one of: adam, sgd. Did you mean 'adam'?"
    """
    names = sorted(known_names)
    near = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {kind} {name!r}. Expected one of: {', '.join(names)}.{hint}"
