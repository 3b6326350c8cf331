"""A run continues from the backup of the same run; every other state is refused before anything has changed."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import padless
from padless.callbacks import BackupAndRestore, Callback, CSVLogger, EarlyStopping, ModelCheckpoint
from padless.errors import DataError
from padless.layers import LSTM, Dense, Dropout, Embedding, Input
from padless.optimizers import SGD, Adadelta, Adafactor, Adagrad, Adam, Adamax, AdamW, Nadam, RMSprop
from padless.optimizers.schedules import ExponentialDecay
from padless.saving import safetensors_io, state_tree

GOLDEN = Path(__file__).parent / "golden" / "0.1.0"  # backups that padless 0.1.0 has written
X = [[1, 2], [3], [4, 4, 1], [2, 2], [1], [3, 1, 2]]
Y = np.array([0, 1, 1, 0, 1, 0], dtype="float32")


def model(optimizer="adam", activation="tanh", rate=0.2, loss="mse"):
    torch.manual_seed(0)
    np.random.seed(0)
    one = padless.Sequential([
        Input((None,)), Embedding(5, 3, mask_zero=True), Dropout(rate, seed=3), LSTM(2, activation=activation), Dense(1)
    ])  # fmt: skip
    one.compile(optimizer, loss, metrics=["mae"])
    return one


class Cut(Callback):
    """Interrupt `fit` after a batch of epoch 1, or after the epoch."""

    def __init__(self, batch):
        self.batch, self.epoch = batch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, self.batch):
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, None) == (1, self.batch):
            raise KeyboardInterrupt


def others(folder):
    """Return callbacks with a state."""
    return [EarlyStopping("loss", patience=9), CSVLogger(folder / "log.csv"), ModelCheckpoint(folder / "m", "loss")]


def interrupt(one, folder, batch=1, save_freq=1):
    callbacks = [BackupAndRestore(folder, save_freq), *others(folder.parent), Cut(batch)]
    with pytest.raises(KeyboardInterrupt):
        one.fit(X, Y, 2, 3, verbose=0, callbacks=callbacks)
    return sorted(folder.iterdir())[-1]


@pytest.fixture(scope="module")
def backups(tmp_path_factory):
    """Return backups of an interrupted run: one in the middle of an epoch, one at its end."""
    parent = tmp_path_factory.mktemp("backups")
    interrupt(model(), parent / "in an epoch", 1)
    interrupt(model(), parent / "after an epoch", None, "epoch")
    return {name: parent / name for name in ("in an epoch", "after an epoch")}


def snapshot(one):
    """Return copies of everything that a refused backup must not change."""
    return [  # without Python's random numbers, which the checks of types in the tests use
        *(value.clone() for value in one.state_dict().values()),
        copy.deepcopy(one.optimizer.state_dict() if one.optimizer.built else None),
        torch.get_rng_state(), np.random.get_state()[1].copy(), np.random.get_state()[2],
        *(module.seed_generator.get_state() for module in one.modules() if hasattr(module, "seed_generator")),
    ]  # fmt: skip


def alike(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return np.array_equal(one, other) if isinstance(one, torch.Tensor | np.ndarray) else one == other


def assert_alike(before, one):
    """Check that nothing has changed, and name what has."""
    differences = [number for number, pair in enumerate(zip(before, snapshot(one), strict=True)) if not alike(*pair)]
    assert not differences, [(before[number], snapshot(one)[number]) for number in differences]


def refuse(one, folder, match, x=X, y=Y, **options):
    fit = {"batch_size": 2, "epochs": 3, "verbose": 0, **options}
    one._build_optimizer()
    before = snapshot(one)
    with pytest.raises(DataError, match=match):
        one.fit(x, y, callbacks=[*others(folder.parent), BackupAndRestore(folder, 1)], **fit)
    assert_alike(before, one)


# ------------------------------------------------------------------------------------------------ the same run


@pytest.mark.parametrize("name", ["backup_in_epoch", "backup_after_epoch"])
def test_a_backup_of_padless_0_1_0_continues_to_the_same_weights(name, tmp_path):
    shutil.copy(GOLDEN / f"{name}.safetensors", tmp_path / "backup-0000000003.safetensors")
    one, expected = model(), np.load(GOLDEN / "backup_expected.npz")
    history = one.fit(X, Y, 2, 3, verbose=0, callbacks=[BackupAndRestore(tmp_path), EarlyStopping("loss", patience=9)])
    np.testing.assert_allclose(history.history["loss"], expected["loss"], rtol=1e-5)
    for number, weight in enumerate(one.get_weights()):
        np.testing.assert_allclose(weight, expected[f"arr_{number}"], atol=1e-6)


def test_the_restored_state_is_used_after_its_file_has_been_overwritten(backups, tmp_path):
    folder = tmp_path / "backup"
    shutil.copytree(backups["in an epoch"], folder)

    class Overwrite(Callback):
        runs_last = True

        def on_train_begin(self, logs=None):
            for path in folder.iterdir():
                with path.open("r+b") as file:
                    file.truncate(0)

    whole, one = model(), model()
    whole.fit(X, Y, 2, 3, verbose=0)
    callbacks = [BackupAndRestore(folder, 1), Overwrite(), EarlyStopping("loss", patience=9)]
    one.fit(X, Y, 2, 3, verbose=0, callbacks=callbacks)
    assert all(np.array_equal(a, b) for a, b in zip(whole.get_weights(), one.get_weights(), strict=True))


# ------------------------------------------------------------------------------------------------ another run


@pytest.mark.parametrize("name", ["in an epoch", "after an epoch"])
def test_a_backup_of_another_run_is_refused(name, backups):
    folder = backups[name]
    refuse(model(Adam(0.01)), folder, "learning_rate=0.001; now learning_rate is 0.01")
    refuse(model(Adam(ExponentialDecay(0.001, 5, 0.5))), folder, "schedule=None; now schedule is {'class_name'")
    refuse(model(Adam(clipnorm=1.0)), folder, "clipnorm=None; now clipnorm is 1.0")
    refuse(model(Adam(beta_1=0.8)), folder, "beta_1=0.9; now beta_1 is 0.8")
    refuse(model("sgd"), folder, "made with Adam for")
    refuse(model(activation="relu"), folder, "its layer LSTMCell.activation is 'tanh', here 'relu'")
    refuse(model(rate=0.5), folder, "its layer Dropout.rate is 0.2, here 0.5")
    refuse(model(), folder, "gradient_accumulation_steps=1; now", gradient_accumulation_steps=2)
    refuse(model(), folder, "batch_size=2; now batch_size is 3|epoch of 3 batches; now", batch_size=3)
    refuse(model(), folder, "shuffle=True; now shuffle is False", shuffle=False)
    refuse(model(), folder, "initial_epoch=0; now initial_epoch is 2", initial_epoch=2)
    refuse(model(), folder, "number of examples=6; now number of examples is 5", X[:5], Y[:5])


def test_a_learning_rate_that_a_callback_has_changed_is_continued(tmp_path):
    class Slower(Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate *= 0.5

    whole = model()
    whole.fit(X, Y, 2, 3, verbose=0, callbacks=[Slower()])
    one = model()
    with pytest.raises(KeyboardInterrupt):
        one.fit(X, Y, 2, 3, verbose=0, callbacks=[BackupAndRestore(tmp_path, 1), Slower(), Cut(1)])
    again = model()
    again.fit(X, Y, 2, 3, verbose=0, callbacks=[BackupAndRestore(tmp_path, 1, delete_checkpoint=False), Slower()])
    assert all(np.array_equal(a, b) for a, b in zip(whole.get_weights(), again.get_weights(), strict=True))
    again.fit(X, Y, 2, 4, verbose=0, callbacks=[BackupAndRestore(tmp_path), Slower()])  # begins with the new rate
    assert again.optimizer.learning_rate == 0.001 * 0.5**4


# ------------------------------------------------------------------------------------------------ forged states


def change(state, path, value):
    """Set an entry of nested values."""
    for key in path[:-1]:
        state = state[key]
    if isinstance(state, tuple):
        raise TypeError("change the tuple as a whole")
    state[path[-1]] = value


SEED_WORDS = np.arange(1, 626)  # the last one is a position, and at most 624
FORGED = [
    (("random", "numpy", "state", "pos"), -1), (("random", "numpy", "state", "pos"), 10**9),
    (("random", "numpy", "state", "pos"), 3.0), (("random", "numpy", "state", "key"), np.zeros(3, "uint32")),
    (("random", "numpy", "state", "key"), np.zeros(624, "int64")), (("random", "numpy", "has_gauss"), 7),
    (("random", "torch"), torch.zeros(3, dtype=torch.uint8)), (("random", "torch"), torch.zeros(5056, dtype=torch.uint8)),
    (("random", "python"), (3, SEED_WORDS, None)), (("random", "python"), (3, -SEED_WORDS, None)),
    (("random", "python"), (2, SEED_WORDS - 1, None)), (("random", "python"), []),
    (("data", "begun"), {}), (("data", "begun", "numpy", "state", "pos"), 2**40), (("data", "taken"), -1),
    (("data", "taken"), 2**62), (("data", "taken"), 0), (("data", "taken"), float("nan")), (("data", "taken"), True),
    (("data", "feed", "done"), -5), (("data", "feed", "done"), 2**50), (("data", "feed", "seed"), "1"),
    (("data", "feed", "seed"), -1), (("data", "feed"), []), (("data", "steps"), 10**6), (("data",), None),
    (("batch",), -1), (("batch",), 2**63), (("batch",), 1.0), (("epoch",), -3), (("epoch",), "1"), (("stopped",), 1),
    (("sums",), None), (("sums",), {}), (("sums",), []), (("scaler",), {"scale": 1.0}), (("model",), {}), (("model",), []),
    (("model", 0), torch.zeros(5, 3, dtype=torch.float64)), (("model", 0), torch.zeros(5, 3, dtype=torch.complex64)),
    (("model", 0), [1.0]), (("layers",), []), (("layers", 3), {}), (("layers", 0), {"states": torch.zeros(2, 2)}),
    (("optimizer",), {}), (("optimizer", "state", "state", 0, "step"), -1.0),
    (("optimizer", "state", "state", 0, "step"), torch.tensor(float("nan"))), (("optimizer", "state", "state", 0), []),
    (("optimizer", "state", "state", 0, "exp_avg"), torch.zeros(3, 5)), (("optimizer", "state", "state", -1), {}),
    (("optimizer", "state", "state", 99), {}), (("optimizer", "state", "state", 1), {"exp_avg": torch.zeros(2)}),
    (("optimizer", "state", "param_groups"), []), (("optimizer", "state", "param_groups", 0, "params"), [1, 0, 2, 3, 4, 5]),
    (("optimizer", "state", "param_groups", 0, "lr"), -1.0), (("optimizer", "state", "param_groups", 0, "lr"), "fast"),
    (("optimizer", "state", "param_groups", 0, "lr"), float("inf")),
    (("optimizer", "state", "param_groups", 0, "betas"), (0.9,)),
    (("optimizer", "state", "param_groups", 0, "iterations"), -1),
    (("optimizer", "state", "param_groups", 0, "averaged"), True),
    (("callbacks",), {}), (("callbacks", 0), {}), (("callbacks", 0, "state"), {}), (("callbacks", 0, "state", "wait"), -1),
    (("callbacks", 0, "state", "best"), "low"), (("callbacks", 0, "state", "best_weights"), [np.zeros(2)]),
    (("callbacks", 1, "state", "_length"), -8), (("callbacks", 2, "state", "_since"), None), (("settings",), []),
]  # fmt: skip


def test_forged_entries_of_a_state_are_refused(backups, tmp_path):
    arrays, values = safetensors_io.read(sorted(backups["in an epoch"].iterdir())[-1])
    content = state_tree.join_arrays(values, {name: array.clone() for name, array in arrays.items()})
    one, path = model(), tmp_path / "backup" / "backup-0000000000.safetensors"
    path.parent.mkdir()
    one._build_optimizer()
    before = snapshot(one)
    for place, value in FORGED:
        forged = copy.deepcopy(content)
        if len(place) == 2 and place[0] == "model":
            place = ("model", list(forged["run"]["model"])[place[1]])
        change(forged["run"], place, value)
        forged_values, forged_arrays = state_tree.split_arrays(forged)
        safetensors_io.write(path, forged_arrays, forged_values)
        try:
            one.fit(X, Y, 2, 3, verbose=0, callbacks=[*others(tmp_path), BackupAndRestore(path.parent, 1)])
        except DataError:
            assert_alike(before, one)
        else:
            raise AssertionError((place, value))


@pytest.mark.parametrize("cls", [SGD, Adadelta, Adafactor, Adagrad, Adam, Adamax, AdamW, Nadam, RMSprop])
def test_the_state_of_each_optimizer_is_accepted_whole_and_refused_in_part(cls):
    from padless.trainers.run_state_checks import check_optimizer

    one = model(cls(use_ema=True, **({"momentum": 0.9} if cls is SGD else {})))
    one.fit(X, Y, 2, 1, verbose=0)
    saved = {"class": cls.__name__, "state": one.optimizer.state_dict()}
    check_optimizer(one.optimizer, saved)
    for name in saved["state"]["state"][0]:
        part = copy.deepcopy(saved)
        del part["state"]["state"][0][name]
        if part["state"]["state"][0]:
            with pytest.raises(DataError, match=f"with the entries {name}"):
                check_optimizer(one.optimizer, part)
