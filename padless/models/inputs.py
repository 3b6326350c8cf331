"""Match the data that a model receives with the inputs that the model has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.graph.function import Function
from padless.graph.saved_functions import check_elements
from padless.graph.symbolic import SymbolicTensor
from padless.layers.base.weights import as_dtype
from padless.ragged.packed import Packed
from padless.types import Config, Shape, ShapeTree, StepTensor, TensorTree

T = TypeVar("T")


def input_names_of(function: Function) -> list[str]:
    """Return the names of the inputs of a graph: the keys of a dictionary, else the names of the symbolic tensors."""
    if isinstance(function.inputs, dict):
        return list(function.inputs)
    return [symbol.name for symbol in function.input_symbols]


def inputs_in_order(function: Function, inputs: TensorTree, model_name: str) -> list[TensorTree]:
    """Return one value for each input of a graph, in the order of the inputs.

    Args:
        function: the graph.
        inputs: a dictionary by the names of the inputs, a list or tuple in their order, or the only value.
        model_name: the name of the model, for messages.

    Raises:
        ArgumentError: the names or the number of values are not those of the graph.
    """
    names = input_names_of(function)
    if isinstance(inputs, dict):
        missing = sorted(set(names) - set(inputs))
        if missing:
            raise ArgumentError(f"Model {model_name!r} has inputs {names}; got {sorted(inputs)}, without {missing}.")
        return [inputs[name] for name in names]
    values = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    if len(values) != len(names):
        raise ArgumentError(f"Model {model_name!r} has {len(names)} inputs {names}; got {len(values)}.")
    return values


def match_input(value: TensorTree, symbol: SymbolicTensor) -> StepTensor:
    """Return data with the number of axes that their Input declares: a last axis of size 1 is added or removed.

    Raises:
        ArgumentError: the value is not a tensor.
        ShapeError: the shape is not the declared one.
    """
    if not isinstance(value, Tensor | Packed):
        raise ArgumentError(f"Input {symbol.name!r} expected an array; got {type(value).__name__}.")
    if value.ndim == symbol.ndim + 1 and value.shape[-1] == 1:
        value = value.squeeze(-1)
    elif value.ndim == symbol.ndim - 1 and symbol.shape[-1] == 1:
        value = value.unsqueeze(-1)
    expected = symbol.shape
    if isinstance(value, Packed) and value.num_step_axes == 2 and symbol.ndim > 1 and isinstance(expected[1], int):
        value = value.pad_to_width(expected[1])
    fits = value.ndim == symbol.ndim and all(
        size is None or size == actual for size, actual in zip(expected[1:], value.shape[1:], strict=True)
    )
    if not fits:
        raise ShapeError(f"Input {symbol.name!r} expected shape {expected}; got {tuple(value.shape)}.")
    return value


def describe_input(value: StepTensor | None) -> Config | None:
    """Return the shape and the dtype of an input, which a saved model keeps so that a loaded one can build its weights."""
    return None if value is None else {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}


def zeros_like_described(description: Any, device: torch.device | None = None) -> TensorTree:
    """Return one example of zeros for each result of `describe_input` in a nest."""
    if isinstance(description, list):
        return [zeros_like_described(inner, device) for inner in description]
    if not isinstance(description, dict):
        return description
    if _is_described_input(description):
        return torch.zeros(_shape_of_described(description), dtype=as_dtype(description["dtype"]), device=device)
    return {key: zeros_like_described(inner, device) for key, inner in description.items()}


def described_shapes(description: Any) -> list[tuple[int, ...]]:
    """Return the shape of each tensor that `zeros_like_described` returns."""
    if isinstance(description, list):
        return [shape for inner in description for shape in described_shapes(inner)]
    if not isinstance(description, dict):
        return []
    if _is_described_input(description):
        return [_shape_of_described(description)]
    return [shape for inner in description.values() for shape in described_shapes(inner)]


def _is_described_input(description: Config) -> bool:
    return set(description) == {"shape", "dtype"} and isinstance(description["dtype"], str)


def _shape_of_described(description: Config) -> tuple[int, ...]:
    """Return the shape of one example; raise `ArgumentError` if it is not one."""
    shape = description["shape"]
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ArgumentError(f"The shape of an input in a saved model must be a list of sizes; got {shape!r:.200}.")
    check_elements(tuple(shape[1:]), "An input of the saved model")
    return (1, *shape[1:])


def match_symbol(value: TensorTree, symbol: SymbolicTensor) -> SymbolicTensor:
    """Return a symbolic tensor with the number of axes that its Input declares, as `match_input` does for data.

    Raises:
        ArgumentError: the value is not symbolic.
        ShapeError: the shape is not the declared one.
    """
    if not isinstance(value, SymbolicTensor):
        raise ArgumentError(f"Input {symbol.name!r} expected a symbolic tensor; got {type(value).__name__}.")
    shape = value.shape
    if len(shape) == symbol.ndim + 1 and shape[-1] == 1:
        shape = shape[:-1]
    elif len(shape) == symbol.ndim - 1 and symbol.shape[-1] == 1:
        shape = (*shape, 1)
    fits = len(shape) == symbol.ndim and all(
        size is None or size == actual for size, actual in zip(symbol.shape[1:], shape[1:], strict=True)
    )
    if not fits:
        raise ShapeError(f"Input {symbol.name!r} expected shape {symbol.shape}; got {value.shape}.")
    return SymbolicTensor(shape, value.dtype, "", value.num_step_axes, value.mask_source)


def shapes_in(shapes: ShapeTree) -> list[Shape]:
    """Return the shapes of a nest in a list."""
    shape_list: list[Shape] = []
    map_shapes(shape_list.append, shapes)
    return shape_list


def map_shapes(fn: Callable[[Shape], T], shapes: ShapeTree) -> T | list[Any] | dict[str, Any]:
    """Apply `fn` to a shape, or to each shape of a nest of lists, tuples and dictionaries."""
    if isinstance(shapes, Mapping):
        return {key: map_shapes(fn, shape) for key, shape in shapes.items()}
    if isinstance(shapes, list | tuple) and shapes and isinstance(shapes[0], list | tuple | Mapping):
        return [map_shapes(fn, shape) for shape in shapes]
    return fn(shapes)
