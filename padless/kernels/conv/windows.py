"""Windows over time: convolutions, pooling, cropping, padding.

The reference is a window over a grid on which every step is real. Packed steps take the same way: the spans of all rows
are laid one after another on one *line*, holes and as many steps between two rows as a window reaches left blank, and
one reference call runs over the line. What it costs is the length of the spans, however wide the grid; and its numbers
do not know where on the grid a span stood.

Where each step lies on the line and which window gives which output is planned on the host (spans.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from padless.kernels.conv import taps
from padless.ragged.device import to_device
from padless.ragged.gather import gather_rows, scatter_rows
from padless.ragged.index import Index, Ints


@dataclass(frozen=True)
class Window:
    """What an output step sees: `size` steps, `dilation` apart, moved by `stride`; `padding` is Keras's.

    The methods take the length of a span, a number or an array of them.

    >>> Window(3, stride=2).count(7), Window(3, stride=2, padding="same").count(7), Window(3).count(2)
    (3, 4, 0)
    """

    size: int
    stride: int = 1
    dilation: int = 1
    padding: Literal["valid", "same", "causal"] = "valid"

    @property
    def reach(self) -> int:
        """From the first to the last step that it sees."""
        return (self.size - 1) * self.dilation + 1

    def count(self, steps: Any) -> Any:
        """How many outputs there are."""
        if self.padding == "valid":
            return _clipped((steps - self.reach) // self.stride + 1)
        return -(-steps // self.stride)

    def before(self, steps: Any) -> Any:
        """How many zeros stand before the first step."""
        if self.padding == "same":
            return _clipped((self.count(steps) - 1) * self.stride + self.reach - steps) // 2
        return steps * 0 + (self.reach - 1 if self.padding == "causal" else 0)

    @property
    def keeps(self) -> bool:
        """Whether each step has an output of its own, so that the mask stays."""
        return self.stride == 1 and (self.padding != "valid" or self.reach == 1)


@dataclass(frozen=True)
class TransposedWindow:
    """A transposed window: every step is seen by `size` outputs, and the outputs of the next one begin `stride` later.

    >>> TransposedWindow(3, stride=2).count(2), TransposedWindow(3, stride=2, padding="same").count(2)
    (5, 4)
    >>> TransposedWindow(3).count(0)
    0
    """

    size: int
    stride: int = 1
    dilation: int = 1
    padding: Literal["valid", "same"] = "valid"
    output_padding: int | None = None

    @property
    def reach(self) -> int:
        """From the first to the last output that one step gives to."""
        return (self.size - 1) * self.dilation + 1

    @property
    def _more(self) -> int:
        """How many outputs there are beyond `steps * stride`."""
        if self.output_padding is None:
            return 0 if self.padding == "same" else max(self.reach - self.stride, 0)
        return (self.reach % 2 if self.padding == "same" else self.reach) + self.output_padding - self.stride

    def count(self, steps: Any) -> Any:
        """How many outputs there are; none for no step."""
        return _clipped(steps * self.stride + self._more) * (steps > 0)

    @property
    def cropped(self) -> int:
        """How many of the outputs that the first step gives to are left out at the start."""
        if self.padding == "valid":
            return 0
        total = self.reach - 2 + (self.stride if self.output_padding is None else self.reach % 2 + self.output_padding)
        return max(self.reach - 1 - (total + 1) // 2, 0)

    @property
    def keeps(self) -> bool:
        """Whether each step has an output of its own, so that the mask stays."""
        return self.stride == 1 and self._more == 0


def _clipped(number: Any) -> Any:
    """0 for what is below it; for a number or an array."""
    return number * (number > 0)


# ------------------------------------------------------------------------------------------------ on grids


def _images(grid: Shaped[Tensor, "rows steps channels"]) -> Shaped[Tensor, "rows channels 1 steps"]:
    """The grid as an image one pixel high, its memory as it is: torch calls this channels-last, and is fast on it."""
    return grid.transpose(1, 2).unsqueeze(2)


def _steps(images: Shaped[Tensor, "rows channels 1 steps"]) -> Shaped[Tensor, "rows steps channels"]:
    return images.squeeze(2).transpose(1, 2)


def padded(
    grid: Shaped[Tensor, "rows steps channels"], window: Window, blank: int | float = 0
) -> Shaped[Tensor, "rows more channels"]:
    """The grid with what `window` pads it with; at least as long as one window."""
    steps = grid.shape[1]
    left = window.before(steps)
    right = max((max(window.count(steps), 1) - 1) * window.stride + window.reach - left - steps, 0)
    return functional.pad(grid, (0, 0, left, right), value=blank) if left or right else grid


def conv(
    grid: Float[Tensor, "rows steps channels"],
    window: Window,
    kernel: Float[Tensor, "size part filters"],
    bias: Float[Tensor, " filters"] | None,
    groups: int,
    chosen: Int[Tensor, " chosen"] | None = None,
) -> Float[Tensor, "rows windows filters"]:
    """The product of the kernel with every window that lies on the grid, no padding added; or with the `chosen` ones."""
    if len(grid) == 1 and taps.usable(grid, kernel, groups):
        count = (grid.shape[1] - window.reach) // window.stride + 1
        return taps.windows(grid[0], kernel, count, (window.stride, window.dilation), bias, chosen)[None]
    if chosen is not None:
        return gather_rows(conv(grid, window, kernel, bias, groups)[0], chosen)[None]
    weight = kernel.permute(2, 1, 0).unsqueeze(2)
    return _steps(functional.conv2d(_images(grid), weight, bias, (1, window.stride), 0, (1, window.dilation), groups))


def conv_transpose(
    grid: Float[Tensor, "rows steps channels"],
    stretch: TransposedWindow,
    kernel: Float[Tensor, "size filters channels"],
    bias: Float[Tensor, " filters"] | None,
) -> Float[Tensor, "rows outputs filters"]:
    """Every step times the kernel, added up `stride` apart, nothing cropped."""
    if len(grid) == 1 and taps.usable(grid, kernel, 1):
        size = (grid.shape[1] - 1) * stretch.stride + stretch.reach
        line = taps.spread(grid[0], kernel, size, (stretch.stride, stretch.dilation))
        return (line if bias is None else line + bias)[None]
    weight = kernel.permute(2, 1, 0).unsqueeze(2)
    images = functional.conv_transpose2d(_images(grid), weight, bias, (1, stretch.stride), 0, 0, 1, (1, stretch.dilation))
    return _steps(images)


def max_pool(grid: Shaped[Tensor, "rows steps channels"], window: Window) -> Shaped[Tensor, "rows windows channels"]:
    """The maximum of every window that lies on the grid."""
    return _steps(functional.max_pool2d(_images(grid), (1, window.size), (1, window.stride)))


def sum_pool(grid: Float[Tensor, "rows steps channels"], window: Window) -> Float[Tensor, "rows windows channels"]:
    """The sum of every window that lies on the grid."""
    return _steps(functional.avg_pool2d(_images(grid), (1, window.size), (1, window.stride), divisor_override=1))


def convolve(
    grid: Float[Tensor, "rows steps channels"],
    window: Window,
    kernel: Float[Tensor, "size part filters"],
    bias: Float[Tensor, " filters"] | None = None,
    groups: int = 1,
) -> Float[Tensor, "rows outputs filters"]:
    """Keras's convolution of a grid on which every step is real; nothing where it is shorter than a window."""
    outputs = conv(padded(grid, window), window, kernel, bias, groups)
    return outputs.narrow(1, 0, window.count(grid.shape[1]))


