"""Model: a graph of layers or a user-defined `call`, with compile, fit, evaluate, predict and save."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

from padless.data.batch import Batch
from padless.data.data_spec import UNKNOWN_SPEC, DataSpec
from padless.errors import ArgumentError, NotBuilt, NotLoaded, PadlessError
from padless.graph import serialization as graph_config
from padless.graph.deferred_weights import deferring_weights, place_array
from padless.graph.function import Function
from padless.graph.model_runs import check_no_other_thread_trains, training_runs
from padless.graph.node import auto_name
from padless.graph.shape_inference import call_without_values
from padless.graph.symbolic import SymbolicTensor, in_shape_inference, leaves, map_leaves, shape_inference_mode
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import CallSpec, call_spec_of
from padless.layers.core.input_layer import InputLayer, is_input
from padless.models import summary
from padless.models.compile_layers import compiled_layers
from padless.models.inputs import (
    describe_input,
    described_shapes,
    input_names_of,
    inputs_in_order,
    map_shapes,
    match_input,
    match_symbol,
    shapes_in,
    zeros_like_described,
)
from padless.models.loading import check_weights, loading, match_layer_numbers
from padless.models.mask_plan import mask_info_of_call, mask_info_of_graph
from padless.ragged.packed import Packed, gap_values_needed
from padless.registry import register
from padless.saving import safetensors_io
from padless.saving.serialization import CustomObjectScope, JsonValue, deserialize, serialize
from padless.trainers.data_checks import ModelMaskInfo
from padless.trainers.epoch_loop import device_of
from padless.trainers.trainer import Trainer
from padless.types import Arguments, Config, DTypeLike, MaskTree, RegularizerLike, Shape, ShapeTree, StepTensor, TensorTree


class ModelOptions(TypedDict, total=False):
    """Further keyword arguments of a model."""

    trainable: bool
    dtype: DTypeLike | None
    activity_regularizer: RegularizerLike


@register("layer", "Functional")
class Model(Trainer, Layer):
    """Layers with inputs and outputs: Keras's `Model`.

    A model is made from symbolic tensors, `Model(inputs, outputs)`, or it is a subclass that defines `call`. A padded
    batch is packed by the layer that creates the mask. It stays packed until a layer or the user reads the grid.

    Args:
        inputs: a symbolic tensor from `Input`, or a list, tuple or dictionary of them.
        outputs: a symbolic tensor, or a list, tuple or dictionary of them.
        name: the name of the model.
        kwargs: trainable, dtype, activity_regularizer.

    Example:
        >>> from padless.layers import LSTM, Dense, Embedding, Input
        >>> x = Input((None,))
        >>> model = Model(x, Dense(2)(LSTM(4)(Embedding(9, 3, mask_zero=True)(x))))
        >>> model.predict([[1, 2, 3], [4]], verbose=0).shape
        (2, 2)
    """

    relation = "graph"

    def __init__(
        self, inputs: TensorTree = None, outputs: TensorTree = None, name: str | None = None, **kwargs: Unpack[ModelOptions]
    ) -> None:
        has_graph = inputs is not None or outputs is not None
        if name is None and has_graph and type(self) is Model:
            name = auto_name("functional")
        super().__init__(name=name, **kwargs)
        self._replace_unbuilt_parameters()  # the weights belong to the layers, which report themselves if unbuilt
        self._function = None
        self._mask_infos: dict[tuple[int, ...], ModelMaskInfo] = {}  # by the number of masked axes of each input
        self._compiled_calls: dict[int, Callable[..., TensorTree]] = {}  # of the layers, by identity, for jit_compile=True
        self._first_inputs: list[Any] = []  # describe the first data that a user-defined `call` received
        self._num_trained_inputs: int | None = None  # in the last call with targets
        if has_graph:
            self._set_graph(inputs, outputs)

    def _set_graph(self, inputs: TensorTree, outputs: TensorTree) -> None:
        """Make this the model of the graph between these symbolic tensors."""
        function = Function(inputs, outputs)
        for symbol in function.input_symbols:
            if not is_input(symbol):
                raise ArgumentError(
                    f"A model begins at symbols made by Input(...); got {symbol!r}, which layer "
                    f"{symbol.node.operation.name!r} gave."
                )
        counts = Counter(operation.name for operation in function.operations)
        duplicates = sorted(name for name, count in counts.items() if count > 1)
        if duplicates:
            raise ArgumentError(f"Layers of a model need different names; {duplicates} occur more than once.")
        if any(isinstance(leaf, nn.Parameter) for node in function.nodes for leaf in leaves((node.args, node.kwargs))):
            raise ArgumentError(
                "A layer was called on a symbol and a parameter, which the model would neither train nor save. "
                "Call the module or layer that holds the parameter."
            )
        self._function = function
        self._stack = nn.ModuleList(
            operation
            for operation in function.operations
            if isinstance(operation, nn.Module) and not isinstance(operation, InputLayer)
        )
        self.built = True

    # ------------------------------------------------------------------------------------------------ calling

    if TYPE_CHECKING:  # the outputs may be a nest

        def __call__(self, *args: object, **kwargs: object) -> TensorTree: ...

    def call(self, inputs: TensorTree, training: bool | None = None, mask: MaskTree = None) -> TensorTree:
        """Compute the outputs. A subclass without a graph overrides this method.

        Args:
            inputs: one value, a list or tuple in the order of the inputs, or a dictionary by their names.
            training: the training mode, which is passed on to the layers.
            mask: an explicit mask of the first input.
        """
        function = self._graph("call")
        values = self.arrange_inputs(inputs)
        if not in_shape_inference():
            self._mask_info_for(values)
        return function(values, gap_values_needed())

    def _mask_info_for(self, values: Sequence[object]) -> ModelMaskInfo:
        """Return the masks of the graph for such inputs. They are found once, which checks masks that come with the data."""
        num_step_axes = tuple(value.num_step_axes if isinstance(value, Packed) else 0 for value in values)
        mask_infos = self._mask_infos  # of the graph that the model has now
        mask_info = mask_infos.get(num_step_axes)
        if mask_info is None:
            mask_info = mask_infos.setdefault(num_step_axes, mask_info_of_graph(self._graph("call"), num_step_axes))
        return mask_info

    def _graph(self, attribute: str) -> Function:
        """Return the graph, which `attribute` needs."""
        if self._function is None:
            raise NotBuilt(
                f"Model {self.name!r} has no graph, so `{attribute}` means nothing for it. Give it inputs and "
                f"outputs, or define `call` in a subclass."
            )
        return self._function

    def arrange_inputs(self, inputs: TensorTree) -> list[StepTensor]:
        """Return one value for each input of the graph, with the declared number of axes; without a graph the leaves."""
        if self._function is None:
            return leaves(inputs)
        values = inputs_in_order(self._function, inputs, self.name)
        return [match_input(value, symbol) for value, symbol in zip(values, self._function.input_symbols, strict=True)]

    # ------------------------------------------------------------------------------------------------ for the trainer

    def _mask_info(self, batch: Batch, trains: bool) -> ModelMaskInfo:
        if self._function is not None:
            return self._mask_info_for(self.arrange_inputs(batch.x))
        return mask_info_of_call(self, batch.to(device_of(self)).x) if trains else ModelMaskInfo()

    def _output_names_if_known(self) -> list[str] | None:
        """Return a different name for each output of the graph, as losses and metrics need it."""
        if self._function is None:
            return None
        outputs = self._function.outputs
        names = list(outputs) if isinstance(outputs, dict) else self.output_names
        unique_names = []
        for position, name in enumerate(names):
            previous = names[:position].count(name)
            unique_names.append(f"{name}_{previous}" if previous else name)
        return unique_names

    @property
    def _has_call(self) -> bool:
        if self._function is not None or type(self).call is not Model.call:
            return True
        return not self._overridden("train_step", "test_step")

    def _compiled_layers(self) -> AbstractContextManager[None]:
        return compiled_layers(self, self._compiled_calls) if self.jit_compile else nullcontext()

    def _data_spec(self) -> DataSpec:
        """Return the inputs and outputs that the graph has. Those of a user-defined `call` depend on the data."""
        function = self._function
        if function is None:
            return UNKNOWN_SPEC
        input_names = input_names_of(function)
        output_names = self._output_names_if_known() or []
        takes_sequences = [symbol.ndim > 1 and symbol.shape[1] is None for symbol in function.input_symbols]
        have_steps = [symbol.masked for symbol in function.output_symbols]
        return DataSpec(len(input_names), input_names, len(output_names), output_names, takes_sequences, have_steps)

    def _complete_data_spec(self, x: object, y: object) -> DataSpec:
        """Return the spec of the model. What it does not say follows from the containers of inputs and targets."""
        losses = self._compiled.loss if self.compiled else None
        num_losses = len(losses) if isinstance(losses, list | tuple) else 1
        spec = self._data_spec().complete(x, y, self._num_trained_inputs, num_losses)
        if y is not None:
            self._num_trained_inputs = spec.num_inputs
        return spec

    def _output_containers(self, batch: Batch, outputs: Sequence[Any]) -> list[Any]:
        """Return for each output the kind of container in which its input came, for the container of predictions."""
        kinds, function = batch.kinds, self._function
        mixed = "grid" if "grid" in kinds else kinds[0]
        if function is None:
            kind_of_index = {
                id(x.index): kind for x, kind in zip(leaves(batch.x), kinds, strict=True) if isinstance(x, Packed)
            }
            return [kind_of_index.get(id(x.index), mixed) if isinstance(x, Packed) else "dense" for x in outputs]
        mask_info = self._mask_info_for(self.arrange_inputs(batch.x))
        output_kinds = []
        for symbol, output in zip(function.output_symbols, mask_info.outputs, strict=True):
            if output.origin is None:
                candidates = [kinds[position] for position in function.input_positions_for(symbol)]
            else:
                candidates = [kinds[mask_info.origins[output.origin].input_position]]
            output_kinds.append(candidates[0] if len(set(candidates)) == 1 else mixed)
        return output_kinds

    # ------------------------------------------------------------------------------------------------ as a layer

    def _infer_outputs(self, args: Sequence[object], kwargs: Arguments) -> TensorTree:
        """Return the symbolic outputs for symbolic arguments. Those of a graph are inferred call by call."""
        function = self._function
        if function is None or not call_spec_of(type(self)).is_built_in or len(args) != 1 or set(kwargs) - {"training"}:
            return super()._infer_outputs(args, kwargs)
        values = inputs_in_order(function, args[0], self.name)
        return function.infer(
            [match_symbol(value, symbol) for value, symbol in zip(values, function.input_symbols, strict=True)]
        )

    def _input_dtype(self) -> None:
        """Leave inputs as they are: the layers inside cast them."""

    def needs_gap_values(self, outputs_needed: bool) -> bool:
        """Return True: a layer inside may read them."""
        return True

    def build(self, input_shape: ShapeTree = None) -> None:
        """Create the weights of a model with a user-defined `call`, by a call on zeros.

        Args:
            input_shape: the shape of the inputs with the batch, or a list or dictionary of shapes.
        """
        if not self.built and input_shape is not None:
            num_elements = sum(math.prod(_with_sizes(shape)) for shape in shapes_in(input_shape))
            with torch.no_grad(), shape_inference_mode():
                call_without_values(
                    lambda device: self(
                        map_shapes(lambda shape: torch.zeros(_with_sizes(shape), device=device), input_shape)
                    ),
                    num_elements,
                    self,
                )
        self.built = True

    def _build_as_described(self, first_inputs: list[Any]) -> None:
        """Create the weights of a model with a user-defined `call` by a call on data that `describe_input` described."""
        num_elements = sum(math.prod(shape) for shape in described_shapes(first_inputs))
        with torch.no_grad(), shape_inference_mode():
            call_without_values(lambda device: self(*zeros_like_described(first_inputs, device)), num_elements, self)

    def _ensure_built(self, spec: CallSpec, data: Mapping[str, TensorTree]) -> None:
        """Run a user-defined `build`. The call itself creates the weights of the layers inside."""
        if type(self).build is not Model.build:
            super()._ensure_built(spec, data)
        if self._function is None and not self._first_inputs:
            self._first_inputs = [map_leaves(describe_input, value) for value in data.values()]
        self.built = True

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_compiled_calls": {}}

    # ------------------------------------------------------------------------------------------------ layers and names

    @property
    def layers(self) -> list[Layer]:
        """The layers with the InputLayers, in Keras's order; without a graph in the order of the attributes."""
        if self._function is None:
            return list(_direct_layers(self))
        return [operation for operation in self._function.operations if isinstance(operation, Layer)]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return a layer by its name or its position in `layers`.

        Raises:
            ArgumentError: there is no such layer.
        """
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
        """The symbolic inputs, as a list."""
        return list(self._graph("inputs").input_symbols)

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """The symbolic outputs, as a list."""
        return list(self._graph("outputs").output_symbols)

    @property
    def input(self) -> TensorTree:
        """The symbolic input, or the nest of inputs."""
        return self._graph("input").inputs

    @property
    def output(self) -> TensorTree:
        """The symbolic output, or the nest of outputs."""
        return self._graph("output").outputs

    @property
    def real_steps(self) -> int | None:
        """The number of real steps in the last call of the graph in this thread; None if nothing was masked."""
        return None if self._function is None else self._function.num_real_steps

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs."""
        return [symbol.name for symbol in self._graph("input_names").input_symbols]

    @property
    def output_names(self) -> list[str]:
        """For each output the name of its layer."""
        return [symbol.node.operation.name for symbol in self._graph("output_names").output_symbols]

    @property
    def input_shape(self) -> ShapeTree:
        """The shape of the input, or a nest of shapes."""
        return map_leaves(lambda symbol: symbol.shape, self.input)

    @property
    def output_shape(self) -> ShapeTree:
        """The shape of the output, or a nest of shapes."""
        return map_leaves(lambda symbol: symbol.shape, self.output)

    def summary(self, line_length: int | None = None, *, print_fn: Callable[[str], object] | None = None) -> None:
        """Print a table of the layers with output shapes, numbers of parameters and masks.

        Args:
            line_length: the width of the table in characters, by default 100.
            print_fn: the function that prints the text, by default `print`.
        """
        (print_fn or print)(summary.text(self, line_length))

    # ------------------------------------------------------------------------------------------------ saving

    def get_config(self) -> Config:
        """Return the graph as JSON values; for a subclass its constructor arguments."""
        if self._function is None or type(self) is not Model:
            return super().get_config()
        return {"name": self.name, "trainable": self.trainable, **graph_config.to_config(self._function)}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Mapping[str, object] | None = None) -> Self:
        """Create the model that has this config, with new weights."""
        if "input_layers" not in config:
            if cls is Model:
                raise ArgumentError("A config of a Model has no graph. Expected 'layers', 'input_layers', 'output_layers'.")
            return cls(**config)
        with CustomObjectScope(custom_objects):
            inputs, outputs = graph_config.from_config(config)
        return cls(inputs, outputs, name=config.get("name"), trainable=config.get("trainable", True))

    def save_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Write all weights to a safetensors file."""
        safetensors_io.write(filepath, self._named_weights())

    def load_weights(self, filepath: str | os.PathLike[str], foreign: bool = False) -> None:
        """Read all weights from a file.

        Arrays of another floating dtype are converted to that of the weight, as by torch. All other dtypes must be equal.

        Args:
            filepath: the file.
            foreign: whether the safetensors file may be of another program, without the checksum of padless.

        Raises:
            NotLoaded: the file is damaged, or its names, shapes or dtypes are not those of this model. Then no weight has
                changed.
        """
        weights = self._named_weights()
        arrays, _ = safetensors_io.read(filepath, foreign)
        self._set_named_weights(arrays, os.fspath(filepath), weights)

    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Write config and weights to one safetensors file, for `padless.load_model`."""
        config = {**serialize(self, "layer"), "build_config": {"inputs": self._first_inputs}}
        safetensors_io.write(filepath, self._named_weights(), config)

    def _named_weights(self) -> dict[str, Tensor]:
        """Return the weights by the names of layer and weight. A shared weight is listed once."""
        if training_runs:
            check_no_other_thread_trains(self, "Reading or writing the weights")
        weights: dict[str, Tensor] = {}
        written_ids: set[int] = set()
        for position, layer in enumerate(self._layers_in_file()):
            prefix = f"{layer.name if isinstance(layer, Layer) else position}/"
            for name, weight in layer.state_dict(keep_vars=True).items():
                if id(weight) not in written_ids:
                    weights[name if layer is self else prefix + name] = weight
                    written_ids.add(id(weight))
        return weights

    def _layers_in_file(self) -> Sequence[nn.Module]:
        """Return the layers whose names are prefixes of the names of weights in a file."""
        return [self] if self._function is None else self.layers

    def _set_named_weights(
        self, arrays: Mapping[str, Tensor], source: str, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Set all weights from arrays by name, after all of them have been checked.

        Args:
            arrays: the arrays, by name.
            source: the file, for messages.
            weights: the weights by name, if the caller has them already.
        """
        weights = self._named_weights() if weights is None else weights
        arrays = match_layer_numbers(arrays, weights)
        check_weights(weights, arrays, source, self.name)
        with torch.no_grad():
            for name, weight in weights.items():
                place_array(weight, arrays[name])

    def _check_all_placed(self, source: str) -> None:
        """Check that no tensor of the model has been left without memory; `source` is the file, for messages."""
        for name, module in self.named_modules():
            for attribute, value in {**module.__dict__, **module._parameters, **module._buffers}.items():
                if isinstance(value, Tensor) and value.is_meta:
                    raise ArgumentError(
                        f"{attribute!r} of {name or self.name!r} is a tensor of shape {tuple(value.shape)}, for which "
                        f"{source!r} has no array. Create a large tensor of a layer by add_weight, or register it as a "
                        f"buffer that is saved."
                    )


def load_model(filepath: str | os.PathLike[str], custom_objects: Mapping[str, object] | None = None) -> Model:
    """Load a model that `Model.save` wrote, with its weights.

    A file can build layers and set arrays, and nothing else. docs/security.md has the list.

    Args:
        filepath: the file.
        custom_objects: user-defined classes and functions by the names in the config. Their code runs.

    Returns:
        The model, not compiled.

    Raises:
        NotLoaded: the file is damaged or forged, has no config, or its weights are not those of the model.
    """
    source = os.fspath(filepath)
    arrays, config = safetensors_io.read(filepath)
    if config is None:
        raise NotLoaded(f"{source!r} holds weights without a config. Make the model and use load_weights.")
    with loading(source):
        with deferring_weights(sum(array.numel() for array in arrays.values())):
            model = _create_model(config, custom_objects)
        model._set_named_weights(arrays, source)
        model._check_all_placed(source)
    return model


def _create_model(config: JsonValue, custom_objects: Mapping[str, object] | None) -> Model:
    """Return the model of the config of a file, with new weights."""
    if not isinstance(config, dict):
        raise ArgumentError(f"The config of a file must be a dictionary; got {config!r:.200}.")
    model = deserialize(config, "layer", custom_objects=custom_objects)
    if not isinstance(model, Model):
        raise ArgumentError(f"The file has a {config.get('class_name')!r:.100}, which is not a model.")
    build_config = config.get("build_config", {})
    first_inputs = build_config.get("inputs") if isinstance(build_config, dict) else None
    if first_inputs and model._function is None:
        if not isinstance(first_inputs, list):
            raise ArgumentError(f"The first inputs in the config of a file must be a list; got {first_inputs!r:.200}.")
        try:
            model._build_as_described(first_inputs)
        except PadlessError:
            raise
        except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError) as error:  # a layer refuses the inputs
            raise ArgumentError(
                f"Model {model.name!r} cannot be built for inputs like {first_inputs!r:.200}: {error}."
            ) from error
    return model


def _with_sizes(shape: Shape) -> tuple[int, ...]:
    """Return a shape with 1 for each open size."""
    return tuple(size or 1 for size in shape)


def _direct_layers(module: nn.Module) -> Iterator[Layer]:
    """Yield the layers that a module holds itself, in lists and dictionaries too."""
    for child in module.children():
        if isinstance(child, Layer):
            yield child
        elif isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _direct_layers(child)
