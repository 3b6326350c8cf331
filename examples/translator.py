"""A small translator: an encoder reads a sequence, and a decoder writes it in reverse order.

The source has gaps and padding, which the encoder skips. The last state of the encoder is the initial state of the decoder.
In training, the input of the decoder is the true previous symbol (teacher forcing). For translation, two other models use
the same layers. One encodes the source, the other decodes a single step and returns its states.

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


def make_examples(n: int, longest: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sources with gaps `(n, 2 * longest)`, and inputs and targets of the decoder `(n, longest + 1)`."""
    rng = np.random.default_rng(seed)
    source = np.full((n, 2 * longest), PAD)
    decoder_inputs = np.full((n, longest + 1), PAD)
    targets = np.full((n, longest + 1), PAD)
    for row in range(n):
        digits = rng.integers(3, SYMBOLS, rng.integers(1, longest + 1))
        source[row, np.sort(rng.choice(2 * longest, len(digits), replace=False))] = digits
        decoder_inputs[row, : len(digits) + 1] = [START, *digits[::-1]]
        targets[row, : len(digits) + 1] = [*digits[::-1], END]
    return source, decoder_inputs, targets


def build_models(units: int = 64) -> tuple[Model, Model, Model]:
    """Return three models with the same layers: for training, for encoding, and for one step of decoding."""
    embed = Embedding(SYMBOLS, 24, mask_zero=True, name="embed")
    encode = LSTM(units, return_state=True, name="encode")
    decode = LSTM(units, return_sequences=True, return_state=True, name="decode")
    write = Dense(SYMBOLS, name="write")

    source, target = Input((None,), name="source"), Input((None,), name="target")
    _, h, c = encode(embed(source))
    steps, _, _ = decode(embed(target), initial_state=[h, c])
    training_model = Model([source, target], write(steps), name="translator")

    symbol, h_in, c_in = Input((1,), name="symbol"), Input((units,), name="h"), Input((units,), name="c")
    step, h_out, c_out = decode(embed(symbol), initial_state=[h_in, c_in])
    encoder = Model(source, [h, c], name="encoder")
    return training_model, encoder, Model([symbol, h_in, c_in], [write(step), h_out, c_out])


def translate(encoder: Model, step: Model, source: np.ndarray, longest: int) -> np.ndarray:
    """Return the most likely symbol after those before it, step by step."""
    h, c = encoder.predict(source, verbose=0)
    symbol, symbols = np.full((len(source), 1), START), []
    for _ in range(longest):
        logits, h, c = step.predict([symbol, h, c], verbose=0)
        symbol = logits.argmax(-1)
        symbol = np.where(symbol == PAD, END, symbol)  # PAD would mask the next step
        symbols.append(symbol)
    return np.concatenate(symbols, axis=1)


def compute_accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the share of sequences without a wrong symbol, up to the symbol END."""
    return float(((outputs == targets) | (targets == PAD)).all(axis=1).mean())


def main(epochs: int = 6, seed: int = 0) -> float:
    """Train, translate unseen sequences, and return the share without a wrong symbol."""
    torch.manual_seed(seed)
    model, encoder, step = build_models()
    loss = padless.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(padless.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    source, decoder_inputs, targets = make_examples(1600, seed=seed)
    model.fit([source, decoder_inputs], targets, batch_size=64, epochs=epochs, validation_split=0.1, verbose=2)
    unseen, _, truth = make_examples(200, seed=seed + 1)
    outputs = translate(encoder, step, unseen, truth.shape[1])
    for row in range(3):
        print("source", unseen[row].tolist(), "output", outputs[row].tolist(), "truth", truth[row].tolist())
    accuracy = compute_accuracy(outputs, truth)
    print(f"{accuracy:.0%} of {len(unseen)} unseen sequences are reversed without an error")
    return accuracy


if __name__ == "__main__":
    main()
