"""The demo: what it learns from, what it shows, and that the same seed gives the same result."""

import io
import re
import shutil
import tokenize
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import padless
from padless.demo import corpus as demo_corpus
from padless.demo import highlighter as demo
from padless.demo import report as demo_report
from padless.demo.corpus import CLASSES, Function
from padless.demo.highlighter import Corpus, DemoConfig, Grid, Highlighter
from padless.demo.report import Majority, Scores
from padless.errors import DataError

LETTERS = dict(zip("_knsdco", CLASSES, strict=True))  # one letter for each class, d for a digit
TINY = DemoConfig(longest=180, training=16, validation=4, test=6, batch=8, features=4, units=5)
FOLDERS = ("json", "logging", "asyncio", "email", "importlib", "unittest")
AWKWARD = [
    "",
    "\n",
    "x",
    "def f(:\n  '''never closed",
    "\tx = '日本語' # ñ\r\ny = 2\r",
    "é = 1\n" * 3,
    "\x1b[31mred\x07\x0c\x00\n",
]


def classes(letters: str) -> list[int]:
    return [CLASSES.index(LETTERS[letter]) for letter in letters]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few packages of the standard library, enough for every split to have files."""
    root = tmp_path_factory.mktemp("library")
    for name in FOLDERS:
        shutil.copytree(demo_corpus.library() / name, root / name, ignore=shutil.ignore_patterns("*.pyc", "test*"))
    (root / "test").mkdir()
    (root / "test" / "skipped.py").write_text("def skipped(): pass\n")
    (root / "json" / "python2.py").write_text("print 'no Python 3'\n")
    return root


@pytest.fixture(scope="module")
def data(library: Path) -> Corpus:
    return Corpus.read(TINY, library)


@pytest.fixture(scope="module")
def highlighter(data: Corpus) -> Highlighter:
    torch.manual_seed(0)
    return demo.learn(data, TINY, quiet())[0]


def quiet() -> Console:
    return Console(file=io.StringIO())


def texts(functions: list[Function]) -> list[str]:
    return [function.text for function in functions]


# ------------------------------------------------------------------------------------------------------------- labels


def test_every_character_has_the_class_of_its_token():
    text = "@cache\ndef f(x, *a):  # why\n    return not x + 0x1f or \\\n        'a b'\n"
    want = "onnnnn_kkk_nono_onoo__ccccc_" + "____kkkkkk_kkk_n_o_dddd_kk___" + "________sssss_"
    assert demo_corpus.label(text).tolist() == classes(want)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("f'a{x!r:>{w}}{{'+y", "s" * 16 + "on"),
        ("f'''\n{a\n}''' b", "s" * 12 + "_n"),
        ("f'{f\"{x}\"}'if rb'y'", "s" * 11 + "kk_sssss"),
        ("match x:\n  case _: type", "nnnnn_no___nnnn_no_nnnn"),
        ("'''a\nb'''", "s" * 9),
        ("ф = '日本' # ñ", "n_o_ssss_ccc"),
        ("\x0cx\n", "_n_"),
        ("  x\n  y", "__n___n"),
        ("a\r\n'''\r\n'''\rb", "n__" + "s" * 8 + "_n"),
        ("", ""),
    ],
)
def test_labels(text: str, want: str):
    assert demo_corpus.label(text).tolist() == classes(want)


@pytest.mark.parametrize("text", ["(", "x = '''", "  x\n y\n", "a\x00b"])
def test_what_does_not_tokenize_has_no_labels(text: str):
    assert demo_corpus.label(text) is None


def test_a_function_alone_has_the_labels_it_has_in_its_file(library: Path):
    count = 0
    for path in ("json/decoder.py", "logging/config.py", "asyncio/locks.py"):
        with tokenize.open(library / path) as file:
            source = file.read()
        whole, lines = demo_corpus.label(source), demo_corpus.split_lines(source)
        for line, text in demo_corpus.cut(source):
            start = len("".join(lines[: line - 1]))
            assert np.array_equal(demo_corpus.label(text), whole[start : start + len(text)]), (path, line)
            count += 1
    assert count > 50


# ------------------------------------------------------------------------------------------------------------- corpus


def test_functions_are_cut_whole_with_decorators_and_only_the_outermost():
    source = "class A:\n    @b\n    @c(\n        1)\n    async def f(self):\n        def inner(): pass\n        return 1\n"
    source += "if x:\n    def g(): return '''\n'''\ntry:\n    pass\nexcept E:\n    def h(): pass\n"
    cut = dict(demo_corpus.cut(source))
    assert list(cut) == [2, 9, 14]
    assert cut[2].startswith("    @b\n    @c(") and cut[2].endswith("return 1\n") and cut[9].endswith("'''\n'''\n")


def test_splits_are_disjoint_complete_and_the_same_everywhere(library: Path):
    files = demo_corpus.files(library)
    together = sorted(sum(files.values(), []))
    assert len(set(together)) == len(together)
    own_tests = {path for path in library.rglob("*.py") if "test" in path.parent.relative_to(library).parts}
    assert together == sorted(p.relative_to(library).as_posix() for p in {*library.rglob("*.py")} - own_tests)
    known = {"ast.py": "training", "mailbox.py": "validation", "gzip.py": "test", "html/__init__.py": "test"}
    assert {path: demo_corpus.split_of(path) for path in known} == known


def test_no_function_is_in_two_splits_or_too_long(data: Corpus):
    texts = [function.text for functions in data.functions.values() for function in functions]
    assert len(set(texts)) == len(texts) and max(map(len, texts)) <= TINY.longest
    for split, functions in data.functions.items():
        assert 0 < len(functions) <= getattr(TINY, split)
        assert {demo_corpus.split_of(function.path) for function in functions} == {split}


def test_a_text_is_taken_once_and_only_if_it_is_short(tmp_path: Path):
    (tmp_path / "a.py").write_text("def f(): pass\nclass A:\n    def g(self): pass\nx = 1\n")
    (tmp_path / "b.py").write_text("def f(): pass\ndef longer(than, that): pass\n")
    seen: set[str] = set()
    assert [f.line for f in demo_corpus.functions(tmp_path, ["a.py"], 25, seen)] == [1, 3]
    assert list(demo_corpus.functions(tmp_path, ["b.py"], 25, seen)) == []
    assert len(list(demo_corpus.functions(tmp_path, ["b.py", "b.py"], 99))) == 2


def test_the_corpus_is_read_alike_twice(data: Corpus, library: Path):
    assert Corpus.read(TINY, library) == data


def test_a_library_without_source_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        demo_corpus.files(tmp_path)


def test_ids_leave_room_for_padding_and_the_unknown():
    characters = demo_corpus.alphabet(["aab", "b\n", "a"])
    assert characters == "ab\n"
    assert demo_corpus.encode(["ba?", ""], characters)[0].tolist() == [3, 2, 1]


@given(
    st.text(st.sampled_from("x\n@ '\"#") | st.characters())
    | st.lists(st.sampled_from(["def f():\n", "@d\n", "  x\n", '"""', "class A: y\n", "\n"])).map("".join),
    st.integers(1, 30),
    st.integers(0, 20),
)
def test_pieces_are_the_text(text: str, longest: int, shortest: int):
    pieces = demo_corpus.pieces(text, shortest, longest)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= longest for piece in pieces)


