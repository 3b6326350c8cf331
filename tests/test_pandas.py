"""Series and frames of pandas train, predict and pack as lists do: by position, whatever the labels of their index."""

import numpy as np
import pytest
import torch
from test_containers import IDS as ALL_IDS
from test_containers import TAGS as ALL_TAGS
from test_containers import loss_of, tagger

import padless
from padless import Input, Model, Sequential
from padless.errors import ArgumentError, DataError
from padless.layers import Dense

pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")

IDS, TAGS = ALL_IDS[:4], ALL_TAGS[:4]
MASK = [[1, 0, 1], [1], [0, 1], [1, 1, 0, 1]]


def arrow_series(rows):
    return pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([pa.array(rows[:1]), pa.array(rows[1:])])))


SERIES = {
    "lists": lambda rows: pd.Series(rows),
    "tuples": lambda rows: pd.Series([tuple(row) for row in rows]),
    "arrays": lambda rows: pd.Series([np.array(row) for row in rows]),
    "tensors": lambda rows: pd.Series([torch.tensor(row) for row in rows]),
    "arrow lists": arrow_series,
    "an index in another order": lambda rows: pd.Series(rows, index=[3, 1, 0, 2]),
    "labels that occur twice": lambda rows: pd.Series(rows, index=[1, 1, 0, 0]),
    "a MultiIndex": lambda rows: pd.Series(rows, index=pd.MultiIndex.from_product([[0, 1], list("ab")])),
    "a filtered series": lambda rows: pd.Series([[9], *rows, [9]])[[False, True, True, True, True, False]],
    "an array of an extension": lambda rows: arrow_series(rows).array,
}


@pytest.fixture(scope="module")
def want():
    return loss_of(IDS, TAGS, batch_size=2)


@pytest.mark.parametrize("make", SERIES.values(), ids=SERIES)
def test_series_of_sequences_equal_lists(make, want):
    assert [row.tolist() for row in padless.pack(make(IDS))] == IDS
    assert [row.tolist() for row in padless.pack(make(IDS), mask=make(MASK))] == [[1, 3], [4], [2], [3, 1, 1]]
    np.testing.assert_allclose(loss_of(make(IDS), make(TAGS), batch_size=2), want, rtol=1e-5)


def test_frames_give_inputs_targets_weights_and_masks_by_name(want):
    frame = pd.DataFrame({"text": list("abcd"), "tags": TAGS, "ids": IDS, "sample_weight": [1.0] * 4}, index=[2, 0, 0, 1])
    np.testing.assert_allclose(loss_of(frame, batch_size=2), want, rtol=1e-5)
    np.testing.assert_allclose(loss_of(frame["ids"], frame["tags"], batch_size=2), want, rtol=1e-5)
    np.testing.assert_allclose(loss_of(frame[["ids"]], frame[["tags"]], batch_size=2), want, rtol=1e-5)
    history = tagger().fit(frame, validation_data=(frame[["ids"]], frame["tags"]), validation_split=0.0, verbose=0).history
    assert np.isfinite(history["val_loss"][0])
    model, weights = tagger(), pd.Series([1.0, 0.0, 2.0, 0.5], index=[3, 2, 1, 0])
    want_loss = model.evaluate(IDS, TAGS, sample_weight=weights.to_numpy(), verbose=0)
    assert model.evaluate(frame["ids"], frame["tags"], sample_weight=weights, verbose=0) == pytest.approx(want_loss)
    for row, own in zip(
        model.predict(IDS, mask=pd.Series(MASK, index=[1, 0, 3, 2]), verbose=0),
        model.predict(IDS, mask=MASK, verbose=0),
        strict=True,
    ):
        np.testing.assert_array_equal(row, own)
    got, expected = model.predict(frame[["ids"]], verbose=0), model.predict(IDS, verbose=0)
    assert isinstance(got, list) and all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    assert model.test_on_batch(frame["ids"], frame["tags"]) == pytest.approx(model.evaluate(IDS, TAGS, verbose=0))
    assert np.isfinite(tagger().train_on_batch(frame["ids"], frame["tags"])[0])


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_columns_of_numbers_are_the_features_of_one_input(library):
    numbers = np.array([[1, 2.5, 1], [3, 4.5, 0], [5, 6.5, 1]])
    columns = {"a": numbers[:, 0].astype(int), "b": numbers[:, 1], "c": numbers[:, 2].astype(bool)}
    if library == "pandas":
        frame = pd.DataFrame(columns, index=[5, 5, 1]).astype({"a": "Int64", "b": "Float64", "c": "boolean"})
    elif library == "polars":
        frame = pytest.importorskip("polars").DataFrame(columns)
    else:
        frame = pa.table(columns)
    torch.manual_seed(0)
    x = Input((3,))
    model = Model(x, Dense(2)(x))
    np.testing.assert_allclose(model.predict(frame, verbose=0), model.predict(numbers, verbose=0), rtol=1e-6)
    model.compile("sgd", "mse")
    loss = model.evaluate(numbers, numbers[:, :2], verbose=0)
    targets = frame.select(["a", "b"]) if library != "pandas" else frame[["a", "b"]]
    assert model.evaluate(frame, targets, verbose=0) == pytest.approx(loss)
    unbuilt = Sequential([Dense(1)])
    assert unbuilt.predict(frame, verbose=0).shape == (3, 1)


