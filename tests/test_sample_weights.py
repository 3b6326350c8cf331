"""Sample weights: what the weight 0 removes, and weights and targets that are not finite."""

import numpy as np
import pytest
import torch
from cases import LOSSES, METRICS
from keras_parity import keras

import padless
from padless import Input, Model, losses, pack
from padless.errors import DataError
from padless.layers import LSTM, Dense, Embedding, LastStep
from padless.losses import Loss
from padless.metrics import Metric

MASK = np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 1]], bool)
STEP_WEIGHTS = torch.tensor([[0.0, 2.0, 1.0, 0.0], [0.5, 0.0, 3.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
ROW_WEIGHTS = torch.tensor([2.0, 0.0, 0.5])


def spoiled(targets, weights):
    """Yield targets that are not valid where the weight is 0, in each form that data have."""
    is_zero = (weights == 0).reshape(*weights.shape, *(1,) * (targets.ndim - weights.ndim)).expand(targets.shape)
    if targets.is_floating_point():
        for value in (torch.nan, torch.inf, -torch.inf, -100.0, 1e30):
            yield torch.where(is_zero, value, targets)
    else:
        for value in (-100, 99):
            yield torch.where(is_zero, value, targets)
        yield torch.where(is_zero, torch.nan, targets.double())


def score(case, targets, outputs, weights):
    """Return the result over one batch, and the gradient of the outputs of a loss."""
    objective = case.make()
    grid = outputs.clone().requires_grad_(isinstance(objective, Loss))
    packed = pack(grid, mask=MASK)
    if isinstance(objective, Metric):
        objective.update_state(targets, packed, weights)
        result = objective.result()
        return list(result.values()) if isinstance(result, dict) else [result]
    if objective.reduction == "none":
        total = objective.per_step_values(targets, packed, weights).weighted_values.sum()
    else:
        weighted_sum = objective.weighted_sum(targets, packed, weights)
        total = weighted_sum.value
    (gradient,) = torch.autograd.grad(total, grid)
    return [total.detach(), gradient]


def takes_weights(case):
    return case.layer != "TorchMetric" and "rows" in case.weights


@pytest.mark.parametrize("case", [c for c in (*LOSSES, *METRICS) if takes_weights(c)], ids=lambda c: c.name)
def test_weight_zero_removes_a_target_whatever_it_holds(case):
    generator = torch.Generator().manual_seed(0)
    targets, outputs = case.targets(generator, MASK.shape), case.outputs(generator, MASK.shape)
    for weights in (ROW_WEIGHTS, ROW_WEIGHTS[:, None], STEP_WEIGHTS, torch.zeros(3)):
        if weights is STEP_WEIGHTS and "steps" not in case.weights:
            continue
        expected = score(case, targets, outputs, weights)
        assert all(part.isfinite().all() for part in expected)
        if case.layer in ("Circle", "SpanF1"):  # a label decides with which steps it is compared, or where a span ends
            continue
        for invalid_targets in spoiled(targets, weights):
            for part, right in zip(score(case, invalid_targets, outputs, weights), expected, strict=True):
                torch.testing.assert_close(part, right, rtol=1e-6, atol=1e-7)


def test_weight_zero_keeps_the_denominator_of_keras():
    pred, y = np.random.default_rng(0).random((2, 3, 4)).astype("float32"), np.array([[0, 1, 2], [3, 0, 1]])
    weights = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]], "float32")
    theirs = float(keras.losses.SparseCategoricalCrossentropy()(y, pred, weights))
    ours = losses.SparseCategoricalCrossentropy()(np.where(weights == 0, -100, y), pred, weights)
    assert ours.item() == pytest.approx(theirs, rel=1e-6)
    ignored = losses.SparseCategoricalCrossentropy(ignore_class=-1)
    expected = ignored(np.where(weights == 0, -1, y), pred, weights)
    assert expected.item() == pytest.approx(theirs * 2, rel=1e-6)  # 3 of 6 labels are missing


