"""Layers in which a step sees any step: the query's mask passes, the key's and the value's is consumed.

A query sees the real keys of its own sequence only; one that sees none gives 0. Gaps show 0.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask, Score
from padless.layers.base.layer import Layer
from padless.layers.regularization.dropout import Dropout
from padless.ragged.index import Index
from padless.ragged.mask import intersection
from padless.ragged.packed import Packed, gather_real_steps
from padless.registry import register


@register("layer")
class Attention(Layer):
    """Values weighed by the softmax of the products of query and key, for inputs `[query, value]` or with `key`.

    Keras's `Attention` (Luong et al. 2015): `(B, T, D)`, `(B, S, E)` and `(B, S, D)` give `(B, T, E)`. `score_mode="concat"`
    scores by a weighted sum of `tanh(query + key)`. The scores of `return_attention_scores` are a grid `(B, T, S)`, 0 at
    masked places. Keras ignores the mask of the key, and lets a query without any real key see the padding.

    >>> from padless import pack
    >>> query, value = pack([[[1.0], [2.0]]]), pack([[[3.0], [3.0], [3.0]]])
    >>> Attention()([query, value]).values.tolist()
    [[3.0], [3.0]]
    """

    relation = "attention"
    scale: Tensor | None
    concat_score_weight: Tensor | None

    def __init__(
        self, use_scale: bool = False, score_mode: str = "dot", dropout: float = 0.0, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if score_mode not in ("dot", "concat"):
            raise ArgumentError(unknown_name("score_mode", score_mode, ("dot", "concat")))
        self.use_scale = use_scale
        self.score_mode = score_mode
        self.dropout = dropout
        self.seed = seed
        self._thin = Dropout(dropout, seed=seed, name="dropout_of_weights")

    def build(self, input_shape: Any) -> None:
        """A number to scale by and one for the sum, where they are wanted."""
        self.scale = self.add_weight((), "ones", name="scale") if self.use_scale else None
        concat = self.score_mode == "concat"
        self.concat_score_weight = self.add_weight((), "ones", name="concat_score_weight") if concat else None

    def scores(self) -> Score | None:
        """How query and key are scored; None: by their product."""
        if self.score_mode == "dot":
            return None
        scale = 1.0 if self.scale is None else self.scale
        weight: Any = self.concat_score_weight
        return lambda query, key: weight * torch.tanh(scale * _pairs(query, key)).sum(-1)

    def call(
        self,
        inputs: Any,
        mask: Any = None,
        training: bool = False,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        """The weighted sums, one for each query; with `return_attention_scores` the weights behind them."""
        if not isinstance(inputs, list | tuple) or not 2 <= len(inputs) <= 3:
            got = f"{len(inputs)} inputs" if isinstance(inputs, list | tuple) else type(inputs).__name__
            raise ArgumentError(
                f"{type(self).__name__} {self.name!r} takes a list [query, value] or [query, value, key]; got {got}."
            )
        query, value = inputs[0], inputs[1]
        value, key = align_value_and_key(self, value, inputs[2] if len(inputs) > 2 else value)
        (q, queries), (k, keys), (v, _) = (steps_of(self, x) for x in (query, key, value))
        if q.shape[1] != k.shape[1]:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} compares queries with keys of as many features; got "
                f"{tuple(query.shape)} and {tuple(key.shape)}."
            )
        check_same_batch(self, query, value)
        scored = self.scores()
        q = q if scored is not None or self.scale is None else q * self.scale
        outputs, scores = attend(
            q[:, None],
            k[:, None],
            v[:, None],
            queries,
            keys,
            AttentionMask(use_causal_mask),
            score=scored,
            thin=self._thin_out if training and self.dropout else None,
            show="after" if return_attention_scores else "",
        )
        result = restore_step_axes(query, outputs[:, 0])
        return (result, scores[:, 0]) if scores is not None else result

    def _thin_out(self, weights: Tensor) -> Tensor:
        return self._thin(weights, training=True)

    def _call_on_data(self, args: Any, kwargs: dict[str, Any]) -> Any:
        """As ever; a list of masks may leave out that of the key."""
        given = kwargs.get("mask") if len(args) < 2 else args[1]
        inputs = args[0] if args else kwargs.get("inputs")
        if isinstance(given, list | tuple) and isinstance(inputs, list | tuple) and len(given) == 2 < len(inputs):
            masks = [*given, None]
            args, kwargs = (args, {**kwargs, "mask": masks}) if len(args) < 2 else ((inputs, masks, *args[2:]), kwargs)
        return super()._call_on_data(args, kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The query's."""
        return mask[0] if isinstance(mask, list | tuple) else mask

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The query's, with the features of the value."""
        return (*input_shape[0][:-1], input_shape[1][-1])

    def _input_dtype(self) -> torch.dtype | None:
        """Without weights of its own the layer takes what it gets."""
        has_weights = self.use_scale or self.score_mode == "concat"
        return super()._input_dtype() if has_weights else None


