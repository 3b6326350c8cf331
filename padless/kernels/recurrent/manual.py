"""Recurrent cells in torch with a backward pass written by hand, for the standard activations.

Autograd allocates and copies at every time step. Here a step is one product and a few in-place operations on views that are
made in advance. The gradients of weights and inputs are products over many steps at once.

The gradient of a gate before its activation is the gradient of the state times a factor that is known from the
forward pass. The backward pass computes the factors of all steps of a chunk at once. Then it goes back in time and
multiplies them in place with the gradient of the state.
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from padless._torch_compat import FunctionContext, in_functional_transform
from padless.kernels.double_backward import Reference, with_double_backward
from padless.kernels.half_precision import compute_dtype
from padless.kernels.recurrent import reference
from padless.kernels.recurrent.reference import Activation
from padless.kernels.recurrent.time_major import TimeChunk, TimeMajorPlan, WeightGradients
from padless.ragged.index import Index

Gradients: TypeAlias = tuple[Tensor | None, ...]

DEVICES = ("cpu", "cuda")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input  # (grad, s, grad_input=out): grad * s * (1 - s)
tanh_backward = torch.ops.aten.tanh_backward.grad_input  # (grad, t, grad_input=out): grad * (1 - t * t)


def supports(values: Tensor, *others: Tensor | None) -> bool:
    """Return whether this path can compute a cell with these tensors."""
    return values.device.type in DEVICES and compute_dtype(values) in DTYPES and not in_functional_transform(values)


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
    recurrent_masks: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run Keras's LSTM with tanh and sigmoid; see `api.lstm`."""
    plan = TimeMajorPlan.build(index, values, reverse)
    if _needs_grad(values, kernel, recurrent, bias, h0, c0):
        reference_cell = functools.partial(
            reference.lstm, index, reverse, activation, recurrent_activation, recurrent_masks=None
        )
        return _LSTM.apply(plan, reference_cell, values, kernel, recurrent, bias, h0, c0)
    _, h, c = _run_lstm(plan, values, kernel, recurrent, bias, h0, c0, keep_all=False)
    return (*plan.results(h), c.index_select(0, plan.inverse_rows))


