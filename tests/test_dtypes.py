"""Every layer in bfloat16, in double precision, and under autocast: it runs both ways, to about the same numbers."""

import functools

import numpy as np
import pytest
import torch
from cases import LAYERS, MODELS

from padless.graph.symbolic import leaves
from padless.ragged.packed import Packed
from padless.testing.harness import LayerHarness

MASK = np.array([[int(c) for c in row] for row in ("00000", "11000", "10110", "00011", "11111")], dtype=bool)
NOTHING = np.zeros((2, 3), dtype=bool)
CASES = {case.name: case for case in (*LAYERS, *MODELS)}


@functools.cache
def single(name):
    """A case in single precision, made once."""
    case = CASES[name]
    return LayerHarness.from_layer(case.make, case.inputs, **{**case.options, "dtype": torch.float32})


def like(subject, dtype, name):
    """The same with its weights and inputs in another dtype."""
    other = LayerHarness.from_layer(subject.layer, list(subject.inputs), **{**CASES[name].options, "dtype": dtype})
    with torch.no_grad():
        for mine, theirs in zip(other.layer.weights, subject.layer.weights, strict=True):
            mine.copy_(theirs)
    return other


def dtypes(result):
    """Those of the outputs that are not whole numbers."""
    values = [x.values if isinstance(x, Packed) else x for x in leaves(result.raw_outputs)]
    return {x.dtype for x in values if x.dtype.is_floating_point}


def apart(given, expected):
    """How far numbers are from each other at most, by the size of the largest; they must be finite."""
    worst = 0.0
    for (name, mine), (_, theirs) in zip(given.named_tensors(), expected.named_tensors(), strict=True):
        assert bool(torch.isfinite(mine).all()), name
        if mine.numel():
            scale = max(theirs.abs().max().item(), 1.0)
            worst = max(worst, (mine.double() - theirs.double()).abs().max().item() / scale)
    return worst


def near(subject, run, tolerance):
    """`run` gives about what `subject` does; on one of two samples, since a number may lie on the edge of a relu."""
    for seed in (0, 1):
        sample = subject.sample(MASK, seed)
        expected = subject.run(sample)
        given = run(sample, subject.output_weights(expected))
        if apart(given, expected) < tolerance or subject.training:  # noise differs from one dtype to the next
            return given
    raise AssertionError(f"{apart(given, expected)} of the largest number apart")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=["bfloat16", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_a_layer_runs_in_the_dtype_that_it_is_brought_to(name, dtype):
    subject = single(name)
    other = like(subject, dtype, name)
    given = near(
        subject, lambda sample, pulls: other.run(sample, output_weights=pulls), 0.06 if dtype == torch.bfloat16 else 1e-4
    )
    whole = not any(grid.is_floating_point() for grid in subject.sample(MASK).grids) and not given.weight_gradients
    wanted = {torch.float32} if whole else {dtype}  # of integers alone, what the layer was made with
    assert dtypes(given) <= wanted
    assert all(gradient.dtype == dtype for gradient in given.weight_gradients.values())
    nothing = other.run(other.sample(NOTHING))
    apart(nothing, nothing)
    assert dtypes(nothing) <= wanted


@pytest.mark.parametrize("name", CASES)
def test_a_layer_runs_under_autocast(name):
    subject = single(name)

    def run(sample, pulls):
        with torch.autocast("cpu", torch.bfloat16):
            return subject.run(sample, output_weights=pulls)

    given = near(subject, run, 0.06)
    assert all(gradient.dtype == torch.float32 for gradient in given.weight_gradients.values())
    with torch.autocast("cpu", torch.bfloat16):
        nothing = subject.run(subject.sample(NOTHING))
    apart(nothing, nothing)
    assert dtypes(nothing) == dtypes(given)
