"""Metrics: all real steps and no others, and the same result for any split."""

import os

os.environ["KERAS_BACKEND"] = "torch"

from itertools import product

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st

from padless import losses, metrics
from padless.errors import ArgumentError, DataError, MaskLost, ShapeError
from padless.metrics import F1Score, Mean, MeanMetricWrapper, TorchMetric, get
from padless.ragged.packed import pack
from padless.registry import register
from padless.saving import serialization as saving

keras = pytest.importorskip("keras")
B, T, C = 4, 5, 3
MASKS = {
    "full": np.ones((B, T), bool),
    "left": np.arange(T) >= np.array([[0], [3], [2], [4]]),
    "gaps": np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]], bool),
    "empty rows": np.array([[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0]], bool),
    "nothing": np.zeros((B, T), bool),
}
GAPS = MASKS["gaps"]
CASES = [
    ("Accuracy", {}, "equal"),
    ("BinaryAccuracy", {"threshold": 0.4}, "bits"),
    ("CategoricalAccuracy", {}, "onehot"),
    ("SparseCategoricalAccuracy", {}, "ids"),
    ("MeanSquaredError", {}, "onehot"),
    ("MeanAbsoluteError", {}, "onehot"),
    ("BinaryCrossentropy", {"label_smoothing": 0.1}, "bits"),
    ("CategoricalCrossentropy", {}, "onehot"),
    ("SparseCategoricalCrossentropy", {}, "ids"),
    ("SparseCategoricalCrossentropy", {"ignore_class": 1, "from_logits": True}, "ids"),
]


def data(kind, shape=(B, T), seed=0):
    rng = np.random.default_rng(seed)
    pred = rng.random((*shape, C)).astype("float32")
    ids = rng.integers(0, C, shape)
    if kind == "equal":
        return rng.integers(0, 2, (*shape, 1)), rng.integers(0, 2, (*shape, 1)).astype("float32")
    if kind == "bits":
        return rng.integers(0, 2, (*shape, C)).astype("float32"), pred
    return (np.eye(C, dtype="float32")[ids], pred) if kind == "onehot" else (ids, pred)


# ------------------------------------------------------------------------------------------------------ against Keras


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_metric_of_one_batch_matches_keras(name, arguments, kind):
    y, pred = data(kind)
    for mask, weight in product(MASKS.values(), (None, np.random.default_rng(1).random((B, T)).astype("float32"))):
        grid = torch.from_numpy(pred.copy())
        keras.src.backend.set_keras_mask(grid, torch.from_numpy(mask))
        theirs, ours = getattr(keras.metrics, name)(**arguments), getattr(metrics, name)(**arguments)
        theirs.update_state(torch.from_numpy(y).float(), grid, None if weight is None else torch.from_numpy(weight.copy()))
        ours.update_state(y, pack(pred, mask=mask), weight)
        assert ours.name == theirs.name
        assert ours.result().item() == pytest.approx(float(theirs.result()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("average", [None, "micro", "macro", "weighted"])
def test_f1_matches_keras(average):
    y, pred = data("onehot")
    y[..., 2], pred[0, 2] = 0, 0  # a class without targets, and a row of zeros, which predicts nothing
    rows = GAPS.nonzero()[0]
    for threshold, weight in product((None, 0.5), (None, np.random.default_rng(1).random(B).astype("float32"))):
        theirs, ours = keras.metrics.F1Score(average, threshold), F1Score(average, threshold)
        theirs.update_state(y[GAPS], pred[GAPS], None if weight is None else weight[rows])
        ours.update_state(y, pack(pred, mask=GAPS), weight)
        np.testing.assert_allclose(ours.result().numpy(), theirs.result().detach().numpy(), rtol=1e-5, atol=1e-6)


def test_f1_takes_class_ids():
    ids, pred = data("ids")
    packed = pack(pred, mask=GAPS)
    for y in (ids, ids[..., None], ids.astype("float32"), pack(ids, mask=GAPS)):
        assert F1Score("macro")(y, packed) == F1Score("macro")(np.eye(C)[ids], packed)
    with pytest.raises(DataError, match="holds [345]"):
        F1Score()(ids + 3, packed)
    with pytest.raises(ShapeError, match="class ids or one-hot"):
        F1Score()(np.zeros((B, T, 2)), packed)


# -------------------------------------------------------------------------------------------------------- properties


masks = st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=1, max_size=6).map(np.array)


def every_metric(case):
    name, arguments, kind = case
    return (F1Score("macro"), "onehot") if name == "F1Score" else (getattr(metrics, name)(**arguments), kind)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    mask=masks,
    cut=st.integers(0, 6),
    trim=st.booleans(),
    case=st.sampled_from([*CASES, ("F1Score", {}, "onehot")]),
    weighted=st.booleans(),
)
def test_result_does_not_depend_on_the_split(mask, cut, trim, case, weighted):
    whole, kind = every_metric(case)
    parts, _ = every_metric(case)
    y, pred = data(kind, shape=mask.shape)
    weight = np.random.default_rng(1).random(mask.shape) if weighted else None
    whole.update_state(y, pack(pred, mask=mask), weight)
    for rows in (slice(0, cut), slice(cut, None)):
        width = T if not trim or not mask[rows].any() else int(mask[rows].any(0).nonzero()[0].max()) + 1
        part = (rows, slice(0, width))
        parts.update_state(y[part], pack(pred[part], mask=mask[part]), None if weight is None else weight[part])
    assert parts.result().item() == pytest.approx(whole.result().item(), rel=1e-6)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(mask=masks, poison=st.sampled_from([np.nan, np.inf, -7.0]), case=st.sampled_from([*CASES, ("F1Score", {}, "onehot")]))
