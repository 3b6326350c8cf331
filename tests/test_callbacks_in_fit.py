"""Callbacks in `fit` decide, write and average as Keras's."""

import csv
import importlib
import inspect
import math
import os

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_callbacks import Copying, Weights, run

import padless
from padless.callbacks import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    SwapEMAWeights,
    TensorBoard,
    TerminateOnNaN,
)
from padless.errors import ArgumentError
from padless.layers import LSTM, Dense, Embedding, Input

keras = pytest.importorskip("keras")
X = [[1, 2], [3], [4, 4, 1], [2, 2], [1], [3, 1, 2]]
Y = np.array([0, 1, 1, 0, 1, 0], dtype="float32")


def model(**compiled):
    torch.manual_seed(0)
    one = padless.Sequential([Input((None,)), Embedding(5, 3, mask_zero=True), LSTM(4, name="scan"), Dense(1, name="out")])
    one.compile(**{"optimizer": "adam", "loss": "mse", **compiled})
    return one


# ------------------------------------------------------------------------------------------------ ReduceLROnPlateau


@settings(deadline=None, max_examples=100)
@given(
    values=st.lists(st.sampled_from([0.0, 0.5, 0.75, 1.0, 1.25, 2.0]), min_size=1, max_size=12),
    options=st.fixed_dictionaries(
        {
            "factor": st.sampled_from([0.1, 0.5]),
            "patience": st.integers(0, 3),
            "min_delta": st.sampled_from([1e-4, 0.25]),
            "cooldown": st.integers(0, 2),
            "min_lr": st.sampled_from([0.0, 0.03]),
        }
    ),
    mode=st.sampled_from(["min", "max", "auto"]),
)
def test_the_learning_rate_is_reduced_when_keras_reduces_it(values, options, mode):
    ours, theirs = Weights(), Copying()
    run(ReduceLROnPlateau("loss", mode=mode, **options), values, ours, name="loss")
    run(keras.callbacks.ReduceLROnPlateau("loss", mode=mode, **options), values, theirs, name="loss")
    assert ours.optimizer.learning_rate == pytest.approx(theirs.optimizer.learning_rate)


def test_the_reduced_learning_rate_is_printed_and_logged(capsys):
    one = model()
    reduce = ReduceLROnPlateau("loss", patience=1, min_delta=9.0, verbose=1)
    rates = one.fit(X, Y, 2, 3, verbose=0, callbacks=[reduce]).history["learning_rate"]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4])
    assert "Epoch 2: learning rate reduced to 0.0001" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ CSVLogger


def test_the_csv_file_equals_keras(tmp_path):
    epochs = [{"loss": 0.5, "acc": 1}, {"loss": 0.25, "val_loss": 2.0}, {"acc": 3}]
    for name, cls in (("mine", CSVLogger), ("theirs", keras.callbacks.CSVLogger)):
        for append in (False, True):
            logger = cls(str(tmp_path / name), ";", append)
            logger.on_train_begin()
            for epoch, logs in enumerate(epochs):
                logger.on_epoch_end(epoch, dict(logs))
            logger.on_train_end()
    assert (tmp_path / "mine").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_csv_file_is_overwritten_unless_append_is_set(tmp_path):
    path = tmp_path / "log.csv"
    for append, epochs, lines in ((False, 4, 5), (False, 2, 3), (True, 2, 5)):
        model().fit(X, Y, 3, epochs, verbose=0, callbacks=[CSVLogger(path, append=append)])
        with path.open() as file:
            assert len(list(csv.reader(file))) == lines


# ------------------------------------------------------------------------------------------------ SwapEMAWeights


