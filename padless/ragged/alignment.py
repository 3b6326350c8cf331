"""Targets and weights, in whatever container they come, brought to the real steps of the outputs.

What stands at masked steps of a grid is not looked at. Whether a weight belongs to a sequence or to a step is said by
its rank, `(B,)` or `(B, 1)` against `(B, T)`, never guessed from equal sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import DataError, ShapeError
from padless.ragged.device import to_device
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gather_real_steps, pack


def align_targets(y_true: Any, y_pred: Any) -> tuple[Tensor, Tensor, Index | None]:
    """Targets and outputs as rows `(N, ...)`, with the index of the outputs (None where they are plain).

    Outputs without a mask are wholly real, unless the targets come as sequences: these then say which steps are.
    """
    given, outputs = to_tensor(y_true, "y_true"), to_tensor(y_pred, "y_pred")
    if isinstance(given, Packed) and not isinstance(outputs, Packed):
        outputs = pack(outputs, like=given.pad_to_width(outputs.shape[1]) if outputs.ndim > 1 else given)
    if isinstance(outputs, Packed):
        rows = outputs.values
        targets = target_rows(given if isinstance(given, Packed) else y_true, outputs.index, "y_true")
    else:
        targets, rows = given, outputs
    targets, rows = match_rank(targets, rows)  # pyright: ignore[reportArgumentType] - no Packed any more
    if len(targets) != len(rows):
        raise ShapeError(
            f"`y_true` has {len(targets)} examples, the outputs {len(rows)}: shapes "
            f"{tuple(targets.shape)} and {tuple(rows.shape)}."
        )
    return targets, rows, outputs.index if isinstance(outputs, Packed) else None


def sample_weights_for(weight: Any, index: Index | None, values: Tensor) -> Tensor:
    """Weights in the shape of `values`, for sequences, steps or single values."""
    found = to_tensor(weight, "sample_weight") if index is None else step_weights(weight, index)
    if isinstance(found, Packed):
        raise ShapeError("`sample_weight` came as sequences of different lengths, but the outputs are not.")
    return broadcast_weights(found, values)


def to_tensor(data: Any, what: str) -> Tensor | Packed:
    """Arrays and rectangular lists as a tensor, lists of sequences of different lengths as `Packed`."""
    if isinstance(data, Tensor | Packed):
        return data
    if isinstance(data, list | tuple) and any(isinstance(item, Tensor) for item in data):
        return _stacked(data)
    try:
        array = np.asarray(data)
    except ValueError:  # NumPy's word for rows of different lengths
        return Packed.from_sequences(data)
    if array.dtype.kind not in "biuf":
        raise DataError(f"`{what}` must hold numbers; got {type(data).__name__} of {array.dtype}.")
    if array.dtype == np.float64 and isinstance(data, list | tuple):  # Python's own numbers claim no precision
        array = array.astype(np.float32)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.as_tensor(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def target_rows(data: Any, index: Index, what: str) -> Tensor:
    """The rows `(N, ...)` of targets or weights for the real steps of `index`.

    A grid must have the leading shape of the index. Sequences must be as long as the index says, row by row, wherever
    they stand; or fill the whole grid. Raises `ShapeError` otherwise.
    """
    found = to_tensor(data, what)
    if isinstance(found, Tensor):
        if tuple(found.shape[: len(index.grid)]) == index.grid:
            return gather_real_steps(found, index)
        if found.ndim > 1 and len(found) == index.shape[0] and (index.lengths == found.shape[1]).all():
            return found.flatten(0, 1)  # a list of sequences that are all of one length
        if not isinstance(data, list | tuple) or found.ndim < 2:
            raise ShapeError(
                f"`{what}` of shape {tuple(found.shape)} does not fit outputs on a grid of shape "
                f"{index.grid}: batch and steps must be the same. Sequences without padding are given as "
                f"a list or a Packed."
            )
        found = pack(found)
    if found.index.equals(index):
        return found.values
    same_rows = found.index.shape[0] == index.shape[0]
    if same_rows and np.array_equal(found.index.lengths, index.lengths):
        return found.values
    if found.index.grid == index.grid and found.index.full:
        return found.reindex(index).values
    row = _first_difference(found.index.lengths, index.lengths)
    lengths = [str(i.lengths[row]) if row < i.shape[0] else "no such row" for i in (found.index, index)]
    raise ShapeError(
        f"`{what}` does not fit the outputs at row {row}: length {lengths[0]} against {lengths[1]} real "
        f"steps ({found.index.shape[0]} sequences for {index.shape[0]}). Give one entry for each real "
        f"step, or a padded grid of shape {index.grid}."
    )


def step_weights(weight: Any, index: Index) -> Tensor:
    """Weights as rows `(N, ...)`: `(B,)` and `(B, 1)` are spread over each sequence, `(B, T)` are gathered."""
    found = to_tensor(weight, "sample_weight")
    if isinstance(found, Packed):
        return target_rows(found, index, "sample_weight")
    shape, grid = tuple(found.shape), index.grid
    if not shape or shape[: len(grid)] == grid:
        return gather_real_steps(found, index) if shape else found
    fits = shape[0] == grid[0] and all(a in (1, b) for a, b in zip(shape[1:], grid[1:], strict=False))
    if not fits and isinstance(weight, list | tuple) and found.ndim > 1:
        return target_rows(weight, index, "sample_weight")
    if not fits:
        raise _unfit(shape, f"{grid[:1]} or {(grid[0], 1)} for one weight per sequence, or {grid} for one per step")
    places = index.coordinates(found.device)[: len(shape)]
    return found[tuple(place if size > 1 else torch.zeros_like(place) for place, size in zip(places, shape, strict=False))]


def sequence_weights(weight: Any, index: Index | None, rows: int) -> Tensor:
    """Weights of whole sequences, `(B,)`: for a loss that sees each as one."""
    found = to_tensor(weight, "sample_weight")
    size = rows if index is None else index.grid[0]
    if isinstance(found, Packed) or tuple(found.shape) not in ((), (size,), (size, 1)):
        raise _unfit(tuple(found.shape), f"{(size,)} or {(size, 1)}: this loss gives one value per sequence")
    return found.reshape(found.shape[:1])


def broadcast_weights(weight: Tensor, values: Tensor) -> Tensor:
    """`weight` in the shape of `values`: axes match from the left, those of size 1 are repeated."""
    given = tuple(weight.shape)
    while weight.ndim > values.ndim and weight.shape[-1] == 1:
        weight = weight.squeeze(-1)
    pairs = zip(weight.shape[1:], values.shape[1:], strict=False)
    if (
        weight.ndim > values.ndim
        or weight.shape[:1] not in (torch.Size([]), values.shape[:1])
        or not all(a in (1, b) for a, b in pairs)
    ):
        raise _unfit(
            given,
            f"{(values.shape[0],)} or {(values.shape[0], 1)} for one weight per example, or "
            f"{tuple(values.shape)} for one per value",
        )
    weight = to_device(weight, values.device).to(values.dtype)
    return weight.reshape(*weight.shape, *(1,) * (values.ndim - weight.ndim)).expand(values.shape)


def match_rank(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with at least one feature axis, and of one rank where they differ by a last axis of size 1."""
    while y_pred.ndim < 2:
        y_pred = y_pred.unsqueeze(-1)
    if y_true.ndim == 0:
        y_true = y_true.unsqueeze(0)
    if y_true.ndim == y_pred.ndim - 1 and y_pred.shape[-1] == 1:
        y_true = y_true.unsqueeze(-1)
    elif y_true.ndim == y_pred.ndim + 1 and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    return y_true, y_pred


def _stacked(tensors: Sequence[Any]) -> Tensor | Packed:
    items = [item if isinstance(item, Tensor) else torch.as_tensor(np.asarray(item)) for item in tensors]
    return torch.stack(items) if len({item.shape for item in items}) == 1 else Packed.from_sequences(items)


def _first_difference(first: np.ndarray, second: np.ndarray) -> int:
    shared = min(len(first), len(second))
    differ = np.flatnonzero(first[:shared] != second[:shared])
    return int(differ[0]) if len(differ) else shared if len(first) != len(second) else 0


def _unfit(shape: tuple[int, ...], expected: str) -> ShapeError:
    return ShapeError(f"`sample_weight` of shape {shape} does not fit the outputs. Expected {expected}.")
