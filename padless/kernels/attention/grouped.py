"""Attention over packed steps in groups of sequences of similar length, each padded to the longest of its group.

The rows of a group form one padded block of queries and one of keys. A *slot* is a cell of a block. The first slots of a
row hold its real steps, the others are padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from padless.kernels.attention.reference import (
    AttentionMask,
    Score,
    WeightDropout,
    both_allowed,
    dot_score,
    masked_softmax,
    repeat_heads,
)
from padless.kernels.half_precision import HALF_DTYPES
from padless.kernels.index_cache import IndexCache
from padless.ragged.device import to_device
from padless.ragged.gather import gather_repeated_rows, gather_rows, scatter_rows
from padless.ragged.index import Index, Ints

ReturnedWeights = Literal["before_dropout", "after_dropout"]

# About as many padded cells as one more call costs.
WASTED_CELLS_ON_CPU, WASTED_CELLS_ON_DEVICE = 4096, 2**18


def attend_grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Index,
    keys: Index,
    attention_mask: AttentionMask,
    scale: float = 1.0,
    score: Score | None = None,
    dropout: WeightDropout | None = None,
    return_weights: ReturnedWeights | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute `attend` in torch, one call for each group of rows of similar length."""
    use_fused_kernel = score is None and dropout is None and return_weights is None
    layout = attention_layout(queries, keys, query.device)
    blocks = zip(
        layout.groups,
        layout.queries.pad(query, zeros=False),
        layout.keys.pad(repeat_heads(key, query.shape[1]), zeros=False),
        layout.keys.pad(repeat_heads(value, query.shape[1]), zeros=False),
        strict=True,
    )
    outputs, weights = [], []
    for group, query_block, key_block, value_block in blocks:
        q, k, v = (
            group.queries.heads_first(query_block),
            group.keys.heads_first(key_block),
            group.keys.heads_first(value_block),
        )
        mask = _group_mask(group, layout, attention_mask)
        if use_fused_kernel:
            output = _fused_attention(q, k, v, mask, scale)
        else:
            allowed = _causal_mask(group, query.device) if mask.is_causal else mask.allowed
            before_dropout = masked_softmax((score or dot_score)(scale * q, k), allowed)
            after_dropout = before_dropout if dropout is None else dropout(before_dropout)
            output = after_dropout @ v
            if return_weights is not None:
                weights.append(group.real_cells(before_dropout if return_weights == "before_dropout" else after_dropout))
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    if outputs:
        sums = layout.queries.unpad(torch.cat(outputs) if len(outputs) > 1 else outputs[0])
    else:
        sums = _zero_sums(query, key, value, score or dot_score)
    return sums, _weights_on_grid(layout, weights, query) if return_weights is not None else None


def _zero_sums(query: Tensor, key: Tensor, value: Tensor, score: Score) -> Tensor:
    """Return the sums where no query has a key: 0, with gradients of zeros for all tensors."""
    q, k, v = (repeat_heads(x, query.shape[1])[:0].transpose(0, 1) for x in (query, key, value))
    empty = score(q, k) @ v
    return empty.sum().to(empty.dtype).expand(len(query), query.shape[1], value.shape[2])


@dataclass(frozen=True)
class GroupMask:
    """What the queries of a group see.

    Args:
        allowed: Boolean, `(rows, 1 or H, 1 or T, S)`; None allows all slots.
        is_causal: Whether a query sees the keys up to its own slot. `allowed` is None then.
        every_query_has_a_key: Whether no query is left without a key, so that the softmax is defined.
    """

    allowed: Tensor | None
    is_causal: bool
    every_query_has_a_key: bool


def _group_mask(group: RowGroup, layout: AttentionLayout, attention_mask: AttentionMask) -> GroupMask:
    """Return what the queries of a group see, with the cheapest mask that says so."""
    device, keys = layout.device, group.keys
    padding = None if keys.all_real else keys.real_on(device)
    plain = attention_mask.window is None and attention_mask.mask is None
    if plain and not attention_mask.causal:
        return GroupMask(padding, is_causal=False, every_query_has_a_key=True)
    if plain and layout.slots_follow_columns and (layout.same_steps or keys.all_real):
        return GroupMask(None, is_causal=True, every_query_has_a_key=True)
    rows, query_columns, key_columns = group.rows_on(device), group.queries.columns_on(device), keys.columns_on(device)
    allowed = both_allowed(
        attention_mask.by_columns(query_columns, key_columns),
        attention_mask.by_mask(rows, query_columns, key_columns),
    )
    sees_itself = layout.same_steps and attention_mask.mask is None and keys.all_real
    return GroupMask(both_allowed(allowed, padding), is_causal=False, every_query_has_a_key=sees_itself)


