"""Recurrent cells over packed steps equal each sequence alone; the manual and cuDNN paths equal the reference."""

from __future__ import annotations

import os
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recurrent_cases import (
    CELLS,
    GATES,
    LENGTHS,
    OPTIONS,
    STANDARD_CELLS,
    assert_close,
    assert_equal,
    draw_needed,
    index_of,
    indexes,
    make_tensors,
    random_gradients,
    run_cell,
    run_each_sequence_alone,
)

from padless.errors import ArgumentError, ShapeError
from padless.kernels.recurrent import api, reference, time_major
from padless.ragged.index import Index

PATHS = ("manual", "cudnn")  # torch also runs its packed functions on the CPU, in a loop
CELLS_AND_PATHS = [
    (cell, path) for cell in CELLS for path in (None, "cudnn", "reference") if path != "cudnn" or cell in STANDARD_CELLS
]
sizes, seeds = st.integers(1, 3), st.integers(0, 1000)


# Properties


@given(st.sampled_from(CELLS), indexes(), sizes, sizes, st.booleans(), seeds, st.data())
@settings(max_examples=150, deadline=None)
def test_packed_steps_equal_each_sequence_alone(cell, index, features, units, reverse, seed, data):
    bias, path = data.draw(st.booleans()), data.draw(st.sampled_from([None, "reference"]))
    tensors = make_tensors(cell, index, features, units, seed, bias=bias)
    results = run_cell(cell, index, tensors, reverse=reverse, path=path)
    expected = run_each_sequence_alone(cell, index, tensors, reverse)
    assert_close(results, expected)
    assert_close(random_gradients(results, tensors), random_gradients(expected, tensors))


@given(st.sampled_from(STANDARD_CELLS), indexes(), sizes, sizes, st.booleans(), seeds, st.integers(1, 9), st.data())
@settings(max_examples=150, deadline=None)
def test_paths_equal_the_reference_for_any_steps(cell, index, features, units, reverse, seed, chunk_steps, data):
    tensors = make_tensors(cell, index, features, units, seed, bias=data.draw(st.booleans()))
    path, num_results = data.draw(st.sampled_from(PATHS)), 3 if cell == "lstm" else 2
    used = data.draw(st.sets(st.integers(0, num_results - 1), min_size=1))
    draw_needed(data, tensors)
    with patch.object(time_major, "CHUNK_STEPS", chunk_steps):
        results = run_cell(cell, index, tensors, reverse=reverse, path=path)
        expected = run_cell(cell, index, tensors, reverse=reverse, path="reference")
        with torch.no_grad():
            assert_equal(run_cell(cell, index, tensors, reverse=reverse, path=path), results)
        assert_close(results, expected)
        assert_close(random_gradients(results, tensors, used), random_gradients(expected, tensors, used))


@given(st.sampled_from(["lstm", "gru", "gru_before", "simple_rnn"]), indexes(), sizes, st.booleans(), seeds)
@settings(max_examples=60, deadline=None)
def test_each_gate_of_a_row_has_its_recurrent_mask(cell, index, units, reverse, seed):
    tensors = make_tensors(cell, index, 2, units, seed)
    generator = torch.Generator().manual_seed(seed)
    shape = (GATES[cell], index.shape[0], units)
    masks = 2.0 * torch.randint(0, 2, shape, generator=generator).double()
    results = run_cell(cell, index, tensors, reverse=reverse, recurrent_masks=masks)
    expected = run_each_sequence_alone(cell, index, tensors, reverse, masks)
    assert_close(results, expected)
    assert_close(random_gradients(results, tensors), random_gradients(expected, tensors))


