"""Sequential: built by an Input or by the first data; layers are added and removed."""

import copy

import numpy as np
import pytest
import torch

import padless
from padless import Input, Model, Packed, Sequential
from padless.errors import ArgumentError, NotBuilt, ShapeError
from padless.layers import (
    LSTM,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    Reshape,
    SimpleRNN,
    TimeDistributed,
)

IDS = np.array([[1, 2, 0, 0], [3, 0, 4, 1]])


def test_the_argument_input_shape_of_a_recurrent_layer_builds_the_model():
    for layer in (LSTM(3, input_shape=(None, 4)), SimpleRNN(3, input_shape=(None, 4))):
        assert Sequential([layer]).input_shape == (None, None, 4)


def test_an_input_at_the_start_builds_the_model_at_once():
    model = Sequential([Input((None,)), Embedding(5, 3, mask_zero=True), LSTM(2)])
    assert model.built
    assert model.input_shape == (None, None)
    assert model.output_shape == (None, 2)
    assert [w.shape for w in model.get_weights()] == [(5, 3), (3, 8), (2, 8), (8,)]
    assert [layer.name for layer in model.layers] == ["embedding", "lstm"]


def test_the_first_data_build_the_model_with_an_open_time_axis():
    model = Sequential([Embedding(5, 3, mask_zero=True), LSTM(2, return_sequences=True)])
    assert not model.built
    first = model.predict(IDS, verbose=0)
    wider = model.predict(np.pad(IDS, ((0, 0), (0, 3))), verbose=0)
    assert np.array_equal(wider[:, :4], first)
    assert model.input_shape == (None, None)
    assert [row.shape for row in model.predict([[1, 2], [3]], verbose=0)] == [(2, 2), (1, 2)]


def test_a_layer_that_needs_the_number_of_steps_receives_it():
    model = Sequential([Embedding(5, 3), Flatten(), Dense(2)])
    assert model.predict(IDS, verbose=0).shape == (2, 2)
    assert model.input_shape == (None, 4)
    assert model.layers[1].output.shape == (None, 12)  # and each layer was called once
    with pytest.raises(ShapeError, match=r"expected shape \(None, 4\)"):
        model.predict(IDS[:, :3], verbose=0)


@pytest.mark.slow
def test_documents_leave_both_levels_open():
    def build(*first):
        return Sequential([*first, TimeDistributed(LSTM(4)), LSTM(2)])

    model = build(Embedding(9, 4, mask_zero=True))
    model.compile("sgd", "mse")
    model.fit(np.ones((3, 3, 3), dtype=int), np.ones((3, 2)), verbose=0)
    assert model.predict(np.ones((3, 6, 7), dtype=int), verbose=0).shape == (3, 2)
    numbers = build()
    for sizes in ((2, 3, 4), (3, 5, 6)):
        assert numbers(padless.pack(torch.ones(*sizes, 5), mask=np.ones(sizes, dtype=bool))).shape == (sizes[0], 2)
    assert numbers.inputs[0].masked
    flat = Sequential([Embedding(9, 4), TimeDistributed(Flatten()), LSTM(2)])  # Flatten needs the number of words
    assert flat(torch.ones(2, 3, 4, dtype=torch.int64)).shape == (2, 2) and flat.inputs[0].shape == (None, None, 4)


def test_data_without_a_time_axis_build_the_model_with_known_features():
    model = Sequential([Dense(3, activation="relu"), Dropout(0.5), Dense(1)])
    assert model(np.ones((4, 6), np.float32)).shape == (4, 1)
    assert model.input_shape == (None, 6)


def test_lists_are_read_in_the_same_way_before_and_after_the_first_call():
    lists = [[1, 2, 3], [3, 4, 1]]
    model = Sequential([Embedding(5, 3, mask_zero=True), Dense(2)])
    first, second = model.predict(lists, verbose=0), model.predict(lists, verbose=0)
    assert isinstance(first, list) and isinstance(second, list)
    assert np.array_equal(first, second)


def test_build_accepts_a_shape_with_the_batch():
    model = Sequential([Dense(3), Dense(2)])
    model.build((None, None, 4))
    assert model.output_shape == (None, None, 2)
    assert model(torch.ones(2, 7, 4)).shape == (2, 7, 2)


def test_add_and_pop():
    model = Sequential()
    model.add(Input((None,)))
    for layer in (Embedding(5, 3, mask_zero=True), LSTM(4), Dense(2)):
        model.add(layer)
    assert model.predict(IDS, verbose=0).shape == (2, 2)
    last = model.pop()
    assert last.name == "dense" and model.output_shape == (None, 4)
    assert model.predict(IDS, verbose=0).shape == (2, 4)
    model.add(Dense(1))
    assert model.predict(IDS, verbose=0).shape == (2, 1)
    inner = Model(model.input, model.get_layer("lstm").output)  # after pop and add each layer has one call
    assert inner.predict(IDS, verbose=0).shape == (2, 4)


