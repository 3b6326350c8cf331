"""Where masks are born: Input, Embedding and Masking.

The law: a mask born on something already masked narrows it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, DataError, ShapeError
from padless.graph.node import Node
from padless.graph.spec import Shape, Symbolic, is_symbolic, probing
from padless.layers import births, constraints, initializers, regularizers
from padless.layers.layer import Layer
from padless.layers.rule import as_data
from padless.ragged.index import Index
from padless.ragged.mask import as_mask, narrow
from padless.ragged.moves import take
from padless.ragged.packed import DOCUMENTS, Packed, gather, shows
from padless.ragged.transfer import known, send
from padless.registry import register


@register("layer")
class InputLayer(Layer):
    """The place where data enters a graph; made by `Input`."""

    relation = "stepwise"

    def __init__(
        self,
        shape: Shape | None = None,
        batch_size: int | None = None,
        dtype: Any = None,
        batch_shape: Shape | None = None,
        masked: bool = False,
        **kwargs: Any,
    ) -> None:
        if (shape is None) == (batch_shape is None):
            raise ArgumentError(
                f"Input expected either `shape` (without the batch) or `batch_shape`; got shape={shape!r} "
                f"and batch_shape={batch_shape!r}."
            )
        super().__init__(dtype=dtype, **kwargs)
        whole = tuple(batch_shape) if batch_shape is not None else (batch_size, *_tuple(shape))
        if any(not (size is None or isinstance(size, int) and size >= 0) for size in whole):
            raise ArgumentError(f"Input expected sizes that are integers or None; got {whole}.")
        if masked and len(whole) < 2:
            raise ArgumentError(f"A masked Input needs a time axis; got the shape {whole} with the batch.")
        self.batch_shape = whole
        self.masked = masked
        symbol = Symbolic(whole, self.dtype, self.name, 2 if masked else 0, f"Input {self.name!r}" if masked else "")
        self._inbound.append(Node(self, (), {}, symbol))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The data themselves."""
        return inputs


def _tuple(shape: Any) -> tuple[Any, ...]:
    if not isinstance(shape, list | tuple):
        raise ArgumentError(
            f"Input expected `shape` as a tuple without the batch, such as (None,) or (10, 3); got "
            f"{shape!r}. Write ({shape!r},)."
        )
    return tuple(shape)


def Input(
    shape: Shape | None = None,
    batch_size: int | None = None,
    dtype: Any = None,
    batch_shape: Shape | None = None,
    name: str | None = None,
    masked: bool = False,
) -> Any:
    """A symbol for data of this shape, without the batch; None where sizes vary.

    `masked=True` declares that the data come with a mask (a list of sequences, a Packed), so that a
    layer which would lose it is refused while the model is built.

    >>> Input(shape=(None, 8)).shape
    (None, None, 8)
    """
    return InputLayer(shape, batch_size, dtype, batch_shape, masked, name=name).output


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

    relation = "birth"
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
        packed, seen = _born(inputs, lambda x: x != 0, f"Embedding {self.name!r}") if self.mask_zero else (inputs, None)
        if not isinstance(packed, Packed):
            return self._rows(packed)
        values = self._rows(packed.values, packed.index)
        fill = None
        if not seen and packed.fill is not None:
            fill = self._rows(packed.fill)
        elif self.mask_zero and shows():
            fill = self.embeddings[:1].expand(packed.index.gaps, -1)
        return Packed(values, packed.index, fill)

    def index_of(self, inputs: Any) -> Index | None:
        """The real steps of these ids, which are checked; None if every step is real."""
        packed = _born(inputs, lambda x: x != 0, f"Embedding {self.name!r}")[0] if self.mask_zero else inputs
        index = packed.index if isinstance(packed, Packed) else None
        _checked(packed.values if isinstance(packed, Packed) else packed, self.input_dim, self.name, index)
        return index

    def _rows(self, ids: Tensor, index: Index | None = None) -> Tensor:
        return torch.nn.functional.embedding(_checked(ids, self.input_dim, self.name, index), self.embeddings)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """`inputs != 0` with `mask_zero`, narrowed by a mask that the ids have already; else None."""
        if not self.mask_zero:
            return mask
        real = as_data(inputs, self._float) != 0
        real = real.unpack(padding=0) if isinstance(real, Packed) else real
        return real if mask is None else real & torch.as_tensor(mask, dtype=torch.bool)

    def _weight_dtype(self) -> None:
        """Ids are not brought to the dtype of the table."""

    def reads_grid(self, shown: bool) -> bool:
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


