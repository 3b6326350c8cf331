"""Stop training early."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from padless.callbacks.callback import Logs, State
from padless.callbacks.monitor import Monitor, check_count
from padless.registry import register
from padless.saving import state_checks as checks


@register("callback")
class EarlyStopping(Monitor):
    """Stop when a result has not improved for some epochs. NaN is never an improvement.

    Args:
        monitor: the name of the result.
        min_delta: the least change that is an improvement.
        patience: the number of epochs without improvement after which training stops.
        verbose: whether to print a line when training stops (0 or 1).
        mode: "min", "max" or "auto". "auto" takes the direction from the metric of that name, else from the name.
        baseline: if given, only an improvement that is also better than it restarts the patience.
        restore_best_weights: whether the model gets the weights of the best epoch at the end.
        start_from_epoch: the number of the first epoch that counts.

    Raises:
        ArgumentError: for a wrong argument; when training begins, if "auto" does not find the direction.
    """

    state_attributes = ("wait", "stopped_epoch", "best_epoch", "best", "best_weights")
    state_checks = {
        "wait": checks.integer,
        "stopped_epoch": checks.integer,
        "best_epoch": checks.integer,
        "best": checks.optional(checks.number),
        "best_weights": checks.optional(checks.list_of(checks.array)),
    }

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose = check_count(self, "patience", patience), verbose
        self.baseline, self.start_from_epoch = baseline, start_from_epoch
        self.restore_best_weights = restore_best_weights
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best_weights: list[NDArray[np.generic]] | None = None

    def check_state_dict(self, state: State) -> None:
        super().check_state_dict(state)
        if state["best_weights"] is not None:
            weights = self.model.get_weights()
            saved = checks.sequence("best_weights of EarlyStopping", state["best_weights"], len(weights))
            for array, weight in zip(saved, weights, strict=True):
                checks.array_like("best_weights of EarlyStopping", array, weight)

    def on_train_begin(self, logs: Logs = None) -> None:
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best = self.best_weights = None
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        value = self.get_monitor_value(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._save_weights(epoch)
        self.wait += 1
        if self.is_improvement(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self._save_weights(epoch)
            if self.baseline is None or self.is_improvement(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs = None) -> None:
        if self.verbose and self.stopped_epoch:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose:
                print(f"Restoring the weights of epoch {self.best_epoch + 1}")
            self.model.set_weights(self.best_weights)

    def _save_weights(self, epoch: int) -> None:
        # The arrays of a model that is not from padless may share memory with its weights.
        self.best_epoch, self.best_weights = epoch, deepcopy(self.model.get_weights())
