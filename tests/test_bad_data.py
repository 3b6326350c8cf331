"""Bad data in every container raise an error that names what is wrong, and the model does not change."""

import copy

import numpy as np
import pytest
import torch
from test_bad_input import CLASSES, GOOD, graph, grid, snapshot, trained, unchanged
from torch.utils.data import DataLoader, Dataset, IterableDataset

import padless
from padless.errors import ArgumentError, DataError, MaskError, ShapeError
from padless.ragged.packed import Packed

pa, pl, ak = (pytest.importorskip(name) for name in ("pyarrow", "polars", "awkward"))

X = grid(GOOD).astype(int)
MASK = X > 0
BAD = [*GOOD[:3], [2, 5]]


class Rows(Dataset):
    def __init__(self, x, y, fail=None):
        self.x, self.y, self.fail = x, y, fail

    def __len__(self):
        return len(self.x)

    def __getitem__(self, number):
        if number == self.fail:
            raise OSError(f"disk error at example {number}")
        return self.x[number], self.y[number]


class Flow(IterableDataset):
    def __init__(self, *items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def table(**more):
    return pl.DataFrame({"ids": GOOD, "tag": CLASSES, **more})


def raising(after=0):
    for _ in range(after):
        yield X, grid(CLASSES)
    raise OSError("cable pulled")


FIT = {
    "arrow: an id outside the table": (lambda: (pa.array(BAD), CLASSES), {}, DataError, "id 5 at step 1 of row 3"),
    "polars: an id outside the table": (lambda: (pl.Series(BAD), CLASSES), {}, DataError, "id 5 at step 1 of row 3"),
    "awkward: an id outside the table": (lambda: (ak.Array(BAD), CLASSES), {}, DataError, "id 5 at step 1 of row 3"),
    "Packed: half an id": (lambda: (Packed.from_sequences([*GOOD[:3], [0.5, 1.0]]), CLASSES), {}, DataError, "id 0.5"),
    "arrow: a missing row": (
        lambda: (pa.array([*GOOD[:3], None]), CLASSES), {}, DataError, "x has a missing value.*row 3"
    ),
    "polars: a missing step": (
        lambda: (pl.Series([*GOOD[:3], [1, None]]), CLASSES), {}, DataError, "missing value.*row 3"
    ),
    "awkward: a missing label": (
        lambda: (GOOD, ak.Array([*CLASSES[:3], [1, None]])), {}, DataError, "y has a missing.*row 3"
    ),
    "arrow: text": (lambda: (pa.array([["a"], ["b"], ["c"], ["d"]]), CLASSES), {}, DataError, "'a'.*in row 0"),
    "labels as text": (lambda: (GOOD, [["N"], ["V"], ["N"], ["N"]]), {}, DataError, r"y\[0\] must hold numbers.*'N'"),
    "one label as text": (lambda: (GOOD, [*CLASSES[:3], ["N", 1]]), {}, DataError, r"y\[3\] must hold numbers.*'N'"),
    "arrow: labels of other lengths": (
        lambda: (GOOD, pa.array([*CLASSES[:3], [1]])), {}, DataError, "1 labels in row 3"
    ),
    "a label for each example": (lambda: (GOOD, [0, 1, 0, 1]), {}, ShapeError, r"shape \(4,\), one for each example"),
    "objects": (lambda: (np.array([object()] * 4), CLASSES), {}, DataError, "object object"),
    "dates": (lambda: (np.zeros((4, 3), "M8[s]"), CLASSES), {}, DataError, "datetime64"),
    "complex numbers": (lambda: (X * 1j, CLASSES), {}, DataError, "complex128"),
    "a table without labels": (lambda: (table().select("ids"),), {}, ArgumentError, "y is None"),
    "a table without inputs": (lambda: (pl.DataFrame({"tag": CLASSES, "x1": GOOD, "x2": GOOD}),), {},
                               ArgumentError, r"\['tag', 'x1', 'x2'\]; no column for the inputs \['ids'\]"),
    "a column that is missing": (lambda: (table(), "tags"), {}, ArgumentError, r"\['tags'\], which are missing.*'tag'"),
    "a table that is not computed": (lambda: (table().lazy(),), {}, ArgumentError, "LazyFrame.*collect"),
    "an unknown key beside input_ids": (lambda: ({"input_ids": GOOD, "kinds": GOOD, "labels": CLASSES},), {}, ArgumentError,
                                        r"\['input_ids', 'kinds'\]"),
    "a mask of another width": (
        lambda: (X, CLASSES), {"mask": np.ones((4, 2))}, MaskError, r"\(4, 2\) does not fit.*\(4, 3\)"
    ),
    "a mask of fewer rows": (lambda: (X, CLASSES), {"mask": MASK[:3]}, MaskError, r"\(3, 3\)"),
    "a mask of other lengths": (lambda: (GOOD, CLASSES), {"mask": [[1, 1], [1], [1, 1], [1, 1]]}, MaskError,
                                "2 entries in row 2, but the data have 3 steps"),
    "a mask of probabilities": (lambda: (X, CLASSES), {"mask": MASK * 0.5}, MaskError, "0.5 in it"),
    "a mask of text": (lambda: (GOOD, CLASSES), {"mask": [["y"]] * 4}, MaskError, "'y'"),
    "a mask by an unknown name": (lambda: (X, CLASSES), {"mask": {"idz": MASK}}, ArgumentError, r"\['idz'\]"),
    "labels that fit only without the mask": (lambda: (GOOD, CLASSES), {"mask": [[1, 0], [1], [1, 1, 1], [1, 1]]}, DataError,
                                              "2 labels in row 0, but its mask has 1"),
    "two masks": (lambda: ({"input_ids": X, "attention_mask": MASK, "labels": CLASSES},), {"mask": MASK}, ArgumentError,
                  "mask= is given as well"),
    "a mask beside a loader": (
        lambda: (DataLoader(Rows(X, X)),), {"mask": MASK}, ArgumentError, "mask must come in its batches"
    ),
    "targets beside a Dataset": (lambda: (Rows(X, X), CLASSES), {}, ArgumentError, "y must come in its batches"),
    "batch_size beside a loader": (lambda: (DataLoader(Rows(X, X)),), {"batch_size": 3}, ArgumentError, "batch_size=3"),
    "batch_tokens beside a generator": (
        lambda: (iter([(X, X * 0)]),), {"batch_tokens": 9}, ArgumentError, "batch_tokens=9"
    ),
    "a split of a generator": (
        lambda: (iter([(X, X)]),), {"validation_split": 0.5}, ArgumentError, "validation_split=0.5"
    ),
    "a generator for two epochs": (lambda: (iter([(X, X)]),), {"epochs": 2}, ArgumentError, "epochs=2"),
    "a generator that raises at once": (lambda: (raising(),), {}, OSError, "cable pulled"),
    "a generator that gives nothing": (lambda: (iter(()),), {}, DataError, "gave no batch"),
    "a generator of four parts": (lambda: (iter([(X, X, X, X)]),), {}, ArgumentError, "got 4 parts"),
    "a first batch with a bad id": (lambda: (iter([(BAD, CLASSES)]),), {}, DataError, "id 5 at step 1 of row 3"),
    "a first batch with a bad label": (
        lambda: (iter([(GOOD, [*CLASSES[:3], [7, 0]])]),), {}, DataError, "7 at a real step"
    ),
    "a first batch of unequal rows": (
        lambda: (iter([(GOOD, CLASSES[:3])]),), {}, DataError, "x holds 4 examples, y holds 3"
    ),
    "a first batch of text": (lambda: (iter([("text", X)]),), {}, DataError, "text"),
    "a Dataset that raises": (lambda: (Rows(GOOD, CLASSES, fail=0),), {}, OSError, "disk error at example 0"),
    "a Dataset without examples": (lambda: (Rows([], []),), {}, DataError, "0 examples"),
    "a Dataset, its last id": (
        lambda: (Rows(BAD, CLASSES),), {"batch_tokens": 4}, DataError, "id 5 at step 1 of row 3"
    ),
    "examples that differ in form": (
        lambda: (Flow((GOOD[0], CLASSES[0]), GOOD[1]),), {"batch_size": 2}, DataError, "differ in form"
    ),
    "class weights of text": (lambda: (GOOD, CLASSES), {"class_weight": {"N": 2.0}}, ArgumentError, "got 'N'"),
    "weights that are negative classes": (
        lambda: (GOOD, CLASSES), {"class_weight": {-1: 2.0}}, ArgumentError, "got -1"
    ),
    "no real steps to a batch": (lambda: (GOOD, CLASSES), {"batch_tokens": 0}, ArgumentError, "got 0"),
    "fewer than none": (lambda: (GOOD, CLASSES), {"batch_tokens": -5}, ArgumentError, "got -5"),
    "two sizes": (
        lambda: (GOOD, CLASSES), {"batch_tokens": 5, "batch_size": 2}, ArgumentError, "batch_size=2 and batch_tokens=5"
    ),
    "an unknown order": (lambda: (GOOD, CLASSES), {"shuffle": "all"}, ArgumentError, "got 'all'"),
    "validation that does not fit": (
        lambda: (GOOD, CLASSES), {"validation_data": (pa.array(BAD), CLASSES)}, DataError, "id 5"
    ),
    "validation in five parts": (
        lambda: (GOOD, CLASSES), {"validation_data": (X, X, X, X, X)}, ArgumentError, "got 5 entries"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FIT)
def test_fit_raises_before_the_model_changes(case):
    make, kwargs, kind, message = FIT[case]
    model = trained(graph)
    data = make()
    before = snapshot(model)
    with pytest.raises(kind, match=message):
        model.fit(*data, verbose=0, **kwargs)
    assert unchanged(model, before)


OTHER = ["arrow: an id outside the table", "polars: a missing step", "arrow: text", "dates", "a table that is not computed",
         "a mask of another width", "a mask of other lengths", "a mask by an unknown name", "batch_size beside a loader",
         "a generator that raises at once", "a generator that gives nothing",
         "a Dataset that raises", "two sizes"]  # fmt: skip


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
@pytest.mark.parametrize("case", OTHER)
def test_evaluate_and_predict_raise_for_the_same_data(case, verb):
    make, kwargs, kind, message = FIT[case]
    model = trained(graph)
    data = make()
    before = snapshot(model)
    with pytest.raises(kind, match=message):
        getattr(model, verb)(*data[: 2 if verb == "evaluate" else 1], verbose=0, **kwargs)
    assert unchanged(model, before)


def good(batches=3):
    for _ in range(batches):
        yield X, grid(CLASSES)


LATER = {
    "raises": (lambda: raising(2), OSError, "cable pulled"),
    "a bad id": (lambda: iter([(X, X * 0), (X, X * 0), (X + 4, X * 0)]), DataError, "id 5 at step 0 of row 0"),
    "a bad label": (lambda: iter([(X, X * 0), (X, X * 0), (X, X * 0 + 3)]), DataError, "3"),
    "unequal rows": (lambda: iter([(X, X * 0), (X, X * 0), (X, X[:2])]), DataError, "x holds 4 examples, y holds 2"),
    "text": (lambda: iter([(X, X * 0), (X, X * 0), (np.array([["a"]]), X)]), DataError, "'a'"),
}


@pytest.mark.parametrize("case", LATER)
def test_an_error_in_a_later_batch_keeps_the_weights_of_the_steps_before(case):
    make, kind, message = LATER[case]
    model = trained(graph)
    want = copy.deepcopy(model)
    torch.manual_seed(5)
    with pytest.raises(kind, match=message) as caught:
        model.fit(make(), verbose=0)
    assert case != "raises" or any("instead of batch 2" in note for note in caught.value.__notes__)
    torch.manual_seed(5)
    y = grid(CLASSES) if case == "raises" else X * 0
    want.fit(iter([(X, y), (X, y)]), verbose=0)
    for a, b in zip(model.get_weights(), want.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not model.training
    model.fit(GOOD, CLASSES, verbose=0)  # and it can go on


def test_a_generator_that_ends_early_ends_the_epoch_with_a_warning():
    model = trained(graph)
    with pytest.warns(UserWarning, match="ran out after 1 of 2 steps"):
        model.fit(good(3), steps_per_epoch=2, epochs=2, verbose=0)
    with pytest.raises(DataError, match="gave no batch"):
        spent = good(1)
        list(spent)
        model.fit(spent, steps_per_epoch=2, verbose=0)


def test_bad_parquet_columns_and_files_raise_before_the_model_changes(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"ids": BAD, "tag": CLASSES}), tmp_path / "bad.parquet")
    model = trained(graph)
    before = snapshot(model)
    for make, kwargs, kind, message in (
        (lambda: padless.data.parquet(tmp_path, "words"), {}, ArgumentError, r"\['words'\]"),
        (lambda: padless.data.parquet(tmp_path / "no.parquet"), {}, DataError, "no.parquet"),
        (lambda: padless.data.parquet(tmp_path, "ids", "tag"), {"batch_tokens": 3}, DataError, "id 5"),
        (lambda: padless.data.parquet(tmp_path, "ids"), {}, ArgumentError, "y is None"),
        (lambda: padless.data.parquet(tmp_path, "ids", "tag"), {"validation_split": 0.5}, ArgumentError, "split=0.5"),
    ):
        with pytest.raises(kind, match=message):
            model.fit(make(), verbose=0, **kwargs)
    assert unchanged(model, before)


# ---------------------------------------------------------------------------------------------------- one label too many

LISTS, LABELS = [[1, 2], [3]], [[0, 1], [1]]


def step_model(pooled=False, loss="sparse_categorical_crossentropy"):
    layers = padless.layers
    pooling = [layers.GlobalAveragePooling1D()] if pooled else []
    model = padless.Sequential([layers.Embedding(9, 4, mask_zero=True), *pooling, layers.Dense(3, activation="softmax")])
    model.compile("sgd", loss)
    model([[1]])
    return model


def assert_refused_before_training(model, run, error, message):
    weights = model.get_weights()
    with pytest.raises(error, match=message):
        run()
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))


