"""The results of all epochs, which `fit` returns: as lists, as a table, as curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from padless._utils.optional_import import import_optional
from padless.callbacks.callback import Callback, Logs
from padless.errors import ArgumentError, unknown_name
from padless.registry import register
from padless.saving import state_checks as checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("callback")
class History(Callback):
    """The results of all epochs, which `fit` returns.

    Attributes:
        history: a list for each result by name, with an entry for each epoch.
        epoch: the numbers of the epochs.
        params: the parameters of the run.
        padding: with `batch_tokens`, the cells that padding would have added (`padless.data.batch_sampler.Padding`).

    Example:
        >>> history = History()
        >>> history.on_epoch_end(0, {"loss": 0.5, "val_loss": 0.625})
        >>> history.on_epoch_end(1, {"loss": 0.25, "val_loss": 0.5})
        >>> print(history)
        epoch    loss  val_loss
            1  0.5000    0.6250
            2  0.2500    0.5000
    """

    state_attributes = ("history", "epoch")
    state_checks = {
        "history": checks.dictionary_of(checks.list_of(checks.anything)),
        "epoch": checks.list_of(checks.integer),
    }
    padding: Any = None  # of a class in padless.data, which this package does not import

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
        """Return a line for each epoch and a column for each result; results of fewer epochs are at the last ones."""
        num_rows = max(map(len, self.history.values()), default=0)
        epochs = [str(epoch + 1) for epoch in self.epoch]
        columns = {"epoch": [""] * (num_rows - len(epochs)) + epochs}
        for name, values in self.history.items():
            columns[name] = [""] * (num_rows - len(values)) + [format_number(value) for value in values]
        widths = [max(map(len, (name, *cells))) for name, cells in columns.items()]
        rows = [list(columns), *zip(*columns.values(), strict=True)]
        return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)

    def __str__(self) -> str:
        return self.table() if self.history else "History of no epoch yet"

    def plot(self, names: str | Sequence[str] | None = None, title: str | None = None) -> Figure:
        """Draw curves over the epochs; a result and its validation are in one panel.

        Args:
            names: the results to draw, all by default.
            title: the title of the figure.

        Returns:
            A figure of matplotlib. `figure.savefig(path)` writes it, and a notebook shows it.

        Raises:
            ArgumentError: for unknown names, and if there are no epochs yet.
            ImportError: if matplotlib is not installed.
        """
        selected = [names] if isinstance(names, str) else list(self.history if names is None else names)
        for name in selected:
            if name not in self.history:
                raise ArgumentError(unknown_name("result", name, self.history))
        panels = list(dict.fromkeys(name.removeprefix("val_") for name in selected))
        if not panels:
            raise ArgumentError("There is nothing to plot: no epoch has ended. Call fit first.")
        figure = import_optional("matplotlib.figure", "history.plot").Figure(
            figsize=(4.5 * len(panels), 3.2), layout="constrained"
        )
        for number, panel in enumerate(panels, 1):
            axes = figure.add_subplot(1, len(panels), number)
            for name, style in ((panel, "-"), (f"val_{panel}", "--")):
                if name in selected:
                    values = self.history[name]
                    axes.plot([epoch + 1 for epoch in self.epoch[-len(values) :]], values, style, marker=".", label=name)
            axes.set_xlabel("epoch")
            axes.set_title(panel)
            axes.locator_params(axis="x", integer=True)
            axes.legend()
        if title is not None:
            figure.suptitle(title)
        return figure


def format_number(value: object) -> str:
    """Return a number with four decimals, or with an exponent if these are 0; return other values as text."""
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 or value != value else f"{value:.4e}"
