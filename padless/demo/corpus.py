"""What the demo learns from: the functions of the running interpreter's standard library, character by character.

A file's path decides by its hash whether the file teaches (training), is watched while teaching (validation), or stays
unseen until the report (test); so the lists are disjoint, and the same on every machine with the same library. From a
file, functions and methods are cut whole with their decorators; a function inside a function is a part of it, and a
text that was seen before is not taken again. The label of a character is the class of the token it belongs to.
"""

from __future__ import annotations

import ast
import hashlib
import io
import keyword
import re
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padless.errors import DataError

Labels = NDArray[np.int64]

CLASSES = ("whitespace", "keyword", "name", "string", "number", "comment", "operator")
SPLITS = ("training", "validation", "test")
UNKNOWN = 1  # the id of a character that no training file has; 0 is padding

_ELSEWHERE = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_BEGINS = re.compile(r"[ \t]*(@|(async[ \t]+)?def\b|class\b)")
_QUOTES = re.compile(r"\"{3}|\'{3}")
_KINDS = {tokenize.STRING: "string", tokenize.NUMBER: "number", tokenize.COMMENT: "comment", tokenize.OP: "operator"}


@dataclass(frozen=True)
class Function:
    """A function cut whole from a file: `text` begins at line `line` of `path`, its indentation included."""

    path: str
    line: int
    text: str


def library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def split_of(path: str) -> str:
    """To which split a file belongs: eight tenths of all paths teach, one validates, one tests.

    >>> split_of("json/decoder.py") == split_of("json/decoder.py")
    True
    """
    tenth = hashlib.sha256(path.encode()).digest()[0] * 10 // 256
    return SPLITS[max(tenth - 7, 0)]


def files(root: Path) -> dict[str, list[str]]:
    """The library's source files by split, as sorted paths relative to `root`; its own tests are left out.

    Raises `DataError` where no source is installed.
    """
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    found = sorted(path.as_posix() for path in paths if not _ELSEWHERE & set(path.parts))
    lists = {split: [path for path in found if split_of(path) == split] for split in SPLITS}
    if not all(lists.values()):
        raise DataError(
            f"Expected the source of the standard library in {root}, but found {len(found)} files there. "
            "Run the demo with a Python that has its library as .py files."
        )
    return lists


def functions(root: Path, paths: Iterable[str], longest: int, seen: set[str] | None = None) -> Iterator[Function]:
    """The functions of these files that have at most `longest` characters, in order, each text once.

    `seen` holds the texts already taken and is added to, so that no split repeats what another one has.
    """
    seen = set() if seen is None else seen
    for path in paths:
        try:
            with tokenize.open(root / path) as file:
                source = file.read()
            for line, text in cut(source):
                if len(text) <= longest and text not in seen:
                    seen.add(text)
                    yield Function(path, line, text)
        except (SyntaxError, ValueError):  # a file for another Python, or in no known encoding
            continue