def test_nan_of_weight_zero():
    y, pred, weights = np.array([[1.0], [np.nan]], "float32"), np.zeros((2, 1), "float32"), np.array([1.0, 0.0], "float32")
    assert np.isnan(float(keras.losses.MeanSquaredError()(y, pred, weights)))
    assert losses.MeanSquaredError()(y, pred, weights).item() == 0.5


def test_numbers_that_are_not_finite():
    y, pred, weights = np.array([[1.0], [2.0]], "float32"), np.zeros((2, 1), "float32"), np.array([1.0, np.nan], "float32")
    assert np.isnan(float(keras.losses.MeanSquaredError()(y, pred, weights)))
    with pytest.raises(DataError, match="`sample_weight` is nan in row 1"):
        losses.MeanSquaredError()(y, pred, weights)
    assert np.isnan(float(keras.losses.MeanSquaredError()(np.array([[1.0], [np.nan]], "float32"), pred)))
    with pytest.raises(DataError, match="nan"):
        losses.MeanSquaredError()(np.array([[1.0], [np.nan]], "float32"), pred)


def test_negative_weights_are_those_of_keras():
    pred, y = np.random.default_rng(0).random((4, 3)).astype("float32"), np.array([0, 1, 2, 0])
    weights = np.array([1.0, -2.0, 0.5, -0.1], "float32")  # as advantages in reinforcement learning
    theirs = float(keras.losses.SparseCategoricalCrossentropy()(y, pred, weights))
    assert losses.SparseCategoricalCrossentropy()(y, pred, weights).item() == pytest.approx(theirs, rel=1e-5)


def test_a_function_of_a_user_gets_other_rows_unchanged():
    received = []

    def correlation(y_true, y_pred):
        received.append(y_true.clone())
        return (y_true - y_true.mean()) * (y_pred - y_pred.mean())

    y, weights = torch.tensor([[5.0], [2.0], [torch.nan]]), torch.tensor([0.0, 1.0, 0.0])
    loss = losses.LossFunctionWrapper(correlation)
    assert loss(y, torch.ones(3, 1), weights).isfinite()
    assert received[0].flatten().tolist() == [5, 2, 1]
    y[2] = 7.0
    loss(y, torch.ones(3, 1), weights)
    assert received[1].flatten().tolist() == [5, 2, 7]


# ------------------------------------------------------------------------------------------------ fit


def tagger(loss="sparse_categorical_crossentropy", units=3):
    padless.utils.set_random_seed(0)
    x = Input((None,))
    h = LSTM(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))
    model = Model(x, Dense(units, activation="softmax" if units > 1 else None)(h))
    model.compile("sgd", loss, weighted_metrics=["accuracy"] if units > 1 else None)
    return model


IDS = np.array([[1, 2, 0], [3, 4, 1], [2, 0, 0], [4, 4, 4]])
TAGS = np.array([[0, 1, 2], [2, 1, 0], [1, 1, 1], [0, 0, 2]])


