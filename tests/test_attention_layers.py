"""Attention layers: kernel and reference, properties with two masks, parity with Keras, and Keras's faults.

`test_properties.py` tests the properties of each layer with one mask.
"""

import copy

import numpy as np
import pytest
import torch
from cases import Attending
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_parity import KINDS, B, D, T, close, embed, ids_of, keras, losing, mask_of, numbers, table, twins

import padless
from padless import layers as L
from padless import losses, pack
from padless.errors import ArgumentError, MaskError, ShapeError
from padless.kernels.attention import grouped
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask, attend_by_row
from padless.kernels.index_cache import IndexCache
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.testing import layer_properties
from padless.testing.harness import LayerHarness

S = 6  # columns of keys, where they are not those of queries


def other_mask(kind):
    """Return a mask of the same kind for keys, on another grid and with its rows rotated."""
    return np.roll(np.pad(mask_of(kind), ((0, 0), (0, S - T)), constant_values=kind == "none"), 1, axis=0)


def leaves_of(*shapes):
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def same(first, second):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------ the kernel


@st.composite
def sights(draw, batch, heads, columns, others):
    """Draw an attention mask: none, one of the three kinds, or all three together."""
    ways = draw(st.sampled_from([set(), {"causal"}, {"window"}, {"mask"}, {"causal", "window", "mask"}]))
    mask = None
    if "mask" in ways:
        shape = (
            draw(st.sampled_from([1, batch])),
            draw(st.sampled_from([1, heads])),
            draw(st.sampled_from([1, columns])),
            draw(st.sampled_from([1, others])),
        )
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) < 0.6
    return AttentionMask("causal" in ways, draw(st.integers(1, 3)) if "window" in ways else None, mask)


@st.composite
def situations(draw):
    """Draw the indexes of queries and keys, often the same one, the numbers of heads, and an attention mask."""
    batch, columns = draw(st.integers(2, 4)), draw(st.integers(1, 6))
    heads, groups = draw(st.sampled_from([(1, 1), (2, 2), (4, 2)]))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    queries = Index(random.random((batch, columns)) < draw(st.sampled_from([0.5, 0.8, 0.0, 1.0])))
    relation = draw(st.sampled_from(["same", "right", "any"]))
    if relation == "same":
        keys = queries
    elif relation == "right":
        queries = Index.from_lengths(random.integers(0, columns + 1, batch), columns)
        keys = Index.from_lengths(random.integers(0, 6, batch), 5)
    else:
        keys = Index(random.random((batch, draw(st.integers(1, 6)))) < draw(st.sampled_from([0.5, 0.8, 0.0, 1.0])))
    return queries, keys, heads, groups, draw(sights(batch, heads, columns, keys.shape[1]))


@given(situations(), st.sampled_from([0, 4096]), st.booleans())
@settings(max_examples=150)
def test_grouped_attention_matches_reference(situation, slack, show):
    queries, keys, heads, groups, sight = situation
    torch.manual_seed(1)
    q, k, v = leaves_of((queries.num_steps, heads, 3), (keys.num_steps, groups, 3), (keys.num_steps, groups, 2))
    with pytest.MonkeyPatch.context() as patch:  # 0: no cell is wasted, every length alone
        patch.setattr(grouped, "_layouts", IndexCache())
        group_rows = grouped.group_rows
        patch.setattr(grouped, "group_rows", lambda a, b, _: group_rows(a, b, slack))
        outputs, shown = attend(q, k, v, queries, keys, sight, 0.7, return_weights="before_dropout" if show else None)
    expected, grid = attend_by_row(q, k, v, queries, keys, sight, 0.7)
    same([outputs], [expected])
    pull = torch.randn(outputs.shape, dtype=torch.float64)
    totals = [(outputs * pull).sum(), (expected * pull).sum()]
    if show:
        assert shown is not None
        same([shown], [grid])
        weights = torch.randn(grid.shape, dtype=torch.float64)
        totals = [totals[0] + (shown * weights).sum(), totals[1] + (grid * weights).sum()]
    found = [
        torch.autograd.grad(total, (q, k, v)) for total in totals
    ]  # every input has a gradient, even for empty sequences
    same(*found)


def test_causal_mask_compares_columns_of_left_padded_queries():
    queries = Index(np.array([[0, 1, 1], [0, 1, 1]], dtype=bool))
    keys = Index.from_lengths(np.array([2, 2]))
    tensors = leaves_of((4, 1, 3), (4, 1, 3), (4, 1, 2))
    causal = AttentionMask(causal=True)
    same([attend(*tensors, queries, keys, causal, 0.7)[0]], [attend_by_row(*tensors, queries, keys, causal, 0.7)[0]])


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30), st.sampled_from([0, 50, 4096]))
@settings(max_examples=100)
def test_every_row_is_in_one_group_with_bounded_padding(lengths, slack):
    pairs = np.array(lengths, dtype=np.int64).reshape(-1, 2)
    parts = grouped.group_rows(pairs[:, 0], pairs[:, 1], slack)
    live = [row for row, (a, b) in enumerate(lengths) if a and b]
    assert sorted(row for part in parts for row in part) == live
    for part in parts:
        real = int(pairs[part].prod(1).sum())
        assert len(part) * int(pairs[part].max(0).prod()) - real <= max(real // 8, slack)


def test_cost_grows_with_real_steps_only():
    """One long row among short ones: a call on the padded batch would compute 64 times the cells."""
    index = Index.from_lengths(np.array([400] + [5] * 63))
    plan = grouped.attention_layout(index, index, torch.device("cpu"))
    cells = sum(group.queries.columns.size * group.keys.width for group in plan.groups)
    assert cells <= int((index.lengths**2).sum()) * 9 // 8 + 4096
    assert plan is grouped.attention_layout(index, index, torch.device("cpu"))


def test_batch_without_padding_is_one_call_without_mask(monkeypatch):
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        grouped.functional, "scaled_dot_product_attention", lambda *args, **more: calls.append(more) or fused(*args, **more)
    )
    x = torch.randn(3, 5, 4)
    layer = L.MultiHeadAttention(2, 3)
    layer(x, x, use_causal_mask=True)
    layer(x, torch.randn(3, 7, 4))
    assert [(call["attn_mask"], call["is_causal"]) for call in calls] == [(None, True), (None, False)]


