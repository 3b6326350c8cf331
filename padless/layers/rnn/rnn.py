"""Layers in which a step sees its past: the mask passes with sequences, and is consumed with the last state.

A masked step is skipped: the state passes over it, and a gap shows the output before it (zeros before the first real
step). Over nothing the output is 0 and the state is the initial one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless._torch_compat import pytree
from padless.errors import ShapeError
from padless.graph.symbolic import in_shape_inference, leaves
from padless.layers.base.layer import Layer
from padless.layers.rnn import cell_runner as recurrence
from padless.layers.rnn import cells
from padless.ragged.gather import gather_rows_or_zero
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gap_values_needed
from padless.registry import register


@register("layer")
class RNN(Layer):
    """A cell over the real steps of `(B, T, ...)`: the last output, or with `return_sequences` all of them.

    Keras's `RNN`; `return_state` adds the last states, each `(B, units)`. `go_backwards` runs from the last real step to the
    first and gives the sequence, mask and all, in that order. `stateful` begins where the last batch ended, until
    `reset_state()`. `initial_state` is a list of states. `unroll` changes nothing here.

    >>> from padless import pack
    >>> RNN(cells.GRUCell(3), return_sequences=True)(pack([[[1.0], [2.0]], [[3.0]]]))
    Packed(shape=(2, 2, 3), 3 real steps, torch.float32, cpu)
    """

    relation = "recurrent"

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(cell, list | tuple):
            cell = cells.StackedRNNCells(cell)
        self.cell: Any = recurrence.as_cell(cell)
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.stateful = stateful
        self.unroll = unroll
        self.zero_output_for_mask = zero_output_for_mask
        self.states: list[Any] | None = None

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        """The weights of the cell."""
        if len(sequences_shape) < 3:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected sequences of shape (batch, steps, features); "
                f"got {tuple(sequences_shape)}."
            )
        recurrence.build_cell(self.cell, (sequences_shape[0], *sequences_shape[2:]))

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
        """The outputs, and with `return_state` the last states behind them."""
        outputs, states, index = self.run(sequences, initial_state, training)
        if self.return_sequences:
            result = self._sequence(outputs, index, isinstance(sequences, Packed))
        else:
            result = self._last(outputs, states, index)
        return (result, *states) if self.return_state else result

    def run(self, sequences: Any, initial_state: Any, training: bool) -> tuple[Tensor, list[Any], Index]:
        """Outputs `(N, ...)`, each where its input stands, the last states, and the index of the steps."""
        if isinstance(sequences, Packed):
            if sequences.num_step_axes > 2:
                raise ShapeError(
                    f"{type(self).__name__} {self.name!r} got sequences of sequences, {sequences!r}. Wrap "
                    f"it in TimeDistributed."
                )
            values, index = sequences.values, sequences.index
        else:
            index = Index.dense(*sequences.shape[:2])
            values = sequences.reshape(-1, *sequences.shape[2:])
        states = self._first_states(initial_state, index.shape[0], values)
        outputs, last = recurrence.run_cell(self.cell, values, index, states, self.go_backwards, training)
        if self.stateful and not in_shape_inference():
            self.states = pytree.tree_map(lambda s: s.detach(), last)
        return outputs, last, index

    def _first_states(self, given: Any, batch: int, like: Tensor) -> list[Any]:
        if given is not None:
            given = list(given) if isinstance(given, list | tuple) else [given]
            fresh = recurrence.initial_states(self.cell, batch, like)
            flat, wanted = leaves(given), leaves(fresh)
            shapes, expected = [tuple(s.shape) for s in flat], [tuple(s.shape) for s in wanted]
            if shapes != expected:
                raise ShapeError(
                    f"{type(self).__name__} {self.name!r} expected initial states of shapes {expected}; got {shapes}."
                )
            flat = [s.to(like.dtype) for s in flat]
            return pytree.tree_unflatten(flat, pytree.tree_structure(fresh))
        if not self.stateful or self.states is None or in_shape_inference():
            return recurrence.initial_states(self.cell, batch, like)
        held = leaves(self.states)[0].shape[0]
        if held != batch:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} is stateful and holds the states of {held} sequences; "
                f"got a batch of {batch}. Use batches of one size, or call reset_state() between them."
            )
        return self.states

    def _sequence(self, outputs: Tensor, index: Index, packed: bool) -> Any:
        """All outputs on the grid of the input, or its mirror image when run backwards."""
        if not packed:
            grid = outputs.reshape(*index.shape, *outputs.shape[1:])
            return grid.flip(1) if self.go_backwards else grid
        sequence = Packed(outputs, index)
        if self.go_backwards:
            cell_numbers = np.arange(index.shape[0] * index.shape[1]).reshape(index.shape)
            sequence = sequence.rearrange_cells(cell_numbers[:, ::-1])
        return Packed(sequence.values, sequence.index, self._fill(sequence))

    def _fill(self, sequence: Packed) -> Tensor | None:
        if not gap_values_needed():
            return None
        if self.zero_output_for_mask:
            return sequence.values.new_zeros((sequence.index.num_gaps, *sequence.values.shape[1:]))
        return gather_rows_or_zero(sequence.values, sequence.index.tensor("step_before_gap", sequence.device))

    def _last(self, outputs: Tensor, states: list[Any], index: Index) -> Tensor:
        """The output of the last step run, 0 over nothing."""
        offsets, lengths = index.tensor("offsets", outputs.device), index.tensor("lengths", outputs.device)
        if isinstance(self.cell, cells.Cell) and _gives_state(self.cell):
            there = (lengths > 0).reshape(-1, *(1,) * (states[0].ndim - 1))
            return states[0] if index.lengths.all() else torch.where(there, states[0], 0)
        ends = offsets[:-1] if self.go_backwards else offsets[1:] - 1
        return gather_rows_or_zero(outputs, torch.where(lengths > 0, ends, -1))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask for sequences, None for the last output and for states."""
        mask = leaves(mask)[0] if isinstance(mask, list | tuple) else mask
        own = mask if self.return_sequences else None
        if own is not None and self.go_backwards:
            own = torch.as_tensor(own).flip(1)
        return [own, *(None,) * recurrence.state_count(self.cell)] if self.return_state else own

    def compute_output_shape(self, sequences_shape: Any, initial_state_shape: Any = None) -> Any:
        """`(B, units)` or `(B, T, units)`, and the states' behind it."""
        batch = sequences_shape[0]
        if not self.built and recurrence.output_size_of(self.cell) is None:  # known by the input alone
            self.build(sequences_shape)
        size = recurrence.as_shape(recurrence.output_size_of(self.cell))
        own = (batch, sequences_shape[1], *size) if self.return_sequences else (batch, *size)
        return [own, *self._state_shapes(batch)] if self.return_state else own

    def _state_shapes(self, batch: Any) -> list[Any]:
        states = recurrence.initial_states(self.cell, 1, torch.zeros(()))
        return [[(batch, *x.shape[1:]) for x in leaves(s)] if isinstance(s, list) else (batch, *s.shape[1:]) for s in states]

    def reset_state(self) -> None:
        """Forget the states of a stateful layer."""
        self.states = None

    reset_states = reset_state

    def _input_dtype(self) -> torch.dtype | None:
        return next((p.dtype for p in self.cell.parameters()), None) if self.built else self.dtype


