"""Attention with several heads: MultiHeadAttention, and GroupQueryAttention, whose heads of queries share those of keys."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from padless import constraints, initializers, regularizers
from padless.errors import ArgumentError, ShapeError
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask
from padless.layers.attention.attention import (
    align_value_and_key,
    as_attention_mask,
    check_same_batch,
    restore_step_axes,
    steps_of,
)
from padless.layers.base.layer import Layer
from padless.layers.core.einsum_dense import EinsumDense
from padless.layers.regularization.dropout import Dropout
from padless.ragged.packed import Packed
from padless.registry import register
from padless.saving.serialization import serialize


class _Heads(Layer):
    """What both layers do: project, attend, project back."""

    relation = "attention"
    query_dense: EinsumDense
    key_dense: EinsumDense
    value_dense: EinsumDense
    output_dense: EinsumDense

    def __init__(
        self,
        heads: int,
        groups: int,
        key_dim: int,
        value_dim: int,
        output_shape: Any,
        dropout: float,
        use_bias: bool,
        use_gate: bool,
        sliding_window: int | None,
        made_by: dict[str, Any],
        activity_regularizer: Any,
        seed: int | None,
        kwargs: dict[str, Any],
    ) -> None:
        super().__init__(**kwargs)
        named = {"key_dim": key_dim, "value_dim": value_dim, "number of heads": heads, "number of key heads": groups}
        for what, size in named.items():
            if not isinstance(size, int) or size <= 0:
                raise ArgumentError(f"{type(self).__name__} expected a positive integer as its {what}; got {size!r}.")
        if sliding_window is not None and (not isinstance(sliding_window, int) or sliding_window <= 0):
            raise ArgumentError(
                f"{type(self).__name__} expected `sliding_window` to be None or a positive integer; got {sliding_window!r}."
            )
        self._sizes = (heads, groups, key_dim, value_dim)
        self._output_shape = (output_shape,) if isinstance(output_shape, int) else tuple(output_shape or ())
        self.dropout = dropout
        self.use_bias = use_bias
        self.use_gate = use_gate
        self.sliding_window = sliding_window
        self.seed = seed
        self._made_by = tuple(
            (
                initializers.get(made_by[f"{what}_initializer"]),
                regularizers.get(made_by[f"{what}_regularizer"]),
                constraints.get(made_by[f"{what}_constraint"]),
            )
            for what in ("kernel", "bias")
        )
        self._activity = regularizers.get(activity_regularizer)  # of what the inner layers give, not of the output
        self._thin = Dropout(dropout, seed=seed, name="dropout_of_weights")

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        """The projections, in Keras's order."""
        heads, groups, key_dim, value_dim = self._sizes
        for shape in (query_shape, value_shape, key_shape or value_shape):
            if len(shape) != 3:
                raise ShapeError(
                    f"{type(self).__name__} {self.name!r} expected inputs of shape (batch, steps, features); "
                    f"got {tuple(shape)}. Bring other axes into one of these with Reshape."
                )
        self.query_dense = self._projection("query", (heads, key_dim), query_shape)
        self.key_dense = self._projection("key", (groups, key_dim), key_shape or value_shape)
        self.gate_dense = None
        if self.use_gate:
            self.gate_dense = self._projection("gate", (heads, value_dim), query_shape, activation="sigmoid")
        self.value_dense = self._projection("value", (groups, value_dim), value_shape)
        output = self._output_shape or (query_shape[-1],)
        self.output_dense = self._projection("attention_output", output, (None, None, heads, value_dim), bound=2)

    def _projection(self, name: str, shape: tuple[int, ...], input_shape: Any, bound: int = 1, **more: Any) -> EinsumDense:
        """The last `bound` axes of each step into `shape`."""
        old, new = "xy"[:bound], "cdefghijklmnopqrstuvw"[: len(shape)]
        made_by = {
            f"{what}_{how}": made
            for what, three in zip(("kernel", "bias"), self._made_by, strict=True)
            for how, made in zip(("initializer", "regularizer", "constraint"), three, strict=True)
        }
        made = EinsumDense(
            f"ab{old},{old}{new}->ab{new}",
            (None, *shape),
            bias_axes=new if self.use_bias else None,
            name=name,
            trainable=self.trainable,
            dtype=self.dtype,
            activity_regularizer=self._activity,
            **made_by,
            **more,
        )
        made.build(input_shape)
        return made

    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        """What each query gets; with `return_attention_scores` also the weights `(B, H, T, S)`, before dropout."""
        value, key = align_value_and_key(self, value, value if key is None else key)
        check_same_batch(self, query, value)
        queries, keys = steps_of(self, query)[1], steps_of(self, key)[1]
        heads, _, key_dim, _ = self._sizes
        mask = as_attention_mask(self, attention_mask, (*queries.shape[:1], heads, queries.shape[1], keys.shape[1]))
        q, k, v = (
            _rows(dense, x) for dense, x in ((self.query_dense, query), (self.key_dense, key), (self.value_dense, value))
        )
        thin = self._thin_out if training and self.dropout else None
        sight = AttentionMask(use_causal_mask, self.sliding_window, mask)
        outputs, scores = attend(
            q,
            k,
            v,
            queries,
            keys,
            sight,
            1 / math.sqrt(key_dim),
            thin=thin,
            show="before" if return_attention_scores else "",
        )
        if self.gate_dense is not None:
            outputs = outputs * _rows(self.gate_dense, query)
        result = self.output_dense(restore_step_axes(query, outputs))
        return (result, scores) if return_attention_scores else result

    def _thin_out(self, weights: Tensor) -> Tensor:
        return self._thin(weights, training=True)

    def _call_on_data(self, args: Any, kwargs: dict[str, Any]) -> Any:
        """As ever; a mask of the key without a key is one of the value as key."""
        key_given = len(args) > 2 and args[2] is not None or kwargs.get("key") is not None
        if not key_given and (kwargs.get("key_mask") is not None or len(args) > 5 and args[5] is not None):
            value = args[1] if len(args) > 1 else kwargs.get("value")
            args, kwargs = (args, {**kwargs, "key": value}) if len(args) < 3 else ((*args[:2], value, *args[3:]), kwargs)
        return super()._call_on_data(args, kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The query's."""
        return mask[0] if isinstance(mask, list | tuple) else mask

    def compute_output_shape(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> Any:
        """The query's, with the features of the output."""
        return (*query_shape[:-1], *(self._output_shape or query_shape[-1:]))

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the same layer again."""
        own = {} if self._activity is None else {"activity_regularizer": serialize(self._activity, "regularizer")}
        return {**super().get_config(), **own}

    def _input_dtype(self) -> torch.dtype | None:
        return self.query_dense.kernel.dtype if self.built else self.dtype


def _rows(dense: EinsumDense, x: Any) -> Tensor:
    """The projected steps `(N, ...)`; what gaps show is not looked at."""
    return dense(x.with_values(x.values)).values if isinstance(x, Packed) else dense(x).flatten(0, 1)


@register("layer")
class MultiHeadAttention(_Heads):
    """`num_heads` attentions side by side: query `(B, T, D)`, value and key `(B, S, E)` give `(B, T, D)`.

    Keras's `MultiHeadAttention` (Vaswani et al. 2017). Weights: kernel and bias of `query_dense`, `key_dense`, `value_dense`
    (`gate_dense` before it with `use_gate`), `output_dense`. `attention_mask` `(B, T, S)`, or with heads `(B, H, T, S)`,
    `use_causal_mask` and `sliding_window` count columns of the grid. A query that sees no key gets 0 before the output
    projection. Scores are a grid `(B, H, T, S)`, 0 at masked places.

    >>> from padless import pack
    >>> x = pack(torch.ones(2, 3, 4), lengths=[3, 0])
    >>> MultiHeadAttention(2, 3)(x, x)
    Packed(shape=(2, 3, 4), 3 real steps, torch.float32, cpu)
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: Any = None,
        attention_axes: Any = None,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        use_gate: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_heads,
            num_heads,
            key_dim,
            key_dim if value_dim is None else value_dim,
            output_shape,
            dropout,
            use_bias,
            use_gate,
            sliding_window,
            locals(),
            activity_regularizer,
            seed,
            kwargs,
        )
        axes = tuple(attention_axes) if isinstance(attention_axes, list | tuple) else (attention_axes,)
        if any(axis not in (None, 1, -2) for axis in axes):
            raise ArgumentError(
                f"MultiHeadAttention attends over the steps, axis 1; got attention_axes={attention_axes!r}. "
                f"Use Permute or Reshape to bring another axis there."
            )
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = self._sizes[3]
        self.attention_axes = attention_axes


@register("layer", "GroupedQueryAttention")
class GroupQueryAttention(_Heads):
    """Attention whose `num_query_heads` share `num_key_value_heads` heads of keys and values.

    Keras's `GroupQueryAttention` (Ainslie et al. 2023); with one key head it is multi-query attention. Weights, masks and
    scores as in `MultiHeadAttention`.

    >>> GroupQueryAttention(3, 4, 2)(torch.ones(2, 5, 8), torch.ones(2, 7, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        head_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        dropout: float = 0.0,
        use_bias: bool = True,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        use_gate: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_query_heads,
            num_key_value_heads,
            head_dim,
            head_dim,
            None,
            dropout,
            use_bias,
            use_gate,
            sliding_window,
            locals(),
            activity_regularizer,
            seed,
            kwargs,
        )
        if num_query_heads % num_key_value_heads:
            raise ArgumentError(
                f"GroupQueryAttention shares key heads among query heads, so num_query_heads must be a "
                f"multiple of num_key_value_heads; got {num_query_heads} and {num_key_value_heads}."
            )
        self.head_dim = head_dim
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
