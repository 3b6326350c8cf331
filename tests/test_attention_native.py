"""Attention by the compiled kernel: every library of this processor equals the reference in float64.

And the calls that are left to torch, for this kernel and for those of LSTM and Conv1D: tracers, transforms, other tensors.
"""

from collections import Counter
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import index_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

import padless
from padless import layers as L
from padless.kernels.attention import api, native
from padless.kernels.attention.reference import AttentionMask, attend_by_row
from padless.kernels.native import library
from padless.ragged.index import Index

LIBRARIES = {level: library.load_library(level) for level in library.supported_levels()}
LEVELS = [level for level, loaded in LIBRARIES.items() if isinstance(loaded, library.Library) and loaded.lanes >= 8]
pytestmark = pytest.mark.skipif(
    library.get_library() is None or library.get_library().lanes < 8, reason=padless.backends()["native kernels"]
)


def make_leaves(queries, keys, heads=2, groups=2, size=16, width=16, seed=0):
    """Return queries, keys and values that need gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (queries.num_steps, heads, size), (keys.num_steps, groups, size), (keys.num_steps, groups, width)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def two_rows(heads=2, groups=2):
    """Return an index of 27 steps, with queries, keys and values."""
    index = index_of([20, 7])
    return index, [t.detach() for t in make_leaves(index, index, heads, groups)]


def attend(tensors, queries, keys=None, causal=False, scale=0.25):
    """Return the sums of values on the path that is chosen."""
    keys = queries if keys is None else keys
    return api.attend(*tensors, queries, keys, AttentionMask(causal), scale)[0]


def attend_in_float64(tensors, queries, keys=None, causal=False, scale=0.25):
    """Return the sums of values by the reference."""
    keys = queries if keys is None else keys
    return attend_by_row(*(t.double() for t in tensors), queries, keys, AttentionMask(causal), scale)[0]


def use_library(level):
    """Return a context in which the kernels are those of a level."""
    return patch.object(library, "get_library", lambda: LIBRARIES[level])


def assert_close(results, expected, bound=2e-5):
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=bound, atol=bound)


def check_against_reference(tensors, queries, keys, causal, scale=0.25, bound=2e-5):
    """Compare sums and gradients with the reference in float64, and return those of the kernel."""
    assert native.supports(*tensors, queries, keys, causal)
    sums = attend(tensors, queries, keys, causal, scale)
    with torch.no_grad():
        assert torch.equal(attend(tensors, queries, keys, causal, scale), sums)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    expected = attend_in_float64(exact, queries, keys, causal, scale)
    upstream = torch.randn(sums.shape, generator=torch.Generator().manual_seed(1))
    results = (sums, *torch.autograd.grad(sums, tensors, upstream))
    with_all_inputs = expected + 0 * sum(t.sum() for t in exact)
    assert_close(results, (expected, *torch.autograd.grad(with_all_inputs, exact, upstream.double())), bound)
    return results


@st.composite
def indexes(draw, batch):
    """Draw masks of widths below, at and beyond whole vectors and blocks."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    columns = draw(st.sampled_from([0, 1, 5, 15, 16, 17, 40, 70, 130]))
    density = draw(st.sampled_from([0.0, 0.5, 1.0])) * random.random((batch, 1)) * 2
    return Index(random.random((batch, columns)) < density)


