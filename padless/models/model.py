"""Model: a graph or a `call` of one's own, with compile, fit, evaluate, predict and save.

A model is a roof: the graph replays calls, the loop trains any module, saving sees dictionaries. Here names become
objects and containers become batches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from padless.data.batch import Batch
from padless.data.data_spec import UNKNOWN_SPEC, DataSpec
from padless.errors import ArgumentError, NotBuilt, ShapeError
from padless.graph import serialization as graph_config
from padless.graph.function import Function
from padless.graph.node import auto_name
from padless.graph.symbolic import SymbolicTensor, in_shape_inference, leaves, map_leaves, shape_inference_mode
from padless.layers.base.layer import Layer
from padless.layers.core.input_layer import InputLayer, is_input
from padless.models import mask_plan as plan
from padless.models import summary
from padless.models.compile_layers import compiled_layers
from padless.ragged.packed import Packed, gap_values_needed
from padless.registry import register
from padless.saving import safetensors_io as archive
from padless.saving.serialization import CustomObjectScope, deserialize, serialize
from padless.trainers.epoch_loop import device_of
from padless.trainers.trainer import Trainer


@register("layer", "Functional")
class Model(Trainer, Layer):
    """Layers with inputs and outputs: `Model(inputs, outputs)` of symbols, or a subclass with a `call` of its own.

    Keras's `Model`. A padded batch is packed where its mask is born and stays so until somebody looks at the grid.

    >>> from padless.layers import LSTM, Dense, Embedding, Input
    >>> x = Input((None,))
    >>> model = Model(x, Dense(2)(LSTM(4)(Embedding(9, 3, mask_zero=True)(x))))
    >>> model.predict([[1, 2, 3], [4]], verbose=0).shape
    (2, 2)
    """

    relation = "graph"

    def __init__(self, inputs: Any = None, outputs: Any = None, name: str | None = None, **kwargs: Any) -> None:
        graph = inputs is not None or outputs is not None
        super().__init__(name=name or (auto_name("functional") if graph and type(self) is Model else None), **kwargs)
        self._replace_unbuilt_parameters()  # a model's weights are its layers', and those speak for themselves
        self._function: Function | None = None
        self._plans: dict[tuple[int, ...], plan.ModelMaskInfo] = {}  # by the axes of the masks that come with the data
        self._first_inputs: list[Any] = []  # the forms of the first data that a `call` of one's own saw
        self._num_trained_inputs: int | None = None  # in the last call with targets
        if graph:
            self._set_graph(inputs, outputs)

    def _set_graph(self, inputs: Any, outputs: Any) -> None:
        """Become the graph between these symbols."""
        function = Function(inputs, outputs)
        for symbol in function.input_symbols:
            if not is_input(symbol):
                raise ArgumentError(
                    f"A model begins at symbols made by Input(...); got {symbol!r}, which layer "
                    f"{symbol.node.operation.name!r} gave."
                )
        names = [operation.name for operation in function.operations]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ArgumentError(f"Layers of a model need different names; {twice} occur more than once.")
        if any(isinstance(leaf, nn.Parameter) for node in function.nodes for leaf in leaves((node.args, node.kwargs))):
            raise ArgumentError(
                "A layer was called on a symbol and a parameter, which the model would neither train nor save. "
                "Call the module or layer that holds the parameter."
            )
        self._function = function
        self._stack = nn.ModuleList(
            op for op in function.operations if isinstance(op, nn.Module) and not isinstance(op, InputLayer)
        )
        self.built = True

    # ------------------------------------------------------------------------------------------------ calling

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """The outputs for these inputs, given as one, a list or a dictionary by input name."""
        function = self._graph("call")
        values = self.arrange_inputs(inputs)
        if not in_shape_inference():
            self._mask_info_for(values)
        return function(values, gap_values_needed())

    def _mask_info_for(self, values: Sequence[Any]) -> plan.ModelMaskInfo:
        """The plan of the graph for such values; made once, which is when masks that come with the data are checked."""
        leads = tuple(value.num_step_axes if isinstance(value, Packed) else 0 for value in values)
        if leads not in self._plans:
            self._plans[leads] = plan.mask_info_of_graph(self._graph("call"), leads)
        return self._plans[leads]

    def _graph(self, what: str) -> Function:
        if self._function is None:
            raise NotBuilt(
                f"Model {self.name!r} has no graph, so `{what}` means nothing for it. Give it inputs and "
                f"outputs, or define `call` in a subclass."
            )
        return self._function

    def arrange_inputs(self, inputs: Any) -> list[Any]:
        """One value for each input of the graph, with the rank that it declares; the leaves, where there is no graph."""
        if self._function is None:
            return leaves(inputs)
        given = self._inputs_in_order(inputs)
        return [_match_input(value, source) for value, source in zip(given, self._function.input_symbols, strict=True)]

    def _inputs_in_order(self, inputs: Any) -> list[Any]:
        """What is given for each input of the graph: by name, in order, or alone."""
        function = self._graph("inputs")
        names = list(function.inputs) if isinstance(function.inputs, dict) else [s.name for s in function.input_symbols]
        if isinstance(inputs, dict):
            missing = sorted(set(names) - set(inputs))
            if missing:
                raise ArgumentError(f"Model {self.name!r} has inputs {names}; got {sorted(inputs)}, without {missing}.")
            given = [inputs[name] for name in names]
        else:
            given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(given) != len(names):
            raise ArgumentError(f"Model {self.name!r} has {len(names)} inputs {names}; got {len(given)}.")
        return given

    def _mask_info(self, batch: Batch, trains: bool) -> plan.ModelMaskInfo:
        if self._function is not None:
            return self._mask_info_for(self.arrange_inputs(batch.x))
        return plan.mask_info_of_call(self, batch.to(device_of(self)).x) if trains else plan.ModelMaskInfo()

    def _output_names_if_known(self) -> list[str] | None:
        """Names that differ, so that each loss has its own."""
        if self._function is None:
            return None
        outputs = self._function.outputs
        names = list(outputs) if isinstance(outputs, dict) else self.output_names
        return [f"{name}_{names[:place].count(name)}" if name in names[:place] else name for place, name in enumerate(names)]

    @property
    def _has_call(self) -> bool:
        return (
            self._function is not None
            or type(self).call is not Model.call
            or not self._overridden("train_step", "test_step")
        )

    def _compiled_layers(self) -> AbstractContextManager[Any]:
        return compiled_layers(self) if self.jit_compile else nullcontext()

    def _data_spec(self) -> DataSpec:
        """Return the inputs and outputs that the graph has. Those of a user-defined `call` depend on the data."""
        function = self._function
        if function is None:
            return UNKNOWN_SPEC
        input_names = list(function.inputs) if isinstance(function.inputs, dict) else self.input_names
        output_names = self._output_names_if_known() or []
        return DataSpec(
            len(input_names),
            input_names,
            len(output_names),
            output_names,
            [symbol.ndim > 1 and symbol.shape[1] is None for symbol in function.input_symbols],
        )

    def _complete_data_spec(self, x: object, y: object) -> DataSpec:
        """Return the spec of the model. What it does not say follows from the containers of inputs and targets."""
        losses = self._compiled.loss if self.compiled else None
        num_losses = len(losses) if isinstance(losses, list | tuple) else 1
        spec = self._data_spec().complete(x, y, self._num_trained_inputs, num_losses)
        if y is not None:
            self._num_trained_inputs = spec.num_inputs
        return spec

    def _output_containers(self, batch: Batch, outputs: Sequence[Any]) -> list[Any]:
        kinds, function = batch.kinds, self._function
        mixed = "grid" if "grid" in kinds else kinds[0]
        if function is None:
            same = {
                id(leaf.index): kind for leaf, kind in zip(leaves(batch.x), kinds, strict=True) if isinstance(leaf, Packed)
            }
            return [same.get(id(output.index), mixed) if isinstance(output, Packed) else "dense" for output in outputs]
        known = self._mask_info_for(self.arrange_inputs(batch.x))
        found = []
        for symbol, end in zip(function.output_symbols, known.outputs, strict=True):
            reaching = [kinds[place] for place in function.input_positions_for(symbol)]
            own = reaching if end.origin is None else [kinds[known.origins[end.origin].input_position]]
            found.append(own[0] if len(set(own)) == 1 else mixed)
        return found

    def _input_dtype(self) -> None:
        """The layers inside bring their inputs to their own dtypes."""

    def needs_gap_values(self, shown: bool) -> bool:
        """Some layer inside may."""
        return True

    def build(self, input_shape: Any = None) -> None:
        """Make the weights of a subclassed model by a call on zeros of this shape."""
        if not self.built and input_shape is not None:
            with torch.no_grad(), shape_inference_mode():
                self(map_shapes(input_shape, lambda shape: torch.zeros([size or 1 for size in shape])))
        self.built = True

    def _ensure_built(self, rule: Any, data: dict[str, Any]) -> None:
        """The call itself makes the weights of the layers inside; a `build` of one's own comes first."""
        if type(self).build is not Model.build:
            super()._ensure_built(rule, data)
        if self._function is None and not self._first_inputs:
            self._first_inputs = [map_leaves(_shape_and_dtype, value) for value in data.values()]
        self.built = True

    # ------------------------------------------------------------------------------------------------ what is inside

    @property
    def layers(self) -> list[Any]:
        """The layers, inputs among them: in Keras's order, or where there is no graph as they became attributes."""
        if self._function is None:
            return list(_layers_in(self))
        return [operation for operation in self._function.operations if isinstance(operation, Layer)]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        """A layer by its name or its place."""
        if index is not None and -len(self.layers) <= index < len(self.layers):
            return self.layers[index]
        for layer in self.layers:
            if name is not None and layer.name == name:
                return layer
        raise ArgumentError(
            f"Model {self.name!r} has no layer {name if name is not None else index!r}. Its layers are "
            f"{[layer.name for layer in self.layers]}."
        )

    @property
    def inputs(self) -> list[SymbolicTensor]:
        """The input symbols."""
        return list(self._graph("inputs").input_symbols)

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """The output symbols."""
        return list(self._graph("outputs").output_symbols)

    @property
    def input(self) -> Any:
        """The input symbol, or the nest of them."""
        return self._graph("input").inputs

    @property
    def output(self) -> Any:
        """The output symbol, or the nest of them."""
        return self._graph("output").outputs

    @property
    def real_steps(self) -> int | None:
        """How many real steps the last call of the graph ran on; None where nothing was masked."""
        return None if self._function is None else self._function.num_real_steps

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs."""
        return [symbol.name for symbol in self._graph("input_names").input_symbols]

    @property
    def output_names(self) -> list[str]:
        """For each output the name of the layer that gives it."""
        return [symbol.node.operation.name for symbol in self._graph("output_names").output_symbols]

    @property
    def input_shape(self) -> Any:
        """The shape of the input, or a nest of them."""
        return map_leaves(lambda symbol: symbol.shape, self.input)

    @property
    def output_shape(self) -> Any:
        """The shape of the output, or a nest of them."""
        return map_leaves(lambda symbol: symbol.shape, self.output)

    def summary(self, line_length: int | None = None, *, print_fn: Callable[[str], Any] | None = None) -> None:
        """Print the layers with shapes, parameters and where a mask goes."""
        (print_fn or print)(summary.text(self, line_length))

    # ------------------------------------------------------------------------------------------------ saving

    def get_config(self) -> dict[str, Any]:
        """The graph as JSON has it; for a subclass the arguments of its constructor."""
        if self._function is None or type(self) is not Model:
            return super().get_config()
        return {"name": self.name, "trainable": self.trainable, **graph_config.to_config(self._function)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """The model that has this config, with new weights."""
        if "input_layers" not in config:
            return cls(**config)
        with CustomObjectScope(custom_objects):
            inputs, outputs = graph_config.from_config(config)
        return cls(inputs, outputs, name=config.get("name"), trainable=config.get("trainable", True))

    def save_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Write all weights to a safetensors file."""
        archive.write(filepath, self._named_weights())

    def load_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Read all weights from a file; raises, before any has changed, if names or shapes are not this model's."""
        arrays, _ = archive.read(filepath)
        self._set_named(arrays, os.fspath(filepath))

    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Write config and weights to one safetensors file, for `padless.load_model`."""
        config = {**serialize(self, "layer"), "build_config": {"inputs": self._first_inputs}}
        archive.write(filepath, self._named_weights(), config)

    def _named_weights(self) -> dict[str, Tensor]:
        """The weights by layer and name; what several layers share is written once."""
        named: dict[str, Tensor] = {}
        seen: set[int] = set()
        for place, layer in enumerate(self._named_layers()):
            prefix = "" if layer is self else f"{getattr(layer, 'name', place)}/"
            for name, weight in layer.state_dict(keep_vars=True).items():
                if id(weight) not in seen:
                    named[prefix + name] = weight
                    seen.add(id(weight))
        return named

    def _named_layers(self) -> list[Any]:
        """The parts whose names stand before the names of their weights in a file."""
        return [self] if self._function is None else self.layers

    def _set_named(self, arrays: dict[str, Tensor], source: str) -> None:
        own = self._named_weights()
        arrays = _renamed(arrays, own)
        if set(own) != set(arrays):
            raise ArgumentError(
                f"The weights in {source!r} are not those of model {self.name!r}: missing "
                f"{sorted(set(own) - set(arrays))}, unknown {sorted(set(arrays) - set(own))}."
            )
        for name, weight in own.items():
            if weight.shape != arrays[name].shape:
                raise ShapeError(
                    f"Weight {name!r} of model {self.name!r} has shape {tuple(weight.shape)}; {source!r} has "
                    f"{tuple(arrays[name].shape)}."
                )
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(arrays[name])


def load_model(filepath: str | os.PathLike[str], custom_objects: dict[str, Any] | None = None) -> Any:
    """The model in a file that `Model.save` wrote, config and weights."""
    arrays, config = archive.read(filepath)
    if config is None:
        raise ArgumentError(f"{os.fspath(filepath)!r} holds weights without a config. Make the model and use load_weights.")
    model = deserialize(config, "layer", custom_objects=custom_objects)
    met = config.get("build_config", {}).get("inputs")
    if met and model._function is None:
        with torch.no_grad(), shape_inference_mode():
            model(*_zeros(met))
    model._set_named(arrays, os.fspath(filepath))
    return model


def _renamed(arrays: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arrays under a model's own names, if it is of the same layers and only their names were counted further."""
    there, here = _by_count(arrays), _by_count(own)
    return {here[place]: arrays[name] for place, name in there.items()} if set(there) == set(here) else arrays


