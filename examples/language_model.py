"""A next-token language model, and its perplexity: exactly that of the text, however it is cut into batches.

The text is lines of Python's own library, a token is a character, a sequence is a line. Perplexity is exp of the mean
over all real tokens. A mean over batches would depend on which lines share one; here any batch size gives one number.

    python examples/language_model.py
"""

from __future__ import annotations

import heapq
import inspect
import textwrap

import numpy as np
import torch

import padless
from padless import Model, Sequential
from padless.layers import GRU, Dense, Embedding

END, LONGEST = 1, 60


def lines() -> list[str]:
    """Lines of code of different lengths."""
    return [
        line.strip()[:LONGEST]
        for module in (textwrap, heapq)
        for line in inspect.getsource(module).splitlines()
        if line.strip()
    ]


def examples(text: list[str]) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """For each line what is read, beginning at END, and what follows each character; how many symbols there are."""
    known = {character: number + 2 for number, character in enumerate(sorted(set("".join(text))))}
    rows = [np.array([END, *(known[character] for character in line), END]) for line in text]
    return [row[:-1] for row in rows], [row[1:] for row in rows], len(known) + 2


def language_model(symbols: int, units: int = 64) -> Model:
    """For each character the probabilities of the next one, as logits."""
    return Sequential([Embedding(symbols, 24, mask_zero=True), GRU(units, return_sequences=True), Dense(symbols)])


def main(epochs: int = 3, seed: int = 0) -> list[float]:
    """Train, and print the perplexity of unseen lines by batches of three sizes, and by hand."""
    torch.manual_seed(seed)
    x, y, symbols = examples(lines())
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[: len(x) * 9 // 10], order[len(x) * 9 // 10 :]
    model = language_model(symbols)
    loss = padless.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(padless.optimizers.Adam(0.01, clipnorm=1.0), loss)
    model.fit([x[i] for i in train], [y[i] for i in train], batch_size=16, epochs=epochs, verbose=2)
    unseen, truth = [x[i] for i in test], [y[i] for i in test]
    found = [float(np.exp(model.evaluate(unseen, truth, batch_size=size, verbose=0))) for size in (1, 7, 64)]
    logits = torch.cat([torch.from_numpy(row) for row in model.predict(unseen, verbose=0)])
    found.append(torch.nn.functional.cross_entropy(logits, torch.from_numpy(np.concatenate(truth))).exp().item())
    print("perplexity of unseen lines, by batches of 1, 7 and 64, and by hand:", [f"{value:.5f}" for value in found])
    return found


if __name__ == "__main__":
    main()
