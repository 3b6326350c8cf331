"""What a callback is: hooks between steps, with Keras's names.

A callback works with what it was handed (`set_model`, `set_params`) and knows no Model: it asks for `stop_training`,
`get_weights`, `set_weights` and `optimizer` only where it uses them. Keras's own callbacks work here as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from padless.errors import ArgumentError, unknown_name
from padless.registry import register

Logs = dict[str, Any] | None
Hook = Callable[..., Any] | None


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
    last: ClassVar[bool] = False  # whether it is called after all others, to see what they have done
    kept: ClassVar[tuple[str, ...]] = ()  # the attributes that a run needs to go on where it was cut off

    def set_params(self, params: dict[str, Any]) -> None:
        """Receive the parameters of the run."""
        self.params = params

    def set_model(self, model: Any) -> None:
        """Receive what is trained."""
        self.model = model

    def state_dict(self) -> dict[str, Any]:
        """What `BackupAndRestore` keeps of this callback: the attributes that the class names in `kept`.

        Plain values, tensors, arrays, and lists, tuples and dictionaries of them; anything else takes methods of its own.
        """
        return {name: getattr(self, name) for name in self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be again where `state_dict` was taken; called after `on_train_begin`."""
        for name in self.kept:
            setattr(self, name, state[name])

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


@register("callback")
class LambdaCallback(Callback):
    """A callback made of functions, each given under the name of its hook.

    >>> LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs)).on_epoch_end(0, {"loss": 1.0})
    0 {'loss': 1.0}
    """

    def __init__(
        self,
        on_epoch_begin: Hook = None,
        on_epoch_end: Hook = None,
        on_train_begin: Hook = None,
        on_train_end: Hook = None,
        on_train_batch_begin: Hook = None,
        on_train_batch_end: Hook = None,
        **others: Hook,
    ) -> None:
        given = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **others,
        }
        known = [name for name in dir(Callback) if name.startswith("on_")]
        for name, function in given.items():
            if name not in known:
                raise ArgumentError(unknown_name("hook", name, known))
            if not (function is None or callable(function)):
                raise ArgumentError(f"{name} of LambdaCallback must be a function; got {function!r}.")
            if function is not None:
                setattr(self, name, function)


def as_floats(logs: Logs) -> dict[str, Any]:
    """Logs with every number as a Python float; anything else stays.

    >>> import torch
    >>> as_floats({"loss": torch.tensor(0.5)})
    {'loss': 0.5}
    """
    return {name: number_of(value) for name, value in (logs or {}).items()}


def number_of(value: Any) -> Any:
    """A number as a Python float; anything else as it is."""
    if isinstance(value, str) or getattr(value, "ndim", 0) > 0:  # text and whole outputs stay
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
