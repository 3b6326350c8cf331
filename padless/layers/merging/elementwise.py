"""Layers that merge several inputs: a merge runs over the inputs that have the step.

The output has every step that some masked input has. An input that lacks a step is nothing there (0 in a sum, 1 in a
product, absent from an average or a maximum); an unmasked input makes no claim and is read at those steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, MaskError, ShapeError
from padless.graph.symbolic import leaves
from padless.kernels.union import scatter_to_union, steps_present
from padless.layers.base.layer import Layer
from padless.ragged.index import Index
from padless.ragged.mask import union
from padless.ragged.packed import Packed
from padless.registry import register


class Merge(Layer):
    """The base of the merging layers: element by element, over a list of inputs that broadcast."""

    relation = "merge"
    missing = 0.0  # what an input is where it has no step

    def combined(self, inputs: list[Any]) -> Any:
        """The merge of inputs that all have the same steps, or are plain; torch functions of the table only."""
        raise NotImplementedError

    def call(self, inputs: Any) -> Any:
        """The merge, on the steps of any masked input."""
        inputs = check_inputs(self, inputs)
        rank = max(x.ndim for x in inputs)
        inputs = [_raised(x, rank) for x in inputs]
        packed = [x for x in inputs if isinstance(x, Packed)]
        self._fit(inputs, max((x.num_step_axes for x in packed), default=0))
        if all(x.index.equals(packed[0].index) for x in packed):
            return self.combined(inputs)
        whole = _united(self, packed)
        spread = [
            Packed(scatter_to_union(x.values, x.index, whole, self.missing), whole) if isinstance(x, Packed) else x
            for x in inputs
        ]
        return self.combined_over(spread, [_present(x, whole) for x in inputs])

    def _fit(self, inputs: list[Any], lead: int) -> None:
        """Raises `ShapeError` unless the axes behind those of a mask broadcast."""
        sizes = [tuple(x.shape[lead:]) for x in inputs if x.ndim == inputs[0].ndim]
        if any(len(set(axis) - {1}) > 1 for axis in zip(*sizes, strict=True)):
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} merges element by element, so its inputs need the same "
                f"shape, or size 1 where they differ; got shapes {[tuple(x.shape) for x in inputs]}."
            )

    def combined_over(self, inputs: list[Any], present: list[Tensor | None]) -> Any:
        """The merge where some inputs lack steps; `present` `(N,)` says where each is there (None: everywhere)."""
        return self.combined(inputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The steps that some masked input has."""
        masks = [torch.as_tensor(m, dtype=torch.bool) for m in leaves(mask) if m is not None]
        return reduce(torch.logical_or, masks) if masks else None


def check_inputs(layer: Layer, inputs: Any) -> list[Any]:
    """The inputs as a list; raises `ArgumentError` for anything else."""
    if not isinstance(inputs, list | tuple) or len(inputs) < 1:
        raise ArgumentError(
            f"{type(layer).__name__} {layer.name!r} merges a list of inputs; got "
            f"{type(inputs).__name__}. Call it as {type(layer).__name__}()([x, y])."
        )
    for place, x in enumerate(inputs):
        if not isinstance(x, Tensor | Packed):
            raise ArgumentError(
                f"{type(layer).__name__} {layer.name!r} merges tensors; got "
                f"{'None' if x is None else type(x).__name__} as input {place} of {len(inputs)}."
            )
    return list(inputs)


def _raised(x: Any, rank: int) -> Any:
    """A plain input of lower rank with axes of size 1 after the batch, as Keras has it."""
    while x.ndim < rank and not isinstance(x, Packed):
        x = x.unsqueeze(1)
    return x


def _united(layer: Layer, packed: list[Packed]) -> Index:
    grids = {x.index.grid for x in packed}
    if len(grids) > 1:
        raise MaskError(
            f"{type(layer).__name__} {layer.name!r} merges inputs with masks of different shapes: "
            f"{sorted(grids)}. They must have the same batch and steps."
        )
    return reduce(union, [x.index for x in packed])


