"""Data containers become batches of plain tensors and `Packed`."""

from padless.data.adapters import read as read
from padless.data.adapters import unpack_validation_data as unpack_validation_data
from padless.data.adapters import validation_batching as validation_batching
from padless.data.batch import Batch as Batch
from padless.data.batch_sampler import Batching as Batching
from padless.data.batch_sampler import Padding as Padding
from padless.data.collate_fn import collate as collate
from padless.data.epoch_iterator import Data as Data
from padless.data.epoch_iterator import EpochIterator as EpochIterator
from padless.data.in_memory import Examples as Examples
from padless.data.iterable_dataset import BatchIterableAdapter as BatchIterableAdapter
from padless.data.parquet_files import Parquet as Parquet
from padless.data.parquet_files import parquet as parquet

__all__ = [
    "Batch",
    "BatchIterableAdapter",
    "Batching",
    "Data",
    "EpochIterator",
    "Examples",
    "Padding",
    "Parquet",
    "collate",
    "parquet",
    "read",
    "unpack_validation_data",
    "validation_batching",
]
