"""Activations, noise, activity regularization and Lambda: parity with Keras, and masks."""

import copy
import inspect
import json
import pickle

import numpy as np
import pytest
import torch
from cases.stepwise import positive, running, thirds
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_parity import (
    KINDS,
    D,
    T,
    all_ids,
    close,
    compare,
    embed,
    equal_masks,
    grid,
    ids_of,
    keras,
    losing,
    mask_of,
    mask_on,
    numbers,
    shown,
    twins,
)

import padless
from padless import layers as L
from padless.errors import ArgumentError, MaskError, MaskLost, ShapeError
from padless.layers.regularization.dropout import draw_numbers
from padless.ragged.index import Index
from padless.ragged.packed import pack
from padless.saving.serialization import register_keras_serializable

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own


@register_keras_serializable("tests")
def sine(x):
    """Return the sine; Keras's Lambda does not accept built-in functions of torch."""
    return torch.sin(x)


@register_keras_serializable("tests")
def kept_mask(inputs, mask):
    return mask


@register_keras_serializable("tests")
def times(x, other):
    return x * torch.as_tensor(other)


ACTIVATIONS = {
    "ReLU": lambda lib: lib.layers.ReLU(),
    "ReLU max": lambda lib: lib.layers.ReLU(0.7),
    "ReLU all": lambda lib: lib.layers.ReLU(1.5, 0.2, 0.3),
    "LeakyReLU": lambda lib: lib.layers.LeakyReLU(),
    "LeakyReLU slope": lambda lib: lib.layers.LeakyReLU(0.7),
    "ELU": lambda lib: lib.layers.ELU(),
    "ELU alpha": lambda lib: lib.layers.ELU(alpha=0.4),
    "PReLU": lambda lib: lib.layers.PReLU(shared_axes=[1]),
    "PReLU one": lambda lib: lib.layers.PReLU(shared_axes=(1, 2), alpha_initializer="ones"),
    "Softmax": lambda lib: lib.layers.Softmax(),
    "Softmax list": lambda lib: lib.layers.Softmax(axis=[-1]),
}
NOISES = {
    "GaussianNoise": lambda lib: lib.layers.GaussianNoise(0.7),
    "GaussianDropout": lambda lib: lib.layers.GaussianDropout(0.4),
    "AlphaDropout": lambda lib: lib.layers.AlphaDropout(0.3),
    "AlphaDropout shape": lambda lib: lib.layers.AlphaDropout(0.3, noise_shape=(None, 1, None)),
    "AlphaDropout one": lambda lib: lib.layers.AlphaDropout(0.3, noise_shape=(None, None, 1)),
    "SpatialDropout1D": lambda lib: lib.layers.SpatialDropout1D(0.4),
    "Dropout one": lambda lib: lib.layers.Dropout(0.4, noise_shape=(None, None, 1)),
}
OTHERS = {
    "Identity": lambda lib: lib.layers.Identity(),
    "ActivityRegularization": lambda lib: lib.layers.ActivityRegularization(0.1, 0.2),
    "Lambda": lambda lib: lib.layers.Lambda(sine, mask=kept_mask),
}
LAYERS = {**ACTIVATIONS, **NOISES, **OTHERS}


def without_mask(x):
    """Return the numbers without the mask, with which Keras's Softmax fails."""
    return x * 1.0


# ------------------------------------------------------------------------------------------------ Keras's numbers


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_match_keras_at_every_position(name):
    """Compare at inference, on one batch with rows of all kinds of masks, gap values included."""
    mine, theirs = twins(LAYERS[name], (None, T, D))
    (x, table), (y, other) = embed(padless, all_ids()), embed(keras, all_ids())
    softmax = name.startswith("Softmax")  # Keras's fails with the mask of an embedding: docs/differences.md
    a, b = mine(x), theirs(without_mask(y) if softmax else y)
    compare(a, b, [(mine, theirs), (table, other)], masks=not softmax)
    equal_masks(mask_on(a), all_ids() != 0)


@pytest.mark.parametrize("name", ["ReLU all", "PReLU", "Softmax", "AlphaDropout", "Identity", "Lambda"])
def test_layer_on_each_kind_of_mask(name):
    for kind in KINDS:
        mine, theirs = twins(LAYERS[name], (None, T, D))
        (x, table), (y, other) = embed(padless, ids_of(kind)), embed(keras, ids_of(kind))
        compare(
            mine(x),
            theirs(without_mask(y) if name == "Softmax" else y),
            [(mine, theirs), (table, other)],
            masks=name != "Softmax",
        )


