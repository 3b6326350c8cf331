"""The circle loss of pair similarities."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from padless.losses.base import LossWithFunction, read_tensors
from padless.losses.loss import Reduction
from padless.registry import register


@register("loss_function")
def circle(
    y_true: Any,
    y_pred: Any,
    ref_labels: Any = None,
    ref_embeddings: Any = None,
    remove_diagonal: bool = True,
    gamma: float = 80,
    margin: float = 0.4,
) -> Tensor:
    """For each row how far others of its class are, and how near those of other classes (Sun et al. 2020).

    `y_true` are class ids, `y_pred` vectors of length 1; others are the same rows, or the references.

    >>> circle([0, 0, 1], [[1., 0.], [1., 0.], [1., 0.]])
    tensor([54.4000, 54.4000,  0.0000])
    """
    ids, y_pred = read_tensors(y_true, y_pred, cast=False)
    keys, others = (ids, y_pred) if ref_embeddings is None else read_tensors(ref_labels, ref_embeddings, cast=False)
    distances = (1.0 - y_pred @ others.T).clamp_min(0.0)
    same = ids.reshape(-1, 1) == keys.reshape(1, -1)
    friends = same & ~torch.eye(*same.shape, dtype=torch.bool, device=same.device) if remove_diagonal else same
    near = -gamma * (margin + distances) * (margin - distances)
    far = gamma * (1.0 + margin - distances).clamp_min(0.0) * (1.0 - margin - distances)
    return F.softplus(torch.where(friends, near, -torch.inf).logsumexp(1) + torch.where(same, -torch.inf, far).logsumexp(1))


@register("loss", "circle")
class Circle(LossWithFunction):
    """For each real step how far others of its class are, and how near those of other classes, within the batch.

    Targets are class ids, outputs vectors of length 1. As it compares the steps of one batch, it depends on what a batch
    holds. Steps where it is 0 do not count.

    >>> Circle()([0, 0, 1], [[1., 0.], [1., 0.], [1., 0.]])
    tensor(54.4000)
    """

    function = staticmethod(circle)

    def __init__(
        self,
        gamma: float = 80.0,
        margin: float = 0.4,
        remove_diagonal: bool = True,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = "circle",
        dtype: str | None = None,
    ) -> None:
        super().__init__(reduction, name, dtype, gamma=gamma, margin=margin, remove_diagonal=remove_diagonal)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        return y_true, y_pred.to(self._dtype_for(y_pred))

    def count_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        return values > 0
