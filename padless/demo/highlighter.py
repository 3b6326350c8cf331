"""The demo: train a model that highlights Python source, on the standard library of the running interpreter.

    functions of the library --corpus--> characters and classes --fit--> Highlighter --report--> coloured source

A batch of functions is mostly padding, since most functions are short and a few are long. padless does not compute on the
padding, and the report states which share of the grid that is. The result is the same for the same seed, library and version
of torch. Therefore the amount of training is fixed, and it runs on one thread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open

from padless.callbacks import History
from padless.callbacks.progress_bar import ProgressBar
from padless.demo import corpus, report
from padless.demo.corpus import CLASSES, Labels, SourceFunction
from padless.errors import DataError
from padless.layers import LSTM, Bidirectional, Dense, Embedding, Input
from padless.losses import SparseCategoricalCrossentropy
from padless.models import Model, Sequential, load_model
from padless.optimizers.optimizers import Adam
from padless.ragged.packed import Packed
from padless.saving import safetensors_io

METADATA = "padless.demo"  # the key under which a saved highlighter has its characters and classes


@dataclass(frozen=True)
class DemoConfig:
    """The size of the data and of the model, and how it is trained.

    Attributes:
        seed: Seed of all random numbers.
        max_length: Functions with more characters are left out.
        training: The largest number of functions to train on.
        validation: The largest number of functions for validation.
        test: The largest number of functions for the report.
        batch: Functions in a batch.
        features: Size of the embedding of a character.
        units: Units of the LSTM in each direction.
        learning_rate: The highest learning rate of the schedule.
    """

    seed: int = 0
    max_length: int = 800
    training: int = 7000
    validation: int = 150
    test: int = 600
    batch: int = 16
    features: int = 32
    units: int = 64
    learning_rate: float = 0.007


@dataclass(frozen=True)
class Corpus:
    """The functions of each split, from disjoint files of the library.

    Attributes:
        root: The folder of the library.
        files: The paths of all files of each split, relative to `root`.
        functions: The functions of each split.
    """

    root: Path
    files: dict[str, list[str]]
    functions: dict[str, list[SourceFunction]]

    @staticmethod
    def read(config: DemoConfig, root: Path | None = None, splits: Sequence[str] = corpus.SPLITS) -> Corpus:
        """Read the functions of a library.

        Args:
            config: How many functions to read, and their greatest length.
            root: The folder of the library. Default: the standard library of the running interpreter.
            splits: The splits to read. A text that occurs in two of them stays in the later one.

        Raises:
            DataError: If a split has no function.
        """
        root = corpus.find_library() if root is None else root
        files = corpus.list_files(root)
        known_texts: set[str] = set()
        functions = {}
        for split in reversed(splits):
            candidates = list(corpus.read_functions(root, files[split], config.max_length, known_texts))
            functions[split] = corpus.select_evenly(candidates, getattr(config, split))
            if not functions[split]:
                raise DataError(
                    f"The {split} files of {root} have no function of at most {config.max_length} characters. "
                    "Run the demo with a complete Python."
                )
        return Corpus(root, files, functions)


@dataclass(frozen=True)
class Highlighter:
    """A model that predicts for each character of Python source the class of its token.

    Attributes:
        model: A model from ids `(B, T)` to scores of the classes `(B, T, 7)`.
        characters: The characters that the model knows, in the order of their ids.
    """

    model: Model
    characters: str

    @staticmethod
    def build(characters: str, config: DemoConfig) -> Highlighter:
        """Return a highlighter with random weights; id 0 is padding."""
        model = Sequential(
            [
                Input((None,), name="characters"),
                Embedding(len(characters) + 2, config.features, mask_zero=True),
                Bidirectional(LSTM(config.units, return_sequences=True)),
                Dense(len(CLASSES), name="classes"),
            ],
            name="highlighter",
        )
        return Highlighter(model, characters)

    def fit(
        self,
        training: Sequence[SourceFunction],
        validation: Sequence[SourceFunction],
        config: DemoConfig,
        console: Console,
        epochs: int = 1,
    ) -> History:
        """Train in one pass over the functions, roughly from short to long.

        Short functions take little time and help with long ones. In random order the result is worse.

        Args:
            training: The functions to train on.
            validation: The functions to evaluate after each epoch.
            config: Size of a batch and learning rate.
            console: Where the progress bar is printed.
            epochs: The number of epochs into which the one pass is divided.

        Returns:
            The history of the epochs.
        """
        lengths = torch.tensor([len(function.text) for function in training], dtype=torch.float32)
        order = torch.argsort(lengths.log() + 0.7 * torch.randn(len(training)), stable=True)
        training = [training[i] for i in order.tolist()]
        steps = -(-len(training) // config.batch)
        optimizer = Adam(make_cosine_schedule(config.learning_rate, steps), global_clipnorm=1.0)
        self.model.compile(optimizer, SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        return self.model.fit(
            *self._encode(training),
            batch_size=config.batch,
            epochs=epochs,
            verbose=0,
            shuffle=False,
            validation_data=self._encode(validation),
            callbacks=[ProgressBar(verbose=1, console=console)],
            steps_per_epoch=None if epochs == 1 else steps // epochs,
        )

    def _encode(self, functions: Sequence[SourceFunction]) -> tuple[list[Labels], list[Labels]]:
        """Return the ids and the classes of the characters of some functions."""
        texts = [function.text for function in functions]
        return corpus.encode(texts, self.characters), [_label(text) for text in texts]

    def classify(self, texts: Sequence[str]) -> list[Labels]:
        """Return for each character of each text its class, as a number into `CLASSES`."""
        full = [text for text in texts if text]
        scores = self.model.predict(corpus.encode(full, self.characters), batch_size=64, verbose=0) if full else []
        predictions = iter(np.asarray(score).argmax(-1) for score in scores)
        return [next(predictions) if text else np.zeros(0, dtype=np.int64) for text in texts]

    def classify_file(self, text: str) -> Labels:
        r"""Return the class of each character of a whole file, which is classified in pieces.

        Args:
            text: The text of the file. A line end may be `\n`, `\r\n` or `\r`.
        """
        normalized, positions = corpus.normalize_newlines(text)
        wrapped = [corpus.wrap_as_function(piece) for piece in corpus.split_into_pieces(normalized)]
        predictions = self.classify([function for function, _ in wrapped])
        of_pieces = [labels[is_piece] for labels, (_, is_piece) in zip(predictions, wrapped, strict=True)]
        return np.concatenate([np.zeros(0, dtype=np.int64), *of_pieces])[positions]

    def save(self, path: Path) -> None:
        """Write the model and its characters to one safetensors file, which `padless.load_model` reads as well."""
        self.model.save(path)
        arrays, config = safetensors_io.read(path)
        text = json.dumps({"characters": self.characters, "classes": CLASSES})
        safetensors_io.write(path, arrays, config, {METADATA: text})

    @staticmethod
    def load(path: Path) -> Highlighter:
        """Read a highlighter that `save` wrote.

        Raises:
            DataError: If the file is not a saved highlighter.
            OSError: If the file cannot be read.
        """
        path.open("rb").close()
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
        except SafetensorError as error:
            raise DataError(
                f"{path} is not a safetensors file ({error}). Expected a file written by `padless demo --save`."
            ) from error
        saved = json.loads(metadata.get(METADATA, "{}"))
        if saved.get("classes") != list(CLASSES):
            raise DataError(
                f"{path} has no highlighter with the classes {', '.join(CLASSES)}. "
                "Expected a file written by `padless demo --save`."
            )
        return Highlighter(load_model(path), saved["characters"])


def make_cosine_schedule(peak: float, steps: int) -> Callable[[int], float]:
    """Return a learning rate that rises over the first tenth of the steps, then falls to zero along a cosine."""

    def schedule(step: int) -> float:
        rise = min(1.0, (step + 1) / max(steps / 10, 1))
        return peak * rise * (1 + math.cos(math.pi * step / steps)) / 2

    return schedule


@dataclass
class GridCounter:
    """Counts the cells of the padded grid, and the rows on which the layers computed.

    Attributes:
        rows: The rows that entered the layers.
        cells: The cells of the grids of the same inputs.
    """

    rows: int = 0
    cells: int = 0

    @property
    def skipped_share(self) -> float:
        """The share of the grid that was not computed."""
        return 1 - self.rows / self.cells if self.cells else 0.0

    @contextmanager
    def watch(self, model: Model) -> Iterator[GridCounter]:
        """Count the inputs of each layer of the model inside a `with` block."""

        def count_input(layer: torch.nn.Module, inputs: tuple[object, ...]) -> None:
            match inputs:
                case (Packed() as packed, *_):
                    self.rows += len(packed.values)
                    self.cells += math.prod(packed.index.grid)
                case (torch.Tensor() as grid, *_):
                    self.rows += math.prod(grid.shape[:2])
                    self.cells += math.prod(grid.shape[:2])

        layers = [layer for layer in model.layers if isinstance(layer, torch.nn.Module)]
        hooks = [layer.register_forward_pre_hook(count_input) for layer in layers]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()


def run(
    config: DemoConfig,
    out: Console,
    err: Console,
    file: Path | None = None,
    save: Path | None = None,
    load: Path | None = None,
) -> None:
    """Run the demo: train or load a highlighter, then print the report or a coloured file.

    Args:
        config: The size of the data and of the model.
        out: Where results are printed.
        err: Where progress and notes are printed.
        file: The file to colour. Default: print the report.
        save: Where to save the highlighter.
        load: The saved highlighter to use. Default: train one.

    Raises:
        DataError: If the folder of `save` does not exist, or `load` is not a saved highlighter.
    """
    text = None if file is None else corpus.read_text(file)
    if save is not None and (save.is_dir() or not save.absolute().parent.is_dir()):
        raise DataError(f"Expected a file in an existing folder to save the model to, got {save}. Make the folder first.")
    if text == "" and save is None:
        err.print(f"{file} is empty: there is nothing to colour.", markup=False, highlight=False, soft_wrap=True)
        return
    with _reproducible(config.seed):
        if load is None:
            data = Corpus.read(config)
            highlighter, training_counter = train(data, config, err)
        else:
            highlighter, training_counter = Highlighter.load(load), None
            data = Corpus.read(config) if text is None else None
        if save is not None:
            highlighter.save(save)
        if text is not None:
            _print_file(highlighter, text, out, err)
        elif data is not None:
            _print_report(highlighter, data, training_counter, out)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Use one seed and one thread, so that sums have the same order everywhere; restore both at the end."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def train(data: Corpus, config: DemoConfig, err: Console) -> tuple[Highlighter, GridCounter]:
    """Return a trained highlighter, and the count of the grid in training."""
    training = data.functions["training"]
    highlighter = Highlighter.build(corpus.list_characters(function.text for function in training), config)
    with GridCounter().watch(highlighter.model) as counter:
        highlighter.fit(training, data.functions["validation"], config, err)
    return highlighter, counter


def _print_file(highlighter: Highlighter, text: str, out: Console, err: Console) -> None:
    """Print a file in colour; mistakes are marked if Python's tokenizer accepts the file."""
    predictions, truth = highlighter.classify_file(text), corpus.label_characters(text)
    report.print_source(out, text, predictions, truth)
    if out.is_terminal and not text.endswith("\n"):
        out.print()
    out.file.flush()
    err.print(report.make_legend())
    if truth is None:
        note = "Python's tokenizer rejects this file, so no mistakes are marked."
    else:
        wrong = int((predictions != truth).sum())
        note = f"{wrong} of {len(text)} characters are mistaken and marked." if wrong else "No mistake."
    err.print(note, highlight=False)


