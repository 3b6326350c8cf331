"""Position embeddings: learned, sinusoidal and rotary. Names and arguments are KerasHub's.

KerasHub counts columns of the padded grid. Here a position is the number of a real step within its sequence, so that
padding on the left has no effect. `count="columns"` gives KerasHub's positions.
"""

from __future__ import annotations

import math
from typing import Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from padless import initializers
from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.graph.symbolic import in_shape_inference
from padless.layers.base.layer import Layer
from padless.layers.core.dense import last_axis_size
from padless.layers.core.embedding import Embedding
from padless.ragged.device import to_device
from padless.ragged.index import Index, Ints
from padless.ragged.mask import check_columns
from padless.ragged.packed import Packed, gather_real_steps
from padless.registry import register
from padless.types import (
    ArrayLike,
    ConstraintLike,
    InitializerLike,
    LayerOptions,
    MaskLike,
    RegularizerLike,
    Shape,
    StepTensor,
)

_COUNTS = ("steps", "columns")
_ROPE_TYPES = ("linear", "dynamic", "yarn")


class _PositionLayer(Layer):
    """Base class of layers that compute something from the position of each step."""

    relation = "attention"

    def __init__(self, count: str = "steps", **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        if count not in _COUNTS:
            raise ArgumentError(unknown_name("count", count, _COUNTS))
        self.count = count

    def step_positions(self, inputs: StepTensor, start_index: int | Tensor, positions: ArrayLike | None) -> Tensor:
        """Return the position of each step.

        Args:
            inputs: `(B, T, ..., D)`.
            start_index: The position of the first step.
            positions: Positions to use instead: `(T,)` or `(B, T)`, one for each column of the grid.

        Returns:
            For a `Packed` the positions `(N,)` of its steps; for a plain tensor `(1, T)` or `(B, T)`.

        Raises:
            ShapeError: The inputs do not have the axes batch, steps and features, or `positions` does not fit them.
        """
        if inputs.ndim < 3:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected (batch, steps, ..., features); got {tuple(inputs.shape)}."
            )
        if isinstance(inputs, Packed) and inputs.num_step_axes > 2:
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} got sequences of sequences, {inputs!r}. Wrap it in TimeDistributed."
            )
        if positions is not None:
            return self._explicit_positions(inputs, positions)
        if isinstance(inputs, Packed):
            return to_device(_count_positions(inputs.index, self.count), inputs.device) + start_index
        return torch.arange(inputs.shape[1], device=inputs.device)[None] + start_index

    def _explicit_positions(self, inputs: StepTensor, positions: ArrayLike) -> Tensor:
        """Return the positions that the call was given, at the steps of the inputs."""
        if isinstance(positions, Packed) and isinstance(inputs, Packed) and positions.index.equals(inputs.index):
            return positions.values
        tensor = positions.unpack() if isinstance(positions, Packed) else torch.as_tensor(positions, device=inputs.device)
        grid = tensor[None] if tensor.ndim == 1 else tensor
        if grid.ndim != 2 or any(size not in (1, full) for size, full in zip(grid.shape, inputs.shape[:2], strict=True)):
            raise ShapeError(
                f"{type(self).__name__} {self.name!r} expected positions of shape {tuple(inputs.shape[1:2])} "
                f"or {tuple(inputs.shape[:2])}, one for each column; got {tuple(tensor.shape)}."
            )
        if not isinstance(inputs, Packed):
            return grid
        check_columns(inputs.index, tensor.shape, "`positions`")
        return gather_real_steps(grid.expand(inputs.shape[:2]), inputs.index)

    def compute_mask(self, inputs: StepTensor, mask: MaskLike | None = None) -> MaskLike | None:
        """Return the mask of the input."""
        return mask

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return tuple(input_shape)


def _count_positions(index: Index, count: str) -> Ints:
    """Return the position of each real step: its column, or its number in its sequence."""
    return index.positions if count == "columns" else np.arange(index.num_steps) - index.offsets[index.rows]


def _expand_to_inputs(encoding: Tensor, inputs: StepTensor) -> StepTensor:
    """Expand an encoding, `(N, D)` or for plain inputs `(1 or B, T, D)`, to the shape of the inputs."""
    num_leading_axes = 1 if isinstance(inputs, Packed) else 2
    target = inputs.values if isinstance(inputs, Packed) else inputs
    inner_axes = (1,) * (target.ndim - num_leading_axes - 1)
    encoding = encoding.reshape(*encoding.shape[:num_leading_axes], *inner_axes, encoding.shape[-1])
    expanded = encoding.expand(target.shape)
    return inputs.with_values(expanded) if isinstance(inputs, Packed) else expanded


