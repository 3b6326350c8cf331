"""A tensor that a metric adds to: the state that `Metric.add_variable` creates."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from padless._torch_compat import disabled_torch_function
from padless.errors import ShapeError
from padless.ragged.device import to_device
from padless.types import ArrayLike


class Variable(torch.Tensor):
    """A tensor with `assign` and `assign_add`, as a variable of Keras. It moves to the device of the assigned values.

    Args:
        value: The first value.
        name: The name.

    Example:
        >>> count = Variable(torch.zeros(2))
        >>> _ = count.assign_add([1, 2]); count + 1
        tensor([2., 3.])
    """

    __torch_function__ = disabled_torch_function  # results of torch functions are plain tensors

    def __new__(cls, value: Tensor, name: str | None = None) -> Self:
        return value.detach().as_subclass(cls)

    def __init__(self, value: Tensor, name: str | None = None) -> None:
        super().__init__()
        self._variable_name = name

    @property
    def name(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride] - a tensor's name is of its axes
        """The name of the variable."""
        return self._variable_name

    def assign(self, value: ArrayLike) -> Self:
        """Replace the value; the dtype stays.

        Raises:
            ShapeError: The value has another shape.
        """
        tensor = self._to_tensor(value, self.shape)
        has_float64 = tensor.device.type != "mps"
        dtype = torch.float32 if self.dtype == torch.float64 and not has_float64 else self.dtype
        self.data = tensor.to(dtype, copy=True)
        return self

    def assign_add(self, value: ArrayLike) -> Self:
        """Add a value of the same shape, or a scalar, on any device."""
        tensor = self._to_tensor(value, self.shape, torch.Size([]))
        return self.assign(to_device(self.data, tensor.device) + tensor)

    def assign_sub(self, value: ArrayLike) -> Self:
        """Subtract a value of the same shape, or a scalar, on any device."""
        return self.assign_add(-torch.as_tensor(value))

    def _to_tensor(self, value: ArrayLike, *shapes: torch.Size) -> Tensor:
        """Return a value as a tensor; raise `ShapeError` if it has none of the shapes."""
        tensor = torch.as_tensor(value).detach()
        if tensor.shape not in shapes:
            raise ShapeError(
                f"The variable {self.name!r} of a metric has shape {tuple(self.shape)}; got a value of shape "
                f"{tuple(tensor.shape)}."
            )
        return tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> Variable:
        copied = memo[id(self)] = Variable(self.data.clone(), self.name)
        return copied

    def __reduce_ex__(self, protocol: object) -> tuple[type[Variable], tuple[Tensor, str | None]]:
        return Variable, (self.data.as_subclass(torch.Tensor), self.name)

    def __repr__(self) -> str:
        return f"<Variable {self.name!r} {self.tolist()}>"
