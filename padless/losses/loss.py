"""The base class of losses: values at the real steps, and their weighted sum.

    (y_true, y_pred, sample_weight) -> align_targets -> rows (N, ...) -> call -> PerStepValues -> WeightedSum (S, W)

Parts are the batches of an epoch, the micro-batches of a step, or the ranks of a job. A loss over several parts is the sum
of their S, divided once by the sum of their W. So it does not depend on the split.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from padless._threads import cached_property
from padless.errors import ArgumentError, ShapeError, unknown_name
from padless.kernels.fixed_order_sum import sum_in_fixed_order
from padless.ragged.alignment import (
    align_targets,
    broadcast_weights,
    check_given_lengths,
    host_copy_may_be_invalid,
    is_unweighted,
    sequence_weights,
    to_tensor,
    weight_rows,
)
from padless.ragged.device import to_device
from padless.ragged.gather import scatter_rows
from padless.ragged.index import Index, Ints
from padless.ragged.packed import Packed, pack_shared
from padless.registry import base_of, snake_case
from padless.types import ArrayLike, StepTensor

Reduction = Literal["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none"] | None
REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none")


@dataclass(frozen=True)
class WeightedSum:
    """A sum over real steps with its weight; the sums of all parts of a split add up to the sum of the whole.

    Attributes:
        sum: S, a scalar.
        weight: W, a scalar.
        adds_weights: Whether weights are added, too. False for the reduction "sum": its weight is always 1.

    Example:
        >>> (WeightedSum(torch.tensor(6.), 2.0) + WeightedSum(torch.tensor(3.), 1.0)).value
        tensor(3.)
    """

    sum: Tensor
    weight: Tensor | float
    adds_weights: bool = True

    def __add__(self, other: WeightedSum) -> WeightedSum:
        weight = self.weight + other.weight if self.adds_weights else self.weight
        return WeightedSum(self.sum + other.sum, weight, self.adds_weights)

    def __radd__(self, other: object) -> WeightedSum:
        return self if other == 0 else NotImplemented  # the built-in sum() begins with 0

    @property
    def value(self) -> Tensor:
        """S / W; 0 with a gradient of 0 if W is 0."""
        if not isinstance(self.weight, Tensor):
            return self.sum / self.weight if self.weight else self.sum * 0
        is_zero = self.weight == 0
        return torch.where(is_zero, 0, self.sum / torch.where(is_zero, 1, self.weight))


@dataclass(frozen=True)
class PerStepValues:
    """The values of a loss or metric at the real steps.

    Attributes:
        values: The values, `(N,)` or `(N, ...)`; of a loss of whole sequences `(B,)`.
        weight: Their sample weights, in the shape of `values`. None: 1 for each.
        count_mask: Which values count, in the shape of `values`. None: all.
        index: The index of the steps. None: the values are not of the steps of a grid.
    """

    values: Tensor
    weight: Tensor | None = None
    count_mask: Tensor | None = None
    index: Index | None = None

    @property
    def weighted_values(self) -> Tensor:
        """The values times their weights; 0 where a value does not count."""
        values = self.values if self.count_mask is None else torch.where(self.count_mask, self.values, 0)
        return values if self.weight is None else values * self.weight

    def reduce(self, reduction: Reduction, dtype: torch.dtype | None = None) -> WeightedSum:
        """Return the sum of the weighted values, with the weight of the reduction.

        Args:
            reduction: "sum": the weight is 1. "mean_with_sample_weight": the sum of the sample weights. Any other: the
                number of values that count.
            dtype: The dtype of the sums.
        """
        total = sum_in_fixed_order(self.weighted_values, dtype)
        if reduction == "sum":
            return WeightedSum(total, 1.0, adds_weights=False)
        if reduction == "mean_with_sample_weight" and self.weight is not None:
            weight = self.weight if self.count_mask is None else torch.where(self.count_mask, self.weight, 0)
            return WeightedSum(total, sum_in_fixed_order(weight, dtype))
        if self.count_mask is not None:
            return WeightedSum(total, self.count_mask.sum(dtype=total.dtype))
        return WeightedSum(total, float(self.values.numel()))

    @property
    def unreduced_values(self) -> StepTensor:
        """The weighted values; `Packed` if they are of the steps of a grid."""
        return self.weighted_values if self.index is None else Packed(self.weighted_values, self.index)


@base_of("loss", required=False)
class Loss:
    """The base class of losses, as `keras.losses.Loss`: define `call(y_true, y_pred)`.

    `call` gets the real steps only, as rows `(N, ...)` with at least one feature axis, in floating point. It returns
    `(N,)`, `(N, ...)`, or a scalar that is the value of each row. With an argument `mask`, or `relation = "sequence"`, it
    gets the padded grids instead, with zeros at masked steps, and returns one value for each sequence, `(B,)`.

    Args:
        name: The name. Default: the name of the class in snake case.
        reduction: "sum_over_batch_size" or "mean" divide the sum by the number of values at real steps.
            "mean_with_sample_weight" divides by the sum of their weights. "sum" does not divide. "none" or None return
            the values.
        dtype: The dtype of the computation, such as "float32". Default: that of the outputs, at least float32.

    Raises:
        ArgumentError: `reduction` or `dtype` is unknown.

    Example:
        >>> from padless import pack
        >>> class Squares(Loss):
        ...     def call(self, y_true, y_pred):
        ...         return (y_true - y_pred).square().mean(-1)
        >>> Squares()([[1, 2, 0]], pack(torch.zeros(1, 3), mask=[[1, 1, 0]]))
        tensor(2.5000)
    """

    relation: ClassVar[Literal["stepwise", "sequence"]] = "stepwise"
    targets_share_mask: ClassVar[bool] = True  # targets on the grid of the outputs have the mask of the outputs
    known_violations: ClassVar[Mapping[str, str]] = {}  # properties of padless.testing that do not hold, and why
    combines_features: bool = False  # whether a plain output `(D,)` is one row, whose features give one value
    axis: int | Sequence[int] | None = -1  # the feature axes that `call` reduces; None: all

    call: Callable[..., Tensor]  # a subclass defines it: call(y_true, y_pred), or with `mask`

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

    def __call__(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> Tensor:
        """Return the loss of one batch.

        Args:
            y_true: Targets: `Packed`, a padded grid `(B, T, ...)`, or a list of sequences.
            y_pred: Outputs: `Packed`, or a plain tensor whose steps are all real unless `y_true` comes as sequences.
            sample_weight: Weights of sequences `(B,)` or `(B, 1)`, or of steps `(B, T)`.

        Returns:
            A scalar. If `reduction` is None, the weighted values: `Packed` if `y_pred` is, else a tensor.

        Raises:
            ShapeError: Targets or weights do not fit the outputs.
            DataError: A target is not valid, such as a class id that is too large.
        """
        values = self.per_step_values(y_true, y_pred, sample_weight)
        if self.reduction in (None, "none"):
            return values.unreduced_values  # pyright: ignore[reportReturnType] - a Packed only if reduction is None
        return values.reduce(self.reduction).value

    def weighted_sum(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> WeightedSum:
        """Return the sum and the weight of one batch, to be added to those of other batches.

        The arguments and errors are those of `__call__`.

        Raises:
            ArgumentError: The loss has no reduction.
        """
        if self.reduction in (None, "none"):
            raise ArgumentError(
                f"The loss {self.name!r} has reduction={self.reduction!r}, so it has no total to train "
                f"on. Use reduction='sum' or leave the default."
            )
        return self.per_step_values(y_true, y_pred, sample_weight).reduce(self.reduction)

    def per_step_values(self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None) -> PerStepValues:
        """Return the values at the real steps with their weights. The arguments and errors are those of `__call__`."""
        if self.reads_whole_sequences:
            return self._per_sequence_values(to_tensor(y_true, "y_true"), to_tensor(y_pred, "y_pred"), sample_weight)
        targets, rows, index = align_targets(y_true, y_pred, self.combines_features)
        self._check_axis(rows, index)
        weights = None if sample_weight is None else weight_rows(sample_weight, index)
        valid_targets = self.weighted_targets(targets, rows, weights)
        if targets.device.type == "cpu" or host_copy_may_be_invalid(y_true):  # else a check would wait for the device
            self.check_targets(valid_targets, rows)
        cast_targets, cast_rows = self.cast(to_device(valid_targets, rows.device), rows)
        values = self._call_on_rows(cast_targets, cast_rows)
        weight = None if weights is None else broadcast_weights(weights, values)
        if valid_targets is not targets:  # a missing label does not count, even if its weight is 0
            cast_targets, _ = self.cast(to_device(targets, rows.device), rows)
        return PerStepValues(values, weight, self.count_mask(cast_targets, values) if len(values) else None, index)

    @property
    def reads_whole_sequences(self) -> bool:
        """Whether `call` gets padded grids, not rows."""
        return self.relation == "sequence" or self.takes_mask

    @cached_property  # read for every batch
    def takes_mask(self) -> bool:
        """Whether `call` has an argument `mask`."""
        return has_mask_argument(self.call)

    def check_targets(self, y_true: Tensor, y_pred: Tensor) -> None:
        """Raise `DataError` if a target is not valid. It is called for targets on the CPU."""

    def check_sequences(self, y_true: Tensor, lengths: Ints) -> None:
        """Raise `DataError` if the targets `(B, ...)` of whole sequences do not fit the numbers of their real steps `(B,)`.

        It is called for targets on the CPU, by `fit` for all data before training if the lengths of the outputs are known.
        """

    def replace_targets(self, y_true: Tensor, y_pred: Tensor, is_replaced: Tensor) -> Tensor:
        """Return targets without NaN and infinity where `is_replaced`: their weight is 0, so any valid target will do.

        Other targets stay, because `call` may compare rows.
        """
        return torch.where(is_replaced & ~y_true.isfinite(), 1, y_true) if y_true.is_floating_point() else y_true

    def weighted_targets(self, targets: Tensor, outputs: Tensor, weights: Tensor | None) -> Tensor:
        """Return targets of which those of weight 0 are valid, whatever they were: 0 times NaN would be NaN."""
        if weights is None:
            return targets
        unweighted = is_unweighted(weights, targets)
        if targets.device.type == "cpu" and not unweighted.any():
            return targets
        return self.replace_targets(targets, outputs, unweighted)

    def cast(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        """Return both in the dtype of the loss, else in that of the outputs, at least float32."""
        y_pred = y_pred.to(self._dtype_for(y_pred))
        return y_true.to(y_pred.dtype), y_pred

    def count_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        """Return which values count, as booleans in their shape; None if all do."""
        return None

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        config = {"name": self.name, "reduction": self.reduction}
        return config if self.dtype is None else {**config, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the loss with this config."""
        return cls(**config)

    def _dtype_for(self, y_pred: Tensor) -> torch.dtype:
        """Return the dtype of the computation for these outputs."""
        if self.dtype is not None:
            return getattr(torch, self.dtype)
        return torch.promote_types(y_pred.dtype, torch.float32)

    def _check_axis(self, rows: Tensor, index: Index | None) -> None:
        """Raise `ArgumentError` if `axis` is not a feature axis of masked outputs."""
        if index is None or self.axis is None:
            return
        axes = self.axis if isinstance(self.axis, Sequence) else [self.axis]
        if not all(-(rows.ndim - 1) <= axis <= -1 for axis in axes):
            raise ArgumentError(
                f"axis={self.axis} of the loss {self.name!r} is not a feature axis of masked outputs of "
                f"shape {(*index.grid, *rows.shape[1:])}. Count from the end: -1 is the last."
            )

    def _call_on_rows(self, targets: Tensor, rows: Tensor) -> Tensor:
        """Return the values of the rows; without rows, `call` is not called."""
        count = len(rows)
        values = torch.as_tensor(self.call(targets, rows)) if count else rows.reshape(-1)
        if values.ndim and len(values) != count:
            raise ShapeError(
                f"The loss {self.name!r} returned shape {tuple(values.shape)} for {count} real rows of shape "
                f"{tuple(rows.shape)}. It must return one value per row, {(count,)} or {(count, '...')}, or a "
                f"scalar that is the value of each row."
            )
        return values if values.ndim else values.expand(count)

    def _per_sequence_values(self, y_true: StepTensor, y_pred: StepTensor, sample_weight: ArrayLike | None) -> PerStepValues:
        """Return one value for each sequence, `(B,)`."""
        if isinstance(y_pred, Packed):
            index, mask = y_pred.index, y_pred.mask
            grid = Packed(y_pred.values, index).unpack()  # without gap values: zeros at masked steps
        else:
            index, grid = None, y_pred
            mask = torch.ones(grid.shape[:2], dtype=torch.bool, device=grid.device)
        targets = self._pad_targets(y_true, index)
        if len(targets) != len(grid):
            raise ShapeError(f"`y_true` has {len(targets)} sequences, the outputs {len(grid)}.")
        if targets.ndim == grid.ndim - 1 and grid.shape[-1] == 1:
            targets = targets.unsqueeze(-1)
        weights = None if sample_weight is None else sequence_weights(sample_weight, index, len(grid))
        targets = self.weighted_targets(targets, grid, weights)
        if targets.device.type == "cpu" or host_copy_may_be_invalid(y_true):
            self.check_targets(targets, grid)
        if targets.device.type == "cpu":
            self.check_sequences(targets, np.full(len(grid), grid.shape[1]) if index is None else index.lengths)
        targets, grid = self.cast(to_device(targets, grid.device), grid)
        values, count_mask = self._call_on_sequences(targets, grid, mask, index)
        weight = None if weights is None else broadcast_weights(weights, values)
        return PerStepValues(values, weight, count_mask)

    def _call_on_sequences(
        self, targets: Tensor, grid: Tensor, mask: Tensor, index: Index | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the values `(B,)` and which of them count; `call` gets only sequences with a real step."""
        host_mask = np.ones(tuple(grid.shape[:2]), bool) if index is None else index.mask
        nonempty = host_mask.any(axis=tuple(range(1, host_mask.ndim)))
        count = int(nonempty.sum())
        if not count:
            return grid.flatten(1).sum(-1), torch.zeros(len(grid), dtype=torch.bool, device=grid.device)
        rows = to_device(np.flatnonzero(nonempty), grid.device)
        if count < len(grid):
            targets, selected_grid, mask = targets[rows], grid[rows], mask[rows]
        else:
            selected_grid = grid
        keywords = {"mask": mask} if self.takes_mask else {}
        values = torch.as_tensor(self.call(targets, selected_grid, **keywords))
        if tuple(values.shape) not in ((), (count,)):
            raise ShapeError(
                f"The loss {self.name!r} sees whole sequences and must return one value for each, {(count,)}; "
                f"got shape {tuple(values.shape)}."
            )
        values = values.expand(count)
        if count == len(grid):
            return values, None
        return scatter_rows(values, rows, len(grid)), to_device(np.asarray(nonempty), grid.device)

    def _pad_targets(self, y_true: StepTensor, index: Index | None) -> Tensor:
        """Return the targets as a grid; those on the steps of the outputs have zeros at masked steps."""
        if index is None or not self.targets_share_mask:
            return y_true.unpack() if isinstance(y_true, Packed) else y_true
        if isinstance(y_true, Packed):
            same_batch = y_true.index.shape[0] == index.shape[0]
            same_lengths = same_batch and (y_true.index.lengths == index.lengths).all()
            if same_lengths:
                return Packed(y_true.values, index).unpack()
            check_given_lengths(y_true.index.lengths, index, "y_true")
            return y_true.unpack()
        has_same_grid = tuple(y_true.shape[: len(index.grid)]) == index.grid
        return pack_shared(y_true, like=index).unpack() if has_same_grid else y_true


def has_mask_argument(function: Callable[..., object]) -> bool:
    """Return whether a function has an argument `mask`."""
    try:
        return "mask" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
