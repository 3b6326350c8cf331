"""What `scripts/layer_table` writes: each layer run on the cases of the tests, beside Keras's layer of the same name."""

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
from padless.testing.masks import apart, as_draw

DOCS = Path(__file__).resolve().parent.parent / "docs"
MASKS = {
    "none": ["11111"] * 4,
    "right": ["11100", "10000", "11111", "11000"],
    "left": ["00111", "00001", "01111", "00011"],
    "holes": ["10101", "01001", "11010", "01100"],
    "empty": ["00000", "11000", "00000", "01011"],
}
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
    "attention": "each sequence's steps squared",
    "padded_grid": "the grid",
    "per_step": "that of the inner layer",
    "module": "as its relation says",
}
POSITIONS = {"PositionEmbedding", "SinePositionEncoding", "RotaryEmbedding"}  # of the room "attention", but without pairs
MODELS = {"Model", "Sequential", "Functional"}
MATES = {name: cls for name, cls in vars(keras.layers).items() if isinstance(cls, type)}
SECTIONS = {"window": "windows-and-attention", "attention": "windows-and-attention", "merge": "merges", "recurrent": "masks"}
KINDS = {"right": "right padding", "left": "left padding", "holes": "holes", "empty": "empty rows"}
HEAD = """# The layers

One line for each, written by `scripts/layer_table` from what the layers do on the cases of the tests.

- *relation*: which other steps a step may see ([masking.md](masking.md)).
- *mask*: what becomes of it, by the layer's arguments. It is born, passes, is mapped to other steps, united with others, or
  consumed with the steps.
- *gaps*: what masked steps of the output show, if they showed something before: the same ("as before"), what the layer
  makes of it, 0, or the output of the step before.
- *cost*: what the time grows with; everywhere but under "grid" padding is free.
- *Keras 3.15.1*: the outputs of both with the same weights under no mask, right and left padding, holes and empty rows:
  equal at every position of the grid, at real steps, or only where nothing is masked. The links lead to the lines of
  [differences.md](differences.md) that name the layer.

| layer | relation | mask | gaps | cost | Keras 3.15.1 |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The page, one line for each public layer."""
    public = {cls for cls in entries("layer").values() if cls.__module__.startswith("padless.")}
    names = {cls.__name__: cls for cls in public if cls.__name__ not in {*ABSTRACT, *MODELS}}
    lines = [line(names[name]) for name in sorted(names, key=lambda name: (RELATIONS.index(relation(names[name])), name))]
    return HEAD + "".join(lines)


def relation(cls: type[Layer]) -> str:
    """Which other steps a step of this layer may see; a cell is one step of a scan."""
    own = call_spec_of(cls, Layer).relation
    return own or ("recurrent" if issubclass(cls, Cell | StackedRNNCells) else "padded_grid")


def line(cls: type[Layer]) -> str:
    """The line of a layer."""
    name, own = cls.__name__, relation(cls)
    cases = [case for case in LAYERS if case.layer == name and not case.options.get("training")]
    if not cases:
        raise SystemExit(f"{name} has no case in tests/cases, so nothing is known about it.")
    found = [facts(case.subject()) for case in cases]
    fates, gaps = (" or ".join(dict.fromkeys(part[which] for part in found if part[which])) for which in (0, 1))
    cost = "the real steps" if cls.__name__ in POSITIONS else COSTS.get(own, "the real steps")
    kind = "a step of a scan" if issubclass(cls, Cell | StackedRNNCells) else own
    return f"| `{name}` | {kind} | {fates} | {gaps or '-'} | {cost} | {parity(cls, cases, own)} |\n"


# ------------------------------------------------------------------------------------------------ mask and gaps


def facts(subject: LayerHarness) -> tuple[str, str]:
    """What becomes of the mask, and what gaps show."""
    mask = grid("holes")
    masks = apart(mask, len(subject.inputs)) if _takes_several_masks(subject) else [mask] * len(subject.inputs)
    sample = subject.sample(masks)
    with torch.no_grad():
        given, more = subject.arguments(sample, "mask_created" if subject.creates_mask else "gap_values", 2.5)
        output = leaves(subject.called(given, more))[0]
    inputs = [x for x in leaves(given) if isinstance(x, Packed)]
    return _fate(inputs, output), _shows(subject, inputs, output)


def _takes_several_masks(subject: LayerHarness) -> bool:
    several = len(subject.inputs) > 1
    return several and (relation(type(subject.layer)) == "merge" and type(subject.layer).__name__ != "RepeatVector")


def _fate(inputs: list[Packed], output: Any) -> str:
    if not inputs:
        return "mask_created" if isinstance(output, Packed) else ""
    if not isinstance(output, Packed):
        return "consumed"
    if all(output.index.equals(x.index) for x in inputs):
        return "passes"
    union = np.logical_or.reduce([x.index.mask for x in inputs]) if len({x.index.grid for x in inputs}) == 1 else None
    if len(inputs) > 1 and union is not None and np.array_equal(output.index.mask, union):
        return "united"
    return "mapped"


def _shows(subject: LayerHarness, inputs: list[Packed], output: Any) -> str:
    if not isinstance(output, Packed):
        return ""
    fill = output.gap_values
    if fill is None or not fill.any():
        return "0"
    table = next((w for w in subject.layer.weights if w.ndim == 2), None)
    if not inputs and table is not None and fill.shape[1:] == table.shape[1:] and bool((fill == table[0]).all()):
        return "row 0 of the table"
    before = output.index.tensor("step_before_gap", output.device)
    last = torch.where((before >= 0).reshape(-1, *(1,) * (fill.ndim - 1)), output.values[before.clamp(min=0)], 0)
    if torch.equal(fill, last):
        return "the output before"
    if (
        inputs
        and inputs[0].gap_values is not None
        and inputs[0].gap_values.shape == fill.shape
        and torch.equal(fill, inputs[0].gap_values)
    ):
        return "as before"
    return "what it makes of it"


