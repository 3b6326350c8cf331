"""Forged files for `load_model`: damaged bytes, changed headers, and configs with values of attacks."""

from __future__ import annotations

import json
import random
from functools import cache

import numpy as np
import torch

from fuzz._files import PATH, File, end_of, mutate_bytes, mutate_header, mutate_value
from padless import Input, Model, Sequential, load_model
from padless.layers import (
    GRU,
    LSTM,
    RNN,
    Add,
    BatchNormalization,
    Bidirectional,
    Concatenate,
    Conv1D,
    Dense,
    Dropout,
    Embedding,
    GlobalAveragePooling1D,
    GRUCell,
    Lambda,
    Layer,
    LayerNormalization,
    Masking,
    MultiHeadAttention,
    TimeDistributed,
)
from padless.saving import register_keras_serializable


@register_keras_serializable("fuzz")
class Registered(Layer):
    """A user-defined layer with weights."""

    def __init__(self, units: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight((input_shape[-1], self.units), name="kernel")

    def call(self, inputs):
        return inputs @ self.kernel


@register_keras_serializable("fuzz")
class Blocks(Model):
    """A user-defined model."""

    def __init__(self, units: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = Dense(units)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def make_models() -> list[Model]:
    """Return models that together have the constructs of a config."""
    ids, x, y = Input((None,), name="ids"), Input((None, 3), name="x"), Input((4,), name="y")
    embedded = Embedding(5, 3, mask_zero=True)(ids)
    lstm = LSTM(2, return_sequences=True, kernel_regularizer="l2")
    recorded = torch.cat([(x * 2 + 1)[..., :2], torch.nn.functional.softmax(x, dim=-1).abs()], dim=-1)
    shared = Dense(2, activation="relu")
    inner = Model(x, Bidirectional(GRU(2, return_sequences=True))(x), name="inner")
    subclass = Blocks()
    subclass(np.ones((2, 3), np.float32))
    return [
        Model(ids, Dense(2, activation="softmax", kernel_constraint="max_norm")(Dropout(0.1)(lstm(embedded)))),
        Model(x, Dense(1)(recorded)),
        Model({"a": x, "b": y}, {"out": Add()([shared(x[..., 0:1]), shared(x[..., 1:2])]), "head": Dense(2)(y)}),
        Model(ids, inner(embedded)),
        Sequential(
            [Input((None, 3)), Masking(), Conv1D(2, 3, padding="causal"), LayerNormalization(), GlobalAveragePooling1D()]
        ),
        Sequential([Input((None, 4, 2)), TimeDistributed(Dense(2)), BatchNormalization()]),
        Model(x, RNN([GRUCell(2), GRUCell(3)])(Registered(4)(x))),
        Model(x, Concatenate()([MultiHeadAttention(1, 2)(x, x), Lambda(torch.tanh)(x), TimeDistributed(Dense(2))(x)])),
        subclass,
    ]


@cache
def base_files() -> list[bytes]:
    """Return the files of valid models."""
    contents = []
    for model in make_models():
        model.save(PATH)
        contents.append(PATH.read_bytes())
    return contents


def run_case(seed: int) -> str:
    """Load a forged file of the seed, and return how it ended."""
    rng = random.Random(seed)
    content = rng.choice(base_files())
    kind = rng.choice(("bytes", "header", "config", "config", "config", "config"))
    if kind == "bytes":
        return f"{kind}: {end_of(load_model, mutate_bytes(rng, content))}"
    file = File.from_bytes(content)
    if kind == "header":
        mutate_header(rng, file)
    else:
        donor = json.loads(File.from_bytes(rng.choice(base_files())).metadata["padless.config"])
        config = mutate_value(rng, json.loads(file.metadata["padless.config"]), donor)
        file.metadata["padless.config"] = json.dumps(config)
    if kind == "config" or rng.random() < 0.7:
        file.repair()
    return f"{kind}: {end_of(load_model, file.to_bytes())}"
