"""Types of the public interface, checked by pyright in `scripts/test`; pytest runs the same code.

`assert_type` does nothing when it runs. pyright fails if the type of its first argument is not exactly the second.
"""

from typing import assert_type

import numpy as np
import torch
from torch import Tensor

import padless
from padless import Model, Packed, Sequential
from padless.callbacks import EarlyStopping, History
from padless.data.parquet_files import Parquet
from padless.graph import SymbolicTensor
from padless.layers import LSTM, Dense, Embedding
from padless.losses import Loss, MeanSquaredError
from padless.metrics import Accuracy, Metric
from padless.optimizers import Adam
from padless.optimizers.schedules import CosineDecay
from padless.types import StepTensor


def test_public_namespaces_are_modules():
    assert_type(EarlyStopping("loss"), EarlyStopping)
    assert_type(padless.callbacks.EarlyStopping("loss"), EarlyStopping)
    assert_type(padless.losses.MeanSquaredError(), MeanSquaredError)
    assert_type(padless.metrics.Accuracy(), Accuracy)
    assert_type(padless.optimizers.Adam(), Adam)
    assert_type(padless.optimizers.schedules.CosineDecay(0.1, 10), CosineDecay)
    assert_type(padless.layers.LSTM(2), LSTM)
    assert_type(padless.layers.Embedding(3, 2), Embedding)


def test_packed_and_its_operators():
    packed = padless.pack([[1, 2], [3]])
    assert_type(packed, Packed)
    assert_type(packed + 1, Packed)
    assert_type(packed * 2 + packed, Packed)
    assert_type(1 - packed, Packed)
    assert_type(-packed, Packed)
    assert_type(packed > 0, Packed)
    assert_type(packed[:, 1:], Packed)
    assert_type(packed.values, Tensor)
    assert_type(packed.mask, Tensor)
    assert_type(packed.lengths, Tensor)
    assert_type(packed.shape, torch.Size)
    assert_type(packed.sequences(), list[Tensor])
    assert_type(packed.unpack(), Tensor)
    assert_type(padless.unpack(packed), Tensor)
    for sequence in packed:
        assert_type(sequence, Tensor)


def test_input_and_its_operators():
    x = padless.Input((None, 3))
    assert_type(x, SymbolicTensor)
    assert_type(2 * x, SymbolicTensor)
    assert_type(x[..., :2], SymbolicTensor)


def test_losses_metrics_and_optimizers():
    loss = padless.losses.get("mse")
    assert_type(loss, Loss)
    assert_type(loss(torch.zeros(1, 2), torch.zeros(1, 2)), Tensor)
    assert_type(padless.losses.MeanSquaredError()(torch.zeros(1, 2), torch.zeros(1, 2)), Tensor)
    assert_type(padless.metrics.get("mse"), Metric)
    assert_type(padless.metrics.Mean().result(), Tensor)
    assert_type(padless.optimizers.get("adam"), torch.optim.Optimizer)


def test_models_are_constructed():
    model = Sequential([Embedding(5, 2, mask_zero=True), Dense(1)])
    assert_type(model, Sequential)
    x = padless.Input((None,))
    assert_type(Model(x, Embedding(5, 2)(x)), Model)
    model.compile("sgd", "mse")
    history = model.fit(np.array([[1, 2]]), np.zeros((1, 2, 1)), verbose=0)
    assert_type(history, History)
    assert_type(history.epoch, list[int])


def test_a_call_returns_steps():
    layer: torch.nn.Module = Dense(2)
    assert isinstance(layer, padless.Layer)
    packed = padless.pack(torch.ones(2, 3, 4))
    assert_type(layer(packed), StepTensor)
    assert_type(Dense(2)(packed), StepTensor)
    assert_type(Dense(2)(torch.ones(2, 4)), Tensor)
    assert_type(Embedding(3, 2, mask_zero=True)(torch.ones(1, 2)), StepTensor)
    assert_type(Dense(2)(padless.Input((None, 4))), SymbolicTensor)


def test_fit_accepts_parquet_files():
    def fit(model: Model, data: Parquet) -> History:
        return model.fit(data, validation_data=data)

    assert callable(fit)
