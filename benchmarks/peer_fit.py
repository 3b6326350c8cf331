"""padless, and Keras on the backend that KERAS_BACKEND names: through `fit` and `predict`, as users run them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

from benchmarks.models import build
from benchmarks.peers import Arrays, disturbed
from benchmarks.workloads import Workload, data


class FitPeer:
    """A model with `fit`, `evaluate` and `predict`."""

    def __init__(self, kit: Any, workload: Workload) -> None:
        self.batch = workload.batch
        self.ids, self.labels = data(workload)
        self.model = build(kit, workload)

    def train(self) -> None:
        """One epoch of `fit`; it returns numbers, so the device is done then."""
        self.model.fit(self.ids, self.labels, batch_size=self.batch, verbose=0)

    def predict(self) -> Any:
        """All rows."""
        return self.model.predict(self.ids, batch_size=self.batch, verbose=0)

    def predict_one(self) -> None:
        """The first row."""
        self.model.predict(self.ids[:1], verbose=0)

    def call_one(self) -> None:
        """The first row, without `predict`."""
        with self._inference():
            self._wait(self.model(self.ids[:1]))

    def _inference(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def _wait(self, outputs: Any) -> None:
        """Return when the outputs are there."""

    def load(self, weights: Arrays) -> None:
        """Take over weights."""
        self.model.set_weights(weights)

    def loss(self) -> float:
        """Of the first batch."""
        return float(
            self.model.evaluate(self.ids[: self.batch], self.labels[: self.batch], batch_size=self.batch, verbose=0)
        )


class Padless(FitPeer):
    """The one whose weights the others take over."""

    def __init__(self, kit: Any, workload: Workload, device: str) -> None:
        super().__init__(kit, workload)
        self.model.to(device)

    def weights(self) -> Arrays:
        """Its weights, disturbed; they are its own from now on."""
        self.load(disturbed(self.model.get_weights()))
        return self.model.get_weights()

    def _inference(self) -> AbstractContextManager[Any]:
        return import_module("torch").no_grad()

    def _wait(self, outputs: Any) -> None:
        values = getattr(outputs, "values", outputs)
        values.cpu()


class Keras(FitPeer):
    """Keras puts its models on a GPU if its backend sees one."""

    def __init__(self, kit: Any, workload: Workload) -> None:
        super().__init__(kit, workload)
        self.kit = kit

    def _inference(self) -> AbstractContextManager[Any]:
        return import_module("torch").no_grad() if self.kit.backend.backend() == "torch" else nullcontext()

    def _wait(self, outputs: Any) -> None:
        self.kit.ops.convert_to_numpy(outputs)


def make(variant: str, workload: Workload, device: str) -> FitPeer:
    """The peer."""
    kit = import_module(variant)
    return Padless(kit, workload, device) if variant == "padless" else Keras(kit, workload)