@pytest.mark.parametrize("level", LEVELS)
@given(
    st.data(),
    st.integers(1, 5),
    st.sampled_from([(1, 1), (3, 3), (4, 2), (4, 1)]),
    st.sampled_from([16, 32, 80]),
    st.sampled_from([16, 48]),
    st.integers(1, 4),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_it_equals_the_reference_for_any_steps(level, data, batch, heads, size, width, threads, seed):
    queries = data.draw(indexes(batch))
    relation = data.draw(st.sampled_from(["same", "causal", "other"]))
    keys = queries if relation != "other" else data.draw(indexes(batch))
    tensors = make_leaves(queries, keys, *heads, size, width, seed)
    threads = max(1, min(threads, int((queries.lengths > 0).sum()) * heads[1]))  # with more, one row is left to torch
    with (
        use_library(level),
        patch.object(native, "FEW_KEYS", 1000),
        patch.object(torch, "get_num_threads", lambda: threads),
    ):
        check_against_reference(tensors, queries, keys, relation == "causal")


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("causal", [False, True])
def test_long_rows_have_several_pieces_of_keys(level, causal):
    queries = index_of([513, 3, 1100])
    keys = queries if causal else index_of([1300, 600, 511])
    with use_library(level):
        tensors = make_leaves(queries, keys, 2, 1)
        check_against_reference(tensors, queries, keys, causal, bound=1e-4)  # sums over a thousand


def test_the_greatest_score_may_be_in_any_piece():
    """Sums of earlier pieces are scaled down when a greater score comes, else the powers overflow."""
    index = index_of([1200])
    for step in (3, 600, 1199):
        query, key, value = make_leaves(index, index, 1, 1)
        with torch.no_grad():
            query.abs_()
            key[step] = 40.0
        check_against_reference([query, key, value], index, index, False, scale=1.0, bound=2e-3)  # scores of 500


def test_scores_may_be_beyond_the_range_of_powers():
    index = index_of([40, 7])
    tensors = make_leaves(index, index)
    sums = attend(tensors, index, scale=1e4)
    assert torch.isfinite(sums).all()
    assert_close([sums], [attend_in_float64(tensors, index, scale=1e4)], 1e-3)


@pytest.mark.parametrize("level", LEVELS)
def test_keys_with_a_score_of_minus_infinity_have_weight_0(level):
    queries, keys = index_of([20]), index_of([1100])
    query, key, value = torch.full((20, 1, 16), 2.0), torch.zeros(1100, 1, 16), torch.ones(1100, 1, 16)
    value[:600] = 1e30
    with use_library(level):
        for number in (-3e38, -5e3):  # the scores are infinite, or finite and far below the others
            key[:600, :, 0] = number
            assert torch.equal(attend([query, key, value], queries, keys, scale=1.0), torch.ones(20, 1, 16))


def test_the_error_does_not_grow_with_the_number_of_keys():
    queries, keys = index_of([16]), index_of([20000])
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(16, 1, 16, generator=generator), torch.randn(20000, 1, 16, generator=generator)
    value = torch.rand(20000, 1, 16, generator=generator) + 1
    sums, exact = attend([query, key, value], queries, keys), attend_in_float64([query, key, value], queries, keys)
    assert float(((sums.double() - exact) / exact).abs().max()) < 3e-6


@pytest.mark.slow
def test_other_rows_and_the_number_of_threads_change_no_bit():
    lengths = [5, 1, 0, 700, 33, 64, 2]
    index = index_of(lengths)
    tensors = make_leaves(index, index, 4, 2)
    for causal in (False, True):
        results = check_against_reference(tensors, index, index, causal)
        for threads in (1, 3, 8):
            with patch.object(torch, "get_num_threads", lambda n=threads: n):
                others = check_against_reference(tensors, index, index, causal)
            assert all(torch.equal(a, b) for a, b in zip(others, results, strict=True))
        for row, length in enumerate(lengths):
            steps = slice(*index.offsets[row : row + 2])
            alone = attend([t[steps] for t in tensors], index_of([length]), causal=causal)
            assert torch.equal(alone, results[0][steps])


def test_all_parts_of_the_work_cost_about_the_same():
    """With long rows among short ones, no thread has much more than its share, and every unit is in a part."""
    lengths = np.array([10] * 100 + [1000, 1000] + [10] * 50)
    task = native.AttentionTask(*[np.append(0, np.cumsum(lengths))] * 2)
    for backward in (False, True):
        unit_offsets, part_offsets = task.split(8, 16, backward)
        assert part_offsets[0] == 0 and part_offsets[-1] == unit_offsets[-1] and (np.diff(part_offsets) >= 0).all()
        units = np.diff(unit_offsets)
        costs = np.repeat(lengths**2 / units, units)  # the overhead is small compared with that
        with patch.object(torch, "get_num_threads", lambda: 4):
            part_offsets = task.split(8, 16, backward)[1]
        shares = [costs[a:b].sum() / costs.sum() for a, b in zip(part_offsets, part_offsets[1:], strict=False)]
        assert len(shares) == 4 and max(shares) < 0.32


def test_nan_and_infinity_stay_in_their_row_and_head():
    index = index_of([3, 4, 20])
    for number in (float("nan"), float("inf")):
        for position in range(3):
            tensors = [t.detach() for t in make_leaves(index, index)]
            tensors[position][4, 1, 2] = number
            for causal in (False, True):
                sums = attend(tensors, index, causal=causal)
                assert torch.isfinite(sums[:3]).all() and torch.isfinite(sums[7:]).all()
                assert torch.isfinite(sums[:, 0]).all()
                assert not torch.isfinite(sums[3:7, 1]).all()


def test_a_causal_query_does_not_depend_on_later_steps():
    index = index_of([150])
    query, key, value = (t.detach() for t in make_leaves(index, index))
    sums = attend([query, key, value], index, causal=True)
    for step in (1, 15, 16, 63, 64, 149):
        changed_key, changed_value = key.clone(), value.clone()
        changed_key[step:] = 1e6
        changed_value[step:] = 1e30
        assert torch.equal(attend([query, changed_key, changed_value], index, causal=True)[:step], sums[:step])


# Gradients, dtypes, memory


@pytest.mark.parametrize("causal", [False, True])
def test_second_derivatives_equal_those_of_the_reference(causal):
    index = index_of([5, 0, 3])
    tensors = make_leaves(index, index, 4, 2)
    exact = [t.detach().double().requires_grad_() for t in tensors]

    def differentiate_twice(inputs, sums):
        gradients = torch.autograd.grad((sums**2).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in gradients), inputs)

    assert native.supports(*tensors, index, index, causal)
    results = differentiate_twice(tensors, attend(tensors, index, causal=causal))
    assert_close(results, differentiate_twice(exact, attend_in_float64(exact, index, causal=causal)), 1e-4)


