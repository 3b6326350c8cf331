"""Plan which steps a window sees, once for each index, on the host.

The time of a row runs over its *span*, from its first to its last real step. So padding on either side shifts nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from padless.kernels.conv.windows import TransposedWindow, Window, WindowLayout
from padless.kernels.index_cache import IndexCache
from padless.ragged.index import Index, Ints
from padless.ragged.plan_limit import check_plan

_SEEN_THROUGH_WINDOWS = ", seen through windows"

_layouts: IndexCache[WindowLayout] = IndexCache()
_selections: IndexCache[tuple[Ints, Index]] = IndexCache()
_repeats: IndexCache[Index] = IndexCache()


def row_spans(index: Index) -> tuple[Ints, Ints]:
    """Return for each row the column of its first real step and the length of its span, 0 and 0 for an empty row.

    >>> from padless.ragged.index import Index
    >>> first_columns, lengths = row_spans(Index(np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=bool)))
    >>> first_columns.tolist(), lengths.tolist()
    ([1, 0], [3, 0])
    """
    not_empty = index.lengths > 0
    first_columns = index.span_starts
    lengths = np.zeros(index.shape[0], dtype=np.int64)
    lengths[not_empty] = index.positions[index.offsets[1:][not_empty] - 1] - first_columns[not_empty] + 1
    return first_columns, lengths


def window_layout(index: Index, window: Window | TransposedWindow) -> WindowLayout:
    """Return how a window slides over packed steps, computed once for each index.

    Output `j` of a row is at column `first // stride + j` of the output grid, where `first` is the column of the first real
    step (`first * stride + j` for a `TransposedWindow`). The output grid is as wide as that of a plain input of the same
    width. An output is real if its window sees a real step; see also `_reached_outputs`.
    """
    return _layouts.get(index, window, lambda: _compute_layout(index, window))


def _compute_layout(index: Index, window: Window | TransposedWindow) -> WindowLayout:
    return _transposed_layout(index, window) if isinstance(window, TransposedWindow) else _layout(index, window)


def _layout(index: Index, window: Window) -> WindowLayout:
    """Return the layout of a convolution or a pooling.

    On the line, the part of a row begins at a multiple of the stride. So where a window of the row begins, a window of the
    line begins too. The part consists of the left padding, the span, and blank steps up to the end of its last window. The
    left padding of the next row serves as blank steps too.
    """
    first_columns, span_lengths = row_spans(index)
    num_outputs = window.num_outputs(span_lengths)
    left_padding = window.left_padding(span_lengths) * (span_lengths > 0)
    ends = np.where(num_outputs > 0, (num_outputs - 1) * window.stride + window.extent, 0)  # of the last window
    next_left_padding = np.append(left_padding[1:], 0)[: len(left_padding)]
    part_lengths = np.maximum(left_padding + span_lengths, ends - next_left_padding)
    part_starts, _ = _place_parts(part_lengths, window.stride)
    line_length = int(np.max(part_starts + np.maximum(left_padding + span_lengths, ends), initial=window.extent))

    time = index.positions - first_columns[index.rows]
    positions = part_starts[index.rows] + left_padding[index.rows] + time
    rows, output_numbers = (index.rows, time) if window.keeps_mask else _number_within_rows(num_outputs)
    window_starts = part_starts[rows] + output_numbers * window.stride
    real_steps_seen = _count_steps_in_windows(positions, line_length, window_starts, window)
    if window.keeps_mask:
        return WindowLayout(positions, line_length, window_starts, real_steps_seen, None)

    real = real_steps_seen > 0
    rows, window_starts, output_numbers = rows[real], window_starts[real], output_numbers[real]
    columns = first_columns[rows] // window.stride + output_numbers
    output_index = _index_of_cells(index, rows, columns, window.num_outputs(index.shape[1]))
    return WindowLayout(positions, line_length, window_starts // window.stride, real_steps_seen[real], output_index)


def _transposed_layout(index: Index, window: TransposedWindow) -> WindowLayout:
    """Return the layout of a transposed convolution: step p of the line begins to give to output `p * stride`."""
    first_columns, span_lengths = row_spans(index)
    num_outputs, stride = window.num_outputs(span_lengths), window.stride
    last_outputs = np.maximum((span_lengths - 1) * stride + window.extent, window.left_crop + num_outputs)
    part_lengths = -(-np.where(span_lengths > 0, last_outputs, 0) // stride)
    part_starts, line_length = _place_parts(part_lengths, 1)

    time = index.positions - first_columns[index.rows]
    positions = part_starts[index.rows] + time
    rows, output_numbers = (index.rows, time) if window.keeps_mask else _number_within_rows(num_outputs)
    outputs = part_starts[rows] * stride + window.left_crop + output_numbers
    ones = np.ones_like(outputs)
    if window.keeps_mask:
        return WindowLayout(positions, line_length + 1, outputs, ones, None)

    span_rows, span_time = _number_within_rows(span_lengths)
    span_positions, last_positions = part_starts[span_rows] + span_time, (part_starts + span_lengths - 1)[rows]
    real = _reached_outputs(positions, span_positions, outputs, last_positions, window)
    rows, output_numbers = rows[real], output_numbers[real]
    columns = first_columns[rows] * stride + output_numbers
    output_index = _index_of_cells(index, rows, columns, window.num_outputs(index.shape[1]))
    return WindowLayout(positions, line_length + 1, outputs[real], ones[real], output_index)


def _place_parts(lengths: Ints, unit: int) -> tuple[Ints, int]:
    """Place parts of some lengths one after another, each at a multiple of `unit`.

    Returns:
        The start of each part, and the end of the last one.
    """
    ends = np.cumsum(-(-lengths // unit) * unit)
    starts = np.append(0, ends)[: len(ends)].astype(np.int64)
    return starts, int(ends[-1]) if len(ends) else 0


def _number_within_rows(counts: Ints) -> tuple[Ints, Ints]:
    """Return row and number within the row of each of `counts[r]` items of each row r."""
    check_plan(sum(counts.tolist()), grid_name="windows")
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def _count_steps_in_windows(positions: Ints, line_length: int, window_starts: Ints, window: Window) -> Ints:
    """Return how many real steps each window sees.

    Args:
        positions: The positions of the real steps on the line.
        line_length: The length of the line.
        window_starts: The position of the first step of each window.
        window: Size and dilation.
    """
    dilation = window.dilation
    check_plan(line_length + 2 * dilation, grid_name="a line of windows")
    is_real = np.zeros((-(-line_length // dilation) + 1) * dilation, dtype=np.int64)
    is_real[positions + dilation] = 1  # one more row of zeros first: the sum before the first step
    # A column of the reshaped line has every `dilation`-th step, so its cumulative sum counts the steps of a window.
    steps_up_to = is_real.reshape(-1, dilation).cumsum(0).reshape(-1)
    return steps_up_to[window_starts + window.extent - 1 + dilation] - steps_up_to[window_starts]


def _reached_outputs(
    positions: Ints, span_positions: Ints, outputs: Ints, last_positions: Ints, window: TransposedWindow
) -> NDArray[np.bool_]:
    """Return which outputs of a transposed convolution are real: those that a real step gives to.

    If the stride is longer than the kernel, some outputs are between two steps and no step could give to them, real or
    not. Such an output is real if the step before it is.

    Args:
        positions: The positions of the real steps on the line.
        span_positions: The positions of all steps of the spans, gaps included.
        outputs: The positions of the outputs on the line of outputs.
        last_positions: For each output the position of the last step of its row.
        window: Size, stride and dilation.
    """
    last_given = int(span_positions.max(initial=0)) * window.stride + window.extent
    num_outputs = max(last_given, int(outputs.max(initial=0)) + 1)
    check_plan(num_outputs, grid_name="outputs of windows")
    is_real, reached, possible = np.zeros((3, num_outputs), dtype=bool)
    is_real[positions] = True
    for tap in range(window.size):
        reached[positions * window.stride + tap * window.dilation] = True
        possible[span_positions * window.stride + tap * window.dilation] = True
    step_before = np.minimum(outputs // window.stride, last_positions)
    return reached[outputs] | ~possible[outputs] & is_real[step_before]


def _index_of_cells(index: Index, rows: Ints, columns: Ints, width: int) -> Index:
    """Return the index of some cells of a grid of a width, with the rows of `index`."""
    check_plan(index.shape[0], width, grid_name="a mask")
    mask = np.zeros((index.shape[0], width), dtype=bool)
    mask[rows, columns] = True
    return Index(mask, mask_source=_mask_source(index), columns_agree=index.columns_agree)


def _mask_source(index: Index) -> str:
    """Return the mask source of outputs. It differs from that of the steps, because the masks differ."""
    source = index.mask_source
    return source if source.endswith(_SEEN_THROUGH_WINDOWS) else source + _SEEN_THROUGH_WINDOWS


# ------------------------------------------------------------------------------------------------ cropping and padding


def crop_spans(index: Index, left: int, right: int) -> tuple[Ints, Index]:
    """Return the packed steps that remain without `left` steps at the start and `right` at the end of each span.

    Returns:
        The numbers of the remaining steps, and their index.
    """

    def compute() -> tuple[Ints, Index]:
        first_columns, span_lengths = row_spans(index)
        time = index.positions - first_columns[index.rows]
        steps = np.flatnonzero((time >= left) & (time < span_lengths[index.rows] - right))
        width = max(index.shape[1] - left - right, 0)
        return steps, _index_of_cells(index, index.rows[steps], index.positions[steps] - left, width)

    return _selections.get(index, ("crop", left, right), compute)


def pad_spans(index: Index, left: int, right: int) -> tuple[Ints, Index]:
    """Add `left` steps at the start and `right` at the end of each span; an empty row stays empty.

    Returns:
        The numbers of the old steps among all steps, and the index of all steps.
    """

    def compute() -> tuple[Ints, Index]:
        first_columns, span_lengths = row_spans(index)
        rows = np.flatnonzero(span_lengths)
        check_plan(index.shape[0], index.shape[1] + left + right, grid_name="a padded mask")
        mask = np.zeros((index.shape[0], index.shape[1] + left + right), dtype=bool)
        mask[index.rows, index.positions + left] = True
        mask[rows[:, None], first_columns[rows][:, None] + np.arange(left)] = True
        mask[rows[:, None], (first_columns + span_lengths)[rows][:, None] + left + np.arange(right)] = True
        padded = Index(mask, mask_source=_mask_source(index), columns_agree=index.columns_agree)
        return padded.step_of_cell[index.rows * mask.shape[1] + index.positions + left], padded

    return _selections.get(index, ("pad", left, right), compute)


def repeat_cells(index: Index, times: int) -> Index:
    """Return the index of a grid in which each column is repeated."""
    check_plan(*index.shape, times, grid_name="a repeated mask")

    def compute() -> Index:
        mask = np.repeat(index.mask, times, axis=1)
        return Index(mask, mask_source=_mask_source(index), columns_agree=index.columns_agree)

    return _repeats.get(index, times, compute)
