"""A batch: some examples, ready for a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree

from padless.data.columns import Kind
from padless.ragged.device import to_device, to_device_keep_host_copy
from padless.ragged.packed import Packed

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
        """The same batch on a device; the host keeps its own, in which masks are looked for."""

        def sent(leaf: Any) -> Any:
            if isinstance(leaf, Packed):  # the values tell, for ids among them that are no steps
                fill = None if leaf.gap_values is None else to_device(leaf.gap_values, device)
                return leaf.with_values(to_device_keep_host_copy(leaf.values, device), fill)
            return leaf if leaf is None else to_device_keep_host_copy(leaf, device)

        x, y, weight = _pytree.tree_map(
            sent, (self.x, self.y, self.sample_weight), is_leaf=lambda leaf: isinstance(leaf, Packed)
        )
        return replace(self, x=x, y=y, sample_weight=weight)
