"""Check all data before training, so that bad data are refused before any weight changes.

`ModelMaskInfo` says which inputs are ids of which table, which inputs create masks, and which of these masks each
output has. So ids, and the labels of real steps, are checked without a run of the model. Masked steps are not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching
from padless.data.batch_structure import flatten
from padless.data.data_adapter import DataAdapter
from padless.errors import ArgumentError, DataError, ShapeError
from padless.ragged.alignment import (
    check_weights_are_finite,
    describe_row,
    find_not_finite,
    match_rank,
    one_for_each_given_step,
    step_weights,
)
from padless.ragged.index import Index, Ints
from padless.ragged.mask import check_columns
from padless.ragged.packed import Packed, first_difference, gather_real_steps
from padless.ragged.row_names import naming_rows, row_name
from padless.trainers.compile_utils import CompiledObjective, OutputObjective
from padless.trainers.trainable_model import TrainableModel

_ROWS = 4096  # number of examples that are checked at a time


@dataclass(frozen=True)
class MaskOrigin:
    """A mask that depends on one input only.

    `input_position` is the number of the input and `mask_source` the name of the layer or argument in messages.
    `find_index` returns the real steps of a value of that input, and refuses ids outside of the layer's table.
    `creates_mask` is False for a table without a mask, which checks ids only.
    """

    input_position: int
    mask_source: str
    find_index: Callable[[Tensor | Packed], Index | None]
    creates_mask: bool = True


@dataclass(frozen=True)
class OutputInfo:
    """What is known of an output before the model runs.

    `shape` is `(None, ...)` with None for open sizes, and `num_step_axes` the number of axes that its mask covers, 0
    without a mask. `origin` is the number of the `MaskOrigin` of its mask, None if there is no mask or the mask is
    created inside the model.
    """

    shape: Sequence[int | None]
    num_step_axes: int = 0
    origin: int | None = None


@dataclass(frozen=True)
class ModelMaskInfo:
    """What is known of the masks and outputs of a model before it runs."""

    origins: Sequence[MaskOrigin] = ()
    outputs: Sequence[OutputInfo] = ()

    def find_indexes(self, inputs: Sequence[Tensor | Packed]) -> list[Index | None]:
        """Return the real steps of each origin for a batch of inputs. Raises `DataError` for bad ids."""
        return [origin.find_index(inputs[origin.input_position]) for origin in self.origins]


def check_data(
    model: TrainableModel,
    mask_info_of: Callable[[Batch], ModelMaskInfo],
    data: DataAdapter,
    objective: CompiledObjective | None,
    count: bool = False,
) -> ModelMaskInfo:
    """Check ids, the lengths of labels and sample weights, and the values of labels.

    All examples are checked if they are in memory or if their real steps must be counted, else only the first one.

    Args:
        model: the model that will read the data.
        mask_info_of: returns what is known of the model's masks for a batch.
        data: the data.
        objective: the losses of the outputs, None if there are no targets to check.
        count: whether the real steps of each example must be counted (for batches by tokens).

    Returns:
        What is known of the model's masks.

    Raises:
        DataError: for a bad value; the message names the value, the row or the step.
        ShapeError: for data that do not fit the model.
    """
    check_all = data.in_memory or count and data.counts_steps
    mask_info, lengths = ModelMaskInfo(), []
    for batch in data.begin(Batching(_ROWS), None) if check_all else [data.head(1)]:
        inputs = model.arrange_inputs(batch.x)
        if not lengths:
            mask_info = mask_info_of(data.head(1))
        with naming_rows(batch.row_names):
            indexes = mask_info.find_indexes(inputs)
            if objective is not None and batch.y is not None:
                _check_targets(batch, indexes, mask_info, objective)
        lengths.append(_count_steps(inputs, indexes, batch.rows))
    if check_all:
        data.lengths = np.concatenate(lengths)
    return mask_info


def require_targets(data: DataAdapter, objective: CompiledObjective) -> None:
    """Raise `ArgumentError` if there is a loss, but the data have no targets."""
    if any(output.loss is not None for output in objective.outputs) and data.head(1).y is None:
        raise ArgumentError("A loss needs targets, but y is None. Give y, or batches of (x, y).")


def _count_steps(inputs: Sequence[Tensor | Packed], indexes: Sequence[Index | None], rows: int) -> Ints:
    """Return the real steps of each example, of the input with the most; all steps of arrays without a mask."""
    counts = [index.lengths.reshape(rows, -1).sum(1) for index in indexes if index is not None]
    if counts:
        return np.max(counts, axis=0)
    widths = [x.shape[1] for x in inputs if x.ndim > 2 or x.ndim == 2 and not x.dtype.is_floating_point]
    return np.full(rows, max(widths, default=1))


def _check_targets(
    batch: Batch, indexes: list[Index | None], mask_info: ModelMaskInfo, objective: CompiledObjective
) -> None:
    """Check the targets and sample weights of all outputs with a loss of single steps."""
    targets, weights = flatten(batch.y), flatten(batch.sample_weight)
    weights = weights if len(weights) == len(targets) else [None] * len(targets)
    for target, weight, info, output in zip(targets, weights, mask_info.outputs, objective.outputs, strict=False):
        if target is None or output.loss is None:
            continue
        index = None if info.origin is None else indexes[info.origin]
        weights_of_steps = _check_weights(weight, index, info)
        if output.loss.reads_whole_sequences:
            _check_whole_sequences(target, weight, index, info, output)
            continue
        if index is None and info.num_step_axes:
            continue  # the mask is not known yet; the loss of the batch compares the lengths
        if index is not None and isinstance(weight, Packed):
            subject = f"sample weights of output {output.name!r}"
            _check_lengths(weight.index.lengths, index.lengths, subject, "weights")
        if isinstance(target, Packed) and not info.num_step_axes and len(info.shape) == 2 and info.shape[1] is not None:
            _check_targets_of_examples(target, output)
        rows = _target_rows(target, index, output)
        if rows is not None and None not in info.shape[-1:]:
            _check_labels(rows, weights_of_steps, info, output, index)


def _check_targets_of_examples(target: Packed, output: OutputObjective) -> None:
    """Refuse sequences of different lengths as targets of an output without steps."""
    row = first_difference(target.index.lengths, np.full_like(target.index.lengths, target.index.lengths[:1].sum()))
    if row < len(target.index.lengths):
        raise DataError(
            f"The targets of output {output.name!r} have {target.index.lengths[row]} entries in {row_name(row)}, and "
            f"{target.index.lengths[0]} in other rows. The output has no steps. Expected the same number for all."
        )


def _check_whole_sequences(
    target: Tensor | Packed,
    weight: Tensor | Packed | None,
    index: Index | None,
    info: OutputInfo,
    output: OutputObjective,
) -> None:
    """Run the check of a loss of whole sequences, if the lengths of the outputs are known."""
    targets = target.unpack(0) if isinstance(target, Packed) else target
    width = info.shape[1] if len(info.shape) > 2 else None
    if output.loss is None or targets.ndim < 2 or index is None and (info.num_step_axes or width is None):
        return
    lengths = np.full(len(targets), width) if index is None else index.lengths
    if len(lengths) != len(targets):
        return
    if isinstance(weight, Tensor) and weight.shape[:1] == targets.shape[:1] and weight.numel() == len(targets):
        targets = output.loss.weighted_targets(targets, targets, weight.reshape(-1))
    try:
        output.loss.check_sequences(targets, lengths)
    except DataError as error:
        raise DataError(f"The targets of output {output.name!r}: {error}") from error


def _check_weights(weight: Tensor | Packed | None, index: Index | None, info: OutputInfo) -> Tensor | None:
    """Return the sample weights at real steps, None where the mask is not known; refuse NaN and infinity."""
    if isinstance(weight, Packed):
        if index is None or weight.index.grid != index.grid or not weight.index.full:  # one for each real step
            check_weights_are_finite(weight, weight.values, weight.index)
            return weight.values
        weight = weight.unpack()
    if weight is None or index is None and info.num_step_axes and (weight.ndim > 1 and weight.shape[1] > 1):
        return None
    weights = weight if index is None or weight.ndim < 2 or weight.shape[1] == 1 else step_weights(weight, index)
    check_weights_are_finite(weight, weights, None if weights is weight else index)
    return weights if index is None or weights is not weight else step_weights(weight, index)


def _target_rows(target: Tensor | Packed, index: Index | None, output: OutputObjective) -> Tensor | None:
    """Return the targets at real steps `(N, ...)`, None if only the loss can check their shape."""
    subject = f"targets of output {output.name!r}"
    if isinstance(target, Packed):
        if index is not None and one_for_each_given_step(target.index, index):
            return target.reindex(index).values
        if index is not None and target.index.full and target.index.grid == index.grid:
            if index.given_lengths is not None:
                _check_lengths(target.index.lengths, index.given_lengths, subject, "labels")
            return target.reindex(index).values  # a list of equally long lists is a padded grid
        if index is not None:
            _check_lengths(target.index.lengths, index.lengths, subject, "labels")
        return target.values
    if index is None:
        return target
    if tuple(target.shape[: len(index.grid)]) == index.grid:
        check_columns(index, target.shape, subject)
        return gather_real_steps(target, index)
    if target.ndim < 2:
        raise ShapeError(
            f"The targets of output {output.name!r} have shape {tuple(target.shape)}, one for each "
            f"example, but the output has steps. Expected a label for each step: a list for each, or an "
            f"array of shape {index.grid}."
        )
    if index.outer is not None:
        return None
    widths = np.full(len(target), target.shape[1])  # a list of equally long lists, or an array that does not fit
    _check_lengths(widths, index.lengths, subject, "labels")
    return target.flatten(0, 1)


def _check_lengths(counts: Ints, lengths: Ints, subject: str, unit: str) -> None:
    """Raise `DataError` for the first row whose number of labels or weights is not the number of its real steps."""
    if len(counts) != len(lengths):
        return
    wrong_rows = np.flatnonzero(counts != lengths)
    if len(wrong_rows):
        row = int(wrong_rows[0])
        raise DataError(
            f"The {subject} have {counts[row]} {unit} in {row_name(row)}, but its mask has "
            f"{lengths[row]} real steps. Give one for each real step, or a padded array of the width "
            f"of the input."
        )


def _check_labels(
    rows: Tensor, weights: Tensor | None, info: OutputInfo, output: OutputObjective, index: Index | None
) -> None:
    """Run the check of the loss on the targets, with outputs that have a shape but no numbers."""
    if output.loss is None:
        return
    target_sizes = rows.shape[1:]
    features = [
        target_sizes[axis] if size is None and axis < len(target_sizes) else size or 1
        for axis, size in enumerate(info.shape[max(info.num_step_axes, 1) :])
    ]
    targets, outputs = match_rank(rows, torch.empty((len(rows), *features), device="meta"))
    targets = output.loss.weighted_targets(targets, outputs, weights)
    try:
        output.loss.check_targets(targets, outputs)
    except DataError as error:
        place = find_not_finite(targets)
        if place is None:
            raise
        row = describe_row(place, index)
        raise DataError(f"The targets of output {output.name!r} are not finite in {row}. {error}") from error
