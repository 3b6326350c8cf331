"""Dot, Concatenate, RepeatVector, Permute and Reshape: masks of the outputs, and parity with Keras."""

import inspect
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_parity import (
    KINDS,
    B,
    D,
    T,
    V,
    close,
    embed,
    equal_masks,
    ids_of,
    keras,
    losing,
    mask_of,
    mask_on,
    numbers,
    shown,
    table,
)

import padless
from padless import layers as L
from padless.errors import ArgumentError, MaskError, MaskLost, ShapeError
from padless.kernels.batched_products import (
    products_of_step_pairs,
    products_of_step_pairs_by_row,
    products_over_time,
    products_over_time_by_row,
    sums_over_inner_steps,
    sums_over_inner_steps_by_row,
)
from padless.ragged.index import Index
from padless.ragged.packed import Packed, pack

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
S, E = 4, 2


@st.composite
def grids(draw, count=2, same=False):
    """Draw the masks of `count` inputs with the same number of rows."""
    rows, width = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    found = []
    for _ in range(count):
        width = width if same else draw(st.integers(0, 5))
        cells = draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width))
        found.append(np.array(cells, dtype=bool).reshape(rows, width))
    return found


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def packed(x, mask, content=float("nan")):
    """Return numbers on a mask, with `content` at masked steps."""
    real = torch.from_numpy(mask).reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))
    return pack(torch.where(real, x, content), mask=mask)


def zeroed(x, mask):
    return x if mask is None else packed(x, mask, 0.0).unpack()


# ------------------------------------------------------------------------------------------------ kernels


