"""padless layers in a hand-written torch loop. The difference to this peer is what `fit` adds to a step."""

from __future__ import annotations

from typing import Any

import torch

import padless
from benchmarks.models import build
from benchmarks.workloads import Workload, make_data


class Loop:
    """A model that is trained in a loop."""

    def __init__(self, workload: Workload, device: str) -> None:
        ids, labels = make_data(workload)
        self.ids, self.labels = torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device)
        self.batch = workload.batch
        model = build(padless, workload).to(device)
        self.layers: list[Any] = model.layers[1:]  # without the InputLayer
        self.optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def train(self) -> None:
        """Train for one epoch."""
        total = torch.zeros((), device=self.ids.device)
        for rows in torch.randperm(len(self.ids)).split(self.batch):
            h: Any = self.ids[rows]
            for layer in self.layers:
                h = layer(h)
            loss = torch.nn.functional.cross_entropy(h, self.labels[rows])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        total.item()


def make(variant: str, workload: Workload, device: str) -> Loop:
    """Return the peer."""
    return Loop(workload, device)