def unchanged(model, fit, error, message):
    before = model.get_weights()
    with pytest.raises(error, match=message):
        fit()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_before_training(value):
    per_step, per_row = np.ones((4, 3)), np.ones(4)
    per_step[3, 1], per_row[2] = value, value
    model = tagger()
    for weights, place in (
        (per_step, "row 3, step 1"),
        (per_row, "row 2"),
        (per_row[:, None], "row 2"),
        ([[1, 1], [1, 1, 1], [1], [1, value, 1]], "row 3, step 1"),
    ):
        unchanged(
            model,
            lambda w=weights: model.fit(IDS, TAGS, sample_weight=w, batch_size=1, shuffle=False, verbose=0),
            DataError,
            f"`sample_weight` is {value} in {place}",
        )
    unchanged(model, lambda: model.train_on_batch(IDS, TAGS, per_step), DataError, "row 3, step 1")
    with pytest.raises(DataError, match="row 3, step 1"):
        model.evaluate(IDS, TAGS, sample_weight=per_step, verbose=0)
    per_step[3, 1], per_step[0, 2] = 1, value  # a masked step
    model.fit(IDS, TAGS, sample_weight=per_step, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_weights_of_a_generator_are_checked_before_the_step_of_their_batch():
    weights = np.ones((4, 3))
    weights[1, 0] = np.nan
    model = tagger()
    for steps in (1, 2):
        unchanged(
            model,
            lambda s=steps: model.fit(iter([(IDS, TAGS, weights)]), gradient_accumulation_steps=s, verbose=0),
            DataError,
            "row 1 of batch 0, step 0",
        )
    with pytest.raises(DataError, match="row 1 of batch 1, step 0") as raised:
        model.fit(iter([(IDS, TAGS), (IDS, TAGS, weights)]), verbose=0)
    assert any("batch 1" in note for note in raised.value.__notes__)


@pytest.mark.parametrize("loss", ["mse", losses.Huber(), losses.mean_squared_error, torch.nn.MSELoss(reduction="none")])
def test_targets_that_are_not_finite_are_refused_before_training(loss):
    model = tagger(loss, units=1)
    for value in (np.nan, np.inf):
        y = TAGS[..., None].astype("float32")
        y[3, 2] = value
        unchanged(
            model,
            lambda y=y: model.fit(IDS, y, batch_size=1, shuffle=False, verbose=0),
            DataError,
            "not finite in row 3, step 2",
        )
        unchanged(model, lambda y=y: model.fit(iter([(IDS, y)]), verbose=0), DataError, str(value))
        weights = np.ones((4, 3))
        weights[3, 2] = 0
        history = model.fit(IDS, y, sample_weight=weights, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        y[3, 2], y[0, 2] = 1, value  # a masked step
        model.fit(IDS, y, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_targets_of_a_function_of_a_user_may_be_nan():
    def measured(y_true, y_pred):
        return torch.where(y_true.isnan(), 0, y_true - y_pred).square().mean(-1)

    model = tagger(measured, units=1)
    y = TAGS[..., None].astype("float32")
    y[3, 2] = np.nan
    assert np.isfinite(model.fit(IDS, y, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_weight_zero_trains_as_valid_targets_do(accumulation):
    weights = np.array([[1, 0, 1], [0, 2, 1], [1, 1, 1], [0, 0, 0]], "float32")
    results = []
    for tags in (TAGS, np.where(weights == 0, -100, TAGS), np.where(weights == 0, np.nan, TAGS)):
        for source in (
            lambda m, t: m.fit(
                IDS, t, sample_weight=weights, batch_size=2, gradient_accumulation_steps=accumulation, verbose=0
            ),
            lambda m, t: m.fit(
                iter([(IDS[:2], t[:2], weights[:2]), (IDS[2:], t[2:], weights[2:])]),
                gradient_accumulation_steps=accumulation,
                verbose=0,
            ),
        ):
            model = tagger()
            padless.utils.set_random_seed(1)
            history = source(model, tags).history
            results.append((history, [weight.tolist() for weight in model.get_weights()]))
    assert results[2:] == results[:2] * 2


def test_weight_zero_of_one_of_several_outputs():
    padless.utils.set_random_seed(0)
    x = Input((None,))
    h = LSTM(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x))
    model = Model(x, {"tag": Dense(3, activation="softmax", name="tag")(h), "size": Dense(1, name="size")(LastStep()(h))})
    model.compile("sgd", {"tag": "sparse_categorical_crossentropy", "size": "mse"})
    sizes, weights = np.array([[1.0], [np.nan], [2.0], [3.0]]), np.array([1.0, 0.0, 1.0, 1.0])
    history = model.fit(IDS, {"tag": TAGS, "size": sizes}, sample_weight={"size": weights}, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    unchanged(
        model,
        lambda: model.fit(IDS, {"tag": TAGS, "size": sizes}, verbose=0),
        DataError,
        "'size' are not finite in row 1",
    )
