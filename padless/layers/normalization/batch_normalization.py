"""BatchNormalization: each feature with mean 0 and variance 1 over the real steps of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from padless import initializers
from padless.errors import ArgumentError, unknown_name
from padless.kernels.moments import COUNT_EPSILON, batch_moments, batch_normalize
from padless.layers.normalization.layer_normalization import Affine, check_weight_sizes, feature_axes, normalize_axes
from padless.ragged.packed import Packed
from padless.registry import register

_CLIPPING = ("rmax", "rmin", "dmax")


@register("layer")
class BatchNormalization(Affine):
    """Each place on `axis` normalized over everything else: in training over the real steps of the batch.

    Keras's `BatchNormalization` (Ioffe and Szegedy 2015), with `renorm` (Ioffe 2017). Weights: `gamma`, `beta`, and the
    moving averages `moving_mean` and `moving_variance` (with `renorm` also `moving_stddev`, `renorm_mean`,
    `renorm_stddev`), which inference uses, and which each call in training moves towards the batch by `1 - momentum`.
    The variance is the biased one. A frozen layer infers. A batch without a step moves nothing. What gaps show is
    normalized by the same numbers as the steps. In training a sequence depends on its batch.

    Raises `MaskLost` if `axis` is batch or time of a masked input.

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
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: dict[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            float(epsilon),
            center,
            scale,
            (beta_initializer, beta_regularizer, beta_constraint),
            (gamma_initializer, gamma_regularizer, gamma_constraint),
            **kwargs,
        )
        if synchronized:
            raise ArgumentError(
                "BatchNormalization(synchronized=True) exists on Keras's TensorFlow backend only: here the "
                "statistics are those of the process's own steps. Leave it out."
            )
        self.axis = int(axis)
        self.momentum = float(momentum)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.renorm = renorm
        self.renorm_clipping = _checked(renorm_clipping or {}) if renorm else renorm_clipping
        self.renorm_momentum = float(renorm_momentum)
        self.synchronized = synchronized

    def build(self, input_shape: Any) -> None:
        """Scale and shift, and the moving averages."""
        shape = (input_shape[normalize_axes(self, self.axis, len(input_shape))[0]],)
        self.add_scale_and_shift(shape)
        self.add_weight(shape, self.moving_mean_initializer, trainable=False, name="moving_mean")
        self.add_weight(shape, self.moving_variance_initializer, trainable=False, name="moving_variance")
        if self.renorm:
            for name in ("moving_stddev", "renorm_mean", "renorm_stddev"):
                first = self.moving_mean if name == "renorm_mean" else self.moving_variance.sqrt()
                self.add_weight(shape, "zeros", trainable=False, name=name).copy_(first)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The inputs, normalized by the batch's numbers in training, else by the moving ones."""
        (axis,) = feature_axes(self, self.axis, inputs)
        check_weight_sizes(self, self.moving_mean, inputs, (self.axis,))
        values = inputs.values if isinstance(inputs, Packed) else inputs
        wide = torch.promote_types(values.dtype, torch.float32)
        gamma, beta = (None if weight is None else weight.to(wide) for weight in (self.gamma, self.beta))
        learns = training and self.trainable and values.numel() > 0
        if learns and axis == -1 and wide == torch.float32 and not self.renorm:
            return self._together(inputs, values, gamma, beta)
        if learns:
            tiny = COUNT_EPSILON if isinstance(inputs, Packed) else 0.0
            mean, variance = batch_moments(values.to(wide), axis, tiny)
            moved = mean.detach(), variance.detach()
            if self.renorm:
                gamma, beta = self._corrected(*moved, gamma, beta)
            self._move(*moved)
        else:
            mean, variance = self.moving_mean.to(wide), self.moving_variance.to(wide)
        by = self._by(axis, mean, variance, gamma, beta)
        return inputs.map_values(by) if isinstance(inputs, Packed) else by(inputs)

    def _by(
        self, axis: int, mean: Tensor, variance: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> Callable[[Tensor], Tensor]:
        """The function that normalizes by these numbers, of the values and of what gaps show."""

        def along(x: Tensor) -> Tensor:
            return x.reshape(-1, *(1,) * (-1 - axis))

        scale = torch.rsqrt(variance + self.epsilon)
        scale, mean = along(scale if gamma is None else scale * gamma), along(mean)
        shift = None if beta is None else along(beta)

        def by(x: Tensor) -> Tensor:
            apart = x.to(mean.dtype) - mean
            return (apart * scale if shift is None else torch.addcmul(shift, apart, scale)).to(x.dtype)

        return by

    def _together(self, inputs: Any, values: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Any:
        """Statistics of the batch and what follows them, in one kernel."""
        outputs, *moved = batch_normalize(values, gamma, beta, self.epsilon)
        self._move(*moved)
        if not isinstance(inputs, Packed):
            return outputs
        if inputs.gap_values is None:
            return inputs.with_values(outputs)
        mean, variance = batch_moments(values.float(), -1, COUNT_EPSILON)  # once more, with gradients
        return inputs.with_values(outputs, self._by(-1, mean, variance, gamma, beta)(inputs.gap_values))

    # ------------------------------------------------------------------------------------------------ the averages

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        """The moving averages, a little towards these numbers."""
        if not self.renorm:
            _towards(self.moving_mean, mean, self.momentum)
            _towards(self.moving_variance, variance, self.momentum)
            return
        deviation = (variance + self.epsilon).sqrt()
        _towards(self.renorm_mean, mean, self.renorm_momentum)
        _towards(self.renorm_stddev, deviation, self.renorm_momentum)
        _towards(self.moving_mean, mean, self.momentum)
        moved = _towards(self.moving_stddev, deviation, self.momentum)
        self.moving_variance.copy_((moved * moved - self.epsilon).clamp(min=0))

    def _corrected(self, mean: Tensor, variance: Tensor, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scale and shift that bring what the batch normalized to where the averages would have."""
        clip = self.renorm_clipping or {}
        expected = self.renorm_stddev.to(mean.dtype).clamp(min=self.epsilon**0.5)
        ratio = (variance + self.epsilon).sqrt() / expected
        offset = (mean - self.renorm_mean.to(mean.dtype)) / expected
        if clip.get("rmin") is not None or clip.get("rmax") is not None:
            ratio = ratio.clamp(clip.get("rmin"), clip.get("rmax"))
        if clip.get("dmax") is not None:
            offset = offset.clamp(-clip["dmax"], clip["dmax"])
        if gamma is not None:
            ratio, offset = ratio * gamma, offset * gamma
        return ratio, offset if beta is None else offset + beta

    def _input_dtype(self) -> torch.dtype | None:
        return self.moving_mean.dtype if self.built else self.dtype


def _towards(average: Tensor, number: Tensor, momentum: float) -> Tensor:
    """The average after it has moved, before it is rounded to its own dtype."""
    moved = average.to(number.dtype) * momentum + number * (1 - momentum)
    average.copy_(moved)
    return moved


def _checked(clipping: dict[str, float]) -> dict[str, float]:
    """Bounds of the correction; raises `ArgumentError` if they cannot be."""
    for name in clipping:
        if name not in _CLIPPING:
            raise ArgumentError(unknown_name("key of renorm_clipping", name, _CLIPPING))
    low, high, far = clipping.get("rmin"), clipping.get("rmax"), clipping.get("dmax")
    if low is not None and high is not None and high < low or far is not None and far < 0:
        raise ArgumentError(f"renorm_clipping expected rmin <= rmax and dmax >= 0; got {clipping}.")
    return clipping
