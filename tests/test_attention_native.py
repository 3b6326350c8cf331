"""The compiled attention: every build of it against the reference, in double precision; and what it leaves to torch."""

from collections import Counter
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint

import padless
from padless import layers as L
from padless.kernels.attention import api, native
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask, attend_by_row
from padless.kernels.native import library
from padless.ragged.index import Index

pytestmark = pytest.mark.skipif(
    library.get_library() is None or library.get_library().lanes < 8, reason=padless.backends()["native kernels"]
)
LIBRARIES = {level: library.load_library(level) for level in library.supported_levels()}
RUNS_HERE = [level for level, found in LIBRARIES.items() if isinstance(found, library.Library) and found.lanes >= 8]


def leaves(queries, keys, heads=2, groups=2, size=16, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (queries.num_steps, heads, size), (keys.num_steps, groups, size), (keys.num_steps, groups, width)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def close(ours, theirs, bound=2e-5):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), other.double(), rtol=bound, atol=bound)


def compare(tensors, queries, keys, causal, scale=0.25, bound=2e-5):
    """Sums and gradients by both; the reference in double precision. Returns those of the kernel."""
    assert native.supports(*tensors, queries, keys, causal)
    ours, shown = attend(*tensors, queries, keys, AttentionMask(causal), scale)
    with torch.no_grad():
        torch.testing.assert_close(attend(*tensors, queries, keys, AttentionMask(causal), scale)[0], ours, rtol=0, atol=0)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    theirs = attend_by_row(*exact, queries, keys, AttentionMask(causal), scale)[0]
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    found = (ours, *torch.autograd.grad(ours, tensors, upstream))
    expected = torch.autograd.grad(theirs + 0 * sum(t.sum() for t in exact), exact, upstream.double())
    assert shown is None
    close(found, (theirs, *expected), bound)
    return found


@st.composite
def indexes(draw, batch):
    random = np.random.default_rng(draw(st.integers(0, 999)))
    columns = draw(st.sampled_from([0, 1, 5, 15, 16, 17, 40, 70, 130]))
    return Index(random.random((batch, columns)) < draw(st.sampled_from([0.0, 0.5, 1.0])) * random.random((batch, 1)) * 2)


@pytest.mark.parametrize("level", RUNS_HERE)
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
def test_it_equals_the_reference_for_any_two_subsets(level, data, batch, heads, size, width, threads, seed):
    queries = data.draw(indexes(batch))
    relation = data.draw(st.sampled_from(["same", "causal", "other"]))
    keys = queries if relation != "other" else data.draw(indexes(batch))
    tensors = leaves(queries, keys, *heads, size, width, seed)
    available = library.load_library(level)
    threads = max(1, min(threads, int((queries.lengths > 0).sum()) * heads[1]))  # with more, one row is left to torch
    with (
        patch.object(library, "get_library", lambda: available),
        patch.object(native, "FEW_KEYS", 1000),
        patch.object(torch, "get_num_threads", lambda: threads),
    ):
        compare(tensors, queries, keys, relation == "causal")


@pytest.mark.parametrize("level", RUNS_HERE)
@pytest.mark.parametrize("causal", [False, True])
def test_long_rows_meet_their_keys_piece_by_piece(level, causal):
    queries = Index.from_lengths(np.array([513, 3, 1100]))
    keys = queries if causal else Index.from_lengths(np.array([1300, 600, 511]))
    available = library.load_library(level)
    with patch.object(library, "get_library", lambda: available):
        compare(leaves(queries, keys, 2, 1), queries, keys, causal, bound=1e-4)  # sums over a thousand


def test_the_greatest_score_may_come_in_any_piece():
    """Sums that stand are shrunk when a greater score comes; without that the powers would run out of room."""
    index = Index.from_lengths(np.array([1200]))
    for place in (3, 600, 1199):
        query, key, value = leaves(index, index, 1, 1)
        with torch.no_grad():
            query.abs_()
            key[place] = 40.0
        compare([query, key, value], index, index, False, scale=1.0, bound=2e-3)  # scores of 500, in float32


