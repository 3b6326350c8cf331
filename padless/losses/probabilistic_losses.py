"""Losses of probabilities: cross entropies, focal cross entropies, and other divergences of distributions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from padless.errors import ArgumentError
from padless.losses.base import (
    EPSILON,
    ClassIdLoss,
    LossWithFunction,
    check_class_ids,
    check_range,
    match_class_ids,
    read_same_shape,
    read_tensors,
)
from padless.losses.loss import Reduction
from padless.registry import register
from padless.types import ArrayLike

NO_IGNORE_INDEX = torch.iinfo(torch.int64).min  # torch's default would ignore the class -100
ONE_HOT_ADVICE = "For class ids use sparse_categorical_crossentropy."


@register("loss_function")
def binary_crossentropy(
    y_true: ArrayLike, y_pred: ArrayLike, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """Return the mean over an axis of `-(y_true * log(p) + (1 - y_true) * log(1 - p))`.

    Args:
        y_true: Labels 0 and 1, or probabilities, `(N, D)`.
        y_pred: Probabilities p or logits `(N, D)`.
        from_logits: Whether `y_pred` are logits.
        label_smoothing: From 0 to 1: labels become `y_true * (1 - label_smoothing) + label_smoothing / 2`.
        axis: The axis of the mean.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> binary_crossentropy([[0., 1.]], [[0.5, 0.5]])
        tensor([0.6931])
    """
    targets, outputs = read_same_shape(y_true, y_pred)
    targets = _smooth_labels(targets, label_smoothing, 2)
    return _binary_crossentropy_elements(targets, outputs, from_logits).mean(axis)


@register("loss_function")
def binary_focal_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Tensor:
    """Return the mean over an axis of the binary cross entropy times `(1 - p_label) ** gamma` (Lin et al. 2017).

    `p_label` is the probability that the output gives to the label, so labels that are predicted well count less.

    Args:
        y_true: Labels 0 and 1, `(N, D)`.
        y_pred: Probabilities or logits `(N, D)`.
        apply_class_balancing: Whether labels 1 count `alpha` and labels 0 count `1 - alpha`.
        alpha: The weight of labels 1.
        gamma: The focusing exponent.
        from_logits: Whether `y_pred` are logits.
        label_smoothing: As for `binary_crossentropy`.
        axis: The axis of the mean.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> binary_focal_crossentropy([[0., 1.]], [[0.5, 0.5]])
        tensor([0.1733])
    """
    targets, outputs = read_same_shape(y_true, y_pred)
    targets = _smooth_labels(targets, label_smoothing, 2)
    p = outputs.sigmoid() if from_logits else outputs
    p_label = targets * p + (1.0 - targets) * (1.0 - p)
    values = (1.0 - p_label).pow(gamma) * _binary_crossentropy_elements(targets, p, False)
    if apply_class_balancing:
        values = values * (targets * alpha + (1.0 - targets) * (1.0 - alpha))
    return values.mean(axis)


@register("loss_function")
def categorical_crossentropy(
    y_true: ArrayLike, y_pred: ArrayLike, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """Return `-sum(y_true * log(p))` over the classes.

    Args:
        y_true: One-hot labels, or probabilities, `(N, C)`.
        y_pred: Probabilities or logits `(N, C)`. Probabilities are divided by their sum.
        from_logits: Whether `y_pred` are logits.
        label_smoothing: From 0 to 1: labels become `y_true * (1 - label_smoothing) + label_smoothing / C`.
        axis: The axis of the classes.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> categorical_crossentropy([[0., 1.]], [[0.5, 0.5]])
        tensor([0.6931])
    """
    targets, outputs = read_same_shape(y_true, y_pred, ONE_HOT_ADVICE, combines_features=True)
    targets = _smooth_labels(targets, label_smoothing, targets.shape[-1])
    log_p = outputs.log_softmax(axis) if from_logits else _normalize_probabilities(outputs, axis).log()
    return -(targets * log_p).sum(axis)


@register("loss_function")
def categorical_focal_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    alpha: ArrayLike = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Tensor:
    """Return `-sum(alpha * (1 - p) ** gamma * y_true * log(p))` over the classes (Lin et al. 2017).

    Args:
        y_true: One-hot labels `(N, C)`.
        y_pred: Probabilities or logits `(N, C)`. Probabilities are divided by their sum.
        alpha: The weight of all classes, or one for each class.
        gamma: The focusing exponent.
        from_logits: Whether `y_pred` are logits.
        label_smoothing: As for `categorical_crossentropy`.
        axis: The axis of the classes.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> categorical_focal_crossentropy([[0., 1.]], [[0.5, 0.5]])
        tensor([0.0433])
    """
    targets, outputs = read_same_shape(y_true, y_pred, ONE_HOT_ADVICE, combines_features=True)
    targets = _smooth_labels(targets, label_smoothing, targets.shape[-1])
    p = _normalize_probabilities(outputs.softmax(axis) if from_logits else outputs, axis)
    weights = alpha if isinstance(alpha, float) else torch.as_tensor(alpha, dtype=p.dtype, device=p.device)
    if isinstance(weights, Tensor) and weights.shape not in ((), p.shape[-1:]):
        raise ArgumentError(
            f"`alpha` has shape {tuple(weights.shape)}. Expected one number, or {p.shape[-1]} for the classes."
        )
    return -(weights * (1.0 - p).pow(gamma) * targets * p.log()).sum(axis)


@register("loss_function")
def sparse_categorical_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
) -> Tensor:
    """Return `-log(p)` of the class that each id names.

    Args:
        y_true: Class ids `(N,)` or `(N, 1)`.
        y_pred: Probabilities or logits `(N, C)`. Probabilities are divided by their sum.
        from_logits: Whether `y_pred` are logits.
        ignore_class: The id whose value is 0.
        axis: The axis of the classes.

    Returns:
        One value for each row, `(N,)`.

    Raises:
        DataError: An id is not a class. On an accelerator torch raises its own error.

    Example:
        >>> sparse_categorical_crossentropy([1., 2.], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
        tensor([0.0513, 2.3026])
    """
    ids, outputs = read_tensors(y_true, y_pred, cast=False)
    check_class_ids(ids, outputs.shape[axis], ignore_class)
    return crossentropy_of_checked_ids(ids, outputs, from_logits, ignore_class, axis)


def crossentropy_of_checked_ids(
    ids: Tensor, y_pred: Tensor, from_logits: bool, ignore_class: int | None, axis: int
) -> Tensor:
    """Return `sparse_categorical_crossentropy` of ids that `check_class_ids` has checked."""
    ids = match_class_ids(ids, y_pred, axis)
    shape = ids.shape
    ids, rows = ids.reshape(-1), y_pred.movedim(axis, -1).reshape(-1, y_pred.shape[axis])
    ignored = None if ignore_class is None else ids == ignore_class
    if ignored is not None:  # neither the id nor the output of an ignored row may change the result
        ids, rows = torch.where(ignored, 0, ids), torch.where(ignored[:, None], 0, rows)
    ids = ids.long()
    if from_logits:
        values = F.cross_entropy(rows, ids, reduction="none", ignore_index=NO_IGNORE_INDEX)
    else:  # normalize only the probability of the label
        p = rows.gather(1, ids[:, None]).squeeze(1) / rows.sum(-1)
        values = -p.clamp(EPSILON, 1.0 - EPSILON).log()
    if ignored is not None:
        values = torch.where(ignored, 0, values)
    return values.reshape(shape)


@register("loss_function")
def categorical_generalized_cross_entropy(y_true: ArrayLike, y_pred: ArrayLike, q: float) -> Tensor:
    """Return `(1 - p ** q) / q`, where p is the probability of the class that each id names.

    It depends less on wrong labels than the cross entropy (Zhang and Sabuncu 2018, arXiv:1805.07836).

    Args:
        y_true: Class ids `(N,)` or `(N, 1)`.
        y_pred: Probabilities `(N, C)`.
        q: Between 0 and 1. Near 0 the loss is the cross entropy, at 1 the absolute error.

    Returns:
        One value for each row, `(N,)`.

    Raises:
        DataError: An id is not a class.

    Example:
        >>> categorical_generalized_cross_entropy([1], [[0.75, 0.25]], 0.5)
        tensor([1.])
    """
    ids, outputs = read_tensors(y_true, y_pred, cast=False)
    check_class_ids(ids, outputs.shape[-1])
    p = outputs.gather(-1, match_class_ids(ids, outputs).long().unsqueeze(-1)).squeeze(-1)
    return (1.0 - p.pow(q)) / q


@register("loss_function")
def kl_divergence(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return the Kullback-Leibler divergence: the sum over the last axis of `y_true * log(y_true / y_pred)`.

    Args:
        y_true: Probabilities `(N, C)`, clipped to [1e-7, 1].
        y_pred: Probabilities `(N, C)`, clipped to [1e-7, 1].

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> kl_divergence([[1., 0.]], [[0.5, 0.5]])
        tensor([0.6931])
    """
    targets, outputs = (tensor.clamp(EPSILON, 1.0) for tensor in read_same_shape(y_true, y_pred, combines_features=True))
    return (targets * (targets / outputs).log()).sum(-1)


@register("loss_function")
def poisson(y_true: ArrayLike, y_pred: ArrayLike) -> Tensor:
    """Return the mean over the last axis of `y_pred - y_true * log(y_pred)`.

    Args:
        y_true: Counts `(N, D)`.
        y_pred: Expected counts `(N, D)`.

    Returns:
        One value for each row, `(N,)`.

    Example:
        >>> poisson([[1., 0.]], [[1., 3.]])
        tensor([2.])
    """
    targets, outputs = read_same_shape(y_true, y_pred)
    return (outputs - targets * (outputs + EPSILON).log()).mean(-1)


def _smooth_labels(y_true: Tensor, label_smoothing: float, num_classes: int) -> Tensor:
    """Return labels mixed with the uniform distribution of the classes."""
    return y_true * (1.0 - label_smoothing) + label_smoothing / num_classes if label_smoothing else y_true


def _binary_crossentropy_elements(y_true: Tensor, y_pred: Tensor, from_logits: bool) -> Tensor:
    """Return the binary cross entropy of each element."""
    if from_logits:
        return F.binary_cross_entropy_with_logits(y_pred, y_true, reduction="none")
    p = y_pred.clamp(EPSILON, 1.0 - EPSILON)
    return -(y_true * p.log() + (1.0 - y_true) * (1.0 - p).log())


def _normalize_probabilities(y_pred: Tensor, axis: int) -> Tensor:
    """Return outputs divided by their sum over an axis, clipped to [1e-7, 1 - 1e-7]."""
    return (y_pred / y_pred.sum(axis, keepdim=True)).clamp(EPSILON, 1.0 - EPSILON)


@register("loss", "binary_crossentropy", "bce", "BCE")
class BinaryCrossentropy(LossWithFunction):
    """The binary cross entropy of labels 0 and 1, the mean over real steps and features.

    Args:
        from_logits: Whether outputs are logits, not probabilities.
        label_smoothing: From 0 to 1: the share of the uniform distribution in the labels.
        axis: The feature axis of the mean.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> BinaryCrossentropy()([[0., 1.]], [[0.5, 0.5]])
        tensor(0.6931)
    """

    function = staticmethod(binary_crossentropy)
    argument_names = ("from_logits", "label_smoothing", "axis")

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "binary_crossentropy",
        dtype: str | None = None,
    ) -> None:
        check_range("label_smoothing", label_smoothing, 0, 1)
        super().__init__(name, reduction, dtype)
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.axis = axis


