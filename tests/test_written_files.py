"""Training writes each file whole, to the place that the user means, and no two trainings write to one folder."""

import csv
import errno
import io
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import padless
from padless.callbacks import BackupAndRestore, Callback, CSVLogger, ModelCheckpoint
from padless.errors import NotWritten, PadlessError
from padless.layers import Dense, Input
from padless.saving import safetensors_io
from padless.saving.folder_lock import FolderLock

X, Y = np.ones((4, 3, 2), dtype="float32"), np.ones((4, 3, 1), dtype="float32")


def model():
    one = padless.Sequential([Input((None, 2)), Dense(1)])
    one.compile("sgd", "mse")
    return one


def fit(*callbacks, epochs=3):
    return model().fit(X, Y, 2, epochs, verbose=0, callbacks=list(callbacks))


class Act(Callback):
    """Call a function at the end of epoch 0."""

    def __init__(self, action):
        self.action = action

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.action()


def write(path, value=1.0):
    safetensors_io.write(path, {"a": torch.full((3,), value)})


# ------------------------------------------------------------------------------------------------ locks


def test_a_second_training_in_a_folder_is_refused_at_once_and_names_the_first(tmp_path):
    refused = []

    def train_there():
        with pytest.raises(NotWritten, match=f"another training .* process {os.getpid()} on host") as error:
            fit(BackupAndRestore(tmp_path))
        refused.append(error.value.errno)

    fit(BackupAndRestore(tmp_path), Act(train_there), epochs=2)
    fit(BackupAndRestore(tmp_path), epochs=2)
    assert refused == [errno.EBUSY] and not tmp_path.exists()


