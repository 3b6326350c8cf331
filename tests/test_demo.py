"""The demo: its data, its output, and equal results for equal seeds."""

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
from padless.demo import corpus, report
from padless.demo import highlighter as demo
from padless.demo.corpus import CLASSES, SourceFunction
from padless.demo.highlighter import Corpus, DemoConfig, GridCounter, Highlighter
from padless.demo.report import MajorityBaseline, Scores
from padless.errors import DataError

LETTERS = dict(zip("_knsdco", CLASSES, strict=True))  # one letter for each class, d for a digit
TINY = DemoConfig(max_length=180, training=16, validation=4, test=6, batch=8, features=4, units=5)
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
        shutil.copytree(corpus.find_library() / name, root / name, ignore=shutil.ignore_patterns("*.pyc", "test*"))
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
    return demo.train(data, TINY, quiet())[0]


def quiet() -> Console:
    return Console(file=io.StringIO())


def texts(functions: list[SourceFunction]) -> list[str]:
    return [function.text for function in functions]


# ------------------------------------------------------------------------------------------------------------- labels


def test_every_character_has_the_class_of_its_token():
    text = "@cache\ndef f(x, *a):  # why\n    return not x + 0x1f or \\\n        'a b'\n"
    expected = "onnnnn_kkk_nono_onoo__ccccc_" + "____kkkkkk_kkk_n_o_dddd_kk___" + "________sssss_"
    assert corpus.label_characters(text).tolist() == classes(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_labels(text: str, expected: str):
    assert corpus.label_characters(text).tolist() == classes(expected)


@pytest.mark.parametrize("text", ["(", "x = '''", "  x\n y\n", "a\x00b"])
def test_text_that_does_not_tokenize_has_no_labels(text: str):
    assert corpus.label_characters(text) is None


def test_a_function_has_the_same_labels_alone_and_in_its_file(library: Path):
    count = 0
    for path in ("json/decoder.py", "logging/config.py", "asyncio/locks.py"):
        with tokenize.open(library / path) as file:
            source = file.read()
        whole, lines = corpus.label_characters(source), corpus.split_lines(source)
        for line, text in corpus.extract_functions(source):
            start = len("".join(lines[: line - 1]))
            assert np.array_equal(corpus.label_characters(text), whole[start : start + len(text)]), (path, line)
            count += 1
    assert count > 50


# ------------------------------------------------------------------------------------------------------------- corpus


def test_outermost_functions_are_extracted_with_their_decorators():
    source = "class A:\n    @b\n    @c(\n        1)\n    async def f(self):\n        def inner(): pass\n        return 1\n"
    source += "if x:\n    def g(): return '''\n'''\ntry:\n    pass\nexcept E:\n    def h(): pass\n"
    cut = dict(corpus.extract_functions(source))
    assert list(cut) == [2, 9, 14]
    assert cut[2].startswith("    @b\n    @c(") and cut[2].endswith("return 1\n") and cut[9].endswith("'''\n'''\n")


def test_splits_are_disjoint_complete_and_fixed(library: Path):
    files = corpus.list_files(library)
    all_files = sorted(sum(files.values(), []))
    assert len(set(all_files)) == len(all_files)
    library_tests = {path for path in library.rglob("*.py") if "test" in path.parent.relative_to(library).parts}
    assert all_files == sorted(p.relative_to(library).as_posix() for p in {*library.rglob("*.py")} - library_tests)
    known = {"ast.py": "training", "mailbox.py": "validation", "gzip.py": "test", "html/__init__.py": "test"}
    assert {path: corpus.choose_split(path) for path in known} == known


def test_no_function_is_in_two_splits_or_too_long(data: Corpus):
    texts = [function.text for functions in data.functions.values() for function in functions]
    assert len(set(texts)) == len(texts) and max(map(len, texts)) <= TINY.max_length
    for split, functions in data.functions.items():
        assert 0 < len(functions) <= getattr(TINY, split)
        assert {corpus.choose_split(function.path) for function in functions} == {split}


def test_a_text_is_read_once_and_only_if_it_is_short(tmp_path: Path):
    (tmp_path / "a.py").write_text("def f(): pass\nclass A:\n    def g(self): pass\nx = 1\n")
    (tmp_path / "b.py").write_text("def f(): pass\ndef longer(than, that): pass\n")
    seen: set[str] = set()
    assert [f.line for f in corpus.read_functions(tmp_path, ["a.py"], 25, seen)] == [1, 3]
    assert list(corpus.read_functions(tmp_path, ["b.py"], 25, seen)) == []
    assert len(list(corpus.read_functions(tmp_path, ["b.py", "b.py"], 99))) == 2


@pytest.mark.slow
def test_reading_the_corpus_twice_gives_equal_data(data: Corpus, library: Path):
    assert Corpus.read(TINY, library) == data


def test_a_library_without_source_is_named_in_the_error(tmp_path: Path):
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        corpus.list_files(tmp_path)


def test_ids_0_and_1_are_padding_and_unknown_characters():
    characters = corpus.list_characters(["aab", "b\n", "a"])
    assert characters == "ab\n"
    assert corpus.encode(["ba?", ""], characters)[0].tolist() == [3, 2, 1]


@given(
    st.text(st.sampled_from("x\n@ '\"#") | st.characters())
    | st.lists(st.sampled_from(["def f():\n", "@d\n", "  x\n", '"""', "class A: y\n", "\n"])).map("".join),
    st.integers(1, 30),
    st.integers(0, 20),
)
def test_joined_pieces_are_the_text(text: str, longest: int, shortest: int):
    pieces = corpus.split_into_pieces(text, shortest, longest)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= longest for piece in pieces)


