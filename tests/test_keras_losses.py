"""Every loss of Keras by name, arguments and numbers; CTC, Dice, Tversky and Circle on sequences."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import inspect
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padless import losses
from padless.errors import ArgumentError, DataError, ShapeError
from padless.ragged.packed import Packed, pack
from padless.registry import entries
from padless.saving import serialization as saving

keras = pytest.importorskip("keras")
B, T, D = 4, 5, 3
GAPS = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
REDUCTIONS = ["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", None]


def draw(kind, shape=(B, T), seed=0):
    """Targets and outputs."""
    rng = np.random.default_rng(seed)
    x, ids = rng.normal(size=(*shape, D)), rng.integers(0, D, shape)
    chances = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    bits = rng.integers(0, 2, (*shape, D))
    pairs = {
        "numbers": (rng.normal(size=(*shape, D)), x),
        "positive": (rng.exponential(size=(*shape, D)), np.exp(x)),
        "bits": (bits, x),
        "chances": (bits, chances),
        "signs": (2 * bits - 1, x),
        "onehot": (np.eye(D)[ids], x),
        "onehot chances": (np.eye(D)[ids], chances),
        "mixed": (rng.dirichlet(np.ones(D), shape), chances),
        "ids": (ids, chances),
    }
    return tuple(a.astype("int64" if kind == "ids" and a is ids else "float32") for a in pairs[kind])


CASES = [
    ("MeanAbsolutePercentageError", {}, "numbers"),
    ("MeanSquaredLogarithmicError", {}, "numbers"),
    ("CosineSimilarity", {}, "numbers"),
    ("Huber", {}, "numbers"),
    ("Huber", {"delta": 0.3}, "numbers"),
    ("LogCosh", {}, "numbers"),
    ("Hinge", {}, "bits"),
    ("Hinge", {}, "signs"),
    ("SquaredHinge", {}, "signs"),
    ("CategoricalHinge", {}, "onehot"),
    ("KLDivergence", {}, "mixed"),
    ("KLDivergence", {}, "onehot chances"),
    ("Poisson", {}, "positive"),
    ("BinaryFocalCrossentropy", {}, "chances"),
    (
        "BinaryFocalCrossentropy",
        {"apply_class_balancing": True, "alpha": 0.3, "gamma": 1.5, "from_logits": True, "label_smoothing": 0.1},
        "bits",
    ),
    ("CategoricalFocalCrossentropy", {}, "onehot chances"),
    ("CategoricalFocalCrossentropy", {"alpha": [0.1, 0.2, 0.4]}, "onehot chances"),
    ("CategoricalFocalCrossentropy", {"alpha": 0.5, "gamma": 1.0, "from_logits": True, "label_smoothing": 0.1}, "onehot"),
    ("CategoricalGeneralizedCrossEntropy", {"q": 0.7}, "ids"),
    ("Dice", {"axis": -1}, "chances"),
    ("Tversky", {"alpha": 0.3, "beta": 0.8, "axis": -1}, "chances"),
]


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_loss_of_one_batch_matches_keras(name, arguments, kind):
    """Value and gradient for each reduction, with gaps, without padding and without a mask, with and without weights."""
    y, pred = draw(kind)
    weights = (None, np.random.default_rng(1).uniform(0, 2, (B, T)).astype("float32"))
    for mask, weight, reduction in product((GAPS, np.ones((B, T), bool), None), weights, REDUCTIONS):
        theirs, leaf = (torch.tensor(pred, requires_grad=True) for _ in range(2))
        view = theirs * 1.0
        if mask is not None:
            keras.src.backend.set_keras_mask(view, torch.from_numpy(mask.copy()))
        expected = getattr(keras.losses, name)(**arguments, reduction=reduction)(
            torch.from_numpy(y), view, None if weight is None else torch.from_numpy(weight.copy())
        )
        outputs = leaf if mask is None else pack(leaf, mask=mask)
        got = getattr(losses, name)(**arguments, reduction=reduction)(y, outputs, weight)
        got = got.unpack() if isinstance(got, Packed) else got
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=1e-6)
        got.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(leaf.grad, torch.nan_to_num(theirs.grad), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "arguments", "kind"), CASES)
def test_loss_functions_match_keras(name, arguments, kind):
    y, pred = draw(kind)
    function = getattr(losses, name).function.__name__
    torch.testing.assert_close(
        getattr(losses, function)(y, pred, **arguments),
        getattr(keras.losses, function)(torch.from_numpy(y), torch.from_numpy(pred), **arguments),
        rtol=2e-5,
        atol=1e-6,
    )


def parameters(function):
    signature = inspect.signature(function).parameters.values()
    return [(p.name, p.default) for p in signature if p.kind is not p.VAR_KEYWORD]


PUBLIC = [name for name in dir(keras.losses) if name[0] != "_" and callable(getattr(keras.losses, name))]


def test_every_loss_of_keras_exists_with_its_arguments():
    """Names, order and defaults; a loss of padless may have more arguments at the end."""
    for name in PUBLIC:
        mine, theirs = (parameters(getattr(library, name)) for library in (losses, keras.losses))
        assert mine[: len(theirs)] == theirs, name
        assert name in losses.__all__


CLASSES = [name for name in PUBLIC if name[0].isupper() and name not in ("Loss", "LossFunctionWrapper")]


def test_configs_match_keras_and_restore_the_loss():
    for name in CLASSES:
        theirs = getattr(keras.losses, name)().get_config()
        loss = getattr(losses, name)(reduction="sum")
        assert theirs == {key: getattr(losses, name)().get_config()[key] for key in theirs}
        restored = losses.deserialize(losses.serialize(loss))
        assert type(restored) is type(loss) and restored.get_config() == loss.get_config()
        config_of_keras = keras.saving.serialize_keras_object(getattr(keras.losses, name)(reduction="sum"))
        assert saving.deserialize(config_of_keras, "loss").get_config() == restored.get_config()


def test_names_of_keras_mean_the_same_losses():
    for name, thing in keras.src.losses.ALL_OBJECTS_DICT.items():
        found = losses.get(name) if name not in ("Loss", "LossFunctionWrapper") else None
        assert found is None or getattr(thing, "__name__", "") in (type(found).__name__, found.function.__name__), name
    for cls in set(entries("loss").values()):
        function = getattr(cls, "function", None)
        assert function is None or type(losses.get(function)) is cls


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.Huber(0), "`delta` must be above 0; got 0"),
        (lambda: losses.CategoricalGeneralizedCrossEntropy(1.0), "`q` must be between 0 and 1.*got 1.0"),
        (lambda: losses.BinaryFocalCrossentropy(label_smoothing=1.5), "label_smoothing.*1.5"),
        (
            lambda: losses.CategoricalFocalCrossentropy([0.1, 0.2])([[0.0, 1.0, 0.0]], [[0.2, 0.5, 0.3]]),
            r"`alpha` has shape \(2,\)",
        ),
        (lambda: losses.get("hubr"), "Did you mean 'huber'"),
    ],
)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


# ------------------------------------------------------------------------------------------------------- overlap


@pytest.mark.parametrize(("name", "arguments"), [("Dice", {}), ("Tversky", {"alpha": 0.3, "beta": 0.8})])
def test_overlap_of_one_batch_matches_keras_and_of_several_is_that_of_all_steps(name, arguments):
    y, pred = draw("chances")
    loss = getattr(losses, name)(**arguments)
    for reduction in REDUCTIONS:
        leaf, theirs = (torch.tensor(pred, requires_grad=True) for _ in range(2))
        got = getattr(losses, name)(**arguments, reduction=reduction)(y, leaf)
        expected = getattr(keras.losses, name)(**arguments, reduction=reduction)(torch.from_numpy(y), theirs)
        torch.testing.assert_close(got, expected)
        got.backward()
        expected.backward()
        torch.testing.assert_close(leaf.grad, theirs.grad)
    real = getattr(keras.losses, name)(**arguments)(torch.from_numpy(y[GAPS]), torch.from_numpy(pred[GAPS]))
    torch.testing.assert_close(loss(y, pack(pred, mask=GAPS)), real)
    parts = [loss.weighted_sum(y[row : row + 1], pack(pred[row : row + 1], mask=GAPS[row : row + 1])) for row in range(B)]
    torch.testing.assert_close(sum(parts).value, real)
    assert loss(y, pack(pred, mask=np.zeros((B, T), bool))).item() == 0
    weight = np.array([1.0, 3.0, 0.0, 2.0])
    thrice = np.concatenate([np.repeat(row[m], int(w), 0) for row, m, w in zip(y, GAPS, weight, strict=True)])
    repeated = np.concatenate([np.repeat(row[m], int(w), 0) for row, m, w in zip(pred, GAPS, weight, strict=True)])
    torch.testing.assert_close(loss(y, pack(pred, mask=GAPS), weight), loss(thrice, torch.from_numpy(repeated)))
    with pytest.raises(ArgumentError, match="axis=1"):
        getattr(losses, name)(axis=1)(y, pack(pred, mask=GAPS))


# --------------------------------------------------------------------------------------------------------- circle


@pytest.mark.parametrize("arguments", [{}, {"gamma": 2.0, "margin": 0.1, "remove_diagonal": False}])
def test_circle_matches_keras_on_the_real_steps(arguments):
    ids, pred = draw("ids")
    pred /= np.linalg.norm(pred, axis=-1, keepdims=True)
    ids[0, 0] = 9  # alone in its class
    for reduction in REDUCTIONS:
        theirs, leaf = torch.tensor(pred[GAPS], requires_grad=True), torch.tensor(pred, requires_grad=True)
        expected = keras.losses.Circle(**arguments, reduction=reduction)(torch.from_numpy(ids[GAPS]), theirs * 1.0)
        got = losses.Circle(**arguments, reduction=reduction)(ids, pack(leaf, mask=GAPS))
        torch.testing.assert_close(got.values if isinstance(got, Packed) else got, expected, rtol=1e-4, atol=1e-5)
        (got.values if isinstance(got, Packed) else got).sum().backward()
        assert leaf.grad.isfinite().all()
    references = draw("ids", (6,), 3)
    torch.testing.assert_close(
        losses.circle(ids[GAPS], pred[GAPS], *references, remove_diagonal=False),
        keras.losses.circle(
            torch.from_numpy(ids[GAPS]),
            torch.from_numpy(pred[GAPS]),
            *map(torch.from_numpy, references),
            remove_diagonal=False,
        ),
        rtol=1e-4,
        atol=1e-5,
    )


# ------------------------------------------------------------------------------------------------------------ CTC


def likelihood(labels, logits):
    """Return minus the log of the sum over all alignments."""
    chances = torch.from_numpy(logits).double().log_softmax(-1).exp().numpy()
    total = 0.0
    for path in product(range(chances.shape[1]), repeat=len(chances)):
        labels_of_path = [c for i, c in enumerate(path) if c and (not i or path[i - 1] != c)]
        total += np.prod(chances[range(len(chances)), path]) if labels_of_path == list(labels) else 0.0
    return -np.log(total)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    mask=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=3).map(np.array),
    labels=st.lists(st.lists(st.integers(1, 2), max_size=2), min_size=3, max_size=3),
    left=st.integers(0, 2),
)
def test_ctc_is_the_sum_over_alignments_of_the_real_steps(mask, labels, left):
    rows = [tags[: n // 2] for tags, n in zip(labels, mask.sum(1), strict=False)]  # so that there are enough steps
    logits = np.random.default_rng(0).normal(size=(*mask.shape, 3)).astype("float32")
    logits[~mask] = np.nan
    real = [likelihood(tags, x[m]) for tags, x, m in zip(rows, logits, mask, strict=True) if m.any()]
    padded = np.zeros((len(rows), left + 2), int)
    for row, tags in zip(padded, rows, strict=True):
        row[left : left + len(tags)] = tags
    for given_labels in (padded, rows, Packed.from_sequences(rows)):
        leaf = torch.tensor(logits, requires_grad=True)
        loss = losses.CTC()(given_labels, pack(leaf, mask=mask))
        assert loss.item() == pytest.approx(np.mean(real) if real else 0.0, rel=1e-4)
        loss.backward()
        assert leaf.grad.isfinite().all() and not leaf.grad[torch.from_numpy(~mask)].any()


def test_ctc_without_a_mask_matches_keras():
    rng = np.random.default_rng(0)
    labels = np.array([[1, 2, 0], [3, 0, 0], [2, 2, 0], [0, 0, 0]])
    logits = rng.normal(size=(B, T, 4)).astype("float32")
    for reduction in REDUCTIONS:
        expected = keras.losses.CTC(reduction=reduction)(torch.from_numpy(labels), torch.from_numpy(logits))
        torch.testing.assert_close(losses.CTC(reduction=reduction)(labels, torch.from_numpy(logits)), expected)
    expected = keras.losses.ctc(torch.from_numpy(labels), torch.from_numpy(logits))
    torch.testing.assert_close(losses.ctc(labels, logits), expected)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([[1, 1, 1]], DataError, r"the 3 labels \[1, 1, 1\] of row 0 on 4 real steps"),
        ([[1, 2, 1, 2, 1]], DataError, "the 5 labels"),
        ([[7]], DataError, "holds 7"),
        ([[[1]]], ShapeError, r"\(1, 1, 1\)"),
    ],
)
def test_invalid_labels_of_ctc_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        losses.CTC()(labels, pack(torch.zeros(1, 6, 3), lengths=[4]))


# ------------------------------------------------------------------------------------------------ docs/differences.md


def with_mask(pred):
    """Return outputs with a mask of Keras."""
    grid = torch.from_numpy(pred.copy())
    keras.src.backend.set_keras_mask(grid, torch.from_numpy(GAPS.copy()))
    return grid


def test_hinge_labels():
    y, pred = torch.tensor([[0.0], [1.0], [-1.0]]), torch.tensor([[0.5], [0.5], [0.5]])
    mine, theirs = losses.hinge(y, pred), keras.losses.hinge(y, pred)
    assert mine.tolist() == [1.5, 0.5, 1.5] and theirs.tolist() == [1.0, 0.5, 1.5]
    assert keras.losses.hinge(y[:2], pred[:2]).tolist() == [1.5, 0.5]  # without the third row


def test_overlap_of_sequences():
    y, pred = draw("chances")
    theirs = float(keras.losses.Dice()(torch.from_numpy(y), with_mask(pred)))
    assert theirs == pytest.approx(float(keras.losses.Dice()(torch.from_numpy(y), torch.from_numpy(pred))))
    mine = losses.Dice()(y, pack(pred, mask=GAPS)).item()
    assert mine == pytest.approx(1 - 2 * (y * pred)[GAPS].sum() / (y + pred)[GAPS].sum(), rel=1e-5)
    assert mine != pytest.approx(theirs, rel=1e-3)
    doubled = float(keras.losses.Dice()(torch.from_numpy(y), torch.from_numpy(pred), torch.full((B, T), 2.0)))
    assert doubled == pytest.approx(2 * theirs) and losses.Dice()(y, pred, np.full(B, 2.0)).item() == pytest.approx(theirs)


def test_ctc_of_masked_outputs():
    labels = np.array([[1, 0]] * B) * GAPS.any(1, keepdims=True)
    logits = np.random.default_rng(0).normal(size=(B, T, D)).astype("float32")
    assert losses.CTC()(labels, pack(logits, mask=GAPS)).isfinite()
    with pytest.raises((RuntimeError, ValueError)):
        keras.losses.CTC()(torch.from_numpy(labels), with_mask(logits))


def test_ctc_of_short_sequences():
    labels, logits = torch.tensor([[1, 1, 1]]), torch.zeros(1, 4, 3)
    assert float(keras.losses.CTC()(labels, logits)) == np.inf
    with pytest.raises(DataError, match="cannot place"):
        losses.CTC()(labels, logits)


def test_config_of_losses():
    for name, argument in (("Huber", "delta"), ("CosineSimilarity", "axis")):
        assert argument not in getattr(keras.losses, name)().get_config()
        assert argument in getattr(losses, name)().get_config()
