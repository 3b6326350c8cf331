"""Pack data in any container: `padless.pack`."""

from __future__ import annotations

from typing import cast

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from padless.data.columns import read_all
from padless.data.containers import is_object_array, read_column
from padless.data.input_masks import mask_column, read_mask
from padless.ragged import packed
from padless.ragged.index import Index
from padless.ragged.packed import ArrayLike, MaskLike, Packed
from padless.ragged.tensor_like import TensorLike
from padless.types import DataLike


def pack(
    values: DataLike,
    mask: DataLike | None = None,
    lengths: ArrayLike | None = None,
    like: Packed | Index | None = None,
) -> Packed:
    """Gather the real steps of a padded array, or of sequences in any container.

    At most one of `mask`, `lengths` and `like` says which steps are real. Without any, all steps are real. What the
    array contains at masked steps has no effect. The steps of arrays and lists are copied, so later changes of these have
    no effect. The values of a `Packed` are shared.

    Args:
        values: a padded array `(B, T, ...)`, a list of sequences of different lengths, a `Packed`, or another container
            that `fit` accepts, such as a column of pyarrow, polars or pandas. A mask keeps the steps of a `Packed` that it
            marks, too. Masked steps of a NumPy masked array are not real.
        mask: the boolean grid `(B, T)`, True at real steps. For sequences in another container it may be lists of their
            lengths.
        lengths: `(B,)`, the number of real steps of each right-padded row.
        like: a `Packed` or an `Index`; the result has its steps. Sequences must have its lengths. A `Packed` that has
            more steps on the same grid is reduced to them.

    Raises:
        DataError: if the data are not numbers.
        MaskError: if the mask does not fit the data, or if more than one of the three is given. Also for an array that
            is to be packed like a slice of time whose steps are at other columns than in a slice of the array.
        ShapeError: if lengths or shapes do not fit.

    Example:
        >>> pack([[1, 2], [3]]).index.num_steps
        3
        >>> pack(np.zeros((2, 3, 5)), lengths=[3, 1]).values.shape
        torch.Size([4, 5])
    """
    reads_values, reads_mask = _needs_reader(values), mask is not None and _needs_reader(mask)
    if not reads_values and not reads_mask:
        return packed.pack(cast("ArrayLike", values), cast("MaskLike | None", mask), lengths, like)
    column = read_column("values", values, takes_sequences=True)
    if mask is None or lengths is not None or like is not None:
        data = read_all(column)
        return packed.pack(data, cast("MaskLike | None", mask), lengths, like)
    return cast(Packed, read_all(mask_column(column, read_mask("values", mask))))


def _needs_reader(container: object) -> bool:
    """Return whether a container is not an array, a `Packed`, a number, or a list of arrays, lists and numbers."""
    if isinstance(container, Tensor):
        return container.is_nested
    if isinstance(container, PackedSequence):
        return True
    if isinstance(container, list | tuple):
        kinds = set(map(type, container))
        is_sequence = {issubclass(kind, list | tuple | np.ndarray | Tensor) for kind in kinds}
        is_number = {issubclass(kind, np.number | np.bool_ | int | float | complex) for kind in kinds}
        return is_sequence != {True} and is_number != {True} and bool(kinds)
    return not isinstance(container, TensorLike | np.ndarray | np.generic | int | float) or is_object_array(container)
