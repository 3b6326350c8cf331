"""Scores with sums of their own for each class or feature: F1, F-beta, and R2, the coefficient of determination."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.losses.base import read_same_shape
from padless.metrics.metric import Metric, Variable, align_rows, divide_or_zero, register_metric, sum_dtype, to_indicators

AVERAGES = ("macro", "micro", "weighted")


def fbeta_score(right: Tensor, predicted: Tensor, true: Tensor, average: str | None, beta: float = 1.0) -> Tensor:
    """F-beta of classes from how often each is right, predicted, true; a class that is neither has 0.

    >>> fbeta_score(torch.tensor([1., 0.]), torch.tensor([2., 1.]), torch.tensor([1., 2.]), "macro")
    tensor(0.3333)
    """
    if average == "micro":
        right, predicted, true = right.sum(), predicted.sum(), true.sum()
    score = divide_or_zero((1 + beta**2) * right, predicted + beta**2 * true)
    if average == "weighted":
        return divide_or_zero((score * true).sum(), true.sum())
    return score.mean() if average == "macro" else score


class _ByClass(Metric):
    """Sums for each class, whose number is known with the first batch."""

    parts: tuple[str, ...] = ()

    def sums(self, classes: int) -> list[Variable]:
        """The variables, made for this many classes, which may not change."""
        if not self._variables:
            for name in self.parts:
                self.add_variable((classes,), name=name)
        if len(self._variables[0]) != classes:
            raise ShapeError(
                f"The metric {self.name!r} has seen outputs of size {len(self._variables[0])}, and now of size {classes}."
            )
        return self._variables


@register_metric("fbeta_score")
class FBetaScore(_ByClass):
    """The mean of precision and recall, where recall counts `beta` times as much; per class `(C,)`, or averaged.

    `average` is "micro", "macro", "weighted" or None. Targets are one-hot or class ids. Without a `threshold` the largest
    output is the prediction; with one, every output above it. A class without a target and without a prediction has 0.

    >>> FBetaScore("macro", beta=2.0)([[0, 1, 1]], torch.eye(2)[torch.tensor([[0, 1, 0]])]).item()
    0.6944...
    """

    parts = ("right", "predicted", "true")

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
        self.average, self.beta, self.threshold = average, beta, threshold

    @torch.no_grad()
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the real steps of a batch."""
        targets, rows, weight = align_rows(y_true, y_pred, sample_weight)
        true = to_indicators(targets, rows).to(sum_dtype(rows))
        if self.threshold is None:  # outputs of nothing but 0 predict nothing
            chosen = (rows >= rows.amax(-1, keepdim=True)) & (rows.abs() > 1e-9)
        else:
            chosen = rows > self.threshold
        predicted = chosen.to(true.dtype)
        for variable, part in zip(self.sums(rows.shape[-1]), (predicted * true, predicted, true), strict=True):
            variable.assign_add((part if weight is None else part * weight).flatten(0, -2).sum(0))

    def result(self) -> Tensor:
        """The score over all that was added."""
        if not self._variables:
            return self.cast(torch.tensor(0.0))
        right, predicted, true = self._variables
        return self.cast(fbeta_score(right, predicted, true, self.average, self.beta))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "average": self.average, "beta": self.beta, "threshold": self.threshold}


@register_metric()
class F1Score(FBetaScore):
    """The harmonic mean of precision and recall, per class `(C,)`, or averaged; arguments as those of `FBetaScore`.

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

    def get_config(self) -> dict[str, Any]:
        return {key: value for key, value in super().get_config().items() if key != "beta"}


# ------------------------------------------------------------------------------------------------ numbers


@register_metric()
class R2Score(_ByClass):
    """How much of the variance of the targets the outputs explain: 1 is all, 0 no more than their mean.

    `class_aggregation` says what becomes of several features: "uniform_average", "variance_weighted_average", or None for
    one score each. `num_regressors` above 0 gives the adjusted score. Constant targets have 0.

    >>> R2Score()([[1.], [4.], [3.]], [[2.], [4.], [4.]]).item()
    0.5714...
    """

    parts = ("sum", "squared_sum", "residual", "count", "num_samples")

    def __init__(
        self,
        class_aggregation: str | None = "uniform_average",
        num_regressors: int = 0,
        name: str | None = "r2_score",
        dtype: str | None = None,
    ) -> None:
        super().__init__(dtype, name)
        known = ("uniform_average", "variance_weighted_average")
        if class_aggregation is not None and class_aggregation not in known:
            raise ArgumentError(unknown_name("class_aggregation", class_aggregation, known))
        if num_regressors < 0:
            raise ArgumentError(f"`num_regressors` must be at least 0; got {num_regressors!r}.")
        self.class_aggregation, self.num_regressors = class_aggregation, num_regressors

    @torch.no_grad()
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add the real steps of a batch."""
        targets, rows, weight = align_rows(y_true, y_pred, sample_weight)
        true, pred = (part.to(sum_dtype(rows)).flatten(0, -2) for part in read_same_shape(targets, rows))
        weight = torch.ones_like(pred) if weight is None else weight.flatten(0, -2)
        parts = (true * weight, true.square() * weight, (true - pred).square() * weight, weight, torch.ones_like(pred))
        for variable, part in zip(self.sums(pred.shape[-1]), parts, strict=True):
            variable.assign_add(part.sum(0))

    def result(self) -> Tensor:
        """The score over all that was added."""
        if not self._variables or not self._variables[-1].any():
            return self.cast(torch.tensor(0.0))
        total, squares, residual, count, samples = self._variables
        variance = squares - total * divide_or_zero(total, count)
        score = torch.where(variance > 0, 1 - divide_or_zero(residual, variance), 0)
        if self.class_aggregation == "uniform_average":
            score = score.mean()
        elif self.class_aggregation == "variance_weighted_average":
            score = divide_or_zero((variance * score).sum(), variance.sum())
        return self.cast(self._adjusted(score, float(samples.sum())) if self.num_regressors else score)

    def _adjusted(self, score: Tensor, samples: float) -> Tensor:
        """The score that does not grow by regressors that explain nothing; Keras counts a sample for each feature."""
        free = samples - self.num_regressors - 1
        if free <= 0:
            warnings.warn(
                f"The adjusted R2 score needs more than {self.num_regressors + 1} samples; got {samples:g}. This "
                f"is the score that is not adjusted.",
                stacklevel=3,
            )
            return score
        return 1 - (1 - score) * (samples - 1) / free

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "class_aggregation": self.class_aggregation, "num_regressors": self.num_regressors}
