"""A tensor yet to come: its shape, its dtype, and where its mask was born.

What a call makes of such tensors is found by running it on two small probes of different size: axes that differ are
open (None), and a mask that would be lost is lost on the probe already. So symbols follow the same rules as data,
because they are data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from padless._torch_compat import pytree
from padless.errors import ArgumentError, PadlessError
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gather_real_steps
from padless.ragged.tensor_like import TensorLike
from padless.ragged.tree import leaves, map_leaves

Shape = tuple[int | None, ...]
_probing: ContextVar[bool] = ContextVar("probing", default=False)
_ON_DATA = (
    "Ask for it inside the `call` of a layer; if a torch module does, call "
    "padless.layers.TorchModuleWrapper(module) on the symbol."
)
_SIZES = ((2, 29), (3, 61))  # batch and open axes of the two probes; 32 apart, so that a stride does not make them equal


class SymbolicTensor(TensorLike):
    """What `Input` and calls on it give: shape `(None, ...)`, dtype, and whether a mask comes with it.

    `lead` is the number of axes that the mask covers (0: no mask), `born` the layer that made it. `node` and `position`
    say which call it comes from. Operators and torch functions on it become calls in the graph.
    """

    recorder: Callable[..., Any]  # what turns a torch function into a node; node.py puts it here
    wrapped: Callable[
        ..., Any
    ]  # what makes of a torch module's call that of a layer; layers/core/torch_module_wrapper.py puts it here
    __array_ufunc__ = None

    def __init__(
        self, shape: Shape, dtype: torch.dtype, name: str = "", num_step_axes: int = 0, mask_source: str = ""
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.name = name
        self.num_step_axes = num_step_axes
        self.mask_source = mask_source
        self.node: Any = None
        self.position = 0

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def masked(self) -> bool:
        """Whether a mask comes with it."""
        return self.num_step_axes > 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return cls.recorder(func, args, kwargs or {})

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one axis, which must be known."""
        if dim is not None and self.shape[dim] is None:
            raise ArgumentError(f"Axis {dim} of {self!r} has no size yet. {_ON_DATA}")
        return super().size(dim)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as missing:
            raise AttributeError(f"{missing} {_ON_DATA}") from None

    def __bool__(self) -> bool:
        raise TypeError("A symbolic tensor has no value yet. Branch on data inside the `call` of a layer.")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("A symbolic tensor has no rows yet, so it cannot be iterated over.")

    def __len__(self) -> int:
        raise TypeError("A symbolic tensor has no length yet; its shape is in `.shape`.")

    def __repr__(self) -> str:
        mask = f", masked by {self.mask_source}" if self.masked else ""
        return f"<Symbolic {self.name!r} shape={self.shape} {str(self.dtype).removeprefix('torch.')}{mask}>"


def is_symbolic(x: Any) -> bool:
    """Whether this is a tensor yet to come."""
    return isinstance(x, SymbolicTensor)


def in_shape_inference() -> bool:
    """Whether the present call only finds out shapes: no state may change, nothing random may be drawn."""
    return _probing.get()


def probe(symbol: SymbolicTensor, sizes: tuple[int, int], device: torch.device | None = None) -> Tensor | Packed:
    """Zeros in the shape of the symbol, open axes filled in; if masked, with holes, padding and an empty row."""
    batch, other = sizes
    shape = [(batch if axis == 0 else other) if size is None else size for axis, size in enumerate(symbol.shape)]
    values = torch.zeros(shape, dtype=symbol.dtype, device=device)
    if not symbol.masked:
        return values
    mask = np.zeros(shape[: symbol.num_step_axes], dtype=bool)
    mask[0, ..., :3] = True
    mask[0, ..., 1:2] = mask.shape[-1] < 3
    index = Index.from_mask(mask, symbol.mask_source)
    fill = values.new_zeros((index.num_gaps, *shape[symbol.num_step_axes :]))
    return Packed(gather_real_steps(values, index), index, fill)


def infer(fn: Callable[..., Any], args: Any, kwargs: Any, device: torch.device | None = None) -> Any:
    """What `fn` gives for these arguments, symbols among them, as a nest of new symbols; probed on `device`."""
    symbols = [x for x in leaves((args, kwargs)) if is_symbolic(x)]
    results = []
    with torch.no_grad(), shape_inference_mode():
        for sizes in _SIZES:
            made = _probes(symbols, sizes, device)
            inner_args, inner_kwargs = map_leaves(lambda x, made=made: made.get(id(x), x), (args, kwargs))
            results.append(fn(*inner_args, **inner_kwargs))
    small, large = (pytree.tree_structure(map_leaves(lambda _: None, result)) for result in results)
    if small != large:
        raise PadlessError(
            f"A call gave {small.num_leaves} results for one size of batch or time and {large.num_leaves} "
            f"for another: how many there are must not depend on the data."
        )
    return pytree.tree_map(_symbol, *results, is_leaf=lambda x: isinstance(x, Packed))


def device_of_weights(*modules: Any) -> torch.device | None:
    """Where the weights of these modules are, if any exist: probes must be there too."""
    inside = (m for module in modules if isinstance(module, nn.Module) for m in module.modules())
    return next((w.device for m in inside for w in dict.values(m._parameters) if w is not None), None)


def _probes(symbols: list[SymbolicTensor], sizes: tuple[int, int], device: torch.device | None) -> dict[int, Any]:
    """A probe for each symbol; masks of the same grid are one index, as of two embeddings of the same ids."""
    made: dict[int, Any] = {}
    seen: dict[tuple[int, ...], Index] = {}
    for symbol in symbols:
        value = probe(symbol, sizes, device)
        if isinstance(value, Packed):
            value.index = seen.setdefault(value.index.grid, value.index)
        made[id(symbol)] = value
    return made


@contextmanager
def shape_inference_mode() -> Iterator[None]:
    """While this lasts, calls only find out shapes: no state changes, nothing trains."""
    token = _probing.set(True)
    try:
        yield
    finally:
        _probing.reset(token)


def _symbol(small: Any, large: Any) -> Any:
    """The symbol that stands for what two probes of different size gave."""
    if is_symbolic(small):
        raise ArgumentError(f"A call works with {small!r}, which it was not given. Make it an argument of the call.")
    if not isinstance(small, Tensor | Packed):
        if isinstance(small, bool | int | float) and small != large:
            raise PadlessError(
                f"A call gave the number {small!r} for one size of batch or time and {large!r} for another: "
                f"a symbol has no such size yet. Compute with it inside the `call` of a layer."
            )
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
