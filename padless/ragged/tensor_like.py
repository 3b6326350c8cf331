"""Operators and methods of a tensor for what is not one, all sent through its `__torch_function__`.

`Packed` and the symbolic tensors of a graph share this, so that `h * 2`, `h.exp()` and `torch.exp(h)` are one thing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


class TensorLike:
    """A base for classes with a `__torch_function__` of their own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{cls.__name__} says by __torch_function__ what torch functions do with it")

    def __getattr__(self, name: str) -> Any:
        method = None if name.startswith("__") else getattr(Tensor, name, None)
        if not callable(method):
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}. It is no torch.Tensor, though "
                f"torch functions work on it; of a Packed, `.values` are the real steps and `.unpack()` "
                f"is the padded grid."
            )
        return lambda *args, **kwargs: self.__torch_function__(method, (type(self),), (self, *args), kwargs)

    def dim(self) -> int:
        """The number of axes, as `ndim`."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one axis."""
        return self.shape if dim is None else self.shape[dim]

    def __getitem__(self, key: Any) -> Any:
        return self.__torch_function__(Tensor.__getitem__, (type(self),), (self, key))

    shape: Any

    # Written out for type checkers; the loop below fills in what they do.
    __hash__ = object.__hash__
    __add__: Callable[..., Any]
    __radd__: Callable[..., Any]
    __sub__: Callable[..., Any]
    __rsub__: Callable[..., Any]
    __mul__: Callable[..., Any]
    __rmul__: Callable[..., Any]
    __truediv__: Callable[..., Any]
    __rtruediv__: Callable[..., Any]
    __floordiv__: Callable[..., Any]
    __rfloordiv__: Callable[..., Any]
    __mod__: Callable[..., Any]
    __rmod__: Callable[..., Any]
    __pow__: Callable[..., Any]
    __rpow__: Callable[..., Any]
    __matmul__: Callable[..., Any]
    __rmatmul__: Callable[..., Any]
    __and__: Callable[..., Any]
    __rand__: Callable[..., Any]
    __or__: Callable[..., Any]
    __ror__: Callable[..., Any]
    __xor__: Callable[..., Any]
    __rxor__: Callable[..., Any]
    __lt__: Callable[..., Any]
    __le__: Callable[..., Any]
    __gt__: Callable[..., Any]
    __ge__: Callable[..., Any]
    __neg__: Callable[..., Any]
    __pos__: Callable[..., Any]
    __abs__: Callable[..., Any]
    __invert__: Callable[..., Any]

    def __eq__(self, other: Any) -> Any:
        return self.__torch_function__(Tensor.__eq__, (type(self),), (self, other))

    def __ne__(self, other: Any) -> Any:
        return self.__torch_function__(Tensor.__ne__, (type(self),), (self, other))


def _operator(name: str) -> Callable[..., Any]:
    def method(self: TensorLike, *others: Any) -> Any:
        return self.__torch_function__(getattr(Tensor, name), (type(self),), (self, *others))

    method.__name__ = method.__qualname__ = name
    return method


for _name in filter(lambda name: name.startswith("__"), TensorLike.__annotations__):
    setattr(TensorLike, _name, _operator(_name))
