"""Sources that use the memory of a batch again for the next one, and results that must not share memory with arguments."""

import tempfile

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics.classification import MulticlassAUROC

import padless
from padless import Input, Model, pack
from padless.callbacks import Callback
from padless.initializers import Constant
from padless.layers import LSTM, Dense, Embedding, Identity
from padless.metrics import Metric

ROWS, STEPS, FEATURES = 3, 4, 2


def make_batches(count=5, seed=0):
    """Return batches of x, y and weights, whose steps are all real, so that views are possible."""
    random = np.random.default_rng(seed)
    return [
        (
            random.normal(size=(ROWS, STEPS, FEATURES)).astype("float32"),
            random.integers(0, 3, (ROWS, STEPS)),
            random.uniform(0.5, 2.0, (ROWS, STEPS)).astype("float32"),
        )
        for _ in range(count)
    ]


def spoil(array):
    """Overwrite the memory of an array or a tensor, past torch's counter of writes."""
    array = array.numpy() if isinstance(array, torch.Tensor) else array
    array[...] = np.nan if array.dtype.kind == "f" else 77


def in_new_memory(array):
    return array.copy()


def as_tensor(array):
    return torch.from_numpy(array.copy())


def as_memmap(array):
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, dtype=array.dtype, mode="w+", shape=array.shape)
    mapped[...] = array
    return mapped


class Reusing:
    """Batches that are spoiled as soon as the next one is given; with `reuse=False` batches in new memory."""

    def __init__(self, batches, reuse, container=in_new_memory):
        self.batches, self.reuse, self.container = batches, reuse, container
        self.given = ()

    def get(self, number, parts=3):
        given = tuple(self.container(part) for part in self.batches[number][:parts])
        self.end()
        self.given = given if self.reuse else ()
        return given if parts > 1 else given[0]

    def end(self):
        for array in self.given:
            spoil(array)
        self.given = ()


class Iterable(Reusing):
    def __iter__(self):
        for number in range(len(self.batches)):
            yield self.get(number)
        self.end()

    def __len__(self):
        return len(self.batches)


class ByNumber(Reusing):
    """A source like Keras's PyDataset."""

    def __getitem__(self, number):
        return self.get(number)

    def __len__(self):
        return len(self.batches)

    def on_epoch_end(self):
        self.end()


class ExamplesByNumber(ByNumber, Dataset):
    """A Dataset of examples in one buffer."""

    def __getitem__(self, number):
        return tuple(part[0] for part in self.get(number))


class ExamplesInOrder(Reusing, IterableDataset):
    def __iter__(self):
        for number in range(len(self.batches)):
            yield tuple(part[0] for part in self.get(number))


def endless(batches, reuse, container=in_new_memory):
    source = Reusing(batches, reuse, container)
    number = 0
    while True:
        yield source.get(number % len(batches))
        number += 1


class KeepsTargets(Metric):
    """A metric of a user that needs all targets and outputs at the end."""

    def __init__(self):
        super().__init__(name="kept")
        self.kept = []

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.kept.append((y_true, y_pred))

    def result(self):
        return sum((y_true.double().mean() * y_pred.double().mean() for y_true, y_pred in self.kept), torch.zeros(()))

    def reset_state(self):
        self.kept = []


def make_model(metrics=("accuracy",)):
    padless.utils.set_random_seed(0)
    x = Input((None, FEATURES))
    model = Model(x, Dense(3, activation="softmax")(LSTM(4, return_sequences=True)(x)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=list(metrics), weighted_metrics=["accuracy"])
    return model


def fit(source_of, reuse, metrics=("accuracy",), **arguments):
    model = make_model(metrics)
    validation = Iterable(make_batches(2, seed=1), reuse)
    history = model.fit(source_of(reuse), validation_data=validation, verbose=0, **arguments)
    return [*(weight.tolist() for weight in model.get_weights()), history.history]


def sources(container=in_new_memory):
    batches = make_batches()
    return {
        "iterable": lambda reuse: Iterable(batches, reuse, container),
        "generator": lambda reuse: endless(batches, reuse, container),
        "batches by number": lambda reuse: ByNumber(batches, reuse, container),
        "DataLoader": lambda reuse: DataLoader(
            ByNumber(batches, reuse, container), batch_size=None, collate_fn=lambda batch: batch
        ),
        "examples by number": lambda reuse: ExamplesByNumber(batches, reuse, container),
        "examples in order": lambda reuse: ExamplesInOrder(batches, reuse, container),
    }


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("name", sources())
def test_a_source_that_reuses_its_memory_trains_as_one_with_new_arrays(name, accumulation):
    arguments = {"epochs": 2, "gradient_accumulation_steps": accumulation}
    if name == "generator":
        arguments["steps_per_epoch"] = 4
    expected, actual = (fit(sources()[name], reuse, **arguments) for reuse in (False, True))
    assert actual == expected


@pytest.mark.parametrize("container", [as_tensor, as_memmap])
def test_reused_tensors_and_files_train_as_new_arrays(container):
    source = sources(container)["generator"]
    expected, actual = (
        fit(source, reuse, epochs=2, steps_per_epoch=5, gradient_accumulation_steps=2, class_weight={1: 2.0})
        for reuse in (False, True)
    )
    assert actual == expected


def test_one_buffer_for_training_and_validation_trains_as_two():
    buffer = make_batches(1)[0]

    def refill(batches, reuse):
        for batch in batches:
            for part, values in zip(buffer, batch, strict=True):
                part[...] = values
            yield buffer if reuse else tuple(part.copy() for part in buffer)

    results = []
    for reuse in (False, True):
        model = make_model()
        history = model.fit(refill(make_batches(), reuse), validation_data=refill(make_batches(3, 1), reuse), verbose=0)
        results.append((history.history, [weight.tolist() for weight in model.get_weights()]))
    assert results[0] == results[1]


def test_metrics_that_keep_targets_get_copies():
    results = []
    for reuse in (False, True):
        model = make_model()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=[KeepsTargets(), MulticlassAUROC(3)])
        results.append(
            [
                model.evaluate(source, verbose=0, return_dict=True)
                for source in (Iterable(make_batches(), reuse), ByNumber(make_batches(), reuse))
            ]
        )
    assert results[0] == results[1]


