"""The data of the demo: functions of Python's standard library, as characters with the class of their token.

A hash of a file's path decides its split: training, validation or test. So the splits have no file in common, and are the
same on every machine with the same library. Functions and methods are extracted with their decorators; a nested function
is a part of the function around it. A text that occurs twice is used once. The label of a character is the class of its
token.
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
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from padless.errors import DataError

Labels = NDArray[np.int64]
T = TypeVar("T")

CLASSES = ("whitespace", "keyword", "name", "string", "number", "comment", "operator")
SPLITS = ("training", "validation", "test")
UNKNOWN = 1  # the id of a character that no training file has; 0 is padding

_EXCLUDED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_DEFINITION = re.compile(r"[ \t]*(@|(async[ \t]+)?def\b|class\b)")
_TRIPLE_QUOTES = re.compile(r"\"{3}|\'{3}")
_CLASS_OF_TOKEN = {
    tokenize.STRING: "string",
    tokenize.NUMBER: "number",
    tokenize.COMMENT: "comment",
    tokenize.OP: "operator",
}


@dataclass(frozen=True)
class SourceFunction:
    """The source of a function: `text` begins at line `line` of `path`, with its indentation."""

    path: str
    line: int
    text: str


def find_library() -> Path:
    """Return the folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def choose_split(path: str) -> str:
    """Return the split of a file: about 80 % of all paths train, 10 % validate, 10 % test.

    Example:
        >>> choose_split("json/decoder.py") == choose_split("json/decoder.py")
        True
    """
    tenth = hashlib.sha256(path.encode()).digest()[0] * 10 // 256
    return SPLITS[max(tenth - 7, 0)]


def list_files(root: Path) -> dict[str, list[str]]:
    """Return the library's source files by split, without the library's tests.

    Args:
        root: The folder of the library.

    Returns:
        Sorted paths relative to `root` for each split.

    Raises:
        DataError: If a split has no file, because no source is installed.
    """
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    names = sorted(path.as_posix() for path in paths if not _EXCLUDED_FOLDERS & set(path.parts))
    splits = {split: [name for name in names if choose_split(name) == split] for split in SPLITS}
    if not all(splits.values()):
        raise DataError(
            f"Expected the source of the standard library in {root}, but found {len(names)} files there. "
            "Run the demo with a Python that has its library as .py files."
        )
    return splits


def read_functions(
    root: Path, paths: Iterable[str], max_length: int, known_texts: set[str] | None = None
) -> Iterator[SourceFunction]:
    """Yield the functions of some files, in order, each text once.

    Args:
        root: The folder of the library.
        paths: Files relative to `root`.
        max_length: Functions with more characters are left out.
        known_texts: Texts to leave out; each text that is yielded is added, so that no split repeats the text of another.
    """
    known_texts = set() if known_texts is None else known_texts
    for path in paths:
        try:
            with tokenize.open(root / path) as file:
                source = file.read()
            for line, text in extract_functions(source):
                if len(text) <= max_length and text not in known_texts:
                    known_texts.add(text)
                    yield SourceFunction(path, line, text)
        except (SyntaxError, ValueError):  # a file for another version of Python, or in an unknown encoding
            continue


