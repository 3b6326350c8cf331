"""A query sees the real keys of its own sequence: weights, and the weighted sum of values. Seeing none gives 0.

The reference walks row by row. Where nothing but the order of steps says who sees whom, a kernel attends over the packed
steps themselves: on the CPU the compiled one (`attend_compiled.py`), in half precision on CUDA torch's
(`attend_varlen.py`). Else rows of like lengths are laid side by side, one call for each group; how many cells of a group
may be wasted is bounded, so the cost is that of the real steps.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from padless.kernels.attention import native as attend_compiled
from padless.kernels.attention import varlen as attend_varlen
from padless.kernels.attention.grouped import attend_grouped
from padless.kernels.attention.reference import AttentionMask, Score, WeightDropout, _for_heads, dot
from padless.ragged.index import Index

# ---------------------------------------------------------------------------------------------------- the fast path


def attend(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys groups size"],
    value: Float[Tensor, "keys groups width"],
    queries: Index,
    keys: Index,
    sight: AttentionMask,
    scale: float = 1.0,
    score: Score | None = None,
    thin: WeightDropout | None = None,
    show: Literal["", "before", "after"] = "",
) -> tuple[Float[Tensor, "queries heads width"], Float[Tensor, "rows heads columns others"] | None]:
    """The sum of the values of the keys that each query sees, weighed by the softmax of their scores.

    `score` stands for the product of query and key, `thin` drops weights. With `show` the weights come too, on the grid
    and 0 at masked places: those "before" or "after" `thin`. Heads of queries may be a multiple of those of keys.
    """
    if score is None and thin is None and not show and sight.window is None and sight.mask is None:
        given = query, key, value, queries, keys, sight.causal
        if attend_varlen.supports(*given):
            k, v = (_for_heads(x, query.shape[1]) for x in (key, value))
            return attend_varlen.attend(query, k, v, queries, keys, sight.causal, scale), None
        if attend_compiled.supports(*given):
            return attend_compiled.attend(
                *given, scale, lambda q, k, v: attend_grouped(q, k, v, queries, keys, sight, scale, dot)[:1]
            ), None
    return attend_grouped(query, key, value, queries, keys, sight, scale, score, thin, show)


# ---------------------------------------------------------------------------------------------------- who goes together
