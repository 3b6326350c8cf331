"""Progress on the terminal, for `fit`, `evaluate` and `predict`.

`verbose=1` is a bar that moves, `2` one line per epoch, `0` nothing; "auto" is 1. Where there is no terminal a bar
would be noise in a file, and 1 prints the line instead.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from rich import get_console
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.errors import LiveError
from rich.live import Live
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from padless.callbacks import Callback, Logs
from padless.errors import ArgumentError
from padless.registry import register

interval = 0.1  # seconds between two refreshes


def as_verbose(verbose: Any) -> int:
    """0, 1 or 2; "auto" is 1. Anything else is an `ArgumentError`.

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
    """Shows how far a run is: epoch, steps, time left, loss and metrics.

    Reads from `params`: `verbose` (unless given here), `epochs`, `steps` (None where nobody knows, until an epoch has
    ended), and `real_steps`, a running count kept by the loop, of which the bar shows how many there are a second. Logs
    are read only when the bar is drawn, at most ten times a second. `close` gives the terminal back, whatever happened.
    """

    raw_logs = True

    def __init__(self, verbose: int | str | None = None, console: Console | None = None) -> None:
        self._fixed = None if verbose is None else as_verbose(verbose)
        self.verbose = 1 if self._fixed is None else self._fixed
        self.console = get_console() if console is None else console
        self.target: int | None = None
        self._epochs, self._title = 1, ""
        self._in_fit = False
        self._live: Live | None = None
        self._logs: Logs = None
        self._seen, self._real_at_start = 0, 0
        self._began = self._drawn = 0.0

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params
        self.verbose = as_verbose(params.get("verbose", 1)) if self._fixed is None else self._fixed
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
        self._step(batch, logs)

    def on_test_begin(self, logs: Logs = None) -> None:
        if not self._in_fit:  # the validation of an epoch is part of its bar
            self._begin("Evaluate")

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        if not self._in_fit:
            self._step(batch, logs)

    def on_test_end(self, logs: Logs = None) -> None:
        if not self._in_fit:
            self._finish(logs if logs else self._logs)

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._begin("Predict")

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._step(batch, None)  # these logs are the outputs themselves

    def on_predict_end(self, logs: Logs = None) -> None:
        self._finish(None)

    def say(self, line: str) -> None:
        """A line below the bar, unless it is silent."""
        if self.verbose:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop the bar where it is and give the terminal back; harmless when there is none."""
        self._in_fit = False
        self._stop()

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _begin(self, title: str) -> None:
        self._stop()
        self._title, self._seen, self._logs = title, 0, None
        self._began = self._drawn = perf_counter()
        self._real_at_start = (self.params or {}).get("real_steps", 0)
        if self.verbose == 1 and self.console.is_terminal and not self.console.is_dumb_terminal:
            live = Live(self._line(), console=self.console, auto_refresh=False)
            try:
                live.start()
            except LiveError:  # another bar is on this terminal: print a line at the end instead
                return
            self._live = live

    def _step(self, batch: int, logs: Logs) -> None:
        self._seen, self._logs = batch + 1, logs
        if self._live is not None and perf_counter() - self._drawn >= interval:
            self._live.update(self._line(), refresh=True)
            self._drawn = perf_counter()

    def _finish(self, logs: Logs) -> None:
        self._logs = logs
        if self.target is None:
            self.target = self._seen
        if self._live is not None:
            self._live.update(self._line(done=True), refresh=True)
            self._stop()
        elif self.verbose:
            parts = [self._title, self._count(), self._time(done=True), *_shown(self._logs, ": ")]
            self.console.print(" - ".join(parts), markup=False, highlight=False, soft_wrap=True)
            self.console.file.flush()

    def _line(self, done: bool = False) -> RenderableType:
        """The bar as it stands now; loss and metrics follow, or stand below where the line has no room for them."""
        line, words = Table.grid(padding=(0, 1)), [self._title, self._count(), self._time(done)]
        cells: list[RenderableType] = [Text(words[0]), Text(words[1], style="bold"), Text(words[2], style="cyan")]
        room = self.console.width - sum(map(len, words)) - len(words)
        if self.target:
            seen = min(self._seen, self.target)
            cells.insert(1, Bar(self.target, seen, width=20, complete_style="green", finished_style="green"))
            room -= 21
        results = _shown(self._logs, " ")
        fits = len("  ".join(results)) <= room
        line.add_row(*cells, *[Text("  ".join(results))] * fits)
        return line if fits else Group(line, Columns([Text(item, no_wrap=True) for item in results], padding=(0, 2)))

    def _count(self) -> str:
        return f"{self._seen}/{self.target}" if self.target else str(self._seen)

    def _time(self, done: bool) -> str:
        """The time left, or the time taken when done, with the time of one step and the real steps a second."""
        spent = perf_counter() - self._began
        each = spent / self._seen if self._seen else 0.0
        left = each * (self.target - self._seen) if self.target and self._seen and not done else None
        words = [_duration(spent) if done or left is None else f"{_duration(left)} left", f"{_short(each)}/step"]
        real = (self.params or {}).get("real_steps", 0) - self._real_at_start
        if real and spent:
            words.append(f"{_thousands(real / spent)} real steps/s")
        return ", ".join(words)


def _shown(logs: Logs, between: str) -> list[str]:
    """Names and numbers as they are printed."""
    return [f"{name}{between}{_figure(float(value))}" for name, value in (logs or {}).items()]


def _figure(value: float) -> str:
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 or value != value else f"{value:.4e}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}" if minutes else f"{rest}s"


def _short(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.0f}s"
    return f"{seconds * 1e3:.0f}ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us"


def _thousands(count: float) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.1f}k" if count >= 1e3 else f"{count:.0f}"
