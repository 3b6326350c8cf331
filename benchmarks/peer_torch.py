"""Plain PyTorch in a hand-written loop: padded, cropped to the longest row of each batch, or by PackedSequence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from benchmarks.peers import Arrays
from benchmarks.torch_models import Scores, net
from benchmarks.workloads import Workload, data


class Batch(NamedTuple):
    """What the model gets, right-padded, and where it stood."""

    ids: Tensor
    labels: Tensor
    lengths: Tensor  # on the host, where pack_padded_sequence wants them
    order: Tensor | None  # of the steps of each row, real ones first, if the data have holes


class Torch:
    """A model and its loop."""

    def __init__(self, variant: str, workload: Workload, device: str) -> None:
        self.variant, self.workload = variant, workload
        ids, labels = data(workload)
        self.ids, self.labels = torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device)
        self.lengths = torch.from_numpy((ids != 0).sum(1))
        self.net = net(workload, packed=variant == "packed").to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3, eps=1e-7)

    def train(self) -> None:
        """One epoch."""
        self.net.train()
        total = torch.zeros((), device=self.ids.device)
        for rows in torch.randperm(len(self.ids)).split(self.workload.batch):
            loss = self._loss(self._batch(rows))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        total.item()

    @torch.no_grad()
    def predict(self) -> Tensor:
        """All rows."""
        self.net.eval()
        batches = torch.arange(len(self.ids)).split(self.workload.batch)
        return torch.cat([self._outputs(self._batch(rows)) for rows in batches])

    @torch.no_grad()
    def predict_one(self) -> None:
        """The first row."""
        self.net.eval()
        self._outputs(self._batch(torch.zeros(1, dtype=torch.int64)))

    def call_one(self) -> None:
        """The same: there is no `predict` to be without."""
        self.predict_one()

    def load(self, weights: Arrays) -> None:
        """Take over Keras's weights."""
        self.net.load(iter([torch.from_numpy(weight) for weight in weights]))

    @torch.no_grad()
    def loss(self) -> float:
        """Of the first batch."""
        self.net.eval()
        return self._loss(self._batch(torch.arange(self.workload.batch))).item()

    def _batch(self, rows: Tensor) -> Batch:
        ids, labels, lengths, order = self.ids[rows], self.labels[rows], self.lengths[rows], None
        if self.workload.holes:
            order = (ids == 0).byte().argsort(dim=1, stable=True)
            ids, labels = ids.gather(1, order), labels.gather(1, order)
        if self.variant == "cropped":
            longest = int(lengths.max())
            ids, labels = ids[:, :longest], labels[:, :longest] if self.workload.tags else labels
        return Batch(ids, labels, lengths, order)

    def _loss(self, batch: Batch) -> Tensor:
        """The mean over real steps, or over rows."""
        scores: Scores = self.net(batch.ids, batch.lengths)
        if isinstance(scores, PackedSequence):
            targets = pack_padded_sequence(batch.labels, batch.lengths, batch_first=True, enforce_sorted=False)
            return functional.cross_entropy(scores.data, targets.data)
        if self.workload.tags:
            targets = batch.labels.masked_fill(batch.ids == 0, -100)
            return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
        return functional.cross_entropy(scores, batch.labels)

    def _outputs(self, batch: Batch) -> Tensor:
        """On the host and on the grid of the data, as `predict` of the others gives them."""
        scores: Scores = self.net(batch.ids, batch.lengths)
        width = self.workload.width
        if isinstance(scores, PackedSequence):
            scores = pad_packed_sequence(scores, batch_first=True, total_length=width)[0]
        if self.workload.tags and scores.shape[1] < width:
            scores = functional.pad(scores, (0, 0, 0, width - scores.shape[1]))
        if batch.order is not None:
            scores = torch.empty_like(scores).scatter_(1, batch.order[..., None].expand_as(scores), scores)
        return scores.cpu()


def make(variant: str, workload: Workload, device: str) -> Torch:
    """The peer."""
    return Torch(variant, workload, device)
