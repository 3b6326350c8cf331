"""The command line: `padless demo` and `padless --version`, also available as `python -m padless`.

Exit codes: 0 for success, 2 for wrong arguments or bad input (with one line on standard error), 130 for an interrupt.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from padless.errors import PadlessError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: The arguments without the name of the program. Default: those of the process.

    Returns:
        0, 2 or 130.

    Raises:
        SystemExit: For `--help`, `--version` and arguments that do not parse.

    Example:
        >>> main(["demo", "--file", "/no/such/file.py"])
        2
    """
    arguments = _make_parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe; Python would print an error again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("padless: interrupted", file=sys.stderr)
        return 130
    except (PadlessError, OSError) as error:
        print(f"padless: {_format_error(error)}", file=sys.stderr)
        return 2
    return 0


def _format_error(error: Exception) -> str:
    """Return the message of an error in one line; for an error of the system, with the name of the file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="padless", description="Sequence models that compute on the real time steps of a padded batch only."
    )
    parser.add_argument("--version", action="version", version=f"padless {_find_version()}")
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="train a syntax highlighter on Python's standard library, in about a minute",
        description="Train a syntax highlighter on the standard library of this Python. Report its accuracy on files that "
        "it has not seen, and print one function in colour. Takes about a minute.",
    )
    demo.set_defaults(run=_run_demo)
    demo.add_argument("--file", type=Path, metavar="PATH", help="print this file in colour instead of the report")
    demo.add_argument("--files", action="store_true", help="only list the files of each split")
    demo.add_argument("--seed", type=_parse_natural, default=0, metavar="N", help="seed of all random numbers (default: 0)")
    demo.add_argument("--functions", type=_parse_positive, metavar="N", help="train on at most N functions")
    demo.add_argument("--save", type=Path, metavar="PATH", help="save the trained model in this file")
    demo.add_argument("--load", type=Path, metavar="PATH", help="load the model from this file instead of training")
    return parser


def _parse_natural(word: str) -> int:
    """Return a whole number from 0 to 2**63 - 1, the seeds that torch accepts."""
    number = int(word)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**63 - 1, got {word}")
    return number


def _parse_positive(word: str) -> int:
    """Return a whole number of at least 1."""
    if (number := _parse_natural(word)) == 0:
        raise argparse.ArgumentTypeError("expected at least 1, got 0")
    return number


def _find_version() -> str:
    """Return the version of the installed package, else that of the source."""
    try:
        return version("padless")
    except PackageNotFoundError:  # run from a source tree that is not installed
        from padless import __version__

        return __version__


def _run_demo(arguments: argparse.Namespace) -> None:
    """Run `padless demo`."""
    from padless.demo import corpus, highlighter  # here, because torch takes seconds to import and --help needs no torch

    if arguments.files:
        for split, paths in corpus.list_files(corpus.find_library()).items():
            print(f"{split}: {len(paths)} files", *paths, sep="\n  ")
        return
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # source may have characters that the terminal lacks
    config = highlighter.DemoConfig(seed=arguments.seed)
    if arguments.functions is not None:
        config = replace(config, training=arguments.functions)
    highlighter.run(config, Console(), Console(stderr=True), arguments.file, arguments.save, arguments.load)
