"""Where a step stands: learned, sinusoidal and rotary positions. They count real steps, or columns on request.

Names and arguments are KerasHub's; `count` is ours. KerasHub counts columns.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless import initializers
from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.graph.symbolic import in_shape_inference
from padless.layers.base.layer import Layer
from padless.layers.core.dense import last_axis_size
from padless.layers.core.embedding import Embedding
from padless.ragged.device import to_device
from padless.ragged.index import Index
from padless.ragged.packed import Packed, gather_real_steps
from padless.registry import register

COUNTS = ("steps", "columns")


class _Positioned(Layer):
    """The base: something made of each step's position."""

    relation = "attention"

    def __init__(self, count: str = "steps", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if count not in COUNTS:
            raise ArgumentError(unknown_name("count", count, COUNTS))
        self.count = count

    def places(self, inputs: Any, start_index: Any, positions: Any) -> Tensor:
        """The position of each step `(N,)`, of a plain input of each column `(1 or B, T)`."""
        if inputs.ndim < 3:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected (batch, steps, ..., features); got {tuple(inputs.shape)}."
            )
        if isinstance(inputs, Packed) and inputs.num_step_axes > 2:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} got sequences of sequences, {inputs!r}. Wrap it in TimeDistributed."
            )
        if positions is not None:
            return self._given(inputs, positions)
        if not isinstance(inputs, Packed):
            return torch.arange(inputs.shape[1], device=inputs.device)[None] + start_index
        return to_device(_counted(inputs.index, self.count), inputs.device) + start_index

    def _given(self, inputs: Any, positions: Any) -> Tensor:
        """Positions of one's own, `(T,)` or `(B, T)` on the grid."""
        if isinstance(positions, Packed) and isinstance(inputs, Packed) and positions.index.equals(inputs.index):
            return positions.values
        given = positions.unpack() if isinstance(positions, Packed) else torch.as_tensor(positions, device=inputs.device)
        grid = given[None] if given.ndim == 1 else given
        if grid.ndim != 2 or any(size not in (1, full) for size, full in zip(grid.shape, inputs.shape[:2], strict=True)):
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected positions of shape {tuple(inputs.shape[1:2])} "
                f"or {tuple(inputs.shape[:2])}, one for each column; got {tuple(given.shape)}."
            )
        return gather_real_steps(grid.expand(inputs.shape[:2]), inputs.index) if isinstance(inputs, Packed) else grid

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the input."""
        return mask

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)


def _counted(index: Index, count: str) -> np.ndarray:
    return index.positions if count == "columns" else np.arange(index.num_steps) - index.offsets[index.rows]


def _of_each(inputs: Any, found: Tensor) -> Any:
    """What was made for each position, on the steps of the input."""
    if isinstance(inputs, Packed):
        return inputs.with_values(found.expand(inputs.values.shape))
    found = found.reshape(*found.shape[:2], *(1,) * (inputs.ndim - found.ndim), *found.shape[2:])
    return found.expand(inputs.shape)


@register("layer")
class PositionEmbedding(_Positioned):
    """A learned row for each position, in the shape of the input: add it to a token embedding.

    KerasHub's `PositionEmbedding`. Weight: `embeddings` `(sequence_length, D)`. `count="steps"` numbers real steps, so that
    padding on the left moves nothing; `count="columns"` numbers columns. `start_index` is added, `positions` `(T,)` or
    `(B, T)` replace both. Raises `ShapeError` for a position beyond the table.

    >>> from padless import pack
    >>> layer = PositionEmbedding(4, initializer="ones")
    >>> layer(pack(torch.zeros(1, 3, 2), [[0, 1, 1]])).numpy().tolist()
    [[[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]]
    """

    relation = "attention"
    embeddings: Tensor

    def __init__(
        self, sequence_length: int, initializer: Any = "glorot_uniform", count: str = "steps", **kwargs: Any
    ) -> None:
        super().__init__(count, **kwargs)
        if not isinstance(sequence_length, int) or sequence_length <= 0:
            raise ArgumentError(
                f"{type(self).__name__} expected a positive integer as sequence_length; got {sequence_length!r}."
            )
        self.sequence_length = sequence_length
        self.initializer = initializers.get(initializer)

    def build(self, inputs_shape: Any) -> None:
        """The table."""
        self.add_weight((self.sequence_length, last_axis_size(self, inputs_shape)), self.initializer, name="embeddings")

    def call(self, inputs: Any, start_index: Any = 0, positions: Any = None) -> Any:
        """The rows of the steps' positions."""
        places = check_positions(self, self.places(inputs, start_index, positions), self.sequence_length)
        rows = torch.nn.functional.embedding(places, self.embeddings)
        if isinstance(inputs, Packed):
            rows = rows.reshape(len(rows), *(1,) * (inputs.values.ndim - 2), rows.shape[-1])
        return _of_each(inputs, rows)


def check_positions(layer: Layer, places: Tensor, size: int) -> Tensor:
    """Whole positions that stand in a table of this size; on a device the lookup itself checks."""
    whole = places.long()
    if in_shape_inference():
        return whole.clamp(0, size - 1)
    if whole.device.type == "cpu" and whole.numel() and not bool(((whole >= 0) & (whole < size)).all()):
        beyond = whole[(whole < 0) | (whole >= size)].reshape(-1)[0].item()
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} has rows for positions 0 to {size - 1}; got position "
            f"{beyond}. Give a larger sequence_length, or shorter sequences."
        )
    return whole