def agree(fast, slow, *inputs):
    torch.testing.assert_close(fast, slow)
    weights = torch.randn(fast.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for a, b in zip(
        *(torch.autograd.grad((x * weights).sum(), inputs, allow_unused=not x.numel()) for x in (fast, slow)), strict=True
    ):
        torch.testing.assert_close(a if a is not None else torch.zeros(1), b if b is not None else torch.zeros(1))


@settings(max_examples=40)
@given(grids())
def test_step_products_match_products_row_by_row(masks):
    queries, keys = map(Index, masks)
    a, b = random(queries.num_steps, 2, 3), random(keys.num_steps, 1, 3)
    if queries.shape[0]:
        agree(products_of_step_pairs(a, b, queries, keys), products_of_step_pairs_by_row(a, b, queries, keys), a, b)
        c = random(queries.num_steps, 4)
        agree(products_over_time(c, a[:, 0], queries), products_over_time_by_row(c, a[:, 0], queries), c, a)


@settings(max_examples=40)
@given(grids(), st.integers(0, 99))
def test_inner_step_sums_match_sums_row_by_row(masks, seed):
    first, second = masks
    some = np.random.default_rng(seed).random((*first.shape, second.shape[1])) < 0.7
    cells, index = Index.from_mask(first[:, :, None] & second[:, None, :] & some), Index(np.roll(second, 1, 1))
    weights, values = random(cells.num_steps, 2), random(index.num_steps, 3)
    agree(
        sums_over_inner_steps(weights, values, cells, index),
        sums_over_inner_steps_by_row(weights, values, cells, index),
        weights,
        values,
    )


def test_infinite_weight_affects_its_step_only():
    """Rows of different lengths are computed in one padded block; the padding must not be multiplied."""
    first, second = (np.array([[1, 1, 1], [1, 0, 0]], dtype=bool) for _ in range(2))
    cells, index = Index.from_mask(first[:, :, None] & second[:, None, :]), Index(second)
    weights, values = torch.ones(10, 1), torch.arange(1.0, 5.0)[:, None]
    weights[9] = torch.inf
    found = sums_over_inner_steps(weights, values, cells, index)
    assert found.flatten().tolist() == [6, 6, 6, torch.inf]


# ------------------------------------------------------------------------------------------------ Dot without masks


SHAPES = [
    ((B, D), (B, D), 1), ((B, D), (B, D), -1), ((B, T, D), (B, S, D), 2), ((B, T, D), (B, S, D), (2, 2)),
    ((B, T, D), (B, S, D), -1), ((B, T, D), (B, T, E), 1), ((B, T, D), (B, T, E), [1, 1]), ((B, T, D), (B, D), (2, 1)),
    ((B, D), (B, T, D), (1, 2)), ((B, T, D), (B, E, T), (1, 2)), ((B, T, S), (B, S, E), (2, 1)),
    ((B, T, D, E), (B, S, D), (2, 2)), ((B, T, D), (B, S, E, D), (-1, -1)), ((B, T), (B, T, D), (1, 1)),
]  # fmt: skip


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_dot_without_mask_matches_keras(case):
    for normalize in [False, True]:
        first, second, axes = case
        x, y = (torch.from_numpy(numbers(*shape, seed=n)).requires_grad_() for n, shape in enumerate((first, second)))
        mine, theirs = (lib.layers.Dot(axes, normalize=normalize) for lib in (padless, keras))
        ours, expected = mine([x, y]), theirs([x, y])
        close(ours, expected)
        weights = torch.from_numpy(numbers(*ours.shape))
        for a, b in zip(*(torch.autograd.grad((out * weights).sum(), (x, y)) for out in (ours, expected)), strict=True):
            close(a, b)
        assert mine.compute_mask([x, y], [None, None]) is theirs.compute_mask([x, y], [None, None]) is None
        if all(axis > 0 for axis in np.atleast_1d(axes)):  # Keras counts from the end only in a call
            assert tuple(mine.compute_output_shape([first, second])) == tuple(theirs.compute_output_shape([first, second]))
        assert tuple(mine.compute_output_shape([first, second])) == tuple(ours.shape)


def test_cosine_of_empty_sequences_is_zero_with_finite_gradient():
    for x in (torch.zeros(2, 3, 4, requires_grad=True), pack(torch.zeros(2, 3, 4), lengths=[3, 0])):
        for axis in (1, 2):
            output = L.Dot(axis, normalize=True)([x, x])
            assert not (output.values if isinstance(output, Packed) else output).any()
    steps = torch.zeros(2, 3, 4, requires_grad=True)
    L.Dot(1, normalize=True)([pack(steps, lengths=[2, 0])] * 2).sum().backward()
    assert torch.isfinite(steps.grad).all()


# ------------------------------------------------------------------------------------------------ Dot with masks

MASKED = [
    ("features of both", (T, D), (S, D), 2, True, True), ("features, first masked", (T, D), (S, D), 2, True, False),
    ("features, second masked", (T, D), (S, D), 2, False, True), ("more features", (T, D), (S, D, E), 2, True, True),
    ("more features of the first", (T, E, D), (S, D, 2), (3, 2), True, False),
    ("vector first", (D,), (S, D), (1, 2), False, True), ("vector second", (T, D), (D,), (2, 1), True, False),
    ("time of both", (T, D), (T, E), 1, True, True), ("time, first masked", (T, D), (T, E), 1, True, False),
    ("time, second masked", (T, D), (T, E), 1, False, True), ("numbers over time", (T,), (T, E), 1, True, True),
    ("numbers with numbers", (T,), (T,), 1, True, True), ("time with an axis", (T, D), (E, T), (1, 2), True, False),
    ("features with time", (S, T), (T, E), (2, 1), True, True), ("time with features", (T, E), (S, T), (1, 2), True, True),
    ("numbers with features", (T,), (S, T), (1, 2), True, True),
]  # fmt: skip


@pytest.mark.parametrize("case", MASKED, ids=lambda c: c[0])
def test_dot_uses_real_steps_only(case):
    """Compare with Keras on inputs with zeros at masked steps; NaN at masked steps must have no effect."""
    for kind in KINDS:
        _, first, second, axes, *which = case
        i, j = (axes, axes) if isinstance(axes, int) else axes
        sources = [random(B, *shape, seed=n) for n, shape in enumerate((first, second))]
        masks = [
            mask_of(kind)[:, : shape[0]] if masked else None for shape, masked in zip((first, second), which, strict=True)
        ]
        if i == j == 1 and all(which):
            masks[1] = np.roll(masks[1], 1, 1)  # over time only what both have
        layer = L.Dot(axes)
        output = layer([x if m is None else packed(x, m) for x, m in zip(sources, masks, strict=True)])
        wanted = keras.layers.Dot(axes)([zeroed(x, m).float() for x, m in zip(sources, masks, strict=True)])
        left = [None if m is None or axis == 1 else m for m, axis in zip(masks, (i, j), strict=True)]
        steps = _cells(*left, [size for k, size in enumerate(first, 1) if k != i])
        equal_masks(mask_on(output), steps)
        given = [None if m is None else torch.from_numpy(m) for m in masks]
        equal_masks(layer.compute_mask(sources, given), steps)
        assert tuple(layer.compute_output_shape([(B, *first), (B, *second)])) == tuple(output.shape)
        if steps is None:
            close(output, wanted)
        else:
            close(output.values, wanted[torch.from_numpy(steps)])
            assert not output.unpack()[torch.from_numpy(~steps)].any()
        grads = torch.autograd.grad((output.values if isinstance(output, Packed) else output).square().sum(), sources)
        for grad, mask in zip(grads, masks, strict=True):
            assert torch.isfinite(grad).all() and (mask is None or not grad[torch.from_numpy(~mask)].any())


def _cells(first, second, rest):
    """Return the expected mask of the result."""
    if second is None or not rest:
        return first if second is None else second
    first = np.ones((B, rest[0]), dtype=bool) if first is None else first
    return first[:, :, None] & second[:, None, :]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_made_of_dot_and_softmax_matches_attention(kind, normalize):
    """Scores of two masked inputs, a softmax over the steps of the second, and the sum: nothing of the padding gets in."""
    query, value = packed(random(B, T, D), mask_of(kind)), packed(random(B, S, D), mask_of("right")[:, :S])
    scores = L.Dot(2, normalize=normalize)([query, value])
    over = L.Dot((2, 1))
    result = over([L.Softmax()(scores), value])
    assert torch.equal(over.compute_mask([scores, value], [scores.mask, value.mask]), result.mask)
    assert over.compute_output_shape([scores.shape, value.shape]) == tuple(result.shape)
    assert scores.num_step_axes == 3 and np.array_equal(scores.index.outer.mask, mask_of(kind))
    unit = (lambda x: torch.nn.functional.normalize(x, dim=-1)) if normalize else (lambda x: x)
    for row in range(B):
        q, v = query.sequences()[row], value.sequences()[row]
        torch.testing.assert_close(result.sequences()[row], (unit(q) @ unit(v).t()).softmax(1) @ v)
    if not normalize:
        torch.testing.assert_close(result.values, L.Attention()([query, value]).values)


def test_attention_of_a_summary_made_of_dot_and_softmax():
    x = packed(random(B, T, D), mask_of("holes"))
    query = L.LastStep()(x)
    scores = L.Softmax()(L.Dot((1, 2))([query, x]))
    found = L.Dot(1)([scores, x])
    for row, steps in enumerate(x.sequences()):
        torch.testing.assert_close(found[row], (steps @ query[row]).softmax(0) @ steps)


def test_cosine_over_time_uses_common_steps():
    masks = mask_of("right"), mask_of("holes")
    x, y = random(B, T, D), random(B, T, E)
    found = L.Dot(1, normalize=True)([packed(x, masks[0]), packed(y, masks[1])])
    both = torch.from_numpy(masks[0] & masks[1])
    for row in range(B):
        a, b = (torch.nn.functional.normalize(side[row][both[row]], dim=0) for side in (x, y))
        torch.testing.assert_close(found[row], a.t() @ b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [1, (1, 2)])
def test_cosine_with_plain_input_uses_real_steps_of_the_other(kind, axes):
    """Either order; the other steps of the plain input have no effect."""
    mask = torch.from_numpy(mask_of(kind))
    x, y = random(B, T, D), random(B, T, E, seed=1)
    found = []
    for beside in (0.0, 100.0, float("nan")):
        z = torch.where(mask[..., None], y, beside)
        z = z if axes == 1 else z.transpose(1, 2)
        found.append(L.Dot(axes, normalize=True)([packed(x, mask.numpy()), z]))
        turned = L.Dot(axes if axes == 1 else (2, 1), normalize=True)([z, packed(x, mask.numpy())])
        close(turned.transpose(1, 2), found[-1])
    wanted = L.Dot(1, normalize=True)([packed(x, mask.numpy()), packed(y, mask.numpy())])
    for own in found:
        close(own, wanted)


def test_cosine_over_inner_steps_uses_steps_that_some_row_has():
    mask = np.zeros((2, 3, 4), dtype=bool)
    mask[0, :2, 1:3] = mask[1, :, 0] = True
    weights, y = pack(torch.ones(2, 3, 4), mask=mask), random(2, 4, 2).float()
    beside = torch.where(torch.from_numpy(mask.any(1))[..., None], y, 100.0)
    a, b = (L.Dot((2, 1), normalize=True)([weights, z]) for z in (y, beside))
    assert torch.equal(a.values, b.values)
    close(a, L.Dot((2, 1), normalize=True)([weights, pack(y, mask=mask.any(1))]))


MERGES = [L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum]


def test_wrong_inputs_are_named_in_the_error():
    for merge in MERGES:
        x, y, other = torch.ones(3, 5, 4), torch.ones(3, 5, 3), [5, 2, 0]
        for lengths in ([5, 3, 1], None):
            pairs = [[x, y], [pack(x, lengths=other), pack(y, lengths=lengths)], [pack(x, lengths=other), y]]
            for pair in pairs:
                with pytest.raises(ShapeError, match=rf"{merge.__name__} .*\(3, 5, 4\), \(3, 5, 3\)"):
                    merge()(pair)
        with pytest.raises(ArgumentError, match=f"{merge.__name__} .*None as input 1"):
            merge()([x, None])
        assert merge()([pack(x, lengths=other), torch.ones(3, 1, 1)]).shape == x.shape  # size 1 broadcasts


def test_dot_in_a_functional_model():
    x = L.Input((None,), dtype="int64")
    h = L.Embedding(V, D, mask_zero=True)(x)
    scores, summed = L.Dot(2)([h, h]), L.Dot(1)([h, h])
    assert (
        scores.shape == (None, None, None)
        and scores.num_step_axes == 3
        and scores.masked
        and "embedding" in scores.mask_source
    )
    assert summed.shape == (None, D, D) and not summed.masked
    found = padless.Model(x, [scores, summed]).predict(ids_of("left"), verbose=0)
    real = ids_of("left") != 0
    assert not found[0][~(real[:, :, None] & real[:, None, :])].any()
    for row, steps in enumerate(real):
        e = h.node.operation.get_weights()[0][ids_of("left")[row]]
        np.testing.assert_allclose(found[0][row][np.ix_(steps, steps)], e[steps] @ e[steps].T, rtol=1e-5)
        np.testing.assert_allclose(found[1][row], e[steps].T @ e[steps], rtol=1e-5)


def test_invalid_inputs_of_dot_raise():
    x, y = pack(torch.ones(2, 3, 4), lengths=[3, 1]), pack(torch.ones(2, 5, 4), lengths=[2, 4])
    for axes in ("1", (1, 2, 3), (1, "2"), None):
        with pytest.raises(ArgumentError, match="axes"):
            L.Dot(axes)
    for inputs in (x, [x], [x, x, x]):
        with pytest.raises(ArgumentError, match="two inputs|list"):
            L.Dot(1)(inputs)
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\).*\(2, 5, 4\)"):
        L.Dot(1)([x, y])
    with pytest.raises(ShapeError, match="not the batch"):
        L.Dot(0)([x, x])
    with pytest.raises(ShapeError, match="batch must agree"):
        L.Dot(2)([x, torch.ones(3, 5, 4)])
    with pytest.raises(MaskLost, match="after the features"):
        L.Dot((3, 2))([torch.ones(2, 3, 2, 4), y])
    scores = L.Dot(2)([x, y])
    for inputs, axes in (([scores, y], (1, 1)), ([y, scores], (1, 2)), ([scores, scores], (2, 2))):
        with pytest.raises((MaskLost, ShapeError)):
            L.Dot(axes)(inputs)


