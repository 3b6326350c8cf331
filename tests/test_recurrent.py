"""Recurrent kernels: packed steps against each sequence alone, the hand-written path against the plain one."""

from __future__ import annotations

import os
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padless.errors import ArgumentError, ShapeError
from padless.kernels.recurrent import api, reference, time_major
from padless.ragged.index import Index

GATES = {"lstm": 4, "gru": 3, "gru_before": 3, "simple_rnn": 1, "relu": 1}
CELLS = tuple(GATES)
FAST = ("lstm", "gru", "simple_rnn", "relu")
PATHS = ("manual", "cudnn")  # the latter runs on the CPU too, by torch's own loop
CELLS_AND_PATHS = [
    (cell, path) for cell in CELLS for path in (None, "cudnn", "reference") if path != "cudnn" or cell in FAST
]
OPTIONS = {"gru_before": {"reset_after": False}, "relu": {"activation": torch.relu}}


def kernel_of(cell):
    return getattr(api, {"gru_before": "gru", "relu": "simple_rnn"}.get(cell, cell))


def run(cell, index, tensors, **options):
    values, *rest = tensors
    return kernel_of(cell)(values, index, *rest, **OPTIONS.get(cell, {}), **options)


def tensors_for(cell, index, features, units, seed=0, dtype=torch.float64, bias=True):
    """Values, kernel, recurrent kernel, bias and initial states, all of them leaves that need gradients."""
    columns = GATES[cell] * units
    shapes = [
        (index.num_steps, features),
        (features, columns),
        (units, columns),
        (2, columns) if cell == "gru" else (columns,),
    ]
    shapes += [(index.shape[0], units)] * (2 if cell == "lstm" else 1)
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]
    return made if bias else [*made[:3], None, *made[4:]]


def cell_step(cell, x, states, kernel, recurrent, bias, masks=None):
    """One step of one sequence by the textbook, gate by gate; `masks` holds one row per gate."""
    h, units = states[0], len(states[0])

    def gate(number, state, row=0):
        part = slice(number * units, (number + 1) * units)
        b = 0 if bias is None else (bias[0, part] if bias.ndim == 2 else bias[part])
        return x @ kernel[:, part] + b, (state if masks is None else state * masks[number]) @ recurrent[:, part]

    if cell == "lstm":
        i, f, o = (torch.sigmoid(sum(gate(number, h))) for number in (0, 1, 3))
        c = f * states[1] + i * torch.tanh(sum(gate(2, h)))
        return o * torch.tanh(c), c
    if cell.startswith("gru"):
        inner = [0, 0, 0] if bias is None or bias.ndim == 1 else bias[1].split(units)
        z, r = (torch.sigmoid(sum(gate(number, h)) + inner[number]) for number in (0, 1))
        if cell == "gru":
            of_input, of_state = gate(2, h)
            candidate = torch.tanh(of_input + r * (of_state + inner[2]))
        else:
            candidate = torch.tanh(sum(gate(2, r * h)))
        return (z * h + (1 - z) * candidate,)
    return ((torch.relu if cell == "relu" else torch.tanh)(sum(gate(0, h))),)


def alone(cell, index, tensors, reverse=False, masks=None):
    """Each sequence by itself, step after step, without batch or order."""
    values, kernel, recurrent, bias, *initial = tensors
    outputs, last = [None] * index.num_steps, []
    for row in range(index.shape[0]):
        states = [state[row] for state in initial]
        steps = range(index.offsets[row], index.offsets[row + 1])
        for step in reversed(steps) if reverse else steps:
            mask = None if masks is None else masks[:, row]
            states = cell_step(cell, values[step], states, kernel, recurrent, bias, mask)
            outputs[step] = states[0]
        last.append(states)
    units = initial[0].shape[1]
    empty = values.new_zeros((0, units))
    return [
        torch.stack(outputs) if outputs else empty,
        *(torch.stack([s[n] for s in last]) if last else empty for n in range(len(initial))),
    ]