def test_layout_is_freed_with_its_index():
    index = Index.from_lengths(np.array([2, 1]))
    grouped.attention_layout(index, index, torch.device("cpu"))
    before = len(grouped._layouts)
    del index
    assert len(grouped._layouts) < before


# ------------------------------------------------------------------------------------------------ two masks

CROSS = {
    "Attention": lambda: L.Attention(use_scale=True),
    "AdditiveAttention": lambda: L.AdditiveAttention(),
    "MultiHeadAttention": lambda: Attending(L.MultiHeadAttention(2, 3, value_dim=4)),
    "GroupQueryAttention": lambda: Attending(L.GroupQueryAttention(3, 4, 2)),
    "TransformerDecoder": lambda: Attending(L.TransformerDecoder(5, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CROSS)
def test_properties_hold_for_query_and_key_with_different_masks(name):
    subject = LayerHarness.from_layer(CROSS[name], [(4,), (4,)])
    for kind in ("right", "left", "holes", "empty"):
        grids = [mask_of(kind), other_mask(kind)]
        layer_properties.matches_unpadded(subject, grids)
        layer_properties.ignores_padding(subject, grids)
        layer_properties.independent_of_batch(subject, grids)


def test_query_sees_steps_of_both_key_and_value():
    query, value, key = torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.randn(2, 4, 4)
    first, second = [[1, 1, 1, 0], [0, 1, 1, 0]], [[0, 1, 1, 1], [1, 1, 0, 0]]
    both = np.logical_and(first, second)
    heads = L.MultiHeadAttention(2, 3)
    attention = L.Attention()
    expected = heads(query, pack(value, both), pack(key, both))
    torch.testing.assert_close(heads(query, pack(value, first), pack(key, second)), expected)
    torch.testing.assert_close(heads(query, value, key, value_mask=first, key_mask=second), expected)
    torch.testing.assert_close(heads(query, pack(value, both), key), expected)
    torch.testing.assert_close(heads(query, value, pack(key, both)), expected)
    short = heads.__class__(2, 3)
    torch.testing.assert_close(short(query, value[..., :4], key_mask=first), short(query, pack(value[..., :4], first)))
    torch.testing.assert_close(
        short(query, value[..., :4], None, None, None, first), short(query, pack(value[..., :4], first))
    )
    expected = attention([query, pack(value, both), key])
    torch.testing.assert_close(attention([query, pack(value, first), pack(key, second)]), expected)
    torch.testing.assert_close(attention([query, value, key], mask=[None, both]), expected)  # Keras's list of two
    torch.testing.assert_close(attention([query, value, key], [None, both]), expected)


def test_explicit_masks_equal_masks_of_packed_inputs():
    query, value = torch.randn(B, T, 4), torch.randn(B, S, 4)
    layer = L.MultiHeadAttention(2, 3)
    expected = layer(pack(query, mask_of("holes")), pack(value, other_mask("left")))
    given = layer(query, value, query_mask=mask_of("holes"), value_mask=torch.from_numpy(other_mask("left")).int())
    assert torch.equal(given.values, expected.values)
    assert np.array_equal(given.index.mask, mask_of("holes"))
    plain = layer(query, pack(value, other_mask("left")))
    assert isinstance(plain, torch.Tensor)
    torch.testing.assert_close(plain[torch.from_numpy(mask_of("holes"))], expected.values)


def test_output_has_the_index_object_of_the_query():
    x, y = pack(torch.randn(B, T, 4), mask_of("holes")), pack(torch.randn(B, S, 4), other_mask("right"))
    for output in (
        L.Attention()([x, y]),
        L.MultiHeadAttention(2, 3)(x, y),
        L.GroupQueryAttention(3, 2, 1)(x, y),
        L.TransformerEncoder(4, 2)(x),
        L.TransformerDecoder(4, 2)(x, y),
        L.RotaryEmbedding()(x),
    ):
        assert output.index is x.index and output.gap_values is None


# ------------------------------------------------------------------------------------------------ queries without keys


def test_query_without_visible_keys_gives_zero_plus_bias():
    for training in [False, True]:
        x, nothing = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 5, 4)
        mask = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 0, 0]])
        layer = L.MultiHeadAttention(2, 3, dropout=0.2, bias_initializer="ones")
        output = layer(x, pack(nothing, mask), training=training)
        assert torch.equal(output[0], torch.ones(3, 4))
        assert not torch.equal(output[1], torch.ones(3, 4))
        output, scores = layer(x, pack(nothing, mask), return_attention_scores=True)
        assert torch.equal(output[0], torch.ones(3, 4)) and not scores[0].any()
        allowed = torch.ones(2, 3, 5, dtype=torch.bool)
        allowed[:, 1] = False
        output = layer(x, nothing, attention_mask=allowed)
        assert torch.equal(output[:, 1], torch.ones(2, 4))
        (gradient,) = torch.autograd.grad(output.sum(), x)
        assert torch.isfinite(gradient).all() and not gradient[:, 1].any() and gradient[:, 0].all()
        assert not L.Attention()([x, pack(nothing, mask)])[0].any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.Attention(use_scale=True),
        lambda: L.AdditiveAttention(),
        lambda: Attending(L.MultiHeadAttention(2, 3)),
        lambda: Attending(L.GroupQueryAttention(3, 2, 1, use_gate=True)),
    ],
)
def test_every_weight_has_a_gradient_for_empty_sequences(make):
    """DDP would wait for a weight without a gradient."""
    for shape, mask in (((2, 3, 4), np.zeros((2, 3))), ((2, 0, 4), np.zeros((2, 0))), ((0, 3, 4), np.zeros((0, 3)))):
        for query in (pack(torch.randn(shape), mask), torch.randn(shape)):
            layer = make()
            output = layer([query, pack(torch.randn(shape), mask)])
            (output.values if isinstance(output, Packed) else output).sum().backward()
            for name, weight in layer.named_parameters():
                assert weight.grad is not None and torch.isfinite(weight.grad).all(), name