@pytest.mark.parametrize("every_epoch", [False, True])
def test_validation_uses_averages_and_training_uses_weights(every_epoch):
    seen = {}

    def look(where):
        return lambda *_, **__: seen.setdefault(where, []).append(one.get_weights()[0].copy())

    plain = model(optimizer=padless.optimizers.SGD(0.5))
    plain.fit(X, Y, 2, 2, shuffle=False, verbose=0)
    one = model(optimizer=padless.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5))
    looking = LambdaCallback(
        on_train_batch_begin=look("training"), on_test_batch_begin=look("validation"), on_epoch_end=look("end")
    )
    one.fit(
        X,
        Y,
        2,
        2,
        shuffle=False,
        verbose=0,
        validation_data=(X, Y),
        callbacks=[SwapEMAWeights(swap_on_epoch=every_epoch), looking],
    )
    weights = iter(seen["training"][1:])
    average = next(weights)
    for weight in [*list(weights)[:2]]:
        average = 0.5 * average + 0.5 * weight
    np.testing.assert_allclose(seen["validation"][0], average, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(seen["end"][0], seen["validation"][0] if every_epoch else seen["training"][3])
    np.testing.assert_array_equal(one.get_weights()[0], seen["validation"][-1])  # fit ends with the averages
    assert not one.optimizer.averaged
    another = model(optimizer=padless.optimizers.SGD(0.5))
    another.fit(X, Y, 2, 1, shuffle=False, verbose=0)
    np.testing.assert_array_equal(another.get_weights()[0], seen["training"][3])  # training never saw the averages


# ------------------------------------------------------------------------------------------------ TerminateOnNaN


def broken(layer, value):
    """A model in which this layer has such a weight."""
    one = model()
    one.fit(X, Y, 2, 1, verbose=0)
    with torch.no_grad():
        next(one.get_layer(layer).parameters()).fill_(value)
    return one


def test_terminate_on_nan_names_the_layer_the_step_and_the_batch(capsys):
    one = broken("scan", math.nan)
    history = one.fit(X, Y, 2, 3, verbose=0, callbacks=[TerminateOnNaN()])
    said = capsys.readouterr().out
    assert "The loss at step 1 (batch 0 of epoch 1) is nan." in said and len(history.epoch) == 1
    assert "The first layer whose output was not finite is 'scan' (LSTM); its weights were not finite before" in said
    with pytest.raises(RuntimeError, match="step 1 .*'scan'"):
        broken("scan", math.nan).fit(X, Y, 2, 1, verbose=0, callbacks=[TerminateOnNaN(raise_error=True)])
    assert not any(inner._forward_hooks for inner in one.modules())


def test_terminate_on_nan_reports_that_the_weights_were_finite(capsys):
    one = broken("out", 3e38)
    with torch.no_grad():
        one.get_layer("out").bias.fill_(3e38)
        one.get_layer("scan").cell.bias.fill_(50.0)
    one.fit(X, Y, 2, 1, verbose=0, callbacks=[TerminateOnNaN()])
    assert "'out' (Dense); its weights were finite" in capsys.readouterr().out


def test_terminate_on_nan_reports_a_loss_that_is_the_cause(capsys):
    one = model(loss=lambda y_true, y_pred: (y_pred * 0 - 1).log())
    one.fit(X, Y, 2, 1, verbose=0, callbacks=[TerminateOnNaN()])
    assert "outputs of all layers were finite. Check the loss" in capsys.readouterr().out


def test_terminate_on_nan_does_not_change_finite_training(capsys):
    one = model()
    plain = model()
    plain.fit(X, Y, 2, 2, shuffle=False, verbose=0)
    one.fit(X, Y, 2, 2, shuffle=False, verbose=0, callbacks=[TerminateOnNaN()], validation_data=(X, Y))
    assert all(np.array_equal(a, b) for a, b in zip(plain.get_weights(), one.get_weights(), strict=True))
    assert capsys.readouterr().out == "" and not any(inner._forward_hooks for inner in one.modules())


# ------------------------------------------------------------------------------------------------ TensorBoard, History


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages below
def test_tensorboard_has_the_tags_of_keras(tmp_path):
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path, histogram_freq=2, write_steps_per_second=True, update_freq=2)
    history = model().fit(X, Y, 2, 3, verbose=0, validation_data=(X, Y), callbacks=[board]).history
    found = {}
    for where in ("train", "validation"):
        found[where] = accumulator.EventAccumulator(str(tmp_path / where))
        found[where].Reload()
    scalars = [(event.step, event.value) for event in found["train"].Scalars("epoch_loss")]
    assert scalars == [(epoch, pytest.approx(loss)) for epoch, loss in enumerate(history["loss"])]
    assert [event.value for event in found["validation"].Scalars("epoch_loss")] == pytest.approx(history["val_loss"])
    assert [event.step for event in found["train"].Scalars("batch_loss")] == [1, 3, 5, 7]
    assert {"epoch_learning_rate", "epoch_steps_per_second"} <= set(found["train"].Tags()["scalars"])
    assert len(found["train"].Tags()["histograms"]) == 6


