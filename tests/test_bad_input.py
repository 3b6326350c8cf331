"""Bad input gets an error that names it, before anything has changed: weights, optimizer, random numbers, states."""

import numpy as np
import pytest
import torch

import padless
from padless import Input, Model, Sequential
from padless.errors import ArgumentError, DataError, MaskError, MaskLost, NotBuilt, PadlessError, ShapeError
from padless.layers import GRU, Add, Dense, Dropout, Embedding, LastStep, Layer, LayerNormalization, Masking

GOOD = [[1, 2], [3], [4, 4, 1], [2, 2]]
CLASSES = [[0, 1], [2], [0, 0, 1], [2, 1]]


def grid(lists, width=3):
    return np.stack([np.pad(np.asarray(row, float), (0, width - len(row))) for row in lists])


def graph():
    x = Input((None,), name="ids")
    h = Dropout(0.5)(GRU(4, return_sequences=True)(Embedding(5, 3, mask_zero=True, name="embed")(x)))
    return Model(x, Dense(3, activation="softmax", name="tag")(LayerNormalization()(h)))


def nested():
    x = Input((None,))
    inner = Sequential([Embedding(5, 3, mask_zero=True, name="embed"), Dropout(0.5)])
    return Model(x, Dense(3, activation="softmax", name="tag")(inner(x)))


class Own(Model):
    def __init__(self):
        super().__init__()
        self.embed, self.drop = Embedding(5, 3, mask_zero=True, name="embed"), Dropout(0.5)
        self.tag = Dense(3, activation="softmax")

    def call(self, inputs):
        return self.tag(self.drop(self.embed(inputs)))


def stack():
    return Sequential([Embedding(5, 3, mask_zero=True, name="embed"), Dropout(0.5), Dense(3, activation="softmax")])


MODELS = [graph, nested, Own, stack]


