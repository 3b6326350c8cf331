"""Examples in memory: every container gives the same batches, bad data raise."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padless.data import Batching, DataSpec, EpochIterator, Examples
from padless.data.data_adapter import split_for_validation
from padless.errors import ArgumentError, DataError
from padless.ragged.index import Index
from padless.ragged.packed import Packed, pack

ragged = st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=9).filter(
    lambda rows: len({len(row) for row in rows}) > 1
)


@st.composite
def packed_with_gaps(draw):
    """Draw a Packed with gaps, features and gap values, sometimes with an outer level."""
    shape = draw(st.sampled_from([(4, 5), (3, 1), (2, 3, 4), (5, 2, 1)]))
    mask = np.array(draw(st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))))
    index = Index.from_mask(mask.reshape(shape))
    values, gap_values = torch.randn(index.num_steps, 2), torch.randn(index.num_gaps, 2)
    return Packed(values, index, draw(st.sampled_from([gap_values, None])))


def epochs_of(data, size=None, shuffle=False, steps=None, **more):
    return EpochIterator(data, Batching(size, shuffle=shuffle, **more), steps, repeat=True)


# Properties


@settings(deadline=None, max_examples=100)
@given(rows=ragged, size=st.integers(1, 4), seed=st.integers(0, 9))
def test_batches_hold_the_sequences_of_a_list_in_the_planned_order(rows, size, seed):
    for batching in (Batching(size), Batching(size, shuffle=True), Batching(size, shuffle="batch")):
        plan = batching.plan(len(rows), seed)
        parts = list(Examples(rows, rows).begin(batching, seed))
        want = [rows[i] for cut in plan for i in np.arange(len(rows))[cut]]
        for leaf in ("x", "y"):
            assert [row.tolist() for part in parts for row in getattr(part, leaf)] == want
        for i, part in enumerate(parts):
            assert part.x.shape == (part.rows, max(map(len, want[i * size : (i + 1) * size])))


@settings(deadline=None, max_examples=100)
@given(packed=packed_with_gaps(), data=st.data())
def test_rows_of_a_packed_are_the_rows_of_its_grid(packed, data):
    count = len(packed)
    examples = Examples(packed)
    rows = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=6)), dtype=np.int64)
    start, stop = sorted((data.draw(st.integers(0, count)), data.draw(st.integers(0, count))))
    for chosen in (rows, slice(start, stop)):
        part = examples.batch(chosen).x
        np.testing.assert_array_equal(part.numpy(), packed.numpy()[chosen])  # gaps show their values
        np.testing.assert_array_equal(part.index.mask, packed.index.mask[chosen])
        assert (part.gap_values is None) == (packed.gap_values is None)


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 20), size=st.integers(1, 7), shuffle=st.booleans())
def test_each_row_of_an_array_is_in_one_batch(rows, size, shuffle):
    x = np.arange(rows * 2.0).reshape(rows, 2)
    examples = Examples(x, torch.arange(rows), [float(i) for i in range(rows)])
    parts = list(epochs_of(examples, size, shuffle).epoch())
    assert [part.rows for part in parts] == [size] * (rows // size) + [rows % size] * (rows % size > 0)
    ids = torch.cat([part.y for part in parts])
    assert sorted(ids.tolist()) == list(range(rows))
    torch.testing.assert_close(torch.cat([part.x for part in parts]), torch.from_numpy(x).float()[ids])
    torch.testing.assert_close(torch.cat([part.sample_weight for part in parts]), ids.float())


# Containers


def test_a_batch_of_consecutive_rows_is_a_view():
    x, t, p = np.zeros((4, 3), np.float32), torch.zeros(4, 3), Packed.from_sequences([[1], [2, 3], [4]])
    part = Examples({"a": x, "b": t}, spec=DataSpec(2)).batch(slice(1, 3)).x
    assert part["a"].data_ptr() == x[1:].ctypes.data and part["b"].data_ptr() == t[1:].data_ptr()
    assert Examples(p).batch(slice(1, 3)).x.values.data_ptr() == p.values[1:].data_ptr()


@pytest.mark.parametrize("given_dtype, dtype", [
    (np.float64, torch.float32), (np.float16, torch.float32), (">f4", torch.float32), (np.longdouble, torch.float32),
    (np.int64, torch.int64), (np.int32, torch.int32), (np.uint8, torch.uint8), (np.uint16, torch.int64),
    (np.bool_, torch.bool),
])  # fmt: skip
def test_floats_become_float32_and_integers_stay(given_dtype, dtype):
    array = np.array([[1, 0], [0, 1]]).astype(given_dtype)
    for part in (Examples(array, array, array).head(2), Examples(list(array)).head(2)):
        assert part.x.dtype == dtype and part.x.tolist() == [[1, 0], [0, 1]]
    ragged_rows = Examples([array[0], array[0][:1]]).head(2).x
    assert ragged_rows.dtype == dtype


def test_float64_tensors_become_the_default_dtype():
    double = torch.zeros(2, 3, dtype=torch.float64)
    assert Examples(double).head().x.dtype == torch.float32
    assert Examples(pack(double)).head().x.dtype == torch.float32
    assert Examples(double.half()).head().x.dtype == torch.float16
    torch.set_default_dtype(torch.float64)
    try:
        assert Examples(np.zeros((2, 3), np.float32)).head().x.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_read_only_and_reversed_arrays_are_copied_without_a_warning():
    array = np.arange(6).reshape(3, 2)
    array.flags.writeable = False
    assert Examples(array[::-1]).head(2).x.tolist() == [[4, 5], [2, 3]]
    assert Examples(array.copy()[::-1]).head(2).x.tolist() == [[4, 5], [2, 3]]
    assert Examples(np.broadcast_to(np.arange(2), (3, 2))).head(1).x.tolist() == [[0, 1]]


@pytest.mark.parametrize("x, kind, packed", [
    (np.zeros((2, 3)), "grid", False),
    (torch.zeros(2, 3), "grid", False),
    ([[1, 2], [3, 4]], "grid", False),
    ([1, 2], "grid", False),
    ([np.zeros(3), np.zeros(3)], "list", False),
    ([[1, 2], [3]], "list", True),
    ([torch.zeros(2, 4), np.zeros((1, 4))], "list", True),
    ([[], []], "list", True),
    (np.array([[1, 2], [3]], dtype=object), "list", True),
    (Packed.from_sequences([[1], [2]]), "packed", True),
])  # fmt: skip
def test_each_container_is_dense_or_ragged_and_keeps_its_kind(x, kind, packed):
    examples = Examples(x)
    assert (examples.kinds, isinstance(examples.head(2).x, Packed)) == ((kind,), packed)
    assert examples.head(2).kinds == (kind,)


def test_equal_lists_are_sequences_for_an_input_that_takes_sequences():
    part = Examples([[1, 2], [3, 4]], [[1, 2], [3, 4]], spec=DataSpec(takes_sequences=[True])).head(2)
    assert isinstance(part.x, Packed) and isinstance(part.y, torch.Tensor)


def test_sequences_are_as_wide_as_padded_targets_that_they_fit_in():
    assert Examples([[1], [2, 3]], np.zeros((2, 5))).head().x.shape == (1, 5)
    assert Examples([[1], [2, 3]], np.zeros((2, 1))).head().x.shape == (1, 1)
    assert Examples([[1], [2, 3]], [0, 1], np.zeros((2, 4))).head().x.shape == (1, 4)


def test_an_empty_sequence_does_not_decide_the_dtype():
    part = Examples([[], [[1, 2]], np.zeros((0, 2))]).head(3).x
    assert part.values.tolist() == [[1, 2]] and part.dtype == torch.int64


def test_several_inputs_as_list_or_by_name_keep_their_structure():
    a, b = np.zeros((3, 2)), [[1], [2, 3], [4]]
    listed = Examples([a, b], (a, a), spec=DataSpec(2, num_outputs=2)).head(2)
    assert isinstance(listed.x, list) and isinstance(listed.x[1], Packed) and len(listed.y) == 2
    named = Examples({"b": b, "a": a}, {"out": a}, spec=DataSpec(2, ["a", "b"], 1, ["out"])).head(2)
    assert list(named.x) == ["a", "b"] and list(named.y) == ["out"] and named.rows == 2
    assert named.kinds == ("grid", "list")


def test_one_sample_weight_is_for_all_outputs_and_names_may_be_missing():
    a = np.zeros((3, 2))
    shared = Examples(a, [a, a], np.ones(3), spec=DataSpec(num_outputs=2)).head(2)
    assert [w.tolist() for w in shared.sample_weight] == [[1, 1], [1, 1]]
    named = Examples(a, [a, None], {"p": np.ones(3)}, spec=DataSpec(num_outputs=2, output_names=["o", "p"])).head(2)
    assert named.sample_weight["o"] is None and named.sample_weight["p"].tolist() == [1, 1] and named.y[1] is None


def test_a_batch_moves_to_a_device_with_all_its_parts():
    x = Packed(torch.ones(1), Index(np.array([[True, False]])), torch.ones(1))
    part = Examples({"a": x}, np.zeros(1)).head().to("meta")
    assert part.x["a"].device.type == part.x["a"].gap_values.device.type == part.y.device.type == "meta"
    assert part.sample_weight is None and part.kinds == ("packed",)


# Errors


@pytest.mark.parametrize("error, words, args, structure", [
    (DataError, "x holds 3 examples, y holds 2", (np.zeros((3, 2)), np.zeros(2)), {}),
    (DataError, "x holds 1 examples, y holds 3.*not in a list", ([np.zeros((3, 2))], np.zeros(3)), {}),
    (DataError, "x holds 3 examples, sample_weight holds 4", (np.zeros(3), np.zeros(3), np.zeros(4)), {}),
    (DataError, r"x\['a'\] holds 3 examples, x\['b'\] holds 2", ({"a": np.zeros(3), "b": [[1], [1, 2]]},), {}),
    (DataError, "x holds 0 examples", (np.zeros((0, 4)),), {}),
    (DataError, "x holds 0 examples", ([],), {}),
    (DataError, "x is the single value 3", (3,), {}),
    (DataError, "y must hold numbers; got dtype <U3 with 'cat'", (np.zeros(1), np.array(["cat"])), {}),
    (DataError, r"y\[0\] must hold numbers; got dtype <U3 with 'cat'", (np.zeros(1), ["cat"]), {}),
    (DataError, r"x\[1\] has a missing value \(None\) in step 1 of row 1", ([[1, 2], [1, None]],), {}),
    (DataError, "x must hold numbers; got dtype datetime64", (np.zeros(2, dtype="M8[s]"),), {}),
    (DataError, "x must hold numbers; got dtype <U3 with 'cat'", ("cat",), {}),
    (DataError, r"x\[0\] is a list whose entries have unequal lengths", ([[[1], [2, 3]], [[1]]],), {}),
    (DataError, "mixes single values with sequences", ([[2], 1],), {}),
    (DataError, "x mixes single values with sequences: row 0 is 1", ([1, [2]],), {}),
    (DataError, r"x has a missing value \(None\) in row 1", ([1, None],), {}),
    (DataError, r"different features: shape \(1, 2\) in row 0, \(2, 3\) in row 1",
     ([np.zeros((1, 2)), np.zeros((2, 3))],), {}),
    (DataError, r"x\[0\] is a Packed", ([pack(np.zeros((1, 2)))],), {}),
    (ArgumentError, "x is None", (None,), {}),
    (ArgumentError, r"x holds None for \[1\].*inputs \(a, b\)", ([np.zeros(2), None],),
     {"num_inputs": 2, "input_names": ["a", "b"]}),
    (ArgumentError, "x holds 3 arrays, but the model has 2 inputs", ([np.zeros(2)] * 3,), {"num_inputs": 2}),
    (ArgumentError, "y holds one ndarray, but the model has 2 outputs", (np.zeros(2), np.zeros(2)), {"num_outputs": 2}),
    (ArgumentError, r"\['a', 'c'\].*missing: \['c', 'b'\].*inputs \(a, b\)", ({"a": np.zeros(2), "c": np.zeros(2)},),
     {"num_inputs": 2, "input_names": ["a", "b"]}),
    (ArgumentError, r"unknown or missing: \[\]", ({},), {}),
])  # fmt: skip
def test_bad_data_raise_with_what_was_given(error, words, args, structure):
    with pytest.raises(error, match=words):
        Examples(*args, spec=DataSpec(**structure))


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "32"])
def test_batch_size_is_checked_before_the_first_batch(size):
    with pytest.raises(ArgumentError, match="batch_size"):
        Batching(size)


def test_row_numbers_outside_a_part_raise():
    part = Examples(np.arange(10)).part(2, 5)
    assert part.batch(np.array([0, 2])).x.tolist() == [2, 4] and part.head(99).x.tolist() == [2, 3, 4]
    for row in (-1, 3):
        with pytest.raises(ArgumentError, match="from 0 to 2"):
            part.batch(np.array([row]))


# Validation split


@pytest.mark.parametrize("rows, fraction", [(9, 0.0), (9, 1.0), (9, -0.5), (9, 1.5), (9, "half"), (1, 0.1), (5, 0.9)])
def test_a_validation_split_with_an_empty_part_raises(rows, fraction):
    with pytest.raises(ArgumentError, match="validation_split"):
        split_for_validation(Examples(np.zeros(rows)), fraction)


@pytest.mark.parametrize("rows, fraction", [(10, 0.25), (3, 0.5), (7, 0.1)])
def test_validation_split_is_the_last_part_as_in_keras(rows, fraction):
    slicing = pytest.importorskip("keras.src.trainers.data_adapters.array_slicing")
    (theirs,), (their_rest,) = slicing.train_validation_split((np.arange(rows),), fraction)
    train, rest = split_for_validation(Examples(np.arange(rows), [[i] * (i + 1) for i in range(rows)]), fraction)
    for part, numbers in ((train, theirs), (rest, their_rest)):
        batch = part.head(rows)
        assert batch.x.tolist() == list(numbers)
        assert [row.tolist() for row in batch.y] == [[i] * (i + 1) for i in numbers]
        assert sorted(i for b in epochs_of(part, 2, True).epoch() for i in b.x.tolist()) == list(numbers)


def test_reading_and_batching_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(epochs_of(Examples([np.zeros(2), np.zeros(1)], np.zeros(2)), 1, True).epoch())
