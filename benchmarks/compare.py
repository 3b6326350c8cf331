"""Compare all peers on one workload: times of `fit` and `predict`, losses that must agree, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.peer_pool import Job, PeerPool, Times
from benchmarks.workloads import Workload, make_data

TOLERANCE = 1e-4  # of the losses of two peers


@dataclass
class PeerResult:
    """The result of one peer."""

    train: Times
    predict: Times
    megabytes: float
    versions: dict[str, str]
    loss: float | None = None


@dataclass
class Comparison:
    """The results of all peers on one workload.

    Attributes:
        workload: The workload.
        real_steps: Real steps in a batch, on average.
        peers: The result of each peer.
        excluded: Why a peer has no result.
    """

    workload: Workload
    real_steps: float
    peers: dict[str, PeerResult]
    excluded: dict[str, str]

    @property
    def base(self) -> str:
        """The peer whose times are the unit of the ratios: the limit, else the first one."""
        return "limit" if "limit" in self.peers else next(iter(self.peers), "")

    @property
    def density(self) -> float:
        """The share of real steps."""
        return self.real_steps / (self.workload.batch * self.workload.width)

    def times(self, name: str, action: str) -> Times:
        """Return the times of a peer for `train` or `predict`."""
        return self.peers[name].train if action == "train" else self.peers[name].predict

    def ratio(self, name: str, action: str) -> float:
        """Return the time of a peer divided by the time of the base."""
        return self.times(name, action).median / self.times(self.base, action).median

    def has_different_loss(self, name: str) -> bool:
        """Return whether the loss differs from that of padless, with the same weights and data."""
        loss = self.peers[name].loss
        expected = self.peers["padless"].loss if "padless" in self.peers else None
        return loss is not None and expected is not None and not abs(loss - expected) < TOLERANCE


def compare(workload: Workload, names: Sequence[str], rounds: int, threads: int, device: str) -> Comparison:
    """Time `fit` and `predict` of all peers in turn."""
    memory: dict[str, float] = {}
    train, predict = Job(0, "train", workload.batches), Job(0, "predict", workload.batches)
    with PeerPool(names, threads, device) as pool:
        pool.build(0, workload)
        losses = pool.share_weights(0)

        def measure_memory() -> None:
            for name in pool.names:
                answer = pool.send(name, "memory")
                if answer is not None:
                    memory[name] = answer["megabytes"]

        times = pool.run_rounds([train, predict], rounds, measure_memory)
        peers = {
            name: PeerResult(times[name, train], times[name, predict], memory[name], pool.versions[name], losses.get(name))
            for name in pool.names
        }
        real_steps = np.count_nonzero(make_data(workload)[0]) / workload.batches
        return Comparison(workload, real_steps, peers, pool.excluded)
