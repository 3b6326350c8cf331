"""The losses, with Keras's names, arguments and numbers.

What `compile` takes for a loss goes through `get`: a name, an object, a config, a function of `(y_true, y_pred)` or of
`(y_true, y_pred, mask)`, a torch loss module. All of them are summed over real steps in one place, `Loss.per_step_values`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss as TorchModule

from padless.errors import ArgumentError
from padless.losses.circle_loss import Circle, circle
from padless.losses.ctc_loss import CTC, ctc
from padless.losses.hinge_losses import CategoricalHinge, Hinge, SquaredHinge, categorical_hinge, hinge, squared_hinge
from padless.losses.loss import Loss
from padless.losses.overlap_losses import Dice, Tversky, dice, tversky
from padless.losses.probabilistic_losses import (
    BinaryCrossentropy,
    BinaryFocalCrossentropy,
    CategoricalCrossentropy,
    CategoricalFocalCrossentropy,
    CategoricalGeneralizedCrossEntropy,
    KLDivergence,
    Poisson,
    SparseCategoricalCrossentropy,
    binary_crossentropy,
    binary_focal_crossentropy,
    categorical_crossentropy,
    categorical_focal_crossentropy,
    categorical_generalized_cross_entropy,
    kl_divergence,
    poisson,
    sparse_categorical_crossentropy,
)
from padless.losses.regression_losses import (
    CosineSimilarity,
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    cosine_similarity,
    huber,
    log_cosh,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
)
from padless.losses.wrappers import FUNCTIONS, LossFunctionWrapper, TorchLoss
from padless.ragged.alignment import to_tensor
from padless.ragged.packed import Packed, pack
from padless.registry import entries
from padless.saving import serialization as saving
from padless.types import ArrayLike, LossLike, MaskLike

__all__ = [
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CTC",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedCrossEntropy",
    "CategoricalHinge",
    "Circle",
    "CosineSimilarity",
    "Dice",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "LossFunctionWrapper",
    "MaskedLoss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
    "TorchLoss",
    "Tversky",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_generalized_cross_entropy",
    "categorical_hinge",
    "circle",
    "cosine_similarity",
    "ctc",
    "deserialize",
    "dice",
    "get",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "MaskedLoss",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "poisson",
    "serialize",
    "sparse_categorical_crossentropy",
    "squared_hinge",
    "tversky",
]


def get(identifier: Any) -> Loss:
    """The loss that a name, an object, a class, a config, a function or a torch module means.

    Raises `ArgumentError` for anything else.

    >>> get("mse").name, get(lambda y_true, y_pred: (y_true - y_pred) ** 2).reduction
    ('mean_squared_error', 'sum_over_batch_size')
    """
    found = saving.get(identifier, "loss") if not isinstance(identifier, torch.nn.Module) else identifier
    if isinstance(found, MaskedLoss):
        return found.loss  # whose sums can be split into batches
    if isinstance(found, Loss):
        return found
    if isinstance(found, TorchModule):
        return TorchLoss(found)
    for cls in entries("loss").values():
        if found is not None and found is getattr(cls, "function", None):
            return cls()
    if callable(found):
        return LossFunctionWrapper(found)
    raise ArgumentError(
        f"{identifier!r} is no loss. Expected a name such as 'mse', a loss object, a function of "
        f"(y_true, y_pred), or a torch loss module with reduction='none'."
    )


def serialize(loss: Any) -> Any:
    """A loss, or a registered function, as JSON has it.

    >>> serialize(Huber(2.0))["config"]["delta"]
    2.0
    """
    return saving.serialize(loss, FUNCTIONS)


def deserialize(name: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """What `serialize` wrote, as a loss again.

    >>> deserialize(serialize(Huber(2.0))).delta
    2.0
    """
    return saving.deserialize(name, ("loss", "loss_function"), custom_objects)


class MaskedLoss:
    """A loss as a function of `(y_true, y_pred, weights=None, mask=None)`, for training loops without `compile`.

    Args:
        fn: Anything that `get` accepts: a name, a loss, a function of `(y_true, y_pred)`.

    Example:
        >>> loss = MaskedLoss(lambda y_true, y_pred: (y_true - y_pred) ** 2)
        >>> loss([[1., 2., 9.]], [[0., 0., 0.]], mask=[[True, True, False]])
        tensor(2.5000)
    """

    def __init__(self, fn: LossLike) -> None:
        self.loss = get(fn)

    def __call__(
        self, y_true: ArrayLike, y_pred: ArrayLike, weights: ArrayLike | None = None, mask: MaskLike | None = None
    ) -> Tensor:
        """Return the loss over the real steps, S / W.

        Args:
            y_true: Targets, a padded grid `(B, T, ...)` or sequences.
            y_pred: Outputs `(B, T, ...)`, plain or `Packed`.
            weights: Weights of sequences `(B,)` or steps `(B, T)`.
            mask: The real steps, booleans `(B, T)`. If `y_pred` is `Packed`, a step is real where both masks are True.
        """
        if mask is not None:
            targets, y_pred = to_tensor(y_true, "y_true"), pack(to_tensor(y_pred, "y_pred"), mask=mask)
            y_true = pack(targets, mask=mask) if isinstance(targets, Packed) else targets
        return self.loss(y_true, y_pred, weights)
