"""Time a training step of an LSTM on the real steps, on the padded grid, and on torch's PackedSequence.

    python -m benchmarks.recurrent [--rounds 15] [--threads 2]

Batch 64, 200 steps, density 0.3, 128 features, 128 units. The implementations run in turn in each round, so that other
load on the machine slows all of them alike. The table has median and quartiles, and the multiples of the time of padless.
"""

import argparse
from collections.abc import Callable
from statistics import median, quantiles
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from padless.kernels.recurrent.api import lstm
from padless.ragged.index import Index

BATCH, STEPS, WIDTH, WORDS, LABELS = 64, 200, 128, 20000, 20
rng = np.random.default_rng(0)
LENGTHS = np.minimum(rng.integers(1, 120, BATCH), STEPS)
INDEX = Index.from_lengths(LENGTHS, STEPS)
REAL = torch.from_numpy(INDEX.mask)

LayerFunction = Callable[[Tensor], Tensor]  # from inputs to outputs, packed or padded


def make_padless_lstm() -> tuple[LayerFunction, list[Tensor]]:
    """Return the LSTM of padless on packed steps, and its weights."""
    kernel, recurrent = (nn.init.xavier_uniform_(torch.empty(WIDTH, 4 * WIDTH)).requires_grad_() for _ in range(2))
    bias, zeros = torch.zeros(4 * WIDTH, requires_grad=True), torch.zeros(BATCH, WIDTH)

    def run(values: Tensor) -> Tensor:
        index = Index(INDEX.mask)  # each batch has another mask, so nothing that the index caches is reused
        return lstm(values, index, kernel, recurrent, bias, zeros, zeros)[0]

    return run, [kernel, recurrent, bias]


def make_padded_lstm() -> tuple[LayerFunction, list[Tensor]]:
    """Return torch's LSTM on the padded grid, and its weights."""
    layer = nn.LSTM(WIDTH, WIDTH, batch_first=True)
    return lambda grid: layer(grid)[0], list(layer.parameters())


def make_sequence_lstm() -> tuple[LayerFunction, list[Tensor]]:
    """Return torch's LSTM on a PackedSequence, and its weights."""
    layer, lengths = nn.LSTM(WIDTH, WIDTH, batch_first=True), torch.from_numpy(LENGTHS)

    def run(grid: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(grid, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=STEPS)[0]

    return run, list(layer.parameters())


def make_recurrent_step(lstm: tuple[LayerFunction, list[Tensor]], packed: bool) -> Callable[[], None]:
    """Return a forward and backward pass of the recurrent layer alone."""
    run, weights = lstm
    values = torch.randn(BATCH, STEPS, WIDTH)
    values = (values[REAL] if packed else values).requires_grad_()
    upstream = torch.randn(values.shape)

    def step() -> None:
        torch.autograd.grad(run(values), [values, *weights], upstream)

    return step


def make_model_step(lstm: tuple[LayerFunction, list[Tensor]], packed: bool) -> Callable[[], None]:
    """Return a step of a whole model: Embedding, LSTM, Dense, cross entropy of the real steps, backward pass."""
    run, weights = lstm
    embedding, dense = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, LABELS)
    ids, labels = (torch.from_numpy(rng.integers(0, high, (BATCH, STEPS))) for high in (WORDS, LABELS))
    ids, labels = (ids[REAL], labels[REAL]) if packed else (ids, labels.where(REAL, -100))
    parameters = [*weights, *embedding.parameters(), *dense.parameters()]

    def step() -> None:
        scores = dense(run(embedding(ids)))
        torch.autograd.grad(nn.functional.cross_entropy(scores.flatten(0, -2), labels.flatten()), parameters)

    return step


def measure(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return the times of each step, one for each round, after two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, step in steps.items():
            start = perf_counter()
            step()
            times[name].append(perf_counter() - start)
    return {name: values[2:] for name, values in times.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lstms = {"padless": make_padless_lstm, "padded nn.LSTM": make_padded_lstm, "PackedSequence": make_sequence_lstm}
    table = Table(
        "training step",
        "implementation",
        "median ms",
        "quartiles ms",
        "x padless",
        title=f"{INDEX.num_steps} real of {BATCH} x {STEPS} steps, {arguments.threads} threads",
    )
    for part, make_step in (("recurrent layer", make_recurrent_step), ("whole model", make_model_step)):
        steps = {name: make_step(make_lstm(), name == "padless") for name, make_lstm in lstms.items()}
        times = measure(steps, arguments.rounds)
        for name, values in times.items():
            low, middle, high = (1e3 * q for q in quantiles(values, n=4))
            ratio = median(values) / median(times["padless"])
            table.add_row(part, name, f"{middle:.1f}", f"{low:.1f} - {high:.1f}", f"{ratio:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
