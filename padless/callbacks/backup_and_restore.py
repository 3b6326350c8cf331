"""Continue an interrupted training with the same results."""

from __future__ import annotations

import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from padless.callbacks.callback import Callback, Logs, ResumableRun, State
from padless.callbacks.model_checkpoint import SaveFrequency, check_save_frequency
from padless.errors import ArgumentError, DataError, PadlessError
from padless.registry import register
from padless.saving import safetensors_io, state_tree
from padless.saving import state_checks as checks
from padless.saving.folder_lock import FILE_NAME as LOCK_NAME
from padless.saving.folder_lock import FolderLock

_FILE_NAME = re.compile(r"backup-(\d{10})\.safetensors")


@register("callback")
class BackupAndRestore(Callback):
    """Save the run of `fit`, so that the same call continues after an interruption of any kind.

    A backup has everything that the rest of the run depends on. These are the model, the optimizer, the position in the
    data, the sums of the epoch, the random states, the history and the states of the other callbacks. So the final
    weights are bit for bit those of a run without interruption, if data, code and machine are the same. A backup is
    written completely or not at all, and the one before it is kept.

    The run that continues must be the same: model, optimizer, learning rate, losses and metrics, data, batch size and
    `initial_epoch` as before. Only `epochs` may change. The random states are those of the backup, whatever seed is set.

    When training ends, the backups are deleted. With `delete_checkpoint=False` they are kept, and the next `fit` with
    more epochs continues from them.

    Args:
        backup_dir: the folder of the backups.
        save_freq: "epoch", or a number of batches.
        double_checkpoint: whether to continue from the backup before a damaged one, with a warning.
        delete_checkpoint: whether to delete the backups when training ends.

    Raises:
        ArgumentError: for wrong arguments.
        DataError: when training begins, for a damaged backup, whose message names the one before it, and for a backup
            of another model, other data or other arguments. Nothing has changed then.
        NotWritten: when training begins, if the folder cannot be written, or another training writes to it.
    """

    runs_last: ClassVar[bool] = True

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: SaveFrequency = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        if not os.fspath(backup_dir):
            raise ArgumentError(f"backup_dir must be the name of a folder; got {backup_dir!r}.")
        self.backup_dir, self.save_freq = Path(backup_dir), check_save_frequency(self, save_freq)
        self.double_checkpoint, self.delete_checkpoint = double_checkpoint, delete_checkpoint
        self._run: ResumableRun | None = None
        self._lock: FolderLock | None = None
        self._batches_since_save = 0

    def uses_hook(self, hook: str) -> bool:
        return super().uses_hook(hook) and (hook != "on_train_batch_end" or self.save_freq != "epoch")

    def set_fit_state(self, fit_state: ResumableRun) -> None:
        self._run = fit_state

    @property
    def run(self) -> ResumableRun:
        """Return the run of `fit`. Raises `ArgumentError` if the callback is not in a call of `fit`."""
        if self._run is None:
            raise ArgumentError("BackupAndRestore saves a run of `fit`. Give it to `fit` in `callbacks`.")
        return self._run

    def on_train_begin(self, logs: Logs = None) -> None:
        safetensors_io.writable_folder(self.backup_dir)
        self._lock_folder()
        for partial_file in self.backup_dir.glob(".backup-*"):  # of a run that ended while it wrote a backup
            partial_file.unlink()
        backup, self._batches_since_save = self._read(), 0
        if backup is not None:
            checks.mapping("the backup", backup, ("run", "since"), ())
            batches_since_save = checks.integer("since", backup["since"])
            self.run.load_state_dict(backup["run"])
            self._batches_since_save = batches_since_save

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.run.set_resume_point(epoch + 1, 0)
        is_last = self.model.stop_training or self.params is not None and epoch + 1 == self.params["epochs"]
        if self.save_freq == "epoch" or is_last and not self.delete_checkpoint:
            self._write()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if isinstance(self.save_freq, str):  # "epoch"
            return
        self.run.set_resume_point(self.run.epoch, batch + 1)
        self._batches_since_save += 1
        if self._batches_since_save >= self.save_freq and self.run.can_checkpoint:
            self._batches_since_save = 0
            self._write()

    def on_train_end(self, logs: Logs = None) -> None:
        if not self.delete_checkpoint:
            return
        if not self.backup_dir.is_dir():  # deleted during the last epoch
            return
        for _, path in self._backups():
            path.unlink(missing_ok=True)
        if {path.name for path in self.backup_dir.iterdir()} <= {LOCK_NAME}:
            self.close()
            with suppress(OSError):  # another training may begin there now
                self.backup_dir.rmdir()

    def close(self) -> None:
        """Unlock the folder; `fit` calls this method at its end, also after an error."""
        if self._lock is not None:
            self._lock.release()

    def _lock_folder(self) -> None:
        """Take the lock of the folder. Raises `NotWritten` if another training writes to it."""
        self._lock = FolderLock(self.backup_dir)
        self._lock.acquire()

    def _backups(self) -> list[tuple[int, Path]]:
        """Return the numbers and paths of the backups, the newest first."""
        matches = [(_FILE_NAME.fullmatch(path.name), path) for path in self.backup_dir.iterdir()]
        return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)

    def _write(self) -> None:
        """Write a backup, and delete all others but the newest."""
        if not self.backup_dir.is_dir():
            message = f"The folder {os.fspath(self.backup_dir)!r} was deleted during training. It is made again."
            warnings.warn(message, stacklevel=2)
            safetensors_io.writable_folder(self.backup_dir)
            self.close()
            self._lock_folder()
        backups = self._backups()
        number = backups[0][0] + 1 if backups else 0
        plain, arrays = state_tree.split_arrays({"run": self.run.state_dict(), "since": self._batches_since_save})
        safetensors_io.write(self.backup_dir / f"backup-{number:010}.safetensors", arrays, plain)
        for _, path in backups[1:]:
            path.unlink(missing_ok=True)

    def _read(self) -> State | None:
        """Return the newest backup; None if there is none."""
        backups = self._backups()
        for position, (_, path) in enumerate(backups):
            try:
                arrays, plain = safetensors_io.read(path)
                return state_tree.join_arrays(plain, arrays)
            except PadlessError as error:
                older = [os.fspath(other) for _, other in backups[position + 1 :]]
                if not older:
                    raise DataError(
                        f"{error} There is no backup before it. Delete it, and training starts from the beginning."
                    ) from error
                if not self.double_checkpoint:
                    raise DataError(
                        f"{error} The backup before it, {older[0]!r}, is not damaged. Delete the damaged file, or give "
                        f"double_checkpoint=True, and training continues from there."
                    ) from error
                message = f"{error} Training continues from the backup before it, {older[0]!r}."
                warnings.warn(message, stacklevel=2)
        return None
