"""What one step of a recurrent layer does: the cells of SimpleRNN, GRU and LSTM, and stacks of any cells.

The built-in ones run over packed steps by a kernel, a stack runs one cell after the other; how any other is run stands in
recurrence.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padless import activations, constraints, initializers, regularizers
from padless.errors import ArgumentError, ShapeError
from padless.kernels.recurrent.api import gru, lstm, simple_rnn
from padless.layers.base.layer import Layer
from padless.layers.core.dense import last_axis_size
from padless.layers.rnn.cell_runner import (
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


class Cell(Layer):
    """The base of the built-in cells: weights in `gates` parts, dropout on inputs and states."""

    gates = 1
    kernel: Tensor
    recurrent_kernel: Tensor
    bias: Tensor | None

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
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(units, int) or units <= 0:
            raise ArgumentError(f"{type(self).__name__} expected `units` to be a positive integer; got {units!r}.")
        for name, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= rate <= 1:
                raise ArgumentError(f"{type(self).__name__} expected `{name}` between 0 and 1; got {rate!r}.")
        self.units = units
        self.state_size: Any = units
        self.output_size = units
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

    def build(self, input_shape: Any) -> None:
        """Kernel, recurrent kernel and bias, the gates side by side."""
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
        return self.bias_initializer(shape, dtype=dtype)  # pyright: ignore[reportOptionalCall]

    def get_initial_state(self, batch_size: int) -> list[Tensor]:
        """Zeros."""
        return zero_states(self.state_size, batch_size, torch.zeros((), dtype=self.dtype))

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """One step `(B, D)`: output `(B, units)` and new states."""
        states = list(states) if isinstance(states, list | tuple) else [states]
        index = _one_step(inputs.shape[0])
        outputs, new = self.run_packed(inputs, index, states, False, training)
        return outputs, new

    def run_packed(
        self, values: Tensor, index: Index, states: list[Any], reverse: bool, training: bool
    ) -> tuple[Tensor, list[Any]]:
        """All steps, by the kernel of this cell."""
        if values.shape[1:] != self.kernel.shape[:1]:
            raise ShapeError(
                f"{self.name!r} was built for {self.kernel.shape[0]} features; got steps of shape {tuple(values.shape[1:])}."
            )
        dropped = training and self.dropout > 0
        if dropped:  # one mask for each sequence, the same at all its steps
            noise = self._noise((index.shape[0], values.shape[1]), self.dropout, values)
            values = values * noise.index_select(0, index.tensor("rows", values.device))
        masks = None
        if training and self.recurrent_dropout > 0:
            masks = self._noise((self.gates, index.shape[0], self.units), self.recurrent_dropout, values)
        return self.run_kernel(values, index, states, reverse, masks)

    def run_kernel(
        self, values: Tensor, index: Index, states: list[Tensor], reverse: bool, masks: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """The kernel call."""
        raise NotImplementedError

    def _noise(self, shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor:
        kept = to_device(torch.rand(shape, generator=self._generator), like.device) >= rate
        return kept.to(like.dtype) / max(1 - rate, 1e-9)


def _one_step(batch: int) -> Index:
    return Index.dense(batch, 1)


@register("layer")
class SimpleRNNCell(Cell):
    """`h = activation(x @ kernel + h @ recurrent_kernel + bias)`.

    >>> SimpleRNNCell(3)(torch.ones(2, 4), [torch.zeros(2, 3)])[0].shape
    torch.Size([2, 3])
    """

    run_packed = Cell.run_packed  # stands beside `call`: a subclass with a `call` of its own is run by that

    def call(self, sequence: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """One step; Keras names its input so."""
        return super().call(sequence, states, training)

    def run_kernel(
        self, values: Tensor, index: Index, states: list[Tensor], reverse: bool, masks: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """All steps."""
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
    """Gates z, r, h; `h = z * h + (1 - z) * candidate` (Cho et al. 2014; `reset_after` as in cuDNN).

    >>> GRUCell(3)(torch.ones(2, 4), [torch.zeros(2, 3)])[0].shape
    torch.Size([2, 3])
    """

    gates = 3

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
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        reset_after: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            units,
            activation,
            use_bias,
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
            kernel_regularizer,
            recurrent_regularizer,
            bias_regularizer,
            kernel_constraint,
            recurrent_constraint,
            bias_constraint,
            dropout,
            recurrent_dropout,
            seed,
            **kwargs,
        )
        self.recurrent_activation = activations.get(recurrent_activation)
        self.reset_after = reset_after

    def _bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def run_kernel(
        self, values: Tensor, index: Index, states: list[Tensor], reverse: bool, masks: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """All steps."""
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
    """Gates i, f, c, o (Hochreiter & Schmidhuber 1997); states h and c.

    >>> LSTMCell(3)(torch.ones(2, 4), [torch.zeros(2, 3), torch.zeros(2, 3)])[0].shape
    torch.Size([2, 3])
    """

    gates = 4

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
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            units,
            activation,
            use_bias,
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
            kernel_regularizer,
            recurrent_regularizer,
            bias_regularizer,
            kernel_constraint,
            recurrent_constraint,
            bias_constraint,
            dropout,
            recurrent_dropout,
            seed,
            **kwargs,
        )
        self.recurrent_activation = activations.get(recurrent_activation)
        self.unit_forget_bias = unit_forget_bias
        self.state_size = [units, units]

    def _first_bias(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """As the initializer says; the forget gate begins open."""
        bias = super()._first_bias(shape, dtype)
        if self.unit_forget_bias:
            bias[self.units : 2 * self.units] = 1
        return bias

    def run_kernel(
        self, values: Tensor, index: Index, states: list[Tensor], reverse: bool, masks: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """All steps."""
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
class StackedRNNCells(Layer):
    """Cells one above the other, each fed with the output of the one below, as one cell.

    Run over a sequence they are run one after the other, each over all steps, which is the same.

    >>> stack = StackedRNNCells([GRUCell(3), LSTMCell(5)])
    >>> stack.state_size, stack.output_size
    ([3, [5, 5]], 5)
    """

    def __init__(self, cells: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not cells:
            raise ArgumentError("StackedRNNCells needs at least one cell; got none.")
        self.cells = [as_cell(cell) for cell in cells]

    @property
    def state_size(self) -> list[Any]:
        """The state sizes of the cells."""
        return [state_size_of(cell) for cell in self.cells]

    @property
    def output_size(self) -> Any:
        """The output size of the last cell."""
        return output_size_of(self.cells[-1])

    def get_initial_state(self, batch_size: int) -> list[Any]:
        """The initial states of the cells, each a list (a single state stands alone)."""
        like = torch.zeros((), dtype=self.dtype)
        states = [initial_states(cell, batch_size, like) for cell in self.cells]
        return [s if len(s) > 1 else s[0] for s in states]

    def build(self, input_shape: Any) -> None:
        """Each cell for the output of the one below."""
        for cell in self.cells:
            build_cell(cell, input_shape)
            input_shape = (input_shape[0], *as_shape(output_size_of(cell)))

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, Any]:
        """One step of all cells."""
        return self.run_packed(inputs, Index.dense(inputs.shape[0], 1), list(states), False, training)

    def run_packed(
        self, values: Tensor, index: Index, states: list[Any], reverse: bool, training: bool
    ) -> tuple[Tensor, list[Any]]:
        """All steps, cell by cell."""
        last = []
        for cell, state in zip(self.cells, states, strict=True):
            several = isinstance(state, list | tuple)
            values, new = run_cell(cell, values, index, list(state) if several else [state], reverse, training)
            last.append(new if several else new[0])
        return values, last
