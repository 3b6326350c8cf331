"""Blocks of a transformer: attention and a small network on each step, both with a residual. The mask passes.

Names and arguments are KerasHub's. The residual is a sum on one index, so that post-norm keeps the mask, which Keras's
`x + MultiHeadAttention()(x, x)` loses.
"""

from __future__ import annotations

from typing import Any

import torch

from padless import initializers
from padless.errors import ArgumentError, ShapeError
from padless.layers.attention.multi_head_attention import MultiHeadAttention
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import apply_explicit_mask
from padless.layers.core.dense import Dense
from padless.layers.normalization.layer_normalization import LayerNormalization
from padless.layers.regularization.dropout import Dropout
from padless.registry import register


class _Block(Layer):
    """What encoder and decoder share."""

    def __init__(
        self,
        intermediate_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        activation: Any = "relu",
        layer_norm_epsilon: float = 1e-05,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        normalize_first: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for what, size in (("intermediate_dim", intermediate_dim), ("num_heads", num_heads)):
            if not isinstance(size, int) or size <= 0:
                raise ArgumentError(f"{type(self).__name__} expected `{what}` to be a positive integer; got {size!r}.")
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

    def _common(self, name: str) -> dict[str, Any]:
        return {"name": name, "dtype": self.dtype, "trainable": self.trainable}

    def _made(self, kind: Any, name: str, shapes: Any, *args: Any, **arguments: Any) -> Any:
        """An inner layer, built."""
        layer = kind(*args, **arguments, **self._common(name))
        layer.build(*shapes)
        return layer

    def _attention(self, name: str, query: Any, value: Any) -> MultiHeadAttention:
        size = query[-1] // self.num_heads
        if not size:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} shares {query[-1]} features among {self.num_heads} "
                f"heads, so that none is left. Take fewer heads."
            )
        return self._made(
            MultiHeadAttention, name, (query, value), self.num_heads, size, dropout=self.dropout, **self._initializers()
        )

    def _initializers(self) -> dict[str, Any]:
        return {"kernel_initializer": self.kernel_initializer, "bias_initializer": self.bias_initializer}

    def _norm(self, name: str, shape: Any) -> LayerNormalization:
        return self._made(LayerNormalization, name, (shape,), epsilon=self.layer_norm_epsilon)

    def _dropped(self, name: str) -> Dropout:
        return Dropout(self.dropout, name=name)

    def _feedforward(self, shape: Any) -> None:
        """The two layers of the small network."""
        self._feedforward_intermediate_dense = self._made(
            Dense,
            "feedforward_intermediate_dense",
            (shape,),
            self.intermediate_dim,
            activation=self.activation,
            **self._initializers(),
        )
        self._feedforward_output_dense = self._made(
            Dense, "feedforward_output_dense", ((*shape[:-1], self.intermediate_dim),), shape[-1], **self._initializers()
        )
        self._feedforward_dropout = self._dropped("feedforward_dropout")

    def _beside(self, x: Any, what: Any, norm: Any, dropout: Any) -> Any:
        """A residual around `what`, with the norm before it or after the sum; and what else it gave."""
        given, *more = what(norm(x) if self.normalize_first else x)
        x = dropout(given) + x
        return x if self.normalize_first else norm(x), *more

    def _thought(self, x: Any) -> tuple[Any]:
        """The small network of each step."""
        return (self._feedforward_output_dense(self._feedforward_intermediate_dense(x)),)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the first input."""
        return mask[0] if isinstance(mask, list | tuple) else mask

    def compute_output_shape(self, input_shape: Any, encoder_sequence_shape: Any = None) -> Any:
        """The shape of the first input."""
        return tuple(input_shape)

    def _input_dtype(self) -> torch.dtype | None:
        return next(self.parameters()).dtype if self.built else self.dtype


@register("layer")
class TransformerEncoder(_Block):
    """Self-attention and a small network on each step of `(B, T, D)`, each with a residual and a norm.

    KerasHub's `TransformerEncoder` (Vaswani et al. 2017). `normalize_first` is pre-norm, else the norm comes after the sum.
    `padding_mask` `(B, T)` is the mask of the inputs by another name; `attention_mask` is `(B, T, T)` on the grid.

    >>> from padless import pack
    >>> TransformerEncoder(8, 2)(pack(torch.ones(2, 3, 4), lengths=[3, 1]))
    Packed(shape=(2, 3, 4), 4 real steps, torch.float32, cpu)
    """

    relation = "attention"

    def build(self, inputs_shape: Any) -> None:
        """The inner layers, in KerasHub's order."""
        self._self_attention_layer = self._attention("self_attention_layer", inputs_shape, inputs_shape)
        self._self_attention_layer_norm = self._norm("self_attention_layer_norm", inputs_shape)
        self._self_attention_dropout = self._dropped("self_attention_dropout")
        self._feedforward_layer_norm = self._norm("feedforward_layer_norm", inputs_shape)
        self._feedforward(inputs_shape)

    def call(
        self,
        inputs: Any,
        padding_mask: Any = None,
        attention_mask: Any = None,
        training: bool = False,
        return_attention_scores: bool = False,
    ) -> Any:
        """The block; with `return_attention_scores` also the weights `(B, H, T, T)`."""
        x = apply_explicit_mask(inputs, padding_mask, "padding_mask")

        def attention(x: Any) -> tuple[Any, ...]:
            given = self._self_attention_layer(
                x, x, attention_mask=attention_mask, return_attention_scores=return_attention_scores
            )
            return given if return_attention_scores else (given,)

        x, *scores = self._beside(x, attention, self._self_attention_layer_norm, self._self_attention_dropout)
        x, *_ = self._beside(x, self._thought, self._feedforward_layer_norm, self._feedforward_dropout)
        return (x, *scores) if scores else x


