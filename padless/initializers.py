"""Where weights begin: `initializer(shape, dtype)` gives a new tensor. Names, arguments and defaults are Keras's.

Random numbers come from torch's global generator (`torch.manual_seed`), or, with an integer `seed`, from a generator
of their own, so that every call gives the same values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import init

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.registry import register
from padless.saving import serialization as _config

_CUT_STD = 0.8796256610342398  # the standard deviation of a standard normal distribution cut at -2 and 2


@dataclass(eq=False)
class Initializer(_config.Configured):
    """The base of all initializers; a subclass defines `__call__`, and `get_config` if it takes arguments."""

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """A new tensor of this shape."""
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(self, shape, dtype)`.")

    def clone(self) -> Self:
        """Another initializer with the same config."""
        return type(self).from_config(self.get_config())


@register("initializer", "zeros", "zero")
@dataclass(eq=False)
class Zeros(Initializer):
    """All 0."""

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(tuple(shape), dtype=dtype)


@register("initializer", "ones", "one")
@dataclass(eq=False)
class Ones(Initializer):
    """All 1."""

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.ones(tuple(shape), dtype=dtype)


@register("initializer", "constant")
@dataclass(eq=False)
class Constant(Initializer):
    """One number everywhere, or an array that already has the shape of the weight (a pretrained embedding).

    >>> Constant(2.5)((1, 2)), Constant([[1., 2.]])((1, 2))
    (tensor([[2.5000, 2.5000]]), tensor([[1., 2.]]))
    """

    value: Any = 0.0

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        given = torch.as_tensor(self.value)
        if given.ndim and given.shape != tuple(shape):
            raise ShapeError(
                f"Constant holds an array of shape {tuple(given.shape)}, but the weight has shape "
                f"{tuple(shape)}. Give an array of that shape, or one number."
            )
        return torch.empty(tuple(shape), dtype=dtype).copy_(given.detach())

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        value = config.get("value", 0.0)
        return cls(_config.deserialize(value, "initializer") if isinstance(value, Mapping) else value)


@register("initializer", "identity", "IdentityInitializer")
@dataclass(eq=False)
class Identity(Initializer):
    """`gain` on the diagonal of a matrix, 0 elsewhere."""

    gain: float = 1.0

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        if len(shape) != 2:
            raise ShapeError(f"Identity fills matrices only; got shape {tuple(shape)}. Use Orthogonal for other ranks.")
        return self.gain * torch.eye(*shape, dtype=dtype)


@register("initializer", "random_normal", "normal")
@dataclass(eq=False)
class RandomNormal(Initializer):
    """Normally distributed numbers."""

    mean: float = 0.0
    stddev: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self.seed, self.stddev)

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return _drawn(shape, dtype, self.seed, _normal(self.mean, self.stddev))


@register("initializer", "truncated_normal")
@dataclass(eq=False)
class TruncatedNormal(RandomNormal):
    """Normally distributed numbers, those further than two `stddev` from the mean left out."""

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return _drawn(shape, dtype, self.seed, _truncated_normal(self.mean, self.stddev))


@register("initializer", "random_uniform", "uniform")
@dataclass(eq=False)
class RandomUniform(Initializer):
    """Uniformly distributed numbers between `minval` and `maxval`."""

    minval: float = -0.05
    maxval: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self.seed)
        if self.minval > self.maxval:
            raise ArgumentError(f"RandomUniform expected minval <= maxval; got {self.minval} and {self.maxval}.")

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return _drawn(shape, dtype, self.seed, _uniform(self.minval, self.maxval))


@register("initializer", "variance_scaling")
@dataclass(eq=False)
class VarianceScaling(Initializer):
    """Random numbers of variance `scale / n`, where n counts inputs, outputs, or their mean, as `mode` says.

    `distribution` is "truncated_normal" (also called "normal"), "untruncated_normal" or "uniform". A kernel of shape
    `(..., in, out)` has `in` times its receptive field as inputs, unless `input_axes` and `output_axes` say which axes
    count.
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
            raise ArgumentError(f"VarianceScaling expected a positive scale, got {self.scale!r}.")
        if self.mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ArgumentError(unknown_name("mode", self.mode, ("fan_in", "fan_out", "fan_avg")))
        lower = self.distribution.lower()
        self.distribution = "truncated_normal" if lower == "normal" else lower
        if self.distribution not in _DISTRIBUTIONS:
            raise ArgumentError(unknown_name("distribution", self.distribution, [*_DISTRIBUTIONS, "normal"]))

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        fan_in, fan_out = compute_fans(shape, self.input_axes, self.output_axes)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        fill = _DISTRIBUTIONS[self.distribution](math.sqrt(self.scale / max(1.0, fan)))
        return _drawn(shape, dtype, self.seed, fill)


@dataclass(eq=False)
class _Preset(VarianceScaling):
    """A named choice of scale, mode and distribution."""

    scale: float = field(init=False, repr=False)
    mode: str = field(init=False, repr=False)
    distribution: str = field(init=False, repr=False)


@register("initializer", "glorot_uniform")
class GlorotUniform(_Preset):
    """Uniform, variance `2 / (inputs + outputs)` (Glorot & Bengio, 2010)."""

    scale, mode, distribution = 1.0, "fan_avg", "uniform"


