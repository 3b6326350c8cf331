"""The layer Masking."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from padless.errors import ShapeError
from padless.layers.base.layer import Layer
from padless.layers.base.mask_creation import create_mask
from padless.layers.base.mask_rule import as_data
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gap_values_needed
from padless.registry import register


@register("layer")
class Masking(Layer):
    """Steps of `(B, T, D)` whose features all equal `mask_value` are no steps; they show zeros.

    Keras's `Masking`; here NaN is a legal `mask_value` too: a step is masked if all its features are NaN.

    >>> Masking()(torch.tensor([[[1., 0.], [0., 0.]]])).values.tolist()
    [[1.0, 0.0]]
    """

    relation = "creates_mask"

    def __init__(self, mask_value: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_value = mask_value

    def _real(self, x: Tensor) -> Tensor:
        """Which steps have some feature that is not the mask value."""
        differs = ~x.isnan() if math.isnan(self.mask_value) else x != self.mask_value
        return differs.any(dim=-1)

    def call(self, inputs: Any) -> Any:
        """The steps that differ from the mask value."""
        if inputs.ndim < 3:
            raise ShapeError(
                f"Masking {self.name!r} compares the features of each step, so it needs (batch, steps, "
                f"features); got {tuple(inputs.shape)}. Add a feature axis with Reshape, or use "
                f"Embedding(mask_zero=True) for ids."
            )
        packed, _ = create_mask(inputs, self._real, f"Masking {self.name!r}")
        fill = packed.values.new_zeros((packed.index.num_gaps, *packed.values.shape[1:])) if gap_values_needed() else None
        return Packed(packed.values, packed.index, fill)

    def index_of(self, inputs: Any) -> Index:
        """The real steps of these inputs."""
        return create_mask(inputs, self._real, f"Masking {self.name!r}")[0].index

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Which steps differ from the mask value, narrowed by a mask that the inputs have already."""
        real = self._real(as_data(inputs, self._float_dtype))
        real = real.unpack(padding=0) if isinstance(real, Packed) else real
        return real if mask is None else real & torch.as_tensor(mask, dtype=torch.bool)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)

    def needs_gap_values(self, shown: bool) -> bool:
        """It shows zeros, whatever the input showed."""
        return False