def _causal_mask(group: RowGroup, device: torch.device) -> Bool[Tensor, "1 1 columns others"]:
    """Return the mask of queries that see the keys up to their own slot."""
    shape = (group.queries.width, group.keys.width)
    return torch.ones(shape, dtype=torch.bool, device=device).tril()[None, None]


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: GroupMask, scale: float) -> Tensor:
    """Attend in one group `(rows, H, T, size)` with torch's fused kernel."""
    if q.device.type == "cpu" and q.dtype in HALF_DTYPES:  # torch's backward takes ten times as long in half precision
        with torch.autocast("cpu", enabled=False):
            return _fused_attention(q.float(), k.float(), v.float(), mask, scale).to(q.dtype)
    attention, allowed = functional.scaled_dot_product_attention, mask.allowed
    if allowed is None or mask.every_query_has_a_key:
        return attention(q, k, v, attn_mask=allowed, is_causal=mask.is_causal, scale=scale)
    has_a_key = allowed.any(-1, keepdim=True)
    return torch.where(has_a_key, attention(q, k, v, attn_mask=allowed | ~has_a_key, scale=scale), 0)


def _weights_on_grid(layout: AttentionLayout, weights: list[Tensor], like: Tensor) -> Tensor:
    """Return the weights of all real cells on the grid `(B, H, T, S)`."""
    batch, num_queries, num_keys = layout.grid
    num_heads = like.shape[1]
    if not weights:
        return like.new_zeros((batch, num_heads, num_queries, num_keys))
    cells = scatter_rows(torch.cat(weights), layout.cells(), batch * num_queries * num_keys)
    return cells.reshape(batch, num_queries, num_keys, num_heads).permute(0, 3, 1, 2)


@dataclass(eq=False)
class PaddedBlock:
    """The queries or the keys of a group of rows, padded to the longest row: `(rows, width)` slots.

    Args:
        columns: The column of the step in each slot, 0 in padding; `(rows, width)`.
        lengths: The number of real slots of each row; they are the first ones.
    """

    columns: Ints
    lengths: Ints
    _on_device: dict[str, Tensor] = field(default_factory=dict)  # a layout, and so a block, is for one device

    @property
    def width(self) -> int:
        """Return the length of the longest row."""
        return self.columns.shape[1]

    @property
    def all_real(self) -> bool:
        """Return whether all rows have the same length, so that no slot is padding."""
        return bool((self.lengths == self.width).all())

    @property
    def is_real(self) -> NDArray[np.bool_]:
        """Return which slots are real, `(rows, width)`."""
        return np.arange(self.width) < self.lengths[:, None]

    def heads_first(self, slots: Tensor) -> Tensor:
        """Return the flat slots `(rows * width, H, size)` of this block as `(rows, H, width, size)`."""
        return slots.reshape(*self.columns.shape, *slots.shape[1:]).transpose(1, 2)

    def columns_on(self, device: torch.device) -> Tensor:
        """Return the columns of all slots on the device of the layout, `(rows, width)`."""
        return self._cached("columns", lambda: self.columns, device)

    def real_on(self, device: torch.device) -> Tensor:
        """Return which slots are real on the device of the layout, `(rows, 1, 1, width)`."""
        return self._cached("real", lambda: self.is_real[:, None, None], device)

    def _cached(self, name: str, compute: Callable[[], NDArray[np.generic]], device: torch.device) -> Tensor:
        if name not in self._on_device:
            self._on_device[name] = to_device(compute(), device)
        return self._on_device[name]


@dataclass(eq=False)
class RowGroup:
    """Rows that are computed in one call.

    Args:
        rows: Their numbers in the batch.
        queries: The block of their queries.
        keys: The block of their keys.
    """

    rows: Ints
    queries: PaddedBlock
    keys: PaddedBlock
    _rows_on_device: Tensor | None = None

    def rows_on(self, device: torch.device) -> Tensor:
        """Return the numbers of the rows on the device of the layout."""
        if self._rows_on_device is None:
            self._rows_on_device = to_device(self.rows, device)
        return self._rows_on_device

    def is_real(self) -> NDArray[np.bool_]:
        """Return which cells `(rows, T, S)` belong to a real query and a real key."""
        return self.queries.is_real[:, :, None] & self.keys.is_real[:, None, :]

    def real_cells(self, weights: Tensor) -> Tensor:
        """Gather the real cells of weights `(rows, H, T, S)`: `(cells, H)`."""
        cells = to_device(np.flatnonzero(self.is_real()), weights.device)
        return gather_rows(weights.permute(0, 2, 3, 1).reshape(-1, weights.shape[1]), cells)


