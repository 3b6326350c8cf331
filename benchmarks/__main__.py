"""The command `python -m benchmarks`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.compare import Comparison, compare
from benchmarks.curves import list_sizes, measure_curve, measure_fixed_costs
from benchmarks.peers import EPOCH_ACTIONS, PEERS
from benchmarks.plot import draw_svg
from benchmarks.report import print_comparison, print_curve, print_fixed_costs, print_summary
from benchmarks.workloads import DEFAULTS, WORKLOADS, Workload

COMPARED_PEERS = [name for name, spec in PEERS.items() if set(EPOCH_ACTIONS) <= set(spec.actions)]
CURVE_PEERS = ["limit", "padless", "torch-padded", "torch-packed"]


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(
            "Time fit and predict of the same models in padless and other libraries, in turn, as multiples of the time of "
            "the matrix products of the real steps. See docs/speed.md."
        ),
    )
    add = parser.add_argument
    add("--workload", action="append", choices=WORKLOADS, metavar="NAME", help=f"one of {', '.join(WORKLOADS)}; repeatable")
    add("--density", action="append", type=_parse_share, help="share of real steps, above 0 and at most 1; repeatable")
    add("--rounds", type=_parse_count, help="number of rounds (default: 7; 1 with --quick)")
    add("--threads", type=_parse_count, default=_count_processors(), help="threads of each peer (default: all processors)")
    add("--peers", type=_parse_peers, metavar="NAMES", help=f"separated by commas, of {', '.join(COMPARED_PEERS)}")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--curves", action="store_true", help="instead: cost against density, length and batch size, and fixed costs")
    add("--json", type=Path, metavar="FILE", help="write all times")
    add("--svg", type=Path, metavar="FILE", help="write the ratios as a picture")
    add("--quick", action="store_true", help="tiny sizes, to see that it runs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if padless failed or if a peer of plain torch has another loss."""
    options = make_parser().parse_args(arguments)
    if options.svg and (options.curves or "limit" not in (options.peers or COMPARED_PEERS)):
        make_parser().error("--svg draws multiples of the limit: leave out --curves, and include the limit in --peers")
    options.rounds = options.rounds or (1 if options.quick else 7)
    console, notes = Console(width=None if sys.stdout.isatty() else 140), Console(stderr=True)
    setting = {
        "threads": options.threads,
        "device": options.device,
        "rounds": options.rounds,
        "machine": _describe_machine(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
    console.print(f"{options.threads} threads, {options.rounds} rounds, {setting['machine']}", highlight=False)
    if setting["load"] > 0.5:
        notes.print(
            f"Other programs use this machine (load {setting['load']:.1f}). The ratios are not reliable: threads that wait "
            f"for each other wait longer, in some peers more than in others.",
            style="yellow",
        )
    wrong: list[Comparison] = []
    if options.curves:
        results = _run_curves(options, console, notes)
    else:
        comparisons = _run_comparisons(options, console, notes)
        results = {"comparisons": [_to_record(comparison) for comparison in comparisons]}
        wrong = [comparison for comparison in comparisons if _is_wrong(comparison)]
        if options.svg:
            options.svg.write_text(draw_svg(comparisons))
    if options.json:
        options.json.write_text(json.dumps({**setting, **results}, indent=1))
    for comparison in wrong:
        notes.print(f"{comparison.workload.title}: padless failed, or plain torch has another loss.", style="red")
    return int(bool(wrong))


def choose_workloads(options: argparse.Namespace) -> list[Workload]:
    """Return the workloads with the names and densities of the options; without options, the default ones."""
    names, densities = options.workload, options.density
    pairs = DEFAULTS
    if names or densities:
        pairs = [(name, density) for name in names or WORKLOADS for density in densities or [WORKLOADS[name].density]]
    workloads = [replace(WORKLOADS[name], density=density) for name, density in pairs]
    return [workload.shrink() for workload in workloads] if options.quick else workloads


def _is_wrong(comparison: Comparison) -> bool:
    """Return whether padless failed, or plain torch has another loss."""
    different = any(comparison.has_different_loss(name) for name in comparison.peers if name.startswith("torch"))
    return different or "padless" in comparison.excluded


def _run_comparisons(options: argparse.Namespace, console: Console, notes: Console) -> list[Comparison]:
    """Compare the peers on each workload and print the tables."""
    comparisons = []
    for workload in choose_workloads(options):
        notes.print(f"{workload.title}, density {workload.density} ...", highlight=False)
        names = options.peers or COMPARED_PEERS
        comparisons.append(compare(workload, names, options.rounds, options.threads, options.device))
        print_comparison(console, comparisons[-1])
    print_summary(console, comparisons)
    return comparisons


def _run_curves(options: argparse.Namespace, console: Console, notes: Console) -> dict[str, Any]:
    """Measure curves and fixed costs, and print the tables."""
    names, common = options.peers or CURVE_PEERS, (options.rounds, options.threads, options.device)
    curves, costs = [], []
    for name in options.workload or ["lstm-128"]:
        workload = WORKLOADS[name].shrink() if options.quick else WORKLOADS[name]
        for axis, workloads in list_sizes(workload, options.quick).items():
            notes.print(f"{workload.title}, against {axis} ...", highlight=False)
            curves.append(measure_curve(axis, workloads, names, *common))
            print_curve(console, curves[-1])
        notes.print(f"{workload.title}, one row; fit; imports ...", highlight=False)
        costs.append(measure_fixed_costs(workload, names, *common, options.quick))
        print_fixed_costs(console, costs[-1])
    return {"curves": [asdict(curve) for curve in curves], "fixed_costs": [asdict(cost) for cost in costs]}


def _to_record(comparison: Comparison) -> dict[str, Any]:
    """Return all times, and the ratios of the medians, for JSON."""
    ratios = {name: {action: comparison.ratio(name, action) for action in EPOCH_ACTIONS} for name in comparison.peers}
    return {**asdict(comparison), "base": comparison.base, "ratios": ratios}


def _describe_machine() -> str:
    """Return the name of the processor, as far as the system knows it, and the number of processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {_count_processors()} processors"


def _count_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _parse_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _parse_share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, got {text!r}")
    return value


def _parse_peers(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in COMPARED_PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown peers {', '.join(unknown)}; expected some of {', '.join(COMPARED_PEERS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
