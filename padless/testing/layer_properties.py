"""The properties of a layer as functions of a harness and a mask; each raises `PropertyViolation` if it does not hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, product
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, PadlessError
from padless.graph.symbolic import leaves
from padless.ragged.packed import Packed
from padless.saving.serialization import custom_object_scope
from padless.testing.harness import GapKey, InputForm, LayerHarness, PaddedSample, Result, join_results, to_input
from padless.testing.masks import Mask

Masks: TypeAlias = Mask | Sequence[Mask]
"""One mask for all inputs, or one for each."""

PADDING_NUMBERS = (3.5, float("nan"), float("inf"), -float("inf"), -1e30)  # at masked steps of floating-point grids
PADDING_IDS = (1, -7, 10**9, 0, -1)  # at masked steps of integer grids
EXTRA_COLUMNS = ((0, 1), (3, 0), (0, 3), (1, 0), (2, 1))  # (left, right)
STEP_SIZE = 1e-6  # of the finite differences of `gradients`
_FORMS = {"packed": "as Packed", "mask": "as `mask=`", "mask_created": "by its data"}


class PropertyViolation(PadlessError, AssertionError):
    """A property does not hold for a layer, loss, metric or model."""


def padding_variants(*forms: InputForm) -> Iterator[tuple[int, int, InputForm, float, int]]:
    """Yield the variants of padding that must not change a result.

    Args:
        forms: The forms in which inputs are given.

    Returns:
        Tuples of the extra columns on the left and on the right, the form, and the number and the integer at masked steps.
    """
    columns_and_forms = product(EXTRA_COLUMNS, forms)
    for ((left, right), form), number, integer in zip(
        columns_and_forms, cycle(PADDING_NUMBERS), cycle(PADDING_IDS), strict=False
    ):
        yield left, right, form, number, integer


# ------------------------------------------------------------------------------------------------ matches unpadded


def matches_unpadded(harness: LayerHarness, masks: Masks, seed: int = 0) -> None:
    """Check that a batch gives what each sequence gives alone and without padding: outputs and gradients, to rounding.

    All results must be finite, and `compute_mask` and `compute_output_shape` must be right.

    Args:
        harness: The layer.
        masks: A mask `(B, T)`, or one for each input.
        seed: The seed of the inputs.

    Raises:
        PropertyViolation: The property does not hold.
    """
    sample = harness.sample(masks, seed)
    batched = harness.run(sample)
    for number, rows in enumerate(batched.outputs):
        if len(rows) != sample.batch:
            raise PropertyViolation(
                f"matches_unpadded: output {number} of {harness.label} has {len(rows)} rows for {sample.batch} sequences."
            )
    check_finite(batched, f"{harness.label} gives numbers that are not finite")
    if sample.batch:
        output_weights = harness.output_weights(batched)
        single_results = []
        for row in range(sample.batch):
            single = sample.without_padding(row, keep_gaps=harness.has_window_layer)
            weights = [[by_sequence[row]] for by_sequence in output_weights]
            single_results.append(harness.run(single, _form_of_single(harness, single), weights))
        description = f"{harness.label} run on a batch is not what it is on each sequence alone"
        check_same_result(join_results(single_results), batched, "matches_unpadded", description)
    if harness.layer.relation != "graph":  # the layers of a model are checked alone
        _check_computed_masks(harness, sample, batched)
        _check_computed_shapes(harness, sample, batched)


def _form_of_single(harness: LayerHarness, single: PaddedSample) -> InputForm | None:
    """Return "plain" for a sequence without gaps; a window must know its gaps, so it gets the default form."""
    has_gaps = not all(mask.all() and mask.size for mask in single.masks)
    return None if harness.has_window_layer and has_gaps else "plain"


def _check_computed_masks(harness: LayerHarness, sample: PaddedSample, result: Result) -> None:
    """Raise `PropertyViolation` if `compute_mask` of the layer does not return the masks of its outputs."""
    form = "mask_created" if harness.creates_mask else "packed"
    inputs = [to_input(grid, mask, form) for grid, mask in zip(sample.grids, sample.masks, strict=True)]
    masks = [None if harness.creates_mask else torch.from_numpy(mask) for mask in sample.masks]
    if len(inputs) == 1:
        computed = harness.layer.compute_mask(inputs[0], masks[0])
    else:
        computed = harness.layer.compute_mask(inputs, masks)
    outputs = result.raw_outputs if isinstance(result.raw_outputs, list | tuple) else [result.raw_outputs]
    computed_masks = list(computed) if isinstance(computed, list | tuple) else [computed] * len(outputs)
    pairs = [(leaf, mask) for part, mask in zip(outputs, computed_masks, strict=True) for leaf in leaves(part)]
    for number, (output, computed_mask) in enumerate(pairs):
        mask = output.mask if isinstance(output, Packed) else None
        if mask is None or computed_mask is None:
            equal = mask is None and computed_mask is None
        else:
            equal = torch.equal(mask, torch.as_tensor(computed_mask).bool())
        if not equal:
            raise PropertyViolation(
                f"matches_unpadded: output {number} of {harness.label} has the mask {_mask_text(mask)}, but "
                f"compute_mask returns {_mask_text(computed_mask)}."
            )


def _check_computed_shapes(harness: LayerHarness, sample: PaddedSample, result: Result) -> None:
    """Raise `PropertyViolation` if `compute_output_shape` of the layer does not fit the shapes of its outputs."""
    shapes = [tuple(grid.shape) for grid in sample.grids]
    computed = flatten_shapes(harness.layer.compute_output_shape(shapes[0] if len(shapes) == 1 else shapes))
    for number, (output, shape) in enumerate(zip(leaves(result.raw_outputs), computed, strict=True)):
        sizes_fit = all(size in (None, actual) for size, actual in zip(shape, output.shape, strict=False))
        if len(shape) != output.ndim or not sizes_fit:
            raise PropertyViolation(
                f"matches_unpadded: output {number} of {harness.label} has the shape {tuple(output.shape)}, but "
                f"compute_output_shape returns {shape}."
            )


def flatten_shapes(shapes: Any) -> list[tuple[int | None, ...]]:
    """Return all shapes in a nested list of shapes."""
    if not any(isinstance(size, list | tuple) for size in shapes):
        return [tuple(shapes)]
    return [flat for shape in shapes for flat in flatten_shapes(shape)]


def _mask_text(mask: Any) -> str:
    return str(None if mask is None else torch.as_tensor(mask).int().tolist())


# ------------------------------------------------------------------------------------------------ ignores padding


def ignores_padding(harness: LayerHarness, masks: Masks, seed: int = 0) -> None:
    """Check that the content and the amount of padding change no bit of outputs and gradients.

    Masked steps must get no gradient. Where a layer computes on the grid, results must be equal to rounding.

    Args:
        harness: The layer.
        masks: A mask `(B, T)`, or one for each input.
        seed: The seed of the inputs.

    Raises:
        PropertyViolation: The property does not hold.
    """
    sample = harness.sample(masks, seed)
    base = harness.run(sample)
    output_weights = harness.output_weights(base)
    if base.num_padding_gradients:
        raise PropertyViolation(
            f"ignores_padding: {harness.label} sends gradients to {base.num_padding_gradients} masked numbers of its inputs."
        )
    exact = not harness.reads_grid
    has_only_floats = all(grid.is_floating_point() for grid in sample.grids)
    forms: tuple[InputForm, ...] = ("mask_created",) if harness.creates_mask else ("packed", "mask")
    for left, right, form, number, integer in padding_variants(*forms):
        if harness.creates_mask:
            number, integer = 0, 0  # the zeros are the mask
        padded = sample.with_padding_content(number, integer).with_more_padding(left, right, number, integer)
        result = harness.run(padded, form, output_weights)
        description = (
            f"{harness.label}, given its mask {_FORMS[form]}, changes with {left} more columns on the left and {right} "
            f"on the right, and {number if has_only_floats else integer} at masked steps"
        )
        check_same_result(base, result, "ignores_padding", description, exact)
        if form != "mask":
            _check_same_gaps(base.gap_values, result.gap_values, "ignores_padding", description)
        if result.num_padding_gradients:
            raise PropertyViolation(f"ignores_padding: {description}: they get gradients.")
    if has_only_floats and not harness.creates_mask:
        _check_gap_values_ignored(harness, sample, base, output_weights, exact)


def _check_gap_values_ignored(
    harness: LayerHarness, sample: PaddedSample, base: Result, output_weights: list[list[Tensor]], exact: bool
) -> None:
    """Raise `PropertyViolation` if the gap values of the inputs change a result, or columns change gap values."""
    for content in PADDING_NUMBERS[:3]:
        result = harness.run(sample, "gap_values", output_weights, content)
        description = f"{harness.label} changes with gaps that show {content}"
        check_same_result(base, result, "ignores_padding", description, exact)
        if content == PADDING_NUMBERS[0]:
            wider = harness.run(sample.with_more_padding(1, 1), "gap_values", output_weights, content)
            description += " and a column more on each side"
            _check_same_gaps(result.gap_values, wider.gap_values, "ignores_padding", description)


def _check_same_gaps(
    expected: Mapping[GapKey, Tensor], actual: Mapping[GapKey, Tensor], name: str, description: str
) -> None:
    """Raise `PropertyViolation` where gaps after the same step have other gap values."""
    for key in expected.keys() & actual.keys():
        _, row, step = key
        place = f"after step {step}" if step >= 0 else "before the first step"
        check_equal(expected[key], actual[key], name, f"{description}: the gap value {place} of row {row}")


# ------------------------------------------------------------------------------------------------ gradients


def gradients(harness: LayerHarness, masks: Masks, seed: int = 0) -> None:
    """Check the gradients against finite differences along a random direction of inputs and weights.

    Args:
        harness: The layer, in double precision; other dtypes are too coarse and are not checked.
        masks: A mask `(B, T)`, or one for each input.
        seed: The seed of the inputs and of the direction.

    Raises:
        PropertyViolation: The gradients differ.
    """
    if harness.dtype != torch.float64:
        return
    sample = harness.sample(masks, seed)
    base = harness.run(sample)
    output_weights = harness.output_weights(base)
    generator = torch.Generator().manual_seed(seed)

    def random_like(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

    direction = PaddedSample(
        tuple(random_like(grid) if grid.is_floating_point() else torch.zeros_like(grid) for grid in sample.grids),
        sample.masks,
        {name: tuple(map(random_like, tensors)) for name, tensors in sample.sequence_arguments.items()},
    ).with_padding_content(0)
    weight_direction = {name: random_like(gradient) for name, gradient in base.weight_gradients.items()}
    expected = _dot(base.input_gradients, _directions_of_inputs(direction)) + _dot(
        [list(base.weight_gradients.values())], [list(weight_direction.values())]
    )
    forward, backward = (
        _dot(_run_shifted(harness, sample, direction, weight_direction, size).outputs, output_weights)
        for size in (STEP_SIZE, -STEP_SIZE)
    )
    slope = (forward - backward) / (2 * STEP_SIZE)
    if not torch.isclose(slope, expected, rtol=1e-4, atol=1e-5):
        raise PropertyViolation(
            f"gradients: the outputs of {harness.label} change by {slope.item():.6g} in a direction in which "
            f"the gradients of its inputs and weights say {expected.item():.6g}."
        )


def _directions_of_inputs(direction: PaddedSample) -> list[list[Tensor]]:
    """Return the direction by input and sequence, in the order of `Result.input_gradients`."""
    directions = [
        [row[torch.from_numpy(steps)] for row, steps in zip(grid, mask, strict=True)]
        for grid, mask in zip(direction.grids, direction.masks, strict=True)
        if grid.is_floating_point()
    ]
    return directions + [list(tensor) for tensors in direction.sequence_arguments.values() for tensor in tensors]


def _run_shifted(
    harness: LayerHarness,
    sample: PaddedSample,
    direction: PaddedSample,
    weight_direction: Mapping[str, Tensor],
    size: float,
) -> Result:
    """Run the layer with inputs and weights moved by `size` along the direction, and move the weights back."""
    grids = tuple(
        grid.to(shift.dtype) + size * shift if grid.is_floating_point() else grid
        for grid, shift in zip(sample.grids, direction.grids, strict=True)
    )
    sequence_arguments = {
        name: tuple(x + size * shift for x, shift in zip(tensors, direction.sequence_arguments[name], strict=True))
        for name, tensors in sample.sequence_arguments.items()
    }
    parameters = dict(harness.layer.named_parameters())
    original = {name: parameters[name].detach().clone() for name in weight_direction}
    try:
        with torch.no_grad():
            for name, shift in weight_direction.items():
                parameters[name].add_(size * shift)
        return harness.run(PaddedSample(grids, sample.masks, sequence_arguments))
    finally:
        with torch.no_grad():
            for name, value in original.items():
                parameters[name].copy_(value)


def _dot(tensors: Sequence[Sequence[Tensor]], weights: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the sum of all products of floating-point tensors and weights."""
    products = [
        (tensor * weight).sum()
        for tensors_of_output, weights_of_output in zip(tensors, weights, strict=True)
        for tensor, weight in zip(tensors_of_output, weights_of_output, strict=True)
        if tensor.is_floating_point()
    ]
    return torch.stack(products).sum() if products else torch.zeros((), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------ other properties


def independent_of_batch(harness: LayerHarness, masks: Masks, seed: int = 0) -> None:
    """Check that the order of the sequences and the other sequences of the batch do not matter, to rounding.

    Args:
        harness: The layer.
        masks: A mask `(B, T)`, or one for each input.
        seed: The seed of the inputs and of the order.

    Raises:
        PropertyViolation: The property does not hold.
    """
    sample = harness.sample(masks, seed)
    form: InputForm = "mask_created" if harness.creates_mask else "gap_values"
    base = harness.run(sample, form, gap_content=1)
    output_weights = harness.output_weights(base)
    order = np.random.default_rng(seed).permutation(sample.batch).tolist()

    def run_rows(rows: list[int]) -> Result:
        weights = [[by_sequence[row] for row in rows] for by_sequence in output_weights]
        return harness.run(sample.select(rows), form, weights, gap_content=1)

    permuted = run_rows(order)
    description = f"{harness.label} changes with the rows in the order {order}"
    check_same_result(base.select(order), permuted, "independent_of_batch", description)
    gap_values = {(number, order[row], step): value for (number, row, step), value in permuted.gap_values.items()}
    _check_same_gaps(base.gap_values, gap_values, "independent_of_batch", description)

    first, second = order[: sample.batch // 2], order[sample.batch // 2 :]
    description = f"{harness.label} changes with the other rows of the batch; the rows {first} and {second} run separately"
    halves = join_results([run_rows(first), run_rows(second)])
    check_same_result(base.select(order), halves, "independent_of_batch", description)


def deterministic(harness: LayerHarness, masks: Masks, seed: int = 0) -> None:
    """Check that two calls with the same inputs give the same bits, and that the inputs stay as they are.

    Args:
        harness: The layer. States are reset and the seed of torch is the same for each call.
        masks: A mask `(B, T)`, or one for each input.
        seed: The seed of the inputs.

    Raises:
        PropertyViolation: The property does not hold.
    """
    form: InputForm = "mask_created" if harness.creates_mask else "gap_values"
    arguments = harness.arguments(harness.sample(masks, seed), form, 1.0)
    inputs_before = list(map(to_bytes, _copy_tensors(arguments)))
    with torch.no_grad():
        first, second = (_copy_tensors(harness.call(*arguments)) for _ in range(2))
    if inputs_before != list(map(to_bytes, _copy_tensors(arguments))):
        raise PropertyViolation(f"deterministic: {harness.label} changes its inputs in place.")
    for one, other in zip(first, second, strict=True):
        check_equal(one, other, "deterministic", f"{harness.label} called again on the same", exact=True)


def _copy_tensors(tree: object) -> list[Tensor]:
    """Return copies of all tensors of nested values; of a `Packed` its values and gap values."""
    tensors = []
    for leaf in leaves(tree):
        tensors += [leaf.values, leaf.gap_values] if isinstance(leaf, Packed) else [leaf]
    return [tensor.detach().clone() for tensor in tensors if isinstance(tensor, Tensor)]


def round_trip(
    harness: LayerHarness, masks: Masks, seed: int = 0, custom_objects: Mapping[str, object] | None = None
) -> None:
    """Check that the config as JSON and the weights give the same layer back, to the bit.

    Args:
        harness: The layer.
        masks: A mask `(B, T)`, or one for each input.
        seed: The seed of the inputs.
        custom_objects: Names in the config that are not registered.

    Raises:
        PropertyViolation: The config is not JSON, or the layer of the config differs.
    """
    layer = harness.layer
    try:
        text = json.dumps(layer.get_config())
    except (TypeError, ArgumentError) as error:
        raise PropertyViolation(f"round_trip: {harness.label} has no config that is JSON: {error}") from None
    with custom_object_scope(custom_objects):
        restored = type(layer).from_config(json.loads(text))
    restored_text = json.dumps(restored.get_config())
    if restored_text != text:
        raise PropertyViolation(
            f"round_trip: the config of {harness.label} becomes another one: {text} gives {restored_text}."
        )
    restored_harness = LayerHarness.from_layer(
        lambda: restored,
        list(harness.inputs),
        creates_mask=harness.creates_mask,
        sequence_arguments=harness.sequence_arguments,
        training=harness.training,
        dtype=harness.dtype,
    )
    restored.set_weights(layer.get_weights())
    sample = harness.sample(masks, seed)
    result = harness.run(sample)
    restored_result = restored_harness.run(sample, output_weights=harness.output_weights(result))
    names = zip(result.weight_gradients, restored_result.weight_gradients.values(), strict=True)
    restored_result = replace(restored_result, weight_gradients=dict(names))  # layers of a model may get other names
    description = f"{harness.label} made again from its config and weights differs"
    check_same_result(result, restored_result, "round_trip", description, exact=True)


# ------------------------------------------------------------------------------------------------ comparison


def check_same_result(expected: Result, actual: Result, property_name: str, description: str, exact: bool = False) -> None:
    """Raise `PropertyViolation` if two results differ."""
    expected_tensors, actual_tensors = dict(expected.named_tensors()), dict(actual.named_tensors())
    if expected_tensors.keys() != actual_tensors.keys():
        name = sorted(expected_tensors.keys() ^ actual_tensors.keys())[0]
        raise PropertyViolation(f"{property_name}: {description}: only one of them has {name}.")
    for name, tensor in expected_tensors.items():
        check_equal(tensor, actual_tensors[name], property_name, f"{description}: {name}", exact)


def check_equal(expected: Tensor, actual: Tensor, property_name: str, description: str, exact: bool = False) -> None:
    """Raise `PropertyViolation` unless two tensors are equal: with `exact` to the bit, else to rounding."""
    tolerance = 1e-9 if expected.dtype == torch.float64 else 1e-5
    if expected.shape != actual.shape:
        equal = False
    elif exact:
        equal = to_bytes(expected) == to_bytes(actual)
    else:
        equal = torch.allclose(expected, actual, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not equal:
        raise PropertyViolation(
            f"{property_name}: {description} is {_tensor_text(actual)}, expected {_tensor_text(expected)}."
        )


def to_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor, for a comparison in which NaN equals NaN and 0 does not equal -0."""
    return tensor.detach().contiguous().cpu().numpy().tobytes()


def check_finite(result: Result, description: str) -> None:
    """Raise `PropertyViolation` if a result holds NaN or infinity."""
    for name, tensor in result.named_tensors():
        if not bool(torch.isfinite(tensor).all()):
            raise PropertyViolation(f"matches_unpadded: {description}: {name} is {_tensor_text(tensor)}.")


def _tensor_text(tensor: Tensor) -> str:
    numbers = np.array2string(tensor.detach().cpu().numpy(), threshold=40, precision=6)
    return f"{numbers} of shape {tuple(tensor.shape)}" if tensor.ndim > 1 else numbers
