"""The layers Identity and ActivityRegularization, which return their inputs."""

from __future__ import annotations

from typing import TypeVar, Unpack

from padless import regularizers
from padless.layers.base.layer import Layer
from padless.registry import register
from padless.types import BasicLayerOptions, Config

T = TypeVar("T")


@register("layer")
class Identity(Layer):
    """Return the inputs: Keras's `Identity`. The mask passes.

    Example:
        >>> import torch
        >>> Identity()(torch.ones(1, 2)).tolist()
        [[1.0, 1.0]]
    """

    relation = "stepwise"

    def call(self, inputs: T) -> T:
        """Return the inputs."""
        return inputs

    def compute_output_shape(self, input_shape: T) -> T:
        """Return the shape of the inputs."""
        return input_shape


@register("layer")
class ActivityRegularization(Identity):
    """Return the inputs, and add a penalty on them to the loss: Keras's `ActivityRegularization`.

    The penalty is `l1` times the sum of absolute values plus `l2` times the sum of squares, divided by the number of
    sequences. Unlike in Keras the sums are over real steps only.

    Args:
        l1: the factor of the absolute values.
        l2: the factor of the squares.
        kwargs: name, trainable, dtype, input_shape.

    Example:
        >>> import torch
        >>> layer = ActivityRegularization(l2=0.5)
        >>> _ = layer(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
        >>> layer.losses
        [tensor(2.5000)]
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0, **kwargs: Unpack[BasicLayerOptions]) -> None:
        super().__init__(activity_regularizer=regularizers.L1L2(l1, l2), **kwargs)
        self.l1 = l1
        self.l2 = l2

    def get_config(self) -> Config:
        """Return the constructor arguments; the regularizer follows from `l1` and `l2`."""
        return {name: value for name, value in super().get_config().items() if name != "activity_regularizer"}
