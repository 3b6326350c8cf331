"""Attention by torch's varlen_attn: what it is told, on the CPU with a reference in its place; on CUDA in test_cuda.py."""

import inspect
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.varlen import varlen_attn

from padless.kernels.attention import varlen
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask, attend_by_row
from padless.ragged.index import Index

SIZE = 8


def by_bounds(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    """What varlen_attn promises, sequence after sequence; causal ones end together."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and len(cu_seq_q) == len(cu_seq_k)
    assert window_size in ((-1, -1), (-1, 0)) and all(x.is_contiguous() for x in (query, key, value))
    ends = [(a.tolist(), b.tolist()) for a, b in zip(cu_seq_q.split(1), cu_seq_k.split(1), strict=True)]
    sizes = [(b[0][0] - a[0][0], b[1][0] - a[1][0]) for a, b in zip(ends, ends[1:], strict=False)]
    assert (max_q, max_k) == tuple(map(max, zip(*sizes, strict=True))) and ends[0] == ([0], [0])
    assert ends[-1] == ([len(query)], [len(key)]) and min(map(min, sizes)) > 0
    outputs = []
    for (own, others), q, (_, k, v) in zip(
        sizes, query.split([s for s, _ in sizes]), _parts(key, value, [s for _, s in sizes]), strict=True
    ):
        scores = scale * q.transpose(0, 1) @ k.permute(1, 2, 0)
        if window_size == (-1, 0):
            seen = torch.ones(own, others, dtype=torch.bool).tril(others - own)
            scores = scores.masked_fill(~seen, -torch.inf)
        outputs.append((scores.softmax(-1) @ v.transpose(0, 1)).transpose(0, 1))
    return torch.cat(outputs)


def _parts(key, value, sizes):
    return zip(range(len(sizes)), key.split(sizes), value.split(sizes), strict=True)


def pretend(monkeypatch):
    """The reference in the place of torch's function, for double precision on the CPU; gives what it will be told."""
    calls = []

    def function(*args, **kwargs):
        calls.append(kwargs)
        return by_bounds(*args, **kwargs)

    monkeypatch.setattr(varlen, "is_available", lambda device: True)
    monkeypatch.setattr(varlen, "varlen_attn", lambda: function)
    monkeypatch.setattr(varlen, "HALF_DTYPES", (torch.float64,))
    return calls


@pytest.fixture
def pretended(monkeypatch):
    return pretend(monkeypatch)


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype).requires_grad_()


def triple(queries, keys, heads=2, groups=2, size=SIZE, width=SIZE):
    return [
        numbers(queries.num_steps, heads, size),
        numbers(keys.num_steps, groups, size, seed=1),
        numbers(keys.num_steps, groups, width, seed=2),
    ]


masks = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4)


@given(masks, st.booleans(), st.sampled_from([(2, 2), (4, 2), (2, 1)]), st.floats(0.1, 2))
@settings(max_examples=60, deadline=None)
def test_one_call_over_the_packed_steps_is_the_reference(mask, causal, heads, scale):
    index = Index(np.array(mask, dtype=bool))
    with pytest.MonkeyPatch.context() as patched:
        calls = pretend(patched)
        given_ = triple(index, index, *heads)
        found, none = attend(*given_, index, index, AttentionMask(causal), scale)
        wanted, _ = attend_by_row(*given_, index, index, AttentionMask(causal), scale)
        assert none is None and len(calls) == bool(index.num_steps)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        if index.num_steps:
            for ours, theirs in zip(
                torch.autograd.grad(found.square().sum(), given_),
                torch.autograd.grad(wanted.square().sum(), given_),
                strict=True,
            ):
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_queries_and_keys_of_their_own_lengths(pretended):
    queries, keys = Index.from_lengths(np.array([3, 0, 1])), Index.from_lengths(np.array([1, 0, 4]))
    given_ = triple(queries, keys)
    found, _ = attend(*given_, queries, keys, AttentionMask(), 0.5)
    torch.testing.assert_close(found, attend_by_row(*given_, queries, keys, AttentionMask(), 0.5)[0])
    assert pretended == [{"scale": 0.5, "window_size": (-1, -1)}]


@pytest.mark.parametrize(
    "case",
    [
        "causal over other steps",
        "a row of queries without keys",
        "a row of keys without queries",
        "window",
        "mask",
        "weights",
        "dropout",
        "a score of its own",
        "size 12",
        "size 200",
        "values of another width",
        "float32",
        "another device",
    ],
)
def test_what_it_cannot_take_goes_by_groups(case, pretended, monkeypatch):
    lengths = {
        "a row of queries without keys": [2, 0],
        "a row of keys without queries": [2, 1],
        "causal over other steps": [2, 3],
    }.get(case, [3, 1])
    queries, keys = (
        Index.from_lengths(np.array([3, 0 if case.startswith("a row of keys") else 1])),
        Index.from_lengths(np.array(lengths)),
    )
    size = {"size 12": 12, "size 200": 200}.get(case, SIZE)
    given_ = triple(queries, keys, size=size, width=16 if case.startswith("values") else size)
    if case == "float32":
        given_ = [x.detach().float() for x in given_]
    if case == "another device":
        monkeypatch.setattr(varlen, "is_available", lambda device: False)
    sight = {
        "causal over other steps": AttentionMask(causal=True),
        "window": AttentionMask(window=2),
        "mask": AttentionMask(mask=torch.ones(1, 1, 1, 1, dtype=torch.bool)),
    }.get(case, AttentionMask())
    more = {
        "weights": {"return_weights": "after_dropout"},
        "dropout": {"dropout": lambda w: w},
        "a score of its own": {"score": lambda q, k: q @ k.transpose(-1, -2)},
    }.get(case, {})
    found, _ = attend(*given_, queries, keys, sight, **more)
    torch.testing.assert_close(found, attend_by_row(*given_, queries, keys, sight)[0])
    assert not pretended


def test_no_step_at_all_asks_nobody(pretended):
    index = Index.from_lengths(np.array([0, 0]))
    given_ = triple(index, index)
    found, _ = attend(*given_, index, index, AttentionMask())
    assert found.shape == (0, 2, SIZE) and not pretended
    torch.autograd.grad(found.sum(), given_)


def test_torch_has_it_as_it_is_asked():
    assert varlen.varlen_attn() is varlen_attn
    names = list(inspect.signature(varlen_attn).parameters)
    assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]


def test_a_torch_without_it_or_with_an_older_one_goes_by_groups(monkeypatch):
    varlen.varlen_attn.cache_clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("torch.nn.attention.varlen.varlen_attn", lambda query, key, value, is_causal: None)
        assert varlen.varlen_attn() is None
        varlen.varlen_attn.cache_clear()
        patched.setitem(sys.modules, "torch.nn.attention.varlen", None)
        assert varlen.varlen_attn() is None
    varlen.varlen_attn.cache_clear()
    assert varlen.varlen_attn() is varlen_attn


def test_it_is_not_there_on_the_cpu():
    assert not varlen.is_available(torch.device("cpu"))
