"""The ratios as a picture: bars on a logarithmic axis, written as plain SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import log

from benchmarks.compare import Comparison
from benchmarks.peers import PEERS
from benchmarks.report import factor

COLOURS = {"limit": "#9aa0a6", "padless": "#0b6e4f", "torch": "#e08e2b", "keras": "#b23a48"}
NAMES, PANEL, GAP, BAR, HEAD = 170, 330, 40, 15, 30  # pixels: names, one panel, between panels, a bar, a heading
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
VERBS = {"train": "train, times the limit", "predict": "predict, times the limit"}


def svg(all_found: Sequence[Comparison]) -> str:
    """A page: a group of bars for each workload, training on the left and prediction on the right."""
    all_found = [found for found in all_found if found.base == "limit"]
    highest = max((found.ratio(name, what) for found in all_found for name in found.peers for what in VERBS), default=1.0)
    top = next((tick for tick in TICKS[1:] if tick >= 1.25 * highest), TICKS[-1])
    height = HEAD + 24 + sum(HEAD + BAR * len(found.peers) for found in all_found)
    width = NAMES + 2 * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="11">',
        "<title>Cost, as multiples of the limit</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (what, title) in enumerate(VERBS.items()):
        parts += _panel(all_found, what, title, NAMES + number * (PANEL + GAP), top, height)
    parts += _names(all_found)
    if any(found.odd(name) for found in all_found for name in found.peers):
        parts.append(_text(8, height - 7, "* computes something else", fill="#555"))
    return "\n".join([*parts, "</svg>\n"])


def _text(x: float, y: float, text: str, **attributes: str) -> str:
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def _rows(all_found: Sequence[Comparison]) -> Iterator[tuple[Comparison, str | None, float]]:
    """Where each heading (no name) and each bar stands."""
    y = float(HEAD)
    for found in all_found:
        yield found, None, y
        y += HEAD - 8
        for name in found.peers:
            yield found, name, y
            y += BAR
        y += 8


def _names(all_found: Sequence[Comparison]) -> Iterator[str]:
    for found, name, y in _rows(all_found):
        if name is None:
            yield _text(8, y + 15, f"{found.workload.title}, fill {found.fill:.1f}", font_weight="bold", font_size="12")
        else:
            star = " *" if found.odd(name) else ""
            yield _text(
                NAMES - 8,
                y + BAR - 4,
                PEERS[name].title + star,
                text_anchor="end",
                **({"font_weight": "bold"} if name == "padless" else {}),
            )


def _panel(all_found: Sequence[Comparison], what: str, title: str, left: float, top: float, height: float) -> Iterator[str]:
    def place(ratio: float) -> float:
        """Half of the limit is the left edge, so that the limit itself has a bar."""
        return left + PANEL * min(1.0, max(0.0, log(2 * ratio) / log(2 * top)))

    yield _text(left, 18, title, font_weight="bold", font_size="12")
    for tick in (tick for tick in TICKS if tick <= top):
        x, strong = place(tick), tick == 1
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD}" y2="{height - 20}" '
            f'stroke="{"#555" if strong else "#ddd"}" stroke-dasharray="{"3 2" if strong else "none"}"/>'
        )
        yield _text(x, height - 7, f"{tick}x", text_anchor="middle", fill="#555")
    for found, name, y in _rows(all_found):
        if name is None:
            continue
        end = place(found.ratio(name, what))
        unit = found.times(found.base, what).median
        low, high = (place(quartile / unit) for quartile in found.times(name, what).quartiles)
        colour, middle = COLOURS[name.split("-")[0]], y + (BAR - 2) / 2
        yield f'<rect x="{left:.1f}" y="{y:.1f}" width="{end - left:.1f}" height="{BAR - 3}" fill="{colour}"/>'
        yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" stroke="black"/>'
        yield _text(max(end, high) + 4, y + BAR - 4, factor(found.ratio(name, what)), fill="#222")
