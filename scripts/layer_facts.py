"""Compute the rows of docs/layers.md: run each layer on the cases of the tests, and compare it with Keras's layer."""

import re
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
from cases import ABSTRACT, LAYERS

import padless
from padless.graph.symbolic import leaves
from padless.layers import Layer
from padless.layers.base.mask_rule import call_spec_of
from padless.layers.rnn.cells import Cell, StackedRNNCells
from padless.ragged.packed import Packed, pack
from padless.registry import entries
from padless.testing.harness import LayerHarness
from padless.testing.masks import as_draw, different_masks

DOCS = Path(__file__).resolve().parent.parent / "docs"
MASKS = {
    "none": ["11111"] * 4,
    "right": ["11100", "10000", "11111", "11000"],
    "left": ["00111", "00001", "01111", "00011"],
    "gaps": ["10101", "01001", "11010", "01100"],
    "empty": ["00000", "11000", "00000", "01011"],
}
MASK_TITLES = {"right": "right padding", "left": "left padding", "gaps": "gaps", "empty": "empty sequences"}
RELATIONS = (
    "creates_mask",
    "stepwise",
    "window",
    "reduce",
    "recurrent",
    "attention",
    "merge",
    "per_step",
    "module",
    "padded_grid",
)
COSTS = {
    "window": "the spans",
    "attention": "the square of each sequence's real steps",
    "padded_grid": "the grid",
    "per_step": "the cost of the inner layer",
    "module": "depends on its relation",
}
POSITION_LAYERS = {"PositionEmbedding", "SinePositionEncoding", "RotaryEmbedding"}  # no pairs of steps: linear cost
MODELS = {"Model", "Sequential", "Functional"}
KERAS_LAYERS = {name: cls for name, cls in vars(keras.layers).items() if isinstance(cls, type)}
SECTIONS = {"window": "windows-and-attention", "attention": "windows-and-attention", "merge": "merges", "recurrent": "masks"}
HEAD = """# The layers

`scripts/layer_table` writes this page. It runs each layer on the cases of the tests.

- *relation*: which other steps a step may see ([masking.md](masking.md)).
- *mask*: what happens to the mask, depending on the layer's arguments. The layer creates it, passes it on, maps it to other
  steps, unites the masks of its inputs, or consumes it.
- *gap values*: what the grid of the output shows at masked steps. "unchanged" means the gap values of the input, "computed"
  means the layer's function of them.
- *cost*: what the time is proportional to. Padding costs nothing, except where the cost is the grid.
- *Keras 3.15.1*: how close the outputs are with the same weights. They are compared without a mask, with right padding,
  with left padding, with gaps and with empty sequences. The links lead to the rows of [differences.md](differences.md)
  that name the layer.

| layer | relation | mask | gap values | cost | Keras 3.15.1 |
|---|---|---|---|---|---|
"""


def make_page() -> str:
    """Return the page, with one row for each public layer."""
    public = {cls for cls in entries("layer").values() if cls.__module__.startswith("padless.")}
    layers = [cls for cls in public if cls.__name__ not in {*ABSTRACT, *MODELS}]
    layers.sort(key=lambda cls: (RELATIONS.index(relation_of(cls)), cls.__name__))
    return HEAD + "".join(make_row(cls) for cls in layers)


def relation_of(cls: type[Layer]) -> str:
    """Return which other steps a step of this layer may see; for a cell, the relation of its layer."""
    relation = call_spec_of(cls).relation
    return relation or ("recurrent" if issubclass(cls, Cell | StackedRNNCells) else "padded_grid")


def make_row(cls: type[Layer]) -> str:
    """Return the row of a layer."""
    name, relation = cls.__name__, relation_of(cls)
    cases = [case for case in LAYERS if case.layer == name and not case.options.get("training")]
    if not cases:
        raise SystemExit(f"{name} has no case in tests/cases. Add one.")
    facts = [describe_mask_and_gaps(case.harness()) for case in cases]
    masks, gaps = (" or ".join(dict.fromkeys(fact[column] for fact in facts if fact[column])) for column in (0, 1))
    cost = COSTS.get(relation, "the real steps") if name not in POSITION_LAYERS else "the real steps"
    title = "one recurrent step" if issubclass(cls, Cell | StackedRNNCells) else relation
    return f"| `{name}` | {title} | {masks} | {gaps or '-'} | {cost} | {describe_parity(cls, cases, relation)} |\n"


