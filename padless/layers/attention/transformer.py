"""Blocks of a transformer: attention and a feedforward network on each step, both with a residual connection.

Names and arguments are KerasHub's. The mask passes: the residual is a sum of two `Packed` on the same steps. Keras loses
the mask in `x + MultiHeadAttention()(x, x)`.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from padless import initializers
from padless.errors import ArgumentError, ShapeError
from padless.layers.attention.multi_head_attention import MultiHeadAttention
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import apply_explicit_mask
from padless.layers.core.dense import Dense, last_axis_size
from padless.layers.normalization.layer_normalization import LayerNormalization
from padless.layers.regularization.dropout import Dropout
from padless.registry import register
from padless.types import ActivationLike, InitializerLike, LayerOptions, MaskLike, Shape, StepTensor


class _TransformerBlock(Layer):
    """Base class of encoder and decoder: arguments, inner layers and residual connections."""

    _feedforward_layer_norm: LayerNormalization

    def __init__(
        self,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        activation: ActivationLike = "relu",
        layer_norm_epsilon: float = 1e-05,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        normalize_first: bool = False,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        for name, size in (("intermediate_dim", intermediate_dim), ("num_heads", num_heads)):
            if not isinstance(size, int) or size <= 0:
                raise ArgumentError(f"{type(self).__name__} expected `{name}` to be a positive integer; got {size!r}.")
        if not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ArgumentError(f"{type(self).__name__} expected `dropout` between 0 and 1; got {dropout!r}.")
        self.intermediate_dim = intermediate_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.normalize_first = normalize_first

    def _build_attention(self, name: str, query_shape: Shape, value_shape: Shape) -> MultiHeadAttention:
        num_features = last_axis_size(self, query_shape)
        head_dim = num_features // self.num_heads
        if not head_dim:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} divides {num_features} features among {self.num_heads} "
                f"heads, which leaves none for each. Use fewer heads."
            )
        layer = MultiHeadAttention(
            self.num_heads,
            head_dim,
            dropout=self.dropout,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            name=name,
            dtype=self.dtype,
            trainable=self.trainable,
        )
        layer.build(query_shape, value_shape)
        return layer

    def _build_norm(self, name: str, shape: Shape) -> LayerNormalization:
        layer = LayerNormalization(epsilon=self.layer_norm_epsilon, name=name, dtype=self.dtype, trainable=self.trainable)
        layer.build(shape)
        return layer

    def _build_dense(self, name: str, shape: Shape, units: int, activation: ActivationLike = None) -> Dense:
        layer = Dense(
            units,
            activation=activation,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            name=name,
            dtype=self.dtype,
            trainable=self.trainable,
        )
        layer.build(shape)
        return layer

    def _build_feedforward(self, shape: Shape) -> None:
        self._feedforward_intermediate_dense = self._build_dense(
            "feedforward_intermediate_dense", shape, self.intermediate_dim, self.activation
        )
        self._feedforward_output_dense = self._build_dense(
            "feedforward_output_dense", (*shape[:-1], self.intermediate_dim), last_axis_size(self, shape)
        )
        self._feedforward_dropout = Dropout(self.dropout, name="feedforward_dropout")

    def _normalize_before(self, x: StepTensor, norm: LayerNormalization) -> StepTensor:
        """Return the input of a sublayer: normalized if the block is pre-norm."""
        return norm(x) if self.normalize_first else x

    def _add_residual(self, x: StepTensor, output: StepTensor, norm: LayerNormalization, dropout: Dropout) -> StepTensor:
        """Add the output of a sublayer to its input `x`; normalize the sum if the block is post-norm."""
        total = dropout(output) + x
        return total if self.normalize_first else norm(total)

    def _feedforward(self, x: StepTensor) -> StepTensor:
        """Apply the feedforward network with its residual connection."""
        norm = self._feedforward_layer_norm
        hidden = self._feedforward_intermediate_dense(self._normalize_before(x, norm))
        return self._add_residual(x, self._feedforward_output_dense(hidden), norm, self._feedforward_dropout)

    def compute_mask(self, inputs: object, mask: Any = None) -> Any:
        """Return the mask of the first input."""
        return mask[0] if isinstance(mask, list | tuple) else mask

    def compute_output_shape(self, input_shape: Shape, encoder_sequence_shape: Shape | None = None) -> Shape:
        """Return the shape of the first input."""
        return tuple(input_shape)

    def _input_dtype(self) -> torch.dtype | None:
        return next(self.parameters()).dtype if self.built else self.dtype


@register("layer")
class TransformerEncoder(_TransformerBlock):
    """Apply self-attention and a feedforward network, as KerasHub's `TransformerEncoder` (Vaswani et al., 2017).

    Input and output are `(B, T, D)`. The mask passes.

    Args:
        intermediate_dim: The units of the hidden layer of the feedforward network.
        num_heads: The number of heads of attention, at most `D`.
        dropout: The rate of dropout of attention weights and of the sublayers' outputs, in training.
        activation: The activation of the hidden layer.
        layer_norm_epsilon: The epsilon of the normalizations.
        kernel_initializer: The initializer of the kernels.
        bias_initializer: The initializer of the biases.
        normalize_first: Whether the inputs of the sublayers are normalized (pre-norm), not the sums (post-norm).

    Raises:
        ArgumentError: An argument is not valid.
        ShapeError: There are more heads than features.

    Example:
        >>> from padless import pack
        >>> TransformerEncoder(8, 2)(pack(torch.ones(2, 3, 4), lengths=[3, 1]))
        Packed(shape=(2, 3, 4), 4 real steps, torch.float32, cpu)
    """

    relation = "attention"

    def build(self, inputs_shape: Shape) -> None:
        """Create the inner layers, in KerasHub's order."""
        self._self_attention_layer = self._build_attention("self_attention_layer", inputs_shape, inputs_shape)
        self._self_attention_layer_norm = self._build_norm("self_attention_layer_norm", inputs_shape)
        self._self_attention_dropout = Dropout(self.dropout, name="self_attention_dropout")
        self._feedforward_layer_norm = self._build_norm("feedforward_layer_norm", inputs_shape)
        self._build_feedforward(inputs_shape)

    def call(
        self,
        inputs: StepTensor,
        padding_mask: MaskLike | None = None,
        attention_mask: MaskLike | None = None,
        training: bool = False,
        return_attention_scores: bool = False,
    ) -> StepTensor | tuple[StepTensor, Tensor]:
        """Compute the block.

        Args:
            inputs: `(B, T, D)`.
            padding_mask: The real steps of the inputs `(B, T)`, KerasHub's name for their mask.
            attention_mask: Which steps a step may see, by columns of the grid: `(B, T, T)`.
            training: Whether dropout is applied.
            return_attention_scores: Whether the attention weights are returned too.

        Returns:
            The outputs `(B, T, D)`; with `return_attention_scores` also the weights `(B, H, T, T)`.
        """
        x = apply_explicit_mask(inputs, padding_mask, "padding_mask")
        norm, weights = self._self_attention_layer_norm, None
        normalized = self._normalize_before(x, norm)
        attended = self._self_attention_layer(
            normalized, normalized, attention_mask=attention_mask, return_attention_scores=return_attention_scores
        )
        if return_attention_scores:
            attended, weights = attended
        x = self._feedforward(self._add_residual(x, attended, norm, self._self_attention_dropout))
        return x if weights is None else (x, weights)


