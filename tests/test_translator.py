"""A translator in small: teacher forcing, and the same layers step by step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import padless
from examples import translator as example
from padless import Input, Model
from padless.layers import GRU, LSTM, Bidirectional, Concatenate, Dense, Embedding

SYMBOLS = 7


def made(scan, source_scan=None):
    """A training model, an encoder, and a decoder of one step, on the same layers."""
    embed, read = Embedding(SYMBOLS, 4, mask_zero=True), Embedding(SYMBOLS, 4, mask_zero=True)
    encode = (source_scan or scan)(5, return_state=True)
    decode, write = scan(5, return_sequences=True, return_state=True), Dense(SYMBOLS)
    count = 2 if scan is LSTM else 1

    source, target = Input((None,)), Input((None,))
    states = list(encode(embed(source)))[1:]
    whole = Model([source, target], write(decode(read(target), initial_state=states)[0]))

    symbol, given_states = Input((1,)), [Input((5,)) for _ in range(count)]
    steps, *after = decode(read(symbol), initial_state=given_states)
    return whole, Model(source, states), Model([symbol, *given_states], [write(steps), *after])


def one_by_one(encoder, step, source, target):
    """The decoder's outputs for given targets, each step from the states of the one before."""
    states = encoder.predict(source, verbose=0)
    states = states if isinstance(states, list) else [states]
    written = []
    for column in target.T:
        out, *states = step.predict([column[:, None], *states], verbose=0)
        written.append(out)
    return np.concatenate(written, axis=1)


@pytest.mark.parametrize("scan", [LSTM, GRU])
def test_step_by_step_is_what_was_trained(scan):
    rng = np.random.default_rng(0)
    whole, encoder, step = made(scan)
    source, target = rng.integers(0, SYMBOLS, (8, 9)), rng.integers(1, SYMBOLS, (8, 5))
    source[0] = 0  # nothing to translate
    whole.compile("adam", padless.losses.SparseCategoricalCrossentropy(from_logits=True))
    whole.optimizer.learning_rate = 0.05
    history = whole.fit([source, target], (target + 1) % SYMBOLS, epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert one_by_one(encoder, step, source, target) == pytest.approx(whole.predict([source, target], verbose=0), abs=1e-5)


WHOLE = {}


@settings(max_examples=25)
@given(st.lists(st.integers(0, SYMBOLS - 1), max_size=6), st.lists(st.integers(1, SYMBOLS - 1), min_size=1, max_size=4))
def test_holes_in_the_source_and_padding_of_the_target_change_nothing(source, target):
    if "models" not in WHOLE:
        WHOLE["models"] = made(LSTM)
    whole, encoder, step = WHOLE["models"]
    real = [s for s in source if s]
    dense = whole.predict([np.array([real + [0]]), np.array([target])], verbose=0)
    holes = whole.predict([np.array([source + [0, 0]]), np.array([target + [0, 0]])], verbose=0)
    assert holes[:, : len(target)] == pytest.approx(dense, abs=1e-5)
    assert np.array_equal(holes[:, -1], holes[:, -2])
    if real:
        lists = whole.predict([[real], [target]], verbose=0)
        assert lists[0] == pytest.approx(dense[0], abs=1e-5)
    assert one_by_one(encoder, step, np.array([source + [0]]), np.array([target])) == pytest.approx(dense, abs=1e-5)


def test_a_masked_symbol_leaves_the_decoder_where_it_is():
    whole, encoder, step = made(GRU)
    states = encoder.predict(np.array([[1, 2, 0, 3]]), verbose=0)
    _, after = step.predict([np.array([[0]]), *states], verbose=0)
    assert np.array_equal(after, states[0])


def test_an_encoder_that_reads_both_ways():
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
def test_it_is_keras_where_keras_is_right():
    """Keras drops the decoder's mask beside initial_state; without padding in the target it need not matter."""
    keras = pytest.importorskip("keras")

    def build(api, layers):
        source, target = api.Input((6,)), api.Input((4,))
        embed = layers.Embedding(SYMBOLS, 4, mask_zero=True)
        _, h, c = layers.LSTM(5, return_state=True)(embed(source))
        steps = layers.LSTM(5, return_sequences=True)(embed(target), initial_state=[h, c])
        return api.Model([source, target], layers.Dense(SYMBOLS, activation="softmax")(steps))

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


def test_the_example_translates(capsys):
    assert example.main() > 0.9
    assert "reversed without a fault" in capsys.readouterr().out


def test_the_examples_data_are_what_they_say():
    source, read, write = example.examples(50)
    for s, r, w in zip(source, read, write, strict=True):
        digits = s[s > 0][::-1].tolist()
        assert r[r > 0].tolist() == [example.START, *digits] and w[w > 0].tolist() == [*digits, example.END]
    assert ((source[:, :-1] == 0) & (source[:, 1:] > 0)).any()  # holes, not only padding
