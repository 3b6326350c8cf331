"""The model saved while it is trained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from padless.callbacks.callback import Callback, Logs
from padless.callbacks.monitor import Monitor
from padless.errors import ArgumentError
from padless.registry import register
from padless.saving import safetensors_io as archive


@register("callback")
class ModelCheckpoint(Monitor):
    """Save the model, or with `save_weights_only` its weights, after each epoch or every `save_freq` batches.

    `filepath` may hold `{epoch}`, `{batch}` and the names of results, as in "model-{epoch:02d}-{val_loss:.2f}". With
    `save_best_only` a file is written only where `monitor` is better than ever, or than `initial_value_threshold`. Files
    appear whole or not at all; the folder is made where it is missing.
    """

    kept = ("best", "_since")

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: int | str = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.save_freq, self.best = save_frequency(self, save_freq), initial_value_threshold
        self._epoch, self._since = 0, 0
        if save_freq != "epoch":
            self.on_train_batch_end = self._after_batch  # nobody else pays for logs

    def on_train_begin(self, logs: Logs = None) -> None:
        if self.save_best_only:
            super().on_train_begin(logs)
        if "{" not in self.filepath:
            self._check(Path(self.filepath))

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.save_freq == "epoch":
            self._save(logs or {}, epoch=epoch + 1)

    def _after_batch(self, batch: int, logs: Logs = None) -> None:
        self._since += 1
        if self._since >= int(self.save_freq):
            self._since = 0
            self._save(logs or {}, epoch=self._epoch + 1, batch=batch + 1)

    def _save(self, logs: dict[str, Any], **numbers: int) -> None:
        if not self._is_due(logs):
            return
        path = Path(self._filled({**numbers, **logs}))
        self._check(path)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            self.model.save(path)
        if self.verbose:
            print(f"Epoch {numbers['epoch']}: saved {path}")

    def _is_due(self, logs: dict[str, Any]) -> bool:
        if not self.save_best_only:
            return True
        current = self.watched(logs)
        if current is None:
            return True  # as Keras: better one file too many
        better = self.better(current, self.best)
        self.best = current if better else self.best
        return better

    def _filled(self, known: dict[str, Any]) -> str:
        try:
            return self.filepath.format(**known)
        except (KeyError, IndexError, ValueError) as wrong:
            raise ArgumentError(
                f"The filepath {self.filepath!r} of ModelCheckpoint cannot be filled: {wrong}. It may name "
                f"{', '.join(known)}."
            ) from wrong

    @staticmethod
    def _check(path: Path) -> None:
        if path.is_dir():
            raise ArgumentError(f"ModelCheckpoint writes a file; {os.fspath(path)!r} is a folder. Add a file's name.")
        archive.writable_folder(path.parent)


def save_frequency(callback: Callback, value: Any) -> int | str:
    """ "epoch" or a number of batches."""
    if value != "epoch" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ArgumentError(
            f"`save_freq` of {type(callback).__name__} must be 'epoch' or a positive number of batches; got {value!r}."
        )
    return value
