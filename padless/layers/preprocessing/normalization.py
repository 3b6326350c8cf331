"""Layers that bring numbers into a range before a model learns from them. The mask passes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, DataError, ShapeError
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import as_data
from padless.layers.normalization.layer_normalization import as_float, feature_axes, normalize_axes
from padless.ragged.device import to_device
from padless.ragged.packed import Packed
from padless.ragged.plan_limit import check_plan
from padless.registry import register
from padless.types import ArrayLike, LayerOptions, Shape, StepTensor


@register("layer")
class Rescaling(Layer):
    """Compute `inputs * scale + offset`, as Keras's `Rescaling`.

    Integers become floats. Input and output have the same shape. The mask passes.

    Args:
        scale: A number, or one for each position on the last axes.
        offset: The same.

    Example:
        >>> Rescaling(1 / 2, offset=-1.0)(torch.tensor([[0, 4]])).tolist()
        [[-1.0, 1.0]]
    """

    relation = "stepwise"

    def __init__(self, scale: ArrayLike, offset: ArrayLike = 0.0, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.offset = offset

    def call(self, inputs: StepTensor) -> StepTensor:
        """Rescale the inputs."""
        inputs = as_float(self, inputs)
        return inputs * _as_operand(self.scale, inputs) + _as_operand(self.offset, inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return tuple(input_shape)


def _as_operand(number: ArrayLike, inputs: StepTensor) -> float | Tensor:
    """Return a number as it is, and several as a tensor like the inputs."""
    if isinstance(number, int | float):
        return number
    device = None if isinstance(number, Tensor) else "cpu"
    return to_device(torch.as_tensor(number, dtype=inputs.dtype, device=device), inputs.device)


@register("layer")
class Normalization(Layer):
    """Compute `(inputs - mean) / stddev` with known statistics of the data, as Keras's `Normalization`.

    The statistics are arguments, or `adapt` computes them from data. Then they are the weights `mean`, `variance` and
    `count` (0, as in Keras), which training does not change. Input and output have the same shape. The mask passes.

    Args:
        axis: The axis, or several axes, for each position of which there are a mean and a variance. None for one mean
            and variance of all numbers.
        mean: The mean, given together with `variance`.
        variance: The variance.
        invert: Whether the layer computes the inverse, `mean + inputs * stddev`.

    Raises:
        ArgumentError: `mean` and `variance` are not given together with the same shape.
        MaskLost: An axis is the batch or the time of a masked input.
        ShapeError: The size of an axis is not known, or another one than before.

    Example:
        >>> layer = Normalization()
        >>> layer.adapt([[[0.0], [2.0]], [[4.0]]])
        >>> layer.mean.tolist(), layer(torch.tensor([[[2.0]]])).tolist()
        ([2.0], [[[0.0]]])
    """

    relation = "stepwise"
    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(
        self,
        axis: int | list[int] | tuple[int, ...] | None = -1,
        mean: ArrayLike | None = None,
        variance: ArrayLike | None = None,
        invert: bool = False,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        if axis is None:
            self.axis = ()
        else:
            self.axis = tuple(axis) if isinstance(axis, list | tuple) else (axis,)
        if (mean is None) != (variance is None) or _shape_of(mean) != _shape_of(variance):
            raise ArgumentError(
                f"Normalization takes `mean` and `variance` together, of one shape, or computes both in "
                f"`adapt`; got mean={mean!r} and variance={variance!r}."
            )
        if len(_shape_of(mean)) > len(self.axis):
            raise ArgumentError(
                f"Normalization over axis={axis!r} keeps {len(self.axis)} axes, so `mean` has at most this "
                f"number of axes; got the shape {_shape_of(mean)}."
            )
        self.input_mean = mean
        self.input_variance = variance
        self.invert = invert

    def build(self, input_shape: Shape) -> None:
        """Create the weights, or set mean and variance to those that were given."""
        shape = [input_shape[axis] for axis in normalize_axes(self, self.axis, len(input_shape))]
        sizes = tuple(size for size in shape if isinstance(size, int))
        if len(sizes) < len(shape):
            raise ShapeError(
                f"Normalization {self.name!r} keeps numbers for each position on axis={self.axis}, whose size "
                f"must be known; got an input of shape {tuple(input_shape)}."
            )
        if self.input_mean is not None and self.input_variance is not None:
            self.mean = self._broadcast(self.input_mean, sizes)
            self.variance = self._broadcast(self.input_variance, sizes)
            return
        self.add_weight(sizes, "zeros", trainable=False, name="mean")
        self.add_weight(sizes, "ones", trainable=False, name="variance")
        self.add_weight((), "zeros", dtype="int32", trainable=False, name="count")

    def _broadcast(self, number: ArrayLike, sizes: tuple[int, ...]) -> Tensor:
        """Return an argument as a tensor of these sizes."""
        check_plan(*sizes, grid_name="a mean or variance")
        try:
            return torch.as_tensor(np.broadcast_to(np.asarray(number), sizes).copy(), dtype=self.dtype)
        except ValueError:
            raise ShapeError(
                f"Normalization {self.name!r} was given a mean of shape {_shape_of(number)}, which does not fit "
                f"the {sizes} positions on axis={self.axis}."
            ) from None

    def adapt(self, data: object) -> None:
        """Compute mean and variance from data. Earlier statistics are forgotten.

        Args:
            data: An array, a `Packed`, a list of sequences, or an iterable of such batches. In masked data real steps
                count. In a batch `(x, y)` the inputs x count.

        Raises:
            ArgumentError: The data are something else, or the layer was given its statistics.
            DataError: The data do not have a real step.
            ShapeError: The batches do not fit each other or the layer.
        """
        if self.input_mean is not None:
            raise ArgumentError(
                f"Normalization {self.name!r} was given its mean and variance, so there is nothing to adapt. Leave them out."
            )
        shape: Shape | None = None  # of the first batch
        sizes = tuple(self.mean.shape) if self.built else None
        statistics = _Statistics(0, torch.zeros(()), torch.zeros(()))
        for batch in _batches(data):
            axes = feature_axes(self, self.axis, batch)
            batch_sizes = tuple(batch.shape[axis] for axis in axes)
            shape = shape or tuple(batch.shape)
            sizes = batch_sizes if sizes is None else sizes
            if batch_sizes != sizes:
                raise ShapeError(
                    f"Normalization {self.name!r} keeps numbers for {sizes} positions on axis={self.axis}; adapt "
                    f"got data of shape {tuple(batch.shape)}."
                )
            statistics = statistics.add_batch(batch, axes)
        if shape is None or not statistics.count:
            raise DataError(f"Normalization {self.name!r} cannot adapt to data without a single step: there is no mean.")
        self.build(shape)
        with torch.no_grad():
            self.mean.copy_(statistics.mean)
            self.variance.copy_(statistics.squared_deviations / statistics.count)

    def call(self, inputs: StepTensor) -> StepTensor:
        """Normalize the inputs, or with `invert` compute the inverse."""
        axes = feature_axes(self, self.axis, inputs)
        if tuple(inputs.shape[axis] for axis in axes) != tuple(self.mean.shape):
            raise ShapeError(
                f"Normalization {self.name!r} keeps numbers for {tuple(self.mean.shape)} positions on "
                f"axis={self.axis}; got inputs of shape {tuple(inputs.shape)}."
            )
        inputs = as_float(self, inputs)
        shape = [inputs.shape[axis] if axis in axes else 1 for axis in range(min(axes, default=0), 0)]
        mean = self.mean.to(inputs.device, inputs.dtype).reshape(shape)
        variance = self.variance.to(inputs.device, inputs.dtype).reshape(shape)
        stddev = variance.sqrt().clamp(min=1e-7)

        def normalize(x: Tensor) -> Tensor:
            return mean + x * stddev if self.invert else (x - mean) / stddev

        return inputs.map_values(normalize) if isinstance(inputs, Packed) else normalize(inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return tuple(input_shape)

    def _first_weight_dtype(self) -> torch.dtype | None:
        return self.mean.dtype if self.built and self.input_mean is None else None


def _shape_of(x: Any) -> tuple[int, ...]:
    """Return the shape of an array, a list or a tensor; that of a number and of None is ()."""
    return tuple(np.shape(x))


class _Statistics(NamedTuple):
    """The number of values for each position, their mean, and the sum of their squared deviations from it."""

    count: int
    mean: Tensor
    squared_deviations: Tensor

    def add_batch(self, batch: StepTensor, axes: list[int]) -> _Statistics:
        """Return the statistics together with one more batch (Chan, Golub and LeVeque, 1979); `axes` are negative."""
        x = (batch.values if isinstance(batch, Packed) else batch).to(torch.float64)
        other_axes = [axis for axis in range(-x.ndim, 0) if axis not in axes]
        batch_count = math.prod(x.shape[axis] for axis in other_axes)
        if not batch_count:
            return self
        if other_axes:
            batch_mean = x.sum(other_axes, keepdim=True) / batch_count
            batch_deviations = (x - batch_mean).square().sum(other_axes)
            batch_mean = batch_mean.squeeze(other_axes)
        else:
            batch_mean, batch_deviations = x, torch.zeros_like(x)
        count, difference = self.count + batch_count, batch_mean - self.mean
        return _Statistics(
            count,
            self.mean + difference * (batch_count / count),
            self.squared_deviations + batch_deviations + difference.square() * (self.count * batch_count / count),
        )


def _batches(data: Any) -> Iterator[StepTensor]:
    """Yield batches; a list of sequences is one batch, as an array is."""
    if isinstance(data, list):
        data = as_data(data, lambda: torch.float64)
    if isinstance(data, Tensor | Packed) or hasattr(data, "__array__"):
        yield _as_batch(data)
    elif not isinstance(data, Iterable) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        yield from (_as_batch(data[number]) for number in range(len(data)))
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        yield from map(_as_batch, data)
    else:
        raise ArgumentError(
            f"adapt takes an array, a Packed, a list of sequences or an iterable of such batches; got {type(data).__name__}."
        )


def _as_batch(batch: object) -> StepTensor:
    """Return the inputs of a batch, a tensor or a `Packed`."""
    x = as_data(batch[0] if isinstance(batch, tuple) else batch, lambda: torch.float64)
    if isinstance(x, list) and x and isinstance(x[0], Tensor | Packed):
        x = x[0]  # the list [inputs, targets] of a DataLoader
    if not isinstance(x, Tensor | Packed) and hasattr(x, "__array__"):
        x = as_data(np.asarray(x), lambda: torch.float64)
    if not isinstance(x, Tensor | Packed) or not x.ndim:
        raise ArgumentError(
            f"adapt takes batches that are arrays, Packed or lists of sequences; got {type(batch).__name__}, {batch!r:.80}."
        )
    return x