def test_scores_beyond_all_powers_are_no_trouble():
    index = Index.from_lengths(np.array([40, 7]))
    query, key, value = leaves(index, index)
    ours = attend(query, key, value, index, index, AttentionMask(), 1e4)[0]
    assert torch.isfinite(ours).all()
    theirs = attend_by_row(query.double(), key.double(), value.double(), index, index, AttentionMask(), 1e4)[0]
    close([ours], [theirs], 1e-3)


def test_neither_batch_mates_nor_threads_change_a_bit():
    lengths = np.array([5, 1, 0, 700, 33, 64, 2])
    index = Index.from_lengths(lengths)
    tensors = leaves(index, index, 4, 2)
    for causal in (False, True):
        together = compare(tensors, index, index, causal)
        for threads in (1, 3, 8):
            with patch.object(torch, "get_num_threads", lambda n=threads: n):
                for a, b in zip(compare(tensors, index, index, causal), together, strict=True):
                    assert torch.equal(a, b)
        for row, length in enumerate(lengths):
            steps, one = slice(*index.offsets[row : row + 2]), Index.from_lengths(np.array([length]))
            alone = attend(*(t[steps] for t in tensors), one, one, AttentionMask(causal), 0.25)[0]
            assert torch.equal(alone, together[0][steps])


def test_work_is_dealt_out_by_what_it_costs():
    """A long row among short ones: no thread has much more than its share; every unit is someone's."""
    lengths = np.array([10] * 100 + [1000, 1000] + [10] * 50)
    task = native.AttentionTask(*[np.append(0, np.cumsum(lengths))] * 2)
    for backward in (False, True):
        units, cuts = task.split(8, 16, backward)
        assert cuts[0] == 0 and cuts[-1] == units[-1] and (np.diff(cuts) >= 0).all()
        per_row = np.diff(units)
        costs = np.repeat(lengths**2 / per_row, per_row)  # the rest is small beside it
        with patch.object(torch, "get_num_threads", lambda: 4):
            cuts = task.split(8, 16, backward)[1]
        shares = [costs[a:b].sum() / costs.sum() for a, b in zip(cuts, cuts[1:], strict=False)]
        assert len(shares) == 4 and max(shares) < 0.32


@pytest.mark.parametrize("word", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_own_row_and_head_only(word):
    index = Index.from_lengths(np.array([3, 4, 20]))
    for spoiled in range(3):
        tensors = [t.detach() for t in leaves(index, index)]
        tensors[spoiled][4, 1, 2] = word
        for causal in (False, True):
            ours = attend(*tensors, index, index, AttentionMask(causal), 0.25)[0]
            assert torch.isfinite(ours[:3]).all() and torch.isfinite(ours[7:]).all() and torch.isfinite(ours[:, 0]).all()
            assert not torch.isfinite(ours[3:7, 1]).all()


def test_a_causal_query_owes_nothing_to_what_comes_later():
    index = Index.from_lengths(np.array([150]))
    query, key, value = (t.detach() for t in leaves(index, index))
    before = attend(query, key, value, index, index, AttentionMask(True), 0.25)[0]
    for step in (1, 15, 16, 63, 64, 149):
        later = [query, key.clone(), value.clone()]
        later[1][step:] = 1e6
        later[2][step:] = 1e30
        assert torch.equal(attend(*later, index, index, AttentionMask(True), 0.25)[0][:step], before[:step])


@pytest.mark.parametrize("causal", [False, True])
def test_a_second_derivative_is_that_of_the_reference(causal):
    index = Index.from_lengths(np.array([5, 0, 3]))
    tensors = leaves(index, index, 4, 2)
    exact = [t.detach().double().requires_grad_() for t in tensors]

    def twice(given, sums):
        grads = torch.autograd.grad((sums**2).sum(), given, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in grads), given)

    assert native.supports(*tensors, index, index, causal)
    ours = twice(tensors, attend(*tensors, index, index, AttentionMask(causal), 0.25)[0])
    close(ours, twice(exact, attend_by_row(*exact, index, index, AttentionMask(causal), 0.25)[0]), 1e-4)


