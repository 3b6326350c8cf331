"""Check on a GPU: the numbers of the CPU, training, files that go between devices, and a host that never waits.

All tests are skipped without a GPU. What can be checked without one is in test_waits.py, test_recurrent_cudnn.py and
test_attention_varlen.py.
"""

import copy

import numpy as np
import pytest
import torch
from cases import LAYERS, MODELS
from on_device import apart
from recurrent_cases import LENGTHS, STANDARD_CELLS, assert_close, make_tensors, run_cell

import padless
from benchmarks import models
from benchmarks.workloads import WORKLOADS, make_data
from padless.callbacks import LambdaCallback
from padless.kernels.attention import varlen
from padless.kernels.attention.api import attend
from padless.kernels.attention.reference import AttentionMask, attend_by_row
from padless.ragged.index import Index

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def whole_float32():
    """Products of float32 as such; unless told, torch lets cuDNN round them."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("case", [*LAYERS, *MODELS], ids=lambda case: case.name)
def test_numbers_are_those_of_the_cpu(case):
    assert apart(case, CUDA) < 1e-4


def on_cuda(tensors):
    return [None if t is None else t.detach().to(CUDA).requires_grad_() for t in tensors]


@pytest.mark.parametrize("path", ["cudnn", "manual", None])
@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_recurrent_cells_are_the_reference_on_the_cpu(cell, bias, reverse, name, path):
    index = Index.from_lengths(np.array(LENGTHS[name], dtype=np.int64))
    tensors = make_tensors(cell, index, 3, 5, bias=bias)
    given = on_cuda(tensors)
    ours, theirs = (
        run_cell(cell, index, given, reverse=reverse, path=path),
        run_cell(cell, index, tensors, reverse=reverse, path="reference"),
    )
    assert_close([r.cpu() for r in ours], theirs, rtol=1e-9, atol=1e-9)
    upstream = [torch.linspace(-1, 1, max(r.numel(), 1), dtype=r.dtype)[: r.numel()].reshape(r.shape) for r in theirs]
    mine = torch.autograd.grad(ours, [t for t in given if t is not None], [u.to(CUDA) for u in upstream], allow_unused=True)
    wanted = torch.autograd.grad(theirs, [t for t in tensors if t is not None], upstream, allow_unused=True)
    assert_close([None if g is None else g.cpu() for g in mine], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("units", [1, 7, 32, 129, 512])
@pytest.mark.parametrize("cell", STANDARD_CELLS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_weights_of_every_size_lie_as_cudnn_wants_them(cell, units, dtype, tolerance):
    """Otherwise torch warns, and warnings are errors."""
    index = Index(np.random.default_rng(0).random((9, 12)) < 0.7)
    tensors = [t.detach() * units**-0.5 for t in make_tensors(cell, index, 11, units)]
    ours = run_cell(cell, index, [t.to(CUDA, dtype) for t in tensors], path="cudnn")
    assert_close(
        [r.double().cpu() for r in ours], run_cell(cell, index, tensors, path="reference"), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("cell", STANDARD_CELLS)
def test_second_derivatives_are_there(cell):
    index = Index.from_lengths(np.array([2, 1]))
    found = []
    for path, tensors in (
        ("cudnn", on_cuda(make_tensors(cell, index, 2, 2))),
        ("reference", make_tensors(cell, index, 2, 2)),
    ):
        outputs = run_cell(cell, index, tensors, path=path)[0]
        (first,) = torch.autograd.grad(outputs.sum(), tensors[:1], create_graph=True)
        grads = torch.autograd.grad(first.square().sum(), tensors, allow_unused=True)
        found.append([None if g is None else g.cpu() for g in grads])
    assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [8, 32, 128])
def test_attention_over_packed_steps_is_the_reference(size, causal, dtype):
    if not varlen.is_available(CUDA):
        pytest.skip("this device has no varlen_attn")
    index = Index(np.random.default_rng(0).random((6, 40)) < np.array([[0.0], [0.1], [0.5], [0.9], [1.0], [0.0]]))
    given = [torch.randn(index.num_steps, 2, size, device=CUDA).to(dtype).requires_grad_() for _ in range(3)]
    exact = [x.detach().double().cpu().requires_grad_() for x in given]
    assert varlen.supports(*given, index, index, causal)
    ours = attend(*given, index, index, AttentionMask(causal), size**-0.5)[0]
    theirs = attend_by_row(*exact, index, index, AttentionMask(causal), size**-0.5)[0]
    assert_close([ours.double().cpu()], [theirs], rtol=0.03, atol=0.03)
    found = torch.autograd.grad(ours.float().square().sum(), given)
    wanted = torch.autograd.grad(theirs.square().sum(), exact)
    assert_close([g.double().cpu() for g in found], wanted, rtol=0.1, atol=0.1)


# ------------------------------------------------------------------------------------------------ training


def built(name):
    """A workload of the benchmarks, small, with its data."""
    small = WORKLOADS[name].shrink()
    return models.build(padless, small), *make_data(small)


@pytest.mark.parametrize("name", WORKLOADS)
def test_fit_evaluate_and_predict_are_those_of_the_cpu(name):
    here, ids, labels = built(name)
    here.predict(ids, verbose=0)
    there = copy.deepcopy(here).to(CUDA)
    how = {"batch_size": 4, "verbose": 0}
    losses = [m.fit(ids, labels, epochs=2, shuffle=False, **how).history["loss"] for m in (here, there)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    np.testing.assert_allclose(*(m.evaluate(ids, labels, **how) for m in (here, there)), rtol=1e-3)
    np.testing.assert_allclose(*(m.predict(ids, **how) for m in (here, there)), rtol=1e-2, atol=1e-3)
    assert all(w.device.type == "cuda" for w in there.weights)


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_training_in_half_precision_is_nearly_the_same(name, autocast):
    whole, ids, labels = built(name)
    whole.predict(ids, verbose=0)
    half = copy.deepcopy(whole)
    losses = []
    for model, precision in ((whole, None), (half, autocast)):
        model.to(CUDA).compile(
            padless.optimizers.SGD(0.1), padless.losses.SparseCategoricalCrossentropy(from_logits=True), autocast=precision
        )
        losses.append(model.fit(ids, labels, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=0.05)


def test_files_go_between_devices(tmp_path):
    model, ids, _ = built("lstm-128")
    expected = model.to(CUDA).predict(ids, verbose=0)
    model.save(tmp_path / "model.padless")
    model.save_weights(tmp_path / "weights.safetensors")
    loaded = padless.load_model(tmp_path / "model.padless")
    np.testing.assert_allclose(loaded.predict(ids, verbose=0), expected, rtol=1e-4, atol=1e-5)
    other = built("lstm-128")[0]
    other.predict(ids, verbose=0)
    other.to(CUDA).load_weights(tmp_path / "weights.safetensors")
    np.testing.assert_allclose(other.predict(ids, verbose=0), expected, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------ nobody waits


@pytest.fixture
def strict():
    """A callback that makes torch refuse to wait within each step but the first."""

    def begin(batch, logs=None):
        torch.cuda.set_sync_debug_mode("error" if batch else "default")

    def end(batch, logs=None):
        torch.cuda.set_sync_debug_mode("default")
        steps.append(batch)

    steps = []
    made = LambdaCallback(
        on_train_batch_begin=begin, on_train_batch_end=end, on_predict_batch_begin=begin, on_predict_batch_end=end
    )
    made.raw_logs = True  # logs as floats would wait for them
    yield made
    torch.cuda.set_sync_debug_mode("default")
    assert max(steps) > 0, "no step was looked at"


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_no_step_of_training_waits_for_the_device(name, autocast, strict):
    model, ids, labels = built(name)
    model.compile("adam", padless.losses.SparseCategoricalCrossentropy(from_logits=True), autocast=autocast)
    model.predict(ids, verbose=0)
    model.to(CUDA).fit(ids, labels, batch_size=4, epochs=2, verbose=0, callbacks=[strict])


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_step_of_prediction_waits_for_the_device(name, strict):
    model, ids, _ = built(name)
    model.predict(ids, verbose=0)
    model.to(CUDA).predict(ids, batch_size=4, verbose=0, callbacks=[strict])


def test_it_is_refused_where_it_does_wait(strict):
    def step(batch, logs=None):
        if batch:
            torch.ones(2, device=CUDA).sum().item()

    waiting = LambdaCallback(on_predict_batch_end=step)
    model, ids, _ = built("conv")
    model.predict(ids, verbose=0)
    with pytest.raises(RuntimeError, match="synchroniz"):
        model.to(CUDA).predict(ids, batch_size=4, verbose=0, callbacks=[waiting, strict])


def test_cudnn_is_taken_by_itself():
    assert padless.backends()["cudnn"].startswith("yes") is torch.backends.cudnn.is_available()
