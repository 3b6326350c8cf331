"""Cropping, zero padding and upsampling along time."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.nn import functional

from padless.kernels.conv.plan import crop_spans, pad_spans, repeat_cells
from padless.layers.convolutional.windowed import Sizes, TemporalLayer, as_sizes, check_data_format
from padless.ragged.device import to_device
from padless.ragged.gather import gather_rows, scatter_rows
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import LayerOptions


@register("layer")
class Cropping1D(TemporalLayer):
    """Remove the first and last steps of each sequence, as Keras's `Cropping1D`.

    `(B, T, C)` gives `(B, T - left - right, C)`. In a masked input steps are removed from the span of each sequence, from
    its first to its last real step, and masked steps inside the span count. The remaining steps move `left` columns to
    the left. A span of at most `left + right` steps leaves none. The mask moves with the steps.

    Args:
        cropping: The numbers `(left, right)` of steps to remove, or one number for both.

    Raises:
        ArgumentError: A number is not an integer or below 0.

    Example:
        >>> from padless import pack
        >>> Cropping1D(1)(pack([[[1.0], [2.0], [3.0], [4.0]], [[5.0], [6.0], [7.0]]])).values.tolist()
        [[2.0], [3.0], [6.0]]
    """

    def __init__(self, cropping: Sizes = (1, 1), **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.cropping = as_sizes(self, "cropping", cropping, 2, 0)

    def call_grid(self, grid: Tensor) -> Tensor:
        """Crop a grid `(B, T, C)`."""
        length = self.output_length(grid.shape[1])
        return grid.narrow(1, self.cropping[0] if length else 0, length)

    def call_packed(self, inputs: Packed) -> Packed:
        """Crop the span of each sequence."""
        step_numbers, index = crop_spans(inputs.index, *self.cropping)
        return Packed(gather_rows(inputs.values, to_device(step_numbers, inputs.device)), index)

    def output_index(self, index: Index) -> Index:
        """Return the index of the remaining steps."""
        return crop_spans(index, *self.cropping)[1]

    def output_length(self, steps: int) -> int:
        """Return the number of remaining steps."""
        return max(steps - sum(self.cropping), 0)


@register("layer")
class ZeroPadding1D(TemporalLayer):
    """Add steps of zeros before and after each sequence, as Keras's `ZeroPadding1D`.

    `(B, T, C)` gives `(B, T + left + right, C)`. In a masked input the zeros are real steps at both ends of the span of
    each sequence, from its first to its last real step. The span moves `left` columns to the right. An empty sequence
    stays empty.

    Args:
        padding: The numbers `(left, right)` of steps to add, or one number for both.
        data_format: "channels_last", or "channels_first" for plain inputs `(B, C, T)`.

    Raises:
        ArgumentError: An argument is not valid.

    Example:
        >>> from padless import pack
        >>> ZeroPadding1D((0, 1))(pack([[[1.0], [2.0]], [[3.0]]])).mask.tolist()
        [[True, True, True], [True, True, False]]
    """

    def __init__(self, padding: Sizes = 1, data_format: str | None = None, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.padding = as_sizes(self, "padding", padding, 2, 0)
        self.data_format = check_data_format(self, data_format)

    def call_grid(self, grid: Tensor) -> Tensor:
        """Pad a grid `(B, T, C)`."""
        return functional.pad(grid, (0, 0, *self.padding))

    def call_packed(self, inputs: Packed) -> Packed:
        """Pad the span of each sequence."""
        step_numbers, index = pad_spans(inputs.index, *self.padding)
        return Packed(scatter_rows(inputs.values, to_device(step_numbers, inputs.device), index.num_steps), index)

    def output_index(self, index: Index) -> Index:
        """Return the index of the steps and the zeros."""
        return pad_spans(index, *self.padding)[1]

    def output_length(self, steps: int) -> int:
        """Return the number of steps and zeros."""
        return steps + sum(self.padding)


@register("layer")
class UpSampling1D(TemporalLayer):
    """Repeat each step `size` times, as Keras's `UpSampling1D`: `(B, T, C)` gives `(B, T * size, C)`.

    The mask is repeated too. A stride rounds the first column of a sequence down. After a strided layer a sequence can
    therefore begin up to `strides - 1` columns earlier than before that layer (`docs/windows.md`).

    Args:
        size: The number of repetitions.

    Raises:
        ArgumentError: `size` is not a positive integer.

    Example:
        >>> from padless import pack
        >>> UpSampling1D(2)(pack([[[1.0], [2.0]], [[3.0]]])).mask.tolist()
        [[True, True, True, True], [True, True, False, False]]
    """

    def __init__(self, size: int = 2, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        (self.size,) = as_sizes(self, "size", size)

    def call_grid(self, grid: Tensor) -> Tensor:
        """Repeat the steps of a grid `(B, T, C)`."""
        return grid.unsqueeze(2).expand(-1, -1, self.size, -1).flatten(1, 2)

    def call_packed(self, inputs: Packed) -> Packed:
        """Repeat the real steps."""
        return Packed(self.call_grid(inputs.values[None])[0], self.output_index(inputs.index))

    def output_index(self, index: Index) -> Index:
        """Return the index of the repeated steps."""
        return repeat_cells(index, self.size)

    def output_length(self, steps: int) -> int:
        """Return the number of steps, multiplied by `size`."""
        return steps * self.size
