"""Recurrent cells over packed steps in plain torch: the reference for all faster paths."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from padless.ragged.gather import permute_rows
from padless.ragged.index import Index

Activation = Callable[[Tensor], Tensor]


States = tuple[Tensor, ...]


Step = Callable[[Tensor, States, Tensor], tuple[Tensor, States]]


def scan(
    values: Shaped[Tensor, "n *features"], index: Index, step: Step, states: States, *, reverse: bool = False
) -> tuple[Shaped[Tensor, "n *outputs"], States]:
    """Any cell over the packed steps: outputs in packed order and the last states.

    `step(x, states, rows)` gets the inputs `(b, ...)` of the b sequences alive at this time, their states, each
    `(b, ...)`, and which rows of the batch they are; it returns their outputs and new states. Over no steps at all it
    is called once, with no rows, to know the shape of an output.

    >>> index = Index.from_lengths(torch.tensor([2, 0, 1]).numpy())
    >>> total = lambda x, states, rows: (states[0] + x, (states[0] + x,))
    >>> scan(torch.tensor([1., 2., 5.]), index, total, (torch.zeros(3),))
    (tensor([1., 3., 5.]), (tensor([3., 0., 5.]),))
    """
    order = index.time_major_order(values.device, reverse)
    if not order.batch_sizes:
        outputs, after = step(values, tuple(state[:0] for state in states), order.rows[:0])
        # plus nothing, which is 0: so a loss on the states of an empty batch has a gradient, of zeros
        return outputs, tuple(s + a.sum(0) if a.requires_grad else s for s, a in zip(states, after, strict=True))
    states = tuple(state.index_select(0, order.rows) for state in states)
    outputs, ended, width = [], [], index.shape[0]
    for x in permute_rows(values, order.to_time_major, order.to_packed).split(order.batch_sizes):
        alive = x.shape[0]
        if alive < width:
            ended.append(tuple(state[alive:] for state in states))
            states, width = tuple(state[:alive] for state in states), alive
        out, states = step(x, states, order.rows[:alive])
        outputs.append(out)
    ended.append(states)
    last = tuple(torch.cat(parts[::-1]).index_select(0, order.inverse_rows) for parts in zip(*ended, strict=True))
    return permute_rows(torch.cat(outputs), order.to_packed, order.to_time_major), last


def _lstm_reference(
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
    masks: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    def step(z: Tensor, states: States, rows: Tensor) -> tuple[Tensor, States]:
        h, c = states
        i, f, g, o = (z + _of_state(h, recurrent, masks, rows)).chunk(4, 1)
        c = recurrent_activation(f) * c + recurrent_activation(i) * activation(g)
        h = recurrent_activation(o) * activation(c)
        return h, (h, c)

    outputs, (h, c) = scan(_plus(values @ kernel, bias), index, step, (h0, c0), reverse=reverse)
    return outputs, h, c


def _gru_reference(
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
    masks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    of_inputs, of_states = (bias[0], bias[1]) if bias is not None and reset_after else (bias, None)
    both = 2 * h0.shape[1]  # the columns of the gates z and r

    def step(x: Tensor, states: States, rows: Tensor) -> tuple[Tensor, States]:
        (h,) = states
        if reset_after:
            inner = _plus(_of_state(h, recurrent, masks, rows), of_states)
            z, r = recurrent_activation(x[:, :both] + inner[:, :both]).chunk(2, 1)
            candidate = activation(x[:, both:] + r * inner[:, both:])
        else:
            inner = _of_state(h, recurrent[:, :both], None if masks is None else masks[:2], rows)
            z, r = recurrent_activation(x[:, :both] + inner).chunk(2, 1)
            masked = h if masks is None else h * masks[2, rows]
            candidate = activation(x[:, both:] + (r * masked) @ recurrent[:, both:])
        h = z * h + (1 - z) * candidate
        return h, (h,)

    outputs, (h,) = scan(_plus(values @ kernel, of_inputs), index, step, (h0,), reverse=reverse)
    return outputs, h


def _simple_rnn_reference(
    index: Index,
    reverse: bool,
    activation: Activation,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    masks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    def step(x: Tensor, states: States, rows: Tensor) -> tuple[Tensor, States]:
        h = activation(x + _of_state(states[0], recurrent, masks, rows))
        return h, (h,)

    outputs, (h,) = scan(_plus(values @ kernel, bias), index, step, (h0,), reverse=reverse)
    return outputs, h


def _of_state(
    h: Float[Tensor, "b units"],
    recurrent: Float[Tensor, "units columns"],
    masks: Float[Tensor, "parts batch units"] | None,
    rows: Int[Tensor, " b"],
) -> Float[Tensor, "b columns"]:
    """The recurrent product; with masks each part of the columns sees the state through its own."""
    if masks is None:
        return h @ recurrent
    parts = zip(masks, recurrent.chunk(len(masks), 1), strict=True)
    return torch.cat([(h * mask[rows]) @ part for mask, part in parts], 1)


def _plus(product: Tensor, bias: Tensor | None) -> Tensor:
    return product if bias is None else product + bias


REFERENCE: dict[str, Callable[..., Any]] = {
    "lstm": _lstm_reference,
    "gru": _gru_reference,
    "simple_rnn": _simple_rnn_reference,
}
