"""Long short-term memory whose states are sequences in space: ConvLSTM1D and its cell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.kernels.conv.windows import Window, conv1d
from padless.kernels.recurrent.reference import scan
from padless.layers.convolutional.windowed import as_sizes, check_choice, check_data_format
from padless.layers.rnn import cells
from padless.layers.rnn.rnn import _BuiltinRNN, split_arguments
from padless.ragged.index import Index
from padless.registry import register


@register("layer")
class ConvLSTM1DCell(cells.LSTMCell):
    """An LSTM cell on steps `(rows, channels)`, whose products with the kernels are convolutions over the rows.

    Keras's `ConvLSTMCell` of rank 1. Weights: `kernel` `(kernel_size, channels, 4 * filters)`, `recurrent_kernel`
    `(kernel_size, filters, 4 * filters)`, `bias` `(4 * filters,)`. States h and c are `(B, rows', filters)`.

    >>> cell = ConvLSTM1DCell(4, 3)
    >>> cell.build((None, 7, 2))
    >>> cell.state_size
    [(5, 4), (5, 4)]
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
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
        (filters,) = as_sizes(self, "filters", filters)
        super().__init__(
            filters,
            activation,
            recurrent_activation,
            use_bias,
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
            unit_forget_bias,
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
        self.filters = filters
        self.kernel_size = as_sizes(self, "kernel_size", kernel_size)
        self.strides = as_sizes(self, "strides", strides)
        self.dilation_rate = as_sizes(self, "dilation_rate", dilation_rate)
        self.padding = check_choice(self, "padding", padding, ("valid", "same"))
        self.data_format = check_data_format(self, data_format)
        if self.strides[0] > 1 and self.dilation_rate[0] > 1:
            raise ArgumentError(
                f"{type(self).__name__} takes strides or a dilation_rate above 1, not both; got strides="
                f"{strides} and dilation_rate={dilation_rate}."
            )
        self.state_size = [None, None]  # known with the rows of the input
        self.output_size: Any = None
        self._window = Window(self.kernel_size[0], self.strides[0], self.dilation_rate[0], self.padding)

    def build(self, input_shape: Any) -> None:
        """Both kernels and the bias, for the rows and channels of a step."""
        if len(input_shape) != 3 or None in input_shape[1:]:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected steps of two known sizes, rows and channels, in "
                f"an input (batch, steps, rows, channels); got steps of shape {tuple(input_shape[1:])}."
            )
        rows, channels = input_shape[1:] if self._last else reversed(input_shape[1:])
        left = self._window.num_outputs(rows)
        if left < 1:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} has windows of {self._window.extent} rows "
                f"(kernel_size={self.kernel_size[0]}, dilation_rate={self.dilation_rate[0]}), of which none "
                f'fits into steps of {rows}. Take padding="same", or a smaller kernel.'
            )
        columns = 4 * self.filters
        self.add_weight(
            (*self.kernel_size, channels, columns),
            self.kernel_initializer,
            name="kernel",
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.add_weight(
            (*self.kernel_size, self.filters, columns),
            self.recurrent_initializer,
            name="recurrent_kernel",
            regularizer=self.recurrent_regularizer,
            constraint=self.recurrent_constraint,
        )
        if self.use_bias:
            self.add_weight(
                (columns,), self._first_bias, name="bias", regularizer=self.bias_regularizer, constraint=self.bias_constraint
            )
        else:
            self.bias = None
        self.output_size = (left, self.filters) if self._last else (self.filters, left)
        self.state_size = [self.output_size, self.output_size]
        self._step_shape = tuple(input_shape[1:])

    @property
    def _last(self) -> bool:
        """Whether channels are the last axis."""
        return self.data_format == "channels_last"

    def run_packed(
        self, values: Tensor, index: Index, states: list[Any], reverse: bool, training: bool
    ) -> tuple[Tensor, list[Any]]:
        """The convolution of all steps at once, then state by state."""
        if tuple(values.shape[1:]) != self._step_shape:
            raise ShapeError(
                f"{self.name!r} was built for steps of shape {self._step_shape}; got steps of shape "
                f"{tuple(values.shape[1:])}."
            )
        axis = -1 if self._last else 1
        noise = self._gates_noise(index, values.shape[1:], self.dropout if training else 0, values)
        dropped = self._gates_noise(index, states[0].shape[1:], self.recurrent_dropout if training else 0, values)
        of_inputs = self._convolved(values, self._window, self.kernel, self.bias, noise, index.tensor("rows", values.device))
        recurrent = Window(self.kernel_size[0], padding="same")

        def step(x: Tensor, now: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            h, c = now
            of_state = self._convolved(h, recurrent, self.recurrent_kernel, None, dropped, rows)
            i, f, g, o = (x + of_state).chunk(4, axis)
            c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(g)
            h = self.recurrent_activation(o) * self.activation(c)
            return h, (h, c)

        outputs, last = scan(of_inputs, index, step, tuple(states), reverse=reverse)
        return outputs, list(last)

    def _convolved(
        self, x: Tensor, over: Window, kernel: Tensor, bias: Tensor | None, noise: Tensor | None, rows: Tensor
    ) -> Tensor:
        """The convolution for all gates; with noise each gate sees the input through its own."""

        def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
            if self._last:
                return conv1d(x, over, kernel, bias)
            return conv1d(x.transpose(1, 2), over, kernel, bias).transpose(1, 2)

        if noise is None:
            return convolve(x, kernel, bias)
        biases = [None] * 4 if bias is None else bias.chunk(4)
        parts = [convolve(x * noise[gate, rows], part, biases[gate]) for gate, part in enumerate(kernel.chunk(4, -1))]
        return torch.cat(parts, -1 if self._last else 1)

    def _gates_noise(self, index: Index, shape: Any, rate: float, like: Tensor) -> Tensor | None:
        """For each gate and sequence one pattern, the same at all steps."""
        return None if rate == 0 else self._noise((4, index.shape[0], *shape), rate, like)


@register("layer")
class ConvLSTM1D(_BuiltinRNN):
    """An LSTM over the real steps whose products with the kernels are convolutions over the rows of a step.

    Keras's `ConvLSTM1D` (Shi et al. 2015), `(B, T, rows, channels)` to `(B, rows', filters)`, or with `return_sequences`
    `(B, T, rows', filters)`. The mask is over T; rows are features, all of them real.

    >>> ConvLSTM1D(4, 3, return_sequences=True)(torch.ones(2, 5, 7, 1)).shape
    torch.Size([2, 5, 5, 4])
    """

    cell_class = ConvLSTM1DCell

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
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
        **kwargs: Any,
    ) -> None:
        super().__init__(*split_arguments(locals()))