# Gradients


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_gradients_agree_with_finite_differences(cell, path):
    index = Index(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=bool))
    tensors = make_tensors(cell, index, 2, 2, seed=3)
    for reverse in (False, True):
        run = lambda *t, reverse=reverse: run_cell(cell, index, t, reverse=reverse, path=path)  # noqa: E731
        assert torch.autograd.gradcheck(run, tensors)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_a_second_backward_pass_gives_the_same_gradients(cell, path):
    index = index_of(LENGTHS["ragged"])
    tensors = make_tensors(cell, index, 2, 3)
    total = sum(result.sum() for result in run_cell(cell, index, tensors, path=path))
    first = torch.autograd.grad(total, tensors, retain_graph=True)
    assert_equal(torch.autograd.grad(total, tensors), first)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_results_may_be_changed_in_place(cell, path):
    index = index_of(LENGTHS["ragged"])
    tensors = make_tensors(cell, index, 2, 3)
    results = run_cell(cell, index, tensors, path=path)
    expected = torch.autograd.grad(2 * results[0].sum(), tensors, retain_graph=True, allow_unused=True)
    assert_close(torch.autograd.grad(results[0].mul_(2).sum(), tensors, allow_unused=True), expected)


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_second_derivatives_equal_those_of_the_reference(cell):
    index = index_of([2, 1])
    tensors = make_tensors(cell, index, 2, 2)
    results = {}
    for path in (*PATHS, "reference"):
        outputs = run_cell(cell, index, tensors, path=path)[0]
        (first,) = torch.autograd.grad(outputs.sum(), tensors[:1], create_graph=True)
        results[path] = torch.autograd.grad(first.square().sum(), tensors, allow_unused=True)
    for path in PATHS:
        assert_close(results[path], results["reference"])


# Empty sequences, dtypes, memory


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize(("cell", "path"), CELLS_AND_PATHS)
def test_an_empty_row_keeps_its_initial_state_and_every_weight_has_a_gradient(name, cell, path):
    index = index_of(LENGTHS[name])
    tensors = make_tensors(cell, index, 2, 3)
    outputs, *last_states = run_cell(cell, index, tensors, path=path)
    assert outputs.shape == (index.num_steps, 3)
    is_empty = index.lengths == 0
    for state, initial in zip(last_states, tensors[4:], strict=True):
        assert state.shape == initial.shape
        assert torch.equal(state[is_empty], initial[is_empty])
    if index.num_steps:  # the last state is the output at the last step
        assert torch.equal(last_states[0][~is_empty], outputs[(index.offsets[1:] - 1)[~is_empty]])
    gradients = torch.autograd.grad(outputs.sum(), tensors[:4])
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_lower_precision_agrees_with_float64(cell, path):
    index = index_of(LENGTHS["ragged"])
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.15), (torch.float16, 0.02)):
        exact = [t.detach().to(dtype).double().mul(0.5).requires_grad_() for t in make_tensors(cell, index, 3, 4)]
        tensors = [t.detach().to(dtype).requires_grad_() for t in exact]
        results = run_cell(cell, index, tensors, path=path)
        expected = run_cell(cell, index, exact, path="reference")
        assert all(result.dtype == dtype for result in results)
        assert_close([result.double() for result in results], expected, rtol=tolerance, atol=tolerance)
        gradients = torch.autograd.grad(sum(result.sum() for result in results), tensors)
        assert all(gradient.dtype == dtype for gradient in gradients)
        assert_close(
            [gradient.double() for gradient in gradients],
            torch.autograd.grad(sum(result.sum() for result in expected), exact),
            rtol=tolerance,
            atol=4 * tolerance,
        )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_tensors_may_have_any_strides(cell, path):
    index = index_of(LENGTHS["ragged"])
    tensors = make_tensors(cell, index, 3, 4)
    strided = [t.detach().t().contiguous().t().requires_grad_() if t.ndim == 2 else t for t in tensors]
    strided[-1] = torch.zeros(4, dtype=torch.float64, requires_grad=True).expand(4, 4)  # one state for all rows
    plain = [*strided[:-1], strided[-1].clone()]
    results = run_cell(cell, index, strided, path=path)
    assert_close(results, run_cell(cell, index, plain, path="reference"))
    expected = run_cell(cell, index, [*strided[:-1], strided[-1] + 0], path="reference")
    assert_close(random_gradients(results, strided), random_gradients(expected, strided))


