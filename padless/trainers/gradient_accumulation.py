"""Several batches as one step of the optimizer: the gradient is that of the one large batch.

    the loss of all   L = sum of c * S / W    for each output: its coefficient, and S and W summed over all the batches
    each batch adds   c * S_j / W             so W is needed before the first backward

W is counted ahead from targets, weights and masks, where the graph knows the masks and the loss says which values count.
Where it does not (a mask that comes about inside a `call` of one's own, a loss of one's own), the gradient of the bare
sums is kept apart for that output, and divided once at the end. What layers add is weighed by rows; what weights cost
counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from padless.data.batch import Batch
from padless.data.batch_structure import pair_with_outputs
from padless.losses.loss import Loss, PerStepValues
from padless.losses.wrappers import LossFunctionWrapper
from padless.ragged.alignment import match_rank, sample_weights_for, target_rows
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.trainers.compile_utils import CompiledObjective, LossParts
from padless.trainers.data_checks import ModelMaskInfo, OutputInfo

Backward = Callable[..., None]
_OWN = __name__.partition(".")[0] + "."


def groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """So many batches at a time; the last ones may be fewer."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def iterate_groups(
    model: Any, plan_of: Callable[[Batch], ModelMaskInfo], batches: Iterable[Batch], size: int
) -> Iterator[Batch]:
    """The same batches; the model knows of each to which group it belongs, counted before the first of them is run."""
    try:
        for group in groups(batches, size):
            weights = total_loss_weights(model, plan_of, group, model._objective)
            model._group = AccumulationGroup(group, weights, [p for p in model.parameters() if p.requires_grad])
            yield from group
            model._group = None
    finally:
        if model._group is not None:  # somebody stopped before its last batch: a part of a gradient moves nothing
            model.optimizer.zero_grad(set_to_none=True)
        model._group = None


class AccumulationGroup:
    """Batches that count as one: what each adds to the gradient, and at the end the gradient of all.

    `weights` are those of the outputs over all batches, None where only the outputs will tell.
    """

    def __init__(self, batches: Sequence[Batch], weights: Sequence[float | None], params: Sequence[Tensor]) -> None:
        self.rows = sum(batch.rows for batch in batches)
        self.size = self.left = len(batches)
        self.weights = weights
        self.params = params
        self.paid = False  # what weights cost has been counted
        self.late: dict[int, DeferredGradient] = {}

    @property
    def is_first(self) -> bool:
        """Whether no batch has been added yet."""
        return self.left == self.size

    def add(self, loss: Tensor, parts: LossParts | None, rows: int, backward: Backward) -> bool:
        """Bring the gradient of a batch to the weights; says whether it was the last one.

        `loss` is what `compute_loss` gave, `parts` what it is made of; what is not in these counts by rows.
        """
        self.left -= 1
        share, unknown = self._share(loss, parts, rows)
        for place, total in unknown:
            self.late[place].backward(total, self.params, lambda part: backward(part, retain_graph=True))
        if share is not None and share.requires_grad:
            backward(share)
        if not self.left:
            for late in self.late.values():
                late.apply(self.params)
        return not self.left

    def _share(self, loss: Tensor, parts: LossParts | None, rows: int) -> tuple[Tensor | None, list[tuple[int, Tensor]]]:
        """What of the loss of this batch belongs to the loss of all, and the sums whose weights are not known yet."""
        known: list[Tensor] = []
        unknown: list[tuple[int, Tensor]] = []
        by_rows = rows / max(self.rows, 1)
        if parts is None or loss is not parts.total:
            known.append((loss if parts is None else loss - parts.total) * by_rows)
        if parts is None:
            return known[0], unknown
        for place, (coefficient, term) in enumerate(parts.terms):
            if term is None:
                continue
            weight = self.weights[place] if place < len(self.weights) else None
            if weight is not None:
                known.append(term.sum * (coefficient / weight if weight else 0.0))
                continue
            late = self.late.setdefault(place, DeferredGradient(coefficient))
            scaled = late.accumulate(term.sum, term.weight, term.adds_weights)
            if scaled.requires_grad:
                unknown.append((place, scaled))
        known += [added.sum() * by_rows for added in parts.added]
        if not self.paid:
            known += [cost.sum() for cost in parts.once]
        self.paid = True
        return (sum(known[1:], known[0]) if known else None), unknown


