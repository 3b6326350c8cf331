"""Normalization layers and EinsumDense: parity with Keras, statistics of real steps only, and moving averages.

`test_properties.py` tests the properties of each layer with one mask.
"""

import inspect
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_parity import KINDS, MASKS, B, D, T, all_ids, close, compare, embed, ids_of, keras, losing, mask_on, numbers

import padless
from padless import layers as L
from padless import pack
from padless.errors import ArgumentError, DataError, MaskLost, ShapeError
from padless.kernels.moments import COUNT_EPSILON, batch_moments
from padless.ragged.index import Index
from padless.ragged.packed import Packed

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}")
    for what in (  # Keras's norm
        "__array__ implementation:DeprecationWarning",
        "You passed `rms_scaling=True`:UserWarning",
    )
]
K = keras.layers
CLIP = {"rmax": 1.2, "rmin": 0.7, "dmax": 0.5}


def layer(name, *args, **kwargs):
    return lambda lib: getattr(lib.layers, name)(*args, **kwargs)


def pair(make, shape):
    """Return the same layer in both libraries with the same weights, none at its initial value."""
    mine, theirs = make(padless), make(keras)
    mine.build(shape)
    theirs.build(shape)
    random = np.random.default_rng(3)
    weights = [w if w.dtype == np.int32 else 0.3 + random.random(w.shape).astype("float32") for w in mine.get_weights()]
    mine.set_weights(weights)
    theirs.set_weights(weights)
    return mine, theirs


LAYERS = {
    "BatchNormalization": layer("BatchNormalization"),
    "BatchNormalization momentum": layer("BatchNormalization", momentum=0.7, epsilon=0.1),
    "BatchNormalization center": layer("BatchNormalization", center=False),
    "BatchNormalization scale": layer("BatchNormalization", scale=False, momentum=0.5),
    "BatchNormalization plain": layer("BatchNormalization", center=False, scale=False),
    "BatchNormalization renorm": layer("BatchNormalization", renorm=True, renorm_momentum=0.8),
    "BatchNormalization clipped": layer("BatchNormalization", renorm=True, renorm_clipping=CLIP, scale=False),
    "BatchNormalization rmax": layer("BatchNormalization", renorm=True, renorm_clipping={"rmax": 0.9}, center=False),
    "LayerNormalization rms": layer("LayerNormalization", rms_scaling=True),
    "RMSNormalization": layer("RMSNormalization"),
    "RMSNormalization epsilon": layer("RMSNormalization", epsilon=0.5),
    "UnitNormalization": layer("UnitNormalization"),
    "Rescaling": layer("Rescaling", 0.5, offset=2.0),
    "Rescaling features": layer("Rescaling", [0.5, 1.0, 2.0], offset=[1.0, 0.0, 3.0]),
    "Normalization": layer("Normalization"),
    "Normalization all": layer("Normalization", axis=None),
    "Normalization invert": layer("Normalization", invert=True),
    "Normalization given": layer("Normalization", mean=[1.0, 2.0, 3.0], variance=[4.0, 0.0, 1.0]),
    "Normalization number": layer("Normalization", mean=1.0, variance=4.0, invert=True),
    "EinsumDense": layer("EinsumDense", "abc,cd->abd", (None, 2), activation="relu", bias_axes="d"),
    "EinsumDense elided": layer("EinsumDense", "...x,xy->...y", 4),
    "EinsumDense heads": layer("EinsumDense", "abc,cde->abde", (None, 2, 4), bias_axes="e"),
    "EinsumDense after": layer("EinsumDense", "abc...,cd->abd...", (None, 2), bias_axes="d"),
}
DROPPING = ("LayerNormalization rms", "RMSNormalization", "EinsumDense")  # Keras loses the mask: a line of differences.md


def check(name, ids, **call):
    """Compare outputs at every position, gradients of all weights and of the table, and the weights after the call."""
    make = LAYERS[name]
    mine, theirs = pair(make, (None, ids.shape[1], D))
    (x, table), (y, other) = embed(padless, ids), embed(keras, ids)
    with losing():
        ours, expected = mine(x, **call), theirs(y, **call)
    assert np.array_equal(mask_on(ours), ids != 0)
    kept = not name.startswith(DROPPING)
    layers = [(mine, theirs), (table, other)] if theirs.trainable_weights else [(table, other)]
    compare(ours, expected, layers, masks=kept or name.startswith("Layer"))
    for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def calls(names):
    """Return the calls to compare for each layer: batch statistics depend on `training`."""
    return [
        (name, call)
        for name in names
        for call in ([{"training": False}, {"training": True}] if name.startswith("Batch") else [{}])
    ]


@pytest.mark.parametrize("name, call", calls(LAYERS))
def test_outputs_and_gradients_match_keras_at_every_position(name, call):
    check(name, all_ids(), **call)


@pytest.mark.parametrize("name", ["BatchNormalization", "BatchNormalization clipped"])
def test_layer_on_each_kind_of_mask(name):
    for kind in KINDS:
        check(name, ids_of(kind), training=True)


