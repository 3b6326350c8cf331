"""Masks for the checks, the smallest first, and functions that draw random numbers for a padded grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Mask: TypeAlias = NDArray[np.bool_]
"""Booleans `(B, T)`, True at real steps."""

Draw: TypeAlias = Callable[[torch.Generator, tuple[int, ...]], Tensor]
"""A function of a generator and the shape `(B, T)` of a grid that returns random numbers `(B, T, ...)`."""

StepShape: TypeAlias = "int | tuple[int, ...] | Draw"
"""The shape of one step, for normal numbers, or a function that draws other numbers."""


def special_masks() -> dict[str, Mask]:
    """Return the masks on which padding is most often handled wrongly, by name, the smallest first.

    There are masks without columns, without real steps, with one step, empty sequences, padding on each side, and gaps.

    Example:
        >>> special_masks()["gaps"].astype(int).tolist()
        [[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1]]
    """
    patterns = {
        "one step": ["1"],
        "no step": ["0"],
        "T = 1": ["1", "0", "1"],
        "all empty": ["000", "000"],
        "one step among many": ["0000", "0010", "0000"],
        "none": ["11111", "11111"],
        "right": ["110000", "111111", "100000"],
        "left": ["0011", "0001", "1111"],
        "both sides": ["011000", "001110"],
        "empty rows": ["00000", "11100", "00000", "10000"],
        "gaps": ["10110", "01001", "11111"],
    }
    masks = {name: np.array([[cell == "1" for cell in row] for row in rows]) for name, rows in patterns.items()}
    return {"no columns": np.zeros((2, 0), dtype=bool), **masks}


def random_masks(count: int, seed: int = 0) -> Iterator[Mask]:
    """Yield random masks of 1 to 5 sequences and 1 to 7 columns, each with a random density.

    Args:
        count: The number of masks.
        seed: The seed of the random numbers. The same seed gives the same masks.

    Example:
        >>> [mask.ndim for mask in random_masks(2)]
        [2, 2]
    """
    random = np.random.default_rng(seed)
    for _ in range(count):
        shape = tuple(random.integers((1, 1), (6, 8)))
        yield random.random(shape) < random.random()


def different_masks(mask: Mask, count: int) -> list[Mask]:
    """Return the mask and `count - 1` random masks of its shape.

    >>> [other.astype(int).tolist() for other in different_masks(np.ones((1, 4), dtype=bool), 2)]
    [[[1, 1, 1, 1]], [[1, 0, 1, 0]]]
    """
    return [mask, *(np.random.default_rng(number).random(mask.shape) < 0.6 for number in range(1, count))]


def normal(*features: int) -> Draw:
    """Return a function that draws normal numbers `(B, T, *features)`."""
    return lambda generator, grid: torch.randn(*grid, *features, generator=generator, dtype=torch.float64)


def ids(size: int) -> Draw:
    """Return a function that draws integers `(B, T)` from 1 to `size - 1`, so that 0 can mark padding."""
    return lambda generator, grid: torch.randint(1, size, grid, generator=generator)


def labels(classes: int) -> Draw:
    """Return a function that draws class ids `(B, T)` from 0 to `classes - 1`."""
    return lambda generator, grid: torch.randint(classes, grid, generator=generator)


def one_hot(classes: int) -> Draw:
    """Return a function that draws one-hot labels `(B, T, classes)`."""
    return lambda generator, grid: torch.eye(classes, dtype=torch.float64)[labels(classes)(generator, grid)]


def binary(*features: int) -> Draw:
    """Return a function that draws zeros and ones `(B, T, *features)`."""
    return lambda generator, grid: torch.randint(2, (*grid, *features), generator=generator).double()


def probabilities(*features: int) -> Draw:
    """Return a function that draws probabilities `(B, T, *features)`.

    They sum to 1 over the last axis. Without features, or with a last axis of size 1, each is between 0 and 1.
    """

    def draw(generator: torch.Generator, grid: tuple[int, ...]) -> Tensor:
        numbers = normal(*features)(generator, grid)
        return numbers.softmax(-1) if features and features[-1] > 1 else numbers.sigmoid()

    return draw


def as_draw(shape: StepShape) -> Draw:
    """Return `shape` if it is a function, else a function that draws normal numbers of this shape."""
    if callable(shape):
        return shape
    return normal(*(shape if isinstance(shape, tuple) else (shape,)))
