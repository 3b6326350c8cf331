"""MultiHeadAttention, and GroupQueryAttention, in which several heads of queries use the same head of keys and values."""

from __future__ import annotations

import math
from typing import Any, Unpack

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
    flatten_steps,
    restore_step_axes,
)
from padless.layers.base.layer import Layer
from padless.layers.core.einsum_dense import EinsumDense
from padless.layers.regularization.dropout import Dropout
from padless.ragged.packed import Packed
from padless.registry import register
from padless.saving.serialization import serialize
from padless.types import (
    ActivationLike,
    BasicLayerOptions,
    ConstraintLike,
    InitializerLike,
    MaskLike,
    RegularizerLike,
    Shape,
    StepTensor,
)


class _AttentionWithHeads(Layer):
    """Base class: project the inputs to heads, attend in each head, project the heads to the output."""

    relation = "attention"
    query_dense: EinsumDense
    key_dense: EinsumDense
    value_dense: EinsumDense
    gate_dense: EinsumDense | None
    output_dense: EinsumDense

    def __init__(
        self,
        *,
        num_query_heads: int,
        num_key_heads: int,
        key_dim: int,
        value_dim: int,
        output_shape: int | list[int] | tuple[int, ...] | None,
        dropout: float,
        use_bias: bool,
        use_gate: bool,
        sliding_window: int | None,
        seed: int | None,
        kernel_initializer: InitializerLike,
        bias_initializer: InitializerLike,
        kernel_regularizer: RegularizerLike,
        bias_regularizer: RegularizerLike,
        activity_regularizer: RegularizerLike,
        kernel_constraint: ConstraintLike,
        bias_constraint: ConstraintLike,
        **kwargs: Unpack[BasicLayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        for name, size in (
            ("key_dim", key_dim),
            ("value_dim", value_dim),
            ("number of heads", num_query_heads),
            ("number of key heads", num_key_heads),
        ):
            if not isinstance(size, int) or size <= 0:
                raise ArgumentError(f"{type(self).__name__} expected a positive integer as its {name}; got {size!r}.")
        if sliding_window is not None and (not isinstance(sliding_window, int) or sliding_window <= 0):
            raise ArgumentError(
                f"{type(self).__name__} expected `sliding_window` to be None or a positive integer; got {sliding_window!r}."
            )
        self._num_query_heads = num_query_heads
        self._num_key_heads = num_key_heads
        self._key_dim = key_dim
        self._value_dim = value_dim
        self._output_shape = (output_shape,) if isinstance(output_shape, int) else tuple(output_shape or ())
        self.dropout = dropout
        self.use_bias = use_bias
        self.use_gate = use_gate
        self.sliding_window = sliding_window
        self.seed = seed
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self._projection_activity_regularizer = regularizers.get(activity_regularizer)
        self._weight_dropout = Dropout(dropout, seed=seed, name="dropout_of_weights")

    def build(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> None:
        """Create the projections, in Keras's order."""
        key_shape = key_shape or value_shape
        for shape in (query_shape, value_shape, key_shape):
            if len(shape) != 3:
                raise ShapeError(
                    f"{type(self).__name__} {self.name!r} expected inputs of shape (batch, steps, features); "
                    f"got {tuple(shape)}. Bring other axes into one of these with Reshape."
                )
        query_heads, value_heads = (self._num_query_heads, self._key_dim), (self._num_query_heads, self._value_dim)
        self.query_dense = self._projection("query", query_shape, query_heads)
        self.key_dense = self._projection("key", key_shape, (self._num_key_heads, self._key_dim))
        self.gate_dense = None
        if self.use_gate:
            self.gate_dense = self._projection("gate", query_shape, value_heads, activation="sigmoid")
        self.value_dense = self._projection("value", value_shape, (self._num_key_heads, self._value_dim))
        output_sizes = self._output_shape or (query_shape[-1],)
        self.output_dense = self._projection("attention_output", (None, None, *value_heads), output_sizes, num_input_axes=2)

    def _projection(
        self,
        name: str,
        input_shape: Shape,
        output_sizes: tuple[int | None, ...],
        num_input_axes: int = 1,
        activation: ActivationLike = None,
    ) -> EinsumDense:
        """Build the layer that maps the last `num_input_axes` axes of each step to axes of `output_sizes`."""
        input_axes, output_axes = "xy"[:num_input_axes], "cdefghijklmnopqrstuvw"[: len(output_sizes)]
        projection = EinsumDense(
            f"ab{input_axes},{input_axes}{output_axes}->ab{output_axes}",
            (None, *output_sizes),
            activation=activation,
            bias_axes=output_axes if self.use_bias else None,
            name=name,
            trainable=self.trainable,
            dtype=self.dtype,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            kernel_regularizer=self.kernel_regularizer,
            bias_regularizer=self.bias_regularizer,
            activity_regularizer=self._projection_activity_regularizer,
            kernel_constraint=self.kernel_constraint,
            bias_constraint=self.bias_constraint,
        )
        projection.build(input_shape)
        return projection

    def call(
        self,
        query: StepTensor,
        value: StepTensor,
        key: StepTensor | None = None,
        query_mask: MaskLike | None = None,
        value_mask: MaskLike | None = None,
        key_mask: MaskLike | None = None,
        attention_mask: MaskLike | None = None,
        return_attention_scores: bool = False,
        training: bool = False,
        use_causal_mask: bool = False,
    ) -> StepTensor | tuple[StepTensor, Tensor]:
        """Compute the output of each query.

        Args:
            query: `(B, T, D)`.
            value: `(B, S, E)`.
            key: `(B, S, F)`; None to use the value as the key.
            query_mask: The real steps of the query, if it is a plain tensor.
            value_mask: The real steps of the value, likewise.
            key_mask: The real steps of the key, likewise. A query sees the steps that value and key both have.
            attention_mask: Which keys a query may see, by columns of the grid: `(B, T, S)`, or `(B, H, T, S)` by heads.
            return_attention_scores: Whether the attention weights are returned too.
            training: Whether dropout is applied.
            use_causal_mask: Whether a query sees only keys at the same column of the grid and before.

        Returns:
            The outputs `(B, T, D)`, on the steps of the query. With `return_attention_scores` also the weights
            `(B, H, T, S)` before dropout, a plain tensor with 0 at masked places.
        """
        value, key = align_value_and_key(self, value, value if key is None else key)
        check_same_batch(self, query, value)
        query_index, key_index = flatten_steps(self, query)[1], flatten_steps(self, key)[1]
        grid = (query_index.shape[0], self._num_query_heads, query_index.shape[1], key_index.shape[1])
        outputs, weights = attend(
            _project(self.query_dense, query),
            _project(self.key_dense, key),
            _project(self.value_dense, value),
            query_index,
            key_index,
            AttentionMask(use_causal_mask, self.sliding_window, as_attention_mask(self, attention_mask, grid)),
            1 / math.sqrt(self._key_dim),
            dropout=self._drop_weights if training and self.dropout else None,
            return_weights="before_dropout" if return_attention_scores else None,
        )
        if self.gate_dense is not None:
            outputs = outputs * _project(self.gate_dense, query)
        result = self.output_dense(restore_step_axes(query, outputs))
        return (result, weights) if weights is not None else result

    def _drop_weights(self, weights: Tensor) -> Tensor:
        return self._weight_dropout(weights, training=True)

    def _call_on_data(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the layer; with a `key_mask` but no key, the value is the key and gets that mask."""
        key = args[2] if len(args) > 2 else kwargs.get("key")
        key_mask = args[5] if len(args) > 5 else kwargs.get("key_mask")
        if key is None and key_mask is not None:
            value = args[1] if len(args) > 1 else kwargs.get("value")
            if len(args) > 2:
                args = (*args[:2], value, *args[3:])
            else:
                kwargs = {**kwargs, "key": value}
        return super()._call_on_data(args, kwargs)

    def compute_mask(self, inputs: object, mask: Any = None) -> Any:
        """Return the mask of the query."""
        return mask[0] if isinstance(mask, list | tuple) else mask

    def compute_output_shape(self, query_shape: Shape, value_shape: Shape, key_shape: Shape | None = None) -> Shape:
        """Return the shape of the query with the features of the output."""
        return (*query_shape[:-1], *(self._output_shape or query_shape[-1:]))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, in a form that JSON can represent."""
        config = super().get_config()
        if self._projection_activity_regularizer is not None:
            config["activity_regularizer"] = serialize(self._projection_activity_regularizer, "regularizer")
        return config

    def _input_dtype(self) -> torch.dtype | None:
        return self.query_dense.kernel.dtype if self.built else self.dtype


def _project(projection: EinsumDense, x: StepTensor) -> Tensor:
    """Return the projected steps `(N, heads, size)`, without gap values."""
    projected = projection(x.with_values(x.values) if isinstance(x, Packed) else x)
    return projected.values if isinstance(projected, Packed) else projected.flatten(0, 1)


@register("layer")
class MultiHeadAttention(_AttentionWithHeads):
    """Attend in several heads, as Keras's `MultiHeadAttention` (Vaswani et al., 2017).

    Query `(B, T, D)`, value `(B, S, E)` and key `(B, S, F)` give `(B, T, D)`, on the steps of the query. The key is the
    value if the call gets no key. A query sees the real steps that key and value both have. A query that sees no key
    gives 0 before the output projection. `attention_mask`, `use_causal_mask` and `sliding_window` count columns of the
    padded grid.

    Weights are the kernels and biases of the projections `query_dense`, `key_dense`, `gate_dense` (with `use_gate`),
    `value_dense` and `output_dense`.

    Args:
        num_heads: The number of heads.
        key_dim: The size of query and key in each head.
        value_dim: The size of the value in each head; None for `key_dim`.
        dropout: The rate of dropout of the attention weights, in training.
        use_bias: Whether the projections add a bias.
        output_shape: The features of the output, one size or several; None for those of the query.
        attention_axes: None, 1 or -2: attention is over the steps.
        sliding_window: A query sees only keys that are less than this number of columns away; None for no limit.
        flash_attention: Ignored. The fastest available kernel is used.
        kernel_initializer: The initializer of the kernels.
        bias_initializer: The initializer of the biases.
        kernel_regularizer: The regularizer of the kernels.
        bias_regularizer: The regularizer of the biases.
        activity_regularizer: The regularizer of the outputs of the projections.
        kernel_constraint: The constraint of the kernels.
        bias_constraint: The constraint of the biases.
        use_gate: Whether the output of each head is multiplied by a sigmoid of the query.
        seed: The seed of the dropout.

    Raises:
        ArgumentError: A size is not a positive integer, or attention is over another axis than time.
        ShapeError: In the call, if an input does not have 3 axes, or the shapes do not fit.

    Example:
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
        output_shape: int | list[int] | tuple[int, ...] | None = None,
        attention_axes: int | list[int] | tuple[int, ...] | None = None,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        use_gate: bool = False,
        seed: int | None = None,
        **kwargs: Unpack[BasicLayerOptions],
    ) -> None:
        value_dim = key_dim if value_dim is None else value_dim
        super().__init__(
            num_query_heads=num_heads,
            num_key_heads=num_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            output_shape=output_shape,
            dropout=dropout,
            use_bias=use_bias,
            use_gate=use_gate,
            sliding_window=sliding_window,
            seed=seed,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        axes = attention_axes if isinstance(attention_axes, list | tuple) else [attention_axes]
        if any(axis not in (None, 1, -2) for axis in axes):
            raise ArgumentError(
                f"MultiHeadAttention attends over the steps, axis 1; got attention_axes={attention_axes!r}. "
                f"Use Permute or Reshape to bring another axis there."
            )
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.attention_axes = attention_axes


@register("layer", "GroupedQueryAttention")
class GroupQueryAttention(_AttentionWithHeads):
    """Attend in several heads that share keys and values, as Keras's `GroupQueryAttention` (Ainslie et al., 2023).

    Each head of keys and values serves `num_query_heads / num_key_value_heads` heads of queries. With one head of keys
    it is multi-query attention. Inputs, outputs, masks and weights are those of `MultiHeadAttention`.

    Args:
        head_dim: The size of query, key and value in each head.
        num_query_heads: The number of heads of queries.
        num_key_value_heads: The number of heads of keys and values, a divisor of `num_query_heads`.
        dropout: The rate of dropout of the attention weights, in training.
        use_bias: Whether the projections add a bias.
        sliding_window: A query sees only keys that are less than this number of columns away; None for no limit.
        flash_attention: Ignored. The fastest available kernel is used.
        kernel_initializer: The initializer of the kernels.
        bias_initializer: The initializer of the biases.
        kernel_regularizer: The regularizer of the kernels.
        bias_regularizer: The regularizer of the biases.
        activity_regularizer: The regularizer of the outputs of the projections.
        kernel_constraint: The constraint of the kernels.
        bias_constraint: The constraint of the biases.
        use_gate: Whether the output of each head is multiplied by a sigmoid of the query.
        seed: The seed of the dropout.

    Raises:
        ArgumentError: A size is not a positive integer, or the heads of queries cannot be divided among those of keys.
        ShapeError: In the call, if an input does not have 3 axes, or the shapes do not fit.

    Example:
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
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        use_gate: bool = False,
        seed: int | None = None,
        **kwargs: Unpack[BasicLayerOptions],
    ) -> None:
        super().__init__(
            num_query_heads=num_query_heads,
            num_key_heads=num_key_value_heads,
            key_dim=head_dim,
            value_dim=head_dim,
            output_shape=None,
            dropout=dropout,
            use_bias=use_bias,
            use_gate=use_gate,
            sliding_window=sliding_window,
            seed=seed,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        if num_query_heads % num_key_value_heads:
            raise ArgumentError(
                f"GroupQueryAttention divides the query heads among the key heads, so num_query_heads must be a "
                f"multiple of num_key_value_heads; got {num_query_heads} and {num_key_value_heads}."
            )
        self.head_dim = head_dim
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
