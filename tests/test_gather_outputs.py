"""Outputs of batches are joined in the container that the data came in."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from padless.data import Batching, EpochIterator, Examples
from padless.ragged.index import Index
from padless.ragged.packed import Packed
from padless.trainers.gather_outputs import gather_outputs


@st.composite
def packed_with_gaps(draw):
    """Draw a Packed with gaps, features and gap values, sometimes with an outer level."""
    shape = draw(st.sampled_from([(4, 5), (3, 1), (2, 3, 4), (5, 2, 1)]))
    mask = np.array(draw(st.lists(st.booleans(), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))))
    index = Index.from_mask(mask.reshape(shape))
    values, gap_values = torch.randn(index.num_steps, 2), torch.randn(index.num_gaps, 2)
    return Packed(values, index, draw(st.sampled_from([gap_values, None])))


@settings(deadline=None, max_examples=100)
@given(packed=packed_with_gaps(), size=st.integers(1, 3))
def test_gathered_outputs_of_all_batches_are_the_whole(packed, size):
    parts = [part.x for part in EpochIterator(Examples(packed), Batching(size)).epoch()]
    np.testing.assert_array_equal(gather_outputs(parts, "grid"), packed.numpy())
    whole = gather_outputs(parts, "packed")
    assert whole.index.equals(packed.index)
    np.testing.assert_array_equal(whole.numpy(), packed.numpy())
    for mine, theirs in zip(gather_outputs(parts, "list"), packed.sequences(), strict=True):
        np.testing.assert_array_equal(mine, theirs.numpy())


def test_dense_outputs_are_one_array_and_narrow_batches_get_zeros():
    assert gather_outputs([torch.ones(2, 3), torch.ones(1, 3)], "list").shape == (3, 3)
    assert gather_outputs([torch.ones(1, 1), torch.ones(1, 2)]).tolist() == [[1, 0], [1, 1]]
    assert gather_outputs([torch.ones(2), torch.ones(1)]).shape == (3,)
    assert gather_outputs([torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True)]).dtype == np.float32
    mixed = gather_outputs([torch.ones(1, dtype=torch.int64), torch.full((1,), 0.5)])
    assert mixed.dtype == np.float32 and mixed.tolist() == [1.0, 0.5]


def test_grids_of_different_width_dtype_and_gradient_are_joined():
    wide = Packed.from_sequences([[1.5, 2.0], [3.0]])
    half = Packed(wide.values.bfloat16(), wide.index)
    learns = Packed(wide.values.clone().requires_grad_(), wide.index)
    narrow = Packed.from_sequences([[4.0]])
    whole = gather_outputs([half, learns, wide, narrow], "grid")
    assert whole.dtype == np.float32 and whole.tolist() == [[1.5, 2.0], [3.0, 0.0]] * 3 + [[4.0, 0.0]]


def test_lists_of_outputs_include_batches_of_equal_lengths():
    parts = [torch.ones(2, 3), Packed.from_sequences([[1.0], [2.0, 3.0]])]
    assert [len(row) for row in gather_outputs(parts, "list")] == [3, 3, 1, 2]


def test_packed_outputs_of_different_widths_are_as_wide_as_the_widest():
    narrow = Packed(torch.ones(1), Index(np.array([[True, False]])), torch.full((1,), 7.0))
    wide = Packed(torch.ones(2), Index(np.array([[True, False, True]])), torch.full((1,), 8.0))
    assert gather_outputs([narrow, wide], "grid").tolist() == [[1, 7, 0], [1, 8, 1]]
    whole = gather_outputs([narrow, wide], "packed")
    assert whole.index.mask.tolist() == [[True, False, False], [True, False, True]] and whole.gap_values is None
