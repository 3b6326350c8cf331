"""Scores whose state has one number for each class or feature: F1, F-beta, and the coefficient of determination R2."""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.losses.base import read_same_shape
from padless.metrics.metric import Metric, Variable, align_rows, divide_or_zero, register_metric, sum_dtype, to_indicators
from padless.types import ArrayLike, Config

AVERAGES = ("macro", "micro", "weighted")
AGGREGATIONS = ("uniform_average", "variance_weighted_average")


def fbeta_score(
    true_positives: Tensor, num_predicted: Tensor, num_true: Tensor, average: str | None, beta: float = 1.0
) -> Tensor:
    """Return F-beta, `(1 + beta ** 2) * TP / (num_predicted + beta ** 2 * num_true)`; 0 for 0 / 0.

    Args:
        true_positives: TP of each class, `(C,)`.
        num_predicted: The number of predictions of each class, `(C,)`.
        num_true: The number of targets of each class, `(C,)`.
        average: "micro": of the sums over classes. "macro": the mean over classes. "weighted": the mean weighted by
            `num_true`. None: one score for each class.
        beta: The weight of the recall relative to the precision.

    Example:
        >>> fbeta_score(torch.tensor([1., 0.]), torch.tensor([2., 1.]), torch.tensor([1., 2.]), "macro")
        tensor(0.3333)
    """
    if average == "micro":
        true_positives, num_predicted, num_true = true_positives.sum(), num_predicted.sum(), num_true.sum()
    score = divide_or_zero((1 + beta**2) * true_positives, num_predicted + beta**2 * num_true)
    if average == "weighted":
        return divide_or_zero((score * num_true).sum(), num_true.sum())
    return score.mean() if average == "macro" else score


class _VectorMetric(Metric):
    """A metric whose variables have one number for each class or feature; they are created with the first batch."""

    variable_names: ClassVar[tuple[str, ...]] = ()

    def _variables_of_size(self, size: int) -> list[Variable]:
        """Return the variables; raise `ShapeError` if they have another size."""
        if not self.variables:
            for name in self.variable_names:
                self.add_variable((size,), name=name)
        variables = self.variables
        if len(variables[0]) != size:
            raise ShapeError(
                f"The metric {self.name!r} has seen outputs of size {len(variables[0])}, and now of size {size}."
            )
        return variables


