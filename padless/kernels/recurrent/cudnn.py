"""The cells of `scan.py` by torch's own packed recurrent functions, which on CUDA are cuDNN's.

They want steps in time-major order, longest sequence first, which is what
`Index.time_major_order` gives for any mask; rows without
a step stay out and keep their initial state. Torch's gates stand as Keras's do, but for the first two of a GRU.

cuDNN reads all weights from one buffer (torch warns, and copies, where they do not stand so): input kernel, recurrent
kernel, and a bias for each, gate by gate. So they are laid out there at each call, by differentiable moves.

What torch records of the forward is kept for the backward as it is. cuDNN has no second derivative; where one is wanted,
the gradient is taken through the reference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from padless.kernels.double_backward import with_double_backward
from padless.kernels.recurrent.adapters import doors
from padless.ragged.gather import permute_rows
from padless.ragged.index import Index, TimeMajorOrder


@dataclass(frozen=True)
class CudnnCellSpec:
    """Torch's function for a cell, and which of Keras's gates stands at each of its places."""

    function: Callable[..., Any]
    gates: tuple[int, ...]


LSTM, GRU = CudnnCellSpec(torch.lstm, (0, 1, 2, 3)), CudnnCellSpec(torch.gru, (1, 0, 2))
TANH, RELU = CudnnCellSpec(torch.rnn_tanh, (0,)), CudnnCellSpec(torch.rnn_relu, (0,))


def _run(cell: CudnnCellSpec, again: Callable[..., Any], index: Index, reverse: bool, *tensors: Tensor | None) -> Any:
    device: torch.device = tensors[0].device  # pyright: ignore[reportOptionalMemberAccess] - the values
    order = index.time_major_order(device, reverse)
    if not order.batch_sizes:  # torch refuses a batch without a step
        return again(*tensors)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _Recorded.apply(cell, order, again, *tensors)
    return _forward(cell, order, False, *tensors)  # pyright: ignore[reportArgumentType]


lstm, gru, simple_rnn = doors(_run, LSTM, GRU, TANH, RELU)


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
    """Outputs in packed order and last states in the order of the batch."""
    alive = order.batch_sizes[0]
    begun = [state.index_select(0, order.rows) for state in initial]
    first = [state[:alive].unsqueeze(0) for state in begun]
    sizes = torch.tensor(order.batch_sizes, device="cpu")
    outputs, *last = cell.function(
        permute_rows(values, order.to_time_major, order.to_packed),
        sizes,
        first if len(first) > 1 else first[0],
        _weights(cell, kernel, recurrent, bias),
        True,
        1,
        0.0,
        train,
        False,
    )
    ended = [torch.cat([after[0], before[alive:]]) for after, before in zip(last, begun, strict=True)]
    return permute_rows(outputs, order.to_packed, order.to_time_major), *(
        state.index_select(0, order.inverse_rows) for state in ended
    )


def _weights(cell: CudnnCellSpec, kernel: Tensor, recurrent: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Torch's four weights, views of one buffer."""
    columns, missing = recurrent.shape[1], kernel.new_zeros(recurrent.shape[1])
    biases = [missing, missing] if bias is None else [bias, missing] if bias.ndim == 1 else list(bias)
    parts = [_turned(cell, x) for x in (kernel.t(), recurrent.t(), *biases)]
    of_inputs, of_states, *biases = torch.cat([p.reshape(-1) for p in parts]).split([p.numel() for p in parts])
    return [of_inputs.view(columns, -1), of_states.view(columns, -1), *biases]


def _turned(cell: CudnnCellSpec, x: Tensor) -> Tensor:
    """Gates along the first axis, from Keras's order into torch's."""
    if cell.gates == tuple(sorted(cell.gates)):
        return x
    parts = x.chunk(len(cell.gates))
    return torch.cat([parts[gate] for gate in cell.gates])


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cell: CudnnCellSpec, order: TimeMajorOrder, again: Callable[..., Any], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.ahead, ctx.given, ctx.again = 3, len(tensors), again
        needed = ctx.needs_input_grad[ctx.ahead :]
        with torch.enable_grad():
            leaves: list[Any] = [
                tensor if tensor is None else tensor.detach().requires_grad_(n)
                for tensor, n in zip(tensors, needed, strict=True)
            ]
            ctx.leaves, ctx.results = leaves, _forward(cell, order, True, *leaves)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return tuple(result.detach() for result in ctx.results)

    @staticmethod
    @with_double_backward
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        given, need = ctx.saved_tensors, ctx.needs_input_grad[ctx.ahead :]  # a second backward is refused here
        pairs = [(r, g) for r, g in zip(ctx.results, grads, strict=True) if g is not None]
        results, arrived = [r for r, _ in pairs], [g for _, g in pairs]
        wanted = [leaf for leaf, needed in zip(ctx.leaves, need, strict=True) if needed]
        with torch.autocast(given[0].device.type, enabled=False):
            found = iter(
                torch.autograd.grad(results, wanted, arrived, retain_graph=True, allow_unused=True)
                if pairs
                else [None] * len(wanted)
            )
        return (*(None,) * ctx.ahead, *(next(found) if needed else None for needed in need))