def trained(make):
    """A model with everything that could change: weights, statistics, momentum."""
    model = make()
    model.compile(padless.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(GOOD, CLASSES, verbose=0)
    return model


def snapshot(model):
    state = model.optimizer.state_dict() if model.optimizer.built else {}
    return [
        *model.get_weights(),
        *(np.asarray(v) for s in state.get("state", {}).values() for v in s.values()),
        torch.get_rng_state().numpy(),
    ]


def unchanged(model, before):
    return all(np.array_equal(a, b) for a, b in zip(before, snapshot(model), strict=True))


LAST = {
    "an id outside the vocabulary": ([*GOOD[:3], [2, 5]], CLASSES, DataError, r"'embed'.*0 to 4.*id 5 at step 1 of row 3"),
    "a negative id": ([*GOOD[:3], [-1, 2]], CLASSES, DataError, r"id -1 at step 0 of row 3"),
    "half an id": ([*GOOD[:3], [2.5, 2.0]], CLASSES, DataError, r"id 2.5 at step 0 of row 3"),
    "NaN as id": ([*GOOD[:3], [2.0, np.nan]], CLASSES, DataError, r"id nan at step 1 of row 3"),
    "too many labels": (GOOD, [*CLASSES[:3], [2, 1, 0]], DataError, r"3 labels in row 3.*2 real steps"),
    "too few labels": (GOOD, [*CLASSES[:3], [2]], DataError, r"1 labels in row 3.*2 real steps"),
    "a label that is no class": (GOOD, [*CLASSES[:3], [2, 3]], DataError, r"3 at a real step.*0 to 2"),
    "a negative label": (GOOD, [*CLASSES[:3], [2, -1]], DataError, r"-1 at a real step.*0 to 2"),
    "half a label": (GOOD, [*CLASSES[:3], [0.5, 1.0]], DataError, r"0.5 at a real step"),
}


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("what", LAST)
def test_an_error_in_the_last_example_is_found_before_the_first_step(make, what):
    x, y, kind, message = LAST[what]
    model = trained(make)
    before = snapshot(model)
    with pytest.raises(kind, match=message):
        model.fit(x, y, batch_size=1, verbose=0)
    with pytest.raises(kind, match=message):
        model.fit(GOOD, CLASSES, batch_size=1, validation_data=(x, y), verbose=0)
    assert unchanged(model, before)


@pytest.mark.parametrize("make", MODELS)
def test_an_error_in_a_padded_grid_is_found_before_the_first_step(make):
    model = trained(make)
    before, x, y = snapshot(model), grid(GOOD), grid(CLASSES)
    for where, value, message in (
        ("x", 7, r"id 7"),
        ("x", 1.5, r"id 1\.5"),
        ("x", np.nan, "id nan"),
        ("x", np.inf, "id inf"),
        ("y", 9, "holds 9"),
    ):
        bad = {"x": x.copy(), "y": y.copy()}
        bad[where][3, 1] = value
        with pytest.raises(DataError, match=message):
            model.fit(bad["x"], bad["y"], batch_size=1, verbose=0)
    assert unchanged(model, before)
    y[3, 2] = 99  # a masked step is never looked at
    model.fit(x, y, batch_size=1, verbose=0)
    assert not unchanged(model, before)


@pytest.mark.parametrize("make", MODELS)
def test_train_on_batch_and_test_on_batch_check_the_batch(make):
    model = trained(make)
    before = snapshot(model)
    for x, y, kind, message in LAST.values():
        with pytest.raises((kind, ShapeError), match=message if make is not Own else None):
            model.train_on_batch(x, y)
        assert all(np.array_equal(a, b) for a, b in zip(before[:-1], snapshot(model)[:-1], strict=True))
        with pytest.raises((kind, ShapeError)):
            model.test_on_batch(x, y)


def test_labels_of_outputs_without_a_mask_are_checked():
    x = Input((4,))
    model = Model(x, Dense(3, activation="softmax")(Dropout(0.5)(x)))
    model.compile(padless.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    data = np.ones((5, 4))
    model.fit(data, np.zeros(5), verbose=0)
    before = snapshot(model)
    for y in (np.array([0, 1, 2, 0, 3]), np.array([[0], [1], [2], [0], [-1]])):
        with pytest.raises(DataError, match="not a class: expected whole numbers from 0 to 2"):
            model.fit(data, y, batch_size=1, verbose=0)
    assert unchanged(model, before)


def test_labels_are_compared_with_masks_of_the_data():
    x = Input((None, 2))
    model = Model(x, Dense(1)(Dropout(0.5)(x)))
    model.compile("sgd", "mse")
    data = [np.ones((n, 2)) for n in (2, 3, 1)]
    model.fit(data, [np.zeros(n) for n in (2, 3, 1)], verbose=0)
    before = snapshot(model)
    with pytest.raises(DataError, match="4 labels in row 2, but its mask has 1"):
        model.fit(data, [np.zeros(n) for n in (2, 3, 4)], batch_size=1, verbose=0)
    with pytest.raises(DataError, match="sample weights of output.*2 weights in row 1"):
        weights = [np.ones(n) for n in (2, 2, 1)]
        model.fit(data, [np.zeros(n) for n in (2, 3, 1)], sample_weight=weights, batch_size=1, verbose=0)
    assert unchanged(model, before)


def test_rows_are_counted_from_the_first_example():
    model = trained(graph)
    x = np.ones((5000, 2), int)
    x[4999, 1] = 9
    with pytest.raises(DataError, match=r"row 4999\."):
        model.fit(x, np.zeros((5000, 2)), verbose=0)
    lists = [[1]] * 5000
    with pytest.raises(DataError, match="2 labels in row 4998"):
        model.fit(lists, [*lists[:4998], [1, 1], [1]], verbose=0)


# --------------------------------------------------------------------------------------- labels that must be accepted


def test_labels_of_merged_and_narrowed_masks_are_accepted():
    a, b = Input((None,), name="a"), Input((None,), name="b")
    embed = Embedding(5, 3, mask_zero=True)
    merged = Model([a, b], Dense(1)(Add()([embed(a), embed(b)])))
    merged.compile("sgd", "mse")
    x = [np.array([[1, 0, 0], [1, 2, 0]]), np.array([[1, 2, 0], [1, 0, 0]])]
    assert np.isfinite(merged.fit(x, [[1.0, 2.0], [1.0, 2.0]], verbose=0).history["loss"][0])

    ids = Input((None,), masked=True)
    narrowed = Model(ids, Dense(1)(embed(ids)))
    narrowed.compile("sgd", "mse")
    assert np.isfinite(narrowed.fit([[1, 0, 2], [3]], [[1.0, 2.0], [1.0]], verbose=0).history["loss"][0])
    one_for_each_id = narrowed.evaluate([[1, 0, 2], [3]], [[1.0, 9.0, 2.0], [1.0]], verbose=0)
    assert one_for_each_id == pytest.approx(narrowed.evaluate([[1, 0, 2], [3]], [[1.0, 2.0], [1.0]], verbose=0))
    with pytest.raises(DataError, match="4 labels in row 0, but its mask has 2"):
        narrowed.fit([[1, 0, 2], [3]], [[1.0, 2.0, 3.0, 4.0], [1.0]], verbose=0)


def test_labels_of_merged_masks_in_a_user_defined_call_are_accepted():
    class Merge(Model):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.add = Embedding(5, 3, mask_zero=True), Embedding(5, 3, mask_zero=True), Add()

        def call(self, inputs):
            return self.add([self.one(inputs["a"]), self.two(inputs["b"])])[..., :1]

    model = Merge()
    model.compile("sgd", "mse")
    x = {"a": np.array([[1, 2, 0], [1, 0, 0]]), "b": np.array([[3, 1, 0], [1, 2, 0]])}  # equal in the first example
    assert np.isfinite(model.fit(x, [[1.0, 2.0], [1.0, 2.0]], verbose=0).history["loss"][0])


@pytest.mark.parametrize("make", MODELS)
def test_ids_of_0_in_a_list_have_no_label(make):
    model = trained(make)
    x = [[1, 2], [3, 0, 4], [0], [1]]  # the first example does not show that id 0 is masked
    assert np.isfinite(model.fit(x, [[0, 1], [2, 2], [], [0]], verbose=0).history["loss"][0])
    with pytest.raises(DataError, match="3 labels in row 1, but its mask has 2"):
        model.fit(x, [[0, 1], [2, 0, 2], [], [0]], verbose=0)


def test_a_list_of_equally_long_labels_is_a_padded_grid():
    model = trained(graph)
    y = padless.pack(grid(CLASSES).astype(int).tolist())
    assert np.isfinite(model.fit(grid(GOOD), y, verbose=0).history["loss"][0])


def test_labels_of_a_loss_of_whole_sequences_may_have_another_length():
    class Length(padless.losses.Loss):
        relation = "sequence"
        targets_share_mask = False

        def call(self, y_true, y_pred):
            return (y_pred.sum((1, 2)) - y_true.shape[1]) ** 2

    model = graph()
    model.compile("sgd", Length())
    assert np.isfinite(model.fit(GOOD, [[1], [1], [1], [1]], verbose=0).history["loss"][0])


# ---------------------------------------------------------------------------------------------------- the data as such


@pytest.mark.parametrize(
    ("x", "y", "kind", "message"),
    [
        (GOOD, CLASSES[:3], DataError, "x holds 4 examples, y holds 3"),
        ([], [], DataError, "0 examples"),
        (np.zeros((0, 3)), np.zeros((0, 3)), DataError, "0 examples"),
        (None, CLASSES, ArgumentError, "x is None"),
        (GOOD, None, ArgumentError, "y is None"),
        ("text", CLASSES, DataError, "text"),
        ([["a", "b"], ["c"], ["d"], ["e"]], CLASSES, DataError, "'a'"),
        (np.array([["a"], ["b"], ["c"], ["d"]]), CLASSES, DataError, "Turn text into ids"),
        ([GOOD, GOOD], CLASSES, DataError, "unequal|examples"),
        ({"id": GOOD}, CLASSES, ArgumentError, r"\['id'\]"),
        (np.ones((4, 2, 3)), CLASSES, ShapeError, r"'ids' expected shape \(None, None\); got \(4, 2, 3\)"),
        (GOOD, {"tags": CLASSES}, ArgumentError, r"\['tags'\].*tag"),
        (5, CLASSES, DataError, "single value 5"),
    ],
)
def test_bad_data_are_refused(x, y, kind, message):
    model = trained(graph)
    before = snapshot(model)
    with pytest.raises(kind, match=message):
        model.fit(x, y, verbose=0)
    assert unchanged(model, before)


def test_the_number_and_size_of_inputs():
    a, b = Input((3,), name="a"), Input((3,), name="b")
    model = Model([a, b], Dense(1)(Dropout(0.5)(a + b)))
    model.compile(padless.optimizers.Adam(0.1), "mse")
    one, y = np.ones((4, 3)), np.ones((4, 1))
    model.fit([one, one], y, verbose=0)
    before = snapshot(model)
    for x, kind, message in (
        (one, ArgumentError, r"x holds one ndarray.*2 inputs \(a, b\)"),
        ([one], ArgumentError, "x holds 1 arrays"),
        ([one, one, one], ArgumentError, "x holds 3 arrays"),
        ({"a": one}, ArgumentError, r"missing: \['b'\]"),
        ({"a": one, "b": one, "c": one}, ArgumentError, r"\['c'\]"),
        ([one, None], ArgumentError, r"None for \[1\]"),
        ([one, np.ones((4, 5))], ShapeError, r"'b' expected shape \(None, 3\); got \(4, 5\)"),
        ([one, np.ones((5, 3))], DataError, "4 examples.*5"),
    ):
        with pytest.raises(kind, match=message):
            model.fit(x, y, verbose=0)
        with pytest.raises(kind):
            model.predict(x, verbose=0)
    assert unchanged(model, before)


def test_targets_and_weights_of_several_outputs():
    x = Input((3,))
    model = Model(x, [Dense(1, name="one")(x), Dense(2, name="two")(x)])
    model.compile("sgd", ["mse", "mse"])
    data, one, two = np.ones((4, 3)), np.ones((4, 1)), np.ones((4, 2))
    model.fit(data, [one, two], verbose=0)
    before = snapshot(model)
    for y, kind, message in (
        (one, ArgumentError, r"2 outputs \(one, two\)"),
        ([one], ArgumentError, "y holds 1 arrays"),
        ({"one": one}, ArgumentError, r"missing: \['two'\]"),
        ([one, two[:3]], DataError, "4 examples.*3"),
    ):
        with pytest.raises(kind, match=message):
            model.fit(data, y, verbose=0)
    assert unchanged(model, before)
    with pytest.raises(ShapeError, match=r"`sample_weight` of shape \(4, 7\)"):
        model.fit(data, [one, two], sample_weight=[None, np.ones((4, 7))], verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before[:-1], snapshot(model)[:-1], strict=True))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a positive integer; got 0"),
        ({"epochs": 1.5}, "got 1.5"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer; got 0"),
        ({"validation_split": 1.5}, "between 0 and 1; got 1.5"),
        ({"validation_data": (GOOD,)}, r"\(x, y\).*got 1 entries"),
        ({"verbose": 3}, "verbose must be.*got 3"),
        ({"callbacks": ["stop"]}, "'stop'"),
        ({"steps_per_epoch": 0}, "got 0"),
    ],
)
def test_bad_arguments_of_fit_are_refused(kwargs, message):
    model = trained(graph)
    before = snapshot(model)
    with pytest.raises(ArgumentError, match=message):
        model.fit(GOOD, CLASSES, **{"verbose": 0, **kwargs})
    assert unchanged(model, before)