PLAIN = {
    **ACTIVATIONS,
    "PReLU all": lambda lib: lib.layers.PReLU(),
    "PReLU features": lambda lib: lib.layers.PReLU(shared_axes=2),
    "Softmax time": lambda lib: lib.layers.Softmax(axis=1),
    "Softmax batch": lambda lib: lib.layers.Softmax(axis=0),
    "Softmax several": lambda lib: lib.layers.Softmax(axis=(1, -1)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_input_matches_keras(name):
    mine, theirs = twins(PLAIN[name], (None, T, D))
    x = torch.from_numpy(numbers(4, T, D))
    compare(mine(x), theirs(x), [(mine, theirs)] if mine.get_weights() else ())


@pytest.mark.parametrize("name", [name for name in LAYERS if name.split()[-1] not in ("shape", "one", "list")])
def test_names_shapes_arguments_and_configs_match_keras(name):
    mine, theirs = (LAYERS[name](lib) for lib in (padless, keras))
    assert mine.name == theirs.name or mine.name == theirs.name.rpartition("_")[0]
    assert tuple(mine.compute_output_shape((None, T, D))) == tuple(theirs.compute_output_shape((None, T, D)))
    ours, expected = (inspect.signature(type(layer).__init__).parameters for layer in (mine, theirs))
    wanted = [p for p in expected if p != "kwargs"]
    assert list(ours)[: len(wanted)] == wanted
    assert [ours[p].default for p in wanted[1:]] == [expected[p].default for p in wanted[1:]]
    config = json.loads(json.dumps(mine.get_config()))
    assert set(theirs.get_config()) <= set(config)
    assert type(mine).from_config(config).get_config() == config
    for layer in (mine, theirs):
        layer.build((None, T, D))
    assert [w.shape for w in mine.get_weights()] == [w.shape for w in theirs.get_weights()]
    assert [name for name, _ in mine.named_parameters()] == [w.name for w in theirs.weights]


def test_arguments_that_keras_refuses_raise():
    for make in [
        lambda lib: lib.layers.ReLU(max_value=-1),
        lambda lib: lib.layers.ReLU(negative_slope=-1),
        lambda lib: lib.layers.ReLU(threshold=None),
        lambda lib: lib.layers.LeakyReLU(-0.1),
        lambda lib: lib.layers.GaussianNoise(-1),
        lambda lib: lib.layers.GaussianNoise(1.5),
        lambda lib: lib.layers.GaussianDropout(-1),
        lambda lib: lib.layers.AlphaDropout(2),
        lambda lib: lib.layers.SpatialDropout1D(-0.1),
        lambda lib: lib.layers.Dropout(0.1, noise_shape=(0, 1)),
        lambda lib: lib.layers.Dropout(0.1, noise_shape="time"),
        lambda lib: lib.layers.ActivityRegularization(l1=-1),
    ]:
        for lib in (padless, keras):
            with pytest.raises(ValueError):
                make(lib)


def test_rate_of_one_raises_where_it_would_divide_by_zero():
    for cls in [L.GaussianDropout, L.AlphaDropout]:
        with pytest.raises(ArgumentError, match="below 1"):
            cls(1.0)


def test_leaky_relu_accepts_alpha_with_a_warning():
    with pytest.warns(UserWarning, match="negative_slope"):
        layer = L.LeakyReLU(alpha=0.5)
    assert L.LeakyReLU.from_config(layer.get_config()).negative_slope == 0.5


# ------------------------------------------------------------------------------------------------ activations by name

EVERYWHERE = sorted(
    {n for n in dir(keras.activations) if not n.startswith("_")}
    - {"get", "serialize", "deserialize", "threshold", "sparsemax"}
)  # arguments; Keras's is wrong


@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_activation_name_works_on_masked_data(name):
    makes = [lambda lib: lib.layers.Activation(name), lambda lib: lib.layers.Dense(4, activation=name)]
    if name != "glu":  # which halves the units
        makes.append(lambda lib: lib.layers.SimpleRNN(2, activation=name, return_sequences=True))
    ids = all_ids()[::3]
    for make in makes:
        mine, theirs = twins(make, (None, T, 4))
        x, y = embed(padless, ids, 4, numbers(7, 4))[0], embed(keras, ids, 4, numbers(7, 4))[0]
        with torch.no_grad(), losing():
            compare(mine(x), theirs(y), tolerance=1e-4)
    assert callable(getattr(padless.activations, name))


@pytest.mark.parametrize("name", [*EVERYWHERE, "sparsemax", "relu"])
def test_activations_run_in_half_precision(name):
    for dtype in [torch.bfloat16, torch.float64]:
        x = pack(torch.randn(3, 4, 6, dtype=dtype, requires_grad=True), [[1, 1, 0, 0]] * 3)
        y = L.Activation(name)(x)
        assert y.dtype == dtype and torch.isfinite(y.values).all()
        y.values.sum().backward()


def test_sparsemax_counts_more_than_half_precision_can_represent():
    weights = L.Activation("sparsemax")(torch.zeros(1, 1001, dtype=torch.bfloat16))
    assert abs(weights.double().sum().item() - 1) < 0.01


@pytest.mark.parametrize("inner", [L.LeakyReLU(0.1), L.PReLU(shared_axes=[1]), L.Softmax()])
def test_layer_as_activation(inner):
    layer = L.Dense(2, activation=inner)
    x = pack(torch.randn(2, 3, 4), lengths=[3, 1])
    y = layer(x)
    torch.testing.assert_close(y.values, inner(x.with_values(x.values @ layer.kernel + layer.bias)).values)
    assert len(layer.get_weights()) == 2 + len(inner.get_weights())
    assert torch.equal(layer(x).values, y.values)
    again = L.Dense.from_config(json.loads(json.dumps(layer.get_config())))
    assert type(again.activation) is type(inner)


# ------------------------------------------------------------------------------------------------ PReLU


def test_prelu_with_open_time_axis_raises():
    x = L.Input((None, 3), masked=True)
    with pytest.raises(ShapeError, match=r"PReLU\(shared_axes=\[1\]\)"):
        L.PReLU()(x)
    with pytest.raises(ShapeError, match=r"PReLU\(shared_axes=\[1, 2\]\)"):
        L.PReLU(shared_axes=[2])(x)
    assert L.PReLU(shared_axes=[1])(x).masked


def test_prelu_alpha_is_selected_by_column():
    for kind in KINDS:
        mine, theirs = twins(lambda lib: lib.layers.PReLU(), (None, T, D))
        (x, table), (y, other) = embed(padless, ids_of(kind)), embed(keras, ids_of(kind))
        a, b = mine(x), theirs(y)
        real = torch.from_numpy(mask_of(kind))
        close(a.values, b[real])
        assert not a.unpack()[~real].any()  # docs/differences.md: zeros_in_gaps
        for output, layers in ((a.values, (mine, table)), (b[real], (theirs, other))):
            (output * torch.from_numpy(numbers(*output.shape))).sum().backward()
            assert all(w.requires_grad for layer in layers for w in layer.trainable_weights if isinstance(w, torch.Tensor))
        close(mine.alpha.grad, theirs.alpha.value.grad)
        close(table.embeddings.grad, other.embeddings.value.grad)


def test_wrong_shapes_of_prelu_raise():
    layer = L.PReLU()
    layer.build((None, 4, 3))
    with pytest.raises(ShapeError, match="shared_axes"):
        layer(pack(torch.ones(2, 5, 3)))
    for axes in (0, 3, -1, "1"):
        with pytest.raises(ArgumentError, match="count from 1"):
            L.PReLU(shared_axes=axes)(torch.ones(2, 5, 3))


# ------------------------------------------------------------------------------------------------ Softmax


@pytest.mark.parametrize("axis", [1, (1, 2), [-1, -2], [1]])
def test_softmax_over_time_matches_keras_on_real_steps(axis):
    """Keras gives the same outputs and gradients if its mask has the shape of the input."""
    for kind in KINDS:
        mask = torch.from_numpy(mask_of(kind))
        x = torch.from_numpy(3 * numbers(4, T, D))
        results = []
        for layer, data, more in (
            (L.Softmax(axis), pack(x.requires_grad_(), mask), {}),
            (keras.layers.Softmax(axis), x, {"mask": mask[..., None].expand(-1, -1, D)}),
        ):
            x.grad = None
            output = grid(layer(data, **more))
            (output * torch.from_numpy(numbers(*output.shape))).sum().backward()
            results.append((output, x.grad.clone()))
        for a, b in zip(*results, strict=True):
            close(a, b, 1e-6)


def test_softmax_over_time():
    """Keras raises an error, or confuses steps and features; padless normalizes over the real steps of each sequence."""
    ids = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    y, _ = embed(keras, ids)
    with pytest.raises(ValueError, match="broadcastable"):
        keras.layers.Softmax(axis=1)(y)
    output = L.Softmax(axis=1)(embed(padless, ids)[0])
    np.testing.assert_allclose(shown(output).sum(1), [[1.0] * D, [1.0] * D, [0.0] * D], atol=1e-6)
    assert np.array_equal(output.mask, ids != 0)
    square = np.array([[3, 1, 2], [4, 1, 0], [5, 0, 0]])  # as many steps as features: Keras does not see the difference
    wrong = keras.layers.Softmax(axis=-1)(embed(keras, square)[0])
    assert (shown(wrong)[:, :, 1:] == 0).any() and (shown(wrong)[0] > 0).any()
    features = L.Softmax()(embed(padless, square)[0])
    np.testing.assert_allclose(shown(features).sum(-1), 1.0, atol=1e-6)


def test_softmax_over_time_of_scores_without_features():
    scores = pack(torch.tensor([[1.0, 2.0, 9.0], [0.0, 9.0, 9.0], [9.0] * 3]), lengths=[2, 1, 0])
    weights = L.Softmax()(scores)
    torch.testing.assert_close(weights.values, torch.tensor([*torch.softmax(torch.tensor([1.0, 2.0]), 0), 1.0]))
    assert not weights.unpack()[~weights.mask].any()


def test_softmax_over_time_does_not_overflow():
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        scores = torch.tensor([[1e4, 1e4 - 1, -1e30], [-1e4, -1e4, 5.0]], dtype=dtype)[..., None].requires_grad_()
        weights = L.Softmax(axis=1)(pack(scores, lengths=[3, 2]))
        assert weights.dtype == dtype
        weights.values.square().sum().backward()
        assert torch.isfinite(weights.values).all() and torch.isfinite(scores.grad).all()
        assert (weights.unpack().sum(1) - 1).abs().max() <= tolerance
    long = L.Softmax(axis=1)(pack(torch.zeros(1, 3000, 1, dtype=torch.bfloat16)))
    assert abs(float(long.values.double().sum()) - 1) < 0.01  # summed in more than half precision


def test_softmax_over_inner_steps():
    x, mask = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4) < 0.6
    output = L.Softmax(axis=2)(pack(x, mask))
    sums = output.unpack().sum(2)
    torch.testing.assert_close(sums, mask.any(2)[..., None].expand_as(sums).float())
    torch.testing.assert_close(L.TimeDistributed(L.Softmax(axis=1))(pack(x, mask)).unpack(), output.unpack())


def test_softmax_across_sequences_raises():
    for axis in [0, (0, 1), (0, 2)]:
        with pytest.raises(MaskLost, match="different sequences"):
            L.Softmax(axis)(pack(torch.ones(2, 3, 4), lengths=[3, 1]))
        with pytest.raises(MaskLost, match="different sequences"):
            L.Softmax(axis)(L.Input((None, 4), masked=True))


def test_missing_axis_raises():
    for axis in (3, -4, "time", [1, 5]):
        with pytest.raises(ArgumentError, match="has 3 axes"):
            L.Softmax(axis)(torch.ones(2, 3, 4))


CHOICES = {"all": (4, T, D), "steps": (4, T, 1), "features": (1, 1, D), "last": (D,), "two": (T, D), "one": (1, T, 1)}


@pytest.mark.parametrize("shape", CHOICES)
def test_element_mask_of_softmax_matches_keras(shape):
    for kind in ["bool", "float", "int", "numpy"]:
        x = torch.from_numpy(numbers(4, T, D))
        chosen = torch.from_numpy(numbers(*CHOICES[shape], seed=5)) > -0.3
        chosen[0] = False
        mask = {"bool": chosen, "float": torch.where(chosen, 0.7, 0.3), "int": chosen.int(), "numpy": chosen.numpy()}[kind]
        for axis in (-1, 1, (1, 2)):
            mine, theirs = L.Softmax(axis), keras.layers.Softmax(axis)
            expected = theirs(x, mask=torch.as_tensor(mask))
            for output in (mine(x, mask=mask), mine(x, mask)):
                assert isinstance(output, torch.Tensor)
                close(output, expected, 1e-6)
            real = mask_of("holes")
            packed = mine(pack(x, real), mask=mask)
            close(packed, theirs(x, mask=chosen & torch.from_numpy(real)[..., None]), 1e-6)
            assert np.array_equal(packed.mask, real)


def test_softmax_ignores_unselected_numbers():
    x = torch.tensor([[1.0, 2.0, float("nan")], [float("inf"), 0.0, 1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    chosen = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0]]).bool()
    output = L.Softmax()(x, mask=chosen)
    output.square().sum().backward()
    assert torch.isfinite(x.grad).all() and not x.grad[~chosen].any() and not output[~chosen].any()
    close(output.sum(-1), torch.tensor([1.0, 1.0, 0.0]))


def test_softmax_accepts_a_step_mask():
    x, real = torch.from_numpy(numbers(4, T, D)), mask_of("left")
    for mask in (real, torch.from_numpy(real), real.astype(int)):
        output = L.Softmax(axis=1)(x, mask=mask)
        assert torch.equal(output.values, L.Softmax(axis=1)(pack(x, real)).values)
        assert np.array_equal(output.mask, real)
    narrowed = L.Softmax(axis=1)(pack(x), mask=real)
    assert torch.equal(narrowed.unpack(), output.unpack())


def test_softmax_mask_of_wrong_shape_raises():
    for shape in ((4, T, D + 1), (2, 4, T, D), (T, T)):
        with pytest.raises((ShapeError, MaskError), match="mask"):
            L.Softmax()(torch.ones(4, T, D), mask=torch.ones(shape, dtype=torch.bool))


def test_softmax_with_a_mask_in_a_model():
    x, m = L.Input((T, D)), L.Input((T, D), dtype="bool")
    model = padless.Model([x, m], L.Softmax(axis=1)(x, mask=m))
    again = padless.Model.from_config(json.loads(json.dumps(model.get_config())))
    data, chosen = torch.from_numpy(numbers(4, T, D)), torch.from_numpy(numbers(4, T, D)) > 0
    for made in (model, again):
        close(made([data, chosen]), keras.layers.Softmax(axis=1)(data, mask=chosen))


# ------------------------------------------------------------------------------------------------ noise


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_the_distribution_of_keras(name):
    """Compare means and second moments at the real steps, also between steps and features that may share their noise."""
    keras.utils.set_random_seed(0)
    mine, theirs = (NOISES[name](lib) for lib in (padless, keras))
    ids = np.tile([[1, 3, 0, 2]], (6000, 1))
    (x, _), (y, _) = (embed(lib, ids, 2, numbers(7, 2)) for lib in (padless, keras))
    with torch.no_grad():
        rows = [
            shown(layer(data, training=True))[:, ids[0] != 0].reshape(6000, -1) for layer, data in ((mine, x), (theirs, y))
        ]
    np.testing.assert_allclose(*[r.mean(0) for r in rows], atol=0.09)
    np.testing.assert_allclose(*[r.T @ r / 6000 for r in rows], atol=0.2)
    assert np.array_equal(shown(mine(x, training=False)), shown(x))


def trained(make):
    """Run the layer in training on the same real steps with more padding each time; return values and random states."""
    x = pack(torch.from_numpy(numbers(4, T, D)), mask_of("empty"))
    found = []
    for left, right in ((0, 0), (2, 3), (0, 7)):
        layer = make(padless)
        mask = np.pad(mask_of("empty"), ((0, 0), (left, right)))
        wide = padless.Packed(x.values, Index(mask))
        wide = wide.with_values(wide.values, torch.randn(wide.index.num_gaps, D, generator=torch.Generator().manual_seed(1)))
        torch.manual_seed(0)
        output = layer(wide, training=True)
        assert torch.equal(output.gap_values, wide.gap_values)
        found.append((output.values, torch.get_rng_state()))
    return found


@pytest.mark.parametrize("name", [*NOISES, "Dropout", "Dropout batch"])
@pytest.mark.parametrize("seed", [None, 5])
def test_noise_is_drawn_for_real_steps_only(name, seed):
    """More padding changes no bit of the noise, of later random numbers, or of the gap values."""
    shared = (1, None, None) if name == "Dropout batch" else None
    made = NOISES.get(name, lambda lib: lib.layers.Dropout(0.5, noise_shape=shared))

    def seeded(lib):
        layer = made(lib)
        return type(layer).from_config({**layer.get_config(), "seed": seed})

    (first, state), *others = trained(seeded)
    assert not torch.equal(first, torch.from_numpy(numbers(4, T, D))[torch.from_numpy(mask_of("empty"))])
    for values, after in others:
        assert torch.equal(values, first) and torch.equal(after, state)


@pytest.mark.parametrize("name", NOISES)
def test_seeded_layer_does_not_use_the_global_generator(name):
    plain = NOISES[name](padless)
    config = {**plain.get_config(), "seed": 11}
    x = torch.ones(3, T, D)
    before = torch.get_rng_state()
    first, second = (type(plain).from_config(config) for _ in range(2))
    one, two = (layer(x, training=True) for layer in (first, second))
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first(x, training=True), one)  # it goes on
    for again in (copy.deepcopy(second), pickle.loads(pickle.dumps(second))):
        assert torch.equal(again(x, training=True), copy.deepcopy(second)(x, training=True))
    torch.manual_seed(3)
    assert not torch.equal(plain(x, training=True), plain(x, training=True))