PLAIN = {
    **LAYERS,
    "BatchNormalization time": layer("BatchNormalization", axis=1),
    "GroupNormalization": layer("GroupNormalization", 3),
    "GroupNormalization one": layer("GroupNormalization", groups=1, center=False, epsilon=0.1),
    "GroupNormalization instance": layer("GroupNormalization", -1, scale=False),
    "GroupNormalization time": layer("GroupNormalization", 5, axis=1),
    "RMSNormalization both": layer("RMSNormalization", axis=[1, 2]),
    "UnitNormalization time": layer("UnitNormalization", axis=1),
    "UnitNormalization both": layer("UnitNormalization", axis=[1, 2]),
    "LayerNormalization rms both": layer("LayerNormalization", axis=[1, 2], rms_scaling=True),
    "Normalization time": layer("Normalization", axis=1),
    "Normalization both": layer("Normalization", axis=(1, 2)),
    "EinsumDense time": layer("EinsumDense", "abc,bd->adc", (7, None), bias_axes="d"),
    "EinsumDense all": layer("EinsumDense", "abc,bcd->ad", 4, bias_axes="d"),
    "EinsumDense over time": layer("EinsumDense", "abc,cd->abd", (T, 2), bias_axes="bd"),
    "EinsumDense after time": layer("EinsumDense", "ab...,bc->ac...", 4, bias_axes="c"),
}


@pytest.mark.parametrize("name, call", calls(PLAIN))
def test_plain_input_matches_keras(name, call):
    mine, theirs = pair(PLAIN[name], (None, T, D))
    x, y = (torch.from_numpy(numbers(B, T, D)).requires_grad_() for _ in range(2))
    compare(mine(x, **call), theirs(y, **call), [(mine, theirs)] if mine.trainable_weights else ())
    for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    if x.grad is not None:
        close(x.grad, y.grad, 1e-4)
    said = zip(mine.compute_output_shape((None, T, D)), theirs.compute_output_shape((None, T, D)), strict=True)
    assert all(size in (None, norm) for norm, size in said)  # Keras forgets a size that the equation keeps


FOUR = {
    "BatchNormalization": layer("BatchNormalization", axis=2),
    "GroupNormalization": layer("GroupNormalization", 2, axis=2),
    "GroupNormalization minus": layer("GroupNormalization", 2, axis=-2),
    "GroupNormalization last": layer("GroupNormalization", 3),
    "UnitNormalization": layer("UnitNormalization", axis=[1, 3]),
    "Normalization": layer("Normalization", axis=[1, 3]),
    "EinsumDense": layer("EinsumDense", "abcd,dec->aeb", (7, None), bias_axes="e"),
    "EinsumDense elided": layer("EinsumDense", "...cd,de->...ce", (4, 2), bias_axes="ce"),
}


@pytest.mark.parametrize("name", FOUR)
def test_inputs_with_more_axes_match_keras(name):
    mine, theirs = pair(FOUR[name], (None, 5, 4, 3))
    x = torch.from_numpy(numbers(2, 5, 4, 3))
    call = {"training": True} if name.startswith("Batch") else {}
    compare(mine(x, **call), theirs(x, **call), [(mine, theirs)] if mine.trainable_weights else ())


@pytest.mark.parametrize(
    "name",
    [
        "BatchNormalization",
        "BatchNormalization clipped",
        "GroupNormalization",
        "RMSNormalization",
        "UnitNormalization",
        "LayerNormalization rms",
        "Rescaling features",
        "Normalization",
        "EinsumDense",
        "EinsumDense heads",
    ],
)
def test_names_shapes_and_configs_match_keras(name):
    mine, theirs = pair(PLAIN[name], (None, T, D))
    named = {id(w): path for path, w in (*mine.named_parameters(), *mine.named_buffers())}
    assert [named[id(w)] for w in mine.weights] == [w.name for w in theirs.weights]
    assert [(w.shape, w.dtype) for w in mine.get_weights()] == [(w.shape, w.dtype) for w in theirs.get_weights()]
    assert [w.requires_grad for w in mine.weights] == [w.trainable for w in theirs.weights]
    ours, expected = (inspect.signature(type(x).__init__).parameters for x in (mine, theirs))
    extra = {"lora_rank", "lora_alpha", "gptq_unpacked_column_size", "quantization_config"}
    wanted = [(key, p.default) for key, p in expected.items() if key not in extra]
    assert [(key, p.default) for key, p in ours.items()] == wanted
    config = json.loads(json.dumps(mine.get_config()))
    assert set(theirs.get_config()) - set(config) <= {"activity_regularizer", "quantization_config", "rms_scaling"}
    again = type(mine).from_config(config)
    again.build((None, T, D))
    again.set_weights(mine.get_weights())
    x = torch.from_numpy(numbers(B, T, D))
    assert torch.equal(again(x), mine(x)) and again.get_config() == mine.get_config()
    assert mine.get_config().get("rms_scaling") == theirs.get_config().get("rms_scaling")


