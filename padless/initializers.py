"""Initial values of weights: `initializer(shape, dtype)` returns a new tensor. Names and defaults are Keras's.

Random numbers come from torch's global generator (`torch.manual_seed`). With an integer `seed` each call creates a
generator from it, so that every call returns the same values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import init

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.ragged.masked_array import refuse_masked_array
from padless.registry import register
from padless.saving import serialization
from padless.types import ArrayLike, ConfigLike, InitializerLike

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "deserialize",
    "get",
    "serialize",
]

_TRUNCATED_STD = 0.8796256610342398  # standard deviation of a standard normal distribution truncated at -2 and 2
InitializerFunction: TypeAlias = Callable[..., Tensor]


@dataclass(eq=False)
class Initializer(serialization.ConfigDataclass):
    """Base class of initializers, as Keras's `Initializer`.

    A subclass defines `__call__`, and `get_config` if its constructor takes arguments.
    """

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a new tensor of this shape and dtype."""
        raise NotImplementedError(
            f"{type(self).__name__} must define `__call__(self, shape, dtype)`, which returns a tensor."
        )

    def clone(self) -> Self:
        """Return a copy, made from the config."""
        return type(self).from_config(self.get_config())


@register("initializer", "zeros", "zero")
@dataclass(eq=False)
class Zeros(Initializer):
    """Fill a weight with 0, as Keras's `Zeros`."""

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(tuple(shape), dtype=dtype)


@register("initializer", "ones", "one")
@dataclass(eq=False)
class Ones(Initializer):
    """Fill a weight with 1, as Keras's `Ones`."""

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.ones(tuple(shape), dtype=dtype)


@register("initializer", "constant")
@dataclass(eq=False)
class Constant(Initializer):
    """Fill a weight with a number, or copy an array such as a pretrained embedding. Keras's `Constant`.

    Args:
        value: A number, or an array of the shape of the weight.

    Example:
        >>> Constant(2.5)((1, 2)), Constant([[1., 2.]])((1, 2))
        (tensor([[2.5000, 2.5000]]), tensor([[1., 2.]]))
    """

    value: ArrayLike = 0.0

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        refuse_masked_array("The array of Constant", self.value)
        value = torch.as_tensor(self.value)
        if value.ndim and value.shape != tuple(shape):
            raise ShapeError(
                f"Constant holds an array of shape {tuple(value.shape)}, but the weight has shape "
                f"{tuple(shape)}. Give an array of that shape, or one number."
            )
        return torch.empty(tuple(shape), dtype=dtype).copy_(value.detach())

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        value = config.get("value", 0.0)
        return cls(serialization.deserialize(value, "initializer") if isinstance(value, Mapping) else value)


@register("initializer", "identity", "IdentityInitializer")
@dataclass(eq=False)
class Identity(Initializer):
    """Fill a matrix with `gain` on its diagonal and 0 elsewhere, as Keras's `Identity`."""

    gain: float = 1.0

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        if len(shape) != 2:
            raise ShapeError(
                f"Identity expected a weight with 2 axes; got shape {tuple(shape)}. For more axes use Orthogonal."
            )
        return self.gain * torch.eye(*shape, dtype=dtype)


@register("initializer", "random_normal", "normal")
@dataclass(eq=False)
class RandomNormal(Initializer):
    """Draw from a normal distribution, as Keras's `RandomNormal`.

    Args:
        mean: The mean.
        stddev: The standard deviation, at least 0.
        seed: An integer, for the same numbers at each call; None for torch's global generator.
    """

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self.seed, self.stddev)

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return _draw(shape, dtype, self.seed, _normal(self.mean, self.stddev))


@register("initializer", "truncated_normal")
@dataclass(eq=False)
class TruncatedNormal(RandomNormal):
    """Draw from a normal distribution truncated at two `stddev` from the mean, as Keras's `TruncatedNormal`."""

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return _draw(shape, dtype, self.seed, _truncated_normal(self.mean, self.stddev))


@register("initializer", "random_uniform", "uniform")
@dataclass(eq=False)
class RandomUniform(Initializer):
    """Draw uniformly between `minval` and `maxval`, as Keras's `RandomUniform`."""

    minval: float = -0.05
    maxval: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self.seed)
        if self.minval > self.maxval:
            raise ArgumentError(f"RandomUniform expected minval <= maxval; got {self.minval} and {self.maxval}.")

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return _draw(shape, dtype, self.seed, _uniform(self.minval, self.maxval))


