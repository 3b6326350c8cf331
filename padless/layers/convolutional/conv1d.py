"""Convolutions over time. `windowed.py` says how they treat masks."""

from __future__ import annotations

from typing import Unpack

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
from padless.layers.convolutional.windowed import Sizes, TemporalLayer, as_sizes, check_choice, check_data_format
from padless.registry import register
from padless.types import (
    ActivationLike,
    BasicLayerOptions,
    ConstraintLike,
    InitializerLike,
    LayerOptions,
    RegularizerLike,
    Shape,
    StepTensor,
)


class Convolution(TemporalLayer):
    """Base class of the convolutions: sizes along time, bias and activation."""

    bias: Tensor | None
    paddings: tuple[str, ...] = ("valid", "same")

    def __init__(
        self,
        *,
        kernel_size: Sizes,
        strides: Sizes,
        padding: str,
        data_format: str | None,
        dilation_rate: Sizes,
        activation: ActivationLike,
        use_bias: bool,
        bias_initializer: InitializerLike,
        bias_regularizer: RegularizerLike,
        bias_constraint: ConstraintLike,
        **kwargs: Unpack[LayerOptions],
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

    def check_stride_or_dilation(self) -> None:
        """Raise `ArgumentError` for a stride together with a dilation, as Keras does."""
        if self.strides[0] > 1 and self.dilation_rate[0] > 1:
            raise ArgumentError(
                f"{type(self).__name__} takes strides or a dilation_rate above 1, not both; got strides="
                f"{self.strides[0]} and dilation_rate={self.dilation_rate[0]}."
            )

    def num_channels(self, input_shape: Shape) -> int:
        """Return the number of features of the input.

        Raises:
            ShapeError: The number is not known.
        """
        channels = self.split_shape(input_shape)[2]
        if not isinstance(channels, int):
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} creates weights for the features of its input, so their "
                f"number must be known; got the shape {input_shape}."
            )
        return channels

    def add_bias(self, filters: int) -> None:
        """Create the weight `bias`, or set it to None without `use_bias`."""
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

    def check_channels(self, inputs: Tensor, channels: int) -> None:
        """Raise `ShapeError` unless the inputs have the features for which the weights were created."""
        if inputs.shape[-1] != channels:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} was built for {channels} features; got an input with "
                f"{inputs.shape[-1]}."
            )

    def postprocess(self, outputs: StepTensor) -> StepTensor:
        """Apply the activation."""
        return activations.apply_in_place(self.activation, outputs)


@register("layer", "Convolution1D")
class Conv1D(Convolution):
    """Convolve over time, as Keras's `Conv1D`: `(B, T, C)` gives `(B, T', filters)`.

    The weights are `kernel` `(kernel_size, C / groups, filters)` and `bias` `(filters,)`.

    In a masked input the span of each sequence is convolved, from its first to its last real step. A masked step inside
    the span is 0. A span of n steps gives `max(0, (n - reach) // strides + 1)` steps, where `reach` is
    `(kernel_size - 1) * dilation_rate + 1`. With `padding="same"` or "causal" it gives `ceil(n / strides)` steps. Output
    step j is at column `first // strides + j`, where `first` is the first column of the span.

    With `strides=1` and padding "same" or "causal" the mask passes. Otherwise an output step is real if its window
    contains a real step. Gaps show 0.

    Args:
        filters: The features of the output.
        kernel_size: The number of steps in a window.
        strides: The distance of two windows.
        padding: "valid", "same" or "causal".
        data_format: "channels_last", or "channels_first" for plain inputs `(B, C, T)`.
        dilation_rate: The distance of two steps in a window.
        groups: The number of groups of features that are convolved separately.
        activation: The activation of the output.
        use_bias: Whether a bias is added.
        kernel_initializer: The initializer of `kernel`.
        bias_initializer: The initializer of `bias`.
        kernel_regularizer: The regularizer of `kernel`.
        bias_regularizer: The regularizer of `bias`.
        activity_regularizer: The regularizer of the output.
        kernel_constraint: The constraint of `kernel`.
        bias_constraint: The constraint of `bias`.

    Raises:
        ArgumentError: An argument is not valid.
        ShapeError: The number of features is not known or not a multiple of `groups`.

    Example:
        >>> from padless import pack
        >>> conv = Conv1D(1, 2, kernel_initializer="ones")
        >>> conv(pack([[[1.0], [2.0], [3.0]], [[4.0], [5.0]], [[6.0]]])).detach().numpy().squeeze(-1).tolist()
        [[3.0, 5.0], [9.0, 0.0], [0.0, 0.0]]
    """

    paddings = ("valid", "same", "causal")
    kernel: Tensor

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        groups: int = 1,
        activation: ActivationLike = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        **kwargs: Unpack[BasicLayerOptions],
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            bias_initializer=bias_initializer,
            bias_regularizer=bias_regularizer,
            bias_constraint=bias_constraint,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        (self.filters,) = as_sizes(self, "filters", filters)
        (self.groups,) = as_sizes(self, "groups", groups)
        self.check_stride_or_dilation()
        if self.filters % self.groups:
            raise ArgumentError(
                f"Conv1D divides its filters among its groups, so filters={filters} must be a multiple of groups={groups}."
            )
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)

    def build(self, input_shape: Shape) -> None:
        """Create kernel and bias for the features of the input."""
        channels = self.num_channels(input_shape)
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
        """Convolve a grid `(B, T, C)`."""
        self.check_channels(grid, self.kernel.shape[1] * self.groups)
        return conv1d(grid, self.window, self.kernel, self.bias, self.groups)

    def call_packed_steps(self, values: Tensor, layout: WindowLayout) -> Tensor:
        """Convolve real steps `(N, C)`."""
        self.check_channels(values, self.kernel.shape[1] * self.groups)
        return packed_conv1d(values, layout, self.window, self.kernel, self.bias, self.groups)

    def output_features(self, channels: int | None) -> int:
        """Return the number of filters."""
        return self.filters


