"""Is this epoch better than the best so far? What several callbacks ask of one quantity."""

from __future__ import annotations

import math
import warnings
from typing import Any

from padless.callbacks.callback import Callback, Logs
from padless.errors import ArgumentError, unknown_name


class Monitor(Callback):
    """A callback that watches `monitor`: `mode` is "min", "max" or "auto", which asks the metric, else goes by the name."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("auto", "min", "max"):
            raise ArgumentError(unknown_name("mode", mode, ("auto", "min", "max")))
        if not isinstance(monitor, str):
            raise ArgumentError(f"`monitor` of {type(self).__name__} must be a name among the results; got {monitor!r}.")
        self.monitor, self.mode = monitor, mode
        self.min_delta = abs(_finite(self, "min_delta", min_delta))
        self.best: float | None = None
        self._sign = 0  # 1 where more is better, -1 where less is

    def on_train_begin(self, logs: Logs = None) -> None:
        self._sign = {"min": -1, "max": 1}.get(self.mode) or _direction(self.monitor, self.model)

    def watched(self, logs: Logs) -> float | None:
        """The quantity in these logs; None, with a warning, where it is not among them."""
        current = (logs or {}).get(self.monitor)
        if current is None:
            warnings.warn(
                f"{type(self).__name__} monitors {self.monitor!r}, which is not among the results: {', '.join(logs or {})}.",
                stacklevel=2,
            )
        return current

    def better(self, current: float, reference: float | None) -> bool:
        """Whether it is better by more than `min_delta`; NaN never is."""
        if reference is None:
            return not math.isnan(current)
        return self._sign * (current - self._sign * self.min_delta) > self._sign * reference


def whole(callback: Callback, what: str, value: Any, least: int = 0) -> int:
    """An argument that counts something."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(f"`{what}` of {type(callback).__name__} must be an integer of at least {least}; got {value!r}.")
    return value


def _finite(callback: Callback, what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArgumentError(f"`{what}` of {type(callback).__name__} must be a finite number; got {value!r}.")
    return float(value)


_less = ("loss", "error", "crossentropy", "divergence", "perplexity", "mse", "mae", "mape", "msle", "rmse", "poisson")
_more = ("accuracy", "acc", "auc", "precision", "recall", "f1", "f1_score", "fbeta_score", "iou", "io_u", "r2_score",
         "similarity", "true_positives", "true_negatives")  # fmt: skip


def _direction(monitor: str, model: Any) -> int:
    """Whether more (1) or less (-1) of a quantity is better: the metric of that name knows, else the name tells."""
    name = monitor.removeprefix("val_")
    for metric in getattr(model, "metrics", None) or ():
        if getattr(metric, "name", None) == name:
            higher = {"up": True, "down": False}.get(getattr(metric, "_direction", ""))
            higher = getattr(metric, "higher_is_better", None) if higher is None else higher
            if higher is not None:
                return 1 if higher else -1
    for names, sign in ((_less, -1), (_more, 1)):
        if name in names or name.endswith(tuple(f"_{known}" for known in names)):
            return sign
    raise ArgumentError(
        f"Whether more or less of monitor={monitor!r} is better cannot be told from its name. Give mode='max' or mode='min'."
    )