def transpose(
    grid: Float[Tensor, "rows steps channels"],
    stretch: TransposedWindow,
    kernel: Float[Tensor, "size filters channels"],
    bias: Float[Tensor, " filters"] | None = None,
) -> Float[Tensor, "rows outputs filters"]:
    """Keras's transposed convolution of a grid on which every step is real."""
    steps = grid.shape[1]
    count = stretch.count(steps)
    wanted = max(stretch.cropped + count - stretch.reach, 0)  # beyond what the first step gives to
    grid = functional.pad(grid, (0, 0, 0, max(-(-wanted // stretch.stride) + 1 - steps, 0)))
    return conv_transpose(grid, stretch, kernel, bias).narrow(1, stretch.cropped, count)


def maximum(grid: Shaped[Tensor, "rows steps channels"], window: Window) -> Shaped[Tensor, "rows outputs channels"]:
    """The maximum over what each window sees of a grid on which every step is real."""
    return max_pool(padded(grid, window, lowest(grid.dtype)), window).narrow(1, 0, window.count(grid.shape[1]))


def average(grid: Float[Tensor, "rows steps channels"], window: Window) -> Float[Tensor, "rows outputs channels"]:
    """The mean over what each window sees of a grid on which every step is real; padding does not count."""
    count = window.count(grid.shape[1])
    seen = sum_pool(padded(grid.new_ones((1, grid.shape[1], 1)), window), window).narrow(1, 0, count)
    return sum_pool(padded(grid, window), window).narrow(1, 0, count) / seen


def lowest(dtype: torch.dtype) -> int | float:
    """What no number is below."""
    return -float("inf") if dtype.is_floating_point else torch.iinfo(dtype).min


# ------------------------------------------------------------------------------------------------ on packed steps


@dataclass(frozen=True)
class WindowLayout:
    """Where the steps of an index lie on a line, and which windows of the line are its outputs.

    `places` `(N,)` are the steps' places, `size` is the length of the line; `chosen` `(M,)` are the windows of the M
    outputs, `seen` `(M,)` how many real steps each sees. `index` is the outputs'; None stands for the steps' own.
    """

    places: Ints
    size: int
    chosen: Ints
    seen: Ints
    index: Index | None
    _device: dict[tuple[str, torch.device], Tensor] = field(default_factory=dict)

    def tensor(self, name: Literal["places", "chosen", "seen"], device: torch.device) -> Tensor:
        """One of the arrays on a device, copied there once."""
        if (name, device) not in self._device:
            self._device[name, device] = to_device(getattr(self, name), device)
        return self._device[name, device]

    def lay(self, values: Shaped[Tensor, "n channels"], blank: int | float = 0) -> Shaped[Tensor, "1 size channels"]:
        """The line: steps at their places, `blank` elsewhere."""
        places = self.tensor("places", values.device)
        if blank == 0:
            return scatter_rows(values, places, self.size)[None]
        return values.new_full((self.size, values.shape[1]), blank).index_copy(0, places, values)[None]

    def pick(self, windows: Shaped[Tensor, "1 windows channels"]) -> Shaped[Tensor, "m channels"]:
        """The outputs among all windows of the line."""
        return gather_rows(windows[0], self.tensor("chosen", windows.device))


def convolve_packed(
    values: Float[Tensor, "n channels"],
    plan: WindowLayout,
    window: Window,
    kernel: Float[Tensor, "size part filters"],
    bias: Float[Tensor, " filters"] | None = None,
    groups: int = 1,
) -> Float[Tensor, "m filters"]:
    """`convolve` of each span, holes as zeros."""
    return conv(plan.lay(values), window, kernel, bias, groups, plan.tensor("chosen", values.device))[0]


def transpose_packed(
    values: Float[Tensor, "n channels"],
    plan: WindowLayout,
    stretch: TransposedWindow,
    kernel: Float[Tensor, "size filters channels"],
    bias: Float[Tensor, " filters"] | None = None,
) -> Float[Tensor, "m filters"]:
    """`transpose` of each span, holes as zeros."""
    return plan.pick(conv_transpose(plan.lay(values), stretch, kernel, bias))


def maximum_packed(values: Shaped[Tensor, "n channels"], plan: WindowLayout, window: Window) -> Shaped[Tensor, "m channels"]:
    """`maximum` of each span, without the holes."""
    return plan.pick(max_pool(plan.lay(values, lowest(values.dtype)), window))


def average_packed(values: Float[Tensor, "n channels"], plan: WindowLayout, window: Window) -> Float[Tensor, "m channels"]:
    """`average` of each span, without the holes."""
    return plan.pick(sum_pool(plan.lay(values), window)) / plan.tensor("seen", values.device)[:, None].to(values.dtype)
