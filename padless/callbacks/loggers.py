"""Results written where others read them: CSV files and TensorBoard."""

from __future__ import annotations

import csv
import os
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import Any

from padless._utils.optional_import import import_optional
from padless.callbacks.callback import Callback, Logs
from padless.callbacks.monitor import whole
from padless.errors import ArgumentError, NotWritten
from padless.registry import register


@register("callback")
class CSVLogger(Callback):
    """One line for each epoch in a CSV file; `append` goes on below what the file holds.

    The columns are those of the first epoch, in alphabetical order; what is missing later is "NA". A run that goes on from
    a backup goes on below the line of the last epoch that the backup knows.
    """

    kept = ("keys", "_length")

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        if not isinstance(separator, str) or len(separator) != 1:
            raise ArgumentError(f"`separator` of CSVLogger must be one character; got {separator!r}.")
        self.filename, self.sep, self.append = os.fspath(filename), separator, append
        self.keys: list[str] | None = None
        self._length: int | None = None  # how many bytes stand, None until the first line

    def on_train_begin(self, logs: Logs = None) -> None:
        self.keys = self._length = None
        path = Path(self.filename)
        try:
            with path.open("ab"):
                pass
        except OSError as wrong:
            raise NotWritten(
                wrong.errno, f"{wrong.strerror}; CSVLogger cannot write there. Choose another file", self.filename
            ) from wrong

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs or {}
        path, lines = Path(self.filename), StringIO()
        if self._length is None:
            self._length = path.stat().st_size if self.append and path.exists() else 0
        if self.keys is None:
            self.keys = sorted(logs)
            if not any(key.startswith("val_") for key in self.keys):  # the validation of later epochs
                self.keys += [f"val_{key}" for key in self.keys]
        writer = csv.writer(lines, delimiter=self.sep)
        if not self._length:
            writer.writerow(["epoch", *self.keys])
        writer.writerow([epoch, *(logs.get(key, "NA") for key in self.keys)])
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(self._length)
            file.seek(self._length)
            file.write(lines.getvalue().encode())
            self._length = file.tell()


@register("callback")
class TensorBoard(Callback):
    """Results for TensorBoard, with Keras's tags: `epoch_loss` and the like under `train` and `validation`.

    `update_freq` "batch", or a number of batches, adds `batch_loss` and the like; `histogram_freq` writes the weights every
    so many epochs; `write_steps_per_second` their speed. Needs the package `tensorboard`. `write_graph` is taken for Keras's
    sake; images, embeddings and profiles are refused.
    """

    kept = ("_steps", "_steps_before")

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: int | str = "epoch",
        profile_batch: int = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: Any = None,
    ) -> None:
        for what, given in (
            ("write_images", write_images),
            ("profile_batch", profile_batch),
            ("embeddings_freq", embeddings_freq),
            ("embeddings_metadata", embeddings_metadata),
        ):
            if given:
                raise ArgumentError(
                    f"TensorBoard writes scalars and histograms only; got {what}={given!r}. Leave it out; "
                    f"torch.profiler makes profiles."
                )
        self.log_dir = Path(log_dir)
        self.histogram_freq = whole(self, "histogram_freq", histogram_freq or 0)
        self.write_steps_per_second, self.update_freq = write_steps_per_second, update_freq
        if update_freq not in ("batch", "epoch"):
            whole(self, "update_freq", update_freq, least=1)
        if update_freq != "epoch":
            self.on_train_batch_end = self._after_batch  # nobody else pays for logs
        self._writers: dict[str, Any] = {}
        self._steps = self._steps_before = 0
        self._began = 0.0

    def on_train_begin(self, logs: Logs = None) -> None:
        self._steps = self._steps_before = 0
        self._writer("train")

    def on_train_end(self, logs: Logs = None) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._began, self._steps_before = perf_counter(), self._step()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        logs = logs or {}
        for name, value in logs.items():
            where = "validation" if name.startswith("val_") else "train"
            self._writer(where).add_scalar(f"epoch_{name.removeprefix('val_')}", value, epoch)
        rate = getattr(self.model.optimizer, "learning_rate", None)
        if rate is not None and "learning_rate" not in logs:
            self._writer("train").add_scalar("epoch_learning_rate", float(rate), epoch)
        if self.write_steps_per_second:
            speed = (self._step() - self._steps_before) / max(perf_counter() - self._began, 1e-9)
            self._writer("train").add_scalar("epoch_steps_per_second", speed, epoch)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            for name, weight in self.model.named_parameters():
                self._writer("train").add_histogram(f"{name}/histogram", weight.detach().float().cpu(), epoch)
        for writer in self._writers.values():
            writer.flush()

    def _after_batch(self, batch: int, logs: Logs = None) -> None:
        every = 1 if self.update_freq == "batch" else int(self.update_freq)
        self._steps += 1
        if self._steps % every == 0:
            for name, value in (logs or {}).items():
                self._writer("train").add_scalar(f"batch_{name}", value, self._steps - 1)

    def _step(self) -> int:
        return int(getattr(self.model.optimizer, "iterations", self._steps))

    def _writer(self, where: str) -> Any:
        if where not in self._writers:
            import_optional("tensorboard", "TensorBoard")
            self._writers[where] = import_optional("torch.utils.tensorboard", "TensorBoard").SummaryWriter(
                str(self.log_dir / where)
            )
        return self._writers[where]
