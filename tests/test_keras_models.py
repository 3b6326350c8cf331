"""Models against Keras 3.15.1 on torch: loss, gradients, training with every optimizer, results, names and orders.

Training is compared where both libraries compute the same: batch by batch, and over epochs of one batch. For several
batches Keras does not report the mean over steps (docs/differences.md).
"""

import numpy as np
import pytest
import torch
from keras_parity import (
    KINDS,
    LIBRARIES,
    D,
    T,
    V,
    all_ids,
    close,
    ids_of,
    keras,
    losing,
    numbers,
    shown,
    twin_models,
)

import padless

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own

OPTIMIZERS = {
    "sgd": lambda lib: lib.optimizers.SGD(0.1),
    "momentum": lambda lib: lib.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda lib: lib.optimizers.Adam(0.01),
    "adamw": lambda lib: lib.optimizers.AdamW(0.01),
    "rmsprop": lambda lib: lib.optimizers.RMSprop(0.01),
}


def embedded(lib, width=D, **arguments):
    """Return an Input of ids and the embedded ids."""
    x = lib.Input((T,), **arguments)
    return x, lib.layers.Embedding(V, width, mask_zero=True)(x)


def tagger(lib, units=3, activation=None):
    """Return a model of several kinds of layers with one output for each step."""
    x, h = embedded(lib)
    h = lib.layers.LayerNormalization()(lib.layers.Dense(4, activation="tanh")(h))
    h = lib.layers.GRU(3, return_sequences=True)(lib.layers.Bidirectional(lib.layers.LSTM(2, return_sequences=True))(h))
    return lib.Model(x, lib.layers.TimeDistributed(lib.layers.Dense(units, activation=activation))(h))


def short(lib, units=2, activation=None):
    x, h = embedded(lib)
    return lib.Model(x, lib.layers.Dense(units, activation=activation)(lib.layers.LSTM(2, return_sequences=True)(h)))


def classifier(lib):
    x, h = embedded(lib)
    h = lib.layers.Concatenate()([lib.layers.GRU(2)(h), lib.layers.SimpleRNN(3)(h)])
    return lib.Model(x, lib.layers.Dense(1, activation="sigmoid")(h))


def flattened(lib):
    """Return a model that reads the padded grid, so that gap values have gradients."""
    x, h = embedded(lib)
    h = lib.layers.LSTM(2, return_sequences=True)(h)
    h = lib.layers.DropMask()(h) if lib is padless else h
    return lib.Model(x, lib.layers.Dense(1)(lib.layers.Flatten()(h)))


def grid_of_many_layers(lib):
    """Return the same with more layers that have gap values."""
    x, h = embedded(lib)
    h = lib.layers.LayerNormalization()(lib.layers.Dense(4, activation="tanh")(h))
    h = lib.layers.Bidirectional(lib.layers.GRU(2, return_sequences=True))(h)
    h = lib.layers.Multiply()([lib.layers.TimeDistributed(lib.layers.Dense(3))(h), lib.layers.Dense(3)(h)])
    h = lib.layers.Dense(2, activation="sigmoid")(h)
    h = lib.layers.DropMask()(h) if lib is padless else h
    return lib.Model(x, lib.layers.Dense(1)(lib.layers.Flatten()(h)))


def compiled(build, optimizer="sgd", loss="mse", **arguments):
    """Return both models with the same weights, compiled with the same arguments."""
    with losing():
        models = twin_models(build)
    for lib, model in zip(LIBRARIES, models, strict=True):
        model.compile(OPTIMIZERS[optimizer](lib), loss, **arguments)
    return models


def fitted(models, x, y, epochs=4, size=10**6, **arguments):
    """Train both models and compare their histories and weights."""
    start = models[0].get_weights()
    with losing():
        mine, theirs = (
            m.fit(x, y, batch_size=size, epochs=epochs, shuffle=False, verbose=0, **arguments).history for m in models
        )
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        close(a, b)
    assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(start, models[0].get_weights(), strict=True))
    assert set(mine) == set(theirs)
    if size >= len(y):
        for name in mine:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=2e-5, err_msg=name)
    return mine