def test_pieces_begin_at_definitions_but_not_in_strings_or_after_decorators():
    text = 'x = """\ndef no():\n"""\n@a\n@b\ndef f(): 1\nclass C:\n    async def g(self): 2\n'
    expected = ['x = """\ndef no():\n"""\n', "@a\n@b\ndef f(): 1\n", "class C:\n", "    async def g(self): 2\n"]
    assert corpus.split_into_pieces(text, min_length=1) == expected


@given(st.text(st.sampled_from("x\n@ ") | st.characters()) | st.sampled_from(["def f(): 1\n", "class A:\n  x\n", " @d\n"]))
def test_a_piece_shown_as_a_function_keeps_its_characters(piece: str):
    text, is_piece = corpus.wrap_as_function(piece)
    assert len(is_piece) == len(text) and "".join(c for c, belongs in zip(text, is_piece, strict=True) if belongs) == piece
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
    assert corpus.read_text(tmp_path / "file.py") == text


# ------------------------------------------------------------------------------------------------------------- report


def test_scores_by_hand():
    truth, answers = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 0])
    scores = Scores.count(truth, answers)
    assert scores.accuracy == 3 / 6
    assert scores.accuracy_without_whitespace == 2 / 4
    assert scores.f1[:4] == [2 * 1 / 5, 2 * 2 / 6, 0, 0]
    assert scores.macro_f1 == pytest.approx((2 / 5 + 4 / 6 + 0) / 3)


def test_macro_f1_equals_torchmetrics():
    from torchmetrics.functional.classification import multiclass_f1_score

    rng = np.random.default_rng(0)
    truth, answers = rng.integers(0, 5, 200), rng.integers(1, 6, 200)
    expected = multiclass_f1_score(torch.from_numpy(answers), torch.from_numpy(truth), len(CLASSES), average="macro")
    assert Scores.count(truth, answers).macro_f1 == pytest.approx(expected.item(), abs=1e-6)


def test_the_baseline_is_the_majority_of_each_character():
    baseline = MajorityBaseline([("aab", np.array([2, 3, 3])), ("a", np.array([2])), ("bb", np.array([3, 3]))])
    assert baseline.classify("abz").tolist() == [2, 3, 3]


@given(st.text() | st.sampled_from(AWKWARD), st.integers(0, 2**32))
def test_coloured_text_is_the_text(text: str, seed: int):
    rng = np.random.default_rng(seed)
    answers, truth = rng.integers(0, len(CLASSES), (2, len(text)))
    console = Console(file=io.StringIO(newline=""), width=10, color_system=None)
    report.print_source(console, text, answers, truth)
    assert console.file.getvalue() == text  # pyright: ignore[reportAttributeAccessIssue]
    assert "".join(segment.text for segment in report.colour_text(text, answers).segments) == text


def test_colours_show_predictions_and_mark_mistakes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard")
    report.print_source(console, "if x", np.array([1, 1, 0, 3]), np.array([1, 1, 0, 2]))
    wrong = report.STYLES["string"] + report.MISTAKE
    expected = report.STYLES["keyword"].render("if") + report.STYLES["whitespace"].render(" ") + wrong.render("x")
    assert plain_codes(console.file.getvalue()) == plain_codes(expected)  # pyright: ignore[reportAttributeAccessIssue]
    assert not any(s.style.reverse for s in report.colour_text("x", np.array([3])).segments if s.style)


def plain_codes(rendered: str) -> list[tuple[set[str], str]]:
    """Return the codes and the text of each coloured part, for any colour system."""
    parts = re.findall(r"(?:\x1b\[([\d;]*)m)?([^\x1b]+)(?:\x1b\[0m)?", rendered)
    return [({code for code in codes.split(";") if code in ("4", "7")}, text) for codes, text in parts]


def test_mistakes_are_described_by_runs():
    text = "ab\ncd e"
    answers, truth = np.array([2, 2, 0, 1, 1, 0, 4]), np.array([2, 3, 0, 2, 2, 0, 4])
    assert report.describe_mistakes(text, answers, truth) == [
        "line 1, column 2: 'b' classified as name, is string",
        "line 2, column 1: 'cd' classified as keyword, is name",
    ]
    assert report.describe_mistakes(text, answers, truth, max_lines=1)[1:] == ["and 1 more"]


# -------------------------------------------------------------------------------------------------------------- model


