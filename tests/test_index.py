"""Which steps are real, against plain loops over the grid; and the moves, against torch's own indexing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from padless.errors import MaskError
from padless.ragged import mask as masks
from padless.ragged.gather import gather_rows, gather_rows_or_zero, permute_rows, scatter_rows
from padless.ragged.index import Index

CPU = torch.device("cpu")
FLAT = array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5)
grids = arrays(bool, FLAT)
deep_grids = arrays(bool, array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=3))


def cells(mask):
    """The real cells of a grid, row after row."""
    return [(row, step) for row in range(mask.shape[0]) for step in range(mask.shape[1]) if mask[row, step]]


def runs(mask):
    """The runs of masked steps: each as its row and its columns."""
    found = []
    for row, steps in enumerate(mask):
        for step, real in enumerate(steps):
            if not real and step and not steps[step - 1]:
                found[-1][1].append(step)
            elif not real:
                found.append((row, [step]))
    return found


@given(grids)
def test_steps_are_numbered_row_after_row_in_time_order(mask):
    index = Index(mask)
    real = cells(mask)
    assert index.num_steps == len(real) and index.shape == index.grid == mask.shape
    assert list(zip(index.rows, index.positions, strict=True)) == real
    assert index.lengths.tolist() == [int(row.sum()) for row in mask]
    assert index.offsets.tolist() == [sum(row.sum() for row in mask[:i]) for i in range(len(mask) + 1)]
    assert index.full == mask.all()
    np.testing.assert_array_equal(index.mask, mask)
    assert index.step_of_cell.tolist() == [real.index((i, j)) if mask[i, j] else -1 for i, j in np.ndindex(mask.shape)]


@given(grids)
def test_gaps_are_the_runs_of_masked_steps(mask):
    index, found, real = Index(mask), runs(mask), cells(mask)
    flat = [(row * mask.shape[1] + step, number) for number, (row, steps) in enumerate(found) for step in steps]
    assert index.num_gaps == len(found)
    assert list(zip(index.masked_cells.tolist(), index.gap_of_cell.tolist(), strict=True)) == flat
    assert index.row_of_gap.tolist() == [row for row, _ in found]
    assert index.first_cell_of_gap.tolist() == [row * mask.shape[1] + steps[0] for row, steps in found]
    before = [real.index((row, steps[0] - 1)) if steps[0] else -1 for row, steps in found]
    assert index.step_before_gap.tolist() == before


@given(grids, st.booleans())
def test_the_order_is_time_major_with_the_longest_first(mask, reverse):
    index = Index(mask)
    order = index.time_major_order(CPU, reverse)
    lengths = index.lengths
    rows = sorted(range(len(mask)), key=lambda row: -lengths[row])
    assert order.rows.tolist() == rows  # stable: equal lengths stay in place
    assert order.inverse_rows[order.rows].tolist() == list(range(len(mask)))
    walked = []
    for step in range(int(lengths.max(initial=0))):
        alive = [row for row in rows if lengths[row] > step]
        assert order.batch_sizes[step] == len(alive) and order.batch_starts[step] == len(walked)
        walked += [index.offsets[row] + (lengths[row] - 1 - step if reverse else step) for row in alive]
    assert order.to_time_major.tolist() == walked and order.batch_starts[-1] == len(walked) == index.num_steps
    assert order.to_packed[order.to_time_major].tolist() == list(range(index.num_steps))
    assert index.time_major_order(CPU, reverse) is order


@given(deep_grids)
def test_each_axis_beyond_two_is_an_outer_level(mask):
    index = Index.from_mask(mask, "me")
    assert index.grid == mask.shape and index.mask_source == "me"
    np.testing.assert_array_equal(index.mask, mask)
    level, inner = index.outer, mask
    while inner.ndim > 2:
        inner = inner.any(-1)
        assert level is not None
        np.testing.assert_array_equal(level.mask, inner)
        assert level.grid == inner.shape
        level = level.outer
    assert level is None
    places = index.coordinates(CPU)
    assert len(places) == mask.ndim
    for axis, found in zip(places, np.nonzero(mask), strict=True):
        assert axis.tolist() == found.tolist()


def test_an_outer_step_without_an_inner_one_is_masked():
    index = Index.from_mask(np.array([[[1, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=bool))
    assert index.shape == (4, 2) and index.outer.mask.tolist() == [[True, False], [False, False]]


@given(st.lists(st.integers(0, 4), max_size=5), st.integers(0, 3))
def test_lengths_are_padded_on_the_right(lengths, more):
    widest = max(lengths, default=0)
    index = Index.from_lengths(np.array(lengths, dtype=np.int64), widest + more)
    assert index.lengths.tolist() == lengths and index.grid == (len(lengths), widest + more)
    assert index.positions.tolist() == [step for length in lengths for step in range(length)]
    assert Index.from_lengths(np.array(lengths, dtype=np.int64)).grid == (len(lengths), widest)


@given(grids)
def test_arrays_are_copied_to_a_device_once(mask):
    index = Index(mask)
    for name in (
        "flat",
        "rows",
        "positions",
        "offsets",
        "lengths",
        "masked_cells",
        "gap_of_cell",
        "first_cell_of_gap",
        "step_before_gap",
    ):
        found = index.tensor(name, CPU)
        assert found is index.tensor(name, CPU) and found.dtype == torch.int64
        assert found.tolist() == getattr(index, name).tolist()
    assert index.tensor("flat", torch.device("meta")).device.type == "meta"


@given(deep_grids, st.data())
def test_equal_indexes_mark_the_same_steps_of_the_same_grid(mask, data):
    index = Index.from_mask(mask)
    assert index.equals(index) and index.equals(Index.from_mask(mask.copy(), "another"))
    if mask.size:
        other = mask.copy()
        other.flat[data.draw(st.integers(0, mask.size - 1))] ^= True
        assert not index.equals(Index.from_mask(other))
    assert not index.equals(Index.from_mask(np.zeros((*mask.shape[:-1], mask.shape[-1] + 1), dtype=bool)))


def test_the_same_cells_on_another_grid_are_not_equal():
    assert not Index(np.ones((2, 3), bool)).equals(Index(np.ones((3, 2), bool)))
    assert not Index(np.zeros((0, 3), bool)).equals(Index(np.zeros((0, 2), bool)))


@given(st.data())
def test_union_and_narrow_are_or_and_and(data):
    one = data.draw(deep_grids)
    two = data.draw(arrays(bool, one.shape))
    first, second = Index.from_mask(one, "one"), Index.from_mask(two, "two")
    both = masks.union(first, second)
    np.testing.assert_array_equal(both.mask, one | two)
    if (one == two).all():
        assert both is first
    else:
        assert both.mask_source == "one and two"
    narrowed = masks.intersect_with_mask(first, two, "two")
    np.testing.assert_array_equal(narrowed.mask, one & two)
    assert (narrowed is first) == bool((one & two == one).all())
    within = masks.step_numbers_in(narrowed, first)
    assert (within >= 0).all() and first.flat[within].tolist() == narrowed.flat.tolist()


@given(grids, st.data())
def test_a_grid_is_cut_as_numpy_cuts_it(mask, data):
    index = Index(mask)
    part = data.draw(st.sampled_from([np.s_[1:], np.s_[:, 1:3], np.s_[:, ::2], np.s_[:, ::-1], np.s_[::-1, :2]]))
    which = np.arange(mask.size).reshape(mask.shape)[part]
    found, steps, masked = masks.rearrange_index(index, which)
    np.testing.assert_array_equal(found.mask, mask[part])
    numbers = np.where(mask, 1, -1) * (1 + np.arange(mask.size).reshape(mask.shape))
    assert (1 + index.flat[steps]).tolist() == numbers[part][mask[part]].tolist()
    assert (-1 - index.masked_cells[masked]).tolist() == numbers[part][~mask[part]].tolist()


# ---------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("kind", [bool, np.int64, np.uint8, np.float32])
@pytest.mark.parametrize("container", [np.asarray, lambda a: torch.from_numpy(a), lambda a: a.tolist()])
def test_a_mask_comes_in_any_container(kind, container):
    mask = np.array([[1, 0, 1], [0, 0, 0]]).astype(kind)
    found = masks.as_mask(container(mask), (2, 3, 7))
    assert found.dtype == bool and found.tolist() == mask.astype(bool).tolist()


def test_a_mask_in_half_precision():
    assert masks.as_mask(torch.tensor([[1, 0]], dtype=torch.bfloat16)).tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.array([[0, 2]]), "2"),
        (np.array([[0.0, 0.5]]), "0.5"),
        (np.array([[0.0, np.nan]]), "nan"),
        (np.array([["a"]]), "<U1"),
        (np.zeros((0, 2), dtype="U1"), "<U1"),
        (np.ones(3, bool), r"\(3,\)"),
        ([[True], [True, False]], "unequal length"),
        (np.ones((2, 4), bool), r"\(2, 4\).*\(2, 3, 5\).*\(2, 3\)"),
        (np.ones((3, 3), bool), r"\(3, 3\)"),
        (np.ones((2, 3, 4), bool), r"\(2, 3, 4\)"),
        (np.ones((2, 3, 5, 1), bool), r"\(2, 3, 5, 1\)"),
    ],
)
def test_what_is_no_mask_of_this_grid_is_refused_with_what_is_wrong(mask, words):
    with pytest.raises(MaskError, match=words):
        masks.as_mask(mask, (2, 3, 5), "mask")


# ---------------------------------------------------------------------------------------------------- moves


@st.composite
def moved(draw):
    """Rows, and distinct numbers of some of them."""
    n = draw(st.integers(0, 5))
    chosen = draw(st.permutations(range(n)))[: draw(st.integers(0, n))]
    torch.manual_seed(n)
    return torch.randn(n, 2, dtype=torch.float64), torch.tensor(chosen, dtype=torch.int64)


@given(moved())
def test_take_and_place_are_gather_and_its_inverse(case):
    rows, chosen = case
    taken = gather_rows(rows, chosen)
    assert torch.equal(taken, rows[chosen])
    put = scatter_rows(taken, chosen, len(rows))
    there = torch.zeros(len(rows), dtype=torch.bool)
    there[chosen] = True
    assert torch.equal(put[there], rows[there]) and not put[~there].any()
    assert torch.equal(gather_rows(put, chosen), taken)
    with_nothing = gather_rows_or_zero(rows, torch.cat([chosen, torch.tensor([-1, -1])]))
    assert torch.equal(with_nothing, torch.cat([rows[chosen], torch.zeros(2, 2, dtype=torch.float64)]))


@settings(max_examples=15)
@given(moved())
def test_moves_are_differentiable_twice(case):
    rows, chosen = case
    rows.requires_grad_()
    order = torch.randperm(len(rows))
    back = torch.argsort(order)
    for function in (
        lambda x: gather_rows(x, chosen).sin(),
        lambda x: scatter_rows(x.sin(), torch.randperm(7, generator=torch.Generator().manual_seed(1))[: len(x)], 7),
        lambda x: permute_rows(x.sin(), order, back),
        lambda x: gather_rows_or_zero(x.sin(), torch.cat([chosen, torch.tensor([-1]), chosen])),
    ):
        assert torch.autograd.gradcheck(function, rows)
        assert torch.autograd.gradgradcheck(function, rows)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16])
def test_moves_take_any_dtype(dtype):
    rows = torch.tensor([[1], [0], [1]]).to(dtype)
    chosen = torch.tensor([2, 0])
    assert torch.equal(gather_rows(rows, chosen), rows[chosen])
    assert scatter_rows(rows[chosen], chosen, 3).tolist() == [[1], [0], [1]]


def test_the_orders_of_both_directions_are_kept_side_by_side():
    index, device = Index.from_lengths(np.array([3, 1])), torch.device("cpu")
    ahead, back = index.time_major_order(device), index.time_major_order(device, reverse=True)
    assert ahead.to_time_major.tolist() == [0, 3, 1, 2] and back.to_time_major.tolist() == [2, 3, 1, 0]
    assert index.time_major_order(device) is ahead and index.time_major_order(device, reverse=True) is back
