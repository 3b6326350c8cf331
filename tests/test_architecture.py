"""The floors of the house: a room stands above all that it imports; `|` means that neither side may import the other."""

import ast
from pathlib import Path

import pytest

import padless

ROOT = Path(padless.__file__).parent
FLOORS = [
    {"errors"},
    {"registry"},
    {"ragged", "saving"},
    {"kernels", "graph"},
    {"layers", "training"},
    {"flow"},
    {"model"},
    {"testing", "utils"},
    {"demo"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name not in ("__init__.py", "__main__.py"))


def room(parts: tuple[str, ...]) -> str:
    """The room of a module, by the first part of its path; what begins with `demo` belongs to the demo."""
    return parts[0].split("_")[0] if parts[0].startswith("demo") else parts[0]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "padless":
            parts = node.module.split(".")[1:]
            found.update([parts[0]] if parts else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            found.update(a.name.split(".")[1] for a in node.names if a.name.startswith("padless."))
    return {room((name,)) for name in found}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_stands_above_all_that_it_imports(path):
    own = room((path.relative_to(ROOT).with_suffix("")).parts)
    for other in imported(path) - {own}:
        if other not in FLOOR:
            assert other.startswith("_") or other == "__version__", f"{other} has no floor"
            continue
        assert FLOOR[other] < FLOOR[own], f"{own} may not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "begin with a docstring"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("__init__.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_package_files_only_re_export(path):
    if path.parent == ROOT:
        return  # the front door also counts names from the start and says the version
    for node in ast.parse(path.read_text()).body:
        assert isinstance(node, ast.ImportFrom | ast.Expr), ast.unparse(node)


def test_imports_hide_in_no_function():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
                assert not hidden or path.stem in ("cli",), f"{path}: {ast.unparse(hidden[0])}"
