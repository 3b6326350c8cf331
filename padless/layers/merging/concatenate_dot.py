"""Concatenate and Dot: layers that join inputs along an axis.

Over features they join each step with the same step of the other inputs. Over time Concatenate takes every step of a
plain input as real, and Dot sums over the steps that both inputs have.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Unpack, cast

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
from padless.ragged.mask import check_columns, intersection
from padless.ragged.packed import Packed, gather_real_steps
from padless.ragged.plan_limit import check_plan
from padless.registry import register
from padless.types import LayerOptions, MaskLike, Shape, StepTensor


@register("layer")
class Concatenate(Merge):
    """Concatenate the inputs along an axis, as Keras's `Concatenate`.

    Over features (`axis=-1`) the output has every step that some masked input has, and an input without the step counts
    as 0. Over time (`axis=1`) the masks are concatenated too, and every step of a plain input is real.

    Args:
        axis: The axis.

    Raises:
        MaskError: The inputs have masks on different axes.
        ShapeError: The other axes of the inputs differ.

    Example:
        >>> Concatenate()([torch.ones(1, 2), torch.zeros(1, 1)]).tolist()
        [[1.0, 1.0, 0.0]]
    """

    relation = "merge"

    def __init__(self, axis: int = -1, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def merge(self, inputs: list[StepTensor]) -> StepTensor:
        """Concatenate along an axis of features."""
        first = next((x for x in inputs if isinstance(x, Packed)), None)
        if first is not None and any(not isinstance(x, Packed) for x in inputs):
            return _concatenate_with_plain(first, inputs, self.axis)
        return torch.cat(cast("list[Tensor]", inputs), dim=self.axis)

    def call(self, inputs: list[StepTensor]) -> StepTensor:
        """Concatenate the inputs."""
        inputs = check_inputs(self, inputs)
        shapes = [tuple(x.shape) for x in inputs]
        if len({x.ndim for x in inputs}) > 1:
            raise ShapeError(f"Concatenate {self.name!r} needs inputs with the same number of axes; got shapes {shapes}.")
        axis = self.axis % inputs[0].ndim
        if len({shape[:axis] + shape[axis + 1 :] for shape in shapes}) > 1:
            raise ShapeError(
                f"Concatenate {self.name!r} joins along axis {self.axis}, so all other axes must agree; got shapes {shapes}."
            )
        mask_ndims = {x.num_step_axes for x in inputs if isinstance(x, Packed)}
        if not 0 < axis < max(mask_ndims, default=0):
            return super().call(inputs)
        if len(mask_ndims) > 1:
            raise MaskError(
                f"Concatenate {self.name!r} joins steps, but its inputs have masks of {sorted(mask_ndims)} axes. "
                f"They must be masked on the same levels."
            )
        return _concatenate_steps(inputs, axis, mask_ndims.pop())

    def check_shapes(self, inputs: list[StepTensor], num_step_axes: int) -> None:
        """Accept all shapes: `call` has checked them."""

    def compute_mask(self, inputs: list[StepTensor], mask: list[MaskLike | None] | None = None) -> Tensor | None:
        """Return the steps that some masked input has; over time the concatenated masks."""
        masks = [None if m is None else torch.as_tensor(m, dtype=torch.bool) for m in mask or ()]
        mask_ndim = max((m.ndim for m in masks if m is not None), default=0)
        axis = self.axis % inputs[0].ndim
        if not 0 < axis < mask_ndim:
            return super().compute_mask(inputs, mask)
        complete = [
            torch.ones(tuple(x.shape[:mask_ndim]), dtype=torch.bool) if m is None else m
            for x, m in zip(inputs, masks, strict=True)
        ]
        return torch.cat(complete, dim=axis)


def _concatenate_with_plain(first: Packed, inputs: list[StepTensor], axis: int) -> Packed:
    """Concatenate features where some inputs are plain: these are read at the steps of `first`, and gaps show 0."""
    aligned = [x if isinstance(x, Packed) else align(first, x) for x in inputs]
    values_axis = axis % first.ndim - first.num_step_axes + 1
    return first.with_values(torch.cat([x if isinstance(x, Tensor) else x.values for x in aligned], dim=values_axis))


def _concatenate_steps(inputs: list[StepTensor], axis: int, num_step_axes: int) -> Packed:
    """Concatenate steps along an axis of the grid; every step of a plain input is real."""
    packed = [x if isinstance(x, Packed) else _pack_all_steps(x, num_step_axes) for x in inputs]
    index, positions = concatenate_indexes([x.index for x in packed], axis)
    values = torch.cat([x.values for x in packed])
    return Packed(values.index_select(0, to_device(positions, values.device)), index)


def _pack_all_steps(x: Tensor, num_step_axes: int) -> Packed:
    check_plan(*x.shape[:num_step_axes], grid_name="a grid of steps")
    index = Index.from_mask(np.ones(tuple(x.shape[:num_step_axes]), dtype=bool), "an input without a mask")
    return Packed(x.reshape(-1, *x.shape[num_step_axes:]), index)


class _Operand(NamedTuple):
    """An input of Dot, and the axis that is summed over, counted from the front."""

    x: StepTensor
    axis: int

    @property
    def num_step_axes(self) -> int:
        """The number of axes of the mask; 0 without a mask."""
        return self.x.num_step_axes if isinstance(self.x, Packed) else 0

    @property
    def sums_over_time(self) -> bool:
        """Whether the sum is over the masked steps of `(B, T, ...)`."""
        return self.num_step_axes == 2 and self.axis == 1


@register("layer")
class Dot(Layer):
    """Multiply two inputs and sum over one axis of each, as Keras's `Dot`.

    The output has the other axes of the first input, then those of the second. What happens to the masks depends on the
    axes that are summed over:

    - Features of both, `(B, T, D)` and `(B, S, D)`: the output `(B, T, S)` is masked where both have a step. It is a
      sequence of sequences, with the steps of the first input as the outer level. A vector `(B, D)` and `(B, S, D)` give
      `(B, S)` with the mask of the sequence.
    - Time of both, `(B, T, D)` and `(B, T, E)`: the sum is over the steps that both have. The output `(B, D, E)` has no
      mask. A plain input is read at the steps of the other. Keras counts padding.
    - Inner steps of the first, masked on both levels, and time of the second, `(B, T, S)` and `(B, S, E)`. The output
      `(B, T, E)` has the outer steps of the first.

    Args:
        axes: The axis that is summed over, or one axis for each input.
        normalize: Whether each input is L2-normalized along its axis first, so that the output is the cosine.

    Raises:
        ArgumentError: `axes` or the inputs are not what is described here.
        ShapeError: In the call, if the sizes of the axes differ.
        MaskLost: In the call, if the output cannot carry a mask of an input.

    Example:
        >>> from padless import pack
        >>> x = pack([[[1.0], [2.0]], [[3.0]]])
        >>> Dot(axes=1)([x, x]).tolist()
        [[[5.0]], [[9.0]]]
        >>> Dot(axes=2)([x, x]).numpy().tolist()
        [[[1.0, 2.0], [2.0, 4.0]], [[9.0, 0.0], [0.0, 0.0]]]
    """

    relation = "merge"

    def __init__(
        self, axes: int | tuple[int, int] | list[int], normalize: bool = False, **kwargs: Unpack[LayerOptions]
    ) -> None:
        super().__init__(**kwargs)
        is_pair = isinstance(axes, list | tuple) and len(axes) == 2 and all(isinstance(axis, int) for axis in axes)
        if not isinstance(axes, int) and not is_pair:
            raise ArgumentError(f"Dot expected `axes` to be an integer, or two of them, one for each input; got {axes!r}.")
        self.axes = axes
        self.normalize = normalize

    def _axes_from_front(self, shapes: list[Shape]) -> tuple[int, int]:
        """Return the axis of each input counted from the front; raise an error unless axes and batch agree."""
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
                f"Dot {self.name!r} sums over axes {(first, second)}, so the sizes of these and of the batch must agree; "
                f"got shapes {[tuple(shape) for shape in shapes]}."
            )
        return first, second

    def call(self, inputs: list[StepTensor]) -> StepTensor:
        """Compute the sums of products."""
        axes = self._axes_from_front([tuple(x.shape) for x in check_inputs(self, inputs)])
        x, y = _in_common_dtype(inputs[0], inputs[1])
        first, second = _Operand(x, axes[0]), _Operand(y, axes[1])
        if first.sums_over_time and second.sums_over_time:
            first, second = _select_common_steps(first, second)
        first = _gather_summed_steps(first, second)
        second = _gather_summed_steps(second, first)
        if self.normalize:
            first, second = _l2_normalize(first), _l2_normalize(second)
        if first.num_step_axes == 3 and first.axis == 2:
            return self._sum_over_inner_steps(first, second)
        if max(first.num_step_axes, second.num_step_axes) > 2:
            raise MaskLost(
                f"Dot {self.name!r} takes sequences of sequences only as its first input, summed over the inner "
                f"steps, axis 2; got {first.x!r} and {second.x!r}, summed over axes {(first.axis, second.axis)}. Use "
                f"TimeDistributed, or end a mask with DropMask()."
            )
        if isinstance(first.x, Packed) and isinstance(second.x, Packed) and first.axis == second.axis == 1:
            return _sum_over_time(first.x, second.x)
        return self._sum_over_features(_unpack_summed_steps(first), _unpack_summed_steps(second))

    def _sum_over_features(self, first: _Operand, second: _Operand) -> StepTensor:
        """Multiply each step of the first with each step of the second."""
        x, y = first.x, second.x
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return _dot_of_grids(x, first.axis, y, second.axis)
        if isinstance(y, Packed) and x.ndim > 3:
            raise MaskLost(
                f"Dot {self.name!r} would put the steps of {y!r} after the features of the first input, of "
                f"shape {tuple(x.shape)}, where a mask cannot be. Give it as the first input, or end its mask "
                f"with DropMask()."
            )
        if isinstance(y, Packed) and isinstance(x, Tensor) and x.ndim == 2:
            return _multiply_by_vectors(y, second.axis, x)
        if isinstance(x, Packed) and isinstance(y, Tensor) and y.ndim == 2:
            return _multiply_by_vectors(x, first.axis, y)
        queries, keys = _steps_with_summed_axis_last(first), _steps_with_summed_axis_last(second)
        pairs = products_of_step_pairs(queries.rows, keys.rows, queries.index, keys.index)  # (cells, P, Q)
        if isinstance(y, Packed):
            mask = queries.index.mask[:, :, None] & keys.index.mask[:, None, :]
            index = Index.from_mask(mask, _join_mask_sources(queries.index, keys.index))
            return Packed(pairs.reshape(len(pairs), *keys.sizes), index)
        num_queries, num_keys = queries.index.num_steps, keys.index.shape[1]
        pairs = pairs.reshape(num_queries, num_keys, *pairs.shape[1:]).transpose(1, 2)
        return cast("Packed", x).with_values(pairs.reshape(num_queries, *queries.sizes, num_keys, *keys.sizes))

    def _sum_over_inner_steps(self, first: _Operand, second: _Operand) -> Packed:
        """Sum the steps of the second input with the inner steps of the first as weights."""
        x, y = cast("Packed", first.x), second.x
        if not isinstance(y, Packed) or not second.sums_over_time:
            raise MaskLost(
                f"Dot {self.name!r} sums over the inner steps of {x!r}, so the second input must be summed over "
                f"its steps, axis 1; got {y!r}, summed over axis {second.axis}."
            )
        outer = cast("Index", x.index.outer)
        sums = sums_over_inner_steps(_flatten_features(x.values), _flatten_features(y.values), x.index, y.index)
        return Packed(sums.reshape(outer.num_steps, *x.values.shape[1:], *y.values.shape[1:]), outer)

    def compute_mask(self, inputs: list[StepTensor], mask: list[MaskLike | None] | None = None) -> Tensor | None:
        """Return the mask of the output: that of the first input, of the second, or of both as two levels."""
        axes = self._axes_from_front([tuple(x.shape) for x in inputs])
        first, second = (
            None if m is None else _mask_without_axis(torch.as_tensor(m, dtype=torch.bool), axis)
            for m, axis in zip(mask or (None, None), axes, strict=True)
        )
        first_sizes = [size for axis, size in enumerate(inputs[0].shape) if axis != axes[0]]
        if second is None or len(first_sizes) == 1:
            return first if second is None else second
        if first is None:
            first = torch.ones(first_sizes[:2], dtype=torch.bool)
        return first[:, :, None] & second[:, None, :]

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        """Return the axes of both inputs that are not summed over, or `(B, 1)` if there are none."""
        first_axis, second_axis = self._axes_from_front(input_shape)
        first, second = ([*shape] for shape in input_shape)
        del first[first_axis], second[second_axis]
        shape = (*first, *second[1:])
        return shape if len(shape) > 1 else (*shape, 1)


def _in_common_dtype(x: StepTensor, y: StepTensor) -> tuple[StepTensor, StepTensor]:
    """Return both inputs in the dtype to which torch promotes them: a product of matrices does not promote."""
    dtype = torch.promote_types(x.dtype, y.dtype)
    return cast("StepTensor", x.to(dtype)), cast("StepTensor", y.to(dtype))


def _join_mask_sources(first: Index, second: Index) -> str:
    return " and ".join(dict.fromkeys([first.mask_source, second.mask_source]))


def _mask_without_axis(mask: Tensor, axis: int) -> Tensor | None:
    """Return the mask that remains after a sum over an axis of the input."""
    if axis >= mask.ndim:
        return mask
    return None if mask.ndim == 2 else mask.any(-1)


def _select_common_steps(first: _Operand, second: _Operand) -> tuple[_Operand, _Operand]:
    """Return two masked inputs on the steps that both have."""
    x, y = cast("Packed", first.x), cast("Packed", second.x)
    both = intersection(x.index, y.index)
    x, y = x.reindex(both), y.reindex(both)
    return _Operand(x, first.axis), _Operand(y, second.axis)


def _gather_summed_steps(operand: _Operand, other: _Operand) -> _Operand:
    """Read a plain input at the steps of the other that are summed over; they become its axis 1.

    The steps are those of a sequence, or the inner steps that at least one outer step has.
    """
    x, y = operand.x, other.x
    if not isinstance(x, Tensor) or not isinstance(y, Packed):
        return operand
    if y.num_step_axes == 2 and other.axis == 1:
        index = y.index
    elif y.num_step_axes == 3 and other.axis == 2:
        index = Index.from_mask(np.asarray(y.index.mask.any(1)), y.index.mask_source, y.index.columns_agree)
    else:
        return operand
    check_columns(index, x.shape, "An input")
    return _Operand(Packed(gather_real_steps(x.movedim(operand.axis, 1), index), index), 1)


def _unpack_summed_steps(operand: _Operand) -> _Operand:
    """Unpack an input whose steps are summed with the features of the other: a masked step is 0."""
    if isinstance(operand.x, Packed) and operand.axis == 1:
        return _Operand(operand.x.unpack(padding=0), operand.axis)
    return operand


def _l2_normalize(operand: _Operand) -> _Operand:
    """Divide an input by its L2 norm along its axis; over time by that of each sequence."""
    x, axis = operand
    if isinstance(x, Packed) and axis < x.num_step_axes:
        return _Operand(x.with_values(l2_normalize_over_time(x.values, x.index)), axis)
    return _Operand(functional.normalize(cast("Tensor", x), dim=axis, eps=1e-7), axis)


class _Rows(NamedTuple):
    """The steps of an input as rows `(N, P, D)` with the summed axis last; `sizes` are those of the axes in P."""

    rows: Tensor
    index: Index
    sizes: tuple[int, ...]


def _steps_with_summed_axis_last(operand: _Operand) -> _Rows:
    x, axis = operand
    if isinstance(x, Packed):
        steps, index = x.values.movedim(axis - 1, -1), x.index
    else:
        grid = x.movedim(axis, -1)
        steps, index = grid.reshape(-1, *grid.shape[2:]), Index.dense(*grid.shape[:2])
    sizes = tuple(steps.shape[1:-1])
    return _Rows(steps.reshape(len(steps), math.prod(sizes), steps.shape[-1]), index, sizes)


def _flatten_features(steps: Tensor) -> Tensor:
    """Return steps `(N, ...)` as rows `(N, D)`."""
    return steps.reshape(len(steps), math.prod(steps.shape[1:]))


def _multiply_by_vectors(x: Packed, axis: int, vectors: Tensor) -> Packed:
    """Multiply each step with the vector of its sequence, `vectors` `(B, D)`."""
    steps = _steps_with_summed_axis_last(_Operand(x, axis))
    vector_of_step = vectors.index_select(0, steps.index.tensor("rows", vectors.device))
    sums = (steps.rows @ vector_of_step[:, :, None])[..., 0]
    return x.with_values(sums.reshape(steps.index.num_steps, *steps.sizes))


def _sum_over_time(x: Packed, y: Packed) -> Tensor:
    """Sum the products of two inputs on the same steps."""
    sums = products_over_time(_flatten_features(x.values), _flatten_features(y.values), x.index)
    sizes = (*x.values.shape[1:], *y.values.shape[1:])
    return sums.reshape(x.shape[0], *(sizes or (1,)))


def _dot_of_grids(x: Tensor, x_axis: int, y: Tensor, y_axis: int) -> Tensor:
    """Sum the products of two plain inputs."""
    x, y = x.movedim(x_axis, -1), y.movedim(y_axis, -1)
    x_sizes, y_sizes = tuple(x.shape[1:-1]), tuple(y.shape[1:-1])
    size = x.shape[-1]
    sums = x.reshape(len(x), math.prod(x_sizes), size) @ y.reshape(len(y), math.prod(y_sizes), size).transpose(1, 2)
    return sums.reshape(len(x), *(x_sizes + y_sizes or (1,)))
