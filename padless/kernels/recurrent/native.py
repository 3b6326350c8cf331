"""Recurrent cells by the compiled kernel recurrent.c, on the CPU.

The kernel computes the time steps, forward and backward. Each thread has its own sequences and never waits for another. In
the forward pass the kernel also multiplies the inputs with their weights. It does so for a few times at once, so that the
products are still in the cache when they are used. The gradients of weights and inputs are products over all steps,
computed by torch.

All steps stay in packed order. The backward pass overwrites the gates with their gradients. A second backward pass
through the same call computes the gates again.

In bfloat16, torch computes the products over all steps in bfloat16, and the kernel computes the time steps in float32.
"""

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from padless._torch_compat import FunctionContext
from padless.kernels.double_backward import Reference, with_double_backward
from padless.kernels.half_precision import HALF_DTYPES, compute_dtype, pad_rows_to_bucket
from padless.kernels.native import library
from padless.kernels.recurrent import reference
from padless.kernels.recurrent.reference import Activation
from padless.ragged.index import Index

DTYPES = (torch.float32, torch.bfloat16)
MAX_BIAS_ROWS = 64  # the sums of a bias; also the largest number of threads that share the sequences
CHUNK_NUMBERS = 1 << 17  # numbers that stay in the L2 cache of a core, together with all else


@dataclass(frozen=True)
class NativeCellSpec:
    """A cell of the compiled kernel.

    The gates of a step are a row of `extra + gates` columns of `units` each. `extra` columns are before those that the
    inputs give to. The gradients of the gates have the same shape. Their first `gates` columns are the gradients of the
    product with the state, their last `gates` columns those of the product with the inputs.

    Args:
        number: The number of the cell in the function table of recurrent.c.
        gates: The number of gates.
        relu: Whether the activation is relu and not tanh.
        extra: The number of extra columns.
        state_gates: For each of the first `gates` columns the number of its gate in Keras; empty for Keras's order.
    """

    number: int
    gates: int
    relu: bool = False
    extra: int = 0
    state_gates: tuple[int, ...] = ()


LSTM = NativeCellSpec(number=0, gates=4)
GRU = NativeCellSpec(number=1, gates=3, extra=1, state_gates=(2, 0, 1))
TANH_RNN = NativeCellSpec(number=2, gates=1)
RELU_RNN = NativeCellSpec(number=2, gates=1, relu=True)


