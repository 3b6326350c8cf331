"""Nests of tensors: lists, tuples and dictionaries of them, and whatever else torch's pytree knows. A Packed is one leaf.

The nests of a call are walked through here, since that happens several times for every layer; torch's own walk knows more
kinds of nests, and takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from padless._torch_compat import pytree
from padless.ragged.packed import Packed


def leaves(tree: Any) -> list[Any]:
    """The leaves, in order.

    >>> leaves([1, (2, {"a": 3}), None])
    [1, 2, 3, None]
    """
    kind = type(tree)
    if kind is tuple or kind is list:
        return [leaf for part in tree for leaf in leaves(part)]
    if kind is dict:
        return [leaf for part in tree.values() for leaf in leaves(part)]
    return pytree.tree_leaves(tree, is_leaf=_is_packed) if _is_other_nest(tree) else [tree]


def map_leaves(fn: Callable[[Any], Any], tree: Any) -> Any:
    """The same nest with `fn` applied to each leaf.

    >>> map_leaves(lambda x: 2 * x, {"a": [1, 2]})
    {'a': [2, 4]}
    """
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([map_leaves(fn, part) for part in tree])
    if kind is dict:
        return {key: map_leaves(fn, part) for key, part in tree.items()}
    return pytree.tree_map(fn, tree, is_leaf=_is_packed) if _is_other_nest(tree) else fn(tree)


def _is_packed(x: Any) -> bool:
    return isinstance(x, Packed)


def _is_other_nest(x: Any) -> bool:
    return (type(x) in pytree.SUPPORTED_NODES or isinstance(x, tuple)) and not isinstance(x, Packed)
