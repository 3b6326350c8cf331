"""Callbacks that write the results of epochs: to CSV files and for TensorBoard."""

from __future__ import annotations

import csv
import os
import warnings
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from padless._utils.optional_import import import_optional
from padless.callbacks.callback import Callback, Logs
from padless.callbacks.monitor import check_count
from padless.errors import ArgumentError
from padless.optimizers.base import Optimizer
from padless.registry import register
from padless.saving import state_checks as checks
from padless.saving.targets import not_written, resolve_target

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


@register("callback")
class CSVLogger(Callback):
    """Write a line for each epoch to a CSV file.

    The columns are the results of the first epoch, in alphabetical order; a result that is missing later is "NA". A run
    that continues from a backup continues after the line of the last epoch in the backup.

    Args:
        filename: the path of the file.
        separator: the character between two values.
        append: whether to add lines to an existing file, else it is overwritten. The names in its first line are kept.

    Raises:
        ArgumentError: for a separator that is not one character.
        NotWritten: if the file cannot be written. Earlier lines stay, and no part of a line.
    """

    state_attributes = ("keys", "_length")
    state_checks = {
        "keys": checks.optional(checks.list_of(checks.text)),
        "_length": checks.optional(checks.integer),
    }

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        if not isinstance(separator, str) or len(separator) != 1:
            raise ArgumentError(f"`separator` of CSVLogger must be one character; got {separator!r}.")
        self.filename, self.sep, self.append = os.fspath(filename), separator, append
        self.keys: list[str] | None = None
        self._length: int | None = None  # of the file in bytes, None before the first line

    def on_train_begin(self, logs: Logs = None) -> None:
        self.keys = self._length = None
        target = resolve_target(self.filename)
        try:
            with target.open("ab"):
                pass
        except OSError as error:
            raise not_written(self.filename, error, "CSVLogger cannot write there. Choose another file") from error

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs or {}
        target, lines = resolve_target(self.filename), StringIO()
        try:
            self._prepare(target)
            if self.keys is None:
                self.keys = sorted(logs)
                if not any(key.startswith("val_") for key in self.keys):  # a later epoch may have a validation
                    self.keys += [f"val_{key}" for key in self.keys]
            writer = csv.writer(lines, delimiter=self.sep)
            if not self._length:
                writer.writerow(["epoch", *self.keys])
            writer.writerow([epoch, *(logs.get(key, "NA") for key in self.keys)])
            self._append(target, lines.getvalue().encode(errors="backslashreplace"))
        except OSError as error:
            advice = "CSVLogger has kept the lines of earlier epochs. Free some space, or choose another file"
            raise not_written(self.filename, error, advice) from error

    def _prepare(self, target: Path) -> None:
        """Find the end of the last complete line, and make a file again that was deleted in the run."""
        if not target.parent.is_dir():
            warnings.warn(f"The folder of {self.filename!r} was deleted during training. It is made again.", stacklevel=2)
            target.parent.mkdir(parents=True, exist_ok=True)
        size = target.stat().st_size if target.exists() else 0
        if self._length is None:
            self._length = self._complete_lines(target) if self.append and size else 0
        elif size < self._length:
            message = (
                f"{self.filename!r} was deleted or shortened during training. CSVLogger goes on with a new line of names; "
                f"the lines of earlier epochs are lost."
            )
            warnings.warn(message, stacklevel=2)
            self._length = 0

    def _complete_lines(self, target: Path) -> int:
        """Return the number of bytes of a file without a line that an interruption has cut off; `keys` are its names."""
        content = target.read_bytes()
        end = content.rfind(b"\n") + 1
        while end and content.count(b'"', 0, end) % 2:  # this line break is a part of a name
            end = content.rfind(b"\n", 0, end - 1) + 1
        rows = csv.reader(StringIO(content[:end].decode(errors="backslashreplace"), newline=""), delimiter=self.sep)
        names = next(rows, [])
        if names[:1] == ["epoch"]:
            self.keys = names[1:]
        if end < len(content):
            message = f"The last line of {self.filename!r} is incomplete: {content[end:]!r:.300}. CSVLogger removes it."
            warnings.warn(message, stacklevel=2)
        return end

    def _append(self, target: Path, content: bytes) -> None:
        """Write lines after the present ones: all of them, or none if there is an error."""
        length = self._length or 0
        with target.open("r+b" if target.exists() else "w+b", buffering=0) as file:
            file.truncate(length)
            file.seek(length)
            try:
                while content:
                    content = content[file.write(content) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(length)  # a part of a line
                raise
            self._length = file.tell()


@register("callback")
class TensorBoard(Callback):
    """Write results for TensorBoard, with Keras's tags: `epoch_loss` etc. in the runs `train` and `validation`.

    Needs the package `tensorboard`.

    Args:
        log_dir: the folder.
        histogram_freq: after how many epochs histograms of the weights are written; 0 for none.
        write_graph: accepted because Keras has it; no graph is written.
        write_images: must be False.
        write_steps_per_second: whether to write the number of steps in a second.
        update_freq: "epoch", "batch", or after how many batches `batch_loss` etc. are written.
        profile_batch: must be 0.
        embeddings_freq: must be 0.
        embeddings_metadata: must be None.

    Raises:
        ArgumentError: for wrong arguments, and for images, embeddings and profiles.
        ImportError: when training begins, if `tensorboard` is not installed.
    """

    state_attributes = ("_steps", "_steps_before")
    state_checks = {"_steps": checks.integer, "_steps_before": checks.integer}

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: int | Literal["batch", "epoch"] = "epoch",
        profile_batch: int = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: object = None,
    ) -> None:
        for argument, value in (
            ("write_images", write_images),
            ("profile_batch", profile_batch),
            ("embeddings_freq", embeddings_freq),
            ("embeddings_metadata", embeddings_metadata),
        ):
            if value:
                raise ArgumentError(
                    f"TensorBoard writes scalars and histograms only; got {argument}={value!r}. Leave it out; "
                    f"torch.profiler makes profiles."
                )
        self.log_dir = Path(log_dir)
        self.histogram_freq = check_count(self, "histogram_freq", histogram_freq or 0)
        self.write_steps_per_second, self.update_freq = write_steps_per_second, update_freq
        if update_freq not in ("batch", "epoch"):
            check_count(self, "update_freq", update_freq, minimum=1)
        self._writers: dict[str, SummaryWriter] = {}
        self._steps = self._steps_before = 0  # training steps so far, and when the epoch began
        self._start_time = 0.0  # of the epoch

    def uses_hook(self, hook: str) -> bool:
        return super().uses_hook(hook) and (hook != "on_train_batch_end" or self.update_freq != "epoch")

    def on_train_begin(self, logs: Logs = None) -> None:
        self._steps = self._steps_before = 0
        self._writer("train")

    def on_train_end(self, logs: Logs = None) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._start_time, self._steps_before = perf_counter(), self._count_steps()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs or {}
        for name, value in logs.items():
            run = "validation" if name.startswith("val_") else "train"
            self._writer(run).add_scalar(f"epoch_{name.removeprefix('val_')}", value, epoch)
        optimizer = self.model.optimizer
        if isinstance(optimizer, Optimizer) and "learning_rate" not in logs:
            self._writer("train").add_scalar("epoch_learning_rate", optimizer.learning_rate, epoch)
        if self.write_steps_per_second:
            seconds = max(perf_counter() - self._start_time, 1e-9)
            speed = (self._count_steps() - self._steps_before) / seconds
            self._writer("train").add_scalar("epoch_steps_per_second", speed, epoch)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            for name, weight in self.model.named_parameters():
                self._writer("train").add_histogram(f"{name}/histogram", weight.detach().float().cpu(), epoch)
        for writer in self._writers.values():
            writer.flush()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self.update_freq == "epoch":
            return
        self._steps += 1
        interval = 1 if isinstance(self.update_freq, str) else self.update_freq
        if self._steps % interval == 0:
            for name, value in (logs or {}).items():
                self._writer("train").add_scalar(f"batch_{name}", value, self._steps - 1)

    def _count_steps(self) -> int:
        """Return the number of steps of the optimizer so far; with an optimizer of torch, of this callback."""
        optimizer = self.model.optimizer
        return optimizer.iterations if isinstance(optimizer, Optimizer) else self._steps

    def _writer(self, run: str) -> SummaryWriter:
        """Return the writer of a run, which is created when it is first used."""
        if run not in self._writers:
            import_optional("tensorboard", "TensorBoard")
            module = import_optional("torch.utils.tensorboard", "TensorBoard")
            self._writers[run] = module.SummaryWriter(str(self.log_dir / run))
        return self._writers[run]
