"""Attention over packed steps in groups of sequences of similar length, each padded to its longest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional

from padless.kernels.attention.reference import AttentionMask, Score, WeightDropout, _both, _for_heads, dot, masked_softmax
from padless.kernels.half_precision import HALVES
from padless.ragged.device import to_device
from padless.ragged.gather import gather_repeated_rows, gather_rows, scatter_rows
from padless.ragged.index import Index, Ints


def attend_grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Index,
    keys: Index,
    sight: AttentionMask,
    scale: float = 1.0,
    score: Score | None = None,
    thin: WeightDropout | None = None,
    show: Literal["", "before", "after"] = "",
) -> tuple[Tensor, Tensor | None]:
    """`attend` in torch alone: rows of like lengths laid side by side, one call for each group."""
    plain = score is None and thin is None and not show
    plan = plan_of(queries, keys, query.device)
    laid = [
        plan.queries.pad(query, False),
        plan.keys.pad(_for_heads(key, query.shape[1]), False),
        plan.keys.pad(_for_heads(value, query.shape[1]), False),
    ]
    outputs, shown = [], []
    for group, *parts in zip(plan.groups, *laid, strict=True):
        sides = group.queries, group.keys, group.keys
        q, k, v = (side.heads_first(part) for side, part in zip(sides, parts, strict=True))
        allowed, causal, sure = _seen(group, plan, sight)
        if plain:
            output = _fused(q, k, v, allowed, causal, sure, scale)
        else:
            allowed = _triangle(group, query.device) if causal else allowed
            before = masked_softmax((score or dot)(scale * q, k), allowed)
            after = before if thin is None else thin(before)
            output = after @ v
            if show:
                shown.append(group.real_cells(before if show == "before" else after))
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    if outputs:
        summed = plan.queries.unpad(torch.cat(outputs) if len(outputs) > 1 else outputs[0])
    else:  # nobody sees anything, and gradients are 0 all the same
        q, k, v = (_for_heads(x, query.shape[1])[:0].transpose(0, 1) for x in (query, key, value))
        nothing = (score or dot)(q, k) @ v
        summed = nothing.sum().to(nothing.dtype).expand(len(query), query.shape[1], value.shape[2])
    return summed, _on_grid(plan, shown, query) if show else None


def _fused(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, causal: bool, sure: bool, scale: float) -> Tensor:
    """One call for a group; `sure` says that every query sees a key."""
    if q.device.type == "cpu" and q.dtype in HALVES:  # torch's way back takes ten times as long in half precision
        with torch.autocast("cpu", enabled=False):
            return _fused(q.float(), k.float(), v.float(), allowed, causal, sure, scale).to(q.dtype)
    product = functional.scaled_dot_product_attention
    if allowed is None or sure:
        return product(q, k, v, attn_mask=allowed, is_causal=causal, scale=scale)
    some = allowed.any(-1, keepdim=True)
    return torch.where(some, product(q, k, v, attn_mask=allowed | ~some, scale=scale), 0)


def _seen(group: RowGroup, plan: AttentionLayout, sight: AttentionMask) -> tuple[Tensor | None, bool, bool]:
    """What the queries of a group see, `(n, 1 or H, 1 or T, S)`; whether it is just causal; whether all see a key."""
    device, keys = plan.device, group.keys
    in_order = not sight.causal or plan.aligned and (plan.same or keys.even)
    if sight.window is None and sight.mask is None and in_order:
        return (None, True, True) if sight.causal else (None if keys.even else keys.real(device), False, True)
    rows, columns, others = group.rows(device), group.queries.columns(device), keys.columns(device)
    allowed = _both(sight.by_columns(columns, others), sight.by_mask(rows, columns, others))
    sure = plan.same and sight.mask is None and keys.even  # a step always sees itself
    return _both(allowed, None if keys.even else keys.real(device)), False, sure


def _triangle(group: RowGroup, device: torch.device) -> Bool[Tensor, "1 1 columns others"]:
    """Every query with the keys up to its own number."""
    shape = (group.queries.width, group.keys.width)
    return torch.ones(shape, dtype=torch.bool, device=device).tril()[None, None]


def _on_grid(plan: AttentionLayout, shown: list[Tensor], like: Tensor) -> Tensor:
    """Weights of real cells on the grid `(B, H, T, S)`."""
    batch, columns, others = plan.grid
    heads = like.shape[1]
    if not shown:
        return like.new_zeros((batch, heads, columns, others))
    cells = scatter_rows(torch.cat(shown), plan.cells(), batch * columns * others)
    return cells.reshape(batch, columns, others, heads).permute(0, 3, 1, 2)


@dataclass(eq=False)
class PaddedBlock:
    """The queries, or the keys, of a group of rows: `(n, width)` slots, the first ones of each row real."""

    index: Ints  # of every slot its column, 0 where there is none
    lengths: Ints
    _device: dict[str, Tensor] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """The length of the longest row."""
        return self.index.shape[1]

    @property
    def even(self) -> bool:
        """Whether all rows are of one length."""
        return bool((self.lengths == self.width).all())

    @property
    def there(self) -> np.ndarray:
        """Which slots are real, `(n, width)`."""
        return np.arange(self.width) < self.lengths[:, None]

    def heads_first(self, part: Tensor) -> Tensor:
        """Its part of what was laid out as `(n, H, width, size)`."""
        return part.reshape(*self.index.shape, *part.shape[1:]).transpose(1, 2)

    def columns(self, device: torch.device) -> Tensor:
        """The column of every slot, `(n, width)`."""
        return self._kept("columns", lambda: self.index, device)

    def real(self, device: torch.device) -> Tensor:
        """Which slots are real, `(n, 1, 1, width)`."""
        return self._kept("real", lambda: self.there[:, None, None], device)

    def _kept(self, name: str, make: Callable[[], np.ndarray], device: torch.device) -> Tensor:
        if name not in self._device:
            self._device[name] = to_device(make(), device)
        return self._device[name]


@dataclass(eq=False)
class RowGroup:
    """Rows that are computed together."""

    numbers: Ints
    queries: PaddedBlock
    keys: PaddedBlock
    _rows: Tensor | None = None

    def rows(self, device: torch.device) -> Tensor:
        """The rows' numbers."""
        self._rows = to_device(self.numbers, device) if self._rows is None else self._rows
        return self._rows

    def real(self) -> np.ndarray:
        """Which cells `(n, T, S)` are those of a real query and a real key."""
        return self.queries.there[:, :, None] & self.keys.there[:, None, :]

    def real_cells(self, weights: Tensor) -> Tensor:
        """The weights `(n, H, T, S)` of real cells, `(cells, H)`."""
        chosen = to_device(np.flatnonzero(self.real()), weights.device)
        return gather_rows(weights.permute(0, 2, 3, 1).reshape(-1, weights.shape[1]), chosen)


