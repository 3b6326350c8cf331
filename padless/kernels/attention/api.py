"""Attend over packed steps: each query sees the real keys of its sequence. A query without a key gets 0.

Three paths:

- `native.py`: the compiled kernel, on the CPU;
- `varlen.py`: torch's `varlen_attn`, on CUDA in half precision;
- `grouped.py`: sequences of similar length are padded to one block, and torch attends once for each block. The number of
  padded cells is bounded, so the cost is that of the real steps. This path takes every mask, score and dropout.

`reference.py` computes the same one sequence at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from padless.kernels.attention import native, varlen
from padless.kernels.attention.grouped import ReturnedWeights, attend_grouped
from padless.kernels.attention.reference import AttentionMask, Score, WeightDropout, dot_score, repeat_heads
from padless.ragged.index import Index


def attend(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys groups size"],
    value: Float[Tensor, "keys groups width"],
    queries: Index,
    keys: Index,
    attention_mask: AttentionMask,
    scale: float = 1.0,
    score: Score | None = None,
    dropout: WeightDropout | None = None,
    return_weights: ReturnedWeights | None = None,
) -> tuple[Float[Tensor, "queries heads width"], Float[Tensor, "rows heads columns others"] | None]:
    """Return for each query the sum of the values that it sees, weighted by the softmax of its scores.

    Args:
        query: The queries of all real steps.
        key: The keys; the number of heads of the queries is a multiple of theirs.
        value: The values, one for each key.
        queries: The steps of the queries.
        keys: The steps of the keys and values.
        attention_mask: Which real keys of its row a query sees.
        scale: Factor of the scores.
        score: Computes the scores; None for the dot product.
        dropout: Drops weights; None for no dropout.
        return_weights: Which weights to return, "before_dropout" or "after_dropout"; None for none.

    Returns:
        The sums, and the weights on the grid `(B, H, T, S)` with 0 at masked cells, or None.
    """
    plain = score is None and dropout is None and return_weights is None
    if plain and attention_mask.window is None and attention_mask.mask is None:
        causal = attention_mask.causal
        if varlen.supports(query, key, value, queries, keys, causal):
            repeated_key, repeated_value = repeat_heads(key, query.shape[1]), repeat_heads(value, query.shape[1])
            return varlen.attend(query, repeated_key, repeated_value, queries, keys, causal, scale), None
        if native.supports(query, key, value, queries, keys, causal):

            def grouped(query: Tensor, key: Tensor, value: Tensor) -> Sequence[Tensor]:
                # With a score, torch's fused kernel is not used: it has no second derivative.
                return attend_grouped(query, key, value, queries, keys, attention_mask, scale, dot_score)[:1]

            return native.attend(query, key, value, queries, keys, causal, scale, grouped), None
    return attend_grouped(query, key, value, queries, keys, attention_mask, scale, score, dropout, return_weights)
