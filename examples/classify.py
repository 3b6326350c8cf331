"""Classification: which module of Python's library does a line of code come from?

Lines have words, and are not all of one length; they go in as lists, in batches of any kind of line.

    python examples/classify.py
"""

from __future__ import annotations

import ast
import inspect
import re
import statistics
import textwrap
from types import ModuleType

import numpy as np
import torch

import padless
from padless import Model, Sequential
from padless.layers import Dense, Dropout, Embedding, GlobalAveragePooling1D

MODULES, VOCABULARY = (ast, statistics, textwrap), 800


def lines(*modules: ModuleType) -> tuple[list[list[str]], np.ndarray]:
    """The words of each line that has at least three, and the number of its module."""
    found = [
        (words, number)
        for number, module in enumerate(modules)
        for line in inspect.getsource(module).splitlines()
        if len(words := re.findall(r"\w+|[^\w\s]", line)) > 2
    ]
    return [words for words, _ in found], np.array([number for _, number in found])


def numbered(rows: list[list[str]]) -> list[list[int]]:
    """Ids from 1; words that are too rare share the last one."""
    words, counts = np.unique([word for row in rows for word in row], return_counts=True)
    known = {str(word): number + 1 for number, word in enumerate(words[np.argsort(-counts)][: VOCABULARY - 2])}
    return [[known.get(word, VOCABULARY - 1) for word in row] for row in rows]


def classifier() -> Model:
    """The mean of the words' vectors, and a layer on top."""
    return Sequential(
        [
            Embedding(VOCABULARY, 32, mask_zero=True),
            GlobalAveragePooling1D(),
            Dropout(0.3),
            Dense(len(MODULES), activation="softmax"),
        ]
    )


def main(epochs: int = 6, seed: int = 0) -> float:
    """Train on most lines, with modules weighed against their sizes, and print how many of the others are told right."""
    torch.manual_seed(seed)
    rows, labels = lines(*MODULES)
    x, order = numbered(rows), np.random.default_rng(seed).permutation(len(rows))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    model = classifier()
    model.compile(padless.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    weights = len(labels) / (len(MODULES) * np.bincount(labels))
    model.fit(
        [x[i] for i in train], labels[train], sample_weight=weights[labels[train]], batch_size=32, epochs=epochs, verbose=2
    )
    found = model.evaluate([x[i] for i in test], labels[test], verbose=0, return_dict=True)["accuracy"]
    print(
        f"{len(test)} unseen lines: {found:.0%} told right, {np.bincount(labels).max() / len(labels):.0%} are of the "
        f"commonest module"
    )
    return found


if __name__ == "__main__":
    main()
