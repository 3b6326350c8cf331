"""Find out which masks a model creates and which mask each output has, before data run through the model.

For a graph the answer follows from its nodes. A user-defined `call` is observed once, on the first example, in a
call that changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from padless.graph.function import Function
from padless.graph.node import Node, TorchFunction
from padless.graph.symbolic import SymbolicTensor, is_symbolic, leaves, shape_inference_mode
from padless.layers.base.layer import Layer
from padless.layers.base.mask_creation import MaskCreatingLayer, observing_mask_creation
from padless.models.inputs import inputs_in_order
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.trainers.data_checks import MaskOrigin, ModelMaskInfo, OutputInfo
from padless.types import Arguments, StepTensor, TensorTree


def mask_info_of_graph(function: Function, num_step_axes: Sequence[int]) -> ModelMaskInfo:
    """Return the mask origins and the outputs of a graph.

    Args:
        function: the graph.
        num_step_axes: for each input the number of axes that the mask of the data covers, 0 if there is no mask.

    Raises:
        MaskLost: a layer of the graph would lose a mask of the data.
    """
    symbols = function.infer_with_input_masks(num_step_axes)
    origins = [
        _origin_in_data(position, function.mask_source_of_input(position))
        for position, count in enumerate(num_step_axes)
        if count
    ]
    input_positions = {id(symbol): position for position, symbol in enumerate(function.input_symbols)}
    origin_numbers = {id(function.input_symbols[origin.input_position]): number for number, origin in enumerate(origins)}
    for node in function.nodes:
        new_origins = _origins_in_node(node, input_positions)
        new_numbers = {
            origin.mask_source: number for number, origin in enumerate(new_origins, len(origins)) if origin.creates_mask
        }
        origins += new_origins
        for symbol in filter(is_symbolic, leaves(node.outputs)):
            number = _origin_of_output(node, symbol, symbols, origin_numbers, new_numbers)
            if number is not None:
                origin_numbers[id(symbol)] = number
    return ModelMaskInfo(
        origins,
        [
            OutputInfo(symbols[id(symbol)].shape, symbols[id(symbol)].num_step_axes, origin_numbers.get(id(symbol)))
            for symbol in function.output_symbols
        ],
    )


def _origin_of_output(
    node: Node,
    output: SymbolicTensor,
    symbols: Mapping[int, SymbolicTensor],
    origin_numbers: Mapping[int, int],
    new_numbers: Mapping[str, int],
) -> int | None:
    """Return the number of the origin of the mask on an output of a call.

    Args:
        node: the call.
        output: one of its outputs.
        symbols: each symbol of the graph, by identity, with the masks of the data.
        origin_numbers: the origins of the symbols so far, by identity.
        new_numbers: the origins inside this call, by the mask source.

    Returns:
        The number, or None if there is no mask, or if no single origin is certain.
    """
    symbol = symbols[id(output)]
    if len(new_numbers) == 1 and symbol.masked:
        source, number = next(iter(new_numbers.items()))
        if symbol.mask_source == source or isinstance(node.operation, MaskCreatingLayer):
            return number
    masked_inputs = [x for x in node.inputs() if symbols[id(x)].masked]
    passes_mask = any(
        symbols[id(x)].mask_source == symbol.mask_source and symbols[id(x)].num_step_axes == symbol.num_step_axes
        for x in masked_inputs
    )
    if not symbol.masked or not passes_mask:
        return None
    candidates = [origin_numbers.get(id(x)) for x in masked_inputs]
    if isinstance(node.operation, TorchFunction):  # all its operands have equal masks
        return candidates[0]
    return candidates[0] if len(set(candidates)) == 1 else None


def _origins_in_node(node: Node, input_positions: Mapping[int, int]) -> list[MaskOrigin]:
    """Return the origins of masks that a call creates directly from inputs of the graph.

    If the call is that of a model, its nodes are searched, too.

    Args:
        node: the call.
        input_positions: the positions of the inputs of the graph, by the identity of their symbols.
    """
    if node.kwargs or not any(id(symbol) in input_positions for symbol in node.inputs()):
        return []
    operation = node.operation
    if isinstance(operation, MaskCreatingLayer):
        return [_origin_in_layer(operation, input_positions[id(symbol)]) for symbol in node.inputs()]
    function = operation._function if isinstance(operation, Layer) else None
    if function is None:
        return []
    values = inputs_in_order(function, node.args[0], operation.name)
    inner_positions = {
        id(inner): input_positions[id(value)]
        for inner, value in zip(function.input_symbols, values, strict=True)
        if isinstance(value, SymbolicTensor) and id(value) in input_positions and value.ndim == inner.ndim
    }
    return [origin for inner_node in function.nodes for origin in _origins_in_node(inner_node, inner_positions)]


def mask_info_of_call(module: nn.Module, inputs: TensorTree) -> ModelMaskInfo:
    """Return the mask origins and the outputs of a model with a user-defined `call`, from a call on `inputs`."""
    values = leaves(inputs)
    positions = {id(value): position for position, value in enumerate(values)}
    origins: list[tuple[MaskOrigin, Index | None]] = [
        (_origin_in_data(position, value.index.mask_source), value.index)
        for position, value in enumerate(values)
        if isinstance(value, Packed)
    ]

    def add_origin(layer: MaskCreatingLayer, args: Sequence[object], kwargs: Arguments, output: object) -> None:
        if len(args) == 1 and not kwargs and id(args[0]) in positions:
            index = output.index if isinstance(output, Packed) else None
            origins.append((_origin_in_layer(layer, positions[id(args[0])]), index))

    with torch.no_grad(), shape_inference_mode(), observing_mask_creation(add_origin):
        outputs = module(inputs)
    return ModelMaskInfo([origin for origin, _ in origins], [_output_info(output, origins) for output in leaves(outputs)])


def _output_info(output: object, origins: Sequence[tuple[MaskOrigin, Index | None]]) -> OutputInfo:
    """Return the shape and the mask origin of an observed output."""
    if not isinstance(output, Tensor | Packed):
        return OutputInfo(())
    shape = (None, *output.shape[1:])
    if isinstance(output, Tensor):
        return OutputInfo(shape)
    numbers = [number for number, (_, index) in enumerate(origins) if index is output.index]
    # The masks of two inputs may be equal by chance. A merge of both then looks like one of them.
    inputs = {origin.input_position for origin, index in origins if index is not None and index.equals(output.index)}
    return OutputInfo(shape, output.num_step_axes, numbers[0] if numbers and len(inputs) == 1 else None)


def _origin_in_layer(layer: MaskCreatingLayer, position: int) -> MaskOrigin:
    """Return the mask that a layer creates from the input at this position."""
    return MaskOrigin(position, f"{type(layer).__name__} {layer.name!r}", layer.real_steps, layer.creates_mask)


def _origin_in_data(position: int, mask_source: str) -> MaskOrigin:
    """Return the mask that comes with the data of the input at this position."""
    return MaskOrigin(position, mask_source, _index_of_packed)


def _index_of_packed(value: StepTensor) -> Index | None:
    return value.index if isinstance(value, Packed) else None
