"""Losses and metrics of a compiled model: for each output, and summed over the batches of an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from padless._threads import cached_property
from padless.data.batch_structure import pair_with_outputs
from padless.errors import ArgumentError
from padless.graph.symbolic import in_shape_inference
from padless.losses import losses
from padless.losses.loss import Loss, WeightedSum
from padless.metrics import metrics as metrics_module
from padless.metrics.metric import Mean, Metric
from padless.metrics.torchmetrics_adapter import TorchMetric
from padless.registry import is_of_padless
from padless.types import ArrayLike, BatchTree, LossLike, MetricLike

LossArgument: TypeAlias = "LossLike | Sequence[LossLike | None] | Mapping[str, LossLike | None] | None"
"""`loss` of `compile`: a loss, or for several outputs a list or a dictionary by output name."""

LossWeights: TypeAlias = "float | Sequence[float | None] | Mapping[str, float | None] | None"
"""`loss_weights` of `compile`: a number, or for several outputs a list or a dictionary by output name."""

OutputMetrics: TypeAlias = "MetricLike | Sequence[MetricLike] | None"
"""The metrics of one output: a metric or a list of them."""

MetricsArgument: TypeAlias = "OutputMetrics | Sequence[OutputMetrics] | Mapping[str, OutputMetrics]"
"""`metrics` of `compile`: a metric, a list of them, or for several outputs a list of lists or a dictionary of lists."""


@dataclass
class OutputObjective:
    """The loss and the metrics of one output of a model.

    An entry of `metrics` is a name ("accuracy") until the first batch decides which metric it is. `loss_sum` is the
    loss of the batches so far.
    """

    name: str
    loss: Loss | None = None
    coefficient: float = 1.0
    metrics: list[Metric | str] = field(default_factory=list)
    weighted_metrics: list[Metric | str] = field(default_factory=list)
    loss_sum: WeightedSum | None = None

    def resolve_metrics(self, target: BatchTree, output: BatchTree) -> None:
        """Replace the names in both lists of metrics by the metrics that fit the target and the output."""
        self.metrics = [_resolve_metric(metric, target, output) for metric in self.metrics]
        self.weighted_metrics = [_resolve_metric(metric, target, output) for metric in self.weighted_metrics]

    def named_metrics(self) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics with their names in logs; Keras numbers equal names."""
        counts: dict[str, int] = {}
        for prefix, group in (("", self.metrics), ("weighted_", self.weighted_metrics)):
            for metric in group:
                if isinstance(metric, Metric):
                    name = prefix + metric.name if metric.name in counts else metric.name
                    count = counts[name] = counts.get(name, 0) + 1
                    yield name if count == 1 else f"{name}_{count - 1}", metric


@dataclass(frozen=True)
class LossParts:
    """The parts of the loss of one batch.

    `terms` has the coefficient and the loss of each output, `layer_losses` what layers added during the call, and
    `weight_penalties` the regularization of the weights.
    """

    terms: Sequence[tuple[float, WeightedSum | None]]
    layer_losses: Sequence[Tensor] = ()
    weight_penalties: Sequence[Tensor] = ()

    @cached_property
    def total(self) -> Tensor:
        """Return the sum of all parts, a scalar for `backward`."""
        parts = [coefficient * term.value for coefficient, term in self.terms if term is not None]
        parts += [loss.sum() for loss in (*self.layer_losses, *self.weight_penalties)]
        if not parts and in_shape_inference():
            return torch.zeros(())  # layers add no losses during shape inference
        if not parts:
            raise ArgumentError(
                "There is nothing to train for: no output has a loss, and no layer adds one. Give `loss` to compile."
            )
        return sum(parts[1:], parts[0])


