"""Save and restore the sums of losses and metrics during an epoch.

The state of a metric is what its attributes contain: numbers, text, tensors, other metrics, and lists, tuples and
dictionaries of these. Other attributes, such as functions, are not saved. So user-defined metrics need no code for it.
The keys in a saved state are those of padless 0.1.0, also where an attribute has another name today.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from padless.data.batch import Batch
from padless.errors import DataError
from padless.losses.base import LossWithFunction
from padless.losses.loss import WeightedSum
from padless.metrics.metric import MeanMetricWrapper, Metric
from padless.metrics.torchmetrics_adapter import TorchMetric, load_torchmetric, save_torchmetric, torchmetrics_in
from padless.metrics.variable import Variable
from padless.registry import is_of_padless
from padless.saving import state_checks as checks
from padless.trainers.compile_utils import CompiledObjective, LossTracker, OutputObjective
from padless.trainers.epoch_loop import device_of
from padless.trainers.trainable_model import TrainableModel

Saved: TypeAlias = "object"
"""A value of a backup: None, a number, text, a tensor, and lists, tuples and dictionaries of these."""

_NOT_SAVED = object()  # result of `_save` for a value that is not part of a state
_TRACKER_KEYS = {"has_external_loss": "told"}  # attribute of LossTracker: its key


def metric_state_dict(model: TrainableModel) -> list[Saved]:
    """Return the sums of the losses and metrics of a model."""
    saved_ids: set[int] = set()
    states = [_save(part, saved_ids) for part in _parts(model)]
    return [None if state is _NOT_SAVED else state for state in states]  # None: saved as part of an earlier entry


def load_metric_state_dict(model: TrainableModel, states: list[Saved], first_batch: Batch) -> None:
    """Restore the sums that `metric_state_dict` returned.

    Args:
        model: a model with the same losses and metrics.
        states: the result of `metric_state_dict`.
        first_batch: some examples. Metrics that get their kind or size from the data are created from them.

    Raises:
        DataError: if the model has other losses or metrics; nothing is restored then.
    """
    check_metric_state_dict(model, states, first_batch)
    for part, state in zip(_parts(model), states, strict=True):
        if state is not None:
            _load(part, state)


def check_metric_state_dict(model: TrainableModel, states: list[Saved], first_batch: Batch) -> None:
    """Raise `DataError` if the sums are of other losses or metrics; the arguments are as above."""
    checks.sequence("sums", states)
    for number, state in enumerate(states):
        _check_form(f"sums[{number}]", state)
    objective, templates = model._objective, None
    if objective is not None and model._has_call:
        outputs = model._dry_run(first_batch.to(device_of(model)))
        objective.update_metrics(first_batch.y, outputs, first_batch.sample_weight)
        templates = metric_state_dict(model)
        model.reset_metrics()
    parts = _parts(model)
    if len(parts) != len(states):
        raise DataError(
            f"The backup has the sums of {len(states)} metrics, but the model has {len(parts)} metrics. Compile the "
            f"model with the same losses and metrics as before."
        )
    for part, state in zip(parts, states, strict=True):
        _check(part, state)
    for number, (state, template) in enumerate(zip(states, templates or (), strict=False)):
        if state is not None and template is not None:
            _check_like(f"sums[{number}]", state, template)


def _parts(model: TrainableModel) -> list[CompiledObjective | Metric]:
    """Return the objects with sums: the compiled losses and metrics, and the metrics of the model."""
    objective = model._objective
    return [*([] if objective is None else [objective]), *model.metrics]


def _save(value: object, saved_ids: set[int]) -> Saved:
    """Return a value as it is saved, or `_NOT_SAVED`; an object is saved once."""
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, WeightedSum):
        return {"term": [value.sum, value.weight, value.adds_weights]}
    if isinstance(value, list | tuple):
        items = [_save(item, saved_ids) for item in value]
        if any(item is _NOT_SAVED for item in items):
            return _NOT_SAVED
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, Mapping):
        entries = {key: _save(item, saved_ids) for key, item in value.items()}
        return _NOT_SAVED if any(item is _NOT_SAVED for item in entries.values()) else {"dict": entries}
    if isinstance(value, nn.Module):
        return {"torchmetrics": [save_torchmetric(metric) for metric in torchmetrics_in(value)]}
    if isinstance(value, CompiledObjective | OutputObjective | Metric):
        if id(value) in saved_ids:
            return _NOT_SAVED
        saved_ids.add(id(value))
        states = {key: _save(attribute, saved_ids) for key, attribute in _attributes(value).items()}
        saved_states = {key: state for key, state in states.items() if state is not _NOT_SAVED}
        return {"attributes": saved_states, "class": _description(value), "config": _config(value)}
    return _NOT_SAVED


def _description(owner: CompiledObjective | OutputObjective | Metric) -> str:
    """Return what the sums of an object are of, in words: its class and name, of an output its loss."""
    if isinstance(owner, OutputObjective):
        loss = owner.loss
        return "an output without a loss" if loss is None else f"an output with the loss {loss.name!r}"
    if isinstance(owner, CompiledObjective):
        return "losses and metrics"
    return f"{type(owner).__name__} {owner.name!r}"


def _config(owner: CompiledObjective | OutputObjective | Metric) -> Saved:
    """Return the numbers that decide what a sum means: coefficients, and the config of a loss or metric of padless."""
    if isinstance(owner, OutputObjective):
        loss = owner.loss
        config = loss.get_config() if isinstance(loss, LossWithFunction) and is_of_padless(type(loss)) else {}
        return _plain({"coefficient": owner.coefficient, **config})
    is_built_in = type(owner).__module__.startswith("padless.metrics.")
    if isinstance(owner, CompiledObjective) or type(owner) in (MeanMetricWrapper, TorchMetric) or not is_built_in:
        return {}  # functions and foreign metrics have no config
    return _plain(owner.get_config())


def _plain(value: object) -> Saved:
    """Return a value of a config in lists, dictionaries and Python's numbers, which can be compared and saved."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def _check(current: object, saved: Saved) -> None:
    """Raise `DataError` if a saved state is not one of the object to which it would be restored."""
    if isinstance(saved, list):
        if not isinstance(current, list) or len(current) != len(saved):
            has_variables = isinstance(current, list) and any(isinstance(item, Variable) for item in current)
            if has_variables or any(_is_saved_object(state) for state in saved):
                raise _other_metrics(f"{len(saved)} metrics or sums", _describe(current))
            return
        for item, state in zip(current, saved, strict=True):
            _check(item, state)
    elif isinstance(current, Variable):
        if not isinstance(saved, Tensor):
            raise checks.invalid("a sum of a metric", saved, "a tensor")
        if current.shape != saved.shape:
            raise _other_metrics(f"a sum of shape {tuple(saved.shape)}", f"one of shape {tuple(current.shape)}")
    elif isinstance(saved, Mapping) and "torchmetrics" in saved:
        metrics = torchmetrics_in(current) if isinstance(current, nn.Module) else []
        classes = [type(metric).__name__ for metric in metrics]
        saved_classes = [state.get("class", name) for state, name in zip(saved["torchmetrics"], classes, strict=False)]
        if len(metrics) != len(saved["torchmetrics"]) or saved_classes != classes:
            raise _other_metrics(f"{saved_classes} of torchmetrics", f"{classes}")
    elif isinstance(saved, Mapping) and _is_saved_object(saved):
        _check_object(current, saved)


