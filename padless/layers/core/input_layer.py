"""Input and InputLayer."""

from __future__ import annotations

from typing import TypedDict, TypeVar, Unpack

from padless.errors import ArgumentError
from padless.graph.node import Node
from padless.graph.symbolic import SymbolicTensor
from padless.layers.base.layer import Layer
from padless.registry import register
from padless.types import DTypeLike, Shape

T = TypeVar("T")


class InputOptions(TypedDict, total=False):
    """Further keyword arguments of InputLayer."""

    name: str | None
    trainable: bool


@register("layer")
class InputLayer(Layer):
    """The node of a graph at which data enter: Keras's `InputLayer`. `Input` creates it.

    Args:
        shape: the shape without the batch, None for an open size.
        batch_size: the size of the batch, by default open.
        dtype: the dtype of the data.
        batch_shape: the shape with the batch, instead of `shape` and `batch_size`.
        masked: whether the data come with a mask.
        kwargs: name, trainable.
    """

    relation = "stepwise"

    def __init__(
        self,
        shape: Shape | None = None,
        batch_size: int | None = None,
        dtype: DTypeLike | None = None,
        batch_shape: Shape | None = None,
        masked: bool = False,
        **kwargs: Unpack[InputOptions],
    ) -> None:
        if (shape is None) == (batch_shape is None):
            raise ArgumentError(
                f"Input expected either `shape` (without the batch) or `batch_shape`; got shape={shape!r} "
                f"and batch_shape={batch_shape!r}."
            )
        super().__init__(dtype=dtype, **kwargs)
        full_shape = tuple(batch_shape) if batch_shape is not None else (batch_size, *_check_is_tuple(shape))
        if any(not (size is None or isinstance(size, int) and size >= 0) for size in full_shape):
            raise ArgumentError(f"Input expected sizes that are integers or None; got {full_shape}.")
        if masked and len(full_shape) < 2:
            raise ArgumentError(f"A masked Input needs a time axis; got the shape {full_shape} with the batch.")
        self.batch_shape = full_shape
        self.masked = masked
        num_step_axes = 2 if masked else 0
        mask_source = f"Input {self.name!r}" if masked else ""
        symbol = SymbolicTensor(full_shape, self.dtype, self.name, num_step_axes, mask_source)
        self._inbound_nodes.append(Node(self, (), {}, symbol))
        self.built = True

    def call(self, inputs: T) -> T:
        """Return the data."""
        return inputs


def _check_is_tuple(shape: object) -> tuple[int | None, ...]:
    if not isinstance(shape, list | tuple):
        raise ArgumentError(
            f"Input expected `shape` as a tuple without the batch, such as (None,) or (10, 3); got "
            f"{shape!r}. Write ({shape!r},)."
        )
    return tuple(shape)


def Input(
    shape: Shape | None = None,
    batch_size: int | None = None,
    dtype: DTypeLike | None = None,
    batch_shape: Shape | None = None,
    name: str | None = None,
    masked: bool = False,
) -> SymbolicTensor:
    """Return a symbolic tensor for data of this shape: Keras's `Input`.

    Args:
        shape: the shape without the batch, None for an open size.
        batch_size: the size of the batch, by default open.
        dtype: the dtype of the data.
        batch_shape: the shape with the batch, instead of `shape` and `batch_size`.
        name: the name of the input.
        masked: whether the data come with a mask (a list of sequences, a Packed). Then a layer that would lose the mask
            is refused while the model is built.

    Raises:
        ArgumentError: the shape is not a tuple of integers and None.

    Example:
        >>> Input(shape=(None, 8)).shape
        (None, None, 8)
    """
    return InputLayer(shape, batch_size, dtype, batch_shape, masked, name=name).output


def is_input(symbol: object) -> bool:
    """Return whether `Input` created this symbolic tensor."""
    return isinstance(symbol, SymbolicTensor) and isinstance(symbol.node.operation, InputLayer)
