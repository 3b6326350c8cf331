"""Loaders, generators and other iterables of batches."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from padless.data import Batching, BatchIterableAdapter, DataSpec, EpochIterator, Examples, read
from padless.errors import ArgumentError, DataError
from padless.ragged.packed import Packed


def epochs_of(data, size=None, shuffle=False, steps=None, **more):
    return EpochIterator(data, Batching(size, shuffle=shuffle, **more), steps, repeat=True)


def numbered(count, start=0):
    for i in range(start, start + count):
        yield np.full((2, 3), i), np.zeros(2)


def test_read_returns_examples_for_containers_and_an_adapter_for_loaders():
    assert isinstance(read([[1], [2, 3]]), Examples) and isinstance(read({"a": np.zeros(2)}), Examples)
    loader = DataLoader(TensorDataset(torch.zeros(5, 2), torch.zeros(5)), batch_size=2)
    stream = read(loader)
    assert isinstance(stream, BatchIterableAdapter) and stream.num_batches() == 3 and not stream.one_shot
    assert [part.rows for part in epochs_of(stream).epoch()] == [part.rows for part in stream.begin()] == [2, 2, 1]
    with pytest.raises(ArgumentError, match="DataLoader.*own batches"):
        read(loader, np.zeros(5))
    with pytest.raises(ArgumentError, match="batch_size"):
        epochs_of(stream, 2)
    with pytest.raises(DataError, match="single value"):
        read(3)


def test_batches_of_an_iterable_are_read_like_examples():
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


def test_head_does_not_take_the_first_batch_from_a_generator():
    stream = BatchIterableAdapter(numbered(3))
    assert stream.head().x[0, 0] == 0
    assert [int(part.x[0, 0]) for part in stream.begin()] == [0, 1, 2]


def test_an_epoch_of_some_steps_goes_on_where_the_last_one_ended():
    stream = BatchIterableAdapter(numbered(5))
    assert stream.num_batches() is None and stream.one_shot
    feed = epochs_of(stream, steps=2)
    assert [int(part.x[0, 0]) for part in feed.epoch()] == [0, 1]
    assert [int(part.x[0, 0]) for part in feed.epoch()] == [2, 3]
    with pytest.warns(UserWarning, match="after 1 of 2 steps"):
        assert [int(part.x[0, 0]) for part in feed.epoch()] == [4]
    again = BatchIterableAdapter([(np.full((1, 1), i),) for i in range(3)])
    assert [int(part.x) for part in epochs_of(again, steps=7).epoch()] == [0, 1, 2, 0, 1, 2, 0]
    assert [int(part.x) for part in EpochIterator(again, steps=7).epoch()] == [0, 1, 2]


def test_a_second_epoch_of_a_generator_and_no_batch_raise():
    with pytest.raises(ArgumentError, match="epochs=2"):
        BatchIterableAdapter(numbered(2)).check_epochs(2, None)
    BatchIterableAdapter(numbered(2)).check_epochs(2, 1)
    BatchIterableAdapter([1]).check_epochs(2, None)
    spent = BatchIterableAdapter(numbered(1))
    list(spent.begin())
    for stream in (spent, BatchIterableAdapter([]), BatchIterableAdapter(iter(()))):
        with pytest.raises(DataError, match="gave no batch"):
            next(epochs_of(stream, steps=1).epoch())
        with pytest.raises(DataError, match="gave no batch"):
            stream.head()


def test_a_loader_without_length_has_no_number_of_batches():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(torch.zeros(3, 2))

    assert BatchIterableAdapter(DataLoader(Endless(), batch_size=2)).num_batches() is None