def test_spatial_dropout_drops_features_of_whole_sequences():
    mask = np.random.default_rng(0).random((200, 6)) < 0.7
    output = L.SpatialDropout1D(0.4)(pack(torch.ones(200, 6, 5), mask), training=True)
    kept = torch.stack([part.amax(0) for part in output.sequences() if len(part)])
    assert all((part == part[:1]).all() for part in output.sequences())
    assert set(kept.unique().tolist()) == {0.0, 1 / np.float32(0.6)}
    assert abs((kept > 0).float().mean() - 0.6) < 0.05 and (kept > 0).float().var(0).min() > 0.1


def test_spatial_dropout_of_wrong_rank_raises():
    for x in (torch.ones(2, 3), L.Input((4, 5, 6))):
        with pytest.raises(ShapeError, match="expected inputs with 3 axes"):
            L.SpatialDropout1D(0.5)(x)


def test_noise_shape_that_does_not_broadcast_raises():
    with pytest.raises(ShapeError, match="does not broadcast"):
        L.Dropout(0.5, noise_shape=(None, 2, None))(pack(torch.ones(2, 3, 4)), training=True)


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.integers(0, 99),
)
@settings(max_examples=40)
def test_steps_with_one_draw_differ_along_shared_axes_only(batch, sentences, words, own, seed):
    mask = np.random.default_rng(seed).random((batch, sentences, words)) < 0.5
    index = Index.from_mask(mask)
    shared = draw_numbers(index, own)
    steps = []
    for b in range(batch):
        for s, sentence in enumerate([row for row in mask[b] if row.any()]):
            steps += [tuple(x for x, mine in zip((b, s, w), own, strict=True) if mine) for w in range(sentence.sum())]
    assert len(shared) == len(steps)
    for step, draw in zip(steps, shared, strict=True):
        assert [d == draw for d in shared] == [s == step for s in steps]
    assert set(shared) == set(range(len(set(steps))))


