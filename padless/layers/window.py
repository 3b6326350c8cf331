"""Layers in which a step sees its neighbours in true time: what they share, pooling, cropping, padding, repeating.

A row's clock runs over its *span*, from its first to its last real step: padding on either side cannot shift a stride.
On the span the arithmetic is Keras's, and a hole inside is neutral. On a plain tensor the span is the whole length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from padless.errors import ArgumentError, ShapeError, one_of
from padless.graph.spec import is_symbolic
from padless.kernels import spans, window
from padless.kernels.window import Plan, Window
from padless.layers.layer import Layer
from padless.layers.rule import rule_of
from padless.ragged.index import Index
from padless.ragged.mask import as_mask
from padless.ragged.moves import place, take
from padless.ragged.packed import Packed
from padless.ragged.transfer import send
from padless.registry import register


class Windowed(Layer):
    """The base: `(B, T, C)` to `(B, T', F)`, by a function on packed steps and its plain twin on a grid.

    The output is on a grid as wide as Keras makes it for a plain input of the same width, and shows 0 in gaps. A span,
    or a plain input, that is too short for a window gives no step.
    """

    relation = "window"
    data_format = "channels_last"
    window: Any  # a Window or a Stretch, for those that look through one

    def plain(self, grid: Tensor) -> Tensor:
        """The layer on a grid `(B, T, C)` on which every step is real."""
        raise NotImplementedError

    def on_line(self, values: Tensor, plan: Plan) -> Tensor:
        """The layer on real steps `(N, C)`, as the plan lays them out."""
        raise NotImplementedError

    def packed(self, inputs: Packed) -> Packed:
        """The layer on each span."""
        plan = spans.plan(inputs.index, self.window)
        return Packed(self.on_line(inputs.values, plan), spans.of_plan(plan, inputs.index))

    def mapped(self, index: Index) -> Index:
        """Which steps of the output are real."""
        return spans.of_plan(spans.plan(index, self.window), index)

    def length(self, steps: int) -> int:
        """How many steps come of so many."""
        return self.window.count(steps)

    def features(self, channels: Any) -> Any:
        """How many features come of so many."""
        return channels

    def finished(self, outputs: Any) -> Any:
        """What is done to the outputs at the end."""
        return outputs

    def call(self, inputs: Any) -> Any:
        """The layer over each span, or over the full length of a plain input."""
        kind = f"{type(self).__name__} {self.name!r}"
        if isinstance(inputs, Packed) and inputs.lead > 2:
            raise ShapeError(
                f"{kind} expected (batch, steps, features); got {inputs!r}. For sequences of sequences wrap "
                f"it in TimeDistributed."
            )
        self.axes(tuple(inputs.shape))
        if not isinstance(inputs, Packed):
            turned = self.data_format == "channels_first"
            outputs = self.plain(inputs.transpose(1, 2) if turned else inputs)
            return self.finished(outputs.transpose(1, 2) if turned else outputs)
        if self.data_format == "channels_first":
            raise ArgumentError(
                f"{kind} got a masked input, which has its steps on axis 1, so data_format="
                f"'channels_first' does not apply to it. Leave data_format out."
            )
        return self.finished(self.packed(inputs))

    def axes(self, shape: Any) -> tuple[Any, Any, Any]:
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
        found = self.mapped(Index.from_mask(as_mask(mask))).mask
        return torch.tensor(found, device=mask.device if isinstance(mask, Tensor) else None)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """`(B, T', F)`, with its axes in the order of the input's."""
        batch, steps, features = self.axes(input_shape)
        steps, features = None if steps is None else int(self.length(steps)), self.features(features)
        return (batch, features, steps) if self.data_format == "channels_first" else (batch, steps, features)

    def _record(self, args: Any, kwargs: dict[str, Any]) -> Any:
        """A call on a symbol: a stride may hide from probes that the length is open."""
        outputs = super()._record(args, kwargs)
        if is_symbolic(outputs) and rule_of(type(self), Layer).relation == "window":
            given = next(self._inbound[-1].inputs()).shape
            outputs.shape = self.compute_output_shape(given)
            if 0 in outputs.shape and 0 not in given:
                raise ShapeError(
                    f"{type(self).__name__} {self.name!r} makes no step out of inputs of shape {given}: they "
                    f"are too short for it. Make them longer, or what it takes smaller."
                )
        return outputs


# ------------------------------------------------------------------------------------------------ arguments


