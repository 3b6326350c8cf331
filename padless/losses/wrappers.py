"""What becomes a loss by being wrapped: any function of targets and outputs, and the loss modules of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss as TorchModule

from padless.errors import ArgumentError
from padless.losses.base import check_class_ids
from padless.losses.loss import Loss, Reduction, has_mask_argument
from padless.registry import register
from padless.saving import serialization as saving

FUNCTIONS = ("loss_function", "loss", "metric")


@register("loss")
class LossFunctionWrapper(Loss):
    """A function of `(y_true, y_pred)`, or of `(y_true, y_pred, mask)`, as a loss; `kwargs` go to each call."""

    def __init__(
        self,
        fn: Callable[..., Any],
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = None,
        dtype: str | None = None,
        **kwargs: Any,
    ) -> None:
        if getattr(fn, "__module__", None) == "torch.nn.functional":
            raise ArgumentError(
                f"torch's {fn.__name__} takes (input, target), the other way round, and averages. Give "
                f"the module instead, for example `torch.nn.MSELoss(reduction='none')`."
            )
        super().__init__(name or getattr(fn, "__name__", None), reduction, dtype)
        self.fn = fn
        self.kwargs = kwargs
        self.axis = kwargs.get("axis", -1)

    @cached_property  # asked for every batch
    def takes_mask(self) -> bool:
        return has_mask_argument(self.fn)

    def call(self, y_true: Tensor, y_pred: Tensor, **mask: Tensor) -> Any:
        return self.fn(y_true, y_pred, **mask, **self.kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "fn": saving.serialize(self.fn, FUNCTIONS), **self.kwargs}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        fn = saving.deserialize(config["fn"], FUNCTIONS)
        return cls(**{**config, "fn": fn})


class TorchLoss(Loss):
    """A loss module of torch.nn with `reduction="none"`: called with (outputs, targets), as torch has it.

    Class ids go in as integers; those equal to its `ignore_index` do not count.
    """

    def __init__(self, module: TorchModule, name: str | None = None, reduction: Reduction = "sum_over_batch_size") -> None:
        super().__init__(name or type(module).__name__, reduction)
        if getattr(module, "reduction", "none") != "none":
            raise ArgumentError(
                f"{type(module).__name__} has reduction={module.reduction!r} and would average before "
                f"real steps can be counted. Use {type(module).__name__}(reduction='none')."
            )
        self.module = module
        self.ignored: Any = getattr(module, "ignore_index", None)
        self.classes = isinstance(module, torch.nn.CrossEntropyLoss | torch.nn.NLLLoss)

    def _ids(self, y_true: Tensor, y_pred: Tensor) -> bool:
        return self.classes and y_true.shape != y_pred.shape

    def check_targets(self, y_true: Tensor, y_pred: Tensor) -> None:
        if self._ids(y_true, y_pred):
            check_class_ids(y_true, y_pred.shape[-1], self.ignored)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        if not self._ids(y_true, y_pred):
            return super().cast(y_true, y_pred)
        return (y_true.squeeze(-1) if y_true.ndim == y_pred.ndim else y_true).long(), y_pred.to(self._dtype_for(y_pred))

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.classes and y_pred.ndim > 2:  # torch has classes second
            y_pred = y_pred.movedim(-1, 1)
            y_true = y_true.movedim(-1, 1) if y_true.ndim == y_pred.ndim else y_true
        return self.module(y_pred, y_true)

    def count_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        if not self.classes or y_true.is_floating_point():
            return None
        return torch.ne(y_true, self.ignored)

    def get_config(self) -> dict[str, Any]:
        raise ArgumentError(
            f"The torch module {self.module} has no config, so this loss cannot be saved. Use the loss "
            f"of that name in padless, or compile again after loading."
        )
