"""Who is timed, what each needs, and what all can do. No framework is imported here: each peer runs in its own process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.workloads import Kind, Workload

Arrays = list[NDArray[np.float32]]
BOTH = ("train", "predict")
ALL = (*BOTH, "predict_one", "call_one")


class Peer(Protocol):
    """One model on one device with its data. What is timed takes nothing and is over when it returns."""

    def train(self) -> None:
        """One epoch."""

    def predict(self) -> Any:
        """The outputs for all rows, on the host."""

    def predict_one(self) -> None:
        """The outputs for one row, the way of `predict`."""

    def call_one(self) -> None:
        """The outputs for one row, the model called as a function."""

    def load(self, weights: Arrays) -> None:
        """Take over weights in Keras's order and shapes."""

    def loss(self) -> float:
        """Of the first batch."""
        ...


@dataclass(frozen=True)
class Entry:
    """How a peer is made: `make(variant, workload, device)` of the module, in a process with this environment."""

    title: str
    module: str
    variant: str = ""
    needs: Sequence[str] = ("torch",)
    environment: dict[str, str] = field(default_factory=dict)
    cannot: Sequence[Kind] = ()
    verbs: Sequence[str] = ALL
    checked: bool = True  # has weights and a loss

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]

    def versions(self) -> dict[str, str]:
        """Of the packages it needs."""
        return {name: str(import_module(name).__version__) for name in self.needs}

    def make(self, workload: Workload, device: str) -> Peer:
        """The peer, ready to train."""
        return import_module(f"benchmarks.{self.module}").make(self.variant, workload, device)


def _keras(backend: str, title: str) -> Entry:
    return Entry(f"Keras on {title}", "peer_fit", "keras", ("keras", backend), {"KERAS_BACKEND": backend})


PEERS = {
    "limit": Entry("the limit", "peer_limit", verbs=BOTH, checked=False),
    "padless": Entry("padless", "peer_fit", "padless", ("torch", "padless")),
    "torch-padded": Entry("torch, padded", "peer_torch", "padded", cannot=["mean"]),
    "torch-cropped": Entry("torch, cropped", "peer_torch", "cropped", cannot=["mean"]),
    "torch-packed": Entry("torch, PackedSequence", "peer_torch", "packed", cannot=["transformer", "conv", "mean"]),
    "keras-tensorflow": _keras("tensorflow", "TensorFlow"),
    "keras-jax": _keras("jax", "JAX"),
    "keras-torch": _keras("torch", "torch"),
    "padless-loop": Entry(
        "padless layers, torch loop",
        "peer_loop",
        needs=("torch", "padless"),
        verbs=("train",),
        cannot=["lstm", "bilstm", "gru", "transformer", "conv"],
        checked=False,
    ),
}


def disturbed(weights: Arrays) -> Arrays:
    """Weights that leave nothing at zero and make every step count: what two peers must agree on."""
    random = np.random.default_rng(1)
    embedding, *others = weights

    def scale(weight: NDArray[np.float32]) -> float:
        return 0.1 if weight.ndim == 1 else 0.5 / float(np.sqrt(np.prod(weight.shape[:-1])))

    noisy = [embedding + random.normal(0, 0.5, embedding.shape)]
    noisy += [weight + random.normal(0, scale(weight), weight.shape) for weight in others]
    return [weight.astype(np.float32) for weight in noisy]
