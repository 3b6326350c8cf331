"""User-defined steps, losses and metrics, as in Keras: the same code runs, and what it gives is what fit reports."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import padless
from padless import Input, Model, Packed
from padless.callbacks import Callback
from padless.data.batch_structure import pack_x_y_sample_weight, unpack_x_y_sample_weight
from padless.errors import ArgumentError, NotBuilt
from padless.layers import GRU, Dense, Dropout, Embedding, LastStep, Layer
from padless.metrics.metric import Mean, Metric

LISTS = [[1, 2, 3], [4], [2, 2], [3, 1, 4, 2], [1, 1], [2]]
TAGS = [[0, 1, 1], [2], [0, 0], [1, 2, 0, 1], [2, 2], [0]]
KIND = "sparse_categorical_crossentropy"


def grid(lists, width=4):
    return np.stack([np.pad(row, (0, width - len(row))) for row in lists])


class Tagger(Model):
    def __init__(self):
        super().__init__()
        self.embed, self.scan = Embedding(5, 3, mask_zero=True), GRU(4, return_sequences=True)
        self.tag = Dense(3, activation="softmax")

    def call(self, inputs):
        return self.tag(self.scan(self.embed(inputs)))


def made(kind, loss=KIND, seed=0, metrics=("accuracy",), **compiled):
    torch.manual_seed(seed)
    model = kind()
    model(torch.tensor(grid(LISTS)))
    model.compile(padless.optimizers.SGD(0.1), loss, metrics=list(metrics), **compiled)
    return model


class Recipe(Tagger):
    """The train_step of Keras's guide for its torch backend, where the gradient of a weight is its `.grad`."""

    def train_step(self, data):
        x, y = data
        self.zero_grad()
        y_pred = self(x, training=True)
        loss = self.compute_loss(y=y, y_pred=y_pred)
        loss.backward()
        self.optimizer.step()
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        x, y = data
        y_pred = self(x, training=False)
        loss = self.compute_loss(y=y, y_pred=y_pred)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


class Applied(Recipe):
    """The same with gradients handed to the optimizer, which may scale the loss."""

    def train_step(self, data):
        x, y = data
        y_pred = self(x, training=True)
        self.zero_grad()
        loss = self.compute_loss(x, y, y_pred)
        self.optimizer.scale_loss(loss).backward()
        weights = self.trainable_weights
        with torch.no_grad():
            self.optimizer.apply([weight.grad for weight in weights], weights)
        self.metrics[0].update_state(loss)
        return self.compute_metrics(x, y, y_pred)


class Padded(Tagger):
    """Steps that call the ones of the base."""

    def train_step(self, data):
        return super().train_step(data)

    def test_step(self, data):
        return super().test_step(data)

    def predict_step(self, data):
        return super().predict_step(data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Recipe, Applied, Padded])
@pytest.mark.parametrize("size", [1, 4, 6])
def test_a_written_out_train_step_gives_the_results_of_fit(kind, size):
    plain, own = made(Tagger), made(kind)
    args = {"batch_size": size, "epochs": 3, "shuffle": False, "verbose": 0, "validation_data": (LISTS, TAGS)}
    expected, got = plain.fit(grid(LISTS), grid(TAGS), **args).history, own.fit(grid(LISTS), grid(TAGS), **args).history
    assert sorted(got) == sorted(expected) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    for name, values in expected.items():
        assert got[name] == pytest.approx(values, rel=1e-6), name
    assert all(np.array_equal(a, b) for a, b in zip(plain.get_weights(), own.get_weights(), strict=True))
    assert own.evaluate(LISTS, TAGS, batch_size=size, verbose=0) == plain.evaluate(LISTS, TAGS, batch_size=size, verbose=0)
    assert np.array_equal(own.predict(grid(LISTS), verbose=0), plain.predict(grid(LISTS), verbose=0))


def test_pack_and_unpack_x_y_sample_weight():
    seen = []

    class Watch(Tagger):
        def train_step(self, data):
            seen.append(data)
            return {}

        def predict_step(self, data):
            seen.append(data)
            return super().predict_step(data)

    model = Watch()
    model.compile("sgd")
    x, y, w = grid(LISTS), grid(TAGS), np.ones(6, np.float32)
    for given in ((x,), (x, y), (x, y, w)):
        model.fit(x, *given[1:2], sample_weight=given[2] if len(given) > 2 else None, verbose=0, shuffle=False)
        found = seen.pop()
        assert isinstance(found, torch.Tensor) if len(given) == 1 else isinstance(found, tuple) and len(found) == len(given)
        parts = unpack_x_y_sample_weight(found)
        assert len(parts) == 3
        assert all(
            b is None if a is None else np.array_equal(a, b) for a, b in zip((*given, None, None)[:3], parts, strict=True)
        )
    model.predict(x, verbose=0)
    assert isinstance(seen.pop(), torch.Tensor)
    assert pack_x_y_sample_weight([1, 2]) == ([1, 2],) and unpack_x_y_sample_weight([1, 2]) == (1, 2, None)
    with pytest.raises(ArgumentError, match="4 parts"):
        unpack_x_y_sample_weight((1, 2, 3, 4))


