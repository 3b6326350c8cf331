"""Run torch functions on a `Packed`: those with a rule act on its values, all others raise `MaskLost`.

A function keeps the mask if each step of its result depends on the same step of its input only. These are pointwise
functions, arithmetic, functions of the feature axes, casts and slices. `axis_rules.py` has the rules.
In a layer that receives the mask, a function without a rule acts on the padded grid and returns a plain tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.ragged import axis_rules
from padless.ragged.axis_rules import Arguments, FeatureShape, MissingArgument
from padless.ragged.broadcast import Aligned, AlignedOperand, NotElementwise, gap_values_by_operand
from padless.ragged.call_context import current_call
from padless.ragged.packed import Packed
from padless.ragged.slices import slice_grid
from padless.ragged.tensor_like import Args, Kwargs, TensorFunction, implements
from padless.ragged.tree import Tree, leaves, map_leaves
from padless.ragged.whole_sequences import move_sequences

_KEEPS_GAP_VALUES = {"dropout", "alpha_dropout"}
_NO_GAP_VALUES = {"bernoulli", "rand_like", "randn_like", "randint_like", "normal_like"}  # masked steps show 0
_ABOUT_DTYPE_OR_DEVICE = set(
    "is_floating_point is_complex is_signed get_device element_size new_zeros new_ones new_full new_empty new_tensor".split()
)  # the result has no steps
_IN_PLACE_OPERATORS = {
    f"__i{name}__" for name in "add sub mul matmul truediv div floordiv mod pow and or xor lshift rshift".split()
}


@implements(Packed)
def call_torch_function(function: TensorFunction, args: Args, kwargs: Kwargs) -> Any:
    """Call a torch function of whose arguments at least one is a `Packed`.

    Raises:
        MaskLost: if the function would combine different steps.
        ArgumentError: if it would write into a tensor.
        ShapeError: if an operand does not fit the grid.
    """
    name = function_name(function)
    if name == "__getitem__":
        return _getitem(args[0], args[1])
    in_place = is_in_place(name, kwargs)
    if in_place and not _may_write(args, kwargs):
        raise in_place_error(name, kwargs)
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    try:
        sequences = None if in_place else move_sequences(function, name, args, kwargs)
        if sequences is not None:
            return sequences
        packed = _common_steps(args, kwargs, name != "einsum")
        if name in _ABOUT_DTYPE_OR_DEVICE and packed is args[0]:
            return function(packed.values, *args[1:], **kwargs)
        rule = axis_rules.find_rule(name)
        if in_place or rule is None:
            raise NotElementwise
        call = Arguments(list(args), dict(kwargs))
        if rule not in (axis_rules.pointwise, axis_rules.where):
            call = _data_first(call)
        return _call_on_values(function, name, packed, _apply_rule(rule, name, packed, call))
    except NotElementwise as reason:
        if current_call().may_use_grid:
            return function(*_unpack_leaves(args), **_unpack_leaves(kwargs))
        raise _mask_lost(name, _first_packed(args, kwargs), str(reason)) from None


def function_name(function: TensorFunction) -> str:
    """Return the name of a torch function, such as `add` or `__add__`."""
    return getattr(function, "__name__", str(function))  # TorchScript functions have no __name__


# ------------------------------------------------------------------------------------------------ in place


def is_in_place(name: str, kwargs: Kwargs) -> bool:
    """Return whether a torch function writes its result into an argument."""
    ends_with_underscore = name.endswith("_") and not name.endswith("__")
    return ends_with_underscore or name in _IN_PLACE_OPERATORS or kwargs.get("out") is not None


def in_place_error(name: str, kwargs: Kwargs) -> ArgumentError:
    """Return the error for a function that would write into a `Packed` or a symbol."""
    return ArgumentError(
        f"`{name}` would write its result {'in place' if kwargs.get('out') is None else 'into `out`'}, where other symbols "
        f"or Packed may share the values. Use the function that returns it, such as `x = x + 1` or `torch.relu(x)`."
    )


def _may_write(args: Args, kwargs: Kwargs) -> bool:
    """Return whether the current layer reads the grid and the function writes into a plain tensor."""
    target = args[0] if kwargs.get("out") is None else kwargs["out"]
    return current_call().may_use_grid and not isinstance(target, Packed)


# ------------------------------------------------------------------------------------------------ arguments


def _data_first(call: Arguments) -> Arguments:
    """Move the data to the first position if the caller gave them by name."""
    name = next((key for key in ("input", "tensors", "x1") if key in call.named), None)
    if call.positional or name is None:
        return call
    return Arguments([call.named[name]], {key: value for key, value in call.named.items() if key != name})


def _apply_rule(rule: axis_rules.AxisRule, name: str, packed: Packed, call: Arguments) -> Arguments:
    """Apply a rule; a missing argument is a `TypeError`, as in torch."""
    options = tuple(call.positional[1:])
    try:
        return rule(packed, call)
    except MissingArgument as argument:
        raise TypeError(f"`{name}` on {packed!r} needs the argument `{argument}`; got {options} and {call.named}.") from None


def _first_packed(args: object, kwargs: object) -> Packed:
    """Return the first `Packed` of the arguments."""
    return next(leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Packed))


def _common_steps(args: object, kwargs: object, same_ndim: bool = True) -> Packed:
    """Return the first `Packed` of the arguments; all others must have its steps.

    Args:
        args: the positional arguments.
        kwargs: the named arguments.
        same_ndim: whether all must have the same number of axes.
    """
    first, *others = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Packed)]
    for other in others:
        same_steps = first.index.equals(other.index)
        other_ndim = same_ndim and first.ndim != other.ndim
        if current_call().may_use_grid and (other_ndim or not same_steps):
            raise NotElementwise
        if not same_steps:
            raise MaskLost(
                f"An operation on two Packed of different steps: {first!r}, masked by {first.index.mask_source}, and "
                f"{other!r}, masked by {other.index.mask_source}. Only the merging layers (Add, Multiply, "
                f"Concatenate, ...) unite two masks; padless.pack(x, like=y) brings one to the other's steps."
            )
        if other_ndim:
            raise ShapeError(
                f"An operation on Packed of shapes {tuple(first.shape)} and {tuple(other.shape)}: axes are "
                f"the grid's, so both need the same number. Add feature axes with `x[..., None]`."
            )
    return first


def _unpack_leaves(tree: Tree) -> Tree:
    """Replace each `Packed` of a tree by its padded grid."""
    return map_leaves(lambda x: x.unpack() if isinstance(x, Packed) else x, tree)


def _has_rows(x: object) -> bool:
    """Return whether an argument has one row for each real step."""
    return isinstance(x, Packed | AlignedOperand)


# ------------------------------------------------------------------------------------------------ calls


def _call_on_values(function: TensorFunction, name: str, packed: Packed, call: Arguments) -> Any:
    """Call the function on the values and again on the gap values, and return the results as `Packed`."""
    operands: list[Aligned] = [leaf for leaf in leaves((call.positional, call.named)) if _has_rows(leaf)]
    results = _call_on_rows(function, call, {id(x): x.values for x in operands})
    if results is NotImplemented:
        return results
    gap_results = None
    if name in _KEEPS_GAP_VALUES:
        gap_results = packed.gap_values
    elif name not in _NO_GAP_VALUES:
        gap_values = gap_values_by_operand(packed.index, operands)
        if gap_values is not None:
            in_inference = {"training": False} if "training" in call.named else {}
            gap_results = _call_on_rows(function, Arguments(call.positional, {**call.named, **in_inference}), gap_values)
    if isinstance(results, Tensor):
        return packed.with_values(results, gap_results)
    return _same_container(
        results,
        (
            packed.with_values(values, None if gap_results is None else gap_results[number])
            for number, values in enumerate(results)
        ),
    )


def _call_on_rows(function: TensorFunction, call: Arguments, rows: dict[int, Tensor]) -> Tree:
    """Call the function with each operand replaced by its rows, which `rows` has by the `id` of the operand."""
    num_rows = next(iter(rows.values())).shape[0]

    def replace(x: object) -> object:
        if isinstance(x, FeatureShape):
            return (num_rows, *x)
        return rows[id(x)] if _has_rows(x) else x

    return function(*map_leaves(replace, call.positional), **map_leaves(replace, call.named))


def _same_container(container: Any, items: Iterable[Packed]) -> Any:
    """Return the items in a container of the same type: a list, a tuple, or a named tuple of torch."""
    return type(container)(items if isinstance(container, list) or type(container) is tuple else list(items))


def _getitem(packed: object, key: object) -> Any:
    """Return `packed[key]`; one of the two is a `Packed`."""
    try:
        if not isinstance(packed, Packed):
            raise NotElementwise
        return slice_grid(packed, key)
    except NotElementwise as reason:
        if current_call().may_use_grid:
            return _unpack_leaves(packed)[_unpack_leaves(key)]
        raise _mask_lost(f"[{key!r}]", _first_packed(packed, key), str(reason)) from None


def _mask_lost(name: str, packed: Packed, reason: str) -> MaskLost:
    """Return the error for a function that would combine different steps."""
    layer = current_call().layer
    in_layer = f" inside layer {layer!r}" if layer else ""
    return MaskLost(
        f"`{name}`{in_layer} on {packed!r} would mix steps and lose the mask created by {packed.index.mask_source}."
        f"{' ' + reason if reason else ''} Ways out: a layer that honours the mask (GlobalAveragePooling1D, LastStep, ...); "
        f"DropMask() or `unpack()`, after which padding counts as data; padless.pack(y, like=x) to bring a plain tensor "
        f"to the same steps; in a user-defined layer, take `mask` in `call`, and the function acts on the padded grid."
    )
