"""Several callbacks called as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from padless.callbacks.callback import Callback, Logs, as_floats
from padless.callbacks.history import History
from padless.errors import ArgumentError


class CallbackList(Callback):
    """Several callbacks called as one, in their order; `add_history` puts a History last if there is none.

    Those that say `last` come after all others, in every hook.

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
        self._order()
        if model is not None:
            self.set_model(model)
        self.set_params(params)

    def append(self, callback: Any) -> None:
        """One more callback, called last; it is told of the model and the parameters."""
        self.callbacks.append(callback)
        self._order()
        self._called.clear()
        if self.model is not None:
            callback.set_model(self.model)
        callback.set_params(self.params)

    def _order(self) -> None:
        self.callbacks.sort(key=lambda callback: bool(getattr(callback, "last", False)))

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model: Any) -> None:
        self.model = model
        for callback in self.callbacks:
            callback.set_model(model)

    def set_run(self, run: Any) -> None:
        """Hand the run of `fit` to those who keep it."""
        for callback in self.callbacks:
            if hasattr(callback, "set_run"):
                callback.set_run(run)

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
