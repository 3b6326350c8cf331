"""The cells of `scan.py` with a backward written by hand, for the activations that everybody uses.

Autograd over a step at a time allocates and copies at every step. Here a step is one product and a handful of in-place
operations on views cut beforehand, and the gradients of weights and inputs are products over many steps at once.

A backward works with slopes: the gradient of a gate before its activation is a slope known from the forward times the
gradient that arrives. The slopes of a stretch are computed at once, and multiplied in place as the gradient comes by.

Where the gradient itself shall have a gradient (`create_graph=True`), it is taken through the reference instead.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from padless.kernels.double_backward import with_double_backward
from padless.kernels.recurrent.reference import REFERENCE
from padless.kernels.recurrent.time_major import TimeChunk, TimeMajorPlan, WeightGradients
from padless.ragged.index import Index

sigmoid_slope = torch.ops.aten.sigmoid_backward.grad_input  # (a, s, grad_input=out): a * s * (1 - s)
tanh_slope = torch.ops.aten.tanh_backward.grad_input  # (a, t, grad_input=out): a * (1 - t * t)


def lstm(
    index: Index,
    reverse: bool,
    activation: Callable[..., Any],
    recurrent_activation: Callable[..., Any],
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    masks: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`scan.lstm` with tanh and sigmoid."""
    walk = TimeMajorPlan.build(index, values, reverse)
    if _needs_grad(values, kernel, recurrent, bias, h0, c0):
        again = functools.partial(REFERENCE["lstm"], index, reverse, activation, recurrent_activation, masks=None)
        return _LSTM.apply(values, kernel, recurrent, bias, h0, c0, walk, again)  # pyright: ignore[reportReturnType]
    _, h, c = _run_lstm(values, kernel, recurrent, bias, h0, c0, walk, keep=False)
    return (*walk.results(h), c.index_select(0, walk.inverse_rows))


