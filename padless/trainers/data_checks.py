"""Bad data are refused at the border: all examples are looked at once, before any weight has changed.

A plan says which inputs are ids of which table, where masks are created by the inputs, and which of these masks each
output will have; so ids, and labels at real steps, can be checked without running the model. Nothing at masked steps
is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching
from padless.data.batch_structure import flatten
from padless.data.data_adapter import DataAdapter
from padless.errors import ArgumentError, DataError, ShapeError
from padless.ragged.alignment import match_rank
from padless.ragged.index import Index, Ints
from padless.ragged.packed import Packed, gather_real_steps
from padless.trainers.compile_utils import CompiledObjective, OutputObjective

_ROWS = 4096  # examples looked at together


@dataclass(frozen=True)
class MaskOrigin:
    """Steps that one input alone decides: its place, what a mask of them says that it is created by, and how they follow.

    `index` also refuses ids that do not stand in their table. `masks` is False for a table that makes no mask.
    """

    source: int
    mask_source: str
    index: Callable[[Any], Index | None]
    masks: bool = True


@dataclass(frozen=True)
class OutputInfo:
    """An output yet to come: its shape, how many axes its mask covers (0: none), and the birth that the mask is of.

    `birth` is None where nothing is masked, and where a mask came about on the way.
    """

    shape: Sequence[int | None]
    num_step_axes: int = 0
    origin: int | None = None


@dataclass(frozen=True)
class ModelMaskInfo:
    """What is known of a model before data run through it."""

    origins: Sequence[MaskOrigin] = ()
    outputs: Sequence[OutputInfo] = ()


def check(
    model: Any,
    plan_of: Callable[[Batch], ModelMaskInfo],
    data: DataAdapter,
    objective: CompiledObjective | None,
    count: bool = False,
) -> ModelMaskInfo:
    """Ids outside their table, labels or weights of another length than the mask of their output, labels that are no class.

    Looks at all examples where they are in memory, or where their real steps are to be counted, else at the first.
    Raises `DataError` that names the value, the row or the step; `ShapeError` for data that are none of the model's.
    """
    whole = data.in_memory or count and data.counts_steps
    plan, lengths, first = ModelMaskInfo(), [], 0
    for batch in data.begin(Batching(_ROWS), None) if whole else [data.head(1)]:
        values = model.arranged(batch.x)
        plan = plan if first else plan_of(data.head(1))
        try:
            indexes = [birth.index(values[birth.source]) for birth in plan.origins]
        except DataError as wrong:
            if not first:
                raise
            raise DataError(f"{wrong} Rows are counted from {first}.") from wrong
        if objective is not None and batch.y is not None:
            _outputs(batch, indexes, plan, objective, first)
        first += batch.rows
        lengths.append(_lengths(values, indexes, batch.rows))
    if whole:
        data.lengths = np.concatenate(lengths)
    return plan


def _lengths(values: Sequence[Any], indexes: Sequence[Index | None], rows: int) -> Ints:
    """The real steps of each example: of the input that has the most; of arrays without a mask, all."""
    masked = [index.lengths.reshape(rows, -1).sum(1) for index in indexes if index is not None]
    if not masked:
        plain = [v.shape[1] for v in values if v.ndim > 2 or v.ndim == 2 and not v.dtype.is_floating_point]
        return np.full(rows, max(plain, default=1))
    return np.max(masked, axis=0)


def has_targets(data: DataAdapter, objective: CompiledObjective) -> None:
    """Refuse data without targets where there is a loss for them."""
    if any(output.loss is not None for output in objective.outputs) and data.head(1).y is None:
        raise ArgumentError("A loss needs targets, but y is None. Give y, or batches of (x, y).")


def _outputs(
    batch: Batch, indexes: list[Index | None], plan: ModelMaskInfo, objective: CompiledObjective, first: int
) -> None:
    targets, weights = flatten(batch.y), flatten(batch.sample_weight)
    weights = weights if len(weights) == len(targets) else [None] * len(targets)
    for target, weight, end, output in zip(targets, weights, plan.outputs, objective.outputs, strict=False):
        if target is None or output.loss is None or output.loss.reads_whole_sequences:
            continue
        index = None if end.origin is None else indexes[end.origin]
        if index is None and end.num_step_axes:
            continue  # the loss of the batch compares the lengths
        if index is not None and isinstance(weight, Packed):
            _same_lengths(weight.index.lengths, index.lengths, f"sample weights of output {output.name!r}", "weights", first)
        rows = _rows(target, index, output, first)
        if rows is not None and None not in end.shape[-1:]:
            _labels(rows, end, output)


def _rows(target: Tensor | Packed, index: Index | None, output: OutputObjective, first: int) -> Tensor | None:
    """The targets at real steps; None where only the loss can say whether they fit."""
    if isinstance(target, Packed):
        if index is not None and target.index.full and target.index.grid == index.grid:
            return target.reindex(index).values  # a rectangular list is a grid
        if index is not None:
            _same_lengths(target.index.lengths, index.lengths, f"targets of output {output.name!r}", "labels", first)
        return target.values
    if index is None:
        return target
    if tuple(target.shape[: len(index.grid)]) == index.grid:
        return gather_real_steps(target, index)
    if target.ndim < 2:
        raise ShapeError(
            f"The targets of output {output.name!r} have shape {tuple(target.shape)}, one for each "
            f"example, but the output has steps. Expected a label for each step: a list for each, or an "
            f"array of shape {index.grid}."
        )
    if index.outer is not None:
        return None
    given = np.full(len(target), target.shape[1])  # a rectangular list, or an array that does not fit
    _same_lengths(given, index.lengths, f"targets of output {output.name!r}", "labels", first)
    return target.flatten(0, 1)


def _same_lengths(given: Ints, lengths: Ints, what: str, ones: str, first: int) -> None:
    if len(given) != len(lengths):
        return
    wrong = np.flatnonzero(given != lengths)
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"The {what} have {given[row]} {ones} in row {first + row}, but its mask has "
            f"{lengths[row]} real steps. Give one for each real step, or a padded array of the width "
            f"of the input."
        )


def _labels(rows: Tensor, end: OutputInfo, output: OutputObjective) -> None:
    """The loss's own check, on outputs that have a shape but no numbers."""
    features = end.shape[max(end.num_step_axes, 1) :]
    given = rows.shape[1:]
    sizes = [given[axis] if size is None and axis < len(given) else size or 1 for axis, size in enumerate(features)]
    loss: Any = output.loss
    loss.check_targets(*match_rank(rows, torch.empty((len(rows), *sizes), device="meta")))
