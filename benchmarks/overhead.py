"""What a step of `fit` costs above the same step written by hand in torch: `python -m benchmarks.overhead`.

Both train the same layers on the same batches, one epoch each in turn; the medians of the differences are printed.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch

import padless
from padless import Input, Model
from padless.layers import Dense, Embedding, GlobalAveragePooling1D

ROWS, BATCH, WIDTH, WORDS = 6400, 64, 20, 100


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Padded rows of ids, and a class for each."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, WORDS, (ROWS, WIDTH))
    x[np.arange(WIDTH) >= rng.integers(1, WIDTH + 1, (ROWS, 1))] = 0
    return x, rng.integers(0, 2, (ROWS, 1)).astype("float32")


def model() -> Model:
    """A model so small that hardly anything but overhead is left."""
    x = Input((None,))
    h = GlobalAveragePooling1D()(Embedding(WORDS, 8, mask_zero=True)(x))
    return Model(x, Dense(1)(h))


def by_fit(made: Model, x: np.ndarray, y: np.ndarray) -> float:
    """Seconds of an epoch by `fit`."""
    start = time.perf_counter()
    made.fit(x, y, batch_size=BATCH, verbose=0)
    return time.perf_counter() - start


def by_hand(made: Model, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    """Seconds of the same epoch by a loop."""
    start = time.perf_counter()
    made.train()
    order, total = torch.randperm(ROWS), 0.0
    for rows in order.split(BATCH):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(made(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    return time.perf_counter() - start


def measure(rounds: int) -> tuple[float, float]:
    """Milliseconds of a step by hand, and how many more by `fit`: medians of interleaved epochs."""
    x, y = data()
    fitted, looped = model(), model()
    fitted.compile("adam", "mse")
    optimizer = padless.optimizers.Adam()
    optimizer.build(looped.parameters())
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    pairs = [(by_hand(looped, optimizer, *tensors), by_fit(fitted, x, y)) for _ in range(rounds + 1)][1:]
    steps = ROWS / BATCH / 1e3
    return median(hand for hand, _ in pairs) / steps, median(fit - hand for hand, fit in pairs) / steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    hand, more = measure(parser.parse_args().rounds)
    print(f"a step by hand {hand:.3f} ms, by fit {more:.3f} ms more (batch {BATCH}, {ROWS // BATCH} steps an epoch)")


if __name__ == "__main__":
    main()
