"""The native kernels: every build of it against the reference, on the cases of the other paths; and life without it."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recurrent import FAST, gradients, indexes, lengths_, run, same, sizes, tensors_for

import padless
from padless.errors import ArgumentError
from padless.kernels.attention import native as attention_native
from padless.kernels.conv import native as conv_native
from padless.kernels.conv import taps
from padless.kernels.native import library
from padless.kernels.recurrent import api
from padless.kernels.recurrent import native as recurrent_native
from padless.ragged.index import Index

BUILT = {path.stem.removeprefix("_padless_native."): path for path in library.FOLDER.glob("_padless_native.*.so")}
RUNS_HERE = [level for level in library.supported_levels() if level in BUILT]
there = pytest.mark.skipif(library.get_library() is None, reason=padless.backends()["native kernels"])
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# units below, at and beyond one block of columns, and of one to five blocks
UNITS = st.sampled_from([1, 3, 4, 5, 8, 13, 16, 17, 33, 64, 70])


def floats(cell, index, features, units, seed=0, bias=True):
    """Float32, of a size that keeps states from running away."""
    made = tensors_for(cell, index, features, units, seed=seed, bias=bias)
    scaled = [
        None if t is None else t.detach().float() * (len(t) ** -0.5 if n in (1, 2) and len(t) else 1)
        for n, t in enumerate(made)
    ]
    return [None if t is None else t.requires_grad_() for t in scaled]


# ------------------------------------------------------------------------------------------------ laws


@there
@pytest.mark.parametrize("level", RUNS_HERE)
@given(st.sampled_from(FAST), indexes(), sizes, UNITS, st.booleans(), st.integers(0, 1000), st.data())
@settings(max_examples=60, deadline=None)
def test_it_equals_the_reference_for_any_subset(level, cell, index, features, units, reverse, seed, data):
    tensors = floats(cell, index, features, units, seed, bias=data.draw(st.booleans()))
    used = data.draw(st.sets(st.integers(0, 2 if cell == "lstm" else 1), min_size=1))
    given_ = [t for t in tensors if t is not None]
    needed = data.draw(st.sets(st.integers(0, len(given_) - 1), min_size=1))
    for n, tensor in enumerate(given_):
        tensor.requires_grad_(n in needed)
    native = library.load_library(level)
    with patch.object(library, "get_library", lambda: native):
        ours = run(cell, index, tensors, reverse=reverse, path="native")
        theirs = run(cell, index, tensors, reverse=reverse, path="reference")
        with torch.no_grad():
            same(run(cell, index, tensors, reverse=reverse, path="native"), ours, rtol=0, atol=0)
        same(ours, theirs, **CLOSE)
        same(gradients(ours, tensors, used), gradients(theirs, tensors, used), **CLOSE)


@there
@pytest.mark.parametrize("cell", FAST)
@pytest.mark.parametrize("reverse", [False, True])
def test_many_sequences_of_many_lengths(cell, reverse):
    index = Index(np.random.default_rng(0).random((29, 40)) < np.linspace(0, 1, 29)[:, None])
    tensors = floats(cell, index, 7, 48)
    ours, theirs = (run(cell, index, tensors, reverse=reverse, path=path) for path in ("native", "reference"))
    same(ours, theirs, **CLOSE)
    same(gradients(ours, tensors), gradients(theirs, tensors), rtol=1e-4, atol=1e-4)  # sums over 600 steps


@there
@pytest.mark.parametrize("level", RUNS_HERE)
@pytest.mark.parametrize("cell", FAST)
@pytest.mark.parametrize("features", [3, 300])  # less and more than stays in the nearest cache
def test_how_many_times_are_made_at_once_changes_no_bit(level, cell, features):
    index = Index(np.random.default_rng(0).random((29, 40)) < np.linspace(0, 1, 29)[:, None])
    tensors = floats(cell, index, features, 21)
    native, found = library.load_library(level), []
    for near in (0, 4 * 32 * 50, 1 << 20):  # one time, a few, all
        with patch.object(library, "get_library", lambda: native), patch.object(recurrent_native, "CHUNK_NUMBERS", near):
            ours = run(cell, index, tensors, path="native")
            with torch.no_grad():
                same(run(cell, index, tensors, path="native"), ours, rtol=0, atol=0)
            found.append((*ours, *gradients(ours, tensors)))
    same(found[0], found[2], rtol=0, atol=0)
    same(found[1], found[2], rtol=0, atol=0)
    same(found[2][:2], run(cell, index, tensors, path="reference")[:2], rtol=1e-4, atol=1e-4)


@there
@pytest.mark.parametrize("cell", FAST)
def test_neither_batch_mates_nor_threads_change_a_bit_of_a_state(cell):
    lengths = np.array([5, 1, 0, 7, 3, 7, 2])
    index = Index.from_lengths(lengths)
    tensors = floats(cell, index, 4, 20)
    values, kernel, recurrent, bias, *states = (t.detach() for t in tensors)
    together = run(cell, index, [values, kernel, recurrent, bias, *states], path="native")
    for threads in (1, 2, 3):
        with patch.object(torch, "get_num_threads", lambda n=threads: n):
            same(run(cell, index, [values, kernel, recurrent, bias, *states], path="native"), together, rtol=0, atol=0)
    for row, length in enumerate(lengths):
        steps = slice(*index.offsets[row : row + 2])
        alone = [values[steps], kernel, recurrent, bias, *(s[row : row + 1] for s in states)]
        one = run(cell, Index.from_lengths(np.array([length])), alone, path="native")
        same(one, [together[0][steps], *(last[row : row + 1] for last in together[1:])], rtol=0, atol=0)


@there
@pytest.mark.parametrize("cell", FAST)
@pytest.mark.parametrize("word", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_own_sequence_only(cell, word):
    index = Index.from_lengths(np.array([3, 4]))
    tensors = [t.detach() for t in floats(cell, index, 4, 20)]
    tensors[0][1, 2] = word
    ours, theirs = (run(cell, index, tensors, path=path)[0] for path in ("native", "reference"))
    assert torch.isfinite(ours[3:]).all()
    assert torch.equal(torch.isnan(ours), torch.isnan(theirs))


@there
@pytest.mark.parametrize("cell", FAST)
@pytest.mark.parametrize("size", [30.0, 88.0, 200.0, 1e30])
def test_gates_saturate_as_in_torch(cell, size):
    index = Index.from_lengths(np.array([2, 2]))
    tensors = floats(cell, index, 4, 20)
    tensors[0] = (tensors[0].detach().sign() * size).requires_grad_()
    ours, theirs = (run(cell, index, tensors, path=path) for path in ("native", "reference"))
    if cell != "relu":
        same(ours, theirs, **CLOSE)
    assert all(g is None or g.isfinite().all() for g in gradients(ours, tensors))


# ------------------------------------------------------------------------------------------------ gradients and dtypes


@there
@pytest.mark.parametrize("cell", FAST)
def test_backward_leaves_what_it_needs_for_another(cell):
    index = Index.from_lengths(np.array(lengths_["ragged"]))
    tensors = floats(cell, index, 2, 16)  # whole blocks: nothing is copied on the way in
    results = run(cell, index, tensors, path="native")
    grads = [torch.ones_like(r) for r in results]
    once = torch.autograd.grad(results, tensors, grads, retain_graph=True)
    assert all(g.eq(1).all() for g in grads), "what arrives is the caller's"
    same(torch.autograd.grad(results, tensors, grads), once, rtol=0, atol=0)


@there
@pytest.mark.parametrize("cell", FAST)
def test_results_may_be_changed_in_place_and_states_are_left_alone(cell):
    index = Index.from_lengths(np.array(lengths_["ragged"]))
    tensors = floats(cell, index, 2, 16)
    before = [t.detach().clone() for t in tensors]
    results = run(cell, index, tensors, path="native")
    expected = torch.autograd.grad(2 * results[0].sum(), tensors, retain_graph=True, allow_unused=True)
    same(torch.autograd.grad(results[0].mul_(2).sum(), tensors, allow_unused=True), expected)
    same([t.detach() for t in tensors], before, rtol=0, atol=0)


@there
@pytest.mark.parametrize("cell", FAST)
def test_second_derivatives_are_those_of_the_reference(cell):
    index = Index.from_lengths(np.array([2, 1]))
    tensors = floats(cell, index, 2, 3)
    found = []
    for path in ("native", "reference"):
        outputs = run(cell, index, tensors, path=path)[0]
        (first,) = torch.autograd.grad(outputs.sum(), tensors[:1], create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), tensors, allow_unused=True))
    same(*found, **CLOSE)


@there
@pytest.mark.parametrize("cell", FAST)
def test_bfloat16_is_the_reference_to_its_own_precision(cell):
    index = Index.from_lengths(np.array(lengths_["ragged"]))
    exact = [t.detach().bfloat16().double().requires_grad_() for t in floats(cell, index, 3, 20)]
    tensors = [t.detach().bfloat16().requires_grad_() for t in exact]
    ours, theirs = run(cell, index, tensors, path="native"), run(cell, index, exact, path="reference")
    assert all(r.dtype == torch.bfloat16 for r in ours)
    same([r.double() for r in ours], theirs, rtol=0.05, atol=0.05)
    found = torch.autograd.grad(sum(r.sum() for r in ours), tensors)
    assert all(g.dtype == torch.bfloat16 for g in found)
    same([g.double() for g in found], torch.autograd.grad(sum(r.sum() for r in theirs), exact), rtol=0.1, atol=0.2)


@there
@pytest.mark.parametrize("cell", FAST)
def test_strides_do_not_matter(cell):
    index = Index.from_lengths(np.array(lengths_["ragged"]))
    tensors = floats(cell, index, 3, 20)
    strided = [t.detach().t().contiguous().t().requires_grad_() if t.ndim == 2 else t for t in tensors]
    strided[-1] = torch.zeros(20, requires_grad=True).expand(4, 20)  # one state for all rows
    ours, theirs = (run(cell, index, strided, path=path) for path in ("native", "reference"))
    same(ours, theirs, **CLOSE)
    upstream = [torch.ones(r.shape[::-1]).t() for r in ours]
    same(*(torch.autograd.grad(results, strided, upstream) for results in (ours, theirs)), **CLOSE)


# ------------------------------------------------------------------------------------------------ with and without it


@there
def test_it_is_taken_on_the_cpu_and_refused_where_it_cannot_go():
    index = Index.from_lengths(np.array([2]))
    assert api._choose_path("lstm", None, True, torch.zeros(2, 2)) == "native"
    assert api._choose_path("lstm", None, True, torch.zeros(2, 2, dtype=torch.float64)) == "manual"
    with pytest.raises(ArgumentError, match=r"got torch\.float64 on cpu"):
        run("lstm", index, tensors_for("lstm", index, 2, 2), path="native")
    with pytest.raises(ArgumentError, match="path='reference'"):
        run("lstm", index, floats("lstm", index, 2, 2), path="native", activation=torch.relu)


def test_without_it_the_packed_path_is_taken_and_backends_says_why():
    with patch.object(library, "get_library", lambda: None):
        assert api._choose_path("gru", None, True, torch.zeros(2, 2)) == "manual"


@pytest.mark.parametrize("missing", ["libraries", "source", "compiler's output"])
def test_backends_says_what_is_missing(tmp_path, missing):
    shutil.copy(library.FOLDER / "recurrent.c", tmp_path)
    if missing == "source":
        (tmp_path / "recurrent.c").unlink()
    if missing == "compiler's output":
        for level in library.LEVELS:
            (tmp_path / f"_padless_native.{level}.so").write_text("not a library")
    with patch.object(library, "FOLDER", tmp_path):
        said = library.find_library()
    expected = {"libraries": "not built", "source": "source", "compiler's output": "could not be loaded"}
    assert isinstance(said, str) and expected[missing] in said


@there
def test_a_library_of_another_source_is_not_used(tmp_path):
    for path in (*BUILT.values(), *library.FOLDER.glob("*.[ch]")):
        shutil.copy(path, tmp_path)
    with patch.object(library, "FOLDER", tmp_path):
        assert isinstance(library.find_library(), library.Library)
        for source in tmp_path.glob("*.[ch]"):
            text = source.read_text()
            source.write_text(text + "\n")
            assert "another source" in str(library.find_library()), source
            source.write_text(text)


def test_a_processor_gets_no_library_beyond_it():
    for capability, levels in (
        ("AVX512", ["avx512", "avx2", "default"]),
        ("AVX2", ["avx2", "default"]),
        ("DEFAULT", ["default"]),
        ("SVE256", ["default"]),
    ):
        with patch.object(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c):
            assert list(library.supported_levels()) == levels


def test_a_build_without_a_compiler_says_so_and_goes_on(tmp_path):
    root = Path(padless.__file__).parent.parent
    for name in ("hatch_build.py", *(f"padless/kernels/native/{path.name}" for path in library.FOLDER.glob("*.[ch]"))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "hatch_build.py"],
        cwd=tmp_path,
        env={"CC": "no-such-compiler", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no compiled kernel" in done.stderr and not list(tmp_path.rglob("*.so"))


@there
@pytest.mark.parametrize(
    ("file", "called", "ours"),
    [
        ("recurrent.c", "rnn_args", recurrent_native._RNNArgs),
        ("conv.c", "conv_args", conv_native._ConvArgs),
        ("attention.c", "attn_args", attention_native._AttentionArgs),
    ],
)
def test_the_struct_is_the_one_of_the_source(file, called, ours):
    source = (library.FOLDER / file).read_text()
    struct = source[: source.index(f"}} {called};")].rsplit("typedef struct {", 1)[1]
    lines = [line.split("/*")[0].strip() for line in struct.splitlines()]
    names = [
        name.strip(" *")
        for line in lines
        if line
        for declared in line.rstrip(";").split(";")
        for name in declared.split(None, 2 if "const" in declared else 1)[-1].split(",")
    ]
    assert names == [name for name, _ in ours._fields_]
    assert ctypes.sizeof(ours) == 8 * len(names)


@pytest.mark.parametrize("columns", [16, 64, 128, 144])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("turned", [False, True])
def test_panels_are_columns_of_four_vectors_one_panel_after_the_other(columns, rows, turned):
    x = torch.randn(columns, 2 * rows)[:, ::2].t() if turned else torch.randn(rows, 2 * columns)[:, ::2]
    found, begin = library.pack_weight_panels(x, 16), 0
    assert found.is_contiguous() and found.shape == (x.numel(),)
    for first in range(0, columns, 64):
        panel = x[:, first : first + 64]
        assert torch.equal(found[begin : begin + panel.numel()].view(panel.shape), panel)
        begin += panel.numel()


# ------------------------------------------------------------------------------------------------ windows


@there
@pytest.mark.parametrize("level", [level for level in RUNS_HERE if level != "default"])
@pytest.mark.parametrize(("stride", "count"), [(1, 200), (3, 7), (2, 1)])
@pytest.mark.parametrize(("taps_", "channels", "filters"), [(5, 17, 48), (1, 16, 80), (3, 130, 16)])
@pytest.mark.parametrize("some", [False, True])
def test_compiled_windows_are_those_of_torch(level, stride, count, taps_, channels, filters, some):
    torch.manual_seed(0)
    line = torch.randn((count - 1) * stride + taps_ + 1, channels, requires_grad=True)
    kernel = (torch.randn(taps_, channels, filters) / channels).requires_grad_()
    bias = torch.randn(filters, requires_grad=True)
    chosen = torch.randperm(count)[: count // 2 + 1] if some else None
    native, found = library.load_library(level), []
    assert isinstance(native, library.Library)
    for available in (native, None):
        with patch.object(library, "get_library", lambda available=available: available):
            made = taps.conv_by_taps(line, kernel, count, (stride, 1), bias, chosen)
            found.append((made, *torch.autograd.grad(made.square().sum(), (line, kernel, bias))))
            found[-1] += (taps.conv_by_taps(line, kernel, count, (stride, 1), None, chosen),)
    same(*found, rtol=1e-4, atol=1e-4)


@there
def test_windows_that_do_not_fit_the_compiled_kernel_are_left_to_torch():
    line, weights = torch.randn(9, 4), torch.randn(4, 16)
    assert conv_native.supports(line, weights, None)
    assert not conv_native.supports(line, weights[:, :15], None)
    assert not conv_native.supports(line.double(), weights.double(), None)


# ------------------------------------------------------------------------------------------------ what C is given


@there
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_is_not_what_the_kernel_gets(dtype):
    index = Index.from_lengths(np.array([5, 0, 3]))
    tensors = [None if t is None else t.detach().bfloat16() for t in floats("lstm", index, 3, 40, bias=False)]
    before = torch.get_default_dtype()
    expected = run("lstm", index, tensors, path="native")
    torch.set_default_dtype(dtype)
    try:
        found = run("lstm", index, tensors, path="native")
    finally:
        torch.set_default_dtype(before)
    same(found, expected, rtol=0, atol=0)


@there
@pytest.mark.parametrize("cell", FAST)
def test_a_bias_may_lie_in_memory_as_it_likes(cell):
    index = Index.from_lengths(np.array([5, 0, 3]))
    tensors = [t.detach() for t in floats(cell, index, 3, 16)]
    expected = run(cell, index, tensors, path="native")
    tensors[3] = torch.stack([tensors[3], tensors[3] + 1], -1)[..., 0]
    same(run(cell, index, tensors, path="native"), expected, rtol=0, atol=0)


@there
def test_rows_without_a_step_need_no_room():
    parts = recurrent_native.SequenceParts.of_index(Index.from_lengths(np.array([4, 3, *[0] * 1000])), False)
    assert parts.most_sequences <= 2


@there
def test_compiled_windows_stay_out_of_what_torch_compiles(monkeypatch):
    line, weights = torch.randn(9, 4), torch.randn(4, 16)
    assert conv_native.supports(line, weights, None)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not conv_native.supports(line, weights, None)