@register("layer")
class TokenAndPositionEmbedding(Embedding):
    """The sum of an Embedding of ids `(B, T)` and of their positions; with `mask_zero`, id 0 is no step.

    KerasHub's `TokenAndPositionEmbedding`. Weights: `embeddings` `(vocabulary_size, D)`, `position_embeddings`
    `(sequence_length, D)`. Positions count real steps, or with `count="columns"` columns. Masked steps show 0.

    >>> TokenAndPositionEmbedding(9, 5, 2, mask_zero=True)(torch.tensor([[3, 4, 0]]))
    Packed(shape=(1, 3, 2), 2 real steps, torch.float32, cpu)
    """

    relation = "creates_mask"
    position_embeddings: Tensor

    def __init__(
        self,
        vocabulary_size: int,
        sequence_length: int,
        embedding_dim: int,
        tie_weights: bool = True,
        embeddings_initializer: Any = "uniform",
        mask_zero: bool = False,
        count: str = "steps",
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary_size, embedding_dim, embeddings_initializer, mask_zero=mask_zero, **kwargs)
        if not tie_weights:
            raise ArgumentError(
                "TokenAndPositionEmbedding has no projection back to ids, so there is nothing to untie; use "
                "a Dense layer for it and leave tie_weights out."
            )
        if not isinstance(sequence_length, int) or sequence_length <= 0:
            raise ArgumentError(
                f"TokenAndPositionEmbedding expected a positive integer as sequence_length; got {sequence_length!r}."
            )
        if count not in COUNTS:
            raise ArgumentError(unknown_name("count", count, COUNTS))
        self.sequence_length = sequence_length
        self.count = count

    def build(self, input_shape: Any) -> None:
        """Both tables."""
        super().build(input_shape)
        self.add_weight((self.sequence_length, self.output_dim), self.embeddings_initializer, name="position_embeddings")

    def call(self, inputs: Any, start_index: int = 0) -> Any:
        """The rows of the real ids and of their positions."""
        tokens = super().call(inputs)
        if isinstance(tokens, Packed):
            if tokens.num_step_axes > 2:
                raise ShapeError(
                    f"{type(self).__name__} {self.name!r} got sequences of sequences, {tokens!r}. Wrap it in "
                    f"TimeDistributed."
                )
            places = to_device(_counted(tokens.index, self.count), tokens.device)
        else:
            places = torch.arange(tokens.shape[-2], device=tokens.device)
        places = check_positions(self, places + start_index, self.sequence_length)
        rows = torch.nn.functional.embedding(places, self.position_embeddings)
        return tokens.with_values(tokens.values + rows) if isinstance(tokens, Packed) else tokens + rows

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The ids', with the features behind."""
        return (*input_shape, self.output_dim)


