"""Merging layers, and layers between a sequence and its summary."""

from collections.abc import Callable
from typing import Any

from cases.case import Case
from padless import layers as L
from padless.models import Model


def _graph(make: Callable[..., Any], *features: int) -> Callable[[], Model]:
    """Return a function that builds a model of masked inputs with these numbers of features."""

    def build() -> Model:
        inputs = [L.Input((None, size), masked=True) for size in features]
        return Model(inputs[0] if len(inputs) == 1 else inputs, make(*inputs))

    return build


def _attended(x: Any, y: Any, normalize: bool = False) -> Any:
    """Return attention without a softmax: every step of x sees every step of y."""
    return L.Dot((2, 1))([L.Dot(2, normalize=normalize)([x, y]), y])


def _combining() -> list[Case]:
    two, three = [(3,), (3,)], [(3,), (3,), (3,)]
    cases = [
        Case(f"{cls.__name__}", cls, inputs=two if cls is L.Subtract else three)
        for cls in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)
    ]
    return [
        *cases,
        Case("Concatenate", lambda: L.Concatenate(), inputs=[(3,), (5,)]),
        Case("Concatenate-time", lambda: L.Concatenate(axis=1), inputs=two),
        Case("Concatenate-inner", lambda: L.Concatenate(axis=2), inputs=[(2, 3), (4, 3)]),
        Case("Add-broadcast", lambda: L.Add(), inputs=[(3,), (1,)]),
        Case("Dot-time", lambda: L.Dot(1), inputs=[(3,), (5,)]),
        Case("Dot-time-normalize", lambda: L.Dot([1, 1], normalize=True), inputs=[(3,), (2, 5)]),
        Case("Dot-time-numbers", lambda: L.Dot(1), inputs=[(), (5,)]),
        Case("Dot-vector", _graph(lambda x: L.Dot((1, 2))([L.LastStep()(x), x]), 3)),
        Case("Dot-vector-second", _graph(lambda x: L.Dot((-1, -1), normalize=True)([x, L.LastStep()(x)]), 3)),
        Case("Dot-features", _graph(_attended, 3, 3), inputs=two),
        Case("Dot-features-normalize", _graph(lambda x, y: _attended(x, y, True), 3, 3), inputs=two),
        Case("RepeatVector", _graph(lambda x: L.RepeatVector(2)(L.LastStep()(x)), 3)),
        Case("RepeatVector-back", _graph(lambda x: L.Add()([x, L.RepeatVector()([L.LastStep()(x), x])]), 3)),
        Case("Permute", lambda: L.Permute((1, 3, 2)), inputs=(5, 3)),
        Case("Permute-not", lambda: L.Permute((1, 2))),
    ]


CASES = [*_combining()]