@pytest.mark.parametrize(("cell", "path"), CELLS_AND_PATHS)
def test_autocast_computes_in_its_dtype_and_gradients_have_that_of_the_weights(cell, path):
    index = index_of(LENGTHS["ragged"])
    tensors = make_tensors(cell, index, 3, 4, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = run_cell(cell, index, tensors, path=path)
        gradients = torch.autograd.grad(sum(result.float().sum() for result in results), tensors)
    assert all(result.dtype == torch.bfloat16 for result in results)
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    assert_close([result.float() for result in results], run_cell(cell, index, tensors), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_a_backward_pass_has_the_dtype_of_its_forward_pass(cell, path):
    index = index_of(LENGTHS["ragged"])
    tensors = make_tensors(cell, index, 3, 4, dtype=torch.float32)
    outputs = run_cell(cell, index, tensors, path=path)[0]
    expected = torch.autograd.grad(outputs.sum(), tensors[:4], retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(torch.autograd.grad(outputs.sum(), tensors[:4]), expected, rtol=1e-6, atol=1e-6)


def test_a_custom_activation_gets_the_dtype_of_autocast_and_runs_without_autocast():
    index, calls = index_of([2]), []

    def activation(x):
        calls.append((x.dtype, torch.is_autocast_enabled("cpu")))
        return torch.tanh(x)

    tensors = make_tensors("lstm", index, 2, 2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run_cell("lstm", index, tensors, activation=activation)
    assert set(calls) == {(torch.bfloat16, False)}


# The choice of a path


def test_a_path_is_requested_by_name():
    index = index_of([1])
    lstm, gru = make_tensors("lstm", index, 2, 2), make_tensors("gru", index, 2, 2)
    with pytest.raises(ArgumentError, match="Did you mean 'manual'"):
        run_cell("lstm", index, lstm, path="manul")
    with pytest.raises(ArgumentError, match="path='reference'"):
        run_cell("lstm", index, lstm, path="manual", activation=torch.relu)
    with pytest.raises(ShapeError, match=r"reset_after=False .* \(3 \* units,\); got \(2, 6\)"):
        run_cell("gru", index, gru, reset_after=False)


def test_the_path_depends_on_what_the_cell_computes():
    index, calls = index_of([2]), []
    cases = [
        ("lstm", {}, "manual"),
        ("lstm", {"activation": torch.relu}, "reference"),
        ("lstm", {"recurrent_activation": torch.tanh}, "reference"),
        ("lstm", {"recurrent_masks": torch.ones(4, 1, 2, dtype=torch.float64)}, "reference"),
        ("lstm", {"path": "reference"}, "reference"),
        ("gru", {}, "manual"),
        ("gru_before", {}, "reference"),
        ("relu", {}, "manual"),
    ]

    def recording(name, function):
        return lambda *arguments: calls.append(name) or function(*arguments)

    paths = {
        name: api.RecurrentPath(
            path.supports, *(recording(name, function) for function in (path.lstm, path.gru, path.simple_rnn))
        )
        for name, path in api.PATHS.items()
    }
    with patch.dict(api.PATHS, paths):
        for cell, options, _ in cases:
            run_cell(cell, index, make_tensors(cell, index, 2, 2), **options)
    assert calls == [path for _, _, path in cases]


# Torch's and Keras's numbers


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_sequences_of_equal_length_agree_with_torch(cell):
    rows, steps, features, units = 3, 4, 2, 5
    index = Index(np.ones((rows, steps), dtype=bool))
    tensors = make_tensors(cell, index, features, units)
    values, kernel, recurrent, bias, *states = tensors
    layer = (torch.nn.LSTM if cell == "lstm" else torch.nn.GRU)(features, units, batch_first=True).double()
    gates = [0, 1, 2, 3] if cell == "lstm" else [1, 0, 2]  # torch's GRU has r before z
    columns = torch.cat([torch.arange(units) + gate * units for gate in gates])
    biases = bias if cell == "gru" else torch.stack([bias, torch.zeros_like(bias)])
    weights = {
        "weight_ih_l0": kernel.t()[columns],
        "weight_hh_l0": recurrent.t()[columns],
        "bias_ih_l0": biases[0][columns],
        "bias_hh_l0": biases[1][columns],
    }
    initial = tuple(state[None] for state in states) if cell == "lstm" else states[0][None]
    grid, last = torch.func.functional_call(layer, weights, (values.reshape(rows, steps, features), initial))
    expected = [grid.reshape(-1, units), *(state[0] for state in (last if cell == "lstm" else (last,)))]
    results = run_cell(cell, index, tensors, path="manual")
    assert_close(results, expected)
    assert_close(random_gradients(results, tensors), random_gradients(expected, tensors))


@pytest.fixture(scope="module")
def keras():
    os.environ["KERAS_BACKEND"] = "torch"
    return pytest.importorskip("keras")


KERAS_NAMES = {"lstm": "LSTM", "gru": "GRU", "gru_before": "GRU", "simple_rnn": "SimpleRNN"}


@pytest.mark.slow
@pytest.mark.parametrize("cell", KERAS_NAMES)
def test_masked_keras_layers_agree_at_the_real_steps(cell, keras):
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=bool)
    index, units = Index(mask), 3
    tensors = [t.detach().float() for t in make_tensors(cell, index, 2, units)]
    layer = getattr(keras.layers, KERAS_NAMES[cell])
    layer = layer(units, return_sequences=True, return_state=True, **OPTIONS.get(cell, {}))
    layer.build((None, None, 2))
    layer.set_weights([t.numpy() for t in tensors[1:4]])
    grid = torch.zeros(3, 4, 2)
    grid[torch.from_numpy(mask)] = tensors[0]
    grid, *last_states = layer(grid, mask=torch.from_numpy(mask), initial_state=tensors[4:])
    expected = [grid[torch.from_numpy(mask)], *last_states]
    assert_close(run_cell(cell, index, tensors), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", KERAS_NAMES)
def test_recurrent_masks_are_as_many_as_keras_has_and_apply_in_the_same_places(cell, keras):
    index, units = Index(np.ones((3, 1), dtype=bool)), 4
    tensors = [t.detach().float() for t in make_tensors(cell, index, 2, units)]
    keras_cell = getattr(keras.layers, KERAS_NAMES[cell] + "Cell")
    keras_cell = keras_cell(units, recurrent_dropout=0.5, **OPTIONS.get(cell, {}))
    keras_cell.build((None, 2))
    keras_cell.set_weights([t.numpy() for t in tensors[1:4]])
    masks = keras_cell._create_dropout_mask(torch.ones(3, units), 0.5)
    keras_cell._recurrent_dropout_mask = masks
    masks = torch.stack(masks) if isinstance(masks, list) else masks[None]
    assert len(masks) == GATES[cell]
    output, states = keras_cell(tensors[0], tensors[4:], training=True)
    assert_close(run_cell(cell, index, tensors, recurrent_masks=masks), [output, *states], rtol=1e-5, atol=1e-5)


# scan


@given(indexes(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_scan_gives_a_step_the_rows_and_states_of_its_inputs(index, reverse):
    """The cell has two states of different shapes: the number of its row, and a count of steps."""
    numbers = torch.arange(index.shape[0])
    values = torch.from_numpy(index.rows)[:, None, None].expand(-1, 2, 3)

    def step(x, states, rows):
        assert torch.equal(x[:, 0, 0], rows) and torch.equal(states[0][:, 0], numbers[rows])
        return torch.stack([states[1], rows], 1), (states[0], states[1] + 1)

    initial = (numbers[:, None], torch.zeros_like(numbers))
    outputs, (last_numbers, counts) = reference.scan(values, index, step, initial, reverse=reverse)
    assert torch.equal(last_numbers[:, 0], numbers) and counts.tolist() == index.lengths.tolist()
    time = np.arange(index.num_steps) - index.offsets[index.rows]
    expected = index.lengths[index.rows] - 1 - time if reverse else time
    assert outputs.shape == (index.num_steps, 2)
    assert outputs[:, 0].tolist() == expected.tolist() and outputs[:, 1].tolist() == index.rows.tolist()
