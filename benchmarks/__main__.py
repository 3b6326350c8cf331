"""The command: `python -m benchmarks`."""

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
from benchmarks.curves import curve, sizes, start
from benchmarks.peers import ALL, PEERS
from benchmarks.plot import svg
from benchmarks.report import show_comparison, show_curve, show_start, show_summary
from benchmarks.workloads import TABLE, WORKLOADS, Workload

COMPARED = [name for name, entry in PEERS.items() if set(ALL[:2]) <= set(entry.verbs)]
ON_CURVES = ["limit", "padless", "torch-padded", "torch-packed"]


def parser() -> argparse.ArgumentParser:
    """What may be asked."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=(
            "Times fit and predict of the same models in padless and elsewhere, in turn, against the time of the matrix "
            "products of the real steps. See docs/speed.md."
        ),
    )
    add = found.add_argument
    add("--workload", action="append", choices=WORKLOADS, metavar="NAME", help=f"one of {', '.join(WORKLOADS)}; repeatable")
    add("--fill", action="append", type=_share, help="share of real steps, above 0 and at most 1; repeatable")
    add("--rounds", type=_positive, help="how often each peer takes its turn (7; 1 with --quick)")
    add("--threads", type=_positive, default=_processors(), help="of every peer (all processors)")
    add("--peers", type=_peers, metavar="NAMES", help=f"separated by commas, of {', '.join(COMPARED)}")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--curves", action="store_true", help="instead: cost against fill, length and batch; latency, overhead, imports")
    add("--json", type=Path, metavar="FILE", help="write every time that was taken")
    add("--svg", type=Path, metavar="FILE", help="write the ratios as a picture")
    add("--quick", action="store_true", help="tiny sizes, only to see that it runs")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, print, write; 1 if padless failed, or if careful torch code has another loss."""
    given = parser().parse_args(arguments)
    if given.svg and (given.curves or "limit" not in (given.peers or COMPARED)):
        parser().error("--svg draws the table, in multiples of the limit: leave --curves out, and the limit in")
    given.rounds = given.rounds or (1 if given.quick else 7)
    console, notes = Console(width=None if sys.stdout.isatty() else 140), Console(stderr=True)
    setting = {
        "threads": given.threads,
        "device": given.device,
        "rounds": given.rounds,
        "machine": _machine(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
    console.print(f"{given.threads} threads, {given.rounds} rounds, {setting['machine']}", highlight=False)
    if setting["load"] > 0.5:
        notes.print(
            f"Others use this machine (load {setting['load']:.1f}). Threads that wait for each other wait longer "
            f"then, some peers' more than others': do not trust the ratios.",
            style="yellow",
        )
    if given.curves:
        results, wrong = _curves(given, console, notes), []
    else:
        found = _comparisons(given, console, notes)
        results = {"comparisons": [_record(one) for one in found]}
        wrong = [
            one
            for one in found
            if any(one.odd(name) for name in one.peers if name.startswith("torch")) or "padless" in one.left_out
        ]
        if given.svg:
            given.svg.write_text(svg(found))
    if given.json:
        given.json.write_text(json.dumps({**setting, **results}, indent=1))
    for one in wrong:
        notes.print(f"{one.workload.title}: padless failed, or plain torch has another loss.", style="red")
    return int(bool(wrong))


def chosen(given: argparse.Namespace) -> list[Workload]:
    """The models to compare: by name and fill, or those of the table."""
    names, fills = given.workload, given.fill
    pairs = (
        TABLE
        if not names and not fills
        else [(name, fill) for name in names or WORKLOADS for fill in fills or [WORKLOADS[name].fill]]
    )
    found = [replace(WORKLOADS[name], fill=fill) for name, fill in pairs]
    return [workload.quick() for workload in found] if given.quick else found


def _comparisons(given: argparse.Namespace, console: Console, notes: Console) -> list[Comparison]:
    found = []
    for workload in chosen(given):
        notes.print(f"{workload.title}, fill {workload.fill} ...", highlight=False)
        found.append(compare(workload, given.peers or COMPARED, given.rounds, given.threads, given.device))
        show_comparison(console, found[-1])
    show_summary(console, found)
    return found


def _curves(given: argparse.Namespace, console: Console, notes: Console) -> dict[str, Any]:
    names, common = given.peers or ON_CURVES, (given.rounds, given.threads, given.device)
    curves, starts = [], []
    for name in given.workload or ["lstm-128"]:
        workload = WORKLOADS[name].quick() if given.quick else WORKLOADS[name]
        for against, models in sizes(workload, given.quick).items():
            notes.print(f"{workload.title}, against {against} ...", highlight=False)
            curves.append(curve(against, models, names, *common))
            show_curve(console, curves[-1])
        notes.print(f"{workload.title}, one row; fit; imports ...", highlight=False)
        starts.append(start(workload, names, *common, given.quick))
        show_start(console, starts[-1])
    return {"curves": [asdict(one) for one in curves], "starts": [asdict(one) for one in starts]}


def _record(found: Comparison) -> dict[str, Any]:
    """Every time, and the ratios of the medians."""
    ratios = {name: {what: found.ratio(name, what) for what in ALL[:2]} for name in found.peers}
    return {**asdict(found), "base": found.base, "ratios": ratios}


def _machine() -> str:
    """The processor, as far as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.processor() or platform.machine()}, {_processors()} processors"


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, got {text!r}")
    return value


def _peers(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in COMPARED]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; the peers are {', '.join(COMPARED)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
