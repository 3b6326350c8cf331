"""What the layers share that compute an output step from neighboring steps: `TemporalLayer` and checks of arguments.

Each sequence is processed on its span, from its first to its last real step, so that padding on either side cannot shift
a stride. On the span the arithmetic is Keras's. A masked step inside the span is neutral: 0 in a convolution, absent from
a mean or a maximum. In a plain tensor the span is the full length.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.graph.symbolic import SymbolicTensor
from padless.kernels.conv.plan import window_layout
from padless.kernels.conv.windows import WindowLayout
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import call_spec_of
from padless.ragged.index import Index
from padless.ragged.mask import as_mask
from padless.ragged.packed import Packed
from padless.types import MaskLike, Shape, StepTensor

Sizes: TypeAlias = int | list[int] | tuple[int, ...]
"""A size along time: an integer, or a list or tuple of integers, as Keras takes them."""


class TemporalLayer(Layer):
    """Base class of layers from `(B, T, C)` to `(B, T', F)`.

    The output of a masked input has the width T' that Keras's layer gives for a plain input of the same width. Gaps show
    0. A span that is too short for a window gives no steps.

    A subclass defines `call_grid`, and either `window` and `call_packed_steps`, or `call_packed`, `output_index` and
    `output_length`.
    """

    relation = "window"
    data_format = "channels_last"
    window: Any  # a Window, or in a transposed layer a TransposedWindow

    def call_grid(self, grid: Tensor) -> Tensor:
        """Compute the layer for a grid `(B, T, C)` on which every step is real."""
        raise NotImplementedError

    def call_packed_steps(self, values: Tensor, layout: WindowLayout) -> Tensor:
        """Compute the layer for real steps `(N, C)`; the layout says where they are on a common line."""
        raise NotImplementedError

    def call_packed(self, inputs: Packed) -> Packed:
        """Compute the layer for the span of each sequence."""
        layout = window_layout(inputs.index, self.window)
        return Packed(self.call_packed_steps(inputs.values, layout), layout.index_of_outputs(inputs.index))

    def output_index(self, index: Index) -> Index:
        """Return the index of the output's real steps."""
        return window_layout(index, self.window).index_of_outputs(index)

    def output_length(self, steps: int) -> int:
        """Return the number of output steps for this number of steps."""
        return self.window.num_outputs(steps)

    def output_features(self, channels: int | None) -> int | None:
        """Return the number of output features for this number of features."""
        return channels

    def postprocess(self, outputs: StepTensor) -> StepTensor:
        """Return the output of the layer, given that of `call_grid` or `call_packed`."""
        return outputs

    def call(self, inputs: StepTensor) -> StepTensor:
        """Compute the layer for the span of each sequence, or for the full length of a plain input."""
        if isinstance(inputs, Packed) and inputs.num_step_axes > 2:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected (batch, steps, features); got {inputs!r}. For sequences "
                f"of sequences wrap the layer in TimeDistributed."
            )
        self.split_shape(tuple(inputs.shape))
        channels_first = self.data_format == "channels_first"
        if not isinstance(inputs, Packed):
            outputs = self.call_grid(inputs.transpose(1, 2) if channels_first else inputs)
            return self.postprocess(outputs.transpose(1, 2) if channels_first else outputs)
        if channels_first:
            raise ArgumentError(
                f"{type(self).__name__} {self.name!r} got a masked input, whose steps are on axis 1, so data_format="
                f"'channels_first' does not apply to it. Leave data_format out."
            )
        return self.postprocess(self.call_packed(inputs))

    def split_shape(self, shape: Shape) -> tuple[int | None, int | None, int | None]:
        """Return batch, steps and features of an input shape.

        Raises:
            ShapeError: The shape does not have 3 axes.
        """
        channels_first = self.data_format == "channels_first"
        if not isinstance(shape, list | tuple) or len(shape) != 3:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected an input of shape (batch, "
                f"{'features, steps' if channels_first else 'steps, features'}); got {shape}."
            )
        batch, steps, features = shape
        return (batch, features, steps) if channels_first else (batch, steps, features)

    def compute_mask(self, inputs: StepTensor, mask: MaskLike | None = None) -> Tensor | None:
        """Return the real steps of the output as a boolean grid."""
        if mask is None:
            return None
        output_mask = self.output_index(Index.from_mask(as_mask(mask))).mask
        return torch.tensor(output_mask, device=mask.device if isinstance(mask, Tensor) else None)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return `(B, T', F)`, with the axes in the order of the input."""
        batch, steps, channels = self.split_shape(input_shape)
        length = None if steps is None else int(self.output_length(steps))
        features = self.output_features(channels)
        return (batch, features, length) if self.data_format == "channels_first" else (batch, length, features)

    def _record(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call on a symbolic tensor.

        The shape is computed: with a stride the lengths of two probes do not show that the length is open.
        """
        outputs = super()._record(args, kwargs)
        if isinstance(outputs, SymbolicTensor) and call_spec_of(type(self)).relation == "window":
            input_shape = next(self._inbound_nodes[-1].inputs()).shape
            outputs.shape = tuple(self.compute_output_shape(input_shape))
            if 0 in outputs.shape and 0 not in input_shape:
                raise ShapeError(
                    f"{type(self).__name__} {self.name!r} makes no steps from inputs of shape {input_shape}: they are too "
                    f"short. Use longer inputs, or a smaller window."
                )
        return outputs


# ------------------------------------------------------------------------------------------------ checks of arguments


def as_sizes(layer: Layer, name: str, value: object, count: int = 1, least: int = 1) -> tuple[int, ...]:
    """Return sizes along time in the form of a tuple.

    Args:
        layer: The layer, for the message of an error.
        name: The name of the argument, likewise.
        value: An integer, which stands for all sizes, or a list or tuple of integers.
        count: The number of sizes.
        least: The smallest size allowed.

    Raises:
        ArgumentError: The value is something else.
    """
    entries = value if isinstance(value, list | tuple) else [value] * count
    sizes = tuple(int(x) for x in entries if isinstance(x, int | np.integer) and not isinstance(x, bool))
    if len(sizes) != len(entries) or len(entries) != count or any(size < least for size in sizes):
        form = f"or {count} of them" if count > 1 else "alone or in a tuple"
        raise ArgumentError(
            f"{type(layer).__name__} expected `{name}` to be an integer of at least {least}, {form}; got {value!r}."
        )
    return sizes


def check_choice(layer: Layer, name: str, value: object, choices: tuple[str, ...]) -> Any:
    """Return a word in lower case; raise `ArgumentError` unless it is one of the choices."""
    word = value.lower() if isinstance(value, str) else value
    if word not in choices:
        raise ArgumentError(f"{type(layer).__name__}: {unknown_name(name, value, choices)}")
    return word


def check_data_format(layer: Layer, data_format: str | None) -> str:
    """Return the order of the axes: "channels_last", also for None, or "channels_first"."""
    return check_choice(layer, "data_format", data_format or "channels_last", ("channels_last", "channels_first"))
