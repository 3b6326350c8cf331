"""Normalizations, and products along any axes."""

from typing import Any

from cases.case import IDS, Case
from padless import layers as L

BATCH = {
    "matches_unpadded": "in training its statistics are those of the batch",
    "independent_of_batch": "in training its statistics are those of the batch",
}


def _normalizing() -> list[Case]:
    variants: dict[str, tuple[dict[str, Any], Any]] = {
        "": ({}, (3,)),
        "-plain": ({"center": False, "scale": False, "momentum": 0.5}, (3,)),
        "-regularized": ({"epsilon": 0.1, "scale": False, "beta_regularizer": "l2"}, (3,)),
        "-axes": ({}, (5, 3)),
        "-inner": ({"axis": 2, "gamma_regularizer": "l1"}, (5, 3)),
    }
    cases = []
    for name, (arguments, inputs) in variants.items():
        cases += [
            Case(f"BatchNormalization{name}", lambda a=arguments: L.BatchNormalization(**a), inputs=inputs),
            Case(
                f"BatchNormalization-training{name}",
                lambda a=arguments: L.BatchNormalization(**a),
                inputs=inputs,
                known_violations=BATCH,
                options={"training": True},
            ),
        ]
    return [
        *cases,
        Case("BatchNormalization-renorm", lambda: L.BatchNormalization(renorm=True, renorm_clipping={"rmax": 2.0})),
        Case("BatchNormalization-frozen", lambda: L.BatchNormalization(trainable=False), options={"training": True}),
        Case("GroupNormalization", lambda: L.GroupNormalization(3), inputs=(6,)),
        Case("GroupNormalization-one", lambda: L.GroupNormalization(1, center=False, gamma_regularizer="l2")),
        Case("GroupNormalization-instance", lambda: L.GroupNormalization(-1, scale=False, epsilon=0.1)),
        Case("GroupNormalization-axes", lambda: L.GroupNormalization(2), inputs=(5, 4)),
        Case("GroupNormalization-inner", lambda: L.GroupNormalization(2, axis=2), inputs=(4, 3)),
        Case("LayerNormalization-rms", lambda: L.LayerNormalization(rms_scaling=True)),
        Case("LayerNormalization-rms-inner", lambda: L.LayerNormalization(axis=2, rms_scaling=True), inputs=(5, 3)),
        Case("RMSNormalization", lambda: L.RMSNormalization()),
        Case("RMSNormalization-axes", lambda: L.RMSNormalization(axis=[2, 3], epsilon=0.1), inputs=(5, 3)),
        Case("RMSNormalization-inner", lambda: L.RMSNormalization(axis=-2), inputs=(5, 3)),
        Case("UnitNormalization", lambda: L.UnitNormalization()),
        Case("UnitNormalization-axes", lambda: L.UnitNormalization(axis=[2, 3]), inputs=(5, 3)),
        Case("UnitNormalization-inner", lambda: L.UnitNormalization(axis=2), inputs=(5, 3)),
        Case("Rescaling", lambda: L.Rescaling(0.5, offset=-1)),
        Case("Rescaling-features", lambda: L.Rescaling([0.5, 2.0, 3.0], offset=[1.0, 0.0, -1.0])),
        Case("Rescaling-integers", lambda: L.Rescaling(1 / 7), inputs=IDS),
        Case("Normalization", lambda: L.Normalization()),
        Case("Normalization-invert", lambda: L.Normalization(axis=[2, 3], invert=True), inputs=(5, 3)),
        Case("Normalization-all", lambda: L.Normalization(axis=None)),
        Case("Normalization-inner", lambda: L.Normalization(axis=2), inputs=(5, 3)),
        Case("Normalization-statistics", lambda: L.Normalization(mean=[1.0, 2.0, 3.0], variance=[0.5, 0.0, 2.0])),
        Case("Normalization-number", lambda: L.Normalization(mean=1.0, variance=4.0, axis=None)),
    ]


def _products() -> list[Case]:
    return [
        Case("EinsumDense", lambda: L.EinsumDense("abc,cd->abd", (None, 2), bias_axes="d")),
        Case("EinsumDense-elided", lambda: L.EinsumDense("...x,xy->...y", 2, activation="tanh", kernel_regularizer="l2")),
        Case("EinsumDense-heads", lambda: L.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de")),
        Case("EinsumDense-joined", lambda: L.EinsumDense("abcd,cde->abe", (None, 4), bias_axes="e"), inputs=(5, 3)),
        Case("EinsumDense-turned", lambda: L.EinsumDense("abcd,ce->abde", (None, 3, 4), bias_axes="d"), inputs=(5, 3)),
        Case("EinsumDense-after", lambda: L.EinsumDense("abc...,cd->abd...", (None, 2), bias_axes="d"), inputs=(5, 3)),
        Case("EinsumDense-each", lambda: L.EinsumDense("abc,c->abc", (None, 3), activity_regularizer="l2")),
    ]


CASES = [*_normalizing(), *_products()]
