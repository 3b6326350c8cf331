"""Peers in processes of their own, asked in turn: what disturbs the machine disturbs all alike."""

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
PAUSE = 0.05  # seconds in which the threads of one peer fall asleep before the next begins


class PeerProcessError(Exception):
    """A process ended before it answered; the message is the last thing it said."""


class PeerProcess:
    """One peer. It lives until `close`."""

    def __init__(self, name: str, threads: int, device: str) -> None:
        self.said = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", name, str(threads), device],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env={**os.environ, **environment(threads, device), **PEERS[name].environment},
        )

    def ask(self, **order: Any) -> dict[str, Any]:
        """One order, one answer."""
        if self.process.stdin is None or self.process.stdout is None:
            raise ValueError("the process was started without pipes")
        try:
            print(json.dumps(order), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = self.process.wait()
            self.said.seek(0)
            lines = self.said.read().split("\n")
            raise PeerProcessError(next((line.strip() for line in reversed(lines) if line.strip()), f"it ended with {code}"))
        return json.loads(answer)

    def close(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.said.close()


def environment(threads: int, device: str) -> dict[str, str]:
    """The same number of threads for every library, no GPU unless asked for, and no chatter."""
    many = {
        name: str(threads)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "NPROC")
    }
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    cpu = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"} if device == "cpu" else {}
    return {**many, **cpu, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass
class Times:
    """Seconds, one entry a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, answer: dict[str, Any], parts: int) -> None:
        """A round of so many equal parts."""
        self.wall.append(answer["wall"] / parts)
        self.cpu.append(answer["cpu"] / parts)

    @property
    def median(self) -> float:
        """By the clock."""
        return median(self.wall)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Where the middle half begins and ends."""
        if len(self.wall) < 2:
            return self.wall[0], self.wall[0]
        low, _, high = quantiles(self.wall, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Job:
    """What is timed: a verb of the model at `key`. A time is that of one of its `parts`."""

    key: int
    what: str
    parts: int = 1
    repeat: int = 1


class PeerPool:
    """The peers that can be asked; who cannot do what is asked, or dies of it, is left out with the reason."""

    def __init__(self, names: Iterable[str], threads: int, device: str) -> None:
        self.left_out: dict[str, str] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.processes: dict[str, PeerProcess] = {}
        for name in names:
            missing = PEERS[name].missing()
            if missing:
                self.left_out[name] = f"{' and '.join(missing)} not installed"
            else:
                self.processes[name] = PeerProcess(name, threads, device)

    def __enter__(self) -> PeerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.close()

    @property
    def names(self) -> list[str]:
        """Those still there, in order."""
        return list(self.processes)

    def ask(self, name: str, **order: Any) -> dict[str, Any] | None:
        """The answer of one peer, None if that was its end."""
        if name not in self.processes:
            return None
        try:
            return self.processes[name].ask(**order)
        except PeerProcessError as end:
            self.drop(name, str(end))
            return None

    def drop(self, name: str, why: str) -> None:
        """Go on without it."""
        self.left_out[name] = why
        self.processes.pop(name).close()

    def build(self, key: int, workload: Workload) -> None:
        """A model for each."""
        for name in self.names:
            if workload.kind in PEERS[name].cannot:
                self.drop(name, f"has no {workload.title}")
                continue
            answer = self.ask(name, do="build", key=key, workload=asdict(workload))
            if answer is not None:
                self.versions[name] = answer["versions"]

    def agree(self, key: int) -> dict[str, float]:
        """The loss of the first batch by each peer, all with the weights of padless; nothing without padless."""
        losses: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "weights.npz")
            first = self.ask("padless", do="weights", key=key, file=file)
            if first is None:
                return losses
            losses["padless"] = first["loss"]
            for name in self.names:
                if name != "padless" and PEERS[name].checked:
                    answer = self.ask(name, do="load", key=key, file=file)
                    if answer is not None:
                        losses[name] = answer["loss"]
        return losses

    def in_turn(
        self, jobs: Sequence[Job], rounds: int, after_warm_up: Callable[[], None] = lambda: None
    ) -> dict[tuple[str, Job], Times]:
        """The times of each peer at each job; a first round, which does not count, warms up."""
        found: dict[tuple[str, Job], Times] = {}
        for turn in range(rounds + 1):
            for job in jobs:
                names = [name for name in self.names if job.what in PEERS[name].verbs]
                for name in [*names[turn % max(1, len(names)) :], *names[: turn % max(1, len(names))]]:
                    answer = self.ask(name, do="time", key=job.key, what=job.what, repeat=job.repeat)
                    time.sleep(PAUSE)
                    if turn and answer is not None:
                        found.setdefault((name, job), Times()).add(answer, job.parts)
            if not turn:
                after_warm_up()
        return {at: times for at, times in found.items() if at[0] in self.processes}
