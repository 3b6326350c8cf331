"""The process of a peer: reads one command a line, runs it, and writes the answer as one line.

    python -m benchmarks.worker NAME THREADS DEVICE

Commands and answers are JSON objects. The argument `model` is the number of a model in this process. Standard output has
only answers; what a framework prints goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
from time import perf_counter, process_time
from typing import Any

import numpy as np

from benchmarks.peers import EPOCH_ACTIONS, PEERS, Peer
from benchmarks.workloads import Workload


def measure_peak() -> float:
    """Return the largest resident size of this process in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


class Worker:
    """A peer with its models. Each public method is a command, and returns the answer."""

    def __init__(self, name: str, device: str) -> None:
        self.spec, self.device = PEERS[name], device
        self.tiny_peak: float | None = None
        self.peers: dict[int, Peer] = {}

    def build(self, model: int, workload: dict[str, Any]) -> dict[str, Any]:
        """Make a model and its data."""
        full = Workload(**workload)
        if self.tiny_peak is None:  # the memory that a framework needs for itself does not count
            tiny = self.spec.make(full.shrink(), self.device)
            for action in EPOCH_ACTIONS:
                if action in self.spec.actions:
                    getattr(tiny, action)()
            self.tiny_peak = measure_peak()
        self.peers[model] = self.spec.make(full, self.device)
        return {"versions": self.spec.list_versions()}

    def weights(self, model: int, file: str) -> dict[str, Any]:
        """Write noisy weights for the other peers, and return the loss of the first batch; only padless can."""
        peer: Any = self.peers[model]
        np.savez(file, *peer.weights())
        return {"loss": peer.loss()}

    def load(self, model: int, file: str) -> dict[str, Any]:
        """Read such weights, and return the loss of the first batch."""
        with np.load(file) as archive:
            self.peers[model].load([archive[name] for name in archive.files])
        return {"loss": self.peers[model].loss()}

    def time(self, model: int, action: str, repeat: int = 1) -> dict[str, Any]:
        """Return the time of an action by the clock, and the CPU time of all threads, in seconds."""
        run = getattr(self.peers[model], action)
        gc.collect()
        wall, cpu = perf_counter(), process_time()
        for _ in range(repeat):
            run()
        return {"wall": (perf_counter() - wall) / repeat, "cpu": (process_time() - cpu) / repeat}

    def memory(self) -> dict[str, Any]:
        """Return the megabytes at the peak, minus the peak with a tiny model."""
        return {"megabytes": measure_peak() - (self.tiny_peak or 0.0)}


def limit_processors(threads: int) -> None:
    """Run on as many processors as there are threads, if the system supports it."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def main() -> None:
    """Run the commands from standard input until it ends."""
    name, threads, device = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # from here on, print writes to standard error
    limit_processors(int(threads))
    worker = Worker(name, device)
    for line in sys.stdin:
        arguments = json.loads(line)
        answer = getattr(worker, arguments.pop("command"))(**arguments)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
