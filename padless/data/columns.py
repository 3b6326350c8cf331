"""A column: one input, target or weight of all examples, kept as it was given and read by rows.

A ragged list is flat values and offsets. A slice of rows is a view, any other choice of rows is one gather. Nothing here
loops over rows but the reading of a list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padless.data import ragged_formats as formats
from padless.errors import DataError, MaskError
from padless.ragged.device import to_device
from padless.ragged.index import Index, Ints
from padless.ragged.packed import NESTED_LISTS_ADVICE, Packed, pack

Kind = Literal["grid", "list", "packed"]
Rows = slice | Ints


@dataclass
class DenseColumn:
    what: str
    source: NDArray[Any] | Tensor
    kind: Kind

    def __len__(self) -> int:
        return self.source.shape[0]

    def whole(self) -> Tensor:
        return self.read(slice(0, len(self)))

    def read(self, rows: Rows) -> Tensor:
        return _floatx(_rows(self.source, rows)) if isinstance(self.source, Tensor) else _from_numpy(self.source[rows])


@dataclass
class RaggedColumn:
    """Flat values of all rows; row r of the grid holds those from `offsets[r]` to `offsets[r + 1]`.

    `inside` are the axes of the grid between batch and time, each example being that many rows. Without `positions` the
    rows are right-padded, and the grid of a batch is as wide as its longest, but at least `width`.
    """

    what: str
    count: int
    values: Tensor
    offsets: Ints
    mask_source: str
    kind: Kind
    inside: tuple[int, ...] = ()
    width: int = 0
    positions: Ints | None = None
    gap_values: Tensor | None = None
    gap_offsets: Ints | None = None

    def __len__(self) -> int:
        return self.count

    def whole(self) -> Packed:
        return self.read(slice(0, len(self)))

    def read(self, rows: Rows) -> Packed:
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        each = math.prod(self.inside)
        inner = (rows[:, None] * each + np.arange(each)).reshape(-1)
        chosen, lengths = _spans(self.offsets, inner)
        if self.positions is None:
            width = max(self.width, int(lengths.max(initial=0)))
            mask = np.arange(width) < lengths[:, None]
        else:
            width = self.width
            mask = np.zeros((len(lengths), width), dtype=bool)
            mask[np.repeat(np.arange(len(lengths)), lengths), self.positions[chosen]] = True
        index = Index.from_mask(mask.reshape(len(rows), *self.inside, width), self.mask_source)
        values, fill = _floatx(_rows(self.values, chosen)), None
        if self.gap_values is not None and self.gap_offsets is not None:
            fill = _floatx(_rows(self.gap_values, _spans(self.gap_offsets, inner)[0]))  # whole rows keep their gaps
        return Packed(values, index, fill)


def masked(own: DenseColumn | RaggedColumn, mask: Any) -> RaggedColumn:
    """The column with only the steps that are real by a mask too, in the container that it came in.

    A mask is an array `(rows, steps)` of booleans, or 0 and 1, or has one list for each sequence.
    """
    whole: Any = own.whole()
    steps = _steps(own.what, mask, whole)
    narrowed = column(own.what, pack(whole, mask=steps))
    return replace(narrowed, kind=own.kind, what=own.what)  # pyright: ignore[reportReturnType] - a Packed is ragged


def fits(own: DenseColumn | RaggedColumn, mask: Any) -> bool:
    """Whether a mask could be of this column: of as many steps in each row."""
    if isinstance(own, DenseColumn) and own.source.ndim < 2:
        return False
    try:
        whole: Any = own.whole()
        steps = _steps(own.what, mask, whole)
    except MaskError:
        return False
    return isinstance(steps, Packed) or tuple(steps.shape) == tuple(whole.shape[: steps.ndim])


def _steps(what: str, mask: Any, whole: Any) -> Any:
    """A mask as a grid; one that came as sequences has one entry for each step of each sequence."""
    if isinstance(mask, np.ndarray | Tensor) and not (isinstance(mask, Tensor) and mask.is_nested) and mask.dtype != object:
        return mask
    try:
        found = column(f"the mask of {what}", mask, True).whole()
    except DataError as wrong:
        raise MaskError(str(wrong)) from wrong
    if not isinstance(found, Packed):
        return found
    if isinstance(mask, Packed) and isinstance(whole, Tensor) and tuple(mask.shape) == tuple(whole.shape[: mask.ndim]):
        return mask
    lengths = whole.index.lengths if isinstance(whole, Packed) else np.full(whole.shape[0], whole.shape[1])
    if not isinstance(mask, Packed) and found.shape[:2] == tuple(whole.shape[:2]) and found.index.full:
        return found.values.reshape(found.shape)  # a rectangular list is a grid
    given = found.index.lengths
    same = len(given) == len(lengths)
    wrong = np.flatnonzero(given != lengths) if same else np.zeros(1, np.int64)
    if len(wrong):
        row = int(wrong[0])
        raise MaskError(
            f"The mask of {what} has {given[row]} entries in row {row}, but the data have {lengths[row]} steps "
            f"there ({len(given)} rows for {len(lengths)}). Expected one entry for each step."
        )
    return found if isinstance(whole, Packed) else found.unpack(padding=0)


def _spans(offsets: Ints, rows: Ints) -> tuple[Rows, Ints]:
    """Which entries these rows hold, row after row, and how many each; consecutive rows hold a slice."""
    lengths = offsets[rows + 1] - offsets[rows]
    if len(rows) and (np.diff(rows) == 1).all():
        return slice(int(offsets[rows[0]]), int(offsets[rows[-1] + 1])), lengths
    before = np.cumsum(lengths) - lengths
    return np.repeat(offsets[rows] - before, lengths) + np.arange(lengths.sum()), lengths


def _rows(values: Tensor, rows: Rows) -> Tensor:
    return values[rows] if isinstance(rows, slice) else values.index_select(0, to_device(rows, values.device))


def column(what: str, given: Any, sequences: bool = False) -> DenseColumn | RaggedColumn:
    """A column of anything that has rows; equal lists are dense, unless they are to be `sequences`."""
    found = formats.read(what, given)
    if isinstance(found, formats.NestedLengths):
        return _from_levels(what, found, sequences, formats.library(given))
    given = given if found is None else found
    if isinstance(given, Packed):
        index, gaps = given.index, None
        if given.gap_values is not None:
            gaps = np.append(0, np.cumsum(np.bincount(index.row_of_gap, minlength=index.shape[0])))
        return RaggedColumn(
            what,
            len(given),
            given.values,
            index.offsets,
            index.mask_source,
            "packed",
            index.grid[1:-1],
            index.grid[-1],
            index.positions,
            given.gap_values,
            gaps,
        )
    if isinstance(given, np.ndarray) and given.dtype == object and given.ndim == 1:
        given = list(given)  # how NumPy, and Keras's datasets, write a ragged list
    if isinstance(given, list | tuple):
        return _from_list(what, given, sequences)
    source = given if isinstance(given, Tensor) else numbers(what, given)
    if source.ndim == 0:
        raise DataError(f"{what} is the single value {given!r}. Expected one entry for each example.")
    return DenseColumn(what, source, "grid")


def _from_list(what: str, given: Sequence[Any], sequences: bool) -> DenseColumn | RaggedColumn:
    given = formats.encodings(given) if given and hasattr(given[0], "ids") else given
    if given and not hasattr(given[0], "__len__"):
        return DenseColumn(what, numbers(what, given), "grid")
    device = next((v.device for v in given if isinstance(v, Tensor)), "cpu")
    rows = [v if isinstance(v, Tensor) else _from_numpy(numbers(f"{what}[{i}]", v)).to(device) for i, v in enumerate(given)]
    shapes = {row.shape for row in rows}
    if len({row.ndim == 0 for row in rows}) > 1:
        raise DataError(f"{what} mixes single values with sequences. Expected one sequence for each example.")
    if not rows or shapes == {()} or (len(shapes) == 1 and not sequences and len(rows[0])):
        arrays = any(isinstance(v, Tensor | np.ndarray) and v.ndim for v in given)
        return DenseColumn(what, torch.stack(rows) if rows else torch.zeros(0), "list" if arrays else "grid")
    full = [i for i, row in enumerate(rows) if len(row)]  # an empty list has no dtype and no features of its own
    for i in full:
        if rows[i].shape[1:] != rows[full[0]].shape[1:]:
            raise DataError(
                f"{what} holds sequences of different features: shape {tuple(rows[full[0]].shape)} in row "
                f"{full[0]}, {tuple(rows[i].shape)} in row {i}. Expected them to differ in length only."
            )
    offsets = np.append(0, np.cumsum([len(row) for row in rows]))
    values = torch.cat([rows[i] for i in full] or rows)
    return RaggedColumn(what, len(rows), values, offsets, f"{what}, a list of sequences", "list")


def _from_levels(what: str, found: formats.NestedLengths, sequences: bool, library: str) -> DenseColumn | RaggedColumn:
    values = numbers(what, found.values)
    if not found.lengths:
        return DenseColumn(what, values, "grid")
    lengths = found.lengths[0]
    if len(lengths) and lengths[0] and (lengths == lengths[0]).all() and not sequences:
        return DenseColumn(what, values.reshape(len(lengths), int(lengths[0]), *values.shape[1:]), "list")
    offsets = np.append(0, np.cumsum(lengths))
    return RaggedColumn(what, len(lengths), _from_numpy(values), offsets, f"{what}, a column of {library}", "list")


def numbers(what: str, given: Any) -> NDArray[Any]:
    """An array of what is given as one; anything that is no array of numbers is a `DataError`."""
    if isinstance(given, Packed):
        raise DataError(f"{what} is a Packed, which is many sequences. Expected one, or a model with several inputs.")
    try:
        array = np.asarray(given)
    except ValueError as uneven:
        raise DataError(
            f"{what} is a list of unequal things. Expected a sequence of numbers or equal vectors. {NESTED_LISTS_ADVICE}"
        ) from uneven
    if array.dtype.kind not in "biuf":
        odd = next((v for v in array.flat if not isinstance(v, int | float)), None)
        odd = odd.item() if isinstance(odd, np.generic) else odd
        raise DataError(
            f"{what} must hold numbers; got dtype {array.dtype} with {odd!r} in it. Turn text into ids, "
            f"and other objects into numbers, first."
        )
    return array


def _from_numpy(array: NDArray[Any]) -> Tensor:
    """A view where torch can have one; floats as float32, or float64 if that is torch's default, unsigned as int64."""
    floats = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
    kinds = {"f": floats, "u": np.int64 if array.dtype.itemsize > 1 else np.uint8}
    array = array.astype(kinds.get(array.dtype.kind, array.dtype.newbyteorder("=")), copy=False)
    return torch.from_numpy(array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy())


def _floatx(tensor: Tensor) -> Tensor:
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor
