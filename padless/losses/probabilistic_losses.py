"""Losses of probabilities: cross entropies, plain and focal, and what else compares distributions."""

from __future__ import annotations

from typing import Any

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

NEVER = torch.iinfo(torch.int64).min  # torch would ignore the class -100 in silence
ONE_HOT = "For class ids use sparse_categorical_crossentropy."


@register("loss_function")
def binary_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """The mean over `axis` of the cross entropy between labels 0 and 1 and probabilities, or logits.

    >>> binary_crossentropy([[0., 1.]], [[0.5, 0.5]])
    tensor([0.6931])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    return _binary(_smooth(y_true, label_smoothing, 2), y_pred, from_logits).mean(axis)


@register("loss_function")
def binary_focal_crossentropy(
    y_true: Any,
    y_pred: Any,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Tensor:
    """Binary cross entropy times `(1 - p) ** gamma`, where p is the probability given to the label.

    With `apply_class_balancing` the label 1 counts `alpha`, 0 counts `1 - alpha`. From Lin et al. 2017.

    >>> binary_focal_crossentropy([[0., 1.]], [[0.5, 0.5]])
    tensor([0.1733])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    y_true = _smooth(y_true, label_smoothing, 2)
    p = y_pred.sigmoid() if from_logits else y_pred
    values = (1.0 - (y_true * p + (1.0 - y_true) * (1.0 - p))).pow(gamma) * _binary(y_true, p, False)
    if apply_class_balancing:
        values = values * (y_true * alpha + (1.0 - y_true) * (1.0 - alpha))
    return values.mean(axis)


@register("loss_function")
def categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """Cross entropy between one-hot labels and probabilities, which are made to add up to 1, or logits.

    >>> categorical_crossentropy([[0., 1.]], [[0.5, 0.5]])
    tensor([0.6931])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred, ONE_HOT)
    y_true = _smooth(y_true, label_smoothing, y_true.shape[-1])
    if from_logits:
        return -(y_true * y_pred.log_softmax(axis)).sum(axis)
    return -(y_true * _normed(y_pred, axis).log()).sum(axis)


@register("loss_function")
def categorical_focal_crossentropy(
    y_true: Any,
    y_pred: Any,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Tensor:
    """Categorical cross entropy, where the class of probability p counts `alpha * (1 - p) ** gamma`.

    >>> categorical_focal_crossentropy([[0., 1.]], [[0.5, 0.5]])
    tensor([0.0433])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred, ONE_HOT)
    y_true = _smooth(y_true, label_smoothing, y_true.shape[-1])
    p = _normed(y_pred.softmax(axis) if from_logits else y_pred, axis)
    return -(alpha * (1.0 - p).pow(gamma) * y_true * p.log()).sum(axis)


@register("loss_function")
def sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Tensor:
    """Cross entropy between class ids and probabilities, or logits; 0 where the id is `ignore_class`.

    Raises `DataError` for ids that are no class.

    >>> sparse_categorical_crossentropy([1., 2.], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
    tensor([0.0513, 2.3026])
    """
    ids, y_pred = read_tensors(y_true, y_pred, cast=False)
    check_class_ids(ids, y_pred.shape[axis], ignore_class)
    return crossentropy_of_checked_ids(ids, y_pred, from_logits, ignore_class, axis)


def crossentropy_of_checked_ids(
    ids: Tensor, y_pred: Tensor, from_logits: bool, ignore_class: int | None, axis: int
) -> Tensor:
    """The same for ids that were checked."""
    shaped = match_class_ids(ids, y_pred, axis)
    rows, flat = y_pred.movedim(axis, -1).reshape(-1, y_pred.shape[axis]), shaped.reshape(-1)
    ignored = None if ignore_class is None else flat == ignore_class
    if ignored is not None:  # neither what the label says there nor what the model says may matter
        flat, rows = torch.where(ignored, 0, flat), torch.where(ignored[:, None], 0, rows)
    flat = flat.long()
    if from_logits:
        values = F.cross_entropy(rows, flat, reduction="none", ignore_index=NEVER)
    else:  # only the probability of the label is looked at, and the sum of all
        chosen = rows.gather(1, flat[:, None]).squeeze(1) / rows.sum(-1)
        values = -chosen.clamp(EPSILON, 1.0 - EPSILON).log()
    return (values if ignored is None else torch.where(ignored, 0, values)).reshape(shaped.shape)


