"""The shell's door: `padless demo`, `padless --version`; the same as `python -m padless`.

Exit codes: 0 done, 2 wrong use or bad input (one line says which), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from padless.errors import PadlessError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    >>> main(["demo", "--file", "/no/such/file.py"])
    2
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever was reading has seen enough; Python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("padless: interrupted", file=sys.stderr)
        return 130
    except (PadlessError, OSError) as error:
        print(f"padless: {_line(error)}", file=sys.stderr)
        return 2
    return 0


def _line(error: Exception) -> str:
    """An error in one line; the system's own with the file that it is about."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="padless", description="Sequence models in which padding does not exist.")
    parser.add_argument("--version", action="version", version=f"padless {_version()}")
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="learn a syntax highlighter from Python's standard library, in a minute",
        description="Learn a syntax highlighter from the standard library of this Python, report how well it reads "
        "files that it has not seen, and colour a function of one. Takes about a minute.",
    )
    demo.set_defaults(run=_demo)
    demo.add_argument("--file", type=Path, metavar="PATH", help="colour this file instead of reporting")
    demo.add_argument("--files", action="store_true", help="list the files of each split, and do nothing else")
    demo.add_argument("--seed", type=_natural, default=0, metavar="N", help="same seed, same result (default: 0)")
    demo.add_argument("--functions", type=_positive, metavar="N", help="learn from at most N functions")
    demo.add_argument("--save", type=Path, metavar="PATH", help="keep the trained model in this file")
    demo.add_argument("--load", type=Path, metavar="PATH", help="take the model from this file, without training")
    return parser


def _natural(word: str) -> int:
    number = int(word)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, got {word}")
    return number


def _positive(word: str) -> int:
    if (number := _natural(word)) == 0:
        raise argparse.ArgumentTypeError("expected at least 1, got 0")
    return number


def _version() -> str:
    try:
        return version("padless")
    except PackageNotFoundError:  # run from a source tree that is not installed
        from padless import __version__

        return __version__


def _demo(arguments: argparse.Namespace) -> None:
    from padless.demo import corpus, highlighter  # torch takes seconds to import; --help need not wait for it

    if arguments.files:
        for split, paths in corpus.files(corpus.library()).items():
            print(f"{split}: {len(paths)} files", *paths, sep="\n  ")
        return
    from rich.console import Console

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    plan = highlighter.DemoConfig(seed=arguments.seed)
    if arguments.functions is not None:
        plan = replace(plan, training=arguments.functions)
    highlighter.run(plan, Console(), Console(stderr=True), arguments.file, arguments.save, arguments.load)
