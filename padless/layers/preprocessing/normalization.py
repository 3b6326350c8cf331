"""Layers that bring numbers to a range before a model learns from them: the mask passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, DataError, ShapeError
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import as_data
from padless.layers.normalization.layer_normalization import as_float, feature_axes, normalize_axes
from padless.ragged.device import to_device
from padless.ragged.packed import Packed
from padless.registry import register


@register("layer")
class Rescaling(Layer):
    """`inputs * scale + offset`; integers become floats.

    Keras's `Rescaling`. Both are numbers, or one for each place on the last axes.

    >>> Rescaling(1 / 2, offset=-1.0)(torch.tensor([[0, 4]])).tolist()
    [[-1.0, 1.0]]
    """

    relation = "stepwise"

    def __init__(self, scale: Any, offset: Any = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.offset = offset

    def call(self, inputs: Any) -> Any:
        """The inputs in their new range."""
        inputs = as_float(self, inputs)
        return inputs * _factor(self.scale, inputs) + _factor(self.offset, inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)


@register("layer")
class Normalization(Layer):
    """`(inputs - mean) / deviation`, by numbers that are given or that `adapt` finds in data.

    Keras's `Normalization`. Each place on `axis` has numbers of its own, with None all have the same. `invert` does the
    opposite. Weights, unless `mean` and `variance` are given: `mean`, `variance`, `count` (0, as in Keras), none trainable.
    Raises `MaskLost` if `axis` is batch or time of a masked input.

    >>> layer = Normalization()
    >>> layer.adapt([[[0.0], [2.0]], [[4.0]]])
    >>> layer.mean.tolist(), layer(torch.tensor([[[2.0]]])).tolist()
    ([2.0], [[[0.0]]])
    """

    relation = "stepwise"
    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, axis: Any = -1, mean: Any = None, variance: Any = None, invert: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = () if axis is None else tuple(axis) if isinstance(axis, list | tuple) else (axis,)
        if (mean is None) != (variance is None) or np.shape(mean) != np.shape(variance):
            raise ArgumentError(
                f"Normalization takes `mean` and `variance` together, of one shape, or finds both in "
                f"`adapt`; got mean={mean!r} and variance={variance!r}."
            )
        if np.ndim(mean) > len(self.axis):
            raise ArgumentError(
                f"Normalization over axis={axis!r} keeps {len(self.axis)} axes, so `mean` has at most as "
                f"many; got the shape {np.shape(mean)}."
            )
        self.input_mean = mean
        self.input_variance = variance
        self.invert = invert

    def build(self, input_shape: Any) -> None:
        """The weights, or the numbers that were given."""
        shape = tuple(input_shape[axis] for axis in normalize_axes(self, self.axis, len(input_shape)))
        if any(not isinstance(size, int) for size in shape):
            raise ShapeError(
                f"Normalization {self.name!r} keeps numbers for each place on axis={self.axis}, whose size "
                f"must be known; got an input of shape {tuple(input_shape)}."
            )
        if self.input_mean is not None:
            self.mean, self.variance = (self._given(number, shape) for number in (self.input_mean, self.input_variance))
            return
        self.add_weight(shape, "zeros", trainable=False, name="mean")
        self.add_weight(shape, "ones", trainable=False, name="variance")
        self.add_weight((), "zeros", dtype="int32", trainable=False, name="count")

    def _given(self, number: Any, shape: tuple[int, ...]) -> Tensor:
        try:
            return torch.as_tensor(np.broadcast_to(np.asarray(number), shape).copy(), dtype=self.dtype)
        except ValueError:
            raise ShapeError(
                f"Normalization {self.name!r} was given a mean of shape {np.shape(number)}, which does not fit "
                f"the {shape} places on axis={self.axis}."
            ) from None

    def adapt(self, data: Any) -> None:
        """Find mean and variance in data: an array, a Packed, a list of sequences, or an iterable of such batches.

        Of masked data real steps count, of a batch `(x, y)` the inputs. Earlier numbers are forgotten. Raises
        `DataError` for data without a step.
        """
        if self.input_mean is not None:
            raise ArgumentError(
                f"Normalization {self.name!r} was given its mean and variance, so there is nothing to adapt. Leave them out."
            )
        shape, sizes = None, tuple(self.mean.shape) if self.built else None
        found = _Found(0, torch.zeros(()), torch.zeros(()))
        for batch in _batches(data):
            axes = feature_axes(self, self.axis, batch)
            kept = tuple(batch.shape[axis] for axis in axes)
            shape, sizes = shape or tuple(batch.shape), kept if sizes is None else sizes
            if kept != sizes:
                raise ShapeError(
                    f"Normalization {self.name!r} keeps numbers for {sizes} places on axis={self.axis}; adapt "
                    f"got data of shape {tuple(batch.shape)}."
                )
            found = found.and_of(batch, axes)
        if not found.count:
            raise DataError(f"Normalization {self.name!r} cannot adapt to data without a single step: there is no mean.")
        self.build(shape)
        with torch.no_grad():
            self.mean.copy_(found.mean)
            self.variance.copy_(found.squares / found.count)

    def call(self, inputs: Any) -> Any:
        """The inputs, normalized (or with `invert` as they were before)."""
        axes = feature_axes(self, self.axis, inputs)
        if tuple(inputs.shape[axis] for axis in axes) != tuple(self.mean.shape):
            raise ShapeError(
                f"Normalization {self.name!r} keeps numbers for {tuple(self.mean.shape)} places on "
                f"axis={self.axis}; got inputs of shape {tuple(inputs.shape)}."
            )
        inputs = as_float(self, inputs)
        around = [inputs.shape[axis] if axis in axes else 1 for axis in range(min(axes, default=0), 0)]
        mean, variance = (number.to(inputs.device, inputs.dtype).reshape(around) for number in (self.mean, self.variance))
        deviation = variance.sqrt().clamp(min=1e-7)

        def of(x: Tensor) -> Tensor:
            return mean + x * deviation if self.invert else (x - mean) / deviation

        return inputs.map_values(of) if isinstance(inputs, Packed) else of(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)

    def _first_weight_dtype(self) -> torch.dtype | None:
        return self.mean.dtype if self.built and self.input_mean is None else None


class _Found(NamedTuple):
    """How many numbers were seen for each place, their mean, and the squares of what they are apart from it."""

    count: int
    mean: Tensor
    squares: Tensor

    def and_of(self, batch: Any, axes: list[int]) -> _Found:
        """With the numbers of one more batch (Chan, Golub and LeVeque 1979)."""
        x = (batch.values if isinstance(batch, Packed) else batch).to(torch.float64)
        others = [axis for axis in range(-x.ndim, 0) if axis not in axes]
        more = math.prod(x.shape[axis] for axis in others)
        if not more:
            return self
        mean = x.sum(others, keepdim=True) / more if others else x
        squares = (x - mean).square()
        squares, mean = (squares.sum(others), mean.squeeze(others)) if others else (squares, mean)
        count, apart = self.count + more, mean - self.mean
        return _Found(
            count, self.mean + apart * (more / count), self.squares + squares + apart.square() * (self.count * more / count)
        )


def _batches(data: Any) -> Iterator[Any]:
    """Data as tensors and Packed: a list of sequences is one of them, as is an array."""
    data = as_data(data, lambda: torch.float64) if isinstance(data, list) else data
    if isinstance(data, Tensor | Packed) or hasattr(data, "__array__"):
        yield _batch(data)
    elif not isinstance(data, Iterable) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        yield from (_batch(data[number]) for number in range(len(data)))
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        yield from map(_batch, data)
    else:
        raise ArgumentError(
            f"adapt takes an array, a Packed, a list of sequences or an iterable of such batches; got {type(data).__name__}."
        )


def _batch(given: Any) -> Any:
    """One batch; of inputs and targets the inputs."""
    x = given[0] if isinstance(given, tuple) else given
    x = as_data(x, lambda: torch.float64)
    x = x[0] if isinstance(x, list) and x and isinstance(x[0], Tensor | Packed) else x  # as a DataLoader gives it
    if not isinstance(x, Tensor | Packed) and hasattr(x, "__array__"):
        x = as_data(np.asarray(x), lambda: torch.float64)
    if not isinstance(x, Tensor | Packed) or not x.ndim:
        raise ArgumentError(
            f"adapt takes batches that are arrays, Packed or lists of sequences; got {type(given).__name__}, {given!r:.80}."
        )
    return x


def _factor(number: Any, like: Any) -> Any:
    """A number as it is, several as a tensor."""
    if isinstance(number, int | float):
        return number
    return to_device(
        torch.as_tensor(number, dtype=like.dtype, device=None if isinstance(number, Tensor) else "cpu"), like.device
    )