def _check_object(current: object, saved: Mapping[str, Any]) -> None:
    """Raise `DataError` for the state of another object, or of one with another config."""
    if not isinstance(current, CompiledObjective | OutputObjective | Metric):
        raise _other_metrics(str(saved.get("class", "a metric")), _describe(current))
    description, config, attributes = _description(current), _config(current), _attributes(current)
    saved_description = saved.get("class", description)  # padless 0.1.0 saved the name of a metric only
    saved_name = saved["attributes"].get("name") if isinstance(current, Metric) else None
    if saved_description != description or saved_name not in (None, attributes.get("name")):
        raise _other_metrics(str(saved_description if saved_description != description else saved_name), description)
    if saved.get("config", config) != config:
        raise _other_metrics(f"{description} with {saved['config']}", str(config))
    for key, state in saved["attributes"].items():
        value = attributes.get(key)
        # A built-in metric changes its variables only, so what else it has, such as thresholds, is as in the present one.
        is_constant = bool(config) and isinstance(current, Metric) and key in attributes and key != "_variables"
        if is_constant and not isinstance(value, Variable) and not _is_equal(state, _save(value, set())):
            raise checks.invalid(f"{description}, {key},", state, f"{value!r:.100}, as in the present metric")
        _check(value, state)


def _is_equal(value: Saved, other: Saved) -> bool:
    """Return whether two saved values are equal; tensors have the same dtype, shape and values."""
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return value.dtype == other.dtype and torch.equal(value, other.cpu())
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_is_equal(value[key], other[key]) for key in value)
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_is_equal, value, other))
    is_array = isinstance(value, Tensor | dict | list | tuple) or isinstance(other, Tensor | dict | list | tuple)
    return not is_array and bool(value == other)


