"""How any cell is run over packed steps: its sizes, its first states, step by step.

A cell is a layer with `state_size` and `call(inputs, states)` returning `(output, new states)`, a torch module whose
`forward` does the same, or one of torch's own cells as they are.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from padless._torch_compat import pytree
from padless.errors import ArgumentError, NotBuilt, ShapeError
from padless.graph.train_mode import training_mode
from padless.kernels.recurrent.reference import scan
from padless.layers.base.layer import Layer, get
from padless.ragged.index import Index

TORCH_CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)  # torch's own, which say their sizes in other words


def as_cell(cell: Any) -> Any:
    """A cell, from itself or its config; raises `ArgumentError` for what cannot be run as one."""
    cell = cell if isinstance(cell, nn.Module) else get(cell)
    if isinstance(cell, TORCH_CELLS):
        return cell
    if isinstance(cell, nn.RNNBase):
        raise ArgumentError(
            f"torch.nn.{type(cell).__name__} runs over whole sequences, padding and all. Use the layer "
            f"padless.layers.{'SimpleRNN' if cell.mode.startswith('RNN') else cell.mode}, or "
            f"RNN(torch.nn.{cell.mode.partition('_')[0]}Cell(...))."
        )
    step: Any = cell.call if isinstance(cell, Layer) else cell.forward
    try:
        inspect.signature(step).bind("inputs", "states")
    except TypeError as wrong:
        raise ArgumentError(
            f"A recurrent cell is called with (inputs, states) and gives (output, new states); "
            f"{type(cell).__name__} cannot be: {wrong}."
        ) from None
    if state_size_of(cell) is None and not hasattr(cell, "get_initial_state"):
        raise ArgumentError(
            f"A recurrent cell needs `state_size`, an integer or a list of them; {type(cell).__name__} has none."
        )
    return cell


def build_cell(cell: nn.Module, shape: Any) -> None:
    """The weights of a cell for one step of this shape; torch's own cells have theirs, and the features must fit."""
    if isinstance(cell, Layer) and not cell.built:
        cell.build(shape)
    elif isinstance(cell, TORCH_CELLS) and tuple(shape[1:]) != (cell.input_size,):
        raise ShapeError(
            f"torch.nn.{type(cell).__name__} was made for steps of {cell.input_size} features; got steps of "
            f"shape {tuple(shape[1:])}."
        )


def run_cell(
    cell: nn.Module, values: Tensor, index: Index, states: list[Any], reverse: bool, training: bool
) -> tuple[Tensor, list[Any]]:
    """A cell over packed steps `(N, ...)` from its initial states: outputs `(N, ...)` and last states."""
    owner = next(c for c in type(cell).__mro__ if "call" in vars(c) or "forward" in vars(c))
    if "run_packed" in vars(owner):  # a subclass with a `call` of its own is run by that
        return cell.run_packed(values, index, states, reverse, training)  # pyright: ignore
    flat, structure = pytree.tree_flatten(states)

    def step(x: Tensor, now: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, new = _one_step_of(cell, x, pytree.tree_unflatten(list(now), structure), training)
        after = tuple(pytree.tree_leaves(new))
        if [s.shape for s in after] != [s.shape for s in now]:
            raise ShapeError(
                f"The cell {type(cell).__name__} got states of shapes {[tuple(s.shape) for s in now]} and gave "
                f"{[tuple(s.shape) for s in after]}. New states must be like the old ones, as many and of "
                f"the same shapes."
            )
        return output, after

    with nullcontext() if isinstance(cell, Layer) else training_mode(training, cell):
        outputs, last = scan(values, index, step, tuple(flat), reverse=reverse)
    return outputs, pytree.tree_unflatten(list(last), structure)


def _one_step_of(cell: Any, x: Tensor, states: Any, training: bool) -> tuple[Tensor, Any]:
    """Output and new states; torch's own cells give their states alone, the first of which is the output."""
    if isinstance(cell, TORCH_CELLS):
        several = isinstance(cell, nn.LSTMCell)
        new = cell(x, tuple(states) if several else states[0])
        return (new[0], list(new)) if several else (new, [new])
    given = cell(x, states, training=training) if isinstance(cell, Layer) else cell(x, states)
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise ArgumentError(
            f"A recurrent cell gives (output, new states); {type(cell).__name__} gave "
            f"{f'{len(given)} things' if isinstance(given, list | tuple) else type(given).__name__}."
        )
    return given[0], given[1]


def initial_states(cell: nn.Module, batch: int, like: Tensor) -> list[Any]:
    """The states before the first step: what the cell's `get_initial_state` says, else zeros of its `state_size`."""
    own: Any = getattr(cell, "get_initial_state", None)
    if own is None:
        return zero_states(state_size_of(cell), batch, like)
    with nullcontext() if like.device.type == "cpu" else like.device:  # made there, not sent there
        given = own(batch_size=batch)
    given = list(given) if isinstance(given, list | tuple) else [given]
    return pytree.tree_map(lambda s: s.to(like.device, like.dtype), given)


def zero_states(size: Any, batch: int, like: Tensor) -> list[Any]:
    """States of these sizes, for one size or a list of them."""

    def one(inner: Any) -> Any:
        if inner is None:
            raise NotBuilt(
                "The states of this cell have the size that its input gives them, which is not known yet. Call "
                "the layer on data, or build(input_shape), first."
            )
        if isinstance(inner, list):
            return [one(s) for s in inner]
        return like.new_zeros((batch, *(inner if isinstance(inner, tuple) else (inner,))))

    return [one(s) for s in size] if isinstance(size, list) else [one(size)]


def state_size_of(cell: Any) -> Any:
    """An integer, a tuple of them (the shape of a state), or a list for several states; None where it is not known."""
    if isinstance(cell, TORCH_CELLS):
        return [cell.hidden_size, cell.hidden_size] if isinstance(cell, nn.LSTMCell) else cell.hidden_size
    return getattr(cell, "state_size", None)


def state_count(cell: Any) -> int:
    """How many states a cell has; those of a cell in a stack count as one."""
    size = state_size_of(cell)
    if size is None:
        return len(initial_states(cell, 1, torch.zeros(())))
    return len(size) if isinstance(size, list | tuple) else 1


def output_size_of(cell: Any) -> Any:
    """The size of a cell's output; a cell that does not say gives its first state."""
    size = getattr(cell, "output_size", None)
    if size is None:
        size = state_size_of(cell)
        size = size[0] if isinstance(size, list | tuple) and size else size
    return size


def as_shape(size: Any) -> tuple[Any, ...]:
    """A size as the axes that it stands for."""
    return tuple(size) if isinstance(size, list | tuple) else (size,)
