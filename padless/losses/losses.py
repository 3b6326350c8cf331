"""Losses by name, object, config, function or torch module, and their configs.

`compile` passes its losses through `get`. All of them are summed over real steps in one place, `Loss.per_step_values`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from padless._torch_compat import LossModule as TorchLossModule
from padless.errors import ArgumentError
from padless.losses.base import LossWithFunction
from padless.losses.loss import Loss
from padless.losses.wrappers import FUNCTION_KINDS, LossFunctionWrapper, TorchLoss
from padless.ragged.alignment import to_tensor
from padless.ragged.packed import Packed, pack_shared
from padless.registry import entries
from padless.saving import serialization as saving
from padless.types import ArrayLike, ConfigLike, LossLike, MaskLike


def get(identifier: LossLike | None) -> Loss:
    """Return the loss that a name, an object, a class, a config, a function or a torch module means.

    Args:
        identifier: For example `"mse"`, `MeanSquaredError()`, a function of `(y_true, y_pred)`, or
            `torch.nn.MSELoss(reduction="none")`.

    Raises:
        ArgumentError: It means no loss.

    Example:
        >>> get("mse").name, get(lambda y_true, y_pred: (y_true - y_pred) ** 2).reduction
        ('mean_squared_error', 'sum_over_batch_size')
    """
    loss = identifier if isinstance(identifier, torch.nn.Module) else saving.get(identifier, "loss")
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, MaskedLoss):
        return loss.loss
    if isinstance(loss, TorchLossModule):
        return TorchLoss(loss)
    for cls in entries("loss").values():
        if isinstance(cls, type) and issubclass(cls, LossWithFunction) and cls.function is loss:
            return cls()
    if callable(loss):
        return LossFunctionWrapper(loss)
    raise ArgumentError(
        f"{identifier!r} is not a loss. Expected a name such as 'mse', a loss object, a function of "
        f"(y_true, y_pred), or a torch loss module with reduction='none'."
    )


def serialize(loss: LossLike) -> str | dict[str, object]:
    """Return the config of a loss, or the name of a registered function, as JSON values.

    Example:
        >>> from padless.losses import Huber
        >>> serialize(Huber(2.0))["config"]["delta"]
        2.0
    """
    return saving.serialize(loss, FUNCTION_KINDS)


def deserialize(name: ConfigLike, custom_objects: Mapping[str, object] | None = None) -> Loss:
    """Return the loss or the function of a config that `serialize` returned, or of a name.

    Args:
        name: A name or config.
        custom_objects: Names that are not registered.

    Raises:
        ArgumentError: The name is unknown, or the config is not valid.

    Example:
        >>> from padless.losses import Huber
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
            targets, y_pred = to_tensor(y_true, "y_true"), pack_shared(to_tensor(y_pred, "y_pred"), mask=mask)
            y_true = pack_shared(targets, mask=mask) if isinstance(targets, Packed) else targets
        return self.loss(y_true, y_pred, weights)