@register("loss", "binary_focal_crossentropy")
class BinaryFocalCrossentropy(LossWithFunction):
    """The binary cross entropy times `(1 - p_label) ** gamma`; see `binary_focal_crossentropy`.

    Args:
        apply_class_balancing: Whether labels 1 count `alpha` and labels 0 count `1 - alpha`.
        alpha: The weight of labels 1.
        gamma: The focusing exponent.
        from_logits: Whether outputs are logits, not probabilities.
        label_smoothing: From 0 to 1: the share of the uniform distribution in the labels.
        axis: The feature axis of the mean.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> BinaryFocalCrossentropy()([[0., 1.]], [[0.5, 0.5]])
        tensor(0.1733)
    """

    function = staticmethod(binary_focal_crossentropy)
    argument_names = ("apply_class_balancing", "alpha", "gamma", "from_logits", "label_smoothing", "axis")

    def __init__(
        self,
        apply_class_balancing: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "binary_focal_crossentropy",
        dtype: str | None = None,
    ) -> None:
        check_range("label_smoothing", label_smoothing, 0, 1)
        super().__init__(name, reduction, dtype)
        self.apply_class_balancing = apply_class_balancing
        self.alpha = alpha
        self.gamma = gamma
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.axis = axis


@register("loss", "categorical_crossentropy")
class CategoricalCrossentropy(LossWithFunction):
    """The cross entropy of one-hot labels, the mean over real steps.

    Args:
        from_logits: Whether outputs are logits, not probabilities.
        label_smoothing: From 0 to 1: the share of the uniform distribution in the labels.
        axis: The feature axis of the classes.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> CategoricalCrossentropy()([[0., 1.]], [[0.5, 0.5]])
        tensor(0.6931)
    """

    function = staticmethod(categorical_crossentropy)
    combines_features = True
    argument_names = ("from_logits", "label_smoothing", "axis")

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: str | None = None,
    ) -> None:
        check_range("label_smoothing", label_smoothing, 0, 1)
        super().__init__(name, reduction, dtype)
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.axis = axis


