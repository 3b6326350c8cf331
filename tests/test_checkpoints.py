"""Files of a training are complete, are never lost, and are refused when they are damaged."""

import errno
import os
import resource

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import padless
from padless.callbacks import BackupAndRestore, Callback, ModelCheckpoint
from padless.errors import ArgumentError, DataError, NotWritten
from padless.layers import LSTM, Dense, Dropout, Embedding, Input
from padless.saving import safetensors_io as archive
from padless.saving import state_tree as tree

X = [[1, 2], [3], [4, 4, 1], [2, 2], [1], [3, 1, 2]]
Y = np.array([0, 1, 1, 0, 1, 0], dtype="float32")


def model(units=4):
    torch.manual_seed(0)
    one = padless.Sequential([Input((None,)), Embedding(5, 3, mask_zero=True), Dropout(0.2), LSTM(units), Dense(1)])
    one.compile("adam", "mse", metrics=["mae"])
    return one


class Cut(Callback):
    """Interrupt `fit`, as Control-C does."""

    def __init__(self, epoch, batch=None):
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, None) == self.at:
            raise KeyboardInterrupt


def cut_off(folder, epoch, batch=None, **options):
    """Return a model whose training was interrupted there."""
    one = model()
    with pytest.raises(KeyboardInterrupt):
        one.fit(X, Y, 2, 6, verbose=0, callbacks=[BackupAndRestore(folder, **options), Cut(epoch, batch)])
    return one


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------------ nested values


nests = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.floats(width=32), max_size=3).map(lambda values: torch.tensor(values, dtype=torch.float32))
    | st.lists(st.integers(0, 9), max_size=3).map(lambda values: np.array(values, dtype="int16")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def alike(one, other):
    if isinstance(one, torch.Tensor | np.ndarray):
        return type(one) is type(other) and one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    return type(one) is type(other) and (one == other or one != one)


@settings(deadline=None, max_examples=150)
@given(nests)
def test_nested_values_are_read_as_they_were_written(tmp_path_factory, nest):
    path = tmp_path_factory.mktemp("nest") / "file"
    plain, arrays = tree.split_arrays({"~": nest, "nest": nest})
    archive.write(path, arrays, plain)
    read, config = archive.read(path)
    assert alike({"~": nest, "nest": nest}, tree.join_arrays(config, read))


def test_values_that_cannot_be_written_are_named_with_their_path():
    with pytest.raises(ArgumentError, match=r"a/1 is <object .* of type object"):
        tree.split_arrays({"a": [1, object()]})
    with pytest.raises(DataError, match="is not valid"):
        tree.join_arrays({"~": "tensor", "of": "gone"}, {})


# ------------------------------------------------------------------------------------------------ damaged files


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_file_with_a_changed_or_missing_byte_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "file"
    archive.write(path, {"a": torch.arange(6.0), "b": torch.ones(2, 2, dtype=torch.bfloat16)}, {"note": "of two arrays"})
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:place])
    else:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :])
    try:
        arrays, config = archive.read(path)
    except DataError:
        return
    assert config == {"note": "of two arrays"} and arrays["a"].tolist() == [0, 1, 2, 3, 4, 5]  # blanks after the header
    assert arrays["b"].tolist() == [[1, 1], [1, 1]] and set(arrays) == {"a", "b"}


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_backup_is_refused_and_the_previous_one_stays(damage, tmp_path):
    cut_off(tmp_path, 3)
    older, newer = sorted(tmp_path.iterdir())
    whole = newer.read_bytes()
    newer.write_bytes({"cut": whole[:-9], "empty": b"", "changed": whole[:-9] + b"?" + whole[-8:]}[damage])
    left, again = files(tmp_path), model()
    before = [weight.copy() for weight in again.get_weights()]
    with pytest.raises(DataError, match=f"{newer.name}.*is not damaged") as error:
        again.fit(X, Y, 2, 6, verbose=0, callbacks=[BackupAndRestore(tmp_path)])
    assert older.name in str(error.value) and files(tmp_path) == left
    assert all(np.array_equal(a, b) for a, b in zip(before, again.get_weights(), strict=True))
    with pytest.warns(UserWarning, match=f"continues from the backup before it, .*{older.name}"):
        again.fit(X, Y, 2, 6, verbose=0, callbacks=[BackupAndRestore(tmp_path, double_checkpoint=True)])
    whole = model()
    whole.fit(X, Y, 2, 6, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(whole.get_weights(), again.get_weights(), strict=True))


