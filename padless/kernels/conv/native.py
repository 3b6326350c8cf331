"""Convolve with the compiled kernel conv.c on the CPU: matrix products of windows, which are not copied."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from padless.errors import ShapeError
from padless.kernels.native import library


class _ConvArgs(ctypes.Structure):
    """The struct `conv_args` of conv.c, which describes each field."""

    _fields_ = (
        ("window_size", ctypes.c_int64),
        ("window_stride", ctypes.c_int64),
        ("filters", ctypes.c_int64),
        ("window_numbers", ctypes.c_void_p),
        ("line", ctypes.c_void_p),
        ("weight_panels", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
    )


def supports(line: Tensor, weights: Tensor, bias: Tensor | None) -> bool:
    """Return whether the kernel exists and takes these tensors: float32, filters in whole SIMD vectors."""
    native = library.get_library()
    return (
        native is not None
        and native.lanes >= 8
        and weights.shape[1] % native.lanes == 0
        and all(t is None or t.dtype == torch.float32 for t in (line, weights, bias))
        and library.can_access_memory(line, weights, bias)
    )


def convolve_line(
    line: Tensor, weights: Tensor, bias: Tensor | None, num_windows: int, window_stride: int, window_numbers: Tensor | None
) -> Tensor:
    """Multiply windows of a line of numbers with weights.

    Args:
        line: The numbers; a window is a run of `len(weights)` of them.
        weights: The weights, `(window_size, filters)`.
        bias: Added to each product, `(filters,)`.
        num_windows: How many windows there are.
        window_stride: How many numbers a window begins after the one before it.
        window_numbers: Compute only the windows with these numbers, `(m,)`; None for all.

    Returns:
        The products, `(num_windows or m, filters)`.

    Raises:
        ShapeError: If a window is not in the line.
    """
    native = library.require_library()
    _check_windows(line, weights.shape[0], num_windows, window_stride, window_numbers)
    count = num_windows if window_numbers is None else len(window_numbers)
    out = line.new_empty(count, weights.shape[1])
    line, weight_panels = line.contiguous(), library.pack_weight_panels(weights, native.lanes)
    bias = None if bias is None else bias.contiguous()
    window_numbers = None if window_numbers is None else window_numbers.contiguous()
    args = _ConvArgs(
        window_size=weights.shape[0],
        window_stride=window_stride,
        filters=weights.shape[1],
        window_numbers=None if window_numbers is None else window_numbers.data_ptr(),
        line=line.data_ptr(),
        weight_panels=weight_panels.data_ptr(),
        bias=None if bias is None else bias.data_ptr(),
        out=out.data_ptr(),
    )
    native.run(native.conv, count, ctypes.byref(args))
    return out


def _check_windows(
    line: Tensor, window_size: int, num_windows: int, window_stride: int, window_numbers: Tensor | None
) -> None:
    """Raise `ShapeError` if a window would be before or after the numbers of the line."""
    first, last = 0, num_windows - 1
    if window_numbers is not None and len(window_numbers):
        first, last = (int(number) for number in window_numbers.aminmax())
    is_empty = last < 0 or window_numbers is not None and not len(window_numbers)
    if not is_empty and (first < 0 or last >= num_windows or last * window_stride + window_size > line.numel()):
        raise ShapeError(
            f"The windows {first} to {last} of {window_size} numbers each, one after {window_stride} numbers, must be "
            f"among the {num_windows} windows of a line of {line.numel()} numbers. Was an index changed after it was made?"
        )
