"""What a layer knows about its weights: made, counted, read, set, frozen, regularized.

Weights are `Parameter`s (buffers, if not trainable) with Keras's names, shapes and order. Until they exist, asking for
them is an error, since an optimizer would miss them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from padless import constraints, initializers, regularizers
from padless.errors import ArgumentError, NotBuilt, ShapeError
from padless.graph.symbolic import in_shape_inference, leaves
from padless.types import Shape

_HELD, _NESTS = (list, dict), (list, tuple, dict)
_NO_LAYERS = frozenset(
    (
        "_parameters",
        "_modules",
        "_buffers",
        "_arguments",
        "_losses",
        "_inbound_nodes",
        "_regularized",
        "_constrained",
        "_compiled",
    )
)  # attributes that hold no layers, or hold them as torch does
_made = [0]  # how many modules have become attributes


class UnbuiltParameters(dict[str, Any]):
    """Stands in for a module's parameters until they exist, so that nobody iterates over what would be missing."""

    owner = "A layer"

    def _refuse(self) -> Any:
        raise NotBuilt(
            f"{self.owner} has no weights yet, so an optimizer or a file would miss them. Call the layer on "
            f"data, or build(input_shape), first."
        )

    items = values = keys = __iter__ = _refuse  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> Any:
        return _unbuilt, (self.owner, dict(dict.items(self)))

    def __deepcopy__(self, memo: Any) -> UnbuiltParameters:
        return _unbuilt(self.owner, copy.deepcopy(dict(dict.items(self)), memo))


def _unbuilt(owner: str, held: dict[str, Any] | None = None) -> UnbuiltParameters:
    parameters = UnbuiltParameters(held or {})
    parameters.owner = owner
    return parameters


def as_dtype(dtype: Any) -> torch.dtype:
    """A dtype by torch's object, by name, or by a Keras policy such as "mixed_bfloat16" (whose weights are float32)."""
    if isinstance(dtype, dict):
        dtype = dtype.get("config", {}).get("name")
    if dtype is None:
        return torch.get_default_dtype()
    if isinstance(dtype, torch.dtype):
        return dtype
    name = "float32" if str(dtype).startswith("mixed_") else str(dtype)
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ArgumentError(f"Unknown dtype {dtype!r}. Expected a torch.dtype or its name, such as 'float32'.")
    return found


