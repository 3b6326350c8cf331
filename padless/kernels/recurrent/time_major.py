"""The way of a hand-written scan through the packed steps, and what its backward gathers on the way back.

All steps stand in time-major order in a few buffers. State buffers are `(B + N, U)`: the initial states of the sorted
rows, then the state after each step, so that "the state before" is the same expression for the first step as for any
other. The way is cut into stretches of about a thousand packed steps, so that what is computed for one stays in the
cache, and the next one reuses its memory: first touches of fresh pages cost as much as the arithmetic on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from padless.ragged.device import to_device
from padless.ragged.index import Index

CHUNK_STEPS = 1024  # packed steps; 512 to 2048 measure alike


@dataclass(frozen=True)
class TimeChunk:
    """Consecutive times: the packed steps `[start, stop)`, with `sizes` rows alive at each time and `width` before."""

    batch: int
    start: int
    stop: int
    width: int
    sizes: tuple[int, ...]

    @property
    def steps(self) -> slice:
        """Its rows among the time-major steps."""
        return slice(self.start, self.stop)

    @property
    def after(self) -> slice:
        """Its rows in a state buffer: the state after each step."""
        return slice(self.batch + self.start, self.batch + self.stop)

    def split(self, steps: Float[Tensor, "n *rest"]) -> tuple[Tensor, ...]:
        """The rows of this stretch as one view per time."""
        return steps.split(self.sizes)

    def before(self, states: Float[Tensor, "b_plus_n units"]) -> tuple[Tensor, ...]:
        """For each time the view on the states before it, of the rows that are alive at it."""
        widths = (self.width, *self.sizes[:-1])
        first = self.batch + self.start - self.width
        cuts = chain.from_iterable((size, width - size) for size, width in zip(self.sizes, widths, strict=True))
        return states[first : first + sum(widths)].split(tuple(cuts))[::2]

    def alive(self, rows: Float[Tensor, "b *rest"]) -> list[Tensor]:
        """For each time the view on the sorted rows that are alive at it."""
        return [rows.narrow(0, 0, size) for size in self.sizes]


@dataclass(frozen=True)
class TimeMajorPlan:
    """The whole way: `take`, `back`, `rows`, `rank` are those of `Order`; the others point into state buffers.

    `before[n]` is where the state before the time-major step n stands, `last[b]` where row b, in the order of the
    batch, leaves its last one.
    """

    to_time_major: Int[Tensor, " n"]
    to_packed: Int[Tensor, " n"]
    rows: Int[Tensor, " b"]
    inverse_rows: Int[Tensor, " b"]
    before: Int[Tensor, " n"]
    last: Int[Tensor, " b"]
    chunks: tuple[TimeChunk, ...]

    @staticmethod
    def build(index: Index, values: Tensor, reverse: bool) -> "TimeMajorPlan":
        """The walk of an index, forwards or from each sequence's last step to its first, for values like these."""
        order, batch, device = index.time_major_order(values.device, reverse), index.shape[0], values.device
        widths = (batch, *order.batch_sizes)
        before = np.arange(index.num_steps) + batch - np.repeat(np.array(widths[:-1], dtype=np.int64), order.batch_sizes)
        ends = np.array((0, *(batch + start for start in order.batch_starts[:-1])), dtype=np.int64)[index.lengths]
        # Half-precision sums are rounded once per stretch, and a device with launches to save has no such cache.
        cached = device.type == "cpu" and values.dtype in (torch.float32, torch.float64)
        return TimeMajorPlan(
            order.to_time_major,
            order.to_packed,
            order.rows,
            order.inverse_rows,
            to_device(before, device),
            to_device(ends, device) + order.inverse_rows,
            _cut(batch, order.batch_sizes, order.batch_starts, CHUNK_STEPS if cached else index.num_steps),
        )

    def states(self, initial: Float[Tensor, "b units"]) -> Float[Tensor, "b_plus_n units"]:
        """A state buffer that begins with the initial states."""
        batch = len(self.rows)
        buffer = initial.new_empty((batch + len(self.to_time_major), initial.shape[1]))
        torch.index_select(initial, 0, self.rows, out=buffer[:batch])
        return buffer

    def results(self, h: Float[Tensor, "b_plus_n units"]) -> tuple[Float[Tensor, "n units"], Float[Tensor, "b units"]]:
        """Outputs in packed order and last states in the order of the batch, from a state buffer."""
        return h[len(self.rows) :].index_select(0, self.to_packed), h.index_select(0, self.last)

    def incoming_gradients(
        self, outputs: Float[Tensor, "n units"] | None, last: Float[Tensor, "b units"] | None, like: Tensor
    ) -> Float[Tensor, "b_plus_n units"]:
        """The gradients that come from the results (None where nobody used them), in a state buffer of their own."""
        batch = len(self.rows)
        if outputs is None:
            buffer = torch.zeros_like(like)
        else:
            buffer = torch.empty_like(like)
            buffer[:batch].zero_()
            torch.index_select(outputs, 0, self.to_time_major, out=buffer[batch:])
        return buffer if last is None else buffer.index_add_(0, self.last, last)


def _cut(batch: int, sizes: tuple[int, ...], starts: tuple[int, ...], steps: int) -> tuple[TimeChunk, ...]:
    """Stretches of whole times with at least so many packed steps each, but for the last."""
    cuts = [0]
    for time, start in enumerate(starts):
        if start - starts[cuts[-1]] >= steps or time == len(sizes):
            cuts.append(time)
    widths = (batch, *sizes)
    return tuple(
        TimeChunk(batch, starts[a], starts[b], widths[a], sizes[a:b]) for a, b in zip(cuts, cuts[1:], strict=False) if a < b
    )


class WeightGradients:
    """The gradients of inputs, kernel, recurrent kernel and bias: one product each per stretch, where needed.

    `of_inputs` and `of_states` are the gradients of the two products of a cell, before its activations.
    """

    def __init__(self, need: Sequence[bool], walk: TimeMajorPlan, values: Tensor, kernel: Tensor, recurrent: Tensor) -> None:
        self.walk, self.x, self.weight = walk, values, kernel
        self.values = torch.empty_like(values, memory_format=torch.contiguous_format) if need[0] else None
        self.kernel = torch.zeros_like(kernel, memory_format=torch.contiguous_format) if need[1] else None
        self.recurrent = torch.zeros_like(recurrent, memory_format=torch.contiguous_format) if need[2] else None
        self.bias = kernel.new_zeros(kernel.shape[1]) if need[3] else None
        self.state_bias = self.bias if self.bias is None else torch.zeros_like(self.bias)

    def add(self, stretch: TimeChunk, of_inputs: Tensor, of_states: Tensor, h_before: Tensor) -> None:
        """Take in one stretch."""
        take = self.walk.to_time_major[stretch.steps]
        if self.values is not None:
            self.values.index_copy_(0, take, of_inputs @ self.weight.t())
        if self.kernel is not None:
            self.kernel.addmm_(self.x.index_select(0, take).t(), of_inputs)
        if self.recurrent is not None:
            self.recurrent.addmm_(h_before.t(), of_states)
        if self.bias is not None and self.state_bias is not None:
            self.bias += of_inputs.sum(0)
            if of_states is not of_inputs:
                self.state_bias += of_states.sum(0)