def test_half_precision_is_computed_in_float32():
    index = Index.from_lengths(np.array([5, 40, 3]))
    for dtype in (torch.bfloat16, torch.float16):
        tensors = [t.detach().to(dtype).requires_grad_() for t in leaves(index, index)]
        wide = [t.detach().float().requires_grad_() for t in tensors]
        ours, theirs = (attend(*given, index, index, AttentionMask(), 0.25)[0] for given in (tensors, wide))
        assert ours.dtype == dtype and torch.equal(ours, theirs.to(dtype))
        ours.sum().backward()
        theirs.sum().backward()
        for mine, other in zip(tensors, wide, strict=True):
            torch.testing.assert_close(mine.grad, other.grad.to(dtype))


def test_it_takes_what_lies_anywhere_in_memory_and_leaves_it_as_it_is():
    index = Index.from_lengths(np.array([5, 40, 3]))
    made = [t.detach() for t in leaves(index, index)]
    odd = [t.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for t in made]
    assert not any(t.is_contiguous() for t in odd)
    sums = attend(*odd, index, index, AttentionMask(), 0.25)[0]
    assert torch.equal(sums, attend(*made, index, index, AttentionMask(), 0.25)[0])
    sums.sum().backward()  # an upstream that is one number, expanded
    grads = [t.grad.clone() for t in odd]
    for t in odd:
        t.grad = None
    attend(*odd, index, index, AttentionMask(), 0.25)[0].backward(torch.ones(sums.shape))
    assert all(torch.equal(t.grad, g) for t, g in zip(odd, grads, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(made, odd, strict=True))


def test_what_is_not_for_it_goes_to_torch(monkeypatch):
    index, other = Index.from_lengths(np.array([5, 4])), Index.from_lengths(np.array([5, 3]))
    q, k, v = leaves(index, index)
    assert native.supports(q, k, v, index, index, True)
    assert not native.supports(q, k[:8], v[:8], index, other, True)
    assert not native.supports(q.double(), k.double(), v.double(), index, index, False)
    assert not native.supports(q.bfloat16(), k, v, index, index, False)
    assert not native.supports(q[..., :3], k[..., :3], v, index, index, False)
    assert not native.supports(q, k, v[..., :0], index, index, False)
    assert not native.supports(q.to("meta"), k.to("meta"), v.to("meta"), index, index, False)
    monkeypatch.setattr(library, "get_library", lambda: None)
    assert not native.supports(q, k, v, index, index, False)


def seven(heads=2, groups=2):
    index = Index.from_lengths(np.array([20, 7]))
    return index, [t.detach() for t in leaves(index, index, heads, groups)]


def test_what_does_not_fit_is_torchs_to_refuse_and_reads_no_memory():
    index, (q, k, v) = seven()
    one, none = Index.from_lengths(np.array([27])), k[:, :0]
    for query, key, value, keys in (
        (torch.randn(27, 2, 32), k, v, index),
        (torch.randn(27, 3, 16), k, v, index),
        (q, k, v[:4], index),
        (q, k[:4], v[:4], index),
        (q, k, v, one),
        (q, none, none, index),
        (q[:4], k, v, index),
        (q, k, v[:, :1], index),
    ):
        assert not native.supports(query, key, value, index, keys, False)


def test_few_queries_and_few_heads_of_keys_go_to_torch():
    many, single = Index.from_lengths(np.array([1000] * 4)), Index.from_lengths(np.array([1] * 4))
    few, long = Index.from_lengths(np.array([5] * 4)), Index.from_lengths(np.array([300]))
    assert not native.supports(*leaves(single, many), single, many, False)
    assert native.supports(*leaves(few, few), few, few, False)
    with patch.object(torch, "get_num_threads", lambda: 2):
        assert native.supports(*leaves(long, long, 4, 2), long, long, False)
        assert not native.supports(*leaves(long, long, 4, 1), long, long, False)
        with torch.no_grad():
            assert native.supports(*leaves(long, long, 4, 1), long, long, False)


def count(moves, where, tensor):
    moves[where] += 1
    return tensor


@pytest.mark.parametrize("make", [lambda: L.MultiHeadAttention(2, 16), lambda: L.LSTM(16, return_sequences=True)])
def test_activations_may_be_made_again_for_the_way_back(make):
    """`torch.utils.checkpoint` and hooks on saved tensors bring each of them back once."""
    layer, x = make(), torch.randn(2, 20, 16)
    call = (lambda y: layer(y, y)) if isinstance(layer, L.MultiHeadAttention) else layer
    grads = []
    for run in (lambda y: checkpoint(call, y, use_reentrant=False), call):
        y = x.clone().requires_grad_()
        moves = Counter()
        with torch.autograd.graph.saved_tensors_hooks(partial(count, moves, "there"), partial(count, moves, "back")):
            result = run(y)
        result.square().sum().backward()
        assert 0 < moves["back"] <= moves["there"]
        grads.append(y.grad)
    torch.testing.assert_close(*grads)


def test_tensors_that_keep_their_numbers_elsewhere_go_to_torch():
    index, given_ = seven()
    twice = attend(*(TwoTensor(t, t.clone()) for t in given_), index, index, AttentionMask(), 0.25)[0]
    close([twice.a], [attend(*given_, index, index, AttentionMask(), 0.25)[0]])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, on the way to forward-mode rules
@pytest.mark.parametrize(
    "make",
    [
        lambda: L.MultiHeadAttention(2, 16),
        lambda: L.LSTM(16, return_sequences=True),
        lambda: L.Conv1D(32, 3, padding="same"),
    ],
)
@torch.no_grad()
def test_who_listens_to_torchs_operations_hears_them(make):
    """Tracers, fake tensors and forward-mode derivatives: a kernel would be passed over, or given nothing."""
    layer, x = make(), torch.randn(2, 20, 16)
    call = (lambda y: layer(y, y)) if isinstance(layer, L.MultiHeadAttention) else layer
    expected = call(x + 1.0)
    close([make_fx(call)(x)(x + 1.0)], [expected])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert call(mode.from_tensor(x)).shape == expected.shape
    if isinstance(layer, L.LSTM):  # its moves of rows have no forward rule, and say so
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode"):
            call(forward_ad.make_dual(x, torch.ones_like(x)))
        return
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        tangent = forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    slope = (call(x + 1e-2) - call(x - 1e-2)) / 2e-2
    torch.testing.assert_close(tangent, slope, rtol=1e-2, atol=1e-2)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no rule for vmap over its own attention
@pytest.mark.parametrize("causal", [False, True])
def test_torch_func_goes_through_attention_as_before(causal):
    layer, x = L.MultiHeadAttention(2, 16), torch.randn(3, 20, 16)
    expected = layer(x, x, use_causal_mask=causal)
    weights = dict(layer.named_parameters())
    each = torch.func.vmap(lambda y: layer(y[None], y[None], use_causal_mask=causal)[0])(x)
    close([each], [expected])

    def loss(w, y):
        return torch.func.functional_call(layer, w, (y, y), {"use_causal_mask": causal}).square().sum()

    ours = torch.func.grad(loss)(weights, x)
    theirs = torch.autograd.grad(expected.square().sum(), list(weights.values()))
    close([ours[name] for name in weights], theirs, 1e-3)
    y = x[:1, :20].clone().requires_grad_()
    result = layer(y, y, use_causal_mask=causal)[0, :, :2]
    many = torch.eye(result.numel()).view(-1, *result.shape)
    batched = torch.autograd.grad(result, y, many, is_grads_batched=True, retain_graph=True)[0]
    for n in (0, 13, 39):
        close([batched[n]], torch.autograd.grad(result, y, many[n], retain_graph=True))


def test_autocast_says_what_comes_out():
    index, (q, k, v) = seven()
    for size in (15, 16):
        a = torch.randn(2, 4, size)
        with torch.autocast("cpu", torch.bfloat16):
            assert L.Attention()([a, a]).dtype == torch.bfloat16
            found = attend(q, k, v, index, index, AttentionMask(), 0.25)[0]
    assert torch.equal(found, attend(q, k, v, index, index, AttentionMask(), 0.25)[0].bfloat16())


def test_numbers_that_are_views_with_the_other_sign_are_read_with_it():
    index, (q, k, v) = seven()
    turned = torch._neg_view(q)
    assert torch.equal(turned, -q)
    close(
        [attend(turned, k, v, index, index, AttentionMask(), 0.25)[0]],
        [attend(-q, k, v, index, index, AttentionMask(), 0.25)[0]],
    )
    leaf = v.clone().requires_grad_()
    upstream = torch.randn(27, 2, 16)
    found = [
        torch.autograd.grad(attend(q, k, leaf, index, index, AttentionMask(), 0.25)[0], leaf, given_)[0]
        for given_ in (torch._neg_view(upstream), -upstream)
    ]
    close(found[:1], found[1:])


@pytest.mark.parametrize("level", RUNS_HERE)
def test_keys_whose_score_is_minus_infinity_count_nothing(level):
    queries, keys = Index.from_lengths(np.array([20])), Index.from_lengths(np.array([1100]))
    query, key, value = torch.full((20, 1, 16), 2.0), torch.zeros(1100, 1, 16), torch.ones(1100, 1, 16)
    key[:600, :, 0] = -3e38
    value[:600] = 1e30
    available = library.load_library(level)
    with patch.object(library, "get_library", lambda: available):
        assert torch.equal(attend(query, key, value, queries, keys, AttentionMask())[0], torch.ones(20, 1, 16))
        key[:600, :, 0] = -5e3  # far below the others, but finite
        assert torch.equal(attend(query, key, value, queries, keys, AttentionMask())[0], torch.ones(20, 1, 16))


def test_the_error_does_not_grow_with_the_keys():
    queries, keys = Index.from_lengths(np.array([16])), Index.from_lengths(np.array([20000]))
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(16, 1, 16, generator=generator), torch.randn(20000, 1, 16, generator=generator)
    value = torch.rand(20000, 1, 16, generator=generator) + 1
    ours = attend(query, key, value, queries, keys, AttentionMask(), 0.25)[0].double()
    exact = attend_by_row(query.double(), key.double(), value.double(), queries, keys, AttentionMask(), 0.25)[0]
    assert float(((ours - exact) / exact).abs().max()) < 3e-6


MASKS = {
    "right": [[1, 1, 1, 0], [1, 0, 0, 0]],
    "left": [[0, 1, 1, 1], [0, 0, 0, 1]],
    "holes": [[1, 0, 1, 1], [0, 1, 0, 1]],
    "an empty row": [[1, 1, 0, 0], [0, 0, 0, 0]],
    "nothing": [[0, 0, 0, 0]] * 2,
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(
    "make, causal",
    [
        (lambda: L.MultiHeadAttention(2, 16), False),
        (lambda: L.MultiHeadAttention(2, 16), True),
        (lambda: L.GroupQueryAttention(16, 4, 2), False),
        (lambda: L.GroupQueryAttention(16, 4, 2), True),
    ],
)
def test_layers_are_the_same_by_both_paths(kind, make, causal):
    """Outputs on the grid and the gradients of all weights, with the numbers at masked steps spoiled for one of them."""
    mask = np.array(MASKS[kind], dtype=bool)
    layer, x = make(), torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    calls, found = [], []
    real = native.attend
    for compiled_ in (True, False):
        given_ = x.masked_fill(~torch.from_numpy(mask)[..., None], float("nan")) if compiled_ else x
        with (
            patch.object(api.native, "attend", lambda *a: calls.append(1) or real(*a)),
            patch.object(api.native, "supports", native.supports if compiled_ else lambda *a: False),
        ):
            packed = padless.pack(given_, mask)
            output = layer(packed, packed, use_causal_mask=causal)
        weights = list(layer.parameters())
        grads = torch.autograd.grad((output.values**2).sum(), weights)
        found.append([output.unpack(0.0), *grads])
    assert len(calls) == 1
    close(*found)
