"""A convolution over one long line of steps as products of matrices: one for each tap of the kernel, nothing copied.

Where the steps that a window sees stand side by side, the compiled kernel takes them at once.

Three sums over the same triples (step of the line, tap, window) make it up: windows from the line and the kernel, the
line from windows and the kernel, the kernel from both. Each is the gradient of the other two, so each can be
differentiated as often as one likes.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from padless.kernels.native import library as compiled
from padless.ragged.gather import scatter_rows

Moves = tuple[int, int]  # stride and dilation


def usable(line: Tensor, kernel: Tensor, groups: int) -> bool:
    """Whether products are the fast way: on the CPU, with enough channels on both sides of each product."""
    return (
        line.device.type == "cpu"
        and groups == 1
        and min(kernel.shape[1:]) >= 16
        and line.dtype in (torch.float32, torch.float64)
        and line.dtype == kernel.dtype
        and not torch.is_autocast_enabled("cpu")
        and not compiled.under_functional_transform()
    )


def windows(
    line: Float[Tensor, "size channels"],
    kernel: Float[Tensor, "taps channels filters"],
    count: int,
    moves: Moves,
    bias: Float[Tensor, " filters"] | None = None,
    chosen: Int[Tensor, " m"] | None = None,
) -> Float[Tensor, "m filters"]:
    """What each of `count` windows of the line gives, or each of those that are `chosen`, distinct ones.

    >>> windows(torch.ones(4, 1), torch.ones(2, 1, 1), 3, (1, 1)).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    return _Windows.apply(line, kernel, bias, count, moves, chosen)  # pyright: ignore[reportReturnType]


def spread(
    given: Float[Tensor, "count filters"], kernel: Float[Tensor, "taps channels filters"], size: int, moves: Moves
) -> Float[Tensor, "size channels"]:
    """A line to which each window gives through each tap: the transposed convolution.

    >>> spread(torch.ones(3, 1), torch.ones(2, 1, 1), 4, (1, 1)).flatten().tolist()
    [1.0, 2.0, 2.0, 1.0]
    """
    return _Line.apply(given, kernel, size, moves)  # pyright: ignore[reportReturnType]


def _under(line: Tensor, tap: int, count: int, moves: Moves) -> Tensor:
    """The steps that `count` windows see through one tap; a view."""
    return line[tap * moves[1] :: moves[0]][:count]


def _in_its_dtype(forward: Any) -> Any:
    """A backward may run under an autocast that its forward did not have."""
    return torch.autocast("cpu", enabled=False)(forward)


class _Windows(torch.autograd.Function):
    @staticmethod
    @_in_its_dtype
    def forward(
        ctx: Any, line: Tensor, kernel: Tensor, bias: Tensor | None, count: int, moves: Moves, chosen: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(line, kernel, chosen)
        ctx.moves, ctx.count = moves, count
        stride, apart = moves
        if apart == 1 or len(kernel) == 1:
            found = compiled.windows(line, kernel.flatten(0, 1), bias, count, stride * line.shape[1], chosen)
            if found is not None:
                return found
        first = _under(line, 0, count, moves)
        found = first @ kernel[0] if bias is None else torch.addmm(bias, first, kernel[0])
        for tap in range(1, len(kernel)):
            found.addmm_(_under(line, tap, count, moves), kernel[tap])
        return found if chosen is None else found.index_select(0, chosen)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (line, kernel, chosen), grad, need = ctx.saved_tensors, grads[0], ctx.needs_input_grad
        bias = grad.sum(0) if need[2] else None
        grad = grad if chosen is None else scatter_rows(grad, chosen, ctx.count)
        return (
            _Line.apply(grad, kernel, len(line), ctx.moves) if need[0] else None,
            _Kernel.apply(line, grad, len(kernel), ctx.moves) if need[1] else None,
            bias,
            None,
            None,
            None,
        )


class _Line(torch.autograd.Function):
    @staticmethod
    @_in_its_dtype
    def forward(ctx: Any, given: Tensor, kernel: Tensor, size: int, moves: Moves) -> Tensor:
        ctx.save_for_backward(given, kernel)
        ctx.moves = moves
        line = given.new_zeros(size, kernel.shape[1])
        for tap in range(len(kernel)):
            _under(line, tap, len(given), moves).addmm_(given, kernel[tap].t())
        return line

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (given, kernel), grad, need = ctx.saved_tensors, grads[0], ctx.needs_input_grad
        return (
            _Windows.apply(grad, kernel, None, len(given), ctx.moves, None) if need[0] else None,
            _Kernel.apply(grad, given, len(kernel), ctx.moves) if need[1] else None,
            None,
            None,
        )


class _Kernel(torch.autograd.Function):
    @staticmethod
    @_in_its_dtype
    def forward(ctx: Any, line: Tensor, given: Tensor, taps: int, moves: Moves) -> Tensor:
        ctx.save_for_backward(line, given)
        ctx.moves = moves
        kernel = line.new_empty(taps, line.shape[1], given.shape[1])
        for tap in range(taps):
            torch.mm(_under(line, tap, len(given), moves).t(), given, out=kernel[tap])
        return kernel

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (line, given), grad, need = ctx.saved_tensors, grads[0], ctx.needs_input_grad
        return (
            _Line.apply(given, grad, len(line), ctx.moves) if need[0] else None,
            _Windows.apply(line, grad, None, len(given), ctx.moves, None) if need[1] else None,
            None,
            None,
        )
