"""Draw the ratios as bars on a logarithmic axis, as plain SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import log

from benchmarks.compare import Comparison
from benchmarks.peers import PEERS
from benchmarks.report import format_ratio

COLOURS = {"limit": "#9aa0a6", "padless": "#0b6e4f", "torch": "#e08e2b", "keras": "#b23a48"}
# Sizes in pixels: width of the names, width of a panel, space between panels, height of a bar, height of a heading.
NAMES, PANEL, GAP, BAR, HEAD = 170, 330, 40, 15, 30
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
PANEL_TITLES = {"train": "train, multiples of the limit", "predict": "predict, multiples of the limit"}


def draw_svg(comparisons: Sequence[Comparison]) -> str:
    """Return a picture with a group of bars for each workload: training on the left, prediction on the right."""
    comparisons = [comparison for comparison in comparisons if comparison.base == "limit"]
    ratios = [one.ratio(name, action) for one in comparisons for name in one.peers for action in PANEL_TITLES]
    highest = max(ratios, default=1.0)
    last_tick = next((tick for tick in TICKS[1:] if tick >= 1.25 * highest), TICKS[-1])
    height = HEAD + 24 + sum(HEAD + BAR * len(comparison.peers) for comparison in comparisons)
    width = NAMES + 2 * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="11">',
        "<title>Cost in multiples of the limit</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, action in enumerate(PANEL_TITLES):
        parts += _draw_panel(comparisons, action, NAMES + number * (PANEL + GAP), last_tick, height)
    parts += _draw_names(comparisons)
    if any(comparison.has_different_loss(name) for comparison in comparisons for name in comparison.peers):
        parts.append(_draw_text(8, height - 7, "* computes something else", fill="#555"))
    return "\n".join([*parts, "</svg>\n"])


def _draw_text(x: float, y: float, text: str, **attributes: str) -> str:
    pairs = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{pairs}>{escape(text)}</text>'


def _list_rows(comparisons: Sequence[Comparison]) -> Iterator[tuple[Comparison, str | None, float]]:
    """Yield workload, peer and y coordinate of each heading (where the peer is None) and each bar."""
    y = float(HEAD)
    for comparison in comparisons:
        yield comparison, None, y
        y += HEAD - 8
        for name in comparison.peers:
            yield comparison, name, y
            y += BAR
        y += 8


def _draw_names(comparisons: Sequence[Comparison]) -> Iterator[str]:
    for comparison, name, y in _list_rows(comparisons):
        if name is None:
            title = f"{comparison.workload.title}, density {comparison.density:.1f}"
            yield _draw_text(8, y + 15, title, font_weight="bold", font_size="12")
        else:
            title = PEERS[name].title + (" *" if comparison.has_different_loss(name) else "")
            weight = {"font_weight": "bold"} if name == "padless" else {}
            yield _draw_text(NAMES - 8, y + BAR - 4, title, text_anchor="end", **weight)


def _draw_panel(
    comparisons: Sequence[Comparison], action: str, left: float, last_tick: float, height: float
) -> Iterator[str]:
    def x_of(ratio: float) -> float:
        """Return the x coordinate of a ratio; the left edge is 0.5, so that the limit itself has a bar."""
        return left + PANEL * min(1.0, max(0.0, log(2 * ratio) / log(2 * last_tick)))

    yield _draw_text(left, 18, PANEL_TITLES[action], font_weight="bold", font_size="12")
    for tick in (tick for tick in TICKS if tick <= last_tick):
        x, stroke, dashes = x_of(tick), "#555" if tick == 1 else "#ddd", "3 2" if tick == 1 else "none"
        yield (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD}" y2="{height - 20}" stroke="{stroke}" stroke-dasharray="{dashes}"/>'
        )
        yield _draw_text(x, height - 7, f"{tick}x", text_anchor="middle", fill="#555")
    for comparison, name, y in _list_rows(comparisons):
        if name is None:
            continue
        end = x_of(comparison.ratio(name, action))
        unit = comparison.times(comparison.base, action).median
        low, high = (x_of(quartile / unit) for quartile in comparison.times(name, action).quartiles)
        colour, middle = COLOURS[name.split("-")[0]], y + (BAR - 2) / 2
        yield f'<rect x="{left:.1f}" y="{y:.1f}" width="{end - left:.1f}" height="{BAR - 3}" fill="{colour}"/>'
        yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}" stroke="black"/>'
        yield _draw_text(max(end, high) + 4, y + BAR - 4, format_ratio(comparison.ratio(name, action)), fill="#222")
