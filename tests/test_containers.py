"""Every container trains a model to the same weights, and `predict` answers in the container of its data."""

import importlib
import sys
from collections import UserDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

import padless
from padless import Input, Model
from padless.data import DataSpec, Examples, read
from padless.data.columns import read_all
from padless.data.containers import read_column
from padless.errors import ArgumentError, DataError, MaskError
from padless.layers import GRU, Dense, Embedding
from padless.ragged.packed import Packed

pa, pl, ak = (pytest.importorskip(name) for name in ("pyarrow", "polars", "awkward"))

IDS = [[1, 2, 3], [4], [2, 2], [3, 1, 4, 1], []]
TAGS = [[0, 1, 1], [1], [0, 0], [1, 0, 1, 1], []]
VECTORS = [[[1.0, 2.0], [3.0, 4.0]], [], [[5.0, 6.0]]]


def jagged(rows):
    return torch.nested.nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def strided(rows):
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows])


def objects(rows):
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


COLUMNS = {
    "lists": list, "objects": objects, "Packed": Packed.from_sequences, "arrow": pa.array, "polars": pl.Series,
    "awkward": ak.Array,
    "chunked": lambda rows: pa.chunked_array([rows[:2], rows[2:]], pa.list_(pa.int64())),
    "large": lambda rows: pa.array(rows, pa.large_list(pa.int32())),
    "sliced": lambda rows: pa.array([[9], *rows, [9]]).slice(1, len(rows)),
    "nested": jagged,
}  # fmt: skip


@pytest.mark.parametrize("make", COLUMNS.values(), ids=COLUMNS)
def test_a_ragged_column_of_any_library_is_the_same_sequences(make):
    own = read_column("x", make(IDS[:4]))
    for rows in (slice(1, 3), np.array([3, 0, 0])):
        assert [row.tolist() for row in own.read(rows)] == [IDS[i] for i in np.arange(4)[rows]]


@pytest.mark.parametrize("make", [pa.array, pl.Series, ak.Array])
def test_columns_may_hold_vectors_and_empty_rows(make):
    assert [row.tolist() for row in read_all(read_column("x", make(VECTORS)))] == VECTORS
    empty = read_all(read_column("x", make(IDS)))
    assert [row.tolist() for row in empty] == IDS and len(empty) == 5
    assert read_all(read_column("x", make([1, 2]))).tolist() == [1, 2]


def test_fixed_sizes_and_rectangles_are_arrays_unless_they_are_sequences():
    rows = [[1, 2], [3, 4]]
    for given in (pa.array(rows, pa.list_(pa.int64(), 2)), pa.array(rows), pl.Series(rows)):
        assert read_all(read_column("x", given)).tolist() == [[1, 2], [3, 4]]
        assert isinstance(read_all(read_column("x", given, True)), Packed)
    fixed = pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2))
    assert read_all(read_column("x", fixed)).tolist() == [[1, 2], [3, 4]]
    inner = pl.Series([[[1, 2]], []], dtype=pl.List(pl.Array(pl.Int64, 2)))
    assert [row.tolist() for row in read_all(read_column("x", inner))] == [[[1, 2]], []]


def test_packed_sequences_and_nested_tensors_are_read():
    rows = [torch.tensor(row) for row in IDS[:4]]
    unsorted = read_column("x", pack_sequence(rows, enforce_sorted=False))
    assert [row.tolist() for row in read_all(unsorted)] == IDS[:4] and unsorted.kind == "packed"
    with pytest.warns(UserWarning, match="prototype"):
        nested = strided(IDS[:4])
    assert [row.tolist() for row in read_all(read_column("x", nested))] == IDS[:4]


# The same weights whatever the container


def tagger():
    torch.manual_seed(0)
    x = Input((None,), name="ids")
    h = GRU(3, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))
    model = Model(x, Dense(2, activation="softmax", name="tags")(h))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def padded(rows, dtype=np.int64):
    width = max(map(len, rows))
    return np.array([[*row, *[0] * (width - len(row))] for row in rows], dtype)