class CompiledObjective:
    """Losses and metrics for the outputs of a model.

    Args:
        names: the names of the outputs, in order.
        loss: `loss` of `compile`.
        loss_weights: `loss_weights` of `compile`, the coefficients of the losses.
        metrics: `metrics` of `compile`.
        weighted_metrics: `weighted_metrics` of `compile`; they use the sample weights.

    Raises:
        ArgumentError: for unknown losses, metrics and outputs.
    """

    def __init__(
        self,
        names: Sequence[str],
        loss: LossArgument = None,
        loss_weights: LossWeights = None,
        metrics: MetricsArgument = None,
        weighted_metrics: MetricsArgument = None,
    ) -> None:
        self.outputs = [OutputObjective(name) for name in names]
        for output, entry in self._by_output("loss", loss):
            output.loss = losses.get(entry)
        for output, entry in self._by_output("loss_weights", loss_weights):
            output.coefficient = _check_coefficient(entry, output.name)
        for output, entry in self._by_output("metrics", metrics):
            output.metrics = _get_metrics(entry)
        for output, entry in self._by_output("weighted_metrics", weighted_metrics):
            output.weighted_metrics = _get_metrics(entry)
        self.layer_losses: WeightedSum | None = None  # sum over the batches so far, weighted by rows
        self.weight_penalties: WeightedSum | None = None  # sum over the steps so far
        self.loss_tracker = LossTracker(self)
        self.compiled_metrics = CompiledMetrics(self)

    def _by_output(self, argument: str, value: object) -> list[tuple[OutputObjective, Any]]:
        """Return the outputs that have an entry in an argument of `compile`, with this entry, which is not checked yet."""
        entries = self._split_argument(argument, value)
        return [(output, entry) for output, entry in zip(self.outputs, entries, strict=True) if entry is not None]

    def _split_argument(self, argument: str, value: object) -> list[object]:
        """Return the entry for each output in an argument of `compile`."""
        names = [output.name for output in self.outputs]
        is_metrics = argument in ("metrics", "weighted_metrics")
        if isinstance(value, dict):
            unknown = sorted(set(value) - set(names))
            if unknown:
                raise ArgumentError(f"`{argument}` names the outputs {unknown}; the model's outputs are {names}.")
            return [value.get(name) for name in names]
        if isinstance(value, list | tuple) and (len(names) > 1 or not is_metrics):
            if len(value) != len(names):
                raise ArgumentError(f"`{argument}` must have one entry for each of the outputs {names}; got {len(value)}.")
            return list(value)
        if len(names) > 1 and is_metrics and value is not None:
            raise ArgumentError(
                f"`{argument}` of a model with the outputs {names} must be a list of lists or a dictionary by "
                f"output name; got {value!r}."
            )
        if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
            return list(value)  # a list with the list of metrics of the only output
        return [value] * len(names)

    # One batch

    def compute_parts(
        self,
        y: BatchTree,
        outputs: BatchTree,
        sample_weight: BatchTree,
        layer_losses: Sequence[Tensor] = (),
        weight_penalties: Sequence[Tensor] = (),
    ) -> LossParts:
        """Return the parts of the loss of a batch.

        Args:
            y: the targets, None if no output has a loss.
            outputs: the outputs of the model.
            sample_weight: weights of sequences or steps, or None.
            layer_losses: scalars that layers added during the call; they are weighted by rows.
            weight_penalties: scalars of the weights' regularization; they count once for each step of the optimizer.

        Raises:
            ArgumentError: if there is a loss, but no targets, or another number of outputs.
        """
        if all(objective.loss is None for objective in self.outputs):
            no_terms = [(objective.coefficient, None) for objective in self.outputs]
            return LossParts(no_terms, layer_losses, weight_penalties)
        if y is None:
            raise ArgumentError("A loss needs targets, but y is None. Give y, or batches of (x, y).")
        terms = [
            (objective.coefficient, None if objective.loss is None else objective.loss.weighted_sum(target, output, weight))
            for objective, output, target, weight in self._match(outputs, y, sample_weight)
        ]
        return LossParts(terms, layer_losses, weight_penalties)

    def _match(
        self, outputs: BatchTree, y: BatchTree, sample_weight: BatchTree
    ) -> Iterator[tuple[OutputObjective, BatchTree, BatchTree, BatchTree]]:
        """Yield the objective, output, target and sample weight of each output of the model."""
        output_list, targets = pair_with_outputs(outputs, y, "targets")
        if len(output_list) != len(self.outputs):
            names = [objective.name for objective in self.outputs]
            raise ArgumentError(f"The model gave {len(output_list)} outputs; losses and metrics are for {names}.")
        _, weights = pair_with_outputs(outputs, sample_weight, "sample weights")
        yield from zip(self.outputs, output_list, targets, weights, strict=True)

    @torch.no_grad()
    def add_loss(self, parts: LossParts, rows: int) -> None:
        """Add the loss of a batch of `rows` examples to the sums."""
        for objective, (_, term) in zip(self.outputs, parts.terms, strict=True):
            if term is not None:
                detached = WeightedSum(term.sum.detach().double(), _double(term.weight), term.adds_weights)
                objective.loss_sum = _add(objective.loss_sum, detached)
        if parts.layer_losses:
            self.layer_losses = _add(self.layer_losses, WeightedSum(_sum(parts.layer_losses) * rows, float(rows)))
        if parts.weight_penalties:
            self.weight_penalties = _add(self.weight_penalties, WeightedSum(_sum(parts.weight_penalties), 1.0))

    @torch.no_grad()
    def update_metrics(self, y: BatchTree, outputs: BatchTree, sample_weight: BatchTree) -> None:
        """Add a batch to the metrics."""
        if not any(objective.metrics or objective.weighted_metrics for objective in self.outputs):
            return
        for objective, output, target, weight in self._match(outputs, y, sample_weight):
            objective.resolve_metrics(target, output)
            for metric in _metrics_of(objective.metrics):
                metric.update_state(target, output)
            for metric in _metrics_of(objective.weighted_metrics):
                metric.update_state(target, output, weight)

    # All batches so far

    @property
    def may_keep_targets(self) -> bool:
        """Return whether a metric is not of padless. Such a metric may keep targets after an update."""
        metrics = [metric for output in self.outputs for metric in (*output.metrics, *output.weighted_metrics)]
        return any(isinstance(metric, Metric) and _may_keep_targets(metric) for metric in metrics)

    def reset(self) -> None:
        """Reset all sums."""
        self.loss_tracker.reset_state()
        self.compiled_metrics.reset_state()

    def results(self) -> dict[str, Tensor]:
        """Return the loss and the metrics of all batches so far, in Keras's order of names."""
        return {"loss": self.loss_tracker.result(), **self.compiled_metrics.result()}

    def metric_results(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the result of each metric; with several outputs in alphabetical order, as Keras."""
        named = [(objective, name, metric) for objective in self.outputs for name, metric in objective.named_metrics()]
        if len(self.outputs) > 1:
            pairs = sorted(((f"{o.name}_{name}", metric) for o, name, metric in named), key=lambda pair: pair[0])
        else:
            pairs = [(name, metric) for _, name, metric in named]
        for name, metric in pairs:
            result = metric.result()
            if isinstance(result, dict):
                yield from result.items()
            else:
                yield name, result


@dataclass(frozen=True)
class CompileArguments:
    """The losses and metrics that `compile` received, kept until the names of the outputs are known."""

    loss: LossArgument = None
    loss_weights: LossWeights = None
    metrics: MetricsArgument = None
    weighted_metrics: MetricsArgument = None

    def make_objective(self, names: Sequence[str]) -> CompiledObjective:
        """Return the losses and metrics for outputs of these names."""
        return CompiledObjective(names, self.loss, self.loss_weights, self.metrics, self.weighted_metrics)

    def has_several_outputs(self) -> bool:
        """Return whether an argument has entries for several outputs, so that it depends on their names."""
        entries = [self.loss, self.loss_weights]
        for argument in (self.metrics, self.weighted_metrics):
            entries += argument if isinstance(argument, list | tuple) else [argument]
        return any(isinstance(entry, dict | list | tuple) for entry in entries)


class LossTracker(Mean):
    """The loss of all batches so far.

    A loss of the default `compute_loss` has its sums and weights, so the loss of an epoch is exact. What a user's
    `compute_loss` or `train_step` adds to it or returns instead is averaged by `sample_weight`.
    """

    def __init__(self, objective: CompiledObjective) -> None:
        self.objective = objective
        self.pending: tuple[LossParts, int] | None = None  # the last batch and its rows, until they are added
        self.has_external_loss = False  # whether a loss came from a user's compute_loss or train_step
        super().__init__("loss")

    def reset_state(self) -> None:
        super().reset_state()
        self.has_external_loss = False
        self.pending, objective = None, self.objective
        objective.layer_losses = objective.weight_penalties = None
        for output in objective.outputs:
            output.loss_sum = None

    def update_state(self, values: Tensor | ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add the loss of a batch.

        Args:
            values: the loss. If it is the total of the last `compute_loss`, its parts are added exactly.
            sample_weight: the weight of a loss that is not this total, as the number of rows.
        """
        if self.pending is not None:
            (parts, rows), self.pending = self.pending, None
            self.objective.add_loss(parts, rows)
            if values is parts.total:
                return
            values = torch.as_tensor(values).detach() - parts.total.detach()
        self.has_external_loss = True
        super().update_state(values, sample_weight)

    def result(self) -> Tensor:
        objective = self.objective
        parts = [output.coefficient * output.loss_sum.value for output in objective.outputs if output.loss_sum is not None]
        parts += [term.value for term in (objective.layer_losses, objective.weight_penalties) if term is not None]
        if self.has_external_loss or not parts:
            parts.append(super().result())
        return sum(parts[1:], parts[0])


class CompiledMetrics(Metric):
    """The metrics of `compile` as one metric; with several outputs also the loss of each output."""

    def __init__(self, objective: CompiledObjective) -> None:
        super().__init__(name="compile_metrics")
        self.objective = objective

    def update_state(self, y_true: BatchTree, y_pred: BatchTree, sample_weight: BatchTree = None) -> None:
        """Add a batch: the targets, outputs and sample weights of all outputs."""
        self.objective.update_metrics(y_true, y_pred, sample_weight)

    def result(self) -> dict[str, Tensor]:
        outputs = self.objective.outputs
        results: dict[str, Tensor] = {}
        if len(outputs) > 1:
            results = {f"{output.name}_loss": output.loss_sum.value for output in outputs if output.loss_sum is not None}
        return results | dict(self.objective.metric_results())

    def reset_state(self) -> None:
        for output in self.objective.outputs:
            for metric in (*_metrics_of(output.metrics), *_metrics_of(output.weighted_metrics)):
                metric.reset_state()


def _metrics_of(entries: Sequence[Metric | str]) -> Iterator[Metric]:
    """Yield the entries that are metrics already."""
    return (entry for entry in entries if isinstance(entry, Metric))


def _may_keep_targets(metric: Metric) -> bool:
    """Return whether the code that updates a metric is not of padless: that of a user, or of torchmetrics."""
    return isinstance(metric, TorchMetric) or not is_of_padless(type(metric))


def _double(weight: Tensor | float) -> Tensor | float:
    return weight.double() if isinstance(weight, Tensor) else weight


def _add(total: WeightedSum | None, term: WeightedSum) -> WeightedSum:
    return term if total is None else total + term


def _sum(losses: Sequence[Tensor]) -> Tensor:
    """Return the sum of scalars, detached and in double precision."""
    return torch.stack([loss.detach().double().reshape(()) for loss in losses]).sum()


def _check_coefficient(value: object, output_name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArgumentError(f"`loss_weights` must be numbers; got {value!r} for output {output_name!r}.")
    return float(value)


def _get_metrics(value: MetricLike | list[MetricLike] | tuple[MetricLike, ...] | None) -> list[Metric | str]:
    """Return the metrics of one output; "accuracy" stays a name, because the data decide which metric it is."""
    entries = value if isinstance(value, list | tuple) else [value]
    return [
        entry if isinstance(entry, str) and entry.lower() in ("accuracy", "acc") else metrics_module.get(entry)
        for entry in entries
    ]


def _resolve_metric(metric: Metric | str, target: BatchTree, output: BatchTree) -> Metric:
    return metric if isinstance(metric, Metric) else metrics_module.get(metric, target, output)
