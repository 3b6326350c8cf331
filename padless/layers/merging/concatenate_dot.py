"""Layers that join inputs along an axis: Concatenate sets them side by side, Dot multiplies and sums.

Over features each step is joined with its like. Over time Concatenate takes an unmasked input as wholly real, and Dot
runs over the steps that both inputs have.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from padless.errors import ArgumentError, MaskError, MaskLost, ShapeError
from padless.kernels.batched_products import (
    l2_normalize_over_time,
    products_of_step_pairs,
    products_over_time,
    sums_over_inner_steps,
)
from padless.kernels.union import concatenate_indexes
from padless.layers.base.layer import Layer
from padless.layers.merging.elementwise import Merge, check_inputs
from padless.ragged.broadcast import align
from padless.ragged.device import to_device
from padless.ragged.index import Index
from padless.ragged.mask import intersection
from padless.ragged.packed import Packed, gather_real_steps
from padless.registry import register


@register("layer")
class Concatenate(Merge):
    """The inputs side by side: their features (`axis=-1`), or their steps (`axis=1`).

    Of features, an input that lacks a step is 0 there. Over time an unmasked input is wholly real.

    >>> Concatenate()([torch.ones(1, 2), torch.zeros(1, 1)]).tolist()
    [[1.0, 1.0, 0.0]]
    """

    relation = "merge"

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def combined(self, inputs: list[Any]) -> Any:
        """Side by side on a feature axis."""
        first = next((x for x in inputs if isinstance(x, Packed)), None)
        if first is not None and any(not isinstance(x, Packed) for x in inputs):
            return _beside(first, inputs, self.axis)
        return torch.cat(inputs, dim=self.axis)

    def call(self, inputs: Any) -> Any:
        """The inputs joined along the axis."""
        inputs = check_inputs(self, inputs)
        ranks = {x.ndim for x in inputs}
        if len(ranks) > 1:
            raise ShapeError(
                f"Concatenate {self.name!r} needs inputs with the same number of axes; got shapes "
                f"{[tuple(x.shape) for x in inputs]}."
            )
        axis = self.axis % ranks.pop()
        others = {tuple(size for k, size in enumerate(x.shape) if k != axis) for x in inputs}
        if len(others) > 1:
            raise ShapeError(
                f"Concatenate {self.name!r} joins along axis {self.axis}, so all other axes must agree; got "
                f"shapes {[tuple(x.shape) for x in inputs]}."
            )
        leads = {x.num_step_axes for x in inputs if isinstance(x, Packed)}
        if 0 < axis < max(leads, default=0):
            if len(leads) > 1:
                raise MaskError(
                    f"Concatenate {self.name!r} joins steps, but its inputs have masks of {sorted(leads)} axes. "
                    f"They must be masked on the same levels."
                )
            return _after(inputs, axis, leads.pop())
        return super().call(inputs)

    def _fit(self, inputs: list[Any], lead: int) -> None:
        """`call` has seen to it."""

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Over features the steps that some masked input has; over time the masks side by side."""
        given = [None if m is None else torch.as_tensor(m, dtype=torch.bool) for m in mask or ()]
        lead = max((m.ndim for m in given if m is not None), default=0)
        axis = self.axis % inputs[0].ndim
        if not 0 < axis < lead:
            return super().compute_mask(inputs, mask)
        masks = [
            torch.ones(tuple(x.shape[:lead]), dtype=torch.bool) if m is None else m
            for x, m in zip(inputs, given, strict=True)
        ]
        return torch.cat(masks, dim=axis)


def _beside(first: Packed, inputs: list[Any], axis: int) -> Packed:
    """Features joined where some inputs are plain grids: those are read at the steps, and cannot be shown in gaps."""
    met = [x if isinstance(x, Packed) else align(first, x) for x in inputs]
    values = torch.cat(
        [x if isinstance(x, Tensor) else x.values for x in met], dim=axis % first.ndim - first.num_step_axes + 1
    )
    return first.with_values(values)


def _after(inputs: list[Any], axis: int, lead: int) -> Packed:
    """Steps joined on an axis of the grid; what is not masked is wholly real."""
    packed = [x if isinstance(x, Packed) else _wholly(x, lead) for x in inputs]
    whole, places = concatenate_indexes([x.index for x in packed], axis)
    values = torch.cat([x.values for x in packed])
    return Packed(values.index_select(0, to_device(places, values.device)), whole)


def _wholly(x: Tensor, lead: int) -> Packed:
    index = Index.from_mask(np.ones(tuple(x.shape[:lead]), dtype=bool), "an input without a mask")
    return Packed(x.reshape(-1, *x.shape[lead:]), index)


