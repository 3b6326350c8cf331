"""What a law is tried on: a layer and padded inputs, run in different ways; results by row, so that they compare."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError
from padless.graph.symbolic import leaves
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import call_spec_of
from padless.ragged.index import Index
from padless.ragged.packed import Packed, pack
from padless.testing.masks import Draw, Mask, as_draw

InputForm = Literal["packed", "mask", "gap_values", "mask_created", "plain"]  # how a padded input comes into the layer


@dataclass(frozen=True)
class PaddedSample:
    """Padded inputs, their masks, and arguments that have one row for each sequence."""

    grids: tuple[Tensor, ...]
    masks: tuple[Mask, ...]
    rows: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """How many sequences there are."""
        return self.masks[0].shape[0]

    def chosen(self, rows: Sequence[int]) -> PaddedSample:
        """Some of the sequences, in this order."""
        take = torch.as_tensor(list(rows), dtype=torch.long)
        return PaddedSample(
            tuple(grid[take] for grid in self.grids),
            tuple(mask[list(rows)] for mask in self.masks),
            {name: tuple(part[take] for part in parts) for name, parts in self.rows.items()},
        )

    def alone(self, row: int, spans: bool = False) -> PaddedSample:
        """One sequence without any padding; with `spans` the holes inside it stay."""
        one = self.chosen([row])
        kept = [_span(m[0]) if spans else m[0] for m in one.masks]
        return PaddedSample(
            tuple(g[:, torch.from_numpy(k)] for g, k in zip(one.grids, kept, strict=True)),
            tuple(m[:, k] for m, k in zip(one.masks, kept, strict=True)),
            one.rows,
        )

    def holding(self, number: float, word: int = 0) -> PaddedSample:
        """The same with a number, in grids of integers a word, at every masked step."""
        grids = zip(self.grids, self.masks, strict=True)
        return replace(
            self,
            grids=tuple(torch.where(_wide(torch.from_numpy(m), g), g, _full(g, g.shape, number, word)) for g, m in grids),
        )

    def widened(self, left: int, right: int, number: float = 0, word: int = 0) -> PaddedSample:
        """The same with more padding."""

        def side(grid: Tensor, width: int) -> Tensor:
            return _full(grid, (grid.shape[0], width, *grid.shape[2:]), number, word)

        return replace(
            self,
            grids=tuple(torch.cat([side(g, left), g, side(g, right)], dim=1) for g in self.grids),
            masks=tuple(np.pad(mask, ((0, 0), (left, right))) for mask in self.masks),
        )


@dataclass(frozen=True)
class Result:
    """Outputs, gradients and losses of one run; what belongs to sequences by row."""

    outputs: list[list[Tensor]]
    inputs: list[list[Tensor]]
    weights: dict[str, Tensor]
    penalty: Tensor
    shown: dict[tuple[int, int, int], Tensor]  # by output, row and number of the real step before the gap
    stray: int  # at how many masked places the gradient of an input is not 0
    raw: Any

    def chosen(self, rows: Sequence[int]) -> Result:
        """Some of the sequences, in this order."""
        return replace(
            self,
            outputs=[[part[r] for r in rows] for part in self.outputs],
            inputs=[[part[r] for r in rows] for part in self.inputs],
        )

    def parts(self) -> Iterator[tuple[str, Tensor]]:
        """Everything by name."""
        for kind, found in (("output", self.outputs), ("the gradient of input", self.inputs)):
            for number, by_row in enumerate(found):
                for row, part in enumerate(by_row):
                    yield f"{kind} {number} in row {row}", part
        for name, part in self.weights.items():
            yield f"the gradient of weight {name!r}", part
        yield "the loss that the layer adds", self.penalty


def joined(results: Sequence[Result]) -> Result:
    """Several runs as one: rows one after the other, gradients of weights summed."""
    first = results[0]
    return replace(
        first,
        outputs=[sum((r.outputs[k] for r in results), []) for k in range(len(first.outputs))],
        inputs=[sum((r.inputs[k] for r in results), []) for k in range(len(first.inputs))],
        weights={name: sum((r.weights[name] for r in results[1:]), first.weights[name]) for name in first.weights},
        penalty=sum((r.penalty for r in results[1:]), first.penalty),
    )


@dataclass(frozen=True)
class LayerHarness:
    """A layer or model with a way to draw inputs for it.

    `inputs` draw a grid each; `creates_mask` says that its zeros are the mask; `rows` are further arguments with one row for
    each sequence, such as `initial_state=((3,), (3,))`. The layer is built, its weights moved away from zero.
    """

    layer: Any
    inputs: tuple[Draw, ...]
    creates_mask: bool = False
    rows: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    training: bool = False
    dtype: torch.dtype = torch.float64

    @staticmethod
    def of(layer: Any, input_shape: Any = (3,), **options: Any) -> LayerHarness:
        """A subject of a layer (copied) or a function that makes one; of the shapes of a step, or of draws."""
        several = isinstance(input_shape, list)
        draws = tuple(as_draw(shape) for shape in (input_shape if several else [input_shape]))
        fresh = isinstance(layer, torch.nn.Module)
        subject = LayerHarness(copy.deepcopy(layer) if fresh else layer(), draws, **options)
        if not isinstance(subject.layer, Layer):
            raise ArgumentError(f"Expected a padless layer, or a function that makes one; got {subject.layer!r}.")
        with torch.no_grad(), same_noise():
            subject._call(subject.sample(np.ones((1, 2), dtype=bool)), "mask_created" if subject.creates_mask else "packed")
            generator = torch.Generator().manual_seed(5)
            for weight in subject.layer.weights:
                if weight.is_floating_point():
                    weight.add_(0.3 * torch.rand(weight.shape, generator=generator))
        subject.layer.to(subject.dtype)
        subject.forget()
        return subject

    def forget(self) -> None:
        """No states from before."""
        for module in self.layer.modules():
            if hasattr(module, "reset_state"):
                module.reset_state()  # pyright: ignore[reportCallIssue]

    @property
    def spans(self) -> bool:
        """Whether a layer sees neighbours in true time, to which a hole is something."""
        layers = [m for m in self.layer.modules() if isinstance(m, Layer)]
        return any(call_spec_of(type(m), Layer).relation == "window" for m in layers)  # pyright: ignore[reportArgumentType]

    @property
    def looks(self) -> bool:
        """Whether the layer may look at the grid, so that results hold to rounding only."""
        layers = [m for m in self.layer.modules() if isinstance(m, Layer)]
        return any(call_spec_of(type(m), Layer).takes_mask(m) for m in layers)  # pyright: ignore[reportArgumentType]

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{type(self.layer).__name__} {self.layer.name!r}"

    def sample(self, masks: Mask | Sequence[Mask], seed: int = 0) -> PaddedSample:
        """Inputs for a mask, or for one of each input; zeros at masked steps."""
        given = [masks] * len(self.inputs) if isinstance(masks, np.ndarray) else list(masks)
        generator = torch.Generator().manual_seed(seed)
        grids = tuple(draw(generator, mask.shape) for draw, mask in zip(self.inputs, given, strict=True))
        rows = {
            name: tuple(torch.randn(given[0].shape[0], *shape, generator=generator, dtype=torch.float64) for shape in shapes)
            for name, shapes in self.rows.items()
        }
        return PaddedSample(grids, tuple(given), rows).holding(0)

    def run(
        self,
        sample: PaddedSample,
        way: InputForm | None = None,
        pulls: list[list[Tensor]] | None = None,
        content: float = 0.0,
    ) -> Result:
        """Outputs, and gradients of a weighted sum of them; `pulls` are its weights, by output and row."""
        way = way or ("mask_created" if self.creates_mask else "packed")
        grids = tuple(_leaf(grid, self.dtype) for grid in sample.grids)
        rows = {name: tuple(_leaf(part, self.dtype) for part in parts) for name, parts in sample.rows.items()}
        raw = self._call(PaddedSample(grids, sample.masks, rows), way, content)
        outputs = leaves(raw)
        parts = [_by_row(output, sample.batch, way == "plain") for output in outputs]
        if pulls is None or _sizes(pulls) != _sizes(parts):  # other rows than expected will be noticed later
            pulls = [_pull(part, number) for number, part in enumerate(parts)]
        total = _total(
            [_meet(p, c) for part, pull in zip(parts, pulls, strict=True) for p, c in zip(part, pull, strict=True)],
            self.dtype,
        )
        weights = dict(self.layer.named_parameters())
        sources = [x for x in (*grids, *(p for ps in rows.values() for p in ps), *weights.values()) if x.requires_grad]
        found = iter(
            [None] * len(sources) if not total.requires_grad else torch.autograd.grad(total, sources, allow_unused=True)
        )
        by_source = {id(x): _or_zeros(g, x) for x, g in zip(sources, found, strict=True)}
        arrived = [
            (by_source[id(g)], torch.from_numpy(m)) for g, m in zip(grids, sample.masks, strict=True) if g.requires_grad
        ]
        inputs = [[row[real] for row, real in zip(grid, mask, strict=True)] for grid, mask in arrived]
        inputs += [list(by_source[id(p)]) for ps in rows.values() for p in ps]
        stray = sum(int((grid[~mask] != 0).sum()) for grid, mask in arrived)
        penalty = _total(self.layer.call_losses, self.dtype).detach() * sample.batch
        return Result(
            [[p.detach() for p in part] for part in parts],
            inputs,
            {name: by_source[id(w)] for name, w in weights.items() if id(w) in by_source},
            penalty,
            _shown(outputs),
            stray,
            raw,
        )

    def output_weights(self, result: Result) -> list[list[Tensor]]:
        """The weights of the sum for other runs that give these rows."""
        return [_pull(part, number) for number, part in enumerate(result.outputs)]

    def arguments(self, sample: PaddedSample, way: InputForm, content: float = 0.0) -> tuple[Any, dict[str, Any]]:
        """What the layer is called with: its inputs, and arguments by name."""
        entered = [enter(g, m, way, content) for g, m in zip(sample.grids, sample.masks, strict=True)]
        more: dict[str, Any] = {name: list(parts) for name, parts in sample.rows.items()}
        if way == "mask":
            more["mask"] = sample.masks[0] if len(sample.masks) == 1 else list(sample.masks)
        return (entered[0] if len(entered) == 1 else entered), more

    def called(self, given: Any, more: Mapping[str, Any]) -> Any:
        """The outputs, without states from before, and with the same noise each time."""
        self.forget()
        with same_noise():
            return self.layer(given, training=self.training, **more)

    def _call(self, sample: PaddedSample, way: InputForm, content: float = 0.0) -> Any:
        return self.called(*self.arguments(sample, way, content))


@contextmanager
def same_noise() -> Iterator[None]:
    """Random numbers that are the same each time, and afterwards as if nothing had been drawn."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(7)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def enter(grid: Tensor, mask: Mask, way: InputForm, content: float = 0.0) -> Any:
    """A padded input as a layer gets it; "gap_values" lets its gaps show `content`."""
    if way in ("plain", "mask_created", "mask"):
        return grid
    packed = pack(grid, mask)
    if way == "packed":
        return packed
    shape = (packed.index.num_gaps, *packed.values.shape[1:])
    return packed.with_values(packed.values, packed.values.new_full(shape, content))


