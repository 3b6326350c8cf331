"""Apply the masks that came with the data to the columns of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from padless.data.column_trees import ColumnTree, column_leaves
from padless.data.columns import Column, DenseColumn, read_all
from padless.data.containers import read_column
from padless.data.torch_formats import read_packed
from padless.errors import ArgumentError, DataError, MaskError
from padless.ragged.mask import as_mask
from padless.ragged.packed import Packed, pack_shared
from padless.ragged.row_names import row_name

Steps: TypeAlias = "NDArray[np.generic] | Tensor | Packed"


@dataclass(frozen=True)
class SharedMask:
    """A mask that came in the data next to the inputs. It holds for each input whose steps it fits.

    Attributes:
        container: The mask, in any container.
    """

    container: object


@dataclass(frozen=True)
class InputMask:
    """A mask after its container was read.

    Attributes:
        steps: The mask: a grid `(rows, steps)`, or a `Packed` with one entry for each step of each sequence.
        is_packed: Whether the user gave a `Packed`, and not lists.
    """

    steps: Steps
    is_packed: bool


def apply_masks(columns: ColumnTree, mask: object, input_names: Sequence[str]) -> ColumnTree:
    """Keep the steps of the inputs that are real by their masks.

    Args:
        columns: The inputs.
        mask: One mask for one input, a list or a dictionary of masks as the inputs, or a `SharedMask`. A mask is an array
            `(rows, steps)` of booleans (or 0 and 1), or holds one list for each sequence.
        input_names: Names of the inputs of the model.

    Raises:
        ArgumentError: For masks that do not match the inputs by number or name.
        MaskError: For a mask that does not fit its input.
    """
    by_key: dict[str | int, Column] = dict(zip(_keys(columns), column_leaves(columns), strict=True))
    if isinstance(mask, SharedMask):
        shared = read_mask("attention_mask", mask.container)
        fitting = [key for key, column in by_key.items() if _fits(column, shared)]
        masks = dict.fromkeys(fitting or by_key, shared)
    else:
        masks = {
            key: read_mask(by_key[key].name, container)
            for key, container in _masks_by_key(mask, list(by_key), input_names).items()
            if container is not None
        }
    masked = {key: mask_column(column, masks[key]) if key in masks else column for key, column in by_key.items()}
    if isinstance(columns, dict):
        return {str(key): column for key, column in masked.items()}
    return list(masked.values()) if isinstance(columns, list) else masked[0]


def read_mask(column_name: str, container: object) -> InputMask:
    """Read the mask of a column from its container.

    Raises:
        MaskError: For a container that does not hold numbers or booleans.
    """
    is_nested = isinstance(container, Tensor) and container.is_nested
    if isinstance(container, np.ndarray | Tensor) and not is_nested and container.dtype != object:
        return InputMask(container, False)
    try:
        steps = read_all(read_column(f"the mask of {column_name}", container, takes_sequences=True))
    except DataError as error:
        raise MaskError(str(error)) from error
    return InputMask(steps, isinstance(container, Packed))


def mask_column(column: Column, mask: InputMask) -> Column:
    """Return a column with the steps that are real by its mask too. `predict` answers in the kind of the column."""
    data = read_all(column)
    steps = _align(column.name, mask, data)
    if isinstance(data, Packed) and data.index.given_lengths is not None and not isinstance(steps, Packed):
        _check_marked_steps(column.name, steps, data)
    masked = read_packed(column.name, pack_shared(data, mask=steps))
    return replace(masked, kind=column.kind, sequence_source=column.sequence_source)


def _keys(columns: ColumnTree) -> list[str | int]:
    """Return the names of the inputs if they came in a dictionary, else their numbers."""
    return list(columns) if isinstance(columns, dict) else list(range(len(column_leaves(columns))))


def _masks_by_key(mask: object, keys: Sequence[str | int], input_names: Sequence[str]) -> Mapping[str | int, object]:
    """Return the container of the mask of each input."""
    if isinstance(mask, Mapping):
        masks = {
            key if key in keys or key not in input_names else input_names.index(key): part for key, part in mask.items()
        }
        unknown = [key for key in masks if key not in keys]
        if unknown:
            raise ArgumentError(f"`mask` has the keys {list(masks)}; unknown: {unknown}. The inputs are {list(keys)}.")
        return masks
    if len(keys) == 1:
        if isinstance(mask, list | tuple) and len(mask) == 1 and _is_grid(mask[0]):
            mask = mask[0]
        return {keys[0]: mask}
    if isinstance(mask, list | tuple) and len(mask) == len(keys):
        return dict(zip(keys, mask, strict=True))
    raise ArgumentError(
        f"`mask` is one {type(mask).__name__}, but there are {len(keys)} inputs. Give a list with a mask or None for each, "
        f"or a dict by name."
    )


def _is_grid(mask: object) -> bool:
    return isinstance(mask, np.ndarray | Tensor | Packed) and mask.ndim > 1


def _fits(column: Column, mask: InputMask) -> bool:
    """Check whether a mask has the number of steps of each row of a column."""
    if isinstance(column, DenseColumn) and column.source.ndim < 2:
        return False
    data = read_all(column)
    try:
        steps = _align(column.name, mask, data)
    except MaskError:
        return False
    return isinstance(steps, Packed) or tuple(steps.shape) == tuple(data.shape[: steps.ndim])


def _check_marked_steps(column_name: str, steps: NDArray[np.generic] | Tensor, data: Packed) -> None:
    """Raise `MaskError` if a mask marks a step that a sequence does not have."""
    marked = as_mask(steps, tuple(data.shape), f"the mask of {column_name}")
    if marked.shape != data.index.mask.shape:
        return
    missing = np.argwhere(marked & ~data.index.mask)
    if len(missing):
        row, step = missing[0]
        raise MaskError(
            f"The mask of {column_name} marks step {step} of row {row} as real, but the data have {data.index.lengths[row]} "
            f"steps there. Expected one entry for each step."
        )


def _align(column_name: str, mask: InputMask, data: Tensor | Packed) -> Steps:
    """Return a mask in a form that `pack` takes for the data. A mask of sequences has one entry for each of their steps."""
    steps = mask.steps
    if not isinstance(steps, Packed):
        return steps
    if mask.is_packed and isinstance(data, Tensor) and steps.shape == data.shape[: steps.ndim]:
        return steps
    if not mask.is_packed and steps.shape[:2] == data.shape[:2] and steps.index.full:
        return steps.values.reshape(steps.shape)  # lists of equal lengths are a grid
    mask_lengths = steps.index.lengths
    lengths = data.index.lengths if isinstance(data, Packed) else np.full(data.shape[0], data.shape[1])
    wrong = np.flatnonzero(mask_lengths != lengths) if len(mask_lengths) == len(lengths) else np.array([0])
    if len(wrong):
        row = int(wrong[0])
        raise MaskError(
            f"The mask of {column_name} has {mask_lengths[row]} entries in {row_name(row)}, but the data have "
            f"{lengths[row]} steps there ({len(mask_lengths)} rows for {len(lengths)}). Expected one entry for each step."
        )
    return steps if isinstance(data, Packed) else steps.unpack(padding=0)
