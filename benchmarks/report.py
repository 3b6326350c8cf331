"""Tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.compare import Comparison
from benchmarks.curves import Curve, Start
from benchmarks.peers import PEERS
from benchmarks.team import Times


def milliseconds(seconds: float) -> str:
    """Three digits, or whole numbers."""
    value = 1e3 * seconds
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def factor(ratio: float) -> str:
    """How many times as long."""
    return f"{ratio:.1f}x" if ratio >= 9.95 else f"{ratio:.2f}x"


def _numbers(table: Table, *headers: str) -> Table:
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _spread(times: Times) -> str:
    return " - ".join(map(milliseconds, times.quartiles))


def _cpu(times: Times) -> str:
    return milliseconds(median(times.cpu))


def show_comparison(console: Console, found: Comparison) -> None:
    """One workload: a row for each peer."""
    w = found.workload
    table = Table(
        "peer",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title=f"{w.title}: {found.real:.0f} real of {w.batch} x {w.width} steps; milliseconds a batch",
    )
    unit = "x limit" if found.base == "limit" else f"x {found.base}"
    for what in ("train", "predict"):
        _numbers(table, what, "middle half", "CPU", unit)
    _numbers(table, "peak MB")
    for name, of in found.peers.items():
        cells = []
        for what in ("train", "predict"):
            times = found.times(name, what)
            cells += [milliseconds(times.median), _spread(times), _cpu(times), factor(found.ratio(name, what))]
        memory = "" if name == "limit" else f"{of.megabytes:.0f}"
        table.add_row(
            PEERS[name].title + (" *" if found.odd(name) else ""), *cells, memory, style="bold" if name == "padless" else ""
        )
    if found.peers:
        console.print(table)
    for name, of in found.peers.items():
        if found.odd(name):
            console.print(
                f"* {PEERS[name].title} computes something else: with the same weights its loss is {of.loss:.4f}, "
                f"that of padless {found.peers['padless'].loss:.4f}."
            )
    show_left_out(console, found.left_out)


def show_left_out(console: Console, left_out: dict[str, str]) -> None:
    """Who is not in the table, and why."""
    for name, why in left_out.items():
        console.print(f"Left out: {PEERS[name].title} ({why}).", highlight=False, markup=False)


def show_summary(console: Console, all_found: Sequence[Comparison]) -> None:
    """padless against the limit, and who comes next; in Markdown, ready for a page."""
    table = _numbers(
        Table("workload", box=box.MARKDOWN), "fill", "train", "predict", "torch's best (train)", "Keras's best (train)"
    )
    for found in all_found:
        if found.base != "limit" or "padless" not in found.peers:
            continue
        own = [factor(found.ratio("padless", what)) for what in ("train", "predict")]
        table.add_row(found.workload.title, f"{found.fill:.2f}", *own, _best(found, "torch"), _best(found, "keras"))
    if table.row_count:
        console.print("Times the limit:", highlight=False)
        console.print(table)


def _best(found: Comparison, family: str) -> str:
    """The fastest training of the peers whose names begin so."""
    names = [name for name in found.peers if name.startswith(f"{family}-")]
    if not names:
        return ""
    best = min(names, key=lambda name: found.ratio(name, "train"))
    return f"{factor(found.ratio(best, 'train'))} ({best.removeprefix(f'{family}-')})"


def show_curve(console: Console, curve: Curve) -> None:
    """A row for each size, and the line through them."""
    w = curve.workload
    table = Table(
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title=f"{w.title}: milliseconds a training step (middle half) against {curve.against}",
    )
    _numbers(table, curve.against, "real steps")
    _numbers(table, *(PEERS[name].title for name in curve.lines))
    for point in curve.points:
        cells = [f"{milliseconds(times.median)} ({_spread(times)})" for times in point.times.values()]
        table.add_row(f"{point.x:.2f}" if curve.against == "fill" else f"{point.x:.0f}", f"{point.real:.0f}", *cells)
    console.print(table)
    for name, line in curve.lines.items():
        console.print(
            f"{PEERS[name].title}: {milliseconds(line.intercept)} ms + {1e3 * line.slope:.4g} ms x "
            f"{curve.against}, R2 {line.r2:.4f}",
            highlight=False,
        )
    show_left_out(console, curve.left_out)


def show_start(console: Console, found: Start) -> None:
    """Latency, overhead, imports."""
    w = found.workload
    table = Table(
        "peer", box=box.SIMPLE_HEAD, title_justify="left", title=f"{w.title}: milliseconds for one row of {w.width} steps"
    )
    _numbers(table, "predict", "middle half", "model(x)", "middle half")
    for name, by in found.latency.items():
        table.add_row(
            PEERS[name].title,
            *(cell for what in ("predict_one", "call_one") for cell in (milliseconds(by[what].median), _spread(by[what]))),
        )
    console.print(table)
    show_left_out(console, found.left_out)
    console.print(
        f"A step of fit on a tiny model: {milliseconds(found.fit.median)} ms ({_spread(found.fit)}); in a "
        f"hand-written loop over the same layers {milliseconds(found.loop.median)} ms ({_spread(found.loop)}); "
        f"fit adds {milliseconds(found.overhead)} ms.",
        highlight=False,
    )
    table = _numbers(Table("import", box=box.SIMPLE_HEAD), "milliseconds", "middle half")
    for title, times in found.imports.items():
        table.add_row(title, milliseconds(times.median), _spread(times))
    console.print(table)
