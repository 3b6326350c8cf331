"""Penalties on weights and outputs: `regularizer(tensor)` returns a scalar. Names and defaults are Keras's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.registry import register
from padless.saving import serialization
from padless.types import ConfigLike, RegularizerLike

__all__ = [
    "L1",
    "L1L2",
    "L2",
    "OrthogonalRegularizer",
    "Regularizer",
    "deserialize",
    "get",
    "serialize",
]

_EPSILON = 1e-7  # Keras's
RegularizerFunction: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Regularizer(serialization.ConfigDataclass):
    """Base class of regularizers, as Keras's `Regularizer`.

    A subclass defines `__call__`, and `get_config` if its constructor takes arguments.
    """

    def __call__(self, x: Tensor) -> Tensor:
        """Return the penalty of a tensor, a scalar."""
        return torch.zeros((), dtype=x.dtype, device=x.device)


@register("regularizer", "l1")
@dataclass(eq=False)
class L1(Regularizer):
    """Return `l1` times the sum of the absolute values, as Keras's `L1`.

    Example:
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
    """Return `l2` times the sum of the squares, as Keras's `L2`.

    Example:
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
    """Return `l1` times the sum of the absolute values plus `l2` times the sum of the squares, as Keras's `L1L2`."""

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
    """Return `factor` times the mean absolute cosine between the rows of a matrix.

    Keras's `OrthogonalRegularizer`. A matrix with one row has the penalty 0.

    Args:
        factor: A finite number, at least 0.
        mode: "rows", or "columns" for the cosines between columns.
    """

    factor: float = 0.01
    mode: str = "rows"

    def __post_init__(self) -> None:
        self.factor = _factor("factor", self.factor)
        if self.mode not in ("rows", "columns"):
            raise ArgumentError(unknown_name("mode", self.mode, ("rows", "columns")))

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            raise ShapeError(f"OrthogonalRegularizer expected a weight with 2 axes; got shape {tuple(x.shape)}.")
        vectors = functional.normalize(x if self.mode == "rows" else x.T, dim=1, eps=_EPSILON)  # (n, d)
        cosines = (vectors @ vectors.T).triu(1)  # each pair once
        num_pairs = math.comb(len(vectors), 2)
        return self.factor * cosines.abs().sum() / max(num_pairs, 1)


def _factor(name: str, value: object, default: float | None = None) -> float:
    """Return a factor as a float, `default` for None; raise `ArgumentError` for a negative or infinite one."""
    if value is None and default is not None:
        return default
    if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise ArgumentError(f"`{name}` must be a finite number, at least 0; got {value!r}.")
    return float(value)


def get(identifier: RegularizerLike) -> RegularizerFunction | None:
    """Return the regularizer that an argument names, as Keras's `regularizers.get`.

    Args:
        identifier: None, a name, a config, a class, or a function from a tensor to a scalar.

    Returns:
        The regularizer; None for None.

    Raises:
        ArgumentError: The name is not known.

    Example:
        >>> get("l2")
        L2(l2=0.01)
    """
    return serialization.get(identifier, "regularizer")


def serialize(regularizer: RegularizerFunction | None) -> ConfigLike:
    """Return the config of a regularizer, or the registered name of a function."""
    return serialization.serialize(regularizer, "regularizer")


def deserialize(config: ConfigLike, custom_objects: Mapping[str, object] | None = None) -> RegularizerFunction:
    """Return the regularizer that `serialize` wrote; `custom_objects` adds user-defined names."""
    return serialization.deserialize(config, "regularizer", custom_objects)


l1, l2, l1_l2, orthogonal_regularizer = L1, L2, L1L2, OrthogonalRegularizer
