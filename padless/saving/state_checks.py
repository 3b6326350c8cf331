"""Check values that were read from a file: their types, ranges, lengths and shapes. Each wrong value is a `DataError`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from padless.errors import DataError

Check: TypeAlias = "Callable[[str, object], object]"
"""A function of the name of a value and the value, which raises `DataError` for a wrong one."""

LARGEST = 2**53  # up to here a float counts without a gap
LARGEST_OPTION = 1e38  # of an optimizer; a step in float32 has an error for a larger one


def invalid(name: str, value: object, expected: str) -> DataError:
    """Return the error for a value that padless cannot have written."""
    text = f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}" if isinstance(value, Tensor) else repr(value)
    return DataError(
        f"The backup is damaged or was changed: {name} is {text:.200}. Expected {expected}. Delete the file, or choose "
        f"another backup_dir."
    )


def integer(name: str, value: object, lowest: int = 0, highest: int = LARGEST) -> int:
    """Return an integer from `lowest` to `highest`; raise `DataError` for any other value.

    Example:
        >>> integer("batch", 3), integer("batch", -1)
        Traceback (most recent call last):
        padless.errors.DataError: The backup is damaged or was changed: batch is -1. Expected an integer from 0 to ...
    """
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise invalid(name, value, f"an integer from {lowest} to {highest}")
    return value


def option(name: str, value: object, lowest: float = -LARGEST_OPTION) -> float:
    """Return an option of an optimizer, which is a finite number that float32 can hold."""
    if number(name, value, lowest, finite=True) > LARGEST_OPTION:
        raise invalid(name, value, f"a number of at most {LARGEST_OPTION}")
    return number(name, value)


def number(name: str, value: object, lowest: float = -math.inf, finite: bool = False) -> float:
    """Return a number of at least `lowest`; NaN and infinities only if they need not be finite."""
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or value < lowest
        or finite
        and not -math.inf < value < math.inf
    ):
        bound = f" of at least {lowest}" if lowest > -math.inf else ""
        raise invalid(name, value, f"a {'finite ' if finite else ''}number{bound}")
    return value


def boolean(name: str, value: object) -> bool:
    """Return a boolean; raise `DataError` for any other value."""
    if not isinstance(value, bool):
        raise invalid(name, value, "True or False")
    return value


def optional(check: Check) -> Check:
    """Return a check that accepts None, too."""
    return lambda name, value: None if value is None else check(name, value)


def list_of(check: Check) -> Check:
    """Return a check of lists whose items pass a check."""

    def check_list(name: str, value: object) -> None:
        for position, item in enumerate(sequence(name, value)):
            check(f"{name}[{position}]", item)

    return check_list


def dictionary_of(check: Check) -> Check:
    """Return a check of dictionaries by text whose values pass a check."""

    def check_dictionary(name: str, value: object) -> None:
        for key, item in mapping(name, value).items():
            check(f"{name}[{text(f'a key of {name}', key)!r}]", item)

    return check_dictionary


def anything(name: str, value: object) -> None:
    """Accept any value."""


def array(name: str, value: object) -> None:
    """Raise `DataError` unless a value is a NumPy array."""
    if not isinstance(value, np.ndarray):
        raise invalid(name, value, "an array")


def check_alike(name: str, value: object, like: object) -> None:
    """Raise `DataError` unless a value has the types and keys of another one; None there stands for any number or text."""
    if isinstance(like, bool):
        boolean(name, value)
    elif isinstance(like, int | float):
        number(name, value)
    elif isinstance(like, dict):
        for key, item in mapping(name, value, like, like).items():
            check_alike(f"{name}, {key},", item, like[key])
    elif isinstance(like, list | tuple):
        for item, like_item in zip(sequence(name, value, len(like), type(like)), like, strict=True):
            check_alike(name, item, like_item)
    elif isinstance(like, Tensor):
        tensor_like(name, value, like)
    elif like is None:
        if not isinstance(value, int | float | str | None):
            raise invalid(name, value, "None, a number or text")
    elif type(value) is not type(like):
        raise invalid(name, value, f"a value like {like!r}")


def plain(name: str, value: object) -> None:
    """Raise `DataError` unless a value has no tensors, arrays and tuples, so that it can be compared."""
    if isinstance(value, list):
        for item in value:
            plain(name, item)
    elif isinstance(value, dict):
        for key, item in value.items():
            plain(f"{name}.{key}", item)
    elif not isinstance(value, None | bool | int | float | str):
        raise invalid(name, value, "numbers, text, lists and dictionaries")


def text(name: str, value: object) -> str:
    """Return a string; raise `DataError` for any other value."""
    if not isinstance(value, str):
        raise invalid(name, value, "text")
    return value


def sequence(
    name: str, value: object, length: int | None = None, kind: type[list[Any] | tuple[Any, ...]] = list
) -> Sequence[Any]:
    """Return a list, or a tuple if that is the kind; raise `DataError` for another value or length."""
    if not isinstance(value, kind) or length is not None and len(value) != length:
        raise invalid(name, value, f"a {kind.__name__}" + ("" if length is None else f" of {length} values"))
    return value


def mapping(name: str, value: object, keys: Iterable[str] = (), others: Iterable[str] | None = None) -> Mapping[Any, Any]:
    """Return a dictionary that has some keys; with `others`, no keys except these are allowed in addition."""
    keys = set(keys)
    if not isinstance(value, dict) or not keys <= value.keys():
        missing = sorted(keys - value.keys()) if isinstance(value, dict) else sorted(keys)
        raise invalid(name, value, "a dictionary" + f" with the entries {', '.join(missing)}" * bool(missing))
    unknown = set() if others is None else value.keys() - keys - set(others)
    if unknown:
        raise invalid(name, value, f"a dictionary without the entries {', '.join(sorted(map(repr, unknown)))}")
    return value


def tensor_like(name: str, value: object, like: Tensor) -> Tensor:
    """Return a tensor of the shape and dtype of another one; raise `DataError` for any other value."""
    if not isinstance(value, Tensor) or value.shape != like.shape or value.dtype != like.dtype:
        raise invalid(name, value, f"a tensor of shape {tuple(like.shape)} and dtype {like.dtype}")
    return value


def array_like(name: str, value: object, like: np.ndarray[Any, Any]) -> None:
    """Raise `DataError` unless a value is an array of the shape and dtype of another one."""
    if not isinstance(value, np.ndarray) or value.shape != like.shape or value.dtype != like.dtype:
        shape = f"{value.shape} and dtype {value.dtype}" if isinstance(value, np.ndarray) else repr(value)
        raise invalid(name, shape, f"an array of shape {like.shape} and dtype {like.dtype}")
