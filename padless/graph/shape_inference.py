"""Find the shape, the dtype and the mask of the result of a call on symbols.

The function is called on two probes of different size. Axes whose size differs are open (None). A function that loses the
mask of a symbol loses that of the probe, so symbols follow the same rules as data.

Probes of code that is not padless's, and large ones, are on the device `meta`. They have no values and cost no memory, and
the call changes nothing (`meta_mode.py`). For small probes of the layers of padless zeros are faster. These layers judge no
values in shape inference, and change no state.

A user-defined `call` that reads values cannot run on `meta`. It is called on small zeros instead, and then weights, buffers
and the random state are restored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from padless._torch_compat import pytree, write_count
from padless.errors import ArgumentError, PadlessError
from padless.graph.deferred_weights import deferred_weights
from padless.graph.meta_mode import META, MetaMode
from padless.graph.symbolic import (
    SymbolicTensor,
    Tree,
    is_symbolic,
    leaves,
    map_leaves,
    probe,
    probe_shape,
    shape_inference_mode,
)
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.ragged.tensor_like import Args, Kwargs

_PROBE_SIZES = ((2, 29), (3, 61))  # batch and open axes of the probes; 32 apart, so that a stride does not make them equal
_MAX_ELEMENTS = 1 << 25  # that a tensor of a call on zeros may have
_MAX_ELEMENTS_IN_LOAD = 1 << 21

_current_run: ContextVar[_Run | None] = ContextVar("run without values", default=None)


# ------------------------------------------------------------------------------------------------ sizes


def elements_of_probes(tree: Tree) -> int:
    """Return the number of elements of the larger probes for all symbols of a tree."""
    return sum(math.prod(probe_shape(x, _PROBE_SIZES[1])) for x in leaves(tree) if is_symbolic(x))


def size_of_numbers(tree: Tree) -> int:
    """Return the product of the numbers in a tree of arguments: no function of them enlarges its input more.

    A product above `_MAX_ELEMENTS` is not computed to its end.
    """
    size = 1
    for leaf in leaves(tree):
        is_number = isinstance(leaf, int | float) and not isinstance(leaf, bool)
        if is_number and abs(leaf) > 1 and size <= _MAX_ELEMENTS:
            size *= math.ceil(abs(leaf)) if math.isfinite(leaf) else _MAX_ELEMENTS + 1
    return size


def max_elements() -> int:
    """Return the number of elements up to which a tensor of a call on zeros may have memory."""
    return _MAX_ELEMENTS if deferred_weights() is None else _MAX_ELEMENTS_IN_LOAD


# ------------------------------------------------------------------------------------------------ inference


def infer(
    function: Callable[..., Any], args: Args, kwargs: Kwargs, *modules: nn.Module, num_elements: float = math.inf
) -> Tree:
    """Return what a call on symbols gives, as a tree of new symbols.

    Args:
        function: the function; it is called twice, on probes.
        args: its positional arguments, symbols among them.
        kwargs: its named arguments.
        modules: the modules that it calls.
        num_elements: a bound on the elements of each tensor in the call, for a function that reads no values and changes
            no state. Infinity for any other function.

    Raises:
        PadlessError: if the structure of the result, or a number in it, depends on the size of the batch or of time.
    """
    with torch.no_grad(), shape_inference_mode():
        if num_elements <= max_elements():
            device = device_of_weights(*modules)
            results = [_call_on_probes(function, args, kwargs, sizes, device) for sizes in _PROBE_SIZES]
        else:
            results = call_without_values(
                lambda device: [_call_on_probes(function, args, kwargs, sizes, device) for sizes in _PROBE_SIZES],
                elements_of_probes((args, kwargs)),
                *modules,
            )
    small, large = (pytree.tree_structure(map_leaves(lambda _: None, result)) for result in results)
    if small != large:
        raise PadlessError(
            f"A call gave {small.num_leaves} results for one size of batch or time and {large.num_leaves} "
            f"for another: how many there are must not depend on the data."
        )
    return pytree.tree_map(_symbol_of_results, *results, is_leaf=lambda x: isinstance(x, Packed))


def device_of_weights(*modules: nn.Module) -> torch.device | None:
    """Return the device of the first weight that exists in these modules, for probes; None if there is none."""
    inner_modules = (inner for module in modules for inner in module.modules())
    return next((w.device for m in inner_modules for w in dict.values(m._parameters) if w is not None), None)


def _call_on_probes(
    function: Callable[..., Any], args: Args, kwargs: Kwargs, sizes: tuple[int, int], device: torch.device | None
) -> Tree:
    """Call a function with each symbol replaced by a probe. Masks of the same grid are the same index."""
    probes: dict[int, Tensor | Packed] = {}
    indexes: dict[tuple[int, ...], Index] = {}
    for symbol in filter(is_symbolic, leaves((args, kwargs))):
        value = probe(symbol, sizes, device)
        if isinstance(value, Packed):
            value.index = indexes.setdefault(value.index.grid, value.index)
        probes[id(symbol)] = value
    args, kwargs = map_leaves(lambda x: probes.get(id(x), x), (args, kwargs))
    return function(*args, **kwargs)


def _symbol_of_results(small: object, large: Tree) -> Tree:
    """Return the symbol for the results on two probes; what is not a tensor is returned as it is."""
    if is_symbolic(small):
        raise ArgumentError(f"A call uses {small!r}, which it was not given. Make it an argument of the call.")
    if isinstance(small, bool | int | float) and small != large:
        raise PadlessError(
            f"A call gave the number {small!r} for one size of batch or time and {large!r} for another: "
            f"a symbol has no such size yet. Compute with it in the `call` of a layer."
        )
    if not isinstance(small, Tensor | Packed):
        return small
    if small.ndim != large.ndim:
        raise PadlessError(
            f"A call gave shape {tuple(small.shape)} for one size of batch and {tuple(large.shape)} for "
            f"another: the number of axes must not depend on the data."
        )
    shape = tuple(a if a == b else None for a, b in zip(small.shape, large.shape, strict=True))
    if isinstance(small, Packed):
        return SymbolicTensor(shape, small.dtype, num_step_axes=small.num_step_axes, mask_source=small.index.mask_source)
    return SymbolicTensor(shape, small.dtype)


# ------------------------------------------------------------------------------------------------ calls without values


def call_without_values(call: Callable[[torch.device | None], Tree], num_elements: int, *modules: nn.Module) -> Tree:
    """Call modules on `meta` tensors; if they read values, on zeros. Nothing but missing weights has changed afterwards.

    Args:
        call: makes the inputs on the given device, calls the modules and returns the results.
        num_elements: the number of elements of the inputs.
        modules: the modules that are called.

    Raises:
        ArgumentError: if the modules read values, and the inputs or the weights are too large for a call on zeros.
    """
    device = device_of_weights(*modules)
    if device == META:
        device = None
    with _Run(modules, device) as run:
        try:
            with run.meta_mode:
                return call(META)
        except PadlessError:
            raise
        except Exception as error:  # any function of values: `.item()`, `nonzero`, NumPy
            failure = error
    weights = [weight for module in modules for inner in module.modules() for weight in _weights_of(inner)]
    deferred = deferred_weights()
    if num_elements > max_elements() or deferred is None and any(weight.is_meta for weight in weights):
        raise ArgumentError(
            f"A call needs values, but its inputs are too large for a call on zeros while the model is built, or its "
            f"weights have none. {type(failure).__name__}: {failure} Define compute_output_shape in the layer, or compute "
            f"without values."
        ) from failure
    if deferred is not None:
        deferred.create(weights)
    with _Run(modules, device), _tensors_restored(modules):
        return call(device)


def _weights_of(module: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a module without its children; also of an unbuilt layer."""
    weights = (*dict.values(module._parameters), *dict.values(module._buffers))
    return [weight for weight in weights if weight is not None]


