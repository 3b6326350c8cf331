"""The rules by which torch functions act on a `Packed`, one for each kind of function, in the table `RULES`.

The caller of a function counts axes on the grid: 0 is the batch, 1 is time, -1 is the last feature axis. The values
`(N, ...)` have one axis for both batch and time. A rule gets the arguments of the call, moves feature axes to the axes
of the values, and gathers plain operands at the real steps. It raises `NotElementwise` where the function would combine
different steps. A function without a rule is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from padless.errors import ShapeError
from padless.ragged.broadcast import Aligned, AlignedOperand, NotElementwise, align, align_step_axes, operand_gap_values
from padless.ragged.call_context import current_call
from padless.ragged.mask import check_columns
from padless.ragged.packed import Packed, gather_real_steps
from padless.ragged.tree import leaves, map_leaves

_REQUIRED = object()


class MissingArgument(Exception):
    """Raised by a rule if an argument that the function requires is missing."""


@dataclass
class Arguments:
    """The arguments of a call of a torch function."""

    positional: list[Any]
    named: dict[str, Any]

    @property
    def data(self) -> Any:
        """The first positional argument."""
        return self.get(0, "input")

    def get(self, position: int, name: str, default: object = _REQUIRED) -> Any:
        """Return the argument at a position or, if it is not there, the one of that name."""
        if len(self.positional) > position:
            return self.positional[position]
        if name not in self.named and default is _REQUIRED:
            raise MissingArgument(name)
        return self.named.get(name, default)

    def get_sizes(self, position: int, *names: str) -> list[Any]:
        """Return integers that are given as a list, one after another, or by one of the names."""
        sizes = self.positional[position:]
        if len(sizes) == 1 and isinstance(sizes[0], list | tuple):
            sizes = sizes[0]
        for name in names:
            sizes = sizes or self.named.get(name)
        if not sizes:
            raise MissingArgument(names[0])
        return [sizes] if isinstance(sizes, int) else list(sizes)

    def replace(self, position: int, name: str, value: object) -> None:
        """Replace the argument at a position or, if it is not there, set the one of that name."""
        if len(self.positional) > position:
            self.positional[position] = value
        else:
            self.named[name] = value

    def take_positional(self, *names: str) -> list[Any]:
        """Return the positional arguments with those of these names appended, and remove them from the named ones."""
        return [*self.positional, *(self.named.pop(name) for name in names if name in self.named)]


AxisRule: TypeAlias = Callable[[Packed, Arguments], Arguments]
"""A rule `(packed, arguments)` that returns the arguments for a call on the values."""

RULES: dict[str, AxisRule] = {}


def rule_for(*names: str) -> Callable[[AxisRule], AxisRule]:
    """Register the decorated rule for torch functions of these names."""

    def register(rule: AxisRule) -> AxisRule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


@cache
def find_rule(name: str) -> AxisRule | None:
    """Return the rule for a torch function.

    An operator has the rule of the function: `__add__` and `__radd__` that of `add`. Functions that torch tags as
    pointwise have the rule `pointwise`.
    """
    if name in RULES:
        return RULES[name]
    function_name = name.strip("_")
    for candidate in (function_name, function_name.removeprefix("r")):
        if candidate in RULES:
            return RULES[candidate]
        if _is_tagged_pointwise(candidate):
            return pointwise
    return None


def _is_tagged_pointwise(name: str) -> bool:
    """Return whether torch tags an operator of this name as pointwise."""
    operator = getattr(torch.ops.aten, name, None)
    if operator is None:
        return False
    return any(torch.Tag.pointwise in getattr(operator, overload).tags for overload in operator.overloads())


# ------------------------------------------------------------------------------------------------ axes and operands


def _feature_axis(packed: Packed, axis: object, num_new_axes: int = 0) -> int:
    """Return the axis of the values for a feature axis of the grid; refuse batch and time."""
    ndim = packed.ndim + num_new_axes
    if not isinstance(axis, int) or not -ndim <= axis < ndim:
        raise ShapeError(f"Axis {axis!r} does not exist in a grid of shape {tuple(packed.shape)}.")
    axis = axis % ndim
    if axis < packed.num_step_axes:
        raise NotElementwise(f"Axis {axis} of the grid is {'time' if axis == packed.num_step_axes - 1 else 'the batch'}.")
    return axis - packed.num_step_axes + 1


def _feature_axes(packed: Packed, axes: int | Sequence[int] | None) -> int | list[int]:
    """Return one or several feature axes as axes of the values. None and an empty list mean all axes: refuse them."""
    if axes is None or isinstance(axes, list | tuple) and not axes:
        raise NotElementwise("Without `dim` it reduces over batch and time, too.")
    return [_feature_axis(packed, a) for a in axes] if isinstance(axes, list | tuple) else _feature_axis(packed, axes)


def _gather_grid(packed: Packed, operand: object) -> Aligned:
    """Gather a plain operand that has the batch, time and number of axes of the grid, such as another tensor of `cat`."""
    if isinstance(operand, Packed):
        return operand
    shape = tuple(operand.shape) if isinstance(operand, Tensor) else ()
    if not isinstance(operand, Tensor) or len(shape) != packed.ndim or shape[: packed.num_step_axes] != packed.index.grid:
        if current_call().may_use_grid:
            raise NotElementwise
        raise ShapeError(
            f"Shapes {shape} and {tuple(packed.shape)} cannot be joined: batch, time and the number of axes must be equal."
        )
    if not current_call().may_use_grid:
        check_columns(packed.index, shape, "An operand")
    return AlignedOperand(gather_real_steps(operand, packed.index), operand_gap_values(packed, operand))


def _as_tensor(x: object) -> Any:
    """Return a NumPy array as a tensor, anything else as it is."""
    return torch.tensor(x) if isinstance(x, np.ndarray) else x


# ------------------------------------------------------------------------------------------------ pointwise functions

_NOT_TAGGED = (
    "softsign tanhshrink hardswish logsigmoid log_sigmoid hardshrink softshrink normal_like zeros_like ones_like "
    "rand_like randn_like randint_like full_like empty_like float double half bfloat16 int long short byte char bool "
    "cpu cuda detach clone contiguous bernoulli nan_to_num dropout alpha_dropout "
    "and or xor rand ror rxor invert floordiv mod truediv "
    "absolute arccos arccosh arcsin arcsinh arctan arctan2 arctanh divide fix floor_divide greater greater_equal less "
    "less_equal multiply negative not_equal subtract isclose isreal real imag conj complex polar"
).split()  # pointwise functions that torch does not tag


@rule_for(*_NOT_TAGGED)
def pointwise(packed: Packed, arguments: Arguments) -> Arguments:
    """Align plain operands, for a function that treats each number alone."""
    if not any(isinstance(x, Packed) for x in (*arguments.positional, *arguments.named.values())):
        raise NotElementwise

    def align_leaf(x: object) -> object:
        x = _as_tensor(x)
        return align(packed, x) if isinstance(x, Tensor) else x

    return Arguments(map_leaves(align_leaf, arguments.positional), map_leaves(align_leaf, arguments.named))


@rule_for("where")
def where(packed: Packed, arguments: Arguments) -> Arguments:
    """Accept `where` with three arguments; with one it returns positions on the grid."""
    if len(arguments.positional) + len(arguments.named) < 3:
        raise NotElementwise("It returns positions on the grid.")
    return pointwise(packed, arguments)


@rule_for(
    *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"),
    *("cross_entropy", "nll_loss", "kl_div", "soft_margin_loss"),
)
def refuse_loss(packed: Packed, arguments: Arguments) -> Arguments:
    """Refuse a loss of torch, though torch tags some of them as pointwise."""
    raise NotElementwise(
        "A torch loss would average over the grid: use a padless loss, or give it `.values` of both sides, "
        "`padless.pack(y, like=out).values` for the targets."
    )


@rule_for("equal", "rmatmul")
def refuse(packed: Packed, arguments: Arguments) -> Arguments:
    """Refuse a function that would else be found by the name of another."""
    raise NotElementwise


# ------------------------------------------------------------------------------------------------ along feature axes


def _rule_along_axes(position: int, default: int | None = None, num_new_axes: int = 0) -> AxisRule:
    """Return the rule of functions that act along one or more feature axes.

    Args:
        position: the position of the argument `dim`.
        default: the value of `dim` where the caller does not give it.
        num_new_axes: the number of axes that the result has in addition.
    """

    def rule(packed: Packed, arguments: Arguments) -> Arguments:
        data = arguments.data
        if isinstance(data, list | tuple):
            arguments.positional[0] = [_gather_grid(packed, x) for x in data]
        elif not isinstance(data, Packed):
            raise NotElementwise
        axes = arguments.get(position, "dim", arguments.named.pop("axis", default))
        if num_new_axes:
            arguments.replace(position, "dim", _feature_axis(packed, axes, num_new_axes))
        else:
            arguments.replace(position, "dim", _feature_axes(packed, axes))
        return arguments

    return rule


_along_axes = _rule_along_axes(1)
rule_for(
    *("sum", "mean", "amax", "amin", "prod", "logsumexp", "all", "any", "argmax", "argmin", "std", "var"),
    *("count_nonzero", "nansum", "nanmean", "median"),
    *("squeeze", "cumsum", "cumprod", "softmax", "log_softmax", "softmin", "unbind", "unflatten"),
)(_along_axes)
rule_for("norm", "chunk", "split", "tensor_split")(_rule_along_axes(2))
rule_for("cat", "concat", "concatenate")(_rule_along_axes(1, default=0))
rule_for("stack")(_rule_along_axes(1, default=0, num_new_axes=1))
rule_for("unsqueeze")(_rule_along_axes(1, num_new_axes=1))
rule_for("normalize")(_rule_along_axes(2, default=1))
rule_for("glu", "sort", "argsort")(_rule_along_axes(1, default=-1))
rule_for("index_select", "narrow")(_rule_along_axes(1))
rule_for("repeat_interleave")(_rule_along_axes(2))
rule_for("topk")(_rule_along_axes(2, default=-1))


@rule_for("max", "min")
def max_or_min(packed: Packed, arguments: Arguments) -> Arguments:
    """Handle `max(x, dim)` along a feature axis, and the pointwise `max(x, other)`."""
    other = arguments.get(1, "other", None)
    is_pair = isinstance(other, Packed | Tensor | np.ndarray) or "other" in arguments.named
    return (pointwise if isinstance(arguments.data, Packed) and is_pair else _along_axes)(packed, arguments)


@rule_for("roll")
def roll(packed: Packed, arguments: Arguments) -> Arguments:
    """Roll feature axes."""
    return Arguments([arguments.data, arguments.get(1, "shifts"), _feature_axes(packed, arguments.get(2, "dims", None))], {})


@rule_for("flip")
def flip(packed: Packed, arguments: Arguments) -> Arguments:
    """Reverse feature axes."""
    return Arguments([arguments.data, _feature_axes(packed, arguments.get_sizes(1, "dims"))], {})


@rule_for("cosine_similarity")
def cosine_similarity(packed: Packed, arguments: Arguments) -> Arguments:
    """Align two operands that are compared along a feature axis."""
    first, second, *options = arguments.take_positional("x2", "dim")
    pair = pointwise(packed, Arguments([first, second], {})).positional
    axis, *options = options or [1]
    return Arguments([*pair, _feature_axis(packed, axis), *options], arguments.named)


@rule_for("gather")
def gather(packed: Packed, arguments: Arguments) -> Arguments:
    """Gather along a feature axis, with ids that have the batch and time of the grid."""
    positional = arguments.take_positional("dim", "index")
    if len(positional) != 3:
        raise MissingArgument("index")
    data, axis, ids = positional
    if not isinstance(data, Packed):
        raise NotElementwise
    return Arguments([data, _feature_axis(packed, axis), _gather_grid(packed, ids)], arguments.named)


# ------------------------------------------------------------------------------------------------ data and weights


@rule_for("embedding", "to", "type_as")
def data_and_weights(packed: Packed, arguments: Arguments) -> Arguments:
    """Accept a `Packed` as the first argument only; the others are weights or options."""
    if arguments.positional and not isinstance(arguments.data, Packed):
        raise NotElementwise
    others = leaves((arguments.positional[1:], arguments.named))
    if any(isinstance(leaf, Packed) and leaf is not packed for leaf in others):
        raise NotElementwise
    return arguments


@rule_for("linear")
def linear(packed: Packed, arguments: Arguments) -> Arguments:
    """Multiply the last feature axis by a matrix."""
    _feature_axis(packed, -1)
    return data_and_weights(packed, arguments)


@rule_for("matmul")
def matmul(packed: Packed, arguments: Arguments) -> Arguments:
    """Multiply by a matrix or a vector from the right."""
    left, right = arguments.data, _as_tensor(arguments.get(1, "other"))
    is_packed_times_plain = isinstance(left, Packed) and not isinstance(right, Packed)
    if is_packed_times_plain and not isinstance(right, Tensor):
        raise MissingArgument("other")
    if not is_packed_times_plain or right.ndim > 2 or left.ndim <= left.num_step_axes:
        raise NotElementwise("Only a product with a matrix from the right treats each step alone.")
    return Arguments([left, right], {})


@rule_for("tensordot")
def tensordot(packed: Packed, arguments: Arguments) -> Arguments:
    """Contract feature axes with axes of a plain tensor on the right."""
    left, right = arguments.data, _as_tensor(arguments.get(1, "b", arguments.named.get("other")))
    dims = arguments.get(2, "dims", 2)
    if not isinstance(left, Packed) or not isinstance(right, Tensor) or isinstance(dims, Tensor):
        raise NotElementwise("Only a contraction of feature axes with a plain tensor on the right treats each step alone.")
    if isinstance(dims, int):
        left_axes, right_axes = list(range(left.ndim - dims, left.ndim)), list(range(dims))
    else:
        left_axes, right_axes = ([axes] if isinstance(axes, int) else list(axes) for axes in dims)
    return Arguments([left, right, ([_feature_axis(packed, axis) for axis in left_axes], right_axes)], {})


@rule_for("einsum")
def einsum(packed: Packed, arguments: Arguments) -> Arguments:
    """Compute a sum of products whose result keeps the axes of batch and time of each `Packed` in front.

    A plain operand may have features only, or some of the axes of the steps: `btd,bd->bt` and `btd,td->bt`.
    """
    equation, operands = _einsum_operands(arguments)
    inputs, output = _split_equation(equation, operands)
    count = packed.num_step_axes
    steps = next(labels for labels, x in zip(inputs, operands, strict=True) if isinstance(x, Packed))[:count]
    own_labels = [labels[count:] if isinstance(x, Packed) else "" for labels, x in zip(inputs, operands, strict=True)]
    if len(set(steps)) < count or any(label in features for label in steps for features in (*own_labels, output[count:])):
        raise NotElementwise("A label of batch or time occurs twice in one operand.")
    starts = [labels[:count] for labels, x in zip(inputs, operands, strict=True) if isinstance(x, Packed)]
    if any(start != steps for start in (*starts, output[:count])):
        raise NotElementwise(f"The result and each Packed must begin with the same labels, here {steps!r}.")
    terms, aligned = [], []
    for labels, x in zip(inputs, operands, strict=True):
        features = "".join(label for label in labels if label not in steps)
        if isinstance(x, Packed) or not any(label in labels for label in steps):
            aligned.append(x)
            terms.append((steps[0] if isinstance(x, Packed) else "") + features)
            continue
        if any(labels.count(label) > 1 for label in steps):
            raise NotElementwise("A label of batch or time occurs twice in one operand.")
        present = [label for label in steps if label in labels]
        x = x.permute([labels.index(label) for label in (*present, *features)])
        sizes = [1 if label not in present else x.shape[present.index(label)] for label in steps]
        aligned.append(align_step_axes(packed, x.reshape(*sizes, *x.shape[len(present) :]), steps[0] in present))
        terms.append(steps[0] + features)
    return Arguments([f"{','.join(terms)}->{steps[0]}{output[count:]}", *aligned], {})


def _einsum_operands(arguments: Arguments) -> tuple[str, list[Any]]:
    """Return the equation and the operands of a call of `einsum`."""
    equation, *operands = arguments.positional
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = list(operands[0])
    if not isinstance(equation, str) or not all(isinstance(x, Tensor | Packed) for x in operands):
        raise NotElementwise("Give the equation as text, and tensors.")
    return equation.replace(" ", ""), operands


def _split_equation(equation: str, operands: Sequence[Any]) -> tuple[list[str], str]:
    """Return the labels of each operand and of the result. Labels in upper case or digits replace an ellipsis.

    Raises:
        NotElementwise: if the equation does not fit the operands, or if it has an ellipsis of a plain operand.
    """
    left, arrow, output = equation.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands):
        raise NotElementwise(f"The equation has {len(inputs)} operands, {len(operands)} were given.")
    letters = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in equation]
    num_hidden = [x.ndim - len(labels.replace("...", "")) for labels, x in zip(inputs, operands, strict=True)]
    hidden = "".join(letters[: max(num_hidden)]) if "..." in equation else ""
    for number, (labels, x) in enumerate(zip(inputs, operands, strict=True)):
        if "..." in labels:
            if num_hidden[number] < 0 or num_hidden[number] not in (0, len(hidden)):
                raise NotElementwise("An ellipsis must stand for the same axes in each operand.")
            inputs[number] = labels.replace("...", hidden if num_hidden[number] else "")
        if len(inputs[number]) != x.ndim:
            raise NotElementwise(f"{labels!r} does not name the {x.ndim} axes of its operand.")
    if not arrow:
        all_labels = "".join(inputs)
        output = "..." * bool(hidden) + "".join(sorted(c for c in set(all_labels) - set(hidden) if all_labels.count(c) == 1))
    return inputs, output.replace("...", hidden)


@rule_for("one_hot")
def one_hot(packed: Packed, arguments: Arguments) -> Arguments:
    """Accept `one_hot` if `num_classes` is given."""
    if arguments.get(1, "num_classes", -1) == -1:
        raise NotElementwise("Without `num_classes` it looks for the largest class of all steps.")
    return data_and_weights(packed, arguments)


@rule_for("prelu")
def prelu(packed: Packed, arguments: Arguments) -> Arguments:
    """Accept `prelu` with a single weight."""
    weight = arguments.get(1, "weight")
    if isinstance(weight, Tensor) and weight.numel() != 1:
        raise NotElementwise("It has one weight for each position of axis 1, which is time.")
    return data_and_weights(packed, arguments)


@rule_for("layer_norm", "rms_norm")
def layer_norm(packed: Packed, arguments: Arguments) -> Arguments:
    """Accept a normalization over feature axes."""
    shape = arguments.get(1, "normalized_shape")
    num_axes = 1 if isinstance(shape, int) else len(shape)
    if num_axes > packed.ndim - packed.num_step_axes:
        raise NotElementwise("Its `normalized_shape` includes time.")
    return data_and_weights(packed, arguments)


# ------------------------------------------------------------------------------------------------ shapes of features


class FeatureShape(list[int]):
    """The feature axes of a new shape. The call puts the number of rows in front of them."""


@rule_for("reshape", "view")
def reshape(packed: Packed, arguments: Arguments) -> Arguments:
    """Reshape the features of each step."""
    shape = arguments.get_sizes(1, "shape", "size")
    if not all(isinstance(size, int) for size in shape):
        raise NotElementwise(f"Only shapes that begin with {packed.index.grid} keep the steps.")
    step_shape = shape[: packed.num_step_axes]
    if -1 in step_shape:
        step_shape[step_shape.index(-1)] = packed.shape.numel() // max(-math.prod(shape), 1)
    if tuple(step_shape) != packed.index.grid:
        raise NotElementwise(f"Only shapes that begin with {packed.index.grid} keep the steps.")
    feature_shape = shape[packed.num_step_axes :]
    num_features = math.prod(packed.values.shape[1:])
    if -1 in feature_shape:  # without real steps torch cannot infer it
        feature_shape[feature_shape.index(-1)] = num_features // max(-math.prod(feature_shape), 1)
    if math.prod(feature_shape) != num_features:
        raise ShapeError(
            f"A grid of shape {tuple(packed.shape)} cannot be given the shape {tuple(shape)}: each step has "
            f"{num_features} numbers."
        )
    return Arguments([arguments.data, FeatureShape(feature_shape)], {})


@rule_for("flatten")
def flatten(packed: Packed, arguments: Arguments) -> Arguments:
    """Flatten feature axes."""
    start, end = arguments.get(1, "start_dim", 0), arguments.get(2, "end_dim", -1)
    return Arguments([arguments.data, _feature_axis(packed, start), _feature_axis(packed, end)], {})


@rule_for("transpose", "swapaxes")
def transpose(packed: Packed, arguments: Arguments) -> Arguments:
    """Exchange two feature axes."""
    axes = arguments.positional[1:] or list(arguments.named.values())
    return Arguments([arguments.data, *(_feature_axis(packed, axis) for axis in axes)], {})


@rule_for("permute")
def permute(packed: Packed, arguments: Arguments) -> Arguments:
    """Permute feature axes."""
    axes = arguments.get_sizes(1, "dims")
    if len(axes) != packed.ndim:
        raise ShapeError(f"permute of a grid of {packed.ndim} axes was given {len(axes)}: {tuple(axes)}.")
    if [axis % packed.ndim for axis in axes[: packed.num_step_axes]] != list(range(packed.num_step_axes)):
        raise NotElementwise("It moves batch or time.")
    return Arguments([arguments.data, [0, *(_feature_axis(packed, axis) for axis in axes[packed.num_step_axes :])]], {})
