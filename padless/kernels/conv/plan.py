"""Which steps a window sees: plans and moves, computed on the host once for each index.

A row's clock runs over its *span*, from its first to its last real step, so that padding on either side shifts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from padless.kernels.conv.windows import TransposedWindow, Window, WindowLayout
from padless.ragged.index import Index, Ints

_SEEN = ", seen through windows"
_kept: WeakKeyDictionary[Index, dict[Hashable, Any]] = WeakKeyDictionary()  # what lives no longer than its index


def _once(index: Index, key: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` gives, computed once for an index; it must not hold the index, which else would never go."""
    known = _kept.setdefault(index, {})
    if key not in known:
        known[key] = make()
    return known[key]


def spans(index: Index) -> tuple[Ints, Ints]:
    """Of each row the first real column, and how far it is from there to the last; 0 and 0 for an empty row.

    >>> from padless.ragged.index import Index
    >>> first, steps = spans(Index(np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], dtype=bool)))
    >>> first.tolist(), steps.tolist()
    ([1, 0], [3, 0])
    """
    some = index.lengths > 0
    first, steps = np.zeros((2, index.shape[0]), dtype=np.int64)
    first[some] = index.positions[index.offsets[:-1][some]]
    steps[some] = index.positions[index.offsets[1:][some] - 1] - first[some] + 1
    return first, steps


def plan(index: Index, window: Window | TransposedWindow) -> WindowLayout:
    """How a window runs over packed steps.

    Output `j` of a row stands at column `first // stride + j` (of a `Stretch`: `first * stride + j`), on a grid as wide
    as that of a plain input of the same width. It is real if its window holds a real step; see also `_reached`.
    """
    make = _stretched if isinstance(window, TransposedWindow) else _windowed
    return _once(index, window, lambda: make(index, window))  # pyright: ignore[reportArgumentType]


def of_plan(plan: WindowLayout, index: Index) -> Index:
    """The index of the outputs."""
    return index if plan.index is None else plan.index


