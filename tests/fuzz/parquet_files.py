"""Damaged Parquet files: a file with page checksums is refused, or read as it was before the damage."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import padless
from padless.data import Batching
from padless.data.parquet_pages import pages_of, read_column_chunks
from padless.errors import DataError, PadlessError

KINDS = 24  # of files


class File(NamedTuple):
    """A good file: its bytes, what is in it, and the region of each byte: page, header or footer."""

    data: bytes
    rows: list[Any]
    regions: list[str]
    has_checksums: bool


@cache
def folder() -> Path:
    """Return a folder for the damaged files of this process."""
    keep = tempfile.TemporaryDirectory()
    _folders.append(keep)
    return Path(keep.name)


_folders: list[tempfile.TemporaryDirectory[str]] = []


@cache
def good_file(kind: int) -> File:
    """Write a file with one of the options of the writer, and find its regions."""
    rng = np.random.default_rng(kind)
    count = 60
    table = pa.table({
        "ids": [rng.integers(1, 50, rng.integers(0, 9)).tolist() for _ in range(count)],
        "y": rng.integers(0, 5, count),
        "weight": rng.random(count),
    })  # fmt: skip
    path = folder() / f"good-{kind}.parquet"
    pq.write_table(
        table,
        path,
        row_group_size=25,
        write_page_checksum=kind % 2 == 0,
        data_page_version="2.0" if kind // 2 % 2 else "1.0",
        compression=("none", "snappy", "zstd")[kind // 4 % 3],
        use_dictionary=kind // 12 % 2 == 0,
    )
    data = path.read_bytes()
    regions = ["footer"] * len(data)
    with path.open("rb") as file:
        for chunk in sum(read_column_chunks(file, len(data)), []):
            start = chunk.offset
            for page in pages_of(file, chunk):
                body = start + page.header_size
                regions[start:body] = ["header"] * page.header_size
                regions[body : body + page.compressed_size] = ["page"] * page.compressed_size
                start = body + page.compressed_size
    return File(data, read_rows(path), regions, kind % 2 == 0)


def read_rows(path: Path) -> list[Any]:
    """Read all rows of a file as a training reads them."""
    data = padless.data.parquet(path, x="ids", y="y", sample_weight="weight", window=30)
    rows: list[Any] = []
    for batch in data.begin(Batching(16), None):
        rows += zip([row.tolist() for row in batch.x], batch.y.tolist(), batch.sample_weight.tolist(), strict=True)
    return rows


def damage(data: bytes, regions: list[str], rng: np.random.Generator) -> tuple[bytes, str]:
    """Return damaged bytes, and the region of the damage."""
    region = str(rng.choice(["page", "header", "footer"]))
    places = np.flatnonzero(np.array(regions) == region)
    start = int(rng.choice(places))
    changed = bytearray(data)
    kind = rng.integers(6)
    if kind == 0:
        changed[start] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        changed[start] = int(rng.integers(256))
    elif kind == 2:
        end = min(start + int(rng.integers(1, 40)), len(data))
        changed[start:end] = bytes(end - start)
        region = "+".join(sorted(set(regions[start:end])))
    elif kind == 3:
        for place in rng.choice(places, 3):
            changed[place] = int(rng.integers(256))
    elif kind == 4:
        del changed[start : start + int(rng.integers(1, 9))]
        region = "lengths"
    else:
        end = min(start + int(rng.integers(1, 40)), len(data))
        changed[start:end] = rng.integers(0, 256, end - start, dtype=np.uint8).tobytes()
        region = "+".join(sorted(set(regions[start:end])))
    return bytes(changed), region


def run_case(seed: int) -> str:
    """Read a damaged file, and compare what is read with the good file."""
    rng = np.random.default_rng(seed)
    good = good_file(int(rng.integers(KINDS)))
    data, region = damage(good.data, good.regions, rng)
    path = folder() / "damaged.parquet"
    path.write_bytes(data)
    label = f"{'with' if good.has_checksums else 'no'} checksums, {region}"
    if data == good.data:
        return f"{label}: not changed"
    try:
        rows = read_rows(path)
    except PadlessError as error:
        assert "damaged.parquet" in str(error), f"the error does not name the file: {error}"
        assert isinstance(error, DataError | ValueError)
        return f"{label}: refused"
    if rows == good.rows:
        return f"{label}: read as before"
    assert not good.has_checksums, f"a file with checksums that is damaged in {region} was read as good"
    return f"{label}: DIFFERENT"