# ------------------------------------------------------------------------------------------------ attention masks


@pytest.mark.parametrize("shape", [(B, T, S), (B, 1, S), (B, T, 1), (1, T, S), (T, S), (B, 3, T, S), (B, 1, T, S)])
def test_attention_mask_counts_columns_of_the_grid(shape):
    allowed = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.6
    query, value = torch.randn(B, T, 4), torch.randn(B, S, 4)
    layer = L.MultiHeadAttention(3, 2)
    wide = allowed
    while wide.ndim < 4:
        wide = wide.unsqueeze(-3)
    real = torch.from_numpy(mask_of("holes"))[:, None, :, None] & torch.from_numpy(other_mask("left"))[:, None, None]
    expected = layer(
        query, value, attention_mask=wide & real
    )  # a call on plain tensors, with the masks of the inputs in the attention mask
    for form in (allowed, allowed.int(), allowed.numpy()):
        output, scores = layer(
            pack(query, mask_of("holes")), pack(value, other_mask("left")), attention_mask=form, return_attention_scores=True
        )
        torch.testing.assert_close(output.values, expected[torch.from_numpy(mask_of("holes"))])
        assert not scores[~(wide & real).expand_as(scores)].any()
        fused = layer(pack(query, mask_of("holes")), pack(value, other_mask("left")), attention_mask=form)
        torch.testing.assert_close(fused.values, output.values)


def test_inputs_and_attention_masks_of_wrong_shape_raise():
    x = torch.randn(2, 3, 4)
    for mask in (torch.ones(2, 4, 3), torch.ones(3), torch.ones(2, 5, 3, 3), torch.ones(1, 2, 1, 3, 3)):
        if mask.ndim == 1:
            continue
        with pytest.raises(ShapeError, match="attention_mask"):
            L.MultiHeadAttention(2, 3)(x, x, attention_mask=mask)
    with pytest.raises(ShapeError, match="one sequence of values"):
        L.MultiHeadAttention(2, 3)(x, x[:1])
    with pytest.raises(ShapeError, match="a key for each value"):
        L.MultiHeadAttention(2, 3)(x, x, x[:, :2])
    with pytest.raises(ShapeError, match="TimeDistributed|steps"):
        L.Attention()([pack(torch.randn(2, 3, 4, 5), np.ones((2, 3, 4)))] * 2)


# ------------------------------------------------------------------------------------------------ Keras's numbers


def keras_of(x, kind=None):
    """Return a copy for Keras, which sets an attribute on it for the mask."""
    x = x.detach().clone()
    if kind is not None:
        x._keras_mask = torch.from_numpy(mask_of(kind))
    return x


HEADS = {
    "plain": ({}, {}),
    "causal": ({}, {"use_causal_mask": True}),
    "window": ({"sliding_window": 2}, {}),
    "causal-window": ({"sliding_window": 3, "use_bias": False}, {"use_causal_mask": True}),
    "mask": ({}, {"attention_mask": torch.rand(B, T, T, generator=torch.Generator().manual_seed(3)) < 0.8}),
    "gate": ({"use_gate": True}, {}),
    "scores": ({"value_dim": 5}, {"return_attention_scores": True}),
    "shaped": ({"output_shape": (2, 3)}, {}),
}


def same_where_seen(mine, theirs, seen, layers):
    """Compare outputs and gradients where a query sees a key; elsewhere two paths of Keras disagree with each other."""
    mine, theirs = mine.unpack(), theirs
    close(mine[seen], theirs[seen])
    pull = torch.from_numpy(numbers(*theirs.shape, seed=4))
    pull[~seen] = 0
    for output, layer in ((mine, layers[0]), (theirs, layers[1])):
        weights = [w if isinstance(w, torch.Tensor) else w.value for w in layer.trainable_weights]
        found = torch.autograd.grad((output * pull).sum(), weights, allow_unused=True)
        layer.found = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
    for number, (a, b) in enumerate(zip(layers[0].found, layers[1].found, strict=True)):
        close(a, b, what=f"gradient {number}")