@register("layer")
class AdditiveAttention(Attention):
    """Values weighed by the softmax of `sum(scale * tanh(query + key))`, for inputs `[query, value]` or with `key`.

    Keras's `AdditiveAttention` (Bahdanau et al. 2015). Weight: `scale` `(D,)`. Otherwise as `Attention`.

    >>> AdditiveAttention()([torch.ones(1, 2, 3), torch.ones(1, 4, 3)]).tolist()
    [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]
    """

    def __init__(self, use_scale: bool = True, dropout: float = 0.0, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(use_scale, dropout=dropout, seed=seed, **kwargs)

    def build(self, input_shape: Any) -> None:
        """A scale for each feature."""
        size = (input_shape[0][-1],)
        self.scale = self.add_weight(size, "glorot_uniform", name="scale") if self.use_scale else None

    def scores(self) -> Score:
        """The weighted sum of tanh."""
        scale = 1.0 if self.scale is None else self.scale
        return lambda query, key: (scale * torch.tanh(_pairs(query, key))).sum(-1)


def _pairs(query: Tensor, key: Tensor) -> Tensor:
    """The sum of each query and each key."""
    return query.unsqueeze(-2) + key.unsqueeze(-3)


# ------------------------------------------------------------------------------------------------ what layers here share


def steps_of(layer: Layer, x: Any) -> tuple[Tensor, Index]:
    """The steps `(N, D)` of an input and where they stand; of a plain one all are real."""
    if x.ndim != 3 or isinstance(x, Packed) and x.num_step_axes > 2:
        hint = " For sequences of sequences wrap the layer in TimeDistributed." if x.ndim > 3 else ""
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} expected inputs of shape (batch, steps, features); got "
            f"{tuple(x.shape)}.{hint}"
        )
    if isinstance(x, Packed):
        return x.values, x.index
    return x.reshape(-1, x.shape[2]), Index.dense(x.shape[0], x.shape[1])


def align_value_and_key(layer: Layer, value: Any, key: Any) -> tuple[Any, Any]:
    """Value and key on the steps that both have; an unmasked one makes no claim."""
    if value is key:
        return value, key
    if tuple(value.shape[:2]) != tuple(key.shape[:2]):
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} needs a key for each value; got keys of shape "
            f"{tuple(key.shape)} and values of shape {tuple(value.shape)}."
        )
    indexes = [x.index for x in (value, key) if isinstance(x, Packed)]
    if not indexes:
        return value, key
    index = reduce(intersection, indexes)
    value, key = (
        x.reindex(index) if isinstance(x, Packed) else Packed(gather_real_steps(x, index), index) for x in (value, key)
    )
    return value, key


def check_same_batch(layer: Layer, query: Any, value: Any) -> None:
    """Raises `ShapeError` unless there are as many sequences of queries as of values."""
    if query.shape[0] != value.shape[0]:
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} needs one sequence of values for each sequence of queries; "
            f"got {tuple(query.shape)} and {tuple(value.shape)}."
        )


def restore_step_axes(query: Any, outputs: Tensor) -> Any:
    """Outputs `(N, ...)` on the steps of the query."""
    if isinstance(query, Packed):
        return query.with_values(outputs)
    return outputs.reshape(*query.shape[:2], *outputs.shape[1:])


def as_attention_mask(layer: Layer, mask: Any, grid: tuple[int, int, int, int]) -> Tensor | None:
    """An attention mask as booleans that broadcast against `(B, H, T, S)`; axes before `(T, S)` may be missing."""
    if mask is None:
        return None
    found = mask.unpack(padding=0) if isinstance(mask, Packed) else torch.as_tensor(mask)
    found = found if found.dtype == torch.bool else found != 0
    while found.ndim < 4:
        found = found.unsqueeze(-3) if found.ndim > 1 else found.unsqueeze(0)
    if found.ndim > 4 or any(size not in (1, full) for size, full in zip(found.shape, grid, strict=True)):
        batch, heads, columns, others = grid
        raise ShapeError(
            f"The attention_mask of {type(layer).__name__} {layer.name!r} must have the shape (batch, queries, "
            f"keys), here {(batch, columns, others)}, or with heads {grid}; got {tuple(mask.shape)}."
        )
    return found