def _check_form(name: str, saved: Saved) -> None:
    """Raise `DataError` for a value that `_save` does not return."""
    if isinstance(saved, list | tuple):
        for number, item in enumerate(saved):
            _check_form(f"{name}[{number}]", item)
    elif isinstance(saved, dict) and "attributes" in saved:
        checks.mapping(name, saved, ("attributes",), ("class", "config"))
        checks.plain(f"{name}.config", saved.get("config"))
        if "class" in saved:
            checks.text(f"{name}.class", saved["class"])
        for key, item in checks.mapping(f"{name}.attributes", saved["attributes"]).items():
            _check_form(f"{name}.{checks.text('the name of an attribute', key)}", item)
    elif isinstance(saved, dict) and set(saved) == {"term"}:
        total, weight, adds_weights = checks.sequence(f"{name}.term", saved["term"], 3)
        checks.boolean(f"{name}.term[2]", adds_weights)
        for value in (total, weight):
            is_scalar = isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()
            checks.number(f"{name}.term", value.item() if isinstance(value, Tensor) and is_scalar else value)
    elif isinstance(saved, dict) and set(saved) == {"dict"}:
        for key, item in checks.mapping(f"{name}.dict", saved["dict"]).items():
            _check_form(f"{name}.{key}", item)
    elif isinstance(saved, dict) and set(saved) == {"torchmetrics"}:
        for state in checks.sequence(f"{name}.torchmetrics", saved["torchmetrics"]):
            checks.mapping(f"{name}.torchmetrics", state, ("states", "count"), ("class",))
            checks.integer(f"{name}.torchmetrics.count", state["count"])
            for key, item in checks.mapping(f"{name}.torchmetrics.states", state["states"]).items():
                _check_form(f"{name}.torchmetrics.{key}", item)
    elif not isinstance(saved, None | bool | int | float | str | Tensor):
        raise checks.invalid(name, saved, "a number, text, a tensor or the state of a metric")


def _check_like(name: str, saved: Saved, template: Saved, is_constant: bool = False) -> None:
    """Raise `DataError` if a saved value cannot take the place of the present one, which is `template`."""
    if is_constant and not isinstance(template, Tensor):
        if isinstance(saved, Tensor) or _plain(saved) != _plain(template):
            raise checks.invalid(name, saved, f"{template!r}, as in the present metric")
    elif isinstance(template, str):
        checks.text(name, saved)
    elif isinstance(template, bool):
        checks.boolean(name, saved)
    elif isinstance(template, int | float):
        if not isinstance(saved, Tensor):
            checks.number(name, saved)
    elif isinstance(template, Tensor):
        if not isinstance(saved, Tensor) or saved.dtype != template.dtype or saved.ndim != template.ndim:
            raise checks.invalid(name, saved, f"a tensor of {template.ndim} axes and dtype {template.dtype}")
    elif isinstance(template, list | tuple):
        kind = list if isinstance(template, list) else tuple
        items = checks.sequence(name, saved, None if kind is list else len(template), kind)
        for number, item in enumerate(items):
            if template:
                _check_like(f"{name}[{number}]", item, template[min(number, len(template) - 1)])
    elif isinstance(template, dict):
        kinds = set(template) - {"class", "config"}
        checks.mapping(name, saved, kinds, template)
        saved = cast("dict[str, Any]", saved)
        content, saved_content = template[kind := kinds.pop()], saved[kind]
        if kind in ("attributes", "dict"):
            constants = set(template.get("config", {})) - {"name"}  # the name of an output depends on earlier layers
            for key, item in saved_content.items():
                is_of_0_1_0 = kind == "attributes" and "class" not in saved  # whose other names are not loaded
                if content and key not in content and not is_of_0_1_0:
                    raise checks.invalid(f"{name}.{key}", item, f"only {', '.join(map(str, content))}")
                if key in content:
                    _check_like(f"{name}.{key}", item, content[key], key in constants or key == "function_arguments")
    elif isinstance(saved, str) and template is None:
        raise checks.invalid(name, saved, "a number, a tensor or None")


