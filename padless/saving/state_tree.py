"""Nested values <-> JSON and arrays by name, each exactly as it was: tuples, keys that are numbers, NaN, dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, DataError

_MARK = "~"  # the key of what JSON has no form for


def split_arrays(tree: Any, where: str = "") -> tuple[Any, dict[str, Tensor]]:
    """A nest of dictionaries, lists, tuples, plain values, tensors and arrays as JSON has it, and its arrays by name.

    Raises `ArgumentError`, with the place, for anything else.

    >>> plain, arrays = split_arrays({"step": 3, "betas": (0.9, 0.999), "state": {0: torch.ones(2)}})
    >>> list(arrays)
    ['state/0']
    >>> join_arrays(plain, arrays)
    {'step': 3, 'betas': (0.9, 0.999), 'state': {0: tensor([1., 1.])}}
    """
    arrays: dict[str, Tensor] = {}
    return _plain(tree, where, arrays), arrays


def join_arrays(plain: Any, arrays: Mapping[str, Tensor]) -> Any:
    """What `apart` took apart. Raises `DataError` where something is missing."""
    if isinstance(plain, list):
        return [join_arrays(item, arrays) for item in plain]
    if not isinstance(plain, Mapping):
        return plain
    kind, inner = plain.get(_MARK), plain.get("of")
    if kind is None:
        return {key: join_arrays(value, arrays) for key, value in plain.items()}
    if kind == "tuple" and isinstance(inner, list):
        return tuple(join_arrays(item, arrays) for item in inner)
    if kind == "dict" and isinstance(inner, list):
        return {join_arrays(key, arrays): join_arrays(value, arrays) for key, value in inner}
    if kind in ("tensor", "array") and isinstance(inner, str) and inner in arrays:
        return arrays[inner] if kind == "tensor" else arrays[inner].numpy()
    raise DataError(f"A nest of values holds {dict(plain)!r}, which means nothing here. Was it written by this library?")


def _plain(value: Any, where: str, arrays: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, Tensor | np.ndarray | np.generic):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        arrays[where] = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        return {_MARK: kind, "of": where}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{where}/{place}".lstrip("/"), arrays) for place, item in enumerate(value)]
        return items if isinstance(value, list) else {_MARK: "tuple", "of": items}
    if isinstance(value, Mapping):
        pairs = [(key, _plain(inner, f"{where}/{key}".lstrip("/"), arrays)) for key, inner in value.items()]
        if all(isinstance(key, str) for key, _ in pairs) and _MARK not in value:
            return dict(pairs)
        return {_MARK: "dict", "of": [[_plain(key, f"{where}/key {key}", arrays), inner] for key, inner in pairs]}
    raise ArgumentError(
        f"{where or 'The value'} is {value!r} of type {type(value).__name__}, which cannot be kept. "
        f"Expected numbers, strings, tensors, arrays, and lists, tuples and dictionaries of them."
    )
