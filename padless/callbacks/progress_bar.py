"""Show the progress of `fit`, `evaluate` and `predict` on the terminal.

`verbose=1` is a progress bar, 2 a line for each epoch, 0 nothing, "auto" is 1. Without a terminal 1 prints lines, since
a bar would fill a log file.
"""

from __future__ import annotations

from time import perf_counter

from rich import get_console
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.errors import LiveError
from rich.live import Live
from rich.progress_bar import ProgressBar as RichBar
from rich.table import Table
from rich.text import Text

from padless.callbacks.callback import Callback, Logs, Params
from padless.callbacks.history import format_number
from padless.errors import ArgumentError
from padless.registry import register

REFRESH_INTERVAL = 0.1  # seconds
BAR_WIDTH = 20  # characters


def as_verbose(verbose: object) -> int:
    """Return 0, 1 or 2 for a value of `verbose`; "auto" is 1. Raises `ArgumentError` for other values.

    >>> as_verbose("auto")
    1
    """
    if verbose == "auto":
        return 1
    if not isinstance(verbose, int) or verbose not in (0, 1, 2):
        raise ArgumentError(f"verbose must be 0 (silent), 1 (a bar), 2 (a line per epoch) or 'auto'; got {verbose!r}.")
    return int(verbose)


@register("callback")
class ProgressBar(Callback):
    """Show the epoch, the steps, the remaining time, the loss and the metrics.

    It reads `verbose`, `epochs`, `steps` and `real_steps` (the real steps so far) from `params`. If `steps` is None, the
    first epoch shows the number of steps. Logs are read only when the bar is drawn.

    Args:
        verbose: as in `fit`; by default the value in `params`.
        console: the console of rich, by default that of the terminal.
    """

    raw_logs = True

    def __init__(self, verbose: int | str | None = None, console: Console | None = None) -> None:
        self._verbose_argument = None if verbose is None else as_verbose(verbose)
        self.verbose = 1 if self._verbose_argument is None else self._verbose_argument
        self.console = get_console() if console is None else console
        self.target: int | None = None  # number of steps
        self._epochs, self._title = 1, ""
        self._in_fit = False
        self._live: Live | None = None
        self._logs: Logs = None
        self._steps, self._real_steps_at_start = 0, 0
        self._start_time = self._draw_time = 0.0

    def set_params(self, params: Params) -> None:
        self.params = params
        self.verbose = as_verbose(params.get("verbose", 1)) if self._verbose_argument is None else self._verbose_argument
        self._epochs, self.target = params.get("epochs") or 1, params.get("steps")

    def on_train_begin(self, logs: Logs = None) -> None:
        self._in_fit = True

    def on_train_end(self, logs: Logs = None) -> None:
        self.close()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._begin(f"Epoch {epoch + 1}/{self._epochs}")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._finish(logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._update(batch, logs)

    def on_test_begin(self, logs: Logs = None) -> None:
        if not self._in_fit:  # the validation of an epoch has no bar
            self._begin("Evaluate")

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        if not self._in_fit:
            self._update(batch, logs)

    def on_test_end(self, logs: Logs = None) -> None:
        if not self._in_fit:
            self._finish(logs if logs else self._logs)

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._begin("Predict")

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._update(batch, None)  # the logs are the outputs

    def on_predict_end(self, logs: Logs = None) -> None:
        self._finish(None)

    def print_line(self, line: str) -> None:
        """Print a line below the bar, unless the bar is silent."""
        if self.verbose:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop the bar and release the terminal, also if there is no bar."""
        self._in_fit = False
        self._stop()

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _begin(self, title: str) -> None:
        """Start a new bar."""
        self._stop()
        self._title, self._steps, self._logs = title, 0, None
        self._start_time = self._draw_time = perf_counter()
        self._real_steps_at_start = (self.params or {}).get("real_steps", 0)
        if self.verbose == 1 and self.console.is_terminal and not self.console.is_dumb_terminal:
            live = Live(self._render(), console=self.console, auto_refresh=False)
            try:
                live.start()
            except LiveError:  # the terminal has another bar; print a line at the end instead
                return
            self._live = live

    def _update(self, batch: int, logs: Logs) -> None:
        """Count a step, and draw the bar if it was drawn long enough ago."""
        self._steps, self._logs = batch + 1, logs
        if self._live is not None and perf_counter() - self._draw_time >= REFRESH_INTERVAL:
            self._live.update(self._render(), refresh=True)
            self._draw_time = perf_counter()

    def _finish(self, logs: Logs) -> None:
        """Draw the final bar, or print the line."""
        self._logs = logs
        if self.target is None:
            self.target = self._steps
        if self._live is not None:
            self._live.update(self._render(finished=True), refresh=True)
            self._stop()
        elif self.verbose:
            parts = [self._title, self._step_count(), self._times(finished=True), *_format_logs(self._logs, ": ")]
            self.print_line(" - ".join(parts))
            self.console.file.flush()

    def _render(self, finished: bool = False) -> RenderableType:
        """Return the bar with loss and metrics after it, or below it if the terminal is too narrow."""
        title, count, times = self._title, self._step_count(), self._times(finished)
        cells: list[RenderableType] = [Text(title), Text(count, style="bold"), Text(times, style="cyan")]
        free_width = self.console.width - sum(len(text) + 1 for text in (title, count, times))
        if self.target:
            completed = min(self._steps, self.target)
            bar = RichBar(self.target, completed, width=BAR_WIDTH, complete_style="green", finished_style="green")
            cells.insert(1, bar)
            free_width -= BAR_WIDTH + 1
        results = _format_logs(self._logs, " ")
        table = Table.grid(padding=(0, 1))
        if len("  ".join(results)) <= free_width:
            table.add_row(*cells, Text("  ".join(results)))
            return table
        table.add_row(*cells)
        return Group(table, Columns([Text(item, no_wrap=True) for item in results], padding=(0, 2)))

    def _step_count(self) -> str:
        return f"{self._steps}/{self.target}" if self.target else str(self._steps)

    def _times(self, finished: bool) -> str:
        """Return the remaining time, or the total time at the end, the time of a step, and real steps per second."""
        elapsed = perf_counter() - self._start_time
        step_time = elapsed / self._steps if self._steps else 0.0
        if self.target and self._steps and not finished:
            total = f"{_format_duration(step_time * (self.target - self._steps))} left"
        else:
            total = _format_duration(elapsed)
        parts = [total, f"{_format_step_time(step_time)}/step"]
        real_steps = (self.params or {}).get("real_steps", 0) - self._real_steps_at_start
        if real_steps and elapsed:
            parts.append(f"{_format_count(real_steps / elapsed)} real steps/s")
        return ", ".join(parts)


def _format_logs(logs: Logs, separator: str) -> list[str]:
    """Return the names and values of logs as text."""
    return [f"{name}{separator}{format_number(float(value))}" for name, value in (logs or {}).items()]


def _format_duration(duration: float) -> str:
    """Return seconds as h:mm:ss, m:ss or s."""
    minutes, seconds = divmod(round(duration), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}" if minutes else f"{seconds}s"


def _format_step_time(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.0f}s"
    return f"{seconds * 1e3:.0f}ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us"


def _format_count(count: float) -> str:
    if count >= 1e6:
        return f"{count / 1e6:.1f}M"
    return f"{count / 1e3:.1f}k" if count >= 1e3 else f"{count:.0f}"
