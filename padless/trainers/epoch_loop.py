"""The loop over the batches of one epoch, with devices and the hooks of callbacks.

What is done with one batch is defined in `train_step.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable

import torch
from torch import Tensor, nn

from padless._torch_compat import pytree
from padless.callbacks import CallbackList, Results
from padless.data.batch import Batch
from padless.data.batch_structure import pack_x_y_sample_weight
from padless.errors import DataError
from padless.ragged.device import memory_of
from padless.ragged.row_names import naming_rows
from padless.trainers.nested_runs import running_epoch
from padless.trainers.trainable_model import TrainableModel
from padless.types import BatchTree


def device_of(module: nn.Module | TrainableModel) -> torch.device:
    """Return the device of the module's weights, the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def data_of(batch: Batch) -> BatchTree:
    """Return a batch as `train_step` receives it: x, `(x, y)` or `(x, y, sample_weight)`."""
    return pack_x_y_sample_weight(batch.x, batch.y, batch.sample_weight)


def _never() -> bool:
    return False


@torch.enable_grad()  # also in a hook of `evaluate`
def train_epoch(
    model: TrainableModel,
    batches: Iterable[Batch],
    callbacks: CallbackList | None = None,
    should_stop: Callable[[], bool] = _never,
    first_batch: int = 0,
) -> Results:
    """Train on each batch once.

    Args:
        model: the model.
        batches: the batches of the epoch, without those before `first_batch`.
        callbacks: the callbacks whose hooks are called.
        should_stop: whether to end the epoch; called after each batch.
        first_batch: the number of the first batch. If it is not 0, the sums of the batches before it are kept.

    Returns:
        The loss and the metrics over all batches, each batch with the weights of its step.
    """
    with running_epoch(model, True, device_of(model)), model._begin_epoch(training=True):
        if not first_batch:
            model.reset_metrics()
        wants_logs = callbacks is not None and callbacks.wants("on_train_batch_end")
        rows, logs = 0, None
        for number, batch in enumerate(batches, first_batch):
            if callbacks is not None:
                callbacks.on_train_batch_begin(number)
            try:
                with naming_rows(batch.row_names):
                    logs = model._run_train_step(data_of(_to_device(batch, model._device)))
            except DataError as error:
                error.add_note(f"This is in batch {number} of the epoch. The weights have the steps of the batches before.")
                raise
            rows += batch.rows
            if callbacks is not None and wants_logs:
                callbacks.on_train_batch_end(number, _batch_logs(model, batch, callbacks, logs))
            if should_stop():
                break
        if not rows and not first_batch:
            raise DataError("The data gave no batch. Expected at least one example.")
        return model._epoch_results(logs)


@torch.no_grad()
def test_epoch(model: TrainableModel, batches: Iterable[Batch], callbacks: CallbackList | None = None) -> Results:
    """Evaluate each batch once; return the loss and the metrics over all batches."""
    with running_epoch(model, False, device_of(model)), model._begin_epoch(training=False):
        model.reset_metrics()
        wants_logs = callbacks is not None and callbacks.wants("on_test_batch_end")
        rows, logs = 0, None
        for number, batch in enumerate(batches):
            if callbacks is not None:
                callbacks.on_test_batch_begin(number)
            with naming_rows(batch.row_names):
                logs = model._run_test_step(data_of(_to_device(batch, model._device)))
            rows += batch.rows
            if callbacks is not None and wants_logs:
                callbacks.on_test_batch_end(number, _batch_logs(model, batch, callbacks, logs))
        if not rows:
            raise DataError("The data gave no batch. Expected at least one example.")
        return model._epoch_results(logs)


@torch.no_grad()
def predict_epoch(
    model: TrainableModel, batches: Iterable[Batch], callbacks: CallbackList | None = None
) -> Generator[tuple[Batch, BatchTree], None, None]:
    """Yield each batch with the outputs of the model, which have gap values."""
    with running_epoch(model, False, device_of(model)), model._begin_epoch(training=False):
        for number, batch in enumerate(batches):
            if callbacks is not None:
                callbacks.on_predict_batch_begin(number)
            x = batch.to(model._device).x
            with naming_rows(batch.row_names):
                outputs = _copy_views(model.predict_step(pack_x_y_sample_weight(x)), x)
            if callbacks is not None:
                callbacks.on_predict_batch_end(number, {"outputs": outputs})
            yield batch, outputs


def _copy_views(outputs: BatchTree, x: BatchTree) -> BatchTree:
    """Return outputs that do not share memory with the inputs, which a generator may fill again for the next batch."""
    input_memory = {memory_of(tensor) for tensor in pytree.tree_leaves(x) if isinstance(tensor, Tensor)}

    def copy_view(output: object) -> object:
        return output.clone() if isinstance(output, Tensor) and memory_of(output) in input_memory else output

    return pytree.tree_map(copy_view, outputs)


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return batch if device.type == "cpu" else batch.to(device)


def _batch_logs(model: TrainableModel, batch: Batch, callbacks: CallbackList, logs: Results | None) -> Results:
    """Return the logs after a batch, and add its real steps to the count in the parameters of the callbacks."""
    real_steps = batch.rows if model.real_steps is None else model.real_steps
    params = callbacks.params or {}
    params["real_steps"] = params.get("real_steps", 0) + real_steps
    return model.get_metrics_result() if logs is None else logs
