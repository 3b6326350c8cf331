"""Training that is killed at any moment continues to the same bits; files are complete or do not exist."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from killed import CASES

from padless.saving import safetensors_io as archive

pytestmark = pytest.mark.slow

WRITING = [
    "half is written",
    "before it is synced",
    "before it is moved",
    "after it is moved",
    "before an old one is deleted",
]
KILLS = {
    "every two batches": [
        [["half is written", 1], ["before it is synced", 2], ["a batch ends", 2], ["in validation", 0]],
        [["before it is moved", 3], ["after it is moved", 1], ["before an old one is deleted", 1], ["an epoch begins", 1]],
    ],
    "every epoch": [
        [["a batch begins", 7], ["validation begins", 0], ["an epoch ends", 1], ["half is written", 0]],
        [["validation ends", 1], ["an epoch ends", 0], ["after it is moved", 0], ["training ends", 0]],
    ],
    "by tokens": [
        [["a batch begins", 3], ["a batch ends", 5], ["in validation", 1], ["half is written", 2], ["an epoch ends", 0]],
    ],
    "a loader": [[["a batch ends", 3], ["an epoch ends", 0], ["a batch begins", 4], ["validation ends", 0]]],
    "epochs of their own length": [[["a batch ends", 2], ["an epoch ends", 1], ["before it is moved", 2]]],
    "three batches a step": [[["a batch ends", 4], ["half is written", 1], ["an epoch ends", 1]]],
    "half precision": [[["a batch ends", 3], ["validation ends", 1]]],
    "averages and a schedule": [[["a batch ends", 6], ["in validation", 1], ["half is written", 1]]],
}


@pytest.fixture(scope="module")
def killed():
    """Yield a function that runs a job in a process that forks the processes to be killed."""
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here.parent)}
    process = subprocess.Popen(
        [sys.executable, str(here / "killed.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdin and process.stdout

    def run(case, folder, kills):
        folder.mkdir()
        job = {"case": case, "folder": str(folder), "out": str(folder / "end.safetensors"), "kills": kills}
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        ends = json.loads(process.stdout.readline())
        return ends, archive.read(job["out"]) if ends[-1] == 0 else None

    yield run
    process.stdin.close()
    process.stdout.close()
    process.wait()


def test_runs_are_killed_at_all_kinds_of_moments():
    moments = [moment for chains in KILLS.values() for chain in chains for moment, _ in chain]
    assert len(moments) >= 20 and set(KILLS) == set(CASES)
    for kind in (
        WRITING,
        ["a batch begins", "a batch ends"],
        ["validation begins", "in validation", "validation ends"],
        ["an epoch ends", "an epoch begins", "training ends"],
    ):
        assert sum(moment in kind for moment in moments) >= 3
    assert len(KILLS["by tokens"][0]) >= 3


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_continues_to_the_same_bits(case, killed, tmp_path):
    ends, whole = killed(case, tmp_path / "whole", [])
    assert ends == [0]
    for number, kills in enumerate(KILLS[case]):
        ends, end = killed(case, tmp_path / f"killed {number}", kills)
        assert ends == [-9] * len(kills) + [0]
        assert end[1] == whole[1]  # history and the lines of the log, number for number
        assert list(end[0]) == list(whole[0]) and all(end[0][name].equal(whole[0][name]) for name in whole[0])
        assert not (tmp_path / f"killed {number}" / "backup").exists()