def test_an_error_in_training_releases_the_folder(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(BackupAndRestore(tmp_path, delete_checkpoint=False), Act(fail))
    assert [path.suffix for path in tmp_path.iterdir()] == []
    fit(BackupAndRestore(tmp_path, delete_checkpoint=False), epochs=2)


HOLD = """
import os, sys, time
from pathlib import Path
from padless.saving.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
if not os.fork():
    time.sleep(60)
    os._exit(0)
print("locked", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over_though_its_child_is_alive(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(NotWritten, match=f"process {holder.pid} on host"):
            FolderLock(tmp_path).acquire()
        holder.kill()
        holder.wait()
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == holder.pid
        lock = FolderLock(tmp_path)
        lock.acquire()
        lock.release()
        assert not list(tmp_path.iterdir())
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()


def test_one_of_many_threads_gets_the_lock(tmp_path):
    held, refused, start = [], [], threading.Barrier(8)

    def lock_there():
        lock = FolderLock(tmp_path)
        start.wait()
        try:
            lock.acquire()
            held.append(lock)
        except NotWritten:
            refused.append(lock)

    threads = [threading.Thread(target=lock_there) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(refused) == 7
    held[0].release()


def test_a_folder_that_is_deleted_in_training_is_made_again_with_a_warning(tmp_path):
    folder = tmp_path / "backup"
    with pytest.warns(UserWarning, match="was deleted during training. It is made again"):
        fit(BackupAndRestore(folder, delete_checkpoint=False), Act(lambda: shutil.rmtree(folder)))
    assert {path.suffix for path in folder.iterdir()} == {".safetensors"}


# ------------------------------------------------------------------------------------------------ targets


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    write(tmp_path / "real" / "file", 1.0)
    link.symlink_to(tmp_path / "real" / "file")
    dangling.symlink_to("real/new")
    for path, target in ((link, "file"), (dangling, "new")):
        write(path, 2.0)
        assert path.is_symlink() and safetensors_io.read(tmp_path / "real" / target)[0]["a"].tolist() == [2, 2, 2]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["dangling", "file", "link", "new", "real"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(NotWritten):
        write(tmp_path / "loop")


def test_permissions_of_a_file_are_kept_and_new_files_follow_the_umask(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", None)  # it is that of the whole process, also for a moment
        write(tmp_path / "new")
        for mode in (0o600, 0o664, 0o777):
            (tmp_path / "new").chmod(mode)
            write(tmp_path / "new", 2.0)
            assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode
        write(tmp_path / "other")
        assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o640
    finally:
        monkeypatch.undo()
        os.umask(before)


def test_folders_pipes_and_devices_are_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", None)  # a failing test must not replace the devices of this machine
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for path in (tmp_path / "folder", tmp_path / "pipe", tmp_path / "null", "/dev/null", "/dev/full"):
        kind = None if str(path).startswith("/dev") else os.lstat(path).st_mode
        for act in (write, model().save, lambda path: fit(CSVLogger(path))):
            with pytest.raises(NotWritten, match="it is a (folder|pipe or a device)"):
                act(path)
        with pytest.raises(PadlessError, match="is a folder|it is a pipe"):
            fit(ModelCheckpoint(path))
        assert kind is None or os.lstat(path).st_mode == kind
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("name", ["a" * 250, "ü" * 120, "a\nb", "a\udcff"])
def test_any_name_that_the_system_accepts_can_be_written(name, tmp_path):
    write(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


# ------------------------------------------------------------------------------------------------ CSV files


def rows(path):
    content = path.read_bytes().decode()
    assert "\0" not in content
    return list(csv.reader(io.StringIO(content, newline="")))


def log(path, epochs, append=True, logs=None):
    logger = CSVLogger(path, append=append)
    logger.on_train_begin()
    for epoch in epochs:
        logger.on_epoch_end(epoch, logs or {"loss": 0.5, "val_loss": 1.0})


def test_an_incomplete_last_line_is_removed_before_lines_are_added(tmp_path):
    path = tmp_path / "log.csv"
    log(path, [0, 1])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.warns(UserWarning, match="last line .* is incomplete: b'1,0.5,1'"):
        log(path, [1])
    assert rows(path) == [["epoch", "loss", "val_loss"], ["0", "0.5", "1.0"], ["1", "0.5", "1.0"]]


def test_added_lines_have_the_columns_of_the_first_line(tmp_path):
    path = tmp_path / "log.csv"
    log(path, [0])
    log(path, [1], logs={"acc": 3, "val_loss": 2.0})
    assert rows(path)[1:] == [["0", "0.5", "1.0"], ["1", "NA", "2.0"]]


def test_names_with_separators_quotes_and_line_breaks_are_read_back(tmp_path):
    path, logs = tmp_path / "log.csv", {'a,"b"': 1, "c\nd": 2, "é\udcff": 3, "val_x": 4}
    log(path, [0], logs=logs)
    log(path, [1], logs=logs)
    names, *lines = rows(path)
    assert names == ["epoch", 'a,"b"', "c\nd", "val_x", "é\\udcff"] and lines[0] == ["0", "1", "2", "4", "3"]
    assert lines[1][:4] == ["1", "1", "2", "4"]


@pytest.mark.parametrize("action", ["delete", "empty", "delete the folder"])
def test_a_csv_file_that_is_deleted_in_training_begins_again(action, tmp_path):
    path = tmp_path / "logs" / "log.csv"
    path.parent.mkdir()
    actions = {"delete": path.unlink, "empty": lambda: path.write_bytes(b""), "delete the folder": lambda: remove(path)}

    def remove(path):
        shutil.rmtree(path.parent)

    with pytest.warns(UserWarning, match="deleted"):
        fit(CSVLogger(path), Act(actions[action]))
    assert [row[0] for row in rows(path)] == ["epoch", "1", "2"]


def test_a_full_disk_leaves_whole_lines_of_a_csv_file(tmp_path):
    path, before = tmp_path / "log.csv", resource.getrlimit(resource.RLIMIT_FSIZE)
    log(path, [0])
    whole = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 5, before[1]))
    try:
        with pytest.raises(NotWritten, match=r"File too large; CSVLogger has kept the lines .*log\.csv"):
            log(path, [1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == whole
    log(path, [1])
    assert [row[0] for row in rows(path)] == ["epoch", "0", "1"]
