"""Bring targets and sample weights in any container to the real steps of the outputs.

What a grid contains at masked steps has no effect. The shape of a weight, not its size, says what it belongs to:
against outputs `(B, T, ...)`, `(B,)` and `(B, 1)` are weights of sequences, `(B, T)` are weights of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from padless.errors import DataError, ShapeError
from padless.ragged.device import host_copy, to_device
from padless.ragged.index import Index, Ints
from padless.ragged.mask import check_columns
from padless.ragged.masked_array import refuse_masked_array
from padless.ragged.numeric import array_of, numeric_array, numeric_tensor, tensor_of
from padless.ragged.packed import ArrayLike, Packed, first_difference, gather_real_steps, pack_shared
from padless.ragged.row_names import row_name


def align_targets(
    y_true: ArrayLike, y_pred: ArrayLike, combines_features: bool = False
) -> tuple[Tensor, Tensor, Index | None]:
    """Bring targets and outputs to the same rows.

    Args:
        y_true: the targets, a grid or sequences.
        y_pred: the outputs. Without a mask all their steps are real, unless the targets are sequences of different
            lengths: these then say which steps are real.
        combines_features: whether the features of a row give one value, as in a cross entropy of classes. Then plain
            outputs `(D,)` are one row, as in Keras; else they are D rows.

    Returns:
        The targets and the outputs as rows `(N, ...)`, and the index of the outputs; None if they have no mask.

    Raises:
        ShapeError: if targets and outputs do not fit.
    """
    targets, outputs = to_tensor(y_true, "y_true"), to_tensor(y_pred, "y_pred")
    if combines_features and isinstance(outputs, Tensor) and isinstance(targets, Tensor):
        targets, outputs = one_row(targets, outputs)
    if isinstance(outputs, Tensor) and isinstance(targets, Packed):
        outputs = pack_shared(outputs, like=targets.pad_to_width(outputs.shape[1]) if outputs.ndim > 1 else targets)
    if isinstance(outputs, Packed):
        index = outputs.index
        targets = target_rows(targets if isinstance(targets, Packed) else y_true, index, "y_true")
        outputs = outputs.values
    else:
        index = None
    rows, output_rows = match_rank(cast(Tensor, targets), outputs)  # packed targets have packed outputs
    if len(rows) != len(output_rows):
        raise ShapeError(
            f"`y_true` has {len(rows)} examples, the outputs {len(output_rows)}: shapes "
            f"{tuple(rows.shape)} and {tuple(output_rows.shape)}."
        )
    return rows, output_rows, index


def to_tensor(data: ArrayLike, argument: str) -> Tensor | Packed:
    """Return arrays and rectangular lists as a tensor, lists of sequences of different lengths as a `Packed`.

    Args:
        data: the data. A list of Python floats becomes float32.
        argument: the name of the argument that holds them, for error messages.

    Raises:
        DataError: if the data are not numbers.
    """
    if isinstance(data, Tensor):
        return numeric_tensor(f"`{argument}`", data)
    if isinstance(data, Packed):
        return data
    refuse_masked_array(f"`{argument}`", data)
    if isinstance(data, list | tuple) and any(isinstance(item, Tensor) for item in data):
        return _stack_or_pack(data)
    array = array_of(data)
    if array is None:
        return Packed.from_sequences(cast(Sequence[ArrayLike], data))
    array = numeric_array(f"`{argument}`", array, source=data)
    if array.dtype == np.float64 and isinstance(data, list | tuple):  # Python has no float of lower precision
        array = array.astype(np.float32)
    return tensor_of(array)


def target_rows(data: ArrayLike, index: Index, argument: str) -> Tensor:
    """Return targets or weights as rows `(N, ...)`, one for each real step of an index.

    Args:
        data: a grid with the leading shape of the index, or sequences with its lengths, or sequences that fill the grid.
        index: the real steps of the outputs.
        argument: the name of the argument that holds the data, for error messages.

    Raises:
        ShapeError: if the data do not fit.
    """
    rows = to_tensor(data, argument)
    if isinstance(rows, Tensor):
        if tuple(rows.shape[: len(index.grid)]) == index.grid:
            check_columns(index, rows.shape, f"`{argument}`")
            if isinstance(data, list | tuple):
                check_given_lengths(np.full(len(rows), rows.shape[1]), index, argument)
            return gather_real_steps(rows, index)
        if rows.ndim > 1 and len(rows) == index.shape[0] and (index.lengths == rows.shape[1]).all():
            return rows.flatten(0, 1)  # sequences of one length
        if not isinstance(data, list | tuple) or rows.ndim < 2:
            raise ShapeError(
                f"`{argument}` of shape {tuple(rows.shape)} does not fit outputs on a grid of shape "
                f"{index.grid}: batch and steps must be the same. Sequences without padding are given as "
                f"a list or a Packed."
            )
        rows = pack_shared(rows)
    same_rows = rows.index.shape[0] == index.shape[0]
    if rows.index.equals(index) or same_rows and np.array_equal(rows.index.lengths, index.lengths):
        return rows.values
    if one_for_each_given_step(rows.index, index):
        return rows.reindex(index).values
    if rows.index.grid == index.grid and rows.index.full:
        check_given_lengths(rows.index.lengths, index, argument)
        return rows.reindex(index).values
    row = first_difference(rows.index.lengths, index.lengths)
    lengths = [str(i.lengths[row]) if row < i.shape[0] else "no such row" for i in (rows.index, index)]
    raise ShapeError(
        f"`{argument}` does not fit the outputs at {row_name(row)}: length {lengths[0]} against {lengths[1]} real "
        f"steps ({rows.index.shape[0]} sequences for {index.shape[0]}). Give one entry for each real "
        f"step, or a padded grid of shape {index.grid}."
    )


def one_for_each_given_step(rows: Index, index: Index) -> bool:
    """Return whether sequences have one entry for each step of the sequences that were given, masked ones among them."""
    if rows.given_lengths is None or index.given_lengths is None or rows.grid != index.grid:
        return False
    is_whole = np.array_equal(rows.lengths, rows.given_lengths)
    return is_whole and np.array_equal(rows.given_lengths, index.given_lengths)


def check_given_lengths(lengths: Ints, index: Index, argument: str) -> None:
    """Refuse rows of one length for sequences that were given as lists of other lengths: an entry would be dropped.

    Raises:
        ShapeError: for the first row of another length.
    """
    if index.given_lengths is None or len(lengths) != len(index.given_lengths):
        return
    row = first_difference(lengths, index.given_lengths)
    if row < len(lengths):
        raise ShapeError(
            f"`{argument}` does not fit the outputs at {row_name(row)}: length {lengths[row]} against "
            f"{index.given_lengths[row]} steps. The inputs are sequences without padding, so give one entry for each "
            f"of their steps."
        )


def sample_weights_for(weight: ArrayLike, index: Index | None, values: Tensor) -> Tensor:
    """Return sample weights in the shape of values.

    Args:
        weight: weights of sequences, steps or single values.
        index: the real steps of the outputs; None if they have no mask.
        values: the losses or outputs `(N, ...)` to be weighted.

    Raises:
        ShapeError: if the weights do not fit.
        DataError: if a weight is NaN or infinite.
    """
    return broadcast_weights(weight_rows(weight, index), values)


def weight_rows(weight: ArrayLike, index: Index | None) -> Tensor:
    """Return sample weights at the real steps, `(N, ...)`, or for all of them `()`; the arguments are as above."""
    weights = to_tensor(weight, "sample_weight") if index is None else step_weights(weight, index)
    if isinstance(weights, Packed):
        raise ShapeError("`sample_weight` holds sequences of different lengths, but the outputs are not sequences.")
    check_weights_are_finite(weight, weights, index)
    return weights


def check_weights_are_finite(container: ArrayLike, weights: Tensor, index: Index | None) -> None:
    """Raise `DataError` for the first weight at a real step that is NaN or infinite.

    Weights that were made on a device are not checked, because the host would wait for the device.

    Args:
        container: the weights in the container of the user.
        weights: the weights at the real steps `(N, ...)`.
        index: the real steps, or None.
    """
    if weights.device.type != "cpu" and not host_copy_may_be_invalid(container):
        return
    place = find_not_finite(weights)
    if place is not None:
        raise DataError(
            f"`sample_weight` is {weights[place].item()} in {describe_row(place, index)}. Expected finite "
            f"numbers. Give the weight 0 to a target that must not count."
        )


def host_copy_may_be_invalid(container: ArrayLike) -> bool:
    """Return whether the host knows numbers on a device, and one of them is NaN or infinite."""
    tensor = container.values if isinstance(container, Packed) else container
    on_host = host_copy(tensor) if isinstance(tensor, Tensor) else None
    return on_host is not None and on_host.device.type == "cpu" and find_not_finite(on_host) is not None


def find_not_finite(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the place of the first number that is NaN or infinite, None without one."""
    if not tensor.is_floating_point() or math.isfinite(tensor.sum().item()):  # one pass, and almost always the answer
        return None
    places = tensor.isfinite().logical_not().nonzero()
    return tuple(places[0].tolist()) if len(places) else None  # the sum of finite numbers may be infinite


