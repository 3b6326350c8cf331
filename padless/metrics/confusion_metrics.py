"""Confusion counts at thresholds, and the rates that are computed from them: precision, recall and others.

An output is predicted positive if it is above a threshold. The counts of all thresholds come from one histogram of the
outputs, with the thresholds as edges. The metrics of torchmetrics are not used: they take no weights, and apply a sigmoid
to each batch that has numbers outside [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.losses.base import check_range
from padless.metrics.metric import Metric, Variable, align_rows, divide_or_zero, register_metric, sum_dtype, to_indicators
from padless.ragged.alignment import to_tensor
from padless.ragged.device import to_device
from padless.ragged.packed import Packed
from padless.types import ArrayLike, Config

NEGATIVE = -1e10  # Keras's output of the classes that are not among the largest k

Thresholds: TypeAlias = "float | Sequence[float] | None"
"""One threshold or several, each from 0 to 1; None: 0.5."""


class ConfusionCounts(Metric):
    """The base class of metrics of confusion counts.

    The state is one variable `(4, thresholds)`, or `(4, thresholds, labels)` if labels are counted separately. It has the
    weighted numbers of true positives, false negatives, false positives and true negatives.
    """

    def __init__(self, thresholds: Sequence[float], name: str | None, dtype: str | None, num_labels: int | None = 1) -> None:
        """Create the metric; with `num_labels` None the variable is created with the first batch."""
        super().__init__(dtype, name)
        self._thresholds = [float(threshold) for threshold in thresholds]
        order = sorted(range(len(self._thresholds)), key=self._thresholds.__getitem__)
        self._ascending_thresholds = [self._thresholds[place] for place in order]
        self._order = torch.tensor(order, device="cpu")  # the places of the ascending thresholds
        self._counts: Variable | None = None
        if num_labels is not None:
            self._counts_of_labels(num_labels)

    def _counts_of_labels(self, num_labels: int) -> Variable:
        """Return the variable, which is created for this number of labels if there is none yet."""
        if self._counts is None:
            shape = (4, len(self._thresholds)) if num_labels == 1 else (4, len(self._thresholds), num_labels)
            self._counts = self.add_variable(shape, name="confusion")
        return self._counts

    def add_counts(self, targets: Tensor, outputs: Tensor, weight: Tensor | None, num_labels: int = 1) -> None:
        """Add outputs to the counts.

        Args:
            targets: Labels, not 0 for positive ones, in the shape of the outputs.
            outputs: Outputs `(N, ...)`. With several labels these are the last axis.
            weight: Weights in the shape of the outputs. None: 1.
            num_labels: The number of labels that are counted separately.
        """
        variable = self._counts_of_labels(num_labels)
        device, dtype = outputs.device, sum_dtype(outputs)
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))  # thresholds are fractions
        weight = torch.ones_like(outputs, dtype=dtype) if weight is None else weight
        edges = to_device(torch.tensor(self._ascending_thresholds, dtype=outputs.dtype, device="cpu"), device)
        bins = torch.searchsorted(edges, torch.where(outputs.isnan(), -torch.inf, outputs).contiguous())
        cells = (bins.reshape(-1, num_labels) * num_labels + torch.arange(num_labels, device=device)).reshape(-1)
        counts = []
        for has_class in (targets != 0, targets == 0):
            histogram = weight.new_zeros((len(edges) + 1) * num_labels, dtype=dtype)
            histogram.index_add_(0, cells, torch.where(has_class, weight, 0).to(dtype).reshape(-1))
            from_bin = histogram.reshape(-1, num_labels).flip(0).cumsum(0).flip(0)  # sums over this bin and all later ones
            counts += [from_bin[1:], from_bin[0] - from_bin[1:]]  # above each threshold, and not above it
        ascending_counts = torch.stack(counts)
        ordered_counts = torch.empty_like(ascending_counts)
        ordered_counts[:, to_device(self._order, device)] = ascending_counts
        variable.assign_add(ordered_counts.reshape(variable.shape))

    @property
    def _count_tensor(self) -> Tensor:
        return torch.zeros(4, len(self._thresholds)) if self._counts is None else self._counts + 0

    @property
    def true_positives(self) -> Tensor:
        """For each threshold the positive labels whose outputs are above it."""
        return self._count_tensor[0]

    @property
    def false_negatives(self) -> Tensor:
        """For each threshold the positive labels whose outputs are not above it."""
        return self._count_tensor[1]

    @property
    def false_positives(self) -> Tensor:
        """For each threshold the negative labels whose outputs are above it."""
        return self._count_tensor[2]

    @property
    def true_negatives(self) -> Tensor:
        """For each threshold the negative labels whose outputs are not above it."""
        return self._count_tensor[3]

    @property
    def recalls(self) -> Tensor:
        """The recall `TP / (TP + FN)` at each threshold; 0 without positive labels."""
        return divide_or_zero(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def precisions(self) -> Tensor:
        """The precision `TP / (TP + FP)` at each threshold; 0 without positive outputs."""
        return divide_or_zero(self.true_positives, self.true_positives + self.false_positives)

    @property
    def specificities(self) -> Tensor:
        """The specificity `TN / (TN + FP)` at each threshold; 0 without negative labels."""
        return divide_or_zero(self.true_negatives, self.true_negatives + self.false_positives)

    @property
    def false_positive_rates(self) -> Tensor:
        """The rate `FP / (FP + TN)` at each threshold; 0 without negative labels."""
        return divide_or_zero(self.false_positives, self.false_positives + self.true_negatives)


def even_thresholds(num_thresholds: int) -> list[float]:
    """Return thresholds from 0 to 1 at equal distances; 0.5 if there is only one."""
    if num_thresholds < 1:
        raise ArgumentError(f"`num_thresholds` must be above 0; got {num_thresholds!r}.")
    return [i / (num_thresholds - 1) for i in range(num_thresholds)] if num_thresholds > 1 else [0.5]


def select_class(
    class_id: int | None, targets: Tensor, outputs: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return targets, outputs and weights of one class only; of all classes if `class_id` is None."""
    if class_id is None:
        return targets, outputs, weight
    if not 0 <= class_id < outputs.shape[-1]:
        raise ShapeError(f"`class_id` is {class_id}, but the outputs have {outputs.shape[-1]} classes.")
    column = slice(class_id, class_id + 1)
    return targets[..., column], outputs[..., column], None if weight is None else weight[..., column]


