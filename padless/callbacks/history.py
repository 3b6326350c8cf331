"""What `fit` returns: the results of all epochs, as lists, as a table, as curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from padless._utils.optional_import import import_optional
from padless.callbacks.callback import Callback, Logs
from padless.errors import ArgumentError, unknown_name
from padless.registry import register


@register("callback")
class History(Callback):
    """What `fit` returns: `history`, a dict of lists with one entry per epoch, `epoch`, and `params`.

    With `batch_tokens`, `padding` says what padding would have cost.

    >>> history = History()
    >>> history.on_epoch_end(0, {"loss": 0.5, "val_loss": 0.625}); history.on_epoch_end(1, {"loss": 0.25, "val_loss": 0.5})
    >>> print(history)
    epoch    loss  val_loss
        1  0.5000    0.6250
        2  0.2500    0.5000
    """

    kept = ("history", "epoch")
    padding: Any = None

    def __init__(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs = None) -> None:
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)
        if self.model is not None:
            self.model.history = self

    def table(self) -> str:
        """One line for each epoch, one column for each result; results of fewer epochs stand at the last ones."""
        rows = max(map(len, self.history.values()), default=0)
        epochs = [str(epoch + 1) for epoch in self.epoch]
        columns = {"epoch": [""] * (rows - len(epochs)) + epochs}
        for name, values in self.history.items():
            columns[name] = [""] * (rows - len(values)) + [figure(value) for value in values]
        widths = {name: max(map(len, (name, *cells))) for name, cells in columns.items()}
        lines = [list(columns), *zip(*columns.values(), strict=True)]
        return "\n".join(
            "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths.values(), strict=True)) for line in lines
        )

    def __str__(self) -> str:
        return self.table() if self.history else "History of no epoch yet"

    def plot(self, names: str | Sequence[str] | None = None, title: str | None = None) -> Any:
        """Curves over the epochs, as a matplotlib figure: one panel for each result, its validation in the same panel.

        `figure.savefig(path)` writes it; a notebook shows it. Raises `ArgumentError` for unknown names and before there is
        anything to show, `ImportError` where matplotlib is not installed.
        """
        chosen = [names] if isinstance(names, str) else list(self.history if names is None else names)
        for name in chosen:
            if name not in self.history:
                raise ArgumentError(unknown_name("result", name, self.history))
        panels = list(dict.fromkeys(name.removeprefix("val_") for name in chosen))
        if not panels:
            raise ArgumentError("There is nothing to plot: no epoch has ended. Call fit first.")
        figure = import_optional("matplotlib.figure", "history.plot").Figure(
            figsize=(4.5 * len(panels), 3.2), layout="constrained"
        )
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            for name, style in ((panel, "-"), (f"val_{panel}", "--")):
                if name in chosen:
                    values = self.history[name]
                    axes.plot([epoch + 1 for epoch in self.epoch[-len(values) :]], values, style, marker=".", label=name)
            axes.set_xlabel("epoch")
            axes.set_title(panel)
            axes.locator_params(axis="x", integer=True)
            axes.legend()
        if title is not None:
            figure.suptitle(title)
        return figure


def figure(value: Any) -> str:
    """A result as it is printed: four decimals, or an exponent where they would show nothing."""
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 or value != value else f"{value:.4e}"
