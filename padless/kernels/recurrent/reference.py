"""Recurrent cells over packed steps in plain torch: the reference of all faster paths."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from padless.ragged.gather import permute_rows
from padless.ragged.index import Index

Activation: TypeAlias = Callable[[Tensor], Tensor]

States: TypeAlias = tuple[Tensor, ...]
"""The states of some sequences, each `(b, ...)`."""

Step: TypeAlias = Callable[[Tensor, States, Tensor], tuple[Tensor, States]]
"""A cell: inputs `(b, ...)`, states and rows of the batch to outputs `(b, ...)` and new states."""


def scan(
    values: Shaped[Tensor, "n *features"], index: Index, step: Step, states: States, *, reverse: bool = False
) -> tuple[Shaped[Tensor, "n *outputs"], States]:
    """Run any cell over the packed steps.

    Args:
        values: The inputs of all real steps.
        index: The real steps.
        step: Called once for each time. It gets the inputs of the sequences that have a step at this time, their
            states, and their rows in the batch. It returns their outputs and new states. If no sequence has a step, it is
            called once with no rows, for the shape of an output.
        states: The initial states of all rows, each `(B, ...)`.
        reverse: Whether each sequence runs from its last step to its first.

    Returns:
        The outputs in packed order, and the last state of each row.

    >>> index = Index.from_lengths(torch.tensor([2, 0, 1]).numpy())
    >>> total = lambda x, states, rows: (states[0] + x, (states[0] + x,))
    >>> scan(torch.tensor([1., 2., 5.]), index, total, (torch.zeros(3),))
    (tensor([1., 3., 5.]), (tensor([3., 0., 5.]),))
    """
    order = index.time_major_order(values.device, reverse)
    if not order.batch_sizes:
        outputs, new_states = step(values, tuple(state[:0] for state in states), order.rows[:0])
        # The sum over no rows is 0. It makes a loss on the states of an empty batch differentiable.
        last = (s + new.sum(0) if new.requires_grad else s for s, new in zip(states, new_states, strict=True))
        return outputs, tuple(last)
    if values.is_meta:  # all times have the same shapes, and a shape needs no loop
        rows = order.rows[: order.batch_sizes[0]]
        output, new_states = step(values[: len(rows)], tuple(state[: len(rows)] for state in states), rows)
        last = (state.new_empty((index.shape[0], *state.shape[1:])) for state in new_states)
        return output.new_empty((index.num_steps, *output.shape[1:])), tuple(last)
    states = tuple(state.index_select(0, order.rows) for state in states)
    outputs, final_states, num_rows = [], [], index.shape[0]
    for x in permute_rows(values, order.to_time_major, order.to_packed).split(order.batch_sizes):
        num_alive = x.shape[0]
        if num_alive < num_rows:  # rows are sorted by length, so the last ones have ended
            final_states.append(tuple(state[num_alive:] for state in states))
            states, num_rows = tuple(state[:num_alive] for state in states), num_alive
        output, states = step(x, states, order.rows[:num_alive])
        outputs.append(output)
    final_states.append(states)
    last = tuple(torch.cat(parts[::-1]).index_select(0, order.inverse_rows) for parts in zip(*final_states, strict=True))
    return permute_rows(torch.cat(outputs), order.to_packed, order.to_time_major), last


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
    recurrent_masks: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run Keras's LSTM; see `api.lstm`."""

    def step(z: Tensor, states: States, rows: Tensor) -> tuple[Tensor, States]:
        h, c = states
        i, f, g, o = (z + _state_product(h, recurrent, recurrent_masks, rows)).chunk(4, 1)
        c = recurrent_activation(f) * c + recurrent_activation(i) * activation(g)
        h = recurrent_activation(o) * activation(c)
        return h, (h, c)

    outputs, (h, c) = scan(_add_bias(values @ kernel, bias), index, step, (h0, c0), reverse=reverse)
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
    recurrent_masks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run Keras's GRU; see `api.gru`."""
    input_bias, state_bias = (bias[0], bias[1]) if bias is not None and reset_after else (bias, None)
    gates = 2 * h0.shape[1]  # the columns of the gates z and r

    def step(x: Tensor, states: States, rows: Tensor) -> tuple[Tensor, States]:
        (h,) = states
        if reset_after:
            inner = _add_bias(_state_product(h, recurrent, recurrent_masks, rows), state_bias)
            z, r = recurrent_activation(x[:, :gates] + inner[:, :gates]).chunk(2, 1)
            candidate = activation(x[:, gates:] + r * inner[:, gates:])
        else:
            gate_masks = None if recurrent_masks is None else recurrent_masks[:2]
            inner = _state_product(h, recurrent[:, :gates], gate_masks, rows)
            z, r = recurrent_activation(x[:, :gates] + inner).chunk(2, 1)
            masked = h if recurrent_masks is None else h * recurrent_masks[2, rows]
            candidate = activation(x[:, gates:] + (r * masked) @ recurrent[:, gates:])
        h = z * h + (1 - z) * candidate
        return h, (h,)

    outputs, (h,) = scan(_add_bias(values @ kernel, input_bias), index, step, (h0,), reverse=reverse)
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
    recurrent_masks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run Keras's SimpleRNN; see `api.simple_rnn`."""

    def step(x: Tensor, states: States, rows: Tensor) -> tuple[Tensor, States]:
        h = activation(x + _state_product(states[0], recurrent, recurrent_masks, rows))
        return h, (h,)

    outputs, (h,) = scan(_add_bias(values @ kernel, bias), index, step, (h0,), reverse=reverse)
    return outputs, h


def _state_product(
    h: Float[Tensor, "b units"],
    recurrent: Float[Tensor, "units columns"],
    masks: Float[Tensor, "gates batch units"] | None,
    rows: Int[Tensor, " b"],
) -> Float[Tensor, "b columns"]:
    """Return the product of the state with the recurrent kernel; with masks, each gate gets the state times its mask."""
    if masks is None:
        return h @ recurrent
    gates = zip(masks, recurrent.chunk(len(masks), 1), strict=True)
    return torch.cat([(h * mask[rows]) @ columns for mask, columns in gates], 1)


def _add_bias(product: Tensor, bias: Tensor | None) -> Tensor:
    """Add a bias if there is one."""
    return product if bias is None else product + bias
