"""Examples -> batches -> outputs put together again.

    arrays, lists, Packed  --Examples-->  columns, checked once  --batches-->  Batch of Tensor | Packed
    loaders, generators    --Stream---->  one small Examples per batch

A column is one input, target or weight of all examples, kept as it was given (a ragged list as flat values and offsets)
and read by rows: a slice is a view, any other choice of rows is one gather. Nothing here loops over rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from operator import length_hint
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree

from padless.errors import ArgumentError, DataError
from padless.ragged.index import Index, Ints
from padless.ragged.packed import DOCUMENTS, Packed

Kind = Literal["grid", "list", "packed"]
Tree = Any  # Tensor | Packed | None, or a list or a dict by name of these
Rows = slice | Ints


@dataclass
class Batch:
    """Some examples, ready for a step: each leaf of `x`, `y` and `sample_weight` has `rows` rows, or is None.

    `kinds` says for each input in which container it came ("grid", "list" or "packed").
    """

    x: Tree
    y: Tree = None
    sample_weight: Tree = None
    rows: int = 0
    kinds: tuple[Kind, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        x, y, weight = _pytree.tree_map(lambda leaf: leaf if leaf is None else leaf.to(device),
                                        (self.x, self.y, self.sample_weight))
        return replace(self, x=x, y=y, sample_weight=weight)


class Examples:
    """Inputs, targets and weights of equally many examples, checked and read by rows.

    `x` and `y` are one array, list of sequences or Packed; or, where the model has several `inputs` (`outputs`), a list
    of these or a dict by name. Sequences of different lengths become a Packed as wide as the longest of each batch;
    a rectangular list becomes a dense array, unless `sequences` says of that input that its lists are sequences
    whatever their lengths. float64 and NumPy's floats become torch's default dtype, integers stay integers.

    Raises `DataError` for strings, objects, nothing at all or unequal numbers of examples, `ArgumentError` for a wrong
    number of inputs and for wrong names.

    >>> data = Examples([[1, 2, 3], [4], [5, 6]], np.array([0., 1., 1.]))
    >>> [(tuple(b.x.shape), b.y.tolist()) for b in batches(data, 2)]
    [((2, 3), [0.0, 1.0]), ((1, 2), [1.0])]
    """

    def __init__(
        self, x: Any, y: Any = None, sample_weight: Any = None, *, inputs: int = 1, input_names: Sequence[str] = (),
        outputs: int = 1, output_names: Sequence[str] = (), sequences: Sequence[bool] = (),
    ) -> None:  # fmt: skip
        if x is None:
            raise ArgumentError("x is None. Give an array, a list of sequences, a Packed, or a dict of these.")
        self._columns = (_tree("x", x, inputs, input_names, sequences), _tree("y", y, outputs, output_names),
                         _tree("sample_weight", sample_weight, outputs, output_names))
        self._first, self._rows = 0, _same_length(_pytree.tree_leaves(self._columns))
        _as_wide(*self._columns)

    def __len__(self) -> int:
        return self._rows

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """For each input the kind of container it was given in."""
        return tuple(column.kind for column in _pytree.tree_leaves(self._columns[0]))

    def batch(self, rows: Rows) -> Batch:
        """The examples of a slice without step (views where possible) or of an array of row numbers (one gather)."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self._rows)
            rows, count = slice(self._first + start, self._first + max(start, stop)), max(0, stop - start)
        else:
            count = len(rows)
            if count and not 0 <= rows.min() <= rows.max() < self._rows:
                raise ArgumentError(f"Expected rows from 0 to {self._rows - 1}; got {rows.min()} to {rows.max()}.")
            rows = rows + self._first
        trees = _pytree.tree_map(lambda column: column if column is None else column.read(rows), self._columns)
        return Batch(*trees, rows=count, kinds=self.kinds)

    def head(self, k: int = 1) -> Batch:
        """The first k examples as a batch."""
        return self.batch(slice(0, k))

    def part(self, start: int, stop: int) -> Examples:
        """The examples from `start` to `stop`, sharing the data."""
        part = copy(self)
        part._first, part._rows = self._first + start, stop - start
        return part


