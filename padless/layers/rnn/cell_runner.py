"""Run any recurrent cell over packed steps: its sizes, its initial states, its steps.

A cell is one of these:

- a layer with `state_size` and `call(inputs, states)`, which returns `(output, new states)`, as in Keras,
- a torch module with `state_size` whose `forward` does the same,
- one of torch's cells, such as `torch.nn.LSTMCell`.

`state_size` is an integer, a tuple of integers (the shape of a state), or a list of them for several states. A cell may
also have `output_size` and `get_initial_state(batch_size)`, as in Keras.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from padless._torch_compat import pytree
from padless.errors import ArgumentError, NotBuilt, ShapeError
from padless.graph.train_mode import training_mode
from padless.kernels.recurrent.reference import scan
from padless.layers.base.layer import Layer, get
from padless.ragged.index import Index
from padless.saving.serialization import deserialize
from padless.types import ConfigLike, Shape, TensorTree

TORCH_CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)

CellStates: TypeAlias = "list[TensorTree]"
"""The states of a cell, each `(B, ...)`; for a cell in a stack with several states, a list of them."""

Size: TypeAlias = "int | tuple[int, ...] | list[Any] | None"
"""The size of a state or of an output: its last axis, its axes, or a list for several states; None if unknown."""


class PackedCell(Layer):
    """A cell that computes all packed steps at once, in `run_packed`.

    A subclass that overrides `call` but not `run_packed` is run step by step, by its `call`.
    """

    runs_packed: ClassVar[bool] = True
    output_is_state: ClassVar[bool] = False
    """Whether the output is the first state. Each class declares it, since a subclass may change the output."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        mro = cls.__mro__
        call_owner = next(c for c in mro if "call" in vars(c))
        run_packed_owner = next(c for c in mro if "run_packed" in vars(c))
        cls.runs_packed = mro.index(run_packed_owner) <= mro.index(call_owner)
        cls.output_is_state = bool(vars(cls).get("output_is_state"))

    def run_packed(
        self, values: Tensor, index: Index, states: CellStates, reverse: bool, training: bool
    ) -> tuple[Tensor, CellStates]:
        """Run the cell over all steps.

        Args:
            values: the inputs at the real steps, `(N, ...)`.
            index: the steps of each sequence.
            states: the initial states, each `(B, ...)`.
            reverse: whether to run from the last real step to the first.
            training: the training mode.

        Returns:
            The outputs `(N, ...)` in the order of `values`, and the last states.
        """
        raise NotImplementedError


def as_cell(cell: nn.Module | ConfigLike) -> nn.Module:
    """Return a cell, or create the cell that a config describes.

    Raises:
        ArgumentError: it cannot be used as a cell.
    """
    if isinstance(cell, dict):
        cell = deserialize(cell, ("layer", "module"))
    cell = cell if isinstance(cell, nn.Module) else get(cell)
    if isinstance(cell, TORCH_CELLS):
        return cell
    if isinstance(cell, nn.RNNBase):
        raise ArgumentError(
            f"torch.nn.{type(cell).__name__} runs over whole sequences, padding and all. Use the layer "
            f"padless.layers.{'SimpleRNN' if cell.mode.startswith('RNN') else cell.mode}, or "
            f"RNN(torch.nn.{cell.mode.partition('_')[0]}Cell(...))."
        )
    step = cell.call if isinstance(cell, Layer) else cell.forward
    try:
        inspect.signature(step).bind("inputs", "states")
    except TypeError as error:
        raise ArgumentError(
            f"A recurrent cell is called with (inputs, states) and gives (output, new states); "
            f"{type(cell).__name__} cannot be: {error}."
        ) from None
    if state_size_of(cell) is None and not hasattr(cell, "get_initial_state"):
        raise ArgumentError(
            f"A recurrent cell needs `state_size`, an integer or a list of them; {type(cell).__name__} has none."
        )
    return cell


def build_cell(cell: nn.Module, step_shape: Shape) -> None:
    """Create the weights of a cell for steps of this shape `(batch, ...)`.

    Raises:
        ShapeError: a cell of torch was made for another number of features.
    """
    if isinstance(cell, Layer) and not cell.built:
        cell.build(step_shape)
    elif isinstance(cell, TORCH_CELLS) and tuple(step_shape[1:]) != (cell.input_size,):
        raise ShapeError(
            f"torch.nn.{type(cell).__name__} was made for steps of {cell.input_size} features; got steps of "
            f"shape {tuple(step_shape[1:])}."
        )


# ------------------------------------------------------------------------------------------------ steps


