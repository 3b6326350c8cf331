"""Input and InputLayer."""

from __future__ import annotations

from typing import Any

from padless.errors import ArgumentError
from padless.graph.node import Node
from padless.graph.symbolic import Shape, SymbolicTensor, is_symbolic
from padless.layers.base.layer import Layer
from padless.registry import register


@register("layer")
class InputLayer(Layer):
    """The place where data enters a graph; made by `Input`."""

    relation = "stepwise"

    def __init__(
        self,
        shape: Shape | None = None,
        batch_size: int | None = None,
        dtype: Any = None,
        batch_shape: Shape | None = None,
        masked: bool = False,
        **kwargs: Any,
    ) -> None:
        if (shape is None) == (batch_shape is None):
            raise ArgumentError(
                f"Input expected either `shape` (without the batch) or `batch_shape`; got shape={shape!r} "
                f"and batch_shape={batch_shape!r}."
            )
        super().__init__(dtype=dtype, **kwargs)
        whole = tuple(batch_shape) if batch_shape is not None else (batch_size, *_tuple(shape))
        if any(not (size is None or isinstance(size, int) and size >= 0) for size in whole):
            raise ArgumentError(f"Input expected sizes that are integers or None; got {whole}.")
        if masked and len(whole) < 2:
            raise ArgumentError(f"A masked Input needs a time axis; got the shape {whole} with the batch.")
        self.batch_shape = whole
        self.masked = masked
        symbol = SymbolicTensor(whole, self.dtype, self.name, 2 if masked else 0, f"Input {self.name!r}" if masked else "")
        self._inbound_nodes.append(Node(self, (), {}, symbol))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The data themselves."""
        return inputs


def _tuple(shape: Any) -> tuple[Any, ...]:
    if not isinstance(shape, list | tuple):
        raise ArgumentError(
            f"Input expected `shape` as a tuple without the batch, such as (None,) or (10, 3); got "
            f"{shape!r}. Write ({shape!r},)."
        )
    return tuple(shape)


def Input(
    shape: Shape | None = None,
    batch_size: int | None = None,
    dtype: Any = None,
    batch_shape: Shape | None = None,
    name: str | None = None,
    masked: bool = False,
) -> SymbolicTensor:
    """A symbol for data of this shape, without the batch; None where sizes vary.

    `masked=True` declares that the data come with a mask (a list of sequences, a Packed), so that a
    layer which would lose it is refused while the model is built.

    >>> Input(shape=(None, 8)).shape
    (None, None, 8)
    """
    return InputLayer(shape, batch_size, dtype, batch_shape, masked, name=name).output


def is_input(symbol: Any) -> bool:
    """Whether this symbol was made by `Input`."""
    return is_symbolic(symbol) and isinstance(symbol.node.operation, InputLayer)