def test_keras_config_is_read():
    for name in (
        "BatchNormalization clipped",
        "GroupNormalization",
        "RMSNormalization",
        "LayerNormalization rms",
        "Normalization",
        "Normalization all",
        "Rescaling features",
        "UnitNormalization",
    ):
        theirs = PLAIN[name](keras)
        mine = getattr(L, type(theirs).__name__).from_config(json.loads(json.dumps(theirs.get_config())))
        x = numbers(B, T, D)
        close(mine(torch.from_numpy(x)), theirs(torch.from_numpy(x)))


# ------------------------------------------------------------------------------------------------ batch statistics


def averages(normalization_layer):
    return [w.clone() for w in normalization_layer.non_trainable_weights]


def packed_rows(*lengths, features=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths, default=0)
    x = torch.randn(len(lengths), width, features, generator=generator, dtype=dtype)
    return pack(x, lengths=list(lengths))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.booleans(), st.integers(0, 99))
@settings(max_examples=40)
def test_batch_statistics_use_real_steps_only(lengths, renorm, seed):
    x = packed_rows(*lengths, seed=seed)
    norm = L.BatchNormalization(momentum=0.75, dtype="float64", renorm=renorm)
    norm.build(x.shape)
    before = averages(norm)
    y = norm(x, training=True)
    if not x.index.num_steps:
        assert all(torch.equal(a, b) for a, b in zip(averages(norm), before, strict=True))
        return
    mean, variance = x.values.mean(0), x.values.var(0, correction=0)
    torch.testing.assert_close(norm.moving_mean, 0.25 * mean, rtol=1e-6, atol=1e-6)
    if not renorm:
        torch.testing.assert_close(norm.moving_variance, 0.75 + 0.25 * variance, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(y.values, (x.values - mean) / (variance + 1e-3).sqrt(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_training_on_one_step_and_on_no_steps(steps, masked):
    for dtype in [torch.float32, torch.float64]:
        for renorm in [False, True]:
            norm = L.BatchNormalization(renorm=renorm, dtype=dtype, momentum=0.5)
            norm.build((None, None, 3))
            before = averages(norm)
            x = torch.randn(2 if masked else steps, 2 if masked else 1, 3, dtype=dtype).requires_grad_()
            y = norm(pack(x, lengths=[0, steps]) if masked else x, training=True)
            (y.values if masked else y).square().sum().backward()
            assert all(w.isfinite().all() for w in (*norm.weights, x.grad, norm.gamma.grad, norm.beta.grad))
            if not steps:
                assert all(torch.equal(a, b) for a, b in zip(averages(norm), before, strict=True))
                return
            (step,) = x.detach()[-1:, 0]
            expected = step if renorm else torch.zeros_like(step)  # as the averages say, which are those of a start
            torch.testing.assert_close((y.values if masked else y).flatten(), expected, atol=1e-5, rtol=1e-2)
            torch.testing.assert_close(norm.moving_mean, step / 2)


def test_gap_values_do_not_change_statistics():
    values = torch.randn(4, 3)
    index = Index.from_mask(np.array([[1, 0, 1], [0, 1, 1]], dtype=bool))
    seen = []
    for shown in (None, 0.0, 1e6, float("nan")):
        norm = L.BatchNormalization(momentum=0.5)
        y = norm(Packed(values, index, None if shown is None else torch.full((2, 3), shown)), training=True)
        seen.append([y.values.detach(), norm.moving_mean, norm.moving_variance])
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


def test_gap_values_are_normalized_with_the_statistics_of_steps():
    x = packed_rows(3, 1, 0, dtype=torch.float32)
    x = x.with_values(x.values, torch.randn(x.index.num_gaps, 3))
    for norm in (L.BatchNormalization(), L.BatchNormalization(center=False, renorm=True)):
        y = norm(x, training=True)
        slope = (y.values[1] - y.values[0]) / (x.values[1] - x.values[0])
        torch.testing.assert_close(y.gap_values, (x.gap_values - x.values[0]) * slope + y.values[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("center, scale", [(True, True), (False, True), (True, False), (False, False)])
def test_fused_batch_normalization_matches_reference(center, scale):
    for count in [1, 2, 50]:
        x = torch.randn(count, 4, 3) * 2 + 5
        norm = L.BatchNormalization(momentum=0.5, center=center, scale=scale)
        wide = L.BatchNormalization(momentum=0.5, center=center, scale=scale, dtype="float64")
        for each in (norm, wide):
            each.build((None, 3))
            each.set_weights([0.5 + np.arange(3) * 0.3 for _ in each.weights])
        a, b = x.clone().requires_grad_(), x.double().requires_grad_()
        pull = torch.randn(count, 4, 3)
        (norm(a, training=True) * pull).sum().backward()
        (wide(b, training=True) * pull).sum().backward()
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-4)
        for p, q in zip(norm.weights, wide.weights, strict=True):
            torch.testing.assert_close(p.detach().double(), q.detach(), rtol=1e-5, atol=1e-5)
            if p.requires_grad:
                torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-4, atol=1e-4)


def test_moments_match_keras():
    x, mask = numbers(B, T, D), np.array(MASKS["holes"], dtype=bool)
    theirs = K.BatchNormalization()
    theirs.build((None, T, D))
    mean, variance = theirs._moments(torch.from_numpy(x).double(), torch.from_numpy(mask))
    values = torch.from_numpy(x).double()[torch.from_numpy(mask)]
    ours = batch_moments(values, -1, COUNT_EPSILON)
    for a, b in zip(ours, (mean, variance), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.BatchNormalization(dtype="float64"),
        lambda: L.BatchNormalization(axis=2, dtype="float64", center=False),
        lambda: L.GroupNormalization(2, dtype="float64"),
        lambda: L.GroupNormalization(2, axis=2, dtype="float64"),
    ],
    ids=["batch", "batch inner", "group", "group inner"],
)
def test_gradcheck_of_layers(make):
    x = packed_rows(2, 0, 3)
    values = torch.randn(5, 2, 4, dtype=torch.float64, requires_grad=True)
    fill = torch.randn(x.index.num_gaps, 2, 4, dtype=torch.float64, requires_grad=True)
    norm = make()
    norm.build((None, None, 2, 4))

    names = [name for name, _ in norm.named_parameters()]

    def run(values, fill, *weights):
        data = Packed(values, x.index, fill)
        y = torch.func.functional_call(norm, dict(zip(names, weights, strict=True)), (data,), {"training": True})
        return y.values, y.gap_values

    weights = [torch.rand_like(w).requires_grad_() for w in norm.parameters()]
    assert torch.autograd.gradcheck(run, (values, fill, *weights))


def test_frozen_layer_uses_moving_averages():
    x = packed_rows(3, 1, dtype=torch.float32)
    norm = L.BatchNormalization()
    first = norm(x).values
    norm.trainable = False
    before = averages(norm)
    assert torch.equal(norm(x, training=True).values, first)
    assert all(torch.equal(a, b) for a, b in zip(averages(norm)[2:], before[2:], strict=True))
    outer = padless.Sequential([L.Input((None, 3), masked=True), L.BatchNormalization()])
    outer.trainable = False
    before = outer.get_weights()
    outer(x, training=True)
    assert all(np.array_equal(a, b) for a, b in zip(outer.get_weights(), before, strict=True))


def test_building_a_model_does_not_update_averages():
    norm = L.BatchNormalization(momentum=0.0)
    norm.train()
    x = L.Input((None, 3), masked=True)
    model = padless.Model(x, L.Dense(2)(norm(x, training=True)))
    assert norm.moving_mean.tolist() == [0, 0, 0] and norm.moving_variance.tolist() == [1, 1, 1]
    assert norm.compute_output_shape((None, None, 3)) == (None, None, 3)
    model(pack([[[1.0, 2.0, 3.0]]]))  # its training=True is part of the model
    assert norm.moving_mean.tolist() == [1, 2, 3]


def fitted(lib, **options):
    ids, targets = all_ids(), numbers(len(all_ids()), T, 2)
    x = lib.layers.Input((T,))
    h = lib.layers.Embedding(7, 3, mask_zero=True)(x)
    h = lib.layers.BatchNormalization(momentum=0.6, **options)(h)
    model = lib.Model(x, lib.layers.Dense(2)(h))
    random = np.random.default_rng(5)
    model.set_weights([0.3 + random.random(w.shape).astype("float32") for w in model.get_weights()])
    model.compile(optimizer=lib.optimizers.SGD(0.1), loss="mse")
    model.fit(ids, targets, batch_size=len(ids), epochs=2, shuffle=False, verbose=0)
    return model, ids, targets


@pytest.mark.parametrize("options", [{}, {"renorm": True}])
def test_training_gives_weights_and_averages_of_keras(options):
    (mine, ids, targets), (theirs, _, _) = (fitted(lib, **options) for lib in (padless, keras))
    for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    weights = mine.get_weights()
    mine.evaluate(ids, targets, verbose=0)
    close(mine.predict(ids, verbose=0), theirs.predict(ids, verbose=0), 1e-4)
    assert all(np.array_equal(a, b) for a, b in zip(weights, mine.get_weights(), strict=True))


def test_keras_archive_restores_the_averages(tmp_path):
    model, ids, _ = fitted(padless)
    model.save(tmp_path / "m.padless")
    again = padless.load_model(tmp_path / "m.padless")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    assert np.array_equal(model.predict(ids, verbose=0), again.predict(ids, verbose=0))


def test_averages_and_adapted_statistics_are_saved(tmp_path):
    def make():
        x = L.Input((None, 3), masked=True)
        return padless.Model(x, L.BatchNormalization(renorm=True, name="batch")(L.Normalization(name="scale")(x)))

    model, other = make(), make()
    x = packed_rows(3, 2, dtype=torch.float32)
    model.layers[1].adapt(x)
    model(x, training=True)
    model.save_weights(tmp_path / "w.safetensors")
    other.load_weights(tmp_path / "w.safetensors")
    assert torch.equal(other(x).values, model(x).values)
    assert not torch.equal(make()(x).values, model(x).values)
    assert len(model.get_weights()) == 3 + 7


@pytest.mark.parametrize(
    "wrong, what",
    [
        ({"renorm": True, "renorm_clipping": {"rmx": 1}}, "rmax"),
        ({"renorm": True, "renorm_clipping": {"rmax": 1.0, "rmin": 2.0}}, "rmin <= rmax"),
        ({"renorm": True, "renorm_clipping": {"dmax": -1.0}}, "dmax >= 0"),
        ({"synchronized": True}, "steps of this process"),
    ],
)
def test_invalid_arguments_raise(wrong, what):
    with pytest.raises(ArgumentError, match=what):
        L.BatchNormalization(**wrong)
    with pytest.raises((ValueError, NotImplementedError)):
        K.BatchNormalization(**wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.BatchNormalization(axis=1),
        lambda: L.BatchNormalization(axis=0),
        lambda: L.GroupNormalization(5, axis=1),
        lambda: L.Normalization(axis=1),
        lambda: L.Normalization(axis=(1, 2)),
        lambda: L.RMSNormalization(axis=1),
        lambda: L.UnitNormalization(axis=[1, 2]),
        lambda: L.LayerNormalization(axis=1, rms_scaling=True),
        lambda: L.EinsumDense("abc,bd->adc", (4, None)),
        lambda: L.EinsumDense("abc,cd->bad", (None, 2)),
        lambda: L.EinsumDense("abc,bcd->ad", 4),
        lambda: L.EinsumDense("abc,cd->abd", (5, 2), bias_axes="bd"),
        lambda: L.EinsumDense("abc,bc->abc", (5, 3)),
        lambda: L.EinsumDense("...x,xy->...y", 2, bias_axes="y"),
    ],
    ids=range(14),
)
def test_axis_of_batch_or_time_raises_for_a_masked_input(make):
    """The error is raised in a call and when a model is built; a plain input is accepted."""
    x = torch.randn(2, 5, 3)
    mask = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 0, 1]], dtype=bool)
    norm = make()
    norm.build((2, 5, 3))
    if norm.name.startswith("einsum") and "x" in norm.equation:
        assert isinstance(norm(pack(x, mask)), Packed)  # the one that does not
        return
    with pytest.raises(MaskLost, match="(?s)masked by|would mix"):
        norm(pack(x, mask))
    with pytest.raises(MaskLost, match=norm.name):
        norm(L.Input((5, 3), batch_size=2, masked=True))
    norm(x)


