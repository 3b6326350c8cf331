"""Sequential: layers one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self, Unpack

import torch
from torch import Tensor, nn

from padless.data.data_spec import DataSpec
from padless.errors import ArgumentError, NotBuilt
from padless.graph.function import Function
from padless.graph.node import auto_name
from padless.graph.symbolic import Shape, SymbolicTensor
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import CallSpec
from padless.layers.base.weights import structure_lock
from padless.layers.core.input_layer import Input, InputLayer, is_input
from padless.layers.core.torch_module_wrapper import as_layer
from padless.models.model import Model, ModelOptions
from padless.ragged.packed import Packed
from padless.registry import register
from padless.saving.serialization import CustomObjectScope, deserialize, serialize
from padless.types import Config, TensorTree


@register("layer")
class Sequential(Model):
    """Layers one after the other: Keras's `Sequential`.

    The model is built by an Input at the start, or by the first data. When data build the model, the sizes of axes of steps
    stay open, unless a layer needs to know a size. All axes of ids and the masked axes are axes of steps, else the first
    axis after the batch.

    Args:
        layers: layers or torch modules in order. An Input may be the first.
        name: the name of the model.
        kwargs: trainable, dtype, activity_regularizer.

    Example:
        >>> from padless.layers import Dense, Embedding
        >>> model = Sequential([Embedding(9, 3, mask_zero=True), Dense(2)])
        >>> model.predict([[1, 2, 3], [4]], verbose=0)[1].shape
        (1, 2)
    """

    relation = "graph"

    def __init__(
        self, layers: Sequence[nn.Module | SymbolicTensor] = (), name: str | None = None, **kwargs: Unpack[ModelOptions]
    ) -> None:
        super().__init__(name=name, **kwargs)
        self._stack = nn.ModuleList()
        self._input_symbol: SymbolicTensor | None = None
        self.built = False
        names: set[str] = set()
        outputs: TensorTree = None
        for layer in layers or ():
            outputs = self._append(layer, outputs, names)
        self._set_outputs(outputs if len(self._stack) else None)

    def add(self, layer: Layer | nn.Module | SymbolicTensor, rebuild: bool = True) -> None:
        """Add a layer at the end.

        Args:
            layer: a layer, a torch module, or the result of `Input` as the first.
            rebuild: an argument of Keras without effect here; the model is always up to date.

        Raises:
            ArgumentError: the layer cannot be added; then the model has not changed.
        """
        inputs = self._input_symbol if self._function is None else self._function.outputs
        outputs = self._append(layer, inputs, {other.name for other in self.layers})
        self._set_outputs(outputs if len(self._stack) else None)

    def _append(self, layer: Layer | nn.Module | SymbolicTensor, inputs: TensorTree, names: set[str]) -> TensorTree:
        """Append a layer or the input, and return the symbolic outputs so far; None if the input is not known.

        Args:
            layer: see `add`.
            inputs: the symbolic outputs of the layers before it.
            names: the names of these layers, to which that of the new one is added.
        """
        if isinstance(layer, SymbolicTensor) and is_input(layer):
            layer = layer.node.operation
        if isinstance(layer, Layer) and layer._input_shape_argument is not None and self._is_empty():
            inputs = self._input_symbol = Input(tuple(layer._input_shape_argument))
        if isinstance(layer, InputLayer):
            if not self._is_empty():
                raise ArgumentError(f"Sequential {self.name!r} has its input already; an Input can only come first.")
            self._input_symbol = layer.output
            return layer.output
        if not isinstance(layer, nn.Module):
            raise ArgumentError(f"Sequential {self.name!r} takes layers; got {layer!r}.")
        layer = as_layer(layer)
        if layer.name in names:
            raise ArgumentError(f"Layers of a model need different names; {layer.name!r} is there already.")
        outputs = None if inputs is None else layer(inputs)
        self._stack.append(layer)
        names.add(layer.name)
        return outputs

    def _is_empty(self) -> bool:
        return self._input_symbol is None and not len(self._stack)

    def pop(self, rebuild: bool = True) -> Layer:
        """Remove the last layer.

        Args:
            rebuild: an argument of Keras without effect here; the model is always up to date.

        Returns:
            The removed layer.

        Raises:
            ArgumentError: there is no layer.
        """
        if not len(self._stack):
            raise ArgumentError(f"Sequential {self.name!r} has no layer to take off.")
        layer = self.layers[-1]
        for node in () if self._function is None else self._function.nodes:
            if isinstance(node.operation, Layer):
                node.operation._inbound_nodes.remove(node)
        del self._stack[-1]
        has_graph = self._function is not None and len(self._stack) > 0
        self._set_outputs(self._call_layers(self._input_symbol) if has_graph else None)
        return layer

    def _set_outputs(self, outputs: TensorTree) -> None:
        """Make this the model of the graph from the input to these symbolic tensors; None if the input is not known."""
        self._mask_infos, self._objective = {}, None
        self._function = None if outputs is None else Function(self._input_symbol, outputs)
        self.built = outputs is not None

    def _data_spec(self) -> DataSpec:
        """Return the inputs and outputs of the graph. Before it is built only one input is known."""
        return DataSpec(num_inputs=1) if self._function is None else super()._data_spec()

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Create the weights for inputs of this shape, which includes the batch."""
        if self._function is None and input_shape is not None:
            self._build_for_shapes([tuple(input_shape)[1:]], None, False)

    def _ensure_built(self, spec: CallSpec, data: Mapping[str, TensorTree]) -> None:
        """Build the model for the first input, data or a symbolic tensor."""
        if self._function is None:
            with structure_lock:  # the first of several threads builds the model, the others wait for it
                self._build_for_data(data)

    def _build_for_data(self, data: Mapping[str, TensorTree]) -> None:
        if self._function is not None:
            return
        if not len(self._stack):
            raise NotBuilt(f"Sequential {self.name!r} has no layers. Add some first.")
        inputs = next(iter(data.values()), None)
        if not isinstance(inputs, SymbolicTensor | Tensor | Packed):
            raise ArgumentError(f"Sequential {self.name!r} takes one input; got {type(inputs).__name__}.")
        sizes = tuple(inputs.shape[1:])
        is_masked = isinstance(inputs, SymbolicTensor | Packed) and inputs.num_step_axes >= 2
        shapes = [(*(None,) * count, *sizes[count:]) for count in range(_num_open_axes(inputs), -1, -1)]
        self._build_for_shapes(shapes, inputs.dtype, is_masked)

    def _build_for_shapes(self, shapes: Sequence[Shape], dtype: torch.dtype | None, masked: bool) -> None:
        """Build the graph on an Input of the first of these shapes that all layers accept.

        Args:
            shapes: shapes without the batch, the one with the most open sizes first.
            dtype: the dtype of the Input.
            masked: whether the data come with a mask.
        """
        name = auto_name("input_layer")
        node_counts = [len(layer._inbound_nodes) for layer in self.layers]
        for shape in shapes:
            input_symbol = Input(shape, dtype=dtype, masked=masked, name=name)
            try:
                outputs = self._call_layers(input_symbol)
            except Exception:  # any error of a layer may be about an open size, so the next shape has a known one
                for layer, count in zip(self.layers, node_counts, strict=True):
                    del layer._inbound_nodes[count:]
                if shape is shapes[-1]:
                    raise
            else:
                self._input_symbol = input_symbol
                self._set_outputs(outputs)
                return

    def _call_layers(self, symbol: TensorTree) -> TensorTree:
        """Call the layers one after the other."""
        for layer in self._stack:
            symbol = layer(symbol)
        return symbol

    @property
    def layers(self) -> list[Layer]:
        """The layers, without the InputLayer."""
        return [layer for layer in self._stack if isinstance(layer, Layer)]

    def _layers_in_file(self) -> list[Layer]:
        return self.layers

    def get_config(self) -> Config:
        """Return the configs of the layers in order, with that of the InputLayer."""
        if type(self) is not Sequential:
            return Layer.get_config(self)
        layers = [] if self._input_symbol is None else [self._input_symbol.node.operation]
        configs = [serialize(layer, "layer") for layer in (*layers, *self._stack)]
        return {"name": self.name, "trainable": self.trainable, "layers": configs}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Mapping[str, object] | None = None) -> Self:
        """Create the model that has this config, with new weights."""
        with CustomObjectScope(custom_objects):
            layers = [
                deserialize(layer, "layer") if isinstance(layer, dict) else layer for layer in config.get("layers", ())
            ]
        return cls(layers, **{name: value for name, value in config.items() if name != "layers"})


def _num_open_axes(inputs: SymbolicTensor | Tensor | Packed) -> int:
    """Return how many axes after the batch may be axes of steps, so that their size stays open.

    A symbolic tensor has open sizes already. Integers are ids, whose axes are all axes of steps.
    """
    if isinstance(inputs, SymbolicTensor) or inputs.ndim < 2:
        return 0
    num_step_axes = inputs.num_step_axes if isinstance(inputs, Packed) else 2
    return (num_step_axes if inputs.dtype.is_floating_point else max(num_step_axes, inputs.ndim)) - 1
