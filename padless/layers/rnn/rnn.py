"""Recurrent layers, in which a step sees its past: RNN, SimpleRNN, GRU and LSTM.

A masked step is skipped, and the state stays as it is. The padded output of a gap is the output of the step before the gap,
or 0 before the first real step. For an empty sequence the output is 0 and the state is the initial one. The mask passes with
sequences, and is consumed by the last output.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, Unpack, cast

import numpy as np
import torch
from torch import Tensor, nn

from padless._torch_compat import pytree
from padless.errors import ShapeError
from padless.graph.model_runs import exclusive_call
from padless.graph.symbolic import in_shape_inference, leaves
from padless.layers.base.layer import Layer
from padless.layers.rnn.cell_runner import (
    CellStates,
    PackedCell,
    as_cell,
    as_shape,
    build_cell,
    initial_states,
    output_size_of,
    run_cell,
    state_count,
)
from padless.layers.rnn.cells import Cell, GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells
from padless.ragged.gather import gather_rows_or_zero
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gap_values_needed
from padless.registry import register
from padless.types import (
    ActivationLike,
    BasicLayerOptions,
    ConfigLike,
    ConstraintLike,
    InitializerLike,
    LayerOptions,
    MaskTree,
    RegularizerLike,
    Shape,
    ShapeTree,
    StepTensor,
    TensorTree,
)


class RNNOptions(LayerOptions, total=False):
    """Keyword arguments of `RNN` after the cell."""

    return_sequences: bool
    return_state: bool
    go_backwards: bool
    stateful: bool
    unroll: bool
    zero_output_for_mask: bool


class BuiltinRNNOptions(BasicLayerOptions, total=False):
    """Further keyword arguments of SimpleRNN, GRU and LSTM."""

    zero_output_for_mask: bool
    implementation: int


class CellOutputs(NamedTuple):
    """What a cell returns for packed steps."""

    values: Tensor  # the output of each step, `(N, ...)`, in the order of the inputs
    states: CellStates  # the last states, each `(B, ...)`
    index: Index  # the steps


@register("layer")
class RNN(Layer):
    """Run a cell over the real steps of `(B, T, ...)`: Keras's `RNN`.

    Args:
        cell: a cell (cell_runner.py says what is one), a config of a cell, or a list of cells.
        return_sequences: whether to return the output of each step, else the last output.
        return_state: whether to return the last states, too, each `(B, units)`.
        go_backwards: whether to run from the last real step to the first. Sequence and mask are returned in that order.
        stateful: whether to begin with the last states of the batch before, until `reset_state()`.
        unroll: an argument of Keras without effect here.
        zero_output_for_mask: whether the padded output is 0 at masked steps.
        kwargs: name, trainable, dtype, activity_regularizer, input_shape.

    Example:
        >>> from padless import pack
        >>> RNN(GRUCell(3), return_sequences=True)(pack([[[1.0], [2.0]], [[3.0]]]))
        Packed(shape=(2, 2, 3), 3 real steps, torch.float32, cpu)
    """

    relation = "recurrent"

    def __init__(
        self,
        cell: nn.Module | ConfigLike | list[nn.Module | ConfigLike] | tuple[nn.Module | ConfigLike, ...],
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.cell: nn.Module = as_cell(StackedRNNCells(cell) if isinstance(cell, list | tuple) else cell)
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.stateful = stateful
        self.unroll = unroll
        self.zero_output_for_mask = zero_output_for_mask
        self.states: CellStates | None = None

    if TYPE_CHECKING:  # a nest with `return_state`

        def __call__(self, *args: object, **kwargs: object) -> TensorTree: ...

    def build(self, sequences_shape: Shape, initial_state_shape: object = None) -> None:
        """Create the weights of the cell."""
        if len(sequences_shape) < 3:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected sequences of shape (batch, steps, features); "
                f"got {tuple(sequences_shape)}."
            )
        build_cell(self.cell, (sequences_shape[0], *sequences_shape[2:]))

    def call(
        self,
        sequences: StepTensor,
        initial_state: Tensor | Sequence[TensorTree] | None = None,
        mask: MaskTree = None,
        training: bool = False,
    ) -> TensorTree:
        """Run the cell.

        Args:
            sequences: the inputs, `(B, T, ...)`.
            initial_state: the states before the first step, by default those of the cell.
            mask: an explicit mask `(B, T)`.
            training: the training mode.

        Returns:
            The last output `(B, ...)` or the outputs `(B, T, ...)`; with `return_state` a tuple with the states after it.
        """
        result = self.run(sequences, initial_state, training)
        if self.return_sequences:
            output = self._sequence_output(result, isinstance(sequences, Packed))
        else:
            output = self._last_output(result)
        return (output, *result.states) if self.return_state else output

    def run(self, sequences: StepTensor, initial_state: Tensor | Sequence[TensorTree] | None, training: bool) -> CellOutputs:
        """Run the cell over the packed steps, and keep the last states of a stateful layer."""
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
        keeps_states = self.stateful and not in_shape_inference()
        with exclusive_call(self) if keeps_states else nullcontext():
            states = self._first_states(initial_state, index.shape[0], values)
            outputs, last_states = run_cell(self.cell, values, index, states, self.go_backwards, training)
            if keeps_states:
                self.states = pytree.tree_map(lambda state: state.detach(), last_states)
        return CellOutputs(outputs, last_states, index)

    def _first_states(self, argument: Tensor | Sequence[TensorTree] | None, batch_size: int, like: Tensor) -> CellStates:
        """Return the states before the first step: the argument, else those of the batch before, else the cell's."""
        if argument is not None:
            return self._check_initial_state(argument, initial_states(self.cell, batch_size, like), like.dtype)
        if not self.stateful or self.states is None or in_shape_inference():
            return initial_states(self.cell, batch_size, like)
        num_sequences = leaves(self.states)[0].shape[0]
        if num_sequences != batch_size:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} is stateful and holds the states of {num_sequences} sequences; "
                f"got a batch of {batch_size}. Use batches of one size, or call reset_state() between them."
            )
        return self.states

    def _check_initial_state(
        self, argument: Tensor | Sequence[TensorTree], like: CellStates, dtype: torch.dtype
    ) -> CellStates:
        """Return the argument `initial_state` in the structure of the states `like`."""
        states = leaves(list(argument) if isinstance(argument, list | tuple) else [argument])
        shapes = [tuple(state.shape) for state in states]
        expected = [tuple(state.shape) for state in leaves(like)]
        if shapes != expected:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected initial states of shapes {expected}; got {shapes}."
            )
        return pytree.tree_unflatten([state.to(dtype) for state in states], pytree.tree_structure(like))

    def _sequence_output(self, result: CellOutputs, is_packed: bool) -> StepTensor:
        """Return the outputs of all steps on the grid of the input, in reverse order if the layer goes backwards."""
        index = result.index
        if not is_packed:
            grid = result.values.reshape(*index.shape, *result.values.shape[1:])
            return grid.flip(1) if self.go_backwards else grid
        sequence = Packed(result.values, index)
        if self.go_backwards:
            cell_numbers = np.arange(index.shape[0] * index.shape[1]).reshape(index.shape)
            sequence = sequence.rearrange_cells(cell_numbers[:, ::-1])
        return Packed(sequence.values, sequence.index, self._gap_values(sequence))

    def _gap_values(self, sequence: Packed) -> Tensor | None:
        """Return the gap values: the output before each gap, or 0."""
        if not gap_values_needed():
            return None
        if self.zero_output_for_mask:
            return sequence.values.new_zeros((sequence.index.num_gaps, *sequence.values.shape[1:]))
        return gather_rows_or_zero(sequence.values, sequence.index.tensor("step_before_gap", sequence.device))

    def _last_output(self, result: CellOutputs) -> Tensor:
        """Return the output of the last step of each sequence, 0 for an empty sequence."""
        values, states, index = result
        offsets, lengths = index.tensor("offsets", values.device), index.tensor("lengths", values.device)
        if isinstance(self.cell, PackedCell) and self.cell.output_is_state:
            if index.lengths.all():
                return states[0]
            has_steps = (lengths > 0).reshape(-1, *(1,) * (states[0].ndim - 1))
            return torch.where(has_steps, states[0], 0)
        last_steps = offsets[:-1] if self.go_backwards else offsets[1:] - 1
        return gather_rows_or_zero(values, torch.where(lengths > 0, last_steps, -1))

    def compute_mask(self, inputs: TensorTree, mask: MaskTree = None) -> MaskTree:
        """Return the mask for sequences, None for the last output and for states."""
        output_mask = leaves(mask)[0] if isinstance(mask, list | tuple) else mask
        if not self.return_sequences:
            output_mask = None
        if output_mask is not None and self.go_backwards:
            output_mask = torch.as_tensor(output_mask).flip(1)
        return [output_mask, *[None] * state_count(self.cell)] if self.return_state else output_mask

    def compute_output_shape(self, sequences_shape: Shape, initial_state_shape: object = None) -> ShapeTree:
        """Return `(B, units)` or `(B, T, units)`, with the shapes of the states after it for `return_state`."""
        batch_size, num_steps = sequences_shape[:2]
        if not self.built and output_size_of(self.cell) is None:  # follows from the input
            self.build(sequences_shape)
        size = as_shape(output_size_of(self.cell))
        shape = (batch_size, num_steps, *size) if self.return_sequences else (batch_size, *size)
        return [shape, *self._state_shapes(batch_size)] if self.return_state else shape

    def _state_shapes(self, batch_size: int | None) -> list[ShapeTree]:
        """Return the shape of each state; of a cell in a stack with several states a list of shapes."""
        states = initial_states(self.cell, 1, torch.zeros(()))
        return [
            [(batch_size, *x.shape[1:]) for x in leaves(state)]
            if isinstance(state, list)
            else (batch_size, *state.shape[1:])
            for state in states
        ]

    def reset_state(self) -> None:
        """Forget the states of a stateful layer."""
        self.states = None

    reset_states = reset_state

    def _input_dtype(self) -> torch.dtype | None:
        """Return the dtype of the weights of the cell."""
        return next((weight.dtype for weight in self.cell.parameters()), None) if self.built else self.dtype


