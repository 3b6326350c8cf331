"""Layers in which a step sees its neighbours."""

from typing import Any

from cases.case import Case
from padless import layers as L


def _windows() -> list[Case]:
    filters = {"Conv1D": {"filters": 6}, "Conv1DTranspose": {"filters": 4}, "SeparableConv1D": {"filters": 4}}
    variants: dict[str, dict[str, Any]] = {
        "Conv1D-valid": {},
        "Conv1D-same": {"padding": "same", "activation": "tanh"},
        "Conv1D-strides": {"strides": 2, "use_bias": False},
        "Conv1D-same-strides": {"padding": "same", "strides": 3, "activity_regularizer": "l2"},
        "Conv1D-dilation": {"dilation_rate": 2, "padding": "same"},
        "Conv1D-causal-strides": {"padding": "causal", "strides": 2},
        "Conv1D-groups": {"groups": 3, "padding": "causal", "kernel_regularizer": "l2"},
        "Conv1D-disjoint": {"kernel_size": 1, "strides": 2},
        "Conv1DTranspose-valid": {},
        "Conv1DTranspose-same": {"padding": "same", "activation": "tanh"},
        "Conv1DTranspose-strides": {"padding": "same", "strides": 2, "use_bias": False},
        "Conv1DTranspose-disjoint": {"kernel_size": 1, "strides": 3, "output_padding": 1},
        "DepthwiseConv1D-strides": {"padding": "same", "strides": 2},
        "DepthwiseConv1D-more": {"depth_multiplier": 2, "depthwise_regularizer": "l2"},
        "SeparableConv1D-strides": {"strides": 2},
        "SeparableConv1D-more": {"depth_multiplier": 2, "padding": "same", "pointwise_regularizer": "l1"},
    }
    pooled: dict[str, tuple[Any, ...]] = {"pairs": (2,), "same": (3, 1, "same"), "same-strides": (2, 3, "same")}
    cases = []
    for name, options in variants.items():
        cls = name.split("-")[0]
        arguments = {"kernel_size": 3, **filters.get(cls, {}), **options}
        cases.append(Case(name, lambda c=cls, a=arguments: getattr(L, c)(**a)))
    cases += [
        Case(f"{cls.__name__}-{name}", lambda c=cls, a=arguments: c(*a))
        for cls in (L.MaxPooling1D, L.AveragePooling1D)
        for name, arguments in pooled.items()
    ]
    return [
        *cases,
        Case("Cropping1D", lambda: L.Cropping1D((2, 1))),
        Case("ZeroPadding1D", lambda: L.ZeroPadding1D((2, 1))),
        Case("UpSampling1D", lambda: L.UpSampling1D(3)),
    ]


CASES = [*_windows()]
