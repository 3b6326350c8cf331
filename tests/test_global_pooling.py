"""Global pooling and attention pooling use real steps only."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_parity import KINDS, B, D, T, V, close, embed, ids_of, keras, losing, mask_of, numbers, shown, twins

import padless
from padless import layers as L
from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.kernels.segment_reduce import (
    segment_max,
    segment_max_by_row,
    segment_mean,
    segment_softmax,
    segment_sum,
    segment_weighted_sums,
)
from padless.ragged.index import Index
from padless.ragged.packed import Packed, pack
from padless.registry import lookup

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own
POOLINGS = {"GlobalAveragePooling1D": "mean", "GlobalMaxPooling1D": "amax", "GlobalSumPooling1D": "sum"}


@st.composite
def rows(draw):
    """Draw the mask of up to four rows of up to six steps, with any pattern of padding and gaps."""
    shape = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    return np.array(
        draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])), dtype=bool
    ).reshape(shape)


def gradient_of(output, values):
    """Return the gradient of a weighted sum of the output."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output.dtype)
    return torch.autograd.grad((output * weights).sum(), values)[0]


# ------------------------------------------------------------------------------------------------ kernels


@settings(max_examples=60)
@given(rows(), st.sampled_from([(), (3,), (2, 3)]), st.booleans())
def test_segment_max_matches_max_row_by_row(mask, features, ties):
    index = Index(mask)
    values = torch.randn(index.num_steps, *features, dtype=torch.float64)
    values = (values.round() if ties else values).requires_grad_()  # equal numbers share the gradient
    fast, slow = segment_max(values, index), segment_max_by_row(values, index)
    assert torch.equal(fast, slow)
    assert torch.equal(gradient_of(fast, values), gradient_of(slow, values))
    whole = values.detach().round().long()
    assert torch.equal(segment_max(whole, index), segment_max_by_row(whole, index))


@settings(max_examples=30)
@given(rows(), st.integers(1, 3), st.sampled_from([1, 1000]))  # exp(1000) overflows
def test_segment_softmax_and_weighted_sums_match_rows(mask, queries, scale):
    index = Index(mask)
    scores = (scale * torch.randn(index.num_steps, queries, dtype=torch.float64)).requires_grad_()
    values = torch.randn(index.num_steps, 2, dtype=torch.float64)
    weights = segment_softmax(scores, index)
    parts = [part.softmax(0) for part in scores.split(index.lengths.tolist())]
    alone = torch.cat(parts) if parts else scores
    torch.testing.assert_close(weights, alone)
    torch.testing.assert_close(gradient_of(weights, scores), gradient_of(alone, scores) if parts else scores * 0)
    sums = segment_weighted_sums(values, weights, index)
    wanted = [w.t() @ v for w, v in zip(parts, values.split(index.lengths.tolist()), strict=True)]
    torch.testing.assert_close(sums, torch.stack(wanted) if wanted else sums)
    assert sums.shape == (mask.shape[0], queries, 2)


def test_half_precision_is_summed_in_float32():
    for dtype in [torch.bfloat16, torch.float16]:
        index = Index(np.ones((1, 5000), dtype=bool))
        values = torch.full((5000, 1), 40.0, dtype=dtype)
        assert segment_mean(values, index).item() == 40  # the sum alone is beyond what float16 can say
        weights = segment_softmax(torch.zeros(5000, 1, dtype=dtype), index)
        assert weights.dtype == dtype and segment_weighted_sums(values, weights, index).item() == pytest.approx(40, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_kernels(kind):
    index = Index(mask_of(kind))
    values = torch.randn(index.num_steps, 3, dtype=torch.float64, requires_grad=True)
    for kernel in (segment_max, segment_softmax, segment_mean, segment_sum):
        assert torch.autograd.gradcheck(lambda v, k=kernel: k(v, index), (values,))
        assert torch.autograd.gradgradcheck(lambda v, k=kernel: k(v, index).square(), (values,))


def test_nan_and_infinity_are_kept():
    values = torch.tensor([[1.0, 2.0], [float("nan"), -float("inf")], [3.0, -float("inf")]])
    found = segment_max(values, Index(np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)))
    assert found[:, 1].tolist() == [2, -float("inf"), 0] and found[0, 0].isnan() and found[1, 0] == 3


# ------------------------------------------------------------------------------------------------ poolings


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_uses_real_steps_only(name):
    for kind in KINDS:
        for keepdims in [False, True]:
            x, mask = torch.from_numpy(numbers(B, T, D)), mask_of(kind)
            dirty = torch.where(torch.from_numpy(mask)[..., None], x, torch.nan).requires_grad_()
            layer = getattr(L, name)(keepdims=keepdims)
            pooled = layer(dirty, mask=mask)
            pooled.square().sum().backward()
            for row in range(B):
                steps = x[row][torch.from_numpy(mask[row])].requires_grad_()
                alone = getattr(steps, POOLINGS[name])(0) if len(steps) else steps.sum(0)
                torch.testing.assert_close(pooled[row].reshape(-1), alone)
                alone.square().sum().backward()
                torch.testing.assert_close(dirty.grad[row][torch.from_numpy(mask[row])], steps.grad)
                assert not dirty.grad[row][torch.from_numpy(~mask[row])].any()


