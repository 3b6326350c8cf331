"""Several callbacks as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias, runtime_checkable

from padless.callbacks.callback import ALIASES, Callback, Logs, Params, ResumableRun, as_floats
from padless.callbacks.history import History
from padless.errors import ArgumentError

BatchHook: TypeAlias = Callable[..., object]


@runtime_checkable
class CallbackLike(Protocol):
    """A callback of padless or Keras: it has the hooks, and receives the model and the parameters of the run."""

    def set_model(self, model: Any) -> object:
        """Receive the model."""

    def set_params(self, params: Any) -> object:
        """Receive the parameters of the run."""


class CallbackList(Callback):
    """Several callbacks as one; each hook is called on all of them in order.

    Callbacks with `runs_last` come after the others. The hooks of a batch are called only on callbacks that use them.

    Args:
        callbacks: a callback of padless or Keras, or nested lists of them.
        add_history: whether to add a `History` if there is none.
        model: the model that the callbacks receive.
        **params: the parameters that the callbacks receive.

    Raises:
        ArgumentError: for an object that is not a callback.
    """

    def __init__(
        self,
        callbacks: CallbackLike | Iterable[CallbackLike] | None = None,
        add_history: bool = False,
        model: Any = None,
        **params: Any,
    ) -> None:
        self.callbacks: list[Any] = []  # CallbackLike; hooks are called as in Keras, whose callbacks have no types
        for callback in _flatten(callbacks):
            if not isinstance(callback, CallbackLike):
                raise ArgumentError(
                    f"callbacks has the entry {callback!r}, which is not a callback. Give instances of "
                    f"padless.callbacks.Callback."
                )
            self.callbacks.append(callback)
        self._batch_hooks: dict[str, tuple[list[BatchHook], list[BatchHook]]] = {}  # results of `_users_of`
        self.history = next((callback for callback in self.callbacks if isinstance(callback, History)), None)
        if self.history is None and add_history:
            self.history = History()
            self.callbacks.append(self.history)
        self._sort()
        if model is not None:
            self.set_model(model)
        self.set_params(params)

    def append(self, callback: CallbackLike) -> None:
        """Add a callback, which receives the model and the parameters of the run."""
        self.callbacks.append(callback)
        self._sort()
        self._batch_hooks.clear()
        if self.model is not None:
            callback.set_model(self.model)
        callback.set_params(self.params)

    def require_history(self) -> History:
        """Return the history of the run. Raises `ArgumentError` if there is none."""
        if self.history is None:
            raise ArgumentError("This CallbackList has no History. Make it with add_history=True.")
        return self.history

    def _sort(self) -> None:
        self.callbacks.sort(key=lambda callback: isinstance(callback, Callback) and callback.runs_last)

    def set_params(self, params: Params) -> None:
        self.params = params
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model: Any) -> None:
        self.model = model
        for callback in self.callbacks:
            callback.set_model(model)

    def set_fit_state(self, fit_state: ResumableRun) -> None:
        for callback in self.callbacks:
            if isinstance(callback, Callback):
                callback.set_fit_state(fit_state)

    def wants(self, hook: str) -> bool:
        """Return whether a callback uses this hook."""
        return any(self._users_of(hook))

    def _users_of(self, hook: str) -> tuple[list[BatchHook], list[BatchHook]]:
        """Return the methods of the callbacks that use a hook: those that receive tensors, and those for floats."""
        if hook not in self._batch_hooks:
            for_tensors, for_floats = [], []
            for callback in self.callbacks:
                if _uses_hook(callback, hook):
                    raw = isinstance(callback, Callback) and callback.raw_logs
                    (for_tensors if raw else for_floats).append(getattr(callback, hook))
            self._batch_hooks[hook] = (for_tensors, for_floats)
        return self._batch_hooks[hook]

    def _call_batch_hook(self, hook: str, batch: int, logs: Logs) -> None:
        for_tensors, for_floats = self._batch_hooks.get(hook) or self._users_of(hook)
        for method in for_tensors:
            method(batch, logs=logs)
        if for_floats:
            floats = as_floats(logs)
            for method in for_floats:
                method(batch, logs=floats)

    # In the other hooks all callbacks share one dictionary, so that each sees the entries that earlier ones added.

    def on_train_begin(self, logs: Logs = None) -> None:
        self._batch_hooks.clear()  # the hooks of an object may have changed since its last run
        floats = as_floats(logs)
        for callback in self.callbacks:
            callback.on_train_begin(floats)

    def on_train_end(self, logs: Logs = None) -> None:
        floats = as_floats(logs)
        for callback in self.callbacks:
            callback.on_train_end(floats)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        floats = as_floats(logs)
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch, floats)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        floats = as_floats(logs)
        for callback in self.callbacks:
            callback.on_epoch_end(epoch, floats)

    def on_test_begin(self, logs: Logs = None) -> None:
        floats = as_floats(logs)
        for callback in self.callbacks:
            callback.on_test_begin(floats)

    def on_test_end(self, logs: Logs = None) -> None:
        floats = as_floats(logs)
        for callback in self.callbacks:
            callback.on_test_end(floats)

    def on_predict_begin(self, logs: Logs = None) -> None:
        floats = as_floats(logs)
        for callback in self.callbacks:
            callback.on_predict_begin(floats)

    def on_predict_end(self, logs: Logs = None) -> None:
        floats = as_floats(logs)
        for callback in self.callbacks:
            callback.on_predict_end(floats)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._call_batch_hook("on_train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._call_batch_hook("on_train_batch_end", batch, logs)

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._call_batch_hook("on_test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._call_batch_hook("on_test_batch_end", batch, logs)

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._call_batch_hook("on_predict_batch_begin", batch, logs)

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._call_batch_hook("on_predict_batch_end", batch, logs)


def _flatten(callbacks: object) -> Iterator[object]:
    """Yield the entries of nested lists and tuples."""
    if isinstance(callbacks, list | tuple):
        for entry in callbacks:
            yield from _flatten(entry)
    elif callbacks is not None:
        yield callbacks


def _uses_hook(callback: CallbackLike, hook: str) -> bool:
    """Return whether a hook, or its short name, does something in a callback of padless or Keras."""
    if isinstance(callback, Callback):
        return callback.uses_hook(hook)
    alias = ALIASES.get(hook)
    if hook in vars(callback) or alias is not None and _uses_hook(callback, alias):
        return True
    owner = next((cls for cls in type(callback).__mro__ if hook in vars(cls)), None)
    return owner is not None and not (owner.__name__ == "Callback" and owner.__module__.startswith("keras."))
