"""A query sees the real keys of its own sequence: weights, and the weighted sum of values. Seeing none gives 0.

The reference walks row by row. Where nothing but the order of steps says who sees whom, a kernel attends over the packed
steps themselves: on the CPU the compiled one (`attend_compiled.py`), in half precision on CUDA torch's
(`attend_varlen.py`). Else rows of like lengths are laid side by side, one call for each group; how many cells of a group
may be wasted is bounded, so the cost is that of the real steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from padless.kernels import attend_compiled, attend_varlen
from padless.kernels.halves import HALVES
from padless.ragged.index import Index, Ints
from padless.ragged.moves import copies, place, take
from padless.ragged.transfer import send

Score = Callable[[Tensor, Tensor], Tensor]  # (..., T, K) and (..., S, K) to (..., T, S)
Thin = Callable[[Tensor], Tensor]  # dropout of weights


@dataclass(frozen=True)
class Sight:
    """Which of its row's real keys a query may see: by columns of the grid, and by a `mask` on it.

    `causal`: none to its right; `window`: those less than so many columns away; `mask`: boolean, `(B, H, T, S)`, any of
    them 1 where it is the same for all.
    """

    causal: bool = False
    window: int | None = None
    mask: Tensor | None = None

    def by_columns(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        """What `causal` and `window` allow between columns `(n, T)` and `(n, S)`: `(n, 1, T, S)`; None: everything."""
        ahead = queries[:, None, :, None] - keys[:, None, None, :]
        allowed = None
        if self.causal:
            allowed = ahead >= 0
        if self.window is not None:
            near = ahead.abs() < self.window
            allowed = near if allowed is None else allowed & near
        return allowed

    def by_mask(self, rows: Tensor, queries: Tensor, keys: Tensor) -> Tensor | None:
        """What `mask` allows in these rows `(n,)`, between columns `(n, T)` and `(n, S)`: `(n, H, T, S)`."""
        if self.mask is None:
            return None
        places = [rows[:, None, None], queries[:, :, None], keys[:, None, :]]
        sizes = [self.mask.shape[axis] for axis in (0, 2, 3)]
        batch, column, other = (p if size > 1 else torch.zeros_like(p) for p, size in zip(places, sizes, strict=True))
        return self.mask[batch, :, column, other].permute(0, 3, 1, 2)


def dot(query: Tensor, key: Tensor) -> Tensor:
    """The product of each query with each key."""
    return query @ key.transpose(-1, -2)


def weigh(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """The softmax over allowed keys; 0 for a query that may see none."""
    if allowed is None:
        return scores.softmax(-1)
    some = allowed.any(-1, keepdim=True)  # a query without a key sees all of them here, so that nothing becomes NaN
    return scores.masked_fill(~(allowed | ~some), -float("inf")).softmax(-1) * some


def attend_by_row(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys groups size"],
    value: Float[Tensor, "keys groups width"],
    queries: Index,
    keys: Index,
    sight: Sight,
    scale: float = 1.0,
    score: Score = dot,
) -> tuple[Float[Tensor, "queries heads width"], Float[Tensor, "rows heads columns others"]]:
    """The reference: sums of values, and the weights on the grid, one sequence after the other."""
    key, value = _for_heads(key, query.shape[1]), _for_heads(value, query.shape[1])
    outputs, grid = [query.new_zeros((0, *query.shape[1:2], value.shape[2]))], []
    for row in range(queries.shape[0]):
        mine = slice(int(queries.offsets[row]), int(queries.offsets[row + 1]))
        theirs = slice(int(keys.offsets[row]), int(keys.offsets[row + 1]))
        columns = queries.at("positions", query.device)[mine][None]
        others = keys.at("positions", query.device)[theirs][None]
        number = torch.tensor([row], device=query.device)
        allowed = _both(sight.by_columns(columns, others), sight.by_mask(number, columns, others))
        scores = score(scale * query[mine].transpose(0, 1), key[theirs].transpose(0, 1))  # (H, t, s)
        weights = weigh(scores, None if allowed is None else allowed[0].expand_as(scores))
        outputs.append((weights @ value[theirs].transpose(0, 1)).transpose(0, 1))
        shown = weights.new_zeros((query.shape[1], queries.shape[1], keys.shape[1]))
        shown[:, columns[0][:, None], others[0]] = weights
        grid.append(shown)
    shape = (0, query.shape[1], queries.shape[1], keys.shape[1])
    return torch.cat(outputs), torch.stack(grid) if grid else query.new_zeros(shape)


# ---------------------------------------------------------------------------------------------------- the fast path


def attend(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys groups size"],
    value: Float[Tensor, "keys groups width"],
    queries: Index,
    keys: Index,
    sight: Sight,
    scale: float = 1.0,
    score: Score | None = None,
    thin: Thin | None = None,
    show: Literal["", "before", "after"] = "",
) -> tuple[Float[Tensor, "queries heads width"], Float[Tensor, "rows heads columns others"] | None]:
    """The sum of the values of the keys that each query sees, weighed by the softmax of their scores.

    `score` stands for the product of query and key, `thin` drops weights. With `show` the weights come too, on the grid
    and 0 at masked places: those "before" or "after" `thin`. Heads of queries may be a multiple of those of keys.
    """
    if score is None and thin is None and not show and sight.window is None and sight.mask is None:
        given = query, key, value, queries, keys, sight.causal
        if attend_varlen.takes(*given):
            k, v = (_for_heads(x, query.shape[1]) for x in (key, value))
            return attend_varlen.attend(query, k, v, queries, keys, sight.causal, scale), None
        if attend_compiled.takes(*given):
            return attend_compiled.attend(
                *given, scale, lambda q, k, v: in_groups(q, k, v, queries, keys, sight, scale, dot)[:1]
            ), None
    return in_groups(query, key, value, queries, keys, sight, scale, score, thin, show)


def in_groups(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Index,
    keys: Index,
    sight: Sight,
    scale: float = 1.0,
    score: Score | None = None,
    thin: Thin | None = None,
    show: Literal["", "before", "after"] = "",
) -> tuple[Tensor, Tensor | None]:
    """`attend` in torch alone: rows of like lengths laid side by side, one call for each group."""
    plain = score is None and thin is None and not show
    plan = plan_of(queries, keys, query.device)
    laid = [
        plan.queries.lay(query, False),
        plan.keys.lay(_for_heads(key, query.shape[1]), False),
        plan.keys.lay(_for_heads(value, query.shape[1]), False),
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
            before = weigh((score or dot)(scale * q, k), allowed)
            after = before if thin is None else thin(before)
            output = after @ v
            if show:
                shown.append(group.real_cells(before if show == "before" else after))
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    if outputs:
        summed = plan.queries.lift(torch.cat(outputs) if len(outputs) > 1 else outputs[0])
    else:  # nobody sees anything, and gradients are 0 all the same
        q, k, v = (_for_heads(x, query.shape[1])[:0].transpose(0, 1) for x in (query, key, value))
        nothing = (score or dot)(q, k) @ v
        summed = nothing.sum().to(nothing.dtype).expand(len(query), query.shape[1], value.shape[2])
    return summed, _on_grid(plan, shown, query) if show else None


def _for_heads(x: Tensor, heads: int) -> Tensor:
    """Keys or values repeated, so that each head of the queries has its own."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return first if second is None else second if first is None else first & second


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


