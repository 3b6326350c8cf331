"""Activation functions with Keras's names, arguments and defaults, as torch functions.

They are pointwise, or work along the features, so they act on tensors, on packed steps and on symbols alike. `tanh` and
`sigmoid` are torch's own, so that a kernel can recognise them.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from padless.ragged.packed import Packed
from padless.registry import register
from padless.saving import serialization as _config

Steps: TypeAlias = Any  # a tensor, or what stands for one: torch functions dispatch on Packed and symbols
Number: TypeAlias = float | int
Axis: TypeAlias = int | tuple[int, ...] | None
_KINDS = ("activation", "layer")  # layers such as LeakyReLU serve as activations too

tanh = register("activation")(torch.tanh)
sigmoid = register("activation")(torch.sigmoid)


@register("activation")
def linear(x: Steps) -> Steps:
    """The input itself."""
    return x


@register("activation")
def relu(x: Steps, negative_slope: Number = 0.0, max_value: Number | None = None, threshold: Number = 0.0) -> Steps:
    """`x` where it exceeds `threshold`, at most `max_value`; below, `negative_slope * (x - threshold)`.

    >>> relu(torch.tensor([-4., 1., 9.]), negative_slope=0.5, max_value=6)
    tensor([-2.,  1.,  6.])
    """
    if negative_slope and max_value is None and not threshold:
        return functional.leaky_relu(x, negative_slope)
    if max_value == 6 and not threshold:
        above = functional.relu6(x)  # no gradient at 6 itself, as in Keras
    else:
        above = functional.threshold(x, threshold, 0.0) if threshold else functional.relu(x)
        above = above if max_value is None else torch.clamp(above, 0.0, max_value)
    return above - negative_slope * functional.relu(threshold - x) if negative_slope else above


@register("activation")
def leaky_relu(x: Steps, negative_slope: Number = 0.2) -> Steps:
    """`x`, times `negative_slope` below 0."""
    return functional.leaky_relu(x, negative_slope)


@register("activation")
def relu6(x: Steps) -> Steps:
    """`x` between 0 and 6."""
    return functional.relu6(x)


@register("activation")
def elu(x: Steps, alpha: Number = 1.0) -> Steps:
    """`x`, or `alpha * (exp(x) - 1)` below 0 (Clevert et al., 2016)."""
    return functional.elu(x, alpha)


@register("activation")
def celu(x: Steps, alpha: Number = 1.0) -> Steps:
    """`x`, or `alpha * (exp(x / alpha) - 1)` below 0 (Barron, 2017)."""
    return functional.celu(x, alpha)


@register("activation")
def selu(x: Steps) -> Steps:
    """The scaled `elu` that keeps mean 0 and variance 1 (Klambauer et al., 2017)."""
    return functional.selu(x)


@register("activation")
def gelu(x: Steps, approximate: bool = False) -> Steps:
    """`x` times the normal distribution function at `x`, or its tanh approximation (Hendrycks & Gimpel, 2016)."""
    return functional.gelu(x, approximate="tanh" if approximate else "none")


@register("activation", "swish")
def silu(x: Steps) -> Steps:
    """`x * sigmoid(x)` (Ramachandran et al., 2017)."""
    return functional.silu(x)


@register("activation", "hard_swish")
def hard_silu(x: Steps) -> Steps:
    """`x * hard_sigmoid(x)` (Howard et al., 2019)."""
    return functional.hardswish(x)


swish, hard_swish = silu, hard_silu


@register("activation")
def mish(x: Steps) -> Steps:
    """`x * tanh(softplus(x))` (Misra, 2019)."""
    return functional.mish(x)


@register("activation")
def glu(x: Steps, axis: int = -1) -> Steps:
    """One half of `x` along `axis`, gated by the sigmoid of the other (Dauphin et al., 2017)."""
    return functional.glu(x, axis)


@register("activation")
def softplus(x: Steps) -> Steps:
    """`log(exp(x) + 1)`."""
    return functional.softplus(x)


@register("activation")
def squareplus(x: Steps, b: Number = 4) -> Steps:
    """`(x + sqrt(x² + b)) / 2` (Barron, 2021)."""
    return (x + torch.sqrt(x * x + b)) / 2


@register("activation")
def softsign(x: Steps) -> Steps:
    """`x / (1 + |x|)`."""
    return functional.softsign(x)


@register("activation")
def exponential(x: Steps) -> Steps:
    """`exp(x)`."""
    return torch.exp(x)


@register("activation")
def log_sigmoid(x: Steps) -> Steps:
    """`log(sigmoid(x))`, without overflow."""
    return functional.logsigmoid(x)


@register("activation")
def hard_sigmoid(x: Steps) -> Steps:
    """`x / 6 + 1/2` between 0 and 1."""
    return functional.hardsigmoid(x)


@register("activation")
def hard_tanh(x: Steps) -> Steps:
    """`x` between -1 and 1."""
    return functional.hardtanh(x)


@register("activation")
def hard_shrink(x: Steps, threshold: Number = 0.5) -> Steps:
    """`x` where `|x| > threshold`, else 0."""
    return functional.hardshrink(x, threshold)


@register("activation")
def soft_shrink(x: Steps, threshold: Number = 0.5) -> Steps:
    """`x` moved towards 0 by `threshold`, and no further than 0."""
    return functional.softshrink(x, threshold)


@register("activation")
def tanh_shrink(x: Steps) -> Steps:
    """`x - tanh(x)`."""
    return functional.tanhshrink(x)


@register("activation")
def threshold(x: Steps, threshold: Number, default_value: Number) -> Steps:
    """`x` where it exceeds `threshold`, else `default_value`."""
    return functional.threshold(x, threshold, default_value)


@register("activation")
def sparse_plus(x: Steps) -> Steps:
    """`(x + 1)² / 4` between -1 and 1; 0 below, `x` above."""
    return torch.where(x < 1, (torch.clamp(x, -1.0, 1.0) + 1) ** 2 / 4, x)


@register("activation")
def sparse_sigmoid(x: Steps) -> Steps:
    """`(x + 1) / 2` between 0 and 1."""
    return (functional.hardtanh(x) + 1) / 2  # clamp would have a gradient at the corners, where Keras has none


@register("activation")
def softmax(x: Steps, axis: Axis = -1) -> Steps:
    """Positive numbers that sum to 1 along `axis`, or along several axes together (None: all).

    >>> softmax(torch.zeros(1, 2, 2), axis=(1, 2))
    tensor([[[0.2500, 0.2500],
             [0.2500, 0.2500]]])
    """
    return _along(torch.softmax, x, axis)


@register("activation")
def log_softmax(x: Steps, axis: Axis = -1) -> Steps:
    """The logarithm of `softmax`."""
    return _along(torch.log_softmax, x, axis)


@register("activation")
def sparsemax(x: Steps, axis: int = -1) -> Steps:
    """The point of the probability simplex along `axis` that is nearest to `x` (Martins & Astudillo, 2016).

    >>> sparsemax(torch.tensor([[1., 0.5, -3.]]))
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    size, axes_after = x.shape[axis], -axis - 1 if axis < 0 else x.ndim - 1 - axis
    count = torch.arange(1, size + 1, device=x.device).reshape(size, *(1,) * axes_after)
    largest = torch.sort(x, dim=axis, descending=True)[0]
    excess = torch.cumsum(largest, dim=axis) - 1
    support = torch.sum(largest * count > excess, dim=axis, keepdim=True)  # how many stay above 0
    tau = torch.sum(torch.where(count == support, excess, 0.0), dim=axis, keepdim=True) / support
    return functional.relu(x - tau)


