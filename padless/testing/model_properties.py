"""The laws of a model in training: absence, split, archive. Those of its outputs are a layer's."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from padless.graph.symbolic import leaves
from padless.losses import losses
from padless.models import load_model
from padless.ragged.packed import pack
from padless.testing.harness import LayerHarness, PaddedSample
from padless.testing.layer_properties import compare, disguises, same
from padless.testing.masks import Draw, Mask


@dataclass(frozen=True)
class Task:
    """A model with a loss, metrics, and a way to draw targets, one for each output."""

    subject: LayerHarness
    targets: tuple[Draw, ...]
    loss: Any = "mse"
    metrics: Any = None

    def sample(self, mask: Mask, seed: int = 0) -> PaddedSample:
        """Inputs and behind them targets, zeros at masked steps."""
        inputs = self.subject.sample(mask, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        grids = (*inputs.grids, *(draw(generator, mask.shape) for draw in self.targets))
        return PaddedSample(
            tuple(g.to(self.subject.dtype) if g.is_floating_point() else g for g in grids), (mask,) * len(grids)
        ).holding(0)

    def model(self) -> Any:
        """A copy of the model, compiled."""
        model = copy.deepcopy(self.subject.layer)
        model.compile(optimizer="sgd", loss=self.loss, metrics=self.metrics)
        return model

    def data(self, sample: PaddedSample) -> tuple[Any, Any]:
        """x and y as `fit` takes them."""
        count = len(self.subject.inputs)
        x = [
            grid if self.subject.creates_mask else pack(grid, mask)
            for grid, mask in zip(sample.grids[:count], sample.masks, strict=False)
        ]
        y = list(sample.grids[count:])
        return (x[0] if len(x) == 1 else x), (y[0] if len(y) == 1 else y)

    def trained(self, sample: PaddedSample, batch_size: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """What one epoch reports, and the weights after it."""
        model, (x, y) = self.model(), self.data(sample)
        history = model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)
        logs = {name: values[-1] for name, values in history.history.items()}
        return logs, {name: w.detach() for name, w in model.named_parameters()}


def training_ignores_padding(task: Task, mask: Mask, seed: int = 0) -> None:
    """What stands at masked steps of inputs and targets, and how many they are, changes no bit of a training epoch."""
    sample = task.sample(mask, seed)
    logs, weights = task.trained(sample, 2)
    count = len(task.subject.inputs)
    for left, right, _, number, word in disguises("packed"):
        dirty = sample.holding(number, word).widened(left, right, number, word)
        clean = sample.widened(left, right)
        grids = (*(clean if task.subject.creates_mask else dirty).grids[:count], *dirty.grids[count:])
        other, after = task.trained(PaddedSample(grids, dirty.masks), 2)
        what = (
            f"training {task.subject.label} changes with {left} more columns on the left and {right} on the right, and "
            f"{number} or {word} at masked steps"
        )
        for name, value in logs.items():
            same(torch.tensor(value), torch.tensor(other[name]), "ignores_padding", f"{what}: {name}", exact=True)
        for name, weight in weights.items():
            same(weight, after[name], "ignores_padding", f"{what}: weight {name!r}", exact=True)


def model_independent_of_split(task: Task, mask: Mask, seed: int = 0) -> None:
    """Any batch size gives the same loss and metrics, and terms of batches add up to the same gradients, to rounding."""
    sample = task.sample(mask, seed)
    if not sample.batch:
        return
    x, y = task.data(sample)
    model = task.model()
    whole = model.evaluate(x, y, batch_size=sample.batch, verbose=0, return_dict=True)
    for size in {1, max(1, sample.batch - 1)}:
        found = model.evaluate(x, y, batch_size=size, verbose=0, return_dict=True)
        for name, value in whole.items():
            same(
                torch.tensor(value, dtype=torch.float64),
                torch.tensor(found[name], dtype=torch.float64),
                "independent_of_split",
                f"{name} of {task.subject.label} in batches of {size}",
            )
    rows = list(range(sample.batch))
    expected = _gradients(task, model, [sample])
    given = _gradients(task, model, [sample.chosen([row]).widened(row, 1) for row in rows])
    for name, gradient in expected.items():
        same(
            gradient,
            given[name],
            "independent_of_split",
            f"the gradient of weight {name!r} of {task.subject.label}, summed row by row",
        )


def _gradients(task: Task, model: Any, pieces: Sequence[PaddedSample]) -> dict[str, Tensor]:
    """The gradients of the loss over all pieces."""
    given = task.loss if isinstance(task.loss, list | tuple) else [task.loss] * len(task.targets)
    own = [losses.get(loss) for loss in given]
    terms: list[list[Any]] = []
    for piece in pieces:
        x, y = task.data(piece)
        outputs, targets = leaves(model(x)), y if isinstance(y, list) else [y]
        terms.append([loss.term(t, o) for loss, t, o in zip(own, targets, outputs, strict=True)])
    total = torch.stack([reduce(add, column).value for column in zip(*terms, strict=True)]).sum()
    weights = dict(model.named_parameters())
    found = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    return {name: torch.zeros_like(w) if g is None else g for (name, w), g in zip(weights.items(), found, strict=True)}


def archive(subject: LayerHarness, mask: Mask, seed: int = 0) -> None:
    """Saved and loaded, a model is the same to the bit."""
    sample = subject.sample(mask, seed)
    result = subject.run(sample)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        subject.layer.save(path)
        loaded = load_model(path)
        loaded.to(subject.dtype)
        loaded.load_weights(path)
    again = LayerHarness(loaded, subject.inputs, subject.creates_mask, subject.rows, subject.training, subject.dtype)
    compare(
        result,
        again.run(sample, pulls=subject.output_weights(result)),
        "round_trip",
        f"{subject.label} saved and loaded differs",
        exact=True,
    )