def test_the_error_for_the_only_backup_says_that_training_starts_from_the_beginning(tmp_path):
    cut_off(tmp_path, 1)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"")
    for both in (False, True):
        with pytest.raises(DataError, match="no backup before it. Delete it, and training starts from the beginning"):
            model().fit(X, Y, 2, 6, verbose=0, callbacks=[BackupAndRestore(tmp_path, double_checkpoint=both)])


def test_a_backup_of_another_model_optimizer_or_data_changes_nothing(tmp_path):
    cut_off(tmp_path, 2, 1, save_freq=1)
    wide, other, more = model(7), model(), model()
    other.compile("sgd", "mse")
    for one, x, y, message in (
        (wide, X, Y, "another model: its weight"),
        (other, X, Y, "made with Adam for .* this is SGD"),
        (more, X * 2, np.tile(Y, 2), "an epoch of 3 batches; now an epoch has 6"),
    ):
        before, state = [weight.copy() for weight in one.get_weights()], torch.get_rng_state()
        with pytest.raises(DataError, match=message):
            one.fit(x, y, 2, 6, verbose=0, callbacks=[BackupAndRestore(tmp_path)])
        assert all(np.array_equal(a, b) for a, b in zip(before, one.get_weights(), strict=True))
        assert torch.equal(state, torch.get_rng_state()) and not one.optimizer.state


# ------------------------------------------------------------------------------------------------ disks and folders