def gradients(results, tensors, used=None):
    """Gradients of a random functional of the used results with respect to the tensors that need them."""
    generator = torch.Generator().manual_seed(7)
    total = sum(
        (r * torch.randn(r.shape, generator=generator, dtype=r.dtype)).sum()
        for n, r in enumerate(results)
        if used is None or n in used
    )
    wanted = [t for t in tensors if t is not None and t.requires_grad]
    if not total.requires_grad:  # no used result depends on what needs a gradient
        return [None] * len(wanted)
    return torch.autograd.grad(total, wanted, allow_unused=True)


def same(ours, theirs, **tolerance):
    """Equal one by one; no gradient is a gradient of zero."""
    for n, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a is None or b is None:
            assert all(given is None or not given.any() for given in (a, b)), f"#{n}: {a} and {b}"
        else:
            torch.testing.assert_close(a, b, msg=lambda text, n=n: f"#{n}: {text}", **tolerance)


@st.composite
def indexes(draw):
    """Masks with holes, empty rows, no rows, no columns."""
    rows, columns = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    cells = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    return Index(np.array(cells, dtype=bool).reshape(rows, columns))


sizes, seeds = st.integers(1, 3), st.integers(0, 1000)
lengths_ = {"ragged": [3, 0, 5, 1], "all empty": [0, 0, 0], "no rows": [], "one step": [1], "one row": [4]}


# Laws


@given(st.sampled_from(CELLS), indexes(), sizes, sizes, st.booleans(), seeds, st.data())
@settings(max_examples=150, deadline=None)
def test_packed_equals_each_sequence_alone(cell, index, features, units, reverse, seed, data):
    bias, path = data.draw(st.booleans()), data.draw(st.sampled_from([None, "reference"]))
    tensors = tensors_for(cell, index, features, units, seed, bias=bias)
    ours = run(cell, index, tensors, reverse=reverse, path=path)
    theirs = alone(cell, index, tensors, reverse)
    same(ours, theirs)
    same(gradients(ours, tensors), gradients(theirs, tensors))


@given(st.sampled_from(FAST), indexes(), sizes, sizes, st.booleans(), seeds, st.integers(1, 9), st.data())
@settings(max_examples=150, deadline=None)
def test_hand_written_equals_plain_for_any_subset(cell, index, features, units, reverse, seed, stretch, data):
    tensors = tensors_for(cell, index, features, units, seed, bias=data.draw(st.booleans()))
    path, results = data.draw(st.sampled_from(PATHS)), 3 if cell == "lstm" else 2
    used = data.draw(st.sets(st.integers(0, results - 1), min_size=1))
    given_ = [t for t in tensors if t is not None]
    needed = data.draw(st.sets(st.integers(0, len(given_) - 1), min_size=1))
    for n, tensor in enumerate(given_):
        tensor.requires_grad_(n in needed)
    with patch.object(time_major, "CHUNK_STEPS", stretch):
        fast = run(cell, index, tensors, reverse=reverse, path=path)
        slow = run(cell, index, tensors, reverse=reverse, path="reference")
        with torch.no_grad():
            same(run(cell, index, tensors, reverse=reverse, path=path), fast, rtol=0, atol=0)
        same(fast, slow)
        same(gradients(fast, tensors, used), gradients(slow, tensors, used))


@given(st.sampled_from(["lstm", "gru", "gru_before", "simple_rnn"]), indexes(), sizes, st.booleans(), seeds)
@settings(max_examples=60, deadline=None)
def test_recurrent_masks_reach_each_gate_of_their_row(cell, index, units, reverse, seed):
    tensors = tensors_for(cell, index, 2, units, seed)
    generator = torch.Generator().manual_seed(seed)
    shape = (GATES[cell], index.shape[0], units)
    masks = 2.0 * torch.randint(0, 2, shape, generator=generator).double()
    ours = run(cell, index, tensors, reverse=reverse, recurrent_masks=masks)
    same(ours, alone(cell, index, tensors, reverse, masks))
    same(gradients(ours, tensors), gradients(alone(cell, index, tensors, reverse, masks), tensors))


