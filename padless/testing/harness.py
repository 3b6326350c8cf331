"""Run a layer on padded inputs that are given in several forms, and return results that can be compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError
from padless.graph.symbolic import leaves
from padless.layers.base.layer import Layer
from padless.layers.base.mask_rule import call_spec_of
from padless.ragged.packed import Packed, pack
from padless.testing.masks import Draw, Mask, StepShape, as_draw
from padless.types import StepTensor

InputForm = Literal["packed", "mask", "gap_values", "mask_created", "plain"]
"""How a padded input is given to a layer.

"packed": as `Packed`. "gap_values": as `Packed` with gap values. "mask": as a grid with the argument `mask`.
"mask_created": as a grid from which the layer creates the mask. "plain": as a grid without a mask.
"""

GapKey: TypeAlias = tuple[int, int, int]
"""A gap, independent of the columns: the numbers of the output, of the sequence, and of the real step before (-1: none)."""


@dataclass(frozen=True)
class PaddedSample:
    """Padded inputs with their masks.

    Attributes:
        grids: The inputs, each `(B, T, ...)`.
        masks: Their masks, each `(B, T)`.
        sequence_arguments: Further arguments, by name, as tensors with one row for each sequence.
    """

    grids: tuple[Tensor, ...]
    masks: tuple[Mask, ...]
    sequence_arguments: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """The number of sequences."""
        return self.masks[0].shape[0]

    def select(self, rows: Sequence[int]) -> PaddedSample:
        """Return the sequences with these numbers, in this order."""
        index = torch.as_tensor(list(rows), dtype=torch.long)
        return PaddedSample(
            tuple(grid[index] for grid in self.grids),
            tuple(mask[list(rows)] for mask in self.masks),
            {name: tuple(tensor[index] for tensor in tensors) for name, tensors in self.sequence_arguments.items()},
        )

    def without_padding(self, row: int, keep_gaps: bool = False) -> PaddedSample:
        """Return one sequence without its masked steps; with `keep_gaps`, those between real steps stay."""
        sample = self.select([row])
        columns = [_span(mask[0]) if keep_gaps else mask[0] for mask in sample.masks]
        return PaddedSample(
            tuple(grid[:, torch.from_numpy(column)] for grid, column in zip(sample.grids, columns, strict=True)),
            tuple(mask[:, column] for mask, column in zip(sample.masks, columns, strict=True)),
            sample.sequence_arguments,
        )

    def with_padding_content(self, number: float, integer: int = 0) -> PaddedSample:
        """Return a copy with `number` at all masked steps, in grids of integers with `integer`."""
        grids = []
        for grid, mask in zip(self.grids, self.masks, strict=True):
            real = torch.from_numpy(mask).reshape(*mask.shape, *(1,) * (grid.ndim - mask.ndim))
            grids.append(torch.where(real, grid, _constant(grid, grid.shape, number, integer)))
        return replace(self, grids=tuple(grids))

    def with_more_padding(self, left: int, right: int, number: float = 0, integer: int = 0) -> PaddedSample:
        """Return a copy with more masked columns on both sides, which hold `number` or `integer`."""

        def columns(grid: Tensor, width: int) -> Tensor:
            return _constant(grid, (grid.shape[0], width, *grid.shape[2:]), number, integer)

        return replace(
            self,
            grids=tuple(torch.cat([columns(grid, left), grid, columns(grid, right)], dim=1) for grid in self.grids),
            masks=tuple(np.pad(mask, ((0, 0), (left, right))) for mask in self.masks),
        )


@dataclass(frozen=True)
class Result:
    """The outputs and gradients of one run of a layer.

    Attributes:
        outputs: For each output one tensor for each sequence.
        input_gradients: For each input and sequence argument one gradient for each sequence.
        weight_gradients: The gradients of the weights, by name.
        added_losses: The sum of the losses that the layer added, times the number of sequences.
        gap_values: What the outputs show in their gaps.
        num_padding_gradients: The number of gradients of inputs at masked steps that are not 0.
        raw_outputs: The outputs as the layer returned them.
    """

    outputs: list[list[Tensor]]
    input_gradients: list[list[Tensor]]
    weight_gradients: dict[str, Tensor]
    added_losses: Tensor
    gap_values: dict[GapKey, Tensor]
    num_padding_gradients: int
    raw_outputs: object

    def select(self, rows: Sequence[int]) -> Result:
        """Return the result with the sequences of these numbers, in this order."""
        return replace(
            self,
            outputs=[[sequences[row] for row in rows] for sequences in self.outputs],
            input_gradients=[[gradients[row] for row in rows] for gradients in self.input_gradients],
        )

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all tensors with a description of each."""
        for kind, tensors in (("output", self.outputs), ("the gradient of input", self.input_gradients)):
            for number, by_sequence in enumerate(tensors):
                for row, tensor in enumerate(by_sequence):
                    yield f"{kind} {number} in row {row}", tensor
        for name, gradient in self.weight_gradients.items():
            yield f"the gradient of weight {name!r}", gradient
        yield "the loss that the layer adds", self.added_losses