# --------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((2, 4), bool), r"\(2, 4\) does not fit data of shape \(2, 3, 2\).*\(2, 3\)"),
        (np.ones((3, 3), bool), r"\(3, 3\)"),
        (np.ones(3, bool), r"has shape \(3,\); expected \(batch, steps\)"),
        (np.full((2, 3), 2), "2 in it"),
        (np.full((2, 3), 0.5), "0.5 in it"),
        ([[True, False], [True]], "unequal length"),
        (np.full((2, 3), "x"), "'x'"),
    ],
)
def test_a_mask_of_a_wrong_shape_or_type_is_refused(mask, message):
    x = Input((None, 2))
    model = Model(x, LastStep()(x))
    for call in (
        lambda: model(torch.ones(2, 3, 2), mask=mask),
        lambda: LastStep()(torch.ones(2, 3, 2), mask=mask),
        lambda: padless.pack(np.ones((2, 3, 2)), mask=mask),
    ):
        with pytest.raises(MaskError, match=message):
            call()


def test_the_error_for_a_lost_mask_names_the_mask_source():
    x = Input((None,))
    h = Embedding(5, 3, mask_zero=True, name="embed")(x)
    with pytest.raises(MaskLost, match="Embedding 'embed'.*(?s:.*)DropMask"):
        h.mean(1)

    class Sum(Layer):
        def call(self, inputs):
            return inputs.sum(1)

    with pytest.raises(MaskLost, match="'sum'.*(?s:.*)Embedding 'embed'"):
        Model(x, Sum()(h))
    stack = Sequential([Masking(), Sum(name="total")])
    stack.compile("sgd", "mse")
    with pytest.raises(MaskLost, match="'total'"):
        stack.fit(np.ones((2, 3, 1)), np.ones((2, 1)), verbose=0)


