"""Layers that arrange axes: where batch and time stay the mask stays; DropMask and Flatten end it, on purpose."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from padless.errors import ArgumentError, MaskLost, ShapeError
from padless.graph.symbolic import in_shape_inference
from padless.layers.base.layer import Layer
from padless.ragged.packed import Packed, gap_values_needed, unpack
from padless.registry import register


@register("layer")
class DropMask(Layer):
    """The padded grid as a plain tensor: from here on what masked steps show counts as data.

    >>> from padless import pack
    >>> DropMask()(pack([[1.0, 2.0], [3.0]])).tolist()
    [[1.0, 2.0], [3.0, 0.0]]
    """

    relation = "padded_grid"

    def call(self, inputs: Any) -> Any:
        """The grid."""
        return unpack(inputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """None: that is its purpose."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the input."""
        return tuple(input_shape)


@register("layer")
class Flatten(Layer):
    """All axes but the batch in one, `(B, T, D)` to `(B, T * D)`; of a masked input the padded grid, mask and all ended.

    Which position a number lands on is its column in the grid, so a flattened sequence depends on the padding by its
    nature; Keras's numbers are the same.

    >>> Flatten()(torch.ones(2, 3, 4)).shape
    torch.Size([2, 12])
    """

    relation = "padded_grid"

    def __init__(self, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if data_format not in (None, "channels_last", "channels_first"):
            raise ArgumentError(f"data_format must be 'channels_last' or 'channels_first'; got {data_format!r}.")
        self.data_format = data_format or "channels_last"

    def call(self, inputs: Any) -> Any:
        """The grid in one row per sequence."""
        grid = unpack(inputs)
        if self.data_format == "channels_first" and grid.ndim > 2:
            grid = grid.movedim(1, -1)
        return grid.reshape(grid.shape[0], math.prod(grid.shape[1:]))

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """Nothing is left to mask."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """`(B, everything else)`."""
        rest = input_shape[1:]
        return (input_shape[0], None if None in rest else math.prod(rest))


@register("layer")
class Reshape(Layer):
    """Another shape `(B, *target_shape)`; the mask stays if the steps do, and is refused to be lost if they do not.

    One size may be -1.

    >>> Reshape((3, -1))(torch.ones(2, 3, 4, 5)).shape
    torch.Size([2, 3, 20])
    """

    relation = "stepwise"

    def __init__(self, target_shape: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_shape = tuple(target_shape) if isinstance(target_shape, list | tuple) else (target_shape,)
        if sum(size == -1 for size in self.target_shape) > 1 or any(size < -1 for size in self.target_shape):
            raise ArgumentError(f"Reshape expected sizes of which one may be -1; got {self.target_shape}.")

    def _target(self, shape: Any) -> tuple[int, ...]:
        size, known = math.prod(shape[1:]), math.prod(s for s in self.target_shape if s != -1)
        open_ = in_shape_inference() and -1 in self.target_shape  # a length of a probe need not divide
        if (
            -1 not in self.target_shape
            and size != known
            or -1 in self.target_shape
            and (not known or size % known and not open_)
        ):
            raise ShapeError(
                f"Reshape {self.name!r} cannot bring {tuple(shape[1:])} to {self.target_shape}: the number of "
                f"elements differs."
            )
        return tuple(size // known if s == -1 else s for s in self.target_shape)

    def call(self, inputs: Any) -> Any:
        """The inputs in their new shape."""
        if isinstance(inputs, Packed) and any(
            a not in (-1, b) for a, b in zip(self.target_shape, inputs.index.grid[1:], strict=False)
        ):
            return inputs.reshape((inputs.shape[0], *self.target_shape))  # the steps would not stay: refused
        shape = (inputs.shape[0], *self._target(inputs.shape))
        if isinstance(inputs, Tensor) and math.prod(shape) != math.prod(inputs.shape):  # on a probe
            return inputs.new_zeros(shape)
        return inputs.reshape(shape) if not isinstance(inputs, Packed) or shape != tuple(inputs.shape) else inputs

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask, if the target has the same steps."""
        if mask is None:
            return None
        lead = torch.as_tensor(mask).ndim
        return mask if self._target(inputs.shape)[: lead - 1] == tuple(inputs.shape[1:lead]) else None

    def compute_output_shape(self, input_shape: Any) -> Any:
        """`(B, *target_shape)`."""
        if None in input_shape[1:]:
            return (input_shape[0], *(None if size == -1 else size for size in self.target_shape))
        return (input_shape[0], *self._target(input_shape))


@register("layer")
class Permute(Layer):
    """The axes behind the batch in another order, `dims` counted from 1; a mask stays if its axes do, else `MaskLost`.

    Keras's `Permute`, which drops any mask.

    >>> Permute((1, 3, 2))(torch.ones(2, 3, 4, 5)).shape
    torch.Size([2, 3, 5, 4])
    """

    relation = "stepwise"

    def __init__(self, dims: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ArgumentError(f"Permute expected each axis from 1 on once, such as (2, 1); got {self.dims}.")

    def _checked(self, shape: Any) -> tuple[Any, ...]:
        if len(shape) != len(self.dims) + 1:
            raise ShapeError(
                f"Permute {self.name!r} orders {len(self.dims)} axes behind the batch; got inputs of shape {tuple(shape)}."
            )
        return tuple(shape)

    def call(self, inputs: Any) -> Any:
        """The inputs with their axes in order."""
        self._checked(inputs.shape)
        return inputs.permute(0, *self.dims)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask, if no axis of it moves."""
        lead = 1 if mask is None else torch.as_tensor(mask).ndim
        return mask if self.dims[: lead - 1] == tuple(range(1, lead)) else None

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The sizes in order."""
        shape = self._checked(input_shape)
        return (shape[0], *(shape[axis] for axis in self.dims))


@register("layer")
class RepeatVector(Layer):
    """A vector for each sequence, `n` times: `(B, D)` to `(B, n, D)`; without `n`, back to the steps of another input.

    `RepeatVector()([vector, steps])` puts the vector of each sequence on all its steps, `(B, T, D)`, with their mask. Of
    sequences of sequences, `(B, S, W, ...)`, it takes a vector for each inner one, `(B, S, D)`. Keras's `RepeatVector` has
    the first call only.

    >>> from padless import pack
    >>> RepeatVector(2)(torch.tensor([[1.0]])).tolist()
    [[[1.0], [1.0]]]
    >>> RepeatVector()([torch.tensor([[1.0], [2.0]]), pack([[7, 8], [9]])]).values.tolist()
    [[1.0], [1.0], [2.0]]
    """

    relation = "merge"

    def __init__(self, n: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n <= 0):
            raise ArgumentError(
                f"RepeatVector expected `n` to be a positive integer, or None to take the steps of another input; got {n!r}."
            )
        self.n = n

    def call(self, inputs: Any) -> Any:
        """The vectors at every step."""
        if self.n is None:
            return self._onto(*self._pair(inputs))
        if isinstance(inputs, Packed):
            raise MaskLost(
                f"RepeatVector {self.name!r} repeats one vector for each sequence; got the steps of {inputs!r}. "
                f"Summarise them first, with LastStep, GlobalAveragePooling1D or the like."
            )
        if isinstance(inputs, list | tuple) or inputs.ndim != 2:
            got = _told(inputs) if isinstance(inputs, torch.Tensor) else f"{len(inputs)} inputs"
            raise ShapeError(
                f"RepeatVector {self.name!r} with n={self.n} expected vectors of shape (batch, features); got "
                f"{got}. RepeatVector() without `n` takes [vector, steps]."
            )
        return inputs[:, None].repeat(1, self.n, 1)

    def _pair(self, inputs: Any) -> tuple[Any, Any]:
        if not isinstance(inputs, list | tuple) or len(inputs) != 2:
            raise ArgumentError(
                f"RepeatVector {self.name!r} without `n` takes a list [vector, steps]; got "
                f"{type(inputs).__name__}. For a fixed number of steps give `n`."
            )
        vector, steps = inputs
        levels = vector.ndim - 1
        wanted = steps.num_step_axes - 1 if isinstance(steps, Packed) else levels
        plain = not isinstance(vector, Packed) or isinstance(steps, Packed) and vector.num_step_axes == levels
        if not 0 < levels == wanted < steps.ndim or vector.shape[:levels] != steps.shape[:levels] or not plain:
            raise ShapeError(
                f"RepeatVector {self.name!r} expected one vector for each sequence of steps, (batch, features) "
                f"for (batch, steps, ...); got {_told(vector)} for {_told(steps)}. In sequences of sequences "
                f"go from level to level."
            )
        return vector, steps

    def _onto(self, vector: Any, steps: Any) -> Any:
        """The vector of its sequence at each step; gaps show it too."""
        levels = vector.ndim - 1
        if not isinstance(steps, Packed):
            return vector.unsqueeze(levels).expand(*steps.shape[: levels + 1], -1)
        index = steps.index
        if isinstance(vector, Packed) and index.outer is not None:
            vector = vector.reindex(index.outer).unpack(padding=0)
        vector = vector.reshape(index.shape[0], vector.shape[-1])
        fill = vector.index_select(0, index.tensor("row_of_gap", vector.device)) if gap_values_needed() else None
        return Packed(vector.index_select(0, index.tensor("rows", vector.device)), index, fill)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """That of the steps."""
        return mask[1] if self.n is None and mask is not None else None

    def compute_output_shape(self, input_shape: Any) -> Any:
        """`(B, n, D)`, or the steps' with the features of the vector."""
        if self.n is not None:
            return (input_shape[0], self.n, input_shape[1])
        vector, steps = input_shape
        return (*steps[: len(vector)], vector[-1])


def _told(x: Any) -> str:
    return repr(x) if isinstance(x, Packed) else str(tuple(x.shape))
