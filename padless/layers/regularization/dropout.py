"""Dropout and noise layers. In training they change the values; at inference they return their input.

Random numbers are drawn for real steps only. So with the same seed the noise does not depend on the padding. Gap values
have no noise. The mask passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeAlias, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from padless.errors import ArgumentError, ShapeError
from padless.layers.base.layer import Layer
from padless.ragged.device import to_device
from padless.ragged.index import Index, Ints
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import DTypeLike, LayerOptions, Shape, StepTensor

Sampler: TypeAlias = Callable[..., Tensor]  # torch.rand or torch.randn
Draw: TypeAlias = Callable[[Sampler], Tensor]  # from a sampler to random numbers that broadcast to the values
NoiseShape: TypeAlias = Sequence[int | None]


class Noise(Layer):
    """Base class of the dropout and noise layers; a subclass sets `amount` and defines `apply_noise`.

    `noise_shape` is a shape on the padded grid. Along an axis of size 1 all numbers share one random number. None stands
    for the size of the input. Along the time axis a step is identified by its number in its sequence, not by its column.

    Args:
        seed: An integer, for a generator of this layer alone; None for torch's global generator.
    """

    relation = "stepwise"
    amount: float  # 0 means no noise
    noise_shape: tuple[int | None, ...] | None = None

    def __init__(self, seed: int | None = None, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def apply_noise(self, values: Tensor, draw: Draw) -> Tensor:
        """Return the values with noise; `draw(torch.rand)` returns random numbers for them."""
        raise NotImplementedError

    def call(self, inputs: StepTensor, training: bool = False) -> StepTensor:
        """Apply the noise in training; return the inputs at inference."""
        if self.noise_shape is not None and len(self.noise_shape) != inputs.ndim:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} draws noise of shape {self.noise_shape}, so it expected "
                f"inputs with {len(self.noise_shape)} axes; got the shape {tuple(inputs.shape)}."
            )
        if not training or not self.amount:
            return inputs
        if isinstance(inputs, Packed):
            packed = inputs
            values = self.apply_noise(packed.values, lambda sampler: self._draw_for_steps(sampler, packed))
            gap_values = None if packed.gap_values is None else packed.gap_values.to(values.dtype)
            return packed.with_values(values, gap_values)
        grid, shape = inputs, _resolve_shape(self.noise_shape, inputs.shape)
        return self.apply_noise(grid, lambda sampler: self._draw(sampler, shape, grid))

    def _draw_for_steps(self, sampler: Sampler, inputs: Packed) -> Tensor:
        """Draw random numbers for the real steps."""
        if self.noise_shape is None:
            return self._draw(sampler, tuple(inputs.values.shape), inputs.values)
        index = inputs.index
        step_sizes, feature_sizes = self.noise_shape[: inputs.num_step_axes], self.noise_shape[inputs.num_step_axes :]
        if any(size not in (None, 1, full) for size, full in zip(step_sizes, index.grid, strict=True)):
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} draws noise of shape {self.noise_shape}, which does not "
                f"broadcast to inputs of shape {tuple(inputs.shape)}: each size is 1, the input's or None."
            )
        features = _resolve_shape(feature_sizes, inputs.values.shape[1:])
        is_separate = [size != 1 for size in step_sizes]
        if all(is_separate):
            return self._draw(sampler, (index.num_steps, *features), inputs.values)
        numbers = draw_numbers(index, is_separate)
        random = self._draw(sampler, (int(numbers.max(initial=-1)) + 1, *features), inputs.values)
        return random.index_select(0, to_device(numbers, random.device))

    def _draw(self, sampler: Sampler, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Draw in float32 at least: half precision is too coarse to be compared with a rate."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        if self._generator is None:
            return sampler(shape, dtype=dtype, device=like.device)
        return to_device(sampler(shape, dtype=dtype, generator=self._generator), like.device)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return tuple(input_shape)


def _resolve_shape(noise_shape: NoiseShape | None, full: Sequence[int]) -> tuple[int, ...]:
    """Return the noise shape with the sizes of the input in place of None."""
    if noise_shape is None:
        return tuple(full)
    return tuple(full_size if size is None else size for size, full_size in zip(noise_shape, full, strict=True))


def draw_numbers(index: Index, is_separate: Sequence[bool]) -> Ints:
    """Return for each real step the number of its draw; steps with the same number share their random numbers.

    Args:
        index: The index of the steps.
        is_separate: For each step axis of the grid whether its positions have separate draws.

    Example:
        >>> draw_numbers(Index(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=bool)), [True, False]).tolist()
        [0, 0, 1, 1]
    """
    key = np.zeros(index.num_steps, dtype=np.int64)
    for coordinate, separate in zip(_step_coordinates(index), is_separate, strict=True):
        if separate:
            key = key * (coordinate.max(initial=0) + 1) + coordinate
    return np.unique(key, return_inverse=True)[1]


def _step_coordinates(index: Index) -> list[Ints]:
    """Return row and number in the sequence of each real step, with the coordinates of outer levels first."""
    number = np.arange(index.num_steps) - index.offsets[index.rows]
    if index.outer is None:
        return [index.rows, number]
    outer_step = index.outer.step_of_cell[index.rows]
    return [*(coordinate[outer_step] for coordinate in _step_coordinates(index.outer)), number]


def _check_fraction(layer: Layer, name: str, value: float, allow_one: bool = True) -> float:
    """Return a number between 0 and 1; raise `ArgumentError` for anything else."""
    if not isinstance(value, Real) or not 0 <= float(value) <= 1 or not allow_one and value == 1:
        raise ArgumentError(
            f"{type(layer).__name__} expected a {name} between 0 and 1{'' if allow_one else ', below 1'}; got {value!r}."
        )
    return value.item() if isinstance(value, np.generic) else value


def _check_noise_shape(layer: Layer, shape: Any) -> tuple[int | None, ...] | None:
    """Return a noise shape as a tuple; raise `ArgumentError` for anything but positive integers and None."""
    if shape is None:
        return None
    sizes = tuple(shape) if isinstance(shape, list | tuple) else (shape,)
    if any(size is not None and (not isinstance(size, int) or size < 1) for size in sizes):
        raise ArgumentError(
            f"{type(layer).__name__} expected `noise_shape` to be a tuple of positive integers and None; got {shape!r}."
        )
    return sizes


def _cast_noise(noise: Tensor, values: Tensor) -> Tensor:
    """Return noise in the dtype of floating values; integers become floats by the noise."""
    return noise.to(values.dtype) if values.dtype.is_floating_point else noise


@register("layer")
class Dropout(Noise):
    """Set numbers to 0 with probability `rate` in training, as Keras's `Dropout`.

    The other numbers are divided by `1 - rate`. Input and output have the same shape. The mask passes.

    Args:
        rate: The probability, from 0 to 1.
        noise_shape: The shape of the random numbers on the padded grid, with None for the size of the input.
            `(None, 1, None)` drops a feature at all steps of a sequence or at none.
        seed: An integer, for a generator of this layer alone; None for torch's global generator.

    Raises:
        ArgumentError: An argument is not valid.
        ShapeError: In the call, if the noise shape does not broadcast to the input.

    Example:
        >>> Dropout(0.5)(torch.ones(1, 3), training=False).tolist()
        [[1.0, 1.0, 1.0]]
    """

    def __init__(
        self, rate: float, noise_shape: NoiseShape | None = None, seed: int | None = None, **kwargs: Unpack[LayerOptions]
    ) -> None:
        super().__init__(seed, **kwargs)
        self.rate = self.amount = _check_fraction(self, "rate", rate)
        self.noise_shape = _check_noise_shape(self, noise_shape)

    def apply_noise(self, values: Tensor, draw: Draw) -> Tensor:
        """Drop numbers, and scale the others."""
        if self.noise_shape is None and self._generator is None:
            return functional.dropout(values, self.rate, training=True)
        is_kept = draw(torch.rand) >= self.rate
        return values * (is_kept.to(values.dtype) / max(1 - self.rate, 1e-9))


@register("layer")
class SpatialDropout1D(Dropout):
    """Drop features at all steps of a sequence or at none, as Keras's `SpatialDropout1D` (Tompson et al., 2014).

    The input is `(B, T, D)`. Input and output have the same shape. The mask passes.

    Args:
        rate: The probability that a feature of a sequence is dropped, from 0 to 1.
        seed: An integer, for a generator of this layer alone; None for torch's global generator.
        name: The name of the layer.
        dtype: The dtype of the layer.

    Raises:
        ArgumentError: The rate is not between 0 and 1.
        ShapeError: In the call, if the input does not have 3 axes.

    Example:
        >>> SpatialDropout1D(1.0)(torch.ones(1, 2, 1), training=True).tolist()
        [[[0.0], [0.0]]]
    """

    def __init__(
        self, rate: float, seed: int | None = None, name: str | None = None, dtype: DTypeLike | None = None, **kwargs: Any
    ) -> None:
        super().__init__(rate, (None, 1, None), seed, name=name, dtype=dtype, **kwargs)


@register("layer")
class GaussianNoise(Noise):
    """Add normal noise of mean 0 in training, as Keras's `GaussianNoise`.

    Input and output have the same shape. The mask passes.

    Args:
        stddev: The standard deviation, from 0 to 1.
        seed: An integer, for a generator of this layer alone; None for torch's global generator.

    Raises:
        ArgumentError: The standard deviation is not between 0 and 1.

    Example:
        >>> GaussianNoise(0.1)(torch.ones(1, 2)).tolist()
        [[1.0, 1.0]]
    """

    def __init__(self, stddev: float, seed: int | None = None, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(seed, **kwargs)
        self.stddev = self.amount = _check_fraction(self, "stddev", stddev)

    def apply_noise(self, values: Tensor, draw: Draw) -> Tensor:
        """Add the noise."""
        return values + _cast_noise(self.stddev * draw(torch.randn), values)


@register("layer")
class GaussianDropout(Noise):
    """Multiply by normal noise of mean 1 in training, as Keras's `GaussianDropout` (Srivastava et al., 2014).

    The variance of the noise is `rate / (1 - rate)`, that of `Dropout`. Input and output have the same shape. The mask
    passes.

    Args:
        rate: The rate of the `Dropout` with this variance, from 0 to below 1.
        seed: An integer, for a generator of this layer alone; None for torch's global generator.

    Raises:
        ArgumentError: The rate is not between 0 and 1, or it is 1.

    Example:
        >>> GaussianDropout(0.5)(torch.ones(1, 2)).tolist()
        [[1.0, 1.0]]
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(seed, **kwargs)
        self.rate = self.amount = _check_fraction(self, "rate", rate, allow_one=False)

    def apply_noise(self, values: Tensor, draw: Draw) -> Tensor:
        """Multiply by the noise."""
        stddev = math.sqrt(self.rate / (1 - self.rate))
        return values * _cast_noise(1 + stddev * draw(torch.randn), values)


