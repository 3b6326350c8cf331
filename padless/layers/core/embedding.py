"""The layer Embedding."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional

from padless import constraints, initializers, regularizers
from padless.errors import ArgumentError, DataError
from padless.layers.base.mask_creation import MaskCreatingLayer, create_mask
from padless.layers.base.mask_rule import as_data
from padless.ragged.alignment import example_of_step
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gap_values_needed
from padless.ragged.row_names import row_name
from padless.registry import register
from padless.types import (
    ArrayLike,
    ConstraintLike,
    InitializerLike,
    LayerOptions,
    MaskLike,
    MaskTree,
    RegularizerLike,
    Shape,
    StepTensor,
)


@register("layer")
class Embedding(MaskCreatingLayer):
    """Look up a row of a table for each id: Keras's `Embedding`.

    Ids are integers, or floats with integral values, from 0 to `input_dim - 1`. With `mask_zero`, steps with id 0
    are masked. The padded output has row 0 of the table there, as in Keras. A mask that the ids have already is
    narrowed. Weight: `embeddings` `(input_dim, output_dim)`.

    Args:
        input_dim: the number of rows of the table.
        output_dim: the number of features of a row.
        embeddings_initializer: the initial values of the table.
        embeddings_regularizer: a penalty on the table.
        embeddings_constraint: a constraint on the table.
        mask_zero: whether id 0 masks a step.
        weights: the initial table, an array, or a list with the array.
        kwargs: name, trainable, dtype, activity_regularizer, input_shape.

    Raises:
        DataError: at the call, for a real id that is not integral or not in the table.

    Example:
        >>> embed = Embedding(5, 3, mask_zero=True)
        >>> embed.compute_mask(torch.tensor([[1, 0, 2, 0]])).tolist()
        [[True, False, True, False]]
        >>> embed(torch.tensor([[1, 0, 2, 0]]))
        Packed(shape=(1, 4, 3), 2 real steps, torch.float32, cpu)
    """

    relation = "creates_mask"
    embeddings: Tensor

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: InitializerLike = "uniform",
        embeddings_regularizer: RegularizerLike = None,
        embeddings_constraint: ConstraintLike = None,
        mask_zero: bool = False,
        weights: ArrayLike | None = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(input_dim, int) or input_dim <= 0 or not isinstance(output_dim, int) or output_dim <= 0:
            raise ArgumentError(
                f"Embedding expected positive sizes of the table; got input_dim={input_dim!r}, output_dim={output_dim!r}."
            )
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.mask_zero = mask_zero
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = constraints.get(embeddings_constraint)
        if weights is not None:
            self.build(None)
            self.set_weights(weights if isinstance(weights, list) else [weights])

    @property
    def creates_mask(self) -> bool:
        """Whether id 0 masks a step: the argument `mask_zero`."""
        return self.mask_zero

    def build(self, input_shape: Shape | None) -> None:
        """Create the table."""
        self.add_weight(
            (self.input_dim, self.output_dim),
            self.embeddings_initializer,
            name="embeddings",
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
        )

    def call(self, inputs: StepTensor) -> StepTensor:
        """Look up the rows of the ids `(B, T)`: `(B, T, output_dim)`, a Packed if there is a mask."""
        ids = self._pack_nonzero(inputs)
        if not isinstance(ids, Packed):
            return self._rows_of(ids)
        values = self._rows_of(ids.values, ids.index)
        gap_values = None
        if ids.gap_values is not None:
            gap_values = self._rows_of(ids.gap_values)
        elif self.mask_zero and gap_values_needed():
            gap_values = self.embeddings[:1].expand(ids.index.num_gaps, -1)
        return Packed(values, ids.index, gap_values)

    def real_steps(self, inputs: StepTensor) -> Index | None:
        """Return the index of the real ids, after a check of these ids. None if every step is real."""
        ids = self._pack_nonzero(inputs)
        if not isinstance(ids, Packed):
            _check_ids(ids, self.input_dim, self.name, None)
            return None
        _check_ids(ids.values, self.input_dim, self.name, ids.index)
        return ids.index

    def _pack_nonzero(self, ids: StepTensor) -> StepTensor:
        """Pack the ids that are not 0, if `mask_zero` is set."""
        return create_mask(ids, lambda x: x != 0, f"Embedding {self.name!r}") if self.mask_zero else ids

    def _rows_of(self, ids: Tensor, index: Index | None = None) -> Tensor:
        return functional.embedding(_check_ids(ids, self.input_dim, self.name, index), self.embeddings)

    def compute_mask(self, inputs: ArrayLike, mask: MaskLike | None = None) -> MaskTree:
        """Return `inputs != 0` with `mask_zero`, narrowed by the mask of the ids; else the mask of the ids."""
        if not self.mask_zero:
            return mask
        is_real = as_data(inputs, self._float_dtype) != 0
        is_real = is_real.unpack(padding=0) if isinstance(is_real, Packed) else is_real
        return is_real if mask is None else is_real & torch.as_tensor(mask, dtype=torch.bool)

    def _input_dtype(self) -> None:
        """Leave ids as they are: they are not cast to the dtype of the table."""

    def _enlargement(self) -> int:
        """Return the size of a row: the other numbers of the layer say nothing about the output."""
        return self.output_dim

    def needs_gap_values(self, outputs_needed: bool) -> bool:
        """Return whether the output needs them: ids in gaps are looked up, too."""
        return outputs_needed


def _check_ids(ids: Tensor, num_rows: int, layer_name: str, index: Index | None) -> Tensor:
    """Return ids as integers.

    On a CPU every id is checked. On another device the lookup itself checks, since a check here would wait for it.

    Raises:
        DataError: an id is not integral, or is not in a table of `num_rows` rows.
    """
    if ids.dtype == torch.bool or ids.dtype.is_complex:
        raise DataError(f"Embedding {layer_name!r} expected integer ids; got {ids.dtype}.")
    integers = ids if ids.dtype in (torch.int32, torch.int64) else ids.long()
    if ids.device.type != "cpu" or not ids.numel():
        return integers
    is_wrong = (integers < 0) | (integers >= num_rows)
    if ids.dtype.is_floating_point:
        is_wrong |= ids != ids.round()  # also for NaN, which is not equal to itself
    if bool(is_wrong.any()):
        position = int(is_wrong.reshape(-1).nonzero()[0])
        place = ""
        if index is not None:
            number = position // ids[0].numel()
            place = f" at step {index.positions[number]} of {row_name(example_of_step(index, number))}"
        elif ids.ndim == 2:
            place = f" at step {position % ids.shape[1]} of {row_name(position // ids.shape[1])}"
        raise DataError(
            f"Embedding {layer_name!r} has rows 0 to {num_rows - 1}; got id {ids.reshape(-1)[position].item()!r}{place}. "
            f"Give ids of the vocabulary, or a larger input_dim."
        )
    return integers
