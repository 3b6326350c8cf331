"""The models that are timed, and their data. No framework is imported here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Kind = Literal["lstm", "bilstm", "gru", "transformer", "conv", "mean"]


@dataclass(frozen=True)
class Workload:
    """A model and the sizes of its data.

    The model is an Embedding, the layers of `kind`, and a Dense layer, with Adam and sparse cross entropy from logits.

    Attributes:
        name: The name on the command line.
        title: The name in tables.
        kind: The layers between Embedding and Dense.
        units: Units of the recurrent layer, filters of the convolution, or inner units of the transformer blocks.
        step_labels: True for a label at each time step, False for one label for each sequence.
        gaps: True if each step is masked at random. Otherwise sequences are right-padded, with lengths spread evenly
            around the density.
        density: Share of real steps.
        batches: Batches in an epoch.
        batch: Sequences in a batch.
        width: Time steps of the grid, real or not.
    """

    name: str
    title: str
    kind: Kind
    units: int
    step_labels: bool = True
    gaps: bool = False
    density: float = 0.3
    batches: int = 10
    batch: int = 64
    width: int = 200
    features: int = 128
    vocabulary: int = 20000
    classes: int = 20
    blocks: int = 2
    heads: int = 4
    window: int = 5

    def shrink(self) -> Workload:
        """Return the same workload with tiny sizes, to see that it runs."""
        return replace(self, units=8, features=8, vocabulary=50, classes=5, heads=2, width=12, batch=4, batches=2)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("lstm-128", "LSTM tagger 128", "lstm", 128),
        Workload("lstm-512", "LSTM tagger 512", "lstm", 512, batches=3),
        Workload("bilstm", "BiLSTM classifier", "bilstm", 128, step_labels=False),
        Workload("gru-gaps", "GRU tagger 192, gaps", "gru", 192, gaps=True, density=0.7, batches=5),
        Workload("transformer", "transformer", "transformer", 512),
        Workload("conv", "conv classifier", "conv", 128, step_labels=False),
    )
}
TINY = Workload(
    "tiny", "mean of an embedding", "mean", 4, step_labels=False, batches=200, width=20, features=4, vocabulary=10
)

# The workloads of a run without options: (name, density).
DEFAULTS = [
    ("lstm-128", 0.3),
    ("lstm-512", 0.3),
    ("bilstm", 0.3),
    ("gru-gaps", 0.7),
    ("transformer", 0.3),
    ("conv", 0.3),
    ("lstm-128", 1.0),
    ("lstm-128", 0.1),
]


def make_data(workload: Workload) -> tuple[Ids, Ids]:
    """Return ids `(rows, width)`, 0 at masked steps, and labels; they are the same in each process."""
    w, random = workload, np.random.default_rng(0)
    shape = rows, width = w.batch * w.batches, w.width
    if w.gaps:
        real = random.random(shape) < w.density
    else:
        spread = min(w.density, 1 - w.density) * width * 0.9
        lengths = np.round(np.linspace(w.density * width - spread, w.density * width + spread, rows))
        real = np.arange(width) < random.permutation(lengths)[:, None]
    real[~real.any(axis=1), 0] = True
    ids = random.integers(1, w.vocabulary, shape) * real
    labels = random.integers(0, w.classes, shape) * real if w.step_labels else random.integers(0, w.classes, rows)
    return ids, labels
