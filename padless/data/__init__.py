"""Data containers become batches of plain tensors and `Packed`."""

from padless.data.adapters import parts_of as parts_of
from padless.data.adapters import read as read
from padless.data.adapters import validation as validation
from padless.data.batch import Batch as Batch
from padless.data.batch_sampler import Batching as Batching
from padless.data.batch_sampler import Padding as Padding
from padless.data.collate_fn import collate as collate
from padless.data.epoch_iterator import Data as Data
from padless.data.epoch_iterator import Feed as Feed
from padless.data.in_memory import Examples as Examples
from padless.data.iterable_dataset import Stream as Stream
from padless.data.parquet_files import Parquet as Parquet
from padless.data.parquet_files import parquet as parquet

__all__ = [
    "Batch",
    "Batching",
    "Data",
    "Examples",
    "Feed",
    "Padding",
    "Parquet",
    "Stream",
    "collate",
    "parquet",
    "parts_of",
    "read",
    "validation",
]
