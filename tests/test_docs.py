"""What the documentation shows runs: each page from top to bottom, each example as a program."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_code_of_a_page_runs(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    names: dict = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_an_example_runs(example):
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_two_experiments_of_the_example():
    page = runpy.run_path(str(ROOT / "examples" / "masking.py"))
    out = page["skipped_steps"]()
    assert np.array_equal(out[0, 1], out[0, 0]) and np.array_equal(out[0, 3], out[0, 2])
    loss, by_hand = page["masked_loss"]()
    assert loss == pytest.approx(by_hand, rel=1e-6)


def test_the_table_of_layers_is_what_scripts_layer_table_makes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    with torch.random.fork_rng():
        page = __import__("layer_facts").page()
    assert (ROOT / "docs" / "layers.md").read_text() == page, "run scripts/layer_table"
