"""Move whole sequences of a `Packed`: choose, reorder, repeat, split and join them along the batch axis.

A function of this kind is called on the numbers of the sequences. Its results say which sequences they hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import ShapeError
from padless.ragged.broadcast import NotElementwise
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.ragged.plan_limit import check_plan
from padless.ragged.slices import choose_sequences, slice_grid
from padless.ragged.tensor_like import Args, Kwargs, TensorFunction
from padless.ragged.tree import leaves, map_leaves

_PARAMETERS = {
    "index_select": ("dim", "index"),
    "narrow": ("dim", "start", "length"),
    "split": ("split_size_or_sections", "dim"),
    "split_with_sizes": ("split_sizes", "dim"),
    "chunk": ("chunks", "dim"),
    "tensor_split": ("indices_or_sections", "dim"),
    "repeat_interleave": ("repeats", "dim"),
    "roll": ("shifts", "dims"),
    "flip": ("dims",),
}  # of each function, after the tensor
_SPLITS = {"split", "split_with_sizes", "chunk", "tensor_split"}  # along the axis 0 by default
_JOINS = {"cat", "concat", "concatenate"}
_OTHER_NAMES = {"axis": "dim", "split_size": "split_size_or_sections", "sections": "indices_or_sections",
                "indices": "indices_or_sections"}  # fmt: skip


def move_sequences(function: TensorFunction, name: str, args: Args, kwargs: Kwargs) -> Any:
    """Return the result of a function that moves whole sequences; None for another function, or along another axis."""
    if name in _JOINS:
        return _join(args, kwargs)
    if name not in _PARAMETERS:
        return None
    options = {_OTHER_NAMES.get(key, key): value for key, value in kwargs.items()}
    packed, *positional = args or (options.pop("input", None),)
    if not isinstance(packed, Packed):
        return None
    if name == "flip" and len(positional) > 1:  # h.flip(0, 2)
        positional = [positional]
    options |= dict(zip(_PARAMETERS[name], positional, strict=False))
    if any(parameter not in options for parameter in _PARAMETERS[name] if parameter not in ("dim", "dims")):
        return None  # the rule for features says what is missing
    axis = _axis_of(packed, options.get("dims", options.get("dim", 0 if name in _SPLITS else None)))
    if name == "narrow" and axis is not None and 0 < axis < packed.num_step_axes:
        return _narrow_time(packed, axis, options)
    if axis != 0:
        return None
    options |= {"dims": (0,)} if "dims" in options else {"dim": 0}
    if isinstance(options.get("repeats"), int):
        check_plan(*packed.index.grid, options["repeats"], grid_name="repeated sequences")
    rows = function(torch.arange(len(packed)), *(options.pop(p) for p in _PARAMETERS[name] if p in options), **options)
    return map_leaves(lambda numbers: choose_sequences(packed, numbers), rows)


def _axis_of(packed: Packed, axes: object) -> int | None:
    """Return the axis of the grid if there is one, else None."""
    if isinstance(axes, list | tuple):
        axes = axes[0] if len(axes) == 1 else None
    return axes % packed.ndim if isinstance(axes, int) and -packed.ndim <= axes < packed.ndim else None


def _narrow_time(packed: Packed, axis: int, options: dict[str, Any]) -> Packed | Tensor:
    """Return `length` steps from `start` on, as the slice of the same bounds."""
    start, length, size = int(options["start"]), int(options["length"]), packed.index.grid[axis]
    if not -size <= start <= size or length < 0 or start % max(size, 1) + length > size:
        raise ShapeError(f"narrow to {length} steps from {start} on does not fit the {size} columns of {packed!r}.")
    if start < 0:
        raise NotElementwise("It counts its start from the end of the grid. Use a slice, as `x[:, -3:]`.")
    return slice_grid(packed, (*(slice(None),) * axis, slice(start, start + length)))


def _join(args: Args, kwargs: Kwargs) -> Packed | None:
    """Join batches of sequences, which may have different masks; None along another axis.

    Raises:
        NotElementwise: if one of them is a plain tensor, whose mask is not known.
        ShapeError: if their grids do not fit.
    """
    parts = args[0] if args else kwargs.get("tensors")
    axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    if not isinstance(parts, list | tuple) or not any(isinstance(part, Packed) for part in parts):
        return None
    if not isinstance(axis, int) or axis not in (0, -next(p.ndim for p in parts if isinstance(p, Packed))):
        return None
    packed = [part for part in leaves(parts) if isinstance(part, Packed)]
    if len(packed) < len(parts):
        raise NotElementwise("One of the tensors to join has no mask. Give it one: padless.pack(tensor, mask).")
    if len({tuple(part.shape[1:]) for part in packed}) > 1 or len({part.num_step_axes for part in packed}) > 1:
        raise ShapeError(
            f"Batches of shapes {[tuple(part.shape) for part in packed]} cannot be joined: all axes but the first must be "
            f"equal. padless.pack(sequences) takes sequences of any length."
        )
    mask_source = " and ".join(dict.fromkeys(part.index.mask_source for part in packed))
    columns_agree = all(part.index.columns_agree for part in packed)
    index = Index.from_mask(np.concatenate([part.index.mask for part in packed]), mask_source, columns_agree)
    gap_values = None
    rows = [part.gap_values for part in packed if part.gap_values is not None]
    if len(rows) == len(packed):
        one_for_each_gap = all(_rows_of_gaps(part) == part.index.num_gaps for part in packed)
        gap_values = torch.cat(rows if one_for_each_gap else [part.gap_values_per_cell() for part in packed])
    return Packed(torch.cat([part.values for part in packed]), index, gap_values)


def _rows_of_gaps(packed: Packed) -> int:
    """Return the number of rows of the gap values, 0 without any."""
    return 0 if packed.gap_values is None else len(packed.gap_values)
