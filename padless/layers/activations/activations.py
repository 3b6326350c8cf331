"""Activation functions as layers: each number by itself, or the softmax over features or over the steps of a sequence."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from padless import activations, constraints, initializers, regularizers
from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.kernels import segment_reduce as segment
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import as_data
from padless.ragged.packed import Packed
from padless.registry import register


class SameShape(Layer):
    """The base: what comes out has the shape of what goes in."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)


@register("layer")
class ReLU(SameShape):
    """`x` where it exceeds `threshold`, at most `max_value`; below, `negative_slope * (x - threshold)`.

    Keras's `ReLU`.

    >>> ReLU(max_value=2, negative_slope=0.5)(torch.tensor([[-1., 1., 9.]])).tolist()
    [[-0.5, 1.0, 2.0]]
    """

    relation = "stepwise"

    def __init__(
        self, max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.max_value = None if max_value is None else _not_negative(self, "max_value", max_value)
        self.negative_slope = _not_negative(self, "negative_slope", negative_slope)
        self.threshold = _not_negative(self, "threshold", threshold)

    def call(self, inputs: Any) -> Any:
        """The function of each number."""
        return activations.relu(inputs, self.negative_slope, self.max_value, self.threshold)


@register("layer")
class LeakyReLU(SameShape):
    """`x`, times `negative_slope` below 0.

    Keras's `LeakyReLU`; its old name `alpha` for the slope is read, with a warning.

    >>> LeakyReLU()(torch.tensor([[-10., 2.]])).tolist()
    [[-3.0, 2.0]]
    """

    relation = "stepwise"

    def __init__(self, negative_slope: float = 0.3, **kwargs: Any) -> None:
        if "alpha" in kwargs:
            warnings.warn("LeakyReLU(alpha=) is the old name of `negative_slope`; use that.", stacklevel=2)
            negative_slope = kwargs.pop("alpha")
            self.__dict__["_arguments"] = {**kwargs, "negative_slope": negative_slope}
        super().__init__(**kwargs)
        self.negative_slope = _not_negative(self, "negative_slope", negative_slope)

    def call(self, inputs: Any) -> Any:
        """The function of each number."""
        return activations.leaky_relu(inputs, self.negative_slope)


@register("layer")
class ELU(SameShape):
    """`x`, or `alpha * (exp(x) - 1)` below 0 (Clevert et al., 2016). Keras's `ELU`.

    >>> ELU(2.0)(torch.tensor([[-100., 1.]])).tolist()
    [[-2.0, 1.0]]
    """

    relation = "stepwise"

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha

    def call(self, inputs: Any) -> Any:
        """The function of each number."""
        return activations.elu(inputs, self.alpha)


@register("layer")
class PReLU(SameShape):
    """`x`, times a learned `alpha` below 0 (He et al., 2015).

    Keras's `PReLU`. Weight: `alpha`, one for every place of the input without the batch, `(T, D)` for `(B, T, D)`; along
    `shared_axes` one for all. Sequences want `shared_axes=[1]`: without it the number of columns must be known and stay
    the same, and `alpha` is read by column, padding included. Raises `ShapeError` if an axis that is not shared is open.

    >>> PReLU(alpha_initializer="ones", shared_axes=[1])(torch.tensor([[[-2.0], [3.0]]])).tolist()
    [[[-2.0], [3.0]]]
    """

    relation = "stepwise"
    alpha: Tensor

    def __init__(
        self,
        alpha_initializer: Any = "Zeros",
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.alpha_regularizer = regularizers.get(alpha_regularizer)
        self.alpha_constraint = constraints.get(alpha_constraint)
        several = isinstance(shared_axes, list | tuple)
        self.shared_axes = None if shared_axes is None else list(shared_axes) if several else [shared_axes]

    def build(self, input_shape: Any) -> None:
        """Alpha, for the axes that are not shared."""
        shared = self.shared_axes or []
        if any(not isinstance(axis, int) or not 1 <= axis < len(input_shape) for axis in shared):
            raise ArgumentError(
                f"PReLU {self.name!r} has shared_axes {shared}, but its input has the shape {input_shape}. "
                f"Axes count from 1, the first after the batch."
            )
        shape = tuple(1 if axis in shared else size for axis, size in enumerate(input_shape) if axis)
        if None in shape:
            open_axes = [axis for axis, size in enumerate((0, *shape)) if size is None]
            raise ShapeError(
                f"PReLU {self.name!r} makes one alpha for every place of its input, so the axes that do not "
                f"share theirs must be known; got the shape {tuple(input_shape)}. Share them: "
                f"PReLU(shared_axes={sorted({*shared, *open_axes})})."
            )
        self.add_weight(
            shape, self.alpha_initializer, name="alpha", regularizer=self.alpha_regularizer, constraint=self.alpha_constraint
        )

    def call(self, inputs: Any) -> Any:
        """Each number by its own alpha."""
        given = tuple(inputs.shape[1:])
        if len(given) != self.alpha.ndim or any(a not in (1, b) for a, b in zip(self.alpha.shape, given, strict=True)):
            raise ShapeError(
                f"PReLU {self.name!r} has an alpha of shape {tuple(self.alpha.shape)} and got inputs of shape "
                f"{tuple(inputs.shape)}. For sequences of any length share it over time: "
                f"PReLU(shared_axes=[1])."
            )
        return functional.relu(inputs) - self.alpha * functional.relu(-inputs)


@register("layer")
class Softmax(SameShape):
    """Positive numbers that sum to 1 along `axis`, or along several axes together; the mask passes.

    Keras's `Softmax`. Over features each step is by itself. Over time (`axis=1`) the real steps of a sequence share 1
    among them; masked steps show 0, and a sequence of nothing gives nothing. In a call, a `mask` with as many axes as the
    input, or one that broadcasts to it, says which numbers take part: the others become 0. A mask `(B, T)` of an
    input with features says which steps are real, as everywhere.

    Raises `MaskLost` for an axis that would weigh different sequences against each other.

    >>> from padless import pack
    >>> Softmax(axis=1)(pack([[[5.0], [5.0]], [[7.0]]])).numpy().tolist()
    [[[0.5], [0.5]], [[1.0], [0.0]]]
    >>> Softmax()(torch.zeros(1, 3), mask=torch.tensor([[True, True, False]])).tolist()
    [[0.5, 0.5, 0.0]]
    """

    relation = "stepwise"

    def __init__(self, axis: Any = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = list(axis) if isinstance(axis, list | tuple) else axis

    def forward(self, inputs: Any, mask: Any = None, **kwargs: Any) -> Any:
        """As any layer, but that `mask` may also be one of single numbers."""
        if mask is None:
            return super().forward(inputs, **kwargs)
        inputs, mask = as_data(inputs, self._float_dtype), as_data(mask)
        return super().forward(inputs, **{"mask" if _of_steps(mask, inputs) else "chosen": mask}, **kwargs)

    def call(self, inputs: Any, chosen: Any = None) -> Any:
        """The softmax of the numbers that are chosen; 0 for the others."""
        if chosen is None:
            return self._along(inputs)
        _broadcasts(self, chosen, inputs)
        chosen = chosen if chosen.dtype == torch.bool else chosen > 0.5
        lowest = torch.finfo(inputs.dtype).min  # finite, so that nothing becomes NaN where nothing is chosen
        return torch.where(chosen, self._along(torch.where(chosen, inputs, lowest)), 0.0)

    def _along(self, inputs: Any) -> Any:
        rank = inputs.ndim
        given = self.axis if isinstance(self.axis, list) else [self.axis]
        if any(not isinstance(axis, int) or not -rank <= axis < rank for axis in given):
            raise ArgumentError(f"Softmax {self.name!r} has axis {self.axis}, but its input has {rank} axes.")
        axes = sorted(axis % rank for axis in given)
        if not isinstance(inputs, Packed) or axes[0] >= inputs.num_step_axes:
            return activations.softmax(inputs, axes[0] if len(axes) == 1 else tuple(axes))
        time = inputs.num_step_axes - 1
        if axes[0] < time:
            raise MaskLost(
                f"Softmax {self.name!r} along axis {self.axis} of {inputs!r} would weigh the steps of different "
                f"sequences against each other and lose the mask created by {inputs.index.mask_source}. Within one "
                f"sequence the axes are {time} (time) and those after it; DropMask() makes padding data."
            )
        features = tuple(axis - time for axis in axes[1:])
        if not features:
            return inputs.with_values(segment.softmax(inputs.values, inputs.index))
        steps = segment.softmax(torch.logsumexp(inputs.values, features, keepdim=True), inputs.index)
        return inputs.with_values(steps * activations.softmax(inputs.values, features))


def _not_negative(layer: Layer, name: str, value: Any) -> float:
    if not isinstance(value, int | float) or value < 0:
        raise ArgumentError(f"{type(layer).__name__} expected `{name}` to be a number, at least 0; got {value!r}.")
    return value


def _of_steps(mask: Any, inputs: Any) -> bool:
    """Whether a mask is one of steps: it covers the first axes of its input, and not all axes of a plain one."""
    shape, given = tuple(inputs.shape), tuple(mask.shape)
    if len(given) == len(shape) > getattr(inputs, "num_step_axes", 0):
        return False
    return len(given) >= 2 and all(a == b or None in (a, b) for a, b in zip(given, shape, strict=False))


def _broadcasts(layer: Layer, mask: Any, inputs: Any) -> None:
    pairs = zip(reversed(mask.shape), reversed(inputs.shape), strict=False)
    if mask.ndim > inputs.ndim or any(a not in (1, b) for a, b in pairs):
        raise ShapeError(
            f"{type(layer).__name__} {layer.name!r} got a mask of shape {tuple(mask.shape)} for inputs of "
            f"shape {tuple(inputs.shape)}. Expected one entry for each number, or 1 along an axis; or a mask "
            f"of steps, {tuple(inputs.shape[:2])}."
        )


@register("layer")
class Activation(Layer):
    """An activation function by name or as a callable, such as "relu" or `torch.tanh`.

    >>> import torch
    >>> Activation("relu")(torch.tensor([[-1., 2.]])).tolist()
    [[0.0, 2.0]]
    """

    relation = "stepwise"

    def __init__(self, activation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activations.get(activation)

    def call(self, inputs: Any) -> Any:
        """The function of each step."""
        return self.activation(inputs)