def _span(row: Mask) -> Mask:
    """From the first to the last real step."""
    return np.logical_or.accumulate(row) & np.logical_or.accumulate(row[::-1])[::-1]


def _wide(mask: Tensor, grid: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *(1,) * (grid.ndim - mask.ndim))


def _full(like: Tensor, shape: Sequence[int], number: float, word: int) -> Tensor:
    return like.new_full(tuple(shape), number if like.is_floating_point() else word)


def _leaf(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.detach().to(dtype).requires_grad_() if x.is_floating_point() else x


def _by_row(output: Any, batch: int, alone: bool) -> list[Tensor]:
    """One tensor for each sequence; of a single one without a mask what it would be as Packed."""
    if not isinstance(output, Packed):
        return list(output) if not alone else [output[0]]
    lengths = output.index.lengths.reshape(batch, -1).sum(1) if batch else np.zeros(0, dtype=np.int64)
    return list(torch.split(output.values, lengths.tolist()))


def _pull(parts: Sequence[Tensor], number: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11 + number)
    return [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in parts]


def _sizes(parts: Sequence[Sequence[Tensor]]) -> list[list[int]]:
    return [[row.numel() for row in part] for part in parts]


def _meet(part: Tensor, pull: Tensor) -> Tensor:
    if not part.is_floating_point():
        return torch.zeros((), dtype=pull.dtype)
    return (part * pull.reshape(part.shape).to(part.dtype)).sum()


def _total(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.stack([part.reshape(()) for part in parts]).sum() if parts else torch.zeros((), dtype=dtype)


def _or_zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def _shown(outputs: Sequence[Any]) -> dict[tuple[int, int, int], Tensor]:
    found = {}
    for number, output in enumerate(outputs):
        if not isinstance(output, Packed) or output.gap_values is None or output.index.outer is not None:
            continue  # inner rows are told apart by columns
        if len(output.gap_values) == output.index.num_gaps:
            index: Index = output.index
            names = np.arange(index.shape[0]) if index.outer is None else index.outer.step_of_cell  # -1: nothing is there
            for row, before, shows in zip(index.row_of_gap, index.step_before_gap, output.gap_values, strict=True):
                if names[row] >= 0:
                    after = int(before - index.offsets[row]) if before >= 0 else -1
                    found[number, int(names[row]), after] = shows.detach()
    return found