@dataclass(eq=False)
class StepLayout:
    """Where packed steps stand when they are laid out in groups; None where they stand so already."""

    steps: Tensor | None  # those that take part
    slots: Tensor | None
    source: Tensor | None  # of each slot the number of its step among them, of an empty one that of its row's first step
    sizes: list[int]  # slots of each group, some of them empty
    count: int  # steps

    def pad(self, values: Tensor, zeros: bool = True) -> tuple[Tensor, ...]:
        """Packed steps into slots, a part for each group; in empty ones zeros, or what nobody may look at."""
        values = values if self.steps is None else gather_rows(values, self.steps)
        if self.slots is not None and self.source is not None:
            values = (
                scatter_rows(values, self.slots, sum(self.sizes))
                if zeros
                else gather_repeated_rows(values, self.source, self.slots)
            )
        return values.split(self.sizes)  # all at once: the backward of a slice would fill a whole buffer for each

    def unpad(self, laid: Tensor) -> Tensor:
        """Back from slots to packed steps, zeros for those that took no part."""
        values = laid if self.slots is None else gather_rows(laid, self.slots)
        return values if self.steps is None else scatter_rows(values, self.steps, self.count)


@dataclass(eq=False)
class AttentionLayout:
    """How the rows of two indexes are computed: which together, and where their steps are laid out."""

    groups: list[RowGroup]
    queries: StepLayout
    keys: StepLayout
    grid: tuple[int, int, int]
    same: bool  # both are the same steps
    aligned: bool  # the order of columns is the order of numbers within the row
    device: torch.device

    def cells(self) -> Tensor:
        """For all real cells, group after group, their place in the flattened grid `(B, T, S)`."""
        places = [
            (
                (g.numbers[:, None, None] * self.grid[1] + g.queries.index[:, :, None]) * self.grid[2]
                + g.keys.index[:, None, :]
            )[g.real()]
            for g in self.groups
        ]
        return to_device(np.concatenate(places), self.device)


