"""Every metric of Keras by name, arguments and numbers; spans against conlleval; states and user-defined metrics."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import copy
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st

from padless import losses, metrics
from padless.errors import ArgumentError, DataError, ShapeError
from padless.ragged.packed import pack
from padless.saving import serialization as saving

keras = pytest.importorskip("keras")
B, T, D = 4, 6, 3
GAPS = np.array([[1, 0, 1, 1, 0, 1], [0, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
PRED_IDS = np.random.default_rng(2).integers(0, D, (B, T))


def draw(kind, seed=0):
    """Targets and outputs."""
    rng = np.random.default_rng(seed)
    x, ids = rng.normal(size=(B, T, D)), rng.integers(0, D, (B, T))
    chances = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    bits = rng.integers(0, 2, (B, T, D))
    pairs = {
        "numbers": (rng.normal(size=(B, T, D)), x),
        "positive": (rng.exponential(size=(B, T, D)), np.exp(x)),
        "bits": (bits, x),
        "chances": (bits, chances),
        "onehot": (np.eye(D)[ids], chances),
        "mixed": (rng.dirichlet(np.ones(D), (B, T)), chances),
        "ids": (ids, chances),
        "both ids": (ids, PRED_IDS),
        "one": (bits[..., :1], chances[..., :1]),
        "ranked": (ids, np.argsort(x, -1)),
    }
    return tuple(np.asarray(a).astype("int64" if a is ids or a is PRED_IDS else "float32") for a in pairs[kind])


CASES = [
    ("RootMeanSquaredError", {}, "numbers"),
    ("MeanAbsolutePercentageError", {}, "numbers"),
    ("MeanSquaredLogarithmicError", {}, "positive"),
    ("CosineSimilarity", {}, "numbers"),
    ("LogCoshError", {}, "numbers"),
    ("PearsonCorrelation", {}, "numbers"),
    ("ConcordanceCorrelation", {}, "numbers"),
    ("R2Score", {}, "numbers"),
    ("R2Score", {"class_aggregation": None}, "numbers"),
    ("R2Score", {"class_aggregation": "variance_weighted_average", "num_regressors": 2}, "numbers"),
    ("Hinge", {}, "bits"),
    ("SquaredHinge", {}, "bits"),
    ("CategoricalHinge", {}, "onehot"),
    ("KLDivergence", {}, "mixed"),
    ("Poisson", {}, "positive"),
    ("TopKCategoricalAccuracy", {"k": 2}, "onehot"),
    ("SparseTopKCategoricalAccuracy", {"k": 2}, "ids"),
    ("SparseTopKCategoricalAccuracy", {"k": 2, "from_sorted_ids": True}, "ranked"),
    ("TruePositives", {}, "chances"),
    ("FalsePositives", {"thresholds": [0.6, 0.3]}, "chances"),
    ("TrueNegatives", {"thresholds": [0.0, 0.5, 1.0]}, "chances"),
    ("FalseNegatives", {"thresholds": 0.3}, "chances"),
    ("Precision", {}, "chances"),
    ("Precision", {"thresholds": [0.2, 0.4]}, "chances"),
    ("Precision", {"top_k": 2}, "onehot"),
    ("Precision", {"thresholds": 0.3, "top_k": 2, "class_id": 1}, "onehot"),
    ("Recall", {}, "chances"),
    ("Recall", {"class_id": 2, "thresholds": 0.3}, "onehot"),
    ("Recall", {"top_k": 1}, "onehot"),
    ("SensitivityAtSpecificity", {"specificity": 0.4}, "chances"),
    ("SensitivityAtSpecificity", {"specificity": 0.5, "num_thresholds": 1}, "chances"),
    ("SpecificityAtSensitivity", {"sensitivity": 0.4, "class_id": 1}, "chances"),
    ("PrecisionAtRecall", {"recall": 0.4, "num_thresholds": 30}, "chances"),
    ("RecallAtPrecision", {"precision": 0.4}, "chances"),
    *[
        ("AUC", {"curve": curve, "summation_method": method, **more}, "chances")
        for curve in ("ROC", "PR", "PRGAIN")
        for method in ("interpolation", "minoring", "majoring")
        for more in ({}, {"multi_label": True})
    ],
    ("AUC", {"thresholds": [0.7, 0.2, 0.25]}, "chances"),
    ("AUC", {"from_logits": True, "num_thresholds": 20}, "bits"),
    ("AUC", {"multi_label": True, "num_labels": 3, "label_weights": [1.0, 2.0, 0.0]}, "chances"),
    ("AUC", {"label_weights": [1.0, 2.0, 0.0]}, "chances"),
    ("F1Score", {"average": "macro"}, "onehot"),
    ("FBetaScore", {"beta": 2.0}, "onehot"),
    ("FBetaScore", {"beta": 0.5, "average": "weighted", "threshold": 0.3}, "chances"),
    ("FBetaScore", {"beta": 0.5, "average": "micro"}, "onehot"),
    ("IoU", {"num_classes": 3, "target_class_ids": [0, 2]}, "both ids"),
    ("IoU", {"num_classes": 3, "target_class_ids": [0, 1, 2], "ignore_class": 0}, "both ids"),
    ("IoU", {"num_classes": 3, "target_class_ids": [1], "sparse_y_pred": False}, "ids"),
    ("BinaryIoU", {"threshold": 0.3}, "one"),
    ("MeanIoU", {"num_classes": 2}, "both ids"),
    ("OneHotIoU", {"num_classes": 3, "target_class_ids": [2]}, "onehot"),
    ("OneHotMeanIoU", {"num_classes": 3}, "onehot"),
]


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_metric_of_the_real_steps_matches_keras(name, arguments, kind):
    """Keras gets the real rows: among these metrics only means use its mask."""
    y, pred = draw(kind)
    padded = np.where(GAPS.reshape(B, T, *(1,) * (pred.ndim - 2)), pred, 10**6).astype(pred.dtype)
    for weight in (None, np.random.default_rng(1).integers(0, 4, (B, T))):
        theirs, mine = getattr(keras.metrics, name)(**arguments), getattr(metrics, name)(**arguments)
        rows = [torch.from_numpy(np.ascontiguousarray(array[GAPS])) for array in (y, pred)]
        theirs.update_state(*rows, **({} if weight is None else {"sample_weight": torch.from_numpy(weight[GAPS])}))
        for part in (slice(0, 1), slice(1, 4)):
            part_weight = None if weight is None else weight[part].astype("float32")
            mine.update_state(y[part], pack(padded[part], mask=GAPS[part]), part_weight)
        assert mine.name == theirs.name.rstrip("_0123456789") or mine.name == theirs.name
        np.testing.assert_allclose(mine.result().numpy(), theirs.result().detach().numpy(), rtol=2e-5, atol=1e-6)
        mine.reset_state()
        assert not any(variable.any() for variable in mine.variables)
        assert mine.result().isfinite().all()


PUBLIC = [name for name in dir(keras.metrics) if name[0] != "_" and callable(getattr(keras.metrics, name))]


def parameters(function):
    signature = inspect.signature(function).parameters.values()
    return [(p.name, p.default) for p in signature if p.kind is not p.VAR_KEYWORD]


def test_every_metric_of_keras_exists_with_its_arguments():
    for name in PUBLIC:
        mine, theirs = (parameters(getattr(library, name)) for library in (metrics, keras.metrics))
        assert mine[: len(theirs)] == theirs, name
        assert name in metrics.__all__


REQUIRED = {  # arguments without a default
    "IoU": (3, [0]),
    "OneHotIoU": (3, [0]),
    "MeanIoU": (3,),
    "OneHotMeanIoU": (3,),
    "SensitivityAtSpecificity": (0.5,),
    "SpecificityAtSensitivity": (0.5,),
    "PrecisionAtRecall": (0.5,),
    "RecallAtPrecision": (0.5,),
}


def test_configs_match_keras_and_restore_the_metric():
    for name in PUBLIC:
        if name[0].islower() or name in ("Metric", "MeanMetricWrapper"):
            continue
        mine, theirs = (getattr(library, name)(*REQUIRED.get(name, ())) for library in (metrics, keras.metrics))
        config = mine.get_config()
        expected = {key: value for key, value in theirs.get_config().items() if key not in ("dtype", "name")}
        assert {key: config[key] for key in expected} == expected
        restored = metrics.deserialize(metrics.serialize(mine))
        assert type(restored) is type(mine) and restored.get_config() == config
        assert type(saving.deserialize(keras.saving.serialize_keras_object(theirs), "metric")) is type(mine)


def test_names_of_keras_mean_the_same_metrics():
    for name, cls in keras.src.metrics.ALL_OBJECTS_DICT.items():
        if cls.__name__ not in REQUIRED and cls.__name__ not in ("Metric", "MeanMetricWrapper"):
            assert type(metrics.get(name)).__name__ == cls.__name__, name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: metrics.Precision(1.5), "`thresholds` must be between 0 and 1; got 1.5"),
        (lambda: metrics.AUC(1), "`num_thresholds` must be above 1; got 1"),
        (lambda: metrics.AUC(curve="RCO"), "Unknown curve 'RCO'"),
        (lambda: metrics.AUC(summation_method="mean"), "Unknown summation_method 'mean'"),
        (lambda: metrics.AUC(thresholds=[2.0]), "got 2.0"),
        (lambda: metrics.AUC(num_labels=2), "multi_label=True"),
        (lambda: metrics.PrecisionAtRecall(1.2), "`recall` must be between 0 and 1; got 1.2"),
        (lambda: metrics.RecallAtPrecision(0.5, 0), "`num_thresholds` must be above 0; got 0"),
        (lambda: metrics.FBetaScore(beta=0.0), "`beta` must be above 0; got 0.0"),
        (lambda: metrics.F1Score(threshold=2.0), "`threshold`.*got 2.0"),
        (lambda: metrics.IoU(2, [2]), "from 0 to 1; got 2"),
        (lambda: metrics.IoU(2, [1], axis=1), "axis=1"),
        (lambda: metrics.R2Score("mean"), "Unknown class_aggregation 'mean'"),
        (lambda: metrics.R2Score(num_regressors=-1), "got -1"),
        (lambda: metrics.SpanF1(["O", "PER"]), "got 'PER'"),
        (lambda: metrics.SpanF1(["O"]), "at least one type"),
        (lambda: metrics.SpanF1(["O", "B-A"], "mean"), "Unknown average 'mean'"),
        (lambda: metrics.Mean(dtype="float33"), "float33"),
    ],
)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_outputs_that_do_not_fit_are_refused_before_the_state_changes():
    y, pred = draw("chances")
    for metric, targets, outputs, error, message in [
        (metrics.Precision(), y[..., :2], pred, ShapeError, "class ids or one-hot"),
        (metrics.Recall(class_id=3), y, pred, ShapeError, "`class_id` is 3, but the outputs have 3"),
        (metrics.Precision(), np.full((B, T), 7), pred, DataError, "holds 7"),
        (metrics.AUC(multi_label=True, num_labels=2), y, pred, ShapeError, "counts 2 labels, but the outputs have 3"),
        (metrics.AUC(label_weights=[1.0]), y, pred, ShapeError, "1 entries for 3 labels"),
        (metrics.SpanF1(["O", "B-A"]), np.zeros((B, T)), pred, ShapeError, "has 2 labels"),
        (metrics.SpanF1(["O", "B-A"]), np.full((B, T), 2), np.zeros((B, T)), DataError, "holds 2"),
        (metrics.MeanIoU(3), np.zeros((B, T, 2)), np.zeros((B, T)), ShapeError, "do not fit"),
    ]:
        with pytest.raises(error, match=message):
            metric.update_state(targets, pack(outputs, mask=GAPS))
        assert not any(variable.any() for variable in metric.variables)
    metric = metrics.R2Score()
    metric.update_state(y, pred)
    with pytest.raises(ShapeError, match="size 3, and now of size 2"):
        metric.update_state(y[..., :2], pred[..., :2])


def test_results_of_constant_and_missing_numbers():
    y, pred = draw("numbers")
    assert metrics.R2Score()(np.ones((B, 1)), np.ones((B, 1))).item() == 0
    assert metrics.PearsonCorrelation()(np.ones((B, D)), pred[0, :4]).item() == 0
    assert metrics.TruePositives()([[1.0], [1.0]], [[np.nan], [0.9]]).item() == 1
    with pytest.warns(UserWarning, match="more than 31 samples; got 3"):
        metrics.R2Score(num_regressors=30)(y[0, :1], pred[0, :1])
    assert metrics.Precision(top_k=5)(y > 0, pred).item() == pytest.approx((y > 0).mean())


# ------------------------------------------------------------------------------------------------ docs/differences.md


def with_mask(pred):
    """Return outputs with a mask of Keras."""
    grid = torch.from_numpy(pred.copy())
    keras.src.backend.set_keras_mask(grid, torch.from_numpy(GAPS.copy()))
    return grid


def test_metrics_that_skip_the_mask():
    y, pred = draw("chances")
    for name in ("Recall", "AUC", "TruePositives", "RootMeanSquaredError"):
        mine, theirs, whole = getattr(metrics, name)(), getattr(keras.metrics, name)(), getattr(metrics, name)()
        theirs.update_state(torch.from_numpy(y), with_mask(pred))
        assert float(theirs.result()) == pytest.approx(whole(y, pred).item(), rel=1e-5)
        assert mine(y, pack(pred, mask=GAPS)).item() != pytest.approx(float(theirs.result()), rel=1e-3)


def test_constant_numbers():
    y = torch.ones(3, 2)
    for name in ("PearsonCorrelation", "R2Score"):
        assert getattr(metrics, name)()(y, y).item() == 0
        assert np.isnan(float(getattr(keras.metrics, name)()(y, y)))


def test_weights_of_iou():
    ids, weight = torch.tensor([0, 1, 1, 0]), torch.tensor([0.5, 1.5, 0.5, 2.5])
    with pytest.warns(UserWarning, match="integer weights"):
        theirs = float(keras.metrics.IoU(2, [1])(ids, torch.tensor([0, 1, 0, 1]), weight))
    assert theirs == pytest.approx(1 / 3)
    assert metrics.IoU(2, [1])(ids, torch.tensor([0, 1, 0, 1]), weight).item() == pytest.approx(1.5 / 4.5)
    assert metrics.IoU(2, [0])(ids, torch.tensor([0, 1, 0, 1]), weight).item() == pytest.approx(0.5 / 3.5)
    with pytest.warns(UserWarning, match="integer weights"):
        assert float(keras.metrics.IoU(2, [0])(ids, torch.tensor([0, 1, 0, 1]), weight)) == 0


def test_top_k_of_fewer_classes():
    ids, pred = draw("ids")
    assert metrics.SparseTopKCategoricalAccuracy()(ids, pred).item() == 1
    with pytest.raises(RuntimeError, match="out of range"):
        keras.metrics.SparseTopKCategoricalAccuracy()(torch.from_numpy(ids), torch.from_numpy(pred))


def test_perplexity_of_a_corpus():
    ids, pred = draw("ids")
    expected = np.exp(-np.log(np.take_along_axis(pred, ids[..., None], -1)[..., 0])[GAPS].mean())
    metric = metrics.Perplexity()
    for row in range(B):
        metric.update_state(ids[row : row + 1], pack(pred[row : row + 1], mask=GAPS[row : row + 1]))
    assert metric.result().item() == pytest.approx(expected, rel=1e-6)
    logits, ignoring = np.log(pred) + 3, metrics.Perplexity(from_logits=True, ignore_class=0)
    kept = GAPS & (ids != 0)
    assert ignoring(ids, pack(logits, mask=GAPS)).item() == pytest.approx(
        np.exp(-np.log(np.take_along_axis(pred, ids[..., None], -1)[..., 0])[kept].mean()), rel=1e-5
    )
    theirs = torchmetrics.text.Perplexity()
    assert metrics.get(theirs)(ids, pack(logits, mask=GAPS)).item() == pytest.approx(expected, rel=1e-5)


# -------------------------------------------------------------------------------------------- against torchmetrics


def test_results_match_torchmetrics():
    bits, pred = draw("chances")
    ids, scores = draw("ids")
    p, t = torch.from_numpy(pred[GAPS]), torch.from_numpy(bits[GAPS]).long()
    own, rows = torch.from_numpy(ids[GAPS]), torch.from_numpy(scores[GAPS])
    F = torchmetrics.functional
    flat = (p.flatten(), t.flatten())
    for metric, y, outputs, expected in [
        (metrics.Precision(), bits, pred, F.precision(*flat, task="binary")),
        (metrics.Recall(0.3), bits, pred, F.recall(*flat, task="binary", threshold=0.3)),
        (metrics.F1Score("macro"), ids, scores, F.f1_score(rows, own, task="multiclass", num_classes=D, average="macro")),
        (metrics.FBetaScore("micro", 2.0), ids, scores, F.fbeta_score(rows, own, "multiclass", 2.0, num_classes=D)),
        (metrics.OneHotMeanIoU(D), np.eye(D)[ids], scores, F.jaccard_index(rows, own, task="multiclass", num_classes=D)),
        (metrics.R2Score(), bits, pred, F.r2_score(p, t.float())),
    ]:
        assert metric(y, pack(outputs, mask=GAPS)).item() == pytest.approx(expected.item(), rel=1e-5), metric
    exact = F.auroc(*flat, task="binary").item()
    assert metrics.AUC(20000)(bits, pack(pred, mask=GAPS)).item() == pytest.approx(exact, abs=1e-4)


def test_collections_and_aggregations_of_torchmetrics():
    ids, scores = draw("ids")
    packed, rows = pack(scores, mask=GAPS), torch.from_numpy(scores[GAPS])
    parts = {name: getattr(torchmetrics, name)(task="multiclass", num_classes=D) for name in ("Accuracy", "Recall")}
    metric = metrics.get(torchmetrics.MetricCollection(parts))
    found = metric(ids, packed)
    for name, part in parts.items():
        torch.testing.assert_close(found[name], part.clone()(rows, torch.from_numpy(ids[GAPS])))
    metric.reset_state()
    assert not any(metric.result().values())
    assert metrics.get(torchmetrics.MeanMetric())(ids, packed).item() == pytest.approx(scores[GAPS].mean(), rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- spans

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def find_spans(tags):
    """Return the spans as conlleval counts them, tag by tag."""
    spans, start, kind = set(), None, None
    for step, tag in enumerate([*tags, "O"]):
        prefix, _, tag_kind = tag.partition("-")
        if start is not None and (prefix != "I" or tag_kind != kind):
            spans.add((start, step - 1, kind))
            start = None
        if tag != "O" and start is None:
            start, kind = step, tag_kind
    return spans


rows_of_tags = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=6, max_size=6), min_size=1, max_size=4
)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(rows=rows_of_tags, cut=st.integers(0, 4), scored=st.booleans())
def test_spans_match_conlleval(rows, cut, scored):
    data = np.array(rows, dtype=int)
    true, pred, mask = data[..., 0], data[..., 1], data[..., 2].astype(bool)
    outputs = np.eye(5)[pred] if scored else pred
    metric, each = metrics.SpanF1(TAGS), metrics.SpanF1(TAGS, average=None)
    for part in (slice(0, cut), slice(cut, None)):
        for one in (metric, each):
            one.update_state(true[part], pack(outputs[part], mask=mask[part]))
    sides = [
        {
            (row, *span)
            for row, (tags, m) in enumerate(zip(side, mask, strict=True))
            for span in find_spans([TAGS[i] for i in tags[m]])
        }
        for side in (true, pred)
    ]
    total = sum(map(len, sides))
    assert metric.result().item() == pytest.approx(2 * len(sides[0] & sides[1]) / total if total else 0.0)
    for number, kind in enumerate(each.types):
        theirs, ours = ({span for span in side if span[-1] == kind} for side in sides)
        size = len(theirs) + len(ours)
        assert each.result()[number].item() == pytest.approx(2 * len(theirs & ours) / size if size else 0.0)


def test_spans_with_weights_and_the_example_of_seqeval():
    labels = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER"]
    true = [[0, 0, 0, 1, 2, 2, 0], [3, 4, 0]]
    pred = [[0, 0, 1, 2, 2, 2, 0], [3, 4, 0]]
    assert metrics.SpanF1(labels)(true, pred).item() == 0.5  # as its README has it
    packed = pack(np.array([pred[0], [*pred[1], 0, 0, 0, 0]]), lengths=[7, 3])
    assert metrics.SpanF1(labels)(true, packed, np.array([1.0, 3.0])).item() == pytest.approx(6 / 8)
    assert metrics.SpanF1(labels)(np.array([true[0]]), np.array([true[0]])).item() == 1


# ------------------------------------------------------------------------------------------- state and user-defined metrics


class Above(metrics.Metric):
    """A metric in the style of Keras: the share of outputs above a limit."""

    def __init__(self, limit=0.5, name="above", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.limit = limit
        self.count = self.add_weight(shape=(), initializer="zeros", name="count")
        self.seen = self.add_variable((), "zeros", name="seen")
        self.inner = metrics.Mean()

    def update_state(self, y_true, y_pred, sample_weight=None):
        assert y_pred.mask.shape == (B, T)
        self.count.assign(self.count + (y_pred.values > self.limit).sum())
        self.seen.assign_add(y_pred.mask.sum())
        self.inner.update_state(y_pred)

    def result(self):
        return self.count / self.seen

    def get_config(self):
        return {**super().get_config(), "limit": self.limit}


def test_a_user_defined_metric():
    pred = draw("one")[1]
    metric = Above(0.3)
    assert metric(None, pack(pred, mask=GAPS)).item() == pytest.approx((pred[GAPS] > 0.3).mean())
    assert [v.name for v in metric.variables] == ["count", "seen", "total", "count"]
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        other.update_state(None, pack(pred, mask=GAPS))
        assert float(other.seen) == 2 * float(metric.seen) and other.variables[1].name == "seen"
    metric.reset_state()
    assert not any(metric.variables)
    assert Above.from_config(metric.get_config()).limit == 0.3


def test_variables_take_values_of_their_shape_only():
    class Plain(metrics.Metric):
        pass

    variable = Plain().add_variable((2,), "ones", dtype="int32", name="n")
    assert variable.assign([3, 4]).tolist() == [3, 4] and variable.dtype == torch.int32
    assert variable.assign_sub([1.0, 1.0]).tolist() == [2, 3] and type(variable * 2) is torch.Tensor
    value = torch.ones(2, dtype=torch.int32)
    variable.assign(value)
    value += 1
    assert variable.tolist() == [1, 1] and "n" in repr(variable) and not variable.requires_grad
    with pytest.raises(ShapeError, match=r"'n' of a metric has shape \(2,\); got a value of shape \(3,\)"):
        variable.assign_add([1, 2, 3])
    with pytest.raises(ArgumentError, match="aggregation='mean'"):
        Plain().add_variable((), aggregation="mean")

    class Late(metrics.Metric):
        def __init__(self):
            self.add_weight()

    with pytest.raises(ArgumentError, match=r"super\(\).__init__\(\)"):
        Late()


def test_a_sum_with_weights():
    values = np.arange(float(B * T)).reshape(B, T)
    total = metrics.Sum()
    total.update_state(pack(values, mask=GAPS), np.array([1.0, 2.0, 0.0, 5.0]))
    assert total.result().item() == values[0][GAPS[0]].sum() + 2 * values[1][GAPS[1]].sum()


def test_a_loss_name_is_a_metric():
    y, pred = draw("numbers")
    assert metrics.get("huber")(y, pack(pred, mask=GAPS)).item() == pytest.approx(
        losses.Huber()(y, pack(pred, mask=GAPS)).item(), rel=1e-6
    )


@pytest.mark.slow
def test_importing_padless_does_not_import_torchmetrics():
    code = "import sys, padless; padless.metrics.AUC()([[1]], [[0.7]]); sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.bfloat16])
def test_dtype_of_the_outputs_does_not_change_a_metric(dtype):
    """Whole numbers give the same result in each dtype: neither weights nor thresholds are cut to integers."""
    weight = np.random.default_rng(3).random((B, T)).astype("float32")
    for name, arguments, kind in CASES:
        y, pred = draw(kind)
        numbers = torch.from_numpy(pred if kind in ("both ids", "ranked") else (pred > np.median(pred)).astype("float32"))
        if dtype == torch.bool and kind in ("both ids", "ranked"):
            continue  # a boolean is not a class id
        results = []
        for outputs in (numbers.float() if kind not in ("both ids", "ranked") else numbers, numbers.to(dtype)):
            metric = getattr(metrics, name)(**arguments)
            metric.update_state(y, pack(outputs, mask=GAPS), weight)
            results.append(metric.result())
        torch.testing.assert_close(
            *results, rtol=1e-5, atol=1e-6, equal_nan=True, check_dtype=False, msg=f"{name} {arguments}"
        )


def test_weights_of_integers_and_booleans_are_fractions():
    assert metrics.Mean()([1, 0, 1], [0.5, 0.5, 1.0]).item() == 0.75
    assert metrics.Sum()([1, 0, 3], [0.5, 0.5, 0.25]).item() == 1.25
    equal = metrics.MeanMetricWrapper(lambda y_true, y_pred: y_true == y_pred)
    assert equal([[1], [0]], [[1], [1]], [0.75, 0.25]).item() == 0.75
    spans = metrics.SpanF1(["O", "B-a"])
    assert spans([[1, 1, 0]], [[1, 0, 0]], [[0.5, 0.25, 1.0]]).item() == pytest.approx(2 * 0.5 / (0.5 + 0.75))
    assert metrics.AUC()([0, 1, 1], [0, 1, 1]).item() == pytest.approx(1.0)


VECTOR_METRICS = [
    ("CategoricalAccuracy", {}),
    ("CategoricalCrossentropy", {}),
    ("CategoricalHinge", {}),
    ("KLDivergence", {}),
    ("CosineSimilarity", {}),
    ("PearsonCorrelation", {}),
    ("ConcordanceCorrelation", {}),
    ("Precision", {"top_k": 2}),
    ("Recall", {"top_k": 3}),
]


def test_one_example_without_a_batch_axis_matches_keras():
    """A plain output `(D,)` is one vector for metrics and losses that combine features, as in Keras."""
    y, pred = np.array([0.0, 1.0, 0.0, 0.0], "float32"), np.array([0.2, 0.3, 0.15, 0.35], "float32")
    for name, arguments in VECTOR_METRICS:
        mine, theirs = (getattr(library, name)(**arguments)(y, pred) for library in (metrics, keras.metrics))
        np.testing.assert_allclose(float(mine), float(theirs), rtol=1e-5, err_msg=name)
    for name in (
        "CategoricalCrossentropy",
        "CategoricalFocalCrossentropy",
        "CategoricalHinge",
        "KLDivergence",
        "CosineSimilarity",
    ):
        mine, theirs = (getattr(library, name)()(y, pred) for library in (losses, keras.losses))
        np.testing.assert_allclose(float(mine), float(theirs), rtol=1e-5, err_msg=name)
