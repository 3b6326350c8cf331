"""Put single examples together to a batch, as a Dataset gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from padless.data.batch_structure import Nest
from padless.data.columns import read_all
from padless.data.containers import read_column
from padless.data.tables import LABELS, WEIGHTS
from padless.errors import DataError

ARGUMENTS = ("x", "y", WEIGHTS)

PartsOfExamples: TypeAlias = "list[Any] | tuple[PartsOfExamples, ...] | dict[str, PartsOfExamples]"
"""One part of all examples: a list with one entry for each example, or several parts as a tuple or by name."""


def collate(examples: Sequence[object], sequences: bool = True) -> Nest:
    """Return a batch of examples, for `DataLoader(collate_fn=padless.collate)`.

    Inside an example a tuple or a dictionary holds parts, a list is a sequence.

    Args:
        examples: The examples, each x, `(x, y)`, `(x, y, sample_weight)`, or a dictionary.
        sequences: Whether each part of x that has axes is a sequence and becomes a `Packed`, whatever its lengths. With
            False, parts that are equally long in all examples become an array, as targets and weights do.

    Returns:
        The batch in the form of an example, with tensors and `Packed`.

    Raises:
        DataError: For no examples, and for examples of different forms.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> data = [([1, 2, 3], 0), ([4], 1)]
        >>> x, y = next(iter(DataLoader(data, batch_size=2, collate_fn=collate)))
        >>> x.numpy().tolist(), y.tolist()
        ([[1, 2, 3], [4, 0, 0]], [0, 1])
    """
    parts = group_parts(examples)
    if not isinstance(examples[0], tuple):
        return _read_parts("x", parts[0], sequences)
    return tuple(
        _read_parts(argument, part, sequences and argument == "x") for argument, part in zip(ARGUMENTS, parts, strict=False)
    )


def group_parts(examples: Sequence[object]) -> tuple[PartsOfExamples, ...]:
    """Return x of all examples, then y and sample weights if the examples have them.

    Raises:
        DataError: For no examples, and for examples of different forms.
    """
    if not len(examples):
        raise DataError("A batch of 0 examples cannot be collated. Expected at least one.")
    first = examples[0]
    if not isinstance(first, tuple):
        return (_group("x", examples),)
    if not 1 <= len(first) <= 3:
        raise DataError(
            f"An example must be x, (x, y) or (x, y, sample_weight); got {len(first)} parts. Several inputs go into one "
            f"tuple or dict: ((a, b), y)."
        )
    _check_same_form("The examples", examples)
    return tuple(_group(argument, part) for argument, part in zip(ARGUMENTS, zip(*examples, strict=True), strict=False))


def copy_example(example: object) -> object:
    """Return an example with copies of its arrays, tensors and lists, because its Dataset may fill them again."""
    if isinstance(example, Tensor):
        return example.clone()
    if isinstance(example, np.ndarray):
        return example.copy()
    if isinstance(example, Mapping):
        return {key: copy_example(part) for key, part in example.items()}
    if isinstance(example, tuple):
        return tuple(copy_example(part) for part in example)
    if isinstance(example, list):
        return [copy_example(part) for part in example] if _holds_arrays(example) else list(example)
    return example


def _holds_arrays(values: Sequence[object]) -> bool:
    """Return whether the first entry of a list is not a number."""
    return bool(values) and isinstance(values[0], Tensor | np.ndarray | list | tuple | Mapping)


def _group(name: str, values: Sequence[Any]) -> PartsOfExamples:
    """Return values of all examples in the form of the first value, with lists at the leaves."""
    first = values[0]
    if isinstance(first, Mapping):
        _check_same_form(name, values)
        return {key: _group(f"{name}[{key!r}]", [value[key] for value in values]) for key in first}
    if isinstance(first, tuple):
        _check_same_form(name, values)
        return tuple(_group(f"{name}[{number}]", part) for number, part in enumerate(zip(*values, strict=True)))
    return list(values)


def _read_parts(name: str, parts: PartsOfExamples, takes_sequences: bool) -> Nest:
    """Return grouped parts as tensors and `Packed`. Columns with the names of labels and weights are not sequences."""
    if isinstance(parts, dict):
        return {
            key: _read_parts(f"{name}[{key!r}]", part, takes_sequences and key not in (*LABELS, WEIGHTS))
            for key, part in parts.items()
        }
    if isinstance(parts, tuple):
        return tuple(_read_parts(f"{name}[{number}]", part, takes_sequences) for number, part in enumerate(parts))
    return read_all(read_column(name, parts, takes_sequences))


def _check_same_form(name: str, values: Sequence[object]) -> None:
    """Raise `DataError` for a value that is not a dictionary with the keys of the first, or a tuple of its length."""
    first = values[0]
    for value in values:
        if isinstance(first, Mapping):
            same = isinstance(value, Mapping) and set(value) == set(first)
        else:
            same = isinstance(value, tuple) and isinstance(first, tuple) and len(value) == len(first)
        if not same:
            raise DataError(
                f"{name} differ in form: the first is {_describe(first)}, another is {_describe(value)}. Expected the same "
                f"form."
            )


def _describe(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {sorted(value)}"
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"one {type(value).__name__}"
