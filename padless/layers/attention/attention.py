"""Attention and AdditiveAttention, and what the attention layers share.

A query sees the real keys of the same sequence only. A query that sees no key gives 0, and gaps show 0. The output has the
mask of the query. The masks of key and value are consumed.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, Unpack

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask, Score
from padless.layers.base.layer import Layer
from padless.layers.regularization.dropout import Dropout
from padless.ragged.index import Index
from padless.ragged.mask import check_columns, intersection
from padless.ragged.packed import Packed, gather_real_steps
from padless.registry import register
from padless.types import LayerOptions, MaskLike, Shape, StepTensor


@register("layer")
class Attention(Layer):
    """Average values with the softmax of query-key scores as weights, as Keras's `Attention` (Luong et al., 2015).

    The inputs are a list `[query, value]` or `[query, value, key]` with the shapes `(B, T, D)`, `(B, S, E)` and
    `(B, S, D)`. Without a key the value is the key. The output is `(B, T, E)`, on the steps of the query. A query sees
    the real steps that both key and value have. Keras ignores the mask of the key, and a query without any real key
    averages the padding; here that query gives 0.

    Args:
        use_scale: Whether scores are multiplied by a learned number, the weight `scale`.
        score_mode: "dot" for the dot product of query and key. "concat" for `sum(tanh(query + key))` over the features,
            times the weight `concat_score_weight`.
        dropout: The rate of dropout of the attention weights, in training.
        seed: The seed of that dropout.

    Raises:
        ArgumentError: The score mode is not known, or the call does not get a list of two or three inputs.
        ShapeError: In the call, if the shapes of query, key and value do not fit.

    Example:
        >>> from padless import pack
        >>> query, value = pack([[[1.0], [2.0]]]), pack([[[3.0], [3.0], [3.0]]])
        >>> Attention()([query, value]).values.tolist()
        [[3.0], [3.0]]
    """

    relation = "attention"
    scale: Tensor | None
    concat_score_weight: Tensor | None

    def __init__(
        self,
        use_scale: bool = False,
        score_mode: str = "dot",
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        if score_mode not in ("dot", "concat"):
            raise ArgumentError(unknown_name("score_mode", score_mode, ("dot", "concat")))
        self.use_scale = use_scale
        self.score_mode = score_mode
        self.dropout = dropout
        self.seed = seed
        self._weight_dropout = Dropout(dropout, seed=seed, name="dropout_of_weights")

    def build(self, input_shape: list[Shape]) -> None:
        """Create `scale` and `concat_score_weight`, as far as the arguments ask for them."""
        self.scale = self.add_weight((), "ones", name="scale") if self.use_scale else None
        uses_weight = self.score_mode == "concat"
        self.concat_score_weight = self.add_weight((), "ones", name="concat_score_weight") if uses_weight else None

    def score_function(self) -> Score | None:
        """Return the function that scores query and key; None for their dot product."""
        weight = self.concat_score_weight
        if weight is None:
            return None
        scale = 1.0 if self.scale is None else self.scale
        return lambda query, key: weight * torch.tanh(scale * _sum_of_each_pair(query, key)).sum(-1)

    def call(
        self,
        inputs: list[StepTensor],
        mask: MaskLike | None = None,
        training: bool = False,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> StepTensor | tuple[StepTensor, Tensor]:
        """Compute the weighted sums of values.

        Args:
            inputs: The list `[query, value]` or `[query, value, key]`.
            mask: The masks of the inputs, one for each. The key's may be left out.
            training: Whether dropout is applied.
            return_attention_scores: Whether the attention weights are returned too.
            use_causal_mask: Whether a query sees only keys at its own column of the grid and before.

        Returns:
            The outputs `(B, T, E)`; with `return_attention_scores` also the weights `(B, T, S)` after dropout, a plain
            tensor with 0 at masked places.
        """
        if not isinstance(inputs, list | tuple) or not 2 <= len(inputs) <= 3:
            got = f"{len(inputs)} inputs" if isinstance(inputs, list | tuple) else type(inputs).__name__
            raise ArgumentError(
                f"{type(self).__name__} {self.name!r} takes a list [query, value] or [query, value, key]; got {got}."
            )
        query = inputs[0]
        value, key = align_value_and_key(self, inputs[1], inputs[-1])
        query_steps, query_index = flatten_steps(self, query)
        key_steps, key_index = flatten_steps(self, key)
        value_steps, _ = flatten_steps(self, value)
        dtype = reduce(torch.promote_types, [query_steps.dtype, key_steps.dtype, value_steps.dtype])
        query_steps, key_steps, value_steps = query_steps.to(dtype), key_steps.to(dtype), value_steps.to(dtype)
        if query_steps.shape[1] != key_steps.shape[1]:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected queries and keys with the same number of features; got "
                f"{tuple(query.shape)} and {tuple(key.shape)}."
            )
        check_same_batch(self, query, value)
        score = self.score_function()
        if score is None and self.scale is not None:
            query_steps = query_steps * self.scale
        outputs, weights = attend(
            query_steps[:, None],  # one head
            key_steps[:, None],
            value_steps[:, None],
            query_index,
            key_index,
            AttentionMask(use_causal_mask),
            score=score,
            dropout=self._drop_weights if training and self.dropout else None,
            return_weights="after_dropout" if return_attention_scores else None,
        )
        result = restore_step_axes(query, outputs[:, 0])
        return result if weights is None else (result, weights[:, 0])

    def _drop_weights(self, weights: Tensor) -> Tensor:
        return self._weight_dropout(weights, training=True)

    def _call_on_data(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the layer; a list of two masks for three inputs gets None as the mask of the key."""
        inputs = args[0] if args else kwargs.get("inputs")
        masks = args[1] if len(args) > 1 else kwargs.get("mask")
        if isinstance(masks, list | tuple) and isinstance(inputs, list | tuple) and len(masks) == 2 < len(inputs):
            masks = [*masks, None]
            if len(args) > 1:
                args = (inputs, masks, *args[2:])
            else:
                kwargs = {**kwargs, "mask": masks}
        return super()._call_on_data(args, kwargs)

    def compute_mask(self, inputs: list[StepTensor], mask: Any = None) -> Any:
        """Return the mask of the query."""
        return mask[0] if isinstance(mask, list | tuple) else mask

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Return the shape of the query with the features of the value."""
        return (*input_shape[0][:-1], input_shape[1][-1])

    def _input_dtype(self) -> torch.dtype | None:
        """Return the dtype of the weights; None, for inputs of any dtype, without weights."""
        has_weights = self.use_scale or self.score_mode == "concat"
        return super()._input_dtype() if has_weights else None


@register("layer")
class AdditiveAttention(Attention):
    """Average values with additive scores as weights, as Keras's `AdditiveAttention` (Bahdanau et al., 2015).

    The score of query and key is `sum(scale * tanh(query + key))` over the features. Inputs, outputs and masks are those
    of `Attention`.

    Args:
        use_scale: Whether there is a weight `scale` `(D,)`; otherwise the scale is 1.
        dropout: The rate of dropout of the attention weights, in training.
        seed: The seed of that dropout.

    Example:
        >>> AdditiveAttention()([torch.ones(1, 2, 3), torch.ones(1, 4, 3)]).tolist()
        [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]
    """

    def __init__(
        self, use_scale: bool = True, dropout: float = 0.0, seed: int | None = None, **kwargs: Unpack[LayerOptions]
    ) -> None:
        super().__init__(use_scale, dropout=dropout, seed=seed, **kwargs)

    def build(self, input_shape: list[Shape]) -> None:
        """Create `scale`, one number for each feature, if `use_scale` asks for it."""
        shape = (input_shape[0][-1],)
        self.scale = self.add_weight(shape, "glorot_uniform", name="scale") if self.use_scale else None

    def score_function(self) -> Score:
        """Return the function that scores query and key."""
        scale = 1.0 if self.scale is None else self.scale
        return lambda query, key: (scale * torch.tanh(_sum_of_each_pair(query, key))).sum(-1)


def _sum_of_each_pair(query: Tensor, key: Tensor) -> Tensor:
    """Add each key `(..., S, D)` to each query `(..., T, D)`: `(..., T, S, D)`."""
    return query.unsqueeze(-2) + key.unsqueeze(-3)


# ---------------------------------------------------------------------------------------- shared by the attention layers


def flatten_steps(layer: Layer, x: StepTensor) -> tuple[Tensor, Index]:
    """Return the steps of an input as rows `(N, D)`, and their index; all steps of a plain tensor are real.

    Raises:
        ShapeError: The input is not `(B, T, D)`.
    """
    if x.ndim != 3 or isinstance(x, Packed) and x.num_step_axes > 2:
        hint = " For sequences of sequences wrap the layer in TimeDistributed." if x.ndim > 3 else ""
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} expected inputs of shape (batch, steps, features); got "
            f"{tuple(x.shape)}.{hint}"
        )
    if isinstance(x, Packed):
        return x.values, x.index
    return x.reshape(-1, x.shape[2]), Index.dense(x.shape[0], x.shape[1])


def align_value_and_key(layer: Layer, value: StepTensor, key: StepTensor) -> tuple[StepTensor, StepTensor]:
    """Return value and key on the steps that both have; all steps of a plain tensor are real.

    Raises:
        ShapeError: Value and key do not have the same batch size and number of steps.
    """
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
    return _select_steps(value, index), _select_steps(key, index)


def _select_steps(x: StepTensor, index: Index) -> Packed:
    if isinstance(x, Packed):
        return x.reindex(index)
    check_columns(index, x.shape, "A value or key")
    return Packed(gather_real_steps(x, index), index)


def check_same_batch(layer: Layer, query: StepTensor, value: StepTensor) -> None:
    """Raise `ShapeError` unless query and value have the same batch size."""
    if query.shape[0] != value.shape[0]:
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} needs one sequence of values for each sequence of queries; "
            f"got {tuple(query.shape)} and {tuple(value.shape)}."
        )


def restore_step_axes(query: StepTensor, rows: Tensor) -> StepTensor:
    """Return rows `(N, ...)`, one for each step of the query, as a `Packed` or a tensor `(B, T, ...)` like the query."""
    if isinstance(query, Packed):
        return query.with_values(rows)
    return rows.reshape(*query.shape[:2], *rows.shape[1:])


def as_attention_mask(layer: Layer, mask: MaskLike | None, grid: tuple[int, int, int, int]) -> Tensor | None:
    """Return an attention mask as booleans that broadcast to the grid.

    Args:
        layer: The layer, for the message of an error.
        mask: Booleans or numbers `(T, S)`, `(B, T, S)` or `(B, H, T, S)`; a size may be 1. None allows everything.
        grid: The sizes `(B, H, T, S)` of batch, heads, query columns and key columns.

    Raises:
        ShapeError: The mask does not broadcast to the grid.
    """
    if mask is None:
        return None
    tensor = mask.unpack(padding=0) if isinstance(mask, Packed) else torch.as_tensor(mask)
    allowed = tensor if tensor.dtype == torch.bool else tensor != 0
    while allowed.ndim < 4:
        allowed = allowed.unsqueeze(-3) if allowed.ndim > 1 else allowed.unsqueeze(0)
    if allowed.ndim > 4 or any(size not in (1, full) for size, full in zip(allowed.shape, grid, strict=True)):
        batch, _, columns, key_columns = grid
        raise ShapeError(
            f"The attention_mask of {type(layer).__name__} {layer.name!r} must have the shape (batch, queries, "
            f"keys), here {(batch, columns, key_columns)}, or with heads {grid}; got {tuple(tensor.shape)}."
        )
    return allowed
