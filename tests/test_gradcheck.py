"""Compare every backward pass that is written by hand with finite differences, in float64; each must have a case here."""

import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

import padless
from padless.kernels.conv.taps import conv_by_taps, conv_transpose_by_taps
from padless.kernels.recurrent import api, time_major
from padless.kernels.segment_reduce import segment_max, segment_max_by_row
from padless.ragged.gather import gather_repeated_rows, gather_rows, permute_rows, scatter_rows
from padless.ragged.index import Index

pytestmark = pytest.mark.slow

MASKS = {
    "no columns": np.zeros((2, 0), dtype=bool),
    **{
        name: np.array([[int(c) for c in row] for row in rows], dtype=bool)
        for name, rows in {
            "one step": ["1"],
            "all empty": ["00", "00"],
            "right": ["110", "111"],
            "left": ["011", "001"],
            "gaps": ["1011", "0101"],
            "empty rows": ["000", "110", "000", "100"],
        }.items()
    },
}
GATES = {"lstm": 4, "gru": 3, "simple_rnn": 1}
FUNCTIONS = {"lstm": api.lstm, "gru": api.gru, "simple_rnn": api.simple_rnn}


def random_leaf(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


# Every backward pass has a case

KNOWN = {
    "padless.ragged.gather._GatherRows",
    "padless.ragged.gather._ScatterRows",
    "padless.ragged.gather._GatherRepeatedRows",
    "padless.kernels.recurrent.manual._LSTM",
    "padless.kernels.recurrent.manual._GRU",
    "padless.kernels.recurrent.manual._SimpleRNN",
    "padless.kernels.segment_reduce._SegmentMax",
    "padless.kernels.conv.taps._Conv",
    "padless.kernels.conv.taps._ConvTranspose",
    "padless.kernels.conv.taps._KernelGradient",
    "padless.kernels.recurrent.cudnn._CudnnFunction",
    # in float32 only: test_recurrent_native.py and test_attention_native.py compare them with the reference
    "padless.kernels.recurrent.native._NativeFunction",
    "padless.kernels.attention.native._Attention",
}


def backward_passes():
    """Return the names of all autograd functions and operators of the package."""
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.walk_packages(padless.__path__, "padless.")
        if not module.name.endswith("__main__")
    ]
    functions = {
        f"{cls.__module__}.{cls.__qualname__}"
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, torch.autograd.Function)
    }
    operators = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("padless::")}
    return functions | operators


def test_every_backward_pass_has_a_case_here():
    assert backward_passes() == KNOWN


def test_every_backward_pass_is_defined_where_it_is_found():
    """Hooks, operators and nested classes would not be found by `backward_passes`."""
    root = Path(padless.__file__).parent
    for path in root.rglob("*.py"):
        module = ".".join(("padless", *path.relative_to(root).with_suffix("").parts))
        definitions = re.findall(r"register_autograd|register_hook|custom_op|def vjp|autograd\.Function\)", path.read_text())
        assert len(definitions) == sum(name.rpartition(".")[0] == module for name in KNOWN), path


# Gather and scatter


@given(st.permutations(range(5)), st.integers(0, 5))
@settings(max_examples=15)
def test_gather_and_scatter(permutation, count):
    rows = random_leaf(5, 2)
    chosen, order = torch.tensor(permutation[:count], dtype=torch.long), torch.tensor(permutation)
    inverse = order.argsort()
    source = torch.cat([order, torch.tensor([0, 3])])  # two more copies, which are not used
    is_used = torch.ones(7, 1, dtype=torch.float64)
    is_used[5:] = 0
    for function, argument in (
        (lambda x: gather_rows(x, chosen), rows),
        (lambda x: permute_rows(x, order, inverse), rows),
        (lambda x: gather_repeated_rows(x, source, inverse) * is_used, rows),
        (lambda x: scatter_rows(x, chosen, 5), random_leaf(count, 2)),
    ):
        assert gradcheck(function, (argument,))
        assert gradgradcheck(function, (argument,))


def test_gather_and_scatter_of_no_rows():
    no_rows = torch.zeros(0, dtype=torch.long)
    assert gradcheck(lambda x: gather_rows(x, no_rows), (random_leaf(3, 2),))
    assert gradcheck(lambda x: scatter_rows(x, no_rows, 3), (random_leaf(0, 2),))
    assert gradcheck(lambda x: permute_rows(x, no_rows, no_rows), (random_leaf(0, 2),))


