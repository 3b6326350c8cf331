"""Long short-term memory whose steps and states are sequences in space: ConvLSTM1D and its cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.kernels.conv.windows import Window, conv1d
from padless.kernels.recurrent.reference import scan
from padless.layers.convolutional.windowed import as_sizes, check_choice, check_data_format
from padless.layers.rnn.cell_runner import CellStates, Size
from padless.layers.rnn.cells import LSTMCell
from padless.layers.rnn.rnn import BuiltinRNN, BuiltinRNNOptions, cell_options
from padless.ragged.index import Index
from padless.registry import register
from padless.types import ActivationLike, ConstraintLike, InitializerLike, LayerOptions, RegularizerLike, Shape


@register("layer")
class ConvLSTM1DCell(LSTMCell):
    """The cell of `ConvLSTM1D`, for steps `(rows, channels)`: Keras's `ConvLSTMCell` of rank 1.

    The arguments are those of the layer. The states h and c are `(B, rows', filters)`.

    Example:
        >>> cell = ConvLSTM1DCell(4, 3)
        >>> cell.build((None, 7, 2))
        >>> cell.state_size
        [(5, 4), (5, 4)]
    """

    output_is_state = True

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
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
        (filters,) = as_sizes(self, "filters", filters)
        super().__init__(
            filters,
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
        self.state_size = [None, None]  # follows from the rows of the input, in `build`
        self.output_size: Size = None
        self._window = Window(self.kernel_size[0], self.strides[0], self.dilation_rate[0], self.padding)

    def build(self, input_shape: Shape) -> None:
        """Create both kernels and the bias, for the rows and channels of a step."""
        if len(input_shape) != 3 or None in input_shape[1:]:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected steps of two known sizes, rows and channels, in "
                f"an input (batch, steps, rows, channels); got steps of shape {tuple(input_shape[1:])}."
            )
        rows, channels = (int(size or 0) for size in (input_shape[1:] if self._channels_last else input_shape[:0:-1]))
        output_rows = self._window.num_outputs(rows)
        if output_rows < 1:
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
        self.output_size = (output_rows, self.filters) if self._channels_last else (self.filters, output_rows)
        self.state_size = [self.output_size, self.output_size]
        self._step_shape = tuple(input_shape[1:])

    @property
    def _channels_last(self) -> bool:
        return self.data_format == "channels_last"

    def run_packed(
        self, values: Tensor, index: Index, states: CellStates, reverse: bool, training: bool
    ) -> tuple[Tensor, CellStates]:
        """Convolve the inputs of all steps at once, then the states step by step."""
        if tuple(values.shape[1:]) != self._step_shape:
            raise ShapeError(
                f"{self.name!r} was built for steps of shape {self._step_shape}; got steps of shape "
                f"{tuple(values.shape[1:])}."
            )
        gate_axis = -1 if self._channels_last else 1
        input_pattern = self._pattern_of_gates(index, values.shape[1:], self.dropout if training else 0, values)
        state_rate = self.recurrent_dropout if training else 0
        state_pattern = self._pattern_of_gates(index, states[0].shape[1:], state_rate, values)
        rows = index.tensor("rows", values.device)
        from_inputs = self._convolve(values, self._window, self.kernel, self.bias, input_pattern, rows)
        state_window = Window(self.kernel_size[0], padding="same")

        def step(x: Tensor, old_states: tuple[Tensor, ...], rows: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            h, c = old_states
            from_state = self._convolve(h, state_window, self.recurrent_kernel, None, state_pattern, rows)
            i, f, g, o = (x + from_state).chunk(4, gate_axis)
            c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(g)
            h = self.recurrent_activation(o) * self.activation(c)
            return h, (h, c)

        outputs, last_states = scan(from_inputs, index, step, tuple(states), reverse=reverse)
        return outputs, list(last_states)

    def _convolve(
        self, x: Tensor, window: Window, kernel: Tensor, bias: Tensor | None, pattern: Tensor | None, rows: Tensor
    ) -> Tensor:
        """Return the convolution for all gates.

        Args:
            x: inputs or states, one for each entry of `rows`.
            window: the window.
            kernel: the kernels of the four gates, along the last axis.
            bias: the biases of the four gates, or None.
            pattern: dropout factors for each gate and sequence `(4, B, ...)`, or None.
            rows: the sequence of each entry of `x`.
        """

        def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
            if self._channels_last:
                return conv1d(x, window, kernel, bias)
            return conv1d(x.transpose(1, 2), window, kernel, bias).transpose(1, 2)

        if pattern is None:
            return convolve(x, kernel, bias)
        biases = [None] * 4 if bias is None else bias.chunk(4)
        gates = [
            convolve(x * pattern[gate, rows], gate_kernel, biases[gate])
            for gate, gate_kernel in enumerate(kernel.chunk(4, -1))
        ]
        return torch.cat(gates, -1 if self._channels_last else 1)

    def _pattern_of_gates(self, index: Index, shape: Sequence[int], rate: float, like: Tensor) -> Tensor | None:
        """Return dropout factors for each gate and sequence, the same at all steps."""
        return None if rate == 0 else self._dropout_pattern((4, index.shape[0], *shape), rate, like)


@register("layer")
class ConvLSTM1D(BuiltinRNN):
    """Run an LSTM over the real steps with convolutions over the rows of a step: Keras's `ConvLSTM1D` (Shi et al. 2015).

    Steps are `(rows, channels)`, so `(B, T, rows, channels)` becomes `(B, rows', filters)`, or with `return_sequences`
    `(B, T, rows', filters)`. The mask is over T, and all rows are real. Weights: `kernel`
    `(kernel_size, channels, 4 * filters)`, `recurrent_kernel` `(kernel_size, filters, 4 * filters)`, `bias`
    `(4 * filters,)`.

    Args:
        filters: the number of channels of the output and of each state.
        kernel_size: the number of rows of a window.
        strides: the distance of two windows over the inputs, in rows.
        padding: "valid" or "same"; the convolution of the state is always "same".
        data_format: "channels_last" or "channels_first".
        dilation_rate: the distance of two rows of a window.
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
        dropout: the share of inputs dropped in training, the same at all steps of a sequence.
        recurrent_dropout: the share of states dropped in training, the same at all steps of a sequence.
        seed: the seed of the dropout.
        return_sequences: whether to return the output of each step, else the last output.
        return_state: whether to return the last states, too.
        go_backwards: whether to run from the last real step to the first.
        stateful: whether to begin with the last states of the batch before.
        kwargs: name, trainable, dtype, input_shape, zero_output_for_mask.

    Example:
        >>> ConvLSTM1D(4, 3, return_sequences=True)(torch.ones(2, 5, 7, 1)).shape
        torch.Size([2, 5, 5, 4])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
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
        **kwargs: Unpack[BuiltinRNNOptions],
    ) -> None:
        super().__init__(
            ConvLSTM1DCell(
                filters,
                kernel_size,
                strides=strides,
                padding=padding,
                data_format=data_format,
                dilation_rate=dilation_rate,
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
            **kwargs,
        )
