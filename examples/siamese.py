"""Do two sequences say the same? A Siamese model with a train_step of its own and a contrastive loss.

One encoder reads both sequences of a pair. Pairs that belong together are drawn together, others are pushed apart until
they are a margin away (Hadsell, Chopra, LeCun, 2006). Two sequences are the same here if one is the other with its
symbols in another order; both have lengths of their own.

    python examples/siamese.py
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import padless
from padless import Input, Model
from padless.layers import GRU, Dense, Embedding, GlobalAveragePooling1D

SYMBOLS, MARGIN = 9, 1.0


def pairs(n: int, longest: int = 8, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Two padded arrays `(n, longest)` with padding on either side, and for each pair whether it belongs together."""
    rng = np.random.default_rng(seed)
    first, second = np.zeros((2, n, longest), int)
    same = rng.random(n) < 0.5
    for row in range(n):
        symbols = rng.integers(1, SYMBOLS, rng.integers(2, longest + 1))
        other = rng.permutation(symbols) if same[row] else rng.integers(1, SYMBOLS, rng.integers(2, longest + 1))
        first[row, : len(symbols)] = symbols
        second[row, longest - len(other) :] = other
    return [first, second], same.astype("float32")


def encoder(units: int = 24) -> Model:
    """What reads one sequence."""
    ids = Input((None,))
    h = GRU(units, return_sequences=True)(Embedding(SYMBOLS, 16, mask_zero=True)(ids))
    return Model(ids, Dense(8)(GlobalAveragePooling1D()(h)), name="encoder")


class Siamese(Model):
    """The distance of two sequences, by one encoder for both."""

    def __init__(self, encoder: Model) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss_tracker, self.right = padless.metrics.Mean(name="loss"), padless.metrics.Mean(name="right")

    def call(self, inputs: list[Tensor]) -> Tensor:
        """The distance of each pair, `(B,)`."""
        first, second = (self.encoder(ids) for ids in inputs)
        return torch.linalg.vector_norm(first - second + 1e-6, dim=-1)

    @property
    def metrics(self) -> list[padless.metrics.Metric]:
        """What is reported, and forgotten before each epoch."""
        return [self.loss_tracker, self.right]

    def train_step(self, data: tuple[list[Tensor], Tensor]) -> dict[str, Tensor]:
        """One step on a batch of pairs."""
        self.zero_grad()
        loss = self.contrast(data)
        loss.backward()
        self.optimizer.step()
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data: tuple[list[Tensor], Tensor]) -> dict[str, Tensor]:
        """The same without learning."""
        self.contrast(data)
        return {metric.name: metric.result() for metric in self.metrics}

    def contrast(self, data: tuple[list[Tensor], Tensor]) -> Tensor:
        """The loss of a batch, counted by its pairs."""
        x, same = data
        distance = self(x)
        loss = (same * distance.square() + (1 - same) * (MARGIN - distance).clamp_min(0).square()).mean()
        self.loss_tracker.update_state(loss, sample_weight=len(same))
        self.right.update_state(((distance < MARGIN / 2) == (same > 0.5)).float())
        return loss


def main(epochs: int = 5, seed: int = 0) -> float:
    """Train on pairs, and print how many unseen ones are told apart."""
    torch.manual_seed(seed)
    model = Siamese(encoder())
    model.compile(padless.optimizers.Adam(0.01))
    x, same = pairs(600, seed=seed)
    model.fit(x, same, batch_size=32, epochs=epochs, verbose=2)
    x, same = pairs(200, seed=seed + 1)
    found = model.evaluate(x, same, verbose=0, return_dict=True)
    print(f"{found['right']:.0%} of {len(same)} unseen pairs are told right")
    return found["right"]


if __name__ == "__main__":
    main()
