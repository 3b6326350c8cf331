"""A time series with missing steps: predict the speed of a wave that is measured at irregular times.

The measurements are noisy, and most steps are missing at random. Missing steps are NaN in the array and masked. One
feature of a real step is the time since the last measurement.

    python examples/irregular_series.py
"""

from __future__ import annotations

import numpy as np
import torch

import padless
from padless import Input, Model
from padless.layers import GRU, Dense

STEPS, MISSING = 48, 0.6


def make_series(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return values and times since the last value `(n, STEPS, 2)`, NaN at missing steps, and the speeds `(n, 1)`."""
    rng = np.random.default_rng(seed)
    speed, times = rng.uniform(0.1, 0.5, (n, 1)), np.arange(STEPS)
    values = np.sin(speed * times + rng.uniform(0, 6, (n, 1))) + rng.normal(0, 0.05, (n, STEPS))
    measured = rng.random((n, STEPS)) > MISSING
    last = np.maximum.accumulate(np.where(measured, times, 0), axis=1)
    since = np.diff(last, axis=1, prepend=0)
    x = np.stack([values, since / 4], axis=-1)
    x[~measured] = np.nan
    return x.astype("float32"), speed.astype("float32")


def build_model(units: int = 32) -> Model:
    """Return a model from a series to its speed."""
    x = Input((None, 2), masked=True)
    return Model(x, Dense(1)(GRU(units)(x)))


def pack_measured(x: np.ndarray) -> padless.Packed:
    """Return the measured steps."""
    return padless.pack(torch.from_numpy(x), mask=~np.isnan(x[..., 0]))


def main(epochs: int = 6, seed: int = 0) -> float:
    """Train, and return the mean absolute error on new series."""
    torch.manual_seed(seed)
    model = build_model()
    model.compile(padless.optimizers.Adam(0.01), "mse", metrics=["mae"])
    x, y = make_series(800, seed=seed)
    model.fit(pack_measured(x), y, batch_size=32, epochs=epochs, verbose=2)
    x, y = make_series(200, seed=seed + 1)
    error = model.evaluate(pack_measured(x), y, verbose=0, return_dict=True)["mae"]
    print(
        f"{np.isnan(x[..., 0]).mean():.0%} of the steps are missing; mean error {error:.3f}, error of the constant mean "
        f"{np.abs(y - y.mean()).mean():.3f}"
    )
    return error


if __name__ == "__main__":
    main()