def _along(function: Callable[..., Steps], x: Steps, axis: Axis) -> Steps:
    """A function of one axis applied to several as if they were one."""
    if isinstance(axis, int):
        return function(x, dim=axis)
    axes = tuple(range(x.ndim)) if axis is None else tuple(a % x.ndim for a in axis)
    order = (*(a for a in range(x.ndim) if a not in axes), *axes)
    moved = torch.permute(x, order)
    joined = function(torch.flatten(moved, -len(axes)), dim=-1) if axes else moved
    back = torch.unflatten(joined, -1, [x.shape[a] for a in axes]) if axes else joined
    return torch.permute(back, tuple(order.index(a) for a in range(x.ndim)))


_IN_PLACE: dict[Any, Callable[[Tensor], Tensor]] = {relu: torch.relu_, tanh: torch.tanh_, sigmoid: torch.sigmoid_}


def apply_in_place(activation: Callable[..., Any], x: Steps) -> Steps:
    """The activation of a result that nobody else holds and no gradient needs, such as a product's: in its place if it can.

    >>> x = torch.tensor([-1., 2.])
    >>> of_fresh(relu, x) is x
    True
    """
    in_place = _IN_PLACE.get(activation) if isinstance(activation, Hashable) else None
    if in_place is None:
        return activation(x)
    if isinstance(x, Packed):
        return x.map_values(in_place)
    return in_place(x) if type(x) is Tensor else activation(x)


def get(identifier: Any) -> Callable[..., Any]:
    """The activation that a user means by None (linear), a name, a config, or a function.

    >>> get("relu") is relu, get(None) is linear
    (True, True)
    """
    return linear if identifier is None else _config.get(identifier, _KINDS)


def serialize(activation: Callable[..., Any]) -> Any:
    """The registered name of a function, or the config of an object.

    >>> serialize(torch.tanh), serialize(silu)
    ('tanh', 'silu')
    """
    return _config.serialize(activation, _KINDS)


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """What `serialize` wrote, as a function again."""
    return _config.deserialize(config, _KINDS, custom_objects)
