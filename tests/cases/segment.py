"""Layers that summarise a sequence."""

from cases.case import Case
from padless import layers as L


def _segments() -> list[Case]:
    return [Case(f"{cls.__name__}-{shape}D", cls, inputs=features)
            for cls in (L.GlobalAveragePooling1D, L.FirstStep, L.LastStep)
            for shape, features in ((3, (3,)), (4, (5, 3)))] + [
        Case("GlobalAveragePooling1D-keepdims", lambda: L.GlobalAveragePooling1D(keepdims=True))]


CASES = [*_segments()]
