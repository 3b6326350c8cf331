"""Documents of sentences of words: a model that reads words to sentences and sentences to a document.

The documents are the functions of Python's own library: a sentence is a line of code, a word is a name or a sign. The
question is whether a function gives something back, with the word `return` itself taken out. Lines have words, functions
have lines, neither are all of one length; padding on both levels is never read.

    python examples/documents.py
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from types import ModuleType

import numpy as np
import torch

import padless
from padless import Model, Packed, Sequential
from padless.layers import GRU, Dense, Embedding, GlobalAveragePooling1D, TimeDistributed

LINES, WORDS, VOCABULARY = 12, 12, 400


def functions(*modules: ModuleType) -> tuple[list[list[list[str]]], np.ndarray]:
    """The functions of modules as lines of words, and whether each returns a value."""
    found, labels = [], []
    for module in modules:
        source = inspect.getsource(module)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                text = textwrap.dedent(ast.get_source_segment(source, node) or "")
                returns = any(isinstance(inner, ast.Return) and inner.value is not None for inner in ast.walk(node))
                lines = [re.findall(r"\w+|[^\w\s]", line.replace("return ", "")) for line in text.splitlines()]
                found.append([line[:WORDS] for line in lines if line][:LINES])
                labels.append(returns)
    return found, np.array(labels, "float32")[:, None]


def numbered(documents: list[list[list[str]]]) -> np.ndarray:
    """Ids `(documents, lines, words)`, 0 where there is nothing; rare words share the last id."""
    words, counts = np.unique([word for lines in documents for line in lines for word in line], return_counts=True)
    known = {str(word): number + 1 for number, word in enumerate(words[np.argsort(-counts)][: VOCABULARY - 2])}
    ids = np.zeros((len(documents), LINES, WORDS), int)
    for row, lines in enumerate(documents):
        for place, line in enumerate(lines):
            ids[row, place, : len(line)] = [known.get(word, VOCABULARY - 1) for word in line]
    return ids


class Reader(Model):
    """Words to lines, lines to a document, a document to a probability."""

    def __init__(self, units: int = 24) -> None:
        super().__init__()
        self.line = Sequential([Embedding(VOCABULARY, 16, mask_zero=True), GlobalAveragePooling1D(), Dense(units, "tanh")])
        self.lines = TimeDistributed(self.line)
        self.scan = GRU(units)
        self.answer = Dense(1, activation="sigmoid")

    def call(self, inputs: torch.Tensor | Packed) -> torch.Tensor:
        """For each document the probability of yes, `(B, 1)`."""
        return self.answer(self.scan(self.lines(inputs)))


def main(epochs: int = 6, seed: int = 0) -> float:
    """Train on most functions, and print how many of the others are told right."""
    torch.manual_seed(seed)
    documents, labels = functions(ast, inspect, re, textwrap)
    x, order = numbered(documents), np.random.default_rng(seed).permutation(len(documents))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    model = Reader()
    model.compile(padless.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    model.fit(x[train], labels[train], batch_size=16, epochs=epochs, verbose=2)
    found = model.evaluate(x[test], labels[test], verbose=0, return_dict=True)["accuracy"]
    print(
        f"{len(test)} unseen functions: {found:.0%} told right, {max(labels.mean(), 1 - labels.mean()):.0%} are of the "
        f"commoner kind; {(x == 0).mean():.0%} of the array is padding"
    )
    return found


if __name__ == "__main__":
    main()
