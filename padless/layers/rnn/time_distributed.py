"""A layer applied to every step: TimeDistributed.

Of packed steps `(N, ...)` the inner layer sees a batch of N examples. Of sequences of sequences it sees the inner
sequences that have a real step, and the outer mask says which those are; also where it finds the inner steps itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from padless._torch_compat import pytree
from padless.errors import ArgumentError, ShapeError
from padless.graph.symbolic import SymbolicTensor, leaves, map_leaves, shape_inference_mode
from padless.layers.base import mask_recorder as births
from padless.layers.base.layer import Layer, get
from padless.layers.base.mask_rule import apply_explicit_mask, call_spec_of
from padless.layers.core.torch_module_wrapper import as_layer
from padless.ragged.device import to_device
from padless.ragged.gather import scatter_rows
from padless.ragged.index import Index
from padless.ragged.mask import intersect_with_mask
from padless.ragged.packed import Packed, gather_real_steps, unpack
from padless.registry import register


@register("layer")
class TimeDistributed(Layer):
    """`layer` on each step of `(B, T, ...)` alone; the mask passes.

    Keras's `TimeDistributed`. If the layer gives a mask for each step (an Embedding with `mask_zero` on words of
    sentences), the result is masked on both levels; if it makes such a mask inside and gives one vector for each step, those
    without anything inside are no steps.

    >>> from padless.layers.core.dense import Dense
    >>> import torch
    >>> TimeDistributed(Dense(2))(torch.ones(4, 7, 3)).shape
    torch.Size([4, 7, 2])
    """

    relation = "per_step"

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(layer, nn.Module | dict):
            raise ArgumentError(f"TimeDistributed applies a layer to each step; got {layer!r}.")
        self.layer: Layer = as_layer(get(layer) if isinstance(layer, dict) else layer)
        self._replace_unbuilt_parameters()  # its weights are the inner layer's, which speaks for itself

    def build(self, input_shape: Any) -> None:
        """The inner layer, for one step as an example."""
        if not self.layer.built:
            self.layer.build((None, *self._steps_of(input_shape)[2:]))

    def _steps_of(self, shape: Any) -> tuple[Any, ...]:
        if not isinstance(shape, list | tuple) or len(shape) < 3 or isinstance(shape[0], list | tuple):
            raise ShapeError(f"TimeDistributed {self.name!r} expected one input (batch, steps, ...); got {shape}.")
        return tuple(shape)

    def _ensure_built(self, rule: Any, data: dict[str, Any]) -> None:
        """By a symbol of one step. From data the inner layer builds itself: it knows which of their axes are open."""
        x = data.get("inputs")
        if isinstance(x, SymbolicTensor) and not self.layer.built:
            shape = (None, *self._steps_of(x.shape)[2:])
            step = SymbolicTensor(shape, x.dtype, num_step_axes=max(x.num_step_axes - 1, 0), mask_source=x.mask_source)
            own = call_spec_of(type(self.layer), Layer)
            self.layer._ensure_built(own, {own.names[0]: step})
        self.built = True

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        """The inner layer on all steps at once."""
        if not isinstance(inputs, Tensor | Packed):
            raise ShapeError(
                f"TimeDistributed {self.name!r} takes one input (batch, steps, ...); got "
                f"{type(inputs).__name__}. Several go through it one by one, or joined by Concatenate."
            )
        self._steps_of(tuple(inputs.shape))
        inputs = self._apply_inner_masks(inputs)
        if isinstance(inputs, Packed):
            return self._on_inner(inputs, training) if inputs.num_step_axes > 2 else self._on_packed(inputs, training)
        outputs = self.layer(inputs.flatten(0, 1), training=training)
        return map_leaves(lambda x: _regrid(x, tuple(inputs.shape[:2])), outputs)

    def _apply_inner_masks(self, inputs: Any) -> Any:
        """The inputs without steps in which the inner layer would find nothing."""
        if births.creates_mask(self.layer):
            return inputs  # it says itself what of each step is real
        notes = births.dry_run_masks(self.layer, _examples(inputs))
        if notes is None or notes.real is None:
            return inputs
        if not isinstance(inputs, Packed):
            index = Index.from_mask(notes.real.reshape(tuple(inputs.shape[:2])), notes.mask_source)
            births.record_mask(index)
            return Packed(gather_real_steps(inputs, index), index)
        index = inputs.index
        mask = index.mask.copy()
        mask.reshape(len(index.outermost.step_of_cell), -1)[index.outermost.flat[~notes.real]] = False
        index = intersect_with_mask(index, mask, notes.mask_source)
        births.record_mask(index, narrowed=inputs.index)
        return inputs.reindex(index)

    def _on_packed(self, inputs: Packed, training: bool) -> Any:
        """N examples; what gaps show goes through the layer too."""
        outputs = self.layer(inputs.values, training=training)
        fills = map_leaves(lambda _: None, outputs)
        if inputs.gap_values is not None and any(isinstance(x, Tensor) for x in leaves(outputs)):
            with shape_inference_mode():  # a gap is no example: it changes no state and adds no loss
                fills = self.layer(inputs.gap_values, training=False)

        def put(x: Any, fill: Any) -> Any:
            return _nested(x, inputs.index) if isinstance(x, Packed) else inputs.with_values(x, fill)

        return pytree.tree_map(put, outputs, fills, is_leaf=lambda x: x is None or isinstance(x, Packed))

    def _on_inner(self, inputs: Packed, training: bool) -> Any:
        """The inner sequences that have a step, as a batch."""
        index = inputs.index
        outputs = self.layer(_examples(inputs), training=training)
        return map_leaves(
            lambda x: _nested(x, index.outermost, index) if isinstance(x, Packed) else Packed(x, index.outermost), outputs
        )

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the steps, and of what they hold if the layer gives sequences."""
        grid = unpack(inputs)
        batch, rest = grid.shape[0] * grid.shape[1], grid.shape[2:]
        given = None if mask is None else torch.as_tensor(mask, dtype=torch.bool)
        met = self._apply_inner_masks(apply_explicit_mask(grid, given, "mask"))
        steps = torch.from_numpy(met.index.outermost.mask) if isinstance(met, Packed) else None
        inner = None if given is None or given.ndim == 2 else given.reshape(batch, *given.shape[2:])
        found = self.layer.compute_mask(grid.reshape(batch, *rest), inner)

        def both(own: Any) -> Any:
            if own is None:
                return steps
            own = torch.as_tensor(own).reshape(*grid.shape[:2], *own.shape[1:])
            return own if steps is None else own & steps.reshape(*steps.shape, *(1,) * (own.ndim - 2))

        return map_leaves(both, found)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The inner layer's, with the steps back in."""
        batch, steps, *rest = self._steps_of(input_shape)
        return _with_steps(self.layer.compute_output_shape((batch, *rest)), steps)

    def needs_gap_values(self, shown: bool) -> bool:
        """The inner layer may."""
        return shown or self.layer.needs_gap_values(shown)

    def _input_dtype(self) -> None:
        """The inner layer brings inputs to its own dtype; to it they may be ids."""


