"""One epoch: a step for each batch, with the hooks around it.

What a step is, the model says (`steps.py`); here are modes, devices, callbacks and the end of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from padless.callbacks import CallbackList
from padless.data.batch import Batch
from padless.data.batch_structure import pack_x_y_sample_weight
from padless.errors import DataError
from padless.graph.train_mode import training_mode
from padless.trainers.train_step import flatten_logs


def device_of(module: nn.Module) -> torch.device:
    """Where the module's weights are; the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def real_steps(module: nn.Module, batch: Batch) -> int:
    """How many real steps the last call ran on, as far as the module knows; else how many rows."""
    counted = getattr(module, "real_steps", None)
    return batch.rows if counted is None else counted


def data_of(batch: Batch) -> Any:
    """A batch as the steps of a model get it."""
    return pack_x_y_sample_weight(batch.x, batch.y, batch.sample_weight)


def train_epoch(
    model: Any,
    batches: Iterable[Batch],
    callbacks: CallbackList | None = None,
    stop: Callable[[], bool] = lambda: False,
    first: int = 0,
) -> dict[str, Any]:
    """Every batch once; the loss and the metrics over all of them, each as the model was at its step.

    With `first` the batches before that one were taken already, and the sums hold them.
    """
    own = model._overridden("train_step")
    whole = model._precision.context(device_of(model)) if own else nullcontext()
    with training_mode(True, model), model._cached_sublayers(), model._jitted(), whole:
        step = model.train_step if own else model._train_on_data
        return _each(model, batches, callbacks, "train", step, stop, first)


@torch.no_grad()
def test_epoch(model: Any, batches: Iterable[Batch], callbacks: CallbackList | None = None) -> dict[str, Any]:
    """The loss and the metrics over all batches."""
    step = model.test_step if model._overridden("test_step") else model._test_on_data
    with training_mode(False, model), model._cached_sublayers(), model._jitted():
        return _each(model, batches, callbacks, "test", step)


@torch.no_grad()
def predict_epoch(
    model: Any, batches: Iterable[Batch], callbacks: CallbackList | None = None
) -> Iterator[tuple[Batch, Any]]:
    """Each batch with the model's outputs for it, what masked steps show included."""
    device = device_of(model)
    with training_mode(False, model), model._cached_sublayers(), model._jitted():
        for number, batch in enumerate(batches):
            if callbacks is not None:
                callbacks.on_predict_batch_begin(number)
            outputs = model.predict_step(pack_x_y_sample_weight(batch.to(device).x))
            if callbacks is not None:
                callbacks.on_predict_batch_end(number, {"outputs": outputs})
            yield batch, outputs


def _each(
    model: Any,
    batches: Iterable[Batch],
    callbacks: CallbackList | None,
    phase: str,
    step: Callable[[Any], Any],
    stop: Callable[[], bool] = lambda: False,
    first: int = 0,
) -> dict[str, Any]:
    """A step for each batch, with the hooks around it; returns the results of all."""
    device = model._device = device_of(model)
    begin = getattr(callbacks, f"on_{phase}_batch_begin", None)
    end = getattr(callbacks, f"on_{phase}_batch_end", None)
    wanted = callbacks is not None and callbacks.wants(f"on_{phase}_batch_end")
    if not first:
        model.reset_metrics()
    seen, logs = 0, None
    for number, batch in enumerate(batches, first):
        if begin is not None:
            begin(number)
        logs = step(data_of(batch if device.type == "cpu" else batch.to(device)))
        if logs is not None:
            logs = flatten_logs(logs)
        seen += batch.rows
        if callbacks is not None and wanted and end is not None:
            params = callbacks.params or {}
            params["real_steps"] = params.get("real_steps", 0) + real_steps(model, batch)
            end(number, model.get_metrics_result() if logs is None else logs)
        if stop():
            break
    if not seen and not first:
        raise DataError("The data gave no batch. Expected at least one example.")
    return model._epoch_results(logs)
