"""jit_compile=True: layers that treat each step alone run compiled and give the same numbers, or an error says why not."""

import copy
import functools

import numpy as np
import pytest
import torch

import padless
from padless import Input, Model
from padless.callbacks import Callback
from padless.errors import ArgumentError
from padless.layers import GRU, Dense, Embedding, Layer
from padless.layers.base.layer import compiled_calls

pytestmark = pytest.mark.filterwarnings("ignore")  # warnings of torch while it compiles
LISTS = [[1, 2, 3], [4], [2, 2], [3, 1, 4, 2], [], [1]]
TAGS = [[0, 1, 1], [2], [0, 0], [1, 2, 0, 1], [], [0]]
KIND = "sparse_categorical_crossentropy"


class Curve(Layer):
    stepwise = True

    def call(self, inputs):
        return torch.nn.functional.gelu(inputs) * torch.sigmoid(inputs)


def tagger(**compiled):
    torch.manual_seed(0)
    x = Input((None,))
    h = GRU(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))
    model = Model(x, Dense(3, activation="softmax")(Curve(name="curve")(Dense(6, activation="tanh")(h))))
    model.compile(padless.optimizers.SGD(0.5), KIND, metrics=["accuracy"], **compiled)
    return model


def compiler(backend, seen):
    def compile(fn, **kwargs):
        seen.append(kwargs)
        return functools.partial(torch_compile(fn, backend=backend, **kwargs))

    return compile


torch_compile = torch.compile


@pytest.mark.slow
def test_compiled_layers_give_the_same_numbers(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", compiler("eager", seen))
    plain, fast = tagger(), tagger(jit_compile=True)
    args = {"batch_size": 2, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (LISTS, TAGS)}
    expected, found = plain.fit(LISTS, TAGS, **args).history, fast.fit(LISTS, TAGS, **args).history
    assert seen == [{"dynamic": True}] * 3
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-5), name
    for a, b in zip(plain.get_weights(), fast.get_weights(), strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    for a, b in zip(plain.predict(LISTS, verbose=0), fast.predict(LISTS, verbose=0), strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    assert len(seen) == 3  # once for all epochs


@pytest.mark.slow
def test_after_a_run_the_layers_are_not_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", compiler("eager", []))
    inside = []

    class Watch(Callback):
        def on_train_batch_end(self, batch, logs=None):
            inside.append(copy.deepcopy(self.model))

    model = tagger(jit_compile=True)
    model.fit(LISTS, TAGS, verbose=0, callbacks=[Watch()])
    for each in (model, *inside):
        assert not any(id(layer) in compiled_calls.get() for layer in each.layers)
    assert inside[0].predict(LISTS, verbose=0)[0] == pytest.approx(model.predict(LISTS, verbose=0)[0])


def test_a_compiler_error_is_raised_before_a_weight_changes(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", compiler(broken, []))
    model = tagger(jit_compile=True)
    before = model.get_weights()
    with pytest.raises(ArgumentError, match="jit_compile=True.*could not compile layer 'dense.*(?s:.*)jit_compile=False"):
        model.fit(LISTS, TAGS, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert not compiled_calls.get()


def test_nothing_is_compiled_without_jit_compile(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", compiler("eager", seen))
    for given in ({}, {"jit_compile": "auto"}, {"jit_compile": False}, {"jit_compile": True, "run_eagerly": True}):
        tagger(**given).fit(LISTS, TAGS, verbose=0)
    assert seen == []


def test_run_eagerly_turns_jit_compile_off_with_a_warning():
    with pytest.warns(UserWarning, match="run_eagerly"):
        model = tagger(jit_compile=True, run_eagerly=True, steps_per_execution=4)
    assert not model.jit_compile and model.run_eagerly and model.steps_per_execution == 4
