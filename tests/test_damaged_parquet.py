"""Damaged, replaced and unequal Parquet files raise errors that name the file, the column and the row in the file."""

import os

import numpy as np
import pytest
from test_containers import tagger

import padless
from padless.data import Batching, read
from padless.data.parquet_pages import ColumnChunk, DamagedHeader, Page, check_pages
from padless.errors import ArgumentError, DataError

pytestmark = pytest.mark.slow

pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

IDS = [[i % 4 + 1] * (i % 3 + 1) for i in range(40)]
TAGS = [[i % 2] * (i % 3 + 1) for i in range(40)]


def write(path, ids=IDS, tags=TAGS, **options):
    pq.write_table(pa.table({"ids": ids, "tags": tags}), path, row_group_size=8, **{"write_page_checksum": True, **options})
    return path


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def read_all(path, **names):
    return [batch.rows for batch in padless.data.parquet(path, **names).begin(Batching(16), None)]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_every_damaged_byte_of_a_file_with_checksums_is_refused_or_has_no_effect(tmp_path, version):
    path = write(tmp_path / "a.parquet", IDS[:6], TAGS[:6], data_page_version=version, compression="none")
    want = read(padless.data.parquet(path, "ids", "tags")).head(6)
    good, num_refused = path.read_bytes(), 0
    for position in range(0, len(good), 7):
        flip(path, position)
        try:
            got = next(padless.data.parquet(path, "ids", "tags").begin(Batching(6), None))
        except (DataError, ArgumentError) as error:  # a damaged name is a missing column
            assert "a.parquet" in str(error)
            num_refused += 1
        else:
            assert [row.tolist() for row in got.x] == [row.tolist() for row in want.x], position
            assert [row.tolist() for row in got.y] == [row.tolist() for row in want.y], position
        path.write_bytes(good)
    assert num_refused > len(good) // 7 // 4


def test_a_file_says_whether_it_has_checksums(tmp_path):
    assert padless.data.parquet(write(tmp_path / "a.parquet")).has_page_checksums
    assert not padless.data.parquet(write(tmp_path / "b.parquet", write_page_checksum=False)).has_page_checksums


