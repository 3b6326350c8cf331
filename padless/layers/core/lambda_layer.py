"""A function as a layer: Lambda."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch

from padless.errors import ArgumentError
from padless.graph.node import torch_function_at, torch_path
from padless.graph.serialization import argument_from_json, argument_to_json
from padless.graph.symbolic import in_shape_inference, leaves
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import attach_output_masks, call_spec_of, mask_of
from padless.ragged.broadcast import call_context
from padless.ragged.packed import computing_gap_values
from padless.registry import register
from padless.saving.serialization import deserialize, serialize

_KINDS = ("activation", "layer")  # whose names a function may go by in a file


@register("layer")
class Lambda(Layer):
    """A function of torch functions as a layer; `arguments` are its further keyword arguments.

    Keras's `Lambda`. On masked inputs functions of single steps keep the mask, and others raise `MaskLost` while the
    model is built. A function with an argument `mask`, or a `mask` given here, may look at the padded grid: `mask` is that
    of the output, a function of `(inputs, mask)` or a boolean grid; without it an output that still has the input's
    steps keeps them. `training` is passed to a function that takes it.

    A config names the function, so it must be torch's own, or registered by `register_keras_serializable`; the code of a
    Python lambda is never written nor run.

    >>> Lambda(lambda x: x**2)(torch.tensor([[3.0]])).tolist()
    [[9.0]]
    >>> from padless import pack
    >>> latest = Lambda(lambda x, mask: x.flip(1), mask=lambda x, mask: mask.flip(1))
    >>> latest(pack([[[1.0], [2.0]], [[3.0]]])).mask.tolist()
    [[True, True], [False, True]]
    """

    relation = "stepwise"  # as far as the table of torch functions lets through; `call` opens the grid where it may

    def __init__(
        self,
        function: Callable[..., Any],
        output_shape: Any = None,
        mask: Any = None,
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not callable(function):
            raise ArgumentError(f"Lambda expected a function; got {function!r}.")
        self.function = function
        self.mask = mask
        self.arguments = dict(arguments or {})
        self._output_shape = output_shape
        asked = _parameters(function)
        self._asks = {name: name in asked for name in ("mask", "training")}
        others = self.__dict__.get("_arguments", {})
        self._given = {name: others.pop(name) for name in _OWN if name in others}  # they have a written form of their own
        if "arguments" in self._given:
            self._given["arguments"] = self.arguments

    def call(self, inputs: Any, training: bool = False) -> Any:
        """What the function gives."""
        known = {"mask": mask_of(inputs) if self._asks["mask"] else None, "training": training}
        more = {**self.arguments, **{name: value for name, value in known.items() if self._asks[name]}}
        looks = self.mask is not None or self._asks["mask"]
        with call_context(self.name, looks), computing_gap_values(True):
            outputs = self.function(inputs, **more)
            if not looks:
                return outputs
            rule = replace(call_spec_of(type(self)), overrides_compute_mask=self.mask is not None)
            fixed = self.mask is not None and not callable(self.mask)
            source = leaves(outputs)[0] if fixed else inputs  # a mask that is given has the output's shape
            return attach_output_masks(self, rule, source, mask_of(source), outputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask that was given, or what its function makes of the inputs' mask; without any that of the inputs."""
        if self.mask is None or callable(self.mask):
            return mask if self.mask is None else self.mask(inputs, mask)
        fixed = torch.as_tensor(self.mask, dtype=torch.bool)
        if in_shape_inference():
            return fixed.new_ones(tuple(inputs.shape[: fixed.ndim]))
        return fixed.expand(inputs.shape[0], *fixed.shape[1:]) if fixed.shape[0] == 1 else fixed

    def compute_output_shape(self, *shapes: Any) -> Any:
        """What `output_shape` says, the batch in front if it is a tuple; else found by a call on small probes."""
        if self._output_shape is None:
            return super().compute_output_shape(*shapes)
        if callable(self._output_shape):
            return self._output_shape(*shapes)
        batch = shapes[0]
        while isinstance(batch, list | tuple):
            batch = batch[0]
        return _behind(batch, self._output_shape)

    def needs_gap_values(self, shown: bool) -> bool:
        """A function may unpack its inputs."""
        return True

    def get_config(self) -> dict[str, Any]:
        """The function by its name, and what else it was made of; raises `ArgumentError` if it has no name."""
        own = {name: self._written(name, value) for name, value in self._given.items() if value is not None}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The layer whose functions have these names."""
        return cls(**{name: _read(value) if name in _OWN else value for name, value in config.items()})

    def _written(self, what: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: self._written(f"argument {key!r}", inner) for key, inner in value.items()}
        if not callable(value):
            return argument_to_json(torch.as_tensor(value) if isinstance(value, np.ndarray) else value)
        for name_of in (lambda f: serialize(f, _KINDS), torch_path):
            try:
                return name_of(value)
            except (ArgumentError, AttributeError):
                continue
        raise ArgumentError(
            f"Lambda {self.name!r} cannot be saved: its {what} {value!r} is code, and a file holds only "
            f"names. Give a named function to @padless.saving.register_keras_serializable(), or write "
            f"a Layer with a `call`; torch's own functions have names already."
        )


_OWN = ("function", "output_shape", "mask", "arguments")


def _read(value: Any) -> Any:
    """What `_written` wrote, or Keras."""
    if isinstance(value, str):
        return torch_function_at(value) if value.startswith("torch.") else deserialize(value, _KINDS)
    name = value.get("class_name") if isinstance(value, Mapping) else None
    if name == "__lambda__":
        raise ArgumentError(
            "This config holds the bytecode of a Python lambda, which padless never runs. Write it as a "
            "function, register it with @padless.saving.register_keras_serializable(), and put its "
            "name under 'function'."
        )
    if name is not None and not name.startswith("__"):
        return deserialize(value, _KINDS)
    if isinstance(value, Mapping) and name is None:
        return {key: inner if isinstance(inner, str) else _read(inner) for key, inner in value.items()}
    return argument_from_json(value)


def _parameters(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # torch's built-in functions say nothing about theirs
        return {}


def _behind(batch: Any, shape: Any) -> Any:
    """A shape, or each in a nest of them, with the batch in front."""
    if isinstance(shape, Mapping):
        return {key: _behind(batch, inner) for key, inner in shape.items()}
    if any(isinstance(size, list | tuple | Mapping) for size in shape):
        return [_behind(batch, inner) for inner in shape]
    return (batch, *shape)
