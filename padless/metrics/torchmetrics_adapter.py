"""Metrics of torchmetrics, which get the real steps only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from padless._utils.optional_import import import_optional
from padless.errors import ArgumentError
from padless.metrics.metric import Metric
from padless.ragged.alignment import align_targets
from padless.ragged.device import to_device
from padless.registry import snake_case
from padless.types import ArrayLike, Config

if TYPE_CHECKING:
    import torchmetrics


class TorchMetric(Metric):
    """A metric of torchmetrics, or a collection of them, called with `(outputs, targets)` of the real steps.

    Outputs of one feature become `(N,)`. Classification metrics get integer targets. `Perplexity` gets all steps as one
    sequence. Aggregations such as `MeanMetric` get the outputs only. The state is that of the metric.

    Args:
        metric: A metric or `MetricCollection` of torchmetrics.
        name: The name. Default: the name of its class in snake case.

    Example:
        >>> from torchmetrics import MeanSquaredError
        >>> TorchMetric(MeanSquaredError())([[1., 2.]], [[1., 4.]]).item()
        2.0
    """

    def __init__(self, metric: Any, name: str | None = None) -> None:  # torchmetrics is imported by its users only
        super().__init__(name=name or snake_case(type(metric).__name__))
        self.metric = metric
        is_collection = hasattr(metric, "compute_groups")
        self.members = [TorchMetric(member) for member in metric.values()] if is_collection else []
        self.is_perplexity = _is_of(metric, "torchmetrics.text.perplexity")
        self.takes_integers = self.is_perplexity or _is_of(metric, "torchmetrics.classification")
        self.takes_outputs_only = _is_of(metric, "torchmetrics.aggregation")

    @torch.no_grad()
    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add the real steps of a batch.

        Raises:
            ArgumentError: There are sample weights, which torchmetrics does not take.
        """
        if sample_weight is not None:
            raise ArgumentError(
                f"{type(self.metric).__name__} of torchmetrics takes no sample weights. Give it under "
                f"`metrics`, not under `weighted_metrics`."
            )
        targets, rows, _ = align_targets(y_true, y_pred)
        if len(rows):
            self._update_metric(to_device(targets, rows.device), rows.detach())

    def _update_metric(self, targets: Tensor, rows: Tensor) -> None:
        """Call `update` of the metric, or of all members of the collection."""
        if self.members:
            for member in self.members:
                member._update_metric(targets, rows)
            return
        if targets.ndim == rows.ndim and targets.shape[-1] == 1:
            targets = targets.squeeze(-1)
        has_features = targets.ndim == rows.ndim
        rows = rows.reshape(-1, rows.shape[-1])
        targets = targets.reshape(rows.shape if has_features else -1)
        if rows.shape[-1] == 1:
            rows, targets = rows.squeeze(-1), targets.reshape(-1)
        targets = targets.to(torch.int64 if self.takes_integers else rows.dtype)
        self.metric.to(rows.device)
        if self.takes_outputs_only:
            self.metric.update(rows)
        elif self.is_perplexity:
            self.metric.update(rows[None], targets[None])
        else:
            self.metric.update(rows, targets)

    def result(self) -> Tensor | dict[str, Any]:
        """Return what torchmetrics computes, for a collection a dictionary; 0 before the first real step."""
        if self.members:
            return {name: member.result() for name, member in zip(self.metric.keys(), self.members, strict=True)}
        return self.metric.compute() if self.metric.update_called else torch.tensor(0.0)

    def reset_state(self) -> None:
        self.metric.reset()

    def get_config(self) -> Config:
        raise ArgumentError(
            f"{type(self.metric).__name__} of torchmetrics has no config, so it cannot be saved. "
            f"Compile again after loading."
        )


def _is_of(metric: object, prefix: str) -> bool:
    """Return whether the full name of the class, or of one of its bases, starts with `prefix`."""
    return any(f"{cls.__module__}.{cls.__name__}".startswith(prefix) for cls in type(metric).__mro__)


def torchmetrics_in(module: nn.Module) -> list[torchmetrics.Metric]:
    """Return the metrics of torchmetrics in a module, without their collections."""
    base: type[torchmetrics.Metric] = import_optional("torchmetrics", "a metric of torchmetrics").Metric
    return [inner for inner in module.modules() if isinstance(inner, base)]


def save_torchmetric(metric: torchmetrics.Metric) -> dict[str, object]:
    """Return the state of a metric of torchmetrics, without a copy."""
    return {"class": type(metric).__name__, "states": dict(metric.metric_state), "count": metric.update_count}


def load_torchmetric(metric: torchmetrics.Metric, state: Mapping[str, Any]) -> None:
    """Restore a state that `save_torchmetric` returned."""
    metric.reset()  # discards the cached result
    metric.load_state_dict(state["states"], strict=False)
    metric._update_count = state["count"]  # pyright: ignore[reportAttributeAccessIssue] - there is no public function
