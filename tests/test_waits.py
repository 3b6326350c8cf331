"""A step of training or of prediction never makes the host wait for the device: counted on a pretended one.

The real one is asked in test_cuda.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from padless.data.batch import Batch
from padless.ragged.device import host_copy, to_device, to_device_keep_host_copy
from padless.ragged.packed import pack

ROOT = Path(__file__).parent.parent
CASES = ("lstm-128", "bilstm", "gru-gaps", "transformer", "conv", "layers", "metrics", "optimizers")


@pytest.fixture(scope="module")
def reports():
    """What the pretended device tells of each case, from a process of its own."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    names = [*CASES, "faults", "cases"]
    done = subprocess.run(
        [sys.executable, "tests/pretend.py", *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_no_step_after_the_first_waits_for_the_device(reports, case):
    report = reports[case]
    assert report["train"] == [] and report["predict"] == []
    assert report["ran"] > 5, "operations on the device in the last batch"


@pytest.mark.parametrize("case", CASES)
def test_numbers_on_a_device_are_those_of_the_cpu(reports, case):
    assert reports[case]["results"] < 1e-5 and reports[case]["outputs"] < 1e-5


def test_every_layer_runs_on_a_device_and_mixes_none(reports):
    assert len(reports["cases"]) > 300
    assert not {name: found for name, found in reports["cases"].items() if found["mixed"] or not found["apart"] < 1e-5}


def test_the_pretended_device_tells_of_what_waits(reports):
    told = dict(reports["faults"])
    assert told.pop("fine") == []
    assert all(len(waits) == 1 for waits in told.values()), told


# ------------------------------------------------------------------------------------------------ what the host still has


class There(torch.Tensor):
    """A tensor that left the host: a copy."""


def sent(x, monkeypatch):
    """What a device would get, while the host keeps its own."""
    monkeypatch.setattr("padless.ragged.device.to_device", lambda x, device: x.clone().as_subclass(There))
    return to_device_keep_host_copy(x, "cpu")


def test_what_was_sent_is_known_until_it_is_written_to(monkeypatch):
    ids = torch.tensor([[3, 0]])
    there = sent(ids, monkeypatch)
    assert there is not ids and host_copy(there) is ids
    assert host_copy(ids) is ids and host_copy(there + 1).tolist() == [[4, 1]], "what is made of it is another"
    there.add_(1)
    assert host_copy(there) is there
    there = sent(ids, monkeypatch)
    ids.add_(1)
    assert host_copy(there) is there, "the host's own has changed"


def test_nothing_is_known_where_torch_does_not_count_what_is_written(monkeypatch):
    with torch.inference_mode():
        there = sent(torch.tensor([[3, 0]]), monkeypatch)
        assert host_copy(there) is there


def test_a_batch_tells_of_all_its_leaves_and_of_the_values_of_sequences(monkeypatch):
    monkeypatch.setattr("padless.ragged.device.to_device", lambda x, device: x.clone().as_subclass(There))
    plain, packed = torch.tensor([[1, 2]]), pack([[1, 2], [3]])
    batch = Batch({"a": plain, "b": packed}, y=None, rows=2).to("cpu")
    assert host_copy(batch.x["a"]) is plain and host_copy(batch.x["b"].values) is packed.values
    assert batch.x["b"].index is packed.index and batch.y is None


def test_what_stays_is_the_same_tensor_and_remembers_nothing():
    x = torch.ones(2)
    assert to_device_keep_host_copy(x, "cpu") is x and not hasattr(x, "_known")
    assert to_device(np.arange(4)[::-2], "cpu").tolist() == [3, 1]
