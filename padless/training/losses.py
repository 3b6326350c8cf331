"""The losses, with Keras's names, arguments and numbers.

What `compile` takes for a loss goes through `get`: a name, an object, a config, a function of `(y_true, y_pred)` or of
`(y_true, y_pred, mask)`, a torch loss module. All of them are summed over real steps in one place, `Loss.measure`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss as TorchModule

from padless.errors import ArgumentError
from padless.ragged.packed import Packed, pack
from padless.registry import register
from padless.saving import config as saving
from padless.training.align import read
from padless.training.loss import Loss, Reduction, has_mask
from padless.training.loss_functions import (
    binary_crossentropy,
    categorical_crossentropy,
    check_ids,
    mean_absolute_error,
    mean_squared_error,
    sparse_categorical_crossentropy,
    sparse_values,
)


@register("loss")
class LossFunctionWrapper(Loss):
    """A function of `(y_true, y_pred)`, or of `(y_true, y_pred, mask)`, as a loss; `kwargs` go to each call."""

    def __init__(self, fn: Callable[..., Any], reduction: Reduction = "sum_over_batch_size", name: str | None = None,
                 dtype: str | None = None, **kwargs: Any) -> None:
        if getattr(fn, "__module__", None) == "torch.nn.functional":
            raise ArgumentError(f"torch's {fn.__name__} takes (input, target), the other way round, and averages. Give "
                                f"the module instead, for example `torch.nn.MSELoss(reduction='none')`.")
        super().__init__(name or getattr(fn, "__name__", None), reduction, dtype)
        self.fn = fn
        self.kwargs = kwargs
        self.axis = kwargs.get("axis", -1)

    @property
    def takes_mask(self) -> bool:
        return has_mask(self.fn)

    def call(self, y_true: Tensor, y_pred: Tensor, **mask: Tensor) -> Any:
        return self.fn(y_true, y_pred, **mask, **self.kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "fn": saving.serialize(self.fn, ("loss_function", "loss", "metric")),
                **self.kwargs}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        fn = saving.deserialize(config["fn"], ("loss_function", "loss", "metric"))
        return cls(**{**config, "fn": fn})


@register("loss", "mean_squared_error", "mse", "MSE")
class MeanSquaredError(Loss):
    """The mean of `(y_true - y_pred) ** 2` over real steps and features.

    >>> MeanSquaredError()([[1, 2, 0]], pack(torch.zeros(1, 3), mask=[[1, 1, 0]]))
    tensor(2.5000)
    """

    def __init__(self, reduction: Reduction = "sum_over_batch_size", name: str | None = "mean_squared_error",
                 dtype: str | None = None) -> None:
        super().__init__(name, reduction, dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return mean_squared_error(y_true, y_pred)


@register("loss", "mean_absolute_error", "mae", "MAE")
class MeanAbsoluteError(Loss):
    """The mean of `|y_true - y_pred|` over real steps and features."""

    def __init__(self, reduction: Reduction = "sum_over_batch_size", name: str | None = "mean_absolute_error",
                 dtype: str | None = None) -> None:
        super().__init__(name, reduction, dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return mean_absolute_error(y_true, y_pred)


class _Crossentropy(Loss):
    """What the cross entropies of labels that are numbers share: their arguments."""

    def __init__(self, from_logits: bool, label_smoothing: float, axis: int, reduction: Reduction, name: str | None,
                 dtype: str | None) -> None:
        super().__init__(name, reduction, dtype)
        if not 0 <= label_smoothing <= 1:
            raise ArgumentError(f"`label_smoothing` must be between 0 and 1; got {label_smoothing!r}.")
        self.from_logits, self.label_smoothing, self.axis = from_logits, label_smoothing, axis

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits, "label_smoothing": self.label_smoothing,
                "axis": self.axis}


@register("loss", "binary_crossentropy", "bce", "BCE")
class BinaryCrossentropy(_Crossentropy):
    """Cross entropy between labels 0 and 1 and probabilities, or logits."""

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1,
                 reduction: Reduction = "sum_over_batch_size", name: str | None = "binary_crossentropy",
                 dtype: str | None = None) -> None:
        super().__init__(from_logits, label_smoothing, axis, reduction, name, dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return binary_crossentropy(y_true, y_pred, self.from_logits, self.label_smoothing, self.axis)


@register("loss", "categorical_crossentropy")
class CategoricalCrossentropy(_Crossentropy):
    """Cross entropy between one-hot labels and probabilities, or logits."""

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1,
                 reduction: Reduction = "sum_over_batch_size", name: str | None = "categorical_crossentropy",
                 dtype: str | None = None) -> None:
        super().__init__(from_logits, label_smoothing, axis, reduction, name, dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return categorical_crossentropy(y_true, y_pred, self.from_logits, self.label_smoothing, self.axis)


@register("loss", "sparse_categorical_crossentropy")
class SparseCategoricalCrossentropy(Loss):
    """Cross entropy between class ids and probabilities, or logits; steps labelled `ignore_class` do not count.

    Raises `DataError` for an id at a real step that is no class.
    """

    def __init__(self, from_logits: bool = False, ignore_class: int | None = None,
                 reduction: Reduction = "sum_over_batch_size", axis: int = -1,
                 name: str | None = "sparse_categorical_crossentropy", dtype: str | None = None) -> None:
        super().__init__(name, reduction, dtype)
        self.from_logits, self.ignore_class, self.axis = from_logits, ignore_class, axis

    def check(self, y_true: Tensor, y_pred: Tensor) -> None:
        check_ids(y_true, y_pred.shape[self.axis], self.ignore_class)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return y_true, y_pred.to(self._dtype(y_pred))

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return sparse_values(y_true, y_pred, self.from_logits, self.ignore_class, self.axis)

    def counted(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        return None if self.ignore_class is None else (y_true != self.ignore_class).reshape(values.shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits, "ignore_class": self.ignore_class,
                "axis": self.axis}


class TorchLoss(Loss):
    """A loss module of torch.nn with `reduction="none"`: called with (outputs, targets), as torch has it.

    Class ids go in as integers; those equal to its `ignore_index` do not count.
    """

    def __init__(self, module: TorchModule, name: str | None = None,
                 reduction: Reduction = "sum_over_batch_size") -> None:
        super().__init__(name or type(module).__name__, reduction)
        if getattr(module, "reduction", "none") != "none":
            raise ArgumentError(f"{type(module).__name__} has reduction={module.reduction!r} and would average before "
                                f"real steps can be counted. Use {type(module).__name__}(reduction='none').")
        self.module = module
        self.ignored: Any = getattr(module, "ignore_index", None)
        self.classes = isinstance(module, torch.nn.CrossEntropyLoss | torch.nn.NLLLoss)

    def _ids(self, y_true: Tensor, y_pred: Tensor) -> bool:
        return self.classes and y_true.shape != y_pred.shape

    def check(self, y_true: Tensor, y_pred: Tensor) -> None:
        if self._ids(y_true, y_pred):
            check_ids(y_true, y_pred.shape[-1], self.ignored)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        if not self._ids(y_true, y_pred):
            return super().cast(y_true, y_pred)
        return (y_true.squeeze(-1) if y_true.ndim == y_pred.ndim else y_true).long(), y_pred.to(self._dtype(y_pred))

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.classes and y_pred.ndim > 2:  # torch has classes second
            y_pred = y_pred.movedim(-1, 1)
            y_true = y_true.movedim(-1, 1) if y_true.ndim == y_pred.ndim else y_true
        return self.module(y_pred, y_true)

    def counted(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        if not self.classes or y_true.is_floating_point():
            return None
        return torch.ne(y_true, self.ignored)

    def get_config(self) -> dict[str, Any]:
        raise ArgumentError(f"The torch module {self.module} has no config, so this loss cannot be saved. Use the loss "
                            f"of that name in padless, or compile again after loading.")


# ------------------------------------------------------------------------------------------------- by any name


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
    for cls, function in _FUNCTIONS.items():
        if found is function:
            return cls()
    if callable(found):
        return LossFunctionWrapper(found)
    raise ArgumentError(f"{identifier!r} is no loss. Expected a name such as 'mse', a loss object, a function of "
                        f"(y_true, y_pred), or a torch loss module with reduction='none'.")


_FUNCTIONS: dict[type[Loss], Callable[..., Any]] = {
    MeanSquaredError: mean_squared_error,
    MeanAbsoluteError: mean_absolute_error,
    BinaryCrossentropy: binary_crossentropy,
    CategoricalCrossentropy: categorical_crossentropy,
    SparseCategoricalCrossentropy: sparse_categorical_crossentropy,
}


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
            y_true, y_pred = read(y_true, "y_true"), pack(read(y_pred, "y_pred"), mask=mask)
            y_true = pack(y_true, mask=mask) if isinstance(y_true, Packed) else y_true
        return loss(y_true, y_pred, weights)

    measured.of_steps = loss  # pyright: ignore[reportFunctionMemberAccess]
    return measured
