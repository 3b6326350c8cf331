"""The shapes and dtypes of results of common torch functions on `meta` tensors.

torch computes them in Python. The first time it imports its compiler, which takes seconds and 90 MB, and each call takes
ten times as long as these rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

aten = torch.ops.aten
Operator: TypeAlias = Any
"""A function of torch's dispatcher. torch gives its class no public name."""

Rule: TypeAlias = Callable[..., Any]
"""Takes the arguments of a function, and returns its results on `meta`."""


@cache
def find_rule(func: Operator) -> Rule | None:
    """Return the rule of a function; None if torch must compute the result."""
    rule = _RULES.get(func)
    is_pointwise = torch.Tag.pointwise in func.tags and torch.Tag.nondeterministic_seeded not in func.tags
    if rule is not None or not is_pointwise and func not in _ALSO_POINTWISE or len(func._schema.returns) != 1:
        return rule
    if not func._schema.is_mutable:
        return lambda *args, **kwargs: _pointwise(func, args, kwargs)
    is_in_place = func._schema.name.endswith("_")
    return (lambda *args, **kwargs: _in_place(args, kwargs)) if is_in_place else None


def _pointwise(func: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """Return the result of a pointwise function: its dtype is that of a call on single numbers."""
    shapes = [arg.shape for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
    number = func(*map(_one_element, args), **{name: _one_element(value) for name, value in kwargs.items()})
    return _empty(_broadcast(shapes), number.dtype)


def _in_place(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Return the first argument, into which a pointwise function writes, if the others fit it."""
    shapes = [arg.shape for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
    return args[0] if _broadcast(shapes) == args[0].shape else NotImplemented


def _one_element(value: Any) -> Any:
    return torch.ones((1,) * value.ndim, dtype=value.dtype) if isinstance(value, Tensor) else value


def _broadcast(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the shape that shapes broadcast to. The function of torch imports a library for algebra, which takes a second.

    Raises:
        RuntimeError: the shapes do not fit, as in torch.
    """
    sizes = []
    for axis in range(-max(map(len, shapes)), 0):
        others = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(others) > 1:
            raise RuntimeError(f"The shapes {[tuple(shape) for shape in shapes]} cannot be broadcast to one shape.")
        sizes.append(others.pop() if others else 1)
    return tuple(sizes)


def _empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _addmm(bias: Tensor, first: Tensor, second: Tensor, **kwargs: Any) -> Tensor:
    product = aten.mm.default(first, second)
    _broadcast([bias.shape, product.shape])
    return product


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    first = tensors[0]
    axis = range(first.ndim)[dim]
    if any(x.ndim != first.ndim for x in tensors):  # torch accepts some tensors without elements
        return NotImplemented
    others = {(*x.shape[:axis], *x.shape[axis + 1 :]) for x in tensors}
    if len(others) > 1:
        return NotImplemented
    dtype = first.dtype
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return _empty((*first.shape[:axis], sum(x.shape[axis] for x in tensors), *first.shape[axis + 1 :]), dtype)


def _stack(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    axis = range(tensors[0].ndim + 1)[dim]
    return _cat([x.unsqueeze(axis) for x in tensors], axis) if len({x.shape for x in tensors}) == 1 else NotImplemented


def _layer_norm(x: Tensor, normalized_shape: Sequence[int], weight: object, bias: object, eps: float) -> Any:
    num_leading = x.ndim - len(normalized_shape)
    if tuple(x.shape[num_leading:]) != tuple(normalized_shape):
        return NotImplemented
    statistics = (*x.shape[:num_leading], *(1,) * len(normalized_shape))
    return torch.empty_like(x), _empty(statistics, x.dtype), _empty(statistics, x.dtype)


def _group_norm(
    x: Tensor, weight: object, bias: object, num_examples: int, channels: int, size: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), _empty((num_examples, groups), x.dtype), _empty((num_examples, groups), x.dtype)


def _batch_norm(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), _empty((0,), x.dtype), _empty((0,), x.dtype)


def _reduce(x: Tensor, dim: Any, keepdim: bool, dtype: torch.dtype) -> Tensor:
    """Return a tensor without the reduced axes: an axis, a list of axes, or None for all."""
    axes = {range(max(x.ndim, 1))[axis] for axis in ([dim] if isinstance(dim, int) else dim or range(x.ndim))}
    sizes = [(1 if axis in axes else size) for axis, size in enumerate(x.shape) if keepdim or axis not in axes]
    return _empty(sizes, dtype)


def _sum(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    is_integer = not x.dtype.is_floating_point and not x.dtype.is_complex
    return _reduce(x, dim, keepdim, dtype or (torch.int64 if is_integer else x.dtype))


def _extremum(x: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    return _reduce(x, dim, keepdim, x.dtype)


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    dtype = dtype or x.dtype
    return _reduce(x, dim, keepdim, dtype) if dtype.is_floating_point else NotImplemented


def _deviation(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> Any:
    return _reduce(x, dim, keepdim, x.dtype) if x.dtype.is_floating_point else NotImplemented


def _any_along(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return _reduce(x, dim, keepdim, torch.uint8 if x.dtype == torch.uint8 else torch.bool)


def _norm(x: Tensor, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    return NotImplemented if x.is_complex() else _reduce(x, dim, keepdim, dtype or x.dtype)


def _log_sum_exp(x: Tensor, dim: Any, keepdim: bool = False) -> Any:
    return _reduce(x, dim, keepdim, x.dtype) if x.dtype.is_floating_point else NotImplemented


def _repeat(x: Tensor, repeats: Sequence[int]) -> Any:
    if len(repeats) < x.ndim or min(repeats, default=0) < 0:
        return NotImplemented
    sizes = (*(1,) * (len(repeats) - x.ndim), *x.shape)
    return _empty([size * times for size, times in zip(sizes, repeats, strict=True)], x.dtype)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    out_channels, in_channels = weight.shape[:2]
    if transposed:
        in_channels, out_channels = out_channels, in_channels * groups
    else:
        in_channels *= groups
    num_axes = x.ndim - 2
    fits = x.ndim == weight.ndim == len(stride) + 2 and x.shape[1] == in_channels and x.dtype == weight.dtype
    if not fits or bias is not None and bias.shape != (out_channels,) or min(*stride, *dilation) < 1:
        return NotImplemented
    extents = [dilation[axis] * (weight.shape[axis + 2] - 1) + 1 for axis in range(num_axes)]
    sizes = [
        (x.shape[axis + 2] - 1) * stride[axis] - 2 * padding[axis] + extents[axis] + output_padding[axis]
        if transposed
        else (x.shape[axis + 2] + 2 * padding[axis] - extents[axis]) // stride[axis] + 1
        for axis in range(num_axes)
    ]
    if min(sizes) < 1:  # torch says what is wrong
        return NotImplemented
    return _empty((x.shape[0], out_channels, *sizes), x.dtype)


def _cumulative(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    range(max(x.ndim, 1))[dim]  # an IndexError, as in torch
    is_integer = not x.dtype.is_floating_point and not x.dtype.is_complex
    return torch.empty_like(x, dtype=dtype or (torch.int64 if is_integer else x.dtype))


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return aten._softmax.default(x, dim, half_to_float)


def _safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return aten._softmax.default(x if dtype is None else x.to(dtype), dim, False)


_ALSO_POINTWISE = {aten.floor_divide.default, aten._prelu_kernel.default}  # torch does not say so


_RULES: dict[Operator, Rule] = {
    aten.addmm.default: _addmm,
    aten.cat.default: _cat,
    aten.native_layer_norm.default: _layer_norm,
    aten.sum.default: _sum,
    aten.sum.dim_IntList: _sum,
    aten.amax.default: _extremum,
    aten.amin.default: _extremum,
    aten.repeat.default: _repeat,
    aten.convolution.default: _convolution,
    aten.mean.default: _mean,
    aten.mean.dim: _mean,
    aten.any.default: _any_along,
    aten.any.dim: _any_along,
    aten.all.default: _any_along,
    aten.all.dim: _any_along,
    aten.linalg_vector_norm.default: _norm,
    aten.cumsum.default: _cumulative,
    aten.cumprod.default: _cumulative,
    aten.tril.default: lambda x, diagonal=0: torch.empty_like(x),
    aten.triu.default: lambda x, diagonal=0: torch.empty_like(x),
    aten.roll.default: lambda x, shifts, dims=(): torch.empty_like(x),
    aten._log_softmax.default: _log_softmax,
    aten._safe_softmax.default: _safe_softmax,
    aten.logsumexp.default: _log_sum_exp,
    aten.stack.default: _stack,
    aten.native_group_norm.default: _group_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten.std.correction: _deviation,
    aten.var.correction: _deviation,
}