def test_missing_axis_raises():
    for make in [L.BatchNormalization, L.GroupNormalization, L.Normalization, L.RMSNormalization]:
        with pytest.raises(ArgumentError, match="3.*has 3 axes"):
            make(axis=3).build((None, 5, 3))


# ------------------------------------------------------------------------------------------------ groups


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.sampled_from([1, 2, 4, -1]), st.integers(0, 99))
@settings(max_examples=40)
def test_groups_are_normalized_in_each_sequence(lengths, groups, seed):
    x = packed_rows(*lengths, features=4, seed=seed)
    norm = L.GroupNormalization(groups, dtype="float64", epsilon=1e-5)
    count = 4 if groups == -1 else groups
    for part, whole in zip(x.sequences(), norm(x).sequences(), strict=True):
        if len(part):
            mine = part.reshape(len(part), count, -1).movedim(1, 0).flatten(1)
            expected = (mine - mine.mean(1, keepdim=True)) / (mine.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            torch.testing.assert_close(whole.reshape(len(part), count, -1).movedim(1, 0).flatten(1), expected)


def test_gap_values_are_normalized_with_the_statistics_of_their_sequence():
    index = Index.from_mask(np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool))
    values, fill = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    shown = L.GroupNormalization(1, dtype="float64")(Packed(values, index, fill)).gap_values.detach()
    for row, part in ((0, values[:2]), (1, values[2:])):
        expected = (fill[row] - part.mean()) / (part.var(correction=0) + 1e-3).sqrt()
        torch.testing.assert_close(shown[row], expected)
    assert shown[2].isfinite().all()