@register("layer")
class DepthwiseConv1D(Convolution):
    """Convolve each feature separately, as Keras's `DepthwiseConv1D`: `(B, T, C)` gives `(B, T', C * depth_multiplier)`.

    The weights are `kernel` `(kernel_size, C, depth_multiplier)` and `bias` `(C * depth_multiplier,)`. Masks are treated as
    in `Conv1D`.

    Args:
        kernel_size: The number of steps in a window.
        strides: The distance of two windows.
        padding: "valid" or "same".
        depth_multiplier: The number of output features for each feature of the input.
        data_format: "channels_last", or "channels_first" for plain inputs `(B, C, T)`.
        dilation_rate: The distance of two steps in a window.
        activation: The activation of the output.
        use_bias: Whether a bias is added.
        depthwise_initializer: The initializer of `kernel`.
        bias_initializer: The initializer of `bias`.
        depthwise_regularizer: The regularizer of `kernel`.
        bias_regularizer: The regularizer of `bias`.
        activity_regularizer: The regularizer of the output.
        depthwise_constraint: The constraint of `kernel`.
        bias_constraint: The constraint of `bias`.

    Raises:
        ArgumentError: An argument is not valid.
        ShapeError: The number of features is not known.

    Example:
        >>> from padless import pack
        >>> DepthwiseConv1D(2, depth_multiplier=3)(pack([[[1.0], [2.0], [3.0]], [[4.0], [5.0]]])).shape
        torch.Size([2, 2, 3])
    """

    kernel: Tensor

    def __init__(
        self,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        activation: ActivationLike = None,
        use_bias: bool = True,
        depthwise_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        depthwise_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        depthwise_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        **kwargs: Unpack[BasicLayerOptions],
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            bias_initializer=bias_initializer,
            bias_regularizer=bias_regularizer,
            bias_constraint=bias_constraint,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        (self.depth_multiplier,) = as_sizes(self, "depth_multiplier", depth_multiplier)
        self.depthwise_initializer = initializers.get(depthwise_initializer)
        self.depthwise_regularizer = regularizers.get(depthwise_regularizer)
        self.depthwise_constraint = constraints.get(depthwise_constraint)

    def build(self, input_shape: Shape) -> None:
        """Create kernel and bias for the features of the input."""
        channels = self.num_channels(input_shape)
        self.add_weight(
            (*self.kernel_size, channels, self.depth_multiplier),
            self.depthwise_initializer,
            name="kernel",
            regularizer=self.depthwise_regularizer,
            constraint=self.depthwise_constraint,
        )
        self.add_bias(channels * self.depth_multiplier)

    def call_grid(self, grid: Tensor) -> Tensor:
        """Convolve a grid `(B, T, C)`."""
        channels = self.kernel.shape[1]
        self.check_channels(grid, channels)
        return conv1d(grid, self.window, as_grouped_kernel(self.kernel), self.bias, channels)

    def call_packed_steps(self, values: Tensor, layout: WindowLayout) -> Tensor:
        """Convolve real steps `(N, C)`."""
        channels = self.kernel.shape[1]
        self.check_channels(values, channels)
        return packed_conv1d(values, layout, self.window, as_grouped_kernel(self.kernel), self.bias, channels)

    def output_features(self, channels: int | None) -> int | None:
        """Return the number of features, multiplied by `depth_multiplier`."""
        return None if channels is None else channels * self.depth_multiplier


def as_grouped_kernel(kernel: Tensor) -> Tensor:
    """Return a depthwise kernel `(size, C, multiplier)` as the kernel `(size, 1, C * multiplier)` of C groups."""
    return kernel.reshape(kernel.shape[0], 1, -1)


@register("layer", "SeparableConvolution1D")
class SeparableConv1D(Convolution):
    """Convolve each feature separately, then mix the features, as Keras's `SeparableConv1D`.

    `(B, T, C)` gives `(B, T', filters)`. The weights are `depthwise_kernel` `(kernel_size, C, depth_multiplier)`,
    `pointwise_kernel` `(1, C * depth_multiplier, filters)` and `bias` `(filters,)`. Masks are treated as in `Conv1D`.

    Args:
        filters: The features of the output.
        kernel_size: The number of steps in a window.
        strides: The distance of two windows.
        padding: "valid" or "same".
        data_format: "channels_last", or "channels_first" for plain inputs `(B, C, T)`.
        dilation_rate: The distance of two steps in a window.
        depth_multiplier: The number of features between the two convolutions for each feature of the input.
        activation: The activation of the output.
        use_bias: Whether a bias is added.
        depthwise_initializer: The initializer of `depthwise_kernel`.
        pointwise_initializer: The initializer of `pointwise_kernel`.
        bias_initializer: The initializer of `bias`.
        depthwise_regularizer: The regularizer of `depthwise_kernel`.
        pointwise_regularizer: The regularizer of `pointwise_kernel`.
        bias_regularizer: The regularizer of `bias`.
        activity_regularizer: The regularizer of the output.
        depthwise_constraint: The constraint of `depthwise_kernel`.
        pointwise_constraint: The constraint of `pointwise_kernel`.
        bias_constraint: The constraint of `bias`.

    Raises:
        ArgumentError: An argument is not valid.
        ShapeError: The number of features is not known.

    Example:
        >>> from padless import pack
        >>> SeparableConv1D(4, 2)(pack([[[1.0], [2.0], [3.0]], [[4.0], [5.0]]])).shape
        torch.Size([2, 2, 4])
    """

    depthwise_kernel: Tensor
    pointwise_kernel: Tensor

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        depth_multiplier: int = 1,
        activation: ActivationLike = None,
        use_bias: bool = True,
        depthwise_initializer: InitializerLike = "glorot_uniform",
        pointwise_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        depthwise_regularizer: RegularizerLike = None,
        pointwise_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        depthwise_constraint: ConstraintLike = None,
        pointwise_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        **kwargs: Unpack[BasicLayerOptions],
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            bias_initializer=bias_initializer,
            bias_regularizer=bias_regularizer,
            bias_constraint=bias_constraint,
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

    def build(self, input_shape: Shape) -> None:
        """Create both kernels and the bias for the features of the input."""
        channels = self.num_channels(input_shape)
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
        """Convolve a grid `(B, T, C)`."""
        channels = self.depthwise_kernel.shape[1]
        self.check_channels(grid, channels)
        kernel = as_grouped_kernel(self.depthwise_kernel)
        return self._mix_features(conv1d(grid, self.window, kernel, None, channels))

    def call_packed_steps(self, values: Tensor, layout: WindowLayout) -> Tensor:
        """Convolve real steps `(N, C)`; the features of the output steps alone are mixed."""
        channels = self.depthwise_kernel.shape[1]
        self.check_channels(values, channels)
        kernel = as_grouped_kernel(self.depthwise_kernel)
        return self._mix_features(packed_conv1d(values, layout, self.window, kernel, None, channels))

    def _mix_features(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.pointwise_kernel[0].t(), self.bias)

    def output_features(self, channels: int | None) -> int:
        """Return the number of filters."""
        return self.filters


@register("layer", "Convolution1DTranspose")
class Conv1DTranspose(Convolution):
    """Apply the transposed convolution, as Keras's `Conv1DTranspose`: `(B, T, C)` gives `(B, T', filters)`.

    Each step is added to `kernel_size` outputs, and the outputs of the next step begin `strides` later. The weights are
    `kernel` `(kernel_size, filters, C)` and `bias` `(filters,)`.

    In a masked input the span of each sequence is used, from its first to its last real step. A masked step inside the
    span is 0. A span of n steps gives as many outputs as a plain input of n steps: `n * strides` with `padding="same"`,
    `(n - 1) * strides + max(kernel_size, strides)` with "valid", and none for an empty sequence. Output step j is at
    column `first * strides + j`, where `first` is the first column of the span.

    An output step is real if a real step is added to it. An output that no step can reach belongs to the step before.
    With `strides=1` and padding "same" the mask passes. Gaps show 0.

    Args:
        filters: The features of the output.
        kernel_size: The number of outputs for each step.
        strides: The distance of the outputs of two steps.
        padding: "valid" or "same".
        output_padding: The number of additional outputs at the end, below `strides`; None for Keras's default length.
        data_format: "channels_last", or "channels_first" for plain inputs `(B, C, T)`.
        dilation_rate: The distance of two outputs of one step.
        activation: The activation of the output.
        use_bias: Whether a bias is added.
        kernel_initializer: The initializer of `kernel`.
        bias_initializer: The initializer of `bias`.
        kernel_regularizer: The regularizer of `kernel`.
        bias_regularizer: The regularizer of `bias`.
        activity_regularizer: The regularizer of the output.
        kernel_constraint: The constraint of `kernel`.
        bias_constraint: The constraint of `bias`.

    Raises:
        ArgumentError: An argument is not valid.
        ShapeError: The number of features is not known.

    Example:
        >>> from padless import pack
        >>> conv = Conv1DTranspose(1, 2, strides=2, kernel_initializer="ones")
        >>> conv(pack([[[1.0], [2.0]], [[3.0]]])).detach().numpy().squeeze(-1).tolist()
        [[1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 0.0, 0.0]]
    """

    kernel: Tensor

    def __init__(
        self,
        filters: int,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        output_padding: Sizes | None = None,
        data_format: str | None = None,
        dilation_rate: Sizes = 1,
        activation: ActivationLike = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        **kwargs: Unpack[BasicLayerOptions],
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            activation=activation,
            use_bias=use_bias,
            bias_initializer=bias_initializer,
            bias_regularizer=bias_regularizer,
            bias_constraint=bias_constraint,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        (self.filters,) = as_sizes(self, "filters", filters)
        self.output_padding = None if output_padding is None else as_sizes(self, "output_padding", output_padding, 1, 0)
        self.check_stride_or_dilation()
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

    def build(self, input_shape: Shape) -> None:
        """Create kernel and bias for the features of the input."""
        self.add_weight(
            (*self.kernel_size, self.filters, self.num_channels(input_shape)),
            self.kernel_initializer,
            name="kernel",
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.add_bias(self.filters)

    def call_grid(self, grid: Tensor) -> Tensor:
        """Apply the layer to a grid `(B, T, C)`."""
        self.check_channels(grid, self.kernel.shape[2])
        return conv1d_transpose(grid, self.window, self.kernel, self.bias)

    def call_packed_steps(self, values: Tensor, layout: WindowLayout) -> Tensor:
        """Apply the layer to real steps `(N, C)`."""
        self.check_channels(values, self.kernel.shape[2])
        return packed_conv1d_transpose(values, layout, self.window, self.kernel, self.bias)

    def output_features(self, channels: int | None) -> int:
        """Return the number of filters."""
        return self.filters


# Keras's other names
Convolution1D = Conv1D
SeparableConvolution1D = SeparableConv1D
Convolution1DTranspose = Conv1DTranspose