def test_maximum_matches_keras_on_unpadded_rows():
    """Compare with Keras from ids to the gradient of the table; ids repeat, so that some maxima are equal."""
    for kind in KINDS:
        ids = ids_of(kind)
        x, table = embed(padless, ids)
        layer = L.GlobalMaxPooling1D()
        pooled = layer(x)
        pooled.square().sum().backward()
        rows_of = [row[row != 0] for row in ids]
        _, other = embed(keras, ids)
        for number, row in enumerate(rows_of):
            if len(row):
                with losing():
                    alone = keras.layers.GlobalMaxPooling1D()(other(torch.from_numpy(row[None])))
                close(pooled[number : number + 1], alone)
                alone.square().sum().backward()
            else:
                assert not pooled[number].any()
        close(table.embeddings.grad, other.embeddings.value.grad)


@pytest.mark.parametrize(
    "options",
    [{}, {"keepdims": True}, {"data_format": "channels_first"}, {"data_format": "channels_first", "keepdims": True}],
)
@pytest.mark.parametrize("name", ["GlobalMaxPooling1D", "GlobalAveragePooling1D"])
def test_pooling_without_mask_matches_keras(name, options):
    mine, theirs = (getattr(lib.layers, name)(**options) for lib in (padless, keras))
    x = torch.from_numpy(numbers(B, T, D))
    close(mine(x), theirs(x))
    assert tuple(mine.compute_output_shape((None, T, D))) == tuple(theirs.compute_output_shape((None, T, D)))
    ours, expected = (inspect.signature(type(layer).__init__).parameters for layer in (mine, theirs))
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in expected.values()]
    assert set(theirs.get_config()) <= set(mine.get_config()) and mine.name == theirs.name.rstrip("_0123456789")


def test_integers_are_pooled_and_wrong_formats_raise():
    ids = torch.tensor([[[3], [1]], [[2], [7]]])
    for x in (ids, pack(ids)):
        assert L.GlobalMaxPooling1D()(x).tolist() == [[3], [7]] and L.GlobalSumPooling1D()(x).tolist() == [[4], [9]]
        assert L.GlobalAveragePooling1D()(x).tolist() == [[2.0], [4.5]]
    with pytest.raises(ArgumentError, match="channels_first"):
        L.GlobalMaxPooling1D("channels_first")(pack(ids))
    with pytest.raises(ArgumentError, match="channels_last"):
        L.GlobalSumPooling1D("rows")


@pytest.mark.parametrize("name", [*POOLINGS, "AttentionPooling1D"])
def test_summary_of_empty_sequences_is_zero_with_zero_gradient(name):
    for shape in ((2, 3, 4), (2, 0, 4), (0, 3, 4)):
        x = torch.full(shape, torch.nan, requires_grad=True)
        pooled = getattr(L, name)()(pack(x, mask=np.zeros(shape[:2], dtype=bool)))
        assert pooled.shape == (shape[0], 4) and not pooled.any()
        pooled.sum().backward()
        assert not x.grad.any()
    assert not getattr(L, name)()(torch.ones(2, 0, 4)).any()  # a grid without a column


@pytest.mark.parametrize("layer", [L.GlobalMaxPooling1D(), L.GlobalSumPooling1D(), L.AttentionPooling1D()])
def test_sequences_of_sequences_need_time_distributed(layer):
    documents = pack(torch.ones(2, 3, 4, 5), mask=np.ones((2, 3, 4), dtype=bool))
    with pytest.raises(ShapeError, match="TimeDistributed"):
        layer(documents)
    assert L.TimeDistributed(layer)(documents).shape == (2, 3, 5)


def test_aliases_of_keras_exist():
    assert lookup("layer", "GlobalMaxPool1D") is L.GlobalMaxPooling1D and keras.layers.GlobalMaxPool1D
    assert not hasattr(keras.layers, "GlobalSumPooling1D")


# ------------------------------------------------------------------------------------------------ a learned query


def test_attention_pooling_matches_the_formula_of_the_paper():
    """Compute the formulas of Yang et al., 2016, for each row."""
    for kind in KINDS:
        mask, x = mask_of(kind), torch.from_numpy(numbers(B, T, D))
        layer = L.AttentionPooling1D(4, bias_initializer="normal")
        pooled, scores = layer(
            torch.where(torch.from_numpy(mask)[..., None], x, torch.inf), mask=mask, return_attention_scores=True
        )
        assert np.array_equal(scores.mask, mask) and scores.shape == (B, T)
        for row in range(B):
            steps = x[row][torch.from_numpy(mask[row])]
            weights = (torch.tanh(steps @ layer.kernel + layer.bias) @ layer.query[:, 0]).softmax(0)
            torch.testing.assert_close(scores.sequences()[row], weights)
            torch.testing.assert_close(pooled[row], weights @ steps)
        assert not scores.unpack()[torch.from_numpy(~mask)].any()


