"""Tensors, references and comparisons for the tests of recurrent cells."""

import numpy as np
import torch
from hypothesis import strategies as st

from padless.kernels.recurrent import api
from padless.ragged.index import Index

GATES = {"lstm": 4, "gru": 3, "gru_before": 3, "simple_rnn": 1, "relu": 1}  # gru_before: reset_after=False
CELLS = tuple(GATES)
STANDARD_CELLS = ("lstm", "gru", "simple_rnn", "relu")  # those that the fast paths compute
FUNCTIONS = {"lstm": api.lstm, "gru": api.gru, "gru_before": api.gru, "simple_rnn": api.simple_rnn, "relu": api.simple_rnn}
OPTIONS = {"gru_before": {"reset_after": False}, "relu": {"activation": torch.relu}}
LENGTHS = {"ragged": [3, 0, 5, 1], "all empty": [0, 0, 0], "no rows": [], "one step": [1], "one row": [4]}


def index_of(lengths):
    """Return the index of right-padded sequences."""
    return Index.from_lengths(np.array(lengths, dtype=np.int64))


def run_cell(cell, index, tensors, **options):
    """Run a cell on values, kernel, recurrent kernel, bias and initial states."""
    values, *others = tensors
    return FUNCTIONS[cell](values, index, *others, **OPTIONS.get(cell, {}), **options)


def make_tensors(cell, index, features, units, seed=0, dtype=torch.float64, bias=True):
    """Return values, kernel, recurrent kernel, bias and initial states; all of them need gradients."""
    columns = GATES[cell] * units
    shapes = [
        (index.num_steps, features),
        (features, columns),
        (units, columns),
        (2, columns) if cell == "gru" else (columns,),
    ]
    shapes += [(index.shape[0], units)] * (2 if cell == "lstm" else 1)
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]
    return tensors if bias else [*tensors[:3], None, *tensors[4:]]


def make_float32_tensors(cell, index, features, units, seed=0, bias=True):
    """Return the same in float32, with weights so small that states do not grow."""

    def scale(number, x):
        return x * len(x) ** -0.5 if number in (1, 2) and len(x) else x

    tensors = make_tensors(cell, index, features, units, seed=seed, bias=bias)
    return [None if t is None else scale(n, t.detach().float()).requires_grad_() for n, t in enumerate(tensors)]


def one_step(cell, x, states, kernel, recurrent, bias, masks=None):
    """Compute one step of one sequence by the textbook, gate by gate; `masks` has one row for each gate."""
    h, units = states[0], len(states[0])

    def products(number, state):
        columns = slice(number * units, (number + 1) * units)
        gate_bias = 0 if bias is None else (bias[0, columns] if bias.ndim == 2 else bias[columns])
        masked = state if masks is None else state * masks[number]
        return x @ kernel[:, columns] + gate_bias, masked @ recurrent[:, columns]

    if cell == "lstm":
        i, f, o = (torch.sigmoid(sum(products(number, h))) for number in (0, 1, 3))
        c = f * states[1] + i * torch.tanh(sum(products(2, h)))
        return o * torch.tanh(c), c
    if cell.startswith("gru"):
        state_bias = [0, 0, 0] if bias is None or bias.ndim == 1 else bias[1].split(units)
        z, r = (torch.sigmoid(sum(products(number, h)) + state_bias[number]) for number in (0, 1))
        if cell == "gru":
            input_product, state_product = products(2, h)
            candidate = torch.tanh(input_product + r * (state_product + state_bias[2]))
        else:
            candidate = torch.tanh(sum(products(2, r * h)))
        return (z * h + (1 - z) * candidate,)
    return ((torch.relu if cell == "relu" else torch.tanh)(sum(products(0, h))),)


def run_each_sequence_alone(cell, index, tensors, reverse=False, masks=None):
    """Compute each sequence by itself, step after step, without a batch and without an order of rows."""
    values, kernel, recurrent, bias, *initial = tensors
    outputs, last_states = [None] * index.num_steps, []
    for row in range(index.shape[0]):
        states = [state[row] for state in initial]
        steps = range(index.offsets[row], index.offsets[row + 1])
        for step in reversed(steps) if reverse else steps:
            row_masks = None if masks is None else masks[:, row]
            states = one_step(cell, values[step], states, kernel, recurrent, bias, row_masks)
            outputs[step] = states[0]
        last_states.append(states)
    empty = values.new_zeros((0, initial[0].shape[1]))
    return [
        torch.stack(outputs) if outputs else empty,
        *(torch.stack([states[n] for states in last_states]) if last_states else empty for n in range(len(initial))),
    ]


def random_gradients(results, tensors, used=None):
    """Return the gradients of a random sum of the results, for the tensors that need them.

    Args:
        results: The results of a cell.
        tensors: Its tensors.
        used: The numbers of the results that are in the sum; None for all.
    """
    generator = torch.Generator().manual_seed(7)
    total = sum(
        (result * torch.randn(result.shape, generator=generator, dtype=result.dtype)).sum()
        for number, result in enumerate(results)
        if used is None or number in used
    )
    inputs = [t for t in tensors if t is not None and t.requires_grad]
    if not total.requires_grad:  # no used result depends on a tensor that needs a gradient
        return [None] * len(inputs)
    return torch.autograd.grad(total, inputs, allow_unused=True)


def assert_close(results, expected, **tolerance):
    """Check that tensors are equal one by one; None is a gradient of zeros."""
    for number, (a, b) in enumerate(zip(results, expected, strict=True)):
        if a is None or b is None:
            assert all(x is None or not x.any() for x in (a, b)), f"#{number}: {a} and {b}"
        else:
            torch.testing.assert_close(a, b, msg=lambda text, number=number: f"#{number}: {text}", **tolerance)


def assert_equal(results, expected):
    """Check that tensors are equal one by one, bit by bit."""
    assert_close(results, expected, rtol=0, atol=0)


def draw_needed(data, tensors):
    """Draw which tensors need gradients, one at least."""
    given = [t for t in tensors if t is not None]
    needed = data.draw(st.sets(st.integers(0, len(given) - 1), min_size=1))
    for number, tensor in enumerate(given):
        tensor.requires_grad_(number in needed)


@st.composite
def indexes(draw):
    """Draw masks with gaps, empty rows, no rows, no columns."""
    rows, columns = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    cells = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    return Index(np.array(cells, dtype=bool).reshape(rows, columns))