# ------------------------------------------------------------------------------------------------ Concatenate


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_concatenate_sequences_of_sequences(axis):
    """Concatenate sentences, words or features of two documents; every step of a plain document is real."""
    random_masks = np.random.default_rng(0)
    masks = [random_masks.random((2, 3, 4)) < 0.6 for _ in range(2)]
    grids = [random(2, 3, 4, 5, seed=n) for n in range(2)]
    for plain in (False, True):
        inputs = [packed(grids[0], masks[0]), grids[1] if plain else packed(grids[1], masks[1])]
        said = [torch.from_numpy(masks[0]), None if plain else torch.from_numpy(masks[1])]
        layer = L.Concatenate(axis)
        output = layer(inputs)
        if axis in (1, 2):
            mask = np.concatenate([masks[0], np.ones_like(masks[1]) if plain else masks[1]], axis)
            whole = torch.cat([zeroed(grids[0], masks[0]), grids[1] if plain else zeroed(grids[1], masks[1])], axis)
        else:
            mask = masks[0] if plain else masks[0] | masks[1]
            whole = torch.cat([zeroed(grids[0], masks[0]), zeroed(grids[1], mask if plain else masks[1])], -1)
        assert np.array_equal(output.index.mask, mask) and np.array_equal(layer.compute_mask(inputs, said), mask)
        torch.testing.assert_close(output.unpack(), whole)
        assert np.array_equal(output.index.outer.mask, mask.any(-1))


