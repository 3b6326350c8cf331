"""Hold the real steps of a padded batch without its padding.

    grid (B, T, ...) --pack--> Packed(values (N, ...), index) --layers--> Packed --unpack--> grid, only at the edge

`unpack(pack(x, mask))` is equal to `x` wherever `mask` is True.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from padless._torch_compat import pytree
from padless.errors import MaskError, MaskLost, ShapeError
from padless.ragged.call_context import current_call
from padless.ragged.device import to_device, to_host
from padless.ragged.gather import gather_rows, gather_rows_or_zero, scatter_rows
from padless.ragged.index import Index
from padless.ragged.inference_mode import in_shape_inference
from padless.ragged.mask import as_mask, check_columns, intersect_with_mask, rearrange_index
from padless.ragged.masked_array import is_masked_array, refuse_masked_array, split_masked_array
from padless.ragged.numeric import array_of, numeric_array, numeric_tensor, tensor_of
from padless.ragged.plan_limit import check_plan
from padless.ragged.row_names import row_name
from padless.ragged.tensor_like import TensorLike

ArrayLike: TypeAlias = "NDArray[Any] | np.generic | Tensor | Packed | Sequence[Any] | float"
"""Data that becomes a tensor or a `Packed`: an array, a list, a list of sequences, a number."""

MaskLike: TypeAlias = "NDArray[np.generic] | Tensor | Packed | Sequence[Any]"
"""Which steps are real: an array of booleans (or 0 and 1) of shape `(B, T)`, or one list for each sequence."""

NESTED_LISTS_ADVICE = (
    "Sequences of sequences cannot be given as nested lists, which look like sequences of vectors. Give "
    "pack(x, mask=mask), a padded array and a boolean mask (batch, sentences, words), or padded ids to an "
    "Embedding with mask_zero."
)  # a part of error messages of everything that reads data
_gap_values_needed: ContextVar[bool] = ContextVar("gap_values_needed", default=True)


@contextmanager
def computing_gap_values(enabled: bool) -> Iterator[None]:
    """Set whether the layers called in this context must compute gap values."""
    token = _gap_values_needed.set(enabled)
    try:
        yield
    finally:
        _gap_values_needed.reset(token)


def gap_values_needed() -> bool:
    """Return whether the current call must compute gap values, because the padded grid of its output is read."""
    return _gap_values_needed.get()


@dataclass(eq=False, repr=False)
class Packed(TensorLike):
    """The N real steps of a padded grid `(B, T, ...)`.

    A `Packed` looks like the grid: `shape` is `(B, T, ...)`, `mask` is the boolean grid, `numpy()` is the padded array,
    and iteration gives one tensor for each sequence. Torch functions that keep the mask accept it. All other torch
    functions raise `MaskLost`. torch's tree functions split it into `values` and `gap_values`.

    Args:
        values: the real steps, `(N, ...)`, sequence by sequence in time order.
        index: which cells of the grid the steps are.
        gap_values: what the grid shows at masked steps, one row for each gap `(G, ...)`; None shows zeros. Inside a
            layer that reads the grid there may be one row for each masked cell `(M, ...)` instead.

    Raises:
        ShapeError: if `values` does not have N rows.

    Example:
        >>> h = pack(torch.tensor([[1., 2., 9.], [3., 9., 9.]]), mask=[[1, 1, 0], [1, 0, 0]])
        >>> h.values, tuple(h.shape)
        (tensor([1., 2., 3.]), (2, 3))
        >>> (h * 10).numpy().tolist()
        [[10.0, 20.0, 0.0], [30.0, 0.0, 0.0]]
    """

    values: Tensor
    index: Index
    gap_values: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.shape[:1] != (self.index.num_steps,):
            raise ShapeError(
                f"Packed values must have one row for each of the {self.index.num_steps} real steps; "
                f"got shape {tuple(self.values.shape)}. To pack a padded array use padless.pack."
            )

    @staticmethod
    def from_sequences(sequences: Sequence[ArrayLike], dtype: torch.dtype | None = None) -> Packed:
        """Pack sequences of different lengths.

        Args:
            sequences: arrays, tensors or lists, each of shape `(length, ...)`, with the same feature shape.
            dtype: the dtype of the values; by default that of the sequences.

        Returns:
            The steps of all sequences. The grid is as wide as the longest sequence.

        Raises:
            DataError: if a sequence does not hold numbers.
            ShapeError: if a sequence has no time axis, or if feature shapes differ.

        Example:
            >>> Packed.from_sequences([[1, 2, 3], [], [4]]).numpy().tolist()
            [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
        """
        tensors = [_sequence_tensor(sequence, number, dtype) for number, sequence in enumerate(sequences)]
        if any(tensor.ndim == 0 for tensor in tensors):
            raise ShapeError(
                "Packed.from_sequences expected a list of sequences, each with a time axis; got scalars. "
                "For one sequence give a list that holds it."
            )
        nonempty = [tensor for tensor in tensors if len(tensor)]  # an empty list does not say its dtype and features
        feature_shapes = {tuple(tensor.shape[1:]) for tensor in nonempty or tensors} or {()}
        if len(feature_shapes) > 1:
            raise ShapeError(f"All sequences must have the same feature shape; got {sorted(feature_shapes)}.")
        if nonempty:
            values = torch.cat(nonempty)
        else:
            values = torch.zeros((0, *feature_shapes.pop()), dtype=tensors[0].dtype if tensors else dtype)
        lengths = np.array([len(tensor) for tensor in tensors], dtype=np.int64)
        return Packed(values, Index.from_lengths(lengths, mask_source="a list of sequences", were_padded=False))

    @property
    def num_step_axes(self) -> int:
        """The number of leading axes that are batch and time: 2, or more with outer levels."""
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
        """The device of the values. The index is on the host."""
        return self.values.device

    @property
    def requires_grad(self) -> bool:
        """Whether the values require a gradient."""
        return self.values.requires_grad

    @property
    def mask(self) -> Tensor:
        """The boolean grid of real steps, on the device of the values."""
        return to_device(self.index.mask.copy(), self.device)  # a copy, because the index is shared

    @property
    def lengths(self) -> Tensor:
        """The number of real steps of each sequence, `(B,)`."""
        return self.index.tensor("lengths", self.device).clone()

    def with_values(self, values: Tensor, gap_values: Tensor | None = None) -> Packed:
        """Return other values `(N, ...)` and gap values on the same steps."""
        return Packed(values, self.index, gap_values)

    def map_values(self, function: Callable[[Tensor], Tensor]) -> Packed:
        """Apply a function that treats each step alone to the values and to the gap values."""
        return self.with_values(function(self.values), None if self.gap_values is None else function(self.gap_values))

    def unpack(self, padding: float | None = None) -> Tensor:
        """Return the padded grid `(B, T, ...)`.

        Args:
            padding: the number at masked steps; by default the gap values, or 0 without gap values.
        """
        index, gap_values = self.index, self.gap_values
        if index.full or padding is not None:
            gap_values = None
        if gap_values is not None and not (torch.is_grad_enabled() and self.values.requires_grad):
            cells = self._gather_cells(gap_values)
        else:  # the backward pass of a scatter is cheaper than that of a gather from a concatenation
            cells = scatter_rows(self.values, index.tensor("flat", self.device), index.shape[0] * index.shape[1])
            masked_values = None
            if gap_values is not None:
                masked_values = self.gap_values_per_cell()
            elif padding and not index.full:
                masked_values = self.values.new_full((len(index.masked_cells), *self.values.shape[1:]), padding)
            if masked_values is not None:
                cells = cells.index_copy(0, index.tensor("masked_cells", self.device), masked_values)
        return cells.reshape(*index.grid, *self.values.shape[1:])

    def unpack_into(self, grid: Tensor) -> None:
        """Write the padded grid into a contiguous tensor of its shape and dtype, without gradients."""
        cells = grid.view(-1, *self.values.shape[1:])
        if self.index.full:
            cells.copy_(self.values)
        elif self.gap_values is not None:
            self._gather_cells(self.gap_values, cells)
        else:
            cells.zero_().index_copy_(0, self.index.tensor("flat", self.device), self.values)

    def _gather_cells(self, gap_values: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the flattened grid `(B * T, ...)`, with gap values at masked steps."""
        source = self.index.tensor(self._cell_source_name(gap_values), self.device)
        return torch.index_select(torch.cat([self.values, gap_values]), 0, source, out=out)

    def _cell_source_name(self, gap_values: Tensor) -> Literal["cell_source", "cell_source_per_cell"]:
        """Return the array of the index that says which row of `cat([values, gap_values])` a cell shows."""
        return "cell_source" if len(gap_values) == self.index.num_gaps else "cell_source_per_cell"

    def gap_values_per_cell(self) -> Tensor:
        """Return what each masked cell of the grid shows, `(M, ...)`."""
        index = self.index
        if self.gap_values is None:
            return self.values.new_zeros((len(index.masked_cells), *self.values.shape[1:]))
        if len(self.gap_values) == len(index.masked_cells):
            return self.gap_values
        return self.gap_values.index_select(0, index.tensor("gap_of_cell", self.device))

    def sequences(self) -> list[Tensor]:
        """Return one tensor `(length, ...)` for each sequence, without padding."""
        return list(torch.split(self.values, self.index.lengths.tolist()))

    def numpy(self) -> NDArray[Any]:
        """Return the padded grid as a NumPy array.

        Raises:
            MaskLost: if a gradient is required, or in a call of a layer or model. An array has neither gradient nor mask.
        """
        self._check_read("numpy()")
        return self.to_array()

    def to_array(self) -> NDArray[Any]:
        """Return the padded grid as a NumPy array, without gradients, also in a call. User code calls `numpy`."""
        return to_host(self.unpack().detach()).numpy()

    def _check_read(self, reader: str) -> None:
        """Raise `MaskLost` where an array in place of this `Packed` would lose a gradient or a mask."""
        layer = current_call().layer
        if layer or in_shape_inference() or self.requires_grad:
            reason = f"inside layer {layer!r}" if layer else "while gradients are required"
            raise MaskLost(
                f"{reader} of {self!r} {reason} would give the padded grid without its gradient and without the mask "
                f"created by {self.index.mask_source}. Functions of NumPy and keras.ops read it so. Ways out: torch "
                f"functions and layers, which accept a Packed; `.values` for the real steps or `unpack()` for the grid, as "
                f"torch tensors; `.detach().numpy()` outside of a layer, to look at numbers."
            )

    def reindex(self, index: Index) -> Packed:
        """Return the values at the steps of another index of the same grid.

        A step that this `Packed` does not have is read from the gap values.

        Raises:
            MaskError: if the grids differ, or if there are no gap values for such a step.
        """
        if self.index is index or self.index.equals(index):
            return self
        if index.grid != self.index.grid:
            raise MaskError(f"A mask of shape {index.grid} does not fit steps on a grid of shape {self.index.grid}.")
        step_numbers = self.index.step_of_cell[index.flat]
        if (step_numbers >= 0).all():
            return Packed(gather_rows(self.values, to_device(step_numbers, self.device)), index)
        if self.gap_values is None:
            row, step = divmod(int(index.flat[step_numbers < 0][0]), index.shape[1])
            raise MaskError(
                f"The given mask marks step {step} of {row_name(row)} as real, but the input has no value there: it was "
                f"masked by {self.index.mask_source}. Mark fewer steps, or mask the data differently at the start."
            )
        source = getattr(self.index, self._cell_source_name(self.gap_values))[index.flat]
        return Packed(torch.cat([self.values, self.gap_values])[to_device(source, self.device)], index)

    def rearrange_cells(self, cells: NDArray[np.int64], every_cell: bool = False, columns_agree: bool = True) -> Packed:
        """Rearrange the cells of the grid, as a slice or a flip does.

        A gap of the new grid may join cells of several old gaps. It then shows zeros.

        Args:
            cells: for each cell of the new grid, in its shape, the flat cell of this grid.
            every_cell: keep what each masked cell shows, with one row of gap values for each cell where necessary.
            columns_agree: whether the same cells of a plain tensor are at the same columns.
        """
        index, steps, masked = rearrange_index(self.index, cells, columns_agree)
        values = self.values.index_select(0, to_device(steps, self.device))
        if self.gap_values is None:
            return Packed(values, index)
        old_gap_of_cell = self.index.gap_of_cell[masked]
        first_of_gap = np.full(index.num_gaps, -1, dtype=np.int64)
        first_of_gap[index.gap_of_cell[::-1]] = np.arange(len(masked))[::-1]
        mixed = old_gap_of_cell != old_gap_of_cell[first_of_gap[index.gap_of_cell]]
        one_row_per_cell = len(self.gap_values) > self.index.num_gaps
        if every_cell and mixed.any() or one_row_per_cell:
            return Packed(values, index, self.gap_values_per_cell()[to_device(masked, self.device)])
        old_gaps = old_gap_of_cell[first_of_gap]
        old_gaps[index.gap_of_cell[mixed]] = -1
        return Packed(values, index, gather_rows_or_zero(self.gap_values, to_device(old_gaps, self.device)))

    def pad_to_width(self, width: int) -> Packed:
        """Return the same steps on a grid of `width` columns, with more padding on the right.

        A grid that is as wide already, or that has outer levels, is returned as it is.
        """
        index = self.index
        if index.outer is not None or index.shape[1] >= width:
            return self
        check_plan(index.shape[0], width, grid_name="a padded mask")
        mask = np.zeros((index.shape[0], width), dtype=bool)
        mask[index.rows, index.positions] = True
        return Packed(self.values, Index(mask, mask_source=index.mask_source, columns_agree=index.columns_agree))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        self._check_read("A NumPy array")
        array = self.to_array()
        return array if dtype is None else array.astype(dtype)

    def __len__(self) -> int:
        return self.index.grid[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.sequences())

    def __bool__(self) -> bool:
        raise TypeError("The truth of a Packed is ambiguous; compare numbers, for example `packed.lengths.sum() > 0`.")

    def __repr__(self) -> str:
        return f"Packed(shape={tuple(self.shape)}, {self.index.num_steps} real steps, {self.dtype}, {self.device})"


# ------------------------------------------------------------------------------------------------ pack and unpack


def pack(
    values: ArrayLike,
    mask: MaskLike | None = None,
    lengths: ArrayLike | None = None,
    like: Packed | Index | None = None,
) -> Packed:
    """Gather the real steps of a padded array, of a list of sequences, or of a `Packed`.

    The arguments and errors are those of `padless.pack`, which reads other containers, too.
    """
    index = like.index if isinstance(like, Packed) else like
    if index is not None and not isinstance(values, Packed | list | tuple):
        check_columns(index, np.shape(values), "`values`")
    packed = pack_shared(values, mask, lengths, like)
    if packed.index.full and not isinstance(values, Packed | list | tuple):  # else the steps were gathered or joined
        return Packed(packed.values.clone(), packed.index)
    return packed


def pack_shared(
    values: ArrayLike,
    mask: MaskLike | None = None,
    lengths: ArrayLike | None = None,
    like: Packed | Index | None = None,
) -> Packed:
    """Pack as `pack`, without a copy where all steps of an array are real. Use it where the result is not kept."""
    if sum(argument is not None for argument in (mask, lengths, like)) > 1:
        raise MaskError("pack takes one of `mask`, `lengths` and `like`; got more than one.")
    if isinstance(mask, Packed):
        mask = mask.unpack(padding=0)
    like_index = like.index if isinstance(like, Packed) else like
    if is_masked_array(values):
        numbers, is_real = split_masked_array("`values`", values)
        values = pack_shared(numbers, is_real)
    if isinstance(values, Packed):
        return _select_steps(values, mask, lengths, like_index, by_position=True)
    if _is_list_of_sequences(values):
        sequences = Packed.from_sequences(cast("Sequence[ArrayLike]", values))
        return _select_steps(sequences, mask, lengths, like_index, by_position=False)
    grid = _grid_tensor(values)
    if grid.ndim < 2:
        raise ShapeError(f"pack expected an array of shape (batch, steps, ...); got {tuple(grid.shape)}.")
    index = _index_of_grid(tuple(grid.shape), mask, lengths) if like_index is None else like_index
    if tuple(grid.shape[: len(index.grid)]) != index.grid:
        raise ShapeError(
            f"An array of shape {tuple(grid.shape)} cannot be packed like a grid of shape "
            f"{index.grid}: batch and steps must be the same."
        )
    return Packed(gather_real_steps(grid, index), index)


def unpack(packed: Packed | Tensor, padding: float | None = None) -> Tensor:
    """Return the padded grid of a `Packed`; a plain tensor is returned as it is.

    Args:
        packed: a `Packed`, or a tensor.
        padding: the number at masked steps; by default the gap values, or 0 without gap values.
    """
    return packed.unpack(padding) if isinstance(packed, Packed) else packed


def gather_real_steps(grid: Tensor, index: Index) -> Tensor:
    """Return the real steps `(N, ...)` of a grid `(B, T, ...)` that has the leading shape of the index."""
    cells = grid.reshape(index.shape[0] * index.shape[1], *grid.shape[len(index.grid) :])
    return cells if index.full else gather_rows(cells, index.tensor("flat", grid.device))


def _index_of_grid(shape: tuple[int, ...], mask: MaskLike | None, lengths: ArrayLike | None) -> Index:
    """Return the index of a grid from the mask or the lengths; without either all cells are real."""
    if lengths is not None:
        return Index(_mask_from_lengths(lengths, shape), mask_source="lengths")
    if mask is not None:
        return Index.from_mask(as_mask(mask, shape), "the given mask")
    return Index(np.ones(shape[:2], dtype=bool), mask_source="no mask: every step is real")


def _select_steps(
    packed: Packed, mask: MaskLike | None, lengths: ArrayLike | None, like: Index | None, by_position: bool
) -> Packed:
    """Keep the steps of a `Packed` that the mask, the lengths or another index mark."""
    if like is not None:
        return _pack_like(packed, like, by_position)
    if lengths is not None:
        marked = _mask_from_lengths(lengths, packed.index.grid)
    elif mask is not None:
        marked = as_mask(mask, tuple(packed.shape))
    else:
        return packed
    if not by_position and (missing := marked & ~packed.index.mask).any():
        row, step = np.argwhere(missing)[0]
        raise MaskError(
            f"`{'mask' if lengths is None else 'lengths'}` marks step {step} of {row_name(row)} as real, but sequence {row} "
            f"has {packed.index.lengths[row]} steps."
        )
    grid = packed.index.grid
    marked = np.broadcast_to(marked.reshape(*marked.shape, *(1,) * (len(grid) - marked.ndim)), grid)  # all inner steps
    return packed.reindex(intersect_with_mask(packed.index, marked, "the given mask"))


def _pack_like(packed: Packed, index: Index, by_position: bool) -> Packed:
    """Put sequences on the steps of an index.

    Args:
        packed: the sequences.
        index: the steps of the result.
        by_position: select steps by their cells if the grids agree. Else the lengths must agree row by row, and the
            cells do not matter.
    """
    same_grid = packed.index.grid == index.grid and (by_position or packed.index.full)
    if same_grid and (packed.index.step_of_cell[index.flat] >= 0).all():
        return packed.reindex(index)
    lengths, expected = packed.index.lengths, index.lengths
    if not np.array_equal(lengths, expected):
        row = first_difference(lengths, expected)
        raise ShapeError(
            f"{len(lengths)} sequences cannot be packed like {len(expected)}: {row_name(row)} has "
            f"{lengths[row] if row < len(lengths) else 'no'} steps, expected "
            f"{expected[row] if row < len(expected) else 'no such row'}."
        )
    return Packed(packed.values, index)


def first_difference(first: NDArray[np.generic], second: NDArray[np.generic]) -> int:
    """Return the first position where two arrays `(n,)` and `(m,)` differ; the end of the shorter counts."""
    num_common = min(len(first), len(second))
    positions = np.flatnonzero(first[:num_common] != second[:num_common])
    return int(positions[0]) if len(positions) else num_common


def _grid_tensor(values: ArrayLike) -> Tensor:
    """Return a padded array as a tensor."""
    if isinstance(values, Tensor):
        return numeric_tensor("The array", values)
    array = array_of(values)
    if array is None:
        raise ShapeError(
            f"pack expected a padded array or a list of sequences; got a list whose entries have unequal lengths. "
            f"{NESTED_LISTS_ADVICE}"
        )
    return tensor_of(numeric_array("The array", array, source=values, complex_numbers=True))


def _sequence_tensor(sequence: ArrayLike, number: int, dtype: torch.dtype | None) -> Tensor:
    """Return a sequence as a tensor; a list of Python floats has torch's default dtype."""

    def place(index: tuple[int, ...]) -> str:
        return f"step {index[0]} of {row_name(number)}" if index else row_name(number)

    name = f"Sequence {number}"
    if isinstance(sequence, Tensor):
        tensor = numeric_tensor(name, sequence, place)
        return tensor if dtype is None else tensor.to(dtype)
    refuse_masked_array(name, sequence)
    array = array_of(sequence)
    if array is None:
        raise ShapeError(
            f"{name} has steps of unequal size: each step must have the same feature shape. {NESTED_LISTS_ADVICE}"
        )
    array = numeric_array(name, array, place, source=sequence, complex_numbers=True)
    if dtype is None and array.dtype == np.float64 and not isinstance(sequence, np.ndarray):
        dtype = torch.get_default_dtype()
    return tensor_of(array, dtype)


def _is_list_of_sequences(values: object) -> bool:
    """Return whether `values` is a list of lists, arrays or tensors."""
    return isinstance(values, list | tuple) and all(isinstance(v, list | tuple | np.ndarray | Tensor) for v in values)


def _mask_from_lengths(lengths: ArrayLike, grid: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the mask of right-padded rows on a grid `(B, T, ...)`."""
    refuse_masked_array("`lengths`", lengths)
    array = np.asarray(to_host(lengths) if isinstance(lengths, Tensor) else lengths)
    is_integer = array.dtype.kind in "iu"
    if array.shape != grid[:1] or not is_integer or (array < 0).any() or (array > grid[1]).any():
        raise ShapeError(
            f"`lengths` must be {grid[0]} integers between 0 and {grid[1]}, one per row of the data of "
            f"shape {grid}; got {array!r}."
        )
    return np.arange(grid[1]) < array[:, None]


# ------------------------------------------------------------------------------------------------ pytree


def _flatten(packed: Packed) -> tuple[list[Tensor | None], Index]:
    return [packed.values, packed.gap_values], packed.index


def _flatten_with_keys(packed: Packed) -> tuple[list[tuple[Any, Tensor | None]], Index]:
    return [(pytree.GetAttrKey(name), getattr(packed, name)) for name in ("values", "gap_values")], packed.index


def _unflatten(leaves: Iterable[Any], index: Any) -> Packed:
    """Return a `Packed` without checks: the leaves may be any objects that a tree function returned."""
    packed = object.__new__(Packed)
    packed.values, packed.gap_values = leaves
    packed.index = index
    return packed


pytree.register_pytree_node(
    Packed, _flatten, _unflatten, serialized_type_name="padless.Packed", flatten_with_keys_fn=_flatten_with_keys
)