@register("loss_function")
def categorical_generalized_cross_entropy(y_true: Any, y_pred: Any, q: float) -> Tensor:
    """`(1 - p ** q) / q` of the probability p of the class id: less led astray by wrong labels (Zhang, Sabuncu 2018).

    >>> categorical_generalized_cross_entropy([1], [[0.75, 0.25]], 0.5)
    tensor([1.])
    """
    ids, y_pred = read_tensors(y_true, y_pred, cast=False)
    check_class_ids(ids, y_pred.shape[-1])
    p = y_pred.gather(-1, match_class_ids(ids, y_pred).long().unsqueeze(-1)).squeeze(-1)
    return (1.0 - p.pow(q)) / q


@register("loss_function")
def kl_divergence(y_true: Any, y_pred: Any) -> Tensor:
    """The sum over the last axis of `y_true * log(y_true / y_pred)`, both kept between 1e-7 and 1.

    >>> kl_divergence([[1., 0.]], [[0.5, 0.5]])
    tensor([0.6931])
    """
    y_true, y_pred = (part.clamp(EPSILON, 1.0) for part in read_same_shape(y_true, y_pred))
    return (y_true * (y_true / y_pred).log()).sum(-1)


@register("loss_function")
def poisson(y_true: Any, y_pred: Any) -> Tensor:
    """The mean over the last axis of `y_pred - y_true * log(y_pred)`: counts against expected counts.

    >>> poisson([[1., 0.]], [[1., 3.]])
    tensor([2.])
    """
    y_true, y_pred = read_same_shape(y_true, y_pred)
    return (y_pred - y_true * (y_pred + EPSILON).log()).mean(-1)


def _smooth(y_true: Tensor, label_smoothing: float, classes: int) -> Tensor:
    return y_true * (1.0 - label_smoothing) + label_smoothing / classes if label_smoothing else y_true


def _binary(y_true: Tensor, y_pred: Tensor, from_logits: bool) -> Tensor:
    if from_logits:
        return F.binary_cross_entropy_with_logits(y_pred, y_true, reduction="none")
    p = y_pred.clamp(EPSILON, 1.0 - EPSILON)
    return -(y_true * p.log() + (1.0 - y_true) * (1.0 - p).log())


def _normed(y_pred: Tensor, axis: int) -> Tensor:
    return (y_pred / y_pred.sum(axis, keepdim=True)).clamp(EPSILON, 1.0 - EPSILON)


@register("loss", "binary_crossentropy", "bce", "BCE")
class BinaryCrossentropy(LossWithFunction):
    """Cross entropy between labels 0 and 1 and probabilities, or logits.

    >>> BinaryCrossentropy()([[0., 1.]], [[0.5, 0.5]])
    tensor(0.6931)
    """

    function = staticmethod(binary_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "binary_crossentropy",
        dtype: str | None = None,
    ) -> None:
        super().__init__(
            reduction,
            name,
            dtype,
            from_logits=from_logits,
            label_smoothing=check_range("label_smoothing", label_smoothing, 0, 1),
            axis=axis,
        )


@register("loss", "binary_focal_crossentropy")
class BinaryFocalCrossentropy(LossWithFunction):
    """Binary cross entropy that counts well classified labels less, by `(1 - p) ** gamma`.

    >>> BinaryFocalCrossentropy()([[0., 1.]], [[0.5, 0.5]])
    tensor(0.1733)
    """

    function = staticmethod(binary_focal_crossentropy)

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
        super().__init__(
            reduction,
            name,
            dtype,
            apply_class_balancing=apply_class_balancing,
            alpha=alpha,
            gamma=gamma,
            from_logits=from_logits,
            label_smoothing=check_range("label_smoothing", label_smoothing, 0, 1),
            axis=axis,
        )


