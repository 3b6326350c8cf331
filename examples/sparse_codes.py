"""A model with `add_loss`: a tagger whose hidden code is sparse.

`call` adds the mean of the code at real steps to the loss. It uses `Packed.values`, which contains no padding.

    python examples/sparse_codes.py
"""

from __future__ import annotations

import numpy as np
import torch

import padless
from padless import Model, Packed
from padless.layers import GRU, Dense, Embedding

SYMBOLS = 12


def make_examples(n: int, longest: int = 12, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return sequences of symbols, and for each step whether its symbol occurred before."""
    rng = np.random.default_rng(seed)
    x = [rng.integers(1, SYMBOLS, rng.integers(1, longest + 1)) for _ in range(n)]
    return x, [np.array([symbol in row[:step] for step, symbol in enumerate(row)], float) for row in x]


class SparseCodes(Model):
    """A tagger that adds `penalty` times the mean of its code to the loss."""

    def __init__(self, penalty: float = 0.0) -> None:
        super().__init__()
        self.penalty = penalty
        self.embed = Embedding(SYMBOLS, 16, mask_zero=True)
        self.recurrent = GRU(32, return_sequences=True)
        self.code = Dense(32, activation="relu")
        self.tag = Dense(1, activation="sigmoid")

    def encode(self, inputs: Packed | torch.Tensor) -> Packed:
        """Return the code of each step."""
        return self.code(self.recurrent(self.embed(inputs)))

    def call(self, inputs: Packed | torch.Tensor) -> Packed | torch.Tensor:
        """Return for each step the probability that its symbol occurred before."""
        code = self.encode(inputs)
        self.add_loss(self.penalty * code.values.mean())  # real steps only
        return self.tag(code)


def main(epochs: int = 4, seed: int = 0) -> dict[float, tuple[float, float]]:
    """Train with and without the penalty; return the accuracy and the share of zeros in the code."""
    x, y = make_examples(250, seed=seed)
    unseen, truth = make_examples(100, seed=seed + 1)
    results = {}
    for penalty in (0.0, 0.2):
        torch.manual_seed(seed)
        model = SparseCodes(penalty)
        model.compile(padless.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
        model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
        accuracy = model.evaluate(unseen, truth, verbose=0, return_dict=True)["accuracy"]
        zeros = (model.encode(padless.pack(unseen)).values == 0).float().mean().item()
        print(f"penalty {penalty}: accuracy {accuracy:.1%}, {zeros:.0%} of the code is zero")
        results[penalty] = accuracy, zeros
    return results


if __name__ == "__main__":
    main()
