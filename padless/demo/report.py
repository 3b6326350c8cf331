"""The output of the demo: a table of scores, and source in colour with the mistakes marked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

from padless.demo.corpus import CLASSES, Labels

STYLES = {
    "whitespace": Style(),
    "keyword": Style(color="magenta", bold=True),
    "name": Style(color="cyan"),
    "string": Style(color="green"),
    "number": Style(color="yellow"),
    "comment": Style(color="bright_black", italic=True),
    "operator": Style(color="blue"),
}
MISTAKE = Style(reverse=True, underline=True, color="red")


@dataclass(frozen=True)
class Scores:
    """Scores of a classification of characters, from the confusion matrix.

    Attributes:
        confusion: `confusion[i, j]` is the number of characters of class `i` that were classified as `j`.
    """

    confusion: NDArray[np.int64]

    @staticmethod
    def count(truth: Labels, predictions: Labels) -> Scores:
        """Count the pairs of true and predicted class."""
        n = len(CLASSES)
        return Scores(np.bincount(truth * n + predictions, minlength=n * n).reshape(n, n))

    @property
    def accuracy(self) -> float:
        """The share of characters that are right."""
        return _divide(np.trace(self.confusion), self.confusion.sum())

    @property
    def accuracy_without_whitespace(self) -> float:
        """The share of right characters among those whose true class is not whitespace, the first class."""
        return _divide(np.trace(self.confusion) - self.confusion[0, 0], self.confusion[1:].sum())

    @property
    def f1(self) -> list[float]:
        """The F1 score of each class; 0 for a class that occurs neither in truth nor in predictions."""
        right = np.diag(self.confusion)
        counts = self.confusion.sum(0) + self.confusion.sum(1)
        return [_divide(2 * r, n) for r, n in zip(right, counts, strict=True)]

    @property
    def macro_f1(self) -> float:
        """The mean of `f1` over the classes that occur in truth or in predictions."""
        occurs = self.confusion.sum(0) + self.confusion.sum(1) > 0
        return _divide(sum(self.f1), occurs.sum())


def _divide(part: float, whole: float) -> float:
    """Return the quotient, or 0 if `whole` is 0."""
    return float(part / whole) if whole else 0.0


class MajorityBaseline:
    """A baseline that gives each character the class that it has most often in the training data.

    Args:
        examples: Texts with the classes of their characters.
    """

    def __init__(self, examples: Iterable[tuple[str, Labels]]) -> None:
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for text, labels in examples:
            for (character, label), count in Counter(zip(text, labels.tolist(), strict=True)).items():
                counts[character][label] += count
        total = sum(counts.values(), Counter[int]())
        self.default = total.most_common(1)[0][0]
        self.most_common = {character: count.most_common(1)[0][0] for character, count in counts.items()}

    def classify(self, text: str) -> Labels:
        """Return the class of each character; the most common class for a character that was not in the training data."""
        return np.array([self.most_common.get(character, self.default) for character in text], dtype=np.int64)


def make_table(title: str, scores: dict[str, Scores]) -> Table:
    """Return a table of scores with one column for each classifier and one row for the F1 of each class."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in scores:
        table.add_column(name, justify="right")
    table.add_row("accuracy", *(_format_percent(s.accuracy) for s in scores.values()))
    table.add_row("accuracy without whitespace", *(_format_percent(s.accuracy_without_whitespace) for s in scores.values()))
    table.add_row("macro-F1", *(_format_percent(s.macro_f1) for s in scores.values()), end_section=True)
    for number, name in enumerate(CLASSES):
        table.add_row(Text(f"F1 of {name}", STYLES[name]), *(_format_percent(s.f1[number]) for s in scores.values()))
    return table


def _format_percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def make_legend() -> Text:
    """Return the names of the classes in their colours, and a marked mistake."""
    names = [Text(name, STYLES[name]) for name in CLASSES if name != "whitespace"]
    return Text(" ").join([*names, Text("mistake", MISTAKE)])


def colour_text(text: str, predictions: Labels, truth: Labels | None = None) -> Segments:
    """Return the text, each character in the colour of its predicted class; with `truth`, mistakes are marked."""
    is_wrong = np.zeros(len(text), dtype=bool) if truth is None else predictions != truth
    runs = groupby(range(len(text)), key=lambda i: (int(predictions[i]), bool(is_wrong[i])))
    segments = []
    for (prediction, is_mistake), run in runs:
        positions = list(run)
        style = STYLES[CLASSES[prediction]]
        segments.append(Segment(text[positions[0] : positions[-1] + 1], style + MISTAKE if is_mistake else style))
    return Segments(segments)


def print_source(console: Console, text: str, predictions: Labels, truth: Labels | None = None) -> None:
    """Print the coloured text without wrapping, cutting, escaping, or adding a line end."""
    console.print(colour_text(text, predictions, truth), end="", soft_wrap=True)


def describe_mistakes(text: str, predictions: Labels, truth: Labels, max_lines: int = 8) -> list[str]:
    r"""Return one line for each run of wrong characters, and the number of further runs.

    Example:
        >>> describe_mistakes("x = 1\n", np.array([2, 0, 6, 0, 2, 0]), np.array([2, 0, 6, 0, 4, 0]))
        ["line 1, column 5: '1' classified as name, is number"]
    """
    wrong = enumerate(np.flatnonzero(predictions != truth).tolist())
    # Within a run, the position minus the count of wrong characters before it is constant.
    runs = groupby(wrong, key=lambda item: (item[1] - item[0], int(predictions[item[1]]), int(truth[item[1]])))
    lines = []
    for (_, prediction, right), run in runs:
        positions = [position for _, position in run]
        first = positions[0]
        line, column = text.count("\n", 0, first) + 1, first - text.rfind("\n", 0, first)
        lines.append(
            f"line {line}, column {column}: {text[first : positions[-1] + 1]!r} classified as {CLASSES[prediction]}, "
            f"is {CLASSES[right]}"
        )
    return lines if len(lines) <= max_lines else [*lines[:max_lines], f"and {len(lines) - max_lines} more"]