@register("layer")
class Dot(Layer):
    """The products of two inputs, summed over one axis of each; what remains are the other axes, the first input's first.

    Keras's `Dot`; with `normalize` it is the cosine. Masks stay where their steps do:

    - Summed over features, `(B, T, D)` and `(B, S, D)` give `(B, T, S)`, masked where both have a step: sequences of
      sequences, whose outer level are the steps of the first. A vector `(B, D)` and `(B, S, D)` give `(B, S)`.
    - Summed over time, it runs over the steps that both have, and their mask is consumed: `(B, T, D)` and `(B, T, E)` give
      `(B, D, E)`. An unmasked input is read at the steps of the other. Keras counts padding.
    - `(B, T, S)`, masked on both levels, and `(B, S, E)` give `(B, T, E)` on the steps of the first.

    >>> from padless import pack
    >>> x = pack([[[1.0], [2.0]], [[3.0]]])
    >>> Dot(axes=1)([x, x]).tolist()
    [[[5.0]], [[9.0]]]
    >>> Dot(axes=2)([x, x]).numpy().tolist()
    [[[1.0, 2.0], [2.0, 4.0]], [[9.0, 0.0], [0.0, 0.0]]]
    """

    relation = "merge"

    def __init__(self, axes: int | tuple[int, int] | list[int], normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        pair = isinstance(axes, list | tuple) and len(axes) == 2 and all(isinstance(axis, int) for axis in axes)
        if not isinstance(axes, int) and not pair:
            raise ArgumentError(f"Dot expected `axes` to be an integer, or two of them, one for each input; got {axes!r}.")
        self.axes = axes
        self.normalize = normalize

    def _axes(self, shapes: Any) -> tuple[int, int]:
        """The axis of each input, counted from the front."""
        if not isinstance(shapes, list | tuple) or len(shapes) != 2 or not isinstance(shapes[0], list | tuple):
            raise ArgumentError(f"Dot {self.name!r} takes a list of two inputs; got shapes {shapes}.")
        axes = [self.axes] * 2 if isinstance(self.axes, int) else list(self.axes)
        for axis, shape in zip(axes, shapes, strict=True):
            if not -len(shape) <= axis < len(shape) or axis % len(shape) == 0:
                raise ShapeError(
                    f"Dot {self.name!r} sums over axis {axis} of an input of shape {tuple(shape)}, which must "
                    f"be one of its axes, and not the batch."
                )
        first, second = (axis % len(shape) for axis, shape in zip(axes, shapes, strict=True))
        if shapes[0][first] != shapes[1][second] or shapes[0][0] != shapes[1][0]:
            raise ShapeError(
                f"Dot {self.name!r} sums over axes {(first, second)}, so these and the batch must agree; got "
                f"shapes {[tuple(shape) for shape in shapes]}."
            )
        return first, second

    def call(self, inputs: Any) -> Any:
        """The sums of products."""
        i, j = self._axes([tuple(x.shape) for x in check_inputs(self, inputs)])
        x, y = inputs
        if isinstance(x, Packed) and isinstance(y, Packed) and i == j == 1 and x.num_step_axes == y.num_step_axes == 2:
            both = intersection(x.index, y.index)
            x, y = x.reindex(both), y.reindex(both)
        x, i = _met(x, i, y, j)
        y, j = _met(y, j, x, i)
        if self.normalize:
            x, y = _unit(x, i), _unit(y, j)
        if isinstance(x, Packed) and x.num_step_axes == 3 and i == 2:
            return self._over_inner(x, y, j)
        if any(isinstance(side, Packed) and side.num_step_axes > 2 for side in (x, y)):
            raise MaskLost(
                f"Dot {self.name!r} takes sequences of sequences only as its first input, summed over the inner "
                f"steps, axis 2; got {x!r} and {y!r}, summed over axes {(i, j)}. Use TimeDistributed, or end a "
                f"mask with DropMask()."
            )
        if isinstance(x, Packed) and isinstance(y, Packed) and i == j == 1:
            return _over_time(x, y)
        x, y = (
            side.unpack(padding=0) if isinstance(side, Packed) and axis == 1 else side for side, axis in ((x, i), (y, j))
        )  # summed with the features of the other: a step less is a 0
        return self._over_features(x, y, i, j)

    def _over_features(self, x: Any, y: Any, i: int, j: int) -> Any:
        """Every step of the one with every step of the other."""
        if not isinstance(x, Packed) and not isinstance(y, Packed):
            return _plain(x, y, i, j)
        if isinstance(y, Packed) and x.ndim > 3:
            raise MaskLost(
                f"Dot {self.name!r} would set the steps of {y!r} behind the features of the first input, of "
                f"shape {tuple(x.shape)}, where no mask can follow. Give it as the first input, or end its mask "
                f"with DropMask()."
            )
        if x.ndim == 2 or y.ndim == 2:
            steps, vector, axis = (y, x, j) if x.ndim == 2 else (x, y, i)
            return _with_vector(steps, vector, axis)
        (a, queries, first), (b, keys, second) = _features_last(x, i), _features_last(y, j)
        pairs = products_of_step_pairs(a, b, queries, keys)  # (cells, P, Q)
        if isinstance(y, Packed):
            mask = queries.mask[:, :, None] & keys.mask[:, None, :]
            return Packed(pairs.reshape(len(pairs), *second), Index.from_mask(mask, _mask_source(queries, keys)))
        pairs = pairs.reshape(queries.num_steps, keys.shape[1], *pairs.shape[1:]).transpose(1, 2)
        return x.with_values(pairs.reshape(queries.num_steps, *first, keys.shape[1], *second))

    def _over_inner(self, x: Packed, y: Any, j: int) -> Packed:
        """The steps of the one, weighed by the inner steps of the other."""
        if isinstance(y, Packed) and (y.num_step_axes > 2 or j != 1):
            raise MaskLost(
                f"Dot {self.name!r} sums over the inner steps of {x!r}, so the second input must be summed over "
                f"its steps, axis 1; got {y!r}, summed over axis {j}."
            )
        outer: Any = x.index.outer
        sums = sums_over_inner_steps(_flat(x.values), _flat(y.values), x.index, y.index)
        return Packed(sums.reshape(outer.num_steps, *x.values.shape[1:], *y.values.shape[1:]), outer)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Which sums belong to steps: those of the first input, of the second, or of both."""
        axes = self._axes([tuple(x.shape) for x in inputs])
        first, second = (
            None if m is None else _left(torch.as_tensor(m, dtype=torch.bool), axis)
            for m, axis in zip(mask or (None, None), axes, strict=True)
        )
        shape = [size for k, size in enumerate(inputs[0].shape) if k != axes[0]]
        if second is None or len(shape) == 1:
            return first if second is None else second
        first = torch.ones(shape[:2], dtype=torch.bool) if first is None else first
        return first[:, :, None] & second[:, None, :]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The axes that were not summed over."""
        i, j = self._axes(input_shape)
        first, second = ([*shape] for shape in input_shape)
        shape = (*first[:i], *first[i + 1 :], *second[1:j], *second[j + 1 :])
        return shape if len(shape) > 1 else (*shape, 1)


def _mask_source(first: Index, second: Index) -> str:
    return " and ".join(dict.fromkeys([first.mask_source, second.mask_source]))


def _left(mask: Tensor, axis: int) -> Tensor | None:
    """What is left of a mask when an axis is summed over."""
    if axis >= mask.ndim:
        return mask
    return None if mask.ndim == 2 else mask.any(-1)


def _unit(x: Any, axis: int) -> Any:
    """Numbers of length 1 along an axis; over time, of each sequence."""
    if isinstance(x, Packed) and axis < x.num_step_axes:
        return x.with_values(l2_normalize_over_time(x.values, x.index))
    return functional.normalize(x, dim=axis, eps=1e-7)  # pyright: ignore[reportArgumentType] - the table knows it


def _features_last(x: Any, axis: int) -> tuple[Tensor, Index, tuple[int, ...]]:
    """The steps of an input as `(N, P, D)`, the axis to be summed over last; where they stand; and the axes that are P."""
    if isinstance(x, Packed):
        steps, index = x.values.movedim(axis - 1, -1), x.index
    else:
        x = x.movedim(axis, -1)
        steps, index = x.reshape(-1, *x.shape[2:]), Index.dense(*x.shape[:2])
    rest = tuple(steps.shape[1:-1])
    return steps.reshape(len(steps), math.prod(rest), steps.shape[-1]), index, rest


def _flat(steps: Tensor) -> Tensor:
    """All features in one axis."""
    return steps.reshape(len(steps), math.prod(steps.shape[1:]))


def _with_vector(x: Any, vector: Any, axis: int) -> Packed:
    """Each step with the one vector of its sequence."""
    steps, index, rest = _features_last(x, axis)
    sums = (steps @ vector.index_select(0, index.tensor("rows", vector.device))[:, :, None])[..., 0]
    return x.with_values(sums.reshape(index.num_steps, *rest))


def _met(x: Any, axis: int, other: Any, summed: int) -> tuple[Any, int]:
    """An input without a mask at the steps of the other that are summed over, these behind the batch."""
    if (
        isinstance(x, Packed)
        or not isinstance(other, Packed)
        or summed != other.num_step_axes - 1
        or other.num_step_axes > 3
    ):
        return x, axis
    index = (
        other.index
        if other.num_step_axes == 2
        else Index.from_mask(np.asarray(other.index.mask.any(1)), other.index.mask_source)
    )
    return Packed(gather_real_steps(x.movedim(axis, 1), index), index), 1


def _over_time(x: Packed, y: Packed) -> Tensor:
    """Sums over the steps that both have, which are the same by now."""
    sums = products_over_time(_flat(x.values), _flat(y.values), x.index)
    return sums.reshape(x.shape[0], *(tuple(x.values.shape[1:]) + tuple(y.values.shape[1:]) or (1,)))


def _plain(x: Tensor, y: Tensor, i: int, j: int) -> Tensor:
    """The sum of products without any mask."""
    x, y = x.movedim(i, -1), y.movedim(j, -1)
    first, second = tuple(x.shape[1:-1]), tuple(y.shape[1:-1])
    size = x.shape[-1]
    sums = x.reshape(len(x), math.prod(first), size) @ y.reshape(len(y), math.prod(second), size).transpose(1, 2)
    return sums.reshape(len(x), *(first + second or (1,)))
