"""Means of what losses measure, as metrics: errors, cross entropies, hinges, cosines, correlations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padless.losses import hinge_losses as loss_hinge
from padless.losses import probabilistic_losses as loss_probabilistic
from padless.losses import regression_losses as loss_regression
from padless.losses.base import EPSILON, read_same_shape
from padless.metrics.metric import MeanMetricWithFunction, register_metric
from padless.registry import register


@register("metric_function")
def cosine_similarity(y_true: Any, y_pred: Any, axis: int = -1) -> Tensor:
    """The cosine of the angle between targets and outputs: 1 where they point the same way.

    >>> cosine_similarity([[0., 1.], [0., 2.]], [[1., 0.], [0., 1.]])
    tensor([0., 1.])
    """
    return 0.0 - loss_regression.cosine_similarity(y_true, y_pred, axis)


@register("metric_function")
def pearson_correlation(y_true: Any, y_pred: Any, axis: int = -1) -> Tensor:
    """The correlation of targets and outputs over an axis; 0 where one of them is constant.

    >>> pearson_correlation([[1., 2., 3.]], [[2., 4., 6.]]).round(decimals=4)
    tensor([1.])
    """
    true, pred = (part - part.mean(axis, keepdim=True) for part in read_same_shape(y_true, y_pred))
    scale = (true.square().mean(axis) * pred.square().mean(axis)).sqrt()
    return torch.where(scale == 0, 0, (true * pred).mean(axis) / torch.where(scale == 0, 1, scale))


@register("metric_function")
def concordance_correlation(y_true: Any, y_pred: Any, axis: int = -1) -> Tensor:
    """How near targets and outputs lie to the line on which they are equal, over an axis (Lin 1989).

    >>> concordance_correlation([[1., 2., 3.]], [[1., 2., 3.]]).round(decimals=4)
    tensor([1.])
    """
    true, pred = read_same_shape(y_true, y_pred)
    a, b = (part.mean(axis, keepdim=True) for part in (true, pred))
    shared = ((true - a) * (pred - b)).mean(axis)
    spread = (true - a).square().mean(axis) + (pred - b).square().mean(axis)
    return 2 * shared / (spread + (a - b).squeeze(axis).square() + EPSILON)


@register("metric_function")
def squared_error(y_true: Any, y_pred: Any) -> Tensor:
    """`(y_true - y_pred) ** 2`, by element.

    >>> squared_error([[1., 2.]], [[1., 4.]])
    tensor([[0., 4.]])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    return (y_true - y_pred).square()


@register_metric("mse", "MSE")
class MeanSquaredError(MeanMetricWithFunction):
    """The mean squared error.

    >>> MeanSquaredError()([[1., 2.]], [[1., 4.]]).item()
    2.0
    """

    def __init__(self, name: str | None = "mean_squared_error", dtype: str | None = None) -> None:
        super().__init__(loss_regression.mean_squared_error, name, dtype)


@register_metric("mae", "MAE")
class MeanAbsoluteError(MeanMetricWithFunction):
    """The mean absolute error.

    >>> MeanAbsoluteError()([[1., 2.]], [[1., 4.]]).item()
    1.0
    """

    def __init__(self, name: str | None = "mean_absolute_error", dtype: str | None = None) -> None:
        super().__init__(loss_regression.mean_absolute_error, name, dtype)


@register_metric("mape", "MAPE")
class MeanAbsolutePercentageError(MeanMetricWithFunction):
    """The mean absolute error in percent of the targets.

    >>> MeanAbsolutePercentageError()([[1., 2.]], [[1., 4.]]).item()
    50.0
    """

    def __init__(self, name: str | None = "mean_absolute_percentage_error", dtype: str | None = None) -> None:
        super().__init__(loss_regression.mean_absolute_percentage_error, name, dtype)


@register_metric("msle", "MSLE")
class MeanSquaredLogarithmicError(MeanMetricWithFunction):
    """The mean squared difference of `log(y + 1)`.

    >>> MeanSquaredLogarithmicError()([[0., 1.]], [[0., 1.]]).item()
    0.0
    """

    def __init__(self, name: str | None = "mean_squared_logarithmic_error", dtype: str | None = None) -> None:
        super().__init__(loss_regression.mean_squared_logarithmic_error, name, dtype)


@register_metric()
class CosineSimilarity(MeanMetricWithFunction):
    """The mean cosine between targets and outputs; `axis` is a feature axis.

    >>> CosineSimilarity()([[0., 1.], [0., 2.]], [[1., 0.], [0., 1.]]).item()
    0.5
    """

    def __init__(self, name: str | None = "cosine_similarity", dtype: str | None = None, axis: int = -1) -> None:
        super().__init__(cosine_similarity, name, dtype, axis=axis)


@register_metric()
class LogCoshError(MeanMetricWithFunction):
    """The mean of `log(cosh(y_pred - y_true))`.

    >>> LogCoshError()([[1., 2.]], [[1., 2.]]).item()
    0.0
    """

    def __init__(self, name: str | None = "logcosh", dtype: str | None = None) -> None:
        super().__init__(loss_regression.log_cosh, name, dtype)


@register_metric()
class PearsonCorrelation(MeanMetricWithFunction):
    """The mean over real steps of the correlation of targets and outputs over a feature axis.

    >>> PearsonCorrelation()([[1., 2., 3.]], [[3., 2., 1.]]).item()
    -1.0...
    """

    def __init__(self, name: str | None = "pearson_correlation", dtype: str | None = None, axis: int = -1) -> None:
        super().__init__(pearson_correlation, name, dtype, axis=axis)