@register("layer")
class TransformerDecoder(_Block):
    """Causal self-attention, attention to an encoder's output if there is one, and a small network on each step.

    KerasHub's `TransformerDecoder` (Vaswani et al. 2017) for `decoder_sequence` `(B, T, D)` and `encoder_sequence`
    `(B, S, E)`, each with its own mask; only the decoder's passes. Padding masks are the masks of the inputs by another
    name; attention masks are `(B, T, T)` and `(B, T, S)` on the grid. There are no caches for decoding.

    >>> from padless import pack
    >>> TransformerDecoder(8, 2)(pack(torch.ones(2, 3, 4), lengths=[3, 1]), torch.ones(2, 5, 6))
    Packed(shape=(2, 3, 4), 4 real steps, torch.float32, cpu)
    """

    relation = "attention"

    def build(self, decoder_sequence_shape: Any, encoder_sequence_shape: Any = None) -> None:
        """The inner layers, in KerasHub's order; attention to an encoder only if there is one now."""
        shape = decoder_sequence_shape
        self._self_attention_layer = self._attention("self_attention", shape, shape)
        self._self_attention_layer_norm = self._norm("self_attention_layer_norm", shape)
        self._self_attention_dropout = self._dropped("self_attention_dropout")
        self._cross_attention_layer = None
        if encoder_sequence_shape is not None:
            self._cross_attention_layer = self._attention("cross_attention", shape, encoder_sequence_shape)
            self._cross_attention_layer_norm = self._norm("cross_attention_layer_norm", shape)
            self._cross_attention_dropout = self._dropped("cross_attention_dropout")
        self._feedforward(shape)
        self._feedforward_layer_norm = self._norm("feedforward_layer_norm", shape)

    def call(
        self,
        decoder_sequence: Any,
        encoder_sequence: Any = None,
        decoder_padding_mask: Any = None,
        decoder_attention_mask: Any = None,
        encoder_padding_mask: Any = None,
        encoder_attention_mask: Any = None,
        use_causal_mask: bool = True,
        training: bool = False,
    ) -> Any:
        """The block."""
        cross = self._cross_attention_layer
        if (cross is None) != (encoder_sequence is None):
            then, now = ("without", "with") if cross is None else ("with", "without")
            raise ArgumentError(
                f"TransformerDecoder {self.name!r} was built {then} an encoder sequence, and is now called "
                f"{now} one. Use one layer for each."
            )
        x = apply_explicit_mask(decoder_sequence, decoder_padding_mask, "decoder_padding_mask")
        (x,) = self._beside(
            x,
            lambda x: (
                self._self_attention_layer(x, x, attention_mask=decoder_attention_mask, use_causal_mask=use_causal_mask),
            ),
            self._self_attention_layer_norm,
            self._self_attention_dropout,
        )
        if cross is not None:
            seen = apply_explicit_mask(encoder_sequence, encoder_padding_mask, "encoder_padding_mask")
            (x,) = self._beside(
                x,
                lambda x: (cross(x, seen, attention_mask=encoder_attention_mask),),
                self._cross_attention_layer_norm,
                self._cross_attention_dropout,
            )
        (x,) = self._beside(x, self._thought, self._feedforward_layer_norm, self._feedforward_dropout)
        return x
