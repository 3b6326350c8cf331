"""Each fault of `scripts/mutants` has one place in the source, and valid code with the fault.

`scripts/mutants` itself checks that the tests find the faults.
"""

import ast
import builtins
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import padless

ROOT = Path(__file__).parent.parent
PACKAGE = Path(padless.__file__).parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


faults = load("faults")
FAULTS = faults.FAULTS


@pytest.fixture(scope="module")
def places():
    """Return the place of each fault by its name."""
    return {fault.name: faults.locate(fault, PACKAGE) for fault in FAULTS}


def test_each_fault_has_its_own_name():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.slow
def test_many_packages_have_faults(places):
    assert len(FAULTS) >= 100
    assert len({place.path.parent for place in places.values()}) >= 5


@pytest.mark.slow
def test_each_fault_is_found_in_one_place_and_changes_valid_code(places):
    for fault in FAULTS:
        place = places[fault.name]
        source = place.path.read_text()
        if place.path.suffix == ".py":
            compile(place.text, place.path, "exec")
            assert ast.dump(ast.parse(place.text)) != ast.dump(ast.parse(source)), fault.name
        else:
            assert place.text != source, fault.name


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_c_code_with_a_fault_compiles(places, tmp_path):
    for place in places.values():
        if place.path.suffix == ".py":
            continue
        folder = tmp_path / "source"
        shutil.copytree(place.path.parent, folder, ignore=shutil.ignore_patterns("*.py", "*.so"), dirs_exist_ok=True)
        (folder / place.path.name).write_text(place.text)
        sources = [folder / place.path.name] if place.path.suffix == ".c" else sorted(folder.glob("*.c"))
        command = ["cc", "-std=gnu11", "-fsyntax-only", *map(str, sources)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def identifiers(tree):
    """Return variables, functions and imported names of a tree."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
    return found


def visible(tree, line):
    """Return the variables of the module, and of the functions around a line."""
    found = set(dir(builtins))
    for node in tree.body:
        is_scope = isinstance(node, ast.FunctionDef | ast.ClassDef)
        found |= {node.name} if is_scope else identifiers(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= node.end_lineno:
            found |= identifiers(node)
    return found


@pytest.mark.slow
def test_wrong_code_uses_names_that_exist(places):
    """An unknown name fails in every test, so a fault with such a name would prove nothing."""
    package = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    attributes = {*re.findall(r"\w+", package), *faults.known_names()}
    for fault in FAULTS:
        place = places[fault.name]
        source = place.path.read_text()
        is_python = place.path.suffix == ".py"
        variables = visible(ast.parse(source), place.line) if is_python else set(re.findall(r"\w+", source))
        for kind, name in faults.new_names(fault):
            known = attributes if is_python and kind != "variable" else variables
            assert name in known, f"{fault.name}: {kind} {name!r} of `wrong` is unknown in {place.path}"


def test_the_tests_of_each_fault_exist():
    for fault in FAULTS:
        for test in fault.tests.split():
            file, _, name = test.partition("::")
            assert (ROOT / file).exists(), f"{fault.name}: {test}"
            assert not name or f"def {name}(" in (ROOT / file).read_text(), f"{fault.name}: {test}"


def with_fault(folder, source, right, wrong, function="", file="code.py"):
    """Return the source with a fault."""
    (folder / file).write_text(source)
    return faults.locate(faults.Fault("a fault", file, right, wrong, "", function), folder).text


def test_renamed_identifiers_and_another_layout_are_found(tmp_path):
    source = "def f(gap, flat):\n    starts = (\n        gap[:,\n            1:] & ~ flat.mask)  # why\n"
    text = with_fault(tmp_path, source, "start = x[:, 1:] & ~flat.mask", "start = flat.mask & ~x", "f")
    assert text == "def f(gap, flat):\n    starts = flat.mask & ~gap  # why\n"


@pytest.mark.parametrize("source", ["y = x.all(-1)", "y = torch.any(x)", "y = x.any(dim=-1)"])
def test_other_functions_do_not_match(tmp_path, source):
    with pytest.raises(LookupError, match="matches no code"):
        with_fault(tmp_path, source, "x.any(-1)", "x")


def test_builtins_do_not_match_each_other(tmp_path):
    with pytest.raises(LookupError, match="matches no code"):
        with_fault(tmp_path, "y = min(x, 1)", "max(x, 1)", "x")
    with pytest.raises(LookupError, match="matches no code"):
        with_fault(tmp_path, "y = x.clamp(max=1)", "x.clamp(min=1)", "x")


def test_two_names_are_not_mapped_to_one(tmp_path):
    with pytest.raises(LookupError, match="matches no code"):
        with_fault(tmp_path, "y = a + a", "a + b", "a - b")


def test_the_place_with_most_unchanged_names_is_chosen(tmp_path):
    source = "a = b[i] + c\na = b[j] + c\n"
    assert with_fault(tmp_path, source, "a = b[j] + d", "a = b[j] - d") == "a = b[i] + c\na = b[j] - c\n"


def test_a_tie_is_an_error_that_names_the_places(tmp_path):
    with pytest.raises(LookupError, match=r"2 places equally well: code.py:1 .*code.py:2"):
        with_fault(tmp_path, "y = a + b\nz = a + b\n", "a + b", "a")


def test_a_place_without_unchanged_names_is_an_error_that_names_the_place(tmp_path):
    with pytest.raises(LookupError, match="Similar code: code.py:1"):
        with_fault(tmp_path, "z = x + y\n", "a + b", "a")


def test_a_function_narrows_the_search(tmp_path):
    source = "class A:\n    def f(self, x):\n        y = x + 1\n"
    source += "    def g(self, x):\n        z = x + 1\n"
    text = with_fault(tmp_path, source, "x + 1", "x - 1", "A.g")
    assert text == source.replace("z = x + 1", "z = (x - 1)")
    with pytest.raises(LookupError, match="2 places"):
        with_fault(tmp_path, source, "x + 1", "x - 1", "A.renamed")


def test_a_function_is_found_in_another_file(tmp_path):
    (tmp_path / "moved.py").write_text("def f(x):\n    return x + 1\n")
    text = with_fault(tmp_path, "def g(x):\n    return x + 1\n", "x + 1", "x - 1", "f")
    assert text == "def f(x):\n    return (x - 1)\n"
    fault = faults.Fault("a fault", "gone.py", "x + 1", "x - 1", "", "g")
    assert faults.locate(fault, tmp_path).path.name == "code.py"


def test_wildcards_keep_what_they_match(tmp_path):
    source = """
def f(x):
    if x:
        a = 1
        b = 2
    elif f(x):
        c = 3
    else:
        return g(x, *x, k=1)
"""
    text = with_fault(tmp_path, source, "if x: ...", "if not x: ...")
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(source.replace("if x:", "if not x:")))
    text = with_fault(tmp_path, source, "if f(x): ...", "if not f(x): ...")
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(source.replace("elif f", "elif not f")))
    text = with_fault(tmp_path, source, "if x:\n    a = 1\n    ...", "if x:\n    a = 2\n    ...")
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(source.replace("a = 1", "a = 2")))
    text = with_fault(tmp_path, source, "g(x, ...)", "g(1, ...)")
    assert text == source.replace("g(x, *x, k=1)", "(g(1, *x, k=1))")


def test_a_wildcard_alone_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="outside other code"):
        with_fault(tmp_path, "x = 1\n", "...", "pass")


def test_wildcards_of_wrong_are_those_of_right(tmp_path):
    with pytest.raises(ValueError, match="`right` has 1 `...` and `wrong` has 2"):
        with_fault(tmp_path, "x = f(1)\n", "f(...)", "f(..., ...)")


def test_statements_keep_their_indentation(tmp_path):
    source = "if x:\n    a(ä)\n    b()\n    c()\n"
    text = with_fault(tmp_path, source, "a(ä)\nb()", "if a:\n    b()")
    assert text == "if x:\n    if a:\n        b()\n    c()\n"


def test_c_is_found_with_renamed_identifiers_and_comments(tmp_path):
    code = "return j->first /* ä */\n    + n * 2;"
    source = f"int f(job *j, int n) {{ {code} }}\nint g(job *j, int n) {{ {code} }}\n"
    text = with_fault(tmp_path, source, "w->first + m * 2", "w->first - m * 2", "f", "code.c")
    assert text == source.replace(code, "return j->first - n * 2;", 1)
    with pytest.raises(LookupError, match="2 places"):
        with_fault(tmp_path, source, "j->first + n * 2", "j->first", "", "code.c")
