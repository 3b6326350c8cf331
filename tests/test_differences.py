"""Deviations from Keras 3.15.1: one test for each row of docs/differences.md, with the results of both libraries.

If an assertion about Keras fails here, Keras has changed: remove the row.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from keras_parity import (
    B,
    D,
    T,
    V,
    all_ids,
    close,
    embed,
    equal_masks,
    ids_of,
    keras,
    losing,
    mask_on,
    numbers,
    shown,
    table,
    twin_models,
    twins,
)

import padless
from padless.errors import ArgumentError, DataError, MaskLost, NotBuilt

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
L, K = padless.layers, keras.layers
ids = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0]])


def both(make, shape=(None, T, D)):
    """Return the same layer in both libraries, and embedded ids for each."""
    ours, theirs = twins(make, shape)
    return ours, theirs, embed(padless, ids)[0], embed(keras, ids)[0]


def list_tests(name):
    """Return the names of the tests in a file, without the prefix."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return set(re.findall(r"^def test_(\w+)\(", text, re.MULTILINE))


def test_every_row_has_its_test():
    text = (Path(__file__).parent.parent / "docs" / "differences.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    tests = list_tests("test_differences.py") - {"every_row_has_its_test"}
    assert len(rows) == len(set(rows))
    assert tests <= set(rows) <= set().union(*(list_tests(path.name) for path in Path(__file__).parent.glob("test_*.py")))


# ------------------------------------------------------------------------------------------------ masks


def test_lost_mask():
    class Sum:
        def __new__(cls, lib):
            class Total(lib.layers.Layer):
                def call(self, x):
                    return x.sum(1)

            return Total()

    ours, theirs, x, y = *(Sum(lib) for lib in (padless, keras)), embed(padless, ids)[0], embed(keras, ids)[0]
    with pytest.warns(UserWarning, match="does not support masking"):
        assert np.allclose(shown(theirs(y))[1], (table()[4] + 4 * table()[0]), atol=1e-6)  # padding is included
    with pytest.raises(MaskLost, match="total"):
        ours(x)


def test_arithmetic():
    ours, theirs, x, y = both(lambda lib: lib.layers.LSTM(2))
    assert mask_on(y * 2.0) is None and mask_on(x * 2.0) is not None
    close(ours(x * 2.0), theirs(y * 2.0, mask=torch.from_numpy(ids != 0)))
    assert not np.allclose(shown(theirs(y * 2.0)), shown(ours(x * 2.0)), atol=1e-3)  # padding is included in Keras


def test_flatten():
    x, y = embed(padless, ids)[0], embed(keras, ids)[0]
    with pytest.warns(UserWarning, match="does not support masking"):
        keras_output = K.Flatten()(y)
    close(L.Flatten()(x), keras_output)
    assert L.Flatten().compute_mask(x, x.mask) is None and K.Flatten().compute_mask(y, x.mask) is not None


def test_reshape():
    x, y = embed(padless, ids)[0], embed(keras, ids)[0]
    with pytest.warns(UserWarning, match="does not support masking"):
        keras_output = K.Reshape((T, D, 1))(y)
    ours = L.Reshape((T, D, 1))(x)
    close(ours, keras_output)
    assert mask_on(keras_output) is None and np.array_equal(mask_on(ours), ids != 0)
    with pytest.raises(MaskLost):
        L.Reshape((D, T))(x)


def test_layer_normalization_over_time():
    ours, theirs, x, y = both(lambda lib: lib.layers.LayerNormalization(axis=1))
    with pytest.raises(RuntimeError, match="normalized_shape"):  # on torch, masked or not
        theirs(y)
    with pytest.raises(MaskLost):
        ours(x)
    assert ours(x.unpack()).shape == (2, T, D)


def test_initial_state():
    ours, theirs, x, y = both(lambda lib: lib.layers.GRU(2))
    h = torch.from_numpy(numbers(2, 2))
    close(ours(x, initial_state=h), theirs(y, initial_state=h, mask=torch.from_numpy(ids != 0)))
    close(ours(x.unpack(), initial_state=h), theirs(y, initial_state=h))  # equal to a call without a mask
    assert not np.allclose(shown(ours(x, initial_state=h)), shown(theirs(y, initial_state=h)), atol=1e-3)


def test_go_backwards():
    ours, theirs, x, y = both(lambda lib: lib.layers.LSTM(2, go_backwards=True, return_sequences=True))
    a, b = ours(x), theirs(y)
    close(a, b)
    assert mask_on(b).tolist() == (ids != 0).tolist() and mask_on(a).tolist() == (ids != 0)[:, ::-1].tolist()
    assert (shown(b)[1, :4] == 0).all() and (shown(b)[1, 4] != 0).all()  # the one real step has moved to the end


def test_zero_output_for_mask():
    ours, theirs, x, y = both(lambda lib: lib.layers.LSTM(2, zero_output_for_mask=True))
    last = twins(lambda lib: lib.layers.LSTM(2), (None, T, D))[1](y)
    assert (shown(theirs(y)) == 0).all()
    close(ours(x), last)


def test_unroll():
    ours, theirs, x, y = both(lambda lib: lib.layers.LSTM(2, unroll=True, go_backwards=True))
    with pytest.raises((AttributeError, TypeError)):
        theirs(y)
    close(ours(x), twins(lambda lib: lib.layers.LSTM(2, go_backwards=True), (None, T, D))[1](y))


def test_bidirectional_with_state_and_stateful():
    ours, theirs, x, y = both(
        lambda lib: lib.layers.Bidirectional(lib.layers.LSTM(2, return_state=True, stateful=True)), (2, T, D)
    )
    with pytest.raises(TypeError):
        theirs(y)
    assert len(ours(x)) == 5


def test_empty_rows_in_pooling():
    with_empty = np.array([[0, 0, 0, 0, 0], [1, 2, 0, 0, 0]])
    ours = shown(L.GlobalAveragePooling1D()(embed(padless, with_empty)[0]))
    keras_output = shown(K.GlobalAveragePooling1D()(embed(keras, with_empty)[0]))
    assert np.isnan(keras_output[0]).all() and (ours[0] == 0).all()
    close(ours[1], keras_output[1])


def test_masking_nan():
    x = torch.tensor([[[1.0, 2.0], [float("nan"), float("nan")]]])
    assert mask_on(K.Masking(float("nan"))(x)).tolist() == [[True, True]]
    assert mask_on(L.Masking(float("nan"))(x)).tolist() == [[True, False]]


def test_second_masking():
    x, y = embed(padless, ids)[0], embed(keras, ids)[0]
    assert mask_on(K.Masking()(y)).all()  # row 0 of the table is not 0
    equal_masks(mask_on(L.Masking()(x)), ids != 0)
    mask = torch.from_numpy(ids != 0)
    assert K.Masking().compute_mask(y, mask).all() and torch.equal(L.Masking().compute_mask(x, mask), mask)


def test_mask_by_position():
    ours, theirs, x, y = both(lambda lib: lib.layers.LSTM(2, return_sequences=True))
    mask = torch.tensor([[1, 0, 1, 1, 0]] * 2).bool()
    a, b = ours(x.unpack(), None, mask), theirs(torch.from_numpy(shown(y)), None, mask)
    close(a, b)
    assert mask_on(b) is None and np.array_equal(mask_on(a), mask)


def test_mask_ended_by_compute_mask():
    def stopper(lib):
        class Stop(lib.layers.Layer):
            def call(self, x):
                return x

            def compute_mask(self, x, mask=None):
                return None

        return Stop()

    assert mask_on(stopper(keras)(embed(keras, ids)[0])) is not None
    assert mask_on(stopper(padless)(embed(padless, ids)[0])) is None


def test_embedding_in_time_distributed():
    words = np.array([[[1, 2, 0], [3, 0, 0]], [[4, 5, 6], [0, 0, 0]]])
    ours, theirs = twins(lambda lib: lib.layers.TimeDistributed(lib.layers.Embedding(V, D, mask_zero=True)), (None, 2, 3))
    a, b = ours(torch.from_numpy(words)), theirs(torch.from_numpy(words))
    assert mask_on(b) is None and np.array_equal(mask_on(a), words != 0)
    close(a.values, b[torch.from_numpy(words != 0)])


def test_merge_with_an_unmasked_input():
    x, y, plain = embed(padless, ids)[0], embed(keras, ids)[0], torch.from_numpy(numbers(2, T, D))
    assert mask_on(K.Add()([y, plain])) is None and mask_on(K.Concatenate()([y, plain])).all()
    for layer in (L.Add(), L.Concatenate()):
        assert np.array_equal(mask_on(layer([x, plain])), ids != 0)
    close(L.Add()([x, plain]).values, K.Add()([y, plain])[torch.from_numpy(ids != 0)])


def test_merge_of_unequal_masks():
    other = np.array([[1, 2, 0, 4, 0], [0, 6, 0, 0, 0]])
    (x, y), (u, v) = ([embed(lib, i)[0] for i in (ids, other)] for lib in (padless, keras))
    row = table()
    assert np.allclose(shown(K.Add()([u, v]))[0, 3], row[0] + row[4], atol=1e-6)  # the embedding of id 0 is included
    assert np.allclose(shown(L.Add()([x, y]))[0, 3], row[4], atol=1e-6)
    for name in ("Add", "Subtract", "Average", "Concatenate"):
        a, b = getattr(L, name)()([x, y]), getattr(K, name)()([u, v])
        equal_masks(mask_on(a), mask_on(b))
        in_both = torch.from_numpy((ids != 0) & (other != 0))
        close(a.unpack()[in_both], b[in_both])
        assert not np.allclose(shown(a), shown(b), atol=1e-3)


def test_zeros_in_gaps():
    x, y, plain = embed(padless, ids)[0], embed(keras, ids)[0], torch.from_numpy(numbers(2, T, D))
    other = [embed(lib, np.array([[1, 2, 0, 4, 0], [0, 6, 0, 0, 0]]))[0] for lib in (padless, keras)]
    ours, theirs, *_ = both(lambda lib: lib.layers.Dense(2))
    packed = padless.pack(y.detach(), mask=ids != 0)  # packed values with an explicit mask
    cases = [
        (ours(packed), theirs(y)),
        (L.Add()([x, plain]), K.Add()([y, plain])),
        (L.Maximum()([x, other[0]]), K.Maximum()([y, other[1]])),
        (L.Concatenate(axis=1)([x, other[0]]), K.Concatenate(axis=1)([y, other[1]])),
    ]
    for a, b in cases:
        gaps = ~mask_on(a)
        assert (shown(a)[gaps] == 0).all() and (shown(b)[gaps] != 0).any()
        close(a.values, b[torch.from_numpy(mask_on(a))])


def test_noise_in_gaps():
    x, y = embed(padless, all_ids())[0], embed(keras, all_ids())[0]
    gaps = all_ids() == 0
    assert (shown(K.Dropout(0.5)(y, training=True))[gaps] == 0).any()
    assert (shown(L.Dropout(0.5)(x, training=True))[gaps] == table()[0]).all()


def test_dropout_of_gates():
    """The input gate and the candidate read the same number: if both drop it together, there are two outcomes."""
    make = lambda lib: lib.layers.LSTM(1, dropout=0.5, recurrent_dropout=1e-6)  # noqa: E731
    ours, theirs = twins(make, (None, 1, 1))
    weights = [np.array([[1.0, 0, 1.0, 0]], "float32"), np.zeros((1, 4), "float32"), np.zeros(4, "float32")]
    x = torch.ones(200, 1, 1)
    outcomes = []
    for layer in (ours, theirs):
        layer.set_weights(weights)
        outcomes.append(len(np.unique(shown(layer(x, training=True)).round(4))))
    assert outcomes == [2, 3]


def test_activity_of_padding():
    ours, theirs = twins(lambda lib: lib.layers.Dense(2, activity_regularizer="l2"), (None, T, D))
    losses = []
    for layer, lib in ((ours, padless), (theirs, keras)):
        output = layer(embed(lib, ids)[0])
        losses.append(sum(layer.losses).item())
    squares = np.square(shown(output)).sum(-1)
    np.testing.assert_allclose(losses, [0.01 * squares[ids != 0].sum() / 2, 0.01 * squares.sum() / 2], rtol=1e-4)


def test_infinity_in_gaps():
    ours, theirs = twins(lambda lib: lib.layers.LSTM(2), (None, T, D))
    data = torch.from_numpy(numbers(2, T, D))
    data[torch.from_numpy(ids == 0)] = float("inf")
    for layer in (ours, theirs):
        layer(data, mask=torch.from_numpy(ids != 0)).sum().backward()
    assert torch.isfinite(ours.cell.kernel.grad).all() and not torch.isfinite(theirs.cell.kernel.value.grad).all()


# ------------------------------------------------------------------------------------------------ models


def tagger(lib):
    x = lib.Input((None,))
    h = lib.layers.LSTM(2, return_sequences=True)(lib.layers.Embedding(V, D, mask_zero=True)(x))
    return lib.Model(x, lib.layers.Dense(3, activation="softmax")(h))


def taggers(**compiled):
    ours, theirs = twin_models(tagger)
    for model in (ours, theirs):
        model.compile("sgd", "sparse_categorical_crossentropy", **compiled)
    return ours, theirs


labels = np.random.default_rng(5).integers(0, 3, (B, T))


def test_epoch_loss():
    ours, theirs = taggers()
    x = ids_of("right")
    single = [(ours.evaluate(x[i : i + 1], labels[i : i + 1], verbose=0), (x[i] != 0).sum()) for i in range(B)]
    losses, steps = map(np.array, zip(*single, strict=True))
    for size in (1, 2, 4):
        np.testing.assert_allclose(
            ours.evaluate(x, labels, batch_size=size, verbose=0), losses @ steps / steps.sum(), rtol=1e-5
        )
    np.testing.assert_allclose(theirs.evaluate(x, labels, batch_size=1, verbose=0), losses.mean(), rtol=1e-5)


def test_metric_over_batches():
    """If batches have different widths, Keras weights their accuracies by the width."""
    ours, theirs = taggers(metrics=["accuracy"])
    parts = [(ids_of("right"), labels), (ids_of("right")[1:2, :1], labels[1:2, :1])]
    right = [(model.predict(x, verbose=0).argmax(-1) == y)[x != 0] for model in (ours,) for x, y in parts]
    exact = np.concatenate(right).mean()
    accuracies = [model.evaluate(((x, y) for x, y in parts), steps=2, verbose=0)[1] for model in (ours, theirs)]
    np.testing.assert_allclose(accuracies[0], exact, rtol=1e-6)
    assert abs(accuracies[1] - exact) > 1e-3


def test_nothing_in_a_batch():
    ours, theirs = taggers()
    x = np.concatenate([ids_of("none"), 0 * ids_of("none")])
    y = np.concatenate([labels, labels])
    full = ours.evaluate(x[:4], y[:4], verbose=0)
    np.testing.assert_allclose(ours.evaluate(x, y, batch_size=4, verbose=0), full, rtol=1e-5)
    np.testing.assert_allclose(theirs.evaluate(x, y, batch_size=4, verbose=0), full / 2, rtol=1e-5)


def test_nan_in_targets():
    def regressor(lib):
        x = lib.Input((None,))
        return lib.Model(x, lib.layers.Dense(1)(lib.layers.Embedding(V, D, mask_zero=True)(x)))

    ours, theirs = twin_models(regressor)
    y = numbers(B, T, 1)
    clean = []
    for model in (ours, theirs):
        model.compile("sgd", "mse")
        clean.append(model.evaluate(ids_of("right"), y, verbose=0))
    y[ids_of("right") == 0] = np.nan
    assert ours.evaluate(ids_of("right"), y, verbose=0) == clean[0]
    np.testing.assert_allclose(*clean, rtol=1e-5)
    assert np.isnan(theirs.evaluate(ids_of("right"), y, verbose=0))


def test_weights_of_sequences():
    ours, theirs = taggers()
    x, weight = ids_of("right"), np.arange(1.0, 5.0)
    steps = theirs.evaluate(x, labels, sample_weight=np.tile(weight[:, None], (1, T)), verbose=0)
    for shaped in (weight, weight[:, None]):
        np.testing.assert_allclose(ours.evaluate(x, labels, sample_weight=shaped, verbose=0), steps, rtol=1e-5)
        with pytest.raises((RuntimeError, ValueError)):
            theirs.evaluate(x, labels, sample_weight=shaped, verbose=0)


def test_weights_of_metrics():
    """Keras's loss changes the weights in place before its metrics see them."""
    ours, theirs = taggers(weighted_metrics=["accuracy"])
    x, weight = ids_of("right"), torch.rand(B, T, generator=torch.Generator().manual_seed(1))
    right = (ours.predict(x, verbose=0).argmax(-1) == labels)[x != 0]
    real = weight.numpy()[x != 0]
    exact = (right * real).sum() / real.sum()
    before = weight.clone()
    np.testing.assert_allclose(ours.test_on_batch(x, labels, sample_weight=weight)[1], exact, rtol=1e-5)
    assert torch.equal(weight, before)
    theirs.test_on_batch(torch.from_numpy(x), torch.from_numpy(labels), sample_weight=weight)
    assert not torch.equal(weight, before)


def test_list_of_results():
    ours, theirs = taggers(metrics=["accuracy"], weighted_metrics=["accuracy"])
    x, weight = ids_of("right"), numbers(B, T) ** 2
    our_list, keras_list = (m.evaluate(x, labels, sample_weight=weight, verbose=0) for m in (ours, theirs))
    named = ours.evaluate(x, labels, sample_weight=weight, verbose=0, return_dict=True)
    assert list(named) == ["loss", "accuracy", "weighted_accuracy"]
    np.testing.assert_allclose(list(named.values()), our_list, rtol=1e-6)
    np.testing.assert_allclose(keras_list, [our_list[i] for i in (0, 1, 1, 2)], rtol=1e-5)  # accuracy is there twice


def test_names_of_metrics():
    ours, theirs = taggers(metrics=["accuracy"])
    for model in (ours, theirs):
        model.evaluate(ids_of("right"), labels, verbose=0)
    assert ours.metrics_names == ["loss", "accuracy"] and theirs.metrics_names == ["loss", "compile_metrics"]


def test_lists():
    ours, theirs = taggers()
    rows = [[3, 1, 2], [4]]
    scores = ours.predict(rows, verbose=0)
    assert [row.shape for row in scores] == [(3, 3), (1, 3)]
    keras_output = theirs.predict(ids[:, :3], verbose=0)
    for row, grid in zip(scores, keras_output, strict=True):
        close(row, grid[: len(row)])
    with pytest.raises(ValueError):
        theirs.predict(rows, verbose=0)


def test_mask_of_a_call():
    """Keras sets the mask of a call on the tensor of the caller."""
    ours, theirs = twin_models(lambda lib: (lambda x: lib.Model(x, lib.layers.LSTM(2)(x)))(lib.Input((None, D))))
    x, mask = torch.from_numpy(numbers(2, T, D)), torch.from_numpy(ids != 0)
    free = [shown(model(x)) for model in (ours, theirs)]
    close(*free)
    with losing():
        close(ours(x, mask=mask), theirs(x, mask=mask))
        again = shown(theirs(x))
    close(ours(x), free[0])
    assert not np.allclose(again, free[1], atol=1e-3)


# ------------------------------------------------------------------------------------------------ layers and configs


def test_unbuilt_weights():
    assert K.Dense(2).get_weights() == []
    with pytest.raises(NotBuilt, match="no weights yet"):
        L.Dense(2).get_weights()


def test_ids():
    ours, theirs = twins(lambda lib: lib.layers.Embedding(V, D), (None, T))
    for wrong in (1.5, float(V), -1.0):
        x = torch.tensor([[wrong, 1.0]])
        with pytest.raises(DataError, match=re.escape(str(wrong))):
            ours(x)
    rows = theirs.get_weights()[0]
    close(theirs(torch.tensor([[1.5, -1.0]])), rows[[1, V - 1]][None])


def test_sparsemax():
    x = torch.tensor([[1.0, 0.5, -3.0]])
    close(padless.activations.sparsemax(x), torch.tensor([[0.75, 0.25, 0.0]]))
    assert abs(float(keras.activations.sparsemax(x).sum()) - 1) > 0.1


def test_unseeded_initializers():
    ours, theirs = padless.initializers.GlorotUniform(), keras.initializers.GlorotUniform()
    assert torch.equal(theirs((3, 3)), theirs((3, 3)))
    assert not torch.equal(ours((3, 3)), ours((3, 3)))


def test_config_of_identity():
    assert padless.initializers.Identity(3.0).get_config()["gain"] == 3.0
    ours, theirs = (lib.initializers.Identity(3.0) for lib in (padless, keras))
    assert float(type(ours).from_config(ours.get_config())((1, 1))) == 3.0
    assert float(type(theirs).from_config(theirs.get_config())((1, 1))) == 1.0


def test_config_of_layers():
    ours, theirs = (lib.layers.Dense(2).get_config() for lib in (padless, keras))
    assert ours["kernel_initializer"] == "glorot_uniform" and ours["dtype"] == "float32"
    assert theirs["kernel_initializer"]["class_name"] == "GlorotUniform"


# ------------------------------------------------------------------------------------------------ data


def build_classifier(lib):
    """Return a compiled model of two features."""
    x = lib.Input((2,))
    model = lib.Model(x, lib.layers.Dense(2, activation="softmax")(x))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def test_class_weights():
    ours, theirs = twin_models(build_classifier)
    for model in (ours, theirs):
        model.compile("sgd", "sparse_categorical_crossentropy")
    x, y, weight = numbers(4, 2), np.array([0, 1, 1, 0]), np.arange(1.0, 5)
    both_weights = dict(sample_weight=weight, class_weight={0: 2.0}, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="at the same time"):
        theirs.fit(x, y, **both_weights)
    expected = ours.evaluate(x, y, sample_weight=weight * [2, 1, 1, 2], verbose=0)
    assert ours.fit(x, y, **both_weights).history["loss"][0] == pytest.approx(expected)


def test_shuffle_of_stateful():
    def build(lib):
        model = lib.Sequential([lib.Input(batch_shape=(2, None, D)), lib.layers.GRU(2, stateful=True)])
        model.compile("sgd", "mse")
        return model

    x, y = numbers(4, T, D), np.zeros((4, 2))
    with pytest.raises(RuntimeError, match="inplace operation"):  # Keras shuffles, then fails in the backward pass
        build(keras).fit(x, y, batch_size=2, verbose=0)
    with pytest.raises(ArgumentError, match="shuffle=False"):
        build(padless).fit(x, y, batch_size=2, verbose=0)


def test_steps_of_arrays():
    def steps(lib):
        batches, model = [], build_classifier(lib)
        watch = lib.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(batch))
        model.fit(numbers(4, 2), np.zeros(4), batch_size=2, steps_per_epoch=3, epochs=2, verbose=0, callbacks=[watch])
        return len(batches)

    with pytest.warns(UserWarning, match="ran out of data"):
        assert steps(keras) == 4
    assert steps(padless) == 6


def test_classes_below_zero():
    assert keras.utils.to_categorical([-1], 3).tolist() == [[0, 0, 1]]
    with pytest.raises(DataError, match="-1"):
        padless.utils.to_categorical([-1], 3)


# ------------------------------------------------------------------------------------------------ slices


def test_slices_of_time():
    x, y = embed(padless, ids)[0], embed(keras, ids)[0]
    assert mask_on(y[:, :-1]) is None
    assert mask_on(x[:, :-1]).tolist() == [[True, True, False, False], [False] * 4]  # the last step of each sequence is cut
    assert [row.tolist() for row in padless.pack([[1, 2, 3], [4]])[:, -2:]] == [[2, 3], [4]]
    for key in (np.s_[:, -1], np.s_[:, ::-1]):
        with pytest.raises(MaskLost):
            x[key]


def test_operands_without_a_batch():
    left, positions = np.array([[0, 0, 5], [1, 2, 3]]), torch.arange(3.0)[:, None]
    x, y = embed(padless, left)[0], embed(keras, left)[0]
    close((y + positions)[0, 2], y[0, 2] + 2)
    close((x + positions).sequences()[0][0], x.sequences()[0][0])  # the first step of the sequence


def test_foreign_functions():
    x, y = embed(padless, ids)[0], embed(keras, ids)[0]
    assert mask_on(keras.ops.tanh(y)) is None
    with pytest.raises(MaskLost, match="keras.ops"):
        L.Lambda(lambda h: keras.ops.tanh(h))(x)


def test_zeros_between_labels_of_ctc():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(1, T, D)).astype("float32"))
    theirs = keras.losses.CTC()(torch.tensor([[1, 0, 2]]), logits)
    assert not torch.isclose(padless.losses.CTC()([[1, 0, 2]], logits), theirs)
    for labels in ([[1, 2, 0]], [[0, 1, 2]]):
        torch.testing.assert_close(
            padless.losses.CTC()([[1, 0, 2]], logits), keras.losses.CTC()(torch.tensor([[1, 2, 0]]), logits)
        )
        torch.testing.assert_close(padless.losses.CTC()(labels, logits), padless.losses.CTC()([[1, 0, 2]], logits))


def test_labels_of_the_next_step():
    ids = np.array([[1, 2, 1, 2], [2, 1, 0, 0]])
    losses = []
    for lib in (padless, keras):
        model = lib.Sequential([lib.layers.Embedding(V, D, mask_zero=True, weights=[table()])])
        model.compile("sgd", lib.losses.SparseCategoricalCrossentropy(from_logits=True))
        losses.append(float(model.evaluate(ids[:, :-1], ids[:, 1:], verbose=0)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    logits = torch.from_numpy(table())
    pairs = torch.nn.functional.cross_entropy(logits[[1, 2, 1, 2]], torch.tensor([2, 1, 2, 1])).item()
    mine = padless.Sequential([L.Embedding(V, D, mask_zero=True, weights=[table()])])
    mine.compile("sgd", padless.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert mine.evaluate(*padless.utils.next_step_pairs(ids), verbose=0) == pytest.approx(pairs, rel=1e-5)
    assert losses[0] != pytest.approx(pairs, rel=1e-3)
