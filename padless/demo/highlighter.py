"""The main job on real data that every machine has: learn to highlight Python from the standard library.

    functions of the library --demo_corpus--> characters and classes --fit--> Highlighter --demo_report--> colours

A batch of functions is mostly padding, since a few are long and most are short; padless computes none of it, and the
report counts what that saves. Results are the same for the same seed, library and version of torch: training is bounded
in work and runs on one thread, which costs a model of this size nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from padless.callbacks import History
from padless.callbacks.progress_bar import ProgressBar
from padless.demo import corpus as corpus
from padless.demo import report as report
from padless.demo.corpus import CLASSES, Function, Labels
from padless.errors import DataError
from padless.layers import LSTM, Bidirectional, Dense, Embedding, Input
from padless.losses.losses import SparseCategoricalCrossentropy
from padless.models import Model, Sequential, load_model
from padless.optimizers.optimizers import Adam
from padless.ragged.packed import Packed

METADATA = "padless.demo"  # under this name a saved highlighter keeps its characters and classes


@dataclass(frozen=True)
class DemoConfig:
    """How much is learned, and how: the whole of the work is fixed before it begins."""

    seed: int = 0
    longest: int = 800  # functions of more characters are left out
    training: int = 7000  # functions at most
    validation: int = 150
    test: int = 600
    batch: int = 16
    features: int = 32
    units: int = 64
    learning_rate: float = 0.007


@dataclass(frozen=True)
class Corpus:
    """Functions by split, cut from files that are disjoint."""

    root: Path
    files: dict[str, list[str]]
    functions: dict[str, list[Function]]

    @staticmethod
    def read(plan: DemoConfig, root: Path | None = None, splits: Sequence[str] = corpus.SPLITS) -> Corpus:
        """The library's functions as the plan wants them; a text that two splits have stays with the last named."""
        root = corpus.library() if root is None else root
        files, seen, functions = corpus.files(root), set[str](), {}
        for split in reversed(splits):
            found = list(corpus.functions(root, files[split], plan.longest, seen))
            functions[split] = corpus.thin(found, getattr(plan, split))
            if not functions[split]:
                raise DataError(
                    f"No function of at most {plan.longest} characters in the {split} files of {root}. "
                    "Run the demo with a complete Python."
                )
        return Corpus(root, files, functions)