@register("loss", "categorical_focal_crossentropy")
class CategoricalFocalCrossentropy(LossWithFunction):
    """The cross entropy of one-hot labels times `alpha * (1 - p) ** gamma`, the mean over real steps.

    Args:
        alpha: The weight of all classes, or one for each class.
        gamma: The focusing exponent.
        from_logits: Whether outputs are logits, not probabilities.
        label_smoothing: From 0 to 1: the share of the uniform distribution in the labels.
        axis: The feature axis of the classes.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> CategoricalFocalCrossentropy()([[0., 1.]], [[0.5, 0.5]])
        tensor(0.0433)
    """

    function = staticmethod(categorical_focal_crossentropy)
    combines_features = True
    argument_names = ("alpha", "gamma", "from_logits", "label_smoothing", "axis")

    def __init__(
        self,
        alpha: ArrayLike = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "categorical_focal_crossentropy",
        dtype: str | None = None,
    ) -> None:
        check_range("label_smoothing", label_smoothing, 0, 1)
        super().__init__(name, reduction, dtype)
        self.alpha = alpha
        self.gamma = gamma
        self.from_logits = from_logits
        self.label_smoothing = label_smoothing
        self.axis = axis


@register("loss", "sparse_categorical_crossentropy")
class SparseCategoricalCrossentropy(ClassIdLoss):
    """The cross entropy of class ids, the mean over real steps.

    An id at a real step that is not a class raises `DataError`.

    Args:
        from_logits: Whether outputs are logits, not probabilities.
        ignore_class: The id of steps that do not count.
        axis: The feature axis of the classes.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> SparseCategoricalCrossentropy(ignore_class=-1)([[1, -1]], torch.tensor([[[0.5, 0.5], [0.1, 0.9]]]))
        tensor(0.6931)
    """

    function = staticmethod(sparse_categorical_crossentropy)
    argument_names = ("from_logits", "ignore_class", "axis")

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: Reduction = "sum_over_batch_size",
        axis: int = -1,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name, reduction, dtype)
        self.from_logits = from_logits
        self.ignore_class = ignore_class
        self.axis = axis

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return crossentropy_of_checked_ids(y_true, y_pred, self.from_logits, self.ignore_class, self.axis)

    def count_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        return None if self.ignore_class is None else (y_true != self.ignore_class).reshape(values.shape)


