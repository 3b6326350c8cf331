"""What a model is trained for: losses and metrics of its outputs, and their exact sums over everything seen so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from padless.data.batch_structure import pair_with_outputs
from padless.errors import ArgumentError
from padless.graph.symbolic import in_shape_inference
from padless.losses import losses
from padless.losses.loss import Loss, WeightedSum
from padless.metrics import metrics
from padless.metrics.metric import Mean, Metric


@dataclass
class OutputObjective:
    """One output of the model: its loss with a coefficient, its metrics, and its sums."""

    name: str
    loss: Loss | None = None
    coefficient: float = 1.0
    metrics: list[Any] = field(default_factory=list)
    weighted: list[Any] = field(default_factory=list)
    seen: WeightedSum | None = None


@dataclass(frozen=True)
class LossParts:
    """The loss of one batch: with its coefficient a term for each output, what layers added, and what weights cost."""

    terms: Sequence[tuple[float, WeightedSum | None]]
    added: Sequence[Tensor] = ()
    once: Sequence[Tensor] = ()

    @cached_property
    def total(self) -> Tensor:
        """All of it, for `backward`."""
        parts = [coefficient * term.value for coefficient, term in self.terms if term is not None]
        parts += [loss.sum() for loss in (*self.added, *self.once)]
        if not parts and in_shape_inference():
            return torch.zeros(())  # in a trial layers add nothing
        if not parts:
            raise ArgumentError(
                "There is nothing to train for: no output has a loss, and no layer adds one. Give `loss` to compile."
            )
        return sum(parts[1:], parts[0])


class CompiledObjective:
    """Losses and metrics for the outputs of a model, by their names, in order.

    `loss`, `metrics` and `weighted_metrics` are for one output a name, an object, a function (or a list of metrics); for
    several a list or a dictionary by output name. `loss_weights` are the coefficients. Names are resolved here, so
    unknown ones are refused before training. `extra` are terms that belong to no output: regularization, `add_loss`.
    """

    def __init__(
        self,
        names: Sequence[str],
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
    ) -> None:
        self.outputs = [OutputObjective(name) for name in names]
        for what, given, put in (
            ("loss", loss, _put_loss),
            ("loss_weights", loss_weights, _put_weight),
            ("metrics", metrics, _put_metrics("metrics")),
            ("weighted_metrics", weighted_metrics, _put_metrics("weighted")),
        ):
            for output, own in zip(self.outputs, self._by_output(what, given), strict=True):
                if own is not None:
                    put(output, own)
        self.extra: WeightedSum | None = None
        self.once: WeightedSum | None = None
        self.tracker = LossTracker(self)
        self.compiled = CompiledMetrics(self)

    def _by_output(self, what: str, given: Any) -> list[Any]:
        """What is given, one entry for each output."""
        names = [output.name for output in self.outputs]
        several = len(names) > 1
        if isinstance(given, dict):
            unknown = sorted(set(given) - set(names))
            if unknown:
                raise ArgumentError(f"`{what}` names the outputs {unknown}; the model's outputs are {names}.")
            return [given.get(name) for name in names]
        if isinstance(given, list | tuple) and (several or what in ("loss", "loss_weights")):
            if len(given) != len(names):
                raise ArgumentError(f"`{what}` must have one entry for each of the outputs {names}; got {len(given)}.")
            return list(given)
        if not several and isinstance(given, list | tuple) and len(given) == 1 and isinstance(given[0], list | tuple):
            return list(given)  # the list of the one output's metrics
        if several and what in ("metrics", "weighted_metrics") and given is not None:
            raise ArgumentError(
                f"`{what}` of a model with the outputs {names} must be a list of lists or a dictionary by "
                f"output name; got {given!r}."
            )
        return [given] * len(names)

    # ------------------------------------------------------------------------------------------------ one batch

    def parts(
        self, y: Any, outputs: Any, weights: Any, added: Sequence[Tensor] = (), once: Sequence[Tensor] = ()
    ) -> LossParts:
        """The loss of a batch in its parts; `added` by layers counts by rows, `once` by steps of the optimizer."""
        if not any(output.loss is not None for output in self.outputs):
            return LossParts([(mine.coefficient, None) for mine in self.outputs], added, once)
        if y is None:
            raise ArgumentError("A loss needs targets, but y is None. Give y, or batches of (x, y).")
        own, targets = self._matched(outputs, y, "targets")
        _, given = pair_with_outputs(outputs, weights, "sample weights")
        terms = [
            None if mine.loss is None else mine.loss.weighted_sum(target, output, weight)
            for mine, target, output, weight in zip(self.outputs, targets, own, given, strict=True)
        ]
        return LossParts([(mine.coefficient, term) for mine, term in zip(self.outputs, terms, strict=True)], added, once)

    def _matched(self, outputs: Any, given: Any, what: str) -> tuple[list[Any], list[Any]]:
        own, theirs = pair_with_outputs(outputs, given, what)
        if len(own) != len(self.outputs):
            raise ArgumentError(
                f"The model gave {len(own)} outputs; losses and metrics are for {[output.name for output in self.outputs]}."
            )
        return own, theirs

    @torch.no_grad()
    def see(self, parts: LossParts, rows: int) -> None:
        """Add the loss of one batch to the sums."""
        for own, (_, term) in zip(self.outputs, parts.terms, strict=True):
            if term is not None:
                own.seen = _plus(own.seen, WeightedSum(term.sum.detach().double(), _double(term.weight), term.adds_weights))
        if parts.added:
            self.extra = _plus(self.extra, WeightedSum(_sum(parts.added) * rows, float(rows)))
        if parts.once:
            self.once = _plus(self.once, WeightedSum(_sum(parts.once), 1.0))

    @torch.no_grad()
    def measure(self, y: Any, outputs: Any, weights: Any) -> None:
        """Add one batch to the metrics."""
        if not any(output.metrics or output.weighted for output in self.outputs):
            return
        found, targets = self._matched(outputs, y, "targets")
        _, given = pair_with_outputs(outputs, weights, "sample weights")
        for own, target, output, weight in zip(self.outputs, targets, found, given, strict=True):
            own.metrics = [_fitting(metric, target, output) for metric in own.metrics]
            own.weighted = [_fitting(metric, target, output) for metric in own.weighted]
            for metric in own.metrics:
                metric.update_state(target, output)
            for metric in own.weighted:
                metric.update_state(target, output, weight)

    # ------------------------------------------------------------------------------------------------ all so far

    def reset(self) -> None:
        """Forget all sums."""
        self.tracker.reset_state()
        self.compiled.reset_state()

    def results(self) -> dict[str, Tensor]:
        """The loss and the metrics of everything seen, in Keras's order of names."""
        return {"loss": self.tracker.result(), **self.compiled.result()}

    def measured(self) -> Iterator[tuple[str, Any]]:
        """Each metric's name and result."""
        several = len(self.outputs) > 1
        pairs = [
            (f"{output.name}_{name}" if several else name, metric)
            for output in self.outputs
            for name, metric in _named(output)
        ]
        for name, metric in sorted(pairs, key=lambda pair: pair[0]) if several else pairs:
            value = metric.result()
            if isinstance(value, dict):
                yield from value.items()
            else:
                yield name, value