def _print_report(highlighter: Highlighter, data: Corpus, training_counter: GridCounter | None, out: Console) -> None:
    """Print the sizes of the splits, the scores on the test split, and one function of it in colour."""
    tests = data.functions["test"]
    truths = [_label(function.text) for function in tests]
    with GridCounter().watch(highlighter.model) as test_counter:
        predictions = highlighter.classify([function.text for function in tests])
    baseline = report.MajorityBaseline((f.text, _label(f.text)) for f in data.functions["training"])
    guesses = [baseline.classify(function.text) for function in tests]
    for split, functions in data.functions.items():
        sources = f"{len({function.path for function in functions})} of {len(data.files[split])} files"
        characters = sum(len(function.text) for function in functions)
        _print_plain(out, f"{split}: {len(functions)} functions from {sources}, {characters} characters")
    truth = np.concatenate(truths)
    scores = {
        "padless": report.Scores.count(truth, np.concatenate(predictions)),
        "majority per character": report.Scores.count(truth, np.concatenate(guesses)),
    }
    out.print(report.make_table(f"On {len(truth)} characters of unseen files", scores))
    counters = {"in training": training_counter, "in the report": test_counter}
    shares = [f"{100 * counter.skipped_share:.1f} % {where}" for where, counter in counters.items() if counter is not None]
    _print_plain(out, f"Share of the grid that was never computed: {', '.join(shares)}.")
    example = _choose_example(truths)
    _print_plain(out, f"\nUnseen: {tests[example].path}, line {tests[example].line}")
    _print_function(tests[example].text, predictions[example], truths[example], out)


def _choose_example(truths: Sequence[Labels]) -> int:
    """Return the number of the first function with the most classes, among those that fit on a screen."""
    fitting = [i for i, truth in enumerate(truths) if 300 <= len(truth) <= 900] or range(len(truths))
    return max(fitting, key=lambda i: (len(np.unique(truths[i])), -i))


def _print_function(text: str, predictions: Labels, truth: Labels, out: Console) -> None:
    """Print a function in colour and its mistakes in words."""
    out.print(report.make_legend())
    report.print_source(out, text, predictions, truth)
    mistakes = report.describe_mistakes(text, predictions, truth)
    wrong = int((predictions != truth).sum())
    _print_plain(out, "\n".join([f"{wrong} of {len(text)} characters are mistaken.", *mistakes]))


def _print_plain(console: Console, text: str) -> None:
    """Print a text without markup, colours and wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _label(text: str) -> Labels:
    """Return the classes of a text that Python's tokenizer accepts."""
    labels = corpus.label_characters(text)
    if labels is None:
        raise DataError(f"Python's tokenizer rejects {text!r}. Expected Python source.")
    return labels
