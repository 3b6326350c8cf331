"""Documents of sentences of words: encoders in TimeDistributed, and layers after them.

A step of the properties is a sentence here, with padded words.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cases.case import Case
from padless import layers as L
from padless.models import Model, Sequential
from padless.testing.masks import Draw

WORDS = 4


def sentences(size: int, features: int = 0) -> Draw:
    """Return a function that draws sentences of one to four words with gaps: ids below `size`, or vectors of numbers."""

    def draw(generator: torch.Generator, grid: tuple[int, ...]) -> Tensor:
        ids = torch.randint(size, (*grid, WORDS), generator=generator)
        first = torch.randint(WORDS, (*grid, 1), generator=generator)
        ids = ids.scatter(-1, first, ids.gather(-1, first).clamp(min=1))
        if not features:
            return ids
        numbers = torch.randn(*ids.shape, features, generator=generator, dtype=torch.float64)
        return torch.where(ids[..., None] > 1, numbers, 0) + (ids[..., None] == 1)

    return draw


def _documents(*layers: Callable[[], Any]) -> Callable[[], Sequential]:
    return lambda: Sequential([L.Embedding(5, 3, mask_zero=True), *(make() for make in layers)])


def _td(make: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: L.TimeDistributed(make())


def _encoder() -> Model:
    x = L.Input((None, 3), masked=True)
    h = L.GRU(2, return_sequences=True)(x)
    return Model(x, [L.GlobalMaxPooling1D()(h), h])


def _cases() -> list[Case]:
    sequences: dict[str, Any] = {"return_sequences": True}
    encoders = {
        "lstm": _documents(_td(lambda: L.LSTM(4)), lambda: L.LSTM(2)),
        "words": _documents(_td(lambda: L.LSTM(4, **sequences)), lambda: L.LayerNormalization(), lambda: L.Dense(2)),
        "states": _documents(_td(lambda: L.GRU(4, return_state=True, **sequences))),
        "attention": _documents(
            _td(lambda: L.Bidirectional(L.GRU(2, **sequences))),
            _td(lambda: L.AttentionPooling1D(5)),
            lambda: L.AttentionPooling1D(2),
        ),
        "block": _documents(_td(lambda: L.TransformerEncoder(6, 3)), _td(lambda: L.GlobalAveragePooling1D())),
        "window": _documents(_td(lambda: L.Conv1D(2, 3, padding="same")), _td(lambda: L.GlobalMaxPooling1D())),
        "sequential": _documents(
            _td(lambda: Sequential([L.Dense(2, activation="tanh"), L.SimpleRNN(4)])), lambda: L.LastStep()
        ),
        "model": _documents(_td(_encoder)),
        "twice": _documents(_td(lambda: L.LSTM(4, **sequences)), _td(lambda: L.Dense(2)), _td(lambda: L.LastStep())),
    }
    cases = [
        Case(f"TimeDistributed-{name}", make, inputs=sentences(5), options={"creates_mask": True})
        for name, make in encoders.items()
    ]
    numbers = lambda: Sequential([L.Masking(), L.TimeDistributed(L.GRU(2)), L.GlobalSumPooling1D()])  # noqa: E731
    return [
        *cases,
        Case(
            "TimeDistributed-numbers",
            numbers,
            inputs=sentences(5, 3),
            options={"creates_mask": True},
            known_violations={"gradients": "a word of zeros is masked, and a word near zero is not"},
        ),
    ]


CASES = [*_cases()]