def test_pieces_begin_at_definitions_but_not_in_strings_or_after_decorators():
    text = 'x = """\ndef no():\n"""\n@a\n@b\ndef f(): 1\nclass C:\n    async def g(self): 2\n'
    want = ['x = """\ndef no():\n"""\n', "@a\n@b\ndef f(): 1\n", "class C:\n", "    async def g(self): 2\n"]
    assert demo_corpus.pieces(text, shortest=1) == want


@given(st.text(st.sampled_from("x\n@ ") | st.characters()) | st.sampled_from(["def f(): 1\n", "class A:\n  x\n", " @d\n"]))
def test_a_piece_shown_as_a_function_keeps_its_characters(piece: str):
    text, own = demo_corpus.as_function(piece)
    assert len(own) == len(text) and "".join(c for c, mine in zip(text, own, strict=True) if mine) == piece
    assert text.lstrip(" \t").startswith(("def ", "@", "async "))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"x = '\xc3\xa9'\r\n", "x = 'é'\r\n"),
        (b"\xef\xbb\xbfx", "x"),
        (b"# coding: latin-1\n\xe9", "# coding: latin-1\né"),
        (b"\xff\xfe", "ÿþ"),
        (b"# coding: nonsense\n", "# coding: nonsense\n"),
        (b"# coding: rot13\n", "# coding: rot13\n"),
        (b"", ""),
    ],
)
def test_any_file_can_be_read(data: bytes, text: str, tmp_path: Path):
    (tmp_path / "file.py").write_bytes(data)
    assert demo_corpus.read(tmp_path / "file.py") == text


