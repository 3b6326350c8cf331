"""A layer applied to every step: TimeDistributed.

Of packed steps `(N, ...)` the inner layer sees a batch of N examples. Of sequences of sequences it sees the inner
sequences that have a real step, and the outer mask says which those are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn
from torch.utils import _pytree

from padless.errors import ArgumentError, ShapeError
from padless.graph.spec import map_leaves
from padless.layers.layer import Layer, get
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.registry import register


@register("layer")
class TimeDistributed(Layer):
    """`layer` on each step of `(B, T, ...)` alone; the mask passes.

    Keras's `TimeDistributed`. If the layer gives a mask for each step (an Embedding with `mask_zero` on words of
    sentences), the result is masked on both levels.

    >>> from padless.layers.stepwise import Dense
    >>> import torch
    >>> TimeDistributed(Dense(2))(torch.ones(4, 7, 3)).shape
    torch.Size([4, 7, 2])
    """

    relation = "distributed"

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(layer, nn.Module | dict):
            raise ArgumentError(f"TimeDistributed applies a layer to each step; got {layer!r}.")
        self.layer: Any = get(layer) if isinstance(layer, dict) else layer

    def build(self, input_shape: Any) -> None:
        """The inner layer, for one step as an example."""
        if not isinstance(input_shape, list | tuple) or len(input_shape) < 3:
            raise ShapeError(f"TimeDistributed {self.name!r} expected (batch, steps, ...); got {input_shape}.")
        if isinstance(self.layer, Layer) and not self.layer.built:
            self.layer.build((None, *input_shape[2:]))

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        """The inner layer on all steps at once."""
        if isinstance(inputs, Packed) and inputs.index.outer is not None:
            return self._on_inner(inputs, inputs.index.outer, training)
        if isinstance(inputs, Packed):
            return self._on_packed(inputs, training)
        batch, steps = inputs.shape[:2]
        outputs = self._each(inputs.reshape(batch * steps, *inputs.shape[2:]), training)
        return map_leaves(lambda x: _regrid(x, (batch, steps)), outputs)

    def _each(self, x: Any, training: bool) -> Any:
        return self.layer(x, training=training) if isinstance(self.layer, Layer) else self.layer(x)

    def _on_packed(self, inputs: Packed, training: bool) -> Any:
        """N examples; what gaps show goes through the layer too."""
        outputs = self._each(inputs.values, training)
        if isinstance(outputs, Packed):
            return _nested(outputs, inputs.index)
        if inputs.fill is None:
            return map_leaves(lambda x: inputs.with_values(x), outputs)
        fills = iter(_pytree.tree_leaves(self._each(inputs.fill, False)))
        return map_leaves(lambda x: inputs.with_values(x, next(fills)), outputs)

    def _on_inner(self, inputs: Packed, outer: Index, training: bool) -> Any:
        """The inner sequences that have a step, as a batch."""
        width = inputs.index.shape[1]
        cells = outer.flat[:, None] * width + np.arange(width)
        outputs = self._each(inputs.rearranged(cells), training)
        return map_leaves(lambda x: _nested(x, outer) if isinstance(x, Packed) else Packed(x, outer), outputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the steps."""
        return mask

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The inner layer's, with the steps back in."""
        inner = self.layer.compute_output_shape((input_shape[0], *input_shape[2:]))
        return (inner[0], input_shape[1], *inner[1:])

    def reads_grid(self, shown: bool) -> bool:
        """The inner layer may."""
        return shown or not isinstance(self.layer, Layer) or self.layer.reads_grid(shown)


def _regrid(x: Any, grid: tuple[int, int]) -> Any:
    """The results for B*T examples as a grid of steps; masked ones become inner sequences of two levels."""
    if not isinstance(x, Packed):
        return x.reshape(*grid, *x.shape[1:])
    index = Index.from_mask(x.index.mask.reshape(*grid, *x.index.grid[1:]), x.index.born)
    return Packed(x.values, index, x.fill)


def _nested(inner: Packed, outer: Index) -> Packed:
    """Inner sequences, one for each step of `outer`, on a grid of both levels."""
    mask = np.zeros((len(outer.rank), *inner.index.grid[1:]), dtype=bool)
    mask[outer.flat] = inner.index.mask
    mask = mask.reshape(*outer.grid, *inner.index.grid[1:])
    return Packed(inner.values, Index.from_mask(mask, inner.index.born))
