"""A model with `add_loss`: sequences are told by a code that shall be zero nearly everywhere.

`call` adds the mean size of the code at real steps to the loss. It runs on `Packed` values: padding has no size.

    python examples/sparse_codes.py
"""

from __future__ import annotations

import numpy as np
import torch

import padless
from padless import Model, Packed
from padless.layers import GRU, Dense, Embedding

SYMBOLS = 12


def examples(n: int, longest: int = 12, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Sequences of symbols; the label of a step says whether its symbol has come before."""
    rng = np.random.default_rng(seed)
    x = [rng.integers(1, SYMBOLS, rng.integers(1, longest + 1)) for _ in range(n)]
    return x, [np.array([symbol in row[:place] for place, symbol in enumerate(row)], float) for row in x]


class SparseCodes(Model):
    """A tagger whose code costs `price` times the mean of its sizes."""

    def __init__(self, price: float = 0.0) -> None:
        super().__init__()
        self.price = price
        self.embed = Embedding(SYMBOLS, 16, mask_zero=True)
        self.scan = GRU(32, return_sequences=True)
        self.code = Dense(32, activation="relu")
        self.tag = Dense(1, activation="sigmoid")

    def coded(self, inputs: Packed | torch.Tensor) -> Packed:
        """The code of each step."""
        return self.code(self.scan(self.embed(inputs)))

    def call(self, inputs: Packed | torch.Tensor) -> Packed:
        """For each step the probability that its symbol has come before."""
        code = self.coded(inputs)
        self.add_loss(self.price * code.values.mean())  # over real steps: there are no others
        return self.tag(code)


def main(epochs: int = 4, seed: int = 0) -> dict[float, tuple[float, float]]:
    """Train with and without the price; print how many codes are zero, and what it costs."""
    x, y = examples(250, seed=seed)
    unseen, truth = examples(100, seed=seed + 1)
    found = {}
    for price in (0.0, 0.2):
        torch.manual_seed(seed)
        model = SparseCodes(price)
        model.compile(padless.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
        accuracy = model.evaluate(unseen, truth, verbose=0, return_dict=True)["accuracy"]
        zeros = (model.coded(padless.pack(unseen)).values == 0).float().mean().item()
        print(f"price {price}: {accuracy:.1%} of the steps right, {zeros:.0%} of the code zero")
        found[price] = accuracy, zeros
    return found


if __name__ == "__main__":
    main()
