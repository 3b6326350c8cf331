"""Every backward written by hand against slopes, in double precision; one without a case here fails."""

import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import padless
from padless.kernels.conv import taps
from padless.kernels.recurrent import api, time_major
from padless.kernels.segment_reduce import segment_max, segment_max_by_row
from padless.ragged import gather as moves
from padless.ragged.index import Index

MASKS = {
    "no columns": np.zeros((2, 0), dtype=bool),
    **{
        name: np.array([[int(c) for c in row] for row in rows], dtype=bool)
        for name, rows in {
            "one step": ["1"],
            "all empty": ["00", "00"],
            "right": ["110", "111"],
            "left": ["011", "001"],
            "holes": ["1011", "0101"],
            "empty rows": ["000", "110", "000", "100"],
        }.items()
    },
}
CELLS = {"lstm": 4, "gru": 3, "simple_rnn": 1}


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


# ------------------------------------------------------------------------------------------------ nobody is left out


def written_by_hand():
    """All classes and operators of the package that bring a backward of their own."""
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(padless.__path__, "padless.")
        if not found.name.endswith("__main__")
    ]
    functions = {
        f"{cls.__module__}.{cls.__qualname__}"
        for module in modules
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, torch.autograd.Function)
    }
    operators = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("padless::")}
    return functions | operators


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
    # in float32 only: test_recurrent_native.py and test_attention_native.py hold them to the reference
    "padless.kernels.recurrent.native._NativeFunction",
    "padless.kernels.attention.native._Attention",
}


def test_every_backward_written_by_hand_has_a_case_here():
    assert written_by_hand() == KNOWN


def test_no_backward_is_registered_where_it_is_not_looked_for():
    for path in Path(padless.__file__).parent.rglob("*.py"):
        found = re.findall(r"register_autograd|register_hook|custom_op|def vjp|autograd\.Function\)", path.read_text())
        assert len(found) == sum(
            name.startswith(f"{path.stem}.") or f".{path.parent.stem}.{path.stem}." in name for name in KNOWN
        ), path


# ------------------------------------------------------------------------------------------------ moves


@given(st.permutations(range(5)), st.integers(0, 5))
@settings(max_examples=15)
def test_moves(order, count):
    rows = numbers(5, 2)
    chosen, whole = torch.tensor(order[:count], dtype=torch.long), torch.tensor(order)
    back = whole.argsort()
    for move in (lambda x: moves.gather_rows(x, chosen), lambda x: moves.permute_rows(x, whole, back)):
        assert torch.autograd.gradcheck(move, (rows,))
        assert torch.autograd.gradgradcheck(move, (rows,))
    source = torch.cat([whole, torch.tensor([0, 3])])  # two more copies, which nobody looks at
    seen = torch.ones(7, 1, dtype=torch.float64)
    seen[5:] = 0
    assert torch.autograd.gradcheck(lambda x: moves.gather_repeated_rows(x, source, back) * seen, (rows,))
    assert torch.autograd.gradgradcheck(lambda x: moves.gather_repeated_rows(x, source, back) * seen, (rows,))
    placed = numbers(count, 2)
    assert torch.autograd.gradcheck(lambda x: moves.scatter_rows(x, chosen, 5), (placed,))
    assert torch.autograd.gradgradcheck(lambda x: moves.scatter_rows(x, chosen, 5), (placed,))


def test_moves_of_nothing():
    nothing = torch.zeros(0, dtype=torch.long)
    assert torch.autograd.gradcheck(lambda x: moves.gather_rows(x, nothing), (numbers(3, 2),))
    assert torch.autograd.gradcheck(lambda x: moves.scatter_rows(x, nothing, 3), (numbers(0, 2),))
    assert torch.autograd.gradcheck(lambda x: moves.permute_rows(x, nothing, nothing), (numbers(0, 2),))


# ------------------------------------------------------------------------------------------------ convolutions


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolutions_by_taps_and_their_gradients_of_gradients(stride, dilation):
    line, kernel, bias = numbers(9, 2), numbers(3, 2, 4), numbers(4)
    count = (9 - 2 * dilation - 1) // stride + 1
    images = line.t()[None], kernel.permute(2, 1, 0)

    def windows(x, w, b):
        return taps.conv_by_taps(x, w, count, (stride, dilation), b)

    assert torch.allclose(windows(line, kernel, bias), torch.nn.functional.conv1d(*images, bias, stride, 0, dilation)[0].t())
    assert torch.autograd.gradcheck(windows, (line, kernel, bias))
    assert torch.autograd.gradgradcheck(windows, (line, kernel, bias))
    given = numbers(count, 4)
    size = (count - 1) * stride + 2 * dilation + 1

    def spread(y, w):
        return taps.conv_transpose_by_taps(y, w, size, (stride, dilation))

    expected = torch.nn.functional.conv_transpose1d(given.t()[None], images[1], None, stride, dilation=dilation)[0].t()
    assert torch.allclose(spread(given, kernel), expected)
    assert torch.autograd.gradcheck(spread, (given, kernel))
    assert torch.autograd.gradgradcheck(spread, (given, kernel))