@register("loss", "categorical_crossentropy")
class CategoricalCrossentropy(LossWithFunction):
    """Cross entropy between one-hot labels and probabilities, or logits.

    >>> CategoricalCrossentropy()([[0., 1.]], [[0.5, 0.5]])
    tensor(0.6931)
    """

    function = staticmethod(categorical_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: str | None = None,
    ) -> None:
        super().__init__(
            reduction,
            name,
            dtype,
            from_logits=from_logits,
            label_smoothing=check_range("label_smoothing", label_smoothing, 0, 1),
            axis=axis,
        )


@register("loss", "categorical_focal_crossentropy")
class CategoricalFocalCrossentropy(LossWithFunction):
    """Categorical cross entropy that counts well classified steps less, by `alpha * (1 - p) ** gamma`.

    >>> CategoricalFocalCrossentropy()([[0., 1.]], [[0.5, 0.5]])
    tensor(0.0433)
    """

    function = staticmethod(categorical_focal_crossentropy)

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "categorical_focal_crossentropy",
        dtype: str | None = None,
    ) -> None:
        super().__init__(
            reduction,
            name,
            dtype,
            alpha=alpha,
            gamma=gamma,
            from_logits=from_logits,
            label_smoothing=check_range("label_smoothing", label_smoothing, 0, 1),
            axis=axis,
        )


@register("loss", "sparse_categorical_crossentropy")
class SparseCategoricalCrossentropy(ClassIdLoss):
    """Cross entropy between class ids and probabilities, or logits; steps labelled `ignore_class` do not count.

    Raises `DataError` for an id at a real step that is no class.

    >>> SparseCategoricalCrossentropy(ignore_class=-1)([[1, -1]], torch.tensor([[[0.5, 0.5], [0.1, 0.9]]]))
    tensor(0.6931)
    """

    function = staticmethod(sparse_categorical_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: Reduction = "sum_over_batch_size",
        axis: int = -1,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction, name, dtype, from_logits=from_logits, ignore_class=ignore_class, axis=axis)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return crossentropy_of_checked_ids(y_true, y_pred, **self.function_arguments)  # `check` has looked at the ids

    def count_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        return None if self.ignore_class is None else (y_true != self.ignore_class).reshape(values.shape)


@register("loss", "categorical_generalized_cross_entropy")
class CategoricalGeneralizedCrossEntropy(ClassIdLoss):
    """The mean over real steps of `(1 - p ** q) / q`, p being the probability of the class id; 0 < q < 1.

    >>> CategoricalGeneralizedCrossEntropy()([1], [[0.75, 0.25]])
    tensor(1.)
    """

    function = staticmethod(categorical_generalized_cross_entropy)

    def __init__(
        self,
        q: float = 0.5,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "categorical_generalized_cross_entropy",
        dtype: str | None = None,
    ) -> None:
        if not 0 < q < 1:
            raise ArgumentError(f"`q` must be between 0 and 1, neither of them; got {q!r}.")
        super().__init__(reduction, name, dtype, q=q)


@register("loss", "kl_divergence", "kld", "KLD", "kullback_leibler_divergence")
class KLDivergence(LossWithFunction):
    """The mean over real steps of the Kullback-Leibler divergence of the outputs from the targets.

    >>> KLDivergence()([[1., 0.]], [[0.5, 0.5]])
    tensor(0.6931)
    """

    function = staticmethod(kl_divergence)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "kl_divergence", dtype: str | None = None
    ) -> None:
        super().__init__(reduction, name, dtype)


@register("loss", "poisson")
class Poisson(LossWithFunction):
    """The mean of `y_pred - y_true * log(y_pred)` over real steps and features.

    >>> Poisson()([[1., 0.]], [[1., 3.]])
    tensor(2.)
    """

    function = staticmethod(poisson)

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = "poisson", dtype: str | None = None
    ) -> None:
        super().__init__(reduction, name, dtype)