class LossTracker(Mean):
    """The loss so far: exact for what the default `compute_loss` gave, for the rest a mean as it is told to weigh.

    A loss that `compute_loss` of the model made comes with its sums and weights, and is counted by these. What a
    `compute_loss` or `train_step` of one's own adds to it, or takes in its place, is a mean by `sample_weight`.
    """

    def __init__(self, objective: CompiledObjective) -> None:
        self.objective = objective
        self.pending: tuple[LossParts, int] | None = None  # of the last batch, and its rows, until they have been counted
        self.told = False  # whether anybody but the objective said what the loss is
        super().__init__("loss")

    def reset_state(self) -> None:
        super().reset_state()
        self.told = False
        self.pending, objective = None, self.objective
        objective.extra = objective.once = None
        for output in objective.outputs:
            output.seen = None

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Add the loss of a batch."""
        if self.pending is not None:
            (parts, rows), self.pending = self.pending, None
            self.objective.see(parts, rows)
            if values is parts.total:
                return
            values = torch.as_tensor(values).detach() - parts.total.detach()
        self.told = True
        super().update_state(values, sample_weight)

    def result(self) -> Tensor:
        objective = self.objective
        parts = [o.coefficient * o.seen.value for o in objective.outputs if o.seen is not None]
        parts += [term.value for term in (objective.extra, objective.once) if term is not None]
        if self.told or not parts:
            parts.append(super().result())
        return sum(parts[1:], parts[0])


class CompiledMetrics(Metric):
    """The metrics given to `compile`, as one; with several outputs also the loss of each."""

    def __init__(self, objective: CompiledObjective) -> None:
        super().__init__(name="compile_metrics")
        self.objective = objective

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch: targets, outputs and weights as `fit` knows them."""
        self.objective.measure(y_true, y_pred, sample_weight)

    def result(self) -> dict[str, Any]:
        outputs = self.objective.outputs
        found: dict[str, Any] = {}
        if len(outputs) > 1:
            found |= {f"{o.name}_loss": o.seen.value for o in outputs if o.seen is not None}
        return found | dict(self.objective.measured())

    def reset_state(self) -> None:
        for output in self.objective.outputs:
            for metric in (*output.metrics, *output.weighted):
                if isinstance(metric, Metric):
                    metric.reset_state()


def _named(output: OutputObjective) -> Iterator[tuple[str, Metric]]:
    """The metrics of an output with the names that Keras gives them where several are called the same."""
    taken: dict[str, int] = {}
    for prefix, group in (("", output.metrics), ("weighted_", output.weighted)):
        for metric in group:
            if isinstance(metric, Metric):
                name = prefix + metric.name if metric.name in taken else metric.name
                count = taken[name] = taken.get(name, 0) + 1
                yield name if count == 1 else f"{name}_{count - 1}", metric


def _double(weight: Tensor | float) -> Tensor | float:
    return weight.double() if isinstance(weight, Tensor) else weight


def _plus(seen: WeightedSum | None, new: WeightedSum) -> WeightedSum:
    return new if seen is None else seen + new


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.detach().double().reshape(()) for part in parts]).sum()


def _put_loss(output: OutputObjective, given: Any) -> None:
    output.loss = losses.get(given)


def _put_weight(output: OutputObjective, given: Any) -> None:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise ArgumentError(f"`loss_weights` must be numbers; got {given!r} for output {output.name!r}.")
    output.coefficient = float(given)


def _put_metrics(where: str) -> Callable[[OutputObjective, Any], None]:
    def put(output: OutputObjective, given: Any) -> None:
        several = given if isinstance(given, list | tuple) else [given]
        setattr(output, where, [name if _open(name) else metrics.get(name) for name in several])

    return put


def _open(identifier: Any) -> bool:
    """Whether only the data say which metric this is."""
    return isinstance(identifier, str) and identifier.lower() in ("accuracy", "acc")


def _fitting(metric: Any, target: Any, output: Any) -> Metric:
    """The metric, chosen now by the shapes of targets and outputs if it was left open."""
    return metric if isinstance(metric, Metric) else metrics.get(metric, target, output)
