"""Penalties on weights and activities: `regularizer(tensor)` gives a scalar. Names and defaults are Keras's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.registry import register
from padless.saving import serialization as _config

_EPSILON = 1e-7  # Keras's


@dataclass(eq=False)
class Regularizer(_config.Configured):
    """The base of all regularizers; a subclass defines `__call__`, and `get_config` if it takes arguments."""

    def __call__(self, x: Tensor) -> Tensor:
        """The penalty, a scalar."""
        return torch.zeros((), dtype=x.dtype, device=x.device)


@register("regularizer", "l1")
@dataclass(eq=False)
class L1(Regularizer):
    """`l1` times the sum of the absolute values.

    >>> L1(0.5)(torch.tensor([1., -3.]))
    tensor(2.)
    """

    l1: float = 0.01

    def __post_init__(self) -> None:
        self.l1 = _factor("l1", self.l1, 0.01)

    def __call__(self, x: Tensor) -> Tensor:
        return self.l1 * x.abs().sum()


@register("regularizer", "l2")
@dataclass(eq=False)
class L2(Regularizer):
    """`l2` times the sum of the squares.

    >>> L2(0.5)(torch.tensor([1., -3.]))
    tensor(5.)
    """

    l2: float = 0.01

    def __post_init__(self) -> None:
        self.l2 = _factor("l2", self.l2, 0.01)

    def __call__(self, x: Tensor) -> Tensor:
        return self.l2 * x.square().sum()


@register("regularizer", "l1_l2", "l1l2")
@dataclass(eq=False)
class L1L2(Regularizer):
    """`l1` times the sum of the absolute values plus `l2` times the sum of the squares; without arguments nothing."""

    l1: float = 0.0
    l2: float = 0.0

    def __post_init__(self) -> None:
        self.l1, self.l2 = _factor("l1", self.l1, 0.0), _factor("l2", self.l2, 0.0)

    def __call__(self, x: Tensor) -> Tensor:
        penalty = super().__call__(x)
        if self.l1:
            penalty = penalty + self.l1 * x.abs().sum()
        if self.l2:
            penalty = penalty + self.l2 * x.square().sum()
        return penalty


@register("regularizer", "orthogonal_regularizer")
@dataclass(eq=False)
class OrthogonalRegularizer(Regularizer):
    """`factor` times the mean absolute cosine between the rows (or columns, by `mode`) of a matrix; 0 if it has one."""

    factor: float = 0.01
    mode: str = "rows"

    def __post_init__(self) -> None:
        self.factor = _factor("factor", self.factor)
        if self.mode not in ("rows", "columns"):
            raise ArgumentError(unknown_name("mode", self.mode, ("rows", "columns")))

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            raise ShapeError(f"OrthogonalRegularizer needs a matrix; got shape {tuple(x.shape)}.")
        unit = functional.normalize(x if self.mode == "rows" else x.T, dim=1, eps=_EPSILON)  # (n, d)
        cosines = (unit @ unit.T).triu(1)  # each pair once
        return self.factor * cosines.abs().sum() / max(math.comb(len(unit), 2), 1)


def _factor(name: str, value: Any, default: float | None = None) -> float:
    if value is None and default is not None:
        return default
    if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise ArgumentError(f"`{name}` must be a finite number, at least 0; got {value!r}.")
    return float(value)


def get(identifier: Any) -> Any:
    """The regularizer that a user means by None, a name, a config, a class, or a function.

    >>> get("l2")
    L2(l2=0.01)
    """
    return _config.get(identifier, "regularizer")


def serialize(regularizer: Any) -> Any:
    """The config of a regularizer, or the registered name of a function."""
    return _config.serialize(regularizer, "regularizer")


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """What `serialize` wrote, as a regularizer again."""
    return _config.deserialize(config, "regularizer", custom_objects)


l1, l2, l1_l2, orthogonal_regularizer = L1, L2, L1L2, OrthogonalRegularizer