def _run_lstm(
    plan: TimeMajorPlan,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    keep_all: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return activated gates, h and c of all steps.

    Without `keep_all`, the gates are those of one chunk, and c is that of the last step of each sorted row.
    """
    units = h0.shape[1]
    gates, h = _gate_buffer(plan, values, 4 * units, keep_all), plan.state_buffer(h0)
    c = plan.state_buffer(c0) if keep_all else c0.index_select(0, plan.rows)
    for chunk in plan.chunks:
        z = gates[chunk.steps] if keep_all else gates[: chunk.stop - chunk.start]
        _project_inputs(plan, chunk, values, kernel, bias, out=z)
        if keep_all:
            c_before, c_after = chunk.states_before(c), chunk.split(c[chunk.states_after])
        else:
            c_before = c_after = chunk.alive_rows(c)  # updated in place
        steps = zip(
            chunk.split(z),
            chunk.split(z[:, : 2 * units]),
            *map(chunk.split, z.split(units, 1)),
            c_before,
            c_after,
            chunk.states_before(h),
            chunk.split(h[chunk.states_after]),
            strict=True,
        )
        for z_t, if_t, i_t, f_t, g_t, o_t, c_before_t, c_t, h_before_t, h_t in steps:
            z_t.addmm_(h_before_t, recurrent)
            if_t.sigmoid_()
            g_t.tanh_()
            o_t.sigmoid_()
            torch.mul(f_t, c_before_t, out=c_t)
            c_t.addcmul_(i_t, g_t)
            torch.tanh(c_t, out=h_t)
            h_t.mul_(o_t)
    return gates, h, c


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionContext,
        plan: TimeMajorPlan,
        reference_cell: Callable[..., tuple[Tensor, Tensor, Tensor]],
        values: Tensor,
        kernel: Tensor,
        recurrent: Tensor,
        bias: Tensor | None,
        h0: Tensor,
        c0: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gates, h, c = _run_lstm(plan, values, kernel, recurrent, bias, h0, c0, keep_all=True)
        ctx.save_for_backward(values, kernel, recurrent, bias, h0, c0, gates, h, c)
        ctx.plan, ctx.reference = plan, Reference(reference_cell, num_tensors=6)
        ctx.set_materialize_grads(False)
        return (*plan.results(h), c.index_select(0, plan.last_state))

    @staticmethod
    @with_double_backward
    def backward(ctx: FunctionContext, *grads: Tensor | None) -> Gradients:
        values, kernel, recurrent, _, _, _, gates, h, c = ctx.saved_tensors
        plan, units, needs_grad = ctx.plan, h.shape[1], ctx.needs_input_grad[2:]
        grad_outputs, grad_last_h, grad_last_c = grads
        with torch.autocast(values.device.type, enabled=False):
            dh = plan.incoming_gradients(grad_outputs, grad_last_h, h)
            if grad_last_c is None:
                dc = torch.zeros_like(c[: len(plan.rows)])
            else:
                dc = grad_last_c.index_select(0, plan.rows)
            weights = WeightGradients(needs_grad, plan, values, kernel, recurrent)
            recurrent_t = recurrent.t().contiguous()
            for chunk in reversed(plan.chunks):
                state_before = plan.state_before[chunk.steps]
                dz, factor_of_c = _lstm_factors(gates[chunk.steps], c.index_select(0, state_before), c[chunk.states_after])
                forget_gates, do = gates[chunk.steps, units : 2 * units], dz[:, 3 * units :]
                steps = zip(
                    chunk.split(dz),
                    chunk.split(dz[:, : 3 * units].unflatten(1, (3, units))),
                    chunk.split(do),
                    chunk.split(dh[chunk.states_after]),
                    chunk.states_before(dh),
                    chunk.alive_rows(dc),
                    chunk.alive_rows(dc[:, None]),
                    chunk.split(factor_of_c),
                    chunk.split(forget_gates),
                    strict=True,
                )
                for dz_t, difg_t, do_t, dh_t, dh_before_t, dc_t, dc_wide_t, factor_of_c_t, f_t in reversed(list(steps)):
                    dc_t.addcmul_(dh_t, factor_of_c_t)
                    do_t.mul_(dh_t)
                    difg_t.mul_(dc_wide_t)
                    dc_t.mul_(f_t)
                    dh_before_t.addmm_(dz_t, recurrent_t)
                weights.add(chunk, dz, dz, h.index_select(0, state_before))
            grad_h0 = plan.initial_gradients(dh) if needs_grad[4] else None
            grad_c0 = plan.initial_gradients(dc) if needs_grad[5] else None
            return None, None, weights.values, weights.kernel, weights.recurrent, weights.bias, grad_h0, grad_c0


def _lstm_factors(gates: Tensor, c_before: Tensor, c_after: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of an LSTM's gradients for some steps.

    Returns:
        For each gate before its activation the factor of the gradient of c (of h for the last gate, o), `(n, 4 * units)`.
        And the factor of the gradient of h in that of c, `(n, units)`.
    """
    units = c_after.shape[1]
    i, f, g, o = gates.split(units, 1)
    tanh_c = c_after.tanh()
    factors = torch.empty_like(gates)
    factor_i, factor_f, factor_g, factor_o = factors.split(units, 1)
    sigmoid_backward(g, i, grad_input=factor_i)
    sigmoid_backward(c_before, f, grad_input=factor_f)
    tanh_backward(i, g, grad_input=factor_g)
    sigmoid_backward(tanh_c, o, grad_input=factor_o)
    return factors, tanh_backward(o, tanh_c, grad_input=tanh_c)


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
    recurrent_masks: None,
) -> tuple[Tensor, Tensor]:
    """Run Keras's GRU with tanh, sigmoid and `reset_after`; see `api.gru`."""
    plan, units = TimeMajorPlan.build(index, values, reverse), h0.shape[1]
    recurrent_hzr = recurrent.roll(units, 1)  # gates h, z, r instead of z, r, h
    if _needs_grad(values, kernel, recurrent, bias, h0):

        def reference_cell(
            values: Tensor, kernel: Tensor, recurrent_hzr: Tensor, bias: Tensor | None, h0: Tensor
        ) -> tuple[Tensor, Tensor]:
            recurrent = recurrent_hzr.roll(-units, 1)
            return reference.gru(
                index, reverse, activation, recurrent_activation, True, values, kernel, recurrent, bias, h0, None
            )

        return _GRU.apply(plan, reference_cell, values, kernel, recurrent_hzr, bias, h0)
    return plan.results(_run_gru(plan, values, kernel, recurrent_hzr, bias, h0, keep_all=False)[1])


