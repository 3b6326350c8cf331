"""Attend with the compiled kernel attention.c on the CPU, over packed steps without padding.

A query sees all keys of its row, or with `causal` those up to its own step. Each thread has its own rows and heads. Half
precision is computed in float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from padless._torch_compat import FunctionContext
from padless.kernels.double_backward import Reference, with_double_backward
from padless.kernels.half_precision import HALF_DTYPES, compute_dtype
from padless.kernels.native import library
from padless.ragged.index import Index, Ints

Forward = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]

DTYPES = (torch.float32, *HALF_DTYPES)
FEW_KEYS = 32  # with at most this many keys for each row, a vector of queries may be nearly empty
OVERHEAD = 2048  # all work for a block of queries that is not a product takes as long as this many products


class _AttentionArgs(ctypes.Structure):
    """The struct `attn_args` of attention.c, which describes each field."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("causal", ctypes.c_int64),
        ("scratch_size", ctypes.c_int64),
        ("query_offsets", ctypes.c_void_p),
        ("key_offsets", ctypes.c_void_p),
        ("unit_offsets", ctypes.c_void_p),
        ("part_offsets", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("softmax_stats", ctypes.c_void_p),
        ("grad_out", ctypes.c_void_p),
        ("dq", ctypes.c_void_p),
        ("dk", ctypes.c_void_p),
        ("dv", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("scale", ctypes.c_float),
    )


def supports(query: Tensor, key: Tensor, value: Tensor, queries: Index, keys: Index, causal: bool) -> bool:
    """Return whether the kernel exists and is the fast way to compute this; torch refuses what is invalid.

    The sizes of heads are whole SIMD vectors. With `causal`, queries and keys are the same steps. There are enough
    queries in each row to fill the vectors. Where gradients are needed, there are enough heads of keys for all
    threads, because the backward pass gives each head of keys to one thread.
    """
    native, (num_heads, size), (num_groups, width) = library.get_library(), query.shape[1:], value.shape[1:]
    if native is None or native.lanes < 8 or query.dtype not in DTYPES:
        return False
    if not library.can_access_memory(query, key, value):
        return False
    num_rows = int((queries.lengths > 0).sum())
    num_threads = min(torch.get_num_threads(), num_rows * num_heads)
    return (
        query.dtype == key.dtype == value.dtype
        and key.shape[1:] == (num_groups, size)
        and size > 0
        and size % native.lanes == 0
        and width > 0
        and width % native.lanes == 0
        and num_groups > 0
        and num_heads > 0
        and num_heads % num_groups == 0
        and queries.shape[0] == keys.shape[0]
        and len(query) == queries.num_steps
        and len(key) == len(value) == keys.num_steps
        and (not causal or queries.equals(keys))
        and (queries.num_steps * 2 >= num_rows * native.lanes or keys.num_steps <= FEW_KEYS * num_rows)
        and (num_rows * num_groups >= num_threads or not torch.is_grad_enabled())
    )


def attend(
    query: Float[Tensor, "queries heads size"],
    key: Float[Tensor, "keys groups size"],
    value: Float[Tensor, "keys groups width"],
    queries: Index,
    keys: Index,
    causal: bool,
    scale: float,
    reference: Forward,
) -> Float[Tensor, "queries heads width"]:
    """Return the weighted sums of values for each query.

    Args:
        query: The queries of all real steps.
        key: The keys.
        value: The values.
        queries: The steps of the queries.
        keys: The steps of the keys and values.
        causal: Whether a query sees the keys up to its own step only.
        scale: Factor of the scores.
        reference: Computes the same in torch from queries, keys and values, for second derivatives.
    """
    task = AttentionTask(
        library.check_offsets(queries, len(query), "the queries"),
        library.check_offsets(keys, len(key), "the keys"),
        causal,
        scale,
    )
    without_autocast = torch.autocast("cpu", enabled=False)
    with without_autocast:
        q, k, v = query.float(), key.float(), value.float()
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            sums = _Attention.apply(task, torch.autocast("cpu", enabled=False)(reference), q, k, v)
        else:
            sums, _ = task.forward(q, k, v, keep_stats=False)
    return sums.to(compute_dtype(query))


@dataclass(frozen=True, eq=False)
class AttentionTask:
    """Attention between the rows of two indexes.

    Args:
        query_offsets: The first query of each row, and the number of queries; `(rows + 1,)`.
        key_offsets: The same for the keys.
        causal: Whether a query sees the keys up to its own step only.
        scale: Factor of the scores.
    """

    query_offsets: Ints
    key_offsets: Ints
    causal: bool = False
    scale: float = 1.0

    def split(self, heads: int, lanes: int, backward: bool) -> tuple[Ints, Ints]:
        """Split the work into units, and the units into parts of nearly equal cost, one for each thread.

        A unit of the forward pass is a block of up to four vectors of queries of one head. A unit of the backward
        pass is one head of the keys of a row.

        Args:
            heads: The number of heads: of queries forward, of keys backward.
            lanes: The number of float32 in a SIMD vector.
            backward: Whether this is for the backward pass.

        Returns:
            The first unit of each row, `(rows + 1,)`, and of each part, `(parts + 1,)`.
        """
        num_queries, num_keys = np.diff(self.query_offsets), np.diff(self.key_offsets)
        blocks = -(-num_queries // (4 * lanes))
        units = heads * (np.ones_like(blocks) if backward else blocks)
        row_cost = num_queries * num_keys + OVERHEAD * np.maximum(blocks, 1)
        unit_cost = np.repeat(row_cost / np.maximum(units, 1), units)
        return np.append(0, np.cumsum(units)), library.split_by_cost(unit_cost, min(torch.get_num_threads(), len(unit_cost)))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, keep_stats: bool) -> tuple[Tensor, Tensor | None]:
        """Return the sums of values and, for the backward pass, the statistics of the softmax.

        The statistics are the greatest score and 1 / sum of the weights, for each query and head: `(queries, heads, 2)`.
        """
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = q.new_empty(*q.shape[:2], v.shape[2])
        softmax_stats = q.new_empty(*q.shape[:2], 2) if keep_stats else None
        self._run(False, q, k, v, out, softmax_stats)
        return out, softmax_stats

    def backward(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, softmax_stats: Tensor, grad_out: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of queries, keys and values."""
        q, k, v, out, softmax_stats, grad_out = (x.contiguous() for x in (q, k, v, out, softmax_stats, grad_out))
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        self._run(True, q, k, v, out, softmax_stats, grad_out=grad_out, dq=dq, dk=dk, dv=dv)
        return dq, dk, dv

    def _run(
        self, backward: bool, q: Tensor, k: Tensor, v: Tensor, out: Tensor, softmax_stats: Tensor | None, **gradients: Tensor
    ) -> None:
        """Call the compiled kernel; it writes `out` and `softmax_stats`, or with `backward` dq, dk and dv."""
        native = library.require_library()
        num_heads, size, num_groups, width = *q.shape[1:], *v.shape[1:]
        unit_offsets, part_offsets = self.split(num_groups if backward else num_heads, native.lanes, backward)
        unit_offsets, part_offsets = np.ascontiguousarray(unit_offsets), np.ascontiguousarray(part_offsets)
        num_parts, scratch_size = len(part_offsets) - 1, native.attention_scratch_size(size, width)
        scratch = q.new_empty(num_parts, scratch_size)
        args = _AttentionArgs(
            rows=len(self.query_offsets) - 1,
            heads=num_heads,
            groups=num_groups,
            size=size,
            width=width,
            causal=self.causal,
            scratch_size=scratch_size,
            query_offsets=self.query_offsets.ctypes.data,
            key_offsets=self.key_offsets.ctypes.data,
            unit_offsets=unit_offsets.ctypes.data,
            part_offsets=part_offsets.ctypes.data,
            q=q.data_ptr(),
            k=k.data_ptr(),
            v=v.data_ptr(),
            out=out.data_ptr(),
            softmax_stats=None if softmax_stats is None else softmax_stats.data_ptr(),
            scratch=scratch.data_ptr(),
            scale=self.scale,
            **{name: gradient.data_ptr() for name, gradient in gradients.items()},
        )
        native.run(native.attention, backward, ctypes.byref(args), num_parts)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionContext, task: AttentionTask, reference: Forward, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, softmax_stats = task.forward(q, k, v, keep_stats=True)
        ctx.save_for_backward(q, k, v, out, softmax_stats)
        ctx.task, ctx.reference = task, Reference(reference, num_tensors=3)
        return out

    @staticmethod
    @with_double_backward
    def backward(ctx: FunctionContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.task.backward(*ctx.saved_tensors, grads[0])
