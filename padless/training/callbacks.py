"""What may happen between steps, with Keras's names.

A callback works with what it was handed (`set_model`, `set_params`) and knows no Model: it asks for `stop_training`,
`get_weights`, `set_weights` and `optimizer` only where it uses them. Keras's own callbacks work here as well.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from padless.errors import ArgumentError, one_of
from padless.registry import register

Logs = dict[str, Any] | None


@register("callback")
class Callback:
    """The base of all callbacks: each hook does nothing until it is overridden.

    `params` holds `epochs`, `steps` and `verbose`, `model` is what is trained. `logs` are means so far in batch hooks,
    results in `on_epoch_end`, where entries added to them are seen by the callbacks that follow and by the history.
    With `raw_logs` the values of batch hooks come as they are, possibly tensors on a device, else as Python floats.

    >>> class Stop(Callback):
    ...     def on_epoch_end(self, epoch, logs=None):
    ...         self.model.stop_training = True
    """

    params: dict[str, Any] | None = None
    model: Any = None
    raw_logs = False

    def set_params(self, params: dict[str, Any]) -> None:
        """Receive the parameters of the run."""
        self.params = params

    def set_model(self, model: Any) -> None:
        """Receive what is trained."""
        self.model = model

    def on_train_begin(self, logs: Logs = None) -> None:
        """Before the first epoch of `fit`."""

    def on_train_end(self, logs: Logs = None) -> None:
        """After the last epoch of `fit`."""

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Before an epoch; the first is 0."""

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """After an epoch and its validation, whose results are prefixed with `val_`."""

    def on_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """The short name of `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs = None) -> None:
        """The short name of `on_train_batch_end`."""

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Before a training step; the first of each epoch is 0."""
        self.on_batch_begin(batch, logs=logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """After a training step."""
        self.on_batch_end(batch, logs=logs)

    def on_test_begin(self, logs: Logs = None) -> None:
        """Before `evaluate`, and before the validation of an epoch."""

    def on_test_end(self, logs: Logs = None) -> None:
        """After `evaluate`, and after the validation of an epoch."""

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Before a batch is evaluated."""

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """After a batch was evaluated."""

    def on_predict_begin(self, logs: Logs = None) -> None:
        """Before `predict`."""

    def on_predict_end(self, logs: Logs = None) -> None:
        """After `predict`."""

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Before a batch is predicted."""

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        """After a batch was predicted; `logs` holds its `outputs`."""


class CallbackList(Callback):
    """Several callbacks called as one, in their order; `add_history` puts a History last if there is none.

    A hook that nobody overrides costs a dictionary look-up; `wants` tells the loop so, which then need not make logs.
    """

    def __init__(
        self, callbacks: Iterable[Any] | Any = None, add_history: bool = False, model: Any = None, **params: Any
    ) -> None:
        self.callbacks: list[Any] = list(_flat(callbacks))
        for callback in self.callbacks:
            if not hasattr(callback, "set_model"):
                raise ArgumentError(f"callbacks holds {callback!r}. Expected instances of padless.callbacks.Callback.")
        self._called: dict[str, tuple[list[Callable[..., Any]], list[Callable[..., Any]]]] = {}
        self.history = next((c for c in self.callbacks if isinstance(c, History)), None)
        if self.history is None and add_history:
            self.history = History()
            self.callbacks.append(self.history)
        if model is not None:
            self.set_model(model)
        self.set_params(params)

    def append(self, callback: Any) -> None:
        """One more callback, called last; it is told of the model and the parameters."""
        self.callbacks.append(callback)
        self._called.clear()
        if self.model is not None:
            callback.set_model(self.model)
        callback.set_params(self.params)

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model: Any) -> None:
        self.model = model
        for callback in self.callbacks:
            callback.set_model(model)

    def wants(self, hook: str) -> bool:
        """Whether anybody overrides this hook."""
        return any(self._overriding(hook))

    def _overriding(self, hook: str) -> tuple[list[Callable[..., Any]], list[Callable[..., Any]]]:
        """The bound methods of those who override a hook: who takes logs as they are, and who wants floats."""
        if hook not in self._called:
            raw, plain = [], []
            for callback in self.callbacks:
                if _overrides(callback, hook):
                    (raw if getattr(callback, "raw_logs", False) else plain).append(getattr(callback, hook))
            self._called[hook] = (raw, plain)
        return self._called[hook]

    def _batch(self, hook: str, batch: int, logs: Logs) -> None:
        raw, plain = self._called.get(hook) or self._overriding(hook)
        for call in raw:
            call(batch, logs=logs)
        if plain:
            floats = as_floats(logs)
            for call in plain:
                call(batch, logs=floats)

    def _all(self, hook: str, *where: int, logs: Logs) -> None:
        floats = as_floats(logs)  # one dictionary for all, so that what one adds the next one sees
        for callback in self.callbacks:
            getattr(callback, hook)(*where, floats)

    def on_train_begin(self, logs: Logs = None) -> None:
        self._called.clear()  # hooks may have been set on an instance since
        self._all("on_train_begin", logs=logs)

    def on_train_end(self, logs: Logs = None) -> None:
        self._all("on_train_end", logs=logs)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._all("on_epoch_begin", epoch, logs=logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._all("on_epoch_end", epoch, logs=logs)

    def on_test_begin(self, logs: Logs = None) -> None:
        self._all("on_test_begin", logs=logs)

    def on_test_end(self, logs: Logs = None) -> None:
        self._all("on_test_end", logs=logs)

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._all("on_predict_begin", logs=logs)

    def on_predict_end(self, logs: Logs = None) -> None:
        self._all("on_predict_end", logs=logs)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._batch("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._batch("on_train_batch_end", batch, logs)

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._batch("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._batch("on_test_batch_end", batch, logs)

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._batch("on_predict_batch_begin", batch, logs)

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._batch("on_predict_batch_end", batch, logs)


def _flat(callbacks: Any) -> Iterable[Any]:
    if isinstance(callbacks, list | tuple):
        for callback in callbacks:
            yield from _flat(callback)
    elif callbacks is not None:
        yield callbacks


_aliases = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}


def _overrides(callback: Any, hook: str) -> bool:
    """Whether a hook, or its short name, is more than the empty one of Callback."""
    method = getattr(callback, hook, None)
    default = getattr(method, "__func__", None) is getattr(Callback, hook)
    if method is None or getattr(method, "_is_default", False):  # Keras marks its empty hooks so
        default = True
    return not default or (hook in _aliases and _overrides(callback, _aliases[hook]))


def as_floats(logs: Logs) -> dict[str, Any]:
    """Logs with every number as a Python float; anything else stays.

    >>> import torch
    >>> as_floats({"loss": torch.tensor(0.5)})
    {'loss': 0.5}
    """
    return {name: _number(value) for name, value in (logs or {}).items()}


def _number(value: Any) -> Any:
    if isinstance(value, str) or getattr(value, "ndim", 0) > 0:  # text and whole outputs stay
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


@register("callback")
class History(Callback):
    """What `fit` returns: `history`, a dict of lists with one entry per epoch, `epoch`, and `params`.

    With `batch_tokens`, `padding` says what padding would have cost.
    """

    padding: Any = None

    def __init__(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs = None) -> None:
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
        if self.model is not None:
            self.model.history = self


@register("callback")
class LambdaCallback(Callback):
    """A callback made of functions, each given under the name of its hook.

    >>> LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs)).on_epoch_end(0, {"loss": 1.0})
    0 {'loss': 1.0}
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        known = [name for name in dir(Callback) if name.startswith("on_")]
        for name, function in hooks.items():
            if name not in known:
                raise ArgumentError(one_of("hook", name, known))
            if function is not None:
                setattr(self, name, function)


@register("callback")
class EarlyStopping(Callback):
    """Stop when `monitor` has not improved by more than `min_delta` for `patience` epochs.

    `mode` is "min", "max" or "auto", which goes by what the metric of that name says, else by the name. With a
    `baseline` the patience starts anew only for what also beats it. `restore_best_weights` brings the weights of the
    best epoch back at the end. NaN is never an improvement. Epochs before `start_from_epoch` do not count.

    Raises `ArgumentError`, before training, where "auto" cannot tell the direction.
    """

    def __init__(
        self, monitor: str = "val_loss", min_delta: float = 0, patience: int = 0, verbose: int = 0, mode: str = "auto",
        baseline: float | None = None, restore_best_weights: bool = False, start_from_epoch: int = 0,
    ) -> None:  # fmt: skip
        if mode not in ("auto", "min", "max"):
            raise ArgumentError(one_of("mode", mode, ("auto", "min", "max")))
        self.monitor, self.mode = monitor, mode
        self.min_delta, self.patience, self.verbose = abs(min_delta), patience, verbose
        self.baseline, self.start_from_epoch = baseline, start_from_epoch
        self.restore_best_weights = restore_best_weights
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best: float | None = None
        self.best_weights: Any = None
        self._sign = 0  # 1 where more is better, -1 where less is

    def on_train_begin(self, logs: Logs = None) -> None:
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best = self.best_weights = None
        self._sign = {"min": -1, "max": 1}.get(self.mode) or _direction(self.monitor, self.model)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        current = (logs or {}).get(self.monitor)
        if current is None:
            warnings.warn(f"EarlyStopping monitors {self.monitor!r}, which is not among the results: "
                          f"{', '.join(logs or {})}.", stacklevel=2)
            return
        if epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)
        self.wait += 1
        if self._better(current, self.best):
            self.best, self.best_epoch = current, epoch
            if self.restore_best_weights:
                self._keep(epoch)
            if self.baseline is None or self._better(current, self.baseline):
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

    def _keep(self, epoch: int) -> None:
        self.best_epoch, self.best_weights = epoch, deepcopy(self.model.get_weights())  # they may share memory

    def _better(self, current: float, reference: float | None) -> bool:
        if reference is None:
            return not math.isnan(current)
        return self._sign * (current - self._sign * self.min_delta) > self._sign * reference


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
    raise ArgumentError(f"Whether more or less of monitor={monitor!r} is better cannot be told from its name. "
                        f"Give mode='max' or mode='min'.")


@register("callback")
class TerminateOnNaN(Callback):
    """Stop training at the first batch whose loss is NaN or infinite; with `raise_error`, by a RuntimeError."""

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"The loss of batch {batch} is {loss}. Look for extreme inputs, or train more slowly.")
        print(f"Batch {batch}: the loss is {loss}, training stops")
        self.model.stop_training = True


@register("callback")
class LearningRateScheduler(Callback):
    """Before each epoch the learning rate becomes `schedule(epoch, learning_rate)`; the logs show it.

    Works with any optimizer that has a `learning_rate`, or torch's `param_groups`.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise ArgumentError(f"schedule must be a function of (epoch, learning_rate); got {schedule!r}.")
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        optimizer = self.model.optimizer
        given = (epoch, _learning_rate(optimizer))[: _accepted(self.schedule)]
        rate = _number(self.schedule(*given))
        if not isinstance(rate, float) or not math.isfinite(rate) or rate < 0:
            raise ArgumentError(f"schedule{given} gave {rate!r}. Expected a learning rate: a finite float from 0 up.")
        if hasattr(optimizer, "learning_rate"):
            optimizer.learning_rate = rate
        else:
            for group in optimizer.param_groups:
                group["lr"] = rate
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {rate:g}")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if logs is not None:
            logs["learning_rate"] = _learning_rate(self.model.optimizer)


def _learning_rate(optimizer: Any) -> float:
    if hasattr(optimizer, "learning_rate"):
        return float(optimizer.learning_rate)
    if hasattr(optimizer, "param_groups"):
        return float(optimizer.param_groups[0]["lr"])
    raise ArgumentError(f"LearningRateScheduler needs an optimizer with a learning_rate; got {optimizer!r}.")


def _accepted(schedule: Callable[..., float]) -> int:
    """Whether a schedule takes the epoch alone (1) or the learning rate as well (2)."""
    try:
        inspect.signature(schedule).bind(0, 0.0)
    except TypeError:
        return 1
    return 2
