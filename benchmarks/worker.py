"""The process of a peer: reads an order a line, obeys, answers with a line.

    python -m benchmarks.worker NAME THREADS DEVICE

Orders are JSON objects; `key` says which of the models that live here is meant. Standard output is for answers alone:
what a framework prints goes to standard error.
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

from benchmarks.peers import PEERS, Peer
from benchmarks.workloads import Workload


def megabytes() -> float:
    """The most memory that this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


class Worker:
    """A method for each order; what it returns is the answer."""

    def __init__(self, name: str, device: str) -> None:
        self.entry, self.device = PEERS[name], device
        self.before: float | None = None
        self.peers: dict[int, Peer] = {}

    def build(self, key: int, workload: dict[str, Any]) -> dict[str, Any]:
        """Make a model and its data."""
        wanted = Workload(**workload)
        if self.before is None:  # a tiny one first: what frameworks load and set up on the way is not the model's
            tiny = self.entry.make(wanted.quick(), self.device)
            for what in self.entry.verbs[:2]:
                getattr(tiny, what)()
            self.before = megabytes()
        self.peers[key] = self.entry.make(wanted, self.device)
        return {"versions": self.entry.versions()}

    def weights(self, key: int, file: str) -> dict[str, Any]:
        """Write weights for others to load; only padless can."""
        peer: Any = self.peers[key]
        np.savez(file, *peer.weights())
        return {"loss": peer.loss()}

    def load(self, key: int, file: str) -> dict[str, Any]:
        """Take over such weights; the loss of the first batch."""
        with np.load(file) as archive:
            self.peers[key].load([archive[name] for name in archive.files])
        return {"loss": self.peers[key].loss()}

    def time(self, key: int, what: str, repeat: int = 1) -> dict[str, Any]:
        """How long `what` takes, by the clock and by the CPU time of all threads."""
        run = getattr(self.peers[key], what)
        gc.collect()
        wall, cpu = perf_counter(), process_time()
        for _ in range(repeat):
            run()
        return {"wall": (perf_counter() - wall) / repeat, "cpu": (process_time() - cpu) / repeat}

    def memory(self) -> dict[str, Any]:
        """Megabytes at the peak, beyond what a tiny model took."""
        return {"megabytes": megabytes() - (self.before or 0.0)}


def confine(threads: int) -> None:
    """Run on as many processors as there are threads, where the system can say so; every framework sees only those."""
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, mine[:threads])


def main() -> None:
    """Obey until there are no more orders."""
    name, threads, device = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    confine(int(threads))
    worker = Worker(name, device)
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(worker, order.pop("do"))(**order)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
