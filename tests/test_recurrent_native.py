"""Recurrent cells by the compiled kernels: every library of this processor equals the reference."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import (
    LENGTHS,
    STANDARD_CELLS,
    assert_close,
    assert_equal,
    draw_needed,
    index_of,
    indexes,
    make_float32_tensors,
    make_tensors,
    random_gradients,
    run_cell,
)

import padless
from padless.errors import ArgumentError
from padless.kernels.native import library
from padless.kernels.recurrent import api, native
from padless.ragged.index import Index

pytestmark = pytest.mark.skipif(library.get_library() is None, reason=padless.backends()["native kernels"])
LEVELS = [level for level in library.supported_levels() if library.library_path(level).exists()]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# less than one vector, whole vectors and parts of one, one to five tiles
UNITS = st.sampled_from([1, 3, 4, 5, 8, 13, 16, 17, 33, 64, 70])


def use_library(level):
    """Return a context in which the kernels are those of a level."""
    loaded = library.load_library(level)
    return patch.object(library, "get_library", lambda: loaded)


# Properties


@pytest.mark.parametrize("level", LEVELS)
@given(st.sampled_from(STANDARD_CELLS), indexes(), st.integers(1, 3), UNITS, st.booleans(), st.integers(0, 1000), st.data())
@settings(max_examples=60, deadline=None)
def test_it_equals_the_reference_for_any_steps(level, cell, index, features, units, reverse, seed, data):
    tensors = make_float32_tensors(cell, index, features, units, seed, bias=data.draw(st.booleans()))
    used = data.draw(st.sets(st.integers(0, 2 if cell == "lstm" else 1), min_size=1))
    draw_needed(data, tensors)
    with use_library(level):
        results = run_cell(cell, index, tensors, reverse=reverse, path="native")
        with torch.no_grad():
            assert_equal(run_cell(cell, index, tensors, reverse=reverse, path="native"), results)
        gradients = random_gradients(results, tensors, used)
    expected = run_cell(cell, index, tensors, reverse=reverse, path="reference")
    assert_close(results, expected, **CLOSE)
    assert_close(gradients, random_gradients(expected, tensors, used), **CLOSE)


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_many_long_sequences_equal_the_reference(cell):
    """There are several tiles of rows for each thread."""
    index = Index(np.random.default_rng(0).random((29, 40)) < np.linspace(0, 1, 29)[:, None])
    for reverse in (False, True):
        tensors = make_float32_tensors(cell, index, 7, 48)
        results = run_cell(cell, index, tensors, reverse=reverse, path="native")
        expected = run_cell(cell, index, tensors, reverse=reverse, path="reference")
        assert_close(results, expected, **CLOSE)
        gradients = random_gradients(results, tensors)
        assert_close(gradients, random_gradients(expected, tensors), rtol=1e-4, atol=1e-4)  # sums over 600 steps


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_the_size_of_a_chunk_changes_no_bit(level, cell):
    index = Index(np.random.default_rng(0).random((29, 40)) < np.linspace(0, 1, 29)[:, None])
    for features in (3, 300):  # weights smaller and larger than the L1 cache
        tensors = make_float32_tensors(cell, index, features, 21)
        found = []
        for chunk_numbers in (0, 4 * 32 * 50, 1 << 20):  # one time, a few times, all times
            with use_library(level), patch.object(native, "CHUNK_NUMBERS", chunk_numbers):
                results = run_cell(cell, index, tensors, path="native")
                with torch.no_grad():
                    assert_equal(run_cell(cell, index, tensors, path="native"), results)
                found.append((*results, *random_gradients(results, tensors)))
        assert_equal(found[0], found[2])
        assert_equal(found[1], found[2])
        assert_close(found[2][:2], run_cell(cell, index, tensors, path="reference")[:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_other_sequences_and_the_number_of_threads_change_no_bit_of_a_state(cell):
    lengths = [5, 1, 0, 7, 3, 7, 2]
    index = index_of(lengths)
    values, kernel, recurrent, bias, *states = (t.detach() for t in make_float32_tensors(cell, index, 4, 20))
    results = run_cell(cell, index, [values, kernel, recurrent, bias, *states], path="native")
    for threads in (1, 2, 3):
        with patch.object(torch, "get_num_threads", lambda n=threads: n):
            assert_equal(run_cell(cell, index, [values, kernel, recurrent, bias, *states], path="native"), results)
    for row, length in enumerate(lengths):
        steps, rows = slice(*index.offsets[row : row + 2]), slice(row, row + 1)
        tensors = [values[steps], kernel, recurrent, bias, *(state[rows] for state in states)]
        alone = run_cell(cell, index_of([length]), tensors, path="native")
        assert_equal(alone, [results[0][steps], *(last[rows] for last in results[1:])])


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_nan_and_infinity_stay_in_their_sequence(cell):
    index = index_of([3, 4])
    for number in (float("nan"), float("inf")):
        tensors = [t.detach() for t in make_float32_tensors(cell, index, 4, 20)]
        tensors[0][1, 2] = number
        outputs, expected = (run_cell(cell, index, tensors, path=path)[0] for path in ("native", "reference"))
        assert torch.isfinite(outputs[3:]).all()
        assert torch.equal(torch.isnan(outputs), torch.isnan(expected))


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_gates_saturate_as_in_torch(cell):
    index = index_of([2, 2])
    for size in (30.0, 88.0, 200.0, 1e30):
        tensors = make_float32_tensors(cell, index, 4, 20)
        tensors[0] = (tensors[0].detach().sign() * size).requires_grad_()
        results, expected = (run_cell(cell, index, tensors, path=path) for path in ("native", "reference"))
        if cell != "relu":
            assert_close(results, expected, **CLOSE)
        assert all(g is None or g.isfinite().all() for g in random_gradients(results, tensors))


# Gradients and dtypes


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_a_second_backward_pass_gives_the_same_gradients(cell):
    index = index_of(LENGTHS["ragged"])
    tensors = make_float32_tensors(cell, index, 2, 16)  # whole vectors, so that nothing is copied for the kernel
    results = run_cell(cell, index, tensors, path="native")
    upstream = [torch.ones_like(result) for result in results]
    first = torch.autograd.grad(results, tensors, upstream, retain_graph=True)
    assert all(gradient.eq(1).all() for gradient in upstream), "the kernel changed the gradients of the caller"
    assert_equal(torch.autograd.grad(results, tensors, upstream), first)


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_results_may_be_changed_in_place_and_arguments_are_not_changed(cell):
    index = index_of(LENGTHS["ragged"])
    tensors = make_float32_tensors(cell, index, 2, 16)
    copies = [t.detach().clone() for t in tensors]
    results = run_cell(cell, index, tensors, path="native")
    expected = torch.autograd.grad(2 * results[0].sum(), tensors, retain_graph=True, allow_unused=True)
    assert_close(torch.autograd.grad(results[0].mul_(2).sum(), tensors, allow_unused=True), expected)
    assert_equal([t.detach() for t in tensors], copies)


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_second_derivatives_equal_those_of_the_reference(cell):
    index = index_of([2, 1])
    tensors = make_float32_tensors(cell, index, 2, 3)
    gradients = []
    for path in ("native", "reference"):
        outputs = run_cell(cell, index, tensors, path=path)[0]
        (first,) = torch.autograd.grad(outputs.sum(), tensors[:1], create_graph=True)
        gradients.append(torch.autograd.grad(first.square().sum(), tensors, allow_unused=True))
    assert_close(*gradients, **CLOSE)


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_bfloat16_equals_the_reference_to_its_precision(cell):
    index = index_of(LENGTHS["ragged"])
    exact = [t.detach().bfloat16().double().requires_grad_() for t in make_float32_tensors(cell, index, 3, 20)]
    tensors = [t.detach().bfloat16().requires_grad_() for t in exact]
    results = run_cell(cell, index, tensors, path="native")
    expected = run_cell(cell, index, exact, path="reference")
    assert all(result.dtype == torch.bfloat16 for result in results)
    assert_close([result.double() for result in results], expected, rtol=0.05, atol=0.05)
    gradients = torch.autograd.grad(sum(result.sum() for result in results), tensors)
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)
    expected = torch.autograd.grad(sum(result.sum() for result in expected), exact)
    assert_close([gradient.double() for gradient in gradients], expected, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_tensors_may_have_any_strides(cell):
    index = index_of(LENGTHS["ragged"])
    tensors = make_float32_tensors(cell, index, 3, 20)
    strided = [t.detach().t().contiguous().t().requires_grad_() if t.ndim == 2 else t for t in tensors]
    strided[-1] = torch.zeros(20, requires_grad=True).expand(4, 20)  # one state for all rows
    results, expected = (run_cell(cell, index, strided, path=path) for path in ("native", "reference"))
    assert_close(results, expected, **CLOSE)
    upstream = [torch.ones(result.shape[::-1]).t() for result in results]
    assert_close(*(torch.autograd.grad(x, strided, upstream) for x in (results, expected)), **CLOSE)


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_a_bias_may_have_any_strides(cell):
    index = index_of([5, 0, 3])
    tensors = [t.detach() for t in make_float32_tensors(cell, index, 3, 16)]
    expected = run_cell(cell, index, tensors, path="native")
    tensors[3] = torch.stack([tensors[3], tensors[3] + 1], -1)[..., 0]
    assert_equal(run_cell(cell, index, tensors, path="native"), expected)


def test_the_kernel_does_not_depend_on_the_default_dtype():
    index = index_of([5, 0, 3])
    tensors = make_float32_tensors("lstm", index, 3, 40, bias=False)
    tensors = [None if t is None else t.detach().bfloat16() for t in tensors]
    expected, default = run_cell("lstm", index, tensors, path="native"), torch.get_default_dtype()
    for dtype in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            results = run_cell("lstm", index, tensors, path="native")
        finally:
            torch.set_default_dtype(default)
        assert_equal(results, expected)


def test_empty_sequences_need_no_memory():
    parts = native.SequenceParts.of_index(index_of([4, 3, *[0] * 1000]), False, 7)
    assert parts.most_sequences <= 2


# The choice of the path


def test_it_is_chosen_on_the_cpu_and_refused_for_other_tensors():
    index = index_of([2])
    assert api._choose_path("lstm", None, True, torch.zeros(2, 2)) == "native"
    assert api._choose_path("lstm", None, True, torch.zeros(2, 2, dtype=torch.float64)) == "manual"
    with pytest.raises(ArgumentError, match=r"got torch\.float64 on cpu"):
        run_cell("lstm", index, make_tensors("lstm", index, 2, 2), path="native")
    with pytest.raises(ArgumentError, match="path='reference'"):
        run_cell("lstm", index, make_float32_tensors("lstm", index, 2, 2), path="native", activation=torch.relu)


def test_without_a_library_the_manual_path_is_chosen():
    with patch.object(library, "get_library", lambda: None):
        assert api._choose_path("gru", None, True, torch.zeros(2, 2)) == "manual"
