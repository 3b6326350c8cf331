"""Examples in memory: inputs, targets and weights with the same number of rows, checked once and read by rows."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from torch.nn.utils.rnn import PackedSequence

from padless.data.batch import Batch
from padless.data.column_trees import ColumnTree, column_leaves, fit_to_spec, map_columns, read_columns
from padless.data.columns import Column, DenseColumn, Kind, RaggedColumn, Rows
from padless.data.data_adapter import NumberedExamples
from padless.data.data_spec import UNKNOWN_SPEC, DataSpec
from padless.data.input_masks import apply_masks
from padless.data.tables import DataParts, split_named_columns
from padless.errors import ArgumentError, DataError
from padless.ragged.row_names import RowNames


class Examples(NumberedExamples):
    """Inputs, targets and sample weights in memory. Each container is read once, here.

    Sequences of different lengths become a `Packed` that is as wide as the longest sequence of each batch. A list of equal
    lists becomes a dense array, unless `spec.takes_sequences` says that the input takes sequences. float64 becomes torch's
    default dtype. Integers stay integers.

    Args:
        x: Inputs: an array, tensor, list of sequences, `Packed`, or a column of pyarrow, polars, awkward or pandas. For
            several inputs a list of these, or a dictionary by name.
        y: Targets, as `x`, or None.
        sample_weight: Weights of examples or steps, as `y`, or None.
        mask: Which steps of `x` are real: one mask, or for several inputs a list or a dictionary by name.
        spec: Number and names of the inputs and outputs of the model.

    Raises:
        DataError: For text and objects, for no examples, and for different numbers of examples.
        ArgumentError: For a wrong number of inputs or outputs, and for wrong names.
        MaskError: For a mask that does not fit its input.

    >>> data = Examples([[1, 2, 3], [4], [5, 6]], [0.0, 1.0, 1.0])
    >>> [(tuple(batch.x.shape), batch.y.tolist()) for batch in (data.batch(slice(0, 2)), data.batch(slice(2, 3)))]
    [((2, 3), [0.0, 1.0]), ((1, 2), [1.0])]
    """

    in_memory = True
    row_names: RowNames | None = None
    """Names a row in error messages, where its number in these examples is not what the user knows."""

    def __init__(
        self,
        x: object,
        y: object = None,
        sample_weight: object = None,
        *,
        mask: object = None,
        spec: DataSpec = UNKNOWN_SPEC,
    ) -> None:
        if x is None:
            raise ArgumentError("x is None. Give an array, a list of sequences, a Packed, or a dict of these.")
        inputs = read_columns("x", x, spec)
        self._inputs = inputs if mask is None else apply_masks(inputs, mask, spec.input_names)
        self._targets = _lists_as_sequences(read_columns("y", y, spec), self._inputs, spec)
        self._weights = _lists_as_sequences(read_columns("sample_weight", sample_weight, spec), self._inputs, spec)
        leaves = [column for tree in (self._inputs, self._targets, self._weights) for column in column_leaves(tree)]
        super().__init__(_common_length(leaves))
        self._inputs = _as_wide_as(self._inputs, self._targets, self._weights)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """For each input, the container that the user gave: "grid", "list" or "packed"."""
        return tuple(column.kind for column in column_leaves(self._inputs))

    def whole(self) -> Batch:
        """Return all examples as one batch."""
        batch = self.batch(slice(0, len(self)))
        batch.row_names = self.row_names or batch.row_names
        return batch

    def copy(self) -> Examples:
        """Return the same examples in new memory."""
        examples = copy(self)
        trees = (self._inputs, self._targets, self._weights)
        examples._inputs, examples._targets, examples._weights = (
            map_columns(lambda column: column.copy(), tree) for tree in trees
        )
        return examples

    def for_spec(self, spec: DataSpec) -> Examples:
        """Return the examples for a model that was built after they were read. The columns are shared, not read again."""
        examples = copy(self)
        examples._inputs = fit_to_spec("x", self._inputs, spec)
        weights = fit_to_spec("sample_weight", self._weights, spec)
        examples._targets = _lists_as_sequences(fit_to_spec("y", self._targets, spec), examples._inputs, spec)
        examples._weights = _lists_as_sequences(weights, examples._inputs, spec)
        examples._inputs = _as_wide_as(examples._inputs, examples._targets, examples._weights)
        return examples

    def _read(self, rows: Rows) -> Batch:
        trees = (self._inputs, self._targets, self._weights)
        x, y, sample_weight = (map_columns(lambda column: column.read(rows), tree) for tree in trees)
        num_rows = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        return Batch(x, y, sample_weight, num_rows, self.kinds)


def read_item(item: object, spec: DataSpec) -> Examples:
    """Read one item of a source of batches: x, `(x, y)` or `(x, y, sample_weight)`. As in Keras, a list is a tuple.

    Raises:
        ArgumentError: For an item with another number of parts.
    """
    parts = tuple(item) if isinstance(item, list | tuple) and not isinstance(item, PackedSequence) else (item,)
    if not 1 <= len(parts) <= 3:
        raise ArgumentError(
            f"A batch must be x, (x, y) or (x, y, sample_weight); got {len(parts)} parts. Several inputs go into one tuple "
            f"or dict: ((a, b), y)."
        )
    x, y, sample_weight, mask = split_named_columns(DataParts(*parts), spec)
    return Examples(x, y, sample_weight, mask=mask, spec=spec)


def _common_length(columns: Sequence[Column]) -> int:
    """Return the number of examples, the same in all columns. Raise `DataError` if it differs or is 0."""
    first = columns[0]
    for column in columns[1:]:
        if len(column) != len(first):
            raise DataError(
                f"{first.name} holds {len(first)} examples, {column.name} holds {len(column)}. Expected the same number. "
                f"Give one array of examples alone, not in a list."
            )
    if len(first) == 0:
        raise DataError(f"{first.name} holds 0 examples. Expected at least one.")
    return len(first)


def _lists_as_sequences(columns: ColumnTree, inputs: ColumnTree, spec: DataSpec) -> ColumnTree:
    """Return lists of equal lengths, for outputs with steps, as sequences if the inputs are lists of different lengths.

    As a padded array, a list that is too long would lose the labels that its input has no step for.
    """
    came_without_padding = any(
        isinstance(column, RaggedColumn) and column.kind == "list" and column.has_different_lengths
        for column in column_leaves(inputs)
    )
    if not came_without_padding:
        return columns
    flags = dict(enumerate(spec.outputs_have_steps)) | dict(zip(spec.output_names, spec.outputs_have_steps, strict=False))

    def convert(key: int | str, column: Column | None) -> Column | None:
        if not isinstance(column, DenseColumn) or column.source.ndim < 2 or column.source.shape[1] < 2:
            return column
        return column.as_sequences() if flags.get(key, False) else column

    if isinstance(columns, dict):
        return {key: convert(key, column) for key, column in columns.items()}
    if isinstance(columns, list):
        return [convert(number, column) for number, column in enumerate(columns)]
    return convert(0, columns)


def _as_wide_as(inputs: ColumnTree, *others: ColumnTree) -> ColumnTree:
    """Return inputs whose sequences are in grids as wide as the padded arrays among targets and weights, in every batch."""
    leaves = [column for tree in others for column in column_leaves(tree)]
    padded = [column for column in leaves if isinstance(column, DenseColumn) and column.source.ndim > 1]
    return map_columns(lambda column: column.with_width_of(padded) if isinstance(column, RaggedColumn) else column, inputs)