def describe_row(place: tuple[int, ...], index: Index | None) -> str:
    """Return the row, and with an index the step, of a place among the real steps `(N, ...)`."""
    if not place:
        return "all rows"
    if index is None:
        return row_name(place[0])
    return f"{row_name(example_of_step(index, place[0]))}, step {int(index.positions[place[0]])}"


def example_of_step(index: Index, number: int) -> int:
    """Return the row of the batch that holds a real step. The sentences of a document are in one row."""
    return int(index.rows[number]) // max(index.shape[0] // max(index.grid[0], 1), 1)


def is_unweighted(weights: Tensor, targets: Tensor) -> Tensor:
    """Return which targets `(N, ...)` have the weight 0, as booleans in their shape; the weights are at real steps."""
    is_zero = to_device(torch.eq(weights, 0), targets.device)
    while is_zero.ndim > targets.ndim:
        is_zero = is_zero.all(-1)
    is_zero = is_zero.reshape(*is_zero.shape, *(1,) * (targets.ndim - is_zero.ndim))
    for axis, (size, target_size) in enumerate(zip(is_zero.shape, targets.shape, strict=True)):
        if size not in (1, target_size):  # weights of features, for a target without them
            is_zero = is_zero.all(axis, keepdim=True)
    return is_zero.expand(targets.shape)