@pytest.mark.parametrize("name", [*NOISES, *ACTIVATIONS, *OTHERS])
def test_every_layer_runs_in_other_precisions(name):
    for dtype in [torch.bfloat16, torch.float64]:
        layer = LAYERS[name](padless)
        layer.build((None, T, D))
        layer.to(dtype)
        x = torch.randn(4, T, D, dtype=dtype, requires_grad=True)
        for mask in (mask_of("empty"), np.zeros((4, T), dtype=bool)):
            x.grad = None
            y = layer(pack(x, mask), training=True)
            assert y.dtype == dtype
            y.values.sum().backward()
            assert torch.isfinite(x.grad).all() and not x.grad[torch.from_numpy(~mask)].any()


def test_noise_on_integers_gives_floats():
    x = pack(torch.ones(2, 3, 4, dtype=torch.long), lengths=[3, 1])
    x = x.with_values(x.values, torch.zeros(1, 4, dtype=torch.long))
    for layer in (L.GaussianNoise(0.5), L.GaussianDropout(0.5)):
        assert layer(x, training=True).unpack().dtype == torch.float32


def test_building_a_model_does_not_draw_noise():
    before = torch.get_rng_state()
    for make in NOISES.values():
        assert make(padless)(L.Input((None, 3), masked=True), training=True).masked
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------ activity

