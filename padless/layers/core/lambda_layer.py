"""The layer Lambda, which calls a function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self, Unpack

import numpy as np
import torch

from padless.errors import ArgumentError
from padless.graph.saved_functions import check_function_call, torch_function_at, torch_path
from padless.graph.serialization import argument_from_json, argument_to_json
from padless.graph.symbolic import SymbolicTensor, in_shape_inference, leaves
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import attach_output_masks, call_spec_of, mask_of
from padless.ragged.call_context import call_context
from padless.ragged.packed import computing_gap_values
from padless.registry import register
from padless.saving.serialization import deserialize, serialize
from padless.types import Config, LayerOptions, MaskLike, MaskTree, Shape, ShapeTree, TensorTree

_KINDS = ("activation", "layer")  # the registries in which a file may name a function


@register("layer")
class Lambda(Layer):
    """Call a function of torch functions: Keras's `Lambda`.

    On masked inputs, functions of single steps keep the mask. Other functions raise `MaskLost` while the model is built. If
    `function` declares `mask`, or if `mask` is given here, the function may use the padded grid. Without `mask`, an output
    with the steps of the input keeps its mask.

    A config contains the name of the function. So the function must be torch's, or be registered by
    `register_keras_serializable`. The code of a Python lambda is neither written nor run.

    Args:
        function: a function of the inputs. It receives `mask` and `training` if it declares them.
        output_shape: the shape of the output without the batch, or a function of the input shapes.
        mask: the mask of the output, a boolean grid or a function of `(inputs, mask)`.
        arguments: further keyword arguments of the function.
        kwargs: name, trainable, dtype, activity_regularizer, input_shape.

    Example:
        >>> Lambda(lambda x: x**2)(torch.tensor([[3.0]])).tolist()
        [[9.0]]
        >>> from padless import pack
        >>> latest = Lambda(lambda x, mask: x.flip(1), mask=lambda x, mask: mask.flip(1))
        >>> latest(pack([[[1.0], [2.0]], [[3.0]]])).mask.tolist()
        [[True, True], [False, True]]
    """

    relation = (
        "stepwise"  # the table of torch functions refuses the others; `call` allows the grid to a function with a mask
    )
    _runs_user_code = True

    def __init__(
        self,
        function: Callable[..., TensorTree],
        output_shape: Shape | Callable[..., ShapeTree] | None = None,
        mask: MaskLike | Callable[..., MaskTree] | None = None,
        arguments: Mapping[str, object] | None = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        if not callable(function):
            raise ArgumentError(f"Lambda expected a function; got {function!r}.")
        self.function = function
        self.mask = mask
        self.arguments = dict(arguments or {})
        self._output_shape = output_shape
        parameters = _parameters_of(function)
        self._takes_mask = "mask" in parameters
        self._takes_training = "training" in parameters
        # They have their own form in a config, see `_to_json`.
        self._own_arguments = {name: self._arguments.pop(name) for name in _OWN_ARGUMENTS if name in self._arguments}
        if "arguments" in self._own_arguments:
            self._own_arguments["arguments"] = self.arguments

    def call(self, inputs: TensorTree, training: bool = False) -> TensorTree:
        """Return what the function returns."""
        arguments = dict(self.arguments)
        if self._takes_mask:
            arguments["mask"] = mask_of(inputs)
        if self._takes_training:
            arguments["training"] = training
        may_use_grid = self.mask is not None or self._takes_mask
        with call_context(self.name, may_use_grid), computing_gap_values(True):
            outputs = self.function(inputs, **arguments)
            if not may_use_grid:
                return outputs
            spec = replace(call_spec_of(type(self)), overrides_compute_mask=self.mask is not None)
            is_fixed_mask = self.mask is not None and not callable(self.mask)
            source = leaves(outputs)[0] if is_fixed_mask else inputs  # a fixed mask has the shape of the output
            return attach_output_masks(self, spec, source, mask_of(source), outputs)

    def compute_mask(self, inputs: TensorTree, mask: MaskTree = None) -> MaskTree:
        """Return the argument `mask`, or what its function returns; without it the mask of the inputs."""
        if self.mask is None:
            return mask
        if callable(self.mask):
            return self.mask(inputs, mask)
        fixed_mask = torch.as_tensor(self.mask, dtype=torch.bool)
        if in_shape_inference():
            return fixed_mask.new_ones(tuple(inputs.shape[: fixed_mask.ndim]))
        return fixed_mask.expand(inputs.shape[0], *fixed_mask.shape[1:]) if fixed_mask.shape[0] == 1 else fixed_mask

    def compute_output_shape(self, *shapes: ShapeTree) -> ShapeTree:
        """Return the argument `output_shape` with the batch; without it the shape of a call on small probes."""
        if self._output_shape is None:
            return super().compute_output_shape(*shapes)
        if callable(self._output_shape):
            return self._output_shape(*shapes)
        batch_size = shapes[0]
        while isinstance(batch_size, list | tuple):
            batch_size = batch_size[0]
        return _prepend_batch(batch_size, self._output_shape)

    def needs_gap_values(self, outputs_needed: bool) -> bool:
        """Return True: a function may unpack its inputs."""
        return True

    def get_config(self) -> Config:
        """Return the constructor arguments with the names of functions.

        Raises:
            ArgumentError: a function has no name.
        """
        arguments = {name: self._to_json(name, value) for name, value in self._own_arguments.items() if value is not None}
        _check_torch_functions({**self._own_arguments, "function": self.function, "arguments": self.arguments})
        return {**super().get_config(), **arguments}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Create the layer that has this config.

        Raises:
            ArgumentError: a name is unknown, or a function of torch is not given arguments that a file may have.
        """
        arguments = {name: _from_json(value) if name in _OWN_ARGUMENTS else value for name, value in config.items()}
        _check_torch_functions(arguments)
        return cls(**arguments)

    def _to_json(self, argument: str, value: Any) -> Any:
        """Return a constructor argument as JSON has it; `argument` is its name, for messages."""
        if isinstance(value, Mapping):
            return {key: self._to_json(f"argument {key!r}", inner) for key, inner in value.items()}
        if not callable(value):
            return argument_to_json(torch.as_tensor(value) if isinstance(value, np.ndarray) else value)
        for find_name in (lambda function: serialize(function, _KINDS), torch_path):
            try:
                return find_name(value)
            except (ArgumentError, AttributeError):
                continue
        raise ArgumentError(
            f"Lambda {self.name!r} cannot be saved: its {argument} {value!r} is code, and a file holds only "
            f"names. Give a named function to @padless.saving.register_keras_serializable(), or write "
            f"a Layer with a `call`; torch's own functions have names already."
        )