def cut(source: str) -> Iterator[tuple[int, str]]:
    r"""The outermost functions of a module: their first lines' numbers and their texts.

    >>> list(cut("x = 1\nclass A:\n    @property\n    def f(self):\n        return 2\n"))
    [(3, '    @property\n    def f(self):\n        return 2\n')]
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old files with odd escapes
        module = ast.parse(source)
    lines = split_lines(source)
    for node in _outermost(module):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        yield first, "".join(lines[first - 1 : node.end_lineno])


def _outermost(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.stmt | ast.excepthandler):
            yield from _outermost(child)


def split_lines(text: str) -> list[str]:
    r"""Lines with their ends, as Python counts them (`str.splitlines` also splits at form feeds).

    >>> split_lines("a\n\x0cb")
    ['a\n', '\x0cb']
    """
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def plain_lines(text: str) -> tuple[str, NDArray[np.intp]]:
    r"""The text with every line end as one newline, and for each character of `text` where it stands there.

    >>> plain_lines("a\r\nb")
    ('a\nb', array([0, 1, 1, 2]))
    """
    second = [before == "\r" and here == "\n" for before, here in pairwise(" " + text)]
    return text.replace("\r\n", "\n").replace("\r", "\n"), np.cumsum(~np.array(second, dtype=bool)) - 1


def label(text: str) -> Labels | None:
    """For each character the class of its token, as a number into `CLASSES`; None if the text has no tokens to offer.

    Everything between tokens is whitespace: blanks, line ends, indentation, the backslash that continues a line. Soft
    keywords (`match`, `case`, `type`, `_`) are names. An f-string is a string from its first quote to its last, as it
    was one token before Python 3.12.

    >>> [CLASSES[n] for n in label("if x:")]
    ['keyword', 'keyword', 'whitespace', 'name', 'operator']
    """
    if "\r" in text:
        text, places = plain_lines(text)
        labels = _label(text)
        return None if labels is None else labels[places]
    return _label(text)


def _label(text: str) -> Labels | None:
    lines = split_lines(text)
    starts = np.cumsum([0, *map(len, lines)])
    labels = np.zeros(len(text), dtype=np.int64)
    depth, opened = 0, 0  # how many f-strings we are inside of, and where the outermost began
    try:
        for token in tokenize.generate_tokens(iter([*lines, ""]).__next__):
            kind = tokenize.tok_name[token.type]
            first, last = (int(starts[row - 1]) + column for row, column in (token.start, token.end))
            if kind == "ERRORTOKEN":
                return None
            if kind.endswith("STRING_START"):  # of an f-string, or from Python 3.14 on of a t-string
                opened = first if depth == 0 else opened
                depth += 1
            elif kind.endswith("STRING_END"):
                depth -= 1
                if depth == 0:
                    labels[opened:last] = CLASSES.index("string")
            elif depth == 0 and (token.type == tokenize.NAME or token.type in _KINDS):
                if text[first:last] != token.string:  # the tokenizer counts otherwise than we do
                    return None
                word = "keyword" if keyword.iskeyword(token.string) else "name"
                labels[first:last] = CLASSES.index(_KINDS.get(token.type, word))
    except (tokenize.TokenError, SyntaxError, StopIteration, IndexError):
        return None
    return labels


def alphabet(texts: Iterable[str]) -> str:
    """The characters of these texts, the commonest first: character `i` gets the id `i + 2`."""
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    return "".join(sorted(counts, key=lambda c: (-counts[c], c)))


def encode(texts: Sequence[str], characters: str) -> list[Labels]:
    """The texts as ids: 1 for a character that is not among `characters`.

    >>> encode(["ab?"], "ba")
    [array([3, 2, 1])]
    """
    ids = {c: i + UNKNOWN + 1 for i, c in enumerate(characters)}
    return [np.array([ids.get(c, UNKNOWN) for c in text], dtype=np.int64) for text in texts]


def pieces(text: str, shortest: int = 200, longest: int = 5000) -> list[str]:
    r"""A text in pieces that each begin like a function where that is possible; joined they are the text.

    A piece ends before a line that begins a definition or a decorator, but not between decorators, nor inside triple
    quotes as far as counting them can tell. Where no such line comes, it ends where it grew too long: between two
    lines, or in one that is longer than a piece may be.

    >>> pieces("x = 1\ndef f():\n    pass\ndef g():\n    pass\n", shortest=6)
    ['x = 1\n', 'def f():\n    pass\n', 'def g():\n    pass\n']
    """
    found, quote, decorated = [""], "", False
    for line in split_lines(text):
        begins = not quote and _BEGINS.match(line)
        if begins and not decorated and len(found[-1]) >= shortest or len(found[-1]) + len(line) > longest:
            found.append("")
        decorated = bool(begins) and line.lstrip().startswith("@")
        for mark in _QUOTES.findall(line):
            quote = "" if quote == mark else quote or mark
        found[-1] += line
        while len(found[-1]) > longest:
            found[-1:] = [found[-1][:longest], found[-1][longest:]]
    return [piece for piece in found if piece]


def as_function(piece: str) -> tuple[str, NDArray[np.bool_]]:
    r"""The piece as a reader of functions knows it, and which characters of that are the piece's own.

    What begins neither a function nor a method is put into the body of one.

    >>> text, own = as_function("x = 1\n\ny = 2\n")
    >>> text, "".join(np.array(list(text))[own])
    ('def f():\n    x = 1\n\n    y = 2\n', 'x = 1\n\ny = 2\n')
    """
    if _BEGINS.match(piece) and not piece.startswith("class"):
        return piece, np.ones(len(piece), dtype=bool)
    parts = [("def f():\n", False)]
    for line in split_lines(piece):
        parts += [("    " if line.strip() else "", False), (line, True)]
    return "".join(part for part, _ in parts), np.repeat([own for _, own in parts], [len(part) for part, _ in parts])


def thin(items: Sequence[Function], count: int) -> list[Function]:
    """At most `count` of the items, evenly spread.

    >>> thin(range(10), 5)
    [0, 2, 4, 6, 8]
    """
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def read(path: Path) -> str:
    """A user's file as text, line ends as they are; Latin-1, which accepts every byte, where no encoding fits."""
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):  # a codec may exist and not be one of text
        return data.decode("latin-1")