@register_metric("fbeta_score")
class FBetaScore(_VectorMetric):
    """The F-beta score `(1 + beta ** 2) * TP / (num_predicted + beta ** 2 * num_true)` of classes; 0 for 0 / 0.

    The state has the weighted sums of TP, predictions and targets of each class.

    Args:
        average: "micro", "macro", "weighted", or None for one score for each class; see `fbeta_score`.
        beta: The weight of the recall relative to the precision, above 0.
        threshold: A class is predicted if its output is above this number, above 0 and at most 1. Default: the class of
            the largest output is predicted.
        name, dtype: See `Metric`.

    Raises:
        ArgumentError: An argument is out of range.

    Example:
        >>> FBetaScore("macro", beta=2.0)([[0, 1, 1]], torch.eye(2)[torch.tensor([[0, 1, 0]])]).item()
        0.6944...
    """

    variable_names = ("right", "predicted", "true")

    def __init__(
        self,
        average: str | None = None,
        beta: float = 1.0,
        threshold: float | None = None,
        name: str | None = "fbeta_score",
        dtype: str | None = None,
    ) -> None:
        super().__init__(dtype, name)
        if average is not None and average not in AVERAGES:
            raise ArgumentError(unknown_name("average", average, AVERAGES))
        if not beta > 0:
            raise ArgumentError(f"`beta` must be above 0; got {beta!r}.")
        if threshold is not None and not 0 < threshold <= 1:
            raise ArgumentError(f"`threshold` must be above 0 and at most 1; got {threshold!r}.")
        self.average = average
        self.beta = beta
        self.threshold = threshold

    @torch.no_grad()
    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add the real steps of a batch.

        Args:
            y_true: One-hot labels in the shape of the outputs, or class ids.
            y_pred: Outputs `(B, T, C)`: `Packed` or plain.
            sample_weight: Weights of sequences `(B,)` or of steps `(B, T)`.
        """
        targets, outputs, weight = align_rows(y_true, y_pred, sample_weight)
        true = to_indicators(targets, outputs).to(sum_dtype(outputs))
        if self.threshold is None:  # as in Keras, outputs that are all 0 predict nothing
            is_predicted = (outputs >= outputs.amax(-1, keepdim=True)) & (outputs.abs() > 1e-9)
        else:
            is_predicted = outputs > self.threshold
        predicted = is_predicted.to(true.dtype)
        variables = self._variables_of_size(outputs.shape[-1])
        for variable, indicators in zip(variables, (predicted * true, predicted, true), strict=True):
            weighted = indicators if weight is None else indicators * weight
            variable.assign_add(weighted.flatten(0, -2).sum(0))

    def result(self) -> Tensor:
        """Return the score, a scalar, or with `average` None `(C,)`; 0 before the first batch."""
        if not self.variables:
            return self.cast(torch.tensor(0.0))
        true_positives, num_predicted, num_true = self.variables
        return self.cast(fbeta_score(true_positives, num_predicted, num_true, self.average, self.beta))

    def get_config(self) -> Config:
        return {**super().get_config(), "average": self.average, "beta": self.beta, "threshold": self.threshold}


@register_metric()
class F1Score(FBetaScore):
    """The F1 score `2 * TP / (num_predicted + num_true)` of classes; 0 for 0 / 0.

    The state is that of `FBetaScore`.

    Args:
        average, threshold: As for `FBetaScore`.
        name, dtype: See `Metric`.

    Example:
        >>> F1Score("macro")([[0, 1, 1]], torch.eye(2)[torch.tensor([[0, 1, 0]])]).item()
        0.6666...
    """

    def __init__(
        self,
        average: str | None = None,
        threshold: float | None = None,
        name: str | None = "f1_score",
        dtype: str | None = None,
    ) -> None:
        super().__init__(average, 1.0, threshold, name, dtype)

    def get_config(self) -> Config:
        return {key: value for key, value in super().get_config().items() if key != "beta"}


@register_metric()
class R2Score(_VectorMetric):
    """The coefficient of determination `1 - sum((y_true - y_pred) ** 2) / sum((y_true - mean) ** 2)` of features.

    It is 1 for outputs without error, and 0 for outputs as good as the mean of the targets. It is 0 where all
    targets are equal. The state has the weighted sums of targets, squared targets, squared errors and weights, and the
    number of samples, of each feature.

    Args:
        class_aggregation: "uniform_average" (the mean over features), "variance_weighted_average", or None for one score
            for each feature.
        num_regressors: The number of independent regressors. Above 0 the result is the adjusted score.
        name, dtype: See `Metric`.

    Raises:
        ArgumentError: An argument is out of range.

    Example:
        >>> R2Score()([[1.], [4.], [3.]], [[2.], [4.], [4.]]).item()
        0.5714...
    """

    variable_names = ("sum", "squared_sum", "residual", "count", "num_samples")

    def __init__(
        self,
        class_aggregation: str | None = "uniform_average",
        num_regressors: int = 0,
        name: str | None = "r2_score",
        dtype: str | None = None,
    ) -> None:
        super().__init__(dtype, name)
        if class_aggregation is not None and class_aggregation not in AGGREGATIONS:
            raise ArgumentError(unknown_name("class_aggregation", class_aggregation, AGGREGATIONS))
        if num_regressors < 0:
            raise ArgumentError(f"`num_regressors` must be at least 0; got {num_regressors!r}.")
        self.class_aggregation = class_aggregation
        self.num_regressors = num_regressors

    @torch.no_grad()
    def update_state(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add the real steps of a batch.

        Args:
            y_true: Targets in the shape of the outputs.
            y_pred: Outputs `(B, T, D)`: `Packed` or plain.
            sample_weight: Weights of sequences `(B,)` or of steps `(B, T)`.
        """
        targets, outputs, weight = align_rows(y_true, y_pred, sample_weight)
        true, pred = (x.to(sum_dtype(outputs)).flatten(0, -2) for x in read_same_shape(targets, outputs))
        weight = torch.ones_like(pred) if weight is None else weight.flatten(0, -2)
        terms = (true * weight, true.square() * weight, (true - pred).square() * weight, weight, torch.ones_like(pred))
        for variable, term in zip(self._variables_of_size(pred.shape[-1]), terms, strict=True):
            variable.assign_add(term.sum(0))

    def result(self) -> Tensor:
        """Return the score, a scalar, or with `class_aggregation` None one for each feature; 0 before the first batch."""
        if not self.variables or not self.variables[-1].any():
            return self.cast(torch.tensor(0.0))
        total, squared_total, residual, count, num_samples = self.variables
        variance = squared_total - total * divide_or_zero(total, count)
        score = torch.where(variance > 0, 1 - divide_or_zero(residual, variance), 0)
        if self.class_aggregation == "uniform_average":
            score = score.mean()
        elif self.class_aggregation == "variance_weighted_average":
            score = divide_or_zero((variance * score).sum(), variance.sum())
        return self.cast(self._adjust(score, float(num_samples.sum())) if self.num_regressors else score)

    def _adjust(self, score: Tensor, num_samples: float) -> Tensor:
        """Return the adjusted score; as in Keras, each feature of a step is a sample."""
        degrees_of_freedom = num_samples - self.num_regressors - 1
        if degrees_of_freedom <= 0:
            warnings.warn(
                f"The adjusted R2 score needs more than {self.num_regressors + 1} samples; got {num_samples:g}. The "
                f"result is the score that is not adjusted.",
                stacklevel=3,
            )
            return score
        return 1 - (1 - score) * (num_samples - 1) / degrees_of_freedom

    def get_config(self) -> Config:
        return {**super().get_config(), "class_aggregation": self.class_aggregation, "num_regressors": self.num_regressors}
