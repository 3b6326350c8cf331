"""Numbers of every dtype and layout are read exactly, and what is not a number is refused with its row."""

import decimal
import sys
import warnings
from array import array
from collections import deque
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_containers import tagger

import padless
from padless.data import Examples
from padless.errors import DataError
from padless.ragged.packed import Packed

pa, pl, ak = (pytest.importorskip(name) for name in ("pyarrow", "polars", "awkward"))

GRID = np.array([[1, 2, 3], [4, 1, 2]])
ROWS = [[1, 2, 3], [4], [2, 2]]
DTYPES = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i2", ">i8", ">u2", ">u8", "f2", "f4", "f8", ">f4", ">f8", "g"]


def read_only(grid):
    grid = grid.copy()
    grid.setflags(write=False)
    return grid


LAYOUTS = {
    "contiguous": lambda grid: grid,
    "Fortran": np.asfortranarray,
    "negative strides": lambda grid: np.ascontiguousarray(grid[::-1, ::-1])[::-1, ::-1],
    "every other column": lambda grid: np.repeat(grid, 2, axis=1)[:, ::2],
    "read-only": read_only,
    "of objects": lambda grid: grid.astype(object),
    "lists of arrays": list,
    "a memoryview": lambda grid: memoryview(np.ascontiguousarray(grid)),
    "part of a record": lambda grid: np.rec.fromarrays([grid, grid.astype("i1")], names="a,b")["a"],
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_dtype_and_layout_hold_the_same_ids(dtype):
    want = tagger().predict(GRID, verbose=0)
    for layout, make in LAYOUTS.items():
        grid = GRID.astype(dtype)
        if layout == "a memoryview" and (grid.dtype.byteorder == ">" or dtype in ("f2", "g")):
            continue  # Python has no such formats
        np.testing.assert_allclose(tagger().predict(make(grid), verbose=0), want, err_msg=layout)
        assert np.array_equal(padless.pack(make(grid)).numpy(), GRID), layout


TENSORS = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", TENSORS)
def test_tensors_of_every_dtype_hold_the_same_ids(dtype):
    grid, rows = torch.tensor(GRID).to(dtype), [torch.tensor(row).to(dtype) for row in ROWS]
    np.testing.assert_allclose(tagger().predict(grid, verbose=0), tagger().predict(GRID, verbose=0))
    assert np.array_equal(padless.pack(grid.clone()).values.float().reshape(2, 3).numpy(), GRID)
    for given in (rows, padless.Packed(torch.cat(rows), padless.pack(ROWS).index)):
        for row, own in zip(tagger().predict(given, verbose=0), tagger().predict(ROWS, verbose=0), strict=True):
            np.testing.assert_allclose(row, own, rtol=1e-6)
    assert Examples(GRID, grid, grid).whole().y.float().tolist() == GRID.tolist()


def test_rows_of_different_dtypes_are_joined():
    rows = [np.array([1, 2], np.uint64), np.array([3], np.int8), [4, 1], torch.tensor([2]).to(torch.uint16), deque([1])]
    rows += [array("l", [2, 3]), range(1, 3), pl.Series([1]), pa.array([2])]
    want = [[1, 2], [3], [4, 1], [2], [1], [2, 3], [1, 2], [1], [2]]
    assert [row.tolist() for row in padless.pack(rows)] == want
    assert [row.tolist() for row in Examples(rows).whole().x] == want


ARROW = {
    "a fixed size": (lambda: pa.array(GRID.tolist(), pa.list_(pa.int64(), 3)), GRID.tolist()),
    "a list view": (lambda: pa.array([[9], *ROWS], pa.list_view(pa.int64())).slice(1), ROWS),
    "a large list view": (lambda: pa.array(ROWS, pa.large_list_view(pa.int16())), ROWS),
    "a view in another order": (
        lambda: pa.ListViewArray.from_arrays(pa.array([2, 1, 0], pa.int32()), pa.array([2, 1, 1], pa.int32()), [7, 8, 9, 6]),
        [[9, 6], [8], [7]]),
    "dictionaries": (lambda: pa.DictionaryArray.from_arrays(pa.array([2, 0]), pa.array(ROWS)), [ROWS[2], ROWS[0]]),
    "runs": (lambda: pa.ListArray.from_arrays([0, 1, 4], pa.RunEndEncodedArray.from_arrays([2, 4], [5, 6])),
             [[5], [5, 6, 6]]),
    "runs, cut": (lambda: pa.ListArray.from_arrays([0, 1, 4], pa.RunEndEncodedArray.from_arrays([2, 5], [5, 6]))[1:],
                  [[5, 6, 6]]),
    "empty chunks": (lambda: pa.chunked_array([pa.array(ROWS[:0], pa.list_(pa.int64())), pa.array(ROWS)]), ROWS),
    "empty lists only": (lambda: pa.array([[], []]), [[], []]),
    "polars, empty lists only": (lambda: pl.Series([[], []]), [[], []]),
    "polars, 128 bits": (lambda: pl.Series(ROWS, dtype=pl.List(pl.Int128)), ROWS),
    "awkward, a union of numbers": (lambda: ak.concatenate([ak.Array([[1]]), ak.Array([[1.5, 2]])]), [[1], [1.5, 2]]),
}  # fmt: skip


@pytest.mark.parametrize("case", ARROW)
def test_types_of_lists_are_read_as_their_lists(case):
    make, want = ARROW[case]
    assert [row.tolist() for row in padless.pack(make())] == want


def test_tensors_of_a_fixed_shape_keep_their_shape():
    values = np.arange(12.0, dtype=np.float32).reshape(2, 3, 2)
    assert np.array_equal(Examples(pa.FixedShapeTensorArray.from_numpy_ndarray(values)).whole().x, values)
    column = pl.Series(values.tolist(), dtype=pl.Array(pl.Float32, (3, 2)))
    assert np.array_equal(padless.pack(column).numpy(), values)


def quantized():
    with warnings.catch_warnings(action="ignore"):  # torch says once that it will remove them
        return torch.quantize_per_tensor(torch.ones(2, 3), 1.0, 0, torch.quint8)


REFUSED = {
    "a sparse tensor": (lambda: torch.tensor(GRID).to_sparse(), "to_dense"),
    "sparse rows": (lambda: [torch.ones(2), torch.ones(3).to_sparse()], r"x\[1\].*to_dense"),
    "a quantized tensor": (quantized, "dequantize"),
    "a tensor on meta": (lambda: torch.tensor(GRID).to("meta"), "meta device"),
    "complex numbers": (lambda: torch.tensor(GRID) * 1j, "complex64"),
    "unsigned numbers over int64": (lambda: np.array([[1], [2**63 + 1]], np.uint64), f"{2**63 + 1} in row 1, at .0."),
    "unsigned tensors over int64": (
        lambda: torch.tensor(np.array([[1], [2**63 + 1]], np.uint64)), f"{2**63 + 1} in row 1, at .0."),
    "huge Python numbers": (lambda: [[1], [2, 10**30]], f"{10**30} in step 1 of row 1"),
    "huge numbers of arrow": (lambda: pa.array([[1], [2, 2**63]], pa.list_(pa.uint64())), f"{2**63} in step 1 of row 1"),
    "huge numbers of polars": (
        lambda: pl.Series([[1], [2**63]], dtype=pl.List(pl.UInt64)), f"{2**63} in row 1"),
    "text among numbers": (lambda: [[1], [2, "a"]], "'a' in step 1 of row 1"),
    "text in an array": (lambda: np.array([["1", "2"], ["3", "a"]]), "'1' in row 0, at .0."),
    "bytes": (lambda: [[1], [b"a"]], "b'a' in step 0 of row 1"),
    "None": (lambda: [[1], [2, None]], r"missing value \(None\) in step 1 of row 1"),
    "a missing row": (lambda: [[1], None], r"missing value \(None\) in row 1"),
    "a single value": (lambda: [[1], 2], "row 1 is 2"),
    "a decimal": (lambda: pa.array([[decimal.Decimal(1)]]), "decimal128"),
    "a struct of arrow": (lambda: pa.array([{"a": 1}]), "struct<a: int64>.*row 0"),
    "a struct of polars": (lambda: pl.Series([{"a": 1}]), "Struct.*{'a': 1} in row 0"),
    "a record of awkward": (lambda: ak.Array([{"a": 1}]), "{'a': 1} in row 0"),
    "a union of awkward": (lambda: ak.Array([1, [2]]), "union.*row 0"),
    "a map": (lambda: pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "map<string, int64"),
    "a union of arrow": (
        lambda: pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array([1.0, 2])]),
        "sparse_union"),
    "null in a row of a list": (lambda: [pa.array([1]), pa.array([2, None])], r"x\[1\] has a missing value"),
    "null in a fixed size": (lambda: pl.Series([[1, 2], [3, None]], dtype=pl.Array(pl.Int64, 2)), "null. in row 1"),
    "a set": (lambda: {1, 2}, "set, which padless does not read. Instead give a list"),
    "a dataset of arrow": (lambda: pytest.importorskip("pyarrow.dataset").dataset(pa.table({"a": [1]})), "to_table"),
    "groups of polars": (lambda: pl.DataFrame({"a": [1]}).group_by("a"), "GroupBy.*the table itself"),
    "vectors of other sizes": (lambda: pa.array([[[1]], [[1], [2, 3]]]), "lists of 1 and of 2 numbers.*in row 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_holds_no_numbers_is_refused_with_its_place(case):
    make, message = REFUSED[case]
    for argument in ("x", "y", "sample_weight"):
        arguments = {"x": [1.0, 2.0], argument: make()}
        with pytest.raises(DataError, match=message.replace(r"x\[", rf"{argument}\[")):
            padless.data.read(**arguments)


@pytest.mark.parametrize("case", [case for case in REFUSED if case not in ("a tensor on meta", "complex numbers")])
def test_pack_refuses_the_same_data(case):
    with pytest.raises(padless.errors.PadlessError):
        padless.pack(REFUSED[case][0]())


def test_numbers_too_large_for_float32_are_infinite_without_a_warning():
    assert Examples(np.array([1e300, 1.0])).whole().x.tolist() == [float("inf"), 1.0]


# Libraries that are not installed, by stand-ins with their names


def stand_in(monkeypatch, library, **classes):
    spec = ModuleSpec(library, None)  # torch looks for the spec of a module that is imported
    monkeypatch.setitem(sys.modules, library, SimpleNamespace(__spec__=spec, **classes))


def test_sparse_matrices_of_scipy_are_refused_with_what_to_write(monkeypatch):
    class csr_matrix:
        pass

    stand_in(monkeypatch, "scipy.sparse", spmatrix=csr_matrix, sparray=csr_matrix)
    for call in (tagger().predict, padless.pack, Examples):
        with pytest.raises(DataError, match=r"csr_matrix, which padless does not read. Instead call its toarray\(\) first"):
            call(csr_matrix())


class EagerTensor:
    """Stands for a tensor of TensorFlow, which NumPy can read."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return self.values


class RaggedTensor:
    """Stands for a RaggedTensor of TensorFlow: the values of all rows, and where rows begin."""

    def __init__(self, rows):
        self.flat_values = EagerTensor(np.concatenate([np.asarray(row) for row in rows]))
        self.nested_row_splits = (EagerTensor(np.cumsum([0, *map(len, rows)])),)


class TensorFlowDataset:
    """Stands for `tf.data.Dataset`: batches that can be read again in each epoch, whose number may be unknown."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        raise TypeError("The dataset length is unknown.")


def test_ragged_tensors_and_datasets_of_tensorflow_equal_lists(monkeypatch):
    stand_in(monkeypatch, "tensorflow", RaggedTensor=RaggedTensor, SparseTensor=type("SparseTensor", (), {}))
    tags = [[0, 1, 1], [1], [0, 0]]
    assert [row.tolist() for row in padless.pack(RaggedTensor(ROWS))] == ROWS
    want = tagger().fit(ROWS, tags, shuffle=False, epochs=2, verbose=0).history["loss"]
    one = tagger().fit(RaggedTensor(ROWS), RaggedTensor(tags), shuffle=False, epochs=2, verbose=0).history["loss"]
    source = TensorFlowDataset([(RaggedTensor(ROWS), RaggedTensor(tags))])
    assert one == want and tagger().fit(source, epochs=2, verbose=0).history["loss"] == want
    assert isinstance(tagger().predict(TensorFlowDataset([EagerTensor(GRID)]), verbose=0), np.ndarray)


def test_packed_values_are_shared_with_pack():
    packed = Packed.from_sequences(ROWS)
    assert padless.pack(packed) is packed
