"""A batch: some examples, ready for a training step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from padless._torch_compat import pytree
from padless.data.columns import Kind
from padless.ragged.device import to_device, to_device_keep_host_copy
from padless.ragged.packed import Packed
from padless.ragged.row_names import RowNames

Leaf = TypeVar("Leaf")
Tree: TypeAlias = "Leaf | list[Leaf | None] | dict[str, Leaf | None] | None"
"""One value, or one for each input (output) in a list or by name. None for an output without targets or weights."""

BatchPart: TypeAlias = "Tree[Tensor | Packed]"
"""Inputs, targets or weights of a batch."""


@dataclass
class Batch:
    """Some examples, ready for a training step.

    Attributes:
        x: Inputs, each with `rows` rows.
        y: Targets, or None.
        sample_weight: Sample weights, or None.
        rows: Number of examples.
        kinds: For each input, the container that the user gave: "grid", "list" or "packed".
        row_names: Names a row in error messages, by its number in the data. None names it by its number in the batch.
    """

    x: BatchPart
    y: BatchPart = None
    sample_weight: BatchPart = None
    rows: int = 0
    kinds: tuple[Kind, ...] = ()
    row_names: RowNames | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device. The host keeps a copy, from which masks are computed without waiting."""

        def move(leaf: Tensor | Packed | None) -> Tensor | Packed | None:
            if isinstance(leaf, Packed):
                gap_values = None if leaf.gap_values is None else to_device(leaf.gap_values, device)
                return leaf.with_values(to_device_keep_host_copy(leaf.values, device), gap_values)
            return None if leaf is None else to_device_keep_host_copy(leaf, device)

        x, y, sample_weight = pytree.tree_map(
            move, (self.x, self.y, self.sample_weight), is_leaf=lambda leaf: isinstance(leaf, Packed)
        )
        return replace(self, x=x, y=y, sample_weight=sample_weight)

    def copy(self) -> Batch:
        """Return the batch in new memory, for a batch that is needed after its source has given the next one."""
        x, y, sample_weight = pytree.tree_map(
            lambda leaf: None if leaf is None else leaf.clone(), (self.x, self.y, self.sample_weight)
        )
        return replace(self, x=x, y=y, sample_weight=sample_weight)