# Gradients, twice, and none


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", FAST)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(cell, reverse, path):
    index = Index(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=bool))
    tensors = tensors_for(cell, index, 2, 2, seed=3)
    assert torch.autograd.gradcheck(lambda *t: run(cell, index, t, reverse=reverse, path=path), tensors)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", FAST)
def test_backward_leaves_what_it_needs_for_another(cell, path):
    index = Index.from_lengths(np.array(lengths_["ragged"]))
    tensors = tensors_for(cell, index, 2, 3)
    total = sum(r.sum() for r in run(cell, index, tensors, path=path))
    once = torch.autograd.grad(total, tensors, retain_graph=True)
    same(torch.autograd.grad(total, tensors), once, rtol=0, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", FAST)
def test_results_may_be_changed_in_place(cell, path):
    index = Index.from_lengths(np.array(lengths_["ragged"]))
    tensors = tensors_for(cell, index, 2, 3)
    results = run(cell, index, tensors, path=path)
    expected = torch.autograd.grad(2 * results[0].sum(), tensors, retain_graph=True, allow_unused=True)
    same(torch.autograd.grad(results[0].mul_(2).sum(), tensors, allow_unused=True), expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", FAST)
def test_second_derivatives_are_those_of_the_reference(cell, path):
    index = Index.from_lengths(np.array([2, 1]))
    tensors = tensors_for(cell, index, 2, 2)
    found = []
    for taken in (path, "reference"):
        outputs = run(cell, index, tensors, path=taken)[0]
        (first,) = torch.autograd.grad(outputs.sum(), tensors[:1], create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), tensors, allow_unused=True))
    same(*found)


# Edges


