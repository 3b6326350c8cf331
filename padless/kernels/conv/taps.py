"""Convolve one long line of steps by matrix products, one for each tap of the kernel. Nothing is copied.

A *tap* is one position of the kernel. Where the steps of a window are neighbours in memory, the compiled kernel takes
all taps at once.

Three sums run over the same triples (step of the line, tap, window). They are the outputs from line and kernel, the line
from outputs and kernel, and the kernel from line and outputs. Each is the gradient of the other two, so each is
differentiable any number of times.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from padless._torch_compat import FunctionContext, in_functional_transform
from padless.kernels.conv import native
from padless.ragged.gather import scatter_rows

Strides = tuple[int, int]  # stride of the windows, dilation of the taps


def supports(line: Tensor, kernel: Tensor, groups: int) -> bool:
    """Return whether products are the fast way: on the CPU, with at least 16 channels and filters."""
    return (
        line.device.type == "cpu"
        and groups == 1
        and min(kernel.shape[1:]) >= 16
        and line.dtype in (torch.float32, torch.float64)
        and line.dtype == kernel.dtype
        and not torch.is_autocast_enabled("cpu")
        and not in_functional_transform()
    )


def conv_by_taps(
    line: Float[Tensor, "size channels"],
    kernel: Float[Tensor, "taps channels filters"],
    num_windows: int,
    strides: Strides,
    bias: Float[Tensor, " filters"] | None = None,
    window_numbers: Int[Tensor, " m"] | None = None,
) -> Float[Tensor, "m filters"]:
    """Return the convolution of a line of steps: one output for each window.

    Args:
        line: The steps.
        kernel: The weights.
        num_windows: The number of windows; window w begins at step `w * stride`.
        strides: Stride and dilation.
        bias: Added to each output.
        window_numbers: Return only the outputs of these windows, each at most once; None for all.

    >>> conv_by_taps(torch.ones(4, 1), torch.ones(2, 1, 1), 3, (1, 1)).flatten().tolist()
    [2.0, 2.0, 2.0]
    """
    return _Conv.apply(line, kernel, bias, num_windows, strides, window_numbers)


def conv_transpose_by_taps(
    outputs: Float[Tensor, "count filters"], kernel: Float[Tensor, "taps channels filters"], size: int, strides: Strides
) -> Float[Tensor, "size channels"]:
    """Return the transposed convolution: a line of `size` steps, to which each window adds through each tap.

    >>> conv_transpose_by_taps(torch.ones(3, 1), torch.ones(2, 1, 1), 4, (1, 1)).flatten().tolist()
    [1.0, 2.0, 2.0, 1.0]
    """
    return _ConvTranspose.apply(outputs, kernel, size, strides)


def _steps_of_tap(line: Tensor, tap: int, num_windows: int, strides: Strides) -> Tensor:
    """Return a view of the steps that the windows see through one tap, `(num_windows, channels)`."""
    stride, dilation = strides
    return line[tap * dilation :: stride][:num_windows]


# Each forward below also runs in backward passes. So it switches autocast off: autocast may differ between the two passes.


class _Conv(torch.autograd.Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(
        ctx: FunctionContext,
        line: Tensor,
        kernel: Tensor,
        bias: Tensor | None,
        num_windows: int,
        strides: Strides,
        window_numbers: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(line, kernel, window_numbers)
        ctx.strides, ctx.num_windows = strides, num_windows
        stride, dilation = strides
        if dilation == 1 or len(kernel) == 1:  # the steps of a window are neighbours
            weights = kernel.flatten(0, 1)
            if native.supports(line, weights, bias):
                return native.convolve_line(line, weights, bias, num_windows, stride * line.shape[1], window_numbers)
        first_steps = _steps_of_tap(line, 0, num_windows, strides)
        outputs = first_steps @ kernel[0] if bias is None else torch.addmm(bias, first_steps, kernel[0])
        for tap in range(1, len(kernel)):
            outputs.addmm_(_steps_of_tap(line, tap, num_windows, strides), kernel[tap])
        return outputs if window_numbers is None else outputs.index_select(0, window_numbers)

    @staticmethod
    def backward(ctx: FunctionContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        line, kernel, window_numbers = ctx.saved_tensors
        needs_line, needs_kernel, needs_bias, *_ = ctx.needs_input_grad
        grad = grads[0]
        grad_bias = grad.sum(0) if needs_bias else None
        if window_numbers is not None:
            grad = scatter_rows(grad, window_numbers, ctx.num_windows)
        grad_line = _ConvTranspose.apply(grad, kernel, len(line), ctx.strides) if needs_line else None
        grad_kernel = _KernelGradient.apply(line, grad, len(kernel), ctx.strides) if needs_kernel else None
        return grad_line, grad_kernel, grad_bias, None, None, None


class _ConvTranspose(torch.autograd.Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx: FunctionContext, outputs: Tensor, kernel: Tensor, size: int, strides: Strides) -> Tensor:
        ctx.save_for_backward(outputs, kernel)
        ctx.strides = strides
        line = outputs.new_zeros(size, kernel.shape[1])
        for tap in range(len(kernel)):
            _steps_of_tap(line, tap, len(outputs), strides).addmm_(outputs, kernel[tap].t())
        return line

    @staticmethod
    def backward(ctx: FunctionContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        outputs, kernel = ctx.saved_tensors
        needs_outputs, needs_kernel, *_ = ctx.needs_input_grad
        grad_line = grads[0]
        grad_outputs = _Conv.apply(grad_line, kernel, None, len(outputs), ctx.strides, None) if needs_outputs else None
        grad_kernel = _KernelGradient.apply(grad_line, outputs, len(kernel), ctx.strides) if needs_kernel else None
        return grad_outputs, grad_kernel, None, None


class _KernelGradient(torch.autograd.Function):
    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx: FunctionContext, line: Tensor, outputs: Tensor, taps: int, strides: Strides) -> Tensor:
        ctx.save_for_backward(line, outputs)
        ctx.strides = strides
        kernel = line.new_empty(taps, line.shape[1], outputs.shape[1])
        for tap in range(taps):
            torch.mm(_steps_of_tap(line, tap, len(outputs), strides).t(), outputs, out=kernel[tap])
        return kernel

    @staticmethod
    def backward(ctx: FunctionContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        line, outputs = ctx.saved_tensors
        needs_line, needs_outputs, *_ = ctx.needs_input_grad
        grad_kernel = grads[0]
        grad_line = _ConvTranspose.apply(outputs, grad_kernel, len(line), ctx.strides) if needs_line else None
        grad_outputs = _Conv.apply(line, grad_kernel, None, len(outputs), ctx.strides, None) if needs_outputs else None
        return grad_line, grad_outputs, None, None