@pytest.mark.parametrize("form", ["lists", "tuples", "arrays", "generator"])
@pytest.mark.parametrize("labels", [[[0, 1], [1, 2]], [[0], [1]], [[0, 1], []]])
def test_a_list_needs_one_label_for_each_step(labels, form):
    row_type = {"tuples": tuple, "arrays": lambda row: np.array(row, int)}.get(form, list)
    model, x, y = step_model(), [row_type(row) for row in LISTS], [row_type(row) for row in labels]
    data = (x, y) if form != "generator" else (iter([(x, y)]),)
    errors = (DataError, ShapeError)
    assert_refused_before_training(model, lambda: model.fit(*data, verbose=0), errors, "row [01]")
    if form != "generator":
        assert_refused_before_training(model, lambda: model.evaluate(*data, verbose=0), errors, "row [01]")
        with pytest.raises(ShapeError, match="row [01]|one entry"):
            padless.losses.SparseCategoricalCrossentropy()(y, model(LISTS))
        with pytest.raises(ShapeError, match="row [01]|one entry"):
            padless.metrics.SparseCategoricalAccuracy()(y, model(LISTS))


def test_labels_of_lists_are_for_all_steps_or_for_the_real_ones():
    model, x = step_model(), [[1, 0], [3]]
    one = model.evaluate(x, [[0], [1]], verbose=0)
    assert model.evaluate(x, [[0, 2], [1]], verbose=0) == pytest.approx(one)
    loss = padless.losses.SparseCategoricalCrossentropy()
    assert loss([[0, 2], [1]], model(x)).item() == pytest.approx(one, rel=1e-6)
    assert_refused_before_training(model, lambda: model.fit(x, [[0, 2], [1, 2]], verbose=0), DataError, "row 1")
    padded = model.evaluate(np.array([[1, 0], [3, 0]]), [[0, 2], [1, 2]], verbose=0)  # a padded array has padded labels
    assert padded == pytest.approx(one, rel=1e-6)


