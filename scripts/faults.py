"""Define the faults that the tests must detect, and find the place of each fault in the source.

A fault gives the correct code (`right`), the code that replaces it (`wrong`), and the tests that
must fail then. `scripts/mutants` plants the faults in a copy of the source, one at a time.

The place of `right` is found by structure. Renamed identifiers and another layout do not matter:

- Python is compared as syntax trees, C as tokens without comments and white space.
- Literals, operators and structure must be equal.
- Identifiers of `right` are mapped one to one to those of the source. Variables, attributes (in C:
  fields) and keywords of calls have one mapping each. A builtin must have its own name. Functions
  of torch and numpy are not mapped to each other: `any` never matches `all`.
- In Python `...` matches any expression. As the last argument of a call it matches all arguments
  from there on. As a statement it matches any number of statements. At the end of the body of
  `if`, `for` or `while` it also matches `else`. In `wrong`, the n-th `...` is the code that the
  n-th `...` of `right` matched.
- The place with the largest share of unchanged identifiers is chosen. A low share (`LOWEST_SCORE`,
  `LOWEST_ELSEWHERE`) is not a match, and a tie is an error.
- The search begins in `function` of `file`. If there is no match, it continues in functions of that
  name in the package, then in all of `file`, then in the package. So code may move to another file.

The identifiers of `wrong` are mapped too. Those that `right` does not have stay as they are.
"""

from __future__ import annotations

import ast
import builtins
import copy
import functools
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

LOWEST_SCORE = 1 / 3  # share of the identifiers of `right` that must be unchanged in `function`
LOWEST_ELSEWHERE = 0.6  # the same outside `function`
VARIABLE, ATTRIBUTE, KEYWORD = "variable", "attribute", "keyword"


class Fault(NamedTuple):
    """Describe one fault."""

    name: str  # what is wrong, in words
    file: str  # where the code is, relative to the package
    right: str  # the correct code: an expression or statements in Python, any tokens in C
    wrong: str  # the code that replaces `right`, with the identifiers of `right`
    tests: str  # the tests that must fail, as arguments of pytest
    function: str = ""  # qualified name of the function or class with the code, as "Index.time_major_order"


class Place(NamedTuple):
    """Describe where a fault was found, and the source with the fault."""

    path: Path  # the source file
    line: int  # number of the first line that is replaced
    score: float  # share of the identifiers of `right` that are unchanged
    text: str  # the whole source file with the fault


class Binding:
    """Map the identifiers and the wildcards of `right` to the source that they match."""

    def __init__(self) -> None:
        self.names: dict[tuple[str, str], str] = {}  # (kind, name in `right`): name in the source
        self.wildcards: dict[str, list[ast.AST]] = {}

    def copy(self) -> Binding:
        """Return a copy, to try one of several alternatives."""
        other = Binding()
        other.names, other.wildcards = dict(self.names), dict(self.wildcards)
        return other

    def bind(self, kind: str, name: str, source: str) -> bool:
        """Map a name to a name of the source; return False if that is not one to one."""
        if (kind, name) in self.names:
            return self.names[kind, name] == source
        if any(other[0] == kind and taken == source for other, taken in self.names.items()):
            return False
        self.names[kind, name] = source
        return True

    def mapped(self, kind: str, name: str) -> str:
        """Return the source's name for a name of `wrong`."""
        return self.names.get((kind, name), name)

    @property
    def score(self) -> float:
        """Return the share of unchanged identifiers; 1 if `right` has no identifiers."""
        return sum(name == source for (_, name), source in self.names.items()) / max(len(self.names), 1)


class Match(NamedTuple):
    """Describe code that has the structure of `right`."""

    path: Path
    start: int  # offset of the first byte
    end: int  # offset after the last byte
    binding: Binding


def locate(fault: Fault, package: Path) -> Place:
    """Find the place of a fault, and make the source with the fault.

    Args:
        fault: The fault.
        package: Folder of the package; `fault.file` is relative to this folder.

    Returns:
        The place with the largest share of unchanged identifiers.

    Raises:
        LookupError: No place matches, or several places match equally well.
        ValueError: `right` or `wrong` is not valid.
    """
    language = _language(fault)
    own = [package / fault.file] if (package / fault.file).exists() else []
    every = sorted(path for path in package.rglob("*") if path.suffix in language.suffixes)
    searches = [(own, ""), (every, "")]
    if fault.function:
        searches = [(own, fault.function), (every, fault.function), *searches]
    similar: list[Match] = []
    for paths, function in searches:
        matches = [match for path in paths for match in language.matches(path, function)]
        best = max((match.binding.score for match in matches), default=0.0)
        chosen = [match for match in matches if match.binding.score == best]
        if best < (LOWEST_SCORE if function else LOWEST_ELSEWHERE):
            similar += chosen
        elif len(chosen) > 1:
            raise LookupError(
                f"{_described(fault)} matches {len(chosen)} places equally well: "
                f"{_listed(chosen, package)}. Expected one place. "
                "In scripts/faults.py add context to `right`, or set `function`."
            )
        else:
            return _planted(language, chosen[0])
    found = f" Similar code: {_listed(similar, package)}." if similar else ""
    raise LookupError(
        f"{_described(fault)} matches no code of the package.{found} Expected one place. In "
        "scripts/faults.py write `right` and `wrong` as the code is now, or remove the fault."
    )


def new_names(fault: Fault) -> set[tuple[str, str]]:
    """Return kind and name of the identifiers that `wrong` has and `right` does not have."""
    language = _language(fault)
    return language.names(fault.wrong) - language.names(fault.right)


def _language(fault: Fault) -> Python | C:
    return Python(fault) if fault.file.endswith(".py") else C(fault)


def _planted(language: Python | C, match: Match) -> Place:
    source = match.path.read_bytes()
    wrong = language.wrong_code(source[: match.end], match)
    text = (source[: match.start] + wrong.encode() + source[match.end :]).decode()
    return Place(match.path, source.count(b"\n", 0, match.start) + 1, match.binding.score, text)


def _described(fault: Fault) -> str:
    function = f", function {fault.function}" if fault.function else ""
    right = textwrap.indent(textwrap.dedent(fault.right).strip("\n"), "    ")
    return f"Fault {fault.name!r} ({fault.file}{function}): `right`\n{right}\n"


def _listed(matches: Sequence[Match], package: Path) -> str:
    found = []
    for path, start, _, binding in matches:
        line = path.read_bytes().count(b"\n", 0, start) + 1
        found.append(f"{path.relative_to(package)}:{line} ({binding.score:.0%} of the identifiers)")
    return ", ".join(dict.fromkeys(found))


# ---------------------------------------------------------------------------------------- Python

MODULES = {"torch", "np", "numpy", "math"}
FIXED = MODULES | set(dir(builtins))  # variables that are not mapped
WILDCARD = "..."  # begins the name that stands for a wildcard in the tree of a pattern
HEADERS = (ast.If, ast.For, ast.While)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IDENTIFIERS = {
    (ast.Name, "id"): VARIABLE,
    (ast.arg, "arg"): VARIABLE,
    (ast.FunctionDef, "name"): VARIABLE,
    (ast.ClassDef, "name"): VARIABLE,
    (ast.ExceptHandler, "name"): VARIABLE,
    (ast.alias, "name"): VARIABLE,
    (ast.alias, "asname"): VARIABLE,
    (ast.Attribute, "attr"): ATTRIBUTE,
    (ast.keyword, "arg"): KEYWORD,
}
IGNORED = ("ctx", "kind", "type_comment")  # fields of nodes that do not change the meaning


class Python:
    """Find and replace Python code by its syntax tree."""

    suffixes = (".py",)

    def __init__(self, fault: Fault) -> None:
        right, wrong = _pattern(fault.right), _pattern(fault.wrong)
        self.is_expression = _is_expression(right) and _is_expression(wrong)
        self.right: list[ast.AST] = [right[0].value] if _is_expression(right) and self.is_expression else right
        self.wrong = ast.Module(wrong, [])
        given, used = ({name for _, name in _names(tree) if _is_wildcard(name)} for tree in (right, wrong))
        if any(isinstance(node, ast.Expr) and _wildcard(node.value) for node in right):
            raise ValueError(
                f"Fault {fault.name!r}: `right` has `...` outside other code, got {fault.right!r}. "
                "Write `...` inside a statement or an expression."
            )
        if used and used != given:
            raise ValueError(
                f"Fault {fault.name!r}: `right` has {len(given)} `...` and `wrong` has "
                f"{len(used)}. Expected the same number, or none in `wrong`."
            )

    @staticmethod
    def names(code: str) -> set[tuple[str, str]]:
        """Return kind and name of the identifiers of a pattern."""
        return {(kind, name) for kind, name in _names(_pattern(code)) if not _is_wildcard(name)}

    def matches(self, path: Path, function: str) -> Iterator[Match]:
        """Yield the matches in a file; with `function` only those in functions of this name."""
        source = path.read_bytes()
        if function.rpartition(".")[2].encode() not in source:
            return
        tree, starts, scopes = _parsed(source)
        for scope in scopes.get(function, ()) if function else [tree]:
            for nodes in _expressions(scope) if self.is_expression else _statements(scope, len(self.right)):
                binding = Binding()
                if _lists_match(self.right, nodes, binding):
                    line, column = _begin(nodes[0])
                    end = starts[nodes[-1].end_lineno - 1] + nodes[-1].end_col_offset
                    yield Match(path, starts[line - 1] + column, end, binding)

    def wrong_code(self, before: bytes, match: Match) -> str:
        """Return `wrong` as code for the place of a match; `before` is the source up to its end."""
        tree = _Substitution(match.binding).visit(copy.deepcopy(self.wrong))
        text = ast.unparse(ast.fix_missing_locations(tree))
        if self.is_expression:
            return f"({text})"
        if before[match.start :].startswith(b"elif"):
            text = f"el{text}"
        column = match.start - before.rfind(b"\n", 0, match.start) - 1
        return text.replace("\n", "\n" + " " * column)


def _pattern(code: str) -> list[ast.stmt]:
    """Parse a pattern; each `...` becomes a name: "...0", "...1" in the order of the text."""
    tree = ast.parse(textwrap.dedent(code).strip("\n"))
    ellipses = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value is ...]
    places = sorted((node.lineno, node.col_offset) for node in ellipses)

    class Naming(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            if node.value is not ...:
                return node
            number = places.index((node.lineno, node.col_offset))
            return ast.copy_location(ast.Name(f"{WILDCARD}{number}", ast.Load()), node)

    return Naming().visit(tree).body


def _is_expression(statements: list[ast.stmt]) -> bool:
    return len(statements) == 1 and isinstance(statements[0], ast.Expr)


def _is_wildcard(name: str) -> bool:
    return name.startswith(WILDCARD)


def _wildcard(node: object) -> str:
    """Return the name of the wildcard that an expression is; "" for others."""
    return node.id if isinstance(node, ast.Name) and _is_wildcard(node.id) else ""


def _body_wildcard(node: object) -> str:
    """Return the name of the wildcard that ends a body, and matches the `else` of the statement."""
    if isinstance(node, HEADERS) and isinstance(node.body[-1], ast.Expr) and not node.orelse:
        return _wildcard(node.body[-1].value)
    return ""


def _last_argument(node: ast.Call) -> str:
    """Return the name of the wildcard that matches all further arguments of a call."""
    return _wildcard(node.args[-1]) if node.args and not node.keywords else ""


def _names(statements: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """Yield kind and name of all identifiers."""
    for node in ast.walk(ast.Module(statements, [])):
        for field, value in ast.iter_fields(node):
            if isinstance(value, str) and (type(node), field) in IDENTIFIERS:
                yield IDENTIFIERS[type(node), field], value


@functools.cache
def known_names() -> frozenset[str]:
    """Return the names of functions and attributes of Python, torch and numpy."""
    import numpy  # not at the top: scripts/mutants imports this module before it has an environment
    import torch

    owners = (builtins, str, list, dict, torch, torch.Tensor, numpy, numpy.ndarray)
    return frozenset(name for owner in owners for name in dir(owner))


@functools.cache
def _parsed(source: bytes) -> tuple[ast.Module, list[int], dict[str, list[ast.AST]]]:
    """Return the tree, the offset of each line, and the functions and classes by qualified name."""
    tree = ast.parse(source)
    starts = [0, *(end.end() for end in re.finditer(rb"\n", source))]
    scopes: dict[str, list[ast.AST]] = {}

    def collect(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, SCOPES):
                scopes.setdefault(prefix + child.name, []).append(child)
                name = f"{prefix}{child.name}."
            collect(child, name)

    collect(tree, "")
    return tree, starts, scopes


def _expressions(node: ast.AST) -> Iterator[list[ast.AST]]:
    """Yield each expression, in a list, without those in f-strings."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield [child]
        if not isinstance(child, ast.JoinedStr):  # positions in f-strings are wrong before Python 3.12
            yield from _expressions(child)


def _statements(node: ast.AST, count: int) -> Iterator[list[ast.AST]]:
    """Yield each run of `count` statements of a block."""
    for child in ast.walk(node):
        for _, value in ast.iter_fields(child):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                yield from (value[first : first + count] for first in range(len(value) - count + 1))


def _begin(node: ast.AST) -> tuple[int, int]:
    """Return line and column where a node begins, with its decorators."""
    decorators = getattr(node, "decorator_list", None)
    if decorators:
        return decorators[0].lineno, decorators[0].col_offset - 1  # the position is that after `@`
    return node.lineno, node.col_offset


def _lists_match(patterns: Sequence[object], nodes: Sequence[object], binding: Binding) -> bool:
    if not patterns:
        return not nodes
    head, rest = patterns[0], patterns[1:]
    name = _wildcard(head.value) if isinstance(head, ast.Expr) else ""
    if not name:
        return bool(nodes) and _values_match(head, nodes[0], binding) and _lists_match(rest, nodes[1:], binding)
    for count in range(len(nodes) + 1):
        trial = binding.copy()
        if _lists_match(rest, nodes[count:], trial):
            binding.names, binding.wildcards = trial.names, {**trial.wildcards, name: list(nodes[:count])}
            return True
    return False


def _values_match(pattern: object, value: object, binding: Binding) -> bool:
    if isinstance(pattern, list):
        return isinstance(value, list) and _lists_match(pattern, value, binding)
    if isinstance(pattern, ast.AST):
        return isinstance(value, ast.AST) and _nodes_match(pattern, value, binding)
    return type(pattern) is type(value) and pattern == value


def _nodes_match(pattern: ast.AST, node: ast.AST, binding: Binding) -> bool:
    name = _wildcard(pattern)
    if name:
        binding.wildcards[name] = [node]
        return isinstance(node, ast.expr)
    if type(pattern) is not type(node) or not _meanings_agree(pattern, node):
        return False
    skipped = set(IGNORED)
    if isinstance(pattern, ast.Call) and isinstance(node, ast.Call) and _last_argument(pattern):
        count = len(pattern.args) - 1
        if len(node.args) < count or not _nodes_match(pattern.func, node.func, binding):
            return False
        binding.wildcards[_last_argument(pattern)] = [*node.args[count:], *node.keywords]
        return _lists_match(pattern.args[:-1], node.args[:count], binding)
    if _body_wildcard(pattern):
        binding.wildcards[f"{_body_wildcard(pattern)} else"] = node.orelse
        skipped.add("orelse")
    for field in pattern._fields:
        ours, theirs = getattr(pattern, field, None), getattr(node, field, None)
        kind = IDENTIFIERS.get((type(pattern), field))
        if field in skipped:
            continue
        if kind and isinstance(ours, str) and isinstance(theirs, str):
            if not binding.bind(kind, ours, theirs):
                return False
        elif not _values_match(ours, theirs, binding):
            return False
    return True


def _meanings_agree(pattern: ast.AST, node: ast.AST) -> bool:
    """Return False if a builtin, or a function of torch or numpy, would match another one."""
    if isinstance(pattern, ast.Name):
        return pattern.id == node.id or pattern.id not in FIXED
    if isinstance(pattern, ast.keyword):  # such as clamp(min=...)
        return pattern.arg == node.arg or not {pattern.arg, node.arg} <= known_names()
    if isinstance(pattern, ast.Call):
        pattern, node = pattern.func, node.func
        if not isinstance(pattern, ast.Attribute) or not isinstance(node, ast.Attribute):
            return True
    elif not isinstance(pattern, ast.Attribute) or not _is_module(pattern.value):
        return True  # an attribute that is not called holds data, and any name is possible
    return pattern.attr == node.attr or not {pattern.attr, node.attr} <= known_names()


def _is_module(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in MODULES


class _Substitution(ast.NodeTransformer):
    """Replace identifiers and wildcards of `wrong` by the code that `right` matched."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Replace the identifiers of a node, and then in its children."""
        for field, value in ast.iter_fields(node):
            kind = IDENTIFIERS.get((type(node), field))
            if kind and isinstance(value, str):
                setattr(node, field, self.binding.mapped(kind, value))
        return super().generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Replace a variable, or a wildcard by the expression that it matched."""
        return self.binding.wildcards[node.id][0] if _wildcard(node) else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.AST]:
        """Replace a wildcard by the statements that it matched."""
        name = _wildcard(node.value)
        return self.binding.wildcards[name] if name else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Replace the last wildcard of a call by the arguments that it matched."""
        name = _last_argument(node)
        matched = self.binding.wildcards[name] if name else []
        if name:
            node.args.pop()
        self.generic_visit(node)
        node.args += [value for value in matched if isinstance(value, ast.expr)]
        node.keywords += [value for value in matched if isinstance(value, ast.keyword)]
        return node

    def _visit_header(self, node: ast.If | ast.For | ast.While) -> ast.AST:
        name = _body_wildcard(node)
        self.generic_visit(node)
        if name:
            node.orelse = self.binding.wildcards.get(f"{name} else", [])
        return node

    visit_If = visit_For = visit_While = _visit_header


# --------------------------------------------------------------------------------------------- C

TOKEN = re.compile(
    r"(?P<skipped>\s+|//[^\n]*|/\*.*?\*/)"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<string>\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')"
    r"|(?P<other>\.?\d(?:[eEpP][+-]|[\w.])*|->|\+\+|--|<<=?|>>=?|&&|\|\||[-+*/%&|^=!<>]=|.)",
    re.DOTALL,
)
C_NAMES = set(
    "auto break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while "
    "memcpy memset memmove int8_t int32_t int64_t uint32_t uint64_t size_t".split()
)


class Token(NamedTuple):
    """Describe one token of C."""

    kind: str  # VARIABLE, ATTRIBUTE for a field, or "" for a token that must be equal
    text: str
    start: int  # offset in the text
    end: int


class C:
    """Find and replace C code by its tokens."""

    suffixes = (".c", ".h")

    def __init__(self, fault: Fault) -> None:
        self.right, self.wrong = _tokens(fault.right), fault.wrong
        if not self.right:
            raise ValueError(f"Fault {fault.name!r}: `right` is empty. Expected at least one token of C.")

    @staticmethod
    def names(code: str) -> set[tuple[str, str]]:
        """Return kind and name of the identifiers of a pattern."""
        return {(token.kind, token.text) for token in _tokens(code) if token.kind}

    def matches(self, path: Path, function: str) -> Iterator[Match]:
        """Yield the matches in a file; with `function` only those in functions of this name."""
        text = path.read_text()
        for tokens in _functions(_tokens(text), function):
            for first in range(len(tokens) - len(self.right) + 1):
                binding, found = Binding(), tokens[first : first + len(self.right)]
                if all(_tokens_match(ours, theirs, binding) for ours, theirs in zip(self.right, found, strict=True)):
                    start, end = (len(text[:offset].encode()) for offset in (found[0].start, found[-1].end))
                    yield Match(path, start, end, binding)

    def wrong_code(self, before: bytes, match: Match) -> str:
        """Return `wrong` as source code for the place of a match; `before` is not used."""
        text = self.wrong
        for token in reversed(_tokens(text)):
            text = text[: token.start] + match.binding.mapped(token.kind, token.text) + text[token.end :]
        return text


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    for found in TOKEN.finditer(text):
        if found.lastgroup == "skipped":
            continue
        kind, name = "", found.group()
        if found.lastgroup == "name" and name not in C_NAMES and not name.startswith("__"):
            kind = ATTRIBUTE if tokens and tokens[-1].text in (".", "->") else VARIABLE
        tokens.append(Token(kind, name, found.start(), found.end()))
    return tokens


def _tokens_match(pattern: Token, token: Token, binding: Binding) -> bool:
    if pattern.kind:
        return pattern.kind == token.kind and binding.bind(token.kind, pattern.text, token.text)
    return pattern.text == token.text


def _functions(tokens: list[Token], name: str) -> Iterator[list[Token]]:
    """Yield the tokens of each definition of a function; all tokens if the name is empty."""
    if not name:
        yield tokens
        return
    for first, token in enumerate(tokens):
        if token.text != name or first + 1 == len(tokens) or tokens[first + 1].text != "(":
            continue
        body = _closing(tokens, first + 1) + 1
        if body < len(tokens) and tokens[body].text == "{":
            yield tokens[first : _closing(tokens, body) + 1]


def _closing(tokens: list[Token], opening: int) -> int:
    """Return the number of the token that closes a parenthesis or a brace."""
    depth = 0
    for number in range(opening, len(tokens)):
        depth += (tokens[number].text in ("(", "{")) - (tokens[number].text in (")", "}"))
        if not depth:
            return number
    return len(tokens) - 1


# ----------------------------------------------------------------------------------------- faults


def _laws(*names: str) -> str:
    return " ".join(f"tests/test_properties.py::test_{name}" for name in names)


PRESENCE, ABSENCE = _laws("matches_unpadded"), _laws("ignores_padding")
GRADCHECK, LOST, RULE, KERAS = (f"tests/test_{name}.py" for name in ("gradcheck", "lost_masks", "mask_rule", "keras_layers"))

RAGGED = [
    Fault(
        "a gap at the start of a row joins the gap at the end of the row above",
        "ragged/index.py",
        "starts[:, 1:] &= real[:, :-1]",
        "starts.reshape(-1)[1:] &= real.reshape(-1)[:-1]",
        "tests/test_index.py " + _laws("index_has_the_steps_and_gaps_of_the_mask"),
        function="Index._gap_starts",
    ),
    Fault(
        "a gap shows the output of the step before the previous one",
        "ragged/index.py",
        "np.searchsorted(self.flat, self.first_cell_of_gap) - 1",
        "np.searchsorted(self.flat, self.first_cell_of_gap) - 2",
        "tests/test_index.py " + _laws("index_has_the_steps_and_gaps_of_the_mask"),
        function="Index.step_before_gap",
    ),
    Fault(
        "a reversed order is not reversed if there is padding",
        "ragged/index.py",
        """
        if reverse:
            time = self.lengths[self.rows] - 1 - time
        """,
        """
        if reverse and self.full:
            time = self.lengths[self.rows] - 1 - time
        """,
        "tests/test_recurrent.py " + PRESENCE,
        function="Index.time_major_order",
    ),
    Fault(
        "a sentence is a step only if all its words are steps",
        "ragged/index.py",
        "np.asarray(mask.any(-1))",
        "np.asarray(mask.all(-1))",
        "tests/test_index.py " + _laws("time_distributed_runs_each_sentence_alone"),
        function="Index.from_mask",
    ),
    Fault(
        "the union of two masks is their intersection",
        "ragged/mask.py",
        "first.mask | second.mask",
        "first.mask & second.mask",
        _laws("a_merge_uses_the_inputs_that_have_the_step"),
        function="union",
    ),
    Fault(
        "a mask created on masked data replaces the mask of the data",
        "ragged/mask.py",
        """
        both = index.mask & mask
        return index if both.sum() == index.num_steps else ...
        """,
        """
        both = mask | (index.mask & mask)
        return index if both.sum() == index.steps else ...
        """,
        PRESENCE + " " + RULE + " tests/test_packed.py",
        function="intersect_with_mask",
    ),
    Fault(
        "the gradient of a permutation is permuted again",
        "ragged/gather.py",
        "_GatherRows.apply(grads[0], inverse, row_numbers)",
        "_GatherRows.apply(grads[0], row_numbers, inverse)",
        GRADCHECK,
        function="_GatherRows.backward",
    ),
    Fault(
        "a function over time is accepted as a function over features",
        "ragged/axis_rules.py",
        "if axis < packed.num_step_axes: ...",
        "if axis < packed.num_step_axes - 1: ...",
        LOST + " tests/test_functions.py",
        function="_feature",
    ),
    Fault(
        "a plain operand is read in reversed order",
        "ragged/broadcast.py",
        "values = _gather_cells(operand, coordinates)",
        "values = _gather_cells(operand, coordinates).flip(0)",
        "tests/test_functions.py",
        function="align_step_axes",
    ),
    Fault(
        "an operand without a batch counts columns",
        "ragged/broadcast.py",
        "steps = to_device(index.span_coordinates[axis], operand.device)",
        "steps = to_device(index.coordinates(torch.device('cpu'))[axis].numpy(), operand.device)",
        "tests/test_slices.py",
        function="align_step_axes",
    ),
    Fault(
        "a slice counts its end from the width of the grid",
        "ragged/slices.py",
        "stop = _clamp_bound(key.stop, num_columns, lengths)",
        "stop = np.minimum(_clamp_bound(key.stop, num_columns, np.full_like(lengths, num_columns)), lengths)",
        "tests/test_slices.py",
        function="_slice_spans",
    ),
    Fault(
        "the cells of a slice keep the column of the first step",
        "ragged/slices.py",
        "begin = np.minimum(first // step, width - counts)",
        "begin = width - counts",
        "tests/test_slices.py",
        function="_slice_spans",
    ),
    Fault(
        "a plain array is combined with a slice that moved steps",
        "ragged/slices.py",
        "not (other_column.any() or has_gap.any())",
        "True",
        "tests/test_slices.py",
        function="_slice_spans",
    ),
    Fault(
        "a plain array is combined with a slice of sequences with gaps",
        "ragged/slices.py",
        "not (other_column.any() or has_gap.any())",
        "not other_column.any()",
        "tests/test_slices.py",
        function="_slice_spans",
    ),
    Fault(
        "NumPy reads a Packed inside a call",
        "ragged/packed.py",
        "layer or in_shape_inference() or self.requires_grad",
        "self.requires_grad",
        "tests/test_numpy_reads.py",
        function="Packed._check_read",
    ),
    Fault(
        "NumPy reads a Packed that requires a gradient",
        "ragged/packed.py",
        "layer or in_shape_inference() or self.requires_grad",
        "layer or in_shape_inference()",
        "tests/test_numpy_reads.py",
        function="Packed._check_read",
    ),
    Fault(
        "labels that a list has no step for are dropped",
        "ragged/alignment.py",
        """
        if isinstance(data, list | tuple):
            check_given_lengths(np.full(len(rows), rows.shape[1]), index, argument)
        """,
        "pass",
        "tests/test_bad_data.py",
        function="target_rows",
    ),
    Fault(
        "fit does not check the labels of CTC",
        "trainers/data_checks.py",
        "output.loss.check_sequences(targets, lengths)",
        "pass",
        "tests/test_bad_data.py",
        function="_check_whole_sequences",
    ),
    Fault(
        "all steps that widening adds show the first gap",
        "ragged/packed.py",
        "getattr(self.index, self._cell_source_name(self.gap_values))[index.flat]",
        "np.minimum(getattr(self.index, self._cell_source_name(self.gap_values))[index.flat], self.index.num_steps)",
        RULE + " tests/test_packed.py",
        function="Packed.reindex",
    ),
    Fault(
        "masks of different width are equal",
        "ragged/index.py",
        "self.grid == other.grid and np.array_equal(self.flat, other.flat)",
        "np.array_equal(self.flat, other.flat)",
        "tests/test_index.py",
        function="Index.equals",
    ),
    Fault(
        "two threads build a layer",
        "layers/base/layer.py",
        "with structure_lock: ...",
        "if True: ...",
        "tests/test_threads.py",
        function="_build_once",
    ),
    Fault(
        "a call is not refused while another thread trains",
        "layers/base/layer.py",
        """
        if training_runs:
            check_no_other_thread_trains(self)
        """,
        "pass",
        "tests/test_threads.py",
        function="Layer._call_in_context",
    ),
    Fault(
        "a method that trains does not exclude others",
        "graph/model_runs.py",
        "self.kind != other.kind and 'train' not in (self.kind, other.kind)",
        "self.kind != other.kind",
        "tests/test_threads.py",
        function="ModelRun.excludes",
    ),
    Fault(
        "a model is trained while another thread copies it",
        "graph/model_runs.py",
        '"train" in (self.kind, other.kind) and ...',
        "False",
        "tests/test_threads.py",
        function="ModelRun.excludes",
    ),
    Fault(
        "the mode of a torch module changes while another thread runs it",
        "graph/train_mode.py",
        "while _holds and _is_blocked(hold, inner_modules): ...",
        "while False: ...",
        "tests/test_threads.py",
        function="_begin",
    ),
    Fault(
        "predict sets the mode for all threads",
        "trainers/train_step.py",
        "training or any(type(layer).train is not nn.Module.train for layer in layers)",
        "True",
        "tests/test_threads.py",
        function="TrainStepMixin._mode_of_epoch",
    ),
    Fault(
        "the end of a mode restores it although another thread needs it",
        "graph/train_mode.py",
        "later_holds = _holds[position + 1 :]",
        "later_holds = []",
        "tests/test_threads.py",
        function="_end",
    ),
    Fault(
        "a fork copies a lock that another thread holds",
        "_threads.py",
        "self._owner != threading.get_ident()",
        "self._owner is None",
        "tests/test_threads.py",
        function="ForkSafeLock._renew",
    ),
    Fault(
        "a cached order ignores its direction",
        "ragged/index.py",
        """
        key = (reverse, device)
        order = self._orders.get(key)
        """,
        """
        key = (False, device)
        order = self._orders.get(key)
        """,
        "tests/test_index.py " + KERAS,
        function="Index.time_major_order",
    ),
    Fault(
        "merged gaps show the first of them",
        "ragged/packed.py",
        "old_gaps[index.gap_of_cell[mixed]] = -1",
        "pass",
        "tests/test_packed.py tests/test_functions.py",
        function="Packed.rearrange_cells",
    ),
    Fault(
        "a step that widening adds shows zeros",
        "ragged/packed.py",
        "torch.cat([self.values, self.gap_values])[...]",
        "torch.cat([self.values, torch.zeros_like(self.gap_values)])[...]",
        RULE + " tests/test_packed.py",
        function="Packed.reindex",
    ),
]
SEGMENT = [
    Fault(
        "a mean is divided by the width of the grid",
        "kernels/segment_reduce.py",
        "index.tensor(..., values.device).clamp(min=1).to(wide.dtype)",
        "index.tensor(..., values.device).clamp(min=max(index.shape[1], 1)).to(wide.dtype)",
        PRESENCE,
        function="segment_mean",
    ),
    Fault(
        "the last step of an empty sequence is the last step of the row above",
        "kernels/segment_reduce.py",
        "torch.where(lengths > 0, offsets[1:] - 1, -1)",
        "offsets[1:] - 1",
        PRESENCE,
        function="segment_last",
    ),
    Fault(
        "the maximum of negative numbers is 0",
        "kernels/segment_reduce.py",
        'zeros.scatter_reduce(0, targets, values, "amax", include_self=False)',
        'zeros.scatter_reduce(0, targets, values, "amax", include_self=True)',
        PRESENCE,
        function="_SegmentMax.forward",
    ),
    Fault(
        "equal maxima get the whole gradient each",
        "kernels/segment_reduce.py",
        "(grads[0] / num_maxima).index_select(0, rows)",
        "grads[0].index_select(0, rows)",
        GRADCHECK,
        function="_SegmentMax.backward",
    ),
    Fault(
        "a softmax over time runs over the batch",
        "kernels/segment_reduce.py",
        "segment_sum(exponentials, index).index_select(0, rows)",
        "exponentials.sum(0, keepdim=True)",
        PRESENCE + " tests/test_global_pooling.py",
        function="segment_softmax",
    ),
    Fault(
        "pooling runs over the padded grid",
        "layers/pooling/global_pooling1d.py",
        """
        if isinstance(inputs, Packed):
            return type(self).kernel(inputs.values, inputs.index)
        if inputs.shape[1] == 0: ...
        return self.summarize_grid(inputs)
        """,
        """
        if isinstance(inputs, Packed):
            return self.summarize_grid(inputs.unpack())
        if inputs.shape[1] == 0: ...
        return self.summarize_grid(inputs)
        """,
        PRESENCE,
        function="SequenceSummary.call",
    ),
    Fault(
        "the statistics of a sequence count its padding",
        "kernels/moments.py",
        "index.tensor(..., x.device).clamp(min=1).to(x.dtype)[:, None]",
        "index.tensor(..., x.device).clamp(min=max(index.shape[1], 1)).to(x.dtype)[:, None]",
        PRESENCE,
        function="moments_of_sequences",
    ),
    Fault(
        "the features of a gap are normalized by another row",
        "layers/normalization/group_normalization.py",
        """
        rows = index.tensor(..., inputs.device)
        if len(inputs.gap_values) != len(rows): ...
        """,
        """
        rows = index.tensor(..., inputs.device).flip(0)
        if len(inputs.gap_values) != len(rows): ...
        """,
        _laws("independent_of_batch"),
        function="GroupNormalization.call",
    ),
]
STEPWISE = [
    Fault(
        "batch statistics include the values of gaps",
        "layers/normalization/batch_normalization.py",
        """
        count_epsilon = COUNT_EPSILON if isinstance(inputs, Packed) else 0.0
        mean, variance = batch_moments(values.to(dtype), axis, count_epsilon)
        """,
        """
        count_epsilon = COUNT_EPSILON if isinstance(inputs, Packed) else 0.0
        mean, variance = batch_moments((inputs.unpack() if count_epsilon else values).to(dtype), axis, count_epsilon)
        """,
        "tests/test_normalization.py " + ABSENCE,
        function="BatchNormalization.call",
    ),
    Fault(
        "a frozen BatchNormalization updates its moving statistics",
        "layers/normalization/batch_normalization.py",
        "training and self.trainable and values.numel() > 0",
        "training and values.numel() > 0",
        "tests/test_normalization.py",
        function="BatchNormalization.call",
    ),
    Fault(
        "the moving variance is the unbiased variance",
        "kernels/moments.py",
        "variance * ((count - 1) / count)",
        "variance",
        "tests/test_normalization.py",
        function="batch_normalize",
    ),
    Fault(
        "BatchNormalization at inference uses batch statistics",
        "layers/normalization/batch_normalization.py",
        """
        if uses_batch:
            count_epsilon = ...
            mean, variance = batch_moments(values.to(dtype), axis, count_epsilon)
            ...
        else:
            mean, variance = self.moving_mean.to(dtype), self.moving_variance.to(dtype)
        """,
        """
        if uses_batch:
            count_epsilon = ...
            mean, variance = batch_moments(values.to(dtype), axis, count_epsilon)
            ...
        else:
            mean, variance = (
                batch_moments(values.to(dtype), axis)
                if values.numel()
                else (self.moving_mean,) * 2
            )
        """,
        PRESENCE,
        function="BatchNormalization.call",
    ),
    Fault(
        "adapt counts padding",
        "layers/preprocessing/normalization.py",
        "(batch.values if isinstance(batch, Packed) else batch).to(torch.float64)",
        "(batch.unpack() if isinstance(batch, Packed) else batch).to(torch.float64)",
        "tests/test_normalization.py",
        function="_Found.and_of",
    ),
    Fault(
        "dropout is applied at inference",
        "layers/regularization/dropout.py",
        "not training or not self.amount",
        "not self.amount",
        PRESENCE,
        function="Noise.call",
    ),
    Fault(
        "SpatialDropout1D drops features for each step instead of each sequence",
        "layers/regularization/dropout.py",
        "super().__init__(rate, (None, 1, None), seed, ...)",
        "super().__init__(rate, (None, None, None), seed, ...)",
        "tests/test_stepwise_layers.py",
        function="SpatialDropout1D.__init__",
    ),
    Fault(
        "noise depends on the column of a step",
        "layers/regularization/dropout.py",
        "np.arange(index.steps) - index.offsets[index.rows]",
        "index.positions",
        "tests/test_stepwise_layers.py " + ABSENCE,
        function="_step_coordinates",
    ),
    Fault(
        "activity regularization includes the values of gaps",
        "layers/layer.py",
        """
        values = output.values if isinstance(output, Packed) else output
        values = values.to(...)
        """,
        """
        values = output.unpack() if isinstance(output, Packed) else output
        values = values.to(...)
        """,
        ABSENCE,
        function="Layer._add_activity_loss",
    ),
    Fault(
        "an activity loss is divided by steps instead of rows",
        "layers/base/layer.py",
        "penalty(values) / max(output.shape[0], 1)",
        "penalty(values) / max(len(values), 1)",
        PRESENCE,
        function="Layer._add_activity_loss",
    ),
    Fault(
        "an inner layer ignores the training mode of the outer layer",
        "layers/base/layer.py",
        "bool(self.training if enclosing_training is None else enclosing_training)",
        "bool(self.training)",
        "tests/test_layer.py",
        function="Layer._resolve_training",
    ),
    Fault(
        "an explicit mask is ignored by a layer whose call does not name it",
        "layers/base/layer.py",
        'arguments.get("mask", kwargs.get("mask"))',
        'arguments.get("mask")',
        RULE + " " + ABSENCE,
        function="Layer._call_on_data",
    ),
    Fault(
        "compute_mask of a built layer is not called",
        "layers/base/mask_rule.py",
        "if spec.overrides_compute_mask: ...",
        "if spec.overrides_compute_mask and not layer.built: ...",
        RULE,
        function="attach_output_masks",
    ),
    Fault(
        "a layer that reads the grid drops the mask of its output",
        "layers/base/mask_rule.py",
        "fits and (must_fit or output.ndim == source.ndim)",
        "fits and must_fit",
        RULE,
        function="_with_input_mask",
    ),
    Fault(
        "each mask of a list goes to the input before",
        "layers/base/mask_rule.py",
        "zip(x, mask, strict=True)",
        "zip(x, [*mask[1:], mask[0]], strict=True)",
        RULE + " " + ABSENCE,
        function="apply_explicit_mask",
    ),
    Fault(
        "a step is masked if one of its features equals the mask value",
        "layers/core/masking.py",
        "differs.any(dim=-1)",
        "differs.all(dim=-1)",
        RULE,
        function="Masking._is_real",
    ),
    Fault(
        "masked steps show row 1 of the embedding table",
        "layers/core/embedding.py",
        "self.embeddings[:1].expand(...)",
        "self.embeddings[1:2].expand(...)",
        KERAS,
        function="Embedding.call",
    ),
    Fault(
        "an outer step is real only if all masks created in it are real",
        "layers/base/mask_recorder.py",
        "index.mask.reshape(self.batch_size, -1).any(-1)",
        "index.mask.reshape(self.batch_size, -1).all(-1)",
        "tests/test_two_levels.py",
        function="MaskRecorder.real_examples",
    ),
]
SCAN = [
    Fault(
        "the input gate and the forget gate of an LSTM are swapped",
        "kernels/recurrent/manual.py",
        "for z_t, if_t, i_t, f_t, g_t, o_t, c_before_t, c_t, h_before_t, h_t in steps: ...",
        "for z_t, if_t, f_t, i_t, g_t, o_t, c_before_t, c_t, h_before_t, h_t in steps: ...",
        "tests/test_recurrent.py " + KERAS,
        function="_run_lstm",
    ),
    Fault(
        "a GRU uses its update gate as reset gate",
        "kernels/recurrent/manual.py",
        """
        a_t.addcmul_(r_t, m_t).tanh_()
        torch.lerp(a_t, h_before_t, z_t, ...)
        """,
        """
        a_t.addcmul_(z_t, m_t).tanh_()
        torch.lerp(a_t, h_before_t, z_t, ...)
        """,
        "tests/test_recurrent.py " + KERAS,
        function="_run_gru",
    ),
    Fault(
        "the update gate of a GRU is inverted",
        "kernels/recurrent/reference.py",
        "z * h + (1 - z) * candidate",
        "(1 - z) * h + z * candidate",
        "tests/test_recurrent.py " + KERAS,
        function="gru.step",
    ),
    Fault(
        "the gradient of a GRU's candidate uses the wrong gate",
        "kernels/recurrent/manual.py",
        "tanh_backward(1 - z, a, grad_input=factor_a)",
        "tanh_backward(z, a, grad_input=factor_a)",
        GRADCHECK,
        function="_gru_factors",
    ),
    Fault(
        "the gradient of an LSTM's cell state skips the forget gate",
        "kernels/recurrent/manual.py",
        """
        dc_t.mul_(f_t)
        dh_before_t.addmm_(dz_t, recurrent_t)
        """,
        """
        dc_t.mul_(f_t > -1)
        dh_before_t.addmm_(dz_t, recurrent_t)
        """,
        GRADCHECK,
        function="_LSTM.backward",
    ),
    Fault(
        "the gradient of a bias misses a step",
        "kernels/recurrent/time_major.py",
        """
        if self.bias is not None and self.state_bias is not None:
            self.bias += input_product_grads.sum(0)
            ...
        """,
        """
        if self.bias is not None and self.state_bias is not None:
            self.bias += input_product_grads[1:].sum(0)
            ...
        """,
        GRADCHECK,
        function="WeightGradients.add",
    ),
    Fault(
        "the state before a step is the state of another row",
        "kernels/recurrent/time_major.py",
        """
        rows_before = (self.rows_before, *self.sizes[:-1])
        first = self.num_rows + self.start - self.rows_before
        """,
        """
        rows_before = (self.rows_before, *self.sizes[:-1])
        first = self.num_rows + self.start - self.sizes[0]
        """,
        "tests/test_recurrent.py",
        function="TimeChunk.states_before",
    ),
    Fault(
        "second derivatives are counted twice for inputs that depend on each other",
        "kernels/double_backward.py",
        "[x if x is None else x.view_as(x) for x in ...]",
        "[x for x in ...]",
        GRADCHECK,
        function="Reference.gradients",
    ),
    Fault(
        "last states are in the order in which sequences end",
        "kernels/recurrent/reference.py",
        "torch.cat(parts[::-1])",
        "torch.cat(parts)",
        "tests/test_recurrent.py " + PRESENCE,
        function="scan",
    ),
    Fault(
        "stateful states are not detached",
        "layers/rnn/rnn.py",
        "_pytree.tree_map(lambda state: state.detach(), last_states)",
        "_pytree.tree_map(lambda state: state, last_states)",
        "tests/test_fit.py",
        function="RNN.run",
    ),
    Fault(
        "a probe changes the states of a stateful layer",
        "layers/rnn/rnn.py",
        "keeps_states = self.stateful and not in_shape_inference()",
        "keeps_states = self.stateful",
        "tests/test_fit.py",
        function="RNN.run",
    ),
    Fault(
        "outputs of a backward layer are not reversed",
        "layers/rnn/rnn.py",
        "sequence.rearrange_cells(cell_numbers[:, ::-1])",
        "sequence.rearrange_cells(cell_numbers)",
        _laws("go_backwards_equals_reversed_steps") + " " + PRESENCE,
        function="RNN._sequence_output",
    ),
    Fault(
        "the mask of a backward layer is not reversed",
        "layers/rnn/rnn.py",
        "torch.as_tensor(output_mask).flip(1)",
        "torch.as_tensor(output_mask)",
        PRESENCE,
        function="RNN.compute_mask",
    ),
    Fault(
        "gaps show zeros if they should repeat the output",
        "layers/rnn/rnn.py",
        """
        if self.zero_output_for_mask:
            return sequence.values.new_zeros(...)
        """,
        """
        if not self.zero_output_for_mask:
            return sequence.values.new_zeros(...)
        """,
        KERAS,
        function="RNN._gap_values",
    ),
    Fault(
        "the output for an empty sequence is the initial state",
        "layers/rnn/rnn.py",
        "torch.where(has_steps, states[0], 0)",
        "states[0]",
        _laws("output_of_an_empty_sequence_is_zero_and_its_state_the_initial_state"),
        function="RNN._last_output",
    ),
    Fault(
        "an initial state is ignored",
        "layers/rnn/rnn.py",
        """
        if argument is not None: ...
        if not self.stateful or self.states is None or in_shape_inference(): ...
        """,
        """
        if argument is not None and self.stateful: ...
        if not self.stateful or self.states is None or in_shape_inference(): ...
        """,
        KERAS,
        function="RNN._first_states",
    ),
    Fault(
        "the last output of a backward layer with a user-defined cell is that of the last step",
        "layers/rnn/rnn.py",
        "offsets[:-1] if self.go_backwards else offsets[1:] - 1",
        "offsets[1:] - 1",
        PRESENCE + " " + KERAS,
        function="RNN._last_output",
    ),
    Fault(
        "only one direction resets its states",
        "layers/rnn/bidirectional.py",
        """
        self.forward_layer.reset_state()
        self.backward_layer.reset_state()
        """,
        "self.forward_layer.reset_state()",
        KERAS + " tests/test_cells.py",
        function="Bidirectional.reset_state",
    ),
    Fault(
        "the bias of the input gate begins at 1 instead of the forget gate's",
        "layers/rnn/cells.py",
        "bias[self.units : 2 * self.units] = 1",
        "bias[: self.units] = 1",
        KERAS + " tests/test_weights.py",
        function="LSTMCell._first_bias",
    ),
    Fault(
        "plain batches of one size and different length have the same index",
        "ragged/index.py",
        "np.ones((batch, steps), dtype=bool)",
        "np.ones((batch, 1), dtype=bool)",
        "tests/test_cells.py",
        function="Index.dense",
    ),
    Fault(
        "the gradient of a last state is lost",
        "kernels/recurrent/time_major.py",
        "buffer if last is None else buffer.index_add_(0, self.last_state, last)",
        "buffer",
        GRADCHECK,
        function="TimeMajorPlan.incoming_gradients",
    ),
    Fault(
        "the two directions get each other's initial states",
        "layers/rnn/bidirectional.py",
        "return states[:half], states[half:]",
        "return states[half:], states[:half]",
        KERAS,
        function="Bidirectional._split_states",
    ),
    Fault(
        "dropout of inputs is applied at inference",
        "layers/rnn/cells.py",
        "if training and self.dropout > 0: ...",
        "if self.dropout > 0: ...",
        KERAS + " tests/test_cells.py",
        function="Cell.run_packed",
    ),
    Fault(
        "dropout of inputs uses the pattern of another sequence",
        "layers/rnn/cells.py",
        """
        pattern = self._dropout_pattern(...)
        values = values * pattern.index_select(0, index.tensor(..., values.device))
        """,
        """
        pattern = self._dropout_pattern(...)
        values = values * pattern.index_select(0, index.tensor(..., values.device).flip(0))
        """,
        KERAS + " tests/test_cells.py",
        function="Cell.run_packed",
    ),
    Fault(
        "the upper cells of a stack always run forwards",
        "layers/rnn/cells.py",
        """
        for cell, state in zip(self.cells, states, strict=True):
            is_list = ...
            values, new_states = run_cell(cell, values, index, ..., reverse, training)
            ...
        """,
        """
        for cell, state in zip(self.cells, states, strict=True):
            is_list = ...
            values, new_states = run_cell(cell, values, index, ..., reverse and cell is self.cells[0], training)
            ...
        """,
        KERAS,
        function="StackedRNNCells.run_packed",
    ),
    Fault(
        "the input gate and the forget gate of a convolutional LSTM are swapped",
        "layers/rnn/conv_lstm1d.py",
        "i, f, g, o = (x + from_state).chunk(4, gate_axis)",
        "f, i, g, o = (x + from_state).chunk(4, gate_axis)",
        "tests/test_conv_lstm.py",
        function="ConvLSTM1DCell.run_packed.step",
    ),
]
WINDOW = [
    Fault(
        "the time of a window begins at the first column of the grid",
        "kernels/conv/plan.py",
        "first_columns[not_empty] = index.positions[index.offsets[:-1][not_empty]]",
        "pass",
        PRESENCE + " " + ABSENCE,
        function="row_spans",
    ),
    Fault(
        "the span of a sequence ends at the last column of the grid",
        "kernels/conv/plan.py",
        "lengths[not_empty] = index.positions[index.offsets[1:][not_empty] - 1] - first_columns[not_empty] + 1",
        "lengths[not_empty] = index.shape[1] - first_columns[not_empty]",
        PRESENCE + " " + ABSENCE,
        function="row_spans",
    ),
    Fault(
        "two windows of one type on the same steps share a plan",
        "kernels/conv/plan.py",
        "_layouts.get(index, window, ...)",
        "_layouts.get(index, type(window), ...)",
        "tests/test_windowed_layers.py",
        function="window_layout",
    ),
    Fault(
        "windows read steps of the next row",
        "kernels/conv/plan.py",
        "np.maximum(left_padding + span_lengths, ends - next_left_padding)",
        "left_padding + span_lengths",
        PRESENCE,
        function="_layout",
    ),
    Fault(
        "a window without a real step is a step",
        "kernels/conv/plan.py",
        """
        real = real_steps_seen > 0
        rows, window_starts, output_numbers = rows[real], window_starts[real], output_numbers[real]
        """,
        """
        real = real_steps_seen >= 0
        rows, window_starts, output_numbers = rows[real], window_starts[real], output_numbers[real]
        """,
        "tests/test_windowed_layers.py",
        function="_layout",
    ),
    Fault(
        "outputs of a strided window are at the columns of their inputs",
        "kernels/conv/plan.py",
        "first_columns[rows] // window.stride + output_numbers",
        "first_columns[rows] + output_numbers",
        "tests/test_windowed_layers.py",
        function="_layout",
    ),
    Fault(
        "a crop removes one step too many",
        "kernels/conv/plan.py",
        "(time >= left) & (time < ...)",
        "(time > left) & (time < ...)",
        "tests/test_windowed_layers.py",
        function="crop_spans.compute",
    ),
    Fault(
        "the mean of a window counts gaps",
        "kernels/conv/windows.py",
        'sums / layout.tensor("num_real_steps", values.device)[:, None].to(...)',
        "sums / window.size",
        PRESENCE + " tests/test_windowed_layers.py",
        function="packed_average_pool1d",
    ),
    Fault(
        "a gap is 0 in a maximum",
        "kernels/conv/windows.py",
        "layout.to_line(values, lowest_value(values.dtype))",
        "layout.to_line(values)",
        "tests/test_windowed_layers.py",
        function="packed_max_pool1d",
    ),
    Fault(
        "a causal convolution reads the next step",
        "kernels/conv/windows.py",
        'self.extent - 1 if self.padding == "causal" else 0',
        'max(self.extent - 2, 0) if self.padding == "causal" else 0',
        "tests/test_windowed_layers.py",
        function="Window.left_padding",
    ),
    Fault(
        "a kernel with one filter keeps the odd strides that torch takes for another format",
        "kernels/conv/windows.py",
        "_to_images(kernel.permute(2, 0, 1))",
        "kernel.permute(2, 1, 0).unsqueeze(2)",
        "tests/test_sizes.py",
        function="_to_image_weight",
    ),
]
ATTEND = [
    Fault(
        "a causal mask is off by one",
        "kernels/attention/reference.py",
        """
        if self.causal:
            allowed = distance >= 0
        """,
        """
        if self.causal:
            allowed = distance > 0
        """,
        "tests/test_attention_layers.py",
        function="AttentionMask.by_columns",
    ),
    Fault(
        "the fast causal mask is off by one",
        "kernels/attention/grouped.py",
        "torch.ones(...).tril()[None, None]",
        "torch.ones(...).tril(-1)[None, None]",
        "tests/test_attention_layers.py",
        function="_causal_mask",
    ),
    Fault(
        "a sliding window is one step too wide",
        "kernels/attention/reference.py",
        "distance.abs() < self.window",
        "distance.abs() <= self.window",
        "tests/test_attention_layers.py",
        function="AttentionMask.by_columns",
    ),
    Fault(
        "softmax includes padding",
        "kernels/attention/grouped.py",
        "GroupMask(padding, is_causal=False, every_query_has_a_key=True)",
        "GroupMask(None, is_causal=False, every_query_has_a_key=True)",
        "tests/test_attention_layers.py " + PRESENCE,
        function="_group_mask",
    ),
    Fault(
        "a query without visible keys gets the mean of all values",
        "kernels/attention/reference.py",
        "scores.masked_fill(...).softmax(-1) * any_allowed",
        "scores.masked_fill(...).softmax(-1)",
        "tests/test_attention_layers.py",
        function="masked_softmax",
    ),
    Fault(
        "columns are used as numbers of steps",
        "kernels/attention/grouped.py",
        "np.array_equal(index.positions, np.arange(index.num_steps) - index.offsets[index.rows])",
        "True",
        "tests/test_attention_layers.py",
        function="_is_right_padded",
    ),
    Fault(
        "heads of queries use the wrong keys",
        "kernels/attention/reference.py",
        "x.repeat_interleave(num_heads // x.shape[1], dim=1)",
        "x.repeat(1, num_heads // x.shape[1], 1)",
        "tests/test_attention_layers.py",
        function="repeat_heads",
    ),
    Fault(
        "attention uses only the mask of the value",
        "layers/attention/attention.py",
        "reduce(intersection, indexes)",
        "indexes[0]",
        "tests/test_attention_layers.py",
        function="align_value_and_key",
    ),
    Fault(
        "attention returns the mask of the value",
        "layers/attention/attention.py",
        "mask[0] if isinstance(mask, list | tuple) else mask",
        "mask[1] if isinstance(mask, list | tuple) else mask",
        "tests/test_attention_layers.py",
        function="Attention.compute_mask",
    ),
    Fault(
        "dropout of attention weights is applied at inference",
        "layers/attention/multi_head_attention.py",
        "self._drop_weights if training and self.dropout else None",
        "self._drop_weights if self.dropout else None",
        "tests/test_attention_layers.py",
        function="_AttentionWithHeads.call",
    ),
    Fault(
        "positions are numbered through the batch",
        "layers/attention/position_embedding.py",
        "np.arange(index.steps) - index.offsets[index.rows]",
        "np.arange(index.steps)",
        PRESENCE,
        function="_count_positions",
    ),
    Fault(
        "positions are columns although steps are counted",
        "layers/attention/position_embedding.py",
        'index.positions if count == "columns" else ...',
        "index.positions if count else ...",
        "tests/test_attention_layers.py " + PRESENCE,
        function="_count_positions",
    ),
]
NATIVE_ATTENTION, NATIVE_RNN, NATIVE_CONV = (
    "tests/test_attention_native.py",
    "tests/test_recurrent_native.py",
    "tests/test_conv_native.py",
)
ACTIVATIONS, THREADS, FORGED = (
    "tests/test_activations_native.py",
    "tests/test_thread_counts.py",
    "tests/test_forged_index.py",
)
COMPILED = [
    Fault(
        "tanh of a small number is a difference of large ones",
        "kernels/native/activations.h",
        "return (vec)((uvec)divide(s, s + 1.0f) | sign);",
        "return (vec)((uvec)(1.0f - divide(broadcast(1.0f), s + 1.0f)) | sign);",
        ACTIVATIONS,
        function="tanh_vec",
    ),
    Fault(
        "tanh loses the sign of 0",
        "kernels/native/activations.h",
        "return (vec)((uvec)divide(s, s + 1.0f) | sign);",
        "return select_vec(x < broadcast(0.0f), -divide(s, s + 1.0f), divide(s, s + 1.0f));",
        ACTIVATIONS,
        function="tanh_vec",
    ),
    Fault(
        "sigmoid of a large negative number is flushed to 0",
        "kernels/native/activations.h",
        "at_least(-104.0f, (vec)((uvec)x | 0x80000000u))",
        "at_least(-80.0f, (vec)((uvec)x | 0x80000000u))",
        ACTIVATIONS,
        function="sigmoid",
    ),
    Fault(
        "the sums of a bias are split by the number of threads",
        "kernels/recurrent/native.py",
        "min(MAX_BIAS_ROWS, int((lengths > 0).sum()))",
        "min(torch.get_num_threads(), int((lengths > 0).sum()))",
        THREADS,
        function="SequenceParts.of_index",
    ),
    Fault(
        "two threads add to the same row of sums",
        "kernels/recurrent/native.py",
        "(row_offsets[parts], bias_rows, first_steps, lengths, batch_rows)",
        "(row_offsets[parts], bias_rows // 2, first_steps, lengths, batch_rows)",
        THREADS,
        function="SequenceParts.of_index",
    ),
    Fault(
        "a long sum is split by the number of threads",
        "kernels/fixed_order_sum.py",
        'x.numel() < ONE_THREAD or x.device.type != "cpu"',
        "True",
        THREADS,
        function="sum_in_fixed_order",
    ),
    Fault(
        "a kernel reads rows that a changed index names beyond the values",
        "kernels/native/library.py",
        "offsets[-1] != num_rows",
        "False",
        FORGED,
        function="check_offsets",
    ),
    Fault(
        "a kernel reads windows beyond the line",
        "kernels/conv/native.py",
        "last * window_stride + window_size > line.numel()",
        "False",
        FORGED,
        function="_check_windows",
    ),
    Fault(
        "the running sum is not rescaled to a greater maximum",
        "kernels/native/attention.c",
        "*sum = *sum * shrink + total",
        "*sum = *sum + total",
        NATIVE_ATTENTION,
        function="softmax_block",
    ),
    Fault(
        "the running output is not rescaled to a greater maximum",
        "kernels/native/attention.c",
        "for (i64 i = 0; j && i < args->width; i++)",
        "for (i64 i = 0; 0 && i < args->width; i++)",
        NATIVE_ATTENTION,
        function="attend_block",
    ),
    Fault(
        "a piece of keys whose scores are all minus infinity is NaN",
        "kernels/native/attention.c",
        "select_vec(new_maximum == lowest, broadcast(0.0f), new_maximum)",
        "new_maximum",
        NATIVE_ATTENTION,
        function="softmax_block",
    ),
    Fault(
        "a compiled kernel reads a tensor without data",
        "kernels/native/library.py",
        "torch.compiler.is_compiling() or torch.jit.is_tracing() or in_functional_transform(*tensors) or in_dispatch_mode()",
        "torch.compiler.is_compiling() or torch.jit.is_tracing() or in_functional_transform(*tensors)",
        NATIVE_ATTENTION,
        function="can_access_memory",
    ),
    Fault(
        "a batch of gradients under vmap is read as one gradient",
        "kernels/double_backward.py",
        "not torch.is_grad_enabled() and not in_functional_transform(*grads)",
        "not torch.is_grad_enabled()",
        NATIVE_ATTENTION,
        function="with_double_backward.hand_written_or_reference",
    ),
    Fault(
        "the maximum score of a causal query includes hidden keys",
        "kernels/native/attention.c",
        "select_vec(lanes_from(offset + i), x, lowest)",
        "x",
        NATIVE_ATTENTION,
        function="softmax_block",
    ),
    Fault(
        "the backward pass of a causal query includes the next step",
        "kernels/native/attention.c",
        "if (args->causal && offset + i > c)",
        "if (args->causal && offset + i > c + 1)",
        NATIVE_ATTENTION,
        function="score_gradients",
    ),
    Fault(
        "the output of a query without keys is not initialized",
        "kernels/native/attention.c",
        "if (!end) zero_rows(args->out",
        "if (0) zero_rows(args->out",
        NATIVE_ATTENTION,
        function="attend_block",
    ),
    Fault(
        "the gradient of softmax omits the sum over keys",
        "kernels/native/attention.c",
        "x * (load(d) - out_product) * args->scale",
        "x * load(d) * args->scale",
        NATIVE_ATTENTION,
        function="score_gradients",
    ),
    Fault(
        "all heads of queries use the first head of keys",
        "kernels/native/attention.c",
        "head / (args->heads / args->groups)",
        "0",
        NATIVE_ATTENTION,
        function="attend_block",
    ),
    Fault(
        "a block of queries overwrites the next row",
        "kernels/native/attention.c",
        "i < LANES && r + i < n; i++)",
        "i < LANES; i++)",
        NATIVE_ATTENTION,
        function="transpose_out",
    ),
    Fault(
        "a sequence begins with the initial state of another",
        "kernels/native/recurrent.c",
        "initial + args->batch_rows[s] * args->units",
        "initial + s * args->units",
        NATIVE_RNN,
        function="state_before",
    ),
    Fault(
        "an infinite input makes the padding of the units NaN",
        "kernels/native/recurrent.c",
        "if (args->real_units < U)",
        "if (0)",
        NATIVE_RNN,
        function="project_inputs",
    ),
    Fault(
        "the gradient from later steps is lost if the loss uses all steps",
        "kernels/native/recurrent.c",
        "return args->grad_outputs ? from_next + load(args->grad_outputs",
        "return args->grad_outputs ? load(args->grad_outputs",
        NATIVE_RNN,
        function="gradient_of_h",
    ),
    Fault(
        "selected windows are the first ones",
        "kernels/native/conv.c",
        "(args->window_numbers ? args->window_numbers[w + m] : w + m)",
        "(w + m)",
        NATIVE_CONV,
        function="conv_windows",
    ),
    Fault(
        "windows omit their bias",
        "kernels/native/conv.c",
        "args->bias ? bias : 0",
        "0",
        NATIVE_CONV,
        function="conv_windows",
    ),
    Fault(
        "matrix products omit the sum of earlier pieces",
        "kernels/native/gemm.h",
        "k ? (const float *const *)out + m : begin ? begin + m : 0",
        "begin ? begin + m : 0",
        NATIVE_RNN,
        function="gemm",
    ),
]
COMBINE = [
    Fault(
        "a factor without the step is 0",
        "layers/merging/elementwise.py",
        "missing = 1.0",
        "missing = 0.0",
        _laws("a_merge_uses_the_inputs_that_have_the_step"),
        function="Multiply",
    ),
    Fault(
        "a mean counts inputs without the step",
        "layers/merging/elementwise.py",
        """
        count = ...
        return merged.with_values(merged.values / count)
        """,
        """
        count = ...
        return merged.with_values(merged.values / len(inputs))
        """,
        _laws("a_merge_uses_the_inputs_that_have_the_step"),
        function="Average.merge_with_missing_steps",
    ),
    Fault(
        "compute_mask of a merge returns the intersection",
        "layers/merging/elementwise.py",
        "reduce(torch.logical_or, masks)",
        "reduce(torch.logical_and, masks)",
        _laws("a_merge_uses_the_inputs_that_have_the_step"),
        function="Merge.compute_mask",
    ),
    Fault(
        "Dot over time uses the steps of the first input",
        "layers/merging/concatenate_dot.py",
        """
        both = intersection(x.index, y.index)
        x, y = x.reindex(both), y.reindex(both)
        """,
        """
        both = intersection(x.index, y.index)
        y = Packed(y.unpack(padding=0)[tuple(x.index.coordinates(y.device))], x.index)
        """,
        "tests/test_merging.py",
        function="_select_common_steps",
    ),
    Fault(
        "RepeatVector repeats the vectors in reversed order",
        "layers/reshaping/reshape.py",
        "Packed(rows.index_select(0, index.tensor(..., rows.device)), index, gap_values)",
        "Packed(rows.flip(0).index_select(0, index.tensor(..., rows.device)), index, gap_values)",
        PRESENCE,
        function="_repeat_to_steps",
    ),
]
TRAINING = [
    Fault(
        "a loss is divided by rows instead of steps",
        "losses/loss.py",
        "WeightedSum(total, float(self.values.numel()))",
        "WeightedSum(total, float(self.values.numel() if self.index is None else self.index.shape[0]))",
        "tests/test_losses.py",
        function="PerStepValues.reduce",
    ),
    Fault(
        "a nested evaluation resets the sums of the epoch",
        "trainers/nested_runs.py",
        """
        for state in self.metric_states:
            state.restore()
        """,
        "pass",
        "tests/test_nested_runs.py",
        function="_RunState.restore",
    ),
    Fault(
        "a nested evaluation loses the losses of the epoch",
        "trainers/nested_runs.py",
        "output.loss_sum = loss_sum",
        "pass",
        "tests/test_nested_runs.py",
        function="_RunState.restore",
    ),
    Fault(
        "0 times NaN is NaN for a target of weight 0",
        "losses/loss.py",
        "return self.replace_targets(targets, outputs, unweighted)",
        "return targets",
        "tests/test_sample_weights.py",
        function="Loss.weighted_targets",
    ),
    Fault(
        "a NaN among the sample weights trains the model",
        "ragged/alignment.py",
        "not tensor.is_floating_point() or math.isfinite(tensor.sum().item())",
        "True",
        "tests/test_sample_weights.py",
        function="find_not_finite",
    ),
    Fault(
        "sample weights are ignored",
        "losses/loss.py",
        "values if self.weight is None else values * self.weight",
        "values",
        "tests/test_losses.py",
        function="PerStepValues.weighted_values",
    ),
    Fault(
        "a loss is always divided by its sample weights",
        "losses/loss.py",
        'reduction == "mean_with_sample_weight" and self.weight is not None',
        "self.weight is not None",
        "tests/test_losses.py",
        function="PerStepValues.reduce",
    ),
    Fault(
        "a loss of whole sequences reads the values of gaps",
        "losses/loss.py",
        "grid = Packed(y_pred.values, index).unpack()",
        "grid = y_pred.unpack()",
        "tests/test_losses.py tests/test_fit.py",
        function="Loss._per_sequence_values",
    ),
    Fault(
        "the loss of an epoch is a mean of means",
        "trainers/compile_utils.py",
        "WeightedSum(term.sum.detach().double(), _double(term.weight), term.adds)",
        "WeightedSum(term.value.detach().double(), 1.0)",
        "tests/test_fit.py",
        function="CompiledObjective.add_loss",
    ),
    Fault(
        "a plain sum is divided by the number of batches",
        "losses/loss.py",
        "self.weight + other.weight if self.adds_weights else self.weight",
        "self.weight + other.weight",
        "tests/test_losses.py tests/test_fit.py",
        function="WeightedSum.__add__",
    ),
    Fault(
        "an empty sequence counts in a loss of whole sequences",
        "losses/loss.py",
        "(scatter_rows(values, rows, len(grid)), to_device(np.asarray(nonempty), grid.device))",
        "(scatter_rows(values, rows, len(grid)), None)",
        "tests/test_losses.py",
        function="Loss._call_on_sequences",
    ),
    Fault(
        "sample weights change metrics that are not weighted",
        "trainers/compile_utils.py",
        "metric.update_state(target, output)",
        "metric.update_state(target, output, weight)",
        "tests/test_fit.py",
        function="CompiledObjective.update_metrics",
    ),
    Fault(
        "each batch of a step adds the regularization of the weights to the gradient",
        "trainers/accumulation_group.py",
        "not self.penalty_added",
        "True",
        "tests/test_accumulation.py",
        function="AccumulationGroup._split_loss",
    ),
    Fault(
        "a backup is written before the gradient of a step is complete",
        "trainers/run_state.py",
        "group is None or not group.remaining",
        "True",
        "tests/test_nothing_lost.py",
        function="FitState.can_checkpoint",
    ),
    Fault(
        "sums are restored into a metric with another config",
        "trainers/metric_state.py",
        'saved.get("config", config) != config',
        "False",
        "tests/test_restored_state.py",
        function="_check_object",
    ),
    Fault(
        "sums are restored into a metric of another class",
        "trainers/metric_state.py",
        "saved_description != description or ...",
        "False",
        "tests/test_restored_state.py",
        function="_check_object",
    ),
    Fault(
        "the state of a callback is restored into one that monitors another result",
        "trainers/run_state.py",
        'saved.get("config", c.state_config) == c.state_config',
        "True",
        "tests/test_restored_state.py",
        function="FitState._pair_callbacks",
    ),
    Fault(
        "a backup in the middle of an epoch has no sums of losses",
        "trainers/metric_state.py",
        "owner.loss_sum = _as_sum(...)",
        "pass",
        "tests/test_nothing_lost.py",
        function="_set_attributes",
    ),
    Fault(
        "logs are computed for a hook that no callback uses",
        "callbacks/callback.py",
        "hook in vars(self) or ...",
        "True",
        "tests/test_callbacks.py",
        function="Callback.uses_hook",
    ),
    Fault(
        "the velocity of Nesterov's momentum is applied without the gradient",
        "optimizers/optimizers.py",
        """
        torch_foreach._foreach_add_(params, grads, alpha=-rate)
        torch_foreach._foreach_add_(params, velocities, alpha=momentum)
        """,
        "torch_foreach._foreach_add_(params, velocities, alpha=momentum)",
        "tests/test_optimizers.py",
        function="SGD._update_parameters",
    ),
    Fault(
        "a metric is a mean of means",
        "metrics/metric.py",
        """
        self.total.assign_add(weighted_sum.sum)
        self.count.assign_add(weighted_sum.weight)
        """,
        """
        self.total.assign_add(weighted_sum.value)
        self.count.assign_add(1.0)
        """,
        "tests/test_metrics.py",
        function="Mean.add_weighted_sum",
    ),
    Fault(
        "sample weights of sequences are applied to other sequences",
        "ragged/alignment.py",
        "index.coordinates(weights.device)[: len(shape)]",
        "torch.stack(index.coordinates(weights.device)[: len(shape)]).flip(1).unbind()",
        "tests/test_losses.py",
        function="step_weights",
    ),
    Fault(
        "sample weights of integers are cut to integers",
        "ragged/alignment.py",
        "values.dtype if values.dtype.is_floating_point else torch.get_default_dtype()",
        "values.dtype",
        "tests/test_keras_metrics.py",
        function="broadcast_weights",
    ),
    Fault(
        "thresholds are cut to integers if the outputs are integers",
        "metrics/confusion_metrics.py",
        "outputs.to(torch.promote_types(outputs.dtype, torch.float32))",
        "outputs",
        "tests/test_keras_metrics.py",
        function="add_counts",
    ),
]
GRAPH = [
    Fault(
        "the values of gaps are dropped before a layer that reads them",
        "graph/function.py",
        "node.operation.needs_gap_values(outputs_read)",
        "outputs_read",
        "tests/test_graph.py tests/test_model.py",
        function="_reads_gap_values",
    ),
    Fault(
        "a frozen layer is saved as trainable",
        "layers/layer.py",
        '{"name": self.name, "trainable": self.trainable, "dtype": dtype}',
        '{"name": self.name, "trainable": True, "dtype": dtype}',
        "tests/test_layer.py",
        function="Layer.get_config",
    ),
    Fault(
        "a weight in a file may be larger than the arrays of the file",
        "graph/deferred_weights.py",
        "self._total_size > 2 * self.num_elements + _SPARE_ELEMENTS",
        "False",
        "tests/test_file_resources.py",
        function="DeferredWeights._check_sum",
    ),
    Fault(
        "initializers run while a file is read",
        "layers/base/weights.py",
        "if deferred is not None: ...",
        "if False: ...",
        "tests/test_file_resources.py",
        function="WeightContainer._new_weight",
    ),
    Fault(
        "arrays of another kind of numbers become weights",
        "models/loading.py",
        "array.dtype != weight.dtype and not (array.is_floating_point() and weight.is_floating_point())",
        "False",
        "tests/test_file_resources.py",
        function="check_weights",
    ),
    Fault(
        "a saved call may have any argument",
        "graph/saved_functions.py",
        "not any(_is_of_kind(item, kind) for kind in parameter.kinds)",
        "False",
        "tests/test_saved_functions.py",
        function="_check_value",
    ),
    Fault(
        "a saved call needs no symbolic input",
        "graph/saved_functions.py",
        "if not symbols: ...",
        "if False: ...",
        "tests/test_saved_functions.py",
        function="check_call",
    ),
    Fault(
        "a file may be a pickle, too",
        "saving/safetensors_io.py",
        "if opcodes & _CALLING_OPCODES: ...",
        "if False: ...",
        "tests/test_forged_files.py",
        function="_check_single_format",
    ),
    Fault(
        "arrays of a file may overlap or leave gaps",
        "saving/safetensors_io.py",
        "entry.begin != position",
        "False",
        "tests/test_forged_files.py",
        function="_read_header",
    ),
    Fault(
        "a file without a checksum is read",
        "saving/safetensors_io.py",
        "if foreign: ...",
        "if True: ...",
        "tests/test_forged_files.py",
        function="_read_config",
    ),
    Fault(
        "JSON text may be nested without a bound",
        "saving/json_text.py",
        "depth > MAX_DEPTH",
        "False",
        "tests/test_forged_files.py",
        function="check_bounds",
    ),
    Fault(
        "what a config names may be of any kind",
        "saving/serialization.py",
        "not any(is_of_kind(definition, kind) for kind in kinds)",
        "False",
        "tests/test_forged_files.py",
        function="_check_kind",
    ),
    Fault(
        "loading a model takes automatic names of the process",
        "graph/node.py",
        "(_separate_names.get() or _names).next_name(prefix)",
        "_names.next_name(prefix)",
        "tests/test_forged_files.py",
        function="auto_name",
    ),
    Fault(
        "plans of any size are made while a file is read",
        "ragged/plan_limit.py",
        "limit is not None and math.prod(sizes) > limit",
        "False",
        "tests/test_file_resources.py",
        function="check_plan",
    ),
    Fault(
        "a user-defined call runs on values while a model is built",
        "layers/base/layer.py",
        """
        if is_unknown:
            return math.inf
        """,
        "pass",
        "tests/test_shape_inference.py",
        function="Layer._max_elements_in_call",
    ),
    Fault(
        "a call on symbols writes into tensors from before",
        "graph/meta_mode.py",
        "_storage_id(tensor) not in self._own_storages",
        "False",
        "tests/test_shape_inference.py",
        function="MetaMode.__torch_dispatch__",
    ),
    Fault(
        "a declared output shape is not used",
        "layers/base/layer.py",
        "if not spec.declares_output_shape: ...",
        "if True: ...",
        "tests/test_shape_inference.py",
        function="Layer._infer_outputs",
    ),
    Fault(
        "a call on zeros leaves another random state",
        "graph/shape_inference.py",
        """
        if run is not None and run.random_state is not None:
            torch.set_rng_state(run.random_state)
        """,
        "pass",
        "tests/test_shape_inference.py",
        function="_tensors_restored",
    ),
]
DATA = [
    Fault(
        "a Sequential that is not built reads lists of equal lengths as an array",
        "trainers/trainer.py",
        "return data if spec is UNKNOWN_SPEC else data.for_spec(spec)",
        "return data",
        "tests/test_adapters.py",
        function="Trainer._read_and_build",
    ),
    Fault(
        "the first example of a Dataset is read each time that it is needed",
        "data/map_dataset.py",
        "self._head is None or len(self._head) < num_rows",
        "True",
        "tests/test_adapters.py",
        function="MapDatasetAdapter.head",
    ),
    Fault(
        "a generator loses the batch that was read to build the model",
        "data/iterable_dataset.py",
        """
        if self._peeked is None:
            self._peeked = self._read_next().copy()
        return self._peeked
        """,
        "return self._read_next()",
        "tests/test_iterable_dataset.py",
        function="BatchReader.peek",
    ),
    Fault(
        "the mask of a NumPy masked array is ignored",
        "ragged/masked_array.py",
        "isinstance(value, MaskedArray) and bool(np.ma.is_masked(value))",
        "False",
        "tests/test_masked_arrays.py",
        function="is_masked_array",
    ),
    Fault(
        "the batches of one accumulation share a buffer that is filled again",
        "data/epoch_iterator.py",
        "keep_batches and data.lends_memory",
        "False",
        "tests/test_reused_memory.py",
        function="EpochIterator.__init__",
    ),
    Fault(
        "the first batch of a generator is a view of a buffer that is filled again",
        "data/iterable_dataset.py",
        "self._peeked = self._read_next().copy()",
        "self._peeked = self._read_next()",
        "tests/test_reused_memory.py",
        function="BatchReader.peek",
    ),
    Fault(
        "the examples of a Dataset share a buffer that is filled again",
        "data/map_dataset.py",
        "return copy_example(self.source[number])",
        "return self.source[number]",
        "tests/test_reused_memory.py",
        function="MapDatasetAdapter._read_example",
    ),
    Fault(
        "predictions are views of a buffer that is filled again",
        "trainers/epoch_loop.py",
        "output.clone() if isinstance(output, Tensor) and _memory_of(output) in input_memory else output",
        "output",
        "tests/test_reused_memory.py",
        function="_copy_views",
    ),
    Fault(
        "a part for validation begins at the first example",
        "data/data_adapter.py",
        "return self._read(slice(self._first + start, self._first + max(start, stop)))",
        "return self._read(slice(start, max(start, stop)))",
        "tests/test_in_memory.py",
        function="NumberedExamples.batch",
    ),
    Fault(
        "each pass of an epoch has the same order",
        "data/epoch_iterator.py",
        "self._passes_in_epoch += 1",
        "pass",
        "tests/test_epoch_iterator.py",
        function="EpochIterator._begin_another_pass",
    ),
    Fault(
        "a position of NumPy's random state may be outside its words",
        "trainers/run_state_checks.py",
        'checks.integer(f"{name}.state.{key}", inner[key], 0, 624 if key == "pos" else 2**128 - 1)',
        "pass",
        "tests/test_resumed_runs.py",
        function="_check_numpy_state",
    ),
    Fault(
        "a learning rate that was changed in the program is replaced in silence",
        "trainers/run_state_checks.py",
        "name in of_start and value != of_start[name] and value != _plain(at_save.get(name))",
        "False",
        "tests/test_resumed_runs.py",
        function="check_settings",
    ),
    Fault(
        "two trainings write to one folder",
        "saving/folder_lock.py",
        "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "tests/test_written_files.py",
        function="FolderLock._lock",
    ),
    Fault(
        "batches by tokens may be one example too large",
        "data/batch_sampler.py",
        "max(start + 1, int(np.searchsorted(total, total[start] + tokens, side='right')) - 1)",
        "max(start + 1, int(np.searchsorted(total, total[start] + tokens, side='right')))",
        "tests/test_batch_sampler.py",
        function="_fill_batches",
    ),
    Fault(
        "sequences are not as wide as their padded targets",
        "data/columns.py",
        "replace(self, width=min((width for width in widths if width >= longest), default=0))",
        "self",
        "tests/test_in_memory.py",
        function="RaggedColumn.with_width_of",
    ),
    Fault(
        "a missing value is reported with the row of an inner list",
        "data/ragged_formats.py",
        """
        for lengths in reversed(lengths_of_levels):
            position = int(np.searchsorted(np.cumsum(lengths), position, side="right"))
        """,
        "pass",
        "tests/test_containers.py",
        function="_row_of_value",
    ),
    Fault(
        "unsigned tensors are read with torch's dtype, which has no arithmetic",
        "ragged/numeric.py",
        "signed = tensor.to(torch.int64)",
        "signed = tensor",
        "tests/test_container_dtypes.py",
        function="numeric_tensor",
    ),
    Fault(
        "unsigned numbers beyond int64 become negative",
        "ragged/numeric.py",
        'array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and array.max() > np.iinfo(np.int64).max',
        "False",
        "tests/test_container_dtypes.py",
        function="numeric_array",
    ),
    Fault(
        "errors name the row of the shuffled batch of a file",
        "data/parquet_files.py",
        "batch.row_names = names",
        "batch.row_names = None",
        "tests/test_damaged_parquet.py",
        function="WindowPass.__next__",
    ),
    Fault(
        "checksums of pages are not verified",
        "data/parquet_files.py",
        "self._arrow_parquet.ParquetFile(path, page_checksum_verification=True)",
        "self._arrow_parquet.ParquetFile(path)",
        "tests/test_damaged_parquet.py",
        function="Parquet._open",
    ),
    Fault(
        "page headers that contradict the footer are accepted",
        "data/parquet_pages.py",
        "if not encodings <= chunk.encodings: ...",
        "pass",
        "tests/test_damaged_parquet.py",
        function="check_pages",
    ),
    Fault(
        "a file that was replaced between epochs is read",
        "data/parquet_files.py",
        "state != self._states[number]",
        "False",
        "tests/test_damaged_parquet.py",
        function="Parquet._open",
    ),
]
FAULTS = [*RAGGED, *SEGMENT, *STEPWISE, *SCAN, *WINDOW, *ATTEND, *COMPILED, *COMBINE, *TRAINING, *GRAPH, *DATA]
