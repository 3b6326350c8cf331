"""Gradient accumulation: several batches as one step, with the gradient of one large batch.

The weights of the losses over a group are computed before its first batch runs, from targets, sample weights and masks.
This is possible if the graph of the model shows the masks and the loss is one of padless. Otherwise the weight of that
output is None, and `AccumulationGroup` divides at the end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from padless.data.batch import Batch
from padless.data.batch_structure import pair_with_outputs
from padless.losses.loss import Loss, PerStepValues
from padless.losses.wrappers import LossFunctionWrapper
from padless.ragged.alignment import match_rank, sample_weights_for, target_rows
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.registry import is_of_padless
from padless.trainers.accumulation_group import AccumulationGroup
from padless.trainers.compile_utils import CompiledObjective
from padless.trainers.data_checks import ModelMaskInfo, OutputInfo
from padless.trainers.trainable_model import TrainableModel
from padless.types import BatchTree


def split_into_groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield lists of `size` batches; the last list may be shorter."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def iterate_groups(
    model: TrainableModel, mask_info_of: Callable[[Batch], ModelMaskInfo], batches: Iterable[Batch], size: int
) -> Iterator[Batch]:
    """Yield the batches, and set the group of the present batch as `model._accumulation_group`.

    Args:
        model: the model that trains on the batches.
        mask_info_of: returns what is known of the model's masks for a batch.
        batches: the batches of an epoch.
        size: the number of batches in a group.
    """
    try:
        for group in split_into_groups(batches, size):
            weights = total_loss_weights(model, mask_info_of, group, model._objective)
            params = [p for p in model.parameters() if p.requires_grad]
            model._accumulation_group = AccumulationGroup(group, weights, params)
            yield from group
            model._accumulation_group = None
    finally:
        if model._accumulation_group is not None:  # interrupted: discard the partial gradient
            model.optimizer.zero_grad(set_to_none=True)
        model._accumulation_group = None


def total_loss_weights(
    model: TrainableModel,
    mask_info_of: Callable[[Batch], ModelMaskInfo],
    batches: Sequence[Batch],
    objective: CompiledObjective | None,
) -> list[float | None]:
    """Return the weight of each output's loss over all batches, None if only the outputs will show it."""
    if objective is None:
        return []
    totals: list[float | None] = [0.0] * len(objective.outputs)
    for batch in batches:
        mask_info = mask_info_of(batch)
        if len(mask_info.outputs) != len(totals) or batch.y is None:
            return [None] * len(totals)
        names = {output.name: None for output in objective.outputs}
        structure = names if isinstance(batch.y, dict) else list(names)
        _, targets = pair_with_outputs(structure, batch.y, "targets")
        _, sample_weights = pair_with_outputs(structure, batch.sample_weight, "sample weights")
        indexes = mask_info.find_indexes(model.arrange_inputs(batch.x))
        for number, (info, output) in enumerate(zip(mask_info.outputs, objective.outputs, strict=True)):
            index = None if info.origin is None else indexes[info.origin]
            mask_is_unknown = info.num_step_axes > 0 and index is None
            total, weight = totals[number], None
            if output.loss is not None and total is not None and not mask_is_unknown:
                weight = _loss_weight(output.loss, targets[number], sample_weights[number], info, index)
            if weight is None or total is None or output.loss is None:
                totals[number] = None
            else:
                totals[number] = weight if output.loss.reduction == "sum" else total + weight
    return totals


def _loss_weight(
    loss: Loss, target: BatchTree, sample_weight: BatchTree, info: OutputInfo, index: Index | None
) -> float | None:
    """Return the weight of a loss for one batch, None if only the outputs will show it.

    The loss runs on outputs without numbers (on the meta device), which shows the shape of its values.
    """
    if loss.reduction == "sum":
        return 1.0
    if loss.reads_whole_sequences or target is None or not _is_padless_loss(loss):
        return None
    if isinstance(target, Packed) and index is None:
        index = target.index
    targets = target if index is None else target_rows(target, index, "y_true")
    if isinstance(targets, Packed) or targets.device.type != "cpu":
        return None
    features = _feature_sizes(info.shape[1:] if index is None else info.shape[len(index.grid) :], targets)
    if features is None:
        return None
    rows = torch.empty((len(targets), *features), device="meta")
    targets, rows = loss.cast(*match_rank(targets, rows))
    try:
        shape = loss._call_on_rows(targets.to("meta"), rows).shape
    except RuntimeError:  # a function that reads numbers does not run on the meta device
        return None
    values = torch.zeros((), dtype=rows.dtype).expand(shape)
    weight = None if sample_weight is None else sample_weights_for(sample_weight, index, values)
    mask = loss.count_mask(targets, values) if len(values) else None
    return float(PerStepValues(values, weight, mask, index).reduce(loss.reduction).weight)


def _feature_sizes(sizes: Sequence[int | None], targets: Tensor) -> list[int] | None:
    """Return the sizes of the feature axes, an open one as in the targets `(N, ...)`; None if they have no such axis."""
    target_sizes = targets.shape[1:]
    features = [target_sizes[axis] if size is None and axis < len(target_sizes) else size for axis, size in enumerate(sizes)]
    return None if None in features else [int(size or 0) for size in features]


def _is_padless_loss(loss: Loss) -> bool:
    """Return whether the class of a loss and its function are part of padless."""
    function = loss.fn if isinstance(loss, LossFunctionWrapper) else loss
    owner = function if inspect.isroutine(function) else type(function)
    return is_of_padless(owner) and is_of_padless(type(loss))
