"""Confusion counts at thresholds, and what is made of them: precision, recall, and one at a given value of the other.

An output is positive where it is above a threshold. The counts of all thresholds come from one sorting into the spaces
between them. torchmetrics is no help here: it takes no weights, and puts a sigmoid on every batch that leaves [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.losses.base import check_range
from padless.metrics.metric import Metric, Variable, align_rows, divide_or_zero, register_metric, sum_dtype, to_indicators
from padless.ragged.device import to_device

LOW = -1e10  # Keras's number for outputs that are not among the largest k


class ConfusionCounts(Metric):
    """True and false, positive and negative, at each threshold: sums, for all labels together or for each."""

    def __init__(self, thresholds: Sequence[float], name: str | None, dtype: str | None, labels: int | None = 1) -> None:
        super().__init__(dtype, name)
        self._cuts = [float(cut) for cut in thresholds]
        order = sorted(range(len(self._cuts)), key=self._cuts.__getitem__)
        self._ascending, self._order = [self._cuts[place] for place in order], torch.tensor(order, device="cpu")
        self._counts: Variable | None = None
        if labels is not None:
            self._for(labels)

    def _for(self, labels: int) -> Variable:
        """The sums, made for this many labels if they are not yet."""
        if self._counts is None:
            shape = (4, len(self._cuts)) if labels == 1 else (4, len(self._cuts), labels)
            self._counts = self.add_variable(shape, name="confusion")
        return self._counts

    def count(self, targets: Tensor, rows: Tensor, weight: Tensor | None, labels: int = 1) -> None:
        """Add outputs, whose last axis is that of the labels if these are counted apart."""
        total = self._for(labels)
        cuts = to_device(torch.tensor(self._ascending, dtype=rows.dtype, device="cpu"), rows.device)
        space = torch.searchsorted(cuts, torch.where(rows.isnan(), -torch.inf, rows).contiguous())
        cell = space.reshape(-1, labels) * labels + torch.arange(labels, device=rows.device)
        weight = torch.ones_like(rows, dtype=sum_dtype(rows)) if weight is None else weight
        found = []
        for own in (targets != 0, targets == 0):
            cells = weight.new_zeros((len(cuts) + 1) * labels, dtype=sum_dtype(rows))
            cells.index_add_(0, cell.reshape(-1), torch.where(own, weight, 0).to(cells.dtype).reshape(-1))
            above = cells.reshape(-1, labels).flip(0).cumsum(0).flip(0)  # all that lies in a space or beyond
            found += [above[1:], above[0] - above[1:]]
        sums = torch.empty_like(torch.stack(found))
        sums[:, to_device(self._order, rows.device)] = torch.stack(found)
        total.assign_add(sums.reshape(total.shape))

    @property
    def _known(self) -> Tensor:
        return torch.zeros(4, len(self._cuts)) if self._counts is None else self._counts + 0

    @property
    def true_positives(self) -> Tensor:
        """For each threshold, the positive labels above it."""
        return self._known[0]

    @property
    def false_negatives(self) -> Tensor:
        """For each threshold, the positive labels not above it."""
        return self._known[1]

    @property
    def false_positives(self) -> Tensor:
        """For each threshold, the negative labels above it."""
        return self._known[2]

    @property
    def true_negatives(self) -> Tensor:
        """For each threshold, the negative labels not above it."""
        return self._known[3]

    def rate(self, part: str, rest: str) -> Tensor:
        """One count out of two, 0 out of none."""
        return divide_or_zero(getattr(self, part), getattr(self, part) + getattr(self, rest))

    @property
    def recalls(self) -> Tensor:
        """How many of the positive labels are found."""
        return self.rate("true_positives", "false_negatives")

    @property
    def precisions(self) -> Tensor:
        """How many of the positive outputs are right."""
        return self.rate("true_positives", "false_positives")

    @property
    def specificities(self) -> Tensor:
        """How many of the negative labels are found."""
        return self.rate("true_negatives", "false_positives")


def even_thresholds(num_thresholds: int) -> list[float]:
    """Thresholds from 0 to 1, evenly spaced; 0.5 if there is only one."""
    if num_thresholds < 1:
        raise ArgumentError(f"`num_thresholds` must be above 0; got {num_thresholds!r}.")
    return [i / (num_thresholds - 1) for i in range(num_thresholds)] if num_thresholds > 1 else [0.5]


class _AtThresholds(ConfusionCounts):
    """Counts at the thresholds that the user gives: one number for one, else one for each."""

    def __init__(
        self, thresholds: Any, top_k: int | None, class_id: int | None, name: str | None, dtype: str | None
    ) -> None:
        given = [] if thresholds is None else list(thresholds) if isinstance(thresholds, list | tuple) else [thresholds]
        for cut in given:
            if cut is None or not 0 <= cut <= 1:
                raise ArgumentError(f"`thresholds` must be between 0 and 1; got {cut!r}.")
        super().__init__(given or [0.5 if top_k is None else LOW], name, dtype)
        self.thresholds, self.top_k, self.class_id = thresholds, top_k, class_id

    @torch.no_grad()
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the real steps of a batch; targets are in the shape of the outputs, or class ids."""
        targets, rows, weight = align_rows(y_true, y_pred, sample_weight)
        targets = to_indicators(targets, rows)
        if self.top_k is not None:
            top = rows.topk(min(self.top_k, rows.shape[-1])).indices
            rows = torch.where(torch.zeros_like(rows, dtype=torch.bool).scatter(-1, top, True), rows, LOW)
        self.count(*select_class(self.class_id, targets, rows, weight))

    def shown(self, values: Tensor) -> Tensor:
        """One number for one threshold."""
        return self.cast(values[0] if len(self._cuts) == 1 else values + 0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "thresholds": self.thresholds}