def test_gap_values_of_each_cell_are_normalized_by_row():
    """A layer that reads the grid can have one row of gap values for each masked cell."""
    x, mask = torch.randn(2, 4, 3), np.array([[1, 0, 0, 1], [0, 0, 1, 0]], dtype=bool)
    packed = pack(x, mask).with_values(pack(x, mask).values, torch.randn(5, 3))
    shown = L.GroupNormalization(1, center=False, scale=False)(packed).gap_values
    for row, cells in ((0, slice(0, 2)), (1, slice(2, 5))):
        part = x[row][torch.from_numpy(mask[row])]
        expected = (packed.gap_values[cells] - part.mean()) / (part.var(correction=0) + 1e-3).sqrt()
        torch.testing.assert_close(shown[cells], expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.GroupNormalization(3),
        lambda: L.BatchNormalization(),
        lambda: L.EinsumDense("abc,cd->abd", (None, 3)),
        lambda: L.Normalization(),
    ],
)
def test_model_that_reads_the_grid_computes_gap_values(make):
    ids = torch.from_numpy(all_ids())
    x = L.Input((T,))
    h = L.Embedding(7, 3, mask_zero=True)(x)
    norm = make()
    model = padless.Model(x, L.Flatten()(norm(h)))
    grid = norm(model.layers[1](ids)).unpack()
    assert grid[ids == 0].any() and torch.equal(model(ids), grid.flatten(1))
    np.testing.assert_array_equal(model.predict(ids.numpy(), verbose=0), grid.flatten(1).detach().numpy())


