"""The gradient of several batches that share one step of the optimizer.

The loss of the group is the sum of `c * S / W` over the outputs. `c` is the coefficient of the output, `S` the sum of
its loss over all batches and `W` the weight of this sum. Each batch adds `c * S_j / W`, so W is needed before the first
backward pass. If W is known only at the end, the gradient of the sums is kept separately (`DeferredGradient`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from padless.data.batch import Batch
from padless.trainers.compile_utils import LossParts


class Backward(Protocol):
    """A function that adds the gradient of a loss to the weights."""

    def __call__(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Run the backward pass."""


class AccumulationGroup:
    """Batches that share one step of the optimizer.

    Args:
        batches: the batches of the group.
        weights: for each output the weight W over all batches, None if only the outputs will show it.
        params: the weights of the model that get a gradient.
    """

    def __init__(self, batches: Sequence[Batch], weights: Sequence[float | None], params: Sequence[Tensor]) -> None:
        self.rows = sum(batch.rows for batch in batches)
        self.size = self.remaining = len(batches)
        self.weights = weights
        self.params = params
        self.penalty_added = False  # whether the regularization of the weights is in the gradient
        self.deferred: dict[int, DeferredGradient] = {}  # by number of the output

    @property
    def is_first(self) -> bool:
        """Return whether the next batch is the first of the group."""
        return self.remaining == self.size

    def accumulate(self, loss: Tensor, parts: LossParts | None, rows: int, backward: Backward) -> bool:
        """Add the gradient of the next batch to the weights.

        Args:
            loss: the loss that `compute_loss` returned.
            parts: the parts of the default loss, None if a user's `compute_loss` did not compute it. What `loss`
                contains in addition to its parts is weighted by rows.
            rows: the number of examples in the batch.
            backward: the function for the backward pass.

        Returns:
            Whether this was the last batch of the group, and the gradient is complete.
        """
        self.remaining -= 1
        share, unweighted_sums = self._split_loss(loss, parts, rows)
        for number, total in unweighted_sums:
            self.deferred[number].accumulate(total, self.params, backward)
        if share is not None and share.requires_grad:
            backward(share)
        if self.remaining:
            return False
        for deferred in self.deferred.values():
            deferred.apply(self.params)
        return True

    def _split_loss(
        self, loss: Tensor, parts: LossParts | None, rows: int
    ) -> tuple[Tensor | None, list[tuple[int, Tensor]]]:
        """Return the part of the group's loss that this batch adds, and sums with unknown weight by output number."""
        row_share = rows / max(self.rows, 1)
        if parts is None:
            return loss * row_share, []
        summands: list[Tensor] = []
        unweighted_sums: list[tuple[int, Tensor]] = []
        if loss is not parts.total:
            summands.append((loss - parts.total) * row_share)
        for number, (coefficient, term) in enumerate(parts.terms):
            if term is None:
                continue
            weight = self.weights[number] if number < len(self.weights) else None
            if weight is not None:
                summands.append(term.sum * (coefficient / weight if weight else 0.0))
                continue
            deferred = self.deferred.setdefault(number, DeferredGradient(coefficient))
            scaled_sum = deferred.scale_sum(term.sum, term.weight, term.adds_weights)
            if scaled_sum.requires_grad:
                unweighted_sums.append((number, scaled_sum))
        summands += [layer_loss.sum() * row_share for layer_loss in parts.layer_losses]
        if not self.penalty_added:
            summands += [penalty.sum() for penalty in parts.weight_penalties]
        self.penalty_added = True
        return (sum(summands[1:], summands[0]) if summands else None), unweighted_sums


class DeferredGradient:
    """The gradient of the sums of one output, kept until the weight over all batches is known."""

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient
        self.scale: Tensor | float | None = None  # the weight of the first batch: keeps sums in the range of means
        self.weight: Tensor | float = 0.0
        self.grads: list[Tensor | None] = []

    def scale_sum(self, total: Tensor, weight: Tensor | float, adds: bool) -> Tensor:
        """Add the weight of a batch; return the sum of its loss, divided by `scale`."""
        if self.scale is None:
            self.scale = _nonzero(weight)
        self.weight = self.weight + weight if adds else weight
        return total / self.scale

    def accumulate(self, total: Tensor, params: Sequence[Tensor], backward: Backward) -> None:
        """Add the gradient of a scaled sum to `grads`; the gradients in the weights stay as they are."""
        other_grads = [p.grad for p in params]
        for p, grad in zip(params, self.grads or [None] * len(params), strict=True):
            p.grad = grad
        backward(total, retain_graph=True)
        self.grads = [p.grad for p in params]
        for p, grad in zip(params, other_grads, strict=True):
            p.grad = grad

    @torch.no_grad()
    def apply(self, params: Sequence[Tensor]) -> None:
        """Divide the gradient by the weight of all batches, and add it to the gradients in the weights."""
        factor = self.coefficient * (1.0 if self.scale is None else self.scale) / _nonzero(self.weight)
        for p, grad in zip(params, self.grads, strict=False):
            if grad is not None:
                grad = grad.mul_(factor.to(grad.device, grad.dtype) if isinstance(factor, Tensor) else factor)
                p.grad = grad if p.grad is None else p.grad + grad


def _nonzero(weight: Tensor | float) -> Tensor | float:
    """Return the weight, 1 for the weight 0."""
    return torch.where(weight == 0, 1, weight) if isinstance(weight, Tensor) else weight or 1.0
