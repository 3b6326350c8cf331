"""Test that `scripts/prose` finds what breaks a rule of plain English and leaves correct text alone."""

import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "prose"


def load_script():
    """Return the script as a module; it writes no cache of its bytecode."""
    loader = SourceFileLoader("prose", str(SCRIPT))
    module = module_from_spec(spec_from_loader("prose", loader))
    exec(compile(SCRIPT.read_text(), str(SCRIPT), "exec"), module.__dict__)
    return module


prose = load_script()


def find_rules(text, place="docs/page.md"):
    """Return line and rule of each finding."""
    return [(finding.line, finding.rule) for finding in prose.check_text(place, text)]


LONG = " ".join(["word"] * (prose.MAX_WORDS + 1))

WRONG = [
    "A column is told by its name.",
    "The front door of the package.",
    "The package has two floors.",
    "The house of layers.",
    "The roof of the cost.",
    "The home of a mask.",
    "A walk through the steps.",
    "The slopes of the weights.",
    "Mend that first.",
    "A part of a gradient moves nothing.",
    "Where the rows lie.",
    "There is room for one batch.",
    "Masks are born here.",
    "Data are refused at the border.",
    "The way back is slower.",
    "The way\nforwards is faster.",
    "The kernel meets the inputs.",
    "It shall be so.",
    "Over nothing the mean is 0.",
    "The order hangs on the seed.",
    "Steps stand in packed order.",
    "The state lives on the device.",
    "A step bears a mask.",
    "The targets come behind the inputs.",
    "It needs a mask beside the weights.",
    "Nobody reads it.",
    "A layer of one's own.",
    "Each part has a buffer of its own.",
    "All is as ever.",
    "It holds so many rows.",
    "A padded step is no step.",
    "Every layer keeps the laws.",
    "Time grows with the fill.",
    "A batch has fill 0.5.",
    "A process that obeys orders.",
]

RIGHT = [
    "The floor division of two lengths.",
    "There is no mask, and the mask is no longer needed.",
    "A random walk over the states.",
    "The condition is met.",
    "PAD stands for padding.",
    "It is given, its own mask is kept, and the default is the fill value 0.",
    "Fill the gaps with zeros.",
    "The gate, the head, the window and the tree.",
    "An understanding of standalone Keras, its borderline cases and its housekeeping.",
]


@pytest.mark.parametrize("text", WRONG)
def test_a_banned_word_is_found(text):
    assert [rule for _, rule in find_rules(text)] == ["word"]


@pytest.mark.parametrize("text", RIGHT)
def test_plain_text_passes(text):
    assert find_rules(text) == []


def test_every_banned_word_has_an_example():
    texts = [text for text in WRONG if find_rules(text)]
    used = {match.lastindex for text in texts for match in prose.BANNED.finditer(text)}
    missing = [word for number, word in enumerate(prose.WORDS, 1) if number not in used]
    assert missing == []


def test_the_message_names_the_line_and_the_replacement():
    (finding,) = prose.check_text("README.md", "# Title\n\nA first row,\na seed is told.\n")
    assert finding.path == "README.md" and finding.line == 4
    assert "'told', write 'given, passed'" in finding.text


def test_code_is_skipped_on_a_page():
    page = """
Text with `told` and [a link](rooms/told.md "laws"), https://a.b/told and torch.floor or walk().

```python
told = 1  # nobody
```

    told = 1

~~~
nobody
~~~

- item

    told in an item
"""
    assert find_rules(page) == [(16, "word")]


def test_code_is_skipped_in_a_docstring():
    source = '''"""Return one.

Example:
    >>> told = 1  # nobody
    >>> told
    1

    The rest is told.

Or::

    nobody
"""
'''
    assert find_rules(source, "tests/x.py") == [(8, "word")]


@pytest.mark.parametrize(
    "source, place, line",
    [
        ("x = 1\n# one\n# it is told\ny = 1  # right\n", "tests/x.py", 3),
        ("x = 'told'  # it is told\n", "examples/x.py", 1),
        ("def f():\n    raise ValueError(f'{x} is told')\n", "benchmarks/x.py", 2),
        ("import warnings\nwarnings.warn('it ' + 'is told', UserWarning)\n", "padless/x.py", 2),
        ("def test_what_is_told():\n    pass\n", "tests/x.py", 1),
        ("class A:\n    def f(self):\n        '''Return it.\n\n        It is told.\n        '''\n", "tests/x.py", 5),
        ("int x; /* one\n * it is told */\n", "padless/x.c", 2),
        ('char *s = "/* told */"; // it is told\n', "padless/x.h", 1),
        ("#!/bin/sh\necho told\n# it is told\n", "scripts/x", 3),
        ("#!/usr/bin/env python3\n# it is told\n", "scripts/x", 2),
    ],
)
def test_all_kinds_of_prose_in_sources_are_read(source, place, line):
    assert find_rules(source, place) == [(line, "word")]


