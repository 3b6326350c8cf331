"""Measure how the cost depends on density, length and batch size, and the fixed costs: one row, a step of `fit`, imports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from benchmarks.peer_pool import Job, PeerPool, PeerProcessError, Times, make_environment
from benchmarks.peers import PEERS, ROW_ACTIONS
from benchmarks.workloads import TINY, Workload, make_data


@dataclass
class Point:
    """The times of all peers at one size."""

    x: float
    real_steps: float  # in a batch
    times: dict[str, Times]


@dataclass
class Line:
    """A least-squares line through medians: seconds at x = 0, seconds for each 1 of x, and the coefficient R2."""

    intercept: float
    slope: float
    r2: float

    @staticmethod
    def fit(points: Sequence[tuple[float, float]]) -> Line:
        """Fit a line through pairs of x and seconds."""
        x, y = np.array(points, dtype=float).T
        slope, intercept = np.polyfit(x, y, 1)
        residual, total = np.square(y - (slope * x + intercept)).sum(), np.square(y - y.mean()).sum()
        return Line(float(intercept), float(slope), float(1 - residual / total) if total else 1.0)


@dataclass
class Curve:
    """The times of a training step of one model at several values of `axis`."""

    workload: Workload
    axis: str  # "density", "length" or "batch"
    points: list[Point]
    lines: dict[str, Line]
    excluded: dict[str, str]


@dataclass
class FixedCosts:
    """The costs that do not depend on the size of the data.

    Attributes:
        workload: The model of `latency`.
        latency: For each peer the times of `predict_one` and `call_one`.
        fit: The times of a training step of a tiny model by `fit`.
        loop: The times of the same step in a hand-written loop.
        imports: The times of imports.
        excluded: Why a peer has no latency.
    """

    workload: Workload
    latency: dict[str, dict[str, Times]]
    fit: Times
    loop: Times
    imports: dict[str, Times]
    excluded: dict[str, str] = field(default_factory=dict)

    @property
    def overhead(self) -> float:
        """The seconds that `fit` adds to a step: the median of the differences in each round."""
        return median(fit - loop for fit, loop in zip(self.fit.wall, self.loop.wall, strict=True))


def list_sizes(workload: Workload, quick: bool) -> dict[str, list[Workload]]:
    """Return the workloads of each curve."""
    few_batches = replace(workload, batches=2 if quick else min(workload.batches, 5))
    small_batch = replace(workload, batches=2, batch=2 if quick else 8)
    densities = (0.2, 0.5, 1.0) if quick else (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    widths = (10, 20, 40) if quick else (50, 100, 200, 500, 1000, 2000, 5000, 10000)
    batches = (1, 2, 4) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256)
    return {
        "density": [replace(few_batches, density=density) for density in densities],
        "length": [replace(small_batch, width=width) for width in widths],
        "batch": [replace(few_batches, batch=batch) for batch in batches],
    }


def measure_curve(
    axis: str, workloads: Sequence[Workload], names: Sequence[str], rounds: int, threads: int, device: str
) -> Curve:
    """Time a training step of each workload by each peer, in turn."""
    points = []
    with PeerPool(names, threads, device) as pool:
        for number, workload in enumerate(workloads):
            pool.build(number, workload)
        jobs = [Job(number, "train", workload.batches) for number, workload in enumerate(workloads)]
        times = pool.run_rounds(jobs, rounds)
        for job, workload in zip(jobs, workloads, strict=True):
            real_steps = np.count_nonzero(make_data(workload)[0]) / workload.batches
            density = real_steps / (workload.batch * workload.width)
            x = {"density": density, "length": workload.width, "batch": workload.batch}[axis]
            points.append(Point(x, real_steps, {name: times[name, job] for name in pool.names}))
        lines = {name: Line.fit([(point.x, point.times[name].median) for point in points]) for name in pool.names}
        return Curve(workloads[0], axis, points, lines, pool.excluded)


def measure_fixed_costs(
    workload: Workload, names: Sequence[str], rounds: int, threads: int, device: str, quick: bool
) -> FixedCosts:
    """Time one row, a step of `fit` on a tiny model, and imports."""
    jobs = {action: Job(0, action, repeat=2 if quick else 20) for action in ROW_ACTIONS}
    names = [name for name in names if set(ROW_ACTIONS) <= set(PEERS[name].actions)]
    with PeerPool(names, threads, device) as pool:
        pool.build(0, workload)
        times = pool.run_rounds(list(jobs.values()), rounds)
        latency = {name: {action: times[name, job] for action, job in jobs.items()} for name in pool.names}
        excluded = pool.excluded
    tiny = TINY.shrink() if quick else TINY
    with PeerPool(["padless", "padless-loop"], threads, device) as pool:
        pool.build(0, tiny)
        job = Job(0, "train", tiny.batches)
        times = pool.run_rounds([job], rounds)
        for name, reason in pool.excluded.items():
            raise PeerProcessError(f"{PEERS[name].title}: {reason}")
        fit, loop = times["padless", job], times["padless-loop", job]
    return FixedCosts(workload, latency, fit, loop, measure_imports(rounds, threads, device), excluded)


class TimedImport(NamedTuple):
    """An import that is timed alone, after another import and with a backend of Keras."""

    module: str
    after: str = ""
    backend: str = ""


IMPORTS = [
    TimedImport("torch"),
    TimedImport("padless", after="torch"),
    TimedImport("keras", after="torch", backend="torch"),
    TimedImport("keras", after="jax", backend="jax"),
    TimedImport("keras", after="tensorflow", backend="tensorflow"),
    TimedImport("jax"),
    TimedImport("tensorflow"),
]
IMPORT_CODE = """
import time{after}
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""


def measure_imports(rounds: int, threads: int, device: str) -> dict[str, Times]:
    """Time each import in a new process, in turn, with compiled bytecode as after an installation by pip.

    A first round compiles the bytecode and fills the file cache.
    """
    with TemporaryDirectory() as compiled:
        bytecode = {"PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        variables = {**os.environ, **make_environment(threads, device), **bytecode}
        times: dict[str, Times] = {}
        for number in range(rounds + 1):
            for module, after, backend in IMPORTS:
                code = IMPORT_CODE.format(after=f", {after}" if after else "", module=module)
                environment = {**variables, **({"KERAS_BACKEND": backend} if backend else {})}
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
                if number > 0 and done.returncode == 0:
                    seconds = float(done.stdout.split()[-1])
                    title = f"{module} after {after}" if after else module
                    times.setdefault(title, Times()).add({"wall": seconds, "cpu": seconds}, 1)
        return times
