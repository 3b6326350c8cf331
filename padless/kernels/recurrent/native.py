"""The cells of `scan.py` by the compiled kernel `scan.c`, on the CPU.

The products over all steps for the gradients of weights and inputs are torch's; the compiled part walks through the
steps, each thread with its own sequences, and never waits. On its way it multiplies the inputs, for a few times at
once: so the products are met while they are near. Everything stays in packed order. The way back leaves the slopes where
the gates stood; a second one through the same call makes the gates again.

In bfloat16 the products of all steps are torch's, in bfloat16, and the walk is in float32.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.kernels.double_backward import with_double_backward
from padless.kernels.half_precision import HALVES, pad_rows_to_bucket
from padless.kernels.native import library as compiled
from padless.kernels.native.library import pack_weight_panels
from padless.kernels.recurrent.adapters import doors
from padless.ragged.index import Index


@dataclass(frozen=True)
class NativeCellSpec:
    """What the compiled kernel has to be told of a cell: its place in the table, its gates.

    `extra` columns stand before the gates in what is kept for the way back. A row of the slopes then begins with those
    that the state's product meets, `gates` of them in the order `turned`, and ends with those of the inputs' product.
    """

    number: int
    gates: int
    relu: bool = False
    extra: int = 0
    turned: tuple[int, ...] = ()


NEAR = 1 << 17  # numbers that stay in a core's second cache, with all else
LSTM, GRU, TANH, RELU = (
    NativeCellSpec(0, 4),
    NativeCellSpec(1, 3, extra=1, turned=(2, 0, 1)),
    NativeCellSpec(2, 1),
    NativeCellSpec(2, 1, relu=True),
)
_NUMBERS = ("units", "real", "width", "ahead", "stride", "keep", "relu", "features", "near", "own")
_POINTERS = (
    "cuts",
    "starts",
    "lengths",
    "rows",
    "x",
    "input",
    "packed",
    "bias",
    "h0",
    "c0",
    "z",
    "before",
    "h",
    "c",
    "h_last",
    "c_last",
    "upstream",
    "sums",
    "dh",
    "dc",
)


class _Job(ctypes.Structure):
    """The struct `job` of scan.c."""

    _fields_ = (
        [(name, ctypes.c_int64) for name in _NUMBERS]
        + [(name, ctypes.c_void_p) for name in _POINTERS]
        + [(name, ctypes.c_int64) for name in ("first", "time", "alive")]
    )


@dataclass(frozen=True)
class Parts:
    """The sequences dealt out to threads: where the parts are cut, and each sequence's first step, length and row."""

    cuts: Tensor
    starts: Tensor
    lengths: Tensor
    rows: Tensor
    stride: int

    @staticmethod
    def of(index: Index, reverse: bool) -> "Parts":
        """Longest first, cut where each part has as much to do: so those that end together walk together."""
        lengths = index.lengths
        rows = np.argsort(-lengths, kind="stable")
        cuts = compiled.split_by_cost(lengths[rows], int((lengths > 0).sum()))
        first, last = index.offsets[:-1], index.offsets[1:] - 1
        arrays = (cuts, (last if reverse else first)[rows], lengths[rows], rows)
        cuts, starts, lengths, rows = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.int64)) for a in arrays)
        return Parts(cuts, starts, lengths, rows, -1 if reverse else 1)

    def __len__(self) -> int:
        return len(self.cuts) - 1

    @property
    def widest(self) -> int:
        """The most sequences of a part, of those that have a step."""
        there = np.append(0, np.cumsum(self.lengths.numpy() > 0))
        return int(np.diff(there[self.cuts.numpy()]).max())

    def run(
        self,
        cell: NativeCellSpec,
        backward: bool,
        keep: bool,
        z: Tensor,
        real: int = 0,
        near: int = 0,
        own: bool = False,
        **tensors: Tensor | None,
    ) -> None:
        """One call of the compiled kernel; where `z` has no columns before the gates, the kernel leaves them alone."""
        given = {**tensors, "cuts": self.cuts, "starts": self.starts, "lengths": self.lengths, "rows": self.rows}
        units, width = given["h0"].shape[1], z.shape[1]  # pyright: ignore[reportOptionalMemberAccess]
        missing = (cell.gates + cell.extra) * units - width
        x = given.get("x")
        job = _Job(
            units=units,
            real=real,
            width=width,
            ahead=cell.extra * units,
            stride=self.stride,
            keep=keep,
            relu=cell.relu,
            features=0 if x is None else x.shape[1],
            near=near,
            own=own,
            z=z.data_ptr() - missing * z.element_size(),
            **{name: tensor.data_ptr() for name, tensor in given.items() if tensor is not None},
        )
        native = compiled.require_library()
        native.run(native.scan, 2 * cell.number + backward, ctypes.byref(job), len(self))