def test_code_in_sources_is_not_read():
    source = "told = x['told'] + \"a told # told\"\nraise KeyError(names['told'], f'`{told}` and {told}')\n"
    assert find_rules(source, "tests/x.py") == []
    assert find_rules('int told = 1; char *s = "told"; /* right */\n', "padless/x.c") == []


def test_a_long_sentence_is_found():
    assert find_rules(f"Short one. {LONG}. Short one.") == [(1, "sentence")]
    assert find_rules(f'"""Return it.\n\n{LONG}.\n"""\n', "tests/x.py") == [(3, "sentence")]
    assert find_rules(f'"""Return it.\n\nArgs:\n    x (int): {LONG}\n"""\n', "tests/x.py") == [(4, "sentence")]
    assert find_rules(f"- {LONG}\n") == find_rules(f"| a | {LONG} |\n") == [(1, "sentence")]


def test_short_sentences_one_after_another_pass():
    half = " ".join(["word"] * (prose.MAX_WORDS // 2 + 1))
    code = "`" + " ".join(["word"] * prose.MAX_WORDS) + "`"
    assert find_rules(f"One {half}. Two {half}.") == []
    assert find_rules(f"One {half}. padless {half}.") == []
    assert find_rules(f"- {half}\n- {half}\n\n| {half} | {half} |\n") == []
    assert find_rules(f'"""Return it.\n\nArgs:\n    x: {half}\n    y: {half}\n"""\n', "tests/x.py") == []
    assert find_rules(f"The code {code} is one word, and so is [a link]({'x' * 200}).") == []
    assert find_rules(f"# {LONG}\n") == find_rules(f"# {LONG}\n", "tests/x.py") == []


def test_many_colons_are_found():
    assert find_rules("One: two; three: four.") == [(1, "colons")]
    assert find_rules("One: two; three at 12:30. Another: one.") == []


@pytest.mark.parametrize(
    "source, count",
    [
        ("def f():\n    '''Return it.'''\n", 0),
        ("def f():\n    '''return it.'''\n", 1),
        ("def f():\n    '''Return it'''\n", 1),
        ("def f():\n    '''Returns it.'''\n", 1),
        ("def f():\n    '''The result.'''\n", 1),
        ("def f():\n    '''`x` plus 1.'''\n", 2),
        ("def f():\n    '''Mask of the steps.'''\n", 1),
        ("def _f():\n    '''the result'''\n", 0),
        ("class A:\n    '''A layer.'''\n\n    @property\n    def f(self):\n        '''The result.'''\n", 0),
        ("class A:\n    '''1D convolution'''\n\n    def f(self):\n        '''The result.'''\n", 2),
        ("class _A:\n    def f(self):\n        '''The result.'''\n", 0),
        ("'''The module'''\n", 1),
    ],
)
def test_the_first_line_of_a_public_docstring(source, count):
    assert [rule for _, rule in find_rules(source, "padless/x.py")] == ["docstring"] * count
    assert find_rules(source, "padless/_private/x.py") == find_rules(source, "tests/x.py") == []


def test_a_name_that_says_nothing_is_found():
    source = "def over(given, x):\n    own = x.told\n    x.kept = lengths\n\n\nclass Home:\n    pass\n"
    assert find_rules(source, "padless/x.py") == [(1, "name"), (1, "name"), (2, "name"), (3, "name"), (6, "name")]
    assert find_rules(source, "tests/x.py") == []
    assert find_rules("", "padless/apart.py") == find_rules("", "padless/apart/__init__.py") == [(1, "name")]


def test_a_name_that_names_a_thing_passes():
    source = "def fill(lengths, config):\n    gradient = config.own\n    f(over=1)\n    return gradient\n"
    assert find_rules(source, "padless/lengths.py") == []


def test_the_command_line(tmp_path):
    page, clean = tmp_path / "page.md", tmp_path / "clean.md"
    page.write_text(f"It is told. {LONG}.\n")
    clean.write_text("Plain text.\n")

    def run(*arguments):
        done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines()

    code, rows = run(tmp_path)
    assert code == 1 and rows[-1] == "2 findings, word 1, sentence 1"
    assert rows[1].startswith(f"{page}:1: word: ")
    assert run(clean) == (0, ["0 findings"])
    assert run(page, "--rule", "sentence")[1][-1] == "1 findings, sentence 1"
    assert run(page, "--summary")[1][:-1] == [f"     1 sentence  {page}", f"     1 word      {page}"]
    assert run(tmp_path / "missing.md")[0] == 1
