"""One model in several threads: the same bits as one call after the other, or `ConcurrentUse`."""

import asyncio
import contextvars
import copy
import multiprocessing
import os
import pickle
import threading
import time

import numpy as np
import pytest
import torch
from concurrency import run_in_threads
from torch import nn

import padless
from padless import layers as L
from padless.callbacks import Callback
from padless.errors import ConcurrentUse
from padless.graph import train_mode
from padless.graph.model_runs import training_runs
from padless.layers.base.layer import compiled_calls
from padless.layers.base.weights import structure_lock
from padless.ragged.index import Index

pytestmark = pytest.mark.slow

THREADS = 8
IDS = np.array([[3, 1, 4, 0, 0], [1, 5, 0, 2, 0], [0, 0, 0, 0, 0], [2, 6, 5, 3, 5]])
LABELS = np.array([0, 1, 1, 0])


def embedded():
    inputs = L.Input((None,))
    return inputs, L.Embedding(9, 4, mask_zero=True)(inputs)


def recurrent():
    x, h = embedded()
    h = L.Bidirectional(L.LSTM(3, return_sequences=True))(h)
    return padless.Model(x, L.Dense(2)(L.GRU(3)(L.Dropout(0.5)(h))))


def with_shared_layers():
    x, h = embedded()
    shared = L.Dense(4, activation="tanh", activity_regularizer="l2")
    return padless.Model(x, L.Dense(2)(L.GlobalMaxPooling1D()(shared(L.BatchNormalization()(shared(h)) + h))))


def nested():
    x, h = embedded()
    inner_in = L.Input((None, 4))
    inner = padless.Model(inner_in, L.MultiHeadAttention(2, 2)(inner_in, inner_in))
    return padless.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(inner(inner(h)))))


def sequential():
    return padless.Sequential([L.Embedding(9, 4, mask_zero=True), L.Conv1D(3, 2), L.GRU(3), L.Dense(2)])


class Blocks(padless.Model):
    """Layers in a list that is filled after it became an attribute, and torch modules."""

    def __init__(self):
        super().__init__()
        self.embedding = L.Embedding(9, 4, mask_zero=True)
        self.blocks = []
        for _ in range(3):
            self.blocks.append(L.Dense(4, activation="relu"))
        self.normalize = L.TorchModuleWrapper(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)), relation="stepwise")
        self.pool = L.GlobalAveragePooling1D()
        self.head = L.Dense(2)

    def call(self, inputs):
        h = self.embedding(inputs)
        for block in self.blocks:
            h = block(h) + h
        return self.head(self.pool(self.normalize(h)))


class Scaled(padless.Model):
    """Weights of the model itself, a torch module as an attribute, and a loss that a call adds."""

    def __init__(self):
        super().__init__()
        self.embedding = L.Embedding(9, 4, mask_zero=True)
        self.noise = nn.Dropout(0.5)
        self.pool = L.LastStep()
        self.head = L.Dense(2)

    def call(self, inputs):
        h = self.noise(self.embedding(inputs))
        self.add_loss(h.values.square().sum())
        return self.head(self.pool(h))


MODELS = {f.__name__: f for f in (recurrent, with_shared_layers, nested, sequential, Blocks, Scaled)}


