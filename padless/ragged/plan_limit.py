"""Limit what the numbers in a file may ask the host to plan, while the file is read.

The arrays of a file have the memory that the file has. But a number such as the size of an upsampling has none. In a program
of the user there is no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from padless.errors import ArgumentError

MAX_CELLS = 1 << 19  # of a grid, with up to 100 bytes for each cell
_max_cells: ContextVar[int | None] = ContextVar("max_cells", default=None)


@contextmanager
def limited_plans(max_cells: int = MAX_CELLS) -> Iterator[None]:
    """Refuse in this context to plan for grids of more cells."""
    token = _max_cells.set(max_cells)
    try:
        yield
    finally:
        _max_cells.reset(token)


def check_plan(*sizes: int, grid_name: str) -> None:
    """Check the size of a grid before it is planned.

    Args:
        sizes: the sizes of its axes.
        grid_name: the grid, in words.

    Raises:
        ArgumentError: in `limited_plans`, if the grid has more cells than allowed.
    """
    limit = _max_cells.get()
    if limit is not None and math.prod(sizes) > limit:
        raise ArgumentError(
            f"The file asks for {grid_name} of {' x '.join(map(str, sizes))} cells; a file may ask for {limit}. "
            f"If the model is yours, make it in Python with open lengths, Input((None, ...)), and use load_weights."
        )
