"""Slide windows over time: convolutions and pooling, on grids and on packed steps.

The functions on grids are the reference: every step of their grid is real. Packed steps use the same functions. The
spans of all rows are put one after another on one *line*. Gaps are blank, and between two rows there are as many
blank steps as a window reaches. One call computes all windows of the line. So the cost is the length of the spans,
whatever the width of the grid, and the result does not depend on where a span begins.

`plan.py` computes where each step is on the line, and which windows are outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from padless.kernels.conv import taps
from padless.ragged.device import to_device
from padless.ragged.gather import gather_rows, scatter_rows
from padless.ragged.index import Index, Ints

Steps = TypeVar("Steps", int, Ints)
"""A number of steps, or an array of such numbers."""


@dataclass(frozen=True)
class Window:
    """The steps that one output sees. The methods take the length of a span, or an array of lengths.

    Args:
        size: The number of steps.
        stride: How many steps a window begins after the one before it.
        dilation: The distance between two steps of a window.
        padding: Keras's "valid", "same" or "causal".

    >>> Window(3, stride=2).num_outputs(7), Window(3, stride=2, padding="same").num_outputs(7), Window(3).num_outputs(2)
    (3, 4, 0)
    """

    size: int
    stride: int = 1
    dilation: int = 1
    padding: Literal["valid", "same", "causal"] = "valid"

    @property
    def extent(self) -> int:
        """Return the number of steps from the first to the last one that a window sees."""
        return (self.size - 1) * self.dilation + 1

    def num_outputs(self, steps: Steps) -> Steps:
        """Return how many outputs a span has."""
        if self.padding == "valid":
            return _at_least_zero((steps - self.extent) // self.stride + 1)
        return -(-steps // self.stride)

    def left_padding(self, steps: Steps) -> Steps:
        """Return how many zeros are before the first step of a span."""
        if self.padding == "same":
            return _at_least_zero((self.num_outputs(steps) - 1) * self.stride + self.extent - steps) // 2
        return steps * 0 + (self.extent - 1 if self.padding == "causal" else 0)

    @property
    def keeps_mask(self) -> bool:
        """Return whether each step has one output, so that the mask stays the same."""
        return self.stride == 1 and (self.padding != "valid" or self.extent == 1)


@dataclass(frozen=True)
class TransposedWindow:
    """The outputs that see one step, in a transposed convolution. The methods take the length of a span, or an array.

    Args:
        size: The number of outputs that see a step.
        stride: How many outputs later the first one of the next step is.
        dilation: The distance between two outputs of a step.
        padding: Keras's "valid" or "same".
        output_padding: Keras's `output_padding`.

    >>> TransposedWindow(3, stride=2).num_outputs(2), TransposedWindow(3, stride=2, padding="same").num_outputs(2)
    (5, 4)
    >>> TransposedWindow(3).num_outputs(0)
    0
    """

    size: int
    stride: int = 1
    dilation: int = 1
    padding: Literal["valid", "same"] = "valid"
    output_padding: int | None = None

    @property
    def extent(self) -> int:
        """Return the number of outputs from the first to the last one that sees a step."""
        return (self.size - 1) * self.dilation + 1

    @property
    def _extra_outputs(self) -> int:
        """Return how many outputs there are in addition to `steps * stride`."""
        if self.output_padding is None:
            return 0 if self.padding == "same" else max(self.extent - self.stride, 0)
        return (self.extent % 2 if self.padding == "same" else self.extent) + self.output_padding - self.stride

    def num_outputs(self, steps: Steps) -> Steps:
        """Return how many outputs a span has; an empty one has none."""
        return _at_least_zero(steps * self.stride + self._extra_outputs) * (steps > 0)

    @property
    def left_crop(self) -> int:
        """Return how many of the outputs that see the first step are left out at the start."""
        if self.padding == "valid":
            return 0
        extra = self.stride if self.output_padding is None else self.extent % 2 + self.output_padding
        total = self.extent - 2 + extra
        return max(self.extent - 1 - (total + 1) // 2, 0)

    @property
    def keeps_mask(self) -> bool:
        """Return whether each step has one output, so that the mask stays the same."""
        return self.stride == 1 and self._extra_outputs == 0


def _at_least_zero(number: Steps) -> Steps:
    """Return 0 for negative numbers."""
    return number * (number > 0)


# ------------------------------------------------------------------------------------------------ on grids


def _to_images(grid: Shaped[Tensor, "rows steps channels"]) -> Shaped[Tensor, "rows channels 1 steps"]:
    """View the grid as channels-last images of height 1, the format for which torch's convolution is fast."""
    # An axis of size 1 may have any stride in a contiguous tensor. A view of the flat numbers has the usual strides.
    return grid.contiguous().view(-1).view(grid.shape).unsqueeze(1).permute(0, 3, 1, 2)


