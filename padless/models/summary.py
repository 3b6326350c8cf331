"""A model as a table: layers, shapes, parameters, and which mask each output bears."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from padless.errors import NotBuilt
from padless.graph.symbolic import is_symbolic, leaves


def text(model: Any, width: int | None = None) -> str:
    """The table as text, `width` characters wide."""
    table = Table(title=f"Model: {model.name!r}", title_justify="left")
    for column, right in (("Layer (type)", False), ("Output Shape", False), ("Param #", True), ("Mask", False)):
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for layer in model.layers:
        shape, mask = _output(layer)
        name = getattr(layer, "name", "")
        table.add_row(f"{name} ({type(layer).__name__})", shape, _params(layer), mask)
    console = Console(file=io.StringIO(), width=width or 100, color_system=None)
    console.print(table)
    counts = _counts(model)
    console.print(
        "\n".join(f" {what} params: {count:,}" for what, count in counts) if counts else " not built yet", highlight=False
    )
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def _output(layer: Any) -> tuple[str, str]:
    """The shape that a layer gives and the mask on it, where a graph knows."""
    nodes = getattr(layer, "_inbound_nodes", [])
    if not nodes:
        return "?", ""
    symbols = [s for s in leaves(nodes[-1].outputs) if is_symbolic(s)]
    masks = dict.fromkeys(symbol.mask_source if symbol.masked else "-" for symbol in symbols)
    return ", ".join(str(symbol.shape) for symbol in symbols), ", ".join(masks)


def _params(layer: Any) -> str:
    try:
        return f"{sum(p.numel() for p in layer.parameters()) + sum(b.numel() for b in layer.buffers()):,}"
    except NotBuilt:
        return "not built"


def _counts(model: Any) -> list[tuple[str, int]]:
    try:
        trainable = sum(w.numel() for w in model.trainable_weights)
        frozen = sum(w.numel() for w in model.non_trainable_weights)
    except NotBuilt:
        return []
    return [("Total", trainable + frozen), ("Trainable", trainable), ("Non-trainable", frozen)]