@dataclass(eq=False)
class StepLayout:
    """Where the packed steps of an index are stored when they are padded in groups.

    Args:
        steps: The packed steps that are in a group, in the order of `slots`; None for all steps in packed order.
        slots: The slot of each of these steps; None if step i is in slot i and no slot is padding.
        source: For each slot the position of its step in `slots`. Padding has that of the first step of its row.
            None if `slots` is None.
        sizes: The number of slots of each group.
        num_steps: The number of packed steps of the index.
    """

    steps: Tensor | None
    slots: Tensor | None
    source: Tensor | None
    sizes: list[int]
    num_steps: int

    def pad(self, values: Tensor, zeros: bool = True) -> tuple[Tensor, ...]:
        """Move packed steps into slots.

        Args:
            values: The packed steps `(N, ...)`.
            zeros: Whether padding is 0. Else it is a copy of a real step, which is faster; its content must not be used.

        Returns:
            The slots of each group, `(rows * width, ...)`.
        """
        values = values if self.steps is None else gather_rows(values, self.steps)
        if self.slots is not None and self.source is not None:
            if zeros:
                values = scatter_rows(values, self.slots, sum(self.sizes))
            else:
                values = gather_repeated_rows(values, self.source, self.slots)
        return values.split(self.sizes)  # one split: the backward of a slice would fill a whole buffer for each group

    def unpad(self, slots: Tensor) -> Tensor:
        """Move the slots of all groups back to packed steps, with zeros for steps that are in no group."""
        values = slots if self.slots is None else gather_rows(slots, self.slots)
        return values if self.steps is None else scatter_rows(values, self.steps, self.num_steps)


@dataclass(eq=False)
class AttentionLayout:
    """How the rows of two indexes are grouped, and where their steps are stored.

    Args:
        groups: The groups of rows.
        queries: The layout of the queries.
        keys: The layout of the keys.
        grid: The shape `(B, T, S)` of all cells.
        same_steps: Whether queries and keys are the same steps.
        slots_follow_columns: Whether slot i of the queries is at the column of slot i of the keys.
        device: The device of all tensors.
    """

    groups: list[RowGroup]
    queries: StepLayout
    keys: StepLayout
    grid: tuple[int, int, int]
    same_steps: bool
    slots_follow_columns: bool
    device: torch.device

    def cells(self) -> Tensor:
        """Return the positions of all real cells, group after group, in the flattened grid `(B, T, S)`."""
        _, num_queries, num_keys = self.grid
        positions = []
        for group in self.groups:
            query_cells = group.rows[:, None, None] * num_queries + group.queries.columns[:, :, None]
            positions.append((query_cells * num_keys + group.keys.columns[:, None, :])[group.is_real()])
        return to_device(np.concatenate(positions), self.device)


# The inner cache belongs to an index of queries, so an entry is dropped when either index is deleted.
_layouts: IndexCache[IndexCache[AttentionLayout]] = IndexCache()


def attention_layout(queries: Index, keys: Index, device: torch.device) -> AttentionLayout:
    """Return the layout of two indexes, computed once for each device."""
    layouts_of_queries = _layouts.get(queries, "keys", IndexCache)
    return layouts_of_queries.get(keys, device, lambda: _compute_layout(queries, keys, device))


def _compute_layout(queries: Index, keys: Index, device: torch.device) -> AttentionLayout:
    allowed_waste = WASTED_CELLS_ON_CPU if device.type == "cpu" else WASTED_CELLS_ON_DEVICE
    rows_of_groups = group_rows(queries.lengths, keys.lengths, allowed_waste)
    query_blocks, key_blocks = _padded_blocks(queries, rows_of_groups), _padded_blocks(keys, rows_of_groups)
    same_steps = queries.equals(keys)
    return AttentionLayout(
        groups=[RowGroup(rows, q, k) for rows, q, k in zip(rows_of_groups, query_blocks, key_blocks, strict=True)],
        queries=_step_layout(queries, rows_of_groups, query_blocks, device),
        keys=_step_layout(keys, rows_of_groups, key_blocks, device),
        grid=(*queries.shape, keys.shape[1]),
        same_steps=same_steps,
        slots_follow_columns=same_steps or _is_right_padded(queries) and _is_right_padded(keys),
        device=device,
    )


