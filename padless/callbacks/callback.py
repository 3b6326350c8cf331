"""The base of callbacks: hooks that the training loop calls, with Keras's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from torch import Tensor

from padless.errors import ArgumentError, unknown_name
from padless.ragged.packed import Packed
from padless.registry import register
from padless.saving import state_checks as checks

Results: TypeAlias = dict[str, Any]
"""Losses and metrics by name: tensors, floats, or what a user-defined metric returns."""

Logs: TypeAlias = "Results | None"
"""The results so far that a hook receives, as floats. In the hooks of `predict` they are the outputs."""

State: TypeAlias = dict[str, Any]
"""Numbers, text, tensors, arrays, and lists, tuples and dictionaries of these, by name."""

Params: TypeAlias = dict[str, Any]
"""The parameters of a run: `epochs`, `steps`, `verbose`, `real_steps`."""

Hook: TypeAlias = "Callable[..., object] | None"

ALIASES = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}
"""The hooks that call a hook with a shorter name."""


class ResumableRun(Protocol):
    """The state of a run of `fit`; `padless.trainers.run_state.FitState` implements it."""

    epoch: int

    @property
    def can_checkpoint(self) -> bool:
        """Return whether the state can be saved now: no gradient is incomplete."""
        ...

    def set_resume_point(self, epoch: int, batch: int) -> None:
        """Set where the run would continue."""

    def state_dict(self) -> State:
        """Return the state of the run."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Restore the state, so that the run continues from it."""


@register("callback")
class Callback:
    """The base of callbacks: each hook does nothing until a subclass overrides it.

    The logs of hooks after a batch are means over the epoch so far. The logs of `on_epoch_end` are results; entries that
    a callback adds to them are seen by the callbacks after it and by the history.

    Attributes:
        params: `epochs`, `steps` and `verbose` of the run.
        model: the model that is trained.
        raw_logs: whether hooks after a batch receive tensors, which may be on a device, in place of floats.
        runs_last: whether the hooks are called after those of all other callbacks.
        state_attributes: the names of the attributes that `BackupAndRestore` saves.
        config_attributes: the names of the attributes that decide what the state means, such as `monitor`. The state of
            a callback with other values is refused.
        state_checks: functions that raise `DataError` for a wrong entry of a saved state, by the name of the entry.

    Example:
        >>> class Stop(Callback):
        ...     def on_epoch_end(self, epoch, logs=None):
        ...         self.model.stop_training = True
    """

    params: Params | None = None
    model: Any = None  # a model of padless or Keras, or what a test gives in its place
    raw_logs: bool = False
    runs_last: ClassVar[bool] = False
    state_attributes: ClassVar[tuple[str, ...]] = ()
    config_attributes: ClassVar[tuple[str, ...]] = ()
    state_checks: ClassVar[Mapping[str, checks.Check]] = {}

    def set_params(self, params: Params) -> None:
        """Receive the parameters of the run."""
        self.params = params

    def set_model(self, model: Any) -> None:
        """Receive the model."""
        self.model = model

    def set_fit_state(self, fit_state: ResumableRun) -> None:
        """Receive the state of the run of `fit`, for callbacks that save it."""

    def uses_hook(self, hook: str) -> bool:
        """Return whether a hook does something; if no callback uses a hook after a batch, its logs are not computed."""
        alias = ALIASES.get(hook)
        if alias is not None and self.uses_hook(alias):
            return True
        return hook in vars(self) or getattr(type(self), hook) is not getattr(Callback, hook)

    @property
    def state_config(self) -> State:
        """Return the values of `config_attributes`."""
        return {name: getattr(self, name) for name in self.config_attributes}

    def state_dict(self) -> State:
        """Return what `BackupAndRestore` saves: the attributes in `state_attributes`.

        The values are numbers, text, tensors, arrays, and lists, tuples and dictionaries of these. For other values
        override this method and `load_state_dict`.
        """
        return {name: getattr(self, name) for name in self.state_attributes}

    def check_state_dict(self, state: State) -> None:
        """Raise `DataError` for a state that cannot be restored; called before anything is restored."""
        place = f"the state of {type(self).__name__}"
        checks.mapping(place, state, {*self.state_attributes, *self.state_checks})
        for name, check in self.state_checks.items():
            check(f"{place}, {name},", state[name])

    def load_state_dict(self, state: State) -> None:
        """Restore the result of `state_dict`; called after `on_train_begin`."""
        for name in self.state_attributes:
            setattr(self, name, state[name])

    def on_train_begin(self, logs: Logs = None) -> None:
        """Run before the first epoch of `fit`."""

    def on_train_end(self, logs: Logs = None) -> None:
        """Run after the last epoch of `fit`."""

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Run before an epoch; the number of the first is 0."""

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Run after an epoch and its validation, whose results have the prefix `val_`."""

    def on_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Run before a training step; the short name of `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Run after a training step; the short name of `on_train_batch_end`."""

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Run before a training step; the number of the first of each epoch is 0."""
        self.on_batch_begin(batch, logs=logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Run after a training step."""
        self.on_batch_end(batch, logs=logs)

    def on_test_begin(self, logs: Logs = None) -> None:
        """Run before `evaluate`, and before the validation of an epoch."""

    def on_test_end(self, logs: Logs = None) -> None:
        """Run after `evaluate`, and after the validation of an epoch."""

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Run before a batch is evaluated."""

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Run after a batch was evaluated."""

    def on_predict_begin(self, logs: Logs = None) -> None:
        """Run before `predict`."""

    def on_predict_end(self, logs: Logs = None) -> None:
        """Run after `predict`."""

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Run before a batch is predicted."""

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Run after a batch was predicted; `logs` has its `outputs`."""


HOOKS = tuple(name for name in vars(Callback) if name.startswith("on_"))


@register("callback")
class LambdaCallback(Callback):
    """A callback that is made of functions.

    Args:
        on_epoch_begin: the function for this hook, with its arguments `(epoch, logs)`.
        on_epoch_end: as above.
        on_train_begin: the function for this hook, with its argument `(logs)`.
        on_train_end: as above.
        on_train_batch_begin: the function for this hook, with its arguments `(batch, logs)`.
        on_train_batch_end: as above.
        **others: functions for the other hooks, by name.

    Raises:
        ArgumentError: for an unknown hook, or a value that is not a function.

    Example:
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
        functions = {
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_train_batch_begin": on_train_batch_begin,
            "on_train_batch_end": on_train_batch_end,
            **others,
        }
        for name, function in functions.items():
            if name not in HOOKS:
                raise ArgumentError(unknown_name("hook", name, HOOKS))
            if not (function is None or callable(function)):
                raise ArgumentError(f"{name} of LambdaCallback must be a function; got {function!r}.")
        # As in Keras, the functions are the hooks of this object.
        vars(self).update({name: function for name, function in functions.items() if function is not None})


def as_floats(logs: Logs) -> Results:
    """Return logs with every number as a Python float; other values stay.

    >>> import torch
    >>> as_floats({"loss": torch.tensor(0.5)})
    {'loss': 0.5}
    """
    return {name: as_float(value) for name, value in (logs or {}).items()}


def as_float(value: object) -> Any:
    """Return a number, or a tensor or array without axes, as a Python float; return any other value unchanged."""
    if isinstance(value, str) or isinstance(value, Tensor | np.ndarray | Packed) and value.ndim > 0:
        return value
    try:
        return float(value)  # pyright: ignore[reportArgumentType] - the exceptions below answer for other types
    except (TypeError, ValueError):
        return value
