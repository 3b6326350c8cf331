"""Recurrent cells by torch's packed functions: the weights that cuDNN needs, and when the path is chosen.

test_recurrent.py compares the numbers with the reference, on the CPU. test_cuda.py compares them on CUDA.
"""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from recurrent_cases import STANDARD_CELLS, assert_close, index_of, make_tensors, random_gradients, run_cell
from torch._subclasses import FakeTensorMode

import padless
from padless.kernels.recurrent import api, cudnn
from padless.ragged.index import Index

SPECS = {"lstm": cudnn.LSTM, "gru": cudnn.GRU, "simple_rnn": cudnn.TANH_RNN, "relu": cudnn.RELU_RNN}


def on_cuda(dtype=torch.float32):
    """Return a tensor without numbers that says it is on CUDA."""
    with FakeTensorMode():
        return torch.empty(2, 2, device="cuda", dtype=dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_weights_fill_one_buffer_in_the_order_of_cudnn(cell, bias):
    _, kernel, recurrent, bias, *_ = make_tensors(cell, index_of([2]), 3, 5, bias=bias)
    weights = cudnn._weights_in_one_buffer(SPECS[cell], kernel, recurrent, bias)
    columns, size = recurrent.shape[1], weights[0].element_size()
    assert [tuple(w.shape) for w in weights] == [(columns, 3), (columns, 5), (columns,), (columns,)]
    assert [w.storage_offset() for w in weights] == [0, columns * 3, columns * 8, columns * 9]
    assert len({w.untyped_storage().data_ptr() for w in weights}) == 1
    assert weights[0].untyped_storage().nbytes() == columns * 10 * size, "cuDNN's number of parameters"
    assert all(w.is_contiguous() for w in weights)


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_states_are_contiguous_and_train_is_set_where_gradients_are_needed(cell, needs_grad):
    index = index_of([1, 0, 3])
    tensors = [t.detach().requires_grad_(needs_grad) for t in make_tensors(cell, index, 2, 3)]
    calls, function = [], SPECS[cell].function

    def record(data, sizes, states, weights, biases, layers, dropout, train, bidirectional):
        calls.append((data, sizes, states, train))
        return function(data, sizes, states, weights, biases, layers, dropout, train, bidirectional)

    with patch.dict(vars(SPECS[cell]), function=record):
        run_cell(cell, index, tensors, path="cudnn")
    ((data, sizes, states, train),) = calls
    assert train is needs_grad, "cuDNN keeps nothing for a backward pass unless it trains"
    assert data.is_contiguous() and sizes.device.type == "cpu" and sizes.tolist() == [2, 1, 1]
    assert all(s.is_contiguous() and tuple(s.shape) == (1, 2, 3) for s in (states if cell == "lstm" else [states]))


@pytest.mark.slow
def test_it_is_chosen_on_cuda_for_standard_cells():
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        assert api._choose_path("lstm", None, True, on_cuda(dtype)) == "cudnn"
    assert api._choose_path("gru", None, False, on_cuda()) == "reference"
    assert api._choose_path("lstm", "manual", True, on_cuda()) == "manual"
    assert api._choose_path("lstm", None, True, torch.zeros(2, 2, dtype=torch.float64)) == "manual"
    with torch.backends.cudnn.flags(enabled=False):
        assert api._choose_path("simple_rnn", None, True, on_cuda()) == "manual"


def test_a_second_backward_pass_without_retain_graph_is_refused():
    index = index_of([2, 1])
    total = run_cell("lstm", index, make_tensors("lstm", index, 2, 3), path="cudnn")[0].sum()
    total.backward()
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_weights_that_change_before_the_backward_pass_are_refused():
    index = index_of([2, 1])
    tensors = make_tensors("lstm", index, 2, 3)
    total = run_cell("lstm", index, tensors, path="cudnn")[0].sum()
    with torch.no_grad():
        tensors[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_float32_equals_the_reference_to_1e_5(cell):
    index = Index(np.random.default_rng(0).random((9, 12)) < 0.6)
    tensors = [t.detach().mul(0.4).float().requires_grad_() for t in make_tensors(cell, index, 5, 6)]
    results, expected = (run_cell(cell, index, tensors, path=path) for path in ("cudnn", "reference"))
    assert_close(results, expected, rtol=1e-5, atol=1e-5)
    assert_close(random_gradients(results, tensors), random_gradients(expected, tensors), rtol=1e-5, atol=1e-5)


def test_backends_reports_whether_cudnn_is_used():
    assert padless.backends()["cudnn"].startswith("yes" if torch.cuda.is_available() else "no")