@pytest.mark.slow
@pytest.mark.parametrize("case", HEADS)
def test_multi_head_layers_match_keras(case):
    for kind in KINDS:
        arguments, given = HEADS[case]
        x, real = torch.from_numpy(numbers(B, T, D)), torch.from_numpy(mask_of(kind))
        sees = real[:, None] & real[:, :, None] & given.get("attention_mask", torch.ones(B, T, T, dtype=torch.bool))
        for name, sizes in (("MultiHeadAttention", (2, 3)), ("GroupQueryAttention", (3, 4, 2))):
            if name == "GroupQueryAttention" and {"value_dim", "output_shape"} & arguments.keys():
                arguments = {}
            shape = (B, T, D)
            mine, theirs = twins(lambda lib, n=name, s=sizes, a=arguments: getattr(lib.layers, n)(*s, **a), shape, shape)
            assert [tuple(w.shape) for w in mine.weights] == [tuple(w.shape) for w in theirs.weights]
            h = pack(x, mask_of(kind))
            with losing():
                output, expected = mine(h, h, **given), theirs(keras_of(x, kind), keras_of(x, kind), **given)
            if case == "scores":
                (output, scores), (expected, shown) = output, expected
                close(scores.permute(0, 2, 3, 1)[sees], shown.permute(0, 2, 3, 1)[sees])
                assert not scores.permute(0, 2, 3, 1)[~sees].any()
            same_where_seen(output, expected, sees.any(-1), (mine, theirs))
            assert mine.compute_output_shape(shape, shape) == tuple(expected.shape)


@pytest.mark.parametrize(
    "make",
    [
        lambda lib: lib.layers.Attention(),
        lambda lib: lib.layers.Attention(use_scale=True),
        lambda lib: lib.layers.Attention(score_mode="concat", use_scale=True),
        lambda lib: lib.layers.AdditiveAttention(),
    ],
    ids=["dot", "scale", "concat", "additive"],
)
def test_attention_matches_keras(make):
    for kind in KINDS:
        q, v, k = (torch.from_numpy(numbers(B, n, d, seed=n + d)) for n, d in ((T, D), (S, 4), (S, D)))
        masks = [mask_of(kind), other_mask(kind), other_mask(kind)]
        mine, theirs = twins(make, [(B, T, D), (B, S, 4), (B, S, D)])
        seen = torch.from_numpy(mask_of(kind) & other_mask(kind).any(-1, keepdims=True))
        own = [pack(x, m) for x, m in zip((q, v, k), masks, strict=True)]
        for more in ({}, {"use_causal_mask": True}, {"return_attention_scores": True}):
            output = mine(own, **more)
            expected = theirs([q, v, k], mask=[torch.from_numpy(m) for m in masks], **more)
            if "return_attention_scores" in more:
                (output, scores), (expected, shown) = output, expected
                cells = seen[:, :, None] & torch.from_numpy(other_mask(kind))[:, None]
                close(scores[cells], shown[cells])
                assert not scores[~cells].any()
            here = seen
            if "use_causal_mask" in more:
                here = seen & torch.from_numpy(np.cumsum(other_mask(kind), 1)[:, :T] > 0)
            same_where_seen(output, expected, here, (mine, theirs)) if theirs.weights else close(
                output.unpack()[here], expected[here]
            )


def test_cross_attention_matches_keras():
    for kind in KINDS:
        q, v, k = (torch.from_numpy(numbers(B, n, d, seed=n + d)) for n, d in ((T, D), (S, 4), (S, 5)))
        shapes = (B, T, D), (B, S, 4), (B, S, 5)
        mine, theirs = twins(lambda lib: lib.layers.MultiHeadAttention(2, 3), *shapes)
        output = mine(pack(q, mask_of(kind)), pack(v, other_mask(kind)), pack(k, other_mask(kind)))
        theirs_mask = torch.from_numpy(other_mask(kind))
        expected = theirs(q, v, k, value_mask=theirs_mask, key_mask=theirs_mask)
        seen = torch.from_numpy(mask_of(kind) & other_mask(kind).any(-1, keepdims=True))
        same_where_seen(output, expected, seen, (mine, theirs))


# ------------------------------------------------------------------------------------------------ where Keras is wrong


def block(lib, ids, layer=None):
    """Apply a post-norm block to an embedding."""
    h, _ = embed(lib, ids, 4)
    heads = layer or lib.layers.MultiHeadAttention(2, 3)
    return lib.layers.LayerNormalization()(lib.layers.Add()([h, heads(h, h)])), heads


def test_a_post_norm_residual_keeps_its_mask_which_keras_loses():
    ids = ids_of("right")
    (mine, own), (theirs, other) = (block(lib, ids) for lib in (padless, keras))
    other.set_weights(own.get_weights())
    theirs, _ = block(keras, ids, other)
    real = torch.from_numpy(ids != 0)
    close(mine.unpack()[real], theirs[real])
    assert np.array_equal(mine.index.mask, ids != 0)
    assert getattr(theirs, "_keras_mask", None) is None
    target = torch.zeros(B, T, 4)
    loss = losses.MeanSquaredError()(pack(target, ids != 0), mine).item()
    assert loss == pytest.approx(mine.values.square().mean().item(), rel=1e-6)
    assert keras.losses.MeanSquaredError()(target, theirs).item() == pytest.approx(
        theirs.square().mean().item(), rel=1e-6
    )  # padding counted


def test_keras_lets_a_query_without_keys_see_the_padding():
    x, mask = torch.from_numpy(numbers(B, T, D)), torch.zeros(B, T, dtype=torch.bool)
    mine, theirs = twins(lambda lib: lib.layers.MultiHeadAttention(2, 3), (B, T, D), (B, T, D))
    bias = mine.output_dense.bias.detach().expand(B, T, D)
    close(mine(x, x, value_mask=mask), bias)
    explicit, _ = theirs(x, x, value_mask=mask, return_attention_scores=True)
    fused = theirs(x, x, value_mask=mask)
    assert (fused.detach() - bias).abs().max() > 0.1  # a mean over the padding
    close(L.Attention()([x, x], mask=[None, mask.numpy()]), torch.zeros(B, T, D))
    close(keras.layers.Attention()([x, x], mask=[None, mask]), x.mean(1, keepdim=True).expand(B, T, D))
    assert torch.isfinite(explicit).all()


