"""An index whose arrays were changed, and tensors that do not fit it, are refused before a kernel reads memory."""

import copy
import pickle

import jaxtyping
import numpy as np
import pytest
import torch
from recurrent_cases import STANDARD_CELLS, index_of, make_float32_tensors, run_cell

import padless
from padless import layers as L
from padless.errors import MaskError, ShapeError
from padless.kernels.attention import native as attention_native
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask
from padless.kernels.conv import native as conv_native
from padless.kernels.native import library
from padless.ragged.index import Index

needs_library = pytest.mark.skipif(library.get_library() is None, reason=padless.backends()["native kernels"])


def forged(name, value):
    """Return an index of 20, 0 and 7 steps with another value in place of one of its arrays."""
    index = copy.copy(index_of([20, 0, 7]))
    setattr(index, name, value)
    return index


FORGED = {
    "beyond the values": forged("offsets", np.array([0, 20, 20, 2000])),
    "far beyond": forged("offsets", np.array([0, 20, 2**62, 27])),
    "backwards": forged("offsets", np.array([0, 25, 20, 27])),
    "before the values": forged("offsets", np.array([-(2**40), 20, 20, 27])),
    "fewer rows": forged("offsets", np.array([0, 27])),
    "more rows": forged("shape", (4, 20)),
}


@needs_library
@pytest.mark.parametrize("name", FORGED)
def test_a_changed_index_is_refused_by_recurrent_cells_and_attention(name):
    index = FORGED[name]
    for cell in STANDARD_CELLS:
        tensors = make_float32_tensors(cell, index_of([20, 0, 7]), 3, 16)
        for reverse in (False, True):
            with pytest.raises((MaskError, ShapeError)):
                run_cell(cell, index, tensors, path="native", reverse=reverse)
    q = torch.randn(27, 2, 16)
    if attention_native.supports(q, q, q, index, index, False):
        with pytest.raises(MaskError, match=r"27 rows of the queries .* must not be changed"):
            attend(q, q, q, index, index, AttentionMask())


def test_stale_lengths_do_not_matter():
    """Lengths are computed from offsets once. A changed index must not bring both apart."""
    index = index_of([20, 0, 7])
    assert index.lengths.tolist() == [20, 0, 7]
    index.offsets = np.array([0, 2, 20, 27])
    for cell in STANDARD_CELLS:
        tensors = make_float32_tensors(cell, index, 3, 16)
        results, expected = run_cell(cell, index, tensors), run_cell(cell, index_of([2, 18, 7]), tensors)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@needs_library
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_tensors_that_do_not_fit_are_refused(cell, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the checks of the tests
    index = index_of([20, 0, 7])
    tensors = [t.detach() for t in make_float32_tensors(cell, index, 3, 16)]
    for number, tensor in enumerate(tensors):
        for axis in range(tensor.ndim):
            if (number, axis) == (0, 1):  # then the kernel has another number of features, which is the next case
                continue
            wrong = list(tensors)
            wrong[number] = tensor.narrow(axis, 0, tensor.shape[axis] - 1)
            with pytest.raises(ShapeError, match=r"(needs inputs, kernel|has shape).* got"):
                run_cell(cell, index, wrong)


def test_values_of_another_batch_are_refused():
    with pytest.raises(ShapeError, match="27 real steps"):
        padless.Packed(torch.randn(26, 3), index_of([20, 0, 7]))


@needs_library
def test_windows_beyond_the_line_are_refused():
    line, weights = torch.randn(10, 4), torch.randn(8, 16)
    for windows, numbers in (
        (10, None),
        (9, torch.tensor([9])),
        (9, torch.tensor([0, -1])),
        (100, torch.tensor([0, 99])),
        (9, torch.tensor([2**62])),
    ):
        with pytest.raises(ShapeError, match="a line of 40 numbers"):
            conv_native.convolve_line(line, weights, None, windows, 4, numbers)
    assert conv_native.convolve_line(line, weights, None, 9, 4, torch.tensor([8])).shape == (1, 16)
    assert conv_native.convolve_line(line, weights, None, 9, 4, torch.zeros(0, dtype=torch.int64)).shape == (0, 16)


def test_an_index_with_more_steps_than_values_is_refused_by_layers():
    packed = padless.Packed(torch.randn(27, 16), index_of([20, 0, 7]))
    layer = L.LSTM(16)
    layer(packed)
    packed.index.offsets = np.array([0, 20, 20, 5000])
    with pytest.raises(MaskError, match="must not be changed"):
        layer(packed)


def test_a_pickled_index_is_the_same_index():
    index = Index(np.array([[1, 0, 1], [0, 0, 0]], dtype=bool))
    assert pickle.loads(pickle.dumps(index)).equals(index)


@needs_library
def test_memory_that_is_not_aligned_is_left_to_torch():
    memory = bytearray(4 * 100 + 1)
    unaligned = torch.frombuffer(memory, dtype=torch.float32, offset=1, count=64).view(4, 16)
    assert not library.can_access_memory(unaligned)
    assert library.can_access_memory(torch.zeros(65)[1:])