def group_rows(query_lengths: Ints, key_lengths: Ints, allowed_waste: int) -> list[Ints]:
    """Group rows of similar length; rows without a query or without a key are left out.

    Args:
        query_lengths: The number of queries of each row.
        key_lengths: The number of keys of each row.
        allowed_waste: A group may always have this many padded cells.

    Returns:
        The numbers of the rows of each group. The padded cells of a group are at most an eighth of its real cells, or
        `allowed_waste`.
    """
    rows = np.flatnonzero((query_lengths > 0) & (key_lengths > 0))
    rows = rows[np.lexsort((key_lengths[rows], query_lengths[rows]))]
    groups: list[list[int]] = []
    real_cells = num_queries = num_keys = 0  # of the last group; the others are the lengths of its longest rows
    lengths = zip(rows.tolist(), query_lengths[rows].tolist(), key_lengths[rows].tolist(), strict=True)
    for row, row_queries, row_keys in lengths:
        real_cells += row_queries * row_keys
        num_queries, num_keys = max(num_queries, row_queries), max(num_keys, row_keys)
        wasted_cells = (len(groups[-1]) + 1) * num_queries * num_keys - real_cells if groups else 0
        if groups and wasted_cells <= max(real_cells // 8, allowed_waste):
            groups[-1].append(row)
        else:
            groups.append([row])
            real_cells, num_queries, num_keys = row_queries * row_keys, row_queries, row_keys
    return [np.array(group, dtype=np.int64) for group in groups]


def _padded_blocks(index: Index, rows_of_groups: list[Ints]) -> list[PaddedBlock]:
    """Return the padded block of each group."""
    blocks = []
    for rows in rows_of_groups:
        lengths = index.lengths[rows]
        columns = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
        columns[np.arange(columns.shape[1]) < lengths[:, None]] = index.positions[_steps_of_rows(index, rows)]
        blocks.append(PaddedBlock(columns, lengths))
    return blocks


def _steps_of_rows(index: Index, rows: Ints) -> Ints:
    """Return the packed steps of some rows, row after row."""
    lengths = index.lengths[rows]
    time = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(index.offsets[:-1][rows], lengths) + time


def _step_layout(index: Index, rows_of_groups: list[Ints], blocks: list[PaddedBlock], device: torch.device) -> StepLayout:
    """Return where the steps of an index are stored in the slots of all groups."""
    sizes = [block.columns.size for block in blocks]
    first_slots = np.cumsum([0, *sizes])[:-1]  # of each group
    steps = _concatenate([_steps_of_rows(index, rows) for rows in rows_of_groups])
    slots = _concatenate([first + np.flatnonzero(b.is_real) for first, b in zip(first_slots, blocks, strict=True)])

    steps_on_device = None
    if len(steps) == index.num_steps:  # all steps are in a group: sort the slots, and no step has to be gathered
        slots = slots[np.argsort(steps)]
    else:
        steps_on_device = to_device(steps, device)
    num_slots = sum(sizes)
    if len(slots) == num_slots and np.array_equal(slots, np.arange(num_slots)):
        return StepLayout(steps_on_device, None, None, sizes, index.num_steps)

    source = np.full(num_slots, -1, dtype=np.int64)
    source[slots] = np.arange(len(slots))
    first_slot_of_row = _concatenate(
        [first + np.arange(b.columns.size) // b.width * b.width for first, b in zip(first_slots, blocks, strict=True)]
    )
    source = np.where(source < 0, source[first_slot_of_row], source)
    return StepLayout(steps_on_device, to_device(slots, device), to_device(source, device), sizes, index.num_steps)


def _concatenate(arrays: list[Ints]) -> Ints:
    """Concatenate arrays of integers; none at all give an empty array."""
    return np.concatenate([np.zeros(0, dtype=np.int64), *arrays])


def _is_right_padded(index: Index) -> bool:
    """Return whether all padding is on the right, so that the column of a step is its number in the sequence."""
    return np.array_equal(index.positions, np.arange(index.num_steps) - index.offsets[index.rows])
