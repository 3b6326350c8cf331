"""Autocast: products in half precision while training, losses and sums in full, small gradients kept."""

import numpy as np
import pytest
import torch

import padless
from padless import Input, Model
from padless.errors import ArgumentError
from padless.layers import GRU, LSTM, Dense, Embedding, Layer, LayerNormalization

LISTS = [[1, 2, 3], [4], [2, 2], [3, 1, 4, 2], [1, 1], [2], [3, 3, 3, 3], [1]]
TAGS = [[0, 1, 1], [2], [0, 0], [1, 2, 0, 1], [2, 2], [0], [1, 1, 2, 0], [2]]
KIND = "sparse_categorical_crossentropy"


class Watch(Layer):
    """Remembers in which dtype steps come by."""

    relation = "stepwise"
    seen: torch.dtype | None = None

    def call(self, inputs):
        self.seen = inputs.dtype
        return inputs


def tagger(scan=GRU):
    torch.manual_seed(0)
    x = Input((None,))
    h = scan(8, return_sequences=True)(Embedding(5, 4, mask_zero=True)(x))
    watch = Watch()
    h = watch(Dense(8, activation="relu", activity_regularizer="l2")(LayerNormalization()(h)))
    return Model(x, Dense(3, activation="softmax", name="tag")(h)), watch


@pytest.mark.slow
@pytest.mark.parametrize("scan", [GRU, LSTM])
@pytest.mark.parametrize("autocast", ["bfloat16", "float16", torch.bfloat16, "mixed_float16"])
def test_training_in_half_precision_is_close_to_full_precision(autocast, scan):
    losses = []
    for chosen in (None, autocast):
        model, watch = tagger(scan)
        model.compile(padless.optimizers.Adam(0.01), KIND, metrics=["accuracy"], autocast=chosen)
        if model._precision.scaled:  # from so low a scale no step is skipped
            model._precision._scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        history = model.fit(LISTS, TAGS, batch_size=4, epochs=8, shuffle=False, verbose=0).history
        losses.append(history["loss"])
        half = padless.trainers.mixed_precision.Precision(chosen).dtype
        assert watch.seen is (half or torch.float32)
        assert all(p.dtype is torch.float32 for p in model.parameters())
        model.evaluate(LISTS, TAGS, verbose=0)
        assert watch.seen is torch.float32  # what is measured is measured in full
        assert model.predict(LISTS, verbose=0)[0].dtype == np.float32
    assert losses[1] == pytest.approx(losses[0], rel=0.05) and losses[1] != losses[0]


@pytest.mark.slow
def test_the_unscaled_gradient_is_the_gradient():
    results = []
    for scaled in (False, True):
        model, _ = tagger()
        model.compile(padless.optimizers.SGD(0.5), KIND, autocast="float16", auto_scale_loss=scaled)
        if scaled:
            model._precision._scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        model.fit(LISTS, TAGS, batch_size=3, epochs=2, shuffle=False, verbose=0)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        assert a == pytest.approx(b, abs=2e-3)


@pytest.mark.parametrize("together", [1, 2])
def test_scaling_keeps_gradients_that_are_too_small_for_float16(together):
    """The gradient of the output is 2e-8, below all that float16 can hold."""
    moved = []
    for scaled in (False, True):
        x = Input((None, 2))
        model = Model(x, Dense(1, use_bias=False)(Dense(1, kernel_initializer="ones", use_bias=False)(x)))
        model.compile(padless.optimizers.SGD(1e6), lambda y, p: 1e-8 * p, autocast="float16", auto_scale_loss=scaled)
        before = model.get_weights()[1]
        model.fit([np.ones((2, 2))] * 4, [np.zeros(2)] * 4, batch_size=2, verbose=0, gradient_accumulation_steps=together)
        moved.append(np.abs(model.get_weights()[1] - before).max())
    assert moved[0] == 0.0 and moved[1] > 0


def test_a_step_whose_gradients_overflow_is_skipped():
    x = Input((None, 2))
    model = Model(x, Dense(1)(x))
    model.compile(padless.optimizers.SGD(1.0), lambda y, p: 1e4 * p, autocast="float16")
    before = model.get_weights()
    model.fit([np.ones((2, 2))], [np.zeros(2)], verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    model.fit([np.ones((2, 2))], [np.zeros(2)], epochs=20, verbose=0)  # the scale has come down
    assert not np.array_equal(before[0], model.get_weights()[0]) and np.isfinite(model.get_weights()[0]).all()


def test_other_values_of_autocast_are_refused():
    model, _ = tagger()
    for autocast in ("bfloat17", "int8", 16, torch.int32):
        with pytest.raises(ArgumentError, match="bfloat16") as error:
            model.compile("sgd", KIND, autocast=autocast)
        assert str(autocast) in str(error.value) and not model.compiled


def test_a_user_defined_train_step_scales_the_loss_itself():
    class Own(Model):
        def train_step(self, data):
            return {}

    with pytest.raises(ArgumentError, match="train_step.*'float16'"):
        Own().compile("sgd", autocast="float16")
    Own().compile("sgd", autocast="float16", auto_scale_loss=False)