# ------------------------------------------------------------------------------------------------ segments


@pytest.mark.parametrize("name", MASKS)
def test_the_largest_of_a_sequence(name):
    index = Index(MASKS[name])
    values = numbers(index.num_steps, 2)
    assert torch.autograd.gradcheck(lambda x: segment_max(x, index), (values,))
    assert torch.autograd.gradgradcheck(lambda x: segment_max(x, index).square(), (values,))


def test_equal_largest_numbers_share_the_gradient_as_in_amax():
    index = Index(MASKS["right"])
    values = torch.tensor([[2.0], [2.0], [1.0], [3.0], [3.0]], dtype=torch.float64, requires_grad=True)
    (given,) = torch.autograd.grad(segment_max(values, index).sum(), values)
    (expected,) = torch.autograd.grad(segment_max_by_row(values, index).sum(), values)
    assert torch.equal(given, expected) and given.flatten().tolist() == [0.5, 0.5, 0, 0.5, 0.5]


# ------------------------------------------------------------------------------------------------ scans


def parts(cell, mask, bias, units=2, features=3):
    """What goes into a cell: values, kernel, recurrent kernel, bias, states."""
    index, gates = Index(mask), CELLS[cell] * units
    of_bias = (2, gates) if cell == "gru" else (gates,)
    states = [numbers(len(mask), units, seed=7 + n) for n in range(2 if cell == "lstm" else 1)]
    return index, [
        numbers(index.num_steps, features),
        numbers(features, gates, seed=1),
        numbers(units, gates, seed=2),
        numbers(*of_bias, seed=3) if bias else None,
        *states,
    ]


def runs(cell, index, path="manual", **more):
    def run(values, kernel, recurrent, bias, *states):
        return getattr(api, cell)(values, index, kernel, recurrent, bias, *states, path=path, **more)

    return run


@pytest.mark.parametrize("stretch", [2, 1024])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_scans(cell, reverse, stretch, monkeypatch):
    monkeypatch.setattr(time_major, "CHUNK_STEPS", stretch)
    for name in MASKS if stretch > 2 else ("holes", "empty rows"):
        index, given = parts(cell, MASKS[name], bias=True)
        run = runs(cell, index, reverse=reverse)
        assert torch.autograd.gradcheck(run, given)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_scans_as_cudnn_has_them(cell, reverse):
    for name, mask in MASKS.items():
        index, given = parts(cell, mask, bias=name != "holes")
        assert torch.autograd.gradcheck(runs(cell, index, "cudnn", reverse=reverse), given)


@pytest.mark.parametrize("cell", CELLS)
def test_scans_without_bias(cell):
    index, given = parts(cell, MASKS["holes"], bias=False)
    assert torch.autograd.gradcheck(runs(cell, index), given)


def test_a_scan_with_relu():
    index, given = parts("simple_rnn", MASKS["holes"], bias=True)
    assert torch.autograd.gradcheck(runs("simple_rnn", index, activation=torch.relu), given)


@pytest.mark.parametrize("cell", CELLS)
def test_scans_of_which_only_a_part_needs_gradients(cell):
    index, given = parts(cell, MASKS["empty rows"], bias=True)
    run = runs(cell, index)
    for number in range(len(given)):
        alone = [part if n == number else part.detach() for n, part in enumerate(given)]
        assert torch.autograd.gradcheck(run, alone)
    for output in range(2 + (cell == "lstm")):  # and of which only one result is used
        assert torch.autograd.gradcheck(lambda *args, o=output: run(*args)[o], given)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_scans_have_second_derivatives(cell, reverse):
    for name in ("all empty", "left", "empty rows"):
        index, given = parts(cell, MASKS[name], bias=name != "left")
        assert torch.autograd.gradgradcheck(runs(cell, index, reverse=reverse), given, fast_mode=True)


def test_a_gradient_with_a_gradient_keeps_apart_what_inputs_owe_to_each_other():
    index, (values, kernel, recurrent, bias, h0) = parts("simple_rnn", MASKS["right"], bias=True)

    def run(values):
        return runs("simple_rnn", index)(values, kernel, recurrent, bias, h0 + values[:1, :2])[0]

    assert torch.autograd.gradcheck(run, (values,))
    assert torch.autograd.gradgradcheck(run, (values,))
    alone, followed = (torch.autograd.grad(run(values).sum(), values, create_graph=more)[0] for more in (False, True))
    torch.testing.assert_close(alone, followed)
