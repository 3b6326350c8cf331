"""Layers that summarize a whole sequence. They consume the mask. The summary of an empty sequence is 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Unpack, cast

from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.kernels.segment_reduce import segment_first, segment_last, segment_max, segment_mean, segment_sum
from padless.layers.base.layer import Layer
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import LayerOptions, MaskLike, Shape, StepTensor


class SequenceSummary(Layer):
    """Base class of layers from `(B, T, ...)` to `(B, ...)`.

    A subclass gives `kernel`, a function of real steps `(N, ...)` and their index, and `summarize_grid`, the same for a
    plain tensor.
    """

    relation = "reduce"
    kernel: ClassVar[Callable[[Tensor, Index], Tensor]]

    def summarize_grid(self, grid: Tensor) -> Tensor:
        """Return the summaries of a grid `(B, T, ...)` on which every step is real; T is at least 1."""
        raise NotImplementedError

    def call(self, inputs: StepTensor, mask: MaskLike | None = None) -> Tensor:
        """Return one row for each sequence."""
        if inputs.ndim < 3 or isinstance(inputs, Packed) and inputs.num_step_axes > 2:
            hint = " For sequences of sequences wrap it in TimeDistributed." if inputs.ndim > 2 else ""
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected (batch, steps, ...features); got the shape "
                f"{tuple(inputs.shape)}.{hint}"
            )
        if isinstance(inputs, Packed):
            return type(self).kernel(inputs.values, inputs.index)
        if inputs.shape[1] == 0:
            return inputs.new_zeros((inputs.shape[0], *inputs.shape[2:]))
        return self.summarize_grid(inputs)

    def compute_mask(self, inputs: StepTensor, mask: MaskLike | None = None) -> None:
        """Return None: the output has no steps."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input without the time axis."""
        return (input_shape[0], *input_shape[2:])


class GlobalPooling(SequenceSummary):
    """Base class of the global poolings, with Keras's arguments `data_format` and `keepdims`."""

    relation = "reduce"

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        if data_format not in (None, "channels_last", "channels_first"):
            raise ArgumentError(f"data_format must be 'channels_last' or 'channels_first'; got {data_format!r}.")
        self.data_format = data_format or "channels_last"
        self.keepdims = keepdims

    def call(self, inputs: StepTensor, mask: MaskLike | None = None) -> Tensor:
        """Return one row for each sequence; with `keepdims` as a time axis of size 1."""
        channels_first = self.data_format == "channels_first"
        if channels_first and isinstance(inputs, Packed):
            raise ArgumentError(
                "A masked input has its steps on axis 1, so data_format='channels_first' does not apply to "
                "it. Leave data_format out."
            )
        if channels_first and inputs.ndim > 2:
            inputs = inputs.transpose(1, 2)
        pooled = super().call(inputs)
        if self.keepdims:
            return pooled.unsqueeze(2 if channels_first else 1)
        return pooled

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input without the time axis, or with size 1 there."""
        time_axis = 2 if self.data_format == "channels_first" else 1
        time_sizes = (1,) if self.keepdims else ()
        return (*input_shape[:time_axis], *time_sizes, *input_shape[time_axis + 1 :])


@register("layer", "GlobalAvgPool1D")
class GlobalAveragePooling1D(GlobalPooling):
    """Return the mean of the real steps, as Keras's `GlobalAveragePooling1D`: `(B, T, D)` gives `(B, D)`.

    The mask is consumed. For an empty sequence the mean is 0, where Keras gives NaN. Integers give float32.

    Args:
        data_format: "channels_last", or "channels_first" for plain inputs `(B, D, T)`.
        keepdims: Whether the time axis is kept with size 1.

    Example:
        >>> from padless import pack
        >>> GlobalAveragePooling1D()(pack([[[1.0], [3.0]], [[5.0]]])).tolist()
        [[2.0], [5.0]]
    """

    relation = "reduce"
    kernel = staticmethod(segment_mean)

    def call(self, inputs: StepTensor, mask: MaskLike | None = None) -> Tensor:
        """Return the means."""
        return super().call(inputs if inputs.dtype.is_floating_point else cast("StepTensor", inputs.float()))

    def summarize_grid(self, grid: Tensor) -> Tensor:
        """Return the means of a grid."""
        return grid.mean(dim=1)


@register("layer", "GlobalMaxPool1D")
class GlobalMaxPooling1D(GlobalPooling):
    """Return the maximum of the real steps, as Keras's `GlobalMaxPooling1D`: `(B, T, D)` gives `(B, D)`.

    The mask is consumed. In Keras masked steps take part. For an empty sequence the maximum is 0. Equal maxima share the
    gradient.

    Args:
        data_format: "channels_last", or "channels_first" for plain inputs `(B, D, T)`.
        keepdims: Whether the time axis is kept with size 1.

    Example:
        >>> from padless import pack
        >>> GlobalMaxPooling1D()(pack([[[-1.0], [-3.0]], [[5.0]]])).tolist()
        [[-1.0], [5.0]]
    """

    kernel = staticmethod(segment_max)

    def summarize_grid(self, grid: Tensor) -> Tensor:
        """Return the maxima of a grid."""
        return grid.amax(dim=1)


@register("layer", "GlobalSumPool1D")
class GlobalSumPooling1D(GlobalPooling):
    """Return the sum of the real steps: `(B, T, D)` gives `(B, D)`.

    Keras does not have this layer. The arguments are those of its global poolings. The mask is consumed. For an empty
    sequence the sum is 0.

    Args:
        data_format: "channels_last", or "channels_first" for plain inputs `(B, D, T)`.
        keepdims: Whether the time axis is kept with size 1.

    Example:
        >>> from padless import pack
        >>> GlobalSumPooling1D()(pack([[[1.0], [3.0]], [[5.0]]])).tolist()
        [[4.0], [5.0]]
    """

    kernel = staticmethod(segment_sum)

    def summarize_grid(self, grid: Tensor) -> Tensor:
        """Return the sums of a grid."""
        return grid.sum(dim=1)


@register("layer")
class LastStep(SequenceSummary):
    """Return the last real step of each sequence: `(B, T, ...)` gives `(B, ...)`.

    Use it in place of `x[:, -1]`, which is a masked step for a sequence padded on the right. The mask is consumed. An
    empty sequence gives 0. Keras does not have this layer.

    Example:
        >>> from padless import pack
        >>> LastStep()(pack([[[1.0], [3.0]], [[5.0]]])).tolist()
        [[3.0], [5.0]]
    """

    kernel = staticmethod(segment_last)

    def summarize_grid(self, grid: Tensor) -> Tensor:
        """Return the last step of a grid."""
        return grid.select(1, -1)


@register("layer")
class FirstStep(SequenceSummary):
    """Return the first real step of each sequence: `(B, T, ...)` gives `(B, ...)`.

    The mask is consumed. An empty sequence gives 0. Keras does not have this layer.

    Example:
        >>> from padless import pack
        >>> FirstStep()(pack([[[1.0], [3.0]], [[5.0]]])).tolist()
        [[1.0], [5.0]]
    """

    kernel = staticmethod(segment_first)

    def summarize_grid(self, grid: Tensor) -> Tensor:
        """Return the first step of a grid."""
        return grid.select(1, 0)


# Keras's other names
GlobalAvgPool1D = GlobalAveragePooling1D
GlobalMaxPool1D = GlobalMaxPooling1D
GlobalSumPool1D = GlobalSumPooling1D
