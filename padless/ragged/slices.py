"""Slice a `Packed` with the axes of the grid: whole sequences, spans of time, features.

A slice of time acts on the span of each sequence, from its first to its last real step, gaps included. So it gives the
same steps whatever the padding, its side and the other sequences. `Cropping1D` does the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.ragged.broadcast import NotElementwise
from padless.ragged.call_context import current_call
from padless.ragged.index import Index, Ints
from padless.ragged.packed import Packed

_ALL = slice(None)
_REVERSED = (
    "A negative step would reverse the padding too. To read a sequence from its end use a recurrent layer with "
    "go_backwards=True, or Bidirectional."
)
_MIXED_ENDS = (
    "The slice counts its start from the end and its stop from the start, so that only short sequences would have steps. "
    "Count both bounds from the same end, or use two slices."
)


def slice_grid(packed: Packed, key: object) -> Packed | Tensor:
    """Return `packed[key]`, with the axes of the grid.

    `h[i:j]`, `h[[2, 0]]` and `h[booleans]` choose whole sequences. `h[:, a:b:k]` slices the span of each sequence, and
    `h[..., a:b]` features. In a layer that reads the grid, a slice of time cuts columns. It then returns the padded
    array, unless each sequence has the same steps either way.

    Raises:
        NotElementwise: if the key selects single steps or rows.
        ArgumentError: if a slice has the step 0.
    """
    keys = _keys_of_axes(packed, key)
    step_keys, feature_keys = keys[: packed.num_step_axes], keys[packed.num_step_axes :]
    if _selects_cells(step_keys):
        return _read_without_masked_steps(packed, keys)
    if sum(isinstance(axis_key, Tensor) for axis_key in (*step_keys, *feature_keys)) > 1:
        raise NotElementwise("Several index tensors at once may move the features before the steps.")
    packed = choose_sequences(packed, step_keys[0])
    if any(axis_key != _ALL for axis_key in step_keys[1:]):
        sliced = _slice_time(packed, step_keys[1:])
        if isinstance(sliced, Tensor):
            return sliced[(*(_ALL,) * len(step_keys), *feature_keys)]
        packed = sliced
    if all(isinstance(axis_key, slice) and axis_key == _ALL for axis_key in feature_keys):
        return packed
    value_key = (_ALL, *feature_keys)
    return packed.map_values(lambda rows: rows[value_key])


def _keys_of_axes(packed: Packed, key: object) -> list[Any]:
    """Return the key of each axis of the grid, with an ellipsis and missing keys replaced by full slices."""
    keys = list(key) if isinstance(key, tuple) else [key]
    keys = [_as_index(k) if isinstance(k, np.ndarray | list) else k for k in keys]
    if any(isinstance(k, Packed) for k in keys):
        raise NotElementwise("Boolean selection by a Packed takes steps out of their sequences.")
    if not any(k is Ellipsis for k in keys):
        keys.append(Ellipsis)
    position = next(number for number, k in enumerate(keys) if k is Ellipsis)
    num_keys = sum(k is not None for k in keys) - 1  # None adds an axis, the ellipsis is replaced
    keys[position : position + 1] = [_ALL] * (packed.ndim - num_keys)
    return keys


def _as_index(key: NDArray[np.generic] | list[Any]) -> Tensor:
    """Return an array or list of numbers or booleans as a tensor; an empty list holds integers."""
    return torch.as_tensor(key) if len(key) else torch.zeros(0, dtype=torch.long)


def _selects_cells(step_keys: list[Any]) -> bool:
    """Return whether keys of the step axes select single steps or rows, and not sequences and slices of time."""
    first, *others = step_keys
    is_list_of_rows = isinstance(first, Tensor) and first.ndim == 1
    return not (isinstance(first, slice) or is_list_of_rows) or not all(isinstance(k, slice) for k in others)


# ------------------------------------------------------------------------------------------------ single steps and rows


def _read_without_masked_steps(packed: Packed, keys: list[Any]) -> Tensor:
    """Return what a key of single steps or rows selects from a result without masked steps, which is a plain tensor.

    Raises:
        NotElementwise: if there are masked steps, or in a call of padless, where another batch could have some.
    """
    if packed.index.full and not current_call().layer:
        return packed.unpack()[tuple(keys)]
    time_key = keys[packed.num_step_axes - 1]
    advice = "For the first or last real step use FirstStep()(x) or LastStep()(x), for whole sequences `x.sequences()`."
    if isinstance(time_key, int) and not isinstance(time_key, bool):
        advice = f"{_layer_for_step(time_key)} gives this step of each sequence. Whole sequences are in `x.sequences()`."
    raise NotElementwise(f"It selects single steps or rows of the grid. {advice}")


def _layer_for_step(number: int) -> str:
    """Return the call that gives one step of each sequence, counted from its first or, if negative, its last step."""
    if number in (0, -1):
        return "LastStep()(x)" if number else "FirstStep()(x)"
    return f"FirstStep()(x[:, {number}:])" if number > 0 else f"LastStep()(x[:, :{number + 1}])"


# ------------------------------------------------------------------------------------------------ whole sequences


def choose_sequences(packed: Packed, key: slice | Tensor) -> Packed:
    """Return some sequences, in the order of the key."""
    if isinstance(key, slice) and key == _ALL:
        return packed
    batch = packed.index.grid[0]
    if isinstance(key, Tensor) and key.dtype == torch.bool and len(key) != batch:
        raise ShapeError(f"{len(key)} booleans cannot choose among {batch} sequences: give one for each.")
    rows = np.arange(batch)[key if isinstance(key, slice) else key.detach().cpu().numpy()]
    return packed.rearrange_cells(_cells_of_grid(packed.index)[rows], every_cell=current_call().may_use_grid)


def _cells_of_grid(index: Index) -> Ints:
    """Return the number of each cell, in the shape of the grid."""
    return np.arange(index.shape[0] * index.shape[1]).reshape(index.grid)


# ------------------------------------------------------------------------------------------------ slices of time


@dataclass(frozen=True)
class _SpanSlice:
    """What a slice of the span of each row reads.

    Attributes:
        source: `(rows, width)`, the old column of each new cell.
        columns_agree: whether the same slice of columns reads each real step from the same column, and no row has a gap.
    """

    source: Ints
    columns_agree: bool


def _slice_time(packed: Packed, keys: list[slice]) -> Packed | Tensor:
    """Slice the axes of time: one, or with outer levels several."""
    for key in keys:
        if key.step is not None and key.step == 0:
            raise ArgumentError(f"The slice {key} of time has the step 0. Expected a positive integer.")
    if current_call().may_use_grid:
        return _slice_columns(packed, keys)
    if any(_is_reversed(key) for key in keys):
        raise NotElementwise(_REVERSED)
    if any(_mixes_ends(key) for key in keys):
        raise NotElementwise(_MIXED_ENDS)
    if all(len(range(size)[key]) == size for size, key in zip(packed.index.grid[1:], keys, strict=True)):
        return packed
    cells, columns_agree = _span_cells(packed.index, keys)
    return packed.rearrange_cells(cells, columns_agree=columns_agree)


def _is_reversed(key: slice) -> bool:
    """Return whether a slice has a negative step."""
    return key.step is not None and key.step < 0


def _mixes_ends(key: slice) -> bool:
    """Return whether a slice counts its start from the end and its stop from the start, as `[-3:2]`."""
    return key.start is not None and key.stop is not None and key.start < 0 <= key.stop


def _slice_columns(packed: Packed, keys: list[slice]) -> Packed | Tensor:
    """Slice the columns of the grid, for a layer that reads the grid.

    A slice of the spans that gives the same steps at the same columns is a `Packed`; else the result is an array.
    """
    cells = _cells_of_grid(packed.index)[(_ALL, *keys)]
    sliced = packed.rearrange_cells(cells, every_cell=True)
    if any(_is_reversed(key) or _mixes_ends(key) for key in keys):
        return sliced.unpack()
    steps = packed.index.step_of_cell
    same_steps = np.array_equal(steps[cells], steps[_span_cells(packed.index, keys)[0]])
    return sliced if same_steps else sliced.unpack()


def _span_cells(index: Index, keys: list[slice]) -> tuple[Ints, bool]:
    """Return the old cell of each cell of the grid whose time is sliced, and whether columns and steps agree."""
    cells, columns_agree = _cells_of_grid(index), True
    for axis, key in enumerate(keys, start=1):
        if len(range(cells.shape[axis])[key]) == cells.shape[axis]:
            continue
        real = index.step_of_cell[cells] >= 0
        rows_of_level = real.any(axis=tuple(range(axis + 1, real.ndim))).reshape(-1, real.shape[axis])
        span_slice = _slice_spans(rows_of_level, key)
        source = span_slice.source.reshape(*cells.shape[:axis], -1, *(1,) * (cells.ndim - axis - 1))
        cells = np.take_along_axis(cells, source, axis=axis)
        columns_agree &= span_slice.columns_agree
    return cells, columns_agree


def _slice_spans(real: NDArray[np.bool_], key: slice) -> _SpanSlice:
    """Slice the span of each row of a boolean grid `(rows, T)`, True at real steps.

    The new width is `len(range(T)[key])`. The n remaining cells of a row begin at column `min(first // step, width - n)`,
    where `first` is the column of its first real step. A cell outside the span is read from a cell outside the span.
    """
    columns = range(real.shape[1])[key]
    step, width, num_columns = columns.step, len(columns), real.shape[1]
    has_steps = real.any(1)
    first = np.where(has_steps, real.argmax(1), 0)
    lengths = np.where(has_steps, num_columns - real[:, ::-1].argmax(1) - first, 0)
    start = _clamp_bound(key.start, 0, lengths)
    stop = _clamp_bound(key.stop, num_columns, lengths)
    counts = np.maximum(-(-(stop - start) // step), 0)
    begin = np.minimum(first // step, width - counts)

    number = np.arange(width) - begin[:, None]  # of a cell among the remaining cells
    remains = (number >= 0) & (number < counts[:, None])
    after_span = (first + lengths - counts)[:, None] + number
    source = np.where(number < 0, np.arange(width), np.where(after_span < num_columns, after_span, 0))
    source = np.where(remains, (first + start)[:, None] + number * step, source)
    other_column = remains & (source != np.array(columns, dtype=np.int64))
    other_column &= np.take_along_axis(real, source, axis=1)
    has_gap = (counts > 0) & (real.sum(1) < lengths)
    return _SpanSlice(source, not (other_column.any() or has_gap.any()))


def _clamp_bound(bound: int | None, default: int, lengths: Ints) -> Ints:
    """Return the bound of a slice for each length, as Python does: negative bounds count from the end."""
    bound = default if bound is None else int(bound)
    return np.clip(bound + lengths if bound < 0 else np.full_like(lengths, bound), 0, lengths)
