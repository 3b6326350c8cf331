"""Attention with a learned query: the summary of a sequence in which the steps count by how well they match."""

from __future__ import annotations

from typing import Any

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


@register("layer")
class AttentionPooling1D(Layer):
    """The real steps, weighed by the softmax of their products with a learned query: `(B, T, D)` to `(B, D)`.

    With `units` it is the attention of hierarchical attention networks (Yang et al. 2016): a step's key is
    `activation(step @ kernel + bias)`; without, a step is its own key. `num_queries` give `(B, num_queries, D)`. With
    `return_attention_scores` the call returns the weights too, on the steps of the input: `(B, T)`, for several queries
    `(B, T, num_queries)`; masked steps show 0. Of an empty row the summary is 0.

    Weights: `kernel` `(D, units)` and `bias` `(units,)` if there are `units`; `query` `(units or D, queries)`.

    >>> from padless import pack
    >>> pool = AttentionPooling1D(query_initializer="zeros")
    >>> pooled, scores = pool(pack([[[1.0], [3.0]], [[5.0]]]), return_attention_scores=True)
    >>> pooled.tolist(), scores.numpy().tolist()
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
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        query_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        query_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        query_constraint: Any = None,
        **kwargs: Any,
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

    def build(self, input_shape: Any) -> None:
        """The way from steps to keys, where there is one, and the queries."""
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

    def call(self, inputs: Any, mask: Any = None, return_attention_scores: bool = False) -> Any:
        """The summaries; with `return_attention_scores` also the weights of the steps."""
        steps, index = flatten_steps(self, inputs)
        weights = segment_softmax(self._keys(inputs) @ self.query, index)
        pooled = segment_weighted_sums(steps, weights, index)
        if self.num_queries is None:
            pooled, weights = pooled[:, 0], weights[:, 0]
        return (pooled, restore_step_axes(inputs, weights)) if return_attention_scores else pooled

    def _keys(self, inputs: Any) -> Tensor:
        """What the queries are compared with, `(N, size)`; an activation that mixes steps is refused on the way."""
        keys: Any = inputs.with_values(inputs.values) if isinstance(inputs, Packed) else inputs
        if self.kernel is not None:
            if inputs.shape[-1] != self.kernel.shape[0]:
                raise ShapeError(
                    f"AttentionPooling1D {self.name!r} was built for {self.kernel.shape[0]} features; got "
                    f"inputs of shape {tuple(inputs.shape)}."
                )
            keys = self.activation(functional.linear(keys, self.kernel.t(), self.bias))
        return flatten_steps(self, keys)[0]

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """Nothing is left to mask."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """One row for each sequence, or for each sequence and query."""
        queries = () if self.num_queries is None else (self.num_queries,)
        return (input_shape[0], *queries, input_shape[-1])
