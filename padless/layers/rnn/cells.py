"""Recurrent cells: what one step of SimpleRNN, GRU and LSTM computes, and stacks of cells.

The built-in cells run over all packed steps by a kernel. A stack runs one cell after the other, each over all steps.
cell_runner.py runs any other cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from padless import activations, constraints, initializers, regularizers
from padless.errors import ArgumentError, ShapeError
from padless.kernels.recurrent.api import gru, lstm, simple_rnn
from padless.layers.core.dense import last_axis_size
from padless.layers.rnn.cell_runner import (
    CellStates,
    PackedCell,
    Size,
    as_cell,
    as_shape,
    build_cell,
    initial_states,
    output_size_of,
    run_cell,
    state_size_of,
    zero_states,
)
from padless.ragged.device import to_device
from padless.ragged.index import Index
from padless.registry import register
from padless.types import (
    ActivationLike,
    ConfigLike,
    ConstraintLike,
    InitializerLike,
    LayerOptions,
    RegularizerLike,
    Shape,
)


class Cell(PackedCell):
    """The base of the built-in cells: weights with one part for each gate, dropout on inputs and states.

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
        kernel_constraint: a constraint on the kernel.
        recurrent_constraint: a constraint on the recurrent kernel.
        bias_constraint: a constraint on the bias.
        dropout: the share of input features dropped in training, the same at all steps of a sequence.
        recurrent_dropout: the share of state features dropped in training, the same at all steps of a sequence.
        seed: the seed of the dropout.
        kwargs: name, trainable, dtype, activity_regularizer, input_shape.
    """

    gates = 1
    kernel: Tensor
    recurrent_kernel: Tensor
    bias: Tensor | None

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
        kernel_constraint: ConstraintLike = None,
        recurrent_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(units, int) or units <= 0:
            raise ArgumentError(f"{type(self).__name__} expected `units` to be a positive integer; got {units!r}.")
        for name, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= rate <= 1:
                raise ArgumentError(f"{type(self).__name__} expected `{name}` between 0 and 1; got {rate!r}.")
        self.units = units
        self.state_size: Size = units
        self.output_size: Size = units
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.recurrent_constraint = constraints.get(recurrent_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.seed = seed
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def build(self, input_shape: Shape) -> None:
        """Create kernel, recurrent kernel and bias, with the gates one after the other along the last axis."""
        columns = self.units * self.gates
        self.add_weight(
            (last_axis_size(self, input_shape), columns),
            self.kernel_initializer,
            name="kernel",
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.add_weight(
            (self.units, columns),
            self.recurrent_initializer,
            name="recurrent_kernel",
            regularizer=self.recurrent_regularizer,
            constraint=self.recurrent_constraint,
        )
        if self.use_bias:
            self.add_weight(
                self._bias_shape(),
                self._first_bias,
                name="bias",
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        else:
            self.bias = None

    def _bias_shape(self) -> tuple[int, ...]:
        return (self.units * self.gates,)

    def _first_bias(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        initialize = self.bias_initializer or initializers.GlorotUniform()  # as `add_weight` does for None
        return initialize(shape, dtype=dtype)

    def get_initial_state(self, batch_size: int) -> CellStates:
        """Return states of zeros, each `(batch_size, units)`."""
        return zero_states(self.state_size, batch_size, torch.zeros((), dtype=self.dtype))

    def call(self, inputs: Tensor, states: CellStates | Tensor, training: bool = False) -> tuple[Tensor, CellStates]:
        """Run one step `(B, D)`: return the output `(B, units)` and the new states."""
        old_states = list(states) if isinstance(states, list | tuple) else [states]
        return self.run_packed(inputs, Index.dense(inputs.shape[0], 1), old_states, False, training)

    def run_packed(
        self, values: Tensor, index: Index, states: CellStates, reverse: bool, training: bool
    ) -> tuple[Tensor, CellStates]:
        """Run the cell over all steps by its kernel."""
        if values.shape[1:] != self.kernel.shape[:1]:
            raise ShapeError(
                f"{self.name!r} was built for {self.kernel.shape[0]} features; got steps of shape {tuple(values.shape[1:])}."
            )
        if training and self.dropout > 0:
            pattern = self._dropout_pattern((index.shape[0], values.shape[1]), self.dropout, values)
            values = values * pattern.index_select(0, index.tensor("rows", values.device))
        recurrent_pattern = None
        if training and self.recurrent_dropout > 0:
            shape = (self.gates, index.shape[0], self.units)
            recurrent_pattern = self._dropout_pattern(shape, self.recurrent_dropout, values)
        return self.run_kernel(values, index, states, reverse, recurrent_pattern)

    def run_kernel(
        self, values: Tensor, index: Index, states: list[Tensor], reverse: bool, masks: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Call the kernel. `masks` `(gates, B, units)` are factors of the states; the rest is as in `run_packed`."""
        raise NotImplementedError

    def _dropout_pattern(self, shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor:
        """Return factors for dropout: 0 with the probability `rate`, else `1 / (1 - rate)`."""
        is_kept = to_device(torch.rand(shape, generator=self._generator), like.device) >= rate
        return is_kept.to(like.dtype) / max(1 - rate, 1e-9)


@register("layer")
class SimpleRNNCell(Cell):
    """The cell `h = activation(x @ kernel + h @ recurrent_kernel + bias)`: Keras's `SimpleRNNCell`.

    The arguments are those of the layer `SimpleRNN`.

    Example:
        >>> SimpleRNNCell(3)(torch.ones(2, 4), [torch.zeros(2, 3)])[0].shape
        torch.Size([2, 3])
    """

    output_is_state = True
    run_packed = Cell.run_packed  # `call` only renames an argument, so the cell still runs packed

    def call(self, sequence: Tensor, states: CellStates | Tensor, training: bool = False) -> tuple[Tensor, CellStates]:
        """Run one step `(B, D)`. Keras names the input of this cell `sequence`."""
        return super().call(sequence, states, training)

    def run_kernel(
        self, values: Tensor, index: Index, states: list[Tensor], reverse: bool, masks: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Call the kernel."""
        outputs, h = simple_rnn(
            values,
            index,
            self.kernel,
            self.recurrent_kernel,
            self.bias,
            states[0],
            reverse=reverse,
            activation=self.activation,
            recurrent_masks=masks,
        )
        return outputs, [h]


@register("layer")
class GRUCell(Cell):
    """The cell of `GRU` with the gates z, r, h: Keras's `GRUCell` (Cho et al. 2014).

    `h = z * h + (1 - z) * candidate`. With `reset_after` the reset gate is applied after the matrix product, as in
    cuDNN. The arguments are those of the layer `GRU`.

    Example:
        >>> GRUCell(3)(torch.ones(2, 4), [torch.zeros(2, 3)])[0].shape
        torch.Size([2, 3])
    """

    output_is_state = True
    gates = 3

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
        kernel_constraint: ConstraintLike = None,
        recurrent_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        reset_after: bool = True,
        seed: int | None = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(
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
            **kwargs,
        )
        self.recurrent_activation = activations.get(recurrent_activation)
        self.reset_after = reset_after

    def _bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def run_kernel(
        self, values: Tensor, index: Index, states: list[Tensor], reverse: bool, masks: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Call the kernel."""
        outputs, h = gru(
            values,
            index,
            self.kernel,
            self.recurrent_kernel,
            self.bias,
            states[0],
            reset_after=self.reset_after,
            reverse=reverse,
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            recurrent_masks=masks,
        )
        return outputs, [h]


@register("layer")
class LSTMCell(Cell):
    """The cell of `LSTM` with the gates i, f, c, o and the states h, c: Keras's `LSTMCell`.

    Hochreiter & Schmidhuber 1997. The arguments are those of the layer `LSTM`.

    Example:
        >>> LSTMCell(3)(torch.ones(2, 4), [torch.zeros(2, 3), torch.zeros(2, 3)])[0].shape
        torch.Size([2, 3])
    """

    output_is_state = True
    gates = 4

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
        kernel_constraint: ConstraintLike = None,
        recurrent_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(
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
            **kwargs,
        )
        self.recurrent_activation = activations.get(recurrent_activation)
        self.unit_forget_bias = unit_forget_bias
        self.state_size = [units, units]

    def _first_bias(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the initial bias; with `unit_forget_bias` that of the forget gate is 1."""
        bias = super()._first_bias(shape, dtype)
        if self.unit_forget_bias:
            bias[self.units : 2 * self.units] = 1
        return bias

    def run_kernel(
        self, values: Tensor, index: Index, states: list[Tensor], reverse: bool, masks: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Call the kernel."""
        outputs, h, c = lstm(
            values,
            index,
            self.kernel,
            self.recurrent_kernel,
            self.bias,
            states[0],
            states[1],
            reverse=reverse,
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            recurrent_masks=masks,
        )
        return outputs, [h, c]


@register("layer")
class StackedRNNCells(PackedCell):
    """Several cells as one, each fed with the output of the cell before: Keras's `StackedRNNCells`.

    Over a sequence the cells run one after the other, each over all steps, which gives the same result.

    Args:
        cells: the cells, or their configs.
        kwargs: name, trainable, dtype, activity_regularizer, input_shape.

    Example:
        >>> stack = StackedRNNCells([GRUCell(3), LSTMCell(5)])
        >>> stack.state_size, stack.output_size
        ([3, [5, 5]], 5)
    """

    def __init__(self, cells: Sequence[nn.Module | ConfigLike], **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        if not cells:
            raise ArgumentError("StackedRNNCells needs at least one cell; got none.")
        self.cells = [as_cell(cell) for cell in cells]

    @property
    def state_size(self) -> list[Size]:
        """The state sizes of the cells."""
        return [state_size_of(cell) for cell in self.cells]

    @property
    def output_size(self) -> Size:
        """The output size of the last cell."""
        return output_size_of(self.cells[-1])

    def get_initial_state(self, batch_size: int) -> CellStates:
        """Return the initial states of each cell: a list, or the only state."""
        like = torch.zeros((), dtype=self.dtype)
        states = [initial_states(cell, batch_size, like) for cell in self.cells]
        return [cell_states if len(cell_states) > 1 else cell_states[0] for cell_states in states]

    def build(self, input_shape: Shape) -> None:
        """Create the weights of each cell for the output of the cell before."""
        for cell in self.cells:
            build_cell(cell, input_shape)
            input_shape = (input_shape[0], *as_shape(output_size_of(cell)))

    def call(self, inputs: Tensor, states: CellStates, training: bool = False) -> tuple[Tensor, CellStates]:
        """Run one step of all cells."""
        return self.run_packed(inputs, Index.dense(inputs.shape[0], 1), list(states), False, training)

    def run_packed(
        self, values: Tensor, index: Index, states: CellStates, reverse: bool, training: bool
    ) -> tuple[Tensor, CellStates]:
        """Run cell after cell, each over all steps."""
        last_states = []
        for cell, state in zip(self.cells, states, strict=True):
            is_list = isinstance(state, list | tuple)
            values, new_states = run_cell(cell, values, index, list(state) if is_list else [state], reverse, training)
            last_states.append(new_states if is_list else new_states[0])
        return values, last_states
