"""The cells of `scan.py` by the compiled kernel `scan.c`, on the CPU.

The products over all steps (inputs with the kernel, and all gradients of weights and inputs) are torch's; the compiled
part walks through the steps, each thread with its own sequences, and never waits. Everything stays in packed order.

In bfloat16 the large products are in bfloat16 and the walk in float32.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.kernels.compiled import Library, library
from padless.kernels.scan_fast import REFERENCE, or_reference
from padless.ragged.index import Index


@dataclass(frozen=True)
class Cell:
    """What the compiled kernel has to be told of a cell: its place in the table, its gates."""

    number: int
    gates: int
    relu: bool = False


LSTM, GRU, TANH, RELU = Cell(0, 4), Cell(1, 3), Cell(2, 1), Cell(2, 1, relu=True)
_POINTERS = ("cuts", "starts", "lengths", "rows", "packed", "bias", "h0", "c0", "z", "inner", "h", "c", "h_last", "c_last",
             "upstream", "dz", "ds", "dh", "dc")


class _Job(ctypes.Structure):
    """The struct `job` of scan.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("units", "stride", "keep", "relu")] + [
        (name, ctypes.c_void_p) for name in _POINTERS]


@dataclass(frozen=True)
class Parts:
    """The sequences dealt out to threads: where the parts are cut, and each sequence's first step, length and row."""

    cuts: Tensor
    starts: Tensor
    lengths: Tensor
    rows: Tensor
    stride: int
    before: Tensor  # for each step the step before it, among the steps behind the first states: (B + N)

    @staticmethod
    def of(index: Index, reverse: bool) -> "Parts":
        """Longest first, dealt out back and forth, so that each part has as much to do."""
        lengths = index.lengths
        count = max(1, min(torch.get_num_threads(), int((lengths > 0).sum())))
        rows = np.argsort(-lengths, kind="stable")
        turn, place = np.divmod(np.arange(len(rows)), count)
        part = np.where(turn % 2, count - 1 - place, place)
        rows = rows[np.argsort(part, kind="stable")]
        cuts = np.concatenate([[0], np.cumsum(np.bincount(part, minlength=count))])
        first, last = index.offsets[:-1], index.offsets[1:] - 1
        stride = -1 if reverse else 1
        before = np.arange(index.steps) + len(rows) - stride
        begun = np.flatnonzero(lengths)
        before[(last if reverse else first)[begun]] = begun
        arrays = (cuts, (last if reverse else first)[rows], lengths[rows], rows)
        cuts, starts, lengths, rows, before = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.int64))
                                               for a in (*arrays, before))
        return Parts(cuts, starts, lengths, rows, stride, before)

    def run(self, cell: Cell, backward: bool, units: int, keep: bool, **tensors: Tensor | None) -> None:
        """One call of the compiled kernel."""
        given = {**tensors, "cuts": self.cuts, "starts": self.starts, "lengths": self.lengths, "rows": self.rows}
        job = _Job(units=units, stride=self.stride, keep=keep, relu=cell.relu,
                   **{name: tensor.data_ptr() for name, tensor in given.items() if tensor is not None})
        native = _library()
        failed = native.scan(2 * cell.number + backward, ctypes.byref(job), len(self.cuts) - 1, native.parallel_for)
        if failed:
            raise RuntimeError("The compiled scan could not start its threads.")


