"""Maximum and mean of windows of time steps."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from padless.kernels.conv.windows import (
    Window,
    WindowLayout,
    average_pool1d,
    max_pool1d,
    packed_average_pool1d,
    packed_max_pool1d,
)
from padless.layers.convolutional.windowed import Sizes, TemporalLayer, as_sizes, check_choice, check_data_format
from padless.registry import register
from padless.types import LayerOptions


class Pooling(TemporalLayer):
    """Base class of the pooling layers: window, stride and padding."""

    def __init__(
        self,
        *,
        pool_size: Sizes,
        strides: Sizes | None,
        padding: str,
        data_format: str | None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.pool_size = as_sizes(self, "pool_size", pool_size)
        self.strides = self.pool_size if strides is None else as_sizes(self, "strides", strides)
        self.padding = check_choice(self, "padding", padding, ("valid", "same"))
        self.data_format = check_data_format(self, data_format)
        self.window = Window(self.pool_size[0], self.strides[0], 1, self.padding)


@register("layer", "MaxPool1D")
class MaxPooling1D(Pooling):
    """Return the maximum of each window of real steps, as Keras's `MaxPooling1D`: `(B, T, C)` gives `(B, T', C)`.

    In a masked input the windows cover the span of each sequence, from its first to its last real step. Masked steps
    inside the span are left out, and a window without a real step gives no step. A span of n steps has
    `max(0, (n - pool_size) // strides + 1)` windows, with `padding="same"` `ceil(n / strides)`. Output step j is at
    column `first // strides + j`, where `first` is the first column of the span. With `strides=1` and "same" the mask
    passes. Gaps show 0.

    Args:
        pool_size: The number of steps in a window.
        strides: The distance of two windows; None for `pool_size`.
        padding: "valid" or "same".
        data_format: "channels_last", or "channels_first" for plain inputs `(B, C, T)`.
        name: The name of the layer.

    Raises:
        ArgumentError: An argument is not valid.

    Example:
        >>> from padless import pack
        >>> pooled = MaxPooling1D(2)(pack([[[9.0], [1.0], [2.0], [4.0], [3.0]]], mask=[[0, 1, 1, 1, 1]]))
        >>> pooled.values.tolist(), pooled.mask.tolist()
        ([[2.0], [4.0]], [[True, True]])
    """

    def __init__(
        self,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size=pool_size, strides=strides, padding=padding, data_format=data_format, name=name, **kwargs)

    def call_grid(self, grid: Tensor) -> Tensor:
        """Return the maxima of the windows of a grid `(B, T, C)`."""
        return max_pool1d(grid, self.window)

    def call_packed_steps(self, values: Tensor, layout: WindowLayout) -> Tensor:
        """Return the maxima of the windows of real steps `(N, C)`."""
        return packed_max_pool1d(values, layout, self.window)


@register("layer", "AvgPool1D")
class AveragePooling1D(Pooling):
    """Return the mean of the real steps in each window, as Keras's `AveragePooling1D`: `(B, T, C)` gives `(B, T', C)`.

    Spans, windows, columns and masks are those of `MaxPooling1D`. The steps that `padding="same"` adds do not count.

    Args:
        pool_size: The number of steps in a window.
        strides: The distance of two windows; None for `pool_size`.
        padding: "valid" or "same".
        data_format: "channels_last", or "channels_first" for plain inputs `(B, C, T)`.
        name: The name of the layer.

    Raises:
        ArgumentError: An argument is not valid.

    Example:
        >>> from padless import pack
        >>> AveragePooling1D(2)(pack([[[1.0], [9.0], [3.0], [5.0]]], mask=[[1, 0, 1, 1]])).values.tolist()
        [[1.0], [4.0]]
    """

    def __init__(
        self,
        pool_size: Sizes,
        strides: Sizes | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size=pool_size, strides=strides, padding=padding, data_format=data_format, name=name, **kwargs)

    def call_grid(self, grid: Tensor) -> Tensor:
        """Return the means of the windows of a grid `(B, T, C)`."""
        return average_pool1d(grid, self.window)

    def call_packed_steps(self, values: Tensor, layout: WindowLayout) -> Tensor:
        """Return the means of the windows of real steps `(N, C)`."""
        return packed_average_pool1d(values, layout, self.window)


# Keras's other names
MaxPool1D = MaxPooling1D
AvgPool1D = AveragePooling1D