_plans: WeakKeyDictionary[Index, WeakKeyDictionary[Index, dict[torch.device, AttentionLayout]]] = WeakKeyDictionary()


def plan_of(queries: Index, keys: Index, device: torch.device) -> AttentionLayout:
    """The plan for two indexes, made once."""
    kept = _plans.setdefault(queries, WeakKeyDictionary()).setdefault(keys, {})
    if device not in kept:
        slack = 4096 if device.type == "cpu" else 2**18  # about as many cells as a call costs
        kept[device] = _plan(queries, keys, device, slack)
    return kept[device]


def _plan(queries: Index, keys: Index, device: torch.device, slack: int) -> AttentionLayout:
    parts = grouped(queries.lengths, keys.lengths, slack)
    sides = [_sides(queries, parts), _sides(keys, parts)]
    groups = [RowGroup(rows, q, k) for rows, q, k in zip(parts, *sides, strict=True)]
    same = queries.equals(keys)
    layouts = [_layout(index, parts, side, device) for index, side in zip((queries, keys), sides, strict=True)]
    aligned = same or _on_right(queries) and _on_right(keys)
    return AttentionLayout(groups, layouts[0], layouts[1], (*queries.shape, keys.shape[1]), same, aligned, device)


def grouped(queries: Ints, keys: Ints, slack: int) -> list[Ints]:
    """Rows by groups of like lengths; those without a query or without a key are left out.

    The wasted cells of a group are at most an eighth of its real ones, or `slack`.
    """
    live = np.flatnonzero((queries > 0) & (keys > 0))
    order = live[np.lexsort((keys[live], queries[live]))]
    parts: list[list[int]] = []
    cells = widest = longest = 0
    for row, own, others in zip(order.tolist(), queries[order].tolist(), keys[order].tolist(), strict=True):
        cells, widest, longest = cells + own * others, max(widest, own), max(longest, others)
        wasted = (len(parts[-1]) + 1) * widest * longest - cells if parts else 0
        if parts and wasted <= max(cells // 8, slack):
            parts[-1].append(row)
        else:
            parts.append([row])
            cells, widest, longest = own * others, own, others
    return [np.array(part, dtype=np.int64) for part in parts]


def _sides(index: Index, parts: list[Ints]) -> list[PaddedBlock]:
    sides = []
    for rows in parts:
        lengths = index.lengths[rows]
        columns = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
        columns[np.arange(columns.shape[1]) < lengths[:, None]] = index.positions[_steps(index, rows)]
        sides.append(PaddedBlock(columns, lengths))
    return sides


def _steps(index: Index, rows: Ints) -> Ints:
    """The steps of these rows, row after row."""
    lengths = index.lengths[rows]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(index.offsets[:-1][rows], lengths) + within


def _layout(index: Index, parts: list[Ints], sides: list[PaddedBlock], device: torch.device) -> StepLayout:
    nothing = np.zeros(0, dtype=np.int64)
    steps = np.concatenate([nothing, *(_steps(index, rows) for rows in parts)])
    sizes = [side.index.size for side in sides]
    total = sum(sizes)
    starts = np.cumsum([0, *sizes])[:-1]
    slots = np.concatenate([nothing, *(s + np.flatnonzero(side.there) for s, side in zip(starts, sides, strict=True))])
    part = None
    if len(steps) == index.num_steps:  # all of them: let slots say where each goes
        slots = slots[np.argsort(steps)]
    else:
        part = to_device(steps, device)
    if total == len(slots) and np.array_equal(slots, np.arange(total)):
        return StepLayout(part, None, None, sizes, index.num_steps)
    source = np.full(total, -1, dtype=np.int64)
    source[slots] = np.arange(len(slots))
    firsts = [
        start + np.arange(side.index.size) // side.width * side.width for start, side in zip(starts, sides, strict=True)
    ]
    source = np.where(source < 0, source[np.concatenate([nothing, *firsts])], source)
    return StepLayout(part, to_device(slots, device), to_device(source, device), sizes, index.num_steps)


def _on_right(index: Index) -> bool:
    """Whether all padding is on the right, so that a step's column is its number."""
    return np.array_equal(index.positions, np.arange(index.num_steps) - index.offsets[index.rows])
