"""What the cost grows with: fill, length, batch; and what is there before it grows: one row, a step of `fit`, an import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.peers import ALL, PEERS
from benchmarks.team import Job, PeerPool, PeerProcessError, Times, environment
from benchmarks.workloads import TINY, Workload, data


@dataclass
class Point:
    """One size."""

    x: float
    real: float  # steps in a batch
    times: dict[str, Times]


@dataclass
class Line:
    """A least-squares line through medians: seconds at 0, seconds for each 1 of x, and the share that it explains."""

    intercept: float
    slope: float
    r2: float

    @staticmethod
    def through(points: Sequence[tuple[float, float]]) -> Line:
        """Through (x, seconds)."""
        x, y = np.array(points, dtype=float).T
        slope, intercept = np.polyfit(x, y, 1)
        rest, whole = np.square(y - (slope * x + intercept)).sum(), np.square(y - y.mean()).sum()
        return Line(float(intercept), float(slope), float(1 - rest / whole) if whole else 1.0)


@dataclass
class Curve:
    """Training steps of one model at several sizes."""

    workload: Workload
    against: str
    points: list[Point]
    lines: dict[str, Line]
    left_out: dict[str, str]


@dataclass
class Start:
    """What is paid before any size: seconds, by peer."""

    workload: Workload
    latency: dict[str, dict[str, Times]]  # peer, then `predict_one` or `call_one`
    fit: Times  # a training step of a tiny model
    loop: Times  # the same in a hand-written loop
    imports: dict[str, Times]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def overhead(self) -> float:
        """What `fit` adds to a step: the median of the differences in each round."""
        return median(fit - loop for fit, loop in zip(self.fit.wall, self.loop.wall, strict=True))


def sizes(workload: Workload, quick: bool) -> dict[str, list[Workload]]:
    """The models of each curve."""
    few = replace(workload, steps=2 if quick else min(workload.steps, 5))
    long = replace(workload, steps=2, batch=2 if quick else 8)
    fills = (0.2, 0.5, 1.0) if quick else (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    widths = (10, 20, 40) if quick else (50, 100, 200, 500, 1000, 2000, 5000, 10000)
    batches = (1, 2, 4) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256)
    return {
        "fill": [replace(few, fill=fill) for fill in fills],
        "length": [replace(long, width=width) for width in widths],
        "batch": [replace(few, batch=batch) for batch in batches],
    }


def curve(against: str, models: Sequence[Workload], names: Sequence[str], rounds: int, threads: int, device: str) -> Curve:
    """Time a training step of each model by each peer, all in turn."""
    points = []
    with PeerPool(names, threads, device) as team:
        for key, model in enumerate(models):
            team.build(key, model)
        jobs = [Job(key, "train", model.steps) for key, model in enumerate(models)]
        found = team.in_turn(jobs, rounds)
        for job, model in zip(jobs, models, strict=True):
            real = np.count_nonzero(data(model)[0]) / model.steps
            x = {"fill": real / (model.batch * model.width), "length": model.width, "batch": model.batch}[against]
            points.append(Point(x, real, {name: found[name, job] for name in team.names}))
        lines = {name: Line.through([(point.x, point.times[name].median) for point in points]) for name in team.names}
        return Curve(models[0], against, points, lines, team.left_out)


def start(workload: Workload, names: Sequence[str], rounds: int, threads: int, device: str, quick: bool) -> Start:
    """Latency of one row, overhead of `fit`, and imports."""
    repeat = 2 if quick else 20
    jobs = {what: Job(0, what, repeat=repeat) for what in ALL[2:]}
    with PeerPool([name for name in names if set(jobs) <= set(PEERS[name].verbs)], threads, device) as team:
        team.build(0, workload)
        found = team.in_turn(list(jobs.values()), rounds)
        latency = {name: {what: found[name, job] for what, job in jobs.items()} for name in team.names}
        left_out = team.left_out
    tiny = TINY.quick() if quick else TINY
    with PeerPool(["padless", "padless-loop"], threads, device) as pair:
        pair.build(0, tiny)
        job = Job(0, "train", tiny.steps)
        found = pair.in_turn([job], rounds)
        for name, why in pair.left_out.items():
            raise PeerProcessError(f"{PEERS[name].title}: {why}")
        fit, loop = (found[name, job] for name in ("padless", "padless-loop"))
    return Start(workload, latency, fit, loop, imports(rounds, threads, device), left_out)


# After which import, what, with which backend of Keras. Seconds are those of the second import alone.
IMPORTS = [
    ("", "torch", ""),
    ("torch", "padless", ""),
    ("torch", "keras", "torch"),
    ("jax", "keras", "jax"),
    ("tensorflow", "keras", "tensorflow"),
    ("", "jax", ""),
    ("", "tensorflow", ""),
]
CLOCK = """
import time{before}
began = time.perf_counter()
import {what}
print(time.perf_counter() - began)
"""


def imports(rounds: int, threads: int, device: str) -> dict[str, Times]:
    """The time of each import in a process of its own, in turn, of compiled files as pip leaves them.

    A first round compiles what is not compiled yet, and fills the file cache.
    """
    with TemporaryDirectory() as compiled:
        here = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        return _imports(rounds, {**environment(threads, device), **here})


def _imports(rounds: int, variables: dict[str, str]) -> dict[str, Times]:
    found: dict[str, Times] = {}
    for turn in range(rounds + 1):
        for before, what, backend in IMPORTS:
            title = f"{what} beyond {before}" if before else what
            code = CLOCK.format(before=f", {before}" if before else "", what=what)
            own = {**os.environ, **variables, **({"KERAS_BACKEND": backend} if backend else {})}
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own)
            if turn and not done.returncode:
                seconds = float(done.stdout.split()[-1])
                found.setdefault(title, Times()).add({"wall": seconds, "cpu": seconds}, 1)
    return found