@register("loss", "categorical_generalized_cross_entropy")
class CategoricalGeneralizedCrossEntropy(ClassIdLoss):
    """The mean over real steps of `(1 - p ** q) / q`, where p is the probability of the class id.

    Args:
        q: Between 0 and 1, without these; see `categorical_generalized_cross_entropy`.
        reduction, name, dtype: See `Loss`.

    Example:
        >>> CategoricalGeneralizedCrossEntropy()([1], [[0.75, 0.25]])
        tensor(1.)
    """

    function = staticmethod(categorical_generalized_cross_entropy)
    argument_names = ("q",)

    def __init__(
        self,
        q: float = 0.5,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "categorical_generalized_cross_entropy",
        dtype: str | None = None,
    ) -> None:
        if not 0 < q < 1:
            raise ArgumentError(f"`q` must be between 0 and 1, without 0 and 1; got {q!r}.")
        super().__init__(name, reduction, dtype)
        self.q = q


@register("loss", "kl_divergence", "kld", "KLD", "kullback_leibler_divergence")
class KLDivergence(LossWithFunction):
    """The mean over real steps of the Kullback-Leibler divergence of targets and outputs.

    Args:
        reduction, name, dtype: See `Loss`.

    Example:
        >>> KLDivergence()([[1., 0.]], [[0.5, 0.5]])
        tensor(0.6931)
    """

    function = staticmethod(kl_divergence)
    combines_features = True

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "kl_divergence", dtype: str | None = None
    ) -> None:
        super().__init__(name, reduction, dtype)


@register("loss", "poisson")
class Poisson(LossWithFunction):
    """The mean of `y_pred - y_true * log(y_pred)` over real steps and features.

    Args:
        reduction, name, dtype: See `Loss`.

    Example:
        >>> Poisson()([[1., 0.]], [[1., 3.]])
        tensor(2.)
    """

    function = staticmethod(poisson)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "poisson", dtype: str | None = None
    ) -> None:
        super().__init__(name, reduction, dtype)
