"""Save the model during training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias

from padless.callbacks.callback import Callback, Logs, Results, State
from padless.callbacks.monitor import Monitor
from padless.errors import ArgumentError
from padless.registry import register
from padless.saving import safetensors_io
from padless.saving import state_checks as checks

SaveFrequency: TypeAlias = int | Literal["epoch"]
"""Save after each epoch, or after this number of batches."""


@register("callback")
class ModelCheckpoint(Monitor):
    """Save the model after each epoch or some batches. A file is written completely or not at all.

    Args:
        filepath: the path of the file. It may have `{epoch}`, `{batch}` and names of results, as in
            "model-{epoch:02d}-{val_loss:.2f}". Missing folders are created.
        monitor: the name of the result for `save_best_only`.
        verbose: whether to print a line for each file (0 or 1).
        save_best_only: whether to save only if the result is better than before.
        save_weights_only: whether to save the weights without the config.
        mode: "min", "max" or "auto". "auto" takes the direction from the metric of that name, else from the name.
        save_freq: "epoch", or a number of batches.
        initial_value_threshold: with `save_best_only`, the result that the first file must improve.

    Raises:
        ArgumentError: for wrong arguments, a path of a folder, and a name in the path that is not a result.
        NotWritten: when training begins, if the folder cannot be written.
    """

    state_checks = {"best": checks.optional(checks.number), "_since": checks.integer}

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: SaveFrequency = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.save_freq, self.best = check_save_frequency(self, save_freq), initial_value_threshold
        self._epoch, self._batches_since_save = 0, 0

    def uses_hook(self, hook: str) -> bool:
        return super().uses_hook(hook) and (hook != "on_train_batch_end" or self.save_freq != "epoch")

    def state_dict(self) -> State:
        return {"best": self.best, "_since": self._batches_since_save}

    def load_state_dict(self, state: State) -> None:
        self.best, self._batches_since_save = state["best"], state["_since"]

    def on_train_begin(self, logs: Logs = None) -> None:
        if self.save_best_only:
            super().on_train_begin(logs)
        if "{" not in self.filepath:
            self._prepare_folder(Path(self.filepath))

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.save_freq == "epoch":
            self._save(logs or {}, epoch=epoch + 1)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if isinstance(self.save_freq, str):  # "epoch"
            return
        self._batches_since_save += 1
        if self._batches_since_save >= self.save_freq:
            self._batches_since_save = 0
            self._save(logs or {}, epoch=self._epoch + 1, batch=batch + 1)

    def _save(self, logs: Results, **numbers: int) -> None:
        """Save the model if it is to be saved; `numbers` are the epoch and the batch."""
        if not self._is_due(logs):
            return
        path = self._path({**numbers, **logs})
        self._prepare_folder(path)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        if self.verbose:
            print(f"Epoch {numbers['epoch']}: saved {path}")

    def _is_due(self, logs: Results) -> bool:
        """Return whether to save the model; the best result so far is updated."""
        if not self.save_best_only:
            return True
        value = self.get_monitor_value(logs)
        if value is None:
            return True  # as Keras
        improved = self.is_improvement(value, self.best)
        if improved:
            self.best = value
        return improved

    def _path(self, values: Results) -> Path:
        """Return the path of the file, with these values for the names in it."""
        try:
            return Path(self.filepath.format(**values))
        except (KeyError, IndexError, ValueError) as error:
            raise ArgumentError(
                f"The filepath {self.filepath!r} of ModelCheckpoint cannot be filled: {error}. It may name "
                f"{', '.join(values)}."
            ) from error

    @staticmethod
    def _prepare_folder(path: Path) -> None:
        if path.is_dir():
            raise ArgumentError(f"ModelCheckpoint writes a file; {os.fspath(path)!r} is a folder. Add a file's name.")
        safetensors_io.writable_folder(path.parent)


def check_save_frequency(callback: Callback, value: SaveFrequency) -> SaveFrequency:
    """Return `save_freq` if it is "epoch" or a positive number of batches. Raises `ArgumentError` for other values."""
    if value != "epoch" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ArgumentError(
            f"`save_freq` of {type(callback).__name__} must be 'epoch' or a positive number of batches; got {value!r}."
        )
    return value