def _gives_state(cell: Any) -> bool:
    """Whether the output of a built-in cell is its first state; a `call` of one's own may give anything."""
    return "run_packed" in vars(next(c for c in type(cell).__mro__ if "call" in vars(c)))


_RNN_ARGUMENTS = (
    "return_sequences",
    "return_state",
    "go_backwards",
    "stateful",
    "unroll",
    "zero_output_for_mask",
    "name",
    "trainable",
    "dtype",
    "activity_regularizer",
)


class _BuiltinRNN(RNN):
    """A recurrent layer that is an RNN over one built-in cell and takes the arguments of both."""

    cell_class: type[cells.Cell]

    def __init__(self, cell_arguments: dict[str, Any], kwargs: dict[str, Any]) -> None:
        kwargs.pop("use_cudnn", None)  # these say how Keras computes; here the kernel chooses by itself
        kwargs.pop("implementation", None)
        own = {name: kwargs.pop(name) for name in _RNN_ARGUMENTS if name in kwargs}
        cell = type(self).cell_class(
            **cell_arguments, **kwargs, dtype=own.get("dtype"), trainable=own.get("trainable", True)
        )
        super().__init__(cell, **own)

    @property
    def units(self) -> int:
        """The size of the output."""
        return self.cell.units


@register("layer")
class SimpleRNN(_BuiltinRNN):
    """`h = activation(x @ kernel + h @ recurrent_kernel + bias)` over the real steps; Keras's `SimpleRNN`.

    >>> SimpleRNN(3)(torch.ones(2, 5, 4)).shape
    torch.Size([2, 3])
    """

    cell_class = cells.SimpleRNNCell

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*split_arguments(locals()))


@register("layer")
class GRU(_BuiltinRNN):
    """Gated recurrent units over the real steps; Keras's `GRU` (Cho et al. 2014).

    >>> GRU(3, return_sequences=True)(torch.ones(2, 5, 4)).shape
    torch.Size([2, 5, 3])
    """

    cell_class = cells.GRUCell

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        reset_after: bool = True,
        use_cudnn: Any = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(*split_arguments(locals()))


@register("layer")
class LSTM(_BuiltinRNN):
    """Long short-term memory over the real steps; Keras's `LSTM` (Hochreiter & Schmidhuber 1997).

    >>> [tuple(x.shape) for x in LSTM(3, return_state=True)(torch.ones(2, 5, 4))]
    [(2, 3), (2, 3), (2, 3)]
    """

    cell_class = cells.LSTMCell

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        use_cudnn: Any = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(*split_arguments(locals()))


def split_arguments(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constructor arguments as those of the cell and the rest."""
    arguments = {k: v for k, v in arguments.items() if k not in ("self", "__class__")}
    rest = arguments.pop("kwargs")
    for name in (*_RNN_ARGUMENTS, "use_cudnn"):
        if name in arguments:
            rest[name] = arguments.pop(name)
    return arguments, rest
