"""Give the operators and methods of a tensor to classes that are not tensors.

`Packed` and `SymbolicTensor` inherit `TensorLike`. So `h * 2`, `h.mul(2)` and `torch.mul(h, 2)` are the same call of
`__torch_function__`. Each of the two classes registers the function that handles this call in `HANDLERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, TypeAlias

from numpy.typing import DTypeLike, NDArray
from torch import Tensor

TensorFunction: TypeAlias = "Callable[..., Any]"
"""A function or tensor method of torch."""

Args: TypeAlias = "tuple[Any, ...]"
Kwargs: TypeAlias = "dict[str, Any]"

Handler: TypeAlias = "Callable[[TensorFunction, Args, Kwargs], Any]"
"""A function `(torch_function, args, kwargs)` that returns the result of the call."""

Operand: TypeAlias = "TensorLike | Tensor | NDArray[Any] | float | complex"

HANDLERS: dict[type, Handler] = {}


def implements(tensor_like: type) -> Callable[[Handler], Handler]:
    """Register the decorated function as the handler of all torch functions on instances of a class."""

    def register(handler: Handler) -> Handler:
        HANDLERS[tensor_like] = handler
        return handler

    return register


class TensorLike:
    """The base of classes that act like a tensor through `__torch_function__`."""

    shape: Any  # a tuple of int, with None for the open axes of a SymbolicTensor
    __hash__ = object.__hash__
    __array_ufunc__ = None  # NumPy returns NotImplemented, so that `array * packed` calls `__rmul__`

    @classmethod
    def __torch_function__(
        cls,
        func: TensorFunction,
        types: Sequence[type],
        args: Args = (),
        kwargs: Kwargs | None = None,
    ) -> Any:
        handler = next(HANDLERS[base] for base in cls.__mro__ if base in HANDLERS)
        return handler(func, args, kwargs or {})

    def __getattr__(self, name: str) -> TensorFunction:
        """Return the method of `torch.Tensor` with this name, bound to this object."""
        method = None if name.startswith("__") else getattr(Tensor, name, None)
        if not callable(method):
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}. It is not a torch.Tensor, though torch "
                f"functions accept it. Use `.values` of a Packed for the real steps, `.unpack()` for the padded grid."
            )
        return lambda *args, **kwargs: self.__torch_function__(method, (type(self),), (self, *args), kwargs)

    def numpy(self) -> NDArray[Any]:
        """Return the numbers as a NumPy array."""
        return self.__array__()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        raise TypeError(
            f"{self!r} has no numbers yet, so functions of NumPy and keras.ops cannot read it. Use torch functions and "
            f"layers, which accept it, or compute in the `call` of a layer."
        )

    def dim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Sequence[int | None] | int | None:
        """Return the shape, or the size of the axis `dim`."""
        return self.shape if dim is None else self.shape[dim]

    def _call(self, function: TensorFunction, *operands: object) -> Self:
        """Call a method of `torch.Tensor` on this object."""
        return self.__torch_function__(function, (type(self),), (self, *operands))

    def __getitem__(self, key: object) -> Self:
        return self._call(Tensor.__getitem__, key)

    def __add__(self, other: Operand) -> Self:
        return self._call(Tensor.__add__, other)

    def __radd__(self, other: Operand) -> Self:
        return self._call(Tensor.__radd__, other)

    def __sub__(self, other: Operand) -> Self:
        return self._call(Tensor.__sub__, other)

    def __rsub__(self, other: Operand) -> Self:
        return self._call(Tensor.__rsub__, other)

    def __mul__(self, other: Operand) -> Self:
        return self._call(Tensor.__mul__, other)

    def __rmul__(self, other: Operand) -> Self:
        return self._call(Tensor.__rmul__, other)

    def __truediv__(self, other: Operand) -> Self:
        return self._call(Tensor.__truediv__, other)

    def __rtruediv__(self, other: Operand) -> Self:
        return self._call(Tensor.__rtruediv__, other)

    def __floordiv__(self, other: Operand) -> Self:
        return self._call(Tensor.__floordiv__, other)

    def __rfloordiv__(self, other: Operand) -> Self:
        return self._call(Tensor.__rfloordiv__, other)

    def __mod__(self, other: Operand) -> Self:
        return self._call(Tensor.__mod__, other)

    def __rmod__(self, other: Operand) -> Self:
        return self._call(Tensor.__rmod__, other)

    def __pow__(self, other: Operand) -> Self:
        return self._call(Tensor.__pow__, other)

    def __rpow__(self, other: Operand) -> Self:
        return self._call(Tensor.__rpow__, other)

    def __matmul__(self, other: Operand) -> Self:
        return self._call(Tensor.__matmul__, other)

    def __rmatmul__(self, other: Operand) -> Self:
        return self._call(Tensor.__rmatmul__, other)

    def __and__(self, other: Operand) -> Self:
        return self._call(Tensor.__and__, other)

    def __rand__(self, other: Operand) -> Self:
        return self._call(Tensor.__rand__, other)

    def __or__(self, other: Operand) -> Self:
        return self._call(Tensor.__or__, other)

    def __ror__(self, other: Operand) -> Self:
        return self._call(Tensor.__ror__, other)

    def __xor__(self, other: Operand) -> Self:
        return self._call(Tensor.__xor__, other)

    def __rxor__(self, other: Operand) -> Self:
        return self._call(Tensor.__rxor__, other)

    def __lt__(self, other: Operand) -> Self:
        return self._call(Tensor.__lt__, other)

    def __le__(self, other: Operand) -> Self:
        return self._call(Tensor.__le__, other)

    def __gt__(self, other: Operand) -> Self:
        return self._call(Tensor.__gt__, other)

    def __ge__(self, other: Operand) -> Self:
        return self._call(Tensor.__ge__, other)

    def __eq__(self, other: object) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride] - as Tensor
        return self._call(Tensor.__eq__, other)

    def __ne__(self, other: object) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride] - as Tensor
        return self._call(Tensor.__ne__, other)

    def __neg__(self) -> Self:
        return self._call(Tensor.__neg__)

    def __pos__(self) -> Self:
        return self._call(Tensor.__pos__)

    def __abs__(self) -> Self:
        return self._call(Tensor.__abs__)

    def __invert__(self) -> Self:
        return self._call(Tensor.__invert__)