def test_keras_ignores_the_mask_of_a_key_and_an_explicit_one_of_a_query():
    q, v, k = (torch.from_numpy(numbers(2, n, 3, seed=n)) for n in (2, 3, 3))
    mask = torch.tensor([[1, 1, 0], [0, 1, 0]]).bool()
    theirs = keras.layers.Attention()
    close(theirs([q, v, k], mask=[None, None, mask]), theirs([q, v, k]))
    close(L.Attention()([q, v, k], mask=[None, None, mask.numpy()]), theirs([q, v, k], mask=[None, mask, None]))
    heads = keras.layers.MultiHeadAttention(2, 3)
    output = heads(q, v, query_mask=torch.tensor([[1, 0], [0, 1]]).bool())
    assert getattr(output, "_keras_mask", None) is None
    mine = L.MultiHeadAttention(2, 3)(q, v, query_mask=[[1, 0], [0, 1]])
    assert mine.index.mask.tolist() == [[True, False], [False, True]]


def test_keras_becomes_nan_where_masked_numbers_are():
    x = torch.from_numpy(numbers(2, 3, 4))
    x[0, 2] = float("nan")
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    mine, theirs = twins(lambda lib: lib.layers.MultiHeadAttention(2, 3), (2, 3, 4), (2, 3, 4))
    assert torch.isnan(theirs(x, x, value_mask=torch.from_numpy(mask).bool())[0, :2]).all()
    h = pack(x.clone().requires_grad_(), mask)
    assert torch.isfinite(mine(h, h).values).all()


def test_keras_takes_heads_for_rows_in_a_mask_with_heads():
    """With two rows and two heads it broadcasts the heads of `attention_mask` against the rows of the padding."""
    x = torch.from_numpy(numbers(2, 3, 4))
    padding = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    allowed = torch.ones(2, 2, 3, 3, dtype=torch.bool)
    allowed[:, 1, :, 0] = False
    mine, theirs = twins(lambda lib: lib.layers.MultiHeadAttention(2, 3), (2, 3, 4), (2, 3, 4))
    right = theirs(x, x, attention_mask=allowed & padding[:, None, None])
    close(mine(x, x, value_mask=padding.numpy(), attention_mask=allowed), right)
    assert (theirs(x, x, value_mask=padding, attention_mask=allowed) - right).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------ dropout, scores


def test_dropout_drops_weights_in_training_only():
    x = pack(torch.randn(2, 5, 4), lengths=[5, 3])
    layer = L.MultiHeadAttention(2, 3, dropout=0.5, seed=1)
    calm = layer(x, x)
    assert torch.equal(layer(x, x).values, calm.values)
    noisy, scores = layer(x, x, training=True, return_attention_scores=True)
    assert not torch.equal(noisy.values, calm.values)
    torch.testing.assert_close(scores.sum(-1)[1, :, :3], torch.ones(2, 3))  # as in Keras: before dropout
    ones = pack(torch.ones(1, 4000, 1))
    summed, weights = L.Attention(dropout=0.25, seed=2)([ones[:, :3], ones], training=True, return_attention_scores=True)
    assert (weights == 0).float().mean() == pytest.approx(0.25, abs=0.03)  # and here after it
    torch.testing.assert_close(summed.values, torch.ones(3, 1), atol=0.05, rtol=0)
    again = L.Attention(dropout=0.25, seed=2)([ones[:, :3], ones], training=True)
    assert torch.equal(again.values, summed.values)


def test_dropout_rate_one_leaves_the_bias():
    x = pack(torch.randn(2, 5, 4), lengths=[5, 3])
    layer = L.MultiHeadAttention(2, 3, dropout=1.0, bias_initializer="ones")
    assert torch.equal(layer(x, x, training=True).values, torch.ones(8, 4))


# ------------------------------------------------------------------------------------------------ positions


def test_positions_count_real_steps_or_columns():
    mask = np.array([[0, 0, 1, 0, 1], [1, 1, 0, 0, 0]])
    x = pack(torch.zeros(2, 5, 4), mask)
    rows = L.PositionEmbedding(9)
    table_of = rows(x) is not None and rows.embeddings
    assert torch.equal(rows(x).values, table_of[[0, 1, 0, 1]])
    columns = L.PositionEmbedding(9, count="columns")
    columns(x)
    columns.set_weights(rows.get_weights())
    assert torch.equal(columns(x).values, table_of[[2, 4, 0, 1]])
    assert torch.equal(columns(x, start_index=3).values, table_of[[5, 7, 3, 4]])
    assert torch.equal(rows(x, positions=[8, 7, 6, 5, 4]).values, table_of[[6, 4, 8, 7]])
    own = np.arange(10).reshape(2, 5) % 9
    assert torch.equal(rows(x, positions=own).values, table_of[[2, 4, 5, 6]])
    assert torch.equal(rows(x, positions=pack(own, mask)).values, table_of[[2, 4, 5, 6]])
    assert torch.equal(rows(x.unpack()), table_of[:5].expand(2, 5, 4))
    assert torch.equal(rows(x.unpack(), positions=own), table_of[own])
    for layer in (L.SinePositionEncoding, L.RotaryEmbedding):
        y = pack(torch.randn(2, 5, 4), mask)
        steps, places = layer()(y), layer(count="columns")(y)
        left = torch.zeros(2, 5, 4)
        left[0, :2], left[1, :2] = y.values[:2], y.values[2:]
        torch.testing.assert_close(steps.values, layer()(left)[:, :2].reshape(4, 4))
        torch.testing.assert_close(
            places.unpack()[torch.from_numpy(mask).bool()], layer()(y.unpack())[torch.from_numpy(mask).bool()]
        )
        assert torch.equal(layer()(y, positions=np.arange(5)).values, places.values)