def _with_steps(shape: Any, steps: int | None) -> Any:
    """A shape, or each of several, with the steps behind the batch."""
    if shape and isinstance(shape[0], list | tuple):
        return type(shape)(_with_steps(own, steps) for own in shape)
    return (shape[0], steps, *shape[1:])


def _regrid(x: Any, grid: tuple[int, int]) -> Any:
    """The results for B*T examples as a grid of steps; masked ones become inner sequences of two levels."""
    if not isinstance(x, Packed):
        return x.reshape(*grid, *x.shape[1:])
    index = Index.from_mask(x.index.mask.reshape(*grid, *x.index.grid[1:]), x.index.mask_source)
    return Packed(x.values, index, x.gap_values)


def _nested(x: Packed, outer: Index, whole: Index | None = None) -> Packed:
    """Inner sequences, one for each step of `outer`, on a grid of both levels; `whole`, if they are its inner ones still.

    A step of `outer` that holds nothing shows 0.
    """
    if whole is not None and x.index.equals(whole.inner):
        index = whole
    else:
        mask = np.zeros((len(outer.step_of_cell), *x.index.grid[1:]), dtype=bool)
        mask[outer.flat] = x.index.mask
        index = Index.from_mask(mask.reshape(*outer.grid, *x.index.grid[1:]), x.index.mask_source)
    if x.gap_values is None or len(x.gap_values) != x.index.num_gaps:
        return Packed(x.values, index)
    kept = np.flatnonzero(outer.step_of_cell[index.row_of_gap // _size(index)] >= 0)
    return Packed(x.values, index, scatter_rows(x.gap_values, to_device(kept, x.device), index.num_gaps))


def _examples(inputs: Any) -> Any:
    """The real steps of the outermost level, as a batch."""
    if not isinstance(inputs, Packed):
        return inputs.flatten(0, 1)
    index, fill = inputs.index, None
    if inputs.num_step_axes == 2:
        return inputs.values
    if inputs.gap_values is not None:
        rows = index.row_of_gap if len(inputs.gap_values) == index.num_gaps else index.masked_cells // max(index.shape[1], 1)
        fill = inputs.gap_values[to_device(_held(index, rows), inputs.device)]
    return Packed(inputs.values, index.inner, fill)


def _held(index: Index, rows: np.ndarray) -> np.ndarray:
    """Which of these innermost rows belong to a step of the outermost level that is real."""
    return np.flatnonzero(index.outermost.step_of_cell[rows // _size(index)] >= 0)


def _size(index: Index) -> int:
    """How many innermost rows a step of the outermost level has."""
    return max(math.prod(index.grid[2:-1]), 1)