@pytest.mark.parametrize(
    "groups, what", [(0, "positive"), (-2, "positive"), (1.5, "positive"), (2, "multiple"), (6, "multiple")]
)
def test_invalid_groups_raise(groups, what):
    with pytest.raises((ArgumentError, ShapeError), match=what):
        L.GroupNormalization(groups)(torch.ones(2, 5, 3))
    with pytest.raises(ValueError):
        K.GroupNormalization(groups)(torch.ones(2, 5, 3))


def test_group_normalization_of_sequences_of_sequences_needs_time_distributed():
    x = pack(torch.randn(2, 3, 4, 6), mask=np.array([[[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]] * 2, dtype=bool))
    with pytest.raises(ShapeError, match="TimeDistributed"):
        L.GroupNormalization(2)(x)
    each = L.TimeDistributed(L.GroupNormalization(2))(x)
    alone = torch.nn.functional.group_norm(x.values[:2].T[None], 2, eps=1e-3)[0].T
    torch.testing.assert_close(each.values[:2], alone)


# ------------------------------------------------------------------------------------------------ adapt


def adapted(data, **options):
    norm = L.Normalization(**options)
    norm.adapt(data)
    return norm


def test_adapt_matches_keras():
    x = numbers(6, T, D)
    for data in (x, torch.from_numpy(x), [x[:1], x[1:3], x[3:]], [(x[:4], 0), (x[4:], 1)]):
        for axis in (-1, None, (1, 2), 2, 1):
            mine, theirs = L.Normalization(axis=axis), K.Normalization(axis=axis)
            mine.adapt(data)
            theirs.adapt(x)  # batches need TensorFlow there
            for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
            close(mine(torch.from_numpy(x)), theirs(torch.from_numpy(x)))


class Pairs:
    """Return batches by number, as a Keras dataset does."""

    def __init__(self, parts):
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, number):
        return self.parts[number % len(self.parts)], 0


@given(st.lists(st.integers(0, 4), min_size=2, max_size=5).filter(any), st.integers(0, 99))
@settings(max_examples=25)
def test_adapt_counts_real_steps_in_any_container(lengths, seed):
    x = packed_rows(*lengths, seed=seed, dtype=torch.float32)
    rows = [row.tolist() for row in x.sequences()]
    noise = pack(torch.where(x.mask[..., None], x.unpack(), float("nan")), x.mask)
    halves = [pack(x.unpack()[part], x.mask[part]) for part in (slice(0, 1), slice(1, None))]
    filled = x.with_values(x.values, torch.full((x.index.num_gaps, 3), 1e9))
    parts = [s for s in x.sequences() if len(s)]
    containers = [
        x,
        noise,
        filled,
        rows,
        halves,
        tuple(halves),
        iter(halves),
        (h for h in halves),
        Pairs(halves),
        parts,
        [[h, None] for h in halves],
        iter([rows[:1], rows[1:]] if all(lengths) else [rows]),
    ]
    for data in containers:
        norm = adapted(data)
        torch.testing.assert_close(norm.mean, x.values.mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norm.variance, x.values.var(0, correction=0), rtol=1e-5, atol=1e-5)


def test_adapt_reads_a_data_loader():
    x = torch.randn(10, 4, 3)
    data = torch.utils.data.TensorDataset(x, torch.zeros(10))
    norm = adapted(torch.utils.data.DataLoader(data, batch_size=4))
    torch.testing.assert_close(norm.mean, x.mean((0, 1)))
    torch.testing.assert_close(norm.variance, x.var((0, 1), correction=0))


def test_adapt_starts_anew_and_is_accurate_for_large_numbers():
    x = np.random.default_rng(0).normal(size=(50, 4, 1)) * 1e-2 + 1e6
    norm = adapted([x[:3], x[3:]], dtype="float64")
    assert np.allclose(norm.mean.numpy(), x.mean()) and np.allclose(norm.variance.numpy(), x.var())
    norm.adapt(np.array([[[1.0], [3.0]]]))
    assert norm.mean.tolist() == [2.0] and norm.variance.tolist() == [1.0]
    x.flags.writeable = False
    norm.adapt(x)
    assert norm.count == 0 and norm.count.dtype == torch.int32


@pytest.mark.parametrize(
    "data, error",
    [
        (None, ArgumentError),
        ("text", ArgumentError),
        ({"x": np.ones((2, 3))}, ArgumentError),
        ([1.0, 2.0], ArgumentError),
        ([], DataError),
        (iter([]), DataError),
        (np.ones((0, 3)), DataError),
        ([[], []], ShapeError),
        ([np.ones((2, 3)), np.ones((2, 4))], ShapeError),
        ([[1, 2], [3]], MaskLost),
    ],
)
def test_invalid_data_of_adapt_raise(data, error):
    norm = L.Normalization()
    norm.build((None, 3))
    with pytest.raises(error):
        norm.adapt(data)
    assert norm.mean.tolist() == [0, 0, 0] and norm.variance.tolist() == [1, 1, 1]
    given_ = L.Normalization(mean=0.0, variance=1.0)
    with pytest.raises(ArgumentError, match="was given"):
        given_.adapt(np.ones((2, 3)))


