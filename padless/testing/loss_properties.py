"""The properties of a loss or metric as functions of a harness and a mask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError
from padless.graph.symbolic import leaves
from padless.losses.loss import Loss
from padless.metrics.metric import Metric
from padless.ragged.packed import pack
from padless.testing.harness import PaddedSample
from padless.testing.layer_properties import PropertyViolation, check_equal, padding_variants
from padless.testing.masks import Draw, Mask
from padless.types import StepTensor

WeightForm = Literal["none", "rows", "column", "steps"]
"""Sample weights: none, `(B,)`, `(B, 1)` or `(B, T)`."""


@dataclass(frozen=True)
class Score:
    """The value of a loss or metric, with the gradients of a loss.

    Attributes:
        values: The value, or several by name.
        gradients: For each sequence the gradient of its outputs at real steps. Empty for a metric.
        num_padding_gradients: The number of gradients of outputs at masked steps that are not 0.
    """

    values: dict[str, Tensor]
    gradients: list[Tensor]
    num_padding_gradients: int = 0

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all tensors with a description of each."""
        yield from self.values.items()
        for row, gradient in enumerate(self.gradients):
            yield f"the gradient of the outputs in row {row}", gradient


@dataclass(frozen=True)
class ObjectiveHarness:
    """A loss or metric with functions that draw outputs and targets.

    Attributes:
        create: A function that returns the loss or metric, without state.
        outputs: A function that draws the outputs.
        targets: A function that draws the targets.
        weight_form: The form of the sample weights.
    """

    create: Callable[[], Loss] | Callable[[], Metric]
    outputs: Draw
    targets: Draw
    weight_form: WeightForm = "none"

    @property
    def label(self) -> str:
        """The class and name of the loss or metric, for messages."""
        objective = self.create()
        return f"{type(objective).__name__} {objective.name!r} with {self.weight_form} weights"

    def sample(self, mask: Mask, seed: int = 0) -> PaddedSample:
        """Return random targets, outputs and weights with zeros at masked steps."""
        generator = torch.Generator().manual_seed(seed)
        grids = [self.targets(generator, mask.shape), self.outputs(generator, mask.shape)]
        sequence_weights = {}
        if self.weight_form == "steps":
            grids.append(torch.rand(mask.shape, generator=generator, dtype=torch.float64))
        elif self.weight_form != "none":
            shape = (mask.shape[0], 1) if self.weight_form == "column" else (mask.shape[0],)
            sequence_weights = {"weight": (torch.rand(shape, generator=generator, dtype=torch.float64),)}
        return PaddedSample(tuple(grids), (mask,) * len(grids), sequence_weights).with_padding_content(0)

    def score(self, batches: Sequence[PaddedSample], with_mask: bool = True, packed_targets: bool = False) -> Score:
        """Return the loss or metric over all batches, with the gradients of the outputs.

        Args:
            batches: The batches.
            with_mask: Whether outputs are `Packed`. False: they are plain tensors.
            packed_targets: Whether targets are `Packed`. False: they are grids.
        """
        objective = self.create()
        arguments = [_arguments(batch, objective, with_mask, packed_targets) for batch in batches]
        if isinstance(objective, Metric):
            for targets, outputs, weight, _ in arguments:
                objective.update_state(targets, outputs, weight)
            return Score(_named_results(objective.result()), [])
        if objective.reduction in (None, "none"):
            values = [objective.per_step_values(t, outputs, w).weighted_values.sum() for t, outputs, w, _ in arguments]
            total = torch.stack(values).sum()
        else:
            total = reduce(add, [objective.weighted_sum(t, outputs, w) for t, outputs, w, _ in arguments]).value
        grids = [grid for *_, grid in arguments]
        gradients = torch.autograd.grad(total, grids, allow_unused=True)
        by_sequence, num_padding_gradients = [], 0
        for batch, grid, gradient in zip(batches, grids, gradients, strict=True):
            padded = torch.zeros_like(grid) if gradient is None else gradient
            real = torch.from_numpy(batch.masks[0])
            by_sequence.extend(row[steps] for row, steps in zip(padded, real, strict=True))
            num_padding_gradients += int((padded[~real] != 0).sum())
        return Score({"the loss": total.detach()}, by_sequence, num_padding_gradients)


def _arguments(
    batch: PaddedSample, objective: Loss | Metric, with_mask: bool, packed_targets: bool
) -> tuple[StepTensor, StepTensor, Tensor | None, Tensor]:
    """Return targets, outputs and sample weights of a batch, and the grid of the outputs that gets a gradient."""
    targets, outputs = batch.grids[:2]
    weights = [*batch.grids[2:], *batch.sequence_arguments.get("weight", ())]
    grid = outputs.detach().clone().requires_grad_(outputs.is_floating_point() and isinstance(objective, Loss))
    return (
        pack(targets, batch.masks[0]) if packed_targets else targets,
        pack(grid, batch.masks[0]) if with_mask else grid,
        weights[0] if weights else None,
        grid,
    )


def _named_results(result: object) -> dict[str, Tensor]:
    """Return the tensors of a metric's result, by name."""
    if isinstance(result, dict):
        return result
    return {f"result {number}": tensor for number, tensor in enumerate(leaves(result))}


