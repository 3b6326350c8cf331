"""The table of torch functions that keep a mask; all others are refused.

A function keeps the mask if each step of its result depends on that step alone: pointwise functions, arithmetic,
functions of the feature axes, casts, slices. Axes are the grid's: `-1` is the last feature axis, `1` is time. A plain
operand broadcasts against `(B, T, ...)` and is gathered. Whatever mixes steps raises `MaskLost`, except inside a layer
that takes the mask: there it acts on the padded grid and returns a plain tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.ragged import axis_rules as axes
from padless.ragged.axis_rules import AxisRule
from padless.ragged.broadcast import AlignedOperand, NotElementwise, current_call, gap_values_by_operand
from padless.ragged.packed import Packed
from padless.ragged.tree import leaves, map_leaves


def call(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """A torch function on arguments of which at least one is Packed."""
    name = getattr(func, "__name__", str(func))
    writes = writing(name, args, kwargs)
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    try:
        packed = _leading(args, kwargs)
        if writes:
            raise NotElementwise
        if name in _ABOUT and packed is args[0]:
            return func(packed.values, *args[1:], **kwargs)
        rule = _rule(name)
        if rule is None:
            raise NotElementwise
        if rule is not axes.pointwise and rule is not axes.where:
            args, kwargs = _data_first(args, kwargs)
        return _run(func, packed, *_on_values(rule, packed, args, kwargs, name), name)
    except NotElementwise as why:
        if current_call().may_use_grid:
            return func(*_grids(args), **_grids(kwargs))
        raise _lost(name, _leading(args, kwargs), str(why)) from None


def writing(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a function writes into a plain tensor, as a layer that looks at the grid may.

    Otherwise it raises `ArgumentError`: values are shared, and what masked steps show would not follow.
    """
    here = name.endswith("_") and not name.endswith("__") or name in _WRITING
    there = kwargs.get("out") is not None
    if not here and not there:
        return False
    if current_call().may_use_grid and not (here and isinstance(args[0], Packed)):
        return True
    raise ArgumentError(
        f"`{name}` would write its result {'into `out`' if there else 'in place'}, where other symbols or "
        f"Packed may share the values. Use the function that returns it, such as `x = x + 1` or "
        f"`torch.relu(x)`."
    )


def _on_values(
    rule: AxisRule, packed: Packed, args: Any, kwargs: dict[str, Any], name: str
) -> tuple[list[Any], dict[str, Any]]:
    """What a rule makes of the arguments."""
    try:
        return rule(packed, list(args), dict(kwargs))
    except (KeyError, IndexError, AttributeError) as missing:
        raise TypeError(
            f"`{name}` on {packed!r} was not given the arguments that it takes; got {tuple(args[1:])} and {kwargs}."
        ) from missing