def test_a_train_step_can_read_the_mask_of_the_outputs():
    masks = []

    class Masked(Tagger):
        def compute_loss(self, x, y, y_pred, sample_weight, training=True):
            masks.append((y_pred.mask, training))
            truth = padless.pack(y, like=y_pred).values.long()
            return nn.functional.nll_loss(y_pred.values.log(), truth)

    model, plain = made(Masked), made(Tagger)
    ours = model.fit(grid(LISTS), grid(TAGS), batch_size=6, shuffle=False, verbose=0).history["loss"]
    assert ours == pytest.approx(plain.fit(grid(LISTS), grid(TAGS), batch_size=6, shuffle=False, verbose=0).history["loss"])
    assert np.array_equal(masks[0][0], grid(LISTS) != 0) and masks[0][1] is True
    model.evaluate(grid(LISTS), grid(TAGS), verbose=0)
    assert masks[-1][1] is False


def test_user_defined_losses_and_metrics_see_gap_values():
    seen = []

    class Looking(Model):
        def compute_loss(self, x, y, y_pred, sample_weight, training=True):
            seen.append(y_pred.unpack().detach().numpy())
            return super().compute_loss(x, y, y_pred, sample_weight, training)

    ids = Input((None,))
    model = Looking(ids, Dense(3, activation="softmax")(Embedding(5, 3, mask_zero=True)(ids)))
    model.compile(padless.optimizers.SGD(0.0), KIND)
    model.fit(grid(LISTS), grid(TAGS), shuffle=False, verbose=0)
    assert seen[-1] == pytest.approx(model.predict(grid(LISTS), verbose=0)) and seen[-1].min() > 0


def test_what_compute_loss_adds_is_averaged_by_examples():
    class Extra(Tagger):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            return loss + len(x) * 0 + 5.0

    plain, own = made(Tagger), made(Extra)
    for size in (1, 4, 6):
        assert own.evaluate(LISTS, TAGS, batch_size=size, verbose=0)[0] == pytest.approx(
            plain.evaluate(LISTS, TAGS, batch_size=size, verbose=0)[0] + 5.0, rel=1e-6
        )


def test_user_defined_metrics_equal_keras():
    class Steps(Metric):
        def __init__(self, name="steps"):
            super().__init__(name=name)
            self.total = 0

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.total += y_pred.index.num_steps

        def result(self):
            return self.total

        def reset_state(self):
            self.total = 0

    class Counting(Tagger):
        def __init__(self):
            super().__init__()
            self.steps, self.more = Steps(), {"mean": Mean(name="mean_step")}

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            self.steps.update_state(y, y_pred)
            self.more["mean"].update_state(y_pred.values.sum(-1))
            return super().compute_metrics(x, y, y_pred, sample_weight)

    model = made(Counting)
    history = model.fit(LISTS, TAGS, batch_size=2, epochs=2, verbose=0).history
    assert history["steps"] == [13.0, 13.0] and history["mean_step"] == pytest.approx([1.0, 1.0])
    assert list(history) == ["loss", "accuracy", "steps", "mean_step"]
    assert [m.name for m in model.metrics] == ["loss", "compile_metrics", "steps", "mean_step"]
    assert model.evaluate(LISTS, TAGS, batch_size=4, return_dict=True, verbose=0)["steps"] == 13


def test_metrics_of_layers_are_reported():
    class Loud(Layer):
        def __init__(self):
            super().__init__()
            self.size = Mean(name="size")

        def call(self, inputs):
            self.size.update_state(inputs.values.detach().abs().mean())
            return inputs

    class Net(Tagger):
        def __init__(self):
            super().__init__()
            self.loud = Loud()

        def call(self, inputs):
            return self.tag(self.loud(self.scan(self.embed(inputs))))

    model = made(Net)
    assert model.fit(LISTS, TAGS, verbose=0).history["size"][0] > 0


