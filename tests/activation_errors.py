"""Measure the errors of tanh, sigmoid and powers of 2 in the compiled kernels, for every float32 or a sample of them.

Run `python tests/activation_errors.py` for all 2^32 numbers and all libraries: about ten minutes for each library.
"""

import argparse
import ctypes
from dataclasses import dataclass

import numpy as np

from padless.kernels.native import library

BLOCK = 1 << 20
EXACT = {
    "tanh": np.tanh,
    "sigmoid": lambda x: np.where(x < 0, np.exp(x), 1) / (1 + np.exp(-np.abs(x))),
    "exp2": np.exp2,
}


@dataclass
class Errors:
    """What is wrong with the results of a function, in units in the last place (ulp) of the exact value.

    Args:
        greatest: The greatest absolute error.
        at: The number with that error.
        bias: The mean of the errors, with the sign that leads away from 0.
        decrease: The greatest decrease from a number to the next one.
        not_nan: How many NaN have a result that is not NaN.
        count: How many numbers were compared.
    """

    greatest: float = 0.0
    at: float = 0.0
    bias: float = 0.0
    decrease: float = 0.0
    not_nan: int = 0
    count: int = 0


def apply(loaded, name, x):
    """Return the results of a function of a loaded library for an array of whole vectors of float32."""
    x, out = np.ascontiguousarray(x, dtype=np.float32), np.empty(len(x), dtype=np.float32)
    number = list(EXACT).index(name)
    assert len(x) % loaded.lanes == 0
    loaded.activation(number, len(x) // loaded.lanes, ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data))
    return out


def floats_in_order(first, count):
    """Return consecutive float32, from -NaN over -infinity, -0, 0 and infinity to NaN; `first` is below 2^32."""
    order = np.arange(first, first + count, dtype=np.uint32)
    bits = np.where(order < 0x80000000, ~order, order & np.uint32(0x7FFFFFFF))
    return bits.astype(np.uint32).view(np.float32)


def ulp(y):
    """Return the distance of float32 at exact values of float64; below the normal numbers that of denormal numbers."""
    exponents = np.frexp(np.maximum(np.abs(y), 2.0**-126))[1]
    return np.ldexp(1.0, exponents - 24)


def measure(loaded, name, blocks):
    """Return the errors of a function for blocks of consecutive numbers."""
    errors, total = Errors(), 0.0
    with np.errstate(all="ignore"):
        for x in blocks:
            y = apply(loaded, name, x).astype(np.float64)
            is_nan = np.isnan(x)
            errors.not_nan += int((is_nan & ~np.isnan(y)).sum())
            used = ~is_nan
            if name == "exp2":  # the kernels need no numbers beyond, and may return 0 where the power is denormal
                used &= (x <= 126) & (x >= -126)
            x, y = x[used].astype(np.float64), y[used]
            if not len(x):
                continue
            exact = EXACT[name](x)
            error = (y - exact) / ulp(exact)
            worst = int(np.argmax(np.where(np.isnan(error), np.inf, np.abs(error))))
            if not abs(error[worst]) <= errors.greatest:
                errors.greatest, errors.at = float(abs(error[worst])), float(x[worst])
            total += float((error * np.sign(exact)).sum())
            errors.count += len(x)
            errors.decrease = max(errors.decrease, float((-np.diff(y) / ulp(exact[1:])).max(initial=0)))
    errors.bias = total / max(errors.count, 1)
    return errors


def main():
    """Measure all numbers, or every n-th block of them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="measure each N-th block of 2^20 numbers")
    options = parser.parse_args()
    for level in library.supported_levels():
        loaded = library.load_library(level)
        if isinstance(loaded, str):
            print(loaded)
            continue
        for name in EXACT:
            starts = range(0, 1 << 32, BLOCK * options.every)
            print(level, name, measure(loaded, name, (floats_in_order(start, BLOCK) for start in starts)), flush=True)


if __name__ == "__main__":
    main()
