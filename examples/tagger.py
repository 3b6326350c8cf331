"""Tagging: for each word of a line of code, what is it? A name, a number, a string, a comment, a sign.

The truth is what Python's own tokenizer says. The model sees characters of each word only as their number and the first
of them, so it has to read on both sides; one label for each real step, and none for padding.

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


def lines() -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """For each line the first letters of its words, their lengths, and their kinds."""
    rows: dict[int, list[tuple[int, int, int]]] = {}
    for token in tokenize.generate_tokens(io.StringIO(inspect.getsource(statistics)).readline):
        if token.type in KINDS and token.string.isascii():
            seen = ord(token.string[0]) - 31, min(len(token.string), LENGTHS)
            rows.setdefault(token.start[0], []).append((*seen, KINDS.index(token.type)))
    arrays = [np.array(row) for row in rows.values()]
    letters, lengths, kinds = ([array[:, column] for array in arrays] for column in range(3))
    return letters, lengths, kinds


def tagger(units: int = 16) -> Model:
    """The kinds of all words of a line."""
    letter, length = Input((None,), name="letter"), Input((None,), name="length")
    h = Concatenate()([Embedding(LETTERS, 8, mask_zero=True)(letter), Embedding(LENGTHS + 1, 4, mask_zero=True)(length)])
    h = Bidirectional(GRU(units, return_sequences=True))(h)
    return Model([letter, length], Dense(len(KINDS), activation="softmax")(h))


def main(epochs: int = 2, seed: int = 0) -> float:
    """Train on most lines, and print how many words of the others get the right label."""
    torch.manual_seed(seed)
    letters, lengths, kinds = lines()
    order = np.random.default_rng(seed).permutation(len(kinds))

    def part(rows: np.ndarray) -> tuple[list[list[np.ndarray]], list[np.ndarray]]:
        return [[letters[i] for i in rows], [lengths[i] for i in rows]], [kinds[i] for i in rows]

    (x, y), (unseen, truth) = part(order[: len(order) * 4 // 5]), part(order[len(order) * 4 // 5 :])
    model = tagger()
    model.compile(padless.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=32, epochs=epochs, validation_data=(unseen, truth), verbose=2)
    found = model.evaluate(unseen, truth, verbose=0, return_dict=True)["accuracy"]
    print(f"{sum(map(len, truth))} words of {len(truth)} unseen lines: {found:.1%} labelled right")
    return found


if __name__ == "__main__":
    main()
