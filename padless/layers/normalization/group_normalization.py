"""GroupNormalization: each group of features is normalized over the real steps of its sequence."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.kernels.moments import moments_of_rows, moments_of_sequences
from padless.layers.normalization.layer_normalization import AffineNormalization, as_float, feature_axes, normalize_axes
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import ConstraintLike, InitializerLike, LayerOptions, RegularizerLike, Shape, StepTensor


@register("layer")
class GroupNormalization(AffineNormalization):
    """Normalize groups of features over each sequence, as Keras's `GroupNormalization` (Wu and He, 2018).

    A group gets mean 0 and variance 1 over its features, over the real steps of the sequence, and over all other axes but
    the batch. Keras counts padding. Input and output have the same shape. The mask passes. Gap values are normalized with
    the mean and variance of their sequence. The weights `gamma` and `beta` have the size of `axis`.

    Args:
        groups: The number of groups, a divisor of the size of `axis`. -1 makes a group of each feature (instance
            normalization).
        axis: The axis of the features.
        epsilon: The number added to the variance.
        center: Whether `beta` is added.
        scale: Whether the result is multiplied by `gamma`.
        beta_initializer: The initializer of `beta`.
        gamma_initializer: The initializer of `gamma`.
        beta_regularizer: The regularizer of `beta`.
        gamma_regularizer: The regularizer of `gamma`.
        beta_constraint: The constraint of `beta`.
        gamma_constraint: The constraint of `gamma`.

    Raises:
        ArgumentError: `groups` is not valid, or `axis` is the batch.
        ShapeError: The size of `axis` is not a multiple of `groups`.
        MaskLost: `axis` is the batch or the time of a masked input.

    Example:
        >>> from padless import pack
        >>> x = pack([[[1.], [3.]], [[5.], [5.], [8.]]])
        >>> GroupNormalization(1, epsilon=0.0)(x).values.detach().flatten()
        tensor([-1.0000, 1.0000, -0.7071, -0.7071, 1.4142])
    """

    relation = "reduce"

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer: InitializerLike = "zeros",
        gamma_initializer: InitializerLike = "ones",
        beta_regularizer: RegularizerLike = None,
        gamma_regularizer: RegularizerLike = None,
        beta_constraint: ConstraintLike = None,
        gamma_constraint: ConstraintLike = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        if not isinstance(groups, int) or isinstance(groups, bool) or groups <= 0 and groups != -1:
            raise ArgumentError(
                f"GroupNormalization expected `groups` to be a positive integer, or -1 for one group for "
                f"each feature; got {groups!r}."
            )
        self.groups = groups
        self.axis = axis

    def build(self, input_shape: Shape) -> None:
        """Create `gamma` and `beta`."""
        axis = normalize_axes(self, self.axis, len(input_shape))[0]
        size = input_shape[axis]
        if not axis:
            raise ArgumentError(
                f"GroupNormalization {self.name!r} has axis={self.axis}, which is the batch. Each sequence "
                f"is normalized alone, so `axis` must be another one."
            )
        if not isinstance(size, int) or size % self._num_groups(size):
            raise ShapeError(
                f"GroupNormalization {self.name!r} divides axis {self.axis} into {self.groups} groups, so its "
                f"size must be a multiple of that; got an input of shape {tuple(input_shape)}."
            )
        self.add_gamma_and_beta((size,))

    def _num_groups(self, size: int) -> int:
        return size if self.groups == -1 else self.groups

    def call(self, inputs: StepTensor) -> StepTensor:
        """Normalize the inputs."""
        (axis,) = feature_axes(self, self.axis, inputs)
        inputs, size = as_float(self, inputs), inputs.shape[axis]
        if isinstance(inputs, Packed) and inputs.num_step_axes > 2:
            raise ShapeError(
                f"GroupNormalization {self.name!r} expected (batch, steps, ...features); got {inputs!r}. For "
                f"sequences of sequences wrap it in TimeDistributed."
            )
        for weight in (self.gamma, self.beta):
            if weight is not None and len(weight) != size:
                raise ShapeError(
                    f"GroupNormalization {self.name!r} was built for {len(weight)} features on axis "
                    f"{self.axis}; got inputs of shape {tuple(inputs.shape)}."
                )
        if not isinstance(inputs, Packed):
            mean, variance = moments_of_rows(self._split_into_groups(inputs, axis))
            return self._normalize(inputs, axis, mean, torch.rsqrt(variance + self.epsilon))
        index = inputs.index
        mean, variance = moments_of_sequences(self._split_into_groups(inputs.values, axis), index)
        inverse_stddev = torch.rsqrt(variance + self.epsilon)

        def normalize(x: Tensor, rows: Tensor) -> Tensor:
            """Normalize steps `(N, ...)` that belong to these sequences `(N,)`."""
            return self._normalize(x, axis, mean.index_select(0, rows), inverse_stddev.index_select(0, rows))

        values = normalize(inputs.values, index.tensor("rows", inputs.device))
        if inputs.gap_values is None:
            return inputs.with_values(values)
        rows = index.tensor("row_of_gap", inputs.device)
        if len(inputs.gap_values) != len(rows):  # one row of gap values for each masked cell
            rows = rows.index_select(0, index.tensor("gap_of_cell", inputs.device))
        return inputs.with_values(values, normalize(inputs.gap_values, rows))

    def _split_into_groups(self, x: Tensor, axis: int) -> Tensor:
        """Return the numbers of each group in each row, `(rows, groups, numbers)`, in float32 at least."""
        num_groups = self._num_groups(x.shape[axis])
        features_first = x.to(torch.promote_types(x.dtype, torch.float32)).movedim(axis, 1)
        return features_first.unflatten(1, (num_groups, features_first.shape[1] // num_groups)).flatten(2)

    def _normalize(self, x: Tensor, axis: int, mean: Tensor, inverse_stddev: Tensor) -> Tensor:
        """Normalize rows with the statistics of their groups `(rows, groups)`, then scale and shift; `axis` is negative."""
        size, inner_axes = x.shape[axis], (1,) * (-1 - axis)
        shape = (len(x), *(1,) * (x.ndim + axis - 1), size, *inner_axes)
        features_per_group = size // mean.shape[1]
        mean = mean.repeat_interleave(features_per_group, 1)
        factor = inverse_stddev.repeat_interleave(features_per_group, 1)
        if self.gamma is not None:
            factor = factor * self.gamma.to(factor.dtype)
        outputs = (x.to(mean.dtype) - mean.reshape(shape)) * factor.reshape(shape)
        if self.beta is not None:
            outputs = outputs + self.beta.to(mean.dtype).reshape(-1, *inner_axes)
        return outputs.to(x.dtype)

    def needs_gap_values(self, outputs_read: bool, /) -> bool:
        """Return whether the layer needs the gap values of its input: only to compute its own."""
        return outputs_read