def _data_first(args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The data as the first argument, where they were given by name."""
    name = next((key for key in ("input", "tensors", "x1") if key in kwargs), None)
    if args or name is None:
        return args, kwargs
    return (kwargs[name],), {key: value for key, value in kwargs.items() if key != name}


def _leading(args: Any, kwargs: dict[str, Any]) -> Packed:
    """The first Packed, after checking that all of them stand on the same steps of grids of equal rank."""
    found = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Packed)]
    first = found[0]
    for other in found[1:]:
        if current_call().may_use_grid and (first.ndim != other.ndim or not first.index.equals(other.index)):
            raise NotElementwise
        if not first.index.equals(other.index):
            raise MaskLost(
                f"An operation on two Packed of different steps: {first!r}, masked by {first.index.mask_source}, and "
                f"{other!r}, masked by {other.index.mask_source}. Only the merging layers (Add, Multiply, "
                f"Concatenate, ...) unite two masks; padless.pack(x, like=y) brings one to the other's steps."
            )
        if first.ndim != other.ndim:
            raise ShapeError(
                f"An operation on Packed of shapes {tuple(first.shape)} and {tuple(other.shape)}: axes are "
                f"the grid's, so both need the same number. Add feature axes with `x[..., None]`."
            )
    return first


def _grids(tree: Any) -> Any:
    return map_leaves(lambda x: x.unpack() if isinstance(x, Packed) else x, tree)


def _is_packed(x: Any) -> bool:
    return isinstance(x, Packed | AlignedOperand)


def _run(func: Callable[..., Any], packed: Packed, args: list[Any], kwargs: dict[str, Any], name: str) -> Any:
    """The function on the values, once more on the fill, and the results as Packed again."""
    operands = [leaf for leaf in leaves((args, kwargs)) if _is_packed(leaf)]

    def on(rows: int, part: Callable[[Any], Tensor], settings: dict[str, Any]) -> Any:
        def inner(x: Any) -> Any:
            return part(x) if _is_packed(x) else (rows, *x) if isinstance(x, axes.Sized) else x

        inner_args, inner_kwargs = map_leaves(inner, (args, {**kwargs, **settings}))
        return func(*inner_args, **inner_kwargs)

    values = on(packed.values.shape[0], lambda x: x.values, {})
    if values is NotImplemented:
        return values
    fills = gap_values_by_operand(packed.index, operands)
    if name in _NOISE:
        fill = packed.gap_values
    elif fills is None or name in _RANDOM:
        fill = None
    else:
        rows = next(iter(fills.values())).shape[0]
        fill = on(rows, lambda x: fills[id(x)], {"training": False} if "training" in kwargs else {})
    if isinstance(values, Tensor):
        return packed.with_values(values, fill)
    each = fill if fill is not None else [None] * len(values)
    both = [packed.with_values(v, f) for v, f in zip(values, each, strict=True)]
    return tuple(both) if type(values) is tuple else type(values)(both)


def _lost(name: str, packed: Packed, why: str) -> MaskLost:
    layer = current_call().layer
    inside = f" inside layer {layer!r}" if layer else ""
    return MaskLost(
        f"`{name}`{inside} on {packed!r} would mix steps and lose the mask created by {packed.index.mask_source}."
        f"{' ' + why if why else ''} Ways out: a layer that honours the mask (GlobalAveragePooling1D, LastStep, ...); "
        f"DropMask() or `unpack()`, after which padding counts as data; padless.pack(y, like=x) to bring a plain tensor "
        f"to the same steps; in a layer of your own, take `mask` in `call`, and the function acts on the padded grid."
    )


# ---------------------------------------------------------------------------------------------------- the table

_NOISE = {"dropout", "alpha_dropout"}  # what masked steps show passes through
_RANDOM = {"bernoulli", "rand_like", "randn_like", "randint_like", "normal_like"}  # and here they show 0
_ABOUT = set(
    "is_floating_point is_complex is_signed get_device element_size new_zeros new_ones new_full new_empty new_tensor".split()
)  # not about steps: answered with a plain result
_WRITING = {f"__i{name}__" for name in "add sub mul matmul truediv div floordiv mod pow and or xor lshift rshift".split()}
_ALIASES = (
    "absolute arccos arccosh arcsin arcsinh arctan arctan2 arctanh divide fix floor_divide greater greater_equal less "
    "less_equal multiply negative not_equal subtract isclose isreal real imag conj complex polar"
)
_EVERYWHERE = (
    "softsign tanhshrink hardswish logsigmoid log_sigmoid hardshrink softshrink normal_like zeros_like ones_like "
    "rand_like randn_like randint_like full_like empty_like float double half bfloat16 int long short byte char bool "
    "cpu cuda detach clone contiguous bernoulli nan_to_num dropout alpha_dropout "
    "and or xor rand ror rxor invert floordiv mod truediv"
)
_REDUCTIONS = "sum mean amax amin prod logsumexp all any argmax argmin std var count_nonzero nansum nanmean median"
_RULES: dict[str, AxisRule] = {
    **{name: axes.pointwise for name in (*_EVERYWHERE.split(), *_ALIASES.split())},
    **{name: axes.along(1) for name in _REDUCTIONS.split()},
    **{name: axes.along(1, pairs=True) for name in ("max", "min")},
    **{name: axes.along(1) for name in "squeeze cumsum cumprod softmax log_softmax softmin unbind".split()},
    **{name: axes.along(2) for name in "norm chunk split tensor_split".split()},
    **{name: axes.along(1, 0) for name in "cat concat concatenate".split()},
    "stack": axes.along(1, 0, extra=1),
    "unsqueeze": axes.along(1, extra=1),
    "normalize": axes.along(2, 1),
    "glu": axes.along(1, -1),
    "sort": axes.along(1, -1),
    "argsort": axes.along(1, -1),
    "topk": axes.along(2, -1),
    "flip": axes.flip,
    "cosine_similarity": axes.cosine,
    "gather": axes.gathered,
    "linear": axes.linear,
    "embedding": axes.first_only,
    "to": axes.first_only,
    "type_as": axes.first_only,
    "one_hot": axes.one_hot,
    "prelu": axes.prelu,
    "equal": axes.refuse,
    "rms_norm": axes.layer_norm,
    "layer_norm": axes.layer_norm,
    "matmul": axes.matmul,
    "rmatmul": axes.refuse,
    "where": axes.where,
    "reshape": axes.reshape,
    "view": axes.reshape,
    "flatten": axes.flatten,
    "transpose": axes.swap,
    "swapaxes": axes.swap,
    "permute": axes.permute,
    "unflatten": axes.along(1),
}
# Pointwise by their tag, but not when their reduction is on: a loss is refused with its own advice.
_LOSSES = "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits \
cross_entropy nll_loss kl_div soft_margin_loss"


@cache
def _rule(name: str) -> AxisRule | None:
    """The rule for a function by its name; a dunder and a reflected operator count as the plain function."""
    if name in _RULES:
        return _RULES[name]
    if name in _LOSSES.split():
        return _loss
    bare = name.strip("_")
    for candidate in (bare, bare.removeprefix("r")):
        if candidate in _RULES:
            return _RULES[candidate]
        packet = getattr(torch.ops.aten, candidate, None)
        if packet is not None and any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads()):
            return axes.pointwise
    return None


def _loss(packed: Packed, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    raise NotElementwise(
        "A torch loss would average over the grid: use a padless loss, or give it `.values` of both sides, "
        "`padless.pack(y, like=out).values` for the targets."
    )


def _dispatch(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    if getattr(func, "__name__", "") == "__getitem__":
        return getitem(args[0], args[1])
    return call(func, args, kwargs)


def getitem(packed: Any, key: Any) -> Any:
    """`packed[key]`, with the axes of the grid."""
    try:
        if not isinstance(packed, Packed):
            raise NotElementwise
        return axes.sliced(packed, key)
    except NotElementwise as why:
        if current_call().may_use_grid:
            return _grids(packed)[_grids(key)]
        raise _lost(f"[{key!r}]", packed if isinstance(packed, Packed) else _leading(key, {}), str(why)) from None


Packed.functions = staticmethod(_dispatch)
