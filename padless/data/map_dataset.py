"""Data that are read when a batch needs them: examples by number (a Dataset), or batches by number (a PyDataset)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Protocol, Self, TypeVar, cast, runtime_checkable

import torch

from padless.data.batch import Batch
from padless.data.batch_sampler import Batching
from padless.data.collate_fn import copy_example, group_parts
from padless.data.columns import Rows
from padless.data.data_adapter import DataAdapter, NumberedExamples, PlannedBatches
from padless.data.data_spec import UNKNOWN_SPEC, DataSpec
from padless.data.foreign_types import is_instance
from padless.data.in_memory import Examples, read_item
from padless.errors import ArgumentError, DataError
from padless.ragged.row_names import naming_rows

Result = TypeVar("Result")


@runtime_checkable
class MapDataset(Protocol):
    """Examples by number: a `torch.utils.data.Dataset` with a length, or a `datasets.Dataset` of Hugging Face."""

    def __getitem__(self, number: int) -> object: ...
    def __len__(self) -> int: ...


@runtime_checkable
class BatchedDataset(MapDataset, Protocol):
    """A Dataset that gives several examples at once, by torch's method `__getitems__`."""

    def __getitems__(self, numbers: list[int]) -> list[object]: ...


class ColumnDataset(Protocol):
    """A `datasets.Dataset` of Hugging Face, which gives columns by name for a list of numbers."""

    def __getitem__(self, numbers: list[int]) -> Mapping[str, object]: ...


@runtime_checkable
class PyDataset(MapDataset, Protocol):
    """Batches by number, as Keras's `PyDataset`."""

    def on_epoch_end(self) -> None: ...


class MapDatasetAdapter(NumberedExamples):
    """Examples that are read by their numbers when a batch needs them.

    Args:
        source: A Dataset of torch, whose examples are x, `(x, y)` or `(x, y, sample_weight)`, or a Dataset of Hugging Face,
            whose columns are found by name.
        spec: Number and names of the inputs and outputs of the model.

    Raises:
        DataError: For a Dataset without examples.

    >>> import numpy as np
    >>> from torch.utils.data import TensorDataset
    >>> data = MapDatasetAdapter(TensorDataset(torch.arange(6).reshape(3, 2), torch.arange(3)))
    >>> data.batch(np.array([2, 0])).y.tolist()
    [2, 0]
    """

    def __init__(self, source: MapDataset, spec: DataSpec = UNKNOWN_SPEC) -> None:
        super().__init__(len(source))
        self.source, self.spec = source, spec
        self._gives_columns = is_huggingface_dataset(source)
        self._gives_batches = isinstance(source, BatchedDataset)
        self._head: Examples | None = None
        if not len(self):
            raise DataError(f"x, a {self.source_name}, holds 0 examples. Expected at least one.")

    @property
    def source_name(self) -> str:
        """The class of the Dataset, for error messages."""
        return type(self.source).__name__

    def head(self, num_rows: int = 1) -> Batch:
        """Return the first examples. They are read once, and torch's random numbers are not used up."""
        num_rows = min(num_rows, len(self))
        if self._head is None or len(self._head) < num_rows:
            self._head = without_random_numbers(lambda: self._read_examples(slice(self._first, self._first + num_rows)))
        batch = self._head.batch(slice(0, num_rows))
        batch.row_names = lambda row: f"row {self._first + row}"
        return batch

    def part(self, start: int, stop: int) -> Self:
        """Return the examples from `start` to `stop`. The Dataset is shared."""
        part = super().part(start, stop)
        part._head = self._head if start == 0 else None
        return part

    def for_spec(self, spec: DataSpec) -> Self:
        """Return the same Dataset for a model with this spec."""
        data = copy(self)
        data.spec, data._head = spec, None if self._head is None else self._head.for_spec(spec)
        return data

    def _read(self, rows: Rows) -> Batch:
        return self._read_examples(rows).whole()

    def _read_examples(self, rows: Rows) -> Examples:
        numbers = list(range(rows.start, rows.stop)) if isinstance(rows, slice) else rows.tolist()
        if self._gives_columns:
            return read_item(cast(ColumnDataset, self.source)[numbers], self.spec)
        if self._gives_batches:
            examples = list(cast(BatchedDataset, self.source).__getitems__(numbers))
        else:
            examples = [self._read_example(number) for number in numbers]
        return read_item(group_parts(examples), self.spec)

    def _read_example(self, number: int) -> object:
        try:
            return copy_example(self.source[number])
        except Exception as error:
            error.add_note(f"Raised by the data, a {self.source_name}, instead of example {number}.")
            raise


