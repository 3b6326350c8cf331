"""Inputs, targets, outputs and weights side by side: a batch is (x, y, sample_weight), each a leaf or a nest of leaves."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padless._torch_compat import pytree
from padless.errors import ArgumentError, DataError
from padless.ragged.packed import Packed


def flatten(tree: Any) -> list[Any]:
    """The outputs, targets or weights of a batch as a list; a Packed is one of them, and so is None."""
    return pytree.tree_leaves(tree, is_leaf=lambda x: isinstance(x, Packed) or x is None)


def unflatten(tree: Any, found: list[Any]) -> Any:
    """What `flat` took apart, put together again with other leaves."""
    rest = iter(found)
    return pytree.tree_map(lambda _: next(rest), tree, is_leaf=lambda x: isinstance(x, Packed) or x is None)


def pair_with_outputs(outputs: Any, given: Any, what: str) -> tuple[list[Any], list[Any]]:
    """Outputs side by side with their targets or weights, by name where both are dictionaries."""
    own = flatten(outputs) if isinstance(outputs, list | tuple | dict) else [outputs]
    if given is None:
        return own, [None] * len(own)
    if isinstance(outputs, dict) and isinstance(given, dict):
        return [outputs[k] for k in outputs], [given.get(k) for k in outputs]
    theirs = flatten(given) if isinstance(given, list | tuple | dict) else [given]
    if len(theirs) != len(own):
        raise DataError(f"The model has {len(own)} outputs; got {len(theirs)} {what}.")
    return own, theirs


def check_outputs(outputs: Any) -> None:
    """Refuse outputs that batches cannot be put together from."""
    for leaf in flatten(outputs) or [outputs]:
        if not isinstance(leaf, Tensor | Packed):
            raise ArgumentError(f"predict_step must return tensors, Packed, or nests of them; got {leaf!r}.")


def num_examples(x: Any) -> int:
    """How many examples a batch has, by the first of its inputs that is there."""
    leaf = next((leaf for leaf in (flatten(x) if isinstance(x, list | tuple | dict) else [x]) if leaf is not None), None)
    return 0 if leaf is None or not leaf.shape else leaf.shape[0]


def pack_x_y_sample_weight(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """What `train_step` gets of a batch: as much of (x, y, sample_weight) as is there; x alone, if it is no nest.

    >>> pack_x_y_sample_weight(1, 2)
    (1, 2)
    """
    if sample_weight is not None:
        return (x, y, sample_weight)
    if y is not None:
        return (x, y)
    return (x,) if isinstance(x, list | tuple) else x


def unpack_x_y_sample_weight(data: Any) -> tuple[Any, Any, Any]:
    """A batch as `train_step` gets it, always in three parts; those that are not there are None.

    >>> unpack_x_y_sample_weight((1, 2))
    (1, 2, None)
    """
    parts = tuple(data) if isinstance(data, list | tuple) else (data,)
    if not 1 <= len(parts) <= 3:
        raise ArgumentError(f"A batch is x, (x,), (x, y) or (x, y, sample_weight); got {len(parts)} parts.")
    return (*parts, None, None, None)[:3]  # pyright: ignore[reportReturnType]