class _RNNArgs(ctypes.Structure):
    """The struct `rnn_args` of recurrent.c, which describes each field."""

    _fields_ = (
        ("units", ctypes.c_int64),
        ("real_units", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("extra_columns", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("save_for_backward", ctypes.c_int64),
        ("relu", ctypes.c_int64),
        ("features", ctypes.c_int64),
        ("chunk_rows", ctypes.c_int64),
        ("thread_local_gates", ctypes.c_int64),
        ("part_offsets", ctypes.c_void_p),
        ("first_steps", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("batch_rows", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("input_panels", ctypes.c_void_p),
        ("recurrent_panels", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("h0", ctypes.c_void_p),
        ("c0", ctypes.c_void_p),
        ("gates", ctypes.c_void_p),
        ("h_before", ctypes.c_void_p),
        ("h", ctypes.c_void_p),
        ("c", ctypes.c_void_p),
        ("h_last", ctypes.c_void_p),
        ("c_last", ctypes.c_void_p),
        ("grad_outputs", ctypes.c_void_p),
        ("bias_rows", ctypes.c_void_p),
        ("grad_bias", ctypes.c_void_p),
        ("dh", ctypes.c_void_p),
        ("dc", ctypes.c_void_p),
        ("chunk_sequence", ctypes.c_int64),
        ("chunk_time", ctypes.c_int64),
        ("chunk_alive", ctypes.c_int64),
    )


@dataclass(frozen=True)
class SequenceParts:
    """The sequences of an index, longest first, in one part for each thread.

    The gradient of a bias is a sum over all steps. The order of its terms must not depend on the number of threads. So
    the sequences are first split by their lengths alone, and each part of that split has a row of sums. The part of a
    thread has whole rows.

    Args:
        part_offsets: The first sequence of each part, and the number of sequences; `(parts + 1,)`.
        bias_rows: The row of sums to which each sequence adds.
        first_steps: The packed step at which each sequence begins; with `reverse` its last real step.
        lengths: The number of steps of each sequence.
        batch_rows: The row of each sequence in the batch.
        stride: 1, or -1 if sequences run from their last step to their first.
    """

    part_offsets: Tensor
    bias_rows: Tensor
    first_steps: Tensor
    lengths: Tensor
    batch_rows: Tensor
    stride: int

    @staticmethod
    def of_index(index: Index, reverse: bool, num_steps: int) -> "SequenceParts":
        """Split the sequences of an index into parts with nearly equal numbers of steps.

        Sequences that end at the same time are in the same part, because they are sorted by length.

        Args:
            index: The real steps.
            reverse: Whether each sequence runs from its last step to its first.
            num_steps: The number of rows of the values.

        Raises:
            MaskError: If the index has another number of steps.
        """
        offsets = library.check_offsets(index, num_steps, "the inputs")
        lengths = np.diff(offsets)
        batch_rows = np.argsort(-lengths, kind="stable")
        lengths = lengths[batch_rows]
        row_offsets = library.split_by_cost(lengths, min(MAX_BIAS_ROWS, int((lengths > 0).sum())))
        steps_before = np.append(0, np.cumsum(lengths))[row_offsets]
        parts = library.split_by_cost(np.diff(steps_before), min(torch.get_num_threads(), len(row_offsets) - 1))
        first_steps = (offsets[1:] - 1 if reverse else offsets[:-1])[batch_rows]
        bias_rows = np.repeat(np.arange(len(row_offsets) - 1), np.diff(row_offsets))
        tensors = [
            torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
            for array in (row_offsets[parts], bias_rows, first_steps, lengths, batch_rows)
        ]
        return SequenceParts(*tensors, stride=-1 if reverse else 1)

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self.part_offsets) - 1

    @property
    def num_bias_rows(self) -> int:
        """Return the number of rows of sums of a bias."""
        return int(self.bias_rows[-1]) + 1 if len(self.bias_rows) else 1

    @property
    def most_sequences(self) -> int:
        """Return the largest number of sequences with a step in one part."""
        not_empty = np.append(0, np.cumsum(self.lengths.numpy() > 0))
        return int(np.diff(not_empty[self.part_offsets.numpy()]).max())

    def run(
        self,
        cell: NativeCellSpec,
        backward: bool,
        gates: Tensor,
        *,
        save_for_backward: bool,
        real_units: int = 0,
        chunk_rows: int = 0,
        thread_local_gates: bool = False,
        h0: Tensor,
        **tensors: Tensor | None,
    ) -> None:
        """Call the compiled kernel. The arguments are the fields of `rnn_args` in recurrent.c.

        `gates` may lack the extra columns of a cell. The kernel then gets a pointer to where they would begin, and does
        not touch them.
        """
        units, width, x = h0.shape[1], gates.shape[1], tensors.get("x")
        missing_columns = (cell.gates + cell.extra) * units - width
        pointers = {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}
        args = _RNNArgs(
            units=units,
            real_units=real_units,
            width=width,
            extra_columns=cell.extra * units,
            stride=self.stride,
            save_for_backward=save_for_backward,
            relu=cell.relu,
            features=0 if x is None else x.shape[1],
            chunk_rows=chunk_rows,
            thread_local_gates=thread_local_gates,
            part_offsets=self.part_offsets.data_ptr(),
            first_steps=self.first_steps.data_ptr(),
            lengths=self.lengths.data_ptr(),
            batch_rows=self.batch_rows.data_ptr(),
            bias_rows=self.bias_rows.data_ptr(),
            h0=h0.data_ptr(),
            gates=gates.data_ptr() - missing_columns * gates.element_size(),
            **pointers,
        )
        native = library.require_library()
        native.run(native.rnn, 2 * cell.number + backward, ctypes.byref(args), len(self))


def supports(values: Tensor, *others: Tensor | None) -> bool:
    """Return whether the compiled kernel exists and takes these tensors."""
    return (
        values.device.type == "cpu"
        and compute_dtype(values) in DTYPES
        and library.get_library() is not None
        and library.can_access_memory(values, *others)
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
    cell: NativeCellSpec,
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
    tensors = (values, kernel, recurrent, bias, *initial)
    parts = SequenceParts.of_index(index, reverse, len(values))
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _NativeFunction.apply(cell, parts, reference_cell, *tensors)
    return _forward(cell, parts, False, *tensors)[0]


# ------------------------------------------------------------------------------------------------ the format of the kernel
# The kernel wants the number of units padded with zeros to whole SIMD vectors. `units` is the padded number. Gates are
# columns, gate by gate as in Keras: (rows, gates * units).


def _lanes() -> int:
    """Return the number of float32 in a SIMD vector."""
    return library.require_library().lanes


def _pad_states(states: Tensor, units: int) -> Tensor:
    """Return states in float32, contiguous, with units padded."""
    return functional.pad(states.float(), (0, units - states.shape[-1])).contiguous()


def _pad_gates(x: Tensor, gates: int, units: int) -> Tensor:
    """Pad the units of each gate: `(rows, gates * real_units)` to `(rows, gates * units)`."""
    if x.shape[1] == gates * units:
        return x
    real_units = x.shape[1] // gates
    padded = functional.pad(x.reshape(len(x), gates, real_units), (0, units - real_units))
    return padded.view(len(x), gates * units)


def _unpad_gates(x: Tensor, gates: int, real_units: int) -> Tensor:
    """Undo `_pad_gates`."""
    if x.shape[1] == gates * real_units:
        return x
    return x.view(len(x), gates, x.shape[1] // gates)[:, :, :real_units].reshape(len(x), gates * real_units)


def _padded_recurrent(recurrent: Tensor, gates: int, units: int) -> Tensor:
    """Return the recurrent kernel in float32, padded on both axes: `(units, gates, units)`."""
    padded = _pad_gates(recurrent.float(), gates, units)
    if len(padded) < units:
        padded = functional.pad(padded, (0, 0, 0, units - len(padded)))
    return padded.view(units, gates, units)


def _forward_panels(recurrent: Tensor, cell: NativeCellSpec, units: int) -> Tensor:
    """Return the recurrent kernel for the forward pass: a panel `(units, gates, lanes)` for each vector of units."""
    padded = _padded_recurrent(recurrent, cell.gates, units)
    if cell.gates == 1:
        return library.pack_weight_panels(padded.view(units, units), _lanes())
    return padded.view(units, cell.gates, -1, _lanes()).permute(2, 0, 1, 3).contiguous()


def _backward_panels(recurrent: Tensor, cell: NativeCellSpec, units: int) -> Tensor:
    """Return the transposed recurrent kernel for the backward pass, gates in the order of their gradients."""
    padded = _padded_recurrent(recurrent, cell.gates, units)
    if cell.state_gates:
        padded = padded[:, cell.state_gates]
    return library.pack_weight_panels(padded.reshape(units, -1).t(), _lanes())


def _gate_bias(cell: NativeCellSpec, bias: Tensor | None, units: int) -> Tensor:
    """Return the bias of each column of the gates.

    The first column of a GRU is the candidate's product with the state. It has its own bias, because the reset gate
    multiplies this product with its bias. The two biases of the other gates are added.
    """
    if bias is None:
        return torch.zeros((cell.extra + cell.gates) * units, dtype=torch.float32, device="cpu")
    if cell is not GRU:
        return _pad_gates(bias[None].float(), cell.gates, units)[0].contiguous()
    (input_z, input_r, input_h), (state_z, state_r, state_h) = bias.float().view(2, 3, -1)
    columns = torch.cat([state_h, input_z + state_z, input_r + state_r, input_h])
    return _pad_gates(columns[None], 4, units)[0]


def _keras_gate_order(cell: NativeCellSpec, x: Tensor) -> Tensor:
    """Reorder the gates of the state's product from the order of their gradients to Keras's: `(rows, gates * units)`."""
    if not cell.state_gates:
        return x
    return x.unflatten(1, (cell.gates, -1))[:, np.argsort(cell.state_gates).tolist()].flatten(1)


# ------------------------------------------------------------------------------------------------ forward


class SavedForBackward(NamedTuple):
    """What a forward pass keeps for the backward pass; units are padded, and all is float32.

    Args:
        gates: The activated gates of each step; the backward pass overwrites them with their gradients.
        h_before: h before each step.
        c: c after each step, of an LSTM.
        h0: The initial h of each row.
        c0: The initial c of each row, of an LSTM.
    """

    gates: Tensor
    h_before: Tensor
    c: Tensor | None
    h0: Tensor
    c0: Tensor | None


def _forward(
    cell: NativeCellSpec,
    parts: SequenceParts,
    save_for_backward: bool,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], SavedForBackward]:
    """Return the results, and with `save_for_backward` what the backward pass needs.

    The results are the outputs, the last h, and the last c of an LSTM.
    """
    real_units, dtype, num_steps = h0.shape[1], values.dtype, len(values)
    units = -(-real_units // _lanes()) * _lanes()
    gates = _prepare_gates(cell, parts, values, kernel, units, real_units, save_for_backward)
    h0, c0 = _pad_states(h0, units), None if c0 is None else _pad_states(c0, units)
    h = gates.memory if cell.gates == 1 else gates.memory.new_empty(num_steps, units)
    c = gates.memory.new_empty(num_steps, units) if cell is LSTM and save_for_backward else None
    h_before = gates.memory.new_empty(num_steps if save_for_backward else 0, units)
    h_last, c_last = torch.empty_like(h0), None if c0 is None else c0.clone()
    parts.run(
        cell,
        False,
        gates.memory,
        save_for_backward=save_for_backward,
        real_units=real_units,
        chunk_rows=gates.chunk_rows,
        thread_local_gates=gates.thread_local,
        x=gates.x,
        input_panels=gates.input_panels,
        recurrent_panels=_forward_panels(recurrent, cell, units),
        bias=_gate_bias(cell, bias, units),
        h0=h0,
        c0=c0,
        h_before=h_before,
        h=h,
        c=c,
        h_last=h_last,
        c_last=c_last,
    )
    if h is gates.memory and save_for_backward:  # the caller may change the outputs in place
        h = h.clone()
    results = tuple(_unpad_gates(x, 1, real_units).to(dtype) for x in (h, h_last, c_last) if x is not None)
    return results, SavedForBackward(gates.memory, h_before, c, h0, c0)


class _GateMemory(NamedTuple):
    """The memory of the gates, and what the kernel needs to compute the products of the inputs in it.

    Args:
        memory: The memory. If `x` is None, it has the products of the inputs with the kernel.
        x: The inputs, if the kernel computes these products.
        input_panels: The weights of the inputs in panels.
        chunk_rows: The number of steps whose products the kernel computes at once.
        thread_local: Whether each part has memory for `chunk_rows` steps only, and not for all its steps.
    """

    memory: Tensor
    x: Tensor | None = None
    input_panels: Tensor | None = None
    chunk_rows: int = 0
    thread_local: bool = False


def _prepare_gates(
    cell: NativeCellSpec,
    parts: SequenceParts,
    values: Tensor,
    kernel: Tensor,
    units: int,
    real_units: int,
    save_for_backward: bool,
) -> _GateMemory:
    """Return the memory of the gates, with the products of inputs and kernel where torch computes them faster.

    Gates that are not saved have memory for a few times only. The first access to the pages of a large new buffer would
    cost as much as all time steps.
    """
    weights, extra_columns = _pad_gates(kernel, cell.gates, units), cell.extra * units * save_for_backward
    width = extra_columns + cell.gates * units
    if values.dtype == kernel.dtype == torch.float32 and _lanes() > 4 and values.shape[1]:
        chunk_rows = max(parts.most_sequences, CHUNK_NUMBERS // width)
        thread_local = not save_for_backward and cell.gates > 1
        memory = values.new_empty(len(parts) * chunk_rows if thread_local else len(values), width)
        panels = library.pack_weight_panels(weights, _lanes())
        return _GateMemory(memory, values.contiguous(), panels, chunk_rows, thread_local)
    memory = values.new_empty(len(values), width, dtype=torch.float32)
    products = memory[:, extra_columns:]
    if values.dtype in HALF_DTYPES:
        products[:] = (pad_rows_to_bucket(values, values.dtype) @ weights)[: len(values)]
    else:
        torch.mm(values, weights, out=products)
    if units > real_units:  # an infinite input times the zeros of padded units is NaN
        products.unflatten(1, (cell.gates, units))[:, :, real_units:] = 0
    return _GateMemory(memory)


# ------------------------------------------------------------------------------------------------ backward


class _NativeFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionContext,
        cell: NativeCellSpec,
        parts: SequenceParts,
        reference_cell: Callable[..., tuple[Tensor, ...]],
        values: Tensor,
        kernel: Tensor,
        recurrent: Tensor,
        bias: Tensor | None,
        *initial: Tensor,
    ) -> tuple[Tensor, ...]:
        tensors = (values, kernel, recurrent, bias, *initial)
        results, saved = _forward(cell, parts, True, *tensors)
        ctx.save_for_backward(*tensors, *saved)
        ctx.cell, ctx.parts, ctx.reference = cell, parts, Reference(reference_cell, num_tensors=len(tensors))
        ctx.gates_overwritten = False
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    @with_double_backward
    def backward(ctx: FunctionContext, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved_tensors = ctx.saved_tensors  # read once: hooks of saved tensors run at each access
        num_tensors, needs_grad = ctx.reference.num_tensors, ctx.needs_input_grad[3:]
        tensors, saved = saved_tensors[:num_tensors], SavedForBackward(*saved_tensors[num_tensors:])
        values, kernel, recurrent = tensors[:3]
        with torch.autocast("cpu", enabled=False):
            if ctx.gates_overwritten:
                _, saved = _forward(ctx.cell, ctx.parts, True, *tensors)
            ctx.gates_overwritten = True
            step_grads = _backward_steps(ctx.cell, ctx.parts, saved, recurrent, *grads)
            weight_grads = _weight_gradients(ctx.cell, needs_grad, values, kernel, recurrent, saved, step_grads.bias)
            real_units = len(recurrent)
            state_grads = [
                grad[:, :real_units].to(values.dtype) if is_needed and grad is not None else None
                for grad, is_needed in zip((step_grads.h0, step_grads.c0), needs_grad[4:], strict=False)
            ]
        return (None, None, None, *weight_grads, *state_grads)


class _StepGradients(NamedTuple):
    """The gradients that the kernel computes; those of the gates are stored in place of the gates.

    Args:
        bias: The sum of the gradients of the gates over all steps, `(extra + gates columns,)`.
        h0: The gradient of the initial h, `(B, units)`.
        c0: The gradient of the initial c, of an LSTM.
    """

    bias: Tensor
    h0: Tensor
    c0: Tensor | None


def _backward_steps(
    cell: NativeCellSpec,
    parts: SequenceParts,
    saved: SavedForBackward,
    recurrent: Tensor,
    grad_outputs: Tensor | None,
    grad_h_last: Tensor | None,
    grad_c_last: Tensor | None = None,
) -> _StepGradients:
    """Go back through all time steps: compute the gradients of gates and initial states."""
    units = saved.h0.shape[1]
    dh = _new_state_gradient(grad_h_last, saved.h0)
    dc = None if saved.c0 is None else _new_state_gradient(grad_c_last, saved.c0)
    grad_bias = saved.gates.new_zeros(parts.num_bias_rows, saved.gates.shape[1])
    parts.run(
        cell,
        True,
        saved.gates,
        save_for_backward=True,
        recurrent_panels=_backward_panels(recurrent, cell, units),
        h0=saved.h0,
        c0=saved.c0,
        h_before=saved.h_before,
        c=saved.c,
        grad_outputs=None if grad_outputs is None else _pad_states(grad_outputs, units),
        grad_bias=grad_bias,
        dh=dh,
        dc=dc,
    )
    return _StepGradients(grad_bias.sum(0), dh, dc)


def _new_state_gradient(grad: Tensor | None, state: Tensor) -> Tensor:
    """Return the gradient of a last state in new memory, zeros if there is none; the kernel overwrites it."""
    if grad is None:
        return torch.zeros_like(state)
    padded = _pad_states(grad, state.shape[1])
    return padded.clone() if padded is grad else padded


def _weight_gradients(
    cell: NativeCellSpec,
    needs_grad: Sequence[bool],
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    saved: SavedForBackward,
    bias_sums: Tensor,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of values, kernel, recurrent kernel and bias, where they are needed.

    Args:
        cell: The cell.
        needs_grad: Which of them need a gradient.
        values: The inputs.
        kernel: The kernel.
        recurrent: The recurrent kernel.
        saved: What the forward pass kept; in place of the gates are their gradients.
        bias_sums: The sum of the gradients of the gates.
    """
    gates, units, real_units = cell.gates, saved.h0.shape[1], len(recurrent)
    num_steps, dtype = len(values), values.dtype
    gate_grads, h_before = saved.gates, saved.h_before
    if dtype in HALF_DTYPES:
        values, gate_grads, h_before = (pad_rows_to_bucket(x, dtype) for x in (values, gate_grads, h_before))
    input_product_grads = gate_grads[:, cell.extra * units :]
    state_product_grads = gate_grads[:, : gates * units]
    needs_values, needs_kernel, needs_recurrent, needs_bias = needs_grad[:4]
    grad_values = grad_kernel = grad_recurrent = grad_bias = None
    if needs_values:
        grad_values = (input_product_grads @ _pad_gates(kernel, gates, units).t())[:num_steps]
    if needs_kernel:
        grad_kernel = _unpad_gates(values.t() @ input_product_grads, gates, real_units)
    if needs_recurrent:
        products = _keras_gate_order(cell, h_before.t() @ state_product_grads)
        grad_recurrent = _unpad_gates(products, gates, real_units)[:real_units]
    if needs_bias:
        rows = [bias_sums[cell.extra * units :]]
        if cell is GRU:
            rows.append(_keras_gate_order(cell, bias_sums[None, : gates * units])[0])
        grad_bias = _unpad_gates(torch.stack(rows), gates, real_units).to(dtype)
        grad_bias = grad_bias if cell is GRU else grad_bias[0]
    return grad_values, grad_kernel, grad_recurrent, grad_bias
