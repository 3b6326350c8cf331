"""One step, one epoch, for any torch module; what goes in is a batch, what comes out are exact sums.

The module may be a padless model, a plain `nn.Module` that holds padless layers, or anything that maps a batch's inputs
to tensors or Packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from padless.errors import ArgumentError, DataError
from padless.graph.mode import in_mode
from padless.ragged.packed import Packed, showing
from padless.training.callbacks import CallbackList
from padless.training.data import Batch
from padless.training.objective import Objective


def outputs_of(module: nn.Module, batch: Batch) -> Any:
    """The module's outputs for a batch, where only values at real steps will be looked at."""
    with showing(False):
        return module(batch.x)


def flat(tree: Any) -> list[Any]:
    """The outputs, targets or weights of a batch as a list; a Packed is one of them, and so is None."""
    return _pytree.tree_leaves(tree, is_leaf=lambda x: isinstance(x, Packed) or x is None)


def like(tree: Any, found: list[Any]) -> Any:
    """What `flat` took apart, put together again with other leaves."""
    rest = iter(found)
    return _pytree.tree_map(lambda _: next(rest), tree, is_leaf=lambda x: isinstance(x, Packed) or x is None)


def matched(outputs: Any, given: Any, what: str) -> tuple[list[Any], list[Any]]:
    """Outputs side by side with their targets or weights, by name where both are dictionaries."""
    own = flat(outputs)
    if given is None:
        return own, [None] * len(own)
    if isinstance(outputs, dict) and isinstance(given, dict):
        return [outputs[k] for k in outputs], [given.get(k) for k in outputs]
    theirs = flat(given) if isinstance(given, list | tuple | dict) else [given]
    if len(theirs) != len(own):
        raise DataError(f"The model has {len(own)} outputs; got {len(theirs)} {what}.")
    return own, theirs


def loss_of(module: nn.Module, batch: Batch, objective: Objective) -> Tensor:
    """The loss of a batch, ready for `backward`; the batch is added to the sums of the objective."""
    if batch.y is None and any(output.loss is not None for output in objective.outputs):
        raise ArgumentError("A loss needs targets, but y is None. Give y, or batches of (x, y).")
    outputs = outputs_of(module, batch)
    own, targets = matched(outputs, batch.y, "targets")
    _, weights = matched(outputs, batch.sample_weight, "sample weights")
    if len(own) != len(objective.outputs):
        raise ArgumentError(f"The model gave {len(own)} outputs; losses and metrics are for "
                            f"{[output.name for output in objective.outputs]}.")
    terms = objective.terms(targets, own, weights)
    once = list(getattr(module, "weight_losses", []))
    added = list(getattr(module, "call_losses", []))
    total = objective.total(terms, (*added, *once))
    objective.see(targets, own, weights, terms, added, once, batch.rows)
    return total


def train_step(module: nn.Module, batch: Batch, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
    """One step of the optimizer on one batch."""
    optimizer.zero_grad(set_to_none=True)
    loss = loss_of(module, batch, objective)
    if loss.requires_grad:
        loss.backward()
    optimizer.step()
    constrain = getattr(module, "apply_constraints", None)
    if constrain is not None:
        constrain()


@torch.no_grad()
def test_step(module: nn.Module, batch: Batch, objective: Objective) -> None:
    """One batch added to the sums."""
    loss_of(module, batch, objective)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's weights are; the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def real_steps(module: nn.Module, batch: Batch) -> int:
    """How many real steps the last call ran on, as far as the module knows; else how many rows."""
    counted = getattr(module, "real_steps", None)
    return batch.rows if counted is None else counted


def train_epoch(
    module: nn.Module, batches: Iterable[Batch], objective: Objective, optimizer: torch.optim.Optimizer,
    callbacks: CallbackList | None = None, stop: Callable[[], bool] = lambda: False,
) -> dict[str, Tensor]:
    """Every batch once; the loss and the metrics over all of them, each as the model was at its step."""
    objective.reset()
    with in_mode(True, module):
        _each(module, batches, objective, callbacks, "train",
              lambda batch: train_step(module, batch, objective, optimizer), stop)
    return objective.results()


def test_epoch(
    module: nn.Module, batches: Iterable[Batch], objective: Objective, callbacks: CallbackList | None = None
) -> dict[str, Tensor]:
    """The loss and the metrics over all batches."""
    objective.reset()
    with in_mode(False, module):
        _each(module, batches, objective, callbacks, "test", lambda batch: test_step(module, batch, objective))
    return objective.results()


@torch.no_grad()
def predict_epoch(
    module: nn.Module, batches: Iterable[Batch], callbacks: CallbackList | None = None
) -> Iterator[tuple[Batch, Any]]:
    """Each batch with the module's outputs for it, what masked steps show included."""
    device = device_of(module)
    with in_mode(False, module):
        for number, batch in enumerate(batches):
            if callbacks is not None:
                callbacks.on_predict_batch_begin(number)
            outputs = module(batch.to(device).x)
            if callbacks is not None:
                callbacks.on_predict_batch_end(number, {"outputs": outputs})
            yield batch, outputs


def _each(
    module: nn.Module, batches: Iterable[Batch], objective: Objective, callbacks: CallbackList | None, phase: str,
    step: Callable[[Batch], None], stop: Callable[[], bool] = lambda: False,
) -> None:
    """A step for each batch, with the hooks around it."""
    device = device_of(module)
    begin = getattr(callbacks, f"on_{phase}_batch_begin", None)
    end = getattr(callbacks, f"on_{phase}_batch_end", None)
    wanted = callbacks is not None and callbacks.wants(f"on_{phase}_batch_end")
    seen = 0
    for number, batch in enumerate(batches):
        if begin is not None:
            begin(number)
        step(batch if device.type == "cpu" else batch.to(device))
        seen += batch.rows
        if callbacks is not None and wanted and end is not None:
            params = callbacks.params or {}
            params["real_steps"] = params.get("real_steps", 0) + real_steps(module, batch)
            end(number, objective.results())
        if stop():
            break
    if not seen:
        raise DataError("The data gave no batch. Expected at least one example.")