def _is_saved_object(state: Saved) -> bool:
    return isinstance(state, Mapping) and "attributes" in state


def _describe(value: object) -> str:
    return _description(value) if isinstance(value, CompiledObjective | OutputObjective | Metric) else repr(value)


def _other_metrics(saved: str, current: str) -> DataError:
    return DataError(
        f"The backup has the sums of {saved}, but the model has {current}. Compile the model with the same losses and "
        f"metrics as before, or choose another backup_dir."
    )


def _attributes(owner: CompiledObjective | OutputObjective | Metric) -> dict[str, object]:
    """Return the attributes of an object by their keys in a saved state."""
    if isinstance(owner, CompiledObjective):
        return {
            "outputs": owner.outputs,
            "extra": owner.layer_losses,
            "once": owner.weight_penalties,
            "tracker": owner.loss_tracker,
            "compiled": owner.compiled_metrics,
        }
    if isinstance(owner, OutputObjective):
        return {
            "name": owner.name,
            "loss": owner.loss,
            "coefficient": owner.coefficient,
            "metrics": owner.metrics,
            "weighted": owner.weighted_metrics,
            "seen": owner.loss_sum,
        }
    keys = _TRACKER_KEYS if isinstance(owner, LossTracker) else {}
    return {keys.get(name, name): value for name, value in vars(owner).items()}


def _set_attributes(owner: CompiledObjective | OutputObjective | Metric, values: Mapping[str, object]) -> None:
    """Set the attributes of an object by their keys in a saved state."""
    if isinstance(owner, CompiledObjective):
        owner.layer_losses = _as_sum(values.get("extra"))
        owner.weight_penalties = _as_sum(values.get("once"))
        return
    if isinstance(owner, OutputObjective):
        owner.loss_sum = _as_sum(values.get("seen"))
        return
    names = {key: name for name, key in _TRACKER_KEYS.items()} if isinstance(owner, LossTracker) else {}
    owner.__dict__.update({names.get(key, key): value for key, value in values.items()})


def _as_sum(value: object) -> WeightedSum | None:
    return value if isinstance(value, WeightedSum) else None


def _load(current: object, saved: Saved) -> object:
    """Return the value that is restored from `saved`; objects and variables are changed in place."""
    if isinstance(saved, list):
        items = current if isinstance(current, list) and len(current) == len(saved) else [None] * len(saved)
        return [_load(item, state) for item, state in zip(items, saved, strict=True)]
    if isinstance(current, Variable) and isinstance(saved, Tensor):  # in place: other objects may refer to it
        return current.assign(saved)
    if not isinstance(saved, Mapping):
        return saved
    if "term" in saved:
        return WeightedSum(*saved["term"])
    if "dict" in saved:
        entries = current if isinstance(current, Mapping) else {}
        return {key: _load(entries.get(key), state) for key, state in saved["dict"].items()}
    if "torchmetrics" in saved and isinstance(current, nn.Module):
        for metric, state in zip(torchmetrics_in(current), saved["torchmetrics"], strict=True):
            load_torchmetric(metric, state)
        return current
    if not isinstance(current, CompiledObjective | OutputObjective | Metric):
        raise _other_metrics("a metric", repr(current))
    attributes = _attributes(current)
    known_states = {key: state for key, state in saved["attributes"].items() if key in attributes}
    _set_attributes(current, {key: _load(attributes[key], state) for key, state in known_states.items()})
    return current
