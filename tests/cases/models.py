"""Models."""

from cases.case import IDS, Case
from padless import layers as L
from padless.models import Model, Sequential


def _model(masked: bool) -> Model:
    x = L.Input((None, 3), masked=masked, name="x")
    h = L.LSTM(4, return_sequences=True, name="lstm")(L.Masking(name="masking")(x))
    h = L.Add(name="add")([h, L.Dense(4, activation="tanh", name="dense")(h)])
    return Model(x, [L.Dense(2, name="steps")(h), L.GlobalAveragePooling1D(name="whole")(h)], name="tagger")


def _tagger() -> Sequential:
    return Sequential([L.Embedding(7, 3, mask_zero=True), L.Bidirectional(L.GRU(4, return_sequences=True)), L.Dense(2)])


MODELS = [
    Case("Model-mask-created", lambda: _model(False), options={"creates_mask": True}),
    Case("Model-masked-input", lambda: _model(True)),
    Case("Sequential", _tagger, inputs=IDS, options={"creates_mask": True}),
]
