"""Layers in which a step sees itself: the mask passes.

They are written with torch functions that keep a mask, so the table in ragged/functions.py maps values and fill, and a
user's activation that mixes steps is refused there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from padless.errors import ArgumentError, ShapeError
from padless.kernels import activations
from padless.layers import constraints, initializers, regularizers
from padless.layers.layer import Layer
from padless.ragged.packed import Packed
from padless.registry import register


@register("layer")
class Dense(Layer):
    """`activation(inputs @ kernel + bias)` over the last axis.

    Keras's `Dense`. Weights: `kernel` `(in, units)`, `bias` `(units,)`.

    >>> Dense(2)(torch.ones(4, 7, 3)).shape
    torch.Size([4, 7, 2])
    """

    relation = "stepwise"
    kernel: Tensor
    bias: Tensor | None

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        if not isinstance(units, int) or units <= 0:
            raise ArgumentError(f"Dense expected `units` to be a positive integer; got {units!r}.")
        self.units = units
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)

    def build(self, input_shape: Any) -> None:
        """Kernel and bias, for the size of the last axis."""
        features = last_axis(self, input_shape)
        self.add_weight((features, self.units), self.kernel_initializer, name="kernel",
                        regularizer=self.kernel_regularizer, constraint=self.kernel_constraint)
        if self.use_bias:
            self.add_weight((self.units,), self.bias_initializer, name="bias", regularizer=self.bias_regularizer,
                            constraint=self.bias_constraint)
        else:
            self.bias = None

    def call(self, inputs: Any) -> Any:
        """The product, each step alone."""
        if inputs.shape[-1] != self.kernel.shape[0]:
            raise ShapeError(f"Dense {self.name!r} was built for {self.kernel.shape[0]} features; got inputs of shape "
                             f"{tuple(inputs.shape)}.")
        return self.activation(functional.linear(inputs, self.kernel.t(), self.bias))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's with `units` as the last axis."""
        return (*input_shape[:-1], self.units)


def last_axis(layer: Layer, shape: Any) -> int:
    """The size of the last axis, which must be known before weights can be made."""
    if not isinstance(shape, list | tuple) or len(shape) < 2 or not isinstance(shape[-1], int):
        raise ShapeError(f"{type(layer).__name__} {layer.name!r} makes weights for the last axis of its input, so it must "
                         f"have at least two axes and the size of the last must be known; got the shape {shape}.")
    return shape[-1]


@register("layer")
class Activation(Layer):
    """An activation function by name or as a callable, such as "relu" or `torch.tanh`.

    >>> Activation("relu")(torch.tensor([[-1., 2.]])).tolist()
    [[0.0, 2.0]]
    """

    relation = "stepwise"

    def __init__(self, activation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activations.get(activation)

    def call(self, inputs: Any) -> Any:
        """The function of each step."""
        return self.activation(inputs)


@register("layer")
class Dropout(Layer):
    """In training, each number is 0 with probability `rate`, else divided by `1 - rate`.

    Keras's `Dropout`. `noise_shape` is on the grid: `(None, 1, None)` drops features for all steps of a sequence alike. No
    noise is drawn for masked steps. With a `seed` the layer draws from a generator of its own.

    >>> Dropout(0.5)(torch.ones(1, 3), training=False).tolist()
    [[1.0, 1.0, 1.0]]
    """

    relation = "stepwise"

    def __init__(self, rate: float, noise_shape: Any = None, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise ArgumentError(f"Dropout expected a rate between 0 and 1; got {rate!r}.")
        self.rate = rate
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)
        self.seed = seed
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The inputs, thinned out in training."""
        if not training or self.rate == 0:
            return inputs
        if self.noise_shape is None and self._generator is None:
            return functional.dropout(inputs, self.rate, training=True)
        values = inputs.values if isinstance(inputs, Packed) else inputs
        if self.noise_shape is None:
            noise = self._noise(tuple(values.shape), values)
            return inputs.with_values(values * noise, inputs.fill) if isinstance(inputs, Packed) else inputs * noise
        if len(self.noise_shape) != inputs.ndim:
            raise ShapeError(f"Dropout {self.name!r} has noise_shape {self.noise_shape}, but its input has the shape "
                             f"{tuple(inputs.shape)}: both need the same number of axes.")
        shape = tuple(full if size is None else size for size, full in zip(self.noise_shape, inputs.shape, strict=True))
        noisy = inputs * self._noise(shape, values)
        return noisy.with_values(noisy.values, inputs.fill) if isinstance(noisy, Packed) else noisy

    def _noise(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """0 with probability `rate`, else `1 / (1 - rate)`."""
        kept = torch.rand(shape, generator=self._generator).to(like.device) >= self.rate
        return kept.to(like.dtype) / max(1 - self.rate, 1e-9)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)


@register("layer")
class LayerNormalization(Layer):
    """Each step with mean 0 and variance 1 over `axis`, then `gamma` and `beta`.

    Keras's `LayerNormalization` (Ba et al. 2016). Weights: `gamma`, `beta`, of the normalized axes. Raises `MaskLost` if
    `axis` reaches into the time of a masked input.

    >>> LayerNormalization()(torch.tensor([[1., 3.]])).round(decimals=2).tolist()
    [[-1.0, 1.0]]
    """

    relation = "stepwise"
    gamma: Tensor | None
    beta: Tensor | None

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
        super().__init__(**kwargs)
        self.axis = list(axis) if isinstance(axis, list | tuple) else axis
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)

    def _axes(self, rank: int) -> list[int]:
        """The normalized axes, counted from the front, in order."""
        axes = self.axis if isinstance(self.axis, list) else [self.axis]
        if any(not -rank <= axis < rank for axis in axes):
            raise ArgumentError(f"LayerNormalization {self.name!r} has axis {self.axis}, but its input has {rank} axes.")
        return sorted(axis % rank for axis in axes)

    def build(self, input_shape: Any) -> None:
        """Scale and shift for the normalized axes."""
        shape = tuple(input_shape[axis] for axis in self._axes(len(input_shape)))
        if self.scale:
            self.add_weight(shape, self.gamma_initializer, name="gamma", regularizer=self.gamma_regularizer,
                            constraint=self.gamma_constraint)
        else:
            self.gamma = None
        if self.center:
            self.add_weight(shape, self.beta_initializer, name="beta", regularizer=self.beta_regularizer,
                            constraint=self.beta_constraint)
        else:
            self.beta = None

    def call(self, inputs: Any) -> Any:
        """The normalized inputs."""
        rank = inputs.ndim
        axes = self._axes(rank)
        if axes == list(range(rank - len(axes), rank)):
            shape = [inputs.shape[axis] for axis in axes]
            return functional.layer_norm(inputs, shape, self.gamma, self.beta, self.epsilon)
        centred = inputs - inputs.mean(dim=axes, keepdim=True)
        variance = (centred * centred).mean(dim=axes, keepdim=True)
        broadcast = [inputs.shape[axis] if axis in axes else 1 for axis in range(rank)]
        outputs = centred * torch.rsqrt(variance + self.epsilon)
        outputs = outputs if self.gamma is None else outputs * self.gamma.reshape(broadcast)
        return outputs if self.beta is None else outputs + self.beta.reshape(broadcast)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)
