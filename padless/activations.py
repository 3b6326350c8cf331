"""Activation functions with Keras's names, arguments and defaults, written as torch functions.

They are elementwise or compute along the features. So they work on a tensor, on a `Packed` and on a symbolic tensor,
and return the same kind. `tanh` and `sigmoid` are torch's own functions: kernels recognize them by identity.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Concatenate, ParamSpec, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from padless.ragged.packed import Packed
from padless.registry import register
from padless.saving import serialization
from padless.types import ActivationLike, ConfigLike, StepT, StepTensor

__all__ = [
    "celu",
    "deserialize",
    "elu",
    "exponential",
    "gelu",
    "get",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "serialize",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "tanh",
    "tanh_shrink",
    "threshold",
]

Axis: TypeAlias = int | tuple[int, ...] | None
Options = ParamSpec("Options")

_KINDS = ("activation", "layer")  # layers such as LeakyReLU serve as activations too


class ActivationFunction(Protocol):
    """A function from a tensor, a `Packed` or a symbolic tensor to the same kind."""

    def __call__(self, x: StepT, /) -> StepT: ...


class ActivationWithOptions(Protocol[Options]):
    """An activation function that takes further arguments."""

    def __call__(self, x: StepT, *args: Options.args, **kwargs: Options.kwargs) -> StepT: ...


def _activation(
    *names: str,
) -> Callable[[Callable[Concatenate[Tensor, Options], Tensor]], ActivationWithOptions[Options]]:
    """Register a function of a tensor; torch functions accept a `Packed` and a symbolic tensor in its place."""
    return register("activation", *names)  # pyright: ignore[reportReturnType] - torch's stubs know tensors only


tanh = register("activation")(torch.tanh)
sigmoid = register("activation")(torch.sigmoid)


@_activation()
def linear(x: Tensor) -> Tensor:
    """Return the input itself."""
    return x


@_activation()
def relu(x: Tensor, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> Tensor:
    """Return `x` above `threshold` and at most `max_value`, else `negative_slope * (x - threshold)`.

    Args:
        x: The input, of any shape.
        negative_slope: The factor below `threshold`.
        max_value: The largest output; None for no limit.
        threshold: The number below which the slope applies.

    Returns:
        A tensor of the shape of `x`.

    Example:
        >>> relu(torch.tensor([-4., 1., 9.]), negative_slope=0.5, max_value=6)
        tensor([-2.,  1.,  6.])
    """
    if negative_slope and max_value is None and not threshold:
        return functional.leaky_relu(x, negative_slope)
    if max_value == 6 and not threshold:
        positive = functional.relu6(x)  # its gradient at 6 is 0, as in Keras; that of clamp is not
    else:
        positive = functional.threshold(x, threshold, 0.0) if threshold else functional.relu(x)
        if max_value is not None:
            positive = torch.clamp(positive, 0.0, max_value)
    if negative_slope:
        return positive - negative_slope * functional.relu(threshold - x)
    return positive


@_activation()
def leaky_relu(x: Tensor, negative_slope: float = 0.2) -> Tensor:
    """Return `x`, multiplied by `negative_slope` below 0."""
    return functional.leaky_relu(x, negative_slope)


@_activation()
def relu6(x: Tensor) -> Tensor:
    """Limit `x` to the range from 0 to 6."""
    return functional.relu6(x)


@_activation()
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return `x` above 0 and `alpha * (exp(x) - 1)` below (Clevert et al., 2016)."""
    return functional.elu(x, alpha)


