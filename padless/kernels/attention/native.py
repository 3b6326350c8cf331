"""The attention of `attend.py` by the compiled kernel `attend.c`, on the CPU: over packed steps, nothing laid out.

For queries that see all keys of their row, or with `causal` those up to their own step. Each thread has its own rows and
heads. In half precision it computes in float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from padless.kernels.double_backward import with_double_backward
from padless.kernels.half_precision import HALVES, dtype_of
from padless.kernels.native import library as compiled
from padless.ragged.index import Index, Ints

DTYPES = (torch.float32, *HALVES)
FEW = 32  # keys that a query may have however few the queries are
CALL = 2048  # products of a query with a key that take as long as all else for a block of queries
_NUMBERS = ("rows", "heads", "groups", "size", "width", "causal", "room")
_POINTERS = ("queries", "keys", "units", "cuts", "q", "k", "v", "out", "kept", "upstream", "dq", "dk", "dv", "scratch")


class _Job(ctypes.Structure):
    """The struct `seeing` of attend.c."""

    _fields_ = (
        [(name, ctypes.c_int64) for name in _NUMBERS]
        + [(name, ctypes.c_void_p) for name in _POINTERS]
        + [("scale", ctypes.c_float)]
    )


def supports(query: Tensor, key: Tensor, value: Tensor, queries: Index, keys: Index, causal: bool) -> bool:
    """Whether the kernel is there and these are for it; what fits nowhere is torch's to refuse.

    Heads are whole vectors, a causal order is the steps' own. A vector of queries should not be all but empty, and on the
    way back, where a head of keys is one thread's, there should be enough of them.
    """
    native, (heads, size), (groups, width) = compiled.library(), query.shape[1:], value.shape[1:]
    if native is None or native.lanes < 8 or not compiled.can_access_memory(query, key, value) or query.dtype not in DTYPES:
        return False
    rows = int((queries.lengths > 0).sum())
    threads = min(torch.get_num_threads(), rows * heads)
    return (
        query.dtype == key.dtype == value.dtype
        and key.shape[1:] == (groups, size)
        and size > 0
        and size % native.lanes == 0
        and width > 0
        and width % native.lanes == 0
        and groups > 0
        and heads > 0
        and heads % groups == 0
        and queries.shape[0] == keys.shape[0]
        and len(query) == queries.num_steps
        and len(key) == len(value) == keys.num_steps
        and (not causal or queries.equals(keys))
        and (queries.num_steps * 2 >= rows * native.lanes or keys.num_steps <= FEW * rows)
        and (rows * groups >= threads or not torch.is_grad_enabled())
    )


def attend(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys groups size"],
    value: Float[Tensor, "keys groups width"],
    queries: Index,
    keys: Index,
    causal: bool,
    scale: float,
    again: Callable[..., Any],
) -> Float[Tensor, "queries heads width"]:
    """`attend.attend` without a mask or weights to show; `again` is the same in torch, for second derivatives."""
    work = Work(*(np.ascontiguousarray(index.offsets, dtype=np.int64) for index in (queries, keys)))
    with torch.autocast("cpu", enabled=False):
        given = [x.float() for x in (query, key, value)]
        if torch.is_grad_enabled() and any(x.requires_grad for x in given):
            found: Any = _Attend.apply(work, causal, scale, torch.autocast("cpu", enabled=False)(again), *given)
        else:
            found = _forward(work, causal, scale, False, *given)[0]
    return found.to(dtype_of(query))


@dataclass(eq=False)
class Work:
    """The rows of two indexes, by their first steps, dealt out to threads."""

    queries: Ints
    keys: Ints

    def dealt(self, heads: int, lanes: int, backward: bool) -> tuple[Ints, Ints]:
        """The first unit of work of each row, and of each part; both with one more at the end.

        A unit is a block of queries of a head, of four vectors at most; on the way back it is a head of keys.
        """
        own, others = np.diff(self.queries), np.diff(self.keys)
        blocks = -(-own // (4 * lanes))
        units = heads * (np.ones_like(own) if backward else blocks)
        cost = own * others + CALL * np.maximum(blocks, 1)
        each = np.repeat(cost / np.maximum(units, 1), units)
        return np.append(0, np.cumsum(units)), compiled.split_by_cost(each, len(each))

    def run(self, backward: bool, causal: bool, scale: float, **tensors: Tensor | None) -> None:
        """One call of the compiled kernel."""
        native = compiled.require_library()
        given: Any = tensors
        heads, size, groups, width = *given["q"].shape[1:], *given["v"].shape[1:]
        units, cuts = (np.ascontiguousarray(x) for x in self.dealt(groups if backward else heads, native.lanes, backward))
        room = native.attend_room(size, width)
        scratch = given["q"].new_empty(len(cuts) - 1, room)
        places = {
            name: x.ctypes.data
            for name, x in (("queries", self.queries), ("keys", self.keys), ("units", units), ("cuts", cuts))
        }
        job = _Job(
            rows=len(self.queries) - 1,
            heads=heads,
            groups=groups,
            size=size,
            width=width,
            causal=causal,
            room=room,
            scratch=scratch.data_ptr(),
            scale=scale,
            **places,
            **{name: x.data_ptr() for name, x in tensors.items() if x is not None},
        )
        native.run(native.attend, backward, ctypes.byref(job), len(cuts) - 1)


def _forward(
    work: Work, causal: bool, scale: float, keep: bool, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The sums of values, and with `keep` of each query and head the greatest score and 1 / sum of the weights."""
    q, k, v = (x.contiguous() for x in (query, key, value))
    out = q.new_empty(*q.shape[:2], v.shape[2])
    kept = q.new_empty(*q.shape[:2], 2) if keep else None
    work.run(False, causal, scale, q=q, k=k, v=v, out=out, kept=kept)
    return out, kept


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: Work, causal: bool, scale: float, again: Callable[..., Any], *given: Tensor) -> Tensor:
        out, kept = _forward(work, causal, scale, True, *given)
        ctx.save_for_backward(*given, out, kept)
        ctx.work, ctx.causal, ctx.scale, ctx.again, ctx.given, ctx.ahead = work, causal, scale, again, len(given), 4
        return out

    @staticmethod
    @with_double_backward
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        q, k, v, out, kept, upstream = (x.contiguous() for x in (*ctx.saved_tensors, grads[0]))
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        ctx.work.run(True, ctx.causal, ctx.scale, q=q, k=k, v=v, out=out, kept=kept, upstream=upstream, dq=dq, dk=dk, dv=dv)
        return None, None, None, None, dq, dk, dv