class DeferredGradient:
    """The gradient of one output's sums, kept until their weight is known."""

    def __init__(self, coefficient: float) -> None:
        self.coefficient = coefficient
        self.unit: Any = None  # the weight of the first batch: sums are kept near the size of means
        self.weight: Any = 0.0
        self.grads: list[Tensor | None] = []

    def accumulate(self, total: Tensor, weight: Any, adds: bool) -> Tensor:
        """The sum of a batch, in the unit that the first one gives."""
        if self.unit is None:
            nothing = weight == 0
            self.unit = torch.where(nothing, 1, weight) if isinstance(weight, Tensor) else weight or 1.0
        self.weight = self.weight + weight if adds else weight
        return total / self.unit

    def backward(self, total: Tensor, params: Sequence[Tensor], backward: Callable[[Tensor], None]) -> None:
        """Bring the gradient of a sum to its own place, not to that of the other losses."""
        others = [p.grad for p in params]
        for p, grad in zip(params, self.grads or [None] * len(params), strict=True):
            p.grad = grad
        backward(total)
        self.grads = [p.grad for p in params]
        for p, grad in zip(params, others, strict=True):
            p.grad = grad

    @torch.no_grad()
    def apply(self, params: Sequence[Tensor]) -> None:
        """Divide by the weight of all, and add to the gradient of the other losses."""
        nothing = self.weight == 0
        whole = torch.where(nothing, 1, self.weight) if isinstance(self.weight, Tensor) else self.weight or 1.0
        factor = self.coefficient * self.unit / whole
        for p, grad in zip(params, self.grads, strict=False):
            if grad is not None:
                grad = grad.mul_(factor.to(grad.device, grad.dtype) if isinstance(factor, Tensor) else factor)
                p.grad = grad if p.grad is None else p.grad + grad


# ------------------------------------------------------------------------------------------------ counted ahead


def total_loss_weights(
    model: Any, plan_of: Callable[[Batch], ModelMaskInfo], batches: Sequence[Batch], objective: CompiledObjective | None
) -> list[float | None]:
    """For each output the weight of its loss over all of these batches, None where only the outputs will tell."""
    if objective is None:
        return []
    total: list[float | None] = [0.0] * len(objective.outputs)
    for batch in batches:
        plan = plan_of(batch)
        if len(plan.outputs) != len(total) or batch.y is None:
            return [None] * len(total)
        names = {output.name: None for output in objective.outputs}
        places = names if isinstance(batch.y, dict) else list(names)
        _, targets = pair_with_outputs(places, batch.y, "targets")
        _, weights = pair_with_outputs(places, batch.sample_weight, "sample weights")
        values = model.arranged(batch.x)
        indexes = [birth.index(values[birth.source]) for birth in plan.origins]
        for place, (end, output) in enumerate(zip(plan.outputs, objective.outputs, strict=True)):
            index = None if end.origin is None else indexes[end.origin]
            loss, so_far = output.loss, total[place]
            if loss is None or end.num_step_axes and index is None or so_far is None:
                total[place] = None
                continue
            own = _weight(loss, targets[place], weights[place], end, index)
            total[place] = own if own is None or loss.reduction == "sum" else so_far + own
    return total


def _weight(loss: Loss, target: Any, weight: Any, end: OutputInfo, index: Index | None) -> float | None:
    """The weight that a batch will have in a loss of padless's own, by the loss's own count on outputs without numbers."""
    if loss.reduction == "sum":
        return 1.0
    fn = loss.fn if isinstance(loss, LossFunctionWrapper) else loss
    made_here = (getattr(fn, "__module__", None) or type(fn).__module__).startswith(_OWN)
    if loss.reads_whole_sequences or target is None or not made_here or not type(loss).__module__.startswith(_OWN):
        return None
    if isinstance(target, Packed) and index is None:
        index = target.index
    targets = target if index is None else target_rows(target, index, "y_true")
    if isinstance(targets, Packed) or targets.device.type != "cpu":
        return None
    features = list(end.shape[1:] if index is None else end.shape[len(index.grid) :])
    given = targets.shape[1:]
    sizes = [given[axis] if size is None and axis < len(given) else size for axis, size in enumerate(features)]
    if None in sizes:
        return None
    rows = torch.empty((len(targets), *[int(size or 0) for size in sizes]), device="meta")
    targets, rows = loss.cast(*match_rank(targets, rows))
    try:
        shape = loss._call_on_rows(targets.to("meta"), rows).shape
    except RuntimeError:  # torch's word for a function that looks at numbers
        return None
    values = torch.zeros((), dtype=rows.dtype).expand(shape)
    own = None if weight is None else sample_weights_for(weight, index, values)
    counted = loss.count_mask(targets, values) if len(values) else None
    return float(PerStepValues(values, own, counted, index).reduce(loss.reduction).weight)