class _Run:
    """A call without values: what it must leave as it was, and how weights are built in it.

    Args:
        modules: the modules that are called.
        device: the device of new weights.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device | None) -> None:
        self.device = device
        self.meta_mode = MetaMode()
        self.random_state: Tensor | None = None  # outside of the call, if random numbers are drawn in it
        self.outer: _Run | None = None
        self._states = {id(inner): _ModuleState(inner) for module in modules for inner in module.modules()}

    def __enter__(self) -> _Run:
        self.outer = _current_run.get()
        self._token = _current_run.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _current_run.reset(self._token)
        for state in self._states.values():
            state.restore()

    def keep_weights_of(self, module: nn.Module) -> None:
        """Keep the attributes of a module that was just built."""
        if id(module) in self._states:
            self._states[id(module)] = _ModuleState(module)
        if self.outer is not None:
            self.outer.keep_weights_of(module)


@contextmanager
def building_weights(module: nn.Module) -> Iterator[None]:
    """Create weights with values in this context, also inside of a call without values."""
    run = _current_run.get()
    if run is None:
        yield
        return
    modes, outer = [], run
    while outer is not None:
        modes.append((outer.meta_mode, outer.meta_mode.paused))
        outer = outer.outer
    with ExitStack() as stack:
        for mode, _ in modes:
            mode.paused = True
        if run.random_state is not None:
            stack.enter_context(_random_state_exchanged(run))
        if run.device is not None and run.device.type != "cpu":
            stack.enter_context(run.device)
        try:
            yield
        finally:
            for mode, paused in modes:
                mode.paused = paused
    run.keep_weights_of(module)


@contextmanager
def _random_state_exchanged(run: _Run) -> Iterator[None]:
    """Draw from the random state outside of a run."""
    inner_state, outer_state = torch.get_rng_state(), run.random_state
    run.random_state = None  # so that a context inside this one changes nothing
    if outer_state is not None:
        torch.set_rng_state(outer_state)
    try:
        yield
    finally:
        run.random_state = torch.get_rng_state()
        torch.set_rng_state(inner_state)


@contextmanager
def _tensors_restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore the values of all tensors of modules, and the random state, after this context."""
    run = _current_run.get()
    weights = {id(w): w for module in modules for inner in module.modules() for w in _weights_of(inner)}
    copies = [(weight, write_count(weight), weight.detach().clone()) for weight in weights.values() if not weight.is_meta]
    if run is not None:
        run.random_state = torch.get_rng_state()
    try:
        yield
    finally:
        for weight, count, values in copies:
            if write_count(weight) != count:
                weight.detach().copy_(values)
        if run is not None and run.random_state is not None:
            torch.set_rng_state(run.random_state)


class _ModuleState:
    """The attributes of a module, from before a call without values."""

    def __init__(self, module: nn.Module) -> None:
        self._tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (table, dict(dict.items(table))) for table in (module.__dict__, module._parameters, module._buffers)
        ]

    def restore(self) -> None:
        """Restore the attributes that have become another tensor, or hold tensors without memory."""
        for table, old_table in self._tables:
            for name, value in list(dict.items(table)):
                if value is old_table.get(name):
                    continue
                holds_meta = _holds_meta(value)
                if name in old_table and (holds_meta or isinstance(value, Tensor | Packed)):
                    table[name] = old_table[name]
                elif holds_meta and (table is self._tables[0][0] or deferred_weights() is None):
                    del table[name]


def _holds_meta(value: object) -> bool:
    """Return whether a value is or holds a tensor without memory."""
    if not isinstance(value, Tensor | Packed | list | tuple | dict):
        return False
    tensors = (leaf.values if isinstance(leaf, Packed) else leaf for leaf in leaves(value))
    return any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors)
