"""The compiled library: which one is loaded, the reason where there is none, and the structs shared with Python."""

import ctypes
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import padless
from padless.kernels.attention import native as attention_native
from padless.kernels.conv import native as conv_native
from padless.kernels.native import library
from padless.kernels.recurrent import native as recurrent_native

needs_library = pytest.mark.skipif(library.get_library() is None, reason=padless.backends()["native kernels"])
BUILT = [level for level in library.LEVELS if library.library_path(level).exists()]
SOURCES = sorted(library.FOLDER.glob("*.[ch]"))


@needs_library
def test_every_library_that_was_built_for_this_processor_loads():
    for level in library.supported_levels():
        if level in BUILT:
            assert isinstance(library.load_library(level), library.Library), level


def test_the_reason_is_reported_where_there_is_no_library(tmp_path):
    with patch.object(library, "FOLDER", tmp_path):
        assert "source" in library.find_library()
        shutil.copy(SOURCES[-1].with_name("recurrent.c"), tmp_path)
        assert "not built" in library.find_library()
        for level in library.LEVELS:
            library.library_path(level).write_text("not a library")
        assert "could not be loaded" in library.find_library()
        assert padless.backends()["native kernels"].startswith("no: ")


@needs_library
def test_a_library_of_another_source_is_not_used(tmp_path):
    for path in (*map(library.library_path, BUILT), *SOURCES):
        shutil.copy(path, tmp_path)
    with patch.object(library, "FOLDER", tmp_path):
        assert isinstance(library.find_library(), library.Library)
        for source in tmp_path.glob("*.[ch]"):
            text = source.read_text()
            source.write_text(text + "\n")
            assert "another source" in str(library.find_library()), source
            source.write_text(text)


@needs_library
def test_a_stale_library_is_reported_once_when_the_kernels_are_first_used(tmp_path):
    for path in (*map(library.library_path, BUILT), *SOURCES):
        shutil.copy(path, tmp_path)
    (tmp_path / "gemm.h").write_text("/* another source */")
    with (
        patch.object(library, "FOLDER", tmp_path),
        patch.object(library, "get_library", cache(library.get_library.__wrapped__)),
    ):
        with pytest.warns(
            RuntimeWarning, match=r"without its compiled kernels.*another source; run `python hatch_build.py`"
        ):
            assert library.get_library() is None
        assert library.get_library() is None  # a second warning would be an error
        for path in tmp_path.glob("*.so"):
            path.unlink()
        assert library.get_library.__wrapped__() is None  # without a compiler nothing is wrong, so there is no warning


def test_a_processor_gets_no_library_that_it_cannot_run():
    for capability, levels in (
        ("AVX512", ["avx512", "avx2", "default"]),
        ("AVX2", ["avx2", "default"]),
        ("DEFAULT", ["default"]),
        ("SVE256", ["default"]),
    ):
        with patch.object(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c):
            assert list(library.supported_levels()) == levels


def test_a_build_without_a_compiler_says_so_and_does_not_fail(tmp_path):
    root = Path(padless.__file__).parent.parent
    for path in (root / "hatch_build.py", *SOURCES):
        target = tmp_path / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    done = subprocess.run(
        [sys.executable, "hatch_build.py"],
        cwd=tmp_path,
        env={"CC": "no-such-compiler", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no compiled kernel" in done.stderr and not list(tmp_path.rglob("*.so"))


@needs_library
def test_structs_have_the_fields_of_the_c_source():
    for file, name, structure in (
        ("recurrent.c", "rnn_args", recurrent_native._RNNArgs),
        ("conv.c", "conv_args", conv_native._ConvArgs),
        ("attention.c", "attn_args", attention_native._AttentionArgs),
    ):
        source = (library.FOLDER / file).read_text()
        body = source[: source.index(f"}} {name};")].rsplit("typedef struct {", 1)[1]
        fields = re.findall(r"^ +(?:const )?(i64|float) (\*?)(\w+); /\* .+ \*/$", body, re.MULTILINE)
        assert len(fields) == len(body.strip().splitlines()), f"{name}: one field with a comment on each line"
        types = {("i64", ""): ctypes.c_int64, ("float", ""): ctypes.c_float}
        expected = [(field, types.get((kind, pointer), ctypes.c_void_p)) for kind, pointer, field in fields]
        assert list(structure._fields_) == expected
        assert ctypes.sizeof(structure) == 8 * len(fields)


def test_weight_panels_are_columns_of_four_vectors_one_after_another():
    for columns in (16, 64, 128, 144):
        for rows in (1, 5):
            contiguous, transposed = torch.randn(rows, 2 * columns)[:, ::2], torch.randn(columns, 2 * rows)[:, ::2].t()
            for weights in (contiguous, transposed):
                panels, begin = library.pack_weight_panels(weights, 16), 0
                assert panels.is_contiguous() and panels.shape == (weights.numel(),)
                for first in range(0, columns, 64):
                    panel = weights[:, first : first + 64]
                    assert torch.equal(panels[begin : begin + panel.numel()].view(panel.shape), panel)
                    begin += panel.numel()