# ------------------------------------------------------------------------------------------------ Keras


def parity(cls: type[Layer], cases: list[Any], own: str) -> str:
    """How far the layer is Keras's, and where differences.md speaks of it."""
    if not hasattr(keras.layers, cls.__name__):
        return "not in Keras"
    seen = {case.name.partition("-")[2]: found for case in cases if (found := compared(case)) is not None}
    odd = [name for name, found in seen.items() if found["none"] < 1]
    levels = [found for name, found in seen.items() if name not in odd]
    worst = {kind: min((found[kind] for found in levels if kind in found), default=0) for kind in MASKS}
    lost = [kind for kind in KINDS if worst[kind] < 1]
    if not seen:
        said = "equal, in tests of its own"
    elif not lost:
        said = f"equal at {'every position' if min(worst.values()) == 2 else 'real steps'}"
    elif len(lost) == len(KINDS):
        said = "equal where nothing is masked"
    else:
        said = f"equal but for {' and '.join(KINDS[kind] for kind in lost)}"
    said += f", not {', '.join(odd)}" if odd else ""
    links = differing(cls.__name__) or ([f"[differences](differences.md#{SECTIONS[own]})"] if own in SECTIONS else [])
    return "; ".join([said, *links])


def differing(name: str) -> list[str]:
    """Links to the lines of differences.md that name the layer."""
    found, section = [], ""
    for text in (DOCS / "differences.md").read_text().splitlines():
        if text.startswith("## "):
            section = text[3:].lower().replace(" ", "-")
        key = re.match(r"\| `(\w+)` \|", text)
        if key and re.search(rf"`{name}\b", text):
            found.append(f"[{key.group(1)}](differences.md#{section})")
    return found


def compared(case: Any) -> dict[str, int] | None:
    """For each kind of mask 2 where a case is Keras's at every position, 1 at real steps, else 0.

    Kinds on which Keras fails are left out; None if it cannot be called at all.
    """
    mine = case.make()
    inner = mine.layer if type(mine).__name__ == "Attending" else mine
    twin = getattr(keras.layers, type(inner).__name__, None)
    if twin is None or case.options.get("rows") or isinstance(inner, padless.layers.InputLayer):
        return None
    shapes = case.inputs if isinstance(case.inputs, list) else [case.inputs]
    subject = LayerHarness(mine, tuple(map(as_draw, shapes)), creates_mask=case.options.get("creates_mask", False))
    found = {}
    with torch.no_grad(), warnings.catch_warnings(), keras.saving.custom_object_scope(MATES):
        warnings.simplefilter("ignore")
        for kind in MASKS:
            try:
                theirs = twin.from_config(inner.get_config()) if kind == "none" else theirs
                found[kind] = both(subject, mine, inner, theirs, kind)
            except Exception:  # whatever Keras raises, also for arguments and cells that only padless has
                if kind == "none":
                    return None
    return found


def both(subject: LayerHarness, mine: Any, inner: Any, theirs: Any, kind: str) -> int:
    """How far all outputs are equal under one kind of mask; with the first, both get the same weights."""
    mask = grid(kind)
    grids = [g.float() if g.is_floating_point() else g for g in subject.sample(mask).grids]
    wide = torch.from_numpy(mask)
    shown = [
        g if subject.creates_mask else torch.where(wide.reshape(*mask.shape, *(1,) * (g.ndim - 2)), g, torch.ones_like(g))
        for g in grids
    ]
    packed = [x if subject.creates_mask else with_fill(x, mask) for x in shown]
    subject.forget()
    if getattr(theirs, "stateful", False):
        theirs.reset_state()
    ours = leaves(mine(packed[0] if len(packed) == 1 else packed))
    for x in shown:
        if not subject.creates_mask and not mask.all():
            x._keras_mask = wide
    if inner is not mine:

        def run() -> Any:
            return theirs(*(shown if len(shown) > 1 else shown * 2), **({"use_causal_mask": True} if mine.causal else {}))
    else:

        def run() -> Any:
            return theirs(shown[0] if len(shown) == 1 else shown)

    others = run()
    if kind == "none":
        weights = [0.7 * w + 0.1 for w in inner.get_weights()]
        inner.set_weights(weights)
        theirs.set_weights(weights)
        return both(subject, mine, inner, theirs, "full")
    others = [x for x in leaves(others) if x is not None]
    return min(equal(a, b) for a, b in zip(ours, others, strict=True))


def equal(mine: Any, theirs: Any) -> int:
    """2 if equal at every position, 1 at real steps, else 0."""
    shown = padless.unpack(mine)
    if shown.shape != theirs.shape:
        return 0
    apart_by = (shown - theirs).abs() > 1e-4
    if not apart_by.any() and not theirs.isnan().any():
        return 2
    if not isinstance(mine, Packed):
        return 0
    return int(not bool(apart_by[mine.mask].any()) and not bool(theirs[mine.mask].isnan().any()))


def with_fill(x: torch.Tensor, mask: np.ndarray) -> Packed:
    """Packed, its gaps showing what stands there."""
    packed = pack(x, mask)
    cells = packed.index.tensor("first_cell_of_gap", x.device)
    return packed.with_values(packed.values, x.flatten(0, 1)[cells])


def grid(kind: str) -> np.ndarray:
    """One of the masks."""
    return np.array([[cell == "1" for cell in row] for row in MASKS.get(kind, MASKS["none"])])
