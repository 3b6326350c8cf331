"""A Siamese model with a user-defined `train_step`: predict whether two sequences have the same symbols.

One encoder reads both sequences of a pair. The contrastive loss decreases the distance of matching pairs, and increases
the distance of other pairs up to a margin (Hadsell, Chopra, LeCun, 2006). Two sequences match if one is a permutation
of the other. The two padded arrays have different masks.

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


def make_pairs(n: int, longest: int = 8, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Return two padded arrays `(n, longest)`, one with left padding, and whether each pair matches `(n,)`."""
    rng = np.random.default_rng(seed)
    first, second = np.zeros((2, n, longest), int)
    matches = rng.random(n) < 0.5
    for row in range(n):
        symbols = rng.integers(1, SYMBOLS, rng.integers(2, longest + 1))
        other = rng.permutation(symbols) if matches[row] else rng.integers(1, SYMBOLS, rng.integers(2, longest + 1))
        first[row, : len(symbols)] = symbols
        second[row, longest - len(other) :] = other
    return [first, second], matches.astype("float32")


def build_encoder(units: int = 24) -> Model:
    """Return a model from one sequence to a vector."""
    ids = Input((None,))
    h = GRU(units, return_sequences=True)(Embedding(SYMBOLS, 16, mask_zero=True)(ids))
    return Model(ids, Dense(8)(GlobalAveragePooling1D()(h)), name="encoder")


class Siamese(Model):
    """The distance of two sequences, with one encoder for both."""

    def __init__(self, encoder: Model) -> None:
        super().__init__()
        self.encoder = encoder
        self.loss_tracker = padless.metrics.Mean(name="loss")
        self.accuracy_tracker = padless.metrics.Mean(name="accuracy")

    def call(self, inputs: list[Tensor]) -> Tensor:
        """Return the distance of each pair, `(B,)`."""
        first, second = (self.encoder(ids) for ids in inputs)
        return torch.linalg.vector_norm(first - second + 1e-6, dim=-1)

    @property
    def metrics(self) -> list[padless.metrics.Metric]:
        """The metrics that are reported, and reset before each epoch."""
        return [self.loss_tracker, self.accuracy_tracker]

    def train_step(self, data: tuple[list[Tensor], Tensor]) -> dict[str, Tensor]:
        """Train on a batch of pairs."""
        self.zero_grad()
        loss = self.contrastive_loss(data)
        loss.backward()
        self.optimizer.step()
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data: tuple[list[Tensor], Tensor]) -> dict[str, Tensor]:
        """Evaluate a batch of pairs."""
        self.contrastive_loss(data)
        return {metric.name: metric.result() for metric in self.metrics}

    def contrastive_loss(self, data: tuple[list[Tensor], Tensor]) -> Tensor:
        """Return the loss of a batch, and update the metrics."""
        x, matches = data
        distance = self(x)
        too_close = (MARGIN - distance).clamp_min(0)
        loss = (matches * distance.square() + (1 - matches) * too_close.square()).mean()
        self.loss_tracker.update_state(loss, sample_weight=len(matches))
        self.accuracy_tracker.update_state(((distance < MARGIN / 2) == (matches > 0.5)).float())
        return loss


def main(epochs: int = 5, seed: int = 0) -> float:
    """Train on pairs, and return the accuracy on unseen pairs."""
    torch.manual_seed(seed)
    model = Siamese(build_encoder())
    model.compile(padless.optimizers.Adam(0.01))
    x, matches = make_pairs(600, seed=seed)
    model.fit(x, matches, batch_size=32, epochs=epochs, verbose=2)
    x, matches = make_pairs(200, seed=seed + 1)
    accuracy = model.evaluate(x, matches, verbose=0, return_dict=True)["accuracy"]
    print(f"accuracy on {len(matches)} unseen pairs: {accuracy:.0%}")
    return accuracy


if __name__ == "__main__":
    main()
