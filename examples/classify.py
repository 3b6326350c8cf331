"""Classification: predict from which module of Python's library a line of code is.

Lines have different numbers of words. The data are lists, and no padding is needed.

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


def read_lines(*modules: ModuleType) -> tuple[list[list[str]], np.ndarray]:
    """Return the words of each line that has at least three, and the number of its module."""
    pairs = [
        (words, number)
        for number, module in enumerate(modules)
        for line in inspect.getsource(module).splitlines()
        if len(words := re.findall(r"\w+|[^\w\s]", line)) > 2
    ]
    return [words for words, _ in pairs], np.array([number for _, number in pairs])


def encode(rows: list[list[str]]) -> list[list[int]]:
    """Return ids from 1; rare words share the last id."""
    words, counts = np.unique([word for row in rows for word in row], return_counts=True)
    ids = {str(word): number + 1 for number, word in enumerate(words[np.argsort(-counts)][: VOCABULARY - 2])}
    return [[ids.get(word, VOCABULARY - 1) for word in row] for row in rows]


def build_classifier() -> Model:
    """Return a model of the mean of the word vectors."""
    return Sequential(
        [
            Embedding(VOCABULARY, 32, mask_zero=True),
            GlobalAveragePooling1D(),
            Dropout(0.3),
            Dense(len(MODULES), activation="softmax"),
        ]
    )


def main(epochs: int = 6, seed: int = 0) -> float:
    """Train on 80 % of the lines, and return the accuracy on the others; modules have equal total weight."""
    torch.manual_seed(seed)
    rows, labels = read_lines(*MODULES)
    x, order = encode(rows), np.random.default_rng(seed).permutation(len(rows))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    model = build_classifier()
    model.compile(padless.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    weights = len(labels) / (len(MODULES) * np.bincount(labels))
    model.fit(
        [x[i] for i in train], labels[train], sample_weight=weights[labels[train]], batch_size=32, epochs=epochs, verbose=2
    )
    accuracy = model.evaluate([x[i] for i in test], labels[test], verbose=0, return_dict=True)["accuracy"]
    most_common = np.bincount(labels).max() / len(labels)
    print(f"{len(test)} unseen lines: accuracy {accuracy:.0%}; {most_common:.0%} of all lines are from one module")
    return accuracy


if __name__ == "__main__":
    main()
