"""Layouts that are cached for an index: eight threads may share them, and they are dropped with the index."""

import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import padless
from padless import layers as L
from padless.kernels.attention.grouped import attention_layout
from padless.kernels.conv.plan import crop_spans, pad_spans, repeat_cells, window_layout
from padless.kernels.conv.windows import Window
from padless.kernels.index_cache import IndexCache
from padless.ragged.index import Index

THREADS = 8
MASK = np.random.default_rng(0).random((6, 20)) < 0.6


@pytest.fixture(autouse=True)
def switch_threads_often():
    """Let Python switch threads about every microsecond, so that a race is likely to show."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_in_threads(function):
    """Call a function in eight threads at the same moment, and return the results."""
    barrier = threading.Barrier(THREADS)

    def run():
        barrier.wait()
        return function()

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(run) for _ in range(THREADS)]
        return [future.result() for future in futures]


def test_threads_get_the_value_that_was_stored_first():
    cache, barrier = IndexCache(), threading.Barrier(THREADS)

    def compute():
        barrier.wait()  # all threads miss the entry
        return object()

    index = Index(MASK)
    with ThreadPoolExecutor(THREADS) as pool:
        values = [future.result() for future in [pool.submit(cache.get, index, "key", compute) for _ in range(THREADS)]]
    assert len(set(map(id, values))) == 1
    assert cache.get(index, "key", object) is values[0]
    assert cache.get(index, "another key", object) is not values[0]


@pytest.mark.slow
def test_threads_share_one_layout_of_an_index():
    cpu, window = torch.device("cpu"), Window(3, 2)
    for _ in range(20):
        index, other = Index(MASK), Index(~MASK)
        for function in (
            lambda index=index: window_layout(index, window),
            lambda index=index: crop_spans(index, 1, 1)[1],
            lambda index=index: pad_spans(index, 1, 1)[1],
            lambda index=index: repeat_cells(index, 2),
            lambda index=index, other=other: attention_layout(index, other, cpu),
        ):
            assert len(set(map(id, run_in_threads(function)))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "make",
    [
        lambda: L.LSTM(16, return_sequences=True),
        lambda: L.Conv1D(16, 3, strides=2),
        lambda: L.MaxPooling1D(2),
        lambda: L.MultiHeadAttention(2, 16),
        lambda: L.ZeroPadding1D(1),
    ],
)
def test_eight_threads_call_one_layer_on_one_batch(make, dtype):
    """Outputs and gradients are those of a single thread, whichever thread computes a layout first."""
    layer, values = make(), torch.randn(*MASK.shape, 16, dtype=dtype)

    def outputs_and_gradient(packed):
        inputs = packed.with_values(packed.values.clone().requires_grad_())
        output = layer(inputs, inputs) if isinstance(layer, L.MultiHeadAttention) else layer(inputs)
        return output.values.detach(), *torch.autograd.grad(output.values.square().sum(), inputs.values)

    outputs_and_gradient(padless.pack(values.float(), MASK))  # builds the layer
    layer.to(dtype)
    expected = outputs_and_gradient(padless.pack(values, MASK))
    for _ in range(5):
        packed = padless.pack(values, MASK)  # a new index, for which nothing is cached
        for result in run_in_threads(lambda packed=packed: outputs_and_gradient(packed)):
            for a, b in zip(result, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_threads_that_create_and_drop_indexes_do_not_disturb_each_other():
    cache, shared = IndexCache(), Index(MASK)
    cache.get(shared, 0, lambda: "shared")

    def use():
        for number in range(200):
            index = Index(MASK)
            assert cache.get(index, number, lambda number=number: number) == number
            assert cache.get(shared, 0, lambda: "another") == "shared"
            del index

    run_in_threads(use)
    gc.collect()
    assert len(cache) == 1


@pytest.mark.slow
def test_an_entry_is_dropped_with_its_index():
    cache, index = IndexCache(), Index(MASK)
    cache.get(index, "key", object)
    assert len(cache) == 1
    del index
    gc.collect()
    assert len(cache) == 0
