"""Layers in which a step sees its neighbours in true time: what they share, pooling, cropping, padding, repeating.

A row's clock runs over its *span*, from its first to its last real step: padding on either side cannot shift a stride.
On the span the arithmetic is Keras's, and a hole inside is neutral. On a plain tensor the span is the whole length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.graph.symbolic import is_symbolic
from padless.kernels.conv.plan import window_layout
from padless.kernels.conv.windows import WindowLayout
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import call_spec_of
from padless.ragged.index import Index
from padless.ragged.mask import as_mask
from padless.ragged.packed import Packed


class TemporalLayer(Layer):
    """The base: `(B, T, C)` to `(B, T', F)`, by a function on packed steps and its plain twin on a grid.

    The output is on a grid as wide as Keras makes it for a plain input of the same width, and shows 0 in gaps. A span,
    or a plain input, that is too short for a window gives no step.
    """

    relation = "window"
    data_format = "channels_last"
    window: Any  # a Window or a Stretch, for those that look through one

    def call_grid(self, grid: Tensor) -> Tensor:
        """The layer on a grid `(B, T, C)` on which every step is real."""
        raise NotImplementedError

    def call_packed_steps(self, values: Tensor, plan: WindowLayout) -> Tensor:
        """The layer on real steps `(N, C)`, as the plan lays them out."""
        raise NotImplementedError

    def call_packed(self, inputs: Packed) -> Packed:
        """The layer on each span."""
        plan = window_layout(inputs.index, self.window)
        return Packed(self.call_packed_steps(inputs.values, plan), plan.index_of_outputs(inputs.index))

    def output_index(self, index: Index) -> Index:
        """Which steps of the output are real."""
        return window_layout(index, self.window).index_of_outputs(index)

    def output_length(self, steps: int) -> int:
        """How many steps come of so many."""
        return self.window.num_outputs(steps)

    def output_features(self, channels: Any) -> Any:
        """How many features come of so many."""
        return channels

    def postprocess(self, outputs: Any) -> Any:
        """What is done to the outputs at the end."""
        return outputs

    def call(self, inputs: Any) -> Any:
        """The layer over each span, or over the full length of a plain input."""
        kind = f"{type(self).__name__} {self.name!r}"
        if isinstance(inputs, Packed) and inputs.num_step_axes > 2:
            raise ShapeError(
                f"{kind} expected (batch, steps, features); got {inputs!r}. For sequences of sequences wrap "
                f"it in TimeDistributed."
            )
        self.split_shape(tuple(inputs.shape))
        if not isinstance(inputs, Packed):
            turned = self.data_format == "channels_first"
            outputs = self.call_grid(inputs.transpose(1, 2) if turned else inputs)
            return self.postprocess(outputs.transpose(1, 2) if turned else outputs)
        if self.data_format == "channels_first":
            raise ArgumentError(
                f"{kind} got a masked input, which has its steps on axis 1, so data_format="
                f"'channels_first' does not apply to it. Leave data_format out."
            )
        return self.postprocess(self.call_packed(inputs))

    def split_shape(self, shape: Any) -> tuple[Any, Any, Any]:
        """Batch, steps and features of an input shape."""
        first = self.data_format == "channels_first"
        if not isinstance(shape, list | tuple) or len(shape) != 3:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected an input of shape (batch, "
                f"{'features, steps' if first else 'steps, features'}); got {shape}."
            )
        batch, steps, features = shape
        return (batch, features, steps) if first else (batch, steps, features)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The real steps of the output, a boolean grid."""
        if mask is None:
            return None
        found = self.output_index(Index.from_mask(as_mask(mask))).mask
        return torch.tensor(found, device=mask.device if isinstance(mask, Tensor) else None)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """`(B, T', F)`, with its axes in the order of the input's."""
        batch, steps, features = self.split_shape(input_shape)
        steps, features = None if steps is None else int(self.output_length(steps)), self.output_features(features)
        return (batch, features, steps) if self.data_format == "channels_first" else (batch, steps, features)

    def _record(self, args: Any, kwargs: dict[str, Any]) -> Any:
        """A call on a symbol: a stride may hide from probes that the length is open."""
        outputs = super()._record(args, kwargs)
        if is_symbolic(outputs) and call_spec_of(type(self), Layer).relation == "window":
            given = next(self._inbound_nodes[-1].inputs()).shape
            outputs.shape = self.compute_output_shape(given)
            if 0 in outputs.shape and 0 not in given:
                raise ShapeError(
                    f"{type(self).__name__} {self.name!r} makes no step out of inputs of shape {given}: they "
                    f"are too short for it. Make them longer, or what it takes smaller."
                )
        return outputs


# ------------------------------------------------------------------------------------------------ arguments


def as_sizes(layer: Layer, name: str, given: Any, count: int = 1, least: int = 1) -> tuple[int, ...]:
    """Sizes along time as Keras takes them: one integer for all, or a list or tuple of `count`."""
    found = tuple(given) if isinstance(given, list | tuple) else (given,) * count
    found = tuple(int(s) if isinstance(s, np.integer) else s for s in found)
    if len(found) != count or any(not isinstance(s, int) or isinstance(s, bool) or s < least for s in found):
        several = f"or {count} of them" if count > 1 else "alone or in a tuple"
        raise ArgumentError(
            f"{type(layer).__name__} expected `{name}` to be an integer of at least {least}, {several}; got {given!r}."
        )
    return found


def check_choice(layer: Layer, name: str, given: Any, known: tuple[str, ...]) -> Any:
    """One of a few words, in any case."""
    word = given.lower() if isinstance(given, str) else given
    if word not in known:
        raise ArgumentError(f"{type(layer).__name__}: {unknown_name(name, given, known)}")
    return word


def check_data_format(layer: Layer, data_format: Any) -> str:
    """Which axis the features are; the last unless said otherwise."""
    return check_choice(layer, "data_format", data_format or "channels_last", ("channels_last", "channels_first"))


# ------------------------------------------------------------------------------------------------ pooling


# ------------------------------------------------------------------------------------------------ moves