def test_content_of_masked_steps_changes_no_bit(mask, poison, case):
    clean, kind = every_metric(case)
    dirty, _ = every_metric(case)
    y, pred = data(kind, shape=mask.shape)
    weight = np.random.default_rng(1).random(mask.shape)

    def bad(array):
        return np.where(mask.reshape(*mask.shape, *(1,) * (array.ndim - 2)), array, poison)

    clean.update_state(y.astype(float), pack(pred, mask=mask), weight)
    dirty.update_state(bad(y), pack(bad(pred).astype("float32"), mask=mask), bad(weight))
    assert clean.result().numpy().tobytes() == dirty.result().numpy().tobytes()


def test_result_without_real_steps_is_zero():
    for name in ("accuracy", "mse", "f1_score", "mean"):
        metric = get(name)
        assert not metric.result().any()
        if name != "mean":
            metric.update_state(np.zeros((B, T, C)), pack(torch.ones(B, T, C), mask=MASKS["nothing"]))
        assert not metric.result().any()


def test_reset_state_removes_all_batches():
    y, pred = data("onehot")
    for metric in (get("mse"), F1Score(), TorchMetric(torchmetrics.MeanSquaredError(num_outputs=C))):
        first = metric(y, pred)
        metric.update_state(y, pred * 0.3)
        metric.reset_state()
        torch.testing.assert_close(metric(y, pred), first)


def test_sums_have_double_precision():
    mean = Mean()
    mean.update_state(torch.full((1,), 2.0**24))
    for _ in range(3):
        mean.update_state(torch.ones(1))
    assert mean.result().item() * 4 == 2**24 + 3
    wide = MeanMetricWrapper(lambda y_true, y_pred: y_pred)
    wide.update_state(torch.zeros(4, 1), torch.tensor([[2.0**24], [1.0], [1.0], [1.0]]))
    assert wide.result().item() * 4 == 2**24 + 3
    assert Mean(dtype="float32").result().dtype == torch.float32