def test_wrong_shapes_of_normalization_raise():
    for wrong in ({"mean": 1.0}, {"mean": [1.0], "variance": 2.0}, {"mean": [[1.0]], "variance": [[1.0]]}):
        with pytest.raises(ArgumentError):
            L.Normalization(**wrong)
    with pytest.raises(ShapeError, match="mean of shape"):
        L.Normalization(mean=[1.0, 2.0], variance=[1.0, 2.0]).build((None, 3))
    with pytest.raises(ShapeError, match="must be known"):
        L.Normalization().build((None, None))
    norm = adapted(np.ones((2, 3)))
    with pytest.raises(ShapeError, match="3"):
        norm(torch.ones(2, 4))


def test_integers_become_floats():
    ids = pack([[1, 2, 3], [4]])
    for norm in (L.Rescaling(2), L.Normalization(axis=None), L.Normalization(axis=None, mean=1.0, variance=4.0)):
        assert norm(ids).dtype == torch.float32
    features = pack([[[1, 2], [3, 4]], [[5, 6]]])
    for norm in (
        L.UnitNormalization(),
        L.RMSNormalization(),
        L.BatchNormalization(center=False, scale=False),
        L.GroupNormalization(1, center=False, scale=False),
        L.LayerNormalization(center=False, scale=False),
        L.EinsumDense("abc,cd->abd", (None, 2)),
        L.Normalization(),
    ):
        assert norm(features).dtype == norm(features).dtype == torch.float32  # before and after it was built
    for norm in (adapted(np.ones((2, 3))), L.BatchNormalization(center=False, scale=False)):
        norm(torch.ones(2, 3))
        assert norm(torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float32  # that of the averages, as in Keras


# ------------------------------------------------------------------------------------------------ products


@pytest.mark.parametrize(
    "equation, output_shape, shape",
    [
        ("abc,cde->abde", (None, 60, 4), (None, T, 50)),
        ("abcd,cde->abe", (None, 40), (None, T, 6, 50)),
        ("...x,xy->...y", 70, (None, T, 50)),
        ("abc,cd->abd", (None, 90), (None, T, 30)),
    ],
)
def test_initial_kernels_of_einsum_dense_match_keras(equation, output_shape, shape):
    for initializer in ["glorot_uniform", "he_normal", "lecun_uniform"]:
        torch.manual_seed(1)
        mine, theirs = (
            lib.layers.EinsumDense(equation, output_shape, kernel_initializer=initializer) for lib in (padless, keras)
        )
        mine.build(shape)
        theirs.build(shape)
        np.testing.assert_allclose(mine.get_weights()[0].std(), theirs.get_weights()[0].std(), rtol=0.06)


def test_initial_kernels_of_attention_match_keras():
    mine, theirs = (lib.layers.MultiHeadAttention(8, 16) for lib in (padless, keras))
    for norm in (mine, theirs):
        norm.build((None, T, 60), (None, T, 60))
    names = [name for name, _ in mine.named_parameters()]
    assert names == [f"{part}_dense.{which}" for part in ("query", "key", "value", "output") for which in ("kernel", "bias")]
    for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a.std(), b.std(), rtol=0.06)


def test_invalid_equation_raises():
    for equation in ["abc,cd", "abc->abd", "...ab,bc->ac", "...a...,ab->...b", "a,b,c->abc", 3, "ab,bx->az"]:
        with pytest.raises((ArgumentError, ShapeError)):
            L.EinsumDense(equation, (None, 2)).build((None, 5, 3))


@pytest.mark.parametrize(
    "arguments, shape, what",
    [
        (("abc,cd->abd", 2), (None, 5, 3), "'bd'"),
        (("abc,cd->abd", (4, 2)), (None, 5, 3), "size 5"),
        (("abc,cd->abd", (None, 2)), (None, 3), "3 axes"),
        (("abc,cd->abd", (None, 2)), (None, 5, 4, 3), "3 axes"),
        (("abc,cd->abd", (None, None)), (None, 5, 3), "integers"),
    ],
)
def test_shapes_that_do_not_fit_the_equation_raise(arguments, shape, what):
    with pytest.raises(ShapeError, match=what):
        L.EinsumDense(*arguments).build(shape)


def test_unknown_letters_in_the_equation_raise():
    for arguments, what in ((("ab,bc->ac", 2, None, "d"), "bias_axes"), (("ab,bcd->ac", 2), "kernel's axis 'd'")):
        with pytest.raises(ArgumentError, match=what):
            L.EinsumDense(*arguments)
    norm = L.EinsumDense("abc,cd->abd", (None, 2))
    norm(torch.ones(2, 5, 3))
    with pytest.raises(ShapeError, match="built for {'c': 3}"):
        norm(torch.ones(2, 5, 4))


# ------------------------------------------------------------------------------------------------ docs/differences.md


