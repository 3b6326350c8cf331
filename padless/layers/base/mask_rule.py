"""The mask rule: which arguments of a call carry masks, which layers may use the grid, and which mask the output has.

1. Each data argument has its own mask. An explicit `mask=` or `<argument>_mask=` replaces that mask.
2. A built-in layer receives a Packed and returns a Packed. Its `relation` says what happens to the mask.
3. A layer that handles the mask (it declares a mask argument, overrides `compute_mask` or sets
   `supports_masking`) may use the padded grid. Its plain outputs get the mask of `compute_mask`.
4. In every other layer the mask stays with the data, and an operation that would lose it is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from padless.errors import MaskError, MaskLost, ShapeError
from padless.graph.symbolic import leaves, map_leaves
from padless.ragged.index import Index
from padless.ragged.mask import as_mask, check_columns
from padless.ragged.masked_array import is_masked_array
from padless.ragged.packed import Packed, gather_real_steps, pack_shared
from padless.registry import is_of_padless
from padless.types import MaskLike, MaskTree, StepTensor, TensorTree

Relation: TypeAlias = Literal[
    "stepwise",  # a step sees itself
    "window",  # its neighbours
    "reduce",  # its whole sequence, as a summary
    "recurrent",  # its past
    "attention",  # any step
    "merge",  # the same step of other inputs
    "creates_mask",  # the layer creates the mask
    "per_step",  # an inner layer is applied to each step
    "padded_grid",  # the layer reads the padded grid, and the mask ends
    "graph",  # as the layers of a model say
    "module",  # as the argument of a wrapped torch module says
]
"""Which other steps a step may see: the question that a built-in layer answers in its attribute `relation`."""


class CallInterface:
    """The methods and attributes of a layer that the mask rule reads. `Layer` inherits them."""

    name: str
    relation: Relation | None = None
    stepwise: bool = False
    _supports_masking: bool | None = None

    def call(self, inputs: StepTensor) -> StepTensor:
        """Compute the outputs. Every layer overrides this method, with the arguments that it needs."""
        raise NotImplementedError(f"{type(self).__name__} must define `call(self, inputs)`.")

    def compute_mask(self, inputs: TensorTree, mask: MaskTree = None) -> MaskTree:
        """Return which steps of the output are real, as Keras's `compute_mask`.

        Args:
            inputs: the first argument of the call.
            mask: the mask of `inputs`, boolean `(B, T)`, a list of masks for a list of inputs, or None.

        Returns:
            A boolean mask, a list with a mask or None for each output, or None. The default is `mask`.
        """
        return mask


@dataclass(frozen=True)
class CallSpec:
    """What the class of a layer declares about its `call`."""

    signature: inspect.Signature
    """The signature of `call` without `self`."""
    names: tuple[str, ...]
    """The names of the arguments of `call`."""
    mask_names: tuple[str, ...]
    """The names of the mask arguments: `mask`, and `<argument>_mask` for another argument."""
    relation: Relation | None
    """The `relation` of the class that defines `call`; None for a user-defined layer."""
    stepwise: bool
    """Whether the class that defines `call` promises that each step is treated alone."""
    overrides_compute_mask: bool
    """Whether `compute_mask` is overridden by a user-defined class."""
    is_built_in: bool
    """Whether `call` and `compute_mask` are those of a layer of padless."""
    declares_output_shape: bool
    """Whether a user-defined class overrides `compute_output_shape`, and no class below it overrides `call`."""
    accepts_keywords: bool
    """Whether every argument may be given by its name."""
    accepts_one_positional: bool
    """Whether one positional argument is a complete call."""

    def may_use_grid(self, layer: CallInterface) -> bool:
        """Return whether this user-defined layer handles the mask itself, so that it may use the padded grid."""
        if self.relation is not None:
            return False
        return bool(self.mask_names) or self.overrides_compute_mask or layer._supports_masking is True


@cache
def call_spec_of(layer_class: type[CallInterface]) -> CallSpec:
    """Return what a layer class declares about its `call`.

    `relation` and `stepwise` describe one `call`, so they count only if the class that defines `call` declares them:
    a subclass that overrides `call` is a user-defined layer. So is a subclass that overrides only `compute_mask`.
    """
    signature = inspect.signature(layer_class.call)
    parameters = list(signature.parameters.values())[1:]
    names = tuple(parameter.name for parameter in parameters)
    mro = layer_class.__mro__
    call_owner = next(c for c in mro if "call" in vars(c))
    compute_mask_owner = next(c for c in mro if "compute_mask" in vars(c))
    relation = vars(call_owner).get("relation")
    overrides_compute_mask = compute_mask_owner is not CallInterface and (
        relation is None or mro.index(compute_mask_owner) < mro.index(call_owner)
    )
    shape_owner = next((c for c in mro if "compute_output_shape" in vars(c)), CallInterface)
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    accepts_keywords = all(p.kind in (positional, p.KEYWORD_ONLY) for p in parameters)
    return CallSpec(
        signature=signature.replace(parameters=parameters),
        names=names,
        mask_names=tuple(name for name in names if _is_mask_name(name, names)),
        relation=None if overrides_compute_mask else relation,
        stepwise=bool(vars(call_owner).get("stepwise")),
        overrides_compute_mask=overrides_compute_mask,
        is_built_in=is_of_padless(call_owner) and not overrides_compute_mask,
        declares_output_shape=not is_of_padless(shape_owner) and mro.index(shape_owner) <= mro.index(call_owner),
        accepts_keywords=accepts_keywords,
        accepts_one_positional=accepts_keywords
        and bool(parameters)
        and parameters[0].kind is positional
        and all(p.default is not p.empty for p in parameters[1:]),
    )


def _is_mask_name(name: str, names: tuple[str, ...]) -> bool:
    return name == "mask" or (name.endswith("_mask") and name.removesuffix("_mask") in names)


# ------------------------------------------------------------------------------------------------ inputs


def is_data(x: object) -> bool:
    """Return whether an argument is a tensor, or a nest of tensors and None."""
    if isinstance(x, Tensor | Packed):
        return True
    values = leaves(x) if isinstance(x, list | tuple | dict) else []
    return bool(values) and all(isinstance(value, Tensor | Packed) or value is None for value in values)


def as_data(x: object, float_dtype: Callable[[], torch.dtype] = torch.get_default_dtype) -> TensorTree:
    """Convert NumPy arrays to tensors, and a list of sequences to a Packed (to a tensor if all have one length).

    Args:
        x: any argument of a call. What is neither an array nor a list of sequences is returned as it is.
        float_dtype: returns the dtype for floats of NumPy and Python, which are double.
    """
    if is_masked_array(x):
        packed = pack_shared(x)
        return packed.with_values(packed.values.to(float_dtype())) if packed.dtype == torch.float64 else packed
    if isinstance(x, np.ndarray):
        has_torch_layout = x.flags.writeable and all(stride >= 0 for stride in x.strides)
        tensor = torch.from_numpy(x if has_torch_layout else x.copy())
        return tensor.to(float_dtype()) if tensor.dtype == torch.float64 else tensor
    if isinstance(x, list) and _holds_sequences(x):
        packed = pack_shared(x)
        packed = packed.with_values(packed.values.to(float_dtype())) if packed.dtype.is_floating_point else packed
        return packed.unpack() if packed.index.full else packed
    if isinstance(x, list | tuple | dict):
        return map_leaves(lambda leaf: as_data(leaf, float_dtype) if isinstance(leaf, np.ndarray) else leaf, x)
    return x


def _holds_sequences(rows: list[object]) -> bool:
    """Return whether a list holds lists or tuples of numbers."""
    if not rows or not all(isinstance(row, list | tuple) for row in rows):
        return False
    return all(isinstance(leaf, bool | int | float) for leaf in leaves(rows))


def apply_explicit_mask(x: TensorTree, mask: MaskTree, argument: str) -> TensorTree:
    """Replace the mask of `x` by an explicit mask; nests of inputs take nests of masks.

    Args:
        x: a tensor or Packed `(B, T, ...)`, or a nest of them.
        mask: a boolean mask `(B, T)`, or a nest of masks; None leaves `x` as it is.
        argument: the name of the mask argument, for messages.

    Raises:
        MaskError: the structure or the shape of the mask does not fit.
    """
    if mask is None:
        return x
    if isinstance(x, dict):
        if not isinstance(mask, dict):
            raise MaskError(
                f"`{argument}` must be a dictionary of masks with some of the keys {list(x)}; got {type(mask).__name__}."
            )
        return {key: apply_explicit_mask(value, mask.get(key), f"{argument}[{key!r}]") for key, value in x.items()}
    if isinstance(x, list | tuple):
        if not isinstance(mask, list | tuple) or len(mask) != len(x):
            raise MaskError(
                f"`{argument}` must be a list of {len(x)} masks (or None), one for each input; got {type(mask).__name__}."
            )
        return type(x)(apply_explicit_mask(value, m, argument) for value, m in zip(x, mask, strict=True))
    return _with_explicit_mask(x, mask, argument)


def _with_explicit_mask(x: StepTensor, mask: MaskLike, argument: str) -> Packed:
    """Return the steps of one input that are real by an explicit mask."""
    grid = tuple(x.shape)
    if len(grid) < 2:
        raise MaskError(f"`{argument}` was given for an input of shape {grid}, which has no steps to mask.")
    if isinstance(mask, Packed):
        mask = mask.unpack(padding=0)
    array = as_mask(mask, grid, argument)
    if not isinstance(x, Packed):
        index = Index.from_mask(array, f"`{argument}`")
        return Packed(gather_real_steps(x, index), index)
    if array.ndim < x.num_step_axes:
        array = np.broadcast_to(array.reshape(*array.shape, *(1,) * (x.num_step_axes - array.ndim)), x.index.grid)
    if np.array_equal(array, x.index.mask):
        return x
    check_columns(x.index, array.shape, f"`{argument}`")
    return x.reindex(Index.from_mask(array, f"`{argument}`", x.index.columns_agree))


def mask_of(x: object) -> MaskTree:
    """Return the boolean mask of a Packed, None for a plain tensor, a nest of masks for a nest."""
    if isinstance(x, list | tuple | dict):
        return map_leaves(mask_of, x)
    return x.mask if isinstance(x, Packed) else None


# ------------------------------------------------------------------------------------------------ outputs


def attach_output_masks(
    layer: CallInterface, spec: CallSpec, inputs: object, input_mask: object, outputs: object
) -> TensorTree:
    """Return the outputs of a layer that may use the grid, each with its mask.

    Args:
        layer: the layer.
        spec: what the class of the layer declares about its `call`.
        inputs: the first data argument of the call.
        input_mask: the mask of `inputs`.
        outputs: what `call` returned.

    Raises:
        MaskError: `compute_mask` returned another number of masks than there are outputs.
        MaskLost: the layer sets `supports_masking`, but its output does not have the steps of the mask.
    """
    flat_outputs = leaves(outputs)
    if spec.overrides_compute_mask:
        masks = _computed_masks(layer, inputs, input_mask, outputs, len(flat_outputs))
        masked = [_with_computed_mask(layer, output, m) for output, m in zip(flat_outputs, masks, strict=True)]
    else:
        source = next((x for x in leaves(inputs) if isinstance(x, Packed)), None)
        masked = [_with_input_mask(layer, output, source) for output in flat_outputs]
    remaining = iter(masked)
    return map_leaves(lambda _: _without_cell_gap_values(next(remaining)), outputs)


def _computed_masks(
    layer: CallInterface, inputs: object, input_mask: object, outputs: object, num_outputs: int
) -> list[MaskTree]:
    """Return the result of `compute_mask` as a list with one mask for each output."""
    result = layer.compute_mask(inputs, input_mask)
    if isinstance(result, dict) and isinstance(outputs, dict):
        result = [result.get(key) for key in outputs]
    masks = leaves(result) if isinstance(result, list | tuple) else [result] * num_outputs
    if len(masks) != num_outputs:
        raise MaskError(f"compute_mask of layer {layer.name!r} gave {len(masks)} masks for {num_outputs} outputs.")
    return masks


def _without_cell_gap_values(output: object) -> object:
    """Drop gap values with one row for each masked cell, which exist only inside the layer; outside they are 0."""
    if isinstance(output, Packed) and output.gap_values is not None and len(output.gap_values) != output.index.num_gaps:
        return output.with_values(output.values)
    return output


def _with_computed_mask(layer: CallInterface, output: object, mask: object) -> object:
    """Return one output with the mask that `compute_mask` returned for it; None ends the mask."""
    if mask is None:
        return output.unpack() if isinstance(output, Packed) else output
    return apply_explicit_mask(output, mask, f"the mask that compute_mask of layer {layer.name!r} gave")


def _with_input_mask(layer: CallInterface, output: object, source: Packed | None) -> object:
    """Return a plain output with the mask of the input `source`, if the output has the steps of this mask."""
    if source is None or isinstance(output, Packed) or not isinstance(output, Tensor):
        return output
    must_fit = layer._supports_masking is True
    fits = tuple(output.shape[: source.num_step_axes]) == source.index.grid
    if must_fit and not fits:
        raise MaskLost(
            f"Layer {layer.name!r} sets supports_masking = True, so its output carries the input's mask; but the output "
            f"of shape {tuple(output.shape)} has not the {source.index.grid} steps of that mask, created by "
            f"{source.index.mask_source}. Override compute_mask(inputs, mask): return the output's mask, or None to end it."
        )
    if fits and (must_fit or output.ndim == source.ndim):
        return Packed(gather_real_steps(output, source.index), source.index)
    return output


def check_same_steps(layer_name: str, packed: Packed, other: Packed) -> None:
    """Check that two inputs of a stepwise layer have the same real steps.

    Raises:
        ShapeError: the masks differ.
    """
    if not packed.index.equals(other.index):
        raise ShapeError(
            f"Layer {layer_name!r} works step by step, so all its inputs need the same mask; got {packed!r} and "
            f"{other!r}. Bring one to the other's steps with padless.pack(x, like=y)."
        )