def _as_one_example(
    y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[ArrayLike, ArrayLike, ArrayLike | None]:
    """Return plain outputs `(C,)` and their targets and weights with a batch axis of size 1; others unchanged."""
    outputs = to_tensor(y_pred, "y_pred")
    if isinstance(outputs, Packed) or outputs.ndim != 1:
        return y_true, outputs, sample_weight
    weight = None if sample_weight is None else to_tensor(sample_weight, "sample_weight")
    if isinstance(weight, torch.Tensor) and weight.ndim:
        weight = weight[None]
    return to_tensor(y_true, "y_true")[None], outputs[None], weight


# ------------------------------------------------------------------------------------------------ at given thresholds


class _AtThresholds(ConfusionCounts):
    """A count or rate at thresholds that the user gives: a scalar for one, a vector for several."""

    def __init__(
        self, thresholds: Thresholds, top_k: int | None, class_id: int | None, name: str | None, dtype: str | None
    ) -> None:
        if thresholds is None:
            values = []
        elif isinstance(thresholds, Sequence):
            values = list(thresholds)
        else:
            values = [thresholds]
        for threshold in values:
            if threshold is None or not 0 <= threshold <= 1:
                raise ArgumentError(f"`thresholds` must be between 0 and 1; got {threshold!r}.")
        super().__init__(values or [0.5 if top_k is None else NEGATIVE], name, dtype)
        self.thresholds = thresholds
        self.top_k = top_k
        self.class_id = class_id

    @torch.no_grad()
    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add the real steps of a batch.

        Args:
            y_true: Labels 0 and 1 in the shape of the outputs, or class ids.
            y_pred: Outputs: `Packed` or plain.
            sample_weight: Weights of sequences `(B,)` or of steps `(B, T)`.

        With `top_k`, plain outputs `(C,)` are those of one example, as in Keras.
        """
        if self.top_k is not None:
            y_true, y_pred, sample_weight = _as_one_example(y_true, y_pred, sample_weight)
        targets, outputs, weight = align_rows(y_true, y_pred, sample_weight)
        targets = to_indicators(targets, outputs)
        if self.top_k is not None:
            largest = outputs.topk(min(self.top_k, outputs.shape[-1])).indices
            is_largest = torch.zeros_like(outputs, dtype=torch.bool).scatter(-1, largest, True)
            outputs = torch.where(is_largest, outputs, NEGATIVE)
        self.add_counts(*select_class(self.class_id, targets, outputs, weight))

    def _for_thresholds(self, values: Tensor) -> Tensor:
        """Return the only value for one threshold, all values for several."""
        return self.cast(values[0] if len(self._thresholds) == 1 else values + 0)

    def get_config(self) -> Config:
        return {**super().get_config(), "thresholds": self.thresholds}


class _ConfusionCount(_AtThresholds):
    """One of the four counts."""

    def __init__(self, thresholds: Thresholds = None, name: str | None = None, dtype: str | None = None) -> None:
        super().__init__(thresholds, None, None, name, dtype)


@register_metric()
class TruePositives(_ConfusionCount):
    """The weighted number of positive labels whose outputs are above a threshold.

    The state is that of `ConfusionCounts`.

    Args:
        thresholds: One threshold from 0 to 1, or a list: one number for each. Default: 0.5.
        name, dtype: See `Metric`.

    Example:
        >>> TruePositives()([[1], [1], [0]], [[0.9], [0.2], [0.8]]).item()
        1.0
    """

    def result(self) -> Tensor:
        """Return the count; for several thresholds one for each."""
        return self._for_thresholds(self.true_positives)


@register_metric()
class FalsePositives(_ConfusionCount):
    """The weighted number of negative labels whose outputs are above a threshold.

    The arguments are those of `TruePositives`, the state that of `ConfusionCounts`.

    Example:
        >>> FalsePositives()([[1], [1], [0]], [[0.9], [0.2], [0.8]]).item()
        1.0
    """

    def result(self) -> Tensor:
        """Return the count; for several thresholds one for each."""
        return self._for_thresholds(self.false_positives)


@register_metric()
class TrueNegatives(_ConfusionCount):
    """The weighted number of negative labels whose outputs are not above a threshold.

    The arguments are those of `TruePositives`, the state that of `ConfusionCounts`.

    Example:
        >>> TrueNegatives()([[1], [1], [0]], [[0.9], [0.2], [0.8]]).item()
        0.0
    """

    def result(self) -> Tensor:
        """Return the count; for several thresholds one for each."""
        return self._for_thresholds(self.true_negatives)


@register_metric()
class FalseNegatives(_ConfusionCount):
    """The weighted number of positive labels whose outputs are not above a threshold.

    The arguments are those of `TruePositives`, the state that of `ConfusionCounts`.

    Example:
        >>> FalseNegatives()([[1], [1], [0]], [[0.9], [0.2], [0.8]]).item()
        1.0
    """

    def result(self) -> Tensor:
        """Return the count; for several thresholds one for each."""
        return self._for_thresholds(self.false_negatives)


class _ConfusionRate(_AtThresholds):
    """A rate of the four counts."""

    def __init__(
        self,
        thresholds: Thresholds = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        super().__init__(thresholds, top_k, class_id, name, dtype)

    def get_config(self) -> Config:
        return {**super().get_config(), "top_k": self.top_k, "class_id": self.class_id}


@register_metric()
class Precision(_ConfusionRate):
    """The precision `TP / (TP + FP)`; 0 without positive outputs.

    The state is that of `ConfusionCounts`.

    Args:
        thresholds: One threshold from 0 to 1, or a list: one number for each. Default: 0.5, or none with `top_k`.
        top_k: Only the `top_k` largest outputs of a step can be positive.
        class_id: The only class that counts. Default: all.
        name, dtype: See `Metric`.

    Example:
        >>> Precision()([[1, 1, 0]], [[0.9, 0.2, 0.8]]).item()
        0.5
    """

    def result(self) -> Tensor:
        """Return the precision; for several thresholds one for each."""
        return self._for_thresholds(self.precisions)


@register_metric()
class Recall(_ConfusionRate):
    """The recall `TP / (TP + FN)`; 0 without positive labels.

    The arguments are those of `Precision`, the state that of `ConfusionCounts`.

    Example:
        >>> Recall()([[1, 1, 0]], [[0.9, 0.2, 0.8]]).item()
        0.5
    """

    def result(self) -> Tensor:
        """Return the recall; for several thresholds one for each."""
        return self._for_thresholds(self.recalls)


# ------------------------------------------------------------------------------------------------ one rate at another


class _BestRate(ConfusionCounts):
    """The best value of one rate among the thresholds at which another rate is at least a given value."""

    def __init__(self, num_thresholds: int, class_id: int | None, name: str | None, dtype: str | None) -> None:
        super().__init__(even_thresholds(num_thresholds), name, dtype)
        self.num_thresholds = num_thresholds
        self.class_id = class_id

    @torch.no_grad()
    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add the real steps of a batch; the arguments are those of `Precision.update_state`."""
        targets, outputs, weight = align_rows(y_true, y_pred, sample_weight)
        self.add_counts(*select_class(self.class_id, to_indicators(targets, outputs), outputs.clamp(0, 1), weight))

    def _best(self, rates: Tensor, allowed: Tensor) -> Tensor:
        """Return the largest rate at an allowed threshold; 0 if there is none."""
        return self.cast(torch.where(allowed, rates, 0).amax())

    def get_config(self) -> Config:
        return {**super().get_config(), "num_thresholds": self.num_thresholds, "class_id": self.class_id}


@register_metric()
class SensitivityAtSpecificity(_BestRate):
    """The best sensitivity (recall) among the thresholds at which the specificity is at least a given value.

    The state is that of `ConfusionCounts`.

    Args:
        specificity: The least specificity `TN / (TN + FP)`, from 0 to 1.
        num_thresholds: The number of thresholds from 0 to 1.
        class_id: The only class that counts. Default: all.
        name, dtype: See `Metric`.

    Example:
        >>> SensitivityAtSpecificity(0.5)([[0], [0], [1], [1]], [[0.0], [0.5], [0.3], [0.9]]).item()
        1.0
    """

    def __init__(
        self,
        specificity: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        check_range("specificity", specificity, 0, 1)
        super().__init__(num_thresholds, class_id, name, dtype)
        self.specificity = specificity

    def result(self) -> Tensor:
        """Return the best sensitivity; 0 if no threshold has this specificity."""
        return self._best(self.recalls, self.specificities >= self.specificity)

    def get_config(self) -> Config:
        return {**super().get_config(), "specificity": self.specificity}


@register_metric()
class SpecificityAtSensitivity(_BestRate):
    """The best specificity among the thresholds at which the sensitivity (recall) is at least a given value.

    The state is that of `ConfusionCounts`.

    Args:
        sensitivity: The least sensitivity `TP / (TP + FN)`, from 0 to 1.
        num_thresholds, class_id: As for `SensitivityAtSpecificity`.
        name, dtype: See `Metric`.

    Example:
        >>> SpecificityAtSensitivity(0.5)([[0], [0], [1], [1]], [[0.0], [0.5], [0.3], [0.9]]).item()
        1.0
    """

    def __init__(
        self,
        sensitivity: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        check_range("sensitivity", sensitivity, 0, 1)
        super().__init__(num_thresholds, class_id, name, dtype)
        self.sensitivity = sensitivity

    def result(self) -> Tensor:
        """Return the best specificity; 0 if no threshold has this sensitivity."""
        return self._best(self.specificities, self.recalls >= self.sensitivity)

    def get_config(self) -> Config:
        return {**super().get_config(), "sensitivity": self.sensitivity}


@register_metric()
class PrecisionAtRecall(_BestRate):
    """The best precision among the thresholds at which the recall is at least a given value.

    The state is that of `ConfusionCounts`.

    Args:
        recall: The least recall `TP / (TP + FN)`, from 0 to 1.
        num_thresholds, class_id: As for `SensitivityAtSpecificity`.
        name, dtype: See `Metric`.

    Example:
        >>> PrecisionAtRecall(0.5)([[0], [0], [1], [1]], [[0.0], [0.5], [0.3], [0.9]]).item()
        1.0
    """

    def __init__(
        self,
        recall: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        check_range("recall", recall, 0, 1)
        super().__init__(num_thresholds, class_id, name, dtype)
        self.recall = recall

    def result(self) -> Tensor:
        """Return the best precision; 0 if no threshold has this recall."""
        return self._best(self.precisions, self.recalls >= self.recall)

    def get_config(self) -> Config:
        return {**super().get_config(), "recall": self.recall}


@register_metric()
class RecallAtPrecision(_BestRate):
    """The best recall among the thresholds at which the precision is at least a given value.

    The state is that of `ConfusionCounts`.

    Args:
        precision: The least precision `TP / (TP + FP)`, from 0 to 1.
        num_thresholds, class_id: As for `SensitivityAtSpecificity`.
        name, dtype: See `Metric`.

    Example:
        >>> RecallAtPrecision(0.5)([[0], [0], [1], [1]], [[0.0], [0.5], [0.3], [0.9]]).item()
        1.0
    """

    def __init__(
        self,
        precision: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        check_range("precision", precision, 0, 1)
        super().__init__(num_thresholds, class_id, name, dtype)
        self.precision = precision

    def result(self) -> Tensor:
        """Return the best recall; 0 if no threshold has this precision."""
        return self._best(self.recalls, self.precisions >= self.precision)

    def get_config(self) -> Config:
        return {**super().get_config(), "precision": self.precision}
