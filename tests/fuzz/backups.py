"""Continue runs of `fit` from damaged and forged backups.

A case changes a few values, arrays, keys or bytes of a valid backup; the checksum is correct unless bytes were changed. It
ends in an error of padless before anything has changed, or in a training that runs to its end.
"""

import copy
import functools
import math
import random
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch

import padless
from padless.callbacks import BackupAndRestore, Callback, CSVLogger, EarlyStopping, ReduceLROnPlateau
from padless.errors import PadlessError
from padless.layers import GRU, LSTM, Dense, Dropout, Embedding, Input
from padless.optimizers import SGD, Adam, RMSprop
from padless.optimizers.schedules import ExponentialDecay
from padless.saving import safetensors_io, state_tree

FOLDER = tempfile.TemporaryDirectory(prefix="padless-fuzz-")
X = [[1, 2], [3], [4, 4, 1], [2, 2], [1], [3, 1, 2]]
Y = np.array([0, 1, 1, 0, 1, 0], dtype="float32")
NUMBERS = (0, 1, -1, 2, 3, 624, 625, -(2**31), 2**31, 2**40, 2**53 + 1, 2**62, 2**63, -(2**64), 10**30)
FLOATS = (0.5, -1.0, 1e308, -1e308, math.nan, math.inf, -math.inf, 1e-320)
DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)
RUNS = {  # optimizer, layer, compile, fit, save_freq
    "in an epoch": (lambda: Adam(0.01, clipnorm=1.0), lambda: LSTM(2), {}, {"batch_size": 2}, 1),
    "after an epoch": (lambda: RMSprop(0.01), lambda: GRU(2), {}, {"batch_size": 2}, "epoch"),
    "averages and a schedule": (
        lambda: SGD(ExponentialDecay(0.1, 5, 0.8), momentum=0.9, use_ema=True),
        lambda: LSTM(2),
        {},
        {"batch_size": 2, "steps_per_epoch": 2},
        1,
    ),
    "half precision": (lambda: Adam(0.01), lambda: GRU(2), {"autocast": "float16"}, {"batch_tokens": 4}, 1),
    "a stateful layer": (
        lambda: torch.optim.SGD,
        lambda: LSTM(2, stateful=True),
        {},
        {"batch_size": 2, "shuffle": False},
        1,
    ),
}


class Cut(Callback):
    """Interrupt `fit` after the second batch, or the end, of epoch 1."""

    epoch = 0

    def __init__(self, save_freq):
        self.save_freq = save_freq

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 1) and self.save_freq == 1:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def make_model(name):
    """Return the model of a run."""
    make_optimizer, make_layer, options, _, _ = RUNS[name]
    padless.clear_session()
    torch.manual_seed(0)
    model = padless.Sequential(
        [Input((None,)), Embedding(5, 3, mask_zero=True), Dropout(0.2, seed=3), make_layer(), Dense(1)]
    )
    optimizer = make_optimizer()
    if optimizer is torch.optim.SGD:
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.compile(optimizer, "mse", metrics=["mae", padless.metrics.AUC(num_thresholds=3)], **options)
    return model


def train(model, name, folder, *callbacks):
    """Run `fit`, which continues from a backup in the folder."""
    *_, options, save_freq = RUNS[name]
    callbacks = [
        *(BackupAndRestore(folder, save_freq), CSVLogger(folder.parent / "log.csv"), EarlyStopping("loss", patience=9)),
        *(() if name == "averages and a schedule" else (ReduceLROnPlateau("loss"),)),
        *callbacks,
    ]
    return model.fit(X, Y, epochs=3, verbose=0, callbacks=callbacks, **options)


@functools.cache
def valid_backup(name):
    """Return the bytes of the newest backup of an interrupted run, and the bytes of its CSV file."""
    folder = Path(tempfile.mkdtemp(dir=FOLDER.name)) / "backup"
    try:
        train(make_model(name), name, folder, Cut(RUNS[name][-1]))
    except KeyboardInterrupt:
        return sorted(folder.glob("*.safetensors"))[-1].read_bytes()
    raise AssertionError("The run was not interrupted.")


def snapshot(model):
    """Return copies of what a refused backup must not change, without Python's random numbers, which tests use."""
    numpy_state = np.random.get_state()
    generators = [value for m in model.modules() for value in vars(m).values() if isinstance(value, torch.Generator)]
    return [
        *(value.clone() for value in model.state_dict().values()),
        copy.deepcopy(model.optimizer.state_dict()),
        *(generator.get_state() for generator in generators),
        *(torch.get_rng_state(), numpy_state[1].copy(), numpy_state[2]),
        [m.states for m in model.modules() if isinstance(m, LSTM | GRU)],
    ]


