"""Merging layers."""

from cases.case import Case
from padless import layers as L


def _combining() -> list[Case]:
    two, three = [(3,), (3,)], [(3,), (3,), (3,)]
    found = [Case(f"{cls.__name__}", cls, inputs=two if cls is L.Subtract else three)
             for cls in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)]
    return [
        *found,
        Case("Concatenate", lambda: L.Concatenate(), inputs=[(3,), (5,)]),
        Case("Concatenate-time", lambda: L.Concatenate(axis=1), inputs=two),
        Case("Concatenate-inner", lambda: L.Concatenate(axis=2), inputs=[(2, 3), (4, 3)]),
        Case("Add-broadcast", lambda: L.Add(), inputs=[(3,), (1,)]),
    ]


CASES = [*_combining()]