@dataclass(frozen=True)
class Highlighter:
    """A model that says of each character of Python source to which class of token it belongs."""

    model: Model
    characters: str

    @staticmethod
    def untrained(characters: str, plan: DemoConfig) -> Highlighter:
        """Ids of characters to scores of classes; id 0 is padding, and nothing is computed for it."""
        model = Sequential(
            [
                Input((None,), name="characters"),
                Embedding(len(characters) + 2, plan.features, mask_zero=True),
                Bidirectional(LSTM(plan.units, return_sequences=True)),
                Dense(len(CLASSES), name="classes"),
            ],
            name="highlighter",
        )
        return Highlighter(model, characters)

    def fit(
        self, learn: Sequence[Function], watch: Sequence[Function], plan: DemoConfig, console: Console, looks: int = 1
    ) -> History:
        """One pass over `learn`, roughly from short to long, then one look at `watch`; or so many looks on the way.

        What is learned on short functions in little time helps with long ones; shuffled at will the result is worse.
        """
        lengths = torch.tensor([len(function.text) for function in learn], dtype=torch.float32)
        order = torch.argsort(lengths.log() + 0.7 * torch.randn(len(learn)), stable=True)
        learn = [learn[i] for i in order.tolist()]
        steps = -(-len(learn) // plan.batch)
        optimizer = Adam(cosine(plan.learning_rate, steps), global_clipnorm=1.0)
        self.model.compile(optimizer, SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        bar = ProgressBar(verbose=1, console=console)
        return self.model.fit(
            *self._examples(learn),
            batch_size=plan.batch,
            epochs=looks,
            verbose=0,
            shuffle=False,
            validation_data=self._examples(watch),
            callbacks=[bar],
            steps_per_epoch=None if looks == 1 else steps // looks,
        )

    def _examples(self, functions: Sequence[Function]) -> tuple[list[Labels], list[Labels]]:
        texts = [function.text for function in functions]
        return corpus.encode(texts, self.characters), [_truth(text) for text in texts]

    def classify(self, texts: Sequence[str]) -> list[Labels]:
        """For each character of each text its class, as a number into `CLASSES`."""
        full = [text for text in texts if text]
        scores = self.model.predict(corpus.encode(full, self.characters), batch_size=64, verbose=0) if full else []
        answers = iter(np.asarray(score).argmax(-1) for score in scores)
        return [next(answers) if text else np.zeros(0, dtype=np.int64) for text in texts]

    def colour(self, text: str) -> Labels:
        """The classes of the characters of a whole file, which is read in pieces; a line end may be `\\r\\n`."""
        plain, places = corpus.plain_lines(text)
        shown = [corpus.as_function(piece) for piece in corpus.pieces(plain)]
        classes = self.classify([function for function, _ in shown])
        found = [answer[own] for answer, (_, own) in zip(classes, shown, strict=True)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])[places]

    def save(self, path: Path) -> None:
        """Model and characters in one safetensors file, which `padless.load_model` reads as well."""
        self.model.save(path)
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
        metadata[METADATA] = json.dumps({"characters": self.characters, "classes": CLASSES})
        save_file(load_file(path), path, metadata)

    @staticmethod
    def load(path: Path) -> Highlighter:
        """What `save` wrote. Raises `DataError` for any other file, `OSError` where there is none."""
        path.open("rb").close()
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
        except SafetensorError as error:
            raise DataError(
                f"{path} is no safetensors file ({error}). Expected one written by `padless demo --save`."
            ) from error
        known = json.loads(metadata.get(METADATA, "{}"))
        if known.get("classes") != list(CLASSES):
            raise DataError(
                f"{path} holds no highlighter with the classes {', '.join(CLASSES)}. "
                "Expected a file written by `padless demo --save`."
            )
        return Highlighter(load_model(path), known["characters"])


def cosine(peak: float, steps: int) -> Callable[[int], float]:
    """A learning rate that rises over the first tenth of the steps, then falls to zero along a cosine."""

    def rate(step: int) -> float:
        rise = min(1.0, (step + 1) / max(steps / 10, 1))
        return peak * rise * (1 + math.cos(math.pi * step / steps)) / 2

    return rate


@dataclass
class Grid:
    """How much of the padded grid the layers were given: the rows that entered them, of the cells on the grid."""

    rows: int = 0
    cells: int = 0

    @property
    def spared(self) -> float:
        """The share of the grid that was never computed."""
        return 1 - self.rows / self.cells if self.cells else 0.0

    @contextmanager
    def counting(self, model: Model) -> Iterator[Grid]:
        """Count what enters each layer of the model meanwhile."""

        def enter(layer: Any, inputs: tuple[Any, ...]) -> None:
            for value in inputs[:1]:
                packed = isinstance(value, Packed)
                cells = math.prod(value.index.grid) if packed else math.prod(value.shape[:2])
                self.rows += len(value.values) if packed else cells
                self.cells += cells

        hooks = [layer.register_forward_pre_hook(enter) for layer in model.layers if isinstance(layer, torch.nn.Module)]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()


def run(
    plan: DemoConfig,
    out: Console,
    err: Console,
    file: Path | None = None,
    save: Path | None = None,
    load: Path | None = None,
) -> None:
    """Learn (or `load`), then report on unseen files, or colour `file`. Results go to `out`, progress to `err`."""
    text = None if file is None else corpus.read(file)
    if save is not None and (save.is_dir() or not save.absolute().parent.is_dir()):
        raise DataError(f"Expected a file in an existing folder to save the model to; got {save}. Make the folder first.")
    if text == "" and save is None:
        err.print(f"{file} is empty: nothing to colour.", markup=False, highlight=False, soft_wrap=True)
        return
    with _alike(plan.seed):
        if load is None:
            data = Corpus.read(plan)
            highlighter, trained = learn(data, plan, err)
        else:
            highlighter, trained = Highlighter.load(load), None
            data = Corpus.read(plan) if text is None else None
        if save is not None:
            highlighter.save(save)
        if text is not None:
            _colour_file(highlighter, text, out, err)
        elif data is not None:
            _report(highlighter, data, trained, out)


@contextmanager
def _alike(seed: int) -> Iterator[None]:
    """One thread and one seed, so that sums are formed in the same order everywhere; afterwards all is as before."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def learn(data: Corpus, plan: DemoConfig, err: Console) -> tuple[Highlighter, Grid]:
    """A highlighter trained as planned, and what of the grid that took."""
    training = data.functions["training"]
    highlighter = Highlighter.untrained(corpus.alphabet(function.text for function in training), plan)
    with Grid().counting(highlighter.model) as grid:
        highlighter.fit(training, data.functions["validation"], plan, err)
    return highlighter, grid


def _colour_file(highlighter: Highlighter, text: str, out: Console, err: Console) -> None:
    """The whole file, mistakes marked where Python's tokenizer has an opinion."""
    answers, truth = highlighter.colour(text), corpus.label(text)
    report.show(out, text, answers, truth)
    if out.is_terminal and not text.endswith("\n"):
        out.print()
    out.file.flush()
    err.print(report.legend())
    if truth is None:
        note = "Python's tokenizer gives up on this file, so no mistakes are marked."
    else:
        wrong = int((answers != truth).sum())
        note = f"{wrong} of {len(text)} characters are mistaken, which are marked." if wrong else "No mistake."
    err.print(note, highlight=False)


def _report(highlighter: Highlighter, data: Corpus, trained: Grid | None, out: Console) -> None:
    tests = data.functions["test"]
    truths = [_truth(function.text) for function in tests]
    with Grid().counting(highlighter.model) as grid:
        answers = highlighter.classify([function.text for function in tests])
    majority = report.Majority((f.text, _truth(f.text)) for f in data.functions["training"])
    guesses = [majority.classify(function.text) for function in tests]
    for split, found in data.functions.items():
        sources = f"{len({function.path for function in found})} of {len(data.files[split])} files"
        _say(out, f"{split}: {len(found)} functions from {sources}, {sum(len(f.text) for f in found)} characters")
    truth = np.concatenate(truths)
    out.print(
        report.table(
            f"On {len(truth)} characters of unseen files",
            {
                "padless": report.Scores.of(truth, np.concatenate(answers)),
                "majority per character": report.Scores.of(truth, np.concatenate(guesses)),
            },
        )
    )
    spared = [("training", trained), ("the report", grid)]
    _say(
        out,
        "Share of the grid that was never computed: "
        + ", ".join(f"{100 * g.spared:.1f} % in {what}" for what, g in spared if g is not None)
        + ".",
    )
    chosen = _telling(truths)
    _say(out, f"\nUnseen: {tests[chosen].path}, line {tests[chosen].line}")
    _show_function(tests[chosen].text, answers[chosen], truths[chosen], out)


def _telling(truths: Sequence[Labels]) -> int:
    """The first function that shows as many classes as any, of those that fit on a screen."""
    fitting = [i for i, truth in enumerate(truths) if 300 <= len(truth) <= 900] or range(len(truths))
    return max(fitting, key=lambda i: (len(np.unique(truths[i])), -i))


def _show_function(text: str, answers: Labels, truth: Labels, out: Console) -> None:
    out.print(report.legend())
    report.show(out, text, answers, truth)
    missed = report.mistakes(text, answers, truth)
    _say(out, "\n".join([f"{int((answers != truth).sum())} of {len(text)} characters are mistaken.", *missed]))


def _say(console: Console, words: str) -> None:
    console.print(words, markup=False, highlight=False, soft_wrap=True)


def _truth(text: str) -> Labels:
    labels = corpus.label(text)
    if labels is None:
        raise DataError(f"Python's tokenizer gives up on {text!r}. Expected Python source.")
    return labels
