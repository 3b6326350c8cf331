"""Metrics of torchmetrics, as they are, fed with real rows only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError
from padless.metrics.metric import Metric
from padless.ragged.alignment import align_targets
from padless.ragged.device import to_device
from padless.registry import snake_case


class TorchMetric(Metric):
    """A metric of torchmetrics, or a collection of them, fed with real rows only, as (outputs, targets).

    Rows of one output become flat, `(N,)`. Classification metrics get integer targets; Perplexity one sequence of all
    steps; aggregations such as MeanMetric the outputs alone. A result over nothing is 0.

    >>> from torchmetrics import MeanSquaredError
    >>> TorchMetric(MeanSquaredError())([[1., 2.]], [[1., 4.]]).item()
    2.0
    """

    def __init__(self, metric: Any, name: str | None = None) -> None:
        super().__init__(name=name or snake_case(type(metric).__name__))
        self.metric = metric
        self.parts = [TorchMetric(part) for part in metric.values()] if hasattr(metric, "compute_groups") else []
        homes = [f"{cls.__module__}.{cls.__name__}" for cls in type(metric).__mro__]
        self.text = any(home.startswith("torchmetrics.text.perplexity") for home in homes)
        self.classes = self.text or any(home.startswith("torchmetrics.classification") for home in homes)
        self.alone = any(home.startswith("torchmetrics.aggregation") for home in homes)

    @torch.no_grad()
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the real steps of a batch."""
        if sample_weight is not None:
            raise ArgumentError(
                f"{type(self.metric).__name__} of torchmetrics takes no sample weights. Give it under "
                f"`metrics`, not under `weighted_metrics`."
            )
        targets, rows, _ = align_targets(y_true, y_pred)
        if len(rows):
            self._feed(to_device(targets, rows.device), rows.detach())

    def _feed(self, targets: Tensor, rows: Tensor) -> None:
        for part in self.parts:
            part._feed(targets, rows)
        if self.parts:
            return
        if targets.ndim == rows.ndim and targets.shape[-1] == 1:
            targets = targets.squeeze(-1)
        whole = targets.ndim == rows.ndim
        rows = rows.reshape(-1, rows.shape[-1])
        targets = targets.reshape(rows.shape if whole else -1)
        if rows.shape[-1] == 1:
            rows, targets = rows.squeeze(-1), targets.reshape(-1)
        targets = targets.to(torch.int64 if self.classes else rows.dtype)
        self.metric.to(rows.device)
        if self.alone:
            self.metric.update(rows)
        elif self.text:
            self.metric.update(rows[None], targets[None])
        else:
            self.metric.update(rows, targets)

    def result(self) -> Any:
        """What torchmetrics computes from all that was added; a dictionary for a collection."""
        if self.parts:
            return {name: part.result() for name, part in zip(self.metric.keys(), self.parts, strict=True)}
        return self.metric.compute() if self.metric.update_called else torch.tensor(0.0)

    def reset_state(self) -> None:
        self.metric.reset()

    def get_config(self) -> dict[str, Any]:
        raise ArgumentError(
            f"{type(self.metric).__name__} of torchmetrics has no config, so it cannot be saved. "
            f"Compile again after loading."
        )
