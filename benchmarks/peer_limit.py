"""The limit: the float32 matrix products of the real steps, each as one large product, and nothing else.

Not counted is all else that a step must do: looking up embeddings, gates, softmax, the loss, the optimizer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from benchmarks.workloads import Ids, Workload, data


class Product(NamedTuple):
    """`(rows, inner) @ (inner, columns)`, how many times."""

    rows: int
    inner: int
    columns: int
    times: int = 1


def products(workload: Workload, ids: Ids) -> list[Product]:
    """The products of one forward pass over a batch of average size; each has two like it in the backward pass.

    The products of attention are those of every real query with the real keys of its row, laid out as one.
    """
    w = workload
    lengths = np.count_nonzero(ids, axis=1)
    n, u, d = round(lengths.sum() / w.steps), w.units, w.features
    keys = round(np.square(lengths).sum() / lengths.sum())  # that a real query sees, on average
    size = d // w.heads
    last = {"bilstm": 2 * u, "transformer": d, "mean": d}.get(w.kind, u)
    middle = {
        "lstm": [Product(n, d, 4 * u), Product(n, u, 4 * u)],
        "bilstm": [Product(n, d, 4 * u, 2), Product(n, u, 4 * u, 2)],
        "gru": [Product(n, d, 3 * u), Product(n, u, 3 * u)],
        "transformer": [
            Product(n, d, 3 * d, w.blocks),
            Product(n * w.heads, size, keys, w.blocks),
            Product(n * w.heads, keys, size, w.blocks),
            Product(n, d, d, w.blocks),
            Product(n, d, u, w.blocks),
            Product(n, u, d, w.blocks),
        ],
        "conv": [Product(n, w.window * d, u)],
        "mean": [],
    }
    return [*middle[w.kind], Product(n if w.tags else w.batch, last, w.classes)]


class Limit:
    """Multiplies."""

    def __init__(self, workload: Workload, device: str) -> None:
        self.steps, self.device = workload.steps, device
        self.operands: list[tuple[torch.Tensor, ...]] = []
        for rows, inner, columns, times in products(workload, data(workload)[0]):
            for _ in range(times):
                left, right = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
                self.operands.append((left, right, left @ right, torch.empty_like(left), torch.empty_like(right)))

    def train(self) -> None:
        """The products of an epoch, forward and backward."""
        for _ in range(self.steps):
            self._forward()
            for left, right, result, d_left, d_right in reversed(self.operands):
                torch.mm(result, right.T, out=d_left)
                torch.mm(left.T, result, out=d_right)
        self._wait()

    def predict(self) -> None:
        """The products of an epoch, forward."""
        for _ in range(self.steps):
            self._forward()
        self._wait()

    def _forward(self) -> None:
        for left, right, result, *_ in self.operands:
            torch.mm(left, right, out=result)

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def make(variant: str, workload: Workload, device: str) -> Limit:
    """The peer."""
    return Limit(workload, device)
