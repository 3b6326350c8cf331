"""A training step of an LSTM tagger, in padless and elsewhere, in one run.

    KERAS_BACKEND=torch python -m benchmarks.tagger [--fill 0.3] [--rounds 5]

Embedding(20000, 128) -> LSTM(128, return_sequences) -> Dense(20), sparse cross entropy, Adam, batch 64, 200 steps wide, rows
filled to `fill` on average. padless and Keras train through `fit`, torch through a hand-written loop; the peers take
turns, round after round, and the table shows medians, their spread (the middle half) and ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import padless
from padless.layers import LSTM, Dense, Embedding

os.environ.setdefault("KERAS_BACKEND", "torch")

BATCH, WIDTH, VOCABULARY, UNITS, CLASSES = 64, 200, 20000, 128, 20
Ids = NDArray[np.int64]


def data(fill: float, batches: int) -> tuple[Ids, Ids]:
    """Right-padded ids and labels; lengths spread evenly around the fill."""
    random = np.random.default_rng(0)
    spread = min(fill, 1 - fill) * WIDTH * 0.9
    lengths = np.round(random.uniform(fill * WIDTH - spread, fill * WIDTH + spread, BATCH * batches)).astype(int)
    real = np.arange(WIDTH) < lengths[:, None]
    ids = random.integers(1, VOCABULARY, real.shape) * real
    return ids, random.integers(0, CLASSES, real.shape) * real


def in_padless(x: Ids, y: Ids) -> Callable[[], object]:
    """Through `fit`."""
    model = padless.Sequential([padless.Input((None,)), Embedding(VOCABULARY, UNITS, mask_zero=True),
                                LSTM(UNITS, return_sequences=True), Dense(CLASSES)])
    model.compile("adam", padless.losses.SparseCategoricalCrossentropy(from_logits=True))
    return lambda: model.fit(x, y, batch_size=BATCH, verbose=0)


def in_keras(x: Ids, y: Ids) -> Callable[[], object]:
    """Through `fit`, on the backend that KERAS_BACKEND names."""
    import keras

    silent: Any = 0  # Keras declares a string

    model = keras.Sequential([keras.Input((None,)), keras.layers.Embedding(VOCABULARY, UNITS, mask_zero=True),
                              keras.layers.LSTM(UNITS, return_sequences=True), keras.layers.Dense(CLASSES)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return lambda: model.fit(x, y, batch_size=BATCH, verbose=silent)


class Tagger(nn.Module):
    """The same in plain torch: on the padded batch, or packed by torch's own means."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.embed = nn.Embedding(VOCABULARY, UNITS)
        self.lstm = nn.LSTM(UNITS, UNITS, batch_first=True)
        self.dense = nn.Linear(UNITS, CLASSES)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Scores for each step that ran: (B, T, classes), or (N, classes) packed."""
        h = self.embed(ids)
        if self.packed:
            return self.dense(self.lstm(pack_padded_sequence(h, lengths, True, False))[0].data)
        return self.dense(self.lstm(h)[0])


def in_torch(x: Ids, y: Ids, packed: bool) -> Callable[[], None]:
    """A hand-written loop."""
    model = Tagger(packed)
    optimizer = torch.optim.Adam(model.parameters())
    ids, labels = torch.from_numpy(x), torch.from_numpy(y)
    lengths = (ids != 0).sum(1)

    def epoch() -> None:
        for start in range(0, len(ids), BATCH):
            cut = slice(start, start + BATCH)
            scores = model(ids[cut], lengths[cut])
            if packed:
                target = pack_padded_sequence(labels[cut], lengths[cut], True, False).data
                loss = nn.functional.cross_entropy(scores, target)
            else:
                target = labels[cut].masked_fill(ids[cut] == 0, -100).flatten()
                loss = nn.functional.cross_entropy(scores.flatten(0, 1), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def main() -> None:
    """Time all peers in turn and print the table."""
    parser = argparse.ArgumentParser(description="A training step of an LSTM tagger, in padless and elsewhere.")
    parser.add_argument("--fill", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="training steps in a round")
    given = parser.parse_args()
    x, y = data(given.fill, given.steps)
    peers: dict[str, Callable[[], object]] = {
        "padless": in_padless(x, y),
        "torch, padded nn.LSTM": in_torch(x, y, packed=False),
        "torch, PackedSequence": in_torch(x, y, packed=True),
        f"Keras on {os.environ['KERAS_BACKEND']}": in_keras(x, y),
    }
    times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(given.rounds + 1):
        for name, run in peers.items():
            start = time.perf_counter()
            run()
            if turn:  # the first is for warming up
                times[name].append((time.perf_counter() - start) / given.steps * 1000)
    base = statistics.median(times["padless"])
    print(f"{torch.get_num_threads()} threads, fill {(x != 0).mean():.2f}, milliseconds per training step")
    print(f"| {'':24} | median | middle half   | x padless |\n|{'-' * 26}|-------:|--------------:|----------:|")
    for name, found in times.items():
        low, middle, high = statistics.quantiles(found, n=4)
        print(f"| {name:24} | {middle:6.1f} | {low:5.1f} - {high:5.1f} | {middle / base:8.2f}x |")


if __name__ == "__main__":
    main()
