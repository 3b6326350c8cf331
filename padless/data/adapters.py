"""Whatever `fit` was given becomes batches: the front door of the rooms that read data.

arrays, lists, columns, tables  --Examples-->  columns, checked once   --Batching-->  Batch of Tensor | Packed
Datasets                        --Items----->  read by their numbers   --Batching-->
Parquet files                   --Parquet--->  windows of row groups   --Batching-->
loaders, generators             --Stream---->  batches that somebody else makes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, IterableDataset

from padless.data.batch import Batch as Batch
from padless.data.batch_sampler import Batching as Batching
from padless.data.batch_sampler import Padding as Padding
from padless.data.collate_fn import collate as collate
from padless.data.epoch_iterator import Data as Data
from padless.data.epoch_iterator import EpochIterator as EpochIterator
from padless.data.in_memory import Examples as Examples
from padless.data.iterable_dataset import BatchIterableAdapter as BatchIterableAdapter
from padless.data.iterable_dataset import ExampleIterableAdapter
from padless.data.map_dataset import MapDatasetAdapter, PyDatasetAdapter, batches_by_number, by_number
from padless.data.parquet_files import Parquet
from padless.data.parquet_files import parquet as parquet
from padless.data.ragged_formats import library
from padless.data.tables import columns_of, split_named_columns
from padless.errors import ArgumentError
from padless.ragged.packed import Packed


def read(x: Any, y: Any = None, sample_weight: Any = None, mask: Any = None, **structure: Any) -> Data:
    """Whatever `fit` was given: Examples, or a source that makes its own.

    Raises `ArgumentError` where y, weights or a mask are given beside a source that must bring its own.
    """
    x, y, sample_weight, mask = split_named_columns(x, y, sample_weight, mask, **structure)
    source = _source(x)
    if source is None:
        return Examples(x, y, sample_weight, mask=mask, **structure)
    for what, given in (("y", y), ("sample_weight", sample_weight), ("mask", mask)):
        if given is not None:
            raise ArgumentError(
                f"x is a {type(x).__name__}, which makes its own batches: {what} must come in them, as "
                f"(x, y, sample_weight), and not as an argument."
            )
    return source(x, **structure)


def _source(x: Any) -> Any:
    """What reads such an x; None for what holds all examples itself."""
    if isinstance(x, Parquet):
        return lambda own, **structure: own.bound(**structure)
    if by_number(x):
        return MapDatasetAdapter
    if isinstance(x, IterableDataset) or library(x) == "datasets" and isinstance(x, Iterable):
        return ExampleIterableAdapter
    if isinstance(x, DataLoader):
        return BatchIterableAdapter
    if batches_by_number(x):
        return PyDatasetAdapter
    array = isinstance(x, Packed | PackedSequence | list | tuple | Mapping | str | bytes) or hasattr(x, "__array__")
    own = array or library(x) in ("pyarrow", "polars", "awkward", "pandas") or columns_of(x) is not None
    return BatchIterableAdapter if isinstance(x, Iterable) and not own else None


def unpack_validation_data(validation_data: Any) -> tuple[Any, Any, Any, Any]:
    """`validation_data` as x, y, sample weights and mask."""
    if isinstance(validation_data, PackedSequence) or not isinstance(validation_data, list | tuple):
        return validation_data, None, None, None
    if not 2 <= len(validation_data) <= 4:
        raise ArgumentError(
            f"validation_data must be (x, y), (x, y, sample_weight) or (x, y, sample_weight, mask); got "
            f"{len(validation_data)} entries."
        )
    x, y, sample_weight, mask = (*validation_data, None, None)[:4]
    return x, y, sample_weight, mask


def validation_batching(held: Data, batching: Batching, size: int | None) -> Batching:
    """How held-out data become batches: in order, as large as those of training unless told; loaders have their own."""
    if size is not None or isinstance(held, BatchIterableAdapter | PyDatasetAdapter):
        return Batching(size)
    return Batching(batching.size, batching.tokens)
