"""Training that was cut off goes on as if nothing had happened."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any, ClassVar

from padless.callbacks.callback import Callback, Logs
from padless.callbacks.model_checkpoint import save_frequency
from padless.errors import ArgumentError, DataError, PadlessError
from padless.registry import register
from padless.saving import safetensors_io as archive
from padless.saving import state_tree as tree

_NAME = re.compile(r"backup-(\d{10})\.safetensors")


@register("callback")
class BackupAndRestore(Callback):
    """Keep a run of `fit` in `backup_dir`, so that the same call goes on from there, however the last one ended.

    A backup is written after each epoch, or every `save_freq` batches, and holds all that the rest of the run depends on:
    the model, the optimizer, the place in the data, the sums of the epoch, the random states, the history and the states
    of the other callbacks. So the weights at the end are, bit for bit, those of a run that was never cut off, if the data,
    the code and the machine are the same. It is whole or not there at all, and the one before it is kept.

    A damaged backup is a `DataError` that names the one before it, from which `double_checkpoint` goes on by itself, with
    a warning. When training ends the backups are deleted, unless `delete_checkpoint` is False; then the next `fit` with
    more epochs goes on from there. Raises `NotWritten`, before training, for a folder that takes no files.
    """

    last: ClassVar[bool] = True

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: int | str = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        if not os.fspath(backup_dir):
            raise ArgumentError(f"backup_dir must be the name of a folder; got {backup_dir!r}.")
        self.backup_dir, self.save_freq = Path(backup_dir), save_frequency(self, save_freq)
        self.double_checkpoint, self.delete_checkpoint = double_checkpoint, delete_checkpoint
        self.run: Any = None
        self._since = 0
        if save_freq != "epoch":
            self.on_train_batch_end = self._after_batch  # nobody else pays for logs

    def set_run(self, run: Any) -> None:
        """Receive the run of `fit` that is to be kept."""
        self.run = run

    def on_train_begin(self, logs: Logs = None) -> None:
        archive.writable_folder(self.backup_dir)
        for left in self.backup_dir.glob(".backup-*"):  # half written when the last run was cut off
            left.unlink()
        found, self._since = self._read(), 0
        if found is not None:
            self.run.load_state_dict(found["run"])
            self._since = found["since"]

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.run.set_resume_point(epoch + 1, 0)
        if self.save_freq == "epoch":
            self._write()

    def on_train_end(self, logs: Logs = None) -> None:
        if not self.delete_checkpoint:
            return
        for _, path in self._kept():
            path.unlink()
        if not any(self.backup_dir.iterdir()):
            self.backup_dir.rmdir()

    def _after_batch(self, batch: int, logs: Logs = None) -> None:
        self.run.set_resume_point(self.run.epoch, batch + 1)
        self._since += 1
        if self._since >= int(self.save_freq) and self.run.can_checkpoint:
            self._since = 0
            self._write()

    def _kept(self) -> list[tuple[int, Path]]:
        """The backups, the newest first."""
        found = [(match, path) for path in self.backup_dir.iterdir() if (match := _NAME.fullmatch(path.name))]
        return sorted(((int(match[1]), path) for match, path in found), reverse=True)

    def _write(self) -> None:
        before = self._kept()
        number = before[0][0] + 1 if before else 0
        plain, arrays = tree.split_arrays({"run": self.run.state_dict(), "since": self._since})
        archive.write(self.backup_dir / f"backup-{number:010}.safetensors", arrays, plain)
        for _, path in before[1:]:
            path.unlink()

    def _read(self) -> dict[str, Any] | None:
        kept = self._kept()
        for place, (_, path) in enumerate(kept):
            try:
                arrays, plain = archive.read(path)
                return tree.join_arrays(plain, arrays)
            except PadlessError as wrong:
                older = [os.fspath(other) for _, other in kept[place + 1 :]]
                if not older:
                    raise DataError(f"{wrong} There is no backup before it: delete it, and training begins anew.") from wrong
                if not self.double_checkpoint:
                    raise DataError(
                        f"{wrong} The backup before it, {older[0]!r}, is untouched: delete the damaged file, or "
                        f"give double_checkpoint=True, and training goes on from there."
                    ) from wrong
                warnings.warn(f"{wrong} Training goes on from the backup before it, {older[0]!r}.", stacklevel=2)
        return None