def loss_of(*args, **kwargs):
    torch.manual_seed(1)
    return tagger().fit(*args, epochs=2, verbose=0, **kwargs).history["loss"]


@pytest.fixture(scope="module")
def want():
    return loss_of(IDS, TAGS, batch_size=2)


class Rows(Dataset):
    def __init__(self, *columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, number):
        return tuple(torch.tensor(c[number], dtype=torch.int64) for c in self.columns)


def table(**more):
    return {"ids": IDS, "tags": TAGS, **more}


CONTAINERS = {
    "arrow columns": lambda: ((pa.array(IDS), pa.array(TAGS)), {}),
    "polars columns": lambda: ((pl.Series(IDS), pl.Series(TAGS)), {}),
    "awkward": lambda: ((ak.Array(IDS), ak.Array(TAGS)), {}),
    "arrow table": lambda: ((pa.table(table(other=[1] * 5)),), {}),
    "arrow batch": lambda: ((pa.record_batch(table()),), {}),
    "polars table": lambda: ((pl.DataFrame(table(other=[1] * 5)),), {}),
    "named columns": lambda: ((pl.DataFrame(table(mine=TAGS)), "mine"), {}),
    "a dict with targets": lambda: ((table(),), {}),
    "padded": lambda: ((padded(IDS), padded(TAGS)), {}),
    "a mask": lambda: ((padded(IDS) + 0, padded(TAGS)), {"mask": padded(IDS) > 0}),
    "a mask of lists": lambda: ((IDS, TAGS), {"mask": [[1] * len(row) for row in IDS]}),
    "as from a tokenizer": lambda: (
        (UserDict(input_ids=padded(IDS), attention_mask=(padded(IDS) > 0) * 1, labels=padded(TAGS)),), {}),
    "lists from a tokenizer": lambda: (
        ({"input_ids": IDS, "attention_mask": [[1] * len(r) for r in IDS], "labels": TAGS},), {}),
    "a Dataset": lambda: ((Rows(IDS, TAGS),), {}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_every_container_trains_to_the_same_weights(make, want):
    args, kwargs = make()
    np.testing.assert_allclose(loss_of(*args, batch_size=2, **kwargs), want, rtol=1e-5)


class Loader:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


LOADERS = {
    "a DataLoader": lambda: DataLoader(Rows(IDS, TAGS), 2, collate_fn=padless.collate),
    "a DataLoader of lists": lambda: DataLoader(list(zip(IDS, TAGS, strict=True)), 2, collate_fn=padless.collate),
    "dicts": lambda: Loader([{"input_ids": IDS[i : i + 2], "labels": TAGS[i : i + 2]} for i in (0, 2, 4)]),
    "arrow batches": lambda: Loader(pa.table(table()).to_batches(max_chunksize=2)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_every_loader_trains_to_the_same_weights(make):
    np.testing.assert_allclose(loss_of(make()), loss_of(IDS, TAGS, batch_size=2, shuffle=False), rtol=1e-5)


def test_examples_one_by_one_take_a_batch_size():
    class Count(IterableDataset):
        def __iter__(self):
            return iter(Rows(IDS, TAGS)[n] for n in range(5))

    np.testing.assert_allclose(loss_of(Count(), batch_size=2), loss_of(IDS, TAGS, batch_size=2, shuffle=False), rtol=1e-5)
    with pytest.raises(ArgumentError, match="batch_tokens=9"):
        tagger().fit(Count(), batch_tokens=9)


def huggingface(rows, monkeypatch):
    """Return a stand-in for `datasets.Dataset`, which gives columns by name for a list of row numbers."""

    class Table:
        def __len__(self):
            return len(next(iter(rows.values())))

        def __getitem__(self, numbers):
            return {name: [values[n] for n in numbers] for name, values in rows.items()}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(Dataset=Table))
    return Table()


def test_a_dataset_of_hugging_face_is_read_by_its_numbers(want, monkeypatch):
    data = huggingface({"input_ids": IDS, "attention_mask": [[1] * len(row) for row in IDS], "labels": TAGS}, monkeypatch)
    np.testing.assert_allclose(loss_of(data, batch_size=2), want, rtol=1e-5)
    history = tagger().fit(data, validation_split=0.4, batch_tokens=4, verbose=0)
    assert history.padding.steps == 6 and "val_loss" in history.history


def test_keras_sequences_of_batches():
    class Pairs:
        num_batches = 3
        ended = 0

        def __len__(self):
            return 3

        def __getitem__(self, number):
            cut = slice(2 * number, 2 * number + 2)
            return IDS[cut], TAGS[cut]

        def on_epoch_end(self):
            Pairs.ended += 1

    np.testing.assert_allclose(loss_of(Pairs(), shuffle=False), loss_of(IDS, TAGS, batch_size=2, shuffle=False), rtol=1e-5)
    assert Pairs.ended == 2


# Outputs of predict


@pytest.mark.parametrize(("make", "kind"), [
    (lambda: padded(IDS), np.ndarray), (lambda: torch.tensor(padded(IDS)), np.ndarray), (lambda: IDS, list),
    (lambda: pa.array(IDS), list), (lambda: pl.Series(IDS), list), (lambda: ak.Array(IDS), list),
    (lambda: Packed.from_sequences(IDS), Packed), (lambda: jagged(IDS[:4]), Packed),
    (lambda: {"input_ids": padded(IDS), "attention_mask": padded(IDS) > 0}, np.ndarray),
    (lambda: {"input_ids": IDS}, list), (lambda: Rows(IDS), list),
    (lambda: DataLoader(IDS, 2, collate_fn=padless.collate), Packed),
])  # fmt: skip
def test_predict_answers_in_the_container_of_its_data(make, kind):
    model = tagger()
    whole = model.predict(IDS, verbose=0)
    data = make()
    got = model.predict(data, batch_size=None if isinstance(data, DataLoader) else 2, verbose=0)
    assert isinstance(got, kind)
    for number, row in enumerate(got):
        np.testing.assert_allclose(np.asarray(row)[: len(IDS[number])], whole[number], rtol=1e-5)


def test_predict_keeps_the_order_with_batches_by_tokens():
    model = tagger()
    for a, b in zip(model.predict(IDS, verbose=0), model.predict(IDS, batch_tokens=3, verbose=0), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    want = model.evaluate(IDS, TAGS, verbose=0)
    assert model.evaluate(IDS, TAGS, batch_tokens=5, verbose=0) == pytest.approx(want, rel=1e-5)


# Masks given with the data


def test_a_mask_removes_steps_in_every_container():
    model = tagger()
    mask = [[1, 0, 1], [1], [0, 1], [1, 1, 0, 1], []]
    chosen = [[i for i, m in zip(row, own, strict=True) if m] for row, own in zip(IDS, mask, strict=True)]
    tags = [[i for i, m in zip(row, own, strict=True) if m] for row, own in zip(TAGS, mask, strict=True)]
    want, grid = model.evaluate(chosen, tags, verbose=0), padded(mask).astype(bool)
    for x, own in (
        (padded(IDS), grid),
        (padded(IDS), grid.tolist()),
        (IDS, mask),
        (IDS, grid),
        (Packed.from_sequences(IDS), grid),
        (padded(IDS), torch.tensor(grid)),
        (padded(IDS), Packed.from_sequences(mask)),
        (pa.array(IDS), pa.array(mask)),
        (pl.Series(IDS), mask),
        ({"ids": IDS}, {"ids": mask}),
    ):
        assert model.evaluate(x, tags, mask=own, verbose=0) == pytest.approx(want, rel=1e-5)
    assert model.evaluate(padded(IDS), padded(TAGS), mask=grid, verbose=0) == pytest.approx(want, rel=1e-5)
    for row, alone in zip(model.predict(IDS, mask=mask, verbose=0), model.predict(chosen, verbose=0), strict=True):
        np.testing.assert_allclose(row, alone, rtol=1e-5)
    assert model.predict(padded(IDS), mask=grid, verbose=0).shape == (5, 4, 2)
    history = model.fit(padded(IDS), padded(TAGS), mask=grid, validation_split=0.4, verbose=0).history
    assert np.isfinite(history["val_loss"][0])
    held = model.fit(IDS, TAGS, validation_data=(padded(IDS), padded(TAGS), None, grid), verbose=0).history["val_loss"][0]
    assert held == pytest.approx(model.evaluate(chosen, tags, verbose=0)[0], rel=1e-5)


def test_masked_steps_of_a_plain_input_may_be_nan():
    x = Input((None, 2))
    model = Model(x, Dense(1)(x))
    model.compile("sgd", "mse")
    data = np.ones((2, 3, 2))
    data[0, 2] = np.nan
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    y = np.zeros((2, 3, 1))
    y[0, 2] = np.inf
    assert np.isfinite(model.fit(data, y, mask=mask, verbose=0).history["loss"][0])


def test_masks_of_several_inputs():
    a, b = Input((None, 1), name="a"), Input((None, 1), name="b")
    model = Model([a, b], [GRU(2, return_sequences=True)(a), GRU(2, return_sequences=True)(b)])
    x, mask = np.ones((2, 3, 1)), np.array([[1, 0, 0], [1, 1, 0]])
    for own in ([mask, None], {"a": mask}):
        one, two = model.predict([x, x], mask=own, verbose=0)
        assert np.allclose(one[0, 1:], one[0, 0]) and not np.allclose(two[0, 1], two[0, 0])
    with pytest.raises(ArgumentError, match="one ndarray, but there are 2 inputs"):
        model.predict([x, x], mask=mask, verbose=0)
    with pytest.raises(ArgumentError, match=r"unknown: \['c'\]"):
        model.predict([x, x], mask={"c": mask}, verbose=0)


def test_an_attention_mask_holds_for_every_input_that_it_fits():
    ids, kinds, size = Input((None,), name="input_ids"), Input((None,), name="token_type_ids"), Input((2,), name="size")
    model = Model([ids, kinds, size], [Embedding(5, 2)(ids), Embedding(5, 2)(kinds), Dense(1)(size)])
    x = {
        "input_ids": padded(IDS),
        "token_type_ids": padded(TAGS),
        "size": np.ones((5, 2)),
        "attention_mask": padded(IDS) > 0,
    }
    one, two, three = model.predict(x, verbose=0)
    assert not one[1, 1:].any() and not two[1, 1:].any() and three.shape == (5, 1)


def test_encodings_of_a_tokenizer_are_read_without_padding():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "a": 1, "b": 2, "c": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(["a b", "c"])
    assert encodings[1].ids == [3, 0]
    assert [row.tolist() for row in read_all(read_column("x", encodings))] == [[1, 2], [3]]


@pytest.mark.slow
def test_no_library_is_imported_for_its_containers():
    code = "import sys, padless; assert not {'pyarrow', 'polars', 'awkward', 'pandas', 'datasets'} & set(sys.modules)"
    importlib.import_module("subprocess").run([sys.executable, "-c", code], check=True)


# collate


def test_collate_makes_sequences_of_x_and_arrays_of_the_rest():
    x, y, w = padless.collate([([1, 2], 0, 1.0), ([3, 4], 1, 0.5)])
    assert isinstance(x, Packed) and y.tolist() == [0, 1] and w.tolist() == [1.0, 0.5]
    assert padless.collate([([1, 2], [0, 1]), ([3, 4], [1, 1])], sequences=False)[0].tolist() == [[1, 2], [3, 4]]
    named = padless.collate([{"input_ids": [1, 2], "labels": 0}, {"input_ids": [3], "labels": 1}])
    assert named["input_ids"].numpy().tolist() == [[1, 2], [3, 0]] and named["labels"].tolist() == [0, 1]
    (a, b), y = padless.collate([((np.ones(2), torch.ones(1)), 0), ((np.ones(1), torch.ones(1)), 1)])
    assert isinstance(a, Packed) and isinstance(b, Packed)
    assert isinstance(padless.collate([torch.ones(2, 3), torch.ones(1, 3)]), Packed)


@pytest.mark.parametrize(("examples", "message"), [
    ([], "0 examples"), ([(1, 2), (3,)], r"a tuple of 2, another is a tuple of 1"), ([(1, 2), 3], "another is one int"),
    ([{"a": 1}, {"b": 1}], r"a dict of \['a'\], another is a dict of \['b'\]"), ([(1, 2, 3, 4)], "got 4 parts"),
    ([("a", 1), ("b", 2)], "'a'"), ([([1], 0), ([[1, 2]], 1)], "different features"),
])  # fmt: skip
def test_examples_of_different_forms_raise(examples, message):
    with pytest.raises(DataError, match=message):
        padless.collate(examples)


# Errors


@pytest.mark.parametrize(("given", "message"), [
    (pa.array([[1], None, [2]]), "null. in row 1"), (pa.array([[1], [2, None]]), "null. in row 1"),
    (pa.array([[1], [None]]), "null. in row 1"), (pl.Series([[1], [2], None]), "null. in row 2"),
    (pl.Series([[], [1], [2, None]]), "null. in row 2"),
    (ak.Array([[1], None]), "null. in row 1"), (ak.Array([[], [1, None]]), "null. in row 1"),
    (pa.array([["a"]]), "'a'"), (pl.Series([["b"]]), "'b'"), (ak.Array([["c"]]), "'c'"), (pa.array(["d", "e"]), "'d'"),
    (pa.array([[[1], [2, 3]]]), "lists of 1 and of 2 numbers"), (pl.Series([[[1], [2, 3]]]), "lists of 1 and of 2"),
    (ak.Array([[[1], [2, 3]]]), "lists of 1 and of 2"), (pa.array([{"a": 1}]), "a"),
])  # fmt: skip
def test_columns_without_numbers_raise(given, message):
    with pytest.raises(DataError, match=message):
        Examples(given)


@pytest.mark.parametrize(("x", "mask", "message"), [
    (np.ones((2, 3)), np.ones((2, 4)), r"\(2, 4\) does not fit data of shape \(2, 3\)"),
    (np.ones((2, 3)), np.ones((3, 3)), r"\(3, 3\)"),
    (np.ones((2, 3)), np.ones(2), r"shape \(2,\); expected \(batch, steps\)"),
    (np.ones((2, 3)), np.full((2, 3), 0.5), "0.5 in it"), (np.ones((2, 3)), [[1, 1], [1]], "2 entries in row 0.*3 steps"),
    ([[1, 2], [3]], [[1, 1]], "1 rows for 2"),
    ([[1, 2], [3]], np.ones((2, 3)), r"\(2, 3\)"), ([[1, 2], [3]], [["a", "b"], ["c"]], "'a'"),
    ([[1, 2], [3]], [[2, 1], [1]], "2 in it"),
])  # fmt: skip
def test_masks_that_do_not_fit_raise(x, mask, message):
    with pytest.raises(MaskError, match=message):
        Examples(x, mask=mask)


@pytest.mark.parametrize(("x", "y", "more", "message"), [
    (pl.DataFrame(table()), "tag", {}, r"y names the columns \['tag'\].*\['ids', 'tags'\]"),
    (pl.DataFrame(table()), ["tags", "more"], {}, r"\['more'\]"),
    (np.ones((2, 3)), "tags", {}, "y='tags' names a column, but x is a ndarray"),
    (pl.DataFrame({"a": IDS, "b": IDS}), None, {"input_names": ["ids"]}, r"\['a', 'b'\]; no column for the.*\['ids'\]"),
    (pl.LazyFrame(table()), None, {}, "collect"),
    ({"input_ids": IDS, "attention_mask": IDS}, None, {"mask": IDS}, "mask= is given as well"),
])  # fmt: skip
def test_missing_columns_of_tables_raise(x, y, more, message):
    with pytest.raises(ArgumentError, match=message):
        read(x, y, mask=more.get("mask"), spec=DataSpec(1, more.get("input_names", ["ids"]), 1, ["tags"]))
