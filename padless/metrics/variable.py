"""A number or array that a metric adds up: what `Metric.add_variable` makes."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from padless._torch_compat import disabled_torch_function
from padless.errors import ShapeError
from padless.ragged.device import to_device


class Variable(torch.Tensor):
    """A tensor to which values are assigned and added, as Keras's variables; it moves to where these are.

    >>> seen = Variable(torch.zeros(2))
    >>> _ = seen.assign_add([1, 2]); seen + 1
    tensor([2., 3.])
    """

    __torch_function__ = disabled_torch_function  # operations give plain tensors

    def __new__(cls, value: Tensor, name: str | None = None) -> Self:
        return value.detach().as_subclass(cls)

    def __init__(self, value: Tensor, name: str | None = None) -> None:
        super().__init__()
        self._called = name

    @property
    def name(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride] - a tensor's names are of its axes
        """What it is called."""
        return self._called

    def assign(self, value: Any) -> Self:
        """Put `value` here, in the dtype of this variable. Raises `ShapeError` for another shape."""
        given = self._fitting(value, self.shape)
        double = self.dtype == torch.float64 and given.device.type == "mps"  # which has none
        self.data = given.to(torch.float32 if double else self.dtype, copy=True)
        return self

    def assign_add(self, value: Any) -> Self:
        """Add `value`, on whatever device it is."""
        given = self._fitting(value, self.shape, torch.Size([]))
        return self.assign(to_device(self.data, given.device) + given)

    def assign_sub(self, value: Any) -> Self:
        """Take `value` away, on whatever device it is."""
        return self.assign_add(-torch.as_tensor(value))

    def _fitting(self, value: Any, *shapes: torch.Size) -> Tensor:
        given = torch.as_tensor(value).detach()
        if given.shape not in shapes:
            raise ShapeError(
                f"The variable {self.name!r} of a metric has shape {tuple(self.shape)}; got a value of shape "
                f"{tuple(given.shape)}."
            )
        return given

    def __deepcopy__(self, memo: dict[int, Any]) -> Variable:
        copied = memo[id(self)] = Variable(self.data.clone(), self.name)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Variable, (self.data.as_subclass(torch.Tensor), self.name)

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] - Tensor's has an argument of its own
        return f"<Variable {self.name!r} {self.tolist()}>"
