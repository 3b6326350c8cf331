"""Layers in which a step sees itself."""

from typing import Any

import torch

from cases.case import GRID, IDS, NOISE, Case
from padless import layers as L
from padless.registry import entries
from padless.saving.serialization import register_keras_serializable


@register_keras_serializable("tests")
def running(x: Any, mask: Any = None) -> Any:
    """Return cumulative sums: a function that computes on the padded grid."""
    return (x if mask is None else torch.where(mask[..., None], x, 0)).cumsum(1)


@register_keras_serializable("tests")
def thirds(x: Any, factor: float) -> Any:
    """A function of single steps."""
    return torch.cat([x * factor, x.square().sum(-1, keepdim=True)], -1)


@register_keras_serializable("tests")
def positive(inputs: Any, mask: Any) -> Any:
    """Return a mask with fewer real steps than the input."""
    steps = (inputs > 0).any(-1)
    return steps if mask is None else steps.unpack(0) & mask


def _stepwise() -> list[Case]:
    cases = [
        Case("Dense", lambda: L.Dense(2)),
        Case("Dense-no-bias", lambda: L.Dense(2, activation="relu", use_bias=False)),
        Case("Dense-softmax", lambda: L.Dense(5, activation="softmax", kernel_regularizer="l2")),
        Case("Dense-activity", lambda: L.Dense(2, activity_regularizer="l1")),
        Case("Dense-4D", lambda: L.Dense(2), inputs=(5, 3)),
        Case("Dropout", lambda: L.Dropout(0.5)),
        Case("Dropout-seed", lambda: L.Dropout(0.5, seed=3)),
        Case("Dropout-training", lambda: L.Dropout(0.5), known_violations=NOISE, options={"training": True}),
        Case(
            "Dropout-sequences",
            lambda: L.Dropout(0.5, noise_shape=(None, 1, None)),
            known_violations=NOISE,
            options={"training": True},
        ),
        *_noises(),
        *_activations(),
        Case("Identity", lambda: L.Identity()),
        Case("ActivityRegularization", lambda: L.ActivityRegularization(0.1, 0.2)),
        Case("ActivityRegularization-4D", lambda: L.ActivityRegularization(l2=0.2), inputs=(5, 3)),
        Case("Lambda", lambda: L.Lambda(torch.sin)),
        Case("Lambda-arguments", lambda: L.Lambda(thirds, arguments={"factor": 3})),
        Case("Lambda-grid", lambda: L.Lambda(running)),
        Case("LayerNormalization", lambda: L.LayerNormalization()),
        Case("LayerNormalization-plain", lambda: L.LayerNormalization(center=False, scale=False, epsilon=1e-5)),
        Case("LayerNormalization-axes", lambda: L.LayerNormalization(axis=[2, 3]), inputs=(5, 3)),
        Case("LayerNormalization-inner", lambda: L.LayerNormalization(axis=2), inputs=(5, 3)),
        Case("Reshape", lambda: L.Reshape((-1, 2, 3)), inputs=(6,)),
        Case("InputLayer", lambda: L.InputLayer((None, 3))),
        Case("Embedding", lambda: L.Embedding(7, 3), inputs=IDS),
        Case("Embedding-zero", lambda: L.Embedding(7, 3, mask_zero=True), inputs=IDS, options={"creates_mask": True}),
        Case("Embedding-narrowed", lambda: L.Embedding(7, 3, mask_zero=True), inputs=IDS),
        Case(
            "Embedding-floats",
            lambda: L.Embedding(7, 3, mask_zero=True, embeddings_regularizer="l2"),
            inputs=lambda generator, grid: IDS(generator, grid).int(),
        ),
        Case("Masking", lambda: L.Masking(), options={"creates_mask": True}),
        Case("Masking-narrowed", lambda: L.Masking(mask_value=9.0)),
        Case("DropMask", lambda: L.DropMask(), known_violations=GRID),
        Case("Flatten", lambda: L.Flatten(), known_violations=GRID),
    ]
    for name in sorted({function.__name__ for function in entries("activation").values()}):
        if name not in ("glu", "threshold"):  # one halves the features, the other has arguments without a default
            cases.append(Case(f"Activation-{name}", lambda n=name: L.Activation(n)))
    return [*cases, Case("Activation-glu", lambda: L.Activation("glu"), inputs=(6,))]


def _noises() -> list[Case]:
    layers = {
        "GaussianNoise": lambda: L.GaussianNoise(0.5),
        "GaussianDropout": lambda: L.GaussianDropout(0.4),
        "AlphaDropout": lambda: L.AlphaDropout(0.3),
        "AlphaDropout-sequences": lambda: L.AlphaDropout(0.3, noise_shape=(None, 1, None)),
        "AlphaDropout-columns": lambda: L.AlphaDropout(0.3, noise_shape=(1, None, 1)),
        "SpatialDropout1D": lambda: L.SpatialDropout1D(0.5),
    }
    cases = [
        Case(f"{name}-training", make, known_violations=NOISE, options={"training": True}) for name, make in layers.items()
    ]
    return [
        *cases,
        *(Case(name, make) for name, make in layers.items()),
        Case("GaussianNoise-seed", lambda: L.GaussianNoise(0.5, seed=2)),
    ]


def _activations() -> list[Case]:
    return [
        Case("ReLU", lambda: L.ReLU()),
        Case("ReLU-all", lambda: L.ReLU(max_value=1.5, negative_slope=0.2, threshold=0.3)),
        Case("LeakyReLU", lambda: L.LeakyReLU(0.2)),
        Case("ELU", lambda: L.ELU(alpha=0.5)),
        Case("PReLU", lambda: L.PReLU(shared_axes=[1], alpha_regularizer="l2")),
        Case("PReLU-4D", lambda: L.PReLU(shared_axes=[1, 3]), inputs=(5, 3)),
        Case("Softmax", lambda: L.Softmax()),
        Case("Softmax-inner", lambda: L.Softmax(axis=2), inputs=(5, 3)),
        Case("Softmax-features", lambda: L.Softmax(axis=[2, -1]), inputs=(5, 3)),
        Case("Softmax-time", lambda: L.Softmax(axis=1)),
        Case("Softmax-all", lambda: L.Softmax(axis=(-1, 1)), inputs=(3,)),
        Case("Softmax-some", lambda: L.Softmax(axis=(3, 1)), inputs=(5, 3)),
        Case(
            "Softmax-scores",
            lambda: L.Softmax(),
            inputs=(),
            known_violations={
                "ignores_padding": "an explicit mask with as many axes as the input selects numbers, and is not passed on"
            },
        ),
    ]


CASES = [*_stepwise()]