@register_metric()
class ConcordanceCorrelation(MeanMetricWithFunction):
    """The mean over real steps of the concordance of targets and outputs over a feature axis.

    >>> ConcordanceCorrelation()([[0., 2.]], [[1., 3.]]).item()
    0.6666...
    """

    def __init__(self, name: str | None = "concordance_correlation", dtype: str | None = None, axis: int = -1) -> None:
        super().__init__(concordance_correlation, name, dtype, axis=axis)


@register_metric()
class Hinge(MeanMetricWithFunction):
    """The mean hinge loss; a target 0 counts as -1.

    >>> Hinge()([[0., 1.]], [[-2., 0.5]]).item()
    0.25
    """

    def __init__(self, name: str | None = "hinge", dtype: str | None = None) -> None:
        super().__init__(loss_hinge.hinge, name, dtype)


@register_metric()
class SquaredHinge(MeanMetricWithFunction):
    """The mean squared hinge loss; a target 0 counts as -1.

    >>> SquaredHinge()([[0., 1.]], [[-2., 0.]]).item()
    0.5
    """

    def __init__(self, name: str | None = "squared_hinge", dtype: str | None = None) -> None:
        super().__init__(loss_hinge.squared_hinge, name, dtype)


@register_metric()
class CategoricalHinge(MeanMetricWithFunction):
    """The mean categorical hinge loss, for one-hot targets.

    >>> CategoricalHinge()([[0., 1., 0.]], [[0.5, 1., 0.]]).item()
    0.5
    """

    def __init__(self, name: str | None = "categorical_hinge", dtype: str | None = None) -> None:
        super().__init__(loss_hinge.categorical_hinge, name, dtype)


@register_metric()
class KLDivergence(MeanMetricWithFunction):
    """The mean Kullback-Leibler divergence of the outputs from the targets.

    >>> KLDivergence()([[1., 0.]], [[0.5, 0.5]]).item()
    0.693...
    """

    def __init__(self, name: str | None = "kl_divergence", dtype: str | None = None) -> None:
        super().__init__(loss_probabilistic.kl_divergence, name, dtype)


@register_metric()
class Poisson(MeanMetricWithFunction):
    """The mean of `y_pred - y_true * log(y_pred)`.

    >>> Poisson()([[1., 0.]], [[1., 3.]]).item()
    2.0...
    """

    def __init__(self, name: str | None = "poisson", dtype: str | None = None) -> None:
        super().__init__(loss_probabilistic.poisson, name, dtype)


@register_metric("bce", "BCE")
class BinaryCrossentropy(MeanMetricWithFunction):
    """The mean binary cross entropy.

    >>> BinaryCrossentropy()([[0., 1.]], [[0.5, 0.5]]).item()
    0.693...
    """

    def __init__(
        self,
        name: str | None = "binary_crossentropy",
        dtype: str | None = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
    ) -> None:
        super().__init__(
            loss_probabilistic.binary_crossentropy, name, dtype, from_logits=from_logits, label_smoothing=label_smoothing
        )


@register_metric()
class CategoricalCrossentropy(MeanMetricWithFunction):
    """The mean cross entropy with one-hot labels.

    >>> CategoricalCrossentropy()([[0., 1.]], [[0.5, 0.5]]).item()
    0.693...
    """

    def __init__(
        self,
        name: str | None = "categorical_crossentropy",
        dtype: str | None = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
        axis: int = -1,
    ) -> None:
        super().__init__(
            loss_probabilistic.categorical_crossentropy,
            name,
            dtype,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
        )


@register_metric()
class SparseCategoricalCrossentropy(MeanMetricWithFunction):
    """The mean cross entropy with class ids; steps labelled `ignore_class` do not count.

    >>> SparseCategoricalCrossentropy()([[1]], [[[0.5, 0.5]]]).item()
    0.693...
    """

    def __init__(
        self,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: str | None = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ) -> None:
        loss = loss_probabilistic.SparseCategoricalCrossentropy(from_logits, ignore_class, axis=axis)
        super().__init__(loss, name, dtype, from_logits=from_logits, ignore_class=ignore_class, axis=axis)


@register_metric()
class Perplexity(MeanMetricWithFunction):
    """How many classes the outputs hesitate between: e to the mean cross entropy with class ids over all real steps.

    Of a language model over its corpus it is exact, however that is cut into batches. Steps labelled `ignore_class` do
    not count. Over nothing it is 1.

    >>> Perplexity()([[1]], [[[0.5, 0.5]]]).item()
    2.0...
    """

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        name: str | None = "perplexity",
        dtype: str | None = None,
    ) -> None:
        loss = loss_probabilistic.SparseCategoricalCrossentropy(from_logits, ignore_class)
        super().__init__(loss, name, dtype, from_logits=from_logits, ignore_class=ignore_class)

    def result(self) -> Tensor:
        return super().result().exp()


@register_metric("rmse", "RMSE")
class RootMeanSquaredError(MeanMetricWithFunction):
    """The root of the mean squared error over all real steps and features.

    >>> RootMeanSquaredError()([[1., 2.]], [[1., 4.]]).item()
    1.414...
    """

    def __init__(self, name: str | None = "root_mean_squared_error", dtype: str | None = None) -> None:
        super().__init__(squared_error, name, dtype)

    def result(self) -> Tensor:
        return super().result().sqrt()