def test_errors_name_a_missing_package(monkeypatch):
    from padless._utils import optional_import as optional

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(optional, "import_module", missing)
    with pytest.raises(ImportError, match="TensorBoard needs the package 'tensorboard'.*pip install tensorboard"):
        model().fit(X, Y, verbose=0, callbacks=[TensorBoard()])
    history = History()
    history.on_epoch_end(0, {"loss": 1.0})
    with pytest.raises(ImportError, match="history.plot needs the package 'matplotlib'.*pip install matplotlib"):
        history.plot()


def test_a_history_prints_as_a_table():
    history = History()
    assert str(history) == "History of no epoch yet"
    history.on_epoch_end(0, {"loss": 1.0})
    history.on_epoch_end(1, {"loss": 1e-5, "val_loss": math.nan, "note": "better"})
    assert str(history).splitlines() == [
        "epoch        loss  val_loss    note",
        "    1      1.0000                  ",
        "    2  1.0000e-05       nan  better",
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of matplotlib's own
def test_a_history_plots_curves(tmp_path):
    history = model(metrics=["mae"]).fit(X, Y, 2, 3, verbose=0, validation_data=(X, Y))
    figure = history.plot(title="learning")
    loss, mae = figure.axes
    assert [line.get_label() for line in loss.lines] == ["loss", "val_loss"] and mae.get_title() == "mae"
    assert list(loss.lines[1].get_ydata()) == history.history["val_loss"] and list(loss.lines[0].get_xdata()) == [1, 2, 3]
    figure.savefig(tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").stat().st_size > 1000
    assert len(history.plot("val_mae").axes[0].lines) == 1


# ------------------------------------------------------------------------------------------------ arguments


def test_arguments_of_callbacks_equal_keras():
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    for cls in (
        History, EarlyStopping, ModelCheckpoint, BackupAndRestore, CSVLogger, LearningRateScheduler, ReduceLROnPlateau,
        TensorBoard, TerminateOnNaN, LambdaCallback, SwapEMAWeights,
    ):  # fmt: skip
        ours, theirs = (
            [(p.name, p.default) for p in inspect.signature(callback).parameters.values() if p.kind not in kinds]
            for callback in (cls, getattr(keras.callbacks, cls.__name__))
        )
        assert ours == theirs, cls


def fit(*callbacks, **compiled):
    return lambda one: one.fit(X, Y, 2, 2, verbose=0, callbacks=list(callbacks))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda one: one.fit(X, Y, verbose=0, callbacks=["history"]), "callbacks has the entry 'history'"),
        (lambda one: EarlyStopping(patience=-1), "`patience` of EarlyStopping.*at least 0; got -1"),
        (lambda one: EarlyStopping(monitor=3), "`monitor` of EarlyStopping.*got 3"),
        (lambda one: EarlyStopping(min_delta=math.nan), "`min_delta` of EarlyStopping must be a finite number; got nan"),
        (fit(EarlyStopping("zest")), "monitor='zest'"),
        (lambda one: ReduceLROnPlateau(factor=1.5), "`factor` of ReduceLROnPlateau.*got 1.5"),
        (lambda one: ReduceLROnPlateau(min_lr=-1), "`min_lr` of ReduceLROnPlateau.*got -1"),
        (lambda one: ReduceLROnPlateau(cooldown=0.5), "`cooldown`.*got 0.5"),
        (fit(ReduceLROnPlateau("zest")), "monitor='zest'"),
        (lambda one: ModelCheckpoint("m", save_freq=0), "`save_freq` of ModelCheckpoint.*got 0"),
        (lambda one: ModelCheckpoint("m", mode="best"), "Unknown mode 'best'"),
        (fit(ModelCheckpoint(os.curdir)), "writes a file; '.' is a folder"),
        (lambda one: BackupAndRestore(""), "backup_dir must be the name of a folder; got ''"),
        (lambda one: BackupAndRestore("b", save_freq="batch"), "`save_freq` of BackupAndRestore.*got 'batch'"),
        (lambda one: CSVLogger("log", separator="tab"), "`separator` of CSVLogger must be one character; got 'tab'"),
        (fit(SwapEMAWeights()), r"needs an optimizer with use_ema=True.*Adam\(learning_rate=0.001\)"),
        (lambda one: TensorBoard(profile_batch=3), "got profile_batch=3"),
        (lambda one: TensorBoard(update_freq="often"), "`update_freq` of TensorBoard.*got 'often'"),
        (lambda one: LambdaCallback(on_epoch_end=3), "on_epoch_end of LambdaCallback must be a function; got 3"),
        (lambda one: one.fit(X, Y, verbose=0).plot("los"), "Unknown result 'los'.*Did you mean 'loss'"),
        (lambda one: History().plot(), "no epoch has ended"),
    ],
)
def test_wrong_arguments_of_callbacks_are_refused_before_training(act, message):
    one = model()
    before, state = [weight.copy() for weight in one.get_weights()], torch.get_rng_state()
    if "Unknown result" in message:  # trained, and asked afterwards
        with pytest.raises(ArgumentError, match=message):
            act(one)
        return
    with pytest.raises(ArgumentError, match=message):
        act(one)
    assert all(np.array_equal(a, b) for a, b in zip(before, one.get_weights(), strict=True))
    assert torch.equal(state, torch.get_rng_state()) and not (one.optimizer.built and one.optimizer.state)