@register("initializer", "glorot_normal")
class GlorotNormal(_Preset):
    """Truncated normal, variance `2 / (inputs + outputs)` (Glorot & Bengio, 2010)."""

    scale, mode, distribution = 1.0, "fan_avg", "truncated_normal"


@register("initializer", "lecun_uniform")
class LecunUniform(_Preset):
    """Uniform, variance `1 / inputs` (Klambauer et al., 2017)."""

    scale, mode, distribution = 1.0, "fan_in", "uniform"


@register("initializer", "lecun_normal")
class LecunNormal(_Preset):
    """Truncated normal, variance `1 / inputs` (Klambauer et al., 2017)."""

    scale, mode, distribution = 1.0, "fan_in", "truncated_normal"


@register("initializer", "he_uniform")
class HeUniform(_Preset):
    """Uniform, variance `2 / inputs` (He et al., 2015)."""

    scale, mode, distribution = 2.0, "fan_in", "uniform"


@register("initializer", "he_normal")
class HeNormal(_Preset):
    """Truncated normal, variance `2 / inputs` (He et al., 2015)."""

    scale, mode, distribution = 2.0, "fan_in", "truncated_normal"


@register("initializer", "orthogonal", "OrthogonalInitializer")
@dataclass(eq=False)
class Orthogonal(Initializer):
    """`gain` times a random matrix with orthonormal columns (rows, if it is wide) (Saxe et al., 2014).

    Of more than two axes, all but the last are the rows.
    """

    gain: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _check(self.seed)

    def __call__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        if len(shape) < 2:
            raise ShapeError(f"Orthogonal needs at least two axes; got shape {tuple(shape)}.")
        matrix = (math.prod(shape[:-1]), shape[-1])
        drawn = _drawn(matrix, dtype, self.seed, lambda t, g: init.orthogonal_(t, self.gain, generator=g))
        return drawn.reshape(tuple(shape))


def compute_fans(
    shape: Sequence[int], input_axes: Sequence[int] | None = None, output_axes: Sequence[int] | None = None
) -> tuple[int, int]:
    """How many inputs and outputs a kernel of shape `(..., in, out)` has, each times its receptive field.

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

Fill = Callable[[Tensor, Generator | None], object]


def _drawn(shape: Sequence[int], dtype: torch.dtype, seed: int | None, fill: Fill) -> Tensor:
    """A tensor filled at random, in float32 at least; with a seed on the host, so that devices agree."""
    wide = dtype if dtype == torch.float64 else torch.float32
    if seed is None:
        drawn = torch.empty(tuple(shape), dtype=wide)
        fill(drawn, None)
        return drawn.to(dtype)
    drawn = torch.empty(tuple(shape), dtype=wide, device="cpu")
    fill(drawn, Generator("cpu").manual_seed(int(seed)))
    return drawn.to(torch.get_default_device(), dtype)


def _normal(mean: float, stddev: float) -> Fill:
    return lambda drawn, generator: init.normal_(drawn, mean, stddev, generator=generator)


def _uniform(low: float, high: float) -> Fill:
    return lambda drawn, generator: init.uniform_(drawn, low, high, generator=generator)


def _truncated_normal(mean: float, stddev: float) -> Fill:
    return lambda drawn, generator: init.trunc_normal_(drawn, generator=generator).mul_(stddev).add_(mean)


# by standard deviation
_DISTRIBUTIONS: dict[str, Callable[[float], Fill]] = {
    "truncated_normal": lambda std: _truncated_normal(0.0, std / _CUT_STD),
    "untruncated_normal": lambda std: _normal(0.0, std),
    "uniform": lambda std: _uniform(-math.sqrt(3) * std, math.sqrt(3) * std),
}


def _check(seed: object, stddev: float = 0.0) -> None:
    if seed is not None and (not isinstance(seed, Integral) or isinstance(seed, bool)):
        raise ArgumentError(f"`seed` must be an integer, or None for torch's global generator; got {seed!r}.")
    if stddev < 0:
        raise ArgumentError(f"`stddev` must not be negative; got {stddev}.")


# ---------------------------------------------------------------------------------------------------- by name


def get(identifier: Any) -> Any:
    """The initializer that a user means by None, a name, a config, a class, a function, or an array of values.

    >>> get("he_normal"), get({"class_name": "Constant", "config": {"value": 2.0}})
    (HeNormal(seed=None, input_axes=None, output_axes=None), Constant(value=2.0))
    """
    if isinstance(identifier, Tensor | np.ndarray | np.generic):
        return Constant(identifier)
    return _config.get(identifier, "initializer")


def serialize(initializer: Any) -> Any:
    """The config of an initializer, or the registered name of a function."""
    return _config.serialize(initializer, "initializer")


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """What `serialize` wrote, as an initializer again."""
    return _config.deserialize(config, "initializer", custom_objects)


zeros, ones, constant, identity = Zeros, Ones, Constant, Identity
random_normal, random_uniform, truncated_normal = RandomNormal, RandomUniform, TruncatedNormal
variance_scaling, orthogonal = VarianceScaling, Orthogonal
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal
he_uniform, he_normal = HeUniform, HeNormal