@pytest.mark.parametrize("form", ["packed", "lists", "grid"])
def test_fit_takes_targets_for_steps_concatenated_in_time(form):
    x = padless.Input((None, 2), masked=True)
    model = padless.Model(x, padless.layers.Dense(1)(padless.layers.Concatenate(axis=1)([x, x])))
    model.compile("sgd", "mse")
    sequences = padless.pack([[[1.0, 2.0]], [[1.0, 2.0], [3.0, 4.0]]])
    output = model(sequences).detach()
    assert output.lengths.tolist() == [2, 4]
    targets = {"packed": output, "lists": list(output), "grid": output.unpack(0)}[form]
    assert model.evaluate(sequences, targets, verbose=0) == 0
    assert model.fit(sequences, targets, verbose=0).history["loss"] == [0]


def test_concatenate_refuses_masks_on_different_levels():
    with pytest.raises(MaskError, match="same levels"):
        L.Concatenate(1)([pack(torch.ones(2, 3, 4), lengths=[1, 2]), pack(torch.ones(2, 3, 4), mask=np.ones((2, 3, 4)))])


# ------------------------------------------------------------------------------------------------ RepeatVector


def test_repeat_vector_matches_keras():
    x = torch.from_numpy(numbers(B, D))
    mine, theirs = (lib.layers.RepeatVector(3) for lib in (padless, keras))
    close(mine(x), theirs(x))
    assert tuple(mine.compute_output_shape((None, D))) == tuple(theirs.compute_output_shape((None, D)))
    assert mine.compute_mask(x) is None


