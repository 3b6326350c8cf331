"""What a loss is: values at the real steps, summed into terms.

    (y_true, y_pred, sample_weight) --align--> rows (N, ...) --call--> values --Term--> S, W

The loss over anything that belongs together (a batch, its micro-batches, an epoch, all ranks) is the sum of the S
divided once by the sum of the W. So how it was split does not matter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.ragged.alignment import align_targets, broadcast_weights, sample_weights_for, sequence_weights, to_tensor
from padless.ragged.device import to_device
from padless.ragged.gather import scatter_rows
from padless.ragged.index import Index
from padless.ragged.packed import Packed, pack
from padless.registry import snake_case

Reduction = Literal["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none"] | None
REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none")


@dataclass(frozen=True)
class WeightedSum:
    """A sum over real steps and its weight; terms of a split add up to the term of the whole.

    With `adds` False the weight stays as it is when terms are added: a plain sum stays a sum.

    >>> (WeightedSum(torch.tensor(6.), 2.0) + WeightedSum(torch.tensor(3.), 1.0)).value
    tensor(3.)
    """

    sum: Tensor
    weight: Tensor | float
    adds_weights: bool = True

    def __add__(self, other: WeightedSum) -> WeightedSum:
        return WeightedSum(
            self.sum + other.sum, self.weight + other.weight if self.adds_weights else self.weight, self.adds_weights
        )

    def __radd__(self, other: Any) -> Any:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # so that sum(terms) works

    @property
    def value(self) -> Tensor:
        """S / W; 0, with a gradient of 0, where nothing was counted."""
        if not isinstance(self.weight, Tensor):
            return self.sum / self.weight if self.weight else self.sum * 0
        nothing = self.weight == 0
        return torch.where(nothing, 0, self.sum / torch.where(nothing, 1, self.weight))


@dataclass(frozen=True)
class PerStepValues:
    """The values of a loss or metric with, in their shape, their weights and which of them count (None: all)."""

    values: Tensor
    weight: Tensor | None = None
    count_mask: Tensor | None = None
    index: Index | None = None

    @property
    def weighted_values(self) -> Tensor:
        """The values times their weights, 0 where they do not count."""
        values = self.values if self.count_mask is None else torch.where(self.count_mask, self.values, 0)
        return values if self.weight is None else values * self.weight

    def reduce(self, reduction: Reduction, dtype: torch.dtype | None = None) -> WeightedSum:
        """Their sum, with the weight that the reduction asks for."""
        total = self.weighted_values.sum(dtype=dtype)
        if reduction == "sum":
            return WeightedSum(total, 1.0, adds_weights=False)
        if reduction == "mean_with_sample_weight" and self.weight is not None:
            weight = self.weight if self.count_mask is None else torch.where(self.count_mask, self.weight, 0)
            return WeightedSum(total, weight.sum(dtype=dtype))
        if self.count_mask is not None:
            return WeightedSum(total, self.count_mask.sum(dtype=total.dtype))
        return WeightedSum(total, float(self.values.numel()))

    @property
    def unreduced_values(self) -> Tensor | Packed:
        """The weighted values themselves, on their steps."""
        return self.weighted_values if self.index is None else Packed(self.weighted_values, self.index)


class Loss:
    """The base of losses, in Keras's style: `call(y_true, y_pred)` gets real rows only.

    Both have shape `(N, ...)` with at least one feature axis, and floats of one dtype; `call` returns `(N,)`,
    `(N, ...)`, or a scalar, which then stands for all N rows. With `relation = "sequence"`, or where `call` takes a
    `mask`, it gets the padded grids instead and returns one value per sequence, `(B,)`.

    `reduction`: "sum_over_batch_size" or "mean" divides by the number of values at real steps,
    "mean_with_sample_weight" by the sum of their weights, "sum" by nothing; "none" or None keeps the values.

    >>> class Squares(Loss):
    ...     def call(self, y_true, y_pred):
    ...         return (y_true - y_pred).square().mean(-1)
    >>> Squares()([[1, 2, 0]], pack(torch.zeros(1, 3), mask=[[1, 1, 0]]))
    tensor(2.5000)
    """

    relation: ClassVar[str] = "stepwise"
    known_violations: ClassVar[Mapping[str, str]] = {}  # properties of padless.testing that do not hold, and why
    targets_share_mask: ClassVar[bool] = True  # whether targets that stand on the outputs' grid have the outputs' mask
    axis: Any = -1  # the feature axis that `call` takes together, several, or None for all

    def __init__(
        self, name: str | None = None, reduction: Reduction = "sum_over_batch_size", dtype: str | None = None
    ) -> None:
        if reduction is not None and reduction not in REDUCTIONS:
            raise ArgumentError(unknown_name("reduction", reduction, REDUCTIONS))
        self.name = name or snake_case(type(self).__name__)
        self.reduction: Reduction = reduction
        self.dtype = str(dtype).removeprefix("torch.") if dtype is not None else None
        if self.dtype is not None and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ArgumentError(f"`dtype` must be the name of a torch dtype, such as 'float32'; got {dtype!r}.")

    call: Callable[..., Any]  # what a subclass defines: call(y_true, y_pred), or with a mask

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss of one batch; the unreduced values, on their steps, if `reduction` is None."""
        measured = self.per_step_values(y_true, y_pred, sample_weight)
        if self.reduction in (None, "none"):
            return measured.unreduced_values
        return measured.reduce(self.reduction).value

    def weighted_sum(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> WeightedSum:
        """What this batch adds to the loss of all that belongs together."""
        if self.reduction in (None, "none"):
            raise ArgumentError(
                f"The loss {self.name!r} has reduction={self.reduction!r}, so it has no total to train "
                f"on. Use reduction='sum' or leave the default."
            )
        return self.per_step_values(y_true, y_pred, sample_weight).reduce(self.reduction)

    def per_step_values(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> PerStepValues:
        """The values at the real steps, with their weights.

        `y_pred` is `Packed`, or plain: then every step is real, unless `y_true` comes as sequences. `y_true` is
        `Packed`, a padded grid, an array, or a list of sequences. Raises `ShapeError` where they do not fit.
        """
        if self.reads_whole_sequences:
            return self._per_sequence_values(to_tensor(y_true, "y_true"), to_tensor(y_pred, "y_pred"), sample_weight)
        targets, rows, index = align_targets(y_true, y_pred)
        self._check_axis(rows, index)
        if targets.device.type == "cpu":  # a device would have to be waited for
            self.check_targets(targets, rows)
        targets, rows = self.cast(to_device(targets, rows.device), rows)
        values = self._call_on_rows(targets, rows)
        weight = None if sample_weight is None else sample_weights_for(sample_weight, index, values)
        return PerStepValues(values, weight, self.count_mask(targets, values) if len(values) else None, index)

    @property
    def reads_whole_sequences(self) -> bool:
        """Whether it sees sequences as a whole, on padded grids."""
        return self.relation == "sequence" or self.takes_mask

    @cached_property  # asked for every batch
    def takes_mask(self) -> bool:
        """Whether `call` wants the boolean grid of real steps."""
        return has_mask_argument(self.call)

    def check_targets(self, y_true: Tensor, y_pred: Tensor) -> None:
        """Refuse targets that mean nothing, with a `DataError`; they are still where the data came from."""

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        """Both in the dtype of the loss: its own, else that of the outputs, at least float32."""
        y_pred = y_pred.to(self._dtype_for(y_pred))
        return y_true.to(y_pred.dtype), y_pred

    def count_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        """Which of the values count, in their shape; None for all."""
        return None

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        config = {"name": self.name, "reduction": self.reduction}
        return config if self.dtype is None else {**config, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The loss with this config."""
        return cls(**config)

    def _dtype_for(self, y_pred: Tensor) -> torch.dtype:
        if self.dtype is not None:
            return getattr(torch, self.dtype)
        return torch.promote_types(y_pred.dtype, torch.float32)

    def _check_axis(self, rows: Tensor, index: Index | None) -> None:
        axes = self.axis if isinstance(self.axis, tuple | list) else () if self.axis is None else (self.axis,)
        if index is not None and not all(-(rows.ndim - 1) <= axis <= -1 for axis in axes):
            raise ArgumentError(
                f"axis={self.axis} of the loss {self.name!r} is no feature axis of masked outputs of "
                f"shape {(*index.grid, *rows.shape[1:])}. Count from the end: -1 is the last."
            )

    def _call_on_rows(self, targets: Tensor, rows: Tensor) -> Tensor:
        """What `call` says of the rows; nothing is asked about nothing."""
        n = len(rows)
        values = torch.as_tensor(self.call(targets, rows)) if n else rows.reshape(-1)
        if values.ndim and len(values) != n:
            raise ShapeError(
                f"The loss {self.name!r} returned shape {tuple(values.shape)} for {n} real rows of shape "
                f"{tuple(rows.shape)}. It must return one value per row, {(n,)} or {(n, '...')}, or a "
                f"scalar that stands for all of them."
            )
        return values if values.ndim else values.expand(n)

    def _per_sequence_values(self, given: Tensor | Packed, outputs: Tensor | Packed, sample_weight: Any) -> PerStepValues:
        index = outputs.index if isinstance(outputs, Packed) else None
        if isinstance(outputs, Packed):
            grid, mask = Packed(outputs.values, outputs.index).unpack(), outputs.mask  # zeros, not the fill
        else:
            grid, mask = outputs, torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
        targets = self._pad_targets(given, index)
        if len(targets) != len(grid):
            raise ShapeError(f"`y_true` has {len(targets)} sequences, the outputs {len(grid)}.")
        if targets.ndim == grid.ndim - 1 and grid.shape[-1] == 1:
            targets = targets.unsqueeze(-1)
        if targets.device.type == "cpu":
            self.check_targets(targets, grid)
        targets, grid = self.cast(to_device(targets, grid.device), grid)
        values, counted = self._call_on_sequences(targets, grid, mask, index)
        weight = None
        if sample_weight is not None:
            weight = broadcast_weights(sequence_weights(sample_weight, index, len(grid)), values)
        return PerStepValues(values, weight, counted)

    def _call_on_sequences(
        self, targets: Tensor, grid: Tensor, mask: Tensor, index: Index | None
    ) -> tuple[Tensor, Tensor | None]:
        """What `call` says of the sequences; those without a real step are not shown to it, and do not count."""
        here = np.ones(tuple(grid.shape[:2]), bool) if index is None else index.mask
        real = here.any(axis=tuple(range(1, here.ndim)))
        n, kept = int(real.sum()), to_device(np.flatnonzero(real), grid.device)
        if not n:
            return grid.flatten(1).sum(-1), torch.zeros(len(grid), dtype=torch.bool, device=grid.device)
        shown = (targets, grid, mask) if n == len(grid) else (targets[kept], grid[kept], mask[kept])
        values = torch.as_tensor(self.call(*shown[:2], **({"mask": shown[2]} if self.takes_mask else {})))
        if tuple(values.shape) not in ((), (n,)):
            raise ShapeError(
                f"The loss {self.name!r} sees whole sequences and must return one value for each, {(n,)}; "
                f"got shape {tuple(values.shape)}."
            )
        values = values.expand(n)
        if n == len(grid):
            return values, None
        return scatter_rows(values, kept, len(grid)), to_device(np.asarray(real), grid.device)

    def _pad_targets(self, given: Tensor | Packed, index: Index | None) -> Tensor:
        """Targets as a grid; those that stand on the outputs' steps show zeros where these are masked."""
        if index is None or not self.targets_share_mask:
            return given.unpack() if isinstance(given, Packed) else given
        if isinstance(given, Packed):
            same = given.index.shape[0] == index.shape[0] and (given.index.lengths == index.lengths).all()
            return Packed(given.values, index).unpack() if same else given.unpack()
        return pack(given, like=index).unpack() if tuple(given.shape[: len(index.grid)]) == index.grid else given


def has_mask_argument(function: Callable[..., Any]) -> bool:
    """Whether a function has an argument `mask`."""
    try:
        return "mask" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
