"""Examples: inputs, targets and weights of equally many rows, checked once and read by rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
from torch.utils import _pytree

from padless.data.batch import Batch, Tree
from padless.data.batch_sampler import Batching, PlannedBatches
from padless.data.columns import DenseColumn, Kind, RaggedColumn, Rows, column, fits, masked
from padless.data.tables import SharedMask
from padless.errors import ArgumentError, DataError
from padless.ragged.index import Ints


class Examples:
    """Inputs, targets and weights of equally many examples, checked and read by rows.

    `x` and `y` are one array, list of sequences or Packed; or, where the model has several `inputs` (`outputs`), a list
    of these or a dict by name. Sequences of different lengths become a Packed as wide as the longest of each batch;
    a rectangular list becomes a dense array, unless `sequences` says of that input that its lists are sequences
    whatever their lengths. float64 and NumPy's floats become torch's default dtype, integers stay integers.

    Raises `DataError` for strings, objects, nothing at all or unequal numbers of examples, `ArgumentError` for a wrong
    number of inputs and for wrong names.

    >>> data = Examples([[1, 2, 3], [4], [5, 6]], np.array([0., 1., 1.]))
    >>> [(tuple(b.x.shape), b.y.tolist()) for b in (data.batch(slice(0, 2)), data.batch(slice(2, 3)))]
    [((2, 3), [0.0, 1.0]), ((1, 2), [1.0])]
    """

    seeded, one_shot = True, False  # what a Feed asks of its data

    def __init__(
        self, x: Any, y: Any = None, sample_weight: Any = None, *, mask: Any = None, inputs: int = 1,
        input_names: Sequence[str] = (), outputs: int = 1, output_names: Sequence[str] = (), sequences: Sequence[bool] = (),
    ) -> None:  # fmt: skip
        if x is None:
            raise ArgumentError("x is None. Give an array, a list of sequences, a Packed, or a dict of these.")
        tree = _tree("x", x, inputs, input_names, sequences)
        self._columns = (
            tree if mask is None else _narrowed(tree, mask, input_names),
            _tree("y", y, outputs, output_names),
            _tree("sample_weight", sample_weight, outputs, output_names),
        )
        self._first, self._rows = 0, _same_length(_pytree.tree_leaves(self._columns))
        _as_wide(*self._columns)
        self.lengths: Ints | None = None  # the real steps of each example, where the border has counted them

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
        part.lengths = None if self.lengths is None else self.lengths[start:stop]
        return part

    def num_batches(self, batching: Batching) -> int | None:
        """How many batches a pass has, where that is known before it begins."""
        return batching.num_batches(len(self))

    def begin(self, batching: Batching, seed: int | None) -> PlannedBatches:
        """Once through all examples."""
        return PlannedBatches(self.batch, batching.plan(len(self), seed, self.lengths))


def split_for_validation(examples: Any, fraction: float) -> tuple[Examples, Examples]:
    """The first part for training and the last `fraction` for validation, before any shuffling, as Keras.

    >>> [len(part) for part in validation_split(Examples(np.zeros(10)), 0.25)]
    [7, 3]
    """
    if not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
        raise ArgumentError(f"validation_split must be a fraction between 0 and 1; got {fraction!r}.")
    if not hasattr(examples, "part"):
        raise ArgumentError(
            f"validation_split={fraction} needs examples by number, but x is a {type(examples).__name__} of "
            f"batches that somebody else makes or of files. Give validation_data instead."
        )
    cut = math.floor(len(examples) * (1 - fraction))
    if not 0 < cut < len(examples):
        raise ArgumentError(f"validation_split={fraction} of {len(examples)} examples leaves a side empty. Give more.")
    return examples.part(0, cut), examples.part(cut, len(examples))


def _tree(what: str, given: Any, count: int, names: Sequence[str], sequences: Sequence[bool] = ()) -> Any:
    """Columns in the structure they were given in, checked against that of the model."""
    if given is None or (count == 1 and not isinstance(given, Mapping)):
        return given if given is None else column(what, given, any(sequences))
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
            raise ArgumentError(
                f"{what} holds {len(leaves)} arrays, but expected are the {count} {part}. Give a list "
                f"with one for each, or a dict by name."
            )
    elif what == "sample_weight":
        return [column(what, given)] * count
    else:
        raise ArgumentError(
            f"{what} is one {type(given).__name__}, but expected are the {count} {part}. Give a list "
            f"with one for each, or a dict by name."
        )
    missing = [key for key, leaf in zip(keys, leaves, strict=True) if leaf is None]
    if what == "x" and missing:
        raise ArgumentError(f"x holds None for {missing}. Give data for each of the {part}.")
    flags = [*sequences, *[False] * (len(leaves) - len(sequences))]
    columns = [
        None if leaf is None else column(f"{what}[{key!r}]", leaf, flag)
        for key, leaf, flag in zip(keys, leaves, flags, strict=True)
    ]
    return dict(zip(keys, columns, strict=True)) if isinstance(given, Mapping) else columns


def _narrowed(columns: Any, mask: Any, names: Sequence[str]) -> Any:
    """The inputs on the steps that are real by their masks: one mask of one input, or a list or a dict as the inputs."""
    own = columns if isinstance(columns, dict) else dict(enumerate(columns if isinstance(columns, list) else [columns]))
    if isinstance(mask, SharedMask):
        masks = {key: mask.mask for key, one in own.items() if fits(one, mask.mask)} or dict.fromkeys(own, mask.mask)
    elif isinstance(mask, Mapping):
        masks = {key if key in own or key not in names else names.index(key): one for key, one in mask.items()}
    elif len(own) == 1:
        alone = isinstance(mask, list | tuple) and len(mask) == 1 and getattr(mask[0], "ndim", 0) > 1
        masks = dict.fromkeys(own, mask[0] if alone else mask)
    elif isinstance(mask, list | tuple) and len(mask) == len(own):
        masks = dict(zip(own, mask, strict=True))
    else:
        raise ArgumentError(
            f"`mask` is one {type(mask).__name__}, but there are {len(own)} inputs. Give a list with a mask "
            f"or None for each, or a dict by name."
        )
    unknown = [key for key in masks if key not in own]
    if unknown:
        raise ArgumentError(f"`mask` has the keys {list(masks)}; unknown: {unknown}. The inputs are {list(own)}.")
    found = {key: one if masks.get(key) is None else masked(one, masks[key]) for key, one in own.items()}
    return found if isinstance(columns, dict) else list(found.values()) if isinstance(columns, list) else found[0]


def _same_length(columns: list[DenseColumn | RaggedColumn | None]) -> int:
    """How many examples there are, the same in every column."""
    first, *rest = (column for column in columns if column is not None)
    for other in rest:
        if len(other) != len(first):
            raise DataError(
                f"{first.what} holds {len(first)} examples, {other.what} holds {len(other)}. Expected "
                f"equally many; one array of examples stands alone, not in a list."
            )
    if len(first) == 0:
        raise DataError(f"{first.what} holds 0 examples. Expected at least one.")
    return len(first)


def _as_wide(x: Tree, y: Tree, sample_weight: Tree) -> None:
    """Sequences beside padded arrays of targets or weights stand on a grid of the same width, in every batch."""
    others = [c for c in _pytree.tree_leaves((y, sample_weight)) if isinstance(c, DenseColumn) and c.source.ndim > 1]
    for own in _pytree.tree_leaves(x):
        if isinstance(own, RaggedColumn) and own.positions is None and not own.inside:
            longest = int(np.diff(own.offsets).max(initial=0))
            own.width = min((c.source.shape[1] for c in others if c.source.shape[1] >= longest), default=0)
