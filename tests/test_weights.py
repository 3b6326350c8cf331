"""Initializers, regularizers and constraints: Keras's distributions, penalties and bounds."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padless import constraints, initializers, regularizers
from padless.errors import ArgumentError, ShapeError
from padless.registry import entries

SCALED = ["GlorotUniform", "GlorotNormal", "LecunUniform", "LecunNormal", "HeUniform", "HeNormal"]
RANDOM = [*SCALED, "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Orthogonal"]
MODULES = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}
NAMES = [(kind, name) for kind in MODULES for name in sorted(entries(kind))]


# ---------------------------------------------------------------------------------------------------- names and configs


def test_every_name_of_keras_exists():
    keras = pytest.importorskip("keras")
    later = {"STFT", "STFTInitializer", "stft"}
    for kind, module in MODULES.items():
        theirs = {n for n in dir(getattr(keras, f"{kind}s")) if not n.startswith("_")} - later
        assert theirs - set(dir(module)) - set(entries(kind)) == set()


def test_an_object_by_name_has_a_config_that_is_json():
    for kind, name in NAMES:
        module = MODULES[kind]
        instance = module.get(name)
        config = json.loads(json.dumps(module.serialize(instance)))
        restored = module.deserialize(config)
        assert type(restored) is type(instance) and restored.get_config() == instance.get_config(), name
        assert config["class_name"] == type(instance).__name__, name


def test_the_config_is_that_of_keras():
    keras = pytest.importorskip("keras")
    for kind, name in NAMES:
        if name[:5].lower() in ("ident", "const", "l1_l2"):
            continue  # Keras loses the gain of Identity, has no default value of Constant and no string "l1_l2"
        theirs = getattr(keras, f"{kind}s").get(name)
        ours = MODULES[kind].get(getattr(keras, f"{kind}s").serialize(theirs))
        assert ours.get_config() == pytest.approx(theirs.get_config()), name
        assert MODULES[kind].get(name).get_config() == pytest.approx(theirs.get_config()), name


def test_arguments_are_in_kerass_order():
    assert initializers.RandomNormal(1.0, 2.0, 3).get_config() == {"mean": 1.0, "stddev": 2.0, "seed": 3}
    assert initializers.RandomUniform(1.0, 2.0, 3).get_config() == {"minval": 1.0, "maxval": 2.0, "seed": 3}
    assert initializers.HeNormal(3, [0], [1]).get_config() == {"seed": 3, "input_axes": [0], "output_axes": [1]}
    assert initializers.Orthogonal(2.0, 3).get_config() == {"gain": 2.0, "seed": 3}
    scaled = initializers.VarianceScaling(2.0, "fan_out", "uniform", 3)
    assert (scaled.scale, scaled.mode, scaled.distribution, scaled.seed) == (2.0, "fan_out", "uniform", 3)
    assert constraints.MinMaxNorm(1, 2, 0.5, 1).get_config() == {"min_value": 1, "max_value": 2, "rate": 0.5, "axis": 1}
    assert regularizers.L1L2(1, 2).get_config() == {"l1": 1.0, "l2": 2.0}


@pytest.mark.parametrize(
    ("kind", "near", "meant"),
    [
        ("initializer", "glorot_unifrom", "glorot_uniform"),
        ("regularizer", "l1_12", "l1_l2"),
        ("constraint", "maxnorm", "max_norm"),
    ],
)
def test_unknown_names_are_refused(kind, near, meant):
    with pytest.raises(ArgumentError, match=f"Unknown {kind} .*Did you mean '{meant}"):
        MODULES[kind].get(near)
    with pytest.raises(ArgumentError, match=kind):
        MODULES[kind].get(3)


def test_a_subclass_and_a_function_are_accepted():
    class Mine(initializers.Initializer):
        def __call__(self, shape, dtype=torch.float32):
            return torch.full(shape, 7.0, dtype=dtype)

    def penalty(x):
        return x.sum()

    mine = initializers.get(Mine)
    assert mine((2,)).tolist() == [7.0, 7.0] and mine.get_config() == {}
    assert type(initializers.deserialize(initializers.serialize(mine), {"Mine": Mine})) is Mine
    assert type(mine.clone()) is Mine
    assert regularizers.get(penalty) is penalty
    with pytest.raises(NotImplementedError, match="__call__"):
        initializers.Initializer()((1,))


# ---------------------------------------------------------------------------------------------------- initializers


def test_initial_values_have_the_shape_and_dtype_of_the_arguments():
    for name in entries("initializer"):
        for dtype in (torch.float32, torch.float64, torch.float16):
            values = initializers.get(name)((3, 5), dtype)
            assert values.shape == (3, 5) and values.dtype == dtype and not values.requires_grad, name


def test_initializers_without_randomness_are_exact():
    assert torch.equal(initializers.Zeros()((2, 3)), torch.zeros(2, 3))
    assert torch.equal(initializers.Ones()([2]), torch.ones(2))
    assert torch.equal(initializers.Constant(2.5)(()), torch.tensor(2.5))
    assert torch.equal(initializers.Identity(3.0)((2, 3)), torch.tensor([[3.0, 0, 0], [0, 3.0, 0]]))


def test_an_array_is_an_initializer_for_its_shape():
    table = np.arange(6.0).reshape(2, 3)
    for given_as in (table, torch.tensor(table), initializers.Constant(table), initializers.Constant(table.tolist())):
        assert torch.equal(initializers.get(given_as)((2, 3)), torch.tensor(table, dtype=torch.float32))
    again = initializers.deserialize(json.loads(json.dumps(initializers.serialize(initializers.get(table)))))
    assert torch.equal(again((2, 3)), torch.tensor(table, dtype=torch.float32))
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(3, 3\)"):
        initializers.get(table)((3, 3))


def test_an_initial_array_is_copied():
    table = torch.zeros(2)
    initializers.get(table)((2,)).add_(1)
    assert table.tolist() == [0, 0]


def test_constants_of_keras_are_read():
    keras = pytest.importorskip("keras")
    for value in (2.5, np.array([1.0, 2.0], dtype="float32")):
        theirs = keras.initializers.Constant(value)
        ours = initializers.get(keras.initializers.serialize(theirs))
        torch.testing.assert_close(ours((2,)), theirs((2,)).detach())


@pytest.mark.parametrize("shape", [(400, 300), (5, 60, 400)])
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        *((name, {}) for name in RANDOM if name != "Orthogonal"),
        ("RandomNormal", {"mean": 1.0, "stddev": 0.2}),
        ("TruncatedNormal", {"mean": 1.0, "stddev": 0.2}),
        ("RandomUniform", {"minval": 1.0, "maxval": 1.5}),
        ("VarianceScaling", {"scale": 3.0, "mode": "fan_out", "distribution": "uniform"}),
        ("VarianceScaling", {"mode": "fan_avg", "distribution": "Normal"}),
        ("VarianceScaling", {"distribution": "untruncated_normal"}),
        ("VarianceScaling", {"input_axes": [0], "output_axes": [1]}),
        ("GlorotUniform", {"input_axes": [-1], "output_axes": [0]}),
    ],
)
def test_distributions_are_those_of_keras(name, kwargs, shape):
    keras = pytest.importorskip("keras")
    ours = getattr(initializers, name)(seed=1, **kwargs)(shape)
    theirs = getattr(keras.initializers, name)(seed=2, **kwargs)(shape).detach()
    spread = float(theirs.std())
    assert abs(float(ours.std()) - spread) < 0.01 * spread
    assert abs(float(ours.mean() - theirs.mean())) < 0.02 * spread
    places = torch.linspace(0.001, 0.999, 101)
    quantiles = [torch.quantile(t.flatten(), places) for t in (ours, theirs)]
    assert float((quantiles[0] - quantiles[1]).abs().max()) < 0.1 * spread
    if "untruncated_normal" not in kwargs.values() and name != "RandomNormal":
        assert abs(float(ours.max() - theirs.max())) < 0.02 * spread  # both have bounds
        assert abs(float(ours.min() - theirs.min())) < 0.02 * spread


@pytest.mark.parametrize("shape", [(), (7,), (7, 5), (3, 7, 5), (2, 3, 7, 5)])
def test_fans_are_those_of_keras(shape):
    pytest.importorskip("keras")
    from keras.src.initializers.random_initializers import compute_fans

    assert initializers.compute_fans(shape) == compute_fans(shape)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (3, 4, 5), (2, 3, 40)])
def test_orthogonal_is_orthogonal(shape):
    for gain in (1.0, 2.5):
        matrix = initializers.Orthogonal(gain)(shape, torch.float64).reshape(-1, shape[-1])
        matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        torch.testing.assert_close(matrix.T @ matrix, gain**2 * torch.eye(matrix.shape[1], dtype=torch.float64))


def test_orthogonal_matrices_have_both_orientations():
    signs = [torch.linalg.det(initializers.Orthogonal(seed=s)((3, 3))).sign() for s in range(40)]
    assert {float(s) for s in signs} == {-1.0, 1.0}
    diagonal = torch.stack([initializers.Orthogonal(seed=s)((3, 3)).diagonal() for s in range(300)])
    assert (diagonal.mean(0).abs() < 0.15).all()  # without the sign of R's diagonal, QR leans to one side


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_is_reproducible_and_does_not_change_the_global_generator(name):
    seeded, unseeded = getattr(initializers, name)(seed=3), getattr(initializers, name)()
    torch.manual_seed(0)
    first = unseeded((4, 3))
    torch.manual_seed(0)
    once, twice = seeded((4, 3)), seeded((4, 3))
    assert torch.equal(once, twice) and torch.equal(once, seeded.clone()((4, 3)))
    assert not torch.equal(once, getattr(initializers, name)(seed=4)((4, 3)))
    assert torch.equal(unseeded((4, 3)), first)
    assert not torch.equal(unseeded((4, 3)), first)  # unseeded draws go on


def test_initial_values_are_created_on_the_default_device():
    for name, initializer_class in entries("initializer").items():
        config = {"seed": 1} if initializer_class.__name__ in RANDOM else {}
        initializer = initializers.get({"class_name": name, "config": config})
        with torch.device("meta"):
            assert initializer((3, 2)).device.type == "meta", name


@pytest.mark.parametrize(
    "make",
    [
        lambda: initializers.HeNormal(seed=1.5),
        lambda: initializers.Orthogonal(seed="1"),
        lambda: initializers.RandomNormal(stddev=-1.0),
        lambda: initializers.RandomUniform(1.0, -1.0),
        lambda: initializers.VarianceScaling(scale=0.0),
        lambda: initializers.VarianceScaling(mode="fan"),
        lambda: initializers.VarianceScaling(distribution="gauss"),
        lambda: regularizers.L1(-1.0),
        lambda: regularizers.L2(math.inf),
        lambda: regularizers.L1L2(l2="much"),
        lambda: regularizers.OrthogonalRegularizer(mode="both"),
        lambda: initializers.get({"class_name": "Zeros", "config": {"value": 1}}),
    ],
)
def test_invalid_arguments_are_refused(make):
    with pytest.raises(ArgumentError):
        make()


@pytest.mark.parametrize(
    "call",
    [
        lambda: initializers.Identity()((2, 2, 2)),
        lambda: initializers.Orthogonal()((2,)),
        lambda: regularizers.OrthogonalRegularizer()(torch.ones(2)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call):
    with pytest.raises(ShapeError, match="shape"):
        call()


def test_a_standard_deviation_of_zero_is_legal():
    for name in ("RandomNormal", "TruncatedNormal"):
        assert getattr(initializers, name)(2.0, 0.0)((3,)).tolist() == [2, 2, 2]


# ------------------------------------------------------------------------------------ regularizers, constraints

weights = st.integers(0, 2**31 - 1).map(
    lambda seed: torch.tensor(np.random.default_rng(seed).normal(size=(5, 3)) * 10.0 ** (seed % 5 - 2)).float()
)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("L1", ()),
        ("L1", (0.3,)),
        ("L2", ()),
        ("L2", (0.3,)),
        ("L1L2", ()),
        ("L1L2", (0.1, 0.2)),
        ("L1L2", (0.0, 0.2)),
        ("OrthogonalRegularizer", ()),
        ("OrthogonalRegularizer", (0.5, "columns")),
    ],
)
@settings(deadline=None)  # the first example imports Keras
@given(x=weights)
def test_penalties_and_their_gradients_are_those_of_keras(name, args, x):
    keras = pytest.importorskip("keras")
    results = []
    for module in (regularizers, keras.regularizers):
        leaf = x.clone().requires_grad_()
        value = getattr(module, name)(*args)(leaf)
        assert value.shape == ()
        if value.requires_grad:
            value.backward()
        results.append((value.detach(), leaf.grad if leaf.grad is not None else torch.zeros_like(x)))
    for ours, theirs in zip(*results, strict=True):
        scale = max(float(theirs.abs().max()), 1.0)  # rounding errors are relative to the largest entry
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6 * scale)


def test_orthogonal_penalty_has_no_nan():
    x = torch.zeros(3, 2, requires_grad=True)
    regularizers.OrthogonalRegularizer()(x).backward()
    assert torch.isfinite(x.grad).all()
    assert regularizers.OrthogonalRegularizer()(torch.ones(1, 4)) == 0


def test_none_is_the_default_factor():
    assert regularizers.L1(None).l1 == 0.01 and regularizers.L2(None).l2 == 0.01
    assert regularizers.L1L2(None, 0.5).get_config() == {"l1": 0.0, "l2": 0.5}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("NonNeg", ()),
        ("UnitNorm", ()),
        ("UnitNorm", (1,)),
        ("UnitNorm", ([0, 1],)),
        ("MaxNorm", ()),
        ("MaxNorm", (0.5, 1)),
        ("MinMaxNorm", ()),
        ("MinMaxNorm", (0.5, 0.7, 0.3, 1)),
        ("MinMaxNorm", (2.0, 3.0, 1.0, [0, 1])),
    ],
)
@settings(deadline=None)  # the first example imports Keras
@given(w=weights)
def test_constraints_are_those_of_keras(name, args, w):
    keras = pytest.importorskip("keras")
    ours = getattr(constraints, name)(*args)(w)
    torch.testing.assert_close(ours, getattr(keras.constraints, name)(*args)(w), rtol=1e-6, atol=1e-6)
    assert ours.shape == w.shape and ours.dtype == w.dtype


@given(w=weights)
def test_constrained_weights_satisfy_the_constraint(w):
    assert (constraints.NonNeg()(w) >= 0).all()
    assert (constraints.MaxNorm(0.5)(w).norm(dim=0) <= 0.5 + 1e-5).all()
    norms = constraints.MinMaxNorm(0.5, 0.7)(w).norm(dim=0)
    assert (norms <= 0.7 + 1e-5).all() and (norms >= 0.5 - 1e-3).all()


def test_a_constrained_zero_weight_is_finite():
    for name in entries("constraint"):
        assert torch.isfinite(constraints.get(name)(torch.zeros(2, 2))).all(), name
