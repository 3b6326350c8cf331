"""Examples in any container come out as the same batches, and outputs are put together again."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from padless.data import Batching, BatchIterableAdapter, DataSpec, EpochIterator, Examples, read
from padless.data.data_adapter import split_for_validation
from padless.errors import ArgumentError, DataError
from padless.ragged.index import Index
from padless.ragged.packed import Packed, pack
from padless.trainers.gather_outputs import gather_outputs

ragged = st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=9).filter(
    lambda rows: len({len(row) for row in rows}) > 1
)


@st.composite
def holed(draw):
    """A Packed with holes, features and a fill of its own; sometimes with an outer level."""
    shape = draw(st.sampled_from([(4, 5), (3, 1), (2, 3, 4), (5, 2, 1)]))
    mask = np.array(draw(st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))))
    index = Index.from_mask(mask.reshape(shape))
    values, fill = torch.randn(index.num_steps, 2), torch.randn(index.num_gaps, 2)
    return Packed(values, index, draw(st.sampled_from([fill, None])))


def fed(data, size=None, shuffle=False, steps=None, **more):
    return EpochIterator(data, Batching(size, shuffle=shuffle, **more), steps, repeat=True)


# Laws


@settings(deadline=None, max_examples=100)
@given(rows=ragged, size=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_ragged_list_comes_out_sequence_by_sequence_in_any_order(rows, size, seed):
    for batching in (Batching(size), Batching(size, shuffle=True), Batching(size, shuffle="batch")):
        plan = batching.plan(len(rows), seed)
        parts = list(Examples(rows, rows).begin(batching, seed))
        want = [rows[i] for cut in plan for i in np.arange(len(rows))[cut]]
        for leaf in ("x", "y"):
            assert [row.tolist() for part in parts for row in getattr(part, leaf)] == want
        for i, part in enumerate(parts):
            assert part.x.shape == (part.rows, max(map(len, want[i * size : (i + 1) * size])))


@settings(deadline=None, max_examples=100)
@given(packed=holed(), data=st.data())
def test_rows_of_a_packed_are_the_rows_of_its_grid(packed, data):
    count = len(packed)
    examples = Examples(packed)
    rows = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=6)), dtype=np.int64)
    start, stop = sorted((data.draw(st.integers(0, count)), data.draw(st.integers(0, count))))
    for chosen in (rows, slice(start, stop)):
        part = examples.batch(chosen).x
        np.testing.assert_array_equal(part.numpy(), packed.numpy()[chosen])  # with what the fill shows
        np.testing.assert_array_equal(part.index.mask, packed.index.mask[chosen])
        assert (part.gap_values is None) == (packed.gap_values is None)


@settings(deadline=None, max_examples=100)
@given(packed=holed(), size=st.integers(1, 3))
def test_batches_put_together_are_the_whole(packed, size):
    parts = [part.x for part in fed(Examples(packed), size).epoch()]
    np.testing.assert_array_equal(gather_outputs(parts, "grid"), packed.numpy())
    whole = gather_outputs(parts, "packed")
    assert whole.index.equals(packed.index)
    np.testing.assert_array_equal(whole.numpy(), packed.numpy())
    for mine, theirs in zip(gather_outputs(parts, "list"), packed.sequences(), strict=True):
        np.testing.assert_array_equal(mine, theirs.numpy())


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(1, 20), size=st.integers(1, 7), shuffle=st.booleans())
def test_dense_rows_all_come_once(rows, size, shuffle):
    x = np.arange(rows * 2.0).reshape(rows, 2)
    examples = Examples(x, torch.arange(rows), [float(i) for i in range(rows)])
    parts = list(fed(examples, size, shuffle).epoch())
    assert [part.rows for part in parts] == [size] * (rows // size) + [rows % size] * (rows % size > 0)
    ids = torch.cat([part.y for part in parts])
    assert sorted(ids.tolist()) == list(range(rows))
    torch.testing.assert_close(torch.cat([part.x for part in parts]), torch.from_numpy(x).float()[ids])
    torch.testing.assert_close(torch.cat([part.sample_weight for part in parts]), ids.float())


# Containers


def test_contiguous_batches_are_views_and_are_read_only_once():
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


def test_float64_of_torch_follows_the_default_dtype_too():
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
def test_each_container_is_what_it_looks_like(x, kind, packed):
    examples = Examples(x)
    assert (examples.kinds, isinstance(examples.head(2).x, Packed)) == ((kind,), packed)
    assert examples.head(2).kinds == (kind,)


def test_an_input_that_takes_sequences_gets_them_whatever_their_lengths():
    part = Examples([[1, 2], [3, 4]], [[1, 2], [3, 4]], spec=DataSpec(takes_sequences=[True])).head(2)
    assert isinstance(part.x, Packed) and isinstance(part.y, torch.Tensor)


def test_an_empty_row_among_sequences_has_no_dtype_of_its_own():
    part = Examples([[], [[1, 2]], np.zeros((0, 2))]).head(3).x
    assert part.values.tolist() == [[1, 2]] and part.dtype == torch.int64


def test_several_inputs_as_list_or_by_name_keep_their_structure():
    a, b = np.zeros((3, 2)), [[1], [2, 3], [4]]
    listed = Examples([a, b], (a, a), spec=DataSpec(2, num_outputs=2)).head(2)
    assert isinstance(listed.x, list) and isinstance(listed.x[1], Packed) and len(listed.y) == 2
    named = Examples({"b": b, "a": a}, {"out": a}, spec=DataSpec(2, ["a", "b"], 1, ["out"])).head(2)
    assert list(named.x) == ["a", "b"] and list(named.y) == ["out"] and named.rows == 2
    assert named.kinds == ("grid", "list")


def test_one_weight_stands_for_all_outputs_and_names_may_be_left_out():
    a = np.zeros((3, 2))
    shared = Examples(a, [a, a], np.ones(3), spec=DataSpec(num_outputs=2)).head(2)
    assert [w.tolist() for w in shared.sample_weight] == [[1, 1], [1, 1]]
    named = Examples(a, [a, None], {"p": np.ones(3)}, spec=DataSpec(num_outputs=2, output_names=["o", "p"])).head(2)
    assert named.sample_weight["o"] is None and named.sample_weight["p"].tolist() == [1, 1] and named.y[1] is None


def test_a_batch_moves_to_a_device_as_a_whole():
    x = Packed(torch.ones(1), Index(np.array([[True, False]])), torch.ones(1))
    part = Examples({"a": x}, np.zeros(1)).head().to("meta")
    assert part.x["a"].device.type == part.x["a"].gap_values.device.type == part.y.device.type == "meta"
    assert part.sample_weight is None and part.kinds == ("packed",)


# What is refused


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
    (DataError, r"x\[1\] must hold numbers; got dtype object with None", ([[1, 2], [1, None]],), {}),
    (DataError, "x must hold numbers; got dtype datetime64", (np.zeros(2, dtype="M8[s]"),), {}),
    (DataError, "x must hold numbers; got dtype <U3 with 'cat'", ("cat",), {}),
    (DataError, r"x\[0\] is a list whose entries have unequal lengths", ([[[1], [2, 3]], [[1]]],), {}),
    (DataError, "mixes single values with sequences", ([[2], 1],), {}),
    (DataError, "x is a list whose entries have unequal lengths", ([1, [2]],), {}),
    (DataError, "x must hold numbers; got dtype object with None", ([1, None],), {}),
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
def test_bad_data_is_refused_with_what_was_given(error, words, args, structure):
    with pytest.raises(error, match=words):
        Examples(*args, spec=DataSpec(**structure))


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "32"])
def test_batch_size_is_checked_before_the_first_batch(size):
    with pytest.raises(ArgumentError, match="batch_size"):
        Batching(size)


def test_rows_out_of_range_are_refused_even_where_the_data_goes_on():
    part = Examples(np.arange(10)).part(2, 5)
    assert part.batch(np.array([0, 2])).x.tolist() == [2, 4] and part.head(99).x.tolist() == [2, 3, 4]
    for row in (-1, 3):
        with pytest.raises(ArgumentError, match="from 0 to 2"):
            part.batch(np.array([row]))


# Splits and orders


@pytest.mark.parametrize("rows, fraction", [(10, 0.25), (3, 0.5), (7, 0.1)])
def test_validation_is_the_last_part_as_in_keras(rows, fraction):
    slicing = pytest.importorskip("keras.src.trainers.data_adapters.array_slicing")
    (theirs,), (their_rest,) = slicing.train_validation_split((np.arange(rows),), fraction)
    train, rest = split_for_validation(Examples(np.arange(rows), [[i] * (i + 1) for i in range(rows)]), fraction)
    for part, numbers in ((train, theirs), (rest, their_rest)):
        batch = part.head(rows)
        assert batch.x.tolist() == list(numbers)
        assert [row.tolist() for row in batch.y] == [[i] * (i + 1) for i in numbers]
        assert sorted(i for b in fed(part, 2, True).epoch() for i in b.x.tolist()) == list(numbers)


@pytest.mark.parametrize("rows, fraction", [(9, 0.0), (9, 1.0), (9, -0.5), (9, 1.5), (9, "half"), (1, 0.1), (5, 0.9)])
def test_a_split_with_an_empty_side_is_refused(rows, fraction):
    with pytest.raises(ArgumentError, match="validation_split"):
        split_for_validation(Examples(np.zeros(rows)), fraction)


def test_the_order_follows_torchs_seed():
    feed = fed(Examples(np.arange(20)), 20, True)
    orders = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        orders += [next(feed.epoch()).x.tolist(), next(feed.epoch()).x.tolist()]
    assert orders[:2] == orders[2:4] and orders[0] != orders[1] and orders[0] != orders[4]
    assert all(sorted(order) == list(range(20)) for order in orders)


# Streams


def numbered(count, start=0):
    for i in range(start, start + count):
        yield np.full((2, 3), i), np.zeros(2)


def test_what_fit_was_given_is_examples_or_a_stream():
    assert isinstance(read([[1], [2, 3]]), Examples) and isinstance(read({"a": np.zeros(2)}), Examples)
    loader = DataLoader(TensorDataset(torch.zeros(5, 2), torch.zeros(5)), batch_size=2)
    stream = read(loader)
    assert isinstance(stream, BatchIterableAdapter) and stream.num_batches() == 3 and not stream.one_shot
    assert [part.rows for part in fed(stream).epoch()] == [part.rows for part in stream.begin()] == [2, 2, 1]
    with pytest.raises(ArgumentError, match="DataLoader.*own batches"):
        read(loader, np.zeros(5))
    with pytest.raises(ArgumentError, match="batch_size"):
        fed(stream, 2)
    with pytest.raises(DataError, match="single value"):
        read(3)


def test_batches_of_a_stream_are_read_like_examples():
    parts = list(
        BatchIterableAdapter([([[1], [2, 3]], [0, 1], [1.0, 2.0]), ({"a": np.zeros(1)},), np.zeros((3, 2))]).begin()
    )
    assert isinstance(parts[0].x, Packed) and parts[0].sample_weight.tolist() == [1, 2]
    assert parts[0].kinds == ("list",) and parts[1].y is None and parts[2].rows == 3
    with pytest.raises(ArgumentError, match="4 parts"):
        list(BatchIterableAdapter([(1, 2, 3, 4)]).begin())
    with pytest.raises(DataError, match="x holds 2 examples, y holds 3"):
        list(BatchIterableAdapter([(np.zeros(2), np.zeros(3))]).begin())
    assert len(list(BatchIterableAdapter([((np.zeros(2), np.ones(2)), np.zeros(2))], DataSpec(2)).begin())[0].x) == 2


def test_the_first_batch_can_be_seen_without_losing_it():
    stream = BatchIterableAdapter(numbered(3))
    assert stream.head().x[0, 0] == 0
    assert [int(part.x[0, 0]) for part in stream.begin()] == [0, 1, 2]


def test_steps_go_on_where_the_last_epoch_ended():
    stream = BatchIterableAdapter(numbered(5))
    assert stream.num_batches() is None and stream.one_shot
    feed = fed(stream, steps=2)
    assert [int(part.x[0, 0]) for part in feed.epoch()] == [0, 1]
    assert [int(part.x[0, 0]) for part in feed.epoch()] == [2, 3]
    with pytest.warns(UserWarning, match="after 1 of 2 steps"):
        assert [int(part.x[0, 0]) for part in feed.epoch()] == [4]
    again = BatchIterableAdapter([(np.full((1, 1), i),) for i in range(3)])
    assert [int(part.x) for part in fed(again, steps=7).epoch()] == [0, 1, 2, 0, 1, 2, 0]
    assert [int(part.x) for part in EpochIterator(again, steps=7).epoch()] == [0, 1, 2]


def test_a_generator_is_read_once_and_nothing_is_refused():
    with pytest.raises(ArgumentError, match="epochs=2"):
        BatchIterableAdapter(numbered(2)).check_epochs(2, None)
    BatchIterableAdapter(numbered(2)).check_epochs(2, 1)
    BatchIterableAdapter([1]).check_epochs(2, None)
    spent = BatchIterableAdapter(numbered(1))
    list(spent.begin())
    for stream in (spent, BatchIterableAdapter([]), BatchIterableAdapter(iter(()))):
        with pytest.raises(DataError, match="gave no batch"):
            next(fed(stream, steps=1).epoch())
        with pytest.raises(DataError, match="gave no batch"):
            stream.head()


def test_a_loader_without_length_has_no_steps():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(torch.zeros(3, 2))

    assert BatchIterableAdapter(DataLoader(Endless(), batch_size=2)).num_batches() is None


# Epochs begun anywhere


@pytest.mark.parametrize("batching", [
    Batching(3), Batching(3, shuffle=True), Batching(3, shuffle="batch"), Batching(tokens=7),
    Batching(tokens=7, shuffle=True),
])  # fmt: skip
@pytest.mark.parametrize("steps", [None, 4, 11])
def test_the_state_at_an_epochs_beginning_and_a_count_give_the_rest_back(batching, steps):
    def made():
        data = Examples([[i] * (i % 5 + 1) for i in range(20)])
        data.lengths = np.arange(20) % 5 + 1
        return EpochIterator(data, batching, steps, repeat=True)

    feed, kept = made(), []
    for _ in range(4):
        kept.append((torch.get_rng_state(), [feed.epoch(), feed.state_dict()], []))
        for batch in kept[-1][1][0]:
            kept[-1][2].append([row.tolist() for row in batch.x])
            torch.rand(3)  # whatever a step draws changes nothing
    for generator, (_, state), whole in kept:
        for start in (0, 1, len(whole) - 1, len(whole)):
            other = made()
            torch.set_rng_state(generator)
            other.load_state_dict(state, start)
            assert [[row.tolist() for row in batch.x] for batch in other.epoch()] == whole[start:]


def test_passes_of_one_epoch_are_in_different_orders():
    feed = fed(Examples(np.arange(20)), 20, True, steps=3)
    orders = [tuple(batch.x.tolist()) for batch in feed.epoch()]
    assert len(set(orders)) == 3 and all(sorted(order) == list(range(20)) for order in orders)


def test_skipped_batches_are_not_read():
    data, read_rows = Examples(np.arange(10)), []
    feed = EpochIterator(data, Batching(2))
    batch_of = data.batch
    data.batch = lambda rows: read_rows.append(rows) or batch_of(rows)
    assert [batch.x.tolist() for batch in feed.epoch(start=4)] == [[8, 9]] and read_rows == [slice(8, 10)]


def test_a_loader_gives_the_same_again_from_where_it_was():
    loader = DataLoader(TensorDataset(torch.arange(9)), batch_size=2, shuffle=True)
    feed = EpochIterator(BatchIterableAdapter(loader), repeat=True)
    state = torch.get_rng_state()
    feed.data.head()
    assert torch.equal(torch.get_rng_state(), state)  # looking at the first batch draws nothing
    whole = [batch.x[0].tolist() for batch in feed.epoch()]
    torch.set_rng_state(state)
    assert [batch.x[0].tolist() for batch in EpochIterator(BatchIterableAdapter(loader)).epoch(start=2)] == whole[2:]


def test_an_epoch_draws_one_number_and_that_at_once():
    feed = EpochIterator(Examples(np.arange(10)), Batching(2, shuffle=True))
    torch.manual_seed(0)
    todo = feed.epoch()
    after = torch.get_rng_state()
    list(todo)
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(0)
    torch.randint(2**62, ())
    assert torch.equal(torch.get_rng_state(), after)


# Outputs


def test_dense_outputs_are_one_array_and_narrow_grids_get_zeros():
    assert gather_outputs([torch.ones(2, 3), torch.ones(1, 3)], "list").shape == (3, 3)
    assert gather_outputs([torch.ones(1, 1), torch.ones(1, 2)]).tolist() == [[1, 0], [1, 1]]
    assert gather_outputs([torch.ones(2), torch.ones(1)]).shape == (3,)
    assert gather_outputs([torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True)]).dtype == np.float32
    mixed = gather_outputs([torch.ones(1, dtype=torch.int64), torch.full((1,), 0.5)])
    assert mixed.dtype == np.float32 and mixed.tolist() == [1.0, 0.5]


def test_grids_of_other_width_precision_or_with_gradients_are_put_together():
    wide = Packed.from_sequences([[1.5, 2.0], [3.0]])
    half = Packed(wide.values.bfloat16(), wide.index)
    learns = Packed(wide.values.clone().requires_grad_(), wide.index)
    narrow = Packed.from_sequences([[4.0]])
    whole = gather_outputs([half, learns, wide, narrow], "grid")
    assert whole.dtype == np.float32 and whole.tolist() == [[1.5, 2.0], [3.0, 0.0]] * 3 + [[4.0, 0.0]]


def test_lists_of_outputs_take_batches_of_equal_lengths_too():
    parts = [torch.ones(2, 3), Packed.from_sequences([[1.0], [2.0, 3.0]])]
    assert [len(row) for row in gather_outputs(parts, "list")] == [3, 3, 1, 2]


def test_packed_outputs_of_different_widths_are_as_wide_as_the_widest():
    narrow = Packed(torch.ones(1), Index(np.array([[True, False]])), torch.full((1,), 7.0))
    wide = Packed(torch.ones(2), Index(np.array([[True, False, True]])), torch.full((1,), 8.0))
    assert gather_outputs([narrow, wide], "grid").tolist() == [[1, 7, 0], [1, 8, 1]]
    whole = gather_outputs([narrow, wide], "packed")
    assert whole.index.mask.tolist() == [[True, False, False], [True, False, True]] and whole.gap_values is None


def test_nothing_here_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(fed(Examples([np.zeros(2), np.zeros(1)], np.zeros(2)), 1, True).epoch())
