"""Train in processes that kill themselves at a named moment. This script reads jobs, one line of JSON for each.

A job is `{"case", "folder", "out", "kills": [[moment, nth], ...]}`. There is a process for each kill, and a last process
that runs to the end. Each process continues where the previous one was killed. The answer has the exit code of each
process. All are forked from one process that has imported everything.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import padless
from padless import layers
from padless.callbacks import BackupAndRestore, Callback, CSVLogger, EarlyStopping, LearningRateScheduler, ReduceLROnPlateau
from padless.optimizers.optimizers import SGD, Adam
from padless.optimizers.schedules import ExponentialDecay
from padless.saving import safetensors_io as archive
from padless.saving import state_tree as tree

CASES = {
    "every two batches": {"save_freq": 2},
    "every epoch": {"save_freq": "epoch"},
    "by tokens": {"save_freq": 2, "fit": {"batch_tokens": 40}},
    "a loader": {"save_freq": 3, "loader": True},
    "epochs of their own length": {"save_freq": 2, "fit": {"batch_size": 8, "steps_per_epoch": 4}},
    "averages and a schedule": {"save_freq": 2, "averages": True},
    "three batches a step": {"save_freq": 1, "fit": {"batch_size": 4, "gradient_accumulation_steps": 3}},
    "half precision": {"save_freq": 2, "compile": {"autocast": "float16"}},
}


class Moments(Callback):
    """Kill the process at a moment, when it has come for the nth time."""

    def __init__(self, moment=None, nth=0):
        self.moment, self.left = moment, nth

    def reached(self, moment):
        if moment == self.moment:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_begin(self, batch, logs=None):
        self.reached("a batch begins")

    def on_train_batch_end(self, batch, logs=None):
        self.reached("a batch ends")

    def on_test_begin(self, logs=None):
        self.reached("validation begins")

    def on_test_batch_end(self, batch, logs=None):
        self.reached("in validation")

    def on_test_end(self, logs=None):
        self.reached("validation ends")

    def on_epoch_begin(self, epoch, logs=None):
        self.reached("an epoch begins")

    def on_epoch_end(self, epoch, logs=None):
        self.reached("an epoch ends")

    def on_train_end(self, logs=None):
        self.reached("training ends")


def watch_writing(moments):
    """Add the moments while a backup is written."""
    write_bytes, replace, sync, unlink = Path.write_bytes, os.replace, archive._synchronize, Path.unlink

    def halves(path, data):
        write_bytes(path, data[: len(data) // 2])
        moments.reached("half is written")
        return write_bytes(path, data)

    def moved(source, target):
        moments.reached("before it is moved")
        replace(source, target)
        moments.reached("after it is moved")

    def synced(path):
        moments.reached("before it is synced")
        sync(path)

    def deleted(path, missing_ok=False):
        moments.reached("before an old one is deleted")
        unlink(path, missing_ok)

    Path.write_bytes, os.replace, archive._synchronize, Path.unlink = halves, moved, synced, deleted


def data():
    rng = np.random.default_rng(1)
    x = [rng.integers(1, 9, rng.integers(1, 9)).tolist() for _ in range(37)]
    return x, np.array([float(sum(row) % 2) for row in x], dtype="float32")


class Loader:
    """Batches in an order that is drawn from torch's generator while they are read."""

    def __iter__(self):
        x, y = data()
        for _ in range(6):
            rows = torch.randint(len(x), (6,)).tolist()
            yield [x[row] for row in rows], y[rows]

    def __len__(self):
        return 6


def train(case, folder, moments):
    """Train a model; return the model and its history."""
    padless.clear_session()
    torch.manual_seed(3)
    options = CASES[case]
    model = padless.Sequential([
        layers.Input((None,)), layers.Embedding(9, 4, mask_zero=True), layers.Dropout(0.2, seed=5), layers.LSTM(5),
        layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip
    optimizer = Adam(0.01, clipnorm=1.0)
    if options.get("averages"):
        optimizer = SGD(ExponentialDecay(0.1, 5, 0.8), momentum=0.9, use_ema=True, ema_overwrite_frequency=7)
    model.compile(
        optimizer,
        "binary_crossentropy",
        metrics=["accuracy", padless.metrics.F1Score(threshold=0.5)],
        **options.get("compile", {}),
    )
    x, y = data()
    callbacks = [
        BackupAndRestore(folder / "backup", options["save_freq"]),
        CSVLogger(folder / "log.csv"),
        EarlyStopping("loss", patience=4, restore_best_weights=True),
        moments,
    ]
    if not options.get("averages"):
        callbacks += [
            ReduceLROnPlateau("val_loss", patience=1, factor=0.5),
            LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
        ]
    fit = options.get("fit", {"batch_size": 8})
    if options.get("loader"):
        x, y, fit = Loader(), None, {}
    history = model.fit(x, y, epochs=4, validation_data=data(), verbose=0, callbacks=callbacks, **fit)
    return model, history


def one(job, kill):
    """Train, and write the weights and the results; runs in a separate process."""
    moments = Moments(*kill)
    watch_writing(moments)
    folder = Path(job["folder"])
    model, history = train(job["case"], folder, moments)
    plain, arrays = tree.split_arrays(
        {
            "weights": list(model.state_dict().values()),
            "history": history.history,
            "epoch": history.epoch,
            "log": (folder / "log.csv").read_text(),
        }
    )
    archive.write(job["out"], arrays, plain)


def run(job):
    """Return the exit code of each process: 0, or the negative number of the signal."""
    ends = []
    for kill in [*job["kills"], [None, 0]]:
        child = os.fork()
        if not child:
            code = 1
            try:
                one(job, kill)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        ends.append(os.waitstatus_to_exitcode(status))
    return ends


if __name__ == "__main__":
    torch.set_num_threads(1)
    with TemporaryDirectory() as once:  # so that torch initializes before the processes are forked
        train("every two batches", Path(once), Moments())
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
