"""Read and map nested lists, tuples and dictionaries of tensors. A `Packed` is one leaf.

`torch.utils._pytree` knows more containers, but takes ten times as long, and a call of a layer needs this several times.
So lists, tuples and dictionaries are handled here, and all other containers by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from padless._torch_compat import pytree
from padless.ragged.packed import Packed

Tree: TypeAlias = Any
"""A tensor, a `Packed` or any other value, or a list, tuple or dictionary of trees."""


def leaves(tree: Tree) -> list[Any]:
    """Return the leaves of a tree, in order.

    Example:
        >>> leaves([1, (2, {"a": 3}), None])
        [1, 2, 3, None]
    """
    container = type(tree)
    if container is tuple or container is list:
        return [leaf for branch in tree for leaf in leaves(branch)]
    if container is dict:
        return [leaf for branch in tree.values() for leaf in leaves(branch)]
    return pytree.tree_leaves(tree, is_leaf=_is_packed) if _is_other_container(tree) else [tree]


def map_leaves(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """Return a tree of the same structure with `function` applied to each leaf.

    Example:
        >>> map_leaves(lambda x: 2 * x, {"a": [1, 2]})
        {'a': [2, 4]}
    """
    container = type(tree)
    if container is tuple or container is list:
        return container([map_leaves(function, branch) for branch in tree])
    if container is dict:
        return {key: map_leaves(function, branch) for key, branch in tree.items()}
    return pytree.tree_map(function, tree, is_leaf=_is_packed) if _is_other_container(tree) else function(tree)


def _is_packed(x: object) -> bool:
    return isinstance(x, Packed)


def _is_other_container(x: object) -> bool:
    """Return whether torch splits this object: a named tuple, an ordered dictionary, a registered class."""
    return (type(x) in pytree.SUPPORTED_NODES or isinstance(x, tuple)) and not isinstance(x, Packed)