@register("initializer", "variance_scaling")
@dataclass(eq=False)
class VarianceScaling(Initializer):
    """Draw numbers of mean 0 and variance `scale / n`, as Keras's `VarianceScaling`.

    Args:
        scale: The factor of the variance, above 0.
        mode: "fan_in" if `n` is the number of inputs of the weight, "fan_out" for the number of outputs, or "fan_avg"
            for their mean. `compute_fans` counts them.
        distribution: "truncated_normal" (or "normal"), "untruncated_normal" or "uniform".
        seed: An integer, for the same numbers at each call; None for torch's global generator.
        input_axes: The axes whose sizes multiply to the number of inputs; None for the rule of `compute_fans`.
        output_axes: The same for the number of outputs.
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    seed: int | None = None
    input_axes: Sequence[int] | None = None
    output_axes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        _check(self.seed)
        if self.scale <= 0:
            raise ArgumentError(f"VarianceScaling expected a positive scale; got {self.scale!r}.")
        if self.mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ArgumentError(unknown_name("mode", self.mode, ("fan_in", "fan_out", "fan_avg")))
        lower = self.distribution.lower()
        self.distribution = "truncated_normal" if lower == "normal" else lower
        if self.distribution not in _DISTRIBUTIONS:
            raise ArgumentError(unknown_name("distribution", self.distribution, [*_DISTRIBUTIONS, "normal"]))

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        fan_in, fan_out = compute_fans(shape, self.input_axes, self.output_axes)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        sampler = _DISTRIBUTIONS[self.distribution](math.sqrt(self.scale / max(1.0, fan)))
        return _draw(shape, dtype, self.seed, sampler)


@dataclass(eq=False)
class _Preset(VarianceScaling):
    """Base class of the initializers that fix scale, mode and distribution."""

    scale: float = field(init=False, repr=False)
    mode: str = field(init=False, repr=False)
    distribution: str = field(init=False, repr=False)


@register("initializer", "glorot_uniform")
class GlorotUniform(_Preset):
    """Draw uniformly with variance `2 / (inputs + outputs)` (Glorot & Bengio, 2010)."""

    scale, mode, distribution = 1.0, "fan_avg", "uniform"


@register("initializer", "glorot_normal")
class GlorotNormal(_Preset):
    """Draw from a truncated normal with variance `2 / (inputs + outputs)` (Glorot & Bengio, 2010)."""

    scale, mode, distribution = 1.0, "fan_avg", "truncated_normal"


@register("initializer", "lecun_uniform")
class LecunUniform(_Preset):
    """Draw uniformly with variance `1 / inputs` (Klambauer et al., 2017)."""

    scale, mode, distribution = 1.0, "fan_in", "uniform"


@register("initializer", "lecun_normal")
class LecunNormal(_Preset):
    """Draw from a truncated normal with variance `1 / inputs` (Klambauer et al., 2017)."""

    scale, mode, distribution = 1.0, "fan_in", "truncated_normal"


@register("initializer", "he_uniform")
class HeUniform(_Preset):
    """Draw uniformly with variance `2 / inputs` (He et al., 2015)."""

    scale, mode, distribution = 2.0, "fan_in", "uniform"


@register("initializer", "he_normal")
class HeNormal(_Preset):
    """Draw from a truncated normal with variance `2 / inputs` (He et al., 2015)."""

    scale, mode, distribution = 2.0, "fan_in", "truncated_normal"


@register("initializer", "orthogonal", "OrthogonalInitializer")
@dataclass(eq=False)
class Orthogonal(Initializer):
    """Draw a matrix with orthonormal columns, times `gain` (Saxe et al., 2014). Keras's `Orthogonal`.

    A matrix that is wider than high has orthonormal rows instead. If a weight has more than two axes, all but the last
    are the rows of the matrix.

    Args:
        gain: The factor.
        seed: An integer, for the same numbers at each call; None for torch's global generator.
    """

    gain: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self.seed)

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        if len(shape) < 2:
            raise ShapeError(f"Orthogonal expected a weight with at least two axes; got shape {tuple(shape)}.")
        matrix = (math.prod(shape[:-1]), shape[-1])
        weight = _draw(matrix, dtype, self.seed, lambda t, generator: init.orthogonal_(t, self.gain, generator=generator))
        return weight.reshape(tuple(shape))


def compute_fans(
    shape: Sequence[int], input_axes: Sequence[int] | None = None, output_axes: Sequence[int] | None = None
) -> tuple[int, int]:
    """Count the inputs and outputs of a weight, as Keras's `compute_fans`.

    Args:
        shape: The shape of a kernel, `(..., in, out)`. The axes before the last two are its receptive field.
        input_axes: The axes whose sizes multiply to the number of inputs. Used if `output_axes` is given too.
        output_axes: The same for the number of outputs.

    Returns:
        The number of inputs and of outputs, each multiplied by the size of the receptive field.

    Example:
        >>> compute_fans((5, 3, 4)), compute_fans((7,))
        ((15, 20), (7, 7))
    """
    if input_axes is not None and output_axes is not None:
        return math.prod(shape[a] for a in input_axes), math.prod(shape[a] for a in output_axes)
    if len(shape) < 2:
        return math.prod(shape), math.prod(shape)
    field_size = math.prod(shape[:-2])
    return shape[-2] * field_size, shape[-1] * field_size


# ---------------------------------------------------------------------------------------------------- distributions

Sampler: TypeAlias = Callable[[Tensor, Generator | None], object]  # fills a tensor in place


def _draw(shape: Sequence[int], dtype: torch.dtype, seed: int | None, sampler: Sampler) -> Tensor:
    """Return a random tensor, drawn in float32 at least; with a seed on the CPU, so that all devices agree."""
    wide_dtype = dtype if dtype == torch.float64 else torch.float32
    if seed is None:
        weight = torch.empty(tuple(shape), dtype=wide_dtype)
        sampler(weight, None)
        return weight.to(dtype)
    weight = torch.empty(tuple(shape), dtype=wide_dtype, device="cpu")
    sampler(weight, Generator("cpu").manual_seed(int(seed)))
    return weight.to(torch.get_default_device(), dtype)


def _normal(mean: float, stddev: float) -> Sampler:
    return lambda weight, generator: init.normal_(weight, mean, stddev, generator=generator)


def _uniform(low: float, high: float) -> Sampler:
    return lambda weight, generator: init.uniform_(weight, low, high, generator=generator)


def _truncated_normal(mean: float, stddev: float) -> Sampler:
    return lambda weight, generator: init.trunc_normal_(weight, generator=generator).mul_(stddev).add_(mean)


# From the name of a distribution to its sampler for a standard deviation.
_DISTRIBUTIONS: dict[str, Callable[[float], Sampler]] = {
    "truncated_normal": lambda std: _truncated_normal(0.0, std / _TRUNCATED_STD),
    "untruncated_normal": lambda std: _normal(0.0, std),
    "uniform": lambda std: _uniform(-math.sqrt(3) * std, math.sqrt(3) * std),
}


def _check(seed: object, stddev: float = 0.0) -> None:
    """Raise `ArgumentError` unless the seed is an integer or None and the deviation is not negative."""
    if seed is not None and (not isinstance(seed, Integral) or isinstance(seed, bool)):
        raise ArgumentError(f"`seed` must be an integer, or None for torch's global generator; got {seed!r}.")
    if stddev < 0:
        raise ArgumentError(f"`stddev` must be at least 0; got {stddev}.")


# ---------------------------------------------------------------------------------------------------- by name


def get(identifier: InitializerLike) -> InitializerFunction | None:
    """Return the initializer that an argument names, as Keras's `initializers.get`.

    Args:
        identifier: None, a name, a config, a class, a function of shape and dtype, or the values of the weight.

    Returns:
        The initializer; None for None.

    Raises:
        ArgumentError: The name is not known.

    Example:
        >>> get("he_normal"), get({"class_name": "Constant", "config": {"value": 2.0}})
        (HeNormal(seed=None, input_axes=None, output_axes=None), Constant(value=2.0))
    """
    if isinstance(identifier, Tensor | np.ndarray | np.generic):
        return Constant(identifier)
    return serialization.get(identifier, "initializer")


def serialize(initializer: InitializerFunction | None) -> ConfigLike:
    """Return the config of an initializer, or the registered name of a function."""
    return serialization.serialize(initializer, "initializer")


def deserialize(config: ConfigLike, custom_objects: Mapping[str, object] | None = None) -> InitializerFunction:
    """Return the initializer that `serialize` wrote; `custom_objects` adds user-defined names."""
    return serialization.deserialize(config, "initializer", custom_objects)


zeros, ones, constant, identity = Zeros, Ones, Constant, Identity
random_normal, random_uniform, truncated_normal = RandomNormal, RandomUniform, TruncatedNormal
variance_scaling, orthogonal = VarianceScaling, Orthogonal
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal
he_uniform, he_normal = HeUniform, HeNormal