def full(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.slow
@pytest.mark.parametrize("save", ["backup", "checkpoint", "model", "weights"])
def test_a_full_disk_leaves_the_previous_file_only(save, tmp_path, monkeypatch):
    one, path = model(), tmp_path / "model.safetensors"
    one.fit(X, Y, 2, 1, verbose=0)
    if save == "backup":
        cut_off(tmp_path, 2)
    else:
        one.save(path)
        one.fit(X, Y, 2, 1, verbose=0)
    before = files(tmp_path)
    kept = BackupAndRestore(tmp_path, delete_checkpoint=False)
    act = {
        "backup": lambda: model().fit(X, Y, 2, 6, verbose=0, callbacks=[kept]),
        "checkpoint": lambda: one.fit(X, Y, 2, 1, verbose=0, callbacks=[ModelCheckpoint(path)]),
        "model": lambda: one.save(path),
        "weights": lambda: one.save_weights(path),
    }[save]
    with monkeypatch.context() as patched:
        full(patched)
        with pytest.raises(NotWritten, match="No space left on device; nothing was written, .*is unchanged") as error:
            act()
    assert error.value.errno == errno.ENOSPC and files(tmp_path) == before
    act()
    assert files(tmp_path) != before


def test_a_file_above_the_limit_of_the_system_is_not_written(tmp_path):
    """The limit of the system is reached while the file is written."""
    path, before = tmp_path / "file", resource.getrlimit(resource.RLIMIT_FSIZE)
    archive.write(path, {"a": torch.zeros(3)})
    old = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(NotWritten, match="File too large"):
            archive.write(path, {"a": torch.zeros(9999)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(tmp_path) == {"file": old}


@pytest.mark.parametrize(
    "make",
    [
        lambda path: BackupAndRestore(path / "file" / "backup"),
        lambda path: ModelCheckpoint(path / "file" / "model"),
        lambda path: padless.callbacks.CSVLogger(path / "file" / "log.csv"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_training(make, tmp_path):
    (tmp_path / "file").write_text("no folder")
    one = model()
    one.fit(X, Y, 2, 1, verbose=0)
    before, state = [weight.copy() for weight in one.get_weights()], torch.get_rng_state()
    with pytest.raises(NotWritten, match="Choose another.*file"):
        one.fit(X, Y, 2, 1, verbose=0, callbacks=[make(tmp_path)])
    assert all(np.array_equal(a, b) for a, b in zip(before, one.get_weights(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------ going on


def test_a_kept_backup_continues_with_more_epochs(tmp_path):
    backup = BackupAndRestore(tmp_path, delete_checkpoint=False)
    one = model()
    one.fit(X, Y, 2, 2, verbose=0, callbacks=[backup])
    again = model()
    history = again.fit(X, Y, 2, 5, verbose=0, callbacks=[BackupAndRestore(tmp_path)])
    whole = model()
    assert history.history == whole.fit(X, Y, 2, 5, verbose=0).history and history.epoch == [0, 1, 2, 3, 4]
    assert all(np.array_equal(a, b) for a, b in zip(whole.get_weights(), again.get_weights(), strict=True))
    assert not tmp_path.exists()


def test_a_stopped_run_stays_stopped(tmp_path):
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    one, again = model(), model()
    backup = {"save_freq": 1, "delete_checkpoint": False}
    one.fit(X, Y, 2, 3, verbose=0, callbacks=[Stop(), BackupAndRestore(tmp_path, **backup)])
    history = again.fit(X, Y, 2, 3, verbose=0, callbacks=[Stop(), BackupAndRestore(tmp_path, **backup)])
    assert history.epoch == [0] and again.optimizer.iterations == 2


def test_backups_contain_the_states_and_seeds_of_layers(tmp_path):
    def stateful():
        torch.manual_seed(0)
        one = padless.Sequential([Dropout(0.5, seed=3), LSTM(4, stateful=True), Dense(1)])
        one.compile("rmsprop", "mse")
        return one

    x, y = np.linspace(-1, 1, 4 * 3 * 2, dtype="float32").reshape(4, 3, 2), Y[:4]
    whole = stateful()
    whole.fit(x, y, 2, 3, shuffle=False, verbose=0)
    one = stateful()
    with pytest.raises(KeyboardInterrupt):
        one.fit(x, y, 2, 3, shuffle=False, verbose=0, callbacks=[BackupAndRestore(tmp_path, 1), Cut(1, 0)])
    again = stateful()
    again.fit(x, y, 2, 3, shuffle=False, verbose=0, callbacks=[BackupAndRestore(tmp_path, 1)])
    assert all(np.array_equal(a, b) for a, b in zip(whole.get_weights(), again.get_weights(), strict=True))


def test_partial_files_of_a_killed_run_are_deleted(tmp_path):
    (tmp_path / ".backup-0000000001.safetensors.x").write_text("half")
    (tmp_path / "mine.txt").write_text("mine")
    model().fit(X, Y, 2, 2, verbose=0, callbacks=[BackupAndRestore(tmp_path)])
    assert files(tmp_path) == {"mine.txt": b"mine"}


def test_sums_in_a_backup_have_the_keys_of_padless_0_1_0(tmp_path):
    cut_off(tmp_path, 1, 1, save_freq=1)
    arrays, plain = archive.read(sorted(tmp_path.iterdir())[-1])
    objective, *others = tree.join_arrays(plain, arrays)["run"]["sums"]
    assert list(objective["attributes"]) == ["outputs", "extra", "once", "tracker", "compiled"]
    (output,) = objective["attributes"]["outputs"]
    assert {"name", "coefficient", "metrics", "weighted", "seen"} == set(output["attributes"])
    assert "term" in output["attributes"]["seen"] and objective["attributes"]["tracker"]["attributes"]["told"] is False
    assert others == [None, None]  # the loss and the compiled metrics are parts of the first entry


# ------------------------------------------------------------------------------------------------ ModelCheckpoint


def test_save_best_only_saves_improvements(tmp_path):
    one = model()
    path = tmp_path / "new" / "best-{epoch:02d}-{loss:.3f}.safetensors"
    best = ModelCheckpoint(path, "loss", save_best_only=True, mode="max")
    history = one.fit(X, Y, 2, 4, verbose=0, callbacks=[best])
    losses = history.history["loss"]
    expected = [f"best-{n + 1:02d}-{loss:.3f}.safetensors" for n, loss in enumerate(losses) if loss > max([0, *losses[:n]])]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == expected
    assert padless.load_model(tmp_path / "new" / expected[-1]).count_params() == one.count_params()


def test_save_freq_saves_after_some_batches(tmp_path, capsys):
    one = model()
    saving = ModelCheckpoint(tmp_path / "{epoch}-{batch}", save_weights_only=True, save_freq=2, verbose=1)
    one.fit(X, Y, 2, 2, verbose=0, callbacks=[saving])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-2", "2-1", "2-3"]
    one.load_weights(tmp_path / "2-3")
    assert "Epoch 2: saved" in capsys.readouterr().out


def test_initial_value_threshold_must_be_improved(tmp_path):
    path = tmp_path / "model"
    model().fit(X, Y, 2, 2, verbose=0, callbacks=[ModelCheckpoint(path, "loss", 0, True, initial_value_threshold=0.0)])
    assert not path.exists()
