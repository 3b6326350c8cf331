"""The rules of the architecture: the order of packages, what a module may import, which constructs are not used."""

import ast
import functools
import importlib
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import padless

ROOT = Path(padless.__file__).parent
REPOSITORY = Path(__file__).parent.parent
TOP = "padless"
ORDER = runpy.run_path(str(REPOSITORY / "scripts" / "package_order.py"))["ORDER"]
# Modules that may call `hasattr`, with the reason. Classes of padless declare what they support in a base class.
HASATTR_REASONS = {
    "padless.layers.preprocessing.normalization": "arrays of any library",
    "padless.layers.rnn.cell_runner": "torch modules as cells",
    "padless.metrics.metrics": "metrics of torchmetrics, which is not imported",
    "padless.metrics.torchmetrics_adapter": "metrics of torchmetrics, which is not imported",
    "padless.saving.serialization": "user-defined objects with `get_config`, as in Keras",
}
PUBLIC = [
    "padless",
    *(f"padless.{name}" for name in ("callbacks", "data", "layers", "losses", "metrics", "models", "optimizers")),
]
PUBLIC += ["padless.testing", "padless.utils", "padless.optimizers.schedules"]
PUBLIC += [f"padless.{name}" for name in ("activations", "initializers", "regularizers", "constraints", "errors", "types")]
FILES = {".".join((TOP, *p.relative_to(ROOT).with_suffix("").parts)): p for p in sorted(ROOT.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


@functools.cache
def parse_modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module."""
    return {module: ast.parse(path.read_text()) for module, path in MODULES.items()}


def list_imports(module: str) -> Iterator[str]:
    """Yield the full names of the modules of padless that a module imports."""
    for node in ast.walk(parse_modules()[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == TOP)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == TOP:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def test_a_module_imports_only_from_packages_above_its_own():
    for package, rows in ORDER.items():
        row_of = {name: number for number, names in enumerate(rows) for name in names}
        for module in MODULES:
            if not module.startswith(f"{package}.") or module == f"{TOP}.__main__":
                continue
            part = module.removeprefix(f"{package}.").split(".")[0]
            assert part in row_of, f"{module}: add {part} to {package} in scripts/package_order.py"
            for imported in list_imports(module):
                if imported.startswith(f"{package}."):
                    other = imported.removeprefix(f"{package}.").split(".")[0]
                    assert other == part or row_of[other] < row_of[part], f"{module} may not import {imported}"


def test_modules_do_not_import_each_other_in_a_circle():
    edges = {module: set(list_imports(module)) - {module} for module, path in MODULES.items() if path.name != "__init__.py"}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import cycle: {' -> '.join((*trail, module))}"
        if module not in done:
            for other in edges.get(module, ()):
                visit(other, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_every_module_begins_with_a_docstring():
    for module, tree in parse_modules().items():
        assert ast.get_docstring(tree), module


def test_package_files_only_re_export():
    for module, path in MODULES.items():
        if path.name != "__init__.py" or module == TOP:  # padless itself also has the version and clear_session
            continue
        for node in parse_modules()[module].body:
            assigned = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            assert assigned or isinstance(node, ast.ImportFrom | ast.Expr), f"{module}: {ast.unparse(node)}"


def test_public_packages_list_their_names():
    page = (REPOSITORY / "docs/public.md").read_text()
    for name in PUBLIC:
        package = importlib.import_module(name)
        assert f"`{name}`" in page, name
        assert package.__all__ == sorted(set(package.__all__)), name
        assert all(hasattr(package, public) for public in package.__all__), name


def test_a_module_is_not_named_like_a_public_function_of_its_package():
    for name in PUBLIC:
        package = importlib.import_module(name)
        modules = {module.rpartition(".")[2] for module in MODULES if module.rpartition(".")[0] == name}
        functions = {public for public in package.__all__ if callable(getattr(package, public))}
        assert not modules & functions, name


@pytest.mark.slow
def test_functions_import_nothing():
    for module, tree in parse_modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
                assert not hidden or module == f"{TOP}.cli", f"{module}: {ast.unparse(hidden[0])}"  # --help is quick


def test_ruff_checks_every_python_script():
    """Scripts without a suffix must be listed in pyproject.toml; ruff finds only `*.py`."""
    files = [path for path in (REPOSITORY / "scripts").iterdir() if path.is_file() and not path.suffix]
    scripts = [path for path in files if path.read_text().startswith("#!/usr/bin/env python")]
    config = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert config["tool"]["ruff"]["extend-include"] == sorted(f"scripts/{path.name}" for path in scripts)


def find_places(module: str, tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield each node of a module with its place as text."""
    for node in ast.walk(tree):
        yield f"{module}:{getattr(node, 'lineno', 0)}", node


@pytest.mark.slow
def test_private_names_of_torch_are_in_one_module():
    for module, tree in parse_modules().items():
        for place, node in find_places(module, tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            for name in names:
                private = re.match(r"torch\.(?:\w+\.)*_(?!_)", name)
                assert not private or module == f"{TOP}._torch_compat", f"{place}: move {name} to _torch_compat.py"


def test_no_code_reads_frames_or_local_variables():
    for module, tree in parse_modules().items():
        for place, node in find_places(module, tree):
            is_frame = isinstance(node, ast.Attribute) and node.attr in ("_getframe", "f_locals", "f_back", "tb_frame")
            is_locals = isinstance(node, ast.Call) and ast.unparse(node.func) in ("locals", "inspect.currentframe")
            assert not is_frame and not is_locals, f"{place}: pass the values explicitly"


def test_capabilities_are_not_found_by_hasattr():
    modules = {
        module
        for module, tree in parse_modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr" and module != f"{TOP}.cli"
    }
    assert modules <= set(HASATTR_REASONS), "declare the capability in a base class, or give the reason"
    assert modules == set(HASATTR_REASONS), "remove the reasons that are not needed"


def test_no_module_assigns_into_another_module_when_it_is_imported():
    for module, tree in parse_modules().items():
        imported = {
            (alias.asname or alias.name).split(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        for node in tree.body:
            for owner in find_changed_objects(node):
                while isinstance(owner, ast.Attribute | ast.Subscript):
                    owner = owner.value
                name = owner.id if isinstance(owner, ast.Name) else ""
                assert name not in imported, f"{module}:{node.lineno}: {ast.unparse(node)}"


def find_changed_objects(node: ast.stmt) -> list[ast.expr]:
    """Return the objects whose attributes or items a statement changes."""
    match node:
        case ast.Assign(targets=targets):
            return [target.value for target in targets if isinstance(target, ast.Attribute | ast.Subscript)]
        case ast.AugAssign(target=ast.Attribute() | ast.Subscript() as target):
            return [target.value]
        case ast.Expr(value=ast.Call(func=ast.Name(id="setattr"), args=[owner, *_])):
            return [owner]
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=owner, attr="update" | "setdefault" | "append" | "extend"))):
            return [owner]
    return []
