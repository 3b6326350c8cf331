"""Layers that merge several inputs element by element.

The output has every step that some masked input has. An input without that step is neutral there: 0 in a sum, 1 in a
product, absent from an average or a maximum. A plain input does not decide which steps are real. It is read at the steps
of the output.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from padless.errors import ArgumentError, MaskError, ShapeError
from padless.graph.symbolic import leaves
from padless.kernels.union import scatter_to_union, steps_present
from padless.layers.base.layer import Layer
from padless.ragged.broadcast import at_columns
from padless.ragged.index import Index
from padless.ragged.mask import union
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import StepTensor


class Merge(Layer):
    """Base class of the merging layers; a subclass defines `merge`.

    The inputs are a list of tensors that broadcast. `missing` is the value of an input at a step that it does not have.
    """

    relation = "merge"
    missing = 0.0

    def merge(self, inputs: list[StepTensor]) -> StepTensor:
        """Merge inputs on the same steps, and plain inputs, with torch functions that keep a mask."""
        raise NotImplementedError

    def merge_with_missing_steps(self, inputs: list[StepTensor], is_present: list[Tensor | None]) -> StepTensor:
        """Merge inputs on the union of their steps.

        Args:
            inputs: The inputs; a `Packed` holds `missing` where it does not have the step.
            is_present: For each input whether it has the step, `(N,)`; None for a plain input, which has all.
        """
        return self.merge(inputs)

    def call(self, inputs: list[StepTensor]) -> StepTensor:
        """Merge the inputs."""
        inputs = check_inputs(self, inputs)
        ndim = max(x.ndim for x in inputs)
        inputs = [_add_axes(x, ndim) for x in inputs]
        packed = [x for x in inputs if isinstance(x, Packed)]
        self.check_shapes(inputs, max((x.num_step_axes for x in packed), default=0))
        if not packed:
            return self.merge(inputs)
        if all(x.index.equals(packed[0].index) for x in packed):
            index = packed[0].index
            return self.merge([x if isinstance(x, Packed) else at_columns(x, index) for x in inputs])
        index = _union_of_steps(self, packed)
        is_present = [steps_present(x.index, index, x.device) if isinstance(x, Packed) else None for x in inputs]
        return self.merge_with_missing_steps([self._at_steps(x, index) for x in inputs], is_present)

    def _at_steps(self, x: StepTensor, index: Index) -> StepTensor:
        """Return a `Packed` on the steps of `index`, with `missing` at those that it does not have."""
        if not isinstance(x, Packed):
            return at_columns(x, index)
        return Packed(scatter_to_union(x.values, x.index, index, self.missing), index)

    def check_shapes(self, inputs: list[StepTensor], num_step_axes: int) -> None:
        """Raise `ShapeError` unless the axes after the step axes broadcast."""
        sizes = [tuple(x.shape[num_step_axes:]) for x in inputs if x.ndim == inputs[0].ndim]
        if any(len(set(axis) - {1}) > 1 for axis in zip(*sizes, strict=True)):
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} merges element by element, so its inputs need the same "
                f"shape, or size 1 where they differ; got shapes {[tuple(x.shape) for x in inputs]}."
            )

    def compute_mask(self, inputs: list[StepTensor], mask: object = None) -> Tensor | None:
        """Return the steps that some masked input has; None if no input has a mask."""
        masks = [torch.as_tensor(m, dtype=torch.bool) for m in leaves(mask) if m is not None]
        return reduce(torch.logical_or, masks) if masks else None


def check_inputs(layer: Layer, inputs: object) -> list[StepTensor]:
    """Return the inputs of a merging layer as a list.

    Raises:
        ArgumentError: They are not a list or tuple of tensors.
    """
    if not isinstance(inputs, list | tuple) or len(inputs) < 1:
        raise ArgumentError(
            f"{type(layer).__name__} {layer.name!r} merges a list of inputs; got "
            f"{type(inputs).__name__}. Call it as {type(layer).__name__}()([x, y])."
        )
    for position, x in enumerate(inputs):
        if not isinstance(x, Tensor | Packed):
            raise ArgumentError(
                f"{type(layer).__name__} {layer.name!r} merges tensors; got "
                f"{'None' if x is None else type(x).__name__} as input {position} of {len(inputs)}."
            )
    return list(inputs)


def _add_axes(x: StepTensor, ndim: int) -> StepTensor:
    """Give a plain input `ndim` axes, with axes of size 1 after the batch, as Keras does."""
    while x.ndim < ndim and not isinstance(x, Packed):
        x = x.unsqueeze(1)
    return x


def _union_of_steps(layer: Layer, packed: list[Packed]) -> Index:
    """Return the index of the steps that some input has."""
    grids = {x.index.grid for x in packed}
    if len(grids) > 1:
        raise MaskError(
            f"{type(layer).__name__} {layer.name!r} merges inputs with masks of different shapes: "
            f"{sorted(grids)}. They must have the same batch and steps."
        )
    return reduce(union, [x.index for x in packed])


def _fold(function: Callable[[Tensor, Tensor], Tensor], inputs: list[StepTensor]) -> StepTensor:
    """Merge the inputs pairwise, from left to right, with a torch function that keeps a mask."""
    return reduce(function, inputs)  # pyright: ignore[reportArgumentType] - torch's stubs know tensors only


def _with_gap_values_of_first(
    merged: StepTensor, inputs: list[StepTensor], function: Callable[[Tensor], Tensor]
) -> StepTensor:
    """Return a merge whose gap values are those of the first input after `function`; 0 if an input has none."""
    if not isinstance(merged, Packed) or merged.gap_values is None:
        return merged
    gap_values = [x.gap_values if isinstance(x, Packed) else None for x in inputs]
    first = gap_values[0]
    if first is None or any(values is None or len(values) != len(merged.gap_values) for values in gap_values):
        return merged.with_values(merged.values)
    return merged.with_values(merged.values, function(first).expand_as(merged.gap_values))


@register("layer")
class Add(Merge):
    """Add the inputs, as Keras's `Add`.

    The inputs are a list of tensors that broadcast. The output has every step that some masked input has. An input
    without the step counts as 0.

    Example:
        >>> Add()([torch.ones(1, 2), torch.ones(1, 2)]).tolist()
        [[2.0, 2.0]]
    """

    def merge(self, inputs: list[StepTensor]) -> StepTensor:
        """Add the inputs."""
        return _fold(torch.add, inputs)


@register("layer")
class Subtract(Merge):
    """Subtract the second input from the first, as Keras's `Subtract`.

    The output has every step that one of the masked inputs has. An input without the step counts as 0.

    Raises:
        ArgumentError: In the call, if there are not exactly two inputs.

    Example:
        >>> Subtract()([torch.ones(1, 2), torch.ones(1, 2)]).tolist()
        [[0.0, 0.0]]
    """

    def merge(self, inputs: list[StepTensor]) -> StepTensor:
        """Subtract the second input from the first."""
        if len(inputs) != 2:
            raise ArgumentError(f"Subtract {self.name!r} takes exactly two inputs; got {len(inputs)}.")
        return inputs[0] - inputs[1]


@register("layer")
class Multiply(Merge):
    """Multiply the inputs, as Keras's `Multiply`.

    The inputs are a list of tensors that broadcast. The output has every step that some masked input has. An input
    without the step counts as 1.

    Example:
        >>> Multiply()([torch.full((1, 2), 2.0), torch.full((1, 2), 3.0)]).tolist()
        [[6.0, 6.0]]
    """

    missing = 1.0

    def merge(self, inputs: list[StepTensor]) -> StepTensor:
        """Multiply the inputs; gaps show 0, as in Keras."""
        return _with_gap_values_of_first(_fold(torch.mul, inputs), inputs, torch.zeros_like)


@register("layer")
class Average(Merge):
    """Average the inputs that have the step, as Keras's `Average`.

    The inputs are a list of tensors that broadcast. The output has every step that some masked input has.

    Example:
        >>> Average()([torch.ones(1, 2), torch.full((1, 2), 3.0)]).tolist()
        [[2.0, 2.0]]
    """

    def merge(self, inputs: list[StepTensor]) -> StepTensor:
        """Average the inputs."""
        return _fold(torch.add, inputs) / len(inputs)

    def merge_with_missing_steps(self, inputs: list[StepTensor], is_present: list[Tensor | None]) -> StepTensor:
        """Average at each step the inputs that have the step."""
        merged = _fold(torch.add, inputs)
        if not isinstance(merged, Packed):
            return merged
        feature_axes = (1,) * (merged.values.ndim - 1)
        count = sum(1 if flags is None else flags.reshape(-1, *feature_axes).to(merged.dtype) for flags in is_present)
        return merged.with_values(merged.values / count)


class _Extremum(Merge):
    """Base class of Maximum and Minimum."""

    choose = staticmethod(torch.maximum)

    def merge(self, inputs: list[StepTensor]) -> StepTensor:
        """Return the extremum; gaps show that of the first input, as in Keras."""
        return _with_gap_values_of_first(_fold(type(self).choose, inputs), inputs, lambda gap_values: gap_values)


@register("layer")
class Maximum(_Extremum):
    """Return the largest of the inputs that have the step, as Keras's `Maximum`.

    The inputs are a list of tensors that broadcast. The output has every step that some masked input has.

    Example:
        >>> Maximum()([torch.ones(1, 2), torch.full((1, 2), 3.0)]).tolist()
        [[3.0, 3.0]]
    """

    missing = -float("inf")


@register("layer")
class Minimum(_Extremum):
    """Return the smallest of the inputs that have the step, as Keras's `Minimum`.

    The inputs are a list of tensors that broadcast. The output has every step that some masked input has.

    Example:
        >>> Minimum()([torch.ones(1, 2), torch.full((1, 2), 3.0)]).tolist()
        [[1.0, 1.0]]
    """

    missing = float("inf")
    choose = staticmethod(torch.minimum)
