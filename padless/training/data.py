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

from padless.errors import ArgumentError
from padless.ragged.packed import Packed
from padless.training.batch import Batch as Batch
from padless.training.batching import Batching as Batching
from padless.training.batching import Padding as Padding
from padless.training.collate import collate as collate
from padless.training.examples import Examples as Examples
from padless.training.feed import Data as Data
from padless.training.feed import Feed as Feed
from padless.training.formats import library
from padless.training.items import Batches, Items, batches_by_number, by_number
from padless.training.parquet import Parquet
from padless.training.parquet import parquet as parquet
from padless.training.streams import Singles
from padless.training.streams import Stream as Stream
from padless.training.tables import columns_of, parted


def read(x: Any, y: Any = None, sample_weight: Any = None, mask: Any = None, **structure: Any) -> Data:
    """Whatever `fit` was given: Examples, or a source that makes its own.

    Raises `ArgumentError` where y, weights or a mask are given beside a source that must bring its own.
    """
    x, y, sample_weight, mask = parted(x, y, sample_weight, mask, **structure)
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
        return Items
    if isinstance(x, IterableDataset) or library(x) == "datasets" and isinstance(x, Iterable):
        return Singles
    if isinstance(x, DataLoader):
        return Stream
    if batches_by_number(x):
        return Batches
    array = isinstance(x, Packed | PackedSequence | list | tuple | Mapping | str | bytes) or hasattr(x, "__array__")
    own = array or library(x) in ("pyarrow", "polars", "awkward", "pandas") or columns_of(x) is not None
    return Stream if isinstance(x, Iterable) and not own else None


def parts_of(validation_data: Any) -> tuple[Any, Any, Any, Any]:
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


def validation(held: Data, batching: Batching, size: int | None) -> Batching:
    """How held-out data become batches: in order, as large as those of training unless told; loaders have their own."""
    if size is not None or isinstance(held, Stream | Batches):
        return Batching(size)
    return Batching(batching.size, batching.tokens)
