"""Callbacks are called in order and only where they are used, and decide as Keras's."""

import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padless.callbacks import (
    BackupAndRestore,
    Callback,
    CallbackList,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    TensorBoard,
    TerminateOnNaN,
)
from padless.errors import ArgumentError
from padless.metrics import Mean
from padless.optimizers import SGD
from padless.registry import entries


class Weights:
    """The part of a model that callbacks use. Its weights are the number of the epoch, in one array that is reused."""

    def __init__(self):
        self.stop_training = False
        self.weights = np.zeros(1)
        self.metrics = []
        self.optimizer = SGD(0.1)

    def get_weights(self):
        return [self.weights]

    def set_weights(self, weights):
        self.weights[:] = weights[0]


def run(callback, values, model=None, name="val_loss"):
    """Run epochs with these results until the callback stops; return the number of epochs and the model."""
    model = model or Weights()
    callbacks = CallbackList([callback], model=model)
    callbacks.on_train_begin()
    epoch = -1
    for epoch, value in enumerate(values):
        model.weights[:] = epoch
        callbacks.on_epoch_end(epoch, {name: value})
        if model.stop_training:
            break
    callbacks.on_train_end()
    return epoch + 1, model


# Training has the same epochs as in Keras, and the same weights at the end.


@settings(deadline=None, max_examples=100)
@given(
    values=st.lists(st.sampled_from([0.0, 0.5, 0.75, 1.0, 1.25, 2.0]), min_size=1, max_size=12),
    options=st.fixed_dictionaries(
        {
            "min_delta": st.sampled_from([0, 0.25, -0.25]),
            "patience": st.integers(0, 3),
            "baseline": st.sampled_from([None, 0.75, 1.125]),
            "restore_best_weights": st.booleans(),
            "start_from_epoch": st.integers(0, 3),
        }
    ),
    mode=st.sampled_from(["min", "max", "auto"]),
)
def test_early_stopping_decides_as_keras(values, options, mode):
    os.environ["KERAS_BACKEND"] = "torch"
    keras = pytest.importorskip("keras")
    ours, our_model = run(EarlyStopping(mode=mode, monitor="loss", **options), values, name="loss")
    theirs, their_model = run(
        keras.callbacks.EarlyStopping(mode=mode, monitor="loss", **options), values, Copying(), name="loss"
    )
    assert (ours, float(our_model.weights[0])) == (theirs, float(their_model.weights[0]))


class Copying(Weights):
    """A model for Keras's callbacks, which keep the result of get_weights without a copy."""

    def __init__(self):
        super().__init__()
        self.optimizer = SimpleNamespace(learning_rate=0.1)

    def get_weights(self):
        return [self.weights.copy()]


def test_nan_is_never_an_improvement():
    os.environ["KERAS_BACKEND"] = "torch"
    keras = pytest.importorskip("keras")
    theirs = keras.callbacks.EarlyStopping(mode="min", patience=2)
    assert run(theirs, [math.nan, 3.0, 2.0, 1.0], Copying())[0] == 3 and math.isnan(theirs.best)
    assert run(EarlyStopping(mode="min", patience=2), [math.nan, 3.0, 2.0, 1.0])[0] == 4
    stopping = EarlyStopping(patience=2)
    assert run(stopping, [math.nan, 1.0, math.nan, math.nan, 0.5])[0] == 4
    assert stopping.best == 1.0
    assert run(EarlyStopping(), [math.nan, 1.0, 0.5])[0] == 3
    restoring = EarlyStopping(patience=1, restore_best_weights=True)
    assert run(restoring, [math.nan, math.nan, 1.0])[1].weights.tolist() == [0]


def test_a_result_that_is_not_better_than_the_baseline_does_not_restart_the_patience():
    assert run(EarlyStopping(patience=2, baseline=0.75), [2.0, 1.25, 1.25, 1.0])[0] == 3
    assert run(EarlyStopping(patience=2, baseline=1.5), [2.0, 1.25, 1.25, 1.0])[0] == 4


@pytest.mark.parametrize("monitor, better", [
    ("val_accuracy", 1.0), ("tags_sparse_categorical_accuracy", 1.0), ("auc", 1.0), ("f1", 1.0),
    ("val_loss", -1.0), ("tags_loss", -1.0), ("mae", -1.0), ("val_mean_squared_error", -1.0),
])  # fmt: skip
def test_auto_mode_takes_the_direction_from_the_name(monitor, better):
    assert run(EarlyStopping(monitor), [better * epoch for epoch in range(5)], name=monitor)[0] == 5
    assert run(EarlyStopping(monitor), [-better * epoch for epoch in range(5)], name=monitor)[0] == 2


