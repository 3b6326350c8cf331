"""The layer EinsumDense."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from string import ascii_letters
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from padless import activations, constraints, initializers, regularizers
from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.initializers import VarianceScaling
from padless.kernels.half_precision import linear
from padless.layers.base.layer import Layer
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

_EQUATION = re.compile(r"(\.\.\.)?([a-zA-Z]+)(\.\.\.)?,([a-zA-Z]+)->(\.\.\.)?([a-zA-Z]+)(\.\.\.)?")


class _Axes(NamedTuple):
    """An equation for an input of known rank: a letter for each axis of input, kernel and output."""

    input: str
    kernel: str
    output: str


@register("layer")
class EinsumDense(Layer):
    """Compute `activation(einsum(equation, inputs, kernel) + bias)`: Keras's `EinsumDense`.

    The mask passes if the axes of batch and time come first in input and output, and occur in neither kernel nor bias.
    Otherwise a masked input raises `MaskLost`. Keras loses the mask. Weights: `kernel`, `bias`.

    Args:
        equation: the equation of inputs and kernel, such as "abc,cd->abd" or "...x,xy->...y".
        output_shape: the sizes of the output's axes, without the batch and what `...` stands for. None for a size that
            follows from the input.
        activation: the activation, by default none.
        bias_axes: the letters of the output's axes along which the bias differs, by default no bias.
        kernel_initializer: the initial values of the kernel.
        bias_initializer: the initial values of the bias.
        kernel_regularizer: a penalty on the kernel.
        bias_regularizer: a penalty on the bias.
        kernel_constraint: a constraint on the kernel.
        bias_constraint: a constraint on the bias.
        kwargs: name, trainable, dtype, activity_regularizer, input_shape.

    Example:
        >>> EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="de")(torch.ones(4, 7, 3)).shape
        torch.Size([4, 7, 2, 5])
    """

    relation = "stepwise"
    kernel: Tensor
    bias: Tensor | None

    def __init__(
        self,
        equation: str,
        output_shape: int | Sequence[int | None],
        activation: ActivationLike = None,
        bias_axes: str | None = None,
        kernel_initializer: InitializerLike = "glorot_uniform",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: RegularizerLike = None,
        bias_regularizer: RegularizerLike = None,
        kernel_constraint: ConstraintLike = None,
        bias_constraint: ConstraintLike = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**kwargs)
        match = _EQUATION.fullmatch(equation.replace(" ", "")) if isinstance(equation, str) else None
        if match is None or match[1] and match[3] or (match[1], match[3]) != (match[5], match[7]):
            raise ArgumentError(
                f"EinsumDense expected an equation such as 'abc,cd->abd', '...x,xy->...y' or "
                f"'ab...,bc->ac...'; got {equation!r}."
            )
        self.equation = equation
        self._starts_with_ellipsis, self._ends_with_ellipsis = bool(match[1]), bool(match[3])
        self._letters = _Axes(match[2], match[4], match[6])
        self.partial_output_shape = (output_shape,) if isinstance(output_shape, int) else tuple(output_shape)
        self.bias_axes = bias_axes
        for letter in bias_axes or "":
            if letter not in self._letters.output:
                raise ArgumentError(
                    f"EinsumDense has bias_axes={bias_axes!r}, but {letter!r} is not an axis of the output in {equation!r}."
                )
        for letter in self._letters.kernel:
            if letter not in self._letters.input + self._letters.output:
                raise ArgumentError(
                    f"EinsumDense cannot tell the size of the kernel's axis {letter!r} in {equation!r}: it "
                    f"is in neither input nor output."
                )
        self.activation = activations.get(activation)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)

    def _axes(self, shape: Shape) -> _Axes:
        """Return the equation with letters in the place of `...`, for an input of this shape."""
        letters = self._letters
        num_elided = len(shape) - len(letters.input)
        has_ellipsis = self._starts_with_ellipsis or self._ends_with_ellipsis
        if num_elided < 0 or num_elided and not has_ellipsis:
            raise ShapeError(
                f"EinsumDense {self.name!r} reads {len(letters.input)} axes by {self.equation!r}; got an input "
                f"of shape {tuple(shape)}."
            )
        unused_letters = [letter for letter in ascii_letters if letter not in "".join(letters)]
        elided = "".join(unused_letters[:num_elided])
        if self._ends_with_ellipsis:
            return _Axes(letters.input + elided, letters.kernel, letters.output + elided)
        return _Axes(elided + letters.input, letters.kernel, elided + letters.output)

    def _axes_and_sizes(self, shape: Shape) -> tuple[_Axes, dict[str, int | None]]:
        """Return the axes, and the size of each axis by its letter, from the input and the argument `output_shape`."""
        axes = self._axes(shape)
        sizes = dict(zip(axes.input, shape, strict=True))
        num_elided = len(axes.input) - len(self._letters.input)
        start = num_elided if self._starts_with_ellipsis and num_elided else 1  # output_shape leaves out the batch
        stop = len(axes.output) - (num_elided if self._ends_with_ellipsis else 0)
        declared_axes = axes.output[start:stop]
        if len(declared_axes) != len(self.partial_output_shape):
            raise ShapeError(
                f"EinsumDense {self.name!r} needs the sizes of the axes {declared_axes!r} of {self.equation!r} as "
                f"output_shape for an input of shape {tuple(shape)}; got {self.partial_output_shape}."
            )
        for letter, declared_size in zip(declared_axes, self.partial_output_shape, strict=True):
            input_size = sizes.get(letter)
            if input_size is not None and declared_size is not None and input_size != declared_size:
                raise ShapeError(
                    f"EinsumDense {self.name!r} has output_shape={self.partial_output_shape}, but axis "
                    f"{letter!r} of {self.equation!r} has the size {input_size} in an input of shape "
                    f"{tuple(shape)}."
                )
            sizes[letter] = input_size if declared_size is None else declared_size
        return axes, sizes

    def build(self, input_shape: Shape) -> None:
        """Create kernel and bias, with sizes from the input and the argument `output_shape`."""
        axes, sizes = self._axes_and_sizes(input_shape)
        initializer = self.kernel_initializer
        if isinstance(initializer, VarianceScaling) and None in (initializer.input_axes, initializer.output_axes):
            initializer = copy.copy(initializer)
            initializer.input_axes = [k for k, letter in enumerate(axes.kernel) if letter not in axes.output]
            initializer.output_axes = [k for k, letter in enumerate(axes.kernel) if letter in axes.output]
        self.add_weight(
            tuple(sizes[letter] for letter in axes.kernel),
            initializer,
            name="kernel",
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if self.bias_axes:
            first = min(axes.output.index(letter) for letter in self.bias_axes)
            shape = tuple(sizes[letter] if letter in self.bias_axes else 1 for letter in axes.output[first:])
            self.add_weight(
                shape, self.bias_initializer, name="bias", regularizer=self.bias_regularizer, constraint=self.bias_constraint
            )
        else:
            self.bias = None

    def call(self, inputs: StepTensor) -> StepTensor:
        """Compute the output."""
        axes = self._axes(inputs.shape)
        sizes = dict(zip(axes.input, inputs.shape, strict=True))
        kernel_sizes = {letter: size for letter, size in zip(axes.kernel, self.kernel.shape, strict=True) if letter in sizes}
        if any(sizes[letter] != size for letter, size in kernel_sizes.items()):
            raise ShapeError(
                f"EinsumDense {self.name!r} with the equation {self.equation!r} was built for {kernel_sizes}; got "
                f"inputs of shape {tuple(inputs.shape)}."
            )
        if isinstance(inputs, Packed):
            return self.activation(inputs.map_values(self._product(self._merge_step_axes(axes, inputs))))
        return self.activation(self._product(axes)(inputs))

    def _product(self, axes: _Axes) -> Callable[[Tensor], Tensor]:
        """Return the function that computes the product and adds the bias.

        If the kernel replaces the last axes of the input, it is one matrix product.
        """
        num_contracted = sum(letter in axes.kernel for letter in axes.input)
        num_outer = len(axes.input) - num_contracted
        new_axes = axes.output[num_outer:]
        is_matrix_product = (
            axes.output[:num_outer] == axes.input[:num_outer]
            and axes.kernel == axes.input[num_outer:] + new_axes
            and num_contracted > 0
            and new_axes != ""
            and (self.bias is None or self.bias_axes == new_axes)
        )
        if is_matrix_product:
            output_sizes = self.kernel.shape[num_contracted:]
            matrix = self.kernel.reshape(-1, output_sizes.numel())
            bias = None if self.bias is None else self.bias.flatten()
            return lambda x: linear(x.flatten(num_outer), matrix, bias).unflatten(-1, output_sizes)
        equation = f"{axes.input},{axes.kernel}->{axes.output}"

        def multiply(x: Tensor) -> Tensor:
            product = torch.einsum(equation, x, self.kernel)
            return product if self.bias is None else product + self.bias

        return multiply

    def _merge_step_axes(self, axes: _Axes, inputs: Packed) -> _Axes:
        """Return the equation for real steps `(N, ...)`, with one letter for batch and time.

        Raises:
            MaskLost: kernel or bias have these axes, or the output has them at another place.
        """
        count = inputs.num_step_axes
        step_axes, feature_axes = axes.input[:count], axes.input[count:]
        other_letters = feature_axes + axes.kernel + axes.output[count:] + (self.bias_axes or "")
        passes = axes.output[:count] == step_axes and not set(step_axes) & set(other_letters)
        if not passes or len(set(step_axes)) < count:
            raise MaskLost(
                f"EinsumDense {self.name!r} with the equation {self.equation!r} would mix or move the steps of "
                f"{inputs!r}, masked by {inputs.index.mask_source}. Ways out: an equation that leaves batch and time "
                f"alone, such as 'abc,cd->abd'; DropMask() or `unpack()` before it, after which padding "
                f"counts as data."
            )
        return _Axes(step_axes[0] + feature_axes, axes.kernel, step_axes[0] + axes.output[count:])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the sizes of the output's axes."""
        axes, sizes = self._axes_and_sizes(input_shape)
        return tuple(sizes[letter] for letter in axes.output)