def join_results(results: Sequence[Result]) -> Result:
    """Return the result of several runs on parts of a batch: sequences in order, sums of weight gradients and losses."""
    first = results[0]
    return replace(
        first,
        outputs=[sum((r.outputs[k] for r in results), []) for k in range(len(first.outputs))],
        input_gradients=[sum((r.input_gradients[k] for r in results), []) for k in range(len(first.input_gradients))],
        weight_gradients={
            name: sum((r.weight_gradients[name] for r in results[1:]), gradient)
            for name, gradient in first.weight_gradients.items()
        },
        added_losses=sum((r.added_losses for r in results[1:]), first.added_losses),
    )


@dataclass(frozen=True)
class LayerHarness:
    """A built layer with functions that draw its inputs.

    Attributes:
        layer: A padless layer or model, built.
        inputs: For each input a function that draws its grid.
        creates_mask: Whether the layer creates its mask from the zeros of its input.
        sequence_arguments: The shapes of further arguments with one row for each sequence, such as
            `{"initial_state": ((3,), (3,))}`.
        training: The argument `training` of the calls.
        dtype: The dtype of weights and inputs.

    Example:
        >>> from padless.layers import Dense
        >>> harness = LayerHarness.from_layer(Dense(2), (3,))
        >>> sample = harness.sample(np.array([[True, False, True]]))
        >>> [tuple(output.shape) for output in harness.run(sample).outputs[0]]
        [(2, 2)]
    """

    layer: Layer
    inputs: tuple[Draw, ...]
    creates_mask: bool = False
    sequence_arguments: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    training: bool = False
    dtype: torch.dtype = torch.float64

    @staticmethod
    def from_layer(
        layer: Layer | Callable[[], Layer],
        input_shape: StepShape | list[StepShape] = (3,),
        *,
        creates_mask: bool = False,
        sequence_arguments: Mapping[str, tuple[tuple[int, ...], ...]] | None = None,
        training: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> LayerHarness:
        """Return a harness of a copy of a layer, with all weights away from 0.

        Args:
            layer: A layer, or a function that returns one.
            input_shape: The shape of one step, or a function that draws inputs. A list of them for several inputs.
            creates_mask: See the attribute.
            sequence_arguments: See the attribute.
            training: See the attribute.
            dtype: See the attribute.

        Raises:
            ArgumentError: `layer` is not a padless layer.
        """
        shapes = input_shape if isinstance(input_shape, list) else [input_shape]
        copied = copy.deepcopy(layer) if isinstance(layer, torch.nn.Module) else layer()
        if not isinstance(copied, Layer):
            raise ArgumentError(f"Expected a padless layer, or a function that returns one; got {copied!r}.")
        draws = tuple(as_draw(shape) for shape in shapes)
        harness = LayerHarness(copied, draws, creates_mask, sequence_arguments or {}, training, dtype)
        with torch.no_grad(), fixed_seed():
            harness._call(harness.sample(np.ones((1, 2), dtype=bool)), "mask_created" if creates_mask else "packed")
            generator = torch.Generator().manual_seed(5)
            for weight in copied.weights:
                if weight.is_floating_point():
                    weight.add_(0.3 * torch.rand(weight.shape, generator=generator))
        copied.to(dtype)
        harness.reset_states()
        return harness

    def reset_states(self) -> None:
        """Reset the states of all stateful layers, those with Keras's method `reset_state`."""
        for module in self.layer.modules():
            reset_state = getattr(module, "reset_state", None)
            if callable(reset_state):
                reset_state()

    @property
    def has_window_layer(self) -> bool:
        """Whether a layer sees neighbors in true time, so that gaps between real steps change the result."""
        layers = [module for module in self.layer.modules() if isinstance(module, Layer)]
        return any(call_spec_of(type(layer)).relation == "window" for layer in layers)

    @property
    def reads_grid(self) -> bool:
        """Whether a layer may compute on the padded grid, so that results are equal to rounding only."""
        layers = [module for module in self.layer.modules() if isinstance(module, Layer)]
        return any(call_spec_of(type(layer)).may_use_grid(layer) for layer in layers)

    @property
    def label(self) -> str:
        """The class and name of the layer, for messages."""
        return f"{type(self.layer).__name__} {self.layer.name!r}"

    def sample(self, masks: Mask | Sequence[Mask], seed: int = 0) -> PaddedSample:
        """Return random inputs with zeros at masked steps.

        Args:
            masks: One mask `(B, T)` for all inputs, or a list with one for each.
            seed: The seed of the random numbers.
        """
        masks = [masks] * len(self.inputs) if isinstance(masks, np.ndarray) else list(masks)
        generator = torch.Generator().manual_seed(seed)
        grids = tuple(draw(generator, mask.shape) for draw, mask in zip(self.inputs, masks, strict=True))
        batch = masks[0].shape[0]
        sequence_arguments = {
            name: tuple(torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for shape in shapes)
            for name, shapes in self.sequence_arguments.items()
        }
        return PaddedSample(grids, tuple(masks), sequence_arguments).with_padding_content(0)

    def run(
        self,
        sample: PaddedSample,
        form: InputForm | None = None,
        output_weights: list[list[Tensor]] | None = None,
        gap_content: float = 0.0,
    ) -> Result:
        """Call the layer and compute the gradients of a weighted sum of its outputs.

        Args:
            sample: The inputs.
            form: How the inputs are given. Default: "mask_created" if the layer creates its mask, else "packed".
            output_weights: The weights of the sum, in the shapes of `Result.outputs`. Default: random numbers, also
                where the shapes are others.
            gap_content: The gap values, if `form` is "gap_values".
        """
        form = form or ("mask_created" if self.creates_mask else "packed")
        grids = tuple(_leaf(grid, self.dtype) for grid in sample.grids)
        arguments = {
            name: tuple(_leaf(tensor, self.dtype) for tensor in tensors)
            for name, tensors in sample.sequence_arguments.items()
        }
        raw_outputs = self._call(PaddedSample(grids, sample.masks, arguments), form, gap_content)
        outputs = leaves(raw_outputs)
        by_sequence = [_split_by_sequence(output, sample.batch, form == "plain") for output in outputs]
        if output_weights is None or _sizes(output_weights) != _sizes(by_sequence):
            output_weights = [_random_like(tensors, number) for number, tensors in enumerate(by_sequence)]
        total = _weighted_sum(by_sequence, output_weights, self.dtype)

        parameters = dict(self.layer.named_parameters())
        argument_tensors = [tensor for tensors in arguments.values() for tensor in tensors]
        sources = [x for x in (*grids, *argument_tensors, *parameters.values()) if x.requires_grad]
        gradient_of = dict(zip(map(id, sources), _gradients(total, sources), strict=True))
        input_gradients, num_padding_gradients = [], 0
        for grid, mask in zip(grids, sample.masks, strict=True):
            if grid.requires_grad:
                gradient, real = gradient_of[id(grid)], torch.from_numpy(mask)
                input_gradients.append([row[steps] for row, steps in zip(gradient, real, strict=True)])
                num_padding_gradients += int((gradient[~real] != 0).sum())
        input_gradients += [list(gradient_of[id(tensor)]) for tensor in argument_tensors]
        return Result(
            outputs=[[tensor.detach() for tensor in tensors] for tensors in by_sequence],
            input_gradients=input_gradients,
            weight_gradients={name: gradient_of[id(w)] for name, w in parameters.items() if w.requires_grad},
            added_losses=_sum(self.layer.call_losses, self.dtype).detach() * sample.batch,
            gap_values=_gap_values(outputs),
            num_padding_gradients=num_padding_gradients,
            raw_outputs=raw_outputs,
        )

    def output_weights(self, result: Result) -> list[list[Tensor]]:
        """Return the weights that `run` used for these outputs, so that another run can use them."""
        return [_random_like(tensors, number) for number, tensors in enumerate(result.outputs)]

    def arguments(
        self, sample: PaddedSample, form: InputForm, gap_content: float = 0.0
    ) -> tuple[StepTensor | list[StepTensor], dict[str, Any]]:
        """Return the arguments of a call of the layer: its inputs, and keyword arguments."""
        inputs = [to_input(grid, mask, form, gap_content) for grid, mask in zip(sample.grids, sample.masks, strict=True)]
        keywords: dict[str, Any] = {name: list(tensors) for name, tensors in sample.sequence_arguments.items()}
        if form == "mask":
            keywords["mask"] = sample.masks[0] if len(sample.masks) == 1 else list(sample.masks)
        return (inputs[0] if len(inputs) == 1 else inputs), keywords

    def call(self, inputs: StepTensor | list[StepTensor], keywords: Mapping[str, Any]) -> Any:
        """Call the layer with reset states and a fixed seed, and return its outputs."""
        self.reset_states()
        with fixed_seed():
            return self.layer(inputs, training=self.training, **keywords)

    def _call(self, sample: PaddedSample, form: InputForm, gap_content: float = 0.0) -> Any:
        return self.call(*self.arguments(sample, form, gap_content))


@contextmanager
def fixed_seed() -> Iterator[None]:
    """Seed the random numbers of torch for a block, and restore their state after it."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(7)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def to_input(grid: Tensor, mask: Mask, form: InputForm, gap_content: float = 0.0) -> StepTensor:
    """Return a padded input in one of the forms; with "gap_values" all gap values are `gap_content`."""
    if form in ("plain", "mask_created", "mask"):
        return grid
    packed = pack(grid, mask)
    if form == "packed":
        return packed
    shape = (packed.index.num_gaps, *packed.values.shape[1:])
    return packed.with_values(packed.values, packed.values.new_full(shape, gap_content))


def _span(row: Mask) -> Mask:
    """Return True from the first to the last real step of a sequence."""
    return np.logical_or.accumulate(row) & np.logical_or.accumulate(row[::-1])[::-1]


def _constant(like: Tensor, shape: Sequence[int], number: float, integer: int) -> Tensor:
    """Return a tensor of one number, in the dtype of `like`."""
    return like.new_full(tuple(shape), number if like.is_floating_point() else integer)


def _leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a floating-point tensor in a dtype and with a gradient, any other tensor unchanged."""
    return tensor.detach().to(dtype).requires_grad_() if tensor.is_floating_point() else tensor


def _split_by_sequence(output: StepTensor, batch: int, without_mask: bool) -> list[Tensor]:
    """Return one tensor for each sequence; for a run without a mask, the steps of its only sequence."""
    if not isinstance(output, Packed):
        return [output[0]] if without_mask else list(output)
    lengths = output.index.lengths.reshape(batch, -1).sum(1) if batch else np.zeros(0, dtype=np.int64)
    return list(torch.split(output.values, lengths.tolist()))


def _random_like(tensors: Sequence[Tensor], number: int) -> list[Tensor]:
    """Return random numbers in the shapes of the tensors of output `number`."""
    generator = torch.Generator().manual_seed(11 + number)
    return [torch.randn(tensor.shape, generator=generator, dtype=torch.float64) for tensor in tensors]


def _sizes(outputs: Sequence[Sequence[Tensor]]) -> list[list[int]]:
    return [[tensor.numel() for tensor in tensors] for tensors in outputs]


def _weighted_sum(outputs: Sequence[Sequence[Tensor]], weights: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> Tensor:
    """Return the sum of all outputs times their weights; integers count as 0."""
    products = []
    for tensors, weights_of_output in zip(outputs, weights, strict=True):
        for tensor, weight in zip(tensors, weights_of_output, strict=True):
            if tensor.is_floating_point():
                products.append((tensor * weight.reshape(tensor.shape).to(tensor.dtype)).sum())
            else:
                products.append(torch.zeros((), dtype=weight.dtype))
    return _sum(products, dtype)


def _sum(numbers: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Return the sum of tensors with one element each; 0 if there are none."""
    return torch.stack([number.reshape(()) for number in numbers]).sum() if numbers else torch.zeros((), dtype=dtype)


def _gradients(total: Tensor, sources: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of `total`, with zeros for sources on which it does not depend."""
    if not total.requires_grad:
        return [torch.zeros_like(source) for source in sources]
    gradients = torch.autograd.grad(total, sources, allow_unused=True)
    return [torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(sources, gradients, strict=True)]


def _gap_values(outputs: Sequence[StepTensor]) -> dict[GapKey, Tensor]:
    """Return the gap values of all outputs, by gap; outputs of two levels are left out."""
    gap_values = {}
    for number, output in enumerate(outputs):
        if not isinstance(output, Packed) or output.gap_values is None or output.index.outer is not None:
            continue
        index = output.index
        if len(output.gap_values) != index.num_gaps:
            continue
        for row, step_before, value in zip(index.row_of_gap, index.step_before_gap, output.gap_values, strict=True):
            step_in_sequence = int(step_before - index.offsets[row]) if step_before >= 0 else -1
            gap_values[number, int(row), step_in_sequence] = value.detach()
    return gap_values
