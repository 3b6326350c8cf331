"""Layers that rearrange axes. The mask passes where batch and time keep their places; DropMask and Flatten end it."""

from __future__ import annotations

import math
from typing import Unpack, cast

import torch
from torch import Tensor

from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.graph.symbolic import in_shape_inference
from padless.layers.base.layer import Layer
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gap_values_needed, unpack
from padless.registry import register
from padless.types import LayerOptions, MaskLike, Shape, StepTensor


@register("layer")
class DropMask(Layer):
    """Return the padded grid as a plain tensor, so that padding counts as data from here on.

    The output has the shape of the input. Masked steps are the gap values that the grid shows. Keras does not have this
    layer.

    Example:
        >>> from padless import pack
        >>> DropMask()(pack([[1.0, 2.0], [3.0]])).tolist()
        [[1.0, 2.0], [3.0, 0.0]]
    """

    relation = "padded_grid"

    def call(self, inputs: StepTensor) -> Tensor:
        """Unpack the inputs."""
        return unpack(inputs)

    def compute_mask(self, inputs: StepTensor, mask: MaskLike | None = None) -> None:
        """Return None: the layer ends the mask."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return tuple(input_shape)


@register("layer")
class Flatten(Layer):
    """Flatten all axes but the batch, as Keras's `Flatten`: `(B, T, D)` gives `(B, T * D)`.

    The layer ends the mask. Of a masked input it flattens the padded grid, as Keras does. The position of a number is its
    column in the grid, so the result depends on the padding.

    Args:
        data_format: "channels_last", or "channels_first" to move axis 1 to the end first.

    Raises:
        ArgumentError: The data format is not known.

    Example:
        >>> Flatten()(torch.ones(2, 3, 4)).shape
        torch.Size([2, 12])
    """

    relation = "padded_grid"

    def __init__(self, data_format: str | None = None, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        if data_format not in (None, "channels_last", "channels_first"):
            raise ArgumentError(f"data_format must be 'channels_last' or 'channels_first'; got {data_format!r}.")
        self.data_format = data_format or "channels_last"

    def call(self, inputs: StepTensor) -> Tensor:
        """Flatten the padded grid."""
        grid = unpack(inputs)
        if self.data_format == "channels_first" and grid.ndim > 2:
            grid = grid.movedim(1, -1)
        return grid.reshape(grid.shape[0], math.prod(grid.shape[1:]))

    def compute_mask(self, inputs: StepTensor, mask: MaskLike | None = None) -> None:
        """Return None: the layer ends the mask."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return `(B, size)`, with None for the size if one of the axes is open."""
        size = 1
        for axis_size in input_shape[1:]:
            if axis_size is None:
                return (input_shape[0], None)
            size *= axis_size
        return (input_shape[0], size)


