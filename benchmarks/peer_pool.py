"""Run peers in separate processes, in turn, so that other load on the machine slows all of them alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.workloads import Workload

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.05  # seconds in which the threads of one peer go to sleep before the next peer begins


class PeerProcessError(Exception):
    """Raised if a process ends without an answer; the message is the last line of its standard error."""


class PeerProcess:
    """The process of one peer. It receives commands over a pipe until `close`."""

    def __init__(self, name: str, threads: int, device: str) -> None:
        self.error_file = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(threads), device],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.error_file,
            env={**os.environ, **make_environment(threads, device), **PEERS[name].environment},
        )

    def send(self, command: str, **arguments: object) -> dict[str, Any]:
        """Send a command and return its answer."""
        if self.process.stdin is None or self.process.stdout is None:
            raise ValueError("The process was started without pipes.")
        try:
            print(json.dumps({"command": command, **arguments}), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self.process.wait()
            self.error_file.seek(0)
            lines = [line.strip() for line in self.error_file if line.strip()]
            raise PeerProcessError(lines[-1] if lines else f"the process ended with exit code {code}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.error_file.close()


def make_environment(threads: int, device: str) -> dict[str, str]:
    """Return the variables that give all libraries the same number of threads, and a GPU only if it is requested."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC")
    variables = dict.fromkeys(names, str(threads))
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    cpu = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"} if device == "cpu" else {}
    return {**variables, **cpu, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass
class Times:
    """The times of a job in seconds, one for each round: by the clock and CPU time of all threads."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, answer: dict[str, Any], parts: int) -> None:
        """Add a round that had this number of equal parts."""
        self.wall.append(answer["wall"] / parts)
        self.cpu.append(answer["cpu"] / parts)

    @property
    def median(self) -> float:
        """The median by the clock."""
        return median(self.wall)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile by the clock."""
        if len(self.wall) < 2:
            return self.wall[0], self.wall[0]
        low, _, high = quantiles(self.wall, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Job:
    """What is timed.

    Attributes:
        model: The number of the model in the process.
        action: The method of the peer.
        parts: The number of equal parts of the action; a time is that of one part.
        repeat: How often the action runs for one time.
    """

    model: int
    action: str
    parts: int = 1
    repeat: int = 1


class PeerPool:
    """The processes of all peers. A peer that is not installed or fails is excluded, with the reason."""

    def __init__(self, names: Iterable[str], threads: int, device: str) -> None:
        self.excluded: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.processes: dict[str, PeerProcess] = {}
        for name in names:
            missing = PEERS[name].list_missing_packages()
            if missing:
                self.excluded[name] = f"{' and '.join(missing)} not installed"
            else:
                self.processes[name] = PeerProcess(name, threads, device)

    def __enter__(self) -> PeerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.close()

    @property
    def names(self) -> list[str]:
        """The peers that are not excluded, in order."""
        return list(self.processes)

    def send(self, name: str, command: str, **arguments: object) -> dict[str, Any] | None:
        """Send a command to a peer; return its answer, or None if the process has ended."""
        if name not in self.processes:
            return None
        try:
            return self.processes[name].send(command, **arguments)
        except PeerProcessError as error:
            self.exclude(name, str(error))
            return None

    def exclude(self, name: str, reason: str) -> None:
        """End a peer and note the reason."""
        self.excluded[name] = reason
        self.processes.pop(name).close()

    def build(self, model: int, workload: Workload) -> None:
        """Build a model in each process."""
        for name in self.names:
            if workload.kind in PEERS[name].unsupported:
                self.exclude(name, f"has no {workload.title}")
                continue
            answer = self.send(name, "build", model=model, workload=asdict(workload))
            if answer is not None:
                self.versions[name] = answer["versions"]

    def share_weights(self, model: int) -> dict[str, float]:
        """Give all peers the weights of padless, and return the loss of the first batch of each; empty without padless."""
        losses: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "weights.npz")
            first = self.send("padless", "weights", model=model, file=file)
            if first is None:
                return losses
            losses["padless"] = first["loss"]
            for name in self.names:
                if name != "padless" and PEERS[name].has_loss:
                    answer = self.send(name, "load", model=model, file=file)
                    if answer is not None:
                        losses[name] = answer["loss"]
        return losses

    def run_rounds(
        self, jobs: Sequence[Job], rounds: int, after_warm_up: Callable[[], None] = lambda: None
    ) -> dict[tuple[str, Job], Times]:
        """Time all jobs of all peers in rounds, after one round of warm-up.

        Each round begins with another peer than the round before it.

        Args:
            jobs: What is timed.
            rounds: The number of rounds.
            after_warm_up: Called after the round of warm-up.

        Returns:
            The times of each peer and job, for the peers that are not excluded.
        """
        times: dict[tuple[str, Job], Times] = {}
        for number in range(rounds + 1):
            for job in jobs:
                names = [name for name in self.names if job.action in PEERS[name].actions]
                shift = number % max(1, len(names))
                for name in [*names[shift:], *names[:shift]]:
                    answer = self.send(name, "time", model=job.model, action=job.action, repeat=job.repeat)
                    time.sleep(PAUSE)
                    if number > 0 and answer is not None:
                        times.setdefault((name, job), Times()).add(answer, job.parts)
            if number == 0:
                after_warm_up()
        return {(name, job): job_times for (name, job), job_times in times.items() if name in self.processes}
