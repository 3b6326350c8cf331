"""Forged files for `load_weights`: damaged bytes and changed headers. A failed load changes no weight."""

from __future__ import annotations

import random
from functools import cache

import torch

from fuzz._files import PATH, File, end_of, mutate_bytes, mutate_header
from padless import Input, Model
from padless.layers import GRU, BatchNormalization, Bidirectional, Dense, Embedding


@cache
def model_and_file() -> tuple[Model, bytes]:
    """Return a model, and the file of its weights."""
    ids = Input((None,))
    hidden = Bidirectional(GRU(2, return_sequences=True))(Embedding(5, 3, mask_zero=True)(ids))
    model = Model(ids, Dense(2, name="dense_1")(Dense(2, name="dense_01")(BatchNormalization()(hidden))))
    model.save_weights(PATH)
    return model, PATH.read_bytes()


def run_case(seed: int) -> str:
    """Load a forged file of the seed, and return how it ended."""
    rng = random.Random(seed)
    model, content = model_and_file()
    foreign = rng.random() < 0.3
    if rng.random() < 0.3:
        kind, forged = "bytes", mutate_bytes(rng, content)
    else:
        kind, file = "header", File.from_bytes(content)
        for _ in range(rng.choice((1, 1, 3))):
            mutate_header(rng, file)
        if foreign and rng.random() < 0.5:
            file.metadata = {"format": "pt"}
        elif rng.random() < 0.8:
            file.repair()
        forged = file.to_bytes()
    before = [weight.detach().clone() for weight in model.state_dict().values()]
    label = end_of(lambda path: model.load_weights(path, foreign=foreign), forged)
    after = list(model.state_dict().values())
    if label != "loaded":
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "a failed load has changed a weight"
    with torch.no_grad():
        for weight, value in zip(after, before, strict=True):
            weight.copy_(value)
    return f"{kind}{' foreign' if foreign else ''}: {label}"
