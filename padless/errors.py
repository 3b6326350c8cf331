"""The errors of padless.

    PadlessError
    ├── ArgumentError (ValueError)   a name, number or combination of arguments that is not valid
    ├── ShapeError (ValueError)      shapes that do not fit each other or the layer
    ├── MaskError (ValueError)       a mask that does not fit its data
    │   └── MaskLost (TypeError)     an operation that would lose a mask
    ├── DataError (ValueError)       examples that cannot be used: ids, labels, empty data
    │   └── NotLoaded                a file that could not be loaded
    │       └── FileMissing (FileNotFoundError)   a file that does not exist
    ├── NotBuilt (RuntimeError)      weights were asked for before they exist
    ├── ConcurrentUse (RuntimeError) threads that use one model in ways that exclude each other
    └── NotWritten (OSError)         a file that could not be written

A message says what was given, what was expected, and what to do. Each class is also the built-in error that Keras raises
in its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ArgumentError",
    "ConcurrentUse",
    "DataError",
    "MaskError",
    "MaskLost",
    "NotBuilt",
    "NotWritten",
    "PadlessError",
    "ShapeError",
]


class PadlessError(Exception):
    """The base class of all errors that padless raises."""


class ArgumentError(PadlessError, ValueError):
    """A name, number or combination of arguments that is not valid."""


class ShapeError(PadlessError, ValueError):
    """Shapes that do not fit each other or the layer."""


class MaskError(PadlessError, ValueError):
    """A mask that does not fit its data."""


class MaskLost(MaskError, TypeError):
    """An operation that would lose a mask."""


class DataError(PadlessError, ValueError):
    """Examples that cannot be used: ids outside the vocabulary, labels of another length, empty data."""


class NotLoaded(DataError, ArgumentError, ShapeError):
    """A file that could not be loaded. It is damaged, forged, of a newer version, or not for this model.

    All functions that read a file of padless raise this error, before a weight or anything in the process has changed. It
    is an `ArgumentError` and a `ShapeError`, too, which padless 0.1.0 raised for weights of another model.
    """


class FileMissing(NotLoaded, FileNotFoundError):
    """A file that does not exist."""


class NotBuilt(PadlessError, RuntimeError):
    """Weights were asked for before they exist."""


class ConcurrentUse(PadlessError, RuntimeError):
    """Threads that use one model in ways that exclude each other, such as `fit` and `predict`."""


class NotWritten(PadlessError, OSError):
    """A file that could not be written; `errno` gives the reason, as in any `OSError`."""


def unknown_name(kind: str, name: object, known_names: Iterable[str]) -> str:
    """Return the error message for an unknown name, with the most similar known name.

    Args:
        kind: what is named, such as "optimizer".
        name: the unknown name.
        known_names: the names that are valid.

    Example:
        >>> unknown_name("optimizer", "adm", ["adam", "sgd"])
        "Unknown optimizer 'adm'. Expected one of: adam, sgd. Did you mean 'adam'?"
    """
    names = sorted(known_names)
    similar = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {similar[0]!r}?" if similar else ""
    return f"Unknown {kind} {name!r}. Expected one of: {', '.join(names)}.{hint}"