# ------------------------------------------------------------------------------------------------------------- report


def test_scores_by_hand():
    truth, answers = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 0])
    scores = Scores.of(truth, answers)
    assert scores.accuracy == 3 / 6
    assert scores.without_whitespace == 2 / 4
    assert scores.f1[:4] == [2 * 1 / 5, 2 * 2 / 6, 0, 0]
    assert scores.macro_f1 == pytest.approx((2 / 5 + 4 / 6 + 0) / 3)


def test_macro_f1_is_torchmetrics():
    from torchmetrics.functional.classification import multiclass_f1_score

    rng = np.random.default_rng(0)
    truth, answers = rng.integers(0, 5, 200), rng.integers(1, 6, 200)
    want = multiclass_f1_score(torch.from_numpy(answers), torch.from_numpy(truth), len(CLASSES), average="macro")
    assert Scores.of(truth, answers).macro_f1 == pytest.approx(want.item(), abs=1e-6)


def test_the_baseline_is_the_majority_of_each_character():
    baseline = Majority([("aab", np.array([2, 3, 3])), ("a", np.array([2])), ("bb", np.array([3, 3]))])
    assert baseline.classify("abz").tolist() == [2, 3, 3]


@given(st.text() | st.sampled_from(AWKWARD), st.integers(0, 2**32))
def test_coloured_text_is_the_text(text: str, seed: int):
    rng = np.random.default_rng(seed)
    answers, truth = rng.integers(0, len(CLASSES), (2, len(text)))
    console = Console(file=io.StringIO(newline=""), width=10, color_system=None)
    demo_report.show(console, text, answers, truth)
    assert console.file.getvalue() == text  # pyright: ignore[reportAttributeAccessIssue]
    assert "".join(segment.text for segment in demo_report.coloured(text, answers).segments) == text


def test_colours_show_the_answer_and_mark_what_is_wrong(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard")
    demo_report.show(console, "if x", np.array([1, 1, 0, 3]), np.array([1, 1, 0, 2]))
    wrong = demo_report.STYLES["string"] + demo_report.MISTAKE
    want = demo_report.STYLES["keyword"].render("if") + demo_report.STYLES["whitespace"].render(" ") + wrong.render("x")
    assert plain_codes(console.file.getvalue()) == plain_codes(want)  # pyright: ignore[reportAttributeAccessIssue]
    assert not any(s.style.reverse for s in demo_report.coloured("x", np.array([3])).segments if s.style)


def plain_codes(rendered: str) -> list[tuple[set[str], str]]:
    """Each coloured stretch as its set of codes and its text, in whichever colour system."""
    parts = re.findall(r"(?:\x1b\[([\d;]*)m)?([^\x1b]+)(?:\x1b\[0m)?", rendered)
    return [({code for code in codes.split(";") if code in ("4", "7")}, text) for codes, text in parts]


def test_mistakes_in_words_are_counted_by_runs():
    text = "ab\ncd e"
    answers, truth = np.array([2, 2, 0, 1, 1, 0, 4]), np.array([2, 3, 0, 2, 2, 0, 4])
    assert demo_report.mistakes(text, answers, truth) == [
        "line 1, column 2: 'b' taken for name, is string",
        "line 2, column 1: 'cd' taken for keyword, is name",
    ]
    assert demo_report.mistakes(text, answers, truth, most=1)[1:] == ["and 1 more"]


# -------------------------------------------------------------------------------------------------------------- model


def test_the_grid_is_counted_from_what_enters_the_layers(highlighter: Highlighter):
    with Grid().counting(highlighter.model) as grid:
        highlighter.classify(["a" * 10, "b" * 2, ""])
    assert grid.cells % 20 == 0 and grid.cells > 0
    assert grid.spared == 1 - 12 / 20
    highlighter.classify(["c"])
    assert grid.cells % 20 == 0  # the hooks are gone


def test_the_company_of_a_text_changes_nothing(highlighter: Highlighter, data: Corpus):
    some = ["x", *texts(data.functions["test"]), "", "# é"]
    together = highlighter.classify(some)
    for text, answer in zip(some, together, strict=True):
        assert np.array_equal(highlighter.classify([text])[0], answer) and len(answer) == len(text)


@pytest.mark.parametrize("text", AWKWARD)
def test_a_file_is_coloured_character_by_character(highlighter: Highlighter, text: str):
    answers = highlighter.colour(text)
    assert answers.shape == (len(text),)
    unix, places = demo_corpus.plain_lines(text)
    assert np.array_equal(highlighter.colour(unix)[places], answers)


def test_it_learns_and_the_learning_rate_ends_at_zero(data: Corpus):
    plan = DemoConfig(learning_rate=0.05, batch=2, units=8)
    torch.manual_seed(0)
    learner = Highlighter.untrained(demo_corpus.alphabet(texts(data.functions["training"])), plan)
    learner.fit(data.functions["training"], data.functions["validation"], plan, quiet())
    answers = np.concatenate(learner.classify(texts(data.functions["test"])))
    truth = np.concatenate([demo_corpus.label(text) for text in texts(data.functions["test"])])
    assert Scores.of(truth, answers).accuracy > 1.2 * Scores.of(truth, np.full_like(truth, 2)).accuracy
    assert learner.model.optimizer.learning_rate < 0.05 * 0.1


def test_a_saved_highlighter_is_the_same_and_a_model_for_anyone(highlighter: Highlighter, data: Corpus, tmp_path: Path):
    highlighter.save(tmp_path / "model.safetensors")
    loaded = Highlighter.load(tmp_path / "model.safetensors")
    text = "".join(texts(data.functions["test"]))
    assert loaded.characters == highlighter.characters
    assert np.array_equal(loaded.colour(text), highlighter.colour(text))
    weights = padless.load_model(tmp_path / "model.safetensors").get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(weights, highlighter.model.get_weights(), strict=True))