def test_each_query_is_one_pooling():
    x = pack(torch.from_numpy(numbers(B, T, D)), mask=mask_of("holes"))
    many = L.AttentionPooling1D(4, num_queries=3)
    pooled, scores = many(x, return_attention_scores=True)
    assert pooled.shape == (B, 3, D) and scores.shape == (B, T, 3)
    for number in range(3):
        one = L.AttentionPooling1D(4)
        one.build((None, T, D))
        one.set_weights([*many.get_weights()[:2], many.get_weights()[2][:, [number]]])
        alone, weights = one(x, return_attention_scores=True)
        torch.testing.assert_close(pooled[:, number], alone)
        torch.testing.assert_close(scores.values[:, number], weights.values)


def test_attention_pooling_of_a_plain_input_uses_every_step():
    x = torch.from_numpy(numbers(B, T, D))
    layer = L.AttentionPooling1D()
    pooled, scores = layer(x, return_attention_scores=True)
    torch.testing.assert_close(scores, (x @ layer.query)[..., 0].softmax(1))
    torch.testing.assert_close(pooled, layer(pack(x)))
    assert type(pooled) is type(scores) is torch.Tensor


def test_attention_pooling_weights_and_errors():
    layer = L.AttentionPooling1D(4, 2, use_bias=False)
    layer.build((None, None, D))
    assert [tuple(w.shape) for w in layer.weights] == [(D, 4), (4, 2)] and layer.bias is None
    plain = L.AttentionPooling1D()
    plain.build((None, None, D))
    assert [tuple(w.shape) for w in plain.weights] == [(D, 1)]
    for wrong in ({"units": 0}, {"num_queries": 1.5}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            L.AttentionPooling1D(**wrong)
    with pytest.raises(ShapeError, match="features"):
        plain(torch.ones(2, 3))
    with pytest.raises(MaskLost, match="attention_pooling1d"):  # keys that see other steps would see the batch
        L.AttentionPooling1D(4, activation=lambda x: x - x.mean(1, keepdim=True))(pack(torch.ones(1, 2, 3)))


def test_attention_pooling_learns_to_select_a_step():
    """The first feature marks the step whose second feature is the target."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, 2, generator=generator)
    lengths = torch.randint(1, 7, (64,), generator=generator)
    marked = (torch.rand(64, generator=generator) * lengths).long()
    x[..., 0] = 0
    x[torch.arange(64), marked, 0] = 5
    y = x[torch.arange(64), marked, 1:]
    inputs = L.Input((None, 2), masked=True)
    pool = L.AttentionPooling1D(3)
    model = padless.Model(inputs, L.Dense(1)(pool(inputs)))
    model.compile("adam", "mse")
    model.optimizer.learning_rate = 0.05
    packed = pack(x, lengths=lengths.numpy())
    model.fit(packed, y.numpy(), epochs=60, verbose=0, batch_size=64, shuffle=False)
    assert model.evaluate(packed, y.numpy(), verbose=0) < 0.05


def test_attention_scores_as_model_output():
    x = L.Input((None,), dtype="int64")
    pooled, scores = L.AttentionPooling1D(2)(L.Embedding(V, D, mask_zero=True)(x), return_attention_scores=True)
    model = padless.Model(x, [pooled, scores])
    assert pooled.shape == (None, D) and not pooled.masked and scores.masked
    found = model.predict(ids_of("left"), verbose=0)[1]
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert not found[ids_of("left") == 0].any()


# ------------------------------------------------------------------------------------------------ docs/differences.md


def test_padding_in_the_maximum():
    """If all real numbers are below those of the padding, Keras returns the padding."""
    weights = np.concatenate([np.full((1, D), 9.0), -np.ones((V - 1, D))]).astype("float32")
    pooled = []
    for lib in (padless, keras):
        with losing():
            pooled.append(shown(lib.layers.GlobalMaxPooling1D()(embed(lib, ids_of("right"), weights=weights)[0])))
    mine, theirs = pooled
    assert (mine == -1).all() and (theirs[[0, 1, 3]] == 9).all() and (theirs[2] == -1).all()


def test_twins_of_pooling_have_no_weights():
    for name in POOLINGS:
        if hasattr(keras.layers, name):
            assert twins(lambda lib, n=name: getattr(lib.layers, n)())[0].weights == []
    assert isinstance(L.GlobalSumPooling1D(keepdims=True)(pack([[[1.0]]])), torch.Tensor)
    assert not isinstance(L.GlobalMaxPooling1D()(pack([[[1.0]]])), Packed)