def test_half_precision_is_computed_in_float32():
    index = index_of([5, 40, 3])
    for dtype in (torch.bfloat16, torch.float16):
        tensors = [t.detach().to(dtype).requires_grad_() for t in make_leaves(index, index)]
        wide = [t.detach().float().requires_grad_() for t in tensors]
        sums, expected = attend(tensors, index), attend(wide, index)
        assert sums.dtype == dtype and torch.equal(sums, expected.to(dtype))
        sums.sum().backward()
        expected.sum().backward()
        for a, b in zip(tensors, wide, strict=True):
            torch.testing.assert_close(a.grad, b.grad.to(dtype))


def test_the_result_has_the_dtype_of_autocast():
    index, tensors = two_rows()
    for size in (15, 16):
        x = torch.randn(2, 4, size)
        with torch.autocast("cpu", torch.bfloat16):
            assert L.Attention()([x, x]).dtype == torch.bfloat16
            sums = attend(tensors, index)
    assert torch.equal(sums, attend(tensors, index).bfloat16())


def test_tensors_may_have_any_strides_and_are_not_changed():
    index = index_of([5, 40, 3])
    contiguous = [t.detach() for t in make_leaves(index, index)]
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for t in contiguous]
    assert not any(t.is_contiguous() for t in strided)
    sums = attend(strided, index)
    assert torch.equal(sums, attend(contiguous, index))
    sums.sum().backward()  # its gradient is one number, expanded
    gradients = [t.grad.clone() for t in strided]
    for t in strided:
        t.grad = None
    attend(strided, index).backward(torch.ones(sums.shape))
    assert all(torch.equal(t.grad, gradient) for t, gradient in zip(strided, gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(contiguous, strided, strict=True))


def test_views_with_negated_numbers_are_read_as_such():
    index, (query, key, value) = two_rows()
    negated = torch._neg_view(query)
    assert torch.equal(negated, -query)
    assert_close([attend([negated, key, value], index)], [attend([-query, key, value], index)])
    leaf = value.clone().requires_grad_()
    upstream = torch.randn(27, 2, 16)
    a, b = (
        torch.autograd.grad(attend([query, key, leaf], index), leaf, gradient)[0]
        for gradient in (torch._neg_view(upstream), -upstream)
    )
    assert_close([a], [b])


# Calls that are left to torch


def test_other_kinds_of_tensors_are_left_to_torch(monkeypatch):
    index, other = index_of([5, 4]), index_of([5, 3])
    q, k, v = make_leaves(index, index)
    assert native.supports(q, k, v, index, index, True)
    assert not native.supports(q, k[:8], v[:8], index, other, True)
    assert not native.supports(q.double(), k.double(), v.double(), index, index, False)
    assert not native.supports(q.bfloat16(), k, v, index, index, False)
    assert not native.supports(q[..., :3], k[..., :3], v, index, index, False)
    assert not native.supports(q, k, v[..., :0], index, index, False)
    assert not native.supports(q.to("meta"), k.to("meta"), v.to("meta"), index, index, False)
    monkeypatch.setattr(library, "get_library", lambda: None)
    assert not native.supports(q, k, v, index, index, False)


def test_shapes_that_do_not_match_are_left_to_torch():
    """Torch refuses them; the kernel would read memory beyond a tensor."""
    index, (q, k, v) = two_rows()
    one_row, no_heads = index_of([27]), k[:, :0]
    for query, key, value, keys in (
        (torch.randn(27, 2, 32), k, v, index),
        (torch.randn(27, 3, 16), k, v, index),
        (q, k, v[:4], index),
        (q, k[:4], v[:4], index),
        (q, k, v, one_row),
        (q, no_heads, no_heads, index),
        (q[:4], k, v, index),
        (q, k, v[:, :1], index),
    ):
        assert not native.supports(query, key, value, index, keys, False)


def test_few_queries_and_few_heads_of_keys_are_left_to_torch():
    many_keys, one_query = index_of([1000] * 4), index_of([1] * 4)
    few, long = index_of([5] * 4), index_of([300])
    assert not native.supports(*make_leaves(one_query, many_keys), one_query, many_keys, False)
    assert native.supports(*make_leaves(few, few), few, few, False)
    with patch.object(torch, "get_num_threads", lambda: 2):
        assert native.supports(*make_leaves(long, long, 4, 2), long, long, False)
        assert not native.supports(*make_leaves(long, long, 4, 1), long, long, False)
        with torch.no_grad():
            assert native.supports(*make_leaves(long, long, 4, 1), long, long, False)


def test_tensor_subclasses_with_other_memory_are_left_to_torch():
    index, tensors = two_rows()
    sums = attend([TwoTensor(t, t.clone()) for t in tensors], index)
    assert_close([sums.a], [attend(tensors, index)])


def as_function(layer):
    """Return a function of one tensor: self-attention for an attention layer."""
    return (lambda x, **options: layer(x, x, **options)) if isinstance(layer, L.MultiHeadAttention) else layer


@pytest.mark.parametrize("make", [lambda: L.MultiHeadAttention(2, 16), lambda: L.LSTM(16, return_sequences=True)])
def test_saved_tensors_are_read_once(make):
    """So `torch.utils.checkpoint` and hooks on saved tensors restore each of them once."""
    function, x = as_function(make()), torch.randn(2, 20, 16)

    def count(calls, name, tensor):
        calls[name] += 1
        return tensor

    gradients = []
    for run in (lambda y: checkpoint(function, y, use_reentrant=False), function):
        y, calls = x.clone().requires_grad_(), Counter()
        with torch.autograd.graph.saved_tensors_hooks(partial(count, calls, "pack"), partial(count, calls, "unpack")):
            result = run(y)
        result.square().sum().backward()
        assert 0 < calls["unpack"] <= calls["pack"]
        gradients.append(y.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch uses it for its forward-mode rules
@pytest.mark.parametrize(
    "make",
    [
        lambda: L.MultiHeadAttention(2, 16),
        lambda: L.LSTM(16, return_sequences=True),
        lambda: L.Conv1D(32, 3, padding="same"),
    ],
)
@torch.no_grad()
def test_tracers_fake_tensors_and_forward_mode_see_operations_of_torch(make):
    """A compiled kernel would not be recorded, or would get tensors without numbers."""
    layer, x = make(), torch.randn(2, 20, 16)
    function = as_function(layer)
    expected = function(x + 1.0)
    assert_close([make_fx(function)(x)(x + 1.0)], [expected])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert function(mode.from_tensor(x)).shape == expected.shape
    if isinstance(layer, L.LSTM):  # gather_rows has no forward-mode rule, and says so
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode"):
            function(forward_ad.make_dual(x, torch.ones_like(x)))
        return
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    difference = (function(x + 1e-2) - function(x - 1e-2)) / 2e-2
    torch.testing.assert_close(tangent, difference, rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no rule for vmap over its own attention
@pytest.mark.parametrize("causal", [False, True])
def test_torch_func_and_batched_gradients_work(causal):
    layer, x = L.MultiHeadAttention(2, 16), torch.randn(3, 20, 16)
    function = partial(as_function(layer), use_causal_mask=causal)
    expected = function(x)
    weights = dict(layer.named_parameters())
    assert_close([torch.func.vmap(lambda y: function(y[None])[0])(x)], [expected])

    def loss(weights, y):
        return torch.func.functional_call(layer, weights, (y, y), {"use_causal_mask": causal}).square().sum()

    gradients = torch.func.grad(loss)(weights, x)
    expected = torch.autograd.grad(expected.square().sum(), list(weights.values()))
    assert_close([gradients[name] for name in weights], expected, 1e-3)
    y = x[:1, :20].clone().requires_grad_()
    result = function(y)[0, :, :2]
    upstream = torch.eye(result.numel()).view(-1, *result.shape)
    batched = torch.autograd.grad(result, y, upstream, is_grads_batched=True, retain_graph=True)[0]
    for n in (0, 13, 39):
        assert_close([batched[n]], torch.autograd.grad(result, y, upstream[n], retain_graph=True))


# Layers

MASKS = {
    "right": [[1, 1, 1, 0], [1, 0, 0, 0]],
    "left": [[0, 1, 1, 1], [0, 0, 0, 1]],
    "gaps": [[1, 0, 1, 1], [0, 1, 0, 1]],
    "an empty row": [[1, 1, 0, 0], [0, 0, 0, 0]],
    "no steps": [[0, 0, 0, 0]] * 2,
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("make", [lambda: L.MultiHeadAttention(2, 16), lambda: L.GroupQueryAttention(16, 4, 2)])
def test_layers_give_the_same_on_the_native_and_the_grouped_path(make, causal):
    """Outputs on the grid and the gradients of all weights; masked steps are NaN on the native path."""
    for name, rows in MASKS.items():
        mask = np.array(rows, dtype=bool)
        layer, x = make(), torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
        results = []
        for use_native in (True, False):
            inputs = x.masked_fill(~torch.from_numpy(mask)[..., None], float("nan")) if use_native else x
            supports = native.supports if use_native else lambda *arguments: False
            with (
                patch.object(native, "attend", wraps=native.attend) as attend_native,
                patch.object(native, "supports", supports),
            ):
                packed = padless.pack(inputs, mask)
                output = layer(packed, packed, use_causal_mask=causal)
            assert attend_native.call_count == use_native, name
            gradients = torch.autograd.grad((output.values**2).sum(), list(layer.parameters()))
            results.append([output.unpack(0.0), *gradients])
        assert_close(*results)