@register("layer")
class Reshape(Layer):
    """Reshape each example, as Keras's `Reshape`: `(B, ...)` gives `(B, *target_shape)`.

    The mask passes if the target begins with the time axis of the input. Otherwise a masked input raises `MaskLost`,
    where Keras drops the mask.

    Args:
        target_shape: The shape without the batch. One size may be -1, which stands for the remaining elements.

    Raises:
        ArgumentError: More than one size is -1, or a size is below -1.
        ShapeError: The number of elements differs.
        MaskLost: In the call, if the steps of a masked input would move.

    Example:
        >>> Reshape((3, -1))(torch.ones(2, 3, 4, 5)).shape
        torch.Size([2, 3, 20])
    """

    relation = "stepwise"

    def __init__(self, target_shape: int | list[int] | tuple[int, ...], **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.target_shape = tuple(target_shape) if isinstance(target_shape, list | tuple) else (target_shape,)
        if sum(size == -1 for size in self.target_shape) > 1 or any(size < -1 for size in self.target_shape):
            raise ArgumentError(f"Reshape expected sizes of which one may be -1; got {self.target_shape}.")

    def _target_sizes(self, shape: Shape) -> tuple[int, ...]:
        """Return the target for an input of this known shape, with the size that -1 stands for."""
        num_elements = math.prod(cast("tuple[int, ...]", tuple(shape[1:])))
        known_elements = math.prod(size for size in self.target_shape if size != -1)
        if -1 not in self.target_shape:
            fits = num_elements == known_elements
        else:  # in shape inference the time axis of a probe has a length that need not divide
            fits = known_elements > 0 and (num_elements % known_elements == 0 or in_shape_inference())
        if not fits:
            raise ShapeError(
                f"Reshape {self.name!r} cannot reshape {tuple(shape[1:])} to {self.target_shape}: the number of "
                f"elements differs."
            )
        return tuple(num_elements // known_elements if size == -1 else size for size in self.target_shape)

    def call(self, inputs: StepTensor) -> StepTensor:
        """Reshape the inputs."""
        if isinstance(inputs, Packed) and self._moves_steps(inputs):
            return inputs.reshape((inputs.shape[0], *self.target_shape))  # raises MaskLost
        shape = (inputs.shape[0], *self._target_sizes(inputs.shape))
        if isinstance(inputs, Tensor) and math.prod(shape) != math.prod(inputs.shape):  # a probe in shape inference
            return inputs.new_zeros(shape)
        if isinstance(inputs, Packed) and shape == tuple(inputs.shape):
            return inputs
        return inputs.reshape(shape)

    def _moves_steps(self, inputs: Packed) -> bool:
        """Return whether the target does not begin with the step axes of the inputs."""
        pairs = zip(self.target_shape, inputs.index.grid[1:], strict=False)
        return any(size not in (-1, steps) for size, steps in pairs)

    def compute_mask(self, inputs: StepTensor, mask: MaskLike | None = None) -> MaskLike | None:
        """Return the mask if the target has the same steps."""
        if mask is None:
            return None
        mask_ndim = torch.as_tensor(mask).ndim
        keeps_steps = self._target_sizes(inputs.shape)[: mask_ndim - 1] == tuple(inputs.shape[1:mask_ndim])
        return mask if keeps_steps else None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return `(B, *target_shape)`, with None for -1 if the input has an open axis."""
        if None in input_shape[1:]:
            return (input_shape[0], *(None if size == -1 else size for size in self.target_shape))
        return (input_shape[0], *self._target_sizes(input_shape))


@register("layer")
class Permute(Layer):
    """Permute the axes after the batch, as Keras's `Permute`.

    The mask passes if its axes keep their places. Otherwise a masked input raises `MaskLost`, where Keras drops the mask.

    Args:
        dims: The axes in their new order, counted from 1, the first after the batch.

    Raises:
        ArgumentError: The axes are not those from 1 on, each once.
        ShapeError: In the call, if the input has another number of axes.
        MaskLost: In the call, if the time axis of a masked input would move.

    Example:
        >>> Permute((1, 3, 2))(torch.ones(2, 3, 4, 5)).shape
        torch.Size([2, 3, 5, 4])
    """

    relation = "stepwise"

    def __init__(self, dims: list[int] | tuple[int, ...], **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ArgumentError(f"Permute expected each axis from 1 on once, such as (2, 1); got {self.dims}.")

    def _check_ndim(self, shape: Shape) -> None:
        if len(shape) != len(self.dims) + 1:
            raise ShapeError(
                f"Permute {self.name!r} orders {len(self.dims)} axes after the batch; got inputs of shape {tuple(shape)}."
            )

    def call(self, inputs: StepTensor) -> StepTensor:
        """Permute the axes."""
        self._check_ndim(inputs.shape)
        return inputs.permute(0, *self.dims)

    def compute_mask(self, inputs: StepTensor, mask: MaskLike | None = None) -> MaskLike | None:
        """Return the mask if its axes keep their places."""
        mask_ndim = 1 if mask is None else torch.as_tensor(mask).ndim
        return mask if self.dims[: mask_ndim - 1] == tuple(range(1, mask_ndim)) else None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the sizes in their new order."""
        self._check_ndim(input_shape)
        return (input_shape[0], *(input_shape[axis] for axis in self.dims))


@register("layer")
class RepeatVector(Layer):
    """Repeat a vector for each sequence, as Keras's `RepeatVector`: `(B, D)` gives `(B, n, D)`.

    Without `n` the layer is called as `RepeatVector()([vector, steps])`, which Keras does not have. It puts the vector of
    each sequence on all its steps, `(B, T, D)`, with their mask. For sequences of sequences `(B, S, W, ...)` it takes one
    vector for each inner sequence, `(B, S, D)`.

    Args:
        n: The number of repetitions; None to use the steps of another input.

    Raises:
        ArgumentError: `n` is not a positive integer, or without `n` the call does not get two inputs.
        MaskLost: With `n`, if the input is masked.
        ShapeError: In the call, if the shapes are not those described here.

    Example:
        >>> from padless import pack
        >>> RepeatVector(2)(torch.tensor([[1.0]])).tolist()
        [[[1.0], [1.0]]]
        >>> RepeatVector()([torch.tensor([[1.0], [2.0]]), pack([[7, 8], [9]])]).values.tolist()
        [[1.0], [1.0], [2.0]]
    """

    relation = "merge"

    def __init__(self, n: int | None = None, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n <= 0):
            raise ArgumentError(
                f"RepeatVector expected `n` to be a positive integer, or None to take the steps of another input; got {n!r}."
            )
        self.n = n

    def call(self, inputs: StepTensor | list[StepTensor]) -> StepTensor:
        """Repeat the vectors."""
        if self.n is None:
            return _repeat_to_steps(*self._check_vector_and_steps(inputs))
        if isinstance(inputs, Packed):
            raise MaskLost(
                f"RepeatVector {self.name!r} repeats one vector for each sequence; got the steps of {inputs!r}. "
                f"Summarize them first, for example with LastStep or GlobalAveragePooling1D."
            )
        if isinstance(inputs, list | tuple) or inputs.ndim != 2:
            got = _describe(inputs) if isinstance(inputs, Tensor) else f"{len(inputs)} inputs"
            raise ShapeError(
                f"RepeatVector {self.name!r} with n={self.n} expected vectors of shape (batch, features); got "
                f"{got}. RepeatVector() without `n` takes [vector, steps]."
            )
        return inputs[:, None].repeat(1, self.n, 1)

    def _check_vector_and_steps(self, inputs: StepTensor | list[StepTensor]) -> tuple[StepTensor, StepTensor]:
        """Return the vector and the steps; raise an error unless there is one vector for each innermost sequence."""
        if not isinstance(inputs, list | tuple) or len(inputs) != 2:
            raise ArgumentError(
                f"RepeatVector {self.name!r} without `n` takes a list [vector, steps]; got "
                f"{type(inputs).__name__}. For a fixed number of steps give `n`."
            )
        vector, steps = inputs
        levels = vector.ndim - 1  # 1 for sequences, 2 for sequences of sequences
        levels_of_steps = steps.num_step_axes - 1 if isinstance(steps, Packed) else levels
        has_same_levels = 0 < levels == levels_of_steps < steps.ndim
        mask_fits = not isinstance(vector, Packed) or isinstance(steps, Packed) and vector.num_step_axes == levels
        if not has_same_levels or not mask_fits or vector.shape[:levels] != steps.shape[:levels]:
            raise ShapeError(
                f"RepeatVector {self.name!r} expected one vector for each sequence of steps, (batch, features) "
                f"for (batch, steps, ...); got {_describe(vector)} for {_describe(steps)}. In sequences of sequences "
                f"use one layer for each level."
            )
        return vector, steps

    def compute_mask(self, inputs: StepTensor | list[StepTensor], mask: list[MaskLike | None] | None = None) -> object:
        """Return the mask of the steps; None with `n`."""
        return mask[1] if self.n is None and mask is not None else None

    def compute_output_shape(self, input_shape: Shape | list[Shape]) -> Shape:
        """Return `(B, n, D)`, or the step axes with the features of the vector."""
        if self.n is not None:
            batch, features = cast("Shape", input_shape)
            return (batch, self.n, features)
        vector, steps = cast("list[Shape]", input_shape)
        return (*steps[: len(vector)], vector[-1])


def _repeat_to_steps(vector: StepTensor, steps: StepTensor) -> StepTensor:
    """Return the vector of its sequence at each step; gaps show it too."""
    levels = vector.ndim - 1
    if not isinstance(steps, Packed):
        return vector.unsqueeze(levels).expand(*steps.shape[: levels + 1], -1)
    index = steps.index
    if isinstance(vector, Packed):  # on some of the outer steps
        vector = vector.reindex(cast("Index", index.outer)).unpack(padding=0)
    rows = vector.reshape(index.shape[0], vector.shape[-1])
    gap_values = None
    if gap_values_needed():
        gap_values = rows.index_select(0, index.tensor("row_of_gap", rows.device))
    return Packed(rows.index_select(0, index.tensor("rows", rows.device)), index, gap_values)


def _describe(x: StepTensor) -> str:
    return repr(x) if isinstance(x, Packed) else str(tuple(x.shape))
