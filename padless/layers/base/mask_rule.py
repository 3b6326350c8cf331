"""The mask rule: which arguments of a call carry masks, who may look at the grid, and what mask the result has.

1. A mask belongs to each data argument; an explicit `mask=` or `<argument>_mask=` replaces it.
2. A built-in layer gets Packed and gives Packed: its relation says what becomes of the mask.
3. A layer that takes the mask (an argument for it, `compute_mask`, `supports_masking`) may look at the grid, and
   its plain results get the mask of `compute_mask`.
4. In every other layer the mask travels by itself, or the operation that would lose it is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import MaskError, MaskLost, ShapeError
from padless.graph.symbolic import leaves, map_leaves
from padless.ragged.index import Index
from padless.ragged.mask import as_mask
from padless.ragged.packed import Packed, gather_real_steps, pack


@dataclass(frozen=True)
class CallSpec:
    """What the class of a layer says about its `call`; `relation` counts only on the class that defines `call`."""

    signature: inspect.Signature
    names: tuple[str, ...]
    mask_names: tuple[str, ...]
    relation: str | None
    stepwise: bool
    takes_training: bool
    overrides_mask: bool
    by_name: bool  # every argument may be given by its name
    one_suffices: bool  # one argument by position is a call

    def takes_mask(self, layer: Any) -> bool:
        """Whether this layer may look at the grid."""
        return self.relation is None and (bool(self.mask_names) or self.overrides_mask or layer._supports_masking is True)


@cache
def call_spec_of(cls: type, base: type) -> CallSpec:
    """The rule of a layer class; `base` is the root of all layers."""
    signature = inspect.signature(cls.call)  # pyright: ignore[reportAttributeAccessIssue]
    parameters = list(signature.parameters.values())[1:]
    names = tuple(p.name for p in parameters)
    order = cls.__mro__
    caller = next(c for c in order if "call" in vars(c))
    masker = next(c for c in order if "compute_mask" in vars(c))
    relation = vars(caller).get("relation")
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    by_name = all(p.kind in (either, p.KEYWORD_ONLY) for p in parameters)
    overrides = masker is not base and (relation is None or order.index(masker) < order.index(caller))
    return CallSpec(
        signature.replace(parameters=parameters),
        names,
        tuple(n for n in names if n == "mask" or (n.endswith("_mask") and n.removesuffix("_mask") in names)),
        None if overrides and relation is not None else relation,
        bool(vars(caller).get("stepwise")),
        "training" in names or any(p.kind is p.VAR_KEYWORD for p in parameters),
        overrides,
        by_name,
        by_name and bool(names) and all(p.default is not p.empty for p in parameters[1:]) and parameters[0].kind is either,
    )


def is_data(x: Any) -> bool:
    """Whether an argument is a tensor, or a nest of nothing but tensors and None."""
    if isinstance(x, Tensor | Packed):
        return True
    found = leaves(x) if isinstance(x, list | tuple | dict) else []
    return bool(found) and all(isinstance(leaf, Tensor | Packed) or leaf is None for leaf in found)


def as_data(x: Any, floats: Callable[[], torch.dtype] = torch.get_default_dtype) -> Any:
    """Arrays as tensors, a list of sequences as Packed (or a tensor, if it is rectangular); the rest as it is.

    `floats` says which dtype NumPy's and Python's own floats, which are all double, are brought to.
    """
    if isinstance(x, np.ndarray):
        tensor = torch.from_numpy(x if x.flags.writeable and all(s >= 0 for s in x.strides) else x.copy())
        return tensor.to(floats()) if tensor.dtype == torch.float64 else tensor
    if isinstance(x, list) and x and all(isinstance(row, list | tuple) for row in x) and _numbers(x):
        packed = pack(x)
        packed = packed.with_values(packed.values.to(floats())) if packed.dtype.is_floating_point else packed
        return packed.unpack() if packed.index.full else packed
    if isinstance(x, list | tuple | dict):
        return map_leaves(lambda leaf: as_data(leaf, floats) if isinstance(leaf, np.ndarray) else leaf, x)
    return x


def _numbers(x: Any) -> bool:
    return all(isinstance(leaf, bool | int | float) for leaf in leaves(x))


def apply_explicit_mask(x: Any, mask: Any, what: str) -> Any:
    """An argument with an explicit mask in the place of its own; nests of arguments take nests of masks."""
    if mask is None:
        return x
    if isinstance(x, dict):
        if not isinstance(mask, dict):
            raise MaskError(
                f"`{what}` must be a dictionary of masks with some of the keys {list(x)}; got {type(mask).__name__}."
            )
        return {key: apply_explicit_mask(value, mask.get(key), f"{what}[{key!r}]") for key, value in x.items()}
    if isinstance(x, list | tuple):
        if not isinstance(mask, list | tuple) or len(mask) != len(x):
            raise MaskError(
                f"`{what}` must be a list of {len(x)} masks (or None), one for each input; got {type(mask).__name__}."
            )
        return type(x)(apply_explicit_mask(a, m, what) for a, m in zip(x, mask, strict=True))
    if isinstance(mask, Packed):
        mask = mask.unpack(padding=0)
    grid = tuple(x.shape)
    if len(grid) < 2:
        raise MaskError(f"`{what}` was given for an input of shape {grid}, which has no steps to mask.")
    array = as_mask(mask, grid, what)
    if isinstance(x, Packed):
        if array.ndim < x.num_step_axes:
            array = np.broadcast_to(array.reshape(*array.shape, *(1,) * (x.num_step_axes - array.ndim)), x.index.grid)
        if np.array_equal(array, x.index.mask):
            return x
        return x.reindex(Index.from_mask(array, f"`{what}`"))
    index = Index.from_mask(array, f"`{what}`")
    return Packed(gather_real_steps(x, index), index)


def mask_of(x: Any) -> Any:
    """The boolean grid of a Packed, None of a plain tensor, a nest of them for a nest."""
    if isinstance(x, list | tuple | dict):
        return map_leaves(mask_of, x)
    return x.mask if isinstance(x, Packed) else None


def attach_output_masks(layer: Any, rule: CallSpec, inputs: Any, previous: Any, outputs: Any) -> Any:
    """The outputs of a layer that takes the mask, with the masks that its `compute_mask` gives."""
    flat = leaves(outputs)
    if rule.overrides_mask:
        given = layer.compute_mask(inputs, previous)
        if isinstance(given, dict) and isinstance(outputs, dict):
            given = [given.get(key) for key in outputs]
        masks = leaves(given) if isinstance(given, list | tuple) else [given] * len(flat)
        if len(masks) != len(flat):
            raise MaskError(f"compute_mask of layer {layer.name!r} gave {len(masks)} masks for {len(flat)} outputs.")
        fixed = iter([_with_mask(layer, out, m) for out, m in zip(flat, masks, strict=True)])
    else:
        first = next((x for x in leaves(inputs) if isinstance(x, Packed)), None)
        strict = layer._supports_masking is True
        fixed = iter([_with_index(layer, out, first, strict) for out in flat])
    return map_leaves(lambda _: _by_gap(next(fixed)), outputs)


def _by_gap(output: Any) -> Any:
    """What each masked cell shows is known only inside the layer; outside one row per gap says it, or it is 0."""
    if isinstance(output, Packed) and output.gap_values is not None and len(output.gap_values) != output.index.num_gaps:
        return output.with_values(output.values)
    return output


def _with_mask(layer: Any, output: Any, mask: Any) -> Any:
    """One output with the mask that the layer itself computed; None ends the mask."""
    if mask is None:
        return output.unpack() if isinstance(output, Packed) else output
    return apply_explicit_mask(output, mask, f"the mask that compute_mask of layer {layer.name!r} gave")


def _with_index(layer: Any, output: Any, source: Packed | None, strict: bool) -> Any:
    """A plain output on the steps of the input, if it still has them."""
    if source is None or isinstance(output, Packed) or not isinstance(output, Tensor):
        return output
    fits = tuple(output.shape[: source.num_step_axes]) == source.index.grid
    if strict and not fits:
        raise MaskLost(
            f"Layer {layer.name!r} sets supports_masking = True, so its output carries the input's mask; but the output "
            f"of shape {tuple(output.shape)} has not the {source.index.grid} steps of that mask, created by "
            f"{source.index.mask_source}. Override compute_mask(inputs, mask): return the output's mask, or None to end it."
        )
    if fits and (strict or output.ndim == source.ndim):
        return Packed(gather_real_steps(output, source.index), source.index)
    return output


def same_steps(layer: str, packed: Packed, other: Packed) -> None:
    """Raises `ShapeError` unless both stand on the same steps."""
    if not packed.index.equals(other.index):
        raise ShapeError(
            f"Layer {layer!r} works step by step, so all its inputs need the same mask; got {packed!r} and "
            f"{other!r}. Bring one to the other's steps with padless.pack(x, like=y)."
        )