def test_a_mask_in_the_data_that_would_be_lost_is_found_before_training():
    x = Input((3, 2))
    model = Model(x, Dense(1)(Dropout(0.5)(x).sum(1)))
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 3, 2)), np.ones((2, 1)), verbose=0)
    before = snapshot(model)
    with pytest.raises(MaskLost, match="the data of input 'input_layer'"):
        model.fit([np.ones((2, 2)), np.ones((3, 2))], np.ones((2, 1)), verbose=0)
    assert unchanged(model, before)


# ------------------------------------------------------------------------------------------------------- unknown names


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: graph().compile("adm", "mse"), "optimizer 'adm'.*Did you mean 'adam'"),
        (lambda: graph().compile("adam", "msee"), "loss 'msee'.*Did you mean 'mse'"),
        (lambda: graph().compile("adam", "mse", metrics=["acuracy"]), "metric 'acuracy'.*accuracy"),
        (lambda: graph().compile("adam", "mse", weighted_metrics=[3]), "3 is not a metric"),
        (lambda: graph().compile("adam", 3), "3 is not a loss"),
        (lambda: graph().compile(3, "mse"), "3 is not an optimizer"),
        (lambda: graph().compile("adam", {"tags": "mse"}), r"\['tags'\].*\['tag'\]"),
        (lambda: graph().compile("adam", ["mse", "mse"]), r"one entry for each.*\['tag'\]; got 2"),
        (lambda: graph().compile("adam", "mse", loss_weights=["x"]), "must be numbers; got 'x'"),
        (lambda: Own().compile("adam", "msee"), "loss 'msee'"),
        (lambda: Own().compile("adm"), "optimizer 'adm'"),
        (lambda: Dense(2, activation="rel"), "activation 'rel'.*Did you mean 'relu'"),
        (lambda: Dense(2, kernel_initializer="glorot"), "initializer 'glorot'"),
        (lambda: Dense(2, kernel_regularizer="l3"), "regularizer 'l3'"),
        (lambda: Dense(2, kernel_constraint="positive"), "constraint 'positive'"),
        (lambda: Dense(2, colour="red"), "colour"),
        (lambda: graph().get_layer("tags"), "no layer 'tags'"),
    ],
)
def test_unknown_names_are_refused(make, message):
    with pytest.raises((ArgumentError, TypeError), match=message):
        make()


def test_a_failed_compile_keeps_the_previous_arguments():
    model = trained(graph)
    optimizer = model.optimizer
    with pytest.raises(ArgumentError):
        model.compile("sgd", "msee")
    assert model.optimizer is optimizer and model.evaluate(GOOD, CLASSES, verbose=0)[0] > 0


def test_a_model_can_be_trained_after_a_failed_fit():
    model = trained(graph)
    with pytest.raises(DataError):
        model.fit([[9]], [[0]], verbose=0)
    assert not model.training and not any(layer.training for layer in model.layers)
    model.fit(GOOD, CLASSES, verbose=0)


def test_all_errors_are_padless_errors():
    for kind in (ArgumentError, ShapeError, MaskError, MaskLost, DataError, NotBuilt):
        assert issubclass(kind, PadlessError)
    model = trained(graph)
    with pytest.raises(ValueError):
        model.fit([[9]], [[0]], verbose=0)
