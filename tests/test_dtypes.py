"""Every layer in bfloat16, in float64 and under autocast: forward and backward pass run, to about the same numbers."""

import numpy as np
import pytest
import torch
from cases import LAYERS, MODELS

from padless import layers as L
from padless.graph.symbolic import leaves
from padless.ragged.packed import Packed, pack
from padless.testing.harness import LayerHarness

pytestmark = pytest.mark.slow

MASK = np.array([[int(c) for c in row] for row in ("00000", "11000", "10110", "00011", "11111")], dtype=bool)
NO_STEPS = np.zeros((2, 3), dtype=bool)
TOLERANCES = {torch.bfloat16: 0.06, torch.float64: 1e-4}  # parts of the largest number


def copy_in_dtype(harness, case, dtype):
    """Return a harness with the same weights in another dtype."""
    other = LayerHarness.from_layer(harness.layer, list(harness.inputs), **{**case.options, "dtype": dtype})
    with torch.no_grad():
        for target, weight in zip(other.layer.weights, harness.layer.weights, strict=True):
            target.copy_(weight)
    return other


def float_dtypes(result):
    """Return the dtypes of the outputs that are not integers."""
    values = [x.values if isinstance(x, Packed) else x for x in leaves(result.raw_outputs)]
    return {x.dtype for x in values if x.dtype.is_floating_point}


def check_finite(result):
    for name, tensor in result.named_tensors():
        assert bool(torch.isfinite(tensor).all()), name


def largest_difference(result, expected):
    """Return the largest difference of two results, as a part of the largest number."""
    differences = [0.0]
    for (_, a), (_, b) in zip(result.named_tensors(), expected.named_tensors(), strict=True):
        if a.numel():
            differences.append((a.double() - b.double()).abs().max().item() / max(b.abs().max().item(), 1.0))
    return max(differences)


def check_close(harness, run, tolerance):
    """Check that `run` gives about the numbers of `harness`, and return its result.

    One of two samples is enough, because a number may be so close to the edge of a relu that rounding moves it across.
    """
    for seed in (0, 1):
        sample = harness.sample(MASK, seed)
        expected = harness.run(sample)
        result = run(sample, harness.output_weights(expected))
        check_finite(result)
        difference = largest_difference(result, expected)
        if difference < tolerance or harness.training:  # random numbers depend on the dtype
            return result
    raise AssertionError(f"The results differ by {difference} of the largest number.")


@pytest.mark.parametrize("case", (*LAYERS, *MODELS), ids=lambda case: case.name)
def test_a_layer_runs_in_bfloat16_in_float64_and_under_autocast(case):
    harness = LayerHarness.from_layer(case.make, case.inputs, **{**case.options, "dtype": torch.float32})
    for dtype, tolerance in TOLERANCES.items():
        check_dtype(harness, copy_in_dtype(harness, case, dtype), dtype, tolerance)
    check_autocast(harness)


def check_dtype(harness, converted, dtype, tolerance):
    """Check a layer whose weights and inputs were converted to a dtype."""
    result = check_close(harness, lambda sample, w: converted.run(sample, output_weights=w), tolerance)
    takes_floats = any(grid.is_floating_point() for grid in harness.sample(MASK).grids)
    # A layer without weights that takes integers has outputs of the dtype with which it was made.
    expected = {dtype} if takes_floats or result.weight_gradients else {torch.float32}
    assert float_dtypes(result) <= expected
    assert all(gradient.dtype == dtype for gradient in result.weight_gradients.values())
    empty = converted.run(converted.sample(NO_STEPS))
    check_finite(empty)
    assert float_dtypes(empty) <= expected


def check_autocast(harness):
    """Check a layer under autocast with bfloat16."""

    def run(sample, output_weights):
        with torch.autocast("cpu", torch.bfloat16):
            return harness.run(sample, output_weights=output_weights)

    result = check_close(harness, run, TOLERANCES[torch.bfloat16])
    assert all(gradient.dtype == torch.float32 for gradient in result.weight_gradients.values())
    empty = run(harness.sample(NO_STEPS), None)
    check_finite(empty)
    assert float_dtypes(empty) == float_dtypes(result)


LAYERS_OF_TWO_INPUTS = {
    "Add": lambda: L.Add(),
    "Subtract": lambda: L.Subtract(),
    "Multiply": lambda: L.Multiply(),
    "Average": lambda: L.Average(),
    "Maximum": lambda: L.Maximum(),
    "Minimum": lambda: L.Minimum(),
    "Concatenate": lambda: L.Concatenate(),
    "Concatenate-time": lambda: L.Concatenate(axis=1),
    "Dot-features": lambda: L.Dot(2),
    "Dot-normalize": lambda: L.Dot(2, normalize=True),
    "Dot-time": lambda: L.Dot(1),
    "Attention": lambda: L.Attention(),
    "AdditiveAttention": lambda: L.AdditiveAttention(use_scale=False),
}


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "plain"])
@pytest.mark.parametrize("name", LAYERS_OF_TWO_INPUTS)
def test_inputs_of_two_dtypes_are_promoted_as_torch_promotes_them(name, masked):
    layer, mask = LAYERS_OF_TWO_INPUTS[name](), np.array([[1, 0, 1], [0, 0, 0]], dtype=bool)
    first, second = (torch.randn(2, 3, 4) for _ in range(2))
    steps = (lambda x: pack(x, mask)) if masked else (lambda x: x)
    expected = layer([steps(first.double()), steps(second.double())])
    for one, other in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        output = layer([steps(first.to(one)), steps(second.to(other))])
        assert output.dtype == torch.float64
        one, other = (x.values if isinstance(x, Packed) else x for x in (output, expected))
        torch.testing.assert_close(one, other)
