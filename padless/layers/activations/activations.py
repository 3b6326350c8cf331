"""Activation layers: functions of single numbers, and the softmax over features or over the steps of a sequence."""

from __future__ import annotations

import warnings
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from padless import activations, constraints, initializers, regularizers
from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.graph.symbolic import SymbolicTensor
from padless.kernels.segment_reduce import segment_softmax
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import as_data
from padless.ragged.broadcast import at_columns
from padless.ragged.packed import Packed
from padless.registry import register
from padless.types import (
    ActivationLike,
    ConstraintLike,
    InitializerLike,
    LayerOptions,
    RegularizerLike,
    Shape,
    StepTensor,
)


class SameShape(Layer):
    """Base class of layers whose output has the shape of the input."""

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the input."""
        return tuple(input_shape)


@register("layer")
class ReLU(SameShape):
    """Apply the rectified linear unit to each number, as Keras's `ReLU`.

    The output is the input above `threshold`, at most `max_value`. Below `threshold` it is
    `negative_slope * (x - threshold)`. Input and output have the same shape. The mask passes.

    Args:
        max_value: The largest output, at least 0; None for no limit.
        negative_slope: The factor below `threshold`, at least 0.
        threshold: The number below which the slope applies, at least 0.

    Raises:
        ArgumentError: An argument is not a number or below 0.

    Example:
        >>> ReLU(max_value=2, negative_slope=0.5)(torch.tensor([[-1., 1., 9.]])).tolist()
        [[-0.5, 1.0, 2.0]]
    """

    relation = "stepwise"

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.max_value = None if max_value is None else _check_not_negative(self, "max_value", max_value)
        self.negative_slope = _check_not_negative(self, "negative_slope", negative_slope)
        self.threshold = _check_not_negative(self, "threshold", threshold)

    def call(self, inputs: StepTensor) -> StepTensor:
        """Apply the function to each number."""
        return activations.relu(inputs, self.negative_slope, self.max_value, self.threshold)


class _LeakyReLUOptions(LayerOptions, total=False):
    alpha: float


@register("layer")
class LeakyReLU(SameShape):
    """Multiply numbers below 0 by `negative_slope`, as Keras's `LeakyReLU`.

    Input and output have the same shape. The mask passes.

    Args:
        negative_slope: The factor, at least 0. Its old name `alpha` is accepted with a warning.

    Raises:
        ArgumentError: The factor is not a number or below 0.

    Example:
        >>> LeakyReLU()(torch.tensor([[-10., 2.]])).tolist()
        [[-3.0, 2.0]]
    """

    relation = "stepwise"

    def __init__(self, negative_slope: float = 0.3, **kwargs: Unpack[_LeakyReLUOptions]) -> None:
        if "alpha" in kwargs:
            warnings.warn("LeakyReLU(alpha=...) is deprecated. Write LeakyReLU(negative_slope=...).", stacklevel=2)
            negative_slope = kwargs.pop("alpha")
            self.__dict__["_arguments"] = {**kwargs, "negative_slope": negative_slope}  # the config has the new name
        super().__init__(**kwargs)
        self.negative_slope = _check_not_negative(self, "negative_slope", negative_slope)

    def call(self, inputs: StepTensor) -> StepTensor:
        """Apply the function to each number."""
        return activations.leaky_relu(inputs, self.negative_slope)


@register("layer")
class ELU(SameShape):
    """Apply the exponential linear unit to each number, as Keras's `ELU` (Clevert et al., 2016).

    The output is the input above 0 and `alpha * (exp(x) - 1)` below. Input and output have the same shape. The mask
    passes.

    Args:
        alpha: The factor below 0.

    Example:
        >>> ELU(2.0)(torch.tensor([[-100., 1.]])).tolist()
        [[-2.0, 1.0]]
    """

    relation = "stepwise"

    def __init__(self, alpha: float = 1.0, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha

    def call(self, inputs: StepTensor) -> StepTensor:
        """Apply the function to each number."""
        return activations.elu(inputs, self.alpha)


@register("layer")
class PReLU(SameShape):
    """Multiply numbers below 0 by learned factors, as Keras's `PReLU` (He et al., 2015).

    The weight `alpha` has the shape of the input without the batch, with size 1 on `shared_axes`. For inputs `(B, T, D)`
    that is `(T, D)`, and `(1, D)` with `shared_axes=[1]`. Share axis 1 for sequences. Otherwise the number of columns
    must be known and constant, and a step is multiplied by the factors of its column in the padded grid.
    Input and output have the same shape. The mask passes.

    Args:
        alpha_initializer: The initializer of `alpha`.
        alpha_regularizer: The regularizer of `alpha`.
        alpha_constraint: The constraint of `alpha`.
        shared_axes: One axis or several, counted from 1 (the first after the batch), along which one factor serves all.

    Raises:
        ArgumentError: A shared axis does not exist.
        ShapeError: The size of an axis that is not shared is not known, or differs from that of `alpha`.

    Example:
        >>> PReLU(alpha_initializer="ones", shared_axes=[1])(torch.tensor([[[-2.0], [3.0]]])).tolist()
        [[[-2.0], [3.0]]]
    """

    relation = "stepwise"
    alpha: Tensor

    def __init__(
        self,
        alpha_initializer: InitializerLike = "Zeros",
        alpha_regularizer: RegularizerLike = None,
        alpha_constraint: ConstraintLike = None,
        shared_axes: int | list[int] | tuple[int, ...] | None = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.alpha_regularizer = regularizers.get(alpha_regularizer)
        self.alpha_constraint = constraints.get(alpha_constraint)
        if shared_axes is None:
            self.shared_axes = None
        else:
            self.shared_axes = list(shared_axes) if isinstance(shared_axes, list | tuple) else [shared_axes]

    def build(self, input_shape: Shape) -> None:
        """Create `alpha` for inputs of this shape."""
        shared = self.shared_axes or []
        if any(not isinstance(axis, int) or not 1 <= axis < len(input_shape) for axis in shared):
            raise ArgumentError(
                f"PReLU {self.name!r} has shared_axes {shared}, but its input has the shape {input_shape}. "
                f"Axes count from 1, the first after the batch."
            )
        shape = [1 if axis in shared else size for axis, size in enumerate(input_shape)][1:]
        open_axes = [axis for axis, size in enumerate(shape, 1) if size is None]
        if open_axes:
            raise ShapeError(
                f"PReLU {self.name!r} has one alpha for each position on the axes that are not shared, so their sizes "
                f"must be known; got the shape {tuple(input_shape)}. Share the other axes: "
                f"PReLU(shared_axes={sorted({*shared, *open_axes})})."
            )
        self.add_weight(
            shape, self.alpha_initializer, name="alpha", regularizer=self.alpha_regularizer, constraint=self.alpha_constraint
        )

    def call(self, inputs: StepTensor) -> StepTensor:
        """Multiply the numbers below 0 by `alpha`."""
        sizes = tuple(inputs.shape[1:])
        if len(sizes) != self.alpha.ndim or any(a not in (1, b) for a, b in zip(self.alpha.shape, sizes, strict=True)):
            raise ShapeError(
                f"PReLU {self.name!r} has an alpha of shape {tuple(self.alpha.shape)} and got inputs of shape "
                f"{tuple(inputs.shape)}. For sequences of any length share it over time: "
                f"PReLU(shared_axes=[1])."
            )
        alpha = at_columns(self.alpha, inputs) if isinstance(inputs, Packed) else self.alpha
        return activations.relu(inputs) - alpha * activations.relu(-inputs)


@register("layer")
class Softmax(SameShape):
    """Return positive numbers that sum to 1 along `axis`, as Keras's `Softmax`.

    Over features each step is independent of the others. Over time (`axis=1`) the numbers of the real steps of a
    sequence sum to 1, and masked steps show 0. Input and output have the same shape. The mask passes.

    The call accepts two kinds of `mask`. A mask of steps `(B, T)` says which steps are real, as in every layer. A mask
    with as many axes as the input, or one that broadcasts to its features, selects single numbers: the others become 0.

    Args:
        axis: The axis; or several axes, along which the numbers sum to 1 together.

    Raises:
        ArgumentError: The input does not have that axis.
        MaskLost: The axis would normalize over different sequences of a masked input.

    Example:
        >>> from padless import pack
        >>> Softmax(axis=1)(pack([[[5.0], [5.0]], [[7.0]]])).numpy().tolist()
        [[[0.5], [0.5]], [[1.0], [0.0]]]
        >>> Softmax()(torch.zeros(1, 3), mask=torch.tensor([[True, True, False]])).tolist()
        [[0.5, 0.5, 0.0]]
    """

    relation = "stepwise"

    def __init__(self, axis: int | list[int] | tuple[int, ...] = -1, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.axis = list(axis) if isinstance(axis, list | tuple) else axis

    def forward(self, inputs: object, mask: object = None, **kwargs: object) -> Any:
        """Call the layer; a `mask` of single numbers becomes the argument `element_mask` of `call`."""
        if "chosen" in kwargs:  # the name of `element_mask` in files of padless 0.1.0
            kwargs["element_mask"] = kwargs.pop("chosen")
        if mask is None:
            return super().forward(inputs, **kwargs)
        data, mask_data = as_data(inputs, self._float_dtype), as_data(mask)
        name = "mask" if _is_step_mask(mask_data, data) else "element_mask"
        return super().forward(data, **{name: mask_data}, **kwargs)

    def call(self, inputs: StepTensor, element_mask: StepTensor | None = None) -> StepTensor:
        """Compute the softmax of the numbers where `element_mask` is True; the others become 0."""
        if element_mask is None:
            return self._softmax(inputs)
        _check_broadcasts(self, element_mask, inputs)
        selected = cast("Tensor", element_mask if element_mask.dtype == torch.bool else element_mask > 0.5)
        if isinstance(inputs, Packed) and isinstance(selected, Tensor):
            selected = cast("Tensor", at_columns(selected, inputs))
        lowest = torch.finfo(inputs.dtype).min  # finite: if no number is selected, -inf would give NaN
        softmax = self._softmax(torch.where(selected, cast("Tensor", inputs), lowest))
        return torch.where(selected, cast("Tensor", softmax), 0.0)

    def _softmax(self, inputs: StepTensor) -> StepTensor:
        axes = self._sorted_axes(inputs.ndim)
        if not isinstance(inputs, Packed) or axes[0] >= inputs.num_step_axes:
            return activations.softmax(inputs, axes[0] if len(axes) == 1 else tuple(axes))
        time_axis = inputs.num_step_axes - 1
        if axes[0] < time_axis:
            raise MaskLost(
                f"Softmax {self.name!r} along axis {self.axis} of {inputs!r} would normalize over the steps of different "
                f"sequences and lose the mask created by {inputs.index.mask_source}. Within one "
                f"sequence the axes are {time_axis} (time) and those after it. After DropMask() padding counts as data."
            )
        feature_axes = tuple(axis - time_axis for axis in axes[1:])  # counted in `values`, where axis 0 is the steps
        if not feature_axes:
            return inputs.with_values(segment_softmax(inputs.values, inputs.index))
        # Over time and features together: the share of each step times the softmax within the step.
        step_shares = segment_softmax(torch.logsumexp(inputs.values, feature_axes, keepdim=True), inputs.index)
        return inputs.with_values(step_shares * activations.softmax(inputs.values, feature_axes))

    def _sorted_axes(self, ndim: int) -> list[int]:
        """Return the axes counted from the front; raise `ArgumentError` if the input does not have them."""
        axes = self.axis if isinstance(self.axis, list) else [self.axis]
        if any(not isinstance(axis, int) or not -ndim <= axis < ndim for axis in axes):
            raise ArgumentError(f"Softmax {self.name!r} has axis {self.axis}, but its input has {ndim} axes.")
        return sorted(axis % ndim for axis in axes)


def _check_not_negative(layer: Layer, name: str, value: object) -> float:
    if not isinstance(value, int | float) or value < 0:
        raise ArgumentError(f"{type(layer).__name__} expected `{name}` to be a number, at least 0; got {value!r}.")
    return value


def _is_step_mask(mask: StepTensor, inputs: StepTensor | SymbolicTensor) -> bool:
    """Return whether a mask is one of steps: `(B, T)`, and not an entry for each number of an unmasked input `(B, T)`."""
    num_step_axes = inputs.num_step_axes if isinstance(inputs, Packed | SymbolicTensor) else 0
    shape, mask_shape = tuple(inputs.shape), tuple(mask.shape)
    if len(mask_shape) == len(shape) > num_step_axes:
        return False
    return len(mask_shape) >= 2 and all(a == b or None in (a, b) for a, b in zip(mask_shape, shape, strict=False))


def _check_broadcasts(layer: Layer, mask: StepTensor, inputs: StepTensor) -> None:
    pairs = zip(reversed(mask.shape), reversed(inputs.shape), strict=False)
    if mask.ndim > inputs.ndim or any(a not in (1, b) for a, b in pairs):
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} got a mask of shape {tuple(mask.shape)} for inputs of "
            f"shape {tuple(inputs.shape)}. Expected one entry for each number, or 1 along an axis; or a mask "
            f"of steps, {tuple(inputs.shape[:2])}."
        )


@register("layer")
class Activation(Layer):
    """Apply an activation function to each step, as Keras's `Activation`.

    Input and output have the same shape, unless the function changes it. The mask passes.

    Args:
        activation: The name of the function, such as "relu", its config, or a function such as `torch.tanh`.

    Raises:
        ArgumentError: The name is not known.
        MaskLost: In the call, if the function mixes the steps of a masked input.

    Example:
        >>> import torch
        >>> Activation("relu")(torch.tensor([[-1., 2.]])).tolist()
        [[0.0, 2.0]]
    """

    relation = "stepwise"

    def __init__(self, activation: ActivationLike, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.activation = activations.get(activation)

    def call(self, inputs: StepTensor) -> StepTensor:
        """Apply the function."""
        return self.activation(inputs)