def _to_image_weight(kernel: Shaped[Tensor, "size part filters"]) -> Shaped[Tensor, "filters part 1 size"]:
    """Return the kernel as the weight of a convolution of images, channels-last like the images.

    Torch gives the gradient of the weight the format that the strides of the weight suggest. If this is not the format
    of the images, torch's convolution without oneDNN has no backward pass.
    """
    return _to_images(kernel.permute(2, 0, 1))


def _from_images(images: Shaped[Tensor, "rows channels 1 steps"]) -> Shaped[Tensor, "rows steps channels"]:
    """Undo `_to_images`."""
    return images.squeeze(2).transpose(1, 2)


def pad_for_windows(
    grid: Shaped[Tensor, "rows steps channels"], window: Window, blank: int | float = 0
) -> Shaped[Tensor, "rows more channels"]:
    """Return the grid with the padding of `window`, and as long as one window at least."""
    steps = grid.shape[1]
    left = window.left_padding(steps)
    last_window = max(window.num_outputs(steps), 1) - 1
    right = max(last_window * window.stride + window.extent - left - steps, 0)
    return functional.pad(grid, (0, 0, left, right), value=blank) if left or right else grid


def valid_conv(
    grid: Float[Tensor, "rows steps channels"],
    window: Window,
    kernel: Float[Tensor, "size part filters"],
    bias: Float[Tensor, " filters"] | None,
    groups: int,
    window_numbers: Int[Tensor, " chosen"] | None = None,
) -> Float[Tensor, "rows windows filters"]:
    """Return the product of the kernel with every window that is inside the grid, without padding.

    Args:
        grid: The steps.
        window: Size, stride and dilation; its padding is not used.
        kernel: The weights; with groups each filter sees `part` of the channels.
        bias: Added to each output.
        groups: The number of groups of channels.
        window_numbers: Return only the windows with these numbers, for a grid of one row.
    """
    if len(grid) == 1 and taps.supports(grid, kernel, groups):
        num_windows = (grid.shape[1] - window.extent) // window.stride + 1
        strides = (window.stride, window.dilation)
        return taps.conv_by_taps(grid[0], kernel, num_windows, strides, bias, window_numbers)[None]
    if window_numbers is not None:
        return gather_rows(valid_conv(grid, window, kernel, bias, groups)[0], window_numbers)[None]
    weight = _to_image_weight(kernel)
    stride, dilation = (1, window.stride), (1, window.dilation)
    return _from_images(functional.conv2d(_to_images(grid), weight, bias, stride, 0, dilation, groups))


def valid_conv_transpose(
    grid: Float[Tensor, "rows steps channels"],
    window: TransposedWindow,
    kernel: Float[Tensor, "size filters channels"],
    bias: Float[Tensor, " filters"] | None,
) -> Float[Tensor, "rows outputs filters"]:
    """Return the transposed convolution of the grid, without cropping."""
    if len(grid) == 1 and taps.supports(grid, kernel, 1):
        size = (grid.shape[1] - 1) * window.stride + window.extent
        line = taps.conv_transpose_by_taps(grid[0], kernel, size, (window.stride, window.dilation))
        return (line if bias is None else line + bias)[None]
    weight = _to_image_weight(kernel)
    stride, dilation = (1, window.stride), (1, window.dilation)
    return _from_images(functional.conv_transpose2d(_to_images(grid), weight, bias, stride, 0, 0, 1, dilation))


def valid_max_pool(grid: Shaped[Tensor, "rows steps channels"], window: Window) -> Shaped[Tensor, "rows windows channels"]:
    """Return the maximum of every window that is inside the grid."""
    return _from_images(functional.max_pool2d(_to_images(grid), (1, window.size), (1, window.stride)))


def valid_sum_pool(grid: Float[Tensor, "rows steps channels"], window: Window) -> Float[Tensor, "rows windows channels"]:
    """Return the sum of every window that is inside the grid."""
    images = _to_images(grid)
    return _from_images(functional.avg_pool2d(images, (1, window.size), (1, window.stride), divisor_override=1))


def conv1d(
    grid: Float[Tensor, "rows steps channels"],
    window: Window,
    kernel: Float[Tensor, "size part filters"],
    bias: Float[Tensor, " filters"] | None = None,
    groups: int = 1,
) -> Float[Tensor, "rows outputs filters"]:
    """Return Keras's convolution of a grid on which every step is real; no output where it is shorter than a window."""
    outputs = valid_conv(pad_for_windows(grid, window), window, kernel, bias, groups)
    return outputs.narrow(1, 0, window.num_outputs(grid.shape[1]))


