"""Constraints on weights: after each update `constraint(weight)` returns an allowed weight. Names are Keras's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from padless.registry import register
from padless.saving import serialization
from padless.types import ConfigLike, ConstraintLike

__all__ = [
    "Constraint",
    "MaxNorm",
    "MinMaxNorm",
    "NonNeg",
    "UnitNorm",
    "deserialize",
    "get",
    "serialize",
]

_EPSILON = 1e-7  # Keras's
ConstraintFunction: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Constraint(serialization.ConfigDataclass):
    """Base class of constraints, as Keras's `Constraint`.

    A subclass defines `__call__`, and `get_config` if its constructor takes arguments.
    """

    def __call__(self, w: Tensor) -> Tensor:
        """Return the constrained weight."""
        return w


@register("constraint", "non_neg")
@dataclass(eq=False)
class NonNeg(Constraint):
    """Replace numbers below 0 by 0, as Keras's `NonNeg`."""

    def __call__(self, w: Tensor) -> Tensor:
        return w.clamp(min=0)


@register("constraint", "unit_norm")
@dataclass(eq=False)
class UnitNorm(Constraint):
    """Scale vectors along `axis` (or several axes) to length 1, as Keras's `UnitNorm`.

    Example:
        >>> UnitNorm()(torch.tensor([[3.], [4.]]))
        tensor([[0.6000],
                [0.8000]])
    """

    axis: int | list[int] = 0

    def __call__(self, w: Tensor) -> Tensor:
        return w / (_EPSILON + _norm(w, self.axis))


@register("constraint", "max_norm")
@dataclass(eq=False)
class MaxNorm(Constraint):
    """Scale vectors along `axis` (or several axes) that are longer than `max_value` to that length, as Keras's `MaxNorm`."""

    max_value: float = 2
    axis: int | list[int] = 0

    def __call__(self, w: Tensor) -> Tensor:
        norm = _norm(w, self.axis)
        return w * (norm.clamp(0, self.max_value) / (_EPSILON + norm))


@register("constraint", "min_max_norm")
@dataclass(eq=False)
class MinMaxNorm(Constraint):
    """Scale vectors along `axis` (or several axes) to a length between two bounds, as Keras's `MinMaxNorm`.

    Args:
        min_value: The lower bound of the length.
        max_value: The upper bound of the length.
        rate: The new length is `rate * bounded + (1 - rate) * length`, where `bounded` is the length limited to the bounds.
        axis: The axis of the vectors, or several axes.
    """

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: int | list[int] = 0

    def __call__(self, w: Tensor) -> Tensor:
        norm = _norm(w, self.axis)
        new_norm = self.rate * norm.clamp(self.min_value, self.max_value) + (1 - self.rate) * norm
        return w * (new_norm / (_EPSILON + norm))


def _norm(w: Tensor, axis: int | list[int]) -> Tensor:
    """Return the lengths of vectors, with their axes kept as size 1."""
    return torch.sqrt(torch.sum(w.square(), dim=axis, keepdim=True))


def get(identifier: ConstraintLike) -> ConstraintFunction | None:
    """Return the constraint that an argument names, as Keras's `constraints.get`.

    Args:
        identifier: None, a name, a config, a class, or a function from a weight to a weight.

    Returns:
        The constraint; None for None.

    Raises:
        ArgumentError: The name is not known.

    Example:
        >>> get("max_norm")
        MaxNorm(max_value=2, axis=0)
    """
    return serialization.get(identifier, "constraint")


def serialize(constraint: ConstraintFunction | None) -> ConfigLike:
    """Return the config of a constraint, or the registered name of a function."""
    return serialization.serialize(constraint, "constraint")


def deserialize(config: ConfigLike, custom_objects: Mapping[str, object] | None = None) -> ConstraintFunction:
    """Return the constraint that `serialize` wrote; `custom_objects` adds user-defined names."""
    return serialization.deserialize(config, "constraint", custom_objects)


max_norm, non_neg, unit_norm, min_max_norm = MaxNorm, NonNeg, UnitNorm, MinMaxNorm
