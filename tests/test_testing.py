"""The laws as functions, for the layers of others: what is wrong is found, named and made small."""

import numpy as np
import pytest
import torch

from padless import layers as L
from padless.errors import ArgumentError
from padless.ragged.packed import Packed
from padless.testing import LawBroken, check_layer, check_loss, check_metric, labels, random_masks, special_masks
from padless.testing.check import smallest
from padless.training import losses


class Leak(L.Layer):
    """Promises to treat each step alone, and does not."""

    stepwise = True

    def call(self, inputs):
        return inputs - inputs.mean(1, keepdim=True)


class Grid(L.Layer):
    """Looks at the padded grid and forgets that it is padded."""

    def call(self, inputs, mask=None):
        return inputs.sum(1) / max(inputs.shape[1], 1)

    def compute_mask(self, inputs, mask=None):
        return None


class Softmax(L.Layer):
    """Looks at the padded grid and honours the mask."""

    def call(self, inputs, mask=None):
        if mask is not None:
            inputs = torch.where(mask[..., None], inputs.unpack(), -1e30)
        return torch.softmax(inputs, 1)

    def compute_mask(self, inputs, mask=None):
        return mask


class Forgetful(L.Layer):
    """Its config lacks an argument."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return {"name": self.name}


class Mates(L.Layer):
    """Its outputs depend on who else is in the batch, as said."""

    breaks = {"presence": "statistics of the batch", "independence": "statistics of the batch"}
    relation = "stepwise"

    def call(self, inputs):
        values = inputs.values if isinstance(inputs, Packed) else inputs
        mean = values.mean() if values.numel() else 0.0
        return inputs - mean


@pytest.mark.parametrize(("layer", "law", "example"), [
    (Leak(name="leak"), "presence: Leak 'leak'", "[[1], [1]]"),
    (Grid(), "presence: ", "[[1, 0]]"),
    (Forgetful(2.0), "round trip: ", "[[1]]"),
])
def test_a_broken_law_is_named_with_the_smallest_example(layer, law, example):
    with pytest.raises(LawBroken) as broken:
        check_layer(layer, (2,))
    assert str(broken.value).startswith(law)
    assert f"Smallest mask: {example}." in str(broken.value) or law.startswith("round trip")


def test_a_layer_that_looks_at_the_grid_and_honours_the_mask_passes():
    check_layer(Softmax(), (2,))


def test_a_layer_that_declares_what_it_breaks_passes():
    check_layer(Mates(), (2,))
    with pytest.raises(LawBroken, match="presence"):
        check_layer(type("Silent", (Mates,), {"breaks": {}})(), (2,))


def test_a_declaration_needs_a_known_law_and_a_reason():
    with pytest.raises(ArgumentError, match="reason"):
        check_layer(L.Dense(2), breaks={"presence": ""})
    with pytest.raises(ArgumentError, match="Did you mean 'presence'"):
        check_layer(L.Dense(2), breaks={"presense": "no"})


def test_the_layer_that_is_checked_stays_as_it_was():
    layer = L.Dense(2)
    before = layer(torch.ones(1, 2, 3))
    check_layer(layer, masks=1)
    assert layer(torch.ones(1, 2, 3)).equal(before)
    assert layer.kernel.dtype == torch.float32


def test_random_numbers_go_on_as_if_nothing_had_been_checked():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    check_layer(L.Dropout(0.5), masks=1)
    assert torch.rand(3).equal(expected)


class Padded(losses.Loss):
    """A loss that divides by the width of the grid."""

    def call(self, y_true, y_pred, mask):
        return ((y_true - y_pred).square().sum(-1) * mask).sum(-1) / mask.shape[1]


def test_losses_and_metrics_are_checked():
    check_loss("mse", masks=1)
    check_metric(lambda y_true, y_pred: (y_true - y_pred).abs().mean(-1), masks=1)
    with pytest.raises(LawBroken, match="presence"):
        check_loss(Padded())


def test_draws_stay_within_their_kind():
    assert set(labels(3)(torch.Generator().manual_seed(0), (4, 50)).unique().tolist()) == {0, 1, 2}


def test_special_masks_have_the_shapes_on_which_padding_goes_wrong():
    masks = special_masks().values()
    steps = {int(mask.sum()) for mask in masks}
    assert {0, 1} <= steps
    assert any(mask.shape[1] == 1 for mask in masks) and any(mask.shape[1] == 0 for mask in masks)
    assert any(mask.any() and not mask.any(1).all() for mask in masks)  # an empty row beside others
    for name, first in (("right", True), ("left", False)):
        lengths = special_masks()[name].sum(1)
        width = special_masks()[name].shape[1]
        assert (special_masks()[name] == [[(t < n) if first else (t >= width - n) for t in range(width)]
                                          for n in lengths]).all()
    assert len(list(random_masks(5))) == 5


def test_shrinking_ends_where_nothing_can_be_taken_away():
    def law(mask):
        if mask.any(1).sum() > 1:
            raise LawBroken("two rows")

    mask, _ = smallest(law, special_masks()["holes"], LawBroken("two rows"))
    assert mask.astype(int).tolist() == [[1], [1]]
    assert isinstance(mask, np.ndarray)