def agree(models, *args, **arguments):
    """Compare the results of `evaluate`, as a list and as a dictionary."""
    with losing():
        mine, theirs = (m.evaluate(*args, batch_size=10**6, verbose=0, **arguments) for m in models)
        named, others = (m.evaluate(*args, batch_size=10**6, verbose=0, return_dict=True, **arguments) for m in models)
    assert np.shape(mine) == np.shape(theirs)
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    assert set(named) == set(others)
    for name in named:
        np.testing.assert_allclose(named[name], others[name], rtol=1e-5, err_msg=name)
    return mine


# ------------------------------------------------------------------------------------------------ two experiments


@pytest.mark.parametrize("lib", LIBRARIES, ids=["padless", "keras"])
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_the_first_experiment(lib, dtype):
    x = lib.Input(shape=(4,))
    e = lib.layers.Embedding(5, 5, mask_zero=True)(x)
    m = lib.Model(inputs=x, outputs=lib.layers.LSTM(3, return_sequences=True)(e))
    out = m.predict(np.array([[1, 0, 2, 0]], dtype=dtype), verbose=0)
    assert out.shape == (1, 4, 3)
    assert np.array_equal(out[0, 1], out[0, 0]) and np.array_equal(out[0, 3], out[0, 2])
    assert not np.array_equal(out[0, 2], out[0, 0])
    rows = m.layers[1].get_weights()[0]
    shows = lib.Model(x, e).predict(np.array([[1, 0, 2, 0]], dtype=dtype), verbose=0)
    assert rows.shape == (5, 5) and (rows[0] != 0).any()
    assert np.array_equal(shows[0], rows[[1, 0, 2, 0]])


@pytest.mark.parametrize("lib", LIBRARIES, ids=["padless", "keras"])
def test_the_second_experiment(lib):
    x = lib.Input(shape=(4,))
    m = lib.Model(x, lib.layers.Dense(3)(lib.layers.Embedding(5, 5, mask_zero=True)(x)))
    m.compile(loss="mse", optimizer="adam")
    data_in, data_out = np.array([[1, 2, 0, 0]]), np.arange(12).reshape(1, 4, 3)
    preds = m.predict(data_in, verbose=0)
    assert np.array_equal(preds[0, 2], preds[0, 3])
    loss = m.evaluate(data_in, data_out, verbose=0)
    np.testing.assert_allclose(loss, np.square(preds[0, :2] - data_out[0, :2]).mean(), rtol=1e-6)


def test_both_experiments_agree():
    for outputs in (lambda lib, e: lib.layers.LSTM(3, return_sequences=True)(e), lambda lib, e: lib.layers.Dense(3)(e)):
        models = compiled(lambda lib, outputs=outputs: (lambda x, e: lib.Model(x, outputs(lib, e)))(*embedded(lib)))
        close(*(m.predict(all_ids(), verbose=0) for m in models))
        agree(models, all_ids(), numbers(len(all_ids()), T, 3))


# ------------------------------------------------------------------------------------------------ training


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1e-5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_several_steps_with_each_optimizer(optimizer, scale):
    """A small loss has gradients of about 1e-6, so that the place of an optimizer's epsilon matters."""
    models = compiled(short, optimizer, loss_weights=[scale])
    y = numbers(len(all_ids()), T, 2)
    start = models[0].get_weights()
    for model in models:
        model.fit(all_ids(), y, batch_size=100, epochs=5, shuffle=False, verbose=0)
    for before, a, b in zip(start, *(m.get_weights() for m in models), strict=True):
        close(a, b, 1e-5)
        moved, expected = a - before, b - before
        np.testing.assert_allclose(moved, expected, rtol=1e-2, atol=2e-7)  # also where the steps are small


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_padded_grid_trains_the_same(optimizer):
    fitted(compiled(flattened, optimizer), all_ids(), numbers(len(all_ids()), 1))