class Stream:
    """Batches that somebody else makes: a DataLoader, a generator, any iterable of x, (x, y) or (x, y, sample_weight).

    As in Keras a list stands for the tuple. A source that can be iterated again is begun anew each epoch; a generator
    cannot, so more than one epoch of it needs `steps_per_epoch`.

    >>> source = [(np.ones((2, 3)), np.zeros(2)), (np.ones((1, 3)), np.zeros(1))]
    >>> [batch.rows for batch in Stream(source)]
    [2, 1]
    """

    def __init__(self, source: Iterable[Any], **structure: Any) -> None:
        self.source = source
        self.structure = structure  # the keywords of Examples
        self.one_shot = isinstance(source, Iterator)
        self._running: Iterator[Any] | None = None
        self._ahead: Batch | None = None
        self._given = 0

    @property
    def steps(self) -> int | None:
        """The number of batches, where the source knows it."""
        steps = length_hint(self.source, -1)
        return None if steps < 0 else steps

    def check(self, epochs: int, steps: int | None) -> None:
        """Refuse, before training begins, more epochs than a one-shot source can give."""
        if self.one_shot and steps is None and epochs > 1:
            raise ArgumentError(f"A generator can be read only once, but epochs={epochs}. Give steps_per_epoch=.")

    def head(self, k: int = 1) -> Batch:
        """The first batch, whole, without losing it for the epoch."""
        while self._ahead is None:
            self._ahead = self._next()
        return self._ahead

    def epoch(self, steps: int | None = None) -> Iterator[Batch]:
        """One pass, or the next `steps` batches, going on where the last ones ended."""
        done = 0
        while steps is None or done < steps:
            batch, self._ahead = self._ahead or self._next(), None
            if batch is not None:
                done += 1
                yield batch
            elif steps is None:
                return
            elif self.one_shot:
                warnings.warn(f"The data ran out after {done} of {steps} steps; the epoch ends here.", stacklevel=2)
                return

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch()

    def _next(self) -> Batch | None:
        """The next batch, or None at the end of a pass."""
        if self._running is None:
            self._running, self._given = iter(self.source), 0
        try:
            item = next(self._running)
        except StopIteration:
            self._running = None
            if self._given == 0:
                raise DataError(f"x, a {type(self.source).__name__}, gave no batch. Expected at least one; a generator "
                                f"can be read only once.") from None
            return None
        self._given += 1
        parts = tuple(item) if isinstance(item, list | tuple) else (item,)
        if not 1 <= len(parts) <= 3:
            raise ArgumentError(f"A batch must be x, (x, y) or (x, y, sample_weight); got {len(parts)} parts. Several "
                                f"inputs go into one tuple or dict: ((a, b), y).")
        examples = Examples(*parts, **self.structure)
        return examples.batch(slice(0, len(examples)))


def read(x: Any, y: Any = None, sample_weight: Any = None, **structure: Any) -> Examples | Stream:
    """Whatever `fit` was given: Examples, or a Stream where x makes its own batches."""
    array = isinstance(x, Packed | list | tuple | Mapping | str | bytes) or hasattr(x, "__array__")
    if array or not isinstance(x, Iterable):
        return Examples(x, y, sample_weight, **structure)
    if y is not None or sample_weight is not None:
        raise ArgumentError(f"x is a {type(x).__name__}, which makes its own batches: y and sample_weight must come in "
                            f"them, as (x, y, sample_weight), and not as arguments.")
    return Stream(x, **structure)


def batches(examples: Examples | Stream, batch_size: int | None = None, order: Ints | None = None) -> Iterator[Batch]:
    """The batches of one epoch in the given order of rows, 32 rows each unless told; a Stream has its own of both."""
    if isinstance(examples, Stream):
        if batch_size is not None or order is not None:
            raise ArgumentError("Data that comes in batches takes no batch_size and no order; set them in the loader.")
        return examples.epoch()
    size = 32 if batch_size is None else batch_size
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ArgumentError(f"batch_size must be a positive integer; got {batch_size!r}.")
    cuts = [slice(i, i + size) for i in range(0, len(examples) if order is None else len(order), int(size))]
    return (examples.batch(cut if order is None else order[cut]) for cut in cuts)