def test_a_footer_that_would_end_the_process_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", use_dictionary=False)
    size, good = path.stat().st_size, path.read_bytes()
    length = int.from_bytes(good[-8:-4], "little")
    for position in range(size - 8 - length, size, 11):
        data = bytearray(good)
        data[position] ^= 63
        path.write_bytes(data)
        try:
            read_all(path, x="ids", y="tags")
        except (DataError, ArgumentError) as error:
            assert "a.parquet" in str(error)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    good = write(tmp_path / "a.parquet").read_bytes()
    for size in (0, 3, 4, 11, 12, len(good) // 2, len(good) - 9, len(good) - 1):
        (tmp_path / "a.parquet").write_bytes(good[:size])
        with pytest.raises(DataError, match="a.parquet"):
            padless.data.parquet(tmp_path / "a.parquet")


def test_a_file_that_is_replaced_or_removed_between_epochs_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet")
    data = read(padless.data.parquet(path, "ids", "tags"))
    write(path, IDS[:20], TAGS[:20])
    with pytest.raises(DataError, match="a.parquet' has changed since it was opened.*Make the data again"):
        next(data.begin(Batching(4), None))
    data = read(padless.data.parquet(path, "ids", "tags"))
    os.utime(path, ns=(0, 0))
    with pytest.raises(DataError, match="has changed"):
        data.head(1)
    path.unlink()
    with pytest.raises(DataError, match="a.parquet' cannot be read: No such file"):
        next(data.begin(Batching(4), None))


def test_columns_of_files_that_differ_are_refused_by_name(tmp_path):
    write(tmp_path / "a.parquet")
    for ids, tags, message in (
        ([["a"]], [[1]], "column 'ids' has the type list<.*string.*b.parquet.*list<.*int64.*a.parquet"),
        ([1], [[1]], "column 'ids' has the type int64"),
        ([[1.5]], [[1]], "column 'ids' has the type list<.*double"),
    ):
        write(tmp_path / "b.parquet", ids, tags)
        with pytest.raises(DataError, match=message):
            padless.data.parquet(tmp_path, x="ids", y="tags")
        assert len(padless.data.parquet(tmp_path, x="tags")) == 41
    pq.write_table(pa.table({"ids": IDS}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet' has no columns \['tags'\]"):
        padless.data.parquet(tmp_path)
    with pytest.raises(ArgumentError, match=r"b.parquet' has no columns \['tags'\]"):
        padless.data.parquet(tmp_path, x="ids", y="tags")
    pq.write_table(pa.table([pa.array(IDS)] * 2, names=["ids", "ids"]), tmp_path / "b.parquet")
    with pytest.raises(ArgumentError, match="b.parquet' has more than one column 'ids'"):
        padless.data.parquet(tmp_path / "b.parquet", x="ids")


def test_files_whose_lists_have_other_names_or_sizes_are_joined(tmp_path):
    write(tmp_path / "a.parquet")
    ids = pa.array(IDS, pa.large_list(pa.field("element", pa.int64())))
    pq.write_table(pa.table({"ids": ids, "tags": TAGS}), tmp_path / "b.parquet")
    assert read_all(tmp_path, x="ids", y="tags") == [16] * 5


def test_folders_and_files_without_row_groups(tmp_path):
    (tmp_path / "a.parquet").mkdir()
    with pytest.raises(DataError, match="a.parquet' is a folder inside a folder"):
        padless.data.parquet(tmp_path)
    pq.ParquetWriter(tmp_path / "b.parquet", pa.schema([("ids", pa.list_(pa.int64()))])).close()
    with pytest.raises(DataError, match="hold 0 rows"):
        padless.data.parquet(tmp_path / "b.parquet")
    write(tmp_path / "c.parquet")
    assert len(padless.data.parquet([tmp_path / "b.parquet", tmp_path / "c.parquet"], x="ids")) == 40


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("bad", "message"), [([1, None], "missing value"), ([9, 9], "id 9 at step 0")])
def test_errors_name_the_file_and_its_row_after_shuffling(tmp_path, shuffle, bad, message):
    write(tmp_path / "a.parquet")
    ids = [*IDS]
    ids[27], tags = bad, [*TAGS[:27], [0, 0], *TAGS[28:]]
    write(tmp_path / "b.parquet", ids, tags)
    data = padless.data.parquet(tmp_path, "ids", "tags", window=20)
    with pytest.raises(DataError, match=rf"{message}.* row 27 of '.*b.parquet'"):
        tagger().fit(data, batch_size=5, shuffle=shuffle, verbose=0)


def test_errors_of_other_sources_name_the_row_of_the_data():
    ids = [*IDS[:20]]
    ids[13] = [9]

    class Rows:
        def __len__(self):
            return len(ids)

        def __getitem__(self, number):
            return np.array(ids[number]), np.array(TAGS[number])

    from torch.utils.data import Dataset

    source = type("Source", (Rows, Dataset), {})()
    with pytest.raises(DataError, match="id 9 at step 0 of row 13"):
        tagger().fit(source, batch_size=4, verbose=0)
    batches = [(ids[n : n + 5], TAGS[n : n + 5]) for n in (0, 5, 10, 15)]
    with pytest.raises(DataError, match="id 9 at step 0 of row 3 of batch 2"):
        tagger().fit(iter(batches), verbose=0)


def test_page_headers_that_contradict_the_footer_are_refused():
    chunk = ColumnChunk("ids", frozenset({0, 3}), num_values=5, uncompressed_size=50, compressed_size=40, offset=4)
    page = Page(0, 10, 30, 40, num_values=5, encodings=(0, 3, 3), has_checksum=True)
    check_pages(chunk, [page])
    for damaged, message in (
        (page._replace(num_values=4), "hold 4 values, but the footer says 5"),
        (page._replace(uncompressed_size=39), "have 49 bytes, but the footer says 50"),
        (page._replace(encodings=(0, 4, 3)), r"encodings \[0, 3, 4\]"),
    ):
        with pytest.raises(DamagedHeader, match=message):
            check_pages(chunk, [damaged])
