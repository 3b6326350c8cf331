"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn

from padless.data.data_spec import DataSpec
from padless.errors import ArgumentError, NotBuilt
from padless.graph.function import Function
from padless.graph.node import auto_name
from padless.graph.symbolic import SymbolicTensor, is_symbolic
from padless.layers.base.layer import Layer
from padless.layers.core.input_layer import Input, InputLayer, is_input
from padless.layers.core.torch_module_wrapper import as_layer
from padless.models.model import Model
from padless.ragged.packed import Packed
from padless.registry import register
from padless.saving.serialization import CustomObjectScope, deserialize, serialize


@register("layer")
class Sequential(Model):
    """Layers one after the other, built by an Input in front or by the first data.

    Built by data, axes of steps stay open (of ids and of masks all, else the first), unless a layer needs to know a size.

    >>> from padless.layers import Dense, Embedding
    >>> model = Sequential([Embedding(9, 3, mask_zero=True), Dense(2)])
    >>> model.predict([[1, 2, 3], [4]], verbose=0)[1].shape
    (1, 2)
    """

    relation = "graph"

    def __init__(self, layers: Sequence[Any] = (), name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._stack = nn.ModuleList()
        self._input_symbol: Any = None
        self.built = False
        for layer in layers or ():
            self.add(layer)

    def add(self, layer: Any, rebuild: bool = True) -> None:
        """One more layer at the end; it is refused before anything has changed."""
        if is_symbolic(layer) and is_input(layer):
            layer = layer.node.operation
        first = getattr(layer, "_input_shape_argument", None)
        if first is not None and self._input_symbol is None and not len(self._stack):
            self._input_symbol = Input(tuple(first))
        if isinstance(layer, InputLayer):
            if self._input_symbol is not None or len(self._stack):
                raise ArgumentError(f"Sequential {self.name!r} has its input already; an Input can only come first.")
            self._input_symbol = layer.output
            return
        if not isinstance(layer, nn.Module):
            raise ArgumentError(f"Sequential {self.name!r} takes layers; got {layer!r}.")
        layer = as_layer(layer)
        name = getattr(layer, "name", None)
        if name is not None and any(getattr(other, "name", None) == name for other in self._stack):
            raise ArgumentError(f"Layers of a model need different names; {name!r} is there already.")
        start = self._input_symbol if self._function is None else self._function.outputs
        outputs = None if start is None else layer(start)
        self._stack.append(layer)
        self._set_outputs(outputs)

    def pop(self, rebuild: bool = True) -> Any:
        """Take the last layer off."""
        if not len(self._stack):
            raise ArgumentError(f"Sequential {self.name!r} has no layer to take off.")
        layer: Any = self._stack[-1]
        for node in () if self._function is None else self._function.nodes:
            if isinstance(node.operation, Layer):
                node.operation._inbound_nodes.remove(node)
        del self._stack[-1]
        self._set_outputs(None if self._function is None or not len(self._stack) else self._call_layers(self._input_symbol))
        return layer

    def _set_outputs(self, outputs: Any) -> None:
        """Become the graph from the start to these symbols; None if the start is not known."""
        self._function = None if outputs is None else Function(self._input_symbol, outputs)
        self._plans, self._objective = {}, None
        self.built = outputs is not None

    def _data_spec(self) -> DataSpec:
        """Return the inputs and outputs of the graph. Before it is built only one input is known."""
        return DataSpec(num_inputs=1) if self._function is None else super()._data_spec()

    def build(self, input_shape: Any = None) -> None:
        """Make the weights for inputs of this shape, the batch in front."""
        if self._function is None and input_shape is not None:
            self._build_for_shapes([tuple(input_shape)[1:]], None, False)

    def _ensure_built(self, rule: Any, data: dict[str, Any]) -> None:
        """The first input, symbol or data, says what comes in."""
        if self._function is not None:
            return
        if not len(self._stack):
            raise NotBuilt(f"Sequential {self.name!r} has no layers. Add some first.")
        given = next(iter(data.values()), None)
        if not isinstance(given, SymbolicTensor | Tensor | Packed):
            raise ArgumentError(f"Sequential {self.name!r} takes one input; got {type(given).__name__}.")
        known = tuple(given.shape[1:])
        masked = isinstance(given, SymbolicTensor | Packed) and given.num_step_axes >= 2
        shapes = [(*(None,) * axes, *known[axes:]) for axes in range(_varying(given), -1, -1)]
        self._build_for_shapes(shapes, given.dtype, masked)

    def _build_for_shapes(self, shapes: list[Any], dtype: Any, masked: bool) -> None:
        """Become the graph on an Input of the first of these shapes that all layers can work with."""
        name = auto_name("input_layer")
        own = [layer for layer in self._stack if isinstance(layer, Layer)]
        before = [len(layer._inbound_nodes) for layer in own]
        for shape in shapes:
            start = Input(shape, dtype=dtype, masked=masked, name=name)
            try:
                outputs = self._call_layers(start)
            except Exception:  # whatever a layer says of an open axis, it is asked again with the known size
                for layer, count in zip(own, before, strict=True):
                    del layer._inbound_nodes[count:]
                if shape is shapes[-1]:
                    raise
            else:
                self._input_symbol = start
                self._set_outputs(outputs)
                return

    def _call_layers(self, symbol: Any) -> Any:
        """What the layers make of a symbol."""
        for layer in self._stack:
            symbol = layer(symbol)
        return symbol

    @property
    def layers(self) -> list[Any]:
        """The layers, without the Input."""
        return list(self._stack)

    def _named_layers(self) -> list[Any]:
        return self.layers

    def get_config(self) -> dict[str, Any]:
        """The layers' configs in order."""
        if type(self) is not Sequential:
            return Layer.get_config(self)
        own = [serialize(layer, "layer") for layer in self._stack]
        front = [] if self._input_symbol is None else [serialize(self._input_symbol.node.operation, "layer")]
        return {"name": self.name, "trainable": self.trainable, "layers": front + own}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """The model that has this config, with new weights."""
        with CustomObjectScope(custom_objects):
            made = [deserialize(c, "layer") if isinstance(c, dict) else c for c in config.get("layers", ())]
        return cls(made, **{k: v for k, v in config.items() if k != "layers"})


def _varying(given: Any) -> int:
    """How many axes behind the batch are steps, by all that the first data say; a symbol knows itself what is open."""
    if isinstance(given, SymbolicTensor):
        return 0
    lead = given.num_step_axes if isinstance(given, Packed) else 2
    return (lead if given.dtype.is_floating_point else max(lead, given.ndim)) - 1 if given.ndim > 1 else 0