def test_a_mean_of_packed_values_with_weights():
    packed = pack(np.arange(20.0).reshape(B, T), mask=GAPS)
    assert Mean()(packed).item() == np.arange(20.0).reshape(B, T)[GAPS].mean()
    weight = np.array([1.0, 2.0, 0.0, 0.0])
    expected = np.average(np.arange(20.0).reshape(B, T)[GAPS], weights=np.broadcast_to(weight[:, None], (B, T))[GAPS])
    assert Mean()(packed, weight).item() == pytest.approx(expected)
    assert Mean()(3.0).item() == 3


def test_results_have_no_gradient():
    metric = get("mse")
    metric.update_state(np.zeros((B, C)), torch.ones(B, C, requires_grad=True))
    assert not metric.result().requires_grad


# -------------------------------------------------------------------------------------------------------- torchmetrics


@pytest.mark.filterwarnings("ignore:No (positive|negative) samples")
@pytest.mark.parametrize("mask", ["gaps", "empty rows"])
def test_torchmetrics_gets_the_real_steps_only(mask):
    mask = MASKS[mask]
    ids, pred = data("ids")
    bits, _ = data("bits")
    ids[~mask], pred[~mask], bits[~mask] = 2**20, np.nan, np.nan
    rows, labels, ones = (torch.from_numpy(a[mask]) for a in (pred, ids, bits[..., :1]))
    cases = [
        (torchmetrics.F1Score(task="multiclass", num_classes=C, average="macro"), ids, pred, (rows, labels)),
        (torchmetrics.AUROC(task="multiclass", num_classes=C), ids[..., None], pred, (rows, labels)),
        (torchmetrics.AUROC(task="binary"), bits[..., 0], pred[..., :1], (rows[:, 0], ones[:, 0].long())),
        (torchmetrics.Accuracy(task="multilabel", num_labels=C), bits, pred, (rows, torch.from_numpy(bits[mask]).long())),
        (torchmetrics.R2Score(), bits[..., :1].astype(float), pred[..., 0], (rows[:, 0], ones[:, 0])),
        (torchmetrics.MeanAbsoluteError(), bits, pred, (rows, torch.from_numpy(bits[mask]))),
    ]
    for metric, y, outputs, (preds, target) in cases:
        expected = metric.clone()(preds, target)
        wrapped = get(metric)
        for part in (slice(0, 1), slice(1, None)):
            wrapped.update_state(y[part], pack(outputs[part], mask=mask[part]))
        torch.testing.assert_close(wrapped.result(), expected)


def test_torchmetrics_of_plain_outputs_its_name_and_its_errors():
    ids, pred = data("ids")
    metric = get(torchmetrics.Accuracy(task="multiclass", num_classes=C, average="micro"))
    assert metric.name == "multiclass_accuracy" and metric.result().item() == 0
    assert metric(ids, pred).item() == pytest.approx((pred.argmax(-1) == ids).mean())
    with pytest.raises(ArgumentError, match="weighted_metrics"):
        metric.update_state(ids, pred, np.ones(B))
    with pytest.raises(ArgumentError, match="cannot be saved"):
        saving.serialize(metric)


# -------------------------------------------------------------------------------------------------- names and functions


@pytest.mark.parametrize(
    ("y", "pred", "cls"),
    [
        ((8, 1), (8, 1), "BinaryAccuracy"),
        ((8, 5), (8, 5, 1), "BinaryAccuracy"),
        ((8,), (8, 4), "SparseCategoricalAccuracy"),
        ((8, 5), (8, 5, 4), "SparseCategoricalAccuracy"),
        ((8, 5, 1), (8, 5, 4), "SparseCategoricalAccuracy"),
        ((8, 5, 4), (8, 5, 4), "CategoricalAccuracy"),
        ((None, 5, 4), (None, 5, 4), "CategoricalAccuracy"),
        (np.zeros((2, 3)), pack(np.zeros((2, 3, 4))), "SparseCategoricalAccuracy"),
        (np.zeros((2, 3)), pack(np.zeros((2, 3))), "BinaryAccuracy"),
        ([[1, 0], [2]], pack(np.zeros((2, 2, 4))), "SparseCategoricalAccuracy"),
        ([[], np.eye(4)[:2]], pack(np.zeros((2, 2, 4))), "CategoricalAccuracy"),
        (None, None, "Accuracy"),
    ],
)
def test_accuracy_is_the_class_that_fits_the_shapes(y, pred, cls):
    for name in ("accuracy", "acc"):
        metric = get(name, y, pred)
        assert type(metric).__name__ == cls and metric.name == name


