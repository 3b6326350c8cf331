"""Layers that give back what they got."""

from __future__ import annotations

from typing import Any

from padless import regularizers
from padless.layers.base.layer import Layer
from padless.registry import register


@register("layer")
class Identity(Layer):
    """The inputs, whatever they are: a place where nothing is to happen. Keras's `Identity`.

    >>> import torch
    >>> Identity()(torch.ones(1, 2)).tolist()
    [[1.0, 1.0]]
    """

    relation = "stepwise"

    def call(self, inputs: Any) -> Any:
        """The inputs."""
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the inputs."""
        return input_shape


@register("layer")
class ActivityRegularization(Identity):
    """The inputs; adds `l1` times the sum of absolute values and `l2` times the sum of squares to the loss.

    Keras's `ActivityRegularization`: divided by rows, but over real steps only, so that padding costs nothing.

    >>> import torch
    >>> layer = ActivityRegularization(l2=0.5)
    >>> _ = layer(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    >>> layer.losses
    [tensor(2.5000)]
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0, **kwargs: Any) -> None:
        super().__init__(activity_regularizer=regularizers.L1L2(l1, l2), **kwargs)
        self.l1 = l1
        self.l2 = l2

    def get_config(self) -> dict[str, Any]:
        """The two factors; the regularizer follows from them."""
        return {name: value for name, value in super().get_config().items() if name != "activity_regularizer"}