def sizes(layer: Layer, name: str, given: Any, count: int = 1, least: int = 1) -> tuple[int, ...]:
    """Sizes along time as Keras takes them: one integer for all, or a list or tuple of `count`."""
    found = tuple(given) if isinstance(given, list | tuple) else (given,) * count
    found = tuple(int(s) if isinstance(s, np.integer) else s for s in found)
    if len(found) != count or any(not isinstance(s, int) or isinstance(s, bool) or s < least for s in found):
        several = f"or {count} of them" if count > 1 else "alone or in a tuple"
        raise ArgumentError(
            f"{type(layer).__name__} expected `{name}` to be an integer of at least {least}, {several}; got {given!r}."
        )
    return found


def choice(layer: Layer, name: str, given: Any, known: tuple[str, ...]) -> Any:
    """One of a few words, in any case."""
    word = given.lower() if isinstance(given, str) else given
    if word not in known:
        raise ArgumentError(f"{type(layer).__name__}: {one_of(name, given, known)}")
    return word


def order_of_axes(layer: Layer, data_format: Any) -> str:
    """Which axis the features are; the last unless said otherwise."""
    return choice(layer, "data_format", data_format or "channels_last", ("channels_last", "channels_first"))


# ------------------------------------------------------------------------------------------------ pooling


class Pooling(Windowed):
    """The base of the pooling layers."""

    relation = "window"

    def __init__(self, pool_size: Any, strides: Any, padding: Any, data_format: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_size = sizes(self, "pool_size", pool_size)
        self.strides = self.pool_size if strides is None else sizes(self, "strides", strides)
        self.padding = choice(self, "padding", padding, ("valid", "same"))
        self.data_format = order_of_axes(self, data_format)
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

    def plain(self, grid: Tensor) -> Tensor:
        """The maxima of a grid."""
        return window.maximum(grid, self.window)

    def on_line(self, values: Tensor, plan: Plan) -> Tensor:
        """The maxima of real steps."""
        return window.maximum_packed(values, plan, self.window)


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

    def plain(self, grid: Tensor) -> Tensor:
        """The means of a grid."""
        return window.average(grid, self.window)

    def on_line(self, values: Tensor, plan: Plan) -> Tensor:
        """The means of real steps."""
        return window.average_packed(values, plan, self.window)


# ------------------------------------------------------------------------------------------------ moves


@register("layer")
class Cropping1D(Windowed):
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
        self.cropping = sizes(self, "cropping", cropping, 2, 0)

    def plain(self, grid: Tensor) -> Tensor:
        """The middle of a grid."""
        length = self.length(grid.shape[1])
        return grid.narrow(1, self.cropping[0] if length else 0, length)

    def packed(self, inputs: Packed) -> Packed:
        """The middle of each span."""
        kept, index = spans.cropped(inputs.index, *self.cropping)
        return Packed(take(inputs.values, send(kept, inputs.device)), index)

    def mapped(self, index: Index) -> Index:
        """The steps that are left."""
        return spans.cropped(index, *self.cropping)[1]

    def length(self, steps: int) -> int:
        """Fewer by both."""
        return max(steps - sum(self.cropping), 0)


@register("layer")
class ZeroPadding1D(Windowed):
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
        self.padding = sizes(self, "padding", padding, 2, 0)
        self.data_format = order_of_axes(self, data_format)

    def plain(self, grid: Tensor) -> Tensor:
        """A grid with zeros on both sides."""
        return functional.pad(grid, (0, 0, *self.padding))

    def packed(self, inputs: Packed) -> Packed:
        """Each span with zeros on both sides."""
        places, index = spans.widened(inputs.index, *self.padding)
        return Packed(place(inputs.values, send(places, inputs.device), index.steps), index)

    def mapped(self, index: Index) -> Index:
        """The steps and the zeros."""
        return spans.widened(index, *self.padding)[1]

    def length(self, steps: int) -> int:
        """More by both."""
        return steps + sum(self.padding)


@register("layer")
class UpSampling1D(Windowed):
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
        (self.size,) = sizes(self, "size", size)

    def plain(self, grid: Tensor) -> Tensor:
        """The steps of a grid, repeated."""
        return grid.unsqueeze(2).expand(-1, -1, self.size, -1).flatten(1, 2)

    def packed(self, inputs: Packed) -> Packed:
        """The real steps, repeated."""
        return Packed(self.plain(inputs.values[None])[0], self.mapped(inputs.index))

    def mapped(self, index: Index) -> Index:
        """The mask, repeated."""
        return spans.repeated(index, self.size)

    def length(self, steps: int) -> int:
        """So many times more."""
        return steps * self.size


# Keras's other names
MaxPool1D = MaxPooling1D
AvgPool1D = AveragePooling1D
