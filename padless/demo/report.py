"""What the demo shows: a table of scores, and source coloured by class with the mistakes marked."""

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
    """How well characters were told apart, from the confusion matrix: `confusion[truth, answer]` counts characters."""

    confusion: NDArray[np.int64]

    @staticmethod
    def of(truth: Labels, answers: Labels) -> Scores:
        """The scores of answers, character for character."""
        n = len(CLASSES)
        return Scores(np.bincount(truth * n + answers, minlength=n * n).reshape(n, n))

    @property
    def accuracy(self) -> float:
        """The share of characters that are right."""
        return _ratio(np.trace(self.confusion), self.confusion.sum())

    @property
    def without_whitespace(self) -> float:
        """The same over the characters that are not whitespace (the first class) in truth."""
        return _ratio(np.trace(self.confusion) - self.confusion[0, 0], self.confusion[1:].sum())

    @property
    def f1(self) -> list[float]:
        """For each class 2 right / (true + answered); 0 where the class neither is nor is answered."""
        right = np.diag(self.confusion)
        return [_ratio(2 * r, n) for r, n in zip(right, self.confusion.sum(0) + self.confusion.sum(1), strict=True)]

    @property
    def macro_f1(self) -> float:
        """The mean of `f1` over the classes that occur, in truth or in answers."""
        occurs = self.confusion.sum(0) + self.confusion.sum(1) > 0
        return _ratio(sum(self.f1), occurs.sum())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


class Majority:
    """The baseline: each character always has the class that it most often has in training."""

    def __init__(self, examples: Iterable[tuple[str, Labels]]) -> None:
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for text, labels in examples:
            for pair, count in Counter(zip(text, labels.tolist(), strict=True)).items():
                counts[pair[0]][pair[1]] += count
        total = sum(counts.values(), Counter[int]())
        self.default = total.most_common(1)[0][0]
        self.best = {character: count.most_common(1)[0][0] for character, count in counts.items()}

    def classify(self, text: str) -> Labels:
        """The classes of the characters of a text; the commonest class for a character never seen."""
        return np.array([self.best.get(c, self.default) for c in text], dtype=np.int64)


def table(title: str, scores: dict[str, Scores]) -> Table:
    """Scores side by side: one column each, and F1 class by class."""
    shown = Table(title=title, title_justify="left", title_style="bold")
    shown.add_column("")
    for name in scores:
        shown.add_column(name, justify="right")
    shown.add_row("accuracy", *(_percent(s.accuracy) for s in scores.values()))
    shown.add_row("accuracy without whitespace", *(_percent(s.without_whitespace) for s in scores.values()))
    shown.add_row("macro-F1", *(_percent(s.macro_f1) for s in scores.values()), end_section=True)
    for i, name in enumerate(CLASSES):
        shown.add_row(Text(f"F1 of {name}", STYLES[name]), *(_percent(s.f1[i]) for s in scores.values()))
    return shown


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def legend() -> Text:
    """The classes, each in its own colour, and what a mistake looks like."""
    words = [(name, STYLES[name]) for name in CLASSES if name != "whitespace"]
    return Text(" ").join([*(Text(*word) for word in words), Text("mistake", MISTAKE)])


def coloured(text: str, answers: Labels, truth: Labels | None = None) -> Segments:
    """The text as it is, each character in the colour of its class; where `truth` is given, mistakes are marked."""
    wrong = np.zeros(len(text), dtype=bool) if truth is None else answers != truth
    runs = groupby(range(len(text)), key=lambda i: (int(answers[i]), bool(wrong[i])))
    segments = []
    for (answer, marked), places in runs:
        inside = list(places)
        style = STYLES[CLASSES[answer]]
        segments.append(Segment(text[inside[0] : inside[-1] + 1], style + MISTAKE if marked else style))
    return Segments(segments)


def show(console: Console, text: str, answers: Labels, truth: Labels | None = None) -> None:
    """Print the coloured text: nothing is wrapped, cut or escaped, and no line end is added."""
    console.print(coloured(text, answers, truth), end="", soft_wrap=True)


def mistakes(text: str, answers: Labels, truth: Labels, most: int = 8) -> list[str]:
    r"""The mistakes in words, run by run; how many more there are beyond `most`.

    >>> mistakes("x = 1\n", np.array([2, 0, 6, 0, 2, 0]), np.array([2, 0, 6, 0, 4, 0]))
    ["line 1, column 5: '1' taken for name, is number"]
    """
    wrong = enumerate(np.flatnonzero(answers != truth).tolist())
    runs = groupby(wrong, key=lambda item: (item[1] - item[0], int(answers[item[1]]), int(truth[item[1]])))
    lines = []
    for (_, answer, right), places in runs:
        inside = [place for _, place in places]
        first = inside[0]
        line, column = text.count("\n", 0, first) + 1, first - text.rfind("\n", 0, first)
        lines.append(
            f"line {line}, column {column}: {text[first : inside[-1] + 1]!r} taken for {CLASSES[answer]}, "
            f"is {CLASSES[right]}"
        )
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"]
