"""Losses of functions of targets and outputs, and of loss modules of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from padless._threads import cached_property
from padless._torch_compat import LossModule as TorchLossModule
from padless.errors import ArgumentError
from padless.losses.base import check_class_ids, check_targets_are_finite
from padless.losses.loss import Loss, Reduction, has_mask_argument
from padless.registry import is_of_padless, register
from padless.saving import serialization as saving

FUNCTION_KINDS = ("loss_function", "loss", "metric")  # of the registry, in the order in which names are looked up


@register("loss")
class LossFunctionWrapper(Loss):
    """The loss of a function of `(y_true, y_pred)`, as `keras.losses.LossFunctionWrapper`.

    Args:
        fn: A function of rows `(N, ...)` that returns one value for each row, or a scalar. With an argument `mask` it gets
            padded grids `(B, T, ...)`, and returns one value for each sequence.
        reduction, name, dtype: See `Loss`. The default name is that of the function.
        **kwargs: Further arguments of each call of the function.

    Raises:
        ArgumentError: `fn` is a loss function of torch, whose arguments have another order.

    Example:
        >>> loss = LossFunctionWrapper(lambda y_true, y_pred: (y_true - y_pred).abs().mean(-1), name="error")
        >>> loss([[1., 2.]], [[1., 4.]])
        tensor(1.)
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        function_name = getattr(fn, "__name__", None)
        if getattr(fn, "__module__", None) == "torch.nn.functional":
            raise ArgumentError(
                f"torch's {function_name} takes (input, target), the other way round, and averages. Give "
                f"the module instead, for example `torch.nn.MSELoss(reduction='none')`."
            )
        super().__init__(name or function_name, reduction, dtype)
        self.fn = fn
        self.kwargs = kwargs
        self.axis = kwargs.get("axis", -1)

    @cached_property  # read for every batch
    def takes_mask(self) -> bool:
        return has_mask_argument(self.fn)

    @cached_property  # read for every batch
    def _is_of_padless(self) -> bool:
        return is_of_padless(self.fn)

    def check_targets(self, y_true: Tensor, y_pred: Tensor) -> None:
        if self._is_of_padless:  # a function of a user may define what NaN means
            check_targets_are_finite(y_true)

    def replace_targets(self, y_true: Tensor, y_pred: Tensor, is_replaced: Tensor) -> Tensor:
        return (
            torch.where(is_replaced, 0, y_true)
            if self._is_of_padless
            else super().replace_targets(y_true, y_pred, is_replaced)
        )

    def call(self, y_true: Tensor, y_pred: Tensor, **mask: Tensor) -> Tensor:
        return self.fn(y_true, y_pred, **mask, **self.kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "fn": saving.serialize(self.fn, FUNCTION_KINDS), **self.kwargs}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        return cls(**{**config, "fn": saving.deserialize(config["fn"], FUNCTION_KINDS)})


class TorchLoss(Loss):
    """The loss of a loss module of torch, called with `(outputs, targets)`.

    For `CrossEntropyLoss` and `NLLLoss` class ids become integers, and ids equal to `ignore_index` do not count.

    Args:
        module: A loss module with `reduction="none"`.
        name, reduction: See `Loss`.

    Raises:
        ArgumentError: The module has another reduction.

    Example:
        >>> TorchLoss(torch.nn.L1Loss(reduction="none"))([[1., 2.]], [[1., 4.]])
        tensor(1.)
    """

    def __init__(
        self, module: TorchLossModule, name: str | None = None, reduction: Reduction = "sum_over_batch_size"
    ) -> None:
        module_name = type(module).__name__
        super().__init__(name or module_name, reduction)
        if module.reduction != "none":
            raise ArgumentError(
                f"{module_name} has reduction={module.reduction!r} and would average before "
                f"real steps can be counted. Use {module_name}(reduction='none')."
            )
        self.module = module
        self.has_classes = isinstance(module, torch.nn.CrossEntropyLoss | torch.nn.NLLLoss)
        self.ignore_index: int | None = None
        if isinstance(module, torch.nn.CrossEntropyLoss | torch.nn.NLLLoss):
            self.ignore_index = module.ignore_index

    def _are_class_ids(self, y_true: Tensor, y_pred: Tensor) -> bool:
        """Return whether targets are class ids, not probabilities of classes."""
        return self.has_classes and y_true.shape != y_pred.shape

    def check_targets(self, y_true: Tensor, y_pred: Tensor) -> None:
        if self._are_class_ids(y_true, y_pred):
            check_class_ids(y_true, y_pred.shape[-1], self.ignore_index)
        elif type(self.module).__module__.startswith("torch."):  # a module of a user may define what NaN means
            check_targets_are_finite(y_true)

    def replace_targets(self, y_true: Tensor, y_pred: Tensor, is_replaced: Tensor) -> Tensor:
        if self._are_class_ids(y_true, y_pred):
            return torch.where(is_replaced, 0, y_true)
        return super().replace_targets(y_true, y_pred, is_replaced)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        if not self._are_class_ids(y_true, y_pred):
            return super().cast(y_true, y_pred)
        ids = y_true.squeeze(-1) if y_true.ndim == y_pred.ndim else y_true
        return ids.long(), y_pred.to(self._dtype_for(y_pred))

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.has_classes and y_pred.ndim > 2:  # torch has the classes on axis 1
            y_true = y_true.movedim(-1, 1) if y_true.ndim == y_pred.ndim else y_true
            y_pred = y_pred.movedim(-1, 1)
        return self.module(y_pred, y_true)

    def count_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        if self.ignore_index is None or y_true.is_floating_point():
            return None
        return torch.ne(y_true, self.ignore_index)

    def get_config(self) -> dict[str, Any]:
        raise ArgumentError(
            f"The torch module {self.module} has no config, so this loss cannot be saved. Use the loss "
            f"of that name in padless, or compile again after loading."
        )