def test_group_normalization_of_padding():
    ids = np.array([[3, 1, 0, 0, 0]])
    mine, theirs = pair(layer("GroupNormalization", 1), (None, T, D))
    x, y = embed(padless, ids)[0], embed(keras, ids)[0]
    wide = np.pad(ids, ((0, 0), (0, 3)))
    assert not np.allclose(theirs(y)[:, :2].detach(), theirs(embed(keras, wide)[0])[:, :2].detach(), atol=1e-2)
    assert torch.equal(mine(x).values, mine(embed(padless, wide)[0]).values)
    close(mine(x).values, theirs(y[:, :2])[0])  # what Keras gives without the padding


def test_mask_of_rms_normalization_and_einsum():
    ids = ids_of("holes")
    for make in (LAYERS["RMSNormalization"], LAYERS["EinsumDense"]):
        mine, theirs = pair(make, (None, T, D))
        with pytest.warns(UserWarning, match="does not support masking"):
            expected = theirs(embed(keras, ids)[0])
        assert mask_on(expected) is None and np.array_equal(mask_on(mine(embed(padless, ids)[0])), ids != 0)


def test_batch_normalization_of_empty_sequences():
    mine, theirs = (lib.layers.BatchNormalization(momentum=0.5) for lib in (padless, keras))
    ids = np.zeros((2, T), dtype=int)
    mine(embed(padless, ids)[0], training=True)
    theirs(embed(keras, ids)[0], training=True)
    assert mine.moving_variance.tolist() == [1, 1, 1] and theirs.moving_variance.numpy().tolist() == [0.5, 0.5, 0.5]


def test_batch_normalization_over_time():
    mine, theirs = pair(layer("BatchNormalization", axis=1, momentum=0.0), (None, T, D))
    ids = ids_of("right")
    theirs(embed(keras, ids)[0], training=True)
    assert theirs.moving_mean.shape == (T,)  # a number for each column of the padded grid
    with pytest.raises(MaskLost, match="axis=1"):
        mine(embed(padless, ids)[0], training=True)


def test_batch_normalization_of_other_shapes():
    mask = np.array(MASKS["left"], dtype=bool)
    for shape, error in (((B, T, 1), IndexError), ((B, T, 2, D), ValueError)):
        x = torch.from_numpy(numbers(*shape))
        mine, theirs = (lib.layers.BatchNormalization(momentum=0.0) for lib in (padless, keras))
        with pytest.raises(error):
            theirs(x, mask=torch.from_numpy(mask), training=True)
        mine(x, mask=mask, training=True)
        real = x[torch.from_numpy(mask)].reshape(-1, shape[-1])
        torch.testing.assert_close(mine.moving_mean, real.mean(0))


def test_batch_normalization_in_time_distributed():
    x = torch.from_numpy(numbers(B, T, D))
    mine, theirs = (lib.layers.TimeDistributed(lib.layers.BatchNormalization(momentum=0.5)) for lib in (padless, keras))
    mine(x, training=True)
    theirs(x, training=True)
    torch.testing.assert_close(mine.layer.moving_mean, x.mean((0, 1)) / 2)
    step_by_step = np.zeros(D)
    for column in range(T):
        step_by_step = step_by_step / 2 + x[:, column].mean(0).numpy() / 2
    np.testing.assert_allclose(theirs.layer.moving_mean.numpy(), step_by_step, rtol=1e-5, atol=1e-6)


def test_unit_normalization_of_zeros():
    x, y = (torch.zeros(1, 3, requires_grad=True) for _ in range(2))
    L.UnitNormalization()(x).sum().backward()
    K.UnitNormalization()(y).sum().backward()
    assert x.grad.isfinite().all() and y.grad.isnan().all()
    tiny = torch.tensor([[0.0, 0.0], [1e-6, -2e-6], [1e-13, 0.0]])
    close(L.UnitNormalization()(tiny), K.UnitNormalization()(tiny))


def test_rms_normalization_over_other_axes():
    x = torch.from_numpy(numbers(B, T, 2, D))
    for axis in (2, [1, 3]):
        with pytest.raises((RuntimeError, ValueError)):
            K.RMSNormalization(axis=axis)(x)
        expected = x / (x.square().mean(axis, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(L.RMSNormalization(axis=axis)(x), expected)


def test_adapt_to_padding():
    x = numbers(B, T, D)
    mask = np.array(MASKS["right"], dtype=bool)
    mine, theirs = L.Normalization(), K.Normalization()
    theirs.adapt(x * mask[..., None])
    mine.adapt(pack(x, mask))
    np.testing.assert_allclose(mine.mean.numpy(), x[mask].mean(0), rtol=1e-5)
    np.testing.assert_allclose(theirs.get_weights()[0], x[mask].sum(0) / mask.size, rtol=1e-4)


def test_shape_of_einsum_over_many_axes():
    x = torch.ones(1, 2, 3, 5)
    mine, theirs = (lib.layers.EinsumDense("...x,xy->...y", 4) for lib in (padless, keras))
    assert mine(x).shape == theirs(x).shape == (1, 2, 3, 4)
    assert mine.compute_output_shape((1, 2, 3, 5)) == (1, 2, 3, 4)
    assert theirs.compute_output_shape((1, 2, 3, 5)) == (1, 3, 2, 4)