def error(y_true, y_pred):
    return (y_true - y_pred).abs()


@register("metric")
def far(y_true, y_pred, limit=0.5):
    return ((y_true - y_pred).abs() > limit).float()


def test_identifiers_of_get():
    y, pred = data("onehot")
    packed, expected = pack(pred, mask=GAPS), np.abs(y - pred)[GAPS].mean()
    for way in (
        "mae",
        "MAE",
        "mean_absolute_error",
        "MeanAbsoluteError",
        error,
        losses.mean_absolute_error,
        losses.MeanAbsoluteError(),
        metrics.MeanAbsoluteError,
        metrics.MeanAbsoluteError(),
        {"class_name": "MeanAbsoluteError", "config": {"name": "x"}},
    ):
        metric = get(way)
        assert metric(y, packed).item() == pytest.approx(expected, rel=1e-6)
        assert metric.name == (
            way
            if isinstance(way, str)
            else "error"
            if way is error
            else "x"
            if isinstance(way, dict)
            else "mean_absolute_error"
        )
    assert get("far").name == "far"
    with pytest.raises(ArgumentError, match="Did you mean 'accuracy'|Unknown metric 'acuracy'"):
        get("acuracy")
    with pytest.raises(ArgumentError, match="5 is not a metric"):
        get(5)
    with pytest.raises(ArgumentError, match="is not a metric"):
        get(torch.nn.MSELoss())


def test_a_function_with_a_mask_is_a_mean_over_sequences():
    def per_sequence(y_true, y_pred, mask):
        return ((y_true - y_pred).abs().mean(-1) * mask).sum(1)

    y, pred = data("onehot")
    expected = np.abs(y - pred).mean(-1)
    assert get(per_sequence)(y, pack(pred, mask=GAPS)).item() == pytest.approx((expected * GAPS).sum() / B, rel=1e-6)


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_a_metric_is_restored_from_its_config(name, arguments, kind):
    metric = getattr(metrics, name)(**arguments, name="mine")
    again = saving.deserialize(saving.serialize(metric, "metric"), "metric")
    assert type(again) is type(metric) and again.get_config() == metric.get_config()
    theirs = getattr(keras.metrics, name)().get_config()
    assert set(theirs) - {"dtype", "fn"} <= set(metric.get_config())


def test_functions_have_configs_by_name():
    metric = MeanMetricWrapper(far, limit=0.1)
    again = saving.deserialize(saving.serialize(metric, "metric"), "metric")
    y, pred = data("onehot")
    assert again(y, pred) == metric(y, pred) != get(far)(y, pred)
    f1 = F1Score("macro", 0.5)
    assert saving.deserialize(saving.serialize(f1, "metric"), "metric").get_config() == f1.get_config()
    loss = MeanMetricWrapper(losses.BinaryCrossentropy(from_logits=True))
    assert saving.deserialize(saving.serialize(loss, "metric"), "metric").step_function.from_logits is True


def test_metric_functions_refuse_packed_outputs_and_other_shapes():
    ids, pred = data("ids")
    with pytest.raises(MaskLost, match="as an object"):
        metrics.sparse_categorical_accuracy(ids, pack(pred, mask=GAPS))
    with pytest.raises(ShapeError, match="use sparse_categorical_accuracy"):
        metrics.categorical_accuracy(ids, pred)
    with pytest.raises(ShapeError, match="do not fit"):
        metrics.sparse_categorical_accuracy(np.eye(C)[ids], pred)
    with pytest.raises(ArgumentError, match="Unknown average 'mcro'"):
        F1Score("mcro")