def _by_count(names: Iterable[str]) -> dict[tuple[str, int, str], str]:
    """Names of weights by what counting has nothing to do with: `dense_7/bias` is that of the first, second, ... `dense`."""
    split = [name.partition("/") for name in names]
    counted = {layer: re.fullmatch(r"(.*?)(?:_(\d+))?", layer) for layer, _, _ in split}
    parts = {layer: (match[1], int(match[2] or 0)) for layer, match in counted.items() if match}
    found = {}
    for layer, slash, weight in split:
        base, number = parts[layer]
        earlier = sum(1 for other, count in parts.values() if other == base and count < number)
        found[base, earlier, slash + weight] = layer + slash + weight
    return found


def _layers_in(module: nn.Module) -> Iterator[Layer]:
    """The layers that a module holds itself, also in lists and dictionaries."""
    for child in module.children():
        if isinstance(child, Layer):
            yield child
        elif isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _layers_in(child)


def _shape_and_dtype(value: Any) -> Any:
    """What is kept of an input, so that a loaded model can make its weights."""
    return None if value is None else {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}


def _zeros(form: Any) -> Any:
    """One example of zeros in each of these forms."""
    if isinstance(form, list):
        return [_zeros(inner) for inner in form]
    if isinstance(form, dict) and set(form) == {"shape", "dtype"} and isinstance(form["dtype"], str):
        return torch.zeros((1, *form["shape"][1:]), dtype=getattr(torch, form["dtype"]))
    return {key: _zeros(inner) for key, inner in form.items()} if isinstance(form, dict) else form