def test_repeat_vector_puts_a_summary_on_steps_of_another_input():
    """Gaps show the vector, as in Keras, and the output has the mask that Keras loses."""
    for kind in KINDS:
        (x, _), (y, _) = (embed(lib, ids_of(kind)) for lib in (padless, keras))
        vector = torch.from_numpy(numbers(B, 2)).requires_grad_()
        mine = L.RepeatVector()([vector, x])
        with losing():
            theirs = keras.layers.RepeatVector(T)(vector)
            joined = keras.layers.Concatenate()([y, theirs])
        close(mine, theirs)
        assert np.array_equal(mask_on(mine), mask_of(kind)) and mask_on(theirs) is None
        assert mine.index is x.index
        close(L.Concatenate()([x, mine]), joined)
        mine.values.sum().backward()
        assert torch.equal(vector.grad, torch.from_numpy(mask_of(kind).sum(1))[:, None].expand(B, 2).float())


def test_repeat_vector_fills_every_step_of_a_plain_input():
    vector = torch.from_numpy(numbers(B, 2))
    assert torch.equal(L.RepeatVector()([vector, torch.ones(B, T, D)]), vector[:, None].expand(B, T, 2))
    layer = L.RepeatVector()
    assert layer.compute_mask([vector, vector], [None, None]) is None
    assert layer.compute_output_shape([(None, 2), (None, None, D)]) == (None, None, 2)


def test_repeat_vector_puts_one_vector_on_each_inner_sequence():
    mask = np.random.default_rng(0).random((2, 3, 4)) < 0.5
    words = pack(torch.ones(2, 3, 4, 5), mask=mask)
    vectors = random(2, 3, 6)
    wanted = vectors[:, :, None].expand(2, 3, 4, 6)[torch.from_numpy(mask)]
    for given_ in (vectors, packed(vectors, mask.any(-1))):
        output = L.RepeatVector()([given_, words])
        assert output.index is words.index
        assert torch.equal(output.values, wanted)
    with pytest.raises(ShapeError, match="one layer for each level"):
        L.RepeatVector()([vectors[:, 0], words])
    with pytest.raises(MaskError):  # a sentence that has words, but no vector
        L.RepeatVector()([packed(vectors, mask.any(-1) & (np.arange(3) > 0)), words])


