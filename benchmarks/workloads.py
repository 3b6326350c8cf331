"""What is timed: models by their sizes, and the data they get. No framework is imported here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Kind = Literal["lstm", "bilstm", "gru", "transformer", "conv", "mean"]


@dataclass(frozen=True)
class Workload:
    """Embedding, then what `kind` says, then Dense; Adam and sparse cross entropy from logits.

    `tags` asks for a label at each step, else for one a row. `fill` is the share of real steps: the rows are
    right-padded, with lengths spread evenly around it, or with `holes` each step is real by chance.
    """

    name: str
    title: str
    kind: Kind
    units: int
    tags: bool = True
    holes: bool = False
    fill: float = 0.3
    steps: int = 10  # of training, in an epoch
    batch: int = 64
    width: int = 200  # steps of a row, real or not
    features: int = 128
    vocabulary: int = 20000
    classes: int = 20
    blocks: int = 2
    heads: int = 4
    window: int = 5

    def quick(self) -> Workload:
        """The same with sizes that only show that it runs."""
        return replace(self, units=8, features=8, vocabulary=50, classes=5, heads=2, width=12, batch=4, steps=2)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("lstm-128", "LSTM tagger 128", "lstm", 128),
        Workload("lstm-512", "LSTM tagger 512", "lstm", 512, steps=3),
        Workload("bilstm", "BiLSTM classifier", "bilstm", 128, tags=False),
        Workload("gru-holes", "GRU tagger 192, holes", "gru", 192, holes=True, fill=0.7, steps=5),
        Workload("transformer", "transformer", "transformer", 512),
        Workload("conv", "conv classifier", "conv", 128, tags=False),
    )
}
TINY = Workload("tiny", "mean of an embedding", "mean", 4, tags=False, steps=200, width=20, features=4, vocabulary=10)

# What is timed unless told: (workload, fill).
TABLE = [
    ("lstm-128", 0.3),
    ("lstm-512", 0.3),
    ("bilstm", 0.3),
    ("gru-holes", 0.7),
    ("transformer", 0.3),
    ("conv", 0.3),
    ("lstm-128", 1.0),
    ("lstm-128", 0.1),
]


def data(workload: Workload) -> tuple[Ids, Ids]:
    """Ids, 0 where there is no step, and labels: the same for every peer."""
    w, random = workload, np.random.default_rng(0)
    shape = rows, width = w.batch * w.steps, w.width
    if w.holes:
        real = random.random(shape) < w.fill
    else:
        spread = min(w.fill, 1 - w.fill) * width * 0.9
        lengths = np.round(np.linspace(w.fill * width - spread, w.fill * width + spread, rows))
        real = np.arange(width) < random.permutation(lengths)[:, None]
    real[~real.any(axis=1), 0] = True
    ids = random.integers(1, w.vocabulary, shape) * real
    labels = random.integers(0, w.classes, shape) * real if w.tags else random.integers(0, w.classes, rows)
    return ids, labels