def _run_lstm(
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    walk: TimeMajorPlan,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Activated gates, h and c; without `keep` the gates are those of one stretch and c only the last."""
    units = h0.shape[1]
    gates = _buffer(values, walk, 4 * units, keep)
    h, c = walk.states(h0), walk.states(c0) if keep else c0.index_select(0, walk.rows)
    for stretch in walk.chunks:
        z = gates[stretch.steps] if keep else gates[: stretch.stop - stretch.start]
        _project(values, walk, stretch, kernel, bias, z)
        cells = (stretch.before(c), stretch.split(c[stretch.after])) if keep else (stretch.alive(c),) * 2
        views = zip(
            stretch.split(z),
            stretch.split(z[:, : 2 * units]),
            *map(stretch.split, z.split(units, 1)),
            *cells,
            stretch.before(h),
            stretch.split(h[stretch.after]),
            strict=True,
        )
        for z_t, if_t, i_t, f_t, g_t, o_t, c_before, c_t, h_before, h_t in views:
            z_t.addmm_(h_before, recurrent)
            if_t.sigmoid_()
            g_t.tanh_()
            o_t.sigmoid_()
            torch.mul(f_t, c_before, out=c_t)
            c_t.addcmul_(i_t, g_t)
            torch.tanh(c_t, out=h_t)
            h_t.mul_(o_t)
    return gates, h, c


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        kernel: Tensor,
        recurrent: Tensor,
        bias: Tensor | None,
        h0: Tensor,
        c0: Tensor,
        walk: TimeMajorPlan,
        again: Callable[..., Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        gates, h, c = _run_lstm(values, kernel, recurrent, bias, h0, c0, walk, keep=True)
        ctx.save_for_backward(values, kernel, recurrent, bias, h0, c0, gates, h, c)
        ctx.walk, ctx.again, ctx.given = walk, again, 6
        ctx.set_materialize_grads(False)
        return (*walk.results(h), c.index_select(0, walk.last))

    @staticmethod
    @with_double_backward
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        values, kernel, recurrent, _, _, _, gates, h, c = ctx.saved_tensors
        walk, units, need = ctx.walk, h.shape[1], ctx.needs_input_grad
        with torch.autocast(values.device.type, enabled=False):
            dh = walk.incoming_gradients(grads[0], grads[1], h)
            dc = torch.zeros_like(c[: len(walk.rows)]) if grads[2] is None else grads[2].index_select(0, walk.rows)
            found, back = WeightGradients(need, walk, values, kernel, recurrent), recurrent.t().contiguous()
            for stretch in reversed(walk.chunks):
                i, f, g, o = gates[stretch.steps].split(units, 1)
                squashed = c[stretch.after].tanh()
                before = walk.before[stretch.steps]
                dz = torch.empty_like(gates[stretch.steps])  # first the slopes, then in place the gradients
                di, df, dg, do = dz.split(units, 1)
                sigmoid_slope(g, i, grad_input=di)
                sigmoid_slope(c.index_select(0, before), f, grad_input=df)
                tanh_slope(i, g, grad_input=dg)
                sigmoid_slope(squashed, o, grad_input=do)
                of_c = tanh_slope(o, squashed, grad_input=squashed)
                views = zip(
                    stretch.split(dz),
                    stretch.split(dz[:, : 3 * units].unflatten(1, (3, units))),
                    stretch.split(do),
                    stretch.split(dh[stretch.after]),
                    stretch.before(dh),
                    stretch.alive(dc),
                    stretch.alive(dc[:, None]),
                    stretch.split(of_c),
                    stretch.split(f),
                    strict=True,
                )
                for dz_t, difg_t, do_t, dh_t, dh_before, dc_t, dc_wide, of_c_t, f_t in reversed(list(views)):
                    dc_t.addcmul_(dh_t, of_c_t)
                    do_t.mul_(dh_t)
                    difg_t.mul_(dc_wide)
                    dc_t.mul_(f_t)
                    dh_before.addmm_(dz_t, back)
                found.add(stretch, dz, dz, h.index_select(0, before))
            return (
                found.values,
                found.kernel,
                found.recurrent,
                found.bias,
                dh.index_select(0, walk.inverse_rows) if need[4] else None,
                dc.index_select(0, walk.inverse_rows) if need[5] else None,
                None,
                None,
            )


def gru(
    index: Index,
    reverse: bool,
    activation: Callable[..., Any],
    recurrent_activation: Callable[..., Any],
    reset_after: bool,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    masks: None,
) -> tuple[Tensor, Tensor]:
    """`scan.gru` with tanh, sigmoid and `reset_after`."""
    walk = TimeMajorPlan.build(index, values, reverse)
    turned = recurrent.roll(h0.shape[1], 1)  # columns h, z, r
    if _needs_grad(values, kernel, recurrent, bias, h0):

        def again(values: Tensor, kernel: Tensor, turned: Tensor, *others: Tensor | None) -> Any:
            return REFERENCE["gru"](
                index,
                reverse,
                activation,
                recurrent_activation,
                True,
                values,
                kernel,
                turned.roll(-h0.shape[1], 1),
                *others,
                None,
            )

        return _GRU.apply(values, kernel, turned, bias, h0, walk, again)  # pyright: ignore[reportReturnType]
    return walk.results(_run_gru(values, kernel, turned, bias, h0, walk, keep=False)[1])


def _run_gru(
    values: Tensor, kernel: Tensor, turned: Tensor, bias: Tensor | None, h0: Tensor, walk: TimeMajorPlan, keep: bool
) -> tuple[Tensor, Tensor]:
    """Gates and h; without `keep` the gates are those of one stretch.

    The gates are the candidate's inner product m, z, r, candidate a: so those that see the state are neighbours, and
    those that see the input are too, in Keras's order.
    """
    units = h0.shape[1]
    gates, h = _buffer(values, walk, 4 * units, keep), walk.states(h0)
    of_inputs = bias if bias is None else torch.cat([bias[:, : 2 * units].sum(0), bias[0, 2 * units :]])
    for stretch in walk.chunks:
        block = gates[stretch.steps] if keep else gates[: stretch.stop - stretch.start]
        _project(values, walk, stretch, kernel, of_inputs, block[:, units:])
        block[:, :units] = 0 if bias is None else bias[1, 2 * units :]
        views = zip(
            stretch.split(block[:, : 3 * units]),
            stretch.split(block[:, units : 3 * units]),
            *map(stretch.split, block.split(units, 1)),
            stretch.before(h),
            stretch.split(h[stretch.after]),
            strict=True,
        )
        for mzr_t, zr_t, m_t, z_t, r_t, a_t, h_before, h_t in views:
            mzr_t.addmm_(h_before, turned)
            zr_t.sigmoid_()
            a_t.addcmul_(r_t, m_t).tanh_()
            torch.lerp(a_t, h_before, z_t, out=h_t)
    return gates, h


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        kernel: Tensor,
        turned: Tensor,
        bias: Tensor | None,
        h0: Tensor,
        walk: TimeMajorPlan,
        again: Callable[..., Any],
    ) -> tuple[Tensor, Tensor]:
        gates, h = _run_gru(values, kernel, turned, bias, h0, walk, keep=True)
        ctx.save_for_backward(values, kernel, turned, bias, h0, gates, h)
        ctx.walk, ctx.again, ctx.given = walk, again, 5
        ctx.set_materialize_grads(False)
        return walk.results(h)

    @staticmethod
    @with_double_backward
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        values, kernel, turned, _, _, gates, h = ctx.saved_tensors
        walk, units, need = ctx.walk, h.shape[1], ctx.needs_input_grad
        with torch.autocast(values.device.type, enabled=False):
            dh = walk.incoming_gradients(grads[0], grads[1], h)
            found, back = WeightGradients(need, walk, values, kernel, turned), turned.t().contiguous()
            for stretch in reversed(walk.chunks):
                m, z, r, a = gates[stretch.steps].split(units, 1)
                h_before = h.index_select(0, walk.before[stretch.steps])
                slopes = torch.empty_like(gates[stretch.steps])  # in place they become the gradients
                dm, dz, dr, da = slopes.split(units, 1)
                tanh_slope(1 - z, a, grad_input=da)
                sigmoid_slope(m, r, grad_input=dr).mul_(da)
                torch.mul(da, r, out=dm)
                sigmoid_slope(h_before - a, z, grad_input=dz)
                of_states, arrived = slopes[:, : 3 * units], dh[stretch.after]
                views = zip(
                    stretch.split(slopes.unflatten(1, (4, units))),
                    stretch.split(of_states),
                    stretch.split(z),
                    stretch.split(arrived),
                    stretch.split(arrived[:, None]),
                    stretch.before(dh),
                    strict=True,
                )
                for slopes_t, of_states_t, z_t, dh_t, dh_wide, dh_before in reversed(list(views)):
                    slopes_t.mul_(dh_wide)
                    dh_before.addcmul_(dh_t, z_t)
                    dh_before.addmm_(of_states_t, back)
                found.add(stretch, slopes[:, units:], of_states, h_before)
            biases = None
            if found.bias is not None and found.state_bias is not None:
                biases = torch.stack([found.bias, found.state_bias.roll(-units)])
            return (
                found.values,
                found.kernel,
                found.recurrent,
                biases,
                dh.index_select(0, walk.inverse_rows) if need[4] else None,
                None,
                None,
            )


def simple_rnn(
    index: Index,
    reverse: bool,
    activation: Callable[..., Any],
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    masks: None,
) -> tuple[Tensor, Tensor]:
    """`scan.simple_rnn` with tanh or relu."""
    walk, relu = TimeMajorPlan.build(index, values, reverse), activation is torch.relu
    if _needs_grad(values, kernel, recurrent, bias, h0):
        again = functools.partial(REFERENCE["simple_rnn"], index, reverse, activation, masks=None)
        made = _SimpleRNN.apply(values, kernel, recurrent, bias, h0, walk, relu, again)
        return made  # pyright: ignore[reportReturnType]
    return walk.results(_run_simple_rnn(values, kernel, recurrent, bias, h0, walk, relu))


def _run_simple_rnn(
    values: Tensor, kernel: Tensor, recurrent: Tensor, bias: Tensor | None, h0: Tensor, walk: TimeMajorPlan, relu: bool
) -> Tensor:
    """The states, computed where they are kept."""
    h, activate = walk.states(h0), Tensor.relu_ if relu else Tensor.tanh_
    for stretch in walk.chunks:
        _project(values, walk, stretch, kernel, bias, h[stretch.after])
        for h_before, h_t in zip(stretch.before(h), stretch.split(h[stretch.after]), strict=True):
            activate(h_t.addmm_(h_before, recurrent))
    return h


class _SimpleRNN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        kernel: Tensor,
        recurrent: Tensor,
        bias: Tensor | None,
        h0: Tensor,
        walk: TimeMajorPlan,
        relu: bool,
        again: Callable[..., Any],
    ) -> tuple[Tensor, Tensor]:
        h = _run_simple_rnn(values, kernel, recurrent, bias, h0, walk, relu)
        ctx.save_for_backward(values, kernel, recurrent, bias, h0, h)
        ctx.walk, ctx.relu, ctx.again, ctx.given = walk, relu, again, 5
        ctx.set_materialize_grads(False)
        return walk.results(h)

    @staticmethod
    @with_double_backward
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        values, kernel, recurrent, _, _, h = ctx.saved_tensors
        walk, need = ctx.walk, ctx.needs_input_grad
        with torch.autocast(values.device.type, enabled=False):
            dh = walk.incoming_gradients(grads[0], grads[1], h)
            found, back = WeightGradients(need, walk, values, kernel, recurrent), recurrent.t().contiguous()
            for stretch in reversed(walk.chunks):
                states, dz = h[stretch.after], dh[stretch.after]  # what arrives turns in place into the gradient
                slopes = (states > 0).to(h.dtype) if ctx.relu else 1 - states * states
                views = zip(stretch.split(dz), stretch.split(slopes), stretch.before(dh), strict=True)
                for dz_t, slopes_t, dh_before in reversed(list(views)):
                    dz_t.mul_(slopes_t)
                    dh_before.addmm_(dz_t, back)
                found.add(stretch, dz, dz, h.index_select(0, walk.before[stretch.steps]))
            return (
                found.values,
                found.kernel,
                found.recurrent,
                found.bias,
                dh.index_select(0, walk.inverse_rows) if need[4] else None,
                None,
                None,
                None,
            )


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _buffer(values: Tensor, walk: TimeMajorPlan, columns: int, keep: bool) -> Tensor:
    """Room for the gates of all steps, or of the longest stretch."""
    longest = max((stretch.stop - stretch.start for stretch in walk.chunks), default=0)
    return values.new_empty((len(walk.to_time_major) if keep else longest, columns))


def _project(
    values: Tensor, walk: TimeMajorPlan, stretch: TimeChunk, kernel: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    """The product of a stretch's inputs with the kernel, one for all its steps."""
    x = values.index_select(0, walk.to_time_major[stretch.steps])
    _ = torch.mm(x, kernel, out=out) if bias is None else torch.addmm(bias, x, kernel, out=out)
