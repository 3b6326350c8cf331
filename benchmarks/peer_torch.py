"""Plain PyTorch in a hand-written loop: padded, cropped to the longest sequence of a batch, or by PackedSequence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from benchmarks.peers import Arrays
from benchmarks.torch_models import Scores, build_net
from benchmarks.workloads import Workload, make_data


class Batch(NamedTuple):
    """The right-padded inputs of the model.

    Attributes:
        ids: Ids `(B, T)`.
        labels: Labels `(B, T)` or `(B,)`.
        lengths: Real steps of each sequence, on the host, as `pack_padded_sequence` requires.
        order: If the data have gaps, the steps `(B, T)` of each sequence in the order real, masked.
    """

    ids: Tensor
    labels: Tensor
    lengths: Tensor
    order: Tensor | None


class TorchPeer:
    """A model and its training loop."""

    def __init__(self, variant: str, workload: Workload, device: str) -> None:
        self.variant, self.workload = variant, workload
        ids, labels = make_data(workload)
        self.ids, self.labels = torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device)
        self.lengths = torch.from_numpy((ids != 0).sum(1))
        self.net = build_net(workload, packed=variant == "packed").to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3, eps=1e-7)

    def train(self) -> None:
        """Train for one epoch."""
        self.net.train()
        total = torch.zeros((), device=self.ids.device)
        for rows in torch.randperm(len(self.ids)).split(self.workload.batch):
            loss = self._loss(self._make_batch(rows))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        total.item()

    @torch.no_grad()
    def predict(self) -> Tensor:
        """Return the outputs for all sequences, on the host."""
        self.net.eval()
        batches = torch.arange(len(self.ids)).split(self.workload.batch)
        return torch.cat([self._outputs(self._make_batch(rows)) for rows in batches])

    @torch.no_grad()
    def predict_one(self) -> None:
        """Compute the outputs for the first sequence."""
        self.net.eval()
        self._outputs(self._make_batch(torch.zeros(1, dtype=torch.int64)))

    def call_one(self) -> None:
        """Compute the outputs for the first sequence; plain torch has no other way."""
        self.predict_one()

    def load(self, weights: Arrays) -> None:
        """Set the weights, in Keras's order and shapes."""
        self.net.load(iter([torch.from_numpy(weight) for weight in weights]))

    @torch.no_grad()
    def loss(self) -> float:
        """Return the loss of the first batch."""
        self.net.eval()
        return self._loss(self._make_batch(torch.arange(self.workload.batch))).item()

    def _make_batch(self, rows: Tensor) -> Batch:
        """Return a batch; gaps are moved to the end of each sequence."""
        ids, labels, lengths, order = self.ids[rows], self.labels[rows], self.lengths[rows], None
        if self.workload.gaps:
            order = (ids == 0).byte().argsort(dim=1, stable=True)
            ids, labels = ids.gather(1, order), labels.gather(1, order)
        if self.variant == "cropped":
            longest = int(lengths.max())
            ids, labels = ids[:, :longest], labels[:, :longest] if self.workload.step_labels else labels
        return Batch(ids, labels, lengths, order)

    def _loss(self, batch: Batch) -> Tensor:
        """Return the mean over the real steps, or over the sequences."""
        scores: Scores = self.net(batch.ids, batch.lengths)
        if isinstance(scores, PackedSequence):
            targets = pack_padded_sequence(batch.labels, batch.lengths, batch_first=True, enforce_sorted=False)
            return functional.cross_entropy(scores.data, targets.data)
        if self.workload.step_labels:
            targets = batch.labels.masked_fill(batch.ids == 0, -100)
            return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
        return functional.cross_entropy(scores, batch.labels)

    def _outputs(self, batch: Batch) -> Tensor:
        """Return the outputs on the host, on the grid of the data."""
        scores: Scores = self.net(batch.ids, batch.lengths)
        width = self.workload.width
        if isinstance(scores, PackedSequence):
            scores = pad_packed_sequence(scores, batch_first=True, total_length=width)[0]
        if self.workload.step_labels and scores.shape[1] < width:
            scores = functional.pad(scores, (0, 0, 0, width - scores.shape[1]))
        if batch.order is not None:
            scores = torch.empty_like(scores).scatter_(1, batch.order[..., None].expand_as(scores), scores)
        return scores.cpu()


def make(variant: str, workload: Workload, device: str) -> TorchPeer:
    """Return the peer."""
    return TorchPeer(variant, workload, device)