class KeepsData(Model):
    """A model whose `train_step` of a user computes the gradient of two batches at once."""

    def __init__(self):
        super().__init__()
        self.dense, self.losses_of_batches = Dense(1), []

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        x, y, _ = data
        self.losses_of_batches.append((self(x).mean(-1) - y).square().mean())
        if len(self.losses_of_batches) == 2:
            self.optimizer.zero_grad()
            sum(self.losses_of_batches).backward()
            self.optimizer.step()
            self.losses_of_batches = []
        return {"loss": 0.0}


def test_a_train_step_of_a_user_may_keep_batches():
    results = []
    for reuse in (False, True):
        padless.utils.set_random_seed(0)
        model = KeepsData()
        model.compile("sgd", "mse")
        model.fit(Iterable(make_batches(4), reuse), verbose=0)
        results.append([weight.tolist() for weight in model.get_weights()])
    assert results[0] == results[1]


class KeepsOutputs(Callback):
    def __init__(self):
        self.outputs = []

    def on_predict_batch_end(self, batch, logs=None):
        self.outputs.append(logs["outputs"])


def test_predictions_do_not_share_memory_with_a_reused_batch():
    x = Input((None, FEATURES))
    model = Model(x, {"same": Identity()(x), "part": x[..., :1], "dense": Dense(2)(x)})
    batches = [batch[:1] for batch in make_batches()]
    results = []
    for reuse in (False, True):
        for source in (Iterable(batches, reuse), ByNumber(batches, reuse)):
            callback = KeepsOutputs()
            predictions = model.predict(source, callbacks=[callback], verbose=0)
            results.append({name: array.tolist() for name, array in predictions.items()})
            assert np.concatenate([out["same"] for out in callback.outputs]).tolist() == results[-1]["same"]
    assert results[0] == results[1] == results[2] == results[3]


def test_predictions_of_lists_keep_their_container_if_the_first_batch_is_spoiled():
    x = Input((None,))
    model = Model(x, Dense(1)(Embedding(5, 2, mask_zero=True)(x)))
    source = Reusing([(np.array([[1, 2, 3], [1, 1, 0]]),)] * 3, True)
    assert model.predict((source.get(number, parts=1) for number in range(3)), verbose=0).shape == (6, 3, 1)


def test_a_packed_array_does_not_change_with_the_array():
    for mask in (None, np.ones((2, 3), bool), [[1, 1, 0], [1, 1, 1]]):
        for array in (np.ones((2, 3)), torch.ones(2, 3), torch.ones(2, 3, requires_grad=True)):
            packed = pack(array, mask=mask)
            spoil(array.detach() if isinstance(array, torch.Tensor) else array)
            assert (packed.values == 1).all()
    array, mask = np.ones((2, 3)), np.ones((2, 3), bool)
    packed = pack(array, mask=mask)
    mask[...] = False
    assert packed.lengths.tolist() == [3, 3] and packed.mask.all()


def test_weights_and_states_do_not_share_memory_with_arguments_and_results():
    model = make_model()
    model.fit(Iterable(make_batches(), False), verbose=0)
    weights = model.get_weights()
    before = [weight.copy() for weight in weights]
    for weight in weights:
        spoil(weight)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    given = [torch.from_numpy(weight.copy()) for weight in before]
    model.set_weights(given)
    for weight in given:
        spoil(weight)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    table = np.ones((3, 2), "float32")
    weight = Constant(table)((3, 2))
    spoil(table)
    assert (weight == 1).all()
    results = model.get_metrics_result()
    values = {name: float(value) for name, value in results.items()}
    for value in results.values():
        value.mul_(0)
    assert {name: float(value) for name, value in model.get_metrics_result().items()} == values


def test_an_optimizer_does_not_share_its_state_with_a_loaded_one():
    source = make_model()
    source.fit(Iterable(make_batches(), False), verbose=0)
    target = make_model()
    target.fit(Iterable(make_batches(), False), verbose=0)
    state = source.optimizer.state_dict()
    target.optimizer.load_state_dict(state)
    averages = [entry["exp_avg"].clone() for entry in target.optimizer.state.values()]
    source.fit(Iterable(make_batches(), False), verbose=0)
    assert all(torch.equal(a, b["exp_avg"]) for a, b in zip(averages, target.optimizer.state.values(), strict=True))