def select_class(
    class_id: int | None, targets: Tensor, rows: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same for one class only."""
    if class_id is None:
        return targets, rows, weight
    if not 0 <= class_id < rows.shape[-1]:
        raise ShapeError(f"`class_id` is {class_id}, but the outputs have {rows.shape[-1]} classes.")
    kept = slice(class_id, class_id + 1)
    return targets[..., kept], rows[..., kept], None if weight is None else weight[..., kept]


class _Count(_AtThresholds):
    part = "true_positives"

    def __init__(self, thresholds: Any = None, name: str | None = None, dtype: str | None = None) -> None:
        super().__init__(thresholds, None, None, name, dtype)

    def result(self) -> Tensor:
        """The count over all that was added, for each threshold if there are several."""
        return self.shown(getattr(self, self.part))


@register_metric()
class TruePositives(_Count):
    """How many positive labels have outputs above the threshold, or each of several thresholds; 0.5 if none is given.

    >>> TruePositives()([[1], [1], [0]], [[0.9], [0.2], [0.8]]).item()
    1.0
    """


@register_metric()
class FalsePositives(_Count):
    """How many negative labels have outputs above the threshold.

    >>> FalsePositives()([[1], [1], [0]], [[0.9], [0.2], [0.8]]).item()
    1.0
    """

    part = "false_positives"


@register_metric()
class TrueNegatives(_Count):
    """How many negative labels have outputs that are not above the threshold.

    >>> TrueNegatives()([[1], [1], [0]], [[0.9], [0.2], [0.8]]).item()
    0.0
    """

    part = "true_negatives"


@register_metric()
class FalseNegatives(_Count):
    """How many positive labels have outputs that are not above the threshold.

    >>> FalseNegatives()([[1], [1], [0]], [[0.9], [0.2], [0.8]]).item()
    1.0
    """

    part = "false_negatives"


class _Rate(_AtThresholds):
    def __init__(
        self,
        thresholds: Any = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(thresholds, top_k, class_id, name, dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "top_k": self.top_k, "class_id": self.class_id}


@register_metric()
class Precision(_Rate):
    """How many of the positive outputs are right: above a threshold, among the `top_k` of their step, or both.

    With `class_id` only of that class. Several thresholds give one number each; nothing positive gives 0.

    >>> Precision()([[1, 1, 0]], [[0.9, 0.2, 0.8]]).item()
    0.5
    """

    def result(self) -> Tensor:
        """The precision over all that was added."""
        return self.shown(self.precisions)


@register_metric()
class Recall(_Rate):
    """How many of the positive labels have positive outputs; arguments as those of `Precision`.

    >>> Recall()([[1, 1, 0]], [[0.9, 0.2, 0.8]]).item()
    0.5
    """

    def result(self) -> Tensor:
        """The recall over all that was added."""
        return self.shown(self.recalls)


class _At(ConfusionCounts):
    """The best of one rate among the thresholds where the other is at least `value`; 0 where there is none."""

    what = rate_of = best_of = ""

    def __init__(self, value: float, num_thresholds: int, class_id: int | None, name: str | None, dtype: str | None) -> None:
        check_range(self.what, value, 0, 1)
        super().__init__(even_thresholds(num_thresholds), name, dtype)
        setattr(self, self.what, value)
        self.num_thresholds, self.class_id = num_thresholds, class_id

    @torch.no_grad()
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the real steps of a batch."""
        targets, rows, weight = align_rows(y_true, y_pred, sample_weight)
        self.count(*select_class(self.class_id, to_indicators(targets, rows), rows.clamp(0, 1), weight))

    def result(self) -> Tensor:
        """The best rate over all that was added."""
        enough = getattr(self, self.rate_of) >= getattr(self, self.what)
        return self.cast(torch.where(enough, getattr(self, self.best_of), 0).amax())

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            self.what: getattr(self, self.what),
            "num_thresholds": self.num_thresholds,
            "class_id": self.class_id,
        }


@register_metric()
class SensitivityAtSpecificity(_At):
    """The best sensitivity (recall) among thresholds where the specificity is at least this.

    >>> SensitivityAtSpecificity(0.5)([[0], [0], [1], [1]], [[0.0], [0.5], [0.3], [0.9]]).item()
    1.0
    """

    what, rate_of, best_of = "specificity", "specificities", "recalls"

    def __init__(
        self,
        specificity: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(specificity, num_thresholds, class_id, name, dtype)


@register_metric()
class SpecificityAtSensitivity(_At):
    """The best specificity among thresholds where the sensitivity (recall) is at least this.

    >>> SpecificityAtSensitivity(0.5)([[0], [0], [1], [1]], [[0.0], [0.5], [0.3], [0.9]]).item()
    1.0
    """

    what, rate_of, best_of = "sensitivity", "recalls", "specificities"

    def __init__(
        self,
        sensitivity: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(sensitivity, num_thresholds, class_id, name, dtype)


@register_metric()
class PrecisionAtRecall(_At):
    """The best precision among thresholds where the recall is at least this.

    >>> PrecisionAtRecall(0.5)([[0], [0], [1], [1]], [[0.0], [0.5], [0.3], [0.9]]).item()
    1.0
    """

    what, rate_of, best_of = "recall", "recalls", "precisions"

    def __init__(
        self,
        recall: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(recall, num_thresholds, class_id, name, dtype)


@register_metric()
class RecallAtPrecision(_At):
    """The best recall among thresholds where the precision is at least this.

    >>> RecallAtPrecision(0.5)([[0], [0], [1], [1]], [[0.0], [0.5], [0.3], [0.9]]).item()
    1.0
    """

    what, rate_of, best_of = "precision", "precisions", "recalls"

    def __init__(
        self,
        precision: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(precision, num_thresholds, class_id, name, dtype)