def test_a_removed_layer_can_be_added_again():
    model = Sequential([Input((3,)), Dense(2), Dense(4)])
    weights = model.get_weights()
    model.add(model.pop())
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert model.layers[-1].output.shape == (None, 4)


def test_a_layer_that_does_not_fit_is_not_added():
    model = Sequential([Input((None,)), Embedding(5, 3, mask_zero=True)])
    with pytest.raises(ValueError):
        model.add(Reshape((7, 7)))
    assert len(model.layers) == 1
    assert model.predict(IDS, verbose=0).shape == (2, 4, 3)


def test_layers_added_after_compile_are_trained():
    model = Sequential([Input((3,)), Dense(4)])
    model.compile("sgd", "mse")
    model.add(Dense(1))
    before = model.get_weights()
    model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
    assert not np.array_equal(before[2], model.get_weights()[2])


@pytest.mark.parametrize("masked", [True, False])
def test_an_unbuilt_model_is_built_by_the_symbol_on_which_it_is_called(masked):
    inner = Sequential([Dense(3), LSTM(2, return_sequences=True)])
    x = Input((None, 4), masked=masked)
    model = Model(x, Dense(1)(inner(x)))
    assert inner.input_shape == (None, None, 4)
    assert model.predict(np.ones((2, 5, 4)), verbose=0).shape == (2, 5, 1)
    assert model.predict(np.ones((2, 7, 4)), verbose=0).shape == (2, 7, 1)


def test_a_sequential_in_a_sequential_passes_the_mask():
    inner = Sequential([Embedding(5, 3, mask_zero=True), LSTM(2, return_sequences=True)], name="inner")
    outer = Sequential([inner, GlobalAveragePooling1D()])
    out = outer.predict(IDS, verbose=0)
    assert isinstance(inner(IDS), Packed)
    assert inner(IDS).index.num_steps == 5
    steps = inner.predict([[1, 2], [3, 4, 1]], verbose=0)
    assert out == pytest.approx(np.stack([row.mean(0) for row in steps]), rel=1e-5)


def test_torch_modules_are_accepted_as_layers():
    model = Sequential([Embedding(5, 3, mask_zero=True), torch.nn.Linear(3, 2)])
    model.compile("sgd", "mse")
    model.predict(IDS, verbose=0)
    before = [p.detach().clone() for p in model.parameters()]
    model.fit([[1, 2], [3]], [np.ones((2, 2)), np.ones((1, 2))], verbose=0)
    assert len(before) == 3
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    model.pop()
    assert model.predict(IDS, verbose=0).shape == (2, 4, 3)


@pytest.mark.slow
def test_names_are_numbered_as_in_keras():
    keras = pytest.importorskip("keras")
    keras.utils.clear_session()

    def names(api, layers):
        model = api.Sequential([layers.Embedding(5, 3), layers.Bidirectional(layers.LSTM(2)), layers.Dense(1)])
        model(np.ones((2, 4)))
        other = api.Sequential([layers.Dense(1), layers.Dense(1)])
        return [
            model.name,
            other.name,
            *(layer.name for m in (model, other) for layer in m.layers),
            model.layers[1].forward_layer.name,
            model.layers[1].backward_layer.name,
        ]

    assert names(padless, padless.layers) == names(keras, keras.layers)


def test_invalid_layers_and_inputs_are_refused():
    with pytest.raises(ArgumentError, match="takes layers; got 'dense'"):
        Sequential(["dense"])
    model = Sequential([Dense(1, name="a")])
    with pytest.raises(ArgumentError, match="'a' is there already"):
        model.add(Dense(2, name="a"))
    with pytest.raises(ArgumentError, match="input already"):
        model.add(Input((3,)))
    with pytest.raises(ArgumentError, match="no layer to take off"):
        Sequential().pop()
    with pytest.raises(NotBuilt, match="has no layers"):
        Sequential()(torch.ones(1, 2))
    with pytest.raises(ArgumentError, match="takes one input; got list"):
        model([torch.ones(1, 2), torch.ones(1, 2)])


def test_layers_of_a_copy_are_added_and_removed_independently():
    model = Sequential([Input((None,)), Embedding(5, 3, mask_zero=True), LSTM(2), Dense(1)])
    twin = copy.deepcopy(model)
    twin.pop()
    twin.add(Dense(4))
    assert twin.predict(IDS, verbose=0).shape == (2, 4)
    assert model.predict(IDS, verbose=0).shape == (2, 1) and len(model.layers) == 3