REGULARIZED = {
    "Dense": lambda lib, **k: lib.layers.Dense(2, **k),
    "Activation": lambda lib, **k: lib.layers.Activation("tanh", **k),
    "ReLU": lambda lib, **k: lib.layers.ReLU(**k),
    "Identity": lambda lib, **k: lib.layers.Identity(**k),
    "Dropout": lambda lib, **k: lib.layers.Dropout(0.5, **k),
    "LayerNormalization": lambda lib, **k: lib.layers.LayerNormalization(**k),
    "Lambda": lambda lib, **k: lib.layers.Lambda(sine, **k),
    "LSTM": lambda lib, **k: lib.layers.LSTM(2, return_sequences=True, **k),
    "LSTM last": lambda lib, **k: lib.layers.LSTM(2, **k),
    "GRU states": lambda lib, **k: lib.layers.GRU(2, return_sequences=True, return_state=True, **k),
    "Conv1D": lambda lib, **k: lib.layers.Conv1D(2, 3, padding="same", **k),
    "Pooling": lambda lib, **k: lib.layers.GlobalAveragePooling1D(**k),
    "Embedding": lambda lib, **k: lib.layers.Embedding(7, 3, **k),
    "TimeDistributed": lambda lib, **k: lib.layers.TimeDistributed(lib.layers.Dense(2), **k),
}


