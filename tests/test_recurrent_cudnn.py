"""The scan by torch's packed functions: what cuDNN asks of weights, and when the path is taken.

Its numbers stand in test_recurrent.py beside those of the other paths, on the CPU; on CUDA in test_cuda.py.
"""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from test_recurrent import FAST, gradients, run, same, tensors_for
from torch._subclasses import FakeTensorMode

import padless
from padless.kernels.recurrent import api, cudnn
from padless.ragged.index import Index

CELLS = {"lstm": cudnn.LSTM, "gru": cudnn.GRU, "simple_rnn": cudnn.TANH_RNN, "relu": cudnn.RELU_RNN}


def on_cuda(dtype=torch.float32):
    """A tensor without numbers that says it is on CUDA."""
    with FakeTensorMode():
        return torch.empty(2, 2, device="cuda", dtype=dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cell", FAST)
def test_weights_stand_in_one_buffer_from_its_beginning_to_its_end(cell, bias):
    index = Index.from_lengths(np.array([2]))
    _, kernel, recurrent, given, *_ = tensors_for(cell, index, 3, 5, bias=bias)
    weights = cudnn._weights_in_one_buffer(CELLS[cell], kernel, recurrent, given)
    columns, size = recurrent.shape[1], weights[0].element_size()
    assert [tuple(w.shape) for w in weights] == [(columns, 3), (columns, 5), (columns,), (columns,)]
    begins = [w.storage_offset() for w in weights]
    assert begins == [0, columns * 3, columns * 8, columns * 9]
    assert len({w.untyped_storage().data_ptr() for w in weights}) == 1
    assert weights[0].untyped_storage().nbytes() == columns * 10 * size, "cuDNN's count of all parameters"
    assert all(w.is_contiguous() for w in weights)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("cell", FAST)
def test_states_are_contiguous_and_training_is_said_where_a_gradient_is_wanted(cell, grad):
    index = Index.from_lengths(np.array([1, 0, 3]))
    tensors = [t.detach().requires_grad_(grad) for t in tensors_for(cell, index, 2, 3)]
    seen, real = [], CELLS[cell].function

    def watched(data, sizes, states, weights, biases, layers, dropout, train, both):
        seen.append((data, sizes, states, train))
        return real(data, sizes, states, weights, biases, layers, dropout, train, both)

    with patch.dict(vars(CELLS[cell]), function=watched):
        run(cell, index, tensors, path="cudnn")
    ((data, sizes, states, train),) = seen
    assert train is grad, "cuDNN keeps nothing for a backward unless it trains"
    assert data.is_contiguous() and sizes.device.type == "cpu" and sizes.tolist() == [2, 1, 1]
    assert all(s.is_contiguous() and tuple(s.shape) == (1, 2, 3) for s in (states if cell == "lstm" else [states]))


def test_it_is_taken_on_cuda_for_what_it_can_compute():
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        assert api._choose_path("lstm", None, True, on_cuda(dtype)) == "cudnn"
    assert api._choose_path("gru", None, False, on_cuda()) == "reference"
    assert api._choose_path("lstm", "manual", True, on_cuda()) == "manual"
    assert api._choose_path("lstm", None, True, torch.zeros(2, 2, dtype=torch.float64)) == "manual"
    with torch.backends.cudnn.flags(enabled=False):
        assert api._choose_path("simple_rnn", None, True, on_cuda()) == "manual"


def test_a_second_backward_without_retaining_is_refused():
    index = Index.from_lengths(np.array([2, 1]))
    tensors = tensors_for("lstm", index, 2, 3)
    total = run("lstm", index, tensors, path="cudnn")[0].sum()
    total.backward()
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_weights_changed_between_forward_and_backward_are_refused():
    index = Index.from_lengths(np.array([2, 1]))
    tensors = tensors_for("lstm", index, 2, 3)
    total = run("lstm", index, tensors, path="cudnn")[0].sum()
    with torch.no_grad():
        tensors[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("cell", FAST)
def test_float32_is_the_reference_to_1e_5(cell):
    index = Index(np.random.default_rng(0).random((9, 12)) < 0.6)
    made = tensors_for(cell, index, 5, 6)
    tensors = [t.detach().mul(0.4).float().requires_grad_() for t in made]
    ours, theirs = (run(cell, index, tensors, path=path) for path in ("cudnn", "reference"))
    same(ours, theirs, rtol=1e-5, atol=1e-5)
    same(gradients(ours, tensors), gradients(theirs, tensors), rtol=1e-5, atol=1e-5)


def test_backends_says_what_becomes_of_it():
    assert padless.backends()["cudnn"].startswith("yes" if torch.cuda.is_available() else "no")
