"""The peers: libraries that train the same model. No framework is imported here, since each peer has its own process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.workloads import Kind, Workload

Arrays = list[NDArray[np.float32]]
EPOCH_ACTIONS = ("train", "predict")
ROW_ACTIONS = ("predict_one", "call_one")
ACTIONS = (*EPOCH_ACTIONS, *ROW_ACTIONS)


class Peer(Protocol):
    """A model on one device with its data. The methods that are timed return after the computation has ended."""

    def train(self) -> None:
        """Train for one epoch."""

    def predict(self) -> object:
        """Return the outputs for all sequences, on the host."""

    def predict_one(self) -> None:
        """Compute the outputs for one sequence with `predict`."""

    def call_one(self) -> None:
        """Compute the outputs for one sequence by a call of the model."""

    def load(self, weights: Arrays) -> None:
        """Set the weights, in Keras's order and shapes."""

    def loss(self) -> float:
        """Return the loss of the first batch."""
        ...


@dataclass(frozen=True)
class PeerSpec:
    """How to make a peer: by `make(variant, workload, device)` of a module, in a process with this environment.

    Attributes:
        title: The name in tables.
        module: The module in this package that makes the peer.
        variant: Which of its peers the module makes.
        packages: The packages that the peer needs.
        environment: Environment variables of the process.
        unsupported: The kinds of workload that the peer cannot run.
        actions: The methods that are timed.
        has_loss: Whether the peer has weights and a loss, which are compared with those of padless.
    """

    title: str
    module: str
    variant: str = ""
    packages: Sequence[str] = ("torch",)
    environment: dict[str, str] = field(default_factory=dict)
    unsupported: Sequence[Kind] = ()
    actions: Sequence[str] = ACTIONS
    has_loss: bool = True

    def list_missing_packages(self) -> list[str]:
        """Return the packages that are not installed."""
        return [name for name in self.packages if find_spec(name) is None]

    def list_versions(self) -> dict[str, str]:
        """Return the version of each package."""
        return {name: str(import_module(name).__version__) for name in self.packages}

    def make(self, workload: Workload, device: str) -> Peer:
        """Return the peer, ready to train."""
        return import_module(f"benchmarks.{self.module}").make(self.variant, workload, device)


def _keras(backend: str, title: str) -> PeerSpec:
    """Return the peer of Keras on a backend."""
    return PeerSpec(f"Keras on {title}", "peer_fit", "keras", ("keras", backend), {"KERAS_BACKEND": backend})


PEERS = {
    "limit": PeerSpec("the limit", "peer_limit", actions=EPOCH_ACTIONS, has_loss=False),
    "padless": PeerSpec("padless", "peer_fit", "padless", ("torch", "padless")),
    "torch-padded": PeerSpec("torch, padded", "peer_torch", "padded", unsupported=["mean"]),
    "torch-cropped": PeerSpec("torch, cropped", "peer_torch", "cropped", unsupported=["mean"]),
    "torch-packed": PeerSpec("torch, PackedSequence", "peer_torch", "packed", unsupported=["transformer", "conv", "mean"]),
    "keras-tensorflow": _keras("tensorflow", "TensorFlow"),
    "keras-jax": _keras("jax", "JAX"),
    "keras-torch": _keras("torch", "torch"),
    "padless-loop": PeerSpec(
        "padless layers, torch loop",
        "peer_loop",
        packages=("torch", "padless"),
        actions=("train",),
        unsupported=["lstm", "bilstm", "gru", "transformer", "conv"],
        has_loss=False,
    ),
}


def add_noise(weights: Arrays) -> Arrays:
    """Return weights with noise, so that none is zero and each step matters for the loss that peers must agree on."""
    random = np.random.default_rng(1)
    embedding, *others = weights

    def scale(weight: NDArray[np.float32]) -> float:
        return 0.1 if weight.ndim == 1 else 0.5 / float(np.sqrt(np.prod(weight.shape[:-1])))

    noisy = [embedding + random.normal(0, 0.5, embedding.shape)]
    noisy += [weight + random.normal(0, scale(weight), weight.shape) for weight in others]
    return [weight.astype(np.float32) for weight in noisy]
