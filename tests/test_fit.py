"""compile, fit, evaluate, predict and their kin: return values, exactness, containers, everything around a step."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import padless
from padless import Input, Model, Packed, Sequential
from padless.callbacks import Callback, EarlyStopping, LearningRateScheduler
from padless.errors import ArgumentError, DataError, NotBuilt
from padless.layers import GRU, LSTM, Dense, DropMask, Dropout, Embedding, LastStep, Layer

LISTS = [[1, 2, 3], [4], [2, 2], [3, 1, 4, 2], [1, 1], [2]]
CLASSES = [[0, 1, 1], [2], [0, 0], [1, 2, 0, 1], [2, 2], [0]]


def grid(lists, width=4, left=0):
    rows = [np.pad(row, (left, width - len(row))) for row in lists]
    return np.stack(rows)


def tagger(classes=3, loss="sparse_categorical_crossentropy", optimizer="sgd", **compiled):
    x = Input((None,))
    h = GRU(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))
    model = Model(x, Dense(classes, activation="softmax", name="tag")(h))
    model.compile(optimizer, loss, **compiled)
    return model


def two_heads(**compiled):
    x = Input((None,), name="ids")
    h = GRU(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))
    model = Model(x, [Dense(3, activation="softmax", name="tag")(h), Dense(1, name="score")(LastStep()(h))])
    model.compile("sgd", **compiled)
    return model


SCORES = np.arange(6.0)[:, None]


# ----------------------------------------------------------------------------------------------------- return values


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_returned_values_are_in_the_order_of_keras():
    keras = pytest.importorskip("keras")
    keras.utils.clear_session()

    def made(api, layers, outputs, **compiled):
        x = api.Input((4,))
        h = layers.LSTM(4, return_sequences=True)(layers.Embedding(5, 3, mask_zero=True)(x))
        heads = [layers.Dense(3, activation="softmax", name="tag")(h), layers.Dense(1, name="score")(layers.LSTM(2)(h))]
        model = api.Model(x, heads[:outputs] if outputs > 1 else heads[0])
        model.compile("sgd", **compiled)
        return model

    data, tags = grid(LISTS), grid(CLASSES)
    kind = "sparse_categorical_crossentropy"
    for outputs, compiled in (
        (1, {"loss": kind}),
        (1, {"loss": kind, "metrics": ["accuracy"]}),
        (1, {"loss": [kind], "metrics": [["accuracy", kind]]}),
        (2, {"loss": [kind, "mse"]}),
        (2, {"loss": {"score": "mse", "tag": kind}, "metrics": {"score": ["mse", "mae"], "tag": "accuracy"}}),
        (2, {"loss": [kind, "mae"], "loss_weights": [0.5, 2.0], "metrics": [["accuracy"], ["mse"]]}),
        (2, {"loss": [kind, "mae"], "loss_weights": [1, 3], "weighted_metrics": [None, ["mse", "mae"]]}),
    ):
        theirs = made(keras, keras.layers, outputs, **compiled)
        ours = made(padless, padless.layers, outputs, **compiled)
        y = [tags, SCORES] if outputs > 1 else tags
        ours.set_weights(theirs.get_weights())
        expected = theirs.evaluate(data, y, verbose=0, return_dict=True)
        got = ours.evaluate(data, y, verbose=0, return_dict=True)
        assert sorted(got) == sorted(expected)
        assert got == pytest.approx(expected, rel=1e-5)
        assert ours.evaluate(data, y, verbose=0) == pytest.approx(theirs.evaluate(data, y, verbose=0), rel=1e-5)
        again, theirs_again = ours.fit(data, y, verbose=0), theirs.fit(data, y, verbose=0)
        assert sorted(again.history) == sorted(theirs_again.history)
        assert [w for w in ours.get_weights()] == [pytest.approx(w, abs=1e-5) for w in theirs.get_weights()]


def test_evaluate_returns_a_number_a_list_or_a_dictionary():
    model, y = tagger(), CLASSES
    for verb in (model.evaluate, model.test_on_batch, model.train_on_batch):
        kwargs = {"verbose": 0} if verb == model.evaluate else {}
        assert isinstance(verb(LISTS, y, **kwargs), float)
        assert list(verb(LISTS, y, return_dict=True, **kwargs)) == ["loss"]
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(LISTS, y, verbose=0)
    assert model.evaluate(LISTS, y, verbose=0, return_dict=True) == {"loss": loss, "accuracy": accuracy}
    assert model.metrics_names == ["loss", "accuracy"]
    assert model.test_on_batch(LISTS, y) == pytest.approx([loss, accuracy])


def test_history_has_one_entry_for_each_epoch():
    model = tagger(metrics=["accuracy"])
    history = model.fit(LISTS, CLASSES, epochs=4, initial_epoch=1, verbose=0, validation_data=(LISTS, CLASSES))
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history.epoch == [1, 2, 3] and {len(v) for v in history.history.values()} == {3}
    assert model.history is history
    assert history.params["epochs"] == 4 and history.params["steps"] == 1
    assert all(type(v) is float for values in history.history.values() for v in values)


def test_train_on_batch_equals_fit_on_one_batch():
    one, other = tagger(), tagger()
    other.set_weights(one.get_weights())
    losses = [one.train_on_batch(LISTS, CLASSES) for _ in range(3)]
    history = other.fit(LISTS, CLASSES, epochs=3, batch_size=6, shuffle=False, verbose=0)
    assert losses == pytest.approx(history.history["loss"], rel=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))
    assert one.test_on_batch(LISTS[:2], CLASSES[:2]) == pytest.approx(
        one.evaluate(LISTS[:2], CLASSES[:2], verbose=0), rel=1e-6
    )
    assert [a.shape for a in one.predict_on_batch(LISTS)] == [(len(row), 3) for row in LISTS]


# ---------------------------------------------------------------------------------------------------------- exactness


@settings(max_examples=25)
@given(st.integers(1, 7), st.integers(0, 3), st.integers(0, 3), st.permutations(range(6)), st.booleans())
def test_evaluate_depends_on_real_steps_only(size, left, right, order, as_lists):
    torch.manual_seed(0)
    model = EXACT.setdefault("model", tagger(metrics=["accuracy"]))
    expected = EXACT.setdefault("loss", model.evaluate(LISTS, CLASSES, batch_size=1, verbose=0))
    lists, classes = [LISTS[i] for i in order], [CLASSES[i] for i in order]
    width = 4 + right
    x = lists if as_lists else grid(lists, width, left)
    y = classes if left else grid(classes, width)
    assert model.evaluate(x, y, batch_size=size, verbose=0) == pytest.approx(expected, rel=1e-5)


EXACT = {}


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_loss_of_an_epoch_is_the_mean_over_real_steps(size):
    model = tagger(optimizer=padless.optimizers.SGD(0.0), metrics=["sparse_categorical_crossentropy"])
    rows = model.predict(LISTS, verbose=0)
    truth = -np.log(np.concatenate([p[np.arange(len(c)), c] for p, c in zip(rows, CLASSES, strict=True)])).mean()
    history = model.fit(LISTS, CLASSES, batch_size=size, verbose=0, validation_data=(grid(LISTS), grid(CLASSES))).history
    for name, values in history.items():
        assert values == [pytest.approx(truth, rel=1e-5)], name


def test_each_real_step_has_the_same_weight_in_every_batch():
    """One sequence of 1 step and one of 9: a mean of means would weigh the lone step nine times."""
    x = Input((None, 1))
    model = Model(x, Dense(1, use_bias=False, kernel_initializer="ones")(x))
    model.compile("sgd", "mae")
    data = [np.full((1, 1), 10.0), np.zeros((9, 1))]
    targets = [np.zeros(1), np.zeros(9)]
    for size in (1, 2):
        assert model.evaluate(data, targets, batch_size=size, verbose=0) == pytest.approx(1.0)


def test_batches_without_a_real_step_have_weight_0():
    model = tagger(metrics=["accuracy"])
    expected = model.evaluate(LISTS, CLASSES, verbose=0)
    empty = np.zeros((8, 4), int)
    x, y = np.concatenate([empty, grid(LISTS), empty]), np.concatenate([empty, grid(CLASSES), empty])
    assert model.evaluate(x, y, batch_size=2, verbose=0) == pytest.approx(expected, rel=1e-6)
    history = model.fit(x, y, batch_size=4, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all() and np.isfinite(np.concatenate([w.ravel() for w in model.get_weights()])).all()
    assert model.evaluate(empty, empty, verbose=0) == [0.0, 0.0]
    assert model.train_on_batch(empty, empty) == [0.0, 0.0]


def test_targets_at_masked_steps_are_ignored():
    model = tagger(metrics=["accuracy"])
    y = grid(CLASSES)
    expected = model.evaluate(grid(LISTS), y, verbose=0)
    assert model.evaluate(grid(LISTS), np.where(grid(LISTS) == 0, 99, y), verbose=0) == expected
    assert model.evaluate(grid(LISTS), np.where(grid(LISTS) == 0, np.nan, y), verbose=0) == expected


def test_targets_without_a_feature_axis_fit_outputs_of_one_feature():
    x = Input((None,))
    model = Model(x, Dense(1)(Embedding(5, 3, mask_zero=True)(x)))
    model.compile("sgd", "mse", metrics=["mae"])
    flat = grid(CLASSES).astype("float32")
    expected = model.evaluate(grid(LISTS), flat[..., None], verbose=0)
    assert model.evaluate(grid(LISTS), flat, verbose=0) == expected
    assert model.evaluate(LISTS, CLASSES, verbose=0) == pytest.approx(expected, rel=1e-6)


def test_lists_of_targets_define_the_real_steps_of_unmasked_outputs():
    x = Input((None, 3))
    model = Model(x, Dense(1)(x))
    model.compile("sgd", "mse")
    data, targets = np.random.default_rng(0).normal(size=(2, 10, 3)).astype("float32"), [[1.0] * 7, [2.0] * 3]
    out = model.predict(data, verbose=0)
    truth = np.square(np.concatenate([out[0, :7, 0] - 1, out[1, :3, 0] - 2])).mean()
    for size in (1, 2):  # no batch is as wide as the data
        assert model.evaluate(data, targets, batch_size=size, verbose=0) == pytest.approx(truth, rel=1e-5)


# --------------------------------------------------------------------------------------------------------- containers


def test_predict_returns_the_container_of_the_input():
    model = tagger()
    wide = model.predict(grid(LISTS, 9), batch_size=2, verbose=0)
    assert type(wide) is np.ndarray and wide.shape == (6, 9, 3)
    rows = model.predict(LISTS, batch_size=4, verbose=0)
    assert isinstance(rows, list) and [row.shape for row in rows] == [(len(r), 3) for r in LISTS]
    assert isinstance(rows[0], np.ndarray)
    packed = model.predict(padless.pack(LISTS), batch_size=4, verbose=0)
    assert isinstance(packed, Packed) and packed.index.num_steps == 13
    for row, part, whole in zip(rows, packed.sequences(), wide, strict=True):
        assert row == pytest.approx(part.numpy(), abs=1e-6) and row == pytest.approx(whole[: len(row)], abs=1e-6)


@pytest.mark.parametrize("as_input", [grid, list, padless.pack])
def test_an_output_without_steps_is_an_array(as_input):
    x = Input((None,))
    model = Model(x, Dense(2)(LSTM(3)(Embedding(5, 3, mask_zero=True)(x))))
    out = model.predict(as_input(LISTS), batch_size=4, verbose=0)
    assert type(out) is np.ndarray and out.shape == (6, 2)


def test_predict_returns_the_container_of_the_input_with_the_mask_of_the_output():
    a, b = Input((None,), name="a"), Input((None,), name="b")
    embed = Embedding(5, 3, mask_zero=True)
    _, state = GRU(4, return_state=True)(embed(a))
    steps = GRU(4, return_sequences=True)(embed(b), initial_state=state)
    model = Model({"a": a, "b": b}, [steps, Dense(1)(embed(a)), Dense(1)(state)])
    out = model.predict({"a": LISTS, "b": grid(LISTS, 5)}, batch_size=4, verbose=0)
    assert [type(o) for o in out] == [np.ndarray, list, np.ndarray]
    assert out[0].shape == (6, 5, 4) and [len(row) for row in out[1]] == [3, 1, 2, 4, 2, 1]
    out = model.predict({"a": padless.pack(LISTS), "b": LISTS}, batch_size=4, verbose=0)
    assert [type(o) for o in out] == [list, Packed, np.ndarray]


def test_predict_of_a_subclass_returns_the_container_of_the_input():
    class Tagger(Model):
        def __init__(self):
            super().__init__()
            self.embed, self.tag = Embedding(5, 3, mask_zero=True), Dense(2)

        def call(self, inputs):
            return self.tag(self.embed(inputs))

    model = Tagger()
    assert isinstance(model.predict(LISTS, verbose=0), list)
    assert isinstance(model.predict(padless.pack(LISTS), verbose=0), Packed)
    assert model.predict(grid(LISTS), verbose=0).shape == (6, 4, 2)


@pytest.mark.parametrize("to", [np.array, torch.tensor, lambda g: g.tolist()])
def test_arrays_tensors_and_lists_give_equal_results(to):
    model = tagger()
    x, y = to(grid(LISTS)), to(grid(CLASSES))
    history = model.fit(x, y, validation_data=(LISTS, [np.array(c) for c in CLASSES]), verbose=0, shuffle=False).history
    assert history["val_loss"][0] == pytest.approx(model.evaluate(padless.pack(LISTS), padless.pack(CLASSES), verbose=0))


def test_loaders_and_generators():
    model = tagger(optimizer=padless.optimizers.SGD(0.0))
    expected = model.evaluate(LISTS, CLASSES, verbose=0)

    def stream():
        for start in (0, 2, 4):
            yield LISTS[start : start + 2], CLASSES[start : start + 2]

    assert model.evaluate(stream(), verbose=0) == pytest.approx(expected, rel=1e-6)
    assert model.fit(stream(), verbose=0).history["loss"] == [pytest.approx(expected, rel=1e-6)]
    assert len(model.predict(((x,) for x, _ in stream()), verbose=0)) == 6
    data = torch.utils.data.TensorDataset(torch.tensor(grid(LISTS)), torch.tensor(grid(CLASSES)))
    loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
    history = model.fit(loader, epochs=2, validation_data=loader, verbose=0).history
    assert history["loss"] + history["val_loss"] == [pytest.approx(expected, rel=1e-5)] * 4
    with pytest.raises(ArgumentError, match="steps_per_epoch"):
        model.fit(stream(), epochs=2, verbose=0)
    with pytest.raises(ArgumentError, match="y must come in its batches"):
        model.fit(stream(), CLASSES, verbose=0)


# ----------------------------------------------------------------------------------------- weights, splits, frequencies


def test_sample_weights_of_sequences_and_of_steps():
    kind = "sparse_categorical_crossentropy"
    model = tagger(metrics=[kind], weighted_metrics=[kind])
    rows = model.predict(LISTS, verbose=0)
    each = [-np.log(p[np.arange(len(c)), c]) for p, c in zip(rows, CLASSES, strict=True)]
    per_row = np.array([0.0, 1.0, 2.0, 3.0, 0.5, 1.5])
    loss, plain, metric = model.evaluate(LISTS, CLASSES, sample_weight=per_row, batch_size=2, verbose=0)
    total = sum((w * e).sum() for w, e in zip(per_row, each, strict=True))
    assert loss == pytest.approx(total / 13, rel=1e-5)  # over all real steps, as Keras
    assert plain == pytest.approx(np.concatenate(each).mean(), rel=1e-5)  # it was not asked to weigh
    assert metric == pytest.approx(total / sum(w * len(e) for w, e in zip(per_row, each, strict=True)), rel=1e-5)
    steps = np.random.default_rng(0).random((6, 4))
    loss, *_ = model.evaluate(grid(LISTS), grid(CLASSES), sample_weight=steps, verbose=0)
    assert loss == pytest.approx(sum((w[: len(e)] * e).sum() for w, e in zip(steps, each, strict=True)) / 13, rel=1e-5)


def test_sample_weights_by_output():
    model = two_heads(loss=["sparse_categorical_crossentropy", "mse"])
    y = [CLASSES, SCORES]
    plain = model.evaluate(LISTS, y, verbose=0, return_dict=True)
    weights = {"score": np.full(6, 2.0)}
    for given_weights in (weights, [None, np.full(6, 2.0)]):
        found = model.evaluate(LISTS, y, sample_weight=given_weights, verbose=0, return_dict=True)
        assert found["score_loss"] == pytest.approx(2 * plain["score_loss"])
        assert found["tag_loss"] == pytest.approx(plain["tag_loss"])


def test_targets_by_name_of_the_output():
    model = two_heads(loss={"tag": "sparse_categorical_crossentropy", "score": "mse"})
    by_name = model.evaluate(LISTS, {"score": SCORES, "tag": CLASSES}, verbose=0)
    assert by_name == model.evaluate({"ids": LISTS}, [CLASSES, SCORES], verbose=0)
    assert by_name[0] == pytest.approx(by_name[1] + by_name[2])


def test_a_dictionary_of_losses_of_a_subclass_uses_the_names_of_its_outputs():
    model = Sequential([Embedding(5, 3, mask_zero=True), Dense(1, name="score")])
    model.compile("sgd", {"score": "mse"}, metrics={"score": ["mae"]})
    assert list(model.fit(LISTS, {"score": CLASSES}, verbose=0).history) == ["loss", "mae"]
    unbuilt = Sequential([Embedding(5, 3, mask_zero=True), Dense(1, name="score")])
    unbuilt.compile("sgd", {"scores": "mse"})
    with pytest.raises(ArgumentError, match=r"\['scores'\].*\['score'\]"):
        unbuilt.fit(LISTS, CLASSES, verbose=0)


def test_an_output_without_a_loss_needs_no_targets():
    model = two_heads(loss={"tag": "sparse_categorical_crossentropy"})
    before = model.get_layer("score").get_weights()[0]
    model.fit(LISTS, {"tag": CLASSES, "score": SCORES}, verbose=0)
    assert np.array_equal(before, model.get_layer("score").get_weights()[0])


def test_validation_split_uses_the_last_examples():
    model = tagger(optimizer=padless.optimizers.SGD(0.0))
    history = model.fit(LISTS, CLASSES, validation_split=1 / 3, verbose=0).history
    assert history["loss"] == [pytest.approx(model.evaluate(LISTS[:4], CLASSES[:4], verbose=0), rel=1e-6)]
    assert history["val_loss"] == [pytest.approx(model.evaluate(LISTS[4:], CLASSES[4:], verbose=0), rel=1e-6)]


@pytest.mark.parametrize(("frequency", "epochs"), [(1, [1, 2, 3, 4]), (2, [2, 4]), ([1, 4], [1, 4])])
def test_validation_freq_selects_epochs(frequency, epochs):
    class Count(Callback):
        def __init__(self):
            self.epoch, self.seen = 0, []

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch + 1

        def on_test_begin(self, logs=None):
            self.seen.append(self.epoch)

    count = Count()
    history = (
        tagger()
        .fit(
            LISTS,
            CLASSES,
            epochs=4,
            validation_data=(LISTS, CLASSES),
            validation_freq=frequency,
            callbacks=[count],
            verbose=0,
        )
        .history
    )
    assert count.seen == epochs and len(history["val_loss"]) == len(epochs)


class Batches(Callback):
    def __init__(self):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(batch)


def test_an_epoch_with_steps_per_epoch_continues_after_the_previous_one():
    seen = Batches()
    history = tagger().fit(LISTS, CLASSES, batch_size=2, steps_per_epoch=4, epochs=2, callbacks=[seen], verbose=0)
    assert seen.ends == [0, 1, 2, 3] * 2 and len(history.history["loss"]) == 2


def test_steps_of_evaluate_and_predict():
    model = tagger()
    assert model.evaluate(LISTS, CLASSES, batch_size=2, steps=1, verbose=0) == pytest.approx(
        model.evaluate(LISTS[:2], CLASSES[:2], verbose=0), rel=1e-6
    )
    assert model.evaluate(LISTS, CLASSES, batch_size=2, steps=9, verbose=0) == pytest.approx(
        model.evaluate(LISTS, CLASSES, verbose=0), rel=1e-6
    )
    assert len(model.predict(LISTS, batch_size=2, steps=2, verbose=0)) == 4


def test_shuffling_depends_on_the_seed_and_uses_every_example():
    def orders(seed):
        seen = []

        class Spy(Layer):
            def call(self, inputs):
                seen.append(inputs.reshape(-1).tolist())
                return inputs

        x = Input((1,))
        model = Model(x, Dense(1)(Spy()(x)))
        model.compile("sgd", "mse")
        torch.manual_seed(seed)
        del seen[:]
        model.fit(np.arange(6.0)[:, None], np.zeros((6, 1)), batch_size=4, epochs=2, verbose=0)
        return seen

    first = orders(1)
    assert first == orders(1) and first != orders(2)
    assert sorted(first[0] + first[1]) == sorted(first[2] + first[3]) == list(range(6))
    assert first[0] != first[2]


# -------------------------------------------------------------------------------------- optimizers, losses and metrics


def test_fit_with_an_optimizer_and_a_scheduler_of_torch():
    model = tagger()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    rates = []

    class Schedule(Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()

    model.fit(LISTS, CLASSES, epochs=3, callbacks=Schedule(), verbose=0)
    assert rates == pytest.approx([0.5, 0.05, 0.005])


def test_the_learning_rate_can_be_set_and_scheduled():
    model = tagger(optimizer=padless.optimizers.Adam(1e-3))
    model.optimizer.learning_rate = 0.0
    before = model.get_weights()
    model.fit(LISTS, CLASSES, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    history = model.fit(LISTS, CLASSES, epochs=2, verbose=0, callbacks=[LearningRateScheduler(lambda e: 0.1 / (e + 1))])
    assert history.history["learning_rate"] == pytest.approx([0.1, 0.05])
    assert not np.array_equal(before[0], model.get_weights()[0])


def test_an_optimizer_is_reused_for_its_weights_and_refused_for_others():
    model, optimizer = tagger(), padless.optimizers.Adam(1e-2)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(LISTS, CLASSES, verbose=0)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])  # the same weights: it goes on
    model.fit(LISTS, CLASSES, verbose=0)
    assert optimizer.iterations == 2
    other = tagger(optimizer=optimizer)
    before = other.get_weights()
    with pytest.raises(ArgumentError, match="already trains other parameters"):
        other.fit(LISTS, CLASSES, verbose=0)
    other.compile(torch.optim.SGD(model.parameters()), "sparse_categorical_crossentropy")
    with pytest.raises(ArgumentError, match="would train nothing"):
        other.fit(LISTS, CLASSES, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, other.get_weights(), strict=True))


def test_losses_and_metrics_may_be_functions_and_torch_modules():
    x = Input((None,))
    model = Model(x, Dense(2)(Embedding(5, 3, mask_zero=True)(x)))
    y = [np.stack([row, row], -1).astype("float32") for row in map(np.array, CLASSES)]

    def squares(y_true, y_pred):
        return (y_true - y_pred).square().mean(-1)

    found, weights = [], np.random.default_rng(0).random((6, 4))
    for loss in (
        "mse",
        squares,
        padless.losses.MaskedLoss(squares),
        torch.nn.MSELoss(reduction="none"),
        padless.losses.MeanSquaredError(),
    ):
        model.compile("sgd", loss, metrics=[squares, "mae"])
        found.append(model.evaluate(LISTS, y, batch_size=4, verbose=0, return_dict=True))
        found[-1]["weighted"] = model.evaluate(grid(LISTS), y, sample_weight=weights, batch_size=4, verbose=0)[0]
    assert list(found[0]) == ["loss", "squares", "mae", "weighted"]
    assert [f["loss"] for f in found] == pytest.approx([found[0]["squares"]] * 5, rel=1e-5)
    assert [f["weighted"] for f in found] == pytest.approx([found[0]["weighted"]] * 5, rel=1e-5)


@pytest.mark.parametrize(
    ("classes", "loss", "y", "kind"),
    [
        (3, "sparse_categorical_crossentropy", grid(CLASSES), "SparseCategoricalAccuracy"),
        (3, "categorical_crossentropy", np.eye(3)[grid(CLASSES)], "CategoricalAccuracy"),
        (1, "binary_crossentropy", grid(CLASSES) > 0, "BinaryAccuracy"),
    ],
)
def test_accuracy_selects_the_metric_for_the_targets(classes, loss, y, kind):
    x = Input((None,))
    model = Model(x, Dense(classes, activation="sigmoid")(Embedding(5, 3, mask_zero=True)(x)))
    model.compile("sgd", loss, metrics=["accuracy"])
    assert 0 <= model.evaluate(grid(LISTS), y, verbose=0)[1] <= 1
    assert [type(m).__name__ for m in model._objective.outputs[0].metrics] == [kind]


# -------------------------------------------------------------------------------------- what a step does to the weights


def test_frozen_layers_do_not_change():
    model = tagger(optimizer="adam")
    model.layers[1].trainable = False
    before = model.get_weights()
    model.fit(LISTS, CLASSES, epochs=2, verbose=0)
    assert np.array_equal(before[0], model.get_weights()[0])
    assert not np.array_equal(before[1], model.get_weights()[1])
    model.layers[1].trainable = True
    model.fit(LISTS, CLASSES, verbose=0)
    assert not np.array_equal(before[0], model.get_weights()[0])


def test_constraints_are_applied_after_each_step():
    x = Input((3,))
    model = Model(x, Dense(2, kernel_constraint="non_neg")(x))
    model.compile(padless.optimizers.SGD(5.0), "mse")
    lowest = []

    class Watch(Callback):
        def on_train_batch_end(self, batch, logs=None):
            lowest.append(model.get_weights()[0].min())

    model.fit(np.ones((8, 3)), -np.ones((8, 2)), batch_size=2, callbacks=[Watch()], verbose=0)
    assert len(lowest) == 4 and min(lowest) == 0


def test_regularizers_count_once_for_each_step():
    x = Input((3,))
    model = Model(x, Dense(2, kernel_regularizer=padless.regularizers.L2(0.1))(x))
    model.compile(padless.optimizers.SGD(0.0), "mse")
    kernel = model.get_weights()[0]
    data, y = np.ones((8, 3), np.float32), np.zeros((8, 2), np.float32)
    expected = np.square(model.predict(data, verbose=0)).mean() + 0.1 * np.square(kernel).sum()
    for size in (2, 3, 8):
        assert model.evaluate(data, y, batch_size=size, verbose=0) == pytest.approx(expected, rel=1e-5)
        assert model.fit(data, y, batch_size=size, verbose=0).history["loss"] == [pytest.approx(expected, rel=1e-5)]


def test_activity_regularization_is_divided_by_the_rows():
    x = Input((None,))
    model = Model(x, Dense(1, activity_regularizer="l2")(Embedding(5, 3, mask_zero=True)(x)))
    model.compile(padless.optimizers.SGD(0.0), "mse")
    out = np.concatenate(model.predict(LISTS, verbose=0))
    expected = np.square(out - np.concatenate(CLASSES)[:, None]).mean() + 0.01 * np.square(out).sum() / 6
    for size in (1, 4, 6):
        assert model.evaluate(LISTS, CLASSES, batch_size=size, verbose=0) == pytest.approx(expected, rel=1e-5)
        assert model.evaluate(grid(LISTS, 9), CLASSES, batch_size=size, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_dropout_is_active_in_fit_only():
    x = Input((4,))
    model = Model(x, Dropout(0.9)(x))
    model.compile("sgd", "mse")
    data = np.ones((50, 4), np.float32)
    assert model.evaluate(data, data, verbose=0) == 0.0
    assert np.array_equal(model.predict(data, verbose=0), data)
    model = Sequential([Input((4,)), Dense(4, kernel_initializer="identity"), Dropout(0.5)])
    model.compile(padless.optimizers.SGD(0.0), "mse")
    assert model.fit(data, data, verbose=0).history["loss"][0] == pytest.approx(1.0)  # each number becomes 0 or 2
    assert model.evaluate(data, data, verbose=0) == 0.0 and not model.training


def test_a_stateful_layer_keeps_its_state_between_batches():
    def made(stateful):
        x = Input(batch_shape=(2, None, 1))
        torch.manual_seed(0)
        scan = GRU(3, return_sequences=True, stateful=stateful)
        model = Model(x, Dense(1)(scan(x)))
        model.compile("sgd", "mse")
        return model, scan

    rng = np.random.default_rng(0)
    whole, targets = rng.normal(size=(2, 6, 1)).astype("float32"), rng.normal(size=(2, 6, 1)).astype("float32")
    parts, part_targets = np.concatenate([whole[:, :3], whole[:, 3:]]), np.concatenate([targets[:, :3], targets[:, 3:]])
    stateful, scan = made(True)
    assert scan.states is None  # to build is not to run
    plain, _ = made(False)
    expected = plain.evaluate(whole, targets, verbose=0)
    assert stateful.evaluate(parts, part_targets, batch_size=2, verbose=0) == pytest.approx(expected, rel=1e-5)
    scan.reset_state()
    stateful.fit(parts, part_targets, batch_size=2, epochs=2, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="2 sequences"):
        stateful.train_on_batch(whole[:1], targets[:1])


# --------------------------------------------------------------------------------------------------- around the epochs


def test_early_stopping_restores_the_best_weights():
    model = tagger(optimizer=padless.optimizers.SGD(0.1))
    kept = {}

    class Spoil(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                kept["best"] = model.get_weights()
                model.optimizer.learning_rate = 1e4

    history = model.fit(
        LISTS,
        CLASSES,
        epochs=20,
        verbose=0,
        validation_data=(LISTS, CLASSES),
        callbacks=[Spoil(), EarlyStopping(patience=2, restore_best_weights=True)],
    ).history
    assert len(history["loss"]) == 4
    assert all(np.array_equal(a, b) for a, b in zip(kept["best"], model.get_weights(), strict=True))


def test_stop_training_ends_the_epoch_and_the_run():
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model, seen = tagger(), Batches()
    history = model.fit(LISTS, CLASSES, batch_size=1, epochs=5, callbacks=[Stop(), seen], verbose=0)
    assert seen.ends == [0, 1] and len(history.history["loss"]) == 1
    assert len(model.fit(LISTS, CLASSES, epochs=2, verbose=0).history["loss"]) == 2  # the next run starts afresh


@pytest.mark.slow
@pytest.mark.parametrize(("verbose", "lines"), [(0, 0), (1, 2), (2, 2), ("auto", 2)])
def test_output_to_a_file_has_one_line_for_each_epoch(verbose, lines, capsys):
    model = tagger(metrics=["accuracy"])
    model.fit(LISTS, CLASSES, batch_size=1, epochs=2, verbose=verbose, validation_data=(LISTS, CLASSES))
    text = capsys.readouterr().out
    assert len(text.splitlines()) == lines and "\x1b" not in text and "\r" not in text
    assert text.count("val_accuracy") == lines
    model.evaluate(LISTS, CLASSES, batch_size=1, verbose=verbose)
    model.predict(LISTS, batch_size=1, verbose=verbose)
    assert len(capsys.readouterr().out.splitlines()) == lines


def test_training_mode_of_the_model_is_restored():
    model = tagger()
    model.train()
    model.evaluate(LISTS, CLASSES, verbose=0)
    model.predict(LISTS, verbose=0)
    assert model.training and all(layer.training for layer in model.layers[1:])


def test_methods_before_compile_raise_not_built():
    model = Sequential([Dense(1)])
    for verb in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(NotBuilt, match=r"compile\("):
            verb(np.ones((2, 3)), np.ones((2, 1)))
    assert model.predict(np.ones((2, 3)), verbose=0).shape == (2, 1)


def test_an_empty_iterable_is_refused():
    model, empty = tagger(), iter([])
    with pytest.raises(DataError, match="gave no batch"):
        model.fit(empty, verbose=0)


def test_the_loss_after_dropmask_counts_all_steps():
    x = Input((None,))
    model = Model(x, DropMask()(Dense(1)(Embedding(5, 3, mask_zero=True)(x))))
    model.compile("sgd", "mse")
    out = model.predict(grid(LISTS), verbose=0)
    assert out[1, 1:].std() == 0 and out[1, 1] != 0
    assert model.evaluate(grid(LISTS), np.zeros((6, 4, 1)), verbose=0) == pytest.approx(np.square(out).mean(), rel=1e-5)


def test_a_model_without_weights_is_evaluated():
    x = Input((None,))
    model = Model(x, x * 2.0)
    model.compile(loss="mse")
    assert model.evaluate(np.ones((2, 3)), np.zeros((2, 3)), verbose=0) == pytest.approx(4.0)
    with pytest.raises(ArgumentError, match="no trainable weights"):
        model.fit(np.ones((2, 3)), np.zeros((2, 3)), verbose=0)