@pytest.mark.filterwarnings("ignore")
def test_other_logs_of_an_epoch_are_those_of_its_last_step_as_in_keras():
    keras = pytest.importorskip("keras")
    histories = []
    for api, layers in ((keras, keras.layers), (padless, padless.layers)):

        class Own(api.Model):
            def __init__(self, layers=layers):
                super().__init__()
                self.dense, self.step = layers.Dense(1), 0

            def call(self, inputs):
                return self.dense(inputs)

            def train_step(self, data):
                self.step += 1
                return {"step": float(self.step), "half": self.step / 2}

            def test_step(self, data):
                return {"rows": float(len(data[0]))}

        model = Own()
        model(np.ones((1, 3), "float32"))
        model.compile("sgd", "mse", metrics=["mae"])
        x, y = np.ones((6, 3), "float32"), np.ones((6, 1), "float32")
        histories.append(model.fit(x, y, batch_size=2, epochs=2, verbose=0, validation_data=(x, y)).history)
        histories.append(model.evaluate(x, y, batch_size=4, verbose=0))
    assert histories[0] == histories[2] == {"step": [3.0, 6.0], "half": [1.5, 3.0], "val_rows": [2.0, 2.0]}
    assert histories[1] == histories[3] == 2.0


def test_a_model_of_models_needs_no_call():
    class Pair(Model):
        def __init__(self, maker, judge):
            super().__init__()
            self.maker, self.judge, self.total = maker, judge, Mean(name="total")

        def compile(self, maker_optimizer, judge_optimizer, loss_fn):
            super().compile()
            self.maker_optimizer, self.judge_optimizer, self.loss_fn = maker_optimizer, judge_optimizer, loss_fn

        @property
        def metrics(self):
            return [self.total]

        def train_step(self, data):
            self.zero_grad()
            loss = self.loss_fn(torch.zeros(len(data), 1), self.judge(self.maker(data, training=True)))
            loss.backward()
            for part, optimizer in ((self.maker, self.maker_optimizer), (self.judge, self.judge_optimizer)):
                optimizer.build(part.trainable_weights)
                optimizer.step()
            self.total.update_state(loss)
            return {"total": self.total.result()}

    x = Input((None,))
    h = Input((4,))
    state = LastStep()(GRU(4, return_sequences=True)(Embedding(5, 3, mask_zero=True)(x)))
    model = Pair(Model(x, state), Model(h, Dense(1)(h)))
    model.compile(padless.optimizers.Adam(0.01), padless.optimizers.SGD(0.1), padless.losses.MeanSquaredError())
    before = model.get_weights()
    history = model.fit(grid(LISTS), batch_size=3, epochs=2, verbose=0).history
    assert list(history) == ["total"] and history["total"][1] < history["total"][0]
    assert not any(np.array_equal(a, b) for a, b in zip(before[:2], model.get_weights()[:2], strict=True))


def test_add_loss_of_layers_is_in_the_loss():
    class Sparse(Layer):
        def call(self, inputs):
            self.add_loss(inputs.values.abs().sum() / inputs.shape[0])
            return inputs

    class Net(Tagger):
        def __init__(self):
            super().__init__()
            self.sparse = Sparse()

        def call(self, inputs):
            h = self.sparse(self.scan(self.embed(inputs)))
            self.add_loss(torch.tensor(2.0))
            return self.tag(h)

    plain, model = made(Tagger), made(Net)
    h = plain.scan(plain.embed(torch.tensor(grid(LISTS)))).values
    expected = plain.evaluate(LISTS, TAGS, verbose=0)[0] + h.abs().sum().item() / 6 + 2.0
    for size in (1, 4, 6):
        assert model.evaluate(LISTS, TAGS, batch_size=size, verbose=0)[0] == pytest.approx(expected, rel=1e-5)
    assert len(model.losses) == 2
    alone = Net()
    alone.compile("sgd")
    assert np.isfinite(alone.fit(grid(LISTS), verbose=0).history["loss"][0])  # no loss but what is added, and no y


def test_a_user_defined_train_step_has_the_random_numbers_and_the_mode_of_fit():
    class Noisy(Tagger):
        def __init__(self):
            super().__init__()
            self.drop = Dropout(0.5)

        def call(self, inputs):
            return self.tag(self.drop(self.scan(self.embed(inputs))))

    class Own(Noisy):
        train_step = Recipe.train_step

    results = []
    for kind in (Noisy, Own):
        model = made(kind)
        torch.manual_seed(7)
        results.append(model.fit(grid(LISTS), grid(TAGS), epochs=2, shuffle=False, verbose=0).history["loss"])
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_train_on_batch_calls_train_step():
    plain, own = made(Tagger), made(Recipe)
    for verb in ("train_on_batch", "test_on_batch"):
        assert getattr(plain, verb)(LISTS, TAGS) == pytest.approx(getattr(own, verb)(LISTS, TAGS))


