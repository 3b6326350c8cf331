"""The order of a hand-written scan over packed steps, and the sums that its backward pass collects.

All steps are in time-major order in a few buffers. A state buffer is `(B + N, U)`: the initial states of the sorted
rows, then the state after each step. So the state before a step is found in the same way for the first step as for
any other.

The scan is cut into chunks of about a thousand packed steps. What is computed for a chunk stays in the cache, and the next
chunk uses the same memory again. New memory would be slow, because the first access to a page costs as much as the
arithmetic on it.
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

CHUNK_STEPS = 1024  # packed steps; 512 to 2048 are equally fast


@dataclass(frozen=True)
class TimeChunk:
    """The packed steps `[start, stop)` in time-major order, all steps of some consecutive times.

    Args:
        num_rows: The number of rows of the batch.
        start: The first time-major step.
        stop: The time-major step after the last one.
        rows_before: How many rows have a step at the time before the first one; all rows before the first chunk.
        sizes: For each time how many rows have a step.
    """

    num_rows: int
    start: int
    stop: int
    rows_before: int
    sizes: tuple[int, ...]

    @property
    def steps(self) -> slice:
        """Return the rows of this chunk in a buffer of time-major steps."""
        return slice(self.start, self.stop)

    @property
    def states_after(self) -> slice:
        """Return the rows of this chunk in a state buffer: the state after each step."""
        return slice(self.num_rows + self.start, self.num_rows + self.stop)

    def split(self, steps: Float[Tensor, "n *rest"]) -> tuple[Tensor, ...]:
        """Split the steps of this chunk into one view for each time."""
        return steps.split(self.sizes)

    def states_before(self, states: Float[Tensor, "b_plus_n units"]) -> tuple[Tensor, ...]:
        """Return for each time a view of a state buffer: the states before this time, of the rows that have a step."""
        rows_before = (self.rows_before, *self.sizes[:-1])
        first = self.num_rows + self.start - self.rows_before
        # The states before a time are those of all rows with a step then. Some rows end there: skip their states.
        sections = chain.from_iterable((size, rows - size) for size, rows in zip(self.sizes, rows_before, strict=True))
        return states[first : first + sum(rows_before)].split(tuple(sections))[::2]

    def alive_rows(self, rows: Float[Tensor, "b *rest"]) -> list[Tensor]:
        """Return for each time a view of the sorted rows that have a step."""
        return [rows.narrow(0, 0, size) for size in self.sizes]


@dataclass(frozen=True)
class TimeMajorPlan:
    """The time-major order of an index, and where the states are in state buffers.

    Args:
        to_time_major: The packed step of each time-major step, as in `TimeMajorOrder`.
        to_packed: The time-major step of each packed step.
        rows: The rows of the batch, longest sequence first.
        inverse_rows: The position of each row of the batch in `rows`.
        state_before: The position of the state before each time-major step.
        last_state: The position of the last state of each row, in the order of the batch.
        chunks: The chunks of the scan.
    """

    to_time_major: Int[Tensor, " n"]
    to_packed: Int[Tensor, " n"]
    rows: Int[Tensor, " b"]
    inverse_rows: Int[Tensor, " b"]
    state_before: Int[Tensor, " n"]
    last_state: Int[Tensor, " b"]
    chunks: tuple[TimeChunk, ...]

    @staticmethod
    def build(index: Index, values: Tensor, reverse: bool) -> "TimeMajorPlan":
        """Return the plan for an index, with tensors on the device of `values` and chunks for its dtype.

        Args:
            index: The real steps.
            values: The packed values.
            reverse: Whether each sequence runs from its last step to its first.
        """
        order, num_rows, device = index.time_major_order(values.device, reverse), index.shape[0], values.device
        # The state of the same row, one time before: as many positions earlier as there are rows at that time.
        rows_before = np.array((num_rows, *order.batch_sizes)[:-1], dtype=np.int64)
        state_before = np.arange(index.num_steps) + num_rows - np.repeat(rows_before, order.batch_sizes)
        # A sequence of n steps has its last state in the part of time n - 1, an empty one in the initial states.
        start_of_last_time = np.array((0, *(num_rows + start for start in order.batch_starts[:-1])), dtype=np.int64)
        last_state = to_device(start_of_last_time[index.lengths], device) + order.inverse_rows
        # Half precision would round the sums once for each chunk, and a GPU has launches to save but no such cache.
        use_chunks = device.type == "cpu" and values.dtype in (torch.float32, torch.float64)
        chunk_steps = CHUNK_STEPS if use_chunks else index.num_steps
        return TimeMajorPlan(
            order.to_time_major,
            order.to_packed,
            order.rows,
            order.inverse_rows,
            to_device(state_before, device),
            last_state,
            _cut_into_chunks(num_rows, order.batch_sizes, order.batch_starts, chunk_steps),
        )

    @property
    def num_steps(self) -> int:
        """Return the number of packed steps."""
        return len(self.to_time_major)

    def state_buffer(self, initial: Float[Tensor, "b units"]) -> Float[Tensor, "b_plus_n units"]:
        """Return a new state buffer that begins with the initial states."""
        num_rows = len(self.rows)
        buffer = initial.new_empty((num_rows + self.num_steps, initial.shape[1]))
        torch.index_select(initial, 0, self.rows, out=buffer[:num_rows])
        return buffer

    def results(self, h: Float[Tensor, "b_plus_n units"]) -> tuple[Float[Tensor, "n units"], Float[Tensor, "b units"]]:
        """Return the outputs in packed order and the last states in the order of the batch, from a state buffer."""
        return h[len(self.rows) :].index_select(0, self.to_packed), h.index_select(0, self.last_state)

    def incoming_gradients(
        self, outputs: Float[Tensor, "n units"] | None, last: Float[Tensor, "b units"] | None, like: Tensor
    ) -> Float[Tensor, "b_plus_n units"]:
        """Return a new state buffer with the gradients of the results.

        Args:
            outputs: The gradient of the outputs, None if they were not used.
            last: The gradient of the last states, None if they were not used.
            like: A state buffer.
        """
        num_rows = len(self.rows)
        if outputs is None:
            buffer = torch.zeros_like(like)
        else:
            buffer = torch.empty_like(like)
            buffer[:num_rows].zero_()
            torch.index_select(outputs, 0, self.to_time_major, out=buffer[num_rows:])
        return buffer if last is None else buffer.index_add_(0, self.last_state, last)

    def initial_gradients(self, buffer: Float[Tensor, "b_plus_n units"]) -> Float[Tensor, "b units"]:
        """Return the gradients of the initial states, in the order of the batch, from a buffer of sorted rows."""
        return buffer.index_select(0, self.inverse_rows)


def _cut_into_chunks(
    num_rows: int, sizes: tuple[int, ...], starts: tuple[int, ...], chunk_steps: int
) -> tuple[TimeChunk, ...]:
    """Cut the times into chunks of `chunk_steps` packed steps or more; the last one may be shorter.

    Args:
        num_rows: The number of rows of the batch.
        sizes: For each time how many rows have a step.
        starts: The first time-major step of each time, and the number of steps.
        chunk_steps: The least number of packed steps of a chunk.
    """
    first_times = [0]
    for time, start in enumerate(starts):
        if start - starts[first_times[-1]] >= chunk_steps or time == len(sizes):
            first_times.append(time)
    rows_before = (num_rows, *sizes)
    return tuple(
        TimeChunk(num_rows, starts[first], starts[end], rows_before[first], sizes[first:end])
        for first, end in zip(first_times, first_times[1:], strict=False)
        if first < end
    )


class WeightGradients:
    """Collect the gradients of inputs, kernel, recurrent kernel and bias: one product each for a chunk.

    Args:
        needs_grad: Which of values, kernel, recurrent kernel and bias need a gradient.
        plan: The order of the steps.
        values: The inputs.
        kernel: The kernel.
        recurrent: The recurrent kernel.
    """

    def __init__(
        self, needs_grad: Sequence[bool], plan: TimeMajorPlan, values: Tensor, kernel: Tensor, recurrent: Tensor
    ) -> None:
        self._plan, self._inputs, self._weight = plan, values, kernel
        needs_values, needs_kernel, needs_recurrent, needs_bias = needs_grad[:4]
        contiguous = torch.contiguous_format
        self.values = torch.empty_like(values, memory_format=contiguous) if needs_values else None
        self.kernel = torch.zeros_like(kernel, memory_format=contiguous) if needs_kernel else None
        self.recurrent = torch.zeros_like(recurrent, memory_format=contiguous) if needs_recurrent else None
        self.bias = kernel.new_zeros(kernel.shape[1]) if needs_bias else None
        self.state_bias = self.bias if self.bias is None else torch.zeros_like(self.bias)

    def add(self, chunk: TimeChunk, input_product_grads: Tensor, state_product_grads: Tensor, h_before: Tensor) -> None:
        """Add the gradients of a chunk.

        Args:
            chunk: The chunk.
            input_product_grads: The gradients of the product of inputs and kernel, `(n, columns)`.
            state_product_grads: The gradients of the product of states and recurrent kernel, `(n, columns)`.
            h_before: The state before each step, `(n, U)`.
        """
        steps = self._plan.to_time_major[chunk.steps]
        if self.values is not None:
            self.values.index_copy_(0, steps, input_product_grads @ self._weight.t())
        if self.kernel is not None:
            self.kernel.addmm_(self._inputs.index_select(0, steps).t(), input_product_grads)
        if self.recurrent is not None:
            self.recurrent.addmm_(h_before.t(), state_product_grads)
        if self.bias is not None and self.state_bias is not None:
            self.bias += input_product_grads.sum(0)
            if state_product_grads is not input_product_grads:
                self.state_bias += state_product_grads.sum(0)
