"""BatchNormalization: each feature is normalized over the real steps of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Unpack

import torch
from torch import Tensor

from padless import initializers
from padless.errors import ArgumentError, unknown_name
from padless.kernels.moments import COUNT_EPSILON, batch_moments, batch_normalize
from padless.layers.normalization.layer_normalization import (
    AffineNormalization,
    check_weight_sizes,
    feature_axes,
    normalize_axes,
)
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import ConstraintLike, InitializerLike, LayerOptions, RegularizerLike, Shape, StepTensor

_CLIPPING_KEYS = ("rmax", "rmin", "dmax")


@register("layer")
class BatchNormalization(AffineNormalization):
    """Normalize each feature over the batch, as Keras's `BatchNormalization` (Ioffe and Szegedy, 2015).

    In training a feature gets mean 0 and variance 1 over the real steps of the batch, so a sequence depends on its batch.
    The variance is the biased one. The moving averages move towards the batch by `1 - momentum`. Without a real step they
    stay as they are. At inference, and if the layer is frozen, the moving averages are used.

    Input and output have the same shape. The mask passes. Gap values are normalized with the same mean and variance.

    The weights are `gamma`, `beta`, `moving_mean` and `moving_variance`, each with the size of `axis`. With `renorm`
    (Ioffe, 2017) there are also `moving_stddev`, `renorm_mean` and `renorm_stddev`.

    Args:
        axis: The axis of the features.
        momentum: The share of the moving averages that a training step keeps.
        epsilon: The number added to the variance.
        center: Whether `beta` is added.
        scale: Whether the result is multiplied by `gamma`.
        beta_initializer: The initializer of `beta`.
        gamma_initializer: The initializer of `gamma`.
        moving_mean_initializer: The initializer of `moving_mean`.
        moving_variance_initializer: The initializer of `moving_variance`.
        beta_regularizer: The regularizer of `beta`.
        gamma_regularizer: The regularizer of `gamma`.
        beta_constraint: The constraint of `beta`.
        gamma_constraint: The constraint of `gamma`.
        renorm: Whether training uses batch renormalization.
        renorm_clipping: Bounds of its correction: "rmin" and "rmax" of the scale, "dmax" of the shift.
        renorm_momentum: The momentum of `renorm_mean` and `renorm_stddev`.
        synchronized: Only False.

    Raises:
        ArgumentError: An argument is not valid.
        MaskLost: `axis` is the batch or the time of a masked input.

    Example:
        >>> layer = BatchNormalization(epsilon=0.0)
        >>> layer(torch.tensor([[1.], [3.]]), training=True).tolist(), layer.moving_mean
        ([[-1.0], [1.0]], tensor([0.0200]))
    """

    relation = "stepwise"
    moving_mean: Tensor
    moving_variance: Tensor
    moving_stddev: Tensor
    renorm_mean: Tensor
    renorm_stddev: Tensor

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 0.001,
        center: bool = True,
        scale: bool = True,
        beta_initializer: InitializerLike = "zeros",
        gamma_initializer: InitializerLike = "ones",
        moving_mean_initializer: InitializerLike = "zeros",
        moving_variance_initializer: InitializerLike = "ones",
        beta_regularizer: RegularizerLike = None,
        gamma_regularizer: RegularizerLike = None,
        beta_constraint: ConstraintLike = None,
        gamma_constraint: ConstraintLike = None,
        renorm: bool = False,
        renorm_clipping: Mapping[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(
            epsilon=float(epsilon),
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
        if synchronized:
            raise ArgumentError(
                "BatchNormalization(synchronized=True) exists on Keras's TensorFlow backend only. Here the "
                "statistics are those of the steps of this process. Leave it out."
            )
        self.axis = int(axis)
        self.momentum = float(momentum)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.renorm = renorm
        self.renorm_clipping = _check_clipping(renorm_clipping or {}) if renorm else renorm_clipping
        self.renorm_momentum = float(renorm_momentum)
        self.synchronized = synchronized

    def build(self, input_shape: Shape) -> None:
        """Create `gamma`, `beta` and the moving averages."""
        shape = (input_shape[normalize_axes(self, self.axis, len(input_shape))[0]],)
        self.add_gamma_and_beta(shape)
        self.add_weight(shape, self.moving_mean_initializer, trainable=False, name="moving_mean")
        self.add_weight(shape, self.moving_variance_initializer, trainable=False, name="moving_variance")
        if self.renorm:
            stddev = self.moving_variance.sqrt()
            self.add_weight(shape, "zeros", trainable=False, name="moving_stddev").copy_(stddev)
            self.add_weight(shape, "zeros", trainable=False, name="renorm_mean").copy_(self.moving_mean)
            self.add_weight(shape, "zeros", trainable=False, name="renorm_stddev").copy_(stddev)

    def call(self, inputs: StepTensor, training: bool = False) -> StepTensor:
        """Normalize the inputs: with the statistics of the batch in training, else with the moving averages."""
        (axis,) = feature_axes(self, self.axis, inputs)
        check_weight_sizes(self, self.moving_mean, inputs, (self.axis,))
        values = inputs.values if isinstance(inputs, Packed) else inputs
        dtype = torch.promote_types(values.dtype, torch.float32)  # of the computation
        gamma = None if self.gamma is None else self.gamma.to(dtype)
        beta = None if self.beta is None else self.beta.to(dtype)
        uses_batch = training and self.trainable and values.numel() > 0
        if uses_batch and axis == -1 and dtype == torch.float32 and not self.renorm:
            return self._normalize_fused(inputs, values, gamma, beta)
        if uses_batch:
            count_epsilon = COUNT_EPSILON if isinstance(inputs, Packed) else 0.0
            mean, variance = batch_moments(values.to(dtype), axis, count_epsilon)
            if self.renorm:
                gamma, beta = self._renorm_gamma_and_beta(mean.detach(), variance.detach(), gamma, beta)
            self._update_moving_averages(mean.detach(), variance.detach())
        else:
            mean, variance = self.moving_mean.to(dtype), self.moving_variance.to(dtype)
        normalize = self._normalizer(axis, mean, variance, gamma, beta)
        return inputs.map_values(normalize) if isinstance(inputs, Packed) else normalize(inputs)

    def _normalizer(
        self, axis: int, mean: Tensor, variance: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> Callable[[Tensor], Tensor]:
        """Return the function that normalizes values and gap values; `axis` is negative."""
        shape = (-1, *(1,) * (-1 - axis))  # broadcasts along the features
        inverse_stddev = torch.rsqrt(variance + self.epsilon)
        factor = (inverse_stddev if gamma is None else inverse_stddev * gamma).reshape(shape)
        center = mean.reshape(shape)
        shift = None if beta is None else beta.reshape(shape)

        def normalize(x: Tensor) -> Tensor:
            centered = x.to(center.dtype) - center
            outputs = centered * factor if shift is None else torch.addcmul(shift, centered, factor)
            return outputs.to(x.dtype)

        return normalize

    def _normalize_fused(self, inputs: StepTensor, values: Tensor, gamma: Tensor | None, beta: Tensor | None) -> StepTensor:
        """Compute statistics and normalized values of the batch in one kernel."""
        outputs, batch_mean, batch_variance = batch_normalize(values, gamma, beta, self.epsilon)
        self._update_moving_averages(batch_mean, batch_variance)
        if not isinstance(inputs, Packed):
            return outputs
        if inputs.gap_values is None:
            return inputs.with_values(outputs)
        mean, variance = batch_moments(values.float(), -1, COUNT_EPSILON)  # the kernel's have no gradients
        normalize = self._normalizer(-1, mean, variance, gamma, beta)
        return inputs.with_values(outputs, normalize(inputs.gap_values))

    # ------------------------------------------------------------------------------------------- moving averages

    @torch.no_grad()
    def _update_moving_averages(self, mean: Tensor, variance: Tensor) -> None:
        """Move the averages towards the statistics of a batch."""
        if not self.renorm:
            _update_average(self.moving_mean, mean, self.momentum)
            _update_average(self.moving_variance, variance, self.momentum)
            return
        stddev = (variance + self.epsilon).sqrt()
        _update_average(self.renorm_mean, mean, self.renorm_momentum)
        _update_average(self.renorm_stddev, stddev, self.renorm_momentum)
        _update_average(self.moving_mean, mean, self.momentum)
        moving_stddev = _update_average(self.moving_stddev, stddev, self.momentum)
        self.moving_variance.copy_((moving_stddev * moving_stddev - self.epsilon).clamp(min=0))

    def _renorm_gamma_and_beta(
        self, mean: Tensor, variance: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return scale and shift with which values normalized by the batch are those normalized by the averages."""
        clipping = self.renorm_clipping or {}
        expected_stddev = self.renorm_stddev.to(mean.dtype).clamp(min=self.epsilon**0.5)
        scale = (variance + self.epsilon).sqrt() / expected_stddev
        shift = (mean - self.renorm_mean.to(mean.dtype)) / expected_stddev
        rmin, rmax, dmax = (clipping.get(key) for key in ("rmin", "rmax", "dmax"))
        if rmin is not None or rmax is not None:
            scale = scale.clamp(rmin, rmax)
        if dmax is not None:
            shift = shift.clamp(-dmax, dmax)
        if gamma is not None:
            scale, shift = scale * gamma, shift * gamma
        return scale, shift if beta is None else shift + beta

    def _input_dtype(self) -> torch.dtype | None:
        return self.moving_mean.dtype if self.built else self.dtype


def _update_average(average: Tensor, value: Tensor, momentum: float) -> Tensor:
    """Update a moving average in place; return it in the dtype of the value, before it is rounded."""
    updated = average.to(value.dtype) * momentum + value * (1 - momentum)
    average.copy_(updated)
    return updated


def _check_clipping(clipping: Mapping[str, float]) -> Mapping[str, float]:
    """Return the bounds of the correction; raise `ArgumentError` if they contradict each other."""
    for key in clipping:
        if key not in _CLIPPING_KEYS:
            raise ArgumentError(unknown_name("key of renorm_clipping", key, _CLIPPING_KEYS))
    rmin, rmax, dmax = clipping.get("rmin"), clipping.get("rmax"), clipping.get("dmax")
    if rmin is not None and rmax is not None and rmax < rmin or dmax is not None and dmax < 0:
        raise ArgumentError(f"renorm_clipping expected rmin <= rmax and dmax >= 0; got {clipping}.")
    return clipping
