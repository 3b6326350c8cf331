"""What losses and metrics have added up so far, as plain values, taken out and put back.

A metric's state is whatever its attributes hold: numbers, tensors, lists and dictionaries of them, and other metrics. So a
metric of one's own is kept without a word, and so is one of torchmetrics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from padless.data.batch import Batch
from padless.errors import DataError
from padless.losses.loss import WeightedSum
from padless.metrics.metric import Metric
from padless.trainers.compile_utils import CompiledObjective, OutputObjective
from padless.trainers.epoch_loop import device_of

_ELSE = object()  # what is no part of a state


def metric_state_dict(model: Any) -> list[Any]:
    """The sums of a model's losses and metrics."""
    seen: set[int] = set()
    found = [_value(part, seen) for part in _parts(model)]
    return [None if part is _ELSE else part for part in found]  # what is part of another has been kept there


def load_metric_state_dict(model: Any, kept: list[Any], first: Batch) -> None:
    """Make these sums the model's; metrics that wait for data to say which or how large they are see those of `first`.

    Raises `DataError` where the model has other metrics.
    """
    objective = model._objective
    if objective is not None and model._callable:
        outputs = model._dry_run(first.to(device_of(model)))
        objective.measure(first.y, outputs, first.sample_weight)
    parts = _parts(model)
    if len(parts) != len(kept):
        raise DataError(f"The backup holds the sums of {len(kept)} metrics; the model has {len(parts)}. Compile as before.")
    for part, own in zip(parts, kept, strict=True):
        if own is not None:
            _put(part, own)


def _parts(model: Any) -> list[Any]:
    objective = model._objective
    return [*([] if objective is None else [objective]), *model.metrics]


def _value(value: Any, seen: set[int]) -> Any:
    """A value as it is kept, or _ELSE."""
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, WeightedSum):
        return {"term": [value.sum, value.weight, value.adds_weights]}
    if isinstance(value, list | tuple):
        items = [_value(item, seen) for item in value]
        return _ELSE if any(item is _ELSE for item in items) else items if isinstance(value, list) else tuple(items)
    if isinstance(value, Mapping):
        pairs = {key: _value(item, seen) for key, item in value.items()}
        return _ELSE if any(item is _ELSE for item in pairs.values()) else {"dict": pairs}
    if isinstance(value, nn.Module):
        return {"torchmetrics": [_of_torchmetrics(one) for one in _torchmetrics(value)]}
    if isinstance(value, CompiledObjective | OutputObjective | Metric):
        if id(value) in seen:
            return _ELSE
        seen.add(id(value))
        found = {name: _value(inner, seen) for name, inner in vars(value).items()}
        return {"attributes": {name: inner for name, inner in found.items() if inner is not _ELSE}}
    return _ELSE


def _put(now: Any, kept: Any) -> Any:
    """The kept value in place of the one of now; objects stay who they are."""
    if isinstance(kept, list):
        places = now if isinstance(now, list) and len(now) == len(kept) else [None] * len(kept)
        return [_put(mine, own) for mine, own in zip(places, kept, strict=True)]
    if hasattr(now, "assign") and isinstance(kept, Tensor):  # a variable of a metric, which others may hold too
        return now.assign(kept)
    if not isinstance(kept, Mapping):
        return kept
    if "term" in kept:
        return WeightedSum(*kept["term"])
    if "dict" in kept:
        return {key: _put(now.get(key) if isinstance(now, Mapping) else None, own) for key, own in kept["dict"].items()}
    if "torchmetrics" in kept:
        for one, own in zip(_torchmetrics(now), kept["torchmetrics"], strict=True):
            for name, value in own["states"].items():
                setattr(one, name, value)
            one._update_count, one._computed = own["count"], None
        return now
    if not isinstance(now, CompiledObjective | OutputObjective | Metric):
        raise DataError(f"The backup holds the sums of a metric where the model has {now!r}. Compile as before.")
    for name, own in kept["attributes"].items():
        setattr(now, name, _put(getattr(now, name, None), own))
    return now


def _torchmetrics(module: Any) -> list[Any]:
    return [inner for inner in module.modules() if hasattr(inner, "_defaults") and hasattr(inner, "_update_count")]


def _of_torchmetrics(metric: Any) -> dict[str, Any]:
    return {"states": {name: getattr(metric, name) for name in metric._defaults}, "count": metric._update_count}
