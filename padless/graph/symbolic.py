"""Symbolic tensors: placeholders with a shape, a dtype and a mask source, on which a model is built.

The result of a call on symbols is found by calls on two probes: small tensors of zeros of different size. Axes whose
size differs are open (None). A function that loses the mask of a symbol loses that of the probe, so symbols follow the
same rules as data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, TypeAlias, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from padless._torch_compat import pytree
from padless.errors import ArgumentError, PadlessError
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gather_real_steps
from padless.ragged.tensor_like import Args, Kwargs, TensorFunction, TensorLike
from padless.ragged.tree import Tree, leaves, map_leaves

Shape: TypeAlias = tuple[int | None, ...]
_in_shape_inference: ContextVar[bool] = ContextVar("in_shape_inference", default=False)
_USE_DATA = (
    "Ask for it in the `call` of a layer. If a torch module asks for it, wrap the module: "
    "padless.layers.TorchModuleWrapper(module)(x)."
)
_PROBE_SIZES = ((2, 29), (3, 61))  # batch and open axes of the probes; 32 apart, so that a stride does not make them equal


class SymbolicTensor(TensorLike):
    """A placeholder for a tensor or a `Packed`, returned by `Input` and by calls on symbols.

    Operators and torch functions on a symbol become calls in the graph of a model.

    Args:
        shape: the shape, with None for open axes, `(None, ...)`.
        dtype: the dtype.
        name: the name of the operation that returned it.
        num_step_axes: the number of axes that the mask covers; 0 without a mask.
        mask_source: the layer that created the mask, in words.

    Attributes:
        node: the `Node` of the call that returned it.
        position: its number among the results of this call.
    """

    def __init__(
        self, shape: Shape, dtype: torch.dtype, name: str = "", num_step_axes: int = 0, mask_source: str = ""
    ) -> None:
        self.shape: Shape = tuple(shape)
        self.dtype = dtype
        self.name = name
        self.num_step_axes = num_step_axes
        self.mask_source = mask_source
        self.node: Any = None  # a Node, which is defined in terms of symbols
        self.position = 0

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def masked(self) -> bool:
        """Whether it has a mask."""
        return self.num_step_axes > 0

    def size(self, dim: int | None = None) -> Sequence[int | None] | int | None:
        """Return the shape, or the size of the axis `dim`, which must not be open."""
        if dim is not None and self.shape[dim] is None:
            raise ArgumentError(f"Axis {dim} of {self!r} has no size yet. {_USE_DATA}")
        return super().size(dim)

    def __getattr__(self, name: str) -> TensorFunction:
        try:
            return super().__getattr__(name)
        except AttributeError as missing:
            raise AttributeError(f"{missing} {_USE_DATA}") from None

    def __bool__(self) -> NoReturn:
        raise TypeError(f"A symbolic tensor has no value yet. {_USE_DATA}")

    def __iter__(self) -> NoReturn:
        raise TypeError("A symbolic tensor has no rows yet, so it cannot be iterated over.")

    def __len__(self) -> NoReturn:
        raise TypeError("A symbolic tensor has no length yet; its shape is in `.shape`.")

    def __repr__(self) -> str:
        mask = f", masked by {self.mask_source}" if self.masked else ""
        return f"<Symbolic {self.name!r} shape={self.shape} {str(self.dtype).removeprefix('torch.')}{mask}>"


def is_symbolic(x: object) -> TypeGuard[SymbolicTensor]:
    """Return whether `x` is a symbolic tensor."""
    return isinstance(x, SymbolicTensor)


# ------------------------------------------------------------------------------------------------ shape inference


def in_shape_inference() -> bool:
    """Return whether the current call runs on probes. Then no state may change and no random number may be drawn."""
    return _in_shape_inference.get()


@contextmanager
def shape_inference_mode() -> Iterator[None]:
    """Mark the calls in this context as calls on probes."""
    token = _in_shape_inference.set(True)
    try:
        yield
    finally:
        _in_shape_inference.reset(token)


def probe(symbol: SymbolicTensor, sizes: tuple[int, int], device: torch.device | None = None) -> Tensor | Packed:
    """Return zeros in the shape of a symbol.

    Args:
        symbol: a symbol. If it has a mask, the probe has a gap, padding and an empty sequence.
        sizes: the size of an open batch axis, and the size of all other open axes.
        device: the device of the zeros.
    """
    batch, open_size = sizes
    shape = [(batch if axis == 0 else open_size) if size is None else size for axis, size in enumerate(symbol.shape)]
    values = torch.zeros(shape, dtype=symbol.dtype, device=device)
    if not symbol.masked:
        return values
    mask = np.zeros(shape[: symbol.num_step_axes], dtype=bool)
    mask[0, ..., :3] = True
    mask[0, ..., 1:2] = mask.shape[-1] < 3
    index = Index.from_mask(mask, symbol.mask_source)
    gap_values = values.new_zeros((index.num_gaps, *shape[symbol.num_step_axes :]))
    return Packed(gather_real_steps(values, index), index, gap_values)


def infer(function: Callable[..., Any], args: Args, kwargs: Kwargs, device: torch.device | None = None) -> Tree:
    """Return what a call on symbols gives, as a tree of new symbols.

    Args:
        function: the function; it is called twice, on probes.
        args: its positional arguments, symbols among them.
        kwargs: its named arguments.
        device: the device of the probes.

    Raises:
        PadlessError: if the structure of the result, or a number in it, depends on the size of the batch or of time.
    """
    symbols = [x for x in leaves((args, kwargs)) if is_symbolic(x)]
    with torch.no_grad(), shape_inference_mode():
        results = [_call_on_probes(function, args, kwargs, symbols, sizes, device) for sizes in _PROBE_SIZES]
    small, large = (pytree.tree_structure(map_leaves(lambda _: None, result)) for result in results)
    if small != large:
        raise PadlessError(
            f"A call gave {small.num_leaves} results for one size of batch or time and {large.num_leaves} "
            f"for another: how many there are must not depend on the data."
        )
    return pytree.tree_map(_symbol_of_results, *results, is_leaf=lambda x: isinstance(x, Packed))


def device_of_weights(*modules: object) -> torch.device | None:
    """Return the device of the first weight that exists in these modules, for probes; None if there is none."""
    inner_modules = (inner for module in modules if isinstance(module, nn.Module) for inner in module.modules())
    return next((w.device for m in inner_modules for w in dict.values(m._parameters) if w is not None), None)


def _call_on_probes(
    function: Callable[..., Any],
    args: Args,
    kwargs: Kwargs,
    symbols: list[SymbolicTensor],
    sizes: tuple[int, int],
    device: torch.device | None,
) -> Tree:
    """Call a function with each symbol replaced by a probe. Masks of the same grid are the same index."""
    probes: dict[int, Tensor | Packed] = {}
    indexes: dict[tuple[int, ...], Index] = {}
    for symbol in symbols:
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
