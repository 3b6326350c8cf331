"""Layers that look at the padded grid, and the one that ends a mask on purpose."""

from __future__ import annotations

import math
from typing import Any

from padless.errors import ArgumentError, ShapeError
from padless.layers.layer import Layer
from padless.ragged.packed import Packed, unpack
from padless.registry import register


@register("layer")
class DropMask(Layer):
    """The padded grid as a plain tensor: from here on what masked steps show counts as data.

    >>> from padless import pack
    >>> DropMask()(pack([[1.0, 2.0], [3.0]])).tolist()
    [[1.0, 2.0], [3.0, 0.0]]
    """

    relation = "grid"

    def call(self, inputs: Any) -> Any:
        """The grid."""
        return unpack(inputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """None: that is its purpose."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)


@register("layer")
class Flatten(Layer):
    """All axes but the batch in one, `(B, T, D)` to `(B, T * D)`; of a masked input the padded grid, mask and all ended.

    Which position a number lands on is its column in the grid, so a flattened sequence depends on the padding by its
    nature; Keras's numbers are the same.

    >>> Flatten()(__import__("torch").ones(2, 3, 4)).shape
    torch.Size([2, 12])
    """

    relation = "grid"

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if data_format not in (None, "channels_last", "channels_first"):
            raise ArgumentError(f"data_format must be 'channels_last' or 'channels_first'; got {data_format!r}.")
        self.data_format = data_format or "channels_last"

    def call(self, inputs: Any) -> Any:
        """The grid in one row per sequence."""
        grid = unpack(inputs)
        if self.data_format == "channels_first" and grid.ndim > 2:
            grid = grid.movedim(1, -1)
        return grid.reshape(grid.shape[0], math.prod(grid.shape[1:]))

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """Nothing is left to mask."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """`(B, everything else)`."""
        rest = input_shape[1:]
        return (input_shape[0], None if None in rest else math.prod(rest))


@register("layer")
class Reshape(Layer):
    """Another shape `(B, *target_shape)`; the mask stays if the steps do, and is refused to be lost if they do not.

    One size may be -1.

    >>> Reshape((3, -1))(__import__("torch").ones(2, 3, 4, 5)).shape
    torch.Size([2, 3, 20])
    """

    relation = "stepwise"

    def __init__(self, target_shape: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_shape = tuple(target_shape) if isinstance(target_shape, list | tuple) else (target_shape,)
        if sum(size == -1 for size in self.target_shape) > 1 or any(size < -1 for size in self.target_shape):
            raise ArgumentError(f"Reshape expected sizes of which one may be -1; got {self.target_shape}.")

    def _target(self, shape: Any) -> tuple[int, ...]:
        size, known = math.prod(shape[1:]), math.prod(s for s in self.target_shape if s != -1)
        if -1 not in self.target_shape and size != known or -1 in self.target_shape and (not known or size % known):
            raise ShapeError(f"Reshape {self.name!r} cannot bring {tuple(shape[1:])} to {self.target_shape}: the number of "
                             f"elements differs.")
        return tuple(size // known if s == -1 else s for s in self.target_shape)

    def call(self, inputs: Any) -> Any:
        """The inputs in their new shape."""
        shape = (inputs.shape[0], *self._target(inputs.shape))
        return inputs.reshape(shape) if not isinstance(inputs, Packed) or shape != tuple(inputs.shape) else inputs

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask, if the target has the same steps."""
        same = mask is not None and self._target(inputs.shape)[:1] == tuple(inputs.shape[1:2])
        return mask if same else None

    def compute_output_shape(self, input_shape: Any) -> Any:
        """`(B, *target_shape)`."""
        if None in input_shape[1:]:
            return (input_shape[0], *(None if size == -1 else size for size in self.target_shape))
        return (input_shape[0], *self._target(input_shape))
