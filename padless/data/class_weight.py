"""class_weight: sample weights made of the classes of the labels, for sequences and for steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from padless.data.batch import Batch
from padless.errors import ArgumentError
from padless.ragged.alignment import broadcast_weights, step_weights, target_rows
from padless.ragged.packed import Packed, pack


def class_weighting(given: Any, names: Sequence[str], ranks: Sequence[int]) -> Callable[[Batch], Batch]:
    """What makes of a batch the same with the weights of its classes on the sample weights.

    `given` is `{class: weight}` for one output, or a dictionary of these by output name; a class that is not named
    weighs 1, as in Keras. `ranks` are the axes of each output, 0 where unknown: labels of as many axes with more than
    one entry on the last are one-hot. Raises `ArgumentError` for what is no class or no weight.
    """
    tables = _by_output(given, names)

    def weigh(batch: Batch) -> Batch:
        keys = list(batch.y) if isinstance(batch.y, dict) else list(range(len(tables)))
        targets, weights = _leaves(batch.y, keys), _leaves(batch.sample_weight, keys)
        found = [
            weight if table is None or target is None else _times(_of_classes(target, table, rank), weight)
            for target, weight, table, rank in zip(targets, weights, tables, ranks, strict=True)
        ]
        if isinstance(batch.y, dict):
            return replace(batch, sample_weight=dict(zip(keys, found, strict=True)))
        return replace(batch, sample_weight=found if isinstance(batch.y, list) else found[0])

    return weigh


def _leaves(tree: Any, keys: Sequence[Any]) -> list[Any]:
    """For each output its part of the targets or weights."""
    if isinstance(tree, dict):
        return [tree.get(key) for key in keys]
    return list(tree) if isinstance(tree, list | tuple) else [tree] * (1 if tree is not None else len(keys))


def _by_output(given: Any, names: Sequence[str]) -> list[dict[int, float] | None]:
    if not isinstance(given, Mapping):
        raise ArgumentError(f"`class_weight` must be a dictionary of a weight for each class; got {given!r}.")
    if given and all(isinstance(value, Mapping) for value in given.values()):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ArgumentError(f"`class_weight` names the outputs {unknown}; the model's outputs are {list(names)}.")
        return [_table(given[name]) if name in given else None for name in names]
    if len(names) > 1:
        raise ArgumentError(
            f"`class_weight` of a model with the outputs {list(names)} must be a dictionary by output "
            f"name of dictionaries by class; got {given!r}."
        )
    return [_table(given)]


def _table(given: Mapping[Any, Any]) -> dict[int, float]:
    for label, weight in given.items():
        if isinstance(label, bool) or not hasattr(label, "__index__") or label < 0:
            raise ArgumentError(f"`class_weight` must have whole numbers from 0 as classes; got {label!r}.")
        if not isinstance(weight, int | float) and not hasattr(weight, "__float__"):
            raise ArgumentError(f"`class_weight` must hold numbers; got {weight!r} for class {label}.")
        if not math.isfinite(float(weight)) or float(weight) < 0:
            raise ArgumentError(f"`class_weight` must hold finite weights from 0; got {weight!r} for class {label}.")
    return {int(label): float(weight) for label, weight in given.items()}


def _of_classes(target: Tensor | Packed, table: dict[int, float], rank: int) -> Tensor | Packed:
    """For each label its weight."""
    values = target.values if isinstance(target, Packed) else target
    if values.ndim > 1 and (not rank or target.ndim >= rank):
        values = values.argmax(-1) if values.shape[-1] > 1 else values.squeeze(-1)
    classes = torch.tensor(sorted(table), dtype=torch.float64)
    weights = torch.tensor([table[int(label)] for label in classes], dtype=torch.get_default_dtype())
    labels = values.detach().cpu().double().round()
    place = torch.searchsorted(classes, labels).clamp(max=max(len(classes) - 1, 0))
    found = torch.ones(labels.shape) if not len(classes) else torch.where(classes[place] == labels, weights[place], 1.0)
    return target.with_values(found) if isinstance(target, Packed) else found


def _times(weights: Tensor | Packed, given: Tensor | Packed | None) -> Tensor | Packed:
    """Weights of classes times sample weights, of sequences or of steps."""
    if given is None:
        return weights
    if isinstance(weights, Packed):
        return weights.with_values(weights.values * step_weights(given, weights.index).reshape(-1))
    if isinstance(given, Packed):
        return given.with_values(given.values * target_rows(pack(weights, like=given), given.index, "class_weight"))
    return weights * (broadcast_weights(given, weights) if given.ndim <= weights.ndim or given.shape[-1] == 1 else given)
