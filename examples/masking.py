"""The two experiments of docs/masking.md.

python examples/masking.py
"""

import numpy as np

from padless import Input, Model
from padless.layers import LSTM, Dense, Embedding


def skipped_steps() -> np.ndarray:
    """Show that an LSTM skips masked steps: steps 2 and 4 show the outputs of steps 1 and 3."""
    x = Input(shape=(4,))
    e = Embedding(5, 5, mask_zero=True)(x)
    rnn = LSTM(3, return_sequences=True)(e)
    m = Model(inputs=x, outputs=rnn)
    out = m.predict(np.array([[1, 0, 2, 0]]), verbose=0)
    print("outputs of the LSTM on [[1, 0, 2, 0]]:", out, sep="\n")
    print("row 0 of the embedding is an ordinary row:", m.layers[1].get_weights()[0][0], sep="\n")
    return out


def masked_loss() -> tuple[float, float]:
    """Show that the loss is the mean over the real steps."""
    x = Input(shape=(4,))
    e = Embedding(5, 5, mask_zero=True)(x)
    d = Dense(3)(e)
    m = Model(inputs=x, outputs=d)
    m.compile(loss="mse", optimizer="adam")
    data_in, data_out = np.array([[1, 2, 0, 0]]), np.arange(12).reshape(1, 4, 3)
    preds = m.predict(data_in, verbose=0)
    loss = m.evaluate(data_in, data_out, verbose=0)
    by_hand = float(np.square(preds[0, :2] - data_out[0, :2]).mean())
    print(f"evaluate: {loss:.6f}; the mean over the first two steps: {by_hand:.6f}")
    return loss, by_hand


if __name__ == "__main__":
    skipped_steps()
    masked_loss()
