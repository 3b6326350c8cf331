"""Layers in which a step sees itself: the mask passes.

They are written with torch functions that keep a mask, so the table in ragged/torch_function.py maps values and fill, and a
user's activation that mixes steps is refused there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from padless import activations, constraints, initializers, regularizers
from padless.errors import ArgumentError, ShapeError
from padless.kernels.half_precision import linear
from padless.layers.base.layer import Layer
from padless.ragged.packed import Packed
from padless.registry import register


@register("layer")
class Dense(Layer):
    """`activation(inputs @ kernel + bias)` over the last axis.

    Keras's `Dense`. Weights: `kernel` `(in, units)`, `bias` `(units,)`.

    >>> import torch
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

    def call(self, inputs: Any) -> Any:
        """The product, each step alone."""
        if inputs.shape[-1] != self.kernel.shape[0]:
            raise ShapeError(
                f"Dense {self.name!r} was built for {self.kernel.shape[0]} features; got inputs of shape "
                f"{tuple(inputs.shape)}."
            )
        if isinstance(inputs, Packed) and inputs.values.ndim > 1:
            return activations.apply_in_place(
                self.activation, inputs.map_values(lambda x: linear(x, self.kernel, self.bias))
            )
        product: Any = functional.linear
        return activations.apply_in_place(self.activation, product(inputs, self.kernel.t(), self.bias))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's with `units` as the last axis."""
        return (*input_shape[:-1], self.units)


def last_axis_size(layer: Layer, shape: Any) -> int:
    """The size of the last axis, which must be known before weights can be made."""
    if not isinstance(shape, list | tuple) or len(shape) < 2 or not isinstance(shape[-1], int):
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} makes weights for the last axis of its input, so it must "
            f"have at least two axes and the size of the last must be known; got the shape {shape}."
        )
    return shape[-1]
