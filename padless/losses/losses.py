"""The losses, with Keras's names, arguments and numbers.

What `compile` takes for a loss goes through `get`: a name, an object, a config, a function of `(y_true, y_pred)` or of
`(y_true, y_pred, mask)`, a torch loss module. All of them are summed over real steps in one place, `Loss.measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    "masked",
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
    found = getattr(found, "of_steps", found)  # what `masked` wrapped: its sums can be split into batches
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


def masked(fn: Any) -> Callable[..., Tensor]:
    """Of `fn(y_true, y_pred)` the function `(y_true, y_pred, weights=None, mask=None)` that `compile` uses.

    `fn` is anything that `get` takes. The mask is a boolean grid in any container, or the one that a Packed `y_pred`
    has; given both, steps are real where both say so. The result is the scalar S / W over real steps.

    >>> loss = masked(lambda y_true, y_pred: (y_true - y_pred) ** 2)
    >>> loss([[1., 2., 9.]], [[0., 0., 0.]], mask=[[True, True, False]])
    tensor(2.5000)
    """
    loss = get(fn)

    def measured(y_true: Any, y_pred: Any, weights: Any = None, mask: Any = None) -> Tensor:
        if mask is not None:
            y_true, y_pred = to_tensor(y_true, "y_true"), pack(to_tensor(y_pred, "y_pred"), mask=mask)
            y_true = pack(y_true, mask=mask) if isinstance(y_true, Packed) else y_true
        return loss(y_true, y_pred, weights)

    measured.of_steps = loss  # pyright: ignore[reportFunctionMemberAccess]
    return measured
