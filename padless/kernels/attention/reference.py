"""Attention over packed steps in plain torch, one sequence at a time, and the parts that all paths share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from padless.ragged.index import Index

Score = Callable[[Tensor, Tensor], Tensor]
"""A function of queries `(..., T, K)` and keys `(..., S, K)` that returns scores `(..., T, S)`."""

WeightDropout = Callable[[Tensor], Tensor]
"""Dropout of attention weights."""


@dataclass(frozen=True)
class AttentionMask:
    """Which real keys of its row a query may see.

    Args:
        causal: Whether keys at later columns are hidden.
        window: Number of columns; keys at this distance or farther are hidden.
        mask: Boolean, `(B, H, T, S)`; B, H, T and S may each be 1 to broadcast.
    """

    causal: bool = False
    window: int | None = None
    mask: Tensor | None = None

    def by_columns(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        """Return what `causal` and `window` allow between columns, None if everything.

        Args:
            queries: Columns of the queries, `(n, T)`.
            keys: Columns of the keys, `(n, S)`.

        Returns:
            Boolean, `(n, 1, T, S)`.
        """
        distance = queries[:, None, :, None] - keys[:, None, None, :]
        allowed = None
        if self.causal:
            allowed = distance >= 0
        if self.window is not None:
            in_window = distance.abs() < self.window
            allowed = in_window if allowed is None else allowed & in_window
        return allowed

    def by_mask(self, rows: Tensor, queries: Tensor, keys: Tensor) -> Tensor | None:
        """Return what `mask` allows between columns of some rows, None if there is no mask.

        Args:
            rows: Numbers of the rows, `(n,)`.
            queries: Columns of the queries, `(n, T)`.
            keys: Columns of the keys, `(n, S)`.

        Returns:
            Boolean, `(n, H, T, S)`.
        """
        if self.mask is None:
            return None
        coordinates = [rows[:, None, None], queries[:, :, None], keys[:, None, :]]
        sizes = [self.mask.shape[axis] for axis in (0, 2, 3)]
        batch, query, key = (x if size > 1 else torch.zeros_like(x) for x, size in zip(coordinates, sizes, strict=True))
        return self.mask[batch, :, query, key].permute(0, 3, 1, 2)


def dot_score(query: Tensor, key: Tensor) -> Tensor:
    """Return the dot product of each query with each key."""
    return query @ key.transpose(-1, -2)


def masked_softmax(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Return the softmax over the allowed keys; 0 for a query without an allowed key."""
    if allowed is None:
        return scores.softmax(-1)
    any_allowed = allowed.any(-1, keepdim=True)  # a query without a key gets all of them first: NaN has a NaN gradient
    return scores.masked_fill(~(allowed | ~any_allowed), -float("inf")).softmax(-1) * any_allowed


def attend_by_row(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys groups size"],
    value: Float[Tensor, "keys groups width"],
    queries: Index,
    keys: Index,
    attention_mask: AttentionMask,
    scale: float = 1.0,
    score: Score = dot_score,
) -> tuple[Float[Tensor, "queries heads width"], Float[Tensor, "rows heads columns others"]]:
    """Attend, one sequence at a time: the reference.

    Returns:
        The weighted sums of values for each query, and the weights on the grid `(B, H, T, S)`, 0 at masked cells.
    """
    key, value = repeat_heads(key, query.shape[1]), repeat_heads(value, query.shape[1])
    outputs, grid = [query.new_zeros((0, *query.shape[1:2], value.shape[2]))], []
    for row in range(queries.shape[0]):
        row_queries = slice(int(queries.offsets[row]), int(queries.offsets[row + 1]))
        row_keys = slice(int(keys.offsets[row]), int(keys.offsets[row + 1]))
        query_columns = queries.tensor("positions", query.device)[row_queries][None]
        key_columns = keys.tensor("positions", query.device)[row_keys][None]
        allowed = both_allowed(
            attention_mask.by_columns(query_columns, key_columns),
            attention_mask.by_mask(torch.tensor([row], device=query.device), query_columns, key_columns),
        )
        scores = score(scale * query[row_queries].transpose(0, 1), key[row_keys].transpose(0, 1))  # (H, t, s)
        weights = masked_softmax(scores, None if allowed is None else allowed[0].expand_as(scores))
        outputs.append((weights @ value[row_keys].transpose(0, 1)).transpose(0, 1))
        weight_grid = weights.new_zeros((query.shape[1], queries.shape[1], keys.shape[1]))
        weight_grid[:, query_columns[0][:, None], key_columns[0]] = weights
        grid.append(weight_grid)
    shape = (0, query.shape[1], queries.shape[1], keys.shape[1])
    return torch.cat(outputs), torch.stack(grid) if grid else query.new_zeros(shape)


def repeat_heads(x: Tensor, num_heads: int) -> Tensor:
    """Repeat the heads of keys or values `(steps, groups, size)`, one for each head of the queries."""
    return x if x.shape[1] == num_heads else x.repeat_interleave(num_heads // x.shape[1], dim=1)


def both_allowed(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return what both masks allow; None allows everything."""
    if first is None or second is None:
        return second if first is None else first
    return first & second
