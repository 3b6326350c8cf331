"""Callbacks that change the learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch.optim import lr_scheduler

from padless.callbacks.callback import Callback, Logs, State, as_float
from padless.callbacks.monitor import Monitor, check_count
from padless.errors import ArgumentError
from padless.optimizers.base import Optimizer
from padless.registry import register
from padless.saving import state_checks as checks

Schedule: TypeAlias = "Callable[[int, float], float] | Callable[[int], float]"
"""A function of the epoch and the learning rate, or of the epoch, that returns the learning rate of the epoch."""


@register("callback")
class LearningRateScheduler(Callback):
    """Set the learning rate before each epoch. The logs of the epoch have the entry `learning_rate`.

    Args:
        schedule: a function of `(epoch, learning_rate)` or `(epoch)` that returns the learning rate. Or a scheduler of
            `torch.optim.lr_scheduler` with the model's optimizer: it steps after each epoch or batch. Torch's
            ReduceLROnPlateau receives the loss, that of the validation if there is one.
        verbose: whether to print the learning rate of each epoch (0 or 1).
        each: "epoch" or "batch": when a scheduler of torch steps.

    Raises:
        ArgumentError: for wrong arguments, and for a schedule that does not return a learning rate.
    """

    def __init__(
        self,
        schedule: Schedule | lr_scheduler.LRScheduler,
        verbose: int = 0,
        *,
        each: Literal["epoch", "batch"] = "epoch",
    ) -> None:
        is_torch = isinstance(schedule, lr_scheduler.LRScheduler)
        if not is_torch and not callable(schedule):
            raise ArgumentError(
                f"schedule must be a function of (epoch, learning_rate), or a scheduler of "
                f"torch.optim.lr_scheduler; got {schedule!r}."
            )
        if each not in ("epoch", "batch") or (each == "batch" and not is_torch):
            raise ArgumentError(f"`each` must be 'epoch', or 'batch' with a scheduler of torch; got {each!r}.")
        self.schedule, self.verbose, self.each = schedule, verbose, each

    def uses_hook(self, hook: str) -> bool:
        return super().uses_hook(hook) and (hook != "on_train_batch_end" or self.each == "batch")

    def state_dict(self) -> State:
        return self.schedule.state_dict() if isinstance(self.schedule, lr_scheduler.LRScheduler) else {}

    def check_state_dict(self, state: State) -> None:
        if isinstance(self.schedule, lr_scheduler.LRScheduler):
            checks.check_alike("the state of a scheduler of torch", state, self.schedule.state_dict())

    def load_state_dict(self, state: State) -> None:
        if isinstance(self.schedule, lr_scheduler.LRScheduler):
            self.schedule.load_state_dict(state)

    def on_train_begin(self, logs: Logs = None) -> None:
        optimizer = self.model.optimizer
        learning_rate_of(optimizer)  # refuse other objects now
        if isinstance(self.schedule, lr_scheduler.LRScheduler) and self.schedule.optimizer is not optimizer:
            raise ArgumentError(
                f"The {type(self.schedule).__name__} schedules another optimizer than the model's "
                f"{type(optimizer).__name__}. Make it with `model.optimizer`."
            )

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        optimizer = self.model.optimizer
        if not isinstance(self.schedule, lr_scheduler.LRScheduler):
            set_learning_rate(optimizer, _call_schedule(self.schedule, epoch, learning_rate_of(optimizer)))
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {learning_rate_of(optimizer):g}")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            logs["learning_rate"] = learning_rate_of(self.model.optimizer)
        if isinstance(self.schedule, lr_scheduler.ReduceLROnPlateau):
            self.schedule.step((logs or {}).get("val_loss", (logs or {}).get("loss", math.nan)))
        elif isinstance(self.schedule, lr_scheduler.LRScheduler) and self.each == "epoch":
            self.schedule.step()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if isinstance(self.schedule, lr_scheduler.LRScheduler) and self.each == "batch":
            self.schedule.step()


@register("callback")
class ReduceLROnPlateau(Monitor):
    """Reduce the learning rate when a result has not improved for some epochs.

    Args:
        monitor: the name of the result.
        factor: what the learning rate is multiplied by, from 0 to below 1.
        patience: the number of epochs without improvement after which the learning rate is reduced.
        verbose: whether to print a line when it is reduced (0 or 1).
        mode: "min", "max" or "auto". "auto" takes the direction from the metric of that name, else from the name.
        min_delta: the least change that is an improvement.
        cooldown: the number of epochs after a reduction that do not count.
        min_lr: the lower bound of the learning rate.

    Raises:
        ArgumentError: for a wrong argument; when training begins, if "auto" does not find the direction.
    """

    state_attributes = ("best", "wait", "cooldown_counter")
    state_checks = {
        "best": checks.optional(checks.number),
        "wait": checks.integer,
        "cooldown_counter": checks.integer,
    }

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if not isinstance(factor, int | float) or not 0 <= factor < 1:
            raise ArgumentError(f"`factor` of ReduceLROnPlateau must be from 0 to below 1; got {factor!r}.")
        if not isinstance(min_lr, int | float) or not min_lr >= 0:
            raise ArgumentError(f"`min_lr` of ReduceLROnPlateau must be a number of at least 0; got {min_lr!r}.")
        self.factor, self.min_lr, self.verbose = factor, min_lr, verbose
        self.patience, self.cooldown = check_count(self, "patience", patience), check_count(self, "cooldown", cooldown)
        self.wait = self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        learning_rate_of(self.model.optimizer)  # refuse other objects now
        self.best, self.wait, self.cooldown_counter = None, 0, 0

    def in_cooldown(self) -> bool:
        """Return whether epochs do not count now."""
        return self.cooldown_counter > 0

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            logs["learning_rate"] = learning_rate_of(self.model.optimizer)
        value = self.get_monitor_value(logs)
        if value is None:
            return
        if self.in_cooldown():
            self.cooldown_counter, self.wait = self.cooldown_counter - 1, 0
        if self.is_improvement(value, self.best):
            self.best, self.wait = value, 0
        elif not self.in_cooldown():
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        rate = learning_rate_of(self.model.optimizer)
        if rate <= self.min_lr:
            return
        set_learning_rate(self.model.optimizer, max(rate * self.factor, self.min_lr))
        self.cooldown_counter, self.wait = self.cooldown, 0
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate reduced to {learning_rate_of(self.model.optimizer):g}")


def learning_rate_of(optimizer: object) -> float:
    """Return the learning rate of an optimizer of padless or torch, of its first group. Others are an `ArgumentError`."""
    if isinstance(optimizer, Optimizer):
        return optimizer.learning_rate
    if isinstance(optimizer, torch.optim.Optimizer):
        return float(optimizer.param_groups[0]["lr"])
    raise ArgumentError(f"This callback needs an optimizer of padless or torch; got {optimizer!r}.")


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups of an optimizer."""
    if isinstance(optimizer, Optimizer):
        optimizer.learning_rate = rate
    else:
        for group in optimizer.param_groups:
            group["lr"] = rate


def _call_schedule(schedule: Callable[..., object], epoch: int, rate: float) -> float:
    """Return the learning rate of a schedule for an epoch. Raises `ArgumentError` if the result is not one."""
    try:
        inspect.signature(schedule).bind(epoch, rate)
    except TypeError:
        args = (epoch,)
    else:
        args = (epoch, rate)
    result = as_float(schedule(*args))
    if not isinstance(result, float) or not math.isfinite(result) or result < 0:
        raise ArgumentError(f"schedule{args} gave {result!r}. Expected a learning rate: a finite float from 0 up.")
    return result
