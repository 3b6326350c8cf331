"""Normalization of each step by itself, and what the normalization layers share. The mask passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, Unpack, cast

import torch
from torch import Tensor
from torch.nn import functional

from padless import constraints, initializers, regularizers
from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.layers.base.layer import Layer
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import ConstraintLike, InitializerLike, LayerOptions, RegularizerLike, Shape, StepTensor

Axes: TypeAlias = int | list[int] | tuple[int, ...]


class AffineNormalization(Layer):
    """Base class of layers whose normalized values are multiplied by `gamma` and shifted by `beta`.

    Either weight can be left out, and is None then.
    """

    gamma: Tensor | None
    beta: Tensor | None

    def __init__(
        self,
        *,
        epsilon: float,
        center: bool,
        scale: bool,
        beta_initializer: InitializerLike,
        gamma_initializer: InitializerLike,
        beta_regularizer: RegularizerLike,
        gamma_regularizer: RegularizerLike,
        beta_constraint: ConstraintLike,
        gamma_constraint: ConstraintLike,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)

    def add_gamma_and_beta(self, shape: Shape) -> None:
        """Create the weights `gamma` and `beta`, as far as `scale` and `center` ask for them."""
        if self.scale:
            self.add_weight(
                shape,
                self.gamma_initializer,
                name="gamma",
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        else:
            self.gamma = None
        if self.center:
            self.add_weight(
                shape,
                self.beta_initializer,
                name="beta",
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
            )
        else:
            self.beta = None

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return tuple(input_shape)


def check_weight_sizes(layer: Layer, weight: Tensor | None, inputs: StepTensor, axes: Sequence[int]) -> None:
    """Raise `ShapeError` unless the inputs have on these axes the sizes of a weight."""
    if weight is not None and tuple(weight.shape) != tuple(inputs.shape[axis] for axis in axes):
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} was built for {tuple(weight.shape)} features; got inputs "
            f"of shape {tuple(inputs.shape)}."
        )


def normalize_axes(layer: Layer, axis: Axes, ndim: int) -> list[int]:
    """Return axes counted from the front, in order.

    Raises:
        ArgumentError: An axis is not an integer, or the input does not have it.
    """
    axes = list(axis) if isinstance(axis, list | tuple) else [axis]
    if any(not isinstance(a, int) or not -ndim <= a < ndim for a in axes):
        raise ArgumentError(f"{type(layer).__name__} {layer.name!r} has axis={axis!r}, but its input has {ndim} axes.")
    return sorted(a % ndim for a in axes)


def feature_axes(layer: Layer, axis: Axes, inputs: StepTensor) -> list[int]:
    """Return axes counted from the end: there a padded grid and its packed values have the same axes.

    Raises:
        ArgumentError: An axis is not an integer, or the input does not have it.
        MaskLost: An axis is the batch or the time of a masked input.
    """
    axes = normalize_axes(layer, axis, inputs.ndim)
    if isinstance(inputs, Packed) and any(a < inputs.num_step_axes for a in axes):
        raise MaskLost(
            f"{type(layer).__name__} {layer.name!r} has axis={axis!r}, which is batch or time of {inputs!r}, "
            f"masked by {inputs.index.mask_source}: its numbers would belong to columns of the padded grid. Ways out: "
            f"an axis of features; DropMask() or `unpack()` before it, after which padding counts as data."
        )
    return [a - inputs.ndim for a in axes]


def as_float(layer: Layer, inputs: StepTensor) -> StepTensor:
    """Return floating inputs as they are, and integers in the dtype of the layer."""
    return inputs if inputs.dtype.is_floating_point else inputs.to(layer.dtype)


def _are_last_axes(axes: list[int], ndim: int) -> bool:
    return axes == list(range(ndim - len(axes), ndim))


class _LayerNormalizationOptions(LayerOptions, total=False):
    rms_scaling: bool


@register("layer")
class LayerNormalization(AffineNormalization):
    """Normalize each step to mean 0 and variance 1, as Keras's `LayerNormalization` (Ba et al., 2016).

    Input and output have the same shape. The mask passes. The weights `gamma` and `beta` have the sizes of the normalized
    axes.

    Args:
        axis: The axis to normalize over, or several axes.
        epsilon: The number added to the variance.
        center: Whether `beta` is added.
        scale: Whether the result is multiplied by `gamma`.
        beta_initializer: The initializer of `beta`.
        gamma_initializer: The initializer of `gamma`.
        beta_regularizer: The regularizer of `beta`.
        gamma_regularizer: The regularizer of `gamma`.
        beta_constraint: The constraint of `beta`.
        gamma_constraint: The constraint of `gamma`.
        rms_scaling: Whether the mean is not subtracted. There is no `beta` then.

    Raises:
        ArgumentError: The input does not have that axis.
        MaskLost: The axis is the batch or the time of a masked input.

    Example:
        >>> LayerNormalization()(torch.tensor([[1., 3.]])).round(decimals=2).tolist()
        [[-1.0, 1.0]]
    """

    relation = "stepwise"

    def __init__(
        self,
        axis: Axes = -1,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer: InitializerLike = "zeros",
        gamma_initializer: InitializerLike = "ones",
        beta_regularizer: RegularizerLike = None,
        gamma_regularizer: RegularizerLike = None,
        beta_constraint: ConstraintLike = None,
        gamma_constraint: ConstraintLike = None,
        **kwargs: Unpack[_LayerNormalizationOptions],
    ) -> None:
        rms_scaling = bool(kwargs.pop("rms_scaling", False))
        options = cast("LayerOptions", kwargs)
        super().__init__(
            epsilon=epsilon,
            center=center and not rms_scaling,
            scale=scale or rms_scaling,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **options,
        )
        self.axis = list(axis) if isinstance(axis, list | tuple) else axis
        self.rms_scaling = rms_scaling

    def build(self, input_shape: Shape) -> None:
        """Create `gamma` and `beta` for the normalized axes."""
        self.add_gamma_and_beta([input_shape[axis] for axis in normalize_axes(self, self.axis, len(input_shape))])

    def call(self, inputs: StepTensor) -> StepTensor:
        """Normalize the inputs."""
        x, ndim = cast("Tensor", as_float(self, inputs)), inputs.ndim
        axes = normalize_axes(self, self.axis, ndim)
        check_weight_sizes(self, self.gamma if self.gamma is not None else self.beta, x, axes)
        if _are_last_axes(axes, ndim) and not self.rms_scaling:
            return functional.layer_norm(x, [x.shape[axis] for axis in axes], self.gamma, self.beta, self.epsilon)
        centered = x - x.mean(dim=axes, keepdim=True)
        variance = (centered * centered).mean(dim=axes, keepdim=True)
        outputs = (x if self.rms_scaling else centered) * torch.rsqrt(variance + self.epsilon)
        weight_shape = [x.shape[axis] if axis in axes else 1 for axis in range(ndim)]
        if self.gamma is not None:
            outputs = outputs * self.gamma.reshape(weight_shape)
        if self.beta is not None:
            outputs = outputs + self.beta.reshape(weight_shape)
        return outputs


@register("layer")
class RMSNormalization(Layer):
    """Divide each step by its root mean square, as Keras's `RMSNormalization` (Zhang and Sennrich, 2019).

    Input and output have the same shape. The mask passes; Keras loses it. The weight `scale` has the sizes of the
    normalized axes.

    Args:
        axis: The axis to normalize over, or several axes.
        epsilon: The number added to the mean square.

    Raises:
        ArgumentError: The input does not have that axis.
        MaskLost: The axis is the batch or the time of a masked input.

    Example:
        >>> RMSNormalization()(torch.tensor([[1., 7.]])).detach()
        tensor([[0.2000, 1.4000]])
    """

    relation = "stepwise"
    scale: Tensor

    def __init__(self, axis: Axes = -1, epsilon: float = 1e-6, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.axis = list(axis) if isinstance(axis, list | tuple) else axis
        self.epsilon = epsilon

    def build(self, input_shape: Shape) -> None:
        """Create `scale` for the normalized axes."""
        shape = [input_shape[axis] for axis in normalize_axes(self, self.axis, len(input_shape))]
        self.add_weight(shape, "ones", name="scale")

    def call(self, inputs: StepTensor) -> StepTensor:
        """Normalize the inputs."""
        x, ndim = cast("Tensor", inputs), inputs.ndim
        axes = normalize_axes(self, self.axis, ndim)
        check_weight_sizes(self, self.scale, x, axes)
        if _are_last_axes(axes, ndim):
            return functional.rms_norm(x, [x.shape[axis] for axis in axes], self.scale, self.epsilon)
        mean_square = (x * x).mean(dim=axes, keepdim=True)
        weight_shape = [x.shape[axis] if axis in axes else 1 for axis in range(ndim)]
        return x * torch.rsqrt(mean_square + self.epsilon) * self.scale.reshape(weight_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return tuple(input_shape)


@register("layer")
class UnitNormalization(Layer):
    """Divide each step by its L2 norm, as Keras's `UnitNormalization`.

    A step of zeros stays 0. Input and output have the same shape. The mask passes.

    Args:
        axis: The axis of the norm, or several axes.

    Raises:
        ArgumentError: The axis is not an integer, or the input does not have it.
        MaskLost: The axis is the batch or the time of a masked input.

    Example:
        >>> UnitNormalization()(torch.tensor([[3., 4.]]))
        tensor([[0.6000, 0.8000]])
    """

    relation = "stepwise"

    def __init__(self, axis: Axes = -1, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        if not isinstance(axis, int) and not (isinstance(axis, list | tuple) and all(isinstance(a, int) for a in axis)):
            raise ArgumentError(f"UnitNormalization expected `axis` to be an integer or a list of them; got {axis!r}.")
        self.axis = list(axis) if isinstance(axis, list | tuple) else axis

    def call(self, inputs: StepTensor) -> StepTensor:
        """Normalize the inputs."""
        axes: Any = normalize_axes(self, self.axis, inputs.ndim)  # torch's stub knows one axis only
        return functional.normalize(cast("Tensor", as_float(self, inputs)), dim=axes, eps=1e-12)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return tuple(input_shape)
