"""Attention by torch's varlen_attn: on the CPU with a reference in its place. test_cuda.py runs it on CUDA."""

import inspect
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import index_of
from torch.nn.attention.varlen import varlen_attn

from padless.kernels.attention import varlen
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask, attend_by_row
from padless.ragged.index import Index

SIZE = 8


def reference_varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    """Compute what varlen_attn promises, one sequence at a time; causal ones are aligned at their last step."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and len(cu_seq_q) == len(cu_seq_k)
    assert window_size in ((-1, -1), (-1, 0)) and all(x.is_contiguous() for x in (query, key, value))
    assert (cu_seq_q[0], cu_seq_k[0], cu_seq_q[-1], cu_seq_k[-1]) == (0, 0, len(query), len(key))
    query_lengths, key_lengths = cu_seq_q.diff().tolist(), cu_seq_k.diff().tolist()
    assert (max_q, max_k) == (max(query_lengths), max(key_lengths))
    assert min(query_lengths) > 0 and min(key_lengths) > 0
    outputs = []
    for q, k, v in zip(query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), strict=True):
        scores = scale * q.transpose(0, 1) @ k.permute(1, 2, 0)
        if window_size == (-1, 0):
            visible = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
            scores = scores.masked_fill(~visible, -torch.inf)
        outputs.append((scores.softmax(-1) @ v.transpose(0, 1)).transpose(0, 1))
    return torch.cat(outputs)


def use_reference(monkeypatch):
    """Replace torch's function, for float64 on the CPU; return the list of its keyword arguments in each call."""
    calls = []

    def function(*arguments, **options):
        calls.append(options)
        return reference_varlen_attn(*arguments, **options)

    monkeypatch.setattr(varlen, "is_available", lambda device: True)
    monkeypatch.setattr(varlen, "varlen_attn", lambda: function)
    monkeypatch.setattr(varlen, "HALF_DTYPES", (torch.float64,))
    return calls


@pytest.fixture
def calls(monkeypatch):
    return use_reference(monkeypatch)


def random_leaf(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def make_leaves(queries, keys, heads=2, groups=2, size=SIZE, width=SIZE):
    """Return queries, keys and values that need gradients."""
    return [
        random_leaf(queries.num_steps, heads, size),
        random_leaf(keys.num_steps, groups, size, seed=1),
        random_leaf(keys.num_steps, groups, width, seed=2),
    ]


masks = st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4)


@given(masks, st.booleans(), st.sampled_from([(2, 2), (4, 2), (2, 1)]), st.floats(0.1, 2))
@settings(max_examples=60, deadline=None)
def test_one_call_over_the_packed_steps_equals_the_reference(mask, causal, heads, scale):
    index = Index(np.array(mask, dtype=bool))
    with pytest.MonkeyPatch.context() as monkeypatch:
        calls = use_reference(monkeypatch)
        tensors = make_leaves(index, index, *heads)
        sums, weights = attend(*tensors, index, index, AttentionMask(causal), scale)
        expected, _ = attend_by_row(*tensors, index, index, AttentionMask(causal), scale)
        assert weights is None and len(calls) == bool(index.num_steps)
        torch.testing.assert_close(sums, expected, rtol=1e-9, atol=1e-9)
        if index.num_steps:
            gradients = torch.autograd.grad(sums.square().sum(), tensors)
            for a, b in zip(gradients, torch.autograd.grad(expected.square().sum(), tensors), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_queries_and_keys_may_have_different_lengths(calls):
    queries, keys = index_of([3, 0, 1]), index_of([1, 0, 4])
    tensors = make_leaves(queries, keys)
    sums, _ = attend(*tensors, queries, keys, AttentionMask(), 0.5)
    torch.testing.assert_close(sums, attend_by_row(*tensors, queries, keys, AttentionMask(), 0.5)[0])
    assert calls == [{"scale": 0.5, "window_size": (-1, -1)}]


def check_grouped_path(calls, tensors, queries, keys, attention_mask=None, **options):
    """Check that `attend` gives the numbers of the reference without varlen_attn."""
    attention_mask = attention_mask or AttentionMask()
    sums, _ = attend(*tensors, queries, keys, attention_mask, **options)
    torch.testing.assert_close(sums, attend_by_row(*tensors, queries, keys, attention_mask)[0])
    assert not calls


def test_rows_that_it_cannot_align_use_the_grouped_path(calls):
    queries, keys = index_of([3, 1]), index_of([2, 3])
    check_grouped_path(calls, make_leaves(queries, keys), queries, keys, AttentionMask(causal=True))
    keys = index_of([2, 0])  # a row of queries without keys
    check_grouped_path(calls, make_leaves(queries, keys), queries, keys)
    queries, keys = index_of([3, 0]), index_of([2, 1])  # a row of keys without queries
    check_grouped_path(calls, make_leaves(queries, keys), queries, keys)


def test_masks_weights_dropout_and_scores_use_the_grouped_path(calls):
    index = index_of([3, 1])
    tensors = make_leaves(index, index)
    for options in (
        {"attention_mask": AttentionMask(window=2)},
        {"attention_mask": AttentionMask(mask=torch.ones(1, 1, 1, 1, dtype=torch.bool))},
        {"return_weights": "after_dropout"},
        {"dropout": lambda weights: weights},
        {"score": lambda query, key: query @ key.transpose(-1, -2)},
    ):
        check_grouped_path(calls, tensors, index, index, **options)


def test_other_sizes_dtypes_and_devices_use_the_grouped_path(calls, monkeypatch):
    index = index_of([3, 1])
    for sizes in ({"size": 12, "width": 12}, {"size": 200, "width": 200}, {"width": 16}):
        check_grouped_path(calls, make_leaves(index, index, **sizes), index, index)
    check_grouped_path(calls, [x.detach().float() for x in make_leaves(index, index)], index, index)
    monkeypatch.setattr(varlen, "is_available", lambda device: False)
    check_grouped_path(calls, make_leaves(index, index), index, index)


def test_a_batch_without_a_step_is_not_given_to_torch(calls):
    index = index_of([0, 0])
    tensors = make_leaves(index, index)
    sums, _ = attend(*tensors, index, index, AttentionMask())
    assert sums.shape == (0, 2, SIZE) and not calls
    torch.autograd.grad(sums.sum(), tensors)


def test_torchs_function_has_the_expected_parameters():
    assert varlen.varlen_attn() is varlen_attn
    names = list(inspect.signature(varlen_attn).parameters)
    assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]


def test_a_torch_without_the_function_or_with_an_older_one_uses_the_grouped_path():
    varlen.varlen_attn.cache_clear()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda query, key, value, is_causal: None)
        assert varlen.varlen_attn() is None
        varlen.varlen_attn.cache_clear()
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
        assert varlen.varlen_attn() is None
    varlen.varlen_attn.cache_clear()
    assert varlen.varlen_attn() is varlen_attn


def test_it_is_not_available_on_the_cpu():
    assert not varlen.is_available(torch.device("cpu"))
