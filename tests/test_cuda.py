"""Check on a GPU: the numbers of the CPU, training, files that go between devices, and steps that never wait for the device.

What can be checked without a GPU is in test_waits.py, test_recurrent_cudnn.py and test_attention_varlen.py.
"""

import copy

import numpy as np
import pytest
import torch
from cases import LAYERS, MODELS
from on_device import largest_difference
from recurrent_cases import LENGTHS, STANDARD_CELLS, assert_close, index_of, make_tensors, run_cell

import padless
from benchmarks import models
from benchmarks.workloads import WORKLOADS, make_data
from padless.callbacks import LambdaCallback
from padless.kernels.attention import varlen
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask, attend_by_row
from padless.ragged.device import to_device
from padless.ragged.index import Index

if not torch.cuda.is_available():
    pytest.skip("torch finds no CUDA device", allow_module_level=True)

CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def full_float32_precision():
    """Switch TF32 off, with which cuDNN rounds the factors of products of float32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


# Numbers


@pytest.mark.parametrize("case", [*LAYERS, *MODELS], ids=lambda case: case.name)
def test_layers_give_the_numbers_of_the_cpu(case):
    assert largest_difference(case, CUDA) < 1e-4


def on_cuda(tensors):
    """Return copies of tensors on CUDA that need gradients."""
    return [None if t is None else t.detach().to(CUDA).requires_grad_() for t in tensors]


def on_cpu(tensors):
    return [None if t is None else t.cpu() for t in tensors]


def without_none(tensors):
    return [t for t in tensors if t is not None]


@pytest.mark.parametrize("path", ["cudnn", "manual", None])
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_recurrent_cells_equal_the_reference_on_the_cpu(cell, path):
    for lengths in LENGTHS.values():
        for reverse in (False, True):
            for bias in (False, True):
                index = index_of(lengths)
                tensors = make_tensors(cell, index, 3, 5, bias=bias)
                cuda_tensors = on_cuda(tensors)
                results = run_cell(cell, index, cuda_tensors, reverse=reverse, path=path)
                expected = run_cell(cell, index, tensors, reverse=reverse, path="reference")
                assert_close(on_cpu(results), expected, rtol=1e-9, atol=1e-9)
                upstream = [torch.linspace(-1, 1, max(r.numel(), 1), dtype=r.dtype)[: r.numel()] for r in expected]
                upstream = [u.reshape(r.shape) for u, r in zip(upstream, expected, strict=True)]
                cuda_upstream = [u.to(CUDA) for u in upstream]
                gradients = torch.autograd.grad(results, without_none(cuda_tensors), cuda_upstream, allow_unused=True)
                expected = torch.autograd.grad(expected, without_none(tensors), upstream, allow_unused=True)
                assert_close(on_cpu(gradients), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_weights_of_every_size_are_in_the_format_of_cudnn(cell):
    """Torch warns about other formats, and warnings are errors."""
    index = Index(np.random.default_rng(0).random((9, 12)) < 0.7)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.15)):
        for units in (1, 7, 32, 129, 512):
            tensors = [t.detach() * units**-0.5 for t in make_tensors(cell, index, 11, units)]
            results = run_cell(cell, index, [t.to(CUDA, dtype) for t in tensors], path="cudnn")
            expected = run_cell(cell, index, tensors, path="reference")
            assert_close([r.double().cpu() for r in results], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_second_derivatives_equal_those_of_the_reference(cell):
    index, gradients = index_of([2, 1]), []
    tensors = make_tensors(cell, index, 2, 2)
    for path, inputs in (("cudnn", on_cuda(tensors)), ("reference", tensors)):
        outputs = run_cell(cell, index, inputs, path=path)[0]
        (first,) = torch.autograd.grad(outputs.sum(), inputs[:1], create_graph=True)
        gradients.append(on_cpu(torch.autograd.grad(first.square().sum(), inputs, allow_unused=True)))
    assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_over_packed_steps_equals_the_reference(causal, dtype):
    if not varlen.is_available(CUDA):
        pytest.skip("this device has no varlen_attn")
    index = Index(np.random.default_rng(0).random((6, 40)) < np.array([[0.0], [0.1], [0.5], [0.9], [1.0], [0.0]]))
    for size in (8, 32, 128):
        tensors = [torch.randn(index.num_steps, 2, size, device=CUDA).to(dtype).requires_grad_() for _ in range(3)]
        exact = [x.detach().double().cpu().requires_grad_() for x in tensors]
        assert varlen.supports(*tensors, index, index, causal)
        sums = attend(*tensors, index, index, AttentionMask(causal), size**-0.5)[0]
        expected = attend_by_row(*exact, index, index, AttentionMask(causal), size**-0.5)[0]
        assert_close([sums.double().cpu()], [expected], rtol=0.03, atol=0.03)
        gradients = torch.autograd.grad(sums.float().square().sum(), tensors)
        expected = torch.autograd.grad(expected.square().sum(), exact)
        assert_close([g.double().cpu() for g in gradients], expected, rtol=0.1, atol=0.1)


# Training


def build_workload(name):
    """Return the model of a benchmark in a small size, its ids and its labels."""
    small = WORKLOADS[name].shrink()
    return models.build(padless, small), *make_data(small)


@pytest.mark.parametrize("name", WORKLOADS)
def test_fit_evaluate_and_predict_give_the_numbers_of_the_cpu(name):
    cpu_model, ids, labels = build_workload(name)
    cpu_model.predict(ids, verbose=0)
    cuda_model = copy.deepcopy(cpu_model).to(CUDA)
    both, options = (cpu_model, cuda_model), {"batch_size": 4, "verbose": 0}
    losses = [m.fit(ids, labels, epochs=2, shuffle=False, **options).history["loss"] for m in both]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    np.testing.assert_allclose(*(m.evaluate(ids, labels, **options) for m in both), rtol=1e-3)
    np.testing.assert_allclose(*(m.predict(ids, **options) for m in both), rtol=1e-2, atol=1e-3)
    assert all(w.device.type == "cuda" for w in cuda_model.weights)


@pytest.mark.parametrize("name", WORKLOADS)
def test_training_in_half_precision_gives_nearly_the_same_loss(name):
    model, ids, labels = build_workload(name)
    model.predict(ids, verbose=0)
    losses = {}
    for autocast in (None, "bfloat16", "float16"):
        copied = copy.deepcopy(model).to(CUDA)
        loss = padless.losses.SparseCategoricalCrossentropy(from_logits=True)
        copied.compile(padless.optimizers.SGD(0.1), loss, autocast=autocast)
        history = copied.fit(ids, labels, batch_size=4, epochs=2, shuffle=False, verbose=0).history
        losses[autocast] = history["loss"]
    for autocast in ("bfloat16", "float16"):
        np.testing.assert_allclose(losses[None], losses[autocast], rtol=0.05)


def test_files_saved_on_one_device_load_on_another(tmp_path):
    model, ids, _ = build_workload("lstm-128")
    expected = model.to(CUDA).predict(ids, verbose=0)
    model.save(tmp_path / "model.padless")
    model.save_weights(tmp_path / "weights.safetensors")
    loaded = padless.load_model(tmp_path / "model.padless")
    np.testing.assert_allclose(loaded.predict(ids, verbose=0), expected, rtol=1e-4, atol=1e-5)
    other = build_workload("lstm-128")[0]
    other.predict(ids, verbose=0)
    other.to(CUDA).load_weights(tmp_path / "weights.safetensors")
    np.testing.assert_allclose(other.predict(ids, verbose=0), expected, rtol=1e-5, atol=1e-6)


# Waiting for the device


@pytest.fixture
def refuse_waiting():
    """Return a callback that makes torch raise where a step waits for the device; the first step may wait."""
    steps = []

    def begin(batch, logs=None):
        torch.cuda.set_sync_debug_mode("error" if batch else "default")

    def end(batch, logs=None):
        torch.cuda.set_sync_debug_mode("default")
        steps.append(batch)

    callback = LambdaCallback(
        on_train_batch_begin=begin, on_train_batch_end=end, on_predict_batch_begin=begin, on_predict_batch_end=end
    )
    callback.raw_logs = True  # logs as floats would wait for them
    yield callback
    torch.cuda.set_sync_debug_mode("default")
    assert max(steps) > 0, "no step was checked"


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_no_training_step_waits_for_the_device(name, autocast, refuse_waiting):
    model, ids, labels = build_workload(name)
    model.compile("adam", padless.losses.SparseCategoricalCrossentropy(from_logits=True), autocast=autocast)
    model.predict(ids, verbose=0)
    model.to(CUDA).fit(ids, labels, batch_size=4, epochs=2, verbose=0, callbacks=[refuse_waiting])


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_prediction_step_waits_for_the_device(name, refuse_waiting):
    model, ids, _ = build_workload(name)
    model.predict(ids, verbose=0)
    model.to(CUDA).predict(ids, batch_size=4, verbose=0, callbacks=[refuse_waiting])


def test_a_step_that_waits_is_noticed(refuse_waiting):
    def wait(batch, logs=None):
        if batch:
            torch.ones(2, device=CUDA).sum().item()

    waiting = LambdaCallback(on_predict_batch_end=wait)
    model, ids, _ = build_workload("conv")
    model.predict(ids, verbose=0)
    with pytest.raises(RuntimeError, match="synchroniz"):
        model.to(CUDA).predict(ids, batch_size=4, verbose=0, callbacks=[waiting, refuse_waiting])


def test_a_pinned_tensor_may_be_filled_again_after_it_was_copied_to_the_device():
    buffer = torch.zeros(2**24).pin_memory()
    torch.cuda._sleep(10**8)  # the copy begins later
    copied = to_device(buffer, CUDA)
    buffer.fill_(1.0)
    assert not copied.any()


def test_cudnn_computes_the_recurrent_layers_where_it_exists():
    assert padless.backends()["cudnn"].startswith("yes") is torch.backends.cudnn.is_available()
