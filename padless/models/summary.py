"""Format a model as a table: layers, shapes, parameters, and which mask each output has."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from padless.errors import NotBuilt
from padless.graph.symbolic import is_symbolic, leaves
from padless.layers.base.layer import Layer


class SummarizedModel(Protocol):
    """What the summary reads of a model."""

    name: str

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers in order."""
        ...

    @property
    def trainable_weights(self) -> list[Tensor]:
        """The weights that an optimizer changes."""
        ...

    @property
    def non_trainable_weights(self) -> list[Tensor]:
        """The other weights."""
        ...


def text(model: SummarizedModel, width: int | None = None) -> str:
    """Return the table as text, `width` characters wide."""
    table = Table(title=f"Model: {model.name!r}", title_justify="left")
    table.add_column("Layer (type)", overflow="fold")
    table.add_column("Output Shape", overflow="fold")
    table.add_column("Param #", justify="right", overflow="fold")
    table.add_column("Mask", overflow="fold")
    for layer in model.layers:
        shape, mask = _output_of(layer)
        table.add_row(f"{layer.name} ({type(layer).__name__})", shape, _num_params(layer), mask)
    buffer = io.StringIO()
    console = Console(file=buffer, width=width or 100, color_system=None)
    console.print(table)
    counts = _param_counts(model)
    lines = [f" {kind} params: {count:,}" for kind, count in counts.items()] or [" not built yet"]
    console.print("\n".join(lines), highlight=False)
    return buffer.getvalue()


def _output_of(layer: Layer) -> tuple[str, str]:
    """Return the output shape of a layer and the source of its mask, as the last call on symbolic tensors says."""
    if not layer._inbound_nodes:
        return "?", ""
    symbols = [symbol for symbol in leaves(layer._inbound_nodes[-1].outputs) if is_symbolic(symbol)]
    masks = dict.fromkeys(symbol.mask_source if symbol.masked else "-" for symbol in symbols)
    return ", ".join(str(symbol.shape) for symbol in symbols), ", ".join(masks)


def _num_params(layer: nn.Module) -> str:
    try:
        return f"{sum(p.numel() for p in layer.parameters()) + sum(b.numel() for b in layer.buffers()):,}"
    except NotBuilt:
        return "not built"


def _param_counts(model: SummarizedModel) -> dict[str, int]:
    """Return the numbers of parameters by kind; empty if the model is not built."""
    try:
        trainable = sum(weight.numel() for weight in model.trainable_weights)
        frozen = sum(weight.numel() for weight in model.non_trainable_weights)
    except NotBuilt:
        return {}
    return {"Total": trainable + frozen, "Trainable": trainable, "Non-trainable": frozen}