def map_shapes(shapes: Any, fn: Callable[[Any], Any]) -> Any:
    """`fn` on a shape, or on each in a nest of them."""
    if isinstance(shapes, dict):
        return {key: map_shapes(shape, fn) for key, shape in shapes.items()}
    if isinstance(shapes, list | tuple) and shapes and isinstance(shapes[0], list | tuple | dict):
        return [map_shapes(shape, fn) for shape in shapes]
    return fn(shapes)


def _match_input(value: Any, source: SymbolicTensor) -> Any:
    """A value with the rank that its Input declares (an axis of size 1 is added or taken away), its sizes checked."""
    if not isinstance(value, Tensor | Packed):
        raise ArgumentError(f"Input {source.name!r} expected an array; got {type(value).__name__}.")
    if value.ndim == source.ndim + 1 and value.shape[-1] == 1:
        value = value.squeeze(-1)
    elif value.ndim == source.ndim - 1 and source.shape[-1] == 1:
        value = value.unsqueeze(-1)
    wanted = source.shape
    if isinstance(value, Packed) and value.num_step_axes == 2 and source.ndim > 1 and isinstance(wanted[1], int):
        value = value.pad_to_width(wanted[1])
    if value.ndim != source.ndim or any(
        want is not None and want != have for want, have in zip(wanted[1:], value.shape[1:], strict=True)
    ):
        raise ShapeError(f"Input {source.name!r} expected shape {wanted}; got {tuple(value.shape)}.")
    return value
