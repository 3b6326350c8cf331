"""Index against plain loops over the grid, masks in every container, and gathers and scatters against torch's indexing."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from concurrency import run_in_threads
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
    """Return the real cells of a grid, row by row."""
    return [(row, step) for row in range(mask.shape[0]) for step in range(mask.shape[1]) if mask[row, step]]


def runs(mask):
    """Return the runs of masked steps, each as its row and its columns."""
    gaps = []
    for row, steps in enumerate(mask):
        for step, real in enumerate(steps):
            if not real and step and not steps[step - 1]:
                gaps[-1][1].append(step)
            elif not real:
                gaps.append((row, [step]))
    return gaps


@given(grids)
def test_steps_are_numbered_row_by_row_in_time_order(mask):
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
    index, gaps, real = Index(mask), runs(mask), cells(mask)
    flat = [(row * mask.shape[1] + step, number) for number, (row, steps) in enumerate(gaps) for step in steps]
    assert index.num_gaps == len(gaps)
    assert list(zip(index.masked_cells.tolist(), index.gap_of_cell.tolist(), strict=True)) == flat
    assert index.row_of_gap.tolist() == [row for row, _ in gaps]
    assert index.first_cell_of_gap.tolist() == [row * mask.shape[1] + steps[0] for row, steps in gaps]
    steps_before = [real.index((row, steps[0] - 1)) if steps[0] else -1 for row, steps in gaps]
    assert index.step_before_gap.tolist() == steps_before


@given(grids, st.booleans())
def test_the_order_is_time_major_with_the_longest_first(mask, reverse):
    index = Index(mask)
    order = index.time_major_order(CPU, reverse)
    lengths = index.lengths
    rows = sorted(range(len(mask)), key=lambda row: -lengths[row])
    assert order.rows.tolist() == rows  # stable: rows of equal length keep their order
    assert order.inverse_rows[order.rows].tolist() == list(range(len(mask)))
    expected = []
    for step in range(int(lengths.max(initial=0))):
        alive = [row for row in rows if lengths[row] > step]
        assert order.batch_sizes[step] == len(alive) and order.batch_starts[step] == len(expected)
        expected += [index.offsets[row] + (lengths[row] - 1 - step if reverse else step) for row in alive]
    assert order.to_time_major.tolist() == expected and order.batch_starts[-1] == len(expected) == index.num_steps
    assert order.to_packed[order.to_time_major].tolist() == list(range(index.num_steps))
    assert index.time_major_order(CPU, reverse) is order


@given(deep_grids)
def test_each_axis_beyond_two_is_an_outer_level(mask):
    index = Index.from_mask(mask, "the test")
    assert index.grid == mask.shape and index.mask_source == "the test"
    np.testing.assert_array_equal(index.mask, mask)
    level, inner = index.outer, mask
    while inner.ndim > 2:
        inner = inner.any(-1)
        assert level is not None
        np.testing.assert_array_equal(level.mask, inner)
        assert level.grid == inner.shape
        level = level.outer
    assert level is None
    coordinates = index.coordinates(CPU)
    assert len(coordinates) == mask.ndim
    for axis, expected in zip(coordinates, np.nonzero(mask), strict=True):
        assert axis.tolist() == expected.tolist()


def test_an_outer_step_without_an_inner_one_is_masked():
    index = Index.from_mask(np.array([[[1, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=bool))
    assert index.shape == (4, 2) and index.outer.mask.tolist() == [[True, False], [False, False]]


@given(st.lists(st.integers(0, 4), max_size=5), st.integers(0, 3))
def test_lengths_are_padded_on_the_right(lengths, extra):
    widest = max(lengths, default=0)
    index = Index.from_lengths(np.array(lengths, dtype=np.int64), widest + extra)
    assert index.lengths.tolist() == lengths and index.grid == (len(lengths), widest + extra)
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
        tensor = index.tensor(name, CPU)
        assert tensor is index.tensor(name, CPU) and tensor.dtype == torch.int64
        assert tensor.tolist() == getattr(index, name).tolist()
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
def test_union_is_or_and_intersection_is_and(data):
    one = data.draw(deep_grids)
    two = data.draw(arrays(bool, one.shape))
    first, second = Index.from_mask(one, "one"), Index.from_mask(two, "two")
    both = masks.union(first, second)
    np.testing.assert_array_equal(both.mask, one | two)
    if (one == two).all():
        assert both is first
    else:
        assert both.mask_source == "one and two"
    common = masks.intersect_with_mask(first, two, "two")
    np.testing.assert_array_equal(common.mask, one & two)
    assert (common is first) == bool((one & two == one).all())
    numbers = masks.step_numbers_in(common, first)
    assert (numbers >= 0).all() and first.flat[numbers].tolist() == common.flat.tolist()


@given(grids, st.data())
def test_cells_are_rearranged_as_numpy_slices_a_grid(mask, data):
    index = Index(mask)
    part = data.draw(st.sampled_from([np.s_[1:], np.s_[:, 1:3], np.s_[:, ::2], np.s_[:, ::-1], np.s_[::-1, :2]]))
    chosen_cells = np.arange(mask.size).reshape(mask.shape)[part]
    new_index, steps, masked = masks.rearrange_index(index, chosen_cells)
    np.testing.assert_array_equal(new_index.mask, mask[part])
    numbers = np.where(mask, 1, -1) * (1 + np.arange(mask.size).reshape(mask.shape))
    assert (1 + index.flat[steps]).tolist() == numbers[part][mask[part]].tolist()
    assert (-1 - index.masked_cells[masked]).tolist() == numbers[part][~mask[part]].tolist()


# ---------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("kind", [bool, np.int64, np.uint8, np.float32])
@pytest.mark.parametrize("container", [np.asarray, lambda a: torch.from_numpy(a), lambda a: a.tolist()])
def test_any_container_of_0_and_1_is_a_mask(kind, container):
    mask = np.array([[1, 0, 1], [0, 0, 0]]).astype(kind)
    result = masks.as_mask(container(mask), (2, 3, 7))
    assert result.dtype == bool and result.tolist() == mask.astype(bool).tolist()


def test_a_tensor_of_bfloat16_is_a_mask():
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
def test_an_invalid_mask_is_refused_and_the_message_names_the_fault(mask, words):
    with pytest.raises(MaskError, match=words):
        masks.as_mask(mask, (2, 3, 5), "mask")


# ---------------------------------------------------------------------------------------------------- gather and scatter


@st.composite
def rows_and_numbers(draw):
    """Draw rows, and distinct numbers of some of them."""
    num_rows = draw(st.integers(0, 5))
    row_numbers = draw(st.permutations(range(num_rows)))[: draw(st.integers(0, num_rows))]
    torch.manual_seed(num_rows)
    return torch.randn(num_rows, 2, dtype=torch.float64), torch.tensor(row_numbers, dtype=torch.int64)


@given(rows_and_numbers())
def test_scatter_is_the_inverse_of_gather(case):
    rows, row_numbers = case
    gathered = gather_rows(rows, row_numbers)
    assert torch.equal(gathered, rows[row_numbers])
    scattered = scatter_rows(gathered, row_numbers, len(rows))
    is_written = torch.zeros(len(rows), dtype=torch.bool)
    is_written[row_numbers] = True
    assert torch.equal(scattered[is_written], rows[is_written]) and not scattered[~is_written].any()
    assert torch.equal(gather_rows(scattered, row_numbers), gathered)
    with_zeros = gather_rows_or_zero(rows, torch.cat([row_numbers, torch.tensor([-1, -1])]))
    assert torch.equal(with_zeros, torch.cat([rows[row_numbers], torch.zeros(2, 2, dtype=torch.float64)]))


@settings(max_examples=15)
@given(rows_and_numbers())
def test_gather_and_scatter_are_differentiable_twice(case):
    rows, row_numbers = case
    rows.requires_grad_()
    order = torch.randperm(len(rows))
    inverse = torch.argsort(order)
    for function in (
        lambda x: gather_rows(x, row_numbers).sin(),
        lambda x: scatter_rows(x.sin(), torch.randperm(7, generator=torch.Generator().manual_seed(1))[: len(x)], 7),
        lambda x: permute_rows(x.sin(), order, inverse),
        lambda x: gather_rows_or_zero(x.sin(), torch.cat([row_numbers, torch.tensor([-1]), row_numbers])),
    ):
        assert torch.autograd.gradcheck(function, rows)
        assert torch.autograd.gradgradcheck(function, rows)


def test_gather_and_scatter_accept_any_dtype():
    row_numbers = torch.tensor([2, 0])
    for dtype in (torch.bool, torch.int64, torch.bfloat16):
        rows = torch.tensor([[1], [0], [1]]).to(dtype)
        assert torch.equal(gather_rows(rows, row_numbers), rows[row_numbers])
        assert scatter_rows(rows[row_numbers], row_numbers, 3).tolist() == [[1], [0], [1]]


def test_the_orders_of_both_directions_are_cached():
    index, device = Index.from_lengths(np.array([3, 1])), torch.device("cpu")
    forward, reverse = index.time_major_order(device), index.time_major_order(device, reverse=True)
    assert forward.to_time_major.tolist() == [0, 3, 1, 2] and reverse.to_time_major.tolist() == [2, 3, 1, 0]
    assert index.time_major_order(device) is forward and index.time_major_order(device, reverse=True) is reverse


# ---------------------------------------------------------------------------------------------------- threads


def in_eight_threads(function):
    """Call a function with the number of the thread in eight threads that start together, and return the errors."""
    results = run_in_threads([functools.partial(function, number) for number in range(8)])
    return [result for result in results if isinstance(result, BaseException)]


@pytest.mark.slow
def test_eight_threads_may_ask_for_dense_indexes_of_many_shapes():
    def ask(number):
        random = np.random.default_rng(number)
        for batch, steps in random.integers(1, 9, (20000, 2)).tolist():
            assert Index.dense(batch, steps).shape == (batch, steps)

    assert in_eight_threads(ask) == []


def test_eight_threads_may_share_and_copy_an_index():
    for seed in range(20):
        index = Index(np.random.default_rng(seed).random((4, 6)) < 0.5)

        def use(number, index=index):
            for _ in range(5):
                index.time_major_order(CPU, reverse=number % 2 == 0)
                for name in ("flat", "rows", "positions", "lengths", "gap_of_cell", "cell_source"):
                    assert index.tensor(name, CPU).tolist() == getattr(index, name).tolist()
                assert copy.deepcopy(index).equals(index) and pickle.loads(pickle.dumps(index)).equals(index)

        assert in_eight_threads(use) == []
