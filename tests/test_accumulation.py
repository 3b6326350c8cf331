"""Gradient accumulation: the gradient is that of one large batch, for all lengths, weights and losses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import padless
from padless import Input, Model
from padless.callbacks import Callback
from padless.errors import ArgumentError
from padless.layers import GRU, Dense, Embedding, GlobalAveragePooling1D, LastStep
from padless.trainers import gradient_accumulation as accumulation

LISTS = [[1, 2, 3], [4], [2, 2], [3, 1, 4, 2], [1, 1], [2], [3, 3, 3, 3], [1]]
TAGS = [[0, 1, 1], [2], [0, 0], [1, 2, 0, 1], [2, 2], [0], [1, 1, 2, 0], [2]]
SCORES = np.arange(8.0, dtype="float32")[:, None]
KIND = "sparse_categorical_crossentropy"


@pytest.fixture(autouse=True, scope="module")
def double():
    """Use double precision, in which only a wrong sum differs."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def grid(lists, width=4, left=0, dtype=int):
    return np.stack([np.pad(np.asarray(row, dtype), (left, width - len(row))) for row in lists])


def tagger(**dense):
    x = Input((None,))
    h = GRU(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))
    return Model(x, Dense(3, activation="softmax", name="tag", **dense)(h))


def heads(**dense):
    x = Input((None,), name="ids")
    h = GRU(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))
    return Model(x, [Dense(3, activation="softmax", name="tag", **dense)(h), Dense(1, name="score")(LastStep()(h))])


class Own(Model):
    """A user-defined `call`: only the outputs show the real steps."""

    def __init__(self, **dense):
        super().__init__()
        self.embed, self.scan = Embedding(5, 3, mask_zero=True), GRU(4, return_sequences=True)
        self.tag, self.score, self.pool = Dense(3, activation="softmax", **dense), Dense(1), GlobalAveragePooling1D()

    def call(self, inputs):
        h = self.scan(self.embed(inputs))
        return self.tag(h), self.score(self.pool(h))


def gradients(make, x, y, size, together, weights=None, seed=0, **compiled):
    """Return the gradients of each step, and the results of the first epoch."""
    torch.manual_seed(seed)
    model = make()
    seen = []

    class Watch(padless.optimizers.SGD):
        def step(self, closure=None):
            seen.append([None if p.grad is None else p.grad.clone() for p in self.param_groups[0]["params"]])

    model.compile(Watch(0.1), **compiled)
    history = model.fit(
        x, y, batch_size=size, shuffle=False, verbose=0, sample_weight=weights, gradient_accumulation_steps=together
    ).history
    return seen, {name: values[0] for name, values in history.items()}


def close(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        for left, right in zip(a, b, strict=True):
            left, right = (torch.zeros(1) if g is None else g for g in (left, right))
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)


STEPS = np.random.default_rng(0).random((8, 4)).astype("float32")
REDUCED = {
    kind: padless.losses.SparseCategoricalCrossentropy(reduction=kind)
    for kind in ("sum", "mean_with_sample_weight", "sum_over_batch_size")
}


