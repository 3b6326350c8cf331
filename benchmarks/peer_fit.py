"""Peers with `fit` and `predict`: padless, and Keras on the backend of KERAS_BACKEND."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

from benchmarks.models import build
from benchmarks.peers import Arrays, add_noise
from benchmarks.workloads import Workload, make_data


class FitPeer:
    """A model with `fit`, `evaluate` and `predict`."""

    def __init__(self, library: Any, workload: Workload) -> None:
        self.batch = workload.batch
        self.ids, self.labels = make_data(workload)
        self.model = build(library, workload)

    def train(self) -> None:
        """Train for one epoch; `fit` returns numbers, so the device has finished then."""
        self.model.fit(self.ids, self.labels, batch_size=self.batch, verbose=0)

    def predict(self) -> object:
        """Return the outputs for all sequences."""
        return self.model.predict(self.ids, batch_size=self.batch, verbose=0)

    def predict_one(self) -> None:
        """Compute the outputs for the first sequence with `predict`."""
        self.model.predict(self.ids[:1], verbose=0)

    def call_one(self) -> None:
        """Compute the outputs for the first sequence by a call of the model."""
        with self._inference():
            self._synchronize(self.model(self.ids[:1]))

    def _inference(self) -> AbstractContextManager[object]:
        """Return the context in which the model is called."""
        return nullcontext()

    def _synchronize(self, outputs: Any) -> None:
        """Wait until the outputs are computed."""

    def load(self, weights: Arrays) -> None:
        """Set the weights."""
        self.model.set_weights(weights)

    def loss(self) -> float:
        """Return the loss of the first batch."""
        x, y = self.ids[: self.batch], self.labels[: self.batch]
        return float(self.model.evaluate(x, y, batch_size=self.batch, verbose=0))


class Padless(FitPeer):
    """padless, whose weights the other peers load."""

    def __init__(self, library: Any, workload: Workload, device: str) -> None:
        super().__init__(library, workload)
        self.model.to(device)

    def weights(self) -> Arrays:
        """Add noise to the weights, and return them."""
        self.load(add_noise(self.model.get_weights()))
        return self.model.get_weights()

    def _inference(self) -> AbstractContextManager[object]:
        return import_module("torch").no_grad()

    def _synchronize(self, outputs: Any) -> None:
        values = getattr(outputs, "values", outputs)
        values.cpu()


class Keras(FitPeer):
    """Keras, which uses a GPU if its backend finds one."""

    def __init__(self, library: Any, workload: Workload) -> None:
        super().__init__(library, workload)
        self.library = library

    def _inference(self) -> AbstractContextManager[object]:
        is_torch = self.library.backend.backend() == "torch"
        return import_module("torch").no_grad() if is_torch else nullcontext()

    def _synchronize(self, outputs: Any) -> None:
        self.library.ops.convert_to_numpy(outputs)


def make(variant: str, workload: Workload, device: str) -> FitPeer:
    """Return the peer of the library `variant`."""
    library = import_module(variant)
    return Padless(library, workload, device) if variant == "padless" else Keras(library, workload)