def shuffled(n: int) -> Ints:
    """A random order of n rows, ruled by `torch.manual_seed`."""
    return torch.randperm(n).numpy()


def validation_split(examples: Examples, fraction: float) -> tuple[Examples, Examples]:
    """The first part for training and the last `fraction` for validation, before any shuffling, as Keras.

    >>> [len(part) for part in validation_split(Examples(np.zeros(10)), 0.25)]
    [7, 3]
    """
    if not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
        raise ArgumentError(f"validation_split must be a fraction between 0 and 1; got {fraction!r}.")
    if not isinstance(examples, Examples):
        raise ArgumentError("validation_split needs all examples at once; for a loader give validation_data instead.")
    cut = math.floor(len(examples) * (1 - fraction))
    if not 0 < cut < len(examples):
        raise ArgumentError(f"validation_split={fraction} of {len(examples)} examples leaves a side empty. Give more.")
    return examples.part(0, cut), examples.part(cut, len(examples))


@dataclass
class _Dense:
    what: str
    source: NDArray[Any] | Tensor
    kind: Kind

    def __len__(self) -> int:
        return self.source.shape[0]

    def read(self, rows: Rows) -> Tensor:
        return _floatx(_rows(self.source, rows)) if isinstance(self.source, Tensor) else _from_numpy(self.source[rows])


@dataclass
class _Ragged:
    """Flat values of all rows; row r of the grid holds those from `offsets[r]` to `offsets[r + 1]`.

    `inside` are the axes of the grid between batch and time, each example being that many rows. Without `positions` the
    rows are right-padded, and the grid of a batch is as wide as its longest, but at least `width`.
    """

    what: str
    count: int
    values: Tensor
    offsets: Ints
    born: str
    kind: Kind
    inside: tuple[int, ...] = ()
    width: int = 0
    positions: Ints | None = None
    fill: Tensor | None = None
    gap_offsets: Ints | None = None

    def __len__(self) -> int:
        return self.count

    def read(self, rows: Rows) -> Packed:
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        each = math.prod(self.inside)
        inner = (rows[:, None] * each + np.arange(each)).reshape(-1)
        chosen, lengths = _spans(self.offsets, inner)
        if self.positions is None:
            width = max(self.width, int(lengths.max(initial=0)))
            mask = np.arange(width) < lengths[:, None]
        else:
            width = self.width
            mask = np.zeros((len(lengths), width), dtype=bool)
            mask[np.repeat(np.arange(len(lengths)), lengths), self.positions[chosen]] = True
        index = Index.from_mask(mask.reshape(len(rows), *self.inside, width), self.born)
        values, fill = _floatx(_rows(self.values, chosen)), None
        if self.fill is not None and self.gap_offsets is not None:
            fill = _floatx(_rows(self.fill, _spans(self.gap_offsets, inner)[0]))  # whole rows keep their gaps
        return Packed(values, index, fill)


def _spans(offsets: Ints, rows: Ints) -> tuple[Rows, Ints]:
    """Which entries these rows hold, row after row, and how many each; consecutive rows hold a slice."""
    lengths = offsets[rows + 1] - offsets[rows]
    if len(rows) and (np.diff(rows) == 1).all():
        return slice(int(offsets[rows[0]]), int(offsets[rows[-1] + 1])), lengths
    before = np.cumsum(lengths) - lengths
    return np.repeat(offsets[rows] - before, lengths) + np.arange(lengths.sum()), lengths


def _rows(values: Tensor, rows: Rows) -> Tensor:
    return values[rows] if isinstance(rows, slice) else values.index_select(0, torch.from_numpy(rows).to(values.device))


def _column(what: str, given: Any, sequences: bool = False) -> _Dense | _Ragged:
    if isinstance(given, Packed):
        index, gaps = given.index, None
        if given.fill is not None:
            gaps = np.append(0, np.cumsum(np.bincount(index.gap_rows, minlength=index.shape[0])))
        return _Ragged(what, len(given), given.values, index.offsets, index.born, "packed", index.grid[1:-1],
                       index.grid[-1], index.positions, given.fill, gaps)
    if isinstance(given, np.ndarray) and given.dtype == object and given.ndim == 1:
        given = list(given)  # how NumPy, and Keras's datasets, write a ragged list
    if isinstance(given, list | tuple):
        return _from_list(what, given, sequences)
    source = given if isinstance(given, Tensor) else _numbers(what, given)
    if source.ndim == 0:
        raise DataError(f"{what} is the single value {given!r}. Expected one entry for each example.")
    return _Dense(what, source, "grid")


