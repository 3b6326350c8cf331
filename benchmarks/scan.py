"""What a training step of an LSTM costs: on the real steps only, on the padded grid, on torch's PackedSequence.

    python -m benchmarks.scan [--rounds 15] [--threads 2]

Batch 64, 200 steps at 30 % fill, 128 features, 128 units. The contestants take turns within a round, so that a busy
machine hits them alike; the table gives each one's median and quartiles, and how many times as long as padless it took.
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

from padless.kernels.recurrent import api as scan
from padless.ragged.index import Index

BATCH, STEPS, WIDTH, WORDS, LABELS = 64, 200, 128, 20000, 20
rng = np.random.default_rng(0)
LENGTHS = np.minimum(rng.integers(1, 120, BATCH), STEPS)
INDEX = Index.from_lengths(LENGTHS, STEPS)
REAL = torch.from_numpy(INDEX.mask)

Layer = Callable[[Tensor], Tensor]  # values to values, whatever their arrangement


def padless_lstm() -> tuple[Layer, list[Tensor]]:
    kernel, recurrent = (nn.init.xavier_uniform_(torch.empty(WIDTH, 4 * WIDTH)).requires_grad_() for _ in range(2))
    bias, zeros = torch.zeros(4 * WIDTH, requires_grad=True), torch.zeros(BATCH, WIDTH)

    def run(values: Tensor) -> Tensor:
        fresh = Index(INDEX.mask)  # every batch has a mask of its own
        return scan.lstm(values, fresh, kernel, recurrent, bias, zeros, zeros)[0]

    return run, [kernel, recurrent, bias]


def padded_lstm() -> tuple[Layer, list[Tensor]]:
    layer = nn.LSTM(WIDTH, WIDTH, batch_first=True)
    return lambda grid: layer(grid)[0], list(layer.parameters())


def sequence_lstm() -> tuple[Layer, list[Tensor]]:
    layer, lengths = nn.LSTM(WIDTH, WIDTH, batch_first=True), torch.from_numpy(LENGTHS)

    def run(grid: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(grid, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=STEPS)[0]

    return run, list(layer.parameters())


def recurrent_step(lstm: tuple[Layer, list[Tensor]], packed: bool) -> Callable[[], None]:
    """Forward and backward of the recurrent part alone."""
    run, weights = lstm
    values = torch.randn(BATCH, STEPS, WIDTH)
    values = (values[REAL] if packed else values).requires_grad_()
    upstream = torch.randn(values.shape)

    def step() -> None:
        torch.autograd.grad(run(values), [values, *weights], upstream)

    return step


def model_step(lstm: tuple[Layer, list[Tensor]], packed: bool) -> Callable[[], None]:
    """Embedding, LSTM, Dense, cross-entropy over the real steps, backward."""
    run, weights = lstm
    embedding, dense = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, LABELS)
    ids, labels = (torch.from_numpy(rng.integers(0, high, (BATCH, STEPS))) for high in (WORDS, LABELS))
    ids, labels = (ids[REAL], labels[REAL]) if packed else (ids, labels.where(REAL, -100))
    parameters = [*weights, *embedding.parameters(), *dense.parameters()]

    def step() -> None:
        scores = dense(run(embedding(ids)))
        torch.autograd.grad(nn.functional.cross_entropy(scores.flatten(0, -2), labels.flatten()), parameters)

    return step


def seconds(contestants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """The times of each, one call per round, after two rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 2):
        for name, step in contestants.items():
            start = perf_counter()
            step()
            times[name].append(perf_counter() - start)
    return {name: taken[2:] for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lstms = {"padless": padless_lstm, "padded nn.LSTM": padded_lstm, "PackedSequence": sequence_lstm}
    table = Table(
        "training step",
        "contestant",
        "median ms",
        "quartiles ms",
        "x padless",
        title=f"{INDEX.num_steps} real of {BATCH} x {STEPS} steps, {arguments.threads} threads",
    )
    for what, make in (("recurrent part", recurrent_step), ("whole model", model_step)):
        times = seconds({name: make(lstm(), name == "padless") for name, lstm in lstms.items()}, arguments.rounds)
        for name, taken in times.items():
            low, middle, high = (1e3 * q for q in quantiles(taken, n=4))
            ratio = median(taken) / median(times["padless"])
            table.add_row(what, name, f"{middle:.1f}", f"{low:.1f} - {high:.1f}", f"{ratio:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