def _seen(group: Group, plan: Plan, sight: Sight) -> tuple[Tensor | None, bool, bool]:
    """What the queries of a group see, `(n, 1 or H, 1 or T, S)`; whether it is just causal; whether all see a key."""
    device, keys = plan.device, group.keys
    in_order = not sight.causal or plan.aligned and (plan.same or keys.even)
    if sight.window is None and sight.mask is None and in_order:
        return (None, True, True) if sight.causal else (None if keys.even else keys.real(device), False, True)
    rows, columns, others = group.rows(device), group.queries.columns(device), keys.columns(device)
    allowed = _both(sight.by_columns(columns, others), sight.by_mask(rows, columns, others))
    sure = plan.same and sight.mask is None and keys.even  # a step always sees itself
    return _both(allowed, None if keys.even else keys.real(device)), False, sure


def _triangle(group: Group, device: torch.device) -> Bool[Tensor, "1 1 columns others"]:
    """Every query with the keys up to its own number."""
    shape = (group.queries.width, group.keys.width)
    return torch.ones(shape, dtype=torch.bool, device=device).tril()[None, None]


def _on_grid(plan: Plan, shown: list[Tensor], like: Tensor) -> Tensor:
    """Weights of real cells on the grid `(B, H, T, S)`."""
    batch, columns, others = plan.grid
    heads = like.shape[1]
    if not shown:
        return like.new_zeros((batch, heads, columns, others))
    cells = place(torch.cat(shown), plan.cells(), batch * columns * others)
    return cells.reshape(batch, columns, others, heads).permute(0, 3, 1, 2)


# ---------------------------------------------------------------------------------------------------- who goes together


@dataclass(eq=False)
class Side:
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
            self._device[name] = send(make(), device)
        return self._device[name]


@dataclass(eq=False)
class Group:
    """Rows that are computed together."""

    numbers: Ints
    queries: Side
    keys: Side
    _rows: Tensor | None = None

    def rows(self, device: torch.device) -> Tensor:
        """The rows' numbers."""
        self._rows = send(self.numbers, device) if self._rows is None else self._rows
        return self._rows

    def real(self) -> np.ndarray:
        """Which cells `(n, T, S)` are those of a real query and a real key."""
        return self.queries.there[:, :, None] & self.keys.there[:, None, :]

    def real_cells(self, weights: Tensor) -> Tensor:
        """The weights `(n, H, T, S)` of real cells, `(cells, H)`."""
        chosen = send(np.flatnonzero(self.real()), weights.device)
        return take(weights.permute(0, 2, 3, 1).reshape(-1, weights.shape[1]), chosen)


