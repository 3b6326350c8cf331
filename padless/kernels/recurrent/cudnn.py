"""Recurrent cells by torch's packed recurrent functions, which are cuDNN's on CUDA.

These functions want steps in time-major order, longest sequence first. `Index.time_major_order` gives this order for any
mask. Rows without a step are left out and keep their initial state. Torch has Keras's order of gates, except for z and r
of a GRU.

cuDNN reads all weights from one buffer: input kernel, recurrent kernel, and a bias for each, gate by gate. If they are not
in one buffer, torch warns and copies. So each call copies them to one buffer by differentiable operations.

The autograd graph of torch's function is kept until the backward pass. cuDNN has no second derivative, so second
derivatives are computed through the reference.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from padless._torch_compat import FunctionContext
from padless.kernels.double_backward import Reference, with_double_backward
from padless.kernels.half_precision import compute_dtype
from padless.kernels.recurrent import reference
from padless.kernels.recurrent.reference import Activation
from padless.ragged.gather import permute_rows
from padless.ragged.index import Index, TimeMajorOrder

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class CudnnCellSpec:
    """A cell of torch.

    Args:
        function: Torch's function of packed sequences, as `torch.lstm`.
        gates: For each gate of torch the number of that gate in Keras.
    """

    function: Callable[..., tuple[Tensor, ...]]
    gates: tuple[int, ...]


LSTM = CudnnCellSpec(torch.lstm, gates=(0, 1, 2, 3))
GRU = CudnnCellSpec(torch.gru, gates=(1, 0, 2))
TANH_RNN = CudnnCellSpec(torch.rnn_tanh, gates=(0,))
RELU_RNN = CudnnCellSpec(torch.rnn_relu, gates=(0,))


def supports(values: Tensor, *others: Tensor | None) -> bool:
    """Return whether cuDNN computes a cell with these tensors."""
    return (
        values.device.type == "cuda"
        and compute_dtype(values) in DTYPES
        and torch.backends.cudnn.enabled
        and not torch.compiler.is_compiling()
    )


def lstm(
    index: Index,
    reverse: bool,
    activation: Activation,
    recurrent_activation: Activation,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    recurrent_masks: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run Keras's LSTM with tanh and sigmoid; see `api.lstm`."""
    reference_cell = functools.partial(
        reference.lstm, index, reverse, activation, recurrent_activation, recurrent_masks=None
    )
    outputs, h, c = _run(LSTM, reference_cell, index, reverse, values, kernel, recurrent, bias, h0, c0)
    return outputs, h, c


def gru(
    index: Index,
    reverse: bool,
    activation: Activation,
    recurrent_activation: Activation,
    reset_after: bool,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    recurrent_masks: None,
) -> tuple[Tensor, Tensor]:
    """Run Keras's GRU with tanh, sigmoid and `reset_after`; see `api.gru`."""
    reference_cell = functools.partial(
        reference.gru, index, reverse, activation, recurrent_activation, reset_after, recurrent_masks=None
    )
    outputs, h = _run(GRU, reference_cell, index, reverse, values, kernel, recurrent, bias, h0)
    return outputs, h


def simple_rnn(
    index: Index,
    reverse: bool,
    activation: Activation,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    recurrent_masks: None,
) -> tuple[Tensor, Tensor]:
    """Run Keras's SimpleRNN with tanh or relu; see `api.simple_rnn`."""
    cell = RELU_RNN if activation is torch.relu else TANH_RNN
    reference_cell = functools.partial(reference.simple_rnn, index, reverse, activation, recurrent_masks=None)
    outputs, h = _run(cell, reference_cell, index, reverse, values, kernel, recurrent, bias, h0)
    return outputs, h


def _run(
    cell: CudnnCellSpec,
    reference_cell: Callable[..., tuple[Tensor, ...]],
    index: Index,
    reverse: bool,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    *initial: Tensor,
) -> tuple[Tensor, ...]:
    """Run a cell; `reference_cell` computes its second derivatives."""
    order, tensors = index.time_major_order(values.device, reverse), (values, kernel, recurrent, bias, *initial)
    if not order.batch_sizes:  # torch refuses a batch without a step
        return reference_cell(*tensors)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _CudnnFunction.apply(cell, order, reference_cell, *tensors)
    return _forward(cell, order, False, *tensors)


