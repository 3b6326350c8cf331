"""A layer applied to every step: TimeDistributed.

Of packed steps `(N, ...)` the inner layer receives a batch of N examples. Of sequences of sequences it receives the
inner sequences that have a real step. The outer mask says which those are, also if the inner layer creates the mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack, overload

import numpy as np
import torch
from torch import Tensor, nn

from padless._torch_compat import pytree
from padless.errors import ArgumentError, ShapeError
from padless.graph.symbolic import SymbolicTensor, leaves, map_leaves, shape_inference_mode
from padless.layers.base.layer import Layer
from padless.layers.base.mask_creation import MaskCreatingLayer, dry_run_masks
from padless.layers.base.mask_recorder import record_mask
from padless.layers.base.mask_rule import CallSpec, apply_explicit_mask, call_spec_of
from padless.layers.core.torch_module_wrapper import as_layer
from padless.ragged.device import to_device
from padless.ragged.gather import scatter_rows
from padless.ragged.index import Index, Ints
from padless.ragged.mask import intersect_with_mask
from padless.ragged.packed import Packed, gather_real_steps
from padless.registry import register
from padless.saving.serialization import deserialize
from padless.types import ConfigLike, LayerOptions, MaskTree, Shape, ShapeTree, StepTensor, TensorTree


@register("layer")
class TimeDistributed(Layer):
    """Apply a layer to each step of `(B, T, ...)` alone: Keras's `TimeDistributed`. The mask passes.

    The inner layer may create a mask for each step, as an Embedding with `mask_zero` does for the words of sentences. If it
    returns sequences, the result has a mask on both levels. If it returns one vector for each step, a step without a real
    inner step is masked.

    Args:
        layer: a layer or a torch module for one step.
        kwargs: name, trainable, dtype, activity_regularizer, input_shape.

    Example:
        >>> from padless.layers.core.dense import Dense
        >>> import torch
        >>> TimeDistributed(Dense(2))(torch.ones(4, 7, 3)).shape
        torch.Size([4, 7, 2])
    """

    relation = "per_step"

    def __init__(self, layer: nn.Module | ConfigLike, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        if not isinstance(layer, nn.Module | dict):
            raise ArgumentError(f"TimeDistributed applies a layer to each step; got {layer!r}.")
        self.layer: Layer = as_layer(deserialize(layer, ("layer", "module")) if isinstance(layer, dict) else layer)
        self._replace_unbuilt_parameters()  # the weights belong to the inner layer, which reports itself if unbuilt

    if TYPE_CHECKING:  # unlike most layers it returns a Packed for a tensor, if it finds masked steps

        @overload
        def __call__(self, inputs: SymbolicTensor, *args: object, **kwargs: object) -> SymbolicTensor: ...
        @overload
        def __call__(self, inputs: StepTensor, *args: object, **kwargs: object) -> StepTensor: ...
        @overload
        def __call__(self, *args: object, **kwargs: object) -> TensorTree: ...
        def __call__(self, *args: object, **kwargs: object) -> TensorTree: ...

    def build(self, input_shape: Shape) -> None:
        """Create the weights of the inner layer, for one step as an example."""
        if not self.layer.built:
            self.layer.build((None, *self._check_shape(input_shape)[2:]))

    def _check_shape(self, shape: object) -> tuple[int | None, ...]:
        """Return the shape of the only input `(batch, steps, ...)`."""
        if not isinstance(shape, list | tuple) or len(shape) < 3 or isinstance(shape[0], list | tuple):
            raise ShapeError(f"TimeDistributed {self.name!r} expected one input (batch, steps, ...); got {shape}.")
        return tuple(shape)

    def _ensure_built(self, spec: CallSpec, data: Mapping[str, TensorTree]) -> None:
        """Build the inner layer for a symbolic step. On data it builds itself, and so knows which sizes are open."""
        x = data.get("inputs")
        if isinstance(x, SymbolicTensor) and not self.layer.built:
            shape = (None, *self._check_shape(x.shape)[2:])
            step = SymbolicTensor(shape, x.dtype, num_step_axes=max(x.num_step_axes - 1, 0), mask_source=x.mask_source)
            inner_spec = call_spec_of(type(self.layer))
            self.layer._ensure_built(inner_spec, {inner_spec.names[0]: step})
        self.built = True

    def call(self, inputs: StepTensor, training: bool = False, mask: MaskTree = None) -> TensorTree:
        """Apply the inner layer to each step, and put its results on the grid of the steps."""
        if not isinstance(inputs, Tensor | Packed):
            raise ShapeError(
                f"TimeDistributed {self.name!r} takes one input (batch, steps, ...); got "
                f"{type(inputs).__name__}. Several go through it one by one, or joined by Concatenate."
            )
        self._check_shape(tuple(inputs.shape))
        steps = self._apply_inner_masks(inputs)
        if not isinstance(steps, Packed):
            outputs = self.layer(steps.flatten(0, 1), training=training)
            return map_leaves(lambda x: _unflatten_steps(x, tuple(steps.shape[:2])), outputs)
        if steps.num_step_axes == 2:
            return self._call_on_steps(steps, training)
        return self._call_on_inner_sequences(steps, training)

    def _apply_inner_masks(self, inputs: StepTensor) -> StepTensor:
        """Mask the steps in which the inner layer finds no real inner step."""
        if isinstance(self.layer, MaskCreatingLayer) and self.layer.creates_mask:
            return inputs  # its outputs have the inner mask, from which the outer mask follows
        recorder = dry_run_masks(self.layer, _as_examples(inputs))
        is_real = None if recorder is None else recorder.real_examples()
        if recorder is None or is_real is None:
            return inputs
        if not isinstance(inputs, Packed):
            index = Index.from_mask(is_real.reshape(tuple(inputs.shape[:2])), recorder.mask_source)
            record_mask(index)
            return Packed(gather_real_steps(inputs, index), index)
        outermost = inputs.index.outermost
        mask = inputs.index.mask.copy()
        mask.reshape(len(outermost.step_of_cell), -1)[outermost.flat[~is_real]] = False
        index = intersect_with_mask(inputs.index, mask, recorder.mask_source)
        record_mask(index, narrowed=inputs.index)
        return inputs.reindex(index)

    def _call_on_steps(self, steps: Packed, training: bool) -> TensorTree:
        """Apply the inner layer to the real steps `(N, ...)`, and to the gap values."""
        outputs = self.layer(steps.values, training=training)
        gap_outputs = map_leaves(lambda _: None, outputs)
        if steps.gap_values is not None and any(isinstance(x, Tensor) for x in leaves(outputs)):
            with shape_inference_mode():  # a gap is not an example: it changes no state and adds no loss
                gap_outputs = self.layer(steps.gap_values, training=False)

        def on_steps(x: StepTensor, gap_values: Tensor | None) -> Packed:
            return _nest(x, steps.index) if isinstance(x, Packed) else steps.with_values(x, gap_values)

        return pytree.tree_map(on_steps, outputs, gap_outputs, is_leaf=lambda x: x is None or isinstance(x, Packed))

    def _call_on_inner_sequences(self, inputs: Packed, training: bool) -> TensorTree:
        """Apply the inner layer to the inner sequences of real steps, as a batch."""
        index = inputs.index
        outputs = self.layer(_as_examples(inputs), training=training)

        def on_steps(x: StepTensor) -> Packed:
            return _nest(x, index.outermost, index) if isinstance(x, Packed) else Packed(x, index.outermost)

        return map_leaves(on_steps, outputs)

    def compute_mask(self, inputs: StepTensor, mask: MaskTree = None) -> MaskTree:
        """Return the mask of the steps, combined with the inner mask if the inner layer returns sequences."""
        grid = inputs.unpack() if isinstance(inputs, Packed) else inputs
        batch_size = grid.shape[0] * grid.shape[1]
        outer_mask = None if mask is None else torch.as_tensor(mask, dtype=torch.bool)
        steps = self._apply_inner_masks(apply_explicit_mask(grid, outer_mask, "mask"))
        step_mask = torch.from_numpy(steps.index.outermost.mask) if isinstance(steps, Packed) else None
        inner_mask = None
        if outer_mask is not None and outer_mask.ndim > 2:
            inner_mask = outer_mask.reshape(batch_size, *outer_mask.shape[2:])
        result = self.layer.compute_mask(grid.reshape(batch_size, *grid.shape[2:]), inner_mask)

        def on_steps(output_mask: MaskTree) -> Tensor | None:
            if output_mask is None:
                return step_mask
            nested = torch.as_tensor(output_mask)
            nested = nested.reshape(*grid.shape[:2], *nested.shape[1:])
            if step_mask is None:
                return nested
            return nested & step_mask.reshape(*step_mask.shape, *(1,) * (nested.ndim - 2))

        return map_leaves(on_steps, result)

    def compute_output_shape(self, input_shape: Shape) -> ShapeTree:
        """Return the output shape of the inner layer with the axis of the steps."""
        batch_size, num_steps, *rest = self._check_shape(input_shape)
        return _insert_steps(self.layer.compute_output_shape((batch_size, *rest)), num_steps)

    def needs_gap_values(self, outputs_needed: bool) -> bool:
        """Return whether the output or the inner layer needs them."""
        return outputs_needed or self.layer.needs_gap_values(outputs_needed)

    def _input_dtype(self) -> None:
        """Leave inputs as they are: the inner layer casts them, or they are ids to it."""


def _insert_steps(shape: ShapeTree, num_steps: int | None) -> ShapeTree:
    """Return a shape, or each of a nest of shapes, with an axis of steps after the batch."""
    if shape and isinstance(shape[0], list | tuple):
        return type(shape)(_insert_steps(inner, num_steps) for inner in shape)
    return (shape[0], num_steps, *shape[1:])


def _unflatten_steps(x: StepTensor, grid: Sequence[int]) -> StepTensor:
    """Return results for `B * T` examples on the grid `(B, T)` of steps; a Packed then has two levels."""
    if not isinstance(x, Packed):
        return x.reshape(*grid, *x.shape[1:])
    index = Index.from_mask(x.index.mask.reshape(*grid, *x.index.grid[1:]), x.index.mask_source)
    return Packed(x.values, index, x.gap_values)


def _nest(x: Packed, outer: Index, nested_index: Index | None = None) -> Packed:
    """Return inner sequences, one for each step of `outer`, as sequences of sequences.

    Gap values in a masked step of `outer` are 0.

    Args:
        x: one sequence for each step of `outer`.
        outer: the steps.
        nested_index: an index of both levels, which is used if its inner level is that of `x`.
    """
    if nested_index is not None and x.index.equals(nested_index.inner):
        index = nested_index
    else:
        mask = np.zeros((len(outer.step_of_cell), *x.index.grid[1:]), dtype=bool)
        mask[outer.flat] = x.index.mask
        index = Index.from_mask(mask.reshape(*outer.grid, *x.index.grid[1:]), x.index.mask_source)
    if x.gap_values is None or len(x.gap_values) != x.index.num_gaps:
        return Packed(x.values, index)
    gaps_in_steps = np.flatnonzero(outer.step_of_cell[index.row_of_gap // _rows_per_step(index)] >= 0)
    gap_values = scatter_rows(x.gap_values, to_device(gaps_in_steps, x.device), index.num_gaps)
    return Packed(x.values, index, gap_values)


def _as_examples(inputs: StepTensor) -> StepTensor:
    """Return the steps of the outermost level as a batch: all steps of a grid, the real steps of a Packed."""
    if not isinstance(inputs, Packed):
        return inputs.flatten(0, 1)
    if inputs.num_step_axes == 2:
        return inputs.values
    index, gap_values = inputs.index, None
    if inputs.gap_values is not None:
        one_for_each_gap = len(inputs.gap_values) == index.num_gaps
        rows = index.row_of_gap if one_for_each_gap else index.masked_cells // max(index.shape[1], 1)
        gap_values = inputs.gap_values[to_device(_in_real_steps(index, rows), inputs.device)]
    return Packed(inputs.values, index.inner, gap_values)


def _in_real_steps(index: Index, rows: Ints) -> Ints:
    """Return the positions of those innermost rows that belong to a real step of the outermost level."""
    return np.flatnonzero(index.outermost.step_of_cell[rows // _rows_per_step(index)] >= 0)


def _rows_per_step(index: Index) -> int:
    """Return how many innermost rows a step of the outermost level has."""
    return max(math.prod(index.grid[2:-1]), 1)
