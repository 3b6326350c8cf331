"""Cropping, zero padding and upsampling along time."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from padless.kernels.conv.plan import crop_spans, pad_spans, repeat_cells
from padless.layers.convolutional.windowed import TemporalLayer, as_sizes, check_data_format
from padless.ragged.device import to_device
from padless.ragged.gather import gather_rows, scatter_rows
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.registry import register


@register("layer")
class Cropping1D(TemporalLayer):
    """Sequences without their first and last steps, `(B, T, C)` to `(B, T - left - right, C)`.

    Keras's `Cropping1D`, on each row's span from its first to its last real step: `cropping=(left, right)` steps of the
    span go, holes among them. What is left stands `left` columns earlier. A shorter span leaves nothing.

    >>> from padless import pack
    >>> Cropping1D(1)(pack([[[1.0], [2.0], [3.0], [4.0]], [[5.0], [6.0], [7.0]]])).values.tolist()
    [[2.0], [3.0], [6.0]]
    """

    relation = "window"

    def __init__(self, cropping: Any = (1, 1), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cropping = as_sizes(self, "cropping", cropping, 2, 0)

    def call_grid(self, grid: Tensor) -> Tensor:
        """The middle of a grid."""
        length = self.output_length(grid.shape[1])
        return grid.narrow(1, self.cropping[0] if length else 0, length)

    def call_packed(self, inputs: Packed) -> Packed:
        """The middle of each span."""
        kept, index = crop_spans(inputs.index, *self.cropping)
        return Packed(gather_rows(inputs.values, to_device(kept, inputs.device)), index)

    def output_index(self, index: Index) -> Index:
        """The steps that are left."""
        return crop_spans(index, *self.cropping)[1]

    def output_length(self, steps: int) -> int:
        """Fewer by both."""
        return max(steps - sum(self.cropping), 0)


@register("layer")
class ZeroPadding1D(TemporalLayer):
    """Sequences with zeros before and after, `(B, T, C)` to `(B, T + left + right, C)`.

    Keras's `ZeroPadding1D`, on each row's span from its first to its last real step: `padding=(left, right)` real steps
    of zeros join the sequence itself, wherever it ends on the grid, and the others stand `left` columns later. An empty
    row stays empty.

    >>> from padless import pack
    >>> ZeroPadding1D((0, 1))(pack([[[1.0], [2.0]], [[3.0]]])).mask.tolist()
    [[True, True, True], [True, True, False]]
    """

    relation = "window"

    def __init__(self, padding: Any = 1, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = as_sizes(self, "padding", padding, 2, 0)
        self.data_format = check_data_format(self, data_format)

    def call_grid(self, grid: Tensor) -> Tensor:
        """A grid with zeros on both sides."""
        return functional.pad(grid, (0, 0, *self.padding))

    def call_packed(self, inputs: Packed) -> Packed:
        """Each span with zeros on both sides."""
        places, index = pad_spans(inputs.index, *self.padding)
        return Packed(scatter_rows(inputs.values, to_device(places, inputs.device), index.num_steps), index)

    def output_index(self, index: Index) -> Index:
        """The steps and the zeros."""
        return pad_spans(index, *self.padding)[1]

    def output_length(self, steps: int) -> int:
        """More by both."""
        return steps + sum(self.padding)


@register("layer")
class UpSampling1D(TemporalLayer):
    """Each step `size` times, `(B, T, C)` to `(B, T * size, C)`; each part of the mask too.

    Keras's `UpSampling1D`. Columns are those of its own input: behind a stride a row that began at a column between two
    multiples of it stands up to a stride earlier than it did in front (docs/windows.md).

    >>> from padless import pack
    >>> UpSampling1D(2)(pack([[[1.0], [2.0]], [[3.0]]])).mask.tolist()
    [[True, True, True, True], [True, True, False, False]]
    """

    relation = "window"

    def __init__(self, size: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        (self.size,) = as_sizes(self, "size", size)

    def call_grid(self, grid: Tensor) -> Tensor:
        """The steps of a grid, repeated."""
        return grid.unsqueeze(2).expand(-1, -1, self.size, -1).flatten(1, 2)

    def call_packed(self, inputs: Packed) -> Packed:
        """The real steps, repeated."""
        return Packed(self.call_grid(inputs.values[None])[0], self.output_index(inputs.index))

    def output_index(self, index: Index) -> Index:
        """The mask, repeated."""
        return repeat_cells(index, self.size)

    def output_length(self, steps: int) -> int:
        """So many times more."""
        return steps * self.size
