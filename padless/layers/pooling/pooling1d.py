"""Maximum and mean over windows of time."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from padless.kernels.conv.windows import (
    Window,
    WindowLayout,
    average_pool1d,
    max_pool1d,
    packed_average_pool1d,
    packed_max_pool1d,
)
from padless.layers.convolutional.windowed import TemporalLayer, as_sizes, check_choice, check_data_format
from padless.registry import register


class Pooling(TemporalLayer):
    """The base of the pooling layers."""

    relation = "window"

    def __init__(self, pool_size: Any, strides: Any, padding: Any, data_format: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_size = as_sizes(self, "pool_size", pool_size)
        self.strides = self.pool_size if strides is None else as_sizes(self, "strides", strides)
        self.padding = check_choice(self, "padding", padding, ("valid", "same"))
        self.data_format = check_data_format(self, data_format)
        self.window = Window(self.pool_size[0], self.strides[0], 1, self.padding)


@register("layer", "MaxPool1D")
class MaxPooling1D(Pooling):
    """The maximum of each window of real steps, `(B, T, C)` to `(B, T', C)`.

    Keras's `MaxPooling1D`, over each row's span from its first to its last real step; a hole inside is left out, and a
    window of nothing but holes gives no step. A span of n steps gives `max(0, (n - pool_size) // strides + 1)` windows,
    or with `padding="same"` `ceil(n / strides)`; window j stands at column `first // strides + j`. With `strides=1` and
    "same" the mask stays as it is.

    >>> from padless import pack
    >>> pooled = MaxPooling1D(2)(pack([[[9.0], [1.0], [2.0], [4.0], [3.0]]], mask=[[0, 1, 1, 1, 1]]))
    >>> pooled.values.tolist(), pooled.mask.tolist()
    ([[2.0], [4.0]], [[True, True]])
    """

    relation = "window"

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, name=name, **kwargs)

    def call_grid(self, grid: Tensor) -> Tensor:
        """The maxima of a grid."""
        return max_pool1d(grid, self.window)

    def call_packed_steps(self, values: Tensor, plan: WindowLayout) -> Tensor:
        """The maxima of real steps."""
        return packed_max_pool1d(values, plan, self.window)


@register("layer", "AvgPool1D")
class AveragePooling1D(Pooling):
    """The mean of the real steps in each window, `(B, T, C)` to `(B, T', C)`.

    Keras's `AveragePooling1D`; spans, holes, counts and columns are those of `MaxPooling1D`. What `padding="same"` adds
    is no step and does not count.

    >>> from padless import pack
    >>> AveragePooling1D(2)(pack([[[1.0], [9.0], [3.0], [5.0]]], mask=[[1, 0, 1, 1]])).values.tolist()
    [[1.0], [4.0]]
    """

    relation = "window"

    def __init__(
        self,
        pool_size: Any,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pool_size, strides, padding, data_format, name=name, **kwargs)

    def call_grid(self, grid: Tensor) -> Tensor:
        """The means of a grid."""
        return average_pool1d(grid, self.window)

    def call_packed_steps(self, values: Tensor, plan: WindowLayout) -> Tensor:
        """The means of real steps."""
        return packed_average_pool1d(values, plan, self.window)


# Keras's other names
MaxPool1D = MaxPooling1D


AvgPool1D = AveragePooling1D
