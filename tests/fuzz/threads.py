"""Threads that build, call, train, evaluate, copy and predict with models that share layers.

A call has the bits of the same call alone, or raises `ConcurrentUse`. Each call of a layer runs in the mode that it was
given. Afterwards no run and no mode is left over. A deadlock ends in a `TimeoutError` with the stacks of all threads.
"""

import copy
import pickle
import random
import threading

import numpy as np
import torch
from concurrency import run_in_threads
from torch import nn

import padless
from padless import layers as L
from padless.errors import ConcurrentUse
from padless.graph import model_runs, train_mode
from padless.graph.symbolic import in_shape_inference

LABELS = np.array([0, 1, 1, 0])


class ModeCheck(L.Layer):
    """Check in each call that the mode of the layer and of its torch module is that of the call."""

    expected = threading.local()

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.module = nn.Sequential(nn.Dropout(0.0), nn.ReLU())

    def call(self, inputs, training=False):
        if in_shape_inference():
            return inputs
        expected = getattr(self.expected, "training", training)
        for module in self.module.modules():
            if (training, module.training) != (expected, expected):
                raise AssertionError(f"the call has training={training}, {module} {module.training}, not {expected}")
        return inputs


def run_case(seed: int) -> str:
    """Run random methods of two models with a shared part in threads; return which kinds of ends there were."""
    rng = random.Random(seed)
    padless.utils.set_random_seed(seed)
    numbers = np.random.default_rng(seed)
    ids = numbers.integers(0, 9, (4, 6)) * (numbers.random((4, 6)) < 0.7)
    models = make_models(rng)
    trains = rng.random() < 0.5
    if not trains and rng.random() < 0.5:  # else the first calls of the threads build the models
        for model in models:
            model.predict(ids, verbose=0)
    twins = [pickle.loads(pickle.dumps(model)) for model in models] if all(is_built(model) for model in models) else None
    names = ["predict", "predict_on_batch", "call", "call", "evaluate", "test_on_batch"]
    names += ["copy"] * (twins is not None)  # copies of a model that is not built have other weights
    names += ["fit", "train_on_batch", "call in training"] * trains
    plans = [
        [(rng.choice(names), rng.randrange(len(models))) for _ in range(rng.randint(1, 6))] for _ in range(rng.randint(2, 8))
    ]
    done: list[tuple[str, int, object]] = []
    refused = [0]

    def work(plan):
        for name, number in plan:
            ModeCheck.expected.training = name in ("fit", "train_on_batch", "call in training")
            try:
                done.append((name, number, run(name, models[number], ids)))
            except ConcurrentUse:
                refused[0] += 1

    for result in run_in_threads([lambda plan=plan: work(plan) for plan in plans], seconds=25):
        if isinstance(result, BaseException):
            raise result
    if train_mode._holds or model_runs._runs or model_runs.training_runs or model_runs._exclusive_calls:
        raise AssertionError("a run or a mode is left over")
    if any(m.training for model in models for m in model.modules() if isinstance(m, L.Layer)):
        raise AssertionError("a layer is left in training mode")
    if refused[0] and not trains:
        raise AssertionError("a call was refused although nothing trains")
    if not trains:
        ModeCheck.expected.training = False
        expected = {(name, number): run(name, (twins or models)[number], ids) for name, number, _ in done}
        for name, number, result in done:
            if not np.array_equal(np.asarray(result), np.asarray(expected[name, number]), equal_nan=True):
                raise AssertionError(f"{name} of model {number} has other bits than alone")
    return ("training, " if trains else "inference, ") + ("some refused" if refused[0] else "all ran")


def run(name, model, ids):
    if name == "fit":
        return model.fit(ids, LABELS, batch_size=2, verbose=0).history["loss"]
    if name in ("train_on_batch", "test_on_batch"):
        return getattr(model, name)(ids, LABELS)
    if name == "evaluate":
        return model.evaluate(ids, LABELS, batch_size=2, verbose=0)
    if name == "copy":
        return copy.deepcopy(model).predict(ids, verbose=0)
    if name.startswith("call"):
        return model(torch.from_numpy(ids), training=name == "call in training").detach().numpy()
    return getattr(model, name)(ids, **({"verbose": 0, "batch_size": 2} if name == "predict" else {}))


def make_models(rng):
    """Return two compiled models that share layers; a `Sequential` is not built yet."""
    shared = [L.Embedding(9, 4, mask_zero=True, name="shared"), ModeCheck()]
    makers = [
        lambda: L.Dense(4, activation="tanh", activity_regularizer=rng.choice([None, "l2"])),
        lambda: L.LSTM(4, return_sequences=True),
        lambda: L.Bidirectional(L.GRU(2, return_sequences=True)),
        lambda: L.Conv1D(4, 2, padding="same"),
        lambda: L.BatchNormalization(),
        lambda: L.TorchModuleWrapper(nn.Sequential(nn.LayerNorm(4), nn.Dropout(0.1)), relation="stepwise"),
        lambda: L.Dropout(0.2),
    ]
    models = []
    for _ in range(2):
        layers = [*shared, *(rng.choice(makers)() for _ in range(rng.randint(0, 3)))]
        end = [rng.choice([L.GlobalAveragePooling1D, L.GlobalMaxPooling1D, L.LastStep])(), L.Dense(2)]
        if rng.random() < 0.4:
            model = padless.Sequential([*layers, *end])
        else:
            x = h = L.Input((None,))
            for layer in (*layers, *end):
                h = layer(h)
            model = padless.Model(x, h)
        loss = padless.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=rng.choice([[], ["accuracy"]]))
        models.append(model)
    return models


def is_built(model):
    return all(layer.built for layer in model.modules() if isinstance(layer, L.Layer))
