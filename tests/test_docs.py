"""Test that the code of each page runs, that links are valid, and that generated pages are up to date."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
CODE = {page: re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE) for page in PAGES}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if CODE[page]], ids=lambda p: p.name)
def test_the_code_of_a_page_runs(page):
    names: dict = {"__name__": "page"}
    for block in CODE[page]:
        exec(compile(block, str(page), "exec"), names)


def test_links_point_to_files():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_an_example_runs_as_a_program(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


def test_the_two_experiments_of_the_example():
    example = runpy.run_path(str(ROOT / "examples" / "masking.py"))
    out = example["skipped_steps"]()
    assert np.array_equal(out[0, 1], out[0, 0]) and np.array_equal(out[0, 3], out[0, 2])
    loss, by_hand = example["masked_loss"]()
    assert loss == pytest.approx(by_hand, rel=1e-6)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


@pytest.mark.slow
def test_the_table_of_layers_is_what_scripts_layer_table_writes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    with torch.random.fork_rng():
        page = __import__("layer_facts").make_page()
    assert (ROOT / "docs" / "layers.md").read_text() == page, "run scripts/layer_table"


@pytest.mark.slow
def test_the_architecture_page_is_what_scripts_architecture_writes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = ROOT / "scripts" / "architecture"
    names: dict = {"__name__": "architecture", "__file__": str(script)}
    exec(compile(script.read_text(), str(script), "exec"), names)
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert page == names["make_page"](page), "run scripts/architecture"