def test_sine_encoding_matches_the_formula():
    found = L.SinePositionEncoding(100)(torch.zeros(1, 7, 6))[0].numpy()
    for position in range(7):
        for i in range(3):
            angle = position / 100 ** (2 * i / 6)
            assert found[position, 2 * i : 2 * i + 2] == pytest.approx([np.sin(angle), np.cos(angle)], abs=1e-6)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_rotated_products_depend_on_the_distance_only(kind):
    layer = L.RotaryEmbedding(50, 2.0, kind, original_max_position_embeddings=16)
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64)
    q, k = layer(q.expand(1, 9, 8)), layer(k.expand(1, 9, 8))
    products = (q @ k.mT)[0]
    for distance in range(9):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    heads = torch.randn(1, 9, 2, 8)
    torch.testing.assert_close(layer(heads)[:, :, 1], layer(heads[:, :, 1]))
    turned = L.RotaryEmbedding(50, 2.0, kind, sequence_axis=2)(heads.transpose(1, 2))
    torch.testing.assert_close(L.RotaryEmbedding(50, 2.0, kind)(heads), turned.transpose(1, 2))


def test_rotary_frequencies_match_the_formula_of_each_type():
    def speeds(kind, scale):
        return (
            L.RotaryEmbedding(100, scale, kind, original_max_position_embeddings=64)
            .angular_frequencies(8, torch.device("cpu"), torch.float64)
            .tolist()
        )

    own = [100 ** (-i / 4) for i in range(4)]
    assert speeds("linear", 1.0) == pytest.approx(own)
    assert speeds("linear", 4.0) == pytest.approx([s / 4 for s in own])
    assert speeds("dynamic", 4.0) == pytest.approx([s / 4 ** (8 / 6) for s in own])
    # of 64 positions, 32 turns need a pair before the first, one turn needs pair 8 * ln(64 / 2 pi) / (2 ln 100) = 2.02
    assert speeds("yarn", 4.0) == pytest.approx([s * (1 - i / 3) + s / 4 * i / 3 for i, s in enumerate(own)])
    assert speeds("yarn", 1.0) == pytest.approx(own)
    x = torch.randn(1, 5, 8)
    turned, speed = L.RotaryEmbedding(100)(x), torch.tensor(own, dtype=torch.float32)
    angles = torch.arange(5.0)[:, None] * speed
    torch.testing.assert_close(
        torch.complex(turned[..., :4], turned[..., 4:]),  # features i and i + 4 are a pair
        torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles),
    )
    longer = L.RotaryEmbedding(100, 4.0, "yarn")(x).norm(dim=-1) / x.norm(dim=-1)
    torch.testing.assert_close(longer, torch.full((1, 5), 1 + 0.1 * float(np.log(4.0))))


def test_positions_outside_the_table_and_odd_features_raise():
    with pytest.raises(ShapeError, match="position 3"):
        L.PositionEmbedding(3)(torch.zeros(1, 4, 2))
    assert L.PositionEmbedding(3)(pack(torch.zeros(1, 9, 2), [[0] * 6 + [1] * 3])).index.num_steps == 3
    with pytest.raises(ShapeError, match="even"):
        L.RotaryEmbedding()(torch.zeros(1, 4, 3))
    with pytest.raises(ArgumentError, match="count"):
        L.SinePositionEncoding(count="rows")
    with pytest.raises(ShapeError, match="positions of shape"):
        L.PositionEmbedding(9)(torch.zeros(2, 4, 2), positions=[1, 2, 3])


def test_token_and_position_embedding_adds_both():
    ids = torch.tensor([[0, 3, 0, 4], [5, 0, 0, 0], [0, 0, 0, 0]])
    layer = L.TokenAndPositionEmbedding(6, 5, 3, mask_zero=True)
    output = layer(ids)
    tokens, places = layer.embeddings, layer.position_embeddings
    assert torch.equal(output.values, tokens[[3, 4, 5]] + places[[0, 1, 0]])
    assert np.array_equal(output.index.mask, (ids != 0).numpy())
    columns = L.TokenAndPositionEmbedding(6, 5, 3, mask_zero=True, count="columns")
    columns(ids)
    columns.set_weights(layer.get_weights())
    assert torch.equal(columns(ids).values, tokens[[3, 4, 5]] + places[[1, 3, 0]])
    x = L.Input((None,), dtype="int64")
    model = padless.Model(x, L.Dense(2)(L.TransformerEncoder(4, 1)(L.TokenAndPositionEmbedding(6, 5, 3, mask_zero=True)(x))))
    model.compile("sgd", "mse")
    model.fit(ids, torch.zeros(3, 4, 2), verbose=0)
    assert model.predict([[1, 2], [3]], verbose=0)[0].shape == (2, 2)


# ------------------------------------------------------------------------------------------------ blocks