@settings(max_examples=20)
@given(
    st.sampled_from([(1, 8), (2, 4), (3, 3), (4, 2), (5, 2)]),
    st.sampled_from(sorted(REDUCED)),
    st.booleans(),
    st.sampled_from([None, "row", "column", "step"]),
)
def test_the_accumulated_gradient_is_that_of_one_large_batch(split, reduction, padded, weighted):
    size, together = split
    weights = {None: None, "row": STEPS[:, 0], "column": STEPS[:, :1], "step": STEPS}[weighted]
    if weighted == "step" and not padded:
        weights = [row[: len(x)] for row, x in zip(STEPS, LISTS, strict=True)]
    x, y = (grid(LISTS), grid(TAGS)) if padded else (LISTS, TAGS)
    make = lambda: tagger(kernel_regularizer="l2", activity_regularizer="l2")  # noqa: E731
    split_up = gradients(make, x, y, size, together, weights, loss=REDUCED[reduction], metrics=["accuracy"])
    whole = gradients(make, x, y, size * together, 1, weights, loss=REDUCED[reduction], metrics=["accuracy"])
    close(split_up[0], whole[0])
    assert split_up[1] == pytest.approx(whole[1], rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("make", [heads, Own])
def test_the_accumulated_gradient_of_several_outputs_is_that_of_one_large_batch(make, size):
    together = -(-8 // size)
    for losses in ([KIND, "mae"], [REDUCED["sum"], "mse"], [KIND, lambda y, p: (y - p).square().mean()]):
        y = (grid(TAGS), SCORES) if make is Own else [grid(TAGS), SCORES]
        compiled = {"loss": losses, "loss_weights": [0.3, 2.0]}
        built = lambda: make(kernel_regularizer="l2", activity_regularizer="l1")  # noqa: E731
        split_up = gradients(built, grid(LISTS), y, size, together, **compiled)
        whole = gradients(built, grid(LISTS), y, 8, 1, **compiled)
        close(split_up[0], whole[0])
        assert split_up[1] == pytest.approx(whole[1], rel=1e-9)


def test_weights_are_computed_before_the_first_backward_pass(monkeypatch):
    known = []
    group = accumulation.AccumulationGroup

    def watch(batches, weights, params):
        known.append(weights)
        return group(batches, weights, params)

    monkeypatch.setattr(accumulation, "AccumulationGroup", watch)
    y = [grid(TAGS), SCORES]
    gradients(heads, grid(LISTS), y, 2, 4, loss=[KIND, "mse"])
    assert known.pop() == [18.0, 8.0]
    ignoring = padless.losses.SparseCategoricalCrossentropy(ignore_class=2)
    gradients(heads, grid(LISTS), y, 2, 4, loss=[ignoring, padless.losses.MeanSquaredError(reduction="sum")])
    assert known.pop() == [18.0 - sum(tag == 2 for row in TAGS for tag in row), 1.0]
    gradients(tagger, LISTS, TAGS, 3, 4, STEPS[:, 0], loss=REDUCED["mean_with_sample_weight"])
    assert known.pop() == [pytest.approx(sum(w * len(x) for w, x in zip(STEPS[:, 0], LISTS, strict=True)))]
    gradients(tagger, LISTS, TAGS, 3, 4, loss=lambda y_true, y_pred: y_pred.sum(-1))
    assert known.pop() == [None]


def test_a_shorter_group_at_the_end_of_an_epoch_is_a_smaller_batch():
    results = []
    for size, together in ((1, 3), (3, 1)):
        torch.manual_seed(0)
        model = tagger()
        model.compile(padless.optimizers.Adam(0.05), KIND)
        model.fit(LISTS, TAGS, batch_size=size, epochs=3, shuffle=False, verbose=0, gradient_accumulation_steps=together)
        assert model.optimizer.iterations == 9
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        assert a == pytest.approx(b, abs=1e-10)


def test_batches_without_a_real_step_do_not_change_the_accumulated_gradient():
    empty = np.zeros((3, 4), int)
    x, y = (np.concatenate([grid(rows)[:3], empty, grid(rows)[3:6]]) for rows in (LISTS, TAGS))
    close(gradients(tagger, x, y, 3, 3, loss=KIND)[0], gradients(tagger, LISTS[:6], TAGS[:6], 6, 1, loss=KIND)[0])
    steps, logs = gradients(tagger, empty, empty, 1, 3, loss=KIND)
    assert logs == {"loss": 0.0} and all(g is None or not g.any() for g in steps[0])


def test_what_compute_loss_adds_is_weighted_by_rows():
    class Extra(Model):
        def compute_loss(self, x, y, y_pred, sample_weight, training=True):
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            return loss + y_pred.values.square().sum() / len(x)

    def make():
        inner = tagger()
        return Extra(inner.input, inner.output)

    some = gradients(make, grid(LISTS), grid(TAGS), 3, 3, loss=KIND)
    whole = gradients(make, grid(LISTS), grid(TAGS), 8, 1, loss=KIND)
    close(some[0], whole[0])
    assert some[1] == pytest.approx(whole[1], rel=1e-9)


def test_stopping_inside_a_group_changes_no_weight():
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model = tagger()
    model.compile("sgd", KIND)
    before = model.get_weights()
    model.fit(LISTS, TAGS, batch_size=1, verbose=0, callbacks=[Stop()], gradient_accumulation_steps=4)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model._accumulation_group is None and all(p.grad is None for p in model.parameters())


def test_wrong_numbers_of_batches_are_refused():
    model = tagger()
    model.compile("sgd", KIND)
    for steps in (0, -1, 1.5, "two", True):
        with pytest.raises(ArgumentError, match=f"gradient_accumulation_steps.*{steps}"):
            model.fit(LISTS, TAGS, verbose=0, gradient_accumulation_steps=steps)


def test_gradient_accumulation_steps_of_the_optimizer():
    results = []
    for optimizer, steps in (({"gradient_accumulation_steps": 3}, None), ({}, 3), ({"gradient_accumulation_steps": 3}, 3)):
        torch.manual_seed(0)
        model = tagger()
        model.compile(padless.optimizers.Adam(0.05, **optimizer), KIND)
        model.fit(LISTS, TAGS, batch_size=2, shuffle=False, verbose=0, gradient_accumulation_steps=steps)
        assert model.optimizer.iterations == 2
        results.append(model.get_weights())
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
