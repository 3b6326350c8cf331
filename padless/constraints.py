"""What a weight may be: `constraint(weight)` gives the nearest allowed one after each update. Names are Keras's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from padless.registry import register
from padless.saving import serialization as _config

_EPSILON = 1e-7  # Keras's


@dataclass(eq=False)
class Constraint(_config.Configured):
    """The base of all constraints; a subclass defines `__call__`, and `get_config` if it takes arguments."""

    def __call__(self, w: Tensor) -> Tensor:
        """The constrained weight."""
        return w


@register("constraint", "non_neg")
@dataclass(eq=False)
class NonNeg(Constraint):
    """Numbers below 0 become 0."""

    def __call__(self, w: Tensor) -> Tensor:
        return w.clamp(min=0)


@register("constraint", "unit_norm")
@dataclass(eq=False)
class UnitNorm(Constraint):
    """Vectors along `axis` (or several axes) get length 1.

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
    """Vectors along `axis` (or several axes) longer than `max_value` are cut to that length."""

    max_value: float = 2
    axis: int | list[int] = 0

    def __call__(self, w: Tensor) -> Tensor:
        norm = _norm(w, self.axis)
        return w * (norm.clamp(0, self.max_value) / (_EPSILON + norm))


@register("constraint", "min_max_norm")
@dataclass(eq=False)
class MinMaxNorm(Constraint):
    """Vectors along `axis` (or several axes) come to a length between the bounds, by the share `rate` of the way."""

    min_value: float = 0.0
    max_value: float = 1.0
    rate: float = 1.0
    axis: int | list[int] = 0

    def __call__(self, w: Tensor) -> Tensor:
        norm = _norm(w, self.axis)
        wanted = self.rate * norm.clamp(self.min_value, self.max_value) + (1 - self.rate) * norm
        return w * (wanted / (_EPSILON + norm))


def _norm(w: Tensor, axis: int | list[int]) -> Tensor:
    return torch.sqrt(torch.sum(w.square(), dim=axis, keepdim=True))


def get(identifier: Any) -> Any:
    """The constraint that a user means by None, a name, a config, a class, or a function.

    >>> get("max_norm")
    MaxNorm(max_value=2, axis=0)
    """
    return _config.get(identifier, "constraint")


def serialize(constraint: Any) -> Any:
    """The config of a constraint, or the registered name of a function."""
    return _config.serialize(constraint, "constraint")


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """What `serialize` wrote, as a constraint again."""
    return _config.deserialize(config, "constraint", custom_objects)


max_norm, non_neg, unit_norm, min_max_norm = MaxNorm, NonNeg, UnitNorm, MinMaxNorm
