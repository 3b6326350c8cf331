"""Layers that return a summary of a sequence."""

from typing import Any

from cases.case import Case
from padless import layers as L
from padless.layers.base.layer import get
from padless.saving.serialization import register_keras_serializable


@register_keras_serializable("tests")
class Scored(L.Layer):
    """Attention pooling that also returns its scores."""

    relation = "reduce"

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = get(layer)

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs, return_attention_scores=True)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return [None, mask]

    def compute_output_shape(self, input_shape: Any) -> Any:
        scores = () if self.layer.num_queries is None else (self.layer.num_queries,)
        return [self.layer.compute_output_shape(input_shape), (*input_shape[:2], *scores)]


def _segments() -> list[Case]:
    classes = (L.GlobalAveragePooling1D, L.GlobalMaxPooling1D, L.GlobalSumPooling1D, L.FirstStep, L.LastStep)
    cases = [
        Case(f"{cls.__name__}-{shape}D", cls, inputs=features)
        for cls in classes
        for shape, features in ((3, (3,)), (4, (5, 3)))
    ]
    cases += [Case(f"{cls.__name__}-keepdims", lambda c=cls: c(keepdims=True)) for cls in classes[:3]]
    many: dict[str, Any] = {
        "units": 4,
        "num_queries": 2,
        "activation": "relu",
        "use_bias": False,
        "kernel_regularizer": "l2",
        "query_regularizer": "l1",
    }
    return [
        *cases,
        Case("AttentionPooling1D", lambda: L.AttentionPooling1D()),
        Case("AttentionPooling1D-keys", lambda: L.AttentionPooling1D(4, bias_regularizer="l2")),
        Case("AttentionPooling1D-queries", lambda: L.AttentionPooling1D(**many)),
        Case("AttentionPooling1D-scores", lambda: Scored(L.AttentionPooling1D(4))),
        Case("AttentionPooling1D-many-scores", lambda: Scored(L.AttentionPooling1D(num_queries=2))),
    ]


CASES = [*_segments()]
