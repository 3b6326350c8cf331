"""Every activation function of Keras: the same names, defaults, values and gradients."""

import importlib
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import padless
from padless import activations
from padless.errors import ArgumentError
from padless.registry import entries

CASES = [
    *(
        (name, {})
        for name in (
            "celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear "
            "log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign sparse_plus "
            "sparse_sigmoid squareplus swish tanh tanh_shrink"
        ).split()
    ),
    ("threshold", {"threshold": 0.5, "default_value": -2.0}),
    ("relu", {"negative_slope": 0.3}),
    ("relu", {"max_value": 2.0}),
    ("relu", {"max_value": 6}),
    ("relu", {"threshold": 1.5}),
    ("relu", {"threshold": -1.5, "max_value": 2.0}),
    ("relu", {"threshold": -1.5, "negative_slope": 0.3}),
    ("relu", {"negative_slope": 0.3, "max_value": 6, "threshold": 1.0}),
    ("relu", {"negative_slope": 0.3, "max_value": 6}),
    ("leaky_relu", {"negative_slope": 0.7}),
    ("elu", {"alpha": 0.5}),
    ("celu", {"alpha": 0.5}),
    ("gelu", {"approximate": True}),
    ("hard_shrink", {"threshold": 1.0}),
    ("soft_shrink", {"threshold": 1.0}),
    ("squareplus", {"b": 0.5}),
    ("glu", {"axis": 0}),
    ("softmax", {"axis": 1}),
    ("softmax", {"axis": (1, 2)}),
    ("softmax", {"axis": (2, 0)}),
    ("softmax", {"axis": None}),
    ("log_softmax", {"axis": 0}),
    ("log_softmax", {"axis": None}),
]


def grid(dtype: torch.dtype) -> torch.Tensor:
    """Return ordinary, large and tiny numbers and the corners of the piecewise functions, `(4, 3, 8)`."""
    corners = [0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.0, 3.0, -3.0, 6.0, -6.0]
    large = [s * x for x in (20.0, 21.0, 60.0, 88.0, 300.0, 1e4, 1e12, 1e-6, 1e-20) for s in (1, -1)]
    drawn = np.random.default_rng(0).normal(size=96 - len(corners) - len(large)) * 3
    return torch.tensor([*corners, *large, *drawn], dtype=dtype).reshape(4, 3, 8)


def value_and_gradient(function, x, kwargs):
    x = x.clone().requires_grad_()
    y = function(x, **kwargs)
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)
    (y * weights)[torch.isfinite(y)].sum().backward()
    return y.detach(), x.grad


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_values_and_gradients_match_keras(name, kwargs):
    for dtype in [torch.float32, torch.float64]:
        keras = pytest.importorskip("keras")
        ours, our_gradient = value_and_gradient(getattr(activations, name), grid(dtype), kwargs)
        theirs, their_gradient = value_and_gradient(getattr(keras.activations, name), grid(dtype), kwargs)
        assert ours.dtype == dtype
        for mine, expected in ((ours, theirs), (our_gradient, their_gradient)):
            known = torch.isfinite(expected)
            assert known.any()
            torch.testing.assert_close(mine[known], expected[known], rtol=1e-6, atol=1e-6)


def test_every_keras_function_exists_with_its_arguments():
    keras = pytest.importorskip("keras")
    names = {n for n in dir(keras.activations) if not n.startswith("_")} - {"get", "serialize", "deserialize"}
    assert names - {name for name, _ in CASES} == {"sparsemax"}
    resolved = set(importlib.import_module("keras.src.activations").ALL_OBJECTS_DICT)  # what a string may be
    assert resolved <= names <= set(dir(padless.activations))
    for name in names:
        ours = activations.get(name)
        assert entries("activation")[name] is ours
        if ours in (torch.tanh, torch.sigmoid):
            continue
        parameters = inspect.signature(ours).parameters.values()
        expected = inspect.signature(getattr(keras.activations, name)).parameters.values()
        assert [(p.name, p.default) for p in parameters] == [(p.name, p.default) for p in expected]
        assert ours is getattr(activations, name, ours)


def test_tanh_and_sigmoid_are_torch_functions():
    assert activations.get("tanh") is activations.tanh is torch.tanh
    assert activations.get("sigmoid") is activations.sigmoid is torch.sigmoid


vectors = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=7)


@given(vectors, vectors)
def test_sparsemax_is_the_nearest_point_of_the_simplex(scores, other):
    x = torch.tensor(scores, dtype=torch.float64)
    p = activations.sparsemax(x)
    assert (p >= 0).all() and abs(p.sum() - 1) < 1e-9
    q = torch.softmax(torch.tensor((other * 7)[: len(scores)], dtype=torch.float64), -1)  # any other point
    assert (x - p).square().sum() <= (x - q).square().sum() + 1e-9


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_sparsemax_works_along_any_axis(axis):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = activations.sparsemax(x.movedim(axis, -1)).movedim(-1, axis)
    torch.testing.assert_close(activations.sparsemax(x, axis=axis), expected)
    assert torch.autograd.gradcheck(lambda t: activations.sparsemax(t, axis=axis), x.requires_grad_())


def test_sparsemax_matches_keras_where_the_sum_is_one():
    """Keras 3.15.1 adds up too much where more than one number stays above 0."""
    keras = pytest.importorskip("keras")
    one_left = torch.tensor([[3.0, 1.0, 0.5], [-2.0, -9.0, -4.0]])
    torch.testing.assert_close(activations.sparsemax(one_left), keras.activations.sparsemax(one_left))
    two_left = torch.tensor([[1.0, 0.5, -3.0]])
    assert abs(float(keras.activations.sparsemax(two_left).sum()) - 1) > 0.1  # if this fails, Keras has fixed it
    torch.testing.assert_close(activations.sparsemax(two_left), torch.tensor([[0.75, 0.25, 0.0]]))


def test_vector_is_one_distribution():
    for name in ["softmax", "log_softmax", "sparsemax"]:
        x = torch.tensor([1.0, 3.0, -2.0])
        torch.testing.assert_close(getattr(activations, name)(x), getattr(activations, name)(x[None])[0])


def test_empty_input_is_valid():
    for name in ["softmax", "log_softmax", "sparsemax", "relu", "glu"]:
        assert getattr(activations, name)(torch.zeros(0, 4)).shape[0] == 0


def test_get_none_is_linear_and_get_function_is_that_function():
    x = torch.ones(2)
    assert activations.get(None) is activations.linear and activations.linear(x) is x

    def double(x):
        return 2 * x

    assert activations.get(double) is double


def test_every_name_survives_serialization():
    for name in sorted(entries("activation")):
        function = activations.get(name)
        assert activations.deserialize(activations.serialize(function)) is function


def test_keras_config_is_read():
    for config in ["relu", {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "relu"}]:
        assert activations.get(config) is activations.relu


def test_unknown_names_and_lambdas_raise():
    with pytest.raises(ArgumentError, match="Did you mean 'softmax'"):
        activations.get("sofmax")
    with pytest.raises(ArgumentError, match="register"):
        activations.serialize(lambda x: x)
    with pytest.raises(ArgumentError, match="activation"):
        activations.get(3)