def step_weights(weight: ArrayLike, index: Index) -> Tensor:
    """Return weights as rows `(N, ...)`, one for each real step of an index.

    Weights `(B,)` and `(B, 1)` are repeated for each step of a sequence, weights `(B, T)` are gathered.
    """
    weights = to_tensor(weight, "sample_weight")
    if isinstance(weights, Packed):
        return target_rows(weights, index, "sample_weight")
    shape, grid = tuple(weights.shape), index.grid
    if not shape:
        return weights
    if shape[: len(grid)] == grid:
        check_columns(index, shape, "`sample_weight`")
        if isinstance(weight, list | tuple):
            check_given_lengths(np.full(shape[0], shape[1]), index, "sample_weight")
        return gather_real_steps(weights, index)
    broadcasts = shape[0] == grid[0] and all(a in (1, b) for a, b in zip(shape[1:], grid[1:], strict=False))
    if not broadcasts and isinstance(weight, list | tuple) and weights.ndim > 1:
        return target_rows(weight, index, "sample_weight")
    if not broadcasts:
        raise _shape_error(shape, f"{grid[:1]} or {(grid[0], 1)} for one weight per sequence, or {grid} for one per step")
    places = index.coordinates(weights.device)[: len(shape)]
    key = tuple(axis if size > 1 else torch.zeros_like(axis) for axis, size in zip(places, shape, strict=False))
    return weights[key]


def sequence_weights(weight: ArrayLike, index: Index | None, num_rows: int) -> Tensor:
    """Return weights `(B,)` of whole sequences, or one for all `()`, for a loss with one value for each sequence.

    Args:
        weight: the weights, `(B,)`, `(B, 1)` or a number.
        index: the real steps of the outputs; None if they have no mask.
        num_rows: B, where there is no index.
    """
    weights = to_tensor(weight, "sample_weight")
    size = num_rows if index is None else index.grid[0]
    if isinstance(weights, Packed) or tuple(weights.shape) not in ((), (size,), (size, 1)):
        raise _shape_error(tuple(weights.shape), f"{(size,)} or {(size, 1)}: this loss gives one value per sequence")
    rows = weights.reshape(weights.shape[:1])
    check_weights_are_finite(weight, rows, None)
    return rows


def broadcast_weights(weight: Tensor, values: Tensor) -> Tensor:
    """Return weights in the shape of values. Axes match from the left, and axes of size 1 are repeated.

    The weights get the dtype of the values. For integers and booleans it is the default dtype, since .5 is not an integer.
    """
    shape = tuple(weight.shape)
    while weight.ndim > values.ndim and weight.shape[-1] == 1:
        weight = weight.squeeze(-1)
    has_rows = weight.ndim == 0 or weight.shape[:1] == values.shape[:1]
    broadcasts = all(a in (1, b) for a, b in zip(weight.shape[1:], values.shape[1:], strict=False))
    if weight.ndim > values.ndim or not has_rows or not broadcasts:
        raise _shape_error(
            shape,
            f"{(values.shape[0],)} or {(values.shape[0], 1)} for one weight per example, or "
            f"{tuple(values.shape)} for one per value",
        )
    dtype = values.dtype if values.dtype.is_floating_point else torch.get_default_dtype()
    weight = to_device(weight, values.device).to(dtype)
    return weight.reshape(*weight.shape, *(1,) * (values.ndim - weight.ndim)).expand(values.shape)


def one_row(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs `(D,)` and their targets as one row `(1, D)`; others unchanged."""
    if y_pred.ndim != 1:
        return y_true, y_pred
    return y_true[None], y_pred[None]


def match_rank(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Return targets and outputs with at least one feature axis, and with as many axes if they differ by a 1 at the end."""
    while y_pred.ndim < 2:
        y_pred = y_pred.unsqueeze(-1)
    if y_true.ndim == 0:
        y_true = y_true.unsqueeze(0)
    if y_true.ndim == y_pred.ndim - 1 and y_pred.shape[-1] == 1:
        y_true = y_true.unsqueeze(-1)
    elif y_true.ndim == y_pred.ndim + 1 and y_true.shape[-1] == 1:
        y_true = y_true.squeeze(-1)
    return y_true, y_pred


def _stack_or_pack(items: Sequence[ArrayLike]) -> Tensor | Packed:
    """Return a list with tensors in it as one tensor, or as a `Packed` if their shapes differ."""
    tensors = [item if isinstance(item, Tensor) else tensor_of(np.asarray(item)) for item in items]
    return torch.stack(tensors) if len({tensor.shape for tensor in tensors}) == 1 else Packed.from_sequences(tensors)


def _shape_error(shape: tuple[int, ...], expected: str) -> ShapeError:
    return ShapeError(f"`sample_weight` of shape {shape} does not fit the outputs. Expected {expected}.")