def _present(x: Any, whole: Index) -> Tensor | None:
    return steps_present(x.index, whole, x.device) if isinstance(x, Packed) else None


def _column(present: Tensor, like: Packed) -> Tensor:
    """A flag for each step, shaped to meet the values."""
    return present.reshape(-1, *(1,) * (like.values.ndim - 1))


def _showing(merged: Any, inputs: list[Any], shown: Callable[[Tensor], Tensor]) -> Any:
    """A merge that shows at masked steps what `shown` makes of the first input's; 0 if an input is plain."""
    if not isinstance(merged, Packed) or merged.gap_values is None:
        return merged
    if any(not isinstance(x, Packed) or x.gap_values is None or len(x.gap_values) != len(merged.gap_values) for x in inputs):
        return merged.with_values(merged.values)
    return merged.with_values(merged.values, shown(inputs[0].gap_values).expand_as(merged.gap_values))


@register("layer")
class Add(Merge):
    """The sum of the inputs.

    >>> Add()([torch.ones(1, 2), torch.ones(1, 2)]).tolist()
    [[2.0, 2.0]]
    """

    def combined(self, inputs: list[Any]) -> Any:
        """One after the other."""
        return reduce(torch.add, inputs)


@register("layer")
class Subtract(Merge):
    """The first input less the second.

    >>> Subtract()([torch.ones(1, 2), torch.ones(1, 2)]).tolist()
    [[0.0, 0.0]]
    """

    def combined(self, inputs: list[Any]) -> Any:
        """The difference of two."""
        if len(inputs) != 2:
            raise ArgumentError(f"Subtract {self.name!r} takes exactly two inputs; got {len(inputs)}.")
        return torch.sub(*inputs)


@register("layer")
class Multiply(Merge):
    """The product of the inputs.

    >>> Multiply()([torch.full((1, 2), 2.0), torch.full((1, 2), 3.0)]).tolist()
    [[6.0, 6.0]]
    """

    missing = 1.0

    def combined(self, inputs: list[Any]) -> Any:
        """One after the other; a step that no input has shows 0, as in Keras."""
        return _showing(reduce(torch.mul, inputs), inputs, torch.zeros_like)


@register("layer")
class Average(Merge):
    """The mean of the inputs that have the step.

    >>> Average()([torch.ones(1, 2), torch.full((1, 2), 3.0)]).tolist()
    [[2.0, 2.0]]
    """

    def combined(self, inputs: list[Any]) -> Any:
        """The sum, divided."""
        return reduce(torch.add, inputs) / len(inputs)

    def combined_over(self, inputs: list[Any], present: list[Tensor | None]) -> Any:
        """The sum over those that are there, divided by how many that are."""
        merged = reduce(torch.add, inputs)
        count = sum(1 if there is None else _column(there, merged).to(merged.dtype) for there in present)
        return merged.with_values(merged.values / count)


class _Extreme(Merge):
    """Maximum and Minimum: an input that lacks a step is farther out than any number."""

    pick = staticmethod(torch.maximum)

    def combined(self, inputs: list[Any]) -> Any:
        """The extreme, two at a time; a step that no input has shows the first one's, as in Keras."""
        return _showing(reduce(type(self).pick, inputs), inputs, lambda first: first)


@register("layer")
class Maximum(_Extreme):
    """The largest of the inputs that have the step.

    >>> Maximum()([torch.ones(1, 2), torch.full((1, 2), 3.0)]).tolist()
    [[3.0, 3.0]]
    """

    missing = -float("inf")


@register("layer")
class Minimum(_Extreme):
    """The smallest of the inputs that have the step.

    >>> Minimum()([torch.ones(1, 2), torch.full((1, 2), 3.0)]).tolist()
    [[1.0, 1.0]]
    """

    missing = float("inf")
    pick = staticmethod(torch.minimum)
