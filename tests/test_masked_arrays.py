"""NumPy's masked arrays: the mask of inputs is used, every other one is refused."""

import numpy as np
import pandas
import pyarrow
import pytest
import torch

import padless
from padless import Input, Model, Packed, losses, metrics, pack
from padless.errors import DataError
from padless.initializers import Constant
from padless.layers import LSTM, Dense, Embedding, LastStep, Normalization
from padless.utils import pad_sequences

MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]], bool)  # True at real steps
VALUES = np.random.default_rng(0).normal(size=(3, 4, 2)).astype("float32")
IDS, TAGS = np.array([[1, 2, 3, 4], [4, 3, 2, 1], [1, 1, 2, 2]]), np.array([[0, 1, 2, 1], [1, 1, 0, 0], [2, 2, 1, 0]])


def masked(values, mask=MASK):
    """Return a masked array of the steps, with numbers under the mask that must have no influence."""
    is_masked = np.broadcast_to(~mask.reshape(*mask.shape, *(1,) * (values.ndim - mask.ndim)), values.shape)
    spoiled = np.where(is_masked, 99 if values.dtype.kind == "i" else np.nan, values)
    return np.ma.masked_array(spoiled, is_masked)


def tagger(features=2):
    padless.utils.set_random_seed(0)
    x = Input((None, features) if features else (None,), name="steps")
    h = LSTM(4, return_sequences=True)(x if features else Embedding(5, 3)(x))
    model = Model(x, Dense(3, activation="softmax")(h))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.mark.parametrize(("features", "values"), [(2, VALUES), (0, IDS)])
def test_a_masked_array_of_inputs_is_its_mask(features, values):
    def run(x, **mask):
        model = tagger(features)
        history = model.fit(x, TAGS, epochs=2, shuffle=False, verbose=0, **mask).history
        return history, model.evaluate(x, TAGS, verbose=0, **mask), model.predict(x, verbose=0, **mask).tolist()

    expected = run(values, mask=MASK)
    assert run(masked(values)) == expected
    assert run({"steps": masked(values)}) == expected
    assert run(np.ma.masked_array(values), mask=MASK) == expected  # nothing is masked in it
    assert run(masked(values), mask=np.ones_like(MASK)) == expected


def test_batches_of_masked_arrays_are_their_masks():
    expected, actual = tagger(), tagger()
    first = expected.fit(VALUES, TAGS, mask=MASK, shuffle=False, verbose=0).history
    assert actual.fit(iter([(masked(VALUES), TAGS)]), verbose=0).history == first
    assert np.array_equal(actual.predict(iter([masked(VALUES)]), verbose=0), expected.predict(VALUES, mask=MASK, verbose=0))


def test_layers_and_pack_use_the_mask():
    assert pack(masked(VALUES)).mask.numpy().tolist() == MASK.tolist()
    assert torch.equal(pack(masked(VALUES)).values, pack(VALUES, mask=MASK).values)
    both = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]], bool)
    assert pack(masked(VALUES), mask=both).mask.numpy().tolist() == (MASK & both).tolist()
    assert pack(masked(VALUES), lengths=[2, 2, 3]).lengths.tolist() == [2, 1, 3]
    layer = LSTM(3)
    assert torch.equal(layer(masked(VALUES)), layer(pack(VALUES, mask=MASK)))
    assert isinstance(Dense(2)(masked(VALUES)), Packed)
    assert torch.equal(LastStep()(masked(VALUES)), LastStep()(pack(VALUES, mask=MASK)))
    masked_statistics, statistics = Normalization(), Normalization()
    masked_statistics.adapt(masked(VALUES))
    statistics.adapt(pack(VALUES, mask=MASK))
    assert torch.equal(masked_statistics.mean, statistics.mean)


