"""Learning rates that follow the steps taken, with Keras's names, arguments and numbers.

A schedule is a function of the number of steps taken so far; an optimizer asks it before each step. Any function of one
number will do.

    Adam(ExponentialDecay(1e-2, decay_steps=1000, decay_rate=0.5))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from padless.errors import ArgumentError
from padless.registry import register
from padless.saving import serialization as saving


class LearningRateSchedule:
    """The base of schedules of one's own: `__call__(step)`, and `get_config` to be saved.

    >>> class Halving(LearningRateSchedule):
    ...     def __call__(self, step):
    ...         return 0.5 ** step
    >>> Halving()(2)
    0.25
    """

    def __call__(self, step: int) -> float:
        """The learning rate of the step after `step` steps."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, step).")

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        raise NotImplementedError(f"{type(self).__name__} must define get_config() to be saved.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The schedule with this config."""
        return cls(**config)


class _Known(LearningRateSchedule):
    """A dataclass of its arguments, checked when it is made."""

    def __post_init__(self) -> None:
        for what, value in asdict(self).items():  # pyright: ignore[reportArgumentType] - its subclasses are dataclasses
            if what in ("decay_steps", "first_decay_steps") and not (_is_number(value) and value > 0):
                raise ArgumentError(f"`{what}` of {type(self).__name__} must be a number above 0; got {value!r}.")
            if what not in _UNLIKE and not (_is_number(value) and math.isfinite(value)):
                raise ArgumentError(f"`{what}` of {type(self).__name__} must be a finite number; got {value!r}.")

    def get_config(self) -> dict[str, Any]:
        return asdict(self)  # pyright: ignore[reportArgumentType]


_UNLIKE = ("name", "staircase", "cycle", "boundaries", "values", "warmup_target")  # arguments that are no plain numbers


@register("schedule")
@dataclass
class ExponentialDecay(_Known):
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`; a `staircase` goes down once in `decay_steps`.

    >>> ExponentialDecay(1.0, 10, 0.5)(20)
    0.25
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False
    name: str = "ExponentialDecay"

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate * self.decay_rate ** _part(step, self.decay_steps, self.staircase)


@register("schedule")
@dataclass
class InverseTimeDecay(_Known):
    """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`.

    >>> InverseTimeDecay(1.0, 10, 1.0)(10)
    0.5
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False
    name: str = "InverseTimeDecay"

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate / (1 + self.decay_rate * _part(step, self.decay_steps, self.staircase))


@register("schedule")
@dataclass
class PiecewiseConstantDecay(_Known):
    """`values[i]` up to and with step `boundaries[i]`, the last value after that.

    >>> [PiecewiseConstantDecay([2], [1.0, 0.5])(step) for step in (2, 3)]
    [1.0, 0.5]
    """

    boundaries: Sequence[float]
    values: Sequence[float]
    name: str = "PiecewiseConstant"

    def __post_init__(self) -> None:
        if len(self.boundaries) != len(self.values) - 1:
            raise ArgumentError(
                f"PiecewiseConstantDecay takes one value more than boundaries; got {len(self.values)} "
                f"values for {len(self.boundaries)} boundaries."
            )
        if list(self.boundaries) != sorted(self.boundaries):
            raise ArgumentError(f"The boundaries of PiecewiseConstantDecay must rise; got {list(self.boundaries)}.")

    def __call__(self, step: int) -> float:
        return self.values[sum(step > boundary for boundary in self.boundaries)]


@register("schedule")
@dataclass
class PolynomialDecay(_Known):
    """From the initial rate to `end_learning_rate` in `decay_steps`, by a power of the part that is left.

    With `cycle` the decay is stretched to the next multiple of `decay_steps` when it has ended.

    >>> PolynomialDecay(1.0, 10, 0.5)(5)
    0.75
    """

    initial_learning_rate: float
    decay_steps: float
    end_learning_rate: float = 0.0001
    power: float = 1.0
    cycle: bool = False
    name: str = "PolynomialDecay"

    def __call__(self, step: int) -> float:
        whole = self.decay_steps * (max(1, math.ceil(step / self.decay_steps)) if self.cycle else 1)
        left = 1 - min(step, whole) / whole
        return (self.initial_learning_rate - self.end_learning_rate) * left**self.power + self.end_learning_rate


@register("schedule")
@dataclass
class CosineDecay(_Known):
    """Down half a cosine in `decay_steps`, to `alpha` of where it began (Loshchilov and Hutter, 2016).

    With a `warmup_target` it first rises to it from the initial rate, in `warmup_steps` steps.

    >>> round(CosineDecay(1.0, 10)(5), 6)
    0.5
    """

    initial_learning_rate: float
    decay_steps: float
    alpha: float = 0.0
    name: str = "CosineDecay"
    warmup_target: float | None = None
    warmup_steps: float = 0

    def __call__(self, step: int) -> float:
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            step, top = step - int(self.warmup_steps), self.warmup_target
        return top * _half_cosine(min(step / self.decay_steps, 1.0), 1.0, self.alpha)


@register("schedule")
@dataclass
class CosineDecayRestarts(_Known):
    """Half a cosine again and again, each `t_mul` times as long and from `m_mul` times the height of the one before.

    >>> [round(CosineDecayRestarts(1.0, 10)(step), 6) for step in (5, 10, 20)]
    [0.5, 1.0, 0.5]
    """

    initial_learning_rate: float
    first_decay_steps: float
    t_mul: float = 2.0
    m_mul: float = 1.0
    alpha: float = 0.0
    name: str = "SGDRDecay"

    def __call__(self, step: int) -> float:
        begun, period, restarts = 0.0, float(self.first_decay_steps), 0
        while step >= begun + period:
            begun, period, restarts = begun + period, period * self.t_mul, restarts + 1
        return self.initial_learning_rate * _half_cosine((step - begun) / period, self.m_mul**restarts, self.alpha)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.t_mul < 1:
            raise ArgumentError(f"`t_mul` of CosineDecayRestarts must be at least 1; got {self.t_mul!r}.")


def serialize(learning_rate_schedule: Any) -> Any:
    """The config of a schedule, as JSON has it."""
    return saving.serialize(learning_rate_schedule, "schedule")


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The schedule with this config."""
    return saving.deserialize(config, "schedule", custom_objects)


def _half_cosine(done: float, height: float, alpha: float) -> float:
    return (1 - alpha) * 0.5 * height * (1 + math.cos(math.pi * done)) + alpha


def _part(step: int, decay_steps: float, staircase: bool) -> float:
    return math.floor(step / decay_steps) if staircase else step / decay_steps


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