def test_auto_mode_takes_the_direction_from_the_metric():
    model = Weights()
    agreement = Mean(name="agreement")
    agreement.higher_is_better = True
    model.metrics = [Mean(name="loss"), agreement]
    assert run(EarlyStopping("val_agreement"), [1.0, 2.0, 3.0], model, "val_agreement")[0] == 3


def test_auto_mode_refuses_an_unknown_direction_before_training():
    with pytest.raises(ArgumentError, match="monitor='zest'.*mode='max'"):
        CallbackList(EarlyStopping("zest"), model=Weights()).on_train_begin()
    with pytest.raises(ArgumentError, match="Unknown mode 'mim'"):
        EarlyStopping(mode="mim")


def test_a_missing_monitored_result_is_a_warning():
    with pytest.warns(UserWarning, match="'val_loss'.*loss"):
        assert run(EarlyStopping(), [1.0, 1.0], name="loss")[0] == 2


def test_early_stopping_can_be_used_again(capsys):
    stopping = EarlyStopping(patience=1, verbose=1, restore_best_weights=True)
    assert run(stopping, [1.0, 2.0, 3.0])[0] == 2
    assert run(stopping, [6.0, 5.0, 4.0])[0] == 3
    assert "Epoch 2: early stopping" in capsys.readouterr().out


# The list


def test_callbacks_are_called_in_order_and_see_logs_that_earlier_ones_added():
    calls = []

    class First(Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["added"] = 1.0
            calls.append("first")

    second = LambdaCallback(on_epoch_end=lambda epoch, logs: calls.append(dict(logs)))
    given = {"loss": torch.tensor(2.0)}
    callbacks = CallbackList([First(), [second]], add_history=True, model=Weights(), epochs=1)
    callbacks.on_train_begin()
    callbacks.on_epoch_end(0, given)
    assert calls == ["first", {"loss": 2.0, "added": 1.0}]
    assert callbacks.history.history == {"loss": [2.0], "added": [1.0]}
    assert list(given) == ["loss"]


def test_unused_hooks_are_not_called_and_their_logs_are_not_read():
    class Unreadable(dict):
        def items(self):
            raise AssertionError("logs were read")

    callbacks = CallbackList([Callback(), History()], model=Weights())
    callbacks.on_train_batch_end(0, Unreadable(loss=1.0))
    assert not callbacks.wants("on_train_batch_end")
    callbacks.append(LambdaCallback(on_batch_end=lambda batch, logs: None))
    assert callbacks.wants("on_train_batch_end")
    assert not callbacks.wants("on_test_batch_end")
    with pytest.raises(AssertionError, match="logs were read"):
        callbacks.on_train_batch_end(0, Unreadable(loss=1.0))


def test_hooks_with_a_number_receive_floats():
    for run_kind in ("train_batch", "test_batch", "predict_batch", "epoch"):
        for hook in (f"on_{run_kind}_begin", f"on_{run_kind}_end"):
            calls = []
            callbacks = CallbackList(LambdaCallback(**{hook: lambda number, logs: calls.append((number, logs))}))  # noqa: B023
            getattr(callbacks, hook)(3, {"loss": torch.tensor(0.5)})
            assert calls == [(3, {"loss": 0.5})], hook
            assert type(calls[0][1]["loss"]) is float


def test_begin_and_end_hooks_are_called():
    for hook in [f"on_{run_kind}_{edge}" for run_kind in ("train", "test", "predict") for edge in ("begin", "end")]:
        calls = []
        callbacks = CallbackList(LambdaCallback(**{hook: calls.append}))
        getattr(callbacks, hook)()
        assert calls == [{}], hook


def test_callbacks_use_the_hook_after_a_batch_only_if_they_act_after_batches(tmp_path):
    for make in (
        lambda options: ModelCheckpoint(tmp_path / "model", **options),
        lambda options: BackupAndRestore(tmp_path / "backup", **options),
    ):
        assert not CallbackList(make({})).wants("on_train_batch_end")
        assert CallbackList(make({"save_freq": 2})).wants("on_train_batch_end")
    assert not CallbackList(TensorBoard()).wants("on_train_batch_end")
    assert CallbackList(TensorBoard(update_freq=2)).wants("on_train_batch_end")
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), 1)
    assert not CallbackList(LearningRateScheduler(scheduler)).wants("on_train_batch_end")
    assert CallbackList(LearningRateScheduler(scheduler, each="batch")).wants("on_train_batch_end")
    callback = Callback()
    callback.on_train_batch_end = lambda batch, logs=None: None
    assert CallbackList(callback).wants("on_train_batch_end")


