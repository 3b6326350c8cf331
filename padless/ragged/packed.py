"""The real steps and nothing else.

    grid (B, T, ...) --pack--> Packed(values (N, ...), index) --layers--> Packed --unpack--> grid, only at the edge

The law: `unpack(pack(x, mask))` is `x` wherever `mask` is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from padless._torch_compat import pytree
from padless.errors import MaskError, ShapeError
from padless.ragged.device import to_device
from padless.ragged.gather import gather_rows, gather_rows_or_zero, scatter_rows
from padless.ragged.index import Index
from padless.ragged.mask import as_mask, intersect_with_mask, rearrange_index
from padless.ragged.tensor_like import TensorLike

NESTED_LISTS_ADVICE = (
    "Sequences of sequences cannot be given as nested lists, which look like sequences of vectors: give "
    "pack(x, mask=mask), a padded array and a boolean mask (batch, sentences, words), or padded ids to an "
    "Embedding with mask_zero."
)  # for the messages of all that reads data
_showing: ContextVar[bool] = ContextVar("showing", default=True)


@contextmanager
def computing_gap_values(needed: bool) -> Iterator[None]:
    """While this lasts, whether anybody will look at what masked steps show; if not, layers make no fill."""
    token = _showing.set(needed)
    try:
        yield
    finally:
        _showing.reset(token)


def gap_values_needed() -> bool:
    """Whether what is made now needs a fill."""
    return _showing.get()


@dataclass(eq=False, repr=False)
class Packed(TensorLike):
    """The N real steps of a padded grid, `values` `(N, ...)`, and the `index` that knows where they stand.

    From outside it reads as the grid: `shape` is `(B, T, ...)`, `mask` the boolean grid, `numpy()` the padded array,
    iteration gives one tensor per sequence. `fill` is what the grid shows where no step is, one row per gap `(G, ...)`;
    None shows zeros (a layer that looks at the grid may need a row for each masked cell `(M, ...)`, and gets it while
    it runs). Torch functions work on it as long as they keep the mask, and raise `MaskLost` otherwise.

    >>> h = pack(torch.tensor([[1., 2., 9.], [3., 9., 9.]]), mask=[[1, 1, 0], [1, 0, 0]])
    >>> h.values, tuple(h.shape)
    (tensor([1., 2., 3.]), (2, 3))
    >>> (h * 10).numpy().tolist()
    [[10.0, 20.0, 0.0], [30.0, 0.0, 0.0]]
    """

    values: Tensor
    index: Index
    gap_values: Tensor | None = None

    __array_ufunc__ = None  # NumPy must not take it apart
    functions: ClassVar[Callable[..., Any]]  # the table of torch functions that keep a mask; functions.py puts it here

    def __post_init__(self) -> None:
        if self.values.shape[:1] != (self.index.num_steps,):
            raise ShapeError(
                f"Packed values must have one row for each of the {self.index.num_steps} real steps; "
                f"got shape {tuple(self.values.shape)}. To pack a padded array use padless.pack."
            )

    @staticmethod
    def from_sequences(sequences: Sequence[Any], dtype: torch.dtype | None = None) -> Packed:
        """Sequences of different lengths, each `(length, ...)`, side by side; the grid is as wide as the longest.

        >>> Packed.from_sequences([[1, 2, 3], [], [4]]).numpy().tolist()
        [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
        """
        rows = [_row(s, number, dtype) for number, s in enumerate(sequences)]
        if any(row.ndim == 0 for row in rows):
            raise ShapeError(
                "Packed.from_sequences expected a list of sequences, each with a time axis; got scalars. "
                "For one sequence give a list that holds it."
            )
        full = [row for row in rows if len(row)]  # an empty list has no dtype and no features of its own
        rest = {tuple(row.shape[1:]) for row in full} or {tuple(row.shape[1:]) for row in rows} or {()}
        if len(rest) > 1:
            raise ShapeError(f"All sequences must have the same feature shape; got {sorted(rest)}.")
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        values = torch.cat(full) if full else torch.zeros((0, *rest.pop()), dtype=rows[0].dtype if rows else dtype)
        return Packed(values, Index.from_lengths(lengths, mask_source="a list of sequences"))

    @property
    def num_step_axes(self) -> int:
        """How many leading axes of the grid are batch and time: 2, or more under outer levels."""
        return len(self.index.grid)

    @property
    def shape(self) -> torch.Size:
        """The shape of the padded grid, `(B, T, ...)`."""
        return torch.Size((*self.index.grid, *self.values.shape[1:]))

    @property
    def ndim(self) -> int:
        """The number of axes of the grid."""
        return self.num_step_axes + self.values.ndim - 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the values are; the index lives on the host."""
        return self.values.device

    @property
    def requires_grad(self) -> bool:
        """Whether the values take part in autograd."""
        return self.values.requires_grad

    @property
    def mask(self) -> Tensor:
        """The boolean grid of real steps, on the device of the values."""
        return to_device(self.index.mask.copy(), self.device)  # the index is shared

    @property
    def lengths(self) -> Tensor:
        """How many real steps each sequence has."""
        return self.index.tensor("lengths", self.device).clone()

    def with_values(self, values: Tensor, gap_values: Tensor | None = None) -> Packed:
        """Other values on the same steps."""
        return Packed(values, self.index, gap_values)

    def map_values(self, function: Callable[[Tensor], Tensor]) -> Packed:
        """A function of single steps, of the values and of what gaps show."""
        return self.with_values(function(self.values), None if self.gap_values is None else function(self.gap_values))

    def unpack(self, padding: float | None = None) -> Tensor:
        """The padded grid `(B, T, ...)`; masked steps show `fill`, or the number `padding` where one is given."""
        index, rest = self.index, self.values.shape[1:]
        fill = None if index.full or padding is not None else self.gap_values
        if fill is not None and not (torch.is_grad_enabled() and self.values.requires_grad):
            return self._grid_cells(fill).reshape(*index.grid, *rest)
        grid = scatter_rows(self.values, index.tensor("flat", self.device), index.shape[0] * index.shape[1])
        if not index.full and (padding is not None or self.gap_values is not None):
            if padding is not None or self.gap_values is None:
                shown = self.values.new_full((len(index.masked_cells), *rest), padding or 0)
            else:
                shown = self.gap_values_per_cell()
            grid = grid.index_copy(0, index.tensor("masked_cells", self.device), shown)
        return grid.reshape(*index.grid, *rest)

    def unpack_into(self, grid: Tensor) -> None:
        """`unpack`, without gradients, into a contiguous grid of that shape and dtype: nothing is copied twice."""
        cells = grid.view(-1, *self.values.shape[1:])
        if self.index.full:
            cells.copy_(self.values)
        elif self.gap_values is not None:
            self._grid_cells(self.gap_values, cells)
        else:
            cells.zero_().index_copy_(0, self.index.tensor("flat", self.device), self.values)

    def _grid_cells(self, fill: Tensor, out: Tensor | None = None) -> Tensor:
        """Every cell of the grid with what it shows, one below the other."""
        return torch.index_select(
            torch.cat([self.values, fill]), 0, self.index.tensor(self._cell_source_name(fill), self.device), out=out
        )

    def _cell_source_name(self, fill: Tensor) -> Literal["cell_source", "cell_source_per_cell"]:
        """Where a cell finds what it shows, among values and fill."""
        return "cell_source" if len(fill) == self.index.num_gaps else "cell_source_per_cell"

    def gap_values_per_cell(self) -> Tensor:
        """What each masked cell of the grid shows, `(M, ...)`."""
        index = self.index
        if self.gap_values is None:
            return self.values.new_zeros((len(index.masked_cells), *self.values.shape[1:]))
        if len(self.gap_values) == len(index.masked_cells):
            return self.gap_values
        return self.gap_values.index_select(0, index.tensor("gap_of_cell", self.device))

    def sequences(self) -> list[Tensor]:
        """One tensor `(length, ...)` per sequence, without padding."""
        return list(torch.split(self.values, self.index.lengths.tolist()))

    def numpy(self) -> NDArray[Any]:
        """The padded grid as a NumPy array, detached."""
        return self.unpack().detach().cpu().numpy()

    def reindex(self, index: Index) -> Packed:
        """These values on the steps of another index of the same grid.

        Fewer steps are a gather. A step that is not here is read from `fill`; without one it is a `MaskError`.
        """
        if self.index is index or self.index.equals(index):
            return self
        if index.grid != self.index.grid:
            raise MaskError(f"A mask of shape {index.grid} does not fit steps on a grid of shape {self.index.grid}.")
        found = self.index.step_of_cell[index.flat]
        if (found >= 0).all():
            return Packed(gather_rows(self.values, to_device(found, self.device)), index)
        if self.gap_values is None:
            row, step = divmod(int(index.flat[found < 0][0]), index.shape[1])
            raise MaskError(
                f"The given mask marks step {step} of row {row} as real, but the input, masked by "
                f"{self.index.mask_source}, holds nothing there. Mark fewer steps, or mask the data differently "
                f"at the start."
            )
        source = getattr(self.index, self._cell_source_name(self.gap_values))[index.flat]
        return Packed(torch.cat([self.values, self.gap_values])[to_device(source, self.device)], index)

    def rearrange_cells(self, cells: NDArray[np.int64], every_cell: bool = False) -> Packed:
        """The grid seen through `cells`, flat cells of this grid arranged as another: slices, flips.

        A gap that is put together from several shows zeros, or with `every_cell` what each of its cells showed.
        """
        index, steps, masked = rearrange_index(self.index, cells)
        values = self.values.index_select(0, to_device(steps, self.device))
        if self.gap_values is None:
            return Packed(values, index)
        gaps = self.index.gap_of_cell[masked]
        first = np.full(index.num_gaps, -1, dtype=np.int64)
        first[index.gap_of_cell[::-1]] = np.arange(len(masked))[::-1]
        mixed = gaps != gaps[first[index.gap_of_cell]]
        if every_cell and mixed.any() or len(self.gap_values) > self.index.num_gaps:
            return Packed(values, index, self.gap_values_per_cell()[to_device(masked, self.device)])
        shown = gaps[first]
        shown[index.gap_of_cell[mixed]] = -1
        return Packed(values, index, gather_rows_or_zero(self.gap_values, to_device(shown, self.device)))

    def pad_to_width(self, width: int) -> Packed:
        """The same steps on a grid of this many columns, with more padding on the right; unchanged if it is too wide."""
        index = self.index
        if index.outer is not None or index.shape[1] >= width:
            return self
        mask = np.zeros((index.shape[0], width), dtype=bool)
        mask[index.rows, index.positions] = True
        return Packed(self.values, Index(mask, mask_source=index.mask_source))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __len__(self) -> int:
        return self.index.grid[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.sequences())

    def __bool__(self) -> bool:
        raise TypeError("The truth of a Packed is ambiguous; compare numbers, for example `packed.lengths.sum() > 0`.")

    def __repr__(self) -> str:
        return f"Packed(shape={tuple(self.shape)}, {self.index.num_steps} real steps, {self.dtype}, {self.device})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return cls.functions(func, args, kwargs or {})


def pack(values: Any, mask: Any = None, lengths: Any = None, like: Packed | Index | None = None) -> Packed:
    """Keep the real steps of a padded array `(B, T, ...)`.

    Which steps are real is said by a boolean `mask` `(B, T)`, by `lengths` `(B,)` of right-padded rows, or by another
    `Packed` or `Index` that it should be `like`; without any, by the sequences themselves if `values` is a list of
    them, else all are real. What is already `Packed` is narrowed by a mask. What stands at masked steps is not looked at.

    A `Packed` is brought to the steps of `like` by its place in the grid if it stands on more steps than those. Raises
    `MaskError` if the mask does not fit the data, `ShapeError` if lengths disagree.

    >>> pack([[1, 2], [3]]).index.num_steps
    3
    >>> pack(np.zeros((2, 3, 5)), lengths=[3, 1]).values.shape
    torch.Size([4, 5])
    """
    if sum(given is not None for given in (mask, lengths, like)) > 1:
        raise MaskError("pack takes one of `mask`, `lengths` and `like`; got more than one.")
    mask = mask.unpack(padding=0) if isinstance(mask, Packed) else mask
    if isinstance(values, Packed) or _is_ragged(values):
        packed = values if isinstance(values, Packed) else Packed.from_sequences(values)
        if like is not None:
            return _like(packed, like if isinstance(like, Index) else like.index, packed is values)
        if lengths is not None:
            mask = _from_lengths(lengths, packed.index.grid)
        if mask is None:
            return packed
        index = intersect_with_mask(packed.index, _whole(as_mask(mask, tuple(packed.shape)), packed.index), "the given mask")
        return packed.reindex(index)
    grid = values if isinstance(values, Tensor) else torch.as_tensor(_owned(np.asarray(values)))
    if grid.ndim < 2:
        raise ShapeError(f"pack expected an array of shape (batch, steps, ...); got {tuple(grid.shape)}.")
    if like is not None:
        index = like if isinstance(like, Index) else like.index
        if tuple(grid.shape[: len(index.grid)]) != index.grid:
            raise ShapeError(
                f"An array of shape {tuple(grid.shape)} cannot be packed like a grid of shape "
                f"{index.grid}: batch and steps must be the same."
            )
    elif lengths is not None:
        index = Index(_from_lengths(lengths, tuple(grid.shape)), mask_source="lengths")
    elif mask is not None:
        index = Index.from_mask(as_mask(mask, tuple(grid.shape)), "the given mask")
    else:
        index = Index(np.ones(grid.shape[:2], dtype=bool), mask_source="no mask: every step is real")
    return Packed(gather_real_steps(grid, index), index)


def gather_real_steps(grid: Tensor, index: Index) -> Tensor:
    """The real steps `(N, ...)` of a grid `(B, T, ...)` that has the leading shape of the index."""
    flat = grid.reshape(index.shape[0] * index.shape[1], *grid.shape[len(index.grid) :])
    return flat if index.full else gather_rows(flat, index.tensor("flat", grid.device))


def unpack(packed: Packed, padding: float | None = None) -> Tensor:
    """The padded grid of a `Packed`; a plain tensor is a grid already."""
    return packed.unpack(padding) if isinstance(packed, Packed) else packed


def _row(sequence: Any, number: int, dtype: torch.dtype | None) -> Tensor:
    """One sequence as a tensor; Python's floats get torch's default dtype."""
    if isinstance(sequence, Tensor):
        return sequence if dtype is None else sequence.to(dtype)
    try:
        array = np.asarray(sequence)
    except ValueError as ragged:
        raise ShapeError(
            f"Sequence {number} has steps of unequal size: each step must have the same feature shape. {NESTED_LISTS_ADVICE}"
        ) from ragged
    if array.dtype.kind not in "iufbc":
        raise ShapeError(f"Sequence {number} must hold numbers; got {array.dtype}.")
    if dtype is None and array.dtype == np.float64 and not isinstance(sequence, np.ndarray):
        dtype = torch.get_default_dtype()
    return torch.as_tensor(_owned(array), dtype=dtype)


def _owned(array: NDArray[Any]) -> NDArray[Any]:
    """An array that torch can share: writeable, and without steps backwards."""
    return array if array.flags.writeable and all(s >= 0 for s in array.strides) else array.copy()


def _is_ragged(values: Any) -> bool:
    """Whether this is a list of sequences: anything but a rectangular array under way."""
    return isinstance(values, list | tuple) and all(isinstance(v, list | tuple | np.ndarray | Tensor) for v in values)


def _like(packed: Packed, index: Index, by_place: bool) -> Packed:
    """Sequences on the steps of `index`: equal lengths row by row, wherever the grid puts them; or fewer steps."""
    if packed.index.grid == index.grid and (by_place or packed.index.full):
        if (packed.index.step_of_cell[index.flat] >= 0).all():
            return packed.reindex(index)
    if packed.index.shape[0] != index.shape[0] or not np.array_equal(packed.index.lengths, index.lengths):
        theirs, ours = packed.index.lengths, index.lengths
        row = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
        raise ShapeError(
            f"{len(theirs)} sequences cannot be packed like {len(ours)}: row {row} has "
            f"{theirs[row] if row < len(theirs) else 'no'} steps, expected "
            f"{ours[row] if row < len(ours) else 'no such row'}."
        )
    return Packed(packed.values, index)


def _from_lengths(lengths: Any, grid: tuple[int, ...]) -> NDArray[np.bool_]:
    array = np.asarray(lengths.cpu() if isinstance(lengths, Tensor) else lengths)
    if array.shape != grid[:1] or array.dtype.kind not in "iu" or (array < 0).any() or (array > grid[1]).any():
        raise ShapeError(
            f"`lengths` must be {grid[0]} integers between 0 and {grid[1]}, one per row of the data of "
            f"shape {grid}; got {array!r}."
        )
    return np.arange(grid[1]) < array[:, None]


def _whole(mask: NDArray[np.bool_], index: Index) -> NDArray[np.bool_]:
    """A mask of the outer level spread over the inner steps."""
    return np.broadcast_to(mask.reshape(*mask.shape, *(1,) * (len(index.grid) - mask.ndim)), index.grid)


pytree.register_pytree_node(
    Packed,
    lambda p: ([p.values, p.gap_values], p.index),
    lambda leaves, index: _rebuild(list(leaves), index),
    serialized_type_name="padless.Packed",
)


def _rebuild(leaves: list[Any], index: Any) -> Packed:
    """A Packed around whatever leaves a tree function made, tensors or not."""
    packed = object.__new__(Packed)
    packed.values, packed.gap_values, packed.index = leaves[0], leaves[1], index
    return packed