@register("layer")
class TransformerDecoder(_TransformerBlock):
    """Apply causal self-attention, cross-attention and a feedforward network, as KerasHub's `TransformerDecoder`.

    The layer is called as `decoder(decoder_sequence)` or `decoder(decoder_sequence, encoder_sequence)` with the shapes
    `(B, T, D)` and `(B, S, E)` (Vaswani et al., 2017). Each input has its own mask. The output is `(B, T, D)` with the
    mask of the decoder sequence. There is no cache for decoding step by step.

    Args:
        intermediate_dim: The units of the hidden layer of the feedforward network.
        num_heads: The number of heads of attention, at most `D`.
        dropout: The rate of dropout of attention weights and of the sublayers' outputs, in training.
        activation: The activation of the hidden layer.
        layer_norm_epsilon: The epsilon of the normalizations.
        kernel_initializer: The initializer of the kernels.
        bias_initializer: The initializer of the biases.
        normalize_first: Whether the inputs of the sublayers are normalized (pre-norm), not the sums (post-norm).

    Raises:
        ArgumentError: An argument is not valid, or calls with and without an encoder sequence are mixed.
        ShapeError: There are more heads than features.

    Example:
        >>> from padless import pack
        >>> TransformerDecoder(8, 2)(pack(torch.ones(2, 3, 4), lengths=[3, 1]), torch.ones(2, 5, 6))
        Packed(shape=(2, 3, 4), 4 real steps, torch.float32, cpu)
    """

    relation = "attention"

    def build(self, decoder_sequence_shape: Shape, encoder_sequence_shape: Shape | None = None) -> None:
        """Create the inner layers, in KerasHub's order; cross-attention only if there is an encoder sequence."""
        shape = decoder_sequence_shape
        self._self_attention_layer = self._build_attention("self_attention", shape, shape)
        self._self_attention_layer_norm = self._build_norm("self_attention_layer_norm", shape)
        self._self_attention_dropout = Dropout(self.dropout, name="self_attention_dropout")
        self._cross_attention_layer = None
        if encoder_sequence_shape is not None:
            self._cross_attention_layer = self._build_attention("cross_attention", shape, encoder_sequence_shape)
            self._cross_attention_layer_norm = self._build_norm("cross_attention_layer_norm", shape)
            self._cross_attention_dropout = Dropout(self.dropout, name="cross_attention_dropout")
        self._build_feedforward(shape)
        self._feedforward_layer_norm = self._build_norm("feedforward_layer_norm", shape)

    def call(
        self,
        decoder_sequence: StepTensor,
        encoder_sequence: StepTensor | None = None,
        decoder_padding_mask: MaskLike | None = None,
        decoder_attention_mask: MaskLike | None = None,
        encoder_padding_mask: MaskLike | None = None,
        encoder_attention_mask: MaskLike | None = None,
        use_causal_mask: bool = True,
        training: bool = False,
    ) -> StepTensor:
        """Compute the block.

        Args:
            decoder_sequence: `(B, T, D)`.
            encoder_sequence: `(B, S, E)`; None if the layer was built without one.
            decoder_padding_mask: The real steps of the decoder sequence `(B, T)`.
            decoder_attention_mask: Which decoder steps a decoder step may see, `(B, T, T)` by columns of the grid.
            encoder_padding_mask: The real steps of the encoder sequence `(B, S)`.
            encoder_attention_mask: Which encoder steps a decoder step may see, `(B, T, S)` by columns of the grid.
            use_causal_mask: Whether a decoder step sees only decoder steps at the same column and before.
            training: Whether dropout is applied.

        Returns:
            The outputs `(B, T, D)`.
        """
        cross_attention = self._cross_attention_layer
        if (cross_attention is None) != (encoder_sequence is None):
            at_build, in_call = ("without", "with") if cross_attention is None else ("with", "without")
            raise ArgumentError(
                f"TransformerDecoder {self.name!r} was built {at_build} an encoder sequence, but this call is "
                f"{in_call} one. Use one layer for each kind of call."
            )
        x = apply_explicit_mask(decoder_sequence, decoder_padding_mask, "decoder_padding_mask")
        norm = self._self_attention_layer_norm
        normalized = self._normalize_before(x, norm)
        attended = self._self_attention_layer(
            normalized, normalized, attention_mask=decoder_attention_mask, use_causal_mask=use_causal_mask
        )
        x = self._add_residual(x, attended, norm, self._self_attention_dropout)
        if cross_attention is not None:
            encoded = apply_explicit_mask(encoder_sequence, encoder_padding_mask, "encoder_padding_mask")
            norm = self._cross_attention_layer_norm
            attended = cross_attention(self._normalize_before(x, norm), encoded, attention_mask=encoder_attention_mask)
            x = self._add_residual(x, attended, norm, self._cross_attention_dropout)
        return self._feedforward(x)
