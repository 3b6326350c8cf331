"""Symbolic tensors: placeholders with a shape, a dtype and a mask source, on which a model is built.

`shape_inference.py` finds the result of a call on symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padless.errors import ArgumentError
from padless.ragged.index import Index
from padless.ragged.inference_mode import in_shape_inference as in_shape_inference
from padless.ragged.inference_mode import shape_inference_mode as shape_inference_mode
from padless.ragged.packed import Packed
from padless.ragged.plan_limit import check_plan
from padless.ragged.tensor_like import TensorFunction, TensorLike
from padless.ragged.tree import Tree as Tree
from padless.ragged.tree import leaves as leaves
from padless.ragged.tree import map_leaves as map_leaves

Shape: TypeAlias = tuple[int | None, ...]
_USE_DATA = (
    "Ask for it in the `call` of a layer. If a torch module asks for it, wrap the module: "
    "padless.layers.TorchModuleWrapper(module)(x)."
)


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


def copy_symbol(symbol: SymbolicTensor) -> SymbolicTensor:
    """Return a symbol with the same shape, dtype and mask that no call has returned yet."""
    return SymbolicTensor(symbol.shape, symbol.dtype, "", symbol.num_step_axes, symbol.mask_source)


# ------------------------------------------------------------------------------------------------ shape inference


def probe(symbol: SymbolicTensor, sizes: tuple[int, int], device: torch.device | None = None) -> Tensor | Packed:
    """Return zeros in the shape of a symbol.

    Args:
        symbol: a symbol. If it has a mask, that of the probe is `probe_mask`.
        sizes: the size of an open batch axis, and the size of all other open axes.
        device: the device of the zeros.
    """
    shape = probe_shape(symbol, sizes)
    if not symbol.masked:
        return torch.zeros(shape, dtype=symbol.dtype, device=device)
    index = Index.from_mask(probe_mask(shape[: symbol.num_step_axes]), symbol.mask_source)
    features = shape[symbol.num_step_axes :]
    values = torch.zeros((index.num_steps, *features), dtype=symbol.dtype, device=device)
    return Packed(values, index, values.new_zeros((index.num_gaps, *features)))


def probe_shape(symbol: SymbolicTensor, sizes: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of a symbol with sizes for its open axes: the first for the batch, the second for all others."""
    return tuple(sizes[min(axis, 1)] if size is None else size for axis, size in enumerate(symbol.shape))


def probe_mask(grid: Sequence[int]) -> NDArray[np.bool_]:
    """Return a mask with a gap, padding and an empty sequence, for data without values."""
    check_plan(*grid, grid_name="a mask")
    mask = np.zeros(tuple(grid), dtype=bool)
    mask[:1, ..., :3] = True
    mask[:1, ..., 1:2] = mask.shape[-1] < 3
    return mask
