"""A step of training or prediction never makes the host wait for the device, counted on a simulated device.

test_cuda.py checks the same on a real one.
"""

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from padless.data.batch import Batch
from padless.ragged.device import host_copy, to_device, to_device_keep_host_copy
from padless.ragged.packed import pack

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
CASES = ("lstm-128", "bilstm", "gru-gaps", "transformer", "conv", "layers", "metrics", "optimizers")


@pytest.fixture(scope="module")
def reports():
    """Return the reports of the simulated device on each case, from another process."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    names = [*CASES, "faults", "cases"]
    process = subprocess.run(
        [sys.executable, "tests/simulated_device.py", *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert not process.returncode, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("case", CASES)
def test_no_step_after_the_first_waits_for_the_device(reports, case):
    report = reports[case]
    assert report["train"] == [] and report["predict"] == []
    assert report["ran"] > 5, "operations on the device in the last batch"


@pytest.mark.parametrize("case", CASES)
def test_numbers_on_a_device_are_those_of_the_cpu(reports, case):
    assert reports[case]["results"] < 1e-5 and reports[case]["outputs"] < 1e-5


def test_every_layer_runs_on_a_device_and_does_not_mix_devices(reports):
    assert len(reports["cases"]) > 300
    assert not {name: case for name, case in reports["cases"].items() if case["mixed"] or not case["difference"] < 1e-5}


def test_the_simulated_device_reports_calls_that_wait(reports):
    faults = dict(reports["faults"])
    assert faults.pop("fine") == []
    assert all(len(waits) == 1 for waits in faults.values()), faults


# ------------------------------------------------------------------------------------------------ copies on the host


class DeviceTensor(torch.Tensor):
    """A copy that replaces a tensor on a device."""


def copy_to_device(x, monkeypatch):
    """Copy a tensor to a simulated device, and keep the host copy."""
    monkeypatch.setattr("padless.ragged.device.to_device", lambda x, device: x.clone().as_subclass(DeviceTensor))
    return to_device_keep_host_copy(x, "cpu")


def test_the_host_copy_is_found_until_either_tensor_is_written_to(monkeypatch):
    ids = torch.tensor([[3, 0]])
    copied = copy_to_device(ids, monkeypatch)
    assert copied is not ids and host_copy(copied) is ids
    assert host_copy(ids) is ids and host_copy(copied + 1).tolist() == [[4, 1]], "a result has no host copy"
    copied.add_(1)
    assert host_copy(copied) is copied
    copied = copy_to_device(ids, monkeypatch)
    ids.add_(1)
    assert host_copy(copied) is copied, "the host copy was written to"


def test_inference_tensors_have_no_host_copy_because_torch_does_not_count_writes(monkeypatch):
    with torch.inference_mode():
        copied = copy_to_device(torch.tensor([[3, 0]]), monkeypatch)
        assert host_copy(copied) is copied


def test_a_batch_keeps_host_copies_of_tensors_and_of_values_of_packed(monkeypatch):
    monkeypatch.setattr("padless.ragged.device.to_device", lambda x, device: x.clone().as_subclass(DeviceTensor))
    plain, packed = torch.tensor([[1, 2]]), pack([[1, 2], [3]])
    batch = Batch({"a": plain, "b": packed}, y=None, rows=2).to("cpu")
    assert host_copy(batch.x["a"]) is plain and host_copy(batch.x["b"].values) is packed.values
    assert batch.x["b"].index is packed.index and batch.y is None


def test_the_host_copy_is_freed_with_the_tensor_on_the_device(monkeypatch):
    ids = torch.tensor([[3, 0]])
    copied, reference = copy_to_device(ids, monkeypatch), weakref.ref(ids)
    del ids
    gc.collect()
    assert reference() is not None and host_copy(copied) is reference()
    del copied
    gc.collect()
    assert reference() is None


def test_a_tensor_that_is_on_the_device_is_returned_as_it_is():
    x = torch.ones(2)
    assert to_device_keep_host_copy(x, "cpu") is x and host_copy(x) is x
    assert to_device(np.arange(4)[::-2], "cpu").tolist() == [3, 1]
