"""Learning rate schedules with Keras's names, arguments and numbers.

A schedule is a function of the number of steps so far, which an optimizer calls before each step. Any function of a
number can be a schedule.

    Adam(ExponentialDecay(1e-2, decay_steps=1000, decay_rate=0.5))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from padless.errors import ArgumentError
from padless.registry import base_of, register
from padless.saving import serialization

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]


@base_of("schedule")
class LearningRateSchedule:
    """The base of user-defined schedules: define `__call__(step)`, and `get_config` if the schedule must be saved.

    Example:
        >>> class Halving(LearningRateSchedule):
        ...     def __call__(self, step):
        ...         return 0.5 ** step
        >>> Halving()(2)
        0.25
    """

    def __call__(self, step: int) -> float:
        """Return the learning rate after `step` steps."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, step).")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        raise NotImplementedError(f"{type(self).__name__} must define get_config() to be saved.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the schedule with this config."""
        return cls(**config)


_NOT_NUMBERS = ("name", "staircase", "cycle", "boundaries", "values", "warmup_target")  # fields with other checks or none


@dataclass
class _BuiltinSchedule(LearningRateSchedule):
    """The base of the schedules of this module: dataclasses of their arguments, which are checked."""

    def __post_init__(self) -> None:
        for argument, value in asdict(self).items():
            if argument in ("decay_steps", "first_decay_steps") and not (_is_number(value) and value > 0):
                raise ArgumentError(f"`{argument}` of {type(self).__name__} must be a number above 0; got {value!r}.")
            if argument not in _NOT_NUMBERS and not (_is_number(value) and math.isfinite(value)):
                raise ArgumentError(f"`{argument}` of {type(self).__name__} must be a finite number; got {value!r}.")

    def get_config(self) -> dict[str, Any]:
        return asdict(self)


@register("schedule")
@dataclass
class ExponentialDecay(_BuiltinSchedule):
    """The learning rate `initial_learning_rate * decay_rate ** (step / decay_steps)`.

    Args:
        initial_learning_rate: the learning rate of the first step.
        decay_steps: the number of steps for one factor `decay_rate`.
        decay_rate: the factor.
        staircase: whether the learning rate changes only after each `decay_steps` steps.
        name: the name in the config.

    Example:
        >>> ExponentialDecay(1.0, 10, 0.5)(20)
        0.25
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False
    name: str = "ExponentialDecay"

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate * self.decay_rate ** _num_periods(step, self.decay_steps, self.staircase)


@register("schedule")
@dataclass
class InverseTimeDecay(_BuiltinSchedule):
    """The learning rate `initial_learning_rate / (1 + decay_rate * step / decay_steps)`.

    Args:
        initial_learning_rate: the learning rate of the first step.
        decay_steps: the number of steps of one period.
        decay_rate: what is added to the divisor in each period.
        staircase: whether the learning rate changes only after each period.
        name: the name in the config.

    Example:
        >>> InverseTimeDecay(1.0, 10, 1.0)(10)
        0.5
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False
    name: str = "InverseTimeDecay"

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate / (1 + self.decay_rate * _num_periods(step, self.decay_steps, self.staircase))


@register("schedule")
@dataclass
class PiecewiseConstantDecay(_BuiltinSchedule):
    """The learning rate `values[i]` up to and including step `boundaries[i]`, and the last value after that.

    Args:
        boundaries: numbers of steps that rise.
        values: learning rates, one more than boundaries.
        name: the name in the config.

    Example:
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
class PolynomialDecay(_BuiltinSchedule):
    """The learning rate from the initial one to `end_learning_rate` in `decay_steps` steps, by a power.

    Args:
        initial_learning_rate: the learning rate of the first step.
        decay_steps: the number of steps of the decay.
        end_learning_rate: the learning rate after the decay.
        power: the exponent of the part of the steps that remain.
        cycle: whether the decay extends to the next multiple of `decay_steps` when it has ended.
        name: the name in the config.

    Example:
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
        num_cycles = max(1, math.ceil(step / self.decay_steps)) if self.cycle else 1
        decay_steps = self.decay_steps * num_cycles
        remaining = 1 - min(step, decay_steps) / decay_steps
        return (self.initial_learning_rate - self.end_learning_rate) * remaining**self.power + self.end_learning_rate


@register("schedule")
@dataclass
class CosineDecay(_BuiltinSchedule):
    """The learning rate on half a cosine (Loshchilov and Hutter, 2016), after an optional warm-up.

    Args:
        initial_learning_rate: the learning rate of the first step.
        decay_steps: the number of steps of the decay.
        alpha: the learning rate after the decay, as a part of that before it.
        name: the name in the config.
        warmup_target: the learning rate after the warm-up, which rises to it linearly; None for no warm-up.
        warmup_steps: the number of steps of the warm-up.

    Example:
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
        start_rate = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return start_rate + (self.warmup_target - start_rate) * step / self.warmup_steps
            step, start_rate = step - int(self.warmup_steps), self.warmup_target
        return start_rate * _half_cosine(min(step / self.decay_steps, 1.0), 1.0, self.alpha)


@register("schedule")
@dataclass
class CosineDecayRestarts(_BuiltinSchedule):
    """The learning rate on half a cosine that restarts (Loshchilov and Hutter, 2016).

    Args:
        initial_learning_rate: the learning rate of the first step.
        first_decay_steps: the number of steps of the first decay.
        t_mul: the factor between the lengths of two decays, at least 1.
        m_mul: the factor between the first learning rates of two decays.
        alpha: the learning rate after a decay, as a part of the initial one.
        name: the name in the config.

    Example:
        >>> [round(CosineDecayRestarts(1.0, 10)(step), 6) for step in (5, 10, 20)]
        [0.5, 1.0, 0.5]
    """

    initial_learning_rate: float
    first_decay_steps: float
    t_mul: float = 2.0
    m_mul: float = 1.0
    alpha: float = 0.0
    name: str = "SGDRDecay"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.t_mul < 1:
            raise ArgumentError(f"`t_mul` of CosineDecayRestarts must be at least 1; got {self.t_mul!r}.")

    def __call__(self, step: int) -> float:
        first_step, length, restarts = 0.0, float(self.first_decay_steps), 0  # of the decay that contains `step`
        while step >= first_step + length:
            first_step, length, restarts = first_step + length, length * self.t_mul, restarts + 1
        progress = (step - first_step) / length
        return self.initial_learning_rate * _half_cosine(progress, self.m_mul**restarts, self.alpha)


def serialize(learning_rate_schedule: LearningRateSchedule) -> dict[str, Any]:
    """Return the config of a schedule, for JSON."""
    return serialization.serialize(learning_rate_schedule, "schedule")


def deserialize(config: str | Mapping[str, Any], custom_objects: Mapping[str, type] | None = None) -> LearningRateSchedule:
    """Return the schedule with a config.

    Args:
        config: the result of `serialize`.
        custom_objects: user-defined classes by name.
    """
    return serialization.deserialize(config, "schedule", custom_objects)


def _half_cosine(progress: float, start: float, alpha: float) -> float:
    """Return a number that goes from about `start` to `alpha` on half a cosine, for a progress from 0 to 1."""
    return (1 - alpha) * 0.5 * start * (1 + math.cos(math.pi * progress)) + alpha


def _num_periods(step: int, decay_steps: float, staircase: bool) -> float:
    return math.floor(step / decay_steps) if staircase else step / decay_steps


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
