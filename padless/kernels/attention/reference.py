"""Attention over packed steps in plain torch: one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from padless.ragged.index import Index

Score = Callable[[Tensor, Tensor], Tensor]  # (..., T, K) and (..., S, K) to (..., T, S)


WeightDropout = Callable[[Tensor], Tensor]  # dropout of weights


@dataclass(frozen=True)
class AttentionMask:
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


def masked_softmax(scores: Tensor, allowed: Tensor | None) -> Tensor:
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
    sight: AttentionMask,
    scale: float = 1.0,
    score: Score = dot,
) -> tuple[Float[Tensor, "queries heads width"], Float[Tensor, "rows heads columns others"]]:
    """The reference: sums of values, and the weights on the grid, one sequence after the other."""
    key, value = _for_heads(key, query.shape[1]), _for_heads(value, query.shape[1])
    outputs, grid = [query.new_zeros((0, *query.shape[1:2], value.shape[2]))], []
    for row in range(queries.shape[0]):
        mine = slice(int(queries.offsets[row]), int(queries.offsets[row + 1]))
        theirs = slice(int(keys.offsets[row]), int(keys.offsets[row + 1]))
        columns = queries.tensor("positions", query.device)[mine][None]
        others = keys.tensor("positions", query.device)[theirs][None]
        number = torch.tensor([row], device=query.device)
        allowed = _both(sight.by_columns(columns, others), sight.by_mask(number, columns, others))
        scores = score(scale * query[mine].transpose(0, 1), key[theirs].transpose(0, 1))  # (H, t, s)
        weights = masked_softmax(scores, None if allowed is None else allowed[0].expand_as(scores))
        outputs.append((weights @ value[theirs].transpose(0, 1)).transpose(0, 1))
        shown = weights.new_zeros((query.shape[1], queries.shape[1], keys.shape[1]))
        shown[:, columns[0][:, None], others[0]] = weights
        grid.append(shown)
    shape = (0, query.shape[1], queries.shape[1], keys.shape[1])
    return torch.cat(outputs), torch.stack(grid) if grid else query.new_zeros(shape)


def _for_heads(x: Tensor, heads: int) -> Tensor:
    """Keys or values repeated, so that each head of the queries has its own."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return first if second is None else second if first is None else first & second