def run_cell(
    cell: nn.Module, values: Tensor, index: Index, states: CellStates, reverse: bool, training: bool
) -> tuple[Tensor, CellStates]:
    """Run a cell over packed steps: all at once if it can, else step by step. The arguments are those of `run_packed`."""
    if isinstance(cell, PackedCell) and cell.runs_packed:
        return cell.run_packed(values, index, states, reverse, training)
    flat_states, structure = pytree.tree_flatten(states)

    def step(x: Tensor, old_states: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        nested_states = pytree.tree_unflatten(list(old_states), structure)
        output, new_nested_states = _run_one_step(cell, x, nested_states, training)
        new_states = tuple(pytree.tree_leaves(new_nested_states))
        if [state.shape for state in new_states] != [state.shape for state in old_states]:
            raise ShapeError(
                f"The cell {type(cell).__name__} got states of shapes {[tuple(s.shape) for s in old_states]} and gave "
                f"{[tuple(s.shape) for s in new_states]}. New states must be like the old ones, as many and of "
                f"the same shapes."
            )
        return output, new_states

    with nullcontext() if isinstance(cell, Layer) else training_mode(training, cell):
        outputs, last_states = scan(values, index, step, tuple(flat_states), reverse=reverse)
    return outputs, pytree.tree_unflatten(list(last_states), structure)


def _run_one_step(cell: nn.Module, x: Tensor, states: CellStates, training: bool) -> tuple[Tensor, TensorTree]:
    """Return the output and the new states of one step. Cells of torch return states alone, the output first."""
    if isinstance(cell, nn.LSTMCell):
        new_states = cell(x, tuple(states))
        return new_states[0], list(new_states)
    if isinstance(cell, TORCH_CELLS):
        new_state = cell(x, states[0])
        return new_state, [new_state]
    result: object = cell(x, states, training=training) if isinstance(cell, Layer) else cell(x, states)
    if not isinstance(result, list | tuple) or len(result) != 2:
        raise ArgumentError(
            f"A recurrent cell gives (output, new states); {type(cell).__name__} gave "
            f"{f'{len(result)} things' if isinstance(result, list | tuple) else type(result).__name__}."
        )
    return result[0], result[1]


# ------------------------------------------------------------------------------------------------ states


def initial_states(cell: nn.Module, batch_size: int, like: Tensor) -> CellStates:
    """Return the states before the first step, with the device and the dtype of `like`.

    They come from the cell's `get_initial_state`. A cell without that method starts with zeros.
    """
    get_initial_state = getattr(cell, "get_initial_state", None)  # optional in Keras's interface of a cell
    if get_initial_state is None:
        return zero_states(state_size_of(cell), batch_size, like)
    with nullcontext() if like.device.type == "cpu" else like.device:  # creates them there, without a transfer
        states = get_initial_state(batch_size=batch_size)
    states = list(states) if isinstance(states, list | tuple) else [states]
    return pytree.tree_map(lambda state: state.to(like.device, like.dtype), states)


def zero_states(size: Size, batch_size: int, like: Tensor) -> CellStates:
    """Return states of zeros, for one size or a list of sizes, with the device and the dtype of `like`.

    Raises:
        NotBuilt: a size is not known before the cell is built.
    """

    def zeros_of(size: Size) -> TensorTree:
        if size is None:
            raise NotBuilt(
                "The states of this cell have the size that its input gives them, which is not known yet. Call "
                "the layer on data, or build(input_shape), first."
            )
        if isinstance(size, list):
            return [zeros_of(inner) for inner in size]
        return like.new_zeros((batch_size, *(size if isinstance(size, tuple) else (size,))))

    return [zeros_of(inner) for inner in size] if isinstance(size, list) else [zeros_of(size)]


# ------------------------------------------------------------------------------------------------ sizes


def state_size_of(cell: nn.Module) -> Size:
    """Return the size of the states of a cell."""
    if isinstance(cell, nn.LSTMCell):
        return [cell.hidden_size, cell.hidden_size]
    if isinstance(cell, TORCH_CELLS):
        return cell.hidden_size
    return getattr(cell, "state_size", None)  # a module with `get_initial_state` needs none


def state_count(cell: nn.Module) -> int:
    """Return the number of states of a cell. The states of a cell in a stack count as one."""
    size = state_size_of(cell)
    if size is None:
        return len(initial_states(cell, 1, torch.zeros(())))
    return len(size) if isinstance(size, list | tuple) else 1


def output_size_of(cell: nn.Module) -> Size:
    """Return the size of the output of a cell; without `output_size` the output has the size of the first state."""
    size = getattr(cell, "output_size", None)  # optional in Keras's interface of a cell
    if size is not None:
        return size
    size = state_size_of(cell)
    return size[0] if isinstance(size, list | tuple) and size else size


def as_shape(size: Size) -> Shape:
    """Return a size as the axes after the batch."""
    return tuple(size) if isinstance(size, list | tuple) else (size,)