def _windowed(index: Index, window: Window) -> WindowLayout:
    first, steps = spans(index)
    count = window.count(steps)
    before = window.before(steps) * (steps > 0)
    ends = np.where(count > 0, (count - 1) * window.stride + window.reach, 0)
    later = np.append(before[1:], 0)[: len(before)]  # the zeros before a row are zeros after the one above it
    starts, _ = _laid(np.maximum(before + steps, ends - later), window.stride)
    size = int(np.max(starts + np.maximum(before + steps, ends), initial=window.reach))
    time = index.positions - first[index.rows]
    places = starts[index.rows] + before[index.rows] + time
    rows, number = (index.rows, time) if window.keeps else _numbered(count)
    begins = starts[rows] + number * window.stride
    seen = _seen(places, size, begins, window)
    if window.keeps:
        return WindowLayout(places, size, begins, seen, None)
    real = seen > 0
    rows, begins, number = rows[real], begins[real], number[real]
    found = _index(index, rows, first[rows] // window.stride + number, window.count(index.shape[1]))
    return WindowLayout(places, size, begins // window.stride, seen[real], found)


def _stretched(index: Index, window: TransposedWindow) -> WindowLayout:
    first, steps = spans(index)
    count, stride = window.count(steps), window.stride
    ends = np.where(steps > 0, np.maximum((steps - 1) * stride + window.reach, window.cropped + count), 0)
    starts, size = _laid(-(-ends // stride), 1)
    time = index.positions - first[index.rows]
    places = starts[index.rows] + time
    rows, number = (index.rows, time) if window.keeps else _numbered(count)
    chosen = starts[rows] * stride + window.cropped + number
    seen = np.ones_like(chosen)
    if window.keeps:
        return WindowLayout(places, size + 1, chosen, seen, None)
    owners, inside = _numbered(steps)
    real = _reached(places, starts[owners] + inside, chosen, (starts + steps - 1)[rows], window)
    rows, number = rows[real], number[real]
    found = _index(index, rows, first[rows] * stride + number, window.count(index.shape[1]))
    return WindowLayout(places, size + 1, chosen[real], seen[real], found)


def _laid(lengths: Ints, unit: int) -> tuple[Ints, int]:
    """Where pieces of these lengths begin, each at a multiple of `unit`, and where the last one ends."""
    ends = np.cumsum(-(-lengths // unit) * unit)
    return np.append(0, ends)[: len(ends)].astype(np.int64), int(ends[-1]) if len(ends) else 0


def _numbered(count: Ints) -> tuple[Ints, Ints]:
    """For `count[r]` outputs of each row r their rows and their numbers within them."""
    rows = np.repeat(np.arange(len(count)), count)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)


def _seen(places: Ints, size: int, begins: Ints, window: Window) -> Ints:
    """How many of the steps at `places` the windows at `begins` see."""
    apart = window.dilation
    there = np.zeros((-(-size // apart) + 1) * apart, dtype=np.int64)
    there[places + apart] = 1
    upto = there.reshape(-1, apart).cumsum(0).reshape(-1)  # sums of steps that lie `apart`, one place of each before 0
    return upto[begins + window.reach - 1 + apart] - upto[begins]


def _reached(places: Ints, spanned: Ints, outputs: Ints, last: Ints, window: TransposedWindow) -> NDArray[np.bool_]:
    """Which outputs are real: those that a real step gives to.

    `places` are those of the real steps, `spanned` those of whole spans, `last` is the last of its row for each output.
    An output to which no step could give, real or not (a stride longer than the kernel leaves such), belongs to the
    step before it.
    """
    room = int(max(spanned.max(initial=0) * window.stride + window.reach, outputs.max(initial=0) + 1))
    there, reached, possible = np.zeros((3, room), dtype=bool)
    there[places] = True
    for tap in range(window.size):
        reached[places * window.stride + tap * window.dilation] = True
        possible[spanned * window.stride + tap * window.dilation] = True
    return reached[outputs] | ~possible[outputs] & there[np.minimum(outputs // window.stride, last)]


def _index(index: Index, rows: Ints, columns: Ints, width: int) -> Index:
    """These cells on a grid of that width as an index."""
    mask = np.zeros((index.shape[0], width), dtype=bool)
    mask[rows, columns] = True
    return Index(mask, mask_source=_mask_source(index))


def _mask_source(index: Index) -> str:
    """Where a mask comes from that is no longer the one of the steps: it must not pass for that."""
    return index.mask_source if index.mask_source.endswith(_SEEN) else index.mask_source + _SEEN


# ------------------------------------------------------------------------------------------------ moves


def cropped(index: Index, left: int, right: int) -> tuple[Ints, Index]:
    """Which steps are left without `left` at the start and `right` at the end of each span, and their index."""

    def make() -> tuple[Ints, Index]:
        first, steps = spans(index)
        time = index.positions - first[index.rows]
        kept = np.flatnonzero((time >= left) & (time < steps[index.rows] - right))
        width = max(index.shape[1] - left - right, 0)
        return kept, _index(index, index.rows[kept], index.positions[kept] - left, width)

    return _once(index, ("cropped", left, right), make)


def widened(index: Index, left: int, right: int) -> tuple[Ints, Index]:
    """Where the steps stand among those of spans with `left` more at the start and `right` at the end; their index."""

    def make() -> tuple[Ints, Index]:
        first, steps = spans(index)
        some = np.flatnonzero(steps)
        mask = np.zeros((index.shape[0], index.shape[1] + left + right), dtype=bool)
        mask[index.rows, index.positions + left] = True
        mask[some[:, None], first[some][:, None] + np.arange(left)] = True
        mask[some[:, None], (first + steps)[some][:, None] + left + np.arange(right)] = True
        found = Index(mask, mask_source=_mask_source(index))
        return found.step_of_cell[index.rows * mask.shape[1] + index.positions + left], found

    return _once(index, ("widened", left, right), make)


def repeated(index: Index, times: int) -> Index:
    """Each cell of the grid several times."""
    return _once(
        index, ("repeated", times), lambda: Index(np.repeat(index.mask, times, axis=1), mask_source=_mask_source(index))
    )