@dataclass(eq=False)
class Layout:
    """Where packed steps stand when they are laid out in groups; None where they stand so already."""

    steps: Tensor | None  # those that take part
    slots: Tensor | None
    source: Tensor | None  # of each slot the number of its step among them, of an empty one that of its row's first step
    sizes: list[int]  # slots of each group, some of them empty
    count: int  # steps

    def lay(self, values: Tensor, zeros: bool = True) -> tuple[Tensor, ...]:
        """Packed steps into slots, a part for each group; in empty ones zeros, or what nobody may look at."""
        values = values if self.steps is None else take(values, self.steps)
        if self.slots is not None and self.source is not None:
            values = place(values, self.slots, sum(self.sizes)) if zeros else copies(values, self.source, self.slots)
        return values.split(self.sizes)  # all at once: the backward of a slice would fill a whole buffer for each

    def lift(self, laid: Tensor) -> Tensor:
        """Back from slots to packed steps, zeros for those that took no part."""
        values = laid if self.slots is None else take(laid, self.slots)
        return values if self.steps is None else place(values, self.steps, self.count)


@dataclass(eq=False)
class Plan:
    """How the rows of two indexes are computed: which together, and where their steps are laid out."""

    groups: list[Group]
    queries: Layout
    keys: Layout
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
        return send(np.concatenate(places), self.device)


_plans: WeakKeyDictionary[Index, WeakKeyDictionary[Index, dict[torch.device, Plan]]] = WeakKeyDictionary()


def plan_of(queries: Index, keys: Index, device: torch.device) -> Plan:
    """The plan for two indexes, made once."""
    kept = _plans.setdefault(queries, WeakKeyDictionary()).setdefault(keys, {})
    if device not in kept:
        slack = 4096 if device.type == "cpu" else 2**18  # about as many cells as a call costs
        kept[device] = _plan(queries, keys, device, slack)
    return kept[device]


def _plan(queries: Index, keys: Index, device: torch.device, slack: int) -> Plan:
    parts = grouped(queries.lengths, keys.lengths, slack)
    sides = [_sides(queries, parts), _sides(keys, parts)]
    groups = [Group(rows, q, k) for rows, q, k in zip(parts, *sides, strict=True)]
    same = queries.equals(keys)
    layouts = [_layout(index, parts, side, device) for index, side in zip((queries, keys), sides, strict=True)]
    aligned = same or _on_right(queries) and _on_right(keys)
    return Plan(groups, layouts[0], layouts[1], (*queries.shape, keys.shape[1]), same, aligned, device)


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


def _sides(index: Index, parts: list[Ints]) -> list[Side]:
    sides = []
    for rows in parts:
        lengths = index.lengths[rows]
        columns = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
        columns[np.arange(columns.shape[1]) < lengths[:, None]] = index.positions[_steps(index, rows)]
        sides.append(Side(columns, lengths))
    return sides


def _steps(index: Index, rows: Ints) -> Ints:
    """The steps of these rows, row after row."""
    lengths = index.lengths[rows]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(index.offsets[:-1][rows], lengths) + within


def _layout(index: Index, parts: list[Ints], sides: list[Side], device: torch.device) -> Layout:
    nothing = np.zeros(0, dtype=np.int64)
    steps = np.concatenate([nothing, *(_steps(index, rows) for rows in parts)])
    sizes = [side.index.size for side in sides]
    total = sum(sizes)
    starts = np.cumsum([0, *sizes])[:-1]
    slots = np.concatenate([nothing, *(s + np.flatnonzero(side.there) for s, side in zip(starts, sides, strict=True))])
    part = None
    if len(steps) == index.steps:  # all of them: let slots say where each goes
        slots = slots[np.argsort(steps)]
    else:
        part = send(steps, device)
    if total == len(slots) and np.array_equal(slots, np.arange(total)):
        return Layout(part, None, None, sizes, index.steps)
    source = np.full(total, -1, dtype=np.int64)
    source[slots] = np.arange(len(slots))
    firsts = [
        start + np.arange(side.index.size) // side.width * side.width for start, side in zip(starts, sides, strict=True)
    ]
    source = np.where(source < 0, source[np.concatenate([nothing, *firsts])], source)
    return Layout(part, send(slots, device), send(source, device), sizes, index.steps)


def _on_right(index: Index) -> bool:
    """Whether all padding is on the right, so that a step's column is its number."""
    return np.array_equal(index.positions, np.arange(index.steps) - index.offsets[index.rows])