def _run_gru(
    plan: TimeMajorPlan,
    values: Tensor,
    kernel: Tensor,
    recurrent_hzr: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    keep_all: bool,
) -> tuple[Tensor, Tensor]:
    """Return gates and h of all steps; without `keep_all`, the gates are those of one chunk.

    The gates are m, z, r, a: the product m of state and recurrent kernel for the candidate, and the candidate a. So the
    gates that see the state are neighbours. Those that see the input are neighbours too, in Keras's order.
    """
    units = h0.shape[1]
    gates, h = _gate_buffer(plan, values, 4 * units, keep_all), plan.state_buffer(h0)
    input_bias = bias if bias is None else torch.cat([bias[:, : 2 * units].sum(0), bias[0, 2 * units :]])
    for chunk in plan.chunks:
        mzra = gates[chunk.steps] if keep_all else gates[: chunk.stop - chunk.start]
        _project_inputs(plan, chunk, values, kernel, input_bias, out=mzra[:, units:])
        mzra[:, :units] = 0 if bias is None else bias[1, 2 * units :]
        steps = zip(
            chunk.split(mzra[:, : 3 * units]),
            chunk.split(mzra[:, units : 3 * units]),
            *map(chunk.split, mzra.split(units, 1)),
            chunk.states_before(h),
            chunk.split(h[chunk.states_after]),
            strict=True,
        )
        for mzr_t, zr_t, m_t, z_t, r_t, a_t, h_before_t, h_t in steps:
            mzr_t.addmm_(h_before_t, recurrent_hzr)
            zr_t.sigmoid_()
            a_t.addcmul_(r_t, m_t).tanh_()
            torch.lerp(a_t, h_before_t, z_t, out=h_t)
    return gates, h


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionContext,
        plan: TimeMajorPlan,
        reference_cell: Callable[..., tuple[Tensor, Tensor]],
        values: Tensor,
        kernel: Tensor,
        recurrent_hzr: Tensor,
        bias: Tensor | None,
        h0: Tensor,
    ) -> tuple[Tensor, Tensor]:
        gates, h = _run_gru(plan, values, kernel, recurrent_hzr, bias, h0, keep_all=True)
        ctx.save_for_backward(values, kernel, recurrent_hzr, bias, h0, gates, h)
        ctx.plan, ctx.reference = plan, Reference(reference_cell, num_tensors=5)
        ctx.set_materialize_grads(False)
        return plan.results(h)

    @staticmethod
    @with_double_backward
    def backward(ctx: FunctionContext, *grads: Tensor | None) -> Gradients:
        values, kernel, recurrent_hzr, _, _, gates, h = ctx.saved_tensors
        plan, units, needs_grad = ctx.plan, h.shape[1], ctx.needs_input_grad[2:]
        grad_outputs, grad_last_h = grads
        with torch.autocast(values.device.type, enabled=False):
            dh = plan.incoming_gradients(grad_outputs, grad_last_h, h)
            weights = WeightGradients(needs_grad, plan, values, kernel, recurrent_hzr)
            recurrent_t = recurrent_hzr.t().contiguous()
            for chunk in reversed(plan.chunks):
                h_before = h.index_select(0, plan.state_before[chunk.steps])
                dmzra = _gru_factors(gates[chunk.steps], h_before)
                update_gates = gates[chunk.steps, units : 2 * units]
                dmzr, dh_chunk = dmzra[:, : 3 * units], dh[chunk.states_after]
                steps = zip(
                    chunk.split(dmzra.unflatten(1, (4, units))),
                    chunk.split(dmzr),
                    chunk.split(update_gates),
                    chunk.split(dh_chunk),
                    chunk.split(dh_chunk[:, None]),
                    chunk.states_before(dh),
                    strict=True,
                )
                for dmzra_t, dmzr_t, z_t, dh_t, dh_wide_t, dh_before_t in reversed(list(steps)):
                    dmzra_t.mul_(dh_wide_t)
                    dh_before_t.addcmul_(dh_t, z_t)
                    dh_before_t.addmm_(dmzr_t, recurrent_t)
                weights.add(chunk, dmzra[:, units:], dmzr, h_before)
            grad_bias = None
            if weights.bias is not None and weights.state_bias is not None:
                grad_bias = torch.stack([weights.bias, weights.state_bias.roll(-units)])
            grad_h0 = plan.initial_gradients(dh) if needs_grad[4] else None
            return None, None, weights.values, weights.kernel, weights.recurrent, grad_bias, grad_h0


def _gru_factors(gates: Tensor, h_before: Tensor) -> Tensor:
    """Return for each gate m, z, r, a before its activation the factor of the gradient of h, `(n, 4 * units)`."""
    units = h_before.shape[1]
    m, z, r, a = gates.split(units, 1)
    factors = torch.empty_like(gates)
    factor_m, factor_z, factor_r, factor_a = factors.split(units, 1)
    tanh_backward(1 - z, a, grad_input=factor_a)
    sigmoid_backward(m, r, grad_input=factor_r).mul_(factor_a)
    torch.mul(factor_a, r, out=factor_m)
    sigmoid_backward(h_before - a, z, grad_input=factor_z)
    return factors