def test_a_grid_of_many_layers_trains_the_same():
    fitted(compiled(grid_of_many_layers, "adam"), all_ids(), numbers(len(all_ids()), 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_mask_trains_the_same(kind):
    models = compiled(tagger, "adam")
    fitted(models, ids_of(kind), numbers(4, T, 3), epochs=3)
    close(*(m.predict(ids_of(kind), verbose=0) for m in models), 2e-5)


def test_several_batches_train_the_same():
    fitted(compiled(short, "adam"), all_ids(), numbers(len(all_ids()), T, 2), epochs=2, size=6)


def test_regularizers_and_constraints_train_the_same():
    def build(lib):
        x = lib.Input((T,))
        h = lib.layers.Embedding(V, D, mask_zero=True, embeddings_regularizer="l2")(x)
        h = lib.layers.LSTM(2, return_sequences=True, kernel_regularizer="l1", recurrent_constraint="unit_norm")(h)
        return lib.Model(x, lib.layers.Dense(2, bias_regularizer="l2", kernel_constraint="max_norm")(h))

    models = compiled(build)
    fitted(models, all_ids(), numbers(len(all_ids()), T, 2))
    agree(models, all_ids(), numbers(len(all_ids()), T, 2))


def test_one_batch_at_a_time():
    models = compiled(short, "adam", metrics=["mae"])
    for verb in ("train_on_batch", "test_on_batch"):
        for seed in range(3):
            results = [getattr(m, verb)(all_ids(seed), numbers(len(all_ids()), T, 2, seed=seed)) for m in models]
            np.testing.assert_allclose(*results, rtol=1e-5)
    close(*(m.predict_on_batch(all_ids()) for m in models), 2e-5)


def test_a_frozen_layer_does_not_change():
    def build(lib):
        model = short(lib)
        model.layers[2].trainable = False
        return model

    models = compiled(build, "adam")
    before = models[0].layers[2].get_weights()
    for m in models:
        m.fit(all_ids(), numbers(len(all_ids()), T, 2), batch_size=100, epochs=2, verbose=0, shuffle=False)
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        close(a, b)
    for a, b in zip(before, models[0].layers[2].get_weights(), strict=True):
        assert np.array_equal(a, b)


# ------------------------------------------------------------------------------------------------ losses


def classes(*shape):
    return np.random.default_rng(4).integers(0, 3, shape)


N = len(all_ids())
LOSSES = {
    "mse": (3, None, lambda lib: "mse", numbers(N, T, 3)),
    "mae": (3, None, lambda lib: "mae", numbers(N, T, 3)),
    "bce": (1, "sigmoid", lambda lib: "binary_crossentropy", (classes(N, T, 1) > 0).astype("float32")),
    "bce logits": (1, None, lambda lib: lib.losses.BinaryCrossentropy(from_logits=True), classes(N, T, 1) // 2),
    "cce": (3, "softmax", lambda lib: "categorical_crossentropy", np.eye(3, dtype="float32")[classes(N, T)]),
    "scce": (3, "softmax", lambda lib: "sparse_categorical_crossentropy", classes(N, T)),
    "scce column": (3, "softmax", lambda lib: "sparse_categorical_crossentropy", classes(N, T, 1)),
    "scce logits": (3, None, lambda lib: lib.losses.SparseCategoricalCrossentropy(from_logits=True), classes(N, T)),
    "sum": (3, None, lambda lib: lib.losses.MeanSquaredError(reduction="sum"), numbers(N, T, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss(name):
    units, activation, loss, y = LOSSES[name]
    models = twin_models(lambda lib: short(lib, units, activation))
    for lib, model in zip(LIBRARIES, models, strict=True):
        metrics = {"metrics": ["accuracy"]} if "ce" in name else {"metrics": ["mae"], "weighted_metrics": ["mse"]}
        model.compile(OPTIMIZERS["sgd"](lib), loss(lib), **metrics)
    agree(models, all_ids(), y)
    agree(models, all_ids(), y, sample_weight=numbers(N, T) ** 2)
    fitted(models, all_ids(), y, epochs=2, sample_weight=numbers(N, T) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [None, np.arange(20.0), np.arange(20.0)[:, None]], ids=["none", "rows", "column"])
def test_one_number_for_each_row(weight):
    """The output has no mask, so rows without a real step count, too."""
    models = compiled(classifier, "rmsprop", "binary_crossentropy", metrics=["accuracy"], weighted_metrics=["mse"])
    y = np.random.default_rng(4).integers(0, 2, N)
    agree(models, all_ids(), y, sample_weight=weight)
    fitted(models, all_ids(), y, sample_weight=weight)
    close(*(m.predict(all_ids(), batch_size=7, verbose=0) for m in models), 2e-5)


# ------------------------------------------------------------------------------------------------ several inputs and outputs


def several(lib):
    """Two inputs through shared layers, two outputs."""
    (a, x), b = embedded(lib, name="a"), lib.Input((T,), name="b")
    embed = lib.layers.Embedding(V, D, mask_zero=True)
    rnn = lib.layers.LSTM(2, return_sequences=True)
    h = lib.layers.Maximum()([rnn(embed(a)), rnn(embed(b))])
    pooled = lib.layers.GlobalAveragePooling1D()(lib.layers.Concatenate()([x, rnn(embed(a))]))
    return lib.Model([a, b], [lib.layers.Dense(2, name="steps")(h), lib.layers.Dense(1, name="row")(pooled)])


@pytest.mark.slow
def test_several_inputs_and_outputs():
    ids = np.concatenate([ids_of(kind) for kind in KINDS[:-1]])  # Keras's mean of an empty row is NaN
    y = [numbers(len(ids), T, 2), numbers(len(ids), 1, seed=8)]
    models = compiled(several, "adam", ["mse", "mae"], loss_weights=[1.0, 0.3], metrics=[["mae"], ["mse", "mae"]])
    results = agree(models, [ids, np.roll(ids, 3, 0)], y)
    assert len(results) == 6
    agree(models, {"b": ids, "a": np.roll(ids, 1, 0)}, y, sample_weight=[numbers(len(ids), T) ** 2, np.arange(len(ids))])
    fitted(models, [ids, np.roll(ids, 3, 0)], y)
    (steps, row), (other, rows) = (m.predict([ids, ids], verbose=0) for m in models)
    close(row, rows, 2e-5)
    close(steps, other, 2e-5)
    assert models[0].output_names == models[1].output_names == ["steps", "row"]


def test_losses_by_name_and_outputs_without_one():
    def build(lib):
        x, h = embedded(lib)
        return lib.Model(
            x,
            {"left": lib.layers.Dense(2, name="left")(h), "right": lib.layers.Dense(1, name="right")(lib.layers.LSTM(2)(h))},
        )

    y = {"right": numbers(N, 1), "left": numbers(N, T, 2)}
    models = compiled(
        build, "sgd", {"left": "mse", "right": "mae"}, loss_weights={"left": 0.5, "right": 2.0}, metrics={"right": ["mse"]}
    )
    agree(models, all_ids(), y)
    fitted(models, all_ids(), y)


def test_validation_and_history():
    models = compiled(short, "adam", metrics=["mae"])
    history = fitted(models, all_ids(), numbers(N, T, 2), validation_data=(all_ids(1), numbers(N, T, 2, seed=7)))
    assert list(history) == ["loss", "mae", "val_loss", "val_mae"]
    split = fitted(compiled(short, "adam"), ids_of("right"), numbers(4, T, 2), validation_split=0.5)
    assert list(split) == ["loss", "val_loss"]


def test_sequential_built_by_its_data():
    def build(lib):
        layers = lib.layers
        model = lib.Sequential(
            [
                layers.Embedding(V, D, mask_zero=True),
                layers.Bidirectional(layers.LSTM(2)),
                layers.Dropout(0.5),
                layers.Dense(1, activation="sigmoid"),
            ]
        )
        model.predict(all_ids(), verbose=0)
        return model

    models = compiled(build, "adam", "binary_crossentropy", metrics=["accuracy"])
    agree(models, all_ids(), np.arange(N) % 2)
    assert [type(layer).__name__ for layer in models[0].layers] == [type(layer).__name__ for layer in models[1].layers]


def test_models_in_models():
    def build(lib):
        inner = short(lib)
        x, y = lib.Input((T,)), lib.Input((T,))
        return lib.Model([x, y], lib.layers.Dense(1)(lib.layers.Add()([inner(x), inner(y)])))

    models = compiled(build, "adam")
    fitted(models, [ids_of("right"), ids_of("right", 3)], numbers(4, T, 1))


def test_a_part_of_a_model():
    mine, theirs = twin_models(tagger)
    for name in ("dense", "gru"):
        parts = []
        for lib, model in ((padless, mine), (keras, theirs)):
            layer = next(layer for layer in model.layers if layer.name.rstrip("_0123456789") == name)
            parts.append(lib.Model(model.input, layer.output))
        close(*(part.predict(all_ids(), verbose=0) for part in parts))


def test_layers_are_listed_as_in_keras():
    """The order is by the distance from the outputs, so that weights can be copied by position."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        seed = rng.integers(1 << 30)

        def build(lib, seed=seed):
            random = np.random.default_rng(seed)
            sources = [lib.Input((3,), name=f"input{k}") for k in range(random.integers(1, 4))]
            have, layers = list(sources), []
            for number in range(random.integers(2, 9)):
                kind = random.integers(0, 4)
                if kind < 2 or kind == 3 and not layers:
                    layers.append(lib.layers.Dense(3, name=f"dense{number}"))
                    have.append(layers[-1](have[random.integers(len(have))]))
                elif kind == 2:
                    have.append(lib.layers.Add(name=f"add{number}")([have[k] for k in random.integers(0, len(have), 2)]))
                else:
                    have.append(layers[random.integers(len(layers))](have[random.integers(len(have))]))
            return lib.Model(sources, [have[-1], *(have[k] for k in random.integers(len(sources), len(have), 2))])

        mine, theirs = (build(lib) for lib in LIBRARIES)
        assert [layer.name for layer in mine.layers] == [layer.name for layer in theirs.layers]


def test_a_translator():
    """The decoder begins with the encoder's states; Keras then needs an explicit mask."""

    def build(lib):
        source, h = embedded(lib)
        _, *states = lib.layers.LSTM(3, return_state=True)(h)
        target, g = embedded(lib)
        again = {} if lib is padless else {"mask": keras.ops.not_equal(target, 0)}
        g = lib.layers.LSTM(3, return_sequences=True)(g, initial_state=states, **again)
        return lib.Model([source, target], lib.layers.Dense(V, activation="softmax")(g))

    models = compiled(build, "adam", "sparse_categorical_crossentropy")
    x, y = all_ids(), all_ids(1)
    agree(models, [x, y], all_ids(2))
    fitted(models, [x, y], all_ids(2))
    close(*(m.predict([x, y], verbose=0) for m in models), 2e-5)


def test_a_subclass_with_a_call():
    def build(lib):
        class Tagger(lib.Model):
            def __init__(self):
                super().__init__()
                self.embed = lib.layers.Embedding(V, D, mask_zero=True)
                self.rnn = lib.layers.LSTM(2, return_sequences=True)
                self.out = lib.layers.Dense(2)

            def call(self, x):
                return self.out(self.rnn(self.embed(x)))

        model = Tagger()
        model.predict(all_ids(), verbose=0)
        return model

    models = compiled(build, "rmsprop", metrics=["mae"])
    agree(models, all_ids(), numbers(N, T, 2))
    fitted(models, all_ids(), numbers(N, T, 2))
    close(*(m.predict(all_ids(), verbose=0) for m in models), 2e-5)


def test_gradients_of_a_plain_backward():
    mine, theirs = twin_models(tagger)
    out, other = mine(torch.from_numpy(all_ids())), theirs(torch.from_numpy(all_ids()))
    close(out, other)
    y, mask = torch.from_numpy(numbers(N, T, 3)), torch.from_numpy(all_ids() != 0)
    (out.values - y[mask]).square().mean().backward()
    (other - y)[mask].square().mean().backward()
    for a, b in zip(mine.weights, theirs.weights, strict=True):
        close(shown(a.grad), shown(b.value.grad))
