"""Where a run of `fit` stands, as a dictionary: all that the rest of the run depends on, taken out and put back.

    model, optimizer      by their own `state_dict`, stateful layers and layers with a seed too
    data                  the generators as the epoch began, the feed's state then, and how many batches were taken
    random                the generators of torch, NumPy and Python as they are now
    sums                  what losses and metrics have added up in this epoch
    callbacks             by their `state_dict`, the history among them

The order of an epoch hangs on the generators as it began (`feed.py`); so it is drawn again from these, the batches that were
taken are left out, and the generators put where they are now.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from padless.callbacks import CallbackList
from padless.data.batch import Batch
from padless.data.epoch_iterator import EpochIterator
from padless.errors import DataError
from padless.trainers import metric_state as sums
from padless.trainers.epoch_loop import device_of

State = dict[str, Any]


class FitState:
    """One call of `fit`: which epoch it is in, and how many of its batches were taken."""

    def __init__(self, model: Any, feed: EpochIterator, hooks: CallbackList, epoch: int = 0) -> None:
        self.model, self.feed, self.hooks = model, feed, hooks
        self.epoch, self.batch, self.first = epoch, 0, 0
        self._begun: State = {}  # the generators, when the batches of the epoch that runs were drawn
        self._taken = 0  # of that epoch
        self._state: State | None = None  # from which it goes on, until its first epoch has begun
        self._rest: Iterator[Batch] | None = None

    def epochs(self, stop: int) -> Iterator[int]:
        """The epochs that are left; none where the run had been stopped."""
        over = self._state is not None and self._state["stopped"] and not self.batch
        for epoch in range(self.epoch, stop if not over else 0):
            self.epoch = epoch
            yield epoch

    def batches(self) -> Iterator[Batch]:
        """What is left of the epoch that begins; `first` is the number of the first batch."""
        state, rest = self._state, self._rest
        self._state = self._rest = None
        if state is None or rest is None:
            self._begun, self.first, self._taken = random_state(), 0, 0
            return self.feed.epoch()
        self._apply(state)  # what callbacks did as the epoch began they had done
        self.first = self.batch
        return iter(()) if state["stopped"] else rest

    def set_resume_point(self, epoch: int, batch: int) -> None:
        """From here the run would go on: the next batch of the epoch that runs, or the beginning of the next."""
        self.epoch, self.batch = epoch, batch
        self._taken = batch or self._taken

    @property
    def can_checkpoint(self) -> bool:
        """Whether no batches wait for others to take their step with."""
        group = getattr(self.model, "_group", None)
        return group is None or not group.left

    @property
    def _scaler(self) -> Any:
        """What scales the loss in half precision; None where nothing does."""
        precision = getattr(self.model, "_precision", None)
        return None if precision is None else precision.scaler(device_of(self.model))

    def state_dict(self) -> State:
        """All that the rest of the run depends on."""
        model, optimizer = self.model, self.model.optimizer
        return {
            "epoch": self.epoch, "batch": self.batch, "stopped": bool(model.stop_training),
            "model": dict(model.state_dict()), "layers": [_own_state(inner) for inner in model.modules()],
            "optimizer": {"class": type(optimizer).__name__, "state": optimizer.state_dict()},
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
            "data": {"begun": self._begun, "feed": self.feed.state_dict(), "taken": self._taken, "steps": self.feed.steps},
            "random": random_state(), "sums": sums.metric_state_dict(model) if self.batch else None,
            "callbacks": [{"class": type(one).__name__, "state": one.state_dict()} for one in self._stateful_callbacks()],
        }  # fmt: skip

    def load_state_dict(self, state: State) -> None:
        """Go on from there. Raises `DataError`, before anything has changed, if it is of something else."""
        self._check(state)
        self._state, data = state, state["data"]
        self.epoch, self.batch = state["epoch"], state["batch"]
        if self.batch or self.feed.limit is not None:  # where epochs have a length of their own a pass runs on
            self._begun, self._taken = data["begun"], data["taken"]
            set_random_state(self._begun)
            self.feed.load_state_dict(data["feed"], start=self._taken)
            rest = self.feed.epoch()
            self._rest = rest if self.batch else None
        self._apply(state)

    def _apply(self, state: State) -> None:
        model = self.model
        model.stop_training = state["stopped"]
        model.load_state_dict(state["model"])
        for inner, own in zip(model.modules(), state["layers"], strict=True):
            _set_own_state(inner, own)
        model.optimizer.load_state_dict(state["optimizer"]["state"])
        if state["scaler"] is not None and self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])
        if state["sums"] is not None:
            sums.load_metric_state_dict(model, state["sums"], self.feed.data.head(1))
        left = list(self._stateful_callbacks())
        for kept in state["callbacks"]:
            for one in [one for one in left if type(one).__name__ == kept["class"]][:1]:
                left.remove(one)
                one.load_state_dict(kept["state"])
        set_random_state(state["random"])

    def _stateful_callbacks(self) -> Iterator[Any]:
        """The callbacks that have a state; the one that keeps the run has none."""
        for one in self.hooks.callbacks:
            if hasattr(one, "state_dict") and not hasattr(one, "set_run"):
                yield one

    def _check(self, state: State) -> None:
        own, kept = self.model.state_dict(), state["model"]
        for name in sorted({*own, *kept}):
            mine, theirs = (tuple(part[name].shape) if name in part else None for part in (own, kept))
            if mine != theirs:
                raise DataError(
                    f"The backup is of another model: its weight {name!r} has shape {theirs}, here {mine}. "
                    f"Build the model as it was, or choose another backup_dir."
                )
        optimizer, saved = self.model.optimizer, state["optimizer"]
        groups = [len(group["params"]) for group in optimizer.param_groups]
        theirs = [len(group["params"]) for group in saved["state"]["param_groups"]]
        if type(optimizer).__name__ != saved["class"] or groups != theirs:
            raise DataError(
                f"The backup was made with {saved['class']} over {theirs} weights; this is "
                f"{type(optimizer).__name__} over {groups}. Compile as before, or choose another backup_dir."
            )
        steps = state["data"]["steps"]
        if state["batch"] and steps != self.feed.steps:
            raise DataError(
                f"The backup was made in the middle of an epoch of {steps} batches; now an epoch has "
                f"{self.feed.steps}. Give the data and batch sizes as before, or choose another backup_dir."
            )


def random_state() -> State:
    """The states of the generators that everything draws from unless it has its own: torch's, NumPy's and Python's."""
    version, words, gauss = random.getstate()
    found: State = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=False),
        "python": (version, np.array(words), gauss),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the generators where `random_state` found them."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _own_state(module: nn.Module) -> State:
    """What a module keeps beside its weights: generators of its own, and the last states of a stateful layer."""
    found: State = {name: value.get_state() for name, value in vars(module).items() if isinstance(value, torch.Generator)}
    if getattr(module, "stateful", False) and hasattr(module, "states"):
        found["states"] = module.states
    return found


def _set_own_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        own = getattr(module, name)
        if isinstance(own, torch.Generator):
            own.set_state(value)
        else:
            setattr(module, name, _moved(value, device_of(module)))


def _moved(states: Any, device: torch.device) -> Any:
    if isinstance(states, list | tuple):
        return type(states)(_moved(state, device) for state in states)
    return states.to(device) if isinstance(states, Tensor) else states
