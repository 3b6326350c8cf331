"""Layers that summarise a whole sequence: the mask is consumed. Over nothing the result is 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.kernels.segment_reduce import segment_first, segment_last, segment_max, segment_mean, segment_sum
from padless.layers.base.layer import Layer
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.registry import register


class Segment(Layer):
    """The base: `(B, T, ...)` to `(B, ...)`, by a kernel on packed steps and its plain twin on a grid."""

    relation = "reduce"
    kernel: Callable[[Tensor, Index], Tensor]

    def plain(self, inputs: Tensor, axis: int) -> Tensor:
        """The same for a grid on which every step is real."""
        raise NotImplementedError

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """One row for each sequence."""
        if inputs.ndim < 3 or isinstance(inputs, Packed) and inputs.num_step_axes > 2:
            wrap = " For sequences of sequences wrap it in TimeDistributed." if inputs.ndim > 2 else ""
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected (batch, steps, ...features); got the shape "
                f"{tuple(inputs.shape)}.{wrap}"
            )
        if isinstance(inputs, Packed):
            return type(self).kernel(inputs.values, inputs.index)
        if inputs.shape[1] == 0:
            return inputs.new_zeros((inputs.shape[0], *inputs.shape[2:]))
        return self.plain(inputs, 1)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """Nothing is left to mask."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's without the time axis."""
        return (input_shape[0], *input_shape[2:])


class Pooling(Segment):
    """The base of the global poolings: Keras's `data_format` and `keepdims`."""

    relation = "reduce"

    def __init__(self, data_format: str | None = None, keepdims: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if data_format not in (None, "channels_last", "channels_first"):
            raise ArgumentError(f"data_format must be 'channels_last' or 'channels_first'; got {data_format!r}.")
        self.data_format = data_format or "channels_last"
        self.keepdims = keepdims

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """One row for each sequence, or with `keepdims` one step."""
        first = self.data_format == "channels_first"
        if first and isinstance(inputs, Packed):
            raise ArgumentError(
                "A masked input has its steps on axis 1, so data_format='channels_first' does not apply to "
                "it. Leave data_format out."
            )
        pooled = super().call(inputs.transpose(1, 2) if first and inputs.ndim > 2 else inputs)
        return pooled.unsqueeze(2 if first else 1) if self.keepdims else pooled

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's without the time axis, or with 1 in its place."""
        axis = 2 if self.data_format == "channels_first" else 1
        kept = (1,) if self.keepdims else ()
        return (*input_shape[:axis], *kept, *input_shape[axis + 1 :])


@register("layer", "GlobalAvgPool1D")
class GlobalAveragePooling1D(Pooling):
    """The mean over the real steps, `(B, T, D)` to `(B, D)`; of an empty row 0.

    Keras's `GlobalAveragePooling1D`, which gives NaN for an empty row.

    >>> from padless import pack
    >>> GlobalAveragePooling1D()(pack([[[1.0], [3.0]], [[5.0]]])).tolist()
    [[2.0], [5.0]]
    """

    relation = "reduce"
    kernel = staticmethod(segment_mean)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """The mean; of whole numbers in single precision."""
        return super().call(inputs if inputs.dtype.is_floating_point else inputs.float())

    def plain(self, inputs: Tensor, axis: int) -> Tensor:
        """The mean over an axis."""
        return inputs.mean(dim=axis)


@register("layer", "GlobalMaxPool1D")
class GlobalMaxPooling1D(Pooling):
    """The largest of the real steps, `(B, T, D)` to `(B, D)`; of an empty row 0.

    Keras's `GlobalMaxPooling1D`, for which padding counts too. Equal largest numbers share the gradient.

    >>> from padless import pack
    >>> GlobalMaxPooling1D()(pack([[[-1.0], [-3.0]], [[5.0]]])).tolist()
    [[-1.0], [5.0]]
    """

    kernel = staticmethod(segment_max)

    def plain(self, inputs: Tensor, axis: int) -> Tensor:
        """The maximum over an axis."""
        return inputs.amax(dim=axis)


@register("layer", "GlobalSumPool1D")
class GlobalSumPooling1D(Pooling):
    """The sum over the real steps, `(B, T, D)` to `(B, D)`; of an empty row 0.

    Keras has no such layer; arguments as those of its global poolings.

    >>> from padless import pack
    >>> GlobalSumPooling1D()(pack([[[1.0], [3.0]], [[5.0]]])).tolist()
    [[4.0], [5.0]]
    """

    kernel = staticmethod(segment_sum)

    def plain(self, inputs: Tensor, axis: int) -> Tensor:
        """The sum over an axis."""
        return inputs.sum(dim=axis)


@register("layer")
class LastStep(Segment):
    """The last real step of each sequence, zeros for an empty one: what `x[:, -1]` is meant to be.

    >>> from padless import pack
    >>> LastStep()(pack([[[1.0], [3.0]], [[5.0]]])).tolist()
    [[3.0], [5.0]]
    """

    kernel = staticmethod(segment_last)

    def plain(self, inputs: Tensor, axis: int) -> Tensor:
        """The last step."""
        return inputs.select(axis, -1)


@register("layer")
class FirstStep(Segment):
    """The first real step of each sequence, zeros for an empty one.

    >>> from padless import pack
    >>> FirstStep()(pack([[[1.0], [3.0]], [[5.0]]])).tolist()
    [[1.0], [5.0]]
    """

    kernel = staticmethod(segment_first)

    def plain(self, inputs: Tensor, axis: int) -> Tensor:
        """The first step."""
        return inputs.select(axis, 0)


# Keras's other names
GlobalAvgPool1D = GlobalAveragePooling1D
GlobalMaxPool1D = GlobalMaxPooling1D
GlobalSumPool1D = GlobalSumPooling1D
