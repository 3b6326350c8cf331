"""Sums of products of packed steps: over time, of every step with every other, over inner steps.

The references go row by row. The fast paths lay rows of like lengths side by side, as attention does: one product of
matrices for each group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from padless.kernels.attention.grouped import RowGroup, plan_of
from padless.kernels.segment_reduce import total
from padless.ragged.device import to_device
from padless.ragged.gather import gather_rows, gather_rows_or_zero, scatter_rows
from padless.ragged.index import Index


def over_time_by_row(
    first: Shaped[Tensor, "steps size"], second: Shaped[Tensor, "steps width"], index: Index
) -> Shaped[Tensor, "rows size width"]:
    """The reference of `over_time`."""
    lengths = index.lengths.tolist()
    sums = [a.t() @ b for a, b in zip(first.split(lengths), second.split(lengths), strict=True)]
    return torch.stack(sums) if sums else first.new_zeros((0, first.shape[1], second.shape[1]))


def over_time(
    first: Shaped[Tensor, "steps size"], second: Shaped[Tensor, "steps width"], index: Index
) -> Shaped[Tensor, "rows size width"]:
    """For each sequence the sum over its steps of the products of all features of one with all of the other."""
    plan = plan_of(index, index, first.device)
    if not plan.groups:
        return _nothing(first, second, index.shape[0], first.shape[1], second.shape[1])
    a, b = plan.queries.pad(first[:, None]), plan.keys.pad(second[:, None])
    sums = [
        group.queries.heads_first(of_a)[:, 0].transpose(1, 2) @ group.keys.heads_first(of_b)[:, 0]
        for group, of_a, of_b in zip(plan.groups, a, b, strict=True)
    ]
    return scatter_rows(torch.cat(sums), _rows(plan.groups, first.device), index.shape[0])


def of_pairs_by_row(
    first: Shaped[Tensor, "n parts size"], second: Shaped[Tensor, "m others size"], queries: Index, keys: Index
) -> Shaped[Tensor, "cells parts others"]:
    """The reference of `of_pairs`."""
    sides = zip(first.split(queries.lengths.tolist()), second.split(keys.lengths.tolist()), strict=True)
    sums = [torch.einsum("tpd,sqd->tspq", a, b).flatten(0, 1) for a, b in sides]
    return torch.cat(sums) if sums else first.new_zeros((0, first.shape[1], second.shape[1]))


def of_pairs(
    first: Shaped[Tensor, "n parts size"], second: Shaped[Tensor, "m others size"], queries: Index, keys: Index
) -> Shaped[Tensor, "cells parts others"]:
    """The product of each step of `queries` with each step of `keys` in the same row, row after row."""
    plan = plan_of(queries, keys, first.device)
    parts, others = first.shape[1], second.shape[1]
    if not plan.groups:
        return _nothing(first, second, 0, parts, others)
    a, b = plan.queries.pad(first), plan.keys.pad(second)
    cells = []
    for group, of_a, of_b in zip(plan.groups, a, b, strict=True):
        sums = torch.einsum("nptd,nqsd->npqts", group.queries.heads_first(of_a), group.keys.heads_first(of_b))
        cells.append(group.real_cells(sums.flatten(1, 2)))
    order = torch.argsort(plan.cells())
    return gather_rows(torch.cat(cells), order).unflatten(1, (parts, others))


def over_inner_by_row(
    weights: Shaped[Tensor, "cells parts"], values: Shaped[Tensor, "m size"], cells: Index, index: Index
) -> Shaped[Tensor, "steps parts size"]:
    """The reference of `over_inner`: each cell meets its step, if that is real."""
    outer: Any = cells.outer
    rows = cells.rows // max(outer.shape[1], 1)
    found = to_device(index.step_of_cell.reshape(index.shape)[rows, cells.positions], values.device)
    sums = total(weights[:, :, None] * gather_rows_or_zero(values, found)[:, None], cells)
    return sums.index_select(0, outer.tensor("flat", values.device))


def over_inner(
    weights: Shaped[Tensor, "cells parts"], values: Shaped[Tensor, "m size"], cells: Index, index: Index
) -> Shaped[Tensor, "steps parts size"]:
    """For each outer step of `cells` the sum over its inner steps: a weight of each times the value of that number.

    The inner steps of row b stand for the steps of row b of `index`; one that is missing on either side adds nothing.
    """
    outer: Any = cells.outer
    plan = plan_of(outer, index, values.device)
    if not plan.groups:
        return _nothing(weights, values, outer.num_steps, weights.shape[1], values.shape[1])
    laid = plan.keys.pad(values[:, None])
    sums = []
    for group, part in zip(plan.groups, laid, strict=True):
        numbers = _cells_of(group, cells, outer)
        grid = gather_rows_or_zero(weights, to_device(numbers.reshape(-1), values.device))
        grid = grid.reshape(*numbers.shape, weights.shape[1])  # (n, T, S, parts)
        sums.append(torch.einsum("ntsp,nse->ntpe", grid, group.keys.heads_first(part)[:, 0]).flatten(0, 1))
    return plan.queries.unpad(torch.cat(sums))


def _cells_of(group: RowGroup, cells: Index, outer: Index) -> np.ndarray:
    """For each slot of a query and each of a key the number of that cell, -1 where it is not real: `(n, T, S)`."""
    rows = group.numbers[:, None] * outer.shape[1] + group.queries.index
    found = cells.step_of_cell[rows[:, :, None] * cells.shape[1] + group.keys.index[:, None, :]]
    return np.where(group.real(), found, -1)


def normalized(values: Float[Tensor, "steps *features"], index: Index) -> Float[Tensor, "steps *features"]:
    """Each sequence divided by its length as a vector, feature by feature; what is shorter than 1e-7 by that."""
    inverse = total(values.square(), index).clamp(min=1e-14).rsqrt()
    return values * inverse.index_select(0, index.tensor("rows", values.device))


def _nothing(first: Tensor, second: Tensor, *shape: int) -> Tensor:
    """Zeros of a shape; nothing goes into them, and gradients are 0 all the same."""
    empty = first[:0].flatten(1).sum(1, keepdim=True).t() @ second[:0].flatten(1).sum(1, keepdim=True)
    return empty.reshape(()).expand(shape)


def _rows(groups: list[RowGroup], device: torch.device) -> Tensor:
    return torch.cat([group.rows(device) for group in groups])