_SELU_LIMIT = -1.7580993408473766  # the limit of SELU for numbers far below 0


@register("layer")
class AlphaDropout(Noise):
    """Set numbers to the lower limit of SELU with probability `rate` in training, as Keras's `AlphaDropout`.

    All numbers are then scaled and shifted, so that mean 0 and variance 1 are kept (Klambauer et al., 2017). Input and
    output have the same shape. The mask passes.

    Args:
        rate: The probability, from 0 to below 1.
        noise_shape: The shape of the random numbers on the padded grid, with None for the size of the input.
        seed: An integer, for a generator of this layer alone; None for torch's global generator.

    Raises:
        ArgumentError: An argument is not valid.
        ShapeError: In the call, if the noise shape does not broadcast to the input.

    Example:
        >>> AlphaDropout(0.5)(torch.ones(1, 2)).tolist()
        [[1.0, 1.0]]
    """

    def __init__(
        self, rate: float, noise_shape: NoiseShape | None = None, seed: int | None = None, **kwargs: Unpack[LayerOptions]
    ) -> None:
        super().__init__(seed, **kwargs)
        self.rate = self.amount = _check_fraction(self, "rate", rate, allow_one=False)
        self.noise_shape = _check_noise_shape(self, noise_shape)

    def apply_noise(self, values: Tensor, draw: Draw) -> Tensor:
        """Drop numbers to the limit, then restore mean and variance."""
        scale = ((1 - self.rate) * (1 + self.rate * _SELU_LIMIT**2)) ** -0.5
        dropped = torch.where(draw(torch.rand) >= self.rate, values, _SELU_LIMIT)
        return scale * (dropped - self.rate * _SELU_LIMIT)
