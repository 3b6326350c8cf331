"""The properties of a model in training and in a file; those of its outputs are the properties of a layer."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import torch
from torch import Tensor

from padless.errors import ArgumentError
from padless.graph.symbolic import leaves
from padless.losses import losses
from padless.models import Model, load_model
from padless.ragged.packed import pack
from padless.testing.harness import LayerHarness, PaddedSample
from padless.testing.layer_properties import check_equal, check_same_result, padding_variants
from padless.testing.masks import Draw, Mask
from padless.types import LossLike, MetricLike, StepTensor


@dataclass(frozen=True)
class TrainingHarness:
    """A model with a loss, metrics, and functions that draw its targets.

    Attributes:
        harness: The model with functions that draw its inputs.
        targets: For each output a function that draws its targets.
        loss: The loss of `compile`; a list for several outputs.
        metrics: The metrics of `compile`.
    """

    harness: LayerHarness
    targets: tuple[Draw, ...]
    loss: LossLike | list[LossLike] = "mse"
    metrics: MetricLike | list[MetricLike] | None = None

    def sample(self, mask: Mask, seed: int = 0) -> PaddedSample:
        """Return random inputs, followed by targets, with zeros at masked steps."""
        inputs = self.harness.sample(mask, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        grids = (*inputs.grids, *(draw(generator, mask.shape) for draw in self.targets))
        converted = tuple(grid.to(self.harness.dtype) if grid.is_floating_point() else grid for grid in grids)
        return PaddedSample(converted, (mask,) * len(grids)).with_padding_content(0)

    def compiled_model(self) -> Model:
        """Return a compiled copy of the model."""
        model = copy.deepcopy(self.harness.layer)
        if not isinstance(model, Model):
            raise ArgumentError(f"Expected a model; got the layer {model!r}.")
        model.compile(optimizer="sgd", loss=self.loss, metrics=self.metrics)
        return model

    def data(self, sample: PaddedSample) -> tuple[StepTensor | list[StepTensor], Tensor | list[Tensor]]:
        """Return x and y for `fit`."""
        count = len(self.harness.inputs)
        x = [
            grid if self.harness.creates_mask else pack(grid, mask)
            for grid, mask in zip(sample.grids[:count], sample.masks[:count], strict=True)
        ]
        y = list(sample.grids[count:])
        return (x[0] if len(x) == 1 else x), (y[0] if len(y) == 1 else y)

    def train(self, sample: PaddedSample, batch_size: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Train a copy of the model for one epoch, and return its logs and its weights."""
        model, (x, y) = self.compiled_model(), self.data(sample)
        history = model.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)
        logs = {name: values[-1] for name, values in history.history.items()}
        return logs, {name: parameter.detach() for name, parameter in model.named_parameters()}

    def gradients(self, model: Model, batches: Sequence[PaddedSample]) -> dict[str, Tensor]:
        """Return the gradients of the weights for the loss over all batches, by name."""
        loss_of_output = self.loss if isinstance(self.loss, list) else [self.loss] * len(self.targets)
        loss_objects = [losses.get(loss) for loss in loss_of_output]
        sums_of_batches = []
        for batch in batches:
            x, y = self.data(batch)
            targets = y if isinstance(y, list) else [y]
            pairs = zip(loss_objects, targets, leaves(model(x)), strict=True)
            sums_of_batches.append([loss.weighted_sum(target, output) for loss, target, output in pairs])
        total = torch.stack([reduce(add, sums).value for sums in zip(*sums_of_batches, strict=True)]).sum()
        parameters = dict(model.named_parameters())
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        return {
            name: torch.zeros_like(parameter) if gradient is None else gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }


def training_ignores_padding(trained: TrainingHarness, mask: Mask, seed: int = 0) -> None:
    """Check that padding of inputs and targets changes no bit of an epoch of training.

    Args:
        trained: The model with its loss and targets.
        mask: The mask `(B, T)` of inputs and targets.
        seed: The seed of the data.

    Raises:
        PropertyViolation: A log or a weight differs.
    """
    sample = trained.sample(mask, seed)
    logs, weights = trained.train(sample, batch_size=2)
    count = len(trained.harness.inputs)
    for left, right, _, number, integer in padding_variants("packed"):
        padded = sample.with_padding_content(number, integer).with_more_padding(left, right, number, integer)
        inputs = sample.with_more_padding(left, right) if trained.harness.creates_mask else padded  # zeros are the mask
        changed = PaddedSample((*inputs.grids[:count], *padded.grids[count:]), padded.masks)
        other_logs, other_weights = trained.train(changed, batch_size=2)
        description = (
            f"training {trained.harness.label} changes with {left} more columns on the left and {right} on the right, and "
            f"{number} or {integer} at masked steps"
        )
        for name, value in logs.items():
            other = torch.tensor(other_logs[name])
            check_equal(torch.tensor(value), other, "ignores_padding", f"{description}: {name}", exact=True)
        for name, weight in weights.items():
            check_equal(weight, other_weights[name], "ignores_padding", f"{description}: weight {name!r}", exact=True)


def model_independent_of_split(trained: TrainingHarness, mask: Mask, seed: int = 0) -> None:
    """Check that the batch size changes neither loss and metrics nor the sum of the gradients, to rounding.

    Args:
        trained: The model with its loss and targets.
        mask: The mask `(B, T)` of inputs and targets.
        seed: The seed of the data.

    Raises:
        PropertyViolation: A value or gradient differs.
    """
    sample = trained.sample(mask, seed)
    if not sample.batch:
        return
    x, y = trained.data(sample)
    model, label = trained.compiled_model(), trained.harness.label
    one_batch = model.evaluate(x, y, batch_size=sample.batch, verbose=0, return_dict=True)
    for size in {1, max(1, sample.batch - 1)}:
        batches = model.evaluate(x, y, batch_size=size, verbose=0, return_dict=True)
        for name, value in one_batch.items():
            expected, actual = (torch.tensor(number, dtype=torch.float64) for number in (value, batches[name]))
            check_equal(expected, actual, "independent_of_split", f"{name} of {label} in batches of {size}")
    rows = [sample.select([row]).with_more_padding(row, 1) for row in range(sample.batch)]
    gradients = trained.gradients(model, rows)
    for name, gradient in trained.gradients(model, [sample]).items():
        description = f"the gradient of weight {name!r} of {label}, summed row by row"
        check_equal(gradient, gradients[name], "independent_of_split", description)


def model_round_trip(harness: LayerHarness, mask: Mask, seed: int = 0) -> None:
    """Check that a saved and loaded model gives the same result, to the bit.

    Args:
        harness: The model.
        mask: The mask `(B, T)` of the inputs.
        seed: The seed of the inputs.

    Raises:
        PropertyViolation: A result differs.
    """
    if not isinstance(harness.layer, Model):
        raise ArgumentError(f"Expected a model; got the layer {harness.layer!r}.")
    sample = harness.sample(mask, seed)
    result = harness.run(sample)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        harness.layer.save(path)
        loaded = load_model(path)
        loaded.to(harness.dtype)
        loaded.load_weights(path)
    loaded_harness = LayerHarness(
        loaded, harness.inputs, harness.creates_mask, harness.sequence_arguments, harness.training, harness.dtype
    )
    loaded_result = loaded_harness.run(sample, output_weights=harness.output_weights(result))
    description = f"{harness.label} saved and loaded differs"
    check_same_result(result, loaded_result, "round_trip", description, exact=True)