@register("layer")
class SinePositionEncoding(_Positioned):
    """Sines and cosines of each position, in the shape of the input: add it to a token embedding.

    KerasHub's `SinePositionEncoding` (Vaswani et al. 2017): feature `2i` is `sin(p / w^(2i/D))`, feature `2i + 1` the
    cosine, `w` the `max_wavelength`. `count`, `start_index` and `positions` as in `PositionEmbedding`.

    >>> SinePositionEncoding()(torch.zeros(1, 2, 2)).round(decimals=2).tolist()
    [[[0.0, 1.0], [0.8399999737739563, 0.5400000214576721]]]
    """

    relation = "attention"

    def __init__(self, max_wavelength: float = 10000, count: str = "steps", **kwargs: Any) -> None:
        super().__init__(count, **kwargs)
        self.max_wavelength = max_wavelength

    def call(self, inputs: Any, start_index: Any = 0, positions: Any = None) -> Any:
        """The encoding of the steps' positions."""
        places, size = self.places(inputs, start_index, positions), inputs.shape[-1]
        feature = torch.arange(size, device=inputs.device)
        scales = _precise(self.max_wavelength ** (-(2.0 * (feature // 2)) / max(size, 1)), inputs.dtype)
        angles = places.to(scales.dtype)[..., None] * scales
        found = torch.where(feature % 2 == 0, angles.sin(), angles.cos()).to(inputs.dtype)
        if isinstance(inputs, Packed):
            found = found.reshape(len(found), *(1,) * (inputs.values.ndim - 2), size)
        return _of_each(inputs, found)


def _precise(x: Tensor, dtype: torch.dtype) -> Tensor:
    """At least single precision: half of it cannot count to a thousand."""
    return x.double() if dtype == torch.float64 else x.float()


@register("layer")
class RotaryEmbedding(_Positioned):
    """The input with its features turned by angles that grow with the position; for queries and keys of attention.

    KerasHub's `RotaryEmbedding` (Su et al. 2021) for `(B, T, D)` or `(B, T, H, D)`: features `i` and `i + D/2` are a
    pair. `rope_type` is "linear", "dynamic" or "yarn" (Peng et al. 2023). Products of turned queries and keys depend on
    the distance alone. `count`, `start_index` and `positions` as in `PositionEmbedding`.

    >>> RotaryEmbedding()(torch.tensor([[[1., 0.], [1., 0.]]])).round(decimals=2).tolist()
    [[[1.0, 0.0], [0.5400000214576721, 0.8399999737739563]]]
    """

    relation = "attention"

    def __init__(
        self,
        max_wavelength: float = 10000,
        scaling_factor: float = 1.0,
        rope_type: str = "linear",
        beta_fast: float = 32.0,
        beta_slow: float = 1.0,
        original_max_position_embeddings: int = 4096,
        truncate: bool = True,
        sequence_axis: int = 1,
        feature_axis: int = -1,
        denominator_dim: int | None = None,
        count: str = "steps",
        **kwargs: Any,
    ) -> None:
        super().__init__(count, **kwargs)
        if rope_type not in ("linear", "dynamic", "yarn"):
            raise ArgumentError(unknown_name("rope_type", rope_type, ("linear", "dynamic", "yarn")))
        self.max_wavelength = max_wavelength
        self.scaling_factor = scaling_factor
        self.rope_type = rope_type
        self.beta_fast = beta_fast
        self.beta_slow = beta_slow
        self.original_max_position_embeddings = original_max_position_embeddings
        self.truncate = truncate
        self.sequence_axis = sequence_axis
        self.feature_axis = feature_axis
        self.denominator_dim = denominator_dim

    def call(self, inputs: Any, start_index: Any = 0, positions: Any = None) -> Any:
        """The turned inputs."""
        sequence, feature = self._axes(inputs)
        if isinstance(inputs, Packed):
            places = self.places(inputs, start_index, positions)
            turned = self._turned(inputs.values.movedim(feature - 1, -1)[None], places[None])[0]
            return inputs.with_values(turned.movedim(-1, feature - 1))
        moved = inputs.movedim((feature, sequence), (-1, 1))
        return self._turned(moved, self.places(moved, start_index, positions)).movedim((-1, 1), (feature, sequence))

    def _axes(self, inputs: Any) -> tuple[int, int]:
        """The axes of time and of features, counted from the front."""
        rank = inputs.ndim
        if any(not -rank <= axis < rank for axis in (self.sequence_axis, self.feature_axis)):
            raise ArgumentError(
                f"RotaryEmbedding {self.name!r} has sequence_axis {self.sequence_axis} and feature_axis "
                f"{self.feature_axis}, but its input has {rank} axes."
            )
        sequence, feature = self.sequence_axis % rank, self.feature_axis % rank
        if isinstance(inputs, Packed) and (sequence != 1 or feature < 2) or sequence == feature or 0 in (sequence, feature):
            raise ArgumentError(
                f"RotaryEmbedding {self.name!r} needs steps and features on axes of their own, of a masked "
                f"input the steps on axis 1; got sequence_axis {self.sequence_axis} and feature_axis "
                f"{self.feature_axis} for {inputs!r}."
            )
        if inputs.shape[feature] % 2:
            raise ShapeError(
                f"RotaryEmbedding {self.name!r} turns pairs of features, so their number must be even; got "
                f"{inputs.shape[feature]}, in {tuple(inputs.shape)}."
            )
        return sequence, feature

    def _turned(self, x: Tensor, places: Tensor) -> Tensor:
        """`(B, T, ..., D)` at positions `(1 or B, T)`."""
        speeds = self.speeds(x.shape[-1], x.device, x.dtype)
        angles = places.to(speeds.dtype)[..., None] * speeds  # (1 or B, T, D/2)
        angles = torch.cat([angles, angles], -1)
        angles = angles.reshape(*angles.shape[:2], *(1,) * (x.ndim - 3), x.shape[-1])
        heat = 1 + 0.1 * math.log(self.scaling_factor) if self.rope_type == "yarn" else 1.0
        first, second = x.chunk(2, -1)
        return x * (heat * angles.cos()).to(x.dtype) + torch.cat([-second, first], -1) * (heat * angles.sin()).to(x.dtype)

    def speeds(self, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """By what angle each pair of features turns from one position to the next."""
        numbers = _precise(torch.arange(0, size, 2, device=device), dtype)
        own = self.max_wavelength ** (-numbers / (self.denominator_dim or max(size, 1)))
        if self.rope_type == "linear":
            return own / self.scaling_factor
        if self.rope_type == "dynamic":
            return own / self.scaling_factor ** (size / max(1, size - 2))
        own = self.max_wavelength ** (-numbers / max(size, 1))
        low, high = self._fading(size)
        slow = ((numbers / 2 - low) / max(high - low, 0.001)).clamp(0, 1)
        return own / self.scaling_factor * slow + own * (1 - slow)

    def _fading(self, size: int) -> tuple[float, float]:
        """Between which pairs YaRN goes over from fast ones, which it leaves alone, to slow ones, which it stretches."""
        reach = [
            size
            * math.log(self.original_max_position_embeddings / (turns * 2 * math.pi))
            / (2 * math.log(self.max_wavelength))
            for turns in (self.beta_fast, self.beta_slow)
        ]
        low, high = (math.floor(reach[0]), math.ceil(reach[1])) if self.truncate else reach
        return max(low, 0), min(high, size - 1)
