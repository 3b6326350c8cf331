"""Split nested values into JSON and arrays, and join them again without a change: tuples, integer keys, NaN, dtypes.

JSON has no form for tuples, arrays and keys that are not strings. They become `{"~": kind, "of": content}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, DataError
from padless.saving.serialization import JsonValue

KIND_KEY = "~"
CONTENT_KEY = "of"
_NOT_OF_NUMPY = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def split_arrays(tree: object, path: str = "") -> tuple[JsonValue, dict[str, Tensor]]:
    """Return nested values as JSON values, and their arrays by name.

    Args:
        tree: Dictionaries, lists, tuples, numbers, strings, None, tensors and NumPy arrays.
        path: The prefix of the names of the arrays.

    Raises:
        ArgumentError: A value has another type.

    Example:
        >>> values, arrays = split_arrays({"step": 3, "betas": (0.9, 0.999), "state": {0: torch.ones(2)}})
        >>> list(arrays)
        ['state/0']
        >>> join_arrays(values, arrays)
        {'step': 3, 'betas': (0.9, 0.999), 'state': {0: tensor([1., 1.])}}
    """
    arrays: dict[str, Tensor] = {}
    return _to_json(tree, path, arrays), arrays


def join_arrays(values: JsonValue, arrays: Mapping[str, Tensor]) -> Any:
    """Return the nested values that `split_arrays` has split.

    Raises:
        DataError: An array is missing or unused, or the values are not those of `split_arrays`.
    """
    unused = dict(arrays)
    tree = _from_json(values, unused)
    if unused:
        raise DataError(f"The array {next(iter(unused))!r:.100} belongs to no saved value. Expected a file of padless.")
    return tree


def _from_json(values: JsonValue, unused: dict[str, Tensor]) -> Any:
    """Return nested values, and remove their arrays from `unused`; so no two values share an array."""
    if isinstance(values, list):
        return [_from_json(item, unused) for item in values]
    if not isinstance(values, Mapping):
        return values
    kind, content = values.get(KIND_KEY), values.get(CONTENT_KEY)
    if kind is None:
        return {key: _from_json(value, unused) for key, value in values.items()}
    if kind == "tuple" and isinstance(content, list):
        return tuple(_from_json(item, unused) for item in content)
    if kind == "dict" and isinstance(content, list) and all(isinstance(p, list) and len(p) == 2 for p in content):
        pairs = [(_from_json(key, unused), _from_json(value, unused)) for key, value in content]
        if all(_is_key(key) for key, _ in pairs) and len(dict(pairs)) == len(pairs):
            return dict(pairs)
    if kind in ("tensor", "array") and isinstance(content, str) and content in unused:
        tensor = unused.pop(content)
        if kind == "tensor":
            return tensor
        if tensor.dtype not in _NOT_OF_NUMPY:
            return tensor.numpy()
    raise DataError(f"The saved value {dict(values)!r:.200} is not valid. Expected values that padless has written.")


def _is_key(value: object) -> bool:
    """Return whether a value can be a key of a dictionary: a number, text, None, or a tuple of these."""
    return all(map(_is_key, value)) if isinstance(value, tuple) else isinstance(value, int | float | str | None)


def _to_json(value: object, path: str, arrays: dict[str, Tensor]) -> JsonValue:
    """Return a value as JSON values, and add its arrays to `arrays` under their paths."""
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, Tensor | np.ndarray | np.generic):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        while path in arrays:  # as for the entry "b" of "a" and the entry "a/b"
            path += "'"
        arrays[path] = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        return {KIND_KEY: kind, CONTENT_KEY: path}
    if isinstance(value, list | tuple):
        items = [_to_json(item, f"{path}/{number}".lstrip("/"), arrays) for number, item in enumerate(value)]
        return items if isinstance(value, list) else {KIND_KEY: "tuple", CONTENT_KEY: items}
    if isinstance(value, Mapping):
        pairs = [(key, _to_json(item, f"{path}/{key}".lstrip("/"), arrays)) for key, item in value.items()]
        if all(isinstance(key, str) for key, _ in pairs) and KIND_KEY not in value:
            return dict(pairs)
        encoded = [[_to_json(key, f"{path}/key {key}", arrays), item] for key, item in pairs]
        return {KIND_KEY: "dict", CONTENT_KEY: encoded}
    raise ArgumentError(
        f"{path or 'The value'} is {value!r} of type {type(value).__name__}, which cannot be saved. "
        f"Expected numbers, strings, tensors, arrays, and lists, tuples and dictionaries of them."
    )