def _run(cell: NativeCellSpec, again: Callable[..., Any], index: Index, reverse: bool, *tensors: Tensor | None) -> Any:
    parts = Parts.of(index, reverse)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _Scan.apply(cell, parts, again, *tensors)
    return _forward(cell, parts, False, *tensors)[0]  # pyright: ignore[reportArgumentType]


lstm, gru, simple_rnn = doors(_run, LSTM, GRU, TANH, RELU)


# Columns: (rows, gates * units), gate by gate, as Keras has them; units filled up to whole vectors


def _lanes() -> int:
    return compiled.require_library().lanes


def _wide(states: Tensor, units: int) -> Tensor:
    """Float32, contiguous, each row filled up to `units`."""
    return torch.nn.functional.pad(states.float(), (0, units - states.shape[-1])).contiguous()


def _filled(x: Tensor, gates: int, units: int) -> Tensor:
    """`(rows, gates * U)` with every gate filled up to `units`."""
    if x.shape[1] == gates * units:
        return x
    real = x.shape[1] // gates
    padded = torch.nn.functional.pad(x.reshape(len(x), gates, real), (0, units - real))
    return padded.view(len(x), gates * units)


def _cut(x: Tensor, gates: int, units: int) -> Tensor:
    """The inverse of `_filled`."""
    if x.shape[1] == gates * units:
        return x
    return x.view(len(x), gates, x.shape[1] // gates)[:, :, :units].reshape(len(x), gates * units)


def _tall(recurrent: Tensor, gates: int, units: int) -> Tensor:
    """The recurrent kernel in float32, filled up on both sides: `(units, gates, units)`."""
    wide = _filled(recurrent.float(), gates, units)
    wide = wide if len(wide) == units else torch.nn.functional.pad(wide, (0, 0, 0, units - len(wide)))
    return wide.view(units, gates, units)


def _packed(recurrent: Tensor, gates: int, units: int) -> Tensor:
    """The recurrent kernel for the way forwards: tile after tile, `(units, gates, lanes)` each."""
    tall = _tall(recurrent, gates, units)
    if gates == 1:
        return pack_weight_panels(tall.view(units, units), _lanes())
    return tall.view(units, gates, -1, _lanes()).permute(2, 0, 1, 3).contiguous()


def _packed_back(recurrent: Tensor, cell: NativeCellSpec, units: int) -> Tensor:
    """And for the way back: its transpose, gates in the order of the slopes."""
    tall = _tall(recurrent, cell.gates, units)
    if cell.turned:
        tall = tall[:, cell.turned]
    return pack_weight_panels(tall.reshape(units, -1).t(), _lanes())


def _forward(
    cell: NativeCellSpec,
    parts: Parts,
    keep: bool,
    values: Tensor,
    kernel: Tensor,
    recurrent: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """The results, and with `keep` what the backward needs: gates, the states before, c, and the first states."""
    real, dtype, steps = h0.shape[1], values.dtype, len(values)
    units = -(-real // _lanes()) * _lanes()
    z, inputs = _gates(cell, parts, values, kernel, units, real, keep)
    h0, c0 = _wide(h0, units), None if c0 is None else _wide(c0, units)
    h = z if cell.gates == 1 else z.new_empty(steps, units)
    c = z.new_empty(steps, units) if cell is LSTM and keep else None
    before = z.new_empty(steps, units) if keep else None
    h_last, c_last = torch.empty_like(h0), None if c0 is None else c0.clone()
    parts.run(
        cell,
        False,
        keep,
        z,
        real,
        **inputs,
        packed=_packed(recurrent, cell.gates, units),
        bias=_bias(cell, bias, units),
        h0=h0,
        c0=c0,
        before=before,
        h=h,
        c=c,
        h_last=h_last,
        c_last=c_last,
    )
    if h is z and keep:  # the caller may change what he gets
        h = h.clone()
    return tuple(_cut(x, 1, real).to(dtype) for x in (h, h_last, c_last) if x is not None), (z, before, c, h0, c0)


def _gates(
    cell: NativeCellSpec, parts: Parts, values: Tensor, kernel: Tensor, units: int, real: int, keep: bool
) -> tuple[Tensor, dict[str, Any]]:
    """Room for the gates, and the inputs that shall be multiplied there; or the products, where torch is better at them.

    The bias comes later. What else is kept has columns before the gates. Gates that are not kept have room for some
    times only: fresh pages for all would cost as much as the walk.
    """
    weights, extra = _filled(kernel, cell.gates, units), cell.extra * units * keep
    width = extra + cell.gates * units
    if values.dtype == kernel.dtype == torch.float32 and _lanes() > 4 and values.shape[1]:
        near, own = max(parts.widest, NEAR // width), not keep and cell.gates > 1
        z = values.new_empty(len(parts) * near if own else len(values), width)
        return z, {"x": values.contiguous(), "input": pack_weight_panels(weights, _lanes()), "near": near, "own": own}
    z = values.new_empty(len(values), width, dtype=torch.float32)
    if values.dtype in HALVES:
        z[:, extra:] = (pad_rows_to_bucket(values, values.dtype) @ weights)[: len(values)]
    else:
        torch.mm(values, weights, out=z[:, extra:])
    if units > real:  # an infinite input times the kernel's filling is not 0
        z[:, extra:].unflatten(1, (cell.gates, units))[:, :, real:] = 0
    return z, {}


def _bias(cell: NativeCellSpec, bias: Tensor | None, units: int) -> Tensor:
    """For each column of what is kept what is added to it; a GRU's second bias belongs to products with the state."""
    if bias is None:
        return torch.zeros((cell.extra + cell.gates) * units, dtype=torch.float32, device="cpu")
    if cell is not GRU:
        return _filled(bias[None].float(), cell.gates, units)[0].contiguous()
    (z, r, a), (of_z, of_r, inner) = bias.float().view(2, 3, -1)
    return _filled(torch.cat([inner, z + of_z, r + of_r, a])[None], 4, units)[0]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cell: NativeCellSpec, parts: Parts, again: Callable[..., Any], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        results, kept = _forward(cell, parts, True, *tensors)  # pyright: ignore[reportArgumentType]
        ctx.save_for_backward(*tensors, *kept)
        ctx.cell, ctx.parts, ctx.again, ctx.given, ctx.ahead = cell, parts, again, len(tensors), 3
        ctx.spent = False
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    @with_double_backward
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # asked for once: whoever keeps them elsewhere brings them back each time
        tensors, kept = saved[: ctx.given], saved[ctx.given :]
        cell, parts, need = ctx.cell, ctx.parts, ctx.needs_input_grad[ctx.ahead :]
        with torch.autocast("cpu", enabled=False):
            again: Any = _forward(cell, parts, True, *tensors)[1] if ctx.spent else kept
            z, before, c, h0, c0 = again
            ctx.spent, units = True, before.shape[1]
            values, _, recurrent = tensors[:3]
            upstream, dh, dc = (None if g is None else _wide(g, units) for g in (*grads, None)[:3])
            dh = torch.zeros_like(h0) if dh is None else dh if dh is not grads[1] else dh.clone()
            dc = None if c0 is None else torch.zeros_like(c0) if dc is None else dc if dc is not grads[2] else dc.clone()
            sums = z.new_zeros(len(parts), z.shape[1])
            parts.run(
                cell,
                True,
                True,
                z,
                packed=_packed_back(recurrent, cell, units),
                h0=h0,
                c0=c0,
                before=before,
                c=c,
                upstream=upstream,
                sums=sums,
                dh=dh,
                dc=dc,
            )
            found = _weight_gradients(cell, need, tensors, z, before, sums.sum(0))
            states = [
                d[:, : len(recurrent)].to(values.dtype) if needed and d is not None else None
                for d, needed in zip((dh, dc), need[4:], strict=False)
            ]
        return (None, None, None, *found, *states)


def _weight_gradients(
    cell: NativeCellSpec, need: Any, tensors: Sequence[Any], slopes: Tensor, before: Tensor, sums: Tensor
) -> list[Tensor | None]:
    """The gradients of values, kernel, recurrent kernel and bias: one product each over all steps."""
    values, kernel, recurrent = tensors[:3]
    gates, units, real, steps, dtype = cell.gates, before.shape[1], len(recurrent), len(values), values.dtype
    if dtype in HALVES:
        values, slopes, before = (pad_rows_to_bucket(x, dtype) for x in (values, slopes, before))
    of_inputs, of_state = slopes[:, cell.extra * units :], slopes[:, : gates * units]
    found: list[Tensor | None] = [None, None, None, None]
    if need[0]:
        found[0] = (of_inputs @ _filled(kernel, gates, units).t())[:steps]
    if need[1]:
        found[1] = _cut(values.t() @ of_inputs, gates, real)
    if need[2]:
        found[2] = _cut(_in_order(cell, before.t() @ of_state), gates, real)[:real]
    if need[3]:
        both = [sums[cell.extra * units :], *([_in_order(cell, sums[None, : gates * units])[0]] if cell is GRU else [])]
        found[3] = _cut(torch.stack(both), gates, real).to(values.dtype)
        found[3] = found[3] if cell is GRU else found[3][0]
    return found


def _in_order(cell: NativeCellSpec, x: Tensor) -> Tensor:
    """Columns by gate as Keras has them, from the order of the slopes."""
    if not cell.turned:
        return x
    return x.unflatten(1, (cell.gates, -1))[:, np.argsort(cell.turned).tolist()].flatten(1)
