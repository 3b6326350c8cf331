"""Parquet files are read one window at a time, each row once, with the results of data in memory."""

import importlib

import numpy as np
import pytest
import torch

import padless
from padless import Input, Model
from padless.data import Batching, DataSpec, EpochIterator, read
from padless.errors import ArgumentError, DataError, ShapeError
from padless.layers import GRU, Dense, Embedding

pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

ROWS = 50
IDS = [[i % 4 + 1] * (i % 7) for i in range(ROWS)]
TAGS = [[i % 2] * (i % 7) for i in range(ROWS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("files")
    for number, cut in enumerate((slice(0, 20), slice(20, 50))):
        numbers = list(range(ROWS))[cut]
        table = pa.table({"ids": IDS[cut], "tags": TAGS[cut], "number": numbers, "weight": [1.0 + n for n in numbers]})
        pq.write_table(table, path / f"part-{number}.parquet", row_group_size=6)
    return path


def tagger():
    torch.manual_seed(0)
    x = Input((None,), name="ids")
    h = GRU(3, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))
    model = Model(x, Dense(2, activation="softmax", name="tags")(h))
    model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    return model


def numbers(batches):
    return [batch.y.long().tolist() for batch in batches]


def source(folder, **more):
    return read(padless.data.parquet(folder, x="ids", y="number", **more), spec=DataSpec(1, ["ids"], takes_sequences=[True]))


BATCHINGS = [Batching(7), Batching(7, shuffle=True), Batching(7, shuffle="batch"), Batching(tokens=20),
             Batching(tokens=20, shuffle=True)]  # fmt: skip


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("window", [1, 13, 1000])
def test_each_row_is_in_one_batch_and_an_epoch_can_begin_at_any_batch(folder, batching, window):
    data = source(folder, window=window)
    data.lengths = np.array([len(row) for row in IDS])
    torch.manual_seed(1)
    feed = EpochIterator(data, batching)
    state = torch.get_rng_state()
    whole = numbers(feed.epoch())
    assert sorted(sum(whole, [])) == list(range(ROWS))
    assert (sum(whole, []) == list(range(ROWS))) == (not batching.shuffle)
    if batching.tokens is None:
        assert [len(part) for part in whole] == [7] * 7 + [1] and feed.steps == 8
    else:
        assert all(sum(max(1, len(IDS[n])) for n in part) <= 20 for part in whole)
    for start in (1, 3, len(whole)):
        torch.set_rng_state(state)
        assert numbers(EpochIterator(data, batching).epoch(start=start)) == whole[start:]
    another = numbers(feed.epoch())
    assert (another == whole) == (not batching.shuffle)


def test_one_window_is_in_memory_and_skipped_windows_are_not_read(folder, monkeypatch):
    data = source(folder, window=13)
    seen = []
    table = data.table
    monkeypatch.setattr(data, "table", lambda groups: seen.append(groups) or table(groups))
    reading = data.begin(Batching(7), None)
    next(reading)
    assert seen == [[0, 1]]
    next(reading)
    assert seen == [[0, 1], [2, 3]]
    assert all(reading.skip() for _ in range(5))
    next(reading)
    assert seen == [[0, 1], [2, 3], [8]]
    assert data.table([0]).column_names == ["ids", "number"]


@pytest.mark.slow
def test_it_trains_to_the_weights_of_data_in_memory(folder):
    weight = [1.0 + n for n in range(ROWS)]
    want, got = tagger(), tagger()
    first = want.fit(IDS, TAGS, sample_weight=weight, batch_size=8, shuffle=False, epochs=2, verbose=0).history
    data = padless.data.parquet(folder, "ids", "tags", "weight", window=10)
    assert got.fit(data, batch_size=8, shuffle=False, epochs=2, verbose=0).history["loss"] == pytest.approx(
        first["loss"], rel=1e-5
    )
    for a, b in zip(want.get_weights(), got.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert got.evaluate(data, batch_tokens=30, verbose=0) == pytest.approx(got.evaluate(data, verbose=0), rel=1e-5)
    for row, own in zip(got.predict(data, verbose=0), got.predict(IDS, verbose=0), strict=True):
        np.testing.assert_allclose(row, own, rtol=1e-5)
    history = got.fit(data, batch_tokens=30, validation_data=data, verbose=0)
    assert history.padding.steps == sum(map(len, IDS)) and "val_loss" in history.history


def test_columns_are_found_by_name_or_given_by_input(folder):
    one = read(padless.data.parquet(folder), spec=DataSpec(1, ["ids"], 1, ["tags"], [True])).head(3)
    assert [row.tolist() for row in one.x] == IDS[:3] and [row.tolist() for row in one.y] == TAGS[:3]
    named = read(padless.data.parquet(folder, x={"a": "ids", "b": "tags"}, y=["number"]), spec=DataSpec(2, ["a", "b"]))
    assert list(named.head(3).x) == ["a", "b"]
    files = sorted(folder.iterdir())
    assert len(padless.data.parquet(files[1])) == 30 and len(padless.data.parquet(files)) == 50
    masked = read(
        padless.data.parquet(folder, x="ids", mask="tags"), spec=DataSpec(1, ["ids"], takes_sequences=[True])
    ).head(4)
    assert [len(row) for row in masked.x] == [0, 1, 0, 3]


@pytest.mark.parametrize(("make", "kind", "message"), [
    (lambda f: padless.data.parquet(f / "none.parquet"), DataError, "none.parquet"),
    (lambda f: padless.data.parquet(f.parent / "nowhere"), DataError, "nowhere"),
    (lambda f: padless.data.parquet(f, x="words"), ArgumentError, r"\['words'\]; it has \['ids', 'tags', 'number',"),
    (lambda f: padless.data.parquet(f, x="ids", y="label"), ArgumentError, r"\['label'\]"),
    (lambda f: tagger().fit(padless.data.parquet(f, "ids", "tags"), [0] * 50, verbose=0), ArgumentError, "y must come in"),
    (lambda f: tagger().fit(padless.data.parquet(f, "ids", "tags"), validation_split=0.2, verbose=0), ArgumentError,
     "validation_split=0.2"),
    (lambda f: tagger().fit(padless.data.parquet(f, "ids"), verbose=0), ArgumentError, "y is None"),
    (lambda f: tagger().fit(padless.data.parquet(f, "ids", "number"), batch_tokens=9, verbose=0), ShapeError,
     r"shape \(50,\), one for each example"),
    (lambda f: tagger().fit(padless.data.parquet(f, "ids", "ids"), batch_tokens=9, verbose=0), DataError, "not a class"),
    (lambda f: padless.data.parquet(f, window=0), ArgumentError, "`window`.*got 0"),
])  # fmt: skip
def test_missing_files_and_columns_raise(folder, make, kind, message):
    with pytest.raises(kind, match=message):
        make(folder)


def test_files_in_another_format_or_without_rows_raise(tmp_path):
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="text.parquet' cannot be read as a Parquet file"):
        padless.data.parquet(tmp_path)
    pq.write_table(pa.table({"ids": pa.array([], pa.list_(pa.int64()))}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match="hold 0 rows"):
        padless.data.parquet(tmp_path)


def test_without_pyarrow_the_error_says_what_to_install(folder, monkeypatch):
    real = importlib.import_module

    def without(name, *args):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr("padless.data.parquet_files.import_module", without)
    with pytest.raises(ArgumentError, match="pip install pyarrow"):
        padless.data.parquet(folder)
