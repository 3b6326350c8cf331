"""Packed, pack and unpack: the round trip, every container, fewer and more steps, and errors."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch.utils import _pytree

import padless
from padless import Index, Packed, pack, unpack
from padless.errors import DataError, MaskError, ShapeError


@st.composite
def cases(draw, levels=2):
    """Draw a grid of random numbers and a mask."""
    mask = draw(arrays(bool, array_shapes(min_dims=2, max_dims=levels, min_side=0, max_side=4)))
    feature_shape = draw(st.sampled_from([(), (3,), (2, 3)]))
    torch.manual_seed(mask.size)
    return torch.randn(*mask.shape, *feature_shape, dtype=torch.float64), mask


def with_gap_values(mask, feature_shape=(), seed=0):
    """Return a Packed with random values and gap values."""
    index = Index.from_mask(mask)
    generator = torch.Generator().manual_seed(seed)
    return Packed(
        torch.randn(index.num_steps, *feature_shape, generator=generator),
        index,
        torch.randn(index.num_gaps, *feature_shape, generator=generator),
    )


# ---------------------------------------------------------------------------------------------------- round trip


@given(cases(levels=3))
def test_unpack_of_pack_is_the_grid_at_real_steps_and_padding_elsewhere(case):
    x, mask = case
    h = pack(x, mask=mask)
    assert tuple(h.shape) == tuple(x.shape) and h.ndim == x.ndim and h.dtype == x.dtype and len(h) == len(x)
    assert h.values.shape == (mask.sum(), *x.shape[mask.ndim :])
    for grid, padding in ((unpack(h), 0), (h.unpack(padding=7), 7)):
        assert torch.equal(grid[mask], x[mask]) and (grid[~mask] == padding).all()
    assert torch.equal(h.mask, torch.from_numpy(mask)) and torch.equal(pack(unpack(h), like=h).values, h.values)
    assert torch.equal(unpack(x), x)


@given(cases(levels=3), st.sampled_from(["none", "gaps", "cells"]))
def test_unpack_into_overwrites_the_whole_grid(case, gap_values):
    x, mask = case
    h = pack(x, mask=mask)
    count = {"none": None, "gaps": h.index.num_gaps, "cells": len(h.index.masked_cells)}[gap_values]
    h = h if count is None else h.with_values(h.values, torch.randn(count, *h.values.shape[1:], dtype=x.dtype))
    grid = torch.full((2, *x.shape), float("nan"), dtype=x.dtype)
    h.unpack_into(grid[1])
    assert torch.equal(grid[1], h.unpack()) and grid[0].isnan().all()


@given(cases())
def test_the_grid_shows_the_gap_values_in_gaps(case):
    x, mask = case
    h = pack(x, mask=mask)
    gap_values = torch.randn(h.index.num_gaps, *x.shape[2:], dtype=x.dtype)
    grid = h.with_values(h.values, gap_values).unpack()
    gap = -1
    for row, step in np.ndindex(mask.shape):
        gap += not mask[row, step] and (step == 0 or mask[row, step - 1])
        assert torch.equal(grid[row, step], x[row, step] if mask[row, step] else gap_values[gap])


@given(cases())
def test_iteration_gives_the_sequences_and_they_can_be_packed_again(case):
    x, mask = case
    h = pack(x, mask=mask)
    for row, sequence in enumerate(h):
        assert torch.equal(sequence, x[row][mask[row]])
    assert h.lengths.tolist() == mask.sum(1).tolist()
    if len(x):
        again = Packed.from_sequences(list(h))
        assert torch.equal(again.values, h.values) and torch.equal(again.lengths, h.lengths)
        assert torch.equal(unpack(pack(again, like=h)), unpack(h))  # at the columns of the mask


@given(cases())
def test_masked_steps_have_no_effect_and_no_gradient(case):
    x, mask = case
    dirty = x.clone()
    dirty[~mask] = torch.nan
    dirty.requires_grad_()
    assert torch.equal(pack(dirty, mask=mask).values, x[mask])
    pack(dirty, mask=mask).unpack().sum().backward()
    assert dirty.grad[mask].eq(1).all() and dirty.grad[~mask].eq(0).all()


@pytest.mark.slow
def test_pack_and_unpack_are_differentiable_twice():
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    gap_values = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    mask = np.array([[1, 0, 1], [0, 1, 1]], bool)

    def function(x, gap_values):
        h = pack(x, mask=mask)
        return h.with_values(h.values.sin(), gap_values.cos()).unpack()

    assert torch.autograd.gradcheck(function, (x, gap_values))
    assert torch.autograd.gradgradcheck(function, (x, gap_values))


# ---------------------------------------------------------------------------------------------------- containers

GRID = [[1, 2, 9], [3, 9, 9]]
REAL = [1, 2, 3]


@pytest.mark.parametrize("container", [np.array, torch.tensor, list])
@pytest.mark.parametrize(
    "arguments",
    [
        {"mask": [[1, 1, 0], [1, 0, 0]]},
        {"mask": np.array([[True, True, False], [True, False, False]])},
        {"mask": torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])},
        {"mask": pack([[True, True], [True]]).pad_to_width(3)},
        {"lengths": [2, 1]},
        {"lengths": np.array([2, 1])},
        {"lengths": torch.tensor([2, 1])},
        {"like": pack([[0, 0], [0]]).pad_to_width(3)},
        {"like": pack([[0, 0], [0]]).pad_to_width(3).index},
    ],
)
def test_every_container_with_every_argument_that_marks_real_steps(container, arguments):
    h = pack(container(GRID), **arguments)
    assert h.values.tolist() == REAL and h.index.grid == (2, 3) and h.dtype == torch.int64


def test_without_such_an_argument_every_step_of_a_grid_is_real():
    h = pack(np.ones((2, 3, 4)))
    assert h.index.full and h.values.shape == (6, 4) and "every step" in h.index.mask_source


def test_lists_of_sequences_in_any_mixture():
    h = pack([[1, 2], np.array([3]), torch.tensor([], dtype=torch.int64), (4, 5)])
    assert h.values.tolist() == [1, 2, 3, 4, 5] and h.lengths.tolist() == [2, 1, 0, 2] and h.dtype == torch.int64
    features = pack([np.zeros((2, 3)), np.zeros((0, 3)), np.ones((1, 3))])
    assert features.values.shape == (3, 3) and features.index.grid == (3, 2)
    assert pack([[], []]).index.grid == (2, 0) and pack([]).index.grid == (0, 0)


def test_python_floats_have_the_default_dtype_and_arrays_keep_theirs():
    assert pack([[1.0], [2.0, 3.0]]).dtype == torch.float32
    assert pack([np.array([1.0])]).dtype == pack(np.ones((1, 2))).dtype == torch.float64
    assert Packed.from_sequences([[1], [2]], dtype=torch.float16).dtype == torch.float16
    assert Packed.from_sequences([torch.tensor([1])], dtype=torch.float16).dtype == torch.float16


def test_arrays_that_torch_cannot_share_are_copied():
    fixed = np.broadcast_to(np.array([1.0, 2.0]), (3, 2))
    assert pack(fixed, lengths=[2, 0, 1]).values.tolist() == [1.0, 2.0, 1.0]
    assert pack(np.arange(6).reshape(2, 3)[:, ::-1], lengths=[1, 1]).values.tolist() == [2, 5]
    assert pack([fixed[0], fixed[1][::-1]]).values.tolist() == [1.0, 2.0, 2.0, 1.0]


# ---------------------------------------------------------------------------------------------------- other steps


@given(st.data())
def test_a_mask_on_a_packed_keeps_the_steps_of_both(data):
    x, mask = data.draw(cases(levels=3))
    other = data.draw(arrays(bool, mask.shape))
    h = pack(x, mask=mask)
    common = pack(h, mask=other)
    assert torch.equal(common.values, x[mask & other])
    assert (common is h) == bool((mask & ~other).sum() == 0)
    assert torch.equal(pack(h, like=common).values, common.values)  # by position in the grid


def test_a_mask_of_the_outer_level_removes_whole_inner_sequences():
    h = pack(torch.arange(12.0).reshape(2, 3, 2), mask=np.ones((2, 3, 2), bool))
    assert pack(h, mask=np.array([[1, 0, 1], [0, 0, 0]], bool)).values.tolist() == [0, 1, 4, 5]


@given(st.data())
def test_more_steps_are_read_from_the_gap_values(data):
    mask = data.draw(arrays(bool, array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=4)))
    larger = mask | data.draw(arrays(bool, mask.shape))
    h = with_gap_values(mask, (2,))
    assert torch.equal(h.reindex(Index.from_mask(larger)).values, unpack(h)[larger])
    one_row_per_cell = Packed(h.values, h.index, torch.randn(len(h.index.masked_cells), 2))
    assert torch.equal(one_row_per_cell.reindex(Index.from_mask(larger)).values, unpack(one_row_per_cell)[larger])


def test_more_steps_without_gap_values_are_refused_with_row_and_step():
    h = pack(torch.ones(2, 3), lengths=[3, 1])
    with pytest.raises(MaskError, match="step 2 of row 1.*created|step 2 of row 1.*lengths"):
        h.reindex(Index(np.array([[1, 0, 0], [1, 0, 1]], bool)))
    with pytest.raises(MaskError, match=r"\(2, 4\).*\(2, 3\)"):
        h.reindex(Index(np.ones((2, 4), bool)))


@given(st.data())
def test_a_rearranged_grid_shows_the_same_cells(data):
    mask = data.draw(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5)))
    h = with_gap_values(mask, (2,))
    part = data.draw(st.sampled_from([np.s_[1:], np.s_[:, 1:3], np.s_[:, ::2], np.s_[:, ::-1], np.s_[1:, 1::3]]))
    chosen_cells = np.arange(mask.size).reshape(mask.shape)[part]
    expected = h.numpy()[part]
    exact = h.rearrange_cells(chosen_cells, every_cell=True)
    np.testing.assert_array_equal(exact.numpy(), expected)
    one_row_per_cell = Packed(h.values, h.index, h.gap_values_per_cell())
    if len(h.index.masked_cells) > h.index.num_gaps:  # else these are gap values of gaps
        np.testing.assert_array_equal(one_row_per_cell.rearrange_cells(chosen_cells).numpy(), expected)
    default = h.rearrange_cells(chosen_cells)
    assert default.gap_values.shape[0] == default.index.num_gaps
    for gap in range(default.index.num_gaps):  # a gap joined from gaps with different values shows 0
        rows = exact.gap_values_per_cell()[default.index.gap_of_cell == gap]
        same = (rows == rows[0]).all()
        assert torch.equal(default.gap_values[gap], rows[0] if same else torch.zeros(2))
    assert h.with_values(h.values).rearrange_cells(chosen_cells).gap_values is None


def test_a_wider_grid_has_the_same_steps():
    h = pack([[1, 2], [3]])
    assert h.pad_to_width(4).unpack().tolist() == [[1, 2, 0, 0], [3, 0, 0, 0]]
    assert h.pad_to_width(2) is h and h.pad_to_width(1) is h


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pack(np.ones(3)), ShapeError, r"\(3,\)"),
        (lambda: pack(np.ones((2, 3)), mask=np.ones((2, 4))), MaskError, r"\(2, 4\).*\(2, 3\)"),
        (lambda: pack(np.ones((2, 3)), mask=np.ones((2, 3, 1))), MaskError, r"\(2, 3, 1\)"),
        (lambda: pack(np.ones((2, 3)), mask=np.ones(2)), MaskError, r"\(2,\)"),
        (lambda: pack(np.ones((1, 3)), mask=[[0, 1, 2]]), MaskError, "2"),
        (lambda: pack(np.ones((2, 3)), lengths=[3, 4]), ShapeError, "4"),
        (lambda: pack(np.ones((2, 3)), lengths=[-1, 0]), ShapeError, "-1"),
        (lambda: pack(np.ones((2, 3)), lengths=[1]), ShapeError, r"2 integers.*\[1\]"),
        (lambda: pack(np.ones((2, 3)), lengths=[0.5, 1]), ShapeError, "0.5"),
        (lambda: pack(np.ones((2, 3)), mask=np.ones((2, 3)), lengths=[1, 1]), MaskError, "more than one"),
        (lambda: pack(np.ones((2, 3)), like=pack(np.ones((2, 4)))), ShapeError, r"\(2, 3\).*\(2, 4\)"),
        (lambda: pack([[1, 2], [3]], like=pack([[1], [2]])), ShapeError, "row 0 has 2 steps, expected 1"),
        (lambda: pack([[1]], like=pack([[1], [2]])), ShapeError, "row 1 has no steps, expected 1"),
        (lambda: pack([[1, 2], [3]], like=pack([[1, 2], [3]], lengths=[1, 1])), ShapeError, "row 0 has 2"),
        (lambda: pack([[[1, 2], [3]], [[4]]]), ShapeError, "Sequence 0"),
        (lambda: pack([np.zeros((1, 2)), np.zeros((1, 3))]), ShapeError, r"\(2,\), \(3,\)"),
        (lambda: pack([["a"]]), DataError, "Sequence 0.*<U1"),
        (lambda: Packed.from_sequences([1, 2]), ShapeError, "scalars"),
        (lambda: Packed(torch.ones(3), Index(np.ones((2, 2), bool))), ShapeError, r"4 real steps.*\(3,\)"),
        (lambda: Packed(torch.ones(()), Index(np.zeros((0, 2), bool))), ShapeError, r"\(\)"),
    ],
)
def test_invalid_arguments_are_refused_with_their_values(make, error, words):
    with pytest.raises(error, match=words):
        make()


# ---------------------------------------------------------------------------------------------------- as an object


@pytest.fixture
def h():
    return with_gap_values(np.array([[1, 0, 1], [0, 0, 1]], bool), (2,))


def same(one, two):
    assert (
        torch.equal(one.values, two.values) and torch.equal(one.gap_values, two.gap_values) and one.index.equals(two.index)
    )


def test_it_is_a_pytree_with_keys(h):
    keyed_leaves, _ = _pytree.tree_flatten_with_path(h)
    assert [_pytree.keystr(path) for path, _ in keyed_leaves] == [".values", ".gap_values"]
    assert keyed_leaves[0][1] is h.values and keyed_leaves[1][1] is h.gap_values
    leaves, spec = _pytree.tree_flatten(h)
    assert leaves[0] is h.values and leaves[1] is h.gap_values
    assert _pytree.tree_unflatten(leaves, spec).index is h.index
    doubled = _pytree.tree_map(lambda x: x * 2, {"a": [h]})["a"][0]
    assert torch.equal(doubled.values, h.values * 2) and torch.equal(doubled.gap_values, h.gap_values * 2)
    assert _pytree.tree_map(lambda x: None, h).values is None  # leaves need not be tensors


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_it_can_be_copied(h, copied):
    h.index.tensor("flat", h.device)  # is cached
    other = copied(h)
    same(h, other)
    assert other is not h and torch.equal((other + h).values, 2 * h.values)


def test_a_deep_copy_shares_nothing(h):
    other = copy.deepcopy(h)
    other.values.zero_()
    other.index.flat[:] = 0
    assert h.values.abs().sum() > 0 and h.index.flat.tolist() == [0, 2, 5]


def test_its_mask_and_lengths_are_copies(h):
    h.mask.zero_()
    h.lengths.zero_()
    assert h.mask.sum() == 3 and h.lengths.tolist() == [2, 1]


def test_it_looks_like_a_grid(h):
    assert repr(h) == "Packed(shape=(2, 3, 2), 3 real steps, torch.float32, cpu)"
    assert len(h) == 2 and [tuple(s.shape) for s in h] == [(2, 2), (1, 2)]
    assert h.size() == h.shape == (2, 3, 2) and h.size(-1) == 2 and h.dim() == h.ndim == 3 and h.num_step_axes == 2
    assert h.device.type == "cpu" and not h.requires_grad and h.with_values(h.values.requires_grad_()).requires_grad
    assert h.to(torch.float64).dtype == h.to(torch.float64).gap_values.dtype == torch.float64


def test_numpy_gets_the_grid_and_arithmetic_with_arrays_is_packed(h):
    grid = h.unpack().numpy()
    np.testing.assert_array_equal(np.asarray(h), grid)
    np.testing.assert_array_equal(np.array(h, dtype=np.float64), grid.astype(np.float64))
    column = np.array([[[2.0]], [[3.0]]], dtype=np.float32)
    for product in (h * column, column * h, h * np.float32(2), np.float32(2) * h, np.array(2.0) * h):
        assert isinstance(product, Packed)
    np.testing.assert_allclose((column * h).numpy(), grid * column)
    np.testing.assert_allclose((column - h).numpy(), column - grid)
    np.testing.assert_allclose((column / h).numpy(), column / grid, rtol=1e-5)
    with pytest.raises(TypeError):
        np.add(column, h)  # a ufunc would lose the mask


def test_its_truth_is_ambiguous(h):
    with pytest.raises(TypeError, match="ambiguous"):
        bool(h)
    with pytest.raises(TypeError, match="ambiguous"):
        bool(h == h)


def test_attributes_that_a_tensor_does_not_have_as_methods_are_refused(h):
    with pytest.raises(AttributeError, match="'Packed' object has no attribute 'foo'"):
        _ = h.foo
    with pytest.raises(AttributeError):
        _ = h.T
    with pytest.raises(TypeError):
        h[0] = 1


def test_the_names_are_public():
    assert padless.pack is pack and padless.Packed is Packed and padless.Index is Index