# Convolutions


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolutions_by_taps(stride, dilation):
    line, kernel, bias = random_leaf(9, 2), random_leaf(3, 2, 4), random_leaf(4)
    num_windows = (9 - 2 * dilation - 1) // stride + 1
    images, weight = line.t()[None], kernel.permute(2, 1, 0)

    def conv(x, w, b):
        return conv_by_taps(x, w, num_windows, (stride, dilation), b)

    expected = functional.conv1d(images, weight, bias, stride, 0, dilation)[0].t()
    assert torch.allclose(conv(line, kernel, bias), expected)
    assert gradcheck(conv, (line, kernel, bias))
    assert gradgradcheck(conv, (line, kernel, bias))
    outputs = random_leaf(num_windows, 4)
    size = (num_windows - 1) * stride + 2 * dilation + 1

    def conv_transpose(y, w):
        return conv_transpose_by_taps(y, w, size, (stride, dilation))

    expected = functional.conv_transpose1d(outputs.t()[None], weight, None, stride, dilation=dilation)[0].t()
    assert torch.allclose(conv_transpose(outputs, kernel), expected)
    assert gradcheck(conv_transpose, (outputs, kernel))
    assert gradgradcheck(conv_transpose, (outputs, kernel))


# Maxima


def test_the_maximum_of_each_sequence():
    for mask in MASKS.values():
        index = Index(mask)
        values = random_leaf(index.num_steps, 2)
        assert gradcheck(lambda x, index=index: segment_max(x, index), (values,))
        assert gradgradcheck(lambda x, index=index: segment_max(x, index).square(), (values,))


def test_equal_maxima_share_the_gradient_as_in_amax():
    index = Index(MASKS["right"])
    values = torch.tensor([[2.0], [2.0], [1.0], [3.0], [3.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(segment_max(values, index).sum(), values)
    (expected,) = torch.autograd.grad(segment_max_by_row(values, index).sum(), values)
    assert torch.equal(gradient, expected) and gradient.flatten().tolist() == [0.5, 0.5, 0, 0.5, 0.5]


# Recurrent cells


def cell_inputs(cell, mask, bias, units=2, features=3):
    """Return an index, and values, kernel, recurrent kernel, bias and initial states."""
    index, columns = Index(mask), GATES[cell] * units
    bias_shape = (2, columns) if cell == "gru" else (columns,)
    states = [random_leaf(len(mask), units, seed=7 + n) for n in range(2 if cell == "lstm" else 1)]
    return index, [
        random_leaf(index.num_steps, features),
        random_leaf(features, columns, seed=1),
        random_leaf(units, columns, seed=2),
        random_leaf(*bias_shape, seed=3) if bias else None,
        *states,
    ]


def cell_function(cell, index, path="manual", **options):
    """Return a cell as a function of its tensors."""

    def run(values, kernel, recurrent, bias, *states):
        return FUNCTIONS[cell](values, index, kernel, recurrent, bias, *states, path=path, **options)

    return run


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_cells_on_the_manual_path(cell, reverse, monkeypatch):
    for chunk_steps, names in ((1024, MASKS), (2, ("gaps", "empty rows"))):
        monkeypatch.setattr(time_major, "CHUNK_STEPS", chunk_steps)
        for name in names:
            index, tensors = cell_inputs(cell, MASKS[name], bias=True)
            assert gradcheck(cell_function(cell, index, reverse=reverse), tensors)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_cells_on_the_cudnn_path(cell, reverse):
    for name, mask in MASKS.items():
        index, tensors = cell_inputs(cell, mask, bias=name != "gaps")
        assert gradcheck(cell_function(cell, index, "cudnn", reverse=reverse), tensors)


@pytest.mark.parametrize("cell", GATES)
def test_cells_without_bias(cell):
    index, tensors = cell_inputs(cell, MASKS["gaps"], bias=False)
    assert gradcheck(cell_function(cell, index), tensors)


def test_a_simple_rnn_with_relu():
    index, tensors = cell_inputs("simple_rnn", MASKS["gaps"], bias=True)
    assert gradcheck(cell_function("simple_rnn", index, activation=torch.relu), tensors)


@pytest.mark.parametrize("cell", GATES)
def test_cells_of_which_one_tensor_needs_a_gradient_or_one_result_is_used(cell):
    index, tensors = cell_inputs(cell, MASKS["empty rows"], bias=True)
    run = cell_function(cell, index)
    for number in range(len(tensors)):
        assert gradcheck(run, [x if n == number else x.detach() for n, x in enumerate(tensors)])
    for number in range(2 + (cell == "lstm")):
        assert gradcheck(lambda *args, number=number: run(*args)[number], tensors)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_cells_have_second_derivatives(cell, reverse):
    for name in ("all empty", "left", "empty rows"):
        index, tensors = cell_inputs(cell, MASKS[name], bias=name != "left")
        assert gradgradcheck(cell_function(cell, index, reverse=reverse), tensors, fast_mode=True)


def test_second_derivatives_count_inputs_that_depend_on_each_other_once():
    index, (values, kernel, recurrent, bias, h0) = cell_inputs("simple_rnn", MASKS["right"], bias=True)

    def run(values):
        return cell_function("simple_rnn", index)(values, kernel, recurrent, bias, h0 + values[:1, :2])[0]

    assert gradcheck(run, (values,))
    assert gradgradcheck(run, (values,))
    a, b = (torch.autograd.grad(run(values).sum(), values, create_graph=graph)[0] for graph in (False, True))
    torch.testing.assert_close(a, b)
