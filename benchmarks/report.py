"""Print the results as tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.compare import Comparison
from benchmarks.curves import Curve, FixedCosts
from benchmarks.peer_pool import Times
from benchmarks.peers import EPOCH_ACTIONS, PEERS, ROW_ACTIONS


def format_milliseconds(seconds: float) -> str:
    """Return milliseconds with three digits, or whole ones from 100 on."""
    value = 1e3 * seconds
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def format_ratio(ratio: float) -> str:
    """Return a ratio with three digits, or one decimal from 10 on."""
    return f"{ratio:.1f}x" if ratio >= 9.95 else f"{ratio:.2f}x"


def _add_number_columns(table: Table, *headers: str) -> Table:
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _format_quartiles(times: Times) -> str:
    return " - ".join(map(format_milliseconds, times.quartiles))


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print one workload, with a row for each peer."""
    w = comparison.workload
    table = Table(
        "peer",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title=f"{w.title}: {comparison.real_steps:.0f} real of {w.batch} x {w.width} steps; milliseconds for a batch",
    )
    ratio_header = "x limit" if comparison.base == "limit" else f"x {comparison.base}"
    for action in EPOCH_ACTIONS:
        _add_number_columns(table, action, "quartiles", "CPU time", ratio_header)
    _add_number_columns(table, "peak MB")
    for name, result in comparison.peers.items():
        cells = []
        for action in EPOCH_ACTIONS:
            times = comparison.times(name, action)
            cpu = format_milliseconds(median(times.cpu))
            ratio = format_ratio(comparison.ratio(name, action))
            cells += [format_milliseconds(times.median), _format_quartiles(times), cpu, ratio]
        title = PEERS[name].title + (" *" if comparison.has_different_loss(name) else "")
        memory = "" if name == "limit" else f"{result.megabytes:.0f}"
        table.add_row(title, *cells, memory, style="bold" if name == "padless" else "")
    if comparison.peers:
        console.print(table)
    for name, result in comparison.peers.items():
        if comparison.has_different_loss(name):
            console.print(
                f"* {PEERS[name].title} computes something else: with the same weights its loss is {result.loss:.4f}, "
                f"that of padless {comparison.peers['padless'].loss:.4f}."
            )
    _print_excluded(console, comparison.excluded)


def _print_excluded(console: Console, excluded: dict[str, str]) -> None:
    """Print the peers without a result, and the reasons."""
    for name, reason in excluded.items():
        console.print(f"Left out: {PEERS[name].title} ({reason}).", highlight=False, markup=False)


def print_summary(console: Console, comparisons: Sequence[Comparison]) -> None:
    """Print padless against the limit and the best other peers, as a table in Markdown."""
    table = _add_number_columns(
        Table("workload", box=box.MARKDOWN), "density", "train", "predict", "best of torch (train)", "best of Keras (train)"
    )
    for comparison in comparisons:
        if comparison.base != "limit" or "padless" not in comparison.peers:
            continue
        ratios = [format_ratio(comparison.ratio("padless", action)) for action in EPOCH_ACTIONS]
        best = [_format_best(comparison, family) for family in ("torch", "keras")]
        table.add_row(comparison.workload.title, f"{comparison.density:.2f}", *ratios, *best)
    if table.row_count:
        console.print("Multiples of the limit:", highlight=False)
        console.print(table)


def _format_best(comparison: Comparison, family: str) -> str:
    """Return the ratio and the name of the fastest training among the peers of a family."""
    names = [name for name in comparison.peers if name.startswith(f"{family}-")]
    if not names:
        return ""
    best = min(names, key=lambda name: comparison.ratio(name, "train"))
    return f"{format_ratio(comparison.ratio(best, 'train'))} ({best.removeprefix(f'{family}-')})"


def print_curve(console: Console, curve: Curve) -> None:
    """Print a row for each size, and the line through them for each peer."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title=f"{curve.workload.title}: milliseconds for a training step (quartiles) against {curve.axis}",
    )
    _add_number_columns(table, curve.axis, "real steps", *(PEERS[name].title for name in curve.lines))
    for point in curve.points:
        cells = [f"{format_milliseconds(times.median)} ({_format_quartiles(times)})" for times in point.times.values()]
        x = f"{point.x:.2f}" if curve.axis == "density" else f"{point.x:.0f}"
        table.add_row(x, f"{point.real_steps:.0f}", *cells)
    console.print(table)
    for name, line in curve.lines.items():
        console.print(
            f"{PEERS[name].title}: {format_milliseconds(line.intercept)} ms + {1e3 * line.slope:.4g} ms x "
            f"{curve.axis}, R2 {line.r2:.4f}",
            highlight=False,
        )
    _print_excluded(console, curve.excluded)


def print_fixed_costs(console: Console, costs: FixedCosts) -> None:
    """Print latency, overhead of `fit`, and imports."""
    w = costs.workload
    title = f"{w.title}: milliseconds for one sequence of {w.width} steps"
    table = Table("peer", box=box.SIMPLE_HEAD, title_justify="left", title=title)
    _add_number_columns(table, "predict", "quartiles", "model(x)", "quartiles")
    for name, times in costs.latency.items():
        cells = [(format_milliseconds(times[action].median), _format_quartiles(times[action])) for action in ROW_ACTIONS]
        table.add_row(PEERS[name].title, *cells[0], *cells[1])
    console.print(table)
    _print_excluded(console, costs.excluded)
    console.print(
        f"A step of fit on a tiny model: {format_milliseconds(costs.fit.median)} ms ({_format_quartiles(costs.fit)}); in "
        f"a hand-written loop over the same layers {format_milliseconds(costs.loop.median)} ms "
        f"({_format_quartiles(costs.loop)}); fit adds {format_milliseconds(costs.overhead)} ms.",
        highlight=False,
    )
    table = _add_number_columns(Table("import", box=box.SIMPLE_HEAD), "milliseconds", "quartiles")
    for title, times in costs.imports.items():
        table.add_row(title, format_milliseconds(times.median), _format_quartiles(times))
    console.print(table)