@register("layer")
class PositionEmbedding(_PositionLayer):
    """Return a learned vector for the position of each step, as KerasHub's `PositionEmbedding`.

    The output has the shape of the input `(B, T, ..., D)`, to be added to a token embedding. The mask passes. The weight
    `embeddings` is `(sequence_length, D)`.

    Args:
        sequence_length: The number of positions.
        initializer: The initializer of `embeddings`.
        count: "steps" to number the real steps of each sequence, "columns" to number the columns of the grid.

    Raises:
        ArgumentError: The number of positions is not a positive integer, or `count` is not known.
        ShapeError: In the call, for a position that the table does not have.

    Example:
        >>> from padless import pack
        >>> layer = PositionEmbedding(4, initializer="ones")
        >>> layer(pack(torch.zeros(1, 3, 2), [[0, 1, 1]])).detach().numpy().tolist()
        [[[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]]
    """

    relation = "attention"
    embeddings: Tensor

    def __init__(
        self,
        sequence_length: int,
        initializer: InitializerLike = "glorot_uniform",
        count: str = "steps",
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(count, **kwargs)
        if not isinstance(sequence_length, int) or sequence_length <= 0:
            raise ArgumentError(
                f"{type(self).__name__} expected a positive integer as sequence_length; got {sequence_length!r}."
            )
        self.sequence_length = sequence_length
        self.initializer = initializers.get(initializer)

    def build(self, inputs_shape: Shape) -> None:
        """Create the table, for the features of the input."""
        self.add_weight((self.sequence_length, last_axis_size(self, inputs_shape)), self.initializer, name="embeddings")

    def call(self, inputs: StepTensor, start_index: int | Tensor = 0, positions: ArrayLike | None = None) -> StepTensor:
        """Look up the positions of the steps.

        Args:
            inputs: `(B, T, ..., D)`.
            start_index: The position of the first step.
            positions: Positions to use instead: `(T,)` or `(B, T)`, one for each column of the grid.

        Returns:
            The vectors, in the shape of the inputs.
        """
        numbers = check_positions(self, self.step_positions(inputs, start_index, positions), self.sequence_length)
        return _expand_to_inputs(functional.embedding(numbers, self.embeddings), inputs)


def check_positions(layer: Layer, positions: Tensor, size: int) -> Tensor:
    """Return positions as integers; on the CPU raise `ShapeError` for one outside a table of this size.

    On another device the lookup itself checks, so that the host does not wait for the device.
    """
    numbers = positions.long()
    if in_shape_inference():
        return numbers.clamp(0, size - 1)
    if numbers.device.type == "cpu" and numbers.numel() and not bool(((numbers >= 0) & (numbers < size)).all()):
        outside = numbers[(numbers < 0) | (numbers >= size)].reshape(-1)[0].item()
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} has rows for positions 0 to {size - 1}; got position "
            f"{outside}. Give a larger sequence_length, or shorter sequences."
        )
    return numbers


class _EmbeddingOptions(LayerOptions, total=False):
    embeddings_regularizer: RegularizerLike
    embeddings_constraint: ConstraintLike
    weights: ArrayLike | None


@register("layer")
class TokenAndPositionEmbedding(Embedding):
    """Add the embeddings of ids and of their positions, as KerasHub's `TokenAndPositionEmbedding`.

    Ids `(B, T)` give `(B, T, D)`. With `mask_zero` the steps with id 0 are masked, and show 0. The weights are
    `embeddings` `(vocabulary_size, D)` and `position_embeddings` `(sequence_length, D)`.

    Args:
        vocabulary_size: The number of ids.
        sequence_length: The number of positions.
        embedding_dim: The features of the output, `D`.
        tie_weights: Only True: the layer does not map features back to ids.
        embeddings_initializer: The initializer of both tables.
        mask_zero: Whether id 0 is a masked step.
        count: "steps" to number the real steps of each sequence, "columns" to number the columns of the grid.

    Raises:
        ArgumentError: An argument is not valid.
        DataError: In the call, for a real id that the table does not have.
        ShapeError: In the call, for a position that the table does not have.

    Example:
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
        embeddings_initializer: InitializerLike = "uniform",
        mask_zero: bool = False,
        count: str = "steps",
        **kwargs: Unpack[_EmbeddingOptions],
    ) -> None:
        super().__init__(vocabulary_size, embedding_dim, embeddings_initializer, mask_zero=mask_zero, **kwargs)
        if not tie_weights:
            raise ArgumentError(
                "TokenAndPositionEmbedding does not map features back to ids, so tie_weights=False has no meaning. "
                "Leave tie_weights out, and use a Dense layer for the projection."
            )
        if not isinstance(sequence_length, int) or sequence_length <= 0:
            raise ArgumentError(
                f"TokenAndPositionEmbedding expected a positive integer as sequence_length; got {sequence_length!r}."
            )
        if count not in _COUNTS:
            raise ArgumentError(unknown_name("count", count, _COUNTS))
        self.sequence_length = sequence_length
        self.count = count

    def build(self, input_shape: Shape | None) -> None:
        """Create both tables."""
        super().build(input_shape)
        self.add_weight((self.sequence_length, self.output_dim), self.embeddings_initializer, name="position_embeddings")

    def call(self, inputs: StepTensor, start_index: int = 0) -> StepTensor:
        """Look up ids and positions; `start_index` is the position of the first step."""
        tokens: StepTensor = super().call(inputs)
        if isinstance(tokens, Packed):
            if tokens.num_step_axes > 2:
                raise ShapeError(
                    f"{type(self).__name__} {self.name!r} got sequences of sequences, {tokens!r}. Wrap it in "
                    f"TimeDistributed."
                )
            positions = to_device(_count_positions(tokens.index, self.count), tokens.device)
        else:
            positions = torch.arange(tokens.shape[-2], device=tokens.device)
        numbers = check_positions(self, positions + start_index, self.sequence_length)
        encoding = functional.embedding(numbers, self.position_embeddings)
        return tokens.with_values(tokens.values + encoding) if isinstance(tokens, Packed) else tokens + encoding

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the ids with the features as a further axis."""
        return (*input_shape, self.output_dim)


