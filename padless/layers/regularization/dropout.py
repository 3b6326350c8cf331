"""Layers that disturb in training. No noise is drawn for masked steps, and gaps show what they showed.

For one seed the noise does not depend on how much padding there is: it belongs to the real steps, in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

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

Draw = Callable[[Callable[..., Tensor]], Tensor]  # of torch.rand or torch.randn, numbers that meet the values


class Noise(Layer):
    """The base: `disturbed` in training, where `amount` is not 0; else the inputs.

    `noise_shape` is on the grid: along an axis of size 1 all share one draw, None stands for the full size. Steps that
    have draws of their own are told apart by their number in the sequence, not by their column. With a `seed` the layer
    draws from a generator of its own.
    """

    relation = "stepwise"
    amount: float
    noise_shape: tuple[int | None, ...] | None = None

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def disturbed(self, values: Tensor, draw: Draw) -> Tensor:
        """The values with noise."""
        raise NotImplementedError

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The inputs, disturbed in training."""
        if self.noise_shape is not None and len(self.noise_shape) != inputs.ndim:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} draws noise of shape {self.noise_shape}, so it expected "
                f"inputs with {len(self.noise_shape)} axes; got the shape {tuple(inputs.shape)}."
            )
        if not training or not self.amount:
            return inputs
        if not isinstance(inputs, Packed):
            shape = _filled(self.noise_shape, inputs.shape)
            return self.disturbed(inputs, lambda sampler: self._drawn(sampler, shape, inputs))
        values = self.disturbed(inputs.values, lambda sampler: self._drawn_for_steps(sampler, inputs))
        return inputs.with_values(values, None if inputs.gap_values is None else inputs.gap_values.to(values.dtype))

    def _drawn_for_steps(self, sampler: Callable[..., Tensor], inputs: Packed) -> Tensor:
        """Numbers for the real steps alone."""
        if self.noise_shape is None:
            return self._drawn(sampler, tuple(inputs.values.shape), inputs.values)
        lead, index = self.noise_shape[: inputs.num_step_axes], inputs.index
        if any(size not in (None, 1, full) for size, full in zip(lead, index.grid, strict=True)):
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} draws noise of shape {self.noise_shape}, which does not "
                f"broadcast to inputs of shape {tuple(inputs.shape)}: each size is 1, the input's or None."
            )
        features = _filled(self.noise_shape[inputs.num_step_axes :], inputs.values.shape[1:])
        own = [size != 1 for size in lead]
        if all(own):
            return self._drawn(sampler, (index.num_steps, *features), inputs.values)
        sharing = draw_numbers(index, own)
        drawn = self._drawn(sampler, (int(sharing.max(initial=-1)) + 1, *features), inputs.values)
        return drawn.index_select(0, to_device(sharing, drawn.device))

    def _drawn(self, sampler: Callable[..., Tensor], shape: tuple[int, ...], like: Tensor) -> Tensor:
        dtype = torch.promote_types(like.dtype, torch.float32)  # halves are too coarse to compare with a rate
        if self._generator is None:
            return sampler(shape, dtype=dtype, device=like.device)
        return to_device(sampler(shape, dtype=dtype, generator=self._generator), like.device)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)


def _filled(shape: Sequence[int | None] | None, full: Sequence[int]) -> tuple[int, ...]:
    sizes = full if shape is None else shape
    return tuple(own if size is None else size for size, own in zip(sizes, full, strict=True))


def draw_numbers(index: Index, own: Sequence[bool]) -> Ints:
    """For each real step the number of its draw, which it shares along the axes of the grid that are not its `own`.

    >>> sharers(Index(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]], dtype=bool)), [True, False]).tolist()
    [0, 0, 1, 1]
    """
    key = np.zeros(index.num_steps, dtype=np.int64)
    for number, mine in zip(_places(index), own, strict=True):
        key = key * (number.max(initial=0) + 1) + number if mine else key
    return np.unique(key, return_inverse=True)[1]


def _places(index: Index) -> list[Ints]:
    """For each real step its row and its number in it; under outer levels first those of its row."""
    number = np.arange(index.num_steps) - index.offsets[index.rows]
    if index.outer is None:
        return [index.rows, number]
    row = index.outer.step_of_cell[index.rows]
    return [*(place[row] for place in _places(index.outer)), number]


