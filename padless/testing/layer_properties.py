"""The properties of a layer: matches unpadded, ignores padding, independent of the batch, round trip; and gradients."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, PadlessError
from padless.graph.symbolic import leaves
from padless.ragged.packed import Packed
from padless.saving.serialization import custom_object_scope
from padless.testing.harness import InputForm, LayerHarness, PaddedSample, Result, enter, joined
from padless.testing.masks import Mask

Masks = Mask | Sequence[Mask]
CONTENTS = (3.5, float("nan"), float("inf"), -float("inf"), -1e30)  # at masked steps of numbers
IDS = (1, -7, 10**9, 0, -1)  # and of ids
MORE_COLUMNS = ((0, 1), (3, 0), (0, 3), (1, 0), (2, 1))  # left and right


class PropertyViolation(PadlessError, AssertionError):
    """A law of padless does not hold for a layer, loss, metric or model."""


def disguises(*ways: InputForm) -> Iterator[tuple[int, int, InputForm, float, int]]:
    """More columns left and right, in each of these ways to give a mask, and what stands at masked steps."""
    for ((left, right), way), number, word in zip(product(MORE_COLUMNS, ways), cycle(CONTENTS), cycle(IDS), strict=False):
        yield left, right, way, number, word


def matches_unpadded(subject: LayerHarness, masks: Masks, seed: int = 0) -> None:
    """Packed equals what each sequence gives alone, without any padding: outputs and gradients, to rounding."""
    sample = subject.sample(masks, seed)
    together = subject.run(sample)
    for number, rows in enumerate(together.outputs):
        if len(rows) != sample.batch:
            raise PropertyViolation(
                f"matches_unpadded: output {number} of {subject.label} has {len(rows)} rows for {sample.batch} sequences."
            )
    pulls = subject.output_weights(together)
    bare = [sample.alone(row, subject.spans) for row in range(sample.batch)]
    alone = [subject.run(part, _bare_way(subject, part), [[p[row]] for p in pulls]) for row, part in enumerate(bare)]
    what = f"{subject.label} run on a batch is not what it is on each sequence alone"
    finite(together, f"{subject.label} gives numbers that are not finite")
    if alone:
        compare(joined(alone), together, "matches_unpadded", what)
    _word(subject, sample, together)


def _bare_way(subject: LayerHarness, part: PaddedSample) -> InputForm | None:
    """How a sequence alone comes in: without a mask, unless a window has to know of its holes."""
    bare = not subject.spans or all(mask.all() and mask.size for mask in part.masks)
    return "plain" if bare else None


def ignores_padding(subject: LayerHarness, masks: Masks, seed: int = 0) -> None:
    """What stands at masked steps, and how many they are, changes no bit; where a layer looks at the grid, to rounding."""
    sample = subject.sample(masks, seed)
    base = subject.run(sample)
    pulls = subject.output_weights(base)
    if base.stray:
        raise PropertyViolation(
            f"ignores_padding: {subject.label} sends gradients to {base.stray} masked numbers of its inputs."
        )
    numbers = all(grid.is_floating_point() for grid in sample.grids)
    for left, right, way, number, word in disguises(*(("mask_created",) if subject.creates_mask else ("packed", "mask"))):
        number, word = (0, 0) if subject.creates_mask else (number, word)
        other = subject.run(sample.holding(number, word).widened(left, right, number, word), way, pulls)
        what = (
            f"{subject.label}, given its mask {_WAYS[way]}, changes with {left} more columns on the left and {right} "
            f"on the right, and {number if numbers else word} at masked steps"
        )
        compare(base, other, "ignores_padding", what, exact=not subject.looks)
        if way != "mask":
            _gaps(base.shown, other.shown, "ignores_padding", what)
        if other.stray:
            raise PropertyViolation(f"ignores_padding: {what}: they get gradients.")
    for content in () if subject.creates_mask or not numbers else CONTENTS[:3]:
        found = subject.run(sample, "gap_values", pulls, content)
        what = f"{subject.label} changes with gaps that show {content}"
        compare(base, found, "ignores_padding", what, exact=not subject.looks)
        if content == CONTENTS[0]:
            wider = subject.run(sample.widened(1, 1), "gap_values", pulls, content)
            _gaps(found.shown, wider.shown, "ignores_padding", f"{what} and a column more on each side")


def _gaps(
    expected: Mapping[tuple[int, int, int], Tensor], given: Mapping[tuple[int, int, int], Tensor], law: str, what: str
) -> None:
    """Raises `PropertyViolation` where gaps after the same step show something else."""
    for gap in expected.keys() & given.keys():
        after = f"after step {gap[2]}" if gap[2] >= 0 else "before the first step"
        same(expected[gap], given[gap], law, f"{what}: what is shown {after} of row {gap[1]}")


_WAYS = {"packed": "as Packed", "mask": "as `mask=`", "mask_created": "by its data"}


def gradients(subject: LayerHarness, masks: Masks, seed: int = 0) -> None:
    """Gradients are the slopes of the outputs: a small step in a random direction says the same."""
    if subject.dtype != torch.float64:
        return  # too coarse for small steps
    sample = subject.sample(masks, seed)
    base = subject.run(sample)
    pulls = subject.output_weights(base)
    generator = torch.Generator().manual_seed(seed)

    def like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    toward = PaddedSample(
        tuple(like(g) if g.is_floating_point() else torch.zeros_like(g) for g in sample.grids),
        sample.masks,
        {name: tuple(map(like, parts)) for name, parts in sample.rows.items()},
    ).holding(0)
    weights = {name: like(gradient) for name, gradient in base.weights.items()}
    ways = [
        [row[torch.from_numpy(m)] for row, m in zip(g, mask, strict=True)]
        for g, mask in zip(toward.grids, toward.masks, strict=True)
        if g.is_floating_point()
    ]
    ways += [list(part) for parts in toward.rows.values() for part in parts]
    met = _weighed(base.inputs, ways) + _weighed([list(base.weights.values())], [list(weights.values())])
    ahead, behind = (_weighed(_shifted(subject, sample, toward, weights, size).outputs, pulls) for size in (STEP, -STEP))
    slope = (ahead - behind) / (2 * STEP)
    if not torch.isclose(slope, met, rtol=1e-4, atol=1e-5):
        raise PropertyViolation(
            f"gradients: the outputs of {subject.label} change by {slope.item():.6g} in a direction in which "
            f"the gradients of its inputs and weights say {met.item():.6g}."
        )


STEP = 1e-6


def _shifted(
    subject: LayerHarness, sample: PaddedSample, toward: PaddedSample, weights: Mapping[str, Tensor], size: float
) -> Result:
    """The layer a step away, in its inputs and its weights."""
    own = dict(subject.layer.named_parameters())
    before = {name: own[name].detach().clone() for name in weights}
    grids = tuple(
        g.to(d.dtype) + size * d if g.is_floating_point() else g for g, d in zip(sample.grids, toward.grids, strict=True)
    )
    rows = {
        name: tuple(p + size * d for p, d in zip(parts, toward.rows[name], strict=True))
        for name, parts in sample.rows.items()
    }
    try:
        with torch.no_grad():
            for name, direction in weights.items():
                own[name].add_(size * direction)
        return subject.run(PaddedSample(grids, sample.masks, rows))
    finally:
        with torch.no_grad():
            for name, value in before.items():
                own[name].copy_(value)


def _weighed(parts: Sequence[Sequence[Tensor]], weights: Sequence[Sequence[Tensor]]) -> Tensor:
    products = [
        (p * w).sum()
        for part, weight in zip(parts, weights, strict=True)
        for p, w in zip(part, weight, strict=True)
        if p.is_floating_point()
    ]
    return torch.stack(products).sum() if products else torch.zeros((), dtype=torch.float64)


def independent_of_batch(subject: LayerHarness, masks: Masks, seed: int = 0) -> None:
    """Rows may be permuted, and batches split: batch-mates do not matter, to rounding."""
    sample = subject.sample(masks, seed)
    way: InputForm = "mask_created" if subject.creates_mask else "gap_values"
    whole = subject.run(sample, way, content=1)
    pulls = subject.output_weights(whole)
    order = np.random.default_rng(seed).permutation(sample.batch).tolist()
    permuted = subject.run(sample.chosen(order), way, [[part[r] for r in order] for part in pulls], 1)
    what = f"{subject.label} changes with the rows in the order {order}"
    compare(whole.chosen(order), permuted, "independent_of_batch", what)
    _gaps(
        whole.shown,
        {(number, order[row], step): x for (number, row, step), x in permuted.shown.items()},
        "independent_of_batch",
        what,
    )
    parts = [order[: sample.batch // 2], order[sample.batch // 2 :]]
    halves = [subject.run(sample.chosen(rows), way, [[part[r] for r in rows] for part in pulls], 1) for rows in parts]
    compare(
        whole.chosen(order),
        joined(halves),
        "independent_of_batch",
        f"{subject.label} changes with its batch-mates; the rows {parts[0]} and {parts[1]} run apart",
    )


def deterministic(subject: LayerHarness, masks: Masks, seed: int = 0) -> None:
    """A call leaves what it was given as it was, and given the same again it gives the same, to the bit."""
    given = subject.arguments(subject.sample(masks, seed), "mask_created" if subject.creates_mask else "gap_values", 1.0)
    before = list(map(bits, _stored(given)))
    with torch.no_grad():
        first, again = (_stored(subject.called(*given)) for _ in range(2))
    if before != list(map(bits, _stored(given))):
        raise PropertyViolation(f"deterministic: {subject.label} changes its inputs in place.")
    for a, b in zip(first, again, strict=True):
        same(a, b, "deterministic", f"{subject.label} called again on the same", exact=True)


def _stored(tree: Any) -> list[Tensor]:
    """All numbers in a nest, those of values and those that gaps show; copied."""
    parts = [part for x in leaves(tree) for part in ((x.values, x.gap_values) if isinstance(x, Packed) else (x,))]
    return [part.detach().clone() for part in parts if isinstance(part, Tensor)]


def round_trip(subject: LayerHarness, masks: Masks, seed: int = 0, custom_objects: Mapping[str, Any] | None = None) -> None:
    """Config through JSON and weights by value give the same layer back, to the bit."""
    sample = subject.sample(masks, seed)
    try:
        text = json.dumps(subject.layer.get_config())
    except (TypeError, ArgumentError) as odd:
        raise PropertyViolation(f"round_trip: {subject.label} has no config that is JSON: {odd}") from None
    with custom_object_scope(custom_objects):
        again = type(subject.layer).from_config(json.loads(text))
    if json.dumps(again.get_config()) != text:
        raise PropertyViolation(
            f"round_trip: the config of {subject.label} becomes another one: {text} gives {json.dumps(again.get_config())}."
        )
    other = LayerHarness.of(
        lambda: again,
        list(subject.inputs),
        creates_mask=subject.creates_mask,
        rows=subject.rows,
        training=subject.training,
        dtype=subject.dtype,
    )
    again.set_weights(subject.layer.get_weights())
    result = subject.run(sample)
    renamed = other.run(sample, pulls=subject.output_weights(result))
    names = dict(zip(renamed.weights, result.weights, strict=True))
    renamed = Result(
        renamed.outputs,
        renamed.inputs,
        {names[k]: g for k, g in renamed.weights.items()},
        renamed.penalty,
        renamed.shown,
        renamed.stray,
        renamed.raw,
    )
    compare(result, renamed, "round_trip", f"{subject.label} made again from its config and weights differs", exact=True)


def _word(subject: LayerHarness, sample: PaddedSample, result: Result) -> None:
    """What the layer says of its outputs is true: their masks, their shapes."""
    layer = subject.layer
    if getattr(layer, "relation", None) == "graph":
        return
    entered = [
        enter(g, m, "mask_created" if subject.creates_mask else "packed")
        for g, m in zip(sample.grids, sample.masks, strict=True)
    ]
    masks: list[Any] = [None if subject.creates_mask else torch.from_numpy(m) for m in sample.masks]
    one = len(entered) == 1
    said = layer.compute_mask(entered[0] if one else entered, masks[0] if one else masks)
    outputs = result.raw if isinstance(result.raw, list | tuple) else [result.raw]
    listed = list(said) if isinstance(said, list | tuple) else [said] * len(outputs)
    beside = [(leaf, mask) for part, mask in zip(outputs, listed, strict=True) for leaf in leaves(part)]
    for number, (output, mask) in enumerate(beside):
        own = output.mask if isinstance(output, Packed) else None
        if (own is None) != (mask is None) or own is not None and not torch.equal(own, torch.as_tensor(mask).bool()):
            raise PropertyViolation(
                f"matches_unpadded: output {number} of {subject.label} has the mask {_listed(own)}, but compute_mask "
                f"says {_listed(mask)}."
            )
    shapes = [tuple(g.shape) for g in sample.grids]
    told = leaves_of_shapes(layer.compute_output_shape(shapes[0] if one else shapes))
    for number, (output, shape) in enumerate(zip(leaves(result.raw), told, strict=True)):
        if len(shape) != output.ndim or any(a not in (None, b) for a, b in zip(shape, output.shape, strict=True)):
            raise PropertyViolation(
                f"matches_unpadded: output {number} of {subject.label} has the shape {tuple(output.shape)}, but "
                f"compute_output_shape says {shape}."
            )


def leaves_of_shapes(shapes: Any) -> list[tuple[Any, ...]]:
    """All shapes in a nest of them."""
    if not any(isinstance(size, list | tuple) for size in shapes):
        return [tuple(shapes)]
    return [leaf for shape in shapes for leaf in leaves_of_shapes(shape)]


def _listed(mask: Any) -> Any:
    return None if mask is None else torch.as_tensor(mask).int().tolist()


# ------------------------------------------------------------------------------------------------ comparing


def compare(expected: Result, given: Result, law: str, what: str, exact: bool = False) -> None:
    """Raises `PropertyViolation` where two results differ."""
    wanted, found = dict(expected.parts()), dict(given.parts())
    if wanted.keys() != found.keys():
        odd = sorted(wanted.keys() ^ found.keys())[0]
        raise PropertyViolation(f"{law}: {what}: {odd} is there in one of them only.")
    for name, part in wanted.items():
        same(part, found[name], law, f"{what}: {name}", exact)


def same(expected: Tensor, given: Tensor, law: str, what: str, exact: bool = False) -> None:
    """Raises `PropertyViolation` unless both are equal, to the bit or to rounding."""
    tolerance = 1e-9 if expected.dtype == torch.float64 else 1e-5
    equal = expected.shape == given.shape and (
        bits(expected) == bits(given)
        if exact
        else torch.allclose(expected, given, rtol=tolerance, atol=tolerance, equal_nan=True)
    )
    if not equal:
        raise PropertyViolation(f"{law}: {what} is {_short(given)}, expected {_short(expected)}.")


def bits(x: Tensor) -> bytes:
    """A tensor as its bytes: NaN equals NaN, 0 is not -0."""
    return x.detach().contiguous().cpu().numpy().tobytes()


def finite(result: Result, what: str) -> None:
    """Raises `PropertyViolation` for NaN or infinity."""
    for name, part in result.parts():
        if not bool(torch.isfinite(part).all()):
            raise PropertyViolation(f"matches_unpadded: {what}: {name} is {_short(part)}.")


def _short(x: Tensor) -> str:
    numbers = np.array2string(x.detach().cpu().numpy(), threshold=40, precision=6)
    return f"{numbers} of shape {tuple(x.shape)}" if x.ndim > 1 else numbers
