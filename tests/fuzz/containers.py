"""Random data in random containers: a model sees what it sees in lists, and bad data raise an error that names the row."""

from __future__ import annotations

import datetime
import re
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import awkward as ak
import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import torch
from torch.nn.utils.rnn import pack_sequence

import padless
from padless import Input, Model
from padless.errors import DataError, PadlessError
from padless.layers import GRU, Dense, Embedding

Rows = list[Any]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i2", ">i4", ">i8", ">u2", ">u8"]
FLOATS = ["float16", "float32", "float64", ">f4", ">f8"]


class Data(NamedTuple):
    """Sequences of ids, or of vectors, whose numbers have a dtype of NumPy."""

    rows: Rows
    dtype: np.dtype[Any]
    width: int  # of the vectors, 0 for ids


def draw_data(rng: np.random.Generator) -> Data:
    """Return random sequences, with empty ones and with steps of equal length among them."""
    width = int(rng.choice([0, 0, 1, 3]))
    dtype = np.dtype(str(rng.choice(INTEGERS if width == 0 else INTEGERS + FLOATS)))
    count = int(rng.integers(1, 7))
    lengths = np.full(count, rng.integers(1, 4)) if rng.random() < 0.2 else rng.integers(0, 6, count)
    numbers = [
        rng.integers(1, 5, (length, width) if width else length) / (2 if dtype.kind == "f" else 1) for length in lengths
    ]
    return Data([number.astype(dtype).tolist() for number in numbers], dtype, width)