@_activation()
def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return `x` above 0 and `alpha * (exp(x / alpha) - 1)` below (Barron, 2017)."""
    return functional.celu(x, alpha)


@_activation()
def selu(x: Tensor) -> Tensor:
    """Return the scaled `elu` that keeps mean 0 and variance 1 (Klambauer et al., 2017)."""
    return functional.selu(x)


@_activation()
def gelu(x: Tensor, approximate: bool = False) -> Tensor:
    """Multiply `x` by the normal distribution function at `x` (Hendrycks & Gimpel, 2016).

    Args:
        x: The input, of any shape.
        approximate: Whether the distribution function is approximated by a tanh.

    Returns:
        A tensor of the shape of `x`.
    """
    return functional.gelu(x, approximate="tanh" if approximate else "none")


@_activation("swish")
def silu(x: Tensor) -> Tensor:
    """Return `x * sigmoid(x)` (Ramachandran et al., 2017)."""
    return functional.silu(x)


@_activation("hard_swish")
def hard_silu(x: Tensor) -> Tensor:
    """Return `x * hard_sigmoid(x)` (Howard et al., 2019)."""
    return functional.hardswish(x)


swish, hard_swish = silu, hard_silu


@_activation()
def mish(x: Tensor) -> Tensor:
    """Return `x * tanh(softplus(x))` (Misra, 2019)."""
    return functional.mish(x)


@_activation()
def glu(x: Tensor, axis: int = -1) -> Tensor:
    """Multiply the first half of `x` along `axis` by the sigmoid of the second half (Dauphin et al., 2017)."""
    return functional.glu(x, axis)


@_activation()
def softplus(x: Tensor) -> Tensor:
    """Return `log(exp(x) + 1)`."""
    return functional.softplus(x)


@_activation()
def squareplus(x: Tensor, b: float = 4) -> Tensor:
    """Return `(x + sqrt(x² + b)) / 2` (Barron, 2021)."""
    return (x + torch.sqrt(x * x + b)) / 2


@_activation()
def softsign(x: Tensor) -> Tensor:
    """Return `x / (1 + |x|)`."""
    return functional.softsign(x)


@_activation()
def exponential(x: Tensor) -> Tensor:
    """Return `exp(x)`."""
    return torch.exp(x)


@_activation()
def log_sigmoid(x: Tensor) -> Tensor:
    """Return `log(sigmoid(x))`, without overflow."""
    return functional.logsigmoid(x)


@_activation()
def hard_sigmoid(x: Tensor) -> Tensor:
    """Limit `x / 6 + 1/2` to the range from 0 to 1."""
    return functional.hardsigmoid(x)


@_activation()
def hard_tanh(x: Tensor) -> Tensor:
    """Limit `x` to the range from -1 to 1."""
    return functional.hardtanh(x)


@_activation()
def hard_shrink(x: Tensor, threshold: float = 0.5) -> Tensor:
    """Return `x` where `|x| > threshold`, else 0."""
    return functional.hardshrink(x, threshold)


@_activation()
def soft_shrink(x: Tensor, threshold: float = 0.5) -> Tensor:
    """Move `x` towards 0 by `threshold`, and no further than 0."""
    return functional.softshrink(x, threshold)


@_activation()
def tanh_shrink(x: Tensor) -> Tensor:
    """Return `x - tanh(x)`."""
    return functional.tanhshrink(x)


@_activation()
def threshold(x: Tensor, threshold: float, default_value: float) -> Tensor:
    """Return `x` where `x > threshold`, else `default_value`."""
    return functional.threshold(x, threshold, default_value)


@_activation()
def sparse_plus(x: Tensor) -> Tensor:
    """Return 0 below -1, `(x + 1)² / 4` from -1 to 1, and `x` above."""
    return torch.where(x < 1, (torch.clamp(x, -1.0, 1.0) + 1) ** 2 / 4, x)


@_activation()
def sparse_sigmoid(x: Tensor) -> Tensor:
    """Limit `(x + 1) / 2` to the range from 0 to 1."""
    return (functional.hardtanh(x) + 1) / 2  # clamp has a gradient at -1 and 1; Keras's function has none


@_activation()
def softmax(x: Tensor, axis: Axis = -1) -> Tensor:
    """Return positive numbers that sum to 1 along `axis`.

    Args:
        x: The input, of any shape.
        axis: One axis; or several axes, along which the numbers sum to 1 together; or None for all axes.

    Returns:
        A tensor of the shape of `x`.

    Example:
        >>> softmax(torch.zeros(1, 2, 2), axis=(1, 2))
        tensor([[[0.2500, 0.2500],
                 [0.2500, 0.2500]]])
    """
    return _apply_along_axes(torch.softmax, x, axis)


@_activation()
def log_softmax(x: Tensor, axis: Axis = -1) -> Tensor:
    """Return the logarithm of `softmax`."""
    return _apply_along_axes(torch.log_softmax, x, axis)


@_activation()
def sparsemax(x: Tensor, axis: int = -1) -> Tensor:
    """Project `x` to the nearest point of the probability simplex along `axis` (Martins & Astudillo, 2016).

    Example:
        >>> sparsemax(torch.tensor([[1., 0.5, -3.]]))
        tensor([[0.7500, 0.2500, 0.0000]])
    """
    size = x.shape[axis]
    num_later_axes = -axis - 1 if axis < 0 else x.ndim - 1 - axis
    rank = torch.arange(1, size + 1, device=x.device).reshape(size, *(1,) * num_later_axes)
    descending = torch.sort(x, dim=axis, descending=True)[0]
    excess = torch.cumsum(descending, dim=axis) - 1
    support = torch.sum(descending * rank > excess, dim=axis, keepdim=True)  # the number of outputs above 0
    tau = torch.sum(torch.where(rank == support, excess, 0.0), dim=axis, keepdim=True) / support
    return functional.relu(x - tau)


def _apply_along_axes(function: Callable[..., Tensor], x: Tensor, axis: Axis) -> Tensor:
    """Apply a function of one axis; several axes are flattened into one for it and restored afterwards."""
    if isinstance(axis, int):
        return function(x, dim=axis)
    axes = tuple(range(x.ndim)) if axis is None else tuple(number % x.ndim for number in axis)
    if not axes:
        return x
    order = (*(number for number in range(x.ndim) if number not in axes), *axes)
    permuted = torch.permute(x, order)  # the axes of the function are last
    result = function(torch.flatten(permuted, -len(axes)), dim=-1)
    result = torch.unflatten(result, -1, [x.shape[number] for number in axes])
    return torch.permute(result, tuple(order.index(number) for number in range(x.ndim)))


_IN_PLACE: dict[Hashable, Callable[[Tensor], Tensor]] = {
    relu: torch.relu_,
    tanh: torch.tanh_,
    sigmoid: torch.sigmoid_,
}


def apply_in_place(activation: Callable[[StepTensor], StepTensor], x: StepTensor) -> StepTensor:
    """Apply an activation to a temporary result, in its memory if the activation has an in-place form.

    Args:
        activation: The activation function.
        x: A result that nothing else refers to and that no gradient needs, such as that of a matrix product.

    Returns:
        The activation of `x`.

    Example:
        >>> x = torch.tensor([-1., 2.])
        >>> apply_in_place(relu, x) is x
        True
    """
    in_place = _IN_PLACE.get(activation) if isinstance(activation, Hashable) else None
    if in_place is None:
        return activation(x)
    if isinstance(x, Packed):
        return x.map_values(in_place)
    return in_place(x) if type(x) is Tensor else activation(x)


def get(identifier: ActivationLike) -> ActivationFunction:
    """Return the activation function that an argument names, as Keras's `activations.get`.

    Args:
        identifier: None for the identity, a name, a config, or a function.

    Raises:
        ArgumentError: The name is not known.

    Example:
        >>> get("relu") is relu, get(None) is linear
        (True, True)
    """
    return linear if identifier is None else serialization.get(identifier, _KINDS)


def serialize(activation: Callable[..., object]) -> ConfigLike:
    """Return the registered name of a function, or the config of an object.

    Example:
        >>> serialize(torch.tanh), serialize(silu)
        ('tanh', 'silu')
    """
    return serialization.serialize(activation, _KINDS)


def deserialize(config: ConfigLike, custom_objects: Mapping[str, object] | None = None) -> ActivationFunction:
    """Return the function that `serialize` wrote; `custom_objects` adds user-defined names."""
    return serialization.deserialize(config, _KINDS, custom_objects)
