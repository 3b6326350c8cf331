"""The number of threads changes no bit of what the kernels of padless compute.

Products of matrices, and the normalizations of torch, may differ in the last bits; docs/training.md says so.
"""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from recurrent_cases import STANDARD_CELLS, index_of, make_float32_tensors, random_gradients, run_cell

import padless
from padless import layers as L
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask
from padless.kernels.fixed_order_sum import sum_in_fixed_order
from padless.kernels.native import library
from padless.kernels.recurrent import native
from padless.kernels.segment_reduce import segment_max, segment_sum

needs_library = pytest.mark.skipif(library.get_library() is None, reason=padless.backends()["native kernels"])
LENGTHS = [5, 1, 0, 70, 33, 64, 2, *range(80)]


def for_each_number_of_threads(compute):
    """Return what `compute` returns with 1, 2 and 3 threads of torch."""
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(compute())
    finally:
        torch.set_num_threads(1)
    return results


def assert_same_bits(results):
    first, *others = results
    for other in others:
        for number, (a, b) in enumerate(zip(first, other, strict=True)):
            assert torch.equal(a, b), f"#{number} differs by {float((a - b).abs().max())}"


@needs_library
@pytest.mark.parametrize("cell", STANDARD_CELLS)
@pytest.mark.parametrize("lengths", [LENGTHS, [3, 9], [7]])
def test_recurrent_cells(cell, lengths):
    index = index_of(lengths)
    tensors = make_float32_tensors(cell, index, 3, 20)

    def compute():
        results = run_cell(cell, index, tensors, path="native")
        gradients = random_gradients(results, [tensors[0], *tensors[3:]])  # not those of products over all steps
        return [*results, *gradients[1:]]

    assert_same_bits(for_each_number_of_threads(compute))
    expected = compute()
    for threads in (5, 8, 64):  # the work is split for more threads than torch starts here
        with patch.object(torch, "get_num_threads", lambda n=threads: n):
            assert_same_bits([expected, compute()])


@needs_library
def test_the_parts_of_threads_have_whole_rows_of_bias_sums():
    index = index_of(np.random.default_rng(0).integers(0, 50, 300))
    rows = []
    for threads in (1, 2, 3, 7, 64, 500):
        with patch.object(torch, "get_num_threads", lambda n=threads: n):
            parts = native.SequenceParts.of_index(index, False, index.num_steps)
        begin, end = parts.part_offsets[:-1], parts.part_offsets[1:]
        used = [set(parts.bias_rows[a:b].tolist()) for a, b in zip(begin, end, strict=True)]
        assert sum(len(s) for s in used) == len(set().union(*used)) <= parts.num_bias_rows <= native.MAX_BIAS_ROWS
        assert len(parts) == min(threads, native.MAX_BIAS_ROWS)
        steps = [int(parts.lengths[a:b].sum()) for a, b in zip(begin, end, strict=True)]
        assert max(steps) <= index.num_steps / len(parts) + index.num_steps / native.MAX_BIAS_ROWS + 50
        rows.append(parts.bias_rows)
    assert all(torch.equal(rows[0], other) for other in rows)


@needs_library
@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal):
    index = index_of([5, 1, 0, 140, 33, 64, 2])
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(index.num_steps, 4, 16, generator=generator).requires_grad_() for _ in range(3)]

    def compute():
        sums = attend(*tensors, index, index, AttentionMask(causal), 0.25)[0]
        return [sums, *torch.autograd.grad(sums.square().sum(), tensors)]

    assert_same_bits(for_each_number_of_threads(compute))


@pytest.mark.parametrize(("features", "filters"), [(16, 32), (3, 5), (1, 1)])
def test_convolutions(features, filters):
    layer = L.Conv1D(filters, 3, padding="same")
    x = torch.randn(sum(LENGTHS), features, requires_grad=True)
    packed = padless.Packed(x, index_of(LENGTHS))
    layer(packed)

    def compute():
        outputs = layer(packed).values
        return [outputs, torch.autograd.grad(outputs.square().sum(), x)[0]]

    assert_same_bits(for_each_number_of_threads(compute))


def test_sums_over_sequences_and_over_all_steps():
    index, x = index_of([1000, 0, 39_000]), torch.randn(40_000, 3)
    flat = torch.randn(100_003, requires_grad=True)

    def compute():
        total = sum_in_fixed_order(flat)
        gradient = torch.autograd.grad(2 * total, flat)[0]
        return [segment_sum(x, index), segment_max(x, index), total, gradient]

    results = for_each_number_of_threads(compute)
    assert_same_bits(results)
    torch.testing.assert_close(results[0][2].double(), flat.double().sum(), rtol=1e-5, atol=1e-3)
    assert (results[0][3] == 2).all()


def test_the_loss_of_many_steps():
    loss = padless.losses.MeanSquaredError()
    y, x = torch.randn(50_000, 1), torch.randn(50_000, 1)
    assert_same_bits(for_each_number_of_threads(lambda: [loss(y, x)]))
