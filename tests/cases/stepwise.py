"""Layers in which a step sees itself."""

from cases.case import GRID, IDS, NOISE, Case
from padless import layers as L
from padless.registry import entries


def _stepwise() -> list[Case]:
    found = [
        Case("Dense", lambda: L.Dense(2)),
        Case("Dense-no-bias", lambda: L.Dense(2, activation="relu", use_bias=False)),
        Case("Dense-softmax", lambda: L.Dense(5, activation="softmax", kernel_regularizer="l2")),
        Case("Dense-activity", lambda: L.Dense(2, activity_regularizer="l1")),
        Case("Dense-4D", lambda: L.Dense(2), inputs=(5, 3)),
        Case("Dropout", lambda: L.Dropout(0.5)),
        Case("Dropout-seed", lambda: L.Dropout(0.5, seed=3)),
        Case("Dropout-training", lambda: L.Dropout(0.5), breaks=NOISE, options={"training": True}),
        Case("Dropout-sequences", lambda: L.Dropout(0.5, noise_shape=(None, 1, None)), breaks=NOISE,
             options={"training": True}),
        Case("LayerNormalization", lambda: L.LayerNormalization()),
        Case("LayerNormalization-plain", lambda: L.LayerNormalization(center=False, scale=False, epsilon=1e-5)),
        Case("LayerNormalization-axes", lambda: L.LayerNormalization(axis=[2, 3]), inputs=(5, 3)),
        Case("LayerNormalization-inner", lambda: L.LayerNormalization(axis=2), inputs=(5, 3)),
        Case("Reshape", lambda: L.Reshape((-1, 2, 3)), inputs=(6,)),
        Case("InputLayer", lambda: L.InputLayer((None, 3))),
        Case("Embedding", lambda: L.Embedding(7, 3), inputs=IDS),
        Case("Embedding-zero", lambda: L.Embedding(7, 3, mask_zero=True), inputs=IDS, options={"born": True}),
        Case("Embedding-narrowed", lambda: L.Embedding(7, 3, mask_zero=True), inputs=IDS),
        Case("Embedding-floats", lambda: L.Embedding(7, 3, mask_zero=True, embeddings_regularizer="l2"),
             inputs=lambda generator, grid: IDS(generator, grid).int()),
        Case("Masking", lambda: L.Masking(), options={"born": True}),
        Case("Masking-narrowed", lambda: L.Masking(mask_value=9.0)),
        Case("DropMask", lambda: L.DropMask(), breaks=GRID),
        Case("Flatten", lambda: L.Flatten(), breaks=GRID),
    ]
    for name in sorted({function.__name__ for function in entries("activation").values()}):
        if name not in ("glu", "threshold"):  # one halves the features, the other has arguments without a default
            found.append(Case(f"Activation-{name}", lambda n=name: L.Activation(n)))
    return [*found, Case("Activation-glu", lambda: L.Activation("glu"), inputs=(6,))]


CASES = [*_stepwise()]
