"""Read data in any container and make batches of tensors and `Packed`."""

from padless.data.adapters import read as read
from padless.data.adapters import unpack_validation_data as unpack_validation_data
from padless.data.batch import Batch as Batch
from padless.data.batch_sampler import Batching as Batching
from padless.data.batch_sampler import Padding as Padding
from padless.data.collate_fn import collate as collate
from padless.data.data_adapter import DataAdapter as DataAdapter
from padless.data.data_spec import DataSpec as DataSpec
from padless.data.epoch_iterator import EpochIterator as EpochIterator
from padless.data.in_memory import Examples as Examples
from padless.data.iterable_dataset import BatchIterableAdapter as BatchIterableAdapter
from padless.data.packing import pack as pack
from padless.data.parquet_files import Parquet as Parquet
from padless.data.parquet_files import parquet as parquet

__all__ = [
    "Batch",
    "BatchIterableAdapter",
    "Batching",
    "DataAdapter",
    "DataSpec",
    "EpochIterator",
    "Examples",
    "Padding",
    "Parquet",
    "collate",
    "pack",
    "parquet",
    "read",
    "unpack_validation_data",
]
