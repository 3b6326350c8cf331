"""Hooks of callbacks that evaluate, predict or train: the run around them goes on as if nothing had happened."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

import padless
from padless import Input, Model
from padless.callbacks import Callback
from padless.errors import ArgumentError
from padless.layers import LSTM, Dense, Dropout, Embedding
from padless.metrics import Mean, Metric, SparseCategoricalAccuracy

pytestmark = pytest.mark.slow

IDS = np.array([[1, 2, 0], [3, 4, 1], [2, 0, 0], [4, 4, 4], [1, 1, 2], [3, 0, 0]])
TAGS = np.array([[0, 1, 2], [2, 1, 0], [1, 1, 1], [0, 0, 2], [1, 2, 0], [2, 2, 2]])
OTHER_IDS, OTHER_TAGS = IDS[::-1, ::-1].copy(), TAGS[::-1].copy()
BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_begin", "on_test_batch_end")
EPOCH_HOOKS = ("on_epoch_begin", "on_epoch_end", "on_test_begin", "on_test_end", "on_train_begin", "on_train_end")


class KeepsAll(Metric):
    """A metric of a user whose state is a list, an array and a number."""

    def __init__(self):
        super().__init__(name="keeps_all")
        self.reset_state()

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.rows.append(y_pred.values.detach())
        self.array += len(y_pred)
        self.count += 1

    def result(self):
        return torch.cat(self.rows).double().square().mean() * self.count + float(self.array.sum())

    def reset_state(self):
        self.rows, self.array, self.count = [torch.zeros(1, 3)], np.zeros(2), 0


class Tagger(Model):
    """A model with a metric that is an attribute, and a loss that it adds."""

    def __init__(self):
        super().__init__()
        self.embed, self.scan, self.drop = Embedding(5, 3, mask_zero=True), LSTM(4, return_sequences=True), Dropout(0.2)
        self.out, self.size = Dense(3, activation="softmax", kernel_regularizer="l2"), Mean("size")

    def call(self, inputs):
        h = self.drop(self.scan(self.embed(inputs)))
        self.size.update_state(h.values.abs().mean(-1))
        self.add_loss(h.values.square().mean())
        return self.out(h)


def functional():
    x = Input((None,))
    h = Dropout(0.2)(LSTM(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x)))
    return Model(x, Dense(3, activation="softmax", kernel_regularizer="l2")(h))


def compiled(make, shared_metric=None):
    padless.utils.set_random_seed(0)
    model = make()
    metrics = ["accuracy", KeepsAll(), MulticlassAccuracy(3)]
    model.compile("adam", "sparse_categorical_crossentropy", metrics=[*metrics, *([shared_metric] if shared_metric else [])])
    return model


class InHook(Callback):
    """Call a function in one hook, and keep what it returns."""

    def __init__(self, hook, function):
        self.results = []

        def run(*args, **kwargs):
            setattr(self, hook, lambda *args, **kwargs: None)  # the function may lead to this hook again
            self.results.append(function(self.model))
            setattr(self, hook, run)

        setattr(self, hook, run)


def train(make, hook=None, function=None, accumulation=1):
    """Return the history and the weights of `fit`, and what the function returned."""
    model = compiled(make)
    callback = InHook(hook, function) if hook else Callback()
    history = model.fit(
        IDS,
        TAGS,
        batch_size=2,
        epochs=2,
        validation_data=(IDS[:3], TAGS[:3]),
        validation_batch_size=2,
        gradient_accumulation_steps=accumulation,
        callbacks=[callback],
        verbose=0,
    )
    results = callback.results if hook else []
    return [history.history, [weight.tolist() for weight in model.get_weights()]], results


def evaluate(model):
    return model.evaluate(OTHER_IDS, OTHER_TAGS, batch_size=4, verbose=0)


NESTED = {
    "evaluate": evaluate,
    "predict": lambda model: model.predict(OTHER_IDS, batch_size=4, verbose=0).tolist(),
    "test_on_batch": lambda model: model.test_on_batch(OTHER_IDS, OTHER_TAGS),
    "predict_on_batch": lambda model: model.predict_on_batch(OTHER_IDS).tolist(),
}


@pytest.mark.parametrize("make", [functional, Tagger])
@pytest.mark.parametrize("name", NESTED)
def test_a_run_in_a_hook_changes_nothing(make, name):
    expected, _ = train(make)
    for hook in (*BATCH_HOOKS, *EPOCH_HOOKS) if (name, make) == ("evaluate", Tagger) else BATCH_HOOKS[1::2]:
        actual, results = train(make, hook, NESTED[name])
        assert actual == expected, hook
        assert results


@pytest.mark.parametrize("make", [functional, Tagger])
def test_results_of_a_run_in_a_hook_are_right(make):
    weights = []

    def evaluate_and_keep(model):
        weights.append(model.get_weights())
        return evaluate(model)

    for hook in ("on_train_batch_end", "on_test_batch_end", "on_epoch_end"):
        weights.clear()
        _, results = train(make, hook, evaluate_and_keep)
        model = compiled(make)
        for values, result in zip(weights, results, strict=True):
            evaluate(model)
            model.set_weights(values)
            assert evaluate(model) == result


def test_evaluation_in_an_incomplete_accumulation_changes_nothing():
    expected, _ = train(functional, accumulation=3)
    for hook in ("on_train_batch_begin", "on_train_batch_end"):
        assert train(functional, hook, evaluate, accumulation=3)[0] == expected


def test_a_model_that_shares_a_metric_and_layers_changes_nothing():
    def fit(nested):
        metric = SparseCategoricalAccuracy()
        model = compiled(functional, metric)
        part = Model(model.inputs, model.outputs)
        part.compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])
        callback = InHook("on_train_batch_end", lambda _: evaluate(part)) if nested else Callback()
        history = model.fit(IDS, TAGS, batch_size=2, epochs=2, callbacks=[callback], verbose=0).history
        return history, [weight.tolist() for weight in model.get_weights()]

    assert fit(True) == fit(False)


def test_training_in_a_hook_keeps_the_sums_of_the_epoch():
    """A nested step changes the weights. The loss of the epoch does not contain it."""

    def fit(function):
        model = compiled(functional)
        callback = InHook("on_train_batch_end", function)
        model.fit(IDS, TAGS, batch_size=2, callbacks=[callback], verbose=0)
        return callback.results, model

    seen = []

    def step_and_undo(model):
        before, modes = model.get_weights(), [module.training for module in model.modules()]
        state, sums = torch.get_rng_state(), model.get_metrics_result()
        seen.append(model.train_on_batch(OTHER_IDS, OTHER_TAGS, return_dict=True)["loss"])
        torch.set_rng_state(state)
        assert model.get_metrics_result() == sums
        assert [module.training for module in model.modules()] == modes
        changed = any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
        model.set_weights(before)
        return changed

    results, _ = fit(step_and_undo)
    assert results == [True] * 3 and len(set(seen)) == 3


def test_training_in_a_hook_of_evaluate_has_gradients():
    model = compiled(functional)
    callback = InHook("on_test_batch_end", lambda model: model.train_on_batch(IDS, TAGS))
    before = model.get_weights()
    expected = model.evaluate(IDS, TAGS, verbose=0)
    assert model.evaluate(IDS, TAGS, callbacks=[callback], verbose=0) == expected
    assert not np.array_equal(before[0], model.get_weights()[0])
    with torch.no_grad():
        model.fit(IDS, TAGS, verbose=0)
    assert not np.array_equal(before[0], model.get_weights()[0])


def test_training_in_an_incomplete_accumulation_is_refused():
    for hook in ("on_train_batch_end", "on_train_batch_begin"):
        with pytest.raises(ArgumentError, match="gradient of 3 batches is incomplete"):
            train(functional, hook, lambda model: model.train_on_batch(IDS, TAGS), accumulation=3)


def test_fit_in_a_hook_of_a_batch_is_refused_and_in_that_of_an_epoch_it_works():
    for hook in BATCH_HOOKS:
        with pytest.raises(ArgumentError, match="fit of model .* while a batch of this model runs"):
            train(functional, hook, lambda model: model.fit(IDS, TAGS, verbose=0))
    model = compiled(functional)
    model.fit(IDS, TAGS, verbose=0)  # nothing is left of the run that failed

    def fit_until_stopped(model):
        stop = InHook("on_train_batch_end", lambda model: setattr(model, "stop_training", True))
        return model.fit(IDS, TAGS, epochs=5, callbacks=[stop], verbose=0).history["loss"]

    callback = InHook("on_epoch_end", fit_until_stopped)
    history = model.fit(IDS, TAGS, epochs=3, callbacks=[callback], verbose=0)
    assert len(history.history["loss"]) == 3 and model.history is history
    assert [len(losses) for losses in callback.results] == [1, 1, 1]


def test_a_hook_of_predict_may_evaluate():
    model = compiled(functional)
    expected = model.predict(IDS, batch_size=2, verbose=0)
    for function in NESTED.values():
        callback = InHook("on_predict_batch_end", function)
        assert np.array_equal(model.predict(IDS, batch_size=2, callbacks=[callback], verbose=0), expected)


def test_a_stateful_layer_goes_on_after_a_run_in_a_hook():
    def fit(nested):
        padless.utils.set_random_seed(0)
        x = Input((None,))
        model = Model(x, Dense(3, activation="softmax")(LSTM(4, return_sequences=True, stateful=True)(Embedding(5, 3)(x))))
        model.compile("adam", "sparse_categorical_crossentropy")
        data = {"batch_size": 2, "shuffle": False, "verbose": 0}
        callback = Callback()
        if nested:
            callback = InHook("on_train_batch_end", lambda m: m.evaluate(OTHER_IDS, OTHER_TAGS, batch_size=2, verbose=0))
        return model.fit(IDS, TAGS, epochs=2, callbacks=[callback], **data).history

    assert fit(True) == fit(False)


def test_evaluation_in_training_in_half_precision_is_not_in_half_precision():
    class Steps(Tagger):
        def train_step(self, data):
            return super().train_step(data)

    def fit(function):
        padless.utils.set_random_seed(0)
        model = Steps()
        model.compile("sgd", "sparse_categorical_crossentropy", autocast="bfloat16")
        callback = InHook("on_train_batch_end", function)
        model.fit(IDS, TAGS, callbacks=[callback], verbose=0)
        return callback.results[0], model

    nested, model = fit(evaluate)
    assert nested == evaluate(model)


def test_a_failed_prediction_leaves_no_run():
    class Wrong(Tagger):
        def predict_step(self, data):
            return "text"

    model = compiled(Wrong)
    with pytest.raises(ArgumentError, match="predict_step"):
        model.predict(IDS, verbose=0)
    model.fit(IDS, TAGS, verbose=0)
