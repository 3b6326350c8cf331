"""The layer Dense."""

from __future__ import annotations

from typing import Unpack, cast

import torch
from torch import Tensor

from padless import activations, constraints, initializers, regularizers
from padless.errors import ArgumentError, ShapeError
from padless.kernels.half_precision import linear
from padless.layers.base.layer import Layer
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import (
    ActivationLike,
    BasicLayerOptions,
    ConstraintLike,
    InitializerLike,
    RegularizerLike,
    Shape,
    StepTensor,
)


@register("layer")
class Dense(Layer):
    """Compute `activation(inputs @ kernel + bias)` over the last axis: Keras's `Dense`. The mask passes.

    Weights: `kernel` `(features, units)`, `bias` `(units,)`.

    Args:
        units: the number of features of the output.
        activation: the activation, by default none.
        use_bias: whether there is a bias.
        kernel_initializer: the initial values of the kernel.
        bias_initializer: the initial values of the bias.
        kernel_regularizer: a penalty on the kernel.
        bias_regularizer: a penalty on the bias.
        activity_regularizer: a penalty on the outputs.
        kernel_constraint: a constraint on the kernel.
        bias_constraint: a constraint on the bias.
        kwargs: name, trainable, dtype, input_shape.

    Example:
        >>> Dense(2)(torch.ones(4, 7, 3)).shape
        torch.Size([4, 7, 2])
    """

    relation = "stepwise"
    kernel: Tensor
    bias: Tensor | None

    def __init__(
        self,
        units: int,
        activation: ActivationLike = None,
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        activity_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        **kwargs: Unpack[BasicLayerOptions],
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

    def build(self, input_shape: Shape) -> None:
        """Create kernel and bias for the size of the last axis."""
        features = last_axis_size(self, input_shape)
        self.add_weight(
            (features, self.units),
            self.kernel_initializer,
            name="kernel",
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if self.use_bias:
            self.add_weight(
                (self.units,),
                self.bias_initializer,
                name="bias",
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        else:
            self.bias = None

    def call(self, inputs: StepTensor) -> StepTensor:
        """Compute the output `(..., units)` for inputs `(..., features)`."""
        if inputs.shape[-1] != self.kernel.shape[0]:
            raise ShapeError(
                f"Dense {self.name!r} was built for {self.kernel.shape[0]} features; got inputs of shape "
                f"{tuple(inputs.shape)}."
            )
        if isinstance(inputs, Packed) and inputs.values.ndim > 1:
            outputs = inputs.map_values(self._project_steps)
        else:  # torch's function raises MaskLost for a Packed `(B, T)`, whose last axis is time
            outputs = torch.nn.functional.linear(cast("Tensor", inputs), self.kernel.t(), self.bias)
        return activations.apply_in_place(self.activation, outputs)

    def _project_steps(self, steps: Tensor) -> Tensor:
        return linear(steps, self.kernel, self.bias)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input with `units` as the last axis."""
        return (*input_shape[:-1], self.units)


def last_axis_size(layer: Layer, shape: object) -> int:
    """Return the size of the last axis.

    Raises:
        ShapeError: the size is not known, or there is only one axis.
    """
    if not isinstance(shape, list | tuple) or len(shape) < 2 or not isinstance(shape[-1], int):
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} makes weights for the last axis of its input, so it must "
            f"have at least two axes and the size of the last must be known; got the shape {shape}."
        )
    return shape[-1]