class PyDatasetAdapter(DataAdapter):
    """Batches by number, as of Keras's `PyDataset`. Shuffling changes the order of the batches.

    Args:
        source: An object with `__getitem__(number)`, which returns a batch, `__len__` and `on_epoch_end`.
        spec: Number and names of the inputs and outputs of the model.

    Raises:
        DataError: For a source without batches.

    >>> import numpy as np
    >>> class Two:
    ...     def __getitem__(self, number):
    ...         return np.full((3, 2), number), np.zeros(3)
    ...     def __len__(self):
    ...         return 2
    ...     def on_epoch_end(self):
    ...         pass
    >>> [batch.x[0, 0].item() for batch in PyDatasetAdapter(Two()).begin(Batching(), None)]
    [0, 1]
    """

    lends_memory = True

    def __init__(self, source: PyDataset, spec: DataSpec = UNKNOWN_SPEC) -> None:
        self.source, self.spec = source, spec
        self._num_batches = int(getattr(source, "num_batches", None) or len(source))  # Keras's, newer than `__len__`
        self._head: Examples | None = None
        if not self._num_batches:
            raise DataError(f"x, a {self.source_name}, gave no batch. Expected at least one.")

    @property
    def source_name(self) -> str:
        """The class of the source, for error messages."""
        return type(self.source).__name__

    def head(self, num_rows: int = 1) -> Batch:
        """Return the first batch. It is read once, and torch's random numbers are not used up."""
        if self._head is None:
            self._head = without_random_numbers(lambda: self._read_batch(0)).copy()
        return self._head.whole()

    def num_batches(self, batching: Batching) -> int | None:
        """Return the number of batches of a pass."""
        return self._num_batches

    def begin(self, batching: Batching, seed: int | None) -> PlannedBatches:
        """Begin a pass over all batches. `on_epoch_end` of the source is called at its end."""
        plan = Batching(1, shuffle=bool(batching.shuffle)).plan(self._num_batches, seed)
        return PlannedBatches(self._batch_of_plan, plan, self.source.on_epoch_end)

    def for_spec(self, spec: DataSpec) -> PyDatasetAdapter:
        """Return the same batches for a model with this spec."""
        data = copy(self)
        data.spec, data._head = spec, None if self._head is None else self._head.for_spec(spec)
        return data

    def batching_for_validation(self, batching: Batching, batch_size: int | None) -> Batching:
        """Return the batching of a source that makes its own batches."""
        return Batching(batch_size)

    def check_batching(self, batching: Batching) -> None:
        """Raise `ArgumentError` for a batch size, which only the source can set."""
        check_no_batch_size(self.source_name, batching)

    def _batch_of_plan(self, numbers: Rows) -> Batch:
        """Return the batch that the plan, whose "rows" are single batches, has next."""
        return self._read_batch(numbers.start if isinstance(numbers, slice) else int(numbers[0])).whole()

    def _read_batch(self, number: int) -> Examples:
        try:
            item = self.source[number]
        except Exception as error:
            error.add_note(f"Raised by the data, a {self.source_name}, instead of batch {number}.")
            raise

        def name(row: int) -> str:
            return f"row {row} of batch {number}"

        with naming_rows(name):
            examples = read_item(item, self.spec)
        examples.row_names = name
        return examples


def is_huggingface_dataset(source: object) -> bool:
    """Check whether a source is a `datasets.Dataset` of Hugging Face."""
    return is_instance(source, "datasets", "Dataset")


def check_no_batch_size(source_name: str, batching: Batching) -> None:
    """Raise `ArgumentError` for a batch size where the source makes the batches."""
    for argument, value in (("batch_size", batching.size), ("batch_tokens", batching.tokens)):
        if value is not None:
            raise ArgumentError(
                f"x is a {source_name}, which makes its own batches, so {argument}={value} has no effect. Set the size "
                f"there."
            )


def without_random_numbers(function: Callable[[], Result]) -> Result:
    """Return the result of a function. torch's random state is afterwards as it was before."""
    state = torch.get_rng_state()
    try:
        return function()
    finally:
        torch.set_rng_state(state)
