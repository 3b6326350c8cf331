"""Batches by number of rows or of real steps, and class weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_parity import keras

import padless
from padless import Input, Model, Sequential
from padless.data import Batch, Batching, EpochIterator, Examples, Padding
from padless.data.class_weight import class_weighting
from padless.errors import ArgumentError
from padless.layers import GRU, Dense, Embedding, GlobalAveragePooling1D
from padless.ragged.packed import Packed

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
lengths_ = st.lists(st.integers(0, 30), min_size=1, max_size=60).map(np.array)


def numbers(plan, rows):
    return [np.arange(rows)[cut].tolist() for cut in plan]


@settings(deadline=None, max_examples=200)
@given(lengths=lengths_, tokens=st.integers(1, 50), shuffle=st.sampled_from([True, False, "batch"]), seed=st.integers(0, 9))
def test_each_example_is_in_one_batch_of_at_most_the_given_tokens(lengths, tokens, shuffle, seed):
    plan = numbers(Batching(tokens=tokens, shuffle=shuffle).plan(len(lengths), seed, lengths), len(lengths))
    assert sorted(n for rows in plan for n in rows) == list(range(len(lengths)))
    for rows in plan:
        assert np.maximum(lengths[rows], 1).sum() <= tokens or len(rows) == 1
    again = numbers(Batching(tokens=tokens, shuffle=shuffle).plan(len(lengths), seed, lengths), len(lengths))
    assert plan == again
    if shuffle is not True:
        assert [n for rows in plan for n in sorted(rows)] == list(range(len(lengths)))


@settings(deadline=None, max_examples=100)
@given(lengths=lengths_, tokens=st.integers(1, 50))
def test_batches_in_order_are_as_full_as_they_can_be(lengths, tokens):
    cost = np.maximum(lengths, 1)
    plan = Batching(tokens=tokens).plan(len(lengths), None, lengths)
    for one, following in zip(plan, plan[1:], strict=False):
        assert cost[one].sum() + cost[following][0] > tokens


def test_batches_have_similar_lengths_and_the_seed_decides_their_order():
    lengths = np.random.default_rng(0).integers(1, 200, 5000)
    batching = Batching(tokens=2000, shuffle=True)
    plans = [batching.plan(len(lengths), seed, lengths) for seed in (1, 2)]
    for plan in plans:
        found = Padding.from_plan(plan, lengths)
        assert found.steps == lengths.sum() and found.batches < 1.1 * found.steps and found.whole > 1.9 * found.steps
        means = [lengths[rows].mean() for rows in plan]
        assert np.abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3  # batches are in no order
    assert {tuple(sorted(rows)) for rows in plans[0]}.isdisjoint({tuple(sorted(rows)) for rows in plans[1]})


IDS = [[1, 2, 3], [4], [2, 2], [3, 1, 4, 1], [], [1] * 9]
TAGS = [[0, 1, 1], [1], [0, 0], [1, 0, 1, 1], [], [1] * 9]


def tagger(loss="sparse_categorical_crossentropy", units=2, **more):
    torch.manual_seed(0)
    model = Sequential([Input((None,)), Embedding(5, 3, mask_zero=True), GRU(3, return_sequences=True),
                        Dense(units, activation="softmax" if units > 1 else "sigmoid")])  # fmt: skip
    model.compile("sgd", loss, **more)
    return model


def test_fit_counts_real_steps_and_reports_the_cost_of_padding(capsys):
    seen = []

    class Watch(padless.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.real_steps)

    history = tagger().fit(IDS, TAGS, batch_tokens=5, epochs=2, verbose=2, callbacks=[Watch()])
    assert sum(seen) == 2 * 19 and max(seen) == 9 and sorted(seen)[-3] <= 5
    assert history.padding.steps == 19 and history.padding.whole == 54
    assert "19 real steps" in capsys.readouterr().out
    padded = np.array([[*row, *[0] * (9 - len(row))] for row in IDS])
    torch.manual_seed(3)
    want = tagger().fit(IDS, TAGS, batch_tokens=5, verbose=0)
    torch.manual_seed(3)
    same = tagger().fit(padded, [[*row, *[0] * (9 - len(row))] for row in TAGS], batch_tokens=5, verbose=0)
    assert same.padding == want.padding  # masks that the model finds itself are counted too
    assert same.history["loss"] == pytest.approx(want.history["loss"], rel=1e-5)


def test_documents_are_counted_by_their_words():
    x = Input((None, None))
    h = padless.layers.TimeDistributed(GlobalAveragePooling1D())(Embedding(5, 3, mask_zero=True)(x))
    model = Model(x, Dense(1)(GlobalAveragePooling1D()(h)))
    model.compile("sgd", "mse")
    ids = np.array([[[1, 2, 0], [3, 0, 0]], [[1, 1, 1], [0, 0, 0]], [[1, 1, 1], [2, 2, 2]]])
    assert model.fit(ids, np.zeros(3), batch_tokens=6, verbose=0).padding.steps == 12


def test_arrays_without_a_mask_count_all_steps():
    x = Input((4, 2))
    model = Model(x, Dense(1)(x))
    model.compile("sgd", "mse")
    assert model.fit(np.ones((6, 4, 2)), np.ones((6, 4, 1)), batch_tokens=8, verbose=0).padding == Padding(24, 24, 24, 3)


# Class weights


class Own(Model):
    def __init__(self, units):
        super().__init__()
        self.embed, self.pool, self.out = Embedding(5, 3, mask_zero=True), GlobalAveragePooling1D(), Dense(units, "softmax")

    def call(self, inputs):
        return self.out(self.pool(self.embed(inputs)))


@pytest.mark.slow
@pytest.mark.parametrize("labels", [
    [0, 2, 1, 2], [[0], [2], [1], [2]], [0.0, 2.0, 1.0, 2.0], [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]],
])  # fmt: skip
@pytest.mark.parametrize("own", [False, True])
def test_class_weights_of_sequences_are_those_of_keras(labels, own):
    x, y = np.array([[1, 2, 0], [3, 0, 0], [4, 4, 1], [2, 1, 0]]), np.array(labels)
    loss = "categorical_crossentropy" if y.shape[-1] == 3 else "sparse_categorical_crossentropy"
    theirs = keras.Sequential([keras.layers.Embedding(5, 3, mask_zero=True), keras.layers.GlobalAveragePooling1D(),
                               keras.layers.Dense(3, activation="softmax")])  # fmt: skip
    theirs.compile(keras.optimizers.SGD(0.1), loss)
    theirs(x)
    ours = Own(3) if own else Sequential([Input((None,)), Embedding(5, 3, mask_zero=True), GlobalAveragePooling1D(),
                                          Dense(3, activation="softmax")])  # fmt: skip
    ours.predict(x, verbose=0)
    ours.set_weights(theirs.get_weights())
    ours.compile(padless.optimizers.SGD(0.1), loss)
    kwargs = dict(batch_size=4, epochs=2, shuffle=False, verbose=0, class_weight={0: 3.0, 2: 0.5})
    want, got = theirs.fit(x, y, **kwargs).history["loss"], ours.fit(x, y, **kwargs).history["loss"]
    assert got == pytest.approx(want, rel=1e-5)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_class_weights_of_steps_are_sample_weights_by_label():
    table = {0: 2.0, 1: 0.5}
    steps = [[table[tag] for tag in row] for row in TAGS]
    width = 9
    padded = np.array([[*row, *[-7] * (width - len(row))] for row in TAGS])
    hot = [np.eye(2)[row].reshape(-1, 2) for row in TAGS]
    want = tagger().fit(IDS, TAGS, sample_weight=steps, shuffle=False, verbose=0).history["loss"]
    for y in (TAGS, padded, padded[..., None], [np.array(row)[:, None] for row in TAGS], Packed.from_sequences(TAGS)):
        got = tagger().fit(IDS, y, class_weight=table, shuffle=False, verbose=0).history["loss"]
        assert got == pytest.approx(want, rel=1e-5)
    one_hot = tagger("categorical_crossentropy").fit(IDS, hot, class_weight=table, shuffle=False, verbose=0)
    assert one_hot.history["loss"] == pytest.approx(want, rel=1e-5)
    binary = tagger("binary_crossentropy", 1)
    weighed = binary.fit(IDS, TAGS, class_weight=table, shuffle=False, verbose=0).history["loss"]
    want = tagger("binary_crossentropy", 1).fit(IDS, TAGS, sample_weight=steps, shuffle=False, verbose=0)
    assert weighed == pytest.approx(want.history["loss"], rel=1e-5)


@pytest.mark.parametrize("weight", [
    np.arange(1, 7.0), np.arange(1, 7.0)[:, None], [[1.0 + n] * len(r) for n, r in enumerate(IDS)],
    np.arange(1, 7.0)[:, None] * np.ones((6, 9)),
])  # fmt: skip
def test_class_weights_multiply_sample_weights(weight):
    table = {0: 2.0, 1: 0.5}
    steps = [[table[tag] * (1 + n) for tag in row] for n, row in enumerate(TAGS)]
    want = tagger().fit(IDS, TAGS, sample_weight=steps, shuffle=False, verbose=0).history["loss"]
    padded = np.array([[*row, *[0] * (9 - len(row))] for row in TAGS])
    for y in (TAGS, padded):
        got = tagger().fit(IDS, y, sample_weight=weight, class_weight=table, shuffle=False, verbose=0).history["loss"]
        assert got == pytest.approx(want, rel=1e-5)


def test_class_weights_by_output_and_on_one_batch():
    batch = Batch(torch.zeros(2), {"a": torch.tensor([0, 1]), "b": torch.tensor([1, 0])}, {"b": torch.tensor([5.0, 5.0])}, 2)
    found = class_weighting({"b": {1: 3.0}}, ["a", "b"], [2, 2])(batch).sample_weight
    assert found["a"] is None and found["b"].tolist() == [15, 5]
    model = tagger()
    want = model.test_on_batch(IDS, TAGS, sample_weight=[[[2.0, 0.5][tag] for tag in row] for row in TAGS])
    assert model.train_on_batch(IDS, TAGS, class_weight={0: 2.0, 1: 0.5}) == pytest.approx(want, rel=1e-5)


# Errors, before anything changes


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"batch_tokens": 0}, "`batch_tokens` must be a positive integer; got 0"),
    ({"batch_tokens": -8}, "got -8"), ({"batch_tokens": 2.5}, "got 2.5"),
    ({"batch_tokens": 8, "batch_size": 2}, "batch_size=2 and batch_tokens=8"),
    ({"shuffle": "rows"}, "`shuffle` must be True, False or 'batch'; got 'rows'"),
    ({"class_weight": [1.0, 2.0]}, r"must be a dictionary.*got \[1.0, 2.0\]"),
    ({"class_weight": {"a": 1.0}}, "got 'a'"), ({"class_weight": {-1: 1.0}}, "got -1"),
    ({"class_weight": {0.5: 1.0}}, "got 0.5"),
    ({"class_weight": {0: "heavy"}}, "'heavy' for class 0"), ({"class_weight": {1: float("nan")}}, "nan for class 1"),
    ({"class_weight": {1: -2.0}}, "-2.0 for class 1"), ({"class_weight": {"tags": {0: 1.0}}}, r"\['tags'\]"),
    ({"steps_per_epoch": -1}, "got -1"), ({"validation_data": (IDS, TAGS, None, None, 1)}, "got 5 entries"),
    ({"validation_batch_size": 0}, "got 0"), ({"validation_data": (IDS, TAGS), "validation_steps": 0}, "got 0"),
])  # fmt: skip
def test_bad_arguments_raise(kwargs, message):
    model = tagger()
    before, state = [w.copy() for w in model.get_weights()], torch.get_rng_state()
    with pytest.raises(ArgumentError, match=message):
        model.fit(IDS, TAGS, verbose=0, **kwargs)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert torch.equal(state, torch.get_rng_state()) and not model.optimizer.built


def test_shuffled_batches_of_a_stateful_layer_raise():
    model = Sequential([Input(batch_shape=(2, None, 1)), GRU(2, stateful=True, name="memory")])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 3, 1)), np.zeros((4, 2))
    for kwargs, word in (
        ({}, "shuffle=True"),
        ({"shuffle": "batch"}, "'batch'"),
        ({"batch_tokens": 6, "shuffle": False}, "=6"),
    ):
        with pytest.raises(ArgumentError, match=f"'memory' is stateful.*{word}"):
            model.fit(x, y, verbose=0, **kwargs)
    with pytest.raises(ArgumentError, match="batch_tokens=6"):
        model.evaluate(x, y, verbose=0, batch_tokens=6)
    with pytest.raises(ArgumentError, match="batch_tokens=6"):
        model.predict(x, verbose=0, batch_tokens=6)
    model.fit(x, y, batch_size=2, shuffle=False, verbose=0)


def test_shuffle_batch_changes_the_order_of_rows_in_each_batch():
    torch.manual_seed(0)
    feed = EpochIterator(Examples(np.arange(10)), Batching(4, shuffle="batch"))
    parts = [batch.x.tolist() for batch in feed.epoch()]
    assert [sorted(part) for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] and sum(parts, []) != list(range(10))