@pytest.mark.parametrize("name", REGULARIZED)
def test_activity_loss_matches_keras_and_ignores_padding(name):
    ids = name == "Embedding"
    mine, theirs = twins(
        lambda lib: REGULARIZED[name](lib, activity_regularizer=lib.regularizers.L1L2(0.1, 0.2)),
        (None, T) if ids else (None, T, D),
    )
    x = torch.from_numpy(ids_of("none") if ids else numbers(4, T, D))
    mine(x)
    theirs(x)
    expected = [loss.item() for loss in theirs.losses]
    np.testing.assert_allclose([loss.item() for loss in mine.losses], expected, rtol=1e-5)
    for left, right in ((0, 0), (2, 1)):
        shape = ((0, 0), (left, right), *((0, 0),) * (x.ndim - 2))
        wide = torch.from_numpy(np.pad(x.numpy(), shape, constant_values=3))
        mine(pack(wide, np.pad(np.ones((4, T), dtype=bool), ((0, 0), (left, right)))))
        np.testing.assert_allclose([loss.item() for loss in mine.losses], expected, rtol=1e-5)


def test_activity_of_the_real_steps_alone():
    """In Keras the loss grows with the padding."""
    ids = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0]])
    for pad in (0, 3):
        wide = np.pad(ids, ((0, 0), (0, pad)))
        (x, _), (y, _) = embed(padless, wide), embed(keras, wide)
        mine, theirs = (lib.layers.ActivityRegularization(0.1, 0.2) for lib in (padless, keras))
        mine(x)
        theirs(y)
        cost = 0.1 * np.abs(shown(x)) + 0.2 * np.square(shown(x))
        np.testing.assert_allclose(mine.losses[0].item(), cost[wide != 0].sum() / 2, rtol=1e-5)
        np.testing.assert_allclose(theirs.losses[0].item(), cost.sum() / 2, rtol=1e-5)


def test_activity_loss_has_gradients_and_is_zero_for_empty_inputs():
    layer = L.ActivityRegularization(l2=0.5)
    x = torch.randn(2, 3, 4, requires_grad=True)
    layer(pack(x, lengths=[2, 1]))
    layer.losses[0].backward()
    real = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    torch.testing.assert_close(x.grad, torch.where(real[..., None], x.detach() / 2, 0.0))
    for empty in (pack(torch.ones(2, 3, 4), lengths=[0, 0]), pack(torch.ones(0, 3, 4)), torch.ones(0, 3)):
        layer(empty)
        assert float(layer.losses[0]) == 0


# ------------------------------------------------------------------------------------------------ Identity, Lambda


def test_identity_of_nested_inputs():
    layer = L.Identity()
    a, b = pack(torch.ones(2, 3, 4), lengths=[3, 1]), torch.ones(2, 2)
    assert layer([a, b])[0] is a and layer({"x": b})["x"] is b
    x = L.Input((None, 3), masked=True)
    assert layer(x).masked and layer(x).shape == (None, None, 3)
    assert layer.compute_output_shape([(None, 3), (2, 4)]) == [(None, 3), (2, 4)]


@given(st.sampled_from(KINDS), st.integers(0, 3))
@settings(max_examples=20)
def test_stepwise_lambda_keeps_values_gap_values_and_mask(kind, seed):
    functions = (lambda x: x**2 + 1, lambda x: torch.softmax(x, -1), lambda x: x[..., :2], lambda x: x @ torch.ones(D, 2))
    x, _ = embed(padless, ids_of(kind))
    output = L.Lambda(functions[seed])(x)
    torch.testing.assert_close(output.unpack(), functions[seed](x.unpack()))
    assert output.index is x.index


