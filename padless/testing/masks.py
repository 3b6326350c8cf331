"""Masks to try a law on, from the smallest on, and numbers to put on their grids."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Mask = NDArray[np.bool_]
Draw = Callable[[torch.Generator, tuple[int, ...]], Tensor]  # numbers for a grid (B, T): a tensor (B, T, ...)


def special_masks() -> dict[str, Mask]:
    """The shapes on which padding goes wrong, the smallest first.

    >>> {name: mask.astype(int).tolist() for name, mask in special_masks().items()}["holes"]
    [[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1]]
    """
    rows = {
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
        "holes": ["10110", "01001", "11111"],
    }
    masks = {name: np.array([[int(cell) for cell in row] for row in grid], dtype=bool) for name, grid in rows.items()}
    return {"no columns": np.zeros((2, 0), dtype=bool), **masks}


def random_masks(count: int, seed: int = 0) -> Iterator[Mask]:
    """Masks of any pattern, up to 5 rows of up to 7 steps.

    >>> [mask.ndim for mask in random_masks(2)]
    [2, 2]
    """
    random = np.random.default_rng(seed)
    for _ in range(count):
        shape = tuple(random.integers((1, 1), (6, 8)))
        yield random.random(shape) < random.random()


def apart(mask: Mask, count: int) -> list[Mask]:
    """The mask, and others on the same grid, as different as they come.

    >>> [other.astype(int).tolist() for other in apart(np.ones((1, 4), dtype=bool), 2)]
    [[[1, 1, 1, 1]], [[1, 0, 1, 0]]]
    """
    return [mask, *(np.random.default_rng(number).random(mask.shape) < 0.6 for number in range(1, count))]


def normal(*features: int) -> Draw:
    """Normal numbers of this shape at each step."""
    return lambda generator, grid: torch.randn(*grid, *features, generator=generator, dtype=torch.float64)


def ids(size: int) -> Draw:
    """Whole numbers from 1 to `size - 1`: 0 stays free for padding."""
    return lambda generator, grid: torch.randint(1, size, grid, generator=generator)


def labels(classes: int) -> Draw:
    """Class ids from 0 on."""
    return lambda generator, grid: torch.randint(classes, grid, generator=generator)


def one_hot(classes: int) -> Draw:
    """Classes as rows with a single 1."""
    return lambda generator, grid: torch.eye(classes, dtype=torch.float64)[labels(classes)(generator, grid)]


def binary(*features: int) -> Draw:
    """Zeros and ones."""
    return lambda generator, grid: torch.randint(2, (*grid, *features), generator=generator).double()


def probabilities(*features: int) -> Draw:
    """Positive numbers that sum to 1 over the last axis, or single ones below 1."""

    def draw(generator: torch.Generator, grid: tuple[int, ...]) -> Tensor:
        numbers = normal(*features)(generator, grid)
        return numbers.softmax(-1) if features and features[-1] > 1 else numbers.sigmoid()

    return draw


def as_draw(given: int | tuple[int, ...] | Draw) -> Draw:
    """Normal numbers for the shape of a step, anything else as it is."""
    if callable(given):
        return given
    return normal(*(given if isinstance(given, tuple) else (given,)))