def _forward(
    cell: CudnnCellSpec,
    order: TimeMajorOrder,
    train: bool,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    *initial: Tensor,
) -> tuple[Tensor, ...]:
    """Return the outputs in packed order and the last states in the order of the batch."""
    num_rows = order.batch_sizes[0]  # rows with a step; they are the first ones of the sorted rows
    sorted_states = [state.index_select(0, order.rows) for state in initial]
    first_states = [state[:num_rows].unsqueeze(0) for state in sorted_states]
    outputs, *last_states = cell.function(
        permute_rows(values, order.to_time_major, order.to_packed),
        torch.tensor(order.batch_sizes, device="cpu"),
        first_states if len(first_states) > 1 else first_states[0],
        _weights_in_one_buffer(cell, kernel, recurrent, bias),
        True,  # has biases
        1,  # layers
        0.0,  # dropout
        train,
        False,  # bidirectional
    )
    last_of_all_rows = [
        torch.cat([last[0], state[num_rows:]]) for last, state in zip(last_states, sorted_states, strict=True)
    ]
    return permute_rows(outputs, order.to_packed, order.to_time_major), *(
        state.index_select(0, order.inverse_rows) for state in last_of_all_rows
    )


def _weights_in_one_buffer(cell: CudnnCellSpec, kernel: Tensor, recurrent: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Return torch's four weights as views of one buffer: input kernel, recurrent kernel, and their biases."""
    columns = recurrent.shape[1]
    zeros = kernel.new_zeros(columns)
    if bias is None:
        biases = [zeros, zeros]
    elif bias.ndim == 1:
        biases = [bias, zeros]
    else:
        biases = list(bias)
    parts = [_in_torch_gate_order(cell, x) for x in (kernel.t(), recurrent.t(), *biases)]
    buffer = torch.cat([part.reshape(-1) for part in parts])
    input_weights, state_weights, *biases = buffer.split([part.numel() for part in parts])
    return [input_weights.view(columns, -1), state_weights.view(columns, -1), *biases]


def _in_torch_gate_order(cell: CudnnCellSpec, x: Tensor) -> Tensor:
    """Reorder the gates along the first axis from Keras's order to torch's."""
    if cell.gates == tuple(sorted(cell.gates)):
        return x
    gates = x.chunk(len(cell.gates))
    return torch.cat([gates[number] for number in cell.gates])


def _leaf(x: Tensor, needs_grad: bool) -> Tensor:
    """Return a tensor with the same numbers at which an autograd graph begins."""
    return x.detach().requires_grad_(needs_grad)


class _CudnnFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionContext,
        cell: CudnnCellSpec,
        order: TimeMajorOrder,
        reference_cell: Callable[..., tuple[Tensor, ...]],
        values: Tensor,
        kernel: Tensor,
        recurrent: Tensor,
        bias: Tensor | None,
        *initial: Tensor,
    ) -> tuple[Tensor, ...]:
        needs_values, needs_kernel, needs_recurrent, needs_bias, *needs_initial = ctx.needs_input_grad[3:]
        with torch.enable_grad():
            leaves = (
                _leaf(values, needs_values),
                _leaf(kernel, needs_kernel),
                _leaf(recurrent, needs_recurrent),
                None if bias is None else _leaf(bias, needs_bias),
                *map(_leaf, initial, needs_initial),
            )
            results = _forward(cell, order, True, *leaves)
        ctx.leaves, ctx.results = leaves, results
        ctx.save_for_backward(values, kernel, recurrent, bias, *initial)
        ctx.reference = Reference(reference_cell, num_tensors=len(leaves))
        ctx.set_materialize_grads(False)
        return tuple(result.detach() for result in results)

    @staticmethod
    @with_double_backward
    def backward(ctx: FunctionContext, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        values, needs_grad = ctx.saved_tensors[0], ctx.needs_input_grad[3:]  # torch refuses a second backward here
        used = [(result, grad) for result, grad in zip(ctx.results, grads, strict=True) if grad is not None]
        if not used:
            return (None,) * len(ctx.needs_input_grad)
        with torch.autocast(values.device.type, enabled=False):
            tensor_grads = iter(
                torch.autograd.grad(
                    [result for result, _ in used],
                    [leaf for leaf, is_needed in zip(ctx.leaves, needs_grad, strict=True) if is_needed],
                    [grad for _, grad in used],
                    retain_graph=True,
                    allow_unused=True,
                )
            )
        return (None, None, None, *(next(tensor_grads) if is_needed else None for is_needed in needs_grad))
