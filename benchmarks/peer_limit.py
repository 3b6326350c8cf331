"""The limit: the float32 matrix products of the real steps, each as one large product.

All other parts of a step are left out: embeddings, gates, softmax, loss, optimizer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from benchmarks.workloads import Ids, Workload, make_data


class Product(NamedTuple):
    """`(rows, inner) @ (inner, columns)`, computed `times` times."""

    rows: int
    inner: int
    columns: int
    times: int = 1


def list_products(workload: Workload, ids: Ids) -> list[Product]:
    """Return the products of one forward pass over a batch of average size; the backward pass has two for each.

    The products of attention combine each real query with the real keys of its sequence, as one product of equal size.
    """
    w = workload
    lengths = np.count_nonzero(ids, axis=1)
    n, u, d = round(lengths.sum() / w.batches), w.units, w.features
    keys = round(np.square(lengths).sum() / lengths.sum())  # keys of a real query, on average
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
    return [*middle[w.kind], Product(n if w.step_labels else w.batch, last, w.classes)]


class Limit:
    """The products of an epoch."""

    def __init__(self, workload: Workload, device: str) -> None:
        self.batches, self.device = workload.batches, device
        self.operands: list[tuple[torch.Tensor, ...]] = []
        for rows, inner, columns, times in list_products(workload, make_data(workload)[0]):
            for _ in range(times):
                left, right = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
                self.operands.append((left, right, left @ right, torch.empty_like(left), torch.empty_like(right)))

    def train(self) -> None:
        """Compute the products of the forward and backward passes of an epoch."""
        for _ in range(self.batches):
            self._forward()
            for left, right, result, grad_left, grad_right in reversed(self.operands):
                torch.mm(result, right.T, out=grad_left)
                torch.mm(left.T, result, out=grad_right)
        self._synchronize()

    def predict(self) -> None:
        """Compute the products of the forward passes of an epoch."""
        for _ in range(self.batches):
            self._forward()
        self._synchronize()

    def _forward(self) -> None:
        for left, right, result, *_ in self.operands:
            torch.mm(left, right, out=result)

    def _synchronize(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def make(variant: str, workload: Workload, device: str) -> Limit:
    """Return the peer."""
    return Limit(workload, device)