def _born(inputs: Any, real: Any, who: str) -> tuple[Packed, bool]:
    """The inputs on the steps that are `real`, and whether the whole grid was there to see."""
    if not isinstance(inputs, Packed):
        if inputs.ndim < 2:
            raise ShapeError(
                f"{who} makes a mask of steps, so it needs data of shape (batch, steps, ...); got {tuple(inputs.shape)}."
            )
        index = Index.from_mask(as_mask(real(known(inputs))), who)
        births.note(index)
        return Packed(gather(inputs, index), index), True
    found = real(known(inputs.values))
    if found.ndim != 1:
        raise ShapeError(
            f"{who} would make a mask of each step's parts, on inputs {inputs!r} whose steps are masked "
            f"already. Make the finer mask first: it says which of the steps are real, too. {DOCUMENTS}"
        )
    chosen = as_mask(found[:, None])[:, 0]
    whole = inputs.index
    if chosen.all():  # while a model is looked at, it shall show that the mask has passed here
        index = Index.from_mask(whole.mask, who) if probing() else whole
        births.note(index, narrowed=whole)
        return Packed(inputs.values, index, inputs.fill), False
    mask = whole.mask.copy()
    mask.reshape(-1)[whole.flat[~chosen]] = False
    index = narrow(whole, mask, who)
    births.note(index, narrowed=whole)
    steps = send(chosen.nonzero()[0], inputs.device)
    return Packed(take(inputs.values, steps), index), False


@register("layer")
class Masking(Layer):
    """Steps of `(B, T, D)` whose features all equal `mask_value` are no steps; they show zeros.

    Keras's `Masking`; here NaN is a legal `mask_value` too: a step is masked if all its features are NaN.

    >>> Masking()(torch.tensor([[[1., 0.], [0., 0.]]])).values.tolist()
    [[1.0, 0.0]]
    """

    relation = "birth"

    def __init__(self, mask_value: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_value = mask_value

    def _real(self, x: Tensor) -> Tensor:
        """Which steps have some feature that is not the mask value."""
        differs = ~x.isnan() if math.isnan(self.mask_value) else x != self.mask_value
        return differs.any(dim=-1)

    def call(self, inputs: Any) -> Any:
        """The steps that differ from the mask value."""
        if inputs.ndim < 3:
            raise ShapeError(
                f"Masking {self.name!r} compares the features of each step, so it needs (batch, steps, "
                f"features); got {tuple(inputs.shape)}. Add a feature axis with Reshape, or use "
                f"Embedding(mask_zero=True) for ids."
            )
        packed, _ = _born(inputs, self._real, f"Masking {self.name!r}")
        fill = packed.values.new_zeros((packed.index.gaps, *packed.values.shape[1:])) if shows() else None
        return Packed(packed.values, packed.index, fill)

    def index_of(self, inputs: Any) -> Index:
        """The real steps of these inputs."""
        return _born(inputs, self._real, f"Masking {self.name!r}")[0].index

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Which steps differ from the mask value, narrowed by a mask that the inputs have already."""
        real = self._real(as_data(inputs, self._float))
        real = real.unpack(padding=0) if isinstance(real, Packed) else real
        return real if mask is None else real & torch.as_tensor(mask, dtype=torch.bool)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)

    def reads_grid(self, shown: bool) -> bool:
        """It shows zeros, whatever the input showed."""
        return False


def is_input(symbol: Any) -> bool:
    """Whether this symbol was made by `Input`."""
    return is_symbolic(symbol) and isinstance(symbol.node.operation, InputLayer)