def test_callbacks_receive_the_logs_of_train_step():
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(dict(logs))

    class Own(Tagger):
        def train_step(self, data):
            return {**super().train_step(data), "extra": torch.tensor(1.5)}

    model = made(Own)
    history = model.fit(LISTS, TAGS, batch_size=3, verbose=0, callbacks=[Watch()]).history
    assert [sorted(logs) for logs in seen] == [["accuracy", "extra", "loss"]] * 2
    assert seen[-1]["extra"] == 1.5 and history["extra"] == [1.5] and history["loss"] == [seen[-1]["loss"]]


def test_a_trained_model_can_be_copied_and_pickled():
    model = made(Recipe)
    model.fit(grid(LISTS), grid(TAGS), verbose=0)
    twin = copy.deepcopy(model)
    assert twin.evaluate(grid(LISTS), grid(TAGS), verbose=0) == model.evaluate(grid(LISTS), grid(TAGS), verbose=0)
    assert pickle.loads(pickle.dumps(made(Tagger))).predict(LISTS, verbose=0)[0].shape == (3, 3)


def test_compute_loss_before_compile_raises_not_built():
    model = Tagger()
    with pytest.raises(NotBuilt, match=r"compile\("):
        model.compute_loss(None, grid(TAGS), model(grid(LISTS)))
    assert model.metrics == []


def test_a_user_defined_train_step_refuses_gradient_accumulation():
    model = made(Recipe)
    with pytest.raises(ArgumentError, match="train_step.*gradient_accumulation_steps=2"):
        model.fit(LISTS, TAGS, verbose=0, gradient_accumulation_steps=2)


def test_outputs_of_predict_step_have_the_container_of_the_input():
    class Own(Tagger):
        def predict_step(self, data):
            return super().predict_step(data).argmax(-1)

    model = made(Own)
    assert [row.shape for row in model.predict(LISTS, verbose=0)] == [(len(row),) for row in LISTS]
    assert isinstance(model.predict(padless.pack(LISTS), verbose=0), Packed)


# ------------------------------------------------------------------------------------------------- compared with Keras


@pytest.mark.filterwarnings("ignore")
def test_gradient_accumulation():
    """One sequence of 1 step and one of 3: Keras takes the mean of two means."""
    keras = pytest.importorskip("keras")
    x, y = np.array([[1, 0, 0], [1, 1, 1]]), np.array([[5.0, 0, 0], [1, 1, 1]], "float32")[..., None]
    moved = []
    for api, split in ((keras, True), (padless, True), (padless, False)):
        layers = api.layers
        ids = api.Input((3,))
        h = layers.Embedding(2, 1, mask_zero=True, embeddings_initializer="zeros")(ids)
        model = api.Model(ids, layers.Dense(1, kernel_initializer="zeros")(h))
        theirs = {"gradient_accumulation_steps": 2} if api is keras else {}
        model.compile(api.optimizers.SGD(1.0, **theirs), "mse")
        ours = {"gradient_accumulation_steps": 2} if api is padless and split else {}
        model.fit(x, y, batch_size=1 if split else 2, shuffle=False, verbose=0, **ours)
        moved.append(float(model.get_weights()[-1][0]))
    assert moved[0] == pytest.approx((2 * 5 + 2 * 1) / 2)
    assert moved[1] == moved[2] == pytest.approx(2 * (5 + 1 + 1 + 1) / 4)


@pytest.mark.filterwarnings("ignore")
def test_gradients_are_attributes_of_weights():
    keras = pytest.importorskip("keras")
    theirs, ours = keras.layers.Dense(1), padless.layers.Dense(1)
    for layer in (theirs, ours):
        layer(torch.ones(2, 3)).sum().backward()
    assert not hasattr(theirs.trainable_weights[0], "grad")
    assert torch.equal(theirs.trainable_weights[0].value.grad, ours.trainable_weights[0].grad)


@pytest.mark.filterwarnings("ignore")
def test_half_precision():
    keras = pytest.importorskip("keras")
    theirs = keras.layers.Dense(1, dtype="mixed_bfloat16")
    assert theirs(torch.ones(2, 3)).dtype is torch.bfloat16
    ids = Input((3,))
    ours = Model(ids, Dense(1, dtype="mixed_bfloat16")(ids))
    ours.compile("sgd", "mse", autocast="bfloat16")
    ours.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0)
    assert ours.predict(np.ones((2, 3)), verbose=0).dtype == np.float32
