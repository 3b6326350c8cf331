"""An encoder and a decoder: teacher forcing, and the same layers step by step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import padless
from examples import translator as example
from padless import Input, Model
from padless.layers import GRU, LSTM, Bidirectional, Concatenate, Dense, Embedding

SYMBOLS = 7


def build_models(layer):
    """Return a training model, an encoder, and a decoder of one step, with the same layers."""
    embed, read = Embedding(SYMBOLS, 4, mask_zero=True), Embedding(SYMBOLS, 4, mask_zero=True)
    encode = layer(5, return_state=True)
    decode, write = layer(5, return_sequences=True, return_state=True), Dense(SYMBOLS)
    count = 2 if layer is LSTM else 1

    source, target = Input((None,)), Input((None,))
    states = list(encode(embed(source)))[1:]
    training_model = Model([source, target], write(decode(read(target), initial_state=states)[0]))

    symbol, states_in = Input((1,)), [Input((5,)) for _ in range(count)]
    steps, *states_out = decode(read(symbol), initial_state=states_in)
    return training_model, Model(source, states), Model([symbol, *states_in], [write(steps), *states_out])


def decode_steps(encoder, step, source, target):
    """Return the outputs of the decoder for some targets, each step with the states of the step before."""
    states = encoder.predict(source, verbose=0)
    states = states if isinstance(states, list) else [states]
    outputs = []
    for column in target.T:
        out, *states = step.predict([column[:, None], *states], verbose=0)
        outputs.append(out)
    return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize("layer", [LSTM, GRU])
def test_decoding_step_by_step_equals_the_training_model(layer):
    rng = np.random.default_rng(0)
    model, encoder, step = build_models(layer)
    source, target = rng.integers(0, SYMBOLS, (8, 9)), rng.integers(1, SYMBOLS, (8, 5))
    source[0] = 0  # an empty sequence
    model.compile("adam", padless.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.learning_rate = 0.05
    history = model.fit([source, target], (target + 1) % SYMBOLS, epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert decode_steps(encoder, step, source, target) == pytest.approx(model.predict([source, target], verbose=0), abs=1e-5)


MODELS = {}


@settings(max_examples=25)
@given(st.lists(st.integers(0, SYMBOLS - 1), max_size=6), st.lists(st.integers(1, SYMBOLS - 1), min_size=1, max_size=4))
def test_gaps_in_the_source_and_padding_of_the_target_have_no_influence(source, target):
    if not MODELS:
        MODELS["lstm"] = build_models(LSTM)
    model, encoder, step = MODELS["lstm"]
    real = [s for s in source if s]
    dense = model.predict([np.array([real + [0]]), np.array([target])], verbose=0)
    with_gaps = model.predict([np.array([source + [0, 0]]), np.array([target + [0, 0]])], verbose=0)
    assert with_gaps[:, : len(target)] == pytest.approx(dense, abs=1e-5)
    assert np.array_equal(with_gaps[:, -1], with_gaps[:, -2])
    if real:
        lists = model.predict([[real], [target]], verbose=0)
        assert lists[0] == pytest.approx(dense[0], abs=1e-5)
    assert decode_steps(encoder, step, np.array([source + [0]]), np.array([target])) == pytest.approx(dense, abs=1e-5)


def test_a_masked_symbol_does_not_change_the_state_of_the_decoder():
    _, encoder, step = build_models(GRU)
    states = encoder.predict(np.array([[1, 2, 0, 3]]), verbose=0)
    _, state = step.predict([np.array([[0]]), *states], verbose=0)
    assert np.array_equal(state, states[0])


def test_a_bidirectional_encoder_trains():
    source, target = Input((None,)), Input((None,))
    embed = Embedding(SYMBOLS, 4, mask_zero=True)
    _, fh, fc, bh, bc = Bidirectional(LSTM(3, return_state=True))(embed(source))
    states = [Concatenate()([fh, bh]), Concatenate()([fc, bc])]
    model = Model([source, target], Dense(SYMBOLS)(LSTM(6, return_sequences=True)(embed(target), initial_state=states)))
    model.compile("adam", padless.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    x, y = [[1, 2], [3], []], [[1, 2, 3], [4, 5], [6]]
    history = model.fit([x, y], y, epochs=30, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.filterwarnings("ignore")
def test_the_model_equals_keras_without_padding_in_the_target():
    """Keras ignores the mask of a layer with `initial_state`, which has no effect without padding in the target."""
    keras = pytest.importorskip("keras")

    def build(library, layers):
        source, target = library.Input((6,)), library.Input((4,))
        embed = layers.Embedding(SYMBOLS, 4, mask_zero=True)
        _, h, c = layers.LSTM(5, return_state=True)(embed(source))
        steps = layers.LSTM(5, return_sequences=True)(embed(target), initial_state=[h, c])
        return library.Model([source, target], layers.Dense(SYMBOLS, activation="softmax")(steps))

    theirs, ours = build(keras, keras.layers), build(padless, padless.layers)
    ours.set_weights(theirs.get_weights())
    rng = np.random.default_rng(1)
    data, y = [rng.integers(0, SYMBOLS, (5, 6)), rng.integers(1, SYMBOLS, (5, 4))], rng.integers(0, SYMBOLS, (5, 4))
    assert ours.predict(data, verbose=0) == pytest.approx(theirs.predict(data, verbose=0), abs=1e-5)
    for model in (theirs, ours):
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(data, y, epochs=3, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.slow
def test_the_example_translates(capsys):
    assert example.main() > 0.9
    assert "reversed without an error" in capsys.readouterr().out


def test_inputs_and_targets_of_the_example_are_reversed_sources():
    source, read, write = example.make_examples(50)
    for s, r, w in zip(source, read, write, strict=True):
        digits = s[s > 0][::-1].tolist()
        assert r[r > 0].tolist() == [example.START, *digits] and w[w > 0].tolist() == [*digits, example.END]
    assert ((source[:, :-1] == 0) & (source[:, 1:] > 0)).any()  # gaps, not only padding
