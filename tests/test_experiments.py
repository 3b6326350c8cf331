"""The two experiments of the documentation, as printed, and their variations."""

import numpy as np
import pytest
import torch

from padless import Input, Model, Sequential
from padless.layers import LSTM, Dense, Embedding


def test_an_lstm_over_masked_ids_repeats_itself_at_masked_steps():
    x = Input(shape=(4,))
    e = Embedding(5, 5, mask_zero=True)(x)
    rnn = LSTM(3, return_sequences=True)(e)
    m = Model(inputs=x, outputs=rnn)

    shown = m.predict(np.array([[1, 0, 2, 0]]), verbose=0)

    assert shown.shape == (1, 4, 3)
    assert np.array_equal(shown[0, 1], shown[0, 0])
    assert np.array_equal(shown[0, 3], shown[0, 2])
    assert not np.allclose(shown[0, 2], shown[0, 0])
    assert m.layers[1].get_weights()[0].shape == (5, 5)


def test_row_0_is_an_ordinary_row_and_is_what_masked_steps_show():
    x = Input(shape=(4,))
    m = Model(inputs=x, outputs=Embedding(5, 5, mask_zero=True)(x))

    shown = m.predict(np.array([[1, 0, 2, 0]]), verbose=0)

    table = m.layers[1].get_weights()[0]
    assert np.abs(table[0]).max() > 0
    assert np.array_equal(shown[0], table[[1, 0, 2, 0]])


def test_the_loss_is_the_mean_over_real_steps():
    x = Input(shape=(4,))
    e = Embedding(5, 5, mask_zero=True)(x)
    d = Dense(3)(e)
    m = Model(inputs=x, outputs=d)
    m.compile(loss="mse", optimizer="adam")
    data_in = np.array([[1, 2, 0, 0]])
    data_out = np.arange(12).reshape(1, 4, 3)

    preds = m.predict(data_in, verbose=0)
    loss = m.evaluate(data_in, data_out, verbose=0)

    assert loss == pytest.approx(np.square(preds[0, :2] - data_out[0, :2]).mean(), rel=1e-6)
    assert np.array_equal(preds[0, 2], preds[0, 3])
    table, kernel, bias = m.get_weights()
    assert preds[0, 2] == pytest.approx(table[0] @ kernel + bias, rel=1e-5)


def test_in_a_sequential_the_embedding_is_the_first_layer():
    m = Sequential([Embedding(5, 5, mask_zero=True), LSTM(3, return_sequences=True)])

    shown = m.predict(np.array([[1, 0, 2, 0]]), verbose=0)

    assert np.array_equal(shown[0, 1], shown[0, 0])
    assert np.array_equal(shown[0, 3], shown[0, 2])
    assert m.layers[0].get_weights()[0].shape == (5, 5)


def test_without_mask_zero_id_0_is_a_step():
    x = Input(shape=(4,))
    embed = Embedding(5, 5)
    m = Model(x, LSTM(3, return_sequences=True)(embed(x)))

    shown = m.predict(np.array([[1, 0, 2, 0]]), verbose=0)

    assert embed.compute_mask(np.array([[1, 0, 2, 0]])) is None
    assert not np.allclose(shown[0, 1], shown[0, 0])
    assert not np.allclose(shown[0, 3], shown[0, 2])


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.float32, np.float64, torch.int64, torch.float32])
def test_ids_may_be_of_any_dtype_with_whole_values(dtype):
    x = Input(shape=(4,))
    m = Model(x, LSTM(3, return_sequences=True)(Embedding(5, 5, mask_zero=True)(x)))
    ids = torch.tensor([[1, 0, 2, 0]], dtype=dtype) if isinstance(dtype, torch.dtype) else np.array([[1, 0, 2, 0]], dtype)

    shown = m.predict(ids, verbose=0)

    assert np.array_equal(shown, m.predict(np.array([[1, 0, 2, 0]]), verbose=0))
    assert np.array_equal(shown[0, 1], shown[0, 0])


def test_by_hand_compute_mask_says_which_steps_are_real():
    embed = Embedding(5, 5, mask_zero=True)
    ids = np.array([[1, 0, 2, 0]])
    assert np.asarray(embed.compute_mask(ids)).tolist() == [[True, False, True, False]]
    narrowed = embed.compute_mask(ids, mask=np.array([[False, True, True, True]]))
    assert np.asarray(narrowed).tolist() == [[False, False, True, False]]
