"""Means of errors, cross entropies, hinge losses, cosines and correlations over real steps."""

from __future__ import annotations

import torch
from torch import Tensor

from padless.losses import hinge_losses, probabilistic_losses, regression_losses
from padless.losses.base import EPSILON, read_same_shape
from padless.metrics.metric import MeanMetricWithFunction, register_metric
from padless.registry import register
from padless.types import ArrayLike


@register("metric_function")
def cosine_similarity(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> Tensor:
    """Return the cosine of the angle between targets and outputs: 1 where they have the same direction.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.
        axis: The axis of the vectors.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> cosine_similarity([[0., 1.], [0., 2.]], [[1., 0.], [0., 1.]])
        tensor([0., 1.])
    """
    return 0.0 - regression_losses.cosine_similarity(y_true, y_pred, axis)


@register("metric_function")
def pearson_correlation(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> Tensor:
    """Return `cov(y_true, y_pred) / (std(y_true) * std(y_pred))` over an axis; 0 where one of them is constant.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.
        axis: The axis of the statistics.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> pearson_correlation([[1., 2., 3.]], [[2., 4., 6.]]).round(decimals=4)
        tensor([1.])
    """
    true, pred = (x - x.mean(axis, keepdim=True) for x in read_same_shape(y_true, y_pred, combines_features=True))
    scale = (true.square().mean(axis) * pred.square().mean(axis)).sqrt()
    is_constant = scale == 0
    return torch.where(is_constant, 0, (true * pred).mean(axis) / torch.where(is_constant, 1, scale))


@register("metric_function")
def concordance_correlation(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> Tensor:
    """Return `2 * cov / (var(y_true) + var(y_pred) + (mean(y_true) - mean(y_pred)) ** 2)` over an axis (Lin 1989).

    It is 1 where targets and outputs are equal.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.
        axis: The axis of the statistics.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> concordance_correlation([[1., 2., 3.]], [[1., 2., 3.]]).round(decimals=4)
        tensor([1.])
    """
    true, pred = read_same_shape(y_true, y_pred, combines_features=True)
    true_mean, pred_mean = true.mean(axis, keepdim=True), pred.mean(axis, keepdim=True)
    covariance = ((true - true_mean) * (pred - pred_mean)).mean(axis)
    variances = (true - true_mean).square().mean(axis) + (pred - pred_mean).square().mean(axis)
    return 2 * covariance / (variances + (true_mean - pred_mean).squeeze(axis).square() + EPSILON)


@register("metric_function")
def squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return `(y_true - y_pred) ** 2` of each element.

    Args:
        y_true: Targets `(N, D)`.
        y_pred: Outputs `(N, D)`.

    Example:
        >>> squared_error([[1., 2.]], [[1., 4.]])
        tensor([[0., 4.]])
    """
    targets, outputs = read_same_shape(y_true, y_pred)
    return (targets - outputs).square()


@register_metric("mse", "MSE")
class MeanSquaredError(MeanMetricWithFunction):
    """The mean of `(y_true - y_pred) ** 2`. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> MeanSquaredError()([[1., 2.]], [[1., 4.]]).item()
        2.0
    """

    def __init__(self, name: str | None = "mean_squared_error", dtype: str | None = None) -> None:
        super().__init__(regression_losses.mean_squared_error, name, dtype)


@register_metric("mae", "MAE")
class MeanAbsoluteError(MeanMetricWithFunction):
    """The mean of `|y_true - y_pred|`. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> MeanAbsoluteError()([[1., 2.]], [[1., 4.]]).item()
        1.0
    """

    def __init__(self, name: str | None = "mean_absolute_error", dtype: str | None = None) -> None:
        super().__init__(regression_losses.mean_absolute_error, name, dtype)


@register_metric("mape", "MAPE")
class MeanAbsolutePercentageError(MeanMetricWithFunction):
    """The mean of `100 * |y_true - y_pred| / max(|y_true|, 1e-7)`. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> MeanAbsolutePercentageError()([[1., 2.]], [[1., 4.]]).item()
        50.0
    """

    def __init__(self, name: str | None = "mean_absolute_percentage_error", dtype: str | None = None) -> None:
        super().__init__(regression_losses.mean_absolute_percentage_error, name, dtype)


@register_metric("msle", "MSLE")
class MeanSquaredLogarithmicError(MeanMetricWithFunction):
    """The mean of `(log(y_true + 1) - log(y_pred + 1)) ** 2`. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> MeanSquaredLogarithmicError()([[0., 1.]], [[0., 1.]]).item()
        0.0
    """

    def __init__(self, name: str | None = "mean_squared_logarithmic_error", dtype: str | None = None) -> None:
        super().__init__(regression_losses.mean_squared_logarithmic_error, name, dtype)


@register_metric()
class CosineSimilarity(MeanMetricWithFunction):
    """The mean over real steps of the cosine of the angle between targets and outputs. The state is that of `Mean`.

    Args:
        axis: The feature axis of the vectors.
        name, dtype: See `Metric`.

    Example:
        >>> CosineSimilarity()([[0., 1.], [0., 2.]], [[1., 0.], [0., 1.]]).item()
        0.5
    """

    combines_features = True

    def __init__(self, name: str | None = "cosine_similarity", dtype: str | None = None, axis: int = -1) -> None:
        super().__init__(cosine_similarity, name, dtype, axis=axis)


@register_metric()
class LogCoshError(MeanMetricWithFunction):
    """The mean of `log(cosh(y_pred - y_true))`. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> LogCoshError()([[1., 2.]], [[1., 2.]]).item()
        0.0
    """

    def __init__(self, name: str | None = "logcosh", dtype: str | None = None) -> None:
        super().__init__(regression_losses.log_cosh, name, dtype)


@register_metric()
class PearsonCorrelation(MeanMetricWithFunction):
    """The mean over real steps of `pearson_correlation`. The state is that of `Mean`.

    Args:
        axis: The feature axis of the statistics.
        name, dtype: See `Metric`.

    Example:
        >>> PearsonCorrelation()([[1., 2., 3.]], [[3., 2., 1.]]).item()
        -1.0...
    """

    combines_features = True

    def __init__(self, name: str | None = "pearson_correlation", dtype: str | None = None, axis: int = -1) -> None:
        super().__init__(pearson_correlation, name, dtype, axis=axis)


@register_metric()
class ConcordanceCorrelation(MeanMetricWithFunction):
    """The mean over real steps of `concordance_correlation`. The state is that of `Mean`.

    Args:
        axis: The feature axis of the statistics.
        name, dtype: See `Metric`.

    Example:
        >>> ConcordanceCorrelation()([[0., 2.]], [[1., 3.]]).item()
        0.6666...
    """

    combines_features = True

    def __init__(self, name: str | None = "concordance_correlation", dtype: str | None = None, axis: int = -1) -> None:
        super().__init__(concordance_correlation, name, dtype, axis=axis)


@register_metric()
class Hinge(MeanMetricWithFunction):
    """The mean of `max(1 - y_true * y_pred, 0)`; a target 0 means -1. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> Hinge()([[0., 1.]], [[-2., 0.5]]).item()
        0.25
    """

    def __init__(self, name: str | None = "hinge", dtype: str | None = None) -> None:
        super().__init__(hinge_losses.hinge, name, dtype)


@register_metric()
class SquaredHinge(MeanMetricWithFunction):
    """The mean of `max(1 - y_true * y_pred, 0) ** 2`; a target 0 means -1. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> SquaredHinge()([[0., 1.]], [[-2., 0.]]).item()
        0.5
    """

    def __init__(self, name: str | None = "squared_hinge", dtype: str | None = None) -> None:
        super().__init__(hinge_losses.squared_hinge, name, dtype)


@register_metric()
class CategoricalHinge(MeanMetricWithFunction):
    """The mean of `max(largest wrong output - right output + 1, 0)`, for one-hot targets. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> CategoricalHinge()([[0., 1., 0.]], [[0.5, 1., 0.]]).item()
        0.5
    """

    combines_features = True

    def __init__(self, name: str | None = "categorical_hinge", dtype: str | None = None) -> None:
        super().__init__(hinge_losses.categorical_hinge, name, dtype)


@register_metric()
class KLDivergence(MeanMetricWithFunction):
    """The mean over real steps of the Kullback-Leibler divergence of targets and outputs. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> KLDivergence()([[1., 0.]], [[0.5, 0.5]]).item()
        0.693...
    """

    combines_features = True

    def __init__(self, name: str | None = "kl_divergence", dtype: str | None = None) -> None:
        super().__init__(probabilistic_losses.kl_divergence, name, dtype)


@register_metric()
class Poisson(MeanMetricWithFunction):
    """The mean of `y_pred - y_true * log(y_pred)`. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> Poisson()([[1., 0.]], [[1., 3.]]).item()
        2.0...
    """

    def __init__(self, name: str | None = "poisson", dtype: str | None = None) -> None:
        super().__init__(probabilistic_losses.poisson, name, dtype)


@register_metric("bce", "BCE")
class BinaryCrossentropy(MeanMetricWithFunction):
    """The mean binary cross entropy of labels 0 and 1. The state is that of `Mean`.

    Args:
        from_logits: Whether outputs are logits, not probabilities.
        label_smoothing: From 0 to 1: the share of the uniform distribution in the labels.
        name, dtype: See `Metric`.

    Example:
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
            probabilistic_losses.binary_crossentropy, name, dtype, from_logits=from_logits, label_smoothing=label_smoothing
        )


@register_metric()
class CategoricalCrossentropy(MeanMetricWithFunction):
    """The mean cross entropy of one-hot labels. The state is that of `Mean`.

    Args:
        from_logits: Whether outputs are logits, not probabilities.
        label_smoothing: From 0 to 1: the share of the uniform distribution in the labels.
        axis: The feature axis of the classes.
        name, dtype: See `Metric`.

    Example:
        >>> CategoricalCrossentropy()([[0., 1.]], [[0.5, 0.5]]).item()
        0.693...
    """

    combines_features = True

    def __init__(
        self,
        name: str | None = "categorical_crossentropy",
        dtype: str | None = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
        axis: int = -1,
    ) -> None:
        super().__init__(
            probabilistic_losses.categorical_crossentropy,
            name,
            dtype,
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
        )


@register_metric()
class SparseCategoricalCrossentropy(MeanMetricWithFunction):
    """The mean cross entropy of class ids. The state is that of `Mean`.

    Args:
        from_logits: Whether outputs are logits, not probabilities.
        ignore_class: The id of steps that do not count.
        axis: The feature axis of the classes.
        name, dtype: See `Metric`.

    Example:
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
        loss = probabilistic_losses.SparseCategoricalCrossentropy(from_logits, ignore_class, axis=axis)
        super().__init__(loss, name, dtype, from_logits=from_logits, ignore_class=ignore_class, axis=axis)


@register_metric()
class Perplexity(MeanMetricWithFunction):
    """The exponential of the mean cross entropy of class ids over all real steps. The state is that of `Mean`.

    The perplexity of a corpus does not depend on its split into batches. It is 1 without real steps.

    Args:
        from_logits: Whether outputs are logits, not probabilities.
        ignore_class: The id of steps that do not count.
        name, dtype: See `Metric`.

    Example:
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
        loss = probabilistic_losses.SparseCategoricalCrossentropy(from_logits, ignore_class)
        super().__init__(loss, name, dtype, from_logits=from_logits, ignore_class=ignore_class)

    def result(self) -> Tensor:
        return super().result().exp()


@register_metric("rmse", "RMSE")
class RootMeanSquaredError(MeanMetricWithFunction):
    """The root of the mean of `(y_true - y_pred) ** 2` over all real steps and features. The state is that of `Mean`.

    Args:
        name, dtype: See `Metric`.

    Example:
        >>> RootMeanSquaredError()([[1., 2.]], [[1., 4.]]).item()
        1.414...
    """

    def __init__(self, name: str | None = "root_mean_squared_error", dtype: str | None = None) -> None:
        super().__init__(squared_error, name, dtype)

    def result(self) -> Tensor:
        return super().result().sqrt()
