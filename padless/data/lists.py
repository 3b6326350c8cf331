"""Read lists: of numbers, of sequences, of arrays, of a tokenizer's encodings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import Protocol, TypeAlias, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padless.data.arrays import as_number_tensor, as_numbers
from padless.data.columns import Column, DenseColumn, Kind, RaggedColumn, tensor_from_numpy
from padless.data.foreign_types import is_instance
from padless.errors import DataError
from padless.ragged.numeric import array_of, shorten
from padless.ragged.row_names import row_name

Row: TypeAlias = "Tensor | NDArray[np.generic]"


class Encoding(Protocol):
    """The part of `tokenizers.Encoding` that is read."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def attention_mask(self) -> list[int]: ...


def read_list(name: str, container: Iterable[object]) -> Column:
    """Read a list, a tuple or an object array with one entry for each example.

    Numbers, and rows of equal shape with at least one step, become a dense column. Rows of different lengths become a ragged
    column. A tokenizer's encodings are read as their ids without padding.

    Raises:
        DataError: For rows that do not hold numbers, that differ in more than their lengths, or that mix single values and
            sequences.
    """
    entries = list(container)
    if _are_encodings(entries):
        entries = [_ids_without_padding(encoding) for encoding in entries]
    if not entries:
        return DenseColumn(name, torch.zeros(0), "grid")
    if not any(issubclass(kind, Sized) for kind in set(map(type, entries))):
        return DenseColumn(name, as_numbers(name, entries), "grid")
    rows = [_read_row(name, number, row) for number, row in enumerate(entries)]
    shapes = {tuple(row.shape) for row in rows}
    if len({len(shape) == 0 for shape in shapes}) > 1:
        single = next(number for number, row in enumerate(rows) if row.ndim == 0)
        raise DataError(
            f"{name} mixes single values with sequences: {row_name(single)} is {shorten(entries[single])}. Expected one "
            f"sequence for each example."
        )
    if shapes == {()}:
        return DenseColumn(name, torch.stack(_as_tensors(rows)), "grid")
    sequence_source = f"{name}, a list of sequences"
    if len(shapes) == 1 and len(rows[0]):
        values = _join(rows)
        kind: Kind = "list" if any(isinstance(entry, Tensor | np.ndarray) for entry in entries) else "grid"
        return DenseColumn(name, values.reshape(len(rows), *rows[0].shape), kind, sequence_source)
    values = _join(_rows_with_steps(name, rows))
    offsets = np.append(0, np.cumsum([len(row) for row in rows]))
    return RaggedColumn(name, len(rows), values, offsets, sequence_source, "list")


def _are_encodings(entries: Sequence[object]) -> TypeGuard[Sequence[Encoding]]:
    if not entries or not is_instance(entries[0], "tokenizers", "Encoding"):
        return False
    return all(is_instance(entry, "tokenizers", "Encoding") for entry in entries)


def _ids_without_padding(encoding: Encoding) -> NDArray[np.int64]:
    return np.asarray(encoding.ids, dtype=np.int64)[np.asarray(encoding.attention_mask, dtype=bool)]


def _read_row(name: str, number: int, row: object) -> Row:
    """Return one row as an array or a tensor of numbers."""

    def place(index: tuple[int, ...]) -> str:
        return f"step {index[0]} of {row_name(number)}" if index else row_name(number)

    if isinstance(row, list):
        array = array_of(row)
        if array is not None and array.ndim == 1 and array.dtype.kind in "bi":  # the usual case, without a closer look
            return array
    if isinstance(row, Tensor):
        return as_number_tensor(f"{name}[{number}]", row, place)
    return as_numbers(f"{name}[{number}]", row, place)


def _rows_with_steps(name: str, rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows that are not empty, after a check of their features. An empty list has no dtype and no features."""
    numbers = [number for number, row in enumerate(rows) if len(row)]
    for number in numbers:
        if rows[number].shape[1:] != rows[numbers[0]].shape[1:]:
            raise DataError(
                f"{name} holds sequences of different features: shape {tuple(rows[numbers[0]].shape)} in "
                f"{row_name(numbers[0])}, {tuple(rows[number].shape)} in {row_name(number)}. Expected them to differ "
                f"in length only."
            )
    return [rows[number] for number in numbers] or rows


def _join(rows: Sequence[Row]) -> Tensor:
    """Return the steps of all rows `(num_steps, ...)`."""
    if isinstance(rows[0], Tensor) or len({row.dtype for row in rows}) > 1 or any(isinstance(row, Tensor) for row in rows):
        return torch.cat(_as_tensors(rows))
    return tensor_from_numpy(np.concatenate(rows))


def _as_tensors(rows: Sequence[Row]) -> list[Tensor]:
    """Return rows as tensors on one device, that of the first tensor among them."""
    device = next((row.device for row in rows if isinstance(row, Tensor)), torch.device("cpu"))
    return [(row if isinstance(row, Tensor) else tensor_from_numpy(row)).to(device) for row in rows]