class WeightContainer(nn.Module):
    """The weights of a layer and of the layers inside it."""

    name: str
    built: bool
    dtype: torch.dtype

    def __init__(self, trainable: bool, has_weights: bool) -> None:
        super().__init__()
        self._trainable = bool(trainable)
        self._regularized: dict[str, Any] = {}
        self._constrained: dict[str, Any] = {}
        self._losses: list[Tensor] = []
        if has_weights:
            self.__dict__["_parameters"] = _unbuilt(type(self).__name__)

    def add_weight(
        self,
        shape: Shape = (),
        initializer: Any = None,
        dtype: Any = None,
        trainable: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
        name: str | None = None,
    ) -> Tensor:
        """A new weight: a Parameter if trainable, else a buffer; also an attribute of its `name`."""
        name = name or f"weight_{len(self._parameters) + len(self._buffers)}"
        initial: Any = initializers.get(initializer or "glorot_uniform")
        dtype = self.dtype if dtype is None else as_dtype(dtype)
        if initial is None or any(not isinstance(size, int) for size in shape):
            raise ShapeError(
                f"Weight {name!r} of layer {self.name!r} needs a shape of integers; got {tuple(shape)}. An "
                f"axis of the input that decides the size of a weight must be known."
            )
        with torch.no_grad():
            value = initial(tuple(shape), dtype=dtype).to(torch.get_default_device())
        if trainable:
            self.register_parameter(name, nn.Parameter(value, requires_grad=self._trainable and dtype.is_floating_point))
        else:
            self.register_buffer(name, value)
        if regularizer is not None:
            self._regularized[name] = regularizers.get(regularizer)
        if constraint is not None:
            self._constrained[name] = constraints.get(constraint)
        return getattr(self, name)

    def add_loss(self, loss: Any) -> None:
        """A term for the total loss of the present step: a scalar."""
        added = leaves(loss)
        for term in added:
            if not isinstance(term, Tensor | int | float):
                raise ArgumentError(f"add_loss of {self.name!r} takes a scalar tensor; got {loss!r}.")
        if not in_shape_inference():
            self._losses.extend(torch.as_tensor(term) if isinstance(term, int | float) else term for term in added)

    # ------------------------------------------------------------------------------------------------ reading

    def _direct_weights(self, trainable: bool) -> list[Tensor]:
        own = (self._parameters if trainable else self._buffers).values()
        return [weight for weight in own if weight is not None]

    def _containers(self) -> list[WeightContainer]:
        known = self.__dict__.get("_known")
        if known is not None and known[0] == _made[0]:
            return known[1]
        self._register_nested_layers()
        found = [m for m in self.modules() if isinstance(m, WeightContainer)]
        if known is not None:
            self.__dict__["_known"] = (_made[0], found)
        return found

    @contextmanager
    def _cached_sublayers(self) -> Iterator[None]:
        """While this lasts, what is inside is looked for again only after some module has become an attribute."""
        outer = self.__dict__.get("_known")
        self.__dict__["_known"] = outer or (-1, [])
        try:
            yield
        finally:
            if outer is None:
                del self.__dict__["_known"]

    @property
    def weights(self) -> list[Tensor]:
        """All weights: of each layer first the trainable, then the others."""
        found = {id(w): w for m in self._containers() for w in (*m._direct_weights(True), *m._direct_weights(False))}
        found |= {id(w): w for w in (*self.parameters(), *self.buffers()) if id(w) not in found}
        return list(found.values())

    @property
    def trainable_weights(self) -> list[Tensor]:
        """The weights that an optimizer would change."""
        return [w for w in self.weights if w.requires_grad]

    @property
    def non_trainable_weights(self) -> list[Tensor]:
        """The weights that an optimizer leaves alone: frozen ones, and statistics."""
        return [w for w in self.weights if not w.requires_grad]

    variables = weights
    trainable_variables = trainable_weights
    non_trainable_variables = non_trainable_weights

    def get_weights(self) -> list[NDArray[Any]]:
        """The weights as NumPy arrays, copied."""
        return [w.detach().cpu().numpy().copy() for w in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set all weights, in the order of `get_weights`; raises `ShapeError` before any has changed."""
        own = self.weights
        if len(weights) != len(own):
            raise ShapeError(f"{self.name!r} has {len(own)} weights; got {len(weights)} arrays.")
        values = [torch.as_tensor(np.asarray(w) if not isinstance(w, Tensor) else w) for w in weights]
        for number, (old, new) in enumerate(zip(own, values, strict=True)):
            if old.shape != new.shape:
                raise ShapeError(
                    f"Weight {number} of {self.name!r} has shape {tuple(old.shape)}; got an array of shape "
                    f"{tuple(new.shape)}."
                )
        with torch.no_grad():
            for old, new in zip(own, values, strict=True):
                old.copy_(new)

    def count_params(self) -> int:
        """How many numbers the weights are."""
        return sum(w.numel() for w in self.weights)

    @property
    def trainable(self) -> bool:
        """Whether the weights take part in training; setting it speaks for all layers inside."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for module in self.modules():
            if isinstance(module, WeightContainer):
                module._trainable = bool(value)
            for weight in dict.values(module._parameters):  # of torch's own modules too, and before the rest is built
                if weight is not None and weight.is_floating_point():
                    weight.requires_grad_(bool(value))

    @property
    def losses(self) -> list[Tensor]:
        """Regularization of the weights, and what layers added during the last call."""
        return [*self.weight_losses, *self.call_losses]

    @property
    def call_losses(self) -> list[Tensor]:
        """What layers added during the last call, by `add_loss` or as activity regularization."""
        return [loss for m in self._containers() for loss in m._losses]

    @property
    def weight_losses(self) -> list[Tensor]:
        """Regularization of the weights: these terms count once per step, whatever the data."""
        found = {
            id(m._parameters[n]): (m, n)
            for m in self._containers()
            for n in m._regularized
            if m._trainable and n in m._parameters
        }
        return [m._regularized[n](m._parameters[n]) for m, n in found.values()]

    @torch.no_grad()
    def apply_constraints(self) -> None:
        """Bring constrained weights back to where they may be; training does this after every step."""
        for module in self._containers():
            for name, constraint in module._constrained.items():
                weight = getattr(module, name)
                weight.copy_(constraint(weight))

    # ------------------------------------------------------------------------------------------------ what is inside

    def _replace_unbuilt_parameters(self) -> None:
        """From now on the layer's parameters may be asked for."""
        if isinstance(self._parameters, UnbuiltParameters):
            self.__dict__["_parameters"] = dict(dict.items(self._parameters))

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, _NESTS):
            value = _as_module_container(value)
        if isinstance(value, nn.Module):
            _made[0] += 1
        super().__setattr__(name, value)  # pyright: ignore[reportArgumentType] - torch takes anything

    def _register_nested_layers(self) -> None:
        """Register layers that were put into a list or dictionary after it became an attribute."""
        found = [(n, v) for n, v in self.__dict__.items() if isinstance(v, _HELD) and v and n not in _NO_LAYERS]
        for name, value in found:
            held = _as_module_container(value)
            if held is not value:
                del self.__dict__[name]
                setattr(self, name, held)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """As in torch; layers held in lists count, here and in what follows."""
        self._register_nested_layers()
        return super().named_modules(*args, **kwargs)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """As in torch."""
        self._register_nested_layers()
        return super().named_children()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in torch."""
        self._register_nested_layers()
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._register_nested_layers()
        super()._load_from_state_dict(*args, **kwargs)


def _as_module_container(value: Any) -> Any:
    """A list or dictionary of nothing but layers, or of such lists, as torch's container; anything else as it is."""
    inside = list(value.values()) if isinstance(value, dict) else value
    inside = [_as_module_container(v) if isinstance(v, list | tuple) else v for v in inside]
    if not inside or not all(isinstance(v, nn.Module) for v in inside):
        return value
    return nn.ModuleDict(value) if isinstance(value, dict) else nn.ModuleList(inside)


def non_padless_children(holder: nn.Module) -> list[nn.Module]:
    """The modules that a layer holds and that are no layers, in lists and dictionaries too."""
    if isinstance(holder, WeightContainer):
        holder._register_nested_layers()
    found = []
    for child in holder._modules.values():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            found += non_padless_children(child)
        elif not isinstance(child, WeightContainer):
            found.append(child)
    return found
