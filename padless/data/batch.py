"""A batch: some examples, ready for a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree

from padless.data.columns import Kind
from padless.ragged.device import send, send_known
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
                fill = None if leaf.fill is None else send(leaf.fill, device)
                return leaf.with_values(send_known(leaf.values, device), fill)
            return leaf if leaf is None else send_known(leaf, device)

        x, y, weight = _pytree.tree_map(
            sent, (self.x, self.y, self.sample_weight), is_leaf=lambda leaf: isinstance(leaf, Packed)
        )
        return replace(self, x=x, y=y, sample_weight=weight)
