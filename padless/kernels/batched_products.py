"""Sum products of packed steps: over time, of each step with each other step, over inner steps.

The references compute one sequence at a time. The fast functions pad sequences of similar length to one block, as attention
does, and compute one matrix product for each block.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from padless.kernels.attention.grouped import RowGroup, attention_layout
from padless.kernels.segment_reduce import segment_sum
from padless.ragged.device import to_device
from padless.ragged.gather import gather_rows, gather_rows_or_zero, scatter_rows
from padless.ragged.index import Index, Ints


def products_over_time_by_row(
    first: Shaped[Tensor, "steps size"], second: Shaped[Tensor, "steps width"], index: Index
) -> Shaped[Tensor, "rows size width"]:
    """Compute `products_over_time`, one sequence at a time: the reference."""
    lengths = index.lengths.tolist()
    sums = [a.t() @ b for a, b in zip(first.split(lengths), second.split(lengths), strict=True)]
    return torch.stack(sums) if sums else first.new_zeros((0, first.shape[1], second.shape[1]))


def products_over_time(
    first: Shaped[Tensor, "steps size"], second: Shaped[Tensor, "steps width"], index: Index
) -> Shaped[Tensor, "rows size width"]:
    """Return for each sequence the products of each feature of `first` with each of `second`, summed over its steps."""
    layout = attention_layout(index, index, first.device)
    if not layout.groups:
        return _zeros(first, second, index.shape[0], first.shape[1], second.shape[1])
    first_blocks, second_blocks = layout.queries.pad(first[:, None]), layout.keys.pad(second[:, None])
    sums = [
        group.queries.heads_first(a)[:, 0].transpose(1, 2) @ group.keys.heads_first(b)[:, 0]
        for group, a, b in zip(layout.groups, first_blocks, second_blocks, strict=True)
    ]
    rows = torch.cat([group.rows_on(first.device) for group in layout.groups])
    return scatter_rows(torch.cat(sums), rows, index.shape[0])


def products_of_step_pairs_by_row(
    first: Shaped[Tensor, "n parts size"], second: Shaped[Tensor, "m others size"], queries: Index, keys: Index
) -> Shaped[Tensor, "cells parts others"]:
    """Compute `products_of_step_pairs`, one sequence at a time: the reference."""
    sequences = zip(first.split(queries.lengths.tolist()), second.split(keys.lengths.tolist()), strict=True)
    products = [torch.einsum("tpd,sqd->tspq", a, b).flatten(0, 1) for a, b in sequences]
    return torch.cat(products) if products else first.new_zeros((0, first.shape[1], second.shape[1]))


def products_of_step_pairs(
    first: Shaped[Tensor, "n parts size"], second: Shaped[Tensor, "m others size"], queries: Index, keys: Index
) -> Shaped[Tensor, "cells parts others"]:
    """Return the product of each step of `queries` with each step of `keys` in the same row, row after row."""
    layout = attention_layout(queries, keys, first.device)
    parts, others = first.shape[1], second.shape[1]
    if not layout.groups:
        return _zeros(first, second, 0, parts, others)
    cells = []
    for group, a, b in zip(layout.groups, layout.queries.pad(first), layout.keys.pad(second), strict=True):
        products = torch.einsum("nptd,nqsd->npqts", group.queries.heads_first(a), group.keys.heads_first(b))
        cells.append(group.real_cells(products.flatten(1, 2)))
    order = torch.argsort(layout.cells())
    return gather_rows(torch.cat(cells), order).unflatten(1, (parts, others))


def sums_over_inner_steps_by_row(
    weights: Shaped[Tensor, "cells parts"], values: Shaped[Tensor, "m size"], cells: Index, index: Index
) -> Shaped[Tensor, "steps parts size"]:
    """Compute `sums_over_inner_steps` by gathering a value for each cell: the reference."""
    outer = _outer_level(cells)
    rows = cells.rows // max(outer.shape[1], 1)
    steps = to_device(index.step_of_cell.reshape(index.shape)[rows, cells.positions], values.device)
    sums = segment_sum(weights[:, :, None] * gather_rows_or_zero(values, steps)[:, None], cells)
    return sums.index_select(0, outer.tensor("flat", values.device))


def sums_over_inner_steps(
    weights: Shaped[Tensor, "cells parts"], values: Shaped[Tensor, "m size"], cells: Index, index: Index
) -> Shaped[Tensor, "steps parts size"]:
    """Return for each outer step of `cells` the weighted sum of values over its inner steps.

    The inner step at column c of a sequence of row b is multiplied with the step of `index` at row b, column c. A step that
    is missing in `cells` or in `index` adds 0.
    """
    outer = _outer_level(cells)
    layout = attention_layout(outer, index, values.device)
    if not layout.groups:
        return _zeros(weights, values, outer.num_steps, weights.shape[1], values.shape[1])
    sums = []
    for group, block in zip(layout.groups, layout.keys.pad(values[:, None]), strict=True):
        numbers = _cell_numbers(group, cells, outer)
        grid = gather_rows_or_zero(weights, to_device(numbers.reshape(-1), values.device))
        grid = grid.reshape(*numbers.shape, weights.shape[1])  # (rows, T, S, parts)
        sums.append(torch.einsum("ntsp,nse->ntpe", grid, group.keys.heads_first(block)[:, 0]).flatten(0, 1))
    return layout.queries.unpad(torch.cat(sums))


def _outer_level(cells: Index) -> Index:
    """Return the outer level of an index that has two."""
    if cells.outer is None:
        raise ValueError("The index has one level; this function needs an index of documents of sentences.")
    return cells.outer


def _cell_numbers(group: RowGroup, cells: Index, outer: Index) -> Ints:
    """Return the number of the cell for each slot of a query and of a key, -1 for padding: `(rows, T, S)`."""
    rows = group.rows[:, None] * outer.shape[1] + group.queries.columns
    numbers = cells.step_of_cell[rows[:, :, None] * cells.shape[1] + group.keys.columns[:, None, :]]
    return np.where(group.is_real(), numbers, -1)


def l2_normalize_over_time(values: Float[Tensor, "steps *features"], index: Index) -> Float[Tensor, "steps *features"]:
    """Divide each feature by its L2 norm over the steps of its sequence, or by 1e-7 if the norm is smaller."""
    inverse_norm = segment_sum(values.square(), index).clamp(min=1e-14).rsqrt()
    return values * inverse_norm.index_select(0, index.tensor("rows", values.device))


def _zeros(first: Tensor, second: Tensor, *shape: int) -> Tensor:
    """Return zeros of a shape that depend on both tensors, so that both have a gradient of zeros."""
    zero = first[:0].flatten(1).sum(1, keepdim=True).t() @ second[:0].flatten(1).sum(1, keepdim=True)
    return zero.reshape(()).expand(shape)