def test_outputs_in_logs_stay_tensors():
    seen = []
    callbacks = CallbackList(LambdaCallback(on_predict_batch_end=lambda batch, logs: seen.append(logs["outputs"])))
    outputs = torch.ones(1, 1)
    callbacks.on_predict_batch_end(0, {"outputs": outputs})
    assert seen[0] is outputs


def test_callbacks_of_keras_are_accepted():
    os.environ["KERAS_BACKEND"] = "torch"
    keras = pytest.importorskip("keras")
    history = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)
    callbacks = CallbackList([history], model=Weights(), verbose=0)
    assert not callbacks.wants("on_train_batch_end")
    assert CallbackList([keras.callbacks.TerminateOnNaN()]).wants("on_train_batch_end")


def test_objects_that_are_not_callbacks_are_refused():
    with pytest.raises(ArgumentError, match="'history'"):
        CallbackList(["history"])
    with pytest.raises(ArgumentError, match="on_epoch_ends.*Did you mean 'on_epoch_end'"):
        LambdaCallback(on_epoch_ends=print)


def test_history_has_epochs_and_params_and_is_an_attribute_of_the_model():
    model = Weights()
    callbacks = CallbackList(add_history=True, model=model, epochs=5, steps=1)
    callbacks.on_train_begin()
    for epoch in (3, 4):
        callbacks.on_epoch_end(epoch, {"loss": epoch / 2})
    history = callbacks.history
    assert (history.epoch, history.history) == ([3, 4], {"loss": [1.5, 2.0]})
    assert history.params == {"epochs": 5, "steps": 1}
    assert model.history is history
    mine = History()
    assert CallbackList([mine], add_history=True).history is mine


# The others


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(math.nan)])
def test_terminate_on_nan_stops_or_raises(loss, capsys):
    model = Weights()
    callbacks = CallbackList(TerminateOnNaN(), model=model)
    callbacks.on_train_batch_end(0, {"loss": 1.0})
    assert not model.stop_training
    callbacks.on_train_batch_end(1, {"loss": loss})
    assert model.stop_training
    assert "batch 1 of epoch 1" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="batch 2"):
        CallbackList(TerminateOnNaN(raise_error=True), model=model).on_train_batch_end(2, {"loss": loss})


@pytest.mark.parametrize("torch_optimizer", [False, True])
def test_learning_rate_scheduler_sets_and_logs(torch_optimizer, capsys):
    model = Weights()
    if torch_optimizer:
        model.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    halve = LearningRateScheduler(lambda epoch, rate: rate / 2, verbose=1)
    callbacks = CallbackList(halve, add_history=True, model=model)
    callbacks.on_train_begin()
    for epoch in range(2):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, {})
    assert callbacks.history.history["learning_rate"] == pytest.approx([0.05, 0.025])
    assert "Epoch 2: learning rate 0.025" in capsys.readouterr().out


def test_a_schedule_may_take_the_epoch_only_and_its_errors_are_raised():
    model = Weights()
    CallbackList(LearningRateScheduler(lambda epoch: 0.5), model=model).on_epoch_begin(0)
    assert model.optimizer.learning_rate == 0.5

    def broken(epoch, rate):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        CallbackList(LearningRateScheduler(broken), model=model).on_epoch_begin(0)


def test_a_schedule_must_return_a_learning_rate():
    model = Weights()
    for result in (None, "fast", math.nan, -1.0):
        with pytest.raises(ArgumentError, match="learning rate"):
            CallbackList(LearningRateScheduler(lambda epoch, rate: result), model=model).on_epoch_begin(0)  # noqa: B023
        assert model.optimizer.learning_rate == 0.1


def test_callbacks_are_registered():
    assert {"Callback", "History", "EarlyStopping", "LearningRateScheduler"} <= set(entries("callback"))