def conv1d_transpose(
    grid: Float[Tensor, "rows steps channels"],
    window: TransposedWindow,
    kernel: Float[Tensor, "size filters channels"],
    bias: Float[Tensor, " filters"] | None = None,
) -> Float[Tensor, "rows outputs filters"]:
    """Return Keras's transposed convolution of a grid on which every step is real."""
    steps = grid.shape[1]
    num_outputs = window.num_outputs(steps)
    outputs_after_first_step = max(window.left_crop + num_outputs - window.extent, 0)
    steps_needed = -(-outputs_after_first_step // window.stride) + 1
    grid = functional.pad(grid, (0, 0, 0, max(steps_needed - steps, 0)))
    return valid_conv_transpose(grid, window, kernel, bias).narrow(1, window.left_crop, num_outputs)


def max_pool1d(grid: Shaped[Tensor, "rows steps channels"], window: Window) -> Shaped[Tensor, "rows outputs channels"]:
    """Return the maximum of each window over a grid on which every step is real."""
    padded = pad_for_windows(grid, window, lowest_value(grid.dtype))
    return valid_max_pool(padded, window).narrow(1, 0, window.num_outputs(grid.shape[1]))


def average_pool1d(grid: Float[Tensor, "rows steps channels"], window: Window) -> Float[Tensor, "rows outputs channels"]:
    """Return the mean of each window over a grid on which every step is real; padding does not count."""
    num_outputs = window.num_outputs(grid.shape[1])
    ones = grid.new_ones((1, grid.shape[1], 1))
    num_steps = valid_sum_pool(pad_for_windows(ones, window), window).narrow(1, 0, num_outputs)
    return valid_sum_pool(pad_for_windows(grid, window), window).narrow(1, 0, num_outputs) / num_steps


def lowest_value(dtype: torch.dtype) -> int | float:
    """Return the lowest number of a dtype."""
    return -float("inf") if dtype.is_floating_point else torch.iinfo(dtype).min


# ------------------------------------------------------------------------------------------------ on packed steps


@dataclass(frozen=True)
class WindowLayout:
    """Where the packed steps of an index are on a line, and which windows of the line are outputs.

    Args:
        line_positions: The position of each packed step on the line, `(N,)`.
        line_length: The length of the line.
        window_numbers: The windows of the line that are outputs, `(M,)`.
        num_real_steps: How many real steps each of these windows sees, `(M,)`.
        output_index: The index of the outputs; None if each step has one output.
    """

    line_positions: Ints
    line_length: int
    window_numbers: Ints
    num_real_steps: Ints
    output_index: Index | None
    _on_device: dict[tuple[str, torch.device], Tensor] = field(default_factory=dict)

    def index_of_outputs(self, index: Index) -> Index:
        """Return the index of the outputs, given the index of the steps."""
        return index if self.output_index is None else self.output_index

    def tensor(self, name: Literal["line_positions", "window_numbers", "num_real_steps"], device: torch.device) -> Tensor:
        """Return one of the arrays as a tensor on a device, copied there once."""
        if (name, device) not in self._on_device:
            self._on_device[name, device] = to_device(getattr(self, name), device)
        return self._on_device[name, device]

    def to_line(
        self, values: Shaped[Tensor, "n channels"], blank: int | float = 0
    ) -> Shaped[Tensor, "1 line_length channels"]:
        """Put packed steps on the line; the other positions are `blank`."""
        positions = self.tensor("line_positions", values.device)
        if blank == 0:
            return scatter_rows(values, positions, self.line_length)[None]
        return values.new_full((self.line_length, values.shape[1]), blank).index_copy(0, positions, values)[None]

    def select_outputs(self, windows: Shaped[Tensor, "1 windows channels"]) -> Shaped[Tensor, "m channels"]:
        """Gather the outputs from all windows of the line."""
        return gather_rows(windows[0], self.tensor("window_numbers", windows.device))


def packed_conv1d(
    values: Float[Tensor, "n channels"],
    layout: WindowLayout,
    window: Window,
    kernel: Float[Tensor, "size part filters"],
    bias: Float[Tensor, " filters"] | None = None,
    groups: int = 1,
) -> Float[Tensor, "m filters"]:
    """Compute `conv1d` of each span; a gap is 0."""
    line, window_numbers = layout.to_line(values), layout.tensor("window_numbers", values.device)
    return valid_conv(line, window, kernel, bias, groups, window_numbers)[0]


def packed_conv1d_transpose(
    values: Float[Tensor, "n channels"],
    layout: WindowLayout,
    window: TransposedWindow,
    kernel: Float[Tensor, "size filters channels"],
    bias: Float[Tensor, " filters"] | None = None,
) -> Float[Tensor, "m filters"]:
    """Compute `conv1d_transpose` of each span; a gap is 0."""
    return layout.select_outputs(valid_conv_transpose(layout.to_line(values), window, kernel, bias))


def packed_max_pool1d(
    values: Shaped[Tensor, "n channels"], layout: WindowLayout, window: Window
) -> Shaped[Tensor, "m channels"]:
    """Compute `max_pool1d` of each span; a gap does not count."""
    return layout.select_outputs(valid_max_pool(layout.to_line(values, lowest_value(values.dtype)), window))


def packed_average_pool1d(
    values: Float[Tensor, "n channels"], layout: WindowLayout, window: Window
) -> Float[Tensor, "m channels"]:
    """Compute `average_pool1d` of each span; a gap does not count."""
    sums = layout.select_outputs(valid_sum_pool(layout.to_line(values), window))
    return sums / layout.tensor("num_real_steps", values.device)[:, None].to(values.dtype)
