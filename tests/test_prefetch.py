"""A thread reads batches in advance: the same batches, errors in place of their batch, and the thread ends."""

import threading

import numpy as np
import pytest
import torch

import padless
from padless import Input, Model
from padless.data import Batching, EpochIterator
from padless.data.parquet_files import Parquet
from padless.data.prefetch import prefetch
from padless.layers import Dense, Dropout, Embedding

pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("padless batches")]


@pytest.fixture
def data(tmp_path):
    ids = [[n % 4 + 1] * (n % 5 + 1) for n in range(40)]
    pq.write_table(
        pa.table({"ids": ids, "tags": [[n % 2] * (n % 5 + 1) for n in range(40)]}), tmp_path / "a.parquet", row_group_size=5
    )
    return padless.data.parquet(tmp_path, "ids", "tags", window=10)


def tagger():
    torch.manual_seed(0)
    x = Input((None,), name="ids")
    h = Dropout(0.5)(Embedding(5, 3, mask_zero=True)(x))  # draws numbers while the thread reads
    model = Model(x, Dense(2, activation="softmax", name="tags")(h))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("depth", [1, 2, 50])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_same_batches_in_the_same_order(depth, count):
    assert list(prefetch(iter(range(1, count + 1)), depth)) == list(range(1, count + 1)) and not threads()


def test_the_next_batches_are_read_before_they_are_needed():
    was_read = [threading.Event() for _ in range(4)]

    def source():
        for number, event in enumerate(was_read):
            event.set()
            yield number + 1

    reading = prefetch(source(), 2)
    assert next(reading) == 1
    assert was_read[1].wait(5) and was_read[2].wait(5) and not was_read[3].wait(0.05)  # `depth` batches, not more
    reading.close()
    assert not threads()


def test_an_error_is_raised_in_place_of_its_batch():
    def source():
        yield 1
        yield 2
        raise OSError("cable pulled")

    reading = prefetch(source(), 5)
    assert [next(reading), next(reading)] == [1, 2]
    with pytest.raises(OSError, match="cable pulled"):
        next(reading)
    assert not threads()


@pytest.mark.slow
def test_results_are_those_without_a_thread(data, monkeypatch):
    first, second = tagger(), tagger()
    torch.manual_seed(1)
    want = first.fit(data, batch_size=4, epochs=3, validation_data=data, verbose=0).history
    monkeypatch.setattr("padless.data.epoch_iterator.prefetch", lambda batches: batches)
    torch.manual_seed(1)
    got = second.fit(data, batch_size=4, epochs=3, validation_data=data, verbose=0).history
    assert got == want and not threads()
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def failing(kind, when=2):
    def fail(batch, logs=None):
        if batch == when:
            raise kind("enough")

    return padless.callbacks.LambdaCallback(on_train_batch_end=fail, on_test_batch_end=fail, on_predict_batch_end=fail)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("verb", ["fit", "evaluate", "predict"])
def test_the_thread_ends_when_a_run_fails(data, kind, verb):
    model = tagger()
    with pytest.raises(kind, match="enough"):
        getattr(model, verb)(data, batch_size=4, verbose=0, callbacks=[failing(kind)])
    assert not threads()
    model.fit(data, batch_size=4, verbose=0)


def test_the_thread_ends_when_training_stops(data):
    class Stop(padless.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model = tagger()
    model.fit(data, batch_size=4, verbose=0, callbacks=[Stop()])
    assert not threads()
    model.fit(data, batch_size=4, steps_per_epoch=3, epochs=5, verbose=0)
    assert not threads()


def test_a_new_epoch_ends_the_thread_of_the_old_one(data):
    feed = EpochIterator(data, Batching(4))
    old = feed.epoch()
    next(old)
    assert len(threads()) == 1
    new = feed.epoch()
    assert not threads()
    next(new)
    feed.close()
    assert not threads()


def test_an_error_of_the_files_is_raised_in_the_middle_of_an_epoch(data, monkeypatch):
    model, read, calls = tagger(), Parquet.table, []

    def table(self, groups):
        calls.append(groups)
        if len(calls) == 3:
            raise OSError("disk gone")
        return read(self, groups)

    monkeypatch.setattr(Parquet, "table", table)
    seen = []
    watch = padless.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    with pytest.raises(OSError, match="disk gone"):
        model.fit(data, batch_size=5, verbose=0, callbacks=[watch])
    assert seen == [0, 1, 2, 3] and not threads()
