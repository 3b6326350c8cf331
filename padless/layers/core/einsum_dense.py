"""EinsumDense: a product with a kernel, along any axes; over features the mask passes."""

from __future__ import annotations

import copy
import re
from string import ascii_letters
from typing import Any, NamedTuple

import torch
from torch import Tensor

from padless import activations, constraints, initializers, regularizers
from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.initializers import VarianceScaling
from padless.kernels.half_precision import linear
from padless.layers.base.layer import Layer
from padless.ragged.packed import Packed
from padless.registry import register

_FORM = re.compile(r"(\.\.\.)?([a-zA-Z]+)(\.\.\.)?,([a-zA-Z]+)->(\.\.\.)?([a-zA-Z]+)(\.\.\.)?")


class _Axes(NamedTuple):
    """An equation for an input of known rank: a letter for each axis of input, kernel and output."""

    input: str
    kernel: str
    output: str


@register("layer")
class EinsumDense(Layer):
    """`activation(einsum(equation, inputs, kernel) + bias)`.

    Keras's `EinsumDense`, which loses the mask. `output_shape` leaves out the batch and what `...` stands for; a None in it
    is found in the input. `bias_axes` are letters of the output. Weights: `kernel`, `bias`. The mask stays where batch
    and time begin input and output alike and meet neither kernel nor bias; elsewhere a masked input raises `MaskLost`.

    >>> EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="de")(torch.ones(4, 7, 3)).shape
    torch.Size([4, 7, 2, 5])
    """

    relation = "stepwise"
    kernel: Tensor
    bias: Tensor | None

    def __init__(
        self,
        equation: str,
        output_shape: Any,
        activation: Any = None,
        bias_axes: str | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        found = _FORM.fullmatch(equation.replace(" ", "")) if isinstance(equation, str) else None
        if found is None or found[1] and found[3] or (found[1], found[3]) != (found[5], found[7]):
            raise ArgumentError(
                f"EinsumDense expected an equation such as 'abc,cd->abd', '...x,xy->...y' or "
                f"'ab...,bc->ac...'; got {equation!r}."
            )
        self.equation = equation
        self._before, self._after = bool(found[1]), bool(found[3])
        self._letters = _Axes(found[2], found[4], found[6])
        self.partial_output_shape = (output_shape,) if isinstance(output_shape, int) else tuple(output_shape)
        self.bias_axes = bias_axes
        for letter in bias_axes or "":
            if letter not in self._letters.output:
                raise ArgumentError(
                    f"EinsumDense has bias_axes={bias_axes!r}, but {letter!r} is no axis of the output in {equation!r}."
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

    def _axes(self, shape: Any) -> _Axes:
        """The equation with letters for what `...` stands for."""
        letters = self._letters
        more = len(shape) - len(letters.input)
        if more < 0 or more and not self._before and not self._after:
            raise ShapeError(
                f"EinsumDense {self.name!r} reads {len(letters.input)} axes by {self.equation!r}; got an input "
                f"of shape {tuple(shape)}."
            )
        free = "".join(letter for letter in ascii_letters if letter not in "".join(letters))[:more]
        if self._after:
            return _Axes(letters.input + free, letters.kernel, letters.output + free)
        return _Axes(free + letters.input, letters.kernel, free + letters.output)

    def _sizes(self, shape: Any) -> tuple[_Axes, dict[str, Any]]:
        """The size of each axis by its letter: of the input, and of the output where that is said."""
        axes = self._axes(shape)
        sizes = dict(zip(axes.input, shape, strict=True))
        elided = len(axes.input) - len(self._letters.input)
        start = elided if self._before and elided else 1  # the batch is not said
        said = axes.output[start : len(axes.output) - (elided if self._after else 0)]
        if len(said) != len(self.partial_output_shape):
            raise ShapeError(
                f"EinsumDense {self.name!r} needs the sizes of the axes {said!r} of {self.equation!r} as "
                f"output_shape for an input of shape {tuple(shape)}; got {self.partial_output_shape}."
            )
        for letter, size in zip(said, self.partial_output_shape, strict=True):
            known = sizes.get(letter)
            if known is not None and size is not None and known != size:
                raise ShapeError(
                    f"EinsumDense {self.name!r} has output_shape={self.partial_output_shape}, but axis "
                    f"{letter!r} of {self.equation!r} has the size {known} in an input of shape "
                    f"{tuple(shape)}."
                )
            sizes[letter] = known if size is None else size
        return axes, sizes

    def build(self, input_shape: Any) -> None:
        """Kernel and bias, of the sizes that input and output say."""
        axes, sizes = self._sizes(input_shape)
        initializer = self.kernel_initializer
        if isinstance(initializer, VarianceScaling) and None in (initializer.input_axes, initializer.output_axes):
            initializer = copy.copy(initializer)
            outer = [letter in axes.output for letter in axes.kernel]
            initializer.input_axes = [k for k, is_output in enumerate(outer) if not is_output]
            initializer.output_axes = [k for k, is_output in enumerate(outer) if is_output]
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

    def call(self, inputs: Any) -> Any:
        """The product."""
        axes = self._axes(inputs.shape)
        sizes = dict(zip(axes.input, inputs.shape, strict=True))
        wanted = {letter: size for letter, size in zip(axes.kernel, self.kernel.shape, strict=True) if letter in sizes}
        if any(sizes[letter] != size for letter, size in wanted.items()):
            raise ShapeError(
                f"EinsumDense {self.name!r} with the equation {self.equation!r} was built for {wanted}; got "
                f"inputs of shape {tuple(inputs.shape)}."
            )
        if isinstance(inputs, Packed):
            return self.activation(inputs.map_values(self._of(self._merged_step_axes(axes, inputs))))
        return self.activation(self._of(axes)(inputs))

    def _of(self, axes: _Axes) -> Any:
        """The product of plain data; where the last axes become others, as one of matrices that adds the bias too."""
        equation = f"{axes.input},{axes.kernel}->{axes.output}"
        bound = sum(letter in axes.kernel for letter in axes.input)
        kept = len(axes.input) - bound
        new = axes.output[kept:]
        matrices = axes.output[:kept] == axes.input[:kept] and axes.kernel == axes.input[kept:] + new
        if matrices and bound and new and (self.bias is None or self.bias_axes == new):
            sizes = self.kernel.shape[bound:]
            weight = self.kernel.reshape(-1, sizes.numel())
            bias = None if self.bias is None else self.bias.flatten()
            return lambda x: linear(x.flatten(kept), weight, bias).unflatten(-1, sizes)

        def of(x: Tensor) -> Tensor:
            product = torch.einsum(equation, x, self.kernel)
            return product if self.bias is None else product + self.bias

        return of

    def _merged_step_axes(self, axes: _Axes, inputs: Packed) -> _Axes:
        """The equation for real steps, with one letter for batch and time; refused if it touches these."""
        head, rest = axes.input[: inputs.num_step_axes], axes.input[inputs.num_step_axes :]
        others = rest + axes.kernel + axes.output[inputs.num_step_axes :] + (self.bias_axes or "")
        if axes.output[: inputs.num_step_axes] != head or set(head) & set(others) or len(set(head)) < len(head):
            raise MaskLost(
                f"EinsumDense {self.name!r} with the equation {self.equation!r} would mix or move the steps of "
                f"{inputs!r}, masked by {inputs.index.mask_source}. Ways out: an equation that leaves batch and time "
                f"alone, such as 'abc,cd->abd'; DropMask() or `unpack()` before it, after which padding "
                f"counts as data."
            )
        return _Axes(head[0] + rest, axes.kernel, head[0] + axes.output[inputs.num_step_axes :])

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The sizes of the output's axes."""
        axes, sizes = self._sizes(input_shape)
        return tuple(sizes[letter] for letter in axes.output)