def test_weights_and_masks_of_lists_have_one_entry_for_each_step():
    model = step_model()
    for weights in ([[1.0, 1], [1, 9]], [[1.0, 1], []]):
        assert_refused_before_training(
            model, lambda w=weights: model.fit(LISTS, LABELS, sample_weight=w, verbose=0), (DataError, ShapeError), "row 1"
        )
        with pytest.raises(ShapeError, match="row 1"):
            padless.losses.SparseCategoricalCrossentropy()(LABELS, model(LISTS), sample_weight=weights)
    model.fit(LISTS, LABELS, sample_weight=[[1.0], [2.0]], verbose=0)  # weights of sequences
    for mask in ([[1, 1], [1, 1]], np.ones((2, 2)), [[1, 1], []]):
        assert_refused_before_training(model, lambda m=mask: model.fit(LISTS, LABELS, mask=m, verbose=0), MaskError, "row 1")
    for arguments in ({"mask": np.ones((2, 2))}, {"lengths": [2, 2]}):
        with pytest.raises(MaskError, match="step 1 of row 1.*1 steps"):
            padless.pack(LISTS, **arguments)
    assert padless.pack(LISTS, mask=[[0, 1], [1, 0]]).values.tolist() == [2, 3]


def test_targets_of_examples_have_one_length():
    model = step_model(pooled=True, loss="mse")
    assert_refused_before_training(model, lambda: model.fit(LISTS, LABELS, verbose=0), DataError, "row 1.*no steps")
    model.fit(LISTS, [[0.0, 1, 0], [1, 0, 0]], verbose=0)