_OWN_ARGUMENTS = ("function", "output_shape", "mask", "arguments")


def _from_json(value: Any) -> Any:
    """Return the value that `_to_json` or Keras wrote."""
    if isinstance(value, str):
        return torch_function_at(value) if value.startswith("torch.") else deserialize(value, _KINDS)
    if not isinstance(value, Mapping):
        return argument_from_json(value)
    name = value.get("class_name")
    if name is None:
        return {key: inner if isinstance(inner, str) else _from_json(inner) for key, inner in value.items()}
    if name == "__lambda__":
        raise ArgumentError(
            "This config holds the bytecode of a Python lambda, which padless never runs. Write it as a "
            "function, register it with @padless.saving.register_keras_serializable(), and put its "
            "name under 'function'."
        )
    return argument_from_json(value) if name.startswith("__") else deserialize(value, _KINDS)


def _check_torch_functions(arguments: Mapping[str, Any]) -> None:
    """Check the calls of torch functions that the arguments of a saved Lambda mean, as those of a graph are checked."""
    symbol, options = SymbolicTensor((None,), torch.float32), arguments.get("arguments") or {}
    if not isinstance(options, Mapping):
        raise ArgumentError(f"The `arguments` of a saved Lambda must be a dictionary; got {options!r:.200}.")
    check_function_call(arguments.get("function"), (symbol,), dict(options))
    check_function_call(arguments.get("mask"), (symbol, symbol), {})
    check_function_call(arguments.get("output_shape"), ((None,),), {})


def _parameters_of(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function, none for a built-in function of torch, which has no signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _prepend_batch(batch_size: int | None, shape: ShapeTree) -> ShapeTree:
    """Return a shape, or each of a nest of shapes, with the batch as the first axis."""
    if isinstance(shape, Mapping):
        return {key: _prepend_batch(batch_size, inner) for key, inner in shape.items()}
    if any(isinstance(size, list | tuple | Mapping) for size in shape):
        return [_prepend_batch(batch_size, inner) for inner in shape]
    return (batch_size, *shape)