def test_columns_with_integer_names_are_features_too():
    x = Input((4,))
    model = Model(x, Dense(1)(x))
    values = np.arange(12.0).reshape(3, 4)
    np.testing.assert_allclose(model.predict(pd.DataFrame(values), verbose=0), model.predict(values, verbose=0))


def test_a_frame_of_targets_is_split_by_the_names_of_the_outputs():
    x = Input((2,))
    model = Model(x, [Dense(1, name="one")(x), Dense(1, name="two")(x)])
    model.compile("sgd", "mse")
    values = np.arange(6.0).reshape(3, 2)
    frame = pd.DataFrame({"two": [1.0, 2.0, 3.0], "one": [0.0, 1.0, 0.0]})
    assert model.evaluate(values, frame, verbose=0) == pytest.approx(
        model.evaluate(values, {"one": frame["one"].to_numpy(), "two": frame["two"].to_numpy()}, verbose=0)
    )


@pytest.mark.parametrize(("make", "message"), [
    (lambda: pd.Series([1, None, 2], dtype="Int64"), "x has a missing value.*row 1"),
    (lambda: pd.Series([[1], None, [2]]), r"missing value \(None\) in row 1"),
    (lambda: pd.Series([[1], pd.NA, [2]]), r"missing value \(<NA>\) in row 1"),
    (lambda: arrow_series([[1], [2, None]]), r"missing value \(null\) in row 1"),
    (lambda: pd.Series(["a", "b"]), "must hold numbers.*'a' in row 0"),
    (lambda: pd.Series(["a", "b"], dtype="category"), "categories with 'a' in row 0.*cat.codes"),
    (lambda: pd.Series(pd.to_datetime(["2026-01-01"])), "must hold numbers; got dtype datetime64.*row 0"),
    (lambda: pd.Series(pd.to_datetime(["2026-01-01"]).tz_localize("UTC")), "must hold numbers.*row 0"),
    (lambda: pd.MultiIndex.from_product([[0, 1], list("ab")]), "MultiIndex"),
    (lambda: pd.Series([], dtype=object), "0 examples"),
    (lambda: pd.DataFrame({"ids": []}), "0 examples"),
    (lambda: pd.DataFrame({"a": [1, 2], "b": ["u", "v"]}), r"x\['b'\] must hold numbers.*'u' in row 0"),
    (lambda: pd.DataFrame({"a": [1, 2]}).groupby("a"), "DataFrameGroupBy, which padless does not read.*the table itself"),
])  # fmt: skip
def test_columns_without_numbers_are_refused(make, message):
    with pytest.raises(DataError, match=message):
        tagger().predict(make(), verbose=0)


def test_column_names_that_occur_twice_are_refused():
    frame = pd.DataFrame([[1, 2]], columns=["ids", "ids"])
    with pytest.raises(ArgumentError, match="more than one column 'ids'"):
        tagger().predict(frame, verbose=0)


def test_categories_of_numbers_are_numbers():
    column = padless.data.Examples(pd.Series([3, 1, 3], dtype="category")).whole().x
    assert column.tolist() == [3, 1, 3]
