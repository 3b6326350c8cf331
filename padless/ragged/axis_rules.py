"""What a torch function does to the axes of a grid, rule by rule: on features it may work, batch and time it leaves alone.

A rule takes the arguments as they were given, in the grid's axes, and returns them in those of the values; or it
refuses. Slices are the one way to cut batch and time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import ShapeError
from padless.ragged.broadcast import AlignedOperand, NotElementwise, align, current_call, operand_gap_values
from padless.ragged.packed import Packed, gather_real_steps
from padless.ragged.tree import leaves, map_leaves

AxisRule = Callable[[Packed, list[Any], dict[str, Any]], tuple[list[Any], dict[str, Any]]]


def pointwise(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Each number alone; plain operands are gathered at the steps."""
    if not any(isinstance(x, Packed) for x in (*args, *kwargs.values())):
        raise NotElementwise

    def meet(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            x = torch.tensor(x)
        return align(packed, x) if isinstance(x, Tensor) else x

    args, kwargs = map_leaves(meet, (args, kwargs))
    return args, kwargs


def _feature(packed: Packed, axis: Any, extra: int = 0) -> int:
    """An axis of the grid as an axis of the values; refused if it is batch or time."""
    size = packed.ndim + extra
    if not isinstance(axis, int) or not -size <= axis < size:
        raise ShapeError(f"Axis {axis!r} does not exist in a grid of shape {tuple(packed.shape)}.")
    axis = axis % size
    if axis < packed.num_step_axes:
        raise NotElementwise(f"Axis {axis} of the grid is {'time' if axis == packed.num_step_axes - 1 else 'the batch'}.")
    return axis - packed.num_step_axes + 1


def _features(packed: Packed, axes: Any) -> Any:
    if axes is None or isinstance(axes, list | tuple) and not axes:
        raise NotElementwise("Without `dim` it runs over batch and time too.")
    return [_feature(packed, a) for a in axes] if isinstance(axes, list | tuple) else _feature(packed, axes)


def along(position: int, default: Any = None, key: str = "dim", extra: int = 0, pairs: bool = False) -> AxisRule:
    """A function that works along the axis or axes given at `position` or as `dim`; `pairs`: or on two operands."""

    def rule(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        if isinstance(args[0], list | tuple):
            args[0] = [_whole(packed, x) for x in args[0]]
        elif not isinstance(args[0], Packed):
            raise NotElementwise
        elif pairs and (len(args) == 2 and isinstance(args[1], Packed | Tensor | np.ndarray) or "other" in kwargs):
            return pointwise(packed, args, kwargs)
        axes = args[position] if len(args) > position else kwargs.get(key, kwargs.get("axis", default))
        if "axis" in kwargs:
            kwargs.pop("axis")
        mapped = _feature(packed, axes, extra) if extra else _features(packed, axes)
        if len(args) > position:
            args[position] = mapped
        else:
            kwargs[key] = mapped
        return args, kwargs

    return rule


def _whole(packed: Packed, x: Any) -> Any:
    """A plain operand of `cat` or `stack`: it must have the grid's batch and time."""
    if isinstance(x, Packed):
        return x
    if not isinstance(x, Tensor) or x.ndim != packed.ndim or tuple(x.shape[: packed.num_step_axes]) != packed.index.grid:
        if current_call().may_use_grid:
            raise NotElementwise
        raise ShapeError(
            f"Shapes {tuple(getattr(x, 'shape', ()))} and {tuple(packed.shape)} cannot be joined: batch, "
            f"time and the number of axes must be the same."
        )
    return AlignedOperand(gather_real_steps(x, packed.index), operand_gap_values(packed, x))


def gathered(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """`gather` along a feature axis."""
    args = [*args, *(kwargs.pop(key) for key in ("dim", "index") if key in kwargs)]
    if not isinstance(args[0], Packed):
        raise NotElementwise
    return [args[0], _feature(packed, args[1]), _whole(packed, args[2])], kwargs


def cosine(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """`cosine_similarity` along a feature axis."""
    args = [*args, *(kwargs.pop(key) for key in ("x2", "dim") if key in kwargs)]
    pair, _ = pointwise(packed, args[:2], {})
    return [*pair, _feature(packed, args[2] if len(args) > 2 else 1), *args[3:]], kwargs


def flip(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """`flip` of feature axes."""
    axes = kwargs["dims"] if "dims" in kwargs else args[1] if isinstance(args[1], list | tuple) else args[1:]
    return [args[0], _features(packed, axes)], {}


def first_only(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The first argument is the data; what follows are weights or settings."""
    if args and not isinstance(args[0], Packed):
        raise NotElementwise
    if any(isinstance(leaf, Packed) for leaf in leaves((args[1:], kwargs)) if leaf is not packed):
        raise NotElementwise
    return args, kwargs


def matmul(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """A product with a matrix from the right."""
    left, right = args[0], args[1] if len(args) > 1 else kwargs["other"]
    if not isinstance(left, Packed) or isinstance(right, Packed) or right.ndim > 2 or left.ndim <= left.num_step_axes:
        raise NotElementwise("Only a product with a matrix from the right works on each step alone.")
    return [left, torch.tensor(right) if isinstance(right, np.ndarray) else right], {}


def linear(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """`linear` of the last feature axis."""
    _feature(packed, -1)
    return first_only(packed, args, kwargs)


def one_hot(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """`one_hot` with the number of classes given."""
    if (args[1] if len(args) > 1 else kwargs.get("num_classes", -1)) == -1:
        raise NotElementwise("Without `num_classes` it looks for the largest of all steps.")
    return first_only(packed, args, kwargs)


def prelu(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """`prelu` with a single weight."""
    if (args[1] if len(args) > 1 else kwargs["weight"]).numel() != 1:
        raise NotElementwise("Its weights are one for each place on axis 1, which is time.")
    return first_only(packed, args, kwargs)


def refuse(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """What no step can do alone."""
    raise NotElementwise


def where(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """`where` with three arguments, each number alone."""
    if len(args) + len(kwargs) < 3:
        raise NotElementwise("Places of true values are places on the grid.")
    return pointwise(packed, args, kwargs)


def layer_norm(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """A normalization whose shape stays within the features."""
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    if len([shape] if isinstance(shape, int) else shape) > packed.ndim - packed.num_step_axes:
        raise NotElementwise("Its `normalized_shape` reaches into time.")
    return first_only(packed, args, kwargs)


def reshape(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """A new shape of the features behind the same steps."""
    given = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
    shape = list(given or kwargs.get("shape") or kwargs["size"])
    if -1 in shape[: packed.num_step_axes]:
        shape[shape.index(-1)] = packed.shape.numel() // max(int(-np.prod(shape)), 1)
    if tuple(shape[: packed.num_step_axes]) != packed.index.grid:
        raise NotElementwise(f"Only shapes that begin with {packed.index.grid} leave the steps as they are.")
    rest = shape[packed.num_step_axes :]
    features = math.prod(packed.values.shape[1:])
    if -1 in rest:  # with no step at all torch could not tell what -1 stands for
        rest[rest.index(-1)] = features // max(-math.prod(rest), 1)
    if math.prod(rest) != features:
        raise ShapeError(
            f"A grid of shape {tuple(packed.shape)} cannot be given the shape {tuple(shape)}: each step has "
            f"{features} numbers."
        )
    return [args[0], Sized(rest)], {}


class Sized(list[Any]):
    """A feature shape, to be led by the number of rows of whatever it is applied to."""


def flatten(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """`flatten` of feature axes."""
    start = args[1] if len(args) > 1 else kwargs.get("start_dim", 0)
    end = args[2] if len(args) > 2 else kwargs.get("end_dim", -1)
    return [args[0], _feature(packed, start), _feature(packed, end), *args[3:]], {}


def swap(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Two feature axes exchanged."""
    axes = args[1:] or list(kwargs.values())
    return [args[0], *(_feature(packed, a) for a in axes)], {}


def permute(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Feature axes in another order."""
    axes = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:] or kwargs["dims"]
    if len(axes) != packed.ndim:
        raise ShapeError(f"permute of a grid of {packed.ndim} axes was given {len(axes)}: {tuple(axes)}.")
    if [a % packed.ndim for a in axes[: packed.num_step_axes]] != list(range(packed.num_step_axes)):
        raise NotElementwise("It moves batch or time.")
    return [args[0], [0, *(_feature(packed, a) for a in axes[packed.num_step_axes :])]], {}


# ---------------------------------------------------------------------------------------------------- slices


def sliced(packed: Packed, key: Any) -> Packed:
    """`h[..., a:b]` features, `h[i:j]` batch, `h[:, a:b]` time; anything that would take a step out is refused."""
    keys = [torch.tensor(k) if isinstance(k, np.ndarray | list) else k for k in (key if isinstance(key, tuple) else [key])]
    if any(isinstance(k, Packed) for k in keys):
        raise NotElementwise("Boolean selection by a Packed takes steps out of their sequences.")
    if sum(k is Ellipsis for k in keys) == 0:
        keys.append(Ellipsis)
    at = next(i for i, k in enumerate(keys) if k is Ellipsis)
    used = sum(k is not None for k in keys) - 1
    keys[at : at + 1] = [slice(None)] * (packed.ndim - used)
    leading, rest = keys[: packed.num_step_axes], keys[packed.num_step_axes :]
    if not all(isinstance(k, slice) for k in leading):
        raise NotElementwise(
            "It takes single steps or rows out of the grid. The last real step is LastStep()(x); whole "
            "sequences are `x.sequences()`."
        )
    if any(k != slice(None) for k in leading):
        cells = np.arange(len(packed.index.step_of_cell)).reshape(packed.index.grid)[tuple(leading)]
        packed = packed.rearrange_cells(cells, every_cell=current_call().may_use_grid)
    if all(isinstance(k, slice) and k == slice(None) for k in rest):
        return packed
    if sum(isinstance(k, Tensor) for k in rest) > 1:
        raise NotElementwise("Several index tensors at once may move the features before the steps.")
    inner = (slice(None), *rest)
    return packed.with_values(packed.values[inner], None if packed.gap_values is None else packed.gap_values[inner])
