"""The base of layers that create a mask from their inputs, and the run that finds these masks in advance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from padless.errors import ShapeError
from padless.graph.symbolic import SymbolicTensor, in_shape_inference, leaves, probe_mask, shape_inference_mode
from padless.layers.base.layer import Layer
from padless.layers.base.mask_recorder import AllMasksRecorded, MaskRecorder, is_recording, record_mask, record_masks
from padless.ragged.device import host_copy, to_device
from padless.ragged.gather import gather_rows
from padless.ragged.index import Index
from padless.ragged.mask import as_mask, intersect_with_mask
from padless.ragged.packed import NESTED_LISTS_ADVICE, Packed, gather_real_steps
from padless.types import Arguments, StepTensor, TensorTree


class MaskCreatingLayer(Layer):
    """The base of layers that decide from their inputs alone which steps are real, as Embedding and Masking.

    A subclass defines `real_steps` and `call`, and `compute_mask` if `call` returns a padded tensor. padless
    then knows the mask before the layer runs: `fit` checks labels against it, and `TimeDistributed` skips the
    steps in which the inner layer finds no real step.

    Example:
        >>> import numpy as np
        >>> class DropNegative(MaskCreatingLayer):
        ...     def real_steps(self, inputs):
        ...         return Index.from_mask(np.asarray(inputs >= 0))
        ...     def call(self, inputs):
        ...         return inputs.float()[..., None]
        ...     def compute_mask(self, inputs, mask=None):
        ...         return inputs >= 0
        >>> DropNegative()(torch.tensor([[3, -1, 4]]))
        Packed(shape=(1, 3, 1), 2 real steps, torch.float32, cpu)
    """

    if TYPE_CHECKING:  # unlike most layers it returns a Packed for a tensor, if it finds masked steps

        @overload
        def __call__(self, inputs: SymbolicTensor, *args: object, **kwargs: object) -> SymbolicTensor: ...
        @overload
        def __call__(self, inputs: StepTensor, *args: object, **kwargs: object) -> StepTensor: ...
        @overload
        def __call__(self, *args: object, **kwargs: object) -> TensorTree: ...
        def __call__(self, *args: object, **kwargs: object) -> TensorTree: ...

    @property
    def creates_mask(self) -> bool:
        """Whether this layer creates a mask: an Embedding without `mask_zero` does not."""
        return True

    def real_steps(self, inputs: StepTensor) -> Index | None:
        """Return the index of the real steps of `inputs` `(B, T, ...)`, or None if every step is real.

        Raises:
            DataError: an input that the layer could not process, such as an id outside a table.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `real_steps(self, inputs)`.")

    def _call_on_data(self, args: Sequence[object], kwargs: Arguments) -> TensorTree:
        outputs = super()._call_on_data(args, kwargs)
        observe = _observer.get()
        if observe is not None:
            observe(self, args, kwargs, outputs)
        if is_recording() and self.creates_mask and isinstance(outputs, Packed):
            input_index = next((x.index for x in leaves((args, kwargs)) if isinstance(x, Packed)), None)
            record_mask(outputs.index, narrowed=input_index)
        return outputs


MaskObserver: TypeAlias = "Callable[[MaskCreatingLayer, Sequence[object], Arguments, TensorTree], None]"
"""A function of a layer, its arguments by position and by name, and its outputs."""

_observer: ContextVar[MaskObserver | None] = ContextVar("mask observer", default=None)


@contextmanager
def observing_mask_creation(observer: MaskObserver) -> Iterator[None]:
    """Call a function after each call of a `MaskCreatingLayer` in this context; other threads are not observed."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def create_mask(inputs: StepTensor, is_real: Callable[[Tensor], Tensor], mask_source: str) -> Packed:
    """Pack the real steps of `inputs`, and record the mask.

    Args:
        inputs: a grid `(B, T, ...)`, or a Packed, whose mask is narrowed.
        is_real: a function of the inputs `(B, T, ...)`, or of the values `(N, ...)` of a Packed, on the
            host. Returns which steps are real, `(B, T)` or `(N,)`.
        mask_source: the layer, as messages name the mask.

    Returns:
        The real steps. Gap values of a Packed are kept if its mask stays the same.
    """
    if isinstance(inputs, Packed):
        return _narrow_mask(inputs, is_real, mask_source)
    if not isinstance(inputs, Tensor):
        raise ShapeError(f"{mask_source} makes a mask of steps, so it needs one tensor; got {inputs!r:.100}.")
    if inputs.ndim < 2:
        raise ShapeError(
            f"{mask_source} makes a mask of steps, so it needs data of shape (batch, steps, ...); got {tuple(inputs.shape)}."
        )
    if inputs.is_meta:
        index = Index.from_mask(probe_mask(is_real(inputs).shape), mask_source)
    else:
        index = Index.from_mask(as_mask(is_real(host_copy(inputs))), mask_source)
    record_mask(index)
    return Packed(gather_real_steps(inputs, index), index)


def _narrow_mask(inputs: Packed, is_real: Callable[[Tensor], Tensor], mask_source: str) -> Packed:
    """Keep the steps of a Packed that are real by `is_real`, too."""
    is_real_step = is_real(host_copy(inputs.values))
    if is_real_step.ndim != 1:
        raise ShapeError(
            f"{mask_source} would make a mask of each step's parts, on inputs {inputs!r} whose steps are masked "
            f"already. Make the finer mask first: it says which of the steps are real, too. {NESTED_LISTS_ADVICE}"
        )
    selection = np.ones(len(is_real_step), bool) if inputs.values.is_meta else as_mask(is_real_step[:, None])[:, 0]
    index = inputs.index
    if selection.all():
        # A symbol names the layer that saw the mask last, so shape inference needs an index with that name.
        same_index = Index.from_mask(index.mask, mask_source) if in_shape_inference() else index
        record_mask(same_index, narrowed=index)
        return Packed(inputs.values, same_index, inputs.gap_values)
    mask = index.mask.copy()
    mask.reshape(-1)[index.flat[~selection]] = False
    narrowed_index = intersect_with_mask(index, mask, mask_source)
    record_mask(narrowed_index, narrowed=index)
    step_numbers = to_device(selection.nonzero()[0], inputs.device)
    return Packed(gather_rows(inputs.values, step_numbers), narrowed_index)


def dry_run_masks(layer: Layer, examples: StepTensor) -> MaskRecorder | None:
    """Record the masks that a call of `layer` on `examples` creates; the run changes no state.

    Returns:
        The recorded masks, or None if no layer inside `layer` creates a mask.
    """
    creators = [module for module in layer.modules() if isinstance(module, MaskCreatingLayer) and module.creates_mask]
    if not creators:
        return None
    with (
        record_masks(len(examples), _count_masks(layer, creators)) as recorder,
        suppress(AllMasksRecorded),
        torch.no_grad(),
        shape_inference_mode(),
    ):
        layer(examples)
    return recorder


def _count_masks(layer: Layer, creators: Sequence[Layer]) -> int | None:
    """Return how many masks the graph of a model creates; None if only a whole call can find out."""
    function = layer._function
    if function is None:
        return None
    calls = [node.operation for node in function.nodes if any(node.operation is creator for creator in creators)]
    every_creator_is_a_node = {id(call) for call in calls} == {id(creator) for creator in creators}
    return len(calls) if every_creator_is_a_node else None
