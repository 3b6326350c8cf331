"""One workload, all peers: `fit` and `predict`, the losses that must agree, the memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.team import Job, PeerPool, Times
from benchmarks.workloads import Workload, data

TOLERANCE = 1e-4


@dataclass
class Found:
    """What one peer took."""

    train: Times
    predict: Times
    megabytes: float
    versions: dict[str, str]
    loss: float | None = None


@dataclass
class Comparison:
    """One workload, all peers."""

    workload: Workload
    real: float  # steps in a batch
    peers: dict[str, Found]
    left_out: dict[str, str]

    @property
    def base(self) -> str:
        """The peer that all are held against: the limit, if it was asked for."""
        return "limit" if "limit" in self.peers else next(iter(self.peers), "")

    @property
    def fill(self) -> float:
        """The share of real steps."""
        return self.real / (self.workload.batch * self.workload.width)

    def times(self, name: str, what: str) -> Times:
        """Of one peer, for `train` or `predict`."""
        return self.peers[name].train if what == "train" else self.peers[name].predict

    def ratio(self, name: str, what: str) -> float:
        """How many times as long as the base it took."""
        return self.times(name, what).median / self.times(self.base, what).median

    def odd(self, name: str) -> bool:
        """Whether it has another loss than padless, with the same weights on the same data."""
        own = self.peers[name].loss
        theirs = self.peers["padless"].loss if "padless" in self.peers else None
        return own is not None and theirs is not None and not abs(own - theirs) < TOLERANCE


def compare(workload: Workload, names: Sequence[str], rounds: int, threads: int, device: str) -> Comparison:
    """Time `fit` and `predict` of all peers, in turn."""
    memory: dict[str, float] = {}
    train, predict = Job(0, "train", workload.steps), Job(0, "predict", workload.steps)
    with PeerPool(names, threads, device) as team:
        team.build(0, workload)
        losses = team.agree(0)

        def weigh() -> None:
            memory.update({name: answer["megabytes"] for name in team.names if (answer := team.ask(name, do="memory"))})

        found = team.in_turn([train, predict], rounds, weigh)
        peers = {
            name: Found(found[name, train], found[name, predict], memory[name], team.versions[name], losses.get(name))
            for name in team.names
        }
        real = np.count_nonzero(data(workload)[0]) / workload.steps
        return Comparison(workload, real, peers, team.left_out)
