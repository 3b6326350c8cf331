"""The base of callbacks that compare a result of an epoch with its best value so far."""

from __future__ import annotations

import math
import warnings
from typing import Any

from padless.callbacks.callback import Callback, Logs
from padless.errors import ArgumentError, unknown_name


class Monitor(Callback):
    """A callback that monitors a result.

    Args:
        monitor: the name of the result, such as "val_loss".
        mode: "min", "max" or "auto". "auto" takes the direction from the metric of that name, else from the name.
        min_delta: the least change that is an improvement.

    Raises:
        ArgumentError: for a wrong argument; when training begins, if "auto" does not find the direction.
    """

    config_attributes = ("monitor", "mode")

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise ArgumentError(unknown_name("mode", mode, ("auto", "min", "max")))
        if not isinstance(monitor, str):
            raise ArgumentError(f"`monitor` of {type(self).__name__} must be a name among the results; got {monitor!r}.")
        self.monitor, self.mode = monitor, mode
        self.min_delta = abs(_check_finite(self, "min_delta", min_delta))
        self.best: float | None = None
        self._sign = 0  # 1 if more is better, -1 if less is better

    def on_train_begin(self, logs: Logs = None) -> None:
        self._sign = {"min": -1, "max": 1}.get(self.mode) or _direction(self.monitor, self.model)

    def get_monitor_value(self, logs: Logs) -> float | None:
        """Return the monitored result; None with a warning if it is not in the logs."""
        value = (logs or {}).get(self.monitor)
        if value is None:
            warnings.warn(
                f"{type(self).__name__} monitors {self.monitor!r}, which is not among the results: {', '.join(logs or {})}.",
                stacklevel=2,
            )
        return value

    def is_improvement(self, value: float, reference: float | None) -> bool:
        """Return whether a value is better than the reference by more than `min_delta`; NaN never is."""
        if reference is None:
            return not math.isnan(value)
        return self._sign * (value - self._sign * self.min_delta) > self._sign * reference


def check_count(callback: Callback, argument: str, value: object, minimum: int = 0) -> int:
    """Return an argument that is an integer of at least `minimum`; raise `ArgumentError` for any other value."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ArgumentError(
            f"`{argument}` of {type(callback).__name__} must be an integer of at least {minimum}; got {value!r}."
        )
    return value


def _check_finite(callback: Callback, argument: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArgumentError(f"`{argument}` of {type(callback).__name__} must be a finite number; got {value!r}.")
    return float(value)


_LESS_IS_BETTER = (
    "loss", "error", "crossentropy", "divergence", "perplexity", "mse", "mae", "mape", "msle", "rmse", "poisson",
)  # fmt: skip
_MORE_IS_BETTER = (
    "accuracy", "acc", "auc", "precision", "recall", "f1", "f1_score", "fbeta_score", "iou", "io_u", "r2_score",
    "similarity", "true_positives", "true_negatives",
)  # fmt: skip


def _direction(monitor: str, model: Any) -> int:
    """Return 1 if more of a result is better, -1 if less is: as the metric of that name says, else by the name."""
    name = monitor.removeprefix("val_")
    for metric in () if model is None else model.metrics:
        higher_is_better = {"up": True, "down": False}.get(metric._direction, metric.higher_is_better)
        if metric.name == name and higher_is_better is not None:
            return 1 if higher_is_better else -1
    for names, sign in ((_LESS_IS_BETTER, -1), (_MORE_IS_BETTER, 1)):
        if name in names or name.endswith(tuple(f"_{ending}" for ending in names)):
            return sign
    raise ArgumentError(
        f"The name of monitor={monitor!r} does not show whether more or less is better. Give mode='max' or mode='min'."
    )