def test_other_files_are_no_highlighters(highlighter: Highlighter, tmp_path: Path):
    highlighter.model.save(tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no model")
    for name in ("other.safetensors", "text"):
        with pytest.raises(DataError, match="padless demo --save"):
            Highlighter.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Highlighter.load(tmp_path / "absent")


# ------------------------------------------------------------------------------------------------------------ the job


def job(library: Path, monkeypatch: pytest.MonkeyPatch, plan: DemoConfig = TINY, **more: Path) -> str:
    monkeypatch.setattr(demo_corpus, "library", lambda: library)
    out = Console(file=io.StringIO(newline=""), width=100)
    demo.run(plan, out, quiet(), **more)
    return out.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_same_seed_gives_the_same_report(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = job(library, monkeypatch, save=tmp_path / "model")
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads
    torch.rand(7)
    assert job(library, monkeypatch) == first
    seeds = [padless.load_model(tmp_path / "model").get_weights()]
    job(library, monkeypatch, DemoConfig(**{**TINY.__dict__, "seed": 1}), save=tmp_path / "model")
    seeds.append(padless.load_model(tmp_path / "model").get_weights())
    assert not all(np.array_equal(a, b) for a, b in zip(*seeds, strict=True))
    for words in ("accuracy", "without whitespace", "macro-F1", "majority", "never computed", "Unseen: ", "mistaken"):
        assert words in first
    shown = re.search(r"Unseen: (\S+), line (\d+)", first)
    assert shown and shown[1] in demo_corpus.files(library)["test"]
    assert "".join(demo_corpus.split_lines((library / shown[1]).read_text())[int(shown[2]) - 1]) in first


def test_a_loaded_model_reports_without_training(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    report = job(library, monkeypatch, save=tmp_path / "model")
    monkeypatch.setattr(demo, "learn", None)
    loaded = job(library, monkeypatch, load=tmp_path / "model")
    assert table_of(loaded) == table_of(report) and "in training" not in loaded


def table_of(report: str) -> list[str]:
    return [line for line in report.splitlines() if "%" in line and "│" in line]


@pytest.mark.parametrize("text", AWKWARD)
def test_a_users_file_comes_out_as_it_went_in(
    text: str, library: Path, highlighter: Highlighter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    highlighter.save(tmp_path / "model")
    (tmp_path / "file.py").write_text(text, encoding="utf-8", newline="")
    assert job(library, monkeypatch, file=tmp_path / "file.py", load=tmp_path / "model") == text


def test_a_folder_that_is_not_there_is_found_out_before_training(
    library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(demo, "learn", None)
    for place in (tmp_path / "absent" / "model", tmp_path):
        with pytest.raises(DataError, match=re.escape(str(place))):
            job(library, monkeypatch, save=place)
