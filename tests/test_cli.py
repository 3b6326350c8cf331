"""The command line: exit codes, and one line on standard error for each error."""

import subprocess
import sys
from pathlib import Path

import pytest

import padless
from padless.cli import main
from padless.demo import corpus
from padless.demo import highlighter as demo


def run_failing(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line that a failing command prints."""
    assert main(["demo", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("padless: ") and printed.err.count("\n") == 1
    return printed.err


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"padless {padless.__version__}\n"


@pytest.mark.parametrize("line", ["", "dmo", "demo --seed -1", "demo --seed x", "demo --functions 0"])
def test_wrong_use(line: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(line.split())
    assert end.value.code == 2 and "usage: padless" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert str(tmp_path / "absent.py") in run_failing(capsys, "--file", str(tmp_path / "absent.py"))
    assert str(tmp_path) in run_failing(capsys, "--file", str(tmp_path))
    assert str(tmp_path / "absent") in run_failing(capsys, "--load", str(tmp_path / "absent"))


def test_a_padless_error_is_printed_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "text").write_text("not a model")
    assert "padless demo --save" in run_failing(capsys, "--load", str(tmp_path / "text"))


def test_an_empty_file_needs_no_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(demo, "train", None)
    (tmp_path / "empty.py").touch()
    assert main(["demo", "--file", str(tmp_path / "empty.py")]) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "empty" in printed.err


def test_the_lists_of_files_are_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = [f"{stem}.py" for stem in "abcdefghijklmnopqrstuvwxyz"]
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(corpus, "find_library", lambda: tmp_path)
    assert main(["demo", "--files"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if ":" in line] == list(corpus.SPLITS)
    assert sorted(line.strip() for line in lines if ":" not in line) == names


def test_an_interrupt_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "padless: interrupted\n"


@pytest.mark.slow
def test_a_closed_pipe_is_not_an_error():
    command = subprocess.Popen(
        [sys.executable, "-m", "padless", "demo", "--files"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout and command.stderr
    command.stdout.close()
    with command.stderr:
        assert command.stderr.read() == ""
    assert command.wait() == 0
