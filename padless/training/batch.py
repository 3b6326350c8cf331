"""A batch: some examples, ready for a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree

from padless.training.columns import Kind

Tree = Any  # Tensor | Packed | None, or a list or a dict by name of these


@dataclass
class Batch:
    """Some examples, ready for a step: each leaf of `x`, `y` and `sample_weight` has `rows` rows, or is None.

    `kinds` says for each input in which container it came ("grid", "list" or "packed").
    """

    x: Tree
    y: Tree = None
    sample_weight: Tree = None
    rows: int = 0
    kinds: tuple[Kind, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        x, y, weight = _pytree.tree_map(lambda leaf: leaf if leaf is None else leaf.to(device),
                                        (self.x, self.y, self.sample_weight))
        return replace(self, x=x, y=y, sample_weight=weight)
