"""A time series with missing steps: what is measured now and then, at times that nobody chose.

A wave of unknown speed is seen through noise; most of its steps are missing, anywhere. They are NaN in the array, and
`mask` says so: a hole is no step. Each step that is there knows when it is. The question is how fast the wave is.

    python examples/irregular_series.py
"""

from __future__ import annotations

import numpy as np
import torch

import padless
from padless import Input, Model
from padless.layers import GRU, Dense

STEPS, MISSING = 48, 0.6


def series(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values and times since the last value `(n, STEPS, 2)`, NaN where there is nothing; the speeds `(n, 1)`."""
    rng = np.random.default_rng(seed)
    speed, times = rng.uniform(0.1, 0.5, (n, 1)), np.arange(STEPS)
    values = np.sin(speed * times + rng.uniform(0, 6, (n, 1))) + rng.normal(0, 0.05, (n, STEPS))
    there = rng.random((n, STEPS)) > MISSING
    last = np.maximum.accumulate(np.where(there, times, 0), axis=1)
    since = np.diff(last, axis=1, prepend=0)
    x = np.stack([values, since / 4], axis=-1)
    x[~there] = np.nan
    return x.astype("float32"), speed.astype("float32")


def speedometer(units: int = 32) -> Model:
    """One number for a series."""
    x = Input((None, 2), masked=True)
    return Model(x, Dense(1)(GRU(units)(x)))


def known(x: np.ndarray) -> padless.Packed:
    """The steps that are there."""
    return padless.pack(torch.from_numpy(x), mask=~np.isnan(x[..., 0]))


def main(epochs: int = 6, seed: int = 0) -> float:
    """Train, and print the mean error, beside that of always saying the mean."""
    torch.manual_seed(seed)
    model = speedometer()
    model.compile(padless.optimizers.Adam(0.01), "mse", metrics=["mae"])
    x, y = series(800, seed=seed)
    model.fit(known(x), y, batch_size=32, epochs=epochs, verbose=2)
    x, y = series(200, seed=seed + 1)
    error = model.evaluate(known(x), y, verbose=0, return_dict=True)["mae"]
    print(
        f"{np.isnan(x[..., 0]).mean():.0%} of the steps are missing; mean error {error:.3f}, of the mean "
        f"{np.abs(y - y.mean()).mean():.3f}"
    )
    return error


if __name__ == "__main__":
    main()
