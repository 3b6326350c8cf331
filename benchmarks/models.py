"""The models, written once for padless and Keras: `library` is either module, since the names are the same."""

from __future__ import annotations

from typing import Any

from benchmarks.workloads import Workload


def build(library: Any, workload: Workload) -> Any:
    """Return the compiled model of a workload."""
    w, layers = workload, library.layers
    ids = library.Input((None,), dtype="int32")
    h = layers.Embedding(w.vocabulary, w.features, mask_zero=True)(ids)
    scores = layers.Dense(w.classes)(_apply_middle(layers, w, h))
    model = library.Model(ids, scores)
    model.compile("adam", library.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _apply_middle(layers: Any, w: Workload, h: Any) -> Any:
    """Apply the layers between Embedding and Dense."""
    if w.kind == "lstm":
        return layers.LSTM(w.units, return_sequences=w.step_labels)(h)
    if w.kind == "gru":
        return layers.GRU(w.units, return_sequences=w.step_labels)(h)
    if w.kind == "bilstm":
        return layers.Bidirectional(layers.LSTM(w.units, return_sequences=w.step_labels))(h)
    if w.kind == "conv":
        return layers.GlobalMaxPooling1D()(layers.Conv1D(w.units, w.window, padding="same", activation="relu")(h))
    if w.kind == "mean":
        return layers.GlobalAveragePooling1D()(h)
    for _ in range(w.blocks):
        h = _apply_block(layers, w, h)
    return layers.LayerNormalization()(h)


def _apply_block(layers: Any, w: Workload, h: Any) -> Any:
    """Apply a pre-norm transformer block."""
    n = layers.LayerNormalization()(h)
    h = layers.Add()([h, layers.MultiHeadAttention(w.heads, w.features // w.heads)(n, n)])
    n = layers.Dense(w.units, activation="relu")(layers.LayerNormalization()(h))
    return layers.Add()([h, layers.Dense(w.features)(n)])