# ------------------------------------------------------------------------------------------------ mask and gaps


def describe_mask_and_gaps(subject: LayerHarness) -> tuple[str, str]:
    """Return what happens to the mask, and what gaps show."""
    mask = make_mask("gaps")
    masks = different_masks(mask, len(subject.inputs)) if takes_several_masks(subject) else [mask] * len(subject.inputs)
    sample = subject.sample(masks)
    with torch.no_grad():
        arguments, options = subject.arguments(sample, "mask_created" if subject.creates_mask else "gap_values", 2.5)
        output = leaves(subject.call(arguments, options))[0]
    inputs = [x for x in leaves(arguments) if isinstance(x, Packed)]
    return describe_mask(inputs, output), describe_gaps(subject, inputs, output)


def takes_several_masks(subject: LayerHarness) -> bool:
    """Return whether the inputs of the layer may have different masks."""
    is_merge = relation_of(type(subject.layer)) == "merge" and type(subject.layer).__name__ != "RepeatVector"
    return is_merge and len(subject.inputs) > 1


def describe_mask(inputs: list[Packed], output: Any) -> str:
    """Return what happened to the mask of the inputs."""
    if not inputs:
        return "created" if isinstance(output, Packed) else ""
    if not isinstance(output, Packed):
        return "consumed"
    if all(output.index.equals(x.index) for x in inputs):
        return "passes"
    same_grid = len({x.index.grid for x in inputs}) == 1
    if len(inputs) > 1 and same_grid:
        union = np.logical_or.reduce([x.index.mask for x in inputs])
        if np.array_equal(output.index.mask, union):
            return "united"
    return "mapped"


def describe_gaps(subject: LayerHarness, inputs: list[Packed], output: Any) -> str:
    """Return what the grid of the output shows at masked steps."""
    if not isinstance(output, Packed):
        return ""
    gap_values = output.gap_values
    if gap_values is None or not gap_values.any():
        return "0"
    table = next((w for w in subject.layer.weights if w.ndim == 2), None)
    is_row = not inputs and table is not None and gap_values.shape[1:] == table.shape[1:]
    if is_row and bool((gap_values == table[0]).all()):
        return "row 0 of the table"
    before = output.index.tensor("step_before_gap", output.device)
    has_before = (before >= 0).reshape(-1, *(1,) * (gap_values.ndim - 1))
    if torch.equal(gap_values, torch.where(has_before, output.values[before.clamp(min=0)], 0)):
        return "the output before"
    input_values = inputs[0].gap_values if inputs else None
    if input_values is not None and input_values.shape == gap_values.shape and torch.equal(gap_values, input_values):
        return "unchanged"
    return "computed"


# ------------------------------------------------------------------------------------------------ Keras

EVERYWHERE, REAL_STEPS, DIFFERENT = 2, 1, 0  # where two outputs are equal


def describe_parity(cls: type[Layer], cases: list[Any], relation: str) -> str:
    """Return how far the layer equals Keras's, with links to differences.md."""
    if not hasattr(keras.layers, cls.__name__):
        return "not in Keras"
    compared = {case.name.partition("-")[2]: levels for case in cases if (levels := compare(case)) is not None}
    different = [name for name, levels in compared.items() if levels["none"] == DIFFERENT]
    equal = [levels for name, levels in compared.items() if name not in different]
    lowest = {kind: min((levels[kind] for levels in equal if kind in levels), default=DIFFERENT) for kind in MASKS}
    unequal_masks = [title for kind, title in MASK_TITLES.items() if lowest[kind] == DIFFERENT]
    if not compared:
        text = "equal, in separate tests"
    elif not unequal_masks:
        text = f"equal at {'every position' if min(lowest.values()) == EVERYWHERE else 'real steps'}"
    elif len(unequal_masks) == len(MASK_TITLES):
        text = "equal without a mask"
    else:
        text = f"equal except with {' and '.join(unequal_masks)}"
    text += f", except {', '.join(different)}" if different else ""
    links = list_differences(cls.__name__)
    if not links and relation in SECTIONS:
        links = [f"[differences](differences.md#{SECTIONS[relation]})"]
    return ", ".join([text, *links])