def test_an_unknown_name_in_a_filepath_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"cannot be filled: 'zest'. It may name epoch, loss"):
        model().fit(X, Y, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "{zest}")])


# ------------------------------------------------------------------------------------------------ not as Keras


def test_modes_and_names_of_files(tmp_path):
    with pytest.warns(UserWarning, match="fallback to auto"):
        keras.callbacks.EarlyStopping(mode="mim")
    with pytest.raises(ArgumentError, match="Unknown mode 'mim'"):
        EarlyStopping(mode="mim")
    with pytest.raises(ValueError, match="must end in `.keras`"):
        keras.callbacks.ModelCheckpoint(str(tmp_path / "model"))
    model().fit(X, Y, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "model")])
    assert padless.load_model(tmp_path / "model").count_params()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
def test_backup_in_the_middle_of_an_epoch(tmp_path):
    """Three batches an epoch, two epochs, interrupted after the second batch of the second epoch."""
    x, y = np.ones((6, 2), "float32"), np.ones((6, 1), "float32")
    taken = {}
    for name, library in (("padless", padless), ("keras", keras)):

        class Cut(library.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch

            def on_train_batch_end(self, batch, logs=None):
                taken[self.name] += 1
                if self.left and (self.epoch, batch) == (1, 2):
                    raise KeyboardInterrupt

        taken[name] = 0
        for left in (True, False):
            one = library.Sequential([library.layers.Input((2,)), library.layers.Dense(1)])
            one.compile("sgd", "mse")
            cut = Cut()
            cut.left, cut.name = left, name
            backup = library.callbacks.BackupAndRestore(str(tmp_path / name), save_freq=1)
            try:
                one.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[backup, cut])
            except KeyboardInterrupt:
                assert left
    assert taken == {"padless": 7, "keras": 9}  # the batch that was cut off, and those that were not kept, again