@register("layer")
class SinePositionEncoding(_PositionLayer):
    """Return sines and cosines of the position of each step, as KerasHub's `SinePositionEncoding` (Vaswani et al., 2017).

    The output has the shape of the input `(B, T, ..., D)`, to be added to a token embedding. Feature `2i` is
    `sin(p / max_wavelength^(2i/D))` for position `p`, and feature `2i + 1` the cosine. The mask passes.

    Args:
        max_wavelength: The longest wavelength of the sines.
        count: "steps" to number the real steps of each sequence, "columns" to number the columns of the grid.

    Example:
        >>> SinePositionEncoding()(torch.zeros(1, 2, 2)).round(decimals=2).tolist()
        [[[0.0, 1.0], [0.8399999737739563, 0.5400000214576721]]]
    """

    relation = "attention"

    def __init__(self, max_wavelength: float = 10000, count: str = "steps", **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(count, **kwargs)
        self.max_wavelength = max_wavelength

    def call(self, inputs: StepTensor, start_index: int | Tensor = 0, positions: ArrayLike | None = None) -> StepTensor:
        """Compute the encoding of the positions; the arguments are those of `PositionEmbedding`."""
        step_positions, size = self.step_positions(inputs, start_index, positions), inputs.shape[-1]
        feature = torch.arange(size, device=inputs.device)
        frequencies = _at_least_float32(self.max_wavelength ** (-(2.0 * (feature // 2)) / max(size, 1)), inputs.dtype)
        angles = step_positions.to(frequencies.dtype)[..., None] * frequencies
        encoding = torch.where(feature % 2 == 0, angles.sin(), angles.cos()).to(inputs.dtype)
        return _expand_to_inputs(encoding, inputs)


def _at_least_float32(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` in float64 for inputs in float64, else in float32: half precision cannot count to a thousand."""
    return x.double() if dtype == torch.float64 else x.float()


@register("layer")
class RotaryEmbedding(_PositionLayer):
    """Rotate pairs of features by angles proportional to the position, as KerasHub's `RotaryEmbedding` (Su et al., 2021).

    For queries and keys `(B, T, D)` or `(B, T, H, D)` of attention: products of rotated queries and keys depend on the
    distance of their positions only. Features `i` and `i + D/2` are a pair. Input and output have the same shape. The
    mask passes.

    Args:
        max_wavelength: The longest wavelength of the rotation.
        scaling_factor: The factor by which longer sequences than in training stretch the wavelengths.
        rope_type: How `scaling_factor` is applied: "linear", "dynamic" or "yarn" (Peng et al., 2023).
        beta_fast: For "yarn", the number of rotations within the original length above which a pair is not scaled.
        beta_slow: For "yarn", the number of rotations below which a pair is scaled fully.
        original_max_position_embeddings: For "yarn", the sequence length in training.
        truncate: For "yarn", whether the bounds between scaled and unscaled pairs are whole numbers.
        sequence_axis: The axis of time.
        feature_axis: The axis of the features, whose size must be even.
        denominator_dim: The number in place of `D` in the exponents of the wavelengths; None for `D`.
        count: "steps" to number the real steps of each sequence, "columns" to number the columns of the grid.

    Raises:
        ArgumentError: An argument is not known, or in the call the axes do not fit the input.
        ShapeError: In the call, if the number of features is odd.

    Example:
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
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(count, **kwargs)
        if rope_type not in _ROPE_TYPES:
            raise ArgumentError(unknown_name("rope_type", rope_type, _ROPE_TYPES))
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

    def call(self, inputs: StepTensor, start_index: int | Tensor = 0, positions: ArrayLike | None = None) -> StepTensor:
        """Rotate the inputs; `start_index` and `positions` are those of `PositionEmbedding`."""
        time_axis, feature_axis = self._axes(inputs)
        if isinstance(inputs, Packed):
            step_positions = self.step_positions(inputs, start_index, positions)
            steps = inputs.values.movedim(feature_axis - 1, -1)  # `values` has one axis for batch and time
            rotated = self._rotate(steps[None], step_positions[None])[0]
            return inputs.with_values(rotated.movedim(-1, feature_axis - 1))
        grid = inputs.movedim((feature_axis, time_axis), (-1, 1))
        rotated = self._rotate(grid, self.step_positions(grid, start_index, positions))
        return rotated.movedim((-1, 1), (feature_axis, time_axis))

    def _axes(self, inputs: StepTensor) -> tuple[int, int]:
        """Return the axes of time and features, counted from the front; raise an error if they do not fit the inputs."""
        ndim = inputs.ndim
        if any(not -ndim <= axis < ndim for axis in (self.sequence_axis, self.feature_axis)):
            raise ArgumentError(
                f"RotaryEmbedding {self.name!r} has sequence_axis {self.sequence_axis} and feature_axis "
                f"{self.feature_axis}, but its input has {ndim} axes."
            )
        time_axis, feature_axis = self.sequence_axis % ndim, self.feature_axis % ndim
        is_masked_elsewhere = isinstance(inputs, Packed) and (time_axis != 1 or feature_axis < 2)
        if is_masked_elsewhere or time_axis == feature_axis or 0 in (time_axis, feature_axis):
            raise ArgumentError(
                f"RotaryEmbedding {self.name!r} needs different axes for steps and features, neither of them the batch. "
                f"The steps of a masked input are on axis 1. Got sequence_axis {self.sequence_axis} and feature_axis "
                f"{self.feature_axis} for {inputs!r}."
            )
        if inputs.shape[feature_axis] % 2:
            raise ShapeError(
                f"RotaryEmbedding {self.name!r} rotates pairs of features, so their number must be even; got "
                f"{inputs.shape[feature_axis]}, in {tuple(inputs.shape)}."
            )
        return time_axis, feature_axis

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate `(B, T, ..., D)` by the angles of positions `(1 or B, T)`."""
        frequencies = self.angular_frequencies(x.shape[-1], x.device, x.dtype)
        angles = positions.to(frequencies.dtype)[..., None] * frequencies  # (1 or B, T, D/2)
        angles = torch.cat([angles, angles], -1)
        angles = angles.reshape(*angles.shape[:2], *(1,) * (x.ndim - 3), x.shape[-1])
        magnitude = 1 + 0.1 * math.log(self.scaling_factor) if self.rope_type == "yarn" else 1.0
        cosines, sines = (magnitude * angles.cos()).to(x.dtype), (magnitude * angles.sin()).to(x.dtype)
        first_half, second_half = x.chunk(2, -1)
        return x * cosines + torch.cat([-second_half, first_half], -1) * sines

    def angular_frequencies(self, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the angle by which each pair of features rotates from one position to the next, `(size / 2,)`."""
        exponents = _at_least_float32(torch.arange(0, size, 2, device=device), dtype)
        if self.rope_type == "yarn":
            frequencies = self.max_wavelength ** (-exponents / max(size, 1))
            first, last = self._yarn_bounds(size)
            scaled_share = ((exponents / 2 - first) / max(last - first, 0.001)).clamp(0, 1)
            return frequencies / self.scaling_factor * scaled_share + frequencies * (1 - scaled_share)
        frequencies = self.max_wavelength ** (-exponents / (self.denominator_dim or max(size, 1)))
        if self.rope_type == "dynamic":
            return frequencies / self.scaling_factor ** (size / max(1, size - 2))
        return frequencies / self.scaling_factor

    def _yarn_bounds(self, size: int) -> tuple[float, float]:
        """Return the numbers of the pairs up to which YaRN does not scale, and from which it scales fully."""
        first, last = (self._pair_with_rotations(rotations, size) for rotations in (self.beta_fast, self.beta_slow))
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        return max(first, 0), min(last, size - 1)

    def _pair_with_rotations(self, rotations: float, size: int) -> float:
        """Return the number of the pair that rotates this many times within the original sequence length."""
        wavelength_over_2_pi = self.original_max_position_embeddings / (rotations * 2 * math.pi)
        return size * math.log(wavelength_over_2_pi) / (2 * math.log(self.max_wavelength))