def keras_block(mine, x, encoder=None, causal=False, real=None, other=None):
    """Compute the same block with layers of Keras and explicit attention masks."""
    weights = iter(mine.get_weights())

    def take(layer, *shapes):
        layer.build(*shapes)
        layer.set_weights([next(weights) for _ in layer.weights])
        return layer

    size = mine.get_config()
    make = keras.layers
    shapes = [tuple(x.shape), tuple((x if encoder is None else encoder).shape)]
    own = take(make.MultiHeadAttention(2, x.shape[-1] // 2), shapes[0], shapes[0])
    own_norm = take(make.LayerNormalization(epsilon=1e-5), shapes[0])
    cross, cross_norm = None, None
    if encoder is not None:
        cross = take(make.MultiHeadAttention(2, x.shape[-1] // 2), *shapes)
        cross_norm = take(make.LayerNormalization(epsilon=1e-5), shapes[0])
    decoder = isinstance(mine, L.TransformerDecoder)
    norm = None if decoder else take(make.LayerNormalization(epsilon=1e-5), shapes[0])
    inner = take(make.Dense(size["intermediate_dim"], activation="relu"), shapes[0])
    outer = take(make.Dense(x.shape[-1]), (*shapes[0][:-1], size["intermediate_dim"]))
    norm = take(make.LayerNormalization(epsilon=1e-5), shapes[0]) if decoder else norm

    def around(x, what, norm):
        return x + what(norm(x)) if mine.normalize_first else norm(x + what(x))

    x = around(x, lambda x: own(x, x, attention_mask=real[:, None], use_causal_mask=causal), own_norm)
    if cross is not None:
        x = around(x, lambda x: cross(x, encoder, attention_mask=other[:, None]), cross_norm)
    return around(x, lambda x: outer(inner(x)), norm)


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", ["right", "left", "holes"])
def test_transformer_blocks_match_keras_layers(kind, first):
    x, e = torch.from_numpy(numbers(B, T, 4)), torch.from_numpy(numbers(B, S, 6))
    real, other = (torch.from_numpy(m) for m in (mask_of(kind), np.roll(other_mask(kind), 1, axis=1)))
    encoder = L.TransformerEncoder(5, 2, normalize_first=first)
    decoder = L.TransformerDecoder(5, 2, normalize_first=first)
    both = L.TransformerDecoder(5, 2, normalize_first=first)
    for layer, inputs, expected in (
        (encoder, (pack(x, real),), lambda: keras_block(encoder, x, real=real)),
        (decoder, (pack(x, real),), lambda: keras_block(decoder, x, causal=True, real=real)),
        (both, (pack(x, real), pack(e, other)), lambda: keras_block(both, x, e, True, real, other)),
    ):
        layer(*inputs)
        rng = np.random.default_rng(3)
        layer.set_weights([rng.normal(size=w.shape, scale=0.6) for w in layer.get_weights()])
        close(layer(*inputs).unpack()[real], expected()[real])


def test_padding_masks_equal_masks_of_packed_inputs():
    x, e = torch.randn(B, T, 4), torch.randn(B, S, 6)
    real, other = mask_of("holes"), other_mask("left")
    encoder, decoder = L.TransformerEncoder(5, 2), L.TransformerDecoder(5, 2)
    assert torch.equal(encoder(x, padding_mask=real).values, encoder(pack(x, real)).values)
    assert torch.equal(
        decoder(x, e, decoder_padding_mask=real, encoder_padding_mask=other).values,
        decoder(pack(x, real), pack(e, other)).values,
    )
    output, scores = encoder(pack(x, real), return_attention_scores=True)
    torch.testing.assert_close(output.values, encoder(pack(x, real), training=False).values)
    assert scores.shape == (B, 2, T, T)
    allowed = torch.eye(T, dtype=torch.bool)
    alone = encoder(pack(x, real), attention_mask=allowed)  # each step sees itself, and so what a sequence of one gives
    single = encoder(pack(x, real).values[:, None])[:, 0]
    torch.testing.assert_close(alone.values, single)


def test_decoder_is_built_with_or_without_an_encoder_sequence():
    x, e = torch.randn(2, 3, 4), torch.randn(2, 5, 6)
    with_one, without = L.TransformerDecoder(4, 2), L.TransformerDecoder(4, 2)
    with_one(x, e)
    without(x)
    with pytest.raises(ArgumentError, match="with an encoder"):
        with_one(x)
    with pytest.raises(ArgumentError, match="without an encoder"):
        without(x, e)
    future = x.clone()
    future[:, 2] += 1
    torch.testing.assert_close(without(x)[:, :2], without(future)[:, :2])
    assert not torch.allclose(without(x, use_causal_mask=False)[:, :2], without(future, use_causal_mask=False)[:, :2])
    alone = without(x, decoder_attention_mask=torch.eye(3, dtype=torch.bool))
    torch.testing.assert_close(alone, without(x.reshape(6, 1, 4)).reshape(2, 3, 4))
    first = torch.zeros(2, 1, 5, dtype=torch.bool)
    first[..., 0] = True
    torch.testing.assert_close(with_one(x, e, encoder_attention_mask=first), with_one(x, e[:, :1]))


# ------------------------------------------------------------------------------------------------ as parts of models


def test_functional_model_with_two_masked_inputs():
    first, second = L.Input((None,), dtype="int64", name="a"), L.Input((None,), dtype="int64", name="b")
    allowed = L.Input((None, None), dtype="bool", name="allowed")
    tokens = L.Embedding(7, 4, mask_zero=True)
    h = L.TransformerDecoder(5, 2, name="decoder")(tokens(first), tokens(second))
    h, scores = L.MultiHeadAttention(2, 3)(h, h, attention_mask=allowed, return_attention_scores=True)
    model = padless.Model([first, second, allowed], [h, scores])
    assert h.shape == (None, None, 4) and h.masked and scores.shape == (None, 2, None, None) and not scores.masked
    ids, others = ids_of("left"), np.pad(ids_of("right"), ((0, 0), (0, 1)))
    masks = np.random.default_rng(1).random((B, T, T)) < 0.7
    output, shown = model([ids, others, masks])
    again = padless.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    assert torch.equal(again([ids, others, masks])[0].values, output.values)
    more = model([np.pad(ids, ((0, 0), (2, 0))), np.pad(others, ((0, 0), (1, 3))), np.pad(masks, ((0, 0), (2, 0), (2, 0)))])
    torch.testing.assert_close(more[0].values, output.values)
    torch.testing.assert_close(more[1][:, :, 2:, 2:], shown)


def test_padding_does_not_change_training_of_post_norm_blocks():
    ids = ids_of("holes")

    def trained(ids, width):
        torch.manual_seed(1)
        x = L.Input((None,), dtype="int64")
        h = L.Embedding(7, 4, mask_zero=True, weights=[table(4)])(x)
        for name in ("one", "two"):
            heads = L.MultiHeadAttention(2, 3, name=name)
            h = L.LayerNormalization(name=f"norm_{name}")(L.Add(name=f"add_{name}")([h, heads(h, h)]))
        model = padless.Model(x, L.Dense(1, name="out")(h))
        model.compile("sgd", "mse")
        history = model.fit(ids, np.ones((B, width, 1), dtype="float32"), epochs=2, batch_size=B, shuffle=False, verbose=0)
        return history.history["loss"], model.get_weights()

    losses_of, weights = trained(ids, T)
    wider, others = trained(np.pad(ids, ((0, 0), (1, 2))), T + 3)
    assert losses_of == wider
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_layer_runs_in_float64_and_bfloat16():
    for dtype in [torch.float64, torch.bfloat16]:
        x = pack(torch.randn(3, 5, 4, dtype=dtype), mask_of("holes")[:3])
        y = pack(torch.randn(3, 6, 4, dtype=dtype), other_mask("left")[:3])
        layers = [L.Attention(dtype=dtype), L.AdditiveAttention(dtype=dtype)]
        outputs = [layer([x, y]) for layer in layers]
        outputs += [
            L.MultiHeadAttention(2, 3, dtype=dtype)(x, y, use_causal_mask=True),
            L.GroupQueryAttention(3, 2, 1, dtype=dtype)(x, y),
            L.TransformerEncoder(4, 2, dtype=dtype)(x),
            L.TransformerDecoder(4, 2, dtype=dtype)(x, y),
            L.PositionEmbedding(9, dtype=dtype)(x),
            L.SinePositionEncoding()(x),
            L.RotaryEmbedding()(x),
        ]
        for output in outputs:
            assert output.dtype == dtype and torch.isfinite(output.values).all()
        outputs[2].values.sum().backward()
        moved = L.TransformerEncoder(4, 2)
        moved(x.float())
        assert moved.to(dtype)(x).dtype == dtype


@pytest.mark.slow
def test_gradcheck_of_outputs_and_weights():
    queries, keys = Index.from_lengths(np.array([3, 1, 0])), Index(np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]], dtype=bool))
    inputs = leaves_of((4, 2, 3), (6, 1, 3), (6, 1, 2))
    for sight in (AttentionMask(), AttentionMask(True), AttentionMask(window=2)):
        assert torch.autograd.gradcheck(lambda *x, s=sight: attend(*x, queries, keys, s, 0.5)[0], inputs)
        assert torch.autograd.gradcheck(
            lambda *x, s=sight: attend(*x, queries, keys, s, return_weights="before_dropout")[1], inputs
        )


def test_copy_and_trainable_apply_to_inner_layers():
    x = pack(torch.randn(2, 3, 4), lengths=[3, 1])
    layer = L.TransformerEncoder(5, 2, trainable=False)
    layer(x)
    assert not layer.trainable_weights and len(layer.weights) == 16
    assert torch.equal(copy.deepcopy(layer)(x).values, layer(x).values)
    layer.trainable = True
    assert len(layer.trainable_weights) == 16


def test_invalid_arguments_raise():
    x = torch.randn(2, 3, 4)
    for make in (
        lambda: L.MultiHeadAttention(0, 3),
        lambda: L.MultiHeadAttention(2, 3, sliding_window=0),
        lambda: L.GroupQueryAttention(3, 4, 3),
        lambda: L.Attention(score_mode="cosine"),
        lambda: L.MultiHeadAttention(2, 3, attention_axes=(1, 2)),
        lambda: L.RotaryEmbedding(rope_type="new"),
        lambda: L.PositionEmbedding(0),
        lambda: L.TokenAndPositionEmbedding(5, 5, 2, tie_weights=False),
        lambda: L.Attention()(x),
        lambda: L.Attention()([x]),
    ):
        with pytest.raises(ArgumentError):
            make()
    with pytest.raises(ShapeError, match="Use fewer heads"):
        L.TransformerEncoder(4, 5)(x)
    with pytest.raises(MaskError):
        L.Attention()([x, x], mask=[None])


@pytest.mark.parametrize("options, says", [
    ({"num_heads": 0}, "num_heads"), ({"num_heads": 1.5}, "num_heads"), ({"intermediate_dim": 0}, "intermediate_dim"),
    ({"dropout": 2}, "dropout"), ({"dropout": -0.1}, "dropout"), ({"dropout": "much"}, "dropout"),
])  # fmt: skip
def test_transformer_blocks_check_their_arguments_when_created(options, says):
    for block in (L.TransformerEncoder, L.TransformerDecoder):
        with pytest.raises(ArgumentError, match=f"{block.__name__} expected `{says}`"):
            block(**{"intermediate_dim": 8, "num_heads": 2, **options})