class BuiltinRNN(RNN):
    """An RNN over one built-in cell, which takes the arguments of both."""

    def __init__(self, cell: Cell, *, implementation: object = None, **kwargs: Unpack[RNNOptions]) -> None:
        super().__init__(cell, **kwargs)  # the kernel chooses how to compute

    @property
    def units(self) -> int:
        """The number of features of the output."""
        return cast(Cell, self.cell).units


class CellOptions(BasicLayerOptions, total=False):
    """The keyword arguments that a layer passes on to its cell."""


def cell_options(layer_options: BuiltinRNNOptions) -> CellOptions:
    """Return the options of a layer that its cell has, too: `dtype` and `trainable`."""
    return {"dtype": layer_options.get("dtype"), "trainable": layer_options.get("trainable", True)}


@register("layer")
class SimpleRNN(BuiltinRNN):
    """Run `h = activation(x @ kernel + h @ recurrent_kernel + bias)` over the real steps: Keras's `SimpleRNN`.

    Weights: `kernel` `(features, units)`, `recurrent_kernel` `(units, units)`, `bias` `(units,)`.

    Args:
        units: the number of features of the output and of each state.
        activation: the activation of the candidate and of the output.
        use_bias: whether there is a bias.
        kernel_initializer: the initial values of the kernel.
        recurrent_initializer: the initial values of the recurrent kernel.
        bias_initializer: the initial values of the bias.
        kernel_regularizer: a penalty on the kernel.
        recurrent_regularizer: a penalty on the recurrent kernel.
        bias_regularizer: a penalty on the bias.
        activity_regularizer: a penalty on the outputs.
        kernel_constraint: a constraint on the kernel.
        recurrent_constraint: a constraint on the recurrent kernel.
        bias_constraint: a constraint on the bias.
        dropout: the share of input features dropped in training, the same at all steps of a sequence.
        recurrent_dropout: the share of state features dropped in training, the same at all steps of a sequence.
        return_sequences: whether to return the output of each step, else the last output.
        return_state: whether to return the last states, too.
        go_backwards: whether to run from the last real step to the first.
        stateful: whether to begin with the last states of the batch before.
        unroll: an argument of Keras without effect here.
        seed: the seed of the dropout.
        kwargs: name, trainable, dtype, input_shape, zero_output_for_mask; `implementation` has no effect.

    Example:
        >>> SimpleRNN(3)(torch.ones(2, 5, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        units: int,
        activation: ActivationLike = "tanh",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        recurrent_initializer: InitializerLike = "orthogonal",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        recurrent_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        recurrent_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        seed: int | None = None,
        **kwargs: Unpack[BuiltinRNNOptions],
    ) -> None:
        super().__init__(
            SimpleRNNCell(
                units,
                activation=activation,
                use_bias=use_bias,
                kernel_initializer=kernel_initializer,
                recurrent_initializer=recurrent_initializer,
                bias_initializer=bias_initializer,
                kernel_regularizer=kernel_regularizer,
                recurrent_regularizer=recurrent_regularizer,
                bias_regularizer=bias_regularizer,
                kernel_constraint=kernel_constraint,
                recurrent_constraint=recurrent_constraint,
                bias_constraint=bias_constraint,
                dropout=dropout,
                recurrent_dropout=recurrent_dropout,
                seed=seed,
                **cell_options(kwargs),
            ),
            activity_regularizer=activity_regularizer,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            **kwargs,
        )


@register("layer")
class GRU(BuiltinRNN):
    """Run gated recurrent units over the real steps: Keras's `GRU` (Cho et al. 2014).

    The gates are z, r, h, and `h = z * h + (1 - z) * candidate`. Weights: `kernel` `(features, 3 * units)`,
    `recurrent_kernel` `(units, 3 * units)`, `bias` `(2, 3 * units)` or `(3 * units,)`.

    Args:
        units: the number of features of the output and of each state.
        activation: the activation of the candidate and of the output.
        recurrent_activation: the activation of the gates.
        use_bias: whether there is a bias.
        kernel_initializer: the initial values of the kernel.
        recurrent_initializer: the initial values of the recurrent kernel.
        bias_initializer: the initial values of the bias.
        kernel_regularizer: a penalty on the kernel.
        recurrent_regularizer: a penalty on the recurrent kernel.
        bias_regularizer: a penalty on the bias.
        activity_regularizer: a penalty on the outputs.
        kernel_constraint: a constraint on the kernel.
        recurrent_constraint: a constraint on the recurrent kernel.
        bias_constraint: a constraint on the bias.
        dropout: the share of input features dropped in training, the same at all steps of a sequence.
        recurrent_dropout: the share of state features dropped in training, the same at all steps of a sequence.
        seed: the seed of the dropout.
        return_sequences: whether to return the output of each step, else the last output.
        return_state: whether to return the last states, too.
        go_backwards: whether to run from the last real step to the first.
        stateful: whether to begin with the last states of the batch before.
        unroll: an argument of Keras without effect here.
        reset_after: whether the reset gate is applied after the matrix product, as in cuDNN.
        use_cudnn: an argument of Keras without effect here; cuDNN is used where it is faster.
        kwargs: name, trainable, dtype, input_shape, zero_output_for_mask; `implementation` has no effect.

    Example:
        >>> GRU(3, return_sequences=True)(torch.ones(2, 5, 4)).shape
        torch.Size([2, 5, 3])
    """

    def __init__(
        self,
        units: int,
        activation: ActivationLike = "tanh",
        recurrent_activation: ActivationLike = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        recurrent_initializer: InitializerLike = "orthogonal",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        recurrent_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        recurrent_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        reset_after: bool = True,
        use_cudnn: bool | str = "auto",
        **kwargs: Unpack[BuiltinRNNOptions],
    ) -> None:
        super().__init__(
            GRUCell(
                units,
                activation=activation,
                recurrent_activation=recurrent_activation,
                use_bias=use_bias,
                kernel_initializer=kernel_initializer,
                recurrent_initializer=recurrent_initializer,
                bias_initializer=bias_initializer,
                kernel_regularizer=kernel_regularizer,
                recurrent_regularizer=recurrent_regularizer,
                bias_regularizer=bias_regularizer,
                kernel_constraint=kernel_constraint,
                recurrent_constraint=recurrent_constraint,
                bias_constraint=bias_constraint,
                dropout=dropout,
                recurrent_dropout=recurrent_dropout,
                seed=seed,
                reset_after=reset_after,
                **cell_options(kwargs),
            ),
            activity_regularizer=activity_regularizer,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            **kwargs,
        )


@register("layer")
class LSTM(BuiltinRNN):
    """Run long short-term memory over the real steps: Keras's `LSTM` (Hochreiter & Schmidhuber 1997).

    The gates are i, f, c, o, and the states h, c. Weights: `kernel` `(features, 4 * units)`, `recurrent_kernel`
    `(units, 4 * units)`, `bias` `(4 * units,)`.

    Args:
        units: the number of features of the output and of each state.
        activation: the activation of the candidate and of the output.
        recurrent_activation: the activation of the gates.
        use_bias: whether there is a bias.
        kernel_initializer: the initial values of the kernel.
        recurrent_initializer: the initial values of the recurrent kernel.
        bias_initializer: the initial values of the bias.
        unit_forget_bias: whether the initial bias of the forget gate is 1.
        kernel_regularizer: a penalty on the kernel.
        recurrent_regularizer: a penalty on the recurrent kernel.
        bias_regularizer: a penalty on the bias.
        activity_regularizer: a penalty on the outputs.
        kernel_constraint: a constraint on the kernel.
        recurrent_constraint: a constraint on the recurrent kernel.
        bias_constraint: a constraint on the bias.
        dropout: the share of input features dropped in training, the same at all steps of a sequence.
        recurrent_dropout: the share of state features dropped in training, the same at all steps of a sequence.
        seed: the seed of the dropout.
        return_sequences: whether to return the output of each step, else the last output.
        return_state: whether to return the last states, too.
        go_backwards: whether to run from the last real step to the first.
        stateful: whether to begin with the last states of the batch before.
        unroll: an argument of Keras without effect here.
        use_cudnn: an argument of Keras without effect here; cuDNN is used where it is faster.
        kwargs: name, trainable, dtype, input_shape, zero_output_for_mask; `implementation` has no effect.

    Example:
        >>> [tuple(x.shape) for x in LSTM(3, return_state=True)(torch.ones(2, 5, 4))]
        [(2, 3), (2, 3), (2, 3)]
    """

    def __init__(
        self,
        units: int,
        activation: ActivationLike = "tanh",
        recurrent_activation: ActivationLike = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        recurrent_initializer: InitializerLike = "orthogonal",
        bias_initializer: InitializerLike = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: RegularizerLike = None,
        recurrent_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        recurrent_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        use_cudnn: bool | str = "auto",
        **kwargs: Unpack[BuiltinRNNOptions],
    ) -> None:
        super().__init__(
            LSTMCell(
                units,
                activation=activation,
                recurrent_activation=recurrent_activation,
                use_bias=use_bias,
                kernel_initializer=kernel_initializer,
                recurrent_initializer=recurrent_initializer,
                bias_initializer=bias_initializer,
                unit_forget_bias=unit_forget_bias,
                kernel_regularizer=kernel_regularizer,
                recurrent_regularizer=recurrent_regularizer,
                bias_regularizer=bias_regularizer,
                kernel_constraint=kernel_constraint,
                recurrent_constraint=recurrent_constraint,
                bias_constraint=bias_constraint,
                dropout=dropout,
                recurrent_dropout=recurrent_dropout,
                seed=seed,
                **cell_options(kwargs),
            ),
            activity_regularizer=activity_regularizer,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            **kwargs,
        )