def extract_functions(source: str) -> Iterator[tuple[int, str]]:
    r"""Yield the number of the first line and the text of each outermost function of a module.

    Example:
        >>> list(extract_functions("x = 1\nclass A:\n    @property\n    def f(self):\n        return 2\n"))
        [(3, '    @property\n    def f(self):\n        return 2\n')]
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old files have invalid escape sequences
        module = ast.parse(source)
    lines = split_lines(source)
    for node in _find_outermost_functions(module):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        yield first, "".join(lines[first - 1 : node.end_lineno])


def _find_outermost_functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions in a node that are not inside another function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.stmt | ast.excepthandler):
            yield from _find_outermost_functions(child)


def split_lines(text: str) -> list[str]:
    r"""Split a text into lines with their ends, as Python counts them; `str.splitlines` also splits at form feeds.

    Example:
        >>> split_lines("a\n\x0cb")
        ['a\n', '\x0cb']
    """
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def normalize_newlines(text: str) -> tuple[str, NDArray[np.intp]]:
    r"""Return the text with `\n` at each line end, and the position there of each character of `text`.

    Example:
        >>> normalize_newlines("a\r\nb")
        ('a\nb', array([0, 1, 1, 2]))
    """
    is_second_of_two = [previous == "\r" and character == "\n" for previous, character in pairwise(" " + text)]
    positions = np.cumsum(~np.array(is_second_of_two, dtype=bool)) - 1
    return text.replace("\r\n", "\n").replace("\r", "\n"), positions


def label_characters(text: str) -> Labels | None:
    """Return the class of each character's token.

    Everything between tokens is whitespace: blanks, line ends, indentation, the backslash that continues a line. Soft
    keywords (`match`, `case`, `type`, `_`) are names. An f-string is one string, as it was one token before Python 3.12.

    Args:
        text: Python source.

    Returns:
        Numbers into `CLASSES`, one for each character, or None if Python's tokenizer rejects the text.

    Example:
        >>> [CLASSES[n] for n in label_characters("if x:")]
        ['keyword', 'keyword', 'whitespace', 'name', 'operator']
    """
    if "\r" not in text:
        return _label_tokens(text)
    text, positions = normalize_newlines(text)
    labels = _label_tokens(text)
    return None if labels is None else labels[positions]


def _label_tokens(text: str) -> Labels | None:
    r"""Return the class of each character of a text whose line ends are `\n`, or None."""
    lines = split_lines(text)
    line_starts = np.cumsum([0, *map(len, lines)])
    labels = np.zeros(len(text), dtype=np.int64)
    depth, start_of_outermost = 0, 0  # of nested f-strings
    try:
        for token in tokenize.generate_tokens(iter([*lines, ""]).__next__):
            name = tokenize.tok_name[token.type]
            start, end = (int(line_starts[row - 1]) + column for row, column in (token.start, token.end))
            if name == "ERRORTOKEN":
                return None
            if name.endswith("STRING_START"):  # of an f-string, or since Python 3.14 of a t-string
                start_of_outermost = start if depth == 0 else start_of_outermost
                depth += 1
            elif name.endswith("STRING_END"):
                depth -= 1
                if depth == 0:
                    labels[start_of_outermost:end] = CLASSES.index("string")
            elif depth == 0 and (token.type == tokenize.NAME or token.type in _CLASS_OF_TOKEN):
                if text[start:end] != token.string:  # the tokenizer counts columns differently in this text
                    return None
                word = "keyword" if keyword.iskeyword(token.string) else "name"
                labels[start:end] = CLASSES.index(_CLASS_OF_TOKEN.get(token.type, word))
    except (tokenize.TokenError, SyntaxError, StopIteration, IndexError):
        return None
    return labels


def list_characters(texts: Iterable[str]) -> str:
    """Return the characters of some texts, the most frequent first; character `i` has the id `i + 2`."""
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    return "".join(sorted(counts, key=lambda character: (-counts[character], character)))


def encode(texts: Sequence[str], characters: str) -> list[Labels]:
    """Return the ids of the characters of each text; a character that is not in `characters` has the id 1.

    Example:
        >>> encode(["ab?"], "ba")
        [array([3, 2, 1])]
    """
    ids = {character: number + UNKNOWN + 1 for number, character in enumerate(characters)}
    return [np.array([ids.get(character, UNKNOWN) for character in text], dtype=np.int64) for text in texts]


def split_into_pieces(text: str, min_length: int = 200, max_length: int = 5000) -> list[str]:
    r"""Split a text into pieces that each begin with a definition, where that is possible.

    A piece ends before a line that begins a definition or a decorator. It does not end between decorators, nor inside triple
    quotes, as far as counting the quotes shows. A piece without such a line ends at the maximum length.

    Args:
        text: Python source.
        min_length: A piece with fewer characters does not end before a definition.
        max_length: No piece has more characters.

    Returns:
        The pieces. Joined, they are the text.

    Example:
        >>> split_into_pieces("x = 1\ndef f():\n    pass\ndef g():\n    pass\n", min_length=6)
        ['x = 1\n', 'def f():\n    pass\n', 'def g():\n    pass\n']
    """
    pieces, open_quote, after_decorator = [""], "", False
    for line in split_lines(text):
        is_definition = not open_quote and _DEFINITION.match(line) is not None
        may_end = is_definition and not after_decorator and len(pieces[-1]) >= min_length
        if may_end or len(pieces[-1]) + len(line) > max_length:
            pieces.append("")
        after_decorator = is_definition and line.lstrip().startswith("@")
        for quote in _TRIPLE_QUOTES.findall(line):
            open_quote = "" if open_quote == quote else open_quote or quote
        pieces[-1] += line
        while len(pieces[-1]) > max_length:
            pieces[-1:] = [pieces[-1][:max_length], pieces[-1][max_length:]]
    return [piece for piece in pieces if piece]


def wrap_as_function(piece: str) -> tuple[str, NDArray[np.bool_]]:
    r"""Return the piece as the body of a function, and which characters of the result belong to the piece.

    The model is trained on functions only. A piece that begins with a function or a decorator stays as it is.

    Example:
        >>> text, is_piece = wrap_as_function("x = 1\n\ny = 2\n")
        >>> text, "".join(np.array(list(text))[is_piece])
        ('def f():\n    x = 1\n\n    y = 2\n', 'x = 1\n\ny = 2\n')
    """
    if _DEFINITION.match(piece) and not piece.startswith("class"):
        return piece, np.ones(len(piece), dtype=bool)
    parts = [("def f():\n", False)]
    for line in split_lines(piece):
        parts += [("    " if line.strip() else "", False), (line, True)]
    is_piece = np.repeat([belongs for _, belongs in parts], [len(part) for part, _ in parts])
    return "".join(part for part, _ in parts), is_piece


def select_evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of the items, evenly spread.

    Example:
        >>> select_evenly(range(10), 5)
        [0, 2, 4, 6, 8]
    """
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def read_text(path: Path) -> str:
    """Return the text of a file with unchanged line ends.

    The encoding is that of Python's rules for source files. If it does not fit, the text is read as Latin-1, in which each
    byte is a character.
    """
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):  # LookupError: a codec that is not for text
        return data.decode("latin-1")
