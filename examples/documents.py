"""Documents of sentences of words: predict whether a Python function returns a value.

A document is a function of Python's library, a sentence is a line of code, and a word is a name or a sign. The word
`return` is removed. Lines and functions have different lengths. Padding on both levels has no influence.

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


def read_functions(*modules: ModuleType) -> tuple[list[list[list[str]]], np.ndarray]:
    """Return the functions of modules as lines of words, and whether each returns a value."""
    documents, labels = [], []
    for module in modules:
        source = inspect.getsource(module)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                text = textwrap.dedent(ast.get_source_segment(source, node) or "")
                returns = any(isinstance(inner, ast.Return) and inner.value is not None for inner in ast.walk(node))
                lines = [re.findall(r"\w+|[^\w\s]", line.replace("return ", "")) for line in text.splitlines()]
                documents.append([line[:WORDS] for line in lines if line][:LINES])
                labels.append(returns)
    return documents, np.array(labels, "float32")[:, None]


def encode(documents: list[list[list[str]]]) -> np.ndarray:
    """Return ids `(documents, lines, words)` with 0 as padding; rare words share the last id."""
    words, counts = np.unique([word for lines in documents for line in lines for word in line], return_counts=True)
    id_of_word = {str(word): number + 1 for number, word in enumerate(words[np.argsort(-counts)][: VOCABULARY - 2])}
    ids = np.zeros((len(documents), LINES, WORDS), int)
    for row, lines in enumerate(documents):
        for column, line in enumerate(lines):
            ids[row, column, : len(line)] = [id_of_word.get(word, VOCABULARY - 1) for word in line]
    return ids


class DocumentClassifier(Model):
    """Encode lines, then the document, then predict a probability."""

    def __init__(self, units: int = 24) -> None:
        super().__init__()
        line_encoder = Sequential(
            [Embedding(VOCABULARY, 16, mask_zero=True), GlobalAveragePooling1D(), Dense(units, "tanh")]
        )
        self.encode_lines = TimeDistributed(line_encoder)
        self.encode_document = GRU(units)
        self.classify = Dense(1, activation="sigmoid")

    def call(self, inputs: torch.Tensor | Packed) -> torch.Tensor:
        """Return for each document the probability `(B, 1)` that it returns a value."""
        return self.classify(self.encode_document(self.encode_lines(inputs)))


def main(epochs: int = 6, seed: int = 0) -> float:
    """Train on 80 % of the functions, and return the accuracy on the others."""
    torch.manual_seed(seed)
    documents, labels = read_functions(ast, inspect, re, textwrap)
    x, order = encode(documents), np.random.default_rng(seed).permutation(len(documents))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    model = DocumentClassifier()
    model.compile(padless.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    model.fit(x[train], labels[train], batch_size=16, epochs=epochs, verbose=2)
    accuracy = model.evaluate(x[test], labels[test], verbose=0, return_dict=True)["accuracy"]
    most_common = max(labels.mean(), 1 - labels.mean())
    print(
        f"{len(test)} unseen functions: accuracy {accuracy:.0%}; {most_common:.0%} of all functions have the more common "
        f"label; {(x == 0).mean():.0%} of the array is padding"
    )
    return accuracy


if __name__ == "__main__":
    main()