def test_lambda_keeps_its_mask():
    """Keras warns and drops the mask, so that padding counts from there on."""
    ids = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0]])
    (x, _), (y, _) = embed(padless, ids), embed(keras, ids)
    with pytest.warns(UserWarning, match="does not support masking"):
        theirs = keras.layers.Lambda(lambda x: x * 2)(y)
    mine = L.Lambda(lambda x: x * 2)(x)
    close(mine, theirs)
    assert mask_on(theirs) is None and np.array_equal(mine.mask, ids != 0)
    averages = [lib.layers.GlobalAveragePooling1D()(h) for lib, h in ((padless, mine), (keras, theirs))]
    np.testing.assert_allclose(shown(averages[0])[1], shown(mine)[1, 0], rtol=1e-5)
    assert np.abs(shown(averages[1])[1] - shown(mine)[1, 0]).max() > 0.1


def test_lambda_that_mixes_steps_raises_when_the_model_is_built():
    for function in [lambda x: x.sum(1), lambda x: x[:, -1], lambda x: x.flip(1), lambda x: x.mean()]:
        x = L.Input((None, 3), masked=True, name="sentence")
        with pytest.raises(MaskLost, match="(?s)layer 'mixing'.*sentence.*LastStep.*DropMask"):
            L.Lambda(function, name="mixing")(x)
        plain = torch.randn(2, 4, 3)
        assert torch.equal(L.Lambda(function)(plain), function(plain))


def test_lambda_with_mask_argument_gets_the_grid():
    (x, _), (y, _) = embed(padless, all_ids()), embed(keras, all_ids())

    def total(x, mask, factor=1.0):
        return factor * (x * mask[..., None]).sum(1)

    with losing():
        theirs = keras.layers.Lambda(total, arguments={"factor": 3.0})(y)
    close(L.Lambda(total, arguments={"factor": 3.0})(x), theirs)
    assert L.Lambda(total)(L.Input((None, 3), masked=True)).masked is False
    seen = L.Lambda(running)(x)  # an output that has the steps keeps them
    close(seen.unpack()[seen.mask], running(grid(y), seen.mask)[seen.mask])
    assert np.array_equal(seen.mask, all_ids() != 0)


def test_lambda_mask_function_sets_the_mask():
    for mask in [lambda x, m: m, lambda x, m: m & (torch.arange(T) > 1), lambda x, m: None]:
        (x, _), (y, _) = embed(padless, all_ids()), embed(keras, all_ids())
        mine, theirs = (lib.layers.Lambda(lambda x: x - x.mean(1, keepdim=True), mask=mask) for lib in (padless, keras))
        a, b = mine(x), theirs(y)
        equal_masks(mask_on(a), mask_on(b))
        real = torch.from_numpy(mask_on(b)) if mask_on(b) is not None else torch.ones(len(all_ids()), T).bool()
        close(grid(a)[real], b[real])


def test_lambda_with_fixed_mask_ignores_the_input_mask():
    mask = mask_of("holes")
    for given_ in (torch.from_numpy(mask), mask, mask.tolist()):
        layer = L.Lambda(lambda x: x * 2, mask=given_)
        x = torch.from_numpy(numbers(4, T, D))
        for data in (x, pack(x)):
            output = layer(data)
            assert np.array_equal(output.mask, mask)
            close(output.values, 2 * x[torch.from_numpy(mask)])
        symbol = layer(L.Input((None, D)))
        assert symbol.masked and symbol.shape == (None, None, D)
        again = L.Lambda.from_config(json.loads(json.dumps(L.Lambda(torch.sin, mask=given_).get_config())))
        assert np.array_equal(again(x).mask, mask)
    assert np.array_equal(L.Lambda(torch.sin, mask=[[True, False]])(torch.ones(3, 2, 1)).mask, [[True, False]] * 3)
    with pytest.raises(MaskError, match="lambda"):
        layer(torch.ones(2, T, D))


def test_lambda_that_unpacks_gets_gap_values():
    """This holds in a model too, where gap values that no layer reads are not computed."""
    ids = all_ids()
    table = L.Embedding(7, D, mask_zero=True)
    inner = L.GRU(2, return_sequences=True)  # in a gap it shows the output before
    layer = L.Lambda(lambda x: inner(x * 2).unpack().sum(1))
    symbol = L.Input((T,), dtype="int64")
    model = padless.Model(symbol, L.Dense(1, kernel_initializer="ones")(layer(table(symbol))))
    model.compile(loss="mse")
    expected = inner(table(torch.from_numpy(ids)) * 2).unpack().sum((1, 2))[:, None]
    close(model.predict(ids, verbose=0), expected)
    assert model.evaluate(ids, expected.detach().numpy(), verbose=0) < 1e-6


def test_lambda_gets_training():
    layer = L.Lambda(lambda x, training: x * (2 if training else 3))
    assert layer(torch.ones(1, 1), training=True).item() == 2 and layer(torch.ones(1, 1)).item() == 3


