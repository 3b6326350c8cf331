"""The laws of a loss or metric: presence, absence, independence, split, round trip."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError
from padless.graph.symbolic import leaves
from padless.losses.loss import Loss
from padless.ragged.packed import pack
from padless.testing.harness import PaddedSample
from padless.testing.layer_properties import PropertyViolation, disguises, same
from padless.testing.masks import Draw, Mask

Weights = Literal["none", "rows", "column", "steps"]


@dataclass(frozen=True)
class Objective:
    """A loss or metric, made by a function, with a way to draw outputs and targets, and kinds of sample weights."""

    make: Callable[[], Any]
    outputs: Draw
    targets: Draw
    weights: Weights = "none"

    @property
    def label(self) -> str:
        """What messages call it."""
        made = self.make()
        return f"{type(made).__name__} {made.name!r} with {self.weights} weights"

    def sample(self, mask: Mask, seed: int = 0) -> PaddedSample:
        """Targets, outputs and weights on a grid, zeros at masked steps."""
        generator = torch.Generator().manual_seed(seed)
        grids = [self.targets(generator, mask.shape), self.outputs(generator, mask.shape)]
        rows = {}
        if self.weights == "steps":
            grids.append(torch.rand(mask.shape, generator=generator, dtype=torch.float64))
        elif self.weights != "none":
            shape = (mask.shape[0], 1) if self.weights == "column" else (mask.shape[0],)
            rows = {"weight": (torch.rand(shape, generator=generator, dtype=torch.float64),)}
        return PaddedSample(tuple(grids), (mask,) * len(grids), rows).holding(0)

    def score(self, pieces: Sequence[PaddedSample], plain: bool = False, packed_targets: bool = False) -> Score:
        """The loss or metric over all pieces, with the gradient of each sequence's outputs."""
        made = self.make()
        loss = isinstance(made, Loss)
        grids: list[Tensor] = []
        found: list[Any] = []
        for piece in pieces:
            leaf = piece.grids[1].detach().clone().requires_grad_(piece.grids[1].is_floating_point() and loss)
            weight = next(iter((*piece.grids[2:], *piece.rows.get("weight", ()))), None)
            outputs = leaf if plain else pack(leaf, piece.masks[0])
            targets = pack(piece.grids[0], piece.masks[0]) if packed_targets else piece.grids[0]
            grids.append(leaf)
            if not loss:
                made.update_state(targets, outputs, weight)
            elif made.reduction in (None, "none"):
                found.append(made.measure(targets, outputs, weight).weighted)
            else:
                found.append(made.term(targets, outputs, weight))
        if not loss:
            return Score(dict(_named(made.result())), [])
        total = torch.stack([f.sum() for f in found]).sum() if isinstance(found[0], Tensor) else reduce(add, found).value
        gradients = torch.autograd.grad(total, grids, allow_unused=True)
        by_row, stray = [], 0
        for piece, leaf, gradient in zip(pieces, grids, gradients, strict=True):
            whole, real = torch.zeros_like(leaf) if gradient is None else gradient, torch.from_numpy(piece.masks[0])
            by_row.extend(row[m] for row, m in zip(whole, real, strict=True))
            stray += int((whole[~real] != 0).sum())
        return Score({"the loss": total.detach()}, by_row, stray)


@dataclass(frozen=True)
class Score:
    """A value, and by row the gradient of the outputs at real steps."""

    values: dict[str, Tensor]
    gradients: list[Tensor]
    stray: int = 0

    def parts(self) -> Iterator[tuple[str, Tensor]]:
        """Everything by name."""
        yield from self.values.items()
        for row, part in enumerate(self.gradients):
            yield f"the gradient of the outputs in row {row}", part


def _named(result: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(result, dict):
        yield from result.items()
    else:
        yield from ((f"result {number}", part) for number, part in enumerate(leaves(result)))


def compare(expected: Score, given: Score, law: str, what: str, exact: bool = False) -> None:
    """Raises `PropertyViolation` where two scores differ."""
    for (name, a), (_, b) in zip(expected.parts(), given.parts(), strict=True):
        same(a, b, law, f"{what}: {name}", exact)


def loss_matches_unpadded(objective: Objective, mask: Mask, seed: int = 0) -> None:
    """Over a batch it is what it is over its sequences, each alone without padding; it is never NaN."""
    sample = objective.sample(mask, seed)
    together = objective.score([sample])
    for name, part in together.parts():
        if not bool(torch.isfinite(part).all()):
            raise PropertyViolation(f"matches_unpadded: {objective.label} is not finite: {name} is {part}.")
    if sample.batch:
        alone = objective.score([sample.alone(row) for row in range(sample.batch)], plain=True)
        compare(alone, together, "matches_unpadded", f"{objective.label} of a batch is not that of its sequences alone")


def loss_ignores_padding(objective: Objective, mask: Mask, seed: int = 0) -> None:
    """What outputs, targets and weights are at masked steps, and how many these are, changes no bit."""
    sample = objective.sample(mask, seed)
    base = objective.score([sample])
    for left, right, _, number, word in disguises("packed"):
        other = objective.score([sample.holding(number, word).widened(left, right, number, word)], packed_targets=left > 1)
        what = (
            f"{objective.label} changes with {left} more columns on the left and {right} on the right, and {number} or "
            f"{word} at masked steps"
        )
        compare(base, other, "ignores_padding", what, exact=True)
        if other.stray:
            raise PropertyViolation(f"ignores_padding: {what}: they get gradients.")


def loss_independent_of_batch(objective: Objective, mask: Mask, seed: int = 0) -> None:
    """Rows may be permuted, to rounding."""
    sample = objective.sample(mask, seed)
    whole = objective.score([sample])
    order = np.random.default_rng(seed).permutation(sample.batch).tolist()
    permuted = objective.score([sample.chosen(order)])
    expected = replace(whole, gradients=[whole.gradients[row] for row in order] if whole.gradients else [])
    compare(expected, permuted, "independent_of_batch", f"{objective.label} changes with the rows in the order {order}")


def loss_independent_of_split(objective: Objective, mask: Mask, seed: int = 0) -> None:
    """Any split into batches, each padded as it likes, gives the same, to rounding."""
    sample = objective.sample(mask, seed)
    random = np.random.default_rng(seed)
    cuts = np.sort(random.integers(0, sample.batch + 1, 2)).tolist()
    pieces = [
        sample.chosen(range(a, b)).widened(*random.integers(0, 3, 2).tolist())
        for a, b in zip([0, *cuts], [*cuts, sample.batch], strict=True)
    ]
    compare(
        objective.score([sample]),
        objective.score(pieces),
        "independent_of_split",
        f"{objective.label} changes when cut at {cuts}",
    )


def loss_round_trip(objective: Objective, mask: Mask, seed: int = 0) -> None:
    """Config through JSON gives the same again; what says that it cannot be saved, as a nameless function, is let be."""
    made = objective.make()
    try:
        config = made.get_config()
    except ArgumentError:
        return
    text = json.dumps(config)
    again = type(made).from_config(json.loads(text))
    if json.dumps(again.get_config()) != text:
        raise PropertyViolation(
            f"round_trip: the config of {objective.label} becomes another one: {text} gives "
            f"{json.dumps(again.get_config())}."
        )
    sample = objective.sample(mask, seed)
    compare(
        objective.score([sample]),
        replace(objective, make=lambda: type(made).from_config(json.loads(text))).score([sample]),
        "round_trip",
        f"{objective.label} made again from its config differs",
        exact=True,
    )
