"""The layer Masking."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from padless.errors import ShapeError
from padless.layers.base.mask_creation import MaskCreatingLayer, create_mask
from padless.layers.base.mask_rule import as_data
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gap_values_needed
from padless.registry import register
from padless.types import ArrayLike, LayerOptions, MaskLike, MaskTree, Shape, StepTensor


@register("layer")
class Masking(MaskCreatingLayer):
    """Mask the steps whose features all equal `mask_value`: Keras's `Masking`.

    A mask that the inputs have already is narrowed. The padded output is 0 at masked steps.

    Args:
        mask_value: the value that marks a masked step. NaN is accepted, too, unlike in Keras.
        kwargs: name, trainable, dtype, activity_regularizer, input_shape.

    Example:
        >>> Masking()(torch.tensor([[[1., 0.], [0., 0.]]])).values.tolist()
        [[1.0, 0.0]]
    """

    relation = "creates_mask"

    def __init__(self, mask_value: float = 0.0, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.mask_value = mask_value

    def call(self, inputs: StepTensor) -> Packed:
        """Pack the steps of `(B, T, ..., D)` that differ from the mask value."""
        if inputs.ndim < 3:
            raise ShapeError(
                f"Masking {self.name!r} compares the features of each step, so it needs (batch, steps, "
                f"features); got {tuple(inputs.shape)}. Add a feature axis with Reshape, or use "
                f"Embedding(mask_zero=True) for ids."
            )
        packed = self._pack_real_steps(inputs)
        gap_values = None
        if gap_values_needed():
            gap_values = packed.values.new_zeros((packed.index.num_gaps, *packed.values.shape[1:]))
        return Packed(packed.values, packed.index, gap_values)

    def real_steps(self, inputs: StepTensor) -> Index:
        """Return the index of the steps that differ from the mask value."""
        return self._pack_real_steps(inputs).index

    def _pack_real_steps(self, inputs: StepTensor) -> Packed:
        return create_mask(inputs, self._is_real, f"Masking {self.name!r}")

    def _is_real(self, x: Tensor) -> Tensor:
        """Return for each step whether some feature differs from the mask value."""
        differs = ~x.isnan() if math.isnan(self.mask_value) else x != self.mask_value
        return differs.any(dim=-1)

    def compute_mask(self, inputs: ArrayLike, mask: MaskLike | None = None) -> MaskTree:
        """Return which steps differ from the mask value, narrowed by the mask of the inputs."""
        is_real = self._is_real(as_data(inputs, self._float_dtype))
        is_real = is_real.unpack(padding=0) if isinstance(is_real, Packed) else is_real
        return is_real if mask is None else is_real & torch.as_tensor(mask, dtype=torch.bool)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return tuple(input_shape)

    def needs_gap_values(self, outputs_needed: bool) -> bool:
        """Return False: the padded output is 0 at masked steps, whatever the input is there."""
        return False