def equal(one, other):
    """Return whether nested values are equal to the last bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return np.array_equal(one, other) if isinstance(one, torch.Tensor | np.ndarray) else one == other


# ------------------------------------------------------------------------------------------------ changes


def places(tree):
    """Return the container and the key of each value of a tree. A tuple is changed as a whole."""
    found = []
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            found.append((tree, key))
            found += places(tree[key])
    return found


def attack_value(rng, old, others):
    """Return a value in place of an old one: a similar one, a value of another place, or one of another type."""
    match rng.randrange(8):
        case 0 if isinstance(old, torch.Tensor | np.ndarray):
            return attack_array(rng, old)
        case 1 if isinstance(old, int | float):
            return old + rng.choice((1, -1, 0.5))
        case 2 if isinstance(old, tuple):
            changed = list(old)
            if changed:
                position = rng.randrange(len(changed))
                changed[position] = attack_value(rng, changed[position], others)
            return tuple(changed)
        case 3:
            container, key = rng.choice(others)
            return copy.deepcopy(container[key])
        case 4:
            return rng.choice(NUMBERS)
        case 5:
            return rng.choice(FLOATS)
        case 6:
            return rng.choice((None, True, False, "", "adam", [], {}, (), [1.0], {"a": 1}, torch.zeros(2), np.zeros(3)))
        case _:
            return attack_array(rng, old) if isinstance(old, torch.Tensor | np.ndarray) else -1


def attack_array(rng, old):
    """Return an array like another one, with another dtype, shape or content."""
    tensor = torch.as_tensor(old).clone()
    match rng.randrange(5):
        case 0:
            allowed = [dtype for dtype in DTYPES if isinstance(old, torch.Tensor) or dtype.itemsize != 2]
            tensor = tensor.to(rng.choice(allowed))
        case 1:
            tensor = tensor[..., :-1] if tensor.ndim else tensor.reshape(1)
        case 2:
            tensor = tensor.reshape(-1)
        case 3 if tensor.numel():
            tensor.reshape(-1)[rng.randrange(tensor.numel())] = rng.choice((0, 1, 127))
        case _:
            tensor = torch.zeros_like(tensor)
    return tensor.numpy() if isinstance(old, np.ndarray) and tensor.dtype != torch.bfloat16 else tensor


def forge(rng, content):
    """Change one to three places of the content of a backup."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        everywhere = places(content)
        container, key = rng.choice(everywhere)
        match rng.randrange(8):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[rng.choice(("a", 0, -1, 99, None))] = container.pop(key)
            case 2 if isinstance(container, list):
                container.insert(key, copy.deepcopy(container[key]))
            case _:
                container[key] = attack_value(rng, container[key], everywhere)


def forge_text(rng, values):
    """Change a place of the JSON values, where arrays are references."""
    container, key = rng.choice(places(values))
    container[key] = rng.choice((
        {"~": "tensor", "of": "run/random/torch"}, {"~": "dict", "of": [[[1], 2]]}, {"~": "dict", "of": [1]}, {"~": "tuple"},
        {"~": [], "of": {}}, {"~": "dict", "of": [[1, 2], [1, 3]]}, {"~": "array", "of": "nothing"}, {"~": "float"},
    ))  # fmt: skip


def write_forged(rng, valid, path):
    """Write a changed backup; return how it was changed."""
    if rng.random() < 0.15:
        forged = bytearray(valid)
        for _ in range(rng.choice((1, 1, 4))):
            forged[rng.randrange(len(forged))] = rng.randrange(256)
        path.write_bytes(forged[: rng.choice((None, None, rng.randrange(len(forged))))])
        return "bytes"
    path.write_bytes(valid)
    arrays, values = safetensors_io.read(path)
    if rng.random() < 0.1:
        forge_text(rng, values)
        safetensors_io.write(path, {name: array.clone() for name, array in arrays.items()}, values)
        return "text"
    content = state_tree.join_arrays(values, {name: array.clone() for name, array in arrays.items()})
    forge(rng, content)
    values, arrays = state_tree.split_arrays(content)
    safetensors_io.write(path, arrays, values)
    return "values"


def run_case(seed):
    """Continue from a backup that is changed by the seed; return how it was changed and whether it was refused."""
    rng = random.Random(seed)
    name = rng.choice(list(RUNS))
    valid = valid_backup(name)
    folder = Path(tempfile.mkdtemp(dir=FOLDER.name)) / "backup"
    folder.mkdir()
    changed = write_forged(rng, valid, folder / "backup-0000000000.safetensors")
    model = make_model(name)
    model._build_optimizer()
    before = snapshot(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(model, name, folder)
    except PadlessError:
        assert equal(before, snapshot(model)), "The backup was refused after something had changed."
        return f"{changed}, refused"
    finally:
        shutil.rmtree(folder.parent)
    return f"{changed}, continued"