def lstm(
    index: Index, reverse: bool, activation: Callable[..., Any], recurrent_activation: Callable[..., Any],
    values: Tensor, kernel: Tensor, recurrent: Tensor, bias: Tensor | None, h0: Tensor, c0: Tensor, masks: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`scan.lstm` with tanh and sigmoid."""
    again = partial(REFERENCE["lstm"], index, reverse, activation, recurrent_activation, masks=None)
    return _run(LSTM, again, index, reverse, values, kernel, recurrent, bias, h0, c0)


def gru(
    index: Index, reverse: bool, activation: Callable[..., Any], recurrent_activation: Callable[..., Any],
    reset_after: bool, values: Tensor, kernel: Tensor, recurrent: Tensor, bias: Tensor | None, h0: Tensor, masks: None,
) -> tuple[Tensor, Tensor]:
    """`scan.gru` with tanh, sigmoid and `reset_after`."""
    again = partial(REFERENCE["gru"], index, reverse, activation, recurrent_activation, True, masks=None)
    return _run(GRU, again, index, reverse, values, kernel, recurrent, bias, h0)


def simple_rnn(
    index: Index, reverse: bool, activation: Callable[..., Any], values: Tensor, kernel: Tensor, recurrent: Tensor,
    bias: Tensor | None, h0: Tensor, masks: None,
) -> tuple[Tensor, Tensor]:
    """`scan.simple_rnn` with tanh or relu."""
    again = partial(REFERENCE["simple_rnn"], index, reverse, activation, masks=None)
    return _run(RELU if activation is torch.relu else TANH, again, index, reverse, values, kernel, recurrent, bias, h0)


def _run(cell: Cell, again: Callable[..., Any], index: Index, reverse: bool, *tensors: Tensor | None) -> Any:
    parts = Parts.of(index, reverse)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _Scan.apply(cell, parts, again, *tensors)
    return _forward(cell, parts, False, *tensors)[0]  # pyright: ignore[reportArgumentType]


# Columns: (rows, gates * units), gate by gate, as Keras has them; or block by block, as the kernel walks through them


def _library() -> Library:
    found = library()
    if found is None:
        raise RuntimeError("The compiled scan is not there; `scan._path` asks for it first.")
    return found


def _lanes() -> int:
    return _library().lanes


def _wide(states: Tensor, units: int) -> Tensor:
    """Float32, contiguous, filled up to whole blocks of units."""
    return torch.nn.functional.pad(states.float(), (0, units - states.shape[-1])).contiguous()


def _to_blocks(x: Tensor, gates: int, units: int) -> Tensor:
    """`(rows, gates * U)` as `(rows, blocks, gates, lanes)`."""
    x = x.reshape(len(x), gates, -1)
    x = torch.nn.functional.pad(x, (0, units - x.shape[2])).view(len(x), gates, -1, _lanes())
    return x.transpose(1, 2)


def _from_blocks(x: Tensor, gates: int, units: int) -> Tensor:
    """The inverse of `_to_blocks`, on `(rows, blocks * gates * lanes)`, for `units` real units."""
    x = x.view(len(x), -1, gates, _lanes()).transpose(1, 2).reshape(len(x), gates, -1)
    return x[:, :, :units].reshape(len(x), gates * units)


def _packed(recurrent: Tensor, gates: int, units: int) -> Tensor:
    """The recurrent kernel for the way forwards: block after block, `(units, gates, lanes)` each."""
    blocks = _to_blocks(_tall(recurrent, units), gates, units)
    return _panels(blocks.reshape(units, -1)) if gates == 1 else blocks.transpose(0, 1).contiguous()


def _packed_back(recurrent: Tensor, gates: int, units: int) -> Tensor:
    """And for the way back: its transpose."""
    return _panels(_to_blocks(_tall(recurrent, units), gates, units).reshape(units, -1).t())


def _tall(recurrent: Tensor, units: int) -> Tensor:
    """Float32, with rows of zeros up to whole blocks of units."""
    return torch.nn.functional.pad(recurrent.float(), (0, 0, 0, units - len(recurrent)))


def _panels(x: Tensor) -> Tensor:
    """Columns in panels of up to four vectors, one after the other."""
    return torch.cat([panel.reshape(-1) for panel in x.split(4 * _lanes(), dim=1)])


def _forward(
    cell: Cell, parts: Parts, keep: bool, values: Tensor, kernel: Tensor, recurrent: Tensor, bias: Tensor | None,
    h0: Tensor, c0: Tensor | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """The results, and with `keep` what the backward needs: gates, inner product, h, c, and the first states."""
    real, dtype, gates = h0.shape[1], values.dtype, cell.gates
    units = -(-real // _lanes()) * _lanes()
    of_inputs, of_state = _biases(cell, bias, units)
    weights = _to_blocks(kernel, gates, units).reshape(len(kernel), -1)
    if of_inputs is None:
        z = values @ weights
    else:
        z = torch.addmm(of_inputs.to(dtype), values, weights)
    z, h0, c0 = z.float(), _wide(h0, units), None if c0 is None else _wide(c0, units)
    if units > real:  # an infinite input times the kernel's filling is not 0
        z.view(len(z), units // _lanes(), gates, _lanes())[:, -1, :, real - units :] = 0
    h = z if gates == 1 else z.new_empty(len(z), units)
    c = z.new_empty(len(z), units) if cell is LSTM and keep else None
    inner = z.new_empty(len(z), units) if cell is GRU and keep else None
    h_last, c_last = torch.empty_like(h0), None if c0 is None else c0.clone()
    parts.run(cell, False, units, keep, packed=_packed(recurrent, gates, units), bias=of_state, h0=h0, c0=c0,
              z=z, inner=inner, h=h, c=c, h_last=h_last, c_last=c_last)
    results = (h, h_last) if c_last is None else (h, h_last, c_last)
    kept = (None if h is z else z, inner, h, c, h0, c0)
    return tuple(_own(x[:, :real].to(dtype), x) for x in results), kept


def _own(result: Tensor, kept: Tensor) -> Tensor:
    """A result that the caller may change: what the backward needs is not his."""
    return result.clone(memory_format=torch.contiguous_format) if result.data_ptr() == kept.data_ptr() else result


def _biases(cell: Cell, bias: Tensor | None, units: int) -> tuple[Tensor | None, Tensor | None]:
    """The bias that goes with the inputs, and what a GRU adds to the candidate's product with the state."""
    if bias is None:
        return None, torch.zeros(units) if cell is GRU else None
    if cell is not GRU:
        return _to_blocks(bias[None], cell.gates, units).reshape(-1), None
    real = bias.shape[1] // 3
    both = torch.cat([bias[:, : 2 * real].sum(0), bias[0, 2 * real :]])
    return _to_blocks(both[None], 3, units).reshape(-1), _wide(bias[1, 2 * real :], units)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, cell: Cell, parts: Parts, again: Callable[..., Any], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        results, kept = _forward(cell, parts, True, *tensors)  # pyright: ignore[reportArgumentType]
        ctx.save_for_backward(*tensors, *kept)
        ctx.cell, ctx.parts, ctx.again, ctx.given, ctx.ahead = cell, parts, again, len(tensors), 3
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    @or_reference
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        values, kernel, recurrent = ctx.saved_tensors[:3]
        z, inner, h, c, h0, c0 = ctx.saved_tensors[ctx.given :]
        cell, parts, need, units = ctx.cell, ctx.parts, ctx.needs_input_grad[ctx.ahead :], h.shape[1]
        gates, real = cell.gates, recurrent.shape[0]
        with torch.autocast("cpu", enabled=False):
            upstream, dh, dc = (None if g is None else _wide(g, units) for g in (*grads, None)[:3])
            dh = torch.zeros_like(h0) if dh is None else dh if dh is not grads[1] else dh.clone()
            dc = None if c0 is None else torch.zeros_like(c0) if dc is None else dc if dc is not grads[2] else dc.clone()
            dz = h.new_empty(len(h), gates * units)
            ds = h.new_empty(len(h), gates * units) if cell is GRU else dz
            parts.run(cell, True, units, True, packed=_packed_back(recurrent, gates, units), h0=h0, c0=c0, z=z,
                      inner=inner, h=h, c=c, upstream=upstream, dz=dz, ds=ds, dh=dh, dc=dc)
            found = _weight_gradients(cell, parts, need, values, kernel, h0, h, dz, ds, real)
            states = [d[:, :real].to(values.dtype) if needed and d is not None else None
                      for d, needed in zip((dh, dc), need[4:], strict=False)]
        return (None, None, None, *found, *states)


def _weight_gradients(
    cell: Cell, parts: Parts, need: Any, values: Tensor, kernel: Tensor, h0: Tensor, h: Tensor, dz: Tensor, ds: Tensor,
    real: int,
) -> list[Tensor | None]:
    """The gradients of values, kernel, recurrent kernel and bias: one product each over all steps."""
    gates, units, dtype = cell.gates, h.shape[1], values.dtype
    low = dz.to(dtype)
    found: list[Tensor | None] = [None, None, None, None]
    if need[0]:
        found[0] = low @ _to_blocks(kernel, gates, units).reshape(len(kernel), -1).t()
    if need[1]:
        found[1] = _from_blocks(values.t() @ low, gates, real)
    if need[2]:
        before = torch.cat([h0, h]).index_select(0, parts.before)[:, :real].to(dtype)
        found[2] = _from_blocks(before.t() @ (low if ds is dz else ds.to(dtype)), gates, real)
    if need[3]:
        sums = [_from_blocks(d.sum(0)[None], gates, real) for d in ((dz, ds) if cell is GRU else (dz,))]
        found[3] = (torch.cat(sums) if cell is GRU else sums[0][0]).to(dtype)
    return found
