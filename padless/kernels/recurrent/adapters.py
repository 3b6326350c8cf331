"""How `scan.py` calls a path that knows tanh, sigmoid and relu by name: one door for each of the cells."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from padless.kernels.recurrent.reference import REFERENCE

Door = Callable[..., Any]


def doors(run: Callable[..., Any], lstm: Any, gru: Any, tanh: Any, relu: Any) -> tuple[Door, Door, Door]:
    """`scan.lstm`, `scan.gru` (with `reset_after`) and `scan.simple_rnn` by `run(cell, again, index, reverse, *tensors)`.

    A door takes index, direction, settings, tensors, and masks, which are None; `again` is the reference of the same.
    """

    def door(name: str, settings: int, cell: Callable[..., Any]) -> Door:
        def through(index: Any, reverse: bool, *given: Any) -> Any:
            chosen, tensors = given[:settings], given[settings:-1]
            again = partial(REFERENCE[name], index, reverse, *chosen, masks=None)
            return run(cell(*chosen), again, index, reverse, *tensors)

        return through

    return (
        door("lstm", 2, lambda *_: lstm),
        door("gru", 3, lambda *_: gru),
        door("simple_rnn", 1, lambda activation: relu if activation is torch.relu else tanh),
    )