def list_differences(name: str) -> list[str]:
    """Return links to the rows of differences.md that name the layer."""
    links, section = [], ""
    for text in (DOCS / "differences.md").read_text(encoding="utf-8").splitlines():
        if text.startswith("## "):
            section = text[3:].lower().replace(" ", "-")
        key = re.match(r"\| `(\w+)` \|", text)
        if key and re.search(rf"`{name}\b", text):
            links.append(f"[{key.group(1)}](differences.md#{section})")
    return links


def compare(case: Any) -> dict[str, int] | None:
    """Return for each kind of mask where the outputs of a case equal those of Keras.

    Masks on which Keras fails are left out. The result is None if Keras has no such layer or cannot call it.
    """
    ours = case.make()
    inner = ours.layer if type(ours).__name__ == "Attending" else ours
    keras_class = getattr(keras.layers, type(inner).__name__, None)
    if keras_class is None or case.options.get("sequence_arguments") or isinstance(inner, padless.layers.InputLayer):
        return None
    shapes = case.inputs if isinstance(case.inputs, list) else [case.inputs]
    subject = LayerHarness(ours, tuple(map(as_draw, shapes)), creates_mask=case.options.get("creates_mask", False))
    levels: dict[str, int] = {}
    with torch.no_grad(), warnings.catch_warnings(), keras.saving.custom_object_scope(KERAS_LAYERS):
        warnings.simplefilter("ignore")
        try:
            theirs = keras_class.from_config(inner.get_config())
            compare_outputs(subject, ours, theirs, "none")
            weights = [0.7 * weight + 0.1 for weight in inner.get_weights()]
            inner.set_weights(weights)
            theirs.set_weights(weights)
            levels["none"] = compare_outputs(subject, ours, theirs, "none")
        except Exception:  # Keras may raise anything, also for arguments and cells that only padless has
            return None
        for kind in MASK_TITLES:
            try:
                levels[kind] = compare_outputs(subject, ours, theirs, kind)
            except Exception:  # Keras fails on this kind of mask
                continue
    return levels


def compare_outputs(subject: LayerHarness, ours: Any, theirs: Any, kind: str) -> int:
    """Call both layers under one kind of mask, and return where all their outputs are equal."""
    mask = make_mask(kind)
    grids = [grid.float() if grid.is_floating_point() else grid for grid in subject.sample(mask).grids]
    if not subject.creates_mask:
        wide = torch.from_numpy(mask)
        grids = [torch.where(wide.reshape(*mask.shape, *(1,) * (g.ndim - 2)), g, torch.ones_like(g)) for g in grids]
    packed = [grid if subject.creates_mask else pack_with_gap_values(grid, mask) for grid in grids]
    subject.reset_states()
    if getattr(theirs, "stateful", False):
        theirs.reset_state()
    outputs = leaves(ours(packed[0] if len(packed) == 1 else packed))
    for grid in grids:
        if not subject.creates_mask and not mask.all():
            grid._keras_mask = torch.from_numpy(mask)
    if type(ours).__name__ == "Attending":
        arguments = grids if len(grids) > 1 else grids * 2
        keras_outputs = theirs(*arguments, **({"use_causal_mask": True} if ours.causal else {}))
    else:
        keras_outputs = theirs(grids[0] if len(grids) == 1 else grids)
    keras_outputs = [x for x in leaves(keras_outputs) if x is not None]
    return min(find_level(a, b) for a, b in zip(outputs, keras_outputs, strict=True))


def find_level(output: Any, keras_output: Any) -> int:
    """Return where two outputs are equal: `EVERYWHERE`, at `REAL_STEPS`, else `DIFFERENT`."""
    grid = padless.unpack(output)
    if grid.shape != keras_output.shape:
        return DIFFERENT
    differs = (grid - keras_output).abs() > 1e-4
    if not differs.any() and not keras_output.isnan().any():
        return EVERYWHERE
    if not isinstance(output, Packed) or differs[output.mask].any() or keras_output[output.mask].isnan().any():
        return DIFFERENT
    return REAL_STEPS


def pack_with_gap_values(grid: torch.Tensor, mask: np.ndarray) -> Packed:
    """Pack a grid, and keep what it shows in its gaps."""
    packed = pack(grid, mask)
    cells = packed.index.tensor("first_cell_of_gap", grid.device)
    return packed.with_values(packed.values, grid.flatten(0, 1)[cells])


def make_mask(kind: str) -> np.ndarray:
    """Return one of the masks as a boolean array."""
    return np.array([[cell == "1" for cell in row] for row in MASKS[kind]])