def test_lambda_with_several_inputs_and_outputs():
    x, y = pack(torch.ones(2, 3, 4), lengths=[3, 1]), pack(torch.ones(2, 3, 4), lengths=[3, 1])
    both = L.Lambda(lambda inputs: {"sum": inputs[0] + inputs[1], "gap": inputs[0] - inputs[1]})([x, y])
    assert both["sum"].index is x.index and not both["gap"].values.any()


def test_output_shape_of_lambda():
    double = L.Lambda(lambda x: torch.cat([x, x], -1))
    for shape in ((None, T, D), (4, T, D)):
        assert double.compute_output_shape(shape) == (*shape[:2], 2 * D)
        assert L.Lambda(torch.sin, output_shape=(9, None)).compute_output_shape(shape) == (shape[0], 9, None)
        assert L.Lambda(torch.sin, output_shape=lambda s: s[:1]).compute_output_shape(shape) == shape[:1]
        assert L.Lambda(torch.sin, output_shape=[(2,), (3, 4)]).compute_output_shape([shape, shape]) == [
            (shape[0], 2),
            (shape[0], 3, 4),
        ]


SAVED = {
    "torch": lambda: L.Lambda(torch.exp),
    "functional": lambda: L.Lambda(torch.nn.functional.normalize, arguments={"dim": -1}),
    "special": lambda: L.Lambda(torch.special.entr),
    "activation": lambda: L.Lambda(padless.activations.softsign),
    "own": lambda: L.Lambda(thirds, output_shape=(None, 4), arguments={"factor": 2.5}),
    "mask": lambda: L.Lambda(running, mask=positive),
    "tuple": lambda: L.Lambda(torch.sum, arguments={"dim": (-1,), "keepdim": True, "dtype": torch.float64}),
    "tensor": lambda: L.Lambda(torch.mul, arguments={"other": torch.tensor([1.0, 2.0, 3.0])}),
    "array": lambda: L.Lambda(times, arguments={"other": np.float32([1.0, 2.0, 3.0])}),
    "layer": lambda: L.Lambda(L.Activation("tanh")),
}


@pytest.mark.parametrize("name", SAVED)
def test_lambda_of_a_registered_function_is_saved(name, tmp_path):
    x = L.Input((None, 3), masked=True)
    layer = SAVED[name]()
    again = L.Lambda.from_config(json.loads(json.dumps(layer.get_config())))
    data = pack(torch.randn(2, 4, 3), lengths=[4, 2])
    expected = grid(layer(data))
    assert torch.equal(grid(again(data)), expected)
    assert json.dumps(again.get_config()) == json.dumps(layer.get_config())
    model = padless.Model(x, layer(x))
    model.save(tmp_path / "model.padless")
    assert torch.equal(grid(padless.load_model(tmp_path / "model.padless")(data)), expected)


def test_lambda_in_a_file(tmp_path):
    """Keras saves and runs bytecode; padless saves names only."""
    code = keras.layers.Lambda(lambda x: x * 2).get_config()
    assert code["function"]["class_name"] == "__lambda__" and code["function"]["config"]["code"]
    with pytest.raises(ArgumentError, match="never runs"):
        L.Lambda.from_config(code)
    for layer in (
        L.Lambda(lambda x: x * 2, name="twice"),
        L.Lambda(torch.sin, mask=lambda x, m: m, name="twice"),
        L.Lambda(torch.sin, output_shape=lambda s: s, name="twice"),
        L.Lambda(torch.sin, arguments={"other": print}, name="twice"),
    ):
        with pytest.raises(ArgumentError, match="(?s)'twice' cannot be saved.*register_keras_serializable.*Layer"):
            layer.get_config()


def test_config_can_name_functions_of_tensors_only():
    for name in [
        "torch.save",
        "torch.load",
        "torch.compile",
        "torch.nope",
        "torch.hub.load",
        "os.system",
        "builtins.eval",
        "torch.nn.functional.handle_torch_function",
    ]:
        with pytest.raises(ArgumentError, match="Unknown"):
            L.Lambda.from_config({"function": name})


def test_lambda_without_function_raises():
    with pytest.raises(ArgumentError, match="expected a function"):
        L.Lambda("relu")


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid"])
def test_in_place_activation_changes_no_number_and_no_gradient(name):
    dense, apart = L.Dense(4, activation=name), L.Dense(4)
    x = padless.pack(torch.randn(2, 3, 5, dtype=torch.float64), lengths=[3, 1])
    for layer in (dense, apart):
        layer(x)
        layer.double()
    apart.load_state_dict(dense.state_dict())
    act = padless.activations.get(name)
    assert torch.equal(dense(x).unpack(), act(apart(x)).unpack())

    def run(values, kernel, bias):
        moved = torch.func.functional_call(dense, {"kernel": kernel, "bias": bias}, (x.with_values(values),))
        return moved.values

    given = [t.detach().clone().requires_grad_() for t in (x.values, dense.kernel, dense.bias)]
    assert torch.autograd.gradcheck(run, given) and torch.autograd.gradgradcheck(run, given)


def test_dense_on_steps_without_features_raises():
    layer = L.Dense(3)
    layer(torch.ones(1, 3))
    for rows in ([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0], [4.0]]):
        with pytest.raises(padless.errors.PadlessError):
            layer(padless.pack(rows))