def simple_rnn(
    index: Index,
    reverse: bool,
    activation: Activation,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    recurrent_masks: None,
) -> tuple[Tensor, Tensor]:
    """Run Keras's SimpleRNN with tanh or relu; see `api.simple_rnn`."""
    plan, relu = TimeMajorPlan.build(index, values, reverse), activation is torch.relu
    if _needs_grad(values, kernel, recurrent, bias, h0):
        reference_cell = functools.partial(reference.simple_rnn, index, reverse, activation, recurrent_masks=None)
        return _SimpleRNN.apply(plan, relu, reference_cell, values, kernel, recurrent, bias, h0)
    return plan.results(_run_simple_rnn(plan, relu, values, kernel, recurrent, bias, h0))


def _run_simple_rnn(
    plan: TimeMajorPlan,
    relu: bool,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
) -> Tensor:
    """Return the states of all steps."""
    h, activate_ = plan.state_buffer(h0), Tensor.relu_ if relu else Tensor.tanh_
    for chunk in plan.chunks:
        _project_inputs(plan, chunk, values, kernel, bias, out=h[chunk.states_after])
        for h_before_t, h_t in zip(chunk.states_before(h), chunk.split(h[chunk.states_after]), strict=True):
            activate_(h_t.addmm_(h_before_t, recurrent))
    return h


class _SimpleRNN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionContext,
        plan: TimeMajorPlan,
        relu: bool,
        reference_cell: Callable[..., tuple[Tensor, Tensor]],
        values: Tensor,
        kernel: Tensor,
        recurrent: Tensor,
        bias: Tensor | None,
        h0: Tensor,
    ) -> tuple[Tensor, Tensor]:
        h = _run_simple_rnn(plan, relu, values, kernel, recurrent, bias, h0)
        ctx.save_for_backward(values, kernel, recurrent, bias, h0, h)
        ctx.plan, ctx.relu, ctx.reference = plan, relu, Reference(reference_cell, num_tensors=5)
        ctx.set_materialize_grads(False)
        return plan.results(h)

    @staticmethod
    @with_double_backward
    def backward(ctx: FunctionContext, *grads: Tensor | None) -> Gradients:
        values, kernel, recurrent, _, _, h = ctx.saved_tensors
        plan, needs_grad = ctx.plan, ctx.needs_input_grad[3:]
        grad_outputs, grad_last_h = grads
        with torch.autocast(values.device.type, enabled=False):
            dh = plan.incoming_gradients(grad_outputs, grad_last_h, h)
            weights = WeightGradients(needs_grad, plan, values, kernel, recurrent)
            recurrent_t = recurrent.t().contiguous()
            for chunk in reversed(plan.chunks):
                states = h[chunk.states_after]
                factors = (states > 0).to(h.dtype) if ctx.relu else 1 - states * states
                dz = dh[chunk.states_after]  # in place: the gradient of a state becomes that before its activation
                steps = zip(chunk.split(dz), chunk.split(factors), chunk.states_before(dh), strict=True)
                for dz_t, factor_t, dh_before_t in reversed(list(steps)):
                    dz_t.mul_(factor_t)
                    dh_before_t.addmm_(dz_t, recurrent_t)
                weights.add(chunk, dz, dz, h.index_select(0, plan.state_before[chunk.steps]))
            grad_h0 = plan.initial_gradients(dh) if needs_grad[4] else None
            return None, None, None, weights.values, weights.kernel, weights.recurrent, weights.bias, grad_h0


def _needs_grad(*tensors: Tensor | None) -> bool:
    """Return whether autograd records operations on one of the tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _gate_buffer(plan: TimeMajorPlan, values: Tensor, columns: int, keep_all: bool) -> Tensor:
    """Return uninitialized memory for the gates of all steps, or without `keep_all` of the longest chunk."""
    longest = max((chunk.stop - chunk.start for chunk in plan.chunks), default=0)
    return values.new_empty((plan.num_steps if keep_all else longest, columns))


def _project_inputs(
    plan: TimeMajorPlan, chunk: TimeChunk, values: Tensor, kernel: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    """Write the product of the inputs of a chunk with the kernel, plus the bias, to `out`."""
    x = values.index_select(0, plan.to_time_major[chunk.steps])
    if bias is None:
        torch.mm(x, kernel, out=out)
    else:
        torch.addmm(bias, x, kernel, out=out)