def _from_list(what: str, given: Sequence[Any], sequences: bool) -> _Dense | _Ragged:
    if given and not hasattr(given[0], "__len__"):
        return _Dense(what, _numbers(what, given), "grid")
    device = next((v.device for v in given if isinstance(v, Tensor)), "cpu")
    rows = [v if isinstance(v, Tensor) else _from_numpy(_numbers(f"{what}[{i}]", v)).to(device)
            for i, v in enumerate(given)]
    shapes = {row.shape for row in rows}
    if len({row.ndim == 0 for row in rows}) > 1:
        raise DataError(f"{what} mixes single values with sequences. Expected one sequence for each example.")
    if not rows or shapes == {()} or (len(shapes) == 1 and not sequences and len(rows[0])):
        arrays = any(isinstance(v, Tensor | np.ndarray) and v.ndim for v in given)
        return _Dense(what, torch.stack(rows) if rows else torch.zeros(0), "list" if arrays else "grid")
    full = [i for i, row in enumerate(rows) if len(row)]  # an empty list has no dtype and no features of its own
    for i in full:
        if rows[i].shape[1:] != rows[full[0]].shape[1:]:
            raise DataError(f"{what} holds sequences of different features: shape {tuple(rows[full[0]].shape)} in row "
                            f"{full[0]}, {tuple(rows[i].shape)} in row {i}. Expected them to differ in length only.")
    offsets = np.append(0, np.cumsum([len(row) for row in rows]))
    values = torch.cat([rows[i] for i in full] or rows)
    return _Ragged(what, len(rows), values, offsets, f"{what}, a list of sequences", "list")


def _numbers(what: str, given: Any) -> NDArray[Any]:
    if isinstance(given, Packed):
        raise DataError(f"{what} is a Packed, which is many sequences. Expected one, or a model with several inputs.")
    try:
        array = np.asarray(given)
    except ValueError as uneven:
        raise DataError(f"{what} is a list of unequal things. Expected a sequence of numbers or equal vectors. "
                        f"{DOCUMENTS}") from uneven
    if array.dtype.kind not in "biuf":
        odd = next((v for v in array.flat if not isinstance(v, int | float)), None)
        odd = odd.item() if isinstance(odd, np.generic) else odd
        raise DataError(f"{what} must hold numbers; got dtype {array.dtype} with {odd!r} in it. Turn text into ids, "
                        f"and other objects into numbers, first.")
    return array


def _from_numpy(array: NDArray[Any]) -> Tensor:
    """A view where torch can have one; floats as float32, or float64 if that is torch's default, unsigned as int64."""
    floats = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
    kinds = {"f": floats, "u": np.int64 if array.dtype.itemsize > 1 else np.uint8}
    array = array.astype(kinds.get(array.dtype.kind, array.dtype.newbyteorder("=")), copy=False)
    return torch.from_numpy(array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy())


def _floatx(tensor: Tensor) -> Tensor:
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor


def _tree(what: str, given: Any, count: int, names: Sequence[str], sequences: Sequence[bool] = ()) -> Any:
    """Columns in the structure they were given in, checked against that of the model."""
    if given is None or (count == 1 and not isinstance(given, Mapping)):
        return given if given is None else _column(what, given, any(sequences))
    part = ("inputs" if what == "x" else "outputs") + (f" ({', '.join(names)})" if names else "")
    if isinstance(given, Mapping):
        keys = list(names) or list(given)
        wrong = [key for key in given if key not in keys]
        wrong += [key for key in keys if what != "sample_weight" and key not in given]
        if wrong or not keys:
            raise ArgumentError(f"{what} has the keys {list(given)}; unknown or missing: {wrong}. Expected {part}.")
        leaves = [given.get(key) for key in keys]
    elif isinstance(given, list | tuple):
        keys, leaves = list(range(count)), list(given)
        if len(leaves) != count:
            raise ArgumentError(f"{what} holds {len(leaves)} arrays, but expected are the {count} {part}. Give a list "
                                f"with one for each, or a dict by name.")
    elif what == "sample_weight":
        return [_column(what, given)] * count
    else:
        raise ArgumentError(f"{what} is one {type(given).__name__}, but expected are the {count} {part}. Give a list "
                            f"with one for each, or a dict by name.")
    missing = [key for key, leaf in zip(keys, leaves, strict=True) if leaf is None]
    if what == "x" and missing:
        raise ArgumentError(f"x holds None for {missing}. Give data for each of the {part}.")
    flags = [*sequences, *[False] * (len(leaves) - len(sequences))]
    columns = [None if leaf is None else _column(f"{what}[{key!r}]", leaf, flag)
               for key, leaf, flag in zip(keys, leaves, flags, strict=True)]
    return dict(zip(keys, columns, strict=True)) if isinstance(given, Mapping) else columns


def _same_length(columns: list[_Dense | _Ragged | None]) -> int:
    """How many examples there are, the same in every column."""
    first, *rest = (column for column in columns if column is not None)
    for column in rest:
        if len(column) != len(first):
            raise DataError(f"{first.what} holds {len(first)} examples, {column.what} holds {len(column)}. Expected "
                            f"equally many; one array of examples stands alone, not in a list.")
    if len(first) == 0:
        raise DataError(f"{first.what} holds 0 examples. Expected at least one.")
    return len(first)


def _as_wide(x: Tree, y: Tree, sample_weight: Tree) -> None:
    """Sequences beside padded arrays of targets or weights stand on a grid of the same width, in every batch."""
    others = [c for c in _pytree.tree_leaves((y, sample_weight)) if isinstance(c, _Dense) and c.source.ndim > 1]
    for column in _pytree.tree_leaves(x):
        if isinstance(column, _Ragged) and column.positions is None and not column.inside:
            longest = int(np.diff(column.offsets).max(initial=0))
            column.width = min((c.source.shape[1] for c in others if c.source.shape[1] >= longest), default=0)


def gather_outputs(outputs: Sequence[Tensor | Packed], kind: Kind | Literal["dense"] = "dense") -> Any:
    """The batches of one output as one: for a Packed by the kind of its container, else a dense array.

    "grid" (and "dense") is the padded array with what the fill shows, "list" a list of arrays `(length, ...)`, "packed"
    a Packed on the CPU. Where batches differ in width, all are as wide as the widest, with zeros on the right.

    >>> parts = [Packed.from_sequences([[1, 2, 3]]), Packed.from_sequences([[4], [5, 6]])]
    >>> gather_outputs(parts, "grid").tolist()
    [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    """
    packed = [part for part in outputs if isinstance(part, Packed)]
    if packed and kind == "list":
        return [_array(row) for part in packed for row in part.sequences()]
    if packed and kind == "packed":
        return _concatenated(packed)
    return _stacked([_array(part.unpack() if isinstance(part, Packed) else part) for part in outputs])


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _stacked(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Arrays one below the other, those that are narrower on some axis padded on its right."""
    widest = tuple(max(sizes) for sizes in zip(*(a.shape[1:] for a in arrays), strict=True))
    return np.concatenate([
        a if a.shape[1:] == widest
        else np.pad(a, [(0, 0), *((0, w - n) for w, n in zip(widest, a.shape[1:], strict=True))])
        for a in arrays
    ])  # fmt: skip


def _concatenated(parts: list[Packed]) -> Packed:
    """Rows below rows; the fill stays where all grids are equally wide, since a wider grid has more gaps."""
    index = Index.from_mask(_stacked([part.index.mask for part in parts]), parts[0].index.born)
    values = torch.cat([part.values.detach().cpu() for part in parts])
    fills = [part.fill.detach().cpu() for part in parts if part.fill is not None]
    same = len(fills) == len(parts) and len({part.index.grid[1:] for part in parts}) == 1
    return Packed(values, index, torch.cat(fills) if same else None)
