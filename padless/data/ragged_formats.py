"""Containers of other libraries, told by what they are and never imported: awkward, pyarrow, polars, torch's own.

Each becomes a `Packed`, or `Levels`: flat numbers and the lengths of the lists around them. Nothing here loops over rows.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from padless.errors import DataError
from padless.ragged.index import Index, Ints
from padless.ragged.packed import NESTED_LISTS_ADVICE, Packed, pack


@dataclass
class NestedLengths:
    """The numbers of nested lists, flat, and for each level of lists their lengths, outermost first."""

    values: NDArray[Any]
    lengths: list[Ints]


def library(given: Any) -> str:
    """The package that made this type."""
    return type(given).__module__.partition(".")[0]


def read(what: str, given: Any) -> Packed | NestedLengths | None:
    """What is known of a foreign container; None for what is none.

    Raises `DataError` for a missing value, with its row, and for lists of unequal lengths inside a sequence.

    >>> from torch.nn.utils.rnn import pack_sequence
    >>> read("x", pack_sequence([torch.tensor([1, 2]), torch.tensor([3])])).numpy().tolist()
    [[1, 2], [3, 0]]
    """
    if isinstance(given, PackedSequence):
        grid, lengths = pad_packed_sequence(given, batch_first=True)
        return pack(grid, lengths=lengths)
    if isinstance(given, Tensor) and given.is_nested:
        return _nested(given)
    reader = {"pyarrow": _arrow, "polars": _polars, "awkward": _awkward}.get(library(given))
    return None if reader is None else _whole(what, reader(what, given))


def encodings(given: Sequence[Any]) -> list[Any]:
    """A list of a tokenizer's encodings (of Hugging Face's `tokenizers`) as lists of the ids that are no padding."""
    if not all(hasattr(item, "ids") and hasattr(item, "attention_mask") for item in given):
        return list(given)
    return [np.asarray(item.ids, dtype=np.int64)[np.asarray(item.attention_mask, dtype=bool)] for item in given]


def _nested(given: Tensor) -> Packed:
    """A nested tensor; torch's jagged layout is flat values and offsets already."""
    jagged: Any = given
    if given.layout == torch.jagged and jagged._ragged_idx == 1 and jagged.lengths() is None:
        lengths = np.diff(jagged.offsets().cpu().numpy())
        return Packed(jagged.values(), Index.from_lengths(lengths, mask_source="a nested tensor"))
    return Packed.from_sequences(list(given.unbind()))


def _whole(what: str, found: NestedLengths) -> NestedLengths:
    """Only the outermost lists may differ in length; those inside are the features of a step."""
    values, (*outer,) = found.values, found.lengths
    while len(outer) > 1:
        sizes = outer.pop()
        if len(sizes) and (sizes != sizes[0]).any():
            raise DataError(
                f"{what} holds lists of {sizes.min()} and of {sizes.max()} numbers inside its sequences. "
                f"Expected a sequence of numbers or equal vectors. {NESTED_LISTS_ADVICE}"
            )
        values = values.reshape(len(sizes), int(sizes[0]) if len(sizes) else 0, *values.shape[1:])
    return NestedLengths(values, outer)


def _missing(what: str, absent: NDArray[np.bool_], levels: list[Ints]) -> None:
    """Refuse missing values, by the row of the outermost list."""
    if not absent.any():
        return
    place = int(np.flatnonzero(absent)[0])
    for lengths in reversed(levels):
        place = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
    raise DataError(f"{what} has a missing value (null) in row {place}. Fill it, or drop the row, first.")


def _arrow(what: str, given: Any) -> NestedLengths:
    array = given.combine_chunks() if hasattr(given, "combine_chunks") else given
    levels: list[Ints] = []
    while True:
        array = getattr(array, "storage", array)  # of an extension type
        if hasattr(array, "dictionary_decode"):
            array = array.dictionary_decode()
        _missing(what, array.is_null().to_numpy(zero_copy_only=False), levels)
        if hasattr(array, "value_lengths"):
            levels.append(array.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64))
        elif getattr(array.type, "list_size", None) is not None:
            levels.append(np.full(len(array), array.type.list_size))
        else:
            return NestedLengths(array.to_numpy(zero_copy_only=False), levels)
        array = array.flatten()


def _polars(what: str, given: Any) -> NestedLengths:
    levels: list[Ints] = []
    while True:
        _missing(what, given.is_null().to_numpy(), levels)
        if type(given.dtype).__name__ != "List":
            return NestedLengths(given.to_numpy(), levels)  # a fixed-size Array has axes of its own
        lengths = given.list.len()
        levels.append(lengths.to_numpy().astype(np.int64))
        given = given.filter(lengths > 0).explode()


def _awkward(what: str, given: Any) -> NestedLengths:
    awkward: Any = sys.modules["awkward"]
    levels: list[Ints] = []
    for axis in range(given.ndim):
        _missing(what, _flat(awkward, awkward.is_none(given, axis=axis)).astype(bool), levels)
        if axis + 1 < given.ndim:
            levels.append(_flat(awkward, awkward.num(given, axis=axis + 1)).astype(np.int64))
    return NestedLengths(_flat(awkward, given), levels)


def _flat(awkward: Any, array: Any) -> NDArray[Any]:
    return np.asarray(awkward.to_numpy(awkward.flatten(array, axis=None)))
