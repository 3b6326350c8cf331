"""The learning rate, changed between epochs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler

from padless.callbacks.callback import Callback, Logs, number_of
from padless.callbacks.monitor import Monitor, whole
from padless.errors import ArgumentError
from padless.registry import register


@register("callback")
class LearningRateScheduler(Callback):
    """Before each epoch the learning rate becomes `schedule(epoch, learning_rate)`; the logs show it.

    Works with any optimizer that has a `learning_rate`, or torch's `param_groups`. A scheduler of
    `torch.optim.lr_scheduler` may stand for the function: it takes its step after each epoch (with the loss, the
    validation's where there is one, if it is torch's ReduceLROnPlateau), or with `each="batch"` after each batch.
    """

    def __init__(self, schedule: Any, verbose: int = 0, *, each: str = "epoch") -> None:
        self._torch = isinstance(schedule, lr_scheduler.LRScheduler)
        if not self._torch and not callable(schedule):
            raise ArgumentError(
                f"schedule must be a function of (epoch, learning_rate), or a scheduler of "
                f"torch.optim.lr_scheduler; got {schedule!r}."
            )
        if each not in ("epoch", "batch") or (each == "batch" and not self._torch):
            raise ArgumentError(f"`each` must be 'epoch', or 'batch' with a scheduler of torch; got {each!r}.")
        self.schedule: Any = schedule
        self.verbose, self.each = verbose, each
        if each == "batch":
            self.on_train_batch_end = self._after_batch  # nobody else pays for logs

    def state_dict(self) -> dict[str, Any]:
        return self.schedule.state_dict() if self._torch else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._torch:
            self.schedule.load_state_dict(state)

    def on_train_begin(self, logs: Logs = None) -> None:
        learning_rate_of(self.model.optimizer)
        if self._torch and self.schedule.optimizer is not self.model.optimizer:
            raise ArgumentError(
                f"The {type(self.schedule).__name__} schedules another optimizer than the model's "
                f"{type(self.model.optimizer).__name__}. Make it with `model.optimizer`."
            )

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if not self._torch:
            optimizer = self.model.optimizer
            given = (epoch, learning_rate_of(optimizer))[: _accepted(self.schedule)]
            rate = number_of(self.schedule(*given))
            if not isinstance(rate, float) or not math.isfinite(rate) or rate < 0:
                raise ArgumentError(f"schedule{given} gave {rate!r}. Expected a learning rate: a finite float from 0 up.")
            set_learning_rate(optimizer, rate)
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {learning_rate_of(self.model.optimizer):g}")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            logs["learning_rate"] = learning_rate_of(self.model.optimizer)
        if isinstance(self.schedule, lr_scheduler.ReduceLROnPlateau):
            self.schedule.step((logs or {}).get("val_loss", (logs or {}).get("loss", math.nan)))
        elif self._torch and self.each == "epoch":
            self.schedule.step()

    def _after_batch(self, batch: int, logs: Logs = None) -> None:
        self.schedule.step()


@register("callback")
class ReduceLROnPlateau(Monitor):
    """Multiply the learning rate by `factor` when `monitor` has not improved by `min_delta` for `patience` epochs.

    After that it waits `cooldown` epochs before it counts again; the rate never falls below `min_lr`.
    """

    kept = ("best", "wait", "cooldown_counter")

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
        self.patience, self.cooldown = whole(self, "patience", patience), whole(self, "cooldown", cooldown)
        self.wait = self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        learning_rate_of(self.model.optimizer)
        self.best, self.wait, self.cooldown_counter = None, 0, 0

    def in_cooldown(self) -> bool:
        """Whether it does not count now."""
        return self.cooldown_counter > 0

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            logs["learning_rate"] = learning_rate_of(self.model.optimizer)
        current = self.watched(logs)
        if current is None:
            return
        if self.in_cooldown():
            self.cooldown_counter, self.wait = self.cooldown_counter - 1, 0
        if self.better(current, self.best):
            self.best, self.wait = current, 0
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


def learning_rate_of(optimizer: Any) -> float:
    """The learning rate of now, of the first group if there are several."""
    if hasattr(optimizer, "learning_rate"):
        return float(optimizer.learning_rate)
    if hasattr(optimizer, "param_groups"):
        return float(optimizer.param_groups[0]["lr"])
    raise ArgumentError(f"A callback needs an optimizer with a learning_rate; got {optimizer!r}.")


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """Give all groups of an optimizer this learning rate."""
    if hasattr(optimizer, "learning_rate"):
        optimizer.learning_rate = rate
    else:
        for group in optimizer.param_groups:
            group["lr"] = rate


def _accepted(schedule: Callable[..., float]) -> int:
    """Whether a schedule takes the epoch alone (1) or the learning rate as well (2)."""
    try:
        inspect.signature(schedule).bind(0, 0.0)
    except TypeError:
        return 1
    return 2
