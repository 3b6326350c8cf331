"""Read ragged containers of padless, torch and NumPy: `Packed`, `PackedSequence`, nested tensors, masked arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from padless.data.arrays import as_number_tensor, as_numbers
from padless.data.columns import RaggedColumn, tensor_from_numpy
from padless.ragged.alignment import example_of_step
from padless.ragged.index import Index
from padless.ragged.masked_array import split_masked_array
from padless.ragged.numeric import Places
from padless.ragged.packed import Packed, pack_shared
from padless.ragged.row_names import row_name


class JaggedTensor(Protocol):
    """The methods of a tensor with the layout `torch.jagged`, which torch's type hints do not have."""

    def values(self) -> Tensor: ...
    def offsets(self) -> Tensor: ...
    def lengths(self) -> Tensor | None: ...


def read_packed(name: str, packed: Packed) -> RaggedColumn:
    """Read a `Packed` without a copy."""
    index, gap_offsets = packed.index, None
    if packed.gap_values is not None:
        gap_offsets = np.append(0, np.cumsum(np.bincount(index.row_of_gap, minlength=index.shape[0])))
    return RaggedColumn(
        name,
        num_examples=len(packed),
        values=as_number_tensor(name, packed.values, places_of_steps(packed.index)),
        offsets=index.offsets,
        mask_source=index.mask_source,
        kind="packed",
        inner_shape=index.grid[1:-1],
        width=index.grid[-1],
        positions=index.positions,
        gap_values=packed.gap_values,
        gap_offsets=gap_offsets,
    )


def read_masked_array(name: str, array: np.ma.MaskedArray) -> RaggedColumn:
    """Read the steps of a NumPy masked array that are not masked. `predict` answers with an array.

    >>> array = np.ma.masked_array([[1, 2], [3, 4]], mask=[[0, 0], [0, 1]])
    >>> read_masked_array("x", array).read(slice(0, 2)).lengths.tolist()
    [2, 1]
    """
    values, is_real = split_masked_array(name, array)
    packed = pack_shared(tensor_from_numpy(as_numbers(name, values)), is_real)
    return replace(read_packed(name, packed), kind="grid")


def places_of_steps(index: Index) -> Places:
    """Return the function that names the row of one of the real steps."""
    return lambda place: row_name(example_of_step(index, place[0]))


def read_packed_sequence(name: str, sequences: PackedSequence) -> RaggedColumn:
    """Read torch's `PackedSequence`, in the order of the sequences before they were sorted.

    >>> from torch.nn.utils.rnn import pack_sequence
    >>> column = read_packed_sequence("x", pack_sequence([torch.tensor([1, 2]), torch.tensor([3])]))
    >>> column.read(slice(0, 2)).numpy().tolist()
    [[1, 2], [3, 0]]
    """
    grid, lengths = pad_packed_sequence(sequences, batch_first=True)
    return read_packed(name, pack_shared(grid, lengths=lengths))


def read_nested_tensor(name: str, nested: Tensor) -> RaggedColumn:
    """Read a nested tensor. One with the jagged layout, whose second axis is ragged, is flat values and offsets already."""
    if nested.layout == torch.jagged and isinstance(nested.shape[1], torch.SymInt):
        jagged = cast(JaggedTensor, nested)
        if jagged.lengths() is None:
            lengths = np.diff(jagged.offsets().cpu().numpy())
            return read_packed(name, Packed(jagged.values(), Index.from_lengths(lengths, mask_source="a nested tensor")))
    return read_packed(name, Packed.from_sequences(list(nested.unbind())))
