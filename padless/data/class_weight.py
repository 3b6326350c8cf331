"""Class weights: sample weights that follow from the labels, for sequences and for steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import SupportsFloat, SupportsIndex, TypeAlias

import torch
from torch import Tensor

from padless.data.batch import Batch, BatchPart
from padless.errors import ArgumentError
from padless.ragged.alignment import broadcast_weights, step_weights, target_rows
from padless.ragged.packed import Packed, pack_shared

WeightOfClass: TypeAlias = "dict[int, float]"


def class_weighting(
    class_weight: object, output_names: Sequence[str], output_ndims: Sequence[int]
) -> Callable[[Batch], Batch]:
    """Return a function that multiplies the sample weights of a batch by the weight of each label.

    Args:
        class_weight: `{class: weight}` for one output, or a dictionary of these by output name. A class that is missing has
            weight 1, as in Keras.
        output_names: Names of the outputs.
        output_ndims: Number of axes of each output, 0 if unknown. Labels with that number of axes and more than one entry on
            the last axis are one-hot.

    Raises:
        ArgumentError: For classes that are not whole numbers from 0, for weights that are not finite numbers from 0, and
            for unknown outputs.
    """
    tables = _tables_by_output(class_weight, output_names)

    def weighted(batch: Batch) -> Batch:
        keys = list(batch.y) if isinstance(batch.y, dict) else output_names
        targets, sample_weights = _parts_by_output(batch.y, keys), _parts_by_output(batch.sample_weight, keys)
        weights: list[Tensor | Packed | None] = []
        for target, sample_weight, table, ndim in zip(targets, sample_weights, tables, output_ndims, strict=True):
            if table is None or target is None:
                weights.append(sample_weight)
            else:
                weights.append(_multiply(_weights_of_labels(target, table, ndim), sample_weight))
        if isinstance(batch.y, dict):
            return replace(batch, sample_weight=dict(zip(keys, weights, strict=True)))
        return replace(batch, sample_weight=weights if isinstance(batch.y, list) else weights[0])

    return weighted


def _parts_by_output(part: BatchPart, keys: Sequence[str]) -> list[Tensor | Packed | None]:
    """Return the targets or weights of each output."""
    if isinstance(part, dict):
        return [part.get(key) for key in keys]
    if isinstance(part, list | tuple):
        return list(part)
    return [None] * len(keys) if part is None else [part]


def _tables_by_output(class_weight: object, output_names: Sequence[str]) -> list[WeightOfClass | None]:
    if not isinstance(class_weight, Mapping):
        raise ArgumentError(f"`class_weight` must be a dictionary with a weight for each class; got {class_weight!r}.")
    if class_weight and all(isinstance(value, Mapping) for value in class_weight.values()):
        unknown = [name for name in class_weight if name not in output_names]
        if unknown:
            raise ArgumentError(f"`class_weight` names the outputs {unknown}; the model's outputs are {list(output_names)}.")
        return [_table(class_weight[name]) if name in class_weight else None for name in output_names]
    if len(output_names) > 1:
        raise ArgumentError(
            f"`class_weight` of a model with the outputs {list(output_names)} must be a dictionary by output name of "
            f"dictionaries by class; got {class_weight!r}."
        )
    return [_table(class_weight)]


def _table(weights: Mapping[object, object]) -> WeightOfClass:
    """Return the weight of each class, after a check of classes and weights."""
    table: WeightOfClass = {}
    for label, weight in weights.items():
        if isinstance(label, bool) or not isinstance(label, SupportsIndex) or int(label) < 0:
            raise ArgumentError(f"`class_weight` must have whole numbers from 0 as classes; got {label!r}.")
        if not isinstance(weight, SupportsFloat):
            raise ArgumentError(f"`class_weight` must hold numbers; got {weight!r} for class {label}.")
        if not math.isfinite(float(weight)) or float(weight) < 0:
            raise ArgumentError(f"`class_weight` must hold finite weights from 0; got {weight!r} for class {label}.")
        table[int(label)] = float(weight)
    return table


def _weights_of_labels(target: Tensor | Packed, table: WeightOfClass, output_ndim: int) -> Tensor | Packed:
    """Return the weight of each label, on the steps of the labels."""
    labels = target.values if isinstance(target, Packed) else target
    if labels.ndim > 1 and (not output_ndim or target.ndim >= output_ndim):
        labels = labels.argmax(-1) if labels.shape[-1] > 1 else labels.squeeze(-1)
    labels = labels.detach().cpu().double().round()
    weights = torch.ones(labels.shape)
    if table:
        classes = torch.tensor(sorted(table), dtype=torch.float64)
        class_weights = torch.tensor([table[label] for label in sorted(table)], dtype=torch.get_default_dtype())
        place = torch.searchsorted(classes, labels).clamp(max=len(classes) - 1)
        weights = torch.where(classes[place] == labels, class_weights[place], 1.0)
    return target.with_values(weights) if isinstance(target, Packed) else weights


def _multiply(class_weights: Tensor | Packed, sample_weights: Tensor | Packed | None) -> Tensor | Packed:
    """Return class weights times sample weights, of sequences or of steps."""
    if sample_weights is None:
        return class_weights
    if isinstance(class_weights, Packed):
        on_labels = step_weights(sample_weights, class_weights.index).reshape(-1)
        return class_weights.with_values(class_weights.values * on_labels)
    if isinstance(sample_weights, Packed):
        packed = pack_shared(class_weights, like=sample_weights)
        return sample_weights.with_values(sample_weights.values * target_rows(packed, sample_weights.index, "class_weight"))
    if sample_weights.ndim <= class_weights.ndim or sample_weights.shape[-1] == 1:
        sample_weights = broadcast_weights(sample_weights, class_weights)
    return class_weights * sample_weights
