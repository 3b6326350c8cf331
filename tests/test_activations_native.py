"""The activations of the compiled kernels are exact to a few units in the last place (ulp), for every float32."""

import numpy as np
import pytest
import torch
from activation_errors import EXACT, apply, floats_in_order, measure

import padless
from padless import layers as L
from padless.kernels.native import library

LIBRARIES = {level: library.load_library(level) for level in library.supported_levels()}
LEVELS = [level for level, loaded in LIBRARIES.items() if isinstance(loaded, library.Library)]
pytestmark = pytest.mark.skipif(library.get_library() is None, reason=padless.backends()["native kernels"])


def sample():
    """Return blocks of consecutive numbers: some of each exponent and sign, and those next to 0, 1 and infinity."""
    for exponent in range(512):  # with the sign
        for fraction in (0, 0x2AAAAA, 0x7FFFC0):
            yield floats_in_order((exponent << 23) + fraction, 64)
    for x in np.linspace(-110, 110, 4001, dtype=np.float32):
        bits = int(x.view(np.uint32))
        yield floats_in_order(0xFFFFFFFF - bits if bits >> 31 else bits | 0x80000000, 64)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", EXACT)
def test_errors_are_below_3_ulp_for_numbers_of_every_exponent(level, name):
    blocks = list(sample())
    errors = measure(LIBRARIES[level], name, [np.concatenate(blocks[i : i + 64]) for i in range(0, len(blocks), 64)])
    assert errors.greatest < 3 and errors.not_nan == 0, errors
    assert abs(errors.bias) < 0.02, errors  # errors of one sign would add up over many steps
    decreases = [measure(LIBRARIES[level], name, [block]).decrease for block in blocks[::7]]
    assert max(decreases) <= 3


@pytest.mark.parametrize("level", LEVELS)
def test_tanh_is_odd_and_exact_where_it_must_be(level):
    loaded = LIBRARIES[level]
    x = np.array([0.0, 1e-45, 1e-38, 1e-30, 1e-6, 1e-3, 0.5, 1, 9.02, 10, 88, 1e30, np.inf, np.nan, 3e-39, 2], np.float32)
    y = apply(loaded, "tanh", x)
    assert np.array_equal(apply(loaded, "tanh", -x).view(np.uint32), (-y).view(np.uint32))
    assert y[0] == 0 and not np.signbit(y[0]) and np.signbit(apply(loaded, "tanh", -x)[0])
    small = x[[1, 2, 3, 4, 14]]
    assert (np.abs(y[[1, 2, 3, 4, 14]] - small) <= np.spacing(small)).all()  # denormal ones too
    assert (y[8:13] == 1).all() and np.isnan(y[13])
    assert (y[~np.isnan(y)] <= 1).all()


@pytest.mark.parametrize("level", LEVELS)
def test_sigmoid_is_exact_where_it_must_be(level):
    loaded = LIBRARIES[level]
    x = np.array([0, 17.5, 30, 1e30, np.inf, -1000, -1e30, -np.inf] * 2, np.float32)
    assert apply(loaded, "sigmoid", x).tolist() == [0.5, 1, 1, 1, 1, 0, 0, 0] * 2
    x = np.array([-87, -88, -95, -103, -100, -89.5, -80, np.nan] * 2, np.float32)
    y = apply(loaded, "sigmoid", x)[:7]
    assert np.abs(y - EXACT["sigmoid"](x[:7].astype(np.float64))).max() < 2**-149 * 3 + y.max() * 2**-22 and (y > 0).all()
    assert np.isnan(apply(loaded, "sigmoid", x)[7])


@pytest.mark.parametrize("level", LEVELS)
def test_powers_of_2_end_at_0_and_keep_nan(level):
    x = np.array([-np.inf, -1e30, -200, -149.6, 0, 1, -1, np.nan] * 2, np.float32)
    y = apply(LIBRARIES[level], "exp2", x)[:8]
    assert y[:3].tolist() == [0, 0, 0] and y[3] < 2.0**-126 and y[4:7].tolist() == [1, 2, 0.5] and np.isnan(y[7])


def test_a_small_state_is_exact_relative_to_its_size():
    """A state near 0 keeps its precision, and the state 0 stays 0."""
    layer = L.SimpleRNN(1, return_sequences=True, use_bias=False)
    layer(torch.zeros(1, 1, 1))
    layer.set_weights([np.ones((1, 1)), np.zeros((1, 1))])
    x = torch.tensor([0.0, 1e-30, -1e-6, 3e-4, -0.02, 0.0])[None, :, None]
    torch.testing.assert_close(layer(x), x.double().tanh().float(), rtol=3e-7, atol=0)


def test_errors_do_not_add_up_over_many_steps():
    """An LSTM whose gates are 1 adds the tanh of its inputs; tanh(2^-18) is 2^-18, and float32 can add that exactly."""
    steps = 100_000
    layer = L.LSTM(1)
    layer(torch.zeros(1, 1, 1))
    layer.set_weights([np.array([[0.0, 0.0, 1.0, 0.0]]), np.zeros((1, 4)), np.array([50.0, 50.0, 0.0, 50.0])])
    for number in (2.0**-18, -(2.0**-18)):
        with torch.no_grad():
            state = float(layer(torch.full((1, steps, 1), number)))
        assert abs(state / np.tanh(number * steps) - 1) < 1e-6


def test_a_saturated_gate_has_the_slope_0():
    layer = L.LSTM(3)
    x = torch.randn(2, 4, 3)
    layer(x)
    layer.set_weights([np.zeros((3, 12)), np.zeros((3, 12)), np.full(12, 40.0)])
    layer(x).sum().backward()
    assert not any(parameter.grad.any() for parameter in layer.parameters())