# ---------------------------------------------------------------------------------------------------- CTC


@pytest.mark.parametrize(
    ("x", "y", "row"),
    [
        ([[1, 2]] * 4 + [[]], [[1]] * 5, 4), ([[1, 2]] * 4 + [[1]], [[1, 2]] * 5, 4), ([[1, 2]], [[1, 1]], 0),
        (np.array([[1, 2], [1, 0]]), np.array([[1, 2], [1, 2]]), 1),
    ],
)  # fmt: skip
def test_ctc_refuses_sequences_without_enough_steps_before_training(x, y, row):
    model = step_model(loss=padless.losses.CTC())
    run = {"batch_size": 1, "shuffle": False, "verbose": 0}
    assert_refused_before_training(model, lambda: model.fit(x, y, **run), DataError, f"row {row} on .*zero_infinity")
    model.compile("sgd", padless.losses.CTC(zero_infinity=True))
    assert np.isfinite(model.fit(x, y, **run).history["loss"]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_ctc_names_the_row_where_the_lengths_are_known_in_the_batch_only():
    layers = padless.layers
    x = padless.Input((None,))
    steps = layers.Conv1D(4, 2, strides=2)(layers.Embedding(9, 4, mask_zero=True)(x))
    model = padless.Model(x, layers.Dense(4)(steps))
    model.compile("sgd", padless.losses.CTC())
    with pytest.raises(DataError, match="row 1 on 1 real steps"):
        model.fit([[1, 2, 3, 4], [1, 2]], [[1, 2], [1, 2]], verbose=0)


def test_impossible_sequences_of_ctc_have_loss_and_gradient_zero():
    logits = torch.randn(2, 2, 3, requires_grad=True)
    labels = [[1], [1, 1]]
    loss = padless.losses.CTC(reduction="none", zero_infinity=True)(labels, logits)
    assert loss[0] > 0 and loss[1] == 0
    loss.sum().backward()
    assert logits.grad[0].any() and not logits.grad[1].any()
    assert padless.losses.CTC(zero_infinity=True).get_config()["zero_infinity"] is True
    reference = torch.nn.functional.ctc_loss(
        logits.detach().log_softmax(-1).movedim(1, 0), torch.tensor([[1, 0], [1, 1]]), (2, 2), (1, 2),
        reduction="none", zero_infinity=True,
    )  # fmt: skip
    torch.testing.assert_close(loss.detach(), reference)
