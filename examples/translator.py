"""A translator in small: an encoder reads a sequence, a decoder writes it backwards.

The source has holes and padding, which the encoder never sees; its last state is where the decoder starts. In training
the decoder is told the true symbol before each step (teacher forcing). To translate, the same layers stand in two
other models: one that encodes, one that decodes a single step, states in and states out.

    python examples/translator.py
"""

from __future__ import annotations

import numpy as np
import torch

import padless
from padless import Input, Model
from padless.layers import LSTM, Dense, Embedding

PAD, START, END = 0, 1, 2
SYMBOLS = 12  # padding, start, end and nine digits


def examples(n: int, longest: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources with holes `(n, 2 * longest)`, the targets as the decoder reads them, and as it should write them."""
    rng = np.random.default_rng(seed)
    source = np.full((n, 2 * longest), PAD)
    read = np.full((n, longest + 1), PAD)
    write = np.full((n, longest + 1), PAD)
    for row in range(n):
        digits = rng.integers(3, SYMBOLS, rng.integers(1, longest + 1))
        source[row, np.sort(rng.choice(2 * longest, len(digits), replace=False))] = digits
        read[row, : len(digits) + 1] = [START, *digits[::-1]]
        write[row, : len(digits) + 1] = [*digits[::-1], END]
    return source, read, write


def translator(units: int = 64) -> tuple[Model, Model, Model]:
    """Three models with the same layers: for training, for encoding, for one step of decoding."""
    embed = Embedding(SYMBOLS, 24, mask_zero=True, name="embed")
    encode = LSTM(units, return_state=True, name="encode")
    decode = LSTM(units, return_sequences=True, return_state=True, name="decode")
    write = Dense(SYMBOLS, name="write")

    source, target = Input((None,), name="source"), Input((None,), name="target")
    _, h, c = encode(embed(source))
    steps, _, _ = decode(embed(target), initial_state=[h, c])
    whole = Model([source, target], write(steps), name="translator")

    symbol, h_in, c_in = Input((1,), name="symbol"), Input((units,), name="h"), Input((units,), name="c")
    step, h_out, c_out = decode(embed(symbol), initial_state=[h_in, c_in])
    return whole, Model(source, [h, c], name="encoder"), Model([symbol, h_in, c_in], [write(step), h_out, c_out])


def translate(encoder: Model, step: Model, source: np.ndarray, longest: int) -> np.ndarray:
    """Symbol after symbol, each the most likely one after those before."""
    h, c = encoder.predict(source, verbose=0)
    symbol, written = np.full((len(source), 1), START), []
    for _ in range(longest):
        logits, h, c = step.predict([symbol, h, c], verbose=0)
        symbol = logits.argmax(-1)
        written.append(np.where(symbol == PAD, END, symbol))  # padding is no symbol to go on from
        symbol = written[-1]
    return np.concatenate(written, axis=1)


def accuracy(written: np.ndarray, truth: np.ndarray) -> float:
    """The share of sequences written without a fault, up to and with the end."""
    return float(((written == truth) | (truth == PAD)).all(axis=1).mean())


def main(epochs: int = 6, seed: int = 0) -> float:
    """Train, translate unseen sequences, and print how many come out right."""
    torch.manual_seed(seed)
    whole, encoder, step = translator()
    loss = padless.losses.SparseCategoricalCrossentropy(from_logits=True)
    whole.compile(padless.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    source, read, write = examples(1600, seed=seed)
    whole.fit([source, read], write, batch_size=64, epochs=epochs, validation_split=0.1, verbose=2)
    unseen, _, truth = examples(200, seed=seed + 1)
    written = translate(encoder, step, unseen, truth.shape[1])
    for row in range(3):
        print("source", unseen[row].tolist(), "written", written[row].tolist(), "truth", truth[row].tolist())
    right = accuracy(written, truth)
    print(f"{right:.0%} of {len(unseen)} unseen sequences are reversed without a fault")
    return right


if __name__ == "__main__":
    main()