@pytest.mark.parametrize("name", lengths_)
@pytest.mark.parametrize(("cell", "path"), CELLS_AND_PATHS)
def test_last_state_of_an_empty_row_is_the_initial_one_and_every_weight_has_a_gradient(name, cell, path):
    index = Index.from_lengths(np.array(lengths_[name], dtype=np.int64))
    tensors = tensors_for(cell, index, 2, 3)
    outputs, *last = run(cell, index, tensors, path=path)
    assert outputs.shape == (index.num_steps, 3)
    for state, initial in zip(last, tensors[4:], strict=True):
        assert state.shape == initial.shape
        assert torch.equal(state[index.lengths == 0], initial[index.lengths == 0])
    if index.num_steps:  # the last state is the output at the last step
        assert torch.equal(last[0][index.lengths > 0], outputs[(index.offsets[1:] - 1)[index.lengths > 0]])
    found = torch.autograd.grad(outputs.sum(), tensors[:4])
    assert all(g.isfinite().all() for g in found)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", FAST)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_dtypes_agree_with_float64(cell, dtype, tolerance, path):
    index = Index.from_lengths(np.array(lengths_["ragged"]))
    exact = [t.detach().to(dtype).double().mul(0.5).requires_grad_() for t in tensors_for(cell, index, 3, 4)]
    tensors = [t.detach().to(dtype).requires_grad_() for t in exact]
    ours, theirs = run(cell, index, tensors, path=path), run(cell, index, exact, path="reference")
    assert all(r.dtype == dtype for r in ours)
    same([r.double() for r in ours], theirs, rtol=tolerance, atol=tolerance)
    found = torch.autograd.grad(sum(r.sum() for r in ours), tensors)
    assert all(g.dtype == dtype for g in found)
    same(
        [g.double() for g in found],
        torch.autograd.grad(sum(r.sum() for r in theirs), exact),
        rtol=tolerance,
        atol=4 * tolerance,
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", FAST)
def test_strides_do_not_matter(cell, path):
    index = Index.from_lengths(np.array(lengths_["ragged"]))
    tensors = tensors_for(cell, index, 3, 4)
    strided = [t.detach().t().contiguous().t().requires_grad_() if t.ndim == 2 else t for t in tensors]
    strided[-1] = torch.zeros(4, dtype=torch.float64, requires_grad=True).expand(4, 4)  # one state for all rows
    plain = [*strided[:-1], strided[-1].clone()]
    same(run(cell, index, strided, path=path), run(cell, index, plain, path="reference"))
    same(
        gradients(run(cell, index, strided, path=path), strided),
        gradients(run(cell, index, [*strided[:-1], strided[-1] + 0], path="reference"), strided),
    )


@pytest.mark.parametrize(("cell", "path"), CELLS_AND_PATHS)
def test_autocast_computes_in_its_dtype_and_returns_gradients_in_that_of_the_weights(cell, path):
    index = Index.from_lengths(np.array(lengths_["ragged"]))
    tensors = tensors_for(cell, index, 3, 4, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = run(cell, index, tensors, path=path)
        found = torch.autograd.grad(sum(r.float().sum() for r in results), tensors)
    assert all(r.dtype == torch.bfloat16 for r in results) and all(g.dtype == torch.float32 for g in found)
    same([r.float() for r in results], run(cell, index, tensors), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", FAST)
def test_a_backward_is_in_the_dtype_of_its_forward(cell, path):
    index = Index.from_lengths(np.array(lengths_["ragged"]))
    tensors = tensors_for(cell, index, 3, 4, dtype=torch.float32)
    outputs = run(cell, index, tensors, path=path)[0]
    expected = torch.autograd.grad(outputs.sum(), tensors[:4], retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(torch.autograd.grad(outputs.sum(), tensors[:4]), expected, rtol=1e-6, atol=1e-6)


def test_a_custom_activation_runs_in_the_dtype_of_autocast_and_not_under_it():
    index, under = Index.from_lengths(np.array([2])), []

    def activation(x):
        under.append((x.dtype, torch.is_autocast_enabled("cpu")))
        return torch.tanh(x)

    tensors = tensors_for("lstm", index, 2, 2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run("lstm", index, tensors, activation=activation)
    assert set(under) == {(torch.bfloat16, False)}


def test_paths_are_named_and_refused_by_name():
    index = Index.from_lengths(np.array([1], dtype=np.int64))
    lstm, gru = tensors_for("lstm", index, 2, 2), tensors_for("gru", index, 2, 2)
    with pytest.raises(ArgumentError, match="Did you mean 'manual'"):
        run("lstm", index, lstm, path="manul")
    with pytest.raises(ArgumentError, match="path='reference'"):
        run("lstm", index, lstm, path="manual", activation=torch.relu)
    with pytest.raises(ShapeError, match=r"reset_after=False .* \(3 \* units,\); got \(2, 6\)"):
        run("gru", index, gru, reset_after=False)


@pytest.mark.parametrize(
    ("cell", "options", "path"),
    [
        ("lstm", {}, "manual"),
        ("lstm", {"activation": torch.relu}, "reference"),
        ("lstm", {"recurrent_activation": torch.tanh}, "reference"),
        ("lstm", {"recurrent_masks": torch.ones(4, 1, 2, dtype=torch.float64)}, "reference"),
        ("lstm", {"path": "reference"}, "reference"),
        ("gru", {}, "manual"),
        ("gru_before", {}, "reference"),
        ("relu", {}, "manual"),
    ],
)
def test_the_path_is_chosen_by_what_the_cell_computes(cell, options, path):
    index = Index.from_lengths(np.array([2]))
    tensors = tensors_for(cell, index, 2, 2)
    taken = []

    def watched(name, real):
        return lambda *given: taken.append(name) or real(*given)

    paths = {
        name: api.RecurrentPath(p.supports, *(watched(name, getattr(p, cell)) for cell in ("lstm", "gru", "simple_rnn")))
        for name, p in api.PATHS.items()
    }
    with patch.dict(api.PATHS, paths):
        run(cell, index, tensors, **options)
    assert taken == [path]


# Others' numbers


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_equal_lengths_agree_with_torch(cell):
    rows, steps, features, units = 3, 4, 2, 5
    index = Index(np.ones((rows, steps), dtype=bool))
    tensors = tensors_for(cell, index, features, units)
    values, kernel, recurrent, bias, *states = tensors
    layer = (torch.nn.LSTM if cell == "lstm" else torch.nn.GRU)(features, units, batch_first=True).double()
    order = [0, 1, 2, 3] if cell == "lstm" else [1, 0, 2]  # torch's GRU has r before z
    pick = torch.cat([torch.arange(units) + gate * units for gate in order])
    both = bias if cell == "gru" else torch.stack([bias, torch.zeros_like(bias)])
    weights = dict(
        zip(
            ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"),
            (kernel.t()[pick], recurrent.t()[pick], both[0][pick], both[1][pick]),
            strict=True,
        )
    )
    first = tuple(s[None] for s in states) if cell == "lstm" else states[0][None]
    grid, last = torch.func.functional_call(layer, weights, (values.reshape(rows, steps, features), first))
    theirs = [grid.reshape(-1, units), *(s[0] for s in (last if cell == "lstm" else (last,)))]
    ours = run(cell, index, tensors, path="manual")
    same(ours, theirs)
    same(gradients(ours, tensors), gradients(theirs, tensors))


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_before", "simple_rnn"])
def test_masked_keras_layers_agree_at_the_real_steps(cell):
    os.environ["KERAS_BACKEND"] = "torch"
    keras = pytest.importorskip("keras")
    name = {"lstm": "LSTM", "simple_rnn": "SimpleRNN"}.get(cell, "GRU")
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]], dtype=bool)
    index, units = Index(mask), 3
    tensors = [t.detach().float() for t in tensors_for(cell, index, 2, units)]
    layer = getattr(keras.layers, name)(units, return_sequences=True, return_state=True, **OPTIONS.get(cell, {}))
    layer.build((None, None, 2))
    layer.set_weights([t.numpy() for t in tensors[1:4]])
    grid = torch.zeros(3, 4, 2)
    grid[torch.from_numpy(mask)] = tensors[0]
    grid, *last = layer(grid, mask=torch.from_numpy(mask), initial_state=tensors[4:])
    same(run(cell, index, tensors), [grid[torch.from_numpy(mask)], *last], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_before", "simple_rnn"])
def test_keras_cells_use_as_many_recurrent_masks_and_in_the_same_places(cell):
    os.environ["KERAS_BACKEND"] = "torch"
    keras = pytest.importorskip("keras")
    name = {"lstm": "LSTM", "simple_rnn": "SimpleRNN"}.get(cell, "GRU") + "Cell"
    index, units = Index(np.ones((3, 1), dtype=bool)), 4
    tensors = [t.detach().float() for t in tensors_for(cell, index, 2, units)]
    theirs = getattr(keras.layers, name)(units, recurrent_dropout=0.5, **OPTIONS.get(cell, {}))
    theirs.build((None, 2))
    theirs.set_weights([t.numpy() for t in tensors[1:4]])
    masks = theirs._create_dropout_mask(torch.ones(3, units), 0.5)
    theirs._recurrent_dropout_mask = masks
    masks = torch.stack(masks) if isinstance(masks, list) else masks[None]
    assert len(masks) == GATES[cell]
    output, states = theirs(tensors[0], tensors[4:], training=True)
    same(run(cell, index, tensors, recurrent_masks=masks), [output, *states], rtol=1e-5, atol=1e-5)


# The generic scan


@given(indexes(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_scan_tells_a_step_which_rows_it_has(index, reverse):
    """A cell with two states of different shapes that writes down row numbers and counts steps."""
    numbers = torch.arange(index.shape[0])
    values = torch.from_numpy(index.rows)[:, None, None].expand(-1, 2, 3)

    def step(x, states, rows):
        assert torch.equal(x[:, 0, 0], rows) and torch.equal(states[0][:, 0], numbers[rows])
        return torch.stack([states[1], rows], 1), (states[0], states[1] + 1)

    initial = (numbers[:, None], torch.zeros_like(numbers))
    outputs, (same_numbers, counts) = reference.scan(values, index, step, initial, reverse=reverse)
    assert torch.equal(same_numbers[:, 0], numbers) and counts.tolist() == index.lengths.tolist()
    counted = np.arange(index.num_steps) - index.offsets[index.rows]
    expected = index.lengths[index.rows] - 1 - counted if reverse else counted
    assert outputs.shape == (index.num_steps, 2)
    assert outputs[:, 0].tolist() == expected.tolist() and outputs[:, 1].tolist() == index.rows.tolist()
