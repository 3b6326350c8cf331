"""Layers that normalize each step by its own numbers: the mask passes.

Those that look at more than a step stand in batch_normalization.py and group_normalization.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from padless import constraints, initializers, regularizers
from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.layers.base.layer import Layer
from padless.ragged.packed import Packed
from padless.registry import register


class Affine(Layer):
    """The base of layers that end in `gamma` and `beta`, either of which may be left out."""

    gamma: Tensor | None
    beta: Tensor | None

    def __init__(
        self,
        epsilon: float,
        center: bool,
        scale: bool,
        beta: tuple[Any, Any, Any],
        gamma: tuple[Any, Any, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.beta_initializer, self.gamma_initializer = (initializers.get(made_by[0]) for made_by in (beta, gamma))
        self.beta_regularizer, self.gamma_regularizer = (regularizers.get(made_by[1]) for made_by in (beta, gamma))
        self.beta_constraint, self.gamma_constraint = (constraints.get(made_by[2]) for made_by in (beta, gamma))

    def add_scale_and_shift(self, shape: tuple[int, ...]) -> None:
        """The weights `gamma` and `beta`, None where they are left out."""
        for name, wanted in (("gamma", self.scale), ("beta", self.center)):
            if wanted:
                self.add_weight(
                    shape,
                    getattr(self, f"{name}_initializer"),
                    name=name,
                    regularizer=getattr(self, f"{name}_regularizer"),
                    constraint=getattr(self, f"{name}_constraint"),
                )
            else:
                setattr(self, name, None)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)


def check_weight_sizes(layer: Layer, weight: Tensor | None, inputs: Any, axes: Any) -> None:
    """Raises `ShapeError` unless the inputs have, on these axes, the sizes that a weight was made for."""
    sizes = tuple(inputs.shape[axis] for axis in axes)
    if weight is not None and tuple(weight.shape) != sizes:
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} was built for {tuple(weight.shape)} features; got inputs "
            f"of shape {tuple(inputs.shape)}."
        )


def normalize_axes(layer: Layer, axis: Any, rank: int) -> list[int]:
    """Axes of a grid counted from its front, in order; raises `ArgumentError` where there is no such axis."""
    axes = list(axis) if isinstance(axis, list | tuple) else [axis]
    if any(not isinstance(a, int) or not -rank <= a < rank for a in axes):
        raise ArgumentError(f"{type(layer).__name__} {layer.name!r} has axis={axis!r}, but its input has {rank} axes.")
    return sorted(a % rank for a in axes)


def feature_axes(layer: Layer, axis: Any, inputs: Any) -> list[int]:
    """The same counted from the end, where the axes of a grid and those of its real steps agree.

    Raises `MaskLost` if one is the batch or the time of a masked input.
    """
    axes = normalize_axes(layer, axis, inputs.ndim)
    if isinstance(inputs, Packed) and any(a < inputs.num_step_axes for a in axes):
        raise MaskLost(
            f"{type(layer).__name__} {layer.name!r} has axis={axis!r}, which is batch or time of {inputs!r}, "
            f"masked by {inputs.index.mask_source}: its numbers would belong to columns of the padded grid. Ways out: "
            f"an axis of features; DropMask() or `unpack()` before it, after which padding counts as data."
        )
    return [a - inputs.ndim for a in axes]


def as_float(layer: Layer, inputs: Any) -> Any:
    """Inputs as floats, integers in the dtype of the layer."""
    return inputs if inputs.dtype.is_floating_point else inputs.to(layer.dtype)


def _trailing(axes: list[int], rank: int) -> bool:
    return axes == list(range(rank - len(axes), rank))


@register("layer")
class LayerNormalization(Affine):
    """Each step with mean 0 and variance 1 over `axis`, then `gamma` and `beta`.

    Keras's `LayerNormalization` (Ba et al. 2016). Weights: `gamma`, `beta`, of the normalized axes. `rms_scaling=True`
    divides by the deviation without taking away the mean, and has no `beta`. Raises `MaskLost` if `axis` reaches into
    the time of a masked input.

    >>> LayerNormalization()(torch.tensor([[1., 3.]])).round(decimals=2).tolist()
    [[-1.0, 1.0]]
    """

    relation = "stepwise"

    def __init__(
        self,
        axis: int | list[int] | tuple[int, ...] = -1,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        rms_scaling = bool(kwargs.pop("rms_scaling", False))
        super().__init__(
            epsilon,
            center,
            scale,
            (beta_initializer, beta_regularizer, beta_constraint),
            (gamma_initializer, gamma_regularizer, gamma_constraint),
            **kwargs,
        )
        self.axis = list(axis) if isinstance(axis, list | tuple) else axis
        self.rms_scaling = rms_scaling
        if self.rms_scaling:
            self.center, self.scale = False, True

    def build(self, input_shape: Any) -> None:
        """Scale and shift for the normalized axes."""
        self.add_scale_and_shift(tuple(input_shape[axis] for axis in normalize_axes(self, self.axis, len(input_shape))))

    def call(self, inputs: Any) -> Any:
        """The normalized inputs."""
        inputs, rank = as_float(self, inputs), inputs.ndim
        axes = normalize_axes(self, self.axis, rank)
        check_weight_sizes(self, self.gamma if self.gamma is not None else self.beta, inputs, axes)
        if _trailing(axes, rank) and not self.rms_scaling:
            shape = [inputs.shape[axis] for axis in axes]
            return functional.layer_norm(inputs, shape, self.gamma, self.beta, self.epsilon)
        centred = inputs - inputs.mean(dim=axes, keepdim=True)
        variance = (centred * centred).mean(dim=axes, keepdim=True)
        broadcast = [inputs.shape[axis] if axis in axes else 1 for axis in range(rank)]
        outputs = (inputs if self.rms_scaling else centred) * torch.rsqrt(variance + self.epsilon)
        outputs = outputs if self.gamma is None else outputs * self.gamma.reshape(broadcast)
        return outputs if self.beta is None else outputs + self.beta.reshape(broadcast)


@register("layer")
class RMSNormalization(Layer):
    """Each step divided by the root of the mean of its squares over `axis`, times `scale`.

    Keras's `RMSNormalization` (Zhang and Sennrich 2019), which loses the mask. Weight: `scale`, of the normalized axes.

    >>> RMSNormalization()(torch.tensor([[1., 7.]])).detach()
    tensor([[0.2000, 1.4000]])
    """

    relation = "stepwise"
    scale: Tensor

    def __init__(self, axis: int | list[int] | tuple[int, ...] = -1, epsilon: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = list(axis) if isinstance(axis, list | tuple) else axis
        self.epsilon = epsilon

    def build(self, input_shape: Any) -> None:
        """The scale of the normalized axes."""
        shape = tuple(input_shape[axis] for axis in normalize_axes(self, self.axis, len(input_shape)))
        self.add_weight(shape, "ones", name="scale")

    def call(self, inputs: Any) -> Any:
        """The normalized inputs."""
        rank = inputs.ndim
        axes = normalize_axes(self, self.axis, rank)
        check_weight_sizes(self, self.scale, inputs, axes)
        if _trailing(axes, rank):
            return functional.rms_norm(inputs, [inputs.shape[axis] for axis in axes], self.scale, self.epsilon)
        square = (inputs * inputs).mean(dim=axes, keepdim=True)
        broadcast = [inputs.shape[axis] if axis in axes else 1 for axis in range(rank)]
        return inputs * torch.rsqrt(square + self.epsilon) * self.scale.reshape(broadcast)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)


@register("layer")
class UnitNormalization(Layer):
    """Each step divided by its length, the root of the sum of its squares over `axis`; zeros stay zeros.

    Keras's `UnitNormalization`.

    >>> UnitNormalization()(torch.tensor([[3., 4.]]))
    tensor([[0.6000, 0.8000]])
    """

    relation = "stepwise"

    def __init__(self, axis: int | list[int] | tuple[int, ...] = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(axis, int) and not (isinstance(axis, list | tuple) and all(isinstance(a, int) for a in axis)):
            raise ArgumentError(f"UnitNormalization expected `axis` to be an integer or a list of them; got {axis!r}.")
        self.axis = list(axis) if isinstance(axis, list | tuple) else axis

    def call(self, inputs: Any) -> Any:
        """The normalized inputs."""
        axes: Any = normalize_axes(self, self.axis, inputs.ndim)
        return functional.normalize(as_float(self, inputs), dim=axes, eps=1e-12)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)