def _between(layer: Layer, name: str, value: Any, below: bool = False) -> Any:
    if not isinstance(value, Real) or not 0 <= float(value) <= 1 or below and value == 1:
        raise ArgumentError(
            f"{type(layer).__name__} expected a {name} between 0 and 1{', below 1' if below else ''}; got {value!r}."
        )
    return value.item() if isinstance(value, np.generic) else value


@register("layer")
class Dropout(Noise):
    """In training, each number is 0 with probability `rate`, else divided by `1 - rate`.

    Keras's `Dropout`. `noise_shape` is on the grid: `(None, 1, None)` drops features for all steps of a sequence alike. No
    noise is drawn for masked steps. With a `seed` the layer draws from a generator of its own.

    >>> Dropout(0.5)(torch.ones(1, 3), training=False).tolist()
    [[1.0, 1.0, 1.0]]
    """

    def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        self.rate = self.amount = _between(self, "rate", rate)
        self.noise_shape = _noise_shape(self, noise_shape)

    def disturbed(self, values: Tensor, draw: Draw) -> Tensor:
        """The values, thinned out."""
        if self.noise_shape is None and self._generator is None:
            return functional.dropout(values, self.rate, training=True)
        kept = draw(torch.rand) >= self.rate
        return values * (kept.to(values.dtype) / max(1 - self.rate, 1e-9))


@register("layer")
class SpatialDropout1D(Dropout):
    """Dropout of whole features: in training, a feature is dropped for all steps of a sequence or for none.

    Keras's `SpatialDropout1D` (Tompson et al., 2014), over `(B, T, D)`.

    >>> SpatialDropout1D(1.0)(torch.ones(1, 2, 1), training=True).tolist()
    [[[0.0], [0.0]]]
    """

    def __init__(
        self, rate: float, seed: int | None = None, name: str | None = None, dtype: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(rate, (None, 1, None), seed, name=name, dtype=dtype, **kwargs)


@register("layer")
class GaussianNoise(Noise):
    """In training, normal noise of mean 0 and standard deviation `stddev` is added.

    Keras's `GaussianNoise`.

    >>> GaussianNoise(0.1)(torch.ones(1, 2)).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, stddev: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        self.stddev = self.amount = _between(self, "stddev", stddev)

    def disturbed(self, values: Tensor, draw: Draw) -> Tensor:
        """The values and what was drawn."""
        return values + _like(values, self.stddev * draw(torch.randn))


@register("layer")
class GaussianDropout(Noise):
    """In training, multiplies by normal noise of mean 1 and variance `rate / (1 - rate)`, which is that of `Dropout`.

    Keras's `GaussianDropout` (Srivastava et al., 2014).

    >>> GaussianDropout(0.5)(torch.ones(1, 2)).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        self.rate = self.amount = _between(self, "rate", rate, below=True)

    def disturbed(self, values: Tensor, draw: Draw) -> Tensor:
        """The values times what was drawn."""
        return values * _like(values, 1 + math.sqrt(self.rate / (1 - self.rate)) * draw(torch.randn))


_FLOOR = -1.7580993408473766  # what SELU tends to far below 0


@register("layer")
class AlphaDropout(Noise):
    """In training, sets numbers to the floor of SELU with probability `rate`, and keeps mean 0 and variance 1.

    Keras's `AlphaDropout` (Klambauer et al., 2017); `noise_shape` as for `Dropout`.

    >>> AlphaDropout(0.5)(torch.ones(1, 2)).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed, **kwargs)
        self.rate = self.amount = _between(self, "rate", rate, below=True)
        self.noise_shape = _noise_shape(self, noise_shape)

    def disturbed(self, values: Tensor, draw: Draw) -> Tensor:
        """The values, some of them at the floor, brought back to their mean and variance."""
        scale = ((1 - self.rate) * (1 + self.rate * _FLOOR**2)) ** -0.5
        return scale * (torch.where(draw(torch.rand) >= self.rate, values, _FLOOR) - self.rate * _FLOOR)


def _like(values: Tensor, noise: Tensor) -> Tensor:
    """Noise in the dtype of floating values; whole numbers become floats by it."""
    return noise.to(values.dtype) if values.dtype.is_floating_point else noise


def _noise_shape(layer: Layer, shape: Any) -> tuple[int | None, ...] | None:
    if shape is None:
        return None
    sizes = tuple(shape) if isinstance(shape, list | tuple) else (shape,)
    if any(size is not None and (not isinstance(size, int) or size < 1) for size in sizes):
        raise ArgumentError(
            f"{type(layer).__name__} expected `noise_shape` to be a tuple of positive integers and None; got {shape!r}."
        )
    return sizes
