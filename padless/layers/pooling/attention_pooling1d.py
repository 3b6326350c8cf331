"""Attention pooling: the mean of the steps of a sequence, weighted by how well each step matches a learned query."""

from __future__ import annotations

from typing import Unpack, cast

from torch import Tensor
from torch.nn import functional

from padless import activations, constraints, initializers, regularizers
from padless.errors import ArgumentError, ShapeError
from padless.kernels.segment_reduce import segment_softmax, segment_weighted_sums
from padless.layers.attention.attention import flatten_steps, restore_step_axes
from padless.layers.base.layer import Layer
from padless.layers.core.dense import last_axis_size
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import (
    ActivationLike,
    ConstraintLike,
    InitializerLike,
    LayerOptions,
    MaskLike,
    RegularizerLike,
    Shape,
    StepTensor,
)


@register("layer")
class AttentionPooling1D(Layer):
    """Average the real steps with attention to a learned query as weights: `(B, T, D)` gives `(B, D)`.

    The weights of the steps are the softmax, over the sequence, of the products of their keys with the query. With
    `units` the key of a step is `activation(step @ kernel + bias)`, as in hierarchical attention networks (Yang et al.,
    2016). Without `units` the step is its own key. The mask is consumed. An empty sequence gives 0. Keras does not have
    this layer.

    The weights of the layer are `kernel` `(D, units)` and `bias` `(units,)`, if there are `units`, and `query`
    `(units or D, num_queries or 1)`.

    Args:
        units: The size of the keys; None to use the steps as keys.
        num_queries: The number of queries, for outputs `(B, num_queries, D)`; None for one query and outputs `(B, D)`.
        activation: The activation of the keys.
        use_bias: Whether the keys have a bias.
        kernel_initializer: The initializer of `kernel`.
        bias_initializer: The initializer of `bias`.
        query_initializer: The initializer of `query`.
        kernel_regularizer: The regularizer of `kernel`.
        bias_regularizer: The regularizer of `bias`.
        query_regularizer: The regularizer of `query`.
        kernel_constraint: The constraint of `kernel`.
        bias_constraint: The constraint of `bias`.
        query_constraint: The constraint of `query`.

    Raises:
        ArgumentError: `units` or `num_queries` is not a positive integer.
        ShapeError: In the call, if the input does not have the features for which the layer was built.

    Example:
        >>> from padless import pack
        >>> pool = AttentionPooling1D(query_initializer="zeros")
        >>> pooled, scores = pool(pack([[[1.0], [3.0]], [[5.0]]]), return_attention_scores=True)
        >>> pooled.tolist(), scores.detach().numpy().tolist()
        ([[2.0], [5.0]], [[0.5, 0.5], [1.0, 0.0]])
    """

    relation = "reduce"
    kernel: Tensor | None
    bias: Tensor | None
    query: Tensor

    def __init__(
        self,
        units: int | None = None,
        num_queries: int | None = None,
        activation: ActivationLike = "tanh",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        query_initializer: InitializerLike = "glorot_uniform",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        query_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        query_constraint: ConstraintLike = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        for name, size in (("units", units), ("num_queries", num_queries)):
            if size is not None and (not isinstance(size, int) or size <= 0):
                raise ArgumentError(f"AttentionPooling1D expected `{name}` to be None or a positive integer; got {size!r}.")
        self.units = units
        self.num_queries = num_queries
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.query_initializer = initializers.get(query_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.query_regularizer = regularizers.get(query_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.query_constraint = constraints.get(query_constraint)

    def build(self, input_shape: Shape) -> None:
        """Create the projection to keys, if there are `units`, and the queries."""
        features = last_axis_size(self, input_shape)
        if self.units is None:
            self.kernel = None
        else:
            self.add_weight(
                (features, self.units),
                self.kernel_initializer,
                name="kernel",
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )
        if self.units is None or not self.use_bias:
            self.bias = None
        else:
            self.add_weight(
                (self.units,),
                self.bias_initializer,
                name="bias",
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.add_weight(
            (self.units or features, self.num_queries or 1),
            self.query_initializer,
            name="query",
            regularizer=self.query_regularizer,
            constraint=self.query_constraint,
        )

    def call(
        self, inputs: StepTensor, mask: MaskLike | None = None, return_attention_scores: bool = False
    ) -> Tensor | tuple[Tensor, StepTensor]:
        """Compute the weighted means.

        Args:
            inputs: `(B, T, D)`.
            mask: The real steps of the inputs, if they are a plain tensor.
            return_attention_scores: Whether the weights of the steps are returned too.

        Returns:
            The means, `(B, D)` or `(B, num_queries, D)`. With `return_attention_scores` also the weights, `(B, T)` or
            `(B, T, num_queries)`, on the steps of the inputs.
        """
        steps, index = flatten_steps(self, inputs)
        weights = segment_softmax(self._keys(inputs) @ self.query, index)  # (N, num_queries)
        pooled = segment_weighted_sums(steps, weights, index)
        if self.num_queries is None:
            pooled, weights = pooled[:, 0], weights[:, 0]
        return (pooled, restore_step_axes(inputs, weights)) if return_attention_scores else pooled

    def _keys(self, inputs: StepTensor) -> Tensor:
        """Return the keys `(N, size)`.

        The activation gets a `Packed`, so that one that mixes steps is refused.
        """
        keys = inputs.with_values(inputs.values) if isinstance(inputs, Packed) else inputs
        if self.kernel is not None:
            if inputs.shape[-1] != self.kernel.shape[0]:
                raise ShapeError(
                    f"AttentionPooling1D {self.name!r} was built for {self.kernel.shape[0]} features; got "
                    f"inputs of shape {tuple(inputs.shape)}."
                )
            projected = functional.linear(cast("Tensor", keys), self.kernel.t(), self.bias)
            keys = self.activation(projected)
        return flatten_steps(self, keys)[0]

    def compute_mask(self, inputs: StepTensor, mask: MaskLike | None = None) -> None:
        """Return None: the output has no steps."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return `(B, D)` or `(B, num_queries, D)`."""
        queries = () if self.num_queries is None else (self.num_queries,)
        return (input_shape[0], *queries, input_shape[-1])