@pytest.mark.slow
def test_the_grid_is_counted_from_what_enters_the_layers(highlighter: Highlighter):
    with GridCounter().watch(highlighter.model) as grid:
        highlighter.classify(["a" * 10, "b" * 2, ""])
    assert grid.cells % 20 == 0 and grid.cells > 0
    assert grid.skipped_share == 1 - 12 / 20
    highlighter.classify(["c"])
    assert grid.cells % 20 == 0  # the hooks are gone


def test_other_texts_in_the_call_do_not_change_a_result(highlighter: Highlighter, data: Corpus):
    some = ["x", *texts(data.functions["test"]), "", "# é"]
    labels_in_one_call = highlighter.classify(some)
    for text, answer in zip(some, labels_in_one_call, strict=True):
        assert np.array_equal(highlighter.classify([text])[0], answer) and len(answer) == len(text)


@pytest.mark.parametrize("text", AWKWARD)
def test_a_file_is_coloured_character_by_character(highlighter: Highlighter, text: str):
    answers = highlighter.classify_file(text)
    assert answers.shape == (len(text),)
    unix, places = corpus.normalize_newlines(text)
    assert np.array_equal(highlighter.classify_file(unix)[places], answers)


def test_training_improves_the_accuracy_and_ends_with_a_small_learning_rate(data: Corpus):
    config = DemoConfig(learning_rate=0.05, batch=2, units=8)
    torch.manual_seed(0)
    learner = Highlighter.build(corpus.list_characters(texts(data.functions["training"])), config)
    learner.fit(data.functions["training"], data.functions["validation"], config, quiet())
    answers = np.concatenate(learner.classify(texts(data.functions["test"])))
    truth = np.concatenate([corpus.label_characters(text) for text in texts(data.functions["test"])])
    assert Scores.count(truth, answers).accuracy > 1.2 * Scores.count(truth, np.full_like(truth, 2)).accuracy
    assert learner.model.optimizer.learning_rate < 0.05 * 0.1


def test_a_saved_highlighter_is_equal_and_is_a_model_file(highlighter: Highlighter, data: Corpus, tmp_path: Path):
    highlighter.save(tmp_path / "model.safetensors")
    loaded = Highlighter.load(tmp_path / "model.safetensors")
    text = "".join(texts(data.functions["test"]))
    assert loaded.characters == highlighter.characters
    assert np.array_equal(loaded.classify_file(text), highlighter.classify_file(text))
    weights = padless.load_model(tmp_path / "model.safetensors").get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(weights, highlighter.model.get_weights(), strict=True))


def test_other_files_are_not_loaded_as_highlighters(highlighter: Highlighter, tmp_path: Path):
    highlighter.model.save(tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("not a model")
    for name in ("other.safetensors", "text"):
        with pytest.raises(DataError, match="padless demo --save"):
            Highlighter.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Highlighter.load(tmp_path / "absent")


# ------------------------------------------------------------------------------------------------------------ the command


def run_demo(library: Path, monkeypatch: pytest.MonkeyPatch, config: DemoConfig = TINY, **more: Path) -> str:
    monkeypatch.setattr(corpus, "find_library", lambda: library)
    out = Console(file=io.StringIO(newline=""), width=100)
    demo.run(config, out, quiet(), **more)
    return out.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = run_demo(library, monkeypatch, save=tmp_path / "model")
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads
    torch.rand(7)
    assert run_demo(library, monkeypatch) == first
    seeds = [padless.load_model(tmp_path / "model").get_weights()]
    run_demo(library, monkeypatch, DemoConfig(**{**TINY.__dict__, "seed": 1}), save=tmp_path / "model")
    seeds.append(padless.load_model(tmp_path / "model").get_weights())
    assert not all(np.array_equal(a, b) for a, b in zip(*seeds, strict=True))
    for words in ("accuracy", "without whitespace", "macro-F1", "majority", "never computed", "Unseen: ", "mistaken"):
        assert words in first
    shown = re.search(r"Unseen: (\S+), line (\d+)", first)
    assert shown and shown[1] in corpus.list_files(library)["test"]
    assert "".join(corpus.split_lines((library / shown[1]).read_text())[int(shown[2]) - 1]) in first


@pytest.mark.slow
def test_a_loaded_model_reports_without_training(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    report = run_demo(library, monkeypatch, save=tmp_path / "model")
    monkeypatch.setattr(demo, "train", None)
    loaded = run_demo(library, monkeypatch, load=tmp_path / "model")
    assert table_of(loaded) == table_of(report) and "in training" not in loaded


def table_of(report: str) -> list[str]:
    return [line for line in report.splitlines() if "%" in line and "│" in line]


@pytest.mark.parametrize("text", AWKWARD)
def test_a_coloured_file_has_its_exact_text(
    text: str, library: Path, highlighter: Highlighter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    highlighter.save(tmp_path / "model")
    (tmp_path / "file.py").write_text(text, encoding="utf-8", newline="")
    assert run_demo(library, monkeypatch, file=tmp_path / "file.py", load=tmp_path / "model") == text


def test_a_missing_folder_is_an_error_before_training(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(demo, "train", None)
    for place in (tmp_path / "absent" / "model", tmp_path):
        with pytest.raises(DataError, match=re.escape(str(place))):
            run_demo(library, monkeypatch, save=place)
