"""The structure of a batch: (x, y, sample_weight), each one value or a nest of values, one for each input or output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

from padless._torch_compat import pytree
from padless.errors import ArgumentError, DataError
from padless.ragged.packed import Packed

Nest: TypeAlias = Any
"""One value or a nest of values. A user-defined `call` or `train_step` decides what they are."""


def flatten(tree: Nest) -> list[Nest]:
    """Return the values of a nest in a list. A `Packed` is one value, and so is None."""
    return pytree.tree_leaves(tree, is_leaf=_is_value)


def unflatten(tree: Nest, values: Sequence[Nest]) -> Nest:
    """Return a nest like `tree` with other values, in the order of `flatten`."""
    remaining = iter(values)
    return pytree.tree_map(lambda _: next(remaining), tree, is_leaf=_is_value)


def pair_with_outputs(outputs: Nest, values: Nest, argument: str) -> tuple[list[Nest], list[Nest]]:
    """Return the outputs of a model, and for each its targets or weights. Two dictionaries are paired by name.

    Args:
        outputs: One output, or a nest of outputs.
        values: Targets or weights. None means None for each output.
        argument: What the values are, for the error message.

    Raises:
        DataError: For another number of values than of outputs.
    """
    output_list = flatten(outputs) if isinstance(outputs, list | tuple | dict) else [outputs]
    if values is None:
        return output_list, [None] * len(output_list)
    if isinstance(outputs, dict) and isinstance(values, dict):
        return list(outputs.values()), [values.get(name) for name in outputs]
    value_list = flatten(values) if isinstance(values, list | tuple | dict) else [values]
    if len(value_list) != len(output_list):
        raise DataError(f"The model has {len(output_list)} outputs; got {len(value_list)} {argument}.")
    return output_list, value_list


def check_outputs(outputs: object) -> None:
    """Raise `ArgumentError` for outputs of `predict_step` that cannot be joined with those of other batches."""
    for value in flatten(outputs) or [outputs]:
        if not isinstance(value, Tensor | Packed):
            raise ArgumentError(f"predict_step must return tensors, Packed, or nests of them; got {value!r}.")


def num_examples(x: Nest) -> int:
    """Return the number of rows of the first input that is not None, 0 without one."""
    values = flatten(x) if isinstance(x, list | tuple | dict) else [x]
    first = next((value for value in values if value is not None), None)
    return 0 if first is None or not first.shape else first.shape[0]


def pack_x_y_sample_weight(x: Nest, y: Nest = None, sample_weight: Nest = None) -> Nest:
    """Return the data of a batch as `train_step` gets them, as Keras's function of this name.

    Returns:
        `(x, y, sample_weight)`, `(x, y)`, or x without targets. A list or tuple x without targets is in a tuple.

    >>> pack_x_y_sample_weight(1, 2)
    (1, 2)
    """
    if sample_weight is not None:
        return (x, y, sample_weight)
    if y is not None:
        return (x, y)
    return (x,) if isinstance(x, list | tuple) else x


def unpack_x_y_sample_weight(data: Nest) -> tuple[Nest, Nest, Nest]:
    """Return x, y and sample weights of the data that `train_step` gets, as Keras's function of this name.

    Returns:
        Three parts. Those that are missing are None.

    Raises:
        ArgumentError: For more than three parts, and for none.

    >>> unpack_x_y_sample_weight((1, 2))
    (1, 2, None)
    """
    parts = tuple(data) if isinstance(data, list | tuple) else (data,)
    if not 1 <= len(parts) <= 3:
        raise ArgumentError(f"A batch is x, (x,), (x, y) or (x, y, sample_weight); got {len(parts)} parts.")
    x, y, sample_weight = (*parts, None, None)[:3]
    return x, y, sample_weight


def _is_value(node: object) -> bool:
    return isinstance(node, Packed) or node is None
