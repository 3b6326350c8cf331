"""Convolutions over time, on each row's span; what they do with masks is said in window.py and in each docstring."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from padless import activations, constraints, initializers, regularizers
from padless.errors import ArgumentError, ShapeError
from padless.kernels.conv.windows import (
    TransposedWindow,
    Window,
    WindowLayout,
    conv1d,
    conv1d_transpose,
    packed_conv1d,
    packed_conv1d_transpose,
)
from padless.layers.convolutional.windowed import TemporalLayer, as_sizes, check_choice, check_data_format
from padless.registry import register


class Convolution(TemporalLayer):
    """The base: sizes along time, a bias, an activation."""

    relation = "window"
    bias: Tensor | None
    paddings: tuple[str, ...] = ("valid", "same")

    def __init__(
        self,
        kernel_size: Any,
        strides: Any,
        padding: Any,
        data_format: Any,
        dilation_rate: Any,
        activation: Any,
        use_bias: bool,
        bias_initializer: Any,
        bias_regularizer: Any,
        bias_constraint: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_size = as_sizes(self, "kernel_size", kernel_size)
        self.strides = as_sizes(self, "strides", strides)
        self.dilation_rate = as_sizes(self, "dilation_rate", dilation_rate)
        self.padding = check_choice(self, "padding", padding, self.paddings)
        self.data_format = check_data_format(self, data_format)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.bias_initializer = initializers.get(bias_initializer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.bias_constraint = constraints.get(bias_constraint)
        self.window = Window(self.kernel_size[0], self.strides[0], self.dilation_rate[0], self.padding)

    def not_both(self) -> None:
        """Raises `ArgumentError` for a stride with a dilation, as Keras."""
        if self.strides[0] > 1 and self.dilation_rate[0] > 1:
            raise ArgumentError(
                f"{type(self).__name__} takes strides or a dilation_rate above 1, not both; got strides="
                f"{self.strides[0]} and dilation_rate={self.dilation_rate[0]}."
            )

    def channels(self, input_shape: Any) -> int:
        """The features of the input, which must be known before weights can be made."""
        found = self.split_shape(input_shape)[2]
        if not isinstance(found, int):
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} makes weights for the features of its input, so their "
                f"number must be known; got the shape {input_shape}."
            )
        return found

    def add_bias(self, filters: int) -> None:
        """The bias, if there is to be one."""
        if self.use_bias:
            self.add_weight(
                (filters,),
                self.bias_initializer,
                name="bias",
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        else:
            self.bias = None

    def checked(self, inputs: Tensor, built: int) -> Tensor:
        """The inputs, if they have the features that the weights were made for."""
        if inputs.shape[-1] != built:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} was built for {built} features; got an input with {inputs.shape[-1]}."
            )
        return inputs

    def postprocess(self, outputs: Any) -> Any:
        """The activation."""
        return activations.apply_in_place(self.activation, outputs)


@register("layer", "Convolution1D")
class Conv1D(Convolution):
    """A convolution over time, `(B, T, C)` to `(B, T', filters)`, and an activation.

    Keras's `Conv1D`. Weights: `kernel` `(kernel_size, C / groups, filters)`, `bias` `(filters,)`.

    Of a masked input each row's span is convolved, from its first to its last real step, however it is padded; a hole
    inside is 0. A span of n steps gives `max(0, (n - reach) // strides + 1)` steps, where `reach` is
    `(kernel_size - 1) * dilation_rate + 1`; with `padding="same"` or "causal" `ceil(n / strides)`. Step j stands at
    column `first // strides + j`. With `strides=1` "same" and "causal" keep the mask; else a step is real if its window
    holds a real one. Gaps show 0. `data_format="channels_first"` is for plain inputs only.

    >>> from padless import pack
    >>> conv = Conv1D(1, 2, kernel_initializer="ones")
    >>> conv(pack([[[1.0], [2.0], [3.0]], [[4.0], [5.0]], [[6.0]]])).numpy().squeeze(-1).tolist()
    [[3.0, 5.0], [9.0, 0.0], [0.0, 0.0]]
    """

    relation = "window"
    paddings = ("valid", "same", "causal")
    kernel: Tensor

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            activation,
            use_bias,
            bias_initializer,
            bias_regularizer,
            bias_constraint,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        (self.filters,) = as_sizes(self, "filters", filters)
        (self.groups,) = as_sizes(self, "groups", groups)
        self.not_both()
        if self.filters % self.groups:
            raise ArgumentError(
                f"Conv1D divides its filters among its groups, so filters={filters} must be a multiple of groups={groups}."
            )
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)

    def build(self, input_shape: Any) -> None:
        """Kernel and bias, for the features of the input."""
        channels = self.channels(input_shape)
        if channels % self.groups:
            raise ShapeError(
                f"Conv1D {self.name!r} divides the features of its input among groups={self.groups}, so "
                f"their number must be a multiple of that; got {channels}."
            )
        self.add_weight(
            (*self.kernel_size, channels // self.groups, self.filters),
            self.kernel_initializer,
            name="kernel",
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.add_bias(self.filters)

    def call_grid(self, grid: Tensor) -> Tensor:
        """The convolution of a grid."""
        grid = self.checked(grid, self.kernel.shape[1] * self.groups)
        return conv1d(grid, self.window, self.kernel, self.bias, self.groups)

    def call_packed_steps(self, values: Tensor, plan: WindowLayout) -> Tensor:
        """The convolution of real steps."""
        values = self.checked(values, self.kernel.shape[1] * self.groups)
        return packed_conv1d(values, plan, self.window, self.kernel, self.bias, self.groups)

    def output_features(self, channels: Any) -> int:
        """One for each filter."""
        return self.filters


@register("layer")
class DepthwiseConv1D(Convolution):
    """A convolution of each feature by itself, `(B, T, C)` to `(B, T', C * depth_multiplier)`, and an activation.

    Keras's `DepthwiseConv1D`; masks as in `Conv1D`. Weights: `kernel` `(kernel_size, C, depth_multiplier)`, `bias`
    `(C * depth_multiplier,)`.

    >>> from padless import pack
    >>> DepthwiseConv1D(2, depth_multiplier=3)(pack([[[1.0], [2.0], [3.0]], [[4.0], [5.0]]])).shape
    torch.Size([2, 2, 3])
    """

    relation = "window"
    kernel: Tensor

    def __init__(
        self,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            activation,
            use_bias,
            bias_initializer,
            bias_regularizer,
            bias_constraint,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        (self.depth_multiplier,) = as_sizes(self, "depth_multiplier", depth_multiplier)
        self.depthwise_initializer = initializers.get(depthwise_initializer)
        self.depthwise_regularizer = regularizers.get(depthwise_regularizer)
        self.depthwise_constraint = constraints.get(depthwise_constraint)

    def build(self, input_shape: Any) -> None:
        """Kernel and bias, for the features of the input."""
        channels = self.channels(input_shape)
        self.add_weight(
            (*self.kernel_size, channels, self.depth_multiplier),
            self.depthwise_initializer,
            name="kernel",
            regularizer=self.depthwise_regularizer,
            constraint=self.depthwise_constraint,
        )
        self.add_bias(channels * self.depth_multiplier)

    def call_grid(self, grid: Tensor) -> Tensor:
        """The convolution of a grid."""
        channels = self.kernel.shape[1]
        return conv1d(self.checked(grid, channels), self.window, as_grouped_kernel(self.kernel), self.bias, channels)

    def call_packed_steps(self, values: Tensor, plan: WindowLayout) -> Tensor:
        """The convolution of real steps."""
        channels = self.kernel.shape[1]
        return packed_conv1d(
            self.checked(values, channels), plan, self.window, as_grouped_kernel(self.kernel), self.bias, channels
        )

    def output_features(self, channels: Any) -> Any:
        """So many times more."""
        return None if channels is None else channels * self.depth_multiplier


def as_grouped_kernel(kernel: Tensor) -> Tensor:
    """A depthwise kernel `(size, C, multiplier)` as one of C groups, `(size, 1, C * multiplier)`."""
    return kernel.reshape(kernel.shape[0], 1, -1)


@register("layer", "SeparableConvolution1D")
class SeparableConv1D(Convolution):
    """A convolution of each feature by itself, then one over features, `(B, T, C)` to `(B, T', filters)`.

    Keras's `SeparableConv1D`; masks as in `Conv1D`. Weights: `depthwise_kernel` `(kernel_size, C, depth_multiplier)`,
    `pointwise_kernel` `(1, C * depth_multiplier, filters)`, `bias` `(filters,)`.

    >>> from padless import pack
    >>> SeparableConv1D(4, 2)(pack([[[1.0], [2.0], [3.0]], [[4.0], [5.0]]])).shape
    torch.Size([2, 2, 4])
    """

    relation = "window"
    depthwise_kernel: Tensor
    pointwise_kernel: Tensor

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            activation,
            use_bias,
            bias_initializer,
            bias_regularizer,
            bias_constraint,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        (self.filters,) = as_sizes(self, "filters", filters)
        (self.depth_multiplier,) = as_sizes(self, "depth_multiplier", depth_multiplier)
        self.depthwise_initializer = initializers.get(depthwise_initializer)
        self.pointwise_initializer = initializers.get(pointwise_initializer)
        self.depthwise_regularizer = regularizers.get(depthwise_regularizer)
        self.pointwise_regularizer = regularizers.get(pointwise_regularizer)
        self.depthwise_constraint = constraints.get(depthwise_constraint)
        self.pointwise_constraint = constraints.get(pointwise_constraint)

    def build(self, input_shape: Any) -> None:
        """Both kernels and the bias, for the features of the input."""
        channels = self.channels(input_shape)
        self.add_weight(
            (*self.kernel_size, channels, self.depth_multiplier),
            self.depthwise_initializer,
            name="depthwise_kernel",
            regularizer=self.depthwise_regularizer,
            constraint=self.depthwise_constraint,
        )
        self.add_weight(
            (1, channels * self.depth_multiplier, self.filters),
            self.pointwise_initializer,
            name="pointwise_kernel",
            regularizer=self.pointwise_regularizer,
            constraint=self.pointwise_constraint,
        )
        self.add_bias(self.filters)

    def call_grid(self, grid: Tensor) -> Tensor:
        """Both convolutions of a grid."""
        channels = self.depthwise_kernel.shape[1]
        kernel = as_grouped_kernel(self.depthwise_kernel)
        return self._pointwise(conv1d(self.checked(grid, channels), self.window, kernel, None, channels))

    def call_packed_steps(self, values: Tensor, plan: WindowLayout) -> Tensor:
        """Both convolutions of real steps; the second of the outputs alone."""
        channels = self.depthwise_kernel.shape[1]
        kernel = as_grouped_kernel(self.depthwise_kernel)
        values = self.checked(values, channels)
        return self._pointwise(packed_conv1d(values, plan, self.window, kernel, None, channels))

    def _pointwise(self, inner: Tensor) -> Tensor:
        return functional.linear(inner, self.pointwise_kernel[0].t(), self.bias)

    def output_features(self, channels: Any) -> int:
        """One for each filter."""
        return self.filters


@register("layer", "Convolution1DTranspose")
class Conv1DTranspose(Convolution):
    """A transposed convolution: each step gives to `kernel_size` outputs, `strides` apart from the next one's.

    Keras's `Conv1DTranspose`, `(B, T, C)` to `(B, T', filters)`. Weights: `kernel` `(kernel_size, filters, C)`, `bias`
    `(filters,)`.

    Of a masked input each row's span is taken, from its first to its last real step; a hole inside gives 0. A span of n
    steps makes as many outputs as a plain input of n steps: `n * strides` with `padding="same"`, `(n - 1) * strides +
    max(kernel_size, strides)` with "valid", none if it is empty; output j stands at column `first * strides + j`. An
    output is real if a real step gives to it; one to which no step can give belongs to the step before it. With
    `strides=1` "same" keeps the mask. Gaps show 0.

    >>> from padless import pack
    >>> conv = Conv1DTranspose(1, 2, strides=2, kernel_initializer="ones")
    >>> conv(pack([[[1.0], [2.0]], [[3.0]]])).numpy().squeeze(-1).tolist()
    [[1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 0.0, 0.0]]
    """

    relation = "window"
    kernel: Tensor

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        output_padding: Any = None,
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            kernel_size,
            strides,
            padding,
            data_format,
            dilation_rate,
            activation,
            use_bias,
            bias_initializer,
            bias_regularizer,
            bias_constraint,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        (self.filters,) = as_sizes(self, "filters", filters)
        self.output_padding = None if output_padding is None else as_sizes(self, "output_padding", output_padding, 1, 0)
        self.not_both()
        if self.output_padding is not None and self.output_padding >= self.strides:
            raise ArgumentError(
                f"Conv1DTranspose expected an output_padding below its strides; got output_padding="
                f"{self.output_padding[0]} and strides={self.strides[0]}."
            )
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.window = TransposedWindow(
            self.kernel_size[0],
            self.strides[0],
            self.dilation_rate[0],
            self.padding,
            self.output_padding[0] if self.output_padding else None,
        )

    def build(self, input_shape: Any) -> None:
        """Kernel and bias, for the features of the input."""
        self.add_weight(
            (*self.kernel_size, self.filters, self.channels(input_shape)),
            self.kernel_initializer,
            name="kernel",
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.add_bias(self.filters)

    def call_grid(self, grid: Tensor) -> Tensor:
        """The transposed convolution of a grid."""
        return conv1d_transpose(self.checked(grid, self.kernel.shape[2]), self.window, self.kernel, self.bias)

    def call_packed_steps(self, values: Tensor, plan: WindowLayout) -> Tensor:
        """The transposed convolution of real steps."""
        values = self.checked(values, self.kernel.shape[2])
        return packed_conv1d_transpose(values, plan, self.window, self.kernel, self.bias)

    def output_features(self, channels: Any) -> int:
        """One for each filter."""
        return self.filters


# Keras's other names
Convolution1D = Conv1D
SeparableConvolution1D = SeparableConv1D
Convolution1DTranspose = Conv1DTranspose