def test_invalid_inputs_of_repeat_vector_raise():
    steps = pack(torch.ones(2, 3, 4), lengths=[1, 3])
    for n in (0, -1, 1.5, True, "2"):
        with pytest.raises(ArgumentError, match="positive integer"):
            L.RepeatVector(n)
    with pytest.raises(MaskLost, match="LastStep"):
        L.RepeatVector(2)(steps)
    with pytest.raises(ShapeError, match="vector, steps"):
        L.RepeatVector(2)([torch.ones(2, 4), steps])
    with pytest.raises(ShapeError, match="batch, features"):
        L.RepeatVector(2)(torch.ones(2, 3, 4))
    with pytest.raises(ArgumentError, match="list"):
        L.RepeatVector()(torch.ones(2, 4))
    for vector in (torch.ones(3, 4), steps, torch.ones(2)):
        with pytest.raises(ShapeError, match="for each sequence"):
            L.RepeatVector()([vector, steps])


# ------------------------------------------------------------------------------------------------ Permute, Reshape


@pytest.mark.parametrize("dims", [(1, 2, 3), (1, 3, 2), (2, 1, 3), (3, 1, 2)])
def test_permute_keeps_the_mask_if_time_stays(dims):
    x = torch.from_numpy(numbers(B, T, D, E))
    mine, theirs = (lib.layers.Permute(dims) for lib in (padless, keras))
    close(mine(x), theirs(x))
    assert mine.compute_output_shape((None, T, D, E)) == theirs.compute_output_shape((None, T, D, E))
    masked = packed(x.double(), mask_of("holes"))
    if dims[0] == 1:
        output = mine(masked)
        close(output.values, theirs(x)[torch.from_numpy(mask_of("holes"))])
        assert output.index is masked.index
        assert torch.equal(mine.compute_mask(x, masked.mask), masked.mask)
    else:
        with pytest.raises(MaskLost, match=r"permute.*moves batch or time.*DropMask"):
            mine(masked)
        assert mine.compute_mask(x, masked.mask) is None
        close(mine(L.DropMask()(masked)), theirs(zeroed(x, mask_of("holes"))))


def test_permute_of_time_raises_when_the_model_is_built():
    x = L.Input((T, D), masked=True)
    assert L.Permute((1, 2))(x).masked
    with pytest.raises(MaskLost, match="permute"):
        L.Permute((2, 1))(x)


def test_permute_keeps_both_levels_of_a_mask():
    mask = np.random.default_rng(0).random((2, 3, 4)) < 0.5
    x = packed(random(2, 3, 4, 6, 5), mask)
    for layer, same in (
        (L.Permute((1, 2, 4, 3)), True),
        (L.Permute((2, 1, 3, 4)), False),
        (L.Reshape((3, 4, 30)), True),
        (L.Reshape((3, -1, 6, 5)), True),
        (L.Reshape((3, 24, 5)), False),
        (L.Reshape((12, 6, 5)), False),
    ):
        said = layer.compute_mask(x, x.mask)
        if same:
            assert layer(x).index is x.index and torch.equal(said, x.mask)
            assert tuple(layer.compute_output_shape(tuple(x.shape))) == tuple(layer(x).shape)
        else:
            assert said is None
            with pytest.raises(MaskLost):
                layer(x)
    assert L.Flatten()(x).shape == (2, 3 * 4 * 6 * 5)


def test_invalid_arguments_of_permute_raise():
    for dims in ((0, 1), (1, 3), (2, 2), (1,) * 2):
        with pytest.raises(ArgumentError, match="once"):
            L.Permute(dims)
    with pytest.raises(ShapeError, match="orders 2 axes"):
        L.Permute((2, 1))(torch.ones(2, 3, 4, 5))


