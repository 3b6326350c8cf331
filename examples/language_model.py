"""A language model of characters, and its exact perplexity for any batch size.

The text is lines of Python's library. Perplexity is the exponential of the mean loss over all real tokens. A mean of
batch means would depend on the batches. Here each batch size gives the same number.

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


def read_lines() -> list[str]:
    """Return lines of code of different lengths."""
    return [
        line.strip()[:LONGEST]
        for module in (textwrap, heapq)
        for line in inspect.getsource(module).splitlines()
        if line.strip()
    ]


def encode(text: list[str]) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Return inputs that begin with END, targets that end with it, and the number of symbols."""
    ids = {character: number + 2 for number, character in enumerate(sorted(set("".join(text))))}
    rows = [np.array([END, *(ids[character] for character in line), END]) for line in text]
    return *padless.utils.next_step_pairs(rows), len(ids) + 2


def build_model(symbols: int, units: int = 64) -> Model:
    """Return a model from characters to the logits of the next character."""
    return Sequential([Embedding(symbols, 24, mask_zero=True), GRU(units, return_sequences=True), Dense(symbols)])


def main(epochs: int = 3, seed: int = 0) -> list[float]:
    """Train, and return the perplexity of unseen lines with three batch sizes, and computed by hand."""
    torch.manual_seed(seed)
    x, y, symbols = encode(read_lines())
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[: len(x) * 9 // 10], order[len(x) * 9 // 10 :]
    model = build_model(symbols)
    loss = padless.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(padless.optimizers.Adam(0.01, clipnorm=1.0), loss)
    model.fit([x[i] for i in train], [y[i] for i in train], batch_size=16, epochs=epochs, verbose=2)
    unseen, truth = [x[i] for i in test], [y[i] for i in test]
    perplexities = [float(np.exp(model.evaluate(unseen, truth, batch_size=size, verbose=0))) for size in (1, 7, 64)]
    logits = torch.cat([torch.from_numpy(row) for row in model.predict(unseen, verbose=0)])
    perplexities.append(torch.nn.functional.cross_entropy(logits, torch.from_numpy(np.concatenate(truth))).exp().item())
    values = [f"{perplexity:.5f}" for perplexity in perplexities]
    print("perplexity of unseen lines with batches of 1, 7 and 64, and by hand:", values)
    return perplexities


if __name__ == "__main__":
    main()
