"""GroupNormalization: each group of features with mean 0 and variance 1 over the real steps of a sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError
from padless.kernels.moments import moments_of_rows, moments_of_sequences
from padless.layers.normalization.layer_normalization import Affine, as_float, feature_axes, normalize_axes
from padless.ragged.packed import Packed
from padless.registry import register


@register("layer")
class GroupNormalization(Affine):
    """Groups of features, each normalized over the real steps of its sequence; the mask passes.

    Keras's `GroupNormalization` (Wu and He 2018), which counts padding. The `groups` part `axis`; -1 makes a group of
    each feature (instance normalization). All other axes but the batch are normalized over. Weights: `gamma`, `beta`,
    of the axis. What a gap shows is normalized by its sequence's numbers. Raises `MaskLost` if `axis` is batch or time of
    a masked input.

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
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            epsilon,
            center,
            scale,
            (beta_initializer, beta_regularizer, beta_constraint),
            (gamma_initializer, gamma_regularizer, gamma_constraint),
            **kwargs,
        )
        if not isinstance(groups, int) or isinstance(groups, bool) or groups <= 0 and groups != -1:
            raise ArgumentError(
                f"GroupNormalization expected `groups` to be a positive integer, or -1 for one group for "
                f"each feature; got {groups!r}."
            )
        self.groups = groups
        self.axis = axis

    def build(self, input_shape: Any) -> None:
        """Scale and shift."""
        axis = normalize_axes(self, self.axis, len(input_shape))[0]
        size = input_shape[axis]
        if not axis:
            raise ArgumentError(
                f"GroupNormalization {self.name!r} has axis={self.axis}, which is the batch. Each sequence "
                f"is normalized alone, so `axis` must be another one."
            )
        if not isinstance(size, int) or size % self._groups(size):
            raise ShapeError(
                f"GroupNormalization {self.name!r} parts axis {self.axis} into {self.groups} groups, so its "
                f"size must be a multiple of that; got an input of shape {tuple(input_shape)}."
            )
        self.add_scale_and_shift((size,))

    def _groups(self, size: int) -> int:
        return size if self.groups == -1 else self.groups

    def call(self, inputs: Any) -> Any:
        """The normalized inputs."""
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
            return self._by(inputs, axis, *self._scaled(*moments_of_rows(self._in_groups(inputs, axis))))
        index, fill = inputs.index, inputs.gap_values
        numbers = self._scaled(*moments_of_sequences(self._in_groups(inputs.values, axis), index))

        def of(x: Tensor, rows: Tensor) -> Tensor:
            return self._by(x, axis, *(number.index_select(0, rows) for number in numbers))

        values = of(inputs.values, index.tensor("rows", inputs.device))
        if fill is None:
            return inputs.with_values(values)
        rows = index.tensor("row_of_gap", inputs.device)
        if len(fill) != len(rows):  # a row for each masked cell
            rows = rows.index_select(0, index.tensor("gap_of_cell", inputs.device))
        return inputs.with_values(values, of(fill, rows))

    def _in_groups(self, x: Tensor, axis: int) -> Tensor:
        """`(rows, groups, numbers)`, wide enough to sum up."""
        groups = self._groups(x.shape[axis])
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).movedim(axis, 1)
        return wide.unflatten(1, (groups, wide.shape[1] // groups)).flatten(2)

    def _scaled(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """What is taken away from each group, and what it is multiplied by."""
        return mean, torch.rsqrt(variance + self.epsilon)

    def _by(self, x: Tensor, axis: int, mean: Tensor, scale: Tensor) -> Tensor:
        """Rows normalized by the numbers of their groups, `(rows, groups)`, scaled and shifted."""
        size, after = x.shape[axis], (1,) * (-1 - axis)
        around = (len(x), *(1,) * (x.ndim + axis - 1), size, *after)
        mean, scale = (number.repeat_interleave(size // number.shape[1], 1) for number in (mean, scale))
        scale = scale if self.gamma is None else scale * self.gamma.to(scale.dtype)
        apart = (x.to(mean.dtype) - mean.reshape(around)) * scale.reshape(around)
        shifted = apart if self.beta is None else apart + self.beta.to(mean.dtype).reshape(-1, *after)
        return shifted.to(x.dtype)

    def needs_gap_values(self, shown: bool) -> bool:
        """For its own output's sake, as a stepwise layer."""
        return shown