@pytest.mark.parametrize("shape, target", [((B, 12), (3, 4)), ((B, 12), (-1, 2, 2)), ((B, T, 6), (T, -1)), ((B, T, 6), 30),
                                           ((0, 12), (3, -1)), ((B, T, 6), (-1,))])  # fmt: skip
def test_reshape_matches_keras(shape, target):
    x = torch.from_numpy(numbers(*shape))
    wide = target if isinstance(target, tuple) else (target,)
    mine, theirs = L.Reshape(target), keras.layers.Reshape(wide)
    close(mine(x), theirs(x))
    assert tuple(mine.compute_output_shape(shape)) == tuple(theirs.compute_output_shape(shape))


def test_flatten_matches_keras():
    for shape in [(B,), (B, D), (B, T, D), (B, T, D, E), (0, T, D)]:
        for data_format in ["channels_last", "channels_first"]:
            x = torch.from_numpy(numbers(*shape))
            mine, theirs = (lib.layers.Flatten(data_format) for lib in (padless, keras))
            close(mine(x), theirs(x))
            assert tuple(mine.compute_output_shape(shape)) == tuple(theirs.compute_output_shape(shape))


# ------------------------------------------------------------------------------------------------ what they say

KNOWN = {
    "Dot": lambda lib: lib.layers.Dot((1, 2), normalize=True),
    "RepeatVector": lambda lib: lib.layers.RepeatVector(3),
    "Permute": lambda lib: lib.layers.Permute((2, 1)),
    "Reshape": lambda lib: lib.layers.Reshape((2, -1)),
    "Flatten": lambda lib: lib.layers.Flatten("channels_first"),
    "Concatenate": lambda lib: lib.layers.Concatenate(1),
}


@pytest.mark.parametrize("name", KNOWN)
def test_names_arguments_and_configs_match_keras(name):
    mine, theirs = (KNOWN[name](lib) for lib in (padless, keras))
    ours, expected = (list(inspect.signature(type(layer).__init__).parameters)[1:] for layer in (mine, theirs))
    assert ours == expected
    config = json.loads(json.dumps(mine.get_config()))
    assert set(theirs.get_config()) <= set(config)
    for key, value in theirs.get_config().items():
        if key not in ("name", "dtype"):
            assert config[key] == json.loads(json.dumps(value)), key
    again = type(mine).from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config
    assert mine.name == theirs.name.rstrip("_0123456789")


# ------------------------------------------------------------------------------------------------ docs/differences.md


def test_dot_over_time():
    """Row 0 of the table is 3 everywhere, so that padding changes the sum."""
    weights = table()
    weights[0] = 3
    (x, _), (y, _) = (embed(lib, ids_of("right"), weights=weights) for lib in (padless, keras))
    mine, theirs = L.Dot(1)([x, x]), keras.layers.Dot(1)([y, y])
    padding = torch.from_numpy(9.0 * (~mask_of("right")).sum(1)).float()[:, None, None]
    close(mine + padding, theirs)
    assert padding.max() == 36


def test_mask_of_dot():
    (x, _), (y, _) = (embed(lib, ids_of("right")) for lib in (padless, keras))
    mine, theirs = L.Dot(2)([x, x]), keras.layers.Dot(2)([y, y])
    assert mask_on(theirs) is None
    real = torch.from_numpy(mask_of("right"))
    assert torch.equal(mine.mask, real[:, :, None] & real[:, None, :])
    close(mine.values, theirs[mine.mask])
    weights = [shown(lib.layers.Softmax()(scores)) for lib, scores in ((padless, mine), (keras, theirs))]
    assert weights[0][1, 0].tolist() == [1, 0, 0, 0, 0]  # the one word there is
    assert weights[1][1, 0, 1:].min() > 0.01


def test_permute_and_repeat_vector():
    (x, _), (y, _) = (embed(lib, ids_of("right")) for lib in (padless, keras))
    with pytest.warns(UserWarning, match="does not support masking"):
        theirs = keras.layers.Permute((2, 1))(y)
    assert theirs.shape == (B, D, T) and mask_on(theirs) is None
    with pytest.raises(MaskLost):
        L.Permute((2, 1))(x)
    with pytest.raises((TypeError, ValueError)):
        keras.layers.RepeatVector()
    assert np.array_equal(mask_on(L.RepeatVector()([L.LastStep()(x), x])), mask_of("right"))
