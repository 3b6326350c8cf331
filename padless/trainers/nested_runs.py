"""Keep the sums and states of a run of `fit`, `evaluate` or `predict` while one of its hooks starts another run.

A hook of a batch may call `evaluate`, `predict` or `train_on_batch`, of the same model or of one that shares metrics or
layers with it. When such a nested run ends, metrics, stateful layers and the model are as they were for the outer run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from padless.errors import ArgumentError
from padless.layers.base.layer import Layer
from padless.metrics.metric import Metric
from padless.metrics.torchmetrics_adapter import load_torchmetric, save_torchmetric, torchmetrics_in
from padless.metrics.variable import Variable
from padless.trainers.compile_utils import CompiledObjective
from padless.trainers.trainable_model import TrainableModel

_epochs: ContextVar[tuple[TrainableModel, ...]] = ContextVar("epochs", default=())  # the models that run batches now
_fits: ContextVar[tuple[TrainableModel, ...]] = ContextVar("fits", default=())  # the models in `fit`


@contextmanager
def running_epoch(model: TrainableModel, training: bool, device: torch.device) -> Iterator[None]:
    """Run the batches of an epoch on a device in this context. The outer runs are unaffected by it.

    Raises:
        ArgumentError: if `model` trains weights that have an incomplete gradient of an outer run.
    """
    outer_models = _epochs.get()
    if training:
        _check_gradients(model, outer_models)
    saved_state = _RunState(model, outer_models) if outer_models else None
    token = _epochs.set((*outer_models, model))
    try:
        if saved_state is None:
            yield
        else:
            with torch.autocast(device.type, enabled=False):  # that of the outer run
                yield
    finally:
        _epochs.reset(token)
        if saved_state is not None:
            saved_state.restore()


@contextmanager
def running_fit(model: TrainableModel) -> Iterator[None]:
    """Run `fit` in this context. An outer `fit` of the model, one of whose hooks calls it, is not stopped by it.

    Raises:
        ArgumentError: if a batch of this model runs.
    """
    if any(outer is model for outer in _epochs.get()):
        raise ArgumentError(
            f"fit of model {model.name!r} was called while a batch of this model runs, for example in on_train_batch_end. "
            f"Call it in on_epoch_end, or train one batch with train_on_batch."
        )
    outer_models, stop_training = _fits.get(), model.stop_training
    token = _fits.set((*outer_models, model))
    try:
        yield
    finally:
        _fits.reset(token)
        if any(outer is model for outer in outer_models):
            model.stop_training = stop_training


def _check_gradients(model: TrainableModel, outer_models: tuple[TrainableModel, ...]) -> None:
    """Raise `ArgumentError` if weights of `model` have the gradient of an incomplete group of batches."""
    for outer in outer_models:
        group = outer._accumulation_group
        if group is None or group.is_first or not group.remaining:
            continue
        if {id(p) for p in model.parameters()} & {id(p) for p in outer.parameters()}:
            raise ArgumentError(
                f"Model {model.name!r} was trained in a hook, while the gradient of {group.size} batches is incomplete: "
                f"{group.remaining} are missing. Train it after the last of them, or without gradient_accumulation_steps."
            )


class _RunState:
    """What a nested run of a model may change of the outer runs.

    Args:
        model: the model of the nested run.
        outer_models: the models of the outer runs.
    """

    def __init__(self, model: TrainableModel, outer_models: tuple[TrainableModel, ...]) -> None:
        self.model, self.objective = model, model._objective
        self.is_outer_model = any(outer is model for outer in outer_models)
        self.device, self.group = model._device, model._accumulation_group
        outer_metrics = {id(metric) for outer in outer_models for metric in _metrics_of(outer)}
        self.metric_states = [_MetricState(metric) for metric in _metrics_of(model) if id(metric) in outer_metrics]
        self.loss_sums = None if self.objective is None or not self.is_outer_model else _loss_sums(self.objective)
        outer_layers = {id(inner) for outer in outer_models for inner in outer.modules()}
        self.layer_states = [
            (inner, inner.states)
            for inner in model.modules()
            if isinstance(inner, Layer) and inner.stateful and id(inner) in outer_layers
        ]
        model._accumulation_group = None

    def restore(self) -> None:
        """Set everything to what it was."""
        model, objective = self.model, self.objective
        model._device, model._accumulation_group = self.device, self.group
        for layer, states in self.layer_states:
            layer.states = states
        if self.is_outer_model:
            saved_ids = {id(state.metric) for state in self.metric_states}
            for metric in _metrics_of(model):
                if id(metric) not in saved_ids:  # "accuracy", which became a metric in the nested run
                    metric.reset_state()
        if objective is not None and self.loss_sums is not None:
            objective.layer_losses, objective.weight_penalties, *sums = self.loss_sums
            for output, loss_sum in zip(objective.outputs, sums, strict=True):
                output.loss_sum = loss_sum
        for state in self.metric_states:
            state.restore()


def _loss_sums(objective: CompiledObjective) -> list[Any]:
    """Return the sums of the losses, which are replaced and never changed in place."""
    return [objective.layer_losses, objective.weight_penalties, *(output.loss_sum for output in objective.outputs)]


def _metrics_of(model: TrainableModel) -> list[Metric]:
    """Return the compiled metrics, those of layers, and the metrics that are attributes of these."""
    objective = model._objective
    metrics: list[object] = [*model.metrics]
    for output in () if objective is None else objective.outputs:
        metrics += [*output.metrics, *output.weighted_metrics]
    by_id: dict[int, Metric] = {}
    while metrics:
        metric = metrics.pop()
        if isinstance(metric, list | tuple):
            metrics.extend(metric)
        elif isinstance(metric, Metric) and id(metric) not in by_id:
            by_id[id(metric)] = metric
            metrics.extend(value for value in vars(metric).values() if isinstance(value, Metric | list | tuple))
    return list(by_id.values())


class _MetricState:
    """A copy of the state of a metric: its variables, and its attributes that are numbers, arrays and containers."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.variables = [(variable, variable.data.clone()) for variable in metric._variables or ()]
        self.attributes = {name: _copy(value) for name, value in vars(metric).items() if not isinstance(value, Variable)}
        modules = [value for value in vars(metric).values() if isinstance(value, nn.Module)]
        self.torchmetrics = [
            (inner, _copy(save_torchmetric(inner))) for module in modules for inner in torchmetrics_in(module)
        ]

    def restore(self) -> None:
        """Set the metric to this state."""
        vars(self.metric).update(self.attributes)
        for variable, value in self.variables:
            variable.data = value
        for metric, state in self.torchmetrics:
            load_torchmetric(metric, state)


def _copy(value: Any) -> Any:
    """Return a copy of containers, arrays and tensors, in any nest; other objects are the same."""
    if isinstance(value, Variable):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple, set, deque):
        return type(value)(_copy(entry) for entry in value)
    if isinstance(value, Mapping) and type(value) is dict:
        return {key: _copy(entry) for key, entry in value.items()}
    return value
