"""Read the data that `fit` was given: the entry point of the data path.

    stage          modules                                                     result
    -----------    ---------------------------------------------------------   -----------------------------------
    containers     tables: dictionaries and tables are split by name           x, y, sample_weight, mask
         |
         v         containers -> arrays, lists, torch_formats, ragged_formats
    columns        columns, column_trees, input_masks                          DenseColumn | RaggedColumn
         |
         v         in_memory
    examples       data_adapter: batches by row numbers                        Examples
         |
         v         batch_sampler plans, epoch_iterator runs, prefetch waits for files
    batches        batch                                                       Batch(x, y, sample_weight)

Data that are not in memory go through the same stages, batch by batch:

    map_dataset         reads examples by number                -> collate_fn -> Examples -> Batch
    iterable_dataset    reads batches, or examples, in order    ->               Examples -> Batch
    parquet_files       reads windows of row groups             ->               Examples -> Batch
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from padless.data.containers import is_container
from padless.data.data_adapter import DataAdapter
from padless.data.data_spec import UNKNOWN_SPEC, DataSpec
from padless.data.foreign_types import is_instance, is_table
from padless.data.in_memory import Examples
from padless.data.iterable_dataset import BatchIterableAdapter, ExampleIterableAdapter
from padless.data.map_dataset import MapDataset, MapDatasetAdapter, PyDataset, PyDatasetAdapter, is_huggingface_dataset
from padless.data.parquet_files import Parquet
from padless.data.tables import DataParts, split_named_columns
from padless.data.unsupported import refuse_unsupported
from padless.errors import ArgumentError


def read(
    x: object,
    y: object = None,
    sample_weight: object = None,
    mask: object = None,
    *,
    spec: DataSpec = UNKNOWN_SPEC,
    complete_spec: Callable[[object, object], DataSpec] | None = None,
) -> DataAdapter:
    """Read the data that `fit`, `evaluate` or `predict` was given. Each container in memory is read once.

    Args:
        x: Inputs in any container, a table, or a source of examples or batches.
        y: Targets, or names of columns of `x`.
        sample_weight: Sample weights, or the name of a column of `x`.
        mask: Which steps of `x` are real.
        spec: What is known of the inputs and outputs of the model.
        complete_spec: Returns the whole spec for the containers of inputs and targets. The default is `spec.complete`.

    Raises:
        ArgumentError: For targets, weights or a mask in addition to a source whose batches must hold them.
        DataError: For data that cannot be read.
    """
    parts = split_named_columns(DataParts(x, y, sample_weight, mask), spec)
    source = open_source(parts.x, spec)
    if source is None:
        spec = (complete_spec or spec.complete)(parts.x, parts.y)
        return Examples(parts.x, parts.y, parts.sample_weight, mask=parts.mask, spec=spec)
    for argument, container in zip(DataParts._fields[1:], parts[1:], strict=True):
        if container is not None:
            raise ArgumentError(
                f"x is a {type(parts.x).__name__}, which makes its own batches. So {argument} must come in its batches, as "
                f"(x, y, sample_weight), and not as an argument."
            )
    return source


def open_source(x: object, spec: DataSpec) -> DataAdapter | None:
    """Return the adapter of a source of examples or batches. Return None for a container, which holds all examples."""
    if isinstance(x, Parquet):
        return x.for_spec(spec)
    if isinstance(x, Iterable) and (isinstance(x, IterableDataset) or is_instance(x, "datasets", "IterableDataset")):
        return ExampleIterableAdapter(x, spec)
    if isinstance(x, MapDataset) and (isinstance(x, Dataset) or is_huggingface_dataset(x)):
        return MapDatasetAdapter(x, spec)
    if isinstance(x, DataLoader):
        return BatchIterableAdapter(x, spec)
    if isinstance(x, PyDataset):
        return PyDatasetAdapter(x, spec)
    if is_container(x) or is_table(x) or isinstance(x, Mapping | str | bytes):
        return None
    refuse_unsupported("x", x)
    return BatchIterableAdapter(x, spec) if isinstance(x, Iterable) else None


def unpack_validation_data(validation_data: object) -> DataParts:
    """Return the parts of `validation_data`: (x, y), (x, y, sample_weight), (x, y, sample_weight, mask), or x alone.

    Raises:
        ArgumentError: For a tuple of another length.
    """
    if isinstance(validation_data, PackedSequence) or not isinstance(validation_data, list | tuple):
        return DataParts(validation_data)
    if not 2 <= len(validation_data) <= 4:
        raise ArgumentError(
            f"validation_data must be (x, y), (x, y, sample_weight) or (x, y, sample_weight, mask); got "
            f"{len(validation_data)} entries."
        )
    return DataParts(*validation_data)