def test_a_step_that_is_masked_in_part_is_refused():
    partly = np.ma.masked_array(VALUES, np.zeros(VALUES.shape, bool))
    partly[1, 2, 0] = np.ma.masked
    message = "a part of row 1, step 2 is masked"
    for call in (
        lambda: pack(partly),
        lambda: LSTM(3)(partly),
        lambda: tagger().fit(partly, TAGS, verbose=0),
        lambda: tagger().predict(partly, verbose=0),
    ):
        with pytest.raises(DataError, match=message):
            call()
    with pytest.raises(DataError, match="a whole example cannot be masked"):
        tagger().predict(np.ma.masked_array([1.0, 2.0], [0, 1]), verbose=0)


def rows_of(array):
    rows = np.empty(len(array), object)
    rows[:] = list(array)
    return rows


@pytest.mark.filterwarnings("ignore:.*converting a masked element to nan")  # of NumPy
@pytest.mark.parametrize("nest", [list, tuple, rows_of, lambda a: [list(row) for row in a]])
def test_masked_targets_and_weights_are_refused_in_any_container(nest):
    tags, weights = masked(TAGS), masked(np.ones((3, 4)))
    model = tagger()
    before = model.get_weights()
    for arguments in (
        {"y": nest(tags)},
        {"y": TAGS, "sample_weight": nest(weights)},
        {"y": TAGS, "mask": nest(np.ma.masked_array(MASK, ~MASK))},
    ):
        with pytest.raises((DataError, ValueError), match="masked array|mask"):
            model.fit(VALUES, **arguments, verbose=0)
    with pytest.raises(DataError, match="masked"):
        model.fit(iter([(VALUES, nest(tags))]), verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.filterwarnings("ignore:.*converting a masked element to nan")  # of NumPy
@pytest.mark.parametrize("nest", [list, tuple, rows_of, lambda a: [list(row) for row in a]])
def test_masked_arrays_in_lists_are_refused(nest):
    for call in (
        lambda: tagger(0).predict(nest(masked(IDS)), verbose=0),
        lambda: pack(nest(masked(IDS))) if nest is not rows_of else tagger(0).predict(nest(masked(IDS)), verbose=0),
        lambda: tagger(0).predict([[1, 2], [3, np.ma.masked]], verbose=0),
    ):
        with pytest.raises(DataError, match="masked array"):
            call()


def test_masked_arrays_are_refused_where_they_have_no_meaning():
    array = np.ma.masked_array([[1.0, 2.0]], [[0, 1]])
    for call in (
        lambda: losses.MeanSquaredError()(array, np.zeros((1, 2))),
        lambda: losses.MeanSquaredError()(np.zeros((1, 2)), array),
        lambda: losses.MeanSquaredError()(np.zeros((1, 2)), np.zeros((1, 2)), np.ma.masked_array([1.0], [1])),
        lambda: metrics.Mean()(array),
        lambda: metrics.MeanSquaredError()([[1.0, 2.0]], array),
        lambda: pack(np.zeros((1, 2)), mask=np.ma.masked_array([[True, True]], [[0, 1]])),
        lambda: pack(np.zeros((1, 2)), lengths=np.ma.masked_array([1], [1])),
        lambda: Constant(array)((1, 2)),
        lambda: tagger().set_weights([np.ma.masked_all(weight.shape) for weight in tagger().get_weights()]),
        lambda: pad_sequences([np.ma.masked_array([1, 2], [0, 1])]),
    ):
        with pytest.raises(DataError, match="masked array"):
            call()


def test_missing_values_of_other_libraries_are_refused():
    for column in (
        pyarrow.array([[1, 2], [3, None]]),
        pyarrow.array([[1, 2], None]),
        pandas.Series([1, None], dtype="Int64"),
        pandas.Series([1.5, None], dtype="Float64"),
        pandas.Series([True, None], dtype="boolean"),
        pandas.Series([[1, 2], None]),
        pandas.Series([[1, 2], [3, None]]),
        pandas.Series([1, None], dtype="int64[pyarrow]"),
    ):
        with pytest.raises(DataError):
            padless.data.read(column)
