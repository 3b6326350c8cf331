"""A case of a layer with its inputs, and the user-defined layers that cases share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from padless import layers as L
from padless.layers.base.layer import get
from padless.saving.serialization import register_keras_serializable
from padless.testing import LayerHarness, ids


@dataclass(frozen=True)
class Case:
    """A layer, its inputs, and the properties that it cannot have.

    Attributes:
        name: The class, and after a hyphen the variant.
        make: A function that returns the layer.
        inputs: The shape of one step, a function that draws inputs, or a list of them.
        known_violations: Properties that are not checked, with the reason.
        options: Further arguments of `LayerHarness.from_layer`.
    """

    name: str
    make: Callable[[], Any]
    inputs: Any = (3,)
    known_violations: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The name of the class."""
        return self.name.split("-")[0]

    def harness(self) -> LayerHarness:
        """Return a new harness of the layer."""
        return LayerHarness.from_layer(self.make, self.inputs, **self.options)


# ------------------------------------------------------------------------------------------------ user-defined cells


@register_keras_serializable("tests")
class Leaky(L.Layer):
    """A user-defined cell with one state, of which it keeps one half."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.output_size = 2 * units

    def build(self, input_shape: Any) -> None:
        self.add_weight((input_shape[-1], self.units), name="kernel")

    def call(self, inputs: Any, states: Any) -> Any:
        state = 0.5 * states[0] + torch.sin(inputs @ self.kernel)
        return torch.cat([state, state.cos()], dim=-1), [state]


@register_keras_serializable("tests")
class Residual(L.LSTMCell):
    """A built-in cell with another `call`, whose output is not its state."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        output, new = super().call(inputs, states, training)
        return output + 1, new


@register_keras_serializable("tests")
class Attending(L.Layer):
    """An attention layer on a list of queries and values, or on one input that is both."""

    relation = "attention"

    def __init__(self, layer: Any, causal: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = get(layer)
        self.causal = causal

    def call(self, inputs: Any, training: bool = False) -> Any:
        arguments = inputs if isinstance(inputs, list) else [inputs, inputs]
        return self.layer(*arguments, **({"use_causal_mask": True} if self.causal else {}))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return mask[0] if isinstance(inputs, list) else mask

    def compute_output_shape(self, input_shape: Any) -> Any:
        several = isinstance(input_shape, list)
        return self.layer.compute_output_shape(*(input_shape if several else [input_shape, input_shape]))


NOISE = {
    "matches_unpadded": "noise is drawn for the steps of a batch together",
    "independent_of_batch": "noise is drawn for the steps of a batch together",
}
GRID = {
    "matches_unpadded": "it removes the mask: its output is padded data",
    "ignores_padding": "it removes the mask: its output is padded data",
}
IDS = ids(7)