def check_same_score(expected: Score, actual: Score, property_name: str, description: str, exact: bool = False) -> None:
    """Raise `PropertyViolation` if two scores differ."""
    for (name, tensor), (_, other) in zip(expected.named_tensors(), actual.named_tensors(), strict=True):
        check_equal(tensor, other, property_name, f"{description}: {name}", exact)


def loss_matches_unpadded(harness: ObjectiveHarness, mask: Mask, seed: int = 0) -> None:
    """Check that a batch gives what its sequences give without padding, and that all results are finite.

    Args:
        harness: The loss or metric.
        mask: The mask `(B, T)` of the outputs.
        seed: The seed of outputs, targets and weights.

    Raises:
        PropertyViolation: The property does not hold.
    """
    sample = harness.sample(mask, seed)
    batched = harness.score([sample])
    for name, tensor in batched.named_tensors():
        if not bool(torch.isfinite(tensor).all()):
            raise PropertyViolation(f"matches_unpadded: {harness.label} is not finite: {name} is {tensor}.")
    if sample.batch:
        single = harness.score([sample.without_padding(row) for row in range(sample.batch)], with_mask=False)
        description = f"{harness.label} of a batch is not that of its sequences alone"
        check_same_score(single, batched, "matches_unpadded", description)


def loss_ignores_padding(harness: ObjectiveHarness, mask: Mask, seed: int = 0) -> None:
    """Check that the content and the amount of padding of outputs, targets and weights change no bit.

    Args:
        harness: The loss or metric.
        mask: The mask `(B, T)` of the outputs.
        seed: The seed of outputs, targets and weights.

    Raises:
        PropertyViolation: The property does not hold.
    """
    sample = harness.sample(mask, seed)
    base = harness.score([sample])
    for left, right, _, number, integer in padding_variants("packed"):
        padded = sample.with_padding_content(number, integer).with_more_padding(left, right, number, integer)
        score = harness.score([padded], packed_targets=left > 1)
        description = (
            f"{harness.label} changes with {left} more columns on the left and {right} on the right, and {number} or "
            f"{integer} at masked steps"
        )
        check_same_score(base, score, "ignores_padding", description, exact=True)
        if score.num_padding_gradients:
            raise PropertyViolation(f"ignores_padding: {description}: they get gradients.")


def loss_independent_of_batch(harness: ObjectiveHarness, mask: Mask, seed: int = 0) -> None:
    """Check that the order of the sequences does not matter, to rounding.

    Args:
        harness: The loss or metric.
        mask: The mask `(B, T)` of the outputs.
        seed: The seed of outputs, targets, weights and order.

    Raises:
        PropertyViolation: The property does not hold.
    """
    sample = harness.sample(mask, seed)
    base = harness.score([sample])
    order = np.random.default_rng(seed).permutation(sample.batch).tolist()
    expected = replace(base, gradients=[base.gradients[row] for row in order] if base.gradients else [])
    description = f"{harness.label} changes with the rows in the order {order}"
    check_same_score(expected, harness.score([sample.select(order)]), "independent_of_batch", description)


def loss_independent_of_split(harness: ObjectiveHarness, mask: Mask, seed: int = 0) -> None:
    """Check that a split into batches of different widths gives the same, to rounding.

    Args:
        harness: The loss or metric.
        mask: The mask `(B, T)` of the outputs.
        seed: The seed of outputs, targets, weights and split.

    Raises:
        PropertyViolation: The property does not hold.
    """
    sample = harness.sample(mask, seed)
    random = np.random.default_rng(seed)
    cuts = np.sort(random.integers(0, sample.batch + 1, 2)).tolist()
    batches = []
    for begin, end in zip([0, *cuts], [*cuts, sample.batch], strict=True):
        left, right = random.integers(0, 3, 2).tolist()
        batches.append(sample.select(range(begin, end)).with_more_padding(left, right))
    description = f"{harness.label} changes when cut at {cuts}"
    check_same_score(harness.score([sample]), harness.score(batches), "independent_of_split", description)


def loss_round_trip(harness: ObjectiveHarness, mask: Mask, seed: int = 0) -> None:
    """Check that the config as JSON gives the same loss or metric back, to the bit.

    A loss or metric whose `get_config` raises `ArgumentError`, such as one of a lambda, is not checked.

    Args:
        harness: The loss or metric.
        mask: The mask `(B, T)` of the outputs.
        seed: The seed of outputs, targets and weights.

    Raises:
        PropertyViolation: The loss or metric of the config differs.
    """
    objective = harness.create()
    try:
        text = json.dumps(objective.get_config())
    except ArgumentError:
        return
    restored_text = json.dumps(type(objective).from_config(json.loads(text)).get_config())
    if restored_text != text:
        raise PropertyViolation(
            f"round_trip: the config of {harness.label} becomes another one: {text} gives {restored_text}."
        )
    sample = harness.sample(mask, seed)
    restored = replace(harness, create=lambda: type(objective).from_config(json.loads(text)))
    description = f"{harness.label} made again from its config differs"
    check_same_score(harness.score([sample]), restored.score([sample]), "round_trip", description, exact=True)
