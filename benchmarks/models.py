"""The models, written once for padless and for Keras: `kit` is either module, since the names are the same."""

from __future__ import annotations

from typing import Any

from benchmarks.workloads import Workload


def build(kit: Any, workload: Workload) -> Any:
    """The model, compiled."""
    w, layers = workload, kit.layers
    ids = kit.Input((None,), dtype="int32")
    h = layers.Embedding(w.vocabulary, w.features, mask_zero=True)(ids)
    scores = layers.Dense(w.classes)(_middle(layers, w, h))
    model = kit.Model(ids, scores)
    model.compile("adam", kit.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _middle(layers: Any, w: Workload, h: Any) -> Any:
    if w.kind == "lstm":
        return layers.LSTM(w.units, return_sequences=w.tags)(h)
    if w.kind == "gru":
        return layers.GRU(w.units, return_sequences=w.tags)(h)
    if w.kind == "bilstm":
        return layers.Bidirectional(layers.LSTM(w.units, return_sequences=w.tags))(h)
    if w.kind == "conv":
        return layers.GlobalMaxPooling1D()(layers.Conv1D(w.units, w.window, padding="same", activation="relu")(h))
    if w.kind == "mean":
        return layers.GlobalAveragePooling1D()(h)
    for _ in range(w.blocks):
        h = _block(layers, w, h)
    return layers.LayerNormalization()(h)


def _block(layers: Any, w: Workload, h: Any) -> Any:
    """A block of a transformer, the norms before."""
    n = layers.LayerNormalization()(h)
    h = layers.Add()([h, layers.MultiHeadAttention(w.heads, w.features // w.heads)(n, n)])
    n = layers.Dense(w.units, activation="relu")(layers.LayerNormalization()(h))
    return layers.Add()([h, layers.Dense(w.features)(n)])
