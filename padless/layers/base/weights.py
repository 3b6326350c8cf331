"""The weights of a layer: create, list, count, read, set, freeze, regularize and constrain.

Weights are `Parameter`s (buffers, if not trainable) with Keras's names, shapes and order. A request for the
weights of an unbuilt layer raises `NotBuilt`, since an optimizer would miss the weights that `build` creates later.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import ArrayLike as NumPyArrayLike
from numpy.typing import NDArray
from torch import Tensor, nn

from padless import constraints, initializers, regularizers
from padless._threads import ForkSafeLock
from padless.constraints import ConstraintFunction
from padless.errors import ArgumentError, NotBuilt, ShapeError
from padless.graph.deferred_weights import deferred_weights
from padless.graph.shape_inference import building_weights
from padless.graph.symbolic import in_shape_inference, leaves
from padless.initializers import InitializerFunction
from padless.ragged.device import memory_of
from padless.ragged.masked_array import refuse_masked_array
from padless.regularizers import RegularizerFunction
from padless.types import ConstraintLike, DTypeLike, InitializerLike, RegularizerLike, Shape, TensorTree

_MUTABLE_CONTAINERS = (list, dict)  # tuples, since `isinstance` with a union is slow and runs for every attribute
_CONTAINERS = (list, tuple, dict)

# Lists and dictionaries among the attributes that hold no layers, or that hold layers which torch registers itself.
_ATTRIBUTES_WITHOUT_LAYERS = frozenset(
    (
        "_parameters",
        "_modules",
        "_buffers",
        "_arguments",
        "_inbound_nodes",
        "_regularized",
        "_constrained",
        "_compiled",
    )
)


class UnbuiltParameters(dict[str, nn.Parameter | None]):
    """The parameters of an unbuilt layer: a dictionary that refuses iteration, since weights would be missing."""

    owner = "A layer"

    def _refuse(self) -> NoReturn:
        raise NotBuilt(
            f"{self.owner} has no weights yet, so an optimizer or a file would miss them. Call the layer on "
            f"data, or build(input_shape), first."
        )

    items = values = keys = __iter__ = _refuse  # pyright: ignore[reportAssignmentType] - it never returns

    def __reduce__(self) -> tuple[object, ...]:
        return _unbuilt_parameters, (self.owner, dict(dict.items(self)))

    def __deepcopy__(self, memo: dict[int, object]) -> UnbuiltParameters:
        return _unbuilt_parameters(self.owner, copy.deepcopy(dict(dict.items(self)), memo))


def _unbuilt_parameters(owner: str, parameters: Mapping[str, nn.Parameter | None] | None = None) -> UnbuiltParameters:
    unbuilt = UnbuiltParameters(parameters or {})
    unbuilt.owner = owner
    return unbuilt


def as_dtype(dtype: DTypeLike | None) -> torch.dtype:
    """Return torch's dtype for a name or a Keras policy. The weights of a policy "mixed_..." are float32.

    Raises:
        ArgumentError: there is no such dtype.
    """
    if isinstance(dtype, Mapping):
        policy = dtype.get("config")
        dtype = policy.get("name") if isinstance(policy, Mapping) else str(dict(dtype))
    if dtype is None:
        return torch.get_default_dtype()
    if isinstance(dtype, torch.dtype):
        return dtype
    name = "float32" if str(dtype).startswith("mixed_") else str(dtype)
    torch_dtype = getattr(torch, name, None)
    if not isinstance(torch_dtype, torch.dtype):
        raise ArgumentError(f"Unknown dtype {dtype!r}. Expected a torch.dtype or its name, such as 'float32'.")
    return torch_dtype


class _ModuleAssignments:
    """The last time that a module became an attribute, in all layers, so that a cached list of sublayers can expire."""

    last: object = object()


@dataclass(frozen=True)
class _ContainerCache:
    """The layers inside a layer, as found after the assignment `last` of a module."""

    last: object
    containers: list[WeightContainer]


class _CallLosses(threading.local):
    """The losses that layers added during their last call in a thread."""

    def __init__(self) -> None:
        self.of_layer: WeakKeyDictionary[WeightContainer, list[Tensor]] = WeakKeyDictionary()


_call_losses = _CallLosses()
_container_caches: ContextVar[dict[int, _ContainerCache] | None] = ContextVar("container caches", default=None)
structure_lock = ForkSafeLock()
"""Held while a layer gets weights or sublayers, and while all layers of a model are searched before a run."""


class WeightContainer(nn.Module):
    """The weights of a layer and of the layers inside it."""

    name: str
    built: bool
    dtype: torch.dtype

    def __init__(self, trainable: bool, has_weights: bool) -> None:
        super().__init__()
        self._trainable = bool(trainable)
        self._regularized: dict[str, RegularizerFunction] = {}
        self._constrained: dict[str, ConstraintFunction] = {}
        if has_weights:
            self.__dict__["_parameters"] = _unbuilt_parameters(type(self).__name__)

    def add_weight(
        self,
        shape: Shape = (),
        initializer: InitializerLike = None,
        dtype: DTypeLike | None = None,
        trainable: bool = True,
        regularizer: RegularizerLike = None,
        constraint: ConstraintLike = None,
        name: str | None = None,
    ) -> Tensor:
        """Create a weight, as Keras's `add_weight`. The weight becomes the attribute `name` of the layer.

        Args:
            shape: the shape of the weight; every size must be known.
            initializer: the initial values, by default "glorot_uniform".
            dtype: the dtype, by default that of the layer.
            trainable: whether the weight is a Parameter, else a buffer.
            regularizer: a penalty on the weight, added to the loss.
            constraint: a function applied to the weight after each step of the optimizer.
            name: the name of the attribute, by default `weight_0`, `weight_1`, and so on.

        Returns:
            The Parameter or buffer.

        Raises:
            ShapeError: a size of `shape` is not an integer.
        """
        name = name or f"weight_{len(self._parameters) + len(self._buffers)}"
        initialize = initializers.get(initializer or "glorot_uniform")
        weight_dtype = self.dtype if dtype is None else as_dtype(dtype)
        sizes = tuple(size for size in shape if isinstance(size, int) and size >= 0)
        if initialize is None or len(sizes) < len(shape):
            raise ShapeError(
                f"Weight {name!r} of layer {self.name!r} needs a shape of integers; got {tuple(shape)}. An "
                f"axis of the input that decides the size of a weight must be known."
            )
        with torch.no_grad(), building_weights(self):
            value = self._new_weight(name, sizes, weight_dtype, initialize)
            if trainable:
                requires_grad = self._trainable and weight_dtype.is_floating_point
                self.register_parameter(name, nn.Parameter(value, requires_grad=requires_grad))
            else:
                self.register_buffer(name, value)
        penalty, projection = regularizers.get(regularizer), constraints.get(constraint)
        if penalty is not None:
            self._regularized[name] = penalty
        if projection is not None:
            self._constrained[name] = projection
        return getattr(self, name)

    def _new_weight(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, initialize: InitializerFunction) -> Tensor:
        """Return a weight with its initial values; without them while a file is read, or on the device `meta`."""
        deferred, device = deferred_weights(), torch.get_default_device()
        if deferred is not None:
            return deferred.new(self, name, shape, dtype)
        if device.type == "meta":
            return torch.empty(shape, dtype=dtype)
        return initialize(shape, dtype=dtype).to(device)

    def add_loss(self, loss: TensorTree | float) -> None:
        """Add a scalar, or a nest of scalars, to the loss of the current step, as Keras's `add_loss`."""
        terms = leaves(loss)
        for term in terms:
            if not isinstance(term, Tensor | int | float):
                raise ArgumentError(f"add_loss of {self.name!r} takes a scalar tensor; got {loss!r}.")
        if not in_shape_inference():
            for term in terms:
                self._add_call_loss(torch.as_tensor(term) if isinstance(term, int | float) else term)

    def _add_call_loss(self, loss: Tensor) -> None:
        _call_losses.of_layer.setdefault(self, []).append(loss)

    def _clear_call_losses(self) -> None:
        """Forget the losses that this layer and those inside it added in this thread."""
        if _call_losses.of_layer:
            for container in self._containers():
                _call_losses.of_layer.pop(container, None)

    # ------------------------------------------------------------------------------------------------ reading

    def _direct_weights(self, trainable: bool) -> list[Tensor]:
        """Return the parameters or the buffers of this layer, without those of sublayers."""
        weights = (self._parameters if trainable else self._buffers).values()
        return [weight for weight in weights if weight is not None]

    def _containers(self) -> list[WeightContainer]:
        """Return this layer and all layers inside it."""
        caches, last_assignment = _container_caches.get(), _ModuleAssignments.last
        cache = None if caches is None else caches.get(id(self))
        if cache is not None and cache.last is last_assignment:
            return cache.containers
        self._register_nested_layers()
        containers = [module for module in self.modules() if isinstance(module, WeightContainer)]
        if caches is not None:  # the cache has this layer, so that its identity is not used again
            caches[id(self)] = _ContainerCache(last_assignment, containers)
        return containers

    @contextmanager
    def _cached_sublayers(self) -> Iterator[None]:
        """Search for sublayers in this context only after some module has become an attribute."""
        token = _container_caches.set({})
        try:
            yield
        finally:
            _container_caches.reset(token)

    @property
    def weights(self) -> list[Tensor]:
        """All weights: of each layer first the trainable ones, then the others. A shared weight is listed once."""
        weights = {
            id(weight): weight
            for container in self._containers()
            for trainable in (True, False)
            for weight in container._direct_weights(trainable)
        }
        for weight in (*self.parameters(), *self.buffers()):
            weights.setdefault(id(weight), weight)
        return list(weights.values())

    @property
    def trainable_weights(self) -> list[Tensor]:
        """The weights that an optimizer changes."""
        return [weight for weight in self.weights if weight.requires_grad]

    @property
    def non_trainable_weights(self) -> list[Tensor]:
        """The weights that an optimizer does not change: frozen ones, and statistics."""
        return [weight for weight in self.weights if not weight.requires_grad]

    variables = weights
    trainable_variables = trainable_weights
    non_trainable_variables = non_trainable_weights

    def get_weights(self) -> list[NDArray[Any]]:
        """Return copies of the weights as NumPy arrays, in the order of `weights`."""
        return [weight.detach().cpu().numpy().copy() for weight in self.weights]

    def set_weights(self, weights: Sequence[NumPyArrayLike | Tensor]) -> None:
        """Set all weights.

        Args:
            weights: one array for each weight, in the order of `get_weights`.

        Raises:
            ShapeError: the number or a shape is wrong; then no weight has changed.
        """
        targets = self.weights
        if len(weights) != len(targets):
            raise ShapeError(f"{self.name!r} has {len(targets)} weights; got {len(weights)} arrays.")
        for number, weight in enumerate(weights):
            refuse_masked_array(f"Weight {number}", weight)
        values = [w if isinstance(w, Tensor) else torch.as_tensor(np.asarray(w)) for w in weights]
        for number, (target, value) in enumerate(zip(targets, values, strict=True)):
            if target.shape != value.shape:
                raise ShapeError(
                    f"Weight {number} of {self.name!r} has shape {tuple(target.shape)}; got an array of shape "
                    f"{tuple(value.shape)}."
                )
        memory = set(map(memory_of, targets))
        with torch.no_grad():
            values = [v.clone() if memory_of(v) in memory else v for v in values]  # views of weights
            for target, value in zip(targets, values, strict=True):
                target.copy_(value)

    def count_params(self) -> int:
        """Return the number of scalars in all weights."""
        return sum(weight.numel() for weight in self.weights)

    @property
    def trainable(self) -> bool:
        """Whether an optimizer changes the weights. Setting it sets it for all layers inside, too."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for module in self.modules():
            if isinstance(module, WeightContainer):
                module._trainable = bool(value)
            for weight in dict.values(module._parameters):  # also works before all of them are built
                if weight is not None and weight.is_floating_point():
                    weight.requires_grad_(bool(value))

    @property
    def losses(self) -> list[Tensor]:
        """The regularization of the weights, and the losses that layers added during the last call."""
        return [*self.weight_losses, *self.call_losses]

    @property
    def call_losses(self) -> list[Tensor]:
        """The losses that layers added during the last call in this thread: `add_loss` and activity regularization."""
        of_layer = _call_losses.of_layer
        return [loss for container in self._containers() for loss in of_layer.get(container, ())] if of_layer else []

    @property
    def weight_losses(self) -> list[Tensor]:
        """The regularization of the weights, one term for each weight. It counts once for each training step."""
        terms = {}
        for container in self._containers():
            for name, regularizer in container._regularized.items():
                if container._trainable and name in container._parameters:
                    weight = container._parameters[name]
                    terms[id(weight)] = (regularizer, weight)
        return [regularizer(weight) for regularizer, weight in terms.values()]

    @torch.no_grad()
    def apply_constraints(self) -> None:
        """Apply the constraints to the weights; training does this after every step of the optimizer."""
        for container in self._containers():
            for name, constraint in container._constrained.items():
                weight = getattr(container, name)
                weight.copy_(constraint(weight))

    # ------------------------------------------------------------------------------------------------ sublayers

    def _replace_unbuilt_parameters(self) -> None:
        """Replace `UnbuiltParameters` by an ordinary dictionary, which may be iterated over."""
        if isinstance(self._parameters, UnbuiltParameters):
            self.__dict__["_parameters"] = dict(dict.items(self._parameters))

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, _CONTAINERS):
            value = _as_module_container(value)
        super().__setattr__(name, value)
        if isinstance(value, nn.Module):
            _ModuleAssignments.last = object()

    def _register_nested_layers(self) -> None:
        """Register layers that were put into a list or dictionary after it became an attribute."""
        candidates = [
            (name, value)
            for name, value in self.__dict__.copy().items()  # another thread may add an attribute
            if isinstance(value, _MUTABLE_CONTAINERS) and value and name not in _ATTRIBUTES_WITHOUT_LAYERS
        ]
        for name, value in candidates:
            container = _as_module_container(value)
            if container is not value:
                with structure_lock:
                    if self.__dict__.get(name) is value:  # else another thread has registered the layers
                        self._modules[name] = container  # first, so that another thread always finds the attribute
                        del self.__dict__[name]
                        _ModuleAssignments.last = object()

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """Return what torch's method returns; layers in lists and dictionaries are included."""
        self._register_nested_layers()
        return super().named_modules(*args, **kwargs)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Return what torch's method returns; layers in lists and dictionaries are included."""
        self._register_nested_layers()
        return super().named_children()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return what torch's method returns; layers in lists and dictionaries are included."""
        self._register_nested_layers()
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._register_nested_layers()
        super()._load_from_state_dict(*args, **kwargs)


def _as_module_container(value: Any) -> Any:
    """Convert a list, tuple or dictionary that holds only modules, or lists of modules, to torch's container of modules.

    Another value is returned as it is.
    """
    items = list(value.values()) if isinstance(value, dict) else value
    modules = [_as_module_container(item) if isinstance(item, list | tuple) else item for item in items]
    if not modules or not all(isinstance(module, nn.Module) for module in modules):
        return value
    return nn.ModuleDict(value) if isinstance(value, dict) else nn.ModuleList(modules)


def non_padless_children(module: nn.Module) -> list[nn.Module]:
    """Return the child modules that are not padless layers; children in lists and dictionaries are included."""
    if isinstance(module, WeightContainer):
        module._register_nested_layers()
    children = []
    for child in module._modules.copy().values():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            children += non_padless_children(child)
        elif not isinstance(child, WeightContainer):
            children.append(child)
    return children