@pytest.fixture(params=MODELS)
def model(request):
    padless.utils.set_random_seed(3)
    model = MODELS[request.param]()
    model.compile("adam", padless.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def raise_errors(results):
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def same_bits(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


def test_eight_threads_get_the_bits_of_one(model):
    x = torch.from_numpy(IDS)
    calls = [
        lambda: model.predict(IDS, batch_size=2, verbose=0),
        lambda: model.predict_on_batch(IDS),
        lambda: model(x).detach().numpy(),
        lambda: model.evaluate(IDS, LABELS, batch_size=2, verbose=0),
        lambda: model.test_on_batch(IDS, LABELS),
    ]
    expected = [call() for call in calls]

    def rounds(first):
        for number in range(first, first + 3):
            assert same_bits(calls[number % len(calls)](), expected[number % len(calls)])

    raise_errors(run_in_threads([lambda first=n: rounds(first) for n in range(THREADS)]))
    assert not model.training and not any(m.training for m in model.modules() if isinstance(m, L.Layer))


@pytest.mark.parametrize("kind", MODELS)
def test_eight_threads_that_make_the_first_call_build_a_model_once(kind):
    for number in range(2):
        model = MODELS[kind]()
        calls = [lambda m=model: m(torch.from_numpy(IDS)).detach().numpy(), lambda m=model: m.predict(IDS, verbose=0)]
        found = raise_errors(run_in_threads([calls[(n + number) % 2] for n in range(THREADS)]))
        expected = model.predict(IDS, verbose=0)
        assert all(same_bits(result, expected) for result in found)
        fresh = MODELS[kind]()
        fresh.predict(IDS, verbose=0)
        assert [tuple(w.shape) for w in model.weights] == [tuple(w.shape) for w in fresh.weights]


def test_a_layer_whose_build_is_slow_is_not_called_before_it_ends():
    class Slow(L.Layer):
        def build(self, shape):
            super().build(shape)  # sets `built`, as many layers for Keras do
            time.sleep(0.1)
            self.scale = self.add_weight((shape[-1],), "ones", name="scale")

        def call(self, inputs):
            return inputs * self.scale

    layer, x = Slow(), torch.ones(2, 3)
    found = raise_errors(run_in_threads([lambda: layer(x)] * THREADS))
    assert all(torch.equal(result, x) for result in found) and len(layer.weights) == 1


# ------------------------------------------------------------------------------------------------ modes


class ModeRecorder(L.Layer):
    """Record for each thread in which modes it was called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.module = nn.Dropout(0.5)
        self.modes = {}

    def call(self, inputs, training=False):
        before = (training, self.module.training)
        time.sleep(1e-5)
        seen = self.modes.setdefault(threading.current_thread().name, set())
        seen.update({before, (training, self.module.training), self.training} - {False if training else None})
        return inputs


def test_threads_that_call_one_layer_in_different_modes_each_have_their_mode():
    layer = ModeRecorder()
    x = torch.ones(2, 3)

    def call(training):
        for _ in range(30):
            layer(x, training=training)

    raise_errors(run_in_threads([lambda training=n % 2 == 0: call(training) for n in range(THREADS)]))
    for number in range(THREADS):
        training = number % 2 == 0
        assert {mode for mode in layer.modes[f"worker {number}"] if isinstance(mode, tuple)} == {(training, training)}
    assert layer.module.training and not layer.training  # as before


def test_predict_in_a_thread_does_not_change_the_mode_of_a_call_in_another():
    model = padless.Sequential([L.Input((3,)), ModeRecorder(), L.Dense(1)])
    model.train()

    def call():
        for _ in range(30):
            model(torch.ones(2, 3))

    def predict():
        for _ in range(10):
            model.predict(np.ones((2, 3)), verbose=0)

    raise_errors(run_in_threads([call, predict] * 4))
    modes = model.layers[0].modes
    for number in range(THREADS):
        found = {mode for mode in modes[f"worker {number}"] if isinstance(mode, tuple)}
        assert found == {(number % 2 == 0,) * 2}
    assert model.training and model.layers[0].module.training


def test_a_module_that_is_called_in_both_modes_by_nested_calls_of_two_threads_is_refused_or_runs():
    module = nn.Dropout(0.5)

    def nest(outer, inner):
        with train_mode.training_mode(outer, module):
            time.sleep(0.001)
            with train_mode.training_mode(inner, module):
                time.sleep(0.001)
                assert module.training is inner
            assert module.training is outer

    for _ in range(8):
        results = run_in_threads([lambda: nest(True, False), lambda: nest(False, True)], seconds=20)
        assert all(result is None or isinstance(result, ConcurrentUse) for result in results)
        assert module.training and not train_mode._holds


def test_modes_are_restored_in_any_order_of_ends():
    a, b = nn.Dropout(), nn.Dropout()
    both = nn.Sequential(a, b)
    started, finish = threading.Event(), threading.Event()

    def first():
        with train_mode.training_mode(False, both):
            started.set()
            finish.wait(10)

    def second():
        started.wait(10)
        with train_mode.training_mode(False, a):
            finish.set()
            time.sleep(0.05)
            assert not a.training and b.training  # the other thread has ended, this one has not

    raise_errors(run_in_threads([first, second]))
    assert a.training and b.training and both.training


# ------------------------------------------------------------------------------------------------ what excludes what


class Pause(Callback):
    """Wait in the middle of a run, so that another thread can begin one."""

    def __init__(self):
        super().__init__()
        self.running, self.resume = threading.Event(), threading.Event()

    def wait(self, *_):
        self.running.set()
        assert self.resume.wait(30)

    def on_train_batch_end(self, batch, logs=None):
        self.wait()

    on_predict_batch_end = on_test_batch_end = on_train_batch_end


def runs_of(model):
    return {
        "fit": lambda **kw: model.fit(IDS, LABELS, verbose=0, **kw),
        "train_on_batch": lambda: model.train_on_batch(IDS, LABELS),
        "evaluate": lambda **kw: model.evaluate(IDS, LABELS, verbose=0, **kw),
        "test_on_batch": lambda: model.test_on_batch(IDS, LABELS),
        "predict": lambda **kw: model.predict(IDS, verbose=0, **kw),
        "predict_on_batch": lambda: model.predict_on_batch(IDS),
        "A call": lambda: model(torch.from_numpy(IDS)),
        "A copy": lambda: copy.deepcopy(model),
        "the weights": lambda: model.save_weights(os.devnull),
    }


RUNS = ("fit", "train_on_batch", "evaluate", "test_on_batch", "predict_on_batch", "A call", "A copy", "the weights")


def compiled(model):
    model.compile("adam", padless.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def while_running(method, pause, attempt):
    """Return what `attempt` gives while a method runs in another thread, and what the method gives."""

    def late():
        assert pause.running.wait(30)
        try:
            return attempt()
        finally:
            pause.resume.set()

    method_result, result = run_in_threads([lambda: method(callbacks=[pause]), late])
    raise_errors([method_result])
    return result


@pytest.mark.parametrize("other", RUNS)
def test_a_model_that_another_thread_fits_is_refused_and_both_are_named(other):
    model = compiled(recurrent())
    error = while_running(runs_of(model)["fit"], Pause(), runs_of(model)[other])
    assert isinstance(error, ConcurrentUse)
    for part in (other, "worker 1", "`fit` of model", "worker 0", "copy.deepcopy"):
        assert part in str(error), part
    if other != "the weights":
        runs_of(model)[other]()  # afterwards it works
    assert not training_runs


class SlowToCopy:
    """An attribute of a layer whose copy takes long; it notes whether a model trained meanwhile."""

    def __init__(self):
        self.begun, self.fit_begins, self.trained = threading.Event(), threading.Event(), []

    def __deepcopy__(self, memo):
        self.begun.set()
        assert self.fit_begins.wait(30)
        for _ in range(100):
            time.sleep(0.003)
            self.trained.append(bool(training_runs))
        return None


def test_fit_waits_until_a_copy_in_another_thread_is_complete():
    model = compiled(recurrent())
    model.layers[-1].attribute = slow = SlowToCopy()

    def fit():
        assert slow.begun.wait(30)
        slow.fit_begins.set()
        return model.fit(IDS, LABELS, verbose=0)

    before = model.get_weights()
    copied, history = run_in_threads([lambda: copy.deepcopy(model), fit])
    raise_errors([copied, history])
    assert slow.trained and not any(slow.trained)
    assert all(map(np.array_equal, copied.get_weights(), before))


@pytest.mark.parametrize("running", ["predict", "evaluate"])
def test_fit_is_refused_while_another_thread_predicts_or_evaluates(running):
    model = compiled(recurrent())
    before = model.get_weights()
    error = while_running(runs_of(model)[running], Pause(), runs_of(model)["fit"])
    assert isinstance(error, ConcurrentUse) and f"`fit` of model {model.name!r}" in str(error) and running in str(error)
    assert all(same_bits(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_fit_excludes_models_with_a_shared_layer_and_no_others():
    x, h = embedded()
    model = compiled(padless.Model(x, L.Dense(2)(L.GRU(3)(h))))
    encoder, stranger = padless.Model(x, h), recurrent()
    stranger.predict(IDS, verbose=0)
    copied = copy.deepcopy(encoder)
    fit = runs_of(model)["fit"]
    assert isinstance(while_running(fit, Pause(), lambda: encoder.predict(IDS, verbose=0)), ConcurrentUse)
    error = while_running(fit, Pause(), lambda: encoder(torch.from_numpy(IDS)))
    assert isinstance(error, ConcurrentUse) and repr(model.layers[1].name) in str(error)  # the shared layer
    assert isinstance(while_running(fit, Pause(), lambda: model.layers[1](torch.from_numpy(IDS))), ConcurrentUse)
    assert isinstance(while_running(fit, Pause(), lambda: stranger.predict(IDS, verbose=0)), np.ndarray)
    assert isinstance(while_running(fit, Pause(), lambda: copied.predict(IDS, verbose=0)), np.ndarray)


def test_a_second_evaluate_waits_for_the_first():
    model = compiled(recurrent())
    expected, pause, finished = model.evaluate(IDS, LABELS, verbose=0), Pause(), []

    def second():
        pause.running.wait(30)
        threading.Timer(0.05, lambda: (finished.append("first"), pause.resume.set())).start()
        result = model.evaluate(IDS, LABELS, verbose=0)
        finished.append("second")
        return result

    found = raise_errors(run_in_threads([lambda: model.evaluate(IDS, LABELS, verbose=0, callbacks=[pause]), second]))
    assert found == [expected] * 2 and finished == ["first", "second"]


def test_nested_runs_of_two_threads_do_not_wait_for_each_other():
    a, b = compiled(recurrent()), compiled(with_shared_layers())
    expected = a.evaluate(IDS, LABELS, verbose=0)

    class Nested(Callback):
        def __init__(self, model):
            super().__init__()
            self.inner = model

        def on_test_begin(self, logs=None):
            time.sleep(0.01)
            self.inner.evaluate(IDS, LABELS, verbose=0)

    results = run_in_threads(
        [
            lambda: a.evaluate(IDS, LABELS, verbose=0, callbacks=[Nested(b)]),
            lambda: b.evaluate(IDS, LABELS, verbose=0, callbacks=[Nested(a)]),
        ],
        seconds=30,
    )
    assert any(not isinstance(result, Exception) for result in results) or all(
        isinstance(result, ConcurrentUse) for result in results
    )
    assert a.evaluate(IDS, LABELS, verbose=0) == expected


def test_runs_inside_fit_of_the_same_thread_are_allowed():
    model = compiled(recurrent())

    class Inside(Callback):
        def on_epoch_end(self, epoch, logs=None):
            modes.append(self.model.layers[-2].training)
            self.model.predict(IDS, verbose=0)
            self.model(torch.from_numpy(IDS))
            copy.deepcopy(self.model)
            modes.append(self.model.layers[-2].training)

    modes = []
    model.fit(IDS, LABELS, verbose=0, callbacks=[Inside()])
    assert modes[0] == modes[1]


def test_a_thread_in_the_context_of_fit_belongs_to_it():
    model, found = compiled(recurrent()), []

    class InThread(Callback):
        def on_epoch_end(self, epoch, logs=None):
            context = contextvars.copy_context()
            found.extend(run_in_threads([lambda: context.run(self.model.predict, IDS, verbose=0)]))

    model.fit(IDS, LABELS, verbose=0, callbacks=[InThread()])
    assert same_bits(raise_errors(found)[0], model.predict(IDS, verbose=0))


def test_stateful_layers_are_refused_to_a_second_thread():
    model = padless.Sequential([L.Input((None, 3), batch_size=2), L.LSTM(4, stateful=True), L.Dense(1)])
    x = np.ones((2, 5, 3), dtype="float32")
    pause = Pause()
    error = while_running(
        lambda callbacks: model.predict(x, batch_size=2, verbose=0, callbacks=callbacks),
        pause,
        lambda: model.predict(x, batch_size=2, verbose=0),
    )
    assert isinstance(error, ConcurrentUse)

    class SlowCell(L.SimpleRNNCell):
        def call(self, inputs, states, training=False):
            time.sleep(0.005)
            return super().call(inputs, states)

    layer = L.RNN(SlowCell(2), stateful=True)
    layer(torch.ones(2, 3, 3))
    results = run_in_threads([lambda: layer(torch.ones(2, 3, 3))] * 2)
    errors = [result for result in results if isinstance(result, Exception)]
    assert len(errors) == 1 and isinstance(errors[0], ConcurrentUse) and layer.name in str(errors[0])
    layer(torch.ones(2, 3, 3))


# ------------------------------------------------------------------------------------------------ facts of the last call


def test_losses_and_real_steps_are_those_of_the_last_call_in_the_thread():
    model = with_shared_layers()
    batches = [torch.from_numpy(IDS[: n % 4 + 1]) for n in range(THREADS)]
    expected = []
    for batch in batches:
        model(batch)
        expected.append(([loss.item() for loss in model.losses], model.real_steps))

    def call(number):
        for _ in range(10):
            model(batches[number])
            time.sleep(1e-4)
            assert ([loss.item() for loss in model.losses], model.real_steps) == expected[number]

    raise_errors(run_in_threads([lambda number=n: call(number) for n in range(THREADS)]))


def test_compiled_calls_belong_to_the_run(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: function)
    model = recurrent()
    model.compile("adam", padless.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=True)
    expected = model.predict(IDS, verbose=0)
    seen = []

    class Look(Callback):
        def on_predict_batch_end(self, batch, logs=None):
            seen.append(len(compiled_calls.get()))

    def rounds():
        for _ in range(2):
            assert same_bits(model.predict(IDS, batch_size=2, verbose=0, callbacks=[Look()]), expected)

    raise_errors(run_in_threads([rounds] * THREADS))
    assert set(seen) == {1}


DERIVED = ("lengths", "mask", "cell_source", "gap_of_cell", "step_before_gap", "row_of_gap")


def test_an_index_that_threads_share_is_computed_with_the_same_result():
    for _ in range(10):
        index = Index.from_mask(IDS > 0)
        found = raise_errors(run_in_threads([lambda index=index: [getattr(index, name) for name in DERIVED]] * THREADS))
        assert all(a is b for result in found for a, b in zip(result, found[0], strict=True))


def test_autocast_and_gradients_of_a_thread_are_not_those_of_another():
    model = recurrent()
    expected = model.predict(IDS, verbose=0)

    def under_autocast():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for _ in range(5):
                assert torch.is_grad_enabled()
                model.predict(IDS, verbose=0)

    def plain():
        for _ in range(5):
            assert same_bits(model.predict(IDS, verbose=0), expected) and model(torch.from_numpy(IDS)).requires_grad

    raise_errors(run_in_threads([under_autocast, plain] * 4))


# ------------------------------------------------------------------------------------------------ asyncio, processes


def test_tasks_of_asyncio_share_a_model():
    model = compiled(with_shared_layers())
    expected = model.predict(IDS, verbose=0)

    async def main():
        return await asyncio.gather(*(asyncio.to_thread(model.predict, IDS, verbose=0) for _ in range(THREADS)))

    assert all(same_bits(result, expected) for result in asyncio.run(main()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_that_forks_while_other_threads_hold_locks_does_not_hang():
    model, index = compiled(Blocks()), Index.from_mask(IDS > 0)
    expected = model.predict(IDS, verbose=0)
    held, release = threading.Event(), threading.Event()

    class Slow(Index):
        @padless._threads.cached_property
        def lengths(self):
            held.set()
            release.wait(30)
            return np.diff(self.offsets)

    def hold_locks():
        with structure_lock, train_mode._condition, padless.graph.node._names._lock, padless.graph.torch_modules._lock:
            return Slow(IDS > 0).lengths

    def fit():
        pause.resume = release
        return model.fit(IDS, LABELS, verbose=0, callbacks=[pause])

    pause = Pause()
    threads = [threading.Thread(target=target, daemon=True) for target in (fit, hold_locks)]
    threads[0].start()
    assert pause.running.wait(30)
    threads[1].start()
    assert held.wait(30)
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)
            ok = Blocks().predict(IDS, verbose=0).shape == expected.shape and bool(len(index.lengths))
            ok = ok and model.predict(IDS, verbose=0).shape == expected.shape and Slow.mask.name == "mask"
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    release.set()
    for thread in threads:
        thread.join(30)
    for _ in range(600):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the forked process waits for a lock of a thread that it does not have")
    assert os.waitstatus_to_exitcode(status) == 0


def _predict_in_another_process(data, connection):
    model = pickle.loads(data)
    connection.send(model.predict(IDS, verbose=0))


@pytest.mark.slow
def test_a_model_goes_to_a_process_that_is_spawned():
    model = compiled(with_shared_layers())
    expected = model.predict(IDS, verbose=0)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_predict_in_another_process, args=(pickle.dumps(model), there))
    process.start()
    assert here.poll(120) and same_bits(here.recv(), expected)
    process.join(30)
    assert process.exitcode == 0


def test_a_model_is_copied_and_pickled_while_threads_predict_with_it():
    model = compiled(Blocks())
    expected = model.predict(IDS, verbose=0)

    def predict():
        for _ in range(5):
            assert same_bits(model.predict(IDS, verbose=0), expected)

    def again(make):
        for _ in range(5):
            assert same_bits(make(model).predict(IDS, verbose=0), expected)

    copies = [lambda: again(copy.deepcopy), lambda: again(lambda m: pickle.loads(pickle.dumps(m)))]
    raise_errors(run_in_threads([predict] * 4 + copies * 2))