def row_arrays(data: Data, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the rows as arrays in different layouts of memory."""
    arrays = []
    for row in data.rows:
        array = np.array(row, data.dtype).reshape((len(row), data.width) if data.width else len(row))
        layout = rng.integers(5)
        if layout == 1:
            array = np.repeat(array, 2, axis=0)[::2]
        elif layout == 2:
            array = np.ascontiguousarray(array[::-1])[::-1]
        elif layout == 3:
            array = np.asfortranarray(array)
        elif layout == 4:
            array.setflags(write=False)
        arrays.append(array)
    return arrays


def arrow_type(data: Data, rng: np.random.Generator) -> Any:
    """Return a type of pyarrow for the rows."""
    inner = pa.from_numpy_dtype(data.dtype.newbyteorder("="))
    if data.width:
        inner = pa.list_(inner, data.width) if rng.random() < 0.5 else pa.list_(inner)
    return rng.choice(np.array([pa.list_, pa.large_list, pa.list_view, pa.large_list_view], dtype=object))(inner)


def arrow_array(data: Data, rng: np.random.Generator) -> Any:
    """Return the rows as an array of pyarrow, a slice of a longer one."""
    kind = arrow_type(data, rng)
    other = [[[1] * data.width] if data.width else [1]] * int(rng.integers(0, 3))
    return pa.array([*other, *data.rows, *other], kind).slice(len(other), len(data.rows))


def chunked(data: Data, rng: np.random.Generator) -> Any:
    """Return the rows in chunks of pyarrow, some of them empty."""
    array = arrow_array(data, rng)
    cuts = sorted(rng.integers(0, len(array) + 1, int(rng.integers(1, 4))).tolist())
    edges = [0, *cuts, len(array)]
    return pa.chunked_array([array.slice(a, b - a) for a, b in zip(edges, edges[1:], strict=False)], array.type)


def dictionary(data: Data, rng: np.random.Generator) -> Any:
    """Return the rows as a dictionary-encoded array, in another order than that of its dictionary."""
    order = rng.permutation(len(data.rows))
    values = arrow_array(Data([data.rows[n] for n in order], data.dtype, data.width), np.random.default_rng(0))
    return pa.DictionaryArray.from_arrays(pa.array(np.argsort(order)), values)


def polars_series(data: Data, rng: np.random.Generator) -> Any:
    """Return the rows as a Series of polars with several chunks, a slice of a longer one."""
    inner = pl.from_numpy(np.zeros(1, data.dtype.newbyteorder("=")), schema=["a"])["a"].dtype
    if data.width:
        inner = pl.Array(inner, data.width) if rng.random() < 0.5 else pl.List(inner)
    cut = int(rng.integers(0, len(data.rows) + 1))
    parts = [pl.Series("a", part, dtype=pl.List(inner)) for part in (data.rows[:1], data.rows[:cut], data.rows[cut:])]
    return pl.concat(parts, rechunk=bool(rng.integers(2))).slice(1 if data.rows else 0)


def pandas_series(data: Data, rng: np.random.Generator) -> Any:
    """Return the rows as a Series of pandas with an index in another order, with labels that occur twice, or filtered."""
    index = rng.integers(0, 3, len(data.rows)) if rng.random() < 0.5 else rng.permutation(len(data.rows))
    if rng.random() < 0.3:
        array = arrow_array(data, np.random.default_rng(0))
        return pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([array])), index=index)
    series = pd.Series([[9]] + (data.rows if rng.random() < 0.5 else row_arrays(data, rng)), index=[0, *index])
    return series.iloc[1:] if rng.random() < 0.5 else series[[False] + [True] * len(data.rows)]


def object_array(rows: Rows) -> np.ndarray:
    """Return rows as an array of objects."""
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


def tensors(data: Data) -> list[torch.Tensor]:
    """Return the rows as tensors of their dtype."""
    return [
        torch.from_numpy(array.astype(data.dtype.newbyteorder("="))) for array in row_arrays(data, np.random.default_rng(4))
    ]


def float8(data: Data) -> list[torch.Tensor]:
    """Return the rows as tensors of eight bits, which hold the small numbers exactly."""
    return [tensor.to(torch.float32).to(torch.float8_e4m3fn) for tensor in tensors(data)]


def awkward_array(data: Data, rng: np.random.Generator) -> Any:
    """Return the rows as an array of awkward, chosen from a longer one in another order."""
    order = rng.permutation(len(data.rows))
    builder = ak.Array([data.rows[n] for n in order])
    return ak.values_astype(builder[np.argsort(order)], data.dtype.newbyteorder("="))


CONTAINERS: dict[str, Callable[[Data, np.random.Generator], Any]] = {
    "lists": lambda data, rng: data.rows,
    "tuples": lambda data, rng: tuple(map(tuple, data.rows)),
    "deques": lambda data, rng: [deque(row) for row in data.rows],
    "arrays": row_arrays,
    "objects": lambda data, rng: object_array(row_arrays(data, rng)),
    "tensors": lambda data, rng: tensors(data),
    "float8": lambda data, rng: float8(data),
    "arrow": arrow_array,
    "chunked": chunked,
    "dictionary": dictionary,
    "polars": polars_series,
    "pandas": pandas_series,
    "awkward": awkward_array,
    "Packed": lambda data, rng: padless.Packed.from_sequences(row_arrays(data, rng)),
    "PackedSequence": lambda data, rng: pack_sequence(signed(data), enforce_sorted=False),
    "jagged": lambda data, rng: torch.nested.nested_tensor(signed(data), layout=torch.jagged),
    "datasets": lambda data, rng: datasets.Dataset.from_dict({"ids": data.rows})["ids"],
    "arrow table": lambda data, rng: pa.table({"ids": arrow_array(data, rng)}),
    "polars table": lambda data, rng: pl.DataFrame({"ids": polars_series(data, rng), "other": ["a"] * len(data.rows)}),
    "pandas table": lambda data, rng: pd.DataFrame({"ids": pandas_series(data, rng)}),
}


def signed(data: Data) -> list[torch.Tensor]:
    """Return the rows as tensors of a dtype that torch can pad."""
    return [tensor.to(torch.float32) if tensor.is_floating_point() else tensor.to(torch.int64) for tensor in tensors(data)]


def can_hold(name: str, data: Data) -> bool:
    """Return whether a container can hold the rows."""
    has_empty = not all(data.rows)
    if name in ("PackedSequence", "awkward", "datasets", "deques", "lists", "tuples"):
        return not (has_empty and (data.width or name == "PackedSequence")) and any(data.rows)
    return bool(data.rows) and (any(data.rows) or not data.width)


@cache
def tagger() -> Model:
    """Return a model of ids."""
    torch.manual_seed(0)
    x = Input((None,), name="ids")
    return Model(x, Dense(2)(GRU(3, return_sequences=True)(Embedding(6, 3)(x))))


@cache
def series_model(width: int) -> Model:
    """Return a model of vectors."""
    torch.manual_seed(0)
    x = Input((None, width), name="ids")
    return Model(x, Dense(2)(GRU(3, return_sequences=True)(x)))


def run_case(seed: int) -> str:
    """Compare one container with lists, or check the error for bad data."""
    rng = np.random.default_rng(seed)
    data = draw_data(rng)
    names = [name for name in CONTAINERS if can_hold(name, data)]
    if rng.random() < 0.3 or not names:
        return run_bad_case(data, rng)
    name = str(rng.choice(names))
    container = CONTAINERS[name](data, rng)
    want = [np.array(row, np.float64).reshape((-1, data.width) if data.width else -1) for row in data.rows]
    if "table" not in name:
        compare(want, [row.to(torch.float64).numpy() for row in padless.pack(container)], name)
    if any(data.rows):
        model = tagger() if data.width == 0 else series_model(data.width)
        kept = padless.Packed.from_sequences([torch.tensor(row, dtype=torch.float32) for row in want])
        expected = model.predict(kept, verbose=0)
        got = model.predict(container, verbose=0, batch_size=int(rng.integers(1, 8)))
        compare([row.numpy() for row in expected], [np.asarray(row) for row in got], name, 1e-5)
    return f"equal: {name}"


def compare(want: Rows, got: Rows, name: str, tolerance: float = 0) -> None:
    """Raise `AssertionError` for rows that differ. Rows of arrays may have more steps."""
    assert len(want) == len(got), (name, len(want), len(got))
    for number, (row, other) in enumerate(zip(want, got, strict=True)):
        assert len(row) == len(other), (name, number, row, other)
        assert np.allclose(row, other.reshape(row.shape), atol=tolerance, rtol=0), (name, number, row, other)


BAD_STEPS: dict[str, Any] = {
    "None": None,
    "text": "word",
    "bytes": b"word",
    "a date": datetime.date(2026, 1, 1),
    "a huge number": 2**70,
    "a complex number": 1j,
    "a set": {1},
    "an object": object(),
}


def run_bad_case(data: Data, rng: np.random.Generator) -> str:
    """Put one bad step or row into good data, and check that the error names its row."""
    rows: Rows = [list(row) if row else [1] for row in (data.rows if data.width == 0 else [[1, 2], [3]])]
    bad_row = int(rng.integers(len(rows)))
    name, step = list(BAD_STEPS.items())[int(rng.integers(len(BAD_STEPS)))]
    whole_row = rng.random() < 0.3
    if whole_row:
        rows[bad_row] = step
    else:
        rows[bad_row][int(rng.integers(len(rows[bad_row])))] = step
    makers: list[Callable[[Rows], Any]] = [list, object_array, pd.Series, lambda rows: {"ids": rows}]
    if name == "None":
        makers += [pa.array, lambda rows: pa.chunked_array([pa.array(rows)]), pl.Series, ak.Array]
        makers += [
            lambda rows: pd.Series(pd.arrays.ArrowExtensionArray(pa.array(rows))),
            lambda rows: pa.table({"ids": rows}),
        ]
    container = makers[int(rng.integers(len(makers)))](rows)
    use: Callable[[Any], Any] = lambda x: tagger().predict(x, verbose=0)  # noqa: E731
    if not isinstance(container, dict | pa.Table) and name != "a complex number" and rng.random() < 0.5:  # pack takes these
        use = padless.pack
    try:
        use(container)
    except PadlessError as error:
        is_named = re.search(rf"\brow {bad_row}\b|\b\w+\[{bad_row}\]|Sequence {bad_row}\b", str(error))
        assert is_named and isinstance(error, DataError), f"{name} in row {bad_row} of {type(container).__name__}: {error!r}"
        return f"refused: {name}"
    raise AssertionError(f"{name} in row {bad_row} of {type(container).__name__} was accepted")
