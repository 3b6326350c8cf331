"""Where masks are born: Input, Embedding and Masking.

The law: a mask born on something already masked narrows it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padless import constraints, initializers, regularizers
from padless.errors import ArgumentError, DataError
from padless.layers.base.layer import Layer
from padless.layers.base.mask_creation import create_mask
from padless.layers.base.mask_rule import as_data
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gap_values_needed
from padless.registry import register


@register("layer")
class Embedding(Layer):
    """Rows of a table for ids `(B, T)` from 0 to `input_dim - 1`; with `mask_zero`, id 0 is no step.

    Keras's `Embedding`. Weight: `embeddings` `(input_dim, output_dim)`. Masked steps show row 0, an ordinary row. Ids may
    be floats with integral values. Raises `DataError` for a real id that is not integral or not in the table.

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
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        **kwargs: Any,
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

    def build(self, input_shape: Any) -> None:
        """The table."""
        self.add_weight(
            (self.input_dim, self.output_dim),
            self.embeddings_initializer,
            name="embeddings",
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
        )

    def call(self, inputs: Any) -> Any:
        """The rows of the real ids, `(N, output_dim)`; with `mask_zero`, on the steps whose id is not 0."""
        packed, seen = (
            create_mask(inputs, lambda x: x != 0, f"Embedding {self.name!r}") if self.mask_zero else (inputs, None)
        )
        if not isinstance(packed, Packed):
            return self._rows(packed)
        values = self._rows(packed.values, packed.index)
        fill = None
        if not seen and packed.gap_values is not None:
            fill = self._rows(packed.gap_values)
        elif self.mask_zero and gap_values_needed():
            fill = self.embeddings[:1].expand(packed.index.num_gaps, -1)
        return Packed(values, packed.index, fill)

    def index_of(self, inputs: Any) -> Index | None:
        """The real steps of these ids, which are checked; None if every step is real."""
        packed = create_mask(inputs, lambda x: x != 0, f"Embedding {self.name!r}")[0] if self.mask_zero else inputs
        index = packed.index if isinstance(packed, Packed) else None
        _checked(packed.values if isinstance(packed, Packed) else packed, self.input_dim, self.name, index)
        return index

    def _rows(self, ids: Tensor, index: Index | None = None) -> Tensor:
        return torch.nn.functional.embedding(_checked(ids, self.input_dim, self.name, index), self.embeddings)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """`inputs != 0` with `mask_zero`, narrowed by a mask that the ids have already; else None."""
        if not self.mask_zero:
            return mask
        real = as_data(inputs, self._float_dtype) != 0
        real = real.unpack(padding=0) if isinstance(real, Packed) else real
        return real if mask is None else real & torch.as_tensor(mask, dtype=torch.bool)

    def _input_dtype(self) -> None:
        """Ids are not brought to the dtype of the table."""

    def needs_gap_values(self, shown: bool) -> bool:
        """Only ids that keep a fill of their own are shown through the table."""
        return shown


def _checked(ids: Tensor, size: int, name: str, index: Index | None) -> Tensor:
    """Ids as integers that stand in the table; on a device the lookup itself checks, without a copy to the host."""
    odd = None
    if ids.dtype.is_floating_point and ids.device.type == "cpu":
        odd = ids != ids.round()  # NaN is not equal to itself
    elif ids.dtype == torch.bool or ids.dtype.is_complex:
        raise DataError(f"Embedding {name!r} expected integer ids; got {ids.dtype}.")
    whole = ids if ids.dtype in (torch.int32, torch.int64) else ids.long()
    if ids.device.type == "cpu" and ids.numel():
        wrong = (whole < 0) | (whole >= size)
        wrong = wrong if odd is None else wrong | odd
        if bool(wrong.any()):
            at = int(wrong.reshape(-1).nonzero()[0])
            where = ""
            if index is not None:
                where = f" at step {index.positions[at]} of row {index.rows[at]}"
            elif ids.ndim == 2:
                where = f" at step {at % ids.shape[1]} of row {at // ids.shape[1]}"
            raise DataError(
                f"Embedding {name!r} has rows 0 to {size - 1}; got id {ids.reshape(-1)[at].item()!r}{where}. "
                f"Give ids of the vocabulary, or a larger input_dim."
            )
    return whole
