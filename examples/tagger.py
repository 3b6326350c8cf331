"""Tagging: predict for each word of a line of code whether it is a name, a number, a string, a comment or a sign.

The labels come from Python's tokenizer. The inputs are the first character and the length of each word, so the model
needs the context on both sides. There is one label for each real step.

    python examples/tagger.py
"""

from __future__ import annotations

import inspect
import io
import statistics
import tokenize

import numpy as np
import torch

import padless
from padless import Input, Model
from padless.layers import GRU, Bidirectional, Concatenate, Dense, Embedding

KINDS = [tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.COMMENT, tokenize.OP]
LETTERS, LENGTHS = 97, 12


def read_lines() -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Return for each line the first characters of its words, their lengths, and their kinds."""
    rows: dict[int, list[tuple[int, int, int]]] = {}
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(statistics)).readline):
        if token.type in KINDS and token.string.isascii():
            letter, length = ord(token.string[0]) - 31, min(len(token.string), LENGTHS)
            rows.setdefault(token.start[0], []).append((letter, length, KINDS.index(token.type)))
    arrays = [np.array(row) for row in rows.values()]
    letters, lengths, kinds = ([array[:, column] for array in arrays] for column in range(3))
    return letters, lengths, kinds


def build_tagger(units: int = 16) -> Model:
    """Return a model from the words of a line to the probabilities of their kinds."""
    letter, length = Input((None,), name="letter"), Input((None,), name="length")
    h = Concatenate()([Embedding(LETTERS, 8, mask_zero=True)(letter), Embedding(LENGTHS + 1, 4, mask_zero=True)(length)])
    h = Bidirectional(GRU(units, return_sequences=True))(h)
    return Model([letter, length], Dense(len(KINDS), activation="softmax")(h))


def main(epochs: int = 2, seed: int = 0) -> float:
    """Train on 80 % of the lines, and return the accuracy on the words of the others."""
    torch.manual_seed(seed)
    letters, lengths, kinds = read_lines()
    order = np.random.default_rng(seed).permutation(len(kinds))

    def select(rows: np.ndarray) -> tuple[list[list[np.ndarray]], list[np.ndarray]]:
        return [[letters[i] for i in rows], [lengths[i] for i in rows]], [kinds[i] for i in rows]

    (x, y), (unseen, truth) = select(order[: len(order) * 4 // 5]), select(order[len(order) * 4 // 5 :])
    model = build_tagger()
    model.compile(padless.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=epochs, validation_data=(unseen, truth), verbose=2)
    accuracy = model.evaluate(unseen, truth, verbose=0, return_dict=True)["accuracy"]
    print(f"{sum(map(len, truth))} words of {len(truth)} unseen lines: accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
