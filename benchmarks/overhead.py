"""Measure what a step of `fit` costs more than the same step in a hand-written loop: `python -m benchmarks.overhead`.

Both train the same layers on the same batches, one epoch each in turn. The output is the median of the differences.
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


def make_data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return padded ids `(ROWS, WIDTH)` and a class for each row."""
    rng = np.random.default_rng(seed)
    x = rng.integers(1, WORDS, (ROWS, WIDTH))
    x[np.arange(WIDTH) >= rng.integers(1, WIDTH + 1, (ROWS, 1))] = 0
    return x, rng.integers(0, 2, (ROWS, 1)).astype("float32")


def build_model() -> Model:
    """Return a model so small that its step is mostly overhead."""
    x = Input((None,))
    h = GlobalAveragePooling1D()(Embedding(WORDS, 8, mask_zero=True)(x))
    return Model(x, Dense(1)(h))


def time_fit(model: Model, x: np.ndarray, y: np.ndarray) -> float:
    """Return the seconds of an epoch of `fit`."""
    start = time.perf_counter()
    model.fit(x, y, batch_size=BATCH, verbose=0)
    return time.perf_counter() - start


def time_loop(model: Model, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the seconds of the same epoch in a loop."""
    start = time.perf_counter()
    model.train()
    order, total = torch.randperm(ROWS), 0.0
    for rows in order.split(BATCH):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    return time.perf_counter() - start


def measure(rounds: int) -> tuple[float, float]:
    """Return the milliseconds of a step in the loop, and the milliseconds that `fit` adds."""
    x, y = make_data()
    fit_model, loop_model = build_model(), build_model()
    fit_model.compile("adam", "mse")
    optimizer = padless.optimizers.Adam()
    optimizer.build(loop_model.parameters())
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    pairs = [(time_loop(loop_model, optimizer, *tensors), time_fit(fit_model, x, y)) for _ in range(rounds + 1)][1:]
    steps = ROWS / BATCH / 1e3
    return median(loop for loop, _ in pairs) / steps, median(fit - loop for loop, fit in pairs) / steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    loop, added = measure(parser.parse_args().rounds)
    print(f"a step in a loop: {loop:.3f} ms; fit adds {added:.3f} ms (batch {BATCH}, {ROWS // BATCH} steps in an epoch)")


if __name__ == "__main__":
    main()
