"""Each container is read once, from `fit` to the loss, also where the model is not built yet."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from padless import Input, Model, Sequential
from padless.data import DataSpec, read
from padless.errors import ArgumentError
from padless.layers import GRU, Dense, Embedding
from padless.ragged.packed import Packed

IDS = [[1, 2, 3], [4, 1, 2], [2, 2, 1], [3, 1, 4]]
TAGS = [[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 0, 1]]


class CountedArray:
    """An array of another library, which counts how often it is converted."""

    def __init__(self, values):
        self.values, self.reads = np.asarray(values), 0

    def __len__(self):
        return len(self.values)

    def __array__(self, dtype=None, copy=None):
        self.reads += 1
        return self.values


class CountedDataset(Dataset):
    """Examples by number, which counts how often each is read."""

    def __init__(self, *columns):
        self.columns, self.reads = columns, [0] * len(columns[0])

    def __len__(self):
        return len(self.columns[0])

    def __getitem__(self, number):
        self.reads[number] += 1
        parts = tuple(torch.tensor(column[number]) for column in self.columns)
        return parts if len(parts) > 1 else parts[0]


def layers():
    return [Embedding(5, 3, mask_zero=True), GRU(3, return_sequences=True), Dense(2, activation="softmax")]


class Subclassed(Model):
    def __init__(self):
        super().__init__()
        self.stack = layers()

    def call(self, inputs):
        for layer in self.stack:
            inputs = layer(inputs)
        return inputs


MODELS = {
    "graph": lambda: Sequential([Input((None,)), *layers()]),
    "sequential that is not built": lambda: Sequential(layers()),
    "subclass that is not built": Subclassed,
}


def compiled(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    return model


def counted_lists(rows):
    return [CountedArray(row) for row in rows]


def reads_of(container):
    return {row.reads for row in container} if isinstance(container, list) else {container.reads}


CALLS = {
    "fit": lambda model, x, y, weight, mask: model.fit(x, y, sample_weight=weight, mask=mask, epochs=2, verbose=0),
    "fit with a split": lambda model, x, y, weight, mask: model.fit(
        x, y, sample_weight=weight, mask=mask, validation_split=0.5, verbose=0
    ),
    "fit with validation data": lambda model, x, y, weight, mask: model.fit(
        IDS, TAGS, validation_data=(x, y, weight, mask), epochs=2, verbose=0
    ),
    "fit by tokens": lambda model, x, y, weight, mask: model.fit(
        x, y, sample_weight=weight, mask=mask, batch_tokens=6, epochs=2, verbose=0
    ),
    "evaluate": lambda model, x, y, weight, mask: model.evaluate(x, y, sample_weight=weight, mask=mask, verbose=0),
    "train_on_batch": lambda model, x, y, weight, mask: model.train_on_batch(x, y, weight),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("container", [CountedArray, counted_lists])
def test_arrays_and_lists_are_read_once(name, container):
    for call in CALLS.values():
        x, y, weight, mask = (container(values) for values in (IDS, TAGS, np.ones((4, 3)), np.ones((4, 3), bool)))
        call(compiled(name), x, y, weight, mask)
        for part in (x, y, weight) if call is CALLS["train_on_batch"] else (x, y, weight, mask):
            assert reads_of(part) == {1}
    x = container(IDS)
    compiled(name).predict(x, verbose=0)
    assert reads_of(x) == {1}


def test_a_mask_for_several_inputs_is_read_once():
    ids, kinds = Input((None,), name="input_ids"), Input((None,), name="kinds")
    model = Model([ids, kinds], [Embedding(5, 2)(ids), Embedding(5, 2)(kinds)])
    x = {"input_ids": CountedArray(IDS), "kinds": CountedArray(TAGS), "attention_mask": CountedArray(np.ones((4, 3)))}
    model.predict(x, verbose=0)
    assert [part.reads for part in x.values()] == [1, 1, 1]


@pytest.mark.parametrize("name", ["graph", "sequential that is not built"])
def test_a_table_of_pandas_is_read_once(name, monkeypatch):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"input_ids": IDS, "labels": TAGS, "text": ["a"] * 4}, index=[3, 1, 1, 0])
    reads = []
    to_numpy = pandas.Series.to_numpy
    monkeypatch.setattr(pandas.Series, "to_numpy", lambda series: reads.append(series.name) or to_numpy(series))
    compiled(name).fit(frame, epochs=2, verbose=0)
    assert reads == ["input_ids", "labels"]
    assert isinstance(compiled(name).predict(frame["input_ids"], verbose=0), list) and len(reads) == 3


@pytest.mark.parametrize("name", MODELS)
def test_examples_of_a_dataset_are_read_once_in_each_epoch_and_the_first_once_before(name):
    data = CountedDataset(IDS, TAGS)
    compiled(name).fit(data, batch_size=2, epochs=2, verbose=0)
    assert data.reads == [3, 2, 2, 2]
    data = CountedDataset(IDS, TAGS)
    compiled(name).evaluate(data, batch_size=2, verbose=0)
    assert data.reads == [2, 1, 1, 1]
    data = CountedDataset(IDS)
    compiled(name).predict(data, batch_size=2, verbose=0)
    assert data.reads == [2, 1, 1, 1]


@pytest.mark.parametrize("name", MODELS)
def test_batches_of_generators_and_sequences_are_read_once(name):
    taken = []

    def batches():
        for number in range(6):
            taken.append(number)
            yield IDS[:2], TAGS[:2]

    compiled(name).fit(batches(), steps_per_epoch=2, epochs=2, verbose=0)
    assert taken == [0, 1, 2, 3]

    class Pairs:
        reads = [0, 0]

        def __len__(self):
            return 2

        def __getitem__(self, number):
            self.reads[number] += 1
            return IDS[2 * number : 2 * number + 2], TAGS[2 * number : 2 * number + 2]

        def on_epoch_end(self):
            pass

    pairs = Pairs()
    compiled(name).fit(pairs, epochs=2, verbose=0)
    assert pairs.reads == [3, 2]


# One input without targets, and models that are not built


def test_examples_without_targets_are_x():
    class Flow(IterableDataset):
        def __iter__(self):
            return iter(torch.tensor(row) for row in IDS)

    model = compiled("graph")
    want = model.predict(IDS, verbose=0)
    for data in (CountedDataset(IDS), Flow()):
        for size in (1, 2, 4):
            np.testing.assert_allclose(model.predict(data, batch_size=size, verbose=0), want, rtol=1e-5)


def test_a_sequential_reads_its_first_data_as_it_reads_later_ones():
    for make in (
        lambda: IDS,
        lambda: [np.array(row) for row in IDS],
        lambda: CountedDataset(IDS),
        lambda: iter([(IDS,)]),
        lambda: {"input_ids": IDS},
    ):
        model = Sequential(layers())
        first, later = model.predict(make(), verbose=0), model.predict(make(), verbose=0)
        assert isinstance(first, list) and isinstance(later, list)
        np.testing.assert_array_equal(first, later)
    model = Sequential(layers())
    masks = [model.predict(IDS, mask=np.eye(4, 3, dtype=bool), verbose=0) for _ in range(2)]
    assert [[len(row) for row in outputs] for outputs in masks] == [[1, 1, 1, 0]] * 2


def test_targets_in_a_tuple_are_rows_of_the_one_output_of_a_sequential():
    ids, tags = [[1, 2], [3, 4]], [[0, 1], [1, 1]]
    results = [
        compiled("sequential that is not built").evaluate(ids, y, verbose=0)
        for y in (tags, tuple(np.array(row) for row in tags))
    ]
    assert results[0] == pytest.approx(results[1])
    with pytest.raises(ArgumentError, match=r"y has the keys \['tags'\]; unknown or missing"):
        compiled("sequential that is not built").evaluate(IDS, {"tags": TAGS}, verbose=0)


@pytest.mark.parametrize(("x", "y", "trained", "losses", "want"), [
    ([np.zeros((5, 2)), np.zeros((5, 3))], np.zeros(5), None, 1, (2, 1)),
    ([np.zeros((5, 2)), np.zeros((4, 2))], np.zeros(2), None, 1, (1, 1)),
    ([np.zeros(2), np.zeros(2)], np.zeros(2), None, 1, (1, 1)),
    ([np.zeros((5, 2)), np.zeros((5, 3))], None, None, 1, (2, 1)),
    ([np.zeros((5, 2)), np.zeros((5, 2))], None, 1, 1, (1, 1)),
    ([[1, 2], [3]], [[0, 1], [1]], None, 1, (1, 1)),
    (np.zeros(3), (np.zeros(3), np.zeros(3)), None, 1, (1, 2)),
    (np.zeros(3), [np.zeros(3), np.zeros(3)], None, 1, (1, 1)),
    (np.zeros(3), [np.zeros(3), np.zeros(3)], None, 2, (1, 2)),
    ({"a": IDS, "b": IDS}, {"t": TAGS}, None, 1, (2, 1)),
])  # fmt: skip
def test_inputs_and_outputs_of_a_user_defined_call_follow_from_the_containers(x, y, trained, losses, want):
    spec = DataSpec().complete(x, y, trained, losses)
    assert (spec.num_inputs, spec.num_outputs) == want
    assert list(spec.input_names) == (["a", "b"] if isinstance(x, dict) else [])


def test_text_is_not_a_source_of_batches():
    with pytest.raises(ValueError, match="x must hold numbers"):
        read("text")
    assert isinstance(read(Packed.from_sequences(IDS)).head().x, Packed)
